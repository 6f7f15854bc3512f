"""Search: weights that make a run's constant small. It proposes, and claims nothing; `segments` proves.

At each frequency the values that later links read have a positive definite matrix F, the Schur complement of the
quadratic form of `segments` where all earlier ones are eliminated. A link with map C from them, multipliers L and
slopes in [a, b] (c and e as in `segments.middle`) makes of it

    [[F - C* e^2 L C, -C* c L], [-L c C, L]],

from which what is read no more is eliminated. It is positive definite for

    L = share D / max_theta ||(h D^1/2) C F^-1 C* (D^1/2 h)||,    h^2 = c^2 + e^2,    0 < share < 1,

whatever the positive diagonal D is; ``share = 1/2``, ``D = 1`` is ECLipsE's closed form [1]_, frequency by frequency.
From there gradient steps (Adam) on log D and the logit of the share: the largest eigenvalues are simple in general, so
that the gradient comes from one frequency for each. Where a run is cut, F begins anew as L, with c = 0 and share 1. The
constant's square is the largest eigenvalue of C F^-1 C* of the last link.

.. [1] Xu, Sivaranjani, "ECLipsE: Efficient Compositional Lipschitz Constant Estimation for Deep Neural Networks",
   NeurIPS 2024.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.backends import backend_for
from specnorm.certified import arithmetic
from specnorm.certified.network.affine_maps import AffineMap, Subnetwork
from specnorm.certified.network.operators.base import FloatArray
from specnorm.networks.stages import Stage, Vectors, adjoint, cost, stages, stages_of

Progress = Callable[[int, int, str], None]
RATE = 2**32
"""Products of numbers in a second, about: what a budget of seconds is counted in, so that it ends at the same step on
every machine."""
ROUNDS = ((6, 20), (6, 30), (10, 50), (16, 100))
"""Rounds of gradient steps: frequencies an axis, and steps; then each with twice as many as the last."""
EXPECTED, NEWTON = 40, 1 / 4
"""Newton steps that are expected; they follow the first round where they take no larger share of the budget."""
WORTH_KEEPING = 2.5e-3
"""Gain of the constant's square that makes another proposal: more than a proof adds."""
MEMORY = 2**30
"""Bytes of what is computed in a step."""
FINEST = 16
"""Frequencies an axis on which the multipliers of the end are made, lest they are infeasible between the others."""
LOOKED_AT, CHEAP = 3, 0.02
"""States that are looked at on the finest grid; part of the budget that may be spent on more."""
REFINED, PEAKS, NEAR = 2, 6, 0.97
"""Of them, whose constants are looked at between its points; near how many of its points, and how high."""
FEWEST = 3
"""Frequencies an axis below which no weights are looked for."""
STEP = 0.07
"""Of Adam, in logarithms of multipliers; it falls to a tenth towards the end of each grid."""
ALMOST = 1 / (1 + math.exp(-16))
"""The largest share."""
PATIENCE = 25
"""Steps without a gain of a thousandth after which a grid is left."""


@dataclass(eq=False)
class _Kept:
    """What the way back needs of one stage."""

    multipliers: FloatArray
    largest: tuple[float, int, Vectors]
    solved: Vectors | None
    eliminated: Vectors | None


def value_and_gradient(
    run: Sequence[Stage], logs: Sequence[FloatArray], logits: FloatArray
) -> tuple[float, list[FloatArray], list[FloatArray], FloatArray]:
    """Logarithm of the constant's square on the grid, the multipliers, and its gradient.

    Parameters
    ----------
    run : sequence of Stage
        l of them.
    logs : sequence of array
        log D of the first l - 1.
    logits : array, shape (l - 1,)
        Of the shares.

    Returns
    -------
    value : float
    multipliers : list of array
    gradient : list of array, array
        With respect to logs and logits.
    """
    shares = _shares(run, logits)
    kept = _forward(run, [*logs, _last(run)], shares)
    return math.log(kept[-1].largest[0]), [each.multipliers for each in kept[:-1]], *_back(run, kept, shares)


def value_alone(run: Sequence[Stage], logs: Sequence[FloatArray], logits: FloatArray) -> tuple[float, list[FloatArray]]:
    """The first two results of `value_and_gradient`."""
    kept = _forward(run, [*logs, _last(run)], _shares(run, logits), tape=False)
    return math.log(kept[-1].largest[0]), [each.multipliers for each in kept[:-1]]


