"""Keras files, ``.h5`` in all its kinds and ``.keras`` archives: which array is which kernel.

A configuration is read as data; nothing in it is imported or called.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from specnorm_networks.tools import ModelArrays, Stated, Tensor

from specnorm.errors import ModelFileError
from specnorm.proof import install
from specnorm_audit.geometry import at_rank
from specnorm_audit.readers.common import check_size, lost, native, zip_of

if TYPE_CHECKING:
    import h5py

Place: TypeAlias = tuple[str, ...]
"""Names of the groups around an array, and its own."""
Items: TypeAlias = Sequence[tuple[Place, Any]]
"""Groups and arrays of a file."""
_MAX_DEPTH = 64
_FILTERS = {1: 1100, 2: 1, 3: 1, 32000: 300}
"""Filters that HDF5 itself brings, and how much they can shrink: deflate, shuffle, checksum, LZF.

For others it would load a shared library.
"""

_WEIGHTS = "model.weights.h5"
_MAX_CONFIG = 64 * 2**20
_KERNEL, _DEPTHWISE, _POINTWISE = "kernel", "depthwise_kernel", "pointwise_kernel"
ROLES = {
    **{f"Conv{d}D{end}": {"0": _KERNEL, _KERNEL: _KERNEL} for d in (1, 2, 3) for end in ("", "Transpose")},
    **{f"DepthwiseConv{d}D": dict.fromkeys(("0", _KERNEL, _DEPTHWISE), _DEPTHWISE) for d in (1, 2)},
    **{
        f"SeparableConv{d}D": {"0": _DEPTHWISE, "1": _POINTWISE, _DEPTHWISE: _DEPTHWISE, _POINTWISE: _POINTWISE}
        for d in (1, 2)
    },
    "Dense": {"0": _KERNEL, _KERNEL: _KERNEL},
}
"""Class -> name of a variable, or its place -> what kernel it is. Other variables of these classes are no kernels."""
_NO_KERNELS = frozenset({
    "Embedding", "BatchNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization",
    "UnitNormalization", "Normalization", "PReLU", "SpectralNormalization", "Discretization", "Rescaling",
})  # fmt: skip
"""Classes whose own variables are never kernels."""
_REFUSED = frozenset({
    "EinsumDense", "MultiHeadAttention", "GroupedQueryAttention", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D",
    "LocallyConnected1D", "LocallyConnected2D",
})  # fmt: skip
"""Classes whose kernels with three axes and more are no convolution's."""
_OPTIMIZER = frozenset({"optimizer", "optimizer_weights"})
_CONTAINERS = frozenset({"layers", "_layer_checkpoint_dependencies"})
_WRAPPERS = frozenset({"TimeDistributed", "SpectralNormalization"})
"""Classes that apply the layer they hold as it is."""
_PLAIN: Stated = {"stride": 1, "dilation": 1, "groups": 1, "padding": "valid"}
_MOST_PIXELS = 2**24
"""Larger input sizes in a configuration are not believed."""


def read_hdf5(file: BinaryIO, _path: str, max_bytes: int) -> ModelArrays:
    """List the arrays of an HDF5 file, and what a Keras configuration in it says of them."""
    root = _opened(file)
    items = list(_walk(root))
    config = _text(root, "model_config", file.seek(0, 2))
    places = [root, *(item for place, item in items if place == ("model_weights",))]
    version = next((told for place in places if (told := _text(place, "keras_version", 100)) is not None), None)
    if version is not None and version.startswith(("0.", "1.")):
        raise ModelFileError(
            f"it was written by Keras {version}, whose kernels may be in either order of axes. Load and save it with "
            "Keras 2 or newer."
        )
    found, owners = _arrays(items, max_bytes), _owners(items)
    if config is None and version is None and not owners and not any("vars" in place for place in found):
        return ModelArrays(list(found.values()))  # It is not of Keras: names and shapes decide.
    return ModelArrays(_described(found, owners, None if config is None else _parse(config)))


def read_archive(file: BinaryIO, _path: str, max_bytes: int) -> ModelArrays:
    """List the arrays of a ``.keras`` archive; ``max_bytes`` is of all of them, and of the archive unpacked."""
    archive, entries = zip_of(file)
    if _WEIGHTS not in entries:
        raise ModelFileError(
            f"it has no {_WEIGHTS}: its weights are sharded or elsewhere. Save it again into one file."
        )
    weights, config = entries[_WEIGHTS], entries["config.json"]
    check_size(weights.file_size, max_bytes)
    if config.file_size > _MAX_CONFIG:
        raise ModelFileError(f"its configuration has more than {_MAX_CONFIG} bytes.")
    text = archive.read(config).decode("utf-8", "replace")
    items = list(_walk(_opened(io.BytesIO(archive.read(weights)))))
    return ModelArrays(_described(_arrays(items, max_bytes), _owners(items), _parse(text)))


