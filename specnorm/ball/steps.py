"""A step of a kernel in the ball, with its rounding: the kernel as computed is in the ball again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from specnorm.backends import backend_for
from specnorm.backends.types import AnyArray


def update_in_ball(kernel: AnyArray, direction: AnyArray, rate: AnyArray, channels: Sequence[int]) -> AnyArray:
    """Return what to add to a kernel in the ball: it moves a part of the way to ``-direction``, and stays in the ball.

    Parameters
    ----------
    kernel : array
        In float32 or float64.
    direction : array
        From `lmo`, for the same ball. A kernel whose direction is zero stays where it is.
    rate : float or 0-d array
        Cut off at 0 and 1.
    channels : sequence of int
        The two sizes of the kernel's axes that are not spatial.
    """
    xp: Any = backend_for(kernel).namespace(kernel)
    rate = xp.clip(xp.asarray(rate, dtype=kernel.dtype), 0.0, 1.0)
    rate = xp.where(xp.any(direction != 0), rate, xp.zeros_like(rate))
    unit = float(xp.finfo(kernel.dtype).eps) / 2
    shrinkage = shrinkage_of_step(rate, math.prod(kernel.shape), channels, unit)
    rate = xp.minimum(rate, 1 - shrinkage)
    update = -(rate * (kernel + direction) + shrinkage * kernel)
    return xp.where(rate > 0, update, xp.zeros_like(update))


def shrinkage_of_step(rate: AnyArray, entries: int, channels: Sequence[int], unit: float) -> AnyArray:
    """Return the part by which a kernel is to be shrunk in a step, so that rounding does not take it out of the ball.

    Let K and D be kernels whose norms are at most the bound, a the rate, u the unit roundoff, and s what is returned.
    The update ``-(a (K + D) + s K)`` and its sum K' with K are off by at most ``u (|K'| + 4 a |K + D| + 3 s |K|)`` in
    each entry. The norm of the layer of ``|K|`` is at most ``c`` times the bound, where ``c**2`` is the number of taps
    times the larger number of channels: it is at most the root of the taps times the Frobenius norm, which is at most
    the root of the rank times the norm of the reshaped kernel, which is at most the layer's. So the norm of all errors
    is at most ``u c (1 + 8 a + 3 s)`` times the bound, which is below s, and ``(1 - a - s) K - a D`` as rounded is
    within the bound, if ``a + s <= 1``.

    Parameters
    ----------
    rate : float or 0-d array
        From 0 to 1.
    entries : int
        Of the kernel.
    channels : sequence of int
        As of `update_in_ball`.
    unit : float
        Unit roundoff of the kernel's dtype.
    """
    largest_factor = math.sqrt(entries / min(channels))
    return 2 * unit * largest_factor * (1 + 8 * rate)
