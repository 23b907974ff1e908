"""A stream of cases: what is recalled, who influences whom, and that all of it comes back after an interruption."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from medsam2.build import build_network
from medsam2.data.batch import Batch, ObjectInfo, Sample, collate
from medsam2.data.prompts import BoxPrompt, NoPrompt, Prompter
from medsam2.losses import BCE, FocalDice
from medsam2.methods.bank import Bank
from medsam2.methods.image import ImageMethod
from medsam2.methods.memory_stream import MemoryStream
from medsam2.methods.recall import Recall
from medsam2.modeling.history import FrameMemory, History
from medsam2.modeling.memory_selection import MemoryPlan, Remembered
from medsam2.modeling.sam import ImageFeatures
from medsam2.modeling.sam2 import NO_OBJ_SCORE, SAM2, resize
from tests.fakes import compose_config
from tests.goldens import build_model

SIZE = 32


@pytest.fixture(scope="module")
def model() -> SAM2:
    torch.manual_seed(0)
    return build_model("sam2_nano", SIZE)


@pytest.fixture(autouse=True)
def evaluation_mode(model: SAM2) -> None:
    model.eval()


def stream(model: SAM2, **settings: Any) -> MemoryStream:
    """A stream whose bank takes everyone, unless it is told otherwise."""
    return MemoryStream(model, settings.pop("loss", BCE()), **({"policy": "fifo"} | settings))


def sample(
    number: int,
    structures: Sequence[str] = ("cup",),
    prompt: Prompter | None = None,
    patient: str = "",
    absent: int = 99,
) -> Sample:
    """Case `number`: noise with a bright rectangle, boxed, for each structure; from number `absent` on, noise alone."""
    rng = np.random.default_rng(number)
    image, targets, infos = rng.random((3, SIZE, SIZE)) * 0.4, [], []
    for structure in structures:
        top, left = rng.integers(0, SIZE // 2, 2)
        mask = np.zeros((SIZE, SIZE), dtype=bool)
        mask[top : top + 10, left : left + 13] = number < absent
        image[:, mask] += 0.5
        targets.append(mask)
        drawn = (prompt or BoxPrompt())(mask, rng)
        infos.append(ObjectInfo(f"case {number}", patient, structure, drawn, None, mask, present=bool(mask.any())))
    return Sample(
        case_id=f"case {number}",
        image=torch.from_numpy(image.astype(np.float32)),
        targets=torch.from_numpy(np.stack(targets)),
        point_coords=[torch.from_numpy(info.prompt.points) for info in infos],
        point_labels=[torch.from_numpy(info.prompt.labels) for info in infos],
        objects=infos,
    )


def batches(numbers: Iterable[int], size: int = 1, **settings: Any) -> list[Batch]:
    samples = [sample(number, **settings) for number in numbers]
    return [collate(samples[i : i + size]).to("cpu") for i in range(0, len(samples), size)]


def evaluate(
    method: MemoryStream, numbers: Iterable[int], size: int = 1, support: Iterable[int] = (), **settings: Any
) -> dict[tuple[str, str], Tensor]:
    """Case and structure -> the mask logits answered in an evaluation in this order."""
    answers = {}
    with torch.inference_mode():
        method.start_evaluation(lambda: batches(support, 2, **settings))
        for batch in batches(numbers, size, **settings):
            prediction = method.predict(batch)
            for info, logits in zip(prediction.objects, prediction.mask_logits, strict=True):
                answers[info.case_id, info.structure] = logits
    return answers


def remember(method: MemoryStream, numbers: Iterable[int], size: int = 1, **settings: Any) -> Bank:
    """The bank of training after these cases."""
    with torch.no_grad():
        for batch in batches(numbers, size, **settings):
            method.loss(batch)
    assert method.bank is not None
    return method.bank


def embed(model: SAM2, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model.forward_image(model.normalize(batch.images)).embed[batch.image_index]


def assert_same(one: dict[Any, Tensor], other: dict[Any, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(one[key], other[key], atol=1e-4, rtol=1e-4)


def differ(one: dict[Any, Tensor], other: dict[Any, Tensor]) -> list[Any]:
    return [key for key in one if not torch.allclose(one[key], other[key], atol=1e-3)]


# ------------------------------------------------------------------------------------------------ drawing


def recall(model: SAM2, **settings: Any) -> Recall:
    defaults = {"num_memories": 4, "temperature": 0.1, "replacement": False, "pointers": False, "train_memory": True}
    legacy = {"legacy_similarity": False, "legacy_empty_bank": False}
    return Recall(model, **(defaults | legacy | {"seed": 0} | settings))


def count(chooser: Recall, similarity: list[float], times: int = 2000) -> list[float]:
    """How often each memory is drawn, per draw of one."""
    drawn = [chooser.choose(np.array(similarity), np.random.default_rng(seed)) for seed in range(times)]
    return [float(np.mean([i in picks for picks in drawn])) for i in range(len(similarity))]


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (1.0, np.exp([0.9, 0.5, 0.1]) / np.exp([0.9, 0.5, 0.1]).sum()),
        (0.2, np.exp([4.5, 2.5, 0.5]) / np.exp([4.5, 2.5, 0.5]).sum()),
        (None, [1 / 3, 1 / 3, 1 / 3]),
        (1e-6, [1, 0, 0]),  # a softmax would underflow
        (0.0, [1, 0, 0]),
    ],
)
@pytest.mark.parametrize("replacement", [False, True])
def test_one_memory_is_drawn_by_the_softmax(model: SAM2, temperature: Any, expected: Any, replacement: bool) -> None:
    chooser = recall(model, num_memories=1, temperature=temperature, replacement=replacement)
    np.testing.assert_allclose(count(chooser, [0.9, 0.5, 0.1]), expected, atol=0.04)


@pytest.mark.parametrize("temperature", [None, 0.0, 0.1, 10.0])
@pytest.mark.parametrize(("held", "drawn"), [(0, 0), (1, 1), (3, 3), (4, 4), (16, 4)])
def test_without_replacement_no_memory_is_drawn_twice(model: SAM2, temperature: Any, held: int, drawn: int) -> None:
    picks = recall(model, temperature=temperature).choose(np.linspace(0, 1, held), np.random.default_rng(0))
    assert len(picks) == len(set(picks)) == drawn


def test_with_replacement_there_are_as_many_as_asked_for(model: SAM2) -> None:
    chooser = recall(model, replacement=True)
    assert chooser.choose(np.array([0.3]), np.random.default_rng(0)) == [0, 0, 0, 0]
    assert chooser.choose(np.array([]), np.random.default_rng(0)) == []


def test_the_perfect_match_is_found_at_a_low_temperature_and_hardly_at_the_seeds(model: SAM2) -> None:
    similarity = [1.0] + [0.0] * 15
    assert count(recall(model, num_memories=1, temperature=0.1), similarity)[0] > 0.99
    flat = count(recall(model, num_memories=1, temperature=1.0), similarity)[0]
    assert flat == pytest.approx(0.153, abs=0.03)


def test_a_case_recalls_its_twin_by_similarity_and_not_itself(model: SAM2) -> None:
    method = stream(model, num_memories=1, temperature=0.01)
    bank = remember(method, range(6), 6)
    for number in range(6):
        (batch,) = batches([number])
        twin = replace(batch.objects[0], case_id="twin")
        ((own,),) = method.recall.draw(embed(model, batch), batch.objects, bank, 1)
        ((best,),) = method.recall.draw(embed(model, batch), [twin], bank, 1)
        assert best.case_id == f"case {number}"
        assert own.case_id != f"case {number}"


def test_the_legacy_similarity_does_not_know_the_twin(model: SAM2) -> None:
    method = stream(model, num_memories=1, temperature=0.0, legacy_similarity=True)
    bank = remember(method, range(6), 3)
    found = []
    for number in range(6):
        (batch,) = batches([number])
        ((best,),) = method.recall.draw(embed(model, batch), [replace(batch.objects[0], case_id="twin")], bank, 1)
        found.append(best.case_id == f"case {number}")
    assert sum(found) <= 2


def test_draws_are_of_the_structure_and_depend_on_seed_epoch_and_case_not_on_the_batch(model: SAM2) -> None:
    both = ("cup", "disc")
    method = stream(model, num_memories=3, temperature=1.0)
    bank = remember(method, range(8), 8, structures=both)

    def draw(size: int, epoch: int | None = 1, seed: int = 0) -> list[list[str]]:
        chooser, drawn = recall(model, num_memories=3, temperature=1.0, seed=seed), []
        for batch in batches(range(8, 12), size, structures=both):
            drawn += chooser.draw(embed(model, batch), batch.objects, bank, epoch)
        held = {id(entry): structure for structure, entries in bank.entries.items() for entry in entries}
        assert [held[id(entries[0])] for entries in drawn] == [*both] * 4
        return [[entry.case_id for entry in entries] for entries in drawn]

    assert draw(1) == draw(4) == draw(3)
    assert draw(4) != draw(4, epoch=2)
    assert draw(4) != draw(4, epoch=None)
    assert draw(4) != draw(4, seed=1)


@pytest.mark.parametrize(
    ("held", "asking", "own_patient", "recalled"),
    [
        ("AAB", "A", False, [2]),
        ("AAB", "A", True, [1, 2]),
        ("AAA", "A", False, []),  # one patient alone
        ("AAB", "B", False, [1]),  # case 0 is itself, whosever it is
        ("AAB", "C", False, [1, 2]),
        (["", "", ""], "", False, [1, 2]),  # nobody knows whose they are
        (["", "A", ""], "A", False, [2]),
    ],
)
def test_other_patients_are_recalled_unless_ones_own_may_be(
    model: SAM2, held: Sequence[str], asking: str, own_patient: bool, recalled: list[int]
) -> None:
    method = stream(model)
    for number, patient in enumerate(held):
        remember(method, [number], patient=patient)
    (batch,) = batches([0], patient=asking)
    (drawn,) = method.recall.draw(embed(model, batch), batch.objects, method.bank, 1, own_patient)
    assert sorted(entry.case_id for entry in drawn) == [f"case {i}" for i in recalled]


# ------------------------------------------------------------------------------------------ conditioning


@torch.no_grad()
def test_an_empty_bank_is_exactly_the_image_alone(model: SAM2) -> None:
    (batch,) = batches(range(3), 3, structures=("cup", "disc"))
    alone = ImageMethod(model, BCE())
    for method in (stream(model), stream(model, policy="none"), stream(model, evaluation="no_memory")):
        model.eval()
        assert torch.equal(method.predict(batch).mask_logits, alone.predict(batch).mask_logits)
        assert torch.equal(method.predict(batch).iou_predictions, alone.predict(batch).iou_predictions)
        model.train()
        assert torch.equal(method.loss(batch).total, alone.loss(batch).total)


@torch.no_grad()
def test_the_legacy_empty_bank_adds_nothing(model: SAM2) -> None:
    (batch,) = batches(range(2), 2)
    raw = embed(model, batch)
    method = stream(model, legacy_empty_bank=True)
    assert torch.equal(method.recall.condition(raw, batch.objects, Bank(4, method.policy), None), raw)  # type: ignore[arg-type]
    correct = stream(model).recall.condition(raw, batch.objects, None, None)
    torch.testing.assert_close(correct, raw + model.no_mem_embed.reshape(1, -1, 1, 1))


@torch.no_grad()
@pytest.mark.parametrize("pointers", [False, True])
def test_a_case_attends_to_memories_as_sam_2_does_to_prompted_frames(model: SAM2, pointers: bool) -> None:
    method = stream(model, num_memories=2, temperature=0.0, pointers=pointers)
    bank = remember(method, range(5))
    (batch,) = batches([9])
    raw = embed(model, batch)
    (entries,) = method.recall.draw(raw, batch.objects, bank, 1)
    history = History()
    for k, entry in enumerate(entries):
        masks = resize(entry.mask_logits, SIZE)
        memory = model.encode_memory(ImageFeatures(entry.embed, ()), masks, entry.presence, prompted=False)
        history.cond[k] = FrameMemory(memory, model.obj_ptr_proj(entry.token))
    frames = tuple(Remembered(k, True, 1) for k in range(2))
    plan = MemoryPlan(tuple(Remembered(k, True, 6) for k in range(2)), frames if pointers else (), 15)
    expected = model.condition(ImageFeatures(raw, ()), plan, history).embed
    torch.testing.assert_close(method.recall.condition(raw, batch.objects, bank, 1), expected, atol=1e-5, rtol=1e-5)
    (nobody,) = method.recall.condition(raw, batch.objects, None, 1)
    assert (expected[0] - nobody).abs().max() > 0.1


@torch.no_grad()
def test_objects_with_different_numbers_of_memories_are_answered_as_if_alone(model: SAM2) -> None:
    method = stream(model, num_memories=3)
    bank = remember(method, range(3))
    remember(method, range(10, 12), structures=("disc",))
    whole = batches([1, 7, 8], 3, structures=("fovea", "cup", "disc"))[0]  # case 1 may not recall its own cup
    raw = embed(model, whole)
    assert [len(drawn) for drawn in method.recall.draw(raw, whole.objects, bank, 1)] == [0, 2, 2, 0, 3, 2, 0, 3, 2]
    together = method.recall.condition(raw, whole.objects, bank, 1)
    for row, info in enumerate(whole.objects):
        alone = method.recall.condition(raw[row : row + 1], [info], bank, 1)
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_is_remembered_is_the_raw_embedding_and_the_mask_as_answered(model: SAM2) -> None:
    method = stream(model)
    (first, second) = batches([0, 1])
    answer = method.predict(first)
    remember(method, [0, 1])
    entries = cast(Bank, method.bank).entries["cup"]
    assert torch.equal(entries[0].embed, embed(model, first))
    assert torch.equal(entries[1].embed, embed(model, second))
    assert torch.equal(entries[0].mask_logits, answer.mask_logits.clamp(-32, 32))
    assert entries[0].iou == pytest.approx(float(answer.iou_predictions))
    assert all(x.untyped_storage().nbytes() == x.nbytes for x in entries[0][:4])  # no batch hangs on to it

    legacy = stream(model, legacy_similarity=True, num_memories=1)
    remember(legacy, [0, 1])
    entries = cast(Bank, legacy.bank).entries["cup"]
    torch.testing.assert_close(entries[0].embed, embed(model, first) + model.no_mem_embed.reshape(1, -1, 1, 1))
    assert (entries[1].embed - embed(model, second)).abs().max() > 0.1  # after attention


# --------------------------------------------------------------------------------------------- training


@torch.no_grad()
def test_a_batch_sees_the_bank_before_it_and_enters_one_by_one(model: SAM2) -> None:
    method = stream(model, size=4)
    bank = remember(method, range(3), 3)
    answers = stream(model, evaluation="no_memory").predict(batches(range(3), 3)[0])
    for entry, logits in zip(bank.entries["cup"], answers.mask_logits, strict=True):
        assert torch.equal(entry.mask_logits[0], logits.clamp(-32, 32))  # no case of a batch conditions another
    remember(method, range(3, 6), 3)
    assert [entry.case_id for entry in bank.entries["cup"]] == [f"case {i}" for i in (2, 3, 4, 5)]


@pytest.mark.parametrize("size", [4, 6])
def test_the_bank_never_exceeds_its_size(model: SAM2, size: int) -> None:
    method, held = stream(model, size=7), []
    for first in range(0, 12, size):
        held.append(len(remember(method, range(first, first + size), size).entries["cup"]))
    assert max(held) == 7


@pytest.mark.parametrize(("settings", "reached"), [
    ({}, {"memory_attention", "memory_encoder", "maskmem_tpos_enc"}),
    ({"pointers": True}, {"memory_attention", "memory_encoder", "maskmem_tpos_enc", "obj_ptr_proj"}),
    ({"train_memory": False}, {"memory_attention", "maskmem_tpos_enc"}),
    ({"policy": "none"}, {"no_mem_embed"}),
])  # fmt: skip
def test_gradients_reach_the_memory_once_there_is_one(model: SAM2, settings: Any, reached: set[str]) -> None:
    method = stream(copy.deepcopy(model).train(), **settings)
    memory = ("memory_attention", "memory_encoder", "maskmem_tpos_enc", "no_mem_embed", "obj_ptr_proj")

    def step(numbers: range) -> set[str]:
        method.model.zero_grad()
        method.loss(batches(numbers, 2)[0]).total.backward()
        found = {
            name.split(".")[0] for name, p in method.model.named_parameters()
            if p.grad is not None and p.grad.abs().sum() > 0
        }  # fmt: skip
        assert {"image_encoder", "sam_mask_decoder", "sam_prompt_encoder"} <= found
        return found & set(memory)

    assert step(range(2)) == {"no_mem_embed"}
    assert step(range(2, 4)) == reached
    if method.bank is not None:
        assert not any(x.requires_grad for entry in method.bank.entries["cup"] for x in entry[:4])


@torch.no_grad()
@pytest.mark.parametrize(("weights", "names"), [
    ({}, ["loss", "mask", "iou", "presence"]),
    ({"iou": 0.0, "presence": 0.0}, ["loss", "mask"]),
])  # fmt: skip
def test_the_terms_of_the_loss(model: SAM2, weights: Any, names: list[str]) -> None:
    loss = stream(model, **weights).loss(batches(range(2), 2)[0])
    assert list(loss.terms) == names
    torch.testing.assert_close(loss.total, sum(loss.terms[name] for name in names[1:]))


@torch.no_grad()
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_the_share_of_prompted_cases_is_drawn_per_case_and_epoch(model: SAM2, share: float) -> None:
    method, drawn = stream(model, prompt_share=share), []
    for method.epoch in range(1, 5):
        drawn.append([method._draws_prompt(f"case {i}") for i in range(500)])
    assert np.mean(drawn) == pytest.approx(share, abs=0.03)
    assert (drawn[0] == drawn[1]) == (share in (0.0, 1.0))


@torch.no_grad()
def test_who_is_not_prompted_is_decoded_without_a_prompt(model: SAM2) -> None:
    numbers, settings = range(6), {"structures": ("cup", "disc")}
    method = stream(model, prompt_share=0.5, policy="fifo", presence=0.0)
    remember(method, numbers, 3, **settings)
    prompted = [method._draws_prompt(f"case {i}") for i in numbers]
    assert 0 < sum(prompted) < 6
    for kept, with_prompt in ((True, BoxPrompt()), (False, NoPrompt())):
        same = stream(model, presence=0.0)
        remember(same, numbers, 3, prompt=with_prompt, **settings)
        for structure in ("cup", "disc"):
            banks = [cast(Bank, m.bank).entries[structure][:3] for m in (method, same)]  # those that had no memory yet
            for i, (one, other) in enumerate(zip(*banks, strict=True)):
                equal = torch.allclose(one.mask_logits, other.mask_logits, atol=1e-4)
                assert equal == (prompted[i] == kept)


# ------------------------------------------------------------------------------------------- evaluation


def test_cases_without_memory_are_answered_alone(model: SAM2) -> None:
    method = stream(model, evaluation="no_memory")
    whole = evaluate(method, range(3), 3)
    assert_same(whole, evaluate(method, [2, 0, 1]))
    assert_same(whole, {key: evaluate(method, [int(key[0].split()[1])])[key] for key in whole})
    assert (method.protocol, method.in_order) == ("no_memory", False)


def test_test_cases_do_not_influence_each_other_through_the_support(model: SAM2) -> None:
    method = stream(model, evaluation="support", size=4)
    whole = evaluate(method, range(4), 3, support=range(20, 25))
    assert cast(Bank, method.evaluated).entries["cup"][-1].case_id == "case 24"
    assert len(cast(Bank, method.evaluated).entries["cup"]) == 4
    assert_same(whole, evaluate(method, [3, 1, 0, 2], support=range(20, 25)))
    assert len(differ(whole, evaluate(method, range(4), 4, support=range(30, 35)))) == 4
    assert len(differ(whole, evaluate(stream(model, evaluation="no_memory"), range(4), 4))) == 4
    assert (method.protocol, method.in_order) == ("support", False)


def test_all_of_the_support_is_looked_at_in_order(model: SAM2) -> None:
    method = stream(model, support_cases=3)  # whoever gives the support heeds it
    evaluate(method, [], support=range(20, 29))
    assert [entry.case_id for entry in cast(Bank, method.evaluated).entries["cup"]] == [
        f"case {i}" for i in range(20, 29)
    ]
    assert method.support_cases == 3


def test_only_a_stream_is_evaluated_with_memories_of_the_own_patient(model: SAM2) -> None:
    def conditioned(evaluation: str, **settings: Any) -> list[str]:
        """Which cases are not answered as if alone, where support and cases are of one patient."""
        method = stream(model, evaluation=evaluation, **settings)
        answers = evaluate(method, range(2), support=range(10, 12), patient="A")
        return [case_id for case_id, _ in differ(answers, alone)]

    alone = evaluate(stream(model, evaluation="no_memory"), range(2))
    assert conditioned("support") == []
    assert conditioned("support", recall_own_patient=True) == ["case 0", "case 1"]
    assert conditioned("stream") == conditioned("stream", recall_own_patient=True) == ["case 1"]


@torch.no_grad()
@pytest.mark.parametrize("evaluation", ["support", "stream"])
def test_in_training_slices_of_ones_own_volume_are_no_memories(model: SAM2, evaluation: str) -> None:
    def train_on(patient: str, own_patient: bool) -> Tensor:
        method = stream(model, evaluation=evaluation, recall_own_patient=own_patient)
        remember(method, range(3), 3, patient="A")
        return method.loss(batches([5], patient=patient)[0]).total

    alone = stream(model).loss(batches([5])[0]).total
    assert torch.equal(train_on("A", False), alone)
    assert torch.equal(train_on("A", True), train_on("B", False))
    assert abs(train_on("B", False) - alone) > 1e-5


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        ({"policy": "quality", "min_iou": 1.0, "patient": ""}, "of cup no training case came .* method.min_iou=1"),
        ({"patient": "A"}, "all memories of cup are of patient A.*method.recall_own_patient=true"),
        ({"patient": "A", "recall_own_patient": True}, None),
        ({"patient": ""}, None),
    ],
)
def test_who_is_answered_without_memory_is_told_of(
    model: SAM2, caplog: pytest.LogCaptureFixture, settings: Any, warning: str | None
) -> None:
    patient = {"patient": settings.pop("patient")}
    evaluate(stream(model, **settings), [], support=range(3), **patient)
    found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(found) == (warning is not None)
    assert all(re.search(warning or "", message) for message in found)


def test_support_cases_condition_each_other_as_a_stream_does(model: SAM2) -> None:
    support, streamed = (stream(model, evaluation=evaluation) for evaluation in ("support", "stream"))
    evaluate(support, [], support=range(4))
    answers = evaluate(streamed, range(4))
    for entry in cast(Bank, support.evaluated).entries["cup"]:
        torch.testing.assert_close(entry.mask_logits[0], answers[entry.case_id, "cup"], atol=1e-4, rtol=1e-4)


def test_in_a_stream_each_case_sees_those_before_it_whatever_the_batch_size(model: SAM2) -> None:
    method = stream(model, evaluation="stream")
    both = {"structures": ("cup", "disc")}
    whole = evaluate(method, range(4), **both)
    assert_same(whole, evaluate(method, range(4), 3, **both))
    alone = evaluate(stream(model, evaluation="no_memory"), range(4), 4, **both)
    assert [key[0] for key in differ(whole, alone)] == [f"case {i}" for i in range(1, 4) for _ in both["structures"]]
    turned = evaluate(method, [3, 1, 0, 2], 2, **both)
    assert len(differ(whole, turned)) == 8
    assert (method.protocol, method.in_order) == ("stream", True)


@pytest.mark.parametrize("evaluation", ["no_memory", "support", "stream"])
def test_an_evaluation_leaves_the_bank_of_training_alone(model: SAM2, evaluation: str) -> None:
    method = stream(model, evaluation=evaluation)
    before = copy.copy(remember(method, range(3)).entries["cup"])
    first = evaluate(method, range(20, 24), support=range(10, 13))
    assert [id(e) for e in cast(Bank, method.bank).entries["cup"]] == [id(e) for e in before]
    assert_same(first, evaluate(stream(model, evaluation=evaluation), range(20, 24), support=range(10, 13)))


def test_without_a_policy_there_is_no_memory_in_any_evaluation(model: SAM2) -> None:
    method = stream(model, policy="none", evaluation="support")
    assert method.protocol == "no_memory"
    assert_same(evaluate(method, range(2)), evaluate(stream(model, evaluation="no_memory"), range(2)))


@pytest.mark.parametrize(
    ("share", "turns"),
    [
        (1.0, "xxxxxxxxxx"),
        (0.5, "x.x.x.x.x."),
        (0.2, "x....x...."),
        (0.3, "x...x..x.."),
        (0.0, ".........."),
        (0.29, None),
    ],
)
@pytest.mark.parametrize("size", [1, 3])
def test_the_first_case_of_each_period_is_prompted(model: SAM2, share: float, turns: str | None, size: int) -> None:
    method = stream(model, eval_prompt_share=share)
    infos = [info for number in range(100) for info in sample(number % 10, ("a", "b")).objects]
    prompted = [kept for i in range(0, 200, 2 * size) for kept in method._take_turns(infos[i : i + 2 * size])]
    assert prompted[::2] == prompted[1::2]
    assert sum(prompted[::2]) == round(100 * share)
    if turns is not None:
        assert prompted[:20:2] == [turn == "x" for turn in turns]
    assert method.in_order == (0 < share < 1)


@torch.inference_mode()
def test_who_is_not_prompted_counts_as_prompt_free(model: SAM2) -> None:
    method = stream(model, eval_prompt_share=0.5, evaluation="no_memory", presence=0.0)
    (batch,), (bare,) = batches(range(3), 3), batches(range(3), 3, prompt=NoPrompt())
    for _ in range(2):  # each evaluation begins anew
        method.start_evaluation(list)
        answer = method.predict(batch)
        assert [(o.prompt.name, o.prompt.budget, len(o.prompt.points)) for o in answer.objects] == [
            ("box", "box", 2),
            ("none", "none", 0),
            ("box", "box", 2),
        ]
    free = ImageMethod(model, BCE(), presence=0.0).predict(bare)
    torch.testing.assert_close(answer.mask_logits[1], free.mask_logits[1], atol=1e-5, rtol=1e-5)
    assert (answer.mask_logits[0] - free.mask_logits[0]).abs().max() > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize(("presence", "absent"), [(1.0, [False, True, True]), (0.0, [False, False, False])])
def test_only_without_a_prompt_may_the_answer_be_absent_and_so_may_its_memory(
    model: SAM2, monkeypatch: pytest.MonkeyPatch, presence: float, absent: list[bool]
) -> None:
    bias = model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
    monkeypatch.setattr(bias, "data", bias.data - 50)
    method = stream(model, eval_prompt_share=0.2, evaluation="stream", presence=presence)
    method.start_evaluation(list)
    answers = method.predict(batches(range(3), 3)[0]).mask_logits
    assert [bool((logits == NO_OBJ_SCORE).all()) for logits in answers] == absent
    entries = cast(Bank, method.evaluated).entries["cup"]
    assert [bool(entry.presence < 0) for entry in entries] == absent
    assert all(entry.mask_logits.abs().max() <= 32 for entry in entries)


@torch.inference_mode()
def test_legacy_answers_are_enlarged_by_nearest(model: SAM2) -> None:
    (batch,) = batches(range(2), 2)
    smooth, stairs = (stream(model, legacy_nearest=legacy).predict(batch).mask_logits for legacy in (False, True))
    torch.testing.assert_close(stairs, interpolate(smooth, (SIZE, SIZE), mode="nearest"))


# --------------------------------------------------------------------------------------- interruptions


def trainer_state(method: MemoryStream, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    state = {"method": method.state_dict(), "model": method.model.state_dict(), "optimizer": optimizer.state_dict()}
    return state | {"rng": torch.get_rng_state()}


def train(method: MemoryStream, optimizer: torch.optim.Optimizer, numbers: Iterable[int]) -> list[float]:
    losses = []
    for batch in batches(numbers, 2):
        loss = method.loss(batch).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("policy", ["self_sorting", "random"])
def test_going_on_in_the_middle_of_an_epoch_is_as_if_nothing_had_happened(
    model: SAM2, tmp_path: Path, policy: str
) -> None:
    def start() -> tuple[MemoryStream, torch.optim.Optimizer]:
        network = copy.deepcopy(model).train()
        method = stream(network, policy=policy, size=2, min_iou=0.0, prompt_share=0.5, seed=3)
        return method, torch.optim.Adam(network.parameters(), lr=1e-3)

    method, optimizer = start()
    method.start_epoch(1)
    train(method, optimizer, range(4))
    torch.save(trainer_state(method, optimizer), tmp_path / "last.pt")
    expected = train(method, optimizer, range(4, 8))

    method, optimizer = start()
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    method.model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    method.load_state_dict(state["method"])
    torch.set_rng_state(state["rng"])
    method.start_epoch(1)
    assert len(cast(Bank, method.bank).entries["cup"]) == 2
    assert train(method, optimizer, range(4, 8)) == expected


@pytest.mark.parametrize(("reset", "held"), [(True, 0), (False, 2)])
def test_the_next_epoch_starts_with_an_empty_bank_unless_told_otherwise(model: SAM2, reset: bool, held: int) -> None:
    method = stream(model, reset_each_epoch=reset)
    method.start_epoch(1)
    remember(method, range(2))
    method.start_epoch(1)  # goes on after an interruption
    assert len(cast(Bank, method.bank).entries["cup"]) == 2
    other = stream(model, reset_each_epoch=reset)
    other.load_state_dict(method.state_dict())
    for one in (method, other):
        one.start_epoch(2)
        assert len(cast(Bank, one.bank).entries.get("cup", [])) == held
        assert one.epoch == 2


def test_a_stream_without_a_bank_has_a_state_too(model: SAM2) -> None:
    method = stream(model, policy="none")
    method.start_epoch(3)
    assert method.state_dict() == {"epoch": 3, "bank": {}}
    method.load_state_dict({"epoch": 4, "bank": {}})
    assert method.epoch == 4


# ------------------------------------------------------------------------------------------- settings


def test_legacy_switches_are_off_unless_all_of_them_are_asked_for() -> None:
    for choice, on in (("memory_stream", False), ("memory_stream_legacy", True)):
        settings = compose_config(f"method={choice}").method
        assert {value for key, value in settings.items() if key.startswith("legacy_")} == {on}
        assert (settings.policy == "legacy", settings.iou == settings.presence == 0) == (on, on)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evaluation": "all"}, r"method\.evaluation='all' must be one of no_memory, support, stream"),
        ({"policy": "best"}, r"method\.policy='best'"),
        ({"size": 0}, r"method\.size=0"),
        ({"num_memories": 0}, r"method\.num_memories=0 must be 1 or more"),
        ({"temperature": -0.1}, r"method\.temperature=-0\.1 0 or more, or null"),
        ({"prompt_share": 1.5}, r"method\.prompt_share=1\.5"),
        ({"eval_prompt_share": -1}, r"method\.eval_prompt_share=-1"),
    ],
)
def test_settings_out_of_range_are_named(model: SAM2, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stream(model, **settings)


def test_a_network_without_memory_is_refused() -> None:
    sam = build_network(compose_config("model=litemedsam", "model.checkpoint=null", "image_size=256"))
    with pytest.raises(ValueError, match=r"method=memory_stream needs a network with a memory, and this SAM has none"):
        MemoryStream(cast(SAM2, sam), BCE())


def test_masks_of_different_cases_must_not_be_cut_out_of_each_other(
    model: SAM2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "non_overlap_memories", True)
    with pytest.raises(ValueError, match="non_overlap_masks_for_mem_enc=true"):
        stream(model)


def test_a_support_without_cases_is_refused(model: SAM2) -> None:
    with pytest.raises(ValueError, match=r"method\.evaluation=support: no training case came"):
        evaluate(stream(model), [], support=[])


# ------------------------------------------------------------------------------------------- learning


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["self_sorting", "none"])
def test_four_cases_are_learned_within_a_minute(policy: str) -> None:
    torch.manual_seed(0)
    method = stream(build_model("sam2_nano", SIZE), policy=policy, loss=FocalDice(), evaluation="stream")
    optimizer = torch.optim.Adam(method.model.parameters(), lr=1e-3)
    start, epoch, dice = time.process_time(), 0, 0.0
    while time.process_time() - start < 60 and dice < 0.95:
        epoch += 1
        method.model.train()
        method.start_epoch(epoch)
        for batch in batches(range(4), 2, structures=("cup", "disc")):
            optimizer.zero_grad()
            method.loss(batch).total.backward()
            optimizer.step()
        if epoch % 10 == 0:
            method.model.eval()
            dice = score(method)
    assert dice >= 0.95


@pytest.mark.slow
def test_whether_it_is_there_is_learned_within_a_minute() -> None:
    torch.manual_seed(0)
    method = stream(build_model("sam2_nano", SIZE), loss=FocalDice(), evaluation="stream")
    optimizer = torch.optim.Adam(method.model.parameters(), lr=1e-3)
    start, epoch, absent = time.process_time(), 0, [False]
    cases = {"prompt": NoPrompt(), "absent": 2}  # of four, two
    while time.process_time() - start < 60 and absent != [False, False, True, True]:
        epoch += 1
        method.model.train()
        method.start_epoch(epoch)
        order = np.random.default_rng(epoch).permutation(4)  # else whoever finds an empty bank would be present
        for batch in batches(map(int, order), 2, **cases):
            optimizer.zero_grad()
            method.loss(batch).total.backward()
            optimizer.step()
        if epoch % 10 == 0:
            method.model.eval()
            absent = [bool((logits == NO_OBJ_SCORE).all()) for logits in evaluate(method, range(4), **cases).values()]
    assert absent == [False, False, True, True]


def score(method: MemoryStream) -> float:
    """The worst Dice of the four cases, answered as a stream."""
    answers = evaluate(method, range(4), structures=("cup", "disc"))
    found = []
    for number in range(4):
        drawn = sample(number, ("cup", "disc"))
        for info, target in zip(drawn.objects, drawn.targets, strict=True):
            logits = answers[info.case_id, info.structure][None]
            mask = interpolate(logits, (SIZE, SIZE), mode="bilinear", align_corners=False)[0, 0] > 0
            found.append(float(2 * (mask & target).sum() / (mask.sum() + target.sum())))
    return min(found)


def test_structures_that_exclude_each_other_share_no_pixel(model: SAM2) -> None:
    (batch,) = batches([1], structures=("cup", "disc"))
    claimed = {}
    for exclusive in (False, True):
        batch.objects = [replace(info, exclusive=exclusive) for info in batch.objects]
        with torch.inference_mode():
            masks = stream(model, evaluation="no_memory").predict(batch).mask_logits > 0
        claimed[exclusive] = int(masks.all(dim=0).sum())
    assert claimed[False] > 0  # an untrained network claims pixels for both
    assert claimed[True] == 0
