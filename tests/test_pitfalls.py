"""What is known to go wrong in scripts for Medical SAM 2, row by row, each held to what is right here.

A rows change the science, B rows keep people from using a program. REGRESSIONS names for each row the tests that would
have caught it; those that belong to no part of the package stand below.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from medsam2.build import build_model
from medsam2.config import PROJECT
from medsam2.config_check import find_problems
from medsam2.data.prompts import BoxPrompt
from medsam2.data.seeding import stable_rng
from medsam2.evaluation.evaluator import Evaluator
from medsam2.methods.base import Method, Prediction
from medsam2.modeling.weights import load_checkpoint
from medsam2.optim import build_groups
from medsam2.training.precision import Runtime
from tests.fakes import Blobs
from tests.goldens import build_model as build_small

Compose = Callable[..., DictConfig]
MODULES = [
    ".".join(path.relative_to(PROJECT).with_suffix("").parts)
    for path in sorted((PROJECT / "medsam2").rglob("*.py"))
    if path.stem != "__init__"
]


METHODS, EVALUATION, TRAINING, HERE = "tests/methods", "tests/evaluation", "tests/training", "tests/test_pitfalls.py"
REGRESSIONS = {
    "A1 test chooses the epoch": ["tests/tasks/test_train.py::test_the_order_of_a_run"],
    "A2 transposed click": [
        "tests/data/test_prompts.py::test_clicks_lie_on_the_object",
        "tests/data/test_prompts.py::test_order_is_x_y_off_the_diagonal",
        "tests/data/test_prompts.py::test_a_legacy_click_is_transposed",
    ],
    "A3 similarity of different layouts": [
        f"{METHODS}/test_bank.py::test_what_is_compared_with_itself_is_one",
        f"{METHODS}/test_memory_stream.py::test_the_legacy_similarity_does_not_know_the_twin",
    ],
    "A4 memories drawn by the batch size": [
        f"{METHODS}/test_memory_stream.py::test_the_perfect_match_is_found_at_a_low_temperature_and_hardly_at_the_seeds",
        f"{METHODS}/test_memory_stream.py::test_without_replacement_no_memory_is_drawn_twice",
        f"{METHODS}/test_memory_stream.py::test_draws_are_of_the_structure_and_depend_on_seed_epoch_and_case_not_on_the_batch",
    ],
    "A5 a bank over its size": [
        f"{METHODS}/test_bank.py::test_the_bank_holds_no_more_than_its_size_whatever_the_batch"
    ],
    "A6 the swap rule": [
        f"{METHODS}/test_policies.py::test_dissimilarity_is_the_papers_sum",
        f"{METHODS}/test_policies.py::test_slack_lets_the_quality_sink",
    ],
    "A7 heads without a loss": [
        f"{METHODS}/test_memory_stream.py::test_gradients_reach_the_memory_once_there_is_one",
        f"{METHODS}/test_image.py::test_by_default_all_heads_are_supervised",
        f"{TRAINING}/test_trainer.py::test_parameters_that_the_loss_never_reaches_are_named",
    ],
    "A8 another decoder in evaluation": [
        f"{METHODS}/test_image_heads.py::test_training_and_evaluation_ask_the_decoder_alike",
        "tests/modeling/test_mask_selection.py::test_single_mask_selection",
    ],
    "A9 thresholds on logits": [f"{EVALUATION}/test_evaluator.py::test_the_threshold_is_on_the_probability"],
    "A10 thresholds averaged": [
        f"{EVALUATION}/test_scoring.py::test_legacy_dice_is_the_mean_over_thresholds_on_logits"
    ],
    "A11 nearest enlargement": [
        f"{METHODS}/test_image.py::test_the_loss_is_the_criterion_on_bilinear_logits",
        f"{EVALUATION}/test_evaluator.py::test_logits_are_interpolated_not_masks",
    ],
    "A12 no normalisation": [f"{HERE}::test_a12_images_are_normalised_once_by_the_network"],
    "A13 an evaluation that depends on order": [
        f"{METHODS}/test_memory_stream.py::test_test_cases_do_not_influence_each_other_through_the_support",
        f"{METHODS}/test_memory_stream.py::test_in_a_stream_each_case_sees_those_before_it_whatever_the_batch_size",
    ],
    "A14 zeros for an empty bank": [f"{METHODS}/test_memory_stream.py::test_an_empty_bank_is_exactly_the_image_alone"],
    "A15 a quarter of the slices": ["tests/data/test_clips.py::test_a15_the_whole_volume_is_evaluated"],
    "A16 prompts and an oracle on every second slice": [
        f"{METHODS}/test_volume.py::test_a16_the_oracle_tells_where_an_object_is_not",
        f"{EVALUATION}/test_scoring.py::test_a_volume_is_scored_as_a_whole",
    ],
    "A17 a loss on masks that are cut": [
        f"{METHODS}/test_volume.py::test_a17_presence_learns_and_nothing_is_compared_with_a_cut_mask",
        f"{METHODS}/test_supervision.py::test_a_gated_mask_would_be_a_constant_and_is_never_judged",
    ],
    "A18 weights in bf16": [
        f"{TRAINING}/test_trainer.py::test_weights_and_optimiser_stay_float32_under_autocast",
        f"{TRAINING}/test_trainer.py::test_bf16_weights_lose_the_steps_that_float32_weights_take",
    ],
    "A19 nested autocast, an idle scaler": [
        f"{TRAINING}/test_trainer.py::test_there_is_one_autocast_around_the_loss_and_a_scaler_for_fp16_alone"
    ],
    "A20 two steps between two backward passes": [
        f"{METHODS}/test_volume.py::test_the_loss_is_a_mean_over_objects_and_slices_however_they_are_batched",
        "tests/test_optim.py::test_every_group_keeps_its_own_rate",
    ],
    "A21 one number for all cases": [f"{EVALUATION}/test_evaluator.py::test_a_row_says_everything"],
    "B3 autocast that is never left": [f"{HERE}::test_b3_autocast_is_left_even_through_an_error"],
    "B7 metrics that are logged nowhere": ["tests/tasks/test_train.py::test_the_order_of_a_run"],
    "B8 a best checkpoint called latest": [
        f"{TRAINING}/test_checkpoint.py::test_best_holds_the_weights",
        f"{TRAINING}/test_checkpoint.py::test_round_trip_with_the_random_state",
    ],
    "B11 no seed, no resume": ["tests/e2e/test_methods.py::test_workers_and_a_stop_change_no_number"],
    "B19 a mean over cases that were skipped": [
        f"{EVALUATION}/test_rows.py::test_a_metric_that_never_applies_has_no_mean"
    ],
    "B21 masks with ringing, a fixed number of raters": [
        f"{EVALUATION}/test_raters.py::test_each_rater_and_the_ceiling",
        "tests/data/test_targets.py::test_three_raters",
    ],
    "B22 pictures beside the program": [f"{EVALUATION}/test_pictures.py::test_pictures_are_saved_with_their_folder"],
}


@pytest.mark.parametrize("row", REGRESSIONS)
def test_the_regressions_of_a_row_are_there(row: str) -> None:
    for name in REGRESSIONS[row]:
        file, test = name.split("::")
        assert f"def {test}(" in (PROJECT / file).read_text(), name


# -------------------------------------------------------------------------------------- A: what changes the science


def test_a12_images_are_normalised_once_by_the_network() -> None:
    model = build_small("sam2_nano", 64)
    grey = torch.tensor([0.485, 0.456, 0.406])[:, None, None].expand(1, 3, 64, 64)
    assert model.normalize(grey).abs().max() < 1e-6
    seen: list[torch.Tensor] = []
    model.image_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.rand(1, 3, 64, 64)
    model.encode_image(images)
    assert torch.equal(seen[0], model.normalize(images))


# ------------------------------------------------------------------------------ B: what keeps people from using it


def test_b3_autocast_is_left_even_through_an_error() -> None:
    class Failing(Method):
        def predict(self, batch: object) -> Prediction:
            assert torch.is_autocast_enabled("cpu")
            raise RuntimeError("no luck")

    method, runtime = Failing(torch.nn.Identity()), Runtime("cpu", torch.bfloat16)
    with pytest.raises(RuntimeError, match="no luck"):
        Evaluator(["dice"]).evaluate(method, Blobs().loader(2, "test"), "test", "cpu", runtime.autocast)
    assert not torch.is_autocast_enabled("cpu")


def test_b1_b20_importing_everything_parses_no_argument_touches_no_gpu_and_no_logger() -> None:
    code = f"""
