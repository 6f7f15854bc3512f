"""Static types of what the algorithms work with. They list what is used, and promise nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    import numpy as np

Array: TypeAlias = Any
"""An `ArrayObject`, inside of the algorithms: a `Namespace` has no static types, so its functions cannot return one."""
Namespace: TypeAlias = Any
"""An array API namespace, as array-api-compat gives it."""


class ArrayObject(Protocol):
    """What an array of every supported library has, besides the functions of its `Namespace`.

    Operators are left out: libraries annotate them by overloads on the array's own dtype, which no protocol matches for
    every type checker.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes; no algorithm runs with unknown ones."""

    @property
    def ndim(self) -> int:
        """Number of axes."""

    @property
    def dtype(self) -> Any:
        """Of the library's own kind."""

    @property
    def device(self) -> Any:
        """Where the array lies."""

    def __getitem__(self, index: Any, /) -> Any: ...


ArrayT = TypeVar("ArrayT", bound=ArrayObject)
"""An array that a function takes and returns: of one library."""


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
