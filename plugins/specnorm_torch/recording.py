"""Steps on a CUDA device, recorded once, replayed, and begun ahead of time beside each other.

A step is some hundred small kernels, which take a microsecond or two each; to launch one takes ten. A CUDA graph
launches all at once. Layers do not wait for each other: when one is asked for its weight, the steps of others begin.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor

from specnorm_torch.modules import version_of

Function = Callable[..., tuple[Tensor, ...]]
_LANES = 4
"""Streams that steps are spread over. Each has its own memory for intermediate results, and a work space of cuBLAS."""


class _Lane(NamedTuple):
    """A stream, and the memory of what is recorded on it: its recordings are replayed one after the other."""

    stream: torch.cuda.Stream
    pool: Any


_LANES_OF: dict[torch.device, list[_Lane]] = {}
_FOLLOWERS: WeakSet[Follower] = WeakSet()
"""All that are alive."""


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _lane(device: torch.device) -> _Lane:
    """Return the next lane of a device, in turn."""
    if device not in _LANES_OF:
        _LANES_OF[device] = [_Lane(_stream(device), torch.cuda.graph_pool_handle()) for _ in range(_LANES)]
    lanes = _LANES_OF[device]
    lanes.append(lanes.pop(0))
    return lanes[-1]


class Recorded:
    """A function of CUDA tensors as a CUDA graph: begun at one time, its results taken at another.

    Parameters
    ----------
    function : callable
        From tensors to a tuple of tensors. It reads no value on the host, and was called before, so that what it keeps
        is there.
    tensors : tuple of Tensor
        Shapes, dtypes and device of those to come.

    Raises
    ------
    RuntimeError
        If the function cannot be recorded.
    """

    def __init__(self, function: Function, tensors: tuple[Tensor, ...]) -> None:
        self._stream, pool = _lane(tensors[0].device)
        self._inputs = tuple(x.detach().clone() for x in tensors)
        self._stream.wait_stream(torch.cuda.current_stream())
        # Libraries set up their work space for a stream in the first call there.
        with torch.cuda.stream(self._stream):
            function(*self._inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile: data loaders do.
        with torch.cuda.graph(self._graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
            self._outputs = function(*self._inputs)
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def begin(self, tensors: tuple[Tensor, ...]) -> None:
        """Replay on the lane's stream, after what was asked of the device before."""
        current = torch.cuda.current_stream()
        current.wait_event(self._done)  # results that were never taken
        for place, tensor in zip(self._inputs, tensors, strict=True):
            place.copy_(tensor)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            self._graph.replay()
            self._done.record(self._stream)

    def results(self) -> tuple[Tensor, ...]:
        """Copies, since the next replay overwrites the results, perhaps before a gradient is asked for."""
        torch.cuda.current_stream().wait_event(self._done)
        return tuple(x.clone() for x in self._outputs)


class Follower:
    """The recorded step of one layer.

    Parameters
    ----------
    step : callable
        From (weight, *state) to a tuple of tensors.
    state : callable
        Returns the state at hand.
    """

    def __init__(self, step: Function, state: Callable[[], tuple[Tensor, ...]]) -> None:
        self._step, self._state = step, state
        self._recorded: Recorded | None = None
        self._recordable = True
        self._thread = 0
        self._weight: Tensor | None = None
        self._begun: tuple[Tensor, int] | None = None
        _FOLLOWERS.add(self)

    @torch.no_grad()
    def __call__(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Take a step for a weight, and begin those of the layers that were asked for in this thread before."""
        with torch.cuda.device(weight.device):
            # A recording of the caller's takes these kernels in.
            if not self._recordable or torch.cuda.is_current_stream_capturing():
                return self._step(weight, *self._state())
            if self._recorded is None and not self._record(weight):
                return self._step(weight, *self._state())
            self._weight, self._thread = weight, threading.get_ident()
            if not self._fits(weight):
                self._begin()
                for other in list(_FOLLOWERS):
                    if other is not self and other._may_begin(self._thread, weight.device):
                        other._begin()
            assert self._recorded is not None
            self._begun = None
            return self._recorded.results()

    def _record(self, weight: Tensor) -> bool:
        """Record the step; a warning says, once, that it cannot be."""
        try:
            self._recorded = Recorded(self._step, (weight, *self._state()))
        except RuntimeError as error:
            self._recordable = False
            warnings.warn(
                "a step of a spectral norm could not be recorded as a CUDA graph "
                f"({str(error).splitlines()[0]}): its kernels are launched one by one, which takes some ten times as "
                "long.",
                stacklevel=2,
            )
        return self._recordable

    def _may_begin(self, thread: int, device: torch.device) -> bool:
        """Whether the layer was asked for in this thread, and its last results were taken."""
        weight = self._weight
        asked = self._recorded is not None and self._thread == thread and self._begun is None
        return asked and weight is not None and weight.device == device

    def _begin(self) -> None:
        weight = self._weight
        assert weight is not None
        assert self._recorded is not None
        self._recorded.begin((weight, *self._state()))
        self._begun = (weight, version_of(weight))

    def _fits(self, weight: Tensor) -> bool:
        """Whether the step was begun for this very tensor, and no change in place was counted since."""
        return self._begun is not None and self._begun[0] is weight and self._begun[1] == version_of(weight)
