"""Training steps of many layers: layers alike in one stack, and on a CUDA device all stacks in one recorded call."""

from __future__ import annotations

import functools
import math
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from specnorm.plugin import Stack, SteppedProgram, stacks
from specnorm_torch.backend import BACKEND

_MOST_ENTRIES = 2**18
"""Largest number of entries of the kernels in a stack on the CPU. Larger kernels are as fast alone, and in less
memory."""


@dataclass(frozen=True)
class Scaling:
    """How a kernel is scaled to a bound.

    Parameters
    ----------
    bound : float
        The norm that the scaled kernel has.
    eps : float
        A kernel whose norm is at most ``eps`` is left as it is.
    only_shrink : bool
        Whether a kernel whose norm is below the bound is left as it is.
    """

    bound: float
    eps: float
    only_shrink: bool

    def factor(self, value: Any, *, where: Callable[[Any, Any, Any], Any] = torch.where) -> tuple[Any, Any]:
        """Return the factors for kernels with these norms, and the derivatives of the factors by the norms.

        Both are tensors as the norms are; with ``where=_one_of``, numbers.
        """
        # A kernel that is nearly zero would be scaled up from rounding errors.
        is_tiny = value <= self.eps
        is_left = is_tiny | (value <= self.bound) if self.only_shrink else is_tiny
        divisor = where(is_tiny, 1.0, value)
        factor = self.bound / divisor
        return where(is_left, 1.0, factor), where(is_left, 0.0, -factor / divisor)


def _one_of(condition: bool, x: float, y: float) -> float:
    """`torch.where` of numbers."""
    return x if condition else y


class StepInput(NamedTuple):
    """What a training step of a layer is computed from.

    Parameters
    ----------
    program : SteppedProgram
    scaling : Scaling
    sweeps : int
        Number of iterations in the step.
    kernel : Tensor
    state : tuple of Tensor
        The state before the step.
    """

    program: SteppedProgram
    scaling: Scaling
    sweeps: int
    kernel: Tensor
    state: tuple[Tensor, ...]

    def kind(self) -> tuple[Hashable, ...]:
        """Return what is equal for layers of one stack, besides what their programs have in common."""
        dtypes = tuple((x.dtype, x.device) for x in (self.kernel, *self.state))
        return self.scaling, self.sweeps, dtypes


class Step(NamedTuple):
    """A training step of a layer.

    Parameters
    ----------
    factor, slope : Tensor or float
        Factor for the kernel, and the derivative of the factor with respect to the norm; numbers on the CPU, which are
        faster there than 0-d tensors.
    gradient : Tensor
        Derivative of the norm, in the shape of the kernel.
    state : tuple of Tensor
        The state after the step.
    """

    factor: Tensor | float
    slope: Tensor | float
    gradient: Tensor
    state: tuple[Tensor, ...]


@torch.no_grad()
def take_steps(inputs: Sequence[StepInput], owner: nn.Module) -> list[Step]:
    """Take a step of each layer, and move the states in place.

    Parameters
    ----------
    inputs : sequence of StepInput
    owner : Module
        Its recorded call is used on a CUDA device.
    """
    # Tensors made in inference mode cannot be saved for a later backward pass, so that mode is switched off.
    with torch.inference_mode(False):
        if not inputs:
            return []
        recordable = [x for x in inputs if _is_recordable(x)]
        recorded = iter(_recording_of(owner)(recordable) if recordable else ())
        plain = iter(take_plain_steps([x for x in inputs if not _is_recordable(x)]))
        steps = [next(recorded) if _is_recordable(x) else next(plain) for x in inputs]
        torch._foreach_copy_([x for old in inputs for x in old.state], [x for new in steps for x in new.state])
        return steps


@torch.no_grad()
def take_plain_steps(inputs: Sequence[StepInput]) -> list[Step]:
    """Take the steps, those that cost little more together in one stack. Nothing is recorded, and no state moves."""
    steps: dict[int, Step] = {}
    for stack in _stacks(inputs):
        taken = _steps_of_stack(stack, [inputs[j] for j in stack.members])
        for place, step in zip(stack.members, taken, strict=True):
            steps[place] = step
    return [steps[j] for j in range(len(inputs))]


