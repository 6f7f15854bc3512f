"""Enclosures ``lower <= norm <= upper``, both bounds proven, by searches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from specnorm.backends import arrays
from specnorm.enclosure.two_sided import TwoSidedSearch, ends_of, figure_arrays, gradients_of, vectors_of
from specnorm.proofs.found import BoundSource, Found, Outcome
from specnorm.running.base import Evaluation, Method, Needs
from specnorm.running.proofs import padding
from specnorm.supremum.enclosing import enclose_blocks
from specnorm.symbols import triples
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec


@dataclass(frozen=True)
class Enclose(Method, TwoSidedSearch):
    """Proven interval around the norm: of the supremum over all sizes, or of the layer at one size.

    The value is the upper bound; the lower one is the figure ``lower``.

    Parameters
    ----------
    rtol : float
        Relative width of the interval at which the search stops. If the budget ends before, the interval is wider, and
        ``converged`` is False.
    max_cells : int
        Largest number of cells of one search.
    budget : float, optional
        Seconds for one layer; after them no further step of the search begins. The bound of `FantasticFour`, whose cost
        is fixed, may still follow.

    Notes
    -----
    Entries of ``stats``: ``lower``, a proven lower bound; ``converged``, whether ``rtol`` was reached;
    ``out_of_cells``, whether ``max_cells`` prevented it; ``bound_source``, the member of ``BoundSource`` that says what
    the proof rests on; ``cells``, the number of visited cells; ``levels``, the number of passes over cells; and the
    witness ``frequency``, ``u``, ``v``.
    """

    budget: float | None = None

    name: ClassVar = "enclose"
    promise: ClassVar = "upper"
    stats: ClassVar = {
        "lower": "down",
        "converged": "all",
        "out_of_cells": "any",
        "bound_source": None,
        "cells": "sum",
        "levels": "max",
        "frequency": None,
        "u": None,
        "v": None,
    }

    def needs(self, spec: ConvSpec) -> Needs:
        return replace(self.needs_of_search(spec, rounds="up"), pads=True)

    def check(self, spec: ConvSpec) -> None:
        if not spec.symbols_suffice:
            _ = spec.sides  # raises if there is no such layer

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        layers = arrays.by_layers(blocks, spec.groups)
        results, figures, factors = [], [], []
        for layer in layers:
            result, within_rtol = enclose_blocks(layer, self.problem(spec), ops=ops)
            upper_of_symbols = result.ends[1]
            kernels = ops.to_numpy(layer) if padding.is_split_by_parity(spec) else None
            padded = padding.padded_norm(upper_of_symbols, spec, kernels)
            factors.append(padded.value / upper_of_symbols.value if upper_of_symbols.value else 1.0)
            results.append(replace(result, upper=padded))
            converged = within_rtol and (spec.padding_gain_sq == 1 or results[-1].within(self.rtol))
            angles = result.witness.frequency.angles[0]
            is_out = result.ended is Outcome.CELLS
            figures.append((converged, is_out, BoundSource.SUPREMUM, result.cells, result.levels, angles))
        u, v, phase, group = triples.top_vectors(layers, [result.witness for result in results], ops=ops)
        results = [
            _raised(result, layer, v[j : j + 1, :], ops=ops)
            for j, (result, layer) in enumerate(zip(results, layers, strict=True))
        ]
        lower, upper = ends_of(results, blocks, ops=ops)
        claims = [result.ends for result in results]
        stats = (lower, *figure_arrays(figures, blocks, ops=ops), u, v)
        # The gradient is that of the upper bound: what padding adds to the norm is a factor of it.
        scaled_u = u * ops.from_numpy(np.asarray(factors), blocks)[:, None] if max(factors) > 1 else u
        return Evaluation(upper, stats, (scaled_u, v, phase, group), claims)

    def forward_kernels(self, kernels: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        results = enclose_layers(kernels, spec, self, ops=ops)
        # The vectors that attain the lower bound on such a layer have no single frequency.
        figures = [(x.within(self.rtol), x.ended is Outcome.CELLS, x.source, x.cells, x.levels, ()) for x in results]
        lower, upper = ends_of(results, kernels, ops=ops)
        claims = [result.ends for result in results]
        stats = (lower, *figure_arrays(figures, kernels, ops=ops), *vectors_of(results, ops=ops))
        return Evaluation(upper, stats, gradients_of(results, ops=ops), claims)


def _raised(result: Found, blocks: Array, right: Array, *, ops: ArrayOps) -> Found:
    """The result with the norm at its frequency as lower bound: the vector of a search may not have converged.

    Witnesses with vectors are those of converged ones. ``right`` (1, p): right singular vector at the result's
    frequency.
    """
    if result.witness.v is not None:
        return result
    lower = Polynomial(blocks, xp=ops.xp).at(result.witness.frequency, ops=ops).norm_down(result.witness.block, right)
    return replace(result, lower=lower) if lower > result.lower else result


def enclose_layers(
    kernels: Array,
    spec: ConvSpec,
    method: Enclose,
    *,
    ops: ArrayOps,
) -> list[Found]:
    """Enclose the norms of layers with kernels (b, *shape) at their size; each layer has the whole budget."""
    # Imported here: only layers at a size need it, and it is a fifth of what `enclose` would load.
    from specnorm.at_size.layer import enclose_layer

    results = []
    for j in range(kernels.shape[0]):
        results.append(enclose_layer(kernels[j : j + 1, ...], method.problem(spec), ops=ops))
    return results
