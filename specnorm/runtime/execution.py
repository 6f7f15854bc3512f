"""Where a method runs: one value that carries the array library's namespace and operations through the algorithms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

    from specnorm.backends import Backend
    from specnorm.types import Array, Namespace


@dataclass(frozen=True, eq=False)
class Execution:
    """A backend's operations and its namespace: the `types.ArrayOps` that methods, search, proof and linalg get.

    Parameters
    ----------
    backend : Backend
    xp : namespace
        The array API namespace of the arrays at hand.
    """

    backend: Backend
    xp: Namespace

    @classmethod
    def of(cls, backend: Backend, like: Array) -> Execution:
        """Execution on the library and device of an array."""
        return cls(backend, backend.namespace(like))

    @property
    def static_shapes(self) -> bool:
        """Whether each new array shape costs a compilation."""
        return self.backend.static_shapes

    @property
    def shares(self) -> int:
        """Devices that `spread` shares frequencies out to."""
        return self.backend.shares

    def device(self, x: Array) -> Any:
        """Device of ``x``."""
        return self.backend.device(x)

    def is_traced(self, x: Array) -> bool:
        """Whether ``x`` stands for values not known yet."""
        return self.backend.is_traced(x)

    def wide_dtype(self, x: Array) -> Literal["float32", "float64"]:
        """Widest real dtype on the device of ``x``: the one proofs are computed in."""
        return self.backend.wide_dtype(x)

    def working_dtype(self, x: Array, dtype: Literal["float32", "float64"]) -> Literal["float32", "float64"]:
        """Dtype to compute in when ``dtype`` was asked for; wider where the library would lower precision."""
        return self.backend.working_dtype(x, dtype)

    def sees(self, x: Array) -> bool:
        """Whether a loop may end by what it finds."""
        return self.backend.sees(x)

    def on_host(self, x: Array) -> bool:
        """Whether ``x`` lies in the host's memory, where NumPy or the like computes with it."""
        return self.backend.numpy_view(x) or self.backend.host().name == self.backend.name

    def loop(
        self, cond: Callable[[Any], Array], body: Callable[[Any], Any], state: tuple[Array, ...]
    ) -> tuple[Array, ...]:
        """``while cond(state): state = body(state)``."""
        return self.backend.loop(cond, body, state)

    def cholesky_ok(self, a: Array) -> Array:
        """Whether the Cholesky factorisation of each matrix of a stack ran to completion."""
        return self.backend.cholesky_ok(a)

    def check_cholesky(self, a: Array) -> None:
        """Refuse a library whose Cholesky factorisation does not fail where it must."""
        self.backend.check_cholesky(a)

    def complex(self, real: Array, imag: Array) -> Array:
        """Complex array from its parts."""
        return self.backend.complex(real, imag)

    def spread(self, x: Array) -> Array:
        """Lay rows out over several devices."""
        return self.backend.spread(x)

    def from_numpy(self, x: np.ndarray, like: Array) -> Array:
        """Copy a host array to the device of ``like``."""
        return self.backend.from_numpy(x, like)

    def to_numpy(self, x: Array) -> np.ndarray:
        """Copy to the host."""
        return self.backend.to_numpy(x)
