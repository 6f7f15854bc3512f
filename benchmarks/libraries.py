"""Where the suite runs: each library and device that is here, and why another is not."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from specnorm.errors import MethodError


@dataclass(frozen=True)
class Library:
    """One library on one device: an array of it from the host's, what waits for a result, what compiles a function."""

    name: str
    asarray: Callable[[np.ndarray], Any] = np.asarray
    ready: Callable[[Any], Any] = lambda x: x
    compiled: Callable[[Callable[[Any], Any]], Callable[[Any], Any]] = lambda f: f
    missing: str = ""
    """Why it cannot be used here; empty if it can."""

    @property
    def device(self) -> str:
        return "cpu" if self.name == "numpy" or self.name.endswith(" cpu") else "cuda"

    def prepare(self, call: Callable[[Any], Any], kernel: np.ndarray) -> Callable[[], Any]:
        """The call on this library's array, waiting for its end."""
        x, run = self.asarray(kernel.copy()), self.compiled(call)
        return lambda: self.ready(run(x))


def _torch(device: str) -> Library:
    missing = "" if device == "cpu" or torch.cuda.is_available() else "no NVIDIA GPU here"
    wait: Callable[[], Any] = torch.cuda.synchronize if device == "cuda" else lambda: None
    name = f"torch {device}"
    return Library(name, lambda k: torch.from_numpy(k).to(device), lambda x: (wait(), x)[1], missing=missing)


def _jax(device: str) -> Library:
    """Compiled where the method can be; a search runs on the host, outside."""
    try:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # CuPy and torch are there too
        jax = importlib.import_module("jax")
        place = jax.devices(device)[0]
    except (ImportError, RuntimeError) as error:
        reason = "JAX is not installed" if isinstance(error, ImportError) else "no NVIDIA GPU that JAX sees"
        return Library(f"jax {device}", missing=reason)
    jax.config.update("jax_enable_x64", True)

    def compiled(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        functions = [jax.jit(call)]

        def run(x: Any) -> Any:
            try:
                return functions[0](x)
            except MethodError:
                functions[0] = call
                return call(x)

        return run

    return Library(f"jax {device}", lambda k: jax.device_put(k, place), jax.block_until_ready, compiled)


def _cupy() -> Library:
    try:
        cupy = importlib.import_module("cupy")
        if not cupy.cuda.runtime.getDeviceCount():
            return Library("cupy", missing="no NVIDIA GPU that CuPy sees")
    except Exception as error:  # the class of the error is CuPy's own
        return Library("cupy", missing="CuPy is not installed" if isinstance(error, ImportError) else str(error))
    return Library("cupy", cupy.asarray, lambda x: (cupy.cuda.Device().synchronize(), x)[1])


LIBRARIES = {
    library.name.removesuffix(" cpu"): library
    for library in (_torch("cpu"), Library("numpy"), _jax("cpu"), _torch("cuda"), _jax("cuda"), _cupy())
}
LIBRARIES |= {library.name: library for library in list(LIBRARIES.values())}
