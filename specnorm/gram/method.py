"""Gram iteration: bounds on a grid of frequencies, and norms of channels that rescale a kernel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from specnorm.backends import arrays
from specnorm.errors import GeometryError
from specnorm.gram.proof import divisors, lag_norms
from specnorm.grid.proof import grid_factor, largest_of_all, norms_by_grid, symbol_norms_up
from specnorm.grid.search import grid_points, largest_bound
from specnorm.proofs.bound import known
from specnorm.running import checks
from specnorm.running.base import Evaluation, Needs, Plan, Stepped
from specnorm.symbols.proofs.lags import Lags
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec

_FEW_CHANNELS = 24
"""Channels up to which all frequencies are visited, in the kernel's own precision: leaving some out takes longer."""
_FEW_ROWS = 2**10
"""Entries of the longer side up to which it is: the rounding of the first product grows with them."""


@dataclass(frozen=True)
class Gram(Stepped):
    """Largest bound by Gram iteration, with trace and Frobenius norm, over a grid of frequencies.

    For a circular layer at a size, the grid is the layer's own. Otherwise it is that of
    `enclosure.frequency_grid.Grid`, and the largest bound times that grid's factor bounds sigma*.

    Parameters
    ----------
    n_iter : int
        Gram products. The bound at a frequency exceeds the norm by at most ``min(cin, cout)**(1 / 2**(n_iter + 1))``;
        it is exact where all singular values are equal.

    References
    ----------
    .. [1] Delattre, Barthelemy, Araujo, Allauzen, "Efficient Bound of Lipschitz Constant for Convolutional Layers by
       Gram Iteration", ICML 2023, arXiv:2305.16173. Ours: the trace (`norms.largest_eigenvalue_up`), power-of-two
       rescaling, half the frequencies, the symbol by matrix products instead of an FFT, rounding counted, and every
       size by a grid.
    """

    n_iter: int = 6

    name: ClassVar = "gram"
    promise: ClassVar = "upper"
    asks: ClassVar = Needs(rounds="up", precision="mixed", small_products=True)

    def __post_init__(self) -> None:
        checks.count("n_iter", self.n_iter, least=1, most=checks.MOST_PRODUCTS)

    def check(self, spec: ConvSpec) -> None:
        """Nothing to refuse.

        A circular layer need not be periodic: outputs that are left out do not raise the norm, and for outputs that are
        repeated the bound is multiplied by the root of `ConvSpec.padding_gain_sq`.
        """

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Bound every frequency's matrix, chunk by chunk, and keep the largest with its frequency."""
        xp = ops.xp
        kernel_dtype = blocks.dtype
        few, many = sorted(blocks.shape[1:3])
        is_small = 1 < few <= _FEW_CHANNELS and many <= _FEW_ROWS
        visits_all = is_small and ops.concrete and ops.exact_float32
        if not visits_all:
            blocks = arrays.in_wide_dtype(blocks, ops=ops)
        sizes = self._sizes(spec)
        bound = partial(symbol_norms_up, gram_products=self.n_iter)
        if visits_all:
            value, phase, on_grid = largest_of_all(bound, blocks, sizes, ops=ops)
        else:
            value, phase, on_grid = largest_bound(bound, blocks, sizes, self.n_iter, ops=ops)
        residuals: tuple[Array, ...] = ()
        if ops.differentiated:
            gamma = arrays.gram_gradient(Polynomial(blocks, xp=xp).matrix_at(phase), value, self.n_iter, xp=xp)
            dtype = arrays.complex_dtype(kernel_dtype, xp=xp)
            residuals = (xp.astype(gamma, dtype, copy=False), xp.astype(phase, dtype, copy=False))
        uppers = known(on_grid)
        if not _is_at_a_size(spec):
            uppers = norms_by_grid(uppers, xp=xp)
        return Evaluation(uppers.values, (), residuals, uppers)

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """Gradient at the arg-max frequency, carried back to the taps."""
        gamma, phase = residuals
        if not _is_at_a_size(spec):
            cotangent = cotangent * grid_factor(self._sizes(spec), spec.block_kernel_shape)
        gamma = gamma * xp.astype(cotangent, gamma.dtype)[:, None, None]
        return Polynomial.matrices_gradient(gamma[:, None, ...], phase[:, None, :], spec.block_kernel_shape, xp=xp)

    @staticmethod
    def _sizes(spec: ConvSpec) -> tuple[int, ...]:
        """Points of the grid along each axis."""
        kernel_shape = spec.block_kernel_shape
        return spec.grid_sizes(kernel_shape) if _is_at_a_size(spec) else grid_points(kernel_shape)


def _is_at_a_size(spec: ConvSpec) -> bool:
    """Whether the bound is that of a circular layer at one size."""
    return spec.padding_mode == "circular" and spec.input_shape is not None


