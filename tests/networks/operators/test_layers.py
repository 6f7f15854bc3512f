"""Layers against dense matrices written out by loops."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import oracle
import pytest
from networks.operators.dense import check_linear
from specnorm_networks.certified.operators import Convolution, Layer, Matrices, Matrix, NotRunError, Place


def bias_of(values: Any) -> Any:
    return lambda: (values, np.zeros_like(values))


@pytest.mark.parametrize("seed", range(40))
def test_convolutions_at_random(seed: int) -> None:
    d, rng = random.Random(seed), np.random.default_rng(seed)
    ndim, transposed = d.choice([1, 1, 2]), d.random() < 0.4
    groups, samples = d.choice([1, 1, 2]), d.choice([1, 2])
    first, second = groups * d.randint(1, 2), d.randint(1, 2)
    kernel = rng.normal(size=(first, second, *(d.randint(1, 3) for _ in range(ndim))))
    sizes = tuple(d.randint(5, 7) if ndim == 1 else d.randint(3, 5) for _ in range(ndim))
    mode = "zeros" if transposed else d.choice(["zeros", "reflect", "replicate", "circular"])
    pads: Any = d.choice(["same", [(d.randint(0, 2), d.randint(0, 2)) for _ in range(ndim)]])
    if transposed:
        pads = [(d.randint(0, n - 1), d.randint(0, n - 1)) if n > 2 else (0, 0) for n in kernel.shape[2:]]
    geometry = {
        "stride": tuple(d.randint(1, 3) for _ in range(ndim)), "dilation": tuple(d.randint(1, 2) for _ in range(ndim)),
        "groups": groups, "transposed": transposed, "padding_mode": mode, "padding": pads,
    }  # fmt: skip
    try:
        dense = oracle.dense_matrix(kernel, sizes, **geometry)
    except ValueError:
        return
    cin, cout = (first, second * groups) if transposed else (second * groups, first)
    extra = tuple(d.choice([0, 0, 1]) for _ in range(ndim)) if transposed else ()
    bias = rng.normal(size=(cout, *(1,) * ndim)) if d.random() < 0.5 else None
    pairs = oracle.padding_pairs(pads, kernel.shape[2:], geometry["dilation"])
    steps = zip(sizes, geometry["stride"], geometry["dilation"], kernel.shape[2:], pairs, strict=True)
    after = oracle.output_shape(kernel.shape[2:], sizes, geometry["stride"], geometry["dilation"], pairs)
    if transposed:
        after = tuple((n - 1) * s - a - b + r * (k - 1) + 1 for n, s, r, k, (a, b) in steps)

    def define(x: Any) -> Any:
        y = (x.reshape(len(x), -1) @ dense.T).reshape(len(x), cout, *after)
        y = np.pad(y, [(0, 0), (0, 0), *((0, more) for more in extra or (0,) * ndim)])
        return y if bias is None else y + bias

    layer = Layer("w", lambda: kernel, geometry, ndim)
    operator = Convolution(layer, None if bias is None else bias_of(bias), extra)
    check_linear(operator, define, (samples, cin, *sizes), tight=None)
    assert operator.linear_map(Place(((1, cin + 1, *sizes),))) is None
    assert operator.linear_map(Place(((cin, *sizes),))) is None


def test_circular_padding_and_a_stride_that_does_not_divide_are_run() -> None:
    kernel = np.random.default_rng(0).normal(size=(2, 3, 3))
    operator = Convolution(Layer("w", lambda: kernel, {"stride": 2, "padding_mode": "circular"}, 1))
    dense = oracle.dense_matrix(kernel, 7, stride=2, padding_mode="circular", padding="same")
    check_linear(operator, lambda x: (dense @ x.reshape(-1)).reshape(1, 2, 4), (1, 3, 7), tight=None)


def test_layers_that_do_not_fit_are_not_run() -> None:
    kernel = np.ones((1, 1, 3))
    reflects = Convolution(Layer("w", lambda: kernel, {"padding_mode": "reflect", "padding": 3}, 1))
    with pytest.raises(NotRunError, match="no map"):
        reflects.run(np.zeros((1, 1, 3)))
    of_nothing = Convolution(Layer("w", lambda: kernel * np.nan, {}, 1))
    with pytest.raises(NotRunError):
        of_nothing.run(np.zeros((1, 1, 5)))
    sizes = Convolution(Layer("w", lambda: kernel, {}, 1), sized=False)
    with pytest.raises(NotRunError):
        sizes.run(np.zeros((1, 1, 5)))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("alpha", [1.0, -0.3])
def test_products_with_a_matrix(turned: bool, side: Any, alpha: float) -> None:
    rng = np.random.default_rng(1)
    k = rng.normal(size=(4, 3)).astype(np.float32)
    bias = rng.normal(size=(4,) if side == "right" else (4, 1))
    layer = Layer("w", lambda: k.T if turned else k, {}, 0, turned)
    operator = Matrix(layer, bias_of(bias), alpha, side)
    exact = k.astype(np.float64)
    if side == "right":
        check_linear(operator, lambda x: alpha * np.einsum("...i,oi->...o", x, exact) + bias, (2, 5, 3), tight=None)
        check_linear(operator, lambda x: alpha * exact @ x + bias, (3,), tight=None)
    else:
        check_linear(operator, lambda x: alpha * np.einsum("...ij,oi->...oj", x, exact) + bias, (2, 3, 2), tight=None)
        assert operator.linear_map(Place(((3,),))) is None
    assert operator.linear_map(Place(((2, 5, 4),))) is None


def test_a_matrix_that_is_off_is_no_map() -> None:
    eye = np.eye(2)
    assert Matrix(Layer("w", lambda: eye, {}, 0, error=lambda: eye)).linear_map(Place(((1, 2),))) is None
    assert Matrix(Layer("w", lambda: np.full((2, 2), np.inf), {}, 0)).linear_map(Place(((1, 2),))) is None


def test_stacks_of_matrices_run() -> None:
    rng = np.random.default_rng(2)
    a, x = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 4))
    operator = Matrices(Layer("w", lambda: a, {}, 0), "bij,bij->bi", lambda: a)
    expected = (a * x).sum(axis=-1)
    found = operator.run(x)
    assert (abs(found - expected) <= operator.rounding([x], found, 2.0**-53)).all()
    single = np.einsum("bij,bij->bi", a.astype(np.float32), x.astype(np.float32))
    assert (abs(found - single) <= operator.rounding([x], found, 2.0**-24)).all()
    with pytest.raises(NotRunError):
        operator.run(x[:, :2])
