"""Read Keras files, ``.h5`` of all versions and ``.keras`` archives, and find the kernels and geometries of layers.

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
from specnorm_networks.model_arrays import ModelArrays, Stated, Tensor

from specnorm.errors import ModelFileError
from specnorm_audit.accounts.conventions.recipe import is_vector
from specnorm_audit.accounts.names import COUNTER
from specnorm_audit.geometry import at_rank
from specnorm_audit.readers.common import check_shrinking, check_size, library, native, unreadable, zip_of

if TYPE_CHECKING:
    import h5py

Array: TypeAlias = NDArray[Any]
Load: TypeAlias = Callable[[], Array]
Place: TypeAlias = tuple[str, ...]
"""Path of an array or group in a file: the names of the groups around it, and its own name."""
Items: TypeAlias = Sequence[tuple[Place, Any]]
"""Groups and arrays of a file, with their paths."""
_MAX_DEPTH = 64
"""Largest number of nested groups."""
_FILTERS = {1: 1100, 2: 1, 3: 1, 32000: 300}
"""Filters of HDF5 itself (deflate, shuffle, checksum, LZF), with the largest factor by which each can compress.

HDF5 would load a shared library for others.
"""

_WEIGHTS = "model.weights.h5"
_MAX_CONFIG = 64 * 2**20
"""Largest number of bytes of a configuration."""
_KERNEL = "kernel"
_DEPTHWISE = "depthwise_kernel"
_POINTWISE = "pointwise_kernel"
ROLES = {
    **{f"Conv{d}D{end}": (_KERNEL,) for d in (1, 2, 3) for end in ("", "Transpose")},
    **{f"DepthwiseConv{d}D": (_DEPTHWISE,) for d in (1, 2)},
    **{f"SeparableConv{d}D": (_DEPTHWISE, _POINTWISE) for d in (1, 2)},
    "Dense": (_KERNEL,),
    "Embedding": ("embeddings",),
}
"""Kernels of layers by class, which are their first variables. Their other variables are no kernels."""
_NO_KERNELS = frozenset({
    "BatchNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization",
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
_WRAPPERS = frozenset({
    "TimeDistributed", "SpectralNormalization", "Addons>SpectralNormalization", "custom Addons>SpectralNormalization",
})  # fmt: skip
"""Classes that apply the layer inside them with the kernel that it stores: in training they replace the kernel."""
_RECURRENT = frozenset({"SimpleRNN", "GRU", "LSTM", "SimpleRNNCell", "GRUCell", "LSTMCell", "RNN", "Bidirectional"})
"""Classes whose matrices are used as they are stored."""
_NORMALISED = "WeightNormalization computes the weight from it. Save a plain layer with the weight in use."
_PLAIN: Stated = {"stride": 1, "dilation": 1, "groups": 1, "padding": "valid"}
_MOST_PIXELS = 2**24
"""Largest number of pixels of an input size in a configuration that is believed."""


def read_hdf5(file: BinaryIO, _path: str, max_bytes: int) -> ModelArrays:
    """List the arrays of an HDF5 file, with the geometry that a Keras configuration in it states."""
    root = _opened(file)
    items = list(_walk(root))
    config = _text(root, "model_config", file.seek(0, 2))
    version = _text(root, "keras_version", 100)
    for place, item in items:
        if version is None and place == ("model_weights",):
            version = _text(item, "keras_version", 100)
    if version is not None and version.startswith(("0.", "1.")):
        raise ModelFileError(
            f"it was written by Keras {version}, whose kernels may be in either order of axes. Load and save it with "
            "Keras 2 or newer."
        )
    arrays = _arrays(items, max_bytes)
    owners = _owners(items)
    has_variables = bool(owners) or any("vars" in place for place in arrays)
    if config is None and version is None and not has_variables:
        return ModelArrays(list(arrays.values()))  # the file is not of Keras: names and shapes decide
    return ModelArrays(_described(arrays, owners, None if config is None else _parse(config)))


def read_archive(file: BinaryIO, _path: str, max_bytes: int) -> ModelArrays:
    """List the arrays of a ``.keras`` archive; ``max_bytes`` limits the arrays, and the unpacked archive."""
    archive, entries = zip_of(file)
    if _WEIGHTS not in entries:
        raise ModelFileError(
            f"it has no {_WEIGHTS}: its weights are sharded or elsewhere. Save it again into one file."
        )
    weights = entries[_WEIGHTS]
    config = entries["config.json"]
    check_size(weights.file_size, max_bytes)
    if config.file_size > _MAX_CONFIG:
        raise ModelFileError(f"its configuration has more than {_MAX_CONFIG} bytes.")
    text = archive.read(config).decode("utf-8", "replace")
    items = list(_walk(_opened(io.BytesIO(archive.read(weights)))))
    return ModelArrays(_described(_arrays(items, max_bytes), _owners(items), _parse(text)))


# -- HDF5, looked at link by link, so that nothing outside the file is ever opened -------------------------------------
def _opened(file: BinaryIO) -> h5py.File:
    """Open an HDF5 file."""
    h5py = library("h5py", "Keras files", "keras")
    try:
        return h5py.File(file, "r")
    except Exception as error:
        raise ModelFileError(f"it is damaged or cut short: {error}.") from error


def _walk(root: h5py.File) -> Iterator[tuple[Place, Any]]:
    """Yield the groups and arrays below a group with their paths, each group once; refuse all but hard links."""
    import h5py

    seen = set()
    stack: list[tuple[Place, Any]] = [((), root)]
    while stack:
        place, group = stack.pop()
        try:
            address = h5py.h5o.get_info(group.id).addr
            entries = list(group)
        except Exception as error:
            raise ModelFileError(f"group {'/'.join(place)!r} is damaged: {error}.") from error
        if address in seen:
            continue
        seen.add(address)
        if len(place) > _MAX_DEPTH:
            raise ModelFileError(f"its groups are nested more than {_MAX_DEPTH} deep.")
        inner = []
        for name in entries:
            if not isinstance(name, str):  # h5py returns bytes for a name that is not UTF-8
                group = "/".join(place)
                raise ModelFileError(f"group {group!r} is damaged: one of its names is not text ({name!r}).")
            item_place = (*place, name)
            item = _linked_item(group, name, "/".join(item_place))
            if isinstance(item, h5py.Group):
                inner.append((item_place, item))
            if isinstance(item, h5py.Dataset | h5py.Group):
                yield item_place, item
        stack.extend(reversed(inner))


def _linked_item(group: h5py.Group, name: str, path: str) -> Any:
    """Return an entry of a group; refuse all but hard links."""
    import h5py

    try:
        is_in_file = isinstance(group.get(name, getlink=True), h5py.HardLink)
        item = group[name] if is_in_file else None
    except Exception as error:
        raise ModelFileError(f"{path!r} is damaged: {error}.") from error
    if not is_in_file:
        raise ModelFileError(
            f"{path!r} is a link to somewhere else, which is not followed. Save the weights again into one file."
        )
    return item


def _arrays(items: Items, max_bytes: int) -> dict[Place, Tensor]:
    """Return every array of a file by its path, which is also its name; refuse arrays of more than ``max_bytes``."""
    import h5py

    arrays = {}
    claimed = 0
    stored = 0
    for place, item in items:
        if isinstance(item, h5py.Dataset):
            arrays[place] = _array("/".join(place), item)
            with suppress(Exception):  # a damaged array has a refusal already
                claimed += int(item.nbytes)
                stored += int(item.id.get_storage_size())
            check_size(claimed, max_bytes)
    check_shrinking(claimed, stored)
    return arrays


def _array(name: str, item: h5py.Dataset) -> Tensor:
    """Return an array of a file, with a refusal if it cannot be read."""
    try:
        shape = tuple(int(n) for n in item.shape or ())
        has_two_bytes = item.dtype.kind == "V" and item.dtype.itemsize == 2
        is_bfloat16 = has_two_bytes and _text(item, "dtype", 100) == "bfloat16"
        dtype = "bfloat16" if is_bfloat16 else item.dtype.name
        refusal = _refusal(item, math.prod(shape) * item.dtype.itemsize)
    except Exception as error:
        return unreadable(name, f"it is damaged: {error}.")
    return Tensor(name, shape, dtype, partial(_load, item, dtype), refusal=refusal)


def _load(item: h5py.Dataset, dtype: str) -> Array:
    try:
        array = np.asarray(item[()])
    except Exception as error:  # the library fails in many ways on damaged data
        raise ModelFileError(f"it cannot be read: {error}.") from error
    return native(array, dtype)


def _refusal(item: h5py.Dataset, claimed: int) -> str | None:
    """Return the reason why an array that claims so many bytes is not read; None: it is read."""
    properties = item.id.get_create_plist()
    if item.is_virtual or properties.get_external_count():
        return "its data lies in another file, which is not opened. Save the weights again into one file."
    stored = item.id.get_storage_size()
    shrink = 1
    if item.chunks is not None:
        chunk = math.prod(item.chunks) * item.dtype.itemsize
        if chunk > max(2 * claimed, 2**20):
            return f"its pieces claim {chunk} bytes each, but it has {claimed} in all: the file is damaged."
        filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
        unknown = [number for number in filters if number not in _FILTERS]
        if unknown or len(set(filters)) != len(filters):
            return (
                f"it is stored with the HDF5 filter {', '.join(map(str, unknown or filters))}, which is not supported."
            )
        shrink = math.prod(_FILTERS[number] for number in filters)
    if claimed > stored * shrink:
        return f"shape {item.shape} of {item.dtype} claims {claimed} bytes; {stored} are stored."
    return None


def _owners(items: Items) -> dict[Place, str]:
    """Return the names of the layers that own variables, as Keras 3 stores them, by the group around ``vars``."""
    names = {place[:-1]: _text(item, "name", 10_000) for place, item in items if place[-1] == "vars"}
    return {place: name for place, name in names.items() if name is not None}


def _text(item: Any, name: str, most: int) -> str | None:
    """Return the text of an attribute; None if there is none, it is not a text, or it has more than ``most`` bytes."""
    try:
        if name not in item.attrs:
            return None
        attribute = item.attrs.get_id(name)
        if math.prod(attribute.shape) != 1 or attribute.dtype.itemsize > most:
            return None
        value = np.asarray(item.attrs[name]).reshape(-1)[0]
        text = value.decode("utf-8") if isinstance(value, bytes) else str(value)
    except Exception:  # a damaged attribute counts as missing: its fact is assumed then, and the rows say so
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
    """A layer or model in a configuration; ``kind`` is its class, ``built`` its build configuration."""

    kind: str
    name: str
    config: Mapping[str, Any]
    built: Mapping[str, Any]
    children: list[Node] = field(default_factory=list)

    def child(self, part: str, name: str | None) -> Node | None:
        """Return the layer that a group belongs to; None: there is none.

        ``part`` is the group's name, ``name`` the layer's name that the file stores for the group, if there is one. A
        group is called like its layer, or like the layer's class with a number.
        """
        for node in self.children:
            if node.name == (part if name is None else name):
                return node
        counts: dict[str, int] = {}
        for node in self.children:
            key = _snake(node.kind)
            counts[key] = counts.get(key, -1) + 1
            if part == (f"{key}_{counts[key]}" if counts[key] else key):
                # If the file stores the layer's name, and no child has it, then the class proves nothing.
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
    children = list(config.get("layers", ()))
    if isinstance(config.get("layer"), dict):
        children.append(config["layer"])
    built = entry.get("build_config")
    return Node(
        _class_of(entry),
        str(name),
        config,
        built if isinstance(built, dict) else {},
        [_node(child, depth + 1) for child in children if isinstance(child, dict) and "class_name" in child],
    )


def _class_of(entry: Mapping[str, Any]) -> str:
    """Return a layer's class; it begins with "custom" if it is not Keras's own, as it may be no convolution then."""
    kind = str(entry["class_name"])
    module = entry.get("module")
    is_of_keras = module is None or str(module).partition(".")[0] in ("keras", "tf_keras", "tensorflow")
    return kind if is_of_keras and not entry.get("registered_name") else f"custom {kind}"


def _described(stored: Mapping[Place, Tensor], names: Mapping[Place, str], config: Node | None) -> list[Tensor]:
    """Return the arrays of a file with the facts that names and configuration state about them."""
    weights = _without_normalised(stored)
    tensors: dict[Place, Tensor] = {}
    for place, weight in weights.items():
        tensor = _tensor(place, weight, names, config)
        tensors[place] = _with_doubt(place, tensor, weights)
    for place in list(tensors):
        beside = (*place[:-1], {"0": "1"}.get(_leaf(place), place[-1].replace(_DEPTHWISE, _POINTWISE)))
        is_pair = beside in tensors and _POINTWISE in tensors[beside].name and _DEPTHWISE in tensors[place].name
        if is_pair and tensors[place].kind == tensors[beside].kind == "conv":
            tensors[place] = _separable(tensors[place], tensors[beside], (weights[place], weights[beside]))
            tensors[beside] = replace(weights[beside], kind="none")
    counts = Counter(tensor.name for tensor in tensors.values())
    described = []
    for place, tensor in tensors.items():
        # Names of layers are clearer than paths in the file, but two arrays must not have one name.
        is_unique = counts[tensor.name] == 1
        tensor = tensor if is_unique else replace(tensor, name=weights[place].name)
        is_numbered = tensor.kind is None and place[-2:-1] == ("vars",)
        described.append(replace(tensor, kind="none") if is_numbered and is_vector(tensor.shape) else tensor)
    return described


def _with_doubt(place: Place, tensor: Tensor, weights: Mapping[Place, Tensor]) -> Tensor:
    """Return a kernel of a layer of unknown class; refused if a vector stands beside it that is no bias.

    Variables in ``vars`` have numbers for names, so that shapes tell which one is the bias.
    """
    if tensor.kind is not None or len(tensor.shape) < 2 or place[-2:-1] != ("vars",):
        return tensor
    beside = [
        other for other, x in weights.items() if other[:-1] == place[:-1] and other != place and "float" in x.dtype
    ]
    vectors = [other for other in beside if is_vector(weights[other].shape)]
    if is_vector(tensor.shape) and len(vectors) < len(beside):
        return replace(tensor, kind="none", refusal="a kernel stands beside it, of a layer of an unknown class.")
    biases = [other for other in vectors if weights[other].shape == tensor.shape[-1:]]
    others = [other for other in vectors if other not in biases[:1]]
    if not others:
        return tensor
    reason = f"its layer, of an unknown class, has the variable {'/'.join(others[0])} besides kernel and bias."
    return tensor.refused(reason)


def _separable(depthwise: Tensor, pointwise: Tensor, stored: tuple[Tensor, Tensor]) -> Tensor:
    """Return the kernel of a separable layer, which is that of its depthwise and its pointwise step together."""
    *spatial, cin, _ = stored[0].shape
    return replace(
        depthwise,
        name=depthwise.name.rpartition(".")[0],
        shape=(*spatial, cin, stored[1].shape[-1]),
        dtype="float64",
        geometry={**depthwise.geometry, "groups": 1},
        load=partial(_product, stored[0].load, stored[1].load),
        refusal=depthwise.refusal or pointwise.refusal,
    )


def _product(depthwise: Load, pointwise: Load) -> Array:
    first = depthwise().astype(np.float64)
    second = pointwise().astype(np.float64)
    kernel: Array = np.einsum("...cm,cmf->...cf", first, second.reshape(*first.shape[-2:], -1))
    return kernel


def _without_normalised(stored: Mapping[Place, Tensor]) -> dict[Place, Tensor]:
    """Return the arrays, with those of a WeightNormalization of TensorFlow Addons refused.

    It stores a flag whether g was initialized beside the kernel v; in a file of Keras 3 the kernel is in another group.
    """
    weights = dict(stored)
    for place, flag in stored.items():
        if flag.dtype != "bool" or flag.shape or _leaf(place) not in ("initialized", "2"):
            continue
        is_keras_3 = place[-2:-1] == ("vars",)
        group = place[:-2] if is_keras_3 else place[:-1]
        for other, x in stored.items():
            if other[: len(group)] == group and len(x.shape) > 1:
                weights[other] = x.refused(_NORMALISED)
    return weights


def _leaf(place: Place) -> str:
    """Return the last name of a path, without TensorFlow's counter."""
    return COUNTER.sub("", place[-1])


