"""Small trees of the fundus releases: their folders, names and encodings, with eyes that a network could learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from helpers_data import save_grey
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat
from trees import Tree

from medsam2.data.dataset import ImageDataset
from medsam2.data.releases.base import ImageRelease
from medsam2.data.releases.refuge import Refuge

EYE = (40, 48)  # height, width: not square, so that a swap shows
LEVELS = np.array([0, 64, 128, 191, 255], dtype=np.uint8)  # of a Drishti soft map


def dataset(release: ImageRelease, root: Path, **settings: Any) -> ImageDataset:
    return ImageDataset(root, release, **settings)


def refuge(root: Path, layout: str = "auto", cropped: bool = False, inverted: bool = False, **settings: Any) -> Any:
    return ImageDataset(root, Refuge(layout, cropped, inverted), **{"name": "refuge", **settings})


def mark(number: int, structure: str, grow: int = 0, shape: tuple[int, int] = EYE) -> NDArray[np.bool_]:
    """Cup or disc of eye ``number``, ``grow`` pixels larger than drawn; the cup lies inside the disc."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    center = shape[0] // 2 + number % 3, shape[1] // 2 - 4 + number % 7
    radius = {"cup": 4, "disc": 9}[structure] + number % 3 + grow
    return np.asarray((y - center[0]) ** 2 + (x - center[1]) ** 2 <= radius**2)


def photo(number: int, shape: tuple[int, int] = EYE) -> NDArray[np.uint8]:
    """Retina, brighter disc, brightest cup, and noise that makes every eye's file another."""
    grey = 60 + 70 * mark(number, "disc", shape=shape) + 70 * mark(number, "cup", shape=shape)
    noise = np.random.default_rng(number).integers(0, 20, (*shape, 3))
    return (grey[..., None] * np.array([1.0, 0.7, 0.4]) + noise).clip(0, 255).astype(np.uint8)


