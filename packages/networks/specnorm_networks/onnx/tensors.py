"""Read ONNX's TensorProtos as arrays, each when it is needed; sizes that a file claims are checked first."""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from specnorm.errors import ModelFileError

_READ = (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 16)
"""Element types that are read: floating ones, whole numbers of 8 bits and more, and truth values."""
EXTERNAL = TensorProto.EXTERNAL
"""The place of a tensor whose numbers are in another file."""
MAX_AXES = 8
"""Largest number of axes of a tensor."""
Array: TypeAlias = NDArray[Any]
"""Array of numbers of any type."""


@dataclass(frozen=True, eq=False)
class Constant:
    """A value that does not depend on the network's inputs.

    Parameters
    ----------
    name : str
        Name of the initialiser or node that it comes from, for messages; it need not be unique.
    dtype : str
        Dtype of the array that ``load`` returns.
    refusal : str or None
        Reason why it cannot be read.
    key : object
        Identity of the array: two constants with one key have the same numbers.
    value : str
        Name of the value in the graph; empty if it is no value of the graph.
    steps : int
        Number of operators, one after the other, by which it is computed from arrays of the file when it is read.
    is_rounded : bool
        Whether one of these operators rounds, and not in the same way in every runtime.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], Array]
    refusal: str | None = None
    key: object = field(default_factory=object)
    value: str = ""
    steps: int = 0
    is_rounded: bool = False

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    def refused(self, reason: str) -> Constant:
        """Return the constant with a refusal: it cannot be read."""
        return replace(self, refusal=self.refusal or reason)

    def mapped(
        self,
        shape: tuple[int, ...],
        change: Callable[[Array], Array],
    ) -> Constant:
        """Return another constant, whose array is computed by ``change`` when it is read."""
        load = self.load
        return replace(self, shape=shape, load=lambda: change(load()), key=object())


class Tensors:
    """Reader of the tensors of one model.

    Parameters
    ----------
    model : Path
        Path of the model. External data have to lie in its folder, or in the folder of the file that it is a link to.
    max_bytes : int
        Largest number of bytes of all tensors.
    """

    def __init__(self, model: Path, max_bytes: int) -> None:
        self.model = model
        self.limit = max_bytes
        self.left = max_bytes
        """Bytes that tensors of the file may still claim."""
        self.spare = max_bytes
        """Bytes that constants that are computed may still take."""
        self.largest = 0
        """Number of entries of the largest tensor."""
        self.work = 0
        """Number of multiplications for constants that are computed."""

    def again(self) -> Tensors:
        """Return a reader of the same model that has not read anything yet."""
        return Tensors(self.model, self.limit)

    def describe(self, proto: Any, name: str) -> Constant:
        """Return a constant for a TensorProto; it has a refusal if the tensor is damaged or of an unread type.

        Raises
        ------
        ModelFileError
            If the tensors take more than the limit.
        """
        shape = tuple(int(n) for n in proto.dims)
        type_number = proto.data_type
        is_type = type_number in TensorProto.DataType.values()
        type_name = TensorProto.DataType.Name(type_number).lower() if is_type else "unknown"
        constant = Constant(name, shape, type_name, lambda: np.zeros(0))
        if type_number not in _READ:
            return constant.refused(
                f"it is stored as {type_name}, which is not measured; expected float32, float64, float16 or bfloat16."
            )
        dtype = helper.tensor_dtype_to_np_dtype(type_number)
        constant = replace(constant, dtype=dtype.name)
        if len(shape) > MAX_AXES or any(n < 0 for n in shape):
            return replace(constant, shape=()).refused(f"it claims the shape {shape[:MAX_AXES]}: the file is damaged.")
        count = math.prod(shape)
        byte_count = count * dtype.itemsize
        if proto.HasField("segment"):
            return constant.refused("it is stored in segments, which are not read.")
        if proto.data_location == EXTERNAL:
            return self._external(proto, constant, dtype)
        if proto.HasField("raw_data"):
            stored = len(proto.raw_data)
            expected = byte_count
        else:
            stored = len(getattr(proto, helper.tensor_dtype_to_field(type_number)))
            expected = count
        if stored != expected:
            return constant.refused(
                f"shape {shape} of {constant.dtype} does not fit its {stored} stored values: the file is damaged."
            )
        self._claim(byte_count)
        self.largest = max(self.largest, count)
        return replace(constant, load=lambda: _widened(numpy_helper.to_array(proto)))

    def computes(self, byte_count: int, work: int, most_work: int) -> bool:
        """Whether a constant may be computed, of so many bytes and by so many multiplications; if so, count both.

        Computed constants may take as many bytes as tensors of the file, and ``most_work`` multiplications together.
        """
        fits = byte_count <= self.spare and self.work + work <= most_work
        if fits:
            self.spare -= byte_count
            self.work += work
        return fits

    def _claim(self, byte_count: int) -> None:
        """Count the bytes of a tensor; refuse the file if its tensors take more than the limit."""
        self.left -= byte_count
        if self.left < 0:
            raise ModelFileError(
                f"its tensors claim more than the limit of {self.limit} bytes. Raise the limit (max_bytes=) if you "
                "trust it."
            )

    def outside(self, proto: Any) -> Array:
        """Return an array that lies in another file; `ModelFileError` if it cannot be read."""
        constant = self.describe(proto, proto.name)
        if constant.refusal is not None:
            raise ModelFileError(constant.refusal)
        return constant.load()

    def _external(self, proto: Any, constant: Constant, dtype: np.dtype[Any]) -> Constant:
        """Return a constant whose array is read from another file; it has a refusal if the file does not have it."""
        byte_count = constant.size * dtype.itemsize
        entries = {entry.key: entry.value for entry in proto.external_data}
        location = entries.get("location", "")
        try:
            offset = _whole(entries.get("offset") or "0")
            length = _whole(entries.get("length") or str(byte_count))
            path = _inside(self.model, location)
            size = path.stat().st_size
        except (OSError, ValueError) as error:
            return constant.refused(f"its data are in {location!r}, which cannot be read: {error}")
        if length != byte_count or offset < 0 or offset + byte_count > size:
            return constant.refused(
                f"it takes {byte_count} bytes; {length} are claimed at {offset} of {location!r}, which has {size}."
            )
        self._claim(byte_count)
        self.largest = max(self.largest, constant.size)

        def load() -> Array:
            numbers = np.fromfile(path, dtype.newbyteorder("<"), constant.size, offset=offset)
            if numbers.size != constant.size:
                raise ModelFileError(f"{location!r} ends in the middle of it.")
            return _widened(numbers.astype(dtype, copy=False).reshape(constant.shape))

        return replace(constant, load=load)


def _whole(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise ValueError(f"{text[:20]!r} is not a whole number.")
    return int(text)


def _inside(model: Path, location: str) -> Path:
    """Return the path of external data, links followed; refuse a path outside of the model's folder.

    If the model is a link, as in a cache of downloads, the folder of the file that it points to is allowed, too.
    """
    if not location or "\0" in location or Path(location).is_absolute():
        raise ValueError("external data are named relative to the model.")
    path = Path(os.path.realpath(model.parent / location))
    allowed_folders = (model.parent.resolve(), model.resolve().parent)
    if not any(path.is_relative_to(folder) for folder in allowed_folders):
        raise ValueError("it leaves the model's folder.")
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a regular file.")
    return path


def _widened(numbers: Array) -> Array:
    """Return bfloat16 numbers as float32, others as they are."""
    return numbers.astype(np.float32) if numbers.dtype.name == "bfloat16" else numbers
