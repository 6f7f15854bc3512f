"""Search multipliers of the inequality of a whole network (`certified.inequality`), first of channels, then of units.

For given multipliers L, the least g^2 is the largest eigenvalue of D^T D + R^T N^-1 R with R = C^T D + L B and
``N = 2 L - L A - A^T L - C^T C``, if N is positive definite. It is a convex function of L. It is made smooth: the
logarithm of a sum of exponentials replaces the largest eigenvalue. Quasi-Newton steps (L-BFGS) in log L lower it. A
gradient needs no derivative of a factorization: for an eigenvector x of length 1 and v = N^-1 R x, the derivative by
L_i is 2 v_i (A v + B x - v)_i. Networks of few units take Newton steps instead.

N is factorized by blocks of the network's values. Blocks between values that no path of few layers joins are zero.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

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
STEPS = 2
"""Quasi-Newton steps with one width for each step that is asked for."""
NEWTON_STEPS = 24
"""Newton steps for each step that is asked for."""
LEAST_GAIN = 3e-4
"""Steps with one width end if the last ones lower the logarithm of g^2 by less."""
FREE = 1e9
"""Multiplications that count as work from the start: the matrices are read and proven in about as long."""
TIGHT = 1e-9
"""Relative difference from a proven constant below which no gain is expected."""
INWARD = 0.01
"""What is added to the logarithms of the first multipliers, for which N may be singular."""
FIRST = 0.1
"""Largest change of a logarithm in the first step."""
DOUBLED_GAIN = 0.004
"""Steps with one width end if twice the work is expected to lower the logarithm of g^2 by less."""
WINDOW = 6
"""Number of the last steps that say what further steps will gain."""
MEMORY = 60
"""Steps that the quasi-Newton method remembers."""
LONGEST = 1.0
"""Longest change of a logarithm in a step."""
GROWTH = 3.0
"""Largest quotient of a step's length and that of the one before."""
SHORTER = (0.1, 0.5)
"""Smallest and largest share to which a step of a line search is shortened."""
INFEASIBLE = 0.3
"""This share where N is not positive definite."""
SHORTEST = 1e-3
"""Shortest step of a line search, as a share of its first one."""
GROUP = 128
"""Least number of units of a block, if the values allow it. Smaller blocks are zero more often, but take more calls."""
SMALL = 64
"""Largest triangular matrix that is inverted as any matrix is."""
Tell: TypeAlias = Callable[[int, int], object]


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
    """Return the multiplications of an evaluation if no block of N is zero, about; a proof makes some times as many."""
    n = float(inequality.units)
    m = float(min(inequality.inputs, inequality.outputs))
    return n**3 / 3 + n * n * m + 9 * m**3


def proposals(
    inequality: Inequality,
    steps: int,
    clock: Clock,
    newton_work: float = math.inf,
    tell: Tell = lambda *_: None,
    proven: float = math.inf,
    first: FloatArray | None = None,
) -> Iterator[Proposal]:
    """Yield better and better multipliers until the clock expires, the steps are made, or little is gained.

    Parameters
    ----------
    newton_work : float
        Multiplications that Newton steps may make; they are made if so many suffice.
    tell : callable
        Called with the number of steps made of one kind, with one width, and their largest number.
    proven : float
        A proven constant: a search that is not expected to get below it ends.
    first : array, optional
        Multipliers by which the constant is proven: one a unit, of the matrices that are not transposed. If they are
        feasible, units alone are searched, and those of channels are not.
    """
    is_transposed = inequality.outputs < inequality.inputs
    blocks = transposed(inequality.blocks) if is_transposed else inequality.blocks
    form = _Form(blocks, inequality.values, is_transposed)
    units = np.arange(inequality.units)
    whole = _Problem(form, units, clock)
    ends = sorted([inequality.inputs, inequality.outputs])
    is_newton = EXPECTED_STEPS * newton_products(ends[0], inequality.units, ends[1]) <= newton_work
    least = math.inf
    if first is not None:
        multipliers = proven**2 / first if is_transposed else first
        least = whole.constant(np.log(multipliers))
    if least < math.inf:
        yield Proposal(least, multipliers, is_transposed)
        found = _by_units(whole, multipliers, steps, is_newton, tell, 2 * math.log(proven))
    else:
        problem = _Problem(form, inequality.channels, clock)
        try:
            least, logs = problem.start()
        except (np.linalg.LinAlgError, ValueError):
            return  # a function of no input or of no output
        yield Proposal(least, problem.multipliers(logs), is_transposed)
        if not inequality.units or form.floor() >= (1 - TIGHT) * proven:
            return  # the constant of a linear network is a norm
        found = _searched(problem, whole, logs + INWARD, steps, is_newton, tell, 2 * math.log(proven))
    for constant, multipliers in found:
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
    tell: Tell,
    limit: float,
) -> Iterator[tuple[float, FloatArray]]:
    """Yield constants and multipliers of units: by steps of channels, then by steps of units.

    ``problem``, ``logs``: of channels; ``whole``: of units. ``limit``: the logarithm of a proven constant's square.
    """
    multipliers = problem.multipliers(logs)
    for constant, multipliers in _by_descent(problem, logs, OF_CHANNELS, STEPS * steps, tell, limit):
        yield constant, multipliers
    yield from _by_units(whole, multipliers, steps, is_newton, tell, limit)


