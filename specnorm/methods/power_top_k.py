"""The k largest singular values of the layer itself, from below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from specnorm import arrays
from specnorm.certified.layer.own_matrix import residuals_up
from specnorm.methods.base import Evaluation, Needs, check_count
from specnorm.methods.power import LayerRitz
from specnorm.problem.layer_map import shapes_of

if TYPE_CHECKING:
    from specnorm.certified.rounding import Rounds
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import Array, ArrayOps, Namespace


@dataclass(frozen=True)
class PowerTopK(LayerRitz):
    """The k largest singular values of the layer itself, each from below: block Lanczos with QR.

    Parameters
    ----------
    n_iter, seed, rtol
        As in `Power`.
    k : int
        How many; at most as many as the layer has.

    References
    ----------
    .. [1] Boroojeny, Telgarsky, Sundaram, "Spectrum Extraction and Clipping for Implicitly Linear Layers", 2024
       (PowerQR: subspace iteration with automatic differentiation). Ours: a block Krylov basis, the layer's own
       adjoint, and each Ritz value a proven lower bound of the singular value of its rank.
    """

    k: int = 4

    name: ClassVar[str] = "power_top_k"
    stats: ClassVar[Mapping[str, Rounds | None]] = {"products": None, "residuals": "up"}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("k", self.k, least=1)

    def needs(self, spec: ConvSpec) -> Needs:
        """As many values as were asked for."""
        return replace(super().needs(spec), value_shape=self._value_shape(spec))

    def _value_shape(self, spec: ConvSpec) -> tuple[int, ...]:
        """(k,), or all there are."""
        inputs, outputs = shapes_of(spec)
        return (min(self.k, int(np.prod(inputs)), int(np.prod(outputs))),)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Ritz values of the block, rounded down."""
        (k,) = self._value_shape(spec)
        found = self.triples(blocks, spec, k, ops=ops)
        u, v = (arrays.in_wide_dtype(x, ops=ops) for x in (found.u, found.v))
        residuals = residuals_up(found.exact, u, v, found.values, ops=ops)
        gradients = found.layer.kernel_gradient(found.u, found.v)
        return Evaluation(found.values, (found.products, residuals), (gradients,))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
        """Gradients of Re<u_j, A v_j>, weighted."""
        (gradients,) = residuals
        weights = xp.reshape(cotangent, (*cotangent.shape, *(1,) * (gradients.ndim - 2)))
        return xp.sum(gradients * weights, axis=1)
