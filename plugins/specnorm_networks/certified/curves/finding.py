"""Join several entry-wise operators that compute a function of one value into one operator.

For each value, the values of which it is an entry-wise function are kept, the nearest first. If two paths from one of
these meet again (x and relu(x) in x - relu(x)), or an operator has no constant of its own (a step, a square), all
operators from the nearest common value on are one program. They are joined if the program's slopes are proven;
otherwise the network stays as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from specnorm.errors import SpecnormError
from specnorm_networks.certified.curves.composite import Composite, SideBySide
from specnorm_networks.certified.curves.programs import ENTRYWISE, EntryProgram, Unreadable
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators.base import FloatArray, NoBoundError, Operator, Pointwise
from specnorm_networks.certified.operators.broadcasting import broadcast_shapes_or_none
from specnorm_networks.certified.operators.joins import Choose, Compare, Product, Quotient, Sign, Where
from specnorm_networks.certified.operators.linear import Add, Concat, Scale
from specnorm_networks.certified.operators.moves import Identity
from specnorm_networks.certified.operators.piecewise import LeakyReLU, Negative
from specnorm_networks.certified.operators.sources import Constant
from specnorm_networks.certified.operators.steep import Steep

Function = TypeVar("Function", Composite, SideBySide)
MOST_OPERATORS = 64
"""Largest number of operators of a program."""
MOST_BASES = 64
"""Largest number of values that are kept for one value."""
LINEAR = (Add, Scale, Identity, Negative, Constant)
"""Operators of which a program needs no proof: the rules for linear maps bound them better."""
NOT_LIPSCHITZ = (Steep, Product, Quotient, Compare, Choose, Sign)
"""Operators that have no Lipschitz constant of their own, unless the range of their inputs is known."""


def join_functions(graph: Graph) -> list[Node]:
    """Return the nodes of a graph in which one operator replaces each program of one value.

    The operator is in the place of the program's last one.
    """
    finder = _Finder(graph)
    return [finder.replacement_of(node) for node in graph.nodes]


@dataclass(eq=False)
class _Finder:
    """Reads the nodes of a graph in order, and finds programs of one value."""

    graph: Graph
    bases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """For each value: the value itself, and then those of which it is an entry-wise function, the nearest first."""
    unbounded_from: dict[str, str] = field(default_factory=dict)
    """``unbounded_from[v]`` is u if the program from u to v has no bounded slope on the whole line. A longer program
    through v has to begin at u: its later operators may make the slope bounded, as in exp(-x^2)."""
    replacements: dict[str, Node] = field(default_factory=dict)
    """Nodes that replace programs, by name."""

    def replacement_of(self, node: Node) -> Node:
        """Return the node that replaces a node and those before it; the node itself if there is none."""
        sources = [name for name in node.inputs if name not in self.graph.fixed_values]
        self.bases[node.name] = (node.name,)
        if isinstance(node.operator, Concat) and len(sources) == len(node.inputs) > 1:
            return self._side_by_side(node, node.operator)
        if not sources or not self._is_entrywise(node, sources):
            return node
        common_bases = self._common_bases(sources)
        self.bases[node.name] = (node.name, *common_bases)[:MOST_BASES]
        if not common_bases:
            return node
        starts_of_unbounded = [self.unbounded_from[name] for name in sources if name in self.unbounded_from]
        base = common_bases[0]
        paths_meet = len(sources) > 1
        if starts_of_unbounded and not paths_meet:
            base = starts_of_unbounded[0]
        elif isinstance(node.operator, Steep | Product):
            # tanh(x)^2 has a bounded slope, though the square has none.
            base = self._base_before_function(common_bases)
        elif not paths_meet:
            return self._alone(node, base)
        needs_proof = not paths_meet and not starts_of_unbounded
        # From the furthest value on, its range is known: a table is read within its ends.
        for start in dict.fromkeys((base, common_bases[-1])):
            composite = self._composite(node, start, needs_proof=needs_proof)
            if composite is not None:
                return composite
        if starts_of_unbounded:
            self.unbounded_from[node.name] = base
        return self._alone(node, base)

    def _alone(self, node: Node, base: str) -> Node:
        """Return a node as it is; a longer program from the base may have a bounded slope if this node has none."""
        if isinstance(node.operator, NOT_LIPSCHITZ):
            self.unbounded_from[node.name] = base
        return node

    def _base_before_function(self, bases: Sequence[str]) -> str:
        """Return the value before the last function, of values that one value is an entry-wise function of."""
        for name, before in itertools.pairwise(bases):
            if not isinstance(self.graph.by_name[name].operator, LINEAR):
                return before
        return bases[0]

    def _is_entrywise(self, node: Node, sources: Sequence[str]) -> bool:
        """Whether each entry of a value is a function of the entries at the same place, and of constants.

        ``sources``: inputs that are no constants.
        """
        operator = node.operator
        shape = node.shape
        if shape is None or not isinstance(operator, ENTRYWISE) or isinstance(operator, Constant):
            return False
        if isinstance(operator, Pointwise) and operator.slopes_on_range is not None:
            return False
        nodes = self.graph.by_name
        if any(nodes[name].shape != shape for name in sources):
            return False
        shapes_of_constants = [nodes[name].shape for name in node.inputs if name in self.graph.fixed_values]
        try:
            shapes_of_constants += [np.shape(array) for array in _arrays_in_fields(operator)]
        except (SpecnormError, NoBoundError, OSError):  # they cannot be loaded: the rules refuse them, with the reason
            return False
        return all(broadcast_shapes_or_none(other, shape) == shape for other in shapes_of_constants)

    def _common_bases(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the values that several values are all entry-wise functions of, the nearest first."""
        first, *others = (self.bases[name] for name in dict.fromkeys(names))
        return tuple(name for name in first if all(name in other for other in others))

    # -- one function --------------------------------------------------------------------------------------------------
    def _composite(self, node: Node, base: str, *, needs_proof: bool) -> Node | None:
        """Return a node as one function of a base, or of a value before it; None if nothing is proven of it.

        ``needs_proof``: whether slopes on ranges are not enough.
        """
        base = self._start_of_program(base)
        function = self._joined([node.name], base, lambda program, _: Composite(program))
        if function is None:
            return None
        if isinstance(function.proof, str):
            needs_range = any(isinstance(operator, NOT_LIPSCHITZ) for operator, _ in function.program)
            if needs_proof or not needs_range or function.curve.jumps or len(function.program) == 1:
                return None
            # It has slopes on ranges, if not on the whole line.
            self.unbounded_from[node.name] = base
        self.replacements[node.name] = replace(node, operator=function, inputs=(base,))
        return self.replacements[node.name]

    def _joined(
        self,
        ends: Sequence[str],
        base: str,
        make: Callable[[EntryProgram, dict[str, int]], Function],
    ) -> Function | None:
        """Return all operators between a base and some values as one; None if they are linear, or cannot be read.

        ``make``: makes the operator from the program, and the numbers of the values by name.
        """
        try:
            program, numbers = self._program(ends, base)
            function = make(program, numbers)
            function.curve  # noqa: B018 - made at the first access, which raises if it cannot be
        except Unreadable:
            return None
        return None if all(isinstance(operator, LINEAR) for operator, _ in program) else function

    def _start_of_program(self, base: str) -> str:
        """Return the value with which a program has to begin.

        If a program ends with ``base``, the new program begins where that one does, and so on.
        """
        while base in self.replacements or base in self.unbounded_from:
            base = self.replacements[base].inputs[0] if base in self.replacements else self.unbounded_from[base]
        return base

    def _program(self, ends: Sequence[str], base: str) -> tuple[EntryProgram, dict[str, int]]:
        """Return the operators between a base and some values, and the numbers of the values by name.

        `Unreadable` if there are too many operators.
        """
        numbers = {base: 0}
        program: list[tuple[Operator, tuple[int, ...]]] = []
        waiting = list(reversed(ends))
        while waiting:
            name = waiting[-1]
            if name in numbers:
                waiting.pop()
                continue
            node = self.graph.by_name[name]
            missing = [source for source in node.inputs if source not in numbers]
            if not missing:
                waiting.pop()
                reads = tuple(numbers[source] for source in node.inputs)
                program += _steps_of(node.operator, reads, len(program))
                numbers[name] = len(program)
            elif len(program) + len(waiting) > 2 * MOST_OPERATORS:  # a value may wait several times
                raise Unreadable
            else:
                waiting += missing
        if len(program) > MOST_OPERATORS:
            raise Unreadable
        return tuple(program), numbers

    # -- several functions side by side --------------------------------------------------------------------------------
    def _side_by_side(self, node: Node, concat: Concat) -> Node:
        """Return functions of one value that are joined along an axis as one operator, if its slopes are proven."""
        common_bases = self._common_bases(node.inputs)
        nodes = self.graph.by_name
        if not common_bases or node.shape is None:
            return node
        if any(nodes[name].shape != nodes[common_bases[0]].shape for name in node.inputs):
            return node
        base = self._start_of_program(common_bases[0])
        functions = self._joined(
            node.inputs,
            base,
            lambda program, numbers: SideBySide(
                program, tuple(numbers[name] for name in node.inputs), concat.axis, concat.new
            ),
        )
        if functions is None or isinstance(functions.proof, str):
            return node
        return replace(node, operator=functions, inputs=(base,))


def _steps_of(operator: Operator, reads: tuple[int, ...], before: int) -> EntryProgram:
    """Return an operator as steps of a program with ``before`` steps: those of its own program, or itself alone."""
    if not isinstance(operator, Composite):
        return ((operator, reads),)
    (argument,) = reads
    steps = []
    for step, sources in operator.program:
        steps.append((step, tuple(before + source if source else argument for source in sources)))
    return tuple(steps)


def _arrays_in_fields(operator: Operator) -> Sequence[FloatArray]:
    """Return the arrays in an operator's fields that broadcast against the value."""
    match operator:
        case Scale():
            offset = operator.offset() if operator.offset else ()
            return [operator.values, *offset]
        case Where():
            return [operator.mask()]
        case LeakyReLU():
            return [np.asarray(operator.alpha)]
    return []
