"""What a network's constant says besides: x - f(x), averaged maps, differences of logits, certified accuracy."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers.assumptions import interval
from networks.written_networks import matrices
from specnorm_networks import Graph, Multipliers, Product, forward_step, margins
from specnorm_networks.certified import operators
from specnorm_networks.local.accuracy import CertifiedAccuracy
from specnorm_networks.local.margins import Margins
from specnorm_networks.tools import bound

relu_between = partial(matrices, function=operators.ReLU())
QUICK = Multipliers(steps=30)


def symmetric(*eigenvalues: float) -> Any:
    numbers = np.random.default_rng(0)
    q, _ = np.linalg.qr(numbers.normal(size=(len(eigenvalues),) * 2))
    return q @ np.diag(eigenvalues) @ q.T


def upper(graph: Graph) -> float:
    return float(bound(graph, method=QUICK).upper)


def test_averaged_maps() -> None:
    """(1 - a) I + a T with T nonexpansive: x - f(x) / (1 - a) is -a T(x) / (1 - a), and no better."""
    t = symmetric(1.0, -1.0, 0.3)
    f = 0.6 * np.eye(3) + 0.4 * t
    assert upper(forward_step(relu_between(f), 1 / 0.6)) == pytest.approx(0.4 / 0.6, rel=5e-3)
    assert upper(forward_step(relu_between(f), 1 / 0.8)) == pytest.approx(3 * 0.2 / 0.8, rel=1e-2)


def test_a_gradient_step_is_nonexpansive() -> None:
    """x - t W' relu(W x) with t |W|^2 <= 2: a gradient step of a convex function. The rules have 3."""
    w = np.random.default_rng(1).normal(size=(6, 4))
    w = w / np.linalg.norm(w, 2)
    found: Any = bound(forward_step(relu_between(w, w.T), 1.9), method=Multipliers(steps=200))
    assert 1 - 1e-9 <= found.upper <= 1.02
    assert found.product == pytest.approx(2.9, rel=1e-3)


@pytest.mark.parametrize("method", [Product(), QUICK])
def test_margins_hold_and_are_below_root_two(method: Any) -> None:
    """Against all masks of a small network; rows that are alike differ slowly."""
    numbers = np.random.default_rng(3)
    first = numbers.normal(size=(5, 4))
    second = numbers.normal(size=(3, 5))
    second[1] = second[0] + 0.1 * second[1]
    found = margins(relu_between(first, second), method=method)
    jacobians = [second @ (np.array(mask)[:, None] * first) for mask in itertools.product([0, 1], repeat=5)]
    for i, j in itertools.permutations(range(3), 2):
        reached = max(np.linalg.norm(m[i] - m[j]) for m in jacobians)
        assert reached * (1 - 1e-12) <= found.upper[i, j] <= math.sqrt(2) * found.whole * (1 + 1e-12)
    assert found.upper[0, 1] < 0.3 * found.upper[0, 2]


def test_radii_are_margins_over_constants() -> None:
    constants = np.array([[0.0, 2.0, 4.0], [2.0, 0.0, 1.0], [4.0, 1.0, 0.0]])
    known = Margins(interval(np.zeros((3, 3)), constants), 1.0)
    logits = np.array([[3.0, 1.0, -1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    found = known.radii(logits, np.array([0, 2, 0]))
    assert found[0] == pytest.approx(1.0)
    assert found[0] <= 1.0
    assert list(found[1:]) == [0.0, 0.0]
    asked = np.array([0, 0.5, 1.0])
    told = CertifiedAccuracy(asked, found, known, np.where(found > asked[:, None], "safe", "open"))
    assert told.accuracy == pytest.approx([1 / 3, 1 / 3, 0])
    assert str(told).splitlines()[1].split() == ["0", "33.33%"]
