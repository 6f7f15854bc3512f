"""Read NumPy's ``.npz``: one array at a time, without unpickling; sizes that a file claims are checked first."""

from __future__ import annotations

import math
import tokenize
import warnings
import zipfile
from functools import partial
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from specnorm_networks.model_arrays import ModelArrays, Tensor

from specnorm.errors import ModelFileError
from specnorm_audit.readers.common import DAMAGE, check_size, native, zip_of

MAX_HEADER = 10_000
"""Largest number of characters of an array's header."""
_DAMAGE = (*DAMAGE, SyntaxError, tokenize.TokenError, TypeError)
"""Errors for damaged arrays. A header is parsed as a Python literal, which may raise the last three."""


def read(file: BinaryIO, _path: str, max_bytes: int) -> ModelArrays:
    """List the arrays of an ``.npz`` file; ``max_bytes`` limits the size of all of them, uncompressed."""
    archive, entries = zip_of(file)
    check_size(sum(entry.file_size for entry in entries.values()), max_bytes)
    return ModelArrays([_describe(archive, entry) for entry in entries.values()])


def _describe(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Tensor:
    name = entry.filename.removesuffix(".npy")
    try:
        with archive.open(entry) as stream:
            shape, dtype = _header(stream)
            header = stream.tell()
    except _DAMAGE as error:
        raise ModelFileError(f"array {name!r} has a damaged header: {error}.") from error
    needed = math.prod(shape) * dtype.itemsize
    stored = entry.file_size - header
    # Python objects have no size of their own in the file; such arrays are never read.
    if needed != stored and not dtype.hasobject:
        raise ModelFileError(
            f"array {name!r} claims shape {shape} of {dtype}, {needed} bytes, but {stored} are stored."
        )
    dtype_name = dtype.name if dtype.fields is None and dtype.subdtype is None else "structured"
    return Tensor(name, shape, dtype_name, partial(_load, archive, entry))


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(npy.read_magic(stream))
    if read is None:
        raise ValueError("its version is neither (1, 0) nor (2, 0)")
    shape, _, dtype = read(stream, max_header_size=MAX_HEADER)
    if any(n < 0 for n in shape):
        raise ValueError(f"shape {shape}")
    return shape, dtype


def _load(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    try:
        with archive.open(entry) as stream, warnings.catch_warnings(action="ignore"):  # of what Python 2 wrote
            array = npy.read_array(stream, allow_pickle=False, max_header_size=MAX_HEADER)
            if stream.read(1):  # reaching the end makes zipfile compare the checksum
                raise ValueError("data after the end")
    except _DAMAGE as error:
        raise ModelFileError(f"it cannot be read: {error}.") from error
    return native(array)
