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
GAP = 2e-6
"""The steps end when the constant's square is this close, relatively, to its least value."""
GAIN = 2e-5
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
    return n**3 + n * units * (n + units) + n * n * outputs + units**3 / 3


class _Form:
    """P as a function of the unknowns: of each unit, and then of the square of the constant.

    The columns of ``half`` are the w/2 of the units; ``of_outputs`` is what the outputs add to P.
    """

    def __init__(self, blocks: Blocks, constant: float) -> None:
        a, b, c, d = blocks
        self.units, self.inputs = b.shape
        self.half = np.hstack([b, a]).T / 2
        outputs = np.hstack([d, c]) / constant
        self.of_outputs = -(outputs.T @ outputs)
        self.vectors = self.inputs + 2 * self.units + len(c)
        """Number of the u_k."""

    def at(self, x: FloatArray, of_outputs: float = 1.0) -> FloatArray:
        """Return P for some unknowns; ``of_outputs`` is 0 for its change by a change of them."""
        p = of_outputs * self.of_outputs
        of_units = self.half * x[: self.units]
        p[:, self.inputs :] -= of_units
        p[self.inputs :] -= of_units.T
        p[np.diag_indices(len(p))] += np.concatenate([np.full(self.inputs, x[self.units]), x[: self.units]])
        return np.asarray(p)

    def newton_move(self, p: FloatArray, t: float) -> tuple[FloatArray, float]:
        """Return the Newton step of the unknowns, from where P is ``p``, and its decrement."""
        inverse = np.linalg.inv(p)
        of_halves = inverse @ self.half
        inputs, units = slice(self.inputs), slice(self.inputs, None)
        # Products u_k^T X u_l: of w/2 with w/2, of v - w/2 with w/2, and of v - w/2 with v - w/2.
        ww = self.half.T @ of_halves
        vw = of_halves[units] - ww
        vv = inverse[units, units] - of_halves[units] - vw.T
        of_input = np.diag(inverse)[inputs]
        gradient = np.append(np.diag(ww) - np.diag(vv), t - of_input.sum())
        hessian = np.empty((self.units + 1, self.units + 1))
        crossed = np.square(vw)
        hessian[:-1, :-1] = np.square(vv) - crossed - crossed.T + np.square(ww)
        of_v = inverse[inputs, units] - of_halves[inputs]
        hessian[:-1, -1] = hessian[-1, :-1] = (np.square(of_v) - np.square(of_halves[inputs])).sum(axis=0)
        hessian[-1, -1] = np.square(inverse[inputs, inputs]).sum()
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
    x = np.append(2 * multipliers / constant**2, INWARD)
    order = form.vectors
    t = float(order)
    constant_before: Any = math.inf
    while True:
        p = form.at(x)
        if _barrier(p) == math.inf:  # not feasible, by rounding
            return
        try:
            move, decrement = form.newton_move(p, t)
        except np.linalg.LinAlgError:  # singular, but for rounding
            return
        size = _line_search(p, form.at(move, of_outputs=0.0), t * float(move[form.units]))
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
