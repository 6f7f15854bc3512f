"""Training steps of many layers: layers alike in one stack, and on a CUDA device all stacks in one recorded call."""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from specnorm_torch.backend import BACKEND
from torch import Tensor, nn

from specnorm._internal import Stack, follow_all, program, stacks
from specnorm.plugin import SteppedProgram
from specnorm_train.torch.private import foreach

_HOST = BACKEND.host()
_NUMPY_DTYPES = torch.float32, torch.float64
_MOST_ENTRIES = 2**18
"""Largest number of entries of the kernels in a stack on the CPU. Larger kernels are as fast alone, and in less
memory."""


class Scaling(NamedTuple):
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

    def factor(self, value: Any) -> tuple[Any, Any]:
        """Return the factors for kernels with these norms, a tensor or a number, and their derivatives by them."""
        # A kernel that is nearly zero would be scaled up from rounding errors.
        is_left = value <= (max(self.eps, self.bound) if self.only_shrink else self.eps)
        if isinstance(value, float):
            return (1.0, 0.0) if is_left else (self.bound / value, -self.bound / value / value)
        # A number in `torch.where` would be one more operation.
        divisor = value.masked_fill(is_left, math.inf)
        factor = self.bound / divisor
        return factor.masked_fill(is_left, 1.0), -factor / divisor


class StepInput(NamedTuple):
    """What a training step of a layer is computed from.

    Parameters
    ----------
    program : SteppedProgram
    scaling : Scaling
    sweeps : int or None
        Number of iterations in the step; None: as many as are due.
    kernel : Tensor
    state : tuple of Tensor
        The state before the step.
    """

    program: SteppedProgram
    scaling: Scaling
    sweeps: int | None
    kernel: Tensor
    state: tuple[Tensor, ...]

    def kind(self) -> tuple[Hashable, ...]:
        """Return what is equal for layers of one stack, besides what their programs have in common."""
        dtype_of_state = self.state[0].dtype if self.state else None
        return self.scaling, self.sweeps, self.kernel.dtype, self.kernel.device, dtype_of_state


class Factors(NamedTuple):
    """A gradient of low rank, ``left @ right``, as a matrix whose rows are the kernel's first axis.

    Parameters
    ----------
    left : Tensor, shape (rows, r)
    right : Tensor, shape (r, entries of a row)
    """

    left: Tensor
    right: Tensor


class Step(NamedTuple):
    """A training step of a layer.

    Parameters
    ----------
    factor, slope : Tensor or float
        Factor for the kernel, and the derivative of the factor with respect to the norm; numbers on the CPU, which are
        faster there than 0-d tensors.
    gradient : Tensor or Factors
        Derivative of the norm, in the shape of the kernel.
    state : tuple of Tensor
        The state after the step; empty if it stays.
    image : array, optional
        Product of a kernel on the CPU with ``gradient.right``, by which a change through ``.data`` is seen.
    """

    factor: Tensor | float
    slope: Tensor | float
    gradient: Tensor | Factors
    state: tuple[Tensor, ...]
    image: np.ndarray | None = None


def without_gradients() -> contextlib.AbstractContextManager[object]:
    """Context manager in which what is computed from constants has no graph.

    Tensors made in inference mode cannot be saved for a later backward pass, so that mode is switched off.
    """
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else torch.no_grad()


def take_steps(inputs: Sequence[StepInput], owner: nn.Module) -> list[Step]:
    """Take a step of each layer. The states of the inputs do not move.

    Parameters
    ----------
    inputs : sequence of StepInput
    owner : Module
        Its recorded calls are used on a CUDA device.
    """
    with without_gradients():
        recordable = list(filter(_is_recordable, inputs))
        if not recordable:
            return take_plain_steps(inputs)
        recorded = iter(_recording_of(owner)(recordable))
        plain = iter(take_plain_steps([x for x in inputs if not _is_recordable(x)]))
        return [next(recorded) if _is_recordable(x) else next(plain) for x in inputs]


def take_plain_steps(inputs: Sequence[StepInput]) -> list[Step]:
    """Take the steps, those that cost little more together in one stack. Nothing is recorded, and no state moves."""
    with np.errstate(all="ignore"):
        steps: dict[int, Step] = {}
        following: dict[bool, list[_Joint]] = {}
        for stack in _stacks(inputs):
            joint = _Joint(stack, [inputs[j] for j in stack.members])
            if stack.program.stepped.follows:
                following.setdefault(joint.in_numpy, []).append(joint)
            else:
                steps.update(zip(stack.members, joint.steps_by_gradients(), strict=True))
        for in_numpy, joints in following.items():
            programs, sweeps = [x.stack.program for x in joints], [x.inputs[0].sweeps for x in joints]
            kernels, states = zip(*(x.joined() for x in joints), strict=True)
            found = follow_all(programs, kernels, states, sweeps, backend=_HOST if in_numpy else BACKEND)
            places = [j for x in joints for j in x.stack.members]
            made = [step for joint, x in zip(joints, found, strict=True) for step in joint.steps_by_factors(x)]
            # Tensors of all of them at last: calls of torch between NumPy's take twice the time.
            steps.update(zip(places, map(_of_tensors, made) if in_numpy else made, strict=True))
    return [steps[j] for j in range(len(inputs))]


