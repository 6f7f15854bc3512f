"""Read kernel and geometry of convolutions and linear layers of Flax NNX and Equinox from their attributes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from specnorm._internal import counted
from specnorm.errors import GeometryError
from specnorm.plugin import LayerKernel, per_axis, same_lower, same_upper

LAYOUTS = {2: "IO", 3: "WIO", 4: "HWIO", 5: "DHWIO"}
"""Layout of Flax's kernels, by their number of axes."""
_LAYERS = ("Conv", "ConvTranspose", "Linear", "Embed", "Embedding")
"""Names of the classes that are read, of Flax NNX and of Equinox."""
_WRAPPERS = ("flax WeightNorm", "flax SpectralNorm", "equinox WeightNorm", "equinox SpectralNorm")
"""Framework and class of wrappers that normalise the weight of a layer."""


def layer_kernel(x: Any, input_shape: int | Sequence[int] | None) -> LayerKernel | None:
    """Return kernel and geometry of a layer, or of a layer in a wrapper that normalizes it; None for other objects.

    See `specnorm.plugin.Backend.layer`.
    """
    wrapper = _wrapper(x)
    if wrapper is not None:
        return _normalised(wrapper, x, input_shape)
    for package, read in (("flax.nnx", flax_layer), ("equinox.nn", equinox_layer)):
        bases = [cls for cls in type(x).__mro__ if cls.__module__.startswith(package) and cls.__name__ in _LAYERS]
        if not bases:
            continue
        base = bases[0]
        if type(x).__call__ is not base.__call__:
            raise GeometryError(
                f"{type(x).__name__} has a __call__ of its own: its attributes do not say what it computes. Give "
                "its effective kernel, with its geometry."
            )
        return read(base.__name__, x, input_shape)
    return None


def _wrapper(x: Any) -> str | None:
    """Return the entry of `_WRAPPERS` for an object; None if it is not such a wrapper."""
    names = {f"{cls.__module__.partition('.')[0]} {cls.__name__}" for cls in type(x).__mro__}
    return next((name for name in _WRAPPERS if name in names), None)


def _normalised(wrapper: str, x: Any, input_shape: Any) -> LayerKernel | None:
    """Return the layer in a wrapper, with the normalized weight that its next call uses.

    Flax's wrappers store the normalized weight in their layer when they are called, so a copy of the wrapper is called.
    """
    is_of_flax = wrapper.startswith("flax")
    inner = x.layer_instance if is_of_flax else x.layer
    layer = layer_kernel(inner, input_shape)
    normalises_weight = getattr(x, "weight_name", "weight") == "weight"
    is_as_stored = is_of_flax or (layer is not None and layer.kernel is inner.weight)
    if layer is None or not normalises_weight or not is_as_stored:
        raise GeometryError(
            f"{wrapper} wraps a {type(inner).__name__}, not one convolution or linear layer: give its effective "
            "kernels."
        )
    if wrapper == "equinox SpectralNorm":
        u, v = _vectors_of_equinox(x)
        matrix = jnp.reshape(inner.weight, (inner.weight.shape[0], -1))
        return layer._replace(kernel=inner.weight / jnp.einsum("i,ij,j->", u, matrix, v))
    if wrapper == "equinox WeightNorm":
        axes = tuple(axis for axis in range(inner.weight.ndim) if axis != x.axis)
        length = jnp.sqrt(jnp.sum(inner.weight**2, axis=axes, keepdims=True))
        return layer._replace(kernel=inner.weight * x.g / length)
    copied_wrapper = copy.deepcopy(x)
    options = {"update_stats": False} if "Spectral" in wrapper else {}
    copied_wrapper(_some_input(copied_wrapper.layer_instance), **options)
    return layer_kernel(copied_wrapper.layer_instance, input_shape)


def _vectors_of_equinox(x: Any) -> tuple[Any, Any]:
    """Return u and v of a SpectralNorm, which contains them until `make_with_state` moves them into its state."""
    initial_vectors = getattr(x.uv_index, "init", None)
    if not isinstance(initial_vectors, tuple):
        raise GeometryError(
            "Equinox's SpectralNorm divides the weight W, as a matrix, by u·Wv, and u and v are not in the model but "
            "in the State beside it: u, v = state.get(layer.uv_index) are missing. Give both to audit, "
            "as (model, state); or the kernel W/(u·Wv) itself to enclose."
        )
    return initial_vectors


