"""The figures of a report: drawn, saved as SVG and PDF, and kept as part of the page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from medsam2.files import write_atomic
from medsam2.results import figures
from medsam2.results.compare.cells import select_rows
from medsam2.results.compare.comparison import MEAN, Board, Comparison, is_higher_better
from medsam2.results.figures import Looks
from medsam2.results.report.blocks import Drawing, to_data_uri
from medsam2.results.report.words import unit_of

Drawn = tuple[str, str, str, Figure]  # place in the page, name, caption, figure
AXES = {"clicks": "number of clicks", "jitter": "jitter of the box", "slices": "number of prompted slices"}
KINDS = {"pixels": "mask probabilities", "iou": "predicted IoU"}
COSTS = {"seconds": "time of a run", "trained_parameters": "parameters trained"}
SIZE = re.compile(r'width="([\d.]+)pt" height="[\d.]+pt"')
ZOOM = 1.3  # print is read from nearer than a screen


def draw(comparison: Comparison, looks: Looks) -> Iterator[Drawn]:
    """Every figure that there is something to draw for."""
    for number, board in enumerate(comparison.boards):
        yield from _draw_board(comparison, number, board, looks)
        yield from _draw_raters(comparison, number, board, looks)
        yield from _draw_calibration(comparison, number, board, looks)
        yield from _draw_curves(comparison, number, board, looks)
        yield from _draw_cost(comparison, number, board, looks)
    yield from _draw_study(comparison, looks)


def save(drawn: Drawn, folder: Path) -> tuple[str, Drawing]:
    """Saves a figure below `folder`/figures; returns its place and what the page has of it."""
    place, name, caption, figure = drawn
    files = figures.save(figure, folder / "figures", name)
    links = {file.suffix[1:].upper(): file.relative_to(folder).as_posix() for file in files}
    svg = _enlarge(figures.to_svg(figure, name))
    return place, Drawing(name, caption, str(figure.get_label()), svg, files=links)


def photograph(made: Comparison, looks: Looks, folder: Path) -> Iterator[tuple[str, Drawing]]:
    """The worst, median and best cases side by side, of the runs that kept pictures; saved as PNG."""
    for number, board in enumerate(made.boards):
        arms = list(dict.fromkeys(_scored(made, board)["arm"]))
        if not arms:
            continue
        cases = select_rows(board.cases, made.metric)
        pictures = figures.side_by_side(cases, made.study.runs, made.metric, arms, looks, made.higher_is_better)
        for picture in pictures:
            name = re.sub(r"[^\w-]+", "-", f"case-{number}-{picture.structure}-{picture.rank}")
            path = folder / "figures" / f"{name}.png"
            write_atomic(path, picture.png)
            files = {"PNG": path.relative_to(folder).as_posix()}
            shown = Drawing(name, picture.caption, picture.alt, png=to_data_uri(picture.png), files=files)
            yield f"cases-{number}", shown


def _enlarge(svg: str) -> str:
    """As wide as reads well on a screen; the page makes it smaller where there is less room."""
    return SIZE.sub(lambda width: f'width="{ZOOM * float(width[1]):.0f}pt"', svg, count=1)


def _draw_board(made: Comparison, number: int, board: Board, looks: Looks) -> Iterator[Drawn]:
    metric, place, unit = made.metric, f"board-{number}", unit_of(board, made.metric)
    if len(_scored(made, board)):
        cases = select_rows(board.cases, metric)
        figure = figures.box_plot(cases, board.scores, metric, board.headline, looks, unit)
        yield place, f"boxes-{number}", f"{metric} of every case, with the mean and its 95 % interval.", figure
    if len(_rows(board.pairs, structure=board.headline)):
        figure = figures.forest(board.pairs, board.headline, made.higher_is_better, unit)
        yield place, f"forest-{number}", f"Paired differences in {metric} with 95 % intervals.", figure


def _draw_raters(made: Comparison, number: int, board: Board, looks: Looks) -> Iterator[Drawn]:
    rows = _rows(made.raters, dataset=board.name)
    structure = next((s for s in (board.headline, *rows.get("structure", ())) if len(_rows(rows, structure=s))), None)
    if structure is not None:
        figure = figures.rater_lines(made.raters, board.name, structure, looks)
        yield "raters", f"raters-{number}", f"Dice against each rater, {board.setting.title}.", figure


def _draw_calibration(made: Comparison, number: int, board: Board, looks: Looks) -> Iterator[Drawn]:
    title = board.setting.title
    for kind, name in KINDS.items():
        if len(_rows(made.calibration, dataset=board.name, kind=kind)):
            figure = figures.reliability(made.calibration, board.name, kind, looks)
            yield "calibration", f"reliability-{kind}-{number}", f"Reliability of {name}, {title}.", figure
    if len(_rows(made.rejection, dataset=board.name)):
        figure = figures.rejection(
            made.rejection, board.name, made.metric, looks, _ceiling(made, board, made.metric),
            unit_of(board, made.metric), made.higher_is_better,
        )  # fmt: skip
        caption = f"{made.metric} of what is kept when the least sure answers are rejected, {title}."
        yield "calibration", f"rejection-{number}", caption, figure


def _draw_curves(made: Comparison, number: int, board: Board, looks: Looks) -> Iterator[Drawn]:
    for axis, name in AXES.items():
        rows = _rows(made.curves, dataset=board.name, axis=axis, structure=MEAN)
        if len(rows):
            metric = str(rows["metric"].iat[0])
            figure = figures.curves(
                made.curves, axis, metric, board.name, looks, MEAN, _ceiling(made, board, metric),
                unit_of(board, metric), is_higher_better(metric),
            )  # fmt: skip
            yield "curves", f"curves-{axis}-{number}", f"{metric} by {name}, {board.setting.title}.", figure


def _draw_cost(made: Comparison, number: int, board: Board, looks: Looks) -> Iterator[Drawn]:
    """Of several arms, and of the task that most of them did."""
    frame = _rows(made.cost, dataset=board.name)
    if frame.empty or len(_scored(made, board)) < 2:
        return
    frame = _rows(frame, task=str(frame["task"].mode().iat[0]))
    scored = set(_scored(made, board)["arm"])
    for by, name in COSTS.items():
        if frame.loc[frame["arm"].isin(scored) & (frame[by] > 0), by].nunique() > 1:
            figure = figures.cost(
                frame, board.scores, made.metric, looks, by, board.headline, unit_of(board, made.metric)
            )
            caption = f"{made.metric} and {name}, {board.setting.title}."
            yield "cost", f"cost-{by.replace('_', '-')}-{number}", caption, figure


def _draw_study(made: Comparison, looks: Looks) -> Iterator[Drawn]:
    across = made.across
    if across is not None:
        figure = figures.critical_difference(
            across.mean_ranks, across.cliques, across.critical_difference, looks, len(across.datasets)
        )
        caption = "Mean ranks over datasets; bars join arms that are not told apart (Nemenyi, 5 %)."
        yield "across", "critical-difference", caption, figure
    if made.matrix is not None:
        figure = figures.matrix(made.matrix, made.metric, made.higher_is_better)
        caption = f"{made.metric} by dataset of training (rows) and of test (columns)."
        yield "matrix", "matrix", caption, figure


def _scored(made: Comparison, board: Board) -> pd.DataFrame:
    """The scores that stand for the board, of those arms that have one."""
    return _rows(board.scores, metric=made.metric, structure=board.headline).dropna(subset="mean")


def _ceiling(made: Comparison, board: Board, metric: str) -> float:
    """What the raters reach among themselves, where the metric is what they were measured in."""
    rows = _rows(board.scores, metric=metric, structure=MEAN)
    return float(rows["ceiling"].mean()) if metric == "dice" and len(rows) else float("nan")


def _rows(frame: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    """The rows with these values; none of a frame without such columns."""
    if not set(wanted) <= set(frame.columns):
        return frame.head(0)
    chosen = pd.Series(True, frame.index)
    for key, value in wanted.items():
        chosen &= frame[key] == value
    return frame[chosen]
