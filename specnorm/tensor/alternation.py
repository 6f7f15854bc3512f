"""Alternating maximisation of the multilinear form from several starts at once, by successive halving."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from specnorm import arrays
from specnorm.tensor.form import Form, best

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.types import ArrayOps


class AlternationTuning(NamedTuple):
    """How long to go on, and with what. It decides on time and how near the maximum a value comes."""

    halving: tuple[tuple[int, int], ...] = ((2, 8), (4, 4))
    """Pairs (sweeps, iterates): after so many sweeps the best iterates go on, so many. Two sweeps tell those that have
    a chance from the rest."""
    patience: float = 30
    """Sweeps within which an iterate that gains as it last did must reach the highest; else the others do not wait for
    it."""
    largest_ratio: float = 0.97
    """Largest rate of convergence that an extrapolation assumes: a sweep then begins 32 changes ahead at most."""
    float32_tolerance: float = 2e-7
    """Relative gain in a sweep below which an iterate has converged in float32: two roundings."""
    float64_tolerance: float = 1e-13
    """The same in float64: some hundred roundings."""


TUNING = AlternationTuning()


def maximise(
    blocks: Array,
    v: Array,
    modes: list[Array],
    max_iter: int,
    *,
    ops: ArrayOps,
) -> tuple[Array, list[Array], Array]:
    """Alternate from starts (b, s, ...), and keep the best iterate of each block.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)
    v : array, shape (b, s, p)
    modes : list of arrays, shape (b, s, k_j)
    max_iter : int
        Most sweeps.

    Returns
    -------
    value : array, shape (b,)
        The form's value times the root of the number of taps, raised by its rounding.
    vectors : list of arrays
        u, v and the outer product of the spatial vectors, (b, n) each.
    sweeps : integer array, shape ()
    """
    xp = ops.xp
    form, value, v, modes, count = alternate(blocks, v, modes, max_iter, ops=ops)
    value, v, modes = best(value, v, modes, 1, xp=xp)
    u, norm = form.left(v, form.weights(modes))
    # Raised by the rounding of the last contraction: where TN equals sigma*, rounding alone would fall below it.
    lift = math.sqrt(form.taps) * (1 + 8 * float(xp.finfo(blocks.dtype).eps))
    vectors = [xp.conj(u[:, 0, :]), v[:, 0, :], form.weights(modes)[:, 0, :]]
    return norm[:, 0] * lift, vectors, count


def alternate(
    blocks: Array,
    v: Array,
    modes: list[Array],
    max_iter: int,
    *,
    ops: ArrayOps,
) -> tuple[Form, Array, Array, list[Array], Array]:
    """Sweep to convergence: the form, values and vectors of the iterates left, and the number of sweeps.

    In rounds of three sweeps: alternation converges geometrically, so each round begins where the last changes point
    to, unless the value is lower there (Aitken).
    """
    xp = ops.xp
    form = Form(blocks, ops=ops)
    value = xp.zeros(v.shape[:2], dtype=blocks.dtype, device=ops.device(blocks))
    count = 0
    for sweeps, iterates in TUNING.halving:
        if v.shape[1] > iterates:
            value, _, vectors, _ = _swept(form, value, [v, *modes], sweeps, ops=ops)
            v, *modes = vectors
            value, v, modes = best(value, v, modes, iterates, xp=xp)
            count += sweeps
    is_float32 = blocks.dtype == xp.float32
    tolerance = TUNING.float32_tolerance if is_float32 else TUNING.float64_tolerance
    length = 1 + len(modes)

    def continues(state: tuple[Array, ...]) -> Array:
        count, gain, _, value, *_ = state
        # The last iterates may be far behind, and come no nearer.
        hoped_value = value * (1 + TUNING.patience * gain)
        is_open = (gain > tolerance) & (hoped_value >= xp.max(value, axis=1, keepdims=True))
        return (count < max_iter) & xp.any(is_open)

    def sweep_three_times(state: tuple[Array, ...]) -> tuple[Array, ...]:
        count, _, steps_ahead, value, *both = state
        vectors, previous = both[:length], both[length:]
        extrapolated = []
        for vector, before in zip(vectors, previous, strict=True):
            factor = xp.astype(steps_ahead, vector.dtype)[..., None]
            unit_vector, _ = arrays.unit(vector + factor * (vector - before), xp=xp)
            extrapolated.append(unit_vector)
        swept, new_value = form.sweep(extrapolated[0], extrapolated[1:])
        is_worse = (new_value < value)[..., None]
        start = [xp.where(is_worse, old, new) for old, new in zip(vectors, form.split(swept), strict=True)]
        first = xp.maximum(new_value, value)
        value, second, vectors, previous = _swept(form, first, start, 2, ops=ops)
        gain = _relative_gain(value, second, xp=xp)
        previous_gain = _relative_gain(second, first, xp=xp)
        # Values converge at the square of the rate of the vectors.
        rate_sq = gain / xp.where(previous_gain > 0, previous_gain, xp.ones_like(previous_gain))
        rate = xp.sqrt(xp.clip(rate_sq, 0.0, TUNING.largest_ratio**2))
        return (count + 3, gain, rate / (1 - rate), value, *vectors, *previous)

    sweeps_done = xp.full((), count, dtype=xp.int32, device=ops.device(blocks))
    begin = (sweeps_done, value * 0 + 1, value * 0, value, v, *modes, v, *modes)
    sweeps_done, _, _, value, *both = ops.loop(continues, sweep_three_times, begin)
    v, *modes = both[:length]
    return form, value, v, modes, sweeps_done


def _swept(
    form: Form,
    value: Array,
    vectors: list[Array],
    sweeps: int,
    *,
    ops: ArrayOps,
) -> tuple[Array, Array, list[Array], list[Array]]:
    """Values and vectors after some sweeps: value, value one sweep before, vectors, vectors one sweep before.

    In a loop, whose body is compiled once.
    """
    length = len(vectors)

    def sweep(state: tuple[Array, ...]) -> tuple[Array, ...]:
        value, _, *both = state
        vectors = both[:length]
        swept, new_value = form.sweep(vectors[0], vectors[1:])
        return (new_value, value, *form.split(swept), *vectors)

    value, previous_value, *both = arrays.repeated(sweep, sweeps, (value, value, *vectors, *vectors), ops=ops)
    return value, previous_value, both[:length], both[length:]


def _relative_gain(value: Array, previous: Array, *, xp: Namespace) -> Array:
    return (value - previous) / xp.where(value > 0, value, xp.ones_like(value))
