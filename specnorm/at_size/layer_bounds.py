"""Two proven bounds of the norm of a layer at one size, with their witness."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from specnorm.at_size import layer_tuning
from specnorm.proofs.bound import Lower
from specnorm.proofs.found import BoundSource, Found, Witness

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec


def no_bounds(kernel: Array, layer: ConvSpec, spec: ConvSpec, *, ops: ArrayOps) -> Found:
    """Bounds of a layer with a kernel (1, *shape), or of one of its components, before any attempt."""
    inputs, outputs = witness_shapes(layer)

    def zeros(shape: tuple[int, ...]) -> Array:
        return ops.xp.zeros((1, math.prod(shape)), dtype=kernel.dtype, device=ops.device(kernel))

    witness = Witness(u=zeros(outputs), v=zeros(inputs), gradient=partial(ops.xp.zeros_like, kernel))
    # The source has no meaning: there is no upper bound.
    return Found(Lower.trivial(spec), None, witness, source=BoundSource.MATRIX)


def witness_shapes(spec: ConvSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the layer's input and output; (0,) for both if they are too large for vectors to be returned."""
    inputs, outputs = spec.shapes
    if math.prod(inputs) + math.prod(outputs) > layer_tuning.WITNESS_ENTRIES:
        return (0,), (0,)
    return inputs, outputs