# -- HDF5, looked at link by link, so that nothing outside the file is ever opened -------------------------------------
def _opened(file: BinaryIO) -> h5py.File:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModelFileError(f"Keras files need the package h5py: {install('keras')}.") from error
    try:
        return h5py.File(file, "r")
    except Exception as error:
        raise ModelFileError(f"it is damaged or cut short: {error}.") from error


def _walk(root: h5py.File) -> Iterator[tuple[Place, Any]]:
    """Groups and arrays below a group, each group once. Links that leave the file, or could, are refused."""
    import h5py

    seen = set()
    stack: list[tuple[Place, Any]] = [((), root)]
    while stack:
        place, group = stack.pop()
        try:
            address, entries = h5py.h5o.get_info(group.id).addr, list(group)
        except Exception as error:
            raise ModelFileError(f"group {'/'.join(place)!r} is damaged: {error}.") from error
        if address in seen:
            continue
        seen.add(address)
        if len(place) > _MAX_DEPTH:
            raise ModelFileError(f"its groups are nested more than {_MAX_DEPTH} deep.")
        inner = []
        for name in entries:
            if not isinstance(name, str):  # bytes, where they are no UTF-8
                raise ModelFileError(f"group {'/'.join(place)!r} is damaged: one of its names is no text ({name!r}).")
            here = (*place, name)
            try:
                inside = isinstance(group.get(name, getlink=True), h5py.HardLink)
                item = group[name] if inside else None
            except Exception as error:
                raise ModelFileError(f"{'/'.join(here)!r} is damaged: {error}.") from error
            if not inside:
                raise ModelFileError(
                    f"{'/'.join(here)!r} is a link to somewhere else, which is not followed. Save the weights again "
                    "into one file."
                )
            if isinstance(item, h5py.Group):
                inner.append((here, item))
            if isinstance(item, h5py.Dataset | h5py.Group):
                yield here, item
        stack.extend(reversed(inner))


def _arrays(items: Items, max_bytes: int) -> dict[Place, Tensor]:
    """Every array of a file by its place, which is also its name; together of at most ``max_bytes``."""
    import h5py

    found, claimed = {}, 0
    for place, item in items:
        if isinstance(item, h5py.Dataset):
            found[place] = _array("/".join(place), item)
            with suppress(Exception):  # refused already
                claimed += int(item.nbytes)
            check_size(claimed, max_bytes)
    return found


def _array(name: str, item: h5py.Dataset) -> Tensor:
    try:
        shape = tuple(int(n) for n in item.shape or ())
        raw = item.dtype.kind == "V" and item.dtype.itemsize == 2
        dtype = "bfloat16" if raw and _text(item, "dtype", 100) == "bfloat16" else item.dtype.name
        refusal = _refusal(item, math.prod(shape) * item.dtype.itemsize)
    except Exception as error:
        return lost(name, f"it is damaged: {error}.")
    return Tensor(name, shape, dtype, partial(_load, item, dtype), refusal=refusal)


def _load(item: h5py.Dataset, dtype: str) -> NDArray[Any]:
    try:
        array = np.asarray(item[()])
    except Exception as error:  # the library fails in many ways on damaged data
        raise ModelFileError(f"it cannot be read: {error}.") from error
    return native(array, dtype)


def _refusal(item: h5py.Dataset, claimed: int) -> str | None:
    plan = item.id.get_create_plist()
    if item.is_virtual or plan.get_external_count():
        return "its data lies in another file, which is not opened. Save the weights again into one file."
    stored = item.id.get_storage_size()
    shrink = 1
    if item.chunks is not None:
        chunk = math.prod(item.chunks) * item.dtype.itemsize
        if chunk > max(2 * claimed, 2**20):
            return f"its pieces claim {chunk} bytes each, but it has {claimed} in all: the file is damaged."
        filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
        strange = [number for number in filters if number not in _FILTERS]
        if strange or len(set(filters)) != len(filters):
            return f"it went through HDF5 filter {', '.join(map(str, strange or filters))}, which is not read."
        shrink = math.prod(_FILTERS[number] for number in filters)
    if claimed > stored * shrink:
        return f"shape {item.shape} of {item.dtype} claims {claimed} bytes; {stored} are stored."
    return None


