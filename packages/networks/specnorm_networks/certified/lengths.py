"""Bounds on the lengths of tokens: for each value and each axis, a number that no vector along the axis is longer than.

Layer norms, RMS norms and divisions by a length bound the length of what they return. From there on, matrices, sums,
multiples, functions with small slopes, softmax attention and moves of entries carry the bound (`Operator.lengths`). If
the inputs lie in a region, the ranges of values bound lengths as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

from specnorm import SpecnormError
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.kernels import Norms, checked_norm, checked_norm_of_stack
from specnorm_networks.certified.operators.base import Lengths, NoBoundError, NotRunError, lengths_of
from specnorm_networks.certified.ranges import LazyRanges


class LazyLengths:
    """Bounds on lengths of a network's values, computed when the first one is read.

    ``values``: ranges of the values. ``norms``: proves the norms of matrices.
    """

    def __init__(self, graph: Graph, values: LazyRanges, norms: Norms) -> None:
        self._graph = graph
        self._values = values
        self._norms = norms
        self._lengths: dict[str, Lengths] | None = None

    def __getitem__(self, name: str) -> Lengths:
        if self._lengths is None:
            self._lengths = {}
            for node in self._graph.nodes:
                self._lengths[node.name] = self._of(node, [self._lengths[before] for before in node.inputs])
        return self._lengths[name]

    def _of(self, node: Node, before: Sequence[Lengths]) -> Lengths:
        """Return the bounds of a value from those of the inputs of its node: the smaller one by rule and by range."""
        if node.shape is None:
            return ()
        candidates = [(math.inf,) * len(node.shape)]
        place = self._graph.place(node)
        # A kernel that cannot be measured, or an operator without a rule, leaves a length unknown.
        with suppress(SpecnormError, NoBoundError, NotRunError, OSError, OverflowError):
            by_rule = (
                None if place.known_shapes() is None else node.operator.lengths(before, place, lambda: self._norm(node))
            )
            candidates += [] if by_rule is None else [by_rule]
        interval = self._values[node.name] if self._values.boxed else None
        if interval is not None:
            candidates.append(lengths_of(interval.magnitude()))
        return tuple(min(bounds) for bounds in zip(*candidates, strict=True))

    def _norm(self, node: Node) -> float:
        """Return the norm of a layer's kernel, or the largest norm of a stack of matrices."""
        if node.layer is None:
            raise NoBoundError
        if not node.is_layer:
            return checked_norm_of_stack(self._norms, node.layer).value
        _, placed_layer = self._graph.placed_layer(node, node.layer)
        return checked_norm(self._norms, placed_layer, None).value