def _by_units(
    whole: _Problem,
    multipliers: FloatArray,
    steps: int,
    is_newton: bool,
    tell: Tell,
    limit: float,
) -> Iterator[tuple[float, FloatArray]]:
    """Yield constants and multipliers of units; the arguments are as for `_searched`."""
    if not is_newton:
        yield from _by_descent(whole, np.log(multipliers), OF_UNITS, STEPS * steps, tell, limit)
        return
    most = NEWTON_STEPS * steps
    newton = newton_steps(whole.form.blocks, multipliers, whole.constant(np.log(multipliers)))
    for number, multipliers in enumerate(itertools.islice(newton, most), 1):
        tell(number, most)
        yield whole.constant(np.log(multipliers)), multipliers


def _by_descent(
    problem: _Problem,
    logs: FloatArray,
    widths: Sequence[float],
    steps: int,
    tell: Tell,
    limit: float,
) -> Iterator[tuple[float, FloatArray]]:
    """Yield constants and multipliers after each step, with one width after the other."""
    history: deque[Change] = deque(maxlen=MEMORY)
    for width in widths:
        for made, (point, largest) in enumerate(_descend(problem, logs, width, steps, limit, history), 1):
            logs = point
            tell(made, steps)
            yield math.exp(largest / 2), problem.multipliers(logs)


class _Value(NamedTuple):
    """The least g^2 for given multipliers, smoothed, and its gradient."""

    smoothed: float
    """Its logarithm; infinity where N is not positive definite."""
    gradient: FloatArray
    """By the logarithms of the multipliers."""
    largest: float
    """The logarithm of the least g^2 itself."""


NO_VALUE = _Value(math.inf, np.zeros(0), math.inf)


class _Terms(NamedTuple):
    """The blocks of A, of A^T and of C^T C from which a block of N is made."""

    of_a: FloatArray
    of_transpose: FloatArray
    of_c: FloatArray


