"""The methods by which a network is bounded, as values; each proposes weights for a run, and `segments` proves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from specnorm.errors import MethodError
from specnorm.proof import Clock
from specnorm_networks import descent
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.reading import Subnetwork
from specnorm_networks.certified.segments import segments, usable
from specnorm_networks.descent import RATE, ROUNDS, Progress, cost, proof_products

WIDTHS, SOME_STEPS = (2**20, 4096, 2048, 1024, 512), 20
"""Channels at which runs are cut, the first that is affordable; steps of the search that have to be."""
Parts = Sequence[tuple[int, int]]


def hoped(run: Subnetwork, weights: Sequence[FloatArray]) -> float:
    """The constant that a search hopes for: it weighs the last value by that."""
    return math.prod(link.factor.value for link in run.links) / float(np.min(weights[-1]))


class Method:
    """A way to bound a network: by default each link by itself, without weights."""

    def parts(self, run: Subnetwork) -> list[tuple[int, int]]:
        """Links that are bounded together."""
        return segments(run, widest=0)

    def search(
        self, run: Subnetwork, parts: Parts, share: float, clock: Clock,
    ) -> list[list[FloatArray]]:  # fmt: skip
        """Weights, the most promising first: one number a channel of each link's value. ``share``: of the seconds."""
        return []

    def weights(self, run: Subnetwork, parts: Parts, share: float = 1.0) -> list[FloatArray] | None:
        """The most promising; None: the run stays a product."""
        return next(iter(self.search(run, parts, share, Clock())), None)

    def affordable(self, run: Subnetwork) -> bool:
        """Whether a run of single units can be taken up."""
        return True

    def begins_at(self, run: Subnetwork) -> float:
        """The constant that the closed form hopes for."""
        return math.inf


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

    def search(self, run: Subnetwork, parts: Parts, share: float, clock: Clock) -> list[list[FloatArray]]:
        """By gradient steps, and Newton steps for matrices."""
        try:
            with np.errstate(all="ignore"):
                found = descent.search(run, parts, self.steps, share * self.seconds, self.progress, clock)
        except (np.linalg.LinAlgError, ValueError, ArithmeticError):  # a kernel of zeros, of no entries, or far from 1
            return []
        return [weights for weights in found if all(map(usable, weights))]

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
        Of the search for weights; 0: its closed form.
    seconds : float, default 60
        Of the whole search, shared out by layers; after them no step is begun. The proof is not counted.
    progress : callable, optional
        Called after each step with (steps done, steps at most, between which values).
    """

    def affordable(self, run: Subnetwork) -> bool:
        """As if its links were bounded together."""
        return self._fits(run, segments(run))


@dataclass(frozen=True)
class Multipliers(_Searching):
    """Layers and the functions between them together: LipSDP with one multiplier a channel, proven as one norm.

    Parameters
    ----------
    steps : int, default 100
        Of the search for multipliers; 0: its closed form.
    seconds : float, default 60
        Of the whole search, shared out by layers; after them no step is begun. The proof is not counted.
    widest : int, optional
        Channels on the smaller side of the kernel T of which the proof is; longer runs are cut. Default: cut only where
        search or proof would take longer than ``seconds``.
    progress : callable, optional
        Called after each step of the search with (steps done, steps at most, between which values).
    """

    widest: int | None = None

    def parts(self, run: Subnetwork) -> list[tuple[int, int]]:
        """As many links together as one statement can speak of."""
        if self.widest is not None:
            return segments(run, widest=self.widest)
        for widest in WIDTHS:
            parts = segments(run, widest=widest)
            if self._fits(run, parts):
                break
        return parts
