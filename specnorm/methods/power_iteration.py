"""Power iteration on stacks of matrices: a lower bound at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from specnorm import arrays
from specnorm.certified.matrices import norms
from specnorm.methods.base import Evaluation, Method, Needs, check_count
from specnorm.numerics.power import matrix_maps, power_step

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import Array, ArrayOps, Namespace


@dataclass(frozen=True)
class PowerIteration(Method):
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

    def needs(self, spec: ConvSpec) -> Needs:
        """A lower bound."""
        return Needs(rounds="down", precision="wide", narrow_gradient=True)

    def kind(self, spec: ConvSpec) -> Kind:
        """Lower."""
        return "lower"

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Iterate, then take the quotient rounded down."""
        xp = ops.xp
        start = np.real(arrays.random_vectors(self.seed, (1, blocks.shape[2])))
        v = ops.from_numpy(start.astype(np.float64 if blocks.dtype == xp.float64 else np.float32), blocks)
        v = xp.broadcast_to(v, (blocks.shape[0], blocks.shape[2]))

        apply, adjoint = matrix_maps(blocks, xp=xp)

        def body(state: tuple[Array, ...]) -> tuple[Array, ...]:
            count, v = state
            return count + 1, power_step(apply, adjoint, v, normalise=arrays.normalise, xp=xp)[1]

        count = arrays.counter(blocks, ops=ops)
        _, v = ops.loop(lambda state: state[0] < self.n_iter, body, (count, v))
        u, _ = arrays.normalise(apply(v), xp=xp)
        return Evaluation(norms.quotient_down(blocks, v, xp=xp), (), (u, v))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
        """Gradient u v^T of a simple singular value, weighted."""
        u, v = residuals
        return (u * cotangent[:, None])[:, :, None] * v[:, None, :]
