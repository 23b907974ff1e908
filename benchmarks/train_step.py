"""What a training step costs beside the network's own work: `python -m benchmarks.train_step`.

The step is what the trainer does with a collated batch: to the device, `method=image` with its losses, backward, the
gradient's norm, the optimiser. Beside it the same images and as many prompts through the network alone: encoder and
decoder forward, a sum for a loss, backward. Both take turns, so that a busy moment hits both; the ratio of their
medians is what the framework adds. One object per image, a box each.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

from benchmarks.sam2 import Setting, Work, build_ours, describe, measure_seconds, to_markdown
from medsam2.data.batch import Batch, ObjectInfo
from medsam2.data.prompts import Prompt
from medsam2.losses import FocalDice
from medsam2.methods.image import ImageMethod

HEAD = ["variant", "size", "batch", "dtype", "step ms", "network ms", "time ratio"]


def draw_batch(size: int, count: int) -> Batch:
    """`count` images as the loader hands them over, with one boxed square each."""
    targets = torch.zeros(count, 1, size, size, dtype=torch.bool)
    low, high = size // 4, size // 2
    prompt = Prompt(np.array([[low, low], [high - 1, high - 1]], np.float32), np.array([2, 3]), "box", "box")
    names = [f"case{i}" for i in range(count)]
    targets[..., low:high, low:high] = True
    return Batch(
        images=torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8),
        image_index=torch.arange(count),
        point_coords=torch.tensor([[[low, low], [high - 1, high - 1]]] * count, dtype=torch.float32),
        point_labels=torch.tensor([[2, 3]] * count),
        targets=targets,
        objects=[ObjectInfo(name, name, "square", prompt, None, None, None) for name in names],
        case_ids=names,
    )


def step_work(setting: Setting, batch: Batch) -> Work:
    """The trainer's step on a batch."""
    method = ImageMethod(build_ours(setting).train(), FocalDice())
    optimizer = torch.optim.Adam(method.model.parameters(), lr=1e-6)

    def work() -> object:
        with setting.autocast():
            loss = method.loss(batch.to(setting.device, non_blocking=True))
        value = float(loss.total.detach())
        loss.total.backward()
        clip_grad_norm_(method.model.parameters(), math.inf)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value

    return work


def network_work(setting: Setting, batch: Batch) -> Work:
    """Encoder and decoder alone, forward and backward."""
    model = build_ours(setting).train()
    ready = batch.to(setting.device)

    def work() -> object:
        with setting.autocast():
            features = model.encode_image(ready.images)
            output = model.decode(features, ready.point_coords, ready.point_labels)
        output.low_res_masks.sum().backward()
        model.zero_grad(set_to_none=True)
        return None

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="tiny")
    parser.add_argument("--sizes", nargs="+", type=int, default=[512])
    parser.add_argument("--batch", type=int, default=2, help="images in a step")
    parser.add_argument("--dtypes", nargs="+", default=["fp32"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for size in args.sizes:
        for dtype in args.dtypes:
            setting, batch = Setting(size, dtype, args.device, args.variant), draw_batch(size, args.batch)
            works = {"step": step_work(setting, batch), "network": network_work(setting, batch)}
            seconds = measure_seconds(works, args.repeats, args.device, "wall")
            step, network = seconds["step"], seconds["network"]
            numbers = [f"{step * 1e3:.1f}", f"{network * 1e3:.1f}", f"{step / network:.2f}"]
            rows.append([args.variant, str(size), str(args.batch), dtype, *numbers])
    print(f"`python -m benchmarks.train_step`\n\n{describe(args.device)}\n\n{to_markdown(rows, HEAD)}")


if __name__ == "__main__":
    main()
