"""Newton steps of a barrier method, for runs of matrices, which have one frequency.

The quadratic form of each part of a run is ``P = sum_k s_k x_k u_k u_k'``, with signs s_k, vectors u_k that the
matrices give, and unknowns x_k: the multipliers and the square of the constant, which weighs the first value. The least
constant with all P positive definite is LipSDP's program; minimized is

    t const^2 - sum over parts of log det P,

for t that grows. With X the inverse of P the gradient has ``-s_k u_k' X u_k``, the Hessian ``s_k s_l (u_k' X u_l)^2``:
nothing is larger than P and the matrix of all unknowns. u_k is z - c w or h w, w a row of a matrix, as
``z^2 - 2 c z v - e^2 v^2 = (z - c v)^2 - h^2 v^2``, ``h^2 = c^2 + e^2``, for the slopes in [a, b] of `segments.middle`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from specnorm_networks.certified.links import Link
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.descent.stages import Stage

FACTOR = 4.0
"""Factor by which t grows."""
GAP = 1e-4
"""The steps end when the constant's square is this close, relatively, to its least value."""
GAIN = 2e-3
"""The steps end when a larger t gained less than this; the next one gains a quarter of it."""
CENTRED = 0.9
"""Newton decrement below which t grows."""
INWARD = 1.05
"""Factor by which the square of the first constant exceeds that of the given multipliers."""
SHARE = 0.3
"""Smallest share of an eigenvalue that a step may leave."""
SHORTER = 0.6
"""Factor by which a step is shortened."""
SHORTEST = 24
"""Largest number of times that a step is shortened."""

Numbers = NDArray[np.intp]


class PartForm(NamedTuple):
    """P of one part: of its values but the last, one after the other."""

    vectors: FloatArray
    """The vectors u_k as columns, shape (entries, vectors)."""
    signs: FloatArray
    unknowns: Numbers
    """Number of the unknown of each vector."""

    @staticmethod
    def of(stages: Sequence[Stage], entry_unknowns: Numbers, row_unknowns: Numbers) -> PartForm:
        """Return P for the unknowns of each entry, and of each row of the matrices."""
        count = len(entry_unknowns)
        inner = len(row_unknowns) - len(stages[-1].centre)
        rows = np.zeros((len(row_unknowns), count))
        ends = np.cumsum([len(stage.centre) for stage in stages])
        for stage, end in zip(stages, ends.tolist(), strict=True):
            rows[end - len(stage.centre) : end, stage.alive] = stage.symbols[0]
        centre = np.concatenate([stage.centre for stage in stages])[:inner]
        spread = np.concatenate([stage.spread for stage in stages])
        entries = np.eye(count)
        entries[:, count - inner :] -= rows[:inner].T * centre
        return PartForm(
            np.concatenate([entries, rows.T * spread], axis=1),
            np.repeat([1.0, -1.0], [count, len(row_unknowns)]),
            np.concatenate([entry_unknowns, row_unknowns]),
        )

    def at(self, x: FloatArray) -> FloatArray:
        """Return P for some unknowns."""
        return np.asarray((self.vectors * (self.signs * x[self.unknowns])) @ self.vectors.T)

    def add_derivatives(self, p: FloatArray, gradient: FloatArray, hessian: FloatArray) -> None:
        """Add the derivatives of ``-log det P`` to a gradient and a Hessian."""
        products = self.vectors.T @ np.linalg.solve(p, self.vectors)
        np.add.at(gradient, self.unknowns, -self.signs * np.diag(products))
        half_summed = np.zeros((len(gradient), len(self.unknowns)))
        np.add.at(half_summed, self.unknowns, self.signs[:, None] * products**2 * self.signs)
        np.add.at(hessian.T, self.unknowns, half_summed.T)


class Program(NamedTuple):
    """The forms of all parts, and the numbers of the unknowns.

    First come the multipliers of each link but the last, then the square of the constant, then a number that stays:
    the multiplier of the last link.
    """

    forms: list[PartForm]
    unknowns_of_links: list[Numbers]
    constant: int
    """Number of the unknown that is the square of the constant."""


def _program(run: Sequence[Stage], links: Sequence[Link]) -> Program:
    unknowns_of_links: list[Numbers] = []
    count = 0
    for stage, link in zip(run[:-1], links, strict=False):
        numbers = np.arange(stage.symbols.shape[1]) if link.groups is None else link.groups
        unknowns_of_links.append(count + numbers)
        count += int(numbers.max()) + 1
    unknowns_of_last_link = np.full(run[-1].symbols.shape[1], count + 1)
    unknowns_of_rows = [*unknowns_of_links, unknowns_of_last_link]
    forms = []
    starts = [number for number, stage in enumerate(run) if stage.starts]
    for first, last in itertools.pairwise([*starts, len(run)]):
        if first == 0:
            entry = np.full(run[0].symbols.shape[2], count)
        else:
            entry = np.repeat(unknowns_of_rows[first - 1], run[first - 1].copies)
        of_part = unknowns_of_rows[first:last]
        entries = np.concatenate([entry, *of_part[:-1]])
        forms.append(PartForm.of(run[first:last], entries, np.concatenate(of_part)))
    return Program(forms, unknowns_of_links, count)


