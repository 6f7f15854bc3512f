"""Kernels as blocks: groups, strides, dilations and transposed layers reduced to dense stride-1 kernels.

A *block* is a dense, stride-1 kernel ``(cout, cin, *kernel_shape)`` in torch order. Every method works on a stack of
blocks ``(b, cout, cin, *kernel_shape)`` and gives one answer a block, so that groups, vmapped kernels and layers of
equal shape are one batch.
"""

from __future__ import annotations

import itertools
from types import EllipsisType
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import ArrayOps


def to_blocks(kernels: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """Fold a batch of kernels, shape (batch, *shape), into blocks (batch * groups, m, p, *block_kernel_shape).

    Groups become blocks. A transposed layer is the adjoint of the convolution with the same stored kernel, whose norm
    it has. Stride s: tap ``s q + t`` reads pixel ``s (m + q) + t``, so phase t of the input is a channel of its own and
    q the tap (polyphase). A dilation coprime to the stride only permutes phases and frequencies; a common factor means
    that pixels in between are never read.

    References
    ----------
    .. [1] Senderovich, Bulatova, Obukhov, Rakhuba, "Towards Practical Control of Singular Values of Convolutional
       Layers", NeurIPS 2022 (strided layers).
    """
    kernels = torch_order(kernels, spec, xp=xp)
    first, second = spec.stored_channels
    count = kernels.shape[0] * spec.groups
    blocks = xp.reshape(kernels, (count, first // spec.groups, second, *spec.kernel_shape))
    for axis, padded_size in enumerate(_padded_shape(spec), start=3):
        # The last taps of some phases are missing; fewer than there are, so a slice has the shape of the zeros.
        missing = padded_size - blocks.shape[axis]
        if missing:
            zeros = xp.zeros_like(blocks[_first_of_axis(missing, axis)])
            blocks = xp.concat([blocks, zeros], axis=axis)
    # (q_1, t_1, q_2, t_2, ...): tap and phase of each axis of the kernel.
    interleaved = itertools.chain(*zip(spec.block_kernel_shape, spec.phases, strict=True))
    split = xp.reshape(blocks, (*blocks.shape[:3], *interleaved))
    return xp.reshape(xp.permute_dims(split, _phases_first(spec.ndim)), (count, *spec.block_shape))


def from_blocks(blocks: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """Adjoint of `to_blocks`, and its inverse on what it returns."""
    first, second = spec.stored_channels
    split = xp.reshape(blocks, (*blocks.shape[:2], second, *spec.phases, *spec.block_kernel_shape))
    padded = xp.permute_dims(split, arrays.inverse_permutation(_phases_first(spec.ndim)))
    padded = xp.reshape(padded, (*blocks.shape[:2], second, *_padded_shape(spec)))
    for axis, taps in enumerate(spec.kernel_shape, start=3):
        if taps < padded.shape[axis]:
            padded = padded[_first_of_axis(taps, axis)]
    kernels = xp.reshape(padded, (blocks.shape[0] // spec.groups, first, second, *spec.kernel_shape))
    return caller_order(kernels, spec, xp=xp)


def _first_of_axis(count: int, axis: int) -> tuple[slice | EllipsisType, ...]:
    """Index of the first positions of an axis."""
    return (*(slice(None) for _ in range(axis)), slice(0, count), ...)


def _padded_shape(spec: ConvSpec) -> tuple[int, ...]:
    """Kernel shape with as many taps in every phase."""
    return tuple(t * q for t, q in zip(spec.phases, spec.block_kernel_shape, strict=True))


def _phases_first(ndim: int) -> tuple[int, ...]:
    """From (b, m, p, q_1, t_1, ...) to (b, m, p, t_1, ..., q_1, ...)."""
    return (0, 1, 2, *range(4, 3 + 2 * ndim, 2), *range(3, 3 + 2 * ndim, 2))


def _torch_axes(ndim: int) -> tuple[int, ...]:
    """From (batch, *spatial, in, out) to (batch, out, in, *spatial)."""
    return (0, ndim - 1, ndim - 2, *range(1, ndim - 2))


def support(block: Array, *, ops: ArrayOps) -> Array:
    """Cut the slices of zero taps off the borders of one block (1, m, p, *kernel_shape) with known values.

    A shift of the kernel changes its symbol by a phase alone; with zero slices, the cells would have larger radii.
    """
    is_used = (ops.to_numpy(block) != 0).any(axis=(0, 1, 2))
    index: list[slice] = []
    for axis in range(is_used.ndim):
        other_axes = tuple(j for j in range(is_used.ndim) if j != axis)
        used = np.flatnonzero(is_used.any(axis=other_axes))
        index.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1))
    return block[(slice(None), slice(None), slice(None), *index)]


def by_layers(blocks: Array, groups: int) -> list[Array]:
    """Split (layers * groups, ...) into the blocks of each layer."""
    return [blocks[first : first + groups, ...] for first in range(0, blocks.shape[0], groups)]


def torch_order(kernels: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """Kernels (batch, *shape) with the axes in torch's order, groups and stride left as they are."""
    if _has_channels_last(spec):
        kernels = xp.permute_dims(kernels, _torch_axes(kernels.ndim))
    return kernels


def caller_order(kernels: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """Inverse (and adjoint) of `torch_order`."""
    if _has_channels_last(spec):
        kernels = xp.permute_dims(kernels, arrays.inverse_permutation(_torch_axes(kernels.ndim)))
    return kernels


def _has_channels_last(spec: ConvSpec) -> bool:
    """Whether the channels are the last axes, those of the input first, as in HWIO."""
    return spec.layout is not None and spec.layout.endswith("IO")
