"""Where a method runs, and in which precision: one value, computed once a call and carried through the algorithms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specnorm.methods.base import Needs
from specnorm.types import MEMORY, ArrayOps, Dtype

if TYPE_CHECKING:
    from specnorm.types import AnyArray, Library


@dataclass(frozen=True, eq=False)
class Execution(ArrayOps):
    """Every decision about where and how one call runs: the `types.ArrayOps` of the algorithms. `of` decides.

    Parameters
    ----------
    in_numpy : bool
        Whether this call runs in NumPy on the host instead, by another Execution.
    too_wide : bool
        Whether the kernels are float64 and the library computes in float32.
    computed_in : str
        What a result is told to be computed in, and where.
    """

    in_numpy: bool = False
    too_wide: bool = False
    computed_in: str = "float64"

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
        unknown = needs.rounds != "nearest" and not backend.arithmetic_known
        searches = (needs.searches or unknown) and not training and not traced
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
