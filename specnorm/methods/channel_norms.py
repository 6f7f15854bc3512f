"""One number a channel, so that the kernel divided by them has norm at most 1: AOL and spectral rescaling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from specnorm import arrays
from specnorm.certified.symbol.gram_powers import Powers, divisors, lag_norms
from specnorm.certified.symbol.tap_powers import first_vjp, powers_vjp
from specnorm.errors import GeometryError
from specnorm.methods import requirements
from specnorm.methods.base import Evaluation, Method, Needs, check_count

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import Array, ArrayOps, Namespace


@dataclass(frozen=True)
class ChannelNorms(Method):
    """``d_i = (sum_{j,m} |R_t[i,j,m]|)**(1 / 2**t)``, rounded up; see `specnorm.certified.symbol.gram_powers` for R_t.

    With D the diagonal matrix of the sums, ``H_t <= D`` at every frequency, D - H_t being diagonally dominant; roots
    keep that order, so ``G* G <= D**(1 / 2**(t-1))``, and G over d has norm at most 1. Stride, dilation and zero
    padding do not raise it, and a transposed layer is an adjoint.

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

    name: ClassVar[str] = "channel_norms"
    promise: ClassVar[Kind] = "upper"

    def __post_init__(self) -> None:
        check_count("n_iter", self.n_iter, least=1)

    def needs(self, spec: ConvSpec) -> Needs:
        return Needs(
            rounds="up", precision="mixed", small_products=True, blocks=False, value_shape=self._value_shape(spec)
        )

    def check(self, spec: ConvSpec) -> None:
        """Every size at once, but for paddings that repeat pixels."""
        if spec.padding_mode in ("reflect", "replicate"):
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
        requirements.require_countable_taps(self.n_iter, spec.kernel_shape)

    def _value_shape(self, spec: ConvSpec) -> tuple[int, ...]:
        """One number for each group and channel of the kernel's smaller side, the second axis where equal."""
        first, second = block_channels(spec)
        return (spec.groups * min(first, second),)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        xp = ops.xp
        if self.n_iter == 1:
            groups = self._groups(blocks, spec, xp=xp)
            norms, sums, lags = lag_norms(groups, ops=ops)
            found: tuple[Array, ...] = (groups, xp.astype(xp.sign(lags), groups.dtype, copy=False), sums)
            return self._evaluation(norms, found, spec, xp=xp)
        work = Powers(self._groups(blocks, spec, xp=xp), self.n_iter, ops=ops)
        norms, sums, kept = work.channel_norms()
        p = norms.shape[1]
        eye = xp.eye(p, dtype=norms.dtype, device=ops.device(blocks))
        eye = xp.broadcast_to(eye, (norms.shape[0], p, p))
        found = work.residuals(kept, eye, sums)
        return self._evaluation(norms, found, spec, xp=xp)

    @staticmethod
    def _evaluation(norms: Array, residuals: tuple[Array, ...], spec: ConvSpec, *, xp: Namespace) -> Evaluation:
        """Norms (b * groups, p) and what their gradient needs, with the groups as an axis of its own."""

        def over_batch(x: Array) -> Array:
            return xp.reshape(x, (-1, spec.groups, *x.shape[1:]))

        return Evaluation(xp.reshape(norms, (-1, spec.groups * norms.shape[1])), (), tuple(map(over_batch, residuals)))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
        flat = tuple(xp.reshape(x, (-1, *x.shape[2:])) for x in residuals)
        weights = xp.reshape(cotangent, (flat[0].shape[0], -1))
        first_only = self.n_iter == 1
        gradient = first_vjp(flat, weights, xp=xp) if first_only else powers_vjp(flat, weights, self.n_iter, xp=xp)
        first, second = block_channels(spec)
        return xp.reshape(gradient, (cotangent.shape[0], spec.groups * first, second, *spec.kernel_shape))

    def _groups(self, kernels: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
        first, second = block_channels(spec)
        return xp.reshape(kernels, (kernels.shape[0] * spec.groups, first, second, *spec.kernel_shape))


def block_channels(spec: ConvSpec) -> tuple[int, int]:
    """Channels of one group along the kernel's first and second axis in torch's order."""
    first, second = (spec.cin, spec.cout) if spec.transposed else (spec.cout, spec.cin)
    return first // spec.groups, second // spec.groups


def rescaled(kernel: Array, norms: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """Divide a kernel as the caller stores it by its channel norms, so that rounding cannot lift it above 1."""
    first, second = block_channels(spec)
    shape = (first, second, *spec.kernel_shape)
    divisor = divisors(norms, shape, arrays.precision(kernel.dtype, norms.dtype, xp=xp), xp=xp)
    inputs = second <= first
    shape = (spec.groups, 1, second) if inputs else (spec.groups, first, 1)
    divisor = xp.broadcast_to(xp.reshape(divisor, shape), (spec.groups, first, shape[2]))
    divisor = xp.reshape(divisor, (spec.groups * first, shape[2]))
    ones = (1,) * len(spec.kernel_shape)
    if spec.layout is not None and spec.layout.endswith("IO"):
        divisor = xp.reshape(xp.matrix_transpose(divisor), (*ones, shape[2], spec.groups * first))
    else:
        divisor = xp.reshape(divisor, (spec.groups * first, shape[2], *ones))
    return xp.astype(xp.astype(kernel, norms.dtype) / divisor, kernel.dtype)
