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
"""Part of the tolerance that the search has."""
_POWERS = 400
"""Powers of two up to which the square of a scale is taken as it is, beside a kernel of about 1."""


def isometry_of_blocks(
    problem: Problem, target: tuple[float, int] | None, *, ops: ArrayOps
) -> tuple[Lower, Upper, SearchResult]:
    """Enclose ``||K*K - s**2 I|| / s**2`` of one layer's blocks, over all frequencies or those of its size.

    And how the search for the norm of ``K*K - s**2 I`` ended.

    Parameters
    ----------
    problem : Problem
        Of blocks (g, m, p, *kernel_shape).
    target : pair of float and int, optional
        A fraction and the power of two that s squared is. None: the mean of the squared singular values.
    """
    blocks = arrays.tall(polyphase.support(problem.kernel, ops=ops), xp=ops.xp)
    centre, beyond = mean_square(blocks, ops=ops), 0
    if target is not None:
        fraction, power = target
        within = min(max(power, -_POWERS), _POWERS)
        centre, beyond = math.ldexp(fraction, within), power - within
    sizes = circulant_sizes(problem, blocks)
    of = rule.defect(rule.in_basis(blocks, ops=ops), centre, sizes=sizes, ops=ops)
    # The rest of the tolerance is for the roundings of the lags.
    norm, _ = enclose_blocks(norm_problem(problem, of.kernel, _SHARE * problem.rtol, sizes), ops=ops)
    unread = uncut.unread_pixels_make_smallest_zero(problem.spec)
    lower, upper = rule.isometry_ends(of, norm.lower, known(norm.upper), unread_pixels=unread, scale_exponent=beyond)
    return lower, upper, norm
