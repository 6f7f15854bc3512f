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
from specnorm.geometry import polyphase
from specnorm.geometry.spec import ConvSpec
from specnorm.proofs.frequencies import tap_points
from specnorm.symbols import ascent
from specnorm.training.grid_vectors import placed

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps

_LONGEST_STEP = 0.1
"""Longest Newton step of a frequency along an axis, in radians."""
_ROUNDS = 2
"""Pairs of passes of all waves outside of training, before the highest is chosen."""
_LAST_ROUNDS = 7
"""Pairs of passes of the highest alone after them."""
_FURTHER = 0.17, 3.0
"""So many times their steps do the vectors go further in a pair of passes: as by shifts of the power steps by 0.15 and
0.75 of the squared norm, near the zeros of a Chebyshev polynomial."""
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


class Moved(NamedTuple):
    """Waves after a pass, before the highest is chosen.

    Parameters
    ----------
    waves : Waves
        Those of a kernel that is zero or not finite stay.
    norms : array, shape (b, g)
        The norms that they attain, divided by ``size``.
    size : array, shape (b,)
    left : array, shape (b, g, 2, m)
        Left vectors, as ``waves`` has them but for kernels that are zero or not finite.
    columns : array, shape (b, g, 2, n)
        ``v e^{i k.theta}`` of the right vectors, in the order of the kernel's entries.
    sketch : array, shape (b, m, 4)
        The kernel times `sketch_rows`, transposed.
    """

    waves: Waves
    norms: Array
    size: Array
    left: Array
    columns: Array
    sketch: Array


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
        The state's arrays that a pass moves: here the waves.
    best : integer array, shape (b,)
        Number of the wave with that norm.
    sketch : array, shape (b, m, 4)
        As of `Moved`.
    """

    value: Array
    left: Array
    right: Array
    moved: tuple[Array, ...]
    best: Array
    sketch: Array


def follow(rows: Array, waves: Waves, spec: ConvSpec, *, ops: ArrayOps) -> Pass:
    """`move` the waves, and choose the highest."""
    xp, found = ops.xp, move(rows, waves, spec, ops=ops)
    best = xp.argmax(found.norms, axis=1)
    left, right = (arrays.pick(x, best, xp=xp) for x in (found.left, found.columns))
    value = xp.max(found.norms, axis=1) * found.size
    return Pass(value, xp.matrix_transpose(left), right, found.waves, best, found.sketch)


def move(rows: Array, waves: Waves, spec: ConvSpec, *, ops: ArrayOps) -> Moved:
    """Move the waves by a power step and a Newton step.

    Parameters
    ----------
    rows : array, shape (b, m, n)
        The kernels' own entries, in any scale.
    """
    xp, (b, m) = ops.xp, rows.shape[:2]
    count = waves.left.shape[2]
    left = xp.reshape(xp.permute_dims(waves.left, (0, 2, 3, 1)), (b, 2 * count, m))
    found = left @ rows
    found = found / (xp.max(xp.abs(found), axis=(1, 2), keepdims=True) + _TINY)
    taps, powers = placed(("bundle", spec.block_kernel_shape), functools.partial(_tap_tables, spec), left, ops=ops)
    # K_k^T times the real part of u at each tap, and then the imaginary part: (b, g, 2 * taps, p).
    products = _of_taps(xp.reshape(found, (b, count, 2, -1)), spec, ops=ops)
    products = xp.reshape(products, (b, count, -1, products.shape[4]))
    angles = xp.matrix_transpose(waves.angles)
    derivatives = _sums(products, _turns(angles, taps, ops=ops)[:, :, :, None, ...] * powers[:, None, :], ops=ops)
    inner = _inner_products(derivatives, 1 + taps.shape[1], ops=ops)
    angles = angles + ascent.uphill_by_products(*inner, longest=_LONGEST_STEP, xp=xp)
    turns = _turns(angles, taps, ops=ops)
    power = xp.reshape(_sums(products, turns[:, :, :, None, ...], ops=ops), (b, count, -1))
    power = power / (xp.sqrt(xp.vecdot(power, power))[..., None] + _TINY)
    right = xp.reshape(power, (b, count, 1, 2, -1))
    columns = xp.reshape(_to_taps(right, turns, spec, ops=ops), (b, 2 * count, -1))
    columns_and_signs = beside(columns, sketch_rows(spec, left, ops=ops), axis=1, ops=ops)
    # Not its transpose, for which XLA takes twice as long.
    images = rows @ xp.matrix_transpose(columns_and_signs)
    sketch = images[..., 2 * count :]
    size = xp.max(xp.abs(images), axis=(1, 2), keepdims=True) + _TINY
    found = xp.reshape(xp.matrix_transpose(images[..., : 2 * count] / size), (b, count, 2 * m))
    norms = xp.sqrt(xp.vecdot(found, found))
    moved = xp.reshape(found / (norms[..., None] + _TINY), (b, count, 2, m))
    # False for what is not a number, too. Infinite products were divided by an infinite size.
    has_directions = norms > 0
    new = Waves(
        xp.where(has_directions[:, None, :, None], xp.permute_dims(moved, (0, 3, 1, 2)), waves.left),
        xp.where(has_directions[:, None, :], xp.matrix_transpose(angles), waves.angles),
    )
    return Moved(new, norms, size[:, 0, 0], moved, xp.reshape(columns, (b, count, 2, -1)), sketch)


def with_one_kept(new: Waves, old: Waves, kept: Array, *, xp: Namespace) -> Waves:
    """New waves, and after them the old one of each block with the number ``kept``.

    In place of a wave that is not of about unit length, as in a state that was never filled, the first is repeated.
    """
    left, angles = one_of(old, kept, xp=xp)
    square = xp.sum(left * left, axis=(1, 2, 3)) + xp.sum(0.0 * angles, axis=(1, 2))
    is_unit = ((square > _SHORT) & (square < _LONG))[:, None, None]
    left = xp.where(is_unit[..., None], left, new.left[:, :, :1, :])
    angles = xp.where(is_unit, angles, new.angles[:, :, :1])
    return Waves(xp.concat([new.left, left], axis=2), xp.concat([new.angles, angles], axis=2))


def one_of(waves: Waves, number: Array, *, xp: Namespace) -> Waves:
    """The wave of each block with a number (b,)."""
    left = arrays.pick(xp.permute_dims(waves.left, (0, 2, 1, 3)), number, xp=xp)
    angles = arrays.pick(xp.matrix_transpose(waves.angles), number, xp=xp)
    return Waves(left[:, :, None, :], angles[:, :, None])


def settled(blocks: Array, waves: Waves, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Move the waves, and then the highest of each block alone, by passes that go further than those of training.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)

    Returns
    -------
    right : complex array, shape (b, p)
        Of unit length; zero if the block is zero.
    angles : array, shape (b, d)
    """
    xp, (b, m, p, *kernel_shape) = ops.xp, blocks.shape
    spec, rows = ConvSpec(m, p, tuple(kernel_shape)), xp.reshape(blocks, (b, m, -1))

    def passes(waves: Waves, rounds: int) -> tuple[Waves, Array, Array]:
        """Waves, norms and columns of a pass after ``rounds`` pairs of passes, all in one loop with one body."""

        def again(state: tuple[Array, ...]) -> tuple[Array, ...]:
            further, next_further, left, angles, *_ = state
            found = move(rows, Waves(left, angles), spec, ops=ops)
            ahead = found.waves.left + further * (found.waves.left - left)
            return next_further, further, ahead, *found.waves[1:], found.waves.left, found.norms, found.columns

        further = xp.asarray(_FURTHER, dtype=rows.dtype, device=ops.device(rows))
        columns = xp.zeros((b, waves.left.shape[2], 2, rows.shape[2]), dtype=rows.dtype, device=ops.device(rows))
        first_state = (further[0], further[1], *waves, waves.left, columns[:, :, 0, 0], columns)
        *_, angles, left, norms, columns = arrays.repeated(again, 2 * rounds + 1, first_state, ops=ops)
        return Waves(left, angles), norms, columns

    found, norms, _ = passes(waves, _ROUNDS)
    highest = one_of(found, xp.argmax(norms, axis=1), xp=xp)
    last, _, columns = passes(highest, _LAST_ROUNDS)
    # At the first tap, k = 0.
    right = xp.reshape(columns, (b, 2, p, -1))[..., 0]
    return ops.complex(right[:, 0, :], right[:, 1, :]), last.angles[..., 0]


