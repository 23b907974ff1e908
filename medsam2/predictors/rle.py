"""Run-length encoding of masks, column by column as in COCO: {"size": [height, width], "counts": ...}.

Counts alternate between background and foreground and begin with background, which may be 0.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor


class Rle(TypedDict):
    """An uncompressed code; counts add up to height x width."""

    size: list[int]
    counts: list[int]


class CocoRle(TypedDict):
    """A code with the counts as COCO's string."""

    size: list[int]
    counts: str


def encode_masks(masks: Tensor) -> list[Rle]:
    """Codes of N x H x W bool masks on any device; only the ends of runs travel, all at once."""
    count, height, width = masks.shape
    size = height * width
    flat = masks.transpose(1, 2).reshape(count, size)
    before = torch.cat((flat.new_zeros(count, 1), flat[:, :-1]), dim=1)
    index, ends = (flat != before).nonzero().cpu().numpy().T
    per_mask = np.split(ends, np.bincount(index, minlength=count).cumsum()[:-1]) if count else []
    return [
        {"size": [height, width], "counts": np.diff(run_ends, prepend=0, append=size).tolist()} for run_ends in per_mask
    ]


def decode_mask(rle: Rle) -> np.ndarray:
    """The mask of a code, H x W bool."""
    height, width = rle["size"]
    values = np.arange(len(rle["counts"])) % 2 == 1
    return np.repeat(values, rle["counts"]).reshape(width, height).T


def compute_area(rle: Rle) -> int:
    """Foreground pixels of a code."""
    return sum(rle["counts"][1::2])


def compress(rle: Rle) -> CocoRle:
    """The code as COCO's tools write it."""
    return {"size": rle["size"], "counts": compress_counts(rle["counts"])}


def compress_counts(counts: Sequence[int]) -> str:
    """Counts as COCO's string: from the fourth on the difference to the last but one, 5 bits per character.

    The lowest bits come first; the sixth bit says that more follow, the last fifth bit is the sign.
    """
    characters = []
    for i, count in enumerate(counts):
        rest = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            bits, rest = rest & 31, rest >> 5
            more = rest != (-1 if bits & 16 else 0)
            characters.append(chr(48 + bits + 32 * more))
    return "".join(characters)


def decompress_counts(text: str) -> list[int]:
    """The inverse of compress_counts."""
    counts: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= (bits & 16) << (shift - 4)  # the sign
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value, shift = 0, 0
    return counts
