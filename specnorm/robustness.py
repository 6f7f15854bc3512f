"""What a bound of the norm certifies about a network with one hidden layer: its curvature, and a radius for a label.

Between the two layers stands an activation with a bounded second derivative. Nothing here measures a layer: the norm
comes from any of the bounds.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from specnorm.array_types import Array
from specnorm.backends import Backend, common_backend
from specnorm.certified.curvature import SECOND_DERIVATIVE, curvature_up, radius_down
from specnorm.errors import KernelError, MethodError
from specnorm.problem.spec import check_dtype
from specnorm.types import ArrayT

__all__ = ["certified_radius", "curvature_bound"]

Activation = Literal["sigmoid", "tanh", "softplus"]

_KINKED = ("relu", "relu6", "leakyrelu", "prelu", "selu", "hardtanh", "hardsigmoid", "hardswish")


def curvature_bound(
    norm: ArrayT | float,
    last: ArrayT,
    label: int,
    target: int,
    *,
    activation: Activation | float,
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
    _check_number("norm", norm, backend)
    rows_of = xp.astype(xp.stack([weights[label, :], weights[target, :]]), dtype)
    bound: Any = curvature_up(rows_of, norm, curvature, backend=backend)
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
    slope = xp.reshape(xp.astype(slope, dtype), (1, 1, -1))
    _known("gradient", slope, backend)
    _check_number("margin", margin, backend)
    _check_number("curvature", curvature, backend)
    m = margin if isinstance(margin, (int, float)) else backend.detach(margin)
    radius: Any = radius_down(m, slope, curvature, backend=backend)
    found: ArrayT = radius
    return found


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


def _check_number(name: str, x: Any, backend: Backend) -> None:
    """Refuse what is not one number, NaN, and a bound below 0, where values are known."""
    if not isinstance(x, (int, float)):
        if tuple(x.shape) != ():
            raise KernelError(f"{name} has shape {tuple(x.shape)}; expected one number.")
        _known(name, x, backend)
        if backend.is_traced(x):
            return
    elif math.isnan(x):
        raise KernelError(f"{name} is not a number (NaN).")
    if name != "margin" and bool(x < 0):
        raise KernelError(f"{name}={float(x)!r} is negative: expected an upper bound.")


def _known(name: str, x: Array, backend: Backend) -> None:
    """Refuse NaN where values are known."""
    if not backend.is_traced(x):
        xp = backend.namespace(x)
        if bool(xp.any(xp.isnan(x))):
            raise KernelError(f"{name} is not a number (NaN).")
