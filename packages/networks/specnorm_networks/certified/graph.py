"""A network as a graph of operators, without any framework. Front ends build it, and it can be executed.

A node's inputs are values of the graph, constants among them. An operator depends on its inputs and its fields alone.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import MethodError, SpecnormError
from specnorm.proof import visible
from specnorm_networks.certified.kernels import PlacedLayer
from specnorm_networks.certified.operators.attention import Attention
from specnorm_networks.certified.operators.base import (
    Affine,
    FloatArray,
    Function,
    Known,
    LinearMap,
    LowHigh,
    NoBoundError,
    NotRunError,
    Operator,
    Place,
    Shape,
    Slopes,
)
from specnorm_networks.certified.operators.layers import Convolution, Layer, Matrices, Matrix
from specnorm_networks.certified.operators.linear import Add
from specnorm_networks.certified.operators.sources import Constant, Held, Input, Random, Unknown
from specnorm_networks.certified.subjects import Box, Region
from specnorm_networks.model import Model

SIZES = "give the input shape (input_shape=; of several inputs by their names)"
__all__ = ["Graph", "Layer", "Node", "Shape"]


@dataclass(frozen=True, eq=False)
class Node:
    """One value of a network.

    Parameters
    ----------
    name : str
        Name of the value; no other node of the graph has it.
    operator : Operator
        The operator that computes the value.
    inputs : tuple of str
        Names of the values that it is computed from, in the operator's order; a value may be used several times.
    shape : tuple of int or None
        Shape of the value, the samples' axis included; None: unknown.
    label : str
        The framework's name of the operator.
    derived : bool
        Whether specnorm added the node, so that the model has no such value.
    """

    name: str
    operator: Operator
    inputs: tuple[str, ...] = ()
    shape: Shape | None = None
    label: str = ""
    derived: bool = False

    @property
    def rule(self) -> str:
        """Name of the rule that gives the node's constant."""
        return self.operator.rule

    @property
    def is_input(self) -> bool:
        """Whether it is an input of the network, one that stays the same included."""
        return isinstance(self.operator, Input)

    @property
    def is_constant(self) -> bool:
        """Whether its numbers are known, and are the same for all inputs."""
        return isinstance(self.operator, Constant)

    @property
    def is_fixed(self) -> bool:
        """Whether its operator says that it is the same for all inputs: a constant, or one with unknown numbers."""
        return isinstance(self.operator, Constant | Held)

    @property
    def affine(self) -> Affine | None:
        """Its operator, if that is a linear map and an offset."""
        return self.operator if isinstance(self.operator, Affine) else None

    @property
    def function(self) -> Function | None:
        """Its operator, if that is a function which is applied to each entry of the input."""
        return self.operator if isinstance(self.operator, Function) else None

    @property
    def known(self) -> Known | None:
        """Its operator, if that is known by a Lipschitz constant alone."""
        return self.operator if isinstance(self.operator, Known) else None

    @property
    def only_moves_entries(self) -> bool:
        """Whether each entry of its value is an entry of an input, or 0."""
        return self.affine is not None and self.affine.only_moves_entries

    @property
    def is_diagonal(self) -> bool:
        """Whether it multiplies each entry of its only input, and copies of it, by a number."""
        return self.affine is not None and self.affine.is_diagonal

    @property
    def is_layer(self) -> bool:
        """Whether it is bounded by the norm of its kernel, with padding before and scaling after it."""
        return self.affine is not None and self.affine.is_layer

    @property
    def is_attention(self) -> bool:
        """Whether it is softmax attention."""
        return isinstance(self.operator, Attention)

    @property
    def layer(self) -> Layer | None:
        """The kernel that its operator multiplies by, or a stack of them; None for other operators."""
        return self.operator.layer if isinstance(self.operator, Convolution | Matrix | Matrices) else None

    @property
    def weights(self) -> tuple[float, ...] | None:
        """Weights of its inputs in the sum that it is; None if it is no sum."""
        return self.operator.weights if isinstance(self.operator, Add) else None

    @property
    def reason(self) -> str:
        """Why its operator has no rule, or its numbers are not known; empty for other operators."""
        return self.operator.reason if isinstance(self.operator, Held | Unknown) else ""

    @property
    def is_random(self) -> bool:
        """Whether its operator draws random numbers."""
        return isinstance(self.operator, Random)

    @property
    def is_unknown(self) -> bool:
        """Whether its operator has no rule."""
        return isinstance(self.operator, Unknown)

    @property
    def box(self) -> LowHigh | None:
        """Ends of the box that the user states for an input; None without one, and for other values."""
        return self.operator.box if isinstance(self.operator, Input) else None

    def in_box(self, low: FloatArray, high: FloatArray) -> Node:
        """Return an input as one that lies in a box."""
        return replace(self, operator=Input(low=low, high=high))


