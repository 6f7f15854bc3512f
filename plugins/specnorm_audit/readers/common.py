"""What the readers of all formats share: limits, zip archives, numbers as they are stored, arrays that are not read."""

from __future__ import annotations

import zipfile
import zlib
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray
from specnorm_networks.tools import Tensor, in_float32

from specnorm.errors import ModelFileError

DAMAGE = (
    ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, ArithmeticError, MemoryError,
)  # fmt: skip
"""What a reader or its library raises on damage; anything else is a fault of ours, and passes through as it is."""


def check_size(claimed: int, most: int) -> None:
    """Refuse a file whose arrays would take too much memory."""
    if claimed > most:
        raise ModelFileError(
            f"its arrays claim {claimed} bytes, more than the limit of {most}. Raise max_bytes if you trust it."
        )


def zip_of(file: BinaryIO) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """A zip archive and its entries by name.

    Other compressions than deflate can claim gigabytes of working memory for a few bytes.
    """
    archive = zipfile.ZipFile(file)
    entries = archive.infolist()
    if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
        raise ModelFileError("it uses a compression that neither NumPy nor Keras writes. Save it again.")
    found = {entry.filename: entry for entry in entries}
    if len(found) != len(entries):
        raise ModelFileError("two of its entries have one name.")
    return archive, found


def native(array: NDArray[Any], dtype: str = "") -> NDArray[Any]:
    """Numbers in this machine's order; "bfloat16", stored as two bytes each, in float32, which is exact."""
    if dtype == "bfloat16":
        return in_float32(array.view(np.uint16) if array.dtype.kind == "V" else array)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def not_measured(dtype: str) -> ModelFileError:
    """The refusal of an array whose numbers are no norm's."""
    return ModelFileError(
        f"it is stored as {dtype}, which is not measured; expected float64, float32, float16 or bfloat16. Quantised "
        "weights need their scale applied first."
    )


def lost(name: str, reason: str) -> Tensor:
    """An array that is listed with the reason why it cannot be read."""
    return Tensor(name, (), "void", _nothing, kind="unknown", refusal=reason)


def _nothing() -> NoReturn:
    raise ModelFileError("it is not read.")