class _Form:
    """The matrix N, and the least g^2, for given multipliers of units.

    The blocks L_kj of a Cholesky factor of N are formed from left to right; those that are zero are left out.
    In transposed matrices, earlier values read later ones.
    """

    def __init__(self, blocks: Blocks, values: Sequence[slice], is_transposed: bool) -> None:
        self.blocks = blocks
        self.a, self.b, c, d = (np.ascontiguousarray(block) for block in blocks)
        self.cd = c.T @ d
        self.dd = d.T @ d
        cc = c.T @ c
        self.in_order = values[::-1] if is_transposed else values
        """The units of each value, after those that it reads."""
        self.groups = _groups(values)
        self.terms: list[dict[int, _Terms]] = []
        """For each group k, the terms of the blocks N_kj for each j <= k with L_kj not zero."""
        inputs = float(self.b.shape[1])
        self.work = 9 * inputs**3
        """Multiplications of an evaluation, about."""
        self.evaluations = 0
        for k, rows in enumerate(self.groups):
            terms: dict[int, _Terms] = {}
            for j, columns in enumerate(self.groups[: k + 1]):
                parts = _Terms(self.a[rows, columns], self.a[columns, rows].T, cc[rows, columns])
                is_filled = j < k and not terms.keys().isdisjoint(self.terms[j])
                if j == k or is_filled or any(part.any() for part in parts):
                    terms[j] = _Terms(*map(np.ascontiguousarray, parts))
            self.terms.append(terms)
            sizes = {j: float(self.groups[j].stop - self.groups[j].start) for j in terms}
            for j in terms:
                shared = sum(sizes[i] for i in terms if i <= j and i in self.terms[j])
                self.work += sizes[k] * (sizes[j] * shared + sizes[j] * inputs)

    def evaluate(self, multipliers: FloatArray, width: float) -> _Value:
        """Return the least g^2, with the gradient by the logarithms of the multipliers if ``width`` is not 0."""
        self.evaluations += 1
        right = self.cd + multipliers[:, None] * self.b
        factor: list[dict[int, FloatArray]] = []
        """Blocks of the Cholesky factor; those of its diagonal are inverted."""
        solved = np.empty_like(right)
        try:
            for terms, rows in zip(self.terms, self.groups, strict=True):
                factor.append(self._row(factor, terms, rows, multipliers))
                *others, (_, inverse) = factor[-1].items()
                solved[rows] = inverse @ (right[rows] - sum(block @ solved[self.groups[j]] for j, block in others))
            values, vectors = np.linalg.eigh(self.dd + solved.T @ solved)
        except np.linalg.LinAlgError:
            return NO_VALUE
        largest = float(values[-1])
        if not 0 < largest < math.inf:
            return NO_VALUE
        if not width:
            return _Value(math.log(largest), NO_VALUE.gradient, math.log(largest))
        shares = np.exp((values - largest) / (width * largest))
        value = largest * (1 + width * math.log(shares.sum()))
        counts = shares > 1e-4
        vectors = vectors[:, counts]
        shares = shares[counts] / shares[counts].sum()
        v = solved @ vectors
        for row, rows in zip(factor[::-1], self.groups[::-1], strict=True):
            *others, (_, inverse) = row.items()
            v[rows] = inverse.T @ v[rows]
            for j, block in others:
                v[self.groups[j]] -= block.T @ v[rows]
        slack = self.a @ v + self.b @ vectors - v
        by_unit = 2 * multipliers * (v * slack * shares).sum(axis=1) / value
        return _Value(math.log(value), by_unit, math.log(largest))

    def floor(self) -> float:
        """Return the norm where all slopes are 0, or all are 1: no multipliers give a smaller constant."""
        _, _, c, d = self.blocks
        v = self.b.copy()
        for units in self.in_order:
            v[units] += self.a[units] @ v
        ends = np.stack([d, d + c @ v])
        return math.sqrt(max(float(np.linalg.eigvalsh(ends.swapaxes(1, 2) @ ends)[:, -1].max()), 0.0))

    def _row(
        self,
        factor: Sequence[dict[int, FloatArray]],
        terms: dict[int, _Terms],
        rows: slice,
        multipliers: FloatArray,
    ) -> dict[int, FloatArray]:
        """Return the blocks of a row of the Cholesky factor, the last one inverted."""
        row: dict[int, FloatArray] = {}
        for j, (of_a, of_transpose, of_c) in terms.items():
            block = -multipliers[rows, None] * of_a - of_transpose * multipliers[self.groups[j]] - of_c
            if j == len(factor):
                block[np.diag_indices(len(block))] += 2 * multipliers[rows]
            other = row if j == len(factor) else factor[j]
            for i in row.keys() & other.keys():
                block -= row[i] @ other[i].T
            row[j] = _inverse(np.linalg.cholesky(block)) if j == len(factor) else block @ factor[j][j].T
        return row


