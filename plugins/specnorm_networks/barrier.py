"""Search: multipliers of a run by a barrier method, Newton steps and all. It proposes, and claims nothing.

For matrices, which have one frequency: the quadratic form of each part of a run (`segments`) is
``P = sum_k s_k x_k u_k u_k'``, with signs s_k, vectors u_k that the matrices give, and unknowns x_k: the multipliers
and the square of the constant, which weighs the first value. The least constant with all P positive definite is
LipSDP's program; minimised is

    t const^2 - sum over parts of log det P,

for t that grows. With X the inverse of P the gradient has ``-s_k u_k' X u_k``, the Hessian ``s_k s_l (u_k' X u_l)^2``:
nothing is larger than P and the matrix of all unknowns. u_k is z - c w or h w, w a row of a matrix, as
``z^2 - 2 c z v - e^2 v^2 = (z - c v)^2 - h^2 v^2``, ``h^2 = c^2 + e^2``, for the slopes in [a, b] of `segments.middle`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specnorm_networks.certified.affine_maps import AffineMap, Subnetwork
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.stages import Stage, frequencies, widths_of

FACTOR = 4.0
"""By which t grows."""
GAP, GAIN = 1e-4, 5e-5
"""Ends: the relative distance of the constant's square from its least value, or the gain by a larger t, or
of ten steps, for which it would not go on."""
CENTRED = 0.9
"""Newton decrement below which t grows."""
INWARD = 1.05
"""The square of the constant that it begins with, over that of the multipliers that it is given."""
SHARE, SHORTEST = 0.3, 24
"""What is left of an eigenvalue at least; how often a step is shortened at most."""


@dataclass(frozen=True, eq=False)
class _Form:
    """P of one part: of values one after the other.

    Parameters
    ----------
    maps : list of (array, integer array)
        Of each link: its matrix (m, p), and the numbers of the p entries that it reads.
    centre : array, shape (n,)
        c of each entry; 0 for the first value's.
    owner, behind : integer array, shapes (n,), (m,)
        Number of the unknown of each entry, and of each row of the maps.
    spread : array, shape (m,)
        h of each row.
    """

    maps: list[tuple[FloatArray, NDArray[np.intp]]]
    centre: FloatArray
    owner: NDArray[np.intp]
    behind: NDArray[np.intp]
    spread: FloatArray

    def at(self, x: FloatArray) -> FloatArray:
        """P."""
        found = np.diag(x[self.owner])
        row = 0
        first = len(found) - sum(len(matrix) for matrix, _ in self.maps[:-1])
        for i, (matrix, reads) in enumerate(self.maps):
            rows = slice(row, row + len(matrix))
            weight, leaf_sq = x[self.behind[rows]], self.spread[rows] ** 2
            if i < len(self.maps) - 1:
                own = np.arange(first + row, first + row + len(matrix))
                between = -(self.centre[own] * weight)[:, None] * matrix
                found[np.ix_(own, reads)] += between
                found[np.ix_(reads, own)] += between.T
                leaf_sq = np.maximum(leaf_sq - self.centre[own] ** 2, 0.0)
            if leaf_sq.any():
                found[np.ix_(reads, reads)] -= matrix.T @ ((leaf_sq * weight)[:, None] * matrix)
            row += len(matrix)
        return found

    def derivatives(self, x: FloatArray, gradient: FloatArray, hessian: FloatArray) -> None:
        """Add those of ``-log det P``."""
        inverse = np.linalg.inv(self.at(x))
        right = np.concatenate([inverse[:, reads] @ matrix.T for matrix, reads in self.maps], axis=1)
        both = np.concatenate([matrix @ right[reads] for matrix, reads in self.maps])
        # Of z - c w, c = 0 for the first value's entries, and of h w.
        n, m = right.shape
        first = n - m + len(self.maps[-1][0])
        c = self.centre[first:]
        less = right[:, : n - first] * c
        own = inverse
        own[:, first:] -= less
        own[first:, :] -= less.T
        own[first:, first:] += c[:, None] * both[: n - first, : n - first] * c
        mixed = right * self.spread
        mixed[first:] -= c[:, None] * both[: n - first] * self.spread
        outer = self.spread[:, None] * both * self.spread
        owners = np.concatenate([self.owner, self.behind])
        np.add.at(gradient, owners, np.concatenate([-np.diag(own), np.diag(outer)]))
        squares = np.block([[own**2, -(mixed**2)], [-(mixed**2).T, outer**2]])
        rows = np.zeros((len(gradient), n + m))
        np.add.at(rows, owners, squares)
        np.add.at(hessian.T, owners, rows.T)


def products(run: Subnetwork, parts: Sequence[tuple[int, int]]) -> float:
    """Of real numbers, that a step takes; infinite where a layer has more than one frequency."""
    found, unknowns = 0.0, 0
    for first, last in parts:
        part = run.part(first, last)
        widths = widths_of(part)
        if frequencies(part, 2) > 1:
            return math.inf
        n, m = sum(widths[:-1]), sum(widths[1:])
        read = sum(link.width * sum(widths[s - first] for s in link.sources) for link in part.links)
        found += 2.0 * n**3 + 2.0 * n * read + 4.0 * (n + m) ** 2
        unknowns += m
    return found + unknowns**3 / 3 + 4.0 * unknowns**2


def _parts(run: Sequence[Stage]) -> list[tuple[int, int]]:
    starts = [at for at, stage in enumerate(run) if stage.starts]
    return list(zip(starts, [*starts[1:], len(run)], strict=True))


def _forms(run: Sequence[Stage], links: Sequence[AffineMap]) -> tuple[list[_Form], list[NDArray[np.intp]], int]:
    """P of each part, and the numbers of the unknowns: those of each link but the last; then the constant; then 1."""
    owners: list[NDArray[np.intp]] = []
    count = 0
    for stage, link in zip(run[:-1], links, strict=False):
        numbers = np.arange(stage.symbols.shape[1]) if link.groups is None else link.groups
        owners.append(count + numbers)
        count += int(numbers.max()) + 1
    owners.append(np.full(run[-1].symbols.shape[1], count + 1))
    found = []
    for first, last in _parts(run):
        part, before = run[first:last], run[first].symbols.shape[2]
        entry = np.full(before, count) if first == 0 else np.repeat(owners[first - 1], run[first - 1].copies)
        inner, own = part[:-1], owners[first:last]
        found.append(
            _Form(
                [(stage.symbols[0], stage.alive) for stage in part],
                np.concatenate([np.zeros(before), *(stage.centre for stage in inner)]),
                np.concatenate([entry, *own[:-1]]),
                np.concatenate(own),
                np.concatenate([stage.spread for stage in part]),
            )
        )
    return found, owners[:-1], count


def improve(
    run: Sequence[Stage], links: Sequence[AffineMap], multipliers: Sequence[FloatArray], constant_sq: float
) -> Iterator[tuple[list[FloatArray], bool]]:
    """Better and better multipliers, from feasible ones, each with whether it is the last.

    Parameters
    ----------
    multipliers : sequence of array
        One number a channel of each link's value but the last.
    constant_sq : float
        The square of the constant that they have.
    """
    forms, owners, count = _forms(run, links)
    # Weights of the first value are 1 here, and to become less; those of the last stay.
    x = np.ones(count + 2)
    ends = np.cumsum([stage.cut for stage in run])  # every part ends a little looser than it begins
    for own, each, cuts in zip(owners, multipliers, ends, strict=False):
        x[own] = each / INWARD ** (cuts / ends[-1])
    x[count + 1] = 1 / (constant_sq * INWARD)
    order = sum(len(form.centre) for form in forms)
    t, before, value = float(order), math.inf, _barrier(forms, x)
    done, long_ago = 0, math.inf
    while value is not None:
        move, decrement = _newton(forms, x[: count + 2], t)
        size = 1.0
        for _ in range(SHORTEST):
            new = x.copy()
            new[: count + 1] += size * move
            # No eigenvalue falls to less than a share of what it was: near the border steps are short.
            there = None if _barrier(forms, new - SHARE * x) is None else _barrier(forms, new)
            if there is not None and there + t * new[count] < value + t * x[count]:
                break
            size *= 0.6
        else:
            yield [x[own] / x[count] for own in owners], True
            return
        outward = new[count] > x[count]
        x, value, last = new, there, False
        if decrement < CENTRED and size == 1:
            last = before / x[count] < 1 + GAIN
            t, before = t * FACTOR, x[count]
        elif outward:
            t *= FACTOR
        done += 1
        if not done % 10:
            last, long_ago = last or long_ago / x[count] < 1 + GAIN, float(x[count])
        last = last or order < GAP * t * x[count]
        yield [x[own] / x[count] for own in owners], last
        if last:
            return


def _newton(forms: Sequence[_Form], x: FloatArray, t: float) -> tuple[FloatArray, float]:
    """The step for all but the last unknown, and its decrement."""
    gradient, hessian = np.zeros(len(x)), np.zeros((len(x), len(x)))
    for form in forms:
        form.derivatives(x, gradient, hessian)
    gradient, hessian = gradient[:-1], hessian[:-1, :-1]
    gradient[-1] += t
    root = 1 / np.sqrt(np.diag(hessian))
    scaled = hessian * root * root[:, None] + 1e-13 * np.eye(len(root))
    move = -root * np.linalg.solve(scaled, root * gradient)
    return move, math.sqrt(max(-float(gradient @ move), 0.0))


def _barrier(forms: Sequence[_Form], x: FloatArray) -> float | None:
    """``-log det`` of every P; None where one is not positive definite."""
    found = 0.0
    try:
        for form in forms:
            found -= 2 * float(np.log(np.diag(np.linalg.cholesky(form.at(x)))).sum())
    except np.linalg.LinAlgError:
        return None
    return found if math.isfinite(found) else None
