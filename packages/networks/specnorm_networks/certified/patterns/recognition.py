"""Replace the patterns of a network by single operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeAlias

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators.base import Function
from specnorm_networks.certified.operators.normalisation import Normalise
from specnorm_networks.certified.patterns.attention import as_attention, as_inner_product
from specnorm_networks.certified.patterns.curves.finding import join_functions
from specnorm_networks.certified.patterns.functions import (
    as_log_softmax,
    as_log_sum_exp,
    as_sigmoid,
    as_softmax,
    as_softplus,
)
from specnorm_networks.certified.patterns.normalisation import as_inverse_of_maximum, as_norm, as_normalisation
from specnorm_networks.certified.patterns.permutations import remove_permutations
from specnorm_networks.certified.patterns.reflections import as_reflection
from specnorm_networks.certified.patterns.sorting import (
    as_extreme_of_moves,
    as_sorted_axis,
    as_sorted_groups,
    as_sorted_pairs,
)
from specnorm_networks.certified.patterns.splines import as_spline
from specnorm_networks.certified.patterns.structure import NoPattern, Structure

Rule: TypeAlias = Callable[[Node, Structure], list[Node]]
"""Returns nodes in place of a pattern by the node that it ends with; the last one has that node's name and value."""
NOTE_ON_JUMPS = "The jumps of its Householder activations, whose angles are rounded, are not counted."


def _as_earlier_value(node: Node, structure: Structure) -> list[Node]:
    """Return a node that reshapes a value back to the shape of an earlier one, as the earlier one itself."""
    source = node
    while isinstance(source.operator, ops.SameOrder):
        source = structure[source.inputs[0]]
    if source is node or source.shape is None or source.shape != node.shape or source.name in node.inputs:
        raise NoPattern
    return [replace(node, operator=ops.Identity(), inputs=(source.name,))]


RULES: tuple[Rule, ...] = (
    _as_earlier_value, as_reflection, as_softplus, as_sigmoid, as_softmax, as_log_softmax, as_norm, as_sorted_axis,
    as_sorted_groups, as_spline, as_normalisation, as_inverse_of_maximum, as_sorted_pairs, as_attention,
)  # fmt: skip
"""Rules, the first of which replaces a node. Each has a network that needs it (`networks/test_ablations`)."""
LATER_RULES: tuple[Rule, ...] = (as_extreme_of_moves, as_log_sum_exp, as_inner_product)
"""Rules for what is left: two extremes that are joined are one pattern, of which a sum is only the beginning.

Likewise, a log-sum-exp is only the beginning of the logarithm of softmax.
"""


def recognise_patterns(graph: Graph) -> Graph:
    """Return the same network with each pattern as one node, which has the name and shape of the pattern's last node.

    All other nodes are kept, even those that no output needs any more.
    """
    graph = remove_permutations(graph)
    structure = Structure(graph.fresh)
    for node in graph.nodes:
        for replacement in _replacements(node, structure, RULES):
            structure[replacement.name] = replacement
    nodes: list[Node] = []
    for node in structure.values():
        nodes += _replacements(node, structure, LATER_RULES)
    has_jumps = any(isinstance(node.operator, ops.Reflection) and node.operator.jump for node in nodes)
    note = NOTE_ON_JUMPS if has_jumps and NOTE_ON_JUMPS not in graph.note else ""
    recognised = graph._with_nodes(nodes, note=note)
    return recognised._with_nodes(join_functions(recognised))


def _replacements(node: Node, structure: Structure, rules: Sequence[Rule]) -> list[Node]:
    """Return the nodes in place of the first pattern that ends with a node; the node itself if there is no pattern."""
    for rule in rules:
        with suppress(NoPattern):
            return rule(node, structure)
    return [node]


def prepare(graph: Graph) -> Graph:
    """Return the network as `bound` reads it: patterns recognized, and without nodes that no output needs."""
    if graph.is_prepared:
        return graph
    prepared = recognise_patterns(graph).pruned()
    object.__setattr__(prepared, "is_prepared", True)
    return prepared


def without_sorting(graph: Graph) -> Graph:
    """Return the network in which only functions of one variable and normalization are recognized.

    For ranges and units, sorting is better left as maxima and minima, which are ReLU of differences.
    """
    graph = remove_permutations(graph)
    original = graph.by_name
    recognised = prepare(graph).by_name
    nodes: list[Node] = []
    for node in graph.nodes:
        replacement = recognised.get(node.name, node)
        if isinstance(replacement.operator, Normalise):
            # The lengths are nodes that the pattern added.
            added = [name for name in replacement.inputs if name not in original]
            lengths = [recognised[name] for name in added if name in recognised]
            if all(original.keys() >= set(length.inputs) for length in lengths):
                nodes += [*lengths, replacement]
                continue
        nodes.append(replacement if isinstance(replacement.operator, Function) else node)
    return graph._with_nodes(nodes).pruned()