def _turns(angles: Array, taps: Array, *, ops: ArrayOps) -> Array:
    """``e^{i k.theta}`` of angles (b, g, d) at all taps (taps, d), as real matrices.

    Returns
    -------
    array, shape (b, g, 2, 2, taps)
        Row vectors (real, imaginary) of ``conj(v)`` times its two matrices are the parts of ``v e^{i k.theta}``.
    """
    xp = ops.xp
    turned = xp.matmul(angles, xp.matrix_transpose(taps))
    cos, sin = xp.cos(turned), xp.sin(turned)
    return xp.reshape(xp.stack([cos, sin, sin, -cos], axis=2), (*angles.shape[:2], 2, 2, -1))


def _sums(products: Array, turns: Array, *, ops: ArrayOps) -> Array:
    """``G* u``, conjugated, and its derivatives: the adjoint of the product with ``turns``, which are symmetric.

    Parameters
    ----------
    products : array, shape (b, g, 2 * taps, p)
    turns : array, shape (b, g, 2, r, 2, taps)

    Returns
    -------
    array, shape (b, g, 2, r, p)
        Real parts, and imaginary parts.
    """
    xp, (b, g, _, r, _, _) = ops.xp, turns.shape
    tables = xp.reshape(turns, (b, g, 2 * r, -1))
    return xp.reshape(xp.matmul(tables, products), (b, g, 2, r, -1))


