"""A study in PostgreSQL: heads that start at once, and a database that is away for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medsam2.search import search as module
from medsam2.search.judge import Judge
from tests.search.fakes import FakeWatch, build_search, check_two_heads, states
from tests.tracking.helpers_servers import PASSWORD, Postgres, postgres

pytestmark = pytest.mark.slow
pytest.importorskip("psycopg2", reason="no driver for PostgreSQL here: pip install psycopg2-binary")


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[Postgres]:
    monkeypatch.setattr(module, "PAUSE", 0.1)
    monkeypatch.setattr(module, "IDLE", 0.5)
    with postgres() as server:
        monkeypatch.setenv("STUDY_URL", server.uri)
        yield server


def test_two_heads_meet_in_a_fresh_database(database: Postgres, tmp_path: Path) -> None:
    check_two_heads(tmp_path / "s", "env:STUDY_URL")


def test_a_search_waits_for_its_database(database: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    search = build_search(tmp_path / "s", FakeWatch(), n_trials=4, storage="env:STUDY_URL")
    back = threading.Timer(4.0, database.start)

    def stop_once() -> None:
        if len(search.watch.started) == 2 and not back.ident:
            database.stop()
            back.start()

    search.run(look=stop_once)
    back.join()
    assert states(search.study) == {"COMPLETE": 4}
    assert "the study does not answer, asking again" in caplog.text
    assert PASSWORD not in caplog.text


def test_a_judge_does_without_its_database(
    database: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    search = build_search(tmp_path / "s", FakeWatch(hold=True), n_trials=1, storage="env:STUDY_URL")
    assert search._next()
    judge = Judge("env:STUDY_URL", "s", 0, "median", 0)
    judge(0, 0.5)
    database.stop()
    begin = time.monotonic()
    judge(1, 0.6)
    assert time.monotonic() - begin < 6
    database.start()
    judge(2, 0.7)
    assert search.study.trials[0].intermediate_values == {0: 0.5, 2: 0.7}
    (message,) = [r.getMessage() for r in caplog.records if r.name == "medsam2.search.judge"]
    assert message.startswith("not judged, the study cannot be reached: ")
    assert PASSWORD not in caplog.text
