"""ONNX models written node by node, and what onnx's reference evaluator makes of them."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from specnorm_networks import Graph
from specnorm_networks.onnx import read

Values = NDArray[np.float64]


def model(
    nodes: Sequence[Any],
    shape: Any,
    arrays: Mapping[str, Any] | None = None,
    *,
    opset: int = 18,
    dtype: int = TensorProto.DOUBLE,
    inputs: Sequence[Any] = ("x",),
    outputs: Sequence[Any] = ("y",),
    functions: Sequence[Any] = (),
    domains: Sequence[str] = (),
) -> Any:
    """A model of constants, of inputs of one shape and of outputs; ends of another kind are given as ONNX has them."""
    given = [helper.make_tensor_value_info(x, dtype, shape) if isinstance(x, str) else x for x in inputs]
    made = [helper.make_tensor_value_info(y, dtype, None) if isinstance(y, str) else y for y in outputs]
    constants = [
        value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(np.asarray(value), name)
        for name, value in (arrays or {}).items()
    ]
    graph = helper.make_graph(list(nodes), "g", given, made, constants)
    sets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    return helper.make_model(graph, opset_imports=sets, ir_version=10, functions=list(functions))


single = partial(model, dtype=TensorProto.FLOAT)
"""In single precision."""


def node(operator: str, *inputs: str, out: str = "y", **attributes: Any) -> Any:
    return helper.make_node(operator, list(inputs), [out], name=f"node {out}", **attributes)


def drawing(random: np.random.RandomState) -> Callable[..., NDArray[np.float32]]:
    return lambda *shape: random.standard_normal(shape).astype(np.float32)


def saved(proto: Any, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def graph_of(proto: Any) -> Graph:
    return read(io.BytesIO(proto.SerializeToString()), "m.onnx", 2**30).graph(None)


# -- what they compute ---------------------------------------------------------------------------------------------
def values_of(proto: Any, x: NDArray[Any]) -> list[NDArray[Any]]:
    found: Any = ReferenceEvaluator(proto).run(None, {"x": x})
    return list(found)


def jacobian(proto: Any, x: NDArray[Any], step: float = 2.0**-20) -> Values:
    run: Any = ReferenceEvaluator(proto)

    def f(at: NDArray[Any]) -> Values:
        return np.concatenate([np.ravel(each).astype(np.float64) for each in run.run(None, {"x": at})])

    moves = step * np.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
    return np.stack([(f(x + move) - f(x - move)) / (2 * step) for move in moves], axis=1)


def steepest(proto: Any, points: Sequence[Values]) -> float:
    return max(float(np.linalg.norm(jacobian(proto, x), 2)) for x in points)


def everywhere(shape: Sequence[int], count: int = 30) -> list[Values]:
    return list(3 * np.random.default_rng(1).standard_normal((count, *shape)))


def holds(upper: float | None, reached: float, at_least: float) -> bool:
    """Whether a bound is one, of a map that the points show to be at least so steep; no bound is fine."""
    assert reached > at_least
    return upper is None or reached <= upper * (1 + 1e-6) + 1e-8
