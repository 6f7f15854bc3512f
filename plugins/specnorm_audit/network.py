"""The network of a model file -> its bound, from the rows that were measured already."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from specnorm_networks import (
    Graph,
    Layer,
    Measure,
    Multipliers,
    NetworkBound,
    Product,
    UnknownNode,
    bound,
    forward_step,
    within,
)
from specnorm_networks.certified.operators.pointwise import HINT
from specnorm_networks.certified.shapes import concrete
from specnorm_networks.measuring import heuristic
from specnorm_networks.model_arrays import ModelArrays, Sizes

from specnorm.certified.bound import Upper
from specnorm.errors import GeometryError, MethodError, ModelFileError
from specnorm.problem.spec import ConvSpec
from specnorm.text import number, visible
from specnorm.types import AnyArray
from specnorm_audit.readers.isolated import GRAPH_SECONDS
from specnorm_audit.rows import Row

_TRIED = 2**18
"""Most entries of all values of a network that is tried on a range that nobody has stated."""
Near: TypeAlias = tuple[float | None, AnyArray | Mapping[str, AnyArray] | None]
"""A radius, and the network's input, or each of them by name."""
QUICK = Multipliers(steps=50, seconds=3.0, widest=64)
"""The network's method in an audit, whose layers take about as long."""


def network_of(
    model: ModelArrays,
    rows: Sequence[Row],
    input_shape: Sizes,
    *,
    input_range: tuple[float, float] | None = None,
    near: Near | None = None,
    residual: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    seconds: float | None = GRAPH_SECONDS,
) -> NetworkBound | None:
    """Bound the network f of a model, or (``residual``) what it leaves of its input, x - f(x), where its file is open.

    The upper bounds of measured ``rows`` are used where the geometry is the same. ``input_shape`` are sizes for axes
    that the file leaves open; ``input_range`` between which all entries of the inputs lie; ``near`` a radius and the
    input around which; ``seconds`` of processor time, at most, in a process that reads the file. None: the file holds
    no graph. Whatever goes wrong with the graph leaves the rows as they are, but for shapes that are not its inputs'.
    """
    if model.network is None:
        return None
    try:
        asked = (_bounded, tuple(rows), input_shape, input_range, near, residual)
        found: NetworkBound = model.ask(seconds, *asked, progress=progress)
    except ModelFileError as error:
        return _without(f"bounding the network: {error}")
    return found


def _bounded(
    model: ModelArrays,
    rows: Sequence[Row],
    input_shape: Sizes,
    input_range: tuple[float, float] | None,
    near: Near | None,
    residual: bool,
    progress: Callable[[int, int, str], None] | None = None,
) -> NetworkBound:
    """`network_of` in the process that has the file open."""
    measured = {(row.name, _key(row.spec)): row for row in rows if row.status == "ok" and row.spec is not None}
    stored = {tensor.name: tensor for tensor in model.arrays}

    def known(layer: Layer, spec: ConvSpec) -> tuple[Upper, float] | None:
        row, tensor = measured.get((layer.name, _key(spec))), stored.get(layer.name)
        if row is None or row.upper is None or row.claim is None or row.spec is None:
            return None
        # Names are for people: the kernel itself is the one that was measured.
        if tensor is None or not np.array_equal(kernel := np.asarray(tensor.load()), np.asarray(layer.load())):
            return None
        # Where a column that makes no claim has proven less, the layer is measured once more.
        return (row.claim, heuristic(kernel, row.spec)) if row.claim <= row.upper else None

    try:
        radius, centre = (None, None) if near is None else (near[0], _by_name(model, near[1]))
        shapes = input_shape if centre is None else {name: x.shape for name, x in centre.items()}
        graph = _in_range(model.graph(shapes), input_range)
        if graph.inputs and graph.outputs:
            method, asked = replace(QUICK, progress=progress), forward_step(graph) if residual else graph
            measure = Measure(known=known)
            found = bound(asked, measure, method=method, radius=radius, centre=centre)
            return found if input_range or near else replace(found, note=_opened(found, asked, measure))
        reason = "no output of the graph depends on a floating input"
    except GeometryError:
        raise
    except MethodError as error:
        reason = str(error)
    except MemoryError as error:
        reason = f"bounding the network takes more memory than its limit: {error}"
    except Exception as error:  # a damaged graph must not lose the rows
        reason = f"the graph cannot be followed: {type(error).__name__}: {error}"
    return _without(reason)


def _opened(found: NetworkBound, graph: Graph, measure: Measure) -> str:
    """What the range of an image would open, where products and the like have no constant; what was said, else."""
    waiting = {node.name: node for node in found.unknown if HINT in node.reason}
    entries = sum(math.prod(concrete(node.shape) or ()) for node in graph.nodes)
    if not waiting or entries > _TRIED:
        return found.note
    try:
        there = bound(within(graph, 0.0, 1.0), measure, method=Product(), check=False)
    except Exception:  # nobody asked for it
        return found.note
    left = {node.name for node in there.unknown}
    names = [f"{visible(name)} ({visible(node.operator)})" for name, node in waiting.items() if name not in left]
    if not names:
        return found.note
    rest = "" if there.upper is None else f"; the network's constant is then at most {number(there.upper, 'upper')}"
    told = f"--input-range 0 1, for inputs between 0 and 1 as images are, opens {', '.join(names)}{rest}."
    return f"{found.note} {told}".strip()


def _by_name(model: ModelArrays, centre: Any) -> dict[str, Any]:
    """A centre's arrays by the names of the network's inputs."""
    if isinstance(centre, Mapping):
        return {name: np.asarray(x, dtype=np.float64) for name, x in centre.items()}
    names = model.graph(None).inputs
    if len(names) != 1:
        raise GeometryError(
            f"The network has {len(names)} inputs, {', '.join(names)}: give the centre of each by name."
        )
    return {names[0]: np.asarray(centre, dtype=np.float64)}


def _without(reason: str) -> NetworkBound:
    """What is said where there is no bound."""
    return NetworkBound(None, None, {}, (), (UnknownNode("graph", "Graph", reason),), {})


def _in_range(graph: Graph, input_range: tuple[float, float] | None) -> Graph:
    return graph if input_range is None else within(graph, *input_range)


def _key(spec: ConvSpec) -> ConvSpec | None:
    """What a norm depends on: of a matrix nothing, since its transpose has the same."""
    return replace(spec, layout=None) if spec.ndim else None
