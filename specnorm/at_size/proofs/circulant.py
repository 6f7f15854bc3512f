"""Bound a zero-padded layer at one size by a circulant: a periodic convolution of which the layer is a submatrix.

On a circulant of N pixels, the pixel after the last one is the first one. A *skew* circulant also multiplies by -1 what
is read across that end. Along an axis with n pixels, m' outputs and k taps, tap t of output m reads the pixel
``s m + r t - p`` (stride s, dilation r, padding p in front). Put the layer's pixels on the positions 0 to n - 1 of the
circulant, and let

* ``N >= n``: different pixels stay different;
* ``N >= s m'``: different outputs stay different;
* ``N >= n + p``: a read at v < 0 comes round to ``N + v >= n``, where the layer has no pixel;
* ``N >= s (m' - 1) + r (k - 1) - p + 1``: a read at n or beyond stays below N.

Then the submatrix of the circulant with the layer's pixels as columns and its outputs as rows is the layer (a
*compression*), and no entry of it was read across the end. Its norm is no larger than the circulant's, skew or not.

The kernel's *blocks* are the kernel rearranged so that stride and dilation are 1 (`geometry.polyphase`). If ``lcm(s,
r)`` divides N, the circulant is a direct sum of circulants of the blocks, with ``M = N / lcm(s, r)`` points each. Its
norm is the largest norm of the blocks' symbols at the frequencies ``2 pi j / M``, or ``2 pi (j + 1/2) / M`` if it is
skew.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm.backends import arrays
from specnorm.proofs.bound import HypothesisError, Upper
from specnorm.proofs.cells import Circulant

if TYPE_CHECKING:
    from specnorm.geometry.spec import ConvSpec
    from specnorm.geometry.taps import Axis


def shortest(spec: ConvSpec) -> tuple[int, ...]:
    """Smallest number M of points along each axis of a circulant that contains the layer; larger ones contain it too.

    ``spec``: the layer's geometry. It has an ``input_shape`` and satisfies `ConvSpec.reads_zeros`.
    """
    return tuple(_fewest_points(axis) for axis in spec.axes)


def _fewest_points(axis: Axis) -> int:
    last_read = axis.stride * (axis.outputs - 1) + axis.dilation * (axis.taps - 1) - axis.before
    least_size = max(axis.pixels, axis.pixels + axis.before, last_read + 1, axis.stride * axis.outputs)
    return arrays.ceil_div(least_size, math.lcm(axis.stride, axis.dilation))


def is_long_enough(spec: ConvSpec, circulant: Circulant) -> bool:
    """Whether the layer is a compression of a circulant. 0 points (along an axis with one tap) stand for any number."""
    if not spec.reads_zeros:
        return False
    return all(n == 0 or n >= least for n, least in zip(circulant.points, shortest(spec), strict=True))


def norm_by_circulant(norm: Upper, spec: ConvSpec) -> Upper:
    """Bound the norm of a zero-padded layer by that of a circulant of which the layer is a compression.

    ``norm``: bound of the norm of the blocks' symbols at a circulant's frequencies: its subject (``what``) is the
    circulant. ``spec``: the layer's geometry, which has an ``input_shape``. Raises `HypothesisError` if the circulant
    is too short, or the layer reads other than zeros.
    """
    if not isinstance(norm.what, Circulant) or not is_long_enough(spec, norm.what):
        raise HypothesisError(f"the layer is no compression of this: {norm.what}, not {shortest(spec)} points")
    return Upper._by_rule(norm.value, spec, "compression of a circulant", norm)