class _Joint:
    """Layers that take a step together, in NumPy if that is faster and can view the tensors."""

    def __init__(self, stack: Stack, inputs: Sequence[StepInput]) -> None:
        self.stack, self.inputs = stack, inputs
        self.in_numpy = stack.program.needs.small_products and BACKEND.numpy_view(inputs[0].kernel)
        self._backend: Any = _HOST if self.in_numpy else BACKEND

    def steps_by_factors(self, followed: Any) -> Iterator[Step]:
        """Yield the steps of the layers that were followed."""
        scaled: Any = [None for _ in self.inputs] if self.in_numpy else self._factors(followed.value)
        for j, (x, factor_and_slope) in enumerate(zip(self.inputs, scaled, strict=True)):
            factors = followed.left[j], followed.right[j]
            left, right = self.stack.factors_out_of(x.program, *factors, backend=self._backend)
            state = self._state_of(x, j, followed.state)
            if self.in_numpy:
                yield _step_at(x, right, state)
            else:
                factor, slope = factor_and_slope
                yield Step(factor, slope, Factors(left, right), state)

    def steps_by_gradients(self) -> Iterator[Step]:
        """Yield the steps of a method that returns gradients, not their factors."""
        program, backend = self.stack.program, self._backend
        value, dense, after = program.step(*self.joined(), sweeps=self.inputs[0].sweeps, backend=backend)
        for j, (x, (factor, slope)) in enumerate(zip(self.inputs, self._factors(value), strict=True)):
            gradient = self.stack.out_of(x.program, dense[j], backend=backend)
            step = Step(factor, slope, gradient, self._state_of(x, j, after))
            yield _of_tensors(step) if self.in_numpy else step

    def joined(self) -> tuple[Any, Any]:
        """Return the kernels and the states of the layers, as stacks."""
        computed_from = _numpy_view if self.in_numpy else lambda x: x
        return self.stack.joined(
            [x.program for x in self.inputs],
            [computed_from(x.kernel) for x in self.inputs],
            [[computed_from(y) for y in x.state] for x in self.inputs],
            backend=self._backend,
        )

    def _factors(self, value: Any) -> Any:
        scaling = self.inputs[0].scaling
        if self.in_numpy or not BACKEND.asynchronous(value):
            return [scaling.factor(x) for x in value.tolist()]
        return zip(*scaling.factor(value), strict=True)

    def _state_of(self, x: StepInput, j: int, after: Sequence[Any]) -> tuple[Any, ...]:
        return self.stack.state_out_of(x.program, [new[j] for new in after])


def _step_at(x: StepInput, right: Any, state: tuple[Any, ...]) -> Step:
    """The step of a layer, in NumPy's arrays, at the right vector of a pass: its norm is the length of the product."""
    image = image_of(x.kernel, x.program, right)
    norm = _length(image)
    left: Any = (image / (norm or 1.0)).T
    return Step(*x.scaling.factor(norm), Factors(left, right), state, image)


def _of_tensors(step: Step) -> Step:
    """A step of NumPy's arrays as one of tensors."""
    made: Any = _tensor_of
    found: Any = step.gradient
    gradient = Factors(*map(made, found)) if isinstance(found, Factors) else made(found)
    return step._replace(gradient=gradient, state=tuple(map(made, step.state)))


def _length(x: np.ndarray) -> float:
    """Length of all entries, whose squares in float32 may overflow."""
    entries = x.astype(np.float64).reshape(-1)
    return math.sqrt(np.dot(entries, entries))


def image_of(kernel: Tensor, program: SteppedProgram, vectors: np.ndarray) -> np.ndarray:
    """Products (r, rows) of a kernel on the CPU with r vectors (n,), zero but for the group where they are longest."""
    rows = np.asarray(_numpy_view(kernel), vectors[0].dtype)
    rows = rows.reshape(len(rows), -1)
    image = np.empty((len(vectors), len(rows)), rows.dtype)
    # OpenBLAS takes up to a hundred times as long for one product with two vectors.
    for vector, out in zip(vectors, image, strict=True):
        np.dot(rows, vector, out)
    groups = program.spec.groups
    if groups > 1:
        by_group = image.reshape(len(vectors), groups, -1)
        longest = np.argmax(np.sum(by_group * by_group, axis=(0, 2)))
        by_group[:, np.arange(groups) != longest] = 0
    return image


