"""ONNX models: kernels with the geometry that their operators state, and the graph of the network.

The file is parsed as data by protobuf; onnx's checker, shape inference and runtimes are never called on it. What an
operator is stands in `operators`; `walk` goes through the graph once, in its own order. The graph's model is executed
by `reference`, where it is compared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from specnorm.errors import ModelFileError
from specnorm.proof import install
from specnorm_networks.certified.graph import Graph
from specnorm_networks.model_arrays import ModelArrays, Sizes


def graph_of_file(path: str, max_bytes: int, sizes: Sizes) -> Graph:
    """The network of an ONNX file, whose name is in every refusal."""
    try:
        with Path(path).open("rb") as file:
            return read(file, path, max_bytes).graph(sizes)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def read(file: BinaryIO, path: str, max_bytes: int) -> ModelArrays:
    """List the kernels and other tensors of an ONNX model; ``max_bytes`` is of the file, and of all tensors.

    External data lies in the folder of ``path``. A kernel that is used with several geometries is listed once for each;
    weights of operators that are not read have a refusal.
    """
    try:
        from google.protobuf.message import DecodeError
        from onnx import ModelProto

        from specnorm_networks.onnx.tensors import Tensors, initialisers
        from specnorm_networks.onnx.walk import Walk
    except ModuleNotFoundError as error:
        raise ModelFileError(f"ONNX models need the package onnx: {install('onnx')}.") from error
    size = file.seek(0, 2)
    file.seek(0)
    if size > max_bytes:
        raise ModelFileError(
            f"it has {size} bytes, more than the limit of {max_bytes}. Raise max_bytes if you trust it."
        )
    try:
        model = ModelProto.FromString(file.read())
    except (DecodeError, RecursionError, ValueError) as error:
        raise ModelFileError(f"it is damaged, or no ONNX model: {error}.") from error
    if not _is_text(model):
        raise ModelFileError("it is damaged: one of its names is no text.")
    if not model.HasField("graph") or not (model.graph.node or model.graph.initializer or model.graph.output):
        raise ModelFileError("it holds no graph: it is damaged, or no ONNX model.")
    walk = Walk(model, Tensors(Path(path), max_bytes), None)

    def graph(sizes: Sizes) -> Graph:
        asked = walk if sizes is None else Walk(model, walk.reader.again(), sizes)
        asked.check_sizes()
        return asked.graph()

    def stored() -> dict[str, Callable[[], Any]]:
        return {name: c.load for name, c in initialisers(model, walk.reader.again()).items() if not c.refusal}

    return ModelArrays(walk.tensors(), graph, stored=stored)


def _is_text(message: Any) -> bool:
    """Whether every string below a message is one: protobuf hands out bytes for what is no UTF-8."""
    waiting = [message]
    while waiting:
        for place, value in waiting.pop().ListFields():
            if place.type not in (place.TYPE_STRING, place.TYPE_MESSAGE):
                continue
            values = [value] if hasattr(value, "ListFields") or isinstance(value, str | bytes) else list(value)
            if place.type == place.TYPE_MESSAGE:
                waiting += values
            elif not all(isinstance(word, str) for word in values):
                return False
    return True
