"""Miyato's heuristic: the norm of the kernel reshaped to (cout, cin*taps). A lower bound of sigma*."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from specnorm.certified.matrices import norms
from specnorm.certified.symbol import symbols
from specnorm.errors import GeometryError
from specnorm.methods.base import Evaluation, Method, Needs
from specnorm.problem import unfoldings

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import Array, ArrayOps, Namespace


@dataclass(frozen=True)
class Reshaped(Method):
    """``||K reshaped to (cout, cin*taps)||``, elsewhere sold as the layer's spectral norm.

    ``||T||**2 = ||mean over theta of G G*|| <= sigma***2``: a lower bound of sigma*, and of every layer with one output
    that sees a whole patch unwrapped (circular: input_shape >= kernel_shape).

    References
    ----------
    .. [1] Miyato, Kataoka, Koyama, Yoshida, "Spectral Normalization for Generative Adversarial Networks", ICLR 2018,
       section 2.1 (the reshape), as in ``torch.nn.utils.spectral_norm``.
    """

    name: ClassVar[str] = "reshaped"

    def needs(self, spec: ConvSpec) -> Needs:
        """A lower bound."""
        return Needs(rounds="down", precision="wide", narrow_gradient=True)

    def kind(self, spec: ConvSpec) -> Kind:
        """Lower."""
        return "lower"

    def check(self, spec: ConvSpec) -> None:
        """Refuse inputs of which no output reads a whole patch, where the reshape bounds nothing."""
        if not spec.reads_a_patch:
            raise GeometryError(
                f"input_shape={spec.input_shape} is smaller than the kernel {spec.kernel_shape} with its dilation, or "
                f"its padding_mode={spec.padding_mode!r} hides it: no output reads a whole patch, and the reshaped "
                "kernel bounds nothing. Use conv_norm(kernel, input_shape) for the circular norm; power_norm(kernel, "
                "input_shape) is a lower bound for any padding."
            )

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Quotient at the top singular vector, rounded down."""
        xp = ops.xp
        del spec, ops
        matrix = unfoldings.unfold(blocks, (0,), xp=xp)
        u, v, _ = symbols.top_triple(matrix, xp=xp)
        return Evaluation(norms.quotient_down(matrix, v, xp=xp), (), (u, v))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
        """Return u v^T, reshaped back."""
        u, v = residuals
        return unfoldings.outer_blocks(u * cotangent[:, None], v, (0,), spec.block_shape, xp=xp)
