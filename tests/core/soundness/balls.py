"""Rigorous norms by ball arithmetic (python-flint, 77 digits). Imports nothing of specnorm.

A number here is a ball: an exact midpoint and a proven radius. ``a < b`` is true only where it holds for all of both
balls, so a comparison that succeeds is a proof, and nothing needs a tolerance. Kernels are taken as the exact numbers
their floats are; frequencies are exact rationals of a turn.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from flint import acb, acb_mat, arb, arb_mat, ctx, fmpq, fmpz, fmpz_poly
from numpy.typing import NDArray

BITS = 256
Turns = Sequence[Fraction]


def power_of_two(exponent: int) -> arb:
    return arb((1, exponent))


def as_float(x: arb, exponent: int = 0) -> float:
    return float((x * power_of_two(-exponent)).mid())


@dataclass(frozen=True, eq=False)
class Bounds:
    """A number proven to lie between two balls."""

    low: arb
    high: arb


class Exact:
    """A kernel (m, p, *kernel_shape) as exact numbers.

    Parameters
    ----------
    kernel : floating array of any precision up to float64
    """

    def __init__(self, kernel: NDArray[Any]) -> None:
        values = np.asarray(kernel).astype(np.float64)
        self.m, self.p, *sizes = values.shape
        self.sizes = tuple(sizes)
        self.taps = math.prod(sizes)
        self.exponent = int(np.frexp(np.max(np.abs(values), initial=0.0))[1])
        # Rows are channel pairs: one product with the taps' cosines and sines is the symbol.
        self.columns = arb_mat(self.m * self.p, self.taps, values.reshape(-1).tolist())

    def symbol(self, turns: Turns) -> acb_mat:
        """``G(theta) = sum_k K_k e^{i k.theta}`` at ``theta = 2 pi turns``."""
        with ctx.workprec(BITS):
            axes = [[_unit(k * t) for k in range(size)] for t, size in zip(turns, self.sizes, strict=True)]
            phases = [math.prod(z, start=acb(1)) for z in itertools.product(*axes)]
            table = arb_mat(self.taps, 2, [x for z in phases for x in (z.real, z.imag)])
            parts = (self.columns * table).entries()
            pairs = zip(parts[::2], parts[1::2], strict=True)
            return acb_mat(self.m, self.p, [acb(re, im) for re, im in pairs])

    def norm(self, turns: Turns) -> Bounds:
        return norm(self.symbol(turns), self.exponent)

    def norm_below(self, turns: Turns) -> arb:
        """``||G(theta) v|| / ||v||`` at the top right singular vector: what ``||G(theta)||`` is at least."""
        g = self.symbol(turns)
        return quotient(g, top_vector(g, self.exponent))

    def matrix(self) -> acb_mat:
        return acb_mat(arb_mat(self.m, self.p * self.taps, self.columns.entries()))


def _unit(turns: Fraction) -> acb:
    sine, cosine = arb.sin_cos_pi_fmpq(fmpq(2 * turns.numerator, turns.denominator))
    return acb(cosine, sine)


def matrix(a: NDArray[Any]) -> acb_mat:
    values = np.asarray(a).astype(np.float64)
    return acb_mat(arb_mat(values.shape[0], values.shape[1], values.reshape(-1).tolist()))


def exponent_of(a: NDArray[Any]) -> int:
    return int(np.frexp(np.max(np.abs(np.asarray(a).astype(np.float64)), initial=0.0))[1])


def top_vector(g: acb_mat, exponent: int = 0) -> NDArray[np.complex128]:
    """Top right singular vector of the midpoints, in floats: any vector gives a true lower bound."""
    scaled = [complex(as_float(z.real, exponent), as_float(z.imag, exponent)) for z in g.entries()]
    a = np.asarray(scaled).reshape(g.nrows(), g.ncols())
    vector: NDArray[np.complex128] = np.conj(np.linalg.svd(a)[2][0])
    return vector


def _squares(column: acb_mat) -> arb:
    total = sum((z.real * z.real + z.imag * z.imag for z in column.entries()), start=arb(0))
    return total.nonnegative_part()  # a ball around 0 times itself reaches below it


def _column(v: NDArray[Any]) -> acb_mat:
    return acb_mat(len(v), 1, [acb(z.real, z.imag) for z in v.tolist()])


def quotient(g: acb_mat, v: NDArray[Any]) -> arb:
    """``||g v|| / ||v||``, a ball; never above ``||g||``."""
    with ctx.workprec(BITS):
        column = _column(v)
        return (_squares(g * column) / _squares(column)).nonnegative_part().sqrt()


def norm(g: acb_mat, exponent: int = 0) -> Bounds:
    """Spectral norm of a matrix of balls, proven from both sides.

    The lower bound is a Rayleigh quotient. The upper bound mu is proven by eliminating ``mu**2 I - G*G`` in ball
    arithmetic: if every pivot is certainly positive the matrix is positive definite.
    """
    with ctx.workprec(BITS):
        wide = g.ncols() > g.nrows()
        h = g * _adjoint(g) if wide else _adjoint(g) * g
        if h.nrows() == 1:
            exact = h[0, 0].real.nonnegative_part().sqrt()
            return Bounds(exact, exact)
        v = top_vector(g, exponent)
        low = quotient(g, v)
        square = low * low
        for bits in (100, 80, 60, 50, 44):
            trial = (square * (1 + power_of_two(-bits))).upper() + power_of_two(2 * exponent - 4 * bits)
            if positive_definite(h, trial):
                return Bounds(low, trial.sqrt())
        return Bounds(low, _squares(g).sqrt())


def _adjoint(g: acb_mat) -> acb_mat:
    return g.transpose().conjugate()


def positive_definite(h: acb_mat, shift: arb) -> bool:
    """Whether ``shift I - h`` is certainly positive definite (h Hermitian)."""
    size = h.nrows()
    rows = [[-h[i, j] for j in range(size)] for i in range(size)]
    for i in range(size):
        rows[i][i] += shift
    for k in range(size):
        pivot = rows[k][k].real
        if not pivot > 0:
            return False
        for i in range(k + 1, size):
            factor = rows[i][k] / pivot
            for j in range(k + 1, i + 1):
                rows[i][j] -= factor * rows[j][k].conjugate()
    return True


def scalar_supremum(polynomials: Sequence[NDArray[Any]]) -> arb:
    """Largest ``sqrt(sum_j |sum_k c_jk e^{ik theta}|**2)`` over all theta, proven: a ball of about 70 digits.

    The square is ``r_0 + 2 sum_d r_d T_d(x)`` in ``x = cos(theta)``, with rational coefficients: its maximum over
    [-1, 1] is at an end or at a root of the derivative, and FLINT isolates all of them.
    """
    taps = [[Fraction(float(x)) for x in np.asarray(c).astype(np.float64)] for c in polynomials]
    length = len(taps[0])
    lags = [sum(c[k] * c[k + d] for c in taps for k in range(length - d)) for d in range(length)]
    common = math.lcm(*(r.denominator for r in lags))
    total = fmpz_poly([])
    for d, r in enumerate(lags):
        total += fmpz(int(r * common) * (1 if d == 0 else 2)) * fmpz_poly.chebyshev_t(d)
    roots: Any = total.derivative().complex_roots  # its type hints are those of a generic polynomial
    with ctx.workprec(BITS):
        points = [arb(-1), arb(1), *(root.real for root, _ in roots())]
        # A root that may lie just outside is cut to [-1, 1]: any point of the interval may be looked at.
        values: list[arb] = [total(x.intersection(arb(0, 1))) for x in points if not abs(x) > 1]
        return (largest(values) / common).nonnegative_part().sqrt()


def largest(values: Sequence[arb]) -> arb:
    best = values[0]
    for value in values[1:]:
        best = best.max(value)
    return best
