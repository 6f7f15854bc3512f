"""Symbols as trigonometric polynomials: the errors of their values, and their maxima from samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm.certified import host, rounding
from specnorm.problem.frequencies import PHASE_ERROR

if TYPE_CHECKING:
    from specnorm.types import Array, Namespace


def phase_error(u: float) -> float:
    """Absolute error of the cosines and sines in the working precision: in float32 they are rounded from float64."""
    return PHASE_ERROR * u if u == 2.0**-53 else 1.01 * u


def absolute_norm_up(blocks: Array, *, xp: Namespace) -> Array:
    """Upper bound q of ``|| sum_k |K_k| ||``, from its row and column sums, shape (b,)."""
    b, m, p = blocks.shape[:3]
    sums = xp.sum(xp.reshape(xp.abs(blocks), (b, m, p, -1)), axis=-1)
    rows = xp.max(xp.sum(sums, axis=2), axis=1)
    columns = xp.max(xp.sum(sums, axis=1), axis=1)
    return rounding.up(xp.sqrt(rows * columns), math.prod(blocks.shape[3:]) + m + p + 4, xp=xp)


def symbol_error(blocks: Array, *, xp: Namespace) -> Array:
    """Bound on ``||computed G(theta) - G(theta)||`` at any frequency of `symbols.Symbol`, shape (b,).

    ``(gamma(taps) + sqrt(2) eps_c) q`` with ``q >= || sum_k |K_k| ||`` and eps_c the error of the cosines and sines.
    """
    u = rounding.unit(blocks, xp=xp)
    taps = math.prod(blocks.shape[3:])
    return absolute_norm_up(blocks, xp=xp) * (
        rounding.SLACK * (rounding.gamma(taps + 1, u) + math.sqrt(2) * phase_error(u))
    )


def autocorrelation_error(norm: float, terms: int, u: float) -> float:
    """Bound on ``||computed H(theta) - H(theta)||`` of `gram_polynomial.GramPolynomial`.

    ``(gamma(terms) + sqrt(2) eps_c) q**2``: every entry of H is a sum of products of two kernel entries with a cosine
    or sine. Real and imaginary part together are no worse than one, as ``cos**2 + sin**2 = 1``; the errors of cosine
    and sine change ``e^{i d.theta}`` by at most ``sqrt(2) eps_c``; both stand before
    ``sum_d |R_d| <= (sum_k |K_k|)^T (sum_k |K_k|)``, entrywise. `SLACK` covers the roundings of this formula.

    Parameters
    ----------
    norm : float
        q, of `absolute_norm_up`.
    terms : int
        Roundings of an entry.
    u : float
        Unit roundoff of the precision they happen in.
    """
    return norm**2 * (rounding.SLACK * (rounding.gamma(terms, u) + math.sqrt(2) * phase_error(u)))


def grid_factor(samples: int, size: int) -> float:
    """Factor of the frequency-grid bound along one axis, rounded up.

    ``min(1/cos(pi (k-1) / 2N), (1 - (k-1)/N)**-0.5)``: Ehlich and Zeller 1964, and Pfister and Bresler 2018, for a
    trigonometric polynomial with k consecutive terms on N equispaced samples, N > k - 1. For the best fixed pair of
    unit vectors ``u* G(theta) v`` is one on each axis, and the axes are left one after the other: the factors multiply.
    """
    degree = size - 1
    if degree == 0:
        return 1.0
    if samples <= degree:
        raise ValueError(f"{samples} samples do not determine {size} taps")
    interpolation = host.sqrt_up(host.div_up(samples, samples - degree))
    # Three roundings make the angle: of pi, and of the product and the quotient.
    angle = host.inflate(math.pi * degree / (2 * samples), 3)
    cosine = float(host.cos_down(angle)) if angle < math.pi / 2 else 0.0
    return min(interpolation, host.div_up(1.0, cosine)) if cosine > 0 else interpolation
