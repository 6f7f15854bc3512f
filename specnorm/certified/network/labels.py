"""The radius in which a label stays, from what somebody states: slopes and multipliers, and signs by which it is cut.

What is not stated is chosen by the rule of `by_rule`. Whatever is stated, `linear_bounds` proves what it is worth, and
`margins.radius_of` that the parts are the whole ball.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specnorm.certified import arithmetic
from specnorm.certified.bound import Lower
from specnorm.certified.interval import Interval, _interval
from specnorm.certified.network import margins
from specnorm.certified.network.boxes import within
from specnorm.certified.network.by_rule import is_curved, located, usual
from specnorm.certified.network.graph import Graph, concrete
from specnorm.certified.network.linear_bounds import Choose, Cut, LinearBounds
from specnorm.certified.network.linear_reading import Network, written_out
from specnorm.certified.network.operators.base import FloatArray
from specnorm.certified.network.parabolas import Curve
from specnorm.certified.network.stated import Part, constants_by_parts
from specnorm.certified.stated import digest
from specnorm.errors import CertificateError
from specnorm.types import ArrayOps

LEVELS = 2**24 - 1
"""Of shares, which are whole numbers from 0 for the smallest slope of a function to this one for the largest."""


@dataclass(frozen=True, eq=False)
class Lines:
    """Of one function: some of its entries' slopes, by shares, and multipliers.

    Parameters
    ----------
    at : array of int, shape (entries,)
        Flat positions, ascending.
    shares : array of int, shape (rows, entries)
        Up to `LEVELS`.
    multipliers : array, shape (rows,)
    """

    at: NDArray[np.intp]
    shares: NDArray[np.int64]
    multipliers: FloatArray


@dataclass(frozen=True, eq=False)
class Stated:
    """What proves some differences of logits positive, on a ball or a part of one.

    Parameters
    ----------
    cuts : tuple of Cut
        Of the part.
    others : array of int, shape (rows,)
        Classes whose logit is subtracted from the label's.
    lines : mapping of str to Lines
        By value; of other functions those of the rule.
    """

    cuts: tuple[Cut, ...]
    others: NDArray[np.intp]
    lines: Mapping[str, Lines]

    def choose(self, network: Network) -> Choose:
        """The slopes and multipliers."""
        by_rule = usual(network)

        def choose(name: str, c: FloatArray, curve: Curve) -> tuple[FloatArray, FloatArray]:
            slopes, multipliers = by_rule(name, c, curve)
            lines = self.lines.get(name)
            if lines is None or not is_curved(network, name):
                return slopes, multipliers
            if lines.shares.shape != (len(c), len(lines.at)) or lines.multipliers.shape != (len(c),):
                raise CertificateError(f"of {name} other slopes or multipliers are stated than there are rows")
            known = np.isin(curve.at, lines.at)
            low, high = (end[known] for end in (curve.slope.min(axis=0), curve.slope.max(axis=0)))
            shares = lines.shares[:, np.searchsorted(lines.at, curve.at[known])] / LEVELS
            slopes[:, known] = c[:, known] * (low + (high - low) * shares)
            return slopes, lines.multipliers[None]

        return choose


def digest_of(sample: NDArray[np.floating]) -> str:
    """SHA-256 of a sample's numbers in double precision, whatever its shape."""
    numbers: FloatArray = np.asarray(sample, dtype=np.float64).reshape(-1) + 0.0  # 0 has one sign
    return digest(numbers)


def network_of(graph: Graph, parts: Sequence[Part], between: tuple[float, float] | None, *, ops: ArrayOps) -> Network:
    """A network whose constants are those that parts make up, with inputs in a box; errors as `constant_by_parts`."""
    graph = graph.pruned()
    claims = constants_by_parts(graph, parts, ops=ops)
    return Network(written_out(graph if between is None else within(graph, *between))[-1], claims)


@arithmetic.on_host()
def radius_as_stated(
    network: Network, centre: FloatArray, label: int, radius: float, stated: Iterable[Stated], *, anew: bool
) -> Lower:
    """The radius, if no input of the ball has another label.

    Parameters
    ----------
    network : Network
        With one output of shape (1, classes).
    anew : bool
        As in `located`.

    Raises
    ------
    CertificateError
        If that is not proven by what is stated.
    """
    (output,) = network.graph.outputs
    classes = math.prod(concrete(network.nodes[output].shape) or ())
    if not 0 <= label < classes:
        raise CertificateError(f"a label {label} of {classes} classes")
    rows, others = margins.rows_of(label, classes), np.delete(np.arange(classes), label)
    bounds = located(network, centre, radius, anew=anew)
    known: dict[tuple[Cut, ...], tuple[LinearBounds, Interval]] = {
        (): (bounds, bounds.lower(output, rows, usual(network)))
    }

    def part(cuts: tuple[Cut, ...]) -> tuple[LinearBounds, Interval]:
        """What is known of the ball holds in its parts."""
        if cuts not in known:
            before, best = part(cuts[:-1])
            known[cuts] = before.cut(*cuts[-1]), best
        return known[cuts]

    for each in sorted(stated, key=lambda each: len(each.cuts)):
        here, best = part(each.cuts)
        at = np.searchsorted(others, each.others)
        if not np.array_equal(others[np.minimum(at, len(others) - 1)], each.others):
            raise CertificateError("a difference of logits that there is not")
        low = best.low.copy()
        low[at] = np.maximum(low[at], here.lower(output, rows[at], each.choose(network)).low)
        known[each.cuts] = here, best & _interval(low, np.full(len(low), math.inf))
    found = margins.radius_of([known[cuts] for cuts in _last(tuple(known))])
    if found is None:
        raise CertificateError(f"nothing that is stated proves that the label {label} stays within {radius:.6g}")
    return found


def _last(cuts: Sequence[tuple[Cut, ...]]) -> list[tuple[Cut, ...]]:
    """Those that no other one goes on from."""
    before = {each[:-1] for each in cuts if each}
    return [each for each in cuts if each not in before]
