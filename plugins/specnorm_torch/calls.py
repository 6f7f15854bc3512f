"""One operator in an exported program, and the builder that makes ours of it: arguments by torch's own names.

A builder is a function whose keyword parameters are the arguments that it knows. Whatever else is given, and is not
torch's default, is refused by name, and so is what depends on the network's inputs where only a constant is known.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias, get_type_hints

import numpy as np
import torch
from specnorm_networks.certified.graph import Layer, Node
from specnorm_networks.certified.operators import Constant, Operator, Unknown
from specnorm_networks.certified.operators.base import FloatArray, Offset, multiplied
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from specnorm_torch.backend import BACKEND

Moving: TypeAlias = Annotated[Any, "may depend on the network's inputs"]
"""Of a builder's parameter: a value of the graph (an fx node), or a constant. Others are constants."""


@dataclass(frozen=True, eq=False)
class Made:
    """What becomes of a call."""

    operator: Operator
    inputs: tuple[Any, ...]
    """Values of the graph: fx nodes, names of nodes that were added, and constants."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """Several values, each a slice of one: (axis, first, last) of each."""

    value: Any
    cuts: tuple[tuple[int, int, int], ...]


Builder: TypeAlias = Callable[..., Made | Pieces | Operator]
"""An operator alone is computed from the one value that the call depends on."""


@dataclass(frozen=True)
class Rule:
    """A builder, names of arguments that change no value, and of those that its ``**rest`` takes; None: all."""

    build: Builder
    idle: tuple[str, ...] = ()
    rest: tuple[str, ...] | None = None

    def arguments(self, schema: Any) -> tuple[set[str], set[str]]:
        """Names of a schema's arguments that are known, and of those among them that may be values of the graph."""
        parameters = inspect.signature(self.build).parameters.values()
        hints = get_type_hints(self.build, include_extras=True)
        every = {argument.name for argument in schema.arguments}
        known = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} | set(self.idle)
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            known |= every if self.rest is None else set(self.rest)
        tensors = {argument.name for argument in schema.arguments if "Tensor" in str(argument.type)}
        return every & known, {name for name in known & tensors if hints.get(name) == Moving}

    def refusal(self, schema: Any, arguments: Mapping[str, Any]) -> str | None:
        """Why a call is not known; None if it is."""
        known, moving = self.arguments(schema)
        for argument in schema.arguments:
            value = arguments.get(argument.name)
            default = argument.default_value if argument.has_default_value() else False
            if argument.name not in known and value is not None and value != default:
                return f"its argument {argument.name} is not known here"
            if argument.name not in moving and any(True for _ in values_in(value)):
                return f"its argument {argument.name} depends on the network's input"
        if arguments.get("layout") not in (None, torch.strided):
            return f"its argument layout={arguments['layout']} is not known here"
        return None

    def made(self, call: Call, schema: Any, arguments: Mapping[str, Any]) -> Made | Pieces:
        """What the builder makes of a call; of one that is not known, an operator without a bound."""
        reason = self.refusal(schema, arguments)
        if reason is not None:
            return Made(Unknown(reason), call.used)
        known, _ = self.arguments(schema)
        given = {name: arguments[name] for name in known - set(self.idle) if name in arguments}
        found = self.build(call, **given)
        if not isinstance(found, Operator):
            return found
        if len(call.used) != 1 and not isinstance(found, Unknown):
            raise ValueError(f"{len(call.used)} values for one operator")
        return Made(found, call.used)


def rules(build: Builder, keys: str, idle: str = "") -> dict[str, Rule]:
    """One builder for several operators: their keys, and names of arguments that change no value."""
    return dict.fromkeys(keys.split(), Rule(build, tuple(idle.split())))


