"""The page in a real browser: it loads with no error and no request, sorts, and works from the keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditing import browser, files
from specnorm.auditing import audit
from specnorm.auditing.renderers import render
from specnorm.auditing.report import Report

pytest.importorskip("jinja2")
if browser.DRIVER is None or browser.BROWSER is None:
    pytest.skip("no Chromium with chromedriver here: the page was not opened", allow_module_level=True)

NAMES = "return [...document.querySelectorAll('table.layers tbody th')].map((e) => e.firstChild.textContent)"
FIRST = "return [...document.querySelectorAll('table.layers tbody tr')].map((e) => e.cells[0].textContent)"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Chromium]:
    chromium = browser.Chromium(tmp_path_factory.mktemp("chromium"))
    yield chromium
    chromium.close()


@pytest.fixture(scope="module")
def report() -> Report:
    hostile = "</script><img src='http://localhost:1/x' onerror='document.title=\"owned\"'>"
    arrays = {
        **files.kernels(), "zero": np.zeros((2, 2)), "bad": np.full((2, 2), np.nan), hostile: np.eye(3) * 1e-9,
        "layer10": np.eye(2), "layer9": np.eye(2) * 4,
    }  # fmt: skip
    return audit(arrays)


@pytest.fixture(scope="module")
def file(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render([report], "html"), encoding="utf-8")
    return path


@pytest.fixture
def page(window: browser.Chromium, file: Path) -> browser.Chromium:
    window.log("browser")
    window.requests()
    window.open(file)
    return window


def _sort(window: browser.Chromium, heading: str) -> tuple[list[int], Any]:
    """Click a heading; the rows' places in the model from then on, and what the heading says of itself."""
    state = window.run(
        "const button = [...document.querySelectorAll('table.layers thead button')]"
        f".find((e) => e.firstChild.textContent === '{heading}');"
        "button.click(); return button.parentElement.ariaSort"
    )
    return [int(word) - 1 for word in window.run(FIRST)], state


def test_it_opens_with_no_error_and_no_request(page: browser.Chromium, report: Report) -> None:
    assert page.log("browser") == []
    asked = {url.partition(":")[0] for url in page.requests()}
    assert "file" in asked
    assert asked <= {"file", "data"}
    assert page.run("return document.title").startswith("Spectral norms")
    assert page.run("return document.compatMode") == "CSS1Compat"
    assert page.run("return document.querySelectorAll('img:not(.plot), h1 ~ script').length") == 0
    assert page.run("return JSON.parse(document.getElementById('reports').textContent)") == [report.to_dict()]
    assert page.run("const plot = document.querySelector('img.plot'); return plot.complete && plot.naturalWidth > 0")


def test_the_policy_stops_what_would_load_or_run(page: browser.Chromium) -> None:
    """So that a mistake in escaping would not be enough."""
    page.run(
        "const html = `<img src='http://localhost:1/y' onerror='document.title = 1'>`;"
        "document.body.insertAdjacentHTML('beforeend', html);"
        "const s = document.createElement('script'); s.textContent = 'document.title = 2'; document.body.append(s);"
    )
    assert page.run("return document.title").startswith("Spectral norms")
    log = page.log("browser")
    assert len(log) >= 2
    assert all("Content Security Policy" in entry["message"] for entry in log)
    assert [why for url, why in page.requests().items() if url.startswith("http")] == ["csp"]


def test_numbers_sort_as_numbers_and_what_has_none_comes_last(page: browser.Chromium, report: Report) -> None:
    uppers = [row.upper for row in report.layers]
    bad = next(i for i, upper in enumerate(uppers) if upper is None)
    good = [(upper, i) for i, upper in enumerate(uppers) if upper is not None]
    order, state = _sort(page, "upper")
    assert (order, state) == ([i for _, i in sorted(good, key=lambda x: (-x[0], x[1]))] + [bad], "descending")
    order, state = _sort(page, "upper")
    assert (order, state) == ([i for _, i in sorted(good)] + [bad], "ascending")
    assert page.run("return document.querySelectorAll('table.layers th[aria-sort]').length") == 1
    order, state = _sort(page, "#")
    assert (order, state) == (list(range(len(uppers))), "ascending")
    assert _sort(page, "#")[1] == "descending"


def test_names_sort_as_people_do(page: browser.Chromium) -> None:
    _, state = _sort(page, "layer")
    names = page.run(NAMES)
    assert state == "ascending"
    assert names.index("layer9") + 1 == names.index("layer10")
    assert names.index("bad") < names.index("conv1.")


def test_the_keyboard_is_enough(page: browser.Chromium) -> None:
    page.run("document.querySelector('table.layers thead th:nth-child(3) button').focus()")
    page.press(browser.TAB)
    assert page.run("return document.activeElement.firstChild.textContent") == "lower"
    assert page.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press(browser.ENTER)
    assert page.run("return document.activeElement.parentElement.ariaSort") == "descending"
    page.press(" ")
    assert page.run("return document.activeElement.parentElement.ariaSort") == "ascending"


@pytest.mark.parametrize("width", [500, 1200])
def test_nothing_is_wider_than_the_window(page: browser.Chromium, width: int) -> None:
    """Wide tables and plots scroll in a box of their own."""
    page.resize(width)
    assert page.run("return window.innerWidth") == width
    assert page.run("return document.documentElement.scrollWidth <= window.innerWidth")
