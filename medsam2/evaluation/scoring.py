"""The answers about one case, or about one volume, become rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2.evaluation.answers import Kept, stack
from medsam2.evaluation.calibration import compute_ece
from medsam2.evaluation.cup_to_disc import compare_ratios
from medsam2.evaluation.metrics import METRICS, Pair, compute_overlap
from medsam2.evaluation.raters import add_slices, compare_raters
from medsam2.evaluation.rows import CUP_TO_DISC, Row

OVERLAPS = ("dice", "iou")  # in the order of compute_overlap


@dataclass(frozen=True)
class Scorer:
    """Scores answers; settings as the Evaluator's."""

    names: tuple[str, ...]
    convention: str
    metrics: dict[str, Callable[[Pair], float | None]]
    whole_volumes: bool
    skip_empty: bool
    vcdr: tuple[str, str] | None
    many_thresholds: bool

    def score(self, answers: Sequence[Kept], phase: str, protocol: str, position: int) -> list[Row]:
        """A row per structure of a case, or of a volume, or of each of its slices; then the cup-to-disc ratio."""
        structures: dict[str, list[Kept]] = {}
        for one in answers:
            structures.setdefault(one.info.structure, []).append(one)
        indices = [one.info.index for one in answers]
        extent = min(indices), max(indices) - min(indices) + 1
        rows: list[Row] = []
        for of_structure in structures.values():
            if self.whole_volumes and of_structure[0].info.volume:
                rows.append(self._volume(of_structure, *extent))
            else:
                rows += [self._single(one, of_structure) for one in of_structure]
        if self.vcdr is not None and not answers[0].info.volume:
            rows += self._ratio(structures)
        head = {"phase": phase, "protocol": protocol, "convention": self.convention, "position": position}
        return [head | row for row in rows]

    def _single(self, one: Kept, of_structure: Sequence[Kept]) -> Row:
        """The row of an image, or of a slice among those of its structure."""
        info = one.info
        prompt = info.prompt.name, info.prompt.budget, int(one.prompted)
        if not info.prompted:  # not prompt-free: its volume was prompted elsewhere
            name, budget, _ = describe_prompts(of_structure)
            prompt = name, budget if budget == "none" else f"tracked from {budget}", 0
        prediction, label = one.masks.crop()
        pair = Pair(prediction, label, info.spacing, one.masks.shape[1:])
        row = _head(one, info.case_id, *prompt) | self._scores(pair, one.counts, one.bins)
        row |= self._raters([one], pair)
        row |= self._prompt_alone([one] if info.prompted else [], pair) | _sizes(pair, info.spacing, ("pixel", "mm2"))
        return row | {"iou_predicted": one.iou}

    def _volume(self, slices: Sequence[Kept], first: int, depth: int) -> Row:
        """The row of a structure of a volume, of which `depth` slices from index `first` on were looked at."""
        info = slices[0].info
        spacing = None if info.spacing is None or info.thickness is None else (info.thickness, *info.spacing)
        prediction, label = stack(slices, first, depth)
        pair = Pair(prediction, label, spacing)
        counts, ious = np.stack([one.counts for one in slices]), np.array([one.iou for one in slices])
        bins = np.sum([one.bins for one in slices], axis=0)
        row = _head(slices[0], info.volume, *describe_prompts(slices))
        row |= self._scores(pair, counts.sum(axis=0), bins) | self._raters(slices, pair)
        shown = counts[:, 0, 2] > 0
        means = [m[shown].mean() if shown.any() else None for m in compute_overlap(counts)]
        row |= {f"slice_{name}": mean for name, mean in zip(OVERLAPS, means, strict=True) if name in self.names}
        row |= self._prompt_alone([one for one in slices if one.prompted], pair)
        row |= _sizes(pair, spacing, ("voxel", "mm3"))
        return row | {"iou_predicted": float(ious[shown].mean() if shown.any() else ious.mean())}

    def _scores(self, pair: Pair, counts: NDArray[np.int64], bins: NDArray[np.float64]) -> Row:
        if self._skips(pair):
            return dict.fromkeys(self.names)
        row = {name: self.metrics[name](pair) for name in self.names if name in METRICS}
        if "ece" in self.names:
            row["ece"] = compute_ece(bins)
        if self.many_thresholds:
            means = [float(metric.mean()) for metric in compute_overlap(counts)]
            row |= {name: mean for name, mean in zip(OVERLAPS, means, strict=True) if name in self.names}
        return row

    def _raters(self, slices: Sequence[Kept], pair: Pair) -> Row:
        return {} if self._skips(pair) else compare_raters(add_slices([one.common for one in slices]))

    def _skips(self, pair: Pair) -> bool:
        return self.skip_empty and pair.empties == 2

    def _prompt_alone(self, prompted: Sequence[Kept], pair: Pair) -> Row:
        """The Dice of what the prompts alone would answer, nothing where there is none; None for clicks."""
        filled = [one.filled for one in prompted if one.filled is not None]
        if not filled or len(filled) < len(prompted) or self._skips(pair):
            return {"prompt_dice": None}
        common, drawn, _ = np.sum(filled, axis=0)
        return {"prompt_dice": float(compute_overlap(np.array([common, drawn, pair.counts[2]]))[0])}

    def _ratio(self, structures: dict[str, list[Kept]]) -> list[Row]:
        """The row of the vertical cup-to-disc ratio, where the case shows both."""
        assert self.vcdr is not None
        if not all(name in structures for name in self.vcdr):
            return []
        cup, disc = (structures[name][0] for name in self.vcdr)
        ratios = compare_ratios(cup.masks.crop(), disc.masks.crop())
        if ratios is None:
            return []
        prompts = cup.info.prompt, disc.info.prompt
        texts = _join(prompt.name for prompt in prompts), _join(prompt.budget for prompt in prompts)
        head = _head(cup, cup.info.case_id, *texts, int(cup.prompted or disc.prompted))
        return [head | {"structure": CUP_TO_DISC} | ratios]


def describe_prompts(slices: Sequence[Kept]) -> tuple[str, str, int]:
    """The prompt's name, its budget ("box on 3 slices") and the number of prompted slices, of a volume's structure."""
    prompted = [one.info.prompt for one in slices if one.prompted]
    if not prompted:
        return slices[0].info.prompt.name, "none", 0
    budgets = Counter(prompt.budget for prompt in prompted)
    budget = _join(f"{budget} on {n} slice{'s' * (n > 1)}" for budget, n in budgets.items())
    return _join(prompt.name for prompt in prompted), budget, len(prompted)


def _join(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def _head(one: Kept, case_id: str, prompt: str, budget: str, prompted_slices: int) -> dict[str, Any]:
    head = {"case_id": case_id, "patient_id": one.info.patient_id, "structure": one.info.structure}
    return head | {"prompt": prompt, "budget": budget, "prompted_slices": prompted_slices}


def _sizes(pair: Pair, spacing: Sequence[float] | None, units: tuple[str, str]) -> Row:
    _, predicted, labelled = (float(number * np.prod(pair.spacing)) for number in pair.counts)
    return {"size_label": labelled, "size_prediction": predicted, "size_unit": units[spacing is not None]}
