"""The convolution as linear algebra: canonical blocks, the symbol at a frequency, unfoldings.

A *block* is a dense, stride-1 kernel ``(cout, cin, *kernel_shape)`` in torch order. Every method works on a stack of
blocks ``(b, cout, cin, *kernel_shape)`` and gives one answer a block, so that groups, vmapped kernels and layers of
equal shape are one batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain, combinations
from types import EllipsisType
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm import arrays
from specnorm.errors import GeometryError
from specnorm.frequencies import Frequencies, phases

if TYPE_CHECKING:
    from specnorm.backends import Array, Backend
    from specnorm.conv import ConvSpec


def to_blocks(kernels: Array, spec: ConvSpec, *, xp: Any) -> Array:
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
    if spec.layout is not None and spec.layout.endswith("IO"):
        kernels = xp.permute_dims(kernels, _io_to_oi(kernels.ndim))
    first, second = spec.stored_channels
    count = kernels.shape[0] * spec.groups
    blocks = xp.reshape(kernels, (count, first // spec.groups, second, *spec.kernel_shape))
    for axis, whole in enumerate(_whole_shape(spec), start=3):
        # The last taps of some phases are missing; fewer than there are, so a slice has the shape of the zeros.
        missing = whole - blocks.shape[axis]
        if missing:
            blocks = xp.concat([blocks, xp.zeros_like(blocks[_first(missing, axis)])], axis=axis)
    split = xp.reshape(blocks, (*blocks.shape[:3], *_interleaved(spec)))
    return xp.reshape(xp.permute_dims(split, _phases_first(spec.ndim)), (count, *spec.block_shape))


def from_blocks(blocks: Array, spec: ConvSpec, *, xp: Any) -> Array:
    """Adjoint of `to_blocks`, and its inverse on what it returns."""
    first, second = spec.stored_channels
    split = xp.reshape(blocks, (*blocks.shape[:2], second, *spec.phases, *spec.block_kernel_shape))
    whole = xp.permute_dims(split, arrays.inverse_permutation(_phases_first(spec.ndim)))
    whole = xp.reshape(whole, (*blocks.shape[:2], second, *_whole_shape(spec)))
    for axis, k in enumerate(spec.kernel_shape, start=3):
        if k < whole.shape[axis]:
            whole = whole[_first(k, axis)]
    kernels = xp.reshape(whole, (blocks.shape[0] // spec.groups, first, second, *spec.kernel_shape))
    if spec.layout is not None and spec.layout.endswith("IO"):
        kernels = xp.permute_dims(kernels, arrays.inverse_permutation(_io_to_oi(kernels.ndim)))
    return kernels


def _first(count: int, axis: int) -> tuple[slice | EllipsisType, ...]:
    """Index of the first entries along an axis."""
    return (*(slice(None) for _ in range(axis)), slice(0, count), ...)


def _whole_shape(spec: ConvSpec) -> tuple[int, ...]:
    """Kernel sizes rounded up to whole phases."""
    return tuple(t * q for t, q in zip(spec.phases, spec.block_kernel_shape, strict=True))


def _interleaved(spec: ConvSpec) -> tuple[int, ...]:
    """(q_1, t_1, q_2, t_2, ...): tap and phase of each axis of the kernel."""
    return tuple(n for pair in zip(spec.block_kernel_shape, spec.phases, strict=True) for n in pair)


def _phases_first(ndim: int) -> tuple[int, ...]:
    """From (b, m, p, q_1, t_1, ...) to (b, m, p, t_1, ..., q_1, ...)."""
    return (0, 1, 2, *range(4, 3 + 2 * ndim, 2), *range(3, 3 + 2 * ndim, 2))


def _io_to_oi(ndim: int) -> tuple[int, ...]:
    return (0, ndim - 1, ndim - 2, *range(1, ndim - 2))


class Symbol:
    """The symbol ``G(theta) = sum_k K_k e^{i k.theta}`` of a stack of blocks at a list of frequencies.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)
    frequencies : Frequencies
        f points.
    spread : bool
        Share them out by `Backend.spread`, which may repeat the last one.
    """

    def __init__(
        self, blocks: Array, frequencies: Frequencies, *, spread: bool = False, xp: Any, backend: Backend
    ) -> None:
        self.xp = xp
        self.shape = blocks.shape
        self.blocks = blocks
        dtype = np.float64 if blocks.dtype == xp.float64 else np.float32
        cos, sin = phases(frequencies, blocks.shape[3:])
        self.cos = backend.from_numpy(cos.astype(dtype), blocks)
        self.sin = backend.from_numpy(sin.astype(dtype), blocks)
        if spread:
            self.cos, self.sin = backend.spread(self.cos), backend.spread(self.sin)
        self.phase = self.cos + 1j * self.sin

    def matrices(self) -> Array:
        """G at every frequency, shape (b, f, m, p): two real products with the table of cosines and sines."""
        xp, (b, m, p) = self.xp, self.shape[:3]
        taps = xp.permute_dims(xp.reshape(self.blocks, (b, m * p, -1)), (0, 2, 1))
        g = xp.matmul(self.cos, taps) + 1j * xp.matmul(self.sin, taps)
        return xp.reshape(g, (b, -1, m, p))

    def apply(self, v: Array) -> Array:
        """G(theta_f) v_f for one vector a frequency, shape (b, f, p) -> (b, f, m), without forming any G."""
        xp, (b, m, p) = self.xp, self.shape[:3]
        # (b, taps*m, p) @ (b, p, f): every tap applied to every vector, then weighted by its phase.
        taps = xp.reshape(_taps_first(self.blocks, xp), (b, -1, p))
        out = xp.reshape(real_times(taps, xp.matrix_transpose(v), xp=xp), (b, -1, m, v.shape[1]))
        weights = xp.matrix_transpose(self.phase)
        return xp.matrix_transpose(xp.sum(out * weights[None, :, None, :], axis=1))

    def apply_adjoint(self, u: Array) -> Array:
        """G(theta_f)* u_f, shape (b, f, m) -> (b, f, p)."""
        xp, (b, m, p) = self.xp, self.shape[:3]
        taps = xp.matrix_transpose(_taps_first(self.blocks, xp))
        out = real_times(xp.reshape(taps, (b, -1, m)), xp.matrix_transpose(u), xp=xp)
        out = xp.reshape(out, (b, -1, p, u.shape[1]))
        weights = xp.conj(xp.matrix_transpose(self.phase))
        return xp.matrix_transpose(xp.sum(out * weights[None, :, None, :], axis=1))


def _taps_first(blocks: Array, xp: Any) -> Array:
    """Blocks as (b, taps, m, p)."""
    b, m, p = blocks.shape[:3]
    return xp.permute_dims(xp.reshape(blocks, (b, m, p, -1)), (0, 3, 1, 2))


def real_times(a: Array, z: Array, *, xp: Any) -> Array:
    """Real matrices times complex ones, as two real products (half the work of promoting the real factor)."""
    return xp.matmul(a, xp.real(z)) + 1j * xp.matmul(a, xp.imag(z))


def symbol_gradient(u: Array, v: Array, phase: Array, kernel_shape: tuple[int, ...], *, xp: Any) -> Array:
    """Gradient of Re(u* G(theta) v) with respect to the blocks: Re(conj(u_o) v_i e^{i k.theta}).

    Parameters
    ----------
    u, v : arrays, shapes (b, r, m) and (b, r, p)
    phase : array, shape (b, r, taps)

    Returns
    -------
    array, shape (b, m, p, *kernel_shape)
        Summed over r.
    """
    b, r, m = u.shape
    p = v.shape[2]
    right = xp.reshape(v[:, :, :, None] * phase[:, :, None, :], (b, r, -1))
    # Re(conj(x) y) = Re x Re y + Im x Im y: one real product.
    u = xp.matrix_transpose(u)
    left = xp.concat([xp.real(u), xp.imag(u)], axis=2)
    total = xp.matmul(left, xp.concat([xp.real(right), xp.imag(right)], axis=1))
    return xp.reshape(total, (b, m, p, *kernel_shape))


def unfolding_splits(ndim: int, *, every: bool = True) -> tuple[tuple[int, ...], ...]:
    """Axes that go to the rows of each unfolding, as positions in (cout, cin, *spatial); cout always among them.

    With ``every`` false only the 2**d that separate cout from cin (the family of Fantastic Four), else all
    2**(d+1) - 1 splits into two non-empty sides.
    """
    spatial = range(2, 2 + ndim)
    subsets = list(chain.from_iterable(combinations(spatial, r) for r in range(ndim + 1)))
    splits = [(0, *s) for s in subsets]
    if every:
        splits += [(0, 1, *s) for s in subsets if len(s) < ndim]
    return tuple(splits)


def unfold(blocks: Array, rows: tuple[int, ...], *, xp: Any) -> Array:
    """Reshape blocks into matrices whose rows are the given axes, shape (b, prod(rows), prod(columns))."""
    columns = tuple(a for a in range(blocks.ndim - 1) if a not in rows)
    moved = xp.permute_dims(blocks, (0, *(a + 1 for a in rows), *(a + 1 for a in columns)))
    size = math.prod(blocks.shape[a + 1] for a in rows)
    return xp.reshape(moved, (blocks.shape[0], size, -1))


def folded_outer(u: Array, v: Array, rows: tuple[int, ...], shape: tuple[int, ...], *, xp: Any) -> Array:
    """Products u v^T of unfoldings, as blocks of shape (m, p, *kernel_shape): one product, nothing moved."""
    left = tuple(n if axis in rows else 1 for axis, n in enumerate(shape))
    right = tuple(1 if axis in rows else n for axis, n in enumerate(shape))
    return xp.reshape(u, (u.shape[0], *left)) * xp.reshape(v, (v.shape[0], *right))


def require_circular(spec: ConvSpec, function: str, otherwise: str) -> None:
    """Refuse what is not a circular layer at a given input size.

    Raises
    ------
    GeometryError
        Naming what to use instead.
    """
    if spec.padding_mode != "circular" and spec.ndim:
        raise GeometryError(
            f'{function} needs padding_mode="circular"; got "{spec.padding_mode}". The supremum over all sizes bounds '
            f"zero padding too: use {otherwise}."
        )
    if spec.input_shape is None:
        raise GeometryError(
            f"{function} needs input_shape, the layer's spatial input sizes. For every size at once: {otherwise}."
        )


def require_exact(spec: ConvSpec, function: str) -> None:
    """Refuse layers whose norm is not that of the symbols: padding that repeats pixels or drops outputs.

    Raises
    ------
    GeometryError
        Naming what to use instead.
    """
    here = f"padding_mode={spec.padding_mode!r} with padding={spec.padding}"
    if spec.input_shape is None and spec.copies > 1:
        raise GeometryError(
            f"{function} is not known for {here}, which may lift the norm by as much as {math.sqrt(spec.copies):.4g}. "
            "Use enclose(kernel) or grid_bound(kernel), whose upper ends include that factor; power_norm(kernel, "
            "input_shape) is a lower bound at one size."
        )
    if spec.input_shape is not None and not spec.periodic:
        raise GeometryError(
            f"{function} at input_shape is not known for {here}, only for circular padding that gives one output a "
            "stride, such as padding='same'. Use grid_bound(kernel) for an upper bound, power_norm(kernel, "
            "input_shape) for a lower one, or enclose for both."
        )


def circular_sizes(spec: ConvSpec) -> tuple[int, ...]:
    """Sizes of the DFT grid whose symbols make up a circular layer's norm; axes with one tap need one frequency."""
    return tuple(1 if k == 1 else n for n, k in zip(spec.grid_shape, spec.block_kernel_shape, strict=True))


