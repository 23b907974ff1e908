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
