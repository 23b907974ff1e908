"""What the documents promise is there."""

import importlib.util
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
ROWS = [line for line in (PROJECT / "docs" / "differences.md").read_text().splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:40])
def test_every_difference_names_the_test_that_shows_it(row: str) -> None:
    found = re.search(r"`(tests/[\w/]+\.py)::(test_\w+)` \|$", row)
    assert found, "no test named"
    file, name = found.groups()
    assert f"def {name}(" in (PROJECT / file).read_text()


def test_the_readme_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    exec(program, {})
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert sorted(int(number) for number, _ in lines) == list(range(20))
    assert {name for _, name in lines} == {"['liver']"}


def test_the_catalogue_is_what_the_datasets_say() -> None:
    spec = importlib.util.spec_from_file_location("make_datasets", PROJECT / "docs" / "make_datasets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.PAGE.read_text(encoding="utf-8")
    assert text == module.make_page(text), "run python docs/make_datasets.py"


DATASETS = sorted(f for f in (PROJECT / "conf" / "dataset").glob("*.yaml") if not f.stem.startswith("folder"))


@pytest.mark.parametrize("file", DATASETS, ids=lambda file: file.stem)
def test_a_dataset_says_where_it_comes_from(file: Path) -> None:
    header = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    for word in ("What", "Source", "Licence", "Cite", "Split"):
        assert any(line.startswith(f"# {word} ") for line in header), word