def chunk_length(blocks: Array, budget: int = 256 * 2**20) -> int:
    """How many frequencies fit the memory budget (bytes): about six complex matrices each."""
    b, m, p = blocks.shape[:3]
    return int(max(1, budget // (6 * 16 * b * m * p)))


def largest(
    norms: Callable[[Symbol], Array], blocks: Array, frequencies: Frequencies, *, xp: Any, backend: Backend
) -> tuple[Array, Array]:
    """Maximum of a function of the symbol over frequencies, within the memory budget.

    Parameters
    ----------
    norms : callable
        Takes a `Symbol` of f frequencies, returns (b, f).

    Returns
    -------
    value : array, shape (b,)
    phase : complex array, shape (b, taps)
        ``e^{i k.theta}`` of the taps at the arg-max.
    """
    value, phase = None, None
    step = chunk_length(blocks) * backend.shares
    for start in range(0, len(frequencies), step):
        symbol = Symbol(blocks, frequencies[start : start + step], spread=True, xp=xp, backend=backend)
        found = norms(symbol)
        index = xp.argmax(found, axis=1)
        best = xp.max(found, axis=1)
        here = xp.take(symbol.phase, index, axis=0)
        if value is None or phase is None:
            value, phase = best, here
        else:
            better = best > value
            value, phase = xp.where(better, best, value), xp.where(better[:, None], here, phase)
    return value, phase


def matrix_at(blocks: Array, phase: Array, *, xp: Any) -> Array:
    """Symbol of each block at its own frequency, given by the taps' phases (b, taps): (b, m, p)."""
    b, m, p = blocks.shape[:3]
    flat = xp.reshape(blocks, (b, m * p, -1))
    columns = xp.matmul(flat, xp.stack([xp.real(phase), xp.imag(phase)], axis=-1))
    return xp.reshape(columns[..., 0] + 1j * columns[..., 1], (b, m, p))


def top_triple(g: Array, *, xp: Any) -> tuple[Array, Array, Array]:
    """Top singular triple (u, v, sigma) of each matrix of a stack, from the smaller Gram matrix.

    A zero matrix gets zero vectors, hence a zero gradient rather than an arbitrary one.
    """
    wide = g.shape[-1] > g.shape[-2]
    a = arrays.adjoint(g, xp=xp) if wide else g
    _, v = arrays.top_eigenpair(arrays.gram_smaller(a, xp=xp), xp=xp)
    u, norm = arrays.normalise(xp.matmul(a, v[..., None])[..., 0], xp=xp)
    v = xp.where(norm > 0, v, xp.zeros_like(v))
    return (v, u, norm[..., 0]) if wide else (u, v, norm[..., 0])


def triple_gradient(
    u: Array, v: Array, phase: Array, cotangent: Array, kernel_shape: tuple[int, ...], *, xp: Any
) -> Array:
    """Gradient of a symbol's singular value with one triple and one frequency a block, times a cotangent (b,)."""
    u = u * xp.astype(cotangent, u.dtype)[:, None]
    return symbol_gradient(u[:, None, :], v[:, None, :], phase[:, None, :], kernel_shape, xp=xp)


def matrices_gradient(gamma: Array, phase: Array, kernel_shape: tuple[int, ...], *, xp: Any) -> Array:
    """Gradient with respect to the blocks of sum_f Re<Gamma_f, G(theta_f)>: Re(sum_f conj(Gamma_f) e^{i k.theta_f}).

    Parameters
    ----------
    gamma : array, shape (b, f, m, p)
    phase : array, shape (b, f, taps)
    """
    b, f, m, p = gamma.shape
    # Re(conj(x) y) = Re x Re y + Im x Im y: one real product.
    flat = xp.matrix_transpose(xp.reshape(gamma, (b, f, m * p)))
    left = xp.concat([xp.real(flat), xp.imag(flat)], axis=2)
    total = xp.matmul(left, xp.concat([xp.real(phase), xp.imag(phase)], axis=1))
    return xp.reshape(total, (b, m, p, *kernel_shape))


def support(block: Array, *, backend: Backend) -> Array:
    """Cut the slices of zero taps off the borders of one block (1, m, p, *kernel_shape) with known values.

    A shift of the kernel changes its symbol by a phase alone; what is cut would only loosen the cells.
    """
    taps = np.abs(backend.to_numpy(block)).max(axis=(0, 1, 2)) > 0
    index: list[slice] = []
    for axis in range(taps.ndim):
        used = np.flatnonzero(taps.any(axis=tuple(j for j in range(taps.ndim) if j != axis)))
        index.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1))
    return block[(slice(None), slice(None), slice(None), *index)]
