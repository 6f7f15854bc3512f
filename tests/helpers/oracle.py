"""Independent truth for the tests: dense matrices written out by loops, in NumPy float64. Imports nothing of specnorm.

Everything is slow, short and obvious on purpose. A truth has two bounds, because the oracle rounds too: ``lo <= norm <=
hi``; tests compare with the one that favours the library, so that a failure is a proof.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
EPS = 2.0**-52
PaddingMode = Literal["circular", "zeros", "reflect", "symmetric", "replicate"]
Padding = Literal["same"] | int | Sequence[tuple[int, int]]
Function = TypeVar("Function", bound=Callable[..., "Truth"])


@dataclass(frozen=True, eq=False)
class PlainSymbol:
    """``||G(theta)||`` of one dense kernel, by direct summation over taps.

    Parameters
    ----------
    taps : array, shape (t, m, p)
        The matrices of the taps, scaled to about 1.
    offsets : array, shape (t, d)
        Where each tap reads (dilation included).
    stride : tuple of int
    terms : tuple of int
        Number of consecutive terms per axis of the trigonometric polynomial in theta (after the stride).
    """

    taps: Float
    offsets: Float
    stride: tuple[int, ...]
    terms: tuple[int, ...]

    @classmethod
    def of(cls, kernel: Float, stride: int | Sequence[int], dilation: int | Sequence[int]) -> PlainSymbol:
        """Read a kernel of shape (m, p, *kernel_shape).

        Without a stride a dilation only relabels the torus, so it is dropped there.
        """
        m, p, *sizes = kernel.shape
        ndim = len(sizes)
        strides, dilations = per_axis(stride, ndim), per_axis(dilation, ndim)
        dilations = tuple(r if s > 1 else 1 for r, s in zip(dilations, strides, strict=True))
        corners = np.asarray(list(itertools.product(*map(range, sizes))), dtype=np.float64)
        offsets = corners.reshape(math.prod(sizes), ndim)
        terms = tuple(r * (k - 1) // s + 1 for k, r, s in zip(sizes, dilations, strides, strict=True))
        taps = np.moveaxis(kernel.reshape(m, p, -1), 2, 0)
        return cls(taps, offsets * np.asarray(dilations, dtype=np.float64), strides, terms)

    @property
    def half_degrees(self) -> Float:
        return (np.asarray(self.terms, dtype=np.float64) - 1) / 2

    @property
    def slack(self) -> float:
        """Rounding error of `norms`: of the phases, the sums over taps, the Gram matrix and its eigenvalues."""
        count, m, p = self.taps.shape
        steps: float = m + p + count + 8 + 2 * math.pi * float(np.sum(np.max(self.offsets, axis=0, initial=0.0)))
        largest = float(np.linalg.norm(np.sum(np.abs(self.taps), axis=0)))
        return EPS * 20 * steps * math.sqrt(min(m, p)) * largest

    def norms(self, theta: Float) -> Float:
        chunk = max(1, 2_000_000 // max(1, self.taps[0].size * math.prod(self.stride)))
        parts = [self._norms(theta[i : i + chunk]) for i in range(0, len(theta), chunk)]
        return np.concatenate(parts)

    def _norms(self, theta: Float) -> Float:
        count, m, p = self.taps.shape
        aliases = np.asarray(list(itertools.product(*map(range, self.stride))), dtype=np.float64)
        aliases = aliases.reshape(math.prod(self.stride), len(self.stride))
        stride = np.asarray(self.stride, dtype=np.float64)
        gram: Any = 0.0
        for alias in aliases:
            phase = np.exp(1j * (((theta + 2 * math.pi * alias) / stride) @ self.offsets.T))
            g = (phase @ self.taps.reshape(count, -1)).reshape(-1, m, p)
            if p < m and len(aliases) == 1:
                g = np.swapaxes(g, 1, 2)
            gram = gram + g @ np.conj(np.swapaxes(g, 1, 2)) / len(aliases)
        top: Float = np.linalg.eigvalsh(gram)[..., -1]
        return np.asarray(np.sqrt(np.maximum(top, 0.0)), dtype=np.float64)

    def triangle(self) -> float:
        """The sum of the taps' own norms: never below the supremum."""
        values = np.linalg.svd(self.taps, compute_uv=False)[:, 0]
        return float(np.sum(values)) + self.slack

    def first_sizes(self) -> list[int]:
        """Equispaced frequencies per axis (of the whole torus) that `first_cells` stands for; the last is even."""
        live = [j for j, k in enumerate(self.terms) if k > 1]
        per_degree = {1: 24, 2: 12}.get(len(live), 8)
        return [1 if k == 1 else per_degree * (k - 1) for k in self.terms]

    def first_cells(self) -> tuple[Float, Float]:
        """Centres (f, d) and common half-widths (d,) of cells that cover the half torus, mirror images left out."""
        sizes = self.first_sizes()
        ranges = [(np.arange(n) + 0.5) * 2 * math.pi / n - math.pi if n > 1 else np.zeros(1) for n in sizes]
        live = [j for j, n in enumerate(sizes) if n > 1]
        if live:
            ranges[live[0]] = ranges[live[0]][ranges[live[0]] > 0]
        grids = np.meshgrid(*ranges, indexing="ij") if ranges else []
        centres = np.stack([g.ravel() for g in grids], axis=-1) if grids else np.zeros((1, 0))
        widths = np.asarray([math.pi / n if n > 1 else 0.0 for n in sizes])
        return centres, widths

    def grid_factor(self) -> float:
        """Product of Ehlich and Zeller's factors for the grid of `first_cells`."""
        factor = 1.0
        for n, k in zip(self.first_sizes(), self.terms, strict=True):
            factor /= math.cos(math.pi * (k - 1) / (2 * n))
        return factor * (1 + 1e-13)

    def ascend(self, start: Float, widths: Float) -> float:
        """Best norm found by a small grid that follows its best point and shrinks around it."""
        offsets = np.asarray(list(itertools.product(*[(-1.0, 0.0, 1.0) if w else (0.0,) for w in widths])))
        centre, best, shrink = start, 0.0, 1.0
        while shrink > 1e-9:
            points = centre + offsets * widths * shrink
            norms = self.norms(points)
            where = int(np.argmax(norms))
            if norms[where] > best:
                best, centre = float(norms[where]), points[where]
            shrink *= 0.6
        return best