def save_eye(path: Path, number: int, shape: tuple[int, int] = EYE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(photo(number, shape))
    image.save(path, quality=95) if path.suffix == ".jpg" else image.save(path)
    (path.parent / f"._{path.name}").write_bytes(b"Mac OS X")  # what a Mac adds to an archive


def nested(number: int, values: Sequence[int], shape: tuple[int, int] = EYE) -> NDArray[np.int64]:
    """Cup and disc in one mask; ``values`` of background, rim and cup."""
    cup, disc = mark(number, "cup", shape=shape), mark(number, "disc", shape=shape)
    return np.where(cup, values[2], np.where(disc, values[1], values[0]))


def write_multi_rater(
    root: Path, train: int = 9, test: int = 3, raters: int = 3, folders: tuple[str, str] = ("Training-400", "Test-400")
) -> Path:
    """REFUGE as Medical-SAM2 reads it: rater k draws every structure k - 1 pixels larger."""
    for number in range(train + test):
        case_id = f"g{number:04d}"
        folder = root / folders[number >= train] / case_id
        save_eye(folder / f"{case_id}.jpg", number)
        Image.fromarray(photo(number)[4:34, 8:38]).save(folder / f"{case_id}_cropped.jpg", quality=95)
        for structure in ("cup", "disc"):
            for rater in range(raters):
                mask, name = mark(number, structure, rater) * 255, f"{case_id}_seg_{structure}_{rater + 1}"
                save_grey(folder / f"{name}.png", mask)
                save_grey(folder / f"{name}_cropped.jpg", mask[4:34, 8:38])
            save_grey(folder / f"{case_id}_{structure}.bmp", mark(number, structure, 1) * 255)
    return root


def write_official(root: Path, count: int = 8, values: Sequence[int] = (255, 128, 0)) -> Path:
    """REFUGE as the challenge gives it: half of ``count`` train (glaucoma and not), a quarter val and test each."""
    masks = "Annotation-Training400/Disc_Cup_Masks"
    places = (
        ("Training400/Glaucoma/g{:04d}", f"{masks}/Glaucoma/g{{:04d}}"),
        ("Training400/Non-Glaucoma/n{:04d}", f"{masks}/Non-Glaucoma/n{{:04d}}"),
        ("REFUGE-Validation400/V{:04d}", "REFUGE-Validation400-GT/Disc_Cup_Masks/V{:04d}"),
        ("Test400/T{:04d}", "REFUGE-Test-GT/Disc_Cup_Masks/G/T{:04d}"),
    )
    for number in range(count):
        image, mask = (name.format(number // 4 + 1) for name in places[number % 4])
        save_eye(root / f"{image}.jpg", number)
        save_grey(root / f"{mask}.bmp", nested(number, values))
    (root / "Annotation-Training400" / "Fovea_location.xlsx").touch()
    return root


def write_kaggle(root: Path, values: Sequence[int] = (0, 1, 2)) -> Path:
    """REFUGE in the bundle of Kaggle: 4 eyes of train, 2 of val and test each, beside their squares."""
    for number, split in enumerate(("train", "train", "val", "test") * 2):
        name = f"{split[0]}{number:04d}"
        save_eye(root / split / "Images" / f"{name}.jpg", number)
        save_grey(root / split / "Masks" / f"{name}.png", nested(number, values))
        save_eye(root / split / "Images_Square" / f"{name}.jpg", number, (40, 40))
        (root / split / "index.json").write_text("{}")
    return root


def write_drishti(root: Path, train: int = 8, test: int = 3, groups: bool = False, extra: int = 0) -> Path:
    """Drishti-GS1: i experts draw what is i - 1 pixels smaller than any; maps ``extra`` rows and columns larger."""
    for number in range(train + test):
        base, masks = (root / "Training", "GT") if number < train else (root / "Test", "Test_GT")
        case_id = f"drishtiGS_{number + 1:03d}"
        group = ("GLAUCOMA" if number % 2 else "NORMAL") if groups else ""
        save_eye(base / "Images" / group / f"{case_id}.png", number)
        for structure, name in (("cup", "cupsegSoftmap"), ("disc", "ODsegSoftmap")):
            shape = EYE[0] + extra, EYE[1] + extra
            count = sum(mark(number, structure, -i, shape).astype(int) for i in range(4))
            save_grey(base / masks / case_id / "SoftMap" / f"{case_id}_{name}.png", LEVELS[count])
            (base / masks / case_id / "AvgBoundary").mkdir(exist_ok=True)
            (base / masks / case_id / "AvgBoundary" / f"{case_id}_diskCenter.txt").write_text("20 24")
    return root


def write_rim_one_r3(root: Path, count: int = 12) -> Path:
    """RIM-ONE r3: two views side by side; expert 2 draws a pixel larger; masks of one expert are of half width."""
    for number in range(count):
        group = "Healthy" if number % 3 else "Glaucoma and suspects"
        case_id = f"{'N' if number % 3 else 'GS'[number % 2]}-{number + 1}-{'RL'[number % 2]}"
        path = root / group / "Stereo Images" / f"{case_id}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.hstack([photo(number), photo(number + 100)])).save(path, quality=95)
        for name, structure in (("Cup", "cup"), ("Disc", "disc")):
            wide = np.pad(mark(number, structure) * 255, ((0, 0), (0, EYE[1])))
            save_grey(root / group / "Expert1_masks" / f"{case_id}-1-{name}-exp1.png", wide)
            save_grey(root / group / "Expert2_masks" / f"{case_id}-1-{name}-exp2.png", mark(number, structure, 1) * 255)
            save_grey(root / group / "Average_masks" / f"{case_id}-{name}-Avg.png", wide)
            (root / group / "Expert1_masks" / f"{case_id}-1-{name}-exp1.txt").touch()
    return root


def write_rim_one_dl(root: Path, count: int = 12) -> Path:
    """RIM-ONE DL: every eye in both partitions, a quarter of them for the test; release 1 is of hospital 1."""
    for number in range(count):
        case_id = f"r{number // 4 + 1}_Im{number + 1:03d}"
        label = "glaucoma" if number % 2 else "normal"
        for partition, test in (("randomly", number % 4 == 0), ("by_hospital", number >= 8)):
            folder = f"partitioned_{partition}/{'test_set' if test else 'training_set'}/{label}"
            save_eye(root / "RIM-ONE_DL_images" / folder / f"{case_id}.png", number)
        for name, structure in (("Cup", "cup"), ("Disc", "disc")):
            stem = root / "RIM-ONE_DL_reference_segmentations" / label / f"{case_id}-1-{name}-T"
            save_grey(stem.with_suffix(".png"), mark(number, structure) * 255)
            stem.with_suffix(".txt").touch()
    return root


def write_origa(root: Path, count: int = 12, values: Sequence[int] = (0, 1, 2), matlab: bool = False) -> Path:
    """ORIGA: half of the eyes in set A; ``matlab`` as the original release, without the bundle's masks and list."""
    rows = ["Eye,Filename,ExpCDR,Set,Glaucoma"]
    for number in range(count):
        case_id = f"{number + 1:03d}"
        save_eye(root / "Images" / f"{case_id}.jpg", number)
        rows.append(f"{'OD' if number % 2 else 'OS'},{case_id}.jpg,0.5,{'AB'[number % 2]},0")
        if matlab:
            (root / "Semi-automatic-annotations").mkdir(exist_ok=True)
            mask = nested(number, (0, 1, 2)).astype(np.uint8)
            savemat(root / "Semi-automatic-annotations" / f"{case_id}.mat", {"mask": mask})
            continue
        save_grey(root / "Masks" / f"{case_id}.png", nested(number, values))
        save_eye(root / "Images_Square" / f"{case_id}.jpg", number, (36, 36))
        save_grey(root / "Masks_Square" / f"{case_id}.png", nested(number, values, (36, 36)))
    if not matlab:
        (root / "OrigaList.csv").write_text("\n".join(rows) + "\n")
    return root


def contour(number: int, structure: str, grow: float = 0.0) -> NDArray[np.float64]:
    """Points (x, y) on a circle that no pixel centre lies on."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    radius = {"cup": 4.3, "disc": 9.3}[structure] + number % 3 + grow
    center = np.array([EYE[1] // 2 - 4 + number % 7, EYE[0] // 2 + number % 3])
    return center + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def write_papila(root: Path, patients: int = 6) -> Path:
    """PAPILA: two eyes of each patient, expert 2 draws two pixels larger."""
    (root / "ClinicalData").mkdir(parents=True)
    (root / "ClinicalData" / "patient_data_od.xlsx").touch()
    for number in range(2 * patients):
        case_id = f"RET{number // 2 + 2:03d}{'OS' if number % 2 else 'OD'}"
        save_eye(root / "FundusImages" / f"{case_id}.jpg", number)
        for structure in ("cup", "disc"):
            for expert in (1, 2):
                path = root / "ExpertsSegmentations" / "Contours" / f"{case_id}_{structure}_exp{expert}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.savetxt(path, contour(number, structure, 2.0 * (expert - 1)), fmt="%.7e")
    return root


def tree(name: str, choice: str, folder: str, write: Callable[..., Path], *overrides: str, **settings: Any) -> Tree:
    def make(data_root: Path) -> None:
        write(data_root / folder, **settings)

    return Tree(name, choice, make, tuple(f"dataset.release.{override}" for override in overrides))


TREES = [
    tree("refuge_multi_rater", "refuge", "REFUGE", write_multi_rater),
    tree("refuge_cropped", "refuge", "REFUGE", write_multi_rater, "cropped=true"),
    tree("refuge_official", "refuge", "REFUGE", write_official),
    tree("refuge_inverted", "refuge", "REFUGE", write_official, "inverted=true", values=(0, 128, 255)),
    tree("refuge_kaggle", "refuge", "REFUGE", write_kaggle),
    tree("drishti_gs", "drishti_gs", "Drishti-GS1_files", write_drishti),
    tree("drishti_gs_kaggle", "drishti_gs", "Drishti-GS1_files", write_drishti, groups=True, extra=2),
    tree("rim_one_r3", "rim_one_r3", "RIM-ONE r3", write_rim_one_r3),
    tree("rim_one_r3_average", "rim_one_r3", "RIM-ONE r3", write_rim_one_r3, "raters=average"),
    tree("rim_one_dl_random", "rim_one_dl", "RIM-ONE_DL", write_rim_one_dl),
    tree("rim_one_dl_hospital", "rim_one_dl", "RIM-ONE_DL", write_rim_one_dl, "partition=hospital"),
    tree("origa", "origa", "ORIGA", write_origa),
    tree("origa_square", "origa", "ORIGA", write_origa, "square=true"),
    tree("origa_matlab", "origa", "ORIGA", write_origa, matlab=True),
    tree("papila", "papila", "PAPILA", write_papila),
]
