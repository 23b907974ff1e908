"""A picture of every case in one small file, so that several runs can be shown side by side without their data.

Of each case and structure it holds the image, shrunk, with label and prediction at the same size; of a volume the slice
on which the structure is largest. Images are the batch's own, at hand when an answer comes: no file is read again.
"""

from __future__ import annotations

import zipfile
import zlib
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medsam2.data.batch import Batch
from medsam2.data.clip_batch import ClipBatch
from medsam2.data.prepared import nearest
from medsam2.distributed import gather, on_first_rank
from medsam2.evaluation.answers import Answer
from medsam2.evaluation.metrics import Mask
from medsam2.files import write_atomic

LONGER_SIDE = 256  # pixels
QUALITY = 75  # of JPEG


class Thumbnail(NamedTuple):
    """One structure of one case, h×w pixels."""

    shown: str  # the case, or the slice of the volume, that the image is of
    areas: tuple[int, int]  # of label and answer, at native size
    image: bytes  # JPEG
    shape: tuple[int, int]
    masks: bytes  # label and prediction, a bit per pixel, compressed


class Thumbnails:
    """Keeps a thumbnail of every case and structure that it sees answered.

    Args:
        whole_volumes: a volume is one case, shown by one slice; otherwise each of its slices is a case.
    """

    def __init__(self, whole_volumes: bool = True) -> None:
        self.whole_volumes = whole_volumes
        self.kept: dict[tuple[str, str], Thumbnail] = {}
        self._last = "", b""  # the structures of a case share its image

    def see(self, answer: Answer, batch: Any) -> None:
        info = answer.info
        key = (info.volume if self.whole_volumes and info.volume else info.case_id), info.structure
        if key in self.kept and answer.areas <= self.kept[key].areas:
            return
        assert info.label is not None
        shape = _fit(*info.label.shape)
        if self._last[0] != info.case_id:
            self._last = info.case_id, _encode(find_image(batch, info.case_id), shape)
        masks = np.packbits([_shrink(info.label, shape), _shrink(answer.mask, shape)])
        self.kept[key] = Thumbnail(info.case_id, answer.areas, self._last[1], shape, zlib.compress(masks.tobytes(), 1))


def find_image(batch: Batch | ClipBatch, case_id: str) -> Tensor:
    """C×S×S, the image of a case, or of a slice, of a batch as it was collated."""
    if isinstance(batch, Batch):
        return batch.images[batch.case_ids.index(case_id)]
    slices = ((clip, t, info) for clip in batch.clips for t, info in enumerate(next(iter(clip.objects), ())))
    return next(clip.images[t] for clip, t, info in slices if info.case_id == case_id)


def save_gallery(thumbnails: Thumbnails, path: Path) -> None:
    """Writes those of all ranks, all or not at all; every rank has to call it."""
    _write({key: one for share in gather(thumbnails.kept) for key, one in share.items()}, path)


@on_first_rank
def _write(kept: dict[tuple[str, str], Thumbnail], path: Path) -> None:
    entries = dict(sorted(kept.items()))
    images = {one.shown: one.image for one in entries.values()}
    places = {shown: place for place, shown in enumerate(images)}
    arrays: dict[str, Any] = {
        "keys": np.array(list(entries), dtype=np.str_).reshape(-1, 2),
        "image": np.array([places[one.shown] for one in entries.values()], dtype=np.int64),
        "shape": np.array([one.shape for one in entries.values()], dtype=np.int64).reshape(-1, 2),
        **_join("images", list(images.values())),
        **_join("masks", [one.masks for one in entries.values()]),
    }
    content = BytesIO()
    np.savez(content, **arrays)  # what is large in it is compressed already
    write_atomic(path, content.getvalue())


def _join(name: str, parts: list[bytes]) -> dict[str, NDArray[Any]]:
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    return {name: np.frombuffer(b"".join(parts), dtype=np.uint8), f"{name}_ends": ends}


def _split(arrays: dict[str, NDArray[Any]], name: str) -> list[bytes]:
    content, ends = arrays[name].tobytes(), arrays[f"{name}_ends"].tolist()
    if [0, *ends] != sorted([0, *ends]) or len(content) != max([0, *ends]):
        raise ValueError(f"its {name} are not all there")
    return [content[start:end] for start, end in pairwise([0, *ends])]


