"""Autograd functions with first derivatives only: they add a pullback or gradient, and refuse second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from specnorm._internal import program
from specnorm.errors import MethodError, SecondDerivativeError
from specnorm_torch.arrays import ARRAYS

_REFUSAL = (
    "a second derivative through a specnorm value was asked for; specnorm's pullbacks are first order. "
    "Detach the value, or take the penalty's gradient without create_graph=True."
)
_NO_FORWARD_MODE = (
    "a derivative in forward mode (torch.func.jacfwd, jvp, or torch.autograd.forward_ad) with respect to a kernel was "
    "asked for; specnorm supports reverse mode only: use torch.func.jacrev, grad or vjp."
)
_LONG = 2**18
"""Number of entries above which vectors do not fit the caches."""


def refuse_second_derivatives() -> None:
    """Raise an error inside of nested ``torch.func`` transforms; for compiled code, which ignores `_GuardFunction`."""
    if _derivative_levels() > 1:
        raise SecondDerivativeError(_REFUSAL)


def refuse_forward_mode(x: Tensor) -> None:
    """Raise an error where a tensor has a tangent, of which autograd would say that ``jvp`` is not implemented."""
    if torch.compiler.is_compiling():
        return
    dual: Any = forward_ad.unpack_dual(x)  # type: ignore[no-untyped-call]
    if dual.tangent is not None:
        raise MethodError(_NO_FORWARD_MODE)


def _derivative_levels() -> int:
    """Return the number of active ``torch.func`` differentiations: each wraps a new tensor, and ``vmap`` does not.

    Without this check, a compiled gradient of a gradient would be 0 instead of an error (torch 2.13).
    """
    levels = 0
    tensor = torch.zeros((), device="cpu")
    while (inner := torch.func.debug_unwrap(tensor, recurse=False)) is not tensor:
        tensor = inner
        levels += 1
    return levels


# Dynamo reads this mark: it calls the function while tracing. `torch.compiler.assume_constant_result` sets the same
# mark, but imports torch._dynamo, which takes as long as importing torch.
_derivative_levels._dynamo_marked_constant = True  # type: ignore[attr-defined]


def first_order(kernels: Tensor) -> Tensor:
    """Return kernels that can be differentiated only once: a second derivative raises an error.

    If Dynamo traces a Function, the saved tensors have no graph, and the second derivative misses a term with
    ``torch.compile(backend="eager")`` (torch 2.13). So compiled code takes an operator, which is not traced. Inside of
    ``torch.func`` differentiations `refuse_second_derivatives` raises the error.
    """
    refuse_forward_mode(kernels)
    is_compiled = torch.compiler.is_compiling() and _derivative_levels() == 0
    identity: Any = _first_order_operator if is_compiled else _FirstOrderFunction.apply
    kernels_once: Tensor = identity(kernels)
    return kernels_once


class _WithoutDerivative(Function):
    """Identity on a value that was computed from x; its derivative raises a `MethodError`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, _x: Tensor, _reason: str) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:
        _, _, ctx.reason = inputs

    @staticmethod
    def backward(ctx: Any, *_grads: Any) -> Any:
        raise MethodError(ctx.reason)


