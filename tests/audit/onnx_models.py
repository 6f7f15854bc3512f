"""Small ONNX models, written node by node, and what the reference evaluator makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import specnorm_networks as networks
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from specnorm_audit import network
from specnorm_networks.certified.graph import Graph
from specnorm_networks.model_arrays import Sizes
from specnorm_networks.onnx import read

from audit import files

Arrays = dict[str, Any]


def drawing(random: np.random.RandomState) -> Callable[..., NDArray[np.float32]]:
    """A function that draws one array after another."""
    return lambda *shape: random.standard_normal(shape).astype(np.float32)


def model(
    nodes: list[Any],
    arrays: Arrays,
    shape: Any,
    *,
    opset: int = 17,
    outputs: tuple[str, ...] = ("y",),
    inputs: tuple[str, ...] = ("x",),
) -> Any:
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in inputs]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()]
    graph = helper.make_graph(nodes, "g", given, made, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def by_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an audit bound a network by the product alone: layers together take a thousand layers minutes."""
    files.read_here(monkeypatch)
    product = networks.Product()
    monkeypatch.setattr(network, "bound", lambda graph, measure, **_: networks.bound(graph, measure, method=product))


def saved(proto: Any, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def node(operator: str, *inputs: str, out: str = "y", **attributes: Any) -> Any:
    return helper.make_node(operator, list(inputs), [out], name=f"node {out}", **attributes)


def matrix_of(proto: Any, shape: tuple[int, ...], out: str = "y") -> NDArray[np.float64]:
    """Of an affine model, by feeding it every basis vector; with the reference evaluator."""
    run: Any = ReferenceEvaluator(proto)
    size = math.prod(shape)
    zero = run.run([out], {"x": np.zeros(shape, np.float32)})[0]
    columns = [run.run([out], {"x": np.eye(size, dtype=np.float32)[at].reshape(shape)})[0] - zero for at in range(size)]
    return np.stack([c.ravel() for c in columns], 1).astype(np.float64)


def norm(a: NDArray[Any]) -> float:
    return float(np.linalg.norm(a.astype(np.float64), 2))


def graph_of(path: Path, sizes: Sizes = None) -> Graph:
    """A file's graph, read in this process."""
    with path.open("rb") as file:
        return read(file, str(path), 2**30).graph(sizes)
