"""Plane waves ``v e^{i k.theta}`` at the taps of a kernel, as real arrays, and the order of a kernel's entries."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from specnorm.geometry import polyphase
from specnorm.proofs.frequencies import tap_points
from specnorm.symbols import ascent
from specnorm.training.grids import placed

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec


def images(rows: Array, columns: Array, *, ops: ArrayOps) -> Array:
    """The products (b, k, m) of kernels with columns (b, k, n)."""
    if ops.concrete:
        return columns @ ops.xp.matrix_transpose(rows)
    # XLA takes half the time for this.
    return ops.xp.matrix_transpose(rows @ ops.xp.matrix_transpose(columns))


def turns(angles: Array, tables: Sequence[Array], *, ops: ArrayOps) -> Array:
    """``e^{i k.theta}`` of angles (b, g, d) at all taps, as real matrices.

    Returns
    -------
    array, shape (b, g, 2, 2, taps)
        Row vectors (real, imaginary) of ``conj(v)`` times its two matrices are the parts of ``v e^{i k.theta}``.
    """
    xp, (steps, starts, *_) = ops.xp, tables
    # All as cosines: a call takes longer than its numbers.
    return xp.reshape(xp.cos(xp.matmul(angles, steps) + starts), (*angles.shape[:2], 2, 2, -1))


def sums(products: Array, turns: Array, *, ops: ArrayOps) -> Array:
    """``G* u``, conjugated, and its derivatives: the adjoint of the product with ``turns``, which are symmetric.

    Parameters
    ----------
    products : array, shape (b, g, 2 * taps, p)
    turns : array, shape (b, g, r, 2, 2, taps)

    Returns
    -------
    array, shape (b, g, 2 * r, p)
        The real part and the imaginary part of each.
    """
    xp, (b, g, r, *_) = ops.xp, turns.shape
    return xp.matmul(xp.reshape(turns, (b, g, 2 * r, -1)), products)


def tap_tables(spec: ConvSpec, dtype: type[np.floating]) -> tuple[np.ndarray, ...]:
    """Angles of ``cos, sin, sin, -cos`` at all taps for each angle, and at the angle 0; `newton_tables` for it."""
    taps = tap_points(tuple(k for k in spec.block_kernel_shape if k > 1)).astype(float)
    axes = taps.shape[1]
    powers, forms, signs = ascent.newton_tables(taps)
    starts = np.repeat(np.pi * np.array([0, -0.5, -0.5, 1]), len(taps))
    # Inner products of complex numbers from those of their parts.
    parts = np.zeros((2, 2, 2))
    parts[0, 0, 0] = parts[1, 1, 0] = parts[0, 1, 1] = 1
    parts[1, 0, 1] = -1
    by_product = forms.reshape(1 + axes, powers.shape[1], 2, -1)
    of_parts = np.einsum("abc,jkcf->jakbf", parts, by_product).reshape(-1, forms.shape[1])
    tables = np.tile(taps.T, 4), starts, powers.T[:, None, None, :], of_parts, signs
    return tuple(x.astype(dtype) for x in tables)


# -- the order of the kernel's entries ---------------------------------------------------------------------------------
def of_taps(x: Array, spec: ConvSpec, *, ops: ArrayOps) -> Array:
    """Entries (b, g, 2, n) in the order of the kernel by the taps and channels of the blocks, (b, g, 2, taps, p)."""
    xp, channels = ops.xp, spec.group_channels[1]
    taps_first, permuted = polyphase.has_taps_first(spec), is_permuted(spec)
    x = xp.reshape(x, (*x.shape[:3], *((-1, channels) if taps_first else (channels, -1))))
    x = xp.matrix_transpose(x) if taps_first == permuted else x
    if permuted:
        places, _, is_tap = placed(("tap places", spec), functools.partial(tap_places, spec), x, ops=ops)
        taps, x = x.shape[4], ops.entries_at(x, places, 4)
        # Where the stride divides the kernel's sizes, every place has a tap.
        x = xp.reshape(x if x.shape[4] == taps else x * is_tap, (*x.shape[:3], spec.block_shape[1], -1))
    return xp.matrix_transpose(x) if permuted else x


def to_taps(right: Array, turns: Array, spec: ConvSpec, *, ops: ArrayOps) -> Array:
    """Products of right vectors (b, g, 1, 2, p) with ``turns`` (b, g, 2, 2, taps), in the order of the kernel."""
    xp, taps_first = ops.xp, polyphase.has_taps_first(spec)
    if taps_first and not is_permuted(spec):
        return xp.matmul(xp.matrix_transpose(turns), right)
    x = xp.matmul(xp.matrix_transpose(right), turns)
    if is_permuted(spec):
        _, back, _ = placed(("tap places", spec), functools.partial(tap_places, spec), x, ops=ops)
        x = ops.entries_at(xp.reshape(x, (*x.shape[:3], spec.group_channels[1], -1)), back, 4)
    return xp.matrix_transpose(x) if taps_first else x


def is_permuted(spec: ConvSpec) -> bool:
    """Whether the blocks have another order of entries than the kernel."""
    return math.prod(spec.residues) > 1 and math.prod(spec.block_kernel_shape) > 1


def tap_places(spec: ConvSpec, dtype: type[np.floating]) -> tuple[np.ndarray, ...]:
    """Place in the kernel of each tap of a block, place in the block of each tap of the kernel, and what is a tap."""
    places = polyphase.tap_places(spec)
    order = np.argsort(places, kind="stable")
    return np.maximum(places, 0), order[np.count_nonzero(places < 0) :], (places >= 0).astype(dtype)
