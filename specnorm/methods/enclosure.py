"""Enclosures: lower <= norm <= upper, both proven, by branch and bound over frequencies (`methods.search`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from specnorm import arrays, operators
from specnorm.cells import dft, torus
from specnorm.errors import GeometryError, MethodError
from specnorm.frequencies import Frequencies
from specnorm.methods.base import Evaluation, Method, check_count
from specnorm.methods.search import Found, Search
from specnorm.methods.unfolding import FantasticFour

if TYPE_CHECKING:
    from specnorm.backends import Array, Backend
    from specnorm.conv import ConvSpec
    from specnorm.result import Kind
    from specnorm.rounding import Rounds


@dataclass(frozen=True)
class Enclose(Method):
    """Proven interval around the norm: of the supremum over all sizes, or of a circular layer at one size.

    The value is the upper end; the lower one is in the statistics.

    Parameters
    ----------
    rtol : float
        Relative width asked for. Where the budget ends first the interval is wider, and ``converged`` is False.
    max_cells : int
        Budget of one search; a wider one may follow.
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

    def __post_init__(self) -> None:
        check_rtol(self.rtol)
        check_count("max_cells", self.max_cells, least=1)

    def kind(self, spec: ConvSpec) -> Kind:
        """Upper."""
        del spec
        return "upper"

    def check(self, spec: ConvSpec) -> None:
        """Refuse non-circular layers at one size."""
        super().check(spec)
        if spec.input_shape is not None and not spec.periodic:
            raise GeometryError(
                f"enclose at one input_shape needs padding_mode='circular' and padding='same' in this version; got "
                f"{spec.padding_mode!r}, {spec.padding}. Leave input_shape out: the upper end holds at every size."
            )

    def searches(self, spec: ConvSpec) -> bool:
        """Always."""
        del spec
        return True

    def forward(self, blocks: Array, spec: ConvSpec, *, xp: Any, backend: Backend) -> Evaluation:
        """Search each block."""
        found = [
            enclose_block(blocks[j : j + 1, ...], spec, self, xp=xp, backend=backend) for j in range(blocks.shape[0])
        ]

        def column(values: list[Any], dtype: Any) -> Array:
            return backend.from_numpy(np.asarray(values, dtype=dtype), blocks)

        triples = [
            top_at(blocks[j : j + 1, ...], f.frequency, xp=xp, backend=backend) for j, (f, _) in enumerate(found)
        ]
        u, v, _, phase = (xp.concat(list(x), axis=0) for x in zip(*triples, strict=True))
        stats = (
            column([f.lower for f, _ in found], np.float64),
            column([done and spec.copies == 1 for _, done in found], np.bool_),
            column([f.cells for f, _ in found], np.int32),
            column([f.levels for f, _ in found], np.int32),
            column([f.frequency.angles[0] for f, _ in found], np.float64),
            u,
            v,
        )
        return Evaluation(column([f.upper for f, _ in found], np.float64), stats, (u, v, phase))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
        """Gradient of the norm at the witness."""
        u, v, phase = residuals
        return operators.triple_gradient(u, v, phase, cotangent, spec.block_kernel_shape, xp=xp)


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

    def forward(self, blocks: Array, spec: ConvSpec, *, xp: Any, backend: Backend) -> Evaluation:
        """Search each block for a norm above the bound."""
        blocks, exponent = arrays.scale(blocks, xp=xp)
        proven, refuted = [], []
        for j, power in enumerate(backend.to_numpy(exponent)):
            bound = _scaled_bound(self.bound, int(power))
            # Padding that repeats pixels may lift the norm: then less is proven than what is refuted.
            target = bound if spec.copies == 1 else bound / math.sqrt(spec.copies) * (1 - 1e-15)
            found = self._decide(blocks[j : j + 1, ...], spec, target, xp=xp, backend=backend)
            proven.append(found.upper <= target)
            refuted.append(found.lower > bound)
        value = backend.from_numpy(np.full(len(proven), self.bound), blocks)
        flags = tuple(backend.from_numpy(np.asarray(x, dtype=np.bool_), blocks) for x in (proven, refuted))
        return Evaluation(value, flags, (value,))

    def _decide(self, block: Array, spec: ConvSpec, bound: float, *, xp: Any, backend: Backend) -> Found:
        nowhere = Frequencies(np.zeros((1, spec.ndim), dtype=np.int64), (1,) * spec.ndim)
        cut = operators.support(block, backend=backend)
        if not float(xp.max(xp.abs(cut))) > 0:
            return Found(0.0, 0.0, nowhere, 0, 0, 0)
        search, cover = Search(cut, xp=xp, backend=backend), torus(cut.shape[3:])
        found = search.run(cover, bound=bound, max_cells=self.max_cells, max_levels=_CERTIFY_LEVELS)
        if math.isfinite(found.upper) or spec.input_shape is None:
            return found
        sizes = tuple(1 if k == 1 else n for n, k in zip(spec.grid_shape, cut.shape[3:], strict=True))
        whole = search.run(cover, rtol=1e-3, max_cells=self.max_cells)
        supremum = whole.upper if math.isfinite(whole.upper) else 1e3 * math.prod(cut.shape)
        return search.run(dft(sizes, cut.shape[3:]), bound=bound, supremum=supremum, max_cells=self.max_cells)

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
        """Zero: a verdict is locally constant."""
        del residuals
        shape = (cotangent.shape[0], *spec.block_shape)
        return xp.broadcast_to(xp.reshape(cotangent * 0, (-1,) + (1,) * (len(shape) - 1)), shape)


