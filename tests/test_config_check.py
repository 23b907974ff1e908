"""Mistakes in a config are found before any work, all at once, each with its key, its value and what to do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from medsam2.config_check import (
    NULL_ALLOWED,
    RULES,
    ConfigError,
    check,
    device_problems,
    find_problems,
    range_problems,
)
from tests.conftest import Compose

# key: values that must be refused, values that must pass
CASES: dict[str, tuple[list[Any], list[Any]]] = {
    "seed": ([-1, 2**32, 1.5, "one", True, None], [0, 2**32 - 1]),
    "image_size": ([0, -32, 100, 33, 64.0, "128", None], [32, 1024]),
    "batch_size": ([0, -1, 1.5, True, None], [1, 64]),
    "num_workers": ([-1, 0.5, None], [0, 8]),
    "num_threads": ([0, 2.5], [1, None]),
    "force": (["no", 1, None], [True, False]),
    "study": (["", " ", None, 3], ["a", "REFUGE 2"]),
    "optim.lr": ([0, -1e-4, math.nan, math.inf, "fast", True, None], [1e-9, 1]),
    "optim.betas": ([[0.9, 1.0], [-0.1, 0.9], [0.9], [0.9, 0.99, 0.999], 0.9, ["a", "b"]], [[0, 0], [0.9, 0.999]]),
    "optim.eps": ([0, -1e-8], [1e-8]),
    "optim.weight_decay": ([-0.1, math.nan], [0, 0.1]),
    "scheduler.warmup_epochs": ([-1], [0, 0.5]),
    "scheduler.min_factor": ([-0.1, 1.1], [0, 1]),
    "loss.pos_weight": ([0, -1], [0.5, 2]),
    "method.rounds": ([0, 1.5], [1, 3]),
    "method.eval_rounds": ([0], [1, 8]),
    "method.ground_truth_share": ([-0.1, 1.1], [0, 0.1, 1]),
    "method.iou": ([-1, "no"], [0, 1.0]),
    "method.presence": ([-1, None], [0, 1.0]),
    "method.size": ([0, None], [1, 16]),
    "method.num_memories": ([0, 0.5], [1, 16]),
    "method.temperature": ([-0.1], [None, 0, 0.1]),
    "method.min_iou": ([-0.1, 1.5], [0, 0.5]),
    "method.slack": ([-0.1], [0, 0.1]),
    "method.prompt_share": ([-0.1, 1.1], [0, 0.2, 1]),
    "method.eval_prompt_share": ([-0.1, 1.1], [0, 0.2, 1]),
    "method.support_cases": ([0, 1.5], [None, 1]),
    "method.frames": ([0, 2.5], [1, 8]),
    "method.num_prompts": ([0], [None, 1]),
    "method.step": ([0], [1, 2]),
    "method.chunk": ([0], [1, 8]),
    "method.max_objects": ([0], [None, 5]),
    "model.tuning.lora.rank": ([0, 1.5, None], [1, 8]),
    "model.tuning.lora.alpha": ([0, -1], [0.5, 16]),
    "model.mask_selection.delta": ([-0.1], [0, 0.05]),
    "model.mask_selection.thresh": ([-0.1, 1.5], [0, 0.98, 1]),
    "trainer.max_epochs": ([0, 1.5, None], [1]),
    "trainer.val_every": ([0], [1, 5]),
    "trainer.accumulate": ([0, 0.5], [1, 8]),
    "trainer.devices": ([0, 1.5, None], [1]),
    "trainer.clip_norm": ([0, -1], [None, 0.1]),
    "trainer.ema": ([0, 1, 1.5], [None, 0.999]),
    "trainer.checkpoint_minutes": ([0, -1], [0.5]),
    "trainer.max_batches": ([0, 2.5], [None, 1]),
    "cache.max_gb": ([0, -1, "50"], [0.5, 50]),
}


def nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]


def test_every_rule_has_cases() -> None:
    assert set(CASES) == set(RULES)
    assert set(RULES) >= NULL_ALLOWED


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, (bad, _) in CASES.items() for v in bad])
def test_value_out_of_range_is_named_with_its_key(key: str, value: Any) -> None:
    (problem,) = range_problems(nested(key, value))
    assert problem.startswith(f"{key}={value}: must be ")


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, (_, good) in CASES.items() for v in good])
def test_value_in_range_passes(key: str, value: Any) -> None:
    assert range_problems(nested(key, value)) == []


@pytest.mark.parametrize("key", RULES)
def test_a_key_that_the_choice_does_not_have_is_not_missed(key: str) -> None:
    assert range_problems({key.split(".")[0]: {}} if "." in key else {}) == []


@pytest.mark.parametrize(("size", "cure"), [(100, "use 96 or 128"), (31, "use 32 or 64"), (1000, "use 992 or 1024")])
def test_image_size_names_its_neighbours(size: int, cure: str) -> None:
    assert range_problems({"image_size": size}) == [f"image_size={size}: must be a multiple of 32: {cure}"]


MISTAKES = [
    (["+batchsize=2"], "batchsize: unknown key; did you mean batch_size?"),
    (["+model.checkpoin=null"], "model.checkpoin: unknown key; did you mean model.checkpoint?"),
    (["model.tuning.groups.all.rate=0"], "model.tuning.groups.all.rate=0: must be a number > 0"),
    (["+model.tuning.group={}"], "model.tuning.group: unknown key; did you mean model.tuning.groups?"),
    (["+paths.output=x"], "paths.output: unknown key; did you mean paths.output_dir?"),
    (["+optim.beta=[0.9,0.99]"], "optim.beta: unknown key; did you mean optim.betas?"),
    (["+optim.zzz=1"], "optim.zzz: unknown key; known here: "),
    (["+trainer.max_epoch=3"], "trainer.max_epoch: unknown key; did you mean trainer.max_epochs?"),
    (["+loss.lambda_dic=3"], "loss.lambda_dic: unknown key; did you mean loss.lambda_dice?"),
    (
        ["+model.network.image_encoder.trunk.embed_dims=3"],
        "model.network.image_encoder.trunk.embed_dims: unknown key; "
        "did you mean model.network.image_encoder.trunk.embed_dim?",
    ),
    (["trainer.monitor=3"], "trainer.monitor=3: is not of type str"),
    (["trainer.tf32=yes"], "trainer.tf32=yes: is not of type bool"),
    (["trainer.precision=bf15"], "trainer.precision=bf15: is not of type Literal["),
    (["metrics.names=dice"], "metrics.names=dice: is not of type "),
    (["metrics.names=[1]"], "metrics.names=[1]: is not of type "),
    (["prompt.jitter=much"], "prompt.jitter=much: is not of type float"),
    (["dataset=folder", "dataset.release.labels=cup"], "dataset.release.labels=cup: is not of type "),
    (["loss._target_=monai.losses.DiceLoss2"], "loss._target_=monai.losses.DiceLoss2: cannot be imported ("),
    (["optim._target_=nowhere.Adam"], "optim._target_=nowhere.Adam: cannot be imported ("),
    (["seed=???"], "seed: "),
    (["study=${nowhere}"], "study: "),
    (["device=gpu"], "device=gpu: not a device; use auto, cpu, cuda, cuda:N or mps"),
    (["dataset.structures=[spleen]"], "dataset: dataset.structures=['spleen'] does not fit"),
]


@pytest.mark.parametrize(("overrides", "text"), MISTAKES, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_mistake_is_found(config: Compose, overrides: list[str], text: str) -> None:
    problems = find_problems(config(*overrides))
    assert [p for p in problems if p.startswith(text)] == problems[:1]
    assert len(problems) == 1


@pytest.mark.parametrize("overrides", [(), ("optim=adamw", "scheduler=cosine", "method=image_refine", "prompt=click")])
def test_a_good_config_passes(config: Compose, overrides: tuple[str, ...]) -> None:
    check(config(*overrides))


def test_a_missing_argument_is_named(config: Compose) -> None:
    cfg = config()
    del cfg.trainer.max_epochs
    assert find_problems(cfg) == ["trainer.max_epochs: missing; Trainer needs it"]


def test_all_mistakes_are_reported_in_one_error(config: Compose) -> None:
    cfg = config("image_size=100", "optim.lr=-1", "+optim.beta=[0.9,0.99]", "+sed=1", "trainer.precision=half")
    with pytest.raises(ConfigError) as caught:
        check(cfg)
    for part in ("5 problems", "image_size=100", "optim.lr=-1", "optim.betas?", "sed: ", "trainer.precision=half"):
        assert part in str(caught.value)
    assert len(caught.value.problems) == 5
    assert str(caught.value).count("\n  - ") == 5


def test_one_mistake_is_one_problem() -> None:
    assert str(ConfigError(["a: b"])).startswith("1 problem in this configuration:\n  - a: b")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu_is_an_error_with_the_choices(config: Compose) -> None:
    (problem,) = find_problems(config("device=cuda"))
    assert problem.startswith("device=cuda: ")
    assert "no CUDA GPU" in problem
    assert "device=auto or device=cpu" in problem


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_that_is_not_there_is_an_error(config: Compose) -> None:
    assert find_problems(config("device=cuda:0")) == []
    (problem,) = find_problems(config("device=cuda:99"))
    assert problem.startswith("device=cuda:99: there are ")


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_devices_that_are_always_there(config: Compose, device: str) -> None:
    assert find_problems(config(f"device={device}")) == []


@pytest.mark.parametrize("count", [1, 2, 4])
def test_processors_share_any_batch_that_divides(config: Compose, count: int) -> None:
    assert find_problems(config("device=cpu", f"trainer.devices={count}")) == []
    assert find_problems(config("device=cpu", f"trainer.devices={count}", "method=volume", "batch_size=16")) == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["trainer.devices=3"],
            "trainer.devices=3: batch_size=4 is shared out equally; use a multiple of 3",
        ),
        (
            ["trainer.devices=2", "method=volume"],
            "trainer.devices=2: batch_size=4, 1 clips of method.frames=4, is shared out equally; use a multiple of 8",
        ),
        (["trainer.devices=2", "method=memory_stream"], "trainer.devices=2: a memory stream keeps one memory"),
        (["trainer.devices=2", "+loss.batch=true"], "trainer.devices=2: a loss that is no mean over objects"),
        (["trainer.devices=2", "+loss.reduction=sum"], "trainer.devices=2: a loss that is no mean over objects"),
        (["trainer.devices=2", "device=mps"], "trainer.devices=2: only GPUs of CUDA and processors share a run"),
    ],
)
def test_what_devices_cannot_share(config: Compose, overrides: list[str], said: str) -> None:
    (problem,) = find_problems(config("device=cpu", *overrides))
    assert problem.startswith(said)


@pytest.mark.parametrize(
    ("device", "devices", "tasks", "said"),
    [
        ("cuda", 4, "1", "trainer.devices=4: GPUs that are visible here: 2"),
        ("auto", 4, "1", "trainer.devices=4: GPUs that are visible here: 2"),
        ("cuda:1", 2, "1", "device=cuda:1 is one GPU, trainer.devices=2 are several"),
        ("cuda", 2, "1", None),
        ("auto", 2, "1", None),
        ("cuda", 4, "4", None),  # each task of SLURM starts one
    ],
)
def test_there_are_as_many_gpus_as_devices(
    monkeypatch: pytest.MonkeyPatch, device: str, devices: int, tasks: str, said: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", tasks)
    found = device_problems(device, devices)
    assert found == [] if said is None else found[0].startswith(said)


def test_an_output_folder_that_cannot_be_written(config: Compose, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    (problem,) = find_problems(config(f"paths.output_dir={file / 'outputs'}"))
    assert problem.startswith(f"paths.output_dir={file / 'outputs'}: cannot be written (")
    assert "paths.output_dir=DIR" in problem
    assert file.read_text() == "in the way"


def test_a_missing_checkpoint_says_how_to_get_it(config: Compose, tmp_path: Path) -> None:
    missing = tmp_path / "sam2.1_hiera_tiny.pt"
    (problem,) = find_problems(config(f"model.checkpoint={missing}"))
    assert problem.startswith(f"model.checkpoint={missing}")
    assert "task=fetch model=sam2_t" in problem
    assert "model.checkpoint=null" in problem


def test_a_config_with_a_wrong_dataset_key_does_not_touch_the_data(config: Compose) -> None:
    problems = find_problems(config("+dataset.structure=[left_lung]"))
    assert problems == ["dataset.structure: unknown key; did you mean dataset.structures?"]


def test_a_dataset_that_is_not_there_is_a_problem_of_the_config(config: Compose, tmp_path: Path) -> None:
    (problem,) = find_problems(config("dataset=refuge", f"paths.data_root={tmp_path / 'nothing'}"))
    assert problem.startswith("dataset: ")
    assert str(tmp_path / "nothing") in problem
