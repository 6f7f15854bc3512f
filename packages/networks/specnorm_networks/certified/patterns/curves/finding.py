"""Join several entry-wise operators that compute a function of one value into one operator.

For each value, the values of which it is an entry-wise function are kept, the nearest first. If paths from one of these
meet (x and relu(x) in x - relu(x)), or an operator has no constant of its own (a step, a square), all operators from
such a value on are one program: from the nearest one for which the program's slopes are proven. If they are proven from
none, the program has slopes on ranges at best, and a longer one may have a proof, as exp(-x^2) has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators.broadcasting import broadcast_shapes_or_none
from specnorm_networks.certified.patterns.curves.composite import Composite, OfOneValue, SideBySide
from specnorm_networks.certified.patterns.curves.programs import ENTRYWISE, EntryProgram, Unreadable

MOST_OPERATORS = 64
"""Largest number of operators of a program."""
MOST_BASES = 64
"""Largest number of values that are kept for one value."""
MOST_STARTS = 2
"""Largest number of values from which a proof is sought, besides the furthest one."""
LINEAR = (ops.Add, ops.Scale, ops.Identity, ops.Negative, ops.Constant)
"""Operators of which a program needs no proof: the rules for linear maps bound them better."""
NOT_LIPSCHITZ = (ops.Steep, ops.Product, ops.Quotient, ops.Compare, ops.Choose, ops.Sign)
"""Operators that have no Lipschitz constant of their own, unless the range of their inputs is known."""


def join_functions(graph: Graph) -> list[Node]:
    """Return the nodes of a graph in which one operator replaces each program of one value.

    The operator is in the place of the program's last one.
    """
    finder = _Finder(graph, {node.name: number for number, node in enumerate(graph.nodes)})
    return [finder.replacement_of(node) for node in graph.nodes]


@dataclass(eq=False)
class _Finder:
    """Reads the nodes of a graph in order, and finds programs of one value."""

    graph: Graph
    order: dict[str, int]
    """Number of each node in the graph."""
    bases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """For each value: the value itself, and then those of which it is an entry-wise function, the nearest first."""
    unbounded: set[str] = field(default_factory=set)
    """Values with no bounded slope on the whole line: longer programs begin before them."""

    def replacement_of(self, node: Node) -> Node:
        """Return the node that replaces a node and those before it; the node itself if there is none."""
        operator = node.operator
        sources = [name for name in node.inputs if name not in self.graph.fixed_values]
        # The values that all sources are entry-wise functions of, the nearest first.
        of_sources = [self.bases[name] for name in sources] or [()]
        bases = tuple(name for name in of_sources[0] if all(name in others for others in of_sources[1:]))
        self.bases[node.name] = (node.name,)
        if node.shape is None or not bases:
            return node
        if isinstance(operator, ops.Concat) and len(sources) == len(node.inputs) > 1:
            functions = self._joined(node, bases[0], SideBySide)
            if functions is None or isinstance(functions.proof, str):
                return node
            return replace(node, operator=functions, inputs=(bases[0],))
        has_one_shape = all(self.graph.by_name[name].shape == node.shape for name in sources)
        if not has_one_shape or not isinstance(operator, ENTRYWISE):
            return node
        self.bases[node.name] = (node.name, *bases)[:MOST_BASES]
        reads_unbounded = not self.unbounded.isdisjoint(sources)
        joins = reads_unbounded or len(sources) > 1
        if not joins and not isinstance(operator, NOT_LIPSCHITZ):
            return node
        starts = [name for name in bases if name not in self.unbounded]
        on_ranges = node
        for start in dict.fromkeys((*starts[:MOST_STARTS], bases[-1])):
            function = self._joined(node, start, Composite)
            if function is None:
                continue
            replacement = replace(node, operator=function, inputs=(start,))
            if not isinstance(function.proof, str):
                return replacement
            if on_ranges is node and joins and len(function.program) > 1 and not function.curve.jumps:
                on_ranges = replacement
        if not reads_unbounded and not isinstance(operator, NOT_LIPSCHITZ):
            return node
        self.unbounded.add(node.name)
        return on_ranges

    def _joined(self, node: Node, base: str, kind: type[OfOneValue]) -> OfOneValue | None:
        """Return all operators between a base and a node as one; None if they are linear, or cannot be read."""
        shape = self.graph.by_name[base].shape
        try:
            function = kind(self._program(node.name, base))
            has_shape = shape is not None and broadcast_shapes_or_none(function.curve.shape, shape) == shape
        except Unreadable:
            return None
        is_linear = all(isinstance(operator, LINEAR) for operator, _ in function.curve.program)
        return function if has_shape and not is_linear else None

    def _program(self, end: str, base: str) -> EntryProgram:
        """Return the operators between a base and a value; `Unreadable` if there are too many."""
        nodes = self.graph.by_name
        needed: set[str] = set()
        waiting = [end]
        while waiting:
            name = waiting.pop()
            if name != base and name not in needed:
                needed.add(name)
                waiting += nodes[name].inputs
            if len(needed) > MOST_OPERATORS:
                raise Unreadable
        numbers = {base: 0}
        program: EntryProgram = ()
        for name in sorted(needed, key=self.order.__getitem__):
            reads = tuple(numbers[source] for source in nodes[name].inputs)
            program += _steps_of(nodes[name].operator, reads, len(program))
            numbers[name] = len(program)
        return program


def _steps_of(operator: ops.Operator, reads: tuple[int, ...], before: int) -> EntryProgram:
    """Return an operator as steps of a program with ``before`` steps: those of its own program, or itself alone."""
    program: Sequence[tuple[ops.Operator, tuple[int, ...]]] = ((operator, tuple(range(len(reads)))),)
    if isinstance(operator, Composite):
        program = operator.program
    elif isinstance(operator, ops.LogAddExp) and len(reads) == 2:
        program = operator.written_out([(), ()])
    numbers = (*reads, *range(before + 1, before + len(program)))
    return tuple((step, tuple(numbers[source] for source in sources)) for step, sources in program)
