"""The basis of a search holds the top vectors around the maximum, so that cells there pass with few directions."""

from __future__ import annotations

import pytest
from real_weights import real_layers

import specnorm
from specnorm.methods.certify import Certify
from specnorm.search.branch_and_bound import Search
from specnorm.search.reduction import Polynomials

KERNELS = {name: kernel for name, kernel, _ in real_layers("dncnn25")}


@pytest.mark.parametrize("name", ["model.12.weight", "model.22.weight", "model.24.weight", "model.28.weight"])
def test_no_cell_is_tried_with_every_direction(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """These kernels have one maximum; with vectors of coarse frequencies alone, up to 29 cells needed all."""
    monkeypatch.setattr(Polynomials, "whole_for", lambda *_: pytest.fail("a cell was tried with every direction"))
    found = specnorm.enclose(KERNELS[name])
    assert float(found.upper) <= float(found.lower) * 1.001
    assert int(found.cells) <= 100


@pytest.mark.parametrize("name", ["model.12.weight", "model.22.weight"])
def test_what_the_first_ascent_refutes_takes_no_cell(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lower = float(specnorm.enclose(KERNELS[name]).lower)
    monkeypatch.setattr(Search, "_estimate", lambda *_: pytest.fail("a cell was looked at"))
    assert bool(specnorm.measure(KERNELS[name], Certify(bound=0.999 * lower)).stats["refuted"])
