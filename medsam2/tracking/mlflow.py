"""Mirrors runs to MLflow, through MlflowClient alone: the fluent API keeps global state that leaks between jobs.

No failure of the store reaches the run: the first one is logged, the mirror is switched off, the run goes on.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from medsam2.tracking.base import RunInfo

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
F = TypeVar("F", bound=Callable[..., Any])

PARAMS_PER_CALL = 100  # the REST interface takes no more
METRICS_PER_CALL = 1000
STATES = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
FILES = ("config.yaml", "provenance.json", "status.json", "metrics.jsonl", "split.csv", "run.log", "error.txt")


def _never_fails(method: F) -> F:
    """Turns an exception of the store into one warning, after which the mirror stays silent."""

    @functools.wraps(method)
    def guarded(self: MlflowTracker, *args: Any, **kwargs: Any) -> Any:
        if self.down:
            return None
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            first, self.down, self.warned = not self.warned, True, True
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            if first:
                log.warning(
                    "MLflow store %s: %s. The run goes on without it; its directory has it all.", self.uri, reason
                )
            return None

    return guarded  # type: ignore[return-value]


class MlflowTracker:
    """One MLflow run per job, filed under `study`; a sweep's jobs are children of one parent run.

    Args:
        output_dir: where `mlflow.db` and the artifacts lie when `uri` is None.
        uri: an MLflow tracking URI, or None for SQLite in `output_dir`.
        artifacts: whether rows, pictures, configuration and logs are uploaded when the run ends.
    """

    def __init__(self, output_dir: Path, uri: str | None = None, artifacts: bool = True):
        self.output_dir = output_dir
        self.uri = uri or f"sqlite:///{output_dir}/mlflow.db"
        self.artifacts = artifacts
        self.down = self.warned = False
        self._run: str | None = None
        self._client: MlflowClient | None = None
        self._waiting: list[tuple[str, float, int, int]] = []  # (key, value, time, epoch) the store does not have yet
        self._stored: dict[str, set[int]] | None = None  # epochs by key that an earlier attempt logged

    @property
    def client(self) -> MlflowClient:
        if self._client is None:
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "1")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its own 7 stall a job for minutes
            logging.getLogger("alembic").setLevel(logging.WARNING)
            logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracebacks of what it also raises
            from filelock import FileLock
            from mlflow import MlflowClient

            if self.uri.startswith("sqlite:///"):
                # MLflow's first migration of a fresh database is not safe against other processes
                with FileLock(self.uri.removeprefix("sqlite:///") + ".lock", timeout=120):
                    self._client = MlflowClient(tracking_uri=self.uri)
                    self._client.search_experiments(max_results=1)
            else:
                self._client = MlflowClient(tracking_uri=self.uri)
        return self._client

    @_never_fails
    def start(self, info: RunInfo) -> str | None:
        experiment = self._experiment(info.study)
        run_id = self._known(info.known_id)
        if run_id is None:
            tags = dict(info.tags) | {"run_id": info.run_id}
            if info.parent_run_id:
                tags["mlflow.parentRunId"] = info.parent_run_id
            run_id = self.client.create_run(experiment, run_name=info.name, tags=tags).info.run_id
            self._log_params(run_id, info.params)
            self._log_dataset(run_id, info)
        else:
            self.client.update_run(run_id, status="RUNNING")
            if info.parent_run_id:
                self.client.set_tag(run_id, "mlflow.parentRunId", info.parent_run_id)
            self._stored = {}
        self._run = run_id
        return run_id

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        now = int(time.time() * 1000)
        self._waiting += [(k, v, now, epoch) for k, v in metrics.items() if math.isfinite(v)]
        self._send()

    @_never_fails
    def _send(self) -> None:
        """Logs what waits. An epoch that an earlier attempt logged is not logged twice: it was computed again."""
        from mlflow.entities import Metric

        if self._run is None:
            return
        new = [Metric(*entry) for entry in self._waiting if entry[3] not in self._stored_epochs(entry[0])]
        for i in range(0, len(new), METRICS_PER_CALL):
            self.client.log_batch(self._run, metrics=new[i : i + METRICS_PER_CALL])
        self._waiting = []

    def _stored_epochs(self, key: str) -> set[int]:
        if self._stored is None or self._run is None:
            return set()
        if key not in self._stored:
            self._stored[key] = {m.step for m in self.client.get_metric_history(self._run, key)}
        return self._stored[key]

    @_never_fails
    def log_files(self, folder: Path) -> None:
        if not (self._run and self.artifacts):
            return
        for name in FILES:
            if (folder / name).is_file():
                self.client.log_artifact(self._run, str(folder / name))
        for name in ("rows", "pictures"):
            if (folder / name).is_dir():
                self.client.log_artifacts(self._run, str(folder / name), artifact_path=name)

    def finish(self, state: str) -> None:
        if self._run:
            self._client, self.down = None, False  # a store that failed once gets a last chance
            self._send()
            self._close(self._run, state)

    @_never_fails
    def _close(self, run: str, state: str) -> None:
        self.client.set_terminated(run, status=STATES[state])

    @_never_fails
    def open_sweep(self, sweep_id: str, study: str, name: str, tags: Mapping[str, str]) -> str | None:
        experiment = self._experiment(study)
        known = self.client.search_runs([experiment], f"tags.sweep_id = '{sweep_id}'", max_results=1)
        if known:
            return str(known[0].info.run_id)
        run = self.client.create_run(experiment, run_name=name, tags=dict(tags) | {"sweep_id": sweep_id})
        self.client.set_terminated(run.info.run_id)  # at once: nothing is left open if the head dies
        return str(run.info.run_id)

    @_never_fails
    def log_sweep(self, parent: str, files: list[Path], state: str) -> None:
        for file in files:
            self.client.log_artifact(parent, str(file))
        self.client.set_terminated(parent, status=STATES[state])

    def _experiment(self, study: str) -> str:
        found = self.client.get_experiment_by_name(study)
        if found is not None:
            return str(found.experiment_id)
        location = (self.output_dir / "mlartifacts").as_uri() if self.uri.startswith("sqlite") else None
        try:
            return self.client.create_experiment(study, artifact_location=location)
        except Exception:
            found = self.client.get_experiment_by_name(study)  # another job made it in the meantime
            if found is None:
                raise
            return str(found.experiment_id)

    def _known(self, run_id: str | None) -> str | None:
        """The id of an earlier attempt's run, if this store still has it."""
        if run_id is None:
            return None
        try:
            run = self.client.get_run(run_id)
        except Exception:
            return None
        return run_id if run.info.lifecycle_stage == "active" else None

    def _log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        entries = [Param(k, str(v)) for k, v in params.items()]
        for i in range(0, len(entries), PARAMS_PER_CALL):
            self.client.log_batch(run_id, params=entries[i : i + PARAMS_PER_CALL])

    def _log_dataset(self, run_id: str, info: RunInfo) -> None:
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag

        source = CodeDatasetSource(tags={"dataset": info.dataset})
        dataset = MetaDataset(source=source, name=info.dataset, digest=info.split_hash)
        entity = dataset._to_mlflow_entity()
        self.client.log_inputs(
            run_id, [DatasetInput(entity, tags=[InputTag("mlflow.data.context", "train, val, test")])]
        )