@dataclass(frozen=True)
class Truth:
    """A number known to lie between two bounds."""

    lo: float
    hi: float

    def scaled(self, exponent: int) -> Truth:
        """Both bounds times ``2**exponent``."""
        return Truth(math.ldexp(self.lo, exponent), math.ldexp(self.hi, exponent))


def per_axis(value: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    return (value,) * ndim if isinstance(value, int) else tuple(int(v) for v in value)


def padding_pairs(padding: Padding, kernel_shape: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """(before, after) per axis; "same" is dilation * (k - 1) in all, the smaller half before."""
    if isinstance(padding, str):
        total = [r * (k - 1) for k, r in zip(kernel_shape, dilation, strict=True)]
        return [(t // 2, t - t // 2) for t in total]
    if isinstance(padding, int):
        return [(padding, padding)] * len(kernel_shape)
    return [(int(before), int(after)) for before, after in padding]


def output_shape(
    kernel_shape: Sequence[int],
    input_shape: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> tuple[int, ...]:
    axes = zip(kernel_shape, input_shape, stride, dilation, pads, strict=True)
    return tuple((n + before + after - r * (k - 1) - 1) // s + 1 for k, n, s, r, (before, after) in axes)


def source_index(position: int, size: int, mode: PaddingMode) -> int | None:
    """Index of the input that a position of the padded input reads; None for a zero."""
    if mode == "circular":
        return position % size
    if 0 <= position < size:
        return position
    if mode == "zeros":
        return None
    if mode == "replicate":
        return min(max(position, 0), size - 1)
    if mode == "symmetric":
        return int(np.pad(np.arange(size), size, mode="symmetric")[position + size])
    mirrored = -position if position < 0 else 2 * (size - 1) - position
    if not 0 <= mirrored < size:
        raise ValueError(f"reflect padding reaches position {position} of an axis of size {size}")
    return mirrored


def dense_matrix(
    kernel: NDArray[Any],
    input_shape: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    transposed: bool = False,
    padding_mode: PaddingMode = "circular",
    padding: Padding = "same",
) -> Float:
    """Write the layer's matrix out: ``y[o, m] = sum_{i,k} K[o, i, k] x[i, s m + r k - before]``.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape); transposed: (cin, cout // groups, *kernel_shape)
    input_shape : int or sequence of int
        The layer's own spatial input sizes.

    Returns
    -------
    float64 array, shape (cout * prod(output), cin * prod(input))
        Of the layer as it stands; a transposed layer is the transpose of the convolution with the same kernel.
    """
    weights = np.asarray(kernel).astype(np.float64)
    kernel_shape = weights.shape[2:]
    ndim = len(kernel_shape)
    sizes = per_axis(input_shape, ndim)
    strides, dilations = per_axis(stride, ndim), per_axis(dilation, ndim)
    pads = padding_pairs(padding, kernel_shape, dilations)
    if transposed:
        if padding_mode == "circular" and padding == "same":
            large = tuple(n * s for n, s in zip(sizes, strides, strict=True))
        elif padding_mode == "zeros":
            axes = zip(sizes, strides, dilations, kernel_shape, pads, strict=True)
            large = tuple((n - 1) * s - before - after + r * (k - 1) + 1 for n, s, r, k, (before, after) in axes)
        else:
            raise ValueError(f"no transposed convolution has padding_mode={padding_mode!r}, padding={padding!r}")
        return _convolution(weights, large, strides, dilations, groups, padding_mode, pads).T
    return _convolution(weights, sizes, strides, dilations, groups, padding_mode, pads)


def _convolution(
    weights: Float,
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    groups: int,
    mode: PaddingMode,
    pads: list[tuple[int, int]],
) -> Float:
    cout, per_group = weights.shape[:2]
    kernel_shape = weights.shape[2:]
    outputs = output_shape(kernel_shape, sizes, strides, dilations, pads)
    if min((*sizes, *outputs), default=1) < 1:
        raise ValueError(f"no output: kernel {kernel_shape}, input {sizes}, padding {pads}")
    full: Any = np.zeros((cout, per_group * groups, *kernel_shape))
    block = cout // groups
    for group in range(groups):
        out, inp = slice(group * block, (group + 1) * block), slice(group * per_group, (group + 1) * per_group)
        full[out, inp] = weights[out]
    matrix = np.zeros((cout, math.prod(outputs), per_group * groups, math.prod(sizes)))
    for row, m in enumerate(itertools.product(*map(range, outputs))):
        for tap in itertools.product(*map(range, kernel_shape)):
            positions = [
                source_index(s * i + r * k - before, n, mode)
                for s, i, r, k, (before, _), n in zip(strides, m, dilations, tap, pads, sizes, strict=True)
            ]
            column = 0
            for position, n in zip(positions, sizes, strict=True):
                if position is None:
                    break
                column = column * n + position
            else:
                matrix[:, row, :, column] += full[:, :, *tap]
    return matrix.reshape(cout * math.prod(outputs), -1)


def remembered(truth: Function) -> Function:
    """Compute a truth once for each kernel and geometry: tests of several methods ask for the same ones."""
    known: dict[tuple[object, ...], Truth] = {}

    @functools.wraps(truth)
    def looked_up(kernel: NDArray[Any], *args: Any, **geometry: Any) -> Truth:
        values = np.asarray(kernel)
        contents = hashlib.sha256(values.tobytes()).digest()
        key = (values.dtype.str, values.shape, contents, repr(args), repr(sorted(geometry.items())))
        if key not in known:
            known[key] = truth(values, *args, **geometry)
        return known[key]

    return cast(Function, looked_up)


def scale_to_one(kernel: NDArray[Any]) -> tuple[Float, int]:
    """Exact float64 copy divided by a power of two, largest entry about 1, and the exponent."""
    exact = np.asarray(kernel).astype(np.float64)
    exponent = int(np.frexp(np.max(np.abs(exact), initial=0.0))[1])
    return np.ldexp(exact, -exponent), exponent


def _spectrum(
    kernel: NDArray[Any], input_shape: int | Sequence[int], geometry: dict[str, Any]
) -> tuple[Float, float, int]:
    """Singular values of the layer's matrix, descending, what each may be off by, and the binary exponent of both.

    Two errors: LAPACK's backward error, at most a modest multiple of the size times eps ||A||_F, and the additions
    where several taps meet in one entry, at most taps * eps times the matrix of absolute values.
    """
    scaled, exponent = scale_to_one(kernel)
    matrix, absolute = (dense_matrix(x, input_shape, **geometry) for x in (scaled, np.abs(scaled)))
    # What is seen may be far smaller than the kernel.
    shift = int(np.frexp(np.max(absolute, initial=0.0))[1])
    values = np.linalg.svd(np.ldexp(matrix, -shift), compute_uv=False)
    steps = 10 * max(matrix.shape) + math.prod(scaled.shape[2:])
    slack = EPS * steps * float(np.linalg.norm(np.ldexp(absolute, -shift)))
    return np.asarray(values, dtype=np.float64), slack, exponent + shift


def all_singular_values(kernel: NDArray[Any], input_shape: int | Sequence[int], **geometry: Any) -> Float:
    values, _, exponent = _spectrum(kernel, input_shape, geometry)
    return np.ldexp(values, exponent)


@remembered
def dense_norm(kernel: NDArray[Any], input_shape: int | Sequence[int], **geometry: Any) -> Truth:
    """Spectral norm of the layer at one input size, from its dense matrix."""
    values, slack, exponent = _spectrum(kernel, input_shape, geometry)
    return Truth(max(float(values[0]) - slack, 0.0), float(values[0]) + slack).scaled(exponent)


@remembered
def dense_smallest(kernel: NDArray[Any], input_shape: int | Sequence[int], **geometry: Any) -> Truth:
    """Smallest of the ``min(rows, columns)`` singular values of the layer's dense matrix."""
    values, slack, exponent = _spectrum(kernel, input_shape, geometry)
    return Truth(max(float(values[-1]) - slack, 0.0), float(values[-1]) + slack).scaled(exponent)


def values_on_grid(kernel: NDArray[Any], points: int | Sequence[int]) -> Any:
    """Singular values of the symbol of a dense kernel, at so many frequencies along each axis; rounded as they are.

    Of two opposite frequencies, at which they are the same for a real kernel, one is taken.
    """
    kernel, axes = kernel.astype(np.float64), tuple(range(2, kernel.ndim))
    symbol: Any = np.fft.rfftn(kernel, [*np.broadcast_to(points, len(axes))], axes) if axes else kernel
    return np.linalg.svd(np.moveaxis(symbol, (0, 1), (-2, -1)), compute_uv=False)


@remembered
def smallest_everywhere(kernel: NDArray[Any], points: int = 48) -> Truth:
    """Smallest singular value of the symbol of a dense kernel over all frequencies, by its slope on a grid.

    A singular value changes by no more than the symbol does, and that by at most ``sum_k ||K_k|| |k . delta|``.
    """
    scaled, exponent = scale_to_one(kernel)
    sizes = scaled.shape[2:]
    grid = [points if k > 1 else 1 for k in sizes]
    values = values_on_grid(scaled, grid)[..., -1]
    norms = np.linalg.norm(np.moveaxis(scaled, (0, 1), (-2, -1)), 2, axis=(-2, -1))
    slope = 0.0
    for axis, (k, n) in enumerate(zip(sizes, grid, strict=True)):
        places = np.abs(np.arange(k) - (k - 1) / 2).reshape((-1,) + (1,) * (len(sizes) - 1 - axis))
        slope += float(np.sum(norms * places)) * math.pi / n
    smallest = float(values.min())
    slack = (
        EPS
        * 100
        * (sum(scaled.shape) + points)
        * float(np.linalg.norm(np.sum(np.abs(scaled.reshape(*scaled.shape[:2], -1)), axis=2)))
    )
    return Truth(max(smallest - slope - slack, 0.0), smallest + slack).scaled(exponent)


@remembered
def sigma_star(
    kernel: NDArray[Any],
    *,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    transposed: bool = False,
    rtol: float = 1e-7,
    max_cells: int = 20_000,
) -> Truth:
    """Supremum of the norm over every input size: the largest ``||G(theta)||`` over all frequencies.

    The lower bound is a value ``||G(theta)||``, less rounding. The upper bound is the best of three: the triangle
    inequality over taps; Ehlich and Zeller's factor on an equispaced grid; and cells of frequencies, where a maximiser
    inside a cell forces ``||G(centre)|| >= sigma* cos(sum_j (k_j - 1) / 2 * halfwidth_j)``. A transposed layer is an
    adjoint and a grouped one block diagonal, and both kernels are stored with the groups along the first axis.
    """
    del transposed
    scaled, exponent = scale_to_one(kernel)
    bounds = [
        _block_supremum(PlainSymbol.of(block, stride, dilation), rtol, max_cells)
        for block in np.split(scaled, groups, axis=0)
    ]
    return Truth(max(e.lo for e in bounds), max(e.hi for e in bounds)).scaled(exponent)


def _block_supremum(symbol: PlainSymbol, rtol: float, max_cells: int) -> Truth:
    slack = symbol.slack
    centres, widths = symbol.first_cells()
    norms = symbol.norms(centres)
    lo = float(np.max(norms))
    upper = min(symbol.triangle(), lo * symbol.grid_factor() + slack)
    if widths.any():
        lo = max(lo, *(symbol.ascend(centres[start], widths) for start in np.argsort(norms)[-2:]))
    spent = len(norms)
    while True:
        bound = norms / np.cos(widths @ symbol.half_degrees)
        failing = bound > lo * (1 + rtol)
        if not failing.any() or spent + 2 * int(failing.sum()) > max_cells:
            break
        axis = int(np.argmax(widths * symbol.half_degrees))
        step = np.zeros_like(widths)
        step[axis] = widths[axis] / 2
        centres = np.concatenate([centres[failing] - step, centres[failing] + step])
        widths = np.where(step > 0, step, widths)
        norms = symbol.norms(centres)
        lo = max(lo, float(np.max(norms)))
        spent += len(norms)
    if failing.any():
        lo = max(lo, symbol.ascend(centres[int(np.argmax(norms))], widths))
    upper = min(upper, max(lo * (1 + rtol), float(np.max(bound))) + slack)
    return Truth(max(lo - slack, 0.0), max(upper, lo - slack))


def tensor_norm_best(kernel: NDArray[Any], starts: int = 20, sweeps: int = 200, seed: int = 0) -> Float:
    """Published recipe for the tensor-norm bound: complex alternating maximisation from random starts.

    Returns
    -------
    float64 array, shape (starts,)
        ``sqrt(taps)`` times the form's value at the end of each start. Local maxima: none of them is a bound.
    """
    scaled, exponent = scale_to_one(kernel)
    taps = math.prod(scaled.shape[2:])
    random = np.random.RandomState(seed)
    drawn = [[random.standard_normal(n) + 1j * random.standard_normal(n) for n in scaled.shape] for _ in range(starts)]
    vectors: list[Any] = [np.stack([v / np.linalg.norm(v) for v in axis]) for axis in zip(*drawn, strict=True)]
    matrices = [np.moveaxis(scaled, axis, 0).reshape(n, -1).T for axis, n in enumerate(scaled.shape)]
    for _ in range(sweeps):
        for axis, matrix in enumerate(matrices):
            products: Any = np.ones((starts, 1))
            for other in (v for j, v in enumerate(vectors) if j != axis):
                products = (products[:, :, None] * other[:, None, :]).reshape(starts, -1)
            rest = products.real @ matrix + 1j * (products.imag @ matrix)
            values = np.linalg.norm(rest, axis=1)
            moved = np.conj(rest) / np.where(values > 0, values, 1.0)[:, None]
            vectors[axis] = np.where(values[:, None] > 0, moved, vectors[axis])
    return np.asarray(np.ldexp(values * math.sqrt(taps), exponent))
