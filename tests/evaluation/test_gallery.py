"""Every case and structure in one small file: what is kept, how large, and what a damaged file says."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medsam2.data.batch import Batch
from medsam2.data.clip_batch import Clip, ClipBatch
from medsam2.data.prepared import nearest
from medsam2.evaluation.evaluator import Evaluator
from medsam2.evaluation.gallery import Gallery, Thumbnails, load_gallery, save_gallery
from medsam2.evaluation.metrics import Mask
from medsam2.methods.base import Method, Prediction
from tests.evaluation.test_scoring import SHAPE, batch_of, object_of, slices_of

SIDE = 32
EMPTY = np.zeros(SHAPE, dtype=bool)


def disc(height: int, width: int, centre: tuple[float, float], radius: float) -> Mask:
    rows, columns = np.mgrid[:height, :width]
    inside: Mask = np.hypot(rows - centre[0] * height, columns - centre[1] * width) < radius
    return inside


def quarters(channels: int, kind: torch.dtype, side: int = SIDE) -> Tensor:
    """Dark, but for the top right quarter; of a colour image this is red."""
    image = torch.zeros(channels, side, side)
    image[0, : side // 2, side // 2 :] = 1.0
    white = {torch.uint8: 255, torch.uint16: 65535, torch.float32: 1}[kind]
    return (image * white).to(torch.int32).to(kind) if white > 1 else image


class Given(Method):
    """Answers with given logits, whatever the batch."""

    def __init__(self, logits: np.ndarray[Any, Any]) -> None:
        super().__init__(nn.Identity())
        self.logits = torch.from_numpy(logits).float()[:, None]

    def predict(self, batch: Any) -> Any:
        return Prediction(self.logits, torch.ones(len(self.logits)), batch.objects)


def see(thumbnails: Thumbnails, batch: Any, predicted: np.ndarray[Any, Any]) -> None:
    method = Given(np.where(predicted, 5.0, -5.0))
    Evaluator(["dice"]).evaluate(method, [batch], "test", "cpu", nullcontext, witnesses=[thumbnails])


def kept(thumbnails: Thumbnails, folder: Path) -> Gallery:
    save_gallery(thumbnails, folder / "gallery.npz")
    assert [file.name for file in folder.iterdir()] == ["gallery.npz"]
    return load_gallery(folder / "gallery.npz")


def cases_of(batch: Batch, images: list[Tensor], case_ids: list[str]) -> Batch:
    return replace(batch, images=torch.stack(images), case_ids=case_ids)


def test_two_structures_of_two_cases_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.uniform(size=(2, 3, *SHAPE)) > 0.5
    names = [("b", "disc"), ("b", "cup"), ("a", "cup")]
    objects = [object_of(case, label, structure=s) for (case, s), label in zip(names, labels, strict=True)]
    images = [quarters(3, torch.uint8), quarters(3, torch.uint8).flip(2)]
    thumbnails = Thumbnails()
    see(thumbnails, cases_of(batch_of(objects, predicted), images, ["b", "a"]), predicted)
    gallery = kept(thumbnails, tmp_path)
    assert gallery.cases() == [("a", "cup"), ("b", "cup"), ("b", "disc")]
    for key, label, prediction in zip(names, labels, predicted, strict=True):
        assert np.array_equal(gallery.label(*key), label)  # small cases stay as they are
        assert np.array_equal(gallery.prediction(*key), prediction)
        assert gallery.image(*key).shape == (*SHAPE, 3)
    left, right = (gallery.image("a", "cup")[1, x].tolist() for x in (2, -3))
    assert left == pytest.approx([255, 0, 0], abs=12)
    assert right == pytest.approx([0, 0, 0], abs=12)
    assert gallery.image("b", "cup")[1, -3].tolist() == pytest.approx([255, 0, 0], abs=12)
    assert np.array_equal(gallery.image("b", "cup"), gallery.image("b", "disc"))


@pytest.mark.parametrize(
    ("shape", "small"),
    [((600, 900), (171, 256)), ((900, 600), (256, 171)), ((256, 256), (256, 256)), ((90, 700), (33, 256))],
)
def test_large_cases_are_shrunk_and_keep_their_proportions(
    tmp_path: Path, shape: tuple[int, int], small: tuple[int, int]
) -> None:
    label, predicted = disc(*shape, (0.3, 0.7), shape[0] / 5), disc(*shape, (0.6, 0.2), shape[0] / 4)
    thumbnails = Thumbnails()
    batch = batch_of([object_of("c", label)], label[None])
    see(thumbnails, cases_of(batch, [quarters(3, torch.uint8, 512)], ["c"]), predicted[None])
    gallery = kept(thumbnails, tmp_path)
    image, rows, columns = gallery.image("c", "liver"), *(nearest(n, s) for n, s in zip(shape, small, strict=True))
    assert image.shape == (*small, 3)
    assert np.array_equal(gallery.label("c", "liver"), label[np.ix_(rows, columns)])
    assert np.array_equal(gallery.prediction("c", "liver"), predicted[np.ix_(rows, columns)])
    bright = image[..., 0] > 128
    assert abs(bright.mean() - 0.25) < 0.02
    assert bright[0, -1]
    assert not bright[0, 0]


@pytest.mark.parametrize(
    ("channels", "kind"), [(1, torch.uint16), (3, torch.uint8), (3, torch.float32), (1, torch.uint8)]
)
@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_grey_levels_are_those_of_the_image(tmp_path: Path, channels: int, kind: torch.dtype, level: float) -> None:
    white = {torch.uint8: 255, torch.uint16: 65535, torch.float32: 1}[kind]
    image = torch.from_numpy(np.full((channels, SIDE, SIDE), level * white).astype(str(kind).split(".")[1]))
    thumbnails = Thumbnails()
    see(thumbnails, cases_of(batch_of([object_of("c", EMPTY)], EMPTY[None]), [image], ["c"]), EMPTY[None])
    shown = kept(thumbnails, tmp_path).image("c", "liver")
    assert (shown.min(), shown.max()) == pytest.approx((255 * level,) * 2, abs=2)


# ------------------------------------------------------------------------------------------------- volumes


def slab(sizes: list[int]) -> np.ndarray[Any, Any]:
    """T×H×W masks of so many pixels."""
    masks = np.zeros((len(sizes), SHAPE[0] * SHAPE[1]), dtype=bool)
    for mask, size in zip(masks, sizes, strict=True):
        mask[:size] = True
    return masks.reshape(len(sizes), *SHAPE)


def tell(t: int) -> Tensor:
    """An image by whose grey level its slice is known."""
    return torch.full((1, SIDE, SIDE), 20 * t, dtype=torch.uint8)


def told(gallery: Gallery, structure: str) -> int:
    return round(float(gallery.image("v", structure).mean()) / 20)


@pytest.mark.parametrize(
    ("labels", "answers", "shown"),
    [
        ([0, 5, 9, 9, 2], [0, 0, 0, 0, 0], 2),  # the first of the largest
        ([0, 5, 9, 9, 2], [50, 0, 1, 4, 60], 3),  # of equal labels the larger answer
        ([0, 0, 0, 0, 0], [0, 3, 8, 4, 0], 2),  # absent: where most was found
        ([0, 0, 0, 0, 0], [0, 0, 0, 0, 0], 0),
    ],
)
@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_volume_is_shown_by_the_slice_on_which_the_structure_is_largest(
    tmp_path: Path, labels: list[int], answers: list[int], shown: int, clips: bool, batch_size: int
) -> None:
    """Of images one by one and of a video's slices alike, also where its batches cut a volume in two."""
    masks, predicted = slab(labels), slab(answers)
    other = slab([7, 0, 0, 0, 0])
    thumbnails = Thumbnails()
    step = 5 if clips else batch_size
    for start in range(0, 5, step):
        chosen = range(start, min(start + step, 5))
        liver = slices_of("v", masks[chosen], chosen)
        spleen = slices_of("v", other[chosen], chosen, structure="spleen")
        images = torch.stack([tell(t) for t in chosen])
        if clips:
            clip = Clip("v", images, None, torch.ones(2, 5).bool(), [{}, {}], [liver, spleen])
            batch: Any = ClipBatch([Clip("w", images[:0], None, torch.ones(0, 0).bool(), [], []), clip])
        else:
            objects = [info for pair in zip(liver, spleen, strict=True) for info in pair]
            ids = [info.case_id for info in liver]
            batch = cases_of(batch_of(objects, predicted), list(images), ids)
        see(thumbnails, batch, np.stack([predicted[chosen], other[chosen]], axis=1).reshape(-1, *SHAPE))
    gallery = kept(thumbnails, tmp_path)
    assert gallery.cases() == [("v", "liver"), ("v", "spleen")]
    assert (told(gallery, "liver"), told(gallery, "spleen")) == (shown, 0)
    assert np.array_equal(gallery.label("v", "liver"), masks[shown])
    assert np.array_equal(gallery.prediction("v", "liver"), predicted[shown])


