"""Functions for the readers of all formats: limits, zip archives, conversions of stored numbers, refused arrays."""

from __future__ import annotations

import zipfile
import zlib
from importlib import import_module
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray
from specnorm_networks.model_arrays import Tensor

from specnorm.errors import ModelFileError
from specnorm.proof import install

DAMAGE = (
    ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, ArithmeticError, MemoryError,
)  # fmt: skip
"""Errors that a reader or its library raises for damaged files. Others are bugs of this package, and not caught."""


def check_size(claimed: int, most: int) -> None:
    """Refuse a file whose arrays would take too much memory."""
    if claimed > most:
        raise ModelFileError(
            f"its arrays claim {claimed} bytes, more than the limit of {most}. Raise the limit (max_bytes=) if you "
            "trust it."
        )


_SHRINKS = 200
"""Factor by which no trained weights shrink; pruned ones shrink by some tens."""
_LARGE = 2**26
"""Number of bytes up to which any factor is accepted."""


def check_shrinking(claimed: int, stored: int) -> None:
    """Refuse a file whose arrays are some bytes repeated: unpacking and measuring them takes minutes."""
    if claimed > max(_LARGE, _SHRINKS * stored):
        raise ModelFileError(
            f"its arrays claim {claimed} bytes, of which {stored} are stored: weights do not compress that much. If "
            "the file is yours, save it without compression."
        )


def library(name: str, files: str, extra: str) -> Any:
    """Import the package that reads some ``files``, or say which ``extra`` installs it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModelFileError(f"{files} need the package {name}: {install(extra)}.") from error


def zip_of(file: BinaryIO) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """Return a zip archive and its entries by name.

    Compressions other than deflate are refused: they may need gigabytes of memory for a few bytes.
    """
    archive = zipfile.ZipFile(file)
    entries = archive.infolist()
    if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
        raise ModelFileError("it uses a compression that neither NumPy nor Keras writes. Save it again.")
    by_name = {entry.filename: entry for entry in entries}
    if len(by_name) != len(entries):
        raise ModelFileError("two of its entries have the same name.")
    check_shrinking(sum(entry.file_size for entry in entries), sum(entry.compress_size for entry in entries))
    return archive, by_name


def native(array: NDArray[Any], dtype: str = "") -> NDArray[Any]:
    """Return numbers in this machine's byte order; bfloat16, stored as two bytes each, as float32, which is exact."""
    if dtype == "bfloat16":
        bits = array.view(np.uint16) if array.dtype.kind == "V" else array
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)  # they are the upper half of a float32
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def not_measured(dtype: str) -> ModelFileError:
    """Return the error that an array's numbers are not real floating ones, so that its norm is not measured."""
    return ModelFileError(
        f"it is stored as {dtype}, which is not measured; expected float64, float32, float16 or bfloat16. Quantized "
        "weights need their scale applied first."
    )


def unreadable(name: str, reason: str) -> Tensor:
    """Return an array that cannot be read, with the reason."""
    return Tensor(name, (), "void", _nothing, kind="unknown", refusal=reason)


def _nothing() -> NoReturn:
    raise ModelFileError("it is not read.")
