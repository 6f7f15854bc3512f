"""Power iteration and Chebyshev filters for singular vectors and eigenvectors; norms at many frequencies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from specnorm.backends import arrays
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.proofs.frequencies import Frequencies
    from specnorm.symbols.proofs.polynomial import Symbol

COARSE_STEPS = 6
"""Power steps at each frequency of a coarse grid, from which no other iteration follows."""

LinearMap: TypeAlias = Callable[["Array"], "Array"]
"""A function from vectors, on the last axis of an array, to vectors on the last axis."""


def matrix_maps(a: Array, *, xp: Namespace) -> tuple[LinearMap, LinearMap]:
    """Matrices (..., m, n) and their adjoints as maps of vectors (..., n) and (..., m)."""
    adjoint_matrices = arrays.adjoint(a, xp=xp)

    def apply(v: Array) -> Array:
        return xp.matmul(a, v[..., None])[..., 0]

    def adjoint(u: Array) -> Array:
        return xp.matmul(adjoint_matrices, u[..., None])[..., 0]

    return apply, adjoint


def power_steps(
    apply: LinearMap,
    adjoint: LinearMap,
    v: Array,
    steps: int,
    *,
    xp: Namespace,
) -> tuple[Array, Array, Array]:
    """Power iteration on A*A, for a map A given by its action.

    ``apply``, ``adjoint``: A and A*. ``v`` (..., n): unit vectors. ``steps``: with 0, only ``u = A v / |A v|`` is
    computed. Returns ``u``, ``v``: unit vectors. Where A* u is zero or not finite, v is unchanged. Returns ``norm``
    (..., 1): ``|A* u|``, or ``|A v|`` after 0 steps: at most ``||A||``.
    """
    u, norm = arrays.normalise(apply(v), xp=xp)
    for j in range(steps):
        if j:
            u, _ = arrays.normalise(apply(v), xp=xp)
        v, norm = arrays.normalise_or_keep(adjoint(u), v, xp=xp)
    return u, v, norm


def gram_power(gram: LinearMap, v: Array, steps: int, *, xp: Namespace) -> tuple[Array, Array]:
    """Power iteration on a symmetric positive semidefinite map H.

    Returns ``v``: unit vectors after the steps; ``norm``: ``|H v|`` for the unit vectors before the last step.
    """
    for _ in range(steps - 1):
        v, _ = arrays.normalise(gram(v), xp=xp)
    return arrays.normalise(gram(v), xp=xp)


def norms_at(
    blocks: Array,
    frequencies: Frequencies,
    steps: int,
    *,
    seed: int = 0,
    ops: ArrayOps,
) -> tuple[Frequencies, np.ndarray, np.ndarray]:
    """Where the norm of the symbol is large: norms at many frequencies, from below, by some power steps.

    ``blocks`` is (g, m, p, *kernel_shape). ``seed``: seed of the start vector, which is the same everywhere. Returns
    ``frequencies``: as many of them, evenly, as fit the memory; ``norms`` (g, f); ``vectors`` (g, f, p): right vectors.
    """
    groups, _, p, *kernel_shape = blocks.shape
    # For each tap: its phase, with about 24 numbers while it is computed, and complex images of both sides.
    bytes_of_images = 16 * groups * sum(blocks.shape[1:3])
    bytes_of_a_frequency = math.prod(kernel_shape) * (24 * 8 + bytes_of_images)
    every_nth = arrays.ceil_div(len(frequencies) * bytes_of_a_frequency, ops.memory)
    frequencies = frequencies[::every_nth]
    start = arrays.start_vector(seed, p).astype(np.complex128)
    starts = ops.from_numpy(np.broadcast_to(start, (groups, len(frequencies), p)), blocks)
    symbol = Polynomial(blocks, xp=ops.xp).at(frequencies, ops=ops)
    vectors, norms_sq = power_of_symbol(symbol, starts, steps, xp=ops.xp)
    return frequencies, np.sqrt(ops.to_numpy(norms_sq)[:, :, 0]), ops.to_numpy(vectors)


def power_of_symbol(symbol: Symbol, start: Array, steps: int, *, xp: Namespace) -> tuple[Array, Array]:
    """`gram_power` with ``G*G`` at the symbol's frequencies, in the precision of its blocks."""
    start = xp.astype(start, arrays.complex_dtype(symbol.cos.dtype, xp=xp), copy=False)
    return gram_power(lambda x: symbol.adjoint(symbol.apply(x)), start, steps, xp=xp)


