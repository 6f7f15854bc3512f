"""Robustness of a network with one hidden layer, from a bound on its first layer's norm: curvature and radius.

The activation between the two layers needs a bounded second derivative. The bound of the norm can come from any method.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from specnorm.backends import Backend, backend_for
from specnorm.backends.array_types import Array
from specnorm.backends.types import ArrayT
from specnorm.errors import KernelError, MethodError
from specnorm.geometry.spec import dtype_to_compute_in
from specnorm.robustness.proof import SECOND_DERIVATIVE, curvature_up, radius_down

__all__ = ["certified_radius", "curvature_bound"]

Activation = Literal["sigmoid", "tanh", "softplus"]

_WITH_KINKS = ("relu", "relu6", "leakyrelu", "prelu", "selu", "hardtanh", "hardsigmoid", "hardswish")
"""Activations without a bounded second derivative, for error messages."""


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
        An upper bound on ``||A||``, where A is the layer before the activation; from any method and for any geometry.
    last : array, shape (classes, hidden)
        Weights of the layer after the activation, with the hidden units flattened. If there is a linear map in between,
        such as average pooling, multiply it into ``last`` first.
    label, target : int
        Two different rows of ``last``.
    activation : {"sigmoid", "tanh", "softplus"} or float
        The activation, or ``max |phi''|`` of another one, which must be finite; it is not for ReLU.

    Returns
    -------
    0-d array of the library of ``last``
        Rounded up; differentiable with respect to ``norm`` and ``last`` where the library is. In float32 for half
        precision.

    Raises
    ------
    MethodError
        For an activation without a bounded second derivative, or a label or target that is not a row of ``last``.
    KernelError
        If ``last`` is not a matrix, or ``norm`` is NaN or negative.
    MixedBackends
        If the arrays are of different libraries or devices.

    Notes
    -----
    Equation (4) of [1]_ and the one after it, from lemma 1 and theorem 3 of [2]_. Our changes: any bound of the norm
    takes the place of ``sqrt(h w) ||R||``, and rounding errors are included.

    References
    ----------
    .. [1] Singla, Feizi, "Bounding Singular Values of Convolution Layers", arXiv:1911.10258v1, 2019.
    .. [2] Singla, Feizi, "Second-Order Provable Defenses against Adversarial Attacks", ICML 2020.
    """
    backend = backend_for(last, *([] if isinstance(norm, (int, float)) else [norm]))
    weights: Any = last
    xp = backend.namespace(weights)
    if weights.ndim != 2:
        raise KernelError(
            f"last has shape {tuple(weights.shape)}; expected (classes, hidden), the weights of the last layer."
        )
    classes: dict[str, Any] = {"label": label, "target": target}
    for word, index in classes.items():
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < weights.shape[0]:
            raise MethodError(f"{word}={index!r} is not a class: last has {weights.shape[0]} rows, counted from 0.")
    if label == target:
        raise MethodError(f"label and target are both {label}: the difference of a logit and itself has no curvature.")
    second_derivative = _second_derivative(activation)
    dtype = getattr(xp, dtype_to_compute_in(str(weights.dtype), tuple(weights.shape)))
    _check_number("norm", norm, backend)
    rows = xp.astype(xp.stack([weights[label, :], weights[target, :]]), dtype)
    bound: Any = curvature_up(rows, norm, second_derivative, backend=backend)
    curvature: ArrayT = bound
    return curvature


def certified_radius(margin: ArrayT | float, gradient: ArrayT, curvature: ArrayT | float) -> ArrayT:
    """Radius around a point within which a margin stays positive, from its gradient there and a bound on its curvature.

    By Taylor's theorem ``margin(x + d) >= m - ||g|| ||d|| - M ||d||**2 / 2``, which is positive while
    ``||d|| < r = (sqrt(||g||**2 + 2 M m) - ||g||) / M``; for M = 0, ``m / ||g||``.

    Parameters
    ----------
    margin : 0-d array, or float
        m, the margin at the point: ``z[label] - z[target]``.
    gradient : array, any shape
        g, the gradient of the margin with respect to the input.
    curvature : 0-d array, or float
        M, from `curvature_bound`; at least 0.

    Returns
    -------
    0-d array of the gradient's library
        Rounded down, detached; 0 if the margin is not positive. With several targets, the radius of a label is the
        smallest over the targets.

    Raises
    ------
    KernelError
        For NaN, or a negative curvature, where values are known.
    MixedBackends
        If the arrays are of different libraries or devices.

    Notes
    -----
    The rounding errors of this formula are included, but not those of the network that computed margin and gradient.
    The certificate is that of [1]_ without its improvement by an eigenvalue problem.

    References
    ----------
    .. [1] Singla, Feizi, "Second-Order Provable Defenses against Adversarial Attacks", ICML 2020.
    """
    backend = backend_for(gradient, *(x for x in (margin, curvature) if not isinstance(x, (int, float))))
    constant_gradient: Any = backend.detach(gradient)
    xp = backend.namespace(constant_gradient)
    dtype = getattr(xp, dtype_to_compute_in(str(constant_gradient.dtype), tuple(constant_gradient.shape)))
    constant_gradient = xp.reshape(xp.astype(constant_gradient, dtype), (1, 1, -1))
    _check_not_nan("gradient", constant_gradient, backend)
    _check_number("margin", margin, backend)
    _check_number("curvature", curvature, backend)
    constant_margin = margin if isinstance(margin, (int, float)) else backend.detach(margin)
    bound: Any = radius_down(constant_margin, constant_gradient, curvature, backend=backend)
    radius: ArrayT = bound
    return radius


def _second_derivative(activation: Any) -> float:
    """The bound of the second derivative that an argument ``activation`` names or is."""
    if isinstance(activation, str):
        if activation in SECOND_DERIVATIVE:
            return SECOND_DERIVATIVE[activation]
        names = ", ".join(map(repr, get_args(Activation)))
        if activation.lower().replace("_", "") in _WITH_KINKS:
            raise MethodError(
                f"activation={activation!r} has a kink, where its second derivative is not bounded: no curvature bound "
                f"exists. Use the margin over a Lipschitz constant of the network instead, or one of {names}."
            )
        raise MethodError(
            f"activation={activation!r} is not one of {names}. For another one, give the number max |phi''|."
        )
    if isinstance(activation, bool) or not isinstance(activation, (int, float)) or not 0 <= activation < math.inf:
        raise MethodError(
            f"activation={activation!r} is not a bound on a second derivative: give a finite number of at least 0. "
            "Without a bounded second derivative (ReLU) there is no curvature bound."
        )
    return float(activation)


def _check_number(name: str, x: Any, backend: Backend) -> None:
    """Refuse an argument that is not a single number, NaN, and (but for the margin) negative; tracers pass."""
    if not isinstance(x, (int, float)):
        if tuple(x.shape) != ():
            raise KernelError(f"{name} has shape {tuple(x.shape)}; expected one number.")
        _check_not_nan(name, x, backend)
        if backend.is_traced(x):
            return
    elif math.isnan(x):
        raise KernelError(f"{name} is not a number (NaN).")
    if name != "margin" and bool(x < 0):
        raise KernelError(f"{name}={float(x)!r} is negative: expected an upper bound.")


def _check_not_nan(name: str, x: Array, backend: Backend) -> None:
    """Refuse an array with NaN; tracers pass."""
    if not backend.is_traced(x):
        xp = backend.namespace(x)
        if bool(xp.any(xp.isnan(x))):
            raise KernelError(f"{name} is not a number (NaN).")