def test_where_each_slice_is_scored_each_is_shown(tmp_path: Path) -> None:
    infos, masks = slices_of("v", slab([1, 2]), [0, 1]), slab([3, 4])
    thumbnails = Thumbnails(whole_volumes=False)
    batch = cases_of(batch_of(infos, masks), [tell(0), tell(1)], [info.case_id for info in infos])
    see(thumbnails, batch, masks)
    gallery = kept(thumbnails, tmp_path)
    assert gallery.cases() == [("v_z000", "liver"), ("v_z001", "liver")]
    assert [int(gallery.prediction(*key).sum()) for key in gallery.cases()] == [3, 4]


# --------------------------------------------------------------------------------------------------- files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    thumbnails = Thumbnails()
    batch = batch_of([object_of("c", ~EMPTY)], EMPTY[None])
    see(thumbnails, cases_of(batch, [quarters(3, torch.uint8)], ["c"]), ~EMPTY[None])
    save_gallery(thumbnails, tmp_path / "test" / "gallery.npz")
    return tmp_path / "test" / "gallery.npz"


def test_equal_evaluations_make_equal_files(file: Path) -> None:
    content = file.read_bytes()
    gallery = load_gallery(file)
    assert gallery.cases() == [("c", "liver")]
    thumbnails = Thumbnails()
    batch = batch_of([object_of("c", ~EMPTY)], EMPTY[None])
    see(thumbnails, cases_of(batch, [quarters(3, torch.uint8)], ["c"]), ~EMPTY[None])
    save_gallery(thumbnails, file)
    assert file.read_bytes() == content