def _numpy_view(x: Tensor) -> np.ndarray:
    return x.numpy() if x.dtype in _NUMPY_DTYPES else BACKEND.to_numpy(x)


def _tensor_of(x: np.ndarray) -> Tensor:
    """The tensor with the memory of an array; a copy of what torch cannot view."""
    return torch.from_numpy(x if x.flags.carray or x.flags.farray else x.copy())


def _stacks(inputs: Sequence[StepInput]) -> tuple[Stack, ...]:
    """The stacks, whose members are the places of the inputs."""
    return _stacks_of(tuple((x.program.key, BACKEND.asynchronous(x.kernel), x.kind()) for x in inputs))


@functools.lru_cache(maxsize=64)
def _stacks_of(layers: tuple[tuple[str, bool, Hashable], ...]) -> tuple[Stack, ...]:
    """`_stacks` of layers with these keys of programs, whether calls only start work, and `StepInput.kind`."""
    alike: dict[tuple[bool, Hashable, str | None], list[int]] = {}
    for j, (key, asynchronous, kind) in enumerate(layers):
        # Kernels that join others are padded with zeros, and so copied, which on the CPU would be
        # most of the work.
        is_alone = _program(key).stepped.follows and not asynchronous
        alike.setdefault((asynchronous, kind, key if is_alone else None), []).append(j)
    found = []
    for (asynchronous, _, own_key), places in alike.items():
        programs = [_program(layers[j][0]) for j in places]
        joined = (
            [Stack(programs[0], tuple(range(len(places))))] if own_key else stacks(programs, asynchronous=asynchronous)
        )
        for stack in joined:
            members = [places[j] for j in stack.members]
            most = len(members) if asynchronous else max(1, _MOST_ENTRIES // math.prod(stack.program.shape))
            found += [Stack(stack.program, tuple(members[j : j + most])) for j in range(0, len(members), most)]
    return tuple(found)


def _program(key: str) -> SteppedProgram:
    return cast(SteppedProgram, program(key))


# -- on a CUDA device --------------------------------------------------------------------------------------------------
_Function = Callable[[Sequence[StepInput]], list[Step]]
_RECORDINGS: weakref.WeakKeyDictionary[nn.Module, Recorded] = weakref.WeakKeyDictionary()
"""The recorded calls of each model, or of each constraint that is used outside of a model's call."""


def _is_recordable(x: StepInput) -> bool:
    # Kernels with 3 spatial axes are not recorded. Their Newton step needs eigenvalues, for which the host waits.
    return x.kernel.is_cuda and x.kernel.ndim <= 4 and x.sweeps in (None, 1)


def _recording_of(owner: nn.Module) -> Recorded:
    return _RECORDINGS.setdefault(owner, Recorded(take_usual_steps))


def take_usual_steps(inputs: Sequence[StepInput]) -> list[Step]:
    """Take steps whose number of iterations depends on no value."""
    return take_plain_steps([x._replace(sweeps=0 if x.program.stepped.follows else 1) for x in inputs])


def copied_steps(steps: Sequence[Step]) -> list[Step]:
    """Return the steps with copies of what weights are computed with, made in one call. Callers copy the states."""
    copies: Any = iter(foreach("mul", [x for step in steps for x in _outputs(step)], 1.0))
    found = []
    for step in steps:
        factor, slope = next(copies), next(copies)
        gradient = Factors(next(copies), next(copies)) if isinstance(step.gradient, Factors) else next(copies)
        found.append(Step(factor, slope, gradient, step.state))
    return found


def _outputs(step: Step) -> list[Any]:
    """Tensors of a step that is taken on a device, but for the state."""
    parts = step.gradient if isinstance(step.gradient, Factors) else [step.gradient]
    return [step.factor, step.slope, *parts]


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
        self._outputs: list[Step] = []
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
        self._graph, self._outputs, self._kinds = None, [], []
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
                self._outputs = self._function(self._inputs)
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
        foreach("copy_", _tensors(self._inputs), _tensors(inputs))
        self._graph.replay()
        # The next replay overwrites the outputs, perhaps before a gradient is asked for.
        return copied_steps(self._outputs)


def copied(x: StepInput) -> StepInput:
    """Return the same with copies of the tensors."""
    return x._replace(kernel=x.kernel.clone(), state=tuple(y.clone() for y in x.state))


def _tensors(inputs: Sequence[StepInput]) -> list[Tensor]:
    return [y for x in inputs for y in (x.kernel, *x.state)]
