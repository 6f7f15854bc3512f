"""Combine what a file and a user state of a layer's geometry to a `ConvSpec`, and list the assumptions in it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, cast

from specnorm_networks.model_arrays import DEFAULTS, Stated, Tensor

from specnorm import ConvSpec
from specnorm.errors import GeometryError
from specnorm.proof import Layout, counted, padding_rules
from specnorm_audit.accounts.names import BIASES, parts_of
from specnorm_audit.settings import Settings
from specnorm_audit.tables import some

SIZED = ("same_upper", "same_lower")
"""Padding that depends on the input size: the least with ``ceil(n / stride)`` outputs. If its total is odd, one pixel
more is added after ("same_upper") or before ("same_lower")."""


_KEYS = (*DEFAULTS, "layout", "padding", "stack")


def overrides(geometry: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Stated]:
    """Check and return the geometry that a user states, by shell patterns on names, with some of `Stated`'s keys."""
    if geometry is None:
        return {}
    if not isinstance(geometry, Mapping):
        raise GeometryError(f"geometry={geometry!r} does not map patterns on names to geometries.")
    checked = {}
    for pattern, stated in geometry.items():
        if not isinstance(stated, Mapping):
            raise GeometryError(f"geometry of {pattern!r} is {stated!r}; expected a mapping such as {{'stride': 2}}.")
        unknown = [key for key in stated if key not in _KEYS]
        if unknown:
            raise GeometryError(
                f"geometry of {pattern!r} has {', '.join(map(repr, unknown))}; expected some of {', '.join(_KEYS)}."
            )
        checked[str(pattern)] = Stated(**stated)  # type: ignore[typeddict-item]
    return checked


FILTER = "A blur or another filter of one channel is a kernel with four axes: save psf[None, None]."
"""Advice about a matrix that may be a filter."""


def may_be_filters(tensors: Sequence[Tensor], names: Collection[str]) -> bool:
    """Return whether all kernels are matrices, and neither file nor names say of one that it is a linear layer's.

    ``names`` are those of the model's other arrays, such as biases.
    """
    are_matrices = bool(tensors) and all(len(tensor.shape) == 2 for tensor in tensors)
    return are_matrices and not any(_is_linear(tensor, names) for tensor in tensors)


def spatial_sizes(sizes: Any, tensors: Sequence[Tensor], *, are_filters: bool = False) -> Any:
    """Return spatial sizes without channels, if the user gave both; other sizes as they are.

    Parameters
    ----------
    sizes : tuple of int, int, "file" or None
    tensors : sequence of Tensor
        Kernels, in the model's order.
    are_filters : bool
        Whether the kernels may be filters (`may_be_filters`).

    Raises
    ------
    GeometryError
        If no convolution has so many spatial axes, whatever the layer.
    """
    kernels = [tensor for tensor in tensors if len(tensor.shape) > 2 and tensor.conventions != ("stack",)]
    ranks = {len(tensor.shape) - 2 for tensor in kernels}
    if sizes not in (None, (), "file") and are_filters:
        raise GeometryError(
            f"input_shape={sizes!r} is the size of images or signals, and {some([t.name for t in tensors])} "
            f"{'is a matrix' if len(tensors) == 1 else 'are matrices'}, whose norm needs no input_shape: leave it out. "
            f"{FILTER}"
        )
    if not isinstance(sizes, tuple) or not ranks or len(sizes) in ranks:
        return sizes
    shown = "x".join(map(str, sizes))
    most = max(ranks)
    if len(ranks) == 1 and len(sizes) == most + 1:
        channels = _channels(kernels[0])
        if sizes[0] in channels:
            return sizes[1:]
        if sizes[-1] in channels:
            return sizes[:-1]
    axes = " or ".join(map(str, sorted(ranks)))
    meant = sizes[-most:] if len(sizes) > most else sizes[:1] * most
    raise GeometryError(
        f"the input shape {shown} has {counted(len(sizes), 'size')}, and the model's convolutions have "
        f"{axes} spatial axes: give "
        f"spatial sizes alone, without batch and channels, such as {'x'.join(map(str, meant))}. A kernel has two axes "
        "for channels before these: save psf[None, None] of one filter, kernel[:, None] of several."
    )


def _is_linear(tensor: Tensor, names: Collection[str]) -> bool:
    """Return whether a matrix is a linear layer by what the file says, by its name, or by a bias beside it."""
    last_word = parts_of(tensor.name)[-1]
    before = tensor.name.removesuffix(last_word)
    has_bias = any(f"{before}{word}" in names for word in BIASES)
    return tensor.kind == "linear" or "weight" in last_word or has_bias


def _channels(kernel: Tensor) -> set[int]:
    """Return the numbers of input channels that a layer may have, by the orders of axes that are open."""
    stated = kernel.geometry
    orders: Sequence[str] = kernel.conventions
    if "layout" in stated:
        layout = stated["layout"] or ""
        orders = ["HWIO" if layout.endswith("IO") else "OIHW"]
    groups = stated.get("groups", 1)
    axis = {"HWIO": -2, "OIHW": 0 if stated.get("transposed") else 1}
    return {kernel.shape[axis[order]] * groups for order in orders if order in axis}


