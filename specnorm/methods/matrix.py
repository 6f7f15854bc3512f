"""Norms of stacks of matrices: exact, from below (power iteration) and from above (Gram iteration).

Not methods for layers (they are not in ``METHODS``), but run through the same program: a matrix is a kernel without
spatial axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from specnorm.linalg import arrays, symbols
from specnorm.methods.base import Evaluation, Method, check_count
from specnorm.proof import matrices

if TYPE_CHECKING:
    from specnorm.proof.rounding import Rounds
    from specnorm.result import Kind
    from specnorm.spec import ConvSpec
    from specnorm.types import Array, ArrayOps


class _OuterPullback(Method):
    """Gradient u v^T of a simple singular value."""

    outer_products: ClassVar[bool] = True

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
        """Return u v^T, weighted."""
        del spec, xp
        u, v = residuals
        return (u * cotangent[:, None])[:, :, None] * v[:, None, :]


@dataclass(frozen=True)
class MatrixNorm(_OuterPullback):
    """Largest singular value from the smaller Gram matrix; at most the rounding recorded below the truth."""

    name: ClassVar[str] = "matrix_norm"
    stats: ClassVar[Mapping[str, Rounds | None]] = {"lower": "down", "upper": "up"}
    wide: ClassVar[bool] = True

    def kind(self, spec: ConvSpec) -> Kind:
        """Exact: within [stats["lower"], stats["upper"]], a few roundings wide."""
        del spec
        return "exact"

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Norm of A v at the top right singular vector."""
        xp = ops.xp
        del spec
        u, v, value = symbols.top_triple(blocks, xp=xp)
        lower = matrices.quotient_down(blocks, v, xp=xp)
        upper = matrices.matrix_norm_up(blocks, ops=ops)
        return Evaluation(value, (lower, upper), (u, v))


@dataclass(frozen=True)
class PowerIteration(_OuterPullback):
    """Power iteration on A*A from a seeded start: a lower bound at every step, rounding included.

    Parameters
    ----------
    n_iter : int
        Products with A*A.
    seed : int
        Of the start vectors.
    """

    n_iter: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("n_iter", self.n_iter)

    name: ClassVar[str] = "power_iteration"
    rounds: ClassVar[Rounds] = "down"
    wide: ClassVar[bool] = True

    def kind(self, spec: ConvSpec) -> Kind:
        """Lower."""
        del spec
        return "lower"

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Iterate, then take the quotient rounded down."""
        xp = ops.xp
        del spec
        start = np.real(arrays.random_vectors(self.seed, (1, blocks.shape[2])))
        v = ops.from_numpy(start.astype(np.float64 if blocks.dtype == xp.float64 else np.float32), blocks)
        v = xp.broadcast_to(v, (blocks.shape[0], blocks.shape[2]))

        def body(state: tuple[Array, ...]) -> tuple[Array, ...]:
            count, v = state
            w, _ = arrays.normalise(xp.matmul(blocks, v[:, :, None])[:, :, 0], xp=xp)
            v, _ = arrays.normalise(xp.matmul(xp.matrix_transpose(blocks), w[:, :, None])[:, :, 0], xp=xp)
            return count + 1, v

        count = arrays.counter(blocks, ops=ops)
        _, v = ops.loop(lambda state: state[0] < self.n_iter, body, (count, v))
        u, _ = arrays.normalise(xp.matmul(blocks, v[:, :, None])[:, :, 0], xp=xp)
        return Evaluation(matrices.quotient_down(blocks, v, xp=xp), (), (u, v))


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
    rounds: ClassVar[Rounds] = "up"
    wide: ClassVar[bool] = True
    widens: ClassVar[bool] = True

    def kind(self, spec: ConvSpec) -> Kind:
        """Upper."""
        del spec
        return "upper"

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Iterate with rounding counted."""
        xp = ops.xp
        del spec
        value = matrices.gram_iteration_up(arrays.widened(blocks, ops=ops), self.n_iter, xp=xp)
        return Evaluation(value, (), (blocks, xp.astype(value, blocks.dtype)))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
        """Gradient of the Schatten norm of order 2**(n_iter + 1)."""
        del spec
        blocks, value = residuals
        gradient = schatten_gradient(blocks, value, self.n_iter, xp=xp)
        gradient *= cotangent[:, None, None]
        return gradient


def schatten_gradient(a: Array, value: Array, n_iter: int, *, xp: Any) -> Array:
    """Gradient A (A*A)**(2**n_iter - 1) / L**(2**(n_iter+1) - 1) of the Schatten norm L, for stacks (..., m, n).

    Everything is divided by L first, so the powers stay below 1. One running product: memory does not grow with the
    iterations, and is that of three such matrices.
    """
    safe = xp.where(value > 0, value, xp.ones_like(value))
    total = a / xp.astype(safe, a.dtype)[..., None, None]
    wide = a.shape[-1] > a.shape[-2]
    if wide:
        total = arrays.adjoint(total, xp=xp)
    if n_iter:
        power = xp.matmul(arrays.adjoint(total, xp=xp), total)
        total = xp.matmul(total, power)
    for _ in range(n_iter - 1):
        power = xp.matmul(power, power)
        total = xp.matmul(total, power)
    return arrays.adjoint(total, xp=xp) if wide else total
