"""Tracking as parts of benchmarks.sam2, and `python -m benchmarks.sam2_tracking`: memory on long videos.

The part: 8 objects through 16 frames as one batch, against the same objects one at a time, with the features of a frame
shared between them (as in a loop over objects) and each on its own (as in 8 calls), and against transformers, which
loops over objects. Random weights; a frame costs the same whatever is on it.

The command: peak memory of a process that tracks 2 objects through 200 frames, against one that stops after 20; frames
are drawn one at a time.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medsam2.build import build_model
from medsam2.modeling.identity import CHOICES
from medsam2.predictors.video import SAM2VideoPredictor
from medsam2.predictors.video_state import VideoState

if TYPE_CHECKING:
    from benchmarks.sam2 import Setting

OBJECTS, FRAMES = 8, 16
LONG, SHORT = 200, 20


@dataclass
class DrawnFrames:
    """Noise, drawn when it is asked for."""

    count: int
    height: int
    width: int
    device: torch.device

    def __len__(self) -> int:
        return self.count

    def load(self, frame_idx: int) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(frame_idx)
        return torch.rand(3, self.height, self.width, generator=generator, device=self.device)


def make_predictor(choice: str, image_size: int, device: str = "cpu") -> SAM2VideoPredictor:
    torch.manual_seed(0)
    model = build_model(choice, f"image_size={image_size}", "model.checkpoint=null")
    return SAM2VideoPredictor(model.to(device))


def start(
    predictor: SAM2VideoPredictor, image_size: int, objects: Iterable[int], frames: int = FRAMES, stream: bool = False
) -> VideoState:
    """A video whose objects are prompted on the first frame, each with a box of its own."""
    video = DrawnFrames(frames, image_size, image_size, predictor.tracker.device)
    state = predictor.init_state(video, stream=stream)
    for i in objects:
        add_box(predictor, state, i)
    return state


def make_box(i: int, size: int) -> tuple[float, float, float, float]:
    return (size / 32 * i, size / 16, size / 32 * i + size / 3, size / 2)


def add_box(predictor: SAM2VideoPredictor, state: VideoState, i: int) -> None:
    predictor.add_new_points_or_box(state, 0, i, box=make_box(i, state.frames.width))


def track_batched(predictor: SAM2VideoPredictor, image_size: int) -> None:
    for _ in predictor.propagate_in_video(start(predictor, image_size, range(OBJECTS))):
        pass


def track_sharing_features(predictor: SAM2VideoPredictor, image_size: int) -> None:
    states = [start(predictor, image_size, []) for _ in range(OBJECTS)]
    for i, state in enumerate(states):
        state.features = states[0].features
        add_box(predictor, state, i)
    for _ in zip(*(predictor.propagate_in_video(state) for state in states), strict=True):
        pass


def track_alone(predictor: SAM2VideoPredictor, image_size: int) -> None:
    for i in range(OBJECTS):
        for _ in predictor.propagate_in_video(start(predictor, image_size, [i])):
            pass


WAYS: dict[str, Callable[[SAM2VideoPredictor, int], None]] = {
    "ours": track_batched,
    "loop, shared features": track_sharing_features,
    "loop, each alone": track_alone,
}


def tracking_work(track: Callable[[SAM2VideoPredictor, int], None], setting: Setting) -> Callable[[], None]:
    predictor = make_predictor(CHOICES[setting.variant], setting.size, setting.device)

    def work() -> None:
        with setting.autocast():
            track(predictor, setting.size)

    return work


def tracking_part() -> dict[str, Callable[[Setting], Callable[[], None]]]:
    """The part as benchmarks.sam2 takes it."""
    ways = {name: partial(tracking_work, track) for name, track in WAYS.items()}
    return {**ways, "transformers": transformers_tracking}


def transformers_tracking(setting: Setting) -> Callable[[], None]:
    """The same objects and frames through Hugging Face's model."""
    from transformers import Sam2VideoModel
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    from benchmarks.sam2 import configure_theirs

    size = setting.size
    config, _ = configure_theirs(setting)
    model = Sam2VideoModel(config).eval().to(setting.device)
    video = torch.rand(FRAMES, 3, size, size)

    @torch.inference_mode()
    def work() -> None:
        session = Sam2VideoInferenceSession(video, size, size, *[setting.device] * 3, dtype=torch.float32)
        for i in range(OBJECTS):
            corners = torch.tensor(make_box(i, size)).view(1, 1, 2, 2)
            points = {"point_coords": corners, "point_labels": torch.tensor([[[2, 3]]])}
            session.add_point_inputs(session.obj_id_to_idx(i), 0, points)
        session.obj_with_new_inputs = list(range(OBJECTS))
        with setting.autocast():
            model(inference_session=session, frame_idx=0)
            for _ in model.propagate_in_video_iterator(session):
                pass

    return work


def track_and_print_peak(choice: str, image_size: int, frames: int, stream: bool) -> None:
    """Track in this process and print its peak memory in MiB; every run sees a video of LONG frames."""
    predictor = make_predictor(choice, image_size)
    state = start(predictor, image_size, range(2), LONG, stream)
    for _ in predictor.propagate_in_video(state, max_frame_num_to_track=frames):
        pass
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure_peak(choice: str, image_size: int, frames: int, stream: bool) -> float:
    """Peak memory in MiB of a process of its own."""
    arguments = f"{choice!r}, {image_size}, {frames}, {stream}"
    code = f"from benchmarks.sam2_tracking import *; track_and_print_peak({arguments})"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)


def main(choices: Iterable[str] = ("sam2_nano", "sam2_t"), image_size: int = 256) -> None:
    """Print peak memory after SHORT and LONG frames, with and without stream."""
    print(f"image_size={image_size}, 2 objects, peak memory of the process in MiB")
    print(f"{'model':12}{'stream':>8}{f'{SHORT} frames':>12}{f'{LONG} frames':>12}{'ratio':>8}")
    for choice in choices:
        for stream in (True, False):
            short, long = (measure_peak(choice, image_size, frames, stream) for frames in (SHORT, LONG))
            print(f"{choice:12}{stream!s:>8}{short:12.0f}{long:12.0f}{long / short:8.2f}", flush=True)


if __name__ == "__main__":
    main()
