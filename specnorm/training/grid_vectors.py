"""Singular vectors of the symbol at every frequency of a coarse grid. They follow the norm of a kernel that changes.

One vector follows one local maximum of ``||G(theta)||``. A layer that is divided by its norm in training grows at the
other maxima, until many of them are equally high. Vectors at every point of a grid see each of them.

Values are estimates: no proof rests on this file.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm.backends import arrays
from specnorm.backends.types import ArrayOps
from specnorm.errors import MethodError
from specnorm.proofs.frequencies import tap_points

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace

_TABLE_BYTES = ArrayOps.memory / 4
"""Memory of the phases of all points and taps; fewer points are taken for a larger kernel."""
WAVES = 11, 23
"""Number of new waves. They begin at the grid's local maxima first, then at the highest other points; in a sweep the
last one begins at frequency 0. Kernels with three axes, which have more maxima, take the second number. With 5, a layer
of 3 outputs reached 1.0154, with 11 1.0073."""
LARGEST_GRID = 2**20
"""Most frequencies of a grid, of both halves."""
_SHIFT = 0.42
"""Half of the interval [0, 0.84 q_min] whose squared values fade, where q_min is the smallest one that is followed at a
point. A step with the shift s multiplies the part of a vector with the squared value q by (q - s) / (q_min - s). The
shifts of several steps are the zeros of a Chebyshev polynomial of the interval. The shift of a single step is its
middle, which multiplies a value near zero by -0.72: with half of q_min, such a value would never fade."""
_SHORT = 0.1
"""Vectors shorter than this begin anew. They are averages of unit vectors that have nothing in common, as an average of
several models' states has."""
_LONG = 2.0
"""Vectors longer than this begin anew, too."""
_FRESH = 1e-3
"""Size of what each step adds to the entries of the last vectors, which have unit length. Rows and columns may fall
into parts that are not coupled, as in sparse kernels: products keep zeros, so that vectors of one part would not see
another one grow."""
_MOST_COLUMNS = 3
"""Columns for each row of a block up to which the block is not transposed. Vectors at each tap of its larger side are
as much longer than those of its smaller side, but a transposed copy takes as long as ten products with a vector."""
_TOP = 0.3
"""Part of the largest value by which local maxima count more. A lower one is not about to overtake."""
_NEAR = 1.35
"""Points of the grid are neighbours up to this part of the largest distance of a point from its nearest one."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Frequencies of a coarse grid, on the host: one of each pair theta and -theta, where a real kernel has one norm.

    Parameters
    ----------
    key : tuple
        Shape of the kernel, and points an axis.
    taps : float array, shape (taps, d)
        Positions k of the taps.
    angles : float array, shape (f, d)
        In radians.
    """

    key: tuple[tuple[int, ...], int]
    taps: np.ndarray
    angles: np.ndarray

    def __len__(self) -> int:
        return len(self.angles)

    @functools.cached_property
    def used(self) -> np.ndarray:
        """The angles along the axes with more than one tap, shape (f, d)."""
        return self.angles[:, [axis for axis, k in enumerate(self.key[0]) if k > 1]]

    @functools.cached_property
    def spacing(self) -> float:
        """Distance of a point from its nearest one, the largest, in radians."""
        if len(self) == 1:
            return 2 * np.pi
        return float(self._distances().min(axis=1).max())

    def _distances(self) -> np.ndarray:
        """Of the points, or their mirror images; infinite of a point from itself."""

        def distances(others: np.ndarray) -> np.ndarray:
            turn = (self.angles[:, None] - others[None] + np.pi) % (2 * np.pi) - np.pi
            return np.asarray(np.sqrt(np.sum(turn**2, axis=-1)))

        points = np.arange(len(self))
        apart: np.ndarray = np.minimum(distances(self.angles), distances(-self.angles))
        apart[points, points] = np.inf
        return apart

    def neighbours(self, _dtype: type[np.floating]) -> tuple[np.ndarray]:
        """Numbers of the points next to each point, or its mirror image; the point itself in places that are left."""
        points, apart = np.arange(len(self)), self._distances()
        if len(self) == 1:
            return (points[:, None],)
        is_near = apart < _NEAR * self.spacing
        order = np.argsort(apart, axis=1, kind="stable")[:, : int(is_near.sum(axis=1).max())]
        return (np.where(np.take_along_axis(is_near, order, axis=1), order, points[:, None]),)

    def phases(self, count: int, dtype: type[np.floating]) -> tuple[np.ndarray]:
        """``e^{i k.theta}`` at each point, ``count`` times, shape (taps, count * f)."""
        phases = np.tile(np.exp(1j * (self.taps @ self.angles.T)), count)
        return (phases.astype(np.result_type(dtype, np.complex64)),)

    @functools.cached_property
    def places(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each axis, the angles that occur and the number of the angle of each point."""
        axes = self.angles.T
        return [np.unique(angles.round(12), return_inverse=True) for angles in axes]


@functools.lru_cache(maxsize=64)
def grid_of(kernel_shape: tuple[int, ...], points: int) -> Grid:
    """Return a grid that is as fine as one with so many points along each axis that has more than one tap.

    Every other layer of points along the last axis is shifted by half a step along the other axes: in the plane this is
    nearly a triangular lattice, in space a body-centred cubic one. The frequency that is farthest from all points is as
    far, but for 7 %, as in the grid of squares or cubes, and there are fewer points: 64 for 81, and 250 for 512.

    References
    ----------
    .. [1] Conway, Sloane, "Sphere Packings, Lattices and Groups", 3rd edition 1999, chapter 2 (lattice coverings).
    """
    axes = [axis for axis, k in enumerate(kernel_shape) if k > 1]
    sizes = np.ones(len(kernel_shape), dtype=int)
    sizes[axes] = _sizes(len(axes), points)
    if math.prod(map(int, sizes)) > LARGEST_GRID:
        raise MethodError(
            f"points={points} makes a grid of {' x '.join(map(str, sizes))} frequencies, and at most {LARGEST_GRID} "
            "are followed: give fewer."
        )
    halves = 2 * tap_points(tuple(sizes.tolist()))
    if axes:
        *others, last = axes
        halves[:, others] += halves[:, [last]] // 2 % 2
    # Of each pair theta and -theta the first one in lexicographical order.
    is_first = [tuple(x) <= tuple(y) for x, y in zip(halves, -halves % (2 * sizes), strict=True)]
    spacing = 2 * np.pi / sizes
    return Grid((kernel_shape, points), tap_points(kernel_shape).astype(float), halves[is_first] * spacing / 2)


def _sizes(axes: int, points: int) -> tuple[int, ...]:
    """Number of points along each of so many axes; of layers along the last one, an even number where they shift."""
    if axes < 2:
        return (points,) * axes
    if axes == 2:
        pairs = max(1, round(points / 2))
        # Triangles of rows pi / p apart, with points 2 pi / m apart, have the circumradius of the squares,
        # sqrt(2) pi / n.
        return round(pairs / math.sqrt(math.sqrt(8) * pairs / points - 1)), 2 * pairs
    # The covering radius is sqrt(5) / 4 of a cell with a point in its centre, and sqrt(3) / 2 of a cube.
    cells = max(1, round(math.sqrt(5 / 12) * points))
    return cells, cells, 2 * cells


_PLACED: dict[tuple[Hashable, ...], tuple[Array, ...]] = {}
"""Constant tables, by their key, library, dtype and device. There are as many as there are kinds of kernels. Entries
are never removed or replaced, since captured CUDA graphs hold their addresses."""


def placed(
    key: Hashable, tables: Callable[[type[np.floating]], tuple[np.ndarray, ...]], like: Array, *, ops: ArrayOps
) -> tuple[Array, ...]:
    """Return tables in the library, in the precision and on the device of ``like``.

    They are copied once and kept: each copy to a device would wait for the device.

    Parameters
    ----------
    key : hashable
        Names the tables.
    tables : callable
        Returns the tables as NumPy arrays for a real dtype: real or complex ones of its precision, or integers.
    """
    dtype = np.float64 if like.dtype == ops.xp.float64 else np.float32
    if ops.traced:
        return tuple(ops.from_numpy(x, like) for x in tables(dtype))
    place = (key, ops.backend.name, dtype, str(ops.device(like)))
    if place not in _PLACED:
        _PLACED[place] = tuple(ops.from_numpy(x, like) for x in tables(dtype))
    return _PLACED[place]


def phases_of(grid: Grid, count: int, like: Array, *, ops: ArrayOps) -> Array:
    """`Grid.phases` in the library, in the precision and on the device of ``like``."""
    (phases,) = placed(("grid", grid.key, count), functools.partial(grid.phases, count), like, ops=ops)
    return phases


class PlaneWaves:
    """Products of the symbols of blocks with vectors at many frequencies. No symbol is formed.

    ``G(theta) v = sum_k K_k v e^{i k.theta}`` of all vectors at once is one real product of the kernel, as a matrix of
    m rows, with the vectors times the waves at each tap. Vectors at g frequencies are complex arrays (b, n, g).
    The vectors of the grid are those of the smaller side: right vectors, or left ones if m < p.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)
        Real. With ``taps_first``, of shape (b, *kernel_shape, p, m).
    grid : Grid
        Grid for kernels of this shape.
    count : int
        Number of vectors at each point of the grid.

    Attributes
    ----------
    shape : tuple of int
        Shape of the vectors at all points, (b, min(m, p), count * f): first a vector at each point, then a second one.
    is_transposed : bool
        Whether the blocks were transposed. Then m and p, left and right are here those of the transposed blocks.
    is_wide : bool
        Whether m < p.
    rows, columns : arrays, shapes (b, m, p * taps) and (b, p * taps, m)
        The blocks; with taps first, of shapes (b, m, taps * p) and (b, taps * p, m).
    fresh : array, shape (b, min(m, p), 1)
        `fresh_vectors`.
    phases : complex array, shape (b, taps, count * f)
        ``e^{i k.theta}`` at these points; for a wide block at -theta, so that the vectors are those of its transpose.
    """

    def __init__(self, blocks: Array, grid: Grid, count: int, *, taps_first: bool = False, ops: ArrayOps) -> None:
        xp = ops.xp
        self.ops, self.grid, self.count, self.taps_first = ops, grid, count, taps_first
        b, p, m = (blocks.shape[0], *blocks.shape[-2:]) if taps_first else (blocks.shape[0], *blocks.shape[2:0:-1])
        self.is_transposed = p > _MOST_COLUMNS * m
        if self.is_transposed:
            blocks = xp.matrix_transpose(blocks) if taps_first else arrays.swapped(blocks, xp=xp)
            m, p = p, m
        self.is_wide = m < p
        self.shape = b, min(m, p), count * len(grid)
        # The transposed matrices are made here: in a compiler's loop they would be copied in each turn.
        if taps_first:
            self.columns = xp.reshape(blocks, (b, -1, m))
            self.rows = xp.matrix_transpose(self.columns)
        else:
            self.rows = xp.reshape(blocks, (b, m, -1))
            self.columns = xp.matrix_transpose(self.rows)
        self.fresh = fresh_vectors(self.columns, p, of_rows=self.is_wide, taps_first=taps_first, ops=ops)

    @functools.cached_property
    def phases(self) -> Array:
        """``e^{i k.theta}``: see the attribute above."""
        xp, b = self.ops.xp, self.rows.shape[0]
        phases = phases_of(self.grid, self.count, self.rows, ops=self.ops)
        phases = xp.conj(phases)[None, ...] if self.is_wide else phases[None, ...]
        return xp.broadcast_to(phases, (b, *phases.shape[1:])) if b > 1 else phases

    def times(self, right: Array, phases: Array) -> Array:
        """``G(theta) v`` of right vectors (b, p, g), shape (b, m, g)."""

        def of_chunk(right: Array, phases: Array) -> Array:
            b, _, g = right.shape
            waves = self.ops.xp.reshape(self._by_channels(right) * self._by_taps(phases), (b, -1, g))
            return arrays.real_times(self.rows, waves, ops=self.ops)

        return self._by_chunks(of_chunk, right, phases)

    def adjoint_times(self, left: Array, phases: Array) -> Array:
        """``G(theta)* u`` of left vectors (b, m, g), shape (b, p, g)."""
        xp = self.ops.xp

        def of_chunk(left: Array, phases: Array) -> Array:
            products = self.tap_products(left)
            products *= self._by_taps(xp.conj(phases))
            return xp.sum(products, axis=1 if self.taps_first else 2)

        return self._by_chunks(of_chunk, left, phases)

    def _by_chunks(self, product: Callable[[Array, Array], Array], vectors: Array, phases: Array) -> Array:
        """A product with vectors (b, n, g) at phases (b, taps, g), so many of the g at once as memory allows."""
        bytes_of_one = 2 * 16 * self.rows.shape[0] * self.rows.shape[2]
        at_once = max(1, self.ops.memory // bytes_of_one)
        count = vectors.shape[2]
        if count <= at_once:
            return product(vectors, phases)
        chunks = [slice(first, first + at_once) for first in range(0, count, at_once)]
        parts = [product(vectors[:, :, chunk], phases[:, :, chunk]) for chunk in chunks]
        return self.ops.xp.concat(parts, axis=2)

    def images(self, vectors: Array, phases: Array) -> Array:
        """Products with vectors of the smaller side, on the larger side."""
        return (self.adjoint_times if self.is_wide else self.times)(vectors, phases)

    def back(self, images: Array, phases: Array) -> Array:
        """Products with vectors of the larger side, on the smaller side."""
        return (self.times if self.is_wide else self.adjoint_times)(images, phases)

    def tap_products(self, left: Array) -> Array:
        """``K_k^T u`` of every tap k: left vectors (b, m, g) to (b, p, taps, g), or (b, taps, p, g) with taps first."""
        xp, (b, _, g), taps = self.ops.xp, left.shape, len(self.grid.taps)
        found = arrays.real_times(self.columns, left, ops=self.ops)
        return xp.reshape(found, (b, taps, -1, g) if self.taps_first else (b, -1, taps, g))

    def _by_channels(self, vectors: Array) -> Array:
        """Vectors (b, p, g), which broadcast beside `tap_products`."""
        return vectors[:, None, :, :] if self.taps_first else vectors[:, :, None, :]

    def _by_taps(self, phases: Array) -> Array:
        """Phases (b, taps, g), which broadcast beside `tap_products`."""
        return phases[:, :, None, :] if self.taps_first else phases[:, None, :, :]


def most_waves(kernel_shape: tuple[int, ...], points: int) -> int:
    """Return the number of waves that are followed for kernels of this shape, of the points of a grid."""
    axes = sum(k > 1 for k in kernel_shape)
    return min(WAVES[axes > 2], points)


@functools.lru_cache(maxsize=64)
def default_points(kernel_shape: tuple[int, ...], channels: int) -> int:
    """Return the number of points along each axis with which the constraint holds in training loops.

    The numbers were measured in the loops of docs/benchmarks/index.md.

    Parameters
    ----------
    channels : int
        Of the smaller side.
    """
    axes = sum(k > 1 for k in kernel_shape)
    if not axes:
        return 1
    points_a_tap = 6 if channels <= 24 or axes == 1 else 5
    points = math.ceil(points_a_tap * (max(kernel_shape) - 1))
    least, most = {1: (16, 256), 2: (9, 32), 3: (8, 10)}[axes]
    affordable = int((_TABLE_BYTES / (16 * math.prod(kernel_shape))) ** (1 / axes))
    return max(1, min(max(least, points), most, affordable))


def start_vectors(waves: PlaneWaves) -> Array:
    """Random orthonormal vectors, the same at every point of the grid."""
    channels, count, points = waves.shape[1], waves.count, len(waves.grid)

    def basis(dtype: type[np.floating]) -> tuple[np.ndarray]:
        orthonormal = np.linalg.qr(arrays.random_vectors(0, (channels, count)))[0]
        repeated = np.repeat(orthonormal, points, axis=1)
        return (repeated.astype(np.result_type(dtype, np.complex64)),)

    (found,) = placed(("start", channels, count, points), basis, waves.rows, ops=waves.ops)
    return waves.ops.xp.broadcast_to(found, waves.shape)


def fresh_vectors(columns: Array, p: int, *, of_rows: bool = False, taps_first: bool = False, ops: ArrayOps) -> Array:
    """Vectors with an entry of at most `_FRESH` for each column of the blocks that is not zero.

    They are the largest entries of the columns, times fixed numbers: not sums, so that channels of zeros, by which
    layers in a stack are padded, change no rounding.

    Parameters
    ----------
    columns : array, shape (b, p * taps, m), or (b, taps * p, m)
    of_rows : bool
        Whether the vectors have an entry for each row instead.
    taps_first : bool
        Which of both shapes.

    Returns
    -------
    array, shape (b, p, 1) or (b, m, 1)
    """
    xp, b = ops.xp, columns.shape[0]
    axis = 1 if of_rows else 2
    # Absolute values of all entries would be a copy of the kernels.
    sizes = xp.maximum(xp.max(columns, axis=axis), -xp.min(columns, axis=axis))
    if of_rows:
        sizes = sizes[..., None]
    elif taps_first:
        sizes = xp.max(xp.reshape(sizes, (b, -1, p)), axis=1)[..., None]
    else:
        sizes = xp.max(xp.reshape(sizes, (b, p, -1)), axis=2, keepdims=True)
    (numbers,) = placed(("fresh", sizes.shape[1]), functools.partial(_fresh_numbers, sizes.shape[1]), columns, ops=ops)
    return sizes / (xp.max(sizes, axis=1, keepdims=True) + arrays.TINY) * numbers


def _fresh_numbers(count: int, dtype: type[np.floating]) -> tuple[np.ndarray]:
    return (_FRESH * np.random.RandomState(0).uniform(0.5, 1, (count, 1)).astype(dtype),)


def with_invalid_replaced(vectors: Array, waves: PlaneWaves) -> Array:
    """Replace vectors that are far from unit length by start vectors: zeros or NaN, as in a state never filled."""
    xp = waves.ops.xp
    squared_length = _squared_norm(vectors, xp=xp)
    is_unit = (squared_length > _SHORT**2) & (squared_length < _LONG**2)
    if waves.ops.concrete and not waves.ops.asynchronous and xp.all(is_unit):
        return vectors
    return xp.where(is_unit, vectors, start_vectors(waves))


def steps(waves: PlaneWaves, vectors: Array, count: Any) -> tuple[Array, Array, Array]:
    """Move the vectors of the grid by shifted steps of block power iteration, and choose waves to follow.

    Parameters
    ----------
    vectors : complex array, shape (b, n, r * f)
        Of the smaller side n, orthonormal at each point: the first vector of each point, then the second one of each.
    count : int or integer array
        At least 1; an array where a compiler does not know the number.

    Returns
    -------
    vectors : complex array, shape (b, n, r * f)
    left, phases : complex arrays, shapes (b, m, g) and (b, taps, g)
        Left vectors of the blocks, and phases: before the last step, at the local maxima of the norm and then where it
        seemed largest.
    """
    xp, ops = waves.ops.xp, waves.ops
    phases = waves.phases  # made here: what a compiler's loop makes is known in the loop alone
    larger = waves.rows.shape[2] // phases.shape[1] if waves.is_wide else waves.rows.shape[1]
    b, _, columns = waves.shape
    device = ops.device(vectors)
    squares = xp.zeros((b, 1, columns), dtype=waves.rows.dtype, device=device)
    images = xp.zeros((b, larger, columns), dtype=vectors.dtype, device=device)
    # The zeros of a Chebyshev polynomial are cosines of these angles.
    angle = xp.full((), math.pi / 2, dtype=squares.dtype, device=device) / count

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        at, vectors, *_ = state
        return at + 2 * angle, *_moved(waves, vectors, _SHIFT * (1 + xp.cos(at)))

    first = angle, vectors, squares, images, vectors, vectors
    _, moved, *found = arrays.repeated(step, count, first, ops=ops)
    return moved, *_to_follow(waves, *found)


def _moved(waves: PlaneWaves, vectors: Array, shift: Array) -> tuple[Array, ...]:
    """Vectors after a step; squared lengths of the images before it, the images, the vectors and their power steps.

    Parameters
    ----------
    shift : array, shape ()
        As a part of the smallest squared length at each point.
    """
    xp = waves.ops.xp
    images = waves.images(vectors, waves.phases)
    power = waves.back(images, waves.phases)
    squares = _squared_norm(images, xp=xp)
    least = functools.reduce(xp.minimum, _by_vector(squares, waves))
    shifts = xp.concat([shift * least] * waves.count, axis=2)
    *others, last = _by_vector(power - shifts * vectors, waves)
    moved = orthonormal([*others, last + least * waves.fresh], xp=xp)
    return moved, squares, images, vectors, power


def _to_follow(waves: PlaneWaves, *found: Array) -> tuple[Array, Array]:
    """Left vectors and phases of the waves to follow, from what `_moved` returns beside the vectors after the step."""
    xp, ops = waves.ops.xp, waves.ops
    first, *others = zip(*(_by_vector(x, waves) for x in found), strict=True)
    square, *best = functools.reduce(lambda one, other: _best_in_plane(one, other, xp=xp), others, first)
    # ||G*G v|| / ||G v|| is closer to the norm than ||G v||.
    estimates = _squared_norm(best[-1], xp=xp) / (square + arrays.TINY)
    images, vectors = best[:2]
    # v is a left vector of the blocks where G^T(theta) v is an image of the transposed ones, at -theta.
    left = vectors if waves.is_wide or waves.is_transposed else images
    count = most_waves(waves.grid.key[0], len(waves.grid))
    left, phases = _highest((left, waves.phases[:, :, : len(waves.grid)]), _order(estimates, waves), count, ops=ops)
    return _unit(left, xp=xp), xp.conj(phases) if waves.is_transposed else phases


def _order(estimates: Array, waves: PlaneWaves) -> Array:
    """Numbers (b, 1, f) whose largest ones are at local maxima of the estimates, then at the highest other points.

    The highest points may all lie around one maximum, while another one is about to overtake.
    """
    xp, (b, _, f) = waves.ops.xp, estimates.shape
    key = ("neighbours", waves.grid.key)
    (neighbours,) = placed(key, waves.grid.neighbours, waves.rows, ops=waves.ops)
    around = xp.reshape(xp.take(estimates, xp.reshape(neighbours, (-1,)), axis=2), (b, f, -1))
    is_top = estimates[:, 0, :] >= xp.max(around, axis=2)
    relative = estimates / (xp.max(estimates, axis=2, keepdims=True) + arrays.TINY)
    return relative + _TOP * xp.astype(is_top, relative.dtype)[:, None, :]


def _by_vector(x: Array, waves: PlaneWaves) -> list[Array]:
    """The first entries of each point, the second ones, ...: from (b, p, r * f) to r arrays (b, p, f)."""
    f = len(waves.grid)
    return [x[:, :, j : j + f] for j in range(0, x.shape[2], f)]


def _best_in_plane(one: Sequence[Array], other: Sequence[Array], *, xp: Namespace) -> tuple[Array, ...]:
    """The combination of two orthonormal vectors with the longest image, by Rayleigh-Ritz in closed form.

    Parameters
    ----------
    one, other : sequences of arrays
        Squared lengths (b, 1, f) of the images of the vectors, the images (b, m, f), and more complex arrays (b, ., f)
        that are combined alike.
    """
    (square, image, *_), (other_square, other_image, *_) = one, other
    coupling = xp.vecdot(image, other_image, axis=-2)[:, None, :]
    size = xp.abs(coupling)
    twice, difference = 2.0 * size, square - other_square
    length = xp.hypot(twice, difference)
    # Of half the angle of (difference, twice), which is between 0 and pi.
    half_ratio = 0.5 * ((difference + arrays.TINY) / (length + arrays.TINY))
    cos, sin = xp.sqrt(xp.abs(0.5 + half_ratio)), xp.sqrt(xp.abs(0.5 - half_ratio))
    sin = sin * xp.conj(coupling) / (size + arrays.TINY)
    largest = 0.5 * (square + other_square + length)
    return largest, *(cos * x + sin * y for x, y in zip(one[1:], other[1:], strict=True))


def orthonormal(vectors: Sequence[Array], *, xp: Namespace) -> Array:
    """Make the vectors of each point orthonormal, and join them to (b, p, r * f). A zero vector stays zero."""
    done: list[Array] = []
    for vector in vectors:
        for other in done:
            vector = vector - other * xp.vecdot(other, vector, axis=-2)[:, None, :]
        done.append(_unit(vector, xp=xp))
    return xp.concat(done, axis=2)


def _highest(points: Sequence[Array], values: Array, count: int, *, ops: ArrayOps) -> Sequence[Array]:
    """Arrays (b, ., f) at the ``count`` points with the largest values (b, 1, f), the largest first."""
    order = ops.places_of_largest(values[:, 0, :], count)
    # One choice takes less time than one for each array.
    chosen = at_points(ops.xp.concat(list(points), axis=1), order, xp=ops.xp)
    ends = [0, *itertools.accumulate(x.shape[1] for x in points)]
    return [chosen[:, i:j, :] for i, j in itertools.pairwise(ends)]


def _unit(x: Array, *, xp: Namespace) -> Array:
    """Vectors on axis 1 divided by their norms. A zero vector stays zero."""
    return x * arrays.inverse(xp.sqrt(_squared_norm(x, xp=xp)), xp=xp)


def _squared_norm(x: Array, *, xp: Namespace) -> Array:
    """Squared norms of vectors on axis 1, which is kept."""
    return xp.real(xp.vecdot(x, x, axis=-2))[:, None, :]


def at_points(x: Array, points: Array, *, xp: Namespace) -> Array:
    """Entries (b, n, f) at chosen points (b, g) of the last axis."""
    if x.shape[0] == 1:
        return xp.take(x, points[0, :], axis=2)
    return xp.take_along_axis(x, xp.broadcast_to(points[:, None, :], (*x.shape[:2], points.shape[1])), axis=2)
