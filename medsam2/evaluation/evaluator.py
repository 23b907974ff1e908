"""Scores a method case by case and volume by volume, at each case's own resolution."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from medsam2.data.loader import Batch, ObjectInfo
from medsam2.distributed import gather
from medsam2.evaluation.answers import Answer, Kept, Witness, keep
from medsam2.evaluation.calibration import count_bins
from medsam2.evaluation.conventions import OURS, find_metrics
from medsam2.evaluation.metrics import NAMES, Mask, compute_nsd, count
from medsam2.evaluation.rows import CUP_TO_DISC, Row
from medsam2.evaluation.scoring import Scorer

if TYPE_CHECKING:
    from medsam2.methods.base import Method, Prediction

log = logging.getLogger(__name__)

Autocast = Callable[[], AbstractContextManager[Any]]
Support = Callable[[], Iterable[Batch]]


class Evaluator:
    """Yields one row per case and structure; aggregates are computed from rows, elsewhere.

    A row holds phase, case_id, patient_id, structure, prompt and its budget, the number of prompted slices, the metrics
    (empty masks as in `metrics`), `prompt_dice` (the Dice of the prompt's mask or of its box, filled; None for clicks),
    the sizes of label and prediction (mm² or mm³ where the spacing is known, else pixels or voxels), the IoU the model
    predicts for its own mask, the method's protocol and `position`, which says when the case or volume was asked: 0 for
    the first, the same for all its structures and slices. Where there are several raters it holds the columns of
    `raters` too; on a volume's slice without raters they count as having marked nothing.
    The row of a volume also holds slice_dice and slice_iou, means over the slices that show the structure, as is
    its predicted IoU; slices that the method was not asked about count as empty, in both masks.

    Args:
        names: metrics to compute: dice, iou, hd95, assd, nsd, volume_error, and ece, the calibration error of the
            foreground's probabilities over the pixels that were answered.
        overlays: whether pictures of the worst, median and best test case are drawn.
        probability: a pixel is foreground above this mask probability, 0..1.
        unit: slices of a volume are scored as the "volume" they make, or each "slice" by itself.
        nsd_tolerance: how far surfaces may lie apart and still agree, in mm, or in pixels where there is no spacing.
        both_empty: what an absent structure counts that is answered empty: "score" it as right, or "skip" its metrics.
        vcdr: the structures of which the vertical cup-to-disc ratio is computed, (cup, disc); null for none.
        legacy_logit_thresholds: Dice and IoU as the means over masks cut at these logits; Medical-SAM2 reports volumes
            at 0.1, 0.3, 0.5, 0.7, 0.9, which it takes for probabilities. null for the one mask at `probability`.
        convention: "medsam2", or whose scores are reproduced: "transunet", "nnunet" or "monai", as in `conventions`.

    Raises:
        ValueError: an unknown metric, or a setting that is out of range.
    """

    def __init__(
        self,
        names: Sequence[str],
        overlays: bool = True,
        probability: float = 0.5,
        unit: str = "volume",
        nsd_tolerance: float = 2.0,
        both_empty: str = "score",
        vcdr: Sequence[str] | None = None,
        legacy_logit_thresholds: Sequence[float] | None = None,
        convention: str = OURS,
    ):
        _check_settings(names, probability, unit, nsd_tolerance, both_empty, vcdr, legacy_logit_thresholds, convention)
        self.names = tuple(names)
        self.overlays = overlays
        self.threshold = math.log(probability / (1 - probability))
        self.legacy_thresholds = tuple(legacy_logit_thresholds or ())
        self.scorer = Scorer(
            names=self.names,
            convention=convention,
            metrics=find_metrics(convention) | {"nsd": partial(compute_nsd, tolerance=nsd_tolerance)},
            whole_volumes=unit == "volume",
            skip_empty=both_empty == "skip",
            vcdr=(vcdr[0], vcdr[1]) if vcdr else None,
            many_thresholds=bool(self.legacy_thresholds),
        )
        if convention != OURS:
            log.warning(
                "metrics.convention=%s: %s as %s scores, to reproduce its tables; not to be compared with other runs",
                convention,
                ", ".join(self.names),
                convention,
            )

    def evaluate(
        self,
        method: Method,
        batches: Iterable[Batch],
        phase: str,
        device: str,
        autocast: Autocast,
        support: Support | None = None,
        witnesses: Sequence[Witness] = (),
    ) -> list[Row]:
        """The rows of all cases of `batches`, in their order; `support` is what the method may remember beforehand.

        Each of `witnesses` sees every answer. Where several processes share an evaluation each gives its part of the
        cases, and all of them get all rows.

        Raises ValueError where the slices of a volume do not follow one another.
        """
        self.start(method, device, autocast, support)

        def ask() -> Iterator[Kept]:
            for batch in batches:
                for answer in self.predict(method, batch, device, autocast):
                    for witness in witnesses:
                        witness.see(answer, batch)
                    yield keep(answer)

        scored: dict[str, list[Row]] = {}
        for volume, answers in groupby(ask(), _belongs_to):
            _check_new(volume, scored)
            scored[volume] = self.scorer.score(list(answers), phase, method.protocol, len(scored))
        rows = _join(gather(scored))
        self._miss_ratios(rows, phase)
        return rows

    def _miss_ratios(self, rows: Sequence[Row], phase: str) -> None:
        """Warns of a cup-to-disc ratio that was asked for and that no case has."""
        there = dict.fromkeys(row["structure"] for row in rows)
        if self.scorer.vcdr is not None and CUP_TO_DISC not in there:
            log.warning(
                "metrics.vcdr=[%s]: no case of %s has this ratio, which is of images (not volumes) that show both; "
                "there are %s; name two of these, or use metrics.vcdr=null",
                ",".join(self.scorer.vcdr),
                phase,
                ", ".join(there) or "no structures",
            )

    @torch.inference_mode()
    def start(self, method: Method, device: str, autocast: Autocast, support: Support | None) -> None:
        """Tells a method that an evaluation begins, with training cases that it may remember."""
        method.model.eval()
        with autocast():
            method.start_evaluation(lambda: (batch.to(device) for batch in (support() if support else ())))

    def predict(self, method: Method, batch: Batch, device: str, autocast: Autocast) -> Iterator[Answer]:
        """The answer about each object of a batch."""
        if batch.objects:
            yield from self.answers(self._ask(method, batch, device, autocast))

    def answers(self, prediction: Prediction) -> Iterator[Answer]:
        """What a prediction says about each of its objects."""
        ious = prediction.iou_predictions.tolist()
        for info, logits, iou in zip(prediction.objects, prediction.mask_logits, ious, strict=True):
            yield self._answer(info, logits, iou)

    @torch.inference_mode()
    def _ask(self, method: Method, batch: Batch, device: str, autocast: Autocast) -> Prediction:
        method.model.eval()
        with autocast():
            return method.predict(batch.to(device))

    def _answer(self, info: ObjectInfo, logits: Tensor, iou: float) -> Answer:
        """1×h×w logits as a mask of the label's H×W; logits are interpolated, never masks."""
        assert info.label is not None
        full = interpolate(logits[None].float(), info.label.shape, mode="bilinear", align_corners=False)[0, 0]
        mask = _above(full, self.threshold)
        masks = [_above(full, threshold) for threshold in self.legacy_thresholds] or [mask]
        counts = np.stack([count(one, info.label) for one in masks])
        bins = count_bins(full.sigmoid().cpu().numpy(), info.label) if "ece" in self.names else np.empty((3, 0))
        return Answer(info, mask, iou, counts, bins)


def _above(logits: Tensor, threshold: float) -> Mask:
    mask: NDArray[np.bool_] = (logits > threshold).cpu().numpy()
    return mask


def _check_new(volume: str, done: Collection[str]) -> None:
    if volume in done:
        raise ValueError(
            f"volume {volume}: its slices do not follow one another; evaluate the cases in the dataset's order"
        )


def _join(shares: Sequence[dict[str, list[Row]]]) -> list[Row]:
    """The rows of all shares, whose cases and volumes are asked one after another."""
    done: dict[str, list[Row]] = {}
    for share in shares:
        for volume, rows in share.items():
            _check_new(volume, done)
            done[volume] = [row | {"position": len(done)} for row in rows]
    return [row for rows in done.values() for row in rows]


def _belongs_to(kept: Kept) -> str:
    return kept.info.volume or kept.info.case_id


def _check_settings(
    names: Sequence[str],
    probability: float,
    unit: str,
    nsd_tolerance: float,
    both_empty: str,
    vcdr: Sequence[str] | None,
    thresholds: Sequence[float] | None,
    convention: str,
) -> None:
    """Raises ValueError naming the setting that is out of range."""
    theirs = convention != OURS
    known = tuple(find_metrics(convention)) if theirs else NAMES
    whose = f"of metrics.convention={convention}" if theirs else "metrics"
    fine = {
        f"names={list(names)}: known {whose} are {', '.join(known)}, one or more": names and set(names) <= set(known),
        f"probability={probability}: a pixel's probability, between 0 and 1": 0 < probability < 1,
        f"unit={unit}: use volume or slice": unit in ("volume", "slice"),
        f"nsd_tolerance={nsd_tolerance}: a distance in mm, 0 or more": 0 <= nsd_tolerance < math.inf,
        f"both_empty={both_empty}: use score or skip": both_empty in ("score", "skip"),
        f"vcdr={vcdr}: name the cup and the disc, as [cup,disc], or use null": not vcdr
        or len(set(vcdr)) == 2 == len(vcdr),
        f"legacy_logit_thresholds={thresholds}: use logits, or null": all(map(math.isfinite, thresholds or ())),
        f"both_empty={both_empty}: convention={convention} says itself what empty masks count; use score": not theirs
        or both_empty == "score",
        f"legacy_logit_thresholds={thresholds}: is not how {convention} scores; use null": not (theirs and thresholds),
    }
    wrong = [f"metrics.{text}" for text, holds in fine.items() if not holds]
    if wrong:
        raise ValueError("; ".join(wrong))
