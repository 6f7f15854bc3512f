"""ONNX models: kernels with the geometry that their operators state, and the graph of the network.

The file is parsed as data by protobuf; onnx's checker, shape inference and runtimes are never called on it. `operators`
has the translation of each operator, and `walk` translates the nodes of a graph in its order. `reference` executes the
file, so that the graph can be compared with it.
"""

from __future__ import annotations

import copy
import zipfile
from collections.abc import Callable
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, BinaryIO

from specnorm.errors import ModelFileError
from specnorm.proof import install
from specnorm_networks.certified.graph import Graph
from specnorm_networks.model_arrays import ModelArrays, Sizes

MOST_BYTES_OF_HEADER = 10**8
"""Largest header of a safetensors file, by its definition; the file begins with the header's size."""
MOST_NAMES = 2**16
"""Largest number of names in an archive that are looked at."""


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
    other_kind = _other_kind(file)
    if other_kind is not None:
        raise ModelFileError(f"it is no ONNX model, but {other_kind}.")
    try:
        model = ModelProto.FromString(file.read())
    except (DecodeError, RecursionError, ValueError) as error:
        raise ModelFileError(f"it is damaged, or no ONNX model: {error}.") from error
    if not _is_text(model):
        raise ModelFileError("it is damaged: one of its names is no text.")
    if not model.HasField("graph") or not (model.graph.node or model.graph.initializer or model.graph.output):
        raise ModelFileError("it holds no graph: it is damaged, or no ONNX model.")
    _sort(model.graph)
    walk = Walk(model, Tensors(Path(path), max_bytes), None)

    def graph(sizes: Sizes) -> Graph:
        walk_with_sizes = walk if sizes is None else Walk(model, walk.reader.again(), sizes)
        walk_with_sizes.check_sizes()
        return walk_with_sizes.graph()

    def stored() -> dict[str, Callable[[], Any]]:
        constants = initialisers(model, walk.reader.again())
        return {name: constant.load for name, constant in constants.items() if not constant.refusal}

    return ModelArrays(walk.tensors(), graph, stored=stored)


_WEIGHTS = (
    "holds weights alone, and no operators between them: load them into the model and give the model, or export it to "
    "ONNX"
)


def _other_kind(file: BinaryIO) -> str | None:
    """Return what a file is, by its content, and what to do with it; None: an ONNX model, or nothing that is known."""
    start = file.read(16)
    file.seek(0)
    if start.startswith(b"PK\x03\x04"):
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(file) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()[:MOST_NAMES]}
            if "config.json" in names and "metadata.json" in names:
                return 'a model of Keras: give the model itself, which keras.models.load_model("...") returns'
            kind = "PyTorch" if "data.pkl" in names else "NumPy"
            return f"a file of {kind} that {_WEIGHTS}"
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return f"a file of HDF5, as Keras writes it, that {_WEIGHTS}"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < MOST_BYTES_OF_HEADER:
        return f"a file of safetensors that {_WEIGHTS}"
    return f"a pickle that {_WEIGHTS}" if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" else None


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
