"""Enclosures: lower <= norm <= upper, both proven, by branch and bound over frequencies (`methods.search`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from specnorm.errors import MethodError
from specnorm.linalg import arrays, polyphase, symbols
from specnorm.linalg.frequencies import Frequencies, half_grid
from specnorm.linalg.layer_map import Convolution, shapes_of
from specnorm.methods.base import Evaluation, Method, check_count, check_rtol
from specnorm.methods.grid import Grid
from specnorm.methods.layer import enclose_layer
from specnorm.methods.unfolding import FantasticFour
from specnorm.proof import host
from specnorm.proof.cells import Boxes, dft, single_points, torus
from specnorm.search.branch_and_bound import Search, SearchResult

if TYPE_CHECKING:
    from specnorm.proof.rounding import Rounds
    from specnorm.result import Kind
    from specnorm.spec import ConvSpec
    from specnorm.types import Array, ArrayOps


@dataclass(frozen=True)
class Enclose(Method):
    """Proven interval around the norm: of the supremum over all sizes, or of a circular layer at one size.

    The value is the upper end; the lower one is in the statistics.

    Parameters
    ----------
    rtol : float
        Relative width asked for. Where the budget ends first the interval is wider, and ``converged`` is False.
    max_cells : int
        Budget of one search for each group; a wider one may follow.
    """

    rtol: float = 1e-3
    max_cells: int = 100_000

    name: ClassVar[str] = "enclose"
    stats: ClassVar[Mapping[str, Rounds | None]] = {
        "lower": "down",
        "converged": None,
        "cells": None,
        "levels": None,
        "frequency": None,
        "u": None,
        "v": None,
    }
    rounds: ClassVar[Rounds] = "up"
    wide: ClassVar[bool] = True
    outer_products: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_rtol(self.rtol)
        check_count("max_cells", self.max_cells, least=1)

    def kind(self, spec: ConvSpec) -> Kind:
        """Upper."""
        del spec
        return "upper"

    def check(self, spec: ConvSpec) -> None:
        """Every geometry."""
        if not self.folds(spec):
            shapes_of(spec)

    def folds(self, spec: ConvSpec) -> bool:
        """Unless the layer at its size is none that symbols describe: then it is enclosed itself."""
        return spec.input_shape is None or spec.periodic

    def by_layer(self, spec: ConvSpec) -> bool:
        """One search for all groups."""
        del spec
        return True

    def searches(self, spec: ConvSpec) -> bool:
        """Always."""
        del spec
        return True

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Search each layer's blocks; or enclose the layers themselves."""
        if not self.folds(spec):
            return self._at_size(blocks, spec, ops=ops)
        layers = by_layers(blocks, spec.groups)
        found = [enclose_blocks(layer, spec, self, ops=ops) for layer in layers]
        ends = [f for f, _ in found]
        u, v, _, phase, owner = tops(layers, ends, ops=ops)
        done = [done and spec.copies == 1 for _, done in found]
        frequencies = [f.frequency.angles[0] for f in ends]
        stats = _columns(ends, done, frequencies, like=blocks, ops=ops)
        return Evaluation(stats[-1], (*stats[:-1], u, v), (u, v, phase, owner))

    def _at_size(self, kernels: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Lanczos from below; from above the layer's matrix if it is small, and sigma* with the padding's factor."""
        xp = ops.xp
        blocks = polyphase.to_blocks(kernels, replace(spec, layout=None), xp=xp)
        everywhere = replace(spec, input_shape=None)
        layers = by_layers(blocks, spec.groups)
        found = [enclose_blocks(layer, everywhere, self, ops=ops)[0] for layer in layers]
        suprema = ops.from_numpy(np.asarray([f.upper for f in found]), kernels)
        ends = enclose_layer(kernels, spec, rtol=self.rtol, supremum=suprema, ops=ops)
        lower, upper = (ops.to_numpy(x) for x in (ends.lower, ends.upper))
        found = [replace(f, lower=a, upper=b) for f, a, b in zip(found, lower.tolist(), upper.tolist(), strict=True)]
        done = [f.upper <= f.lower * (1 + self.rtol) for f in found]
        # A witness of such a layer has no frequency.
        stats = _columns(found, done, [()] * len(found), like=kernels, ops=ops)
        layer = Convolution(kernels, spec, ops=ops)
        gradient = layer.kernel_gradient(ends.u[:, None, :], ends.v[:, None, :])[:, 0, ...]
        return Evaluation(stats[-1], (*stats[:-1], ends.u, ends.v), (gradient,))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
        """Gradient of the norm at the witness."""
        if not self.folds(spec):
            (gradient,) = residuals
            return gradient * xp.reshape(cotangent, (-1,) + (1,) * (gradient.ndim - 1))
        return top_gradient(residuals, cotangent, spec, xp=xp)


def _columns(
    found: list[SearchResult], done: list[bool], frequencies: list[Any], *, like: Array, ops: ArrayOps
) -> tuple[Array, ...]:
    """Lower ends, convergence, cells, levels and frequencies of some layers, and their upper ends."""
    columns = (
        np.asarray([f.lower for f in found], dtype=np.float64),
        np.asarray(done, dtype=np.bool_),
        np.asarray([f.cells for f in found], dtype=np.int32),
        np.asarray([f.levels for f in found], dtype=np.int32),
        np.asarray(frequencies, dtype=np.float64),
        np.asarray([f.upper for f in found], dtype=np.float64),
    )
    return tuple(ops.from_numpy(column, like) for column in columns)


_CERTIFY_LEVELS = 40
"""Rounds after which a norm is called too close to the bound: cells are then within 1e-6 of a point."""


@dataclass(frozen=True)
class Certify(Method):
    """Decide ``norm <= bound`` by proof; not in ``METHODS``, since its value is no measurement.

    Parameters
    ----------
    bound : float
    max_cells : int
        Budget.
    """

    bound: float
    max_cells: int = 100_000

    name: ClassVar[str] = "certify"
    stats: ClassVar[Mapping[str, Rounds | None]] = {"proven": None, "refuted": None}
    wide: ClassVar[bool] = True
    scaled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.bound < math.inf:
            raise MethodError(f"bound={self.bound!r} is no norm: give a finite number of at least 0.")

    def kind(self, spec: ConvSpec) -> Kind:
        """Exact: a verdict."""
        del spec
        return "exact"

    def check(self, spec: ConvSpec) -> None:
        """As for an enclosure."""
        Enclose(max_cells=self.max_cells).check(spec)

    def searches(self, spec: ConvSpec) -> bool:
        """Always."""
        del spec
        return True

    def folds(self, spec: ConvSpec) -> bool:
        """As for an enclosure."""
        return Enclose().folds(spec)

    def by_layer(self, spec: ConvSpec) -> bool:
        """One search for all groups."""
        del spec
        return True

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Search each layer for a norm above the bound."""
        xp = ops.xp
        verdicts = []
        for layer in by_layers(blocks, spec.groups if self.folds(spec) else 1):
            flat, exponent = arrays.scale(xp.reshape(layer, (1, -1)), xp=xp)
            layer = xp.reshape(flat, layer.shape)
            bound = _scaled_bound(self.bound, int(exponent[0]))
            if self.folds(spec):
                # Padding that repeats pixels may lift the norm: then less is proven than what is refuted.
                target = bound if spec.copies == 1 else host.div_down(bound, host.root_up(spec.copies))
                found = self._decide(layer, spec, target, ops=ops)
                verdicts.append((found.upper <= target, found.lower > bound))
            else:
                verdicts.append(self._decide_at_size(layer, spec, bound, ops=ops))
        value = ops.from_numpy(np.full(len(verdicts), self.bound), blocks)
        proven, refuted = (ops.from_numpy(np.asarray(x, dtype=np.bool_), blocks) for x in zip(*verdicts, strict=True))
        return Evaluation(value, (proven, refuted), (value,))

    def _decide_at_size(self, kernel: Array, spec: ConvSpec, bound: float, *, ops: ArrayOps) -> tuple[bool, bool]:
        """By sigma* if that is below the bound already, else by ever closer enclosures of the layer itself."""
        xp = ops.xp
        blocks = polyphase.to_blocks(kernel, replace(spec, layout=None), xp=xp)
        target = host.div_down(bound, host.root_up(spec.copies))
        found = self._decide(blocks, replace(spec, input_shape=None), target, ops=ops)
        if found.upper <= target:
            return True, False
        for rtol in (1e-3, 1e-6, 1e-9):
            ends = enclose_layer(kernel, spec, rtol=rtol, ops=ops)
            lower, upper = float(ends.lower[0]), float(ends.upper[0])
            if lower > bound or upper <= bound or upper > lower * (1 + rtol):
                break
        return upper <= bound, lower > bound

    def _decide(self, blocks: Array, spec: ConvSpec, bound: float, *, ops: ArrayOps) -> SearchResult:
        xp = ops.xp
        cut = polyphase.support(blocks, ops=ops)
        if not float(xp.max(xp.abs(cut))) > 0:
            return nothing(spec)
        search, cover = Search(cut, ops=ops), torus(cut.shape[3:])
        found = search.run(cover, bound=bound, max_cells=self.max_cells, max_levels=_CERTIFY_LEVELS)
        if math.isfinite(found.upper) or spec.input_shape is None:
            return found
        sizes = tuple(1 if k == 1 else n for n, k in zip(spec.grid_shape, cut.shape[3:], strict=True))
        whole = search.run(cover, rtol=1e-3, grid_follows=True, max_cells=self.max_cells)
        supremum = whole.upper if math.isfinite(whole.upper) else _anything(cut)
        return search.run(dft(sizes, cut.shape[3:]), bound=bound, supremum=supremum, max_cells=self.max_cells)

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
        """Zero: a verdict is locally constant."""
        del residuals
        if self.folds(spec):
            shape = (cotangent.shape[0] * spec.groups, *spec.block_shape)
        else:
            shape = (cotangent.shape[0], *spec.stored_channels, *spec.kernel_shape)
        zero = xp.reshape(xp.sum(cotangent) * 0, (1,) * len(shape))
        return xp.broadcast_to(zero, shape)


def _scaled_bound(bound: float, power: int) -> float:
    """``bound * 2**-power``, exactly; or, where that is far from every norm of a kernel of about 1, one of the ends.

    No such norm lies between an end and what it stands for, so a verdict at the end is one at the bound.
    """
    if bound == 0:
        return 0.0
    exponent = math.frexp(bound)[1] - power
    return math.ldexp(bound, -power) if abs(exponent) < 460 else 1e140 if exponent > 0 else 1e-140


def by_layers(blocks: Array, groups: int) -> list[Array]:
    """Split (layers * groups, ...) into the blocks of each layer."""
    return [blocks[first : first + groups, ...] for first in range(0, blocks.shape[0], groups)]


def nothing(spec: ConvSpec) -> SearchResult:
    """The norm of a zero kernel."""
    return SearchResult(0.0, 0.0, Frequencies(np.zeros((1, spec.ndim), dtype=np.int64), (1,) * spec.ndim), 0, 0, 0)


_SUPREMUM = 2e-3
"""Tolerance of the supremum that a search of a grid with 1000 points starts from; less for larger ones."""


def enclose_blocks(blocks: Array, spec: ConvSpec, method: Enclose, *, ops: ArrayOps) -> tuple[SearchResult, bool]:
    """Enclose the largest norm of one layer's blocks to the method's tolerance, or as well as its budget allows.

    Returns
    -------
    found : SearchResult
        Both ends finite.
    converged : bool
    """
    xp = ops.xp
    cut = polyphase.support(blocks, ops=ops)
    if not float(xp.max(xp.abs(cut))) > 0:
        return nothing(spec), True
    search = Search(cut, ops=ops)
    cover, rtol = torus(cut.shape[3:]), method.rtol
    if spec.input_shape is None:
        found = search.run(cover, rtol=rtol, max_cells=method.max_cells)
    else:
        found = _at_points(search, cut, cover, spec, method, blocks, ops=ops)
    if math.isfinite(found.upper):
        return found, found.upper <= found.lower * (1 + rtol)
    return widened(search, cover, found, method, blocks, spec, ops=ops), False


def _at_points(
    search: Search,
    cut: Array,
    torus_: Boxes,
    spec: ConvSpec,
    method: Enclose,
    blocks: Array,
    *,
    ops: ArrayOps,
) -> SearchResult:
    """Enclose the largest norm at the DFT frequencies of a circular layer.

    The torus gives the S of the grid's lemma: close, so that few grid points are left, but no closer. Where that takes
    many cells the norm is nearly constant, and every point is visited.
    """
    sizes = tuple(1 if k == 1 else n for n, k in zip(spec.grid_shape, cut.shape[3:], strict=True))
    count, rtol = math.prod(sizes) // 2 + 1, method.rtol
    loose = 0.97 * rtol if rtol >= 1e-3 else _SUPREMUM * min(1.0, (1000 / math.prod(sizes)) ** 0.3)
    # What the torus leaves of the points is little for a loose tolerance, and costs as much again for a tight one.
    most = min(method.max_cells, count if rtol >= 1e-3 else max(count // 3, len(torus_)))
    # The best point of a fine grid is so close to the torus' maximum that the supremum alone rules all others out.
    apart = sum((k - 1) / 2 * math.pi / n for k, n in zip(cut.shape[3:], sizes, strict=True))
    fine = rtol >= 1e-3 and 1 - math.cos(min(apart, math.pi / 2)) < 0.02 * rtol
    whole = search.run(torus_, rtol=loose, grid_follows=not fine, max_cells=most)
    start = search.at_nearest(whole, sizes)
    found = replace(start, upper=math.inf, cells=0)
    if math.isinf(whole.upper) and count <= method.max_cells:
        points = single_points(half_grid(sizes), cut.shape[3:])
        found = search.run(points, rtol=rtol, supremum=_anything(cut), start=start, max_cells=method.max_cells)
    if math.isinf(found.upper):
        if math.isinf(whole.upper):
            whole = widened(search, torus_, whole, method, blocks, spec, ops=ops)
        cover = dft(sizes, cut.shape[3:])
        found = search.run(cover, rtol=rtol, supremum=whole.upper, start=start, max_cells=method.max_cells)
    return replace(found, upper=min(found.upper, whole.upper), cells=found.cells + whole.cells)


def _anything(cut: Array) -> float:
    """More than the norm of any block scaled to about 1."""
    return 1e3 * float(math.prod(cut.shape))


def widened(
    search: Search,
    cover: Boxes,
    found: SearchResult,
    method: Enclose,
    blocks: Array,
    spec: ConvSpec,
    *,
    ops: ArrayOps,
) -> SearchResult:
    """Prove what the budget allows: ten times wider each time, at the end by two bounds of fixed cost."""
    xp = ops.xp
    rtol, cells = method.rtol, found.cells
    while rtol < 1:
        rtol *= 10
        wider = search.run(cover, rtol=rtol, start=found, max_cells=method.max_cells)
        cells += wider.cells
        if math.isfinite(wider.upper):
            return replace(wider, cells=cells)
    bounds = [m.forward(blocks, spec, ops=ops).value for m in (FantasticFour(), Grid())]
    return replace(found, upper=min(float(xp.max(bound)) for bound in bounds), cells=cells)


def top_at(block: Array, frequency: Frequencies, *, ops: ArrayOps) -> tuple[Array, Array, Array, Array]:
    """Top singular triple of one block at one frequency, and the taps' phases there."""
    xp = ops.xp
    phase = symbols.Symbol(block, frequency, ops=ops).phase
    u, v, value = symbols.top_triple(symbols.matrix_at(block, phase, xp=xp), xp=xp)
    return u, v, value, phase


def tops(layers: list[Array], found: list[SearchResult], *, ops: ArrayOps) -> tuple[Array, ...]:
    """u, v, sigma, phases and group of the top singular triple of each layer at what a search found."""
    xp = ops.xp
    triples = [
        top_at(blocks[f.block : f.block + 1, ...], f.frequency, ops=ops)
        for blocks, f in zip(layers, found, strict=True)
    ]
    owner = ops.from_numpy(np.asarray([f.block for f in found], dtype=np.int64), layers[0])
    return *(xp.concat(list(x), axis=0) for x in zip(*triples, strict=True)), owner


def top_gradient(residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
    """Gradient of a singular value with respect to all blocks of its layer, from u, v, phases and group."""
    u, v, phase, owner = residuals
    gradient = symbols.triple_gradient(u, v, phase, cotangent, spec.block_kernel_shape, xp=xp)
    gradient = arrays.one_hot(gradient, owner, spec.groups, xp=xp)
    return xp.reshape(gradient, (-1, *gradient.shape[2:]))
