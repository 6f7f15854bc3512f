"""Decide by proof whether the norm of a layer is at most a given bound."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from specnorm.backends import arrays
from specnorm.enclosure import fixed_cost
from specnorm.enclosure.method import Enclose
from specnorm.errors import MethodError
from specnorm.geometry import polyphase
from specnorm.proofs import norms
from specnorm.proofs.cells import Boxes
from specnorm.running import checks
from specnorm.running.base import Evaluation, Needs, Plan
from specnorm.running.proofs import padding
from specnorm.running.search import Clock, Problem
from specnorm.supremum.branch_and_bound import Search
from specnorm.supremum.enclosing import enclose_nonnegative, enclose_single_entries, visited_grid
from specnorm.supremum.one_tap import enclose_one_tap

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.bound import Upper
    from specnorm.proofs.found import Found


@dataclass(frozen=True)
class Certify(Plan):
    """Decide ``norm <= bound`` by proof.

    The figures ``proven`` and ``refuted`` are the answer; both are False if the budget ended before. The value is the
    bound.

    Parameters
    ----------
    bound : float
        The number with which the norm is compared.
    max_cells : int
        Largest number of cells of one search.
    budget : float, optional
        Seconds for one layer; after them no further step of the search begins.
    """

    bound: float
    max_cells: int = Enclose.max_cells
    budget: float | None = None

    name: ClassVar = "certify"
    stats: ClassVar = {"proven": "all", "refuted": "any"}

    def __post_init__(self) -> None:
        if not 0 <= self.bound < math.inf:
            raise MethodError(f"bound={self.bound!r} is not a norm: give a finite number of at least 0.")
        checks.count("max_cells", self.max_cells, least=1)
        checks.budget(self.budget)

    def needs(self, spec: ConvSpec) -> Needs:
        return Needs(precision="wide", scaled=False, blocks=spec.symbols_suffice, by_layer=True, searches=True)

    def check(self, spec: ConvSpec) -> None:
        Enclose().check(spec)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        return self._evaluation(arrays.by_layers(blocks, spec.groups), spec, self._decide, ops=ops)

    def forward_kernels(self, kernels: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        return self._evaluation(arrays.by_layers(kernels, 1), spec, self._decide_at_size, ops=ops)

    def _evaluation(
        self,
        layers: list[Array],
        spec: ConvSpec,
        decide: Callable[..., tuple[bool, bool]],
        *,
        ops: ArrayOps,
    ) -> Evaluation:
        """The verdicts on layers, by `_decide` or `_decide_at_size`."""
        verdicts = []
        for layer in layers:
            flat, exponent = arrays.scale(ops.xp.reshape(layer, (1, -1)), xp=ops.xp)
            bound = _scaled_bound(self.bound, int(exponent[0]))
            verdicts.append(decide(ops.xp.reshape(flat, layer.shape), spec, bound, Clock.of(self.budget), ops=ops))
        value = ops.from_numpy(np.full(len(verdicts), self.bound), layers[0])
        columns = zip(*verdicts, strict=True)
        proven, refuted = (ops.from_numpy(np.asarray(column, dtype=np.bool_), value) for column in columns)
        return Evaluation(value, (proven, refuted), ())

    def _decide_at_size(
        self,
        kernel: Array,
        spec: ConvSpec,
        bound: float,
        clock: Clock,
        *,
        ops: ArrayOps,
    ) -> tuple[bool, bool]:
        """Whether ``norm <= bound`` is proven, and whether it is refuted, for a layer at its size.

        First try to prove the bound for sigma*, the supremum over all sizes; then enclose the layer itself, with
        smaller and smaller tolerances.
        """
        # Imported here: only layers at a size need it, and it is a fifth of what `enclose` would load.
        from specnorm.at_size.layer import enclose_layer

        xp = ops.xp
        # The kernel is in torch's order already.
        blocks = polyphase.to_blocks(kernel, replace(spec, layout=None), xp=xp)
        # A norm above the bound at another size refutes nothing at this one.
        proven, _ = self._decide(blocks, replace(spec, input_shape=None), bound, clock, ops=ops)
        if proven:
            return True, False
        for rtol in (1e-3, 1e-6, 1e-9):
            bounds = enclose_layer(kernel, Problem(spec, rtol, self.max_cells, clock, fixed_cost), ops=ops)
            proven = bounds.upper is not None and bounds.upper <= bound
            refuted = bounds.lower > bound
            # Bounds that did not reach this tolerance would not reach a smaller one.
            ended_early = not bounds.within(rtol)
            if proven or refuted or ended_early or clock.expired:
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
    ) -> tuple[bool, bool]:
        """Whether ``norm <= bound`` is proven by the symbols of a layer's blocks, and whether it is refuted.

        If padding repeats pixels, the layer's norm may lie anywhere between that of the symbols and the same times the
        padding's factor. So a proof needs a smaller bound of the symbols than a refutation, and a norm of the symbols
        between both decides neither.
        """
        target = _target_for_symbols(bound, spec)
        if padding.is_split_by_parity(spec):
            kernels = ops.to_numpy(blocks)
            # Less a few roundings, so that the sum, rounded up, is no larger.
            by_parity = (bound - padding.other_parts_up(kernels, spec)) * (1 - 8 * sys.float_info.epsilon)
            result = self._search(blocks, spec, max(target, by_parity), clock, ops=ops)
            upper = result.upper
            is_proven = upper is not None and padding.padded_norm(upper, spec, kernels) <= bound
            return is_proven, result.lower > bound
        results = [self._search(part, spec, target, clock, ops=ops) for part in _one_tap_apart(blocks, ops=ops)]
        return all(_proves(x.upper, bound, spec) for x in results), any(x.lower > bound for x in results)

    def _search(
        self,
        blocks: Array,
        spec: ConvSpec,
        bound: float,
        clock: Clock,
        *,
        ops: ArrayOps,
    ) -> Found:
        """Search for a proof or a refutation that the symbols of blocks have norms of at most ``bound``."""
        trimmed = arrays.without_zero_borders(blocks, ops=ops)
        kernel_shape = tuple(trimmed.shape[3:])
        exact = enclose_single_entries(trimmed, ops=ops)
        if exact is not None:
            return exact
        for rtol in (1e-3, 1e-9):
            large = enclose_one_tap(trimmed, rtol, precise_vectors=False, ops=ops)
            if large is not None and (large.highest <= bound or large.lower > bound):
                return large
        by_sum = enclose_nonnegative(trimmed, 1.0, ops=ops)
        if by_sum is not None and (by_sum.highest <= bound or by_sum.lower > bound):
            return by_sum
        search = Search(trimmed, clock=clock, ops=ops)
        cover = Boxes.torus(kernel_shape)
        result = search.run(cover, bound=bound, max_cells=self.max_cells)
        if result.upper is not None or spec.input_shape is None:
            return result
        # The bound is not proven for all frequencies: visit or search those of the size alone.
        visited = visited_grid(trimmed, Problem(spec, 0.0, self.max_cells, clock, None), ops=ops)
        if visited is not None and (visited.highest <= bound or visited.lower > bound):
            return visited
        # That search needs an upper bound for all frequencies.
        on_torus = search.run(cover, rtol=1e-3, max_cells=self.max_cells)
        supremum = on_torus.upper or norms.norm_by_frobenius(trimmed, ops=ops)
        grid = Boxes.dft(spec.grid_sizes(kernel_shape), kernel_shape)
        return search.run(grid, bound=bound, supremum=supremum, max_cells=self.max_cells)


def _one_tap_apart(blocks: Array, *, ops: ArrayOps) -> list[Array]:
    """Split blocks (g, m, p, *taps) into those with one tap, whose norms need no search, and others; no empty part."""
    xp = ops.xp
    taps = xp.reshape(xp.any(blocks != 0, axis=(1, 2)), (blocks.shape[0], -1))
    has_one = ops.to_numpy(xp.sum(xp.astype(taps, xp.int32), axis=1)) <= 1
    index = [np.flatnonzero(has_one), np.flatnonzero(~has_one)]
    return [blocks] if not all(map(len, index)) else [arrays.rows(blocks, part, ops=ops) for part in index]


def _target_for_symbols(bound: float, spec: ConvSpec) -> float:
    """The bound that the symbols have to satisfy so that the padded layer satisfies ``bound``."""
    if spec.padding_gain_sq == 1:
        return bound
    # Less a few roundings, so that the product with the factor, rounded up, is no larger.
    return bound / math.sqrt(spec.padding_gain_sq) * (1 - 8 * sys.float_info.epsilon)


def _proves(supremum: Upper | None, bound: float, spec: ConvSpec) -> bool:
    """Whether an upper bound of the symbols proves that the padded layer satisfies ``bound``."""
    return supremum is not None and padding.padded_norm(supremum, spec) <= bound


def _scaled_bound(bound: float, power: int) -> float:
    """``bound * 2**-power``, exactly if that is of moderate size; otherwise 1e140 or 1e-140.

    The kernel is scaled to about 1, so its norm is 0 or far inside of (1e-140, 1e140). Then the verdict is the same for
    these numbers as for the exact product, which could overflow or underflow.
    """
    if bound == 0:
        return 0.0
    exponent = math.frexp(bound)[1] - power
    # 2**460 is about 1e138.
    if abs(exponent) < 460:
        return math.ldexp(bound, -power)
    return 1e140 if exponent > 0 else 1e-140