def resolve(
    tensor: Tensor, convention: str, settings: Settings, input_shape: int | tuple[int, ...] | None
) -> tuple[ConvSpec, tuple[str, ...]]:
    """Return the geometry of one layer at an input size, and what of it is assumed.

    For each key the last matching override of ``settings`` counts, then their ``padding_mode``, then what the file
    states, then their ``layout``. Missing keys are assumed: stride 1, dilation 1, one group, not transposed, the order
    of ``convention``, zeros, "same". Assumptions are returned as ``name=value``. A matrix has none: it has no geometry,
    and its transpose has the same norm. ``layout`` and ``convention`` name a convention: "HWIO" reads a 3-axis kernel
    as "WIO". A geometry that does not fit the shape raises.
    """
    shape, stated, layout = tensor.shape, tensor.geometry, settings.layout
    geometry: dict[str, Any] = dict(stated)
    if layout is not None and "layout" not in geometry:
        geometry["layout"] = at_rank(layout, len(shape))
    if settings.padding_mode is not None:
        geometry["padding_mode"] = settings.padding_mode
    geometry |= _overridden(tensor.name, settings.geometry)
    geometry.pop("stack", None)
    assumed = [f"{key}={value}" for key, value in DEFAULTS.items() if key not in geometry and key != "padding_mode"]
    if "layout" not in geometry:
        geometry["layout"] = None if convention == "OIHW" else at_rank(convention, len(shape))
        assumed.append(f"layout={at_rank(convention, len(shape))}")
    elif layout is not None and "layout" not in stated and geometry["layout"] != layout:
        assumed.append(f"layout={geometry['layout']}")
    if "padding_mode" not in geometry:
        assumed.append("padding_mode=zeros")
    amount = geometry.pop("padding", None)
    if amount is None:
        assumed.append("padding=same")
    if len(shape) == 2:
        # What is said of sizes and padding is meant for the convolutions.
        of_matrix = {key: (DEFAULTS | geometry)[key] for key in ("groups", "transposed", "layout")}
        return replace(ConvSpec.of(shape, **of_matrix), input_shape=None if input_shape is None else ()), ()
    without_padding = ConvSpec.of(shape, **DEFAULTS | geometry)
    strides = zip(without_padding.stride, without_padding.kernel_shape, strict=True)
    depends_on_size = not without_padding.transposed and any(s > 1 and k > 1 for s, k in strides)
    if amount in SIZED and input_shape is None and depends_on_size:
        assumed.append(f"padding={amount} of sizes that the stride divides")
    padding = _pairs("same" if amount is None else amount, without_padding, input_shape)
    spec = ConvSpec.of(shape, **DEFAULTS | geometry | {"padding": padding, "input_shape": input_shape})
    return spec, tuple(assumed)


def readings(tensor: Tensor, settings: Settings) -> tuple[str, ...]:
    """Return the ways to read a kernel: orders of its axes, and "stack", if neither file nor user states which.

    A user who states any geometry of a layer, or a layout, says that it is a convolution. `resolve` applies the layout.
    """
    said = _overridden(tensor.name, settings.geometry)
    if said.get("stack"):
        return ("stack",)
    if said or settings.layout is not None:
        return tuple(reading for reading in tensor.conventions if reading != "stack") or ("OIHW",)
    return tensor.conventions


def of_stack(shape: Sequence[int], *, sized: bool) -> tuple[ConvSpec, tuple[str, ...]]:
    """Return the geometry of a stack of matrices, as one matrix with a group for each member, and what it assumes.

    Its norm is that of the largest member.
    """
    *members, rows, columns = shape
    count = math.prod(members)
    spec = ConvSpec.of((count * rows, columns), groups=count)
    return replace(spec, input_shape=() if sized else None), ("kind=stack of matrices",)


def _overridden(name: str, user_overrides: Mapping[str, Stated]) -> dict[str, Any]:
    """Return what overrides say of a layer; of several that match its name, the last one counts."""
    geometry: dict[str, Any] = {}
    for pattern, stated in user_overrides.items():
        if fnmatchcase(name, pattern):
            geometry.update(stated)
    return geometry


def at_rank(layout: str, axes: int) -> Layout:
    """Return the layout of a kernel with so many axes, in the convention that ``layout`` names."""
    spatial = "DHW"[5 - axes :]
    return cast(Layout, f"{spatial}IO" if layout.endswith("IO") else f"OI{spatial}")


def _pairs(amount: Any, spec: ConvSpec, size: int | Sequence[int] | None) -> Any:
    """Return padding as pixels before and behind on each axis, if it is one that depends on the size."""
    if amount not in SIZED:
        return amount
    sizes = [size] * spec.ndim if size is None or isinstance(size, int) else list(size)
    axes = zip(sizes, spec.kernel_shape, spec.stride, spec.dilation, strict=False)
    # Outputs are the input's size over the stride, rounded up. Transposed: times the stride, whatever the size.
    rule = padding_rules.same_upper if amount == "same_upper" else padding_rules.same_lower
    return [rule(None if spec.transposed else n, *axis) for n, *axis in axes]
