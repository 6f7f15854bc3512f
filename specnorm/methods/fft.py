"""Exact norms: over the DFT frequencies of a circular layer (Sedghi, Gupta and Long 2019), or over all frequencies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from specnorm import arrays
from specnorm.certified.symbol import symbols
from specnorm.clock import Clock
from specnorm.errors import Undecided
from specnorm.methods import requirements
from specnorm.methods.base import Evaluation, Method, Needs, check_budget, check_count, check_rtol
from specnorm.problem import polyphase
from specnorm.problem.frequencies import Frequencies, half_grid
from specnorm.search.constant import top_gradient, top_triples
from specnorm.search.enclosing import enclose_blocks, grid_sizes
from specnorm.search.result import Problem

if TYPE_CHECKING:
    from specnorm.certified.rounding import Rounds
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import Array, ArrayOps, Namespace

_FEW = 24
"""Grids of at most this many frequencies are not worth a search."""


@dataclass(frozen=True)
class ExactFFT(Method):
    """Norm of a circular layer at one input size, or the supremum over all sizes, to a relative tolerance.

    The symbols are matrix products with tables of cosines, not an FFT: a kernel larger than the input wraps by itself,
    and no frequency is stored. Large grids are searched by cells (`search`), so that the cost hardly grows with
    the input; small ones, and every grid under a tracer or where each new shape costs a compilation, are visited whole.

    Parameters
    ----------
    rtol : float
        The value is at most this far, relatively, below the norm.
    max_cells : int
        Budget of the search.
    budget : float, optional
        Seconds for the search; what has not begun by then is not tried.

    References
    ----------
    .. [1] Sedghi, Gupta, Long, "The Singular Values of Convolutional Layers", ICLR 2019, theorem 6.
    """

    rtol: float = 1e-6
    max_cells: int = 100_000
    budget: float | None = None

    name: ClassVar[str] = "fft"
    promise: ClassVar[Kind] = "exact"
    stats: ClassVar[Mapping[str, Rounds | None]] = {"frequencies": None}

    def __post_init__(self) -> None:
        check_rtol(self.rtol)
        check_count("max_cells", self.max_cells, least=1)
        check_budget(self.budget)

    def needs(self, spec: ConvSpec) -> Needs:
        """One search for all groups, for the supremum: no fixed set of frequencies gives that."""
        return Needs(
            precision="wide",
            narrow_gradient=True,
            small_products=True,
            by_layer=True,
            searches=spec.input_shape is None,
        )

    def check(self, spec: ConvSpec) -> None:
        """Circular at a given size, or every size at once."""
        requirements.require_exact(spec, "conv_norm")

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        budget = self.max_cells
        if spec.input_shape is not None:
            every = half_grid(grid_sizes(spec, spec.block_kernel_shape))
            # An eigenvalue takes as long as some proofs: a search with many more cells than frequencies has lost.
            budget = min(budget, 2 * len(every))
            # Of a matrix there is one frequency, whose norm Lanczos finds sooner.
            if not ops.concrete or 1 < len(every) <= _FEW:
                return self._visit_all(blocks, spec.groups, every, ops=ops)
        layers = polyphase.by_layers(blocks, spec.groups)
        limits = (spec, self.rtol, budget, clock := Clock.of(self.budget))
        found = [enclose_blocks(Problem(layer, *limits), ops=ops) for layer in layers]
        if not all(converged for _, converged in found):
            late = clock.expired
            if spec.input_shape is not None and len(every) <= self.max_cells and not late:
                return self._visit_all(blocks, spec.groups, every, ops=ops)
            limit = f"{self.budget:g} s" if late else f"{self.max_cells} cells"
            raise Undecided(
                f"the norm is not known to rtol={self.rtol:g} within {limit} (many are needed where "
                "it is nearly constant). enclose(kernel) returns what is proven; or give a larger rtol."
            )
        u, v, value, phase, group = top_triples(layers, [(f.block, f.frequency, f.vectors) for f, _ in found], ops=ops)
        visited = ops.from_numpy(np.asarray([f.cells for f, _ in found], dtype=np.int32), blocks)
        return Evaluation(value, (visited,), (u, v, phase, group))

    def _visit_all(self, blocks: Array, groups: int, every: Frequencies, *, ops: ArrayOps) -> Evaluation:
        xp = ops.xp
        _, phase = symbols.largest(_norms(xp), blocks, every, ops=ops)
        u, v, value = symbols.top_triple(symbols.matrix_at(blocks, phase, xp=xp), xp=xp)
        u, v, value, phase = (xp.reshape(x, (-1, groups, *x.shape[1:])) for x in (u, v, value, phase))
        group = xp.argmax(value, axis=1)
        u, v, value, phase = (arrays.pick(x, group, xp=xp) for x in (u, v, value, phase))
        visited = xp.full(value.shape, groups * len(every), dtype=xp.int32, device=ops.device(blocks))
        return Evaluation(value, (visited,), (u, v, phase, group))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
        """Re(conj(u_o) v_i e^{i k.theta}) at the arg-max frequency of the arg-max group."""
        return top_gradient(residuals, cotangent, spec, xp=xp)


def _norms(xp: Namespace) -> Callable[[symbols.Symbol], Array]:
    def norms(symbol: symbols.Symbol) -> Array:
        gram = arrays.gram_smaller(symbol.matrices(), xp=xp)
        top = xp.linalg.eigvalsh((gram + arrays.adjoint(gram, xp=xp)) / 2)[..., -1]
        return xp.sqrt(xp.maximum(top, xp.zeros_like(top)))

    return norms
