"""Gram iteration on stacks of matrices: an upper bound at every count (Delattre et al., ICML 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from specnorm import arrays
from specnorm.certified.matrices import stacks
from specnorm.methods.base import Evaluation, Method, Needs, check_count
from specnorm.numerics.schatten import schatten_gradient

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import Array, ArrayOps, Namespace


@dataclass(frozen=True)
class GramIteration(Method):
    """Gram iteration of matrices: an upper bound at every count, rounding included (Delattre et al., ICML 2023).

    Parameters
    ----------
    n_iter : int
        Gram products; each halves the exponent of the excess: at most min(m, n)**(1 / 2**(n_iter + 1)).
    """

    n_iter: int = 6

    def __post_init__(self) -> None:
        check_count("n_iter", self.n_iter)

    name: ClassVar[str] = "gram_iteration"

    def needs(self, spec: ConvSpec) -> Needs:
        """An upper bound; what is proven is computed in the widest precision here."""
        return Needs(rounds="up", precision="mixed")

    def kind(self, spec: ConvSpec) -> Kind:
        """Upper."""
        return "upper"

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Iterate with rounding counted."""
        xp = ops.xp
        value = stacks.gram_iteration_up(arrays.in_wide_dtype(blocks, ops=ops), self.n_iter, xp=xp)
        return Evaluation(value, (), (blocks, xp.astype(value, blocks.dtype)))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
        """Gradient of the Schatten norm of order 2**(n_iter + 1)."""
        blocks, value = residuals
        gradient = schatten_gradient(blocks, value, self.n_iter, xp=xp)
        gradient *= cotangent[:, None, None]
        return gradient
