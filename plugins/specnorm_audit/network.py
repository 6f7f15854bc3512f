"""The network of a model file -> its bound, from the rows that were measured already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from specnorm_networks import Layer, Multipliers, within
from specnorm_networks.tools import Measure, ModelArrays, NetworkBound, Sizes, UnknownNode, bound

from specnorm import ConvSpec, SpecnormError
from specnorm.errors import GeometryError, MethodError, ModelFileError
from specnorm.proof import Upper
from specnorm_audit.output import Tick
from specnorm_audit.readers.isolated import GRAPH_SECONDS
from specnorm_audit.rows import Row

QUICK = Multipliers(steps=50, seconds=3.0, widest=64)
"""The network's method in an audit, whose layers take about as long."""


def ask(
    model: ModelArrays,
    seconds: float | None,
    function: Callable[..., Any],
    *arguments: Any,
    progress: Tick | None = None,
) -> Any:
    """`ModelArrays.ask`; what a damaged graph makes a library raise is a `ModelFileError`."""
    try:
        return model.ask(seconds, function, *arguments, progress=progress)
    except SpecnormError:
        raise
    except Exception as error:
        raise ModelFileError(f"its graph cannot be followed: {type(error).__name__}: {error}") from error


def network_of(
    model: ModelArrays,
    rows: Sequence[Row],
    input_shape: Sizes,
    *,
    input_range: tuple[float, float] | None = None,
    progress: Tick | None = None,
    seconds: float | None = GRAPH_SECONDS,
) -> NetworkBound | None:
    """Bound the network of a model where its file is open.

    The upper bounds of measured ``rows`` are used where the geometry is the same. ``seconds`` of processor time, at
    most, in a process that reads the file. None: the file holds no graph. Whatever goes wrong with the graph leaves the
    rows as they are, but for shapes that are not its inputs'.
    """
    if model.network is None:
        return None
    try:
        found: NetworkBound = ask(model, seconds, _bounded, tuple(rows), input_shape, input_range, progress=progress)
    except GeometryError:
        raise
    except SpecnormError as error:
        return NetworkBound(None, {}, (), (UnknownNode("graph", "Graph", str(error)),), {})
    return found


def _bounded(
    model: ModelArrays,
    rows: Sequence[Row],
    input_shape: Sizes,
    input_range: tuple[float, float] | None,
    progress: Tick | None = None,
) -> NetworkBound:
    """`network_of` in the process that has the file open."""
    measured = {(row.name, _key(row.spec)): row for row in rows if row.status == "ok" and row.spec is not None}
    stored = {tensor.name: tensor for tensor in model.arrays}

    def known(layer: Layer, spec: ConvSpec) -> Upper | None:
        row, tensor = measured.get((layer.name, _key(spec))), stored.get(layer.name)
        if row is None or row.upper is None or row.claim is None or row.spec is None:
            return None
        # Names are for people: the kernel itself is the one that was measured.
        if tensor is None or not np.array_equal(np.asarray(tensor.load()), np.asarray(layer.load())):
            return None
        # Where a column that makes no claim has proven less, the layer is measured once more.
        return row.claim if row.claim <= row.upper else None

    graph = model.graph(input_shape)
    graph = graph if input_range is None else within(graph, *input_range)
    if not (graph.inputs and graph.outputs):
        raise MethodError("no output of the graph depends on a floating input")
    return bound(graph, Measure(known=known), method=replace(QUICK, progress=progress))


def _key(spec: ConvSpec) -> ConvSpec | None:
    """What a norm depends on: of a matrix nothing, since its transpose has the same."""
    return replace(spec, layout=None) if spec.ndim else None
