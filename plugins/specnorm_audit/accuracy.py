"""A classifier's ONNX file and a file of samples -> how far the label of each is proven to stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from specnorm_networks import Graph, Multipliers, certified_accuracy, within
from specnorm_networks.certified.shapes import concrete
from specnorm_networks.checking import moved_up
from specnorm_networks.model_arrays import ModelArrays

from specnorm.errors import GeometryError, MethodError, ModelFileError, SpecnormError
from specnorm.types import AnyArray
from specnorm_audit.readers import MAX_BYTES, open_model
from specnorm_audit.readers.isolated import GRAPH_SECONDS
from specnorm_audit.samples import SAMPLE_SECONDS, samples_of

Status = Literal["safe", "unsafe", "open"]


@dataclass(frozen=True)
class Sample:
    """What is known of one sample.

    Parameters
    ----------
    label : int
        As the data has it.
    predicted : int or None
        Class of the largest logit, and ``margin`` the label's logit less the largest other one: computed in float64.
        None where an operator cannot be executed here.
    radius : float
        In the 2-norm, proven: no input that is nearer has another label. 0 where the label is wrong, or where
        none is proven.
    attacked : float or None
        Distance of an input that has another label in real arithmetic, at most; 0 where the label is wrong. None: none
        was found.
    status : tuple of {"safe", "unsafe", "open"}
        At each radius.
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
    progress: Callable[[int, int, str], None] | None = None,
) -> Accuracy:
    """`specnorm_networks.certified_accuracy` with ``local=True``, of files.

    Parameters
    ----------
    model : str
        Path of the ONNX file of a classifier with one input.
    data : str
        Path of a file with the arrays ``x``, shape (samples, ...), and ``y``, the labels, shape (samples,).
    radii : sequence of float
        In the 2-norm of the network's input.
    input_range : (float, float), optional
        Between which every entry of an input lies.
    budget : float, optional
        Seconds that a sample may take at each radius; None: a fixed number of steps.
    execution : {"float64", "float32", "float16", "bfloat16"}, optional
        The precision that the network is executed in; None: real arithmetic.
    max_bytes : int, default 8 GiB
        Refuse files whose arrays claim more than that in all.
    progress : callable, optional
        Called with (done, in all, name): after each step of the search for constants, and after each sample.

    Raises
    ------
    ModelFileError
        If a file cannot be read or holds something else.
    MethodError, GeometryError
        If the samples do not fit the network, or it has no bound.
    """
    x, y = samples_of(data, max_bytes, input_range)
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


# -- where the model's file is open ------------------------------------------------------------------------------------
def _certified(
    model: ModelArrays,
    x: AnyArray,
    y: AnyArray,
    radii: tuple[float, ...],
    input_range: tuple[float, float] | None,
    budget: float | None,
    execution: str | None,
    progress: Callable[[int, int, str], None] | None = None,
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
    """The network of one sample, and a sample's shape in it."""
    graph = model.graph(None)
    if len(graph.inputs) != 1:
        raise MethodError(f"the network has {len(graph.inputs)} inputs; labels are certified for networks with one.")
    stated = graph.by_name[graph.inputs[0]].shape
    rest = None if not stated else concrete(stated[1:])
    if stated and stated[0] not in (1,) and not isinstance(stated[0], str):
        raise GeometryError(f"the network takes {stated[0]} samples at a time: export it for one, or for any number.")
    # Flat samples, and axes of length 1 elsewhere, have their entries in the same order.
    flat = rest is None or sample == (math.prod(rest),)
    if not flat and [n for n in rest or () if n > 1] != [n for n in sample if n > 1]:
        raise GeometryError(f"x has samples of shape {sample}; the network takes {rest}.")
    shape = sample if rest is None else rest
    return model.graph({graph.inputs[0]: (1, *shape)}), shape


def _logits(graph: Graph, x: AnyArray, label: int) -> tuple[int | None, float | None]:
    """Class of the largest logit, and the label's margin."""
    logits = graph.run({graph.inputs[0]: x[None]}).get(graph.outputs[0])
    if logits is None or logits.size < 2:
        return None, None
    logits = logits.reshape(-1)
    return int(logits.argmax()), float(logits[label] - np.delete(logits, label).max())
