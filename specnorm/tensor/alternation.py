"""Alternating maximisation of the multilinear form from several starts at once, by successive halving."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from specnorm import arrays
from specnorm.tensor.form import Form, best

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.types import ArrayOps


class AlternationTuning(NamedTuple):
    """How long to go on, and with what. It decides on time and how near the maximum a value comes."""

    halving: tuple[tuple[int, int], ...] = ((2, 8), (4, 4))
    """After so many sweeps the best so many iterates go on: two sweeps tell those that have a chance from the rest."""
    patience: float = 30
    """Sweeps within which an iterate that gains as it last did must reach the highest, or does not keep the others
    waiting."""
    largest_ratio: float = 0.97
    """Largest rate of convergence that is believed in extrapolation: a sweep then begins 32 changes ahead at most."""
    tolerances: tuple[float, float] = (2e-7, 1e-13)
    """Relative gains in a sweep below which an iterate has converged: two roundings, and some hundred."""


TUNING = AlternationTuning()


def maximise(
    blocks: Array, v: Array, modes: list[Array], max_iter: int, *, ops: ArrayOps
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
        The form's value times the root of the number of taps, lifted by its rounding.
    vectors : list of arrays
        u, v and the outer product of the spatial vectors, (b, n) each.
    sweeps : integer array, shape ()
    """
    xp = ops.xp
    form, value, v, modes, count = alternate(blocks, v, modes, max_iter, ops=ops)
    value, v, modes = best(value, v, modes, 1, xp=xp)
    u, norm = form.left(v, form.weights(modes))
    # Lifted by the rounding of the last contraction: where TN equals sigma*, rounding alone would fall below it.
    lift = math.sqrt(form.taps) * (1 + 8 * float(xp.finfo(blocks.dtype).eps))
    vectors = [xp.conj(u[:, 0, :]), v[:, 0, :], form.weights(modes)[:, 0, :]]
    return norm[:, 0] * lift, vectors, count


def alternate(
    blocks: Array, v: Array, modes: list[Array], max_iter: int, *, ops: ArrayOps
) -> tuple[Form, Array, Array, list[Array], Array]:
    """Sweep to convergence: the form, values and vectors of the iterates left, and the number of sweeps.

    In rounds of three sweeps: alternation converges geometrically, so each round begins where the last changes point
    to, unless the value is lower there (Aitken).
    """
    xp, tuning = ops.xp, TUNING
    form = Form(blocks, ops=ops)
    tol = tuning.tolerances[blocks.dtype != xp.float32]
    value, count = xp.zeros(v.shape[:2], dtype=blocks.dtype, device=ops.device(blocks)), 0

    def sweep(state: tuple[Array, ...]) -> tuple[Array, ...]:
        value, _, *vectors = state
        here = vectors[: len(vectors) // 2]
        now, new = form.sweep(here[0], here[1:])
        return (new, value, *form.split(now), *here)

    def swept(value: Array, here: tuple[Array, ...], sweeps: int) -> tuple[Array, Array, list[Array]]:
        """Values after some sweeps and one before, then vectors likewise. In a loop: its body is compiled once."""
        value, before, *vectors = arrays.repeated(sweep, sweeps, (value, value, *here, *here), ops=ops)
        return value, before, vectors

    for sweeps, kept in tuning.halving:
        if v.shape[1] > kept:
            value, _, vectors = swept(value, (v, *modes), sweeps)
            v, *modes = vectors[: len(vectors) // 2]
            value, v, modes = best(value, v, modes, kept, xp=xp)
            count += sweeps

    def gain(new: Array, old: Array) -> Array:
        return (new - old) / xp.where(new > 0, new, xp.ones_like(new))

    def cond(state: tuple[Array, ...]) -> Array:
        count, change, _, value, *_ = state
        # The last iterates may be far behind, and come no nearer.
        possible = value * (1 + tuning.patience * change)
        open_ = (change > tol) & (possible >= xp.max(value, axis=1, keepdims=True))
        return (count < max_iter) & xp.any(open_)

    def body(state: tuple[Array, ...]) -> tuple[Array, ...]:
        count, _, ahead, value, *vectors = state
        now, before = vectors[: len(vectors) // 2], vectors[len(vectors) // 2 :]
        trial = [
            arrays.unit(x + xp.astype(ahead, x.dtype)[..., None] * (x - y), xp=xp)[0]
            for x, y in zip(now, before, strict=True)
        ]
        there, new = form.sweep(trial[0], trial[1:])
        worse = (new < value)[..., None]
        here = tuple(xp.where(worse, x, y) for x, y in zip(now, form.split(there), strict=True))
        first = xp.maximum(new, value)
        value, second, vectors = swept(first, here, 2)
        change, earlier = gain(value, second), gain(second, first)
        # Values converge at the square of the rate of the vectors.
        rate_sq = change / xp.where(earlier > 0, earlier, xp.ones_like(earlier))
        rate = xp.sqrt(xp.clip(rate_sq, 0.0, tuning.largest_ratio**2))
        return (count + 3, change, rate / (1 - rate), value, *vectors)

    done = xp.full((), count, dtype=xp.int32, device=ops.device(blocks))
    here = (v, *modes)
    done, _, _, value, *vectors = ops.loop(cond, body, (done, value * 0 + 1, value * 0, value, *here, *here))
    v, *modes = vectors[: len(here)]
    return form, value, v, modes, done
