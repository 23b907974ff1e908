"""What loading costs: `python -m benchmarks.data`, cases per second without, into and from the cache; and memory.

Two made-up sets in real formats: fundus photographs of 2124×2056 as JPEG with their BMP masks (official REFUGE) at 1024
pixels, and a CT of 512×512×200 as NIfTI with four labels (nnU-Net raw) at 512 pixels, where a case is a slice.

    none     decoded on every access, as a script's Dataset does; the volume opened last stays in memory
    cold     decoded, resized and kept: the first job of a sweep
    warm     found in the cache: every epoch and job after it
    samples  training samples of four a batch with box prompts, from two workers, without the cache and warm

The first three are read in order by one process. Memory is the largest resident set of a process that reads a set cold
and warm, with few and with six times as many cases.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import torch
from PIL import Image

from medsam2.data.cache import Cache, DiskCache, NoCache
from medsam2.data.dataset import ImageDataset
from medsam2.data.fundus import draw_eye
from medsam2.data.intensity import Window
from medsam2.data.loader import PromptedCases, build_loader
from medsam2.data.prompts import BoxPrompt
from medsam2.data.records import Dataset, Record
from medsam2.data.releases.nnunet import NNUNet
from medsam2.data.releases.refuge import Refuge
from medsam2.data.seeding import stable_rng
from medsam2.data.source import CaseSource, prepare_groups
from medsam2.data.volume_dataset import VolumeDataset

FUNDUS_CASES, FEW, MANY = 24, 20, 120
SPLITS = {  # official REFUGE: images, masks
    "t": ("Training400/Non-Glaucoma", "Annotation-Training400/Disc_Cup_Masks/Non-Glaucoma"),
    "V": ("REFUGE-Validation400", "REFUGE-Validation400-GT/Disc_Cup_Masks"),
    "T": ("Test400", "REFUGE-Test-GT/Disc_Cup_Masks/N"),
}


def write_fundus(root: Path, count: int) -> None:
    """``count`` training cases (links to four drawn ones), one of val and of test, in official REFUGE's layout."""
    eyes = [draw_eye(stable_rng("benchmark", i), 2124, 1) for i in range(4)]
    for i, eye in enumerate(eyes):
        mask = np.full((2056, 2124), 255, np.uint8)
        mask[eye.raters["disc"][0][34:2090]] = 128
        mask[eye.raters["cup"][0][34:2090]] = 0
        Image.fromarray(eye.image[34:2090]).save(root / f"{i}.jpg", quality=92)
        Image.fromarray(mask).save(root / f"{i}.bmp")
    names = [f"t{i:04d}" for i in range(count)] + ["V0001", "T0001"]
    for i, name in enumerate(names):
        images, masks = (root / folder for folder in SPLITS[name[0]])
        for source, target in (
            (root / f"{i % 4}.jpg", images / f"{name}.jpg"),
            (root / f"{i % 4}.bmp", masks / f"{name}.bmp"),
        ):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            with target.open("ab") as file:  # behind the picture's end: another content for every case
                file.write(f"{name}".encode())


