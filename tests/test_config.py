"""The run's identity: what changes it, what does not, and that it is the same everywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from medsam2.config import PROJECT, environment_path, flatten, group_help, identity, run_id
from tests.conftest import Compose

SAME = [
    ("paths.output_dir=/elsewhere",),
    ("paths.data_root=/elsewhere",),
    ("paths.checkpoint_dir=/elsewhere",),
    ("tracking=mlflow",),
    ("tracking=mlflow", "tracking.uri=http://somewhere:5000"),
    ("sweep=abc", "job.sweep=abc", "job.parent_run_id=def"),
    ("num_workers=7",),
    ("num_threads=3",),
    ("device=cpu",),
    ("force=true",),
    ("study=another",),
    ("+dataset.root=/elsewhere",),
    ("run_dir=/elsewhere",),
    ("trainer.checkpoint_minutes=1",),
    ("metrics.overlays=false",),
]
OTHER = [
    "seed=1",
    "image_size=256",
    "batch_size=2",
    "optim.lr=3e-4",
    "optim.betas=[0.9,0.99]",
    "optim=adamw",
    "prompt=click",
    "prompt.jitter=0.1",
    "dataset.structures=[left_lung]",
    "dataset.structures=[left_lung,right_lung]",
    "transforms=flips",
    "method=image_refine",
    "loss=bce",
    "scheduler=cosine",
    "trainer.max_epochs=7",
    "trainer.clip_norm=1.0",
    "model.mask_selection.thresh=0.9",
    "model/tuning=decoder",
    "task=evaluate",
    "metrics=dice",
]


@pytest.mark.parametrize("overrides", SAME, ids=" ".join)
def test_what_cannot_change_the_numbers_leaves_the_run_id(config: Compose, overrides: tuple[str, ...]) -> None:
    changed, plain = config(*overrides), config()
    assert changed != plain
    assert changed.run_id == plain.run_id


def test_what_can_change_the_numbers_changes_the_run_id(config: Compose) -> None:
    ids = {override: config(override).run_id for override in OTHER}
    ids["as it is"] = config().run_id
    same = {a: b for a in ids for b in ids if a < b and ids[a] == ids[b]}
    assert same == {}


def test_the_resolver_gives_what_the_function_gives(config: Compose) -> None:
    cfg = config("seed=3")
    assert cfg.run_id == run_id(cfg)
    assert len(cfg.run_id) == 10
    assert int(cfg.run_id, 16) >= 0
    assert cfg.run_dir.endswith(f"/outputs/runs/chest_ct/sam2_nano-{cfg.run_id}")


def test_resolving_or_merging_an_equal_value_changes_nothing(config: Compose) -> None:
    cfg = config()
    resolved = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    assert run_id(resolved) == cfg.run_id
    assert config("optim=adam", "seed=0", "optim.lr=1e-3").run_id == cfg.run_id


def test_order_of_keys_does_not_count(config: Compose) -> None:
    cfg = config()
    turned = OmegaConf.create(dict(reversed(list(OmegaConf.to_container(cfg, resolve=True).items()))))
    assert run_id(turned) == cfg.run_id


def test_another_process_computes_the_same_id(config: Compose) -> None:
    overrides = ["model=sam2_nano", "seed=5", "tracking=offline"]
    command = [sys.executable, str(PROJECT / "run.py"), *overrides, "--cfg", "job", "--resolve"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert OmegaConf.create(printed).run_id == config(*overrides).run_id


def test_a_checkpoint_counts_by_content_not_by_path(config: Compose, tmp_path: Path) -> None:
    files = {}
    for name, content in {"a": b"x" * 300_000, "b": b"x" * 300_000, "c": b"x" * 300_001}.items():
        files[name] = tmp_path / name / "weights.pt"
        files[name].parent.mkdir()
        files[name].write_bytes(content)
    ids = {name: config(f"model.checkpoint={file}").run_id for name, file in files.items()}
    assert ids["a"] == ids["b"]
    assert len({ids["a"], ids["c"], config().run_id}) == 3


@pytest.mark.parametrize(("size", "position"), [(1, 0), (300_000, 150_000), (9_000_000, 0), (9_000_000, 8_999_999)])
def test_a_checkpoint_with_another_byte_is_another_one(tmp_path: Path, size: int, position: int) -> None:
    # a megabyte is read whole; of a larger file the start, the end and samples between them
    file = tmp_path / "weights.pt"
    cfg = OmegaConf.create({"model": {"checkpoint": str(file)}})
    content = bytearray(size)
    file.write_bytes(content)
    before = run_id(cfg)
    content[position] = 1
    file.write_bytes(content)
    assert run_id(cfg) != before


def test_a_checkpoint_below_the_home_folder_counts_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "weights.pt").write_bytes(b"abc")
    ids = [run_id(OmegaConf.create({"model": {"checkpoint": p}})) for p in ("~/weights.pt", f"{tmp_path}/weights.pt")]
    assert ids[0] == ids[1]


def test_identity_is_flat_sorted_and_resolved(config: Compose) -> None:
    values = identity(config("image_size=256", "dataset.structures=[left_lung]"))
    assert list(values) == sorted(values)
    assert values["model.network.image_size"] == 256
    assert values["dataset.structures"] == ["left_lung"]
    assert values["optim.betas"] == [0.9, 0.999]
    assert not [k for k in values if k.split(".")[0] in ("paths", "tracking", "sweep", "job", "run_dir", "hydra")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": 1, "b": {"c": 2, "d": {"e": [1, {"f": 2}]}}}, {"a": 1, "b.c": 2, "b.d.e": [1, {"f": 2}]}),
        ({"a": {}}, {}),
        ({"a": None}, {"a": None}),
    ],
)
def test_flatten(value: dict[str, object], expected: dict[str, object]) -> None:
    assert flatten(value) == expected


def test_help_names_every_choice_with_its_first_line() -> None:
    text = group_help()
    for choice in (*(PROJECT / "conf" / "optim").glob("*.yaml"), *(PROJECT / "sweeps").glob("*.yaml")):
        line = next(line for line in text.splitlines() if line.startswith(f"  {choice.stem} "))
        assert len(line.split(maxsplit=1)[1]) > 10
    assert "@package" not in text
    assert "model/base" not in text


def test_environment_path_is_absolute_and_knows_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.chdir(tmp_path)
    assert environment_path("~/x") == Path("/home/somebody/x")
    assert environment_path("x") == tmp_path / "x"


def test_config_imports_nothing_heavy() -> None:
    code = "import sys, medsam2.config; print([m for m in ('torch', 'monai', 'mlflow', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert done.stdout.strip() == "[]"
