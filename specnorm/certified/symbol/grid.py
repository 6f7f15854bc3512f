"""The norm everywhere from the norms on a grid: the largest of them, times a factor of each axis."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.certified import rounding
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
    return math.prod([trigonometric.grid_factor(n, k) for n, k in zip(sizes, kernel_shape, strict=True)])


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
