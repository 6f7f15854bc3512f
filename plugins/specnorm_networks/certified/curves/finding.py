"""Where a network computes a function of one value by several entry-wise operators: these become one operator.

Each value knows the values that it is an entry-wise function of, the nearest first. Where two such meet again (x and
relu(x) in x - relu(x)), or an operator has no constant of its own (a step, a square), all operators from the nearest
common one on are one program. What is proven of it decides: without a proof the network stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from specnorm_networks.certified.curves.programs import ENTRYWISE, Unreadable, Written, arrays_of
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators.base import Operator, Pointwise
from specnorm_networks.certified.operators.composite import Composite, SideBySide
from specnorm_networks.certified.operators.joins import Choose, Compare, Product, Quotient, Sign, Where
from specnorm_networks.certified.operators.linear import Add, Concat, Scale
from specnorm_networks.certified.operators.moves import Identity
from specnorm_networks.certified.operators.pointwise import LeakyReLU, Negative, Steep
from specnorm_networks.certified.operators.sources import Constant

LONGEST = 64
"""Operators of a program, and values that one is known to be a function of."""
LINEAR = (Add, Scale, Identity, Negative, Constant)
WITHOUT_CONSTANT = (Steep, Product, Quotient, Compare, Choose, Sign)
"""Operators that have none by themselves, everywhere."""


def joined(graph: Graph) -> list[Node]:
    """The nodes of a graph, where programs of one value are one operator at the place of their last one."""
    finder = _Finder(graph)
    return [finder.read(node) for node in graph.nodes]


@dataclass(eq=False)
class _Finder:
    """What is known of the values so far."""

    graph: Graph
    bases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Values that each is an entry-wise function of, itself first, then the nearest."""
    open: dict[str, str] = field(default_factory=dict)
    """Values whose slope has no bound as functions of another one, by that one's name."""
    made: dict[str, Node] = field(default_factory=dict)
    """Nodes that stand for several."""

    def read(self, node: Node) -> Node:
        """The node, or one that stands for it and those before it."""
        sources = [name for name in node.inputs if name not in self.graph.constants]
        self.bases[node.name] = (node.name,)
        if isinstance(node.operator, Concat) and len(sources) == len(node.inputs) > 1:
            return self._side_by_side(node, node.operator)
        if not sources or not self._is_entrywise(node, sources):
            return node
        common = self._common(sources)
        self.bases[node.name] = (node.name, *common)[:LONGEST]
        lacks = isinstance(node.operator, WITHOUT_CONSTANT)
        opened = [self.open[name] for name in sources if name in self.open]
        if common and (len(sources) > 1 or opened):
            base = common[0] if len(sources) > 1 else opened[0]
            found = self._composite(node, base)
            if found is not None:
                return found
        if common and (lacks or opened):
            self.open[node.name] = opened[0] if opened and len(sources) == 1 else common[0]
        return node

    def _is_entrywise(self, node: Node, sources: Sequence[str]) -> bool:
        """Whether each entry of a value is a function of the entries at the same place, and of constants."""
        operator = node.operator
        shape = node.shape
        if shape is None or not isinstance(operator, ENTRYWISE) or isinstance(operator, Constant):
            return False
        if isinstance(operator, Pointwise) and operator.near is not None:
            return False
        nodes = self.graph.by_name
        if any(nodes[name].shape != shape for name in sources):
            return False
        shapes = [nodes[name].shape for name in node.inputs if name in self.graph.constants]
        try:
            if isinstance(operator, Scale):
                shapes.append(np.shape(operator.values))
                shapes += [np.shape(array) for array in (operator.offset() if operator.offset else ())]
            elif isinstance(operator, Where):
                shapes.append(np.shape(operator.mask()))
            elif isinstance(operator, LeakyReLU):
                shapes += [np.shape(array) for array in arrays_of(operator)]
            return all(each is not None and np.broadcast_shapes(each, shape) == shape for each in shapes)
        except Exception:  # constants that cannot be loaded: the rules say so
            return False

    def _common(self, sources: Sequence[str]) -> tuple[str, ...]:
        """Values that several are functions of, the nearest first."""
        first, *others = (self.bases[name] for name in dict.fromkeys(sources))
        return tuple(name for name in first if all(name in other for other in others))

    # -- one function ---------------------------------------------------------------------------------------------
    def _composite(self, node: Node, base: str) -> Node | None:
        """A node that is one function of a value; None where nothing is proven of it."""
        base = self._further(base)
        function = self._function(node, base, atoms=False)
        if function is not None and isinstance(function.proof, str) and any(map(self._is_atom, self.made)):
            function = self._function(node, base, atoms=True)
        if function is None:
            return None
        if isinstance(function.proof, str):
            lacks = any(isinstance(operator, WITHOUT_CONSTANT) for operator, _ in function.program)
            if not lacks or function.plan.jumps or len(function.program) == 1:
                return None
            # It has slopes on ranges.
            self.open[node.name] = base
        self.made[node.name] = replace(node, operator=function, inputs=(base,))
        return self.made[node.name]

    def _function(self, node: Node, base: str, *, atoms: bool) -> Composite | None:
        """All operators between two values as one; None where they are linear, or cannot be read."""
        program, _ = self._program([node.name], base, atoms=atoms)
        if program is None or all(isinstance(operator, LINEAR) for operator, _ in program):
            return None
        function = Composite(program)
        try:
            function.plan  # noqa: B018 - read here, once
        except Unreadable:
            return None
        return function

    def _further(self, base: str) -> str:
        """What a value is a function of, if that is one program."""
        while base in self.made or base in self.open:
            if base in self.made and self._is_atom(base):
                break
            base = self.made[base].inputs[0] if base in self.made else self.open[base]
        return base

    def _is_atom(self, name: str) -> bool:
        """Whether a function was proven that jumps in its parts, so that another proof had to prove that again."""
        operator = self.made[name].operator if name in self.made else None
        return isinstance(operator, Composite) and operator.plan.jumps and name not in self.open

    def _program(
        self,
        ends: Sequence[str],
        base: str,
        *,
        atoms: bool = False,
    ) -> tuple[Written | None, dict[str, int]]:
        """The operators between two values, and the numbers of values; None for too many.

        ``atoms``: functions that jump in their parts, and were proven to be continuous, are one operator each.
        """
        numbers = {base: 0}
        program: list[tuple[Operator, tuple[int, ...]]] = []
        waiting = list(reversed(ends))
        while waiting:
            name = waiting[-1]
            node = self.graph.by_name[name]
            if atoms and self._is_atom(name) and base in self.bases[self.made[name].inputs[0]]:
                node = self.made[name]
            missing = [each for each in node.inputs if each not in numbers]
            if name in numbers or not missing:
                waiting.pop()
                if name not in numbers:
                    program.append((node.operator, tuple(numbers[each] for each in node.inputs)))
                    numbers[name] = len(program)
            elif len(program) + len(waiting) > 2 * LONGEST:
                return None, numbers
            else:
                waiting += missing
        return (tuple(program) if len(program) <= LONGEST else None), numbers

    # -- several side by side -------------------------------------------------------------------------------------
    def _side_by_side(self, node: Node, concat: Concat) -> Node:
        common = self._common(node.inputs)
        nodes = self.graph.by_name
        if not common or node.shape is None or any(nodes[name].shape != nodes[common[0]].shape for name in node.inputs):
            return node
        base = self._further(common[0])
        program, numbers = self._program(node.inputs, base)
        if program is None or all(isinstance(operator, LINEAR) for operator, _ in program):
            return node
        functions = SideBySide(program, tuple(numbers[name] for name in node.inputs), concat.axis, concat.new)
        try:
            proven = not isinstance(functions.proof, str)
        except Unreadable:
            return node
        return replace(node, operator=functions, inputs=(base,)) if proven else node
