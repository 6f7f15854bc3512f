"""TN along a training run: vectors that follow the maximum of the multilinear form while its kernel moves.

**Scouts** stand at fixed coarse frequencies. There the kernel is a matrix, and power iterations follow its top right
singular vectors, some abreast. **Climbers** are the highest maxima so far. A round sweeps them all once; where a scout
ends higher than a climber, one goes on from there: a new direction of the kernel is seen in steps in which no climber,
each at its own maximum, would get to it.

Effort follows need. What the highest climber and the scouts gain in a round tells how far the kernel has moved. In most
steps of a run that is next to nothing, and one round is all. Else there is a search: the scouts' vectors are filtered,
and everything sweeps on; and the highest climbers sweep until they gain no more. Kernels of one batch search together:
what one needs costs the others nothing.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specnorm.linalg import arrays
from specnorm.linalg.frequencies import full_grid
from specnorm.tensor.form import units, waves

if TYPE_CHECKING:
    from specnorm.tensor.form import Form
    from specnorm.types import Array, ArrayOps

_SEARCH_GAIN, _SEARCH_STIR, _SEARCHES, _FURTHER = 7e-4, 2e-3, 2, 3
"""Relative gains in a round, of the highest climber and of a scout, above which there is a search; how many of them at
most, and the further sweeps of each."""
_CLIMB_GAIN, _CLIMBS, _HIGHEST = 2e-4, 6, 4
"""Relative gain in a sweep above which the highest climbers go on, how often at most, and how many they are."""
_AHEAD = 2.0
"""How many times the last change a further sweep begins ahead."""
_DEGREE, _KNOWN, _FLOOR = 6, 0.9, 0.5
"""Degree of the scouts' filter; part of their lowest squared norm up to which singular values are not told apart, at
least this part of their highest: what a filter swells is lost to those abreast, as rounding."""
_REST = 1e-3
"""Part of a scout's vector that must be left without those abreast."""
_SMALL_MATRIX = 1024
"""Matrix up to which the scouts of all frequencies are filtered at once."""
_ALIKE = 0.8
"""Overlap of two climbers' rank-one tensors from which the lower one is not needed."""
_FIRST = (4, 40, 200)
"""Filters and sweeps of a new state, and most sweeps of its highest climbers."""


class Crew(NamedTuple):
    """Sets of vectors that a training state keeps: scouts, some abreast at each frequency, and climbers."""

    frequencies: int
    abreast: int
    climbers: int

    @property
    def scouts(self) -> int:
        """How many."""
        return self.frequencies * self.abreast


