"""How far a layer is from an isometry: ``| ||K x||**2 - s**2 ||x||**2 | <= eps s**2 ||x||**2``, by products alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np

from specnorm import arrays
from specnorm.certified import completion, rounding
from specnorm.certified.bound import as_array
from specnorm.certified.layer.uncut import has_unread_pixels, keeps_smallest
from specnorm.errors import GeometryError, MethodError
from specnorm.methods.base import Evaluation, Method, Needs, as_number, weighted
from specnorm.methods.ends import FIGURES, Ends, columns
from specnorm.problem import polyphase

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.certified.rounding import Rounds
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import ArrayOps

Form = Literal["bound", "lags"]
BEST = "best"
"""The scale whose square is the mean of the squared singular values."""
_FARTHEST = 56
"""Powers of four that a kernel is smaller than the scale from which the defect is 1, whatever else it is."""
_TINY = 1e-30


@dataclass(frozen=True)
class _Scaled(Method):
    """Base of both: which scale is meant, and which layers are served.

    Parameters
    ----------
    scale : float, "best" or None
        s; None: 1. "best": the s whose square is the mean of the squared singular values.
    """

    scale: float | Literal["best"] | None = None

    quantity: ClassVar[str] = "isometry defect"

    def __post_init__(self) -> None:
        if self.scale is None or self.scale == BEST:
            return
        scale = as_number("scale", self.scale)
        if not 2.0**-100 <= scale <= 2.0**100:
            raise MethodError(
                f'scale={self.scale!r} is not between 2**-100 and 2**100: give a positive number, or "best".'
            )

    @property
    def scale_sq(self) -> float:
        """S squared, to nearest; of a scale that is a number."""
        return float(self.scale or 1.0) ** 2

    def check(self, spec: ConvSpec) -> None:
        """Refuse layers whose borders cut taps off: they are no isometries, however close the convolution is to one."""
        if not keeps_smallest(spec):
            raise GeometryError(
                f"{self.name} is not known for padding_mode={spec.padding_mode!r} with padding={spec.padding}: where "
                'borders cut taps off, no layer is an isometry. Use padding_mode="circular" (the convolution itself).'
            )

    @staticmethod
    def of_adjoint(spec: ConvSpec) -> bool:
        """Whether it is the layer's adjoint that may be an isometry: the layer has fewer outputs than inputs."""
        first, second = spec.stored_channels
        fewer_rows = first // spec.groups < second * math.prod(spec.stride)
        return fewer_rows is not spec.transposed


