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
    image = jax.eval_shape(function, x)
    if not all(jnp.issubdtype(y.dtype, jnp.floating) for y in (x, image)):
        raise MethodError(f"the function takes {x.dtype} to {image.dtype}; both must be real floating point.")
    forward = jax.jit(function)
    backward = jax.jit(lambda u: jax.vjp(function, jnp.zeros_like(x))[1](u)[0])

    def between(product: Callable[[Any], Any], like: Any) -> Callable[[Vector], Vector]:
        return lambda v: np.asarray(product(jnp.asarray(v.reshape(like.shape), like.dtype)), np.float64).reshape(-1)

    return LinearOperator(between(forward, x), between(backward, image), (image.size, x.size))
