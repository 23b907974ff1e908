"""What is searched: a distribution for every key whose override is a sweep, in Hydra's own grammar.

optim.lr=tag(log,interval(1e-5,1e-3))   a number, evenly in its logarithm
loss.dice_weight=interval(0,1)          a number            optim.steps=int(interval(1,9))   a whole number
model=sam2_t,sam2_s                     one of these        image_size=range(256,1025,256)   one of these steps
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from medsam2.config_check import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

NOT_SEARCHED = {
    "seed": "the search would choose the luckiest seed",
    "dataset": "the search would choose the easiest dataset",
    "dataset.fold": "the search would choose the easiest fold",
}


@dataclass(frozen=True)
class Space:
    """The overrides that stay as they are, and a distribution for each key that is searched.

    Args:
        prefixes: the `+` or `++` with which a key was typed.
    """

    fixed: tuple[str, ...]
    axes: Mapping[str, BaseDistribution]
    prefixes: Mapping[str, str]

    def overrides(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """The command line of one trial."""
        searched = (f"{self.prefixes[key]}{key}={value_text(values[key])}" for key in self.axes)
        return (*self.fixed, *searched)

    def texts(self, values: Mapping[str, Any]) -> dict[str, str]:
        """The searched values of one trial as they are typed."""
        return {key: value_text(values[key]) for key in self.axes}

    def corners(self) -> list[dict[str, Any]]:
        """Few points in which every choice and both ends of every interval occur: what can be wrong shows there."""
        values = {key: _extremes(distribution) for key, distribution in self.axes.items()}
        count = max(map(len, values.values()))
        return [{key: some[min(i, len(some) - 1)] for key, some in values.items()} for i in range(count)]


def parse_space(overrides: Sequence[Override]) -> Space:
    """Splits parsed overrides into what is fixed and what is searched; of two for one key the later counts.

    Raises:
        ConfigError: naming each key whose space is empty, upside down or no sensible thing to search, or that there
            is none at all.
    """
    last = {override.get_key_element().lstrip("+"): override for override in overrides}
    axes: dict[str, BaseDistribution] = {}
    prefixes: dict[str, str] = {}
    problems = []
    for name, override in last.items():
        if not override.is_sweep_override():
            continue
        try:
            if name in NOT_SEARCHED:
                raise ValueError(f"{NOT_SEARCHED[name]}; give one, and compare the best settings over several later")
            axes[name] = _distribution(override)
            prefixes[name] = override.get_key_element().removesuffix(name)
        except ValueError as error:
            problems.append(f"{override.input_line}: {error}")
    if not axes and not problems:
        example = "optim.lr=tag(log,interval(1e-5,1e-3))"
        problems.append(f"hydra.sweeper.params: nothing to search; give at least one key a space, such as '{example}'")
    if problems:
        raise ConfigError(problems)
    fixed = [str(override.input_line) for override in last.values() if not override.is_sweep_override()]
    return Space(tuple(fixed), axes, prefixes)


def value_text(value: Any) -> str:
    """A value as it is typed: choices as they were, numbers to six digits."""
    if isinstance(value, float):
        text = f"{value:.6g}"
        return text if "." in text or "e" in text else f"{text}.0"
    return str(value)


def _distribution(override: Override) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution

    value = override.value()
    tags = set(getattr(value, "tags", ()))
    if unknown := sorted(tags - {"log"}):
        raise ValueError(f"unknown tag {', '.join(unknown)}; the only one is log")
    if isinstance(value, IntervalSweep):
        return _interval(value.start, value.end, log="log" in tags)
    if tags:
        raise ValueError("log goes with an interval, such as tag(log,interval(1e-5,1e-3))")
    if isinstance(value, RangeSweep):
        return _steps(value)
    choices = list(dict.fromkeys(override.sweep_string_iterator()))
    if len(choices) < 2:
        raise ValueError("is one choice; give two or more, or the value alone")
    return CategoricalDistribution(choices)


def _interval(low: float | None, high: float | None, log: bool) -> BaseDistribution:
    from optuna.distributions import FloatDistribution, IntDistribution

    if low is None or high is None or not low < high:
        raise ValueError(f"the lower end {low} must be below the upper end {high}")
    if log and low <= 0:
        raise ValueError(f"the lower end {low} must be above 0 for a logarithm")
    kind: Callable[..., BaseDistribution] = IntDistribution if isinstance(low, int) else FloatDistribution
    return kind(low, high, log=log)


def _steps(sweep: RangeSweep) -> BaseDistribution:
    from optuna.distributions import FloatDistribution, IntDistribution

    values = list(sweep.range())
    if len(values) < 2:
        raise ValueError("has fewer than two steps; the end of a range is not part of it")
    low, high = min(values), max(values)
    if isinstance(low, int):
        return IntDistribution(low, high, step=abs(int(sweep.step)))
    return FloatDistribution(low, float(f"{high:.12g}"), step=abs(sweep.step))  # the last of many sums is not round


def _extremes(distribution: Any) -> list[Any]:
    choices = getattr(distribution, "choices", None)
    return list(choices) if choices else [distribution.low, distribution.high]
