"""Proof: gains of loops, for sequences of every length, and of equations that a state solves.

*A recurrent layer* h_t = phi(W h_{t-1} + U x_t + b), y_t = C h_t, with slopes of phi in [a, b], a <= 0, and one weight
q_i > 0 a unit, the same at all times. Differences of two runs from one state satisfy, with v = W h_{t-1} + U x_t,

    sum_t sum_i q_i^2 (h_i - a_i v_i) (h_i - b_i v_i) <= 0,

so that ``|y| <= g |x|`` over all times together if ``g^2 |x|^2 + that sum - |y|^2`` is not negative. As in `segments`,
-|y|^2 and the terms -a_i b_i v_i^2 are vertices of their own, and the form, scaled by its diagonal, is I - K: K is a
Hermitian kernel along time with the lags -1, 0 and 1 (Parseval; a run that ends is 0 from there, where the form has
terms a_i b_i q_i^2 v_i^2 <= 0 more). Half a turn of the frequency and a change of signs turn K into -K, so that its
largest eigenvalue is its norm: the gain is at most g if ||K|| <= 1.

*An equilibrium layer* h = phi(W h + U x + b), y = C h has all lags 0: K is a matrix, whose largest eigenvalue is to be
at most 1. Nothing is said of whether there is an h, or one alone: any two of two inputs satisfy the claim.

*A linear state space* s_{t+1} = A s_t + B x_t, y_t = C s_t + D x_t, with a matrix P >= 0: if
``s'Ps - |A s + B x|_P^2 + g^2 |x|^2 - |C s + D x|^2 >= 0`` for all s and x, its sum over time says ``|y| <= g |x|``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm.certified import arithmetic, host
from specnorm.certified.bound import HypothesisError, Upper, _upper
from specnorm.certified.matrices.norms import gram_below
from specnorm.certified.network.kernels import Norms, fold_error, speaks_of
from specnorm.certified.network.operators.base import FloatArray
from specnorm.certified.network.segments import Edge, hermitian_kernel, middle, usable
from specnorm.problem.spec import ConvSpec
from specnorm.text import number

if TYPE_CHECKING:
    from specnorm.types import ArrayOps


@dataclass(frozen=True, eq=False)
class Loop:
    """h = phi(W h' + U x + b), y = C h, with h' the state before (or h itself).

    Parameters
    ----------
    recurrent : array, shape (n, n)
        W.
    entry : array, shape (n, m)
        U.
    read : array, shape (p, n)
        C.
    slopes : pair of array, shape (n,)
        Smallest and largest of each unit's function.
    lag : {1, 0}
        How many steps h' is behind h.
    """

    recurrent: FloatArray
    entry: FloatArray
    read: FloatArray
    slopes: tuple[FloatArray, FloatArray]
    lag: int = 1

    def __post_init__(self) -> None:
        n = len(self.recurrent)
        shapes = [np.shape(each) for each in (self.recurrent, self.entry, self.read, *self.slopes)]
        wanted = [(n, n), (n, *shapes[1][1:2]), (*shapes[2][:1], n), (n,), (n,)]
        finite = all(bool(np.isfinite(each).all()) for each in (self.recurrent, self.entry, self.read, *self.slopes))
        if shapes != wanted or self.lag not in (0, 1):
            raise HypothesisError(f"matrices of a loop of shapes {shapes}, {self.lag} steps behind")
        if not finite or not bool(np.all(self.slopes[0] <= self.slopes[1])):
            raise HypothesisError("a loop's matrices are finite, and its slopes between two numbers")

    @property
    def what(self) -> str:
        """In words, what a claim bounds."""
        kind = "a recurrent layer" if self.lag else "an equilibrium layer"
        return f"the gain of {kind}, {self.entry.shape[1]} -> {len(self.recurrent)} -> {len(self.read)}"


def kernel(loop: Loop, weights: FloatArray, gain: float) -> FloatArray:
    """K of a loop, shape (k, k, 3), or (k, k, 1) without a lag: vertices x, h, y, and leaves of curved functions."""
    centre, leaf = (each[:, None] * weights[:, None] for each in middle(*loop.slopes))
    edges: list[Edge] = [
        (0, 1, (centre * (loop.entry / gain))[..., None], (0,)),
        (1, 1, (centre * (loop.recurrent / weights))[..., None], (loop.lag,)),
        (1, 2, (loop.read / weights)[..., None], (0,)),
    ]
    if leaf.any():
        edges += [
            (0, 3, (leaf * (loop.entry / gain))[..., None], (0,)),
            (1, 3, (leaf * (loop.recurrent / weights))[..., None], (loop.lag,)),
        ]
    return hermitian_kernel(edges)


@arithmetic.on_host()
def of_loop(loop: Loop, weights: FloatArray, gain: float, norms: Norms, rtol: float, *, ops: ArrayOps) -> Upper | None:
    """The gain of a loop is at most a number, with weights that prove it; None where they do not.

    Parameters
    ----------
    weights : array, shape (n,)
        q.
    gain : float
        Positive.
    rtol : float
        Relative width to which K is enclosed.
    """
    if np.shape(weights) != (len(loop.recurrent),) or not (usable(weights) and usable(np.array([gain]))):
        raise HypothesisError(f"no weights of {len(loop.recurrent)} units, or no gain")
    whole = kernel(loop, weights, gain)
    spec = ConvSpec.of(whole.shape)
    sizes = Loop(abs(loop.recurrent), abs(loop.entry), abs(loop.read), loop.slopes, loop.lag)
    lost = fold_error(abs(kernel(sizes, weights, gain)), spec)
    rule = f"multipliers: K <= 1 at a gain of {number(gain, 'upper')}"
    if not loop.lag:
        return _upper(gain, loop.what, rule) if _at_most_one(whole[..., 0], lost, ops) else None
    norm = norms.of_kernel(whole, rtol)
    if not speaks_of(norm, spec):
        raise HypothesisError(f"{norm.what} is not {spec}")
    return _upper(gain, loop.what, rule, norm) if host.add_up(norm.value, lost) <= 1 else None


def small_gain(before: Upper, after: Upper, inner: Upper, loop: Loop) -> Upper | None:
    """|C| |U| s / (1 - |W| s), s the largest absolute slope; None where the loop may not contract.

    Parameters
    ----------
    before, after, inner : Upper
        Of the norms of U, C and W.
    """
    steep = max(float(np.max(abs(end), initial=0.0)) for end in loop.slopes)
    left = host.sub_down(1.0, host.mul_up(inner.value, steep))
    if not left > 0:
        return None
    found = host.div_up(host.mul_up(before.value, after.value, steep), left)
    return _upper(found, loop.what, "|C| |U| / (1 - |W|)", before, after, inner)


@dataclass(frozen=True, eq=False)
class StateSpace:
    """s_{t+1} = A s_t + B x_t, y_t = C s_t + D x_t.

    Parameters
    ----------
    step, entry, read, through : array
        A, B, C and D.
    """

    step: FloatArray
    entry: FloatArray
    read: FloatArray
    through: FloatArray

    def __post_init__(self) -> None:
        n = len(self.step)
        shapes = [np.shape(each) for each in (self.step, self.entry, self.read, self.through)]
        wanted = [(n, n), (n, *shapes[3][1:]), (*shapes[3][:1], n), shapes[3][:2]]
        if shapes != wanted or not all(bool(np.isfinite(m).all()) for m in vars(self).values()):
            raise HypothesisError(f"matrices of a state space of shapes {shapes}, or not finite")

    @property
    def what(self) -> str:
        """In words, what a claim bounds."""
        outputs, inputs = self.through.shape
        return f"the gain of a linear state space, {inputs} -> {len(self.step)} -> {outputs}"


def small_gain_of_space(step: Upper, entry: Upper, read: Upper, through: Upper, space: StateSpace) -> Upper | None:
    """|C| |B| / (1 - |A|) + |D|; None where A may not contract."""
    left = host.sub_down(1.0, step.value)
    if not left > 0:
        return None
    found = host.add_up(host.div_up(host.mul_up(entry.value, read.value), left), through.value)
    return _upper(found, space.what, "|C| |B| / (1 - |A|) + |D|", step, entry, read, through)


@arithmetic.on_host()
def of_state_space(space: StateSpace, energy: FloatArray, gain: float, *, ops: ArrayOps) -> Upper | None:
    """The gain of a linear state space is at most a number, with a matrix that proves it; None where it does not.

    Parameters
    ----------
    energy : array, shape (n, n)
        P: its lower triangle.
    gain : float
    """
    n = len(space.step)
    if np.shape(energy) != (n, n) or not (np.isfinite(energy).all() and usable(np.array([gain]))):
        raise HypothesisError(f"no matrix of {n} states, or no gain")
    lower = np.tril(energy)
    energy = lower + np.tril(energy, -1).T
    inputs, outputs = space.entry.shape[1], len(space.read)
    whole = np.block([[space.step, space.entry], [space.read, space.through]])
    after = _block_diagonal(energy, np.eye(outputs))
    before = _block_diagonal(energy, gain * gain * np.eye(inputs))
    form = before - whole.T @ after @ whole
    size = abs(before) + abs(whole).T @ abs(after) @ abs(whole)
    # Two products of so many terms, a difference, and the gain's square; as much again for the sizes themselves.
    share = (4 * (len(after) + 8)) * 2.0**-52
    rule = f"an energy that no input raises by more than {number(gain, 'upper')}^2 of its own"
    proven = _not_negative(energy, 0 * energy, ops) and _not_negative(form, size * share, ops)
    return _upper(gain, space.what, rule) if proven else None


def _block_diagonal(one: FloatArray, other: FloatArray) -> FloatArray:
    found = np.zeros((len(one) + len(other),) * 2)
    found[: len(one), : len(one)], found[len(one) :, len(one) :] = one, other
    return found


def _not_negative(form: FloatArray, off: FloatArray, ops: ArrayOps) -> bool:
    """Whether a symmetric matrix is proven to be positive semidefinite, whose entries may be off by so much each.

    Scaled on both sides by powers of two that make its diagonal about 1.
    """
    diagonal = np.diagonal(form)
    if not bool(np.all(diagonal > 0)):
        return False
    scale = np.ldexp(1.0, -(np.frexp(diagonal)[1] // 2))
    scaled = form * scale[:, None] * scale
    moved = host.norm_up((off * scale[:, None] * scale).reshape(-1))
    # The differences to 1 are rounded, and what is scaled may underflow.
    lost = host.add_up(float(moved), len(form) * 2.0**-50)
    return _at_most_one(np.eye(len(form)) - scaled, lost, ops)


def _at_most_one(matrix: FloatArray, lost: float, ops: ArrayOps) -> bool:
    """Whether the largest eigenvalue of a symmetric matrix is proven to be at most 1 less what is lost."""
    # With a multiple of the identity that leaves nothing negative on the diagonal, where a sum is rounded.
    shift = max(0.0, -float(np.diagonal(matrix).min()))
    shifted: Any = matrix + shift * np.eye(len(matrix))
    lost = host.add_up(lost, host.mul_up(2.0**-50, host.add_up(1.0, shift)))
    limit: Any = np.array(host.sub_down(1.0 + shift, lost))
    return bool(np.isfinite(shifted).all() and limit > shift and gram_below(shifted, limit, ops=ops))
