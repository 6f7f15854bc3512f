"""Read what Flax's ``serialization.to_bytes`` writes: msgpack, with arrays as extensions of type 1 [1]_.

An extension holds the array's shape, the name of its dtype, and its bytes, in msgpack again. Arrays of more than a
gigabyte are stored in pieces, and refused. Positions are found in the file; numbers are read when an array is measured.

.. [1] ``flax/serialization.py``, ``_ndarray_to_bytes``, ``msgpack_serialize``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from specnorm_networks.model_arrays import ModelArrays, Tensor

from specnorm.errors import ModelFileError
from specnorm_audit.readers.common import check_size, native, unreadable

_ARRAY = 1
"""Type of the extension that is an array."""
_CHUNKED = "__msgpack_chunked_array__"
_DEPTH = 64
"""Largest number of nested maps."""
_NAMES = 2**25
"""Largest number of characters of all names."""
_SIZES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4, 0xC7: 1, 0xC8: 2,
          0xC9: 4}  # fmt: skip
"""Numbers of bytes of the lengths that follow a first byte: of bytes, text, lists, maps and extensions."""
_SCALARS = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4,
            0xD3: 8}  # fmt: skip
"""Numbers of bytes of numbers, truth values and nothing, by their first bytes."""


@dataclass(frozen=True)
class _Item:
    """The head of an item: its kind, and how many bytes or items follow."""

    kind: str
    length: int
    extension: int = 0


def read(file: BinaryIO, _path: str, max_bytes: int) -> ModelArrays:
    """List the arrays of a tree that Flax stored; names are joined by slashes."""
    size = file.seek(0, 2)
    check_size(size, max_bytes)
    file.seek(0)
    arrays = list(_walk(file, size, "", 0, [0]))
    names = {tensor.name for tensor in arrays}
    if len(names) < len(arrays) or file.tell() != size:
        raise ModelFileError("it is damaged: two of its arrays have the same name, or bytes follow its end.")
    return ModelArrays(arrays)


def _walk(file: BinaryIO, size: int, name: str, depth: int, letters: list[int]) -> Iterator[Tensor]:
    """Yield the arrays of the next item; ``letters`` counts the characters of all names."""
    letters[0] += len(name)
    if depth > _DEPTH or letters[0] > _NAMES:
        raise ModelFileError("its names are nested too deep, or too long.")
    item = _head(file)
    if item.kind in ("map", "list"):
        if item.length > size - file.tell():
            raise ModelFileError("it is damaged: a map has more entries than the file has bytes.")
        for position in range(item.length):
            key = _text(file) if item.kind == "map" else str(position)
            if key == _CHUNKED:
                raise ModelFileError(f"{name} is stored in pieces, as arrays of more than a gigabyte are: not read.")
            yield from _walk(file, size, f"{name}/{key}" if name else key, depth + 1, letters)
        return
    start = file.tell()
    if item.length > size - start:
        raise ModelFileError("it is cut short.")
    if item.kind == "extension" and item.extension == _ARRAY:
        yield _array(file, name, start + item.length)
    file.seek(start + item.length)


def _array(file: BinaryIO, name: str, end: int) -> Tensor:
    """Return the array in an extension that ends at ``end``."""
    parts = _head(file)
    axes = _head(file)
    if (parts.kind, parts.length, axes.kind) != ("list", 3, "list") or axes.length > _DEPTH:
        return unreadable(name, "it is damaged: it is no shape, dtype and numbers.")
    shape = tuple(_whole(file) for _ in range(axes.length))
    dtype = _text(file)
    data = _head(file)
    width = 2 if dtype == "bfloat16" else _width(dtype)
    is_whole = data.kind == "bytes" and file.tell() + data.length == end and math.prod(shape) * width == data.length
    if not width or not is_whole:
        return unreadable(name, f"its numbers, of type {dtype} and shape {shape}, do not fit the bytes that it has.")
    return Tensor(name, shape, dtype, partial(_load, file, file.tell(), data.length, shape, dtype))


def _width(dtype: str) -> int:
    """Return the number of bytes of a number of a dtype; 0: it is none of NumPy's numbers."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        return 0
    return found.itemsize if found.kind in "fiubc" else 0


def _load(file: BinaryIO, start: int, length: int, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    file.seek(start)
    data = file.read(length)
    if len(data) != length:
        raise ModelFileError("the file ends in the middle of it.")
    stored = "<u2" if dtype == "bfloat16" else np.dtype(dtype).newbyteorder("<")
    return native(np.frombuffer(data, stored).reshape(shape), dtype)


def _head(file: BinaryIO) -> _Item:
    """Read the first bytes of an item."""
    first = _number(file, 1)
    if first < 0x80 or first >= 0xE0:
        return _Item("scalar", 0)
    if first < 0xC0:
        kinds = (("map", 0x0F), ("list", 0x0F), ("text", 0x1F), ("text", 0x1F))
        kind, mask = kinds[(first - 0x80) >> 4]
        return _Item(kind, first & mask)
    if first in _SCALARS:
        return _Item("scalar", _SCALARS[first])
    if 0xD4 <= first <= 0xD8:
        return _Item("extension", 1 << (first - 0xD4), _number(file, 1))
    if first not in _SIZES:
        raise ModelFileError("it is damaged: it has a byte that msgpack does not use.")
    length = _number(file, _SIZES[first])
    if 0xC7 <= first <= 0xC9:
        return _Item("extension", length, _number(file, 1))
    return _Item("bytes" if first < 0xC7 else "text" if first < 0xDC else "list" if first < 0xDE else "map", length)


def _number(file: BinaryIO, width: int) -> int:
    data = file.read(width)
    if len(data) != width:
        raise ModelFileError("it is cut short.")
    return int.from_bytes(data, "big")


def _whole(file: BinaryIO) -> int:
    """Read a whole number of at least 0."""
    first = _number(file, 1)
    if first < 0x80:
        return first
    if not 0xCC <= first <= 0xCF:
        raise ModelFileError("it is damaged: a shape has an entry that is not a number.")
    return _number(file, _SCALARS[first])


def _text(file: BinaryIO) -> str:
    item = _head(file)
    if item.kind not in ("text", "bytes") or item.length > _NAMES:
        raise ModelFileError("it is damaged: a name is not text.")
    return file.read(item.length).decode("utf-8", "replace")
