"""Saved and inlined figures: the same bytes every time, nothing that reaches out of them, nothing left behind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from helpers_figures import make_cases, make_scores
from matplotlib.figure import Figure

from medsam2.results.figures import assign_looks, box_plot, save, to_png, to_svg
from medsam2.results.figures.style import COLOURS, INK, limit_scores, name_metric

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_figure_files import draw
from medsam2.results.figures import save
save(draw(), Path({folder!r}), "boxes")
sys.exit("matplotlib.pyplot" in sys.modules or "torch" in sys.modules)
"""


def draw(arm: str = "a $x$ <b> & c") -> Figure:
    cases = make_cases({arm: [[0.8, 0.9, 0.5, 0.0, 0.7]]})
    return box_plot(cases, make_scores({arm: (0.6, 0.3, 0.8)}), "dice", "liver", assign_looks([arm]), width=85)


@pytest.mark.slow
def test_files_are_equal_from_process_to_process_without_pyplot(tmp_path: Path) -> None:
    paths = save(draw(), tmp_path / "here", "boxes")
    script = SCRIPT.format(here=str(Path(__file__).parent), folder=str(tmp_path / "there"))
    environment = {"PYTHONPATH": str(Path.cwd()), "PYTHONHASHSEED": "5"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    for path in paths:
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return save(draw(), tmp_path_factory.mktemp("figures"), "boxes")


def test_files_are_equal_from_time_to_time_and_nothing_else_is_left(saved: list[Path]) -> None:
    assert [path.name for path in saved] == ["boxes.svg", "boxes.pdf"]
    before = [path.read_bytes() for path in saved]
    assert [path.read_bytes() for path in save(draw(), saved[0].parent, "boxes")] == before
    assert len(list(saved[0].parent.iterdir())) == 2


def test_pdf_has_letters_and_no_date(saved: list[Path]) -> None:
    content = saved[1].read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/FontFile2" in content  # TrueType, as journals ask for
    assert b"/Type3" not in content
    assert b"CreationDate" not in content


def test_saved_figures_have_colours_of_their_own(saved: list[Path]) -> None:
    svg = saved[0].read_text()
    assert svg.startswith("<?xml")
    assert INK in svg
    assert "currentColor" not in svg


def test_inlined_figures_keep_to_themselves() -> None:
    first, second = (to_svg(draw(), prefix) for prefix in ("one", "two"))
    ids = re.findall(r'\bid="([^"]+)"', first)
    assert len(ids) == len(set(ids)) > 10
    assert all(name.startswith("one-") for name in ids)
    assert not set(ids) & set(re.findall(r'\bid="([^"]+)"', second))
    for target in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', first):
        assert (target[0] or target[1]) in ids
    assert first.startswith("<svg ")
    assert "<style" not in first
    assert "<?xml" not in first
    assert "<metadata" not in first
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", first)


def test_inlined_figures_take_the_colour_of_the_page() -> None:
    svg = to_svg(draw(), "one")
    assert INK not in svg
    assert "currentColor" in svg
    assert "fill: currentColor; fill-opacity: 0.68" in svg
    assert COLOURS[0] in svg
    assert "#ffffff" not in svg


def test_screen_readers_are_told_what_is_shown() -> None:
    root = ElementTree.fromstring(to_svg(draw(), "one"))
    title = root.find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert title.text == "Box plots: Dice of every case, liver, 1 arm. Means: a $x$ <b> & c 0.600."
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == title.get("id") == "one-title"


def test_many_points_become_one_picture_within_the_graphic() -> None:
    values = [[0.5 + i / 6000 for i in range(2600)]]
    figure = box_plot(
        make_cases({"a": values}), make_scores({"a": (0.7, 0.6, 0.8)}), "dice", "liver", assign_looks("a")
    )
    svg = to_svg(figure, "many")
    assert svg.count("<image") == 1
    assert len(svg) < 200_000


def test_matplotlib_is_left_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    to_png(draw(), dpi=40)
    assert dict(matplotlib.rcParams) == before


def test_settings_of_the_user_do_not_matter() -> None:
    svg = to_svg(draw(), "one")
    with matplotlib.rc_context({"font.size": 30, "axes.grid": True, "lines.linewidth": 9, "svg.fonttype": "none"}):
        assert to_svg(draw(), "one") == svg


def test_looks_differ_in_colour_and_in_shape() -> None:
    looks = list(assign_looks(str(i) for i in range(60)).values())
    assert len(set(looks[:49])) == 49
    for i in range(43):
        assert len({look.colour for look in looks[i : i + 7]}) == 7
    assert len({look.marker for look in looks[:7]}) == 7
    assert assign_looks(["b", "a", "b"]) == dict(zip("ba", looks[:2], strict=True))


@pytest.mark.parametrize("values", [[0.9], [0.0, 1.0], [float("nan"), 0.5, 0.52], [3.0, 250.0]])
def test_limits_hide_nothing(values: list[float]) -> None:
    low, high = limit_scores(values, "dice")
    assert all(low < value < high for value in values if value == value)


def test_names_of_metrics() -> None:
    assert name_metric("hd95", "mm") == "HD95 (mm)"
    assert name_metric("volume_error") == "volume error"
