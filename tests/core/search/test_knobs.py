"""Tuning changes what an answer costs, and never a claim."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import assert_encloses
from numpy.typing import NDArray
from oracle import dense_norm, sigma_star

import specnorm
from specnorm import Enclose
from specnorm.methods.certify import Certify
from specnorm.search import tuning

WILD: dict[str, tuple[float, ...]] = {
    "cache": (1, 2**40),
    "kept": (0, 2**40),
    "first_degree": (0, 40),
    "degree": (0, 40),
    "crowded": (0.0, 1.0),
    "smallest_crowded": (0, 10**9),
    "crowded_first": (0, 40),
    "crowded_degree": (0, 40),
    "cut": (0.0, 1e6),
    "exact": (0, 1000),
    "pieces": (2, 9),
    "overlap": (0.01, 10.0),
    "ahead": (0.0, 100.0),
    "wider": (1.001, 10.0),
    "share": (0.0, 1.0),
    "excess": (0.0, 100.0),
    "raised": (0.0, 100.0),
    "progress": (0.0, 1.0),
    "angle": (1e-15, 1.0),
    "prefilter": (0, 10**9),
    "smallest_float32": (1, 10**9),
    "margin_float32": (-1.0, 1e9),
    "rtol_float32": (0.0, 1.0),
    "smallest_shared": (1, 10**9),
    "smallest_reduced": (1, 10**9),
    "truncation": (1e-6, 0.999),
    "widest_reduced": (0.0, 1.0),
    "clear": (1.0 + 2.0**-40, 100.0),
    "least": (0.0, 1.0),
    "covered": (0.0, 1e6),
    "repaid": (0.0, 1e6),
    "stuck": (0.0, 1.0),
    "trials": (1, 1000),
    "around": (0.0, 3.0),
    "doubtful": (0.0, 2.0),
    "many": (0, 10**9),
    "starts": (1, 100),
    "near": (0.0, 2.0),
    "news": (-1.0, 1e6),
    "close": (0.0, 1.0),
    "rounds": (1, 200),
    "tight": (0.0, 1.0),
    "promise": (0.0, 1e6),
    "slowest": (0.0, 0.999),
    "first_hope": (-0.5, 10.0),
    "regular": (1e-15, 0.5),
    "float32_rounds": (0, 99),
}
"""The two ends of what each number may be."""


def decaying(*shape: int) -> NDArray[np.float64]:
    """A kernel with few large directions, so that some are left out."""
    kernel = np.random.RandomState(1).standard_normal(shape)
    return kernel * 3.0 ** -np.arange(shape[1]).reshape(-1, *(1,) * (len(shape) - 2))


LINE = decaying(7, 6, 3)
PLANE = decaying(5, 4, 3, 2)
SUPREMA = {kernel.ndim: sigma_star(kernel, max_cells=4000) for kernel in (LINE, PLANE)}


def check(kernel: NDArray[np.float64], monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
    """Both bounds hold, at every size and at one; what is refuted or proven is so."""
    monkeypatch.setattr(tuning, "TUNING", tuning.Tuning()._replace(**{"smallest_reduced": 2, **changed}))
    truth, sizes = SUPREMA[kernel.ndim], (9,) * (kernel.ndim - 2)
    found = specnorm.measure(kernel, Enclose(max_cells=1000))
    assert_encloses(float(found.stats["lower"]), float(found.value), truth)
    at = specnorm.measure(kernel, Enclose(max_cells=1000), input_shape=sizes)
    assert_encloses(float(at.stats["lower"]), float(at.value), dense_norm(kernel, sizes))
    for bound, right in ((truth.lo * 0.98, False), (truth.hi * 1.02, True)):
        verdict = specnorm.measure(kernel, Certify(bound=bound, max_cells=1000)).stats
        assert not bool(verdict["refuted" if right else "proven"])


def test_every_knob_is_turned() -> None:
    assert WILD.keys() == set(tuning.Tuning._fields)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", WILD)
def test_wild_values_change_no_claim(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in WILD[name]:
        check(LINE, monkeypatch, **{name: value})


@pytest.mark.parametrize("seed", range(8))
def test_all_wild_at_once_change_no_claim(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.RandomState(seed)
    check(PLANE, monkeypatch, **{name: ends[random.randint(2)] for name, ends in WILD.items()})
