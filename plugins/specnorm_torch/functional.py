"""Refuses modules whose output does not depend on their inputs alone, which a trace does not show."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.overrides import TorchFunctionMode

from specnorm.errors import MethodError
from specnorm_torch.modules import at_inference
from specnorm_torch.reference import alike, computed
from specnorm_torch.tracing import called, replaced, tensors, version_of

_OWN = ("torch", "torchvision", "torchaudio")
"""Packages that ask these questions for logging and for kernels that compute the same."""
_TRACING = ("is_exporting", "is_compiling", "is_dynamo_compiling", "is_tracing", "is_in_onnx_export")
_GRADIENTS = ("is_grad_enabled", "is_inference_mode_enabled", "is_inference", "requires_grad", "grad_fn", "is_leaf")
"""Functions and attributes that say how a module is called, and nothing of its inputs' numbers."""


def check_function(model: nn.Module, example: tuple[Tensor, ...], *, random: bool) -> None:
    """Refuse a module that keeps a state, or asks how it is called: it is run twice on one input.

    Parameters
    ----------
    model : Module
    example : tuple of Tensor
        Only their shapes and dtypes are used.
    random : bool
        Whether it draws numbers, so that outputs of two calls differ.

    Raises
    ------
    MethodError
    """
    inputs, asked = replaced(example, torch.Generator().manual_seed(0)), dict[str, None]()
    name = type(model).__name__
    with at_inference(model), torch.compiler.set_stance("force_eager"):
        first = list(tensors(model(*(x.clone() for x in inputs))))
        before = _state(model)
        with _watching(asked):
            second = list(tensors(model(*(x.clone() for x in inputs))))
        after = _state(model)
    same = (alike(computed(a, product=True), computed(b, product=True)) for a, b in zip(first, second, strict=True))
    if not random and not all(same):
        raise MethodError(
            f"{name} gives another output for the same input at its next call: it draws random numbers outside of "
            "torch, or keeps a state. Make it a function of its inputs first."
        )
    changed = [key for key in before.keys() & after.keys() if _changed(before[key], after[key])]
    if changed:
        raise MethodError(
            f"{name} changes {min(changed)} at each call, so that a later call may compute something else. Make it a "
            "function of its inputs first."
        )
    if asked:
        raise MethodError(
            f"{name} asks {' and '.join(asked)}: it may compute something else where it is traced, or where gradients "
            "are computed. Make it a function of its inputs first."
        )


def check_buffers(program: ExportedProgram, name: str) -> None:
    """Refuse a program whose outputs are computed from a buffer that it changes.

    Parameters
    ----------
    program : ExportedProgram
        Functional: changes of buffers are outputs.
    name : str
        Of the module's class.

    Raises
    ------
    MethodError
    """
    signature = program.graph_signature
    kinds = (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION)
    changed = {spec.target for spec in signature.output_specs if spec.kind in kinds}
    wanted = [s.arg.name for s in signature.output_specs if s.kind == OutputKind.USER_OUTPUT and hasattr(s.arg, "name")]
    nodes = {node.name: node for node in program.graph.nodes}
    waiting, seen = [nodes[each] for each in wanted if each in nodes], set[str]()
    while waiting:
        node = waiting.pop()
        if node.name not in seen:
            seen.add(node.name)
            waiting += node.all_input_nodes
    for spec in signature.input_specs:
        held = spec.kind in (InputKind.BUFFER, InputKind.PARAMETER) and spec.target in changed
        if held and getattr(spec.arg, "name", None) in seen:
            raise MethodError(
                f"{name} changes {spec.target} at each call and reads it, so that a later call computes something "
                "else. Make it a function of its inputs first."
            )


def _state(model: nn.Module) -> Mapping[str, tuple[Any, int]]:
    """Tensors and numbers that modules hold as attributes, and how often the tensors were written to."""
    return {
        f"{prefix}.{name}".removeprefix("."): (value, version_of(value) if isinstance(value, Tensor) else 0)
        for prefix, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor | bool | int | float | str)
    }


def _changed(one: tuple[Any, int], other: tuple[Any, int]) -> bool:
    """Whether a number is another one, or the same tensor was written to; a new tensor may be a copy for the user."""
    if isinstance(one[0], Tensor) or isinstance(other[0], Tensor):
        return one[0] is other[0] and one[1] != other[1]
    return bool(one[0] != other[0])


@contextmanager
def _watching(asked: dict[str, None]) -> Iterator[None]:
    """Note which of the questions code that is not torch's asks."""

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
        name, caller = called(func), sys._getframe(1)
        if name in _GRADIENTS and func.__name__ != "__set__" and not _is_own(caller):
            self.asked[name] = None
        return func(*args, **(kwargs or {}))


def _is_own(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in _OWN
