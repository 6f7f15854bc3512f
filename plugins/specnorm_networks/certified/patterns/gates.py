"""Activations ``x g(x)`` written out as products: SiLU, hard swish, Mish and GELU, with factors.

With f(u) = u g(u), ``k x g(c x)`` is ``k/c f(c x)``. GELU has g(u) = (1 + erf(u / root of 2)) / 2, so that
``k x (1 + erf(c x))`` is ``root of 2 k/c gelu(root of 2 c x)``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Node, concrete
from specnorm_networks.certified.patterns.parts import Factor, Nodes, multiples, nearest, number_of, origin

SIXTHS = (1 / 6, float(np.float32(1 / 6)))
"""Slopes that libraries have for hard swish."""
IDENTITY_FROM = 20.0
"""Threshold of softplus from which tanh of it is 1 to 17 digits."""
SMALLEST = 1e-100
"""Factors beyond it or its inverse are not read."""


def gated(node: Node, nodes: Nodes) -> Node | None:
    """A product of a value and a function of the same value as one function; None where it is none."""
    if not isinstance(node.operator, ops.Product) or len(node.inputs) != 2:
        return None
    for x, gate in (node.inputs, node.inputs[::-1]):
        for name, factors in multiples(gate, nodes).items():
            found = _gate(nodes[name], nodes)
            if found is None:
                continue
            function, argument = found
            chains = multiples(x, nodes), multiples(argument, nodes)
            base = nearest(*chains)
            if base is None:
                continue
            made = _multiple(function, (*chains[0][base], *factors), chains[1][base])
            if made is not None:
                return replace(node, operator=made, inputs=(base,))
    return None


def _gate(node: Node, nodes: Nodes) -> tuple[ops.Pointwise, str] | None:
    """For a node that computes g(u): f and the name of u; for GELU of one that computes 1 + erf(u)."""
    operator = node.operator
    if isinstance(operator, ops.Sigmoid):
        return ops.SiLU(), node.inputs[0]
    if isinstance(operator, ops.HardSigmoid) and operator.alpha in SIXTHS and operator.beta == 0.5:
        return ops.HardSwish(), node.inputs[0]
    if isinstance(operator, ops.Tanh):
        inner = origin(node.inputs[0], nodes)
        softplus = inner.operator
        if isinstance(softplus, ops.Softplus) and softplus.beta == 1 and softplus.threshold >= IDENTITY_FROM:
            return ops.Mish(), inner.inputs[0]
    if isinstance(operator, ops.Add) and operator.weights == (1.0, 1.0) and operator.over == 1:
        for erf, one in (node.inputs, node.inputs[::-1]):
            inner = origin(erf, nodes)
            if isinstance(inner.operator, ops.Erf) and _is_one(nodes[one], inner):
                return ops.GELU(), inner.inputs[0]
    return None


def _is_one(node: Node, beside: Node) -> bool:
    """Whether a node is the number 1, and its shape makes a value beside it no larger."""
    shape = concrete(node.shape)
    if not isinstance(node.operator, ops.Constant) or shape is None or math.prod(shape) != 1:
        return False
    return (not shape or len(shape) <= len(beside.shape or ())) and node.operator.run().item() == 1


def _multiple(function: ops.Pointwise, ahead: tuple[Factor, ...], inside: tuple[Factor, ...]) -> ops.Pointwise | None:
    """``k x g(c x)`` as ``outer f(inner x)``."""
    k, c = number_of(ahead), number_of(inside)
    if k is None or c is None:
        return None
    roundings = sum(each.roundings for each in (*ahead, *inside))
    if isinstance(function, ops.SiLU) and not any(each.roundings for each in inside) and Fraction(float(c)) == c:
        function, outer, inner = ops.SiLU(float(c)), k, Fraction(1)
    elif isinstance(function, ops.GELU):
        root = Fraction(math.sqrt(2))
        outer, inner, roundings = root * k / c, root * c, roundings + 1
    else:
        outer, inner = k / c, c
    if not all(SMALLEST < abs(number) < 1 / SMALLEST for number in (outer, inner)):
        return None
    roundings += sum(Fraction(float(number)) != number for number in (outer, inner))
    if outer == inner == 1 and not roundings:
        return function
    return ops.Multiple(function, float(outer), float(inner), roundings)
