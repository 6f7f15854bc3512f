"""The methods by which a network is bounded, as values; each proposes weights for a run, and `segments` proves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from specnorm.certified.network.affine_maps import Subnetwork
from specnorm.certified.network.operators.base import FloatArray
from specnorm.certified.network.segments import segments, usable
from specnorm.errors import MethodError
from specnorm.networks import descent
from specnorm.networks.descent import RATE, ROUNDS, Progress
from specnorm.networks.stages import cost, proof_products

WIDTHS, SOME_STEPS = (2**20, 4096, 2048, 1024, 512), 20
"""Channels at which runs are cut, the first that is affordable; steps of the search that have to be."""


class Method(Protocol):
    """What `bounding.bound` asks of a method."""

    def parts(self, run: Subnetwork) -> list[tuple[int, int]]:
        """Links that are bounded together."""
        ...

    def weights(self, run: Subnetwork, parts: Sequence[tuple[int, int]], share: float) -> list[FloatArray] | None:
        """One number a channel of each link's value; None: the run stays a product. ``share``: of the budget."""
        ...


Proposal = tuple[list[tuple[int, int]], list[FloatArray]]
"""Links that are bounded together, and one number a channel of each link's value."""


def proposals(method: Method, run: Subnetwork, share: float) -> list[Proposal]:
    """What a method proposes for a run, the most promising first; several of a method that searches."""
    if isinstance(method, (Scaled, Multipliers)):
        return method.proposals(run, share)
    parts = method.parts(run)
    weights = method.weights(run, parts, share)
    return [] if weights is None else [(parts, weights)]


def affordable(method: Method, run: Subnetwork) -> bool:
    """Whether a method can take up a run of single units within its seconds; others always can."""
    if not isinstance(method, (Scaled, Multipliers)):
        return True
    parts = segments(run) if isinstance(method, Scaled) else method.parts(run)
    return _products(run, parts) < method.seconds * RATE


def _products(run: Subnetwork, parts: Sequence[tuple[int, int]]) -> float:
    """Of a search of some steps, and of the proof."""
    return SOME_STEPS * cost(run, parts, ROUNDS[0][0]).products + proof_products(run, parts)


@dataclass(frozen=True)
class Product:
    """The rules alone: norms of layers multiplied along a run."""

    def parts(self, run: Subnetwork) -> list[tuple[int, int]]:
        """Each link by itself."""
        return segments(run, widest=0)

    def weights(self, run: Subnetwork, parts: Sequence[tuple[int, int]], share: float = 1.0) -> list[FloatArray] | None:
        """None."""
        del run, parts, share
        return None


@dataclass(frozen=True)
class Scaled:
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

    steps: int = 100
    seconds: float = 60.0
    progress: Progress | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self.steps, self.seconds)

    def parts(self, run: Subnetwork) -> list[tuple[int, int]]:
        """Each link by itself."""
        return segments(run, widest=0)

    def weights(self, run: Subnetwork, parts: Sequence[tuple[int, int]], share: float = 1.0) -> list[FloatArray] | None:
        """Found by gradient steps."""
        return next(iter(_found(run, parts, self.steps, share * self.seconds, self.progress)), None)

    def proposals(self, run: Subnetwork, share: float) -> list[Proposal]:
        """What is found by gradient steps."""
        parts = self.parts(run)
        return [(parts, weights) for weights in _found(run, parts, self.steps, share * self.seconds, self.progress)]


@dataclass(frozen=True)
class Multipliers:
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

    steps: int = 100
    seconds: float = 60.0
    widest: int | None = None
    progress: Progress | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self.steps, self.seconds)

    def parts(self, run: Subnetwork) -> list[tuple[int, int]]:
        """As many links together as one statement can speak of."""
        if self.widest is not None:
            return segments(run, widest=self.widest)
        for widest in WIDTHS:
            parts = segments(run, widest=widest)
            if _products(run, parts) < self.seconds * RATE:
                break
        return parts

    def weights(self, run: Subnetwork, parts: Sequence[tuple[int, int]], share: float = 1.0) -> list[FloatArray] | None:
        """Found by gradient steps."""
        return next(iter(_found(run, parts, self.steps, share * self.seconds, self.progress)), None)

    def proposals(self, run: Subnetwork, share: float) -> list[Proposal]:
        """What is found by gradient steps."""
        parts = self.parts(run)
        return [(parts, weights) for weights in _found(run, parts, self.steps, share * self.seconds, self.progress)]


def _check(steps: int, seconds: float) -> None:
    if int(steps) != steps or steps < 0:
        raise MethodError(f"steps={steps!r}; expected a whole number of at least 0.")
    if not seconds > 0:
        raise MethodError(f"seconds={seconds!r}; expected a positive number.")


def _found(
    run: Subnetwork, parts: Sequence[tuple[int, int]], steps: int, seconds: float, progress: Progress | None
) -> list[list[FloatArray]]:
    try:
        with np.errstate(all="ignore"):
            found = descent.search(run, parts, steps, seconds, progress)
    except (np.linalg.LinAlgError, ValueError, ArithmeticError):  # a kernel of zeros, of no entries, or far from 1
        return []
    return [weights for weights in found if all(map(usable, weights))]
