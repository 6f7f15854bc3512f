"""The site as a browser shows it: ``nox -s browser``, or `nox -s site` and then this file. Links are `mkdocs`'s."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

SITE = Path(os.environ.get("SPECNORM_SITE") or Path(__file__).parents[1] / "build" / "site")
WIDTHS = (1280, 390)
REPORTS = ("report.html", "dncnn25.html", "rfb320.html")
"""Pages that `specnorm audit` writes, with tables that scroll."""
SECONDS = 60
"""For one answer of a page; a busy machine takes seconds for the reference."""
TOO_WIDE = """(() => {
    const beyond = [...document.querySelectorAll("article *")].filter(
        x => !x.closest(".md-typeset__scrollwrap, pre, svg") && x.getBoundingClientRect().right > innerWidth + 1);
    const wide = [...document.querySelectorAll("pre > code")].filter(x => x.scrollWidth > x.clientWidth + 1);
    return JSON.stringify([...beyond, ...wide].map(x => `${x.tagName}: ${x.textContent.slice(0, 60)}`));
})()"""
"""Elements that lie beyond the window, where the theme cuts them, and code that its box cuts; tables scroll."""


def pages() -> list[Path]:
    return sorted(path for path in SITE.rglob("*.html") if not path.name.endswith(REPORTS))


@pytest.mark.nightly
def test_no_page_scrolls_sideways(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a telephone and a desktop show it, by the Chromium in Qt."""
    if not (SITE / "index.html").is_file():
        pytest.skip("the site is not built: nox -s site")
    for name, value in {"QT_QPA_PLATFORM": "offscreen", "QTWEBENGINE_CHROMIUM_FLAGS": "--no-sandbox"}.items():
        monkeypatch.setenv(name, value)
    widgets: Any = pytest.importorskip("PySide6.QtWidgets", reason="pip install PySide6")
    view_of: Any = pytest.importorskip("PySide6.QtWebEngineWidgets").QWebEngineView
    core: Any = pytest.importorskip("PySide6.QtCore")
    app, view = widgets.QApplication([]), view_of()

    def answer(ask: Any) -> Any:
        loop, answers = core.QEventLoop(), list[Any]()

        def told(x: Any) -> None:
            answers.append(x)
            loop.quit()

        ask(told)
        core.QTimer.singleShot(1000 * SECONDS, loop.quit)
        if not answers:
            loop.exec()
        return answers[0]

    view.show()
    problems = list[str]()
    for page in pages():
        for width in WIDTHS:
            view.resize(width, 900)
            view.load(core.QUrl.fromLocalFile(str(page)))
            assert answer(view.loadFinished.connect), page
            view.loadFinished.disconnect()
            wide = answer(lambda tell: view.page().runJavaScript(TOO_WIDE, 0, tell))
            problems += [f"{page.relative_to(SITE)} at {width} px: {words}" for words in json.loads(wide)]
    app.quit()
    assert not problems, "\n".join(problems)
    assert len(pages()) > 40
