"""Training steps of a model's equal layers, taken in one stack: a step of narrow layers is mostly calls.

The first of the layers that is used takes the steps of the others ahead of their use. A layer uses a step that was
taken ahead only if its kernel and its state are, entry by entry, those of which the step was taken.
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
"""Entries of the largest kernel whose step is taken together with others. In a stack of 8, the step of a kernel of 3x3
taps takes 0.33, 0.49, 0.62 and 0.78 of its time at 16, 32, 64 and 96 channels; from 128 on, about as long as alone."""
_MOST_MEMBERS = 8
"""Most layers of one stack. A step in a stack of 12 takes the same time. Steps that are taken ahead and not used take
at most eight times the memory of one: two kernels and two states."""
_CREDIT = 8
"""Most steps in a row whose use counts for a layer, see `Record`."""
_PRICE_OF_A_DROP = 4
"""Number of used steps that make up for a step that was taken ahead in vain."""
_PAUSE = 32
"""Number of passes in which no step is taken ahead for a layer that does not use such steps."""


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


class Start(NamedTuple):
    """What a step is taken of.

    Parameters
    ----------
    kernel : Tensor
    state : tuple of Tensor
    sweeps : int
    """

    kernel: Tensor
    state: tuple[Tensor, ...]
    sweeps: int

    def equals(self, other: Start) -> bool:
        """Whether both are equal entry by entry."""
        pairs = zip((self.kernel, *self.state), (other.kernel, *other.state), strict=True)
        return self.sweeps == other.sweeps and all(_is_equal(x, y) for x, y in pairs)


def _is_equal(x: Tensor, y: Tensor) -> bool:
    return _is_alike(x, y) and torch.equal(x, y)


def _is_alike(x: Tensor, y: Tensor) -> bool:
    """Whether shapes, dtypes and devices are equal."""
    return x.shape == y.shape and x.dtype == y.dtype and x.device == y.device


@dataclass(frozen=True)
class Ahead:
    """A step that was taken before its layer was used, and a copy of what it was taken of."""

    start: Start
    step: Step


@dataclass
class Record:
    """A layer's next step, if it was taken ahead, and how the layer used its steps: that decides whether one is.

    Parameters
    ----------
    version : int
        Version of the weight at the last use.
    uses : int
        Number of uses of this version.
    credit : int
        A step is taken ahead for the layer only if this is positive.
    ahead : Ahead, optional
        The step that was taken ahead.
    """

    version: int = -1
    uses: int = 0
    credit: int = _CREDIT
    ahead: Ahead | None = None

    def uses_of(self, version: int) -> int:
        """Return the number of uses of a version of the weight."""
        return self.uses if version == self.version else 0

    def add_use(self, version: int) -> None:
        """Note that a step of a version of the weight is used."""
        self.uses = self.uses_of(version) + 1
        self.version = version
        self.credit = min(self.credit + 1, _CREDIT)

    def add_drop(self) -> None:
        """Note that a step was taken ahead in vain."""
        self.credit -= _PRICE_OF_A_DROP
        if self.credit <= 0:
            self.credit = -_PAUSE


class Peer(Protocol):
    """A layer's constraint, as `Peers` sees it."""

    record: Record

    def upcoming(self) -> tuple[Start, int] | None:
        """Return the start of the next step, if the layer's weight is known, and the version of the weight."""
        ...


class Peers:
    """Constraints of layers with equal kernels, geometries and methods. They are referred to weakly.

    A copy, or what a pickle returns, has no members: the copies of the members join it.
    """

    def __init__(self) -> None:
        self._members: list[weakref.ref[Peer]] = []

    def __reduce__(self) -> tuple[type[Peers], tuple[()]]:
        return Peers, ()

    def join(self, member: Peer) -> None:
        """Add a member, and forget those that exist no more."""
        self._members = [x for x in self._members if x() is not None]
        self._members.append(weakref.ref(member))

    def step(self, member: Peer, start: Start, version: int, program: SteppedProgram) -> Step:
        """Return the step of a member that is used, taken ahead or now; take steps of others with it.

        Parameters
        ----------
        version : int
            Version of the member's weight.
        program : SteppedProgram
            For one kernel.
        """
        record = member.record
        ahead, record.ahead = record.ahead, None
        uses_before = record.uses_of(version)
        if ahead is not None and ahead.start.equals(start):
            record.add_use(version)
            return ahead.step
        if ahead is not None:
            record.add_drop()
        others: list[tuple[Peer, Start]] = []
        if record.credit > 0:
            others = self._others(member, start, uses_before)
        record.add_use(version)
        own_step, *steps = _steps([start, *(x for _, x in others)], program)
        for (other, _), step in zip(others, steps, strict=True):
            other.record.ahead = step
        return own_step.step

    def _others(self, member: Peer, start: Start, uses: int) -> list[tuple[Peer, Start]]:
        """Return the members for which a step is taken ahead, with the starts of their steps.

        They have none yet, and their weight was not used more often than the given member's. In a model that uses its
        layers in turn, these are the layers that come after it.
        """
        if start.kernel.numel() > _MOST_ENTRIES or start.kernel.ndim > 4:
            return []
        others: list[tuple[Peer, Start]] = []
        for reference in self._members:
            other = reference()
            if other is None or other is member or other.record.ahead is not None or other.record.credit <= 0:
                continue
            upcoming = other.upcoming()
            if upcoming is None:
                continue
            other_start, version = upcoming
            if other.record.uses_of(version) > uses or not _is_like(other_start, start):
                continue
            others.append((other, other_start))
            if len(others) == _MOST_MEMBERS - 1:
                break
        return others


def _is_like(start: Start, other: Start) -> bool:
    """Whether two steps can be taken in one stack."""
    if start.sweeps != other.sweeps or BACKEND.is_compiled_or_transformed(start.kernel, *start.state):
        return False
    pairs = zip((start.kernel, *start.state), (other.kernel, *other.state), strict=True)
    return all(_is_alike(x, y) for x, y in pairs)


def _steps(starts: list[Start], program: SteppedProgram) -> list[Ahead]:
    """Take the steps of layers with equal programs in one stack."""
    sweeps = starts[0].sweeps
    if len(starts) == 1:
        (start,) = starts
        return [Ahead(start, Step(*program.step(start.kernel, start.state, sweeps=sweeps, backend=BACKEND)))]
    # Otherwise steps that are taken ahead in inference mode could not be saved for a backward pass later.
    with torch.inference_mode(False), torch.no_grad():
        kernels = torch.stack([x.kernel for x in starts])
        states = tuple(torch.stack(x) for x in zip(*(x.state for x in starts), strict=True))
        value, gradient, new_states = program.step(kernels, states, sweeps=sweeps, backend=BACKEND)
        aheads = []
        for j in range(len(starts)):
            copied_start = Start(kernels[j], tuple(x[j] for x in states), sweeps)
            aheads.append(Ahead(copied_start, Step(value[j], gradient[j], tuple(x[j] for x in new_states))))
        return aheads