def _owners(items: Items) -> dict[Place, str]:
    """Names that Keras 3 gives the owners of variables: place of the group that holds ``vars`` -> name of the layer."""
    names = {place[:-1]: _text(item, "name", 10_000) for place, item in items if place[-1] == "vars"}
    return {place: name for place, name in names.items() if name is not None}


def _text(item: Any, name: str, most: int) -> str | None:
    """Text of an attribute, of at most so many bytes; None if there is none, or it is no text."""
    try:
        if name not in item.attrs:
            return None
        held = item.attrs.get_id(name)
        if math.prod(held.shape) != 1 or held.dtype.itemsize > most:
            return None
        value = np.asarray(item.attrs[name]).reshape(-1)[0]
        text = value.decode("utf-8") if isinstance(value, bytes) else str(value)
    except Exception:  # a damaged attribute says nothing; what it would have said is then assumed, and the rows say so
        return None
    return text if len(text) <= most else None


# -- Keras: what its configuration says of the arrays ------------------------------------------------------------------
def _snake(name: str) -> str:
    """Turn a class into the name of a group in a Keras 3 file, by Keras's own rule."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


_BY_SNAKE = {_snake(name): name for name in (*ROLES, *_NO_KERNELS, *_REFUSED)}


@dataclass(frozen=True)
class Node:
    """A layer or model in a configuration."""

    kind: str
    name: str
    config: Mapping[str, Any]
    built: Mapping[str, Any]
    children: list[Node] = field(default_factory=list)

    def child(self, part: str, name: str | None) -> Node | None:
        """Find the layer that a group belongs to: by the name given, by its own, or by its class and count."""
        for node in self.children:
            if node.name == (part if name is None else name):
                return node
        counts: dict[str, int] = {}
        for node in self.children:
            key = _snake(node.kind)
            counts[key] = counts.get(key, -1) + 1
            if part == (f"{key}_{counts[key]}" if counts[key] else key):
                return node if name is None else None
        return None


def _parse(text: str) -> Node:
    try:
        return _node(json.loads(text), 0)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"its configuration is damaged: {type(error).__name__}: {error}.") from error


def _node(entry: Mapping[str, Any], depth: int) -> Node:
    if depth > 50:
        raise ModelFileError("its configuration nests models more than 50 deep.")
    inner = entry.get("config", {})
    config = inner if isinstance(inner, dict) else {"layers": inner}  # Sequential, before Keras 2.2
    name = entry.get("name") or config.get("name") or ""
    children = [*config.get("layers", ()), *([config["layer"]] if isinstance(config.get("layer"), dict) else ())]
    built = entry.get("build_config")
    return Node(
        _class_of(entry),
        str(name),
        config,
        built if isinstance(built, dict) else {},
        [_node(child, depth + 1) for child in children if isinstance(child, dict) and "class_name" in child],
    )


def _class_of(entry: Mapping[str, Any]) -> str:
    """Class, with a mark if it is not Keras's own: a stranger's Conv2D need not be a convolution."""
    kind = str(entry["class_name"])
    module = entry.get("module")
    own = module is None or str(module).partition(".")[0] in ("keras", "tf_keras", "tensorflow")
    return kind if own and not entry.get("registered_name") else f"custom {kind}"


def _described(stored: Mapping[Place, Tensor], names: Mapping[Place, str], config: Node | None) -> list[Tensor]:
    found = _weight_normalised(stored)
    tensors = [_tensor(place, tensor, names, config) for place, tensor in found.items()]
    known = Counter(tensor.name for tensor in tensors)
    # Names of layers read better than places in the file; but two arrays must not share one.
    return [
        tensor if known[tensor.name] == 1 else replace(tensor, name=stored.name)
        for tensor, stored in zip(tensors, found.values(), strict=True)
    ]


_NORMALISED = "kernel=g·v/|v|"
_SMALLEST_SQUARE = 1e-12
"""By which TensorFlow's l2_normalize replaces a smaller sum of squares."""


