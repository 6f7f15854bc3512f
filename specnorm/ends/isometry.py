"""The isometry defect eps of a layer K for a scale s: ``| ||K x||**2 - s**2 ||x||**2 | <= eps s**2 ||x||**2``.

`Isometry` bounds it by matrix products alone, `IsometryEnds` encloses it by a search.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np

from specnorm.at_size.proofs.uncut import keeps_smallest, unread_pixels_make_smallest_zero
from specnorm.backends import arrays
from specnorm.enclosure.two_sided import TwoSidedSearch, ends_of, figure_arrays
from specnorm.ends import proof as defect
from specnorm.ends.figures import FIGURES, figures_of
from specnorm.ends.isometry_search import isometry_of_blocks
from specnorm.errors import GeometryError, MethodError
from specnorm.proofs import rounding
from specnorm.running import checks
from specnorm.running.base import Evaluation, Method, Needs, Plan, check_word
from specnorm.symbols.proofs.lags import Lags
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs import rounding
    from specnorm.running.base import Kind

Form = Literal["bound", "lags"]
BEST = "best"
"""Value of ``scale`` for the scale whose square is the mean of the squared singular values."""
_LARGEST_TARGET_EXPONENT = 56
"""Exponent of the largest target ``s**2 = f 2**exponent``; larger ones are clipped. Beside them a kernel scaled to
about 1 is negligible, and the defect is 1 up to rounding."""


@dataclass(frozen=True)
class _WithScale(Plan):
    """Base of both methods: the scale, and the layers that are supported.

    Parameters
    ----------
    scale : float, "best" or None
        s; None: 1. "best": that of `specnorm.isometry_bound`.
    """

    scale: float | Literal["best"] | None = None

    quantity: ClassVar = "isometry defect"

    def __post_init__(self) -> None:
        if self.scale is None or (isinstance(self.scale, str) and self.scale == BEST):
            return
        scale = checks.number("scale", self.scale)
        if not 2.0**-100 <= scale <= 2.0**100:
            raise MethodError(
                f'scale={self.scale!r} is not between 2**-100 and 2**100: give a positive number, or "best".'
            )

    @property
    def scale_sq(self) -> float:
        """The square of s, rounded to nearest, for a scale that is not "best"."""
        return float(self.scale or 1.0) ** 2

    def check(self, spec: ConvSpec) -> None:
        """Refuse layers whose borders cut taps off: they are not isometries, even if the convolution is one."""
        if not keeps_smallest(spec):
            raise GeometryError(
                f"{self.name} is not known for padding_mode={spec.padding_mode!r} with padding={spec.padding}: where "
                'borders cut taps off, no layer is an isometry. Use padding_mode="circular" (the convolution itself).'
            )

    @staticmethod
    def bounds_the_adjoint(spec: ConvSpec) -> bool:
        """Whether the layer has fewer outputs than inputs: then only its adjoint can be an isometry."""
        output_channels, input_channels = spec.group_channels
        convolution_has_fewer_outputs = output_channels < input_channels * math.prod(spec.stride)
        return convolution_has_fewer_outputs != spec.transposed


@dataclass(frozen=True)
class Isometry(_WithScale, Method):
    """Upper bound on the isometry defect without a search: the sum of the norms of the lags of ``K*K - s**2 I``.

    All singular values lie between ``s sqrt(1 - eps)`` and ``s sqrt(1 + eps)``. If the layer has fewer outputs than
    inputs, the defect of its adjoint is bounded, and the figure ``adjoint`` is True.

    Parameters
    ----------
    scale : float, "best" or None
        s; None: 1. "best": that of `specnorm.isometry_bound`.
    form : {"bound", "lags"}
        The proven eps; or the sum of the squares of the lags of ``K*K - s**2 I``, which trains orthogonal layers
        (L_orth of Wang et al.) and bounds nothing.

    Notes
    -----
    Entry of ``stats``: ``adjoint``, True if the defect is that of the adjoint. The value is the defect eps, not a norm.

    References
    ----------
    .. [1] Wang, Chen, Chakraborty, Yu, "Orthogonal Convolutional Neural Networks", CVPR 2020 (the sum of squares).
    .. [2] Achour, Malgouyres, Mamalet, "Existence, Stability and Scalability of Orthogonal Convolutional Neural
       Networks", JMLR 23, 2022, arXiv:2108.05623 (eps by the sum of squares, with factors of the sizes).
    """

    form: Form = "bound"

    name: ClassVar = "isometry"
    promise: ClassVar[Kind] = "upper"
    stats: ClassVar = {"adjoint": None}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_word("form", self.form, get_args(Form))

    def kind(self, spec: ConvSpec) -> Kind:
        return "upper" if self.form == "bound" else "estimate"

    def needs(self, spec: ConvSpec) -> Needs:
        rounds: rounding.Rounds = "up" if self.form == "bound" else "nearest"
        return Needs(rounds=rounds, precision="mixed", small_products=True, scaled=False, by_layer=True)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        xp = ops.xp
        groups = spec.groups
        shape = blocks.shape
        layers, exponent = arrays.scale(xp.reshape(blocks, (shape[0] // groups, -1)), xp=xp)
        scaled = arrays.tall(xp.reshape(layers, shape), xp=xp)
        lags = Polynomial(scaled, xp=xp).lags(wide=self.form == "bound", ops=ops)
        target = self._target(lags.values, exponent, groups, ops=ops)
        if self.form == "bound":
            value, slopes = self._bound(lags, target, spec, ops=ops)
            value_exponent = xp.zeros_like(exponent)
        else:
            value, slopes = self._squares(lags.values, target, groups, ops=ops)
            # Squares of lags scale as fourth powers of the kernel.
            value_exponent = 4 * exponent
        adjoint = ops.from_numpy(np.full(shape[0] // groups, self.bounds_the_adjoint(spec)), blocks)
        unscaled_value = arrays.unscale(value, xp.astype(value_exponent, value.dtype), xp=xp)
        if not ops.differentiated:
            return Evaluation(unscaled_value, (adjoint,), ())
        gradient = arrays.from_tall(Lags.vjp(scaled, slopes(), xp=xp), blocks, xp=xp)
        gradient_exponent = _for_each_group(value_exponent - exponent, groups, xp=xp)
        gradient_exponent = xp.reshape(gradient_exponent, (-1,) + (1,) * (blocks.ndim - 1))
        gradient = arrays.unscale(gradient, xp.astype(gradient_exponent, gradient.dtype), xp=xp)
        return Evaluation(unscaled_value, (adjoint,), (gradient,))

    @staticmethod
    def _is_circulant_at_size(spec: ConvSpec) -> bool:
        """Whether the layer is a circulant at one size, so that only the frequencies of that size matter."""
        return spec.input_shape is not None and spec.is_circulant

    def _target(self, values: Array, exponent: Array, groups: int, *, ops: ArrayOps) -> Array:
        """The square of s relative to the kernels times ``2**-exponent``, shape (layers,).

        For the best scale and a kernel of zeros it is 1.

        ``exponent`` is (layers,). ``values`` (layers * groups, n, p, p): lags of the scaled kernels.
        """
        xp = ops.xp
        p = values.shape[-1]
        if self.scale == BEST:
            traces = xp.reshape(xp.linalg.trace(values[:, 0, ...]), (-1, groups))
            mean = xp.sum(traces, axis=1) / (groups * p)
            return xp.where(mean > 0, mean, xp.ones_like(mean))
        fraction, scale_exponent = math.frexp(self.scale_sq)
        target_exponent = scale_exponent - 2 * xp.astype(exponent, values.dtype)
        clipped = xp.minimum(target_exponent, float(_LARGEST_TARGET_EXPONENT))
        return fraction * arrays.power_of_two(clipped, xp=xp)

    def _bound(
        self,
        lags: Lags,
        target: Array,
        spec: ConvSpec,
        *,
        ops: ArrayOps,
    ) -> tuple[Array, Callable[[], Array]]:
        """The bound eps (layers,), and a function that returns its derivatives (b, n, p, p) with respect to the lags.

        The derivative with respect to lag -t, not returned, is the transpose of that with respect to lag t.

        ``lags``: of the Gram polynomials ``K*K`` of b blocks, (b, n, p, p). ``target`` (layers,): ``s**2``.
        """
        xp = ops.xp
        groups = spec.groups
        b, _, p, _ = lags.values.shape
        wrapping = None
        if self._is_circulant_at_size(spec):
            wrapping = defect.wrapping(spec.block_kernel_shape, spec.grid_shape)
        if wrapping is not None:
            lags = defect.wrapped(lags, wrapping, ops=ops)
        group_targets = _for_each_group(target, groups, xp=xp)
        by_group = xp.reshape(defect.isometry_up(lags.values, lags.error, group_targets, ops=ops), (-1, groups))
        largest = xp.max(by_group, axis=1)
        index = xp.argmax(by_group, axis=1)
        value = defect.relative_up(largest, target, xp=xp)
        # If the target was clipped, the kernel is negligible beside s, and the defect is at most 1, up to rounding.
        # Unread pixels have a defect of 1. So in both cases the bound is raised to 1 below. Its gradient is 0 where it
        # is raised; and where the target was clipped, beside which the gradient of the scaled kernel means nothing.
        is_clipped = target >= 2.0 ** (_LARGEST_TARGET_EXPONENT - 1)
        is_at_least_one = is_clipped | unread_pixels_make_smallest_zero(spec)

        def derivatives() -> Array:
            """Derivatives (b, n, p, p) of eps, before it is raised to 1, with respect to the n lags of each block."""
            slope_of_largest = xp.where(is_clipped | (is_at_least_one & (value < 1)), 0 * target, 1 / target)
            slope_of_group = arrays.one_hot(slope_of_largest, index, groups, xp=xp)
            slopes = self._lag_slopes(lags.values, group_targets, ops=ops) * xp.reshape(slope_of_group, (b, 1, 1, 1))
            traces = xp.sum(xp.reshape(xp.linalg.trace(slopes[:, 0, ...]), (-1, groups)), axis=1)
            if wrapping is not None:
                slopes = defect.unwrapped(slopes, wrapping, ops=ops)
            if self.scale != BEST:
                return slopes
            # The best target is the mean of the diagonal entries of lag 0 over all groups. Add the derivative of
            # ``largest / target`` through the target, a multiple of the identity.
            slope_of_diagonal = _for_each_group((traces + largest / target**2) / (groups * p), groups, xp=xp)
            slope_of_lag_0 = arrays.minus_identity(slopes[:, 0, ...], slope_of_diagonal, ops=ops)
            return xp.concat([slope_of_lag_0[:, None, ...], slopes[:, 1:, ...]], axis=1)

        return xp.where(is_at_least_one, xp.maximum(value, xp.ones_like(value)), value), derivatives

    @staticmethod
    def _lag_slopes(values: Array, target: Array, *, ops: ArrayOps) -> Array:
        """Derivatives of `isometry_up` with respect to the lags (b, n, p, p).

        They are 0 for lags whose norm is as small as rounding errors.
        """
        xp = ops.xp
        p = values.shape[-1]
        lag_0 = arrays.minus_identity(values[:, 0, ...], target, ops=ops)
        mean = xp.linalg.trace(lag_0) / p
        deviation = arrays.minus_identity(lag_0, mean, ops=ops)
        parts = xp.concat([lag_0[:, None, ...], deviation[:, None, ...], values[:, 1:, ...]], axis=1)
        norms = xp.linalg.vector_norm(parts, axis=(-2, -1))
        rounding_error = 8 * p * float(xp.finfo(values.dtype).eps) * target[:, None]
        inverse_norms = xp.where(norms > rounding_error, 1 / (norms + arrays.TINY), xp.zeros_like(norms))
        unit_parts = parts * inverse_norms[:, :, None, None]
        # `isometry_up` takes the smaller of two bounds of lag 0.
        uses_mean = (xp.abs(mean) + norms[:, 1] < norms[:, 0])[:, None, None]
        # The derivative of |mean| is sign(mean) / p times the identity.
        slope_by_mean = arrays.minus_identity(unit_parts[:, 1, ...], -xp.sign(mean) / p, ops=ops)
        slope_of_lag_0 = xp.where(uses_mean, slope_by_mean, unit_parts[:, 0, ...])
        return xp.concat([slope_of_lag_0[:, None, ...], unit_parts[:, 2:, ...]], axis=1)

    @staticmethod
    def _squares(
        values: Array,
        target: Array,
        groups: int,
        *,
        ops: ArrayOps,
    ) -> tuple[Array, Callable[[], Array]]:
        """Sum of the squares of all lags of ``K*K - target I`` for each layer, and its derivatives as in `_bound`."""
        xp = ops.xp
        group_targets = _for_each_group(target, groups, xp=xp)
        lag_0 = arrays.minus_identity(values[:, 0, ...], group_targets, ops=ops)[:, None, ...]
        other_lags = values[:, 1:, ...]
        total = xp.sum(lag_0**2, axis=(1, 2, 3)) + 2 * xp.sum(other_lags**2, axis=(1, 2, 3))
        value = xp.sum(xp.reshape(total, (-1, groups)), axis=1)
        return value, lambda: 2 * xp.concat([lag_0, other_lags], axis=1)


def _for_each_group(x: Array, groups: int, *, xp: Namespace) -> Array:
    """Repeat the number of each layer (l,) for all its groups: shape (l * groups,)."""
    return xp.reshape(xp.broadcast_to(x[:, None], (x.shape[0], groups)), (-1,))


@dataclass(frozen=True)
class IsometryEnds(_WithScale, TwoSidedSearch):
    """Proven interval around the isometry defect, by a search.

    The value is the upper bound; the lower one is the figure ``lower``.

    Parameters
    ----------
    scale : float, "best" or None
        As in `Isometry`.
    rtol, max_cells, budget
        As in `Enclose`.
    """

    name: ClassVar = "isometry_ends"
    promise: ClassVar = "upper"
    asks: ClassVar = Needs(rounds="up", precision="wide", scaled=False, by_layer=True, searches=True)
    stats: ClassVar = {"lower": "down", **FIGURES, "adjoint": None}

    def __post_init__(self) -> None:
        _WithScale.__post_init__(self)
        TwoSidedSearch.__post_init__(self)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        results = []
        for layer in arrays.by_layers(blocks, spec.groups):
            flat, exponent = arrays.scale(ops.xp.reshape(layer, (1, -1)), xp=ops.xp)
            target = self._relative_target(int(exponent[0]))
            found = isometry_of_blocks(ops.xp.reshape(flat, layer.shape), self.problem(spec), target, ops=ops)
            results.append(found)
        claims = [found.ends for found in results]
        search_figures = [figures_of(found, self.rtol) for found in results]
        lower_bounds, upper_bounds = ends_of(results, blocks, ops=ops)
        adjoint = ops.from_numpy(np.full(len(claims), self.bounds_the_adjoint(spec)), blocks)
        figures = (lower_bounds, *figure_arrays(search_figures, blocks, ops=ops), adjoint)
        return Evaluation(upper_bounds, figures, (), claims)

    def _relative_target(self, exponent: int) -> tuple[float, int] | None:
        """``s**2`` for a kernel that was divided by ``2**exponent``, as (fraction, exponent); None for the best s."""
        if self.scale == BEST:
            return None
        fraction, scale_exponent = math.frexp(self.scale_sq)
        return fraction, scale_exponent - 2 * exponent
