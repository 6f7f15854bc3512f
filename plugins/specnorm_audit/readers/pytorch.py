"""PyTorch state dicts, without torch: `pickles` tells where the tensors lie, and their numbers are read from there.

Layouts: zip archives, which ``torch.save`` writes since 1.6, with one entry a storage; and what it wrote before, five
pickles (a magic number, a version, the system, the object, the keys of the storages) and then each storage after its
length [1]_.

.. [1] ``torch/serialization.py``, ``_save``, ``_legacy_save``.
"""

from __future__ import annotations

import io
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from specnorm_networks.tools import ModelArrays, Tensor

from specnorm.errors import ModelFileError
from specnorm_audit.readers.archives import Entry, stored_entries
from specnorm_audit.readers.common import check_size, lost, native, not_measured
from specnorm_audit.readers.pickles import Inert, Scan, Storage, StoredTensor

_LEGACY = (0x1950A86A20F9469CFC6C, 1001)
"""Its first two pickles."""
_ORDERS = {b"little": "<", b"big": ">"}

_WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params_ema",
    "params",
)  # fmt: skip
"""Keys under which training scripts put the model; their content is read as if it were the whole file."""
_NESTED = (dict, list, tuple, Inert)
"""What tensors may lie in."""
_REBUILT = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor, which is not read. Save it with .to_dense().",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor, which is not read. Save it with .to_dense().",
    "torch._utils._rebuild_nested_tensor": "a nested tensor, which is not read. Save its parts.",
}
"""Tensors that are told by more than one storage -> what is said of them."""
_OF_MODULES = ("_parameters", "_buffers", "_modules")
"""Attributes of a pickled module that are no part of the names in its state dict."""
_NAMES = 2**25
"""Characters of all names: one long key at every level of a nested dictionary makes them grow with its square."""


@dataclass
class _Numbers:
    """Where the numbers of storages lie in the file."""

    file: BinaryIO
    starts: dict[str, int]
    order: str = "<"
    entries: dict[str, Entry] = field(default_factory=dict)
    inert: list[str] = field(default_factory=list)

    def read(self, tensor: StoredTensor) -> NDArray[Any]:
        """A tensor's numbers; bfloat16 in float32, which is exact."""
        if tensor.dtype.startswith("float8"):
            raise not_measured(tensor.dtype)
        stored = "uint16" if tensor.dtype == "bfloat16" else tensor.dtype
        layout = np.dtype(stored).newbyteorder("<" if self.order == "<" else ">")
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
    """List the tensors of a state dict, or of a dictionary that holds one under ``"state_dict"``, ``"model"``, ….

    Tensors in other nested dictionaries are named ``"outer.inner"``, in lists ``"outer.0.inner"``, in pickled modules
    as in their state dict; the state of an optimizer is left out.
    """
    size = file.seek(0, 2)
    file.seek(0)
    check_size(size, max_bytes)
    try:
        loaded, numbers = _archive(file) if file.read(2) == b"PK" else _legacy(file, size)
    except ModelFileError:
        raise
    except Exception as error:  # a hostile file can fail the parsers in any way
        raise ModelFileError(f"it is damaged or cut short: {type(error).__name__}: {error}.") from error
    if not isinstance(loaded, _NESTED):
        kind = "Tensor" if isinstance(loaded, StoredTensor) else type(loaded).__name__
        raise ModelFileError(f"it holds a {kind}, not a dictionary of tensors by name. Save model.state_dict().")
    found: dict[str, Tensor] = {}
    for name, value in _tensors(loaded):
        if name in found:
            raise ModelFileError(f"two of its tensors are called {name!r}. Save one model's state dict alone.")
        found[name] = (
            Tensor(name, value.shape, value.dtype, partial(numbers.read, value))
            if isinstance(value, StoredTensor)
            else lost(name, value)
        )
    if not found:
        raise ModelFileError("it holds no tensors by name. Save model.state_dict().")
    return ModelArrays(list(found.values()), inert=tuple(numbers.inert), convention="OIHW")


