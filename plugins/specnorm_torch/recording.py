"""Steps on a CUDA device, recorded once and replayed: hundreds of small CUDA kernels in one launch."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]


class Recorded:
    """A function of CUDA tensors, replayed as a CUDA graph: the same CUDA kernels, without the time to launch each.

    Each recording has memory of its own, so that recordings may be replayed in any order. If the function cannot be
    recorded, it is called directly, and a warning says so once.

    Parameters
    ----------
    function : callable
        Function of tensors that returns a tuple of tensors. It reads no value on the host, and was called before, so
        that its caches are filled.
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
        # If the caller is recording, the CUDA kernels of a direct call become part of that recording. Inputs that are
        # made in inference mode could not be overwritten by a later replay.
        calls_directly = torch.cuda.is_current_stream_capturing() or torch.is_inference_mode_enabled()
        if calls_directly or not self._recordable:
            return self._function(*tensors)
        with torch.cuda.device(tensors[0].device):
            if self._graph is None and not self._record(tensors):
                return self._function(*tensors)
            return self._replay(tensors)

    def _record(self, tensors: tuple[Tensor, ...]) -> bool:
        """Record one call, after another to warm up; return whether that worked. A recorded call computes nothing."""
        stream = torch.cuda.current_stream()
        self._inputs = tuple(x.detach().clone() for x in tensors)
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(stream)
        # Libraries set up their work space for a stream in the first call there.
        with torch.cuda.stream(aside):
            self._function(*self._inputs)
        stream.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may use the device meanwhile: data loaders do.
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                self._outputs = self._function(*self._inputs)
        except torch.OutOfMemoryError:
            torch.cuda.set_stream(stream)  # which a recording that fails does not do
            raise
        except RuntimeError as error:
            torch.cuda.set_stream(stream)
            self._recordable = False
            warnings.warn(
                "a step of a spectral norm could not be recorded as a CUDA graph "
                f"({str(error).splitlines()[0]}): its CUDA kernels are launched one by one, which takes some ten "
                "times as long.",
                stacklevel=2,
            )
            return False
        self._graph = graph
        return True

    def _replay(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        assert self._graph is not None
        for place, tensor in zip(self._inputs, tensors, strict=True):
            place.copy_(tensor)
        self._graph.replay()
        # The next replay overwrites these, perhaps before a gradient is asked for.
        return tuple(x.clone() for x in self._outputs)