@functools.lru_cache(maxsize=256)
def crew(p: int, sizes: tuple[int, ...]) -> Crew:
    """More of all where vectors are short; a matrix has one frequency and one maximum."""
    if math.prod(sizes) == 1:
        return Crew(1, min(6, p), 2)
    short = _short(p, sizes)
    slots = 32 if short else 16
    frequencies = min(len(_lookouts(sizes, short)), slots * 5 // 16)
    abreast = min(2, p)
    return Crew(frequencies, abreast, slots - frequencies * abreast)


def begin(form: Form, starts: Array, seed: int) -> Array:
    """Vectors (b, s, p + sum of sizes) of a new state: what scouts and climbers get to, these from starts alike."""
    xp, team = form.xp, crew(form.p, form.lengths)
    host = _lookout_vectors(
        seed, form.p, form.lengths, "complex128" if form.by_row.dtype == xp.float64 else "complex64"
    )
    scouts = form.ops.from_numpy(host, form.by_row)
    scouts = xp.broadcast_to(scouts, (form.b, *scouts.shape[1:]))
    filters, sweeps, most = _FIRST
    for _ in range(filters):
        scouts = _filtered(form, scouts, team)
    starts = xp.concat([starts] * -(-team.climbers // starts.shape[1]), axis=1)
    now = _round(form, scouts, starts, team, further=sweeps)
    gain, least = xp.ones_like(now.gain), 16 * float(xp.finfo(form.by_row.dtype).eps)
    few, _ = _climbed(form, now._replace(gain=gain), least, most, blind=False)
    return xp.concat([now.scouts, few, now.climbers[:, few.shape[1] :, :]], axis=1)[:, : team.scouts + team.climbers, :]


def follow(form: Form, vectors: Array, rounds: int) -> tuple[Array, Array]:
    """Vectors of the next state, and those (b, 1, p + sum of sizes) of the highest climber.

    Parameters
    ----------
    form : Form
        Of the kernels as they are now.
    vectors : array, shape (b, s, p + sum of sizes)
    rounds : int
        At least so many; 1 or more.
    """
    xp, ops, team = form.xp, form.ops, crew(form.p, form.lengths)
    # Where to look at a number means to wait for it, all is done once.
    blind = ops.asynchronous
    now = _round(form, vectors[:, : team.scouts, :], vectors[:, team.scouts :, :], team)
    for _ in range(rounds - 1):
        now = _round(form, now.scouts, now.climbers, team)

    def lost(state: tuple[Array, ...]) -> Array:
        count, _, _, _, gain, stir = state
        return (count < _SEARCHES) & xp.any((gain > _SEARCH_GAIN) | (stir > _SEARCH_STIR))

    def search(state: tuple[Array, ...]) -> tuple[Array, ...]:
        return (state[0] + 1, *_round(form, _filtered(form, state[1], team), state[2], team, further=_FURTHER))

    state = (arrays.counter(vectors, ops=ops), *now)
    _, *found = search(state) if blind else ops.loop(lost, search, state)
    now = Round(*found)
    few, values = _climbed(form, now, _CLIMB_GAIN, _CLIMBS, blind=blind)
    highest = arrays.pick(few, xp.argmax(values, axis=1), xp=xp)[:, None, :]
    return xp.concat([now.scouts, few, now.climbers[:, few.shape[1] :, :]], axis=1), highest


class Round(NamedTuple):
    """What a round leaves.

    Parameters
    ----------
    scouts, climbers : arrays, shape (b, s, p + sum of sizes)
        Climbers from the highest down.
    values : array, shape (b, h)
        Of the highest climbers.
    gain, stir : arrays, shape (b,)
        What the highest climber gained, and the scouts at most, over the highest value.
    """

    scouts: Array
    climbers: Array
    values: Array
    gain: Array
    stir: Array


def _round(form: Form, scouts: Array, climbers: Array, team: Crew, *, further: int = 0) -> Round:
    """Sweep all once, and on; scouts one power iteration. The highest that stand apart are the new climbers."""
    xp, count = form.xp, team.scouts
    vectors = xp.concat([scouts, climbers], axis=1)
    v, modes = form.split(vectors)
    weights = form.weights(modes)
    u, before = form.left(v, weights)
    rows = form.rows(u)
    at_home, after = form.right(rows[:, :count, ...], weights[:, :count, :])
    at_home, apart = _apart(at_home, team, xp=xp)
    scouts = _or_keep(form, at_home, [x[:, :count, :] for x in modes], after * apart, scouts)
    v, modes, value = form.onward(rows, modes, weights)
    del rows
    moved, old = _or_keep(form, v, modes, value, vectors), vectors
    for _ in range(further):
        (moved, value), old = _hastened(form, moved, old, value), moved
    v, modes = form.split(moved)
    doomed = _needless(v, form.weights(modes), value, ops=form.ops)
    top = xp.max(value, axis=1)
    # In steps, so that mirror images, which have equal values but for rounding, stay in their order.
    rank = xp.floor(4096 * xp.where(doomed, value - 2 * top[:, None], value))
    order = xp.argsort(-rank, axis=1)[:, : climbers.shape[1]]
    climbers = xp.take_along_axis(moved, xp.broadcast_to(order[..., None], (*order.shape, moved.shape[2])), axis=1)
    values, first = (
        xp.take_along_axis(value, order[:, :_HIGHEST], axis=1),
        xp.take_along_axis(before, order[:, :1], axis=1),
    )
    moving = xp.where(apart > 0, after - before[:, :count], xp.zeros_like(after))
    gain, stir = values[:, 0] - first[:, 0], xp.max(moving, axis=1)
    return Round(scouts, climbers, values, *(_share(x, top, xp=xp) for x in (gain, stir)))


def _climbed(form: Form, now: Round, least: float, most: int, *, blind: bool) -> tuple[Array, Array]:
    """The highest climbers after sweeps until the highest gains less, and their values."""
    xp, ops = form.xp, form.ops

    def rising(state: tuple[Array, ...]) -> Array:
        return (state[0] < most) & xp.any(state[4] > least)

    def climb(state: tuple[Array, ...]) -> tuple[Array, ...]:
        count, here, before, value, gain = state
        there, reached = _hastened(form, here, before, value)
        top, highest = xp.max(value, axis=1), xp.max(reached, axis=1)
        # A sweep that began too far ahead gains nothing, and the next, which does not, may gain much.
        gain = xp.maximum(_share(highest - top, highest, xp=xp), gain / 4)
        return (count + 1, there, here, reached, gain)

    few = now.climbers[:, : now.values.shape[1], :]
    state = (arrays.counter(few, ops=ops), few, few, now.values, now.gain)
    _, few, _, values, _ = climb(state) if blind else ops.loop(rising, climb, state)
    return few, values


def _hastened(form: Form, here: Array, before: Array, value: Array) -> tuple[Array, Array]:
    """A sweep from ahead of where the last change points to, unless that is lower: vectors and values.

    Sweeps converge geometrically, and slowly where maxima are nearly equal. Of vectors only the directions count.
    """
    xp = form.xp
    v, modes, reached = form.sweep(*form.split(here + _AHEAD * (here - before)))
    better = (reached >= value) & (reached > 0) & xp.isfinite(reached)
    return xp.where(better[..., None], xp.concat([v, *modes], axis=2), here), xp.where(better, reached, value)


def _filtered(form: Form, scouts: Array, team: Crew) -> Array:
    """Scouts after a Chebyshev filter: it tells nearby singular values apart in far fewer products than iteration."""
    xp = form.xp
    v, modes = form.split(scouts)
    v = xp.reshape(v, (form.b, team.abreast, team.frequencies, form.p))
    weights = form.weights([x[:, : team.frequencies, :] for x in modes])
    room = team.frequencies if form.m * form.p <= _SMALL_MATRIX else max(1, form.taps // 4)
    done, swollen = [], []
    for first in range(0, team.frequencies, room):
        matrix = form.matrices(weights[:, first : first + room, :])
        back = xp.matrix_transpose(matrix)
        x = xp.permute_dims(v[:, :, first : first + room, :], (0, 2, 3, 1))
        image = xp.matmul(matrix, x)
        squares = xp.sum(xp.real(image) ** 2 + xp.imag(image) ** 2, axis=-2)
        cut = xp.maximum(_KNOWN * xp.min(squares, axis=-1), _FLOOR * xp.max(squares, axis=-1))
        scale = xp.astype(_share(xp.full_like(cut, 2.0), cut, xp=xp), x.dtype)[..., None, None]
        before = x * 0
        for step in range(_DEGREE):
            image = xp.conj(xp.matmul(back, xp.conj(image if step == 0 else xp.matmul(matrix, x)))) * scale - x
            x, before = (image if step == 0 else 2 * image - before), x
        done.append(xp.permute_dims(x, (0, 3, 1, 2)))
        swollen.append(xp.permute_dims(squares >= cut[..., None], (0, 2, 1)))
    v, length = arrays.unit(xp.reshape(xp.concat(done, axis=2), (form.b, team.scouts, form.p)), xp=xp)
    v, apart = _apart(v, team, xp=xp)
    # Below the cut a filter mixes singular vectors at will.
    above = xp.reshape(xp.concat(swollen, axis=2), (form.b, team.scouts))
    return _or_keep(form, v, modes, xp.where(above, length * apart, xp.zeros_like(length)), scouts)


def _apart(v: Array, team: Crew, *, xp: Any) -> tuple[Array, Array]:
    """Unit vectors (b, scouts, p), made orthogonal to the others of their frequency by Gram and Schmidt.

    And what was left of them (b, scouts), 0 for next to nothing: where a matrix has lower rank that is rounding.
    """
    abreast, lengths = [v[:, : team.frequencies, :]], [xp.ones_like(xp.real(v[:, : team.frequencies, 0]))]
    for j in range(1, team.abreast):
        x = v[:, j * team.frequencies : (j + 1) * team.frequencies, :]
        for other in abreast:
            x = x - xp.vecdot(other, x)[..., None] * other
        x, length = arrays.unit(x, xp=xp)
        abreast.append(x)
        lengths.append(xp.where(length > _REST, length, xp.zeros_like(length)))
    return xp.concat(abreast, axis=1), xp.concat(lengths, axis=1)


def _needless(v: Array, weights: Array, value: Array, *, ops: ArrayOps) -> Array:
    """Which climbers (b, s) stand where a higher one stands."""
    xp = ops.xp
    overlap = xp.matmul(v, arrays.adjoint(v, xp=xp)) * xp.matmul(weights, arrays.adjoint(weights, xp=xp))
    alike = xp.real(overlap) ** 2 + xp.imag(overlap) ** 2 > _ALIKE**2
    earlier = ops.from_numpy(_earlier(value.shape[1]), value)
    here, there = value[:, :, None], value[:, None, :]
    return xp.any(alike & ((here > there) | ((here == there) & earlier)), axis=1)


@functools.lru_cache(maxsize=64)
def _earlier(count: int) -> np.ndarray:
    """Whether i < j, shape (1, count, count)."""
    return np.tri(count, k=-1, dtype=bool).T[None, ...].copy()


def _or_keep(form: Form, v: Array, modes: list[Array], value: Array, old: Array) -> Array:
    """Vectors one after the other; the old ones where the form vanished or was not finite."""
    xp = form.xp
    good = ((value > 0) & xp.isfinite(value))[..., None]
    return xp.where(good, xp.concat([v, *modes], axis=2), old)


def _share(part: Array, whole: Array, *, xp: Any) -> Array:
    return part / xp.where(whole > 0, whole, xp.ones_like(whole))


@functools.lru_cache(maxsize=256)
def _lookout_vectors(seed: int, p: int, sizes: tuple[int, ...], dtype: str) -> np.ndarray:
    """Scouts (1, s, p + sum of sizes): a coarse frequency each, and a random v until they are filtered."""
    team = crew(p, sizes)
    angles = _lookouts(sizes, _short(p, sizes))
    angles = angles[np.arange(team.frequencies) * len(angles) // team.frequencies]
    abreast = waves(np.tile(angles, (team.abreast, 1)), sizes)
    return np.concatenate(units([arrays.random_vectors(seed + 101, (team.scouts, p)), *abreast], dtype), axis=2)


def _short(p: int, sizes: tuple[int, ...]) -> bool:
    return p * math.prod(sizes) < 512


def _lookouts(sizes: tuple[int, ...], fine: bool) -> np.ndarray:
    """Frequencies (s, d) of a grid with about as many points an axis as taps, one of each pair of mirror images."""
    sides = np.asarray([1 if k == 1 else min(k + (fine or k == 2), 8) for k in sizes])
    grid = full_grid(sides.tolist()).numerators
    kept = sorted({min(tuple(x.tolist()), tuple((-x % sides).tolist())) for x in grid})
    angles: np.ndarray = 2 * np.pi * np.asarray(kept) / sides
    return angles
