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
    from collections.abc import Iterator, Sequence

    from specnorm.problem.spec import ConvSpec


@dataclass(frozen=True)
class AxisComponent:
    """A part of a layer along one axis.

    Parameters
    ----------
    pixels, outputs : int
        How many of each; pixels are on the large side, which a transposed layer writes.
    before : int
        Padding in front; negative: pixels in front that no output reads.
    pixel, output : tuple (first, step)
        Where its pixels and outputs are in the whole layer.
    """

    pixels: int
    outputs: int
    before: int
    stride: int
    pixel: tuple[int, int] = (0, 1)
    output: tuple[int, int] = (0, 1)

    def contains(self, other: AxisComponent) -> bool:
        """Whether another part is a compression of this one: shifted by some outputs, it lies inside."""
        outputs_in_front = max(0, -(-(self.before - other.before) // self.stride))
        pixels_in_front = self.stride * outputs_in_front + other.before - self.before
        has_outputs = outputs_in_front + other.outputs <= self.outputs
        has_pixels = pixels_in_front + other.pixels <= self.pixels
        return self.stride == other.stride and has_outputs and has_pixels

    def single_outputs(self, taps: int) -> list[AxisComponent]:
        """Outputs that read pixels of their own, one by one: the first, the second and the last contain all."""
        first, step = self.output
        parts = []
        for number in sorted({0, min(1, self.outputs - 1), self.outputs - 1}):
            part = replace(
                self,
                outputs=1,
                before=self.before - self.stride * number,
                output=(first + step * number, step),
            ).trimmed(taps)
            if part is not None:
                parts.append(part)
        return parts

    def trimmed(self, taps: int) -> AxisComponent | None:
        """The part without outputs that read no pixel and pixels that no output reads; None if nothing is left."""
        # Output m reads the pixels s m - before, ..., s m - before + taps - 1.
        first_output = max(0, -(-(self.before - taps + 1) // self.stride))
        last_output = min(self.outputs - 1, (self.pixels - 1 + self.before) // self.stride)
        if last_output < first_output:
            return None
        before = self.before - self.stride * first_output
        outputs = last_output - first_output + 1
        first_pixel = max(0, -before)
        last_pixel = min(self.pixels - 1, self.stride * (outputs - 1) + taps - 1 - before)
        if last_pixel < first_pixel:
            return None
        return AxisComponent(
            pixels=last_pixel - first_pixel + 1,
            outputs=outputs,
            before=before + first_pixel,
            stride=self.stride,
            pixel=(self.pixel[0] + self.pixel[1] * first_pixel, self.pixel[1]),
            output=(self.output[0] + self.output[1] * first_output, self.output[1]),
        )


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
    def of(cls, spec: ConvSpec, axes: tuple[AxisComponent, ...]) -> PolyphaseComponent:
        """The part of a zero-padded layer with these parts along its axes."""
        padding = []
        for axis, taps in zip(axes, spec.kernel_shape, strict=True):
            after = axis.stride * (axis.outputs - 1) + taps - axis.pixels - axis.before
            padding.append((axis.before, after))
        spec_of_part = replace(
            spec,
            stride=tuple(axis.stride for axis in axes),
            dilation=(1,) * spec.ndim,
            padding_mode="zeros",
            padding=tuple(padding),
            input_shape=tuple(axis.outputs if spec.transposed else axis.pixels for axis in axes),
        )
        return cls(spec_of_part, axes)

    def restricted(self, most_pixels: float) -> PolyphaseComponent:
        """A restriction to about so many pixels, if there are more: a compression of the part."""
        count = math.prod(axis.pixels for axis in self.axes)
        if count <= most_pixels or not reads_zeros(self.spec):
            return self
        axes = list(self.axes)
        shortest_first = sorted(range(len(axes)), key=lambda j: axes[j].pixels)
        pixels_left = most_pixels
        axes_left = len(axes)
        for j in shortest_first:
            axis, taps = axes[j], self.spec.kernel_shape[j]
            fair_share = int(pixels_left ** (1 / axes_left))
            pixels = min(axis.pixels, max(2 * taps, fair_share))
            outputs = min(axis.outputs, max(1, -(-(pixels + axis.before) // axis.stride)))
            axes[j] = replace(axis, pixels=pixels, outputs=outputs).trimmed(taps) or axis
            pixels_left /= pixels
            axes_left -= 1
        return PolyphaseComponent.of(self.spec, tuple(axes))


def polyphase_components(spec: ConvSpec) -> list[PolyphaseComponent]:
    """Layers the largest of whose norms is the layer's; none if that is zero.

    Parameters
    ----------
    spec : ConvSpec
        With ``input_shape``. One that reads other than zeros is its only part.
    """
    large, small = sizes_of(spec)
    axes = list(zip(large, small, spec.kernel_shape, spec.stride, spec.dilation, spec.padding, strict=True))
    if not reads_zeros(spec):
        whole = tuple(AxisComponent(n, m, before, stride) for n, m, _, stride, _, (before, _) in axes)
        return [PolyphaseComponent(spec, whole)]
    parts_of_axes = [_largest_parts(*axis) for axis in axes]
    return [PolyphaseComponent.of(spec, parts) for parts in itertools.product(*parts_of_axes)]


def _largest_parts(
    pixels: int,
    outputs: int,
    taps: int,
    stride: int,
    dilation: int,
    pads: tuple[int, int],
) -> list[AxisComponent]:
    """Parts of an axis that no other part contains."""
    largest: list[AxisComponent] = []
    for part in _parts(pixels, outputs, taps, stride, dilation, pads[0]):
        if not any(other.contains(part) for other in largest):
            largest = [other for other in largest if not part.contains(other)] + [part]
    return largest


def _parts(
    pixels: int,
    outputs: int,
    taps: int,
    stride: int,
    dilation: int,
    before: int,
) -> Iterator[AxisComponent]:
    """Independent parts of an axis, without dilation."""
    common = math.gcd(stride, dilation)
    # Only the pixels congruent to -before are read; among these, stride and dilation are coprime.
    first_read = -before % common
    pixels = -(-(pixels - first_read) // common)
    before = (before + first_read) // common
    stride, dilation = stride // common, dilation // common
    for first_output in range(min(dilation, outputs)):
        first_pixel = (stride * first_output - before) % dilation
        part = AxisComponent(
            pixels=-(-(pixels - first_pixel) // dilation),
            outputs=-(-(outputs - first_output) // dilation),
            before=(before - stride * first_output + first_pixel) // dilation,
            stride=stride,
            pixel=(first_read + common * first_pixel, common * dilation),
            output=(first_output, dilation),
        ).trimmed(taps)
        if part is None:
            continue
        if taps <= stride:
            yield from part.single_outputs(taps)
        else:
            yield part


def norms_of_parts(spec: ConvSpec, parts: Sequence[tuple[Lower, Upper | None]]) -> tuple[Lower, Upper | None]:
    """Bounds of a layer that is a direct sum, from those of all its `polyphase_components`; 0 if there is none.

    The upper one is None if that of a part is. No part is larger than the layer.
    """
    components = [component.spec for component in polyphase_components(spec)]
    lowers = [lower for lower, _ in parts]
    uppers = [upper for _, upper in parts if upper is not None]
    is_complete = [lower.what for lower in lowers] == components
    if not is_complete or any(upper is not None and upper.what != lower.what for lower, upper in parts):
        raise HypothesisError("a direct sum is bounded by all of its parts")
    if len(parts) == 1 and components == [spec]:
        return parts[0]
    rule = f"the largest of {len(parts)} polyphase components" if parts else "reads no pixel"
    lower = max(lowers, key=float, default=nothing(spec))
    upper = _largest(uppers, spec, rule) if len(uppers) == len(parts) else None
    return _lower(lower.value, spec, "of a polyphase component", lower), upper


def norm_of_groups(spec: ConvSpec, groups: Sequence[Upper], others: Upper | None = None) -> Upper:
    """The norm of a layer from bounds of some groups, and one of the supremum of all others.

    Parameters
    ----------
    groups : sequence of Upper
        Of all groups, or of those that ``others`` is not of.
    others : Upper, optional
        Of the supremum of the other groups; None: there are none.
    """
    is_complete = len(groups) == spec.groups if others is None else len(groups) < spec.groups
    if not is_complete or any(group.what != of_one_group(spec) for group in groups):
        raise HypothesisError(f"{len(groups)} bounds of {spec.groups} groups")
    if others is not None and others.what != EVERYWHERE:
        raise HypothesisError(f"{others.what} is not the supremum of the other groups")
    if spec.groups == 1:
        return groups[0]
    bounds = list(groups)
    if others is not None:
        bounds.append(padded_norm(others, of_one_group(spec)))
    return _largest(bounds, spec, f"the largest of {spec.groups} groups")


def norms_of_patch(component: PolyphaseComponent, lower: Lower, upper: Upper) -> tuple[Lower, Upper]:
    """A layer with one output an axis is, group by group, the matrix of the taps that it reads.

    The lower bound is of the largest group's.
    """
    spec = component.spec
    first, second = spec.stored_channels
    pixels = math.prod(axis.pixels for axis in component.axes)
    what = stack_of((spec.groups, first // spec.groups, second * pixels))
    is_patch = reads_zeros(spec) and all(axis.outputs == 1 for axis in component.axes)
    if not is_patch or lower.what != what or upper.what != what:
        raise HypothesisError(f"the layer is not this stack: {upper.what}")
    rule = "the matrix of the taps that are read"
    return _lower(lower.value, of_one_group(spec), rule, lower), _upper(upper.value, spec, rule, upper)


def norm_of_restriction(component: PolyphaseComponent, restriction: PolyphaseComponent, norm: Lower) -> Lower:
    """A layer's norm is no smaller than that of one of its groups on a restriction."""
    axes = zip(component.axes, restriction.axes, strict=True)
    is_restriction = all(axis.contains(restricted) for axis, restricted in axes)
    if norm.what != of_one_group(restriction.spec) or not is_restriction:
        raise HypothesisError(f"{norm.what} is no restriction of the layer")
    if norm.what == component.spec:
        return norm
    return _lower(norm.value, component.spec, "of a group, or on a restriction", norm)
