"""A bundle of plane waves that follows the highest maxima of a norm.

The norm of a layer is the supremum of ``Re(u* G(theta) v)`` over unit vectors u, v and frequencies theta, so each wave
attains a lower bound, however old it is. A pass moves every wave by one power step and one Newton step of its
frequency: one product with the transposed kernel, and one with the kernel. The first waves take the best combination of
all waves' left vectors in place of their power step, which costs no further product. What a pass cannot see is a
maximum that is not in the bundle: for that the grid is swept, before the pass, whenever the kernel has moved.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
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

_LONGEST_STEP = 0.3
"""Longest Newton step of a frequency along an axis, in radians. With 0.1, waves from the grid need several passes."""
_ROUNDS = 2
"""Pairs of passes of all waves outside of training, before the highest is chosen, and of a training's first state."""
_LAST_ROUNDS = 7
"""Pairs of passes of the highest alone after them."""
_FURTHER = 0.17, 3.0
"""After the passes of a pair, vectors go further by so many times their last change. This acts as power steps with
shifts of 0.15 and 0.75 of the squared norm, near the zeros of a Chebyshev polynomial."""
_COMBINED = 6
"""Number of waves, the first ones, at whose frequencies all left vectors are combined: in two axes those that the last
sweep kept, and its two highest new ones. With two, a residual network reached 1.016; with four, strided layers 1.012,
with six 1.009 (with sweeps from 0.4 % of the way; from 0.1 %, 1.007)."""
_SHIFT = 1e-4
"""Added to the eigenvalues of the Gram matrix of the left vectors, which may be nearly parallel."""
_SQUARINGS = 7
"""Squarings of the matrix whose first eigenvector is the best combination. With five, an error of 2 % stayed 1.7 %,
with seven 0.03 %."""
_ZERO_SQUARINGS = 5
"""The same of the sum of the taps."""
_RESCALED, _FEW = 4, 32
"""Number of squarings after which a matrix of at most 32 rows is rescaled, so that entries stay below 32^16; larger
matrices are rescaled after one less."""
_SHORT, _LONG = 0.5, 2.0
"""Limits of the squared length of a wave that is kept."""
_NEAR = 0.6
"""Waves are near each other up to this part of the distance of the points of the grid."""


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
    """Waves after a pass, and what they attain.

    Parameters
    ----------
    waves : Waves
        Those of a kernel stay that is zero or not finite.
    norms : array, shape (b, g)
        What each wave attains, divided by ``size``.
    size : array, shape (b,)
    left : array, shape (b, g, 2, m)
        Left vectors, transposed.
    right : array, shape (b, g, 2, n)
    """

    waves: Waves
    norms: Array
    size: Array
    left: Array
    right: Array


def follow(rows: Array, waves: Waves, spec: ConvSpec, *, ops: ArrayOps) -> tuple[Array, Array, Array, Moved]:
    """`move` the waves, and return the highest norm of each block, its factors as in `Followed`, and all waves."""
    xp, found = ops.xp, move(rows, waves, spec, ops=ops)
    b, count = found.norms.shape
    best = xp.argmax(found.norms, axis=1)
    if b > 1:
        (firsts,) = placed(("first waves", b, count), lambda _: (count * np.arange(b),), best, ops=ops)
    places = best + firsts if b > 1 else best
    by_wave = (xp.reshape(x, (b * count, *x.shape[2:])) for x in (found.left, found.right))
    left, right = (ops.entries_at(x, places, 0) for x in by_wave)
    return xp.max(found.norms, axis=1) * found.size, xp.matrix_transpose(left), right, found


