"""What a case recalls of a bank, and how it is conditioned on it: as SAM 2 conditions a frame on prompted frames."""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medsam2.data.batch import ObjectInfo
from medsam2.data.seeding import stable_rng
from medsam2.methods.bank import Bank, Entry, compute_similarity
from medsam2.methods.decoding import to_index
from medsam2.modeling.history import FrameMemory, History
from medsam2.modeling.memory_selection import MemoryPlan, Remembered
from medsam2.modeling.sam import ImageFeatures
from medsam2.modeling.sam2 import SAM2, resize

log = logging.getLogger(__name__)


@dataclass
class Recall:
    """Draws memories for each object and lets its image attend to them.

    Args:
        model: a SAM 2.
        num_memories: how many are drawn, fewer where the bank holds fewer and none may be drawn twice.
        temperature: they are drawn with p = softmax(similarity / temperature). None draws uniformly, 0 takes the most
            similar.
        replacement: a memory may be drawn several times.
        pointers: object pointers are attended to beside the memories, each as that of a neighbouring frame.
        train_memory: gradients reach what makes a memory of an entry.
        legacy_similarity: Medical-SAM2 compares the query in rows of channels with entries in planes of channels,
            which makes chance of the similarity.
        legacy_empty_bank: an empty bank leaves the embedding as it is, in place of no_mem_embed.
        seed: draws depend on it, on epoch, case and structure, never on what was drawn before.

    Raises:
        ValueError: a network without memory, fewer than one memory to draw, or a negative temperature.
    """

    model: Any
    num_memories: int
    temperature: float | None
    replacement: bool
    pointers: bool
    train_memory: bool
    legacy_similarity: bool
    legacy_empty_bank: bool
    seed: int

    def __post_init__(self) -> None:
        _check_model(self.model)
        if self.num_memories < 1 or (self.temperature is not None and self.temperature < 0):
            raise ValueError(
                f"method.num_memories={self.num_memories} must be 1 or more, method.temperature={self.temperature} "
                "0 or more, or null for uniform draws"
            )

    def condition(
        self,
        embed: Tensor,
        infos: Sequence[ObjectInfo],
        bank: Bank | None,
        epoch: int | None,
        own_patient: bool = False,
    ) -> Tensor:
        """Raw embeddings of N objects, N×C×n×n, to what the decoder sees; arguments as `draw`.

        Objects with as many memories are one batch; an entry that several have drawn is encoded once.
        """
        drawn = self.draw(embed, infos, bank, epoch, own_patient)
        order = sorted(range(len(drawn)), key=lambda row: len(drawn[row]))
        entries = list({id(entry): entry for memories in drawn for entry in memories}.values())
        place = {id(entry): i for i, entry in enumerate(entries)}
        encoded = self._encode(entries) if entries else None
        parts = []
        for _, group in groupby(order, key=lambda row: len(drawn[row])):
            rows = list(group)
            raw = ImageFeatures(embed[to_index(rows, embed.device)], ())
            picked = list(zip(*([place[id(entry)] for entry in drawn[row]] for row in rows), strict=True))
            parts.append(self._attend(raw, encoded, picked))
        back = sorted(range(len(order)), key=order.__getitem__)
        return torch.cat(parts)[to_index(back, embed.device)]

    def draw(
        self,
        embed: Tensor,
        infos: Sequence[ObjectInfo],
        bank: Bank | None,
        epoch: int | None,
        own_patient: bool = False,
    ) -> list[list[Entry]]:
        """The memories of each object: of its structure, of other cases, of other patients.

        Args:
            epoch: None in an evaluation.
            own_patient: other cases of its own patient may be drawn, too: neighbouring slices of a volume. A patient_id
                of "" is unknown, and excludes the case alone.
        """
        drawn: list[list[Entry]] = [[] for _ in infos]
        queries = embed.detach().permute(0, 2, 3, 1) if self.legacy_similarity else embed.detach()
        for structure, entries in ({} if bank is None else bank.entries).items():
            rows = [row for row, info in enumerate(infos) if info.structure == structure]
            if not rows or not entries:
                continue
            keys = torch.cat([entry.embed for entry in entries])
            similarity = compute_similarity(queries[to_index(rows, embed.device)], keys).cpu().numpy()
            for row, values in zip(rows, similarity, strict=True):
                others = [i for i, entry in enumerate(entries) if _is_other(entry, infos[row], own_patient)]
                rng = stable_rng("memory", self.seed, infos[row].case_id, structure, epoch)
                drawn[row] = [entries[others[i]] for i in self.choose(values[others], rng)]
        return drawn

    def choose(self, similarity: NDArray[np.floating[Any]], rng: np.random.Generator) -> list[int]:
        """Draw from memories by their similarity.

        The largest values after Gumbel noise are draws from the softmax (Kool et al. 2019, 1903.06059), with as without
        replacement, and where a softmax would underflow.
        """
        noise = rng.gumbel(size=(self.num_memories if self.replacement else 1, len(similarity)))
        scores = noise if self.temperature is None else similarity + self.temperature * noise
        if not len(similarity):
            return []
        if self.replacement:
            return [int(i) for i in scores.argmax(axis=1)]
        return [int(i) for i in np.argsort(-scores[0], kind="stable")[: self.num_memories]]

    def _encode(self, entries: Sequence[Entry]) -> FrameMemory:
        """The memories of E entries, by today's weights; masks enter as probabilities, in evaluation as in training."""
        embed, masks, presence, tokens = (torch.cat(column) for column in list(zip(*entries, strict=True))[:4])
        with torch.set_grad_enabled(self.train_memory and torch.is_grad_enabled()):
            masks = resize(masks, self.model.image_size)
            memory = self.model.encode_memory(ImageFeatures(embed, ()), masks, presence, prompted=False)
            pointers = torch.where(presence > 0, self.model.obj_ptr_proj(tokens), self.model.no_obj_ptr)
        return FrameMemory(memory, pointers)

    def _attend(self, raw: ImageFeatures, encoded: FrameMemory | None, picked: Sequence[Sequence[int]]) -> Tensor:
        """Raw features of R objects after attention to their memories; `picked[k]` are the k-th ones of all R."""
        if encoded is None or encoded.features is None or not picked:
            return raw.embed if self.legacy_empty_bank else self.model.without_memory(raw).embed
        history = History()
        for k, rows in enumerate(picked):
            index = to_index(rows, raw.embed.device)
            history.cond[k] = FrameMemory(encoded.features[index], encoded.obj_ptr[index])
        selection = self.model.memory_selection
        memories = tuple(Remembered(k, True, selection.num_maskmem - 1) for k in history.cond)
        pointers = tuple(Remembered(k, True, 1) for k in history.cond) if self.pointers else ()
        plan = MemoryPlan(memories, pointers, max(selection.pointer_reach, 1))
        return self.model.condition(raw, plan, history).embed


