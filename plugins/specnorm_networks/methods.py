"""Methods to bound a network, as values: each proposes weights for a run, and `certified.segments` proves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from specnorm.errors import MethodError
from specnorm.proof import Clock
from specnorm_networks.certified.links import Subnetwork
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.segments import segments, usable
from specnorm_networks.descent import RATE, ROUNDS, Progress, cost, proof_products, search_weights

WIDTHS = (2**20, 4096, 2048, 1024, 512)
"""Limits of a kernel's channels to try: runs are cut by the first one that is affordable."""
SOME_STEPS = 20
"""Steps of the search that have to be affordable."""
Parts = Sequence[tuple[int, int]]
"""Links ``first:last`` that are bounded together, in order."""


def hoped(run: Subnetwork, weights: Sequence[FloatArray]) -> float:
    """Return the constant that a search expects of its weights: it weighs the last value by that."""
    return math.prod(link.factor.value for link in run.links) / float(np.min(weights[-1]))


class Method:
    """A way to bound a network: by default each link by itself, without weights."""

    def parts(self, run: Subnetwork) -> list[tuple[int, int]]:
        """Return the links that are bounded together."""
        return segments(run, widest=0)

    def search(
        self,
        run: Subnetwork,
        parts: Parts,
        share: float,
        clock: Clock,
    ) -> list[list[FloatArray]]:
        """Return weights to try, the most promising first: one number a channel of each link's value.

        ``share``: of the method's seconds.
        """
        return []

    def weights(self, run: Subnetwork, parts: Parts, share: float = 1.0) -> list[FloatArray] | None:
        """Return the most promising weights; None if there are none."""
        return next(iter(self.search(run, parts, share, Clock())), None)

    def affordable(self, run: Subnetwork) -> bool:
        """Whether search and proof of a run of single units are within the method's seconds."""
        return True

    def begins_at(self, run: Subnetwork) -> float:
        """Return the constant that the closed form's weights promise."""
        return math.inf

    def telling(self, progress: Progress | None) -> Method:
        """Return the method that also tells its steps, if it has nobody to tell yet."""
        return self


@dataclass(frozen=True)
class Product(Method):
    """The rules alone: norms of layers multiplied along a run."""


@dataclass(frozen=True)
class _Searching(Method):
    steps: int = 100
    seconds: float = 60.0
    progress: Progress | None = field(default=None, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if int(self.steps) != self.steps or self.steps < 0:
            raise MethodError(f"steps={self.steps!r}; expected a whole number of at least 0.")
        if not self.seconds > 0:
            raise MethodError(f"seconds={self.seconds!r}; expected a positive number.")

    def telling(self, progress: Progress | None) -> Method:
        """Return the method that also tells its steps, if it has nobody to tell yet."""
        return self if progress is None or self.progress is not None else replace(self, progress=progress)

    def search(
        self,
        run: Subnetwork,
        parts: Parts,
        share: float,
        clock: Clock,
    ) -> list[list[FloatArray]]:
        """Search by gradient steps, and by Newton steps for matrices."""
        try:
            with np.errstate(all="ignore"):
                proposals = search_weights(run, parts, self.steps, share * self.seconds, self.progress, clock)
        except (np.linalg.LinAlgError, ValueError, ArithmeticError):  # a kernel of zeros, of no entries, or far from 1
            return []
        return [weights for weights in proposals if all(map(usable, weights))]

    def begins_at(self, run: Subnetwork) -> float:
        weights = replace(self, steps=0).weights(run, self.parts(run))
        return math.inf if weights is None else hoped(run, weights)

    def affordable(self, run: Subnetwork) -> bool:
        """Whether search and proof are within the seconds."""
        return self._fits(run, self.parts(run))

    def _fits(self, run: Subnetwork, parts: Parts) -> bool:
        """Whether a search of some steps, and the proof, are within the seconds."""
        products = SOME_STEPS * cost(run, parts, ROUNDS[0][0]).products + proof_products(run, parts)
        return products < self.seconds * RATE


@dataclass(frozen=True)
class Scaled(_Searching):
    """Norms of layers multiplied along a run, in norms with a weight for each channel: ``||D_i W_i D_{i-1}^-1||``.

    Parameters
    ----------
    steps : int, default 100
        Largest number of steps of the search for weights; 0: its closed form.
    seconds : float, default 60
        Budget of the whole search, shared out by layers, after which no step is begun. The proof is not counted.
    progress : callable, optional
        Called after each step with (steps done, steps at most, between which values).
    """

    def affordable(self, run: Subnetwork) -> bool:
        """Whether search and proof would be within the seconds if the links were bounded together."""
        return self._fits(run, segments(run))


@dataclass(frozen=True)
class Multipliers(_Searching):
    """Layers and the functions between them together: LipSDP with one multiplier a channel, proven as one norm.

    Parameters
    ----------
    steps : int, default 100
        Largest number of steps of the search for multipliers; 0: its closed form.
    seconds : float, default 60
        Budget of the whole search, shared out by layers, after which no step is begun. The proof is not counted.
    widest : int, optional
        Channels on the smaller side of the kernel T of which the proof is; longer runs are cut. Default: cut only where
        search or proof would take longer than ``seconds``.
    progress : callable, optional
        Called after each step of the search with (steps done, steps at most, between which values).
    """

    widest: int | None = None

    def parts(self, run: Subnetwork) -> list[tuple[int, int]]:
        """Return parts of as many links as one statement can bound."""
        if self.widest is not None:
            return segments(run, widest=self.widest)
        for widest in WIDTHS:
            parts = segments(run, widest=widest)
            if self._fits(run, parts):
                break
        return parts
