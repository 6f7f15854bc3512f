"""Search: weights that make a run's constant small. It proposes, and claims nothing; `segments` proves.

Gradient steps (Adam), and Newton steps for matrices, in single precision where that is enough, on coarse grids first.
At the end the last states are made feasible on a fine grid, and their constants looked at between its points.

*The gradient* of the constant of a run's weights on a grid of frequencies. At each frequency the values that later
links read have a positive definite matrix F, the Schur complement of the quadratic form of `segments` where all earlier
ones are eliminated. A link with map C from them, multipliers L and slopes in [a, b] (c and e as in `segments.middle`)
makes of it

    [[F - C* e^2 L C, -C* c L], [-L c C, L]],

from which what is read no more is eliminated. It is positive definite for

    L = share D / max_theta ||(h D^1/2) C F^-1 C* (D^1/2 h)||,    h^2 = c^2 + e^2,    0 < share < 1,

whatever the positive diagonal D is; ``share = 1/2``, ``D = 1`` is ECLipsE's closed form [1]_, frequency by frequency.
The search goes on by gradient steps on log D and the logit of the share: the largest eigenvalues are simple in general,
so that the gradient comes from one frequency for each. Where a run is cut, F begins anew as L, with c = 0 and share 1.
The constant's square is the largest eigenvalue of C F^-1 C* of the last link.

.. [1] Xu, Sivaranjani, "ECLipsE: Efficient Compositional Lipschitz Constant Estimation for Deep Neural Networks",
   NeurIPS 2024.

*Newton steps* of a barrier method, for matrices, which have one frequency: the quadratic form of each part of a run is
``P = sum_k s_k x_k u_k u_k'``, with signs s_k, vectors u_k that the matrices give, and unknowns x_k: the multipliers
and the square of the constant, which weighs the first value. The least constant with all P positive definite is
LipSDP's program; minimised is

    t const^2 - sum over parts of log det P,

for t that grows. With X the inverse of P the gradient has ``-s_k u_k' X u_k``, the Hessian ``s_k s_l (u_k' X u_l)^2``:
nothing is larger than P and the matrix of all unknowns. u_k is z - c w or h w, w a row of a matrix, as
``z^2 - 2 c z v - e^2 v^2 = (z - c v)^2 - h^2 v^2``, ``h^2 = c^2 + e^2``, for the slopes in [a, b] of `segments.middle`.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Clock, OutOfTime, arithmetic, backends, frequency_grids, gram_power, random_vectors
from specnorm_networks.certified.links import AffineMap, Segment, Subnetwork
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.segments import middle


@dataclass
class Adam:
    """Steps along a gradient, each entry by its size so far (Kingma, Ba, "Adam", ICLR 2015).

    Parameters
    ----------
    rate : float
        Length of a step of an entry, about.
    decay : float, default 0.999
        Of the means of squares.
    """

    rate: float
    decay: float = 0.999
    count: int = 0
    mean: FloatArray = field(default_factory=lambda: np.zeros(()))
    square: FloatArray = field(default_factory=lambda: np.zeros(()))

    def step(self, gradient: FloatArray, share: float = 1.0) -> FloatArray:
        """The next step uphill, or a share of it."""
        self.count += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = self.decay * self.square + (1 - self.decay) * gradient * gradient
        mean = self.mean / (1 - 0.9**self.count)
        square = self.square / (1 - self.decay**self.count)
        return np.asarray(share * self.rate * mean / (np.sqrt(square) + 1e-12))


VISITED = 30
"""Frequencies an axis that the proof of a kernel visits, about."""
POWERS = 4
"""Power steps on the eigenvectors of the step before; ten times as many at the first."""
WIDE = 256
LANCZOS = 24
RESTARTS = 5
RESIDUAL = 1e-5
"""Rows above which an eigenvector comes from Lanczos steps; how many at once, how often, and to what residual."""
Vectors = NDArray[Any]
Parts = Sequence[tuple[int, int]]
"""Links ``first:last`` that are bounded together, in order."""


@dataclass(eq=False)
class Stage:
    """One link at the frequencies of a grid.

    Parameters
    ----------
    symbols : array, shape (f, m, p)
        Complex; real where the only frequency is 0. From all values that are kept before it.
    starts : bool
        Whether it is the first of its part.
    cut : bool
        Whether its part ends behind it.
    centre, leaf : array, shape (m,)
        c and e; behind a cut 0 and the largest slope.
    alive, kept : integer array
        Numbers of the p inputs among the entries of all values of the part; which of them are read after it.
    copies : int
        Inputs of the next part for each channel.
    angles : array, shape (f, d)
        The frequencies.
    """

    symbols: Vectors
    starts: bool
    cut: bool
    centre: FloatArray
    leaf: FloatArray
    alive: NDArray[np.intp]
    kept: NDArray[np.intp]
    copies: int
    angles: FloatArray
    vectors: Vectors | None = field(default=None)
    values: FloatArray = field(default_factory=lambda: np.zeros(0))
    """Largest eigenvalues of the last step, nearly: the two largest of them exactly."""
    summed: bool = False
    """Whether what counts is the sum over the frequencies: a head behind a ring (`heads`)."""

    @property
    def spread(self) -> FloatArray:
        """H."""
        return np.asarray(np.sqrt(self.centre**2 + self.leaf**2))

    def largest(self, gram: Vectors) -> tuple[float, int, Vectors]:
        """Largest eigenvalue of a stack, where it is, and its vector; all vectors are kept for the next step."""
        start = self.vectors
        if start is None:
            start = random_vectors(0, gram.shape[:2])
            start = start.astype(gram.dtype) if np.iscomplexobj(gram) else start.real
        numpy: Any = np  # an array of NumPy's as one of the algorithms'
        steps = POWERS if self.vectors is not None else 10 * POWERS
        given: Any = start
        found: Any = gram_power(lambda v: numpy.matmul(gram, v[..., None])[..., 0], given, steps, xp=numpy)
        kept = found[0]
        values = np.reshape(found[1], (-1,))
        near = np.argsort(values)[-2:]
        for each in near:
            values[each], kept[each] = top(gram[each], kept[each])
        at = int(np.argmax(values))
        self.vectors = kept
        self.values = values
        return float(values[at]), at, kept[at]


def top(matrix: Vectors, start: Vectors) -> tuple[float, Vectors]:
    """Largest eigenvalue of a positive semidefinite matrix and its vector, from a vector near it.

    Wide matrices: by Lanczos steps, each orthogonal to all before, until the residual is below `RESIDUAL`.
    """
    side = len(matrix)
    if side > WIDE:
        vector = start
        for _ in range(RESTARTS):
            basis = np.zeros((LANCZOS, side), dtype=matrix.dtype)
            basis[0] = vector / np.linalg.norm(vector)
            images = np.zeros_like(basis)
            for at in range(LANCZOS):
                images[at] = matrix @ basis[at]
                rest = images[at]
                for _ in range(2):
                    rest = rest - basis[: at + 1].T @ (basis[: at + 1].conj() @ rest)
                size = float(np.linalg.norm(rest))
                if at + 1 == LANCZOS or not size > 0:
                    break
                basis[at + 1] = rest / size
            values, vectors = np.linalg.eigh(basis[: at + 1].conj() @ images[: at + 1].T)
            weights = vectors[:, -1]
            value = float(values[-1])
            vector = basis[: at + 1].T @ weights
            if float(np.linalg.norm(images[: at + 1].T @ weights - value * vector)) <= RESIDUAL * value:
                return value, vector
    exact, every = np.linalg.eigh(matrix)
    return float(exact[-1]), every[:, -1]


class Cost(NamedTuple):
    """Of a step on a grid: products of real numbers, and bytes."""

    products: float
    memory: float


def cost(run: Subnetwork, parts: Parts, points: int) -> Cost:
    """Estimate a step from the widths alone: no kernel is read."""
    products = memory = 0.0
    for first, last in parts:
        part = run.part(first, last)
        f = frequencies(part, points)
        widths = dict(enumerate(widths_of(part), first))
        for at, link, alive, staying in _frontiers(part):
            p = sum(widths[s] for s in alive)
            n = sum(widths[s] for s in staying)
            m = link.width
            solved = 0.0 if at == first + 1 and not n else p**3 / 1.5 + 2.0 * p * p * m
            products += (4.0 if f > 1 else 1.0) * f * (solved + 2.0 * m * m * p + (n + m) ** 3 * bool(n))
            memory += 16.0 * f * (2 * m * p + (n + m) ** 2 + p * (n + m) * bool(n))
    return Cost(products, memory)


def widths_of(part: Segment) -> list[int]:
    """Entries of each value; of a network's input that one link alone reads, no more than that makes of them."""
    first, *others = part.widths
    alone = part.first == 0 and not any(0 in link.sources for link in part.links[1:])
    return [min(first, part.links[0].width) if alone else first, *others]


