"""The determinant of a square circular layer at one input size, as a product over the DFT frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from specnorm.backends import arrays, text
from specnorm.errors import GeometryError
from specnorm.proofs.frequencies import Frequencies
from specnorm.running.base import Evaluation, Needs, Plan
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec


@dataclass(frozen=True)
class LogDeterminant(Plan):
    """Logarithm of the absolute value of a layer's determinant; the figure ``sign`` is its sign.

    Inputs and outputs have the same pixels and channels, in the same order. The determinant is the product, over the
    DFT frequencies theta, of the determinants of the matrices ``sum_k K_k e^{i theta.(r k - before)}``, with dilation r
    and padding ``before`` in front.

    References
    ----------
    .. [1] Hoogeboom, van den Berg, Welling, "Emerging Convolutions for Generative Normalizing Flows", ICML 2019,
       section 4 (periodic convolutions).
    """

    name: ClassVar = "slogdet"
    asks: ClassVar = Needs(precision="wide", narrow_gradient=True, scaled=False, by_layer=True)
    stats: ClassVar = {"sign": None}

    def check(self, spec: ConvSpec) -> None:
        """Refuse layers that are not square, not circular at a given size, or strided."""
        spec.require_circular(
            "slogdet",
            at_every_size="enclose_smallest(kernel) and condition_number(kernel)",
            for_other_padding="A padded layer has its singular values instead: singular_values(kernel, input_shape).",
        )
        if spec.cout != spec.cin or max(spec.stride, default=1) > 1:
            raise GeometryError(
                f"slogdet needs a square layer: {text.counted(spec.cin, 'channel')} to {spec.cout} with "
                f"stride={spec.stride} has no determinant. The singular values of every layer: "
                "singular_values(kernel, input_shape)."
            )

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        xp = ops.xp
        blocks, exponent = self._in_range(blocks, xp=xp)
        grid, multiplicities = Frequencies.distinct_grid(spec.block_positions)
        is_real, shift_signs = self._real_points(grid, spec)
        # Taps r k of the layer are taps k of the blocks: a dilation r multiplies the frequency.
        frequencies = Frequencies(grid.numerators * np.asarray(spec.dilation, dtype=np.int64), spec.block_positions)
        logs_of_chunks: list[Array] = []
        signs_of_chunks: list[Array] = []
        gradients_of_chunks: list[Array] = []
        polynomial = Polynomial(blocks, xp=xp)
        step = polynomial.frequencies_at_once(ops=ops)
        for start in range(0, len(grid), step):
            chunk = slice(start, start + step)
            symbol = polynomial.at(frequencies[chunk], ops=ops)
            matrices = symbol.matrices()
            signs, logs = xp.linalg.slogdet(matrices)
            weights = ops.from_numpy(multiplicities[chunk].astype(float), logs)
            logs_of_chunks.append(xp.sum(logs * weights, axis=1))
            if ops.differentiated:
                gradients_of_chunks.append(self._gradient(matrices, logs, weights, symbol.phase, spec, ops=ops))
            # At a frequency where the symbol is not real, the determinants there and at its mirror image are
            # conjugates: their product is positive.
            one = xp.ones_like(logs)
            real_sign = xp.where(xp.real(signs) < 0, -one, one) * ops.from_numpy(shift_signs[chunk], logs)
            signs_of_points = xp.where(ops.from_numpy(is_real[chunk], logs), real_sign, one)
            signs_of_chunks.append(xp.prod(signs_of_points, axis=1))
        logs_of_blocks = xp.sum(xp.stack(logs_of_chunks, axis=1), axis=1)
        # A block times 2**-e has the determinant times 2**(-e n), for n pixels and channels.
        rows = math.prod(spec.block_positions) * spec.block_shape[0]
        logs_of_blocks = logs_of_blocks + exponent * (rows * math.log(2))
        total = xp.sum(xp.reshape(logs_of_blocks, (-1, spec.groups)), axis=1)
        signs_of_blocks = xp.prod(xp.stack(signs_of_chunks, axis=1), axis=1)
        sign = xp.prod(xp.reshape(signs_of_blocks, (-1, spec.groups)), axis=1)
        sign = xp.where(xp.isfinite(total), sign, xp.zeros_like(sign))
        residuals: tuple[Array, ...] = ()
        if ops.differentiated:
            gradient = sum(gradients_of_chunks[1:], gradients_of_chunks[0])
            residuals = (arrays.unscale_blocks(gradient, -exponent, xp=xp),)
        return Evaluation(total, (sign,), residuals)

    @staticmethod
    def _in_range(blocks: Array, *, xp: Namespace) -> tuple[Array, Array]:
        """Blocks times powers of two, so that no factorization leaves their dtype's range, and the exponents.

        Blocks within half of the range stay as they are, with exponent 0, so that nothing is added to their logarithms.
        """
        exponent = arrays.exponents(blocks, xp=xp)
        half_range = -math.log2(float(xp.finfo(blocks.dtype).smallest_normal)) / 2
        exponent = xp.where(xp.abs(exponent) > half_range, exponent, xp.zeros_like(exponent))
        return arrays.unscale_blocks(blocks, -exponent, xp=xp), exponent

    @staticmethod
    def _real_points(grid: Frequencies, spec: ConvSpec) -> tuple[np.ndarray, np.ndarray]:
        """Whether the symbol is real at each frequency, and the sign that padding gives its determinant: (f,) each."""
        # The factor e^{-i theta.before} is -1 for each channel if an odd number of axes has half a turn and odd
        # padding.
        before = np.asarray([pads[0] for pads in spec.padding], dtype=np.int64)
        is_half_turn = 2 * grid.numerators == np.asarray(spec.block_positions, dtype=np.int64)
        is_real = (is_half_turn | (grid.numerators == 0)).all(axis=1)
        sign_changes = (is_half_turn * before).sum(axis=1) * spec.block_shape[0]
        return is_real, np.where(sign_changes % 2 == 1, -1.0, 1.0)

    @staticmethod
    def _gradient(
        matrices: Array,
        logs: Array,
        weights: Array,
        phase: Array,
        spec: ConvSpec,
        *,
        ops: ArrayOps,
    ) -> Array:
        """Gradient, with respect to the blocks, of the weighted sum over frequencies of ``log |det G|``.

        The derivative of one term is ``Re tr(G^-1 dG)``. Singular matrices contribute 0.
        """
        xp = ops.xp
        b, f, size, _ = matrices.shape
        eye = xp.eye(size, dtype=matrices.dtype, device=ops.device(matrices))
        is_regular = xp.isfinite(logs)[:, :, None, None]
        inverses = xp.linalg.inv(xp.where(is_regular, matrices, eye))
        inverses = xp.where(is_regular, inverses, xp.zeros_like(inverses))
        symbol_gradients = arrays.adjoint(inverses, xp=xp) * xp.astype(weights, inverses.dtype)[:, None, None]
        phases = xp.broadcast_to(phase[None, ...], (b, f, math.prod(spec.block_kernel_shape)))
        return Polynomial.matrices_gradient(symbol_gradients, phases, spec.block_kernel_shape, xp=xp)
