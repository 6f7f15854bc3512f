"""Decide whether a sample's label can change within a radius: by constants, linear bounds, and an attack.

Each answer is proven, or shown by an input, at the radius that is tried, so that a search may try any radius.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from specnorm.errors import MethodError
from specnorm.proof import Clock, Interval, Lower
from specnorm_networks import Graph
from specnorm_networks.local.certified import margins as rules
from specnorm_networks.local.certified.linear_bounds import LinearBounds, Network
from specnorm_networks.local.certified.ranges import Ball
from specnorm_networks.local.linear import STEPS, Ascent, locate_values, read_network
from specnorm_networks.local.margins import Margins
from specnorm_networks.tools import (
    FloatArray,
    Measure,
    box_of,
    gradient,
    inside,
    length,
    moved,
    moved_up,
    run_with_errors,
)

ATTACKED_CLASSES = 3
"""Classes that a sample is pushed to."""
PUSHES = 12
"""Steps towards each class."""


@dataclass
class Radii:
    """Radii of the samples of one classifier.

    Parameters
    ----------
    graph : Graph
        One input, and one output of shape (1, classes) from a final linear layer; sizes are known.
    known : Margins
        Lipschitz constants of the differences of logits that hold everywhere.
    measure : Measure, optional
        Proves bounds on the norms of layers.
    budget : float, optional
        Seconds for each sample and radius; None: a fixed number of steps.
    margin : float, default 0.0
        Number by which the label's logit has to exceed every other one. An attack succeeds only if it changes the
        label, whatever the margin is.

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
        ends = (*self.graph.inputs, *self.graph.outputs)
        shapes = [shape for name in ends if (shape := self.graph.by_name[name].shape) is not None]
        has_one_of_each = len(self.graph.inputs) == len(self.graph.outputs) == 1
        if not has_one_of_each or len(shapes) != 2 or len(shapes[1]) != 2 or shapes[1][0] != 1:
            raise MethodError(
                "Radii need a network with one input and one output of shape (1, classes), of known sizes."
            )
        self.shape, (_, self.classes) = shapes
        self.output = self.graph.outputs[0]
        self.network: Network = read_network(self.graph, self.measure)

    def logits(self, x: FloatArray) -> Interval:
        """Return the logits of one sample as intervals, rounding counted."""
        return LinearBounds(self.network, x, 0.0).at_centre[self.output]

    def by_constants(self, x: FloatArray, label: int) -> Lower:
        """Prove a radius by constants that hold everywhere; 0 if the label is not proven to be the sample's."""
        (radius,) = rules.radii(self.logits(x), np.array([label]), self.known.differences, self.margin)
        return radius

    def proven(self, x: FloatArray, label: int, radius: float) -> Lower | None:
        """Return a ball's radius as a claim, if every difference of logits is proven to stay above the margin in it.

        The ball is tried first without an ascent, then with lines and an ascent.
        """
        clock = Clock.of(self.budget)
        rows = rules.difference_rows(label, self.classes)
        for by_lines in (False, True):
            bounds = locate_values(self.network, x, radius, by_lines=by_lines, clock=clock)
            ascent = Ascent(bounds, self.output, rows, self.margin)
            ascent.climb(STEPS if by_lines else 0, clock)
            if ascent.is_enough:
                return rules.radius_of_ball(bounds, ascent.best, self.margin)
        return None

    def attacked(self, x: FloatArray, label: int, radius: float) -> FloatArray | None:
        """Return an input in the ball around x and in the stated box that has another label, whatever rounding does.

        x lies in that box. None if the attack fails.
        """
        name = self.network.input
        x = x.reshape(self.shape)
        values = self.graph.run({name: x})
        if self.output not in values:
            return None
        if self._changes(x, x, label, 0.0):
            return x
        box = box_of(self.network.graph)
        largest_first = np.argsort(-values[self.output][0])
        classes = [int(j) for j in largest_first if j != label]
        for other in classes[:ATTACKED_CLASSES]:
            point = {name: x}
            row = np.zeros((1, self.classes))
            row[0, other] = 1.0
            row[0, label] = -1.0
            for step in range(PUSHES):
                direction = gradient(self.network.graph, self.network.linear, point, {self.output: row})
                if not length(direction):
                    break
                distance = inside(radius) * (2.0 if step == 0 else 0.5)
                pushed = moved(point, direction, distance)
                point = box.nearest(Ball({name: x}, radius).nearest(pushed))
                if self._changes(x, point[name], label, radius):
                    return point[name]
        return None

    def _changes(self, x: FloatArray, point: FloatArray, label: int, radius: float) -> bool:
        """Whether an input lies in the ball and has another label in real arithmetic: both are tested with rounding."""
        name = self.network.input
        if not moved_up({name: x}, {name: point}) <= radius:
            return False
        logits = dict(run_with_errors(self.graph, {name: point})).get(self.output)
        if logits is None:
            return False
        error = np.broadcast_to(np.asarray(logits.error), logits.value.shape)[0]
        largest_of_label = logits.value[0, label] + error[label]
        smallest_of_others = np.delete(logits.value[0] - error, label)
        return bool((smallest_of_others >= largest_of_label).any())
