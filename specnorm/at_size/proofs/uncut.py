"""Decide whether a layer's smallest singular value is at least that of its symbols: if its borders cut no tap off.

A border cuts a tap off where an output of the layer on an infinite input would read, by that tap, a pixel of this
input, but this layer lacks the output.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from specnorm.geometry.spec import ConvSpec

SMALLEST = "smallest singular value"
"""Subject (``what``) of claims about the smallest singular value: a pair of this and the frequencies, circulant or
layer that the claim is about, or this alone, if the value is 0 at every frequency and every size."""


def unread_pixels_make_smallest_zero(spec: ConvSpec) -> bool:
    """Whether the smallest singular value is 0 because no tap reads some of the pixels, whatever the kernel.

    The stride has to skip pixels, and the layer must have more outputs than pixels that are read: otherwise the zeros
    are not among its ``min(outputs, inputs)`` singular values.
    """
    # In one period of the stride along every axis there is one position of outputs. Of the positions of pixels there,
    # as many are read as there are residues.
    output_channels, input_channels = spec.group_channels
    outputs_per_period = output_channels
    read_inputs_per_period = input_channels * math.prod(spec.residues)
    skips_pixels = math.prod(spec.residues) < math.prod(spec.stride)
    return skips_pixels and outputs_per_period > read_inputs_per_period


def keeps_smallest(spec: ConvSpec) -> bool:
    """Whether the layer's smallest singular value is at least that of the symbols, at ``input_shape`` or at every size.

    A periodic layer has the singular values of its symbols. A zero-padded layer with at least as many rows as columns
    acts as the convolution on infinite inputs, restricted to inputs that are zero outside: if no tap is cut off, then
    ``||A x|| = ||K x|| >= m ||x||`` with m the symbols' value. For a layer with fewer rows the same holds for the
    adjoint, if no output reads padding.
    """
    if spec.is_circulant:
        return True
    if spec.padding_mode != "zeros":
        return False
    # In one period of the stride along every axis.
    rows, input_channels = spec.group_channels
    columns = input_channels * math.prod(spec.stride)
    if rows <= columns and reads_inside(spec):
        return True
    return columns <= rows and cuts_no_tap(spec)


def reads_inside(spec: ConvSpec) -> bool:
    """Whether no output of the convolution reads padding, at ``input_shape`` or at every size."""
    if spec.input_shape is None:
        return all(pads == (0, 0) for pads in spec.padding)
    # Where a tap reads padding, the tables hold n, one past the last pixel.
    return all(bool((axis.table < axis.pixels).all()) for axis in spec.axes)


def cuts_no_tap(spec: ConvSpec) -> bool:
    """Whether no tap is cut off: each tap that reads a pixel in the infinite layer reads it in this layer too."""
    if spec.input_shape is None:
        return _has_full_padding(spec)
    for axis in spec.axes:
        pixels = np.arange(axis.pixels)[None, :]
        taps = np.arange(axis.taps)[:, None]
        # In the infinite layer, tap t of output m reads the pixel ``stride m + dilation t - before``.
        has_reader_in_infinite_layer = (pixels - axis.dilation * taps + axis.before) % axis.stride == 0
        has_reader = axis.table < axis.pixels
        # The readers in this layer are among those of the infinite layer, so they are the same if they are as many.
        if has_reader.sum() != has_reader_in_infinite_layer.sum():
            return False
    return True


def _has_full_padding(spec: ConvSpec) -> bool:
    """Whether the padding is large enough that no tap is cut off, at every input size."""
    for k, s, r, (before, after) in zip(spec.kernel_shape, spec.stride, spec.dilation, spec.padding, strict=True):
        reach = r * (k - 1)
        # In front, and behind a transposed layer, the padding may fall short of the reach by s - 1 pixels: the next
        # output of the infinite layer still reads no pixel. Behind a convolution it may not: the last output may lie up
        # to s - 1 pixels before the end, if the stride does not divide the padded size minus the reach minus 1.
        may_be_missing_after = s - 1 if spec.transposed else 0
        if before < reach - (s - 1) or after < reach - may_be_missing_after:
            return False
    return True
