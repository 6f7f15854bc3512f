"""Boxes of frequencies that cover what a certificate must cover: integers of the host, without an array library.

A box knows its centre as exact rationals of a turn, and its *radius*: how far it extends from the centre in the unit of
the cell lemma, half a kernel's degree times radians, summed over the axes. With two moving axes the boxes of the torus
stand on their corners, along ``theta_1 + theta_2`` and ``theta_1 - theta_2``: for one radius they cover twice the area.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from specnorm.certified import host
from specnorm.certified.bound import EVERYWHERE
from specnorm.problem.frequencies import Frequencies, half_grid, product, signs

if TYPE_CHECKING:
    from specnorm.certified.bound import Upper

_DEPTH = 40
"""Halvings that the lattice of a torus cell allows; far beyond float64."""
_WIDEST = 0.55
"""Radius of the first cells: those where the norm is below 0.7 of its maximum pass at once."""
_KEPT = ("centres", "radius")
"""What some of the boxes take over from all of them, where it is known."""
_MAKER = object()


@dataclass(frozen=True)
class Circulant:
    """What a circulant's symbol is at the frequencies of: points an axis (0: any, as the symbol has one tap there).

    A *skew* axis multiplies by -1 where a read passes its end.
    """

    points: tuple[int, ...]
    skew: tuple[bool, ...]

    @classmethod
    def of(cls, points: tuple[int, ...], skew: tuple[bool, ...], kernel_shape: Sequence[int]) -> Circulant:
        """For a symbol with so many taps an axis."""
        return cls(tuple(0 if k == 1 else n for n, k in zip(points, kernel_shape, strict=True)), skew)

    def __str__(self) -> str:
        axes = [f"{n or 'any'}{' (skew)' * one}" for n, one in zip(self.points, self.skew, strict=True)]
        return f"circulant of {' x '.join(axes)} points"


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
        What the boxes cover all frequencies of: `bound.EVERYWHERE`, a `Circulant`; None of some boxes only. Said by
        the functions of `specnorm.certified` that make all of them, and by nobody else.
    """

    low: np.ndarray
    high: np.ndarray
    denominators: tuple[int, ...]
    half_degree: np.ndarray
    on_grid: bool
    frame: np.ndarray
    offset: np.ndarray
    covers: object = None
    maker: InitVar[object] = None

    def __post_init__(self, maker: object) -> None:
        if self.covers is None:
            return
        if maker is not _MAKER:
            raise TypeError("Boxes: which boxes cover all frequencies is said by torus, dft and dft_points alone")
        for array in (self.low, self.high, self.half_degree, self.frame, self.offset):
            array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.low)

    def __getitem__(self, index: np.ndarray | slice) -> Boxes:
        chosen = self.between(self.low[index], self.high[index])
        chosen.__dict__.update({name: known[index] for name, known in self.__dict__.items() if name in _KEPT})
        return chosen

    def between(self, low: np.ndarray, high: np.ndarray) -> Boxes:
        """Boxes of the same lattice."""
        return Boxes(low, high, self.denominators, self.half_degree, self.on_grid, self.frame, self.offset)

    @cached_property
    def centres(self) -> Frequencies:
        """Middle points; a lattice point each."""
        return Frequencies(((self.low + self.high) // 2) @ self.frame.T + self.offset, self.denominators)

    def largest_phase(self, slopes: np.ndarray) -> np.ndarray:
        """Largest ``|slope . (theta - centre)|`` over each box, theta in radians, rounded up, shape (c, n).

        Along a lattice axis it is a sum over the frequency axes that may cancel: its rounding is added, not multiplied.

        Parameters
        ----------
        slopes : float array, shape (n, d)
        """
        middle, d = (self.low + self.high) // 2, len(self.denominators)
        distance = np.maximum(self.high - middle, middle - self.low)
        turns = slopes / np.asarray(self.denominators, dtype=float)
        along = np.abs(turns @ self.frame) + 2.0**-53 * (d + 1) * (np.abs(turns) @ np.abs(self.frame))
        # 2 pi, the sum in `along` with its allowance, the product, and the sum over the lattice axes.
        return host.inflate(2 * math.pi * distance @ along.T, 2 * d + 4)

    @cached_property
    def radius(self) -> np.ndarray:
        """Largest sum over the axes of half-degree times distance from the centre, rounded up, shape (c,)."""
        return np.asarray(self.largest_phase(signs(len(self.half_degree)) * self.half_degree).max(axis=1))

    @cached_property
    def divisible(self) -> np.ndarray:
        """Whether a box can be split, shape (c,)."""
        return np.asarray((self._most > 1).any(axis=1))

    @property
    def _most(self) -> np.ndarray:
        """Pieces that each axis allows."""
        width = self.high - self.low
        return np.asarray(np.maximum(width + 1 if self.on_grid else width // 2, 1))

    def split(self, ratio: np.ndarray) -> tuple[Boxes, np.ndarray]:
        """Cut every divisible box so that its radius shrinks ``ratio`` (c,) times or more, at least twice, if it can.

        The pieces, and the index of each one's parent.
        """
        turns = np.abs((self.half_degree / np.asarray(self.denominators, dtype=float)) @ np.abs(self.frame))
        half = (self.high - self.low + 1) // 2
        radii = half * turns
        share = radii / np.maximum(radii.max(axis=1, keepdims=True, initial=0.0), 1e-300)
        pieces = np.ceil(ratio[:, None] * share - 1e-9).astype(np.int64)
        if self.on_grid:
            # Pieces of an odd number of points: with one less they would be no smaller.
            pieces = -(-(self.high - self.low + 1) // (2 * (half // np.maximum(pieces, 1)) + 1))
        pieces = np.clip(pieces, 1, self._most)
        # Where an axis of the largest share cannot be cut any more, another one is.
        stuck = (pieces.prod(axis=1) == 1) & self.divisible
        pieces[stuck] = np.minimum(2, self._most[stuck])
        count = pieces.prod(axis=1)
        parent = np.repeat(np.arange(len(self)), count)
        # Number of a piece among its parent's, and from it the place along each axis, the last one fastest.
        number = np.arange(len(parent)) - np.repeat(np.cumsum(count) - count, count)
        parts, place = pieces[parent], np.empty((len(parent), pieces.shape[1]), dtype=np.int64)
        for axis in reversed(range(pieces.shape[1])):
            number, place[:, axis] = np.divmod(number, parts[:, axis])
        low, on_grid = self.low[parent], int(self.on_grid)
        width = self.high[parent] - low + on_grid
        return self.between(low + width * place // parts, low + width * (place + 1) // parts - on_grid), parent


@dataclass(frozen=True, eq=False)
class Cells:
    """Some boxes, and the index of the block each belongs to.

    Parameters
    ----------
    block : integer array, shape (c,)
    supremum : Upper, optional
        Of all blocks, everywhere; what fathoms grid points rests on it.
    nonnegative : bool
        Whether the symbol is, but for a phase, Hermitian and nowhere negative: its norm then varies less.
    """

    boxes: Boxes
    block: np.ndarray
    supremum: Upper | None
    nonnegative: bool = False

    def __len__(self) -> int:
        return len(self.block)

    def __getitem__(self, index: np.ndarray | slice) -> Cells:
        return Cells(self.boxes[index], self.block[index], self.supremum, self.nonnegative)


def _covering(boxes: Boxes, covers: object) -> Boxes:
    """The same boxes, which are all of them. For the modules of the trusted room."""
    return replace(boxes, covers=covers, maker=_MAKER)


def one_box(kernel_shape: tuple[int, ...]) -> Boxes:
    """All frequencies as one box, too wide for anything to be proven of it until it is cut."""
    moves = np.asarray([[k > 1 for k in kernel_shape]], dtype=np.int64)
    half_degree, ndim = np.asarray([(k - 1) / 2 for k in kernel_shape]), len(kernel_shape)
    denominators = tuple(2 if k > 1 else 1 for k in kernel_shape)
    frame, origin = np.eye(ndim, dtype=np.int64), np.zeros(ndim, dtype=np.int64)
    return _covering(Boxes(-moves, moves, denominators, half_degree, False, frame, origin), EVERYWHERE)


def _lattice(kernel_shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Cells an axis of a cover of the torus, and the two axes, if any, along which they stand on their corners."""
    moving = [j for j, k in enumerate(kernel_shape) if k > 1]
    pair = moving[:2] if len(moving) > 1 else []
    # Radii of the boxes on their corners and of the plain ones add up.
    widest = _WIDEST / (len(moving) - len(pair) + bool(pair) or 1)
    # An even number of cells an axis, so that half a turn is a whole number of them and a chessboard closes.
    counts = [
        1 if k == 1 else 2 * math.ceil(math.pi * (k - 1) / (2 if j in pair else 4) / widest)
        for j, k in enumerate(kernel_shape)
    ]
    return counts, pair


def torus_size(kernel_shape: tuple[int, ...]) -> int:
    """How many cells `torus` has at least, without making them."""
    counts, pair = _lattice(kernel_shape)
    return math.prod(counts) // (4 if pair else 2)


@lru_cache(maxsize=8)
def torus(kernel_shape: tuple[int, ...]) -> Boxes:
    """Cover of all frequencies of a real kernel, up to mirror images. An axis with one tap is one point."""
    half_degree = np.asarray([(k - 1) / 2 for k in kernel_shape])
    counts, pair = _lattice(kernel_shape)
    unit = 2**_DEPTH
    cell = product([np.arange(c) for c in counts])
    if pair:
        cell = cell[cell[:, pair].sum(axis=1) % 2 == 0]
    cell = cell[_first_of_mirrored(cell, counts)]
    frame = np.eye(len(counts), dtype=np.int64)
    width = np.asarray([0 if k == 1 else unit for k in kernel_shape], dtype=np.int64)
    denominators = [1 if k == 1 else 2 * c * unit for c, k in zip(counts, kernel_shape, strict=True)]
    middle = cell * 2 * width
    if pair:
        first, second = pair
        frame[np.ix_(pair, pair)] = [[1, 1], [1, -1]]
        middle[:, [first, second]] = unit * np.stack(
            [cell[:, first] + cell[:, second], cell[:, first] - cell[:, second]], axis=1
        )
    origin = np.zeros(len(counts), dtype=np.int64)
    ends = middle - width, middle + width
    return _covering(Boxes(*ends, tuple(denominators), half_degree, False, frame, origin), EVERYWHERE)


def _first_of_mirrored(cell: np.ndarray, counts: list[int]) -> np.ndarray:
    """Which cells come first, or alone, among a cell and its mirror image."""
    weights = np.asarray([math.prod(counts[j + 1 :]) for j in range(len(counts))], dtype=np.int64)
    mirrored = (-cell) % np.asarray(counts, dtype=np.int64)
    return np.asarray(cell @ weights <= mirrored @ weights)


def dft(sizes: tuple[int, ...], kernel_shape: tuple[int, ...], skew: tuple[bool, ...] = ()) -> Boxes:
    """Cover of a circulant's frequencies, for a real kernel, up to mirror images: half of the longest axis.

    Parameters
    ----------
    sizes : tuple of int
        Points M of the circulant, per axis.
    kernel_shape : tuple of int
    skew : tuple of bool, optional
        Per axis whether going round multiplies by -1: the frequencies are ``2 pi (j + 1/2) / M`` then, ``2 pi j / M``
        otherwise. The mirror image of j is M - 1 - j, or M - j.
    """
    half_degree = np.asarray([(k - 1) / 2 for k in kernel_shape])
    offset = np.asarray(skew or (False,) * len(sizes), dtype=np.int64)
    last = [n - 1 for n in sizes]
    if sizes:
        axis = int(np.argmax(sizes))
        last[axis] = (sizes[axis] - int(offset[axis])) // 2
    # An odd number of points, so that the middle one is the centre, and the radius of a first cell, or near it.
    moving = max(1, sum(n > 1 for n in sizes))
    half = [round(_WIDEST * n / (math.pi * max(k - 1, 1) * moving)) for n, k in zip(sizes, kernel_shape, strict=True)]
    widths = [n if k == 1 else 2 * m + 1 for m, n, k in zip(half, sizes, kernel_shape, strict=True)]
    corner = product([np.arange(0, end + 1, w) for end, w in zip(last, widths, strict=True)])
    high = np.minimum(corner + np.asarray(widths, dtype=np.int64) - 1, np.asarray(last, dtype=np.int64))
    spacing = 1 + offset
    denominators = tuple(int(n) for n in np.asarray(sizes, dtype=np.int64) * spacing)
    whole = Circulant.of(sizes, tuple(bool(x) for x in offset), kernel_shape)
    return _covering(Boxes(corner, high, denominators, half_degree, True, np.diag(spacing), offset), whole)


def dft_points(sizes: tuple[int, ...], kernel_shape: tuple[int, ...]) -> Boxes:
    """`dft` of a circulant, point by point."""
    whole = Circulant.of(sizes, (False,) * len(sizes), kernel_shape)
    return _covering(single_points(half_grid(sizes), kernel_shape), whole)


def single_points(frequencies: Frequencies, kernel_shape: tuple[int, ...]) -> Boxes:
    """Boxes of one grid point each."""
    half_degree = np.asarray([(k - 1) / 2 for k in kernel_shape])
    at, frame = frequencies.numerators, np.eye(len(kernel_shape), dtype=np.int64)
    return Boxes(at, at, frequencies.denominators, half_degree, True, frame, np.zeros(len(frame), dtype=np.int64))
