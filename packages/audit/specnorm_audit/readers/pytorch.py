"""Read PyTorch state dicts without torch: `pickles` finds the positions of the tensors, whose numbers are read here.

There are two layouts. Since 1.6 ``torch.save`` writes a zip archive with one entry for each storage. Before, it wrote
five pickles (a magic number, a version, the system, the object, the keys of the storages) and then the storages, each
after its length [1]_.

.. [1] ``torch/serialization.py``, ``_save``, ``_legacy_save``.
"""

from __future__ import annotations

import io
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from specnorm_networks.model_arrays import ModelArrays, Stated, Tensor

from specnorm.errors import ModelFileError
from specnorm.proof import counted
from specnorm_audit.readers.archives import Entry, stored_entries
from specnorm_audit.readers.common import check_size, native, not_measured, unreadable
from specnorm_audit.readers.modules import hooks_of, is_recomputed, stated
from specnorm_audit.readers.pickles import Inert, Scan, Storage, StoredTensor

_LEGACY = (0x1950A86A20F9469CFC6C, 1001)
"""Values of the first two pickles of the old layout."""
_ORDERS: dict[bytes, Literal["<", ">"]] = {b"little": "<", b"big": ">"}

_WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params_ema",
    "params",
)  # fmt: skip
"""Keys under which training scripts put the model; their content is read as if it were the whole file."""
_NESTED = (dict, list, tuple, Inert)
"""Types of objects that may contain tensors."""
_REBUILT = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor, which is not read. Save it with .to_dense().",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor, which is not read. Save it with .to_dense().",
    "torch._utils._rebuild_nested_tensor": "a nested tensor, which is not read. Save its parts.",
}
"""Reasons of refusal of tensors with several storages, by the functions that build them."""
_OF_MODULES = ("_parameters", "_buffers", "_modules")
"""Attributes of a pickled module whose names are left out of the names in its state dict."""
_NAMES = 2**25
"""Largest number of characters of all names: with a long key at each level of a nested dictionary it grows quickly."""


@dataclass
class _Storages:
    """The storages of a file."""

    file: BinaryIO
    starts: dict[str, int]
    """Positions of the storages' first bytes, by their keys."""
    order: Literal["<", ">"] = "<"
    """Byte order of the numbers."""
    entries: dict[str, Entry] = field(default_factory=dict)
    """Entries of storages whose checksum has not been compared yet."""
    inert: list[str] = field(default_factory=list)
    """Names in the pickle besides tensors; see `Scan.inert`."""

    def read(self, tensor: StoredTensor) -> NDArray[Any]:
        """Return a tensor's numbers; bfloat16 as float32, which is exact."""
        if tensor.dtype.startswith("float8"):
            raise not_measured(tensor.dtype)
        stored = "uint16" if tensor.dtype == "bfloat16" else tensor.dtype
        layout = np.dtype(stored).newbyteorder(self.order)
        entry = self.entries.pop(tensor.key, None)
        if entry is not None:
            entry.check(self.file)
        self.file.seek(self.starts[tensor.key] + tensor.offset * layout.itemsize)
        data = self.file.read(tensor.reach * layout.itemsize)
        if len(data) != tensor.reach * layout.itemsize:
            raise ModelFileError("the file ends in the middle of it.")
        flat = np.frombuffer(data, layout)
        steps = [stride * layout.itemsize for stride in tensor.strides]
        array = as_strided(flat, tensor.shape, steps) if tensor.reach else flat.reshape(tensor.shape)
        return native(np.array(array, order="C"), tensor.dtype)


