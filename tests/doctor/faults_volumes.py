"""Single faults in a tree of NIfTI volumes."""

from __future__ import annotations

from functools import partial

import numpy as np
from helpers_planted import (
    GRID,
    Fault,
    affine,
    all_of,
    copy,
    cut,
    nothing,
    organs,
    patch_header,
    remove,
    replace_everywhere,
    revolume,
    scan,
)

LABEL, SCAN = "train/masks/v02.nii", "train/images/v02.nii"

VOLUMES = [
    Fault("clean", nothing, []),
    Fault("undeclared value", revolume(LABEL, lambda: organs(2) * 2), [("error", "undeclared value", LABEL)]),
    Fault(
        "0 and 255 where 0 and 1 is declared",
        revolume(LABEL, lambda: ((organs(2) == 1) * 255).astype(np.uint8)),
        [("error", "undeclared value", LABEL)],
        "undeclared value 255",
    ),
    Fault(
        "label that was interpolated",
        revolume(LABEL, lambda: organs(2) * np.float32(0.9)),
        [("error", "undeclared value", LABEL)],
        "no whole number",
    ),
    Fault(
        "other size",
        revolume(LABEL, lambda: organs(2)[:-1]),
        [("error", "size mismatch", LABEL)],
        "Resample the label",
    ),
    Fault("four axes", revolume(SCAN, lambda: np.stack([scan(2)] * 2, -1)), [("error", "channels", SCAN)]),
    Fault(
        "image and label in different places",
        revolume(LABEL, partial(organs, 2), affine(-1, 1, 1)),
        [("error", "orientation", LABEL)],
        "lie in different places",
    ),
    Fault(
        "image and label are both turned",
        all_of(
            revolume(LABEL, partial(organs, 2), affine(-1, 1, 1)), revolume(SCAN, partial(scan, 2), affine(-1, 1, 1))
        ),
        [("warning", "mixed orientation", SCAN)],
        "its axes are LAS, those of the rest RAS",
    ),
    Fault(
        "label without orientation",
        lambda root: patch_header(root / LABEL, sform_code=0, qform_code=0),
        [("error", "orientation", LABEL)],
        "sform_code and qform_code are 0",
    ),
    Fault(
        "image without orientation",
        lambda root: patch_header(root / SCAN, sform_code=0, qform_code=0),
        [("error", "orientation", SCAN)],
    ),
    Fault(
        "label with an affine of zeros",
        lambda root: patch_header(root / LABEL, srow_x=0, srow_y=0, srow_z=0),
        [("error", "non-invertible affine", LABEL)],
    ),
    Fault(
        "flat image",
        lambda root: patch_header(root / SCAN, srow_z=0),
        [("error", "non-invertible affine", SCAN)],
    ),
    Fault(
        "empty volume",
        revolume(LABEL, lambda: np.zeros(GRID, dtype=np.uint8)),
        [("warning", "empty volume", LABEL)],
        "none of its 6 slices shows liver, spleen, kidney",
    ),
    Fault(
        "gap in the label values", lambda root: replace_everywhere(root, 2, 1), [("warning", "unused label", "spleen")]
    ),
    Fault(
        "NaN",
        revolume(SCAN, lambda: np.where(organs(2) == 1, np.nan, scan(2)).astype(np.float32)),
        [("error", "not finite", SCAN)],
    ),
    Fault("truncated image", cut(SCAN, 700), [("error", "unreadable", SCAN)]),
    Fault("truncated label", cut(LABEL, 700), [("error", "unreadable", LABEL)]),
    Fault(
        "both truncated",
        all_of(cut(LABEL, 700), cut(SCAN, 700)),
        [("error", "unreadable", SCAN), ("error", "unreadable", LABEL)],
    ),
    Fault("missing mask", remove(LABEL), [("error", "missing mask", SCAN)]),
    Fault("missing image", remove(SCAN), [("error", "missing image", LABEL)]),
    Fault(
        "copy in another split",
        copy("val/images/v08.nii", SCAN),
        [("error", "duplicate image", SCAN)],
        "train/images/v02.nii (train) = val/images/v08.nii (val): the same files",
    ),
    Fault(
        "the same voxels, in another file of the split",
        all_of(remove(SCAN), revolume(SCAN + ".gz", partial(scan, 3))),
        [("warning", "duplicate image", SCAN + ".gz")],
        "the same pixels",
    ),
]
