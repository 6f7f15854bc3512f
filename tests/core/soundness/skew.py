"""Skew-circulants, written out: what wraps around is multiplied by a phase. Imports nothing of specnorm.

A layer with zero padding at one size is cut out of every circulant that is long enough, whatever the phase: no entry
that is kept has wrapped. So the circulant's norm bounds the layer's. Matrices are written by loops, norms are LAPACK's;
the circulant's norm comes also from its symbol, folded over a stride's aliases, at the frequencies ``(2 pi j + phase) /
N``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Complex = NDArray[np.complex128]


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution: input and output sizes, taps, stride, dilation, padding before."""

    n: int
    outputs: int
    k: int
    s: int
    r: int
    before: int

    @property
    def unit(self) -> int:
        """A circulant's length is a multiple of this one: strides and dilations then close on it."""
        return math.lcm(self.s, self.r)

    @property
    def shortest(self) -> int:
        """Length of the shortest circulant of which the layer is a part, by the theorem."""
        last = self.s * (self.outputs - 1) + self.r * (self.k - 1) - self.before
        least = max(self.n + self.before, last + 1, self.s * self.outputs)
        return -(-least // self.unit) * self.unit

    def wraps(self, length: int) -> bool:
        """Whether some entry of the part has wrapped, or two outputs or inputs are one: by looking at every tap."""
        where = [self.s * m % length for m in range(self.outputs)]
        taps = itertools.product(range(self.outputs), range(self.k))
        read = [self.s * m + self.r * t - self.before for m, t in taps]
        apart = len(set(where)) == self.outputs and self.n <= length
        return not apart or any((v % length < self.n) != (0 <= v < self.n) for v in read)


def turned(theta: float, length: int, k: int, r: int, phase: float) -> Complex:
    """Phases of the taps of one axis at a frequency that has the circulant's phase in it already."""
    del length, phase
    return np.asarray(np.exp(1j * theta * r * np.arange(k)))


def ring_matrix(
    kernel: NDArray[np.float64], axes: Sequence[Axis], lengths: Sequence[int], phases: Sequence[float]
) -> Complex:
    """Matrix of the skew-circulant: every output of the circulant reads every tap, modulo its length."""
    cout, cin = kernel.shape[:2]
    counts = [length // axis.s for axis, length in zip(axes, lengths, strict=True)]
    matrix: Any = np.zeros((cout, *counts, cin, *lengths), dtype=np.complex128)
    weights: Any = kernel
    for m in itertools.product(*map(range, counts)):
        for tap in itertools.product(*(range(axis.k) for axis in axes)):
            reads = [a.s * i + a.r * t - a.before for a, i, t in zip(axes, m, tap, strict=True)]
            factor = np.prod(
                [np.exp(1j * phi * (v // length)) for v, length, phi in zip(reads, lengths, phases, strict=True)]
            )
            at = tuple(v % length for v, length in zip(reads, lengths, strict=True))
            matrix[:, *m, :, *at] += weights[:, :, *tap] * factor
    return np.asarray(matrix.reshape(cout * math.prod(counts), cin * math.prod(lengths)))


def part(kernel: NDArray[np.float64], axes: Sequence[Axis], lengths: Sequence[int], phases: Sequence[float]) -> Complex:
    """Rows of the first outputs and columns of the first inputs of the circulant."""
    cout, cin = kernel.shape[:2]
    counts = [length // axis.s for axis, length in zip(axes, lengths, strict=True)]
    whole = ring_matrix(kernel, axes, lengths, phases).reshape(cout, *counts, cin, *lengths)
    rows, columns = (slice(a.outputs) for a in axes), (slice(a.n) for a in axes)
    kept = whole[:, *rows, :, *columns]
    return np.asarray(kept.reshape(cout * math.prod(a.outputs for a in axes), -1))


def ring_norm(
    kernel: NDArray[np.float64],
    axes: Sequence[Axis],
    lengths: Sequence[int],
    phases: Sequence[float],
    tap_phases: Callable[[float, int, int, int, float], Complex] = turned,
) -> float:
    """Norm of the circulant from its symbol: the largest over its coarse frequencies, all aliases side by side."""
    best = 0.0
    scale = 1 / math.sqrt(math.prod(axis.s for axis in axes))
    for coarse in itertools.product(*(range(n // a.s) for a, n in zip(axes, lengths, strict=True))):
        symbols = []
        for alias in itertools.product(*(range(axis.s) for axis in axes)):
            rest: NDArray[np.complex128] = kernel.astype(np.complex128)
            for axis, length, phase, j, a in zip(axes, lengths, phases, coarse, alias, strict=True):
                theta = (2 * math.pi * (j + a * (length // axis.s)) + phase) / length
                rest = np.tensordot(rest, tap_phases(theta, length, axis.k, axis.r, phase), axes=(2, 0))
            symbols.append(rest)
        best = max(best, float(np.linalg.norm(np.concatenate(symbols, axis=1), 2)) * scale)
    return best
