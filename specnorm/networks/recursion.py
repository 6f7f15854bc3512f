"""Search: weights that make a run's constant small. It proposes, and claims nothing; `segments` proves.

At each frequency, with M_1 = G_1 G_1*, multipliers L_i and slopes in [a, b] (c and e as in `segments.middle`):

    N_i = M_i (1 - e^2 L_i M_i)^-1,    X_i = L_i - c^2 L_i N_i L_i,    M_{i+1} = G_{i+1} X_i^-1 G_{i+1}*,

and the constant's square is the largest eigenvalue of the last M over all frequencies (ECLipsE [1]_, frequency by
frequency). ``L_i = share D_i / ((c^2 + e^2) max_theta ||D_i^1/2 M_i D_i^1/2||)`` with 0 < share < 1 and D_i positive is
feasible whatever D_i is, and ``share = 1/2``, ``D_i = 1`` is ECLipsE's closed form. From there gradient steps (Adam) on
log D and the logit of the share: the largest eigenvalues are simple in general, so that the gradient is a sum of a few
terms of rank one. Where a run is cut, c = 0 and X = L.

.. [1] Xu, Sivaranjani, "ECLipsE: Efficient Compositional Lipschitz Constant Estimation for Deep Neural Networks",
   NeurIPS 2024.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.linalg.arrays import random_vectors
from specnorm.linalg.frequencies import Frequencies, half_grid, phases
from specnorm.linalg.power import gram_power
from specnorm.networks.runs import Run
from specnorm.networks.segments import Weights, dense, middle, phased

WORK = 2**32
"""Products of numbers in one step, at most: about a second."""
POINTS = ((6, 0.6), (10, 0.4))
"""Grids, from coarse to fine: frequencies an axis, and the share of the steps."""
FEWEST = 3
"""Frequencies an axis below which no weights are looked for."""
STEP = 0.1
"""Of Adam, in logarithms of multipliers; it falls to a tenth towards the end of each grid."""
POWERS = 4
"""Power steps on the eigenvectors of the step before; ten times as many at the first."""
PATIENCE = 25
"""Steps without a gain of a thousandth after which a grid is left."""
Vectors = NDArray[Any]


@dataclass(eq=False)
class Stage:
    """One link at the frequencies of a grid.

    Parameters
    ----------
    symbols : complex array, shape (f, m, p)
    cut : bool
        Whether a part ends behind it.
    centre, leaf : float
        c and e.
    copies : int
        Inputs of the next link for each channel.
    """

    symbols: NDArray[np.complex128]
    cut: bool
    centre: float
    leaf: float
    copies: int
    vectors: Vectors | None = field(default=None)

    def largest(self, gram: Vectors) -> tuple[float, int, Vectors]:
        """Largest eigenvalue of a stack, where it is, and its vector; all vectors are kept for the next step."""
        start = self.vectors
        if start is None:
            start = random_vectors(0, gram.shape[:2])
        numpy: Any = np  # an array of NumPy's as one of the algorithms'
        steps = POWERS if self.vectors is not None else 10 * POWERS
        given: Any = start
        found: Any = gram_power(lambda v: numpy.matmul(gram, v[..., None])[..., 0], given, steps, xp=numpy)
        kept, values = found[0], np.reshape(found[1], (-1,))
        near = np.argsort(values)[-2:]
        exact, vectors = np.linalg.eigh(gram[near])
        values[near], kept[near] = exact[:, -1], vectors[:, :, -1]
        at, self.vectors = int(np.argmax(values)), kept
        return float(values[at]), at, kept[at]


def stages(run: Run, parts: Sequence[tuple[int, int]], points: int) -> list[Stage] | None:
    """A run at the frequencies of a grid; None where one step would take long.

    Parameters
    ----------
    run : Run
    parts : sequence of (int, int)
        From `segments.segments`.
    points : int
        Most frequencies an axis; fewer where that is too much work, and never more than twice the taps and two.
    """
    kernels = [phased(dense(link), link.spec.stride) for link in run.links]
    while True:
        grids = [_grid(kernels[first:last], points) for first, last in parts]
        sizes = [len(grid) for grid, (first, last) in zip(grids, parts, strict=True) for _ in range(first, last)]
        shapes = [(kernel.shape[0], kernel.shape[1]) for kernel in kernels]
        if sum(f * m * (m * m + m * p) * 8 for f, (m, p) in zip(sizes, shapes, strict=True)) <= WORK:
            break
        if points <= FEWEST:
            return None
        points = max(FEWEST, points - 2)
    found: list[Stage] = []
    for (first, last), grid in zip(parts, grids, strict=True):
        for at, (link, kernel) in enumerate(zip(run.links[first:last], kernels[first:last], strict=True), first + 1):
            cut = at == last
            centre, leaf = (0.0, link.steepest) if cut else middle(link.slopes)
            following = run.links[at].spec.stride if at < len(run.links) else ()
            found.append(Stage(_symbols(kernel, grid), cut, centre, leaf, link.repeat * math.prod(following)))
    return found


def _grid(kernels: Sequence[Weights], points: int) -> Frequencies:
    extent = [max(axis) for axis in zip(*(kernel.shape[2:] for kernel in kernels), strict=True)]
    return half_grid([1 if k == 1 else min(points, 2 * k + 2) for k in extent])


def _symbols(kernel: Weights, grid: Frequencies) -> NDArray[np.complex128]:
    cos, sin = phases(grid, kernel.shape[2:])
    taps = kernel.reshape(math.prod(kernel.shape[:2]), -1).T
    return (cos @ taps + 1j * (sin @ taps)).reshape(-1, *kernel.shape[:2])


@dataclass(eq=False)
class _Kept:
    """What the way back needs of one stage."""

    gram: Vectors
    multipliers: Weights
    largest: tuple[float, int, Vectors]
    solved: Vectors
    inner: Vectors


def value_and_gradient(
    run: Sequence[Stage], logs: Sequence[Weights], logits: Weights
) -> tuple[float, list[Weights], list[Weights], Weights]:
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
    gram: Vectors = run[0].symbols @ _adjoint(run[0].symbols)
    kept: list[_Kept] = []
    shares = np.where([stage.cut for stage in run[:-1]], 1.0, 1 / (1 + np.exp(-logits)))
    for stage, following, log, share in zip(run, run[1:], logs, shares, strict=False):
        root = np.exp(log / 2)
        norm, at, vector = stage.largest(root[:, None] * gram * root)
        multipliers = share * np.exp(log) / (norm * (stage.centre**2 + stage.leaf**2))
        inner = gram
        right = _adjoint(following.symbols)
        if stage.cut:
            solved = right / np.repeat(multipliers, stage.copies)[:, None]
        else:
            if stage.leaf:
                inner = np.linalg.solve(np.eye(len(log)) - stage.leaf**2 * gram * multipliers, gram)
            x = -(stage.centre**2) * multipliers[:, None] * inner * multipliers
            x[:, range(len(log)), range(len(log))] += multipliers
            solved = np.linalg.solve(x, right)
        kept.append(_Kept(gram, multipliers, (norm, at, vector * root), solved, inner))
        gram = following.symbols @ solved
    norm, at, vector = run[-1].largest(gram)
    value = math.log(norm * run[-1].leaf ** 2)
    logs_back, logits_back = _back(run, kept, shares, (at, vector, 1 / norm))
    return value, [each.multipliers for each in kept], logs_back, logits_back


def _back(
    run: Sequence[Stage], kept: Sequence[_Kept], shares: Weights, last: tuple[int, Vectors, float]
) -> tuple[list[Weights], Weights]:
    """The gradient: cotangents of each M are a few terms ``number * vector vector*`` at one frequency each."""
    terms = [last]
    logs: list[Weights] = []
    logits = np.zeros(len(kept))
    for i in range(len(kept) - 1, -1, -1):
        stage, each = run[i], kept[i]
        lam = each.multipliers
        of_lam = np.zeros(len(lam))
        before: list[tuple[int, Vectors, float]] = []
        for at, vector, number in terms:
            u = each.solved[at] @ vector
            if stage.cut:
                of_lam -= number * np.sum(abs(u.reshape(len(lam), -1)) ** 2, axis=1)
                continue
            nw = each.inner[at] @ (lam * u)
            c2, e2 = stage.centre**2, stage.leaf**2
            of_lam -= number * (abs(u) ** 2 - c2 * (2 * (u.conj() * nw).real + e2 * abs(nw) ** 2))
            w = lam * u
            if e2:
                w = np.linalg.solve(np.eye(len(lam)) - e2 * lam[:, None] * each.gram[at], w)
            before.append((at, w, number * c2))
        norm, at, vector = each.largest
        total = float(np.sum(of_lam * lam))
        before.append((at, vector, -total / norm))
        logs.append(of_lam * lam - total / norm * (vector.conj() * (each.gram[at] @ vector)).real)
        logits[i] = 0.0 if stage.cut else total * (1 - shares[i])
        terms = before
    return logs[::-1], logits


def _adjoint(a: Vectors) -> Vectors:
    return a.conj().swapaxes(-1, -2)


def search(run: Run, parts: Sequence[tuple[int, int]], steps: int, seconds: float) -> list[Weights] | None:
    """Weights of each link's values, for `segments.constant_up`.

    Parameters
    ----------
    run : Run
    parts : sequence of (int, int)
    steps : int
        Gradient steps; 0: the closed form.
    seconds : float
        After which no step is begun.

    Returns
    -------
    list of array, or None
        One number a channel of each link's value. None where a step would take long.
    """
    end = time.monotonic() + seconds
    sizes = [link.spec.cout for link in run.links[:-1]]
    point = np.zeros(sum(sizes) + len(sizes))
    found: tuple[float, list[Weights]] | None = None
    for points, share in POINTS:
        grid = stages(run, parts, points)
        if grid is None:
            break
        point, value, multipliers = _descend(grid, sizes, point, max(1, round(steps * share)) if steps else 0, end)
        found = (value, multipliers)
        if time.monotonic() > end:
            break
    if found is None:
        return None
    value, multipliers = found
    # The last value is weighed by the constant, so that the norms of all parts are about 1.
    last = np.full(run.links[-1].spec.cout, math.exp(-value / 2))
    return [*(np.sqrt(each) for each in multipliers), last]


def _descend(
    grid: Sequence[Stage], sizes: Sequence[int], point: Weights, steps: int, end: float
) -> tuple[Weights, float, list[Weights]]:
    """Adam from a point: the best point seen, its value and its multipliers."""
    ends = np.cumsum(sizes)
    first, second = np.zeros_like(point), np.zeros_like(point)
    best: tuple[float, Weights, list[Weights]] | None = None
    since = 0
    for at in range(steps + 1):
        *logs, logits = np.split(point, ends)
        value, multipliers, logs_back, logits_back = value_and_gradient(grid, logs, logits)
        since = 0 if best is None or value < best[0] - 1e-3 else since + 1
        if best is None or value < best[0]:
            best = (value, point, multipliers)
        if at == steps or since > PATIENCE or time.monotonic() > end:
            break
        slope = np.concatenate([*logs_back, logits_back])
        first, second = 0.9 * first + 0.1 * slope, 0.99 * second + 0.01 * slope**2
        step = STEP * min(1.0, 0.1 + 1.8 * (1 - at / steps))
        mean, spread = first / (1 - 0.9 ** (at + 1)), np.sqrt(second / (1 - 0.99 ** (at + 1)))
        point = point - step * mean / (spread + 1e-12)
    assert best is not None  # for the type checker: there is a first step
    return best[1], best[0], best[2]