@dataclass(frozen=True)
class Isometry(_Scaled):
    """Upper bound of the isometry defect by products alone: the sum of the norms of the lags of ``K*K - s**2 I``.

    All singular values lie between ``s sqrt(1 - eps)`` and ``s sqrt(1 + eps)``. Of a layer with fewer outputs than
    inputs, the adjoint is meant: the figure ``adjoint`` says so.

    Parameters
    ----------
    scale : float, "best" or None
        s; None: 1. "best": the s whose square is the mean of the squared singular values.
    form : {"bound", "lags"}
        The proven eps; or the sum of the squares of the lags of ``K*K - s**2 I``, which trains orthogonal layers
        (L_orth of Wang et al.) and bounds nothing.

    References
    ----------
    .. [1] Wang, Chen, Chakraborty, Yu, "Orthogonal Convolutional Neural Networks", CVPR 2020 (the sum of squares).
    .. [2] Achour, Malgouyres, Mamalet, "Existence, Stability and Scalability of Orthogonal Convolutional Neural
       Networks", JMLR 23, 2022, arXiv:2108.05623 (eps by the sum of squares, with factors of the sizes).
    """

    form: Form = "bound"

    name: ClassVar[str] = "isometry"
    promise: ClassVar[Kind] = "upper"
    stats: ClassVar[Mapping[str, Rounds | None]] = {"adjoint": None}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in get_args(Form):
            raise MethodError(f"form={self.form!r} is not one of {', '.join(map(repr, get_args(Form)))}.")

    def kind(self, spec: ConvSpec) -> Kind:
        return "upper" if self.form == "bound" else "estimate"

    def needs(self, spec: ConvSpec) -> Needs:
        rounds: Rounds = "up" if self.form == "bound" else "nearest"
        return Needs(rounds=rounds, precision="mixed", small_products=True, scaled=False, by_layer=True)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        from specnorm.search import completion as products  # here, since importing it takes a while

        xp, groups, shape = ops.xp, spec.groups, blocks.shape
        layers, exponent = arrays.scale(xp.reshape(blocks, (shape[0] // groups, -1)), xp=xp)
        scaled = products.narrow(xp.reshape(layers, shape), xp=xp)
        lags = completion.lags(scaled, ops=ops, wide=self.form == "bound")
        target = self._target(lags.values, exponent, groups, ops=ops)
        if self.form == "bound":
            value, slopes = self._bound(lags, target, spec, ops=ops)
            power = xp.zeros_like(exponent)
        else:
            value, slopes = self._squares(lags.values, target, groups, ops=ops)
            power = 4 * exponent  # squares of lags are fourth powers of the kernel
        gradient = products.in_rows(products.taps_of_slopes(scaled, slopes, ops=ops), blocks, xp=xp)
        shift = xp.reshape(_each(power - exponent, groups, xp=xp), (-1,) + (1,) * (blocks.ndim - 1))
        gradient = arrays.unscale(gradient, xp.astype(shift, gradient.dtype), xp=xp)
        value = arrays.unscale(value, xp.astype(power, value.dtype), xp=xp)
        adjoint = ops.from_numpy(np.full(shape[0] // groups, self.of_adjoint(spec)), blocks)
        return Evaluation(value, (adjoint,), (gradient,))

    @staticmethod
    def _at_size(spec: ConvSpec) -> bool:
        """Whether the layer is circular at one size: then its frequencies are known."""
        return spec.input_shape is not None and spec.periodic

    def _target(self, values: Array, exponent: Array, groups: int, *, ops: ArrayOps) -> Array:
        """S squared for the scaled kernels, shape (layers,); of a kernel of zeros and the best scale, 1."""
        xp, p = ops.xp, values.shape[-1]
        if self.scale == BEST:
            traces = xp.reshape(xp.linalg.trace(values[:, 0, ...]), (-1, groups))
            mean = xp.sum(traces, axis=1) / (groups * p)
            return xp.where(mean > 0, mean, xp.ones_like(mean))
        fraction, power = math.frexp(self.scale_sq)
        wanted = power - 2 * xp.astype(exponent, values.dtype)
        return fraction * arrays.power_of_two(xp.clip(wanted, -4000, _FARTHEST), xp=xp)

    def _bound(self, lags: completion.Lags, target: Array, spec: ConvSpec, *, ops: ArrayOps) -> tuple[Array, Array]:
        """Eps of each layer, and its derivatives with respect to the lags; those of negative lags are transposed."""
        from specnorm.certified import defect  # for those who call it

        xp, groups, (b, _, p, _) = ops.xp, spec.groups, lags.values.shape
        where = defect.wrapping(spec.block_kernel_shape, spec.grid_shape) if self._at_size(spec) else None
        lags = lags if where is None else defect.wrapped(lags, where, ops=ops)
        each = _each(target, groups, xp=xp)
        by_group = xp.reshape(defect.isometry_up(lags.values, lags.error, each, ops=ops), (-1, groups))
        largest, index = xp.max(by_group, axis=1), xp.argmax(by_group, axis=1)
        # The square of the scale is rounded, and so is the quotient.
        value = rounding.up(largest / target + 4 * rounding.unit(target, xp=xp), 6, xp=xp)
        # A kernel so much larger than s that the quotient is beyond all numbers.
        normal = target > 4 * float(xp.finfo(target.dtype).smallest_normal)
        value = xp.where(normal, value, xp.full_like(value, math.inf))
        # Beside s nothing is left of a kernel whose target was clipped: no defect is above 1. Unread pixels have 1.
        is_one = (target >= 2.0 ** (_FARTHEST - 1)) | has_unread_pixels(spec)
        factor = arrays.one_hot(xp.where(is_one & (value < 1), 0 * target, 1 / target), index, groups, xp=xp)
        slopes = self._lag_slopes(lags.values, each, ops=ops) * xp.reshape(factor, (b, 1, 1, 1))
        traces = xp.sum(xp.reshape(xp.linalg.trace(slopes[:, 0, ...]), (-1, groups)), axis=1)
        value = xp.where(is_one, xp.maximum(value, xp.ones_like(value)), value)
        slopes = slopes if where is None else defect.unwrapped(slopes, where, ops=ops)
        if self.scale != BEST:
            return value, slopes
        # The target is the mean of all groups' traces, and the defect falls as it grows.
        share = _each((traces + largest / target**2) / (groups * p), groups, xp=xp)
        first = completion.minus_identity(slopes[:, 0, ...], share, ops=ops)
        return value, xp.concat([first[:, None, ...], slopes[:, 1:, ...]], axis=1)

    @staticmethod
    def _lag_slopes(values: Array, target: Array, *, ops: ArrayOps) -> Array:
        """Derivatives of `isometry_up` with respect to the lags; none where a norm is not told from 0."""
        xp, p = ops.xp, values.shape[-1]
        first = completion.minus_identity(values[:, 0, ...], target, ops=ops)
        mean = xp.linalg.trace(first) / p
        spread = completion.minus_identity(first, mean, ops=ops)
        parts = xp.concat([first[:, None, ...], spread[:, None, ...], values[:, 1:, ...]], axis=1)
        norms = xp.linalg.vector_norm(parts, axis=(-2, -1))
        least = 8 * p * float(xp.finfo(values.dtype).eps) * target[:, None]
        units = parts * xp.where(norms > least, 1 / (norms + _TINY), xp.zeros_like(norms))[:, :, None, None]
        by_mean = (xp.abs(mean) + norms[:, 1] < norms[:, 0])[:, None, None]
        # The mean is a part of the identity: subtracting -sign / p of it adds the slope of its modulus.
        along = completion.minus_identity(units[:, 1, ...], -xp.sign(mean) / p, ops=ops)
        return xp.concat([xp.where(by_mean, along, units[:, 0, ...])[:, None, ...], units[:, 2:, ...]], axis=1)

    @staticmethod
    def _squares(
        values: Array,
        target: Array,
        groups: int,
        *,
        ops: ArrayOps,
    ) -> tuple[Array, Array]:
        """Sum of the squares of all lags of each layer, and its derivatives with respect to the lags."""
        xp, each = ops.xp, _each(target, groups, xp=ops.xp)
        first = completion.minus_identity(values[:, 0, ...], each, ops=ops)[:, None, ...]
        rest = values[:, 1:, ...]
        total = xp.sum(first**2, axis=(1, 2, 3)) + 2 * xp.sum(rest**2, axis=(1, 2, 3))
        return xp.sum(xp.reshape(total, (-1, groups)), axis=1), 2 * xp.concat([first, rest], axis=1)

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """The derivative that `forward` made."""
        return weighted(residuals, _each(cotangent, spec.groups, xp=xp), xp=xp)


def _each(x: Array, groups: int, *, xp: Namespace) -> Array:
    """Numbers of layers (l,) as those of their groups (l * groups,)."""
    return xp.reshape(xp.broadcast_to(x[:, None], (x.shape[0], groups)), (-1,))


@dataclass(frozen=True)
class IsometryEnds(_Scaled, Ends):
    """Proven interval around the isometry defect, by a search; not in ``METHODS``, since `Isometry` is its value.

    The value is the upper bound; the lower one is in the statistics.

    Parameters
    ----------
    scale : float, "best" or None
        As of `Isometry`.
    rtol : float
        Relative width asked for.
    max_cells : int
        Budget of the search for each group.
    budget : float, optional
        Seconds for one layer; what has not begun by then is not tried.
    """

    name: ClassVar[str] = "isometry_ends"
    promise: ClassVar[Kind] = "upper"
    asks: ClassVar[Needs] = Needs(rounds="up", precision="wide", scaled=False, by_layer=True, searches=True)
    stats: ClassVar[Mapping[str, Rounds | None]] = {"lower": "down", **dict.fromkeys((*FIGURES, "adjoint"))}

    def __post_init__(self) -> None:
        _Scaled.__post_init__(self)
        Ends.__post_init__(self)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        from specnorm.search.isometry import isometry_of_blocks  # here, since importing it takes a while

        claims, ended = [], []
        for layer in polyphase.by_layers(blocks, spec.groups):
            flat, exponent = arrays.scale(ops.xp.reshape(layer, (1, -1)), xp=ops.xp)
            problem = self.problem(ops.xp.reshape(flat, layer.shape), spec)
            lower, upper, norm = isometry_of_blocks(problem, self._relative_target(int(exponent[0])), ops=ops)
            outcome = self.outcome(lower.value, upper.value, is_zero=lower.value == 0)
            claims.append((lower, upper))
            ended.append((outcome, norm.cells, norm.levels, norm.frequency.angles[0]))
        low, high = (as_array(list(x), blocks, ops=ops) for x in zip(*claims, strict=True))
        adjoint = ops.from_numpy(np.full(len(claims), self.of_adjoint(spec)), blocks)
        return Evaluation(high, (low, *columns(ended, blocks, ops=ops), adjoint), (blocks,), claims)

    def _relative_target(self, exponent: int) -> tuple[float, int] | None:
        """Fraction and power of two that s squared is, beside a kernel divided by ``2**exponent``; None: the best s."""
        if self.scale == BEST:
            return None
        fraction, power = math.frexp(self.scale_sq)
        return fraction, power - 2 * exponent

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """Refused: the value of `Isometry` has a gradient.

        Raises
        ------
        MethodError
        """
        raise MethodError("the bounds of a search have no gradient: isometry_bound has one.")
