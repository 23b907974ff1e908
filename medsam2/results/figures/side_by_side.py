"""The worst, the median and the best case of each structure, as every arm answered it, on one picture each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from medsam2.results.figures.cards import Shot, draw_cards
from medsam2.results.figures.labels import say_best
from medsam2.results.figures.style import OTHER, WITHIN_ONE, Looks, check_rows, each, name_metric

if TYPE_CHECKING:
    from medsam2.evaluation.gallery import Gallery

MOST_ARMS = 11  # with the image twelve panels
RANKS = ("worst", "median", "best")
Open = Callable[[Path], "Gallery"]


class Picture(NamedTuple):
    """A case side by side: PNG bytes, a caption in sentences, and what it shows for those who do not see it."""

    structure: str
    rank: str
    case_id: str
    caption: str
    alt: str
    png: bytes


def side_by_side(
    cases: pd.DataFrame,
    runs: pd.DataFrame,
    metric: str,
    arms: Sequence[str],
    looks: Looks,
    higher_is_better: bool = True,
    load: Open | None = None,
) -> list[Picture]:
    """Worst, median and best case of each structure by the mean over arms: the image with the label's outline, then
    each arm's prediction with its score, of its first seed that has a picture.

    Cases that some arm has no score for are not chosen. At most eleven arms are shown, the first ones, and the caption
    says so; it names arms without a picture too. A structure that no run has pictures of gives none.

    Args:
        cases: `Board.cases`; runs: `Study.runs`, whose folders have pictures/test/gallery.npz.
        arms: best first.
        load: in place of `load_gallery`.
    """
    open_ = lru_cache(maxsize=None)(load or _load)
    rows = cases[["arm", "run_id", "case_id", "structure"]].astype(str).assign(value=cases[metric].astype(float))
    rows["seed"] = pd.to_numeric(rows["run_id"].map(runs["seed"])).fillna(0)
    rows["folder"] = rows["run_id"].map(runs["folder"])
    rows = rows[rows["arm"].isin(list(arms))].dropna(subset="value").sort_values(["seed", "run_id"], kind="stable")
    check_rows(rows, cases, {"metric": metric, "arm": list(arms)})
    pictures = []
    for structure, part in rows.groupby("structure", sort=True):
        means = part.pivot_table(index="case_id", columns="arm", values="value").dropna().mean(axis=1)
        for rank, case in choose(means, higher_is_better):
            shots, without = _collect(part[part["case_id"] == case], arms, metric, looks, open_)
            if shots:
                mean = f"mean {name_metric(metric)} over arms and seeds {_say(float(means[case]), metric)}"
                head = _introduce(str(structure), rank, case, len(means), mean)
                caption = f"{head} {_say_left_out(shots, without, arms)}"
                alt = _describe(str(structure), case, name_metric(metric), shots)
                pictures.append(Picture(str(structure), rank, case, caption, alt, draw_cards(shots)))
    return pictures


def choose(means: pd.Series[float], higher_is_better: bool) -> list[tuple[str, str]]:
    """(rank, case) of the worst, the median and the best; fewer cases give fewer."""
    order = sorted(means.index, key=lambda case: (means[case] if higher_is_better else -means[case], case))
    places = list(dict.fromkeys((0, len(order) // 2, len(order) - 1))) if order else []
    names = RANKS if len(places) == 3 else RANKS[::2] if len(places) == 2 else ("only",)
    return [(name, str(order[place])) for name, place in zip(names, places, strict=False)]


def _load(path: Path) -> Gallery:
    from medsam2.evaluation.gallery import load_gallery  # brings torch

    return load_gallery(path)


def _collect(
    rows: pd.DataFrame, arms: Sequence[str], metric: str, looks: Looks, open_: Open
) -> tuple[list[Shot], list[str]]:
    """The answers of the first arms that have a picture of a case, and which of these arms have none."""
    shots: list[Shot] = []
    without = []
    for arm in arms:
        if len(shots) == MOST_ARMS:
            break
        colour = looks.get(arm, OTHER).colour
        found = (_open(row, metric, colour, open_) for row in each(rows[rows["arm"] == arm]))
        shot = next((shot for shot in found if shot is not None), None)
        if shot is None:
            without.append(arm)
        else:
            shots.append(shot)
    return shots, without


def _open(row: Any, metric: str, colour: str, open_: Open) -> Shot | None:
    """One run's answer; None where it has no picture of it, or where that cannot be read."""
    try:
        gallery = open_(Path(str(row.folder)) / "pictures" / "test" / "gallery.npz")
        of = row.case_id, row.structure
        masks = gallery.label(*of), gallery.prediction(*of)
        return Shot(row.arm, colour, f"seed {row.seed:g}: {_say(row.value, metric)}", gallery.image(*of), *masks)
    except (OSError, ValueError):
        return None


def _introduce(structure: str, rank: str, case: str, count: int, mean: str) -> str:
    first = "The only case" if count == 1 else f"{rank.capitalize()} of {count} cases"
    return f"{first}: {_words(structure)}, case {case}, {mean}."


def _say_left_out(shots: Sequence[Shot], without: Sequence[str], arms: Sequence[str]) -> str:
    parts = ["Predictions of each arm's first seed."]
    if len(shots) + len(without) < len(arms):
        parts.append(say_best(len(shots), len(arms)))
    if without:
        more = f" and {len(without) - 8} more" if len(without) > 8 else ""
        parts.append(f"Without a picture: {', '.join(without[:8])}{more}.")
    return " ".join(parts)


def _describe(structure: str, case: str, metric: str, shots: Sequence[Shot]) -> str:
    scores = ", ".join(f"{shot.arm} ({shot.score})" for shot in shots)
    seen = f"{_words(structure)} of case {case}: the image with the label's outline, then the predictions, with their"
    return f"{seen} {metric}, of {scores}."


def _say(value: float, metric: str) -> str:
    return f"{value:.3f}" if metric in WITHIN_ONE else f"{value:.1f}"


def _words(structure: str) -> str:
    return structure.replace("_", " ")
