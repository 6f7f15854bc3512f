"""Training steps of a model's equal layers, taken in one stack: for narrow layers the calls take most of the time.

The first layer that a forward pass uses also takes the steps of the others, before these are used. Such a *precomputed*
step is used only if the layer's kernel and state are then equal, entry by entry, to the input of the step. Otherwise
the layer takes its step anew.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from specnorm.plugin import SteppedProgram
from specnorm_torch.backend import BACKEND

_MOST_ENTRIES = 2**17
"""Largest number of entries of a kernel whose step is taken in a stack: 3x3 taps of 120 channels. Wider layers take as
long in a stack as alone (docs/benchmarks/constraint.md, "Equal layers")."""
_MOST_MEMBERS = 8
"""Largest number of layers in a stack. In a stack of 12, a layer's step takes the same time as in one of 8. The
precomputed steps of a stack keep the memory of at most eight times two kernels and two states."""
_LARGEST_CREDIT = 8
"""Largest credit of a layer, see `Record`; also the credit at the start."""
_COST_OF_A_DROP = 4
"""Credit that a layer loses when a precomputed step is dropped. Each use of a step adds 1."""
_PAUSE = 32
"""Number of uses for which no step of a layer is precomputed once its credit is used up."""


class Step(NamedTuple):
    """A training step of one layer.

    Parameters
    ----------
    value : Tensor, shape ()
    gradient : Tensor
        Derivative of the value, in the shape of the kernel.
    state : tuple of Tensor
        The state after the step.
    """

    value: Tensor
    gradient: Tensor
    state: tuple[Tensor, ...]


class StepInput(NamedTuple):
    """The kernel, the state and the number of sweeps from which a step is computed.

    Parameters
    ----------
    kernel : Tensor
    state : tuple of Tensor
        The state before the step.
    sweeps : int
        Number of iterations in the step.
    """

    kernel: Tensor
    state: tuple[Tensor, ...]
    sweeps: int

    def equals(self, other: StepInput) -> bool:
        """Return whether both have the same sweeps, and kernels and states that are equal entry by entry."""
        pairs = zip((self.kernel, *self.state), (other.kernel, *other.state), strict=True)
        return self.sweeps == other.sweeps and all(_is_equal(x, y) for x, y in pairs)


def _is_equal(x: Tensor, y: Tensor) -> bool:
    return _has_type_of(x, y) and torch.equal(x, y)


def _has_type_of(x: Tensor, y: Tensor) -> bool:
    """Return whether shapes, dtypes and devices are equal."""
    return x.shape == y.shape and x.dtype == y.dtype and x.device == y.device


@dataclass(frozen=True)
class PrecomputedStep:
    """A step that was taken before its layer was used, with a copy of its input."""

    input: StepInput
    step: Step


@dataclass
class Record:
    """A layer's precomputed step, if there is one, and its past uses, which decide whether the next is precomputed.

    Parameters
    ----------
    version : int
        Version of the weight at the last use.
    uses : int
        Number of uses of this version.
    credit : int
        Steps of the layer are precomputed only if this is positive. It grows with each use, and falls with each
        precomputed step that is dropped.
    precomputed : PrecomputedStep, optional
    """

    version: int = -1
    uses: int = 0
    credit: int = _LARGEST_CREDIT
    precomputed: PrecomputedStep | None = None

    def uses_of(self, version: int) -> int:
        """Return the number of uses of a version of the weight."""
        return self.uses if version == self.version else 0

    def add_use(self, version: int) -> None:
        """Count a use of a version of the weight."""
        self.uses = self.uses_of(version) + 1
        self.version = version
        self.credit = min(self.credit + 1, _LARGEST_CREDIT)

    def add_drop(self) -> None:
        """Count a precomputed step that was dropped, since its input was no longer the layer's."""
        self.credit -= _COST_OF_A_DROP
        if self.credit <= 0:
            self.credit = -_PAUSE


class Peer(Protocol):
    """The part of a layer's constraint that `Peers` uses."""

    record: Record

    def next_input(self) -> tuple[StepInput, int] | None:
        """Return the input of the next step and the version of the weight; None if the weight is not known yet."""
        ...


