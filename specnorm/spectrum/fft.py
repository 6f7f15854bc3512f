"""Exact norms: over the DFT frequencies of a circular layer (Sedghi, Gupta and Long 2019), or over all frequencies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from specnorm.backends import arrays
from specnorm.grid.proof import quotient_at_down
from specnorm.grid.search import largest_bound
from specnorm.proofs.frequencies import Frequencies
from specnorm.running import checks
from specnorm.running.base import Evaluation, Method, Needs, Unreached
from specnorm.running.search import Clock, Problem
from specnorm.supremum import tuning
from specnorm.supremum.enclosing import enclose_blocks, work_of_visits
from specnorm.symbols import triples
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.found import Found


@dataclass(frozen=True)
class ExactFFT(Method):
    """Norm of a circular layer at one input size, or the supremum over all sizes, to a relative tolerance.

    Despite its name, the method uses no FFT. The symbols are matrix products with tables of cosines, so a kernel that
    is larger than the input needs no special case, and the symbols of all frequencies need not be stored at once. Large
    grids are searched by cells (`supremum.enclosing`), so that the cost hardly grows with the input. Small ones are
    visited whole, and so is every grid under a tracer, or where each new shape costs a compilation.

    Parameters
    ----------
    rtol : float
        The value is at most the norm, and below it by at most this relative distance. In float32 under a tracer,
        rounding errors of the symbols are larger, and only the first holds.
    max_cells : int
        Budget of the search.
    budget : float, optional
        Seconds for the searches of all layers together; after them no further step begins.

    Notes
    -----
    Entry of ``stats``: ``frequencies``, how many frequencies or cells were visited.

    References
    ----------
    .. [1] Sedghi, Gupta, Long, "The Singular Values of Convolutional Layers", ICLR 2019, theorem 6.
    """

    rtol: float = 1e-6
    max_cells: int = 100_000
    budget: float | None = None

    name: ClassVar = "fft"
    promise: ClassVar = "exact"
    stats: ClassVar = {"frequencies": "sum"}
    pullback = staticmethod(triples.top_gradient)

    def __post_init__(self) -> None:
        checks.rtol(self.rtol)
        checks.count("max_cells", self.max_cells, least=1)
        checks.budget(self.budget)

    def needs(self, spec: ConvSpec) -> Needs:
        """What the method asks for. It must look at values for the supremum, which no fixed set of frequencies gives.

        At a size it can visit all frequencies instead; a matrix has a single one, and is searched if it is large.
        """
        return Needs(
            rounds="down",
            precision="wide",
            narrow_gradient=True,
            small_products=True,
            by_layer=True,
            searches=not spec.input_shape,
        )

    def check(self, spec: ConvSpec) -> None:
        """Refuse layers whose norm is not that of their symbols."""
        spec.require_exact("conv_norm")

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        search_rtol = checks.search_rtol(self.rtol, ops=ops)
        max_cells = self.max_cells
        sizes: tuple[int, ...] = ()
        points = 0
        if spec.input_shape is not None:
            sizes = spec.grid_sizes(spec.block_kernel_shape)
            points = math.prod(Frequencies.half_grid_shape(sizes))
            # One eigenvalue costs as much as a few cells: beyond two cells for each frequency, visiting all is cheaper.
            max_cells = min(max_cells, 2 * points)
            if not ops.concrete or work_of_visits(blocks, sizes) <= tuning.WORK_OF_VISITS:
                return self._visit_all(
                    blocks, spec.groups, Frequencies.half_grid(sizes), Clock.of(self.budget), ops=ops
                )
        layers = arrays.by_layers(blocks, spec.groups)
        clock = Clock.of(self.budget)
        results = []
        all_converged = True
        for layer in layers:
            result, converged = enclose_blocks(layer, Problem(spec, search_rtol, max_cells, clock), ops=ops)
            results.append(result)
            all_converged = all_converged and converged
        if not all_converged:
            if 0 < points <= self.max_cells and not clock.expired:
                return self._visit_all(blocks, spec.groups, Frequencies.half_grid(sizes), clock, ops=ops)
            raise self._unreached(results)
        witnesses = [result.witness for result in results]
        u, v, phase, group = triples.top_vectors(layers, witnesses, ops=ops)
        best_blocks = [layer[at.block : at.block + 1, ...] for layer, at in zip(layers, witnesses, strict=True)]
        value = _attained(ops.xp.concat(best_blocks, axis=0), v, phase, xp=ops.xp)
        cells = np.asarray([result.cells for result in results], dtype=np.int32)
        return Evaluation(value, (ops.from_numpy(cells, blocks),), (u, v, phase, group))

    def _unreached(self, results: Sequence[Found] = ()) -> Unreached:
        seconds = "" if self.budget is None else f"{self.budget:g} s and "
        return Unreached(
            f"the norm is not known to rtol={self.rtol:g} within {seconds}{self.max_cells} cells (many are needed "
            "where it is nearly constant). enclose(kernel) returns what is proven; or give a larger rtol, or a larger "
            "budget.",
            results,
        )

    def _visit_all(
        self,
        blocks: Array,
        groups: int,
        grid: Frequencies,
        clock: Clock,
        *,
        ops: ArrayOps,
    ) -> Evaluation:
        """Compute the largest norm on a grid. Frequencies that Gram iteration proves to be lower are left out."""
        xp = ops.xp
        work_of_a_frequency = Clock.eigh_cost(min(blocks.shape[1:3]), is_complex=True, vectors=False)
        if ops.concrete and not clock.affords(blocks.shape[0] * len(grid) * work_of_a_frequency):
            raise self._unreached()

        _, phase, _ = largest_bound(_norms, blocks, grid.denominators, ops=ops)
        u, v, _ = arrays.top_triple(Polynomial(blocks, xp=xp).matrix_at(phase), xp=xp)
        value = _attained(blocks, v, phase, xp=xp)
        by_layer = [xp.reshape(x, (-1, groups, *x.shape[1:])) for x in (u, v, value, phase)]
        group = xp.argmax(by_layer[2], axis=1)
        u, v, value, phase = (arrays.pick(x, group, xp=xp) for x in by_layer)
        visited = xp.full(value.shape, groups * len(grid), dtype=xp.int32, device=ops.device(blocks))
        return Evaluation(value, (visited,), (u, v, phase, group))


def _norms(_polynomial: Polynomial, real: Array, imag: Array, *, ops: ArrayOps) -> Array:
    """The norms of symbols as computed, shape (b, f), from both their parts, (b, f, m, p) each."""
    xp = ops.xp
    gram = arrays.gram_smaller(ops.complex(real, imag), xp=xp)
    top = xp.linalg.eigvalsh((gram + arrays.adjoint(gram, xp=xp)) / 2)[..., -1]
    return xp.sqrt(xp.maximum(top, xp.zeros_like(top)))


def _attained(blocks: Array, v: Array, phase: Array, *, xp: Namespace) -> Array:
    """The norm that a vector attains at a frequency, for each block, rounded down."""
    polynomial = Polynomial(blocks, xp=xp)
    return quotient_at_down(polynomial.matrix_at(phase), v, polynomial, xp=xp)
