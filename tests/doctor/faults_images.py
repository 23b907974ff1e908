"""Single faults in trees of images: folders with raters, with label values, with patients; REFUGE."""

from __future__ import annotations

from functools import partial

import numpy as np
from helpers_planted import (
    Fault,
    all_of,
    as_jpeg,
    as_palette,
    change,
    copy,
    cup,
    cut,
    disc,
    nothing,
    photo,
    remove,
    rewrite,
    save,
    tagged,
)
from PIL import Image
from trees_fundus import nested, save_eye

CUP = "train/masks/cup/bob/e02.png"
MASK = "train/masks/e02.png"

RATED = [
    Fault("clean", nothing, []),
    Fault(
        "undeclared value",
        change(CUP, to=[7]),
        [("error", "undeclared value", CUP)],
        "undeclared value 7",
    ),
    Fault("jpeg mask", as_jpeg(CUP), [("error", "jpeg mask", CUP.replace("png", "jpg"))], "dataset.release.threshold"),
    Fault("colour mask", rewrite(CUP, partial(photo, 2)), [("error", "colour mask", CUP)]),
    Fault(
        "palette mask that can be read",
        as_palette(CUP, {0: 0, 255: 1}),
        [("warning", "palette mask", CUP)],
        "1 is (255, 0, 0)",
    ),
    Fault("palette mask that cannot", as_palette(CUP, {0: 0, 255: 4}), [("error", "palette mask", CUP)]),
    Fault(
        "other size",
        rewrite(CUP, lambda: cup(2, (20, 31)) * 255),
        [("error", "size mismatch", CUP)],
        "train/images/e02.png is 30×20, train/masks/cup/bob/e02.png is 31×20",
    ),
    Fault(
        "EXIF rotation of the image alone",
        tagged("val/images/e07.png", 6),
        [("error", "EXIF rotation", "val/images/e07.png")],
        "is turned by its EXIF tag 6, and val/masks/cup/ann/e07.png has no EXIF rotation",
    ),
    Fault(
        "EXIF rotation with masks drawn upright",
        tagged("val/images/e07.png", 6, turn=1),
        [("warning", "EXIF rotation", "val/images/e07.png")],
    ),
    Fault(
        "inverted mask",
        rewrite(CUP, lambda: ~cup(2) * 255),
        [("warning", "inverted mask", CUP)],
        f"{CUP}: cup covers all four corners and 97% of the pixels",
    ),
    Fault(
        "a large object that leaves a corner",
        rewrite(CUP, lambda: (np.arange(600) < 599).reshape(20, 30) * 255),
        [],
    ),
    Fault(
        "a small object in all corners",
        rewrite(CUP, lambda: np.pad(np.zeros((18, 28)), 1, constant_values=255)),
        [],
    ),
    Fault("truncated image", cut("test/images/e11.png", 300), [("error", "unreadable", "test/images/e11.png")]),
    Fault("mask that is no image", cut(CUP, 0), [("error", "unreadable", CUP)], "unpack or download it again"),
    Fault(
        "two damaged masks of one case",
        all_of(cut(CUP, 20), change("train/masks/disc/ann/e02.png", to=[9, 8])),
        [("error", "undeclared value", "train/masks/disc/ann/e02.png"), ("error", "unreadable", CUP)],
    ),
    Fault("missing rater", remove(CUP), [("error", "missing rater", "train/images/e02.png")], "masks/cup/bob"),
    Fault(
        "missing image",
        remove("test/images/e11.png"),
        [("error", "missing image", f"test/masks/{s}/{r}/e11.png") for s in ("cup", "disc") for r in ("ann", "bob")],
        "no image e11",
    ),
    Fault(
        "copy of an image in its split",
        copy("train/images/e01.png", "train/images/e04.png"),
        [("warning", "duplicate image", "train/images/e01.png")],
        "train/images/e01.png (train) = train/images/e04.png (train): the same files",
    ),
    Fault(
        "copy of an image in another split",
        copy("train/images/e01.png", "test/images/e11.png"),
        [("error", "duplicate image", "test/images/e11.png")],
        "the same files",
    ),
    Fault(
        "the same pixels in another file of the split",
        rewrite("train/images/e04.png", partial(photo, 1), compress_level=1),
        [("warning", "duplicate image", "train/images/e01.png")],
        "the same pixels",
    ),
    Fault(
        "the same pixels in another file of another split",
        lambda root: Image.fromarray(photo(1)).save(root / "val/images/e08.png", compress_level=1),
        [("error", "duplicate image", "train/images/e01.png")],
        "train/images/e01.png (train) = val/images/e08.png (val): the same pixels",
    ),
    Fault(
        "copy of an image whose mask is damaged",
        all_of(copy("train/images/e02.png", "test/images/e11.png"), cut(CUP, 20)),
        [("error", "duplicate image", "test/images/e11.png"), ("error", "unreadable", CUP)],
    ),
    Fault(
        "no case of a split shows it",
        all_of(
            *(
                rewrite(f"val/masks/cup/{rater}/e0{number}.png", lambda: np.zeros((20, 30)))
                for rater in ("ann", "bob")
                for number in (7, 8)
            )
        ),
        [("warning", "unused label", "cup")],
        "no case of val shows cup",
    ),
]

PATIENTS = [
    Fault("clean", nothing, []),
    Fault(
        "patient in two splits",
        lambda root: [path.rename(path.with_name("e00b.png")) for path in root.glob("val/**/e07.png")],
        [("error", "patient in two splits", "e00")],
        "patient e00 is in train and val",
    ),
]

VALUED = [
    Fault("clean", nothing, []),
    Fault("undeclared value", change(MASK, to=[4]), [("error", "undeclared value", MASK)], "undeclared value 4"),
    Fault(
        "0 and 255 where 0 and 1 is declared",
        rewrite(MASK, lambda: disc(2) * 255),
        [("error", "undeclared value", MASK)],
        "The object is written as 255",
    ),
    Fault(
        "gap in the label values",
        lambda root: [
            save(path, np.where((m := np.asarray(Image.open(path))) == 2, 1, m)) for path in root.glob("*/masks/*")
        ],
        [("warning", "unused label", "spleen")],
        "no case shows spleen",
    ),
    Fault("missing mask", remove(MASK), [("error", "missing mask", "train/images/e02.png")]),
    Fault("palette mask", as_palette(MASK, {0: 0, 1: 1, 2: 2, 3: 3}), [("warning", "palette mask", MASK)]),
]

EYE = "Annotation-Training400/Disc_Cup_Masks/Glaucoma/g0001.bmp"
OFFICIAL = [
    Fault("clean", nothing, []),
    Fault(
        "inverted order",
        lambda root: save(root / EYE, nested(0, (0, 128, 255))),
        [("error", "inverted order", EYE)],
        "dataset.release.inverted=true",
    ),
    Fault(
        "the same eye in two splits",
        lambda root: (
            save_eye(root / "Test400/g0001.jpg", 77),
            save(root / "REFUGE-Test-GT/Disc_Cup_Masks/G/g0001.bmp", nested(77, (255, 128, 0))),
        ),
        [("error", "duplicate id", "g0001"), ("error", "patient in two splits", "g0001")],
    ),
]
SEVEN = "Training-400/g0002/g0002"
MULTI_RATER = [
    Fault("clean", nothing, []),
    Fault(
        "missing rater",
        remove(f"{SEVEN}_seg_cup_3.png"),
        [("error", "missing rater", "Training-400/g0002")],
        "1 of 3 raters missing",
    ),
    Fault("missing image", remove(f"{SEVEN}.jpg"), [("error", "missing image", "Training-400/g0002")]),
]
