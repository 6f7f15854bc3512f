"""The page that compares with published methods is what the committed lines say."""

from __future__ import annotations

from bench import peers


def test_the_page_is_made_of_the_committed_lines() -> None:
    """`python -m bench page` in this folder writes it anew."""
    assert peers.PAGE.read_text(encoding="utf-8") == peers.page()


def test_a_value_that_is_no_bound_is_shown() -> None:
    rows = [
        {"section": "tensor norm", "library": "torch cpu", "contestant": name, "value_over_norm": value, "faster": 2.0}
        for name, value in (("hopm_einsum", 0.964), ("hopm_einsum", 1.2), ("tn_bound, proven", 1.0))
    ]
    line = next(line for line in peers.layers(rows).splitlines() if line.startswith("| TN by HOPM"))
    assert "| 0.9640 to 1.2000 |" in line
    assert "| 1.0000 to 1.0000 | 2x |" in line
