"""Public functions for stacks of plain matrices; they return one value for each matrix."""

from __future__ import annotations

from typing import Any

from specnorm.backends import backend_for
from specnorm.backends.types import ArrayT
from specnorm.errors import MethodError
from specnorm.geometry import complex_kernels
from specnorm.geometry.layers import unwrapped
from specnorm.running.base import Plan
from specnorm.running.program import program_for
from specnorm.unfoldings.matrix_stacks import MatrixGramIteration, MatrixNorm, MatrixPowerIteration


def matrix_norm(a: ArrayT) -> ArrayT:
    """Spectral norm of each matrix of a stack.

    Parameters
    ----------
    a : array, shape (..., m, n)
        Floating. Complex matrices have no derivatives.

    Returns
    -------
    array, shape (...,)
        Exact up to a few rounding errors; differentiable if the library is.

    Notes
    -----
    For bounds on both sides that agree to ``rtol``, pass the matrix to `enclose`.

    Examples
    --------
    >>> import numpy, specnorm
    >>> stack = numpy.array([[[3.0, 0.0], [4.0, 5.0]], [[1.0, 2.0], [2.0, 4.0]]])
    >>> specnorm.matrix_norm(stack).round(4)  # sqrt(45) and 5
    array([6.7082, 5.    ])
    """
    return _stack(a, MatrixNorm())


def power_iteration(a: ArrayT, *, n_iter: int = 100, seed: int = 0) -> ArrayT:
    """Proven lower bound on the spectral norm of each matrix of a stack, by power iteration.

    Parameters
    ----------
    a : array, shape (..., m, n)
        Floating. Complex matrices have no derivatives.
    n_iter : int, default 100
        Number of products with ``a.T @ a``.
    seed : int, default 0
        Seed of the start vector.

    Returns
    -------
    array, shape (...,)
    """
    return _stack(a, MatrixPowerIteration(n_iter=n_iter, seed=seed))


def gram_iteration(a: ArrayT, *, n_iter: int = 6) -> ArrayT:
    """Proven upper bound on the spectral norm of each matrix of a stack, by Gram iteration.

    Parameters
    ----------
    a : array, shape (..., m, n)
        Floating. Complex matrices have no derivatives.
    n_iter : int, default 6
        Number of Gram products (Delattre et al., ICML 2023).

    Returns
    -------
    array, shape (...,)
    """
    return _stack(a, MatrixGramIteration(n_iter=n_iter))


def _stack(a: ArrayT, plan: Plan) -> ArrayT:
    """Run a plan for matrices on a stack, whose leading axes are the batch of the program."""
    x: Any = unwrapped(a)
    backend = backend_for(x)
    shape = tuple(x.shape)
    if len(shape) < 2:
        raise MethodError(f"array of shape {shape} is not a matrix: expected (..., m, n).")
    if complex_kernels.is_complex(x):
        axes = {"first_axis": len(shape) - 2, "second_axis": len(shape) - 1}
        found: ArrayT = complex_kernels.of_real_form(lambda form: _stack(form, plan), x, **axes)
        return found
    value: ArrayT = backend.apply(program_for(plan, shape[-2:], str(x.dtype), ()), x).value
    return value