def newton_steps(
    run: Sequence[Stage],
    links: Sequence[Link],
    multipliers: Sequence[FloatArray],
    constant_sq: float,
) -> Iterator[tuple[list[FloatArray], bool]]:
    """Yield better and better multipliers, and whether they are the last.

    ``multipliers``: feasible ones, to begin with. ``constant_sq``: the square of their constant.
    """
    program = _program(run, links)
    constant = program.constant
    x = _first_point(run, program, multipliers, constant_sq)
    order = sum(len(form.vectors) for form in program.forms)
    t = float(order)
    constant_before = math.inf
    is_last = _barrier([form.at(x) for form in program.forms]) == math.inf  # not feasible, by rounding
    while not is_last:
        matrices = [form.at(x) for form in program.forms]
        move, decrement = _newton_move(program.forms, matrices, x, t)
        size = _line_search(program, matrices, move, t)
        x = x + size * move
        gains_little = size == 0
        if decrement < CENTRED and size == 1:
            gains_little = constant_before / x[constant] < 1 + GAIN
            t *= FACTOR
            constant_before = x[constant]
        elif size * move[constant] > 0:
            t *= FACTOR
        is_last = bool(gains_little or order < GAP * t * x[constant])
        yield _multipliers_of(x, program), is_last


def _first_point(
    run: Sequence[Stage],
    program: Program,
    multipliers: Sequence[FloatArray],
    constant_sq: float,
) -> FloatArray:
    """Return unknowns that are feasible with room to all sides, in units in which the first value weighs 1."""
    x = np.ones(program.constant + 2)
    # Every part ends a little looser than it begins.
    cuts = np.cumsum([stage.cut for stage in run])
    for unknowns, numbers, cuts_so_far in zip(program.unknowns_of_links, multipliers, cuts, strict=False):
        x[unknowns] = numbers / INWARD ** (cuts_so_far / cuts[-1])
    x[program.constant + 1] = 1 / (constant_sq * INWARD)
    return x


def _multipliers_of(x: FloatArray, program: Program) -> list[FloatArray]:
    """Return the multipliers in units of the first value's weight."""
    return [x[unknowns] / x[program.constant] for unknowns in program.unknowns_of_links]


def _line_search(
    program: Program,
    matrices: Sequence[FloatArray],
    move: FloatArray,
    t: float,
) -> float:
    """Return the largest share of a step that gains and leaves each eigenvalue a share of its old value; 0: none."""
    constant = program.constant
    barrier = _barrier(matrices)
    changes = [form.at(move) for form in program.forms]
    for size in SHORTER ** np.arange(SHORTEST):
        new_matrices = [p + size * change for p, change in zip(matrices, changes, strict=True)]
        # Near the border steps are short.
        reduced = [new_p - SHARE * p for p, new_p in zip(matrices, new_matrices, strict=True)]
        if _barrier(reduced) < math.inf and _barrier(new_matrices) + t * size * move[constant] < barrier:
            return float(size)
    return 0.0


def _newton_move(
    forms: Sequence[PartForm],
    matrices: Sequence[FloatArray],
    x: FloatArray,
    t: float,
) -> tuple[FloatArray, float]:
    """Return the Newton step, 0 for the last unknown, and its decrement."""
    gradient = np.zeros(len(x))
    hessian = np.zeros((len(x), len(x)))
    for form, matrix in zip(forms, matrices, strict=True):
        form.add_derivatives(matrix, gradient, hessian)
    gradient = gradient[:-1]
    hessian = hessian[:-1, :-1]
    gradient[-1] += t
    # Scaled to a unit diagonal, and regularised.
    scale = 1 / np.sqrt(np.diag(hessian))
    scaled = hessian * scale * scale[:, None] + 1e-13 * np.eye(len(scale))
    move = -scale * np.linalg.solve(scaled, scale * gradient)
    return np.append(move, 0.0), math.sqrt(max(-float(gradient @ move), 0.0))


def _barrier(matrices: Sequence[FloatArray]) -> float:
    """Return ``-log det`` of all together; infinity if one is not positive definite."""
    total = 0.0
    for matrix in matrices:
        try:
            factor = np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            return math.inf
        total += float(np.log(np.diag(factor)).sum())
    return -2 * total if math.isfinite(total) else math.inf