def _archive(file: BinaryIO) -> tuple[Any, _Numbers]:
    entries = stored_entries(file)
    folders = {name.partition("/")[0] for name in entries}
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1 or len(folders) != 1:
        raise ModelFileError(f"it has {len(pickles)} pickles in {len(folders)} folders; a state dict has one in one.")
    folder = pickles[0].removesuffix("data.pkl")
    scan = Scan()
    loaded = scan.run(io.BytesIO(entries[pickles[0]].read(file)))
    found = {key: entry for key in scan.storages if (entry := entries.get(f"{folder}data/{key}")) is not None}
    for key, claimed in scan.storages.items():
        stored = found[key].size if key in found else 0
        if stored < claimed.nbytes:
            raise ModelFileError(f"storage {key!r} claims {claimed.nbytes} bytes; {stored} are stored.")
    said = entries.get(f"{folder}byteorder")
    order = _ORDERS[sys.byteorder.encode() if said is None else said.read(file)]
    starts = {key: entry.start for key, entry in found.items()}
    return loaded, _Numbers(file, starts, order, found, scan.inert)


def _legacy(file: BinaryIO, size: int) -> tuple[Any, _Numbers]:
    """What torch wrote before 1.6: pickles, the storages' order as the last one, and the storages."""
    file.seek(0)
    scan = Scan()
    magic, version, _, loaded, keys = (scan.run(file) for _ in range(5))
    if (magic, version) != _LEGACY:
        raise ModelFileError("it is of another version than torch.save wrote before 1.6. Save it again.")
    wanted = sum(8 + claimed.nbytes for claimed in scan.storages.values())
    if wanted > size - file.tell():
        raise ModelFileError(f"its tensors claim {wanted} bytes; {size - file.tell()} are stored.")
    if sorted(keys) != sorted(scan.storages):
        raise ModelFileError("it lists other storages than its tensors are in.")
    starts = {}
    for key in keys:
        claimed, length = scan.storages[key], int.from_bytes(file.read(8), "little")
        if length != claimed.numel:
            raise ModelFileError(f"storage {key!r} claims {claimed.numel} elements; {length} are stored.")
        starts[key] = file.tell()
        file.seek(claimed.nbytes, 1)
    return loaded, _Numbers(file, starts, inert=scan.inert)


def _tensors(loaded: Any) -> Iterator[tuple[str, StoredTensor | str]]:
    """Tensors by dotted name, outer ones first, items of lists by number; what stands twice, by its own alone.

    A text in the place of a tensor says why it is not read.
    """
    waiting: deque[tuple[str, Any]] = deque([("", loaded)])
    seen = {id(loaded)}
    letters = 0
    while waiting:
        prefix, current = waiting.popleft()
        wrapper = next((key for key in _WRAPPERS if not prefix and isinstance(current, dict) and key in current), None)
        for place, (key, value) in enumerate(_entries(current)):
            word = place if isinstance(key, Inert) else key
            name = f"{prefix}{word}"
            letters += len(name)
            if letters > _NAMES:
                raise ModelFileError(f"its names have more than {_NAMES} letters in all. Save model.state_dict().")
            if isinstance(value, StoredTensor):
                yield name, value
            elif isinstance(value, Inert) and value.name in _REBUILT:
                yield name, f"it is {_REBUILT[value.name]}"
            elif isinstance(value, Storage) or _is_numpy(value):
                maker = getattr(current if isinstance(value, Storage) else value, "name", "nothing")
                yield name, f"it is built by {maker}, which is not read. Save it as a tensor of floating numbers."
            elif isinstance(value, _NESTED) and not _is_optimizer(value):
                # What stands in a list is told by its number, below the list's own name.
                inside = key == wrapper and isinstance(value, dict | Inert)
                inside |= isinstance(current, Inert) and key in _OF_MODULES
                below = prefix if inside else f"{name}."
                again = id(value) in seen
                seen.add(id(value))
                if not again:
                    waiting.append((below, value))
                elif value is not loaded and value is not current:
                    waiting.append((below, Inert("", [e for e in _entries(value) if isinstance(e[1], StoredTensor)])))


def _entries(value: Any) -> Iterable[tuple[Any, Any]]:
    return value.items if isinstance(value, Inert) else value.items() if isinstance(value, dict) else enumerate(value)


def _is_numpy(value: Any) -> bool:
    """Whether this is an array of NumPy's with two axes or more, or of an unknown number."""
    if not isinstance(value, Inert) or not value.name.endswith("multiarray._reconstruct"):
        return False
    shapes = [item for key, item in value.items[3:] if key == 1 and isinstance(item, tuple)]
    return len(shapes) != 1 or len(shapes[0]) > 1


def _is_optimizer(value: Any) -> bool:
    """Whether this is what ``torch.optim`` keeps, whatever it is called: of each parameter that its groups list."""
    try:
        listed = {key for group in value["param_groups"] for key in group["params"] if isinstance(key, int | str)}
        return bool(listed) and all(key in listed for key in value["state"])
    except (TypeError, KeyError, IndexError):
        return False
