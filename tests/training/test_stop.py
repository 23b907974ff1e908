"""A signal is noted, obeyed when everything is saved, and handed on."""

from __future__ import annotations

import os
import signal
from types import FrameType

import pytest

from medsam2.training.stop import SIGNALS, Preempted, Stop


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_changes_nothing_until_the_run_leaves(signum: int, capfd: pytest.CaptureFixture[str]) -> None:
    stop = Stop()
    with stop.listen():
        stop.check()
        assert not stop.requested
        os.kill(os.getpid(), signum)
        assert stop.requested
        with pytest.raises(Preempted) as caught:
            stop.check()
    assert caught.value.signum == signum
    assert ("Ctrl-C again" in capfd.readouterr().err) is (signum == signal.SIGINT)


def test_handlers_are_put_back_and_called_afterwards() -> None:
    heard: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGUSR2, lambda *arguments: heard.append(arguments))
    try:
        mine = signal.getsignal(signal.SIGUSR2)
        stop = Stop()
        with stop.listen():
            os.kill(os.getpid(), signal.SIGUSR2)
        assert signal.getsignal(signal.SIGUSR2) is mine
        assert heard == []
        stop.hand_on(signal.SIGUSR2)
        assert heard == [(signal.SIGUSR2, None)]
        stop.hand_on(signal.SIGHUP)  # nobody listened: nothing happens
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_second_signal_of_an_impatient_user_leaves_at_once() -> None:
    with Stop().listen():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Preempted):
            os.kill(os.getpid(), signal.SIGTERM)


def test_slurm_may_signal_twice() -> None:
    stop = Stop()
    with stop.listen():
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert stop.requested


def test_a_signal_that_lets_the_run_stay_is_obeyed_by_saving_alone() -> None:
    stop = Stop(stays=[signal.SIGTERM])
    with stop.listen():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        stop.check()  # an evaluation has nothing to save
        assert stop.requested
        stop.leave()
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGUSR2)
        with pytest.raises(Preempted):
            stop.leave()


def test_a_request_to_save_does_not_hide_the_one_to_leave() -> None:
    """SLURM's USR2 before a time limit, and a TERM before the next step."""
    stop = Stop(stays=[signal.SIGTERM])
    with stop.listen():
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.agreed
        with pytest.raises(Preempted) as caught:
            stop.leave()
    assert caught.value.signum == signal.SIGUSR2


def test_no_ordinary_handler_swallows_it() -> None:
    assert not issubclass(Preempted, Exception)
