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
    def traced(self) -> bool:
        """Whether the arrays stand for values not known yet."""

    @property
    def may_branch(self) -> bool:
        """Whether values may decide what is done next: they are known, and a new shape costs no compilation."""

    @property
    def on_host(self) -> bool:
        """Whether the arrays lie in the host's memory, where NumPy or the like computes with them."""

    @property
    def asynchronous(self) -> bool:
        """Whether work is queued on a device, so that reading a value waits for all of it."""

    @property
    def wide_dtype(self) -> Literal["float32", "float64"]:
        """Widest real dtype of the device: what proofs are computed in."""

    @property
    def exact_float32(self) -> bool:
        """Whether products of float32 numbers have float32's precision."""

    @property
    def memory(self) -> int:
        """Bytes that the intermediate arrays of one step may take."""

    @property
    def shards(self) -> int:
        """Devices that `shard` lays frequencies out over."""

    def device(self, x: Array) -> Any:
        """Device of ``x``."""

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

    def shard(self, x: Array) -> Array:
        """Lay rows, one a frequency, out over several devices."""

    def from_numpy(self, x: np.ndarray, like: Array) -> Array:
        """Copy a host array to the device of ``like``."""

    def to_numpy(self, x: Array) -> np.ndarray:
        """Copy to the host."""
