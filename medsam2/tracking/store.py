"""An MLflow store, through MlflowClient alone: the fluent API keeps global state that leaks between jobs.

Every write can be repeated: runs are found by their tags before one is made, and metrics carry the times at which they
were measured, which the store's own key makes unique.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsam2.database import with_driver
from medsam2.redact import redact
from medsam2.tracking.connect import is_database, open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ENTRIES_PER_CALL = {"params": 100, "metrics": 1000, "tags": 100}  # the REST interface takes no more
STATUS = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "failed": "FAILED",
    "queued": "SCHEDULED",
    "preempted": "KILLED",
    "interrupted": "KILLED",
    "pruned": "KILLED",
}
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"  # the description on the page of a run, in Markdown
KIND = {"mlflow.experimentKind": "custom_model_development"}  # the pages that MLflow shows of an experiment
MIRRORED = "mirrored"  # the tag with the digest of what the store was last given


def status_of(state: str, reason: str | None = None) -> str:
    """MLflow's word for a state of a run directory."""
    return "KILLED" if reason == "killed" else STATUS.get(state, "KILLED")


def valid_key(name: str) -> str:
    """A name of a metric or parameter as MLflow takes it: letters, digits and `_-.: /`."""
    return re.sub(r"[^/\w.\-: ]", "_", name)


class Store:
    """Finds, makes, fills and closes runs. Whatever the store raises goes to the caller.

    Args:
        output_dir: where `mlflow.db` lies when `uri` is None, and the artifacts of any database.
        uri: an MLflow tracking URI, or None for SQLite in `output_dir`.
    """

    def __init__(self, output_dir: Path, uri: str | None = None):
        self.output_dir = output_dir
        self.uri = with_driver(uri or f"sqlite:///{output_dir}/mlflow.db")
        self._client: MlflowClient | None = None
        self._experiments: dict[str, str] = {}

    def __str__(self) -> str:
        return redact(self.uri)

    @property
    def client(self) -> MlflowClient:
        if self._client is None:
            self._client = open_client(self.uri, self.output_dir)
        return self._client

    def reset(self) -> None:
        """Forgets what is known of the store: it may be another one, or the same one started again."""
        self._client, self._experiments = None, {}

    # --------------------------------------------------------------------------------------------- finding

    def experiment(self, study: str) -> str:
        """The id of the experiment named `study`, which is made if need be."""
        if study not in self._experiments:
            found = self.client.get_experiment_by_name(study)
            self._experiments[study] = found.experiment_id if found else self._new_experiment(study)
        return self._experiments[study]

    def _new_experiment(self, study: str) -> str:
        location = (self.output_dir.absolute() / "mlartifacts").as_uri() if is_database(self.uri) else None
        try:
            return str(self.client.create_experiment(study, artifact_location=location, tags=KIND))
        except Exception:
            found = self.client.get_experiment_by_name(study)  # another job made it in the meantime
            if found is None:
                raise
            return str(found.experiment_id)

    def search(self, study: str, query: str, deleted: bool = False) -> list[Run]:
        """All runs of a study that answer a query, the oldest first; with `deleted`, those in the bin too."""
        from mlflow.entities import ViewType

        view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
        where, order = [self.experiment(study)], ["attributes.start_time ASC"]
        page = self.client.search_runs(where, query, view, order_by=order)
        runs = list(page)
        while page.token:
            page = self.client.search_runs(where, query, view, order_by=order, page_token=page.token)
            runs += page
        return runs

    def get(self, known: str) -> Run | None:
        """The run with MLflow's id `known`, if this store has it."""
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(known)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    # --------------------------------------------------------------------------------------------- filling

    def create(self, study: str, name: str, tags: Mapping[str, str], begun: float) -> Run:
        """A new run that began at `begun` seconds since 1970."""
        texts = {key: str(value) for key, value in tags.items()}
        start = int(begun * 1000)
        return self.client.create_run(self.experiment(study), start_time=start, tags=texts, run_name=name)

    def log_params(self, run: Run, params: Mapping[str, Any]) -> None:
        """Those the run does not have yet; MLflow refuses to change one."""
        from mlflow.entities import Param

        named = {valid_key(k): redact(str(v)) for k, v in params.items()}
        self._log(run, "params", [Param(k, v) for k, v in named.items() if k not in run.data.params])

    def log_tags(self, run: Run, tags: Mapping[str, str]) -> None:
        """Those that differ; an empty one is not made."""
        from mlflow.entities import RunTag

        known = run.data.tags
        new = {k: str(v) for k, v in tags.items() if known.get(k, "") != str(v)}
        self._log(run, "tags", [RunTag(k, v) for k, v in new.items()])
        known.update(new)

    def log_metrics(self, run: Run, entries: Iterable[tuple[str, float, float, int]]) -> None:
        """`(key, value, seconds since 1970, epoch)`; an entry that the store has already is not stored twice."""
        from mlflow.entities import Metric

        self._log(run, "metrics", [Metric(k, v, int(t * 1000), epoch) for k, v, t, epoch in entries])

    def _log(self, run: Run, kind: str, entries: Sequence[Any]) -> None:
        size = ENTRIES_PER_CALL[kind]
        for i in range(0, len(entries), size):
            self.client.log_batch(run.info.run_id, **{kind: entries[i : i + size]})

    def epochs(self, run: Run, key: str) -> set[int]:
        """The epochs for which a run has a value of a metric."""
        if key not in run.data.metrics:
            return set()
        return {metric.step for metric in self.client.get_metric_history(run.info.run_id, key)}

    def log_dataset(self, run: Run, name: str, split_hash: str) -> None:
        """Name and split of the data, once."""
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag

        if run.inputs and run.inputs.dataset_inputs:
            return
        dataset = MetaDataset(source=CodeDatasetSource(tags={"dataset": name}), name=name, digest=split_hash)
        entry = DatasetInput(dataset._to_mlflow_entity(), tags=[InputTag("mlflow.data.context", "train, val, test")])
        self.client.log_inputs(run.info.run_id, [entry])

    def log_files(self, run: Run, files: Iterable[Path], folder: Path) -> None:
        """Copies files under their paths in `folder`."""
        for file in files:
            parent = file.relative_to(folder).parent.as_posix()
            self.client.log_artifact(run.info.run_id, str(file), None if parent == "." else parent)

    def set_status(self, run: Run, status: str, seconds: float) -> None:
        """Opens or closes a run; one that is closed ended at `seconds` since 1970."""
        if run.info.status == status:
            return
        if status in ("RUNNING", "SCHEDULED"):
            self.client.update_run(run.info.run_id, status=status)
        else:
            self.client.set_terminated(run.info.run_id, status=status, end_time=int(seconds * 1000))

    def close_if_open(self, run: Run) -> None:
        """A run that nobody computes any more."""
        if run.info.status in ("RUNNING", "SCHEDULED"):
            self.client.set_terminated(run.info.run_id, status="KILLED")
