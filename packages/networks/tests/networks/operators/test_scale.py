"""Products with factors that were rounded: near 0 a rounding is half a subnormal unit, whatever the number's size."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from specnorm_networks import Graph, Layer, Node
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators.base import Affine
from specnorm_networks.certified.operators.linear import normalisation
from specnorm_networks.tools import bound

UNIT = float(np.finfo(np.float64).smallest_subnormal)
SHAPE = (1, 2, 3)
HALVED = [1, 3, 5, 7, 9, 2**20 + 1]
"""Numbers of units whose half lies between two floats."""


def chain(*operators: ops.Operator) -> Graph:
    nodes = [Node("x", ops.Input(), (), SHAPE)]
    for number, operator in enumerate(operators):
        nodes.append(Node(f"v{number}", operator, (nodes[-1].name,), SHAPE))
    return Graph(tuple(nodes), (nodes[-1].name,))


def half_of(units: int) -> tuple[ops.Scale, Fraction]:
    """Batch normalisation with variance 4 of a channel with so many units, and of one of zeros; and its constant."""
    gamma = np.array([units * UNIT, 0.0])
    variance = np.array([4.0, 4.0])
    return normalisation(np.zeros(2), variance, gamma, None, 0.0, len(SHAPE)), Fraction(units * UNIT) / 2


@pytest.mark.parametrize("units", HALVED)
def test_the_constant_of_a_subnormal_factor_is_not_below_it(units: int) -> None:
    scale, factor = half_of(units)
    place = ops.Place((SHAPE,), SHAPE)
    constant = scale.lipschitz(place)
    assert factor <= Fraction(constant) <= factor + 2 * Fraction(UNIT)


def test_large_inputs_of_a_subnormal_factor_have_no_linear_map() -> None:
    """Half a unit times 1e300 is more than underflow: an interval of the value would miss it."""
    scale, _ = half_of(5)
    assert scale.map_at(SHAPE) is None
    assert not scale.is_accurate


def test_normal_factors_and_zeros_have_a_linear_map() -> None:
    scale = normalisation(np.zeros(2), np.array([4.0, 4.0]), np.array([3.0, 0.0]), None, 0.0, len(SHAPE))
    assert isinstance(scale, Affine)
    assert scale.is_accurate
    assert scale.map_at(SHAPE) is not None
    constant = scale.lipschitz(ops.Place((SHAPE,), SHAPE))
    assert 1.5 <= constant <= 1.5 * (1 + 1e-14)


@pytest.mark.parametrize(
    ("before", "factors"),
    [((1, 5, 1), (5, 8)), ((4,), (3, 4)), ((3, 1, 1), (1, 5, 2)), ((2, 1, 3), (7, 1)), ((2, 3), (2, 3))],
)
def test_factors_that_broadcast_their_input_have_the_norm_of_their_matrix(
    before: tuple[int, ...], factors: tuple[int, ...]
) -> None:
    values = np.random.default_rng(0).standard_normal(factors)
    columns = [np.ravel(unit.reshape(before) * values) for unit in np.eye(math.prod(before))]
    norm = np.linalg.norm(np.stack(columns), 2)
    constant = ops.Scale(values, exact=True).lipschitz(ops.Place((before,)))
    assert norm * (1 - 1e-14) <= constant <= norm * (1 + 1e-12)


def test_channels_of_zeros_stay_zeros() -> None:
    scale = normalisation(np.zeros(2), np.ones(2), np.zeros(2), None, 0.0, len(SHAPE))
    assert scale.lipschitz(ops.Place((SHAPE,), SHAPE)) == 0.0
    assert bound(chain(scale), check=False).upper == 0.0


def test_an_exact_subnormal_factor_is_its_own_constant() -> None:
    scale = ops.Scale(np.array(3 * UNIT), exact=True)
    assert scale.is_accurate
    assert scale.lipschitz(ops.Place((SHAPE,), SHAPE)) == 3 * UNIT


@pytest.mark.parametrize("units", [5, 9])
def test_a_layer_with_a_subnormal_factor_is_not_scaled_as_one_kernel(units: int) -> None:
    """A kernel entry of 1e200 times half a unit is more than the underflow that a scaled kernel counts."""
    scale, factor = half_of(units)
    size = 1e200
    upper = bound(chain(times_identity(size), scale), check=False).upper
    assert upper is not None
    assert factor * Fraction(size) <= Fraction(upper)
    assert math.isfinite(upper)


def times_identity(size: float) -> ops.Convolution:
    kernel = size * np.eye(2).reshape(2, 2, 1)
    return ops.Convolution(Layer("w", lambda: kernel, {"padding": 0, "padding_mode": "zeros"}, 1))
