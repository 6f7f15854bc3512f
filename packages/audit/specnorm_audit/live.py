"""List a live model's layers, with the geometry that they state, and its other arrays, as arrays to audit.

Plugins recognise layers and their arrays, and list the parts of a model (`Backend.layer`, `Backend.array_in`,
`Backend.parts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from inspect import getattr_static
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from specnorm_networks.model_arrays import Tensor, as_in_torch

from specnorm.errors import ModelFileError, NoBackend, SpecnormError
from specnorm.plugin import LayerKernel, array_in, layer_kernel, reader_of
from specnorm.proof import AnyArray, backends
from specnorm_audit.geometry import spatial_sizes
from specnorm_audit.layers import MIN_AXES
from specnorm_audit.readers.common import unreadable

_WITHOUT_PARTS = (type, str, bytes, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
"""Types of objects that are neither layers nor arrays, and contain none."""
_KERNEL_ATTRIBUTES = ("kernel", "weight", "embedding", "embeddings")
"""Attributes in which layers store a kernel."""
_WRAPPER_LEVELS = 2
"""Largest number of levels from a wrapper around a layer to the layer's arrays."""
_MOST_LEVELS = 100
"""Largest number of levels of parts within parts that are searched."""


def of_live_model(model: Any, input_shape: Any) -> list[Tensor]:
    """List the layers of a model of any framework; ``input_shape`` decides the padding of some.

    ``model`` may also be a pair (model, state), if the framework keeps a state beside the model. A layer or array that
    occurs in several places is listed at the first one.

    Raises
    ------
    ModelFileError
        If the object holds no layer and no array.
    """
    if backends.is_array(model):
        what = type(model).__name__
        raise ModelFileError(f"{what} is not a model but one array: specnorm.enclose measures one kernel.")
    whole = model
    if isinstance(model, tuple) and len(model) == 2:
        whole = _with_state(*model)
    tensors = [] if isinstance(whole, (list, tuple, str, bytes)) else _listed(whole, None)
    if not tensors:
        raise ModelFileError(
            f"{type(model).__name__} is not a model: give the path of its file, a mapping of names to arrays "
            "(of Linen, the variables), or a model of torch, Flax NNX, Equinox or Keras that is built."
        )
    if input_shape is None:
        return tensors
    layers = [tensor for tensor in tensors if tensor.kind in ("conv", "linear")]
    return _listed(whole, spatial_sizes(input_shape, layers))


def _listed(model: Any, input_shape: Any) -> list[Tensor]:
    """List the layers and other arrays of a model, in its order; ``input_shape`` decides the padding of some."""
    arrays_of_layers: set[int] = set()
    found = list(_walk(model, "", "", input_shape, set(), arrays_of_layers))
    return [tensor for tensor, array in found if array is None or id(array) not in arrays_of_layers]


def _with_state(model: Any, state: Any) -> Any:
    """Return a model with the state put back that its framework keeps beside it; None for any other pair."""
    plugin = _plugin_of(_first_array((model, state), _MOST_LEVELS))
    return None if plugin is None else plugin.with_state(model, state)


def _plugin_of(x: Any) -> backends.Backend | None:
    """The plugin of an object's library; None without, and for None."""
    root = backends.registry.owner_of(type(x))
    return None if root is None else backends.load(root)


