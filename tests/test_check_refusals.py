"""What the ONNX reader refuses docs/check.py refuses, too: every operator of ONNX, its arguments at random.

``SPECNORM_ONNX_DRAWS`` is the number of nodes; CI takes a sample.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import random
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from test_check import CHECK

onnx: Any = pytest.importorskip("onnx", reason="ONNX files: pip install onnx")
from networks.drawing import Dice, Slot, numbers  # noqa: E402
from networks.onnx_arguments import DRAWS  # noqa: E402
from networks.onnx_schemas import HISTORY, places  # noqa: E402
from onnx import TensorProto, helper, numpy_helper, shape_inference  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from specnorm.auditing.readers.onnx import read  # noqa: E402
from specnorm.certified.network.operators import Unknown  # noqa: E402

COUNT = int(os.environ.get("SPECNORM_ONNX_DRAWS", "4000"))
ONE, LARGE = (1.0).hex(), (2.0**400).hex()
VALUES: dict[str, list[Any]] = {
    "INT": [0, 1, 2], "INTS": [[1], [0, 1], [2, 2]], "FLOAT": [0.0, 1.0, -2.0, 0.5], "FLOATS": [[0.5]],
    "STRING": ["linear", "SAME_UPPER", "none", "edge", "tanh"], "STRINGS": [["Tanh"]],
}  # fmt: skip
WITHOUT_A_MAP = re.compile(r"not fit|axis -?\d+ of a value|its limits are|larger than its input|approximate=")
"""Reasons of the reader's, where the node may be damaged or constant: if the reference says so, nothing is claimed."""


def known(operator: str, opset: int, d: Dice) -> tuple[list[Any], dict[str, Any], int]:
    """Inputs, attributes and the number of outputs of an operator that the reader knows."""
    schema, arguments = onnx.defs.get_schema(operator, opset), DRAWS[operator](d)
    attributes = {n: v for n, v in arguments.items() if n in schema.attributes and v is not None}
    inputs: list[Any] = []
    for newest, each in zip(places(operator), schema.inputs, strict=False):
        value = None if each.name in attributes else arguments.get(each.name, arguments.get(newest))
        inputs += value if isinstance(value, list) and value and isinstance(value[0], Slot) else [value]
    return inputs, attributes, arguments.get("outputs") or d.choice([1, min(schema.max_output, 5)])


def strange(operator: str, opset: int, d: Dice) -> tuple[list[Any], dict[str, Any], int]:
    """The same of any operator, as a file might have them."""
    schema = onnx.defs.get_schema(operator, opset)
    inputs: list[Any] = [Slot(d.choice([(1, 2), (1, 2, 4), (1, 2, 4, 4)]))]
    for _ in schema.inputs[1 : 1 + d.randint(0, len(schema.inputs))]:
        whole, wide = d.choice([[0], [1], [1, 2], 2]), d.choice([(), (2,), (2, 2), (2, 2, 1), (2, 2, 1, 1)])
        inputs.append(d.choice([np.asarray(whole, np.int64), numbers(d, wide)]))
    attributes = {
        name: d.choice(VALUES[each.type.name]) for name, each in schema.attributes.items()
        if each.type.name in VALUES and (each.required or d.random() < 0.3)
    }  # fmt: skip
    return inputs, attributes, d.choice([1, min(schema.max_output, 5)])