def top_in_krylov_space(
    apply: LinearMap,
    adjoint: LinearMap,
    v: Array,
    size: int,
    *,
    xp: Namespace,
) -> tuple[Array, Array, Array]:
    """Approximate top singular vectors of a map A: the best ones in the Krylov space of A*A and v.

    They are those of Golub and Kahan's bidiagonalisation after ``size`` steps, with an orthogonalisation against all
    vectors of the basis. As many power steps lie in the same space, and converge more slowly.

    ``apply``, ``adjoint``: A and A*. ``v`` (s, n): start vectors, other than zero. ``size``: dimension of the space.
    Returns ``u``, ``v`` (s, m) and (s, n): unit vectors; ``norm`` (s,): ``|A* u|``: at most ``||A||``, whatever
    rounding does to the basis.
    """
    v, _ = arrays.unit(v, xp=xp)
    basis = v[:, None, :]
    images = apply(v)[:, None, :]
    for _ in range(size - 1):
        v = adjoint(images[:, -1, :])
        # Near convergence almost nothing of the vector is left, and rounding brings parts along the basis back.
        for _ in range(2):
            coefficients = xp.matmul(v[:, None, :], arrays.adjoint(basis, xp=xp))
            v, _ = arrays.unit(v - xp.matmul(coefficients, basis)[:, 0, :], xp=xp)
        basis = xp.concat([basis, v[:, None, :]], axis=1)
        images = xp.concat([images, apply(v)[:, None, :]], axis=1)
    _, weights = arrays.top_eigenpair(xp.matmul(xp.conj(images), xp.matrix_transpose(images)), xp=xp)
    u, _ = arrays.unit(xp.matmul(weights[:, None, :], images)[:, 0, :], xp=xp)
    v, norm = arrays.unit(adjoint(u), xp=xp)
    return u, v, norm


def chebyshev_filter(
    mapped: LinearMap,
    x: Array,
    degree: int,
    *,
    renormalise_every: int | None = None,
    xp: Namespace,
) -> Array:
    """``T_degree(B) x``, with the Chebyshev polynomial T, by the recurrence ``T_j = 2 B T_(j-1) - T_(j-2)``.

    ``mapped``: applies ``B = (2 / cut) H - 1``, which maps eigenvalues of H in [0, cut] to [-1, 1], where ``|T| <= 1``.
    ``x``: vectors, on the axis that ``mapped`` expects. ``degree``: at least 1. ``renormalise_every``: if given,
    vectors (on the last axis) are normalized after every so many products. That avoids overflow for high degrees; the
    filter's scale is lost.
    """
    previous = x
    current = mapped(x)
    for step in range(1, degree):
        if renormalise_every is not None and step % renormalise_every == 0:
            current, norm = arrays.normalise(current, xp=xp)
            previous = previous / xp.astype(xp.where(norm > 0, norm, xp.ones_like(norm)), previous.dtype)
        current, previous = 2 * mapped(current) - previous, current
    return current


def largest_eigenvalues(
    gram: Array,
    vectors: Array,
    cut: np.ndarray,
    degree: int,
    like: Array,
    *,
    ops: ArrayOps,
) -> tuple[np.ndarray, Array]:
    """Estimate the largest eigenvalue of each matrix from below, by a Chebyshev filter and a power step.

    ``gram`` (c, r, r): positive semidefinite Hermitian matrices. ``vectors`` (c, r): start vectors. ``cut`` (c,):
    components of eigenvalues below ``cut`` are damped. The cut is raised where it is so low that the filter could
    overflow. ``degree``: degree of the Chebyshev polynomial. ``like``: any real array on the same device. Returns
    ``values`` (c,); ``vectors`` (c, r): the last vectors, to start from when the same matrices are estimated again.
    """
    xp = ops.xp
    # The polynomial is at most 1 on [0, cut] and grows fast above it: with a tiny cut it would overflow in float32. So
    # the cut is at least half the mean eigenvalue. It is also at least 1e-5 of the largest trace of all matrices, and
    # 1e-30, so that ``2 / cut`` stays finite for matrices that are nearly zero.
    trace = ops.to_numpy(xp.real(xp.linalg.trace(gram)))
    cut = np.maximum(np.maximum(cut, 0.5 * trace / gram.shape[-1]), max(1e-5 * trace.max(), 1e-30))
    scale = xp.astype(ops.from_numpy(2 / cut, like), vectors.dtype)[:, None]

    def product(x: Array) -> Array:
        return xp.matmul(gram, x[..., None])[..., 0]

    vectors = chebyshev_filter(lambda x: product(x) * scale - x, vectors, degree, renormalise_every=3, xp=xp)
    vectors, _ = arrays.unit(vectors, xp=xp)
    vectors, norm = gram_power(product, vectors, 1, xp=xp)
    # The norm is ||H v|| for a unit vector v, which is at most lambda_max.
    return ops.to_numpy(norm[:, 0]).astype(float), vectors


def contraction(change: np.ndarray, before: np.ndarray, *, largest: float) -> np.ndarray:
    """Least-squares ratios c (s,) with ``change = c * before``, for two successive changes of iterates.

    The changes are host arrays (s, d). The ratios are clipped to [0, largest].
    """
    ratio = (change * before).sum(axis=1) / np.maximum((before * before).sum(axis=1), 1e-300)
    return np.asarray(np.minimum(np.maximum(ratio, 0.0), largest))
