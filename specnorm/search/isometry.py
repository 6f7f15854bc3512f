"""Both ends of an isometry defect: the norm of the kernel ``c I - K*K``, by the search of `enclosing`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm import arrays
from specnorm.certified import defect as rule
from specnorm.certified.bound import known
from specnorm.certified.layer import uncut
from specnorm.problem import polyphase
from specnorm.search.enclosing import enclose_blocks
from specnorm.search.smallest import circulant_sizes, mean_square, norm_problem

if TYPE_CHECKING:
    from specnorm.certified.bound import Lower, Upper
    from specnorm.search.result import Problem, SearchResult
    from specnorm.types import ArrayOps

_SHARE = 0.9
"""Part of the tolerance that the search gets."""
_LARGEST_EXPONENT = 400
"""Largest exponent of the squared scale that the search sees, beside a kernel of about 1. `defect.isometry_ends` puts
the rest back."""


def isometry_of_blocks(
    problem: Problem, target: tuple[float, int] | None, *, ops: ArrayOps
) -> tuple[Lower, Upper, SearchResult]:
    """Enclose ``||K*K - s**2 I|| / s**2`` of one layer's blocks, over all frequencies or those of its size.

    Parameters
    ----------
    problem : Problem
        A problem of blocks (g, m, p, *kernel_shape).
    target : pair of float and int, optional
        The square of s: a fraction and a power of two. None: the mean of the squared singular values.

    Returns
    -------
    lower, upper : Lower and Upper
        Bounds of the isometry defect.
    norm : SearchResult
        The result of the search for the norm of ``K*K - s**2 I``.
    """
    blocks = arrays.tall(polyphase.support(problem.kernel, ops=ops), xp=ops.xp)
    if target is None:
        centre = mean_square(blocks, ops=ops)
        rest_exponent = 0
    else:
        fraction, power = target
        exponent = min(max(power, -_LARGEST_EXPONENT), _LARGEST_EXPONENT)
        centre = math.ldexp(fraction, exponent)
        rest_exponent = power - exponent
    sizes = circulant_sizes(problem, blocks)
    of = rule.defect(rule.in_basis(blocks, ops=ops), centre, sizes=sizes, ops=ops)
    # The rest of the tolerance is for the roundings of the lags.
    norm, _ = enclose_blocks(norm_problem(problem, of.kernel, _SHARE * problem.rtol, sizes), ops=ops)
    unread = uncut.unread_pixels_make_smallest_zero(problem.spec)
    lower, upper = rule.isometry_ends(
        of,
        norm.lower,
        known(norm.upper),
        unread_pixels=unread,
        scale_exponent=rest_exponent,
    )
    return lower, upper, norm
