"""Completion: an upper bound on the norm of K by a second kernel H with ``K*K + H*H`` close to ``U**2 I``.

H is found by matrix products alone. The proof is in `specnorm.completion.proof`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from specnorm.backends import arrays
from specnorm.backends.types import ArrayOps
from specnorm.completion import search as completion_search
from specnorm.completion.proof import bounds_by_completions
from specnorm.errors import MethodError
from specnorm.running import checks
from specnorm.running.base import Evaluation, Method, Needs

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.geometry.spec import ConvSpec

_LARGEST_TABLE = ArrayOps.memory // 8
"""Most entries of the table of lags at frequencies."""


@dataclass(frozen=True)
class Completion(Method):
    """Upper bound on sigma* by a kernel H: for every H, the lags of ``K*K + H*H`` bound the norm of K.

    Lag t is the matrix ``M_t = sum_y (K_y^T K_{y+t} + H_y^T H_{y+t})`` over all taps y. ``||K||**2`` is at most
    ``v + ||M_0 - v I||_F + sum over t != 0 of ||M_t||_F`` for every number v.

    Parameters
    ----------
    rtol : float
        Relative distance of the bound from an estimate of the norm at which the search stops.
    n_iter : int, optional
        Largest number of products in the search for H. Each of them is two operations: the lags of a pair of kernels,
        and the adjoint of that map. A distance of 1 % takes about 50 products, one of 0.1 % about 130.

        * None: 700.
        * 0: the bound of a random H.
    seed : int
        Seed of the first H, which is the same on every backend.

    Notes
    -----
    Entry of ``stats``: ``iterations``, the products of the search.

    References
    ----------
    .. [1] Dritschel, "On factorization of trigonometric polynomials", Integral Equations Operator Theory 49, 2004.
    .. [2] Dumitrescu, "Positive Trigonometric Polynomials and Signal Processing Applications", Springer, 2007.
    """

    rtol: float = 1e-2
    n_iter: int | None = None
    seed: int = 0

    name: ClassVar = "completion"
    promise: ClassVar = "upper"
    asks: ClassVar = Needs(rounds="up", precision="mixed", small_products=True, scaled=False)
    stats: ClassVar = {"iterations": "max"}

    def __post_init__(self) -> None:
        checks.rtol(self.rtol)
        if self.n_iter is not None:
            checks.count("n_iter", self.n_iter, most=checks.MOST_ROUNDS)
        checks.seed(self.seed)

    def check(self, spec: ConvSpec) -> None:
        """Refuse kernels with so many taps that the table of their lags takes gigabytes."""
        lags = math.prod(2 * k - 1 for k in spec.block_kernel_shape)
        if lags**2 > _LARGEST_TABLE:
            raise MethodError(
                f"a completion of a kernel {spec.block_kernel_shape} takes a table of {lags} x {lags} "
                f"numbers, more than {_LARGEST_TABLE}. Use enclose(kernel) or grid_bound(kernel)."
            )

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Search for H, beginning with small random numbers; the figure ``iterations`` is the number of products."""
        scaled, exponent = arrays.scale(blocks, xp=ops.xp)
        completions, bounds = self.search_from(None, scaled, exponent, ops=ops)
        uppers = bounds_by_completions(scaled, completions, exponent, ops=ops)
        return bounds._replace(value=uppers.values, proven=uppers)

    def search_from(
        self,
        start: Array | None,
        scaled: Array,
        exponent: Array,
        *,
        ops: ArrayOps,
    ) -> tuple[Array, Evaluation]:
        """Search for completions H of scaled blocks, from ``start`` or, if it is None, from random kernels.

        The bounds are those of the blocks times ``2**exponent``.
        """
        completions, bounds = completion_search.complete(
            scaled, start, rtol=self.rtol, products=self.n_iter, seed=self.seed, ops=ops
        )
        exponent = ops.xp.astype(exponent, bounds.value.dtype)
        return completions, bounds._replace(value=arrays.unscale(bounds.value, exponent, xp=ops.xp))
