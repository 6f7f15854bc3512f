"""Bound the network of a model file, with the norms of layers that were measured before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from specnorm_networks import Layer as GraphLayer
from specnorm_networks import within
from specnorm_networks.model_arrays import ModelArrays, Sizes
from specnorm_networks.tools import Measure, NetworkBound, UnknownNode, bound

from specnorm import ConvSpec, SpecnormError
from specnorm.errors import GeometryError, MethodError, ModelFileError
from specnorm.proof import Upper
from specnorm_audit.rows import Row
from specnorm_audit.streams import Tick


def ask(
    model: ModelArrays,
    seconds: float | None,
    function: Callable[..., Any],
    *arguments: Any,
    progress: Tick | None = None,
) -> Any:
    """Call `ModelArrays.ask`; errors that libraries raise for a damaged graph become a `ModelFileError`."""
    try:
        return model.ask(seconds, function, *arguments, progress=progress)
    except SpecnormError:
        raise
    except Exception as error:
        raise ModelFileError(f"its graph cannot be read: {type(error).__name__}: {error}") from error


def network_of(
    model: ModelArrays,
    rows: Sequence[Row],
    input_shape: Sizes,
    *,
    input_range: tuple[float, float] | None,
    budget: float | None,
    progress: Tick | None,
    seconds: float | None,
) -> NetworkBound:
    """Bound the network of a model with a graph, in the process that has its file open.

    The upper bounds of ``rows`` are used for layers of the same geometry. ``budget``: as for `network_bound`, whose
    method is used. ``seconds`` limits the processor time in a
    process that reads files. An error of the graph becomes the reason of an unknown network; only wrong shapes of its
    inputs raise.
    """
    try:
        answer: NetworkBound = ask(
            model, seconds, _bounded, tuple(rows), input_shape, input_range, budget, progress=progress
        )
    except GeometryError as error:
        raise GeometryError(f"{error} Layers that are chosen by name are measured alone.") from error
    except SpecnormError as error:
        return NetworkBound(None, {}, (), (UnknownNode("graph", "Graph", str(error)),), {})
    return answer


def _bounded(
    model: ModelArrays,
    rows: Sequence[Row],
    input_shape: Sizes,
    input_range: tuple[float, float] | None,
    budget: float | None,
    progress: Tick | None = None,
) -> NetworkBound:
    """Bound the network, in the process that has the file open."""
    measured = {(row.name, _key(row.spec)): row for row in rows if row.status == "ok"}
    stored = {tensor.name: tensor for tensor in model.arrays}

    def claim_of_row(layer: GraphLayer, spec: ConvSpec) -> Upper | None:
        row = measured.get((layer.name, _key(spec)))
        tensor = stored.get(layer.name)
        if row is None or row.claim is None:
            return None
        # Names are not unique: the row's kernel has to be the layer's.
        if tensor is None or not np.array_equal(np.asarray(tensor.load()), np.asarray(layer.load())):
            return None
        # A column without a claim may have proven a smaller bound: then the layer is measured again.
        return row.claim if row.claim <= row.upper else None

    graph = model.graph(input_shape)
    if input_range is not None:
        graph = within(graph, *input_range)
    if not (graph.inputs and graph.outputs):
        raise MethodError("no output of the graph depends on a floating input")
    return bound(graph, Measure(known=claim_of_row), budget=budget, progress=progress)


def _key(spec: ConvSpec) -> ConvSpec | None:
    """Return the part of a geometry on which a norm depends; None for a matrix, whose transpose has the same norm."""
    return replace(spec, layout=None) if spec.ndim else None
