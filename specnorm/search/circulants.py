"""Upper bounds of a zero-padded layer at one size: which circulants are searched (`certified.layer.circulant`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm.certified.layer.circulant import Embedding, norm_by_circulant
from specnorm.certified.symbol.cells import dft
from specnorm.problem.frequencies import product

if TYPE_CHECKING:
    from specnorm.certified.bound import Upper
    from specnorm.problem.spec import ConvSpec
    from specnorm.search.branch_and_bound import Search
    from specnorm.search.result import SearchResult


@dataclass(frozen=True, eq=False)
class CirculantTuning:
    """Which circulants are tried. It decides on time and on how wide the interval is.

    Parameters
    ----------
    circulants : int
        Most circulants of one layer. The first is right unless several maxima of the torus are nearly equal.
    longer : float
        Part of the shortest circulant's points by which others are longer. The bound's excess grows with the square of
        the distance of the maximum from the circulant's frequencies, which is at most half a step.
    choices : int
        Most circulants compared for an axis.
    share : float
        Part of the tolerance of the search that says how close the best circulant comes, where none is close enough.
    """

    circulants: int = 4
    longer: float = 0.125
    choices: int = 16
    share: float = 0.25


TUNING = CirculantTuning()


def bound_by_circulants(
    spec: ConvSpec,
    search: Search,
    torus: SearchResult,
    fewest: tuple[int, ...],
    *,
    lower: float,
    rtol: float,
    max_cells: int,
    only_one: bool = False,
) -> tuple[Upper | None, int, int]:
    """Prove that the layer's norm is below a lower bound raised by rtol; or by how little it is not, by circulants.

    Parameters
    ----------
    spec : ConvSpec
        The layer.
    search : Search
        Of the layer's blocks.
    torus : SearchResult
        Of its last search of the torus, with ``grid_follows``.
    fewest : tuple of int
        `shortest` of the layer; 1 on axes with one tap.
    lower : float
        Of the layer's norm.
    only_one : bool
        Try the best circulant alone: something else will come close enough.

    Returns
    -------
    upper : Upper or None
        Of the layer; None where no circulant was searched to its end.
    cells, levels : int
        Of all searches.
    """
    target = lower * (1 + search.tuning.share * rtol)
    cells = levels = 0
    if torus.upper is None or torus.upper <= target:
        return None, cells, levels
    kernel_shape = tuple(search.blocks.shape[3:])
    maxima = [torus]
    tried: list[tuple[Embedding, float]] = []
    for _ in range(0 if target <= 0 else 1 if only_one else TUNING.circulants):
        circulant = away_from(maxima, fewest, kernel_shape, [r for r, _ in tried])
        if circulant is None:
            break
        found = nearest = search.at_nearest(torus, circulant.points, circulant.skew)
        if nearest.lower <= target:
            boxes = dft(circulant.points, kernel_shape, circulant.skew)
            found = search.run(boxes, bound=target, supremum=torus.upper, start=nearest, max_cells=max_cells)
            cells, levels = cells + found.cells, levels + found.levels
            if found.upper is not None:
                return norm_by_circulant(spec, found.upper), cells, levels
        tried.append((circulant, found.lower.value))
        maxima.append(found)
    if not tried or only_one:
        return None, cells, levels
    circulant, _ = min(tried, key=lambda pair: pair[1])
    boxes, nearest = (
        dft(circulant.points, kernel_shape, circulant.skew),
        search.at_nearest(torus, circulant.points, circulant.skew),
    )
    tolerance = TUNING.share * rtol
    found = search.run(boxes, rtol=tolerance, supremum=torus.upper, start=nearest, max_cells=max_cells)
    upper = None if found.upper is None else norm_by_circulant(spec, found.upper)
    return upper, cells + found.cells, levels + found.levels


def away_from(
    maxima: list[SearchResult], fewest: tuple[int, ...], kernel_shape: tuple[int, ...], tried: list[Embedding]
) -> Embedding | None:
    """The circulant whose frequencies are farthest from some maxima: the norm falls off by the distance squared."""
    angles = np.concatenate([x.frequency.angles for x in maxima])
    axes, drops = [], []
    for axis, (least, k) in enumerate(zip(fewest, kernel_shape, strict=True)):
        choices = _choices(least, k)
        apart = np.asarray([_distance(angles[:, axis], *choice) for choice in choices])
        drop = ((k - 1) / 2 * apart) ** 2 / 2
        best = np.argsort(-drop[:, 0], kind="stable")[: TUNING.choices]
        axes.append([choices[j] for j in best])
        drops.append(drop[best])
    index = product([np.arange(len(x)) for x in axes])
    # Far from the highest maximum, and from the others the less the lower they are.
    highest = max(x.lower.value for x in maxima) or 1.0
    gained = np.asarray([1 - x.lower.value / highest for x in maxima])
    total = gained + sum((drop[index[:, axis]] for axis, drop in enumerate(drops)), np.zeros((len(index), len(maxima))))
    for at in np.argsort(-total.min(axis=1), kind="stable"):
        chosen = [axes[axis][j] for axis, j in enumerate(index[at])]
        circulant = Embedding(tuple(points for points, _ in chosen), tuple(skew for _, skew in chosen))
        if circulant not in tried:
            return circulant
    return None


def _choices(least: int, k: int) -> list[tuple[int, bool]]:
    if k == 1:
        return [(1, False)]
    longest = least + max(1, math.ceil(TUNING.longer * least))
    return [(points, skew) for points in range(least, longest + 1) for skew in (False, True)]


def _distance(angles: np.ndarray, points: int, skew: bool) -> np.ndarray:
    """From angles to the nearest frequency of an axis of a circulant, in radians."""
    at = angles / (2 * math.pi) * points - skew / 2
    return np.asarray(np.abs(at - np.round(at)) * 2 * math.pi / points)
