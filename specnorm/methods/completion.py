"""Completion: a kernel H beside K whose identity ``K*K + H*H = U**2`` proves U, found by products alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from specnorm import arrays
from specnorm.methods.base import Evaluation, Needs, Stepped, check_count, check_rtol, weighted

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.certified.rounding import Rounds
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.search import completion as search
    from specnorm.types import ArrayOps


@dataclass(frozen=True)
class Completion(Stepped):
    """Upper bound of sigma* by a kernel H: whatever H is, the lags of ``K*K + H*H`` bound the norm of K.

    Parameters
    ----------
    rtol : float
        Where the search stops: relative distance of the bound from an estimate of the norm.
    n_iter : int, optional
        Products at most; None: 700, of which 1 % takes about 50 and 0.1 % some 130, and to begin a training as many as
        take about 5 s (30 at 256 channels of 3x3). 0: the bound of a random H.
    every : int
        In training, H is mended at every so many steps; in between the bound is renewed by the kernel's own lags.
    seed : int
        Of the H to begin with; the same on every backend.

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
    stats: ClassVar[Mapping[str, Rounds | None]] = {"iterations": None}
    bounds_at_every_step: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_rtol(self.rtol)
        if self.n_iter is not None:
            check_count("n_iter", self.n_iter)
        check_count("every", self.every, least=1)
        check_count("seed", self.seed)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Search from small random numbers."""
        scaled, exponent = arrays.scale(blocks, xp=ops.xp)
        found = self.searched(scaled, None, ops=ops)
        return self.evaluation(found.bound, found.products, found.gradient, exponent, ops=ops)

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """The derivative that the search or the step found."""
        return weighted(residuals, cotangent, xp=xp)

    def searched(self, scaled: Array, begin: Array | None, *, ops: ArrayOps) -> search.CompletionResult:
        """Search completions of scaled blocks."""
        from specnorm.search import completion as search  # here, since importing it takes a while

        return search.complete(scaled, begin, rtol=self.rtol, products=self.n_iter, seed=self.seed, ops=ops)

    @staticmethod
    def evaluation(
        bound: Array,
        products: Array,
        gradient: Array,
        exponent: Array,
        *,
        ops: ArrayOps,
    ) -> Evaluation:
        """Of scaled blocks, in their own scale."""
        bound = arrays.unscale(bound, ops.xp.astype(exponent, bound.dtype), xp=ops.xp)
        return Evaluation(bound, (products,), (gradient,))

    # -- in training -----------------------------------------------------------------------------------------------
    def state_shapes(self, spec: ConvSpec) -> Mapping[str, tuple[int, ...]]:
        """H and its lags, the power of two that both are scaled by, and the steps since H was mended."""
        from specnorm.search import completion as search  # here, since importing it takes a while

        h = search.completion_shape(spec.block_shape)
        lags = (math.prod(2 * k - 1 for k in h[2:]) // 2 + 1, h[1], h[1])
        return {"completion": h, "lags": lags, "exponent": (), "age": ()}

    def start(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> tuple[Array, ...]:
        """The search's H; of large layers, what some seconds bring: the steps mend it."""
        from specnorm.search import completion as search  # here, since importing it takes a while

        scaled, exponent = arrays.scale(blocks, xp=ops.xp)
        limit = search.products_in_time(spec.block_shape)
        few = limit < _FEW
        if few:
            warnings.warn(_too_large(spec), stacklevel=2)
        products = limit if self.n_iter is None else self.n_iter
        h = search.complete(
            scaled, rtol=self.rtol, products=products, seed=self.seed, from_isometry=few, ops=ops
        ).kernel
        return h, search.lags_of(h, ops=ops).values, exponent, ops.xp.zeros_like(exponent)

    def advance(
        self,
        blocks: Array,
        state: tuple[Array, ...],
        spec: ConvSpec,
        *,
        sweeps: int,
        ops: ArrayOps,
    ) -> tuple[Evaluation, tuple[Array, ...]]:
        """Mend H if it is time to, and bound the blocks by its lags and theirs."""
        from specnorm.certified import completion as rule
        from specnorm.search import completion as search  # here, since importing it takes a while

        xp = ops.xp
        h, lags, exponent_before, age = state
        scaled, exponent = arrays.scale(blocks, xp=xp)
        exponent = xp.where(xp.isfinite(exponent), exponent, exponent_before)
        change = exponent_before - exponent
        change = arrays.power_of_two(xp.where(xp.abs(change) > _FAR, xp.zeros_like(change), change), xp=xp)
        h, lags = (x * xp.reshape(y, (-1,) + (1,) * (x.ndim - 1)) for x, y in ((h, change), (lags, change * change)))
        own = search.lags_of(search.narrow(scaled, xp=xp), ops=ops)
        # Kept in another precision, by a cast of a whole model, they are the lags of another kernel.
        wrong = xp.any(rule.lost_digits(lags, xp=xp))
        due = xp.any(age + 1 >= self.every) if sweeps else wrong & False

        def mended(state: tuple[Array, ...]) -> tuple[Array, ...]:
            h, lags, age = state
            h = search.mend(scaled, h, own.values, arrays.in_wide_dtype(lags, ops=ops), sweeps, ops=ops)
            return h, lags, xp.zeros_like(age) - 1

        def renewed(state: tuple[Array, ...]) -> tuple[Array, ...]:
            (h,) = state[:1]
            return h, xp.astype(search.lags_of(h, ops=ops).values, h.dtype)

        h, lags, age = arrays.applied(mended, due, (h, lags, age), ops=ops)
        h, lags = arrays.applied(renewed, due | wrong, (h, lags), ops=ops)
        bound, gradient = search.bound_and_gradient(scaled, own, rule.stored_lags(h, lags, ops=ops), ops=ops)
        after = (h, lags, exponent, age + 1 if sweeps else age)
        return self.evaluation(bound, age, gradient, exponent, ops=ops), after


_FEW = 50
"""Products up to which a search ends before the bound is near the norm."""


def _too_large(spec: ConvSpec) -> str:
    """Return the message for a layer whose search is cut short."""
    channels = min(spec.block_shape[:2])
    return (
        f"Completion() is slow for {channels} channels (kernel {spec.block_shape}): the first bound takes some seconds "
        "and is loose, and each mending takes a tenth of that. SymbolNorm() follows the norm itself in less time; "
        "specnorm.rescale, or specnorm_torch.rescale_, proves the bound when the training is over."
    )


_FAR = 20
"""Powers of two by which a kernel may change its scale between two steps; beyond, H is taken to change with it."""
