"""Search: multipliers and energies that prove the gain of a loop; `certified.network.loops` proves.

The best multipliers are a convex problem: with M(t; l, g^2) the form of `certified.network.loops` at the frequency t,
linear in l_i = q_i^2 and g^2, minimise g^2 while M is positive definite at every t. Newton's method with the barrier
-log det M at some frequencies finds them: M's derivative by l_i is of rank 2, so that a step takes a few products of
matrices of the loop's own size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from specnorm.backends import backend_for
from specnorm.certified import arithmetic
from specnorm.certified.bound import Upper, least
from specnorm.certified.network.kernels import Norms
from specnorm.certified.network.loops import (
    Loop,
    StateSpace,
    kernel,
    of_loop,
    of_state_space,
    small_gain,
    small_gain_of_space,
)
from specnorm.certified.network.operators.base import FloatArray
from specnorm.certified.network.rules import must_be_claims
from specnorm.certified.network.segments import usable
from specnorm.networks.stages import Vectors
from specnorm.runtime.execution import Execution
from specnorm.text import number

FREQUENCIES, FINEST = 9, 257
"""On half of the circle: at first, and where what was found is looked at."""
ROUNDS = 6
"""How often frequencies at which it does not hold are added."""
NEWTON, BARRIERS, FALL = 25, 24, 0.1
"""Steps at most with one barrier, how many barriers, and how much less each weighs than the one before."""
GAP = 2e-3
"""Relative distance from the best gain, about."""
MARGINS = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
"""By how much a gain is raised, one after the other, until it is proven."""
CLOSEST, WIDEST = 1e-7, 1e-3
"""Relative widths to which K is enclosed."""
MOST_UNITS = 512
"""Units of a loop whose multipliers are looked for."""


@dataclass(frozen=True, eq=False)
class GainBound:
    """Lipschitz constant of a loop in 2-norms, of all times together, for sequences of every length.

    Parameters
    ----------
    claim : Upper or None
        Of the constant; None: there is no bound.
    product_claim : Upper or None
        The small-gain bound |C| |U| / (1 - |W|), or |C| |B| / (1 - |A|) + |D|; None where the loop may not contract.
    multipliers : array or None
        One number a unit that proves the claim; for a linear state space P, an energy.
    reason : str
    """

    claim: Upper | None
    product_claim: Upper | None = None
    multipliers: FloatArray | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        must_be_claims(self.claim, self.product_claim)

    @property
    def upper(self) -> float | None:
        """Proven Lipschitz constant; None: no bound."""
        return None if self.claim is None else self.claim.value

    @property
    def product(self) -> float | None:
        """The small-gain bound, proven; None where there is none."""
        return None if self.product_claim is None else self.product_claim.value

    def __str__(self) -> str:
        """One sentence."""
        if self.claim is None:
            return f"No bound: {self.reason}."
        beside = "none" if self.product is None else number(self.product, "upper")
        return (
            f"Lipschitz constant at most {number(self.claim.value, 'upper')} for sequences of every length, proven; "
            f"small-gain bound: {beside}."
        )


# -- loops -------------------------------------------------------------------------------------------------------------
def gain_of_loop(loop: Loop, norms: Norms) -> GainBound:
    """What is proven of a loop's gain."""
    entry, read, recurrent = (norms.of_kernel(each, CLOSEST) for each in (loop.entry, loop.read, loop.recurrent))
    product = small_gain(entry, read, recurrent, loop)
    sizes = entry.value, read.value
    if len(loop.recurrent) > MOST_UNITS:
        why = f"it has more than {MOST_UNITS} units, and |W| times the largest slope is not below 1"
        return GainBound(product, product, None, "" if product is not None else why)
    if product is not None and product.value == 0:
        return GainBound(product, product)
    scaled = Loop(loop.recurrent, loop.entry / (sizes[0] or 1.0), loop.read / (sizes[1] or 1.0), loop.slopes, loop.lag)
    with np.errstate(all="ignore"):
        found = _Form(scaled).best()
    claim, why = None, _without(loop)
    if found is not None:
        why = "the multipliers that were found are too close to where none are"
        weights = np.sqrt(found[0]) * (sizes[1] or 1.0)
        gains = (found[1] * (sizes[0] or 1.0) * (sizes[1] or 1.0) * (1 + margin) for margin in MARGINS)
        claim = next((each for gain in gains if (each := _proven(loop, weights, gain, norms)) is not None), None)
    if claim is None:
        return GainBound(product, product, None, "" if product is not None else why)
    return GainBound(claim if product is None else least(claim, product), product, weights**2)


