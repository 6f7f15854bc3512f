"""The symbol of a convolution at single frequencies, for `oracle`. Imports nothing of specnorm.

Strided layers are handled by their aliases, not by a polyphase kernel: ``||G_s(theta)||**2`` is the norm of the mean of
``G(phi_a) G(phi_a)*`` over ``phi_a = (theta + 2 pi a) / s``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
EPS = 2.0**-52


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
        strides = (stride,) * ndim if isinstance(stride, int) else tuple(stride)
        dilations = (dilation,) * ndim if isinstance(dilation, int) else tuple(dilation)
        dilations = tuple(r if s > 1 else 1 for r, s in zip(dilations, strides, strict=True))
        corners = np.asarray(list(itertools.product(*map(range, sizes))), dtype=np.float64)
        offsets = corners.reshape(math.prod(sizes), ndim)
        terms = tuple(r * (k - 1) // s + 1 for k, r, s in zip(sizes, dilations, strides, strict=True))
        taps = np.moveaxis(kernel.reshape(m, p, -1), 2, 0)
        return cls(taps, offsets * np.asarray(dilations, dtype=np.float64), strides, terms)

    @property
    def half_degrees(self) -> Float:
        """``(k_j - 1) / 2`` per axis."""
        return (np.asarray(self.terms, dtype=np.float64) - 1) / 2

    @property
    def slack(self) -> float:
        """Rounding error of `norms`: of the phases, the sums over taps, the Gram matrix and its eigenvalues."""
        count, m, p = self.taps.shape
        steps: float = m + p + count + 8 + 2 * math.pi * float(np.sum(np.max(self.offsets, axis=0, initial=0.0)))
        largest = float(np.linalg.norm(np.sum(np.abs(self.taps), axis=0)))
        return EPS * 20 * steps * math.sqrt(min(m, p)) * largest

    def norms(self, theta: Float) -> Float:
        """Spectral norms at frequencies of shape (f, d)."""
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
