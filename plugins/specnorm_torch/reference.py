"""A torch module to be executed beside its graph: its program node by node, and the module itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.operators.executed import UNITS
from specnorm_networks.model import Computed, NotExecutedError, Trial
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils._pytree import tree_leaves

from specnorm.errors import TranslationError
from specnorm_torch.alone import Alone
from specnorm_torch.calls import constant_of, numbers
from specnorm_torch.modules import at_inference

_PRODUCTS = ("conv", "linear", "mm", "matmul", "einsum")
"""Parts of names of operators that some devices compute in less than single precision."""


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
            name = str(getattr(n.target, "__name__", ""))
            self.seen[n.name] = computed(first, product=any(part in name for part in _PRODUCTS))
        return value


@dataclass(frozen=True, eq=False)
class TorchModel:
    """See `specnorm_networks.model.Model`."""

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
        """Every value of the program, in the module's own precision; the module returns what the program does.

        Raises
        ------
        NotExecutedError
            If it does not run.
        TranslationError
            If the module returns something else than the program that was exported from it.
        """
        given = {name: _like(inputs[name], x) if name in inputs else x for name, x in self.example.items()}
        recorder = _Recorder(self.program)
        placeholders = [node.target for node in self.program.graph.nodes if node.op == "placeholder"]
        try:
            with torch.no_grad(), _seeded(given):
                recorder.run(*({**self.constants, **given}[name] for name in placeholders))
            returned = self._returned(given)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise NotExecutedError(f"the model does not run on it ({type(error).__name__}: {error})") from error
        for name, value in returned.items():
            if not alike(recorder.seen[name], value):
                raise TranslationError(
                    f"torch.export reads the network otherwise than it computes: output {name} of the program is not "
                    "the module's. No bound is given."
                )
        return recorder.seen

    def alone(self, inputs: Mapping[str, FloatArray], trial: Trial) -> None:
        """Show every operator to a trial, in double precision."""
        given = {name: _like(inputs[name], x.double()) if name in inputs else x for name, x in self.example.items()}
        placeholders = [node.target for node in self.program.graph.nodes if node.op == "placeholder"]
        values = [{**self.constants, **given}[name] for name in placeholders]
        with torch.no_grad(), _seeded(given):
            try:
                Alone(self.program, set(inputs), trial).run(*values)
            except TranslationError:
                raise
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise NotExecutedError(f"no operator runs alone ({type(error).__name__}: {error})") from error

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
        return {name: computed(x, product=True) for name, x in pairs if name and isinstance(x, Tensor)}


@contextmanager
def _seeded(given: Mapping[str, Tensor]) -> Iterator[None]:
    """Always the same random numbers, and afterwards those that were next before."""
    devices = {x.device.index for x in given.values() if x.is_cuda}
    with torch.random.fork_rng(list(devices)):
        torch.manual_seed(0)
        yield


def _like(values: FloatArray, x: Tensor) -> Tensor:
    return torch.tensor(values, dtype=x.dtype, device=x.device)


def computed(x: Tensor, *, product: bool = False) -> Computed:
    """A tensor's numbers, with the unit roundoff of its dtype, or of the products that it may be made of."""
    x = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
    unit = torch.finfo(x.dtype).eps / 2 if x.is_floating_point() else UNITS["float64"]
    if product and x.dtype == torch.float32:
        try:
            precise = torch.get_float32_matmul_precision() == "highest"
        except RuntimeError:  # other switches were used: nothing is known
            precise = False
        # TensorFloat-32 is on for cuDNN unless it is switched off.
        unit = UNITS["bfloat16"] if not precise else UNITS["float16"] if x.is_cuda else unit
    return Computed(numbers(x), unit)


def alike(one: Computed, other: Computed) -> bool:
    """Whether two results of a whole network differ by no more than rounding may make: by the root of its unit."""
    if one.value.shape != other.value.shape:
        return False
    near = math.sqrt(2 * max(one.unit, other.unit))
    with np.errstate(all="ignore"):
        size = float(np.max(np.where(np.isfinite(one.value), abs(one.value), 0.0), initial=0.0))
    return np.allclose(one.value, other.value, rtol=near, atol=near * size, equal_nan=True)
