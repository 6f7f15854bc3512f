"""Completion: an upper bound of the norm of K by a second kernel H with ``K*K + H*H`` close to ``U**2 I``.

H is found by matrix products alone. The proof is in `specnorm.completion.proof`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from specnorm.backends import arrays
from specnorm.completion.proof import bounds_by_completions
from specnorm.errors import MethodError
from specnorm.running.base import MOST_ROUNDS, Evaluation, Needs, Stepped, check_count, check_rtol
from specnorm.symbols.proofs.padding import bounds_by_blocks

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.completion import search as completion_search
    from specnorm.geometry.spec import ConvSpec
    from specnorm.running.base import Claims, FigureRule, Kind

_FAR = 20
"""Largest change of the kernel's exponent between two training steps up to which the numbers of H are rescaled, so that
H itself stays the same. After a larger change its numbers stay as they are, so that H follows the kernel's scale."""
_LARGEST_TABLE = 2**27
"""Most entries of the table of lags at frequencies: a gigabyte."""
_PRODUCTS_FOR_A_CLOSE_BOUND = 50
"""A search with fewer products than this ends with a loose bound."""


@dataclass(frozen=True)
class Completion(Stepped):
    """Upper bound of sigma* by a kernel H: for every H, the lags of ``K*K + H*H`` bound the norm of K.

    Lag t is the matrix ``M_t = sum_y (K_y^T K_{y+t} + H_y^T H_{y+t})`` over all taps y. ``||K||**2`` is at most
    ``||M_0|| + sum over t != 0 of ||M_t||``.

    Parameters
    ----------
    rtol : float
        Relative distance of the bound from an estimate of the norm at which the search stops.
    n_iter : int, optional
        Largest number of products in the search for H. Each of them is two operations: the lags of a pair of kernels,
        and the adjoint of that map. A distance of 1 % takes about 50 products, one of 0.1 % about 130.

        * None: 700, and at the start of a training as many as take about 5 s (30 for a 3x3 kernel with 256 channels).
        * 0: the bound of a random H.
    every : int
        In training, H is improved once in this many steps. In the steps between, the bound is computed from the
        kernel's new lags and the lags of the old H.
    seed : int
        Seed of the first H, which is the same on every backend.

    References
    ----------
    .. [1] Dritschel, "On factorization of trigonometric polynomials", Integral Equations Operator Theory 49, 2004.
    .. [2] Dumitrescu, "Positive Trigonometric Polynomials and Signal Processing Applications", Springer, 2007.
    """

    rtol: float = 1e-2
    n_iter: int | None = None
    every: int = 4
    seed: int = 0

    name: ClassVar[str] = "completion"
    promise: ClassVar[Kind] = "upper"
    asks: ClassVar[Needs] = Needs(rounds="up", precision="mixed", small_products=True, scaled=False)
    stats: ClassVar[Mapping[str, FigureRule]] = {"iterations": "max"}
    bounds_at_every_step: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_rtol(self.rtol)
        if self.n_iter is not None:
            check_count("n_iter", self.n_iter, most=MOST_ROUNDS)
        check_count("every", self.every, least=1)
        check_count("seed", self.seed)

    def check(self, spec: ConvSpec) -> None:
        """Refuse kernels with so many taps that the table of their lags takes gigabytes."""
        lags = math.prod(2 * k - 1 for k in spec.block_kernel_shape)
        if lags**2 > 4 * _LARGEST_TABLE:
            raise MethodError(
                f"a completion of a kernel {spec.block_kernel_shape} takes a table of {lags // 2} x {lags // 2} "
                f"numbers, more than {_LARGEST_TABLE}. Use enclose(kernel) or grid_bound(kernel)."
            )

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Search for H, beginning with small random numbers; the figure ``iterations`` is the number of products."""
        scaled, exponent = arrays.scale(blocks, xp=ops.xp)
        result = self.search_from(None, scaled, ops=ops)
        uppers = partial(bounds_by_completions, scaled, result.kernel, exponent, ops=ops)
        claims = partial(bounds_by_blocks, uppers, spec)
        return self.evaluation(result.bound, result.products, result.gradient, exponent, claims, ops=ops)

    def search_from(
        self,
        start: Array | None,
        scaled: Array,
        *,
        ops: ArrayOps,
    ) -> completion_search.CompletionResult:
        """Search for completions H of scaled blocks, from ``start`` or, if it is None, from random kernels."""
        from specnorm.completion import search as completion_search  # imported here: it takes a while

        return completion_search.complete(
            scaled,
            start,
            rtol=self.rtol,
            products=self.n_iter,
            seed=self.seed,
            ops=ops,
        )

    @staticmethod
    def evaluation(
        bound: Array,
        products: Array,
        gradient: Array,
        exponent: Array,
        claims: Claims | None = None,
        *,
        ops: ArrayOps,
    ) -> Evaluation:
        """The evaluation of blocks, from bounds of the blocks times ``2**-exponent``."""
        bound = arrays.unscale(bound, ops.xp.astype(exponent, bound.dtype), xp=ops.xp)
        return Evaluation(bound, (products,), (gradient,), claims)

    # -- in training -----------------------------------------------------------------------------------------------
    def state_shapes(self, spec: ConvSpec) -> Mapping[str, tuple[int, ...]]:
        """H, the exponent of its scale, and the number of steps since H was improved."""
        from specnorm.completion import search as completion_search  # imported here: it takes a while

        return {"completion": completion_search.completion_shape(spec.block_shape), "exponent": (), "age": ()}

    def start(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> tuple[Array, ...]:
        """The H of a search. For large layers the search ends after some seconds; training steps improve H further."""
        from specnorm.completion import search as completion_search  # imported here: it takes a while

        scaled, exponent = arrays.scale(blocks, xp=ops.xp)
        products_in_time = completion_search.products_in_time(spec.block_shape)
        is_large = products_in_time < _PRODUCTS_FOR_A_CLOSE_BOUND
        if is_large and self.n_iter is None:
            warnings.warn(_warning_of_slow_start(spec), stacklevel=2)
        result = completion_search.complete(
            scaled,
            rtol=self.rtol,
            products=products_in_time if self.n_iter is None else self.n_iter,
            seed=self.seed,
            from_isometry=is_large,
            ops=ops,
        )
        return result.kernel, exponent, ops.xp.zeros_like(exponent)

    def advance(
        self,
        blocks: Array,
        state: tuple[Array, ...],
        spec: ConvSpec,
        *,
        sweeps: int,
        ops: ArrayOps,
    ) -> tuple[Evaluation, tuple[Array, ...]]:
        """Improve H if it is due, and bound the blocks by their lags and the lags of H.

        The figure ``iterations`` is not a number of products in training, but the age of H: the number of steps since H
        was improved, before this step, or -1 if this step improves H.
        """
        from specnorm.completion import search as completion_search  # imported here: it takes a while
        from specnorm.symbols.proofs.lags import lags_of

        xp = ops.xp
        h, exponent_before, age = state
        scaled, exponent = arrays.scale(blocks, xp=xp)
        exponent = xp.where(xp.isfinite(exponent), exponent, exponent_before)
        # H is stored divided by 2**exponent_before; now the divisor is 2**exponent.
        change = exponent_before - exponent
        factor = arrays.power_of_two(xp.where(xp.abs(change) > _FAR, xp.zeros_like(change), change), xp=xp)
        h = h * xp.reshape(factor, (-1,) + (1,) * (h.ndim - 1))
        kernel_lags = lags_of(arrays.tall(scaled, xp=xp), wide=True, ops=ops)

        def improve(state: tuple[Array, ...]) -> tuple[Array, ...]:
            h, age = state
            old_lags = lags_of(h, wide=True, ops=ops).values
            h = completion_search.mend(scaled, h, kernel_lags.values, old_lags, sweeps, ops=ops)
            # The step that follows adds 1: the new state has the age 0.
            return h, xp.zeros_like(age) - 1

        if sweeps:
            h, age = arrays.applied(improve, xp.any(age + 1 >= self.every), (h, age), ops=ops)
        # The lags of H are computed at each step: stored ones would have to be believed.
        completion_lags = lags_of(h, wide=True, ops=ops)
        bound, gradient = completion_search.bound_and_gradient(scaled, kernel_lags, completion_lags, ops=ops)
        new_state = (h, exponent, age + 1 if sweeps else age)
        return self.evaluation(bound, age, gradient, exponent, ops=ops), new_state


def _warning_of_slow_start(spec: ConvSpec) -> str:
    """The warning for a layer whose first search is cut short."""
    channels = min(spec.block_shape[:2])
    return (
        f"Completion() is slow for {channels} channels (kernel {spec.block_shape}): the first bound takes some seconds "
        "and is loose, and each mending takes a tenth of that. SymbolNorm() follows the norm itself in less time; "
        "specnorm.rescale, or specnorm_torch.rescale_, proves the bound when the training is over."
    )