def _weight_normalised(stored: Mapping[Place, Tensor]) -> dict[Place, Tensor]:
    """Put the kernels that the WeightNormalization of TensorFlow Addons applies in the place of those that it stores.

    Beside the kernel v it stores one length g for each entry of the last axis, and whether g was initialised.
    """
    found = dict(stored)
    for place, flag in stored.items():
        group, modern = place[:-1], place[-2:-1] == ("vars",)
        if flag.dtype != "bool" or flag.shape or _leaf(place) not in ("initialized", "2"):
            continue
        inside = [other for other in stored if other[: len(group)] == group]
        lengths = [other for other in inside if _leaf(other) == ("0" if modern else "g") and other[:-1] == group]
        kernels = [other for other in inside if _leaf(other) == _KERNEL and "data_dep_init" not in other]
        if modern:
            kernels = [other for other in stored if other == (*group[:-1], "layer", "vars", "0")]
        if len(lengths) != 1 or len(kernels) != 1 or stored[lengths[0]].shape != stored[kernels[0]].shape[-1:]:
            continue
        length, kernel = stored[lengths[0]], stored[kernels[0]]
        load = partial(_normalised_kernel, kernel.load, length.load, flag.load)
        refusal = kernel.refusal or length.refusal or flag.refusal
        found[kernels[0]] = replace(kernel, load=load, refusal=refusal, assumed=(*kernel.assumed, _NORMALISED))
        others = [other for other in inside if other != kernels[0] and _leaf(other) != "bias"]
        found.update({other: replace(stored[other], kind="none", refusal=None) for other in others})
    return found


def _leaf(place: Place) -> str:
    return re.sub(r":\d+$", "", place[-1])


def _normalised_kernel(
    direction: Callable[[], NDArray[Any]], length: Callable[[], NDArray[Any]], flag: Callable[[], NDArray[Any]]
) -> NDArray[Any]:
    if not bool(flag()):
        raise ModelFileError(
            "its WeightNormalization was saved before its first call, which sets g: the file does not determine the "
            "weight. Call the model once, and save it again."
        )
    v = direction()
    wide = v.astype(np.float64)
    squares = np.sum(wide**2, axis=tuple(range(v.ndim - 1)), keepdims=True)
    scaled = wide / np.sqrt(np.maximum(squares, _SMALLEST_SQUARE)) * length().astype(np.float64)
    return np.asarray(scaled.astype(np.result_type(v, np.float32)))


def _is_weight_normalization(node: Node) -> bool:
    """Whether a layer is the wrapper of TensorFlow Addons, around a layer that is told."""
    return node.kind.endswith("WeightNormalization") and len(node.children) == 1


def _tensor(place: Place, stored: Tensor, names: Mapping[Place, str], config: Node | None) -> Tensor:
    groups, leaf, shape = place[:-1], _leaf(place), stored.shape
    if stored.kind == "none":
        return stored
    # Without a configuration, only a name says so.
    sure = config is not None or len(shape) < 2
    unsure = None if sure else "it is no kernel by its name in the file, which has no configuration."
    if groups and groups[0] in _OPTIMIZER:
        return replace(stored, kind="none", refusal=unsure)
    if groups[:1] == ("model_weights",):
        groups = groups[1:]
    modern = groups[-1:] == ("vars",)
    owner = _in_vars(groups[:-1], names, config) if modern else _in_groups(groups, config)
    role = ROLES[owner.kind].get(leaf) if owner.kind in ROLES else leaf if leaf in (_DEPTHWISE, _POINTWISE) else None
    kernel = replace(
        stored,
        name="/".join((*owner.shown, role or leaf) if modern else (*groups, place[-1])),
        assumed=(*stored.assumed, *owner.assumed),
    )
    if stored.kind == "unknown":
        return kernel
    if owner.kind in _NO_KERNELS or (owner.kind in ROLES and role is None):
        return replace(kernel, kind="none", refusal=unsure)
    if role is not None and owner.is_normalised and _NORMALISED not in stored.assumed:
        reason = "WeightNormalization computes the weight from it, and g and initialized are not beside it in the file."
        kernel = replace(kernel, refusal=stored.refusal or reason)
    if role is not None:
        return _kernel(kernel, owner, role)
    if owner.kind in _REFUSED:
        if leaf == "bias" or (len(shape) == 2 and leaf not in ("0", _KERNEL)):
            return replace(kernel, kind="none", refusal=unsure)
        if len(shape) > 2:
            reason = f"it belongs to a layer of class {owner.kind}, which is not measured."
            return replace(kernel, refusal=stored.refusal or reason)
    if not 2 <= len(shape) <= 5:
        return kernel
    layout = at_rank("HWIO", len(shape))
    kind = "linear" if len(layout) == 2 else "conv"
    guess = (f"kind={kind} (class {owner.kind or 'unknown'})", *([f"layout={layout}"] if kind == "conv" else ()))
    return replace(kernel, geometry={"layout": layout}, assumed=guess)


@dataclass(frozen=True)
class _Owner:
    """The layer that a variable belongs to: its class ("" if not known), configuration, and names on the way to it."""

    kind: str = ""
    node: Node | None = None
    shown: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    is_normalised: bool = False


