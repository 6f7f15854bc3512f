"""Text for people and programs: rounding keeps promises, and a model's names stay names."""

from __future__ import annotations

import csv
import dataclasses
import html as html_module
import io
import json
import re
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditing import files
from specnorm.auditing import audit
from specnorm.auditing.renderers import render
from specnorm.auditing.report import Report
from specnorm.auditing.rows import Row
from specnorm.problem.spec import ConvSpec
from specnorm.text import number, spreadsheet_safe, visible


def _named(*names: str) -> dict[str, Any]:
    return {name: np.ones((2, 2), dtype=np.float32) for name in names}


# -- numbers -------------------------------------------------------------------------------------------------------
@given(st.floats(0, allow_infinity=False, allow_nan=False))
def test_text_keeps_what_the_number_promises(value: float) -> None:
    lower, upper, near = (Decimal(number(value, promise)) for promise in ("lower", "upper", "exact"))
    assert lower <= Decimal(value) <= upper
    assert lower <= near <= upper
    assert upper - lower <= Decimal(value) * Decimal("1e-5")


@pytest.mark.parametrize(
    ("value", "promise", "expected"),
    [
        (1 / 3, "lower", "0.333333"), (1 / 3, "upper", "0.333334"), (1 / 3, "estimate", "0.333333"),
        (2.0, "upper", "2.00000"), (0.0, "upper", "0"), (1234567.0, "lower", "1.23456e+6"),
        (1e-30, "lower", "1.00000e-30"), (None, "lower", "-"), (float("inf"), "upper", "inf"),
        (99999.95, "upper", "100000"), (999999.5, "upper", "1.00000e+6"),
    ],
)  # fmt: skip
def test_numbers_as_text(value: float | None, promise: str, expected: str) -> None:
    assert number(value, promise) == expected


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


def test_columns_of_a_table_are_as_wide_as_what_is_seen() -> None:
    """A wide character takes two columns, a combining mark none."""
    names = ["plain", "\u5c64.\u6b0a\u91cd", "e\u0301te\u0301"]
    lines = render([audit({name: np.ones((2, 2), dtype=np.float32) for name in names})], "table").splitlines()
    table = [line for line in lines if line.startswith("|")]
    first = [line.split("|")[1] for line in table]
    assert first == [" layer   ", "-" * 9, " plain   ", f" {names[1]} ", f" {names[2]}     "]
    assert table[0].split("|")[3:6] == ["   lower ", "   upper ", " remark  "], "numbers stand on the right"
    assert len({line.count("|") for line in table}) == 1


@pytest.mark.parametrize("start", list("=+-@"))
def test_formulas_are_defused_in_csv(start: str) -> None:
    name = f"{start}cmd|' /C calc'!A0"
    (row,) = csv.DictReader(io.StringIO(render([audit(_named(name))], "csv"), newline=""))
    assert row["name"] == f"'{name}"


@pytest.mark.parametrize("character", list("\t\r\n\0\x1b\x7f\x9b\u202e\u2066\u200b\udc80"))
def test_csv_escapes_what_does_not_print(character: str) -> None:
    """In names, paths and reasons: one line a layer, nothing that turns the text around, and no end of a string."""
    name = f"{character}a{character}.weight"
    report = dataclasses.replace(audit({name: np.full((2, 2), np.nan)}), model=f"m{character}.npz")
    text = render([report], "csv")
    assert text.replace("\n", "").isprintable()
    assert len(text.splitlines()) == 2
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["name"], row["model"]) == (visible(name), visible(str(report.model)))


def test_ordinary_text_is_left_alone_in_csv() -> None:
    assert spreadsheet_safe("module.conv1.weight") == "module.conv1.weight"
    assert spreadsheet_safe("a=b") == "a=b"
    assert spreadsheet_safe("") == ""


# -- formats -------------------------------------------------------------------------------------------------------
def test_csv_holds_the_json_rows() -> None:
    arrays = {**files.kernels(), 'quoted,"name"': np.full((2, 2), np.nan)}
    report = audit(arrays, input_shape=8)
    rows = list(csv.DictReader(io.StringIO(render([report], "csv"), newline="")))
    assert len(rows) == 4
    for text, row in zip(rows, report.to_dict()["layers"], strict=True):
        assert list(text) == ["model", *row]
        for key, value in row.items():
            if value is None:
                assert text[key] == ""
            elif isinstance(value, str):
                assert text[key] == value
            else:
                assert json.loads(text[key]) == value


def test_json_is_an_object_or_a_list() -> None:
    report = audit(_named("\x1b[31m\udc80"))
    text = render([report], "json")
    assert text.isascii()
    assert json.loads(text) == report.to_dict()
    assert json.loads(render([report], "json", many=True)) == [report.to_dict()]
    assert json.loads(render([], "json", many=True)) == []


