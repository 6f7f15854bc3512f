"""Sweeps over one set of vectors of the multilinear form, in some twenty calls: what follows a weight in training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace

_LEAST_NORM = 1e-30
"""Added to norms, so that a zero vector can be divided."""


class Step(NamedTuple):
    """The end of a step; every array has the leading axes of the kernels.

    Parameters
    ----------
    value : array
        The form there, without the root of the number of taps.
    rows : array, shape (..., m, 2)
        Left vector as (real, imaginary).
    modes : list of complex arrays
        Spatial vectors; with ``rows``, what the next step begins at.
    columns : array, shape (..., 2, p * taps)
        Right and spatial vectors together as (real, -imaginary): ``rows @ columns`` is the value's gradient.
    """

    value: Array
    rows: Array
    modes: list[Array]
    columns: Array


def step(
    kernels: Array,
    rows: Array,
    modes: list[Array],
    sweeps: int,
    *,
    join: Callable[[Array, Array], Array],
    xp: Namespace,
) -> Step:
    """Sweep over v, the spatial vectors and u, each at its best for the others: the form never decreases.

    Parameters
    ----------
    kernels : array, shape (..., m, p * taps)
        Real.
    rows : array, shape (..., m, 2)
        Left vector as (real, imaginary).
    modes : list of complex arrays, shape (..., k_j)
    sweeps : int
        0: v alone is at its best.
    join : callable
        Makes a complex array of its real and imaginary parts.
    """
    lead = kernels.shape[:-2]
    sizes = [mode.shape[-1] for mode in modes]
    taps = math.prod(sizes)
    weights = outer(modes, xp=xp)
    moves_all = sweeps > 0
    for _ in range(max(sweeps, 1)):
        # The kernel contracted with u: right vectors by taps.
        planes = xp.matmul(xp.matrix_transpose(rows), kernels)
        contracted = xp.reshape(join(planes[..., 0, :], planes[..., 1, :]), (*lead, -1, taps))
        conjugate_v, value = _unit(xp.matmul(contracted, weights[..., None]), 2, xp=xp)
        if moves_all and taps > 1:
            spatial_form = xp.matmul(xp.matrix_transpose(xp.conj(conjugate_v)), contracted)
            modes = best_modes(xp.reshape(spatial_form, (*lead, *sizes)), modes, len(lead), xp=xp)
            weights = outer(modes, xp=xp)
        columns = _columns(conjugate_v, weights, xp=xp)
        if moves_all:
            rows, value = _unit(xp.matmul(kernels, xp.matrix_transpose(columns)), 2, xp=xp)
    return Step(xp.reshape(value, lead), rows, modes, columns)


def _unit(x: Array, axes: int, *, xp: Namespace) -> tuple[Array, Array]:
    """A vector of unit length on the last axes, and its norm, which keeps them; a zero vector stays zero."""
    flat = x if axes == 1 else xp.reshape(x, (*x.shape[:-axes], -1))
    norm = xp.sqrt(xp.real(xp.vecdot(flat, flat)))
    for _ in range(axes):
        norm = norm[..., None]
    return x / (norm + _LEAST_NORM), norm


def outer(modes: list[Array], *, xp: Namespace) -> Array:
    """Outer product of the spatial vectors, shape (..., taps)."""
    out = modes[0]
    for mode in modes[1:]:
        out = xp.reshape(out[..., :, None] * mode[..., None, :], (*out.shape[:-1], -1))
    return out


def _columns(conjugate_v: Array, weights: Array, *, xp: Namespace) -> Array:
    """``columns`` of `Step` from the conjugate right vector, shape (..., p, 1)."""
    conjugate = conjugate_v * xp.conj(weights)[..., None, :]
    flat = xp.reshape(conjugate, (*conjugate.shape[:-2], -1))
    return xp.stack([xp.real(flat), xp.imag(flat)], axis=-2)


def best_modes(c: Array, modes: list[Array], lead: int, *, xp: Namespace) -> list[Array]:
    """Best vector of one axis after the other for the spatial form c, shape (*leading, *sizes).

    Parameters
    ----------
    lead : int
        How many leading axes there are.
    """
    modes = list(modes)
    count = len(modes)
    for axis in range(count):
        contracted: Any = c
        # Axes behind this one are the last when their turn comes, those before it the last but one.
        for other in reversed(range(count)):
            other_axes = (None,) * (contracted.ndim - lead - 2)
            if other > axis:
                column = modes[other][(..., *other_axes, slice(None), None)]
                contracted = xp.matmul(contracted, column)[..., 0]
            elif other < axis:
                row = modes[other][(..., *other_axes, None, slice(None))]
                contracted = xp.matmul(row, contracted)[..., 0, :]
        modes[axis], _ = _unit(xp.conj(contracted), 1, xp=xp)
    return modes
