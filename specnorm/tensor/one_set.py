"""One set of vectors of the multilinear form, moved by a sweep of some twenty calls: what a weight is divided by."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace

_LEAST = 1e-30
"""Added to norms: a zero vector is divided by it."""


class Step(NamedTuple):
    """Where a step ends; every array has the leading axes of the kernels.

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
    kernels: Array, rows: Array, modes: list[Array], sweeps: int, *, join: Callable[[Array, Array], Array],
    xp: Namespace,
) -> Step:  # fmt: skip
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
        Complex array of its parts.
    """
    lead, sizes = kernels.shape[:-2], [mode.shape[-1] for mode in modes]
    taps = math.prod(sizes)
    weights = outer(modes, xp=xp)
    for _ in range(sweeps or 1):
        planes = xp.matmul(xp.matrix_transpose(rows), kernels)
        parts = xp.reshape(join(planes[..., 0, :], planes[..., 1, :]), (*lead, -1, taps))
        image, value = _unit(xp.matmul(parts, weights[..., None]), 2, xp=xp)
        if sweeps and taps > 1:
            spatial = xp.reshape(xp.matmul(xp.matrix_transpose(xp.conj(image)), parts), (*lead, *sizes))
            modes = best_modes(spatial, modes, len(lead), xp=xp)
            weights = outer(modes, xp=xp)
        columns = _columns(image, weights, xp=xp)
        if sweeps:
            rows, value = _unit(xp.matmul(kernels, xp.matrix_transpose(columns)), 2, xp=xp)
    return Step(xp.reshape(value, lead), rows, modes, columns)


def _unit(x: Array, axes: int, *, xp: Namespace) -> tuple[Array, Array]:
    """A vector of unit length on the last axes, and its norm, which keeps them; a zero vector stays zero."""
    flat = x if axes == 1 else xp.reshape(x, (*x.shape[:-axes], -1))
    norm = xp.sqrt(xp.real(xp.vecdot(flat, flat)))[(..., *(None,) * axes)]
    return x / (norm + _LEAST), norm


def outer(modes: list[Array], *, xp: Namespace) -> Array:
    """Outer product of the spatial vectors, shape (..., taps)."""
    out = modes[0]
    for mode in modes[1:]:
        out = xp.reshape(out[..., :, None] * mode[..., None, :], (*out.shape[:-1], -1))
    return out


def _columns(image: Array, weights: Array, *, xp: Namespace) -> Array:
    """``image`` is the conjugate of the right vector, shape (..., p, 1)."""
    x = image * xp.conj(weights)[..., None, :]
    x = xp.reshape(x, (*x.shape[:-2], -1))
    return xp.stack([xp.real(x), xp.imag(x)], axis=-2)


def best_modes(c: Array, modes: list[Array], lead: int, *, xp: Namespace) -> list[Array]:
    """Best vector of one axis after the other for the spatial form c, shape (*leading, *sizes)."""
    modes, count = list(modes), len(modes)
    for axis in range(count):
        rest: Any = c
        # Axes behind this one are the last when their turn comes, those before it the last but one.
        for other in reversed(range(count)):
            wide = (..., *(None,) * (rest.ndim - lead - 2))
            if other > axis:
                rest = xp.matmul(rest, modes[other][(*wide, slice(None), None)])[..., 0]
            elif other < axis:
                rest = xp.matmul(modes[other][(*wide, None, slice(None))], rest)[..., 0, :]
        modes[axis], _ = _unit(xp.conj(rest), 1, xp=xp)
    return modes
