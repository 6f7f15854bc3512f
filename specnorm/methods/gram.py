"""Gram iteration: on the circular symbol at one size (Delattre et al., ICML 2023), else on the convolution itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from specnorm import arrays
from specnorm.certified.matrices import stacks
from specnorm.certified.symbol import gradients, symbols, trigonometric
from specnorm.methods.base import Evaluation, Needs, Stepped, check_count
from specnorm.methods.gram_taps import ZeroPaddedGram
from specnorm.numerics.schatten import schatten_gradient
from specnorm.problem.frequencies import half_grid
from specnorm.search.enclosing import grid_sizes
from specnorm.search.pruned import largest_bound

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import Array, ArrayOps, Namespace


@dataclass(frozen=True)
class Gram(Stepped):
    """Largest Schatten norm of order ``2**(n_iter + 1)`` over the DFT frequencies of a circular layer.

    Without ``input_shape``, and for other paddings, it is `ZeroPaddedGram`: a bound of sigma*.

    Parameters
    ----------
    n_iter : int, optional
        Gram products. The bound exceeds the circular norm by at most ``min(cin, cout)**(1 / 2**(n_iter + 1))``. None:
        6, or 3 for `ZeroPaddedGram`, whose taps double on every axis with each.

    References
    ----------
    .. [1] Delattre, Barthelemy, Araujo, Allauzen, "Efficient Bound of Lipschitz Constant for Convolutional Layers by
       Gram Iteration", ICML 2023, arXiv:2305.16173. Ours: power-of-two rescaling, half the frequencies, the symbol by
       matrix products instead of an FFT, and rounding counted.
    """

    n_iter: int | None = None

    name: ClassVar[str] = "gram"

    def __post_init__(self) -> None:
        if self.n_iter is not None:
            check_count("n_iter", self.n_iter)

    def needs(self, spec: ConvSpec) -> Needs:
        """An upper bound; what is proven is computed in the widest precision here."""
        return Needs(rounds="up", precision="mixed", small_products=True)

    def kind(self, spec: ConvSpec) -> Kind:
        """Upper."""
        return "upper"

    def check(self, spec: ConvSpec) -> None:
        """Circular at a size; anything else for every size at once, where the taps must be countable."""
        unbounded = self._on_unbounded_domain(spec)
        if unbounded is not None:
            unbounded.check(spec)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Bound every frequency's matrix, chunk by chunk, and keep the largest with its frequency."""
        xp = ops.xp
        unbounded = self._on_unbounded_domain(spec)
        if unbounded is not None:
            return unbounded.forward(blocks, spec, ops=ops)
        narrow, blocks = blocks.dtype, arrays.in_wide_dtype(blocks, ops=ops)
        count = self._circular_count()

        def bound(symbol: symbols.Symbol, *, ops: ArrayOps) -> Array:
            error = trigonometric.symbol_error(symbol.blocks, xp=xp)[:, None]
            return stacks.gram_iteration_up(symbol.matrices(), count, error, xp=ops.xp)

        frequencies = half_grid(grid_sizes(spec, spec.block_kernel_shape))
        value, phase = largest_bound(bound, blocks, frequencies, count, ops=ops)
        gamma = schatten_gradient(symbols.matrix_at(blocks, phase, xp=xp), value, count, xp=xp)
        dtype = arrays.complex_dtype(narrow, xp=xp)
        return Evaluation(value, (), tuple(xp.astype(x, dtype, copy=False) for x in (gamma, phase)))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
        """Schatten gradient at the arg-max frequency, carried back to the taps."""
        unbounded = self._on_unbounded_domain(spec)
        if unbounded is not None:
            return unbounded.pullback(residuals, cotangent, spec, xp=xp)
        gamma, phase = residuals
        gamma = gamma * xp.astype(cotangent, gamma.dtype)[:, None, None]
        return gradients.matrices_gradient(gamma[:, None, ...], phase[:, None, :], spec.block_kernel_shape, xp=xp)

    def _circular_count(self) -> int:
        return 6 if self.n_iter is None else self.n_iter

    def _on_unbounded_domain(self, spec: ConvSpec) -> ZeroPaddedGram | None:
        """The method that serves a geometry for every size at once, or None for a circular layer at one size."""
        if spec.padding_mode == "circular" and spec.input_shape is not None:
            return None
        return ZeroPaddedGram() if self.n_iter is None else ZeroPaddedGram(n_iter=self.n_iter)
