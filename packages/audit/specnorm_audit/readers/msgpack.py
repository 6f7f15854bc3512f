"""Read what Flax's ``serialization.to_bytes`` writes: msgpack, with arrays as extensions of type 1 [1]_.

An extension holds the array's shape, the name of its dtype, and its bytes, in msgpack again. Arrays of more than a
gigabyte are stored in pieces, and refused.

.. [1] ``flax/serialization.py``, ``_ndarray_to_bytes``, ``msgpack_serialize``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from specnorm_networks.model_arrays import ModelArrays, Tensor

from specnorm.errors import ModelFileError
from specnorm_audit.readers.common import DAMAGE, check_size, library, native, unreadable

_ARRAY = 1
"""Type of the extension that is an array."""
_CHUNKED = "__msgpack_chunked_array__"
_DEPTH = 64
"""Largest number of nested maps."""


def read(file: BinaryIO, _path: str, max_bytes: int) -> ModelArrays:
    """List the arrays of a tree that Flax stored; names are joined by slashes."""
    check_size(file.seek(0, 2), max_bytes)
    file.seek(0)
    arrays = list(_arrays(_unpacked(file.read()), "", 0))
    if len({tensor.name for tensor in arrays}) < len(arrays):
        raise ModelFileError("it is damaged: two of its arrays have the same name.")
    return ModelArrays(arrays)


def _unpacked(data: bytes) -> Any:
    """Return what is packed, with extensions as msgpack's ``ExtType``; its lengths are limited by those of the data."""
    msgpack = library("msgpack", "Flax's files", "cli")
    try:
        return msgpack.unpackb(data, object_pairs_hook=_unique, strict_map_key=False)
    except (*DAMAGE, TypeError, msgpack.UnpackException) as error:
        raise ModelFileError(f"it is damaged or cut short: {error or type(error).__name__}.") from error


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a map has an entry twice")
    return entries


def _arrays(item: Any, name: str, depth: int) -> Iterator[Tensor]:
    """Yield the arrays in an item, by the names of the maps around it and its own."""
    if depth > _DEPTH:
        raise ModelFileError("its names are nested too deep.")
    if isinstance(item, dict | list):
        for key, entry in item.items() if isinstance(item, dict) else enumerate(item):
            if key == _CHUNKED:
                raise ModelFileError(f"{name} is stored in pieces, as arrays of more than a gigabyte are: not read.")
            yield from _arrays(entry, f"{name}/{key}" if name else str(key), depth + 1)
    elif getattr(item, "code", None) == _ARRAY:
        yield _array(item.data, name)


def _array(data: bytes, name: str) -> Tensor:
    """Return the array in an extension."""
    try:
        shape, dtype, numbers = _unpacked(data)
        stored = np.dtype("<u2" if dtype == "bfloat16" else dtype).newbyteorder("<")
        if stored.kind not in "fiubc" or math.prod(shape) * stored.itemsize != len(numbers):
            raise ValueError(f"its numbers, of type {dtype} and shape {shape}, do not fit the bytes that it has")
        array: Any = np.ndarray(shape, stored, numbers)
    except (*DAMAGE, TypeError, ModelFileError) as error:
        return unreadable(name, f"it is damaged: {str(error).rstrip('.')}.")
    return Tensor(name, array.shape, str(dtype), partial(native, array, dtype))
