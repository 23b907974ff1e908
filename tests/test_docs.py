"""What the documents promise is there."""

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
