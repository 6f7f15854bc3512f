"""Linear functions of arrays as operators, with their adjoints by `jax.vjp`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from specnorm.errors import MethodError
from specnorm.plugin import LinearOperator, Vector


def linear_operator(function: Callable[[Any], Any], x: jax.Array) -> LinearOperator:
    """Take a linear function of an array as an operator, for `specnorm.operator_norm`.

    Parameters
    ----------
    function : callable
        From arrays like ``x`` to an array; linear. `operator_norm` compares it with its adjoint for a random pair.
    x : array
        Of the shape and dtype (real) that the function takes; its values do not count.

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

    forward = _of_vectors(jax.jit(function), x)
    backward = _of_vectors(jax.jit(adjoint), y)
    return LinearOperator(forward, backward, (y.size, x.size))


def _of_vectors(function: Callable[[Any], Any], argument: Any) -> Callable[[Vector], Vector]:
    """Return a function of arrays like ``argument`` as one from vectors in float64 to such vectors."""

    def product(v: Vector) -> Vector:
        array = jnp.asarray(v.reshape(argument.shape), argument.dtype)
        image = np.asarray(function(array), np.float64)
        return image.reshape(-1)

    return product