def _walk(
    x: Any,
    path: str,
    owner: str,
    input_shape: Any,
    seen: set[int],
    arrays_of_layers: set[int],
) -> Iterator[tuple[Tensor, AnyArray | None]]:
    """Yield the layers of an object, and its arrays outside of layers, each of these with the array itself.

    ``path``: path of ``x`` in the model. ``owner``: name of the class of the object that contains ``x``. ``seen``:
    identities of the objects so far; extended. ``arrays_of_layers``: identities of the arrays that belong to layers;
    extended.
    """
    if id(x) in seen or path.count(".") > _MOST_LEVELS or x is None or isinstance(x, _WITHOUT_PARTS):
        return
    array = _array_in(x)
    if array is not None:
        if id(array) not in seen:
            yield _outside_of_layers(array, path, owner), array
        seen.update((id(x), id(array)))
        return
    seen.add(id(x))
    kind = type(x).__name__
    parts = _parts_of(x)
    layer, refusal = _layer(x, input_shape)
    if layer is None and refusal is None:
        for name, part in parts.items():
            path_of_part = f"{path}.{name}" if path else name
            yield from _walk(part, path_of_part, kind, input_shape, seen, arrays_of_layers)
        return
    arrays_of_layers.update(id(array) for array in map(_array_in, parts.values()) if array is not None)
    path_of_kernel = ".".join(filter(None, (path, _kernel_attribute(x, parts))))
    name = path_of_kernel or kind
    if layer is None:
        yield unreadable(name, str(refusal)), None
        return
    kernel = layer.kernel
    yield Tensor(
        name, tuple(kernel.shape), dtype_of(kernel), partial(_detached, kernel),
        "conv" if len(kernel.shape) > MIN_AXES else "linear", as_in_torch(layer.geometry),
    ), None  # fmt: skip


def _outside_of_layers(array: AnyArray, path: str, owner: str) -> Tensor:
    """Return an array that belongs to no known layer; ``owner``: name of the class of the object that contains it."""
    shape = tuple(int(n) for n in array.shape)
    reason = None
    if len(shape) >= MIN_AXES and "float" in dtype_of(array):
        reason = f"it belongs to {owner}, a layer that specnorm does not support."
        if backends.backend_for(array).name == "torch":
            reason += " specnorm_torch.audit_module(model, input_shape) measures what one product computes."
    return Tensor(path, shape, dtype_of(array), partial(_detached, array), "none", refusal=reason)


def _kernel_attribute(layer: Any, parts: Mapping[str, Any]) -> str:
    """Name of the attribute in which a layer stores its kernel, or an empty string."""
    for word in _KERNEL_ATTRIBUTES:
        # `getattr_static`, since reading a parametrized weight may change it.
        if word in parts or getattr_static(layer, word, None) is not None:
            return word
    return ""


def _parts_of(x: Any) -> Mapping[str, Any]:
    """The parts of an object by name: items of a collection, parts by its plugin, or else public attributes."""
    if isinstance(x, Mapping):
        return {str(name): part for name, part in x.items()}
    if isinstance(x, (list, tuple)):
        return {str(index): part for index, part in enumerate(x)}
    reader = reader_of(x)
    parts = None if reader is None else reader.parts(x)
    plugin = _plugin_of(x) if parts is None else None
    if plugin is not None:
        parts = plugin.parts(x)
    if parts is not None:
        return parts
    return {name: part for name, part in getattr(x, "__dict__", {}).items() if not name.startswith("_")}


def _layer(x: Any, input_shape: Any) -> tuple[LayerKernel | None, str | None]:
    """Kernel and geometry of a layer, or the reason why it cannot be described; both None if ``x`` is not a layer."""
    try:
        try:
            return layer_kernel(x, input_shape), None
        except NoBackend:
            # The plugin of its arrays may know a wrapper around a layer.
            plugin = _plugin_of(_first_array(x, _WRAPPER_LEVELS))
            return None if plugin is None else plugin.layer(x, input_shape), None
    except SpecnormError as error:
        return None, str(error)


def _first_array(x: Any, levels: int) -> Any:
    """The first array in an object, or in its parts down to the given number of levels; None without."""
    if x is None or isinstance(x, _WITHOUT_PARTS):
        return None
    array = _array_in(x)
    if array is not None or levels == 0:
        return array
    for part in _parts_of(x).values():
        array = _first_array(part, levels - 1)
        if array is not None:
            return array
    return None


def _array_in(x: Any) -> Any:
    """An array, or the one in a framework's variable (`array_in`); None: there is none, or it cannot be read."""
    try:
        return x if backends.is_array(x) else array_in(x)
    except SpecnormError:
        return None


def dtype_of(array: AnyArray) -> str:
    """Return the short name of an array's dtype, without its library's."""
    return str(getattr(array.dtype, "name", None) or str(array.dtype).rpartition(".")[2])


def _detached(array: AnyArray) -> AnyArray:
    return backends.backend_for(array).detach(array)
