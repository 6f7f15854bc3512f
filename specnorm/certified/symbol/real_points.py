"""Channel autocorrelations of kernels with 3 x 3 taps: 15 matrix products at real points replace 45 products of taps.

For real numbers z_1 and z_2 other than 0, and with ``z^k = z_1^{k_1} z_2^{k_2}``, let ``K(z) = sum_k K_k z^k`` be the
sum of the taps, k from -1 to 1 along both axes. Then ``R(z) = K(1/z)^T K(z)`` is ``sum_d R_d z^d`` with the channel
autocorrelations ``R_d = sum_k K_k^T K_{k+d}``, and ``R(z)^T = R(1/z)``, as ``R_{-d} = R_d^T``. So

    (R(z) + R(z)^T) / 2 = R_0 + sum_{d>0} (R_d + R_d^T) (z^d + z^-d) / 2
    (R(z) - R(z)^T) / 2 = sum_{d>0} (R_d - R_d^T) (z^d - z^-d) / 2

where ``d > 0`` stands for one lag of each pair d, -d. The values at the points give the coefficients by a linear
system: this is the multiplication of polynomials by Toom (1963) and Cook (1966). The coordinates of the points are 1, 2
and 1/2 with both signs, so that all powers are exact and the system is well-conditioned: an error of the values grows
at most eightfold in a coefficient.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm.certified import host, rounding
from specnorm.problem.frequencies import half_lags

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.types import ArrayOps

SHAPE = (3, 3)
"""Taps of the kernels."""
_OWN_INVERSE = ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0))
"""Points with z = 1/z, at which R(z) is symmetric. One determines the coefficients, but an error of the values then
grows twelvefold. With three it grows eightfold, and with the fourth, (-1, -1), as much."""
_OTHERS = (
    (2.0, 1.0), (2.0, -1.0), (-2.0, -1.0), (1.0, 2.0), (-1.0, 2.0), (-1.0, -2.0),
    (2.0, 2.0), (-2.0, 2.0), (-2.0, -2.0), (2.0, 0.5), (2.0, -0.5), (-2.0, -0.5),
)  # fmt: skip
"""The other points, one for each lag d > 0."""
_SUMS_BYTES = 2**22
"""Largest number of bytes of the matrices K(z) and K(1/z) that are formed at once."""


class _System(NamedTuple):
    """The points and the linear system, as float64 arrays of the host.

    Parameters
    ----------
    lags : integer array, shape (13, 2)
        Half of all lags, the zero lag first.
    forward, backward : arrays, shape (15, 9)
        ``z^k`` and ``z^-k`` of each point and tap; the first three points are their own inverses.
    even_weights : array, shape (13, 15)
        Gives ``R_0`` and ``R_d + R_d^T`` from the symmetric parts of the values.
    odd_weights : array, shape (12, 12)
        Gives ``R_d - R_d^T`` from the antisymmetric parts at the last twelve points.
    residual : float
        Bound of the error of the weights: for each of both systems, the sum over the rows (lags) of the largest
        ``|weights @ table - I|``, added.
    """

    lags: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    even_weights: np.ndarray
    odd_weights: np.ndarray
    residual: float


@functools.cache
def _system() -> _System:
    """Return the system, computed once. Its weights are rounded; ``residual`` bounds their error."""
    points = np.asarray(_OWN_INVERSE + _OTHERS)
    taps = np.asarray(list(itertools.product((-1, 0, 1), repeat=2)))
    lags = half_lags(SHAPE)
    # The tables are exact: their entries are sums of powers of two between 1/16 and 16.
    powers, inverses = _monomials(points, lags), _monomials(points, -lags)
    even_table = (powers + inverses) / 2
    odd_table = (powers - inverses)[len(_OWN_INVERSE) :, 1:] / 2
    even_weights = np.linalg.pinv(even_table)
    odd_weights = np.linalg.pinv(odd_table)
    residual = _largest_residual(even_weights, even_table) + _largest_residual(odd_weights, odd_table)
    forward, backward = _monomials(points, taps), _monomials(points, -taps)
    return _System(lags, forward, backward, even_weights, odd_weights, host.next_up(residual))


def _monomials(points: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """``z^k`` for each point and exponent, shape (points, exponents)."""
    return np.asarray(np.prod(points[:, None, :] ** exponents[None, :, :], axis=2))


def _largest_residual(weights: np.ndarray, table: np.ndarray) -> float:
    """Return a bound of the sum over the rows of ``max |weights @ table - I|``, rounded up."""
    computed = np.abs(weights @ table - np.eye(len(weights)))
    magnitudes = np.abs(weights) @ np.abs(table) + 1
    rounding_error = rounding.SLACK * rounding.gamma(table.shape[0] + 2, 2.0**-53) * magnitudes
    return float(host.inflate((computed + rounding_error).max(axis=1).sum(), len(weights) + 4))


def autocorrelations_at_points(
    taps: Array,
    rank: int,
    *,
    tick: Callable[[], None] | None = None,
    ops: ArrayOps,
) -> tuple[np.ndarray, Array, Array]:
    """Return the even and odd parts of a kernel's autocorrelations, as `gram_polynomial.autocorrelations` does.

    Parameters
    ----------
    taps : array, shape (g, 9, m, p)
        In float64.
    rank : int
        Number of columns, the first ones, that are computed.
    tick : callable, optional
        Called before each part of the points. It may end the work by raising an exception.

    Returns
    -------
    lags : integer array, shape (13, 2)
    even, odd : arrays, shape (g, 13, p * rank)
        First columns of ``R_d + R_d^T`` and ``R_d - R_d^T``; for lag 0, those of R_0 and zeros. The first ``rank`` rows
        are symmetric and antisymmetric, bit for bit.
    """
    xp = ops.xp
    system = _system()
    g, count, m, p = taps.shape
    flat = xp.reshape(taps, (g, count, m * p))
    points_at_once = max(1, _SUMS_BYTES // (2 * 8 * g * m * p))
    # The first ``rank`` rows of the values R(z), the rows below them, and the same rows of R(z)^T.
    first, below, transposed = [], [], []
    for start in range(0, len(system.forward), points_at_once):
        if tick is not None:
            tick()
        part = slice(start, start + points_at_once)
        table = np.concatenate([system.forward[part], system.backward[part]])
        sums = xp.reshape(xp.matmul(ops.from_numpy(table, taps), flat), (g, 2, len(table) // 2, m, p))
        at_point, at_inverse = sums[:, 0, ...], sums[:, 1, ...]
        first.append(xp.matmul(xp.matrix_transpose(at_inverse[..., :rank]), at_point[..., :rank]))
        below.append(xp.matmul(xp.matrix_transpose(at_inverse[..., rank:]), at_point[..., :rank]))
        transposed.append(xp.matmul(xp.matrix_transpose(at_point[..., rank:]), at_inverse[..., :rank]))
    values = xp.concat(first, axis=1)
    even = _combined(system.even_weights, values, ops=ops)
    odd = _combined(system.odd_weights, values[:, len(_OWN_INVERSE) :, ...], ops=ops)
    # (R + R^T) / 2 and (R - R^T) / 2 are formed after the weighted sums, which are linear.
    even = (even + xp.matrix_transpose(even)) / 2
    odd = (odd - xp.matrix_transpose(odd)) / 2
    if rank < p:
        values, transposed_values = xp.concat(below, axis=1), xp.concat(transposed, axis=1)
        even_below = (values + transposed_values) / 2
        odd_below = ((values - transposed_values) / 2)[:, len(_OWN_INVERSE) :, ...]
        even = xp.concat([even, _combined(system.even_weights, even_below, ops=ops)], axis=2)
        odd = xp.concat([odd, _combined(system.odd_weights, odd_below, ops=ops)], axis=2)
    odd = xp.concat([xp.zeros_like(even[:, :1, ...]), odd], axis=1)
    shape = (g, len(system.lags), p * rank)
    return system.lags, xp.reshape(even, shape), xp.reshape(odd, shape)


def _combined(weights: np.ndarray, values: Array, *, ops: ArrayOps) -> Array:
    """Return weighted sums (g, L, rows, rank) of values (g, points, rows, rank), for weights (L, points)."""
    xp = ops.xp
    g, count, rows, rank = values.shape
    sums = xp.matmul(ops.from_numpy(weights, values), xp.reshape(values, (g, count, rows * rank)))
    return xp.reshape(sums, (g, len(weights), rows, rank))


def interpolation_error(taps: Array, *, ops: ArrayOps) -> float:
    """Bound ``||H'(theta) - H(theta)||``, where H' has the coefficients of `autocorrelations_at_points`.

    Let ``n(z)`` be a bound of ``|| sum_k |z^k| |K_k| ||`` by row and column sums. An entry of R(z) passes through at
    most ``m + 20`` roundings: 9 sums and a product for each factor, and m of their product. The sum over the points,
    with computed weights w, adds 16, and the mean with the transpose, before or after it, two. So the entry of a
    coefficient is off by at most ``gamma(m + 40) sum_z |w_z|`` times that of a symmetric matrix, the mean of
    ``(sum_k |z^-k| |K_k|)^T (sum_k |z^k| |K_k|)`` and its transpose, whose norm is at most ``n(z) n(1/z)``. To this
    comes what the weights themselves lack: an entry of ``w @ table - I`` times coefficients whose magnitudes add up to
    a matrix of norm at most ``n(1)**2``. The coefficients of all lags stand in H with factors of modulus at most 1.

    Parameters
    ----------
    taps : array, shape (g, 9, m, p)

    Returns
    -------
    float
        For all blocks, rounded up.
    """
    xp = ops.xp
    system = _system()
    _, count, m, p = taps.shape
    magnitudes = xp.abs(taps)
    rows = ops.to_numpy(xp.sum(magnitudes, axis=3))
    columns = ops.to_numpy(xp.sum(magnitudes, axis=2))
    norms = _norms(system.forward, rows, columns)
    inverse_norms = _norms(system.backward, rows, columns)
    masses = host.inflate(norms * inverse_norms, 2 * (count + m + p) + 8)
    roundings = rounding.SLACK * rounding.gamma(m + 40, 2.0**-53)
    weights = np.abs(system.even_weights).sum(axis=0)
    weights[len(_OWN_INVERSE) :] += np.abs(system.odd_weights).sum(axis=0)
    by_rounding = roundings * (masses @ weights).max()
    by_weights = system.residual * masses[:, 0].max()
    return float(host.inflate(by_rounding + by_weights, 64))


def _norms(powers: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return ``n(z)`` of `interpolation_error` for each block and point, shape (g, points), not rounded up.

    Parameters
    ----------
    powers : array, shape (points, 9)
    rows, columns : arrays, shape (g, 9, m) and (g, 9, p)
        Sums of the taps' magnitudes.
    """
    magnitudes = np.abs(powers)
    largest_rows = np.matmul(magnitudes, rows).max(axis=2)
    largest_columns = np.matmul(magnitudes, columns).max(axis=2)
    return np.asarray(np.sqrt(largest_rows * largest_columns))
