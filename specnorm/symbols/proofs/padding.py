"""What padding does to the norm: the bound of a layer from that of its symbols."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from specnorm.proofs import host
from specnorm.proofs.bound import ALL_FREQUENCIES, HypothesisError, Lower, Upper
from specnorm.proofs.cells import Circulant

if TYPE_CHECKING:
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.bound import Lower


def padded_norm(norm: Upper, spec: ConvSpec) -> Upper:
    """Bound the norm of a layer by that of its convolution, times the norm of its padding.

    The layer pads its input, applies the convolution on infinitely many pixels, or on a circulant, and restricts the
    result. Padding as a linear map has a norm of at most ``sqrt(padding_gain_sq)``; more than 1 if pixels are repeated.

    ``norm``: bound of the norms of the blocks' symbols at all frequencies, or, for a periodic layer, at those of its
    size.
    """
    if not _is_of_symbols(norm.what) or (isinstance(norm.what, Circulant) and not _is_circulant_of(norm.what, spec)):
        raise HypothesisError(f"{norm.what} is not the norm of the layer's convolution")
    gain_sq = spec.padding_gain_sq
    if gain_sq == 1:
        return Upper._by_rule(norm.value, spec, "no larger than its symbol", norm)
    rule = f"times {math.sqrt(gain_sq):.4g} for the padding, which repeats pixels"
    return Upper._by_rule(host.mul_up(norm.value, host.root_up(gain_sq)), spec, rule, norm)


def largest_of_blocks(bounds: Sequence[Upper], count: int) -> Upper:
    """Bound the largest norm of the symbols of some blocks, from one upper bound for each, all at the same frequencies.

    Of a layer's blocks these are all frequencies, or those of a circulant.
    """
    subjects = {bound.what for bound in bounds}
    if len(bounds) != count or len(subjects) != 1 or not all(_is_of_symbols(what) for what in subjects):
        raise HypothesisError(f"{len(bounds)} bounds of {count} blocks")
    if len(bounds) == 1:
        return bounds[0]
    return Upper._largest(bounds, bounds[0].what, f"the largest of {len(bounds)} groups")


def bounds_by_blocks(claims: Callable[[], Sequence[Upper]], spec: ConvSpec) -> list[tuple[Lower, Upper]]:
    """Bound the norms of layers of one geometry by 0 and by what claims one bound of each of their blocks."""
    bounds, groups = claims(), spec.groups
    layers = [bounds[first : first + groups] for first in range(0, len(bounds), groups)]
    return [(Lower.trivial(), padded_norm(largest_of_blocks(layer, groups), spec)) for layer in layers]


def _is_of_symbols(what: object) -> bool:
    """Whether a claim's subject is the norms of blocks' symbols: at all frequencies, or at those of a circulant."""
    return what == ALL_FREQUENCIES or isinstance(what, Circulant)


def _is_circulant_of(circulant: Circulant, spec: ConvSpec) -> bool:
    """Whether a layer at its size is this circulant, but for outputs that are left out or repeated.

    0 points (along an axis with one tap) stand for any number.
    """
    if spec.input_shape is None or (spec.ndim and spec.padding_mode != "circular"):
        return False
    points_of_layer = zip(circulant.points, spec.grid_shape, strict=True)
    return all(points in (0, size) for points, size in points_of_layer) and not any(circulant.skew)
