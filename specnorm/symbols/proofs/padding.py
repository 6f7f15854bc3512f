"""What padding does to the norm: the bound of a layer from that of its symbols."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from specnorm.proofs import host
from specnorm.proofs.bound import ALL_FREQUENCIES, HypothesisError, Upper, _upper, largest_of_blocks, trivial_lower
from specnorm.proofs.cells import Circulant

if TYPE_CHECKING:
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.bound import Lower


def padded_norm(norm: Upper, spec: ConvSpec) -> Upper:
    """Bound the norm of a layer by that of its convolution, times the norm of its padding.

    The layer pads its input, applies the convolution on infinitely many pixels, or on a circulant, and restricts the
    result. Padding as a linear map has a norm of at most ``sqrt(padding_gain_sq)``; more than 1 if pixels are repeated.

    Parameters
    ----------
    norm : Upper
        Bound of the norms of the blocks' symbols at all frequencies, or, for a periodic layer, at those of its size.
    """
    if norm.what != ALL_FREQUENCIES and not _is_circulant_of(norm.what, spec):
        raise HypothesisError(f"{norm.what} is not the norm of the layer's convolution")
    gain_sq = spec.padding_gain_sq
    if gain_sq == 1:
        return _upper(norm.value, spec, "no larger than its symbol", norm)
    rule = f"times {math.sqrt(gain_sq):.4g} for the padding, which repeats pixels"
    return _upper(host.mul_up(norm.value, host.root_up(gain_sq)), spec, rule, norm)


def bounds_of_layers(suprema: Sequence[Upper], spec: ConvSpec) -> list[tuple[Lower, Upper]]:
    """Bound the norms of layers of one geometry by 0 and by bounds of their convolutions."""
    return [(trivial_lower(), padded_norm(supremum, spec)) for supremum in suprema]


def bounds_by_blocks(claims: Callable[[], Sequence[Upper]], spec: ConvSpec) -> list[tuple[Lower, Upper]]:
    """Bound the norms of layers of one geometry by 0 and by what claims one bound of each of their blocks."""
    bounds, groups = claims(), spec.groups
    layers = [bounds[first : first + groups] for first in range(0, len(bounds), groups)]
    return bounds_of_layers([largest_of_blocks(layer, groups) for layer in layers], spec)


def _is_circulant_of(what: object, spec: ConvSpec) -> bool:
    """Whether a claim's subject is the circulant that a periodic layer at its size is.

    0 points (along an axis with one tap) stand for any number.
    """
    if not isinstance(what, Circulant) or spec.input_shape is None or not spec.is_circulant:
        return False
    has_points_of_layer = all(points in (0, size) for points, size in zip(what.points, spec.grid_shape, strict=True))
    return has_points_of_layer and not any(what.skew)
