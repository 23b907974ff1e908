"""Where a study is, who chooses its trials, and what becomes of it when a write is cut off."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna import create_study as make_study
from optuna.distributions import FloatDistribution
from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from medsam2.config_check import ConfigError
from medsam2.search import study as module
from medsam2.search.study import (
    build_pruner,
    build_sampler,
    create_study,
    open_storage,
    patiently,
    require_optuna,
    storage_reference,
)

SPACE = {"x": FloatDistribution(0, 1)}


def test_a_study_is_a_file_in_the_searchs_folder_unless_said_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDY_URL", "postgresql://me:secret@db/studies")
    monkeypatch.chdir(tmp_path)
    assert storage_reference(None, tmp_path / "s") == str(tmp_path / "s" / "study.journal")
    assert storage_reference("mine.journal", tmp_path / "s") == str(tmp_path / "mine.journal")
    assert storage_reference("postgresql://me@db/studies", tmp_path) == "postgresql://me@db/studies"
    assert storage_reference("${oc.env:STUDY_URL}", tmp_path) == "env:STUDY_URL"  # what a run keeps of it


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (
            "postgresql://me:hidden1@db/x",
            "hydra.sweeper.storage=postgresql://me:***@db/x: the runs would keep the password",
        ),
        ("${oc.env:NO_SUCH_VARIABLE}", "the environment variable NO_SUCH_VARIABLE is not set"),
    ],
)
def test_a_storage_that_cannot_be_passed_on_is_refused(raw: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        storage_reference(raw, tmp_path)
    assert problem in str(caught.value)
    assert "hidden1" not in str(caught.value)


def test_a_storage_that_cannot_be_used_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_PATIENCE", 0.0)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"hydra.sweeper.storage=.*study.journal: cannot be used: .*File exists"):
        create_study(str(tmp_path / "file" / "study.journal"), "s")
    monkeypatch.setenv("STUDY_URL", "postgresql://me:hidden1@127.0.0.1:1/x")
    with pytest.raises(ConfigError, match=r"hydra.sweeper.storage=env:STUDY_URL: cannot be used: .*refused") as caught:
        create_study("env:STUDY_URL", "s")
    assert "hidden1" not in str(caught.value)


def test_without_optuna_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'medsam2\[search\]'"):
        require_optuna()


@pytest.mark.parametrize("cut", [b'{"op_code":5', b'{"op_code":5,"x":1}'])
def test_a_line_that_was_cut_off_is_mended(tmp_path: Path, cut: bytes) -> None:
    path = tmp_path / "study.journal"
    create_study(str(path), "s").ask(SPACE)
    whole = path.read_bytes()
    path.write_bytes(whole + cut)
    study = create_study(str(path), "s")
    study.tell(study.ask(SPACE).number, 0.5)
    assert len(create_study(str(path), "s").trials) == 2
    assert path.read_bytes().startswith(whole)
    assert cut + b"\n" not in path.read_bytes()


def test_an_unmended_line_would_have_broken_the_study(tmp_path: Path) -> None:
    """Why it is mended: Optuna itself goes on writing behind it."""
    path = tmp_path / "study.journal"
    create_study(str(path), "s")
    path.write_bytes(path.read_bytes() + b'{"op_code":5')
    study = make_study(storage=JournalStorage(JournalFileBackend(str(path))), study_name="s", load_if_exists=True)
    with pytest.raises(ValueError, match=r"Expecting|Extra data|delimiter"):
        study.ask(SPACE)


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_a_sampler_is_reproducible_and_does_not_repeat_itself(tmp_path: Path, name: str) -> None:
    values = []
    for attempt in range(2):
        study = create_study(str(tmp_path / f"{attempt}.journal"), "s")
        for count in range(3):
            study.sampler = build_sampler(name, 7, count)
            study.ask(SPACE)
        values.append([trial.params["x"] for trial in study.trials])
    assert values[0] == values[1]
    assert len(set(values[0])) == 3
    other = create_study(str(tmp_path / "other.journal"), "s")
    other.sampler = build_sampler(name, 8, 0)
    assert other.ask(SPACE).params["x"] not in values[0]


def test_pruners() -> None:
    assert isinstance(build_pruner(None, 3), NopPruner)
    assert isinstance(build_pruner("median", 3), MedianPruner)
    assert isinstance(build_pruner("halving", 0), SuccessiveHalvingPruner)


def test_a_storage_is_asked_again_for_a_while() -> None:
    answers: list[Exception | str] = [OSError("busy"), OSError("busy"), "here"]

    def ask() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(ask, patience=5.0) == "here"
    answers[:] = [OSError("busy")] * 9
    with pytest.raises(OSError, match="busy"):
        patiently(ask, patience=0.2)
    answers[:] = [ValueError("a mistake")]
    with pytest.raises(ValueError, match="mistake"):
        patiently(ask)


def test_two_that_open_a_file_at_once_meet_in_one_study(tmp_path: Path) -> None:
    path = str(tmp_path / "study.journal")
    first, second = create_study(path, "s"), create_study(path, "s")
    first.tell(first.ask(SPACE).number, 0.25)
    assert [trial.value for trial in second.trials] == [0.25]
    assert open_storage(path).get_study_id_from_name("s") == first._study_id