def _is_weight_normalization(node: Node) -> bool:
    """Whether a layer is the wrapper of TensorFlow Addons, with the layer inside stated."""
    return node.kind.endswith("WeightNormalization") and len(node.children) == 1


def _tensor(place: Place, stored: Tensor, names: Mapping[Place, str], config: Node | None) -> Tensor:
    """Return an array with kind, geometry and name by its path, its owner's name and the configuration."""
    if stored.kind == "none":
        return stored
    groups = place[:-1]
    leaf = _leaf(place)
    # Without a configuration, names alone show that an array is not a kernel: the report mentions it then.
    doubt = None
    if config is None and len(stored.shape) >= 2:
        doubt = "it is not a kernel by its name in the file, which has no configuration."
    if groups and groups[0] in _OPTIMIZER:
        return replace(stored, kind="none", refusal=doubt)
    if groups[:1] == ("model_weights",):
        groups = groups[1:]
    is_keras_3 = groups[-1:] == ("vars",)
    owner = _in_vars(groups[:-1], names, config) if is_keras_3 else _in_groups(groups, config)
    role = _role(owner, leaf)
    # As in a live model: layers by name, with dots.
    shown = _KERNEL if role == _DEPTHWISE and owner.kind.startswith("Depthwise") else role or leaf
    name = ".".join((*owner.shown, shown)) if owner.shown else "/".join((*groups, place[-1]))
    tensor = replace(stored, name=name, assumed=(*stored.assumed, *owner.assumed))
    if stored.kind == "unknown":
        return tensor
    if not _may_be_kernel(owner, role, leaf, len(stored.shape)):
        return replace(tensor, kind="none", refusal=doubt)
    if role is not None:
        return _kernel(tensor.refused(_NORMALISED) if owner.is_normalised else tensor, owner, role)
    tensor = _unknown_role(tensor, owner)
    is_of_other_class = bool(owner.kind) and owner.kind not in _RECURRENT and owner.kind not in _REFUSED
    if len(stored.shape) > 1 and is_of_other_class:
        return replace(tensor, doubt=f"its layer is of class {owner.kind}, whose code determines the weight.")
    return tensor


