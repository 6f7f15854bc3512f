"""Power iteration: on a map and its adjoint, and on a symmetric positive semidefinite map."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from specnorm import arrays

if TYPE_CHECKING:
    from specnorm.types import Array, Namespace

LinearMap: TypeAlias = Callable[["Array"], "Array"]
"""Vectors on the last axis to vectors on the last axis."""


def composed(first: LinearMap, second: LinearMap) -> LinearMap:
    """The second map of the first."""
    return lambda x: second(first(x))


def matrix_maps(a: Array, *, xp: Namespace) -> tuple[LinearMap, LinearMap]:
    """Matrices (..., m, n) and their adjoints as maps of vectors (..., n) and (..., m)."""
    h = arrays.adjoint(a, xp=xp)
    return (lambda v: xp.matmul(a, v[..., None])[..., 0]), (lambda u: xp.matmul(h, u[..., None])[..., 0])


def power_step(
    apply: LinearMap,
    adjoint: LinearMap,
    v: Array,
    *,
    normalise: Callable[..., tuple[Array, Array]] = arrays.unit,
    xp: Namespace,
) -> tuple[Array, Array, Array]:
    """One step of power iteration on A*A.

    Parameters
    ----------
    apply, adjoint : callable
        A and A*.
    v : array, shape (..., n)
        Unit vectors.
    normalise : callable, default `arrays.unit`
        `arrays.normalise` where squares of entries may overflow.

    Returns
    -------
    u : array, shape (..., m)
        ``A v`` over its norm.
    v : array, shape (..., n)
        ``A* u`` over its norm.
    norm : array
        ``|A* u|``: at most ``||A||``. As ``normalise`` returns it.
    """
    u, _ = normalise(apply(v), xp=xp)
    v, norm = normalise(adjoint(u), xp=xp)
    return u, v, norm


def follow(
    apply: LinearMap,
    adjoint: LinearMap,
    v: Array,
    steps: int,
    *,
    normalise: Callable[..., tuple[Array, Array]] = arrays.unit,
    xp: Namespace,
) -> tuple[Array, Array, Array]:
    """Power iteration from vectors of an earlier map: (u, v, norm) after some steps, with norm = <u, A v>.

    A vector that a zero or non-finite map would destroy is kept. No step: ``u = A v / |A v|`` alone.
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
    norm: Array | None = None
    for _ in range(steps):
        v, norm = arrays.normalise(gram(v), xp=xp)
    assert norm is not None  # for the type checker: there are steps
    return v, norm