def _last(run: Sequence[Stage]) -> FloatArray:
    """log D of the last: it has no multipliers."""
    return np.zeros(run[-1].symbols.shape[1])


def _shares(run: Sequence[Stage], logits: FloatArray) -> FloatArray:
    """Of each stage; all of it at a cut."""
    return np.where([stage.cut for stage in run], 1.0, 1 / (1 + np.exp(-np.append(logits, 0.0))))


def _forward(
    run: Sequence[Stage],
    logs: Sequence[FloatArray],
    shares: FloatArray | None,
    *,
    tape: bool = True,
    diagonal: FloatArray | None = None,
) -> list[_Kept]:
    """``shares``: None where D are the multipliers themselves; ``diagonal``: what the first value begins with."""
    kept: list[_Kept] = []
    form: Vectors | None = None  # a diagonal
    dense = 0
    real = run[0].symbols.real.dtype
    diagonal = np.ones(run[0].symbols.shape[2]) if diagonal is None else diagonal
    for i, (stage, log) in enumerate(zip(run, logs, strict=True)):
        right = adjoint(stage.symbols)
        solved = right / diagonal[:, None].astype(real) if form is None else _solved(form, right, dense)
        weight = np.exp(log / 2) * stage.spread
        gram, narrow = stage.symbols @ solved, weight.astype(real)
        norm, at, vector = stage.largest(narrow[:, None] * gram * narrow)
        if norm <= 0:  # a layer of zeros: any multipliers will do
            norm = 1.0
        share = 1.0 if stage.cut else min(norm, ALMOST) if shares is None else shares[i]
        lam = share * np.exp(log) / norm
        eliminated = None
        if stage.cut:
            form, diagonal = None, np.repeat(lam, stage.copies)
        elif not len(stage.kept) and not stage.leaf.any():
            steep = (stage.centre * lam).astype(real)
            gram *= -steep[:, None]
            gram *= steep
            own = np.arange(len(lam))
            gram[:, own, own] += lam.astype(real)
            form, dense = gram, 0
        else:
            before = form if form is not None else diagonal.astype(real) * np.eye(len(diagonal), dtype=real)
            form, eliminated = _eliminated(stage, before, lam.astype(real))
            dense = len(stage.kept) if len(stage.kept) == stage.symbols.shape[2] else 0
        kept.append(_Kept(lam, (norm, at, vector * weight), *((solved, eliminated) if tape else (None, None))))
    return kept


def _solved(form: Vectors, right: Vectors, dense: int) -> Vectors:
    """``form^-1 right``; ``dense``: entries but for which the form is diagonal, 0: all."""
    if not dense:
        return np.asarray(np.linalg.solve(form, right))
    between, diagonal = form[:, :dense, dense:], np.einsum("kii->ki", form[:, dense:, dense:]).real
    scaled = between / diagonal[:, None]
    inner = form[:, :dense, :dense] - scaled @ adjoint(between)
    first = np.linalg.solve(inner, right[:, :dense] - scaled @ right[:, dense:])
    second = (right[:, dense:] - adjoint(between) @ first) / diagonal[..., None]
    return np.concatenate([first, second], axis=1)


def _eliminated(stage: Stage, form: Vectors, lam: FloatArray) -> tuple[Vectors, Vectors]:
    """F after a link, and ``F_rr^-1 F_rk`` (r: what is read no more; k: kept, the link last)."""
    if stage.leaf.any():
        form = form - adjoint(stage.symbols) @ ((stage.leaf.astype(lam.dtype) ** 2 * lam)[:, None] * stage.symbols)
    joint: Vectors = -(stage.centre.astype(lam.dtype) * lam)[:, None] * stage.symbols
    gone, stay = _split(stage)
    m, n = len(lam), len(stay)
    new = np.zeros((joint.shape[0], n + m, n + m), dtype=joint.dtype)
    new[:, n:, n:] = np.diag(lam)
    between = adjoint(joint)[:, gone]
    if n:
        wide = np.broadcast_to(form, (joint.shape[0], *form.shape[-2:]))
        new[:, :n, :n] = wide[:, stay[:, None], stay]
        new[:, n:, :n], new[:, :n, n:] = joint[:, :, stay], adjoint(joint)[:, stay]
        between = np.concatenate([wide[:, gone[:, None], stay], between], axis=2)
    if not len(gone):
        return new, between
    inner = form if not n else form[..., gone[:, None], gone]
    solved = np.linalg.solve(np.broadcast_to(inner, (joint.shape[0], *inner.shape[-2:])), between)
    return new - adjoint(between) @ solved, solved


