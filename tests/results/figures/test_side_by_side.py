"""Side by side: the cases that are chosen, whose pictures they are, and what captions and pixels say."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers_figures import NAN, make_arms, make_cases
from PIL import Image

from medsam2.results.figures import assign_looks, side_by_side
from medsam2.results.figures.cards import CARD, GAP, PREDICTION, SIDE, _rgb
from medsam2.results.figures.side_by_side import choose


class FakeGallery:
    """Grey images; the predictions of run number n are squares of 10 n pixels."""

    def __init__(self, number: int) -> None:
        self.number = number

    def cases(self) -> list[tuple[str, str]]:
        return []

    def image(self, case_id: str, structure: str) -> Any:
        if case_id == "c9":
            raise ValueError("shows no c9")
        return np.full((112, 224, 3), 90, dtype=np.uint8)

    def label(self, case_id: str, structure: str) -> Any:
        return np.zeros((112, 224), dtype=np.bool_)

    def prediction(self, case_id: str, structure: str) -> Any:
        mask = np.zeros((112, 224), dtype=np.bool_)
        mask[20 : 20 + 10 * self.number, 20 : 20 + 10 * self.number] = True
        return mask


def load(path: Path) -> Any:
    assert path.parts[-3:] == ("pictures", "test", "gallery.npz")
    if "lost" in path.parts[1]:
        raise FileNotFoundError(path)
    return FakeGallery(int(path.parts[1]))


def make_runs(cases: pd.DataFrame, folders: dict[str, str] | None = None) -> pd.DataFrame:
    ids = list(dict.fromkeys(cases["run_id"]))
    index = pd.Index(ids, name="run_id")
    seeds = [int(run_id.split("-")[1]) for run_id in ids]
    return pd.DataFrame({"seed": seeds, "folder": [f"/{(folders or {}).get(i, '1')}" for i in ids]}, index=index)


def open_png(png: bytes) -> tuple[Image.Image, np.ndarray[Any, Any]]:
    picture = Image.open(io.BytesIO(png))
    return picture, np.asarray(picture.convert("RGBA"))


CASES = make_cases({"a": [[0.9, 0.2, 0.6, 0.7], [0.7, 0.2, 0.6, 0.7]], "b": [[0.9, 0.5, 0.4, NAN]]})


def test_cases_are_chosen_by_the_mean_over_arms() -> None:
    worst, median, best = side_by_side(CASES, make_runs(CASES), "dice", ["b", "a"], assign_looks("ab"), load=load)
    assert [(p.rank, p.case_id) for p in (worst, median, best)] == [("worst", "c1"), ("median", "c2"), ("best", "c0")]
    assert worst.caption.startswith(
        "Worst of 3 cases: liver, case c1, mean Dice over arms and seeds 0.350."
    )  # c3 has no score of b
    assert best.alt.endswith(
        "predictions, with their Dice, of b (seed 0: 0.900), a (seed 0: 0.900)."
    )  # a's first seed, not its mean of 0.8


@pytest.mark.parametrize(
    ("values", "higher", "expected"),
    [
        ({}, True, []),
        ({"x": 1.0}, True, [("only", "x")]),
        ({"x": 1.0, "y": 2.0}, True, [("worst", "x"), ("best", "y")]),
        ({"x": 1.0, "y": 2.0, "z": 3.0}, False, [("worst", "z"), ("median", "y"), ("best", "x")]),
    ],
)
def test_few_cases_give_few_pictures(values: dict[str, float], higher: bool, expected: list[tuple[str, str]]) -> None:
    assert choose(pd.Series(values, dtype=float), higher) == expected


def test_the_first_seed_with_a_picture_is_shown() -> None:
    runs = make_runs(CASES, {"a-0": "lost", "a-1": "4", "b-0": "2"})
    picture = side_by_side(CASES, runs, "dice", ["a", "b"], assign_looks("ab"), load=load)[2]
    assert "a (seed 1: 0.700), b (seed 0: 0.900)" in picture.alt
    _, pixels = open_png(picture.png)
    edge = (pixels[:112, :, :3] == _rgb(PREDICTION)).all(axis=2)  # two pixels wide
    areas = [int(edge[:, left : left + SIDE].sum()) for left in (0, SIDE + GAP, 2 * (SIDE + GAP))]
    assert areas == [0, 40**2 - 36**2, 20**2 - 16**2]


def test_arms_without_pictures_are_named_and_none_gives_none() -> None:
    runs = make_runs(CASES, {"a-0": "lost", "a-1": "lost"})
    pictures = side_by_side(CASES, runs, "dice", ["a", "b"], assign_looks("ab"), load=load)
    assert all(p.caption.endswith("Without a picture: a.") for p in pictures)
    lost = make_runs(CASES, dict.fromkeys(("a-0", "a-1", "b-0"), "lost"))
    assert side_by_side(CASES, lost, "dice", ["a", "b"], assign_looks("ab"), load=load) == []


def test_at_most_twelve_panels_and_the_caption_says_so() -> None:
    arms = make_arms(20)
    cases = make_cases({arm: [[0.9]] for arm in arms})
    (picture,) = side_by_side(cases, make_runs(cases), "dice", arms, assign_looks(arms), load=load)
    assert "The best 11 of 20 arms are shown." in picture.caption
    assert picture.caption.startswith("The only case: liver, case c0")
    assert "arm10" in picture.alt
    assert "arm11" not in picture.alt
    image, pixels = open_png(picture.png)
    assert image.mode == "P"
    assert image.width == 4 * (SIDE + GAP) - GAP
    assert len(picture.png) < 60_000
    assert (pixels[:, SIDE : SIDE + GAP, 3] == 0).all()  # nothing between panels
    assert (pixels[-1, 0] == (*_rgb(CARD), 255)).all()
    again = side_by_side(cases, make_runs(cases), "dice", arms, assign_looks(arms), load=load)
    assert again == [picture]


def test_colours_of_arms_and_words_survive_the_palette() -> None:
    looks = assign_looks("ab")
    _, pixels = open_png(side_by_side(CASES, make_runs(CASES), "dice", ["a", "b"], looks, load=load)[0].png)
    bars = [tuple(pixels[113, i * (SIDE + GAP) + 5, :3].tolist()) for i in (1, 2)]
    assert bars == [_rgb(looks["a"].colour), _rgb(looks["b"].colour)]


def test_structures_are_apart_and_long_names_fit() -> None:
    arms = make_arms(2, long=True)
    cases = pd.concat([make_cases({arm: [[0.9]] for arm in arms}, s) for s in ("spleen", "left_lung")])
    pictures = side_by_side(cases, make_runs(cases), "dice", arms, assign_looks(arms), load=load)
    assert [p.structure for p in pictures] == ["left_lung", "spleen"]
    assert "left lung, case c0" in pictures[0].caption


def test_scores_that_nobody_has_are_refused() -> None:
    with pytest.raises(ValueError, match="Nothing to draw for metric='dice'"):
        side_by_side(CASES.assign(dice=NAN), make_runs(CASES), "dice", ["a"], assign_looks("a"), load=load)
