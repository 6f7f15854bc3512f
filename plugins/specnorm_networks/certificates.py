"""The claim about a network that somebody else checks: parts, each with the kernel H that proves it.

Each layer is a part by itself; where multipliers are known for layers in a row, these are one. What is proven of them
is put together by ``specnorm_check``, which shares no code with this package. Nothing here is trusted.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from specnorm_check import LAYER_OPERATORS, Claim, Network, Refused, float_up
from specnorm_check import Part as ReadPart

from specnorm.errors import CertificateError
from specnorm_networks.answer import NetworkBound, RunBound, Weighted
from specnorm_networks.layer_certificates import Certificate, completed

AIM = 0.008
LEAST = 1e-3
CLOSE = 2.5e-4
OFF = 2.0**-48
"""Relative distances from norms, of all layers together, of one at least, of a matrix; and what is counted for
roundings of a kernel's entries."""
WIDEST = 640
"""Channels on the smaller side of a kernel of several layers: a search of that many takes minutes and 1.5 GB."""
Part = dict[str, Any]


def certificate_of_network(
    found: NetworkBound,
    content: bytes,
    name: str,
    *,
    exported: bool = False,
) -> Certificate:
    """The claim about a network's constant, everywhere.

    Parameters
    ----------
    found : NetworkBound
        With the multipliers that are put into it.
    content : bytes
        Of the ONNX file.
    name : str
        Of the claim.
    exported : bool
        Whether the file is to be written beside the certificate.

    Raises
    ------
    CertificateError
        If the format has no claim about such a network.
    """
    shapes = list(found.input_shapes.values())
    if len(shapes) != 1 or shapes[0] is None:
        raise CertificateError("no claim about it can be made: it has not one input of a known shape.")
    shape = [*shapes[0]]
    try:
        content = _of_fixed_size(content, shape) if exported else content
        network = Network(content, shape)
        parts, completions = _parts(network, [*found.runs, *found.others])
        upper = float_up(network.constant([ReadPart.read(part) for part in parts], completions))
    except (Refused, OverflowError) as error:
        raise CertificateError(f"no claim about it can be made: {error}.") from error
    statement = {
        "name": name, "sha256": hashlib.sha256(content).hexdigest(), "input_shape": shape, "upper": upper.hex(),
        "parts": parts,
    }  # fmt: skip
    return Certificate((Claim(statement, completions),), content if exported else b"")


def _of_fixed_size(content: bytes, shape: Sequence[int]) -> bytes:
    """A file with the input's sizes in it, and what is computed from these alone."""
    try:
        from onnxscript import ir, optimizer
    except ModuleNotFoundError:
        return content
    from onnx import ModelProto

    model = ModelProto.FromString(content)
    for dim, n in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = n
    del model.graph.value_info[:]
    for one in model.graph.output:
        one.type.tensor_type.ClearField("shape")
    whole = ir.from_proto(model)
    optimizer.fold_constants(whole, onnx_shape_inference=True)
    optimizer.remove_unused_nodes(whole)
    written: bytes = ir.to_proto(whole).SerializeToString()
    return written


def _parts(network: Network, runs: Sequence[RunBound]) -> tuple[list[Part], list[Any]]:
    """Parts in the order of the graph, and their H: layers together where that proves less."""
    order = list(network.nodes)
    chosen = [_proven(network, part) for part in _layers(network)]
    for run in runs:
        if run.weighted is None:
            continue
        try:
            joint = [_proven(network, part) for part in _of_run(network, run.start, run.weighted)]
        except (Refused, KeyError, ValueError):
            continue  # the format has no such part: its layers stay by themselves
        inner = set(_between(network, run.start, run.end))
        rest = [(part, h) for part, h in chosen if part["values"][-1] not in inner]
        both = sorted([*rest, *joint], key=lambda one: order.index(one[0]["values"][-1]))
        if _constant(network, both) < _constant(network, chosen):
            chosen = both
    return [part for part, _ in chosen], [h for _, h in chosen]


def _constant(network: Network, parts: Sequence[tuple[Part, Any]]) -> float:
    try:
        return float(network.constant([ReadPart.read(part) for part, _ in parts], [h for _, h in parts]))
    except Refused:
        return math.inf


def _between(network: Network, start: str, end: str) -> Iterator[str]:
    """Values that the end is computed from, back to the start, and the end."""
    waiting = [end]
    seen = {start}
    while waiting:
        name = waiting.pop()
        if name not in seen and name in network.nodes:
            seen.add(name)
            waiting += network.nodes[name].inputs
            yield name


def _layers(network: Network) -> Iterator[Part]:
    """Every layer, with the normalisation after it where nothing else reads it."""
    readers: dict[str, list[str]] = {}
    for name, node in network.nodes.items():
        for one in node.inputs:
            readers.setdefault(one, []).append(name)
    for name, node in network.nodes.items():
        if node.op not in LAYER_OPERATORS:
            continue
        end = name
        (after, *others) = readers.get(name, [""])
        if after and not others and name not in network.ends and network.nodes[after].op == "BatchNormalization":
            end = after
        yield _part([node.inputs[0], end], [])


def _of_run(network: Network, start: str, found: Weighted) -> Iterator[Part]:
    """Parts of layers in a row, cut so that each can be completed."""
    values = [start, *(_unflattened(network, value) for value in found.values)]
    channels = network.shapes[start][1]
    weights = [np.ones(channels), *found.weights]
    cuts = [*found.starts, len(found.values)]
    for first, last in itertools.pairwise(cuts):
        while first < last:
            end = last
            while True:
                part = _part(values[first : end + 1], weights[first : end + 1])
                kernel = network.joint(ReadPart.read(part)).kernel
                if end == first + 1 or math.prod(kernel.shape[2:]) == 1 or min(kernel.shape[:2]) <= WIDEST:
                    break
                end -= 1
            yield part
            first = end


def _part(values: Sequence[str], weights: Sequence[Any]) -> Part:
    """Return a part at every size, whose H is still searched for."""
    texts = [[float(x).hex() for x in q] for q in weights]
    return {"values": [*values], "weights": texts, "sizes": "every", "exponent": 0, "completion": ""}


def _unflattened(network: Network, value: str) -> str:
    """What a value of features was before: multipliers are of its channels."""
    node = network.nodes[value]
    return _unflattened(network, node.inputs[0]) if node.op in {"Flatten", "Reshape"} else value


def _proven(network: Network, part: Part) -> tuple[Part, Any]:
    """A part with the exponent of its H; and H."""
    whole = network.joint(ReadPart.read(part))
    layers = sum(node.op in LAYER_OPERATORS for node in network.nodes.values())
    matrix = math.prod(whole.kernel.shape[2:]) == 1
    lost = 3 * whole.depth if whole.centred else 1
    aim = CLOSE / lost if matrix else max(AIM / max(layers, lost), LEAST)
    own: Any = ()
    with contextlib.suppress(Refused):
        own = network.joint(ReadPart.read({**part, "sizes": "own"})).layer.sizes or ()
    found = completed(whole.kernel, whole.layer, own, aim, OFF)
    sizes = "own" if found.at_size else "every"
    return {**part, "sizes": sizes, "exponent": found.exponent}, found.completion
