"""Spatial sizes of a layer's input and output, and tables of which pixel each tap reads along each axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm.backends.types import MEMORY
from specnorm.errors import GeometryError
from specnorm.geometry.spec import pixels_run_out

if TYPE_CHECKING:
    from specnorm.geometry.spec import ConvSpec


def readers_of(table: np.ndarray, size: int) -> np.ndarray:
    """Invert a table of positions: for each position, the indices of the table's entries that read it.

    ``table`` (l,): positions 0 to size - 1; larger numbers stand for padding. Returns (most readers of a position,
    size): filled up with l for positions that have fewer readers.
    """
    order = np.argsort(table, kind="stable")
    entries = order[table[order] < size]
    positions = table[entries]
    counts = np.bincount(positions, minlength=size)
    first_of_position = np.cumsum(counts) - counts
    place_among_readers = np.arange(len(positions)) - first_of_position[positions]
    readers = np.full((max(1, int(counts.max())), size), len(table))
    readers[place_among_readers, positions] = entries
    return readers


class Axis(NamedTuple):
    """One axis of the convolution behind a layer: pixels are on its large side, outputs on its small side.

    Tap t of output m reads position ``stride * m + dilation * t - before``.
    """

    pixels: int
    outputs: int
    taps: int
    stride: int
    dilation: int
    before: int


def axis_tables(axis: Axis, mode: str) -> np.ndarray:
    """Table of the pixel that each tap reads for each output along an axis, shape (taps, outputs).

    ``mode``: the padding mode, which maps positions outside of the axis to pixels; zero padding maps them to
    ``axis.pixels``. Raises `GeometryError` if the table takes more memory than one chunk.
    """
    n = axis.pixels
    memory = 8 * axis.taps * axis.outputs
    if memory > MEMORY:
        raise GeometryError(
            f"an axis of {axis.taps} taps and {axis.outputs} outputs: the table of what each tap reads takes "
            f"{memory / 2**30:.3g} GiB, more than {MEMORY / 2**30:g} GiB. Without input_shape, every size at once is "
            "bounded, and no table is needed."
        )
    firsts = axis.dilation * np.arange(axis.taps) - axis.before
    position = firsts[:, None] + axis.stride * np.arange(axis.outputs)[None, :]
    is_inside = (position >= 0) & (position < n)
    if mode == "circular":
        return np.asarray(position % n)
    if mode == "zeros":
        return np.where(is_inside, position, n)
    if mode == "replicate":
        return np.asarray(np.clip(position, 0, n - 1))
    # "symmetric" repeats the pixel at which it mirrors.
    repeated = 1 if mode == "symmetric" else 0
    mirrored_at_end = 2 * (n - 1) + repeated - position
    return np.where(position < 0, -repeated - position, np.where(is_inside, position, mirrored_at_end))


def sizes_of(spec: ConvSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Spatial sizes of both sides of the convolution behind a layer at ``input_shape``: its large and its small side.

    The large side is the input of the convolution, the small side its output; a stride makes it smaller. A transposed
    layer is the adjoint of that convolution: its input is the small side.

    Raises `GeometryError` if ``input_shape`` is None, if the layer has no output at this size, or if no such layer
    exists.
    """
    if spec.input_shape is None:
        raise GeometryError("the layer itself is a matrix at one size only: give input_shape.")
    if spec.transposed:
        large = _large_of(spec)
        small = spec.input_shape
    else:
        large = spec.input_shape
        small = _small_of(spec)
    if any(m < 1 for m in (*large, *small)):
        raise GeometryError(
            f"the layer has no output at input_shape={spec.input_shape} (kernel {spec.kernel_shape}, padding "
            f"{spec.padding}, dilation {spec.dilation}). Give a larger input_shape or more padding."
        )
    too_many = pixels_run_out(spec.padding, spec.input_shape, spec.padding_mode)
    if too_many:
        raise GeometryError(too_many)
    return large, small


def _small_of(spec: ConvSpec) -> tuple[int, ...]:
    """Numbers of outputs of a convolution along each axis; less than 1 if it has none."""
    assert spec.input_shape is not None
    axes = zip(spec.input_shape, spec.kernel_shape, spec.stride, spec.dilation, spec.padding, strict=True)
    return tuple((n + sum(pads) - r * (k - 1) - 1) // s + 1 for n, k, s, r, pads in axes)


def _large_of(spec: ConvSpec) -> tuple[int, ...]:
    """Numbers of outputs of a transposed convolution along each axis; less than 1 if it has none."""
    assert spec.input_shape is not None
    axes = list(zip(spec.input_shape, spec.kernel_shape, spec.stride, spec.dilation, spec.padding, strict=True))
    if spec.padding_mode == "zeros":
        return tuple((n - 1) * s - sum(pads) + r * (k - 1) + 1 for n, k, s, r, pads in axes)
    has_same_size = all(sum(pads) == r * (k - 1) for _, k, _, r, pads in axes)
    if spec.padding_mode == "circular" and has_same_size:
        return tuple(n * s for n, _, s, _, _ in axes)
    raise GeometryError(
        f"there is no transposed convolution with padding_mode={spec.padding_mode!r} and padding="
        f'{spec.padding}. Use padding_mode="zeros" with any padding, or "circular" with padding="same".'
    )


def shapes_of(spec: ConvSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the layer's input and output, channels first."""
    large, small = sizes_of(spec)
    inputs, outputs = (small, large) if spec.transposed else (large, small)
    return (spec.cin, *inputs), (spec.cout, *outputs)


def tables_of_axes(large: tuple[int, ...], small: tuple[int, ...], spec: ConvSpec) -> list[np.ndarray]:
    """The table of `axis_tables` for every axis of the convolution behind a layer."""
    return [axis_tables(axis, spec.padding_mode) for axis in along_axes(large, small, spec)]


def visible(spec: ConvSpec) -> np.ndarray | None:
    """Mask of the taps that read a pixel, and not only padding, at ``spec.input_shape``; None if all taps do.

    The other taps are no part of the layer at that size, so they must not influence the scale of the kernel.

    Returns
    -------
    array of bool, shape (*kernel_shape), or None
    """
    if spec.padding_mode != "zeros" or spec.input_shape is None:
        return None
    large, small = sizes_of(spec)
    reads_pixel = np.ones(spec.kernel_shape, dtype=np.bool_)
    for axis, (table, n) in enumerate(zip(tables_of_axes(large, small, spec), large, strict=True)):
        reads_pixel_of_axis = (table < n).any(axis=1)
        reads_pixel &= reads_pixel_of_axis.reshape((-1,) + (1,) * (spec.ndim - 1 - axis))
    return None if reads_pixel.all() else reads_pixel


def along_axes(large: tuple[int, ...], small: tuple[int, ...], spec: ConvSpec) -> list[Axis]:
    """The axes of the convolution behind a layer with these sizes."""
    befores = [before for before, _ in spec.padding]
    axes = zip(large, small, spec.kernel_shape, spec.stride, spec.dilation, befores, strict=True)
    return [Axis(*axis) for axis in axes]
