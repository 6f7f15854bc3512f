"""ONNX networks written node by node, and how steep onnx's reference evaluator finds them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
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
    shape: Sequence[int | str | None],
    constants: Mapping[str, Any] | None = None,
    *,
    opset: int = 18,
    functions: Sequence[Any] = (),
    outputs: Sequence[str] = ("y",),
    more: Sequence[Any] = (),
) -> Any:
    given = [helper.make_tensor_value_info("x", TensorProto.DOUBLE, shape), *more]
    made = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in outputs]
    arrays = [
        value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(np.asarray(value), name)
        for name, value in (constants or {}).items()
    ]
    domains = [helper.make_opsetid("", opset), *(helper.make_opsetid(f.domain, 1) for f in functions)]
    graph = helper.make_graph(list(nodes), "g", given, made, arrays)
    return helper.make_model(graph, opset_imports=domains, ir_version=10, functions=list(functions))


def graph_of(proto: Any, sizes: int | None = None) -> Graph:
    return read(io.BytesIO(proto.SerializeToString()), "m.onnx", 2**30).graph(sizes)


def values_of(proto: Any, x: Values) -> list[Values]:
    found: Any = ReferenceEvaluator(proto).run(None, {"x": x})
    return list(found)


def jacobian(proto: Any, x: Values, step: float = 1e-6) -> Values:
    def f(at: Values) -> Values:
        return np.concatenate([np.ravel(each) for each in values_of(proto, at)])

    moves = np.eye(x.size).reshape(x.size, *x.shape) * step
    return np.stack([(f(x + move) - f(x - move)) / (2 * step) for move in moves], axis=1)


def steepest(proto: Any, points: Sequence[Values]) -> float:
    return max(float(np.linalg.norm(jacobian(proto, x), 2)) for x in points)


def in_ball(centre: Values, radius: float, count: int = 30) -> list[Values]:
    rng = np.random.default_rng(1)
    moves = rng.standard_normal((count, *centre.shape))
    return [centre + 0.999 * radius * rng.uniform() * move / np.linalg.norm(move) for move in moves]


def everywhere(shape: Sequence[int], count: int = 30) -> list[Values]:
    return list(3 * np.random.default_rng(1).standard_normal((count, *shape)))


def holds(upper: float | None, reached: float, at_least: float) -> bool:
    """Whether a bound is one, of a map that the points show to be at least so steep; no bound is fine."""
    assert reached > at_least
    return upper is None or reached <= upper * (1 + 1e-6) + 1e-8
