"""Linear operators from linear functions of JAX arrays; the adjoint comes from `jax.vjp`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from specnorm.errors import MethodError
from specnorm.plugin import LinearOperator, Vector


def linear_operator(function: Callable[[Any], Any], x: jax.Array) -> LinearOperator:
    """Make an operator for `specnorm.operator_norm` from a linear function of an array.

    Parameters
    ----------
    function : callable
        A linear function from arrays like ``x`` to an array. `operator_norm` compares it with its adjoint for a random
        pair of vectors.
    x : array
        Any array with the shape and the real dtype that the function takes.

    Returns
    -------
    LinearOperator

    Raises
    ------
    MethodError
        If a dtype is not real.
    """
    y = jax.eval_shape(function, x)
    is_real = jnp.issubdtype(x.dtype, jnp.floating) and jnp.issubdtype(y.dtype, jnp.floating)
    if not is_real:
        raise MethodError(f"the function takes {x.dtype} to {y.dtype}; both must be real floating point.")

    def adjoint(v: Any) -> Any:
        zero = jnp.zeros_like(x)
        _, pullback = jax.vjp(function, zero)
        (product,) = pullback(v)
        return product

    matvec = _on_vectors(jax.jit(function), x)
    rmatvec = _on_vectors(jax.jit(adjoint), y)
    return LinearOperator(matvec, rmatvec, (y.size, x.size))


def _on_vectors(function: Callable[[Any], Any], argument: Any) -> Callable[[Vector], Vector]:
    """Convert a function of arrays like ``argument`` to a function from float64 NumPy vectors to such vectors."""

    def product(v: Vector) -> Vector:
        array = jnp.asarray(v.reshape(argument.shape), argument.dtype)
        image = np.asarray(function(array), np.float64)
        return image.reshape(-1)

    return product
