"""What the ONNX reader takes, by ONNX Runtime: a second opinion on the evaluator that models are compared with.

``SPECNORM_ONNX_DRAWS`` is the number of nodes; CI takes a sample.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="ONNX files: pip install onnx", exc_type=ImportError)
runtime = pytest.importorskip("onnxruntime", reason="a second opinion: pip install onnxruntime", exc_type=ImportError)
from helpers.onnx_models import single  # noqa: E402
from networks.drawing import Arguments, Shapes, Slot, asked, by_operator, examples, numbers  # noqa: E402
from networks.onnx_arguments import DRAWS  # noqa: E402
from networks.onnx_calls import given  # noqa: E402
from networks.onnx_schemas import versions  # noqa: E402
from onnx import helper  # noqa: E402
from specnorm_networks.certified.operators import Unknown  # noqa: E402
from specnorm_networks.comparison.execution import run_with_errors  # noqa: E402
from specnorm_networks.onnx import read  # noqa: E402
from specnorm_networks.onnx.evaluator import evaluate  # noqa: E402

COUNT = int(os.environ.get("SPECNORM_ONNX_DRAWS", "150"))
OPERATORS = (
    "AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool", "Conv", "ConvTranspose",
    "BatchNormalization", "LayerNormalization", "RMSNormalization", "InstanceNormalization",
    "GroupNormalization", "LpNormalization", "Softmax", "LogSoftmax",
)  # fmt: skip


def drawn(operator: str, d: Shapes) -> tuple[Any, int, dict[str, Any], str] | None:
    """A model of one node in float32, its operator set, its inputs' arrays, and the one that moves."""
    opset = d.choice(list(versions(operator)))
    arguments = _arguments(operator, d)
    values, attributes = given(operator, opset, arguments)
    arrays: dict[str, Any] = {}
    names = []
    moving = ""
    for each, value in zip(onnx.defs.get_schema(operator, opset).inputs, values, strict=False):
        names.append("" if value is None else each.name)
        if isinstance(value, Slot):
            moving = each.name
            value = 3 * numbers(d, value.shape)
        if value is not None:
            whole = np.asarray(value).dtype.kind in "iu"
            arrays[each.name] = np.asarray(value) if whole else np.asarray(value, np.float32)
    while not names[-1]:
        names.pop()
    if not moving:
        return None
    node = helper.make_node(operator, names, ["y"], **attributes)
    stored = {name: array for name, array in arrays.items() if name != moving}
    return single([node], arrays[moving].shape, stored, opset=opset, inputs=[moving]), opset, arrays, moving


def _arguments(operator: str, d: Shapes) -> Arguments:
    """SAME padding with dilations, too, which other tests leave out."""
    found = DRAWS[operator](d)
    if "dilations" in found and str(found["auto_pad"]).startswith("SAME"):
        found["dilations"] = d.choice([None, [d.randint(1, 3) for _ in found["kernel_shape"] or found["W"].shape[2:]]])
    return found


def _rounding(operator: str, arrays: dict[str, Any]) -> float:
    """What float32 may make of sums that cancel: a norm multiplies it by up to 1 / sqrt(epsilon)."""
    sizes = [np.abs(array).max(initial=1.0) for name, array in arrays.items() if array.dtype == np.float32]
    return float(2**-21 * np.prod(sizes) * 1e-5**-0.5) if operator.endswith("Normalization") else 1e-4


@by_operator(OPERATORS)
def test_values_are_those_of_onnx_runtime(request: pytest.FixtureRequest) -> None:
    """Of every node that is read: by the evaluator and by the graph, wherever these compute it."""
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    found = Counter[str]()

    def compare(operator: str, d: Shapes) -> None:
        made = drawn(operator, d)
        if made is None:
            return
        model, opset, arrays, moving = made
        data = model.SerializeToString()
        graph = read(io.BytesIO(data), "m.onnx", 10**7).graph(None)
        if any(isinstance(node.operator, Unknown) for node in graph.nodes):
            found["refused"] += 1
            return
        try:
            session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            truth = session.run(None, {moving: arrays[moving]})[0]
        except Exception:  # whatever ONNX Runtime raises for what it does not support
            found["not run"] += 1
            return
        *_, (_, computed) = run_with_errors(graph, {moving: arrays[moving]})
        values = [] if computed is None else [computed.value]
        with suppress(Exception):  # whatever the evaluator raises for what it does not support
            node = model.graph.node[0]
            values += evaluate(node, opset, [arrays.get(name) for name in node.input])[:1]
        for value in values:
            told = f"{operator} {opset}, {[array.shape for array in arrays.values()]}: {node}"
            assert value.shape == truth.shape, told
            np.testing.assert_allclose(value, truth, rtol=1e-4, atol=_rounding(operator, arrays), err_msg=told)
        found[operator] += len(values)

    chosen = asked(OPERATORS, request)
    for operator in chosen:
        examples(partial(compare, operator), COUNT // len(chosen), operator)
    print(dict(found))  # noqa: T201 - shown by `pytest -rP`
    assert [name for name in chosen if not found[name]] == []
