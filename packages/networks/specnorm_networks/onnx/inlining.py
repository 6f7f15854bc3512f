"""Replace calls of a model's own functions, and branches on constants, by their nodes.

What is not replaced stays in the graph, and is refused there by its name.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from specnorm_networks.onnx.nodes import DOMAINS, has_graphs
from specnorm_networks.onnx.tensors import EXTERNAL

MOST_NODES = 2**15
"""Largest number of nodes that are put in place of others: a small file can state an enormous graph."""


def inline(model: Any) -> None:
    """Inline functions and branches of a model, in place."""
    if not model.functions and not any(node.op_type == "If" for node in model.graph.node):
        return
    _Inlining(model).run()


class _Inlining:
    def __init__(self, model: Any) -> None:
        self.model = model
        opsets = {o.domain: o.version for o in model.opset_import}
        self.functions: dict[tuple[str, str], Any] = {}
        for function in model.functions:
            own = {o.domain: o.version for o in function.opset_import}
            # Nodes mean the same in the graph only if it has the function's operator sets.
            has_same_sets = all(opsets.get(domain, version) == version for domain, version in own.items())
            if function.domain not in DOMAINS and has_same_sets and not function.overload:
                self.functions[function.domain, function.name] = function
        calls = {key: {(n.domain, n.op_type) for n in function.node} for key, function in self.functions.items()}
        try:
            TopologicalSorter(calls).prepare()
        except CycleError:  # a function calls itself: none is inlined
            self.functions = {}
        self.names = {info.name for info in (*model.graph.input, *model.graph.initializer)}
        self.names |= _names_in(model.graph.node)
        given = {info.name for info in model.graph.input}
        self.constants = {t.name: t for t in model.graph.initializer if t.name not in given}
        self.room = MOST_NODES

    def run(self) -> None:
        graph = self.model.graph
        waiting = [copy.deepcopy(node) for node in reversed(graph.node)]
        nodes: list[Any] = []
        while waiting:
            node = waiting.pop()
            inner = self._expanded(node) if self.room > 0 else None
            if inner is None:
                for attribute in node.attribute:
                    if node.op_type == "Constant" and node.domain in DOMAINS and attribute.name == "value":
                        self.constants[node.output[0]] = attribute.t
                nodes.append(node)
            else:
                self.room -= len(inner) + 1
                waiting += reversed(inner)
        del graph.node[:]
        graph.node.extend(nodes)
        may_call = any(has_graphs(node) or (node.domain, node.op_type) in self.functions for node in nodes)
        if not may_call:
            kept = [f for f in self.model.functions if (f.domain, f.name) not in self.functions]
            del self.model.functions[:]
            self.model.functions.extend(kept)

    def _expanded(self, node: Any) -> list[Any] | None:
        """Return the nodes in place of a node; None if it stays."""
        function = self.functions.get((node.domain, node.op_type))
        if function is not None:
            return self._call(node, function)
        if node.op_type == "If" and node.domain in DOMAINS:
            return self._branch(node)
        return None

    def _fresh(self, prefix: str, name: str) -> str:
        made = f"{prefix}/{name}"
        while made in self.names:
            made += "'"
        self.names.add(made)
        return made

    def _call(self, node: Any, function: Any) -> list[Any] | None:
        is_short = len(node.input) <= len(function.input) and len(node.output) <= len(function.output)
        made = {name for inner in function.node for name in inner.output}
        if not is_short or {*function.input} & made or not {*function.output} <= made:
            return None
        prefix = node.name or node.op_type
        names = dict.fromkeys(function.input, "") | dict(zip(function.input, node.input, strict=False))
        names |= {formal: actual for formal, actual in zip(function.output, node.output, strict=False) if actual}
        for name in sorted(made):
            if name and name not in names:
                names[name] = self._fresh(prefix, name)
        attributes = {attribute.name: attribute for attribute in function.attribute_proto}
        attributes |= {attribute.name: attribute for attribute in node.attribute}
        nodes = []
        for inner in function.node:
            renamed = copy.deepcopy(inner)
            _rename(renamed, names)
            _bind(renamed, attributes)
            renamed.name = f"{prefix}/{inner.name or inner.op_type}"
            nodes.append(renamed)
        return nodes

    def _branch(self, node: Any) -> list[Any] | None:
        tensor = self.constants.get(node.input[0]) if node.input else None
        if tensor is None or tensor.data_location == EXTERNAL:
            return None
        try:
            condition = numpy_helper.to_array(tensor)
        except Exception:  # damaged tensors raise many kinds
            return None
        branches = {attribute.name: attribute.g for attribute in node.attribute}
        branch = branches.get("then_branch" if np.all(condition) else "else_branch")
        if condition.size != 1 or branch is None or branch.sparse_initializer or branch.input:
            return None
        if len(branch.output) != len(node.output):
            return None
        prefix = node.name or node.op_type
        made = {t.name for t in branch.initializer} | {name for inner in branch.node for name in inner.output}
        names = {name: self._fresh(prefix, name) for name in sorted(made) if name}
        for tensor in branch.initializer:
            stored = self.model.graph.initializer.add()
            stored.CopyFrom(tensor)
            stored.name = names[tensor.name]
            self.constants[stored.name] = stored
        nodes = []
        for inner in branch.node:
            renamed = copy.deepcopy(inner)
            _rename(renamed, names)
            nodes.append(renamed)
        for output, actual in zip(branch.output, node.output, strict=True):
            if actual:
                nodes.append(helper.make_node("Identity", [names.get(output.name, output.name)], [actual]))
        return nodes


def _graphs(node: Any) -> list[Any]:
    graphs = []
    for attribute in node.attribute:
        graphs += [attribute.g] if attribute.HasField("g") else []
        graphs += attribute.graphs
    return graphs


def _names_in(nodes: Any) -> set[str]:
    """Return the names of all values of nodes and of their graphs."""
    names: set[str] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        names |= {*node.input, *node.output}
        for graph in _graphs(node):
            names |= {info.name for info in (*graph.input, *graph.initializer, *graph.output)}
            waiting += graph.node
    return names


def _rename(node: Any, names: Mapping[str, str]) -> None:
    """Rename the values that a node reads and makes, also where its graphs read them."""
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for graph in _graphs(node):
        own = {info.name for info in (*graph.input, *graph.initializer)}
        own |= {name for inner in graph.node for name in inner.output}
        outer = {name: new for name, new in names.items() if name not in own}
        for inner in graph.node:
            _rename(inner, outer)
        for output in graph.output:
            output.name = outer.get(output.name, output.name)


def _bind(node: Any, attributes: Mapping[str, Any]) -> None:
    """Put the arguments of a call in place of the names of a function's attributes."""
    for attribute in list(node.attribute):
        if not attribute.ref_attr_name:
            continue
        name, given = attribute.name, attributes.get(attribute.ref_attr_name)
        node.attribute.remove(attribute)
        if given is not None:
            bound = node.attribute.add()
            bound.CopyFrom(given)
            bound.name = name
    for graph in _graphs(node):
        for inner in graph.node:
            _bind(inner, attributes)