def _proven(loop: Loop, weights: FloatArray, gain: float, norms: Norms) -> Upper | None:
    """As `of_loop`, where the largest eigenvalue of K leaves room for its rounding."""
    if not usable(np.append(weights, gain)):
        return None
    k: Any = kernel(loop, weights, gain)
    middle_tap, behind = k[..., k.shape[-1] // 2], k[..., -1] if loop.lag else 0 * k[..., 0]
    turns = np.exp(-1j * np.linspace(0, math.pi, FINEST if loop.lag else 1))[:, None, None]
    forward = behind * turns
    most = float(np.linalg.eigvalsh(middle_tap + forward + forward.conj().swapaxes(1, 2)).max())
    if not most < 1 - 4 * CLOSEST:
        return None
    backend = backend_for(k)
    with arithmetic.exact(k, backend=backend):
        rtol = min((1 - most) / 4, WIDEST)
        return of_loop(loop, weights, gain, norms, rtol, ops=Execution.of(backend, k))


def _without(loop: Loop) -> str:
    """Why there are no multipliers."""
    steep = np.where(abs(loop.slopes[0]) > abs(loop.slopes[1]), *loop.slopes)
    radius = float(abs(np.linalg.eigvals(steep[:, None] * loop.recurrent)).max())
    if loop.lag and radius >= 1:
        return (
            f"with its largest slopes the loop has a spectral radius of {radius:.6g}, which is not below 1: "
            "differences may grow without end"
        )
    return "no multipliers show that the loop contracts: there may be none"


class _Form:
    """M on vertices h and x at some frequencies, for `Loop` with entry and read of norm about 1."""

    def __init__(self, loop: Loop) -> None:
        self.loop, (self.n, self.m) = loop, loop.entry.shape
        low, high = (each[:, None] for each in (np.minimum(loop.slopes[0], 0.0), np.maximum(loop.slopes[1], 0.0)))
        self.low, self.high = low, high
        self.read = np.zeros((self.n + self.m,) * 2)
        self.read[: self.n, : self.n] = loop.read.T @ loop.read

    def sides(self, theta: FloatArray) -> tuple[Vectors, Vectors]:
        """P and R with ``M = (P* L R + R* L P) / 2 + ...``, shape (frequencies, n, n + m)."""
        own = np.eye(self.n, self.n + self.m)
        wide = np.concatenate([self.loop.recurrent, 0 * self.loop.entry], axis=1)
        entry = np.concatenate([0 * self.loop.recurrent, self.loop.entry], axis=1)
        read = np.exp(-1j * theta)[:, None, None] * wide + entry
        return own - self.low * read, own - self.high * read

    def best(self) -> tuple[FloatArray, float] | None:
        """Multipliers and the gain that they prove on a fine grid; None where none are found."""
        fine = np.linspace(0, math.pi, FINEST if self.loop.lag else 1)
        theta = np.linspace(0, math.pi, FREQUENCIES) if self.loop.lag else fine
        found: tuple[FloatArray, float] | None = None
        for _ in range(ROUNDS):
            start = self._feasible(theta)
            if start is None:
                return found
            weights, square = self._descended(theta, start)
            gains = self._gains(weights, fine)
            worst = float(gains.max())
            if worst < math.inf and (found is None or worst < found[1] ** 2):
                found = weights, math.sqrt(worst)
            if worst <= square * (1 + GAP):
                return found
            inner = np.append(gains[1:], 0), np.append(0, gains[:-1])
            peaks = (gains >= inner[0]) & (gains >= inner[1]) & (gains > square)
            theta = np.union1d(theta, fine[peaks])
        return found

    def _gains(self, weights: FloatArray, theta: FloatArray) -> FloatArray:
        """Squares of the gains at some frequencies; infinite where M is not positive definite on h."""
        form, n = self._at(*self.sides(theta), weights), self.n
        inner = form[:, :n, :n]
        found = np.full(len(theta), math.inf)
        ok = np.linalg.eigvalsh(inner)[:, 0] > 0
        between = form[ok, :n, n:]
        schur = between.conj().swapaxes(1, 2) @ np.linalg.solve(inner[ok], between) - form[ok, n:, n:]
        found[ok] = np.maximum(np.linalg.eigvalsh(schur)[:, -1], 1e-30)
        return found

    def _at(self, p: Vectors, r: Vectors, weights: FloatArray) -> Vectors:
        half: Vectors = p.conj().swapaxes(1, 2) @ (weights[:, None] * r) / 2
        whole: Vectors = half + half.conj().swapaxes(1, 2) - self.read[: p.shape[2], : p.shape[2]]
        return whole

    def _feasible(self, theta: FloatArray) -> FloatArray | None:
        """Multipliers with which M is positive definite on h, and x may have any gain."""
        p, r = (side[:, :, : self.n] for side in self.sides(theta))
        barrier = _Barrier(p, r, 0 * self.read[: self.n, : self.n], np.ones(self.n), bounded=True)
        weights, weigh = np.full(self.n, 0.5), 1.0
        shift = 1.0 - float(np.linalg.eigvalsh(barrier.form(weights, 0.0)).min())
        for _ in range(BARRIERS):
            weights, shift = barrier.centre(weights, shift, weigh)
            if shift < 0:
                # -shift is a margin of M without the outputs, whose part of M has the norm 1.
                return weights * (-2 / shift)
            weigh /= FALL
        return None

    def _descended(self, theta: FloatArray, weights: FloatArray) -> tuple[FloatArray, float]:
        """Nearly the best multipliers on some frequencies, and the square of their gain there."""
        barrier = _Barrier(*self.sides(theta), self.read, np.repeat([0.0, 1.0], [self.n, self.m]))
        square = 2 * float(self._gains(weights, theta).max()) + 1e-12
        terms = len(theta) * (self.n + self.m) + self.n
        weigh = terms / square
        for _ in range(BARRIERS):
            weights, square = barrier.centre(weights, square, weigh)
            if terms / weigh < GAP / 4 * square:
                break
            weigh /= FALL
        return weights, square


@dataclass(frozen=True, eq=False)
class _Barrier:
    """``t s - sum log det (M + s J) - sum log l``, M = (P* L R + R* L P) / 2 - constant, J diagonal."""

    p: Vectors
    r: Vectors
    constant: FloatArray
    select: FloatArray
    bounded: bool = False
    """Whether multipliers stay below 1."""

    def form(self, weights: FloatArray, s: float) -> Vectors:
        """M + s J at each frequency."""
        half: Vectors = self.p.conj().swapaxes(1, 2) @ (weights[:, None] * self.r) / 2
        whole: Vectors = half + half.conj().swapaxes(1, 2) - self.constant + s * np.diag(self.select)
        return whole

    def centre(self, weights: FloatArray, s: float, weigh: float) -> tuple[FloatArray, float]:
        """Newton's steps from a point inside."""
        value = self._value(weights, s, weigh)
        for _ in range(NEWTON):
            gradient, hessian = self._derivatives(weights, s, weigh)
            step = -np.linalg.lstsq(hessian, gradient, rcond=None)[0]
            fall = -float(gradient @ step)
            if not fall > 1e-3:
                break
            share = 1.0
            while share > 1e-6:
                there = weights + share * step[:-1], s + share * float(step[-1])
                new = self._value(*there, weigh)
                if new < value - 0.1 * share * fall:
                    break
                share /= 2
            else:
                break
            (weights, s), value = there, new
        return weights, s

    def _value(self, weights: FloatArray, s: float, weigh: float) -> float:
        """Infinite outside."""
        if not (weights > 0).all() or (self.bounded and not (weights < 1).all()):
            return math.inf
        try:
            factors = np.linalg.cholesky(self.form(weights, s))
        except np.linalg.LinAlgError:
            return math.inf
        logs = 2 * float(np.log(np.einsum("kii->ki", factors).real).sum()) + float(np.log(weights).sum())
        found = weigh * s - logs - (float(np.log(1 - weights).sum()) if self.bounded else 0.0)
        return found if math.isfinite(found) else math.inf

    def _derivatives(self, weights: FloatArray, s: float, weigh: float) -> tuple[FloatArray, FloatArray]:
        """By the multipliers and s."""
        inverse, n = np.linalg.inv(self.form(weights, s)), len(weights)
        before, after = self.p.conj().swapaxes(1, 2), self.r.conj().swapaxes(1, 2)
        left, right = self.p @ inverse, self.r @ inverse
        one, other, mixed = left @ before, right @ after, right @ before
        gradient, hessian = np.empty(n + 1), np.empty((n + 1, n + 1))
        gradient[:n] = -np.einsum("kii->i", mixed).real
        gradient[n] = weigh - float((np.einsum("kii->ki", inverse).real @ self.select).sum())
        turned = (mixed * mixed.swapaxes(1, 2) + one.swapaxes(1, 2) * other).real.sum(axis=0) / 2
        hessian[:n, :n] = turned
        hessian[n, :n] = hessian[:n, n] = ((right * self.select) * left.conj()).real.sum(axis=(0, 2))
        hessian[n, n] = float((abs(inverse) ** 2 * self.select * self.select[:, None]).sum())
        gradient[:n] -= 1 / weights
        hessian[:n, :n] += np.diag(1 / weights**2)
        if self.bounded:
            gradient[:n] += 1 / (1 - weights)
            hessian[:n, :n] += np.diag(1 / (1 - weights) ** 2)
        return gradient, hessian


# -- linear state spaces -----------------------------------------------------------------------------------------------
def gain_of_space(space: StateSpace, norms: Norms) -> GainBound:
    """What is proven of a linear state space's gain."""
    a, b, c, d = (norms.of_kernel(each, CLOSEST) for each in vars(space).values())
    product = small_gain_of_space(a, b, c, d, space)
    radius = float(abs(np.linalg.eigvals(space.step)).max())
    why = f"A has a spectral radius of {radius:.6g}, which is not below 1: the state may grow without end"
    if radius >= 1:
        return GainBound(product, product, None, "" if product is not None else why)
    states = np.eye(len(space.step))
    near, inner = _peak(space), _peak(StateSpace(space.step, space.entry, states, 0 * space.entry)) or 1.0
    for margin in MARGINS if near > 0 else ():
        gain = near * (1 + margin)
        with np.errstate(all="ignore"):
            energy: Any = _energy(space, gain, margin / 2 * (near / inner) ** 2)
        if energy is None or not np.isfinite(energy).all():
            continue
        backend = backend_for(energy)
        with arithmetic.exact(energy, backend=backend):
            claim = of_state_space(space, energy, gain, ops=Execution.of(backend, energy))
        if claim is not None:
            return GainBound(claim if product is None else least(claim, product), product, energy)
    return GainBound(product, product, None, "" if product is not None else "no energy was found that proves a gain")


def _peak(space: StateSpace) -> float:
    """The gain, nearly: the largest norm of the transfer function on a grid that is made finer around the best."""

    def norms(theta: FloatArray) -> FloatArray:
        z = np.exp(1j * theta)[:, None, None] * np.eye(len(space.step)) - space.step
        transfer = space.read @ np.linalg.solve(z, space.entry + 0j) + space.through
        return np.asarray(np.linalg.norm(transfer, 2, axis=(1, 2)))

    poles = np.linalg.eigvals(space.step)
    theta = np.union1d(np.linspace(0, math.pi, FINEST), abs(np.angle(poles)))
    width = math.pi / FINEST
    best = 0.0
    for _ in range(8):
        found = norms(theta)
        at, best = float(theta[found.argmax()]), max(best, float(found.max()))
        theta = np.clip(at + width * np.linspace(-1, 1, 65), 0, math.pi)
        width /= 24
    return best


def _energy(space: StateSpace, gain: float, more: float) -> FloatArray | None:
    """P with equality in the condition, of outputs with a little more: Riccati's equation, by doubling [1]_.

    .. [1] Chu, Fan, Lin, "A structure-preserving doubling algorithm for continuous-time algebraic Riccati equations",
       Linear Algebra and its Applications 396, 2005.
    """
    a, b, c, d = vars(space).values()
    n, inputs = b.shape
    rest = gain**2 * np.eye(inputs) - d.T @ d
    try:
        inner = np.linalg.solve(rest, np.concatenate([d.T @ c, b.T], axis=1))
        step = a + b @ inner[:, :n]
        g, h = -b @ inner[:, n:], np.asarray(c.T @ c + c.T @ d @ inner[:, :n] + more * np.eye(n))
        for _ in range(60):
            w = np.linalg.solve(np.eye(n) + g @ h, np.concatenate([step, g], axis=1))
            v, u = w[:, :n], w[:, n:]
            new = h + step.T @ h @ v
            g, step = g + step @ u @ step.T, step @ v
            small = np.linalg.norm(new - h) <= 1e-14 * np.linalg.norm(new)
            h = (new + new.T) / 2
            if small:
                break
    except np.linalg.LinAlgError:
        return None
    return h
