"""The norm between two sweeps of the grid: a bundle of plane waves that follows the maxima that a sweep found.

The norm of a layer is the supremum of ``Re(u* G(theta) v)`` over unit vectors u, v and frequencies theta, so each wave
attains a lower bound, however old it is. A pass moves every wave by one power step and one Newton step of its
frequency: one product with the transposed kernel, and one with the kernel. What it cannot see is a maximum that is not
in the bundle: for that the grid is swept again, when the `Course` says so.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm.backends import arrays
from specnorm.geometry.polyphase import tap_places
from specnorm.proofs.frequencies import tap_points
from specnorm.symbols.ascent import tap_powers, uphill
from specnorm.training.grid_vectors import placed

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec

_LONGEST_STEP = 0.1
"""Longest Newton step of a frequency along an axis, in radians."""
_SHORT, _LONG = 0.5, 2.0
"""Limits of the squared length of a wave that is kept."""
_TINY = 1e-30
"""Added to what is divided by."""


class Waves(NamedTuple):
    """The bundle of each block, as arrays of a training state.

    Parameters
    ----------
    left : array, shape (b, m, g, 2)
        Left vectors, of unit length, as (real, imaginary).
    angles : array, shape (b, d, g)
        Frequencies along the axes with more than one tap.
    """

    left: Array
    angles: Array


class Pass(NamedTuple):
    """What a pass finds for each block.

    Parameters
    ----------
    value : array, shape (b,)
        The largest norm that a wave attains.
    left : array, shape (b, m, 2)
    right : array, shape (b, 2, n)
        The gradient of the value is ``left @ right``, in the order of the kernel's entries.
    moved : tuple of arrays
        The state's arrays that a pass moves: here the waves. Those of a kernel that is zero or not finite stay.
    best : integer array, shape (b,)
        Number of the wave with that norm.
    sketch : array, shape (b, m, 4)
        `sketch_columns` times the kernel.
    """

    value: Array
    left: Array
    right: Array
    moved: tuple[Array, ...]
    best: Array
    sketch: Array


def follow(rows: Array, waves: Waves, spec: ConvSpec, *, ops: ArrayOps) -> Pass:
    """Move the waves by a power step and a Newton step.

    Parameters
    ----------
    rows : array, shape (b, m, n)
        The kernels' own entries, in any scale.
    """
    xp = ops.xp
    left = ops.complex(waves.left[..., 0], waves.left[..., 1])
    count = left.shape[2]
    found = xp.matmul(xp.matrix_transpose(rows), ops.real_columns(left))
    found = found / (xp.max(xp.abs(found), axis=(1, 2), keepdims=True) + _TINY)
    taps, powers = placed(("bundle", spec.block_kernel_shape), functools.partial(_tap_tables, spec), rows, ops=ops)
    # The sum of the terms is G* u, conjugated: (b, g, p, taps).
    phases = _turns(waves.angles, taps, ops=ops)
    products = _of_taps(ops.complex_columns(found), spec, ops=ops)
    terms = xp.permute_dims(xp.conj(products) * phases[:, None, :, :], (0, 3, 1, 2))
    step = uphill(terms, powers, taps.shape[1], longest=_LONGEST_STEP, xp=xp)
    step = xp.matrix_transpose(step)
    turns = _turns(step, taps, ops=ops)
    power = xp.matmul(terms, xp.matrix_transpose(turns)[..., None])[..., 0]
    right = xp.matrix_transpose(xp.conj(arrays.unit(power, xp=xp)[0]))
    columns = _to_taps(right[:, :, None, :] * (phases * turns)[:, None, :, :], spec, ops=ops)
    signs = sketch_columns(spec, rows, ops=ops)
    images = xp.matmul(rows, beside(ops.real_columns(columns), signs, ops=ops))
    sketch = images[..., 2 * count :]
    size = xp.max(xp.abs(images), axis=(1, 2), keepdims=True) + _TINY
    found = ops.complex_columns(images[..., : 2 * count] / size)
    norms = xp.sqrt(xp.real(xp.vecdot(found, found, axis=-2)))
    best = xp.argmax(norms, axis=1)
    moved = found / (norms[:, None, :] + _TINY)
    chosen = (arrays.pick(xp.matrix_transpose(x), best, xp=xp) for x in (moved, columns))
    of_left, of_right = (arrays.real_pair(x, xp=xp) for x in chosen)
    has_directions = ((norms > 0) & xp.isfinite(norms))[:, None, :]
    new = Waves(
        xp.where(has_directions[..., None], arrays.real_pair(moved, xp=xp), waves.left),
        xp.where(has_directions, waves.angles + step, waves.angles),
    )
    value = xp.max(norms, axis=1) * size[:, 0, 0]
    return Pass(value, of_left, xp.matrix_transpose(of_right), new, best, sketch)


def with_one_kept(new: Waves, old: Waves, kept: Array, *, xp: Namespace) -> Waves:
    """New waves, and after them the old one of each block with the number ``kept``.

    In place of a wave that is not of about unit length, as in a state that was never filled, the first is repeated.
    """
    left = arrays.pick(xp.permute_dims(old.left, (0, 2, 1, 3)), kept, xp=xp)
    angles = arrays.pick(xp.matrix_transpose(old.angles), kept, xp=xp)
    square = xp.sum(left * left, axis=(1, 2)) + xp.sum(0.0 * angles, axis=1)
    is_unit = ((square > _SHORT) & (square < _LONG))[:, None]
    left = xp.where(is_unit[:, :, None], left, new.left[:, :, 0, :])
    angles = xp.where(is_unit, angles, new.angles[:, :, 0])
    return Waves(
        xp.concat([new.left, left[:, :, None, :]], axis=2),
        xp.concat([new.angles, angles[:, :, None]], axis=2),
    )


def _turns(angles: Array, taps: Array, *, ops: ArrayOps) -> Array:
    """``e^{i k.theta}`` of angles (b, d, g) at all taps (taps, d), shape (b, taps, g)."""
    turned = ops.xp.matmul(taps, angles)
    return ops.complex(ops.xp.cos(turned), ops.xp.sin(turned))


def _tap_tables(spec: ConvSpec, dtype: type[np.floating]) -> tuple[np.ndarray, ...]:
    """Taps along the axes with more than one, and their powers for `uphill`."""
    taps = tap_points(tuple(k for k in spec.block_kernel_shape if k > 1)).astype(dtype)
    powers = tap_powers(taps, xp=np)  # type: ignore[arg-type]
    return taps, np.asarray(powers).astype(np.result_type(dtype, np.complex64))


# -- the order of the kernel's entries ---------------------------------------------------------------------------------
def _of_taps(x: Array, spec: ConvSpec, *, ops: ArrayOps) -> Array:
    """Entries (b, channels * taps, g) in the order of the kernel as those of the blocks, (b, p, taps of a block, g)."""
    xp, (b, _, g) = ops.xp, x.shape
    if not _is_permuted(spec):
        return xp.reshape(x, (b, spec.block_shape[1], -1, g))
    places, _, is_tap = placed(("tap places", spec), functools.partial(_tap_places, spec), x, ops=ops)
    by_tap = xp.reshape(x, (b, spec.group_channels[1], -1, g))
    by_residue = xp.take(by_tap, places, axis=2) * is_tap[:, None]
    return xp.reshape(by_residue, (b, spec.block_shape[1], -1, g))


def _to_taps(x: Array, spec: ConvSpec, *, ops: ArrayOps) -> Array:
    """Adjoint of `_of_taps`."""
    xp, b, g = ops.xp, x.shape[0], x.shape[3]
    if _is_permuted(spec):
        _, back, _ = placed(("tap places", spec), functools.partial(_tap_places, spec), x, ops=ops)
        x = xp.take(xp.reshape(x, (b, spec.group_channels[1], -1, g)), back, axis=2)
    return xp.reshape(x, (b, -1, g))


def _is_permuted(spec: ConvSpec) -> bool:
    """Whether the blocks have another order of entries than the kernel."""
    return math.prod(spec.residues) > 1 and math.prod(spec.block_kernel_shape) > 1


def _tap_places(spec: ConvSpec, dtype: type[np.floating]) -> tuple[np.ndarray, ...]:
    """Place in the kernel of each tap of a block, place in the block of each tap of the kernel, and what is a tap."""
    places = tap_places(spec)
    order = np.argsort(places, kind="stable")
    return np.maximum(places, 0), order[np.count_nonzero(places < 0) :], (places >= 0).astype(dtype)


# -- the distance from the last sweep ----------------------------------------------------------------------------------
SKETCHES = 4
"""Number of random signs by which each entry is multiplied. A sum over a row is then as long as the row, on average."""


def sketch_columns(spec: ConvSpec, like: Array, *, ops: ArrayOps) -> Array:
    """Random signs (1, n, 4): the sums of a kernel's rows with them are as long as the rows, on average."""
    (signs,) = placed(("signs", spec), functools.partial(_sign_columns, spec), like, ops=ops)
    return signs


