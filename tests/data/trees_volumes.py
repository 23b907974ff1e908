"""Small trees of the volume releases: 24×20×6 voxels, blocks for organs, grids that are flipped, turned and oblique."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import SimpleITK
from helpers_data import save_grey
from nibabel.orientations import axcodes2ornt, ornt_transform
from numpy.typing import NDArray
from trees import Tree

from medsam2.data.intensity import Percentiles, Range, Window
from medsam2.data.releases.base import VolumeRelease
from medsam2.data.volume_dataset import VolumeDataset

SHAPE = (24, 20, 6)  # right, front, up: what x, y, z count in a phantom
MM = (0.9, 0.8, 3.0)
CODES = ("RAS", "LPS", "LAS", "PIR", "SRA", "RAI")  # where a file's axes run
TILT = 0.1  # rad, about the axis from left to right
INTENSITY = {"ct": Window(40, 400), "mr": Percentiles(), "8bit": Range(0, 255)}


def organs(number: int, count: int) -> NDArray[np.uint8]:
    """Blocks of 3×4×4 voxels with the values 1…count, at most 15; where they lie depends on ``number``."""
    label = np.zeros(SHAPE, dtype=np.uint8)
    for value in range(1, count + 1):
        x, y = 1 + 4 * ((value - 1) % 5) + number % 3, 1 + 6 * ((value - 1) // 5) + number % 2
        label[x : x + 3, y : y + 4, 1:5] = value
    return label


def scan(number: int, label: NDArray[np.uint8]) -> NDArray[np.int16]:
    """HU -100 outside, 20 more for every value, and noise that makes every file another."""
    noise = np.random.default_rng(number).integers(-5, 6, label.shape)
    return (-100 + 20 * label.astype(np.int16) + noise).astype(np.int16)


def affine_of(mm: Sequence[float] = MM, tilt: float = TILT) -> NDArray[np.float64]:
    """From a phantom's x, y, z to mm, oblique, its first voxel somewhere in the room."""
    cos, sin = np.cos(tilt), np.sin(tilt)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ np.diag(mm)
    affine[:3, 3] = (-12.5, 7.0, -40.0)
    return affine


def turned(array: NDArray[Any], codes: str, affine: NDArray[np.float64] | None = None) -> nibabel.Nifti1Image:
    """A phantom as a file stores it whose axes run as ``codes`` say; the voxels stay where they are."""
    image = nibabel.Nifti1Image(array, affine_of() if affine is None else affine)
    return image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes)))


def save_volume(path: Path, array: NDArray[Any], codes: str = "RAS", affine: NDArray[np.float64] | None = None) -> Path:
    """NIfTI by nibabel, with scanner coordinates and the hidden file of a Mac; everything else by SimpleITK."""
    image = turned(array, codes, affine)
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / f"._{path.name}").write_bytes(b"Mac OS X")
    if path.name.endswith((".nii", ".nii.gz")):
        image.set_sform(image.affine, code=1)
        image.set_qform(image.affine, code=1)
        nibabel.save(image, path)
        return path
    moved = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    sizes = np.linalg.norm(moved[:3, :3], axis=0)
    itk = SimpleITK.GetImageFromArray(np.asarray(image.dataobj).T)
    itk.SetSpacing(sizes.tolist())
    itk.SetOrigin(moved[:3, 3].tolist())
    itk.SetDirection((moved[:3, :3] / sizes).ravel().tolist())
    SimpleITK.WriteImage(itk, str(path))
    return path


def save_pair(image: Path, label: Path, number: int, count: int, codes: str | None = None) -> None:
    """A scan and its label, on a grid that depends on ``number``."""
    values, codes = organs(number, count), codes or CODES[number % len(CODES)]
    save_volume(image, scan(number, values), codes)
    save_volume(label, values, codes)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def volumes(release: VolumeRelease, root: Path, **settings: Any) -> VolumeDataset:
    """A dataset of a release, with an intensity for every modality."""
    return VolumeDataset(root, release, **{"intensity": INTENSITY, "name": "volumes", **settings})


def read_label(data: VolumeDataset, volume: str) -> NDArray[np.uint8]:
    """Slice×row×column with the structures numbered from 1 in their order; for structures that do not overlap."""
    records = sorted((r for r in data.records() if r.volume == volume), key=lambda r: r.index)
    assert [r.index for r in records] == list(range(len(records))), "needs slices=all"
    numbers = {structure: np.uint8(i) for i, structure in enumerate(data.structures, start=1)}
    return np.stack([sum(mask * numbers[s] for s, mask in data.load(r).labels.items()) for r in records])


def as_shown(phantom: NDArray[Any]) -> NDArray[Any]:
    """A phantom upwards, to the back, to the left."""
    return phantom[::-1, ::-1].transpose(2, 1, 0)


# ------------------------------------------------------------------------------------------------ releases


