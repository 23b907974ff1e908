"""Masks that somebody else predicted, in the place of a network: for scores by the same evaluator on the same cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from medsam2.data.batch import MASK_LOGIT
from medsam2.data.loader import Batch, PromptedCases
from medsam2.data.records import Record
from medsam2.data.stored import MaskFiles
from medsam2.methods.base import Method, Prediction


class StoredMasks(Method):
    """Answers from the files of a folder; nothing is trained, and nobody is asked.

    Args:
        folder: holds a mask of each case; see MaskFiles.
        labels: which value in them is which structure, as MaskFiles.
    """

    def __init__(self, folder: str, labels: Mapping[str, Any] | None = None) -> None:
        super().__init__(nn.Module())
        self.folder = folder
        self.labels = labels
        self.records: dict[str, Record] = {}

    def build_cases(self, **settings: Any) -> PromptedCases:
        """The cases, of which each has a mask that fits it. Raises DatasetError as MaskFiles.check."""
        cases = PromptedCases(**settings)
        self.files = MaskFiles(self.folder, cases.dataset, self.labels)
        self.files.check(cases.records, lambda record: cases.source.get(record).shape)
        self.records = {record.case_id: record for record in cases.records}
        return cases

    def predict(self, batch: Batch) -> Prediction:
        """The stored masks as logits of the cases' own size, which all cases of a batch must share."""
        found: dict[str, dict[str, Any]] = {}
        for info in batch.objects:
            assert info.label is not None
            if info.case_id not in found:
                found[info.case_id] = self.files.load(self.records[info.case_id], info.label.shape)
        masks = np.stack([found[info.case_id][info.structure] for info in batch.objects])
        logits = torch.from_numpy(masks)[:, None].float().mul_(2 * MASK_LOGIT).sub_(MASK_LOGIT)
        return Prediction(logits, torch.full((len(masks),), torch.nan), batch.objects)
