"""Cup and disc in one file: the order of the values is told by the corners, and never guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medsam2.data.records import DatasetError
from medsam2.data.releases.disc_cup import ORDERS, find_masks, list_rated, split_nested

MASK = np.array([[0, 0, 0, 0, 0], [0, 1, 2, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]])  # positions in an order


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_every_order(order: tuple[int, int, int]) -> None:
    both = split_nested(np.array(order)[MASK], Path("x.png"))
    assert (both["cup"] == (MASK == 2)).all()
    assert (both["disc"] == (MASK > 0)).all()


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize(("missing", "left"), [(2, 1), (1, 2)], ids=["no cup", "no rim"])
def test_a_mask_without_cup_or_rim(order: tuple[int, int, int], missing: int, left: int) -> None:
    values = np.where(missing == MASK, 0, MASK)
    both = split_nested(np.array(order)[values], Path("x.png"))
    assert (both["disc"] == (values > 0)).all()
    assert (both["cup"] == (values == 2)).all()
    assert both["cup"].any() == (left == 2)


@pytest.mark.parametrize("background", [0, 255])
def test_an_empty_mask(background: int) -> None:
    both = split_nested(np.full((3, 4), background), Path("x.png"))
    assert not both["cup"].any()
    assert not both["disc"].any()


@pytest.mark.parametrize(
    ("values", "corners"),
    [
        (np.where(MASK == 0, 1, 0), "1"),
        (np.where(MASK == 0, 128, 255), "128"),
        (np.pad(MASK, ((0, 0), (0, 0)))[:, 2:], "0"),  # 0 at every corner, but 1 and 2 and 255 inside
        (np.array([[0, 1], [1, 255]]), "0, 1, 255"),
        (np.array([[0, 0], [1, 2]]), "0, 1, 2"),  # values of one order, but the disc reaches a corner
    ],
)
def test_what_fits_no_order_is_refused(values: np.ndarray, corners: str) -> None:
    if corners == "0":
        values = values.copy()
        values[1, 1] = 255
    with pytest.raises(DatasetError, match=rf"x\.png: its corners hold {corners}, where the background") as error:
        split_nested(values, Path("x.png"))
    assert error.value.kind == "inverted order"


def test_only_the_declared_order() -> None:
    with pytest.raises(DatasetError, match=r"background \(255\) must be. Turn it"):
        split_nested(np.array((0, 128, 255))[MASK], Path("x.png"), orders=((255, 128, 0),), cure="Turn it.")


def test_masks_are_found_by_name_not_by_place(tmp_path: Path) -> None:
    for name in ("b-1-Cup.png", "deep/a-2-DISC.png", "deep/a-1-disc.png", "._b-1-Disc.png", "b-1-Cup.txt", "b-Cup.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_masks(tmp_path, r"(?P<id>.+)-\d-(?P<structure>cup|disc)\.png")
    assert {key: path.name for key, path in found.items()} == {
        ("b", "cup"): "b-1-Cup.png",
        ("a", "disc"): "a-1-disc.png",
    }


def test_every_rater_is_asked_of_every_case(tmp_path: Path) -> None:
    images = {name: tmp_path / f"{name}.jpg" for name in ("a", "b")}
    first = {("a", "cup"): tmp_path / "1/a", ("b", "cup"): tmp_path / "1/b", ("c", "cup"): tmp_path / "1/c"}
    listing = list_rated(
        tmp_path, images, {"1": first, "2": {("a", "cup"): tmp_path / "2/a"}}, ["cup"], "test", str.upper
    )
    assert [(r.case_id, r.patient_id, r.split, r.image) for r in listing.records] == [
        ("a", "A", "test", "a.jpg"),
        ("b", "B", "test", "b.jpg"),
    ]
    assert listing.records[0].labels == (("cup", ("1/a", "2/a")),)
    assert listing.problems == [
        ("missing rater", "b.jpg: no mask of the cup in 2"),
        ("missing image", "1/c: no image of it"),
    ]
