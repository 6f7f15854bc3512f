"""A network as a graph of operators, without any framework. Front ends build it; it can be executed.

A node's inputs are values of the graph, constants among them: whatever an operator is computed from and is no field of
it stands in the graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import MethodError
from specnorm_networks.certified.operators.base import NotRunError, Operator, Place, Slopes
from specnorm_networks.certified.operators.layers import Layer
from specnorm_networks.certified.operators.sources import Constant, Input
from specnorm_networks.certified.regions import Box, Region
from specnorm_networks.certified.shapes import Shape
from specnorm_networks.model import Model

__all__ = ["Graph", "Layer", "Node", "Shape"]


@dataclass(frozen=True, eq=False)
class Node:
    """One value of a network.

    Parameters
    ----------
    name : str
        Of the value; no other node of the graph has it.
    operator : Operator
        What computes it.
    inputs : tuple of str
        The values that it is computed from, as often as they are used, in the operator's order.
    shape : tuple of int or None
        Of the value; None: not known.
    label : str
        What the framework calls the operator.
    derived : bool
        Whether specnorm added it to what the model computes, which has no such value.
    """

    name: str
    operator: Operator
    inputs: tuple[str, ...] = ()
    shape: Shape | None = None
    label: str = ""
    derived: bool = False

    @property
    def rule(self) -> str:
        """Which rule gives its constant."""
        return self.operator.rule


@dataclass(frozen=True, eq=False)
class Graph:
    """A network.

    Parameters
    ----------
    nodes : tuple of Node
        Each after its inputs.
    outputs : tuple of str
        Names of nodes.
    model : Model or None
        What it was translated from, to be executed beside it; None: nothing to compare with.
    note : str
        What an answer about it has to say of it, in a sentence.

    Raises
    ------
    MethodError
        If two nodes have one name, a node uses what does not come before it, or an output is no node; or if slopes are
        given to a function (``near=``), which are proven of a region or not used.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    model: Model | None = None
    note: str = ""
    _origin: Graph | None = field(default=None, init=False, repr=False)
    _regions: frozenset[Region] = field(default=frozenset(), init=False, repr=False)

    def __post_init__(self) -> None:
        known: set[str] = set()
        for node in self.nodes:
            if node.name in known:
                raise MethodError(f"Several nodes are called {node.name!r}; expected one name for each node.")
            missing = next((name for name in node.inputs if name not in known), None)
            if missing is not None:
                raise MethodError(f"Node {node.name!r} uses {missing!r}, which no node before it is called.")
            known.add(node.name)
            if not isinstance(getattr(node.operator, "near", None), Slopes | None):
                raise MethodError(
                    f"Node {node.name!r} states its slopes (near=), which nothing proves. Leave them out: give radius= "
                    "and centre=, and those on the ball are found."
                )
        if not known.issuperset(self.outputs):
            raise MethodError(f"The graph's outputs {self.outputs} are not all nodes of it.")

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """Nodes by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the network's inputs that move."""
        return tuple(node.name for node in self.nodes if isinstance(node.operator, Input) and node.operator.moves)

    @cached_property
    def constants(self) -> frozenset[str]:
        """Names of constants."""
        return frozenset(node.name for node in self.nodes if isinstance(node.operator, Constant))

    @property
    def origin(self) -> Graph:
        """The network as it was given, whose values this one has by the same names."""
        return self if self._origin is None else self._origin

    @cached_property
    def regions(self) -> frozenset[Region]:
        """Those that its inputs are said to lie in, and in which its slopes hold; none: everywhere."""
        slopes = [getattr(node.operator, "near", None) for node in self.nodes]
        found = self._regions.union(*(each.regions for each in slopes if isinstance(each, Slopes)))
        boxes = {node.name: node.operator.box for node in self.nodes if isinstance(node.operator, Input)}
        low, high = ({name: box[at] for name, box in boxes.items() if box is not None} for at in (0, 1))
        return found | {Box(low, high).region} if low else found

    def _same(self, nodes: Sequence[Node], regions: frozenset[Region] = frozenset(), note: str = "") -> Graph:
        """Written otherwise, in a region: nodes of the same name have the same value. For the trusted room alone."""
        found = replace(self, nodes=tuple(nodes), note=" ".join(filter(None, (self.note, note))))
        object.__setattr__(found, "_origin", self.origin)
        object.__setattr__(found, "_regions", self._regions | regions)
        return found

    def place(self, node: Node) -> Place:
        """Where a node stands: shapes of what it is computed from, and of its value."""
        return Place(tuple(self.by_name[name].shape for name in node.inputs), node.shape)

    def moved_by(self, starts: Iterable[str], held: str = "") -> set[str]:
        """Names of the values that some values move, these too, while one is held."""
        found = {*starts} - {held}
        for node in self.nodes:
            if node.name != held and not found.isdisjoint(node.inputs):
                found.add(node.name)
        return found

    def readers(self) -> Counter[str]:
        """How often each value is used, as an output, too."""
        found = Counter(name for node in self.nodes for name in node.inputs)
        found.update(self.outputs)
        return found

    def pruned(self) -> Graph:
        """Without nodes that no output needs; inputs stay."""
        needed = set(self.outputs)
        for node in reversed(self.nodes):
            if node.name in needed:
                needed.update(node.inputs)
        kept = (n for n in self.nodes if n.name in needed or isinstance(n.operator, Input))
        return self._same(tuple(kept))

    def fresh(self, name: str) -> str:
        """A name that no node has: the one given, or with a number behind it."""
        found, number = name, 1
        while found in self.by_name:
            number += 1
            found = f"{name}.{number}"
        return found

    def run(self, inputs: Mapping[str, NDArray[np.floating]]) -> dict[str, NDArray[np.float64]]:
        """Execute the network in float64.

        Parameters
        ----------
        inputs : mapping of str to array
            A value for each node that is an input; those that are held are left out, or given, too.

        Returns
        -------
        dict of str to array
            Every value that can be computed here.
        """
        found: dict[str, NDArray[np.float64]] = {}
        for node in self.nodes:
            if isinstance(node.operator, Input):
                if node.name in inputs:
                    found[node.name] = np.asarray(inputs[node.name], dtype=np.float64)
            elif all(name in found for name in node.inputs):
                try:
                    with np.errstate(all="ignore"):
                        found[node.name] = node.operator.run(*(found[name] for name in node.inputs))
                except NotRunError:
                    continue
        return found
