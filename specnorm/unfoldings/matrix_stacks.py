"""Norms of stacks of plain matrices, and their bounds. A matrix is a block (b, m, n) without spatial axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs import norms
from specnorm.running import checks
from specnorm.running.base import Evaluation, Needs, Plan
from specnorm.supremum.one_tap import enclose_each
from specnorm.symbols import power
from specnorm.unfoldings.reshaping import reshaped_gradient

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec


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


@dataclass(frozen=True)
class MatrixPowerIteration(Plan):
    """Power iteration on A*A from a seeded start: a proven lower bound after any number of steps.

    Parameters
    ----------
    n_iter : int
        Number of products with A*A.
    seed : int
        Seed of the start vectors.
    """

    n_iter: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        checks.count("n_iter", self.n_iter, most=checks.MOST_ROUNDS)
        checks.count("seed", self.seed)

    name: ClassVar = "power_iteration"
    pullback = staticmethod(reshaped_gradient)
    asks: ClassVar = Needs(rounds="down", precision="wide", narrow_gradient=True)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Lower bounds (b,), which any v gives; the residuals are u (b, m) and v (b, n), for the gradient."""
        xp = ops.xp
        start = np.real(arrays.random_vectors(self.seed, (1, blocks.shape[2])))
        v = ops.from_numpy(start.astype(np.float64 if blocks.dtype == xp.float64 else np.float32), blocks)
        v = xp.broadcast_to(v, (blocks.shape[0], blocks.shape[2]))
        apply, adjoint = power.matrix_maps(blocks, xp=xp)

        u, _ = arrays.normalise(apply(v), xp=xp)

        def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
            u, v = state
            v, _ = arrays.normalise_or_keep(adjoint(u), v, xp=xp)
            return arrays.normalise(apply(v), xp=xp)[0], v

        u, v = arrays.repeated(step, self.n_iter, (u, v), ops=ops)
        return Evaluation(norms.quotient_down(blocks, v, xp=xp), (), (u, v))


@dataclass(frozen=True)
class MatrixGramIteration(Plan):
    """Gram iteration of matrices: a proven upper bound after any number of products (Delattre et al., ICML 2023).

    Parameters
    ----------
    n_iter : int
        Number of Gram products. The bound is at most ``min(m, n)**(1 / 2**(n_iter + 1))`` times the norm.
    """

    n_iter: int = 6

    def __post_init__(self) -> None:
        checks.count("n_iter", self.n_iter, most=checks.MOST_PRODUCTS)

    name: ClassVar = "gram_iteration"
    asks: ClassVar = Needs(rounds="up", precision="mixed")

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        xp = ops.xp
        value = norms.gram_iteration_up(arrays.in_wide_dtype(blocks, ops=ops), self.n_iter, xp=xp)
        return Evaluation(value, (), (blocks, xp.astype(value, blocks.dtype)))

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """Gradient of the bound."""
        blocks, value = residuals
        gradient = arrays.gram_gradient(blocks, value, self.n_iter, xp=xp)
        gradient *= cotangent[:, None, None]
        return gradient
