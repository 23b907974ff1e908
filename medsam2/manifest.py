"""What a sweep consists of, written before its first job is submitted: its folder alone tells how it stands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medsam2.files import write_atomic


def short_name(overrides: Sequence[str], axes: Sequence[str]) -> str:
    """What tells a job from the others of its sweep: `model=sam2_s seed=1`; all of it where nothing is swept."""
    swept = [o.lstrip("+") for o in overrides if o.lstrip("+").partition("=")[0] in axes]
    return " ".join(swept or overrides)


class Manifest:
    """`sweeps/ID/manifest.json`: sweep_id, name, axes, command, code, state; jobs, each with run_id and run_dir."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / "manifest.json"

    @classmethod
    def find(cls, output_dir: Path, sweep: str) -> Manifest:
        """The manifest of a sweep by its id, or the beginning of it.

        Raises:
            ValueError: there is none, or several begin so; the message lists what there is.
        """
        known = cls.every(output_dir)
        found = [m for m in known if m.folder.name.startswith(sweep)]
        if len(found) == 1:
            return found[0]
        said = "several begin so" if found else "there is none"
        names = ", ".join(m.folder.name for m in found or known) or "nothing"
        raise ValueError(f"sweep={sweep}: {said} in {output_dir / 'sweeps'}; there is {names}")

    @classmethod
    def every(cls, output_dir: Path) -> list[Manifest]:
        """All sweeps below an output folder, the one that was given last first."""
        paths = sorted((output_dir / "sweeps").glob("*/manifest.json"), key=lambda p: -p.stat().st_mtime)
        return [cls(path.parent) for path in paths]

    def read(self) -> dict[str, Any]:
        """The content, empty where there is none yet."""
        try:
            return dict(json.loads(self.path.read_text()))
        except FileNotFoundError:
            return {}

    def update(self, **entries: Any) -> None:
        """Merges entries into the file."""
        write_atomic(self.path, json.dumps(self.read() | entries, indent=1))

    def note_jobs(self, labels: Mapping[str, str]) -> None:
        """Stores where jobs were given to, by run id: `slurm 17_3`."""
        jobs = [j | ({"job": labels[j["run_id"]]} if j["run_id"] in labels else {}) for j in self.read()["jobs"]]
        self.update(jobs=jobs)

    def labels(self) -> dict[str, str]:
        """Where jobs were given to when the sweep was last issued, by run id."""
        return {j["run_id"]: j["job"] for j in self.read().get("jobs", []) if "job" in j}
