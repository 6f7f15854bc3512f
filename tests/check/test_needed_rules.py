"""The checker has a rule for an operator only if one network in twenty needs it: each rule may be a mistake."""

from __future__ import annotations

from collections import Counter

import pytest

pytest.importorskip("onnx", reason="ONNX files: pip install onnx")

import checked_operators as operators
from specnorm_check.graphs import ALLOWED_ATTRIBUTES


def test_one_network_in_twenty_needs_each_operator_with_a_rule() -> None:
    """A network with another operator has no certificate, so it needs none of its rules."""
    rows = operators.rows_of_page()
    assert set(rows) == {*operators.FILES, *operators.EXPORTED}
    needed = Counter[str]()
    for with_rule, without_rule in rows.values():
        if not without_rule:
            needed.update(with_rule)
    assert set(needed) <= set(ALLOWED_ATTRIBUTES)
    seldom = {name for name in ALLOWED_ATTRIBUTES if needed[name] * operators.ONE_IN < len(rows)}
    assert not seldom


def test_the_table_has_the_operators_of_the_files() -> None:
    page = operators.PAGE.read_text(encoding="utf-8")
    for row in operators.rows_of_files():
        assert row in page, "another table: write it by `python tests/checked_operators.py`"


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_the_table_has_the_operators_of_the_exported_networks() -> None:
    for package in ("torch", "onnxscript", "jax2onnx", "transformers"):
        pytest.importorskip(package)
    page = operators.PAGE.read_text(encoding="utf-8")
    for row in operators.rows_of_exported():
        assert row in page, "another table: write it by `python tests/checked_operators.py`"