def read(file: BinaryIO, _path: str, max_bytes: int) -> ModelArrays:
    """List the tensors of a state dict, or of a dictionary with a state dict under ``"state_dict"``, ``"model"``, ….

    Tensors in other nested dictionaries are named ``"outer.inner"``, in lists ``"outer.0.inner"``, in pickled modules
    as in their state dict, with the geometry that their modules state; the state of an optimizer is left out.
    """
    size = file.seek(0, 2)
    file.seek(0)
    check_size(size, max_bytes)
    try:
        loaded, storages = _archive(file) if file.read(2) == b"PK" else _legacy(file, size)
    except ModelFileError:
        raise
    except Exception as error:  # a hostile file can fail the parsers in any way
        raise ModelFileError(f"it is damaged or cut short: {type(error).__name__}: {error}.") from error
    if not isinstance(loaded, _NESTED):
        kind = "Tensor" if isinstance(loaded, StoredTensor) else type(loaded).__name__
        raise ModelFileError(f"it holds a {kind}, not a dictionary of tensors by name. Save model.state_dict().")
    tensors: dict[str, Tensor] = {}
    for name, value, module in _tensors(loaded):
        if name in tensors:
            raise ModelFileError(f"two of its tensors are called {name!r}. Save one model's state dict alone.")
        if isinstance(value, StoredTensor):
            geometry, doubt = Stated(), None
            hooks: tuple[str, ...] = ()
            if module is not None:
                geometry, doubt = stated(module, name.rpartition(".")[2], len(value.shape))
                hooks = hooks_of(module)
            load = partial(storages.read, value)
            tensors[name] = Tensor(name, value.shape, value.dtype, load, geometry=geometry, doubt=doubt, hooks=hooks)
        else:
            tensors[name] = unreadable(name, value)
    if not tensors:
        raise ModelFileError("it holds no tensors by name. Save model.state_dict().")
    return ModelArrays(list(tensors.values()), inert=tuple(storages.inert), convention="OIHW")


def _archive(file: BinaryIO) -> tuple[Any, _Storages]:
    """Return the object in a zip archive, and its storages."""
    entries = stored_entries(file)
    folders = {name.partition("/")[0] for name in entries}
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1 or len(folders) != 1:
        raise ModelFileError(
            f"it has {counted(len(pickles), 'pickle')} in {counted(len(folders), 'folder')}; a state dict has one "
            "in one."
        )
    folder = pickles[0].removesuffix("data.pkl")
    scan = Scan()
    loaded = scan.run(io.BytesIO(entries[pickles[0]].read(file)))
    entries_of_storages: dict[str, Entry] = {}
    for key, storage in scan.storages.items():
        entry = entries.get(f"{folder}data/{key}")
        stored_bytes = 0
        if entry is not None:
            entries_of_storages[key] = entry
            stored_bytes = entry.size
        if stored_bytes < storage.nbytes:
            raise ModelFileError(f"storage {key!r} claims {storage.nbytes} bytes; {stored_bytes} are stored.")
    order_entry = entries.get(f"{folder}byteorder")
    order = _ORDERS[sys.byteorder.encode() if order_entry is None else order_entry.read(file)]
    starts = {key: entry.start for key, entry in entries_of_storages.items()}
    return loaded, _Storages(file, starts, order, entries_of_storages, scan.inert)


def _legacy(file: BinaryIO, size: int) -> tuple[Any, _Storages]:
    """Return the object in a file of torch before 1.6, and its storages.

    The last pickle has the keys of the storages in the order in which these follow.
    """
    file.seek(0)
    scan = Scan(states_views=True)
    magic, version, _, loaded, keys = (scan.run(file) for _ in range(5))
    if (magic, version) != _LEGACY:
        raise ModelFileError("its format version is not the one that torch.save wrote before 1.6. Save it again.")
    claimed_bytes = sum(8 + storage.nbytes for storage in scan.storages.values())
    if claimed_bytes > size - file.tell():
        raise ModelFileError(f"its tensors claim {claimed_bytes} bytes; {size - file.tell()} are stored.")
    if sorted(keys) != sorted(scan.storages):
        raise ModelFileError("the storages that it lists are not those of its tensors.")
    starts = {}
    for key in keys:
        storage = scan.storages[key]
        length = int.from_bytes(file.read(8), "little")
        if length != storage.numel:
            raise ModelFileError(f"storage {key!r} claims {storage.numel} elements; {length} are stored.")
        starts[key] = file.tell()
        file.seek(storage.nbytes, 1)
    return loaded, _Storages(file, starts, inert=scan.inert)


