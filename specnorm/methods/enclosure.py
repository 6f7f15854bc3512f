"""Enclosures: lower <= norm <= upper, both proven, by branch and bound over frequencies (`search`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from specnorm.linalg import polyphase
from specnorm.linalg.layer_map import Convolution, shapes_of
from specnorm.linalg.top_triples import top_gradient, top_triples
from specnorm.methods.base import Evaluation, Method, Needs, check_count, check_rtol
from specnorm.methods.fantastic_four import FantasticFour
from specnorm.methods.grid import Grid
from specnorm.search.branch_and_bound import SearchResult
from specnorm.search.enclosing import Problem, enclose_blocks
from specnorm.search.layer import enclose_layer

if TYPE_CHECKING:
    from specnorm.proof.rounding import Rounds
    from specnorm.result import Kind
    from specnorm.spec import ConvSpec
    from specnorm.types import Array, ArrayOps, Namespace


@dataclass(frozen=True)
class Enclose(Method):
    """Proven interval around the norm: of the supremum over all sizes, or of a circular layer at one size.

    The value is the upper bound; the lower one is in the statistics.

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

    def __post_init__(self) -> None:
        check_rtol(self.rtol)
        check_count("max_cells", self.max_cells, least=1)

    def needs(self, spec: ConvSpec) -> Needs:
        """A search for all groups; of the layer itself at a size where symbols do not describe it."""
        return Needs(
            rounds="up",
            precision="wide",
            narrow_gradient=True,
            blocks=spec.input_shape is None or spec.periodic,
            by_layer=True,
            searches=True,
        )

    def kind(self, spec: ConvSpec) -> Kind:
        """Upper."""
        del spec
        return "upper"

    def check(self, spec: ConvSpec) -> None:
        """Every geometry."""
        if not self.needs(spec).blocks:
            shapes_of(spec)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Search each layer's blocks; or enclose the layers themselves."""
        if not self.needs(spec).blocks:
            return self._at_size(blocks, spec, ops=ops)
        layers = polyphase.by_layers(blocks, spec.groups)
        found = [enclosed(layer, spec, self.rtol, self.max_cells, ops=ops) for layer in layers]
        bounds = [f for f, _ in found]
        u, v, _, phase, group = top_triples(layers, [(f.block, f.frequency) for f in bounds], ops=ops)
        done = [done and spec.padding_gain_sq == 1 for _, done in found]
        frequencies = [f.frequency.angles[0] for f in bounds]
        stats = _columns(bounds, done, frequencies, like=blocks, ops=ops)
        return Evaluation(stats[-1], (*stats[:-1], u, v), (u, v, phase, group))

    def _at_size(self, kernels: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Lanczos from below, of a large layer from a plane wave; from above its matrix if small, and sigma*."""
        xp = ops.xp
        blocks = polyphase.to_blocks(kernels, replace(spec, layout=None), xp=xp)
        everywhere = replace(spec, input_shape=None)
        layers = polyphase.by_layers(blocks, spec.groups)
        found = [enclosed(layer, everywhere, self.rtol, self.max_cells, ops=ops)[0] for layer in layers]
        suprema = ops.from_numpy(np.asarray([f.upper for f in found]), kernels)
        near = [(f.block, f.frequency.angles[0]) for f in found]
        bounds = enclose_layer(kernels, spec, rtol=self.rtol, supremum=suprema, near=near, ops=ops)
        lower, upper = (ops.to_numpy(x) for x in (bounds.lower, bounds.upper))
        found = [replace(f, lower=a, upper=b) for f, a, b in zip(found, lower.tolist(), upper.tolist(), strict=True)]
        done = [f.upper <= f.lower * (1 + self.rtol) for f in found]
        # A witness of such a layer has no frequency.
        stats = _columns(found, done, [()] * len(found), like=kernels, ops=ops)
        layer = Convolution(kernels, spec, ops=ops)
        gradient = layer.kernel_gradient(bounds.u[:, None, :], bounds.v[:, None, :])[:, 0, ...]
        return Evaluation(stats[-1], (*stats[:-1], bounds.u, bounds.v), (gradient,))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
        """Gradient of the norm at the witness."""
        if not self.needs(spec).blocks:
            (gradient,) = residuals
            return gradient * xp.reshape(cotangent, (-1,) + (1,) * (gradient.ndim - 1))
        return top_gradient(residuals, cotangent, spec, xp=xp)


def enclosed(blocks: Array, spec: ConvSpec, rtol: float, max_cells: int, *, ops: ArrayOps) -> tuple[SearchResult, bool]:
    """Bounds of the largest norm of one layer's blocks, and whether they are within rtol (`search.enclosing`)."""
    xp = ops.xp

    def fallback() -> float:
        return min(float(xp.max(m.forward(blocks, spec, ops=ops).value)) for m in (FantasticFour(), Grid()))

    return enclose_blocks(Problem(blocks, spec, rtol, max_cells, fallback), ops=ops)


def _columns(
    found: list[SearchResult], done: list[bool], frequencies: list[Any], *, like: Array, ops: ArrayOps
) -> tuple[Array, ...]:
    """Lower bounds, convergence, cells, levels and frequencies of some layers, and their upper bounds."""
    columns = (
        np.asarray([f.lower for f in found], dtype=np.float64),
        np.asarray(done, dtype=np.bool_),
        np.asarray([f.cells for f in found], dtype=np.int32),
        np.asarray([f.levels for f in found], dtype=np.int32),
        np.asarray(frequencies, dtype=np.float64),
        np.asarray([f.upper for f in found], dtype=np.float64),
    )
    return tuple(ops.from_numpy(column, like) for column in columns)
