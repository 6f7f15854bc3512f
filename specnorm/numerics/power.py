"""Power iteration, Chebyshev filters, and extrapolation of iterates that converge geometrically."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from specnorm import arrays

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.types import ArrayOps


LinearMap: TypeAlias = Callable[["Array"], "Array"]
"""Vectors on the last axis to vectors on the last axis."""


def composed(first: LinearMap, second: LinearMap) -> LinearMap:
    """The second map of the first."""
    return lambda x: second(first(x))


def matrix_maps(a: Array, *, xp: Namespace) -> tuple[LinearMap, LinearMap]:
    """Matrices (..., m, n) and their adjoints as maps of vectors (..., n) and (..., m)."""
    adjoint_matrices = arrays.adjoint(a, xp=xp)

    def apply(v: Array) -> Array:
        return xp.matmul(a, v[..., None])[..., 0]

    def adjoint(u: Array) -> Array:
        return xp.matmul(adjoint_matrices, u[..., None])[..., 0]

    return apply, adjoint


def follow(
    apply: LinearMap,
    adjoint: LinearMap,
    v: Array,
    steps: int,
    *,
    normalise: Callable[..., tuple[Array, Array]] = arrays.unit,
    xp: Namespace,
) -> tuple[Array, Array, Array]:
    """Power iteration on A*A from unit vectors: (u, v, norm) after some steps, with norm = |A* u| <= ||A||.

    A vector that a zero or non-finite map would destroy is kept. No step: ``u = A v / |A v|`` alone.

    Parameters
    ----------
    normalise : callable, default `arrays.unit`
        `arrays.normalise` where squares of entries may overflow. The norm is as it returns it.
    """
    u, norm = normalise(apply(v), xp=xp)
    for j in range(steps):
        if j:
            u, _ = normalise(apply(v), xp=xp)
        moved, norm = normalise(adjoint(u), xp=xp)
        length = norm if norm.ndim == moved.ndim else norm[..., None]
        v = xp.where((length > 0) & xp.isfinite(length), moved, v)
    return u, v, norm


def gram_power(gram: LinearMap, v: Array, steps: int, *, xp: Namespace) -> tuple[Array, Array]:
    """Power iteration on a symmetric positive semidefinite map H: unit vectors, and ``|H v|`` of those before."""
    for _ in range(steps - 1):
        v, _ = arrays.normalise(gram(v), xp=xp)
    return arrays.normalise(gram(v), xp=xp)


_DEGREE = 4
"""Chebyshev degree of a filter of several vectors: eigenvalues above twice the cut grow 577 times as much as those
below it."""


def chebyshev_filter(
    mapped: LinearMap,
    x: Array,
    degree: int,
    *,
    renormalise_every: int | None = None,
    xp: Namespace,
) -> Array:
    """``T_degree(B) x`` by the three-term recurrence ``T_j = 2 B T_(j-1) - T_(j-2)``.

    Parameters
    ----------
    mapped : callable
        ``B = (2 / cut) H - 1``, which takes eigenvalues of H in [0, cut] to [-1, 1]: there the filter is at most 1.
    x : array
        Vectors in the axes that ``mapped`` takes.
    degree : int
        At least 1.
    renormalise_every : int, optional
        After so many products, vectors on the last axis are divided by their norm: the filter's scale is lost, but
        high degrees would overflow otherwise.
    """
    previous = x
    current = mapped(x)
    for step in range(1, degree):
        if renormalise_every is not None and step % renormalise_every == 0:
            current, norm = arrays.normalise(current, xp=xp)
            previous = previous / xp.astype(xp.where(norm > 0, norm, xp.ones_like(norm)), previous.dtype)
        current, previous = 2 * mapped(current) - previous, current
    return current


def top_eigenvectors(
    gram: Array,
    count: int,
    cut: np.ndarray,
    *,
    ops: ArrayOps,
) -> tuple[Array, Array]:
    """Largest eigenvalues of some Hermitian matrices from below, ascending, and orthonormal vectors.

    Parameters
    ----------
    gram : complex array, shape (f, p, p)
    count : int
        How many of each.
    cut : float array, shape (f,)
        Above the others: eigenvalues above twice this converge.

    Returns
    -------
    values : array, shape (f, count)
    vectors : array, shape (f, p, count)
    """
    xp = ops.xp
    dtype = np.float64 if gram.dtype == xp.complex128 else np.float32
    real = xp.real(gram)
    scale = xp.astype(ops.from_numpy((2 / cut).astype(dtype), real), gram.dtype)[:, None, None]
    drawn = np.real(arrays.random_vectors(0, (gram.shape[1], count))).astype(dtype)
    x = xp.astype(xp.broadcast_to(ops.from_numpy(drawn, real), (*gram.shape[:2], count)), gram.dtype)
    # Two filters of half the degree: vectors do not become dependent in between.
    for _ in range(2):
        x = chebyshev_filter(lambda y: xp.matmul(gram, y) * scale - y, x, _DEGREE, xp=xp)
        x, _ = xp.linalg.qr(x)
    projected = xp.matmul(arrays.adjoint(x, xp=xp), xp.matmul(gram, x))
    values, small_vectors = xp.linalg.eigh(projected)
    return values, xp.matmul(x, small_vectors)


def largest_eigenvalues(
    gram: Array,
    vectors: Array,
    cut: np.ndarray,
    degree: int,
    like: Array,
    *,
    ops: ArrayOps,
) -> tuple[np.ndarray, Array]:
    """Largest eigenvalues from below by a Chebyshev filter and a power step, and the vectors for the next round.

    Parameters
    ----------
    gram : array, shape (c, r, r)
    vectors : array, shape (c, r)
    cut : float array, shape (c,)
        Eigenvalues below it are not told apart.
    like : array
        Real, on the device of the others.
    """
    xp = ops.xp
    # The polynomial is at most 1 on [0, cut] and grows fast above: too fast for single precision, were cut tiny.
    # The largest eigenvalue is at least the mean of all; far below other cells' it is rounding.
    trace = ops.to_numpy(xp.real(xp.linalg.trace(gram)))
    cut = np.maximum(np.maximum(cut, 0.5 * trace / gram.shape[-1]), max(1e-5 * trace.max(), 1e-30))
    scale = xp.astype(ops.from_numpy(2 / cut, like), vectors.dtype)[:, None]

    def product(x: Array) -> Array:
        return xp.matmul(gram, x[..., None])[..., 0]

    vectors = chebyshev_filter(lambda x: product(x) * scale - x, vectors, degree, renormalise_every=3, xp=xp)
    vectors, _ = arrays.unit(vectors, xp=xp)
    vectors, norm = gram_power(product, vectors, 1, xp=xp)
    # ||H v|| for the unit v before is at most lambda_max.
    return ops.to_numpy(norm[:, 0]).astype(float), vectors


def contraction(change: np.ndarray, before: np.ndarray, *, largest: float) -> np.ndarray:
    """Ratios by which the last two changes (s, d) shrink, as least squares has it, between 0 and ``largest`` (host)."""
    ratio = (change * before).sum(axis=1) / np.maximum((before * before).sum(axis=1), 1e-300)
    return np.asarray(np.minimum(np.maximum(ratio, 0.0), largest))
