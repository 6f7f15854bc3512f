"""Search multipliers of the inequality of a whole network (`certified.inequality`), first of channels, then of units.

For given multipliers L, the least g^2 is the largest eigenvalue of D^T D + R^T N^-1 R with R = C^T D + L B and
``N = 2 L - L A - A^T L - C^T C``, if N is positive definite. It is a convex function of L. It is made smooth: the
logarithm of a sum of exponentials replaces the largest eigenvalue. Quasi-Newton steps (L-BFGS) in log L lower it. A
gradient needs no derivative of a factorization: for an eigenvector x of length 1 and v = N^-1 R x, the derivative by
L_i is 2 v_i (A v + B x - v)_i.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Clock
from specnorm_networks.certified.inequality import Blocks, Inequality, transposed
from specnorm_networks.certified.operators.base import FloatArray

OF_CHANNELS = (0.03, 0.01)
"""Widths of the smoothed maximum, as shares of the largest eigenvalue, one after the other: multipliers of channels."""
OF_UNITS = (0.01, 0.003, 0.001)
"""The same for multipliers of units."""
GROWTH = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 16.0)
"""Factors by which multipliers of a value exceed what its readers need: the start is the best of these."""
PATIENCE = 10
"""Steps with one width end if so many of them together lower the logarithm of g^2 by less than `LEAST_GAIN`."""
LEAST_GAIN = 1e-3
MEMORY = 60
"""Steps that the quasi-Newton method remembers."""
SHORTEST = 1e-3
"""Shortest step of a line search, as a share of the whole step."""
LEAST_SHARE = 1e-12
"""Least multiplier at the start, as a share of the largest."""
POWERS = 8
"""Power steps for the norm of a block."""


@dataclass(frozen=True)
class Proposal:
    """Multipliers that a search proposes."""

    constant: float
    """The constant that they give, before any rounding."""
    multipliers: FloatArray
    """One a unit."""
    is_transposed: bool
    """Whether they are of the transposed matrices."""


def work_of(inequality: Inequality) -> float:
    """Return the multiplications of an evaluation, about."""
    n = float(inequality.units)
    m = float(min(inequality.inputs, inequality.outputs))
    return n**3 / 3 + n * n * m + 9 * m**3


def proposals(inequality: Inequality, steps: int, clock: Clock) -> Iterator[Proposal]:
    """Yield better and better multipliers until the clock expires, the steps are made, or little is gained."""
    is_transposed = inequality.outputs < inequality.inputs
    blocks = transposed(inequality.blocks) if is_transposed else inequality.blocks
    problem = _Problem(blocks, inequality.channels, clock)
    constant, logs = problem.start(inequality.values, is_transposed, work_of(inequality))
    if not constant < math.inf:
        return
    yield Proposal(constant, problem.multipliers(logs), is_transposed)
    for channels, widths in ((inequality.channels, OF_CHANNELS), (np.arange(inequality.units), OF_UNITS)):
        if channels is not inequality.channels:
            logs = logs[inequality.channels]
            problem = _Problem(blocks, channels, clock)
        steps_left = steps
        for width in widths:
            logs, steps_made = _descend(problem, logs, width, steps_left)
            steps_left -= steps_made
            after = problem.constant(logs)
            if after < constant:
                constant = after
                yield Proposal(constant, problem.multipliers(logs), is_transposed)
            if clock.expired:
                return


class _Problem:
    """The least g^2 as a function of the logarithms of the channels' multipliers."""

    def __init__(self, blocks: Blocks, channels: NDArray[np.intp], clock: Clock) -> None:
        self.a, self.b, self.c, self.d = (np.ascontiguousarray(block) for block in blocks)
        self.channels = channels
        self.clock = clock
        self.count = int(channels.max(initial=-1)) + 1
        self.cc = self.c.T @ self.c
        self.cd = self.c.T @ self.d
        self.dd = self.d.T @ self.d

    def multipliers(self, logs: FloatArray) -> FloatArray:
        """Return one multiplier a unit."""
        return np.asarray(np.exp(logs)[self.channels])

    def constant(self, logs: FloatArray) -> float:
        """Return g; infinity where the form is not positive definite."""
        value, _ = self.evaluate(logs, 0.0)
        return math.exp(value / 2)

    def evaluate(self, logs: FloatArray, width: float) -> tuple[float, FloatArray]:
        """Return the logarithm of the smoothed g^2, and its gradient if ``width`` is not 0."""
        no_gradient = np.zeros(0)
        multipliers = self.multipliers(logs)
        form = self._form(multipliers)
        form -= self.cc
        try:
            np.linalg.cholesky(form)  # raises if it is not positive definite
        except np.linalg.LinAlgError:
            return math.inf, no_gradient
        right = self.cd + multipliers[:, None] * self.b
        solution = np.linalg.solve(form, right)
        gram = self.dd + right.T @ solution
        values, vectors = np.linalg.eigh((gram + gram.T) / 2)
        largest = float(values[-1])
        if not 0 < largest < math.inf:
            return math.inf, no_gradient
        if not width:
            return math.log(largest), no_gradient
        shares = np.exp((values - largest) / (width * largest))
        value = largest * (1 + width * math.log(shares.sum()))
        counts = shares > 1e-4
        vectors = vectors[:, counts]
        shares = shares[counts] / shares[counts].sum()
        v = solution @ vectors
        slack = self.a @ v + self.b @ vectors - v
        by_unit = 2 * multipliers * (v * slack * shares).sum(axis=1) / value
        return math.log(value), np.bincount(self.channels, by_unit, self.count)

    def _form(self, multipliers: FloatArray) -> FloatArray:
        """Return 2 L - L A - A^T L."""
        scaled = multipliers[:, None] * self.a
        form: FloatArray = -scaled
        form -= scaled.T
        form[np.diag_indices(len(form))] += 2 * multipliers
        return form

    # -- start -------------------------------------------------------------------------------------------------------
    def start(self, values: Sequence[slice], is_transposed: bool, work: float) -> tuple[float, FloatArray]:
        """Return g and logarithms of multipliers, one number for each value; an infinite g if none are found.

        ``values``: the units of each value, in the order of computation. ``work``: that of an evaluation. A value's
        multiplier is what its readers need, from the last value back, times one of the factors `GROWTH`. In transposed
        matrices, earlier values read later ones.
        """
        order = values if is_transposed else values[::-1]  # readers first
        to_output = [_norm(self.c[:, value]) ** 2 for value in order]
        to_readers = [[_norm(self.a[reader, value]) ** 2 for reader in order[:at]] for at, value in enumerate(order)]
        best = (math.inf, np.zeros(0))
        for growth in GROWTH:
            of_values: list[float] = []
            for squares, square in zip(to_readers, to_output, strict=True):
                needs = square + sum(number * of_reader for number, of_reader in zip(squares, of_values, strict=True))
                of_values.append(growth * needs)
            units = np.zeros(len(self.channels))
            for value, number in zip(order, of_values, strict=True):
                units[value] = max(number, LEAST_SHARE * max(of_values))
            scaled = self._scaled(units)
            if best[0] < math.inf and not scaled[0] < best[0]:
                break
            best = min(best, scaled, key=lambda pair: pair[0])
            if not self.clock.affords(work):
                break
        return best

    def _scaled(self, units: FloatArray) -> tuple[float, FloatArray]:
        """Return g for multipliers times the best factor, if D is 0 and there is one eigenvalue, and their logarithms.

        Let P = 2 L - L A - A^T L. The factor s has to be above the largest eigenvalue of C P^-1 C^T, and s^2 / (s P -
        C^T C) is least at twice that. ``(s P - C^T C)^-1 = P^-1 / s + P^-1 C^T (s - C P^-1 C^T)^-1 C P^-1 / s``.
        """
        form = self._form(units)
        nothing = (math.inf, np.zeros(0))
        if not np.all(np.isfinite(form)):
            return nothing
        try:
            np.linalg.cholesky(form)
            solution = np.linalg.solve(form, np.hstack([self.c.T, units[:, None] * self.b]))
            of_c, of_b = np.split(solution, [len(self.c)], axis=1)
            small = self.c @ of_c
            largest = float(np.linalg.norm(small, 2))
            if not 0 < largest < math.inf:
                return nothing
            s = 2 * largest
            # R = C^T D + s L B, and P^-1 R.
            right = self.cd + s * units[:, None] * self.b
            solution = of_c @ self.d + s * of_b
            through = self.c @ solution
            inner = np.linalg.solve(s * np.eye(len(small)) - small, through)
            gram = self.dd + (right.T @ solution + through.T @ inner) / s
            square = float(np.linalg.eigvalsh((gram + gram.T) / 2)[-1])
        except np.linalg.LinAlgError:
            return nothing
        logs = np.zeros(self.count)
        logs[self.channels] = np.log(units * s)
        return (math.sqrt(square) if 0 < square < math.inf else math.inf), logs