def test_table_says_what_it_shows() -> None:
    arrays = {**files.kernels(), "bad.weight": np.full((2, 2), np.inf), "x" * 300: np.ones((2, 2), dtype=np.float32)}
    text = render([audit(arrays, methods=["tn", "unfoldings"])], "table")
    assert "x" * 300 in text
    assert "5 layers (2 conv, 3 linear), 1 error; 3 other arrays skipped: " in text
    assert "tn: an upper bound; unfoldings: an upper bound." in text
    assert "supremum over all input sizes" in text
    assert "stride=1, dilation=1, groups=1" in text
    assert "bad.weight: error: kernel of shape (2, 2) holds 4 non-finite values" in text
    assert "| remark" in text.splitlines()[2]
    assert "for the input shape 8x9" in render([audit({"k": np.ones((2, 2, 3, 3))}, input_shape=(8, 9))], "table")


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([0.5, 0.9], "2 of 2 layers proven: each nonexpansive, the largest norm is at most 0.900001."),
        (
            [0.5, 1.0, 2.0],
            "3 of 3 layers proven: 1 above 1, 1 not decided to be at most 1, the largest norm is at most 2.00001.",
        ),
        ([3.0, 2.0], "2 of 2 layers proven: the largest norm is at most 3.00001."),
        ([0.5, np.nan], "1 of 2 layers proven: each of these nonexpansive, the largest norm is at most 0.500001."),
        ([np.nan], "0 of 1 layers proven."),
    ],
    ids=str,
)
def test_table_begins_with_a_verdict(sizes: list[float], words: str) -> None:
    pytest.importorskip("rich")
    arrays = {f"{j}.weight": np.full((1, 1), size) for j, size in enumerate(sizes)}
    assert render([audit(arrays, methods=[])], "table").splitlines()[0] == words


def test_a_row_ends_with_a_remark() -> None:
    rows = [
        Row(str(interval), "linear", (1, 1), ConvSpec.of((1, 1)), lower=interval[0], upper=interval[1])
        for interval in [(0.9, 0.9), (0.999, 1.001), (2.0, 2.0), (3.0, 3.1), (1.0, 1.5), (0.0, 0.0), (0.0, 2.0)]
    ]
    rows.append(Row("bad", "linear", (1, 1), None, reason="why not"))
    lines = str(Report("0", None, tuple(rows), ())).splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["layer", "shape", "lower", "upper", "remark"]
    assert [line.split("|")[-2].strip() for line in lines[4:12]] == [
        "at most 1", "1 is not decided", "above 1", "above 1, the largest", "1.50000 times apart", "zero",
        "no lower bound", "error",
    ]  # fmt: skip


def test_table_rounds_outwards() -> None:
    (row,) = (report := audit({"k": np.eye(2) / 3})).layers
    (line,) = [line for line in render([report], "table").splitlines() if line.startswith("| k")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert row.lower is not None
    assert row.upper is not None
    assert Decimal(cells[2]) <= Decimal(row.lower)
    assert Decimal(cells[3]) >= Decimal(row.upper)


def test_every_report_begins_with_the_verdict() -> None:
    """In words, as the table has it: in Markdown under the heading, in HTML too, in JSON a field."""
    report = dataclasses.replace(audit(files.kernels(), methods=["tn"]), model="m.npz")
    _, words, *_ = render([report], "table").splitlines()
    assert re.fullmatch(r"\d of \d layers proven: .*the largest norm is at most [\d.]+\.", words)
    assert json.loads(render([report], "json"))["verdict"] == words
    assert render([report], "markdown").splitlines()[:4] == ["## `m.npz`", "", words, ""]
    pytest.importorskip("jinja2")
    assert f'</h2>\n<p class="lead">{words}</p>' in render([report], "html")


# -- Markdown ------------------------------------------------------------------------------------------------------
def _rendered(text: str) -> str:
    """Markdown as HTML, with the tables and links of GitHub."""
    markdown = pytest.importorskip("markdown_it")  # comes with rich
    html: str = markdown.MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    return html


def test_markdown_is_a_table_with_a_heading_and_notes() -> None:
    report = audit({**files.kernels(), "bad.weight": np.full((2, 2), np.inf)}, methods=["tn", "unfoldings"])
    html = _rendered(render([report], "markdown"))
    assert html.count("<tr>") == 5
    assert "<td><code>conv1.weight</code></td>" in html
    (notes,) = re.findall(r'<pre><code class="language-text">(.*?)</code></pre>', html, re.DOTALL)
    assert (
        html_module.unescape(notes).splitlines() == render([report], "table").splitlines()[-len(notes.splitlines()) :]
    )
    assert "bad.weight: error: kernel of shape (2, 2) holds 4 non-finite values" in notes
    assert "<h2>" not in html
    assert "<h2><code>m.npz</code></h2>" in _rendered(render([dataclasses.replace(report, model="m.npz")], "markdown"))


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


def test_markdown_rounds_outwards() -> None:
    (row,) = (report := audit({"k": np.eye(2) / 3})).layers
    (line,) = [line for line in render([report], "markdown").splitlines() if line.startswith("| `k`")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert row.lower is not None
    assert row.upper is not None
    assert Decimal(cells[2]) <= Decimal(row.lower)
    assert Decimal(cells[3]) >= Decimal(row.upper)


def test_the_table_says_of_which_layers_something_is_assumed() -> None:
    """One sentence where it is the same of all convolutions; else each layer's own assumptions, and no other's."""
    pytest.importorskip("rich")
    arrays = {f"{name}.weight": np.ones((2, 2, 3, 3)) for name in "abcde"}
    same = str(audit(arrays, methods=()))
    assert same.count("Assumed") == 1
    assert "Assumed, since the file does not say: stride=1" in same
    known = {"stride": 1, "dilation": 1, "groups": 1, "transposed": False, "layout": None, "padding": 0}
    mixed = str(audit(arrays, methods=(), geometry={"e.*": known | {"padding_mode": "zeros"}, "d.*": known}))
    lines = [line for line in mixed.splitlines() if line.startswith("Assumed")]
    assert len(lines) == 2
    assert lines[0].startswith("Assumed of a.weight, b.weight, c.weight, since the file does not say: stride=1")
    assert lines[1] == "Assumed of d.weight, since the file does not say: padding_mode=zeros."
