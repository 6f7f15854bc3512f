"""Refuses modules whose output does not depend on their inputs alone, which a trace does not show."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeAlias

import numpy as np
import torch
from specnorm_torch.modules import at_inference, version_of
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from specnorm import MethodError
from specnorm_networks.model import Computed, equal_but_for_rounding
from specnorm_networks.sources.held import drawn, held, is_own

_TRACING = ("is_exporting", "is_compiling", "is_dynamo_compiling", "is_tracing", "is_in_onnx_export")
_GRADIENTS = ("is_grad_enabled", "is_inference_mode_enabled", "is_inference", "requires_grad", "grad_fn", "is_leaf")
"""Functions and attributes that say how a module is called, and nothing of its inputs' numbers."""


def first_call(model: nn.Module, example: tuple[Tensor, ...]) -> None:
    """Run a module once, for what it computes once and keeps where no module is: a trace would leave its own there."""
    with at_inference(model), torch.compiler.set_stance("force_eager"):
        outputs(model, example)


def check_function(model: nn.Module, example: tuple[Tensor, ...]) -> None:
    """Refuse a module that keeps a state, or asks how it is called: it is run on one input again and again.

    What the first call alone settles is no state.

    Parameters
    ----------
    model : Module
    example : tuple of Tensor
        Only their shapes and dtypes are used.

    Raises
    ------
    MethodError
    """
    generator, asked = torch.Generator().manual_seed(0), dict[str, None]()
    inputs = [torch.randn(x.shape, generator=generator).to(x) if x.is_floating_point() else x for x in example]
    with at_inference(model), torch.compiler.set_stance("force_eager"):
        first = outputs(model, inputs)
        before, at = state(model), drawn()
        with _watching(asked):
            second = outputs(model, inputs)
        changed, same = [*_changed(before, state(model))], drawn() == at
        others = [*_called_otherwise(model, inputs)]
    name = type(model).__name__
    if not (same and _same(first, second)):
        raise MethodError(
            f"{name} gives another output for the same input at its next call: it draws random numbers outside of "
            "torch, or keeps a state. Make it a function of its inputs first."
        )
    if changed:
        raise MethodError(
            f"{name} changes {changed[0]} at each call, so that a later call may compute something else. Make it a "
            "function of its inputs first."
        )
    if asked:
        raise MethodError(
            f"{name} asks {' and '.join(asked)}: it may compute something else where it is traced, or where gradients "
            "are computed. Make it a function of its inputs first."
        )
    if not all(_same(first, each) for each in others):
        raise MethodError(
            f"{name} gives another output for the same input where gradients are computed, or where the input lies "
            "otherwise in memory. Make it a function of its inputs' numbers first."
        )


def _same(first: list[Computed], second: list[Computed]) -> bool:
    return all(equal_but_for_rounding(a, b) for a, b in zip(first, second, strict=True))


def _called_otherwise(model: nn.Module, inputs: Sequence[Tensor]) -> Iterator[list[Computed]]:
    """Outputs with gradients, of parameters alone and of inputs, and of inputs that lie otherwise in memory."""
    turned = [x.transpose(0, -1).contiguous().transpose(0, -1) if x.ndim else x for x in inputs]
    moving = [x.detach().requires_grad_(x.is_floating_point()) for x in inputs]
    for given, gradients in ((inputs, True), (moving, True), (turned, False)):
        found = None
        with suppress(Exception), torch.set_grad_enabled(gradients):  # it need not run so
            found = outputs(model, given)
        if found is not None:
            yield found


def outputs(model: nn.Module, inputs: Sequence[Tensor]) -> list[Computed]:
    """Tensors that a module returns for copies of inputs."""
    return [computed(x) for x in tree_leaves(model(*(x.clone() for x in inputs))) if isinstance(x, Tensor)]


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


State: TypeAlias = dict[str, tuple[Any, int, bool]]
"""What modules hold by name, how often it was written to, and whether it is a parameter or buffer."""


def state(model: nn.Module) -> State:
    """Tensors and numbers that modules hold: themselves, or in containers, objects, functions and classes of theirs."""
    found: State = {}
    seen: dict[int, Any] = {
        id(x): x for module in model.modules() for x in (module, module._parameters, module._buffers, module._modules)
    }
    for prefix, module in model.named_modules():
        registered = module._parameters | module._buffers
        for name, value in held(type(module), vars(module) | registered, seen):
            version = version_of(value) if isinstance(value, Tensor) else 0
            found[f"{prefix}.{name}".removeprefix(".")] = value, version, name in registered
    return found


def _changed(before: State, after: State) -> Iterator[str]:
    """Names of numbers that are others, of tensors that were written to, and of buffers that another one replaces."""
    for name in before.keys() & after.keys():
        (one, version, registered), (other, later, _) = before[name], after[name]
        if isinstance(one, Tensor) or isinstance(other, Tensor):
            if version != later if one is other else registered:
                yield name
        elif one is not other and not np.array_equal(one, other):
            yield name


@contextmanager
def _watching(asked: dict[str, None]) -> Iterator[None]:

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code.co_name in _TRACING and _is_own(frame):
            name, caller = frame.f_code.co_name, frame.f_back
        elif event == "c_call" and getattr(arg, "__name__", "") in _GRADIENTS:
            name, caller = arg.__name__, frame
        else:
            return
        if caller is not None and not _is_own(caller):
            asked[name] = None

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        with _Asking(asked):
            yield
    finally:
        sys.setprofile(before)


class _Asking(TorchFunctionMode):
    """Notes which attributes of tensors code that is not torch's asks for."""

    def __init__(self, asked: dict[str, None]) -> None:
        super().__init__()
        self.asked = asked

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute as without it."""
        del types
        name, caller = _called(func), sys._getframe(1)
        if name in _GRADIENTS and func.__name__ != "__set__" and not _is_own(caller):
            self.asked[name] = None
        return func(*args, **(kwargs or {}))


def _is_own(frame: FrameType) -> bool:
    return is_own(frame.f_globals.get("__name__", ""))


def _called(func: Any) -> str:
    """Name of a function of torch's, as a mode is told it."""
    name = str(getattr(func, "__name__", func))
    # Reading an attribute of a tensor.
    return str(getattr(getattr(func, "__self__", None), "__name__", name)) if name in ("__get__", "__set__") else name
