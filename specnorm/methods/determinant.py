"""The determinant of a square circular layer at a size: a product over the DFT frequencies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from specnorm import arrays
from specnorm.certified.symbol import symbols
from specnorm.errors import GeometryError
from specnorm.methods.base import Evaluation, Method, Needs, require_exact, weighted
from specnorm.methods.fft import require_circular
from specnorm.numerics import gradients
from specnorm.problem.frequencies import Frequencies, half_grid, mirror_index

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.certified.rounding import Rounds
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import ArrayOps


@dataclass(frozen=True)
class LogDeterminant(Method):
    """Logarithm of the modulus of a layer's determinant, and its sign among the figures; not in ``METHODS``.

    The layer maps pixels and channels to as many, in the same order: the determinant is the product of those of
    ``sum_k K_k e^{i theta.(r k - before)}`` over the DFT frequencies, with dilation r and padding ``before`` in front.

    References
    ----------
    .. [1] Hoogeboom, van den Berg, Welling, "Emerging Convolutions for Generative Normalizing Flows", ICML 2019,
       section 4 (periodic convolutions).
    """

    name: ClassVar[str] = "slogdet"
    quantity: ClassVar[str] = "logarithm of the determinant"
    promise: ClassVar[Kind] = "exact"
    asks: ClassVar[Needs] = Needs(precision="wide", narrow_gradient=True, scaled=False, by_layer=True)
    stats: ClassVar[Mapping[str, Rounds | None]] = {"sign": None}

    def check(self, spec: ConvSpec) -> None:
        """Square, circular at a given size, without a stride."""
        require_circular(spec, "slogdet", "enclose_smallest and condition_number")
        require_exact(spec, "slogdet")
        if spec.cout != spec.cin or max(spec.stride, default=1) > 1:
            raise GeometryError(
                f"slogdet needs a square layer: {spec.cin} channels to {spec.cout} with stride={spec.stride} has no "
                "determinant. The singular values of every layer: singular_values(kernel, input_shape)."
            )

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        xp, groups, channels = ops.xp, spec.groups, spec.block_shape[0]
        grid = half_grid(spec.periods)
        counts = np.bincount(mirror_index(spec.periods), minlength=len(grid)).astype(float)
        # What tap 0 reads lies `before` pixels in front, which turns the sign at half a turn.
        before = np.asarray([pads[0] for pads in spec.padding], dtype=np.int64)
        halves = 2 * grid.numerators == np.asarray(spec.periods, dtype=np.int64)
        real = (halves | (grid.numerators == 0)).all(axis=1)
        turned = np.where((halves * before).sum(axis=1) * channels % 2 == 1, -1.0, 1.0)
        frequencies = Frequencies(grid.numerators * np.asarray(spec.dilation, dtype=np.int64), spec.periods)
        values: list[Array] = []
        factors: list[Array] = []
        slopes: list[Array] = []
        step = symbols.chunk_length(blocks, ops=ops)
        for start in range(0, len(grid), step):
            some = slice(start, start + step)
            symbol = symbols.Symbol(blocks, frequencies[some], ops=ops)
            matrices = symbol.matrices()
            signs, logs = xp.linalg.slogdet(matrices)
            weights = ops.from_numpy(counts[some], logs)
            ones, is_real = xp.ones_like(logs), ops.from_numpy(real[some], logs)
            own = xp.where(xp.real(signs) < 0, -ones, ones) * ops.from_numpy(turned[some], logs)
            values.append(xp.sum(logs * weights, axis=1))
            factors.append(xp.prod(xp.where(is_real, own, ones), axis=1))
            slopes.append(self._slope(matrices, logs, weights, symbol.phase, spec, ops=ops))
        total = xp.sum(xp.reshape(xp.sum(xp.stack(values, axis=1), axis=1), (-1, groups)), axis=1)
        sign = xp.prod(xp.reshape(xp.prod(xp.stack(factors, axis=1), axis=1), (-1, groups)), axis=1)
        sign = xp.where(xp.isfinite(total), sign, xp.zeros_like(sign))
        return Evaluation(total, (sign,), (sum(slopes[1:], slopes[0]),))

    @staticmethod
    def _slope(
        matrices: Array,
        logs: Array,
        weights: Array,
        phase: Array,
        spec: ConvSpec,
        *,
        ops: ArrayOps,
    ) -> Array:
        """Gradient of the weighted sum of logarithms, ``Re tr(G^-1 dG)`` each; none of singular matrices."""
        xp = ops.xp
        b, f, size, _ = matrices.shape
        eye = xp.eye(size, dtype=matrices.dtype, device=ops.device(matrices))
        usable = xp.isfinite(logs)[:, :, None, None]
        inverses = xp.linalg.inv(xp.where(usable, matrices, eye))
        inverses = xp.where(usable, inverses, xp.zeros_like(inverses))
        gamma = arrays.adjoint(inverses, xp=xp) * xp.astype(weights, inverses.dtype)[:, None, None]
        every = xp.broadcast_to(phase[None, ...], (b, f, math.prod(spec.block_kernel_shape)))
        return gradients.matrices_gradient(gamma, every, spec.block_kernel_shape, xp=xp)

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """The derivative that `forward` made."""
        every = xp.broadcast_to(cotangent[:, None], (cotangent.shape[0], spec.groups))
        return weighted(residuals, xp.reshape(every, (-1,)), xp=xp)
