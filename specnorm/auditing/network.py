"""The network of a model file -> its bound, from the rows that were measured already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from specnorm.auditing.layers import ModelArrays, Sizes
from specnorm.auditing.readers.isolated import GRAPH_SECONDS
from specnorm.auditing.rows import Row
from specnorm.certified.bound import Upper
from specnorm.errors import CertificateError, MethodError, ModelFileError
from specnorm.networks import (
    Graph,
    Layer,
    Measure,
    Multipliers,
    NetworkBound,
    UnknownNode,
    bound,
    step,
    within,
)
from specnorm.networks.certificate import unstated
from specnorm.problem.spec import ConvSpec

QUICK = Multipliers(steps=20, seconds=3.0, widest=64)
"""The network's method in an audit, whose layers take about as long."""


def network_of(
    model: ModelArrays,
    rows: Sequence[Row],
    input_shape: Sizes,
    *,
    input_range: tuple[float, float] | None = None,
    residual: bool = False,
    certificate: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    seconds: float | None = GRAPH_SECONDS,
) -> NetworkBound | None:
    """Bound the network f of a model, or (``residual``) what it leaves of its input, x - f(x), where its file is open.

    The upper bounds of measured ``rows`` are used where the geometry is the same. ``input_shape`` are sizes for axes
    that the file leaves open; ``input_range`` between which all entries of the inputs lie; ``seconds`` of processor
    time, at most, in a process that reads the file; ``certificate`` makes the bound's, or keeps why it has none, in as
    many again. None: the file holds no graph. Whatever goes wrong with the graph leaves the rows as they are.
    """
    if model.network is None:
        return None
    try:
        asked = (_bounded, tuple(rows), input_shape, input_range, residual)
        found: NetworkBound = model.ask(seconds, *asked, progress=progress)
    except ModelFileError as error:
        return _without(f"bounding the network: {error}")
    if not certificate or found.upper is None:
        return found
    try:
        stated: NetworkBound = model.ask(seconds, _stated)
        return stated
    except ModelFileError as error:
        return replace(found, statement=partial(unstated, str(error)))


def _bounded(
    model: ModelArrays,
    rows: Sequence[Row],
    input_shape: Sizes,
    input_range: tuple[float, float] | None,
    residual: bool,
    progress: Callable[[int, int, str], None] | None = None,
) -> NetworkBound:
    """`network_of` in the process that has the file open."""
    measured = {(row.name, _key(row.spec)): row for row in rows if row.status == "ok" and row.spec is not None}
    stored = {tensor.name: tensor for tensor in model.arrays}

    def known(layer: Layer, spec: ConvSpec) -> tuple[Upper, float] | None:
        row, tensor = measured.get((layer.name, _key(spec))), stored.get(layer.name)
        heuristic = row.values.get("reshaped") if row is not None else None
        if row is None or row.upper is None or row.claim is None or not isinstance(heuristic, float):
            return None
        # Names are for people: the kernel itself is the one that was measured.
        if tensor is None or not np.array_equal(np.asarray(tensor.load()), np.asarray(layer.load())):
            return None
        # Where a column that makes no claim has proven less, the layer is measured once more.
        return (row.claim, heuristic) if row.claim <= row.upper else None

    try:
        graph = _in_range(model.graph(input_shape), input_range)
        if graph.inputs and graph.outputs:
            method = replace(QUICK, progress=progress)
            _last[:] = [bound(step(graph) if residual else graph, Measure(known=known), method=method)]
            return _last[0]
        reason = "no output of the graph depends on a floating input"
    except MethodError as error:
        reason = str(error)
    except MemoryError as error:
        reason = f"bounding the network takes more memory than its limit: {error}"
    except Exception as error:  # a damaged graph must not lose the rows
        reason = f"the graph cannot be followed: {type(error).__name__}: {error}"
    return _without(reason)


_last: list[NetworkBound] = []
"""What was bounded in this process."""


def _stated(model: ModelArrays) -> NetworkBound:
    """The last bound with its certificate, or with the reason why it has none."""
    del model
    found = _last.pop()
    try:
        found.certificate  # noqa: B018 - it is kept
    except CertificateError as error:
        return replace(found, statement=partial(unstated, str(error)))
    return found


def _without(reason: str) -> NetworkBound:
    """What is said where there is no bound."""
    return NetworkBound(None, None, {}, (), (UnknownNode("graph", "Graph", reason),), {})


def _in_range(graph: Graph, input_range: tuple[float, float] | None) -> Graph:
    return graph if input_range is None else within(graph, *input_range)


def _key(spec: ConvSpec) -> ConvSpec | None:
    """What a norm depends on: of a matrix nothing, since its transpose has the same."""
    return replace(spec, layout=None) if spec.ndim else None
