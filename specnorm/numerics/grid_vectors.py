"""Right vectors at every frequency of a coarse grid, moved all at once: what follows the norm of a changing kernel.

One set of vectors follows one local maximum of ``||G(theta)||``. A layer that is divided by its norm in training grows
at the other maxima, until many of them are equally high. Vectors at every point of a grid see each of them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm import arrays
from specnorm.numerics.angles import newton_step
from specnorm.problem.frequencies import product, tap_points

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.types import ArrayOps

WIDE = 64
"""Channels of the smaller side beyond which singular values lie so close that two vectors a point are too few."""
IMPROVED = 36
"""Points of the grid whose vectors are improved by Rayleigh-Ritz in each step: those where the norm seems largest."""
REFINED = 12
"""Points that are refined: their frequency leaves the grid."""
_SHORT = 0.1
"""Length below which a vector that should have length 1 is none: the average of vectors that have nothing in common."""
_FEW = 2
"""Vectors a point up to which Gram and Schmidt takes fewer calls than a factorisation a point."""
_ORTHOGONALISED = 2
"""How often a power step is made orthogonal to the vectors it came from, which it is nearly parallel to."""


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
    """

    value: Array
    left: Array
    right: Array
    angles: Array


class PlaneWaves:
    """Products of the symbols of blocks with vectors at many frequencies. No symbol is formed.

    ``sum_k K_k v e^{i k.theta}`` of all vectors at once is one real product of the kernel, as a matrix of m rows, with
    the vectors times the waves at each tap.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)
        Real.
    """

    def __init__(self, blocks: Array, *, ops: ArrayOps) -> None:
        self.blocks, self.ops = blocks, ops
        self.rows = ops.xp.reshape(blocks, (*blocks.shape[:2], -1))
        points = tap_points(tuple(blocks.shape[3:]))
        self.taps = ops.from_numpy(points.astype(_host_dtype(blocks, xp=ops.xp)), blocks)

    def phases(self, angles: Array) -> Array:
        """``e^{i k.theta}`` at angles (b, d, f), shape (b, taps, f)."""
        xp = self.ops.xp
        angle = xp.matmul(self.taps, angles)
        return self.ops.complex(xp.cos(angle), xp.sin(angle))

    def on_grid(self, grid: Grid) -> tuple[Array, Array]:
        """Angles and phases of a grid for each block, shapes (b, d, f) and (b, taps, f)."""
        xp, count = self.ops.xp, self.blocks.shape[0]
        dtype = _host_dtype(self.blocks, xp=xp)
        angles, cos, sin = (
            self.ops.from_numpy(x.astype(dtype), self.blocks) for x in (grid.angles.T, grid.cos, grid.sin)
        )
        phases = self.ops.complex(cos, sin)
        return xp.broadcast_to(angles, (count, *angles.shape)), xp.broadcast_to(phases, (count, *phases.shape))

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


@dataclass(frozen=True, eq=False)
class Grid:
    """Frequencies of a coarse grid, on the host: one of each pair theta and -theta, where a real kernel has one norm.

    Parameters
    ----------
    angles : float array, shape (f, d)
        In radians.
    cos, sin : float arrays, shape (taps, f)
        Of ``k.theta`` for the places k of the taps.
    """

    angles: np.ndarray
    cos: np.ndarray
    sin: np.ndarray

    def __len__(self) -> int:
        return len(self.angles)


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
    angle = tap_points(kernel_shape).astype(float) @ angles.T
    return Grid(angles, np.cos(angle), np.sin(angle))


def default_points(kernel_shape: tuple[int, ...], channels: int) -> int:
    """Return the points an axis that a training loop needs to be held, by its taps, its axes and its channels.

    Measured in the loops of docs/benchmarks/constraint.md. Wide layers have more vectors a point instead.
    """
    axes = sum(k > 1 for k in kernel_shape)
    if not axes:
        return 1
    each = 6 if channels <= 48 else 5 if channels <= WIDE else 4
    return max(8, min(each * (max(kernel_shape) - 1), (256, 32, 10)[axes - 1]))