def _may_be_kernel(owner: _Owner, role: str | None, leaf: str, axes: int) -> bool:
    """Whether a variable of a layer may be a kernel.

    ``role``: which kernel it is, as `_role` says; ``leaf``: its own name; ``axes``: the number of its axes.
    """
    if owner.kind in _NO_KERNELS:
        return False
    if role is not None:
        return True
    if owner.kind in ROLES:
        return False  # such as its bias
    is_matrix_beside_kernel = axes == 2 and leaf not in ("0", _KERNEL)
    return owner.kind not in _REFUSED or not (leaf == "bias" or is_matrix_beside_kernel)


def _unknown_role(tensor: Tensor, owner: _Owner) -> Tensor:
    """Return a variable whose role is not known: refused, or as a kernel of the kind that its axes suggest."""
    axes = len(tensor.shape)
    if owner.kind in _REFUSED and axes > 2:
        reason = f"it belongs to a layer of class {owner.kind}, which is not measured."
        return tensor.refused(reason)
    if not 2 <= axes <= 5:
        return tensor
    layout = at_rank("HWIO", axes)
    kind = "linear" if len(layout) == 2 else "conv"
    guesses = [f"kind={kind} (class {owner.kind or 'unknown'})"]
    if kind == "conv":
        guesses.append(f"layout={layout}")
    return replace(tensor, geometry={"layout": layout}, assumed=tuple(guesses))


