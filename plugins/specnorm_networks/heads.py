"""Search: multipliers of convolutions and of the dense layers behind them, through the flattened head between.

Gradient steps on what `recursion` computes, at the frequencies of the very ring that `certified.heads` sums
over: at the head the values of all frequencies meet in one matrix.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from specnorm import SpecnormError
from specnorm.proof import ArrayOps, Upper, arithmetic, backends
from specnorm_networks.certified.heads import Head, constant_before, constant_through_head
from specnorm_networks.certified.links import Subnetwork
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.segments import middle
from specnorm_networks.descent import (
    MEMORY,
    RATE,
    ROUNDS,
    Stage,
    Vectors,
    cost,
    frequencies,
    gradient_steps,
    parameters,
    stages,
    stages_of,
    symbols_at,
    value_alone,
)
from specnorm_networks.measuring import Measure
from specnorm_networks.methods import Multipliers

RUNGS = (0, 10, 25, 100, 400, 1600)
"""Steps after which a proof is tried: what a budget finds, a larger one finds too."""
PART = 1 / 4
PATIENCE = 10
"""Of the method's seconds; steps without a gain of a thousandth after which the search ends."""
LOWER = (1.0, 0.9, 0.7)
"""What is left of the last multipliers, for those of a cut run are feasible only nearly."""


def bound_through_head(
    head: Head,
    measure: Measure,
    method: Multipliers,
    share: float,
    known: Sequence[FloatArray] = (),
) -> Upper | None:
    """The least constant of a run that is found within a share of the method's seconds; None: none is.

    Parameters
    ----------
    known : sequence of array
        Weights of the run's values, where it is cut before the head: the search for its last part may begin with them.
    """
    claims: list[Upper] = []
    like: Any = head.body.links[0].slopes[0]
    ops = ArrayOps.of(backends.backend_for(like), like)

    def following(rest: Subnetwork) -> list[tuple[list[int], list[FloatArray]]]:
        if len(rest.links) == 1:
            return [([0], [np.ones(rest.links[0].width)])]
        parts = method.parts(rest)
        starts = [first for first, _ in parts]
        return [(starts, weights) for weights in method.search(rest, parts, share, measure.clock)]

    try:
        with np.errstate(all="ignore"), arithmetic.exact(like, backend=backends.backend_for(like)):
            ahead = constant_before(head, measure) if head.before else None
            for weights in weights_of(head, method, PART * share * method.seconds * RATE, known):
                if measure.clock.expired:
                    break
                claims.append(constant_through_head(head, weights, following, measure, ahead, ops=ops))
    except (np.linalg.LinAlgError, ValueError, ArithmeticError, SpecnormError):
        pass  # what was proven before is worth as much
    return min(claims, key=float, default=None)


def weights_of(
    head: Head,
    method: Multipliers,
    budget: float,
    known: Sequence[FloatArray] = (),
) -> Iterator[list[FloatArray]]:
    """Of the values of the body but the first, the better ones last; ``budget``: products of numbers."""
    products, memory = _cost(head)
    if memory > MEMORY or budget < products:
        return
    search = _Search(head, method)
    if known and head.before:
        search.begin(known)
    for done, rung in itertools.pairwise(RUNGS):
        yield [np.sqrt(multipliers) * _unit(head) for multipliers in search.of_body()]
        if rung > min(method.steps, budget / products) or not search.descend(rung - done):
            return


