"""Torch's convolutions, pooling and resizing."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import Operator, Windows
from torch import Tensor

from specnorm_torch.calls import Builder, Call, Made, Moving, first_of, offset, shape_of


def _per_axis(value: Any, ndim: int) -> tuple[int, ...]:
    value = [value] if isinstance(value, int) else list(value)
    return tuple(int(v) for v in (value * ndim if len(value) == 1 else value))


def convolution(ndim: int, *, transposed: bool = False) -> Builder:
    """Of a batch, or of one value without an axis of samples."""

    def build(
        call: Call, *, input: Moving, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any,
        groups: int, output_padding: Any = 0,
    ) -> Made:  # fmt: skip
        pads: Any = "same"
        more = _per_axis(output_padding, ndim)
        if padding != "same":
            sides = _per_axis(0 if padding == "valid" else padding, ndim)
            pads = tuple((p, max(p - extra, 0)) for p, extra in zip(sides, more, strict=True))
            more = tuple(max(extra - p, 0) for p, extra in zip(sides, more, strict=True))
        geometry = {
            "stride": _per_axis(stride, ndim),
            "dilation": _per_axis(dilation, ndim),
            "groups": groups,
            "transposed": transposed,
            "padding_mode": "zeros",
            "padding": pads,
        }
        alone = len(call.shape) == ndim + 1
        out, layer, added = (1, *call.shape) if alone else call.shape, call.layer(weight, geometry), None
        if bias is not None:
            added = offset(bias, spatial=ndim)
        steps: list[tuple[Operator, tuple[int, ...]]] = [(ops.Unsqueeze((0,)), (1, *shape_of(input)))] if alone else []
        if any(more):
            # Rows behind all that the kernel reaches: zeros, and the bias.
            inner = (*out[:2], *(n - extra for n, extra in zip(out[2:], more, strict=True)))
            steps += [(ops.Convolution(layer), inner), (ops.Pad("zeros", tuple((0, n) for n in more)), out)]
            steps += [] if added is None else [(ops.Scale(np.ones(()), added, exact=True), out)]
        else:
            steps.append((ops.Convolution(layer, added), out))
        return call.chain(input, *steps, *([(ops.Reshape(call.shape), call.shape)] if alone else []))

    return build


def pool(ndim: int, *, average: bool = False) -> Builder:
    """The largest entry of each window, or the mean, of which a divisor of one's own counts padding, too."""

    def build(
        _: Call, *, self: Moving, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> Made:  # fmt: skip
        kernel, pads = _per_axis(kernel_size, ndim), tuple((p, p) for p in _per_axis(padding, ndim))
        steps = _per_axis(stride, ndim) if stride else kernel
        windows = Windows(kernel, steps, _per_axis(dilation, ndim), pads, ceil_mode)
        counted = bool(divisor_override) or count_include_pad
        return Made(ops.AveragePool(windows, counted, divisor_override) if average else ops.MaxPool(windows), (self,))

    return build


def adaptive(operator: Callable[[tuple[int, ...]], Operator], ndim: int) -> Builder:
    """To sizes that were traced."""

    def build(call: Call, *, self: Moving, output_size: Any) -> Made:
        del output_size
        return Made(operator(call.shape[len(call.shape) - ndim :]), (self,))

    return build


def resize(mode: Literal["nearest", "linear"], coordinates: str = "asymmetric", nearest: str = "floor") -> Builder:
    """To sizes that were traced; by given scales, where torch computes coordinates with them."""

    def build(
        call: Call, *, self: Moving = None, input: Moving = None, output_size: Any, align_corners: bool = False,
        scale_factors: Any = None, scales: Any = None, scales_d: Any = None, scales_h: Any = None, scales_w: Any = None,
    ) -> Made:  # fmt: skip
        del output_size
        value = self if input is None else input
        sizes = list(zip(shape_of(value), call.shape, strict=True))[2:]
        named = (scales,) if len(sizes) == 1 else (scales_d, scales_h, scales_w)[-len(sizes) :]
        # As torch does, a scale that is not positive is not used.
        factors = [
            Fraction(f) if f and f > 0 else Fraction(m, n)
            for f, (n, m) in zip(scale_factors or named, sizes, strict=True)
        ]
        where = "align_corners" if align_corners else coordinates
        # Which pixel is nearest is found in single precision for values of double precision, too, on some devices.
        single = mode == "nearest" or first_of(value).dtype != torch.float64
        scaled = (Fraction(1), Fraction(1), *factors)
        return Made(ops.Resize(mode, call.shape, scaled, where, nearest, single), (value,))

    return build
