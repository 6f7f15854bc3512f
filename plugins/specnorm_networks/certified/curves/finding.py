"""Join several entry-wise operators that compute a function of one value into one operator.

For each value the values are kept that it is an entry-wise function of, the nearest first. Where two of these meet
again (x and relu(x) in x - relu(x)), or an operator has no constant of its own (a step, a square), all operators from
the nearest common one on are one program. They are joined if that has a proof; otherwise the network stays as it is.
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
"""Largest number of operators of a program, and of values that are kept for one value."""
LINEAR = (Add, Scale, Identity, Negative, Constant)
WITHOUT_CONSTANT = (Steep, Product, Quotient, Compare, Choose, Sign)
"""Operators that have no constant by themselves, without a range."""


def joined(graph: Graph) -> list[Node]:
    """Return the nodes of a graph with programs of one value as one operator each, in the place of their last one."""
    finder = _Finder(graph)
    return [finder.read(node) for node in graph.nodes]


@dataclass(eq=False)
class _Finder:
    """Reads the nodes of a graph in order, and finds programs of one value."""

    graph: Graph
    bases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """For each value: the values that it is an entry-wise function of, itself first, then the nearest."""
    open: dict[str, str] = field(default_factory=dict)
    """Values whose slope has no bound as a function of another value, with that value's name."""
    made: dict[str, Node] = field(default_factory=dict)
    """Nodes that replace several, by their names."""

    def read(self, node: Node) -> Node:
        """Return a node, or one that replaces it and those before it."""
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
            composite = self._composite(node, base)
            if composite is not None:
                return composite
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
            return all(one is not None and np.broadcast_shapes(one, shape) == shape for one in shapes)
        except Exception:  # constants that cannot be loaded: the rules refuse them, with the reason
            return False

    def _common(self, sources: Sequence[str]) -> tuple[str, ...]:
        """Return the values that several values are all functions of, the nearest first."""
        first, *others = (self.bases[name] for name in dict.fromkeys(sources))
        return tuple(name for name in first if all(name in other for other in others))

    # -- one function ---------------------------------------------------------------------------------------------
    def _composite(self, node: Node, base: str) -> Node | None:
        """Return a node as one function of a value; None if nothing is proven of it."""
        base = self._further(base)
        function = self._function(node, base, atoms=False)
        if function is not None and isinstance(function.proof, str) and any(map(self._is_atom, self.made)):
            function = self._function(node, base, atoms=True)
        if function is None:
            return None
        if isinstance(function.proof, str):
            needs_range = any(isinstance(operator, WITHOUT_CONSTANT) for operator, _ in function.program)
            if not needs_range or function.plan.jumps or len(function.program) == 1:
                return None
            # It has slopes on ranges, if not on the whole line.
            self.open[node.name] = base
        self.made[node.name] = replace(node, operator=function, inputs=(base,))
        return self.made[node.name]

    def _function(self, node: Node, base: str, *, atoms: bool) -> Composite | None:
        """Return all operators between two values as one; None if they are linear, or cannot be read."""
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
        """Return the value from which a program has to begin that would begin with another program's end."""
        while base in self.made or base in self.open:
            if base in self.made and self._is_atom(base):
                break
            base = self.made[base].inputs[0] if base in self.made else self.open[base]
        return base

    def _is_atom(self, name: str) -> bool:
        """Whether a value is a function with jumps in its parts that was proven to be continuous.

        A program that contains it is proven with the function as one operator: else that would have to be proven again.
        """
        operator = self.made[name].operator if name in self.made else None
        return isinstance(operator, Composite) and operator.plan.jumps and name not in self.open

    def _program(
        self,
        ends: Sequence[str],
        base: str,
        *,
        atoms: bool = False,
    ) -> tuple[Written | None, dict[str, int]]:
        """Return the operators between values, and the numbers of the values; None if there are too many.

        ``atoms``: whether functions with jumps in their parts that were proven to be continuous are one operator each.
        """
        numbers = {base: 0}
        program: list[tuple[Operator, tuple[int, ...]]] = []
        waiting = list(reversed(ends))
        while waiting:
            name = waiting[-1]
            node = self.graph.by_name[name]
            if atoms and self._is_atom(name) and base in self.bases[self.made[name].inputs[0]]:
                node = self.made[name]
            missing = [source for source in node.inputs if source not in numbers]
            if name in numbers or not missing:
                waiting.pop()
                if name not in numbers:
                    program.append((node.operator, tuple(numbers[source] for source in node.inputs)))
                    numbers[name] = len(program)
            elif len(program) + len(waiting) > 2 * LONGEST:
                return None, numbers
            else:
                waiting += missing
        return (tuple(program) if len(program) <= LONGEST else None), numbers

    # -- several side by side -------------------------------------------------------------------------------------
    def _side_by_side(self, node: Node, concat: Concat) -> Node:
        """Return functions of one value that are joined along an axis as one operator, if its slopes are proven."""
        common = self._common(node.inputs)
        nodes = self.graph.by_name
        if not common or node.shape is None:
            return node
        if any(nodes[name].shape != nodes[common[0]].shape for name in node.inputs):
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
