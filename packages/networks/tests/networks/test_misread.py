"""Claims about networks that were false, since a name, a shape or a rounding was read wrongly: graphs, no framework.

Truth is what inputs reach: dense matrices, and rational numbers where floats end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from networks.written_networks import matrices
from specnorm_networks import Graph, Node, forward_step
from specnorm_networks.certified import operators
from specnorm_networks.certified.kernels import scaling_error
from specnorm_networks.tools import Measure, bound

from specnorm.errors import MethodError
from specnorm.geometry.spec import ConvSpec

one_name = partial(matrices, name="w")


def upper(graph: Graph, measure: Measure | None = None) -> float:
    return float(bound(graph, measure).upper)


def test_one_measure_serves_two_networks() -> None:
    """Kernels of one name, shape and geometry: the second had the norm of the first. One may be written to."""
    measure = Measure()
    small = np.eye(4)
    large = 100 * np.eye(4)
    graph = one_name(small)
    assert 1 <= upper(graph, measure) < 1.01
    assert 100 <= upper(one_name(large), measure) < 101
    assert 100 <= upper(one_name(small, large), measure) < 101
    small *= 10
    assert 10 <= upper(graph, measure) < 10.1


def test_the_same_bits_in_another_precision_are_another_kernel() -> None:
    """Eight numbers of 32 bits are not four of 64, nor one shape another, nor a matrix its transpose by its bits."""
    measure = Measure()
    single = np.arange(1, 9, dtype=np.float32).reshape(2, 4)
    for matrix in (single, single.view(np.float64), single.reshape(4, 2), single.T):
        truth = float(np.linalg.norm(np.float64(matrix), 2))
        found = upper(one_name(matrix), measure)
        assert truth <= found * (1 + 1e-12)
        assert found <= truth * 1.01


@pytest.mark.parametrize("exponent", [-1000, -600, -500, 500, 900])
def test_the_error_of_folding_is_proportional_to_the_kernel(exponent: int) -> None:
    """It is a share of the kernel's norm, however small or large that is."""
    kernel = np.random.default_rng(0).normal(size=(3, 4, 3, 3))
    spec = ConvSpec.of(kernel.shape)
    moved = math.ldexp(scaling_error(np.ldexp(kernel, exponent), spec), -exponent)
    assert moved >= scaling_error(kernel, spec) * (1 - 1e-9)
    assert moved <= scaling_error(kernel, spec) * (1 + 1e-9) or exponent < -900


# -- names -----------------------------------------------------------------------------------------------------------
MATRIX = np.array([[3.0, 0.5], [0.0, 1.0]])
EYE = np.eye(2)
MADE: dict[str, tuple[Callable[[Graph], Graph], Any]] = {
    "step of a step": (lambda g: forward_step(forward_step(g, 0.5), 0.5), EYE - 0.5 * (EYE - 0.5 * MATRIX)),
    "step of a whole step": (lambda g: forward_step(forward_step(g), 0.5), EYE - 0.5 * (EYE - MATRIX)),
    "whole step of a step": (lambda g: forward_step(forward_step(g, 0.5)), 0.5 * MATRIX),
    "step of a step of a step": (
        lambda g: forward_step(forward_step(forward_step(g, 0.5), 0.25), 2.0),
        EYE - 2 * (EYE - 0.25 * (EYE - 0.5 * MATRIX)),
    ),
}
"""A network made of ``MATRIX``, and its own matrix."""


@pytest.mark.parametrize("name", MADE)
def test_the_bound_of_a_step_of_a_step_is_the_true_norm(name: str) -> None:
    """Names of their nodes met: 0.5 was claimed for a step of a step of 1.25, others ended in a KeyError."""
    make, matrix = MADE[name]
    truth = float(np.linalg.norm(matrix, 2))
    assert truth <= upper(make(one_name(MATRIX))) * (1 + 1e-9) <= truth * 1.01


def test_two_nodes_of_one_name_are_refused() -> None:
    nodes = one_name(MATRIX).nodes
    with pytest.raises(MethodError, match=r"Several nodes are called 'y0'; expected one name for each node"):
        Graph((*nodes, Node("y0", operators.ReLU(), ("y0",), (1, 2))), ("y0",))
