"""Linear operators from linear functions of JAX arrays; the adjoint comes from `jax.vjp`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from specnorm._internal import LinearOperator, Vector, check_function
from specnorm.errors import MethodError


def linear_operator(function: Callable[[Any], Any], x: Any) -> LinearOperator:
    """Make an operator for `specnorm.operator_norm` from a linear function of arrays.

    Parameters
    ----------
    function : callable
        A linear function from what ``x`` is to an array, or to a pytree of arrays, such as the differences along each
        axis. `operator_norm` compares it with its adjoint for a random pair of vectors.
    x : array or pytree of arrays
        Any arrays with the shapes and the real or complex dtypes that the function takes.

    Returns
    -------
    LinearOperator
        A complex number is two real ones, so that the norm is the same.

    Raises
    ------
    MethodError
        If a dtype is not floating.
    """
    check_function("function", function, "a linear function of arrays like x")
    _check_dtypes(x, "the argument x")
    y = jax.eval_shape(function, x)
    _check_dtypes(y, "the function's value")

    def adjoint(v: Any) -> Any:
        zero = jax.tree.map(jnp.zeros_like, x)
        _, pullback = jax.vjp(function, zero)
        # `vjp` transposes without a conjugate.
        (product,) = pullback(jax.tree.map(jnp.conj, v))
        return jax.tree.map(jnp.conj, product)

    matvec = _on_vectors(jax.jit(function), x)
    rmatvec = _on_vectors(jax.jit(adjoint), y)
    return LinearOperator(matvec, rmatvec, (sum(_sizes(y)), sum(_sizes(x))))


def _check_dtypes(tree: Any, words: str) -> None:
    """Refuse a pytree with a leaf that is no array of a real or complex floating dtype."""
    for leaf in jax.tree.leaves(tree):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
            given = type(leaf).__name__ if dtype is None else f"dtype {dtype}"
            raise MethodError(f"{words} has the {given}; expected arrays, real or complex floating.")


def _sizes(tree: Any) -> list[int]:
    """Numbers of real numbers in the arrays of a pytree; a complex one is two."""
    return [leaf.size * (2 if jnp.iscomplexobj(leaf) else 1) for leaf in jax.tree.leaves(tree)]


def _on_vectors(function: Callable[[Any], Any], argument: Any) -> Callable[[Vector], Vector]:
    """Convert a function of a pytree like ``argument`` to a function from float64 NumPy vectors to such vectors."""
    leaves, structure = jax.tree.flatten(argument)
    ends = np.cumsum(_sizes(argument))[:-1]

    def product(v: Vector) -> Vector:
        parts = []
        for part, leaf in zip(np.split(v, ends), leaves, strict=True):
            numbers = np.ascontiguousarray(part).view(np.complex128) if jnp.iscomplexobj(leaf) else part
            parts.append(jnp.asarray(numbers.reshape(leaf.shape), leaf.dtype))
        images = jax.tree.leaves(function(jax.tree.unflatten(structure, parts)))
        return np.concatenate([_as_vector(np.asarray(image)) for image in images])

    return product


def _as_vector(image: np.ndarray) -> Vector:
    """Convert an array to a float64 vector, a complex number to two."""
    if np.iscomplexobj(image):
        return np.ascontiguousarray(image, np.complex128).reshape(-1).view(np.float64)
    return image.astype(np.float64).reshape(-1)
