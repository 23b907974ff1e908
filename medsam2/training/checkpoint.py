"""Training state on disk: written to a temporary name, then renamed, so that a kill leaves the old file whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch


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


class Checkpoints:
    """`last.pt` (everything needed to go on) and `best.pt` (weights of the best epoch) in one folder.

    Args:
        folder: made by the caller.
        run_id: written into each file; a file of another run is refused.
    """

    def __init__(self, folder: Path, run_id: str):
        self.folder = folder
        self.run_id = run_id

    def save_last(self, state: dict[str, Any], progress: Progress) -> None:
        self._save("last.pt", state | {"progress": asdict(progress), "rng": _rng_state()})

    def save_best(self, weights: dict[str, torch.Tensor], epoch: int) -> None:
        self._save("best.pt", {"model": weights, "epoch": epoch})

    def load_last(self) -> tuple[dict[str, Any], Progress] | None:
        """The state to go on from, with the global generators set back to it; None where there is none."""
        if not (self.folder / "last.pt").exists():
            return None
        state = self._load("last.pt")
        _set_rng_state(state.pop("rng"))
        return state, Progress(**state.pop("progress"))

    def load_best(self) -> dict[str, torch.Tensor]:
        weights: dict[str, torch.Tensor] = self._load("best.pt")["model"]
        return weights

    def _save(self, name: str, state: dict[str, Any]) -> None:
        path = self.folder / name
        temporary = path.with_name(f".{name}")  # one name: what a kill leaves is overwritten by the next save
        try:
            with temporary.open("wb") as file:
                torch.save(state | {"run_id": self.run_id}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _load(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged bytes make the unpickler raise almost anything
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise CheckpointError(f"{path}: cannot be read ({reason}); start the run again with force=true") from error
        if state.pop("run_id", None) != self.run_id:
            raise CheckpointError(f"{path}: belongs to another configuration; start the run again with force=true")
        return state


def _rng_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_rng_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
