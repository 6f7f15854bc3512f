"""TN along a training run: iterates that track the maximum of the multilinear form while its kernel moves.

A state holds two kinds of iterates. **Fixed-frequency** ones stand at sample frequencies. There the kernel is a matrix,
and subspace iteration tracks its top right singular vectors, a block at each frequency. **Free** ones are the highest
local maxima so far. A round sweeps all of them once. Where a fixed-frequency iterate ends higher than a free one, it
takes that one's place: a new direction of the kernel is found in steps in which no free iterate, each at its own
maximum, would get to it.

Effort follows need. The gain of the highest free iterate and the change at the sample frequencies tell how far the
kernel has moved. In most steps of a run that is next to nothing, and one round is all. Else there is a search: the
subspaces are filtered, and everything sweeps on; and the highest free iterates sweep until they gain no more. Kernels
of one batch search together: what one needs is computed for all.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specnorm import arrays
from specnorm.numerics.chebyshev import chebyshev_filter
from specnorm.numerics.extrapolation import extrapolated
from specnorm.problem.frequencies import full_grid
from specnorm.tensor.form import units, waves

if TYPE_CHECKING:
    from specnorm.tensor.form import Form, Sweep
    from specnorm.types import Array, Namespace


@dataclass(frozen=True, eq=False)
class TrackingTuning:
    """When a step searches, and how long. It decides on time and on how closely a state tracks TN.

    What each bought in recorded runs is in docs/benchmarks/index.md.

    Parameters
    ----------
    search_gain, search_change : float
        Relative gain in a round of the highest free iterate, and change at a sample frequency, above which there is a
        search. In a calm run both stay below 3e-4.
    searches, further : int
        Searches a step at most, and the further sweeps of each. More gained nothing.
    sweep_gain : float
        Relative gain in a sweep above which the highest free iterates sweep on.
    sweeps, highest : int
        How often at most, and how many they are.
    ahead : float
        How many times the last change a further sweep begins ahead. In recorded runs 2 brought the largest shortfall
        from 1.2 % to 0.5 %.
    degree : int
        Of the Chebyshev filter. Higher ones gained nothing.
    known, floor : float
        The filter does not tell squared singular values left_over below ``known`` times a block's lowest, nor below
        ``floor`` times its highest: it amplifies the highest, and rounding then erases the others.
    remainder : float
        Part of a vector that must be left without the others of its block; below, it is rounding.
    small_matrix : int
        Entries of a matrix up to which all sample frequencies are filtered at once: then calls cost more than products.
        Where chunks would be compiled one by one, all are.
    duplicate : float
        Overlap of two iterates' rank-one tensors from which the lower one is dropped.
    start : tuple of (filters, sweeps, most)
        Filters and sweeps of a new state, and most sweeps of its highest iterates.
    """

    search_gain: float = 7e-4
    search_change: float = 2e-3
    searches: int = 2
    further: int = 3
    sweep_gain: float = 2e-4
    sweeps: int = 6
    highest: int = 4
    ahead: float = 2.0
    degree: int = 6
    known: float = 0.9
    floor: float = 0.5
    remainder: float = 1e-3
    small_matrix: int = 1024
    duplicate: float = 0.8
    start: tuple[int, int, int] = (4, 40, 200)


TUNING = TrackingTuning()


class StateLayout(NamedTuple):
    """Iterates that a training state keeps: a block at each sample frequency, then the free ones."""

    frequencies: int
    block_size: int
    free: int

    @property
    def fixed(self) -> int:
        """How many stand at sample frequencies."""
        return self.frequencies * self.block_size


@functools.lru_cache(maxsize=256)
def state_layout(p: int, sizes: tuple[int, ...]) -> StateLayout:
    """More of all where vectors are short; a matrix has one frequency and one maximum."""
    if math.prod(sizes) == 1:
        return StateLayout(1, min(6, p), 2)
    short = _short(p, sizes)
    slots = 32 if short else 16
    frequencies = min(len(_sample_frequencies(sizes, short)), slots * 5 // 16)
    block_size = min(2, p)
    return StateLayout(frequencies, block_size, slots - frequencies * block_size)


def start_state(form: Form, starts: Array, seed: int) -> Array:
    """Vectors (b, s, p + sum of sizes) of a new state; free iterates begin at the starts, (b, s, same)."""
    xp, layout = form.xp, state_layout(form.p, form.lengths)
    host = _sample_iterates(
        seed, form.p, form.lengths, "complex128" if form.by_row.dtype == xp.float64 else "complex64"
    )
    given = form.ops.from_numpy(host, form.by_row)
    free = [starts] * -(-layout.free // starts.shape[1])
    vectors = xp.concat([xp.broadcast_to(given, (form.b, *given.shape[1:])), *free], axis=1)
    filters, sweeps, most = TUNING.start
    (vectors,) = arrays.repeated(lambda x: (_filtered(form, x[0], layout),), filters, (vectors,), ops=form.ops)
    now = _round(form, vectors, layout, further=sweeps)
    gain, least = xp.ones_like(now.gain), 16 * float(xp.finfo(form.by_row.dtype).eps)
    vectors, _ = _maximised(form, now._replace(gain=gain), layout, least, most, unseen=False)
    return vectors[:, : layout.fixed + layout.free, :]


def track(form: Form, vectors: Array, rounds: int) -> tuple[Array, list[Array]]:
    """Vectors of the next state, and those of the highest iterate: right and spatial ones, (b, 1, n) each.

    Parameters
    ----------
    form : Form
        Of the kernels as they are now.
    vectors : array, shape (b, s, p + sum of sizes)
    rounds : int
        At least so many; 1 or more.
    """
    xp, ops, layout = form.xp, form.ops, state_layout(form.p, form.lengths)
    # Where reading a number means waiting for it, everything is done exactly once.
    unseen = ops.asynchronous

    def lost(state: tuple[Array, ...]) -> Any:
        count, gain, change, *_ = state
        if unseen:
            return count < rounds + 1
        moved = xp.any((gain > TUNING.search_gain) | (change > TUNING.search_change))
        return (count < rounds) | ((count < rounds + TUNING.searches) & moved)

    def onward(state: tuple[Array, ...]) -> tuple[Array, ...]:
        # One body for rounds and searches: what is written twice is compiled twice.
        count, _, _, _, vectors = state
        searching = count >= rounds
        (vectors,) = arrays.applied(lambda x: (_filtered(form, x[0], layout),), searching, (vectors,), ops=ops)
        return (count + 1, *_round(form, vectors, layout, further=searching * TUNING.further))

    nothing = xp.zeros((form.b, min(TUNING.highest, layout.free)), dtype=form.by_row.dtype, device=ops.device(vectors))
    state = (arrays.counter(vectors, ops=ops), nothing[:, 0], nothing[:, 0], nothing, vectors)
    _, *found = ops.loop(lost, onward, state)
    vectors, values = _maximised(form, Round(*found), layout, TUNING.sweep_gain, TUNING.sweeps, unseen=unseen)
    top = xp.argmax(values, axis=1)
    best = arrays.pick(vectors[:, layout.fixed :, :], top, xp=xp)[:, None, :]
    return vectors, form.split(best)


class Round(NamedTuple):
    """What a round leaves.

    Parameters
    ----------
    gain, change : arrays, shape (b,)
        What the highest free iterate gained, and the most that a fixed one did, over the highest value.
    values : array, shape (b, h)
        Of the highest free iterates.
    vectors : array, shape (b, s, p + sum of sizes)
        Right vectors and spatial vectors: fixed-frequency iterates, then free ones from the highest down.
    """

    gain: Array
    change: Array
    values: Array
    vectors: Array


def _round(form: Form, vectors: Array, layout: StateLayout, *, further: Any = 0) -> Round:
    """Sweep every iterate once, and on; a subspace iteration at the sample frequencies.

    The highest iterates that are no duplicates are the new free ones.
    """
    xp, ops, count = form.xp, form.ops, layout.fixed

    def sweep(state: tuple[Array, ...]) -> tuple[Array, ...]:
        done, reached, before_sq, image, here, start = state
        there, ahead, value, now = _extrapolated_sweep(form, here, start, reached)
        first = done == 0
        before_sq, image = (
            arrays.either(first, x, y, xp=xp) for x, y in ((now.before_sq, before_sq), (now.image[:, :count, :], image))
        )
        return (done + 1, value, before_sq, image, there, ahead)

    # One body for the first sweep and further ones: what is written twice is compiled twice.
    nothing = xp.zeros(vectors.shape[:2], dtype=form.by_row.dtype, device=ops.device(vectors))
    fixed = vectors[:, :count, : form.p]
    state = (arrays.counter(vectors, ops=ops), nothing, nothing, fixed, vectors, vectors)
    _, value, before_sq, image, moved, _ = ops.loop(lambda s: s[0] < 1 + further, sweep, state)
    subspace, after, left_over = _orthonormal(image, layout, xp=xp)
    fixed = _or_keep(subspace, after * left_over, fixed, xp=xp)
    duplicate = form.duplicates(moved, value, TUNING.duplicate)
    top = xp.max(value, axis=1)
    # In steps, so that mirror images, which have equal values but for rounding, stay in their order.
    rank = xp.floor(4096 * xp.where(duplicate, value - 2 * top[:, None], value))
    order = xp.argsort(-rank, axis=1)[:, : vectors.shape[1] - count]
    (free,) = arrays.take_rows([moved], order, ops=ops)
    values, first = (
        xp.take_along_axis(value, order[:, : TUNING.highest], axis=1),
        xp.sqrt(xp.take_along_axis(before_sq, order[:, :1], axis=1)),
    )
    moving = xp.where(left_over > 0, after - xp.sqrt(before_sq[:, :count]), xp.zeros_like(after))
    gain, change = (_ratio(x, top, xp=xp) for x in (values[:, 0] - first[:, 0], xp.max(moving, axis=1)))
    return Round(gain, change, values, _with_fixed(fixed, vectors, free, xp=xp))


def _with_fixed(fixed: Array, vectors: Array, free: Array, *, xp: Namespace) -> Array:
    """Iterates with other right vectors at the sample frequencies, and other free ones."""
    sampled = vectors[:, : fixed.shape[1], fixed.shape[2] :]
    return xp.concat([xp.concat([fixed, sampled], axis=2), free], axis=1)


def _maximised(
    form: Form, now: Round, layout: StateLayout, least: float, most: int, *, unseen: bool
) -> tuple[Array, Array]:
    """Vectors of all iterates after sweeps of the highest free ones until the highest gains less, and their values."""
    xp, ops, vectors, value = form.xp, form.ops, now.vectors, now.values
    first, end = layout.fixed, layout.fixed + value.shape[1]
    few = slice(first, end)
    if ops.concrete:
        vectors, few = vectors[:, few, :], slice(None)
    else:
        # A sweep of a few iterates would be compiled anew. All are swept; those that are infinitely high stay.
        high = xp.full(vectors.shape[:2], math.inf, dtype=value.dtype, device=ops.device(value))
        value = xp.concat([high[:, :first], value, high[:, end:]], axis=1)

    def rising(state: tuple[Array, ...]) -> Array:
        return (state[0] < most) & xp.any(state[2] > least)

    def sweep(state: tuple[Array, ...]) -> tuple[Array, ...]:
        count, value, gain, here, start = state
        there, ahead, reached, _ = _extrapolated_sweep(form, here, start, value)
        top, highest = xp.max(value[:, few], axis=1), xp.max(reached[:, few], axis=1)
        # A sweep that began too far ahead gains nothing, and the next, which does not, may gain much.
        gain = xp.maximum(_ratio(highest - top, highest, xp=xp), gain / 4)
        return (count + 1, reached, gain, there, ahead)

    state = (arrays.counter(vectors, ops=ops), value, now.gain, vectors, vectors)
    _, value, _, vectors, _ = sweep(state) if unseen else ops.loop(rising, sweep, state)
    if ops.concrete:
        vectors = xp.concat([now.vectors[:, :first, :], vectors, now.vectors[:, end:, :]], axis=1)
    return vectors, value[:, few]


def _extrapolated_sweep(form: Form, here: Array, start: Array, value: Array) -> tuple[Array, Array, Array, Sweep]:
    """A sweep from ``start``, unless it ends lower than ``value``: vectors, where the next sweep starts, values.

    The next one starts ahead of where the last change points to: sweeps converge geometrically, and slowly where maxima
    are nearly equal. Of vectors only the directions count.
    """
    xp = form.xp
    v, *modes = form.split(start)
    now = form.sweep(v, modes)
    # Vectors that a form that vanishes or is not finite would destroy are kept.
    better = (now.value >= value) & (now.value > 0) & xp.isfinite(now.value)
    there = xp.where(better[..., None], xp.concat([now.v, *now.modes], axis=2), here)
    return there, extrapolated(there, here, TUNING.ahead), xp.where(better, now.value, value), now


def _filtered(form: Form, vectors: Array, layout: StateLayout) -> Array:
    """Iterates whose right vectors at the sample frequencies went through a Chebyshev filter.

    It separates close singular values in few products.
    """
    xp = form.xp
    fixed, *sampled = form.split(vectors[:, : layout.fixed, :])
    v = xp.reshape(fixed, (form.b, layout.frequencies, layout.block_size, form.p))
    weights = form.weights([x[:, :: layout.block_size, :] for x in sampled])
    few = form.m * form.p > TUNING.small_matrix and form.ops.concrete
    chunk = max(1, form.taps // 4) if few else layout.frequencies
    done, amplified = [], []
    for first in range(0, layout.frequencies, chunk):
        matrix = form.matrices(weights[:, first : first + chunk, :])
        x = v[:, first : first + chunk, ...]
        image = xp.matrix_transpose(xp.matmul(matrix, xp.matrix_transpose(x)))
        squared = xp.real(xp.vecdot(image, image))
        cut = xp.maximum(TUNING.known * xp.min(squared, axis=-1), TUNING.floor * xp.max(squared, axis=-1))
        scale = xp.astype(_ratio(xp.full_like(cut, 2.0), cut, xp=xp), x.dtype)[..., None, None]
        mapped = _to_unit_interval(matrix, scale, xp=xp)
        x = chebyshev_filter(mapped, x, TUNING.degree, first=mapped(x, image), ops=form.ops)
        done.append(x)
        amplified.append(squared >= cut[..., None])
    v = xp.reshape(xp.concat(done, axis=1), (form.b, layout.fixed, form.p))
    # A filter of this degree may amplify a vector until its squares overflow.
    largest = xp.max(xp.abs(v), axis=-1, keepdims=True)
    v = v / xp.astype(xp.where(largest > 0, largest, xp.ones_like(largest)), v.dtype)
    v, length, left_over = _orthonormal(v, layout, xp=xp)
    # Below the cut a filter mixes singular vectors at will.
    above = xp.reshape(xp.concat(amplified, axis=1), (form.b, layout.fixed))
    fixed = _or_keep(v, xp.where(above, length * left_over, xp.zeros_like(length)), fixed, xp=xp)
    return _with_fixed(fixed, vectors, vectors[:, layout.fixed :, :], xp=xp)


def _to_unit_interval(matrix: Array, scale: Array, *, xp: Namespace) -> Callable[..., Array]:
    """``scale A*A - 1`` as a map of rows x, given ``A x`` where that is known."""

    def mapped(x: Array, image: Array | None = None) -> Array:
        image = xp.matrix_transpose(xp.matmul(matrix, xp.matrix_transpose(x))) if image is None else image
        return xp.conj(xp.matmul(xp.conj(image), matrix)) * scale - x

    return mapped


def _orthonormal(v: Array, layout: StateLayout, *, xp: Namespace) -> tuple[Array, Array, Array]:
    """Unit vectors (b, fixed, p), made orthogonal to the others of their frequency by Gram and Schmidt.

    Also their lengths before (b, fixed), and what was left of them at length 1 (b, fixed), 0 for next to nothing: where
    a matrix has lower rank that is rounding.
    """
    shape, p = (v.shape[0], layout.fixed), v.shape[2]
    v, before = arrays.unit(xp.reshape(v, (-1, p)), xp=xp)
    v = xp.reshape(v, (-1, layout.block_size, p))
    block, lengths = [v[:, 0, :]], [xp.ones_like(xp.real(v[:, 0, 0]))]
    for j in range(1, layout.block_size):
        x = v[:, j, :]
        for other in block:
            x = x - xp.vecdot(other, x)[:, None] * other
        x, length = arrays.unit(x, xp=xp)
        block.append(x)
        lengths.append(xp.where(length > TUNING.remainder, length, xp.zeros_like(length)))
    found, left_over = xp.stack(block, axis=1), xp.stack(lengths, axis=1)
    return xp.reshape(found, (*shape, p)), xp.reshape(before, shape), xp.reshape(left_over, shape)


def _or_keep(v: Array, value: Array, old: Array, *, xp: Namespace) -> Array:
    """New right vectors; the old ones where the form vanished or was not finite."""
    return xp.where(((value > 0) & xp.isfinite(value))[..., None], v, old)


def _ratio(part: Array, whole: Array, *, xp: Namespace) -> Array:
    return part / xp.where(whole > 0, whole, xp.ones_like(whole))


@functools.lru_cache(maxsize=256)
def _sample_iterates(seed: int, p: int, sizes: tuple[int, ...], dtype: str) -> np.ndarray:
    """Iterates (1, s, p + sum of sizes): a sample frequency each, and a random v until they are filtered."""
    layout = state_layout(p, sizes)
    angles = _sample_frequencies(sizes, _short(p, sizes))
    angles = angles[np.arange(layout.frequencies) * len(angles) // layout.frequencies]
    modes = waves(np.repeat(angles, layout.block_size, axis=0), sizes)
    return np.concatenate(units([arrays.random_vectors(seed + 101, (layout.fixed, p)), *modes], dtype), axis=2)


def _short(p: int, sizes: tuple[int, ...]) -> bool:
    return p * math.prod(sizes) < 512


def _sample_frequencies(sizes: tuple[int, ...], fine: bool) -> np.ndarray:
    """Frequencies (s, d) of a grid with about as many points an axis as taps, one of each pair of mirror images."""
    sides = np.asarray([1 if k == 1 else min(k + (fine or k == 2), 8) for k in sizes])
    grid = full_grid(sides.tolist()).numerators
    kept = sorted({min(tuple(x.tolist()), tuple((-x % sides).tolist())) for x in grid})
    angles: np.ndarray = 2 * np.pi * np.asarray(kept) / sides
    return angles
