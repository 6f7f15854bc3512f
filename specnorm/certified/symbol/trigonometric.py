"""Symbols as trigonometric polynomials: the errors of their values, and their maxima from samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm.certified import rounding
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


def autocorrelation_error(mass: float, terms: int, u: float) -> float:
    """Bound on ``||computed H(theta) - H(theta)||`` of `gram_polynomial.GramPolynomial`.

    ``(gamma(terms) + sqrt(2) eps_c) mass``, with ``mass = q**2``: every entry of H is a sum of products of two kernel
    entries with a cosine or sine. Real and imaginary part together are no worse than one, as ``cos**2 + sin**2 = 1``;
    the errors of cosine and sine change ``e^{i d.theta}`` by at most ``sqrt(2) eps_c``; both stand before
    ``sum_d |R_d| <= (sum_k |K_k|)^T (sum_k |K_k|)``, entrywise. `SLACK` covers the roundings of this formula.

    Parameters
    ----------
    mass : float
        Norm of what the roundings stand before: the square of q, of `absolute_norm_up`, or less.
    terms : int
        Roundings of an entry.
    u : float
        Unit roundoff of the precision they happen in.
    """
    return mass * (rounding.SLACK * (rounding.gamma(terms, u) + math.sqrt(2) * phase_error(u)))
