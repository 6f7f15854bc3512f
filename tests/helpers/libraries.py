"""The array libraries the tests run on, and what it takes to make an array in each."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from specnorm_numpy import BACKEND

from specnorm.backends import GROUP, Backend, backend_for, registry
from specnorm.backends.types import ArrayOps

OPS: Any = ArrayOps(BACKEND, BACKEND.namespace(None))
"""NumPy's, for functions below the front door."""
NUMPY: Any = np
"""NumPy, whose arrays pass as specnorm's: mypy takes up to a minute to see that their overloads match no protocol."""

LIBRARIES = {
    "numpy": "numpy", "strict": "strict", "torch": "torch", "jax": "jax", "jax32": "jax", "cupy": "cupy",
    "default": "default",
}  # fmt: skip
"""Test id -> the name that selects it. ``jax`` runs with 64-bit values enabled, ``jax32`` is JAX as it comes;
``default`` is array-api-strict without its plugin, as of a library that nobody has written one for."""

DEVICE = os.environ.get("SPECNORM_TEST_DEVICE", "cpu")
"""Where torch's arrays lie: "cuda" runs the tests that take a library's arrays on a GPU. JAX takes its first device."""

_MODULES = {"strict": "array_api_strict", "default": "array_api_strict", "jax32": "jax"}
_INSTALL = {"strict": "pip install ./tests/thirdparty"}


class Unusable(Exception):
    """A library cannot be tested here, and why."""


@dataclass(frozen=True)
class Lib:
    """One array library.

    Parameters
    ----------
    name : str
        Test id, a key of `LIBRARIES`.
    xp : namespace
        What the library's own users import (``torch``, ``jax.numpy``); arrays are made with `asarray`.
    backend : Backend
        specnorm's plugin for it.
    """

    name: str
    xp: Any
    backend: Backend

    @property
    def has_float64(self) -> bool:
        """False for JAX as it comes."""
        return self.name != "jax32"

    @property
    def dtypes(self) -> tuple[str, ...]:
        return ("float32", "float64") if self.has_float64 else ("float32",)

    @property
    def keeps_subnormals(self) -> bool:
        """False for those that take subnormal numbers for zero (docs/guarantees.md)."""
        return self.name not in ("jax", "jax32", "cupy")

    @property
    def compiles(self) -> bool:
        """Whether every new shape costs a compilation, so that tests should use few."""
        return self.backend.static_shapes

    def asarray(self, x: NDArray[Any]) -> Any:
        """Array of this library, dtype kept; array-api-strict's lie on its second device, to catch device mistakes."""
        x = np.array(x)
        if self.name in ("strict", "default"):
            return self.xp.asarray(x, device=self.xp.Device("device1"))
        if self.name == "torch":
            return self.xp.from_numpy(x).to(DEVICE)
        return self.xp.asarray(x)

    def to_numpy(self, x: Any) -> NDArray[Any]:
        if self.name in ("strict", "default"):
            return np.asarray(x.to_device(self.xp.Device("CPU_DEVICE")))
        if self.name == "torch":
            return np.asarray(x.detach().cpu().resolve_conj())
        if self.name == "cupy":
            return np.asarray(self.xp.asnumpy(x))
        return np.asarray(x)

    def number(self, x: Any) -> float:
        host = self.to_numpy(x)
        assert host.shape == (), f"expected a 0-d array, got shape {host.shape}"
        return float(host)

    def dtype_name(self, x: Any) -> str:
        return str(x.dtype).rpartition(".")[2]


@contextlib.contextmanager
def without_plugin(root: str) -> Iterator[None]:
    real = registry.entry_points
    registry.entry_points = lambda *, group: [entry for entry in real(group=group) if entry.name != root]
    registry.refresh()
    try:
        yield
    finally:
        registry.entry_points = real
        registry.refresh()


@contextlib.contextmanager
def opened(name: str) -> Iterator[Lib]:
    """Set a library up for one test.

    Raises
    ------
    Unusable
        If it, its plugin or its device is missing.
    """
    module = _MODULES.get(name, name)
    if importlib.util.find_spec(module) is None:
        raise Unusable(f"{module} is not installed")
    if name != "default" and not importlib.metadata.entry_points(group=GROUP, name=module):
        raise Unusable(f"no plugin for {module}: {_INSTALL.get(name, 'pip install -e .')}")
    with contextlib.ExitStack() as stack:
        if name == "cupy":
            namespace = importlib.import_module("cupy")
            try:
                namespace.zeros(1).sum()
            except Exception as error:
                raise Unusable(f"CuPy finds no usable GPU: {error}") from error
        elif name in ("jax", "jax32"):
            jax = importlib.import_module("jax")
            # Until JAX 0.8 the context manager lived in jax.experimental.
            home = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
            stack.enter_context(home.enable_x64(name == "jax"))
            namespace = importlib.import_module("jax.numpy")
        else:
            namespace = importlib.import_module(module)
            if name == "default":
                stack.enter_context(without_plugin(module))
            if name in ("strict", "default"):
                stack.enter_context(
                    namespace.ArrayAPIStrictFlags(
                        boolean_indexing=False, data_dependent_shapes=False, api_version="2024.12"
                    )
                )
        probe = Lib(name, namespace, Backend()).asarray(np.zeros((), dtype=np.float32))
        yield Lib(name, namespace, backend_for(probe))