class _Search:
    """Where the search stands: logarithms of D, and logits of the shares, of all links but the last."""

    def __init__(self, head: Head, method: Multipliers) -> None:
        self.head = head
        self.method = method
        self.done = 0
        self.exact = _stages(head, method)
        self.grid = [replace(stage, symbols=_narrow(stage.symbols)) for stage in self.exact]
        self.links = [*head.body.links, *head.run.links[head.matrix_number : -1]]
        self.point = np.zeros(sum(link.width for link in self.links) + len(self.links))

    def of_body(self) -> list[FloatArray]:
        """The body's multipliers where it stands."""
        return value_alone(self.exact, self.point)[1][: len(self.head.body.links)]

    def begin(self, known: Sequence[FloatArray]) -> None:
        """Where the weights of a run that is cut before the head are, if that is better than the closed form."""
        count = len(self.head.body.links)
        best = (self._value(), self.point)
        multipliers = [np.square(each / _unit(self.head)) for each in known[len(self.head.before) : -1]]
        multipliers = [np.repeat(each, x.width // len(each)) for each, x in zip(multipliers, self.links, strict=True)]
        centre, _ = middle(*self.head.body.links[-1].slopes)
        # Behind a function with multipliers as much as before a cut is left of these, where they are most.
        multipliers[count - 1] /= np.where(centre == 0, 1.0, 2 * np.square(centre))
        for lower in LOWER:
            shares = lower ** (np.minimum(np.arange(1, len(self.links) + 1), count) / count)
            logs = [each * by for each, by in zip(multipliers, shares, strict=True)]
            self.point = np.concatenate(parameters(self.grid, logs))
            best = min(best, (self._value(), self.point), key=lambda each: each[0])
        self.point = best[1]

    def _value(self) -> float:
        return value_alone(self.grid, self.point)[0]

    def descend(self, steps: int) -> bool:
        """Gradient steps to the best point on the way; whether it is better by a thousandth than the one before."""
        first = best = math.inf
        for at, best, point in gradient_steps(self.grid, self.links, self.point, steps, PATIENCE):
            self.point = point
            first = best if at == 0 else first
            self.done += at > 0
            if at and self.method.progress is not None:
                self.method.progress(self.done, self.method.steps, f"{self.head.run.start} to {self.head.run.end}")
        return best < first - 1e-3


def _narrow(symbols: Vectors) -> Vectors:
    return symbols.astype(np.complex64) if np.iscomplexobj(symbols) else symbols


def _stages(head: Head, method: Multipliers) -> list[Stage]:
    """The body at the frequencies of the ring, the head, and what follows at one frequency."""
    whole = (0, len(head.body.links))
    points, counts = head.frequencies
    body = stages_of(head.body, [whole], whole, points.angles, np.complex128, head.entry / _unit(head))
    centre, leaf = middle(*head.body.links[-1].slopes)
    body[-1] = replace(body[-1], cut=False, centre=centre, leaf=leaf)
    symbols: Vectors = symbols_at(head.matrix(), (0,) * len(head.window), points.angles)
    symbols *= np.sqrt(counts / np.prod(head.ring))[:, None, None]
    rest = head.following(np.eye(head.link.width))
    first, *later = stages(rest, method.parts(rest), ROUNDS[0][0])
    if first.leaf.any() and not first.cut:  # in the search alone
        first = replace(first, cut=True, centre=np.zeros(head.link.width), leaf=head.link.steepest)
        later[0].starts = True
    symbols = symbols if np.iscomplexobj(body[0].symbols) else symbols.real
    first = replace(first, symbols=symbols, starts=False, alive=np.arange(symbols.shape[2]), summed=True)
    return [*body, first, *later]


def _unit(head: Head) -> float:
    """What weights are counted in, lest their powers are too small for single precision."""
    return float(np.exp(np.mean(np.log(head.entry))))


def _cost(head: Head) -> tuple[float, float]:
    """Products that a step takes, as `RATE` counts them, and bytes: there and back at all frequencies."""
    count = len(head.frequencies[0])
    part = head.part
    m = head.link.width
    p = head.body.links[-1].width
    of_body = cost(head.body, [(0, len(part.links))], 2)
    times = count / frequencies(part, 2)
    products = 0.3 * times * of_body.products + 1.2 * count * (p**3 / 1.5 + 2.0 * p * p * m + 2.0 * m * m * p)
    return products, 3 * times * of_body.memory + 48.0 * count * (2 * m * p + p * p)
