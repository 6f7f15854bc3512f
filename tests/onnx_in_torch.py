"""An ONNX model's operators in torch, a few of them: so that a published file has gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor


def attributes(node: Any) -> Any:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def run_onnx(proto: Any, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """All outputs as one vector, for one sample."""
    values: dict[str, Any] = {}
    for tensor in proto.graph.initializer:
        held = torch.tensor(numpy_helper.to_array(tensor))
        values[tensor.name] = held.to(dtype) if held.is_floating_point() else held
    values["input"] = x
    for node in proto.graph.node:
        given: Any = [values[name] for name in node.input]
        a = attributes(node)
        if node.op_type == "Conv":
            assert a["pads"][:2] == a["pads"][2:]
            y: Any = F.conv2d(
                given[0], given[1], given[2], a["strides"], a["pads"][:2], a["dilations"], int(a["group"])
            )
        elif node.op_type == "Concat":
            y = torch.cat(given, a["axis"])
        elif node.op_type == "Softmax":
            y = torch.softmax(given[0], a["axis"])
        elif node.op_type == "Transpose":
            y = given[0].permute(a["perm"])
        elif node.op_type == "Relu":
            y = given[0].relu()
        elif node.op_type == "Add":
            y = given[0] + given[1]
        else:
            assert node.op_type == "Reshape"
            y = given[0].reshape(given[1].tolist())
        values[node.output[0]] = y
    whole: Tensor = torch.cat([values[o.name].flatten() for o in proto.graph.output])
    return whole