def _tensors(loaded: Any) -> Iterator[tuple[str, StoredTensor | str, Inert | None]]:
    """Yield tensors by their dotted names, outer ones first, with the pickled modules whose parameters they are.

    Items of lists are named by their number.

    A text in place of a tensor is the reason why it is not read. If a container occurs again elsewhere, only the
    tensors directly in it are listed once more.
    """
    waiting: deque[tuple[str, Any, Inert | None]] = deque([("", loaded, None)])
    seen = {id(loaded)}
    letters = 0
    while waiting:
        prefix, current, module = waiting.popleft()
        wrapper = None
        if not prefix and isinstance(current, dict):
            wrapper = next((key for key in _WRAPPERS if key in current), None)
        for position, (key, value) in enumerate(_entries(current)):
            word = position if isinstance(key, Inert) else key
            name = f"{prefix}{word}"
            letters += len(name)
            if letters > _NAMES:
                raise ModelFileError(f"its names have more than {_NAMES} letters in all. Save model.state_dict().")
            refusal = _refusal(value, current)
            if isinstance(value, StoredTensor):
                if not isinstance(current, Inert) or not is_recomputed(current, str(word)):
                    yield name, value, module
            elif refusal is not None:
                yield name, refusal, module
            elif isinstance(value, _NESTED) and not _is_optimizer(value):
                is_wrapper = key == wrapper and isinstance(value, dict | Inert)
                is_part_of_module = isinstance(current, Inert) and key in _OF_MODULES
                inner_prefix = prefix if is_wrapper or is_part_of_module else f"{name}."
                owner = current if is_part_of_module else None
                if id(value) not in seen:
                    seen.add(id(value))
                    waiting.append((inner_prefix, value, owner))
                elif value is not loaded and value is not current:
                    tensors = [entry for entry in _entries(value) if isinstance(entry[1], StoredTensor)]
                    waiting.append((inner_prefix, Inert("", tensors), owner))


def _refusal(value: Any, container: Any) -> str | None:
    """Return the reason why an array is not read; None for other values, and for tensors."""
    if isinstance(value, Inert) and value.name in _REBUILT:
        return f"it is {_REBUILT[value.name]}"
    if isinstance(value, Storage) or _is_numpy_matrix(value):
        maker = getattr(container if isinstance(value, Storage) else value, "name", "nothing")
        return f"it is built by {maker}, which is not read. Save it as a tensor of floating numbers."
    return None


def _entries(value: Any) -> Iterable[tuple[Any, Any]]:
    """Return the items of a container, with their keys or numbers."""
    if isinstance(value, Inert):
        return value.items
    return value.items() if isinstance(value, dict) else enumerate(value)


def _is_numpy_matrix(value: Any) -> bool:
    """Whether this is an array of NumPy's with two axes or more, or with an unknown number of axes."""
    if not isinstance(value, Inert) or not value.name.endswith("multiarray._reconstruct"):
        return False
    shapes = [item for key, item in value.items[3:] if key == 1 and isinstance(item, tuple)]
    return len(shapes) != 1 or len(shapes[0]) > 1


def _is_optimizer(value: Any) -> bool:
    """Whether this is the state of an optimizer of ``torch.optim``: the states of parameters that its groups list."""
    try:
        parameters = set()
        for group in value["param_groups"]:
            parameters |= {key for key in group["params"] if isinstance(key, int | str)}
        return bool(parameters) and all(key in parameters for key in value["state"])
    except (TypeError, KeyError, IndexError):
        return False