def write_ct(root: Path, count: int) -> None:
    """``count`` volumes of 512×512×200, 0.8×0.8×2.5 mm: noise in HU, four ellipsoids."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in (512, 512, 200)), indexing="ij", sparse=True)
    centres = [(-0.4, 0.0, 0.0), (0.4, 0.0, 0.2), (0.0, 0.4, -0.3), (0.0, -0.4, 0.4)]
    label = np.zeros((512, 512, 200), np.uint8)
    for value, centre in enumerate(centres, start=1):
        label[sum(((g - c) / 0.25) ** 2 for g, c in zip(grid, centre, strict=True)) < 1] = value
    affine = np.diag([-0.8, -0.8, 2.5, 1.0])
    for i in range(count):
        noise = np.random.default_rng(i).normal(0, 15, label.shape).astype(np.int16)
        image = np.where(label > 0, 40 + 20 * label.astype(np.int16), np.int16(-60)) + noise
        for folder, array, name in (("imagesTr", image, f"ct{i}_0000"), ("labelsTr", label, f"ct{i}")):
            (root / folder).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, affine), root / folder / f"{name}.nii.gz")
    labels = {"background": 0, "liver": 1, "spleen": 2, "left_kidney": 3, "right_kidney": 4}
    described = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": count, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(described))


def build(kind: str, root: Path, facts: Path | None) -> Dataset:
    cache_dir = None if facts is None else str(facts)
    if kind == "fundus":
        return ImageDataset(root, Refuge(), cache_dir=cache_dir)
    return VolumeDataset(root, NNUNet(), {"ct": Window(40, 400)}, slices="all", cache_dir=cache_dir)


def load(dataset: Dataset, size: int, cache: Cache) -> float:
    """Prepared training cases per second, in order, in this process: image and masks, no prompts."""
    records = training(dataset)
    source = CaseSource(dataset, size, cache)
    start = time.perf_counter()
    for record in records:
        source.get(record)
    return len(records) / (time.perf_counter() - start)


def sample(dataset: Dataset, size: int, cache: Cache, workers: int, limit: int | None = None) -> float:
    """Training samples per second, in batches of four; where there is a cache, of an epoch that finds all in it."""
    records = training(dataset)[:limit]
    cases = PromptedCases(dataset, records, BoxPrompt(), size, 0, training=True, cache=cache)
    loader = build_loader(cases, 4, workers, shuffle=False, seed=0)
    for _ in prepare_groups(cases.source, cases.source.lacking(records), workers):
        pass
    seconds = []
    for _ in range(2 if isinstance(cache, DiskCache) else 1):  # the first starts the workers
        start = time.perf_counter()
        for _ in loader:
            pass
        seconds.append(time.perf_counter() - start)
    return len(records) / seconds[-1]


def training(dataset: Dataset) -> list[Record]:
    return [record for record in dataset.records() if record.split == "train"]


def measure(kind: str, root: Path, size: int) -> dict[str, float]:
    """Rates by name, and the kilobytes of an entry."""
    rates = {"none": load(build(kind, root, None), size, NoCache())}
    with tempfile.TemporaryDirectory() as folder:
        cache = DiskCache(folder)
        build(kind, root, Path(folder)).records()  # what a dataset finds out when it lists its cases is no loading
        rates["cold"] = load(build(kind, root, Path(folder)), size, cache)
        rates["warm"] = statistics.median(load(build(kind, root, Path(folder)), size, cache) for _ in range(5))
        rates["samples"] = sample(build(kind, root, Path(folder)), size, cache, 2)
        entries = [path.stat().st_size for path in Path(folder).rglob("*.case")]
        rates["kB"] = statistics.mean(entries) / 1e3
    rates["samples, none"] = sample(build(kind, root, None), size, NoCache(), 2)
    return rates


def report_memory(root: Path, count: int) -> None:
    """The largest resident set in MB after ``count`` cases were read cold, then warm, without workers."""
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            sample(build("fundus", root, Path(folder)), 256, DiskCache(folder), 0, count)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def peak(root: Path, count: int) -> int:
    command = [sys.executable, "-m", "benchmarks.data", "--memory", str(root), str(count)]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", nargs=2, metavar=("ROOT", "COUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory:
        report_memory(Path(arguments.memory[0]), int(arguments.memory[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        fundus, ct = Path(folder) / "fundus", Path(folder) / "ct"
        for root in (fundus, ct):
            root.mkdir()
        write_fundus(fundus, max(FUNDUS_CASES, MANY))
        write_ct(ct, 4)
        columns = ("none", "cold", "warm", "samples, none", "samples")
        print(f"{'cases per second':32}" + "".join(f"{name:>15}" for name in columns) + f"{'kB a case':>12}")
        rows = ("fundus", fundus, 1024, "fundus 2124×2056 at 1024"), ("ct", ct, 512, "slices of 512×512×200 at 512")
        for kind, root, size, name in rows:
            r = measure(kind, root, size)
            print(f"{name:32}" + "".join(f"{r[column]:15.1f}" for column in columns) + f"{r['kB']:12.0f}")
            ratios = f"{r['warm'] / r['cold']:45.1f}{r['samples'] / r['samples, none']:30.1f}"
            print(f"{'  warm/cold, samples/none':32}{ratios}")
        few, many = peak(fundus, FEW), peak(fundus, MANY)
        print(f"resident memory: {few} MB for {FEW} cases, {many} MB for {MANY}: {many / few:.3f}")


if __name__ == "__main__":
    main()
