"""The page in a browser: no word on its console, sorting by hand and by keyboard, on paper, in the dark, on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browser, find_browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium on this machine: apt-get install chromium"),
]
ORDER = "[...document.querySelectorAll('[data-table=scores-0] tbody tr')].map((row) => row.dataset.arm)"
HEAD = "document.querySelectorAll('[data-table=scores-0] thead th')[1]"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize(
    ("width", "dark", "medium"), [(1280, False, ""), (1280, True, ""), (794, False, ""), (380, False, "")]
)
def test_the_page_is_quiet_and_fits(browser: Browser, page: Path, width: int, dark: bool, medium: str) -> None:
    browser.open(page, width, dark=dark, medium=medium)
    assert browser.said == []
    assert {address for address in browser.asked if not address.startswith("data:")} == {page.as_uri()}
    assert browser.run("document.documentElement.scrollWidth") <= width
    light = browser.run("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).every((c) => c > 127)")
    assert light is not dark
    wide = "[...document.querySelectorAll('svg, img')].filter((e) => e.getBoundingClientRect().width === 0).length"
    assert browser.run(wide) == 0


@pytest.mark.parametrize("width", [1280, 1440])
def test_effects_are_seen_without_scrolling(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    for table in ("pairs-0", "runs"):
        box = f"document.querySelector('[data-table={table}]').closest('.box')"
        assert browser.run(f"{box}.scrollWidth - {box}.clientWidth") <= 0, table


def test_long_titles_end_in_an_ellipsis_and_the_tooltip_has_them(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    title = "Results: phantom, 1 click on 8 slices (5 rows), 1 click on 11 slices (3 rows) and 4 more, trained here"
    link = "document.querySelector('nav a')"
    line = browser.run(f"{link}.getBoundingClientRect().height")
    assert browser.run(f"{link}.title") == "What was asked"
    browser.run(f"{link}.textContent = {title!r}")
    assert browser.run(f"{link}.getBoundingClientRect().height") < 3.2 * line
    assert browser.run(f"{link}.scrollHeight > {link}.clientHeight")


def test_headings_sort_by_click_and_by_key(browser: Browser, page: Path) -> None:
    browser.open(page)
    before = browser.run(ORDER)
    browser.run(f"{HEAD}.querySelector('button').click()")
    assert browser.run(ORDER) == before[::-1]  # the best came first
    assert browser.run(f"{HEAD}.getAttribute('aria-sort')") == "ascending"
    browser.run(f"{HEAD}.querySelector('button').focus()")
    browser.press("Enter", 13)
    assert browser.run(ORDER) == before
    assert browser.run(f"{HEAD}.getAttribute('aria-sort')") == "descending"
    assert browser.said == []


def test_missing_values_stay_last(browser: Browser, page: Path) -> None:
    browser.open(page)
    heads = "[...document.querySelectorAll('[data-table=scores-0] thead th')]"
    for _ in range(2):
        browser.run(f"{heads}.find((h) => h.textContent.trim() === 'zero-shot').querySelector('button').click()")
        assert (
            browser.run("document.querySelector('[data-table=scores-0] tbody tr:last-child .none').textContent") == "–"
        )


def test_nothing_is_cut_on_paper(browser: Browser, page: Path) -> None:
    browser.open(page, 680, medium="print")  # 180 mm: A4 less its margins
    browser.run("document.querySelectorAll('details').forEach((part) => (part.open = true))")
    right = "Math.round(e.getBoundingClientRect().right)"
    cut = f"[...document.querySelectorAll('table, figure, pre, p')].filter((e) => {right} > 680)"
    assert browser.run(f"{cut}.map((e) => [e.dataset.table || e.className, {right}])") == []


def test_paper_is_a4_and_everything_is_open(browser: Browser, page: Path) -> None:
    browser.open(page, 794)
    closed = "document.querySelectorAll('details:not([open])').length"
    folded = browser.run(closed)
    assert folded > 0
    browser.run(f"window.seen = []; addEventListener('beforeprint', () => window.seen.push({closed}))")
    pdf = browser.print()
    assert pdf.startswith(b"%PDF")
    assert b"/MediaBox [0 0 594.95" in pdf
    assert browser.run("window.seen") == [0]
    assert browser.run(closed) == folded  # as the reader left it
    assert browser.said == []
