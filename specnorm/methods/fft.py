"""Exact norm of a circular layer: the largest symbol norm over the DFT frequencies (Sedghi, Gupta and Long 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from specnorm import arrays, operators, rounding
from specnorm.errors import MethodError
from specnorm.frequencies import Frequencies, half_grid, mirror_index, product
from specnorm.methods.base import Evaluation, Method

if TYPE_CHECKING:
    from specnorm.backends import Array, Backend
    from specnorm.conv import ConvSpec
    from specnorm.result import Kind
    from specnorm.rounding import Rounds


@dataclass(frozen=True)
class ExactFFT(Method):
    """Norm of a circular layer at one input size, to a relative tolerance.

    The symbols are matrix products with tables of cosines, not an FFT: a kernel larger than the input wraps by itself,
    and no frequency is stored. On libraries without compilation cost, most frequencies are ruled out in whole cells by
    the cell lemma, so that the cost hardly grows with the input; elsewhere every frequency is visited.

    Parameters
    ----------
    rtol : float
        The value is at most this far, relatively, below the norm.

    References
    ----------
    .. [1] Sedghi, Gupta, Long, "The Singular Values of Convolutional Layers", ICLR 2019, theorem 6.
    """

    rtol: float = 1e-6

    name: ClassVar[str] = "fft"
    stats: ClassVar[Mapping[str, Rounds | None]] = {"frequencies": None}
    wide: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.rtol < 1:
            raise MethodError(f"rtol={self.rtol!r} is not between 0 and 1.")

    def kind(self, spec: ConvSpec) -> Kind:
        """Exact for the circular layer at its input size."""
        del spec
        return "exact"

    def check(self, spec: ConvSpec) -> None:
        """Circular at a given size only."""
        super().check(spec)
        operators.require_circular(spec, "conv_norm", "grid_bound(kernel) or tn_bound(kernel)")

    def forward(self, blocks: Array, spec: ConvSpec, *, xp: Any, backend: Backend) -> Evaluation:
        """Find the arg-max frequency, then its singular triple."""
        sizes = operators.circular_sizes(spec)
        every = half_grid(sizes)
        coarse = half_grid(_coarse_sizes(spec.block_kernel_shape))
        if backend.static_shapes or backend.is_traced(blocks) or len(every) <= 2 * len(coarse):
            _, phase = operators.largest(_norms(xp), blocks, every, xp=xp, backend=backend)
            visited = xp.full((blocks.shape[0],), len(every), dtype=xp.int32, device=backend.device(blocks))
        else:
            found = [
                _search(blocks[i : i + 1, ...], sizes, coarse, self.rtol, xp=xp, backend=backend)
                for i in range(blocks.shape[0])
            ]
            phase = xp.concat([f[0] for f in found], axis=0)
            visited = backend.from_numpy(np.asarray([f[1] for f in found], dtype=np.int32), blocks)
        u, v, value = operators.top_triple(operators.matrix_at(blocks, phase, xp=xp), xp=xp)
        return Evaluation(value, (visited,), (u, v, phase))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
        """Re(conj(u_o) v_i e^{i k.theta}) at the arg-max frequency."""
        u, v, phase = residuals
        return operators.triple_gradient(u, v, phase, cotangent, spec.block_kernel_shape, xp=xp)


@dataclass(frozen=True)
class SingularValues(Method):
    """All singular values of a circular layer at one input size, descending; or the k largest.

    Parameters
    ----------
    k : int or None
        How many; None: all ``prod(input_shape) * min(cin, cout)``.
    """

    k: int | None = None

    name: ClassVar[str] = "singular_values"
    wide: ClassVar[bool] = True

    def kind(self, spec: ConvSpec) -> Kind:
        """Exact for the circular layer at its input size."""
        del spec
        return "exact"

    def check(self, spec: ConvSpec) -> None:
        """Circular at a given size only, and no more values than there are."""
        super().check(spec)
        operators.require_circular(spec, "singular_values", "conv_norm and the bounds")
        total = self._total(spec)
        if self.k is not None and not 1 <= self.k <= total:
            raise MethodError(f"k={self.k!r} is not a number of singular values: this layer has {total}.")

    def value_shape(self, spec: ConvSpec) -> tuple[int, ...]:
        """Return k, or all."""
        return (self.k or self._total(spec),)

    @staticmethod
    def _total(spec: ConvSpec) -> int:
        return math.prod(spec.input_shape or ()) * min(spec.cin, spec.cout)

    def forward(self, blocks: Array, spec: ConvSpec, *, xp: Any, backend: Backend) -> Evaluation:
        """SVD at half the frequencies; the others are their mirror images."""
        assert spec.input_shape is not None
        half = half_grid(spec.input_shape)
        mirror = backend.from_numpy(mirror_index(spec.input_shape), blocks)
        parts, step = [], operators.chunk_length(blocks)
        for start in range(0, len(half), step):
            symbol = operators.Symbol(blocks, half[start : start + step], xp=xp, backend=backend)
            u, s, vh = xp.linalg.svd(symbol.matrices(), full_matrices=False)
            phase = xp.broadcast_to(symbol.phase[None], (blocks.shape[0], *symbol.phase.shape))
            parts.append((u, s, vh, phase))
        u, s, vh, phase = (xp.take(xp.concat(list(p), axis=1), mirror, axis=1) for p in zip(*parts, strict=True))
        flat = xp.reshape(s, (s.shape[0], -1))
        order = xp.argsort(flat, axis=1, descending=True)
        value = xp.take_along_axis(flat, order[:, : self.k or flat.shape[1]], axis=1)
        return Evaluation(value, (), (u, vh, phase, order))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
        """Sum over the values of cotangent times Re(conj(u_o) v_i e^{i k.theta})."""
        u, vh, phase, order = residuals
        b, f, _, r = u.shape
        # Undo the sort: value j of the sorted list belongs to (frequency, index) order[j]; values not asked for get 0.
        ranks = xp.argsort(order, axis=1)
        asked = ranks < cotangent.shape[1]
        weights = xp.take_along_axis(cotangent, xp.where(asked, ranks, xp.zeros_like(ranks)), axis=1)
        weights = xp.where(asked, weights, xp.zeros_like(weights))
        weights = xp.astype(xp.reshape(weights, (b, f, 1, r)), u.dtype)
        return operators.matrices_gradient(xp.matmul(u * weights, vh), phase, spec.block_kernel_shape, xp=xp)


def _norms(xp: Any) -> Any:
    def norms(symbol: operators.Symbol) -> Array:
        gram = operators.gram_smaller(symbol.matrices(), xp=xp)
        top = xp.linalg.eigvalsh((gram + arrays.adjoint(gram, xp=xp)) / 2)[..., -1]
        return xp.sqrt(xp.maximum(top, xp.zeros_like(top)))

    return norms


def _coarse_sizes(kernel_shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if k == 1 else 8 * (k - 1) for k in kernel_shape)


def _search(
    block: Array, sizes: tuple[int, ...], coarse: Frequencies, rtol: float, *, xp: Any, backend: Backend
) -> tuple[Array, int]:
    """Arg-max over the DFT grid of one block without visiting every frequency.

    Cells are boxes of grid points, each judged at its middle point c. With S >= sigma* from a coarse uniform grid and
    phi the cell's half-width in the sense of Bernstein, a cell with ``arccos(||G(c)|| / S) >= arccos(mu / S) + phi``
    holds no norm above mu: ``arccos(||G|| / S)`` is 1-Lipschitz in phi. (The cosine lemma itself needs a maximum of the
    whole torus at the centre, which the best grid point is not.)

    Returns
    -------
    phase : array, shape (1, taps)
        At the arg-max.
    visited : int
        Frequencies whose norm was computed.
    """
    shape = block.shape[3:]
    norms = _norms(xp)

    def evaluate(points: Frequencies) -> np.ndarray:
        step = operators.chunk_length(block)
        parts = [
            backend.to_numpy(norms(operators.Symbol(block, points[i : i + step], xp=xp, backend=backend)))[0]
            for i in range(0, len(points), step)
        ]
        return np.concatenate(parts)

    factor = math.prod(rounding.grid_factor(n, k) for n, k in zip(_coarse_sizes(shape), shape, strict=True))
    supremum = float(np.max(evaluate(coarse))) * factor * (1 + 1e-6)
    half_degree = np.asarray([(k - 1) / 2 for k in shape])
    # One axis covers half the circle only.
    last = np.asarray([n - 1 for n in sizes])
    axis = int(np.argmax(sizes))
    last[axis] = sizes[axis] // 2
    ranges = [_split(0, int(n), 4 * (k - 1)) for n, k in zip(last, shape, strict=True)]
    corners = product([np.arange(len(r)) for r in ranges])
    low = np.stack([np.asarray([r[0] for r in ranges[j]])[corners[:, j]] for j in range(len(shape))], axis=1)
    high = np.stack([np.asarray([r[1] for r in ranges[j]])[corners[:, j]] for j in range(len(shape))], axis=1)

    best, where, visited = -1.0, low[0], len(coarse)
    while len(low):
        middle = (low + high) // 2
        found = evaluate(Frequencies(middle, sizes))
        visited += len(middle)
        if found.max() > best:
            best, where = float(found.max()), middle[int(np.argmax(found))]
        reach = (2 * math.pi / np.asarray(sizes)) * np.maximum(high - middle, middle - low) * half_degree
        target = min(best * (1 + rtol / 2), supremum)
        if supremum <= 0:
            break
        margin = np.arccos(np.clip(found / supremum, 0, 1)) - math.acos(target / supremum)
        keep = (margin < reach.sum(axis=1)) & (high > low).any(axis=1)
        low, high = _halve(low[keep], high[keep], reach[keep])
    symbol = operators.Symbol(block, Frequencies(where[None], sizes), xp=xp, backend=backend)
    return symbol.phase, visited


def _split(low: int, high: int, pieces: int) -> list[tuple[int, int]]:
    """Cut the integers low..high into at most so many runs, as equal as can be."""
    edges = np.unique(np.linspace(low, high + 1, max(1, pieces) + 1).astype(int))
    return [(int(a), int(b) - 1) for a, b in pairwise(edges)]


def _halve(low: np.ndarray, high: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split each box along the axis that reaches farthest (and has more than one point)."""
    if not len(low):
        return low, high
    rows = np.arange(len(low))
    axis = np.argmax(np.where(high > low, reach, -1.0), axis=1)
    cut = (low[rows, axis] + high[rows, axis]) // 2
    left_high, right_low = high.copy(), low.copy()
    left_high[rows, axis] = cut
    right_low[rows, axis] = cut + 1
    return np.concatenate([low, right_low]), np.concatenate([left_high, high])
