"""Upper bounds of a zero-padded layer at one size by a circulant, of which the layer is a compression."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.at_size.proofs.circulant import norm_by_circulant
from specnorm.proofs.cells import Boxes, Circulant
from specnorm.supremum import tuning

if TYPE_CHECKING:
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.bound import Upper
    from specnorm.proofs.found import Found
    from specnorm.supremum.branch_and_bound import Search


_SHARE = 0.25
"""If the circulant's norm is above the target, it is computed to this part of the tolerance."""


def bound_by_circulant(
    spec: ConvSpec,
    search: Search,
    torus_result: Found,
    least_points: tuple[int, ...],
    *,
    lower: float,
    rtol: float,
    max_cells: int,
) -> tuple[Upper | None, int, int]:
    """Bound the layer's norm by a circulant.

    The bound is about ``lower * (1 + rtol)`` if the circulant's norm is at most that, otherwise the circulant's own
    norm.

    ``spec``: the layer. ``search``: search of the layer's blocks. ``torus_result``: result of its last search of the
    torus. ``least_points``: points of the `shortest` circulant of the layer; 1 on axes with one tap. ``lower``: lower
    bound of the layer's norm. Returns ``upper``: upper bound of the layer. None if no search of a circulant finished,
    or if none was made: the supremum is not bounded, or is below the target already. Returns ``cells``, ``levels``:
    totals of all searches.
    """
    target = lower * (1 + tuning.PROOF_SHARE * rtol)
    supremum = torus_result.upper
    if supremum is None or supremum <= target:
        return None, 0, 0
    kernel_shape = tuple(search.blocks.shape[3:])
    circulant = farthest_circulant(torus_result, least_points, kernel_shape)
    boxes = Boxes.dft(circulant.points, kernel_shape, circulant.skew)
    nearest = search.lower_bound_on_circulant(torus_result, circulant.points, circulant.skew)
    cells = levels = 0
    if target > 0 and nearest.lower <= target:
        result = search.run(boxes, bound=target, supremum=supremum, start=nearest, max_cells=max_cells)
        cells, levels = result.cells, result.levels
        if result.upper is not None:
            return norm_by_circulant(result.upper, spec), cells, levels
    if not target > 0:
        return None, cells, levels
    # The target is not proven: compute the circulant's own norm. The incumbent begins anew beside the maximum of the
    # torus, since the failed search may have left its vector at another frequency.
    nearest = search.lower_bound_on_circulant(torus_result, circulant.points, circulant.skew)
    result = search.run(boxes, rtol=_SHARE * rtol, supremum=supremum, start=nearest, max_cells=max_cells)
    upper = None if result.upper is None else norm_by_circulant(result.upper, spec)
    return upper, cells + result.cells, levels + result.levels


def farthest_circulant(torus_result: Found, least_points: tuple[int, ...], kernel_shape: tuple[int, ...]) -> Circulant:
    """The circulant, of those compared, whose frequencies are farthest from the maximum of the torus.

    The distance is maximized on each axis by itself, since the norm falls off with its square.
    """
    points, skew = [], []
    for angle, least, taps in zip(torus_result.witness.frequency.angles[0], least_points, kernel_shape, strict=True):
        choices = _choices(least, taps)
        distances = [_distance(angle, *choice) for choice in choices]
        axis_points, axis_skew = choices[int(np.argmax(distances))]
        points.append(axis_points)
        skew.append(axis_skew)
    return Circulant(tuple(points), tuple(skew))


def _choices(least_points: int, taps: int) -> list[tuple[int, bool]]:
    """The numbers of points of an axis that are compared, and whether it is skew.

    On a skew axis, a pixel that is read past the end is multiplied by -1.
    """
    if taps == 1:
        return [(1, False)]
    return list(itertools.product((least_points, least_points + 1), (False, True)))


def _distance(angle: float, points: int, skew: bool) -> float:
    """Distance of an angle from the nearest frequency of an axis of a circulant, in radians."""
    offset = 0.5 if skew else 0.0  # the frequencies of a skew axis lie half a step farther
    place = angle / (2 * math.pi) * points - offset
    return abs(place - round(place)) * 2 * math.pi / points
