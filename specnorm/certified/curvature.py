"""Rules of networks with one hidden layer: the curvature of a margin, and the radius in which it stays positive.

Numbers are arrays of the caller's library, so that the library differentiates and traces them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from specnorm import arrays
from specnorm.certified import arithmetic, host, rounding
from specnorm.certified.matrices import norms

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.types import Backend

SECOND_DERIVATIVE: dict[str, float] = {
    "sigmoid": host.sqrt_up(host.div_up(1.0, 108.0)),
    "tanh": host.sqrt_up(host.div_up(16.0, 27.0)),
    "softplus": 0.25,
}
"""Largest ``|phi''|`` of each activation, rounded up: 1 / (6 sqrt 3), 4 / (3 sqrt 3), 1 / 4."""


def number(x: Any, like: Array, rounds: Literal["up", "down"], *, backend: Backend) -> Array:
    """A number as a 0-d array in the precision of another array, rounded in a direction; below 0 it becomes 0."""
    xp = backend.namespace(like)
    if isinstance(x, (int, float)):
        narrow = np.float64 if like.dtype == xp.float64 else np.float32
        x = xp.full((), host.representable(float(x), narrow, rounds), dtype=like.dtype, device=backend.device(like))
    x = xp.maximum(x, xp.zeros_like(x))
    return x if x.dtype == like.dtype else rounding.to_dtype(x, like.dtype, rounds, xp=xp)


def curvature_up(rows: Array, norm: Any, second: float, *, backend: Backend) -> Array:
    """``second norm**2 max |difference|`` of two rows (2, hidden) of the last layer, rounded up."""
    xp = backend.namespace(rows)
    with arithmetic.exact(rows, backend=backend):
        largest = xp.max(xp.abs(rows[0, :] - rows[1, :]))
        sigma = number(norm, rows, "up", backend=backend)
        # The difference, the constant's conversion and three products.
        value = rounding.up(largest * sigma * sigma * second, 6, xp=xp)
        tiny = xp.full_like(largest, float(xp.finfo(rows.dtype).smallest_normal))
        # Products of small numbers may underflow.
        return xp.where((largest > 0) & (sigma > 0), xp.maximum(value, tiny), value)


def radius_down(margin: Any, gradient: Array, curvature: Any, *, backend: Backend) -> Array:
    """``(sqrt(|g|**2 + 2 M m) - |g|) / M``, rounded down, in the precision of a gradient (1, 1, n)."""
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
    """The radius, rounded down, for numbers of at least 0: ``m / ((g + sqrt(g**2 + 2 M m)) / 2)``.

    In this form nothing is lost to cancellation; the root is taken without squaring g or M m.
    """
    m, g, bend = _scaled_together(margin, slope, curvature, xp=xp)
    cross = rounding.up(xp.sqrt(bend) * xp.sqrt(m) * math.sqrt(2.0), 6, xp=xp)
    # sqrt(g**2 + cross**2)
    longer, shorter = xp.maximum(g, cross), xp.minimum(g, cross)
    ratio = shorter / xp.where(longer > 0, longer, xp.ones_like(longer))
    mean = rounding.up(g / 2 + longer / 2 * xp.sqrt(1 + ratio * ratio), 10, xp=xp)
    radius = rounding.down(m / xp.where(mean > 0, mean, xp.ones_like(mean)), 2, xp=xp)
    largest = xp.full_like(m, float(xp.finfo(m.dtype).max))
    of_a_constant = xp.where(m > 0, largest, xp.zeros_like(m))
    return rounding.to_dtype(xp.where(mean == 0, of_a_constant, radius), m.dtype, "down", xp=xp)


def _scaled_together(
    m: Array,
    g: Array,
    bend: Array,
    *,
    xp: Namespace,
) -> tuple[Array, Array, Array]:
    """The numbers times a common power of two, which changes no radius, if all are below 1.

    Without it, numbers near the smallest one lose their digits.
    """
    scaled, _ = arrays.scale(xp.reshape(xp.stack([m, g, bend]), (1, 3)), xp=xp)
    is_small = xp.maximum(xp.maximum(m, g), bend) < 1
    return (
        xp.where(is_small, scaled[0, 0], m),
        xp.where(is_small, scaled[0, 1], g),
        xp.where(is_small, scaled[0, 2], bend),
    )
