"""The claim that labels stay, which somebody else checks: slopes, multipliers and cuts that a search found.

Nothing here is trusted: `certified.network.labels` proves what is stated, once before it is written.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.backends import backend_for
from specnorm.certified.network import boxes
from specnorm.certified.network.graph import Graph
from specnorm.certified.network.labels import Stated, digest_of, network_of, radius_as_stated
from specnorm.certified.network.operators.base import FloatArray
from specnorm.certified.network.operators.sources import Input
from specnorm.certified.network.stated import Part, digests_of
from specnorm.errors import CertificateError
from specnorm.networks.certificate import stated_layers
from specnorm.networks.linear import Ascent
from specnorm.networks.margins import Margins
from specnorm.networks.measuring import Measure
from specnorm.networks.radii import Radii
from specnorm.result import Certificate
from specnorm.runtime.execution import Execution

SLACK = 1e-9
"""By how much a difference of logits is more than 0, as a part of the largest logit: where it is proven again, sums are
made in another order."""


def labels_claim(
    graph: Graph,
    x: FloatArray,
    y: NDArray[np.integer],
    radius: Sequence[float],
    known: Margins,
    measure: Measure,
    budget: float | None,
) -> Certificate:
    """The claim that no input in the ball around a sample has another label, for all samples of which it is proven.

    Parameters
    ----------
    graph : Graph
        Read from an ONNX file, perhaps with `boxes.within`.
    x : array, shape (samples, ...)
    y : array of int, shape (samples,)
    radius : sequence of float
        That was proven; negative for samples that are left out.

    Raises
    ------
    CertificateError
        If the format has no proof for such a network, or there is no sample; the message says so.
    """
    between = _range(graph)
    graph = replace(graph, nodes=tuple(_unboxed(node) for node in graph.nodes))
    tensors, said = digests_of(graph), stated_layers(graph, measure)
    ops = Execution.of(backend_for(x), x)
    of = Radii(graph if between is None else boxes.within(graph, *between), known, measure, budget)
    of.network = network_of(graph, [_part(each) for each in said], between, ops=ops)
    samples = []
    for sample, label, most in zip(x, y.tolist(), radius, strict=True):
        found = None if most < 0 else _sample(of, sample.reshape(of.shape), label, most)
        samples += [] if found is None else [found]
    if not samples:
        raise CertificateError("no label is proven to stay by linear bounds.")
    claim = {
        "claim": "labels",
        "name": "labels",
        "input_shape": list(of.shape),
        "input_range": None if between is None else [end.hex() for end in between],
        "tensors": tensors,
        "parts": said,
        "samples": samples,
    }
    return Certificate((claim,))


def _range(graph: Graph) -> tuple[float, float] | None:
    found = boxes.stated(graph)
    if any(ends is None or not math.isfinite(ends[0] + ends[1]) for ends in found.values()):
        raise CertificateError("a range of inputs has a place in the file if it is that of every entry, and finite.")
    return next(iter(found.values()), None)


def _unboxed(node: Any) -> Any:
    boxed = isinstance(node.operator, Input) and node.operator.low is not None
    return replace(node, operator=Input()) if boxed else node


def _part(said: dict[str, Any]) -> Part:
    weights = tuple(np.array([float.fromhex(number) for number in each]) for each in said["weights"])
    upper = float.fromhex(said["upper"])
    return Part(said["start"], tuple(said["values"]), weights, upper, said["proof"], said["units"])


def _sample(of: Radii, x: FloatArray, label: int, radius: float) -> dict[str, Any] | None:
    """What proves one label, proven; None where nothing does."""
    found = of.parts(x, label, radius, SLACK * float(np.max(abs(of.logits(x).magnitude()), initial=1.0)))
    if found is None:
        return None
    tree = {id(each): each for leaf in found for each in _with_ancestors(leaf)}
    others = np.delete(np.arange(of.classes), label)
    stated = [Stated(each.bounds.cuts, others[rows], lines) for each in tree.values() for rows, lines in each.proved]
    for anew in (True,) if stated else (False, True):
        try:
            radius_as_stated(of.network, x, label, radius, stated, anew=anew)
        except CertificateError:
            continue
        proof = [_said(each) for each in stated]
        return {"sha256": digest_of(x), "label": label, "radius": radius.hex(), "anew": anew, "proof": proof}
    return None


def _with_ancestors(leaf: Ascent) -> Iterator[Ascent]:
    before: Ascent | None = leaf
    while before is not None:
        yield before
        before = before.before


def _said(stated: Stated) -> dict[str, Any]:
    lines = [
        {
            "value": name,
            "at": each.at.tolist(),
            "shares": base64.b64encode(each.shares.astype(">u4").view("u1").reshape(-1, 4)[:, 1:].tobytes()).decode(),
            "multipliers": [float(number).hex() for number in each.multipliers],
        }
        for name, each in stated.lines.items()
    ]
    cuts = [[name, int(at), int(above)] for name, at, above in stated.cuts]
    return {"cuts": cuts, "others": stated.others.tolist(), "lines": lines}
