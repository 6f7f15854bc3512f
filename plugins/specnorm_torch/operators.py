"""The custom operators: a program as one opaque node of a graph, told by its key, with its shapes and its batches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from specnorm.errors import MethodError
from specnorm.plugin import Ran, keep, program
from specnorm_torch.arrays import ARRAYS, SHAPES, TorchArrays

if TYPE_CHECKING:
    from specnorm.plugin import Program, SteppedProgram


def run(
    kernels: Tensor,
    key: str,
    need: str,
    backend: TorchArrays = ARRAYS,
) -> tuple[list[Tensor], Ran]:
    """A program for kernels (*batch, *shape): its value, its stats and what ``need`` asks for; and all it computed."""
    plan = program(key)
    ran = plan.forward(kernels, backend=backend, differentiated=need != "value")
    found = [ran.value, *ran.stats]
    if need == "residuals":
        found += ran.residuals
    if need == "jacobian":
        found.append(_jacobian(plan, ran, backend))
    # An operator may not return its input, a view of it, or one tensor twice; and where NumPy computes, strides are
    # other ones than those that the fake run foretells.
    return [x.clone(memory_format=torch.contiguous_format) for x in found], ran


def _jacobian(plan: Program, ran: Ran, backend: TorchArrays) -> Tensor:
    """Derivative of each value with respect to its kernel, shape (*batch, *value_shape, *shape), in the result's dtype.

    Raises
    ------
    MethodError
        If it would need more than 1 GiB.
    """
    value: Tensor = ran.value
    given: dict[str, Any] = {"dtype": plan.result_dtype, "backend": backend}
    if not plan.value_shape:
        found: Tensor = plan.pullback(ran.residuals, torch.ones_like(value), **given)
        return found
    (count,) = plan.value_shape
    if 8 * value.numel() * math.prod(plan.shape) > 2**30:
        raise MethodError(
            f"the gradients of {count} values of a kernel of shape {plan.shape} need more than 1 GiB under "
            "a compiler. Ask for fewer (k=...), or call this function outside the compiled region."
        )
    eye = torch.eye(count, dtype=value.dtype, device=value.device)
    rows = [plan.pullback(ran.residuals, eye[j].expand(value.shape), **given) for j in range(count)]
    return torch.stack(rows, dim=value.ndim - 1)


def evaluated(kernels: Tensor, key: str, need: str) -> list[Tensor]:
    """The arrays of `run`."""
    return run(kernels, key, need)[0]


evaluate = torch.library.custom_op("specnorm::evaluate", evaluated, mutates_args=())
"""That as an operator, whose call takes a tenth of a millisecond."""


@evaluate.register_fake
def _evaluate_fake(kernels: Tensor, key: str, need: str) -> list[Tensor]:
    """Shapes and dtypes, by running the program once with its loops cut to a single round."""
    keep(key)  # the graph that is traced here carries the key alone
    return [torch.empty_like(x) for x in run(kernels, key, need, SHAPES)[0]]


@evaluate.register_vmap
def _evaluate_vmap(
    _info: Any,
    in_dims: tuple[int, ...],
    kernels: Tensor,
    key: str,
    need: str,
) -> tuple[list[Tensor], list[int]]:
    """Batch through the operator's own leading axes; residuals have them flattened into one."""
    kernels = kernels.movedim(in_dims[0], 0)
    found = evaluate(kernels, key, need)
    if need == "residuals":
        plain = 1 + len(program(key).method.stats)
        found[plain:] = [x.reshape(kernels.shape[0], -1, *x.shape[1:]) for x in found[plain:]]
    return found, [0] * len(found)


@torch.library.custom_op("specnorm::step", mutates_args=())
def step(kernels: Tensor, state: list[Tensor], key: str, sweeps: int) -> list[Tensor]:
    """Value, gradient and next state of a program for kernels (*batch, *shape)."""
    plan = cast("SteppedProgram", program(key))
    value, gradient, after = plan.step(kernels, tuple(state), sweeps=sweeps, backend=ARRAYS)
    # An operator may not return an input or a view of one: without sweeps the state stays as it is.
    return [value.clone(), gradient.clone(), *(x.clone() for x in after)]


@step.register_fake
def _step_fake(kernels: Tensor, state: list[Tensor], key: str, _sweeps: int) -> list[Tensor]:
    plan = keep(key)
    dtype = getattr(torch, plan.result_dtype)
    value = kernels.new_empty(kernels.shape[: kernels.ndim - len(plan.shape)], dtype=dtype)
    return [value, kernels.new_empty(kernels.shape, dtype=dtype), *(torch.empty_like(x) for x in state)]


@step.register_vmap
def _step_vmap(
    info: Any,
    in_dims: tuple[Any, ...],
    kernels: Tensor,
    state: list[Tensor],
    key: str,
    sweeps: int,
) -> tuple[list[Tensor], list[int]]:
    """Batch through the operator's own leading axes; a state that all kernels share is repeated."""

    def batched(x: Tensor, axis: int | None) -> Tensor:
        return x.expand(info.batch_size, *x.shape) if axis is None else x.movedim(axis, 0)

    moved = [batched(x, axis) for x, axis in zip(state, in_dims[1], strict=True)]
    found = step(batched(kernels, in_dims[0]), moved, key, sweeps)
    return found, [0] * len(found)