@dataclass(frozen=True, eq=False)
class Graph:
    """A network.

    Parameters
    ----------
    nodes : tuple of Node
        All nodes, each after its inputs.
    outputs : tuple of str
        Names of the nodes that are outputs.
    model : Model or None
        The model from which the graph was translated, for the comparison. None: there is no comparison.
    note : str
        A sentence that each result about the network repeats.

    Raises
    ------
    MethodError
        If two nodes have the same name, a node uses a value that does not come before it, or an output is not a node.
        Also if a function has slopes (``slopes_on_range=``) that were not proven on a region.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    model: Model | None = None
    note: str = ""
    _origin: Graph | None = field(default=None, init=False, repr=False)
    _regions: frozenset[Region] = field(default=frozenset(), init=False, repr=False)
    is_prepared: bool = field(default=False, init=False, repr=False)
    """Whether patterns are recognized and unused nodes left out (`patterns.prepare`)."""

    def __post_init__(self) -> None:
        earlier_names: set[str] = set()
        for node in self.nodes:
            if node.name in earlier_names:
                raise MethodError(f"Several nodes are called {node.name!r}; expected one name for each node.")
            missing = next((name for name in node.inputs if name not in earlier_names), None)
            if missing is not None:
                raise MethodError(f"Node {node.name!r} uses {missing!r}, which no node before it is called.")
            earlier_names.add(node.name)
            if not isinstance(getattr(node.operator, "slopes_on_range", None), Slopes | None):
                raise MethodError(
                    f"Node {node.name!r} states its slopes (slopes_on_range=), which nothing proves. Leave them out: "
                    "give radius= and centre=, and those on the ball are found."
                )
        if not earlier_names.issuperset(self.outputs):
            raise MethodError(f"The graph's outputs {self.outputs} are not all nodes of it.")

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """Nodes by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def positions(self) -> dict[str, int]:
        """Positions of the nodes in the order of computation, by name."""
        return {node.name: position for position, node in enumerate(self.nodes)}

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs that may change: Lipschitz constants are with respect to them."""
        return tuple(node.name for node in self.nodes if isinstance(node.operator, Input) and node.operator.may_change)

    @property
    def input_shapes(self) -> dict[str, Shape]:
        """Shapes of `inputs`, by name; `MethodError` if one is not known."""
        shapes = {name: shape for name in self.inputs if (shape := self.by_name[name].shape) is not None}
        missing = [visible(name) for name in self.inputs if name not in shapes]
        if missing:
            raise MethodError(f"not all sizes of {', '.join(missing)} are stated: {SIZES}.")
        return shapes

    @cached_property
    def fixed_values(self) -> frozenset[str]:
        """Names of the values with known numbers that are the same for all inputs: those of `Constant` nodes.

        `Held` values are the same for all inputs, too, but their numbers are not known.
        """
        return frozenset(node.name for node in self.nodes if node.is_constant)

    @property
    def origin(self) -> Graph:
        """The original network, before any rewriting: values of the same name are the same."""
        return self if self._origin is None else self._origin

    @cached_property
    def regions(self) -> frozenset[Region]:
        """Regions in which the network's inputs lie, all of them: stated boxes, and those on which slopes were proven.

        The set is empty if the inputs may be anything.
        """
        regions = self._regions
        low = {}
        high = {}
        for node in self.nodes:
            slopes = getattr(node.operator, "slopes_on_range", None)
            if isinstance(slopes, Slopes):
                regions |= slopes.regions
            if node.box is not None:
                low[node.name], high[node.name] = node.box
        return regions | {Box(low, high).region} if low else regions

    def _with_nodes(
        self,
        nodes: Sequence[Node],
        regions: frozenset[Region] = frozenset(),
        note: str = "",
    ) -> Graph:
        """Return the same network with other nodes, on smaller regions.

        Nodes of the same name have to have the same value, which nothing checks. So the name is private, and a test
        makes sure that only this package calls it. ``note``: a sentence that is added to the graph's note.
        """
        rewritten = replace(self, nodes=tuple(nodes), note=" ".join(filter(None, (self.note, note))))
        object.__setattr__(rewritten, "_origin", self.origin)
        object.__setattr__(rewritten, "_regions", self._regions | regions)
        return rewritten

    def place(self, node: Node) -> Place:
        """Return the shapes of a node's inputs and of its value."""
        return Place(tuple(self.by_name[name].shape for name in node.inputs), node.shape)

    def linear_map(self, node: Node) -> LinearMap | None:
        """Return a node's linear map for the sizes of its inputs; None if it has none, or if sizes are unknown."""
        place = self.place(node)
        if node.affine is None or not place.known_shapes() or node.shape is None:
            return None
        try:
            return node.affine.linear_map(place)
        except (NoBoundError, NotRunError, SpecnormError, OSError):  # the rules refuse such a node, with the reason
            return None

    def linear_maps(self) -> dict[str, LinearMap]:
        """Return the linear maps of all nodes, with adjoints, by the names of their values."""
        maps: dict[str, LinearMap] = {}
        for node in self.nodes:
            linear = self.linear_map(node)
            sizes = self.place(node).known_shapes()
            if linear is None or sizes is None:
                continue
            with suppress(NoBoundError):
                maps[node.name] = linear.with_adjoint(sizes)
        return maps

    def placed_layer(self, node: Node, layer: Layer) -> tuple[Node, PlacedLayer]:
        """Return the node that the layer of a node reads, and the layer in its place.

        Padding that is bounded with the layer is a part of it.
        """
        source = self.by_name[node.inputs[0]]
        geometry = dict(layer.geometry)
        before_source = self.by_name[source.inputs[0]] if source.inputs else source
        padding = None if node.affine is None else node.affine.with_padding(source.operator, before_source.shape)
        if padding is not None:
            geometry |= padding
            source = before_source
        if source.shape is None or node.shape is None:
            return source, PlacedLayer(layer, geometry)
        before, after = (shape[len(shape) - layer.spatial :] for shape in (source.shape, node.shape))
        return source, PlacedLayer(layer, geometry, (before, after))

    def summands_that_change(self, node: Node) -> list[tuple[Node, float]]:
        """Return the inputs of a sum (`Node.weights`) that are no constants, each with its weight; else none."""
        if node.weights is None:
            return []
        summands = zip([self.by_name[name] for name in node.inputs], node.weights, strict=True)
        return [(summand, weight) for summand, weight in summands if not summand.is_constant]

    @cached_property
    def readers(self) -> Mapping[str, list[Node]]:
        """Nodes that read each value, each as often as it reads it, in the order of computation."""
        readers: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in node.inputs:
                readers[name].append(node)
        return readers

    def only_reader(self, name: str) -> Node | None:
        """Return the node that reads a value, if it alone does so and once, and the value is no output."""
        readers = self.readers[name]
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def last_readers(self) -> dict[int, list[str]]:
        """Return for the number of a node the names of the values that it is the last one to read or compute."""
        last = {name: number for number, node in enumerate(self.nodes) for name in (node.name, *node.inputs)}
        unread_after: dict[int, list[str]] = {}
        for name, number in last.items():
            unread_after.setdefault(number, []).append(name)
        return unread_after

    def pruned(self) -> Graph:
        """Return the network without nodes that no output needs; inputs stay."""
        needed = set(self.outputs)
        for node in reversed(self.nodes):
            if node.name in needed:
                needed.update(node.inputs)
        return self._with_nodes([node for node in self.nodes if node.name in needed or node.is_input])

    def fresh(self, name: str) -> str:
        """Return a name that no node has: ``name`` itself, or ``name`` with a number after it."""
        return fresh_name(name, self.by_name)

    def run(self, inputs: Mapping[str, NDArray[np.floating]]) -> dict[str, NDArray[np.float64]]:
        """Execute the network in float64.

        Parameters
        ----------
        inputs : mapping of str to array
            A value for each of `inputs`; values of other inputs are optional.

        Returns
        -------
        dict of str to array
            All values that can be computed, by name. Missing are those of operators that cannot be executed, and those
            computed from missing ones.
        """
        values: dict[str, NDArray[np.float64]] = {}
        for node in self.nodes:
            if node.is_input:
                if node.name in inputs:
                    values[node.name] = np.asarray(inputs[node.name], dtype=np.float64)
            elif all(name in values for name in node.inputs):
                try:
                    with np.errstate(all="ignore"):
                        values[node.name] = node.operator.run(*(values[name] for name in node.inputs))
                except NotRunError:
                    continue
        return values


def check_graph(function: str, graph: object) -> None:
    """Refuse an argument of a function that is no `Graph`."""
    if not isinstance(graph, Graph):
        kind = type(graph).__name__
        raise MethodError(f"{function} takes a Graph, not a {kind}: network_graph(model, shape) makes one.")


def fresh_name(name: str, taken: Container[str]) -> str:
    """Return a name that is not taken: ``name`` itself, or ``name`` with a number after it."""
    candidate = name
    number = 1
    while candidate in taken:
        number += 1
        candidate = f"{name}.{number}"
    return candidate
