"""SAM 2 beside its peers: `python -m benchmarks.sam2 --part encoder training tracking --sizes 256 512 1024`.

Every part builds the same work for our network and for its peers (Hugging Face transformers, and the `sam2` package
where it is installed), all with random weights, and lets them take turns, so that a busy moment hits all alike. The
table gives the median time of each, the ratio of our median to the peer's (below 1: ours is faster), and the same
ratio of the memory taken beyond the weights. On a CPU memory is measured in a process per candidate (Linux only).

A new part is a function in PARTS: Setting -> {name of the candidate: function that builds it and returns the work}.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.sam2_tracking import tracking_part
from medsam2.build import build_model
from medsam2.modeling.identity import CHOICES
from medsam2.training.precision import cpu_has_bf16
from tests.peers import configure

Work = Callable[[], object]
OURS = "ours"
PACKAGES = ("transformers", "sam2")
BUDGET = 60  # seconds after which a setting is not repeated any more
LONG = 5  # seconds from which on a first pass counts: warming up is a small part of it
MIB = 2**20
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}
RELEASED = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}


class Setting(NamedTuple):
    """One row of the table, less its part."""

    size: int
    dtype: str
    device: str
    variant: str

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device, DTYPES[self.dtype], enabled=self.dtype != "fp32")


def build_ours(setting: Setting) -> Any:
    """Our network with random weights, in evaluation mode."""
    model = build_model(CHOICES[setting.variant], f"image_size={setting.size}", "model.checkpoint=null")
    return model.to(setting.device)


def configure_theirs(setting: Setting) -> tuple[Any, Any]:
    """transformers' configs of the same network: of its video and its image model."""
    return configure(f"sam2.1_hiera_{setting.variant}", setting.size)


# --- the image encoder -----------------------------------------------------------------------------------------------


def encoder_work(encoder: torch.nn.Module, setting: Setting) -> Work:
    """One image through an encoder: trunk and neck."""
    encoder = encoder.eval().to(setting.device)
    pixels = torch.randn(1, 3, setting.size, setting.size, device=setting.device)

    def work() -> object:
        with torch.inference_mode(), setting.autocast():
            return encoder(pixels)

    return work


def our_encoder(setting: Setting) -> Work:
    return encoder_work(build_ours(setting).image_encoder, setting)


def transformers_encoder(setting: Setting) -> Work:
    from transformers import Sam2VisionModel

    video, _ = configure_theirs(setting)
    return encoder_work(Sam2VisionModel(video.vision_config), setting)


def official_encoder(setting: Setting) -> Work:
    from hydra.core.global_hydra import GlobalHydra
    from sam2.build_sam import build_sam2

    name = f"configs/sam2.1/sam2.1_hiera_{RELEASED[setting.variant]}.yaml"
    encoder = build_sam2(name, None, device=setting.device).image_encoder
    GlobalHydra.instance().clear()  # the package leaves its own search path behind
    return encoder_work(encoder, setting)


# --- one training step -----------------------------------------------------------------------------------------------

BOX = ((0.2, 0.3), (0.6, 0.8))  # corners, of width and height


def training_work(model: torch.nn.Module, predict: Callable[[torch.Tensor], torch.Tensor], setting: Setting) -> Work:
    """Predict one image's mask from a box, differentiate, update every weight."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    pixels = torch.randn(1, 3, setting.size, setting.size, device=setting.device)
    side = setting.size // 4
    target = (torch.arange(side, device=setting.device) > side // 2).float().expand(1, 1, side, side)

    def work() -> object:
        optimizer.zero_grad()
        with setting.autocast():
            logits = predict(pixels)
        torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), target).backward()
        optimizer.step()
        return logits

    return work


def our_training(setting: Setting) -> Work:
    model = build_ours(setting)
    corners = torch.tensor([BOX], device=setting.device) * setting.size
    labels = torch.tensor([[2, 3]], device=setting.device)

    def predict(pixels: torch.Tensor) -> torch.Tensor:
        features = model.without_memory(model.forward_image(pixels))
        return model.decode(features, corners, labels).low_res_masks

    return training_work(model, predict, setting)


def transformers_training(setting: Setting) -> Work:
    from transformers import Sam2Model

    _, config = configure_theirs(setting)
    model = Sam2Model(config).to(setting.device)
    corners = torch.tensor([[[*BOX[0], *BOX[1]]]], device=setting.device) * setting.size

    def predict(pixels: torch.Tensor) -> torch.Tensor:
        return model(pixel_values=pixels, input_boxes=corners, multimask_output=False).pred_masks[:, 0]

    return training_work(model, predict, setting)


PARTS = {
    "encoder": {OURS: our_encoder, "transformers": transformers_encoder, "sam2": official_encoder},
    "training": {OURS: our_training, "transformers": transformers_training},
    "tracking": tracking_part(),
}

DEFAULTS = {  # part: sizes, dtypes
    "encoder": ([256, 448, 512, 1024], ["fp32", "bf16"]),
    "training": ([256, 512], ["fp32"]),
    "tracking": ([256], ["fp32"]),
}


# --- measuring -------------------------------------------------------------------------------------------------------


def list_candidates(part: str) -> dict[str, Callable[[Setting], Work]]:
    """Ours, our other ways, and those packages that are installed."""
    return {k: v for k, v in PARTS[part].items() if k not in PACKAGES or importlib.util.find_spec(k)}


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure_seconds(works: dict[str, Work], repeats: int, device: str, clock: str) -> dict[str, float]:
    """Median time of each after a warm-up, in turns: `repeats` of them, less where they are long."""
    now, begin = CLOCKS[clock], time.monotonic()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            synchronize(device)
            start = now()
            work()
            synchronize(device)
            if turn or now() - start > LONG:
                seconds[name].append(now() - start)
        if time.monotonic() - begin > BUDGET and all(seconds.values()):
            break
    return {name: statistics.median(values) for name, values in seconds.items()}


def read_status(key: str) -> int:
    """A memory figure of this process in bytes, from Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def measure_peak(build: Callable[[Setting], Work], setting: Setting) -> float:
    """MiB that one pass takes at its peak beyond what was there before it."""
    work = build(setting)
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    before = read_status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building
    work()
    return (read_status("VmHWM") - before) / MIB


