"""Gradients of first order: what attaches a pullback, and what raises where it would be differentiated again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from specnorm.errors import MethodError, SecondDerivativeError
from specnorm.plugin import program
from specnorm_torch.arrays import ARRAYS

_FIRST_ORDER = (
    "a second derivative through a specnorm value was asked for; specnorm's pullbacks are first order. "
    "Detach the value, or take the penalty's gradient without create_graph=True."
)


def refuse_second_derivatives() -> None:
    """Refuse nested torch.func differentiations, for compilers: there the guard below would be traced through."""
    if _derivative_levels() > 1:
        raise SecondDerivativeError(_FIRST_ORDER)


def _derivative_levels() -> int:
    """Return the number of torch.func differentiations that are active: each wraps a new tensor, vmap does not.

    Without the count a compiled gradient of a gradient is 0, and no error (torch 2.13).
    """
    levels = 0
    tensor = torch.zeros((), device="cpu")
    while (inner := torch.func.debug_unwrap(tensor, recurse=False)) is not tensor:
        tensor = inner
        levels += 1
    return levels


# Dynamo runs it while tracing: it inlines the guard below inside torch.func transformations and would drop it.
# `torch.compiler.assume_constant_result` sets the same, and imports torch._dynamo, which takes as long as torch.
_derivative_levels._dynamo_marked_constant = True  # type: ignore[attr-defined]


class _Underivable(Function):
    """Identity on a value that was computed of an input without a derivative."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, _x: Tensor, reason: str) -> Tensor:
        ctx.reason = reason
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *_grads: Any) -> Any:
        raise MethodError(ctx.reason)


class _Attach(Function):
    """Identity on the value, whose backward is the program's pullback."""

    generate_vmap_rule = True

    @staticmethod
    def forward(_kernels: Tensor, value: Tensor, _key: str, *_residuals: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:
        kernels, _, key, *residuals = inputs
        ctx.program = program(key)  # kept alive by the graph
        ctx.save_for_backward(kernels, *residuals)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        kernels, *residuals = ctx.saved_tensors
        gradient = ctx.program.pullback(tuple(residuals), cotangent, backend=ARRAYS)
        return (_guarded(gradient, kernels), None, None, *(None for _ in residuals))


class _Attached(Function):
    """Identity on values (n,), whose gradients with respect to the kernels are given."""

    @staticmethod
    def forward(ctx: Any, kernels: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(kernels, gradient)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        kernels, gradient = ctx.saved_tensors
        slope = gradient * cotangent.reshape(*cotangent.shape, *(1 for _ in gradient.shape[cotangent.ndim :]))
        slope = slope.to(kernels.dtype)
        return _if_asked(slope, kernels), None, None


class _Scaled(Function):
    """``f(value(K)) K``: three passes over the kernel where the product rule's own graph takes six."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Tensor,
        factor: Tensor,
        slope: Tensor,
        gradient: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(kernels, factor, slope, gradient)
        return kernels * factor.to(kernels.dtype)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        kernels, factor, slope, gradient = ctx.saved_tensors
        cotangent = cotangent.to(gradient.dtype)
        inner = torch.dot(cotangent.reshape(-1), kernels.to(gradient.dtype).reshape(-1))
        found = (cotangent * factor).addcmul_(gradient, slope * inner).to(kernels.dtype)
        return _if_asked(found, kernels), None, None, None


class _FirstOrder(Function):
    """Identity on the kernels, differentiable once."""

    generate_vmap_rule = True

    @staticmethod
    def forward(kernels: Tensor) -> Tensor:
        return kernels.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # The kernels stay in the graph of the gradient, so that a second derivative passes through the guard.
        guard: Any = _guard if torch.compiler.is_compiling() else _guarded
        guarded: Tensor = guard(gradient, ctx.saved_tensors[0])
        return guarded


class _Guard(Function):
    """Identity on a gradient; differentiating it again raises instead of dropping a term."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, _kernels: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(_ctx: Any, _inputs: tuple[Any, ...], _output: Tensor) -> None:
        pass

    @staticmethod
    def backward(_ctx: Any, *_grads: Any) -> Any:
        raise SecondDerivativeError(_FIRST_ORDER)


_guarded: Callable[[Tensor, Tensor], Tensor] = _Guard.apply


def _if_asked(gradient: Tensor, kernels: Tensor) -> Tensor:
    """Guarded where a graph of the backward is asked for: only then can it be differentiated."""
    return _guarded(gradient, kernels) if torch.is_grad_enabled() else gradient


with_pullback: Callable[..., Tensor] = _Attach.apply
"""Attach a program's pullback to its value at the kernels: (kernels, value, key, *residuals)."""
with_gradient: Callable[[Tensor, Tensor, Tensor], Tensor] = _Attached.apply
"""Attach gradients with respect to kernels (n, *shape) to values (n,): (kernels, value, gradient)."""
scaled: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = _Scaled.apply
"""Kernels times a factor of their value, its derivative there, and the value's gradient."""
first_order: Callable[[Tensor], Tensor] = _FirstOrder.apply
"""Its argument, differentiable once."""
without_derivative: Callable[[Tensor, Tensor, str], Tensor] = _Underivable.apply
"""The first of (value, x, reason); a derivative of it with respect to ``x`` raises."""


@torch.library.custom_op("specnorm::first_order_only", mutates_args=())
def _guard(gradient: Tensor, _kernels: Tensor) -> Tensor:
    """`_Guard` for compiled backwards, where a Function would be traced through and lost."""
    return gradient.clone()


@_guard.register_fake
def _guard_fake(gradient: Tensor, _kernels: Tensor) -> Tensor:
    return torch.empty_like(gradient)


@_guard.register_vmap
def _guard_vmap(
    _info: Any,
    in_dims: tuple[int | None, ...],
    gradient: Tensor,
    kernels: Tensor,
) -> tuple[Tensor, int | None]:
    return _guard(gradient, kernels), in_dims[0]


_guard.register_autograd(_Guard.backward)
