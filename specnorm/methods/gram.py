"""Gram iteration on the circular symbol: an upper bound at every iteration count (Delattre et al., ICML 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from specnorm import operators, rounding
from specnorm.frequencies import half_grid
from specnorm.methods.base import Evaluation, Method, check_count
from specnorm.methods.matrix import schatten_gradient

if TYPE_CHECKING:
    from specnorm.backends import Array, Backend
    from specnorm.conv import ConvSpec
    from specnorm.result import Kind
    from specnorm.rounding import Rounds


@dataclass(frozen=True)
class Gram(Method):
    """Largest Schatten norm of order ``2**(n_iter + 1)`` over the DFT frequencies of a circular layer.

    Parameters
    ----------
    n_iter : int
        Gram products. The bound exceeds the norm by at most ``min(cin, cout)**(1 / 2**(n_iter + 1))``.

    References
    ----------
    .. [1] Delattre, Barthelemy, Araujo, Allauzen, "Efficient Bound of Lipschitz Constant for Convolutional Layers by
       Gram Iteration", ICML 2023, arXiv:2305.16173. Ours: power-of-two rescaling, half the frequencies, the symbol by
       matrix products instead of an FFT, and rounding counted.
    """

    n_iter: int = 6

    name: ClassVar[str] = "gram"
    rounds: ClassVar[Rounds] = "up"
    wide: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("n_iter", self.n_iter)

    def kind(self, spec: ConvSpec) -> Kind:
        """Upper."""
        del spec
        return "upper"

    def check(self, spec: ConvSpec) -> None:
        """Circular at a given size only."""
        super().check(spec)
        operators.require_circular(spec, "gram_bound", "grid_bound(kernel) or f4_bound(kernel)")

    def forward(self, blocks: Array, spec: ConvSpec, *, xp: Any, backend: Backend) -> Evaluation:
        """Bound every frequency's matrix, chunk by chunk, and keep the largest with its frequency."""
        error = rounding.symbol_error(blocks, xp=xp)[:, None]

        def bound(symbol: operators.Symbol) -> Array:
            return rounding.gram_iteration_up(symbol.matrices(), self.n_iter, error, xp=xp)

        frequencies = half_grid(operators.circular_sizes(spec))
        value, phase = operators.largest(bound, blocks, frequencies, xp=xp, backend=backend)
        gamma = schatten_gradient(operators.matrix_at(blocks, phase, xp=xp), value, self.n_iter, xp=xp)
        return Evaluation(value, (), (gamma, phase))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
        """Schatten gradient at the arg-max frequency, carried back to the taps."""
        gamma, phase = residuals
        gamma = gamma * xp.astype(cotangent, gamma.dtype)[:, None, None]
        return operators.matrices_gradient(gamma[:, None, ...], phase[:, None, :], spec.block_kernel_shape, xp=xp)
