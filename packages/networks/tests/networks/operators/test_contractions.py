"""Absolute values and adjoints of linear maps that are stated once are those of their matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from specnorm_networks import Layer
from specnorm_networks.certified import operators as ops

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(5, 4))
LAYER = Layer("w", lambda: KERNEL, {}, 0)
CASES: list[tuple[ops.Affine, list[tuple[int, ...]]]] = [
    (ops.Scale(RNG.normal(size=(3, 1, 1)), exact=True), [(1, 3, 2, 2)]),
    (ops.Scale(RNG.normal(size=(2, 3, 4)), exact=True), [(1, 4)]),
    (ops.Scale(RNG.normal(size=(1, 3)), exact=True), [(4, 1)]),
    (ops.Scale(np.asarray(-2.5), exact=True), [()]),
    (ops.Add((1.0, -2.0)), [(1, 3, 4), (3, 1)]),
    (ops.Add((1.0, -1.0, 3.0)), [(2,), (1, 2), ()]),
    (ops.Sum((2, 0)), [(2, 3, 4)]),
    (ops.Mean((1, 2), True), [(2, 3, 4)]),
    (ops.Mean((0,)), [(3,)]),
    (ops.Matrix(LAYER, alpha=-1.5), [(2, 3, 4)]),
    (ops.Matrix(LAYER, side="left"), [(2, 4, 3)]),
    (ops.AddedUp(np.array([0, 2, 2, 1]), (2, 3)), [(2, 2)]),
]  # fmt: skip


def truth(operator: Any, x: list[Any]) -> Any:
    """The value by its definition."""
    if isinstance(operator, ops.Scale):
        return x[0] * operator.values
    if isinstance(operator, ops.Add):
        return sum(w * each for w, each in zip(operator.weights, x, strict=True))
    if isinstance(operator, ops.Sum | ops.Mean):
        reduce = np.sum if isinstance(operator, ops.Sum) else np.mean
        return reduce(x[0], axis=operator.axes, keepdims=operator.keep)
    if isinstance(operator, ops.Matrix):
        return operator.alpha * (x[0] @ KERNEL.T if operator.side == "right" else KERNEL @ x[0])
    value = np.zeros(operator.target)
    np.add.at(value.reshape(-1), operator.at, x[0].ravel())
    return value


@pytest.mark.parametrize(("operator", "shapes"), CASES, ids=[type(operator).__name__ for operator, _ in CASES])
def test_they_follow_from_the_map(operator: ops.Affine, shapes: list[tuple[int, ...]]) -> None:
    linear = operator.linear_map(ops.Place(tuple(shapes)))
    assert linear is not None
    assert linear.shape is not None
    ends = np.cumsum([0, *map(math.prod, shapes)])
    units = np.eye(ends[-1])
    inputs = [
        units[:, a:b].reshape(-1, *shape) for a, b, shape in zip(ends[:-1], ends[1:], shapes, strict=True)
    ]  # fmt: skip
    columns = [np.ravel(truth(operator, [batch[i] for batch in inputs])) for i in range(len(units))]
    matrix = np.array(columns).T
    outputs = np.eye(len(matrix)).reshape(-1, *linear.shape)
    adjoint = np.concatenate([part.reshape(len(matrix), -1) for part in linear.back(outputs)], axis=1)
    for found, wanted in (
        (linear.apply(inputs).reshape(len(units), -1).T, matrix),
        (linear.absolute(inputs).reshape(len(units), -1).T, abs(matrix)),
        (adjoint, matrix),
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-15, atol=1e-15)
