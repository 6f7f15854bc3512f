"""What the supremum over all frequencies, or a circulant's norm, says of a layer: what padding multiplies it by."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm.certified import host
from specnorm.certified.bound import EVERYWHERE, HypothesisError, Upper, _upper
from specnorm.certified.symbol.cells import Circulant

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec


def padded_norm(norm: Upper, spec: ConvSpec) -> Upper:
    """The layer is its convolution on all pixels, or on a circulant, between a padding and a restriction.

    A padding that repeats pixels has a norm of at most ``sqrt(padding_gain_sq)``.
    """
    gain, circulant = spec.padding_gain_sq, norm.what
    same = isinstance(circulant, Circulant) and spec.input_shape is not None and spec.periodic
    if same and isinstance(circulant, Circulant):
        same = all(n in (0, own) for n, own in zip(circulant.points, spec.grid_shape, strict=True)) and not any(
            circulant.skew
        )
    if norm.what != EVERYWHERE and not same:
        raise HypothesisError(f"{norm.what} is not the norm of the layer's convolution")
    if gain == 1:
        return _upper(norm.value, spec, "no larger than its symbol", norm)
    rule = f"times {math.sqrt(gain):.4g} for the padding, which repeats pixels"
    return _upper(host.mul_up(norm.value, host.root_up(gain)), spec, rule, norm)
