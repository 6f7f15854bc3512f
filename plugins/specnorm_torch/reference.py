"""A torch module to be executed beside its graph: its program node by node, and the module itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils._pytree import tree_leaves

from specnorm.networks.model import Computed, NotExecutedError
from specnorm.networks.operators.base import FloatArray
from specnorm_torch.calls import constant_of, numbers
from specnorm_torch.modules import at_inference


class _Recorder(torch.fx.Interpreter):
    """Runs a program and keeps every value, the first of several."""

    def __init__(self, program: torch.fx.GraphModule) -> None:
        super().__init__(program)
        self.seen: dict[str, Computed] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        """Compute one value."""
        value = super().run_node(n)
        first = value[0] if isinstance(value, tuple | list) and value else value
        if n.op != "output" and isinstance(first, Tensor):
            self.seen[n.name] = computed(first)
        return value


@dataclass(frozen=True, eq=False)
class TorchModel:
    """See `specnorm.networks.model.Model`."""

    module: Callable[..., Any]
    """A module, whose state is as before after each call."""
    program: torch.fx.GraphModule
    """Of the nodes that the graph's are named as."""
    constants: Mapping[str, Tensor]
    """Parameters, buffers and constants, by the names of the program's placeholders."""
    example: Mapping[str, Tensor]
    """The inputs that it was traced with, likewise."""
    outputs: tuple[str, ...]
    """Names of the values that the module returns, in its order; "" for what is no value."""
    free: bool
    """Whether other numbers of samples are spoken of; else the inputs were given, with their number."""

    @classmethod
    def of(
        cls, module: Callable[..., Any], exported: ExportedProgram, example: tuple[Tensor, ...], *, free: bool = False
    ) -> TorchModel:
        """Of a program that was exported."""
        signature = exported.graph_signature
        constants = {
            spec.arg.name: found
            for spec in signature.input_specs
            if (found := constant_of(exported, spec)) is not None and spec.arg.name is not None
        }
        names = [str(spec.arg.name) for spec in signature.input_specs if spec.kind == InputKind.USER_INPUT]
        outputs = [s.arg for s in signature.output_specs if s.kind == OutputKind.USER_OUTPUT]
        given = dict(zip(names, example, strict=True))
        returned = tuple(getattr(x, "name", "") for x in outputs)
        return cls(module, exported.graph_module, constants, given, returned, free)

    def values(self, inputs: Mapping[str, FloatArray]) -> Mapping[str, Computed]:
        """Every value of the program, and of the module what it returns, in the module's own precision."""
        given = {name: _like(inputs[name], x) if name in inputs else x for name, x in self.example.items()}
        recorder = _Recorder(self.program)
        placeholders = [node.target for node in self.program.graph.nodes if node.op == "placeholder"]
        try:
            with torch.no_grad(), _seeded(given):
                recorder.run(*({**self.constants, **given}[name] for name in placeholders))
            return recorder.seen | self._returned(given)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise NotExecutedError(f"the model does not run on it ({type(error).__name__}: {error})") from error

    def several(self, inputs: Mapping[str, FloatArray]) -> Mapping[str, Computed] | None:
        """What the module returns for other numbers of samples; None if it fails, or they are not spoken of."""
        if not self.free:
            return None
        try:
            return self._returned({name: _like(inputs[name], x) for name, x in self.example.items()})
        except Exception:  # whatever the model's own code raises
            return None

    def _returned(self, given: Mapping[str, Tensor]) -> dict[str, Computed]:
        calm = at_inference(self.module) if isinstance(self.module, nn.Module) else nullcontext()
        with calm, torch.no_grad(), _seeded(given):
            found = tree_leaves(self.module(*(x.clone() for x in given.values())))
        pairs: Any = zip(self.outputs, found, strict=True)
        return {name: computed(x) for name, x in pairs if name and isinstance(x, Tensor)}


@contextmanager
def _seeded(given: Mapping[str, Tensor]) -> Iterator[None]:
    """Always the same random numbers, and afterwards those that were next before."""
    devices = {x.device.index for x in given.values() if x.is_cuda}
    with torch.random.fork_rng(list(devices)):
        torch.manual_seed(0)
        yield


def _like(values: FloatArray, x: Tensor) -> Tensor:
    return torch.tensor(values, dtype=x.dtype, device=x.device)


def computed(x: Tensor) -> Computed:
    """A tensor's numbers, with the unit roundoff of its dtype."""
    unit = torch.finfo(x.dtype).eps / 2 if x.is_floating_point() or x.is_complex() else 2.0**-53
    return Computed(numbers(x), unit)
