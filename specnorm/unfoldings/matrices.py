"""Norms of stacks of plain matrices. A matrix is a block (b, m, n) without spatial axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from specnorm.backends import arrays, backend_for
from specnorm.backends.types import ArrayT
from specnorm.errors import MethodError
from specnorm.geometry import complex_kernels
from specnorm.geometry.layers import unwrapped
from specnorm.proofs import norms
from specnorm.running.base import Evaluation, Needs, Plan
from specnorm.running.program import program_for
from specnorm.supremum.one_tap import enclose_each
from specnorm.unfoldings.reshaping import reshaped_gradient

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec


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
    x: Any = unwrapped(a)
    backend = backend_for(x)
    shape = tuple(x.shape)
    if len(shape) < 2:
        raise MethodError(f"array of shape {shape} is not a matrix: expected (..., m, n).")
    if complex_kernels.is_complex(x):
        axes = {"first_axis": len(shape) - 2, "second_axis": len(shape) - 1}
        found: ArrayT = complex_kernels.of_real_form(matrix_norm, x, **axes)
        return found
    value: ArrayT = backend.apply(program_for(MatrixNorm(), shape[-2:], str(x.dtype), ()), x).value
    return value


@dataclass(frozen=True)
class MatrixNorm(Plan):
    """The largest singular value; the figures ``lower`` and ``upper`` are proven bounds of it."""

    name: ClassVar = "matrix_norm"
    pullback = staticmethod(reshaped_gradient)
    asks: ClassVar = Needs(precision="wide", narrow_gradient=True, small_products=True)
    stats: ClassVar = {"lower": "down", "upper": "up"}

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        xp = ops.xp
        enclosure = enclose_each(blocks, ops=ops)
        # None for small matrices, where values cannot be read, and where Lanczos or its proof did not come close.
        if enclosure is None:
            u, v, value = arrays.top_triple(blocks, xp=xp)
            lower = norms.quotient_down(blocks, v, xp=xp)
            upper = norms.matrix_norm_up(blocks, ops=ops)
        else:
            (u, v), lower, upper = enclosure
            value = xp.linalg.vector_norm(xp.matmul(blocks, v[..., None])[..., 0], axis=-1)
        return Evaluation(value, (lower, upper), (u, v))
