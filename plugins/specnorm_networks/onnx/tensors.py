"""ONNX's TensorProto -> arrays that are read when they are needed, every claimed size checked before it is believed."""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from specnorm.errors import ModelFileError

_READ = (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 16)
"""Element types that are read: floating ones, whole numbers of 8 bits and more, and truths."""
EXTERNAL = TensorProto.EXTERNAL
MAX_AXES = 8


@dataclass(frozen=True, eq=False)
class Constant:
    """A value that does not depend on the network's inputs.

    Parameters
    ----------
    name : str
        Of the initialiser or node that it comes from, for people: others may have it.
    dtype : str
        Of what ``load`` returns.
    refusal : str or None
        Why it cannot be read.
    key : object
        What it is told from others by.
    value : str
        What the graph calls it; empty for what no value of the graph is.
    steps : int
        Computations, each of which rounds, between it and what the file stores.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], NDArray[Any]]
    refusal: str | None = None
    key: object = field(default_factory=object)
    value: str = ""
    steps: int = 0

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    def refused(self, reason: str) -> Constant:
        """The same, which cannot be read."""
        return replace(self, refusal=self.refusal or reason)

    def mapped(
        self,
        shape: tuple[int, ...],
        change: Callable[[NDArray[Any]], NDArray[Any]],
    ) -> Constant:
        """Another one: its array changed when it is read."""
        load = self.load
        return replace(self, shape=shape, load=lambda: change(load()), key=object())


class Tensors:
    """Reads the tensors of one model.

    Parameters
    ----------
    model : Path
        Of the file: external data may not leave its folder, or that of the file that it is a link to.
    max_bytes : int
        Most bytes of all tensors.
    """

    def __init__(self, model: Path, max_bytes: int) -> None:
        self.model = model
        self.left = self.limit = self.spare = max_bytes
        self.largest = self.work = 0
        """Entries of the largest tensor; multiplications of what is computed from them."""

    def again(self) -> Tensors:
        """The same, with nothing read yet."""
        return Tensors(self.model, self.limit)

    def describe(self, proto: Any, name: str) -> Constant:
        """Shape and type of a TensorProto; a refusal where it is damaged.

        Raises
        ------
        ModelFileError
            If the tensors take more than the limit.
        """
        shape = tuple(int(n) for n in proto.dims)
        kind = proto.data_type
        called = TensorProto.DataType.Name(kind).lower() if kind in TensorProto.DataType.values() else "unknown"
        blank = Constant(name, shape, called, lambda: np.zeros(0))
        if kind not in _READ:
            return blank.refused(
                f"it is stored as {blank.dtype}, which is not measured; expected float32, float64, float16 or bfloat16."
            )
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        blank = replace(blank, dtype=dtype.name)
        if len(shape) > MAX_AXES or any(n < 0 for n in shape):
            return replace(blank, shape=()).refused(f"it claims the shape {shape[:MAX_AXES]}: the file is damaged.")
        count = math.prod(shape)
        needed = count * dtype.itemsize
        if proto.HasField("segment"):
            return blank.refused("it is stored in segments, which are not read.")
        if proto.data_location == EXTERNAL:
            return self._external(proto, blank, dtype)
        raw = proto.HasField("raw_data")
        have = len(proto.raw_data if raw else getattr(proto, helper.tensor_dtype_to_field(kind)))
        if have != (needed if raw else count):
            return blank.refused(
                f"shape {shape} of {blank.dtype} does not fit its {have} stored values: the file is damaged."
            )
        self._claim(needed)
        self.largest = max(self.largest, count)
        return replace(blank, load=lambda: _widened(numpy_helper.to_array(proto)))

    def computes(self, count: int, work: int, most: int) -> bool:
        """Whether so many bytes, by so many multiplications, are computed besides: no more than may be read."""
        fits = count <= self.spare and self.work + work <= most
        self.spare = self.spare - count * fits
        self.work = self.work + work * fits
        return fits

    def _claim(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise ModelFileError(
                f"its tensors claim more than the limit of {self.limit} bytes. Raise max_bytes if you trust it."
            )

    def outside(self, proto: Any) -> NDArray[Any]:
        """An array that lies in another file; `ModelFileError` if it cannot be read."""
        found = self.describe(proto, proto.name)
        if found.refusal is not None:
            raise ModelFileError(found.refusal)
        return found.load()

    def _external(self, proto: Any, blank: Constant, dtype: np.dtype[Any]) -> Constant:
        needed = blank.size * dtype.itemsize
        entries = {entry.key: entry.value for entry in proto.external_data}
        location = entries.get("location", "")
        try:
            offset = _whole(entries.get("offset") or "0")
            length = _whole(entries.get("length") or str(needed))
            path = _inside(self.model, location)
            size = path.stat().st_size
        except (OSError, ValueError) as error:
            return blank.refused(f"its data lie in {location!r}, which cannot be read: {error}")
        if length != needed or offset < 0 or offset + needed > size:
            return blank.refused(
                f"it takes {needed} bytes; {length} are claimed at {offset} of {location!r}, which has {size}."
            )
        self._claim(needed)
        self.largest = max(self.largest, blank.size)

        def load() -> NDArray[Any]:
            found = np.fromfile(path, dtype.newbyteorder("<"), blank.size, offset=offset)
            if found.size != blank.size:
                raise ModelFileError(f"{location!r} ends in the middle of it.")
            return _widened(found.astype(dtype, copy=False).reshape(blank.shape))

        return replace(blank, load=load)


def initialisers(model: Any, reader: Tensors) -> dict[str, Constant]:
    """Arrays that a model's file holds, by name."""
    return {proto.name: reader.describe(proto, proto.name) for proto in model.graph.initializer}


def _whole(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise ValueError(f"{text[:20]!r} is no whole number.")
    return int(text)


def _inside(model: Path, location: str) -> Path:
    """A regular file below the model's folder, links followed; a cache of links keeps both in one other folder."""
    if not location or "\0" in location or Path(location).is_absolute():
        raise ValueError("external data are named relative to the model.")
    path = Path(os.path.realpath(model.parent / location))
    if not any(path.is_relative_to(home) for home in (model.parent.resolve(), model.resolve().parent)):
        raise ValueError("it leaves the model's folder.")
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a regular file.")
    return path


def _widened(found: NDArray[Any]) -> NDArray[Any]:
    return found.astype(np.float32) if found.dtype.name == "bfloat16" else found
