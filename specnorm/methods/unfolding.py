"""Unfolding bounds and Fantastic Four: norms of the kernel reshaped into matrices (Singla and Feizi 2019, 2021).

For every split of the axes (cout, cin, *spatial) into rows and columns, ``sqrt(prod k_j) ||unfolding|| >= sigma*``.
Each norm is proven, not iterated: an unconverged power iteration would be below the truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from specnorm.certified.matrices import stacks
from specnorm.certified.matrices.unfolding import with_taps
from specnorm.certified.symbol import symbols
from specnorm.methods.base import Evaluation, Method, Needs
from specnorm.problem import unfoldings

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import Array, ArrayOps, Namespace


@dataclass(frozen=True)
class Unfoldings(Method):
    """All ``2**(d+1) - 1`` unfolding bounds, as one 1-d value; each is an upper bound on its own.

    The first ``2**d`` separate the channels (in 2-D: R, S, T, U of the papers in some order), the others do not.

    References
    ----------
    .. [1] Singla, Feizi, "Bounding Singular Values of Convolution Layers", arXiv:1911.10258v1, 2019 (two of them).
    .. [2] Singla, Feizi, "Fantastic Four", ICLR 2021, theorem 1 (four of them).
    """

    name: ClassVar[str] = "unfoldings"

    def needs(self, spec: ConvSpec) -> Needs:
        """Upper bounds."""
        return Needs(rounds="up", precision="wide", narrow_gradient=True, value_shape=self._value_shape(spec))

    def kind(self, spec: ConvSpec) -> Kind:
        """Upper at every input size (`ConvSpec.sizes`): the bound is on sigma*, the supremum over sizes."""
        return "upper"

    def _value_shape(self, spec: ConvSpec) -> tuple[int, ...]:
        """One value a split."""
        return (2 ** (spec.ndim + 1) - 1,)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Prove every unfolding's norm."""
        xp = ops.xp
        bounds, residuals = [], []
        for rows in unfoldings.unfolding_splits(spec.ndim):
            matrix = unfoldings.unfold(blocks, rows, xp=xp)
            bounds.append(stacks.matrix_norm_up(matrix, ops=ops))
            residuals += list(symbols.top_triple(matrix, xp=xp)[:2])
        value = with_taps(xp.stack(bounds, axis=1), spec.block_kernel_shape, xp=xp)
        return Evaluation(value, (), tuple(residuals))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
        """sqrt(taps) u v^T of each unfolding, as a block and weighted by its cotangent."""
        root = math.sqrt(math.prod(spec.block_kernel_shape))
        total: Array | None = None
        for j, rows in enumerate(unfoldings.unfolding_splits(spec.ndim)):
            u, v = residuals[2 * j], residuals[2 * j + 1]
            if not u.shape[1]:
                continue  # left out: no block's smallest
            part = unfoldings.outer_blocks(u * (root * cotangent[:, j])[:, None], v, rows, spec.block_shape, xp=xp)
            if total is None:
                total = part
            else:
                total += part
            del part
        assert total is not None  # for the type checker: some unfolding is kept
        return total