import logging, sys
sys.argv = ["program", "-net", "sam2", "--no-such-option"]
import importlib
for name in {MODULES!r}: importlib.import_module(name)
import torch
from hydra.core.global_hydra import GlobalHydra
print(torch.cuda.is_initialized(), logging.getLogger().handlers, GlobalHydra.instance().is_initialized())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2] == "False [] False"


def test_b2_no_device_is_written_into_the_code() -> None:
    found = [
        f"{path.name}: {line.strip()}"
        for path in (PROJECT / "medsam2").rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"\.cuda\(\)|device=[\"']cuda", line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("metrics.overlays=1", "metrics.overlays"),  # B4: a bool that is none
        ("method.roundz=2", "method.rounds"),  # B5: an option that nothing reads
        ("+distributed=true", "distributed"),  # B10: an option that would be ignored
        ("image_size=500", "480 or 512"),  # B6: a size that the network cannot have
        ("device=cuda:9", "device=cuda:9"),  # B2: a device that is not there
    ],
)
def test_b2_to_b10_a_setting_that_would_do_nothing_or_harm_is_refused(
    config: Compose, override: str, said: str
) -> None:
    (problem,) = find_problems(config(override.lstrip("+")))
    assert said in problem


@torch.no_grad()
@pytest.mark.parametrize("size", [64, 96, 160, 224])
def test_b6_every_multiple_of_32_is_a_size(size: int) -> None:
    torch.manual_seed(0)
    model = build_small("sam2_nano", size).eval()
    features = model.encode_image(torch.rand(1, 3, size, size))
    masks = model.decode(features, torch.tensor([[[3.0, 5.0]]]), torch.ones(1, 1)).low_res_masks
    assert features.embed.shape == (1, 128, size // 16, size // 16)
    assert masks.shape == (1, 1, size // 4, size // 4)


def test_b9_weights_inside_a_checkpoint_are_loaded_and_foreign_ones_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved, fresh = build_small("sam2_nano", 64), build_small("sam2_nano", 64)
    torch.save({"model": saved.state_dict(), "epoch": 3}, tmp_path / "own.pt")
    torch.save({"model": {"encoder.weight": torch.ones(1)}}, tmp_path / "foreign.pt")
    load_checkpoint(fresh, tmp_path / "own.pt")
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), fresh.parameters(), strict=True))
    for strict in (True, False):
        with pytest.raises(ValueError, match="0% of the model's tensors fit"):
            load_checkpoint(fresh, tmp_path / "foreign.pt", strict=strict)