def proof_products(run: Subnetwork, parts: Parts) -> float:
    """Estimate the proof of all parts: a factorisation at each of `VISITED` frequencies."""
    found = 0.0
    for first, last in parts:
        part = run.part(first, last)
        side = sum(part.widths) if not part.is_chain else min(sum(part.widths[::2]), sum(part.widths[1::2]))
        wide = frequencies(part, 2).bit_length() - 1
        found += VISITED ** min(wide, 2) * float(side) ** 3 * (last - first > 1)
    return found


def frequencies(part: Segment, points: int) -> int:
    """How many there are on the grid of a part."""
    wide = [any(each.spec.kernel_shape[j] > 1 for each in part.filters) for j in range(part.axes)]
    return len(frequency_grids.half_grid([points if each else 1 for each in wide]))


def stages(run: Subnetwork, parts: Parts, points: int, dtype: Any = np.complex128) -> list[Stage]:
    """A run on a grid of ``points`` frequencies an axis, where there are taps; ``dtype``: of complex symbols."""
    return [stage for part in parts for stage in stages_of(run, parts, part, points, dtype)]


def stages_of(
    run: Subnetwork,
    parts: Parts,
    part: tuple[int, int],
    at: int | FloatArray,
    dtype: Any,
    entry: FloatArray | None = None,
) -> list[Stage]:
    """One part of a run at the frequencies of a grid, or at given angles (f, d); ``entry``: q_0, if it is not 1."""
    first, last = part
    found = []
    segment = run.part(first, last)
    shrink = None if entry is None else np.repeat(entry, segment.widths[0] // segment.width)
    kernels = segment.kernels()
    extents = [kernel.shape[2:] for each in kernels for kernel, _ in each.values()]
    sizes = [1 if max(axis) == 1 or not isinstance(at, int) else at for axis in zip(*extents, strict=True)]
    angles = frequency_grids.half_grid(sizes).angles if isinstance(at, int) else at
    widths = dict(enumerate(widths_of(segment), first))
    begins = dict(enumerate(np.cumsum([0, *widths.values()]).tolist(), first))
    for (behind, link, alive, staying), of in zip(_frontiers(segment), kernels, strict=True):
        symbols: Vectors = np.zeros((len(angles), link.width, sum(widths[s] for s in alive)), dtype=np.complex128)
        few = behind == 1 and widths[0] < segment.widths[0]
        ends = np.cumsum([0, *(widths[s] for s in alive)]).tolist()
        columns = {s: slice(a, b) for s, a, b in zip(alive, ends, ends[1:], strict=False)}
        for source, (kernel, place) in of.items():
            whole: Vectors = symbols_at(kernel, place, angles)
            whole = whole / shrink if shrink is not None and source == first else whole
            if few:  # W W* is what counts
                right: Any = np.linalg.qr(adjoint(whole), mode="r")
                whole = adjoint(right)
            symbols[:, :, columns[source]] = whole
        kept = np.concatenate([np.arange(columns[s].start, columns[s].stop) for s in staying] or [np.arange(0)])
        cut = behind == last
        centre, leaf = (np.zeros(link.width), link.steepest) if cut else middle(*link.slopes)
        copies = math.prod(_next(run, parts, last).stride) if cut and last < len(run.links) else 1
        numbers = np.concatenate([np.arange(begins[s], begins[s] + widths[s]) for s in alive])
        symbols = symbols.astype(dtype) if angles.any() else symbols.real
        of_link = (symbols, behind == first + 1, cut, centre, leaf, numbers, kept, link.repeat * copies, angles)
        found.append(Stage(*of_link))
    return found


def adjoint(a: Vectors) -> Vectors:
    """Of each matrix of a stack."""
    return a.conj().swapaxes(-1, -2)


def _frontiers(part: Segment) -> Iterator[tuple[int, AffineMap, list[int], list[int]]]:
    """For each link: its value's number, itself, the values that are kept before it, and which of them after it."""
    needed = {source: at for at, link in enumerate(part.links, part.first + 1) for source in link.sources}
    alive = [part.first]
    for at, link in enumerate(part.links, part.first + 1):
        staying = [s for s in alive if needed.get(s, at) > at]  # of no entries, a value is read by none
        yield at, link, alive, staying
        alive = [*staying, at]


def _next(run: Subnetwork, parts: Parts, first: int) -> Segment:
    return run.part(first, next(end for begin, end in parts if begin == first))


def symbols_at(
    kernel: FloatArray,
    place: Sequence[int],
    angles: FloatArray,
) -> NDArray[np.complex128]:
    """Of a kernel whose first tap stands at a place, at angles (f, d)."""
    taps = kernel.reshape(math.prod(kernel.shape[:2]), -1).T
    shape = kernel.shape[2:]
    turns = angles @ (np.indices(shape).reshape(len(shape), len(taps)) + np.reshape(place, (-1, 1)))
    found = np.cos(turns) @ taps + 1j * (np.sin(turns) @ taps)
    return np.asarray(found.reshape(-1, *kernel.shape[:2]))


ALMOST = 1 / (1 + math.exp(-16))
"""The largest share."""


@dataclass(eq=False)
class _Kept:
    """What the way back needs of one stage."""

    multipliers: FloatArray
    largest: tuple[float, int, Vectors]
    solved: Vectors
    eliminated: Vectors | None


def value_and_gradient(
    run: Sequence[Stage],
    point: FloatArray,
) -> tuple[float, list[FloatArray], FloatArray]:
    """Logarithm of the constant's square on the grid, and its gradient with respect to logs and logits.

    ``point``: log D of each stage but the last, one after the other, and the logits of their shares.
    """
    logs, shares = _unknowns(run, point)
    kept = forward(run, logs, shares)
    return math.log(kept[-1].largest[0]), *_back(run, kept, shares)


def value_alone(run: Sequence[Stage], point: FloatArray) -> tuple[float, list[FloatArray]]:
    """The same value, and the multipliers."""
    kept = forward(run, *_unknowns(run, point))
    return math.log(kept[-1].largest[0]), [each.multipliers for each in kept[:-1]]


def _unknowns(run: Sequence[Stage], point: FloatArray) -> tuple[list[FloatArray], FloatArray]:
    """Logarithms of D, and the share of each stage: all of it at a cut."""
    *logs, logits = np.split(point, np.cumsum([len(stage.centre) for stage in run[:-1]]))
    shares = 1 / (1 + np.exp(-np.append(logits, 0.0)))
    return [*logs, _last_log(run)], np.where([stage.cut for stage in run], 1.0, shares)


def _last_log(run: Sequence[Stage]) -> FloatArray:
    """Logarithm of D of the last: it has no multipliers."""
    return np.zeros(len(run[-1].centre))


def forward(
    run: Sequence[Stage],
    logs: Sequence[FloatArray],
    shares: FloatArray | None,
) -> list[_Kept]:
    """``shares``: None where D are the multipliers themselves."""
    kept: list[_Kept] = []
    form: Vectors | None = None  # a diagonal
    real = run[0].symbols.real.dtype
    diagonal = np.ones(run[0].symbols.shape[2])
    for i, (stage, log) in enumerate(zip(run, logs, strict=True)):
        right = adjoint(stage.symbols)
        solved = right / diagonal[:, None].astype(real) if form is None else np.linalg.solve(form, right)
        weight = np.exp(log / 2) * stage.spread
        gram = stage.symbols @ solved
        narrow = weight.astype(real)
        if stage.summed:
            gram = gram.real.sum(axis=0, keepdims=True)
        norm, at, vector = stage.largest(narrow[:, None] * gram * narrow)
        if norm <= 0:  # a layer of zeros: any multipliers will do
            norm = 1.0
        share = 1.0 if stage.cut else min(norm, ALMOST) if shares is None else shares[i]
        lam = share * np.exp(log) / norm
        eliminated = None
        if stage.cut:
            form = None
            diagonal = np.repeat(lam, stage.copies)
        elif not len(stage.kept) and not stage.leaf.any():
            steep = (stage.centre * lam).astype(real)
            gram *= -steep[:, None]
            gram *= steep
            own = np.arange(len(lam))
            gram[:, own, own] += lam.astype(real)
            form = gram
        else:
            before = form if form is not None else diagonal.astype(real) * np.eye(len(diagonal), dtype=real)
            form, eliminated = _eliminated(stage, before, lam.astype(real))
        kept.append(_Kept(lam, (norm, at, vector * weight), solved, eliminated))
    return kept


def _eliminated(stage: Stage, form: Vectors, lam: FloatArray) -> tuple[Vectors, Vectors]:
    """F after a link, and ``F_rr^-1 F_rk`` (r: what is read no more; k: kept, the link last)."""
    if stage.leaf.any():
        form = form - adjoint(stage.symbols) @ ((stage.leaf.astype(lam.dtype) ** 2 * lam)[:, None] * stage.symbols)
    joint: Vectors = -(stage.centre.astype(lam.dtype) * lam)[:, None] * stage.symbols
    gone, stay = _split(stage)
    m = len(lam)
    n = len(stay)
    new = np.zeros((joint.shape[0], n + m, n + m), dtype=joint.dtype)
    new[:, n:, n:] = np.diag(lam)
    between = adjoint(joint)[:, gone]
    if n:
        wide = np.broadcast_to(form, (joint.shape[0], *form.shape[-2:]))
        new[:, :n, :n] = wide[:, stay[:, None], stay]
        new[:, n:, :n] = joint[:, :, stay]
        new[:, :n, n:] = adjoint(joint)[:, stay]
        between = np.concatenate([wide[:, gone[:, None], stay], between], axis=2)
    if not len(gone):
        return new, between
    inner = form if not n else form[..., gone[:, None], gone]
    solved = np.linalg.solve(np.broadcast_to(inner, (joint.shape[0], *inner.shape[-2:])), between)
    return new - adjoint(between) @ solved, solved


def _split(stage: Stage) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which of the values before a link go, and which stay."""
    return np.setdiff1d(np.arange(stage.symbols.shape[2]), stage.kept), stage.kept


def _back(
    run: Sequence[Stage],
    kept: Sequence[_Kept],
    shares: FloatArray,
) -> tuple[list[FloatArray], FloatArray]:
    """The gradient: F's cotangents, at the few frequencies where a largest eigenvalue is."""
    logs: list[FloatArray] = []
    logits = np.zeros(len(kept))
    at_all: list[int] = []
    cotangents: Vectors = np.zeros((0, 0, 0))
    after: FloatArray | None = None  # of the diagonal that the next part begins with
    for i in range(len(kept) - 1, -1, -1):
        stage = run[i]
        each = kept[i]
        lam = each.multipliers
        norm, at, vector = each.largest
        of_lam = np.zeros(len(lam))
        before: Vectors = np.zeros((0, stage.symbols.shape[2], stage.symbols.shape[2]), dtype=stage.symbols.dtype)
        if stage.cut:
            at_all = []
            if after is not None:
                of_lam = after.reshape(len(lam), -1).sum(axis=1)
        elif at_all:
            at_all = list(range(len(stage.symbols))) if stage.summed else at_all
            before, of_lam = _through(stage, each, lam, np.asarray(at_all), cotangents)
        total = float(np.sum(of_lam * lam))
        pull = 1.0 if i == len(kept) - 1 else -total  # d value / d log norm
        here = list(range(len(stage.symbols))) if stage.summed else [at]
        reached = each.solved[here] @ vector
        at_all, cotangents = _with(at_all, before, here, -(pull / norm) * reached[:, :, None] * reached[:, None].conj())
        if i < len(kept) - 1:
            images = np.einsum("kmp,kp->m", stage.symbols[here], reached)
            shape = (vector.conj() * images).real / norm
            logs.append(of_lam * lam - total * shape)
            logits[i] = 0.0 if stage.cut else total * (1 - shares[i])
        if stage.starts:
            after = np.einsum("kii->i", cotangents).real
    return logs[::-1], logits[:-1]


def _with(
    at_all: list[int],
    cotangents: Vectors,
    at: list[int],
    new: Vectors,
) -> tuple[list[int], Vectors]:
    for one, more in zip(at, new, strict=True):
        if one in at_all:
            cotangents[at_all.index(one)] += more
    fresh = [j for j, one in enumerate(at) if one not in at_all]
    return [*at_all, *(at[j] for j in fresh)], np.concatenate([cotangents, new[fresh]])


def _through(
    stage: Stage,
    each: _Kept,
    lam: FloatArray,
    rows: NDArray[np.intp],
    cotangents: Vectors,
) -> tuple[Vectors, FloatArray]:
    """Cotangents of F before a link, and of the link's multipliers, from those of F after it."""
    gone, stay = _split(stage)
    p = stage.symbols.shape[2]
    m = len(lam)
    t = -each.solved[rows] * (stage.centre * lam) if each.eliminated is None else each.eliminated[rows]
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
    inner = whole[:, :p, :p]
    between = whole[:, :p, p:]
    # Diagonals of C F_b and C F C*, F here the cotangents.
    of_lam = np.einsum("kii->i", cotangents[:, len(stay) :, len(stay) :]).real
    of_lam = of_lam - 2 * stage.centre * np.einsum("kmp,kpm->m", symbols, between).real
    if stage.leaf.any():
        of_lam = of_lam - stage.leaf**2 * np.einsum("kmp,kmp->m", symbols @ inner, symbols.conj()).real
    return inner.copy(), of_lam


def parameters(run: Sequence[Stage], multipliers: Sequence[FloatArray]) -> list[FloatArray]:
    """Logarithms of D and logits of the shares with which multipliers are these ones, as far as they are feasible."""
    logs = [np.log(each) for each in multipliers]
    norms = np.array([each.largest[0] for each in forward(run, [*logs, _last_log(run)], None)[:-1]])
    norms = np.minimum(norms, ALMOST)
    return [*logs, np.log(norms / (1 - norms))]


FACTOR = 4.0
"""By which t grows."""
GAP = 1e-4
GAIN = 2e-3
"""Ends: the relative distance of the constant's square from its least value, or the gain by a larger t (the next one
gains a quarter of it), for which it would not go on."""
CENTRED = 0.9
"""Newton decrement below which t grows."""
INWARD = 1.05
"""The square of the constant that it begins with, over that of the multipliers that it is given."""
SHARE = 0.3
SHORTER = 0.6
SHORTEST = 24
"""What is left of an eigenvalue at least; by which a step is shortened, and how often at most."""


@dataclass(frozen=True, eq=False)
class _Form:
    """P of one part: of values one after the other.

    Parameters
    ----------
    stages : sequence of Stage
        Its links.
    owner, behind : integer array, shapes (n,), (m,)
        Number of the unknown of each of the n entries of its values, and of each of the m rows of its matrices.
    """

    stages: Sequence[Stage]
    owner: NDArray[np.intp]
    behind: NDArray[np.intp]

    @property
    def first(self) -> int:
        """Entries of the first value; each other one is that of a row of an inner link."""
        return len(self.owner) - len(self.behind) + len(self.stages[-1].centre)

    def at(self, x: FloatArray) -> FloatArray:
        """P."""
        found = np.diag(x[self.owner])
        own = self.first
        for stage, numbers in zip(self.stages, np.split(self.behind, self._ends()), strict=True):
            matrix = stage.symbols[0]
            weights = x[numbers]
            if not stage.cut:
                here = np.arange(own, own + len(matrix))
                between = (stage.centre * weights)[:, None] * matrix
                found[np.ix_(here, stage.alive)] -= between
                found[np.ix_(stage.alive, here)] -= between.T
            if stage.leaf.any():
                found[np.ix_(stage.alive, stage.alive)] -= matrix.T @ ((stage.leaf**2 * weights)[:, None] * matrix)
            own += len(matrix)
        return found

    def _ends(self) -> NDArray[np.intp]:
        return np.cumsum([len(stage.centre) for stage in self.stages[:-1]], dtype=np.intp)

    def derivatives(self, matrix: FloatArray, gradient: FloatArray, hessian: FloatArray) -> None:
        """Add those of ``-log det P`` for a P."""
        inverse = np.linalg.inv(matrix)
        first = self.first
        inner = len(self.owner) - self.first
        right = np.concatenate([inverse[:, stage.alive] @ stage.symbols[0].T for stage in self.stages], axis=1)
        both = np.concatenate([stage.symbols[0] @ right[stage.alive] for stage in self.stages])
        c = np.concatenate([stage.centre for stage in self.stages])[:inner]
        spread = np.concatenate([stage.spread for stage in self.stages])
        # Of z - c w, c = 0 for the first value's entries, and of h w.
        own = inverse
        own[:, first:] -= right[:, :inner] * c
        own[first:, :] -= (right[:, :inner] * c).T
        own[first:, first:] += c[:, None] * both[:inner, :inner] * c
        mixed = right * spread
        mixed[first:] -= c[:, None] * both[:inner] * spread
        outer = spread[:, None] * both * spread
        owners = np.concatenate([self.owner, self.behind])
        np.add.at(gradient, owners, np.concatenate([-np.diag(own), np.diag(outer)]))
        squares = np.block([[own**2, -(mixed**2)], [-(mixed**2).T, outer**2]])
        rows = np.zeros((len(gradient), len(owners)))
        np.add.at(rows, owners, squares)
        np.add.at(hessian.T, owners, rows.T)


def newton_products(run: Subnetwork, parts: Parts) -> float:
    """Of real numbers, that a Newton step takes; infinite where a layer has more than one frequency."""
    found = 0.0
    unknowns = 0
    for first, last in parts:
        part = run.part(first, last)
        widths = widths_of(part)
        if frequencies(part, 2) > 1:
            return math.inf
        n = sum(widths[:-1])
        m = sum(widths[1:])
        read = sum(link.width * sum(widths[s - first] for s in link.sources) for link in part.links)
        found += 2.0 * n**3 + 2.0 * n * read + 4.0 * (n + m) ** 2
        unknowns += m
    return found + unknowns**3 / 3 + 4.0 * unknowns**2


def _parts(run: Sequence[Stage]) -> list[tuple[int, int]]:
    starts = [at for at, stage in enumerate(run) if stage.starts]
    return list(zip(starts, [*starts[1:], len(run)], strict=True))


def _forms(
    run: Sequence[Stage],
    links: Sequence[AffineMap],
) -> tuple[list[_Form], list[NDArray[np.intp]], int]:
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
        part = run[first:last]
        before = run[first].symbols.shape[2]
        entry = np.full(before, count) if first == 0 else np.repeat(owners[first - 1], run[first - 1].copies)
        own = owners[first:last]
        found.append(_Form(part, np.concatenate([entry, *own[:-1]]), np.concatenate(own)))
    return found, owners[:-1], count


def newton_steps(
    run: Sequence[Stage],
    links: Sequence[AffineMap],
    multipliers: Sequence[FloatArray],
    constant_sq: float,
) -> Iterator[tuple[list[FloatArray], bool]]:
    """Better and better multipliers, from feasible ones and the constant's square; whether each is the last."""
    forms, owners, count = _forms(run, links)
    # Weights of the first value are 1 here, and to become less; those of the last stay.
    x = np.ones(count + 2)
    ends = np.cumsum([stage.cut for stage in run])  # every part ends a little looser than it begins
    for own, each, cuts in zip(owners, multipliers, ends, strict=False):
        x[own] = each / INWARD ** (cuts / ends[-1])
    x[count + 1] = 1 / (constant_sq * INWARD)
    order = sum(len(form.owner) for form in forms)
    matrices = [form.at(x) for form in forms]
    t = float(order)
    before = math.inf
    value = _barrier(matrices)
    while value is not None:
        move, decrement = _newton(forms, matrices, x, t)
        changes = [form.at(move) for form in forms]
        for size in SHORTER ** np.arange(SHORTEST):
            new = x + size * move
            there = [p + size * change for p, change in zip(matrices, changes, strict=True)]
            # No eigenvalue falls to less than a share of what it was: near the border steps are short.
            short = _barrier([after - SHARE * p for p, after in zip(matrices, there, strict=True)]) is not None
            next_value = _barrier(there) if short else None
            if next_value is not None and next_value + t * new[count] < value + t * x[count]:
                break
        else:
            yield [x[own] / x[count] for own in owners], True
            return
        outward = new[count] > x[count]
        x = new
        matrices = there
        value = next_value
        last = False
        if decrement < CENTRED and size == 1:
            last = before / x[count] < 1 + GAIN
            t = t * FACTOR
            before = x[count]
        elif outward:
            t *= FACTOR
        last = last or order < GAP * t * x[count]
        yield [x[own] / x[count] for own in owners], last
        if last:
            return


def _newton(
    forms: Sequence[_Form],
    matrices: Sequence[FloatArray],
    x: FloatArray,
    t: float,
) -> tuple[FloatArray, float]:
    """The step, 0 for the last unknown, and its decrement."""
    gradient = np.zeros(len(x))
    hessian = np.zeros((len(x), len(x)))
    for form, matrix in zip(forms, matrices, strict=True):
        form.derivatives(matrix, gradient, hessian)
    gradient = gradient[:-1]
    hessian = hessian[:-1, :-1]
    gradient[-1] += t
    root = 1 / np.sqrt(np.diag(hessian))
    scaled = hessian * root * root[:, None] + 1e-13 * np.eye(len(root))
    move = -root * np.linalg.solve(scaled, root * gradient)
    return np.append(move, 0.0), math.sqrt(max(-float(gradient @ move), 0.0))


def _barrier(matrices: Sequence[FloatArray]) -> float | None:
    """``-log det`` of all; None where one is not positive definite."""
    try:
        found = -2 * sum(float(np.log(np.diag(np.linalg.cholesky(each))).sum()) for each in matrices)
    except np.linalg.LinAlgError:
        return None
    return found if math.isfinite(found) else None


Progress = Callable[[int, int, str], None]
RATE = 2**32
"""Products of numbers in a second, about: what a budget of seconds is counted in, so that it ends at the same step on
every machine."""
ROUNDS = ((6, 20), (6, 30), (10, 50), (16, 100))
"""Rounds of gradient steps: frequencies an axis, and steps; then each with twice as many as the last."""
EXPECTED = 40
NEWTON = 1 / 4
"""Newton steps that are expected; they follow the first round where they take no larger share of the budget."""
WORTH_KEEPING = 2.5e-3
"""Gain of the constant's square that makes another proposal: more than a proof adds."""
MEMORY = 2**30
"""Bytes of what is computed in a step."""
FINEST = 16
"""Frequencies an axis on which the multipliers of the end are made, lest they are infeasible between the others."""
LOOKED_AT = 3
CHEAP = 0.02
"""States that are looked at on the finest grid; part of the budget that may be spent on more."""
REFINED = 2
PEAKS = 6
NEAR = 0.97
"""Of them, whose constants are looked at between its points; near how many of its points, and how high."""
RESONANT = 0.01
"""Such a rise is a narrow peak, for which it is better to scale all multipliers, as the proof does."""
FEWEST = 3
"""Frequencies an axis below which no weights are looked for."""
STEP = 0.07
"""Of Adam, in logarithms of multipliers; it falls to a tenth towards the end of each grid."""
PATIENCE = 25
"""Steps without a gain of a thousandth after which a grid is left."""


def search(
    run: Subnetwork,
    parts: Parts,
    steps: int,
    seconds: float,
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> list[list[FloatArray]]:
    """Weights of each link's values, for `segments.constant_of_run`: several, the most promising first; or none.

    A larger budget keeps what a smaller one finds: every state that was better by `WORTH_KEEPING` than the one before.

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
    with arithmetic.exact(like, backend=backends.backend_for(like)):
        return _Search(run, parts, steps, seconds * RATE, progress, clock or Clock()).run()


def _is_kept(at: int) -> bool:
    return at % 5 == 0 or at in (1, 2)


class _Search:
    """One search: where it stands, what it may still cost, and what it proposes."""

    def __init__(
        self,
        run: Subnetwork,
        parts: Parts,
        steps: int,
        budget: float,
        progress: Progress | None,
        clock: Clock,
    ) -> None:
        self.clock = clock
        self.network = run
        self.parts = parts
        self.links = run.links[:-1]
        self.steps = steps
        self.left = budget
        self.whole = budget
        self.progress = progress
        self.most = next(at for at in range(steps, -1, -1) if _is_kept(at))
        self.point = np.zeros(sum(link.width for link in self.links) + len(self.links))
        self.done = 0
        self.states: list[tuple[float, FloatArray]] = []
        """Where it stood, and what that was worth on its grid."""
        self.dtype: Any = np.complex64
        self.fine: list[Stage] = []
        self.finest = self._affordable(FINEST, budget / 10) or 0
        """Frequencies an axis of the grid of the end; 0: none that is affordable."""

    def run(self) -> list[list[FloatArray]]:
        first = self._affordable(ROUNDS[0][0], self.left)
        if first is None:
            return []
        grid = stages(self.network, self.parts, first)
        self._keep(self._value(grid)[0], anew=True)
        if not self._narrow_is_enough(first):
            self.dtype = np.complex128
        with contextlib.suppress(np.linalg.LinAlgError, OutOfTime):  # what was found before is worth as much
            self._go_on()
        self.fine = stages(self.network, self.parts, self.finest, self.dtype) if self.finest else grid
        self.finest = self.finest or first
        return [self._weights(*each) for each in sorted(self._refined(), key=lambda found: found[0])]

    def _narrow_is_enough(self, points: int) -> bool:
        """Whether single precision says of the beginning what double precision does."""
        with contextlib.suppress(np.linalg.LinAlgError, ValueError, ArithmeticError):
            narrow = self._value(stages(self.network, self.parts, points, self.dtype))[0]
            return abs(narrow - self.states[0][0]) < WORTH_KEEPING
        return False

    def _refined(self) -> list[tuple[float, list[FloatArray]]]:
        """Constants and multipliers of the last states, feasible on the finest grid; of earlier ones if cheap.

        Of the best few the constants are looked at between the points of the grid; the others' are as much larger.
        """
        found: list[tuple[float, list[FloatArray], list[FloatArray]]] = []
        each = cost(self.network, self.parts, self.finest).products
        for count, (_, point) in enumerate(reversed(self.states)):
            if count >= LOOKED_AT and count * each > CHEAP * self.whole:
                break
            self.point = point
            with contextlib.suppress(np.linalg.LinAlgError, ValueError):
                found.append((*self._value(self.fine), [self.fine[last - 1].values for _, last in self.parts]))
        found.sort(key=lambda state: state[0])
        with contextlib.suppress(np.linalg.LinAlgError, ValueError):
            rises = [self._rises(multipliers, on_grid) for _, multipliers, on_grid in found[:REFINED]]
            rises += [np.min(rises, axis=0)] * (len(found) - len(rises))
            return [self._raised(*state[:2], more) for state, more in zip(found, rises, strict=True)]
        return [state[:2] for state in found]

    def _raised(
        self,
        value: float,
        multipliers: Sequence[FloatArray],
        rises: FloatArray,
    ) -> tuple[float, list[FloatArray]]:
        """Where the square of each part's constant is ``exp(rise)`` times larger."""
        better = []
        so_far = 0.0
        for (first, last), more in zip(self.parts, rises.tolist(), strict=True):
            better += [each * math.exp(-so_far) for each in multipliers[first : last - 1]]
            so_far += more
            better += [each * math.exp(-so_far) for each in multipliers[last - 1 : last]]
        return value + so_far, better

    def _rises(
        self,
        multipliers: Sequence[FloatArray],
        on_grid: Sequence[FloatArray],
    ) -> FloatArray:
        """Logarithm of how much larger the square of each part's constant is between the points of the finest grid."""
        logs = [*map(np.log, multipliers), _last_log(self.fine)]
        rises = np.zeros(len(self.parts))
        for at, ((first, last), known) in enumerate(zip(self.parts, on_grid, strict=True)):
            entry = None if first == 0 else np.sqrt(multipliers[first - 1])

            def values(
                angles: FloatArray,
                part: tuple[int, int] = (first, last),
                entry: Any = entry,
            ) -> FloatArray:
                grid = stages_of(self.network, self.parts, part, angles, np.complex128, entry)
                kept = forward(grid, logs[slice(*part)], None)
                feasible = all(each.largest[0] < ALMOST for each in kept[:-1])
                return grid[-1].values if feasible else np.full(len(angles), math.inf)

            angles = self.fine[first].angles
            if angles.any():
                on_this = known * (float(values(angles[known.argmax()][None])[0]) / float(known.max()))
                rises[at] = math.log(highest(values, angles, 2 * math.pi / self.finest, on_this) / float(on_this.max()))
        return np.where(rises < RESONANT, rises, 0.0)

    def _go_on(self) -> None:
        """Rounds of gradient steps, and Newton steps after the first."""
        grid: tuple[int, list[Stage]] | None = None
        ended = False
        points_last, steps_last = ROUNDS[-1]
        for wanted, steps in itertools.chain(ROUNDS, ((points_last, steps_last * 2**k) for k in itertools.count(1))):
            if ended or self.done >= self.most:
                break
            points = self._affordable(wanted, self.left)
            if points is None:
                break
            anew = grid is None or grid[0] != points
            if grid is None or anew:
                grid = points, stages(self.network, self.parts, points, self.dtype)
            known = len(self.states)
            self._descend(grid[1], steps, cost(self.network, self.parts, points).products, anew=anew)
            if wanted == points_last and len(self.states) == known:
                break
            ended = self.done < self.most and self._newton(grid[1])

    def _affordable(self, points: int, left: float) -> int | None:
        """Points of a grid whose steps are within what is left, with fewer if need be; None: there is none."""
        while points >= FEWEST:
            step = cost(self.network, self.parts, points)
            if step.products <= left and step.memory <= MEMORY:
                return points
            points -= 2
        return None

    def _tick(self) -> None:
        self.clock.check()
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.steps, f"{self.network.start} to {self.network.end}")

    def _value(self, grid: Sequence[Stage]) -> tuple[float, list[FloatArray]]:
        return value_alone(grid, self.point)

    def _keep(self, value: float, *, anew: bool = False) -> None:
        """Where it stands, if that is better than what is kept; ``anew``: whether or not."""
        if anew or value < self.states[-1][0] - WORTH_KEEPING:
            self.states.append((value, self.point))

    def _weights(self, value: float, multipliers: Sequence[FloatArray]) -> list[FloatArray]:
        """The last value is weighed by the constant, so that the norms of all parts are about 1."""
        last = np.full(self.network.links[-1].width, math.exp(-value / 2))
        return [*(np.sqrt(each) for each in multipliers), last]

    def _descend(self, grid: Sequence[Stage], steps: int, each: float, *, anew: bool) -> None:
        """Adam from where it stands to the best point that it sees; ``anew``: what is kept was worth more or less."""
        if self.left < each:
            return
        for at, best, point in gradient_steps(grid, self.links, self.point, steps, PATIENCE):
            self.point = point
            self.left = self.left - each
            if at:
                self._tick()
                if _is_kept(self.done):
                    self._keep(best, anew=anew)
                    anew = False
            if self.done >= self.most or self.left < each:
                break

    def _newton(self, grid: Sequence[Stage]) -> bool:
        """Newton steps to the end, where they take a share of the budget; whether there were any."""
        each = newton_products(self.network, self.parts)
        if EXPECTED * each > min(self.left, NEWTON * self.whole):
            return False
        value, multipliers = self._value(grid)
        for better, ends in newton_steps(grid, self.links, multipliers, math.exp(value)):
            self.left -= each
            self._tick()
            if ends or _is_kept(self.done):
                self.point = np.concatenate(parameters(grid, better))
                self._keep(self._value(grid)[0], anew=ends)
            if self.done >= self.most or self.left < each:
                break
        return True


def highest(
    values: Callable[[FloatArray], FloatArray],
    grid: FloatArray,
    apart: float,
    on_grid: FloatArray,
) -> float:
    """The largest value near the highest points of a grid of angles (f, d), by parabolas along the axes."""
    step = np.where(grid.any(axis=0), apart, 0.0)
    peaks: list[FloatArray] = []
    for at in np.argsort(-on_grid):
        far = [np.minimum(*(abs(_turned(grid[at] - sign * each)) for sign in (1, -1))) for each in peaks]
        if len(peaks) < PEAKS and on_grid[at] > NEAR * on_grid.max() and all((d > 1.5 * step).any() for d in far):
            peaks.append(grid[at])
    centres = np.asarray(peaks)
    best = float(on_grid.max())
    axes = np.flatnonzero(step)
    for share in (1 / 2, 1 / 4, 1 / 8):
        moves = np.concatenate([np.zeros((1, len(step))), *(sign * share * np.diag(step)[axes] for sign in (1, -1))])
        found = values((centres[:, None] + moves).reshape(-1, len(step))).reshape(len(centres), -1)
        best = max(best, float(found.max()))
        if not math.isfinite(best):
            break
        here = found[:, :1]
        after = found[:, 1 : 1 + len(axes)]
        before = found[:, 1 + len(axes) :]
        bend = np.maximum(2 * here - after - before, 1e-12 * here)
        centres[:, axes] += np.clip((after - before) / (2 * bend), -1, 1) * share * step[axes]
    return best


def _turned(angles: FloatArray) -> FloatArray:
    """Between -pi and pi."""
    return np.asarray((angles + math.pi) % (2 * math.pi) - math.pi)


def gradient_steps(
    grid: Sequence[Stage],
    links: Sequence[AffineMap],
    point: FloatArray,
    steps: int,
    patience: int,
) -> Iterator[tuple[int, float, FloatArray]]:
    """Adam from a point, with steps that get shorter: the number of each step, the least value so far, and its point.

    ``patience``: steps without a gain of a thousandth after which it ends.
    """
    by = Adam(STEP, 0.99)
    least = math.inf
    best = point
    since = 0
    for at in range(steps + 1):
        value, logs_back, logits_back = value_and_gradient(grid, point)
        since = 0 if value < least - 1e-3 else since + 1
        if value < least:
            least = value
            best = point
        yield at, least, best
        if since > patience:
            return
        slopes = [
            slope if link.groups is None else np.bincount(link.groups, slope)[link.groups]  # one number a group
            for slope, link in zip(logs_back, links, strict=True)
        ]
        point = point - by.step(np.concatenate([*slopes, logits_back]), min(1.0, 0.1 + 1.8 * (1 - at / max(steps, 1))))
