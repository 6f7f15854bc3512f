"""Right vectors at every frequency of a coarse grid, all moved at once. They follow the norm of a kernel that changes.

One set of vectors follows one local maximum of ``||G(theta)||``. A layer that is divided by its norm in training grows
at the other maxima, until many of them are equally high. Vectors at every point of a grid see each of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs.frequencies import product, tap_points
from specnorm.symbols.ascent import newton_step

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps

_BEST = 16
"""Number of points of the grid at which a training step looks for the best vector."""
_HIGHEST = 8, 4, 2
"""Number of the highest of these points that leave the grid, in each round."""
_SHIFT = 0.35
"""Shift s of a power step, as a fraction of q_min, the smallest squared value that is followed at the point. A step
multiplies the part of a vector with the squared value q by (q - s) / (q_min - s), so that values just below q_min fade
faster than without a shift. A value near zero is multiplied by -0.54; with a shift of one half it would never fade."""
_SHORT = 0.1
"""Vectors shorter than this begin anew. They are averages of unit vectors that have nothing in common, as an average of
several models' states has."""
_LONG = 2.0
"""Vectors longer than this begin anew, too."""
_PASSES = 2
"""Number of times that a power step is made orthogonal to the vectors it came from. It is nearly parallel to these, so
that once leaves rounding errors."""
_SQUARINGS = 5
"""Number of times that a small Gram matrix is squared, which raises the ratio of two eigenvalues to the power 32. Then
its largest column is nearly the first eigenvector."""
_TINY = 1e-30
"""Added to norms that are divided by."""