@functools.lru_cache(maxsize=64)
def _start_basis(channels: int, count: int) -> np.ndarray:
    return np.linalg.qr(arrays.random_vectors(0, (channels, count)))[0]


def start_vectors(blocks: Array, count: int, points: int, *, ops: ArrayOps) -> Array:
    """Random orthonormal vectors, the same at every point of a grid, shape (b, p, count, points)."""
    xp, b, p = ops.xp, blocks.shape[0], blocks.shape[2]
    dtype = np.complex128 if blocks.dtype == xp.float64 else np.complex64
    basis = ops.from_numpy(_start_basis(p, count).astype(dtype), blocks)
    return xp.broadcast_to(basis[None, :, :, None], (b, p, count, points))


def begun_anew(vectors: Array, blocks: Array, *, ops: ArrayOps) -> Array:
    """Vectors with those that are none replaced by start vectors: zeros, or no numbers, of a state never filled."""
    start = start_vectors(blocks, *vectors.shape[2:], ops=ops)
    return ops.xp.where(_is_unit(vectors, xp=ops.xp), vectors, start)


def _is_unit(vectors: Array, *, xp: Namespace) -> Array:
    """Whether vectors (b, p, r, f) have some length, at most about 1; axis 1 is kept, with length 1."""
    norm = _norm(vectors, xp=xp)[:, None, :, :]
    return (norm > _SHORT) & (norm < 2)


class Improved(NamedTuple):
    """The best points of a grid.

    Parameters
    ----------
    images : complex array, shape (b, m, r, f)
        ``G(theta) v`` of the vectors there; the first of each point is the largest.
    angles : array, shape (b, d, f)
    phases : complex array, shape (b, taps, f)
    """

    images: Array
    angles: Array
    phases: Array


def step(waves: PlaneWaves, vectors: Array, grid: Grid) -> tuple[Array, Improved]:
    """Move the vectors of all points, and improve those of the best points further.

    All vectors take one step of block power iteration, two products with the kernel. At the best points the vectors
    become the best ones in the space of the vectors and their power step, by Rayleigh-Ritz: these converge much faster
    where singular values are close, as they are in layers that are kept at a norm.

    Parameters
    ----------
    vectors : complex array, shape (b, p, r, f)
        Orthonormal at each point.

    Returns
    -------
    vectors : complex array, shape (b, p, r, f)
    improved : Improved
    """
    xp = waves.ops.xp
    p, r, f = vectors.shape[1:]
    angles, phases = waves.on_grid(grid)
    images = waves.images(vectors, phases)
    power = waves.adjoint_images(waves.tap_images(images), phases)
    best_first = _highest_first(images, power, xp=xp)
    best = best_first[:, : min(IMPROVED, f)]
    basis, basis_images, phases_there = (_at_points(x, points=best, xp=xp) for x in (vectors, images, phases))
    if r < p:
        new = _at_points(power, points=best, xp=xp)[:, :, : min(r, p - r), :]
        new = orthonormal(new, basis, xp=xp)
        basis = xp.concat([basis, new], axis=2)
        basis_images = xp.concat([basis_images, waves.images(new, phases_there)], axis=2)
    ritz_vectors, ritz_images = _rayleigh_ritz(basis, basis_images, r, xp=xp)
    moved = orthonormal(_put_back(ritz_vectors, power, best_first, xp=xp), None, xp=xp)
    moved = xp.where(_is_unit(moved, xp=xp), moved, vectors)
    return moved, Improved(ritz_images, _at_points(angles, points=best, xp=xp), phases_there)


def _highest_first(images: Array, power: Array, *, xp: Namespace) -> Array:
    """Points of the grid (b, f) by ``||G* G v|| / ||G v||``, which is closer to the norm than ``||G v||``."""
    growth = _norm(power, xp=xp) / (_norm(images, xp=xp) + _TINY)
    return xp.argsort(xp.max(growth, axis=1), axis=1, descending=True)