def _inner_products(sums: Array, count: int, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Real and imaginary parts (b, g, count, r) of inner products of the first sums (b, g, 2, r, p) with all."""
    xp, (b, g, _, r, p) = ops.xp, sums.shape
    first = xp.reshape(sums[:, :, :, :count, :], (b, g, 2 * count, p))
    products = xp.matmul(first, xp.matrix_transpose(xp.reshape(sums, (b, g, 2 * r, p))))
    products = xp.reshape(products, (b, g, 2, count, 2, r))
    real = products[:, :, 0, :, 0, :] + products[:, :, 1, :, 1, :]
    return real, products[:, :, 0, :, 1, :] - products[:, :, 1, :, 0, :]


def _tap_tables(spec: ConvSpec, dtype: type[np.floating]) -> tuple[np.ndarray, ...]:
    """Taps along the axes with more than one, and their powers for `uphill`."""
    taps = tap_points(tuple(k for k in spec.block_kernel_shape if k > 1)).astype(dtype)
    powers = ascent.tap_powers(taps, xp=np)  # type: ignore[arg-type]
    return taps, np.asarray(powers).T


# -- the order of the kernel's entries ---------------------------------------------------------------------------------
def _of_taps(x: Array, spec: ConvSpec, *, ops: ArrayOps) -> Array:
    """Entries (b, g, 2, n) in the order of the kernel by the taps and channels of the blocks, (b, g, 2, taps, p)."""
    xp, channels = ops.xp, spec.group_channels[1]
    taps_first, is_permuted = polyphase.has_taps_first(spec), _is_permuted(spec)
    x = xp.reshape(x, (*x.shape[:3], *((-1, channels) if taps_first else (channels, -1))))
    x = xp.matrix_transpose(x) if taps_first == is_permuted else x
    if is_permuted:
        places, _, is_tap = placed(("tap places", spec), functools.partial(_tap_places, spec), x, ops=ops)
        x = xp.reshape(xp.take(x, places, axis=4) * is_tap, (*x.shape[:3], spec.block_shape[1], -1))
    return xp.matrix_transpose(x) if is_permuted else x


def _to_taps(right: Array, turns: Array, spec: ConvSpec, *, ops: ArrayOps) -> Array:
    """Products of right vectors (b, g, 1, 2, p) with ``turns`` (b, g, 2, 2, taps), in the order of the kernel."""
    xp, taps_first = ops.xp, polyphase.has_taps_first(spec)
    if taps_first and not _is_permuted(spec):
        return xp.matmul(xp.matrix_transpose(turns), right)
    x = xp.matmul(xp.matrix_transpose(right), turns)
    if _is_permuted(spec):
        _, back, _ = placed(("tap places", spec), functools.partial(_tap_places, spec), x, ops=ops)
        x = xp.take(xp.reshape(x, (*x.shape[:3], spec.group_channels[1], -1)), back, axis=4)
    return xp.matrix_transpose(x) if taps_first else x


def _is_permuted(spec: ConvSpec) -> bool:
    """Whether the blocks have another order of entries than the kernel."""
    return math.prod(spec.residues) > 1 and math.prod(spec.block_kernel_shape) > 1


def _tap_places(spec: ConvSpec, dtype: type[np.floating]) -> tuple[np.ndarray, ...]:
    """Place in the kernel of each tap of a block, place in the block of each tap of the kernel, and what is a tap."""
    places = polyphase.tap_places(spec)
    order = np.argsort(places, kind="stable")
    return np.maximum(places, 0), order[np.count_nonzero(places < 0) :], (places >= 0).astype(dtype)


# -- the distance from the last sweep ----------------------------------------------------------------------------------
SKETCHES = 4
"""Number of random signs by which each entry is multiplied. A sum over a row is then as long as the row, on average."""


def sketch_rows(spec: ConvSpec, like: Array, *, ops: ArrayOps) -> Array:
    """Random signs (1, 4, n): the sums of a kernel's rows with them are as long as the rows, on average."""
    (signs,) = placed(("signs", spec), functools.partial(_sign_rows, spec), like, ops=ops)
    return signs


def beside(vectors: Array, signs: Array, *, axis: int, ops: ArrayOps) -> Array:
    """Vectors of each block, and after them, along an axis, the signs, which are the same for each."""
    if vectors.shape[0] > 1:
        signs = ops.xp.broadcast_to(signs, (vectors.shape[0], *signs.shape[1:]))
    return ops.xp.concat([vectors, signs], axis=axis)


def random_signs(*shape: int) -> np.ndarray:
    """Random signs, divided by the root of their number. More of the first axis leave the others as they are.

    So layers that are padded with channels of zeros in a stack keep their sketch.
    """
    signs = 2.0 * np.random.RandomState(0).randint(0, 2, (*shape, SKETCHES)) - 1
    return signs / math.sqrt(SKETCHES)


def _sign_rows(spec: ConvSpec, dtype: type[np.floating]) -> tuple[np.ndarray]:
    signs = random_signs(spec.block_shape[1], math.prod(spec.block_kernel_shape))
    by_channel = signs.reshape(spec.group_channels[1], -1, SKETCHES)
    if _is_permuted(spec):
        by_channel = by_channel[:, _tap_places(spec, dtype)[1]]
    if polyphase.has_taps_first(spec):
        by_channel = by_channel.swapaxes(0, 1)
    return (np.ascontiguousarray(by_channel.reshape(-1, SKETCHES).T)[None].astype(dtype),)


def change(sketch: Array, last: Array, *, xp: Namespace) -> Array:
    """Change of the kernels since a sketch (b, m, 4), as a part of their length; scaling a kernel is no change."""
    new, old = (x / (xp.sqrt(xp.sum(x * x, axis=(1, 2), keepdims=True)) + _TINY) for x in (sketch, last))
    return new - old


def distance(sketch: Array, last: Array, *, ops: ArrayOps) -> Array:
    """Length (b,) of the `change`."""
    xp = ops.xp
    flat = xp.reshape(change(sketch, last, xp=xp), (sketch.shape[0], -1))
    return xp.sqrt(xp.vecdot(flat, flat))
