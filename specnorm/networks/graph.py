"""A network as a graph of named rules, without any framework. Front-ends build it, `bounding` reads it.

Only values that depend on the network's inputs are nodes. What does not (weights, biases, masks) is a parameter of the
node that uses it, so that a front-end decides what is constant, and nothing else has to.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import MethodError
from specnorm.types import AnyArray

Size: TypeAlias = int | str
"""One axis: its size, or a symbol for it. Equal symbols are equal sizes; different ones may be anything."""
Shape: TypeAlias = tuple[Size, ...]
Offset: TypeAlias = Callable[[], tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Gives constants that broadcast against a value, and by how much each may be off."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or matrix in a network.

    Parameters
    ----------
    name : str
        Of the kernel, as a user knows it.
    load : callable
        Gives the kernel, in torch's order; for the rule "matrices" a stack (b, m, n), of complex ones (b, m, n, 2) with
        real and imaginary parts.
    geometry : mapping
        Keywords of specnorm's functions, with padding and without ``input_shape``.
    spatial : int
        Number of the kernel's spatial axes.
    turned : bool
        Whether a matrix is stored with its outputs last.
    error : callable or None
        Of a matrix that was computed: gives by how much each entry may be off.
    """

    name: str
    load: Callable[[], AnyArray]
    geometry: Mapping[str, Any]
    spatial: int
    turned: bool = False
    error: Callable[[], AnyArray] | None = None


@dataclass(frozen=True, eq=False)
class Node:
    """One value of a network.

    Parameters
    ----------
    name : str
        Of the value; no other node has it.
    rule : str
        One of `RULES`; anything else is unknown.
    operator : str
        What the framework calls it.
    inputs : tuple of str
        The values that it is computed from, as often as they are used.
    shape : tuple of Size or None
        Of the value; None: not known.
    params : mapping
        What the rule needs besides; see there. ``shift``: it adds constants, no more.
    layer : Layer or None
        For the rules "layer" and "matrices".
    offset : callable or None
        What is added after "layer", "scale" and "add"; no global constant depends on it. None: nothing, but for
        ``shift`` of the rule "add", where it is not known then.
    """

    name: str
    rule: str
    operator: str
    inputs: tuple[str, ...] = ()
    shape: Shape | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    layer: Layer | None = None
    offset: Offset | None = None


@dataclass(frozen=True, eq=False)
class Graph:
    """A network.

    Parameters
    ----------
    nodes : tuple of Node
        Each after its inputs. A network's inputs are nodes with the rule "input".
    outputs : tuple of str
        Names of nodes.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse two nodes of one name: what reads it would read the later one.

        Raises
        ------
        MethodError
        """
        twice = [name for name, count in Counter(node.name for node in self.nodes).items() if count > 1]
        if twice:
            told = ", ".join(map(repr, twice[:4])) + (", ..." if len(twice) > 4 else "")
            raise MethodError(f"Several nodes are called {told}; expected one name for each node.")

    def fresh(self, name: str) -> str:
        """A name that no node has: the one given, or with a number behind it."""
        known = {node.name for node in self.nodes}
        numbered = (f"{name}.{count}" for count in itertools.count(2))
        return name if name not in known else next(each for each in numbered if each not in known)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the network's inputs."""
        return tuple(node.name for node in self.nodes if node.rule == "input")

    def pruned(self) -> Graph:
        """Without nodes that no output needs; inputs stay."""
        needed = set(self.outputs)
        for node in reversed(self.nodes):
            if node.name in needed:
                needed.update(node.inputs)
        return Graph(tuple(n for n in self.nodes if n.name in needed or n.rule == "input"), self.outputs)


def concrete(shape: Shape | None) -> tuple[int, ...] | None:
    """The shape if every size is known, else None."""
    if shape is None or any(isinstance(n, str) for n in shape):
        return None
    return tuple(int(n) for n in shape)
