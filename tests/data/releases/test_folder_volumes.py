"""Own volumes: NIfTI, NRRD, MetaImage and DICOM series, by folder or table."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from helpers_releases import case_of, fails, splits_of
from trees_folder import AFFINE, VOLUME, save_nifti, volume_of, write_volume_splits, write_volumes

from medsam2.data.intensity import Percentiles, Window
from medsam2.data.releases.folder_volumes import FolderVolumes
from medsam2.data.volume_dataset import VolumeDataset

LABELS = {"organ": [1, 2], "tumour": 2}


def volumes(root: Path, labels: Any = LABELS, modality: str | None = "ct", **settings: Any) -> VolumeDataset:
    release = FolderVolumes(labels, modality, **{"mask_ending": "_seg", **settings})
    return VolumeDataset(root, release, {"ct": Window(40, 400), "mr": Percentiles()})


def upright(slice_of_file: Any) -> Any:
    """A slice X×Y of the file as rows and columns: x runs to the left and y to the back in AFFINE, so as they are."""
    return slice_of_file.T


@pytest.mark.parametrize("image", [".nii.gz", ".nii", ".nrrd", ".mha", "dicom"])
def test_values_from_every_format(tmp_path: Path, image: str) -> None:
    write_volumes(tmp_path, 3, dicom=range(3) if image == "dicom" else (), image=image)
    data = volumes(tmp_path)
    case = case_of(data, "scan2_z003")
    hu, label = volume_of(2)
    assert np.array_equal(case.labels["organ"], upright(label[..., 3]) > 0)
    assert np.array_equal(case.labels["tumour"], upright(label[..., 3]) == 2)
    assert case.image[..., 0] == pytest.approx(np.clip((upright(hu[..., 3]) + 160) / 400, 0, 1), abs=1e-6)
    assert case.spacing == pytest.approx((1.2, 1.5), abs=1e-5)
    assert (case.record.volume, case.record.patient_id, case.record.modality) == ("scan2", "scan2", "ct")
    assert {r.index for r in data.records()} == {1, 2, 3, 4}


def test_mr_is_shown_by_percentiles(tmp_path: Path) -> None:
    hu, _ = volume_of(2)
    low, high = np.percentile(hu[hu != 0], [0.5, 99.5])
    image = case_of(volumes(write_volumes(tmp_path, 4), modality="mr"), "scan2_z003").image[..., 0]
    assert image == pytest.approx(np.clip((upright(hu[..., 3]) - low) / (high - low), 0, 1), abs=1e-5)


def test_splits_by_folder(tmp_path: Path) -> None:
    found = splits_of(volumes(write_volume_splits(tmp_path)))
    assert sorted({case.rpartition("_")[0] for case in found["test"]}) == ["test_scan6", "test_scan7", "test_scan8"]
    assert {split: len(cases) for split, cases in found.items()} == {"train": 20, "val": 4, "test": 12}


def test_patients_by_name(tmp_path: Path) -> None:
    data = volumes(write_volumes(tmp_path, 6), patient_pattern="(scan)[0-5]")
    assert {r.patient_id for r in data.listing().records} == {"scan"}


def test_a_table(tmp_path: Path) -> None:
    write_volumes(tmp_path, 6, dicom=(1,))
    names = [f"images/scan{n}" + ".nii.gz" * (n != 1) for n in range(6)]
    lines = [f"{name},masks/scan{n}_seg.nii.gz,{'test' * (n > 3)},p{n // 2}" for n, name in enumerate(names)]
    (tmp_path / "cases.csv").write_text("\n".join(["image,mask,split,patient", *lines]))
    records = volumes(tmp_path, table="cases.csv").listing().records
    assert [(r.case_id, r.patient_id, r.split) for r in records[:2]] == [("scan0", "p0", ""), ("scan1", "p0", "")]
    assert records[5] == type(records[5])(
        "scan5",
        "p2",
        "test",
        "images/scan5.nii.gz",
        (("organ", ("masks/scan5_seg.nii.gz",)), ("tumour", ("masks/scan5_seg.nii.gz",))),
        modality="ct",
    )


@pytest.mark.parametrize(
    ("header", "cell"),
    [
        ("image,mask_a,mask_b", "masks/scan0_seg.nii.gz,masks/scan0_seg.nii.gz"),
        ("image,mask", "masks/scan0_seg.nii.gz;masks/scan1_seg.nii.gz"),
    ],
)
def test_a_table_with_several_masks_of_a_volume(tmp_path: Path, header: str, cell: str) -> None:
    write_volumes(tmp_path, 2)
    (tmp_path / "cases.csv").write_text(f"{header}\nimages/scan0.nii.gz,{cell}\n")
    fails(volumes(tmp_path, table="cases.csv").records, "table", "several masks of one volume")


def test_channels_of_a_fourth_axis(tmp_path: Path) -> None:
    root = write_volumes(tmp_path, 4)
    for number in range(4):
        hu, _ = volume_of(number)
        save_nifti(root / f"images/scan{number}.nii.gz", np.stack([hu, hu + 50, hu - 50], axis=-1))
    fails(lambda: case_of(volumes(root), "scan2_z003"), "channels", "scan2.nii.gz")
    image = case_of(volumes(root, channels=[2, 0, 1]), "scan2_z003").image
    hu, _ = volume_of(2)
    assert image[..., 0] == pytest.approx(np.clip((upright(hu[..., 3]) + 110) / 400, 0, 1), abs=1e-6)
    assert image.shape == (*VOLUME[1::-1], 3)


def test_what_must_be_said(tmp_path: Path) -> None:
    root = write_volumes(tmp_path, 2)
    fails(volumes(root, labels=None).records, "unreadable", "dataset.release.labels is not set")
    fails(volumes(root, modality=None).records, "unreadable", "dataset.release.modality is not set")
    fails(lambda: case_of(volumes(write_volumes(root, 5), modality="us"), "scan0_z001"), "unreadable", "'us'")


def test_errors(tmp_path: Path) -> None:
    root = write_volumes(tmp_path, 4)
    fails(lambda: volumes(root, {"organ": 1}).load(volumes(root, {"organ": 1}).records()[0]), "undeclared value", "2")
    (root / "images/scan1.nii.gz").unlink()
    fails(volumes(root).records, "missing image", "masks/scan1_seg.nii.gz: no image scan1.* in images")
    fails(volumes(root, mask_ending="").records, "missing mask", "images/scan0.nii.gz: no mask scan0.* in masks")
    shutil.rmtree(root / "masks")
    fails(volumes(root).records, "missing", "masks missing", "dataset.release.modality=ct", "<case>/ with one DICOM")


def test_a_folder_of_images(tmp_path: Path) -> None:
    for name in ("images/a.png", "masks/a.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    message = f"{tmp_path}: no volumes (.nii", "right below images/ (in it: a.png)", "Found there: images/, masks/"
    fails(volumes(tmp_path).records, "missing", *message, "dataset=folder")


def test_the_written_trees_are_oblique() -> None:
    assert nibabel.aff2axcodes(AFFINE) == ("L", "P", "S")
