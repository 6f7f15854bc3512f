"""ONNX programs that can be run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
from helpers.onnx_models import graph_of, model
from networks.compositions.claims import Function, Vector
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from specnorm_networks import Graph
from specnorm_networks.onnx.evaluator import _NEWER, _SPECIAL, evaluate

TYPES = {
    "float64": TensorProto.DOUBLE, "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}  # fmt: skip
_erf = np.vectorize(math.erf, otypes=[np.float64])


class Erf(OpRun):  # type: ignore[misc,unused-ignore]  # Any where onnx is missing
    """In float64: onnx's own computes in single precision."""

    op_domain = ""

    def _run(self, x: Any) -> Any:
        return (_erf(x).astype(x.dtype),)


class Gelu(OpRun):  # type: ignore[misc,unused-ignore]
    """Likewise."""

    op_domain = ""

    def _run(self, x: Any, approximate: str = "none") -> Any:
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        gate = np.tanh(inner) if approximate == "tanh" else _erf(x / math.sqrt(2))
        return ((0.5 * x * (1 + gate)).astype(x.dtype),)


def _special(operator: str, opset: int) -> Any:
    """What the reader's own copy of the evaluator does where onnx's is wrong."""

    def run(self: Any, *inputs: Any, **_: Any) -> Any:
        return tuple(evaluate(self.onnx_node, opset, inputs))

    return type(operator, (OpRun,), {"op_domain": "", "_run": run})


def function_of(proto: Any, opset: int) -> ReferenceEvaluator:
    """Onnx's reference, in double precision throughout."""
    operators = {node.op_type for node in proto.graph.node if not node.domain}
    wrong = operators & {*_SPECIAL, *_NEWER}
    return ReferenceEvaluator(proto, new_ops=[Erf, Gelu, *(_special(each, opset) for each in sorted(wrong))])


def ran(node: Any, opset: int, inputs: Sequence[Any]) -> list[NDArray[Any]]:
    if node.op_type in ("Erf", "Gelu"):
        proto = model([node], None, opset=opset, inputs=node.input, outputs=node.output)
        found: Any = function_of(proto, opset).run(None, {node.input[0]: inputs[0]})
    else:
        found = evaluate(node, opset, inputs)
    return [np.asarray(each) for each in found]


@dataclass(frozen=True, eq=False)
class OnnxProgram:
    """Nodes, constants and what goes in and out.

    Parameters
    ----------
    shape : tuple of int
        Of the input, which is called x.
    nodes : tuple of NodeProto
    constants : mapping of str to array
    opset : int
    outputs : tuple of str
    dtype : str
        Of the input.
    brain : frozenset of str
        Constants that are stored as bfloat16.
    """

    shape: tuple[int, ...]
    nodes: tuple[Any, ...]
    constants: Mapping[str, NDArray[Any]]
    opset: int
    outputs: tuple[str, ...]
    dtype: str = "float64"
    brain: frozenset[str] = field(default_factory=frozenset)

    @cached_property
    def proto(self) -> Any:
        stored = {
            name: helper.make_tensor(name, TensorProto.BFLOAT16, np.shape(x), np.ravel(x).tolist())
            for name, x in self.constants.items()
            if name in self.brain
        }
        own = sorted({node.op_type for node in self.nodes if node.domain})
        return model(
            self.nodes, self.shape, {**self.constants, **stored}, opset=self.opset, dtype=TYPES[self.dtype],
            outputs=self.outputs, functions=[_hundredfold(name, self.opset) for name in own],
            domains=["mylib"] if own else [],
        )  # fmt: skip

    def graph(self) -> Graph:
        return graph_of(self.proto)

    def double(self) -> OnnxProgram:
        """The same in double precision, with the constants that are stored."""
        if self.dtype == "float64":
            return self
        wide = {n: x.astype(np.float64) if x.dtype.kind == "f" else x for n, x in self.constants.items()}
        return replace(self, constants=wide, dtype="float64", brain=frozenset())

    def function(self) -> Function:
        run = function_of(self.proto, self.opset)

        def f(x: Vector) -> Vector:
            found: Any = run.run(None, {"x": x})
            return np.concatenate([np.ravel(each).astype(np.float64) for each in found])

        return f

    def largest(self, x: Vector) -> float:
        names = [name for node in self.nodes for name in node.output]
        found: Any = function_of(replace(self, outputs=tuple(names)).proto, self.opset).run(None, {"x": x})
        arrays = [np.abs(np.asarray(each, np.float64)) for each in (*found, *self.constants.values())]
        return max(float(np.max(each, initial=0.0)) for each in arrays)

    def runs(self) -> bool:
        try:
            with np.errstate(all="ignore"):
                self.function()(np.full(self.shape, 0.3, np.float64))
        except Exception:  # whatever the evaluator raises
            return False
        return True

    def operators(self) -> list[str]:
        return [node.op_type for node in self.nodes]

    def pruned(self) -> OnnxProgram:
        used = {name for node in self.nodes for name in node.input} | set(self.outputs)
        return replace(self, constants={n: x for n, x in self.constants.items() if n in used})


def function_by_runtime(program: OnnxProgram) -> tuple[Function, float] | None:
    """A program in double precision by ONNX Runtime, and what rounding may change; None where it lacks operators.

    It has many in single precision alone.
    """
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    single = {name: x.astype(np.float32) if x.dtype.kind == "f" else x for name, x in program.constants.items()}
    for each, relative in ((program, 1e-12), (replace(program, constants=single, dtype="float32"), 1e-5)):
        proto = each.proto
        for node in proto.graph.node:
            node.name = ""  # it takes no name twice
        with suppress(Exception):  # whatever it raises for what it does not support
            run = runtime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"]).run
            run(None, {"x": np.full(each.shape, 0.3, each.dtype)})

            def f(x: Vector, run: Any = run, dtype: str = each.dtype) -> Vector:
                found = run(None, {"x": x.astype(dtype)})
                return np.concatenate([np.ravel(y).astype(np.float64) for y in found])

            return f, relative
    return None


def _hundredfold(name: str, opset: int) -> Any:
    """An operator of another domain: nobody can know that it multiplies by a hundred."""
    body = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(100.0))),
        helper.make_node("Mul", ["a", "c"], ["b"]),
    ]
    return helper.make_function("mylib", name, ["a"], ["b"], body, [helper.make_opsetid("", opset)])
