"""The norm everywhere from the norms on a grid: the largest of them, times a factor of each axis."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.certified import host, rounding
from specnorm.certified.bound import EVERYWHERE, HypothesisError, Upper, _upper
from specnorm.certified.matrices import norms, stacks
from specnorm.certified.symbol import trigonometric
from specnorm.problem.frequencies import half_grid

if TYPE_CHECKING:
    from specnorm.certified.symbol.pruning import LargestBound
    from specnorm.certified.symbol.symbols import Symbol
    from specnorm.types import Array, ArrayOps, Namespace


def symbol_norms_up(symbol: Symbol, *, ops: ArrayOps) -> Array:
    """Proven bounds of the norms of symbols, shape (b, f)."""
    error = trigonometric.symbol_error(symbol.blocks, xp=ops.xp)[:, None]
    return stacks.matrix_norm_up(symbol.matrices(), error, ops=ops)


def grid_factor(sizes: tuple[int, ...], kernel_shape: tuple[int, ...]) -> float:
    """What the largest norm on a grid is multiplied by, but for the product's rounding."""
    return math.prod([axis_factor(n, k) for n, k in zip(sizes, kernel_shape, strict=True)])


def everywhere_up(largest: Array, sizes: tuple[int, ...], kernel_shape: tuple[int, ...], *, xp: Namespace) -> Array:
    """Bounds of the supremum from the largest of `symbol_norms_up` on a grid, rounded up."""
    return rounding.up(largest * grid_factor(sizes, kernel_shape), 4, xp=xp)


def quotient_at_down(g: Array, v: Array, blocks: Array, *, xp: Namespace) -> Array:
    """Lower bounds of the norm of each block's symbol at a frequency, from its matrix as computed and a vector."""
    lower = norms.quotient_down(g, v, xp=xp) - trigonometric.symbol_error(blocks, xp=xp) * rounding.SLACK
    return xp.where(lower > 0, lower, xp.zeros_like(lower))


def norm_by_grid(largest: list[LargestBound], sizes: tuple[int, ...], *, ops: ArrayOps) -> Upper:
    """The supremum of some blocks, from their largest norms on a grid.

    Raises
    ------
    HypothesisError
        If another bound, or other frequencies, were visited.
    """
    points, most = half_grid(sizes), 0.0
    kernel_shape = tuple(largest[0].block.shape[3:])
    for one in largest:
        at = one.frequencies
        same = at.denominators == points.denominators and np.array_equal(at.numerators, points.numerators)
        if one.bound is not symbol_norms_up or not same or tuple(one.block.shape[3:]) != kernel_shape:
            raise HypothesisError("not the norms at the points of this grid")
        value = everywhere_up(one.result()[0], sizes, kernel_shape, xp=ops.xp)
        most = max(most, float(value[0]))
    words = f"norms on a grid of {' x '.join(map(str, sizes))} points, times {grid_factor(sizes, kernel_shape):.4g}"
    return _upper(most, EVERYWHERE, words)


def axis_factor(samples: int, size: int) -> float:
    """Factor of the frequency-grid bound along one axis, rounded up.

    ``min(1/cos(pi (k-1) / 2N), (1 - (k-1)/N)**-0.5)``: Ehlich and Zeller 1964, and Pfister and Bresler 2018, for a
    trigonometric polynomial with k consecutive terms on N equispaced samples, N > k - 1. For the best fixed pair of
    unit vectors ``u* G(theta) v`` is one on each axis, and the axes are left one after the other: the factors multiply.
    """
    degree = size - 1
    if degree == 0:
        return 1.0
    if samples <= degree:
        raise ValueError(f"{samples} samples do not determine {size} taps")
    interpolation = host.sqrt_up(host.div_up(samples, samples - degree))
    # Three roundings make the angle: of pi, and of the product and the quotient.
    angle = host.inflate(math.pi * degree / (2 * samples), 3)
    cosine = float(host.cos_down(angle)) if angle < math.pi / 2 else 0.0
    return min(interpolation, host.div_up(1.0, cosine)) if cosine > 0 else interpolation
