"""From finished runs to claims: tables with intervals, tests, figures, and one page that shows them."""

from __future__ import annotations

import logging
import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from medsam2.redact import redact

log = logging.getLogger(__name__)

Names = str | Sequence[str] | None
METRIC = "dice"
FEWEST = 100  # resamples: 95 % limits of fewer are chance
PLAIN = re.compile(r"[\w./:@%+~-]+")  # what Hydra takes without quotes


def compare(
    output_dir: str | Path,
    source: str | None = None,
    dataset: Names = None,
    study: Names = None,
    sweep: str | None = None,
    tag: str | None = None,
    since: str | None = None,
    runs: Names = None,
    metric: str = METRIC,
    baseline: str | float | None = None,
    resamples: int = 2000,
    seed: int = 0,
    name: str | None = None,
    track: bool = True,
    uri: str | None = None,
) -> Path:
    """Compares finished runs, prints the answer and writes reports/NAME below `output_dir`; returns the page.

    Args:
        output_dir: holds runs/ and sweeps/.
        source: None for the run directories; an MLflow tracking URI, or `mlflow` for the store in `output_dir`.
        dataset, study, sweep, tag, since, runs: only such runs, as `medsam2.results.collect.collect` takes them.
        metric: in which arms are compared; of the others means and intervals are told.
        baseline: an arm that the others are compared with; None for all pairs.
        resamples, seed: of the bootstrap.
        name: of the report's folder; None makes one from what was asked for.
        track: whether the report is attached to the parent run of the sweep, if all runs are of one.
        uri: the MLflow store to attach to, where `source` names none.

    Raises:
        ValueError: nothing to compare, or an argument is wrong; the message says what there is.
        OSError: the folder of the report cannot be written.
    """
    folder = Path(output_dir).expanduser().absolute()
    filters = {"dataset": dataset, "study": study, "sweep": sweep, "tag": tag, "since": since, "runs": runs}
    settings = {"source": source, "metric": metric, "baseline": baseline, "resamples": resamples, "seed": seed}
    if resamples < FEWEST:
        raise ValueError(f"task.resamples={resamples}: must be at least {FEWEST}")
    if seed < 0:
        raise ValueError(f"task.seed={seed}: must be at least 0")
    baseline = None if baseline is None else str(baseline)
    target = folder / "reports" / (_check_name(name) if name else name_report(filters, metric, baseline))
    _check_writable(target)
    from medsam2.results.collect import collect  # pandas, SciPy and matplotlib take their time: after the checks
    from medsam2.results.compare import compare as compare_study
    from medsam2.results.report import Asked, attach, print_answer, write_report

    found = collect(folder, source, dataset or (), study or (), sweep, tag, since, runs or ())
    log.info("comparing %d runs of %s", len(found.runs), found.source)
    comparison = compare_study(found, metric, baseline, resamples, seed)
    asked = {key: _show(value) for key, value in filters.items() if value}
    command = build_command(folder, filters | settings | {"name": name})
    page = write_report(comparison, target, Asked(asked, command, datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")))
    print_answer(comparison)
    if track:
        attach(page, found.runs, folder, source if source not in (None, "mlflow") else uri, sweep)
    log.info("report: %s", page)
    log.info("tables: %s (CSV, Markdown, LaTeX)   figures: %s (SVG, PDF)", target / "tables", target / "figures")
    return page


def name_report(filters: Mapping[str, Names], metric: str = METRIC, baseline: str | None = None) -> str:
    """A folder's name for what was asked: `all`, `refuge`, `sweep-3208e4c2c8_iou`."""
    parts = [_show(value) if key == "dataset" else f"{key}-{_show(value)}" for key, value in filters.items() if value]
    parts += [metric] if metric != METRIC else []
    parts += [f"against-{baseline}"] if baseline else []
    return re.sub(r"[^\w.-]+", "-", "_".join(parts)).strip("-.")[:120] or "all"


def build_command(folder: Path, settings: Mapping[str, object]) -> str:
    """The command that makes the same report: what differs from conf/task/compare.yaml, passwords masked."""
    defaults = {"metric": METRIC, "resamples": 2000, "seed": 0}
    given = {key: value for key, value in settings.items() if value is not None and value != defaults.get(key)}
    words = [f"{'' if key == 'sweep' else 'task.'}{key}={_quote(value)}" for key, value in given.items()]
    return redact(shlex.join(["python", "run.py", "task=compare", *words, f"paths.output_dir={_quote(folder)}"]))


def _quote(value: object) -> str:
    """A value as Hydra reads it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_quote, value))}]"
    text = str(value)
    return text if PLAIN.fullmatch(text) else "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _show(value: object) -> str:
    return str(value) if isinstance(value, str) or not isinstance(value, Sequence) else ", ".join(map(str, value))


def _check_name(name: str) -> str:
    if name != Path(name).name or name in (".", ".."):
        raise ValueError(f"task.name={name}: must be the name of a folder in reports/, not a path")
    return name


def _check_writable(folder: Path) -> None:
    """Fails before any work where nothing could be written after it; leaves no folder behind."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        if not there.is_dir():
            raise NotADirectoryError(0, f"{there} is a file")
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            f"{folder}: a report cannot be written there: {reason}; choose another task.name or paths.output_dir"
        ) from None