def _split(stage: Stage) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which of the values before a link go, and which stay."""
    return np.setdiff1d(np.arange(stage.symbols.shape[2]), stage.kept), stage.kept


def _back(run: Sequence[Stage], kept: Sequence[_Kept], shares: FloatArray) -> tuple[list[FloatArray], FloatArray]:
    """The gradient: F's cotangents, at the few frequencies where a largest eigenvalue is."""
    logs: list[FloatArray] = []
    logits = np.zeros(len(kept))
    at_all: list[int] = []
    cotangents: Vectors = np.zeros((0, 0, 0))
    after: FloatArray | None = None  # of the diagonal that the next part begins with
    for i in range(len(kept) - 1, -1, -1):
        stage, each = run[i], kept[i]
        lam, (norm, at, vector) = each.multipliers, each.largest
        of_lam = np.zeros(len(lam))
        before: Vectors = np.zeros((0, stage.symbols.shape[2], stage.symbols.shape[2]), dtype=stage.symbols.dtype)
        if stage.cut:
            at_all = []
            if after is not None:
                of_lam = after.reshape(len(lam), -1).sum(axis=1)
        elif at_all:
            before, of_lam = _through(stage, each, lam, np.asarray(at_all), cotangents)
        total = float(np.sum(of_lam * lam))
        pull = 1.0 if i == len(kept) - 1 else -total  # d value / d log norm
        assert each.solved is not None  # for the type checker: there is a tape
        reached = each.solved[at] @ vector
        new = -(pull / norm) * np.outer(reached, reached.conj())
        at_all, cotangents = _with(at_all, before, at, new)
        if i < len(kept) - 1:
            shape = (vector.conj() * (stage.symbols[at] @ reached)).real / norm
            logs.append(of_lam * lam - total * shape)
            logits[i] = 0.0 if stage.cut else total * (1 - shares[i])
        if stage.starts:
            after = np.einsum("kii->i", cotangents).real
    return logs[::-1], logits[:-1]


def _with(at_all: list[int], cotangents: Vectors, at: int, new: Vectors) -> tuple[list[int], Vectors]:
    if at in at_all:
        cotangents[at_all.index(at)] += new
        return at_all, cotangents
    return [*at_all, at], np.concatenate([cotangents, new[None]])


def _through(
    stage: Stage, each: _Kept, lam: FloatArray, rows: NDArray[np.intp], cotangents: Vectors
) -> tuple[Vectors, FloatArray]:
    """Cotangents of F before a link, and of the link's multipliers, from those of F after it."""
    gone, stay = _split(stage)
    p, m = stage.symbols.shape[2], len(lam)
    if each.eliminated is not None:
        t = each.eliminated[rows]
    else:
        assert each.solved is not None  # for the type checker: there is a tape
        t = -each.solved[rows] * (stage.centre * lam)
    symbols = stage.symbols[rows]
    # Of the matrix before elimination, values first: [[F, F_b], [F_b*, L]].
    whole = np.zeros((len(rows), p + m, p + m), dtype=stage.symbols.dtype)
    behind = np.concatenate([stay, np.arange(p, p + m)])
    whole[:, behind[:, None], behind] = cotangents
    if len(gone):
        up = t @ cotangents
        whole[:, gone[:, None], behind] = -up
        whole[:, behind[:, None], gone] = -adjoint(up)
        whole[:, gone[:, None], gone] = up @ adjoint(t)
    inner, between = whole[:, :p, :p], whole[:, :p, p:]
    # Diagonals of C F_b and C F C*, F here the cotangents.
    of_lam = np.einsum("kii->i", whole[:, p:, p:]).real
    of_lam = of_lam - 2 * stage.centre * np.einsum("kmp,kpm->m", symbols, between).real
    if stage.leaf.any():
        of_lam = of_lam - stage.leaf**2 * np.einsum("kmp,kmp->m", symbols @ inner, symbols.conj()).real
    return inner.copy(), of_lam