def _put_back(improved: Array, others: Array, best_first: Array, *, xp: Namespace) -> Array:
    """The vectors of all points: those that were improved, of the best points, and the others.

    Parameters
    ----------
    improved : array, shape (b, p, r, g)
        Of the g best points, in their order.
    others : array, shape (b, p, r, f)
    best_first : integer array, shape (b, f)
        The points in the order of their norms.
    """
    count = improved.shape[3]
    rank = xp.argsort(best_first, axis=1)
    source = xp.minimum(rank, xp.full_like(rank, count - 1))
    return xp.where((rank < count)[:, None, None, :], _at_points(improved, points=source, xp=xp), others)


def refine(waves: PlaneWaves, improved: Improved, rounds: int, *, last_rounds: int = 0) -> Triples:
    """Leave the grid from its best points, and return the highest triple of each block.

    A round takes a power step at the frequency, then a Newton step of the frequency for the singular vectors at hand.

    Parameters
    ----------
    rounds : int
        Of all refined points, at least 1.
    last_rounds : int
        Of the highest one alone, after these.
    """
    xp = waves.ops.xp
    norms = _norm(improved.images[:, :, 0, :], xp=xp)
    best = xp.argsort(norms, axis=1, descending=True)[:, : min(REFINED, norms.shape[1])]
    points = _Points(
        _at_points(improved.images[:, :, 0, :], points=best, xp=xp),
        _at_points(improved.angles, points=best, xp=xp),
        _at_points(improved.phases, points=best, xp=xp),
    )
    vectors, points = _alternate(waves, points, rounds)
    highest = xp.argmax(_norm(points.images, xp=xp), axis=1)[:, None]
    vectors = _at_points(vectors, points=highest, xp=xp)
    points = _Points(*(_at_points(x, points=highest, xp=xp) for x in points))
    if last_rounds:
        vectors, points = _alternate(waves, points, last_rounds)
    left, norms = _unit(points.images, xp=xp)
    return Triples(norms[:, 0, 0], left[:, :, 0], vectors[:, :, 0], points.angles[:, :, 0])


class _Points(NamedTuple):
    """Points that leave the grid: ``G(theta) v`` (b, m, f), angles (b, d, f) and phases (b, taps, f)."""

    images: Array
    angles: Array
    phases: Array


_UNROLLED = 3
"""Rounds up to which no loop is compiled, and no value is looked at: those of a training step."""


def _alternate(waves: PlaneWaves, points: _Points, rounds: int) -> tuple[Array, _Points]:
    """Power steps and Newton steps in turn: the right vectors reached, shape (b, p, f), and the points."""
    xp = waves.ops.xp

    def alternate_once(state: tuple[Array, ...]) -> tuple[Array, ...]:
        _, images, angles, phases = state
        tap_images = waves.tap_images(images[:, :, None, :])
        vectors, _ = _unit(waves.adjoint_images(tap_images, phases)[:, :, 0, :], xp=xp)
        if angles.shape[1]:
            terms = xp.sum(xp.conj(tap_images[:, :, :, 0, :]) * vectors[:, :, None, :], axis=1) * phases
            move = newton_step(xp.matrix_transpose(terms), waves.taps, xp=xp)
            angles = angles + xp.matrix_transpose(move)
            phases = waves.phases(angles)
        images = waves.images(vectors[:, :, None, :], phases)[:, :, 0, :]
        return vectors, images, angles, phases

    b, _, f = points.images.shape
    none = xp.zeros((b, waves.blocks.shape[2], f), dtype=points.images.dtype, device=waves.ops.device(points.images))
    state: tuple[Array, ...] = (none, *points)
    if rounds > _UNROLLED:
        state = arrays.repeated(alternate_once, rounds, state, ops=waves.ops)
    else:
        for _ in range(rounds):
            state = alternate_once(state)
    vectors, images, angles, phases = state
    return vectors, _Points(images, angles, phases)


