"""Decide whether a layer's smallest singular value is at least that of its symbols: if its borders cut no tap off.

A border cuts a tap off where an output of the layer on an infinite input would read, by that tap, a pixel of this
input, but this layer lacks the output.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.problem.taps import along_axes, sizes_of, tables_of_axes

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec

SMALLEST = "smallest singular value"
"""The subject (``what``) of claims about the smallest singular value; also first entry of a pair with the frequencies,
circulant or layer that the claim is about."""


def has_unread_pixels(spec: ConvSpec) -> bool:
    """Whether the smallest singular value is 0 because no tap reads some of the pixels, whatever the kernel.

    The stride has to skip pixels, and the layer must have more outputs than pixels that are read: otherwise the zeros
    are not among its ``min(outputs, inputs)`` singular values.
    """
    first, second = spec.stored_channels
    outputs_of_step = first // spec.groups
    read_inputs_of_step = second * math.prod(spec.phases)
    skips_pixels = math.prod(spec.phases) < math.prod(spec.stride)
    return skips_pixels and outputs_of_step > read_inputs_of_step


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
    first, second = spec.stored_channels
    rows = first // spec.groups
    columns = second * math.prod(spec.stride)
    if rows <= columns and reads_inside(spec):
        return True
    return columns <= rows and meets_every_output(spec)


def reads_inside(spec: ConvSpec) -> bool:
    """Whether no output of the convolution reads padding, at ``input_shape`` or at every size."""
    if spec.input_shape is None:
        return all(pads == (0, 0) for pads in spec.padding)
    large, small = sizes_of(spec)
    tables = tables_of_axes(large, small, spec)
    # A table has the position n where a tap reads padding.
    return all(bool((table < n).all()) for table, n in zip(tables, large, strict=True))


def meets_every_output(spec: ConvSpec) -> bool:
    """Whether no tap is cut off: each tap that reads a pixel in the infinite layer reads it in this layer too."""
    if spec.input_shape is None:
        return _has_full_padding(spec)
    large, small = sizes_of(spec)
    for axis, table in zip(along_axes(large, small, spec), tables_of_axes(large, small, spec), strict=True):
        pixels = np.arange(axis.pixels)[None, :]
        taps = np.arange(axis.taps)[:, None]
        # In the infinite layer, tap t of output m reads the pixel ``stride m + dilation t - before``.
        has_reader_in_infinite_layer = (pixels - axis.dilation * taps + axis.before) % axis.stride == 0
        has_reader = table < axis.pixels
        if has_reader.sum() != has_reader_in_infinite_layer.sum():
            return False
    return True


def _has_full_padding(spec: ConvSpec) -> bool:
    """Whether the padding is large enough that no tap is cut off, at every input size."""
    for k, s, r, (before, after) in zip(spec.kernel_shape, spec.stride, spec.dilation, spec.padding, strict=True):
        reach = r * (k - 1)
        # The last output of a convolution may lie up to ``s - 1`` pixels before the end of the padding, if the stride
        # does not divide; that of a transposed layer lies at the end.
        unused_after = s - 1 if spec.transposed else 0
        if before < reach - (s - 1) or after < reach - unused_after:
            return False
    return True
