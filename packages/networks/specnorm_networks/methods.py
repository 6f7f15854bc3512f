"""Methods to bound a network, as values: each proposes weights for a run, and `certified.parts` proves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from specnorm.errors import MethodError
from specnorm.proof import Clock, check_count, check_number
from specnorm_networks.certified.links import Run
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.parts import cut_into_parts, usable
from specnorm_networks.descent.costs import RATE, cost, proof_products
from specnorm_networks.descent.search import ROUNDS, search_weights
from specnorm_networks.progress import Progress, check_progress

WIDTHS = (2**20, 4096, 2048, 1024, 512)
"""Limits of the number of channels of a part's kernel, in the order in which they are tried. A run is cut by the first
limit for which search and proof are affordable."""
SOME_STEPS = 20
"""Number of steps of the search that have to be affordable."""
LEFT_TO_PROOF = 0.4
"""Least share of the time that a search leaves to the proof."""
Parts = Sequence[tuple[int, int]]
"""Pairs (first, last), in order: the links ``first:last`` of a run are bounded together."""


def expected_constant(run: Run, weights: Sequence[FloatArray]) -> float:
    """Return the constant of a run that a search expects from weights: their scale is the last value's weight."""
    return math.prod(map(float, run.factors)) / float(np.min(weights[-1]))


class Method:
    """A way to bound a network."""


@dataclass(frozen=True)
class Product(Method):
    """Multiply the norms of the layers along a run."""


@dataclass(frozen=True)
class Multipliers(Method):
    """Bound layers and the functions between them together: LipSDP with one multiplier per channel, proven by one norm.

    Parameters
    ----------
    steps : int, default 100
        Largest number of steps of the search for multipliers; 0: use the closed form.
    seconds : float, default 60
        Time limit of the whole search, divided among the layers; then no further step begins. The proof is not counted.
    widest : int, optional
        Largest number of channels on the smaller side of the kernel whose norm proves a part; longer runs are cut.
        Default: runs are cut only if search or proof would take longer than ``seconds``.
    progress : callable, optional
        Called after each step of the search with (steps done, largest number of steps, "start to end" of the run).
    """

    steps: int = 100
    seconds: float = 60.0
    widest: int | None = None
    progress: Progress | None = field(default=None, repr=False, compare=False, kw_only=True)

    @property
    def takes_whole(self) -> bool:
        """Whether the layers that are bounded together are not limited."""
        return self.widest is None

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_progress(self.progress)
        if not check_number("seconds", self.seconds) > 0:
            raise MethodError(f"seconds={self.seconds!r}; expected a positive number.")
        if self.widest is not None:
            check_count("widest", self.widest)

    def limited(self, budget: float | None, progress: Progress | None) -> Self:
        """Return the method with no more seconds than a budget (None: no limit), which tells its steps."""
        seconds = self.seconds if budget is None else min(self.seconds, budget)
        return replace(self, seconds=seconds, progress=self.progress or progress)

    def search(
        self,
        run: Run,
        parts: Parts,
        share: float,
        clock: Clock,
    ) -> list[list[FloatArray]]:
        """Return proposals of weights, the most promising one first.

        A proposal has for each link an array with one weight for each channel of the link's value. ``share`` is the
        part of the method's seconds that the search may take. It leaves time for the proof.
        """
        proof = proof_products(run, parts) / RATE
        until = clock.before(max(proof, LEFT_TO_PROOF * clock.left))
        try:
            with np.errstate(all="ignore"):
                proposals = search_weights(run, parts, self.steps, share * self.seconds, self.progress, until)
        except (np.linalg.LinAlgError, ArithmeticError):
            return []  # a kernel is zero or empty, or its numbers are too large or too small to search with
        clock.has_cut |= until.has_cut or until.expired
        return [weights for weights in proposals if all(map(usable, weights))]

    def _fits(self, run: Run, parts: Parts) -> bool:
        """Whether a search of `SOME_STEPS` steps and the proof take less than the method's seconds."""
        products = SOME_STEPS * cost(run, parts, ROUNDS[0][0]).products + proof_products(run, parts)
        return products < self.seconds * RATE

    def parts(self, run: Run) -> list[tuple[int, int]]:
        """Return the longest parts that are affordable, at most ``widest`` channels wide."""
        if self.widest is not None:
            return cut_into_parts(run, widest=self.widest)
        for widest in WIDTHS:
            parts = cut_into_parts(run, widest=widest)
            if self._fits(run, parts):
                break
        return parts
