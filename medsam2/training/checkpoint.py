"""Training state on disk: whatever kills the process, at whatever moment, a whole file of the run's own is there.

A file is written to a temporary name and renamed when the disk has it; the one before is kept beside it. Files are zip
archives with a CRC-32 of every record, which torch.save writes and torch.load does not look at: we do.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medsam2.distributed import on_first_rank
from medsam2.files import fsync_folder, show_differences

log = logging.getLogger(__name__)

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
SPARE = 32 << 20  # bytes that stay free beside a checkpoint, for rows, logs and what others write meanwhile


@dataclass
class Progress:
    """How far training is: `epoch` epochs are complete, `batch` batches of the next one are done."""

    epoch: int = -1  # -1: not even the model as it came has been validated
    batch: int = 0
    best: float = float("-inf")
    best_epoch: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)  # of the unfinished epoch: name -> [sum, total weight]

    def count(self, values: Mapping[str, float], weight: float) -> None:
        """Lets values enter the epoch's means with a weight."""
        for name, value in values.items():
            total, seen = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = [total + value * weight, seen + weight]

    def means(self) -> dict[str, float]:
        """The weighted mean of everything counted in this epoch."""
        return {name: total / seen for name, (total, seen) in self.sums.items()}

    def finish_epoch(self) -> None:
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, {}


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that belongs to another run."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint that was cut off or changed on the disk."""


class DiskFull(OSError):
    """There is no room for a checkpoint; the ones before are untouched."""


class Checkpoints:
    """`last.pt` and `previous.pt` (everything needed to go on), `best.pt` (weights of the best epoch) in one folder.

    Args:
        folder: made by the caller.
        run_id: written into each file; a file of another run is refused.
        params: the run's identity, flat, so that a refusal can name what differs.
        tracker_id: the tracker's own id of the run.
    """

    def __init__(
        self, folder: Path, run_id: str, params: Mapping[str, Any] | None = None, tracker_id: str | None = None
    ):
        self.folder = folder
        self.run_id = run_id
        self.params = {key: str(value) for key, value in (params or {}).items()}
        self.tracker_id = tracker_id

    def exist(self) -> bool:
        """Whether there is a state to go on from."""
        return any((self.folder / name).exists() for name in (LAST, PREVIOUS))

    @on_first_rank
    def save_last(self, state: dict[str, Any], progress: Progress) -> None:
        """Replaces last.pt, which becomes previous.pt. Raises DiskFull."""
        state = state | {"progress": asdict(progress), "rng": _rng_state(), "tracker_id": self.tracker_id}
        self._save(LAST, state, keep=PREVIOUS)

    @on_first_rank
    def save_best(self, weights: dict[str, torch.Tensor], epoch: int) -> None:
        """Replaces best.pt. Raises DiskFull."""
        self._save(BEST, {"model": weights, "epoch": epoch})

    def load_last(self) -> tuple[dict[str, Any], Progress] | None:
        """The state to go on from, with the global generators set back to it; None where there is none.

        A damaged last.pt is passed over for previous.pt: what came after it is computed again.

        Raises:
            CheckpointError: a file of another run; all that is there is damaged.
        """
        state, damage = None, None
        for name in (LAST, PREVIOUS):
            if state is None and (self.folder / name).exists():
                try:
                    state = self._load(name)
                except DamagedCheckpoint as error:
                    log.warning("%s", error)
                    damage = error
        if state is None:
            if damage is not None:
                raise DamagedCheckpoint(f"{damage}; there is no other one: start the run again with force=true")
            return None
        _set_rng_state(state.pop("rng"))
        return state, Progress(**state.pop("progress"))

    def load_best(self) -> dict[str, torch.Tensor]:
        """Raises CheckpointError for a file that is damaged, missing or another run's."""
        try:
            weights: dict[str, torch.Tensor] = self._load(BEST)["model"]
        except DamagedCheckpoint as damage:
            raise DamagedCheckpoint(f"{damage}; start the run again with force=true") from damage
        return weights

    def _save(self, name: str, state: dict[str, Any], keep: str | None = None) -> None:
        path = self.folder / name
        temporary = path.with_name(f".{name}")  # one name: what a kill leaves is overwritten by the next save
        self._check_space(path)
        try:
            with temporary.open("wb") as file:
                torch.save(state | {"run_id": self.run_id, "params": self.params}, file)
                file.flush()
                os.fsync(file.fileno())
            if keep is not None and path.exists():
                os.replace(path, path.with_name(keep))
            os.replace(temporary, path)
            fsync_folder(self.folder)
        except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
            temporary.unlink(missing_ok=True)
            full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            if full or (isinstance(error, RuntimeError) and shutil.disk_usage(self.folder).free < SPARE):
                raise self._full(path) from error
            raise
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _check_space(self, path: Path) -> None:
        """A new file is as large as the last one of its name; before the first, only the spare is asked for."""
        size = path.stat().st_size if path.exists() else 0
        if shutil.disk_usage(self.folder).free < size + SPARE:
            raise self._full(path, size)

    def _full(self, path: Path, size: int = 0) -> DiskFull:
        free = shutil.disk_usage(self.folder).free / 2**20
        return DiskFull(
            errno.ENOSPC,
            f"no room for a checkpoint: {free:.0f} MiB are free, {(size + SPARE) / 2**20:.0f} MiB are wanted; "
            "make room and give the same command again: it goes on from the checkpoint before",
            str(path),
        )

    def _load(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
            if broken is not None:
                raise ValueError(f"checksum of {broken} is wrong")
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged bytes make the unpickler raise almost anything
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise DamagedCheckpoint(f"{path}: cannot be read ({reason})") from error
        params = state.pop("params", {})
        if state.pop("run_id", None) != self.run_id:
            differences = show_differences(params, self.params)
            raise CheckpointError(
                f"{path}: belongs to another configuration{f': {differences}' if differences else ''}; "
                "start the run again with force=true"
            )
        return state


def _rng_state() -> dict[str, Any]:
    """Every global generator, in types that a weights-only load takes."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(words), gauss],
        "numpy": [str(kind), [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
    }


def _set_rng_state(state: dict[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