def beside(columns: Array, signs: Array, *, ops: ArrayOps) -> Array:
    """Columns (b, n, g) with the signs (1, n, 4) after them."""
    if columns.shape[0] > 1:
        signs = ops.xp.broadcast_to(signs, (columns.shape[0], *signs.shape[1:]))
    return ops.xp.concat([columns, signs], axis=2)


def random_signs(*shape: int) -> np.ndarray:
    """Random signs, divided by the root of their number. More of the first axis leave the others as they are.

    So layers that are padded with channels of zeros in a stack keep their sketch.
    """
    signs = 2.0 * np.random.RandomState(0).randint(0, 2, (*shape, SKETCHES)) - 1
    return signs / math.sqrt(SKETCHES)


def _sign_columns(spec: ConvSpec, dtype: type[np.floating]) -> tuple[np.ndarray]:
    signs = random_signs(spec.block_shape[1], math.prod(spec.block_kernel_shape))
    if _is_permuted(spec):
        by_channel = signs.reshape(spec.group_channels[1], -1, SKETCHES)
        signs = by_channel[:, _tap_places(spec, dtype)[1]]
    return (signs.reshape(1, -1, SKETCHES).astype(dtype),)


def distance(sketch: Array, last: Array, *, ops: ArrayOps) -> Array:
    """Change of the kernels since a sketch (b, m, 4), as a part of their length; scaling a kernel is no change."""
    xp, b = ops.xp, sketch.shape[0]
    new, old = (_unit(xp.reshape(x, (b, -1)), xp=xp) for x in (sketch, last))
    change = new - old
    return xp.sqrt(xp.vecdot(change, change))


def _unit(x: Array, *, xp: Namespace) -> Array:
    return x / (xp.sqrt(xp.vecdot(x, x))[:, None] + _TINY)
