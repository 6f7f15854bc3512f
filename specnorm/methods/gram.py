"""Gram iteration: on the circular symbol at one size, or of the convolution on an unbounded domain, at every size.

The Gram matrix of a convolution is a convolution: ``R_1[i, j, m] = sum_{o,k} K[o,i,k] K[o,j,k+m]`` with 2 k - 1 taps an
axis, and each further product doubles the degree. By the Schur test every channel's sum of absolute values counts:
``sigma*^(2^t) <= max_i sum_{j,m} |R_t[i,j,m]|``.

With as many outputs as inputs G G* serves as well as G* G, and its sums are others: the lower value counts.

R_t is the inverse Fourier transform of ``H_t = (G* G)^(2^(t-1))`` on a grid of ``2^t (k_j - 1) + 1`` points an axis,
where nothing aliases. So the products are products of small matrices, one for each frequency, and not of taps with
taps, whose cost grows with the square of their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from specnorm import arrays
from specnorm.certified.matrices import stacks
from specnorm.certified.symbol import gradients, symbols, trigonometric
from specnorm.certified.symbol.gradients import schatten_gradient
from specnorm.certified.symbol.gram_powers import Powers
from specnorm.certified.symbol.tap_powers import powers_vjp, sums_vjp
from specnorm.methods import requirements
from specnorm.methods.base import Evaluation, Method, Needs, Stepped, check_count
from specnorm.problem.frequencies import half_grid
from specnorm.search.enclosing import grid_sizes
from specnorm.search.pruned import largest_bound

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import Array, ArrayOps, Namespace


@dataclass(frozen=True)
class ZeroPaddedGram(Method):
    """Gram iteration of the convolution itself, a bound of sigma* and so of every input size and zero padding.

    Parameters
    ----------
    n_iter : int
        Gram products; 0 is the root of the largest row sum times the largest column sum. The bound exceeds sigma* by
        at most ``(min(cin, cout) prod_j (2**n_iter (k_j - 1) + 1))**(1 / 2**(n_iter + 1))``.

    References
    ----------
    .. [1] Delattre, Barthelemy, Allauzen, "Spectral Norm of Convolutional Layers with Circular and Zero Paddings",
       2024, arXiv:2402.00240. Ours: products at the frequencies of the last kernel's own grid, power-of-two scales,
       rounding counted.
    """

    n_iter: int = 3

    name: ClassVar[str] = "gram_zero"
    promise: ClassVar[Kind] = "upper"
    asks: ClassVar[Needs] = Needs(rounds="up", precision="mixed")

    def __post_init__(self) -> None:
        check_count("n_iter", self.n_iter)

    def check(self, spec: ConvSpec) -> None:
        """Every size at once, as long as the taps can be counted."""
        super().check(spec)
        requirements.require_countable_taps(self.n_iter, spec.block_kernel_shape)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Largest channel norm, with the signs of that channel's taps for the gradient; of two sides the lower one."""
        xp = ops.xp
        if self.n_iter == 0:
            wide = arrays.in_wide_dtype(blocks, ops=ops)
            return Evaluation(trigonometric.absolute_norm_up(wide, xp=xp), (), (blocks,))
        if blocks.shape[1] != blocks.shape[2]:
            return self._of_side(blocks, ops=ops)
        # The sums of G G* are other ones than those of G* G, and as cheap where there are as many of them.
        b, other = blocks.shape[0], arrays.swapped(blocks, xp=xp)
        if ops.concrete:
            sides = [self._of_side(x, ops=ops) for x in (blocks, other)]
            values, kept = [x.value for x in sides], [x.residuals for x in sides]
        else:
            found = self._of_side(xp.concat([blocks, other], axis=0), ops=ops)
            values = [found.value[:b], found.value[b:]]
            kept = [tuple(x[part, ...] for x in found.residuals) for part in (slice(0, b), slice(b, 2 * b))]
        lower = values[1] < values[0]

        def chosen(one: Array, two: Array) -> Array:
            return xp.where(xp.reshape(lower, (b,) + (1,) * (one.ndim - 1)), two, one)

        return Evaluation(chosen(*values), (), (*map(chosen, *kept), lower))

    def _of_side(self, blocks: Array, *, ops: ArrayOps) -> Evaluation:
        """By the sums of the side with fewer channels; the second one where there are as many."""
        xp = ops.xp
        work = Powers(
            blocks, self.n_iter, narrow=ops.concrete and ops.exact_float32 and blocks.dtype == xp.float32, ops=ops
        )
        norms, sums, kept = work.channel_norms()
        index = xp.argmax(norms, axis=1)
        one_hot = arrays.one_hot(xp.ones_like(norms[:, 0]), index, norms.shape[1], xp=xp)
        return Evaluation(xp.max(norms, axis=1), (), work.residuals(kept, one_hot[:, :, None], sums))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
        """Gradient of the largest channel's sum, taps' signs held fixed, through the squarings."""
        if self.n_iter == 0:
            return sums_vjp(residuals[0], cotangent, xp=xp)
        blocks, hats, selector, sums, phase, *other = residuals
        weights = xp.broadcast_to(cotangent[:, None], (blocks.shape[0], min(blocks.shape[1:3])))
        gradient = powers_vjp((blocks, hats, selector, sums, phase), weights, self.n_iter, xp=xp)
        if not other:
            return gradient
        return xp.where(
            xp.reshape(other[0], (-1,) + (1,) * (blocks.ndim - 1)), arrays.swapped(gradient, xp=xp), gradient
        )


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
    promise: ClassVar[Kind] = "upper"
    asks: ClassVar[Needs] = Needs(rounds="up", precision="mixed", small_products=True)

    def __post_init__(self) -> None:
        if self.n_iter is not None:
            check_count("n_iter", self.n_iter)

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