def _role(owner: _Owner, leaf: str) -> str | None:
    """Return which kernel a variable of this name is; None: it is none, or that is not known."""
    if owner.kind not in ROLES:
        return leaf if leaf in (_DEPTHWISE, _POINTWISE) else None
    roles = ROLES[owner.kind]
    if leaf == _KERNEL and len(roles) == 1:  # of a depthwise convolution, too
        return roles[0]
    return dict(zip("01", roles, strict=False)).get(leaf, leaf if leaf in roles else None)


@dataclass(frozen=True)
class _Owner:
    """The layer that a variable belongs to."""

    kind: str = ""
    """Its class; empty if it is not known."""
    node: Node | None = None
    """Its configuration."""
    shown: tuple[str, ...] = ()
    """Names of the layers around it and of the layer itself, for the array's name."""
    assumed: tuple[str, ...] = ()
    is_normalised: bool = False
    """Whether a WeightNormalization wraps it."""


def _in_groups(groups: Sequence[str], config: Node | None) -> _Owner:
    """Return the owner of a variable in a file of Keras 2, or in an ``.h5`` of Keras 3.

    Groups are called like layers; groups with other names are skipped.
    """
    node = config
    shown: list[str] = []
    for part in groups:
        children = [] if node is None else node.children
        child = next((child for child in children if child.name == part), None)
        if child is not None:
            node = child
            shown.append(part)
    is_normalised = False
    while node is not None and node.children:
        if _is_weight_normalization(node):
            is_normalised = True
        elif node.kind not in _WRAPPERS:
            break
        node = node.children[0]
        shown.append(node.name)
    if node is None or node is config:
        return _Owner()
    return _Owner(node.kind, node, tuple(shown), is_normalised=is_normalised)


