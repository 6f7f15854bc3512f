"""Calls of every operator that the torch plugin has a rule for: the graph that it reads, and the map itself."""

from __future__ import annotations

import math
import operator as operators
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from networks.drawing import Arguments, Dice, Slot
from networks.torch_arguments import DRAWS, target
from networks.torch_windows import numbers
from specnorm_networks import Graph
from specnorm_torch.networks import _Walk
from specnorm_torch.reference import TorchModel
from torch import Tensor
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument

from specnorm.errors import MethodError


@dataclass
class Drawn:
    """One call: its graph as the plugin reads it, and the map itself."""

    key: str
    arguments: Arguments
    shapes: list[tuple[int, ...]]
    graph: Graph
    f: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
    broad: bool
    """Whether a value is smaller than the result."""


def draw(key: str, d: Dice) -> Drawn | None:
    """A call; None if torch refuses it."""
    arguments = DRAWS[key](d)
    slots = [
        x
        for value in arguments.values()
        for x in (value if isinstance(value, list) else [value])
        if isinstance(x, Slot)
    ]
    moving = {at for at in range(len(slots)) if d.random() < 0.6} or {d.randrange(len(slots))}
    shared = len(slots) == 2 and slots[0] == slots[1] and len(moving) == 2 and d.random() < 0.3
    shapes = [slots[at].shape for at in sorted(moving)][: 1 if shared else None]
    held = [None if at in moving else numbers(d, slot.shape) for at, slot in enumerate(slots)]

    def call(values: list[Any]) -> Any:
        """With values for the slots that move."""
        waiting, order = iter(values * 2 if shared else values), iter(held)

        def put(x: Any) -> Any:
            if not isinstance(x, Slot):
                return x
            constant = next(order)
            return next(waiting) if constant is None else constant

        return {n: [put(x) for x in v] if isinstance(v, list) else put(v) for n, v in arguments.items()}

    operator, which = target(key), d.random()
    example = [numbers(d, shape) for shape in shapes]
    try:
        result = operator(**call(example))
    except (RuntimeError, IndexError, ValueError, NotImplementedError):
        return None
    several = isinstance(result, tuple | list)
    if several and not result:
        return None
    at = int(which * len(result)) if isinstance(result, list) else 0
    value = result[at] if several else result
    if not value.numel() or not all(map(math.prod, shapes)):
        return None

    ends = np.cumsum([math.prod(s) for s in shapes]).tolist()
    cuts = [(end - math.prod(shape), end, shape) for end, shape in zip(ends, shapes, strict=True)]

    def f(z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        flat = torch.tensor(z)
        found = operator(**call([flat[start:end].clone().view(shape) for start, end, shape in cuts]))
        result = found[at] if several else found
        array: np.ndarray[Any, Any] = result.resolve_conj().resolve_neg().to(torch.float64).reshape(-1).numpy()
        return array

    broad = any(math.prod(shape) < value.numel() for shape in shapes)
    try:
        graph = _graph(operator, call, example, result, at if several else None)
    except MethodError:
        # Another value tells a shape or a dtype, and is no input.
        one, other = f(np.ones(ends[-1])), f(-np.ones(ends[-1]))
        assert np.array_equal(one, other), (key, arguments)
        return None
    return Drawn(key, arguments, shapes, graph, f, broad)


def _graph(operator: Any, call: Any, example: list[Tensor], result: Any, at: int | None) -> Graph:
    """As the plugin reads it from an exported program with this one call."""
    graph = torch.fx.Graph()
    specs: list[Any] = []
    constants: dict[str, Tensor] = {}

    def given(value: Tensor, kind: InputKind) -> Any:
        node = graph.placeholder(f"x{len(specs)}")
        node.meta["val"] = value
        specs.append(SimpleNamespace(arg=TensorArgument(node.name), kind=kind, target=node.name))
        if kind != InputKind.USER_INPUT:
            constants[node.name] = value
        return node

    def lifted(x: Any) -> Any:
        if isinstance(x, list):
            return [lifted(y) for y in x]
        return given(x, InputKind.BUFFER) if isinstance(x, Tensor) else x

    inputs = [given(value, InputKind.USER_INPUT) for value in example]
    arguments = {name: lifted(value) for name, value in call(inputs).items()}
    node = graph.call_function(operator, (), arguments)
    node.meta["val"] = result
    if at is not None:
        node = graph.call_function(operators.getitem, (node, at))
        node.meta["val"] = result[at]
    graph.output(node)
    out = SimpleNamespace(kind=OutputKind.USER_OUTPUT, arg=TensorArgument(node.name))
    signature = SimpleNamespace(
        input_specs=specs, output_specs=[out], inputs_to_parameters={}, inputs_to_buffers={n: n for n in constants}
    )
    program = torch.fx.GraphModule({}, graph)
    exported: Any = SimpleNamespace(
        graph=graph, graph_signature=signature, state_dict=constants, constants={}, graph_module=program
    )

    def module(*values: Tensor) -> Any:
        found = operator(**call(list(values)))
        return found if at is None else found[at]

    return replace(_Walk(exported).graph(), model=TorchModel.of(module, exported, tuple(example)))
