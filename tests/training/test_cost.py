"""What a run cost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medsam2.training import cost
from medsam2.training.cost import forget_peak, measure_cost


def test_parameters_are_counted_and_those_that_train() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2, bias=False))
    model[0].requires_grad_(False)
    found = measure_cost(model, "cpu")
    assert (found["parameters"], found["trained_parameters"]) == (3 * 4 + 4 + 4 * 2, 4 * 2)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is known on Linux alone")
def test_the_peak_is_of_what_followed() -> None:
    size, nothing = 200 << 20, torch.nn.Identity()
    torch.ones(size, dtype=torch.uint8)
    forget_peak("cpu")
    before = measure_cost(nothing, "cpu")["peak_memory"]
    torch.ones(size // 2, dtype=torch.uint8)
    after = measure_cost(nothing, "cpu")["peak_memory"]
    assert size // 2 * 0.9 < after - before < size * 0.9


def test_a_system_that_does_not_tell_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cost, "PROCESS", tmp_path / "nothing")
    forget_peak("cpu")
    assert measure_cost(torch.nn.Identity(), "cpu")["peak_memory"] is None
