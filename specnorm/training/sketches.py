"""How far a kernel has gone, estimated from a few sums of its entries with random signs."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.geometry import polyphase
from specnorm.training import taps
from specnorm.training.grids import placed

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec

SKETCHES = 4
"""Number of random signs by which each entry is multiplied. A sum over a row is then as long as the row, on average."""


def sketch(rows: Array, like: Array, spec: ConvSpec, *, ops: ArrayOps) -> Array:
    """Sums of a kernel's rows times random signs, of unit length: on average they are as far apart as the rows are.

    Parameters
    ----------
    rows : array, shape (b, m, n)
    like : array
        Of the state.

    Returns
    -------
    array, shape (b, m, 4)
    """
    xp, b = ops.xp, rows.shape[0]
    (signs,) = placed(("signs", spec), functools.partial(_sign_rows, spec), like, ops=ops)
    signs = xp.broadcast_to(signs, (b, *signs.shape[1:])) if b > 1 else signs
    return unit_sketch(xp.matrix_transpose(taps.images(rows, signs, ops=ops)), ops=ops)


def random_signs(*shape: int) -> np.ndarray:
    """Random signs, divided by the root of their number. More of the first axis leave the others as they are.

    So layers that are padded with channels of zeros in a stack keep their sketch.
    """
    signs = 2.0 * np.random.RandomState(0).randint(0, 2, (*shape, SKETCHES)) - 1
    return signs / math.sqrt(SKETCHES)


def _sign_rows(spec: ConvSpec, dtype: type[np.floating]) -> tuple[np.ndarray]:
    signs = random_signs(spec.block_shape[1], math.prod(spec.block_kernel_shape))
    by_channel = signs.reshape(spec.group_channels[1], -1, SKETCHES)
    if taps.is_permuted(spec):
        by_channel = by_channel[:, taps.tap_places(spec, dtype)[1]]
    if polyphase.has_taps_first(spec):
        by_channel = by_channel.swapaxes(0, 1)
    return (np.ascontiguousarray(by_channel.reshape(-1, SKETCHES).T)[None].astype(dtype),)


def unit_sketch(sketch: Array, *, ops: ArrayOps) -> Array:
    """Sketches (b, m, 4) divided by their length: scaling a kernel is no change."""
    return sketch / (arrays.lengths(sketch, axis=(1, 2), ops=ops) + arrays.TINY)


def distance(sketch: Array, last: Array, *, ops: ArrayOps) -> Array:
    """How far (b,) kernels have gone from one sketch to another, as a part of their length."""
    return arrays.lengths(sketch - last, axis=(1, 2), ops=ops)[:, 0, 0]


def reach(spec: ConvSpec) -> float:
    """How far a change of some length may move a symbol, beside one of 3x3 taps: with the root of the taps.

    Kernels with one axis count twice: with a factor of 1, a layer of 1-D convolutions reached 1.014.
    """
    taps_of_block = spec.block_kernel_shape
    return max(2.0 if sum(k > 1 for k in taps_of_block) == 1 else 1.0, math.sqrt(math.prod(taps_of_block)) / 3)
