"""A lower bound of a layer's norm from a sum of plane waves, at a cost that does not depend on the number of pixels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm.certified import host, rounding
from specnorm.certified.bound import Lower, _lower

if TYPE_CHECKING:
    from specnorm.certified.layer.waves import Waves
    from specnorm.types import Array, ArrayOps


def norm_by_waves(waves: Waves, a: Array, *, ops: ArrayOps) -> Lower:
    """`quotient_of_waves_down`, which bounds the layer."""
    return _lower(quotient_of_waves_down(waves, a, ops=ops), waves.spec, "quotient of a sum of plane waves")


def quotient_of_waves_down(waves: Waves, a: Array, *, ops: ArrayOps) -> float:
    """``||A x|| / ||x||`` of a sum of waves, rounded down: at most the norm of the layer.

    Both squares are sums of products, each off by at most ``sqrt(2) gamma(2 n)`` times the same sum of magnitudes.

    Parameters
    ----------
    a : array, shape (1, count, second)
        Its channels; any.
    """
    xp = ops.xp
    u = rounding.unit(a, xp=xp)
    share = math.sqrt(2) * rounding.gamma(2 * waves.roundings, u)
    magnitude, size = waves.magnitude(), xp.abs(a)
    squares = []
    for found, total in ((waves.image_inner(a), magnitude.image_inner(size)), (waves.inner(a), magnitude.inner(size))):
        square = float(xp.real(found)[0, 0])
        lost = host.inflate(float(xp.real(total)[0, 0]) * rounding.SLACK * share / (1 - share), 4)
        squares.append((square, lost))
    (image, lost), (length, more) = squares
    above, below = host.sub_down(image, lost), host.add_up(length, more)
    if not (above > 0 and 0 < below < math.inf):
        return 0.0
    return host.sqrt_down(host.div_down(above, below))