class Gallery:
    """What `load_gallery` gives; asking for a case that it does not show raises ValueError."""

    def __init__(self, arrays: dict[str, NDArray[Any]], path: Path) -> None:
        self._path = path
        self._places = {(str(case), str(structure)): i for i, (case, structure) in enumerate(arrays["keys"])}
        self._shapes = [(int(height), int(width)) for height, width in arrays["shape"]]
        self._image_of = arrays["image"].tolist()
        self._images, self._masks = _split(arrays, "images"), _split(arrays, "masks")
        whole = len(self._places) == len(self._shapes) == len(self._image_of) == len(self._masks)
        if not whole or any(not 0 <= i < len(self._images) for i in self._image_of):
            raise ValueError("its parts do not belong together")

    def cases(self) -> list[tuple[str, str]]:
        """(case_id, structure) of all that is shown, sorted; a volume's case_id is its name."""
        return list(self._places)

    def image(self, case_id: str, structure: str) -> NDArray[np.uint8]:
        """H×W×3, the longer side at most 256; of a volume the slice on which the structure is largest."""
        content = BytesIO(self._images[self._image_of[self._find(case_id, structure)]])
        try:
            return np.asarray(Image.open(content).convert("RGB"))
        except OSError as error:
            raise _damaged(self._path, error) from error

    def label(self, case_id: str, structure: str) -> Mask:
        """H×W, of the same size as the image."""
        return self._unpack(case_id, structure)[0]

    def prediction(self, case_id: str, structure: str) -> Mask:
        """H×W, of the same size as the image."""
        return self._unpack(case_id, structure)[1]

    def _unpack(self, case_id: str, structure: str) -> NDArray[np.bool_]:
        """2×H×W."""
        place = self._find(case_id, structure)
        height, width = self._shapes[place]
        try:
            bits = np.unpackbits(np.frombuffer(zlib.decompress(self._masks[place]), dtype=np.uint8))
            if bits.size - 2 * height * width not in range(8):
                raise ValueError(f"{bits.size} pixels are not two masks of {height}×{width}")
            return bits[: 2 * height * width].view(np.bool_).reshape(2, height, width)
        except (zlib.error, ValueError) as error:
            raise _damaged(self._path, error) from error

    def _find(self, case_id: str, structure: str) -> int:
        if (case_id, structure) not in self._places:
            raise ValueError(f"{self._path}: shows no {structure} of case {case_id}; cases() says what it shows")
        return self._places[case_id, structure]


def load_gallery(path: Path) -> Gallery:
    """The pictures of a run's test cases.

    Raises:
        FileNotFoundError: there is none, as where metrics.overlays=false.
        ValueError: the file is damaged, or is no gallery.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Gallery(dict(arrays), path)
    except FileNotFoundError:
        raise
    except (OSError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is damaged, or no gallery ({error}): delete it, or run again with force=true")


def _fit(height: int, width: int) -> tuple[int, int]:
    """The size of a thumbnail: never larger than the case."""
    scale = min(1.0, LONGER_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _shrink(mask: Mask, shape: tuple[int, int]) -> Mask:
    rows, columns = (nearest(length, size) for length, size in zip(mask.shape, shape, strict=True))
    return mask[rows][:, columns]


def _encode(image: Tensor, shape: tuple[int, int]) -> bytes:
    """C×S×S as it is kept, as a JPEG of the case's proportions."""
    bands = [Image.fromarray(_to_bytes(channel)) for channel in image.numpy()]
    factor = max(1, min(image.shape[-2] // shape[0], image.shape[-1] // shape[1]))
    bands = [band.reduce(factor) for band in bands]  # by itself three times as fast as within `resize`
    picture = Image.merge("RGB", bands) if len(bands) == 3 else bands[0]
    content = BytesIO()
    picture.resize(shape[::-1], Image.Resampling.BILINEAR).save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


def _to_bytes(channel: NDArray[Any]) -> NDArray[np.uint8]:
    if channel.dtype == np.uint8:
        return channel
    levels = channel >> 8 if channel.dtype == np.uint16 else np.round(channel.clip(0, 1) * 255)
    return levels.astype(np.uint8)
