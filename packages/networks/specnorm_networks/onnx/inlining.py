"""Replace calls of a model's own functions, and branches on constants, by their nodes.

What is not replaced stays in the graph, and is refused there by its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
from onnx import helper, numpy_helper
from onnx.inliner import inline_selected_functions

from specnorm_networks.certified.graph import fresh_name
from specnorm_networks.onnx.nodes import DOMAINS
from specnorm_networks.onnx.tensors import EXTERNAL

MOST_NODES = 2**15
"""Largest number of nodes that are put in place of others: a small file can state an enormous graph."""
_BRANCHES = "branches on constants"
"""Domain of functions that have the nodes of a branch."""


def inlined(model: Any) -> Any:
    """Return a model with its functions and its branches on constants inlined."""
    has_calls = bool(model.functions)
    if not has_calls and not any(node.op_type == "If" for node in model.graph.node):
        return model
    while _call_branches(model) or has_calls:
        has_calls = False
        if _count(model) > MOST_NODES:
            break
        stay = {(f.domain, f.name) for f in model.functions if not _makes_its_outputs(f)}
        functions = {(f.domain, f.name) for f in model.functions} - stay
        try:
            model = inline_selected_functions(model, [*functions])
        except Exception:  # damaged functions raise many kinds
            break
    return model


def _makes_its_outputs(function: Any) -> bool:
    """Whether a function's nodes make all its outputs, and none of its inputs; ONNX's own operators stay."""
    made = {name for node in function.node for name in node.output}
    return function.domain not in DOMAINS and made.issuperset(function.output) and made.isdisjoint(function.input)


def _count(model: Any) -> int:
    """Return how many nodes all calls of functions become; more than `MOST_NODES` if a function calls itself."""
    calls = {(f.domain, f.name, f.overload): [*map(_called, _with_inner(f.node))] for f in model.functions}
    counts: dict[tuple[str, str, str], int] = {}
    try:
        for key in TopologicalSorter(calls).static_order():
            counts[key] = min(1 + sum(counts[called] for called in calls.get(key, ())), MOST_NODES + 1)
    except CycleError:
        return MOST_NODES + 1
    return sum(counts[key] for key in map(_called, _with_inner(model.graph.node)) if key in calls)


def _called(node: Any) -> tuple[str, str, str]:
    return node.domain, node.op_type, node.overload


def _with_inner(nodes: Iterable[Any]) -> Iterator[Any]:
    """Yield nodes, and those of their graphs."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting += graph.node


# -- branches ----------------------------------------------------------------------------------------------------------
def _call_branches(model: Any) -> bool:
    """Write branches on constants as calls of functions, in place; return whether there are any."""
    graph = model.graph
    given = {graph_input.name for graph_input in graph.input}
    tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in given}
    taken: set[str] = {tensor.name for tensor in graph.initializer}
    for node in _with_inner(graph.node):
        taken.update(node.input, node.output)
    has_branches = False
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and node.domain in DOMAINS and attribute.name == "value":
                tensors[node.output[0]] = attribute.t
        branch = _branch(node, tensors)
        if branch is not None:
            _call_branch(model, node, branch, taken)
            has_branches = True
    return has_branches


def _branch(node: Any, tensors: Mapping[str, Any]) -> Any:
    """Return the graph that an If node computes; None for other nodes, or if it is not known which one it is."""
    tensor = tensors.get(node.input[0]) if node.input else None
    if node.op_type != "If" or node.domain not in DOMAINS or tensor is None or tensor.data_location == EXTERNAL:
        return None
    try:
        condition = numpy_helper.to_array(tensor)
    except Exception:  # damaged tensors raise many kinds
        return None
    wanted = "then_branch" if np.all(condition) else "else_branch"
    branch = next((attribute.g for attribute in node.attribute if attribute.name == wanted), None)
    if branch is None or condition.size != 1 or len(branch.output) != len(node.output):
        return None
    return None if branch.input or branch.sparse_initializer else branch


def _call_branch(model: Any, node: Any, branch: Any, taken: set[str]) -> None:
    """Put a call of a function with the nodes of a branch in place of an If node."""
    made = {name for inner in _with_inner(branch.node) for name in inner.output}
    read = {name for inner in _with_inner(branch.node) for name in inner.input} | {x.name for x in branch.output}
    arguments = {name: name for name in sorted(read - made) if name}
    for tensor in branch.initializer:
        stored = model.graph.initializer.add()
        stored.CopyFrom(tensor)
        stored.name = fresh_name(f"{node.name or node.op_type}/{tensor.name}", taken)
        taken.add(stored.name)
        arguments[tensor.name] = stored.name
    # A branch may return a value that it does not make, which a function does not.
    outputs = [fresh_name(f"output {number}", taken) for number in range(len(node.output))]
    ends = [helper.make_node("Identity", [x.name], [name]) for x, name in zip(branch.output, outputs, strict=True)]
    name = f"If {len(model.functions)}"
    nodes = [*branch.node, *ends]
    function = helper.make_function(_BRANCHES, name, [*arguments], outputs, nodes, model.opset_import)
    call = helper.make_node(name, [*arguments.values()], node.output, node.name, domain=_BRANCHES)
    model.functions.append(function)
    node.CopyFrom(call)