def with_state(model: Any, state: Any) -> Any:
    """Return a model and the state beside it as one; None if they are no such pair of Equinox or Flax."""
    kinds = {f"{type(x).__module__.partition('.')[0]} {type(x).__name__}" for x in (model, state)}
    if "equinox State" in kinds:
        return jax.tree.map(lambda x: _with_value(x, state), model, is_leaf=_is_index)
    if "flax GraphDef" in kinds:
        # Of the module that made it: nothing of Flax is imported here.
        return inspect.getmodule(type(model)).merge(model, state)  # type: ignore[union-attr]
    return None


def _is_index(x: Any) -> bool:
    """Whether something is a StateIndex, which Equinox puts in a model in the place of a state."""
    return type(x).__name__ == "StateIndex" and type(x).__module__.partition(".")[0] == "equinox"


def _with_value(x: Any, state: Any) -> Any:
    """Return a StateIndex filled with the value that the state has for it; other leaves as they are."""
    if not _is_index(x):
        return x
    index = copy.copy(x)
    object.__setattr__(index, "init", state.get(x))
    return index


def _some_input(layer: Any) -> Any:
    """Return an input of zeros for a layer of Flax."""
    if hasattr(layer, "embedding"):
        return jnp.zeros(1, dtype=int)
    ndim = len(getattr(layer, "kernel_size", ()))
    return jnp.zeros((1, *(64,) * ndim, layer.in_features), layer.kernel[...].dtype)


def array_in(x: Any) -> Any:
    """Return the array in a variable or metadata box of Flax; None for other objects."""
    names = {cls.__name__ for cls in type(x).__mro__ if cls.__module__.partition(".")[0] == "flax"}
    if "Variable" in names:
        return x.get_value()
    return x.unbox() if "AxisMetadata" in names else None


def flax_layer(kind: str, x: Any, input_shape: int | Sequence[int] | None = None) -> LayerKernel:
    """Return kernel and geometry of a layer of Flax NNX, whose class, or base class, is named ``kind``."""
    for name in ("dot_general", "conv_general_dilated"):
        standard = getattr(lax, name)
        if getattr(x, name, standard) is not standard:
            raise GeometryError(f"{kind} has a {name} of its own: its attributes do not say what it computes.")
    if kind == "Embed":
        return LayerKernel(x.embedding[...], {})
    kernel = x.kernel[...]
    if kind == "Linear":
        return LayerKernel(kernel, {"layout": "IO"})
    if x.mask is not None:
        kernel = kernel * x.mask
    ndim = len(x.kernel_size)
    stride = per_axis("strides", _or_1(x.strides), ndim)
    dilation = per_axis("kernel_dilation", _or_1(x.kernel_dilation), ndim)
    geometry: dict[str, Any] = {"stride": stride, "dilation": dilation, "layout": LAYOUTS[ndim + 2]}
    if kind == "ConvTranspose":
        return _transposed_layer(x, kernel, geometry)
    if per_axis("input_dilation", _or_1(x.input_dilation), ndim) != (1,) * ndim:
        raise GeometryError(
            f"Conv has input_dilation={x.input_dilation}, which no geometry of specnorm describes. Give its kernel as "
            "that of a transposed layer."
        )
    geometry["groups"] = x.feature_group_count
    amount = x.padding.upper() if isinstance(x.padding, str) else x.padding
    geometry["padding_mode"] = amount.lower() if amount in ("CIRCULAR", "REFLECT") else "zeros"
    if amount == "CAUSAL":
        geometry["padding"] = [(dilation[0] * (x.kernel_size[0] - 1), 0)]
    elif amount not in ("CIRCULAR", "REFLECT"):
        geometry["padding"] = _pairs(amount, x.kernel_size, stride, dilation, input_shape)
    return LayerKernel(kernel, geometry)


def _transposed_layer(x: Any, kernel: Any, geometry: Mapping[str, Any]) -> LayerKernel:
    """Return kernel and geometry of a transposed layer of Flax, whose stride, dilation and layout are known."""
    dilation = geometry["dilation"]
    pads = _padding_of_dilated_input(x, geometry["stride"], dilation)
    is_as_stored = bool(x.transpose_kernel)
    if not is_as_stored:
        # Flax correlates the dilated input with the stored kernel. A transposed layer does so with its kernel
        # mirrored and its channels exchanged. Mirroring exchanges both sides, and keeps the norm.
        pads = [(after, before) for before, after in pads]
        kernel = jnp.swapaxes(kernel, -1, -2)
    crops = []
    for (before, after), k, r in zip(pads, x.kernel_size, dilation, strict=True):
        reach = r * (k - 1)
        crops.append((max(reach - before, 0), max(reach - after, 0)))
    transposed = {**geometry, "transposed": True, "padding_mode": "zeros", "padding": crops}
    return LayerKernel(kernel, transposed, as_stored=is_as_stored)