def move(rows: Array, waves: Waves, spec: ConvSpec, *, ops: ArrayOps) -> Moved:
    """Move the waves by a power step, or the best combination of all, and a Newton step.

    Parameters
    ----------
    rows : array, shape (b, m, n)
        The kernels' own entries, in any scale.
    """
    xp, (b, m) = ops.xp, rows.shape[:2]
    count = waves.left.shape[2]
    left = xp.reshape(xp.permute_dims(waves.left, (0, 2, 3, 1)), (b, 2 * count, m))
    found = left @ rows
    # Products with the kernel are about as large. Infinite ones are divided by an infinite size.
    size = arrays.largest(found, axis=(1, 2), ops=ops) + arrays.TINY
    tables = placed(("bundle", spec.block_kernel_shape), functools.partial(_tap_tables, spec), left, ops=ops)
    _, _, powers, forms, signs = tables
    # K_k^T times the real part of u at each tap, and then the imaginary part: (b, g, 2 * taps, p).
    products = _of_taps(xp.reshape(found / size, (b, count, 2, -1)), spec, ops=ops)
    products = xp.reshape(products, (b, count, -1, products.shape[4]))
    angles = xp.matrix_transpose(waves.angles)
    axes = angles.shape[2]
    # The sums and, but for factors of i, their derivatives: real and imaginary parts (b, g, 2 * r, p).
    derivatives = _sums(products, _turns(angles, tables, ops=ops)[:, :, None, ...] * powers, ops=ops)
    inner = xp.matmul(derivatives[:, :, : 2 + 2 * axes, :], xp.matrix_transpose(derivatives))
    forms = xp.matmul(xp.reshape(inner, (b, count, -1)), forms)
    angles = angles + ascent.uphill_by_forms(forms, signs, axes, longest=_LONGEST_STEP, xp=xp)
    turns = _turns(angles, tables, ops=ops)
    power = xp.reshape(_sums(products, turns[:, :, None, ...], ops=ops), (b, count, -1))
    if count > 1:
        best = _combined(xp.reshape(left, (b, count, 2, m)), products, turns[:, :_COMBINED, ...], ops=ops)
        power = xp.concat([best, power[:, _COMBINED:, :]], axis=1)
    power = power / (arrays.lengths(power, ops=ops) + arrays.TINY)
    right = xp.reshape(power, (b, count, 1, 2, -1))
    columns = xp.reshape(_to_taps(right, turns, spec, ops=ops), (b, 2 * count, -1))
    images = _images(rows, columns, ops=ops) / size
    found = xp.reshape(images, (b, count, 2 * m))
    norms = arrays.lengths(found, ops=ops)
    moved = xp.reshape(found / (norms + arrays.TINY), (b, count, 2, m))
    # False for what is not a number, too.
    has_directions = norms > 0
    new = Waves(
        xp.where(xp.matrix_transpose(has_directions)[..., None], xp.permute_dims(moved, (0, 3, 1, 2)), waves.left),
        xp.where(xp.matrix_transpose(has_directions), xp.matrix_transpose(angles), waves.angles),
    )
    columns = xp.reshape(columns, (b, count, 2, -1))
    return Moved(new, norms[..., 0], size[:, 0, 0], moved, columns)


def _combined(left: Array, products: Array, turns: Array, *, ops: ArrayOps) -> Array:
    """Power steps (b, k, 2 * p) of the best combinations of all left vectors, at the frequencies of the first k waves.

    Rayleigh-Ritz, up to a factor: where many singular values are close, one vector follows the first one slowly.

    Parameters
    ----------
    left : array, shape (b, g, 2, m)
    products : array, shape (b, g, 2 * taps, p)
    turns : array, shape (b, k, 2, 2, taps)
    """
    xp, (b, count, *_), k = ops.xp, left.shape, turns.shape[1]
    # G* u is conjugated, as in `_sums`, so that it is a linear function of the conjugate of u.
    vectors = ops.complex(left[:, :, 0, :], -left[:, :, 1, :])
    (unit,) = placed(("unit matrix", count), lambda dtype: (np.eye(count, dtype=dtype)[None],), left, ops=ops)
    gram = xp.matmul(vectors, xp.conj(xp.matrix_transpose(vectors)))
    gram = xp.where(xp.isfinite(gram), gram, unit) + _SHIFT * unit
    factors = ops.inverse_factors(gram)
    images = xp.matmul(xp.reshape(turns, (b, k, 1, 2, -1)), products[:, None, ...])
    images = xp.matmul(factors[:, None, ...], ops.complex(images[..., 0, :], images[..., 1, :]))
    # The waves' own vectors as combinations of orthonormal ones, from which power iteration only rises.
    best = xp.matmul(gram[:, :k, :], xp.conj(xp.matrix_transpose(factors)))[:, :, None, :]
    inner = xp.matmul(images, xp.conj(xp.matrix_transpose(images)))
    best = xp.matmul(xp.matmul(best, squared(inner, _SQUARINGS, ops=ops)), images)[:, :, 0, :]
    return xp.concat([xp.real(best), xp.imag(best)], axis=2)


def squared(gram: Array, times: int, *, ops: ArrayOps) -> Array:
    """``G^(2^times)`` of a stack of positive semidefinite matrices, up to factors."""
    xp = ops.xp
    at_once = _RESCALED if gram.shape[-1] <= _FEW else _RESCALED - 1
    for j in range(times):
        if j % at_once == 0:
            # The largest entry of a positive semidefinite matrix is on its diagonal.
            entries = xp.real(gram) if arrays.is_complex(gram, xp=xp) else gram
            gram = gram / (xp.max(entries, axis=(-2, -1), keepdims=True) + arrays.TINY)
        gram = xp.matmul(gram, gram)
    return gram


def _images(rows: Array, columns: Array, *, ops: ArrayOps) -> Array:
    """The products (b, k, m) of kernels with columns (b, k, n)."""
    if ops.concrete:
        return columns @ ops.xp.matrix_transpose(rows)
    # XLA takes half the time for this.
    return ops.xp.matrix_transpose(rows @ ops.xp.matrix_transpose(columns))


