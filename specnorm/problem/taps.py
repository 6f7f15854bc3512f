"""Sizes of a layer, and what its taps read along each axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm.errors import GeometryError

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec


def readers_of(table: np.ndarray, size: int) -> np.ndarray:
    """Entries of a table with each position 0..size-1, shape (copies, size); len(table) where there are fewer."""
    order = np.argsort(table, kind="stable")
    entries = order[table[order] < size]
    positions = table[entries]
    counts = np.bincount(positions, minlength=size)
    first_of_position = np.cumsum(counts) - counts
    rank = np.arange(len(positions)) - first_of_position[positions]
    readers = np.full((max(1, int(counts.max())), size), len(table))
    readers[rank, positions] = entries
    return readers


def axis_tables(
    n: int,
    m: int,
    k: int,
    stride: int,
    dilation: int,
    before: int,
    mode: str,
) -> np.ndarray:
    """Position of an axis of length n that every tap reads for every output, shape (k, m); n for a zero."""
    position = dilation * np.arange(k)[:, None] + stride * np.arange(m)[None, :] - before
    inside = (position >= 0) & (position < n)
    if mode == "circular":
        return np.asarray(position % n)
    if mode == "zeros":
        return np.where(inside, position, n)
    if mode == "replicate":
        return np.asarray(np.clip(position, 0, n - 1))
    beyond_the_end = 2 * (n - 1) - position
    return np.where(position < 0, -position, np.where(inside, position, beyond_the_end))


def sizes_of(spec: ConvSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Spatial sizes of the large side and of the small side of the convolution behind a layer at ``input_shape``.

    The large side is the input, or a transposed layer's output.

    Raises
    ------
    GeometryError
        Without a size, if the layer has no output there, or if there is no such layer.
    """
    if spec.input_shape is None:
        raise GeometryError("the layer itself is a matrix at one size only: give input_shape.")
    large, small = (_large_of(spec), spec.input_shape) if spec.transposed else (spec.input_shape, _small_of(spec))
    if any(m < 1 for m in (*large, *small)):
        raise GeometryError(
            f"the layer has no output at input_shape={spec.input_shape} (kernel {spec.kernel_shape}, padding "
            f"{spec.padding}, dilation {spec.dilation}). Give a larger input_shape or more padding."
        )
    pads_of_axes = zip(spec.padding, spec.input_shape, strict=True)
    if spec.padding_mode == "reflect" and any(max(pads) >= n for pads, n in pads_of_axes):
        raise GeometryError(
            f"reflect padding {spec.padding} needs an input larger than itself on every axis; input_shape is "
            f'{spec.input_shape}. Use a larger one, or padding_mode="replicate".'
        )
    return large, small


def _small_of(spec: ConvSpec) -> tuple[int, ...]:
    """Outputs of a convolution; less than 1 where there is none."""
    assert spec.input_shape is not None
    axes = zip(spec.input_shape, spec.kernel_shape, spec.stride, spec.dilation, spec.padding, strict=True)
    return tuple((n + sum(pads) - r * (k - 1) - 1) // s + 1 for n, k, s, r, pads in axes)


def _large_of(spec: ConvSpec) -> tuple[int, ...]:
    """Outputs of a transposed convolution; less than 1 where there is none."""
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
    """`axis_tables` of every axis."""
    return [
        axis_tables(axis.pixels, axis.outputs, axis.taps, axis.stride, axis.dilation, axis.before, spec.padding_mode)
        for axis in along_axes(large, small, spec)
    ]


def visible(spec: ConvSpec) -> np.ndarray | None:
    """Taps that read a pixel at ``spec.input_shape``, shape (*kernel_shape); None where all do.

    The other taps are no part of the layer at that size, and must not set the scale of those that are.
    """
    if spec.padding_mode != "zeros" or spec.input_shape is None:
        return None
    large, small = sizes_of(spec)
    seen = np.ones(spec.kernel_shape, dtype=np.bool_)
    for axis, (table, n) in enumerate(zip(tables_of_axes(large, small, spec), large, strict=True)):
        read = (table < n).any(axis=1)
        seen &= read.reshape((-1,) + (1,) * (spec.ndim - 1 - axis))
    return None if seen.all() else seen


class Axis(NamedTuple):
    """One axis of the convolution behind a layer; pixels are on its large side, outputs on its small one."""

    pixels: int
    outputs: int
    taps: int
    stride: int
    dilation: int
    before: int


def along_axes(large: tuple[int, ...], small: tuple[int, ...], spec: ConvSpec) -> list[Axis]:
    """The axes of the convolution behind a layer with these sizes."""
    befores = [before for before, _ in spec.padding]
    axes = zip(large, small, spec.kernel_shape, spec.stride, spec.dilation, befores, strict=True)
    return [Axis(*axis) for axis in axes]
