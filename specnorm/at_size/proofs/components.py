"""Split a zero-padded layer at one size into independent smaller layers without dilation; bound it by restrictions.

Along an axis, tap t of output m reads the pixel ``s m + r t - p`` (stride s, dilation r, padding p in front). With ``g
= gcd(s, r)``, only pixels congruent to -p modulo g are read. Number these pixels alone. Then outputs that are congruent
modulo ``r / g`` share pixels with each other, and with no other outputs. So the layer is a direct sum of *parts*, each
a layer with stride ``s / g`` and without dilation, and its norm is the largest of their norms. Outputs that read no
pixel, and pixels that no output reads, are left out. Along an axis whose stride is at least the kernel's size (one tap,
or patches that do not overlap), each output is a part, and all outputs away from the border are equal parts.

If the pixels and outputs of a part are consecutive ones of another part, with the same distance between both, the first
part is a submatrix of the second one (a *compression*), and its norm is no larger. Such a part needs no bound of its
own and is left out.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from specnorm.backends import arrays
from specnorm.geometry.taps import Axis
from specnorm.proofs import norms
from specnorm.proofs.bound import ALL_FREQUENCIES, HypothesisError, Lower, Upper
from specnorm.running.proofs import padding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from specnorm.geometry.spec import ConvSpec


def contains(whole: Axis, part: Axis) -> bool:
    """Whether a part is a compression of another part: it lies inside, if shifted by some outputs."""
    # The smallest shift by which no pixel of the part lies in front of the whole.
    outputs_in_front = max(0, arrays.ceil_div(whole.before - part.before, whole.stride))
    # Pixel 0 of the part is then this pixel.
    pixels_in_front = whole.stride * outputs_in_front + part.before - whole.before
    has_outputs = outputs_in_front + part.outputs <= whole.outputs
    has_pixels = pixels_in_front + part.pixels <= whole.pixels
    return whole.stride == part.stride and has_outputs and has_pixels


def single_outputs(axis: Axis) -> list[Axis]:
    """Split a part whose outputs share no pixels into single outputs: the first, the second and the last one.

    The part must be `trimmed`. Then a border can cut taps off its first and its last output only, so all outputs in
    between are equal, and the second one stands for them.
    """
    first, step = axis.output_positions
    parts = []
    for number in sorted({0, min(1, axis.outputs - 1), axis.outputs - 1}):
        before = axis.before - axis.stride * number
        part = trimmed(axis._replace(outputs=1, before=before, output_positions=(first + step * number, step)))
        if part is not None:
            parts.append(part)
    return parts


def trimmed(axis: Axis) -> Axis | None:
    """A part without outputs that read no pixel and pixels that no output reads; None if nothing is left."""
    # Output m reads the pixels s m - before, ..., s m - before + taps - 1.
    first_output = max(0, arrays.ceil_div(axis.before - axis.taps + 1, axis.stride))
    last_output = min(axis.outputs - 1, (axis.pixels - 1 + axis.before) // axis.stride)
    if last_output < first_output:
        return None
    before = axis.before - axis.stride * first_output
    outputs = last_output - first_output + 1
    first_pixel = max(0, -before)
    last_pixel = min(axis.pixels - 1, axis.stride * (outputs - 1) + axis.taps - 1 - before)
    if last_pixel < first_pixel:
        return None
    return axis._replace(
        pixels=last_pixel - first_pixel + 1,
        outputs=outputs,
        before=before + first_pixel,
        pixel_positions=_shifted(axis.pixel_positions, first_pixel),
        output_positions=_shifted(axis.output_positions, first_output),
    )


def _shifted(positions: tuple[int, int], number: int) -> tuple[int, int]:
    first, step = positions
    return first + step * number, step


@dataclass(frozen=True)
class PolyphaseComponent:
    """A part of a layer, as a layer of its own.

    Parameters
    ----------
    spec : ConvSpec
        The part's geometry, with ``input_shape``.
    axes : tuple of Axis
        The part along each axis, and where it lies in the whole layer.
    """

    spec: ConvSpec
    axes: tuple[Axis, ...]

    @classmethod
    def of(cls, spec: ConvSpec, axes: tuple[Axis, ...]) -> PolyphaseComponent:
        """The part of a zero-padded layer that has the given parts along its axes."""
        pads = []
        for axis in axes:
            after = axis.stride * (axis.outputs - 1) + axis.taps - axis.pixels - axis.before
            pads.append((axis.before, after))
        spec_of_part = replace(
            spec,
            stride=tuple(axis.stride for axis in axes),
            dilation=(1,) * spec.ndim,
            padding_mode="zeros",
            padding=tuple(pads),
            input_shape=tuple(axis.outputs if spec.transposed else axis.pixels for axis in axes),
        )
        return cls(spec_of_part, axes)

    def restricted(self, pixel_budget: float) -> PolyphaseComponent:
        """A compression of this part with about ``pixel_budget`` pixels; the part itself if it has no more.

        Along each axis it keeps at least twice as many pixels as the kernel has taps, since on fewer, most outputs of a
        padded layer read padding. Where padding makes more outputs than pixels, they are what the budget counts.
        """
        count = math.prod(max(axis.pixels, axis.outputs) for axis in self.axes)
        if count <= pixel_budget:
            return self
        if not self.spec.reads_zeros:
            return self._corner(pixel_budget) or self
        axes = list(self.axes)
        shortest_first = sorted(range(len(axes)), key=lambda j: axes[j].pixels)
        pixels_left = pixel_budget
        axes_left = len(axes)
        for j in shortest_first:
            axis = axes[j]
            fair_share = int(pixels_left ** (1 / axes_left))
            pixels = min(axis.pixels, max(2 * axis.taps, fair_share))
            outputs = min(axis.outputs, max(1, arrays.ceil_div(pixels + axis.before, axis.stride)))
            shortened = trimmed(axis._replace(pixels=pixels, outputs=outputs))
            # It is None if the outputs that are left read no pixel. Then the axis stays as it is.
            if shortened is not None:
                axes[j] = shortened
            pixels_left /= pixels
            axes_left -= 1
        return PolyphaseComponent.of(self.spec, tuple(axes))

    def _corner(self, pixel_budget: float) -> PolyphaseComponent | None:
        """A compression of a layer that repeats pixels: its first outputs, which read no padding behind.

        Circular padding in front reads the last pixels: there the outputs begin where they read none, as where the
        padding is longer than what the budget allows.
        """
        if self.spec.transposed:
            return None
        axes = []
        fair_share = int(pixel_budget ** (1 / len(self.axes)))
        skips_padding = self.spec.padding_mode == "circular" or max(axis.before for axis in self.axes) > fair_share
        mode = "zeros" if skips_padding else self.spec.padding_mode
        for axis in self.axes:
            extent = axis.dilation * (axis.taps - 1) + 1
            first_output = -(-axis.before // axis.stride) if skips_padding else 0
            first_pixel = max(0, axis.stride * first_output - axis.before)
            before = 0 if skips_padding else axis.before
            pixels = min(axis.pixels - first_pixel, max(2 * extent, before + 1, fair_share))
            outputs = min(axis.outputs - first_output, (pixels + before - extent) // axis.stride + 1)
            if outputs < 1:
                return None
            corner = axis._replace(pixels=pixels, outputs=outputs, before=before, mode=mode)
            axes.append(corner._replace(pixel_positions=(first_pixel, 1), output_positions=(first_output, 1)))
        spec = replace(
            self.spec,
            padding_mode=mode,
            padding=tuple((axis.before, 0) for axis in axes),
            input_shape=tuple(axis.pixels for axis in axes),
        )
        return PolyphaseComponent(spec, tuple(axes))

    def is_corner_of(self, whole: PolyphaseComponent) -> bool:
        """Whether this part reads in front what its outputs read there in a layer that repeats pixels, nothing behind.

        That these outputs and pixels lie in the whole layer is `contains`.
        """
        no_padding = not any(map(any, self.spec.padding))
        pads = zip(self.spec.padding, whole.spec.padding, strict=True)
        same_in_front = all(behind == 0 and before == theirs[0] for (before, behind), theirs in pads)
        same_border = self.spec.padding_mode == whole.spec.padding_mode != "circular"
        same_taps = self.spec.dilation == whole.spec.dilation and self.spec.stride == whole.spec.stride
        return same_taps and (no_padding or (same_border and same_in_front))


def polyphase_components(spec: ConvSpec) -> list[PolyphaseComponent]:
    """The parts of a layer that no other part contains: the layer's norm is the largest of theirs, or 0 without parts.

    ``spec``: with ``input_shape``. A layer that reads other than zeros outside of its input is returned as its only
    part.
    """
    axes = spec.axes
    if not spec.reads_zeros:
        return [PolyphaseComponent(spec, tuple(axes))]
    parts_of_axes = [_largest_parts(axis) for axis in axes]
    return [PolyphaseComponent.of(spec, parts) for parts in itertools.product(*parts_of_axes)]


def _largest_parts(axis: Axis) -> list[Axis]:
    """The parts along an axis that no other part contains."""
    largest: list[Axis] = []
    for part in _parts(axis):
        if not any(contains(other, part) for other in largest):
            largest = [other for other in largest if not contains(part, other)] + [part]
    return largest


def _parts(axis: Axis) -> Iterator[Axis]:
    """The independent parts of a layer along an axis, without dilation."""
    common = math.gcd(axis.stride, axis.dilation)
    # Pixels that are read are `common` apart. Number these alone: then stride and dilation are coprime.
    first_read = -axis.before % common
    pixels = arrays.ceil_div(axis.pixels - first_read, common)
    before = (axis.before + first_read) // common
    stride = axis.stride // common
    dilation = axis.dilation // common
    for first_output in range(min(dilation, axis.outputs)):
        first_pixel = (stride * first_output - before) % dilation
        residue = Axis(
            pixels=arrays.ceil_div(pixels - first_pixel, dilation),
            outputs=arrays.ceil_div(axis.outputs - first_output, dilation),
            taps=axis.taps,
            stride=stride,
            dilation=1,
            # The division is exact, by the choice of the first pixel.
            before=(before - stride * first_output + first_pixel) // dilation,
            pixel_positions=(first_read + common * first_pixel, common * dilation),
            output_positions=(first_output, dilation),
        )
        part = trimmed(residue)
        if part is None:
            continue
        if axis.taps <= stride:
            yield from single_outputs(part)
        else:
            yield part


def norms_of_parts(
    spec: ConvSpec,
    bounds_of_parts: Sequence[tuple[Lower, Upper | None]],
) -> tuple[Lower, Upper | None]:
    """Bounds of a layer's norm, from those of all its `polyphase_components`, in their order.

    The upper bound is None if that of a part is None. Without parts, the layer reads no pixel and both bounds are 0.
    """
    components = [component.spec for component in polyphase_components(spec)]
    lowers = [lower for lower, _ in bounds_of_parts]
    uppers = [upper for _, upper in bounds_of_parts if upper is not None]
    is_complete = [lower.what for lower in lowers] == components
    for lower, upper in bounds_of_parts:
        if upper is not None and upper.what != lower.what:
            raise HypothesisError("the two bounds of a part are for different layers")
    if not is_complete:
        raise HypothesisError("a direct sum is bounded by all of its parts")
    if len(components) == 1 and components == [spec]:
        return bounds_of_parts[0]
    rule = f"the largest of {len(components)} polyphase components" if components else "reads no pixel"
    largest_lower = max(lowers, key=float, default=Lower.trivial(spec))
    largest_upper = Upper._largest(uppers, spec, rule) if len(uppers) == len(components) else None
    return Lower._by_rule(largest_lower.value, spec, "of a polyphase component", largest_lower), largest_upper


def norm_of_groups(spec: ConvSpec, bounds_of_groups: Sequence[Upper], others: Upper | None = None) -> Upper:
    """Bound the norm of a layer by the largest of the norms of its groups.

    ``bounds_of_groups``: a bound for each group at ``input_shape``; or, with ``others``, for some of the groups.
    ``others``: a bound of the supremum over all sizes, for the blocks of all remaining groups.
    """
    if others is None:
        is_complete = len(bounds_of_groups) == spec.groups
    else:
        is_complete = len(bounds_of_groups) < spec.groups
    if not is_complete or any(bound.what != spec.of_group for bound in bounds_of_groups):
        raise HypothesisError(f"{len(bounds_of_groups)} bounds of {spec.groups} groups")
    if others is not None and others.what != ALL_FREQUENCIES:
        raise HypothesisError(f"{others.what} is not the supremum of the other groups")
    if spec.groups == 1:
        return bounds_of_groups[0]
    bounds = list(bounds_of_groups)
    if others is not None:
        bounds.append(padding.padded_norm(others, spec.of_group))
    return Upper._largest(bounds, spec, f"the largest of {spec.groups} groups")


def norms_of_patch(component: PolyphaseComponent, lower: Lower, upper: Upper) -> tuple[Lower, Upper]:
    """Bounds of a part with a single output along every axis, from bounds for its groups as matrices.

    The *patch* is the set of pixels that this output reads. Each group is the matrix of the taps that read pixels, with
    its outputs as rows and its read inputs as columns.

    ``lower``, ``upper``: bounds for the stack of these matrices, one for each group (`norms.norm_of_stack`). Returns
    ``lower``, ``upper``: the lower bound is for a layer of one group, the largest; the upper one for the whole part.
    """
    spec = component.spec
    output_channels, input_channels = spec.group_channels
    pixels = math.prod(axis.pixels for axis in component.axes)
    subject = norms.norm_of_stack((spec.groups, output_channels, input_channels * pixels))
    is_patch = spec.reads_zeros and all(axis.outputs == 1 for axis in component.axes)
    if not is_patch or lower.what != subject or upper.what != subject:
        raise HypothesisError(f"the layer is not this stack: {upper.what}")
    rule = "the matrix of the taps that are read"
    return Lower._by_rule(lower.value, spec.of_group, rule, lower), Upper._by_rule(upper.value, spec, rule, upper)


def norm_of_restriction(component: PolyphaseComponent, restriction: PolyphaseComponent, norm: Lower) -> Lower:
    """Bound a part's norm from below by a bound of one group of a restriction of the part (`restricted`).

    ``norm``: bound for one group of the restriction.
    """
    axes = zip(component.axes, restriction.axes, strict=True)
    is_restriction = all(contains(axis, restricted) for axis, restricted in axes)
    # Padding that repeats pixels may not change in a restriction.
    reads_the_same = component.spec.reads_zeros or restriction == component or restriction.is_corner_of(component)
    if norm.what != restriction.spec.of_group or not is_restriction or not reads_the_same:
        raise HypothesisError(f"{norm.what} is not a restriction of the layer")
    if norm.what == component.spec:
        return norm
    return Lower._by_rule(norm.value, component.spec, "of a group, or on a restriction", norm)
