"""Circulants that a zero-padded layer at one size is a part of: periodic convolutions, whose norms bound its own.

A circulant of N pixels closes an axis; a *skew* one multiplies by -1 where a read passes its end. Let the layer read
the pixels ``s m + r t - p`` of an axis of n (outputs m < m', taps t < k, stride s, dilation r, padding p in front), and
lay the n pixels on the circulant from 0 on. If

    N >= n + p,    N >= s (m' - 1) + r (k - 1) - p + 1,    N >= n,    N >= s m',

then a read below 0 comes round to ``N + v >= n``, one at n or beyond stays below N, and no two outputs are the same:
the entries of the circulant between the layer's pixels and its outputs are the layer's, none of which passes the end.
The layer is a compression of the circulant, whatever the factor that passing the end multiplies by: its norm is no
larger.

With ``lcm(s, r)`` a divisor of N the circulant is as many smaller ones of the kernel's blocks (`problem.polyphase`),
each of ``M = N / lcm(s, r)`` points. Its norm is the largest one of their symbols at ``2 pi j / M``, or at ``2 pi (j +
1/2) / M`` if it is skew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specnorm.certified import host
from specnorm.certified.bound import EVERYWHERE, HypothesisError, Upper, _upper
from specnorm.certified.symbol.cells import Circulant
from specnorm.problem.taps import sizes_of

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec


@dataclass(frozen=True)
class Embedding:
    """Sizes of a circulant in points of the blocks, and whether it is skew, per axis."""

    points: tuple[int, ...]
    skew: tuple[bool, ...]


def reads_zeros(spec: ConvSpec) -> bool:
    """Whether whatever the layer reads beyond its input is zero, or it reads nothing there."""
    return spec.padding_mode == "zeros" or all(max(pads) <= 0 for pads in spec.padding)


def shortest(spec: ConvSpec) -> tuple[int, ...]:
    """Fewest points an axis of a circulant that the layer is a compression of; every larger number will do as well.

    Parameters
    ----------
    spec : ConvSpec
        With ``input_shape``; `reads_zeros`.
    """
    large, small = sizes_of(spec)
    axes = zip(large, small, spec.kernel_shape, spec.stride, spec.dilation, spec.padding, strict=True)
    return tuple(_points(*axis) for axis in axes)


def _points(
    n: int,
    outputs: int,
    k: int,
    stride: int,
    dilation: int,
    pads: tuple[int, int],
) -> int:
    before = pads[0]
    last_read = stride * (outputs - 1) + dilation * (k - 1) - before
    pixels = max(n, n + before, last_read + 1, stride * outputs)
    return -(-pixels // math.lcm(stride, dilation))


def is_long_enough(spec: ConvSpec, circulant: Circulant) -> bool:
    """Whether the layer is a compression of a circulant: whether no read that passes its end meets the layer."""
    pairs = zip(circulant.points, shortest(spec), strict=True)
    return reads_zeros(spec) and all(n == 0 or n >= least for n, least in pairs)


def norm_by_circulant(spec: ConvSpec, norm: Upper) -> Upper:
    """A zero-padded layer is a compression of every circulant that is long enough: its norm is no larger.

    Parameters
    ----------
    spec : ConvSpec
        With ``input_shape``.
    norm : Upper
        Of a circulant's symbol at the circulant's own frequencies.

    Raises
    ------
    HypothesisError
        If the circulant is too short, or the layer reads other than zeros.
    """
    if not isinstance(norm.what, Circulant) or not is_long_enough(spec, norm.what):
        raise HypothesisError(f"the layer is no compression of this: {norm.what}, not {shortest(spec)} points")
    return _upper(norm.value, spec, "compression of a circulant", norm)


def padded_norm(norm: Upper, spec: ConvSpec) -> Upper:
    """The layer is its convolution on all pixels, or on a circulant, between a padding and a restriction.

    A padding that repeats pixels has a norm of at most ``sqrt(padding_gain_sq)``.
    """
    if norm.what != EVERYWHERE and not _is_circulant_of(norm.what, spec):
        raise HypothesisError(f"{norm.what} is not the norm of the layer's convolution")
    gain_sq = spec.padding_gain_sq
    if gain_sq == 1:
        return _upper(norm.value, spec, "no larger than its symbol", norm)
    rule = f"times {math.sqrt(gain_sq):.4g} for the padding, which repeats pixels"
    return _upper(host.mul_up(norm.value, host.root_up(gain_sq)), spec, rule, norm)


def _is_circulant_of(what: object, spec: ConvSpec) -> bool:
    """Whether something is the circulant of a periodic layer at its size; 0 points stand for any number."""
    if not isinstance(what, Circulant) or spec.input_shape is None or not spec.periodic:
        return False
    same_points = all(points in (0, size) for points, size in zip(what.points, spec.grid_shape, strict=True))
    return same_points and not any(what.skew)
