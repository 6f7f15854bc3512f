"""Execute a torch program's operators one by one in double precision, on the program's values and on others."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.fx.node import map_aggregate
from torch.fx.operator_schemas import get_signature_for_torch_op

from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.operators.formats import UNITS
from specnorm_networks.comparison.model import Computed, Trial

_DTYPE_DEPENDENT = (
    "zeros_like", "ones_like", "full_like", "fill", "to", "type_as", "copy", "rms_norm", "nan_to_num", "selu",
)  # fmt: skip
"""Operators with constants that depend on the dtype, or that round to it: these run in the program's precision."""
_WIDE = dict.fromkeys((torch.float16, torch.bfloat16, torch.float32), torch.float64)
"""The dtype in which numbers of a dtype are computed here."""
SMALL = 16
"""Largest number of entries of a constant whose numbers a trial gets."""
OPERATOR = type(torch.ops.aten.relu.default)
"""Class of torch's operators in programs."""


def widened(value: Any) -> Any:
    """Return tensors, or a structure of tensors, in double precision, exactly."""
    return map_aggregate(value, lambda x: x.to(_WIDE.get(x.dtype, x.dtype)) if isinstance(x, Tensor) else x)


def arguments_of(operator: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of an operator of torch by name, in order.

    The first one may have another name than in the operator's schema.
    """
    signatures = get_signature_for_torch_op(operator)
    return signatures[0].parameters if signatures else {}


class Alone(torch.fx.Interpreter):
    """Interpreter of a program that calls a `Trial` with each operator that depends on the program's inputs.

    Values that depend on no input are computed in the program's precision.
    """

    def __init__(self, program: torch.fx.GraphModule, inputs: set[str], trial: Trial) -> None:
        super().__init__(program, garbage_collect_values=False)
        self.extra_traceback = False
        self.moving = set(inputs)
        self.trial = trial

    def run_node(self, n: torch.fx.Node) -> Any:
        """Compute one value, and call the trial with its operator."""
        sources = [source for source in n.all_input_nodes if source.name in self.moving]
        if n.op != "call_function" or not sources:
            return super().run_node(n)
        self.moving.add(n.name)
        value = self._execute(n, {})[0]
        node = n
        is_first_output = n.target is operator.getitem and n.args[1] == 0
        if is_first_output and sources[0].op == "call_function":
            # The graph has one node for an operator and its first output.
            node = sources[0]
            sources = [source for source in node.all_input_nodes if source.name in self.moving]
        inputs_of_program = {source.name: self.env[source] for source in sources}
        tensors = [_first(value), *inputs_of_program.values()]
        if any(not isinstance(x, Tensor) for x in tensors):
            return value  # a value or an input is a tuple of tensors
        free = {name for name, x in inputs_of_program.items() if x.is_floating_point()}

        def run(inputs: Mapping[str, FloatArray]) -> list[Computed]:
            trial_inputs = {}
            for name in free:
                trial_inputs[name] = torch.tensor(inputs[name], device=inputs_of_program[name].device)
            # The operator's numbers may be rounded or not: attributes of a file are always of single precision.
            values = [self._execute(node, trial_inputs)]
            for dtype in dict.fromkeys((_dtypes(node)[0], torch.float32)):
                if dtype in _WIDE:
                    values.append(self._execute(node, trial_inputs, rounded_to=dtype))
            computed_values = [Computed(numbers(_first(value)), unit) for value, unit in values]
            # A rounded scale factor may give another size.
            shape = computed_values[0].value.shape
            return [candidate for candidate in computed_values if candidate.value.shape == shape]

        input_numbers = {name: numbers(x) for name, x in inputs_of_program.items()}
        self.trial(n.name, input_numbers, free, [*self._constants(node)], run)
        return value

    def _execute(
        self,
        n: torch.fx.Node,
        inputs: Mapping[str, Tensor],
        *,
        rounded_to: torch.dtype | None = None,
    ) -> tuple[Any, float]:
        """Return an operator's value and its unit roundoff.

        The operator runs in double precision if it can, else in the program's precision. ``inputs`` stand in place of
        the program's values. ``rounded_to`` is a dtype to which the operator's numbers are rounded first: torch rounds
        those of some operators.
        """
        is_dtype_dependent = str(n.target).removeprefix("aten.").partition(".")[0] in _DTYPE_DEPENDENT
        if not is_dtype_dependent:
            try:
                return self._call(n, inputs, rounded_to=rounded_to), UNITS["float64"]
            except (RuntimeError, ValueError, TypeError):
                pass  # the operator does not run in double precision
        value = self._call(n, inputs, in_program_precision=True)
        return widened(value), max(torch.finfo(dtype).eps / 2 for dtype in _dtypes(n))

    def _call(
        self,
        n: torch.fx.Node,
        inputs: Mapping[str, Tensor],
        *,
        in_program_precision: bool = False,
        rounded_to: torch.dtype | None = None,
    ) -> Any:
        """Return the value of an operator for inputs in place of the program's values, in double precision or not."""

        def tensor_of(source: torch.fx.Node) -> Any:
            value = inputs.get(source.name, self.env[source])
            if in_program_precision:
                dtype = getattr(first_of(source), "dtype", None)
                return map_aggregate(value, lambda x: x.to(dtype) if _is_floating(x) else x)
            is_constant = source.name not in self.moving
            if rounded_to is not None and is_constant and _is_floating(value):
                value = value.to(rounded_to)
            return widened(value)

        def converted(argument: Any) -> Any:
            if isinstance(argument, torch.fx.Node):
                return tensor_of(argument)
            if isinstance(argument, torch.dtype) and not in_program_precision:
                return _WIDE.get(argument, argument)
            if rounded_to is not None and isinstance(argument, float):
                return torch.tensor(argument, dtype=rounded_to).item()
            return argument

        target: Any = n.target
        args: Any = map_aggregate(n.args, converted)
        kwargs: Any = dict(map_aggregate(n.kwargs, converted))
        if rounded_to is not None and isinstance(target, OPERATOR):
            # Default numbers, such as a slope of 0.01, are rounded like the others.
            for name, number in _default_numbers(target, len(n.args)).items():
                kwargs.setdefault(name, converted(number))
        return target(*args, **kwargs)

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


def _default_numbers(target: Any, given: int) -> dict[str, float]:
    """Return the floating defaults of an operator's parameters, without the ``given`` first ones."""
    parameters = list(arguments_of(target).items())[given:]
    return {name: parameter.default for name, parameter in parameters if isinstance(parameter.default, float)}


def _is_floating(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.is_floating_point()


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple | list) and value else value


def _dtypes(n: torch.fx.Node) -> list[torch.dtype]:
    """Return the floating dtypes of an operator's value and of its inputs; float64 if there is none."""
    dtypes = [getattr(first_of(node), "dtype", torch.bool) for node in (n, *n.all_input_nodes)]
    return [dtype for dtype in dtypes if dtype.is_floating_point] or [torch.float64]


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
