"""Steps on a CUDA device, recorded once and replayed: hundreds of small kernels in one launch."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]


class Recorded:
    """A function of CUDA tensors, replayed as a CUDA graph: the same kernels, without the time to launch each.

    Where it cannot be recorded it is called as it is, and a warning says so once.

    Parameters
    ----------
    function : callable
        From tensors to a tuple of tensors. It reads no value on the host, and was called before, so that what it keeps
        is there.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._outputs: tuple[Tensor, ...] = ()
        self._recordable = True

    @torch.no_grad()
    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Call the function; the tensors have the shapes, dtypes and device of the first call."""
        # A recording of the caller's takes these kernels in.
        if not self._recordable or torch.cuda.is_current_stream_capturing():
            return self._function(*tensors)
        with torch.cuda.device(tensors[0].device):
            if self._graph is None:
                try:
                    self._record(tensors)
                except RuntimeError as error:
                    self._recordable, self._graph = False, None
                    reason = str(error).splitlines()[0]
                    warnings.warn(
                        f"a step of a spectral norm could not be recorded as a CUDA graph ({reason}): its kernels are "
                        "launched one by one, which takes some ten times as long.",
                        stacklevel=2,
                    )
                    return self._function(*tensors)
            return self._replay(tensors)

    def _record(self, tensors: tuple[Tensor, ...]) -> None:
        """Record one call. Nothing is computed: the kernels are noted."""
        self._inputs = tuple(x.detach().clone() for x in tensors)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        # Libraries set up their work space for the stream that is recorded in the first call there.
        with torch.cuda.stream(aside):
            self._function(*self._inputs)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile: data loaders do.
        with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
            self._outputs = self._function(*self._inputs)
        self._graph = graph

    def _replay(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        assert self._graph is not None
        for place, tensor in zip(self._inputs, tensors, strict=True):
            place.copy_(tensor)
        self._graph.replay()
        # The next replay overwrites these, perhaps before a gradient is asked for.
        return tuple(x.clone() for x in self._outputs)
