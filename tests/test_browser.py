"""The site as a browser shows it: ``nox -s browser``, or `nox -s site` and then this file."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

SITE = Path(os.environ.get("SPECNORM_SITE") or Path(__file__).parents[1] / "build" / "site")
WIDTHS = (1280, 390)
TIMEOUT = 120_000
"""Milliseconds; a busy machine takes seconds for the reference."""
REPORTS = ("report.html", "dncnn25.html", "rfb320.html")
"""Pages that `specnorm audit` writes, with tables that scroll."""
SWITCHES = {"__search", "__drawer"}
"""What opens and closes parts of the theme."""
TOO_WIDE = """() => {
    const page = document.documentElement, wide = [...document.querySelectorAll("pre > code")];
    const cut = wide.filter(x => x.scrollWidth > x.clientWidth + 1).map(x => x.innerText.slice(0, 60));
    return page.scrollWidth > window.innerWidth ? [`the page: ${page.scrollWidth} px`, ...cut] : cut;
}"""
ADDRESSES = """() => [...document.querySelectorAll("a[href], img[src], link[href], script[src]")]
    .map(x => x.href || x.src).filter(x => x.startsWith(location.origin))"""
NAMES = '() => [...document.querySelectorAll("[id]")].map(x => x.id)'

pytestmark = pytest.mark.nightly


class Quiet(SimpleHTTPRequestHandler):
    """A server that prints nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    if not (SITE / "index.html").is_file():
        pytest.skip("the site is not built: nox -s site")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    driver = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium or Chrome here")
    with driver.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


def pages() -> list[str]:
    return sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))


def test_no_page_scrolls_sideways_and_no_link_is_broken(address: str, chromium: Any) -> None:
    page = chromium.new_page()
    page.set_default_timeout(TIMEOUT)
    problems, names, links = list[str](), dict[str, set[str]](), dict[str, str]()
    page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))
    for path in pages():
        page.goto(f"{address}/{path}", wait_until="domcontentloaded")
        names[f"/{path}"] = set(page.evaluate(NAMES))
        links |= dict.fromkeys(page.evaluate(ADDRESSES), path)
        if path.endswith(REPORTS):
            continue
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            problems += [f"{path} at {width} px: {words}" for words in page.evaluate(TOO_WIDE)]
    page.close()
    for link, origin in links.items():
        parts = urlsplit(link)
        target = unquote(parts.path).rstrip("/") or "/index.html"
        if not (SITE / target.lstrip("/")).exists():
            problems.append(f"{origin} links to {target}, which is not there")
        elif parts.fragment and unquote(parts.fragment) not in names.get(target, set()) | SWITCHES:
            problems.append(f"{origin} links to {target}#{parts.fragment}, which has no such part")
    assert not problems, "\n".join(problems)
    assert len(names) > 50


def test_search_finds_what_the_library_is_about(address: str, chromium: Any) -> None:
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(TIMEOUT)
    page.goto(f"{address}/index.html", wait_until="domcontentloaded")
    page.click(".md-search__input")
    page.keyboard.type("spectral norm")
    page.wait_for_selector(".md-search-result__item a")
    found = page.inner_text(".md-search-result__list")
    page.close()
    assert "norm" in found.lower()


def test_prompts_and_outputs_are_not_copied(address: str, chromium: Any) -> None:
    context = chromium.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    page.goto(f"{address}/index.html", wait_until="domcontentloaded")
    page.locator("[data-clipboard-target]").first.click()
    copied = page.evaluate("() => navigator.clipboard.readText()")
    context.close()
    assert copied.splitlines()[0] == "import numpy as np, specnorm"
    assert copied.splitlines()[2] == "specnorm.enclose(kernel)"
    assert ">>>" not in copied
    assert "<= norm <=" not in copied


def test_tabs_are_in_order(address: str, chromium: Any) -> None:
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{address}/tutorials/numpy.html", wait_until="domcontentloaded")
    tabs = [words.strip() for words in page.locator(".md-tabs__link").all_inner_texts()]
    page.close()
    assert tabs == ["Learn", "Guides", "Reference", "Benchmarks", "About"]