class _WithPullback(Function):
    """Identity on a value, with a program's pullback as derivative with respect to the kernels."""

    generate_vmap_rule = True

    @staticmethod
    def forward(_kernels: Tensor, value: Tensor, _key: str, *_residuals: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:
        kernels, _, key, *residuals = inputs
        # The reference from the graph keeps the program alive.
        ctx.program = program(key)
        ctx.save_for_backward(kernels, *residuals)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        kernels, *residuals = ctx.saved_tensors
        gradient = ctx.program.pullback(tuple(residuals), cotangent, backend=ARRAYS)
        return (_guarded(gradient, kernels), None, None, *(None for _ in residuals))


class _WithGradient(Function):
    """Identity on values (n,), with given gradients (n, *shape) as derivatives with respect to the kernels."""

    @staticmethod
    def forward(ctx: Any, kernels: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(kernels, gradient)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        kernels, gradient = ctx.saved_tensors
        axes_of_a_kernel = [1 for _ in gradient.shape[cotangent.ndim :]]
        weighted_gradient = gradient * cotangent.reshape(*cotangent.shape, *axes_of_a_kernel)
        return _guarded_if_needed(weighted_gradient.to(kernels.dtype), kernels), None, None


class _Scaled(Function):
    """The product ``f(value(K)) K`` and its derivative, in three passes over the kernel; autograd would take six.

    ``factor`` is f, ``slope`` its derivative with respect to the value, and ``gradient`` that of the value. Factor and
    slope are 0-d tensors, or numbers where they are known.
    """

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Tensor,
        factor: Tensor | float,
        slope: Tensor | float,
        gradient: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(kernels, gradient)
        ctx.factor, ctx.slope = factor, slope
        return kernels * factor

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        kernels, gradient = ctx.saved_tensors
        cotangent = cotangent.to(gradient.dtype)
        vector = cotangent.reshape(-1)
        inner = torch.dot(vector, kernels.to(gradient.dtype).reshape(-1))
        number = _number(inner) if len(vector) > _LONG and isinstance(ctx.factor, float) else None
        if number is not None:
            # The linear combination in one pass over memory, with numbers in place of 0-d tensors.
            row, one = vector[None, :], vector.new_ones(1)
            combination = torch.addr(row, one, gradient.reshape(-1), beta=ctx.factor, alpha=ctx.slope * number)
            kernel_gradient = combination.view(kernels.shape)
        else:
            kernel_gradient = (cotangent * ctx.factor).addcmul_(gradient, ctx.slope * inner)
        return _guarded_if_needed(kernel_gradient.to(kernels.dtype), kernels), None, None, None


class _ScaledByFactors(Function):
    """`_Scaled` with a gradient of low rank, which the backward adds at once.

    Factor, slope, left and right are one argument: torch takes some microseconds for each tensor among the arguments.
    """

    @staticmethod
    def forward(ctx: Any, kernels: Tensor, constants: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(kernels)
        ctx.constants = constants
        factor: Tensor | float = constants[0]
        return kernels * factor

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        (kernels,) = ctx.saved_tensors
        factor, slope, left, right = ctx.constants
        dtype = kernels.dtype
        entries = kernels
        if dtype != left.dtype or cotangent.dtype != dtype:
            entries, cotangent = kernels.to(left.dtype), cotangent.to(left.dtype)
        inner = torch.dot(cotangent.reshape(-1), entries.reshape(-1))
        rows = cotangent if cotangent.ndim == 2 else cotangent.reshape(left.shape[0], -1)
        number = _number(inner) if isinstance(factor, float) else None
        if number is not None:
            gradient = torch.addmm(rows, left, right, beta=factor, alpha=slope * number)
        else:
            gradient = torch.addmm(rows * factor, left * (slope * inner), right)
        if kernels.ndim != 2:
            gradient = gradient.view(kernels.shape)
        if dtype != gradient.dtype:
            gradient = gradient.to(dtype)
        return _guarded_if_needed(gradient, kernels), None


def _number(x: Tensor) -> float | None:
    """The number in a backward pass; None with ``create_graph=True``, and for several gradients at once."""
    if torch.is_grad_enabled():
        return None
    try:
        return float(x)
    except RuntimeError:  # vmap's refusal
        return None


class _FirstOrderFunction(Function):
    """Identity on kernels; differentiating twice raises a `SecondDerivativeError`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(kernels: Tensor) -> Tensor:
        return kernels.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # The guard depends on the kernels, so that a second derivative with respect to them passes through it.
        guard: Any = _guard_operator if torch.compiler.is_compiling() else _guarded
        guarded: Tensor = guard(gradient, ctx.saved_tensors[0])
        return guarded


class _GuardFunction(Function):
    """Identity on a gradient; differentiating it with respect to the kernels raises a `SecondDerivativeError`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, _kernels: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(_ctx: Any, _inputs: tuple[Any, ...], _output: Tensor) -> None:
        pass

    @staticmethod
    def backward(_ctx: Any, *_grads: Any) -> Any:
        raise SecondDerivativeError(_REFUSAL)


_guarded: Callable[[Tensor, Tensor], Tensor] = _GuardFunction.apply


def _guarded_if_needed(gradient: Tensor, kernels: Tensor) -> Tensor:
    """Guard a gradient in a backward with ``create_graph=True``; others cannot be differentiated."""
    return _guarded(gradient, kernels) if torch.is_grad_enabled() else gradient


with_pullback: Callable[..., Tensor] = _WithPullback.apply
"""Called with (kernels, value, key, *residuals): the value, with the program's pullback as derivative."""
with_gradient: Callable[[Tensor, Tensor, Tensor], Tensor] = _WithGradient.apply
"""Called with (kernels (n, *shape), values (n,), gradients (n, *shape)): the values, with these derivatives."""
_scaled: Callable[[Tensor, Tensor | float, Tensor | float, Tensor], Tensor] = _Scaled.apply
_scaled_by_factors: Callable[..., Tensor] = _ScaledByFactors.apply
without_derivative: Callable[[Tensor, Tensor, str], Tensor] = _WithoutDerivative.apply
"""Called with (value, x, reason): the value, whose derivative with respect to ``x`` raises an error with the reason."""


def scaled(kernels: Tensor, factor: Tensor | float, slope: Tensor | float, gradient: Tensor) -> Tensor:
    """Return kernels times a factor, see `_Scaled`."""
    refuse_forward_mode(kernels)
    return _scaled(kernels, factor, slope, gradient)


def scaled_by_factors(
    kernels: Tensor, factor: Tensor | float, slope: Tensor | float, left: Tensor, right: Tensor
) -> Tensor:
    """Return kernels times a factor, see `_ScaledByFactors`."""
    refuse_forward_mode(kernels)
    return _scaled_by_factors(kernels, (factor, slope, left, right))


@torch.library.custom_op("specnorm::guard", mutates_args=())
def _guard_operator(gradient: Tensor, _kernels: Tensor) -> Tensor:
    """`_GuardFunction` as a custom operator, for compiled backwards, in which Dynamo would drop a Function."""
    return gradient.clone()


@_guard_operator.register_fake
def _guard_operator_fake(gradient: Tensor, _kernels: Tensor) -> Tensor:
    return torch.empty_like(gradient)


@_guard_operator.register_vmap
def _guard_operator_vmap(
    _info: Any,
    in_dims: tuple[int | None, ...],
    gradient: Tensor,
    kernels: Tensor,
) -> tuple[Tensor, int | None]:
    return _guard_operator(gradient, kernels), in_dims[0]


_guard_operator.register_autograd(_GuardFunction.backward)


def identity_operator(x: Tensor) -> Tensor:
    """Copy a tensor by a custom operator, which a compiler runs as it stands: it cannot compute the copy again."""
    copy: Tensor = _guard_operator(x, x)
    return copy


@torch.library.custom_op("specnorm::first_order", mutates_args=())
def _first_order_operator(kernels: Tensor) -> Tensor:
    """`_FirstOrderFunction` for compilers."""
    return kernels.clone()


@_first_order_operator.register_fake
def _first_order_operator_fake(kernels: Tensor) -> Tensor:
    return torch.empty_like(kernels)


@_first_order_operator.register_vmap
def _first_order_operator_vmap(_info: Any, in_dims: tuple[int, ...], kernels: Tensor) -> tuple[Tensor, int]:
    return _first_order_operator(kernels), in_dims[0]


def _save_kernels(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _FirstOrderFunction.setup_context(ctx, inputs, output)


def _first_order_operator_backward(ctx: Any, gradient: Tensor) -> Tensor:
    guarded_gradient: Tensor = _guard_operator(gradient, ctx.saved_tensors[0])
    return guarded_gradient


_first_order_operator.register_autograd(_first_order_operator_backward, setup_context=_save_kernels)
