"""Videos frame by frame: a folder, an array or a tensor (a volume is a video of slices), or a source of your own.

A frame is read, checked and resized when it is asked for; nothing holds the whole video as float.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import PIL.Image
import torch
from PIL.Image import Image
from torch import Tensor

from medsam2.predictors.inputs import read_image, read_tensor, resize_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
LAYOUTS = "pass an array T x H x W x 3 or T x H x W (grey), or a tensor T x 3 x H x W"


@runtime_checkable
class FrameSource(Protocol):
    """What a video must offer: its number of frames, their size in pixels, and each as the network takes it."""

    height: int
    width: int

    def __len__(self) -> int: ...

    def load(self, frame_idx: int) -> Tensor:
        """Frame `frame_idx` as 3 x S x S, RGB in [0, 1]."""
        ...


@dataclass
class LazyFrames:
    """Frames that `read` fetches one at a time.

    Args:
        names: of the frames, for messages; read: a frame by number, an image, an array H x W (x 3) or a tensor
            (3 x) H x W, which stays on its device until it is checked.
        height, width: of all frames; image_size: S; device: where a frame is resized.
    """

    names: Sequence[str]
    read: Callable[[int], np.ndarray | Image | Tensor]
    height: int
    width: int
    image_size: int
    device: torch.device

    def __len__(self) -> int:
        return len(self.names)

    def load(self, frame_idx: int) -> Tensor:
        """Frame `frame_idx` as 3 x S x S, RGB in [0, 1]; ValueError names a frame that is none."""
        return resize_image(self.read_pixels(frame_idx), self.image_size, self.device)

    def read_pixels(self, frame_idx: int) -> np.ndarray | Tensor:
        """Frame `frame_idx` as H x W x 3, checked."""
        try:
            frame = self.read(frame_idx)
            return read_tensor(frame) if isinstance(frame, Tensor) else read_image(frame)
        except ValueError as error:
            raise ValueError(f"{self.names[frame_idx]}: {error}") from error


def open_video(
    video: str | Path | np.ndarray | Tensor | FrameSource, image_size: int, device: torch.device
) -> FrameSource:
    """The frames of a video, resized to image_size x image_size on `device`.

    Args:
        video: a folder of images; an array T x H x W x 3 or T x H x W, uint8 or float in [0, 1]; a tensor
            T x 3 x H x W or T x H x W, likewise; or a FrameSource, which is returned as it is.

    Raises:
        FileNotFoundError: no such folder. ValueError: no frames, or frames that are none.
    """
    if isinstance(video, str | Path):
        return open_folder(Path(video), image_size, device)
    if isinstance(video, np.ndarray | Tensor):
        return open_array(video, image_size, device)
    if isinstance(video, FrameSource):
        return video
    raise ValueError(f"video is a {type(video).__name__}: pass a folder, or {LAYOUTS.removeprefix('pass ')}")


def open_folder(folder: Path, image_size: int, device: torch.device) -> LazyFrames:
    """The images of a folder in the order of sort_names; the headers of all are read to compare their sizes."""
    if not folder.is_dir():
        kind = "is a file, not a folder" if folder.exists() else "does not exist"
        cure = "pass the folder that holds the frames as images; extract those of a video file first, e.g. with"
        raise FileNotFoundError(f"video folder {folder} {kind}: {cure} ffmpeg -i video.mp4 frames/%05d.jpg")
    names = [p.name for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    if not names:
        raise ValueError(f"video folder {folder} holds no frames: expected images ({' '.join(SUFFIXES)})")
    paths = [folder / name for name in sort_names(names)]
    sizes = [read_file(path, header_only=True).size for path in paths]
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            raise ValueError(
                f"{path} is {size[0]} x {size[1]} pixels, {paths[0].name} is {sizes[0][0]} x {sizes[0][1]}: "
                "the frames of a video have one size; resize or pad them"
            )
    width, height = sizes[0]
    names = [str(path) for path in paths]
    return LazyFrames(names, lambda i: read_file(paths[i]), height, width, image_size, device)


def sort_names(names: Sequence[str]) -> list[str]:
    """File names by their number where each has exactly one, else in natural order (a2 before a10)."""

    def by_parts(name: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", Path(name).stem)]

    numbers = {name: re.findall(r"\d+", Path(name).stem) for name in names}
    if all(len(found) == 1 for found in numbers.values()):
        return sorted(names, key=lambda name: (int(numbers[name][0]), name))
    return sorted(names, key=lambda name: (by_parts(name), name))


def read_file(path: Path, header_only: bool = False) -> Image:
    """An image file; ValueError names one that cannot be read."""
    try:
        with PIL.Image.open(path) as image:
            if not header_only:
                image.load()
            return image
    except (OSError, SyntaxError) as error:  # Pillow calls a broken PNG a syntax error
        raise ValueError(f"{path} cannot be read as an image ({error}): replace the file or remove it") from error


def open_array(video: np.ndarray | Tensor, image_size: int, device: torch.device) -> LazyFrames:
    """The frames of an array or tensor, a copy of which is never made; the first one is checked at once."""
    channels_first = isinstance(video, Tensor) and video.ndim == 4
    shape = "video is " + " x ".join(map(str, video.shape))
    channels = video.shape[1 if channels_first else -1] if video.ndim == 4 else 1
    if video.ndim not in (3, 4) or channels not in (1, 3) or 0 in video.shape:
        raise ValueError(f"{shape}: {LAYOUTS}")
    if video.ndim == 3 and video.shape[-1] == 3:
        raise ValueError(f"{shape}, which looks like a single image: pass image[None] for a video of one frame")

    height, width = video.shape[-2:] if channels_first or video.ndim == 3 else video.shape[1:3]
    names = [f"frame {i} of the video" for i in range(len(video))]
    frames = LazyFrames(names, lambda i: video[i], height, width, image_size, device)
    frames.read_pixels(0)
    return frames