class Triples(NamedTuple):
    """Approximate singular triples of the symbol of each block, at one frequency a block.

    Parameters
    ----------
    value : array, shape (b,)
        ``||G(theta) v||``.
    left : complex array, shape (b, m)
        ``G(theta) v``, divided by its norm.
    right : complex array, shape (b, p)
        v, of unit length.
    angles : array, shape (b, d)
        theta, in radians.
    phases : complex array, shape (b, taps)
        ``e^{i k.theta}`` of the taps.
    """

    value: Array
    left: Array
    right: Array
    angles: Array
    phases: Array


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

    def tables(self, dtype: type[np.floating]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Taps (taps, d), angles (d, f) and phases ``e^{i k.theta}`` (taps, f) in a precision."""
        phases = np.exp(1j * (self.taps @ self.angles.T))
        return self.taps.astype(dtype), self.angles.T.astype(dtype), phases.astype(np.result_type(dtype, np.complex64))


@functools.lru_cache(maxsize=64)
def grid_of(kernel_shape: tuple[int, ...], points: int) -> Grid:
    """Return the grid with so many points along each axis that has more than one tap."""
    sizes = tuple(1 if k == 1 else points for k in kernel_shape)
    numerators = product([np.arange(n) for n in sizes])
    if sizes:
        place = np.ravel_multi_index(tuple(numerators.T), sizes)
        mirror = np.ravel_multi_index(tuple(((-numerators) % np.asarray(sizes)).T), sizes)
        numerators = numerators[place <= mirror]
    angles = np.asarray(2 * np.pi * numerators / np.asarray(sizes, dtype=float))
    return Grid((kernel_shape, points), tap_points(kernel_shape).astype(float), angles)


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
        Returns the tables as NumPy arrays, real or complex, for a real dtype.
    """
    dtype = np.float64 if like.dtype == ops.xp.float64 else np.float32
    if ops.traced:
        return tuple(ops.from_numpy(x, like) for x in tables(dtype))
    place = (key, ops.backend.name, dtype, str(ops.device(like)))
    if place not in _PLACED:
        _PLACED[place] = tuple(ops.from_numpy(x, like) for x in tables(dtype))
    return _PLACED[place]


class PlaneWaves:
    """Products of the symbols of blocks with vectors at many frequencies. No symbol is formed.

    ``sum_k K_k v e^{i k.theta}`` of all vectors at once is one real product of the kernel, as a matrix of m rows, with
    the vectors times the waves at each tap.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)
        Real.
    grid : Grid
        Grid for kernels of this shape.

    Attributes
    ----------
    taps : array, shape (taps, d)
        Positions of the taps.
    angles : array, shape (b, d, f)
        Frequencies of the grid.
    grid_phases : complex array, shape (b, taps, f)
        ``e^{i k.theta}`` at these frequencies.
    """

    def __init__(self, blocks: Array, grid: Grid, *, ops: ArrayOps) -> None:
        xp, count = ops.xp, blocks.shape[0]
        self.blocks, self.ops = blocks, ops
        self.rows = xp.reshape(blocks, (*blocks.shape[:2], -1))
        self.taps, angles, phases = placed(grid.key, grid.tables, blocks, ops=ops)
        self.angles = xp.broadcast_to(angles, (count, *angles.shape))
        self.grid_phases = xp.broadcast_to(phases, (count, *phases.shape))

    def phases(self, angles: Array) -> Array:
        """``e^{i k.theta}`` at angles (b, d, f), shape (b, taps, f)."""
        xp = self.ops.xp
        angle = xp.matmul(self.taps, angles)
        return self.ops.complex(xp.cos(angle), xp.sin(angle))

    def images(self, vectors: Array, phases: Array) -> Array:
        """``G(theta) v``: vectors (b, p, r, f) at phases (b, taps, f) to (b, m, r, f)."""
        xp, (b, p, r, f) = self.ops.xp, vectors.shape
        waves = vectors[:, :, None, :, :] * phases[:, None, :, None, :]
        waves = xp.reshape(waves, (b, p * phases.shape[1], r * f))
        return xp.reshape(arrays.real_times(self.rows, waves, ops=self.ops), (b, -1, r, f))

    def tap_images(self, images: Array) -> Array:
        """``K_k^T y`` of every tap k: y (b, m, r, f) to (b, p, taps, r, f)."""
        xp, (b, m, r, f) = self.ops.xp, images.shape
        columns = xp.matrix_transpose(self.rows)
        found = arrays.real_times(columns, xp.reshape(images, (b, m, r * f)), ops=self.ops)
        return xp.reshape(found, (b, self.blocks.shape[2], -1, r, f))

    def adjoint_images(self, tap_images: Array, phases: Array) -> Array:
        """``G(theta)* y`` of `tap_images`, shape (b, p, r, f)."""
        return self.ops.xp.sum(tap_images * self.ops.xp.conj(phases)[:, None, :, None, :], axis=2)


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
    points_a_tap = 6 if channels <= 48 else 5 if channels <= 64 else 4.5
    points = math.ceil(points_a_tap * (max(kernel_shape) - 1))
    most_points = {1: 256, 2: 32, 3: 10}
    return max(8, min(points, most_points[axes]))


@functools.lru_cache(maxsize=64)
def _start_basis(channels: int, count: int) -> np.ndarray:
    return np.linalg.qr(arrays.random_vectors(0, (channels, count)))[0]


def start_vectors(blocks: Array, count: int, points: int, *, ops: ArrayOps) -> Array:
    """Random orthonormal vectors, the same at every point of a grid, shape (b, p, count, points)."""
    b, p = blocks.shape[0], blocks.shape[2]

    def basis(dtype: type[np.floating]) -> tuple[np.ndarray]:
        return (_start_basis(p, count).astype(np.result_type(dtype, np.complex64)),)

    (columns,) = placed(("start", p, count), basis, blocks, ops=ops)
    return ops.xp.broadcast_to(columns[None, :, :, None], (b, p, count, points))


def with_invalid_replaced(vectors: Array, blocks: Array, *, ops: ArrayOps) -> Array:
    """Replace vectors that are far from unit length by start vectors: zeros or NaN, as in a state never filled."""
    xp = ops.xp
    start = start_vectors(blocks, *vectors.shape[2:], ops=ops)
    squared_length = _squared_norm(vectors, xp=xp)[:, None, :, :]
    is_unit = (squared_length > _SHORT**2) & (squared_length < _LONG**2)
    return xp.where(is_unit, vectors, start)


class Points(NamedTuple):
    """Frequencies with one vector each.

    Parameters
    ----------
    vectors : complex array, shape (b, p, 1, g)
        v, of unit length.
    images : complex array, shape (b, m, 1, g)
        ``G(theta) v``.
    angles : array, shape (b, d, g)
    phases : complex array, shape (b, taps, g)
    """

    vectors: Array
    images: Array
    angles: Array
    phases: Array


def step(waves: PlaneWaves, vectors: Array) -> tuple[Array, Points]:
    """Move the vectors of all points by one shifted step of block power iteration, and find the best points.

    The step is ``V <- orth((G*G - s I) V)``, with s a part of the smallest value that is followed at the point.

    Parameters
    ----------
    vectors : complex array, shape (b, p, r, f)
        Orthonormal at each point.

    Returns
    -------
    vectors : complex array, shape (b, p, r, f)
    points : Points
        Where the norm seems largest, the best first.
    """
    xp = waves.ops.xp
    phases = waves.grid_phases
    images = waves.images(vectors, phases)
    power = waves.adjoint_images(waves.tap_images(images), phases)
    squares = _squared_norm(images, xp=xp)
    mix = _first_eigenvector(images, squares, xp=xp)
    # ||G*G v|| / ||G v|| is closer to the norm than ||G v||.
    squared_power = _squared_norm(_mixed(power, mix, xp=xp), xp=xp)
    squared_norms = squared_power / (_squared_norm(_mixed(images, mix, xp=xp), xp=xp) + _TINY)
    best = xp.argsort(squared_norms[:, 0, :], axis=1, descending=True)[:, : min(_BEST, squared_norms.shape[2])]
    points = _best_in_span_with_power(waves, vectors, images, power, where=best)
    shift = _SHIFT * xp.min(squares, axis=1)[:, None, None, :]
    return orthonormal(power - shift * vectors, xp=xp), points


def _best_in_span_with_power(waves: PlaneWaves, vectors: Array, images: Array, power: Array, *, where: Array) -> Points:
    """Choose the best vector in the span of the vectors and of their power step, by Rayleigh-Ritz, at some points.

    Where singular values are close, it is much closer to the first singular vector than the best vector of either
    space. They are close in layers that are kept at a norm. Where singular values change fast, as in the first steps of
    an optimiser, a norm was 3 % too large without this choice, and 1.3 % with the first vector's power step alone.

    Parameters
    ----------
    vectors, power : complex arrays, shape (b, p, r, f)
    images : complex array, shape (b, m, r, f)
        Images of the vectors.
    where : integer array, shape (b, g)
        Indices of the points.
    """
    xp = waves.ops.xp
    p, r = vectors.shape[1:3]
    basis, basis_images, new, angles, phases = (
        at_points(x, points=where, xp=xp) for x in (vectors, images, power, waves.angles, waves.grid_phases)
    )
    if r < p:
        new = orthonormal(new[:, :, : min(r, p - r), :], basis, xp=xp)
        basis = xp.concat([basis, new], axis=2)
        basis_images = xp.concat([basis_images, waves.images(new, phases)], axis=2)
    mix = _first_eigenvector(basis_images, _squared_norm(basis_images, xp=xp), xp=xp)
    # A power step that is nothing but rounding errors is not quite orthogonal, so that the combination is normalised.
    best, length = _unit(_mixed(basis, mix, xp=xp), xp=xp)
    best_images = _mixed(basis_images, mix, xp=xp) / (length + _TINY)
    return Points(best, best_images, angles, phases)


def _mixed(x: Array, mix: Array, *, xp: Namespace) -> Array:
    """Combination of the vectors at each point: x (b, ..., r, f) with coefficients (b, r, f), the axis r kept."""
    if x.shape[-2] == 1:
        return x
    lead = (1,) * (x.ndim - 3)
    return xp.sum(x * xp.reshape(mix, (mix.shape[0], *lead, *mix.shape[1:])), axis=-2, keepdims=True)


def _first_eigenvector(images: Array, squares: Array, *, xp: Namespace) -> Array:
    """Coefficients of the combination with the longest image at each point, of unit length, shape (b, r, f).

    Parameters
    ----------
    images : complex array, shape (b, m, r, f)
    squares : array, shape (b, r, f)
        Their squared norms.
    """
    count = images.shape[2]
    if count == 1:
        return xp.ones_like(images[:, 0, :, :])
    if count == 2:
        return _first_of_two(images, squares, xp=xp)
    by_point = xp.permute_dims(images, (0, 3, 1, 2))
    gram = xp.matmul(arrays.adjoint(by_point, xp=xp), by_point)
    for _ in range(_SQUARINGS):
        gram = gram / (xp.linalg.trace(gram)[..., None, None] + _TINY)
        gram = xp.matmul(gram, gram)
    largest = xp.argmax(xp.real(xp.linalg.diagonal(gram)), axis=-1)
    index = xp.broadcast_to(largest[..., None, None], (*gram.shape[:-1], 1))
    column = xp.permute_dims(xp.take_along_axis(gram, index, axis=-1)[..., 0], (0, 2, 1))
    return _unit(column, xp=xp)[0]


def _first_of_two(images: Array, squares: Array, *, xp: Namespace) -> Array:
    """`_first_eigenvector` of two vectors: of the Gram matrix [[a, c], [conj(c), b]], in closed form."""
    first, second = images[:, :, 0, :], images[:, :, 1, :]
    coupling = xp.sum(xp.conj(first) * second, axis=1)
    half_difference = 0.5 * (squares[:, 0, :] - squares[:, 1, :])
    radius = xp.sqrt(half_difference * half_difference + square(coupling, xp=xp))
    # The eigenvector is (r + d, conj(c)) or, parallel to it, (c, r - d). In one of the two, r and d do not cancel.
    larger = xp.astype(xp.abs(half_difference) + radius, coupling.dtype)
    first_leads = half_difference >= 0
    mix = xp.stack([xp.where(first_leads, larger, coupling), xp.where(first_leads, xp.conj(coupling), larger)], axis=1)
    # For two orthogonal images of one length the formula gives zero, and any combination is as good as another.
    undecided = (radius <= _TINY)[:, None, :]
    mix = xp.where(undecided, xp.ones_like(mix), mix)
    return _unit(mix, xp=xp)[0]


def refine(waves: PlaneWaves, points: Points, *, last_rounds: int = 0) -> Triples:
    """Return the highest triple of each block, after rounds of fewer and fewer of the highest points.

    Parameters
    ----------
    last_rounds : int
        Number of further rounds for the highest point alone.
    """
    for count in _HIGHEST:
        points = _round(waves, _highest(points, count, xp=waves.ops.xp))
    points = _highest(points, 1, xp=waves.ops.xp)
    if last_rounds:
        state = arrays.repeated(lambda state: _round(waves, Points(*state)), last_rounds, tuple(points), ops=waves.ops)
        points = Points(*state)
    left, norms = _unit(points.images, xp=waves.ops.xp)
    vectors, angles, phases = points.vectors[:, :, 0, 0], points.angles[:, :, 0], points.phases[:, :, 0]
    return Triples(norms[:, 0, 0, 0], left[:, :, 0, 0], vectors, angles, phases)


def _highest(points: Points, count: int, *, xp: Namespace) -> Points:
    """The points with the longest images, at most ``count`` of them."""
    squares = _squared_norm(points.images, xp=xp)[:, 0, :]
    if squares.shape[1] <= count:
        return points
    highest = xp.argsort(squares, axis=1, descending=True)[:, :count]
    # One choice takes less time than one for each array.
    p, m = points.vectors.shape[1], points.images.shape[1]
    joined = xp.concat([points.vectors[:, :, 0, :], points.images[:, :, 0, :], points.phases], axis=1)
    joined = at_points(joined, points=highest, xp=xp)
    angles = at_points(points.angles, points=highest, xp=xp)
    return Points(joined[:, :p, None, :], joined[:, p : p + m, None, :], angles, joined[:, p + m :, :])


def _round(waves: PlaneWaves, points: Points) -> Points:
    """One shifted power step, then one Newton step of the frequency for the singular vectors at hand."""
    xp = waves.ops.xp
    tap_images = waves.tap_images(points.images)
    power = waves.adjoint_images(tap_images, points.phases)
    shift = _SHIFT * _squared_norm(points.images, xp=xp)[:, None, :, :]
    vectors, _ = _unit(power - shift * points.vectors, xp=xp)
    angles, phases = points.angles, points.phases
    if angles.shape[1]:
        products = xp.sum(xp.conj(tap_images) * vectors[:, :, None, :, :], axis=1)
        terms = products[:, :, 0, :] * phases
        move = newton_step(xp.matrix_transpose(terms), waves.taps, xp=xp)
        angles = angles + xp.matrix_transpose(move)
        phases = waves.phases(angles)
    return Points(vectors, waves.images(vectors, phases), angles, phases)


def orthonormal(vectors: Array, others: Array | None = None, *, xp: Namespace) -> Array:
    """Make the vectors at each point orthonormal, and orthogonal to others.

    Parameters
    ----------
    vectors : complex array, shape (b, p, r, f)
        A zero vector stays zero.
    others : complex array, shape (b, p, s, f), optional
        Orthonormal.
    """
    if others is not None:
        for _ in range(_PASSES):
            vectors = vectors - _projection(vectors, others, xp=xp)
    done: list[Array] = []
    for j in range(vectors.shape[2]):
        vector = vectors[:, :, j : j + 1, :]
        for other in done:
            vector = vector - other * xp.sum(xp.conj(other) * vector, axis=1, keepdims=True)
        done.append(_unit(vector, xp=xp)[0])
    return xp.concat(done, axis=2)


def _projection(vectors: Array, basis: Array, *, xp: Namespace) -> Array:
    """Projection of vectors (b, p, r, f) on the space of an orthonormal basis (b, p, s, f) at each point."""
    each = basis[:, :, :, None, :]
    coefficients = xp.sum(xp.conj(each) * vectors[:, :, None, :, :], axis=1, keepdims=True)
    return xp.sum(each * coefficients, axis=2)


def _unit(x: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """Vectors on axis 1 divided by their norms, and the norms, which keep the axis. A zero vector stays zero."""
    norm = xp.sqrt(_squared_norm(x, xp=xp))[:, None, ...]
    return x / (norm + _TINY), norm


def _squared_norm(x: Array, *, xp: Namespace) -> Array:
    """Squared norms of vectors on axis 1."""
    return xp.sum(square(x, xp=xp), axis=1)


def square(z: Array, *, xp: Namespace) -> Array:
    """``|z|^2``, entry by entry."""
    real, imag = xp.real(z), xp.imag(z)
    return real * real + imag * imag


def at_points(x: Array, *, points: Array, xp: Namespace) -> Array:
    """Entries (b, ..., f) at chosen points (b, g) of the last axis."""
    if x.shape[0] == 1:
        return xp.take(x, points[0, :], axis=-1)
    index = xp.reshape(points, (points.shape[0], *(1,) * (x.ndim - 2), points.shape[1]))
    return xp.take_along_axis(x, xp.broadcast_to(index, (*x.shape[:-1], points.shape[1])), axis=-1)
