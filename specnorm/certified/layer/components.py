"""A zero-padded layer at one size as independent smaller ones without dilation, and restrictions of it.

Along an axis a layer reads the pixels ``s m + r t - p``. With ``g = gcd(s, r)`` only those congruent to -p modulo g are
read; of these, outputs that are congruent modulo ``r / g`` read pixels that are, and no other outputs do. So the layer
is a direct sum, and its norm the largest of its parts', each with stride ``s / g`` and no dilation. Outputs that read
no pixel, and pixels that no output reads, are left out. Along an axis whose stride is at least the kernel's size (one
tap, patches) each output is such a part, and those away from the border are the same.

A layer whose pixels and outputs are consecutive ones of another layer of the same stride and kernel, at the same
distance, is a compression of it: its norm is no larger. Such parts need no proof of their own.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from specnorm.certified.bound import EVERYWHERE, HypothesisError, Lower, Upper, _largest, _lower, _upper, nothing
from specnorm.certified.layer.circulant import padded_norm, reads_zeros
from specnorm.certified.matrices.block_tridiagonal import of_one_group
from specnorm.certified.matrices.norms import stack_of
from specnorm.problem.taps import sizes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from specnorm.problem.spec import ConvSpec


@dataclass(frozen=True)
class AxisComponent:
    """What a part of a layer is along one axis.

    Parameters
    ----------
    pixels, outputs : int
        How many of each; pixels of the large side, which a transposed layer writes.
    before : int
        Padding in front; negative: pixels in front that no output reads.
    pixel, output : tuple (first, step)
        Where they are in the whole layer.
    """

    pixels: int
    outputs: int
    before: int
    stride: int
    pixel: tuple[int, int] = (0, 1)
    output: tuple[int, int] = (0, 1)

    def holds(self, other: AxisComponent) -> bool:
        """Whether another part is a compression of this one: shifted by some outputs, it lies inside."""
        outputs = max(0, -(-(self.before - other.before) // self.stride))
        pixels = self.stride * outputs + other.before - self.before
        inside = outputs + other.outputs <= self.outputs and pixels + other.pixels <= self.pixels
        return self.stride == other.stride and inside

    def single_outputs(self, k: int) -> list[AxisComponent]:
        """Outputs that read pixels of their own, one by one: the first, the second, the last, which hold the others."""
        found = []
        for m in sorted({0, min(1, self.outputs - 1), self.outputs - 1}):
            output = (self.output[0] + self.output[1] * m, self.output[1])
            one = replace(self, outputs=1, before=self.before - self.stride * m, output=output).trimmed(k)
            if one is not None:
                found.append(one)
        return found

    def trimmed(self, k: int) -> AxisComponent | None:
        """Without outputs that read no pixel and pixels that no output reads; None if nothing is left."""
        s, p = self.stride, self.before
        first, last = max(0, -(-(p - k + 1) // s)), min(self.outputs - 1, (self.pixels - 1 + p) // s)
        if last < first:
            return None
        p -= s * first
        low, high = max(0, -p), min(self.pixels - 1, s * (last - first) + k - 1 - p)
        if high < low:
            return None
        pixel = (self.pixel[0] + self.pixel[1] * low, self.pixel[1])
        output = (self.output[0] + self.output[1] * first, self.output[1])
        return AxisComponent(high - low + 1, last - first + 1, p + low, s, pixel, output)


@dataclass(frozen=True)
class PolyphaseComponent:
    """A part of a layer as a layer of its own.

    Parameters
    ----------
    spec : ConvSpec
        With ``input_shape``.
    axes : tuple of AxisComponent
    """

    spec: ConvSpec
    axes: tuple[AxisComponent, ...]

    @classmethod
    def of(cls, spec: ConvSpec, parts: tuple[AxisComponent, ...]) -> PolyphaseComponent:
        """The layer with these parts of a zero-padded one."""
        kernel = spec.kernel_shape
        after = (x.stride * (x.outputs - 1) + k - x.pixels - x.before for x, k in zip(parts, kernel, strict=True))
        shape = tuple(x.outputs if spec.transposed else x.pixels for x in parts)
        own = replace(
            spec,
            stride=tuple(x.stride for x in parts),
            dilation=(1,) * spec.ndim,
            padding_mode="zeros",
            padding=tuple((x.before, end) for x, end in zip(parts, after, strict=True)),
            input_shape=shape,
        )
        return cls(own, parts)

    def restricted(self, most: float) -> PolyphaseComponent:
        """The same with fewer pixels, so that there are about so many: a compression of it."""
        count = math.prod(x.pixels for x in self.axes)
        if count <= most or not reads_zeros(self.spec):
            return self
        left, ndim, parts = most, len(self.axes), list(self.axes)
        for done, axis in enumerate(sorted(range(ndim), key=lambda j: self.axes[j].pixels)):
            part, k = parts[axis], self.spec.kernel_shape[axis]
            pixels = min(part.pixels, max(2 * k, int(left ** (1 / (ndim - done)))))
            left /= pixels
            outputs = min(part.outputs, max(1, -(-(pixels + part.before) // part.stride)))
            parts[axis] = replace(part, pixels=pixels, outputs=outputs).trimmed(k) or part
        return PolyphaseComponent.of(self.spec, tuple(parts))


def polyphase_components(spec: ConvSpec) -> list[PolyphaseComponent]:
    """Layers the largest of whose norms is the layer's; none if that is zero.

    Parameters
    ----------
    spec : ConvSpec
        With ``input_shape``. One that reads other than zeros is its only part.
    """
    large, small = sizes_of(spec)
    axes = zip(large, small, spec.kernel_shape, spec.stride, spec.dilation, spec.padding, strict=True)
    if not reads_zeros(spec):
        whole = tuple(AxisComponent(n, m, before, s) for n, m, _, s, _, (before, _) in axes)
        return [PolyphaseComponent(spec, whole)]
    return [
        PolyphaseComponent.of(spec, parts) for parts in itertools.product(*(_largest_parts(*axis) for axis in axes))
    ]


def _largest_parts(
    n: int, outputs: int, k: int, stride: int, dilation: int, pads: tuple[int, int]
) -> list[AxisComponent]:
    """Parts of an axis that no other one holds."""
    before, common = pads[0], math.gcd(stride, dilation)
    stride, step = stride // common, dilation // common
    unread = -before % common
    pixels, before = -(-(n - unread) // common), (before + unread) // common
    found: list[AxisComponent] = []
    for first in range(min(step, outputs)):
        rest = (stride * first - before) % step
        part = AxisComponent(
            -(-(pixels - rest) // step),
            -(-(outputs - first) // step),
            (before - stride * first + rest) // step,
            stride,
            (unread + common * rest, common * step),
            (first, step),
        ).trimmed(k)
        for one in () if part is None else part.single_outputs(k) if k <= stride else (part,):
            if not any(other.holds(one) for other in found):
                found = [other for other in found if not one.holds(other)] + [one]
    return found


def norms_of_parts(spec: ConvSpec, parts: Sequence[tuple[Lower, Upper | None]]) -> tuple[Lower, Upper | None]:
    """Bounds of a layer that is a direct sum, from those of all its `polyphase_components`; 0 if there is none.

    The upper one is None if that of a part is. No part is larger than the layer.
    """
    every = [component.spec for component in polyphase_components(spec)]
    lowers, uppers = [lower for lower, _ in parts], [upper for _, upper in parts if upper is not None]
    own = [(lower.what, lower.what if upper is None else upper.what) for lower, upper in parts]
    if own != [(part, part) for part in every]:
        raise HypothesisError("a direct sum is bounded by all of its parts")
    if len(parts) == 1 and every == [spec]:
        return parts[0]
    rule = f"the largest of {len(parts)} polyphase components" if parts else "reads no pixel"
    low = max(lowers, key=float, default=nothing(spec))
    upper = _largest(uppers, spec, rule) if len(uppers) == len(parts) else None
    return _lower(low.value, spec, "of a polyphase component", low), upper


def norm_of_groups(spec: ConvSpec, groups: Sequence[Upper], others: Upper | None = None) -> Upper:
    """The norm of a layer from bounds of its groups', and of the supremum of those that are left out.

    Parameters
    ----------
    groups : sequence of Upper
        All of them, or those that ``others`` is not of.
    """
    complete = len(groups) == spec.groups if others is None else len(groups) < spec.groups
    if not complete or any(group.what != of_one_group(spec) for group in groups):
        raise HypothesisError(f"{len(groups)} bounds of {spec.groups} groups")
    if others is not None and others.what != EVERYWHERE:
        raise HypothesisError(f"{others.what} is not the supremum of the other groups")
    if spec.groups == 1:
        return groups[0]
    rest = () if others is None else (padded_norm(others, of_one_group(spec)),)
    return _largest((*groups, *rest), spec, f"the largest of {spec.groups} groups")


def norms_of_patch(component: PolyphaseComponent, lower: Lower, upper: Upper) -> tuple[Lower, Upper]:
    """A layer with one output an axis is, group by group, the matrix of the taps that it reads.

    The lower bound is of the largest group's.
    """
    spec = component.spec
    count = math.prod(part.pixels for part in component.axes)
    channels = (spec.stored_channels[0] // spec.groups, spec.stored_channels[1] * count)
    what, rule = stack_of((spec.groups, *channels)), "the matrix of the taps that are read"
    patch = reads_zeros(spec) and all(x.outputs == 1 for x in component.axes)
    if not patch or lower.what != what or upper.what != what:
        raise HypothesisError(f"the layer is not this stack: {upper.what}")
    return _lower(lower.value, of_one_group(spec), rule, lower), _upper(upper.value, spec, rule, upper)


def norm_of_restriction(component: PolyphaseComponent, restriction: PolyphaseComponent, norm: Lower) -> Lower:
    """A layer's norm is no smaller than that of one of its groups on a restriction."""
    held = all(part.holds(other) for part, other in zip(component.axes, restriction.axes, strict=True))
    if norm.what != of_one_group(restriction.spec) or not held:
        raise HypothesisError(f"{norm.what} is no restriction of the layer")
    if norm.what == component.spec:
        return norm
    return _lower(norm.value, component.spec, "of a group, or on a restriction", norm)
