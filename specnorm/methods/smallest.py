"""The smallest singular value of a layer, enclosed: by the norm of ``c I - K*K`` from below, by a vector from above."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from specnorm import arrays
from specnorm.certified.bound import as_array
from specnorm.certified.layer.uncut import keeps_smallest
from specnorm.certified.symbol import symbols
from specnorm.errors import GeometryError
from specnorm.methods.base import Evaluation, Needs, weighted
from specnorm.methods.ends import FIGURES, Ends, columns
from specnorm.problem import polyphase
from specnorm.search.constant import top_gradient

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.certified.rounding import Rounds
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.search.smallest import SmallestBounds
    from specnorm.types import ArrayOps


@dataclass(frozen=True)
class Smallest(Ends):
    """Proven interval around the smallest of the ``min(cout, cin)`` singular values at each frequency.

    The value is the lower bound; the upper one is in the statistics.

    Parameters
    ----------
    rtol : float
        Relative width asked for.
    max_cells : int
        Budget of one search for each group.
    budget : float, optional
        Seconds for one layer; what has not begun by then is not tried.
    """

    name: ClassVar[str] = "smallest"
    quantity: ClassVar[str] = "smallest singular value"
    promise: ClassVar[Kind] = "lower"
    stats: ClassVar[Mapping[str, Rounds | None]] = {"upper": "up", **dict.fromkeys((*FIGURES, "u", "v"))}

    def needs(self, spec: ConvSpec) -> Needs:
        """Searches of blocks; of the layer itself at a size where symbols do not describe it."""
        symbols = spec.input_shape is None or spec.periodic
        return Needs(
            rounds="down", precision="wide", narrow_gradient=True, blocks=symbols, by_layer=True, searches=True
        )

    def check(self, spec: ConvSpec) -> None:
        """Refuse layers whose borders cut taps off, at every size; and at one, if the layer's matrix is too large."""
        if spec.input_shape is not None and not spec.periodic:
            from specnorm.search.smallest_layer import own_plan  # here, since importing it takes a while

            own_plan(spec)
        elif not keeps_smallest(spec):
            raise GeometryError(
                f"at every size, borders with padding_mode={spec.padding_mode!r} and padding={spec.padding} cut taps "
                "off, and the smallest singular value is not that of the symbols. Give input_shape, at which a small "
                'layer\'s own matrix tells it; or padding_mode="circular"; or, with zeros, padding of dilation * '
                "(k - 1) on both sides where there are no fewer outputs than inputs, padding 0 where there are fewer."
            )

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        if not self.needs(spec).blocks:
            return self._at_size(blocks, spec, ops=ops)
        from specnorm.search.smallest import smallest_of_blocks  # here, since importing it takes a while

        layers = polyphase.by_layers(blocks, spec.groups)
        found = [smallest_of_blocks(self.problem(layer, spec), ops=ops) for layer in layers]
        triples = [_triple(x, layer, ops=ops) for x, layer in zip(found, layers, strict=True)]
        u, v, phase, group = (ops.xp.concat(list(x), axis=0) for x in zip(*triples, strict=True))
        nowhere = (0.0,) * len(spec.block_kernel_shape)
        angles = [nowhere if x.witness is None else x.witness.frequency.angles[0] for x in found]
        return self._evaluation(found, angles, (u, v), (u, v, phase, group), blocks, ops=ops)

    def _at_size(self, kernels: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        from specnorm.search.smallest_layer import smallest_of_layer  # here, since importing it takes a while

        layers = (kernels[j : j + 1, ...] for j in range(kernels.shape[0]))
        bounds, witnesses = zip(*(smallest_of_layer(self.problem(x, spec), ops=ops) for x in layers), strict=True)
        u, v, gradient = (ops.xp.concat(list(x), axis=0) for x in zip(*witnesses, strict=True))
        return self._evaluation(bounds, [()] * len(bounds), (u, v), (gradient,), kernels, ops=ops)

    def _evaluation(
        self,
        bounds: Sequence[SmallestBounds],
        angles: Sequence[Sequence[float]],
        vectors: tuple[Array, Array],
        residuals: tuple[Array, ...],
        like: Array,
        *,
        ops: ArrayOps,
    ) -> Evaluation:
        """Of layers whose bounds and witnesses are known."""
        lower, upper = ([getattr(x, end) for x in bounds] for end in ("lower", "upper"))
        outcomes = [self.outcome(x.lower.value, x.upper.value, is_zero=x.is_zero) for x in bounds]
        ended = [(how, x.cells, x.levels, at) for how, x, at in zip(outcomes, bounds, angles, strict=True)]
        figures = (as_array(upper, like, ops=ops), *columns(ended, like, ops=ops), *vectors)
        return Evaluation(as_array(lower, like, ops=ops), figures, residuals, list(zip(lower, upper, strict=True)))

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """That of the singular value at the witness."""
        if not self.needs(spec).blocks:
            return weighted(residuals, cotangent, xp=xp)
        return top_gradient(residuals, cotangent, spec, xp=xp)


def _triple(
    found: SmallestBounds,
    layer: Array,
    *,
    ops: ArrayOps,
) -> tuple[Array, Array, Array, Array]:
    """Vectors (1, m) and (1, p) of the smallest singular value of a layer's blocks, the taps' phases, and the block.

    Zeros where there is no witness.
    """
    xp, (_, m, p, *taps) = ops.xp, layer.shape
    witness = found.witness
    if witness is None:
        nothing: dict[str, Any] = {"dtype": layer.dtype, "device": ops.device(layer)}
        u, v, phase = (xp.zeros((1, n), **nothing) + 0j for n in (m, p, math.prod(taps)))
        return u, v, phase, ops.from_numpy(np.zeros(1, dtype=np.int64), layer)
    block = layer[witness.block : witness.block + 1, ...]
    phase = symbols.Symbol(block, witness.frequency, ops=ops).phase
    # The search saw transposed blocks where there are fewer rows, and none of the outer taps that are 0.
    v = xp.conj(witness.u) if m < p else witness.v
    matrix = symbols.matrix_at(block, phase, xp=xp)
    u, _ = arrays.normalise(xp.matmul(matrix, v[..., None])[..., 0], xp=xp)
    return u, v, phase, ops.from_numpy(np.asarray([witness.block], dtype=np.int64), layer)
