"""The study: Optuna's record of trials, in a file or a database that heads and jobs share.

Nothing else in the project, the judge of a job aside, talks to Optuna.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from medsam2.config_check import ConfigError
from medsam2.database import root_cause, with_driver
from medsam2.redact import redact

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

log = logging.getLogger(__name__)

SAMPLERS = ("tpe", "gp", "random")
PRUNERS = ("median", "halving")
PATIENCE = 600.0  # seconds a head waits for a database that no longer answers
START_PATIENCE = 10.0  # and at its start, where the address may be wrong
T = TypeVar("T")


def require_optuna() -> None:
    """Raises ConfigError with the command that installs it, where Optuna is missing."""
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            ["hydra/sweeper=optuna: Optuna is missing; install it: pip install 'medsam2[search]'"]
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def storage_reference(raw: str | None, folder: Path) -> str:
    """Where the study is, as a job is told: a path, an address without a password, or `env:NAME`.

    Args:
        raw: `hydra.sweeper.storage` as it is written, `${oc.env:NAME}` unresolved; None for a file in `folder`.

    Raises:
        ConfigError: an address that is no database's, or that holds a password, which every run would keep a copy of.
    """
    if raw is None:
        return str(folder / "study.journal")
    if raw.startswith("${oc.env:") and raw.endswith("}"):
        name = raw.removeprefix("${oc.env:").removesuffix("}").strip()
        if not os.environ.get(name):
            raise ConfigError([f"hydra.sweeper.storage={raw}: the environment variable {name} is not set"])
        return f"env:{name}"
    if "://" not in raw:
        return str(Path(raw).expanduser().absolute())
    if redact(raw) != raw:
        remedy = "put it into an environment variable: 'hydra.sweeper.storage=${oc.env:STUDY_URL}'"
        raise ConfigError([f"hydra.sweeper.storage={redact(raw)}: the runs would keep the password; {remedy}"])
    return raw


def open_storage(reference: str) -> BaseStorage:
    """The storage of a reference; files and tables are made where there are none.

    Raises whatever the file system or the database raises.
    """
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    where = os.environ[reference[4:]] if reference.startswith("env:") else reference
    if "://" not in where:
        Path(where).parent.mkdir(parents=True, exist_ok=True)
        _mend(Path(where))
        return JournalStorage(JournalFileBackend(where))
    wait = {"connect_timeout": 5} if where.startswith("postgres") else {}
    return RDBStorage(with_driver(where), engine_kwargs={"pool_pre_ping": True, "connect_args": wait})


def _mend(journal: Path) -> None:
    """Cuts off a last line that a full disk or a crash left incomplete; what was added to it would be lost with it."""
    from optuna.storages.journal import JournalFileSymlinkLock

    if not journal.exists() or _whole(journal):
        return
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()
    try:
        content = journal.read_bytes()
        os.truncate(journal, content.rfind(b"\n") + 1)
    finally:
        lock.release()


def _whole(journal: Path) -> bool:
    with journal.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def create_study(reference: str, name: str) -> Study:
    """Opens the study, or makes it; heads that start at once meet in one.

    Raises:
        ConfigError: the file or the database cannot be used.
    """
    import optuna

    def create() -> Study:
        storage = open_storage(reference)
        return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)

    try:
        return patiently(create, patience=START_PATIENCE)
    except Exception as error:
        reason = root_cause(error)
        raise ConfigError([f"hydra.sweeper.storage={reference}: cannot be used: {reason}"]) from error


def build_sampler(name: str, seed: int, trials: int) -> BaseSampler:
    """A sampler for the next trial, seeded by how many there are: a search that goes on does not repeat itself.

    Args:
        name: tpe (tree-structured Parzen estimators, Bergstra et al. 2011), gp (a Gaussian process), random.
    """
    from optuna.samplers import GPSampler, RandomSampler, TPESampler

    classes: dict[str, Callable[..., BaseSampler]] = {"tpe": TPESampler, "gp": GPSampler, "random": RandomSampler}
    return classes[name](seed=(seed * 1_000_003 + trials) % 2**32)


def build_pruner(name: str | None, prune_after: int) -> BasePruner:
    """A pruner for maximisation.

    Args:
        name: median (worse at an epoch than half of the finished trials were), halving (only the best quarter of the
            trials goes beyond prune_after, 4 × prune_after, 16 × … epochs: Li et al. 2020), None for no pruning.
        prune_after: epochs before which no trial is given up.
    """
    from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

    if name is None:
        return NopPruner()
    if name == "median":
        return MedianPruner(n_startup_trials=5, n_warmup_steps=prune_after)
    return SuccessiveHalvingPruner(min_resource=max(1, prune_after))


def patiently(action: Callable[[], T], patience: float = PATIENCE) -> T:
    """What `action` returns; a storage that does not answer is asked again for a while.

    Raises the storage's own error when patience has run out.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DBAPIError

    until, wait = time.monotonic() + patience, 0.1
    while True:
        try:
            return action()
        except (StorageInternalError, DBAPIError, OSError) as error:
            if time.monotonic() + wait > until:
                raise
            if wait > 1:
                log.warning("the study does not answer, asking again: %s", root_cause(error))
            time.sleep(wait)
            wait = min(2 * wait, 30.0)
