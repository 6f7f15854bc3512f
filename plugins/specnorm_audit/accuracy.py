"""A classifier's ONNX file and a file of samples -> how far the label of each is proven to stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from specnorm_networks import Graph, ModelArrays, Multipliers, certified_accuracy, moved_up, within

from specnorm import GeometryError, MethodError, ModelFileError, SpecnormError
from specnorm.proof import AnyArray
from specnorm_audit.measuring import checked_range
from specnorm_audit.output import Tick
from specnorm_audit.readers import MAX_BYTES, open_model
from specnorm_audit.readers.isolated import GRAPH_SECONDS

SAMPLE_SECONDS = 60.0
"""Processor time that a sample may take at each radius, unless a budget is given; in a process that reads the file."""
Status = Literal["safe", "unsafe", "open"]


@dataclass(frozen=True)
class Sample:
    """What is known of one sample.

    ``predicted`` and ``margin`` (the label's logit less the largest other one) are computed in float64; None where an
    operator cannot be executed here. ``radius`` is proven in the 2-norm: no nearer input has another label.
    ``attacked`` is the distance of an input with another label, at most; None: none was found. ``status`` is at each
    radius.
    """

    label: int
    predicted: int | None
    margin: float | None
    radius: float
    attacked: float | None
    status: tuple[Status, ...]


@dataclass(frozen=True)
class Accuracy:
    """Samples of a file, each with what is known of its label at each of ``radii``, which ascend."""

    model: str
    data: str
    radii: tuple[float, ...]
    samples: tuple[Sample, ...]
    input_range: tuple[float, float] | None = None
    budget: float | None = None
    execution: str | None = None

    def count(self, status: Status) -> tuple[int, ...]:
        """Samples of that status at each radius."""
        return tuple(sum(sample.status[at] == status for sample in self.samples) for at in range(len(self.radii)))


def certified(
    model: str,
    data: str,
    radii: Sequence[float],
    *,
    input_range: tuple[float, float] | None = None,
    budget: float | None = None,
    execution: str | None = None,
    max_bytes: int = MAX_BYTES,
    progress: Tick | None = None,
) -> Accuracy:
    """`specnorm_networks.certified_accuracy` with ``local=True``, of files."""
    x, y = samples_of(data, max_bytes, checked_range(input_range))
    asked = tuple(sorted(set(map(float, radii))))
    seconds = GRAPH_SECONDS + len(x) * len(asked) * (SAMPLE_SECONDS if budget is None else 10 * budget)
    with open_model(model, max_bytes) as found:
        if found.network is None:
            raise ModelFileError(f"{model} holds weights and no graph: give the ONNX file of the network.")
        limit = seconds if seconds < 1e9 else None
        given = (asked, input_range, budget, execution)
        try:
            samples = found.ask(limit, _certified, x, y, *given, progress=progress)
        except (ModelFileError, MethodError, GeometryError) as error:
            raise type(error)(f"{model}: {error}") from error
    return Accuracy(model, data, asked, tuple(samples), input_range, budget, execution)


def samples_of(
    path: str, max_bytes: int = MAX_BYTES, input_range: tuple[float, float] | None = None
) -> tuple[AnyArray, AnyArray]:
    """The arrays x (samples, ...) and y (labels)."""
    with open_model(path, max_bytes) as found:
        try:
            x, y = (np.asarray(found.array(name)) for name in ("x", "y"))
        except LookupError as error:
            names = ", ".join(tensor.name for tensor in found.arrays[:8]) or "no array"
            raise ModelFileError(f"{path} holds {names}; expected the arrays x (samples) and y (labels).") from error
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {error}") from error
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise ModelFileError(f"{path}: y has shape {y.shape} of {y.dtype}; expected one whole number a sample.")
    if x.ndim < 2 or len(x) != len(y):
        raise ModelFileError(f"{path}: x has shape {x.shape} and y {y.shape}; expected (samples, ...) and (samples,).")
    if not x.size:
        raise ModelFileError(f"{path}: x of shape {x.shape} has no entries.")
    if x.dtype.kind not in "fiu" or (x.dtype.kind == "f" and x.dtype.itemsize > np.dtype(np.float64).itemsize):
        raise ModelFileError(f"{path}: x is of {x.dtype}; expected float16, float32, float64 or integers.")
    if not (np.isfinite(x).all() and (x.dtype.kind == "f" or -(2**53) <= x.min() <= x.max() <= 2**53)):
        raise ModelFileError(f"{path}: x holds NaN, infinity, or integers beyond 2**53; expected numbers of float64.")
    low, high = (-math.inf, math.inf) if input_range is None else input_range
    flat = x.reshape(len(x), -1)
    outside = np.flatnonzero((flat.min(axis=1) < low) | (flat.max(axis=1) > high))
    if len(outside):
        raise MethodError(
            f"{path}: sample {outside[0]} has entries from {flat[outside[0]].min():g} to {flat[outside[0]].max():g}, "
            f"outside of the input range {low:g} to {high:g}: give the range of the data as the network takes it."
        )
    return x, y


# -- where the model's file is open ------------------------------------------------------------------------------------
def _certified(
    model: ModelArrays,
    x: AnyArray,
    y: AnyArray,
    radii: tuple[float, ...],
    input_range: tuple[float, float] | None,
    budget: float | None,
    execution: str | None,
    progress: Tick | None = None,
) -> list[Sample]:
    try:
        graph, shape = _network(model, x.shape[1:])
        graph = graph if input_range is None else within(graph, *input_range)
        x = x.reshape(len(x), *shape).astype(np.float64)

        def tick(done: int, total: int) -> None:
            if progress is not None:
                progress(done, total, f"{done} samples")

        method = replace(Multipliers(), progress=progress)
        found = certified_accuracy(
            graph, x, y, radii, local=True, budget=budget, execution=execution, method=method, progress=tick
        )
        return [
            Sample(
                int(y[at]),
                *_logits(graph, each, int(y[at])),
                float(found.radius[at]),
                moved_up({"x": each}, {"x": found.changed[at].reshape(each.shape)}) if at in found.changed else None,
                tuple(found.status[:, at].tolist()),
            )
            for at, each in enumerate(x)
        ]
    except SpecnormError:
        raise
    except MemoryError as error:
        raise ModelFileError(f"certifying its labels takes more memory than its limit: {error}") from error
    except Exception as error:  # a damaged graph
        raise ModelFileError(f"the graph cannot be followed: {type(error).__name__}: {error}") from error


def _network(model: ModelArrays, sample: tuple[int, ...]) -> tuple[Graph, tuple[int, ...]]:
    graph = model.graph(None)
    if len(graph.inputs) != 1:
        raise MethodError(f"the network has {len(graph.inputs)} inputs; labels are certified for networks with one.")
    stated = graph.by_name[graph.inputs[0]].shape
    rest = None if not stated else stated[1:]
    if stated and stated[0] not in (1,):
        raise GeometryError(f"the network takes {stated[0]} samples at a time: export it for one, or for any number.")
    # Flat samples, and axes of length 1 elsewhere, have their entries in the same order.
    flat = rest is None or sample == (math.prod(rest),)
    if not flat and [n for n in rest or () if n > 1] != [n for n in sample if n > 1]:
        raise GeometryError(f"x has samples of shape {sample}; the network takes {rest}.")
    shape = sample if rest is None else rest
    return model.graph({graph.inputs[0]: (1, *shape)}), shape


def _logits(graph: Graph, x: AnyArray, label: int) -> tuple[int | None, float | None]:
    logits = graph.run({graph.inputs[0]: x[None]}).get(graph.outputs[0])
    if logits is None or logits.size < 2:
        return None, None
    logits = logits.reshape(-1)
    return int(logits.argmax()), float(logits[label] - np.delete(logits, label).max())
