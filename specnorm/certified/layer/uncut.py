"""Which layers have no smaller singular value than their symbols: those whose borders cut no tap off."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.problem.taps import sizes_of, tables_of_axes

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec

SMALLEST = "smallest singular value"
"""What a bound of it bounds, in words."""


def has_unread_pixels(spec: ConvSpec) -> bool:
    """Whether a stride leaves pixels that no tap reads, and outputs enough for that to be a singular value of 0."""
    first, second = spec.stored_channels
    read = second * math.prod(spec.phases)
    return math.prod(spec.phases) < math.prod(spec.stride) and first // spec.groups > read


def keeps_smallest(spec: ConvSpec) -> bool:
    """Whether the smallest singular value of the symbols is none above the layer's, at its size or at every size.

    A circular layer with one output a stride has the symbols' values. A zero-padded one with no more columns than rows
    is the convolution of all integers on inputs that are zero elsewhere: ``||A x|| = ||K x|| >= m ||x||`` if no output
    is cut off. One with fewer rows is the same for its adjoint, if no output reads beyond the input.
    """
    if spec.periodic:
        return True
    if spec.padding_mode != "zeros":
        return False
    first, second = spec.stored_channels
    rows, columns = first // spec.groups, second * math.prod(spec.stride)
    return (rows <= columns and reads_inside(spec)) or (columns <= rows and meets_every_output(spec))


def reads_inside(spec: ConvSpec) -> bool:
    """Whether no output of the convolution reads padding."""
    if spec.input_shape is None:
        return not any(any(pads) for pads in spec.padding)
    large, small = sizes_of(spec)
    return all(bool((table < n).all()) for table, n in zip(tables_of_axes(large, small, spec), large, strict=True))


def meets_every_output(spec: ConvSpec) -> bool:
    """Whether every tap that reads a pixel from some place of an endless layer reads it from an output of this one."""
    axes = zip(spec.kernel_shape, spec.stride, spec.dilation, spec.padding, strict=True)
    if spec.input_shape is None:
        # The last output of a convolution may stand up to a stride before the end; a transposed layer's does not.
        return all(
            before >= r * (k - 1) - (s - 1) and after >= r * (k - 1) - (s - 1 if spec.transposed else 0)
            for k, s, r, (before, after) in axes
        )
    large, small = sizes_of(spec)
    for n, table, (k, s, r, (before, _)) in zip(large, tables_of_axes(large, small, spec), axes, strict=True):
        pixels, taps = np.arange(n)[None, :], np.arange(k)[:, None]
        on_output = (pixels - r * taps + before) % s == 0
        if (table < n).sum() != on_output.sum():
            return False
    return True
