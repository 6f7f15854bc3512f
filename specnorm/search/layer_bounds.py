"""Two proven bounds of a layer at its size, and what the search for them is tuned by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from specnorm.certified.bound import greatest, least
from specnorm.search.result import Bounds

if TYPE_CHECKING:
    from specnorm.certified.bound import Upper
    from specnorm.result import BoundSource
    from specnorm.types import Array


@dataclass(frozen=True, eq=False)
class LayerBounds(Bounds):
    """Two proven bounds of ``||A||``.

    Parameters
    ----------
    u, v : arrays, shapes (1, outputs) and (1, inputs)
        Unit vectors with ``<u, A v>`` equal to ``lower`` but for rounding; empty where they are too large.
    gradient : array, shape (1, *shape)
        Of ``<u, A v>`` with respect to the kernel.
    bound_source : BoundSource
        Of the upper bound.
    cells, levels : int
        Of all searches.
    """

    u: Array
    v: Array
    gradient: Array
    bound_source: BoundSource
    cells: int = 0
    levels: int = 0

    def intersect(self, other: LayerBounds) -> LayerBounds:
        """The better of both bounds of one layer."""
        low = self if greatest(self.lower, other.lower) is self.lower else other
        bounds = self.with_upper(other.upper, other.bound_source)
        cells, levels = self.cells + other.cells, self.levels + other.levels
        return LayerBounds(low.lower, bounds.upper, low.u, low.v, low.gradient, bounds.bound_source, cells, levels)

    def with_upper(self, upper: Upper | None, source: BoundSource) -> LayerBounds:
        """With another upper bound, if that is lower."""
        known = [bound for bound in (self.upper, upper) if bound is not None]
        if not known or least(*known) is self.upper:
            return self
        return replace(self, upper=upper, bound_source=source)


@dataclass(frozen=True, eq=False)
class LayerTuning:
    """Effort for a layer at its size. It decides on time and on how wide the interval is.

    Parameters
    ----------
    at_once : float
        Multiplications of a proof by the layer's own matrix up to which nothing else is tried: a search takes longer.
    soon : float
        Those up to which it is tried after one circulant: less than a second.
    work : float
        Those up to which it is tried where nothing else came close enough: some seconds.
    deflated_from : float
        Those from which a circulant is deflated first.
    deflated_groups : int
        Groups up to which a circulant is deflated for each.
    deflated_down_to : float
        Tolerance: for a smaller one too many waves would have to be taken out.
    steps : int
        Lanczos steps from a plane wave at the best frequency. The wave alone is within 1e-4 to 4e-3 of the norm on
        trained layers at 32 pixels an axis, after four steps within 1e-6 to 4e-4, after eight within 1e-7 to 1e-4.
    waves : int
        Pixels an axis from which a sum of waves takes the place of these steps: it is as close.
    closer : int
        Steps where few waves taken out of a circulant are not enough.
    more : int
        Steps where the bounds are still apart, or closer ones are asked for.
    applied : float
        Pixels times channels times steps at most; of a larger layer a restriction is taken, which loses the less the
        larger it is: by the square of its inverse size.
    again : float
        Times as much where the bounds are still apart.
    witness : int
        Inputs and outputs up to which the vectors are given.
    """

    at_once: float = 3e6
    soon: float = 2e9
    work: float = 3e10
    steps: int = 4
    waves: int = 24
    closer: int = 10
    more: int = 48
    applied: float = 2.0**21
    again: float = 2.0
    witness: int = 2**23
    deflated_from: float = 2e8
    deflated_groups: int = 12
    deflated_down_to: float = 1e-4


TUNING = LayerTuning()
