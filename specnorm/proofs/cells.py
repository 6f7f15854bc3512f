"""Boxes of frequencies that cover what a certificate must cover: integers of the host, without an array library.

A box has its centre as exact rationals of a turn, and its *radius*: how far it extends from the centre in the unit of
the cell lemma, half a kernel's degree times radians, summed over the axes. An axis *moves* if the kernel has more than
one tap there. The first two moving axes of the torus are cut along ``theta_1 + theta_2`` and ``theta_1 - theta_2``, so
that boxes stand on their corners: for one radius they cover twice the area.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends.arrays import ceil_div
from specnorm.proofs import host
from specnorm.proofs.bound import ALL_FREQUENCIES
from specnorm.proofs.frequencies import Frequencies, product, signs

if TYPE_CHECKING:
    pass

_DEPTH = 40
"""Halvings that the lattice of a torus cell allows; far beyond float64."""
_WIDEST = 0.55
"""Largest radius of the first cells. Those of the torus are fathomed at once if the norm at their centre is at most
``cos(0.55) = 0.85`` of the threshold."""
_CACHED = ("centres", "radius")
"""Cached properties that a selection of boxes takes over, where they are computed."""


@dataclass(frozen=True)
class Circulant:
    """The frequencies of a circulant.

    Parameters
    ----------
    points : tuple of int
        Points of each axis; 0 where any number has the same norm, as the symbol has one tap there.
    skew : tuple of bool
        Whether a read that passes the end of an axis is multiplied by -1.
    """

    points: tuple[int, ...]
    skew: tuple[bool, ...]

    @classmethod
    def of(
        cls,
        points: tuple[int, ...],
        skew: tuple[bool, ...],
        kernel_shape: Sequence[int],
    ) -> Circulant:
        """The frequencies for a symbol with so many taps an axis."""
        return cls(tuple(0 if taps == 1 else n for n, taps in zip(points, kernel_shape, strict=True)), skew)

    def __str__(self) -> str:
        axes = []
        for points, is_skew in zip(self.points, self.skew, strict=True):
            axes.append(f"{points or 'any'}{' (skew)' if is_skew else ''}")
        return f"circulant of {' x '.join(axes)} points"


@dataclass(frozen=True)
class Grid(Circulant):
    """The frequencies of a circulant without skew axes, for symbols with so many taps an axis."""

    kernel_shape: tuple[int, ...]

    @classmethod
    def of_sizes(cls, sizes: tuple[int, ...], kernel_shape: Sequence[int]) -> Grid:
        """The grid of so many points an axis."""
        circulant = Circulant.of(sizes, (False,) * len(sizes), kernel_shape)
        return cls(circulant.points, circulant.skew, tuple(kernel_shape))


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of lattice points [low, high] per lattice axis, on a torus with ``denominators`` points a turn.

    Parameters
    ----------
    low, high : integer arrays, shape (c, d)
    denominators : tuple of int
        Per frequency axis.
    half_degree : float array, shape (d,)
        ``(k_j - 1) / 2`` per frequency axis.
    on_grid : bool
        True: a box is its lattice points, and pieces do not share one (a DFT grid). False: a box is the continuum
        between its corners, and pieces share a face (the whole torus).
    frame : integer array, shape (d, d)
        Numerators of a lattice point x are ``frame @ x + offset``. Of a grid it is diagonal.
    offset : integer array, shape (d,)
        Not zero on a skew-circulant, whose frequencies lie between those of the DFT.
    covers : object
        Whose frequencies the boxes cover: `bound.ALL_FREQUENCIES` or a `Circulant`; None if some boxes are missing.
        Only the functions of proofs that make all boxes can set it.
    """

    low: np.ndarray
    high: np.ndarray
    denominators: tuple[int, ...]
    half_degree: np.ndarray
    on_grid: bool
    frame: np.ndarray
    offset: np.ndarray
    covers: object = field(default=None, init=False)

    @classmethod
    def whole(cls, kernel_shape: tuple[int, ...]) -> Boxes:
        """All frequencies as one box, too wide for anything to be proven of it until it is cut."""
        ndim = len(kernel_shape)
        half_turn = np.asarray([[k > 1 for k in kernel_shape]], dtype=np.int64)
        box = cls(
            low=-half_turn,
            high=half_turn,
            denominators=tuple(2 if k > 1 else 1 for k in kernel_shape),
            half_degree=_half_degree(kernel_shape),
            on_grid=False,
            frame=np.eye(ndim, dtype=np.int64),
            offset=np.zeros(ndim, dtype=np.int64),
        )
        return _covering(box, ALL_FREQUENCIES)

    @staticmethod
    def torus_size(kernel_shape: tuple[int, ...]) -> int:
        """How many cells `torus` has at least, without making them."""
        counts, pair = _lattice(kernel_shape)
        return math.prod(counts) // (4 if pair else 2)

    @classmethod
    @lru_cache(maxsize=8)
    def torus(cls, kernel_shape: tuple[int, ...]) -> Boxes:
        """Cover of all frequencies of a real kernel, up to mirror images. An axis with one tap is one point."""
        counts, pair = _lattice(kernel_shape)
        ndim = len(counts)
        # Half of a cell's width along its lattice axes, in lattice points: a power of 2, which can be halved `_DEPTH`
        # times.
        half_width = 2**_DEPTH
        cell = product([np.arange(c) for c in counts])
        if pair:
            # Every second cell, as on a chessboard: those on their corners are twice as large.
            cell = cell[cell[:, pair].sum(axis=1) % 2 == 0]
        cell = cell[_first_of_mirrored(cell, counts)]
        half_widths = np.asarray([0 if k == 1 else half_width for k in kernel_shape], dtype=np.int64)
        middle = cell * 2 * half_widths
        frame = np.eye(ndim, dtype=np.int64)
        if pair:
            first, second = pair
            frame[np.ix_(pair, pair)] = [[1, 1], [1, -1]]
            middle[:, first] = half_width * (cell[:, first] + cell[:, second])
            middle[:, second] = half_width * (cell[:, first] - cell[:, second])
        boxes = cls(
            low=middle - half_widths,
            high=middle + half_widths,
            denominators=tuple(1 if k == 1 else 2 * c * half_width for c, k in zip(counts, kernel_shape, strict=True)),
            half_degree=_half_degree(kernel_shape),
            on_grid=False,
            frame=frame,
            offset=np.zeros(ndim, dtype=np.int64),
        )
        return _covering(boxes, ALL_FREQUENCIES)

    @classmethod
    def dft(
        cls,
        sizes: tuple[int, ...],
        kernel_shape: tuple[int, ...],
        skew: tuple[bool, ...] = (),
        *,
        by_point: bool = False,
    ) -> Boxes:
        """Cover of a circulant's frequencies, for a real kernel, up to mirror images: half of the longest axis.

        ``sizes``: points M of the circulant, per axis. ``skew``: per axis whether going round multiplies by -1: the
        frequencies are ``2 pi (j + 1/2) / M`` then, ``2 pi j / M`` otherwise. The mirror image of j is M - 1 - j, or
        M - j. ``by_point``: whether each box is one point.
        """
        offset = np.asarray(skew or (False,) * len(sizes), dtype=np.int64)
        last = [n - 1 for n in sizes]
        if sizes:
            axis = int(np.argmax(sizes))
            last[axis] = (sizes[axis] - int(offset[axis])) // 2
        widths = [1] * len(sizes) if by_point else _first_widths(sizes, kernel_shape)
        low = product([np.arange(0, end + 1, width) for end, width in zip(last, widths, strict=True)])
        high = np.minimum(low + np.asarray(widths, dtype=np.int64) - 1, np.asarray(last, dtype=np.int64))
        # On a skew axis the frequencies are odd multiples of half a step.
        spacing = 1 + offset
        boxes = cls(
            low=low,
            high=high,
            denominators=tuple(int(n) for n in np.asarray(sizes, dtype=np.int64) * spacing),
            half_degree=_half_degree(kernel_shape),
            on_grid=True,
            frame=np.diag(spacing),
            offset=offset,
        )
        return _covering(boxes, Circulant.of(sizes, tuple(bool(x) for x in offset), kernel_shape))

    def __len__(self) -> int:
        return len(self.low)

    def __getitem__(self, index: np.ndarray | slice) -> Boxes:
        # A selection covers nothing any more: `between` does not set ``covers``.
        chosen = self.between(self.low[index], self.high[index])
        for name in _CACHED:
            if name in self.__dict__:
                chosen.__dict__[name] = self.__dict__[name][index]
        return chosen

    def between(self, low: np.ndarray, high: np.ndarray) -> Boxes:
        """Boxes of the same lattice."""
        return Boxes(low, high, self.denominators, self.half_degree, self.on_grid, self.frame, self.offset)

    @cached_property
    def centres(self) -> Frequencies:
        """Middle points; a lattice point each."""
        return Frequencies(((self.low + self.high) // 2) @ self.frame.T + self.offset, self.denominators)

    def largest_angle(self, slopes: np.ndarray) -> np.ndarray:
        """Largest ``|slope . (theta - centre)|`` over each box, theta in radians, rounded up, shape (c, n).

        ``slopes`` is (n, d).
        """
        d = len(self.denominators)
        middle = (self.low + self.high) // 2
        distance = np.maximum(self.high - middle, middle - self.low)
        turns = slopes / np.asarray(self.denominators, dtype=float)
        # Along a lattice axis the slope is a sum over the frequency axes, whose terms may cancel. So its error is no
        # fraction of the sum: it is bounded by the magnitudes of the terms, d + 1 roundings each, and added.
        sum_error = 2.0**-53 * (d + 1) * (np.abs(turns) @ np.abs(self.frame))
        turns_along_axes = np.abs(turns @ self.frame) + sum_error
        # 2 pi, the sum of turns with its allowance, the product, and the sum over the lattice axes.
        return host.inflate(2 * math.pi * distance @ turns_along_axes.T, 2 * d + 4)

    @cached_property
    def radius(self) -> np.ndarray:
        """Largest sum over the axes of half-degree times distance from the centre, rounded up, shape (c,)."""
        # The largest angle over all signs is that of the sum of the magnitudes.
        return np.asarray(self.largest_angle(signs(len(self.half_degree)) * self.half_degree).max(axis=1))

    @cached_property
    def divisible(self) -> np.ndarray:
        """Whether a box can be split, shape (c,)."""
        return np.asarray((self._most_pieces > 1).any(axis=1))

    @property
    def _most_pieces(self) -> np.ndarray:
        """Most pieces along each lattice axis, shape (c, d).

        Of a grid they are its points. On the torus every piece has a width of at least 2, so that its centre is a
        lattice point inside.
        """
        width = self.high - self.low
        return np.asarray(np.maximum(width + 1 if self.on_grid else width // 2, 1))

    def split(self, shrink: np.ndarray) -> tuple[Boxes, np.ndarray]:
        """Cut every divisible box so that its radius shrinks ``shrink`` (c,) times or more, at least twice, if it can.

        Return the pieces, and the index of each one's parent.
        """
        pieces = self._pieces(shrink)
        count = pieces.prod(axis=1)
        parent = np.repeat(np.arange(len(self)), count)
        # Number of a piece among its parent's, and from it the place along each axis, the last one fastest.
        number = np.arange(len(parent)) - np.repeat(np.cumsum(count) - count, count)
        pieces_of_parent = pieces[parent]
        place = np.empty((len(parent), pieces.shape[1]), dtype=np.int64)
        for axis in reversed(range(pieces.shape[1])):
            number, place[:, axis] = np.divmod(number, pieces_of_parent[:, axis])
        low = self.low[parent]
        # Pieces of a grid end one point before the next begins.
        gap = int(self.on_grid)
        width = self.high[parent] - low + gap
        piece_low = low + width * place // pieces_of_parent
        piece_high = low + width * (place + 1) // pieces_of_parent - gap
        return self.between(piece_low, piece_high), parent

    def _pieces(self, shrink: np.ndarray) -> np.ndarray:
        """Number of pieces into which each box is cut along each lattice axis, shape (c, d).

        Along the axis with the largest part of the radius they are ``shrink``, along others in proportion.

        The 1e-9 keeps a number that rounding raised above an integer from asking for another piece. No proof depends on
        how a box is cut.
        """
        turns = np.abs((self.half_degree / np.asarray(self.denominators, dtype=float)) @ np.abs(self.frame))
        half_width = (self.high - self.low + 1) // 2
        radii = half_width * turns
        share = radii / np.maximum(radii.max(axis=1, keepdims=True, initial=0.0), 1e-300)
        pieces = np.ceil(shrink[:, None] * share - 1e-9).astype(np.int64)
        if self.on_grid:
            # Pieces of 2 h and of 2 h + 1 points reach equally far from their middle: take the odd number.
            piece_width = 2 * (half_width // np.maximum(pieces, 1)) + 1
            pieces = ceil_div(self.high - self.low + 1, piece_width)
        most = self._most_pieces
        pieces = np.clip(pieces, 1, most)
        # Where an axis of the largest share cannot be cut any more, another one is.
        uncut = (pieces.prod(axis=1) == 1) & self.divisible
        pieces[uncut] = np.minimum(2, most[uncut])
        return np.asarray(pieces)


def _covering(boxes: Boxes, covers: object) -> Boxes:
    """Mark boxes as a cover of all frequencies of ``covers``. Only for files of proofs."""
    cover = replace(boxes)
    object.__setattr__(cover, "covers", covers)
    for array in (cover.low, cover.high, cover.half_degree, cover.frame, cover.offset):
        array.flags.writeable = False
    return cover


def _half_degree(kernel_shape: Sequence[int]) -> np.ndarray:
    return np.asarray([(k - 1) / 2 for k in kernel_shape])


def _lattice(kernel_shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Cells along each axis of the torus, and the two axes, if any, in whose plane they stand on their corners."""
    moving = [j for j, k in enumerate(kernel_shape) if k > 1]
    pair = moving[:2] if len(moving) > 1 else []
    # The radius is a sum over the axes. On its corners a box extends along one axis of the pair only as far as it does
    # not along the other, so that both together contribute one term.
    terms = len(moving) - 1 if pair else len(moving)
    widest = _WIDEST / max(terms, 1)
    counts = []
    for j, k in enumerate(kernel_shape):
        # An even number of cells an axis, so that half a turn is a whole number of them and a chessboard closes. Half
        # of an ordinary cell is pi / count wide; one on its corners reaches twice as far.
        half_count = math.ceil(math.pi * (k - 1) / (2 if j in pair else 4) / widest)
        counts.append(1 if k == 1 else 2 * half_count)
    return counts, pair


def _first_of_mirrored(cell: np.ndarray, counts: list[int]) -> np.ndarray:
    """Which cells come first, or alone, among a cell and its mirror image."""
    row_major = np.asarray([math.prod(counts[j + 1 :]) for j in range(len(counts))], dtype=np.int64)
    mirrored = (-cell) % np.asarray(counts, dtype=np.int64)
    return np.asarray(cell @ row_major <= mirrored @ row_major)


def _first_widths(sizes: tuple[int, ...], kernel_shape: tuple[int, ...]) -> list[int]:
    """Points of the first boxes along each axis of a grid, so that their radius is about that of a torus' first cells.

    The number is odd, so that the middle point is the centre.
    """
    moving = max(1, sum(n > 1 for n in sizes))
    widths = []
    for n, k in zip(sizes, kernel_shape, strict=True):
        half = round(_WIDEST * n / (math.pi * max(k - 1, 1) * moving))
        widths.append(n if k == 1 else 2 * half + 1)
    return widths
