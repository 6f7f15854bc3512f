"""Enclose the smallest singular value of a layer: from below by the norm of ``c I - K*K``, from above by a vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from specnorm.at_size.proofs.uncut import keeps_smallest
from specnorm.backends import arrays
from specnorm.enclosure.two_sided import TwoSidedSearch, ends_of, figure_arrays, gradients_of, vectors_of
from specnorm.ends.figures import FIGURES, figures_of
from specnorm.ends.smallest_layer import plan_of_own_matrix, smallest_of_layer
from specnorm.ends.smallest_singular_value import smallest_of_blocks
from specnorm.errors import GeometryError
from specnorm.running.base import Evaluation, Method, Needs
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.found import Found


@dataclass(frozen=True)
class Smallest(Method, TwoSidedSearch):
    """Proven interval around the smallest of the ``min(cout, cin)`` singular values at each frequency.

    The value is the lower bound; the upper one is the figure ``upper``.

    Parameters
    ----------
    rtol, max_cells, budget
        As in `Enclose`.

    Notes
    -----
    Entries of ``stats``: ``upper``, a proven upper bound; ``zero``, whether the value could not be proven to be
    positive; ``out_of_cells``, whether the search reached its maximum number of cells; ``converged``, ``cells``,
    ``levels`` and the witness as in `Enclose`.
    """

    name: ClassVar = "smallest"
    quantity: ClassVar = "smallest singular value"
    promise: ClassVar = "lower"
    stats: ClassVar = {"upper": "up", **FIGURES, "u": None, "v": None}

    def needs(self, spec: ConvSpec) -> Needs:
        # The search scales each group by itself: the smallest value is that of a group which may be far weaker.
        return replace(self.needs_of_search(spec, rounds="down"), scaled=False)

    def check(self, spec: ConvSpec) -> None:
        """Refuse layers whose borders cut taps off, unless their own matrix at a given size is small enough."""
        if not spec.symbols_suffice:
            # It raises if the matrix is too large.
            plan_of_own_matrix(spec)
        elif not keeps_smallest(spec):
            raise GeometryError(
                f"at every size, borders with padding_mode={spec.padding_mode!r} and padding={spec.padding} cut taps "
                "off, and the smallest singular value is not that of the symbols. Give input_shape, at which a small "
                'layer\'s own matrix tells it; or padding_mode="circular"; or, with zeros, padding of dilation * '
                "(k - 1) on both sides where there are no fewer outputs than inputs, padding 0 where there are fewer."
            )

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        layers = arrays.by_layers(blocks, spec.groups)
        bounds = [smallest_of_blocks(layer, self.problem(spec), ops=ops) for layer in layers]
        attained = [_attained(layer_bounds, layer, ops=ops) for layer_bounds, layer in zip(bounds, layers, strict=True)]
        u, v, phase, group = (ops.xp.concat(list(x), axis=0) for x in zip(*attained, strict=True))
        no_frequency = (0.0,) * len(spec.block_kernel_shape)
        return self._evaluation(bounds, no_frequency, (u, v), (u, v, phase, group), blocks, ops=ops)

    def forward_kernels(self, kernels: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        bounds = []
        for j in range(kernels.shape[0]):
            bounds.append(smallest_of_layer(kernels[j : j + 1, ...], self.problem(spec), ops=ops))
        vectors = vectors_of(bounds, ops=ops)
        return self._evaluation(bounds, (), vectors, gradients_of(bounds, ops=ops), kernels, ops=ops)

    def _evaluation(
        self,
        bounds: Sequence[Found],
        no_frequency: Sequence[float],
        vectors: tuple[Array, Array],
        residuals: tuple[Array, ...],
        like: Array,
        *,
        ops: ArrayOps,
    ) -> Evaluation:
        """The evaluation of layers, from their bounds and vectors."""
        lower, upper = ends_of(bounds, like, ops=ops)
        search_figures = [figures_of(layer_bounds, self.rtol, no_frequency) for layer_bounds in bounds]
        figures = (upper, *figure_arrays(search_figures, like, ops=ops), *vectors)
        claims = [layer_bounds.ends for layer_bounds in bounds]
        return Evaluation(lower, figures, residuals, claims)


def _attained(
    bounds: Found,
    layer: Array,
    *,
    ops: ArrayOps,
) -> tuple[Array, Array, Array, Array]:
    """Where the smallest singular value of a layer's blocks (g, m, p, *kernel_shape) is attained.

    Returns ``u``, ``v`` (1, m) and (1, p): singular vectors; zeros if the search has no witness; ``phase`` (1, taps):
    e^{i k.theta} at the frequency of the witness; ``block`` (1,): number of the block.
    """
    xp = ops.xp
    _, m, p, *kernel_shape = layer.shape
    witness = bounds.witness
    if witness.u is None:
        options: dict[str, Any] = {"dtype": layer.dtype, "device": ops.device(layer)}
        u, v, phase = (xp.zeros((1, n), **options) + 0j for n in (m, p, math.prod(kernel_shape)))
        return u, v, phase, ops.from_numpy(np.zeros(1, dtype=np.int64), layer)
    block, _ = arrays.scale(layer[witness.block : witness.block + 1, ...], xp=xp)
    polynomial = Polynomial(block, xp=xp)
    phase = polynomial.at(witness.frequency, ops=ops).phase
    # The search transposes blocks with fewer rows than columns, and cuts off borders of zero taps, which changes the
    # symbol by a phase. So only the vector on the side of p channels is taken; u is computed from it.
    v = xp.conj(witness.u) if m < p else witness.v
    u, _ = arrays.normalise(xp.matmul(polynomial.matrix_at(phase), v[..., None])[..., 0], xp=xp)
    return u, v, phase, ops.from_numpy(np.asarray([witness.block], dtype=np.int64), layer)