def _padding_of_dilated_input(
    x: Any,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> list[tuple[int, int]]:
    """Return the amounts by which a transposed layer of Flax pads its input after inserting zeros between pixels.

    For padding "SAME" and "VALID" they are those of `jax.lax.conv_transpose`.
    """
    if isinstance(x.padding, str) and x.padding.upper() not in ("SAME", "VALID"):
        raise GeometryError(
            f"ConvTranspose with padding={x.padding!r} cannot be expressed as a geometry of specnorm: give its "
            "effective kernel and geometry."
        )
    if not isinstance(x.padding, str):
        return list(_pairs(x.padding, x.kernel_size, stride, dilation, None))
    pads = []
    for k, s, r in zip(x.kernel_size, stride, dilation, strict=True):
        width = r * (k - 1) + 1
        if x.padding.upper() == "SAME":
            total = width + s - 2
            half_rounded_up = -(-total // 2)
            before = width - 1 if s > width - 1 else half_rounded_up
        else:
            total = width + s - 2 + max(width - s, 0)
            before = width - 1
        pads.append((before, total - before))
    return pads


def _or_1(n: Any) -> Any:
    """Return the value of an attribute, or 1 for None."""
    return 1 if n is None else n


def _pairs(
    amount: Any,
    kernel_shape: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    input_shape: Any,
) -> Any:
    """Convert an argument ``padding`` of a framework to "valid", or to a pair (before, after) for each axis."""
    if amount == "VALID":
        return "valid"
    if amount == "SAME" or amount == "SAME_LOWER":
        ndim = len(stride)
        sizes = (None,) * ndim if input_shape is None else per_axis("input_shape", input_shape, ndim)
        rule = same_upper if amount == "SAME" else same_lower
        return [rule(*axis) for axis in zip(sizes, kernel_shape, stride, dilation, strict=True)]
    if isinstance(amount, int):
        return [(amount, amount)] * len(stride)
    return [(p, p) if isinstance(p, int) else tuple(p) for p in amount]


def equinox_layer(kind: str, x: Any, input_shape: int | Sequence[int] | None = None) -> LayerKernel:
    """Return kernel and geometry of a layer of Equinox, whose class, or base class, is named ``kind``."""
    kernel = x.weight
    axes = 2 if kind in ("Linear", "Embedding") else x.num_spatial_dims + 2
    if kernel.ndim != axes:
        raise GeometryError(
            f"{type(x).__name__} holds a weight with {counted(kernel.ndim, 'axis', 'axes')}, not {axes}: several "
            "layers in one, by vmap? "
            "Give them one by one."
        )
    if kind in ("Linear", "Embedding"):
        return LayerKernel(kernel, {})
    geometry: dict[str, Any] = {
        "stride": tuple(x.stride),
        "dilation": tuple(x.dilation),
        "groups": x.groups,
        "padding_mode": x.padding_mode.lower(),
    }
    amount = _pairs(x.padding, kernel.shape[2:], x.stride, x.dilation, input_shape)
    if kind == "Conv":
        return LayerKernel(kernel, {**geometry, "padding": amount})
    if x.padding_mode != "ZEROS" or (isinstance(x.padding, str) and input_shape is not None):
        raise GeometryError(
            f"{type(x).__name__} with padding={x.padding!r} and padding_mode={x.padding_mode!r} cannot be expressed as "
            "a geometry of specnorm at a size: leave input_shape out, or give its kernel and geometry."
        )
    # Equinox stores (cout, cin // groups, ...), and correlates the dilated input with the kernel. With channels
    # exchanged in each group, and mirrored, it is the kernel of a transposed layer. Mirroring exchanges both sides, and
    # keeps the norm.
    cout, inputs_of_a_group, *taps = kernel.shape
    outputs_of_a_group = cout // x.groups
    by_group = jnp.reshape(kernel, (x.groups, outputs_of_a_group, inputs_of_a_group, *taps))
    exchanged = jnp.swapaxes(by_group, 1, 2)
    transposed_kernel = jnp.reshape(exchanged, (x.groups * inputs_of_a_group, outputs_of_a_group, *taps))
    if isinstance(x.padding, str):
        # There is no size, and the supremum over all sizes is the same for every cropping: crop nothing.
        crops: Any = "valid"
    else:
        # An output padding beyond the cropping adds rows of zeros, which change no norm.
        sides = zip(amount, x.output_padding, strict=True)
        crops = [(max(after - extra, 0), before) for (before, after), extra in sides]
    return LayerKernel(transposed_kernel, {**geometry, "transposed": True, "padding": crops}, as_stored=False)