@dataclass(frozen=True)
class ChannelNorms(Plan):
    """``d_i = sqrt(sum_{j,d} |R_d[i, j]|)`` with R_d the lags of ``G*G``, rounded up.

    Let D be the diagonal matrix of the sums. ``D - G*G`` is diagonally dominant, so ``G*G <= D`` at every frequency. So
    G has a norm of at most 1 if its column i is divided by d_i, for each channel i. Stride, dilation and zero padding
    do not raise the norm, and a transposed layer is an adjoint.

    References
    ----------
    .. [1] Prach, Lampert, "Almost-Orthogonal Layers for Efficient General-Purpose Lipschitz Networks", ECCV 2022.
    """

    name: ClassVar = "channel_norms"

    def needs(self, spec: ConvSpec) -> Needs:
        return Needs(
            rounds="up", precision="mixed", small_products=True, blocks=False, value_shape=self._value_shape(spec)
        )

    def check(self, spec: ConvSpec) -> None:
        """Refuse paddings that repeat pixels or outputs."""
        if spec.padding_mode not in ("circular", "zeros"):
            raise GeometryError(
                f"padding_mode={spec.padding_mode!r} repeats pixels, which raises the norm above the kernel's own. Use "
                "gram_rescaling without it, and divide by the padding's factor: see docs/guarantees.md."
            )
        extents = [r * (k - 1) for r, k in zip(spec.dilation, spec.kernel_shape, strict=True)]
        amounts = [before + after for before, after in spec.padding]
        if spec.padding_mode == "circular" and any(p > same for p, same in zip(amounts, extents, strict=True)):
            raise GeometryError(
                f"padding={spec.padding} with padding_mode='circular' repeats outputs, which raises the norm above the "
                "kernel's own. Use padding='same', or padding_mode='zeros'."
            )

    def _value_shape(self, spec: ConvSpec) -> tuple[int, ...]:
        """One number for each group and channel of the smaller one of the kernel's first two axes."""
        return (spec.groups * min(spec.group_channels),)

    def forward_kernels(self, kernels: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Norms of the channels of every group, (layers, groups * p); residuals with an axis for the groups."""
        xp = ops.xp
        group_kernels = self._group_kernels(kernels, spec, xp=xp)
        norms, sums, lags = lag_norms(group_kernels, ops=ops)
        residuals: tuple[Array, ...] = ()
        if ops.differentiated:
            signs = xp.astype(xp.sign(lags), group_kernels.dtype, copy=False)
            of_groups = (group_kernels, signs, sums)
            residuals = tuple(xp.reshape(x, (-1, spec.groups, *x.shape[1:])) for x in of_groups)
        return Evaluation(xp.reshape(norms, (-1, spec.groups * norms.shape[1])), (), residuals)

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        blocks, signs, sums = (xp.reshape(x, (-1, *x.shape[2:])) for x in residuals)
        weights = xp.reshape(cotangent, sums.shape)
        # The derivatives of ``sum_i c_i sqrt(s_i)`` with respect to the sums s; 0 where a sum is 0.
        slope = xp.where(sums > 0, xp.astype(weights, sums.dtype) / (2 * xp.sqrt(xp.where(sums > 0, sums, 1.0))), 0.0)
        # A lag and its negative together add ``(w_i + w_j) |R_lag[i, j]|`` to the sum of ``w_i s_i``.
        halves = xp.astype(slope, signs.dtype) / 2
        slopes = signs * (halves[:, None, :, None] + halves[:, None, None, :])
        gradient = arrays.from_tall(Lags.vjp(arrays.tall(blocks, xp=xp), slopes, xp=xp), blocks, xp=xp)
        return xp.reshape(gradient, (cotangent.shape[0], *spec.stored_channels, *spec.kernel_shape))

    def _group_kernels(self, kernels: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
        """The kernel of each group, shape (b * groups, first, second, *kernel_shape)."""
        return xp.reshape(kernels, (kernels.shape[0] * spec.groups, *spec.group_channels, *spec.kernel_shape))


def rescaled(kernel: Array, channel_norms: Array, spec: ConvSpec, dtype: Any, *, xp: Namespace) -> Array:
    """Divide a kernel as the caller stores it by its channel norms, so that rounding cannot lift its norm above 1.

    For `specnorm.gram_rescaling`. `divisors` counts two roundings of an entry: the quotient, and the conversion.

    Parameters
    ----------
    kernel : array
        In the dtype of the channel norms.
    channel_norms : array, shape (groups * min(first, second),)
        Of the channels of the axis with fewer of them, group by group.
    dtype
        Of the result; at most as precise.
    """
    first, second = spec.group_channels
    shape = (first, second, *spec.kernel_shape)
    precision = arrays.precision(dtype, channel_norms.dtype, xp=xp)
    divisor = divisors(channel_norms, shape, precision, xp=xp)
    # The norms are those of the axis with fewer channels (the second axis if they are equal); along the other one the
    # divisor is constant.
    columns = second if second <= first else 1
    by_group = xp.reshape(divisor, (spec.groups, -1, columns))
    divisor = xp.reshape(xp.broadcast_to(by_group, (spec.groups, first, columns)), (spec.groups * first, columns))
    spatial = (1,) * len(spec.kernel_shape)
    if spec.layout is not None and spec.layout.endswith("IO"):
        divisor = xp.reshape(xp.matrix_transpose(divisor), (*spatial, columns, spec.groups * first))
    else:
        divisor = xp.reshape(divisor, (spec.groups * first, columns, *spatial))
    return xp.astype(kernel / divisor, dtype, copy=False)
