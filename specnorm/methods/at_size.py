"""Norm of a layer at its own size, whatever its padding, to a relative tolerance that is proven."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from specnorm.certified.bound import as_array, finite, known
from specnorm.errors import GeometryError, Undecided
from specnorm.methods.base import Evaluation, Method, Needs, check_count, check_rtol
from specnorm.methods.enclosure import enclose_layers, weighted
from specnorm.problem.layer_map import shapes_of

if TYPE_CHECKING:
    from specnorm.certified.rounding import Rounds
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import Array, ArrayOps, Namespace


@dataclass(frozen=True)
class NormAtSize(Method):
    """Norm of the layer itself at ``input_shape``, to a relative tolerance.

    It is not in ``METHODS``: an audit has both bounds.

    Parameters
    ----------
    rtol : float
        The value is proven to be at most this far, relatively, below the norm, and not above it.
    max_cells : int
        Budget of a search.
    """

    rtol: float = 1e-6
    max_cells: int = 100_000

    name: ClassVar[str] = "at_size"
    stats: ClassVar[Mapping[str, Rounds | None]] = {"upper": "up"}

    def __post_init__(self) -> None:
        check_rtol(self.rtol)
        check_count("max_cells", self.max_cells, least=1)

    def needs(self, spec: ConvSpec) -> Needs:
        """The kernel as it is, with known values."""
        return Needs(precision="wide", narrow_gradient=True, blocks=False, searches=True)

    def kind(self, spec: ConvSpec) -> Kind:
        """Exact: of the layer at its input size."""
        return "exact"

    def check(self, spec: ConvSpec) -> None:
        """Every geometry, at a size."""
        if spec.input_shape is None:
            raise GeometryError("the layer itself has a norm at one size only: give input_shape.")
        shapes_of(spec)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """The lower bound of an enclosure that is close enough."""
        found = enclose_layers(blocks, spec, self.rtol, self.max_cells, None, ops=ops)
        if not all(x.within(self.rtol) for x in found):
            apart = max(finite(x.upper) / x.lower.value - 1 if x.lower > 0 else math.inf for x in found)
            raise Undecided(
                f"the norm at input_shape={spec.input_shape} is known to {apart:.1e} only, not to rtol={self.rtol:g}: "
                "give a larger rtol, or use enclose(kernel, input_shape), which returns what is proven."
            )
        lower = as_array([x.lower for x in found], blocks, ops=ops)
        upper = as_array([known(x.upper) for x in found], blocks, ops=ops)
        return Evaluation(lower, (upper,), (ops.xp.concat([x.gradient for x in found], axis=0),))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
        """Gradient of the norm at the witness."""
        return weighted(residuals, cotangent, xp=xp)
