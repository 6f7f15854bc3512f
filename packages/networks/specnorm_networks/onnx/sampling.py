"""Sampling of images by a grid, and Fourier transforms."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np

from specnorm_networks.certified import axes
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.axes import HALF, Row
from specnorm_networks.certified.operators import NoBoundError
from specnorm_networks.onnx.nodes import Data, Output, on_axis, shape_of
from specnorm_networks.onnx.tensors import Array

_MODES = {"bilinear": "linear", "linear": "linear", "nearest": "nearest"}


def grid_sample(x: Data, grid: Array, /, *, align_corners: int, mode: str, padding_mode: str) -> Output:
    """Return the values of an image, interpolated at the points of a constant grid."""
    n, channels, *sizes = shape_of(x)
    points = grid.shape[1:-1]
    if mode not in _MODES or padding_mode not in ("zeros", "border", "reflection"):
        raise NoBoundError(f"sampling by mode {mode[:20]} with padding {padding_mode[:20]} is not supported")
    if grid.shape[0] != n or grid.shape[-1] != len(sizes) or len(points) != len(sizes) or 0 in sizes:
        raise NoBoundError(f"its grid of shape {grid.shape} does not fit a value of shape {x.shape}")
    if not np.isfinite(grid).all() or (grid != grid[:1]).any():
        raise NoBoundError("its grid has points that are not finite, or other points for other samples")
    if math.prod(points) * 2 ** len(sizes) > axes.WEIGHTS:
        raise NoBoundError(f"its grid has {math.prod(points)} points: too many")
    rows = []
    for point in grid[0].reshape(-1, len(sizes)).tolist():
        # The last coordinate of a point is that of the first axis.
        along = [
            _weights(Fraction(at), size, _MODES[mode], padding_mode, bool(align_corners))
            for at, size in zip(reversed(point), sizes, strict=True)
        ]
        weights: dict[int, Fraction] = {}
        for corner in itertools.product(*along):
            pixel = 0
            weight = Fraction(1)
            for (position, share), size in zip(corner, sizes, strict=True):
                pixel = pixel * size + position
                weight *= share
            weights[pixel] = weights.get(pixel, Fraction(0)) + weight
        rows.append(tuple(weights.items()))
    return Output(ops.Sample(tuple(rows), points), (x,), (n, channels, *points))


def _weights(at: Fraction, size: int, mode: str, padding: str, align_corners: bool) -> Row:
    """Return pixels of an axis and their weights for a coordinate of a grid, from -1 to 1."""
    ends = (Fraction(0), Fraction(size - 1)) if align_corners else (-HALF, size - HALF)
    x = ends[0] + (at + 1) / 2 * (ends[1] - ends[0])
    if padding == "reflection":
        x = _reflected(x, *ends)
    if mode == "nearest":
        if (x - HALF).denominator == 1:
            raise NoBoundError("a point of its grid lies in the middle of two pixels: runtimes disagree on the nearest")
        near: list[tuple[int, Fraction]] = [(round(x), Fraction(1))]
    else:
        before = math.floor(x)
        near = [(before, 1 - (x - before)), (before + 1, x - before)]
    if padding == "zeros":
        return tuple((pixel, weight) for pixel, weight in near if weight and 0 <= pixel < size)
    return tuple((min(max(pixel, 0), size - 1), weight) for pixel, weight in near if weight)


def _reflected(x: Fraction, low: Fraction, high: Fraction) -> Fraction:
    """Return a coordinate reflected at two ends, as often as it needs."""
    span = high - low
    if not span:
        return low
    rest = (x - low) % (2 * span)
    return low + min(rest, 2 * span - rest)


def fourier(
    x: Data,
    dft_length: int | None = None,
    /,
    *,
    axis: int = -2,
    inverse: int = 0,
    onesided: int = 0,
) -> Output:
    """Return the discrete Fourier transform along an axis."""
    shape = list(shape_of(x))
    axis = on_axis(axis, shape_of(x))
    if axis == len(shape) - 1 or shape[-1] not in (1, 2):
        raise NoBoundError(f"its axis is the last one, or the last size of {x.shape} is neither 1 nor 2")
    if onesided and (inverse or shape[-1] == 2):
        raise NoBoundError("onesided with inverse, or of complex values, is not supported")
    length = shape[axis] if dft_length is None else dft_length
    if length < 1 or not shape[axis]:
        raise NoBoundError(f"it transforms {length} of {shape[axis]} entries")
    shape[axis] = length // 2 + 1 if onesided else length
    shape[-1] = 2
    return Output(ops.FourierTransform(axis, length, bool(inverse), bool(onesided)), (x,), tuple(shape))
