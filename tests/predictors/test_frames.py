"""Videos as folders, arrays and tensors: order, values, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medsam2.predictors.frames import FrameSource, open_video, sort_names
from medsam2.predictors.inputs import resize_image

CPU = torch.device("cpu")
RNG = np.random.RandomState(0)
COLOUR = RNG.randint(0, 256, (3, 20, 30, 3)).astype(np.uint8)
GREY = RNG.rand(3, 20, 30).astype(np.float32)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10.jpg", "9.jpg", "0.jpg"], ["0.jpg", "9.jpg", "10.jpg"]),
        (["b2.png", "a10.png", "c1.png"], ["c1.png", "b2.png", "a10.png"]),  # one number each: prefixes do not matter
        (["p2_s10.png", "p2_s9.png", "p10_s1.png"], ["p2_s9.png", "p2_s10.png", "p10_s1.png"]),
        (["x.png", "a10.png", "a2.png"], ["a2.png", "a10.png", "x.png"]),
    ],
)
def test_names_are_sorted_as_people_count(names: list[str], expected: list[str]) -> None:
    assert sort_names(names) == expected


def test_a_folder_is_read_in_order_and_lazily(tmp_path: Path) -> None:
    for number, pixels in zip((10, 2, 7), COLOUR, strict=True):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / "._2.png").write_text("what another system leaves behind")
    frames = open_video(tmp_path, 64, CPU)
    assert isinstance(frames, FrameSource)
    assert (len(frames), frames.height, frames.width) == (3, 20, 30)
    for i, pixels in enumerate(COLOUR[[1, 2, 0]]):
        torch.testing.assert_close(frames.load(i), resize_image(pixels, 64, CPU), rtol=0, atol=0)
    (tmp_path / "7.png").unlink()
    with pytest.raises(ValueError, match=r"7\.png cannot be read"):
        frames.load(1)


@pytest.mark.parametrize(
    "video",
    [
        COLOUR,
        torch.from_numpy(COLOUR).permute(0, 3, 1, 2) / 255,
        torch.from_numpy(COLOUR).permute(0, 3, 1, 2),
    ],
    ids=["array", "float tensor", "uint8 tensor"],
)
def test_layouts_of_colour_agree(video: np.ndarray | torch.Tensor) -> None:
    frames = open_video(video, 64, CPU)
    assert (len(frames), frames.height, frames.width) == (3, 20, 30)
    torch.testing.assert_close(frames.load(2), resize_image(COLOUR[2], 64, CPU))


@pytest.mark.parametrize("video", [GREY, torch.from_numpy(GREY), GREY.astype(np.float64), GREY[..., None]])
def test_a_volume_is_grey_in_three_channels(video: np.ndarray | torch.Tensor) -> None:
    frames = open_video(video, 32, CPU)
    expected = resize_image(np.repeat(GREY[1][..., None], 3, axis=2), 32, CPU)
    torch.testing.assert_close(frames.load(1), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8])
def test_a_tensor_stays_a_tensor_on_its_device(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a frame on a GPU would go to the CPU and back")

    for name in ("cpu", "numpy", "__array__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    values = torch.tensor([[0.0, 0.25], [0.5, 1.0]])
    video = torch.stack([values, values.flip(0)])
    stored = (video * 255).to(dtype) if dtype == torch.uint8 else video.to(dtype).requires_grad_()
    frame = open_video(stored, 2, CPU).load(1)
    assert not frame.requires_grad
    torch.testing.assert_close(frame, values.flip(0).expand(3, -1, -1), rtol=0, atol=1 / 255)


@pytest.mark.parametrize(
    ("value", "message"),
    [(float("nan"), "holds 1 values that are NaN"), (-1.0, "ranges from -1 to 0.5"), (9.0, "ranges from 0.5 to 9")],
)
def test_a_bad_frame_of_a_tensor_is_named(value: float, message: str) -> None:
    video = torch.full((3, 3, 4, 5), 0.5)
    video[2, 0, 0, 0] = value
    frames = open_video(video, 32, CPU)
    with pytest.raises(ValueError, match=f"frame 2 of the video: image {message}"):
        frames.load(2)


def test_a_source_is_taken_as_it_is() -> None:
    frames = open_video(COLOUR, 64, CPU)
    assert open_video(frames, 64, CPU) is frames


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (COLOUR.transpose(0, 3, 1, 2), "3 x 3 x 20 x 30: pass an array T x H x W x 3"),
        (torch.from_numpy(COLOUR), "3 x 20 x 30 x 3: .*tensor T x 3 x H x W"),
        (COLOUR[0], "20 x 30 x 3, which looks like a single image: pass image"),
        (COLOUR[:0], "0 x 20 x 30 x 3"),
        (GREY[0], "video is 20 x 30"),
        (GREY * 300, "ranges from .* to"),
        (GREY.astype(np.int16), "frame 0 of the video: image is int16: window it"),
        (torch.from_numpy(GREY).short(), "frame 0 of the video: image is int16: window it"),
        ([COLOUR[0]], "video is a list"),
    ],
)
def test_arrays_that_are_no_video(video: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_video(video, 64, CPU)  # type: ignore[arg-type]


def test_a_bad_frame_is_named() -> None:
    volume = GREY.copy()
    volume[1, 0, 0] = np.nan
    frames = open_video(volume, 32, CPU)
    frames.load(0)
    with pytest.raises(ValueError, match="frame 1 of the video: image holds 1 values that are NaN"):
        frames.load(1)


def test_folders_that_are_no_video(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        open_video(tmp_path / "nowhere", 64, CPU)
    with pytest.raises(ValueError, match="holds no frames: expected images"):
        open_video(str(tmp_path), 64, CPU)
    Image.fromarray(COLOUR[0]).save(tmp_path / "1.png")
    with pytest.raises(FileNotFoundError, match=r"is a file, not a folder: .* extract those of a video .*ffmpeg"):
        open_video(tmp_path / "1.png", 64, CPU)
    Image.fromarray(COLOUR[1][:10]).save(tmp_path / "2.png")
    with pytest.raises(ValueError, match=r"2\.png is 30 x 10 pixels, 1\.png is 30 x 20"):
        open_video(tmp_path, 64, CPU)
    (tmp_path / "2.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"2\.png cannot be read as an image"):
        open_video(tmp_path, 64, CPU)
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"2\.png cannot be read as an image"):
        open_video(tmp_path, 64, CPU).load(1)
