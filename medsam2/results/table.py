"""The table of a sweep: rows are the swept choices, columns are dataset × metric, seeds and folds averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medsam2.files import write_atomic

AVERAGED = ("seed", "dataset.fold", "dataset")  # swept, but no rows: seeds and folds are averaged, datasets columns
HEADINGS = {  # metric key without `/mean` -> heading
    "zero_shot/dice": "zero-shot dice",
    "test/prompted_slices": "prompted slices",
    "test/prompt_dice": "prompt alone dice",
    "test/rater_ceiling": "raters' own dice",
    "test/rater_dice": "dice per rater",
    "test/dice": "dice",
    "test/iou": "iou",
    "test/hd95": "hd95 {unit}",
    "test/assd": "assd {unit}",
    "test/nsd": "nsd",
    "test/volume_error": "volume error",
    "test/vcdr_error": "vCDR error",
    "test/ece": "ece",
}
NO_SCORES = ("test/rater_ceiling", "test/prompted_slices")  # whether there was a prompt does not matter
FREE = {key.replace("/", "/prompt_free_"): f"prompt-free {h}" for key, h in HEADINGS.items() if key not in NO_SCORES}
SHARES = ("zero_shot/prompted/share", "test/prompted/share", "test/in_mm/share")


@dataclass(frozen=True)
class SweepRun:
    """What the table needs of one run: its swept choices, where it belongs, and its stored metrics."""

    swept: Mapping[str, str]
    dataset: str
    seed: int
    state: str
    metrics: Mapping[str, float]


def build_table(runs: Sequence[SweepRun]) -> pd.DataFrame:
    """One row per swept choice and a column triple `dataset heading {mean, sd, n}` per dataset and metric.

    Only finished runs count. sd is the sample standard deviation over seeds and folds, NaN for a single run; n is the
    number of runs. `runs` says how many of the row's runs are finished, e.g. `2/3`. Scores without a prompt are in
    columns of their own, `prompt-free dice`, for they answer a harder question.
    """
    headings = [h for h in (HEADINGS | FREE).values() if any(h in _scores(run) for run in runs)]
    axes = list(dict.fromkeys(a for r in runs for a in r.swept if a not in AVERAGED))
    order = dict.fromkeys(tuple(r.swept.get(a, "") for a in axes) for r in runs)
    records = []
    for choice in order:
        group = [r for r in runs if tuple(r.swept.get(a, "") for a in axes) == choice]
        finished = [r for r in group if r.state == "finished"]
        record: dict[str, object] = dict(zip(axes, choice, strict=True))
        record["runs"] = f"{len(finished)}/{len(group)}"
        for dataset in dict.fromkeys(r.dataset for r in runs):
            unit = _unit([r for r in runs if r.dataset == dataset])
            scores = [_scores(r) for r in finished if r.dataset == dataset]
            for heading in headings:
                values = pd.Series([found[heading] for found in scores if heading in found])
                name = f"{dataset} {heading.format(unit=unit)}"
                record |= {f"{name} mean": values.mean(), f"{name} sd": values.std(ddof=1), f"{name} n": len(values)}
        records.append(record)
    return pd.DataFrame(records)


def split_structures(runs: Sequence[SweepRun]) -> list[SweepRun]:
    """The runs once per structure: swept with it, and its metrics where those of the mean were.

    Structures are those that some run of the dataset has a test score of.
    """
    names: dict[str, dict[str, None]] = {}
    for run in runs:
        found = [key.split("/")[2] for key in run.metrics if key.startswith("test/dice/")]
        names.setdefault(run.dataset, {}).update(dict.fromkeys(name for name in found if name != "mean"))
    return [
        replace(run, swept={**run.swept, "structure": name}, metrics=_metrics_of(run, name))
        for run in runs
        for name in names[run.dataset]
    ]


def _metrics_of(run: SweepRun, structure: str) -> dict[str, float]:
    keys = {f"{key}/mean": f"{key}/{structure}" for key in HEADINGS | FREE}
    shares = {key: run.metrics[key] for key in SHARES if key in run.metrics}
    return shares | {key: run.metrics[own] for key, own in keys.items() if own in run.metrics}


def _scores(run: SweepRun) -> dict[str, float]:
    """The run's scores by heading; those of a phase in which nothing was prompted are prompt-free."""
    scores = {}
    for key, heading in (HEADINGS | FREE).items():
        if f"{key}/mean" in run.metrics:
            free = key not in NO_SCORES and run.metrics.get(f"{key.split('/')[0]}/prompted/share") == 0
            scores[f"prompt-free {heading}" if free else heading] = run.metrics[f"{key}/mean"]
    return scores


def _unit(runs: Sequence[SweepRun]) -> str:
    """What distances are measured in, in all these runs: mm or pixels."""
    shares = {run.metrics["test/in_mm/share"] for run in runs if "test/in_mm/share" in run.metrics}
    return "mm" if shares == {1.0} else "px" if shares == {0.0} else "mm or px"


def save_table(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Writes table.csv (numbers) and table.md (as printed) into `folder`; returns both."""
    rows = _display(frame)
    head = "| " + " | ".join(rows.columns) + " |\n|" + " --- |" * len(rows.columns) + "\n"
    cells = [[str(value).replace("|", "\\|") for value in row] for row in rows.itertuples(index=False)]
    body = "".join("| " + " | ".join(row) + " |\n" for row in cells)
    files = {"table.csv": frame.to_csv(index=False, float_format="%.6g"), "table.md": head + body}
    for name, text in files.items():
        write_atomic(folder / name, text)
    return [folder / name for name in files]


def print_table(frame: pd.DataFrame, title: str) -> None:
    """The table on the terminal: mean ± sd over seeds and folds (n)."""
    rows = _display(frame)
    table = Table()
    for column in rows.columns:
        measured = column not in frame.columns
        heading = str(column).replace(" ", "\n", 1) if measured else str(column)  # the dataset above its metric
        table.add_column(escape(heading), justify="right" if measured else "left")
    for row in rows.itertuples(index=False):
        table.add_row(*(escape(str(value)) for value in row))  # [cup] is a value, not a style
    # a log file has no width of its own: the table must not be folded there
    console = Console()
    console = Console(width=None if console.is_terminal else 160)
    console.print(title, table, sep="\n")


def _display(frame: pd.DataFrame) -> pd.DataFrame:
    """Triples of numbers as one text: `0.912 ± 0.010 (3)`, `0.912 (1)`, `-` where nothing is finished."""
    shown = frame[[c for c in frame.columns if c.rsplit(" ", 1)[-1] not in ("mean", "sd", "n")]].copy()
    for column in frame.columns:
        if not column.endswith(" mean"):
            continue
        name = column.removesuffix(" mean")
        triples = zip(frame[column], frame[f"{name} sd"], frame[f"{name} n"], strict=True)
        shown[f"{name} (n)"] = [_cell(*triple) for triple in triples]
    return shown


def _cell(mean: float, sd: float, n: int) -> str:
    if n == 0:
        return "-"
    return f"{mean:.3f} ({n})" if pd.isna(sd) else f"{mean:.3f} ± {sd:.3f} ({n})"