def model_of(operator: str, opset: int, inputs: list[Any], attributes: dict[str, Any], outputs: int) -> Any:
    """A graph of one node, whose first `Slot` is the network's input; None if there is none."""
    d, shape, names, arrays = random.Random(0), None, [], {}
    for at, value in enumerate(inputs):
        first = isinstance(value, Slot) and shape is None
        shape = value.shape or (1,) if first else shape
        names.append("x" if first else "" if value is None else f"i{at}")
        if value is not None and not first:
            array = np.asarray(numbers(d, value.shape) if isinstance(value, Slot) else value)
            arrays[f"i{at}"] = array.astype(np.int64) if array.dtype.kind in "iu" and array.dtype != np.int8 else array
    if shape is None:
        return None
    while names and not names[-1]:
        names.pop()
    node = helper.make_node(operator, names, ["y", *(f"y{at}" for at in range(1, outputs))], **attributes)
    given, double = helper.make_tensor_value_info, TensorProto.DOUBLE
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph([node], "g", [given("x", double, shape)], [given("y", double, None)], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    try:
        kind = shape_inference.infer_shapes(model).graph.output[0].type.tensor_type
    except Exception:  # whatever onnx raises for a damaged node
        return None
    rank = len(kind.shape.dim) if kind.HasField("shape") else len(shape)
    model.graph.output[0].CopyFrom(given("y", kind.elem_type or double, [None] * rank))
    return model


def refused(model: Any) -> str:
    """The reader's reason; empty where it reads the node."""
    try:
        graph = read(io.BytesIO(model.SerializeToString()), "m.onnx", 10**7).graph(None)
    except ValueError as error:
        return str(error)
    if not graph.outputs:
        return "the output is no value that moves"
    last = next(node.operator for node in graph.nodes if node.name == graph.outputs[0])
    return last.reason if isinstance(last, Unknown) else ""


def accepted(model: Any, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether any part makes the program say that the network has some constant, all that is computed being fine."""
    arrays = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    claim: dict[str, Any] = {
        "claim": "network",
        "name": "n",
        "of": "f",
        "input_shape": shape,
        "upper": LARGE,
        "parts": [],
    }
    claim["tensors"] = {name: CHECK.digest(array) for name, array in arrays.items()}
    channels = shape[1] if shape[1:] else 1
    said: list[list[dict[str, Any]]] = [[]]
    for units, made in itertools.product((True, False), (1, 2, 3, 4, 6, 8, 9, 12, 16)):
        read_here = math.prod(shape[1:]) if units else channels
        said.append([{"start": "x", "values": ["y"], "units": units, "weights": [[ONE] * read_here, [ONE] * made],
                      "upper": ONE, "proof": {"grid": [1] * (0 if units else max(len(shape) - 2, 0))}}])  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(CHECK, "bounded", lambda *_: None)
        for parts in said:
            try:
                CHECK.check({**claim, "parts": parts}, arrays, model)
            except Exception:  # whatever it raises it refuses
                continue
            return True
    return False


def has_a_map(model: Any) -> bool:
    """Whether onnx's reference computes something that the input moves."""
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(0)
    try:
        run: Any = ReferenceEvaluator(model)
        one, *others = (run.run(["y"], {"x": 9 * rng.standard_normal(shape)})[0] for _ in range(5))
    except Exception:  # whatever the reference raises for what does not fit
        return False
    return any(not np.array_equal(one, other) for other in others)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_the_reader_refuses_the_program_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    d, told, kinds = random.Random(7), Counter[str](), Counter[str]()
    sets = [(op, max(s.since_version, 9)) for op, schemas in HISTORY.items() for s in schemas]
    d.shuffle(sets)
    for operator, opset in itertools.islice(itertools.cycle(sets), COUNT):
        # A Split of another number of outputs than it says ends onnx's process.
        make = known if operator == "Split" or (operator in DRAWS and d.random() < 0.7) else strange
        model = model_of(operator, opset, *make(operator, opset, d))
        if model is None:
            continue
        reason, proven = refused(model), accepted(model, monkeypatch)
        told["refused" if reason else "read"] += 1
        kinds[operator] += proven
        # Old ones take one axis for rows of one number each, which are constant; onnx's reference does not.
        if proven and reason and (operator, reason) != ("Softmax", "axis 1 of a value of 1 axes"):
            assert WITHOUT_A_MAP.search(reason), (reason, opset, model.graph)
            assert not has_a_map(model), (reason, opset, model.graph)
    print(dict(told), {name: n for name, n in kinds.items() if n})  # noqa: T201 - shown by `pytest -rP`
    assert told["refused"] > COUNT / 4
    assert min(kinds[name] for name in ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "Split")) > 0
