"""Where a network's values lie on a ball, by linear bounds whose slopes and multipliers a rule gives, without a search.

Any slopes and multipliers are valid: `linear_bounds` proves what these are worth.
"""

from __future__ import annotations

import math

import numpy as np

from specnorm.clock import Clock
from specnorm_networks.certified.linear_bounds import Choose, LinearBounds
from specnorm_networks.certified.linear_reading import Network
from specnorm_networks.certified.operators.base import FloatArray, Pointwise
from specnorm_networks.certified.parabolas import Curve
from specnorm_networks.certified.ranges import _MAKER, Ranges
from specnorm_networks.certified.regions import Ball

ROWS = 256
"""Entries of a value that are bounded at once."""
TRIES = (0.02, 0.2, 0.7)
"""Multipliers that are tried: parts of the one that the ball alone asks for."""
FEW = 256
"""Differences of a maximum that is written out are bounded anew where there are no more."""


def located(
    network: Network, centre: FloatArray, radius: float, *, anew: bool = True, clock: Clock | None = None
) -> LinearBounds:
    """All values on a ball.

    Parameters
    ----------
    anew : bool
        Bound units that may switch by linear bounds of their own, `ROWS` at a time.
    clock : Clock, optional
        Afterwards no unit is.
    """
    found, clock = LinearBounds(network, centre, radius), clock or Clock()
    boxed = np.isfinite(network.box.low).any() or np.isfinite(network.box.high).any()
    straight = set() if boxed else {network.input}
    for node in network.graph.nodes:
        found.visit(node.name)
        if node.name in network.linear and straight.issuperset(set(node.inputs) & network.moving):
            straight.add(node.name)  # its rows say all
        if not anew or node.name in straight or node.name == network.input or node.name not in network.moving:
            continue
        readers = [name for name in network.readers.get(node.name, ()) if is_curved(network, name)]
        curves = [curve for name in readers if (curve := found.curve(name)) is not None]
        units = np.unique(np.concatenate([curve.at for curve in curves])) if curves else np.zeros(0, np.intp)
        if node.derived and len(units) > FEW:
            continue
        # Pixel by pixel, so that rows which read the same are together.
        pixels = math.prod(found.known[node.name].centre.shape[2:])
        units = units[np.argsort(units % pixels, kind="stable")]
        for first in range(0, len(units), ROWS):
            if not clock.expired:
                found.tighten(node.name, units[first : first + ROWS], usual(network))
    return found


def ranges_by_lines(network: Network, ball: Ball) -> Ranges:
    """Ranges of all values on a ball."""
    found = located(network, ball.centre[network.input], ball.radius)
    known = {name: location.range for name, location in found.known.items()}
    return Ranges(known, network.graph.origin, network.graph.regions | {ball.region}, _MAKER)


def is_curved(network: Network, name: str) -> bool:
    """Whether a value is a function of each entry."""
    return isinstance(network.nodes[name].operator, Pointwise) and name not in network.linear


# -- without an ascent -------------------------------------------------------------------------------------------------
def usual(network: Network) -> Choose:
    """Slopes and multipliers without an ascent."""

    def choose(name: str, c: FloatArray, curve: Curve) -> tuple[FloatArray, FloatArray]:
        if not is_curved(network, name):
            return c, on_ball(c, curve)
        tangent, chord, convex, concave = lines_of(curve)
        above, below = np.where(convex, tangent, chord), np.where(concave, tangent, chord)
        return np.where(c > 0, c * above, c * below), np.outer(TRIES, by_ball(c, curve))

    return choose


def lines_of(curve: Curve) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Slope in the middle of each interval, slope of its chord, whether the function is convex, and whether concave."""
    widths = np.diff(curve.breaks, axis=0)
    chord = (curve.slope * widths).sum(axis=0) / np.maximum(widths.sum(axis=0), 1e-300)
    middle = curve.breaks[0] / 2 + curve.breaks[-1] / 2
    part = np.minimum((curve.breaks[1:] < middle).sum(axis=0), len(widths) - 1)
    tangent = np.take_along_axis(curve.slope, part[None], axis=0)[0]
    change, wide = np.diff(curve.slope, axis=0), (widths[1:] > 0) & (widths[:-1] > 0)
    convex = ((change >= 0) | ~wide).all(axis=0)
    return tangent, chord, np.asarray(convex), np.asarray(((change <= 0) | ~wide).all(axis=0))


def by_ball(c: FloatArray, curve: Curve) -> FloatArray:
    """The multiplier of a linear function on the ball alone."""
    return np.asarray(np.clip(np.linalg.norm(c, axis=1) / max(curve.radius, 1e-150), 1e-100, 1e100))


def on_ball(c: FloatArray, curve: Curve) -> FloatArray:
    """Multipliers of a linear function on ball and box, shape (2, rows): where no end is met, and where some are."""
    first = lam = by_ball(c, curve)
    low, high = curve.breaks[0] - curve.centre, curve.breaks[-1] - curve.centre
    for _ in range(3):
        step = -c / lam[:, None]
        clipped = (step < low) | (step > high)
        if not clipped.any():
            break
        taken = np.square(np.where(clipped, np.clip(step, low, high), 0.0)).sum(axis=1)
        left = np.sqrt(np.maximum(curve.radius**2 - taken, 1e-6 * curve.radius**2))
        lam = np.linalg.norm(np.where(clipped, 0.0, c), axis=1) / np.maximum(left, 1e-150)
        lam = np.clip(lam, 1e-100, 1e100)
    return np.stack([first, lam]) if lam is not first else first[None]
