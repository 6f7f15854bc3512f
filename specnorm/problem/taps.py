"""Sizes of a layer, and what its taps read along each axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm.errors import GeometryError

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec


def readers_of(table: np.ndarray, size: int) -> np.ndarray:
    """Entries of a table that hold each position 0..size-1, shape (copies, size); len(table) where there are fewer."""
    order = np.argsort(table, kind="stable")
    held = table[order]
    order, held = order[held < size], held[held < size]
    counts = np.bincount(held, minlength=size)
    ranks = np.arange(len(held)) - (np.cumsum(counts) - counts)[held]
    readers = np.full((max(1, int(counts.max())), size), len(table))
    readers[ranks, held] = order
    return readers


def axis_tables(n: int, m: int, k: int, stride: int, dilation: int, before: int, mode: str) -> np.ndarray:
    """Position of an axis of length n that every tap reads for every output, shape (k, m); n for a zero."""
    position = dilation * np.arange(k)[:, None] + stride * np.arange(m)[None, :] - before
    inside = (position >= 0) & (position < n)
    if mode == "circular":
        return np.asarray(position % n)
    if mode == "zeros":
        return np.where(inside, position, n)
    if mode == "replicate":
        return np.asarray(np.clip(position, 0, n - 1))
    return np.where(position < 0, -position, np.where(inside, position, 2 * (n - 1) - position))


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
    axes = list(zip(spec.kernel_shape, spec.input_shape, spec.stride, spec.dilation, spec.padding, strict=True))
    if spec.transposed:
        same = tuple(before + after for before, after in spec.padding) == tuple(r * (k - 1) for k, _, _, r, _ in axes)
        if spec.padding_mode == "zeros":
            large = tuple((n - 1) * s - sum(pads) + r * (k - 1) + 1 for k, n, s, r, pads in axes)
        elif spec.padding_mode == "circular" and same:
            large = tuple(n * s for _, n, s, _, _ in axes)
        else:
            raise GeometryError(
                f"there is no transposed convolution with padding_mode={spec.padding_mode!r} and padding="
                f'{spec.padding}. Use padding_mode="zeros" with any padding, or "circular" with padding="same".'
            )
        small = spec.input_shape
    else:
        large = spec.input_shape
        small = tuple((n + sum(pads) - r * (k - 1) - 1) // s + 1 for k, n, s, r, pads in axes)
    if any(m < 1 for m in (*large, *small)):
        raise GeometryError(
            f"the layer has no output at input_shape={spec.input_shape} (kernel {spec.kernel_shape}, padding "
            f"{spec.padding}, dilation {spec.dilation}). Give a larger input_shape or more padding."
        )
    if spec.padding_mode == "reflect" and any(max(pads) >= n for _, n, _, _, pads in axes):
        raise GeometryError(
            f"reflect padding {spec.padding} needs an input larger than itself on every axis; input_shape is "
            f'{spec.input_shape}. Use a larger one, or padding_mode="replicate".'
        )
    return large, small


def shapes_of(spec: ConvSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the layer's input and output, channels first."""
    large, small = sizes_of(spec)
    return ((spec.cin, *small), (spec.cout, *large)) if spec.transposed else ((spec.cin, *large), (spec.cout, *small))


def tables_of_axes(large: tuple[int, ...], small: tuple[int, ...], spec: ConvSpec) -> list[np.ndarray]:
    """`axis_tables` of every axis."""
    axes = along_axes(large, small, spec)
    return [axis_tables(n, m, k, s, r, before, spec.padding_mode) for n, m, k, s, r, (before, _) in axes]


def visible(spec: ConvSpec) -> np.ndarray | None:
    """Taps that read a pixel at ``spec.input_shape``, shape (*kernel_shape); None where all do.

    The others are no part of the layer at that size, and must not set the scale of what is.
    """
    if spec.padding_mode != "zeros" or spec.input_shape is None:
        return None
    large, small = sizes_of(spec)
    seen = np.ones(spec.kernel_shape, dtype=np.bool_)
    for axis, (table, n) in enumerate(zip(tables_of_axes(large, small, spec), large, strict=True)):
        read = (table < n).any(axis=1)
        seen &= read.reshape((-1,) + (1,) * (spec.ndim - 1 - axis))
    return None if seen.all() else seen


def along_axes(large: tuple[int, ...], small: tuple[int, ...], spec: ConvSpec) -> list[Any]:
    """Size, outputs, taps, stride, dilation and padding of each axis."""
    return list(zip(large, small, spec.kernel_shape, spec.stride, spec.dilation, spec.padding, strict=True))
