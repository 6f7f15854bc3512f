"""The norm of a layer at its input size, for any padding, to a relative tolerance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from specnorm.enclosure.method import Enclose, enclose_layers
from specnorm.enclosure.two_sided import ends_of, gradients_of
from specnorm.errors import GeometryError
from specnorm.running import checks
from specnorm.running.base import Evaluation, Needs, Plan, Unreached

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec


@dataclass(frozen=True)
class NormAtSize(Plan):
    """Norm of the layer itself at ``input_shape``, to a relative tolerance.

    Parameters
    ----------
    rtol : float
        The value is proven to be at most this far, relatively, below the norm, and not above it.
    budget : float, optional
        Seconds for one layer; after them no further step begins.
    """

    rtol: float = 1e-6
    budget: float | None = None

    name: ClassVar = "at_size"
    asks: ClassVar = Needs(rounds="down", precision="wide", narrow_gradient=True, blocks=False, searches=True)
    stats: ClassVar = {"upper": "up"}

    def __post_init__(self) -> None:
        checks.rtol(self.rtol)
        checks.budget(self.budget)

    def check(self, spec: ConvSpec) -> None:
        if spec.input_shape is None:
            raise GeometryError("the layer itself has a norm at one size only: give input_shape.")
        _ = spec.sides  # raises if there is no such layer

    def forward_kernels(self, kernels: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        search_rtol = checks.search_rtol(self.rtol, ops=ops)
        bounds = enclose_layers(kernels, spec, Enclose(rtol=search_rtol, budget=self.budget), ops=ops)
        if not all(x.within(search_rtol) for x in bounds):
            raise Unreached(
                f"the norm at input_shape={spec.input_shape} is not known to rtol={self.rtol:g}: give a larger rtol or "
                "budget, or use enclose(kernel, input_shape), which returns what is proven.",
                bounds,
            )
        lower, upper = ends_of(bounds, kernels, ops=ops)
        return Evaluation(lower, (upper,), gradients_of(bounds, ops=ops))