def measure_peak_apart(part: str, name: str, setting: Setting, threads: int) -> float:
    """measure_peak in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.sam2", "--peak", name, "--part", part, "--threads", str(threads)]
    command += ["--sizes", str(setting.size), "--dtypes", setting.dtype]
    command += ["--device", setting.device, "--variant", setting.variant]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def compare(part: str, setting: Setting, args: argparse.Namespace) -> list[list[str]]:
    """The rows of one setting, one per peer."""
    candidates = list_candidates(part)
    works = {name: build(setting) for name, build in candidates.items()}
    seconds = measure_seconds(works, args.repeats, setting.device, args.clock)
    peaks = {name: measure_peak_apart(part, name, setting, args.threads) for name in candidates}
    rows = []
    for peer in (name for name in candidates if name != OURS):
        times = [f"{seconds[name] * 1000:.1f}" for name in (OURS, peer)]
        ratios = [f"{values[OURS] / values[peer]:.2f}" for values in (seconds, peaks)]
        rows.append([part, setting.variant, str(setting.size), setting.dtype, peer, *times, *ratios])
    return rows


# --- the table -------------------------------------------------------------------------------------------------------

HEADER = ["part", "variant", "size", "dtype", "peer", "ours ms", "peer ms", "time ratio", "memory ratio"]


def describe(device: str) -> str:
    """What the numbers depend on: device, threads, versions."""
    if device == "cuda":
        place = torch.cuda.get_device_name()
    else:
        bf16 = "with" if cpu_has_bf16() else "without"
        place = f"{platform.machine()} CPU {bf16} bfloat16 instructions, {torch.get_num_threads()} threads"
    versions = [f"torch {torch.__version__}"]
    if importlib.util.find_spec("transformers"):
        versions.append(f"transformers {importlib.import_module('transformers').__version__}")
    return f"{place}; {', '.join(versions)}"


def to_markdown(rows: list[list[str]], header: list[str] = HEADER) -> str:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sizes", nargs="+", type=int, help="sides in pixels; default: those of the part")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="bf16 is autocast; default: those of the part")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--variant", choices=CHOICES, default="tiny")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="process: CPU time; on a busy machine, 1 thread"
    )
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    parser.add_argument("--peak", help=argparse.SUPPRESS)  # the process measure_peak_apart starts
    return parser.parse_args()


def list_settings(part: str, args: argparse.Namespace) -> list[Setting]:
    """What to measure of a part: what was asked for, else what a CPU does in minutes."""
    sizes, dtypes = DEFAULTS[part]
    chosen = [(size, dtype) for dtype in args.dtypes or dtypes for size in args.sizes or sizes]
    return [Setting(size, dtype, args.device, args.variant) for size, dtype in chosen]


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    if args.peak:
        setting = Setting(args.sizes[0], args.dtypes[0], args.device, args.variant)
        print(measure_peak(PARTS[args.part[0]][args.peak], setting))
        return
    rows: list[list[str]] = []
    for part, setting in [(name, setting) for name in args.part for setting in list_settings(name, args)]:
        new = compare(part, setting, args)
        print(*(" ".join(row) for row in new), sep="\n", file=sys.stderr, flush=True)  # a long command shows its way
        rows += new
    command = f"python -m benchmarks.sam2 {' '.join(sys.argv[1:])}"
    text = f"`{command}`\n\n{describe(args.device)}\n\n{to_markdown(rows)}\n"
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)


if __name__ == "__main__":
    main()
