"""Bound a network on a ball around one input: with the slopes that its functions have there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from specnorm.errors import MethodError
from specnorm.proof import check_number, visible
from specnorm_networks import Graph, Product
from specnorm_networks.local.certified.ranges import Ball, check_ball, ranges
from specnorm_networks.local.linear import ranges_by_lines, read_network
from specnorm_networks.tools import (
    Centre,
    Measure,
    Method,
    NetworkBound,
    Ranges,
    bounded,
    by_channels_and_units,
    prepare,
    with_slopes_on,
    without_sorting,
    written_out,
)

ROUNDS = 3
"""How often ranges are computed; each time with the constants that the previous ranges gave."""
ENTRIES = 8192
"""Largest number of entries of pointwise functions and maxima for which ranges come from linear bounds."""


def near(
    graph: Graph,
    ball: Ball,
    measure: Measure,
    method: Method,
    ranges_on_ball: Ranges,
) -> NetworkBound:
    """Bound a network on a ball: with the slopes of each channel there, and of each unit if the network is small.

    The smaller of the two bounds is returned (`by_channels_and_units`).

    Parameters
    ----------
    ranges_on_ball : Ranges
        `ranges_near` of the ball.
    """
    on_ball = with_slopes_on(prepare(graph), ranges_on_ball)

    def with_units() -> Graph:
        written = written_out(without_sorting(graph))[-1]
        return with_slopes_on(written, ranges(written, ball, {}, ranges_on_ball))

    answer = by_channels_and_units(on_ball, with_units, measure, method, ranges_on_ball)
    return replace(answer, radius=ball.radius)


def ranges_near(graph: Graph, ball: Ball, measure: Measure) -> Ranges:
    """Return ranges of all values on a ball.

    They are of the network without sorting, whose other nodes have the same names as those that are bounded. Ranges
    and constants are computed in turn: smaller constants give smaller ranges, and these smaller constants.
    """
    prepared = prepare(graph)
    plain = without_sorting(graph)
    constants = bounded(prepared, measure, Product()).constants
    intervals = ranges(plain, ball, constants)
    by_lines = _by_lines(graph, ball, measure)
    if by_lines is not None:
        intervals = ranges(plain, ball, constants, by_lines)
    for _ in range(ROUNDS - 1):
        on_ball = with_slopes_on(prepared, intervals)
        constants = bounded(on_ball, measure, Product(), known=intervals).constants
        intervals = ranges(plain, ball, constants, intervals)
    return intervals


def _by_lines(graph: Graph, ball: Ball, measure: Measure) -> Ranges | None:
    """Return ranges by linear bounds; None for several inputs, or for more than `ENTRIES` entries of functions."""
    functions = [node for node in graph.nodes if node.function or (node.known and node.known.joins)]
    entries = sum(math.prod(function.shape or (ENTRIES,)) for function in functions)
    if len(graph.inputs) != 1 or entries > ENTRIES:
        return None
    try:
        return ranges_by_lines(read_network(graph, measure), ball)
    except MethodError:  # a size is unknown, or the centre lies outside of the stated box
        return None


def ball_of(graph: Graph, radius: float | None, centre: Centre | None) -> Ball:
    """Return the ball of a radius around a centre: an array, or one for each input by name.

    `MethodError` if one of both is missing, or the network has several inputs and the centre is one array, or the ball
    does not fit the inputs.
    """
    if radius is None or centre is None:
        article = "no" if centre is None else "a"
        raise MethodError(f"radius={radius!r} and {article} centre: a bound near an input needs both.")
    if not isinstance(centre, Mapping):
        if len(graph.inputs) != 1:
            raise MethodError(f"The network has {len(graph.inputs)} inputs: give the centre of each by name.")
        centre = {graph.inputs[0]: centre}
    missing = [visible(name) for name in graph.inputs if name not in centre]
    if missing:
        given = ", ".join(map(visible, centre))
        raise MethodError(f"The centre has arrays for {given}; the network has the input {', '.join(missing)}, too.")
    centres = {name: np.array(x, dtype=np.float64) for name, x in centre.items()}
    ball = Ball(centres, check_number("radius", radius))
    check_ball(graph, ball)
    return ball