def _norm(block: FloatArray) -> float:
    """Estimate the norm of a matrix by power steps."""
    x = np.cos(np.arange(block.shape[1]) ** 2.0)
    norm = 0.0
    for _ in range(POWERS):
        x = block.T @ (block @ (x / (np.linalg.norm(x) or 1.0)))
        norm = math.sqrt(float(np.linalg.norm(x)))
    return norm


# -- descent -----------------------------------------------------------------------------------------------------------
def _descend(problem: _Problem, logs: FloatArray, width: float, steps: int) -> tuple[FloatArray, int]:
    """Make quasi-Newton steps (Nocedal, "Updating quasi-Newton matrices with limited storage", Math. Comp. 1980)."""
    value, gradient = problem.evaluate(logs, width)
    history: deque[tuple[FloatArray, FloatArray]] = deque(maxlen=MEMORY)
    values = [value]
    for made in range(steps):
        if problem.clock.expired or not np.isfinite(gradient).all() or not gradient.any():
            return logs, made
        direction = -_preconditioned(gradient, history)
        direction /= max(1.0, float(abs(direction).max()))
        share = 1.0
        while True:
            step = share * direction
            new_value, new_gradient = problem.evaluate(logs + step, width)
            if new_value < value + 1e-4 * float(step @ gradient):
                break
            share /= 3
            if share < SHORTEST or problem.clock.expired:
                break
        if not new_value < value:
            if not history:
                return logs, made
            history.clear()
            continue
        change = new_gradient - gradient
        if step @ change > 1e-10 * np.linalg.norm(step) * np.linalg.norm(change):
            history.append((step, change))
        logs, value, gradient = logs + step, new_value, new_gradient
        values.append(value)
        if len(values) > PATIENCE and values[-1 - PATIENCE] - value < LEAST_GAIN:
            return logs, made
    return logs, steps


def _preconditioned(gradient: FloatArray, history: deque[tuple[FloatArray, FloatArray]]) -> FloatArray:
    """Return the gradient times the quasi-Newton approximation of the inverse Hessian (two-loop recursion)."""
    if not history:
        return np.asarray(gradient * (0.3 / max(float(abs(gradient).max()), 1e-300)))
    q = gradient.copy()
    shares = []
    for step, change in reversed(history):
        share = (step @ q) / (step @ change)
        shares.append(share)
        q -= share * change
    step, change = history[-1]
    q *= (step @ change) / (change @ change)
    for (step, change), share in zip(history, reversed(shares), strict=True):
        q += (share - (change @ q) / (step @ change)) * step
    return q
