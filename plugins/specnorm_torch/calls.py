"""One operator in an exported program, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from specnorm.networks import Node
from specnorm.networks.graph import Offset


@dataclass(frozen=True)
class Call:
    """One operator in an exported program.

    Parameters
    ----------
    node : torch.fx.Node
    name : str
        Of the operator, without overload.
    arguments : mapping
        By name; what depends on the inputs is an fx node.
    data : set of str
        Names of fx nodes that do.
    shape_of : callable
    weights : mapping
        Of the entries of complex values, by fx name, where they are not all 1; see `fourier`.
    """

    node: Any
    name: str
    arguments: Mapping[Any, Any]
    data: set[str]
    shape_of: Callable[[Any], tuple[int, ...] | None]
    weights: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def is_data(self, name: str) -> bool:
        """Whether an argument depends on the inputs."""
        return isinstance(self.arguments.get(name), torch.fx.Node)

    def shape(self, name: str = "") -> tuple[int, ...]:
        """Shape of an argument, or of the result."""
        return self.shape_at(self.arguments[name] if name else self.node)

    def shape_at(self, value: Any) -> tuple[int, ...]:
        """Shape of a constant, or of an fx node's value."""
        found = tuple(value.shape) if isinstance(value, Tensor) else self.shape_of(value)
        if found is None:
            raise ValueError("it has no shape")
        return found


@dataclass(frozen=True)
class Translation:
    """What becomes of an operator: a rule, its parameters, and its inputs if not all that depend on the network's.

    ``before`` are nodes to add first, ``offset`` is what is added; ``kernel``, ``weight``, ``geometry``, ``spatial``,
    ``turned`` describe a layer, ``weights`` the entries of a complex value.
    """

    rule: str
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    before: tuple[Node, ...] = ()
    kernel: Callable[[], Tensor] | None = None
    weight: Tensor | None = None
    geometry: Mapping[str, Any] = field(default_factory=dict)
    spatial: int = 0
    turned: bool = False
    offset: Offset | None = None
    weights: Tensor | None = None


Rule = Callable[[Call], Translation]
