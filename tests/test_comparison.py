"""The ratios on the methods' page are what the library computes today. `python -m bench.compare` makes them anew."""

from __future__ import annotations

import re

from bench import compare
from nightly import NIGHTLY

STEP = 0.0015
"""One and a half of the last digit shown: libraries and machines round differently."""


def shown(name: str) -> str:
    page = compare.PAGE.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", page, re.DOTALL)
    assert found is not None
    return found.group(1).strip()


def same(text: str, other: str) -> bool:
    """Equal but for numbers with a point, which may differ by `STEP`."""
    number = re.compile(r"\d+\.\d+")
    ours, theirs = (list(map(float, number.findall(x))) for x in (text, other))
    return number.sub("#", text) == number.sub("#", other) and all(
        abs(a - b) <= STEP for a, b in zip(ours, theirs, strict=True)
    )


def test_ratios_are_live() -> None:
    """Of every network nightly, in CI of one with strides and one with other kernels."""
    if NIGHTLY:
        made = compare.table_of_models().strip()
        assert same(shown("models"), made), f"run python -m bench.compare in tests/: the page should show\n{made}"
    for model in ("resnet20", "silero_vad"):
        made = compare.row(model, compare.ratios(model))
        assert any(same(line, made) for line in shown("models").splitlines()), f"the page should show\n{made}"


def test_ratios_at_a_size_are_live() -> None:
    made = compare.table_of_sizes().strip()
    assert same(shown("sizes"), made), f"run python -m bench.compare in tests/: the page should show\n{made}"


def test_times_name_their_machine() -> None:
    """Not compared: they are of one machine and one day."""
    table = shown("times")
    assert [f"| {name} |" in table for name in compare.METHODS] == [True] * len(compare.METHODS)
    assert re.search(
        r"Measured \d{4}-\d\d-\d\d at commit [0-9a-f]{7,}: one thread of .+, Python .+, NumPy .+\.$", table
    )


def test_comparing_tables_can_fail() -> None:
    assert same("| a | 19 | 1.025 (1.031) |", "| a | 19 | 1.026 (1.030) |")
    for other in (
        "| a | 19 | 1.027 (1.031) |",
        "| a | 18 | 1.025 (1.031) |",
        "| b | 19 | 1.025 (1.031) |",
        "| a | 19 |",
    ):
        assert not same("| a | 19 | 1.025 (1.031) |", other)
