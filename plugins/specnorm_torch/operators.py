"""Custom torch operators that run programs: each call is one node of a compiled graph, with the program's key."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from specnorm._internal import keep, program
from specnorm.errors import MethodError
from specnorm.plugin import Evaluation
from specnorm_torch.arrays import ARRAYS, SHAPES, TorchArrays

if TYPE_CHECKING:
    from specnorm.plugin import Program, SteppedProgram


def run(
    kernels: Tensor,
    key: str,
    need: str,
    backend: TorchArrays = ARRAYS,
) -> tuple[list[Tensor], Evaluation]:
    """Run a program on kernels (*batch, *shape).

    Parameters
    ----------
    key : str
        The program's key.
    need : {"value", "residuals", "jacobian"}
        What to return besides value and statistics: nothing, the residuals, or the derivative of each value.

    Returns
    -------
    outputs : list of Tensor
        The value, the statistics, and the residuals or the Jacobian.
    ran : Evaluation
    """
    stored_program = program(key)
    ran = stored_program.forward(kernels, backend=backend, differentiated=need != "value")
    outputs = [ran.value, *ran.stats]
    if need == "residuals":
        outputs += ran.residuals
    if need == "jacobian":
        outputs.append(_jacobian(stored_program, ran, backend))
    return outputs, ran


def _jacobian(stored_program: Program, ran: Evaluation, backend: TorchArrays) -> Tensor:
    """Return the derivative of each value with respect to its kernel, (*batch, *value_shape, *shape).

    Raises
    ------
    MethodError
        If it would need more than 1 GiB.
    """
    value: Tensor = ran.value

    def pullback(cotangent: Tensor) -> Tensor:
        dtype = stored_program.result_dtype
        gradient: Tensor = stored_program.pullback(ran.residuals, cotangent, dtype=dtype, backend=backend)
        return gradient

    if not stored_program.value_shape:
        return pullback(torch.ones_like(value))
    (count,) = stored_program.value_shape
    size = 8 * value.numel() * math.prod(stored_program.shape)
    if size > 2**30:
        raise MethodError(
            f"the gradients of {count} values of a kernel of shape {stored_program.shape} need more than 1 GiB under "
            "a compiler. Ask for fewer (k=...), or call this function outside the compiled region."
        )
    eye = torch.eye(count, dtype=value.dtype, device=value.device)
    rows = [pullback(row.expand(value.shape)) for row in eye]
    return torch.stack(rows, dim=value.ndim - 1)


def run_outputs(kernels: Tensor, key: str, need: str) -> list[Tensor]:
    """Run a program, and return copies of the outputs of `run`.

    An operator must not return its input, a view of it, or one tensor twice. Its strides must be those that the fake
    run inferred, which NumPy's results do not have.
    """
    outputs, _ = run(kernels, key, need)
    return [x.clone(memory_format=torch.contiguous_format) for x in outputs]


evaluate_operator = torch.library.custom_op("specnorm::evaluate", run_outputs, mutates_args=())
"""`run_outputs` as a custom operator; a call costs a tenth of a millisecond more."""


@evaluate_operator.register_fake
def _evaluate_fake(kernels: Tensor, key: str, need: str) -> list[Tensor]:
    """Infer shapes and dtypes, by running the program on fake tensors with one round of each loop."""
    # Keep the program alive: the graph that is being traced has its key only.
    keep(key)
    outputs, _ = run(kernels, key, need, SHAPES)
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in outputs]


@evaluate_operator.register_vmap
def _evaluate_vmap(
    _info: Any,
    in_dims: tuple[int, ...],
    kernels: Tensor,
    key: str,
    need: str,
) -> tuple[list[Tensor], list[int]]:
    """Run the operator on a batch, as one more leading axis.

    The residuals of a program have all leading axes flattened into one, which is split again here.
    """
    kernels = kernels.movedim(in_dims[0], 0)
    count = kernels.shape[0]
    outputs = evaluate_operator(kernels, key, need)
    if need == "residuals":
        # The value and the statistics come first.
        first_residual = 1 + len(program(key).plan.stats)
        residuals = outputs[first_residual:]
        outputs[first_residual:] = [x.reshape(count, -1, *x.shape[1:]) for x in residuals]
    return outputs, [0] * len(outputs)


@torch.library.custom_op("specnorm::step", mutates_args=())
def step(kernels: Tensor, state: list[Tensor], key: str, sweeps: int | None) -> list[Tensor]:
    """Take a training step of a program: value, gradient and new state for kernels (*batch, *shape).

    Without a number of sweeps, the operator looks at values on the host and sweeps when it is due.
    """
    stored_program = cast("SteppedProgram", program(key))
    value, gradient, new_state = stored_program.step(kernels, tuple(state), sweeps=sweeps, backend=ARRAYS)
    # Copies, since an operator must not return its input: without sweeps the new state is the given one.
    return [value.clone(), gradient.clone(), *(x.clone() for x in new_state)]


@step.register_fake
def _step_fake(kernels: Tensor, state: list[Tensor], key: str, _sweeps: int | None) -> list[Tensor]:
    stored_program = keep(key)
    dtype = getattr(torch, stored_program.result_dtype)
    batch = kernels.shape[: kernels.ndim - len(stored_program.shape)]
    value = kernels.new_empty(batch, dtype=dtype)
    gradient = kernels.new_empty(kernels.shape, dtype=dtype)
    return [value, gradient, *(torch.empty_like(x) for x in state)]


@step.register_vmap
def _step_vmap(
    info: Any,
    in_dims: tuple[Any, ...],
    kernels: Tensor,
    state: list[Tensor],
    key: str,
    sweeps: int | None,
) -> tuple[list[Tensor], list[int]]:
    """Run the operator on a batch, as one more leading axis; a state that all kernels share is repeated."""

    def batched(x: Tensor, axis: int | None) -> Tensor:
        return x.expand(info.batch_size, *x.shape) if axis is None else x.movedim(axis, 0)

    axis_of_kernels, axes_of_state, *_ = in_dims
    states = [batched(x, axis) for x, axis in zip(state, axes_of_state, strict=True)]
    outputs = step(batched(kernels, axis_of_kernels), states, key, sweeps)
    return outputs, [0] * len(outputs)
