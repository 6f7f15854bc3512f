"""Alternating maximization of the multilinear form from several starts at once, by successive halving."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm.backends import arrays
from specnorm.tensor_norm.form import Form, best_iterates
from specnorm.tensor_norm.one_set import outer

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps

HALVING: tuple[tuple[int, int], ...] = ((2, 8), (4, 4))
"""Pairs (sweeps, iterates): after so many sweeps, keep so many of the best iterates. Two sweeps are enough to rank
them roughly. These sweeps are taken whatever the largest number of sweeps."""
PATIENCE = 30
"""The iteration goes on only while some iterate would reach the best one within this many sweeps at its last gain
per sweep. An extrapolation goes at most so many times the last change ahead."""
ROUNDINGS = 16
"""Relative gain in a sweep below which an iterate has converged, in epsilons of its dtype."""


def maximise(
    blocks: Array,
    v: Array,
    spatial_vectors: list[Array],
    max_iter: int,
    *,
    groups: int = 1,
    ops: ArrayOps,
) -> tuple[Array, list[Array], Array]:
    """Maximise the form of each block by alternation from s starts, and return the best iterate.

    ``blocks`` is (b, m, p, *kernel_shape). ``v`` (b, s, p): right vectors of the starts. ``spatial_vectors`` (b, s,
    k_j): spatial vectors of the starts, one array for each axis. ``max_iter``: number of sweeps after which no more are
    begun. Three are taken at a time, so there may be two more; those of `HALVING` are always taken.
    ``groups``: how many blocks in a row are the groups of a layer, of which only the largest value has to converge.
    Returns ``value`` (b,): the form's value times the root of the number of taps, raised by its rounding. Returns
    ``vectors``: the conjugate of u, v, and the outer product w of the spatial vectors; shapes (b, m), (b, p) and (b,
    taps). With the conjugate c of u, the gradient of the form is ``Re(conj(c) v w)``. Returns ``sweeps`` (): number of
    sweeps taken.
    """
    xp = ops.xp
    form, value, v, spatial_vectors, count = alternate(blocks, v, spatial_vectors, max_iter, groups=groups, ops=ops)
    value, v, spatial_vectors = best_iterates(value, v, spatial_vectors, 1, xp=xp)
    u, norm = form.left(form.image(v, spatial_vectors))
    # Raised by the rounding of the last contraction: otherwise, where TN equals sigma*, the rounded value could lie
    # below sigma*.
    scale_up = math.sqrt(form.taps) * (1 + 8 * float(xp.finfo(blocks.dtype).eps))
    vectors = [xp.conj(u[:, 0, :]), v[:, 0, :], outer(spatial_vectors, xp=xp)[:, 0, :]]
    return norm[:, 0] * scale_up, vectors, count


def alternate(
    blocks: Array,
    v: Array,
    spatial_vectors: list[Array],
    max_iter: int,
    *,
    groups: int = 1,
    ops: ArrayOps,
) -> tuple[Form, Array, Array, list[Array], Array]:
    """Sweep to convergence, with Aitken extrapolation; parameters as in `maximise`.

    Alternation converges geometrically. So before every third sweep the vectors are extrapolated along their last
    change. Where the value after that sweep is lower than before, sweep and extrapolation are discarded.

    Returns ``form``; ``value`` (b, iterates): the form's values, without the root of the number of taps; ``v``,
    ``spatial_vectors``: right and spatial vectors of the remaining iterates; ``sweeps`` ().
    """
    xp = ops.xp
    form = Form(blocks, ops=ops)
    value = xp.zeros(v.shape[:2], dtype=blocks.dtype, device=ops.device(blocks))
    count = 0
    for sweeps, iterates in HALVING:
        if v.shape[1] > iterates:
            value, _, vectors, _ = _swept(form, value, [v, *spatial_vectors], sweeps, ops=ops)
            v, *spatial_vectors = vectors
            value, v, spatial_vectors = best_iterates(value, v, spatial_vectors, iterates, xp=xp)
            count += sweeps
    tolerance = ROUNDINGS * float(xp.finfo(blocks.dtype).eps)
    vector_count = 1 + len(spatial_vectors)

    # The state: number of sweeps, last relative gains, steps ahead for the extrapolation (in units of the last change),
    # values, vectors, and the vectors one sweep before.
    def continues(state: tuple[Array, ...]) -> Array:
        count, gain, _, value, *_ = state
        hoped_value = value * (1 + PATIENCE * gain)
        of_layers = xp.reshape(value, (-1, groups * value.shape[1]))
        may_become_best = xp.reshape(hoped_value, of_layers.shape) >= xp.max(of_layers, axis=1, keepdims=True)
        is_growing = xp.reshape(gain > tolerance, of_layers.shape)
        return (count < max_iter) & xp.any(is_growing & may_become_best)

    def sweep_three_times(state: tuple[Array, ...]) -> tuple[Array, ...]:
        count, _, steps_ahead, value, *all_vectors = state
        vectors = all_vectors[:vector_count]
        previous = all_vectors[vector_count:]
        extrapolated = []
        for vector, previous_vector in zip(vectors, previous, strict=True):
            factor = xp.astype(steps_ahead, vector.dtype)[..., None]
            unit_vector, _ = arrays.unit(vector + factor * (vector - previous_vector), xp=xp)
            extrapolated.append(unit_vector)
        swept, new_value = form.sweep(extrapolated[0], extrapolated[1:])
        is_worse = (new_value < value)[..., None]
        start = [xp.where(is_worse, old, new) for old, new in zip(vectors, swept, strict=True)]
        first_value = xp.maximum(new_value, value)
        value, second_value, vectors, previous = _swept(form, first_value, start, 2, ops=ops)
        gain = _relative_gain(value, second_value, xp=xp)
        previous_gain = _relative_gain(second_value, first_value, xp=xp)
        # The rate of convergence of the values is the square of that of the vectors.
        rate_sq = gain / xp.where(previous_gain > 0, previous_gain, xp.ones_like(previous_gain))
        rate = xp.sqrt(xp.clip(rate_sq, 0.0, (1 - 1 / PATIENCE) ** 2))
        return (count + 3, gain, rate / (1 - rate), value, *vectors, *previous)

    sweeps_done = xp.full((), count, dtype=xp.int32, device=ops.device(blocks))
    first_state = (sweeps_done, value * 0 + 1, value * 0, value, v, *spatial_vectors, v, *spatial_vectors)
    sweeps_done, _, _, value, *all_vectors = ops.loop(continues, sweep_three_times, first_state)
    v, *spatial_vectors = all_vectors[:vector_count]
    return form, value, v, spatial_vectors, sweeps_done


def _swept(
    form: Form,
    value: Array,
    vectors: list[Array],
    sweeps: int,
    *,
    ops: ArrayOps,
) -> tuple[Array, Array, list[Array], list[Array]]:
    """Take some sweeps, in a loop whose body is compiled once.

    Returns ``value``, ``previous_value`` (b, s): after the last sweep, and one sweep before; ``vectors``,
    ``previous_vectors``: the same for right and spatial vectors.
    """
    vector_count = len(vectors)

    def sweep(state: tuple[Array, ...]) -> tuple[Array, ...]:
        value, _, *all_vectors = state
        vectors = all_vectors[:vector_count]
        swept, new_value = form.sweep(vectors[0], vectors[1:])
        return (new_value, value, *swept, *vectors)

    first_state = (value, value, *vectors, *vectors)
    value, previous_value, *all_vectors = arrays.repeated(sweep, sweeps, first_state, ops=ops)
    return value, previous_value, all_vectors[:vector_count], all_vectors[vector_count:]


def _relative_gain(value: Array, previous: Array, *, xp: Namespace) -> Array:
    """Return the growth of values relative to the new ones; 0 where these are 0."""
    return (value - previous) / xp.where(value > 0, value, xp.ones_like(value))
