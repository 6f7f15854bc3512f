"""What padding does to the norm: the bound of a layer from that of its symbols."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from specnorm.proofs import host, rounding
from specnorm.proofs.bound import ALL_FREQUENCIES, HypothesisError, Lower, Upper
from specnorm.proofs.cells import Circulant

if TYPE_CHECKING:
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.bound import Lower


def padded_norm(norm: Upper, spec: ConvSpec, kernels: np.ndarray | None = None) -> Upper:
    """Bound the norm of a layer by that of its convolution, times the norm of its padding.

    The layer pads its input, applies the convolution on infinitely many pixels, or on a circulant, and restricts the
    result. Padding as a linear map has a norm of at most ``sqrt(padding_gain_sq)``; more than 1 if pixels are repeated.
    If the padding is symmetric, the parts of the kernel by parity (`other_parts_up`) may give a smaller bound.

    ``norm``: bound of the norms of the blocks' symbols at all frequencies, or, for a periodic layer, at those of its
    size. ``kernels`` (groups, m, p, *kernel_shape), optional: the kernels of the groups, whose symbols these are.
    """
    if not _is_of_symbols(norm.what) or (isinstance(norm.what, Circulant) and not _is_circulant_of(norm.what, spec)):
        raise HypothesisError(f"{norm.what} is not the norm of the layer's convolution")
    gain_sq = spec.padding_gain_sq
    if gain_sq == 1:
        return Upper._by_rule(norm.value, spec, "no larger than its symbol", norm)
    rule = f"times {math.sqrt(gain_sq):.4g} for the padding, which repeats pixels"
    product = Upper._by_rule(host.mul_up(norm.value, host.root_up(gain_sq)), spec, rule, norm)
    if kernels is None or norm.what != ALL_FREQUENCIES or not is_split_by_parity(spec):
        return product
    rule = "plus the norms of the kernel's other parts by parity, for symmetric padding"
    by_parity = Upper._by_rule(host.add_up(norm.value, other_parts_up(kernels, spec)), spec, rule, norm)
    return Upper.least(product, by_parity)


def is_split_by_parity(spec: ConvSpec) -> bool:
    """Whether `other_parts_up` applies: symmetric padding, stride 1, no more outputs than inputs, taps that reflect."""
    if spec.padding_mode != "symmetric" or spec.transposed or any(s != 1 for s in spec.stride):
        return False
    axes = zip(spec.kernel_shape, spec.dilation, spec.padding, strict=True)
    return all(before + after <= r * (k - 1) and 2 * before % r == 0 for k, r, (before, after) in axes)


def other_parts_up(kernels: np.ndarray, spec: ConvSpec) -> float:
    """Bound what symmetric padding can add to the norm of a convolution's symbols.

    Reason, for n pixels on an axis and a tap at offset o from its output: let E extend a signal to period 2n, symmetric
    about -1/2. Then ``|E x|^2 = 2 |x|^2``. The layer is the circulant C of K on this period, applied to E x and
    restricted to outputs among 0, ..., n - 1. Let J reflect signals, j -> -1 - j. Then J E = E, and J C J is the
    circulant of K reflected, o -> -o. Split K into an even and an odd part. The circulant of a part maps E x to a
    signal that is even or odd under J, so half of its square sum lies on 0, ..., n - 1. So the layer of a part has at
    most the norm of the part's symbols, and the layer of K at most the sum over its parts. With several axes there is a
    part for each choice of parities. A part is a mean of reflections of K, up to signs, and each reflection has the
    symbols of K at other frequencies. So the norm of one part, here the largest, is at most that of K.

    The other parts are bounded by ``sqrt(|A|_1 |A|_inf)``, where A has the sums over taps of an entry's magnitudes.

    ``kernels`` (groups, m, p, *kernel_shape). Returns the largest sum over the groups.
    """
    if not is_split_by_parity(spec) or kernels.shape[3:] != spec.kernel_shape or len(kernels) != spec.groups:
        raise HypothesisError("the padding is not symmetric, or the kernels are not those of the layer's groups")
    axes = range(3, kernels.ndim)
    centred = np.asarray(kernels, dtype=np.float64)
    for axis, k, r, (before, _) in zip(axes, spec.kernel_shape, spec.dilation, spec.padding, strict=True):
        # A tap at place t lies at the offset r t - before. Its reflection lies at the place 2 before / r - t.
        far = 2 * before // r
        width = [(0, 0)] * centred.ndim
        width[axis] = (max(k - 1 - far, 0), max(far - k + 1, 0))
        centred = np.pad(centred, width)
    count = 2 ** len(axes)
    # The sums of count terms, one for each choice of reflections, times 1 / count are the parts.
    lost = rounding.gamma(count, 2.0**-53) * count
    magnitudes = lost * np.sum(abs(centred), axis=tuple(axes))
    bounds = []
    for parity in itertools.product((1.0, -1.0), repeat=len(axes)):
        part = centred
        for axis, sign in zip(axes, parity, strict=True):
            part = part + sign * np.flip(part, axis)
        sums = host.inflate(np.sum(abs(part), axis=tuple(axes)) + magnitudes, 2 * part[0, 0, 0].size + 8)
        rows = host.inflate(np.max(np.sum(sums, axis=2), axis=1), sums.shape[2])
        columns = host.inflate(np.max(np.sum(sums, axis=1), axis=1), sums.shape[1])
        bounds.append([host.sqrt_up(host.mul_up(float(a), float(b))) for a, b in zip(rows, columns, strict=True)])
    of_groups = [host.mul_up(host.add_up(*sorted(parts)[:-1]), 1 / count) for parts in zip(*bounds, strict=True)]
    return max(of_groups)


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


def bounds_by_blocks(bounds: Sequence[Upper], spec: ConvSpec) -> list[tuple[Lower, Upper]]:
    """Bound the norms of layers of one geometry by 0 and by one upper bound of each of their blocks."""
    groups = spec.groups
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
