"""Links at the frequencies of a grid: what `recursion` computes with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.arrays import random_vectors
from specnorm.numerics.power import gram_power
from specnorm.problem.frequencies import half_grid
from specnorm_networks.certified.affine_maps import AffineMap, Segment, Subnetwork
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.segments import middle

VISITED = 30
"""Frequencies an axis that the proof of a kernel visits, about."""
POWERS = 4
"""Power steps on the eigenvectors of the step before; ten times as many at the first."""
Vectors = NDArray[Any]


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
    """

    symbols: Vectors
    starts: bool
    cut: bool
    centre: FloatArray
    leaf: FloatArray
    alive: NDArray[np.intp]
    kept: NDArray[np.intp]
    copies: int
    vectors: Vectors | None = field(default=None)
    values: FloatArray = field(default_factory=lambda: np.zeros(0))
    """Largest eigenvalues of the last step, nearly: the two largest of them exactly."""
    angles: FloatArray = field(default_factory=lambda: np.zeros((1, 0)))
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
        kept, values = found[0], np.reshape(found[1], (-1,))
        near = np.argsort(values)[-2:]
        exact, vectors = np.linalg.eigh(gram[near])
        values[near], kept[near] = exact[:, -1], vectors[:, :, -1]
        at, self.vectors, self.values = int(np.argmax(values)), kept, values
        return float(values[at]), at, kept[at]


@dataclass(frozen=True)
class Cost:
    """What a step on a grid takes.

    Parameters
    ----------
    products : float
        Of real numbers.
    memory : float
        Bytes.
    """

    products: float
    memory: float


def cost(run: Subnetwork, parts: Sequence[tuple[int, int]], points: int) -> Cost:
    """What a step takes, from the widths alone: no kernel is read.

    Parameters
    ----------
    run, parts, points
        As for `stages`.
    """
    products = memory = 0.0
    for first, last in parts:
        part = run.part(first, last)
        f = frequencies(part, points)
        widths = dict(enumerate(widths_of(part), first))
        for at, link, alive, staying in _frontiers(part):
            p, n, m = sum(widths[s] for s in alive), sum(widths[s] for s in staying), link.width
            solved = 0.0 if at == first + 1 and not n else p**3 / 1.5 + 2.0 * p * p * m
            products += (4.0 if f > 1 else 1.0) * f * (solved + 2.0 * m * m * p + (n + m) ** 3 * bool(n))
            memory += 16.0 * f * (2 * m * p + (n + m) ** 2 + p * (n + m) * bool(n))
    return Cost(products, memory)


def widths_of(part: Segment) -> list[int]:
    """Entries of each value; of a network's input that one link alone reads, no more than that makes of them."""
    first, *others = part.widths
    alone = part.first == 0 and not any(0 in link.sources for link in part.links[1:])
    return [min(first, part.links[0].width) if alone else first, *others]


def proof_products(run: Subnetwork, parts: Sequence[tuple[int, int]]) -> float:
    """About what the proof of all parts takes, of real numbers: a factorisation at each of `VISITED` frequencies."""
    found = 0.0
    for first, last in parts:
        part = run.part(first, last)
        side = sum(part.widths) if not part.chain else min(sum(part.widths[::2]), sum(part.widths[1::2]))
        wide = frequencies(part, 2).bit_length() - 1
        found += VISITED ** min(wide, 2) * float(side) ** 3 * (last - first > 1)
    return found


def frequencies(part: Segment, points: int) -> int:
    """How many there are on the grid of a part."""
    specs = [term.filter.spec for link in part.links for term in link.terms if term.filter is not None]
    wide = [any(spec.kernel_shape[j] > 1 for spec in specs) for j in range(part.axes)]
    return len(half_grid([points if each else 1 for each in wide]))


def stages(run: Subnetwork, parts: Sequence[tuple[int, int]], points: int, dtype: Any = np.complex128) -> list[Stage]:
    """A run at the frequencies of a grid.

    Parameters
    ----------
    parts : sequence of (int, int)
        From `segments.segments`.
    points : int
        Frequencies an axis, where there are taps.
    dtype : dtype
        Of symbols at more than one frequency.
    """
    return [stage for part in parts for stage in stages_of(run, parts, part, points, dtype)]


def stages_of(
    run: Subnetwork,
    parts: Sequence[tuple[int, int]],
    part: tuple[int, int],
    at: int | FloatArray,
    dtype: Any,
    entry: FloatArray | None = None,
) -> list[Stage]:
    """One part of a run at the frequencies of a grid, or at given angles (f, d); ``entry``: q_0, if it is not 1."""
    (first, last), found = part, []
    segment = run.part(first, last)
    shrink = None if entry is None else np.repeat(entry, segment.widths[0] // segment.width)
    kernels = segment.kernels()
    extents = [kernel.shape[2:] for each in kernels for kernel, _ in each.values()]
    sizes = [1 if max(axis) == 1 or not isinstance(at, int) else at for axis in zip(*extents, strict=True)]
    angles = half_grid(sizes).angles if isinstance(at, int) else at
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
        of_link = (symbols, behind == first + 1, cut, centre, leaf, numbers, kept, link.repeat * copies)
        found.append(Stage(*of_link, angles=angles))
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


def _next(run: Subnetwork, parts: Sequence[tuple[int, int]], first: int) -> Segment:
    return run.part(first, next(end for begin, end in parts if begin == first))


def symbols_at(kernel: FloatArray, place: Sequence[int], angles: FloatArray) -> NDArray[np.complex128]:
    """Of a kernel whose first tap stands at a place, at angles (f, d)."""
    taps = kernel.reshape(math.prod(kernel.shape[:2]), -1).T
    shape = kernel.shape[2:]
    turns = angles @ (np.indices(shape).reshape(len(shape), len(taps)) + np.reshape(place, (-1, 1)))
    found = np.cos(turns) @ taps + 1j * (np.sin(turns) @ taps)
    return np.asarray(found.reshape(-1, *kernel.shape[:2]))
