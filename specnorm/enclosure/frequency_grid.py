"""Frequency-grid bound: the largest symbol norm on a uniform grid times a cosine factor bounds every input size."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from specnorm.backends import arrays
from specnorm.enclosure.two_sided import ends_of
from specnorm.errors import MethodError
from specnorm.grid import proof as grid_proof
from specnorm.grid.search import grid_points, largest_bound
from specnorm.proofs.bound import known
from specnorm.proofs.frequencies import Frequencies
from specnorm.running import checks
from specnorm.running.base import Evaluation, Method, Needs
from specnorm.running.search import Problem
from specnorm.supremum.enclosing import enclose_blocks
from specnorm.symbols import triples
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.found import Found

_WORK_OF_A_SEARCH = 2e8
"""Multiplications to factorize a block's symbols on the grid, from which a search takes less time (AVX2)."""


@dataclass(frozen=True)
class Grid(Method):
    """Upper bound on sigma*: the largest symbol norm on a grid of N_1 x ... x N_d frequencies, times a factor.

    The factor is `grid.proof.grid_factor`, a product over the axes. The cost does not depend on the input
    size. With concrete values and no gradient, a search to the relative width ``factor - 1`` replaces a large default
    grid.

    Parameters
    ----------
    n : int or None
        Points along each axis. None: ``10 (k_j - 1)`` along the axis with k_j taps; then the factor is at most 1.03 in
        2-D. Axes with one tap always have one point.

    Notes
    -----
    Entry of ``stats``: ``lower``, a proven lower bound on sigma*.

    References
    ----------
    .. [1] Ehlich, Zeller, "Schwankung von Polynomen zwischen Gitterpunkten", Math. Z. 86, 1964 (a cosine factor).
    .. [2] Pfister, Bresler, "Bounding multivariate trigonometric polynomials", IEEE TSP 67, 2019 (a second factor; the
       smaller one is taken).
    .. [3] Araujo, Negrevergne, Chevaleyre, Atif, "On Lipschitz Regularization of Convolutional Layers using Toeplitz
       Matrix Theory", AAAI 2021 (LipGrid; its factor 1 / (1 - (k-1)/N) is looser).
    """

    n: int | None = None

    name: ClassVar = "grid"
    promise: ClassVar = "upper"
    asks: ClassVar = Needs(rounds="up", precision="wide", narrow_gradient=True, small_products=True)
    stats: ClassVar = {"lower": "down"}
    pullback = staticmethod(triples.top_gradient)

    def __post_init__(self) -> None:
        if self.n is not None:
            checks.count("n", self.n, least=1)

    def sizes(self, kernel_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Grid points along each axis."""
        return grid_points(kernel_shape, self.n)

    def factor(self, kernel_shape: tuple[int, ...]) -> float:
        """The factor by which the largest value on the grid is multiplied."""
        return grid_proof.grid_factor(self.sizes(kernel_shape), kernel_shape)

    def check(self, spec: ConvSpec) -> None:
        """Refuse grids too coarse to determine the symbol."""
        super().check(spec)
        for size, k in zip(self.sizes(spec.block_kernel_shape), spec.block_kernel_shape, strict=True):
            if size <= k - 1:
                (default,) = grid_points((k,), None)
                raise MethodError(
                    f"n={self.n} grid points do not bound a kernel with {k} taps on an axis: give n >= {k}, "
                    f"or leave n out for {default}."
                )

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Bound each block: by a search as close as the grid where that takes less time, else on the grid."""
        xp = ops.xp
        kernel_shape = spec.block_kernel_shape
        sizes = self.sizes(kernel_shape)
        found = self._search(blocks, spec, ops=ops)
        if found:
            lower, upper = ends_of(found, blocks, ops=ops)
            return Evaluation(upper, (lower,), (), [x.ends[1] for x in found])
        _, phase, on_grid = largest_bound(grid_proof.symbol_norms_up, blocks, sizes, ops=ops)
        polynomial = Polynomial(blocks, xp=xp)
        matrices = polynomial.matrix_at(phase)
        u, v, _ = arrays.top_triple(matrices, xp=xp)
        lower = grid_proof.quotient_at_down(matrices, v, polynomial, xp=xp)
        everywhere = grid_proof.norms_by_grid(known(on_grid), xp=xp)
        # The factor of the value is in its gradient.
        return Evaluation(everywhere.values, (lower,), (u * self.factor(kernel_shape), v, phase), everywhere)

    def _search(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> list[Found]:
        """Bounds of the supremum of each block, as close as the grid's; none if the grid takes less time."""
        sizes = self.sizes(spec.block_kernel_shape)
        points = math.prod(Frequencies.half_grid_shape(sizes))
        channels = blocks.shape[1:3]
        is_large = points * math.prod(channels) * min(channels) >= _WORK_OF_A_SEARCH
        if self.n is not None or not is_large or ops.differentiated or not (ops.concrete and ops.on_host):
            return []
        rtol = self.factor(spec.block_kernel_shape) - 1
        problem = Problem(replace(spec, input_shape=None), rtol, points)
        found = []
        for j in range(blocks.shape[0]):
            result, converged = enclose_blocks(blocks[j : j + 1, ...], problem, ops=ops)
            if not converged:
                return []
            found.append(result)
        return found
