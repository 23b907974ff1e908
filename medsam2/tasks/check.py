"""Look at a dataset before training: what is in it, how it looks, what is wrong with it and what to do about that."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from medsam2.data.records import Dataset
from medsam2.doctor.contact_sheet import build_sheet
from medsam2.doctor.findings import to_csv
from medsam2.doctor.survey import Advance, Survey, survey
from medsam2.files import write_atomic
from medsam2.tasks.check_tables import print_survey

log = logging.getLogger(__name__)

FINDINGS, SUMMARY, PICTURE = FILES = ("findings.csv", "summary.json", "cases.png")


class CheckFailed(ValueError):
    """A dataset that cannot be trained on; what is wrong with it was printed and saved."""


def check(dataset: Dataset, output_dir: str | Path, num_workers: int = 0, pictures: int = 4, seed: int = 0) -> None:
    """Reads all of a dataset, prints what is in it and what is wrong with it, and saves both with a picture.

    Below ``output_dir``/checks/NAME: findings.csv, summary.json, cases.png.

    Args:
        num_workers: processes that decode; 0 decodes in this one.
        pictures: cases per split in the picture, chosen by ``seed``; 0 for no picture.

    Raises:
        CheckFailed: there are errors; warnings alone are printed.
        DatasetError: there is nothing to read.
        ValueError: pictures is negative.
    """
    if pictures < 0:
        raise ValueError(f"task.pictures={pictures} must be 0 or more")
    folder = Path(output_dir).expanduser().absolute() / "checks" / dataset.name
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:  # those of an earlier check say nothing about the data as it is
        (folder / name).unlink(missing_ok=True)
    with _progress(dataset.name) as advance:
        seen = survey(dataset, num_workers, pictures, seed, advance)
    print_survey(seen, Path(dataset.root))
    _save(seen, folder)
    _conclude(dataset.name, seen)


def _save(seen: Survey, folder: Path) -> None:
    write_atomic(folder / FINDINGS, to_csv(seen.findings))
    write_atomic(folder / SUMMARY, json.dumps(seen.summary.as_dict(), indent=1, ensure_ascii=False) + "\n")
    if any(seen.panels.values()):
        build_sheet(seen.summary.name, tuple(seen.summary.structures), seen.panels).save(folder / PICTURE)
    log.info("saved: %s", ", ".join(str(folder / name) for name in FILES if (folder / name).exists()))


def _conclude(name: str, seen: Survey) -> None:
    errors, warnings = seen.count("error"), seen.count("warning")
    if errors:
        also = f" and {_number(warnings, 'warning')}" if warnings else ""
        raise CheckFailed(f"{name}: {_number(errors, 'error')}{also}; training must not start until that is corrected")
    log.info("%s: training may start, %s", name, _number(warnings, "warning") if warnings else "nothing is wrong")


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


@contextmanager
def _progress(name: str) -> Iterator[Advance]:
    """A line that says how far the reading is; on a terminal alone."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as line:
        bar = line.add_task(f"reading {escape(name)}", total=None)
        yield lambda done, total: line.update(bar, completed=done, total=total)
