"""The parent runs of sweeps in MLflow, and which runs belong to them; made from the sweeps' manifests if need be."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsam2.manifest import Manifest
from medsam2.tracking.connect import PATIENCE, alone
from medsam2.tracking.store import MIRRORED, NOTE, Store, status_of

if TYPE_CHECKING:
    from mlflow.entities import Run

log = logging.getLogger(__name__)

TABLES = ("table.csv", "table.md")
LONGEST_NOTE = 8000  # characters that MLflow keeps of a tag


@dataclass(frozen=True)
class Sweep:
    """A sweep as its folder tells it."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.manifest.get("sweep_id", self.folder.name))

    @property
    def name(self) -> str:
        axes = " × ".join(self.manifest.get("axes") or ["single"])
        return str(self.manifest.get("name") or f"sweep {axes} ({self.id})")

    @property
    def begun(self) -> float:
        return float(self.manifest.get("submitted", 0.0))

    @property
    def state(self) -> str:
        return str(self.manifest.get("state") or "running")

    @property
    def jobs(self) -> list[dict[str, Any]]:
        return list(self.manifest.get("jobs", []))

    @property
    def tables(self) -> list[Path]:
        return [file for name in TABLES if (file := self.folder / name).is_file()]


def find_sweeps(output_dir: Path) -> list[Sweep]:
    """All sweeps with a readable manifest, in the order in which they were last started."""
    sweeps = []
    for manifest in Manifest.every(output_dir):
        try:
            sweeps.append(Sweep(manifest.folder, manifest.read()))
        except (OSError, ValueError) as error:
            log.warning("%s: cannot be read, and its sweep is left out: %s", manifest.path, error)
    return sorted(sweeps, key=lambda sweep: (sweep.begun, sweep.id))


def open_parent(
    store: Store, sweep_id: str, study: str, name: str, tags: Mapping[str, str], begun: float | None = None
) -> Run:
    """The parent run of a sweep, made if need be, and closed at once: nothing is left open if the head dies."""
    with alone(store.output_dir, PATIENCE):
        known = store.search(study, f"tags.sweep_id = '{sweep_id}'")
        run = (
            known[0] if known else store.create(study, name, dict(tags) | {"sweep_id": sweep_id}, begun or time.time())
        )
        if run.info.status == "RUNNING":
            store.set_status(run, "FINISHED", time.time())
    return run


def close_parent(store: Store, parent: str, files: Sequence[Path], state: str) -> bool:
    """Gives a sweep's parent run its tables and its state; False if it has them already."""
    run = store.client.get_run(parent)
    content = hashlib.sha256(state.encode() + b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    if run.data.tags.get(MIRRORED) == content:
        return False
    for file in files:
        store.log_files(run, [file], file.parent)
    if state != "running":
        store.set_status(run, status_of(state), time.time())
    tables = [file.read_text() for file in files if file.suffix == ".md"]
    store.log_tags(run, {"state": state, MIRRORED: content, NOTE: "\n".join(tables)[:LONGEST_NOTE]})
    return True
