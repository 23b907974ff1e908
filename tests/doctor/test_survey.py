"""One fault at a time in a clean tree: found, at its place, and nothing else is."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from faults_images import MULTI_RATER, OFFICIAL, PATIENTS, RATED, VALUED
from faults_volumes import VOLUMES
from helpers_planted import Fault, rated, values, volumes, write_rated, write_valued, write_volumes
from hydra.utils import instantiate
from trees import Tree, all_trees
from trees_fundus import refuge, write_multi_rater, write_official

from medsam2.data.records import Dataset
from medsam2.doctor.survey import survey
from tests.conftest import Compose

TABLES: dict[str, tuple[Callable[[Path], object], Callable[[Path], Dataset], list[Fault]]] = {
    "folder": (write_rated, rated, RATED),
    "folder with patients": (write_rated, partial(rated, patient_pattern="(e[0-9]+)"), PATIENTS),
    "folder with labels": (write_valued, values, VALUED),
    "folder_volumes": (write_volumes, volumes, VOLUMES),
    "refuge official": (write_official, refuge, OFFICIAL),
    "refuge multi_rater": (write_multi_rater, refuge, MULTI_RATER),
}
ROWS = [
    pytest.param(tree, fault, id=f"{tree}: {fault.name}") for tree, (*_, faults) in TABLES.items() for fault in faults
]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def find(tree: str) -> Path:
        if tree not in made:
            made[tree] = tmp_path_factory.mktemp("clean") / "tree"
            TABLES[tree][0](made[tree])
        return made[tree]

    return find


@pytest.mark.parametrize(("tree", "fault"), ROWS)
def test_a_planted_fault(tree: str, fault: Fault, clean: Callable[[str], Path], tmp_path: Path) -> None:
    root = Path(shutil.copytree(clean(tree), tmp_path / "tree"))
    fault.plant(root)
    seen = survey(TABLES[tree][1](root), pictures=0)
    assert [(f.severity, f.kind, f.where) for f in seen.findings] == fault.findings
    if fault.says:
        assert fault.says in f"{seen.findings[0].text}\n{seen.findings[0].remedy}"
    for finding in seen.findings:
        assert finding.remedy
        assert str(root) not in finding.text + finding.remedy


@pytest.mark.slow
@pytest.mark.parametrize("tree", all_trees(), ids=lambda tree: tree.name)
def test_a_clean_release_has_no_finding(tree: Tree, config: Compose, tmp_path: Path) -> None:
    tree.write(tmp_path)
    dataset = instantiate(config(*tree.command(tmp_path)).dataset)
    seen = survey(dataset, pictures=0)
    assert seen.findings == []
    assert seen.summary.cases == Counter(record.split for record in dataset.records())