def _in_vars(groups: Sequence[str], names: Mapping[Place, str], config: Node | None) -> _Owner:
    """Return the owner of a variable in a file of Keras 3.

    Groups are called like attributes; groups in containers are called like classes, with a number.
    """
    node = config
    kind = ""
    is_certain = True
    shown = []
    is_normalised = False
    for depth, part in enumerate(groups, 1):
        if part in _CONTAINERS:
            continue
        name = names.get(tuple(groups[:depth]))
        is_in_container = depth > 1 and groups[depth - 2] in _CONTAINERS
        is_normalised = False
        if node is not None:
            is_wrapped_layer = part == "layer" and bool(node.children)
            is_normalised = is_wrapped_layer and _is_weight_normalization(node)
            is_in_wrapper = is_wrapped_layer and (is_normalised or node.kind in _WRAPPERS)
            node = node.children[0] if is_in_wrapper else node.child(part, name)
        kind_by_name = _BY_SNAKE.get(re.sub(r"_\d+$", "", part))
        if node is not None:
            kind = node.kind
            is_certain = True
        elif kind_by_name is not None:
            kind = kind_by_name
            is_certain = is_in_container
        elif kind not in _REFUSED:
            kind = ""
            is_certain = True
        has_layers_name = name is not None and (is_in_container or node is not None)
        shown.append(name if name is not None and has_layers_name else part)
    return _Owner(kind, node, tuple(shown), () if is_certain else (f"class={kind}",), is_normalised)


