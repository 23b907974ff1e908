"""The tracking scenes of the golden files: short clips of the drawn video, frame by frame."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medsam2.modeling.history import FrameOutput, History
from medsam2.modeling.memory_selection import MemorySelection
from medsam2.modeling.sam import LOGIT_LIMIT, ImageFeatures
from medsam2.modeling.sam2 import SAM2, Points

OCCLUDED = "sam_mask_decoder.pred_obj_score_head.layers.2.bias"

Features = Callable[[int], ImageFeatures]
Masks = Callable[[int], Tensor]


class Step(NamedTuple):
    """One frame: tracked, or prompted with named points or the disc as a mask; `corrects` an earlier answer."""

    frame: int
    points: str | None = None
    mask: bool = False
    corrects: bool = False

    @property
    def is_cond(self) -> bool:
        return (self.points is not None or self.mask) and not self.corrects


class Clip(NamedTuple):
    num_frames: int
    steps: list[Step]
    reverse: bool = False


def tracked(*frames: int) -> list[Step]:
    return [Step(frame) for frame in frames]


LONG = [
    Step(0, points="box"),
    Step(6, mask=True),
    *tracked(1, 2, 3, 4),
    Step(4, points="correction", corrects=True),
    *tracked(5, 7, 8, 9),
]
CLIPS = {
    "clip_box": Clip(4, [Step(0, points="box"), *tracked(1, 2, 3)]),
    "clip_point": Clip(4, [Step(0, points="point"), *tracked(1, 2)]),
    "clip_mask": Clip(4, [Step(0, mask=True), *tracked(1, 2)]),
    "clip_occluded": Clip(4, [Step(0, points="box"), *tracked(1, 2)]),
    "clip_long": Clip(10, LONG),
    "clip_reverse": Clip(10, [Step(6, mask=True), *tracked(5, 4, 3)], reverse=True),
    "clip_stride2_cond2": Clip(10, [*(Step(t, mask=True) for t in (0, 3, 9)), *tracked(1, 2, 4, 5, 6, 7, 8)]),
}


def clip_points(prompts: dict[str, Any]) -> dict[str, Points]:
    """Named prompts; a correction is the last two of the three clicks."""
    coords, labels = prompts["points"]
    return {**prompts, "correction": (coords[:, 1:], labels[:, 1:])}


@contextmanager
def altered(model: SAM2, clip: str) -> Iterator[None]:
    """The model as a clip wants it: absent objects, or two conditioning frames and every second memory."""
    selection, bias = model.memory_selection, model.get_parameter(OCCLUDED)
    kept = bias.detach().clone()
    if clip == "clip_stride2_cond2":
        model.memory_selection = MemorySelection(7, 2, 16, 2, True, selection.signed)
    if clip == "clip_occluded":
        bias.data.fill_(-3.0)
    try:
        yield
    finally:
        model.memory_selection = selection
        bias.data.copy_(kept)


def run_clip(
    model: SAM2, clip: Clip, features: Features, masks: Masks, points: dict[str, Points]
) -> Iterator[tuple[str, FrameOutput, dict[str, Tensor]]]:
    """Yield name, answer and all golden tensors of every step."""
    history, low_res = History(), dict[int, Tensor]()
    for step in clip.steps:
        seen: dict[str, Tensor] = {}
        hook = model.memory_attention.register_forward_hook(partial(watch, seen))
        output = model.track_step(
            step.frame,
            features(step.frame),
            history,
            clip.num_frames,
            points=points[step.points] if step.points else None,
            masks=masks(step.frame) if step.mask else None,
            mask_input=low_res[step.frame].clamp(-LOGIT_LIMIT, LOGIT_LIMIT) if step.corrects else None,
            is_init_cond_frame=step.is_cond,
            reverse=clip.reverse,
        )
        hook.remove()
        if step.is_cond and step.points:
            seen["conditioned"] = model.without_memory(features(step.frame)).embed
        memory = model.remember(features(step.frame), output, prompted=step.points is not None)
        (history.cond if step.is_cond else history.non_cond)[step.frame] = memory
        low_res[step.frame] = output.low_res_masks
        assert memory.features is not None
        seen |= {
            "pred_masks": output.low_res_masks,
            "pred_masks_high_res": output.high_res_masks,
            "obj_ptr": output.obj_ptr,
            "obj": output.object_score_logits,
            "maskmem": memory.features,
        }
        yield f"frame{step.frame}{'r' if step.corrects else ''}", output, seen


def watch(seen: dict[str, Tensor], _: nn.Module, args: tuple[Any, ...], result: Tensor) -> None:
    """Keep what memory attention was given and what it made of it, in the layout of the golden files."""
    _, _, memory, memory_pos, num_obj_ptr_tokens = args
    seen["conditioned"] = result
    seen["memory"] = memory.transpose(0, 1)
    seen["memory_pos"] = memory_pos.transpose(0, 1)
    seen["num_obj_ptr_tokens"] = torch.tensor([num_obj_ptr_tokens])


def compute_clips(
    model: SAM2, wanted: set[str], features: Features, masks: Masks, points: dict[str, Points]
) -> dict[str, Tensor]:
    """All clip_... tensors of the wanted clips."""
    tensors: dict[str, Tensor] = {}
    for name in CLIPS.keys() & wanted:
        with altered(model, name):
            for frame, _, seen in run_clip(model, CLIPS[name], features, masks, points):
                tensors |= {f"{name}/{frame}/{key}": value for key, value in seen.items()}
    return tensors


def compute_gradients(model: SAM2, features: Features, masks: Masks, points: dict[str, Points]) -> dict[str, Tensor]:
    """All grad... tensors: a fixed loss on the first three frames of clip_box."""
    clip = Clip(4, CLIPS["clip_box"].steps[:3])
    loss = torch.zeros(())
    with torch.enable_grad():
        for _, output, _ in run_clip(model, clip, features, masks, points):
            for x in (output.low_res_masks, output.obj_ptr, output.object_score_logits):
                loss = loss + (x.flatten() * torch.cos(0.1 * torch.arange(x.numel()))).mean()
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = {f"grad/{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {**gradients, "grad_loss": loss.detach()[None]}
