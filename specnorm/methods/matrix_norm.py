"""Largest singular value of each matrix of a stack; a matrix is a kernel without spatial axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from specnorm.certified.matrices import norms, stacks
from specnorm.certified.symbol import symbols
from specnorm.methods.base import Evaluation, Method, Needs
from specnorm.search.constant import enclose_each

if TYPE_CHECKING:
    from specnorm.certified.rounding import Rounds
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import Array, ArrayOps, Namespace


@dataclass(frozen=True)
class MatrixNorm(Method):
    """Largest singular value from the smaller Gram matrix; at most the rounding recorded below the truth."""

    name: ClassVar[str] = "matrix_norm"
    stats: ClassVar[Mapping[str, Rounds | None]] = {"lower": "down", "upper": "up"}

    def needs(self, spec: ConvSpec) -> Needs:
        """An estimate between two proven bounds."""
        return Needs(precision="wide", narrow_gradient=True, small_products=True)

    def kind(self, spec: ConvSpec) -> Kind:
        """Exact: within [stats["lower"], stats["upper"]], a few roundings wide."""
        return "exact"

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Norm of A v at the top right singular vector."""
        xp = ops.xp
        found = enclose_each(blocks, ops=ops)
        if found is None:
            u, v, value = symbols.top_triple(blocks, xp=xp)
            return Evaluation(
                value, (norms.quotient_down(blocks, v, xp=xp), stacks.matrix_norm_up(blocks, ops=ops)), (u, v)
            )
        (u, v), lower, upper = found
        return Evaluation(
            xp.linalg.vector_norm(xp.matmul(blocks, v[..., None])[..., 0], axis=-1), (lower, upper), (u, v)
        )

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
        """Gradient u v^T of a simple singular value, weighted."""
        u, v = residuals
        return (u * cotangent[:, None])[:, :, None] * v[:, None, :]
