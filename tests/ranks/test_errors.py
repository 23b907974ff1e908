"""What a rank raises arrives as what it was."""

from __future__ import annotations

import errno
import signal
from typing import Any

import pytest

from medsam2.data.records import DatasetError
from medsam2.distributed import RankLost
from medsam2.ranks.errors import RankKilled, consequence, pack_error, unpack_error
from medsam2.training.memory import OutOfMemory
from medsam2.training.stop import Preempted
from medsam2.training.watch import NonFiniteLoss


class Local(Exception):
    """Holds what cannot travel."""

    def __init__(self) -> None:
        super().__init__("odd")
        self.held = lambda: None


@pytest.mark.parametrize(
    ("error", "attributes"),
    [
        (DatasetError("case a: cut off", "unreadable file"), {"kind": "unreadable file"}),
        (Preempted(signal.SIGUSR2), {"signum": signal.SIGUSR2}),
        (OSError(errno.ENOSPC, "full", "/a/b"), {"errno": errno.ENOSPC, "filename": "/a/b"}),
        (OutOfMemory("lower one of:\n  batch_size=1"), {}),
        (NonFiniteLoss("loss is nan"), {}),
        (KeyError("a"), {}),
    ],
)
def test_an_error_keeps_its_class_text_attributes_and_traceback(error: BaseException, attributes: Any) -> None:
    def raise_it() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        raise_it()
    arrived = unpack_error(pack_error(caught.value))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert {name: getattr(arrived, name) for name in attributes} == attributes
    assert "in raise_it" in str(arrived.__cause__)


def test_an_error_that_cannot_travel_arrives_as_its_text() -> None:
    arrived = unpack_error(pack_error(Local()))
    assert type(arrived) is RuntimeError
    assert str(arrived) == "Local: odd"


def test_hydra_s_wrapping_is_taken_off() -> None:
    class InstantiationException(Exception):
        pass

    outer = InstantiationException("Error in call to target")
    outer.__cause__ = ValueError("dataset.size=3 must be 4")
    assert repr(unpack_error(pack_error(outer))) == "ValueError('dataset.size=3 must be 4')"


def test_the_first_of_several_errors_is_the_one_that_is_no_consequence() -> None:
    errors = [RankLost("b"), RankKilled("a"), Preempted(signal.SIGTERM), OutOfMemory("c")]
    assert sorted(errors, key=consequence) == errors[::-1]
