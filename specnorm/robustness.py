"""What a bound of the norm certifies about a network with one hidden layer: its curvature, and a radius for a label.

Between the two layers stands an activation with a bounded second derivative. Nothing here measures a layer: the norm
comes from any of the bounds.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np

from specnorm import arrays
from specnorm.backends import Backend, common_backend
from specnorm.certified import arithmetic, host, rounding
from specnorm.certified.matrices import norms
from specnorm.errors import KernelError, MethodError
from specnorm.problem.spec import check_dtype
from specnorm.types import Array, ArrayT, Namespace

Activation = Literal["sigmoid", "tanh", "softplus"]

SECOND_DERIVATIVE: dict[str, float] = {
    "sigmoid": host.sqrt_up(host.div_up(1.0, 108.0)),
    "tanh": host.sqrt_up(host.div_up(16.0, 27.0)),
    "softplus": 0.25,
}
"""Largest ``|phi''|`` of each activation, rounded up: 1 / (6 sqrt 3), 4 / (3 sqrt 3), 1 / 4."""
_KINKED = ("relu", "relu6", "leakyrelu", "prelu", "selu", "hardtanh", "hardsigmoid", "hardswish")


def curvature_bound(
    norm: ArrayT | float, last: ArrayT, label: int, target: int, *, activation: Activation | float
) -> ArrayT:
    """Bound the curvature of the difference of two logits of a network with *one hidden layer*.

    For ``z(x) = last @ phi(A x + bias) + bias2`` and every x, the Hessian of ``z[label] - z[target]`` has spectral norm
    at most ``b norm**2 max_j |last[label, j] - last[target, j]|``, with ``b = max |phi''|``. A deeper network has no
    such bound.

    Parameters
    ----------
    norm : 0-d array, or float
        An upper bound of ``||A||``, the layer before the activation: any of the bounds, at any geometry.
    last : array, shape (classes, hidden)
        Weights of the layer after the activation, the hidden units flattened. A linear map in between (a pooling by
        means, say) is to be multiplied into it first.
    label, target : int
        Rows of ``last``; different.
    activation : {"sigmoid", "tanh", "softplus"} or float
        The activation, or ``max |phi''|`` of another one. There is none for ReLU and others with a kink.

    Returns
    -------
    0-d array of the library of ``last``
        Rounded up; differentiable in ``norm`` and ``last`` where the library is. In float32 for half precision.

    Raises
    ------
    MethodError
        For an activation without a bounded second derivative, or a class that is none.
    KernelError
        If ``last`` is no matrix, or ``norm`` no finite norm.
    MixedBackends

    Notes
    -----
    Equation (4) of [1]_ and the one after it, from lemma 1 and theorem 3 of [2]_. Ours: any bound of the norm instead
    of ``sqrt(h w) ||R||``, and rounding is counted.

    References
    ----------
    .. [1] Singla, Feizi, "Bounding Singular Values of Convolution Layers", arXiv:1911.10258v1, 2019.
    .. [2] Singla, Feizi, "Second-Order Provable Defenses against Adversarial Attacks", ICML 2020.
    """
    backend = common_backend([last] if isinstance(norm, (int, float)) else [last, norm])
    weights: Any = last
    xp = backend.namespace(weights)
    if weights.ndim != 2:
        raise KernelError(
            f"last has shape {tuple(weights.shape)}; expected (classes, hidden), the weights of the last layer."
        )
    rows: dict[str, Any] = {"label": label, "target": target}
    for word, index in rows.items():
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < weights.shape[0]:
            raise MethodError(f"{word}={index!r} is no class: last has {weights.shape[0]} rows, counted from 0.")
    if label == target:
        raise MethodError(f"label and target are both {label}: the difference of a logit and itself has no curvature.")
    curvature = _second_derivative(activation)
    dtype = getattr(xp, check_dtype(str(weights.dtype), tuple(weights.shape)))
    with arithmetic.exact(weights, backend=backend):
        weights = xp.astype(weights, dtype)
        largest = xp.max(xp.abs(weights[label, :] - weights[target, :]))
        sigma = _number("norm", norm, weights, "up", backend)
        # The difference, the constant's conversion and three products.
        value = rounding.up(largest * sigma * sigma * curvature, 6, xp=xp)
        tiny = xp.full_like(largest, float(xp.finfo(dtype).smallest_normal))
        # Products of small numbers may underflow.
        bound: Any = xp.where((largest > 0) & (sigma > 0), xp.maximum(value, tiny), value)
    found: ArrayT = bound
    return found


def certified_radius(margin: ArrayT | float, gradient: ArrayT, curvature: ArrayT | float) -> ArrayT:
    """Radius around a point within which a margin stays positive, from its gradient there and a bound of its curvature.

    By Taylor's theorem ``margin(x + d) >= m - ||g|| ||d|| - M ||d||**2 / 2``, which is positive while
    ``||d|| < r = (sqrt(||g||**2 + 2 M m) - ||g||) / M``; for M = 0, ``m / ||g||``.

    Parameters
    ----------
    margin : 0-d array, or float
        m, the margin at the point: ``z[label] - z[target]``. 0 or less certifies nothing.
    gradient : array, any shape
        g, the margin's gradient with respect to the input.
    curvature : 0-d array, or float
        M, from `curvature_bound`; at least 0.

    Returns
    -------
    0-d array of the gradient's library
        Rounded down, detached; 0 where the margin is not positive. For several targets take the smallest.

    Raises
    ------
    KernelError
        For NaN, or a negative curvature, where values are known.
    MixedBackends

    Notes
    -----
    The rounding of this formula is counted, that of the network which computed margin and gradient is not. The
    certificate is the one of [1]_, before its improvement by an eigenvalue problem.

    References
    ----------
    .. [1] Singla, Feizi, "Second-Order Provable Defenses against Adversarial Attacks", ICML 2020.
    """
    backend = common_backend([gradient, *(x for x in (margin, curvature) if not isinstance(x, (int, float)))])
    slope: Any = backend.detach(gradient)
    xp = backend.namespace(slope)
    dtype = getattr(xp, check_dtype(str(slope.dtype), tuple(slope.shape)))
    with arithmetic.exact(slope, backend=backend):
        slope = xp.reshape(xp.astype(slope, dtype), (1, 1, -1))
        _known("gradient", slope, backend)
        scaled, exponent = arrays.scale(slope, xp=xp)
        length = arrays.unscale(norms.frobenius_up(scaled, xp=xp), exponent, xp=xp)[0, ...]
        length = rounding.to_dtype(length, dtype, "up", xp=xp)
        m = _number("margin", margin, slope, "down", backend)
        bend = _number("curvature", curvature, slope, "up", backend)
        radius: Any = _radius(m, length, bend, xp=xp)
    found: ArrayT = radius
    return found


def _radius(m: Array, length: Array, bend: Array, *, xp: Namespace) -> Array:
    """The radius of `certified_radius`, rounded down, for numbers of at least 0."""
    # A common power of two changes no radius; without it, numbers near the smallest one lose their digits below.
    together, _ = arrays.scale(xp.reshape(xp.stack([m, length, bend]), (1, 3)), xp=xp)
    small = xp.maximum(xp.maximum(m, length), bend) < 1
    m, length, bend = (xp.where(small, together[0, j], x) for j, x in enumerate((m, length, bend)))
    # r = m / ((g + sqrt(g**2 + 2 M m)) / 2) loses nothing to cancellation; the root is taken without squaring g or M m.
    cross = rounding.up(xp.sqrt(bend) * xp.sqrt(m) * math.sqrt(2.0), 6, xp=xp)
    long, short = xp.maximum(length, cross), xp.minimum(length, cross)
    share = short / xp.where(long > 0, long, xp.ones_like(long))
    half = rounding.up(length / 2 + long / 2 * xp.sqrt(1 + share * share), 10, xp=xp)
    radius = rounding.down(m / xp.where(half > 0, half, xp.ones_like(half)), 2, xp=xp)
    infinite = xp.where(m > 0, xp.full_like(m, float(xp.finfo(m.dtype).max)), xp.zeros_like(m))
    return rounding.to_dtype(xp.where(half == 0, infinite, radius), m.dtype, "down", xp=xp)


def _second_derivative(activation: Any) -> float:
    if isinstance(activation, str):
        if activation in SECOND_DERIVATIVE:
            return SECOND_DERIVATIVE[activation]
        known = ", ".join(map(repr, get_args(Activation)))
        if activation.lower().replace("_", "") in _KINKED:
            raise MethodError(
                f"activation={activation!r} has a kink, where its second derivative is not bounded: no curvature bound "
                f"exists. Use the margin over a Lipschitz constant of the network instead, or one of {known}."
            )
        raise MethodError(
            f"activation={activation!r} is not one of {known}. Of another one give the number max |phi''|."
        )
    if isinstance(activation, bool) or not isinstance(activation, (int, float)) or not 0 <= activation < math.inf:
        raise MethodError(
            f"activation={activation!r} is no bound of a second derivative: give a finite number of at least 0. "
            "Without a bounded second derivative (ReLU) there is no curvature bound."
        )
    return float(activation)


def _number(name: str, x: Any, like: Array, rounds: Literal["up", "down"], backend: Backend) -> Array:
    """A number as a 0-d array in the precision of another array, rounded; a margin below 0 becomes 0."""
    xp = backend.namespace(like)
    if isinstance(x, (int, float)):
        narrow = np.float64 if like.dtype == xp.float64 else np.float32
        x = xp.full((), host.representable(float(x), narrow, rounds), dtype=like.dtype, device=backend.device(like))
    elif tuple(x.shape) != ():
        raise KernelError(f"{name} has shape {tuple(x.shape)}; expected one number.")
    elif rounds == "down":
        x = backend.detach(x)
    _known(name, x, backend)
    if name != "margin" and not backend.is_traced(x) and bool(x < 0):
        raise KernelError(f"{name}={float(x)!r} is negative: expected an upper bound.")
    x = xp.maximum(x, xp.zeros_like(x))
    return x if x.dtype == like.dtype else rounding.to_dtype(x, like.dtype, rounds, xp=xp)


def _known(name: str, x: Array, backend: Backend) -> None:
    """Refuse NaN where values are known."""
    if not backend.is_traced(x):
        xp = backend.namespace(x)
        if bool(xp.any(xp.isnan(x))):
            raise KernelError(f"{name} is not a number (NaN).")
