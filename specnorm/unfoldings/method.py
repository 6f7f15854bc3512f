"""Norms of the kernel reshaped into matrices (Singla and Feizi 2019, 2021; Miyato et al. 2018).

For every split of the axes (cout, cin, *spatial) into rows and columns, ``sqrt(prod k_j) ||unfolding|| >= sigma*``.
Each norm is proven, not iterated: an unconverged power iteration would be below the truth.
"""

from __future__ import annotations

import functools
import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from specnorm.backends import arrays
from specnorm.errors import GeometryError
from specnorm.proofs import norms
from specnorm.proofs.bound import Upper
from specnorm.running.base import Evaluation, Method, Needs
from specnorm.unfoldings import reshaping as unfoldings
from specnorm.unfoldings.proof import supremum_up_from_unfolding
from specnorm.unfoldings.search import smallest_unfoldings

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec


def gradient_of_unfoldings(
    residuals: tuple[Array, ...],
    cotangent: Array,
    spec: ConvSpec,
    *,
    xp: Namespace,
) -> Array:
    """sqrt(taps) u v^T of each unfolding, as a block and weighted by its cotangent.

    ``residuals``: (u_1, v_1, u_2, v_2, ...), and for the bound by one unfolding of each block the numbers of these.
    """
    splits = unfoldings.unfolding_splits(spec.ndim)
    vectors, chosen = residuals[: 2 * len(splits)], residuals[2 * len(splits) :]
    if chosen:
        cotangent = arrays.one_hot(cotangent, chosen[0], len(splits), xp=xp)
    root = math.sqrt(math.prod(spec.block_kernel_shape))
    parts = (
        unfoldings.outer_blocks(u * (root * cotangent[:, j])[:, None], v, rows, spec.block_shape, xp=xp)
        for j, (u, v, rows) in enumerate(zip(vectors[::2], vectors[1::2], splits, strict=True))
        if u.shape[1]  # empty for unfoldings that are smallest for no block
    )
    total: Array = functools.reduce(operator.iadd, parts)
    return total


@dataclass(frozen=True)
class Unfoldings(Method):
    """The bounds by all ``2**(d+1) - 1`` unfoldings, as a 1-d value; each of them is an upper bound on sigma*.

    The first ``2**d`` have output channels in the rows and input channels in the columns (in 2-D the matrices R, S, T,
    U of the papers, in some order).

    References
    ----------
    .. [1] Singla, Feizi, "Bounding Singular Values of Convolution Layers", arXiv:1911.10258v1, 2019 (two of them).
    .. [2] Singla, Feizi, "Fantastic Four", ICLR 2021, theorem 1 (four of them).
    """

    name: ClassVar = "unfoldings"
    promise: ClassVar = "upper"

    def needs(self, spec: ConvSpec) -> Needs:
        return Needs(rounds="up", precision="wide", narrow_gradient=True, value_shape=self._value_shape(spec))

    def _value_shape(self, spec: ConvSpec) -> tuple[int, ...]:
        return (2 ** (spec.ndim + 1) - 1,)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        xp = ops.xp
        bounds: dict[int, Array] = {}
        vectors: dict[int, tuple[Array, Array]] = {}
        for members in unfoldings.unfoldings_by_shape(blocks, xp=xp):
            # One stack: a compiler has fewer loops to compile.
            stack = xp.stack([matrix for _, matrix, _ in members], axis=1)
            norm_bounds = norms.matrix_norm_up(stack, ops=ops)
            u, v = arrays.top_triple(stack, xp=xp)[:2] if ops.differentiated else (None, None)
            for j, (number, _, is_transposed) in enumerate(members):
                bounds[number] = norm_bounds[:, j]
                if u is not None and v is not None:
                    pair = (u[:, j, :], v[:, j, :])
                    vectors[number] = pair[::-1] if is_transposed else pair
        values = xp.stack([bounds[number] for number in sorted(bounds)], axis=1)
        value = supremum_up_from_unfolding(values, spec.block_kernel_shape, xp=xp)
        residuals = (vector for number in sorted(vectors) for vector in vectors[number])
        return Evaluation(value, (), tuple(residuals))

    pullback = staticmethod(gradient_of_unfoldings)


@dataclass(frozen=True)
class FantasticFour(Method):
    """The smallest of the unfolding bounds; its gradient is that of the smallest one.

    The papers take the four unfoldings (in 2-D) with both channels on different sides. The minimum here is over all
    ``2**(d+1) - 1``: the others are smaller for few channels and large kernels.
    """

    name: ClassVar = "f4"
    promise: ClassVar = "upper"
    asks: ClassVar = Needs(rounds="up", precision="mixed", narrow_gradient=True, small_products=True)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        xp = ops.xp
        if ops.concrete:
            bounds, residuals = smallest_unfoldings(blocks, ops=ops)
            return Evaluation(Upper.as_array(bounds, blocks, ops=ops), (), residuals, bounds)
        blocks = arrays.in_wide_dtype(blocks, ops=ops)
        unfoldings_of_blocks = Unfoldings().forward(blocks, spec, ops=ops)
        values = unfoldings_of_blocks.value
        smallest_unfolding = xp.argmin(values, axis=1)
        return Evaluation(xp.min(values, axis=1), (), (*unfoldings_of_blocks.residuals, smallest_unfolding))

    pullback = staticmethod(gradient_of_unfoldings)


@dataclass(frozen=True)
class Reshaped(Method):
    """The norm of the kernel reshaped to (cout, cin * taps), which "spectral normalization" takes for the layer's norm.

    With T the reshaped kernel, ``||T||**2 = ||mean over theta of G G*|| <= (sigma*)**2``. So it is a lower bound on
    sigma*. It is also one for the layer at a size at which some output reads a different pixel by each tap.

    References
    ----------
    .. [1] Miyato, Kataoka, Koyama, Yoshida, "Spectral Normalization for Generative Adversarial Networks", ICLR 2018,
       section 2.1 (the reshape), as in ``torch.nn.utils.spectral_norm``.
    """

    name: ClassVar = "reshaped"
    pullback = staticmethod(unfoldings.reshaped_gradient)
    promise: ClassVar = "lower"
    asks: ClassVar = Needs(rounds="down", precision="wide", narrow_gradient=True, small_products=True)

    def check(self, spec: ConvSpec) -> None:
        """Refuse input sizes at which no output reads a whole patch: there the value is not a bound."""
        if not spec.uses_every_tap_at_once:
            raise GeometryError(
                f"input_shape={spec.input_shape} is smaller than the kernel {spec.kernel_shape} with its dilation, or "
                f"its padding_mode={spec.padding_mode!r} hides it: no output reads a whole patch, and the reshaped "
                "kernel bounds nothing. Use conv_norm(kernel, input_shape) for the circular norm; power_norm(kernel, "
                "input_shape) is a lower bound for any padding."
            )

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        xp = ops.xp
        matrix = unfoldings.unfold(blocks, (0,), xp=xp)
        u, v, _ = arrays.top_triple(matrix, xp=xp)
        return Evaluation(norms.quotient_down(matrix, v, xp=xp), (), (u, v))
