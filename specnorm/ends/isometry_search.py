"""Both ends of an isometry defect: the norm of the kernel ``c I - K*K``, by the search of `enclosing`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from specnorm.at_size.proofs import uncut
from specnorm.backends import arrays
from specnorm.ends import proof as defects
from specnorm.ends.smallest_singular_value import AIMED_SHARE, circulant_sizes, mean_square, norm_problem
from specnorm.proofs.found import Found, Outcome
from specnorm.supremum.enclosing import enclose_blocks

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.running.search import Problem

_FAR = 200
"""Exponent of ``s**2``, as a power of two, that the search sees beside a kernel of about 1 in place of one that is more
than twice as large. The rest is put back by `proof.isometry_ends`, with a loss of two to the power of minus the
rest."""


def isometry_of_blocks(blocks: Array, problem: Problem, target: tuple[float, int] | None, *, ops: ArrayOps) -> Found:
    """Enclose ``||K*K - s**2 I|| / s**2`` of one layer's blocks, over all frequencies or those of its size.

    ``blocks`` is (g, m, p, *kernel_shape). ``target``: fraction and exponent with ``s**2 = fraction * 2**exponent``.
    None: ``s**2`` is the mean of the squared singular values. Returns that of the search for the norm of ``K*K - s**2
    I``, with the bounds of the defect.
    """
    blocks = arrays.tall(arrays.without_zero_borders(blocks, ops=ops), xp=ops.xp)
    if target is None:
        centre = mean_square(blocks, ops=ops)
        rest_exponent = 0
    else:
        fraction, exponent = target
        searched_exponent = int(math.copysign(_FAR, exponent)) if abs(exponent) > 2 * _FAR else exponent
        centre = math.ldexp(fraction, searched_exponent)
        rest_exponent = exponent - searched_exponent
    sizes = circulant_sizes(problem, blocks)
    defect = defects.defect(defects.in_basis(blocks, ops=ops), centre, sizes=sizes, ops=ops)
    result, _ = enclose_blocks(
        defect.kernel, norm_problem(problem, defect.kernel, AIMED_SHARE * problem.rtol, sizes), ops=ops
    )
    lower, upper = defects.isometry_ends(
        defect,
        *result.ends,
        unread_pixels=uncut.unread_pixels_make_smallest_zero(problem.spec),
        scale_exponent=rest_exponent,
    )
    # A lower bound of 0 says that the defect was not told from 0.
    return replace(result, lower=lower, upper=upper, ended=Outcome.ZERO if lower.value == 0 else None)
