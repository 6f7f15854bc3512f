"""On small fully connected networks the multipliers come within 1 % of LipSDP's optimum, found by a cone solver."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("clarabel", reason="it solves LipSDP's cone program, with SciPy's LAPACK")
from helpers.lipsdp import lipsdp
from networks.written_networks import matrices
from numpy.typing import NDArray
from specnorm_networks.certified import operators
from specnorm_networks.tools import bound

NETWORKS = [(5, 20, 12, 1), (8, 10, 20, 8), (4, 15, 3), (5, 8, 8, 8, 8, 3), (4, 6, 6, 6, 6, 6, 6, 6, 6, 2)]


def drawn(widths: tuple[int, ...], seed: int) -> list[NDArray[np.float64]]:
    random = np.random.RandomState(seed)
    return [random.standard_normal((m, n)) / n**0.5 for n, m in itertools.pairwise(widths)]


@pytest.mark.parametrize("widths", NETWORKS, ids=str)
def test_within_1_percent_of_lipsdp(widths: tuple[int, ...]) -> None:
    weights = drawn(widths, sum(widths))
    optimum = lipsdp(weights)
    found = bound(matrices(*weights, function=operators.ReLU()))
    assert found.upper is not None
    assert found.product is not None
    assert found.product > 1.05 * optimum  # there is something to find
    # Nothing is below the optimum but by the solver's tolerance.
    assert optimum * (1 - 1e-6) <= found.upper <= optimum * 1.01


@pytest.mark.parametrize("seed", range(2))
def test_the_solver_finds_what_is_known(seed: int) -> None:
    """One unit in the middle: LipSDP is exact, |w_2| |w_1|. Only matrices: at most their norms' product."""
    first, second = drawn((5, 1, 4), seed)
    assert lipsdp([first, second]) == pytest.approx(np.linalg.norm(first) * np.linalg.norm(second), rel=1e-6)
    a, b = drawn((4, 6, 3), seed)
    assert np.linalg.norm(b @ a, 2) / 2 < lipsdp([a, b]) <= np.linalg.norm(a, 2) * np.linalg.norm(b, 2) * (1 + 1e-6)