_TINY = 1e-30
"""Added to norms that are divided by."""


def orthonormal(vectors: Array, others: Array | None, *, xp: Namespace) -> Array:
    """Make the vectors at each point orthonormal, and orthogonal to others.

    Parameters
    ----------
    vectors : complex array, shape (b, p, r, f)
    others : complex array, shape (b, p, s, f), optional
        Orthonormal.
    """
    if vectors.shape[2] > _FEW:
        return _by_householder(vectors, others, xp=xp)
    done = [] if others is None else [others[:, :, j, :] for j in range(others.shape[2])]
    first = len(done)
    for j in range(vectors.shape[2]):
        vector = vectors[:, :, j, :]
        for _ in range(_ORTHOGONALISED if first else 1):
            for other in done:
                vector = vector - other * xp.sum(xp.conj(other) * vector, axis=1, keepdims=True)
            vector, _ = _unit(vector, xp=xp)
        done.append(vector)
    return xp.stack(done[first:], axis=2)


def _by_householder(vectors: Array, others: Array | None, *, xp: Namespace) -> Array:
    """`orthonormal` by a QR factorisation a point: for more vectors, fewer calls than by Gram and Schmidt."""
    columns = xp.permute_dims(vectors, (0, 3, 1, 2))
    # What is not finite would stop a factorisation.
    columns = xp.where(xp.isfinite(columns), columns, xp.zeros_like(columns))
    basis = None if others is None else xp.permute_dims(others, (0, 3, 1, 2))
    for _ in range(1 if basis is None else _ORTHOGONALISED):
        if basis is not None:
            columns = columns - xp.matmul(basis, xp.matmul(arrays.adjoint(basis, xp=xp), columns))
        columns, _ = xp.linalg.qr(columns)
    return xp.permute_dims(columns, (0, 2, 3, 1))


def _rayleigh_ritz(basis: Array, images: Array, count: int, *, xp: Namespace) -> tuple[Array, Array]:
    """The best combinations of the vectors at each point: those with the largest images, the largest first.

    Parameters
    ----------
    basis, images : complex arrays, shapes (b, p, s, f) and (b, m, s, f)
    """
    by_point = xp.permute_dims(images, (0, 3, 1, 2))
    gram = xp.matmul(arrays.adjoint(by_point, xp=xp), by_point)
    # What is not finite would stop an eigenvalue routine.
    gram = xp.where(xp.isfinite(gram), gram, xp.zeros_like(gram))
    _, turn = xp.linalg.eigh(gram)
    turn = xp.flip(turn, axis=-1)[..., :count]
    turned = (xp.matmul(x, turn) for x in (xp.permute_dims(basis, (0, 3, 1, 2)), by_point))
    vectors, turned_images = (xp.permute_dims(x, (0, 2, 3, 1)) for x in turned)
    return vectors, turned_images


def _unit(x: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """Vectors on axis 1 divided by their norms, and the norms, which keep the axis. A zero vector stays zero."""
    norm = _norm(x, xp=xp)[:, None, ...]
    return x / (norm + _TINY), norm


def _norm(x: Array, *, xp: Namespace) -> Array:
    """Norms of vectors on axis 1."""
    real, imag = xp.real(x), xp.imag(x)
    return xp.sqrt(xp.sum(real * real + imag * imag, axis=1))


def _at_points(x: Array, *, points: Array, xp: Namespace) -> Array:
    """Entries (b, ..., f) at chosen points (b, g) of the last axis."""
    if x.shape[0] == 1:
        return xp.take(x, points[0, :], axis=-1)
    index = xp.reshape(points, (points.shape[0], *(1,) * (x.ndim - 2), points.shape[1]))
    return xp.take_along_axis(x, xp.broadcast_to(index, (*x.shape[:-1], points.shape[1])), axis=-1)


def _host_dtype(like: Array, *, xp: Namespace) -> type[np.floating]:
    return np.float64 if like.dtype == xp.float64 else np.float32