def parameters(run: Sequence[Stage], multipliers: Sequence[FloatArray]) -> list[FloatArray]:
    """Logarithms of D and logits of the shares with which multipliers are these ones, as far as they are feasible."""
    logs = [np.log(each) for each in multipliers]
    norms = np.array([each.largest[0] for each in _forward(run, [*logs, _last(run)], None, tape=False)[:-1]])
    norms = np.minimum(norms, ALMOST)
    return [*logs, np.log(norms / (1 - norms))]


def search(
    run: Subnetwork, parts: Sequence[tuple[int, int]], steps: int, seconds: float, progress: Progress | None = None
) -> list[list[FloatArray]]:
    """Weights of each link's values, for `segments.constant_of_run`: several, the most promising first; or none.

    What is found on the way to a budget is found on the way to a larger one, and kept where it was better by
    `WORTH_KEEPING` than what was kept before it, or is the end of the search.

    Parameters
    ----------
    steps : int
        Gradient or Newton steps at most, rounded down to 1, 2 or a multiple of 5; 0: the closed form.
    seconds : float
        Of `RATE` products each, after which no step is begun.
    progress : callable, optional
        Called after each step with (steps done, steps at most, between which values).
    """
    like: Any = run.links[0].slopes[0]
    with arithmetic.exact(like, backend=backend_for(like)):
        return _Search(run, parts, steps, seconds * RATE, progress).run()


def _is_kept(at: int) -> bool:
    """Whether the state after so many steps may be proposed."""
    return at % 5 == 0 or at in (1, 2)