def test_no_cases_make_a_gallery_that_shows_none(tmp_path: Path) -> None:
    assert kept(Thumbnails(), tmp_path).cases() == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_named(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"gallery.npz is damaged, or no gallery \(.+force=true"):
        load_gallery(file)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("masks", np.zeros(3, np.uint8)),
        ("image", np.array([4])),
        ("image", np.array([0, 0])),
        ("keys", np.array([["c", "liver"]], dtype=object)),
        ("keys", None),
        ("masks_ends", np.array([-1])),
        ("masks_ends", np.array([], dtype=np.int64)),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(file: Path, name: str, value: Any) -> None:
    arrays = dict(np.load(file))
    arrays |= {name: value}
    np.savez(file, **{key: array for key, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match="is damaged, or no gallery"):
        load_gallery(file)


@pytest.mark.parametrize(
    ("name", "value"),
    [("images", None), ("masks", None), ("shape", np.array([[30, 900]])), ("shape", np.array([[1, 2]]))],
)
def test_what_cannot_be_decoded_is_named(file: Path, name: str, value: Any) -> None:
    arrays = dict(np.load(file))
    np.savez(file, **(arrays | {name: np.zeros_like(arrays[name]) if value is None else value}))
    gallery = load_gallery(file)
    with pytest.raises(ValueError, match="is damaged, or no gallery"):
        gallery.image("c", "liver") if name == "images" else gallery.label("c", "liver")


def test_what_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(ValueError, match="shows no spleen of case c"):
        load_gallery(file).label("c", "spleen")
    with pytest.raises(FileNotFoundError):
        load_gallery(file.parent / "other.npz")
