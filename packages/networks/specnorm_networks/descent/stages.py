"""A run on a grid of frequencies: each link as the matrices from the values that it reads, one a frequency."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import frequency_grids, power, random_vectors
from specnorm_networks.certified.links import Link, Run
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.parts import consecutive, middle_and_leaf_slopes
from specnorm_networks.certified.placed_kernels import symbols_of

POWERS = 4
"""Power steps on the eigenvectors of the step before; ten times as many at the first step."""
FACTORIZED = 10**5
"""Number of matrices times the cube of their side up to which the first step factorizes them all: it is faster."""
WIDE = 256
"""Rows of a matrix above which an eigenvector comes from Krylov spaces."""
KRYLOV = 16
"""Dimension of a Krylov space."""
RESTARTS = 5
"""Largest number of restarts."""
RESIDUAL = 1e-5
"""Relative residual at which restarts end."""
Vectors = NDArray[Any]
"""Real or complex, in single or double precision."""
Parts = Sequence[tuple[int, int]]
"""Links ``first:last`` that are bounded together, in order."""


class Largest(NamedTuple):
    """Largest eigenvalue of a stack of matrices, the number of its matrix, and its eigenvector."""

    value: float
    at: int
    vector: Vectors


@dataclass(eq=False)
class Stage:
    """One link at the frequencies of a grid.

    Parameters
    ----------
    symbols : array, shape (f, m, p)
        Matrices from all entries that are kept before the link. Complex; real where the only frequency is 0.
    starts : bool
        Whether it is the first link of its part.
    cut : bool
        Whether it is the last link of its part.
    centre, leaf : array, shape (m,)
        c and e of the slopes (`parts.middle_and_leaf_slopes`); for the last link of a part 0 and the largest slope.
    alive : integer array, shape (p,)
        Numbers of the p inputs among the entries of all values of the part.
    kept : integer array
        Numbers, from 0 to p - 1, of the inputs that a later link reads, too.
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
    """Eigenvectors of the last step, from which the next one begins."""
    values: FloatArray = field(default_factory=lambda: np.zeros(0))
    """Largest eigenvalues of the last step, one a frequency; only the two largest are computed to full accuracy."""
    summed: bool = False
    """Whether the frequencies are summed: at a head behind a ring (`heads`)."""

    @cached_property
    def gone(self) -> NDArray[np.intp]:
        """Numbers of the inputs that no later link reads."""
        return np.setdiff1d(np.arange(self.symbols.shape[2]), self.kept)

    @property
    def spread(self) -> FloatArray:
        """h, the root of c^2 + e^2."""
        return np.asarray(np.sqrt(self.centre**2 + self.leaf**2))

    def largest(self, gram: Vectors) -> Largest:
        """Return the largest eigenvalue of a stack of matrices; keep all values, and all vectors for the next step."""
        if self.vectors is None and gram.size * gram.shape[-1] <= FACTORIZED:
            all_values, all_vectors = np.linalg.eigh(gram)
            values, vectors = all_values[:, -1], all_vectors[..., -1]
        else:
            values, vectors = self._by_power_steps(gram)
        self.vectors = vectors
        self.values = values
        at = int(np.argmax(values))
        return Largest(float(values[at]), at, vectors[at])

    def _by_power_steps(self, gram: Vectors) -> tuple[FloatArray, Vectors]:
        """Return values and vectors of all matrices by power steps, and those of the two largest values in full."""
        steps = POWERS
        start = self.vectors
        if start is None:
            steps = 10 * POWERS
            start = random_vectors(0, gram.shape[:2])
            start = start.astype(gram.dtype) if np.iscomplexobj(gram) else start.real
        numpy: Any = np  # as the array library of an algorithm for any library
        first_vectors: Any = start
        results: Any = power.gram_power(lambda x: (gram @ x[..., None])[..., 0], first_vectors, steps, xp=numpy)
        vectors = results[0]
        values = np.reshape(results[1], (-1,))
        for number in np.argsort(values)[-2:]:
            values[number], vectors[number] = top_eigenvector(gram[int(number)], vectors[number])
        return values, vectors


def top_eigenvector(matrix: Vectors, start: Vectors) -> tuple[float, Vectors]:
    """Return the largest eigenvalue of a positive semidefinite matrix and its vector, from a vector near it.

    Wide matrices: from Krylov spaces, until the residual is below `RESIDUAL`.
    """
    if len(matrix) > WIDE:
        numpy: Any = np  # as the array library of an algorithm for any library
        vectors: Any = start[None]

        def multiply(x: Any) -> Any:
            return x @ matrix.T

        for _ in range(RESTARTS):
            _, vectors, norms = power.top_in_krylov_space(multiply, multiply, vectors, KRYLOV, xp=numpy)
            value = float(norms[0])
            if np.linalg.norm(matrix @ vectors[0] - value * vectors[0]) <= RESIDUAL * value:
                return value, vectors[0]
    values, eigenvectors = np.linalg.eigh(matrix)
    return float(values[-1]), eigenvectors[:, -1]


# -- a run as stages ---------------------------------------------------------------------------------------------------
class Frontier(NamedTuple):
    """A link of a part, and the values that are kept around it."""

    number: int
    """Number of the link's value."""
    link: Link
    alive: list[int]
    """Values that this link or a later one reads."""
    staying: list[int]
    """Those of them that a later link reads."""


