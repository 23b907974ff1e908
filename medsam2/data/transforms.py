"""Augmentation: MONAI dictionary transforms on the image and its labels alike, seeded per case and epoch.

MONAI itself is imported by whoever builds its transforms (the config names them); this module does not import
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medsam2.data.records import Case, compute_consensus


class CaseTransform(Protocol):
    """Changes a training case before prompts are drawn. Must take all its randomness from ``rng``."""

    def __call__(self, case: Case, rng: np.random.Generator) -> Case: ...


class Identity:
    """No augmentation."""

    def __call__(self, case: Case, rng: np.random.Generator) -> Case:
        return case


class MonaiTransforms:
    """MONAI dictionary transforms on the keys ``image`` (3×H×W float32) and ``label`` (K×H×W float32, masks).

    Every mask of the case, rater by rater, is one channel of ``label``, so image, labels and raters move
    together; an interpolating transform must use mode "nearest" for ``label``. Spacing follows the axes if
    they swap.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        from monai.transforms import Compose

        self._compose = Compose(list(transforms))

    def __call__(self, case: Case, rng: np.random.Generator) -> Case:
        import torch
        from monai.data import MetaTensor

        masks = _stack_masks(case)
        row, column = case.spacing or (1.0, 1.0)
        affine = torch.diag(torch.tensor([row, column, 1.0, 1.0], dtype=torch.float64))
        self._compose.set_random_state(seed=int(rng.integers(2**32)))
        image = MetaTensor(np.ascontiguousarray(case.image.transpose(2, 0, 1)), affine=affine)
        out = self._compose({"image": image, "label": MetaTensor(masks.astype(np.float32), affine=affine)})
        pixels = np.clip(np.asarray(out["image"].array, dtype=np.float32), 0.0, 1.0)
        changed = _unstack_masks(case, np.asarray(out["label"].array) >= 0.5)
        return replace(
            changed,
            image=np.ascontiguousarray(pixels.transpose(1, 2, 0)),
            spacing=_spacing(np.asarray(out["image"].affine)) if case.spacing else None,
        )


def _stack_masks(case: Case) -> NDArray[np.bool_]:
    """K×H×W: the raters of every structure, or its label where the case keeps no raters."""
    return np.concatenate([case.raters.get(structure, label[None]) for structure, label in case.labels.items()])


def _unstack_masks(case: Case, masks: NDArray[np.bool_]) -> Case:
    labels, raters, start = {}, {}, 0
    for structure in case.labels:
        count = len(case.raters.get(structure, (None,)))
        raters[structure] = masks[start : start + count]
        labels[structure] = compute_consensus(raters[structure])
        start += count
    return replace(case, labels=labels, raters=raters)


def _spacing(affine: NDArray[Any]) -> tuple[float, float]:
    """(row, column) in mm: the length of the affine's first two columns."""
    row, column = np.linalg.norm(affine[:2, :2], axis=0)
    return float(row), float(column)
