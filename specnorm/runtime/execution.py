"""Where a method runs, and in which precision: one value, computed once a call and carried through the algorithms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from specnorm.methods.base import Needs

if TYPE_CHECKING:
    import numpy as np

    from specnorm.types import AnyArray, Array, Library, Namespace

Dtype = Literal["float32", "float64"]

MEMORY = 256 * 2**20
"""Bytes that the intermediate arrays of one step may take (symbols, patches, cells): 256 MiB."""


@dataclass(frozen=True, eq=False)
class Execution:
    """A library's operations, and every decision about where and how one call runs: the `types.ArrayOps` of the rest.

    The defaults are true of arrays on the host, of an eager library with float64. `of` finds out.

    Parameters
    ----------
    xp : namespace
        The array API namespace of the arrays at hand.
    traced : bool
        Whether the arrays stand for values not known yet.
    on_host : bool
        Whether they lie in the host's memory, where NumPy or the like computes with them.
    asynchronous : bool
        Whether work is queued on a device, so that reading a value waits for all of it.
    dtype : {"float64", "float32"}
        What the method's blocks come in.
    own_dtype : {"float64", "float32"}
        The kernel's own precision, or a wider one where the library would lower it: of gradients and training steps.
    wide_dtype : {"float64", "float32"}
        Widest real dtype of the device: what proofs are computed in.
    exact_float32 : bool
        Whether products of float32 numbers have float32's precision.
    in_numpy : bool
        Whether this call runs in NumPy on the host instead, by another Execution.
    too_wide : bool
        Whether the kernels are float64 and the library computes in float32.
    computed_in : str
        What a result is told to be computed in, and where.
    memory : int
        Bytes that the intermediate arrays of one step may take.
    """

    backend: Library
    xp: Namespace
    traced: bool = False
    on_host: bool = True
    asynchronous: bool = False
    dtype: Dtype = "float64"
    own_dtype: Dtype = "float64"
    wide_dtype: Dtype = "float64"
    exact_float32: bool = True
    in_numpy: bool = False
    too_wide: bool = False
    computed_in: str = "float64"
    memory: int = MEMORY

    @classmethod
    def of(
        cls,
        backend: Library,
        like: AnyArray,
        needs: Needs | None = None,
        dtype: Dtype = "float64",
        *,
        training: bool = False,
        memory: int | None = None,
    ) -> Execution:
        """Decide for arrays of a library and device.

        Parameters
        ----------
        like : array
            The caller's kernels.
        needs : Needs, optional
            The method's.
        dtype : {"float64", "float32"}
            Of the result.
        training : bool
            Whether a training step is taken, which proves nothing.
        memory : int, optional
            Budget in bytes; None: `MEMORY`.
        """
        needs = needs or Needs()
        traced, wide, in_place = backend.is_traced(like), backend.wide_dtype(like), backend.numpy_view(like)
        own = backend.working_dtype(like, dtype)
        proven = own if needs.precision == "own" else backend.working_dtype(like, wide)
        # Rounded to what the library computes in, a wider kernel would be another one.
        too_wide = dtype == "float64" and wide != "float64" and not training
        searches = needs.searches and not training and not traced
        if searches or (too_wide and not traced):
            # The proof needs float64; and NumPy, where it reads the arrays in place, is faster at many small matrices.
            away = too_wide or backend.proofs == "host" or wide != "float64"
            in_numpy = away or in_place
            computed_in = "float64 on the host" if away and not in_place else "float64"
        else:
            in_numpy = needs.small_products and in_place and not traced
            computed_in = proven
        return cls(
            backend,
            backend.namespace(like),
            traced=traced,
            on_host=in_place or backend.host().name == backend.name,
            asynchronous=backend.asynchronous(like),
            dtype=proven if needs.precision == "wide" else own,
            own_dtype=own,
            wide_dtype=wide,
            exact_float32=backend.working_dtype(like, "float32") == "float32",
            in_numpy=in_numpy,
            too_wide=too_wide,
            computed_in=computed_in,
            memory=MEMORY if memory is None else memory,
        )

    @property
    def concrete(self) -> bool:
        """Whether values may decide what is done next: they are known, and a new shape costs no compilation."""
        return not (self.traced or self.backend.static_shapes)

    @property
    def has_factors(self) -> bool:
        """Whether the library gives `cholesky_factors`."""
        return self.backend.has_factors

    @property
    def shards(self) -> int:
        """Devices that `shard` lays frequencies out over."""
        return self.backend.shards

    def device(self, x: Array) -> Any:
        """Device of ``x``."""
        return self.backend.device(x)

    def loop(
        self, cond: Callable[[Any], Array], body: Callable[[Any], Any], state: tuple[Array, ...]
    ) -> tuple[Array, ...]:
        """``while cond(state): state = body(state)``."""
        return self.backend.loop(cond, body, state)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Function of each item, in order."""
        return self.backend.map(function, items)

    def cholesky_ok(self, a: Array) -> Array:
        """Whether the Cholesky factorisation of each matrix of a stack ran to completion."""
        found: Array = self.backend.cholesky_ok(a)
        return found

    def cholesky_factors(self, a: Array) -> Array:
        """Lower Cholesky factors of a stack; no number on the diagonal where there is none."""
        found: Array = self.backend.cholesky_factors(a)
        return found

    def check_cholesky(self, a: Array) -> None:
        """Refuse a library whose Cholesky factorisation does not fail where it must."""
        self.backend.check_cholesky(a)

    def complex(self, real: Array, imag: Array) -> Array:
        """Complex array from its parts."""
        found: Array = self.backend.complex(real, imag)
        return found

    def shard(self, x: Array) -> Array:
        """Lay rows out over several devices."""
        found: Array = self.backend.shard(x)
        return found

    def from_numpy(self, x: np.ndarray, like: Array) -> Array:
        """Copy a host array to the device of ``like``."""
        found: Array = self.backend.from_numpy(x, like)
        return found

    def to_numpy(self, x: Array) -> np.ndarray:
        """Copy to the host."""
        return self.backend.to_numpy(x)