def with_highest_kept(new: Waves, old: Waves, norms: Array, count: int, *, ops: ArrayOps) -> Waves:
    """The highest old waves of each block, by their norms (b, g), and new ones.

    In place of a wave that is not of about unit length, as in a state that was never filled, the first new one stands.
    """
    xp, order = ops.xp, ops.places_of_largest(norms, count)
    left, angles = taken(old, order, xp=xp)
    square = xp.sum(left * left, axis=(1, 3)) + xp.sum(0.0 * angles, axis=1)
    is_unit = ((square > _SHORT) & (square < _LONG))[:, None, :]
    left = xp.where(is_unit[..., None], left, new.left[:, :, :1, :])
    angles = xp.where(is_unit, angles, new.angles[:, :, :1])
    return Waves(xp.concat([left, new.left], axis=2), xp.concat([angles, new.angles], axis=2))


def with_zero_frequency(waves: Waves, blocks: Array, *, taps_first: bool, ops: ArrayOps) -> Waves:
    """The waves, but for the last one, and one with the first left vector of the sum of the taps.

    An optimizer that divides by the gradient's size moves all taps of a kernel alike at first. Then another singular
    value of their sum may become the largest in one step. The vectors of the grid are nearly orthogonal to its vector,
    and would need many steps to reach it. So the Gram matrix of the sum is squared five times: two products with
    the result turn random signs to the first vector.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape), or (b, *kernel_shape, p, m)
    taps_first : bool
        Which of both shapes.
    """
    xp = ops.xp
    total = xp.sum(blocks, axis=tuple(range(1, blocks.ndim - 2) if taps_first else range(3, blocks.ndim)))
    total = xp.matrix_transpose(total) if taps_first else total
    is_wide = total.shape[1] <= total.shape[2]
    wide = total if is_wide else xp.matrix_transpose(total)
    power = squared(xp.matmul(wide, xp.matrix_transpose(wide)), _ZERO_SQUARINGS, ops=ops)
    rows = power.shape[1]
    # A column may be orthogonal to the first vector.
    (signs,) = placed(("zero", rows), lambda dtype: (random_signs(rows)[None, :, :1].astype(dtype),), power, ops=ops)
    vector = xp.matmul(power, xp.matmul(power, signs))
    vector = vector if is_wide else xp.matmul(total, vector)
    vector = vector / (arrays.lengths(vector, axis=-2, ops=ops) + arrays.TINY)
    left = xp.stack([vector, xp.zeros_like(vector)], axis=-1)
    others = waves.left.shape[2] - 1
    return Waves(
        xp.concat([waves.left[:, :, :others, :], left], axis=2),
        xp.concat([waves.angles[:, :, :others], xp.zeros_like(waves.angles[:, :, :1])], axis=2),
    )


def taken(waves: Waves, numbers: Array, *, xp: Namespace) -> Waves:
    """The waves of each block with some numbers (b, k)."""
    left, angles = waves
    if left.shape[0] == 1:
        return Waves(xp.take(left, numbers[0, :], axis=2), xp.take(angles, numbers[0, :], axis=2))
    at = numbers[:, None, :, None]
    left = xp.take_along_axis(left, xp.broadcast_to(at, (*left.shape[:2], *at.shape[2:3], 2)), axis=2)
    at = at[..., 0]
    return Waves(left, xp.take_along_axis(angles, xp.broadcast_to(at, (*angles.shape[:2], at.shape[2])), axis=2))


def without_twins(norms: Array, angles: Array, spacing: float, *, ops: ArrayOps) -> Array:
    """Norms (b, g), zero for each wave that is near a higher one: both lead to one maximum.

    Parameters
    ----------
    angles : array, shape (b, d, g)
    spacing : float
        Distance of the points of the grid.
    """
    xp = ops.xp
    cos, sin = xp.cos(angles), xp.sin(angles)
    # The sum of the cosines of the differences along the axes; theta and -theta are one frequency.
    cosines = xp.matmul(xp.matrix_transpose(cos), cos) + xp.abs(xp.matmul(xp.matrix_transpose(sin), sin))
    is_twin = (cosines > angles.shape[1] - 0.5 * (_NEAR * spacing) ** 2) & (norms[:, :, None] < norms[:, None, :])
    return xp.where(xp.any(is_twin, axis=2), 0.0, norms)


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
    xp, (b, _, p) = ops.xp, blocks.shape[:3]
    found, norms, _ = passes(blocks, waves, ops=ops)
    highest = one_of(found, xp.argmax(norms, axis=1), xp=xp)
    last, _, columns = passes(blocks, highest, _LAST_ROUNDS, ops=ops)
    # At the first tap, k = 0.
    right = xp.reshape(columns, (b, 2, p, -1))[..., 0]
    return ops.complex(right[:, 0, :], right[:, 1, :]), last.angles[..., 0]


