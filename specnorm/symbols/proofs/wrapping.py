"""Kernels that are longer than a circular layer's input: taps that wrap around onto the same pixel are added up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm.proofs import host, rounding
from specnorm.proofs.bound import Lower, Upper, _lower, _upper
from specnorm.symbols.proofs.symbols import absolute_norm_up

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps


def wrapped(blocks: Array, sizes: tuple[int, ...], *, ops: ArrayOps) -> tuple[Array, float]:
    """Kernels with no more taps than a circulant's points, and with the same symbols at its frequencies.

    The phases of taps k and k + n are the same at the frequencies of n points. Sums are computed with their exact
    rounding errors (Knuth's two-sum), so that taps which cancel do so exactly.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
    sizes : tuple of int
        Points of each axis.

    Returns
    -------
    blocks : array, shape (g, m, p, *wrapped_shape)
    error : float
        Bound of the norm of the difference of both symbols of any block.
    """
    totals = ops.to_numpy(blocks).astype(np.float64)
    lost = np.zeros_like(totals)
    additions = 0
    for axis, n in enumerate(sizes, start=3):
        turns = -(-totals.shape[axis] // n)
        if turns == 1:
            continue
        missing = [(0, turns * n - totals.shape[axis] if j == axis else 0) for j in range(totals.ndim)]
        parts = np.split(np.pad(totals, missing), turns, axis=axis)
        lost = np.sum(np.split(np.pad(lost, missing), turns, axis=axis), axis=0)
        totals = parts[0]
        for part in parts[1:]:
            total = totals + part
            share = total - totals
            lost = lost + np.abs((totals - (total - share)) + (part - share))
            totals = total
        additions += 2 * turns
    if not additions:
        return blocks, 0.0
    on_host: Any = lost
    xp = ops.backend.host().namespace(on_host)
    errors = rounding.up(absolute_norm_up(on_host, xp=xp), additions, xp=xp)
    return ops.from_numpy(totals, blocks), float(xp.max(errors))


def of_wrapped(lower: Lower, upper: Upper, error: float) -> tuple[Lower, Upper]:
    """Bounds for kernels, from those for `wrapped` ones."""
    if error == 0:
        return lower, upper
    rule = "taps that wrap around are added up, with rounding"
    return (
        _lower(max(host.sub_down(lower.value, error), 0.0), lower.what, rule, lower),
        _upper(host.add_up(upper.value, error), upper.what, rule, upper),
    )