def write_btcv(root: Path, count: int = 10, below: str = "Abdomen/RawData") -> Path:
    """30 scans in the release: half of ``count`` from 0001 on, half from 0021; two test scans without labels."""
    base = root / below
    for number in range(count):
        case = number + 1 if number < count // 2 else number + 21 - count // 2
        save_pair(
            base / f"Training/img/img{case:04d}.nii.gz", base / f"Training/label/label{case:04d}.nii.gz", case, 13
        )
    for case in (61, 62):
        save_volume(base / f"Testing/img/img{case:04d}.nii.gz", scan(case, organs(case, 13)))
    return root


def write_synapse(root: Path, train: int = 8, test: int = 3) -> Path:
    """Arrays as SAMed makes them: z, y, x of the file, float32, labels too; twelve slices to train on, six to test."""
    (root / "test_vol_h5").mkdir(parents=True)
    (root / "train_npz").mkdir()
    for number in range(train + test):
        label = organs(number, 8).T
        image = ((scan(number, organs(number, 8)).T + 125) / 400).clip(0, 1).astype(np.float32)
        arrays = {"image": image, "label": label.astype(np.float32)}
        if number < train:
            for index in range(2 * len(label)):
                name = f"case{number + 5:04d}_slice{index:03d}.npz"
                np.savez(root / "train_npz" / name, **{key: array[index // 2] for key, array in arrays.items()})
            continue
        with h5py.File(root / "test_vol_h5" / f"case{number - train + 1:04d}.npy.h5", "w") as file:
            for key, array in arrays.items():
                file[key] = array
    (root / "lists").mkdir()
    (root / "lists" / "train.txt").write_text("case0005_slice000\n")
    return root


def write_btcv_ms2(root: Path, train: int = 8, test: int = 3) -> Path:
    """JPEG slices and int arrays; twelve slices, so that 10 has to come after 9."""
    for number in range(train + test):
        part = "Training" if number < train else "Test"
        label = np.repeat(organs(number, 13).T, 2, axis=0)
        grey = ((scan(number, organs(number, 13)).T + 160) / 400 * 255).clip(0, 255)
        for index, (picture, mask) in enumerate(zip(np.repeat(grey, 2, axis=0), label, strict=True)):
            save_grey(root / part / "image" / f"img{number:04d}" / f"{index}.jpg", picture)
            (folder := root / part / "mask" / f"img{number:04d}").mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{index}.npy", mask.astype(np.int64))
    (root / "Training" / "image" / ".DS_Store").touch()
    return root


def write_amos(root: Path, train: int = 8, val: int = 3) -> Path:
    """CT from 0001 on, MR from 0507 on; validation labels are there, test labels are not."""
    for first in (1, 507):
        for number in range(train + val + 1):
            part = "Tr" if number < train else "Va" if number < train + val else "Ts"
            name = f"amos_{first + number:04d}.nii.gz"
            if part == "Ts":
                save_volume(root / "imagesTs" / name, scan(number, organs(number, 15)))
            else:
                save_pair(root / f"images{part}" / name, root / f"labels{part}" / name, first + number, 15)
    write_json(root / "dataset.json", {"name": "AMOS", "labels": {"0": "background", "1": "spleen"}})
    (root / "readme.md").touch()
    return root


def write_flare22(root: Path, count: int = 10, flat: bool = False) -> Path:
    images, labels = (root, root) if flat else (root / "images", root / "labels")
    for case in range(1, count + 1):
        name = f"FLARE22_Tr_{case:04d}"
        save_pair(images / f"{name}_0000.nii.gz", labels / f"{name}.nii.gz", case, 13)
    save_volume(root / "unlabeled" / "Case_00001_0000.nii.gz", scan(0, organs(0, 13)))
    return root


def write_acdc(root: Path, train: int = 8, test: int = 3, sform: bool = True) -> Path:
    """Two frames of each heart, thick slices; with ``sform`` as released, where it counts voxels and the qform mm."""
    for number in range(train + test):
        patient = f"patient{number + 1 if number < train else number + 101 - train:03d}"
        folder = root / "database" / ("training" if number < train else "testing") / patient
        for frame in (1, 12):
            label = organs(number + frame, 3)
            for name, array in (("", scan(number + frame, label) + 200), ("_gt", label)):
                path = save_volume(
                    folder / f"{patient}_frame{frame:02d}{name}.nii.gz", array, "LPS", affine_of((1.5, 1.4, 10), 0)
                )
                if sform:
                    _count_voxels(path)
        save_volume(
            folder / f"{patient}_4d.nii.gz", np.stack([scan(number, label)] * 2, axis=-1), affine=affine_of(tilt=0)
        )
        (folder / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: DCM\n")
    return root


def _count_voxels(path: Path) -> None:
    image = nibabel.load(path)
    image.set_qform(image.affine, code=1)
    image.header.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]), code=1)
    nibabel.save(nibabel.Nifti1Image(image.dataobj, None, image.header), path)


def write_msd(
    root: Path,
    count: int = 10,
    modality: Mapping[str, str] | None = None,
    labels: Sequence[str] = ("spleen",),
    hidden: bool = False,
) -> Path:
    """A task; with several modalities the images have a fourth axis. ``hidden``: the list names a Mac's files too."""
    modality = modality or {"0": "CT"}
    training = []
    for number in range(1, count + 1):
        name, values = f"case_{number:03d}.nii.gz", organs(number, len(labels))
        image = scan(number, values)
        if len(modality) > 1:
            image = np.stack([image + 100 * channel for channel in range(len(modality))], axis=-1)
        codes = CODES[number % len(CODES)]
        save_volume(root / "imagesTr" / name, image, codes)
        save_volume(root / "labelsTr" / name, values, codes)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    if hidden:
        training.append({"image": "./imagesTr/._case_001.nii.gz", "label": "./labelsTr/._case_001.nii.gz"})
    save_volume(root / "imagesTs" / "case_099.nii.gz", scan(99, organs(99, 1)))
    names = {"0": "background"} | {str(value): name for value, name in enumerate(labels, start=1)}
    described = {"name": root.name, "modality": dict(modality), "labels": names, "numTraining": count}
    write_json(root / "dataset.json", {**described, "training": training, "test": ["./imagesTs/case_099.nii.gz"]})
    return root


def write_nnunet(
    root: Path,
    count: int = 10,
    channels: Sequence[str] = ("CT",),
    labels: Mapping[str, Any] | None = None,
    ending: str = ".nii.gz",
    test: int = 0,
) -> Path:
    """Cases heart01_t1, heart01_t2, heart02_t1, …: two of each patient; ``test`` labelled ones, or one without."""
    labels = labels or {"background": 0, "Left Atrium": 1, "LV": 2, "RV": 3}
    codes = CODES[1] if ending == ".mha" else None
    for number in range(count + (test or 1)):
        part = "Tr" if number < count else "Ts"
        case, values = f"heart{number // 2 + 1:02d}_t{number % 2 + 1}", organs(number, 3)
        for channel in range(len(channels)):
            name = f"{case}_{channel:04d}{ending}"
            save_volume(root / f"images{part}" / name, scan(number, values) + 100 * channel, codes or CODES[number % 6])
        if number < count + test:
            save_volume(root / f"labels{part}" / f"{case}{ending}", values, codes or CODES[number % 6])
    names = {str(number): name for number, name in enumerate(channels)}
    write_json(
        root / "dataset.json", {"channel_names": names, "labels": labels, "numTraining": count, "file_ending": ending}
    )
    return root


def write_medsam_npz(root: Path, train: int = 8, test: int = 3, folders: bool = True) -> Path:
    """As pre_CT_MR.py writes them: z, y, x, 8 bits, slices with a label only, spacing x, y, z."""
    for number in range(train + test):
        part = ("MedSAM_train" if number < train else "MedSAM_test") if folders else "."
        label = organs(number, 3).T[1:5]
        grey = ((scan(number, organs(number, 3)).T[1:5] + 160) / 400 * 255).clip(0, 255).astype(np.uint8)
        (folder := root / part / "CT_Abd").mkdir(parents=True, exist_ok=True)
        np.savez_compressed(folder / f"CT_Abd_FLARE22_Tr_{number + 1:04d}.npz", imgs=grey, gts=label, spacing=MM)
    return root


def tree(name: str, choice: str, folder: str, write: Callable[..., Path], *overrides: str, **settings: Any) -> Tree:
    def make(data_root: Path) -> None:
        write(data_root / folder, **settings)

    return Tree(name, choice, make, tuple(f"dataset.{override}" for override in overrides))


PROSTATE = {"modality": {"0": "T2", "1": "ADC"}, "labels": ("PZ", "TZ")}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "Edge": 1, "ignore": 4}
TREES = [
    tree("btcv", "btcv", "BTCV", write_btcv),
    tree("synapse", "synapse", "Synapse", write_synapse),
    tree("synapse_transunet", "synapse", "Synapse", write_synapse, "release.order=transunet"),
    tree("btcv_ms2", "btcv_ms2", "btcv_ms2", write_btcv_ms2),
    tree("amos_ct", "amos_ct", "amos22", write_amos),
    tree("amos_mr", "amos_mr", "amos22", write_amos),
    tree("flare22", "flare22", "FLARE22Train", write_flare22),
    tree("flare22_flat", "flare22", "FLARE22Train", write_flare22, flat=True),
    tree("acdc", "acdc", "ACDC", write_acdc),
    tree("msd", "msd", "Task09_Spleen", write_msd),
    tree(
        "msd_channels",
        "msd",
        "Task05_Prostate",
        write_msd,
        "release.task=Task05_Prostate",
        "release.channels=[0]",
        **PROSTATE,
    ),
    tree("nnunet", "nnunet", "nnUNet_raw/Dataset001_Name", write_nnunet, "release.patient_pattern='(heart[0-9]+)'"),
    tree(
        "nnunet_nrrd",
        "nnunet",
        "nnUNet_raw/Dataset002_Regions",
        write_nnunet,
        "name=Dataset002_Regions",
        "release.channels=[0,1,2]",
        "release.patient_pattern='(heart[0-9]+)'",
        channels=("T1", "T2", "FLAIR"),
        labels=REGIONS,
        ending=".nrrd",
        test=4,
    ),
    tree(
        "medsam_npz",
        "medsam_npz",
        "medsam_npz",
        write_medsam_npz,
        "release.labels={liver: 1, right_kidney: 2, spleen: 3}",
    ),
]