def _kernel(tensor: Tensor, owner: _Owner, role: str) -> Tensor:
    """Return a kernel with the geometry that its owner states."""
    if owner.kind in ("Dense", "Embedding"):
        return replace(tensor, kind="linear", geometry={"layout": "IO" if owner.kind == "Dense" else "OI"})
    shape = tensor.shape
    load = tensor.load
    if not 3 <= len(shape) <= 5:
        tensor = tensor.refused(f"a kernel of {owner.kind} cannot have the shape {shape}.")
        return replace(tensor, kind="conv")
    is_transposed = owner.kind.endswith("Transpose")
    geometry: Stated = {"layout": at_rank("HWIO", len(shape)), "transposed": is_transposed, "padding_mode": "zeros"}
    if role == _POINTWISE:
        return replace(tensor, kind="conv", geometry=geometry | _PLAIN)
    if role == _DEPTHWISE:
        # Keras stores (*spatial, cin, multiplier); the same layer with cin groups has (*spatial, 1, cin * multiplier).
        *spatial, cin, multiplier = shape
        geometry |= {"groups": cin}
        shape = (*spatial, 1, cin * multiplier)
        load = partial(_reshaped, load, shape)
    size = None
    if owner.node is not None:
        geometry = _configured(owner.node, tensor.shape[:-2]) | geometry
        if "padding" in geometry:  # without it, the size is of no use
            size = _size(owner.node, len(shape) - 2)
    return replace(tensor, kind="conv", shape=shape, load=load, geometry=geometry, input_shape=size)


def _reshaped(load: Load, shape: Sequence[int]) -> Array:
    return load().reshape(shape)


def _configured(node: Node, kernel_shape: Sequence[int]) -> Stated:
    """Return the geometry that a configuration states; `ConvSpec` checks the values later."""
    config = node.config
    geometry: Stated = {"groups": config.get("groups", 1)}
    if "strides" in config:
        geometry["stride"] = config["strides"]
    if "dilation_rate" in config:
        geometry["dilation"] = config["dilation_rate"]
    amount = config.get("padding")
    if config.get("output_padding") is not None and amount != "valid":
        return geometry  # Keras crops by a rule that differs from library to library
    if amount == "causal" and len(kernel_shape) == 1:
        dilation = geometry.get("dilation", 1)
        if isinstance(dilation, list) and len(dilation) == 1:
            dilation = dilation[0]
        if isinstance(dilation, int):
            geometry["padding"] = [(dilation * (kernel_shape[0] - 1), 0)]
    elif amount is not None:
        geometry["padding"] = "same_upper" if amount == "same" else amount
    return geometry


def _size(node: Node, axes: int) -> tuple[int, ...] | None:
    """Return the spatial sizes of a layer's input that a configuration states; None: it states none."""
    shape = node.built.get("input_shape")
    if not isinstance(shape, list) or len(shape) != axes + 2:
        return None
    sizes = shape[2:] if node.config.get("data_format") == "channels_first" else shape[1:-1]
    if any(type(n) is not int or n < 1 for n in sizes) or math.prod(sizes) > _MOST_PIXELS:
        return None
    return tuple(sizes)
