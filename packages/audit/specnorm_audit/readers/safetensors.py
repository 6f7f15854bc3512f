"""Read safetensors files, which the library validates; arrays are read one at a time by NumPy alone (bfloat16, too).

A sharded model is an index and the files that it names, which have to be in the index's folder.
"""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from specnorm_networks.model_arrays import ModelArrays, Tensor

from specnorm.errors import ModelFileError
from specnorm_audit.readers.common import check_size, library, native, not_measured, unreadable

SUFFIX = ".safetensors.index.json"
MAX_HEADER = 100_000_000
"""The format's own limit on a header, in bytes; also the longest index that is read."""

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64", "U8": "uint8"}
_KINDS = {"F": "float", "I": "int", "U": "uint"}
_STORED = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "uint8": "u1"}
"""What is read: kernels, and settings beside them in bytes."""


def read(file: BinaryIO, path: str, max_bytes: int) -> ModelArrays:
    """List the arrays of a safetensors file; ``path`` is the same file, for the library."""
    return ModelArrays(_listing(file, path, max_bytes))


def _listing(file: BinaryIO, path: str, max_bytes: int) -> list[Tensor]:
    safetensors = library("safetensors", "safetensors files", "cli")
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > min(MAX_HEADER, size - 8):
        raise ModelFileError(f"its header claims {length} bytes; the file has {size}. It is damaged or cut short.")
    try:
        with safetensors.safe_open(path, framework="np"):
            pass  # opening checks that names are unique, and that the arrays fill the file without overlap
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(f"it is damaged or cut short: {error}.") from error
    try:
        header: dict[str, Any] = json.loads(file.read(length))
        offsets = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
        # Arrays are read one by one.
        check_size(max((end - begin for begin, end in offsets), default=0), max_bytes)
        return [_describe(path, name, entry, 8 + length) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        raise ModelFileError(f"its header is damaged: {error}.") from error


def _describe(path: str, name: str, entry: dict[str, Any], start: int) -> Tensor:
    shape = tuple(int(n) for n in entry["shape"])
    begin, end = entry["data_offsets"]
    stored = str(entry["dtype"])
    # Types without a NumPy counterpart keep their own name: a float8 kernel is refused by name.
    dtype = _DTYPES.get(stored) or re.sub("^(F|I|U)(?=[0-9])", lambda m: _KINDS[m[0]], stored).lower()
    return Tensor(name, shape, dtype, partial(_load, path, shape, stored, start + begin, end - begin))


def _load(path: str, shape: tuple[int, ...], stored: str, start: int, count: int) -> NDArray[Any]:
    dtype = _DTYPES.get(stored)
    if dtype not in _STORED:
        raise not_measured(stored)
    layout = np.dtype(_STORED[dtype])
    if count != math.prod(shape) * layout.itemsize:
        raise ModelFileError(f"shape {shape} of {stored} does not take {count} bytes: the header is damaged.")
    with Path(path).open("rb") as file:
        file.seek(start)
        data = file.read(count)
    if len(data) != count:
        raise ModelFileError("the file ends in the middle of it.")
    return native(np.frombuffer(data, dtype=layout).reshape(shape), dtype)


# -- sharded ----------------------------------------------------------------------------------------------------------
def index_of(folder: Path) -> Path:
    """Return the index in a folder, or the only safetensors file."""
    paths = sorted(folder.iterdir())
    candidates = [path for path in paths if path.name.endswith(SUFFIX)]
    if not candidates:
        candidates = [path for path in paths if path.name.endswith(".safetensors")]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise ModelFileError("it is not a regular file but a folder, without safetensors. Name the model's file.")
    names = ", ".join(path.name for path in candidates[:3])
    more = ", …" if len(candidates) > 3 else ""
    raise ModelFileError(f"it is not a regular file but a folder, which holds {names}{more}. Name one of them.")


def files_of(path: Path) -> list[Path]:
    """List the files of a model: the file itself, or an index and the files that it names."""
    with suppress(ModelFileError, OSError):
        index = index_of(path) if path.is_dir() else path
        if index.is_file():  # a pipe would block
            with index.open("rb") as file:
                shards = dict.fromkeys(_weight_map(file).values()) if file.read(1) == b"{" else ()
                return [index, *(index.parent / shard for shard in shards if "\0" not in shard)]
    return [path]


def read_sharded(file: BinaryIO, path: str, max_bytes: int) -> ModelArrays:
    """List the arrays of an index's shards. Arrays of a missing or damaged shard are listed with the reason."""
    owner = _weight_map(file)
    tensors: list[Tensor] = []
    for shard in dict.fromkeys(owner.values()):
        shard_path = _beside(Path(path), shard)
        names_by_index = [name for name, shard_of_name in owner.items() if shard_of_name == shard]
        try:
            with shard_path.open("rb") as shard_file:
                shard_tensors = _listing(shard_file, str(shard_path), max_bytes)
        except (ModelFileError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            tensors += [unreadable(name, f"its shard {shard} cannot be read: {reason}") for name in names_by_index]
            continue
        names_in_shard = {tensor.name for tensor in shard_tensors}
        for tensor in shard_tensors:
            first_shard = owner.setdefault(tensor.name, shard)
            if first_shard != shard:  # some programs take the array that they load last
                raise ModelFileError(
                    f"{tensor.name!r} lies in its shards {first_shard} and {shard}. Save the model again."
                )
        tensors += shard_tensors
        for name in names_by_index:
            if name not in names_in_shard:
                tensors.append(unreadable(name, f"it is not in its shard {shard}."))
    return ModelArrays(tensors)


def _weight_map(file: BinaryIO) -> dict[str, str]:
    """Return the names of shards by the names of arrays, from an index."""
    if file.seek(0, 2) > MAX_HEADER:
        raise ModelFileError(f"it is text, and longer than {MAX_HEADER} bytes.")
    file.seek(0)
    try:
        index: Any = json.loads(file.read())
        weight_map = index.get("weight_map")
        if weight_map is None:
            raise ValueError("it has no such entry")
        if not weight_map or not all(isinstance(text, str) for text in (*weight_map, *weight_map.values())):
            raise ValueError("it names no files")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(
            f"it is text, but no index of sharded safetensors ({SUFFIX}), which maps arrays to files under "
            f"'weight_map': {error}."
        ) from error
    return dict(weight_map)


def _beside(index: Path, shard: str) -> Path:
    """Return the path of a shard; refuse one outside of the index's folder, by its name or by a link."""
    path = index.parent / shard
    if "\\" in shard or "\0" in shard or Path(shard).name != shard:
        raise ModelFileError(f"it names the shard {shard!r}, which is no plain name of a file beside it: not opened.")
    # If the index is a link, as in a cache of downloads, its target's folder is allowed, too.
    allowed_folders = {index.parent.resolve(), index.resolve().parent}
    if path.resolve().parent not in allowed_folders:
        raise ModelFileError(f"its shard {shard!r} is a link that leaves the model's folder: not opened.")
    if path.exists() and not path.is_file():
        raise ModelFileError(f"its shard {shard!r} is not a regular file.")
    return path