@dataclass(frozen=True)
class Program:
    """What is translated of a program so far; kernels by name."""

    named: Callable[[Any, Tensor], str]
    """Gives a name for a kernel of an fx node."""
    read: Callable[[Any], tuple[str, dict[Any, Any]]]
    """What the operator of an fx node is called, and its arguments by name, constants by value."""
    nodes: list[Node] = field(default_factory=list)
    kernels: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Call:
    """One operator in an exported program."""

    node: Any
    used: tuple[Any, ...]
    """The fx nodes that it is computed from, but for constants."""
    program: Program
    label: str
    """What torch calls the operator."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result, or of the first of several."""
        return shape_of(self.node)

    def add(self, operator: Operator, inputs: tuple[Any, ...], shape: tuple[int, ...]) -> str:
        """Add a node that this call's own is computed from; its name is one that no fx node has."""
        taken = f"{self.node.name}."
        name = f"{taken}{1 + sum(node.name.startswith(taken) for node in self.program.nodes)}"
        names = self.names(inputs)
        self.program.nodes.append(Node(name, operator, names, shape, self.label))
        return name

    def names(self, inputs: tuple[Any, ...]) -> tuple[str, ...]:
        """Names of the nodes of values; constants become nodes."""
        return tuple(
            x if isinstance(x, str) else str(x.name) if isinstance(x, torch.fx.Node) else self.constant(x)
            for x in inputs
        )

    def constant(self, value: Any) -> str:
        """Add a constant."""
        shape = tuple(value.shape) if isinstance(value, Tensor) else ()
        name = f"{self.node.name}.constant"
        name += str(1 + sum(node.name.startswith(name) for node in self.program.nodes))
        self.program.nodes.append(Node(name, Constant(lambda: numbers(value)), (), shape, "constant"))
        return name

    def chain(self, value: Any, *steps: tuple[Operator, tuple[int, ...]]) -> Made:
        """Operators one after the other, with the shapes of what they make."""
        for operator, shape in steps[:-1]:
            value = self.add(operator, (value,), shape)
        return Made(steps[-1][0], (value,))

    def layer(self, weight: Tensor, geometry: Mapping[str, Any] | None = None, *, transposed: bool = False) -> Layer:
        """A constant kernel; a matrix, or matrices, where there is no geometry. No other kernel has its name."""
        name, plain = self.program.named(self.node, weight), weight.detach().resolve_conj()
        if self.program.kernels.setdefault(name, weight) is not weight:
            name = f"{name} ({self.node.name})"
        spatial = weight.ndim - 2 if geometry else 0
        return Layer(name, lambda: plain, geometry or {}, spatial, transposed, to_host=BACKEND.to_numpy)


def shape_of(value: Any) -> tuple[int, ...]:
    """Shape of a constant, or of an fx node's value (of the first of several)."""
    found = value if isinstance(value, Tensor) else first_of(value)
    if not isinstance(found, Tensor):
        raise ValueError("it has no shape")
    return tuple(int(n) for n in found.shape)


def first_of(node: Any) -> Any:
    """The value of an fx node, or the first of several."""
    value = node.meta.get("val")
    return value[0] if isinstance(value, tuple | list) and value else value


def constant_of(exported: ExportedProgram, spec: Any) -> Tensor | None:
    """The tensor of a parameter, a buffer or a constant, by the specification of a placeholder; None for inputs."""
    if spec is None or spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
        return None
    state: Any = exported.state_dict
    found: Tensor = state[spec.target] if spec.target in state else exported.constants[spec.target]
    return found


def is_value(x: Any) -> bool:
    """Whether an argument depends on the network's inputs."""
    return isinstance(x, torch.fx.Node)


def values_in(x: Any) -> Iterator[Any]:
    """Values of the graph in an argument."""
    for each in x if isinstance(x, list | tuple) else (x,):
        if is_value(each):
            yield each


def numbers(value: Any) -> FloatArray:
    """A constant in float64."""
    x = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    return np.asarray(x.detach().resolve_neg().cpu().to(torch.float64).numpy())


def rounded(call: Call, *values: Any) -> tuple[Any, ...]:
    """Constants as the result's dtype has them."""
    dtype = first_of(call.node).dtype
    return tuple(
        x if is_value(x) else x.to(dtype) if isinstance(x, Tensor) else torch.tensor(x, dtype=dtype) for x in values
    )


def offset(value: Any, factor: float = 1.0, spatial: int = 0) -> Offset | None:
    """What is added: a number or tensor, times a number; ``spatial``: axes behind its own. None for none."""
    if value is None:
        return None

    def load() -> tuple[FloatArray, FloatArray]:
        found = numbers(value)
        return multiplied(found.reshape((*found.shape, *(1,) * spatial)), factor)

    return load
