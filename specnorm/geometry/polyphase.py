"""Reduce kernels with groups, strides, dilations or a transposed layer to *blocks*: dense kernels without any of these.

A block is a kernel ``(m, p, *kernel_shape)`` in torch's order, with stride 1 and one group. Methods work on a stack of
blocks ``(b, m, p, *kernel_shape)`` and return one answer for each block. So the groups of a layer, the kernels under
`vmap`, and several layers of equal shape are one batch.
"""

from __future__ import annotations

import itertools
import math
from types import EllipsisType
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm.backends import arrays

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.geometry.spec import ConvSpec


def to_blocks(kernels: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """Turn a batch of kernels, shape (batch, *shape), into blocks (batch * groups, m, p, *block_kernel_shape).

    Each group becomes a block. A transposed layer has the norm of the convolution with the same stored kernel, whose
    adjoint it is. With stride s, tap ``s q + t`` of output m reads pixel ``s (m + q) + t``: the pixels of residue
    t modulo s become channels of their own, and q is the tap of the block. A dilation that is coprime to the stride
    only permutes residues and frequencies. If both have a common factor, pixels in between are never read.

    At circular size n, the layer's singular values are those of its blocks at the frequencies of a grid of n / s
    points, for a transposed layer with n the size of its input. With dilation r, let ``r' = r / gcd(r, s)`` and
    ``g = gcd(r', n / s)``: only the multiples of g in the grid count, each g times.

    References
    ----------
    .. [1] Senderovich, Bulatova, Obukhov, Rakhuba, "Towards Practical Control of Singular Values of Convolutional
       Layers", NeurIPS 2022 (strided layers).
    """
    kernels = torch_order(kernels, spec, xp=xp)
    count = kernels.shape[0] * spec.groups
    if math.prod(spec.residues) == 1:
        return xp.reshape(kernels, (count, *spec.block_shape))
    blocks = xp.reshape(kernels, (count, *spec.group_channels, *spec.kernel_shape))
    return xp.reshape(_residues_apart(blocks, spec, xp=xp), (count, *spec.block_shape))


def tap_places(spec: ConvSpec) -> np.ndarray:
    """Places of the taps of a block, for each residue, among the taps of the kernel; -1 for a zero that is appended.

    Returns
    -------
    integer array, shape (residues * taps of a block,)
    """
    numbers: Any = np.arange(1, math.prod(spec.kernel_shape) + 1).reshape(1, 1, 1, *spec.kernel_shape)
    host: Any = np
    if math.prod(spec.residues) > 1:
        numbers = _residues_apart(numbers, spec, xp=host)
    return np.asarray(numbers).reshape(-1) - 1


def _residues_apart(blocks: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """Blocks (b, m, p, *kernel_shape) as (b, m, p, residues along each axis, taps of a block along each axis)."""
    for axis, padded_size in enumerate(_padded_shape(spec), start=3):
        # Some residues have one tap less than others: append zeros. There are fewer of them than taps, so a slice of
        # the blocks has their shape, and `zeros_like` of that slice their dtype and device.
        missing = padded_size - blocks.shape[axis]
        if missing:
            zeros = xp.zeros_like(blocks[_first_of_axis(missing, axis)])
            blocks = xp.concat([blocks, zeros], axis=axis)
    # The axes (q_1, t_1, q_2, t_2, ...): tap and residue along each spatial axis.
    interleaved = itertools.chain(*zip(spec.block_kernel_shape, spec.residues, strict=True))
    return _taps_permuted(blocks, tuple(interleaved), _residues_first(spec.ndim), xp=xp)


def from_blocks(blocks: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """Adjoint of `to_blocks`; also its inverse, for blocks that `to_blocks` returned."""
    first, second = spec.stored_channels
    kernels = rows_of_kernel(blocks, spec, xp=xp)
    kernels = xp.reshape(kernels, (blocks.shape[0] // spec.groups, first, second, *spec.kernel_shape))
    return caller_order(kernels, spec, xp=xp)


def rows_of_kernel(blocks: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """Rows of blocks (b, m, p, *block_kernel_shape) in the order of a kernel's entries, shape (b, m, n); m is free."""
    if math.prod(spec.residues) == 1:
        return xp.reshape(blocks, (*blocks.shape[:2], -1))
    second = spec.stored_channels[1]
    by_residue = xp.reshape(blocks, (*blocks.shape[:2], second, -1))
    axes = arrays.inverse_permutation(_residues_first(spec.ndim))
    padded = _taps_permuted(by_residue, (*spec.residues, *spec.block_kernel_shape), axes, xp=xp)
    padded = xp.reshape(padded, (*blocks.shape[:2], second, *_padded_shape(spec)))
    for axis, taps in enumerate(spec.kernel_shape, start=3):
        if taps < padded.shape[axis]:
            padded = padded[_first_of_axis(taps, axis)]
    return xp.reshape(padded, (*blocks.shape[:2], -1))


def _taps_permuted(x: Array, shape: tuple[int, ...], axes: tuple[int, ...], *, xp: Namespace) -> Array:
    """Permute the axes of ``x`` (b, m, p, ...) in which the last ones are split into ``shape``."""
    return xp.permute_dims(xp.reshape(x, (*x.shape[:3], *shape)), axes)


def _first_of_axis(count: int, axis: int) -> tuple[slice | EllipsisType, ...]:
    """Index that selects the first ``count`` positions along an axis."""
    return (*(slice(None) for _ in range(axis)), slice(0, count), ...)


def _padded_shape(spec: ConvSpec) -> tuple[int, ...]:
    """Kernel shape after zeros are appended so that every residue has the same number of taps."""
    return tuple(t * q for t, q in zip(spec.residues, spec.block_kernel_shape, strict=True))


def _residues_first(ndim: int) -> tuple[int, ...]:
    """Permutation of axes from (b, m, p, q_1, t_1, ...) to (b, m, p, t_1, ..., q_1, ...)."""
    return (0, 1, 2, *range(4, 3 + 2 * ndim, 2), *range(3, 3 + 2 * ndim, 2))


def _torch_axes(ndim: int) -> tuple[int, ...]:
    """Permutation of axes from (batch, *spatial, in, out) to (batch, out, in, *spatial)."""
    return (0, ndim - 1, ndim - 2, *range(1, ndim - 2))


def torch_order(kernels: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """Kernels (batch, *shape) with their axes permuted to torch's order."""
    if _has_channels_last(spec):
        kernels = xp.permute_dims(kernels, _torch_axes(kernels.ndim))
    return kernels


def caller_order(kernels: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """Inverse (and adjoint) of `torch_order`."""
    if _has_channels_last(spec):
        kernels = xp.permute_dims(kernels, arrays.inverse_permutation(_torch_axes(kernels.ndim)))
    return kernels


def to_rows(kernels: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """Kernels (batch, *shape) as matrices (batch * groups, m, n), with columns in the order of `has_taps_first`.

    m is the stored first axis of one group, the inputs of a transposed layer. These are the kernel's entries, not its
    blocks: a stride changes nothing.
    """
    if has_taps_first(spec):
        # Transposed as matrices, which compilers do not copy for a product.
        kernels = xp.matrix_transpose(xp.reshape(kernels, (kernels.shape[0], -1, kernels.shape[-1])))
    else:
        kernels = torch_order(kernels, spec, xp=xp)
    return xp.reshape(kernels, (kernels.shape[0] * spec.groups, spec.group_channels[0], -1))


def outer_products(left: Array, right: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """Kernels (batch, *shape) whose matrices, as of `to_rows`, are ``left @ right``, of all groups one below another.

    Parameters
    ----------
    left : array, shape (batch, groups * m, r)
    right : array, shape (batch, r, n)
    """
    first, second = spec.stored_channels
    if has_taps_first(spec):
        products = xp.matmul(xp.matrix_transpose(right), xp.matrix_transpose(left))
        return xp.reshape(products, (-1, *spec.kernel_shape, second, first))
    products = xp.matmul(left, right)
    return caller_order(xp.reshape(products, (-1, first, second, *spec.kernel_shape)), spec, xp=xp)


def has_taps_first(spec: ConvSpec) -> bool:
    """Whether the entries of a row are ordered by taps, then by channels: so that no copy in another order is made.

    A matrix, and any kernel in torch's order of axes, has its channels first.
    """
    return _has_channels_last(spec) and math.prod(spec.block_kernel_shape) > 1


def _has_channels_last(spec: ConvSpec) -> bool:
    """Whether the axes end with the input channels and the output channels, as in HWIO."""
    return spec.layout is not None and spec.layout.endswith("IO")