class Peers:
    """The constraints of layers with kernels of one shape, one geometry and one method, by weak references.

    A copied or unpickled `Peers` has no members at first: the copies of the members join it.
    """

    def __init__(self) -> None:
        self._members: list[weakref.ref[Peer]] = []

    def __reduce__(self) -> tuple[type[Peers], tuple[()]]:
        return Peers, ()

    def join(self, member: Peer) -> None:
        """Add a member, and remove those that were garbage-collected."""
        self._members = [x for x in self._members if x() is not None]
        self._members.append(weakref.ref(member))

    def step(self, member: Peer, step_input: StepInput, version: int, program: SteppedProgram) -> Step:
        """Return the step of a member that is used: the precomputed one, or a new one, taken together with others.

        Parameters
        ----------
        version : int
            Version of the member's weight.
        program : SteppedProgram
            The program for one kernel.
        """
        record = member.record
        precomputed, record.precomputed = record.precomputed, None
        uses_before = record.uses_of(version)
        if precomputed is not None and precomputed.input.equals(step_input):
            record.add_use(version)
            return precomputed.step
        if precomputed is not None:
            record.add_drop()
        others: list[tuple[Peer, StepInput]] = []
        if record.credit > 0:
            others = self._others(member, step_input, uses_before)
        record.add_use(version)
        current, *precomputed_steps = _take_steps([step_input, *(x for _, x in others)], program)
        for (other, _), precomputed_step in zip(others, precomputed_steps, strict=True):
            other.record.precomputed = precomputed_step
        return current.step

    def _others(self, member: Peer, step_input: StepInput, uses: int) -> list[tuple[Peer, StepInput]]:
        """Return the other members whose steps are to be precomputed, with the inputs of these steps.

        They have no precomputed step yet, and the current version of their weight was used at most ``uses`` times. In a
        model that uses its layers in turn, these are the layers that come after ``member``.
        """
        if step_input.kernel.numel() > _MOST_ENTRIES or step_input.kernel.ndim > 4:
            return []
        others: list[tuple[Peer, StepInput]] = []
        for reference in self._members:
            other = reference()
            if other is None or other is member or other.record.precomputed is not None or other.record.credit <= 0:
                continue
            next_input = other.next_input()
            if next_input is None:
                continue
            other_input, version = next_input
            if other.record.uses_of(version) > uses or not _can_be_stacked(other_input, step_input):
                continue
            others.append((other, other_input))
            if len(others) == _MOST_MEMBERS - 1:
                break
        return others


def _can_be_stacked(x: StepInput, y: StepInput) -> bool:
    """Return whether the steps from two inputs can be taken in one stack."""
    if x.sweeps != y.sweeps or BACKEND.is_compiled_or_transformed(x.kernel, *x.state):
        return False
    pairs = zip((x.kernel, *x.state), (y.kernel, *y.state), strict=True)
    return all(_has_type_of(a, b) for a, b in pairs)


def _take_steps(inputs: list[StepInput], program: SteppedProgram) -> list[PrecomputedStep]:
    """Take the steps of layers with equal programs in one stack, and return each with a copy of its input.

    A single step is taken without a stack, and its input is not copied.
    """
    sweeps = inputs[0].sweeps
    if len(inputs) == 1:
        (single,) = inputs
        step = Step(*program.step(single.kernel, single.state, sweeps=sweeps, backend=BACKEND))
        return [PrecomputedStep(single, step)]
    # Tensors made in inference mode cannot be saved for a later backward pass, so that mode is switched off.
    with torch.inference_mode(False), torch.no_grad():
        kernels = torch.stack([x.kernel for x in inputs])
        states = tuple(torch.stack(x) for x in zip(*(x.state for x in inputs), strict=True))
        value, gradient, new_states = program.step(kernels, states, sweeps=sweeps, backend=BACKEND)
        steps = []
        for j in range(len(inputs)):
            copied_input = StepInput(kernels[j], tuple(x[j] for x in states), sweeps)
            step = Step(value[j], gradient[j], tuple(x[j] for x in new_states))
            steps.append(PrecomputedStep(copied_input, step))
        return steps
