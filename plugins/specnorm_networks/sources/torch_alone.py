"""Execute a torch program's operators one by one, on the program's values and on others."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx.node import map_aggregate, map_arg
from torch.fx.operator_schemas import get_signature_for_torch_op

from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.model import Computed, Trial

SMALL = 16
"""Largest number of entries of a constant whose numbers a trial gets."""
OPERATOR = type(torch.ops.aten.relu.default)
"""Class of torch's operators in programs."""


def arguments_of(operator: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of an operator of torch by name, in order.

    The first one may have another name than in the operator's schema.
    """
    signatures = get_signature_for_torch_op(operator)
    return signatures[0].parameters if signatures else {}


class Alone(torch.fx.Interpreter):
    """Interpreter of a program that calls a `Trial` with each operator that depends on the program's inputs."""

    def __init__(self, program: torch.fx.GraphModule, inputs: set[str], trial: Trial) -> None:
        super().__init__(program, garbage_collect_values=False)
        self.extra_traceback = False
        self.moving = set(inputs)
        self.trial = trial

    def run_node(self, n: torch.fx.Node) -> Any:
        """Compute one value, and call the trial with its operator."""
        value = super().run_node(n)
        sources = [source for source in n.all_input_nodes if source.name in self.moving]
        if n.op != "call_function" or not sources:
            return value
        self.moving.add(n.name)
        node = n
        is_first_output = n.target is operator.getitem and n.args[1] == 0
        if is_first_output and sources[0].op == "call_function":
            # The graph has one node for an operator and its first output.
            node = sources[0]
            sources = [source for source in node.all_input_nodes if source.name in self.moving]
        inputs = {source.name: self.env[source] for source in sources}
        if any(not isinstance(x, Tensor) for x in (_first(value), *inputs.values())):
            return value  # a value or an input is a tuple of tensors
        target: Any = node.target
        free = {name for name, x in inputs.items() if x.is_floating_point()}

        def run(trial_inputs: Mapping[str, FloatArray]) -> tuple[dict[str, FloatArray], Computed]:
            tensors = {name: torch.tensor(trial_inputs[name]).to(inputs[name]) for name in free}
            args, kwargs = map_arg((node.args, node.kwargs), lambda x: tensors.get(x.name, self.env[x]))
            return {name: numbers(x) for name, x in tensors.items()}, computed(_first(target(*args, **kwargs)))

        values = {name: numbers(x) for name, x in inputs.items()}
        self.trial(n.name, values, free, [*self._constants(node)], run)
        return value

    def _constants(self, n: torch.fx.Node) -> Iterator[float]:
        """Yield the numbers among an operator's arguments and their defaults, without those of large tensors."""
        parameters = arguments_of(n.target).values() if isinstance(n.target, OPERATOR) else ()
        arguments: list[Any] = [parameter.default for parameter in parameters]
        map_aggregate((n.args, n.kwargs), arguments.append)
        for argument in arguments:
            if isinstance(argument, torch.fx.Node):
                argument = None if argument.name in self.moving else self.env[argument]
            if isinstance(argument, Tensor) and argument.numel() <= SMALL:
                yield from numbers(argument).reshape(-1).tolist()
            elif isinstance(argument, int | float) and not isinstance(argument, bool):
                yield float(argument)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple | list) and value else value


def first_of(node: Any) -> Any:
    """Return the fake tensor of an fx node's value, or of the first of its values."""
    return _first(node.meta.get("val"))


def numbers(x: Tensor) -> FloatArray:
    """Return a tensor as a NumPy array in float64."""
    return np.asarray(x.detach().resolve_neg().cpu().to(torch.float64).numpy())


def computed(x: Tensor) -> Computed:
    """Return a tensor's numbers with their unit roundoff: that of the dtype, or of products in a smaller precision."""
    unit = torch.finfo(x.dtype).eps / 2 if x.is_floating_point() else 2.0**-53
    if x.dtype == torch.float32:
        try:
            is_full_precision = torch.get_float32_matmul_precision() == "highest"
        except RuntimeError:  # the precision was set by other switches of torch, and cannot be asked for
            is_full_precision = False
        if not is_full_precision:
            unit = 2.0**-8  # bfloat16
        elif x.is_cuda:
            unit = 2.0**-11  # TensorFloat-32 is on for cuDNN unless it is switched off
    return Computed(np.asarray(x.detach().cpu().to(torch.float64).numpy()), unit)
