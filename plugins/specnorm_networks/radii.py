"""Whether a sample's label can change within a radius: by constants, by linear bounds, in parts; and by an attack.

Each is proven, or shown by an input, at the radius that is tried, so that a search may try any.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from specnorm.errors import MethodError
from specnorm.proof import Clock, Interval, Lower
from specnorm_networks.attack import gradient, length, moved, nearest
from specnorm_networks.certified import margins as rules
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.linear_bounds import LinearBounds, Network
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.ranges import box_of
from specnorm_networks.certified.regions import Ball
from specnorm_networks.checking import inside, moved_up, run_with_errors
from specnorm_networks.linear import STEPS, Ascent, located, read
from specnorm_networks.logit_margins import Margins
from specnorm_networks.measuring import Measure

PARTS = 16
"""Parts of a ball at most, without a budget; with one, as many as there is time for."""
MOST_PARTS = 4096
AGAIN = 12
"""Steps of an ascent on a part."""
ATTACKS, PUSHES = 3, 12
"""Classes that a sample is pushed to, and steps to each."""


@dataclass
class Radii:
    """Radii of the samples of one classifier.

    Parameters
    ----------
    graph : Graph
        One input and one output of shape (1, classes), of known sizes, that a matrix ends with.
    known : Margins
        Of the network, everywhere.
    budget : float, optional
        Seconds a sample and radius; None: a fixed number of steps.
    margin : float, default 0.0
        By more than this number the label's logit has to exceed every other one. Attacks change the label itself.

    Raises
    ------
    MethodError
        If the network has other inputs or outputs.
    """

    graph: Graph
    known: Margins
    measure: Measure = field(default_factory=Measure)
    budget: float | None = None
    margin: float = 0.0

    def __post_init__(self) -> None:
        ends = [self.graph.by_name[name].shape for name in (*self.graph.inputs, *self.graph.outputs)]
        if len(ends) != 2 or ends[0] is None or ends[1] is None or len(ends[1]) != 2 or ends[1][0] != 1:
            raise MethodError(
                "Radii need a network with one input and one output of shape (1, classes), of known sizes."
            )
        self.shape, self.classes = ends[0], ends[1][1]
        self.output = self.graph.outputs[0]
        self.network: Network = read(self.graph, self.measure)

    def logits(self, x: FloatArray) -> Interval:
        """Of one sample, their rounding counted."""
        return LinearBounds(self.network, x, 0.0).exact[self.output]

    def by_constants(self, x: FloatArray, label: int) -> Lower:
        """By the constants everywhere; 0 where the label is not proven to be the sample's."""
        (found,) = rules.radii(self.logits(x), np.array([label]), self.known.differences, self.margin)
        return found

    def proven(self, x: FloatArray, label: int, radius: float) -> Lower | None:
        """A ball's radius, if every difference of logits stays above the margin in it."""
        found = self.parts(x, label, radius)
        return None if found is None else rules.radius_of([(each.bounds, each.best) for each in found], self.margin)

    def parts(self, x: FloatArray, label: int, radius: float) -> list[Ascent] | None:
        """Parts of a ball in which all differences of the label's logit to others are above the margin."""
        clock, rows = Clock.of(self.budget), rules.rows_of(label, self.classes)
        for anew in (False, True):
            bounds = located(self.network, x, radius, anew=anew, clock=clock)
            ascent = Ascent(bounds, self.output, rows, needed=self.margin).improved(STEPS if anew else 0, clock)
            if ascent.positive:
                return [ascent]
        return self._cut(ascent, clock)

    def _cut(self, whole: Ascent, clock: Clock) -> list[Ascent] | None:
        """Cut where a sign alone costs the most, and again where that is not enough."""
        open_parts, done = [whole], list[Ascent]()
        most = PARTS if self.budget is None else MOST_PARTS
        while open_parts:
            part = open_parts.pop()
            if part.positive:
                done.append(part)
                continue
            place = part.switching()
            if place is None or clock.expired or len(open_parts) + len(done) + 2 > most:
                return None
            for above in (False, True):
                bounds = part.bounds.cut(*place, above)
                open_parts.append(Ascent(bounds, part.name, part.rows, part).improved(AGAIN, clock))
        return done

    def attacked(self, x: FloatArray, label: int, radius: float) -> FloatArray | None:
        """An input of the ball, and of its box, whose label is not proven to be that one; None: none is found."""
        name, x = self.network.input, x.reshape(self.shape)
        values = self.graph.run({name: x})
        if self.output not in values:
            return None
        if self._changes(x, x, label, 0.0):
            return x
        box = box_of(self.network.graph)
        for other in [int(j) for j in np.argsort(-values[self.output][0]) if j != label][:ATTACKS]:
            at = {name: x}
            row = np.zeros((1, self.classes))
            row[0, other], row[0, label] = 1.0, -1.0
            for step in range(PUSHES):
                way = gradient(self.network.graph, self.network.linear, at, {self.output: row})
                if not length(way):
                    break
                far = inside(radius) * (2.0 if step == 0 else 0.5)
                at = nearest(moved(at, way, far), Ball({name: x}, radius), box)
                if self._changes(x, at[name], label, radius):
                    return at[name]
        return None

    def _changes(self, x: FloatArray, at: FloatArray, label: int, radius: float) -> bool:
        """Whether an input lies in the ball and has another label for sure."""
        name = self.network.input
        if not moved_up({name: x}, {name: at}) <= radius:
            return False
        found = dict(run_with_errors(self.graph, {name: at})).get(self.output)
        if found is None:
            return False
        error = np.broadcast_to(np.asarray(found.error), found.value.shape)[0]
        own = found.value[0, label] + error[label]
        others = np.delete(found.value[0] - error, label)
        return bool((others >= own).any())
