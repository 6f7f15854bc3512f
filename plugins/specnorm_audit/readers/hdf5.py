"""HDF5: what a file holds, looked at link by link, so that nothing outside it is ever opened."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from specnorm_networks import Tensor

from specnorm import ModelFileError
from specnorm.proof import install
from specnorm_audit.readers.common import check_size, native

if TYPE_CHECKING:
    import h5py

MAX_DEPTH = 64
_FILTERS = {1: 1100, 2: 1, 3: 1, 32000: 300}
"""Filters that the library itself brings, and how much they can shrink: deflate, shuffle, checksum, LZF.

For others HDF5 would load a shared library.
"""


@dataclass(frozen=True)
class Dataset:
    """One array of an HDF5 file."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    refusal: str | None
    source: h5py.Dataset

    def tensor(self, name: str) -> Tensor:
        """As an array of a model; of an unknown kind where it cannot be made sense of."""
        lost: Literal["unknown"] | None = "unknown" if self.dtype == "unknown" else None
        return Tensor(name, self.shape, self.dtype, self.load, kind=lost, refusal=self.refusal)

    def load(self) -> NDArray[Any]:
        """Read it."""
        try:
            array = np.asarray(self.source[()])
        except Exception as error:  # the library fails in many ways on damaged data
            raise ModelFileError(f"it cannot be read: {error}.") from error
        return native(array, self.dtype)


def open_file(file: BinaryIO) -> h5py.File:
    """Open an HDF5 file for reading; it may be damaged, or h5py missing."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModelFileError(f"Keras files need the package h5py: {install('keras')}.") from error
    try:
        return h5py.File(file, "r")
    except Exception as error:
        raise ModelFileError(f"it is damaged or cut short: {error}.") from error


Items = Sequence[tuple[tuple[str, ...], Any]]
"""Groups and datasets of a file, as `walk` gives them."""


def datasets(items: Items, max_bytes: int) -> Iterator[Dataset]:
    """Every array of a file, together of at most ``max_bytes``. Links that leave the file, or could, are refused."""
    import h5py

    claimed = 0
    for path, item in items:
        if isinstance(item, h5py.Dataset):
            found = _described(path, item)
            with suppress(Exception):  # refused already
                claimed += int(item.nbytes)
            check_size(claimed, max_bytes)
            yield found


def names(items: Items) -> dict[tuple[str, ...], str]:
    """Names that Keras 3 gives the owners of variables: path of the group that holds ``vars`` -> name of the layer."""
    import h5py

    found = {}
    for path, item in items:
        if isinstance(item, h5py.Group) and path[-1] == "vars":
            name = text_attribute(item, "name", 10_000)
            if name is not None:
                found[path[:-1]] = name
    return found


def text_attribute(item: Any, name: str, most: int) -> str | None:
    """Text of an attribute, of at most so many bytes; None if there is none, or it is no text."""
    try:
        if name not in item.attrs:
            return None
        held = item.attrs.get_id(name)
        if math.prod(held.shape) != 1 or held.dtype.itemsize > most:
            return None
        value = np.asarray(item.attrs[name]).reshape(-1)[0]
        text = value.decode("utf-8") if isinstance(value, bytes) else str(value)
    except Exception:  # a damaged attribute says nothing; what it would have said is then assumed, and the rows say so
        return None
    return text if len(text) <= most else None


def walk(root: h5py.File) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Groups and datasets below a group, each group once."""
    import h5py

    seen = set()
    stack: list[tuple[tuple[str, ...], Any]] = [((), root)]
    while stack:
        path, group = stack.pop()
        try:
            place, entries = h5py.h5o.get_info(group.id).addr, list(group)
        except Exception as error:
            raise ModelFileError(f"group {'/'.join(path)!r} is damaged: {error}.") from error
        if place in seen:
            continue
        seen.add(place)
        if len(path) > MAX_DEPTH:
            raise ModelFileError(f"its groups are nested more than {MAX_DEPTH} deep.")
        inner = []
        for name in entries:
            if not isinstance(name, str):  # bytes, where they are no UTF-8
                raise ModelFileError(f"group {'/'.join(path)!r} is damaged: one of its names is no text ({name!r}).")
            here = (*path, name)
            try:
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    raise ModelFileError(
                        f"{'/'.join(here)!r} is a link to somewhere else, which is not followed. Save the "
                        "weights again into one file."
                    )
                item = group[name]
            except ModelFileError:
                raise
            except Exception as error:
                raise ModelFileError(f"{'/'.join(here)!r} is damaged: {error}.") from error
            if isinstance(item, h5py.Group):
                inner.append((here, item))
            if isinstance(item, (h5py.Dataset, h5py.Group)):
                yield here, item
        stack.extend(reversed(inner))


def _described(path: tuple[str, ...], item: h5py.Dataset) -> Dataset:
    shape: tuple[int, ...] = ()
    dtype = "unknown"
    try:
        shape = tuple(int(n) for n in item.shape or ())
        dtype = item.dtype.name
        if item.dtype.kind == "V" and item.dtype.itemsize == 2 and text_attribute(item, "dtype", 100) == "bfloat16":
            dtype = "bfloat16"
        refusal = _refusal(item, math.prod(shape) * item.dtype.itemsize)
    except Exception as error:
        shape, dtype, refusal = (), "unknown", f"it is damaged: {error}."
    return Dataset(path, shape, dtype, refusal, item)


def _refusal(item: h5py.Dataset, claimed: int) -> str | None:
    plan = item.id.get_create_plist()
    if item.is_virtual or plan.get_external_count():
        return "its data lies in another file, which is not opened. Save the weights again into one file."
    stored = item.id.get_storage_size()
    shrink = 1
    if item.chunks is not None:
        chunk = math.prod(item.chunks) * item.dtype.itemsize
        if chunk > max(2 * claimed, 2**20):
            return f"its pieces claim {chunk} bytes each, but it has {claimed} in all: the file is damaged."
        filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
        strange = [number for number in filters if number not in _FILTERS]
        if strange or len(set(filters)) != len(filters):
            return f"it went through HDF5 filter {', '.join(map(str, strange or filters))}, which is not read."
        shrink = math.prod(_FILTERS[number] for number in filters)
    if claimed > stored * shrink:
        return f"shape {item.shape} of {item.dtype} claims {claimed} bytes; {stored} are stored."
    return None
