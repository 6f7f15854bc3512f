"""A program's operators one by one, in double precision: on the program's own values, and on others."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx.node import map_aggregate
from torch.fx.operator_schemas import get_signature_for_torch_op

from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.operators.formats import UNITS
from specnorm_networks.model import Computed, Trial

_STORED = ("zeros_like", "ones_like", "full_like", "fill", "to", "type_as", "copy", "rms_norm", "nan_to_num", "selu")
"""Operators that have constants of a dtype, or round to it."""
_WIDE = dict.fromkeys((torch.float16, torch.bfloat16, torch.float32), torch.float64)
SMALL = 16
"""Entries of constants that are told."""
OPERATOR = type(torch.ops.aten.relu.default)
"""Class of torch's operators in programs."""


def widened(value: Any) -> Any:
    """Tensors in double precision, exactly."""
    return map_aggregate(value, lambda x: x.to(_WIDE.get(x.dtype, x.dtype)) if isinstance(x, Tensor) else x)


def arguments_of(operator: Any) -> Mapping[str, inspect.Parameter]:
    """Arguments of an operator of torch by name, in order; the name of its first one may be another."""
    signatures = get_signature_for_torch_op(operator)
    return signatures[0].parameters if signatures else {}


class Alone(torch.fx.Interpreter):
    """Runs a program, and shows each operator that depends on its inputs to a `Trial`.

    Constants are computed as the program does, and are then what they are.
    """

    def __init__(self, program: torch.fx.GraphModule, inputs: set[str], trial: Trial) -> None:
        super().__init__(program, garbage_collect_values=False)
        self.extra_traceback = False
        self.moving = set(inputs)
        self.trial = trial

    def run_node(self, n: torch.fx.Node) -> Any:
        """Compute one value, and show how."""
        sources = [source for source in n.all_input_nodes if source.name in self.moving]
        if n.op != "call_function" or not sources:
            return super().run_node(n)
        self.moving.add(n.name)
        name = n.name
        value = self._called(n, {})[0]
        if n.target is operator.getitem and n.args[1] == 0 and sources[0].op == "call_function":
            # The first of several: the graph has it in one node.
            n = sources[0]
            sources = [source for source in n.all_input_nodes if source.name in self.moving]
        given = {source.name: self.env[source] for source in sources}
        every = [_first(value), *given.values()]
        if any(not isinstance(x, Tensor) for x in every):
            return value  # several pieces
        free = {name for name, x in given.items() if x.is_floating_point()}

        def run(inputs: Mapping[str, FloatArray]) -> list[Computed]:
            found = {name: torch.tensor(inputs[name], device=given[name].device) for name in free}
            # Attributes of a file are of single precision, whatever its values are.
            kinds = dict.fromkeys((None, _dtypes(n)[0], torch.float32))
            every = [self._called(n, found, rounded=kind) for kind in kinds if kind is None or kind in _WIDE]
            made = [Computed(numbers(_first(value)), unit) for value, unit in every]
            # Another factor may give another size.
            return [each for each in made if each.value.shape == made[0].value.shape]

        self.trial(name, {each: numbers(x) for each, x in given.items()}, free, [*self._constants(n)], run)
        return value

    def _called(
        self,
        n: torch.fx.Node,
        given: Mapping[str, Tensor],
        *,
        rounded: torch.dtype | None = None,
    ) -> tuple[Any, float]:
        """An operator's value, and its unit roundoff: in the program's own precision where it has none in double.

        ``rounded``: with numbers as a dtype has them, which torch does to some of an operator's and not to others.
        """
        if str(n.target).removeprefix("aten.").partition(".")[0] not in _STORED:
            try:
                return self._with(n, given, rounded=rounded), UNITS["float64"]
            except (RuntimeError, ValueError, TypeError):  # not in this dtype
                pass
        return widened(self._with(n, given, stored=True)), max(torch.finfo(each).eps / 2 for each in _dtypes(n))

    def _with(
        self,
        n: torch.fx.Node,
        given: Mapping[str, Tensor],
        *,
        stored: bool = False,
        rounded: torch.dtype | None = None,
    ) -> Any:
        def leaf(a: Any) -> Any:
            if isinstance(a, torch.fx.Node):
                value = given.get(a.name, self.env[a])
                if stored:
                    kind = getattr(first_of(a), "dtype", None)
                    return map_aggregate(
                        value, lambda x: x.to(kind) if isinstance(x, Tensor) and x.is_floating_point() else x
                    )
                constant = a.name not in self.moving and isinstance(value, Tensor) and value.is_floating_point()
                return widened(value.to(rounded) if rounded is not None and constant else value)
            if isinstance(a, torch.dtype) and not stored:
                return _WIDE.get(a, a)
            if rounded is not None and isinstance(a, float):
                return torch.tensor(a, dtype=rounded).item()
            return a

        target: Any = n.target
        args: Any = map_aggregate(n.args, leaf)
        kwargs: Any = dict(map_aggregate(n.kwargs, leaf))
        if rounded is not None and isinstance(target, OPERATOR):
            # Numbers that are left to their defaults, such as a slope of 0.01, are rounded like those that are given.
            for name, argument in [*arguments_of(target).items()][len(n.args) :]:
                if isinstance(argument.default, float):
                    kwargs.setdefault(name, leaf(argument.default))
        return target(*args, **kwargs)

    def _constants(self, n: torch.fx.Node) -> Iterator[float]:
        arguments = arguments_of(n.target).values() if isinstance(n.target, OPERATOR) else ()
        found: list[Any] = [each.default for each in arguments]
        map_aggregate((n.args, n.kwargs), found.append)
        for each in found:
            if isinstance(each, torch.fx.Node):
                each = None if each.name in self.moving else self.env[each]
            if isinstance(each, Tensor) and each.numel() <= SMALL:
                yield from numbers(each).reshape(-1).tolist()
            elif isinstance(each, int | float) and not isinstance(each, bool):
                yield float(each)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple | list) and value else value


def _dtypes(n: torch.fx.Node) -> list[torch.dtype]:
    """Of an operator's value, if it is no comparison, and of what it reads."""
    kinds = [getattr(first_of(each), "dtype", torch.bool) for each in (n, *n.all_input_nodes)]
    return [each for each in kinds if each.is_floating_point] or [torch.float64]


def first_of(node: Any) -> Any:
    """The value of an fx node, or the first of several."""
    return _first(node.meta.get("val"))


def numbers(x: Tensor) -> FloatArray:
    """A tensor in float64."""
    return np.asarray(x.detach().resolve_neg().cpu().to(torch.float64).numpy())


def computed(x: Tensor) -> Computed:
    """A tensor's numbers, with the unit roundoff of its dtype, or of the products that it may be made of."""
    unit = torch.finfo(x.dtype).eps / 2 if x.is_floating_point() else 2.0**-53
    if x.dtype == torch.float32:
        try:
            precise = torch.get_float32_matmul_precision() == "highest"
        except RuntimeError:  # other switches were used: nothing is known
            precise = False
        # TensorFloat-32 is on for cuDNN unless it is switched off.
        unit = 2.0**-8 if not precise else 2.0**-11 if x.is_cuda else unit
    return Computed(np.asarray(x.detach().cpu().to(torch.float64).numpy()), unit)
