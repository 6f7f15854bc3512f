"""Base of the methods that search for two bounds: of the norm, the smallest singular value, the isometry defect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm.enclosure import fixed_cost
from specnorm.proofs.bound import Lower, Upper
from specnorm.running import checks
from specnorm.running.base import Needs, Plan
from specnorm.running.search import Clock, Problem
from specnorm.symbols import triples

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs import rounding
    from specnorm.proofs.found import Found


@dataclass(frozen=True)
class TwoSidedSearch(Plan):
    """Base of methods that search for a lower and an upper bound, within a tolerance and a budget.

    Parameters
    ----------
    rtol : float
        Relative distance of the bounds at which the search stops.
    max_cells : int
        Largest number of cells of one search.
    budget : float, optional
        Seconds for one layer; after them no further step of the search begins.
    """

    rtol: float = 1e-3
    max_cells: int = 100_000
    budget: float | None = 30.0

    def __post_init__(self) -> None:
        checks.rtol(self.rtol)
        checks.count("max_cells", self.max_cells, least=1)
        checks.budget(self.budget)

    @staticmethod
    def needs_of_search(spec: ConvSpec, *, rounds: rounding.Rounds) -> Needs:
        """What a search of one layer needs: its blocks, if the symbols describe it; else its kernel, at its size."""
        return Needs(
            rounds=rounds,
            precision="wide",
            narrow_gradient=True,
            blocks=spec.symbols_suffice,
            by_layer=True,
            searches=True,
        )

    def problem(self, spec: ConvSpec) -> Problem:
        """The problem of one layer; its clock starts now."""
        return Problem(spec, self.rtol, self.max_cells, Clock.of(self.budget), fixed_cost)

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """The gradient of the singular value that the search's vectors attain."""
        if not spec.symbols_suffice:
            return super().pullback(residuals, cotangent, spec, xp=xp)
        return triples.top_gradient(residuals, cotangent, spec, xp=xp)


def ends_of(found: Sequence[Found], like: Array, *, ops: ArrayOps) -> tuple[Array, Array]:
    """The lower and the upper bounds of layers, as arrays."""
    lowers, uppers = zip(*(x.ends for x in found), strict=True)
    return Lower.as_array(lowers, like, ops=ops), Upper.as_array(uppers, like, ops=ops)


def vectors_of(found: Sequence[Found], *, ops: ArrayOps) -> tuple[Array, Array]:
    """The vectors of the witnesses, (b, outputs) and (b, inputs)."""
    u = ops.xp.concat([x.witness.u for x in found], axis=0)
    return u, ops.xp.concat([x.witness.v for x in found], axis=0)


def gradients_of(found: Sequence[Found], *, ops: ArrayOps) -> tuple[Array, ...]:
    """The gradients of layers at their size, as residuals: computed if a gradient may be asked for."""
    if not ops.differentiated:
        return ()
    return (ops.xp.concat([x.witness.gradient() for x in found], axis=0),)


def figure_arrays(
    figures: Sequence[tuple[bool | int | Sequence[float], ...]], like: Array, *, ops: ArrayOps
) -> tuple[Array, ...]:
    """Figures of several layers as arrays, each with leading axis layers, in the order of `Plan.stats`.

    Whole numbers are int32, which every library has.
    """
    columns = [np.asarray(column) for column in zip(*figures, strict=True)]
    return tuple(ops.from_numpy(x.astype(np.int32) if x.dtype.kind == "i" else x, like) for x in columns)