def test_b12_a_network_is_built_inside_another_hydra_application() -> None:
    build_model("sam2_nano", "image_size=64")
    assert not GlobalHydra.instance().is_initialized()


def test_b13_nothing_is_compiled() -> None:
    kinds = {path.suffix for path in (PROJECT / "medsam2").rglob("*") if path.is_file()}
    assert kinds <= {".py", ".pyc", ".md", ".j2", ".css", ".js"}  # the last three make the page of a report


def test_b14_a_jittered_box_works_on_any_mask_and_leaves_the_global_generators_alone() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr, index]
    mask = np.zeros((40, 60), dtype=bool)
    mask[10, 20] = True
    corners = BoxPrompt(jitter=0.2)(mask, stable_rng("a")).points
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]
    assert (corners[0] <= corners[1]).all()
    assert corners.tolist() == BoxPrompt(jitter=0.2)(mask, stable_rng("a")).points.tolist()


def test_b18_what_does_not_train_gets_no_gradient() -> None:
    model = build_small("sam2_nano", 64)
    groups = build_groups(model, {"decoder": {"names": ["sam_mask_decoder.*"]}}, lr=1e-3)
    trained = {id(p) for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (id(parameter) in trained) == name.startswith("sam_mask_decoder."), name


def test_b23_the_licence_is_the_declared_one() -> None:
    assert "Apache License" in (PROJECT / "LICENSE").read_text()
    assert "Apache-2.0" in (PROJECT / "pyproject.toml").read_text()
    assert "Licence: Apache-2.0" in (PROJECT / "README.md").read_text()
