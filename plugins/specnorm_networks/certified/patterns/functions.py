"""Functions that are written by exponentials which overflow: softplus and the sigmoid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Node
from specnorm_networks.certified.patterns.structure import Structure


def as_function(node: Node, structure: Structure) -> Node | None:
    """Return ``log(1 + exp(u))`` as softplus of u, and ``1 / (1 + exp(-u))`` as its sigmoid; None for other nodes."""
    is_sigmoid = isinstance(node.operator, ops.Reciprocal) and node.operator.scale == 1
    if not (is_sigmoid or isinstance(node.operator, ops.Log)):
        return None
    number, summand = structure.sum_with_number(structure.input_of(node)) or (0.0, "")
    exponential = structure.origin(summand) if number == 1 else node
    if not isinstance(exponential.operator, ops.Exp):
        return None
    u = structure.input_of(exponential)
    if not is_sigmoid:
        return replace(node, operator=ops.Softplus(), inputs=(u.name,)) if u.shape == node.shape else None
    scale = u.operator
    is_negated = isinstance(scale, ops.Scale) and scale.offset is None and scale.exact and np.all(scale.values == -1)
    if not (is_negated or isinstance(scale, ops.Negative)) or structure[u.inputs[0]].shape != node.shape:
        return None
    return replace(node, operator=ops.Sigmoid(), inputs=u.inputs)
