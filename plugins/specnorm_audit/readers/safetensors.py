"""safetensors: the library validates the file, the arrays are read one at a time with NumPy alone (bfloat16 too)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from specnorm_networks import ModelArrays, Tensor, in_float32

from specnorm import ModelFileError
from specnorm.proof import install

MAX_HEADER = 100_000_000
"""The format's own limit, in bytes."""

Opener = Callable[[], AbstractContextManager[BinaryIO]]

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64"}
_KINDS = {"F": "float", "I": "int", "U": "uint"}
_STORED = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}


def read(file: BinaryIO, path: str, max_bytes: int) -> ModelArrays:
    """List the arrays of a safetensors file; ``path`` is the same file, for the library."""
    return ModelArrays(listing(file, path, max_bytes, lambda: nullcontext(file)))


def listing(file: BinaryIO, path: str, max_bytes: int, reopen: Opener) -> list[Tensor]:
    """List the arrays of one file, to be read from it later."""
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise ModelFileError(f"safetensors files need the package safetensors: {install('cli')}.") from error
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > min(MAX_HEADER, size - 8):
        raise ModelFileError(f"its header claims {length} bytes; the file has {size}. It is damaged or cut short.")
    if size - 8 - length > max_bytes:
        raise ModelFileError(
            f"its arrays take {size - 8 - length} bytes, more than the limit of {max_bytes}. Raise max_bytes if you "
            "trust it."
        )
    try:
        with safe_open(path, framework="np"):
            pass  # opening checks that names are unique, and that the arrays fill the file without overlap
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(f"it is damaged or cut short: {error}.") from error
    try:
        header: dict[str, Any] = json.loads(file.read(length))
        return [_describe(reopen, name, entry, 8 + length) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        raise ModelFileError(f"its header is damaged: {error}.") from error


def _describe(reopen: Opener, name: str, entry: dict[str, Any], start: int) -> Tensor:
    shape = tuple(int(n) for n in entry["shape"])
    begin, end = entry["data_offsets"]
    stored = str(entry["dtype"])
    # Types without a NumPy counterpart keep their own name: a float8 kernel is refused by name.
    dtype = _DTYPES.get(stored) or re.sub("^(F|I|U)(?=[0-9])", lambda m: _KINDS[m[0]], stored).lower()
    return Tensor(name, shape, dtype, partial(_load, reopen, shape, stored, start + begin, end - begin))


def _load(reopen: Opener, shape: tuple[int, ...], stored: str, start: int, count: int) -> NDArray[np.generic]:
    dtype = _DTYPES.get(stored)
    if dtype not in _STORED:
        raise ModelFileError(
            f"it is stored as {stored}, which is not measured; expected F64, F32, F16 or BF16. Quantised weights need "
            "their scale applied first."
        )
    layout = np.dtype(_STORED[dtype])
    if count != math.prod(shape) * layout.itemsize:
        raise ModelFileError(f"shape {shape} of {stored} does not take {count} bytes: the header is damaged.")
    with reopen() as file:
        file.seek(start)
        data = file.read(count)
    if len(data) != count:
        raise ModelFileError("the file ends in the middle of it.")
    array = np.frombuffer(data, dtype=layout).reshape(shape)
    if dtype == "bfloat16":
        return in_float32(array)
    return array.astype(layout.newbyteorder("="), copy=False)
