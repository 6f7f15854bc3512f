"""Text for people and programs: rounding keeps promises, and a model's names stay names."""

from __future__ import annotations

import html as html_module
import re
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from specnorm_audit import audit
from specnorm_audit.renderers import render

from specnorm.text import number, visible


def _named(*names: str) -> dict[str, Any]:
    return {name: np.ones((2, 2), dtype=np.float32) for name in names}


# -- numbers -------------------------------------------------------------------------------------------------------
@given(st.floats(0, allow_infinity=False, allow_nan=False))
def test_text_keeps_what_the_number_promises(value: float) -> None:
    lower, upper, near = (Decimal(number(value, promise)) for promise in ("lower", "upper", "exact"))
    assert lower <= Decimal(value) <= upper
    assert lower <= near <= upper
    assert upper - lower <= Decimal(value) * Decimal("1e-5")


# -- names ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("conv.weight", "conv.weight"), ("\x1b[31mred", "\\x1b[31mred"), ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\u202eevil", "\\u202eevil"), ("\x9b31m", "\\x9b31m"), ("été 層", "été 層"), ("\udc80", "\\udc80"),
        ("[bold]x[/bold] :smile:", "[bold]x[/bold] :smile:"),
    ],
)  # fmt: skip
def test_control_characters_are_shown_as_escapes(name: str, shown: str) -> None:
    assert visible(name) == shown
    text = render([audit(_named(name))], "table")
    assert f"| {shown} |" in text
    assert text.replace("\n", "").isprintable()


# -- Markdown ------------------------------------------------------------------------------------------------------
def _rendered(text: str) -> str:
    """Markdown as HTML, with the tables and links of GitHub."""
    markdown = pytest.importorskip("markdown_it")  # comes with rich
    html: str = markdown.MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    return html


@pytest.mark.parametrize(
    "name",
    [
        "a|b", "a\\|b", "a\\", "`a`", "``a", "<script>alert(1)</script>", "*a* _b_ ~c~", "[x](https://e.org)", "-",
        "@user #1", "https://e.org", "&lt;&#124;", " a ", "a  b", "\n| x |", "\x1b[31m", "été_層", "$x$", "![i](u)",
        "a, b=(c)",
    ],
)  # fmt: skip
def test_names_are_no_markdown(name: str) -> None:
    html = _rendered(render([audit(_named(name, "other"))], "markdown"))
    cells = re.findall(r"<td[^>]*>(.*?)</td>", html, re.DOTALL)
    assert len(cells) == 2 * 5  # two rows
    assert html_module.unescape(cells[0]) == f"<code>{visible(name)}</code>"
    assert cells[5] == "<code>other</code>"
    bad = _rendered(render([audit({name: np.full((2, 2), np.nan)})], "markdown"))
    assert bad.count("<code") == 2
    assert html_module.unescape(bad).count(f"\n{visible(name)}: error: ") == 1