class _Search:
    """One search: where it stands, what it may still cost, and what it proposes."""

    def __init__(
        self, run: Subnetwork, parts: Sequence[tuple[int, int]], steps: int, budget: float, progress: Progress | None
    ) -> None:
        self.network, self.parts, self.links = run, parts, run.links[:-1]
        self.steps, self.left, self.whole, self.progress = steps, budget, budget, progress
        self.most = next(at for at in range(steps, -1, -1) if _is_kept(at))
        self.ends = np.cumsum([link.width for link in self.links])
        self.point = np.zeros(sum(link.width for link in self.links) + len(self.links))
        self.done = 0
        self.states: list[tuple[float, FloatArray]] = []
        """Where it stood, and what that was worth on its grid."""
        self.counted = 0
        self.dtype: Any = np.complex64
        self.points = self._affordable(FINEST, budget / 10)
        self.fine: list[Stage] = [] if self.points is None else stages(run, parts, self.points, self.dtype)

    def run(self) -> list[list[FloatArray]]:
        """All of it."""
        first = self._affordable(ROUNDS[0][0], self.left)
        if first is None:
            return []
        grid = stages(self.network, self.parts, first)
        self._keep(self._value(grid)[0], anew=True)
        narrow = stages(self.network, self.parts, first, self.dtype)
        if not abs(self._value(narrow)[0] - self.states[0][0]) < WORTH_KEEPING:
            self.dtype, narrow = np.complex128, grid
            self.fine = [] if self.points is None else stages(self.network, self.parts, self.points)
        with contextlib.suppress(np.linalg.LinAlgError):  # what was found before is worth as much
            self._go_on()
        self.fine, self.points = self.fine or grid, self.points or first
        return [self._weights(*each) for each in sorted(self._refined(), key=lambda found: found[0])]

    def _refined(self) -> list[tuple[float, list[FloatArray]]]:
        """Constants and multipliers, feasible on the finest grid.

        The last states are looked at, and earlier ones while that is cheap; the constants between the points of the
        grid, of the best few; the others' are as much larger.
        """
        found: list[tuple[float, list[FloatArray], list[FloatArray]]] = []
        assert self.points is not None  # for the type checker
        each = cost(self.network, self.parts, self.points).products
        for count, (_, self.point) in enumerate(reversed(self.states)):
            if count >= LOOKED_AT and count * each > CHEAP * self.whole:
                break
            with contextlib.suppress(np.linalg.LinAlgError, ValueError):
                of_parts = [self.fine[last - 1] for _, last in self.parts]
                found.append((*self._value(self.fine), [stage.values for stage in of_parts]))
        found.sort(key=lambda state: state[0])
        with contextlib.suppress(np.linalg.LinAlgError, ValueError):
            rises = [self._rises(*best[1:]) for best in found[:REFINED]]
            rises += [np.min(rises, axis=0)] * (len(found) - len(rises))
            return [self._raised(*state[:2], more) for state, more in zip(found, rises, strict=True)]
        return [state[:2] for state in found]

    def _raised(
        self, value: float, multipliers: Sequence[FloatArray], rises: FloatArray
    ) -> tuple[float, list[FloatArray]]:
        """Where the square of each part's constant is ``exp(rise)`` times larger."""
        better, so_far = [], 0.0
        for (first, last), more in zip(self.parts, rises, strict=True):
            better += [each * math.exp(-so_far) for each in multipliers[first : last - 1]]
            so_far += float(more)
            better += [each * math.exp(-so_far) for each in multipliers[last - 1 : last]]
        return value + so_far, better

    def _rises(self, multipliers: Sequence[FloatArray], on_grid: Sequence[FloatArray]) -> FloatArray:
        """Logarithm of how much larger the square of each part's constant is between the points of the finest grid."""
        logs, rises = [*map(np.log, multipliers), _last(self.fine)], np.zeros(len(self.parts))
        diagonal: FloatArray | None = None
        for at, ((first, last), known) in enumerate(zip(self.parts, on_grid, strict=True)):

            def values(angles: FloatArray, part: Any = (first, last), begins: Any = diagonal) -> FloatArray:
                grid = stages_of(self.network, self.parts, part, angles, np.complex128)
                kept = _forward(grid, logs[slice(*part)], None, tape=False, diagonal=begins)
                feasible = all(each.largest[0] < ALMOST for each in kept[:-1])
                return grid[-1].values if feasible else np.full(len(angles), math.inf)

            if (angles := self.fine[first].angles).any():
                on_this = known * (float(values(angles[known.argmax()][None])[0]) / float(known.max()))
                rises[at] = math.log(highest(values, angles, on_this) / float(on_this.max()))
            diagonal = np.repeat(np.exp(logs[last - 1]), self.fine[last - 1].copies)
        return np.clip(rises, 0.0, 1.0)

    def _go_on(self) -> None:
        """Rounds of gradient steps, and Newton steps after the first."""
        grid: tuple[int, list[Stage]] | None = None
        ended = False
        for wanted, steps in self._rounds():
            if ended or self.done >= self.most:
                break
            points = self._affordable(wanted, self.left)
            if points is None:
                break
            if grid is None or grid[0] != points:
                grid = points, stages(self.network, self.parts, points, self.dtype)
            known = len(self.states)
            self._descend(grid[1], steps, cost(self.network, self.parts, points).products)
            if wanted == ROUNDS[-1][0] and len(self.states) == known:
                break
            ended = self.done < self.most and self._newton(grid[1])

    def _rounds(self) -> Iterator[tuple[int, int]]:
        yield from ROUNDS
        points, steps = ROUNDS[-1]
        while True:
            steps += steps
            yield points, steps

    def _affordable(self, points: int, left: float) -> int | None:
        """Points of a grid whose steps are within what is left, with fewer if need be; None: there is none."""
        while points >= FEWEST:
            step = cost(self.network, self.parts, points)
            if step.products <= left and step.memory <= MEMORY:
                return points
            points -= 2
        return None

    def _tick(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.steps, f"{self.network.start} to {self.network.end}")

    def _value(self, grid: Sequence[Stage]) -> tuple[float, list[FloatArray]]:
        """`value_alone` where it stands."""
        *logs, logits = np.split(self.point, self.ends)
        return value_alone(grid, logs, logits)

    def _keep(self, value: float, *, anew: bool = False) -> None:
        """Where it stands, if that is better than what is kept; ``anew``: whether or not."""
        if anew or value < self.states[-1][0] - WORTH_KEEPING:
            self.states.append((value, self.point))

    def _weights(self, value: float, multipliers: Sequence[FloatArray]) -> list[FloatArray]:
        """The last value is weighed by the constant, so that the norms of all parts are about 1."""
        last = np.full(self.network.links[-1].width, math.exp(-value / 2))
        return [*(np.sqrt(each) for each in multipliers), last]

    def _descend(self, grid: Sequence[Stage], steps: int, each: float) -> None:
        """Adam from where it stands to the best point that it sees."""
        point, first, second = self.point, np.zeros_like(self.point), np.zeros_like(self.point)
        best: float | None = None
        since, fresh = 0, len(grid[0].symbols) != self.counted
        self.counted = len(grid[0].symbols)
        for at in range(steps + 1):
            if self.left < each:
                break
            *logs, logits = np.split(point, self.ends)
            value, _, logs_back, logits_back = value_and_gradient(grid, logs, logits)
            self.left -= each
            since = 0 if best is None or value < best - 1e-3 else since + 1
            if best is None or value < best:
                best, self.point = value, point
            if at:
                self._tick()
                if _is_kept(self.done):
                    self._keep(best, anew=fresh)
                    fresh = False
            if at == steps or since > PATIENCE or self.done >= self.most:
                break
            logs_back = [_grouped(slope, link) for slope, link in zip(logs_back, self.links, strict=True)]
            slope = np.concatenate([*logs_back, logits_back])
            first, second = 0.9 * first + 0.1 * slope, 0.99 * second + 0.01 * slope**2
            step = STEP * min(1.0, 0.1 + 1.8 * (1 - at / steps))
            mean, spread = first / (1 - 0.9 ** (at + 1)), np.sqrt(second / (1 - 0.99 ** (at + 1)))
            point = point - step * mean / (spread + 1e-12)

    def _newton(self, grid: Sequence[Stage]) -> bool:
        """Newton steps to the end, where they take a share of the budget; whether there were any."""
        from specnorm.networks import barrier  # `import specnorm` needs none

        each = barrier.products(self.network, self.parts)
        if EXPECTED * each > min(self.left, NEWTON * self.whole):
            return False
        *logs, logits = np.split(self.point, self.ends)
        value, multipliers = value_alone(grid, logs, logits)
        for better, ends in barrier.improve(grid, self.links, multipliers, math.exp(value)):
            self.left -= each
            self._tick()
            if ends or _is_kept(self.done):
                self.point = np.concatenate(parameters(grid, better))
                self._keep(self._value(grid)[0], anew=ends)
            if self.done >= self.most or self.left < each:
                break
        return True


