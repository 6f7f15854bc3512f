"""Local ascent to a maximum of ``||G(theta)||``: power steps of the vectors in turn with Newton steps of the frequency.

It decides how high a lower bound is, never whether it is true.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs.frequencies import Frequencies, tap_points
from specnorm.symbols.power import contraction, matrix_maps, top_in_krylov_space
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps

SHARES = (1.0, 0.25, 0.0625)
"""Parts of a Newton step that are tried: the first one that leads uphill is taken, else none."""
_LONGEST = 1.0
"""Longest step along an axis, in radians."""

ROUNDS = 40
"""Most rounds of an ascent."""
STEPS = 4
"""Products with ``G*G`` between two steps of the frequency: the dimension of the Krylov spaces in which an ascent
improves its vectors, or its power steps. Power steps took up to 40 rounds of the ascent for kernels of 256 channels,
where Krylov spaces take 3 to 15."""
SMALLEST_KRYLOV = 40
"""Channels below which an ascent takes power steps instead: the calls of a basis would cost more than products."""
FLOAT64_RTOL = 1e-4
"""Tolerance below which ascents are in float64."""
SLOWEST = 0.9
"""Largest rate of convergence that an extrapolation assumes."""
LEAST_CURVATURE = 1e-12
"""Least curvature that a Newton step assumes along any direction, as a part of the largest one."""
LEAST_GAIN = 64 * sys.float_info.epsilon
"""Smallest relative gain of the incumbent that counts as one, since smaller ones are roundings. If single
frequencies are open, and evaluating them gains less, the search ends undecided."""


class Ascent:
    """Local maximization of the norm of one block, from several starts at once.

    Parameters
    ----------
    block : array, shape (1, m, p, *kernel_shape)
        Scaled to about 1; p <= m. The ascent computes in its precision, which may be float32.
    free : bool
        Whether the frequency may move (on a grid it may not).
    rtol : float
        Relative tolerance of the norm.
    norm_to_beat : float
        Norm that has been reached elsewhere: a start that is not expected to get higher is given up.
    expired : callable
        Whether the time is up: then the ascent stops with the best point so far.
    """

    def __init__(
        self,
        block: Array,
        *,
        free: bool,
        rtol: float,
        norm_to_beat: float,
        expired: Callable[[], bool],
        ops: ArrayOps,
    ) -> None:
        self.block = block
        self.free = free and block.ndim > 3
        self.rtol = rtol
        self.norm_to_beat = norm_to_beat
        self.expired = expired
        self.ops = ops
        self.xp = ops.xp
        self.taps = tap_points(tuple(block.shape[3:])).astype(float)
        self._host = ops.backend.host().namespace(self.taps)
        self._newton = newton_tables(self.taps, least_relative_curvature=LEAST_CURVATURE) if self.free else None

    def run(self, starts: Frequencies, vectors: Array) -> tuple[Frequencies, Array]:
        """Ascend by alternating steps of the vectors at a frequency with steps of the frequency.

        ``starts``: the s points to start from. ``vectors`` (s, p): right vectors at the starts. Returns ``frequency``:
        a single point: the one with the highest norm of all that were visited; ``right`` (1, p): right vector at that
        point.
        """
        theta = starts.angles
        index = np.arange(len(starts))
        previous_norms = np.zeros(len(starts))
        previous_gains = np.zeros(len(starts))
        previous_move = np.zeros_like(theta)
        right = self.xp.astype(vectors, arrays.complex_dtype(self.block.dtype, xp=self.xp), copy=False)
        best_point, best_right, best_norm = starts[:1], right[:1, :], -1.0
        for round_number in range(ROUNDS):
            left, right, norms = self._top_vectors(self._phases(theta), right)
            highest = int(np.argmax(norms))
            if norms[highest] > best_norm:
                best_norm = float(norms[highest])
                best_right = right[highest : highest + 1, :]
                # In the first round nothing has moved: return the start itself, which need not be on the lattice.
                if round_number > 0 and self.free:
                    best_point = Frequencies.nearest(theta[highest : highest + 1])
                else:
                    best_point = starts[index[highest : highest + 1]]
            gains = norms - previous_norms
            norm_to_beat = max(self.norm_to_beat, best_norm)
            promising = self._promising(norms, gains, previous_gains, round_number, norm_to_beat)
            if not len(promising) or self.expired():
                break
            if len(promising) < len(index):
                left = arrays.rows(left, promising, ops=self.ops)
                right = arrays.rows(right, promising, ops=self.ops)
                theta, index = theta[promising], index[promising]
                norms, gains = norms[promising], gains[promising]
            previous_norms, previous_gains = norms, gains
            if self.free:
                newton_theta = theta + self._newton_step(self._tap_weights(left, right), theta)
                move = newton_theta - theta
                theta = newton_theta
                if round_number % 2:
                    # Alternation converges geometrically: go on to where the last two moves point. `previous_move`
                    # still has the starts that were dropped in this round.
                    ratio = contraction(move, previous_move[promising], largest=SLOWEST)
                    theta = theta + (ratio / (1 - ratio))[:, None] * move
                previous_move = move
        return best_point, best_right

    def _promising(
        self,
        norms: np.ndarray,
        gains: np.ndarray,
        previous_gains: np.ndarray,
        round_number: int,
        norm_to_beat: float,
    ) -> np.ndarray:
        """Positions of the starts that may still get higher than a norm, going by their last two gains."""
        if round_number > 1:
            # Gains g_1, g_2 that shrink geometrically add up to g_2**2 / (g_1 - g_2) from here on. The least shrinkage
            # limits that sum to a thousand times the last gain. It is above 0, so that nothing is divided by 0.
            least_shrinkage = 1e-3 * np.abs(gains) + 1e-300
            hoped_norms = norms + gains**2 / np.maximum(previous_gains - gains, least_shrinkage)
        else:
            hoped_norms = np.full_like(norms, np.inf)
        # For a loose tolerance, stop when only 5 % of it is left to gain. For a tight one go on to the end: there the
        # gradient of the norm has to be precise, too. Its error is proportional to the error of the frequency, while
        # the error of the norm is proportional to the square of that.
        tolerated = 0.05 * self.rtol if self.rtol >= FLOAT64_RTOL else 0.0
        least_norm = norm_to_beat * (1 + max(tolerated, 10 * LEAST_GAIN))
        return np.asarray(np.flatnonzero((gains > 0) & (hoped_norms > least_norm)))

    def _phases(self, theta: np.ndarray) -> np.ndarray:
        """``e^{i k.theta}`` of every tap at angles (s, d), shape (s, taps)."""
        return np.asarray(np.exp(1j * (theta @ self.taps.T)))

    def _top_vectors(self, phases: np.ndarray, right: Array) -> tuple[Array, Array, np.ndarray]:
        """Left and right vectors and norms at frequencies whose taps have these phases (s, taps)."""
        xp = self.xp
        m, p = self.block.shape[1:3]
        is_float64 = self.block.dtype == xp.float64
        count = phases.shape[0]
        # For each start a symbol, its two parts and its adjoint: six real matrices.
        bytes_of_a_start = 6 * m * p * (8 if is_float64 else 4)
        if count > 1 and count * bytes_of_a_start > self.ops.memory:
            return self._top_vectors_in_parts(phases, right, max(1, self.ops.memory // bytes_of_a_start))
        cos = arrays.device_table(phases.real, self.block, ops=self.ops)
        sin = arrays.device_table(phases.imag, self.block, ops=self.ops)
        symbols = self.ops.complex(*Polynomial(self.block, xp=xp).planes_at(cos, sin))[0, ...]
        apply, adjoint = matrix_maps(symbols, xp=xp)
        if p >= SMALLEST_KRYLOV:
            left, right, norms = top_in_krylov_space(apply, adjoint, right, STEPS, xp=xp)
        else:
            for _ in range(STEPS - 1):
                right = adjoint(apply(right))
            right, _ = arrays.unit(right, xp=xp)
            left, _ = arrays.unit(apply(right), xp=xp)
            right, norms = arrays.unit(adjoint(left), xp=xp)
        return left, right, self.ops.to_numpy(norms).astype(float)

    def _top_vectors_in_parts(
        self,
        phases: np.ndarray,
        right: Array,
        at_once: int,
    ) -> tuple[Array, Array, np.ndarray]:
        """`_top_vectors` for parts of ``at_once`` starts, one after the other."""
        lefts, rights, norms = [], [], []
        for first in range(0, phases.shape[0], at_once):
            part = slice(first, first + at_once)
            left_part, right_part, norms_part = self._top_vectors(phases[part], right[part, ...])
            lefts.append(left_part)
            rights.append(right_part)
            norms.append(norms_part)
        return self.xp.concat(lefts), self.xp.concat(rights), np.concatenate(norms)

    def _newton_step(self, weights: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """Steps to add to the angles (s, d), on the host."""
        terms: Any = weights * self._phases(theta)
        taps, tables = cast(Any, (self.taps, self._newton))
        return np.asarray(newton_step(terms, taps, tables, xp=self._host))

    def _tap_weights(self, left: Array, right: Array) -> np.ndarray:
        """``u* K_k v`` for every tap, shape (s, taps): ``u* G(theta) v`` is a polynomial with these coefficients."""
        xp = self.xp
        m, p = self.block.shape[1:3]
        by_row = xp.reshape(self.block, (m, -1))
        products = xp.matmul(xp.real(left), by_row) - 1j * xp.matmul(xp.imag(left), by_row)
        by_column = xp.reshape(products, (left.shape[0], p, -1))
        return np.asarray(self.ops.to_numpy(xp.matmul(right[:, None, :], by_column)[:, 0, :]))


def newton_tables(taps: np.ndarray, *, least_relative_curvature: float = 1e-3) -> tuple[np.ndarray, ...]:
    """Return what is constant in Newton steps of the angles of taps (n, d), on the host.

    ``least_relative_curvature``: curvatures below this fraction of the largest one are raised to it, which limits the
    step along a nearly flat direction. With one axis it is not used.

    Returns ``powers`` (n, r): ``1, k_i and k_i k_j`` of the taps k, r = 1 + d + d^2. ``forms`` (2 * (1 + d) * r, .):
    takes inner products (1 + d, r, real and imaginary part) of the first columns of ``terms @ powers`` with all to the
    gradient and the Hessian of half the squared norm of the sum, in the form that `uphill_by_forms` reads. ``signs``
    (2, 4).
    """
    axes = taps.shape[1]
    pairs = (taps[:, :, None] * taps[:, None, :]).reshape(len(taps), axes**2)
    powers = np.concatenate([np.ones((len(taps), 1)), taps, pairs], axis=1)
    return powers, *_newton_forms(axes, least_relative_curvature)


@functools.lru_cache(maxsize=16)
def _newton_forms(axes: int, least_relative_curvature: float) -> tuple[np.ndarray, np.ndarray]:
    """The ``forms`` and ``signs`` of `newton_tables`, which are the same for all taps with so many axes."""
    count = 1 + axes + axes**2
    # The forms of each unit vector.
    size = (1 + axes) * count * 2
    products = np.eye(size).reshape(size, 1 + axes, count, 2)
    gradient = -products[:, 0, 1 : 1 + axes, 1]
    hessian = products[:, 1:, 1 : 1 + axes, 0] - products[:, 0, 1 + axes :, 0].reshape(size, axes, axes)
    large = np.array([1.0, -1.0])
    small = least_relative_curvature * large
    signs = np.array([[*large, *-small], [*-large, *small]])
    forms: Any = [gradient, hessian.reshape(size, axes**2)]
    if axes == 2:
        mean = hessian.trace(axis1=1, axis2=2)[:, None] / 2
        rest = hessian - mean[:, :, None] * np.eye(2)
        both = np.stack([rest, -rest], axis=2).reshape(size, -1)
        forms = [gradient / 2, both, np.tile(mean * np.array([*large, *small]), 2)]
    return np.concatenate(forms, axis=1), signs


def newton_step(terms: Array, taps: Array, tables: Sequence[Array], *, xp: Namespace) -> Array:
    """Return safeguarded Newton steps towards maxima of ``|sum_k c_k e^{i k.theta}|``.

    ``terms`` (..., n): ``c_k e^{i k.theta}`` at the angles to start from. ``taps`` (n, d): the k; d is at least 1.
    ``tables``: `newton_tables`. Returns (..., d): what to add to the angles; the modulus is no smaller there.
    """
    step = uphill(terms[..., None, :], tables, taps.shape[1], xp=xp)
    modulus: Array = xp.abs(xp.sum(terms, axis=-1))
    shares = xp.stack([share * step for share in SHARES])
    modulus_after = _modulus(terms, xp.matmul(shares, xp.matrix_transpose(taps)), xp=xp)
    leads_uphill = (modulus_after > modulus)[..., None]
    chosen = xp.zeros_like(step)
    for i in reversed(range(len(SHARES))):
        chosen = xp.where(leads_uphill[i, ...], shares[i, ...], chosen)
    return chosen


def uphill(terms: Array, tables: Sequence[Array], axes: int, *, longest: float = _LONGEST, xp: Namespace) -> Array:
    """Return Newton steps towards maxima of ``||sum_k c_k e^{i k.theta}||``.

    Steps along directions of positive curvature have the opposite sign, so that they lead uphill. Where another maximum
    is close, the norm may be smaller after the step.

    ``terms`` (..., m, n): vectors ``c_k e^{i k.theta}`` at the angles to start from. ``tables``: `newton_tables`.
    ``axes``: d. ``longest``: longest step along an axis, in radians. Returns (..., d).
    """
    powers, forms, signs = tables
    sums = xp.matmul(terms, xp.astype(powers, terms.dtype, copy=False))
    products = arrays.real_pair(xp.matmul(arrays.adjoint(sums[..., : 1 + axes], xp=xp), sums), xp=xp)
    flat = xp.reshape(products, (*products.shape[:-3], -1))
    return uphill_by_forms(xp.matmul(flat, forms), signs, axes, longest=longest, xp=xp)


def uphill_by_forms(forms: Array, signs: Array, axes: int, *, longest: float = _LONGEST, xp: Namespace) -> Array:
    """`uphill` from the products (..., .) with the forms of `newton_tables`."""
    step = _uphill(forms, signs, axes, xp=xp)
    excess = xp.max(xp.abs(step), axis=-1, keepdims=True) / longest
    return step / xp.maximum(excess, signs[0, 0])


def _uphill(forms: Array, signs: Array, axes: int, *, xp: Namespace) -> Array:
    """Newton steps towards a maximum; along directions of positive curvature they lead uphill too."""
    if axes == 2:
        return _uphill_in_the_plane(forms, signs, xp=xp)
    gradient, hessian = forms[..., :axes], forms[..., axes:]
    if axes == 1:
        return gradient / (xp.abs(hessian) + arrays.TINY)
    values, basis = xp.linalg.eigh(xp.reshape(hessian, (*gradient.shape, axes)))
    curvature = xp.abs(values)
    least = signs[1, 2] * xp.max(curvature, axis=-1, keepdims=True) + arrays.TINY
    step_in_eigenbasis = xp.matmul(gradient[..., None, :], basis)[..., 0, :] / xp.maximum(curvature, least)
    return xp.matmul(basis, step_in_eigenbasis[..., None])[..., 0]


def _uphill_in_the_plane(forms: Array, signs: Array, *, xp: Namespace) -> Array:
    """``f(H) g`` with ``f(x) = 1 / max(|x|, least)`` of a Hessian of two axes, in closed form.

    H has the eigenvalues ``mean + radius`` and ``mean - radius``, and the parts of g along its eigenvectors are
    ``g / 2 + (H - mean I) (g / 2) / radius`` and the difference of the two. So no eigenvalue routine has to wait for
    the device. The forms are g / 2, ``H - mean I`` and its negative by rows, and the parts of the mean in what a
    curvature is at least: the eigenvalue, and a part of the other, with both signs.
    """
    shape = forms.shape[:-1]
    radius = (xp.hypot(forms[..., 2], forms[..., 3]) + arrays.TINY)[..., None, None]
    curvature = xp.max(xp.reshape(forms[..., 10:], (*shape, 2, 4)) + radius * signs, axis=-1)
    half = forms[..., :2, None]
    along = half + xp.reshape(xp.matmul(xp.reshape(forms[..., 2:10], (*shape, 4, 2)), half), (*shape, 2, 2)) / radius
    return xp.sum(along / curvature[..., None, :], axis=-1)


def _modulus(terms: Array, angles: Array, *, xp: Namespace) -> Array:
    """``|sum_k terms_k e^{i angles_k}|``, the sum over the last axis of terms (..., n) and angles (..., n)."""
    cos, sin = xp.cos(angles), xp.sin(angles)
    real, imag = xp.real(terms), xp.imag(terms)
    rotated_real = xp.sum(real * cos - imag * sin, axis=-1)
    rotated_imag = xp.sum(real * sin + imag * cos, axis=-1)
    return xp.sqrt(rotated_real * rotated_real + rotated_imag * rotated_imag)