def _in_groups(groups: Sequence[str], config: Node | None) -> _Owner:
    """Owner in a file of Keras 2 (and 3, as ``.h5``): groups are names of layers, and more that says nothing."""
    node = config
    for part in groups:
        child = None if node is None else next((n for n in node.children if n.name == part), None)
        node = node if child is None else child
    normalised = False
    while node is not None and node.children and (node.kind == "TimeDistributed" or _is_weight_normalization(node)):
        normalised = normalised or node.kind != "TimeDistributed"
        node = node.children[0]
    return _Owner() if node is None or node is config else _Owner(node.kind, node, is_normalised=normalised)


def _in_vars(groups: Sequence[str], names: Mapping[Place, str], config: Node | None) -> _Owner:
    """Owner in a file of Keras 3: groups are attributes and containers, in which classes are counted."""
    node, kind, certain = config, "", True
    shown = []
    normalised = False
    for depth, part in enumerate(groups, 1):
        if part in _CONTAINERS:
            continue
        name = names.get(tuple(groups[:depth]))
        counted = depth > 1 and groups[depth - 2] in _CONTAINERS
        inner = node is not None and part == "layer" and bool(node.children)
        normalised = node is not None and inner and _is_weight_normalization(node)
        held = node is not None and inner and (normalised or node.kind in _WRAPPERS)
        node = None if node is None else node.children[0] if held else node.child(part, name)
        guessed = _BY_SNAKE.get(re.sub(r"_\d+$", "", part))
        if node is not None:
            kind, certain = node.kind, True
        elif guessed is not None:
            kind, certain = guessed, counted
        elif kind not in _REFUSED:
            kind, certain = "", True
        shown.append(name if name is not None and (counted or node is not None) else part)
    return _Owner(kind, node, tuple(shown), () if certain else (f"class={kind}",), normalised)


def _kernel(tensor: Tensor, owner: _Owner, role: str) -> Tensor:
    if owner.kind == "Dense":
        return replace(tensor, kind="linear", geometry={"layout": "IO"})
    shape, load = tensor.shape, tensor.load
    if not 3 <= len(shape) <= 5:
        return replace(tensor, kind="conv", refusal=tensor.refusal or f"a kernel of {owner.kind} has no {shape} axes.")
    transposed = owner.kind.endswith("Transpose")
    geometry: Stated = {"layout": at_rank("HWIO", len(shape)), "transposed": transposed, "padding_mode": "zeros"}
    if role == _POINTWISE:
        return replace(tensor, kind="conv", geometry=geometry | _PLAIN)
    if role == _DEPTHWISE:
        *spatial, cin, times = shape
        geometry |= {"layout": None, "groups": cin}
        shape, load = (cin * times, 1, *spatial), partial(_in_torch_order, load)
    size = None
    if owner.node is not None:
        geometry = _configured(owner.node, tensor.shape[:-2]) | geometry
        size = _size(owner.node, len(shape) - 2) if "padding" in geometry else None  # a bound at a size is of a padding
    return replace(tensor, kind="conv", shape=shape, load=load, geometry=geometry, input_shape=size)


def _in_torch_order(load: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """Read a depthwise kernel, stored (*spatial, cin, times), as that of a layer with cin groups."""
    kernel = np.moveaxis(load(), (-2, -1), (0, 1))
    return kernel.reshape(-1, 1, *kernel.shape[2:])


def _configured(node: Node, kernel_shape: Sequence[int]) -> Stated:
    """Geometry by a configuration. Its values are checked where they are used."""
    config = node.config
    found: Stated = {"groups": config.get("groups", 1)}
    if "strides" in config:
        found["stride"] = config["strides"]
    if "dilation_rate" in config:
        found["dilation"] = config["dilation_rate"]
    amount = config.get("padding")
    if config.get("output_padding") is not None and amount != "valid":
        return found  # Keras then crops by a rule of its own, and differently on each library
    if amount == "causal" and len(kernel_shape) == 1:
        rate = found.get("dilation", 1)
        rate = rate[0] if isinstance(rate, list) and len(rate) == 1 else rate
        if isinstance(rate, int):
            found["padding"] = [(rate * (kernel_shape[0] - 1), 0)]
    elif amount is not None:
        found["padding"] = "same_upper" if amount == "same" else amount
    return found


def _size(node: Node, axes: int) -> tuple[int, ...] | None:
    shape = node.built.get("input_shape")
    if not isinstance(shape, list) or len(shape) != axes + 2:
        return None
    sizes = shape[2:] if node.config.get("data_format") == "channels_first" else shape[1:-1]
    if any(type(n) is not int or n < 1 for n in sizes) or math.prod(sizes) > _MOST_PIXELS:
        return None
    return tuple(sizes)
