"""Static types of what the algorithms work with. They list what is used, and promise nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np

Array: TypeAlias = Any
"""An array of any supported library. Array libraries ship no common static type; the array API is checked by tests."""
Namespace: TypeAlias = Any
"""An array API namespace, as array-api-compat gives it."""


class ArrayOps(Protocol):
    """What the algorithms need of one array library: its array API namespace, and what the standard leaves out.

    `runtime.execution.Execution` is the one implementation.
    """

    @property
    def xp(self) -> Namespace:
        """The array API namespace."""

    @property
    def static_shapes(self) -> bool:
        """Whether each new array shape costs a compilation."""

    @property
    def shares(self) -> int:
        """Devices that `spread` shares frequencies out to."""

    def device(self, x: Array) -> Any:
        """Device of ``x``."""

    def is_traced(self, x: Array) -> bool:
        """Whether ``x`` stands for values not known yet."""

    def wide_dtype(self, x: Array) -> Literal["float32", "float64"]:
        """Widest real dtype on the device of ``x``: the one proofs are computed in."""

    def working_dtype(self, x: Array, dtype: Literal["float32", "float64"]) -> Literal["float32", "float64"]:
        """Dtype to compute in when ``dtype`` was asked for; wider where the library would lower precision."""

    def sees(self, x: Array) -> bool:
        """Whether a loop may end by what it finds."""

    def on_host(self, x: Array) -> bool:
        """Whether ``x`` lies in the host's memory, where NumPy or the like computes with it."""

    def loop(
        self, cond: Callable[[Any], Array], body: Callable[[Any], Any], state: tuple[Array, ...]
    ) -> tuple[Array, ...]:
        """``while cond(state): state = body(state)``."""

    def cholesky_ok(self, a: Array) -> Array:
        """Whether the Cholesky factorisation of each matrix of a stack ran to completion."""

    def check_cholesky(self, a: Array) -> None:
        """Refuse a library whose Cholesky factorisation does not fail where it must."""

    def complex(self, real: Array, imag: Array) -> Array:
        """Complex array from its parts."""

    def spread(self, x: Array) -> Array:
        """Lay rows out over several devices."""

    def from_numpy(self, x: np.ndarray, like: Array) -> Array:
        """Copy a host array to the device of ``like``."""

    def to_numpy(self, x: Array) -> np.ndarray:
        """Copy to the host."""