def passes(blocks: Array, waves: Waves, rounds: int = _ROUNDS, *, ops: ArrayOps) -> tuple[Waves, Array, Array]:
    """Waves, norms and columns of a pass after ``rounds`` pairs of passes, all in one loop with one body."""
    xp, (b, m, p, *kernel_shape) = ops.xp, blocks.shape
    spec, rows = ConvSpec(m, p, tuple(kernel_shape)), xp.reshape(blocks, (b, m, -1))

    def again(state: tuple[Array, ...]) -> tuple[Array, ...]:
        further, next_further, left, angles, *_ = state
        found = move(rows, Waves(left, angles), spec, ops=ops)
        new_left, new_angles = found.waves
        ahead = new_left + further * (new_left - left)
        return next_further, further, ahead, new_angles, new_left, found.norms, found.right

    further = xp.asarray(_FURTHER, dtype=rows.dtype, device=ops.device(rows))
    columns = xp.zeros((b, waves.left.shape[2], 2, rows.shape[2]), dtype=rows.dtype, device=ops.device(rows))
    first_state = (further[0], further[1], *waves, waves.left, columns[:, :, 0, 0], columns)
    *_, angles, left, norms, columns = arrays.repeated(again, 2 * rounds + 1, first_state, ops=ops)
    return Waves(left, angles), norms, columns


def _turns(angles: Array, tables: Sequence[Array], *, ops: ArrayOps) -> Array:
    """``e^{i k.theta}`` of angles (b, g, d) at all taps, as real matrices.

    Returns
    -------
    array, shape (b, g, 2, 2, taps)
        Row vectors (real, imaginary) of ``conj(v)`` times its two matrices are the parts of ``v e^{i k.theta}``.
    """
    xp, (steps, starts, *_) = ops.xp, tables
    # All as cosines: a call takes longer than its numbers.
    return xp.reshape(xp.cos(xp.matmul(angles, steps) + starts), (*angles.shape[:2], 2, 2, -1))


def _sums(products: Array, turns: Array, *, ops: ArrayOps) -> Array:
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


def _tap_tables(spec: ConvSpec, dtype: type[np.floating]) -> tuple[np.ndarray, ...]:
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
def _of_taps(x: Array, spec: ConvSpec, *, ops: ArrayOps) -> Array:
    """Entries (b, g, 2, n) in the order of the kernel by the taps and channels of the blocks, (b, g, 2, taps, p)."""
    xp, channels = ops.xp, spec.group_channels[1]
    taps_first, is_permuted = polyphase.has_taps_first(spec), _is_permuted(spec)
    x = xp.reshape(x, (*x.shape[:3], *((-1, channels) if taps_first else (channels, -1))))
    x = xp.matrix_transpose(x) if taps_first == is_permuted else x
    if is_permuted:
        places, _, is_tap = placed(("tap places", spec), functools.partial(_tap_places, spec), x, ops=ops)
        taps, x = x.shape[4], ops.entries_at(x, places, 4)
        # Where the stride divides the kernel's sizes, every place has a tap.
        x = xp.reshape(x if x.shape[4] == taps else x * is_tap, (*x.shape[:3], spec.block_shape[1], -1))
    return xp.matrix_transpose(x) if is_permuted else x


def _to_taps(right: Array, turns: Array, spec: ConvSpec, *, ops: ArrayOps) -> Array:
    """Products of right vectors (b, g, 1, 2, p) with ``turns`` (b, g, 2, 2, taps), in the order of the kernel."""
    xp, taps_first = ops.xp, polyphase.has_taps_first(spec)
    if taps_first and not _is_permuted(spec):
        return xp.matmul(xp.matrix_transpose(turns), right)
    x = xp.matmul(xp.matrix_transpose(right), turns)
    if _is_permuted(spec):
        _, back, _ = placed(("tap places", spec), functools.partial(_tap_places, spec), x, ops=ops)
        x = ops.entries_at(xp.reshape(x, (*x.shape[:3], spec.group_channels[1], -1)), back, 4)
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
    return unit_sketch(xp.matrix_transpose(_images(rows, signs, ops=ops)), ops=ops)


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


def unit_sketch(sketch: Array, *, ops: ArrayOps) -> Array:
    """Sketches (b, m, 4) divided by their length: scaling a kernel is no change."""
    return sketch / (arrays.lengths(sketch, axis=(1, 2), ops=ops) + arrays.TINY)


def distance(sketch: Array, last: Array, *, ops: ArrayOps) -> Array:
    """How far (b,) kernels have gone from one sketch to another, as a part of their length."""
    return arrays.lengths(sketch - last, axis=(1, 2), ops=ops)[:, 0, 0]