def _scaled_bound(bound: float, power: int) -> float:
    """``bound * 2**-power``, exactly; or, where that is far from every norm of a kernel of about 1, one of the ends.

    No such norm lies between an end and what it stands for, so a verdict at the end is one at the bound.
    """
    if bound == 0:
        return 0.0
    exponent = math.frexp(bound)[1] - power
    return math.ldexp(bound, -power) if abs(exponent) < 460 else 1e140 if exponent > 0 else 1e-140


def check_rtol(rtol: object) -> None:
    """Refuse a relative tolerance outside (0, 1)."""
    if not isinstance(rtol, (int, float)) or not 0 < rtol < 1:
        raise MethodError(f"rtol={rtol!r} is not between 0 and 1: give a relative width such as 1e-3.")


def enclose_block(block: Array, spec: ConvSpec, method: Enclose, *, xp: Any, backend: Backend) -> tuple[Found, bool]:
    """Enclose one block's norm to the method's tolerance, or as well as its budget allows.

    Returns
    -------
    found : Found
        Both ends finite.
    converged : bool
    """
    cut = operators.support(block, backend=backend)
    if not float(xp.max(xp.abs(cut))) > 0:
        return Found(0.0, 0.0, Frequencies(np.zeros((1, spec.ndim), dtype=np.int64), (1,) * spec.ndim), 0, 0, 0), True
    search = Search(cut, xp=xp, backend=backend)
    cover, rtol = torus(cut.shape[3:]), method.rtol
    if spec.input_shape is None:
        found = search.run(cover, rtol=rtol, max_cells=method.max_cells)
    else:
        # On a grid, the torus gives the S of the grid's lemma; the closer it is, the fewer grid cells are left.
        whole = search.run(cover, rtol=rtol, max_cells=method.max_cells)
        sizes = tuple(1 if k == 1 else n for n, k in zip(spec.grid_shape, cut.shape[3:], strict=True))
        cover = dft(sizes, cut.shape[3:])
        if math.isinf(whole.upper):
            whole = widened(search, torus(cut.shape[3:]), whole, method, block, spec, xp=xp, backend=backend)
        start = search.at_nearest(whole, sizes)
        found = search.run(cover, rtol=rtol, supremum=whole.upper, start=start, max_cells=method.max_cells)
        found = replace(found, upper=min(found.upper, whole.upper), cells=found.cells + whole.cells)
    if math.isfinite(found.upper):
        return found, found.upper <= found.lower * (1 + rtol)
    return widened(search, cover, found, method, block, spec, xp=xp, backend=backend), False


def widened(
    search: Search,
    cover: Any,
    found: Found,
    method: Enclose,
    block: Array,
    spec: ConvSpec,
    *,
    xp: Any,
    backend: Backend,
) -> Found:
    """Prove what the budget allows: ten times wider each time, and at the end the unfolding bound."""
    rtol, cells = method.rtol, found.cells
    while rtol < 1:
        rtol *= 10
        wider = search.run(cover, rtol=rtol, start=found, max_cells=method.max_cells)
        cells += wider.cells
        if math.isfinite(wider.upper):
            return replace(wider, cells=cells)
    four = FantasticFour().forward(block, spec, xp=xp, backend=backend)
    return replace(found, upper=float(four.value[0]), cells=cells)


def top_at(block: Array, frequency: Frequencies, *, xp: Any, backend: Backend) -> tuple[Array, Array, Array, Array]:
    """Top singular triple of one block at one frequency, and the taps' phases there."""
    phase = operators.Symbol(block, frequency, xp=xp, backend=backend).phase
    u, v, value = operators.top_triple(operators.matrix_at(block, phase, xp=xp), xp=xp)
    return u, v, value, phase
