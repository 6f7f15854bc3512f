"""Text and pages: rounding keeps promises, a model's names stay names wherever they stand, and a page loads nothing."""

from __future__ import annotations

import base64
import hashlib
import html as html_module
import re
from dataclasses import replace
from decimal import Decimal
from functools import cache
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("jinja2")

from hypothesis import given
from hypothesis import strategies as st
from specnorm_audit import audit
from specnorm_audit.renderers import render
from specnorm_audit.report import Report, gates_of, verdict

from audit import files
from specnorm.backends.text import number, visible


def _named(*names: str) -> dict[str, Any]:
    return {name: np.ones((2, 2 + at), dtype=np.float32) for at, name in enumerate(names)}


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


HOSTILE = [
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "</title><h1>", "a|b`c*d_e", "{{ 7 * 7 }}{% raw %}",
    "]]><!--", "\x1b[31m\u202e\x00\udc80", "$\\frac{1}{0}$ &lt;", "</svg></style><b>", "' onmouseover='alert(1)\">",
]  # fmt: skip
VOID = {"meta", "link", "br", "wbr", "img", "input", "hr", "base"}


class Page(HTMLParser):
    """Elements in order: (tag, attributes, text directly or deeper inside)."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[int] = []
        self.feed(text)
        self.close()
        assert not self.open, [self.elements[i][0] for i in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open[-1]][0] == tag
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for i in self.open:
            self.elements[i][2].append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, "".join(text)) for name, attributes, text in self.elements if name == tag]


@cache
def _report(**options: Any) -> Report:
    arrays = {**files.kernels(), "zero.weight": np.zeros((2, 2)), "nan.weight": np.full((2, 2, 3), np.nan)}
    return audit(arrays, **options)


def _page(*reports: Report) -> Page:
    return Page(render(reports, "html", many=len(reports) > 1))


def _tables(page: Page) -> list[list[list[str]]]:
    """Text of every cell of every table."""
    tables: list[list[list[str]]] = []
    for tag, _, text in page.elements:
        if tag == "table":
            tables.append([])
        elif tag == "tr":
            tables[-1].append([])
        elif tag in ("td", "th"):
            tables[-1][-1].append("".join(text))
    return tables


# -- numbers ---------------------------------------------------------------------------------------------------------
def test_the_table_rounds_outwards_and_sorts_by_the_numbers_themselves() -> None:
    report: Any = _report(methods=("tn", "f4", "reshaped", "unfoldings"))
    text = render([report], "html")
    head, *body = _tables(Page(text))[0]
    assert [re.sub("(proven|(upper|lower) bound)$", "", word) for word in head] == [
        "#", "layer", "shape", "lower", "upper", "tn", "f4", "reshaped", "unfoldings", "remark",
    ]  # fmt: skip
    assert head[3:9] == [
        "lowerproven", "upperproven", "tnupper bound", "f4upper bound", "reshapedlower bound", "unfoldingsupper bound",
    ]  # fmt: skip
    assert [cells[1] for cells in body[:4]] == [row.name for row in report.layers[:4]]
    for cells, row in zip(body[:4], report.layers, strict=False):
        assert Decimal(cells[3]) <= Decimal(row.lower) <= Decimal(row.upper) <= Decimal(cells[4])
        for cell, name in zip(cells[5:7], ("tn", "f4"), strict=True):
            assert Decimal(cell) >= Decimal(row.values[name])
        assert Decimal(cells[7]) <= Decimal(row.values["reshaped"])
    assert body[4][1].startswith("nan.weighterror: kernel of shape (2, 2, 3)")
    assert body[4][3:] == ["\u2013"] * 6 + ["error"]
    values = re.findall(r'data-value="([^"]*)"', text)
    assert len(values) == 5 * 7
    assert float(values[1]) == report.layers[0].lower
    assert float(values[6]) == min(report.layers[0].values["unfoldings"])
    assert values[-6:] == [""] * 6


# -- what stands in it -----------------------------------------------------------------------------------------------
def test_hostile_names_stay_names() -> None:
    arrays = {name: np.eye(3, 3 + i)[:, :, None] * [1, 2] * (i + 1) for i, name in enumerate(HOSTILE)}
    plain = {f"name{i}": x for i, x in enumerate(arrays.values())}
    bad = {f"{name} ": np.full((2, 2 + i), np.nan) for i, name in enumerate(HOSTILE)}
    reports = [replace(audit(x), model=m) for x, m in ((arrays, HOSTILE[0]), (plain, "name"))]
    failed = [replace(audit(bad), model=HOSTILE[1], environment={"x": HOSTILE[2]})]
    hostile, harmless = _page(reports[0]), _page(reports[1])
    # The same elements with the same attributes' names: no name has become markup, or an attribute.
    shape = [[(tag, sorted(a)) for tag, a, _ in page.elements if tag != "wbr"] for page in (hostile, harmless)]
    assert shape[0] == shape[1]
    for page in (hostile, _page(*failed)):
        assert {tag for tag, _, _ in page.elements}.isdisjoint({"h1x", "b1", "base", "iframe", "object", "form"})
        assert len(page.all("h1")) == 1
        assert len(page.all("img")) == 0
        assert len(page.all("script")) == 1
        assert not [name for _, attributes, _ in page.elements for name in attributes if name.startswith("on")]
    names = [row[1] for row in _tables(hostile)[0][1:]]
    assert names[0] == HOSTILE[0]
    assert names[1] == HOSTILE[1]
    assert names[4] == "{{ 7 * 7 }}{% raw %}"
    assert names[6] == "\\x1b[31m\\u202e\\x00\\udc80"


def test_it_loads_nothing_and_forbids_it() -> None:
    text = render([_report(), _report(input_shape=5)], "html", many=True)
    page = Page(text)
    (policy,) = [a["content"] for a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    (script,) = [t for a, t in page.all("script") if "type" not in a]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert rules == {
        "default-src": "'none'", "img-src": "data:", "style-src": "'unsafe-inline'",
        "script-src": f"'sha256-{digest}'", "base-uri": "'none'", "form-action": "'none'",
    }  # fmt: skip
    loading = {"src", "href", "xlink:href", "data", "action", "srcset", "poster", "background", "cite"}
    targets = [v for _, a, _ in page.elements for k, v in a.items() if k in loading]
    assert targets
    assert [
        v for v in targets if not (v is not None and v.startswith(("#", "data:image/svg+xml;base64,", "data:,")))
    ] == []
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org/(2000/svg|1999/xlink))", text)


def test_a_report_is_one_line_where_python_shows_it() -> None:
    """It was a dataclass of 1,600 characters."""
    report = audit(_named("a", "b"))
    assert repr(report) == "<Report 2 of 2 layers proven: the largest norm is at most 2.44949.>"
    assert repr(replace(report, model="m\n.npz")).startswith("<Report m")
    assert "\n" not in repr(replace(report, model="m\n.npz"))


def test_junit_has_a_case_for_each_layer_and_gate() -> None:
    """Pages of continuous integration count its failures and errors, and show no name as markup."""
    arrays = {
        "a.weight": np.eye(2), "b\x1b<i>.weight": np.full((2, 3), np.nan), "c.weight": np.eye(2, 4, dtype=np.int8),
    }  # fmt: skip
    report = audit({**arrays, "d.bias": np.ones((2, 2, 3))}, assume_stored="a*")
    report = replace(report, gates=gates_of(report, {"fail_above": 0.5}))
    lost = Report("0", "lost.npz", (), (), error="it is empty.")
    root = ElementTree.fromstring(render([report, lost], "junit"))
    first, second = root
    cases = {case.get("name"): [part.tag for part in case] for case in first.iter("testcase")}
    assert cases == {
        "a.weight": ["system-out"], visible("b\x1b<i>.weight"): ["error"], "c.weight": ["error"], "d.bias": ["skipped"],
        "--fail-above 0.5": ["failure"],
    }  # fmt: skip
    counts = {word: first.get(word) for word in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "1", "errors": "2", "skipped": "1"}
    assert [p.get("value") for p in first.iter("property") if p.get("name") == "assume_stored"] == ["a*"]
    assert second.get("errors") == "1"


def test_a_reason_that_many_layers_share_is_said_once() -> None:
    arrays = {f"{at}.{word}": np.eye(3) for at in range(9) for word in ("weight", "scores")}
    report = audit(arrays)
    assert str(report).count("the layer may use another weight") == 1
    assert "0.weight, 1.weight, 2.weight and 6 more: error: scores stands beside it" in str(report)
    assert verdict(report) == "None of 9 layers was measured."
    assert "proven" not in str(report)
    layers, scores = gates_of(report, {"fail_above": 1.0})[0].places
    assert layers.startswith("0.weight, 1.weight, 2.weight, 3.weight")
    assert scores.startswith("0.scores, 1.scores")
