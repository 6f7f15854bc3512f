"""The supremum over all input sizes, proven by ball arithmetic to a relative 5e-10. Imports nothing of specnorm.

Folding is by definition, not by theorem: a dilated kernel is filled with zeros, a strided one becomes a plain one on
the phases of its input. What is left is ``max ||G(theta)||``, by a closed form where the symbol is a polynomial in one
variable, else by cells: the one around a maximiser has ``||G(centre)|| >= sigma* cos(phi)``, so if no cell reaches
``mu cos(phi)``, then ``sigma* <= mu``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from core.soundness import balls
from core.soundness.balls import BITS, Bounds, Exact, power_of_two
from core.soundness.truths import Peaks, float_of
from flint import arb, ctx, fmpq
from numpy.typing import NDArray

Float = NDArray[np.float64]
EXCESS = 31
"""``mu`` is ``1 + 2**-EXCESS`` times the highest peak found."""
MAX_CELLS = 200_000


def plain_blocks(kernel: Float, stride: Sequence[int], dilation: Sequence[int], groups: int) -> list[Float]:
    """Stride-1, undilated kernels (out, in * phases, *sizes), one a group, with the layer's norm on unbounded input.

    Output m reads ``x[s m + k]``: with ``k = s q + r`` that is tap q on phase r of the input.
    """
    sizes = [r * (k - 1) + 1 for k, r in zip(kernel.shape[2:], dilation, strict=True)]
    filled = np.zeros((*kernel.shape[:2], *sizes))
    filled[:, :, *(slice(None, None, r) for r in dilation)] = kernel
    folded = [-(-k // s) for k, s in zip(sizes, stride, strict=True)]
    blocks = []
    for block in np.split(filled, groups, axis=0):
        phases = []
        for phase in itertools.product(*map(range, stride)):
            part = block[:, :, *(slice(r, None, s) for r, s in zip(phase, stride, strict=True))]
            room = [(0, q - n) for q, n in zip(folded, part.shape[2:], strict=True)]
            phases.append(np.pad(part, [(0, 0), (0, 0), *room]))
        blocks.append(np.concatenate(phases, axis=1))
    return blocks


def supremum(kernel: Float) -> Bounds:
    """Proven bounds of ``max ||G(theta)||`` of one plain block (m, p, *sizes)."""
    m, p, *sizes = kernel.shape
    if not kernel.any():
        return Bounds(arb(0), arb(0))
    if max(sizes, default=1) == 1:
        return balls.norm(Exact(kernel).matrix(), Exact(kernel).exponent)
    if min(m, p) == 1 and sum(k > 1 for k in sizes) == 1:
        exact = balls.scalar_supremum(list(kernel.reshape(m * p, math.prod(sizes))))
        return Bounds(exact, exact)
    flat = by_lags(kernel)
    with ctx.workprec(BITS):
        low = highest_peak(kernel)
        return Bounds(low, flat) if flat < low * (1 + power_of_two(-EXCESS)) else by_cells(kernel)


def highest_peak(kernel: Float) -> arb:
    """A proven lower bound: the norm at the best frequency known."""
    exact = Exact(kernel)
    return max((exact.norm_below(t) for t in Peaks(kernel).highest(count=6, effort=2)), key=float_of).lower()


def by_lags(kernel: Float) -> arb:
    """Upper bound: with ``G*G = sum_d R_d e^{id.theta}``, the root of ``sum_d ||R_d||``. Sharp for flat symbols."""
    sizes, taps = kernel.shape[2:], range(2, kernel.ndim)
    total = arb(0)
    for lag in itertools.product(*(range(1 - k, k) for k in sizes)):
        ours = tuple(slice(max(0, d), k + min(0, d)) for d, k in zip(lag, sizes, strict=True))
        theirs = tuple(slice(max(0, -d), k + min(0, -d)) for d, k in zip(lag, sizes, strict=True))
        part = np.tensordot(kernel[:, :, *ours], kernel[:, :, *theirs], ((0, *taps), (0, *taps)))
        if part.any():
            with ctx.workprec(BITS):
                total += balls.norm(balls.matrix(part), balls.exponent_of(part)).high
    with ctx.workprec(BITS):
        return total.sqrt()


def by_cells(kernel: Float) -> Bounds:
    """The same by branch and bound; for isolated maxima, since a ridge of them would take a cell each."""
    sizes = kernel.shape[2:]
    exact, peaks = Exact(kernel), Peaks(kernel)
    with ctx.workprec(BITS):
        low = highest_peak(kernel)
        high = (low * (1 + power_of_two(-EXCESS))).upper()
        near = balls.as_float(high, exact.exponent)
        # A real kernel: half of the torus is enough. Cells are (centre, half-width) an axis, in turns.
        moving = [j for j, k in enumerate(sizes) if k > 1]
        cells = [
            tuple(
                (Fraction(0), Fraction(0))
                if k == 1
                else (Fraction(1, 4),) * 2
                if j == moving[0]
                else (Fraction(1, 2),) * 2
                for j, k in enumerate(sizes)
            )
        ]
        spent = 0
        while cells:
            spent += len(cells)
            if spent > MAX_CELLS:
                raise RuntimeError(f"{spent} cells do not prove the supremum of a kernel of shape {kernel.shape}")
            values = peaks.norms(2 * math.pi * np.asarray([[float(c) for c, _ in cell] for cell in cells]))
            left = []
            for cell, value in zip(cells, values.tolist(), strict=True):
                reach = sum(((k - 1) * w for k, (_, w) in zip(sizes, cell, strict=True)), start=Fraction(0))
                # phi = pi * reach; floats only choose which cells are worth a proof.
                hopeful = reach < Fraction(1, 2) and value <= near * math.cos(math.pi * float(reach))
                if not (hopeful and _below(exact, [c for c, _ in cell], high * _cosine(reach))):
                    left += _halves(cell, max(moving, key=lambda j: (sizes[j] - 1) * cell[j][1]))
            cells = left
        return Bounds(low, high)


def _cosine(turns: Fraction) -> arb:
    _, cosine = arb.sin_cos_pi_fmpq(fmpq(turns.numerator, turns.denominator))
    return cosine


def _below(exact: Exact, turns: Sequence[Fraction], bound: arb) -> bool:
    """Whether ``||G(theta)|| < bound`` is certain."""
    g = exact.symbol(turns)
    adjoint = g.transpose().conjugate()
    return balls.positive_definite(g * adjoint if g.ncols() > g.nrows() else adjoint * g, bound * bound)


def _halves(cell: tuple[tuple[Fraction, Fraction], ...], axis: int) -> list[tuple[tuple[Fraction, Fraction], ...]]:
    centre, width = cell[axis]
    return [(*cell[:axis], (centre + sign * width / 2, width / 2), *cell[axis + 1 :]) for sign in (-1, 1)]
