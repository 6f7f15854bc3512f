"""ONNX models: kernels with the geometry that their operators state, and the graph of the network.

The file is parsed as data by protobuf; onnx's checker, shape inference and runtimes are never called on it. `operators`
has the translation of each operator, and `walk` translates the nodes of a graph in its order. `reference` executes the
file, so that the graph can be compared with it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, BinaryIO

from specnorm.errors import ModelFileError
from specnorm.proof import install
from specnorm_networks.certified.graph import Graph
from specnorm_networks.model_arrays import ModelArrays, Sizes

NO_MODEL = (
    "no ONNX model; of weights alone (PyTorch, safetensors, HDF5, Keras, NumPy) give the model that has them, "
    "or export it to ONNX"
)


def graph_of_file(path: str, max_bytes: int, sizes: Sizes) -> Graph:
    """Return the network of an ONNX file. Error messages begin with the file's name."""
    try:
        with Path(path).open("rb") as file:
            return read(file, path, max_bytes).graph(sizes)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def read(file: BinaryIO, path: str, max_bytes: int) -> ModelArrays:
    """Return the kernels and other tensors of an ONNX model, and its graph.

    External data are read from the folder of ``path``. A kernel that is used with several geometries is listed once for
    each; weights of operators that are not read have a refusal. ``max_bytes`` limits the size of the file, and the size
    of all tensors together.
    """
    try:
        from google.protobuf.message import DecodeError
        from onnx import ModelProto

        from specnorm_networks.onnx.inlining import inlined
        from specnorm_networks.onnx.sizes import input_shapes
        from specnorm_networks.onnx.tensors import Tensors
        from specnorm_networks.onnx.walk import Walk
    except ModuleNotFoundError as error:
        raise ModelFileError(f"ONNX models need the package onnx: {install('onnx')}.") from error
    size = file.seek(0, 2)
    file.seek(0)
    if size > max_bytes:
        raise ModelFileError(
            f"it has {size} bytes, more than the limit of {max_bytes}. Raise the limit (max_bytes=) if you trust it."
        )
    try:
        model = ModelProto.FromString(file.read())
    except (DecodeError, RecursionError, ValueError) as error:
        raise ModelFileError(f"it is damaged, or {NO_MODEL} ({error}).") from error
    if not _is_text(model):
        raise ModelFileError("it is damaged: one of its names is not text.")
    if not model.HasField("graph") or not (model.graph.node or model.graph.initializer or model.graph.output):
        raise ModelFileError(f"it holds no graph: it is damaged, or {NO_MODEL}.")
    _sort(model.graph)
    model = inlined(model)
    walk = Walk(model, Tensors(Path(path), max_bytes), {})

    def graph(sizes: Sizes) -> Graph:
        shapes = input_shapes(model.graph, sizes)
        walk_with_sizes = Walk(model, walk.reader.again(), shapes) if shapes else walk
        return walk_with_sizes.graph()

    def stored() -> dict[str, Callable[[], Any]]:
        reader = walk.reader.again()
        constants = [reader.describe(proto, proto.name) for proto in model.graph.initializer]
        return {constant.name: constant.load for constant in constants if not constant.refusal}

    return ModelArrays(walk.tensors(), graph, stored=stored)


def _sort(graph: Any) -> None:
    """Put the nodes of a graph into an order in which each reads values before it, if there is such an order."""
    maker = {name: number for number, node in enumerate(graph.node) for name in node.output if name}
    reads = {number: {maker[name] for name in node.input if name in maker} for number, node in enumerate(graph.node)}
    if all(source < number for number, sources in reads.items() for source in sources):
        return
    with suppress(CycleError):
        order = list(TopologicalSorter(reads).static_order())
        nodes = [copy.deepcopy(graph.node[number]) for number in order]
        del graph.node[:]
        graph.node.extend(nodes)


def _is_text(message: Any) -> bool:
    """Whether every string in a message is valid UTF-8: protobuf returns bytes for other strings."""
    waiting = [message]
    while waiting:
        for descriptor, value in waiting.pop().ListFields():
            if descriptor.type not in (descriptor.TYPE_STRING, descriptor.TYPE_MESSAGE):
                continue
            is_single = hasattr(value, "ListFields") or isinstance(value, str | bytes)
            values = [value] if is_single else list(value)
            if descriptor.type == descriptor.TYPE_MESSAGE:
                waiting += values
            elif not all(isinstance(text, str) for text in values):
                return False
    return True
