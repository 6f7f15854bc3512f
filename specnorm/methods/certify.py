"""Certificates: decide ``norm <= bound`` by proof."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from specnorm import arrays
from specnorm.certified.bound import finite
from specnorm.certified.layer.circulant import padded_norm
from specnorm.certified.matrices.norms import norm_by_frobenius
from specnorm.certified.symbol.cells import dft, torus
from specnorm.clock import Clock
from specnorm.errors import MethodError
from specnorm.methods.base import Evaluation, Method, Needs, check_budget
from specnorm.methods.enclosure import Enclose
from specnorm.problem import polyphase
from specnorm.search.branch_and_bound import Search
from specnorm.search.constant import enclose_constant
from specnorm.search.enclosing import enclose_single_entries, enclose_zero, grid_sizes
from specnorm.search.result import Problem, SearchResult

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.certified.bound import Upper
    from specnorm.certified.rounding import Rounds
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import ArrayOps

_CERTIFY_LEVELS = 40
"""Rounds after which a norm is called too close to the bound: cells are then within 1e-6 of a point."""

_LESS = 1e-14
"""Part of a bound that is left for the rounding of the padding's factor."""


@dataclass(frozen=True)
class Certify(Method):
    """Decide ``norm <= bound`` by proof; not in ``METHODS``, since its value is no measurement.

    Parameters
    ----------
    max_cells : int
        Budget of one search.
    budget : float, optional
        Seconds for one layer; what has not begun by then is not tried.
    """

    bound: float
    max_cells: int = 100_000
    budget: float | None = None

    name: ClassVar[str] = "certify"
    promise: ClassVar[Kind] = "exact"
    stats: ClassVar[Mapping[str, Rounds | None]] = {"proven": None, "refuted": None}

    def __post_init__(self) -> None:
        if not 0 <= self.bound < math.inf:
            raise MethodError(f"bound={self.bound!r} is no norm: give a finite number of at least 0.")
        check_budget(self.budget)

    def needs(self, spec: ConvSpec) -> Needs:
        return Needs(precision="wide", scaled=False, blocks=Enclose().needs(spec).blocks, by_layer=True, searches=True)

    def check(self, spec: ConvSpec) -> None:
        Enclose(max_cells=self.max_cells).check(spec)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        xp = ops.xp
        verdicts = []
        for layer in polyphase.by_layers(blocks, spec.groups if self.needs(spec).blocks else 1):
            flat, exponent = arrays.scale(xp.reshape(layer, (1, -1)), xp=xp)
            layer = xp.reshape(flat, layer.shape)
            bound, clock = _scaled_bound(self.bound, int(exponent[0])), Clock.of(self.budget)
            if self.needs(spec).blocks:
                # Padding that repeats pixels may lift the norm: then less is proven than what is refuted.
                target = _without_padding(bound, spec)
                result = self._decide(layer, spec, target, clock, ops=ops)
                verdicts.append((_proves(result.upper, bound, spec), result.lower > bound))
            else:
                verdicts.append(self._decide_at_size(layer, spec, bound, clock, ops=ops))
        value = ops.from_numpy(np.full(len(verdicts), self.bound), blocks)
        proven, refuted = (ops.from_numpy(np.asarray(x, dtype=np.bool_), blocks) for x in zip(*verdicts, strict=True))
        return Evaluation(value, (proven, refuted), (value,))

    def _decide_at_size(
        self,
        kernel: Array,
        spec: ConvSpec,
        bound: float,
        clock: Clock,
        *,
        ops: ArrayOps,
    ) -> tuple[bool, bool]:
        """By sigma* if that is below the bound already, else by ever closer enclosures of the layer itself."""
        # A fifth of what there is to import; for a size alone.
        from specnorm.search.layer import enclose_layer

        xp = ops.xp
        blocks = polyphase.to_blocks(kernel, replace(spec, layout=None), xp=xp)
        target = _without_padding(bound, spec)
        result = self._decide(blocks, replace(spec, input_shape=None), target, clock, ops=ops)
        if _proves(result.upper, bound, spec):
            return True, False
        for rtol in (1e-3, 1e-6, 1e-9):
            bounds = enclose_layer(Problem(kernel, spec, rtol, self.max_cells, clock), ops=ops)
            proven, refuted = bounds.upper is not None and bounds.upper <= bound, bounds.lower > bound
            if proven or refuted or not bounds.within(rtol) or clock.expired:
                break
        return proven, refuted

    def _decide(
        self,
        blocks: Array,
        spec: ConvSpec,
        bound: float,
        clock: Clock,
        *,
        ops: ArrayOps,
    ) -> SearchResult:
        support = polyphase.support(blocks, ops=ops)
        kernel_shape = tuple(support.shape[3:])
        exact = enclose_zero(support, ops=ops) or enclose_single_entries(support, ops=ops)
        if exact is not None:
            return exact
        for rtol in (1e-3, 1e-9):
            constant = enclose_constant(support, rtol, close=False, ops=ops)
            if constant is not None and (finite(constant.upper) <= bound or constant.lower > bound):
                return constant
        search = Search(support, clock=clock, ops=ops)
        cover = torus(kernel_shape)
        result = search.run(cover, bound=bound, max_cells=self.max_cells, max_levels=_CERTIFY_LEVELS)
        if result.upper is not None or spec.input_shape is None:
            return result
        # The bound is not proven of the supremum: search the frequencies of the size alone.
        whole = search.run(cover, rtol=1e-3, max_cells=self.max_cells)
        supremum = whole.upper or norm_by_frobenius(support, ops=ops)
        grid = dft(grid_sizes(spec, kernel_shape), kernel_shape)
        return search.run(grid, bound=bound, supremum=supremum, max_cells=self.max_cells)

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """Zero: a verdict is locally constant."""
        if self.needs(spec).blocks:
            shape = (cotangent.shape[0] * spec.groups, *spec.block_shape)
        else:
            shape = (cotangent.shape[0], *spec.stored_channels, *spec.kernel_shape)
        zero = xp.reshape(xp.sum(cotangent) * 0, (1,) * len(shape))
        return xp.broadcast_to(zero, shape)


def _without_padding(bound: float, spec: ConvSpec) -> float:
    """What is to be proven of the unpadded norm for the layer's to be within the bound."""
    return bound if spec.padding_gain_sq == 1 else bound / math.sqrt(spec.padding_gain_sq) * (1 - _LESS)


def _proves(supremum: Upper | None, bound: float, spec: ConvSpec) -> bool:
    return supremum is not None and padded_norm(supremum, spec) <= bound


def _scaled_bound(bound: float, power: int) -> float:
    """``bound * 2**-power``, exactly; or, where that is far from every norm of a kernel of about 1, one of the bounds.

    No such norm lies between an end and what it stands for, so a verdict at the end is one at the bound.
    """
    if bound == 0:
        return 0.0
    exponent = math.frexp(bound)[1] - power
    return math.ldexp(bound, -power) if abs(exponent) < 460 else 1e140 if exponent > 0 else 1e-140