def highest(values: Callable[[FloatArray], FloatArray], grid: FloatArray, on_grid: FloatArray) -> float:
    """The largest value near the highest points of a grid, by parabolas along the axes.

    Parameters
    ----------
    values : callable
        At angles (f, d).
    grid : array, shape (f, d)
        Angles, `on_grid` their values.
    """
    step = np.asarray([np.min(axis[axis > 0], initial=math.pi) if axis.any() else 0.0 for axis in grid.T])
    peaks: list[FloatArray] = []
    for at in np.argsort(-on_grid):
        apart = [np.minimum(*(abs(_turned(grid[at] - sign * each)) for sign in (1, -1))) for each in peaks]
        if len(peaks) < PEAKS and on_grid[at] > NEAR * on_grid.max() and all((d > 1.5 * step).any() for d in apart):
            peaks.append(grid[at])
    centres, best = np.asarray(peaks), float(on_grid.max())
    axes = np.flatnonzero(step)
    for share in (1 / 2, 1 / 4, 1 / 8):
        moves = np.concatenate([np.zeros((1, len(step))), *(sign * share * np.diag(step)[axes] for sign in (1, -1))])
        found = values((centres[:, None] + moves).reshape(-1, len(step))).reshape(len(centres), -1)
        best = max(best, float(found.max()))
        if not math.isfinite(best):
            break
        here, after, before = found[:, :1], found[:, 1 : 1 + len(axes)], found[:, 1 + len(axes) :]
        bend = np.maximum(2 * here - after - before, 1e-12 * here)
        centres[:, axes] += np.clip((after - before) / (2 * bend), -1, 1) * share * step[axes]
    return best


def _turned(angles: FloatArray) -> FloatArray:
    """Between -pi and pi."""
    return np.asarray((angles + math.pi) % (2 * math.pi) - math.pi)


def _grouped(slope: FloatArray, link: AffineMap) -> FloatArray:
    """A gradient with respect to one number a group, at each of its channels."""
    if link.groups is None:
        return slope
    sums: FloatArray = np.zeros(int(link.groups.max()) + 1)
    np.add.at(sums, link.groups, slope)
    return sums[link.groups]
