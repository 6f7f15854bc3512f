"""Rules for networks with one hidden layer: the curvature of a margin, and a radius in which the margin stays positive.

The margin is the difference of two outputs (logits), as a function of the input; its curvature M is a bound of the norm
of its Hessian. Rules compute with arrays of the caller's library, so that it can differentiate and trace them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs import arithmetic, host, norms, rounding

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import Backend

SECOND_DERIVATIVE: dict[str, float] = {
    "sigmoid": host.sqrt_up(host.div_up(1.0, 108.0)),
    "tanh": host.sqrt_up(host.div_up(16.0, 27.0)),
    "softplus": 0.25,
}
"""Largest ``|phi''|`` of each activation, rounded up: 1 / (6 sqrt 3), 4 / (3 sqrt 3), 1 / 4."""


def number(x: Any, like: Array, rounds: Literal["up", "down"], *, backend: Backend) -> Array:
    """Convert a float or 0-d array to a 0-d array of like's dtype, rounded up or down; negative numbers become 0."""
    xp = backend.namespace(like)
    if isinstance(x, (int, float)):
        narrow = np.float64 if like.dtype == xp.float64 else np.float32
        x = xp.full((), host.representable(float(x), narrow, rounds), dtype=like.dtype, device=backend.device(like))
    x = xp.maximum(x, xp.zeros_like(x))
    return x if x.dtype == like.dtype else rounding.to_dtype(x, like.dtype, rounds, xp=xp)


def curvature_up(rows: Array, norm: Any, second_derivative: float, *, backend: Backend) -> Array:
    """Bound the curvature of a margin by ``second_derivative * norm**2 * max |row difference|``, rounded up.

    Parameters
    ----------
    rows : array, shape (2, hidden)
        The rows of the last layer's matrix that belong to the two outputs.
    norm : number
        Upper bound of the first layer's spectral norm.
    second_derivative : float
        Of the activation, from `SECOND_DERIVATIVE`.

    Returns
    -------
    array, shape ()
    """
    xp = backend.namespace(rows)
    with arithmetic.exact(rows, backend=backend):
        largest_difference = xp.max(xp.abs(rows[0, :] - rows[1, :]))
        sigma = number(norm, rows, "up", backend=backend)
        # Six roundings: the difference, the conversion of the constant, three products, and one to spare.
        value = rounding.up(largest_difference * sigma * sigma * second_derivative, 6, xp=xp)
        tiny = xp.full_like(largest_difference, float(xp.finfo(rows.dtype).smallest_normal))
        # Products of small numbers may underflow.
        return xp.where((largest_difference > 0) & (sigma > 0), xp.maximum(value, tiny), value)


def radius_down(margin: Any, gradient: Array, curvature: Any, *, backend: Backend) -> Array:
    """Radius in which a margin m stays positive, ``(sqrt(|g|**2 + 2 M m) - |g|) / M``, rounded down.

    Parameters
    ----------
    margin : number
        m: the margin at the input.
    gradient : array, shape (1, 1, n)
        g: gradient of the margin at the input, whose dtype the result has.
    curvature : number
        M, from `curvature_up`.

    Returns
    -------
    array, shape ()
    """
    xp = backend.namespace(gradient)
    with arithmetic.exact(gradient, backend=backend):
        scaled, exponent = arrays.scale(gradient, xp=xp)
        length = arrays.unscale(norms.frobenius_up(scaled, xp=xp), exponent, xp=xp)[0, ...]
        return _radius(
            number(margin, gradient, "down", backend=backend),
            rounding.to_dtype(length, gradient.dtype, "up", xp=xp),
            number(curvature, gradient, "up", backend=backend),
            xp=xp,
        )


def _radius(margin: Array, slope: Array, curvature: Array, *, xp: Namespace) -> Array:
    """The radius of `radius_down` as ``m / ((g + sqrt(g**2 + 2 M m)) / 2)``, for non-negative m, g = slope and M.

    This form has no cancellation. The root is taken without squaring g, or multiplying M by m, which may overflow.
    """
    m, g, big_m = _scaled_together(margin, slope, curvature, xp=xp)
    cross = rounding.up(xp.sqrt(big_m) * xp.sqrt(m) * math.sqrt(2.0), 6, xp=xp)
    # sqrt(g**2 + cross**2)
    longer = xp.maximum(g, cross)
    shorter = xp.minimum(g, cross)
    ratio = shorter / xp.where(longer > 0, longer, xp.ones_like(longer))
    mean = rounding.up(g / 2 + longer / 2 * xp.sqrt(1 + ratio * ratio), 10, xp=xp)
    radius = rounding.down(m / xp.where(mean > 0, mean, xp.ones_like(mean)), 2, xp=xp)
    largest = xp.full_like(m, float(xp.finfo(m.dtype).max))
    # Without slope and curvature the margin is constant.
    radius_of_constant = xp.where(m > 0, largest, xp.zeros_like(m))
    return rounding.to_dtype(xp.where(mean == 0, radius_of_constant, radius), m.dtype, "down", xp=xp)


def _scaled_together(
    m: Array,
    g: Array,
    big_m: Array,
    *,
    xp: Namespace,
) -> tuple[Array, Array, Array]:
    """m, g and M, multiplied by a common power of two if all are below 1.

    The radius does not change by a common factor, but tiny numbers would lose digits to underflow.
    """
    scaled, _ = arrays.scale(xp.reshape(xp.stack([m, g, big_m]), (1, 3)), xp=xp)
    is_small = xp.maximum(xp.maximum(m, g), big_m) < 1
    return (
        xp.where(is_small, scaled[0, 0], m),
        xp.where(is_small, scaled[0, 1], g),
        xp.where(is_small, scaled[0, 2], big_m),
    )