def _steps_of_stack(stack: Stack, inputs: Sequence[StepInput]) -> Iterator[Step]:
    """Yield the steps of the members of a stack, computed in NumPy if that is faster and can view the tensors."""
    scaling, sweeps = inputs[0].scaling, inputs[0].sweeps
    in_numpy = stack.program.needs.small_products and BACKEND.numpy_view(inputs[0].kernel)
    backend = BACKEND.host() if in_numpy else BACKEND
    computed_from = BACKEND.to_numpy if in_numpy else _as_it_is
    kernels, states = stack.joined(
        [x.program for x in inputs],
        [computed_from(x.kernel) for x in inputs],
        [[computed_from(y) for y in x.state] for x in inputs],
        backend=backend,
    )
    value, gradients, after = stack.program.step(kernels, states, sweeps=sweeps, backend=backend)
    factors: Any
    if inputs[0].kernel.device.type == "cpu":
        factors = (scaling.factor(x, where=_one_of) for x in value.tolist())
    else:
        factors = zip(*scaling.factor(value), strict=True)
    for j, (x, (factor, slope)) in enumerate(zip(inputs, factors, strict=True)):
        gradient = stack.out_of(x.program, gradients[j], backend=backend)
        state = stack.state_out_of(x.program, [new[j] for new in after])
        if in_numpy:
            gradient = BACKEND.share_numpy(gradient, x.kernel)
            state = tuple(BACKEND.share_numpy(new, old).to(old.dtype) for new, old in zip(state, x.state, strict=True))
        yield Step(factor, slope, gradient, state)


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _stacks(inputs: Sequence[StepInput]) -> Iterator[Stack]:
    """Yield the stacks, whose members are the places of the inputs."""
    alike: dict[Hashable, list[int]] = {}
    for j, x in enumerate(inputs):
        alike.setdefault(x.kind(), []).append(j)
    for places in alike.values():
        asynchronous = BACKEND.asynchronous(inputs[places[0]].kernel)
        for stack in stacks([inputs[j].program for j in places], asynchronous=asynchronous):
            members = [places[j] for j in stack.members]
            most = len(members) if asynchronous else max(1, _MOST_ENTRIES // math.prod(stack.program.shape))
            for first in range(0, len(members), most):
                yield Stack(stack.program, tuple(members[first : first + most]))


# -- weights that are drawn again --------------------------------------------------------------------------------------
_SIGNS = 4
"""Number of random signs by which each entry is multiplied. A sum over a row is then as long as the row, up to 35 %."""
_SMALL_CHANGE = 0.25
"""Bounds of a change below this are not made sharper: no such change is a jump."""
_TINY = 1e-30
"""Added to lengths that are divided by."""


class Sketch(NamedTuple):
    """A few random sums of each row and column of a kernel, whose lengths are about those of rows and columns.

    Parameters
    ----------
    rows : array, shape (cout, 4)
    columns : array, shape (entries of a row, 4)
    """

    rows: np.ndarray
    columns: np.ndarray

    def change_to(self, new: Sketch) -> float:
        """Return the largest change of a row or column, as a part of the longest one; of a small one an upper bound."""
        with np.errstate(all="ignore"):
            return max(_largest_change(x, y) for x, y in zip(self, new, strict=True))


def sketch_of(kernel: np.ndarray) -> Sketch:
    """Return the sketch of a kernel (cout, ...)."""
    rows = kernel.reshape(len(kernel), -1)
    with np.errstate(all="ignore"):
        return Sketch(rows @ _signs(rows.shape[1]), rows.T @ _signs(rows.shape[0]))


@functools.lru_cache(maxsize=256)
def _signs(count: int) -> np.ndarray:
    signs = np.random.RandomState(0).randint(0, 2, (count, _SIGNS))
    return ((2 * signs - 1) / math.sqrt(_SIGNS)).astype(np.float32)


def _largest_change(before: np.ndarray, after: np.ndarray) -> float:
    """Return the largest change of a row, as a part of the longest one; of a small one an upper bound, by all rows."""
    change = after - before
    # The longest row is no shorter than the root of the mean square.
    most = math.sqrt(len(after) * float(np.vdot(change, change)) / (float(np.vdot(after, after)) + _TINY))
    return most if most < _SMALL_CHANGE else _largest(change) / (_largest(after) + _TINY)


def _largest(sums: np.ndarray) -> float:
    return math.sqrt(float(np.einsum("ij,ij->i", sums, sums).max()))


# -- on a CUDA device --------------------------------------------------------------------------------------------------
_Function = Callable[[Sequence[StepInput]], list[Step]]
_RECORDINGS: weakref.WeakKeyDictionary[nn.Module, Recorded] = weakref.WeakKeyDictionary()
"""The recorded call of each model, or of each constraint that is used outside of a model's call."""


def _is_recordable(x: StepInput) -> bool:
    # Kernels with 3 spatial axes are not recorded. Their Newton step needs eigenvalues, for which the host waits.
    return x.kernel.is_cuda and x.kernel.ndim <= 4


def _recording_of(owner: nn.Module) -> Recorded:
    return _RECORDINGS.setdefault(owner, Recorded(take_plain_steps))


class _Joined(NamedTuple):
    """Steps whose factors, slopes and gradients are in one tensor, so that one call copies them.

    Parameters
    ----------
    steps : list of Step
    entries : Tensor
        All factors, all slopes, and the gradients.
    """

    steps: list[Step]
    entries: Tensor

    @classmethod
    def of(cls, steps: list[Step]) -> _Joined:
        numbers: Any = [x.factor for x in steps], [x.slope for x in steps]
        return cls(steps, torch.cat([*map(torch.stack, numbers), *(x.gradient.reshape(-1) for x in steps)]))

    def copied(self) -> list[Step]:
        """Return the steps with copies of these tensors."""
        count = len(self.steps)
        sizes = [count, count, *(x.gradient.numel() for x in self.steps)]
        factors, slopes, *gradients = torch.split(self.entries.clone(), sizes)
        parts = zip(factors.unbind(), slopes.unbind(), gradients, self.steps, strict=True)
        return [Step(factor, slope, x.view(old.gradient.shape), old.state) for factor, slope, x, old in parts]


class Recorded:
    """Steps on a CUDA device, replayed as one CUDA graph: the same CUDA kernels, without the time to launch each.

    Inputs of other kinds than the recorded ones are recorded anew. If the steps cannot be recorded, they are taken
    directly, and a warning says so once.

    Parameters
    ----------
    function : callable
        Takes the steps. It reads no value on the host.
    """

    def __init__(self, function: _Function) -> None:
        self._function = function
        self._graph: torch.cuda.CUDAGraph | None = None
        self._kinds: list[Hashable] = []
        self._inputs: list[StepInput] = []
        self._outputs: _Joined | None = None
        self._is_recordable = True

    def __call__(self, inputs: Sequence[StepInput]) -> list[Step]:
        """Take the steps."""
        # If the caller is recording, the CUDA kernels of a direct call become part of that recording.
        if torch.cuda.is_current_stream_capturing() or not self._is_recordable:
            return self._function(inputs)
        with torch.cuda.device(inputs[0].kernel.device):
            kinds: list[Hashable] = [(x.program.key, x.kind()) for x in inputs]
            if kinds != self._kinds:
                if not self._record(inputs):
                    return self._function(inputs)
                self._kinds = kinds
            return self._replay(inputs)

    def _record(self, inputs: Sequence[StepInput]) -> bool:
        """Record one call, after another to warm up; return whether that worked. A recorded call computes nothing."""
        stream = torch.cuda.current_stream()
        self._graph, self._outputs, self._kinds = None, None, []
        self._inputs = [copied(x) for x in inputs]
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(stream)
        # Caches are filled, and libraries set up their work space for a stream, in the first call there.
        with torch.cuda.stream(aside):
            self._function(self._inputs)
        stream.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may use the device meanwhile: data loaders do.
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                self._outputs = _Joined.of(self._function(self._inputs))
        except RuntimeError as error:
            torch.cuda.set_stream(stream)  # which a recording that fails does not do
            # After one, torch (2.11) draws no random numbers on the device until a recording has worked.
            other: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=other, capture_error_mode="thread_local"):
                torch.zeros((), device=inputs[0].kernel.device)
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self._is_recordable = False
            warnings.warn(
                "the steps of the spectral norms could not be recorded as a CUDA graph "
                f"({str(error).splitlines()[0]}): their CUDA kernels are launched one by one, which takes some ten "
                "times as long.",
                stacklevel=2,
            )
            return False
        self._graph = graph
        return True

    def _replay(self, inputs: Sequence[StepInput]) -> list[Step]:
        assert self._graph is not None
        assert self._outputs is not None
        torch._foreach_copy_(_tensors(self._inputs), _tensors(inputs))
        self._graph.replay()
        # The next replay overwrites the outputs, perhaps before a gradient is asked for. The caller copies the states.
        return self._outputs.copied()


def copied(x: StepInput) -> StepInput:
    """Return the same with copies of the tensors."""
    return x._replace(kernel=x.kernel.clone(), state=tuple(y.clone() for y in x.state))


def _tensors(inputs: Sequence[StepInput]) -> list[Tensor]:
    return [y for x in inputs for y in (x.kernel, *x.state)]
