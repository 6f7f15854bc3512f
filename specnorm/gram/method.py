"""Gram iteration: bounds on a grid of frequencies, and norms of channels that rescale a kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from specnorm.backends import arrays
from specnorm.errors import GeometryError, MethodError
from specnorm.gram.proofs.powers import Powers, divisors, lag_norms, tap_grid
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
    """``d_i = (sum_{j,m} |R_t[i,j,m]|)**(1 / 2**t)``, rounded up; see `specnorm.gram.proofs.powers` for R_t.

    Let D be the diagonal matrix of the sums. ``D - H_t`` is diagonally dominant, so ``H_t <= D`` at every frequency.
    Square roots are operator monotone, so ``G* G <= D**(1 / 2**(t-1))``. So G has a norm of at most 1 if its column i
    is divided by d_i, for each channel i. Stride, dilation and zero padding do not raise the norm, and a transposed
    layer is an adjoint.

    Parameters
    ----------
    n_iter : int
        t, at least 1; 1 is AOL.

    References
    ----------
    .. [1] Prach, Lampert, "Almost-Orthogonal Layers for Efficient General-Purpose Lipschitz Networks", ECCV 2022.
    .. [2] Delattre, Barthelemy, Allauzen, "Spectral Norm of Convolutional Layers with Circular and Zero Paddings",
       2024, arXiv:2402.00240 (spectral rescaling).
    """

    n_iter: int = 1

    name: ClassVar = "channel_norms"

    def __post_init__(self) -> None:
        checks.count("n_iter", self.n_iter, least=1, most=checks.MOST_PRODUCTS)

    def needs(self, spec: ConvSpec) -> Needs:
        return Needs(
            rounds="up", precision="mixed", small_products=True, blocks=False, value_shape=self._value_shape(spec)
        )

    def check(self, spec: ConvSpec) -> None:
        """Refuse paddings that repeat pixels or outputs, and numbers of products whose taps do not fit the memory."""
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
        _require_taps_fit_memory(self.n_iter, spec.kernel_shape)

    def _value_shape(self, spec: ConvSpec) -> tuple[int, ...]:
        """One number for each group and channel of the smaller one of the kernel's first two axes."""
        return (spec.groups * min(spec.group_channels),)

    def forward_kernels(self, kernels: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        xp = ops.xp
        group_kernels = self._group_kernels(kernels, spec, xp=xp)
        if self.n_iter == 1:
            channel_norms, sums, lags = lag_norms(group_kernels, ops=ops)
            if not ops.differentiated:
                return self._evaluation(channel_norms, (), spec, xp=xp)
            signs = xp.astype(xp.sign(lags), group_kernels.dtype, copy=False)
            return self._evaluation(channel_norms, (group_kernels, signs, sums), spec, xp=xp)
        powers = Powers(group_kernels, self.n_iter, ops=ops)
        channel_norms, sums, values = powers.channel_norms()
        if not ops.differentiated:
            return self._evaluation(channel_norms, (), spec, xp=xp)
        count, p = channel_norms.shape
        eye = xp.eye(p, dtype=channel_norms.dtype, device=ops.device(kernels))
        every_channel = xp.broadcast_to(eye, (count, p, p))
        return self._evaluation(channel_norms, powers.residuals(values, every_channel, sums), spec, xp=xp)

    @staticmethod
    def _evaluation(
        channel_norms: Array,
        residuals: tuple[Array, ...],
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Evaluation:
        """Channel norms (b * groups, p) and residuals of their gradient, with an axis for the groups."""

        def by_group(x: Array) -> Array:
            return xp.reshape(x, (-1, spec.groups, *x.shape[1:]))

        norms_of_layers = xp.reshape(channel_norms, (-1, spec.groups * channel_norms.shape[1]))
        return Evaluation(norms_of_layers, (), tuple(by_group(x) for x in residuals))

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        flat = tuple(xp.reshape(x, (-1, *x.shape[2:])) for x in residuals)
        weights = xp.reshape(cotangent, (flat[0].shape[0], -1))
        if self.n_iter == 1:
            gradient = one_product_vjp(flat, weights, xp=xp)
        else:
            gradient = powers_vjp(flat, weights, self.n_iter, xp=xp)
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


_LARGEST_GRID = 2**22
"""Largest number of frequencies: with more, the taps of the last product would not fit any memory."""


def _require_taps_fit_memory(n_iter: int, kernel_shape: tuple[int, ...]) -> None:
    """Refuse a number of products whose taps fit no memory.

    Raises
    ------
    MethodError
    """
    points = math.prod(tap_grid(kernel_shape, n_iter))
    if points > _LARGEST_GRID:
        raise MethodError(
            f"n_iter={n_iter} makes more than {_LARGEST_GRID} taps out of a kernel {kernel_shape}: each product "
            "doubles their number on every axis. Use fewer (1 is the default)."
        )


# -- gradients ---------------------------------------------------------------------------------------------------------
def powers_vjp(
    residuals: tuple[Array, ...],
    cotangent: Array,
    n_iter: int,
    *,
    xp: Namespace,
) -> Array:
    """Gradient of ``sum_i c_i s_i**(1 / 2**t)`` with respect to the blocks, with t = n_iter.

    Here ``s_i = sum_{j,m} |R_t[i, j, m]|`` for channel i of the blocks, where R_t[:, :, m] are the taps of the Gram
    power ``H_t = (G*G)**(2**(t-1))``; see `specnorm.gram.proofs.powers`. With constant signs s_i is linear in
    R_t, so its gradient with respect to H_t at a frequency is a matrix Gamma. Going back, the squaring H -> H**2 maps
    the gradient Gamma to Gamma H + H Gamma, and G -> G* G maps it to G (Gamma + Gamma*). Gamma is made Hermitian at the
    start, so that one product gives both terms. Frequencies are processed in chunks, since the p x p matrix of a single
    frequency takes up to half the memory of a 3x3 kernel.

    Parameters
    ----------
    residuals : tuple of arrays
        As `specnorm.gram.proofs.powers.powers_residuals` returns them, for c chunks of f frequencies and r channels:
        the blocks; the signs of R_t for these channels, as functions of the frequency (b, c, f, p, r); the selector
        (b, p, r), whose columns are those of the identity for these channels; the sums s_i (b, p); the phases
        (b, c, f, taps).
    cotangent : array, shape (b, p)
        c_i.
    """
    given, signs, selector, sums, phase = residuals
    blocks = arrays.tall(given, xp=xp)
    kernel_shape = blocks.shape[3:]
    kernel_dtype = arrays.complex_dtype(blocks.dtype, xp=xp)
    product_dtype = phase.dtype
    # The divisor is that of the inverse Fourier transform from frequencies to taps.
    slope = _slopes_of_roots(sums, cotangent, n_iter, xp=xp) / math.prod(tap_grid(tuple(kernel_shape), n_iter))
    right = xp.astype(xp.matrix_transpose(selector * slope[:, :, None]), product_dtype)[:, None, :, :]

    def symbol(phases: Array) -> Array:
        return xp.astype(Polynomial(blocks, xp=xp).matrices_at(phases), product_dtype, copy=False)

    def gradient_of_chunk(chunk: int) -> Array:
        phases = xp.astype(phase[:, chunk, :, :], kernel_dtype, copy=False)
        powers = []
        if n_iter > 1:
            g = symbol(phases)
            powers.append(xp.matmul(arrays.adjoint(g, xp=xp), g))
            del g
        for _ in range(n_iter - 2):
            powers.append(xp.matmul(powers[-1], powers[-1]))
        left = xp.astype(signs[:, chunk, ...], product_dtype, copy=False)
        gamma = xp.matmul(left, right)
        gamma += xp.matmul(arrays.adjoint(right, xp=xp), arrays.adjoint(left, xp=xp))
        while powers:
            gamma = xp.matmul(gamma, powers.pop())
            gamma += arrays.adjoint(gamma, xp=xp)
        gamma = xp.astype(xp.matmul(symbol(phases), gamma), kernel_dtype, copy=False)
        return Polynomial.matrices_gradient(gamma, phases, tuple(kernel_shape), xp=xp)

    gradient = gradient_of_chunk(0)
    for chunk in range(1, phase.shape[1]):
        # A loop frees each chunk's gradient before the next one is made; `reduce` would not.
        gradient += gradient_of_chunk(chunk)
    return arrays.from_tall(gradient, given, xp=xp)


def _slopes_of_roots(sums: Array, cotangent: Array, n_iter: int, *, xp: Namespace) -> Array:
    """Derivative of ``sum_i c_i s_i**(1 / 2**t)`` with respect to the sums s (b, p); 0 where a sum is 0."""
    root = 2.0**-n_iter
    safe = xp.where(sums > 0, sums, 1.0)
    slope = xp.astype(cotangent, sums.dtype) * root * xp.pow(safe, xp.full_like(safe, root - 1))
    return xp.where(sums > 0, slope, 0.0)


def one_product_vjp(residuals: tuple[Array, ...], cotangent: Array, *, xp: Namespace) -> Array:
    """`powers_vjp` for n_iter = 1, where the value came from lags (`proofs.powers.lag_norms`) instead of frequencies.

    Parameters
    ----------
    residuals : tuple of arrays
        The blocks; the signs of R_1 (b, L, p, p), for half of the lags; the sums s_i (b, p).
    cotangent : array, shape (b, p)
        c_i.
    """
    blocks, signs, sums = residuals
    slope = _slopes_of_roots(sums, cotangent, 1, xp=xp)
    # A lag and its negative together add ``(w_i + w_j) |R_lag[i, j]|`` to the sum of ``w_i s_i``.
    weights = xp.astype(slope, signs.dtype) / 2
    slopes = signs * (weights[:, None, :, None] + weights[:, None, None, :])
    gradient = Lags.vjp(arrays.tall(blocks, xp=xp), slopes, xp=xp)
    return arrays.from_tall(gradient, blocks, xp=xp)