def warn_of_silence(bank: Bank, offered: Set[tuple[str, str]], min_iou: float, own_patient: bool) -> None:
    """Logs which structures are answered without memory, and why; `offered` are (structure, patient_id)."""
    for structure in sorted({name for name, _ in offered}):
        patients = {patient for name, patient in offered if name == structure}
        if not bank.entries.get(structure):
            log.warning(
                "memory bank: of %s no training case came with a predicted IoU above method.min_iou=%g, "
                "so its cases are answered without memory; lower it, or train for longer", structure, min_iou
            )  # fmt: skip
        elif len(patients) == 1 and "" not in patients and not own_patient:
            log.warning(
                "memory bank: all memories of %s are of patient %s, whose cases are answered without memory, "
                "in training too; method.recall_own_patient=true lets them recall each other", structure, *patients
            )  # fmt: skip


def _is_other(entry: Entry, info: ObjectInfo, own_patient: bool) -> bool:
    """Whether an object may recall the entry: by case alone where its patient may be recalled or is not known."""
    by_case = own_patient or not info.patient_id
    return entry.case_id != info.case_id and (by_case or entry.patient_id != info.patient_id)


def _check_model(model: Any) -> None:
    if not isinstance(model, SAM2) or model.memory_selection.num_maskmem < 1:
        raise ValueError(
            f"method=memory_stream needs a network with a memory, and this {type(model).__name__} has none: "
            "choose a SAM 2 such as model=sam2_t, or method=image"
        )
    if model.non_overlap_memories:
        raise ValueError(
            "method=memory_stream: model.network.non_overlap_masks_for_mem_enc=true would cut the masks of different "
            "cases out of each other; set it to false"
        )
