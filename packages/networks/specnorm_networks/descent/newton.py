"""Newton steps of a barrier method for the multipliers of an inequality with few units.

The quadratic form of `certified.inequality` is ``P = sum_k s_k x_k u_k u_k'``, with signs s_k, vectors u_k that the
matrices give, and unknowns x_k: twice the multipliers, and the square of the constant. The least constant with P
positive definite is LipSDP's program; minimized is

    t const^2 - log det P,

for t that grows. With X the inverse of P the gradient has ``-s_k u_k' X u_k``, the Hessian ``s_k s_l (u_k' X u_l)^2``:
nothing is larger than P and the matrix of all unknowns. For a unit v with the argument w, u_k is v - w/2 or w/2, as
``v (v - w) = (v - w/2)^2 - (w/2)^2``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from specnorm_networks.certified.inequality import Blocks
from specnorm_networks.certified.operators.base import FloatArray

EXPECTED_STEPS = 40
FACTOR = 4.0
"""Factor by which t grows."""
GAP = 2e-5
"""The steps end when the constant's square is this close, relatively, to its least value."""
GAIN = 2e-4
"""The steps end when a larger t gained less than this; the next one gains a quarter of it."""
CENTRED = 0.9
"""Newton decrement below which t grows."""
INWARD = 1.05
"""Factor by which the square of the first constant exceeds that of the given multipliers."""
SHARE = 0.3
"""Smallest share of an eigenvalue that a step may leave."""
SHORTER = 0.6
"""Factor by which a step is shortened."""
SHORTEST = 24
"""Largest number of times that a step is shortened."""


def newton_products(inputs: int, units: int, outputs: int) -> float:
    """Return the multiplications of a Newton step, about."""
    n = float(inputs + units)
    vectors = n + units + outputs
    return n**3 + vectors * n * (n + vectors) + units**3 / 3


class _Form:
    """P as a function of the unknowns: of each unit, and then of the square of the constant.

    The columns of ``vectors`` are the u_k: of each entry of x, of v and of w for each unit, and of each output.
    """

    def __init__(self, blocks: Blocks, constant: float) -> None:
        a, b, c, d = blocks
        n, m = b.shape
        half = np.hstack([b, a]).T / 2
        entries = np.eye(m + n)
        entries[:, m:] -= half
        self.vectors = np.hstack([entries, half, np.hstack([d, c]).T / constant])
        self.signs = np.repeat([1.0, -1.0], [m + n, n + len(c)])
        self.inputs = m
        self.units = n
        self.outputs = len(c)

    def at(self, x: FloatArray) -> FloatArray:
        """Return P for some unknowns, and 1 of the outputs (0: of a change)."""
        weights = np.concatenate([np.full(self.inputs, x[self.units]), x[:-2], x[:-2], np.full(self.outputs, x[-1])])
        return np.asarray((self.vectors * (self.signs * weights)) @ self.vectors.T)

    def _by_unknown(self, numbers: FloatArray) -> FloatArray:
        """Return the sums of numbers of vectors, along the first axis, for each unknown."""
        x, v, w, _ = np.split(numbers, np.cumsum([self.inputs, self.units, self.units]))
        return np.concatenate([v + w, x.sum(axis=0, keepdims=True)])

    def newton_move(self, p: FloatArray, t: float) -> tuple[FloatArray, float]:
        """Return the Newton step of the unknowns that may change, from where P is ``p``, and its decrement."""
        products = self.vectors.T @ np.linalg.solve(p, self.vectors)
        gradient = self._by_unknown(-self.signs * np.diag(products))
        gradient[-1] += t
        hessian = self._by_unknown(self._by_unknown(self.signs[:, None] * np.square(products) * self.signs).T)
        # Scaled to a unit diagonal, and regularised.
        scale = 1 / np.sqrt(np.diag(hessian))
        scaled = hessian * scale * scale[:, None] + 1e-13 * np.eye(len(scale))
        move = -scale * np.linalg.solve(scaled, scale * gradient)
        return move, math.sqrt(max(-float(gradient @ move), 0.0))


def newton_steps(blocks: Blocks, multipliers: FloatArray, constant: float) -> Iterator[FloatArray]:
    """Yield better and better multipliers.

    ``multipliers``: feasible ones, to begin with. ``constant``: theirs.
    """
    form = _Form(blocks, constant)
    x = np.concatenate([2 * multipliers / constant**2, [INWARD, 1.0]])
    order = len(form.signs)
    t = float(order)
    constant_before: Any = math.inf
    while True:
        p = form.at(x)
        if _barrier(p) == math.inf:  # not feasible, by rounding
            return
        move, decrement = form.newton_move(p, t)
        move = np.append(move, 0.0)
        size = _line_search(p, form.at(move), t * float(move[form.units]))
        x = x + size * move
        gains_little: Any = size == 0
        if decrement < CENTRED and size == 1:
            gains_little = constant_before / x[form.units] < 1 + GAIN
            t *= FACTOR
            constant_before = x[form.units]
        yield x[: form.units] * (constant**2 / 2)
        if gains_little or order < GAP * t * x[form.units]:
            return


def _line_search(p: FloatArray, change: FloatArray, slope: float) -> float:
    """Return the largest share of a step that gains and leaves each eigenvalue a share of its old value; 0: none.

    ``change``: of P by the whole step; ``slope``: that of t const^2.
    """
    barrier = _barrier(p)
    for size in SHORTER ** np.arange(SHORTEST):
        new_p = p + size * change
        # Near the border steps are short.
        if _barrier(new_p - SHARE * p) < math.inf and _barrier(new_p) + size * slope < barrier:
            return float(size)
    return 0.0


def _barrier(p: FloatArray) -> float:
    """Return ``-log det P``; infinity if P is not positive definite."""
    try:
        factor = np.linalg.cholesky(p)
    except np.linalg.LinAlgError:
        return math.inf
    total = float(np.log(np.diag(factor)).sum())
    return -2 * total if math.isfinite(total) else math.inf