def _groups(values: Sequence[slice]) -> list[slice]:
    """Return slices of consecutive units, `GROUP` to twice as many if the values allow it."""
    groups: list[slice] = []
    for units in values:
        if groups and groups[-1].stop - groups[-1].start < GROUP:
            units = slice(groups.pop().start, units.stop)
        count = max(1, (units.stop - units.start) // GROUP)
        ends = np.linspace(units.start, units.stop, count + 1).astype(int).tolist()
        groups += [slice(first, last) for first, last in itertools.pairwise(ends)]
    return groups


def _inverse(lower: FloatArray) -> FloatArray:
    """Return the inverse of a lower triangular matrix, by halves: NumPy solves with any matrix only."""
    n = len(lower)
    if n <= SMALL:
        return np.asarray(np.linalg.inv(lower))
    half = n // 2
    first, last = _inverse(lower[:half, :half]), _inverse(lower[half:, half:])
    return np.block([[first, np.zeros((half, n - half))], [-last @ (lower[half:, :half] @ first), last]])


class _Problem:
    """The least g^2 as a function of the logarithms of the channels' multipliers."""

    def __init__(self, form: _Form, channels: NDArray[np.intp], clock: Clock) -> None:
        self.form = form
        self.channels = channels
        self.clock = clock
        self.count = int(channels.max(initial=-1)) + 1

    def multipliers(self, logs: FloatArray) -> FloatArray:
        """Return one multiplier a unit."""
        return np.asarray(np.exp(logs)[self.channels])

    @property
    def work(self) -> float:
        """Multiplications so far, and `FREE`."""
        return FREE + self.form.evaluations * self.form.work

    def constant(self, logs: FloatArray) -> float:
        """Return g; infinity where the form is not positive definite."""
        return math.exp(self.form.evaluate(self.multipliers(logs), 0.0).largest / 2)

    def evaluate(self, logs: FloatArray, width: float) -> _Value:
        """Return the smoothed g^2 and its gradient."""
        value = self.form.evaluate(self.multipliers(logs), width)
        if not value.gradient.size:
            return value
        return value._replace(gradient=np.bincount(self.channels, value.gradient, self.count))

    def start(self) -> tuple[float, FloatArray]:
        """Return a constant, and logarithms of its multipliers, one number for each value.

        The form |x|^2 - 2 v^T L (A v + B x - v) is built value by value, each after those that it reads. Let F be its
        inverse so far, and G = R F R^T for the rows R of a value in [B A]. With the multiplier L the Schur complement
        of its units is 2 L - L^2 G, which is largest at L = 1 / |G|. At the end, |[D C] F [D C]^T| is the square of the
        constant.
        """
        a, b, c, d = self.form.blocks
        m = b.shape[1]
        inverse = np.eye(m)
        columns = np.arange(m)
        """The columns of [B A] that F is of."""
        logs = np.zeros(self.count)
        for units in self.form.in_order:
            rows = np.hstack([b[units], a[units]])[:, columns]
            reads = np.flatnonzero(rows.any(axis=0))
            of_rows = rows[:, reads] @ inverse[reads]
            gram = of_rows[:, reads] @ rows[:, reads].T
            largest = float(np.linalg.eigvalsh(gram)[-1]) or 1.0  # any number, if the value depends on nothing
            logs[self.channels[units]] = -math.log(largest)
            own = np.linalg.inv(2 * np.eye(len(gram)) - gram / largest) * largest
            across = own @ of_rows / largest
            inverse = np.block([[inverse + across.T @ of_rows / largest, across.T], [across, own]])
            columns = np.concatenate([columns, np.arange(len(a))[units] + m])
        ends = np.hstack([d, c])[:, columns]
        square = float(np.linalg.eigvalsh(ends @ inverse @ ends.T)[-1])
        return math.sqrt(square), logs + math.log(square)


# -- descent -----------------------------------------------------------------------------------------------------------
Change: TypeAlias = tuple[FloatArray, FloatArray]
"""A step, and the change of the gradient by it."""


def _descend(
    problem: _Problem, logs: FloatArray, width: float, steps: int, limit: float, history: deque[Change]
) -> Iterator[tuple[FloatArray, float]]:
    """Make quasi-Newton steps (Nocedal, "Updating quasi-Newton matrices with limited storage", Math. Comp. 1980).

    Yields the point after each, and the logarithm of its g^2. ``history``: earlier steps, to which these are added.
    """
    value, gradient, least = problem.evaluate(logs, width)
    values = [value]
    works = [problem.work]
    longest = LONGEST
    while len(values) <= steps:
        if problem.clock.expired or not np.isfinite(gradient).all() or not gradient.any():
            return
        if history:
            direction = -_preconditioned(gradient, history)
        else:
            direction = gradient * (-FIRST / float(abs(gradient).max()))
        slope = float(direction @ gradient)
        length = float(abs(direction).max())
        share = min(1.0, longest / length)
        shortest = SHORTEST * share
        while True:
            step = share * direction
            new_value, new_gradient, largest = problem.evaluate(logs + step, width)
            if new_value < value + 1e-4 * share * slope:
                break
            share *= _shortened(share * slope, new_value - (value + share * slope))
            if share < shortest or problem.clock.expired:
                break
        if not new_value < value:
            if not history:
                return
            history.clear()
            continue
        longest = min(LONGEST, GROWTH * share * length)
        change = new_gradient - gradient
        if step @ change > 1e-10 * np.linalg.norm(step) * np.linalg.norm(change):
            history.append((step, change))
        logs, value, gradient = logs + step, new_value, new_gradient
        least = min(least, largest)
        values.append(value)
        works.append(problem.work)
        yield logs, largest
        if not _is_worthwhile(values, works, max(least - limit, 0.0)):
            return


def _shortened(expected: float, above: float) -> float:
    """Return the share of a step at which the parabola through both of its ends is least, within limits.

    ``expected``: the change of the value along its slope. ``above``: how far the value at the end is above that.
    """
    if not 0 < above < math.inf:
        return INFEASIBLE
    return min(max(-expected / (2 * above), SHORTER[0]), SHORTER[1])


def _is_worthwhile(values: Sequence[float], works: Sequence[float], missing: float) -> bool:
    """Whether further steps are expected to gain enough, at the rate of the last ones.

    ``values``, ``works``: the logarithm of g^2, and the work so far, after each step. ``missing``: what twice the work
    has to gain more than `DOUBLED_GAIN`.
    """
    if len(values) <= WINDOW:
        return True
    gain = values[-1 - WINDOW] - values[-1]
    rate = gain / (works[-1] - works[-1 - WINDOW])
    return gain >= LEAST_GAIN and rate * works[-1] >= DOUBLED_GAIN + missing


def _preconditioned(gradient: FloatArray, history: deque[Change]) -> FloatArray:
    """Return the gradient times the quasi-Newton approximation of the inverse Hessian (two-loop recursion)."""
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