def frontiers(part: Run) -> Iterator[Frontier]:
    """Return the links of a part in order, each with the values that are kept before and after it."""
    last_reader: dict[int, int] = {}
    for number, link in enumerate(part.links, 1):
        for source in link.sources:
            last_reader[source] = number
    alive = [0]
    for number, link in enumerate(part.links, 1):
        # No link reads a value without entries.
        staying = [value for value in alive if last_reader.get(value, number) > number]
        yield Frontier(number, link, alive, staying)
        alive = [*staying, number]


def widths_of(part: Run, *, reads_input: bool) -> list[int]:
    """Return the number of entries of each value. ``reads_input``: whether the part begins with the network's input.

    A network's input that only the first link reads counts with no more entries than that link has: W W* is what
    counts, and W may be exchanged for a square root of it.
    """
    first, *others = part.widths
    only_first_link_reads = reads_input and not any(0 in link.sources for link in part.links[1:])
    return [min(first, part.links[0].width) if only_first_link_reads else first, *others]


def stages_of_run(run: Run, parts: Parts, points: int, dtype: Any = np.complex128) -> list[Stage]:
    """Return a run on a grid of ``points`` frequencies an axis, where there are taps; ``dtype``: of complex symbols."""
    all_stages = []
    for part in parts:
        all_stages += stages_of_part(run, parts, part, points, dtype)
    return all_stages


def stages_of_part(
    run: Run,
    parts: Parts,
    part: tuple[int, int],
    grid: int | FloatArray,
    dtype: Any,
    entry: FloatArray | None = None,
) -> list[Stage]:
    """Return one part of a run at some frequencies.

    ``grid``: frequencies an axis, or angles of shape (f, d). ``entry``: weights q_0 of the first value, if not 1.
    """
    first, last = part
    segment = run.part(first, last)
    kernels = segment.kernels
    angles = grid if not isinstance(grid, int) else _angles(kernels, grid)
    widths = widths_of(segment, reads_input=first == 0)
    entries = consecutive(dict(enumerate(widths)))
    shrink = None if entry is None else np.repeat(entry, segment.widths[0] // segment.width)
    has_short_input = widths[0] < segment.widths[0]
    copies_behind = 1
    if last < len(run.links):
        end_of_next = next(end for begin, end in parts if begin == last)
        copies_behind = math.prod(run.part(last, end_of_next).stride)
    part_stages = []
    for frontier, kernel_of_source in zip(frontiers(segment), kernels, strict=True):
        link = frontier.link
        columns = consecutive({value: widths[value] for value in frontier.alive})
        total = sum(widths[value] for value in frontier.alive)
        symbols: Vectors = np.zeros((len(angles), link.width, total), dtype=np.complex128)
        for source, (kernel, place) in kernel_of_source.items():
            # In a chain, shifts of taps change nothing.
            block: Vectors = symbols_at(kernel, (0,) * len(place) if segment.is_chain else place, angles)
            if shrink is not None and source == 0:
                block = block / shrink
            if frontier.number == 1 and has_short_input:  # W W* is what counts
                triangular: Any = np.linalg.qr(adjoint(block), mode="r")
                block = adjoint(triangular)
            symbols[:, :, columns[source]] = block
        is_last = frontier.number == len(segment.links)
        centre, leaf = (np.zeros(link.width), link.largest_slopes) if is_last else middle_and_leaf_slopes(*link.slopes)
        part_stages.append(
            Stage(
                symbols.astype(dtype) if angles.any() else symbols.real,
                starts=frontier.number == 1,
                cut=is_last,
                centre=centre,
                leaf=leaf,
                alive=_numbers(entries, frontier.alive),
                kept=_numbers(columns, frontier.staying),
                copies=link.repeat * (copies_behind if is_last else 1),
                angles=angles,
            )
        )
    return part_stages


def frequencies_of_part(run: Run, part: tuple[int, int], points: int) -> FloatArray:
    """Return a grid of ``points`` frequencies an axis, where the part has taps, shape (f, d)."""
    first, last = part
    return _angles(run.part(first, last).kernels, points)


def _angles(kernels: Sequence[dict[int, Any]], points: int) -> FloatArray:
    """Return a grid with one frequency along axes on which all kernels have one tap."""
    extents = [kernel.shape[2:] for kernel_of_source in kernels for kernel, _ in kernel_of_source.values()]
    sizes = [1 if max(axis) == 1 else points for axis in zip(*extents, strict=True)]
    return frequency_grids.Frequencies.half_grid(sizes).angles


def _numbers(entries: dict[int, slice], values: Sequence[int]) -> NDArray[np.intp]:
    """Return the numbers of all entries of some values."""
    numbers = [np.arange(entries[value].start, entries[value].stop) for value in values]
    return np.concatenate(numbers) if numbers else np.arange(0)


def adjoint(matrices: Vectors) -> Vectors:
    """Return the adjoint of each matrix of a stack."""
    return matrices.conj().swapaxes(-1, -2)


def symbols_at(kernel: FloatArray, place: Sequence[int], angles: FloatArray) -> NDArray[np.complex128]:
    """Return the symbols of a kernel whose first tap stands at a place, at angles (f, d), one matrix an angle."""
    shape = kernel.shape[2:]
    taps = np.indices(shape).reshape(len(shape), math.prod(shape))
    places = taps + np.reshape(place, (-1, 1))
    turns = angles @ places
    return symbols_of(kernel, np.cos(turns), np.sin(turns))
