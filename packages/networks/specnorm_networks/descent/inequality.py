"""Search multipliers of the inequality of a whole network (`certified.inequality`), first of channels, then of units.

For given multipliers L, the least g^2 is the largest eigenvalue of D^T D + R^T N^-1 R with R = C^T D + L B and
``N = 2 L - L A - A^T L - C^T C``, if N is positive definite. It is a convex function of L. It is made smooth: the
logarithm of a sum of exponentials replaces the largest eigenvalue. Quasi-Newton steps (L-BFGS) in log L lower it. A
gradient needs no derivative of a factorization: for an eigenvector x of length 1 and v = N^-1 R x, the derivative by
L_i is 2 v_i (A v + B x - v)_i. Networks of few units take Newton steps instead.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Clock
from specnorm_networks.certified.inequality import Blocks, Inequality, transposed
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.descent.newton import EXPECTED_STEPS, newton_products, newton_steps

OF_CHANNELS = (0.03, 0.01)
"""Widths of the smoothed maximum, as shares of the largest eigenvalue, one after the other: multipliers of channels."""
OF_UNITS = (0.01, 0.003, 0.001)
"""The same for multipliers of units."""
PATIENCE = 10
"""Steps with one width end if so many of them together lower the logarithm of g^2 by less than `LEAST_GAIN`."""
LEAST_GAIN = 1e-3
MEMORY = 60
"""Steps that the quasi-Newton method remembers."""
SHORTEST = 1e-3
"""Shortest step of a line search, as a share of the whole step."""


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


def proposals(
    inequality: Inequality,
    steps: int,
    clock: Clock,
    newton_work: float = math.inf,
    tell: Callable[[int], None] = lambda _: None,
) -> Iterator[Proposal]:
    """Yield better and better multipliers until the clock expires, the steps are made, or little is gained.

    ``newton_work``: multiplications that Newton steps may make; they are made if so many suffice. ``tell`` is called
    with the number of steps made so far.
    """
    is_transposed = inequality.outputs < inequality.inputs
    blocks = transposed(inequality.blocks) if is_transposed else inequality.blocks
    problem = _Problem(blocks, inequality.channels, clock)
    try:
        least, logs = problem.start(inequality.values, is_transposed)
    except (np.linalg.LinAlgError, ValueError):
        return  # a function of no input or of no output
    yield Proposal(least, problem.multipliers(logs), is_transposed)
    if not inequality.units:
        return  # the constant of a linear network is a norm
    whole = _Problem(blocks, np.arange(inequality.units), clock)
    ends = sorted([inequality.inputs, inequality.outputs])
    is_newton = EXPECTED_STEPS * newton_products(ends[0], inequality.units, ends[1]) <= newton_work
    for multipliers in _searched(problem, whole, logs, steps, is_newton, tell):
        constant = whole.constant(np.log(multipliers))
        if constant < least:
            least = constant
            yield Proposal(constant, multipliers, is_transposed)
        if clock.expired:
            return


def _searched(
    problem: _Problem,
    whole: _Problem,
    logs: FloatArray,
    steps: int,
    is_newton: bool,
    tell: Callable[[int], None],
) -> Iterator[FloatArray]:
    """Yield multipliers of units: by steps of channels, then by steps of units.

    ``problem``, ``logs``: of channels; ``whole``: of units.
    """
    multipliers = problem.multipliers(logs)
    for multipliers in _by_descent(problem, logs, OF_CHANNELS, steps, tell):
        yield multipliers
    if is_newton:
        newton = newton_steps(whole.blocks, multipliers, whole.constant(np.log(multipliers)))
        for number, multipliers in enumerate(itertools.islice(newton, steps), 1):
            tell(number)
            yield multipliers
    else:
        yield from _by_descent(whole, np.log(multipliers), OF_UNITS, steps, tell)


def _by_descent(
    problem: _Problem, logs: FloatArray, widths: Sequence[float], steps: int, tell: Callable[[int], None]
) -> Iterator[FloatArray]:
    """Yield multipliers after the steps with each width."""
    made = 0
    for width in widths:
        so_far = made
        for point, number in _descend(problem, logs, width, steps - so_far):
            logs, made = point, so_far + number
            tell(made)
        yield problem.multipliers(logs)


class _Problem:
    """The least g^2 as a function of the logarithms of the channels' multipliers."""

    def __init__(self, blocks: Blocks, channels: NDArray[np.intp], clock: Clock) -> None:
        self.blocks = blocks
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
        right = self.cd + multipliers[:, None] * self.b
        try:
            np.linalg.cholesky(form)  # raises if it is not positive definite
            solution = np.linalg.solve(form, right)  # raises if it is so but for rounding
        except np.linalg.LinAlgError:
            return math.inf, no_gradient
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

    def start(self, values: Sequence[slice], is_transposed: bool) -> tuple[float, FloatArray]:
        """Return a constant, and logarithms of its multipliers, one number for each value.

        ``values``: the units of each value, in the order of computation; in transposed matrices, earlier values read
        later ones. The form |x|^2 - 2 v^T L (A v + B x - v) is built value by value, each after those that it reads.
        Let F be its inverse so far, and G = R F R^T for the rows R of a value in [B A]. With the multiplier L the Schur
        complement of its units is 2 L - L^2 G, which is largest at L = 1 / |G|. At the end, |[D C] F [D C]^T| is the
        square of the constant.
        """
        m = self.b.shape[1]
        inverse = np.eye(m)
        columns = np.arange(m)
        """The columns of [B A] that F is of."""
        logs = np.zeros(self.count)
        for units in values[::-1] if is_transposed else values:
            rows = np.hstack([self.b[units], self.a[units]])[:, columns]
            reads = np.flatnonzero(rows.any(axis=0))
            of_rows = rows[:, reads] @ inverse[reads]
            gram = of_rows[:, reads] @ rows[:, reads].T
            largest = float(np.linalg.eigvalsh(gram)[-1]) or 1.0  # any number, if the value depends on nothing
            logs[self.channels[units]] = -math.log(largest)
            own = np.linalg.inv(2 * np.eye(len(gram)) - gram / largest) * largest
            across = own @ of_rows / largest
            inverse = np.block([[inverse + across.T @ of_rows / largest, across.T], [across, own]])
            columns = np.concatenate([columns, np.arange(len(self.a))[units] + m])
        ends = np.hstack([self.d, self.c])[:, columns]
        square = float(np.linalg.eigvalsh(ends @ inverse @ ends.T)[-1])
        return math.sqrt(square), logs + math.log(square)


# -- descent -----------------------------------------------------------------------------------------------------------
def _descend(problem: _Problem, logs: FloatArray, width: float, steps: int) -> Iterator[tuple[FloatArray, int]]:
    """Make quasi-Newton steps (Nocedal, "Updating quasi-Newton matrices with limited storage", Math. Comp. 1980).

    Yields the point after each, and the number of steps so far.
    """
    value, gradient = problem.evaluate(logs, width)
    history: deque[tuple[FloatArray, FloatArray]] = deque(maxlen=MEMORY)
    values = [value]
    for made in range(1, steps + 1):
        if problem.clock.expired or not np.isfinite(gradient).all() or not gradient.any():
            return
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
                return
            history.clear()
            continue
        change = new_gradient - gradient
        if step @ change > 1e-10 * np.linalg.norm(step) * np.linalg.norm(change):
            history.append((step, change))
        logs, value, gradient = logs + step, new_value, new_gradient
        values.append(value)
        yield logs, made
        if len(values) > PATIENCE and values[-1 - PATIENCE] - value < LEAST_GAIN:
            return


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
