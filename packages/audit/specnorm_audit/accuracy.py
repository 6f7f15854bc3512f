"""Certify the labels of the samples in a file, and write the answer as text.

Shares and proven radii are rounded down, distances of attacks up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from specnorm_networks import Graph, Multipliers, certified_accuracy
from specnorm_networks.model_arrays import ModelArrays
from specnorm_networks.tools import moved_up

import specnorm
from specnorm.errors import GeometryError, MethodError, ModelFileError
from specnorm.proof import AnyArray, counted, number, visible
from specnorm_audit import tables
from specnorm_audit.network import ask
from specnorm_audit.readers import MAX_BYTES, open_model
from specnorm_audit.readers.isolated import GRAPH_SECONDS
from specnorm_audit.renderers import to_csv
from specnorm_audit.rows import finite
from specnorm_audit.settings import checked_range
from specnorm_audit.streams import Tick

SAMPLE_SECONDS = 60.0
"""Processor time in seconds that a sample may take at each radius in another process, if no budget is given."""
Status = Literal["safe", "unsafe", "open"]
_STATES: tuple[Status, ...] = ("safe", "unsafe", "open")


@dataclass(frozen=True)
class Sample:
    """The answer for one sample.

    ``predicted`` and ``margin`` (the label's logit less the largest other one) are computed in float64; None: an
    operator cannot be executed here. ``radius`` is proven: no input closer than that, in the 2-norm, has another label.
    ``attacked`` is an upper bound of the distance of an input with another label; None: none was found. ``status`` has
    one answer for each radius.
    """

    label: int
    predicted: int | None
    margin: float | None
    radius: float
    attacked: float | None
    status: tuple[Status, ...]


@dataclass(frozen=True)
class Accuracy:
    """The answers for the samples of a file at each of ``radii``, which ascend.

    ``required_margin`` is the number by which a label's logit has to exceed every other one.
    """

    model: str
    data: str
    radii: tuple[float, ...]
    samples: tuple[Sample, ...]
    input_range: tuple[float, float] | None = None
    budget: float | None = None
    required_margin: float = 0.0

    def counts(self) -> list[tuple[float, list[int]]]:
        """Return each radius with the numbers of samples that are safe, unsafe and open there."""
        counts = []
        for radius_index, radius in enumerate(self.radii):
            states = [sample.status[radius_index] for sample in self.samples]
            counts.append((radius, [states.count(state) for state in _STATES]))
        return counts


def certified(
    model: str,
    data: str,
    radii: Sequence[float],
    *,
    input_range: tuple[float, float] | None = None,
    budget: float | None = None,
    margin: float = 0.0,
    max_bytes: int = MAX_BYTES,
    progress: Tick | None = None,
) -> Accuracy:
    """Run `specnorm_networks.certified_accuracy` with ``local=True`` on files."""
    x, y = _samples(data, max_bytes)
    input_range = checked_range(input_range)
    ascending = tuple(sorted(set(map(float, radii))))
    seconds_each = SAMPLE_SECONDS if budget is None else 10 * budget
    seconds = GRAPH_SECONDS + y.size * len(ascending) * seconds_each
    limit = seconds if seconds < 1e9 else None
    with open_model(model, max_bytes) as arrays:
        if arrays.network is None:
            raise ModelFileError(f"{model} contains weights, but no graph: give the ONNX file of the network.")
        try:
            samples = ask(arrays, limit, _certified, x, y, ascending, input_range, budget, margin, progress=progress)
        except (ModelFileError, MethodError, GeometryError) as error:
            raise type(error)(f"{model} with {data}: {error}") from error
    return Accuracy(model, data, ascending, tuple(samples), input_range, budget, margin)


def _samples(path: str, max_bytes: int) -> tuple[AnyArray, AnyArray]:
    """Return the arrays x (samples, ...) and y (labels) of a file."""
    with open_model(path, max_bytes) as arrays:
        if arrays.network is not None:
            raise ModelFileError(f"{path} is a network: the model comes first, then the file of x and y.")
        try:
            x = np.asarray(arrays.array("x"))
            y = np.asarray(arrays.array("y"))
        except LookupError as error:
            names = tables.some([tensor.name for tensor in arrays.arrays]) or "no array"
            raise ModelFileError(f"{path} holds {names}; expected the arrays x (samples) and y (labels).") from error
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {error}") from error
    return x, y


# -- where the model's file is open ------------------------------------------------------------------------------------
def _certified(
    model: ModelArrays,
    x: AnyArray,
    y: AnyArray,
    radii: tuple[float, ...],
    input_range: tuple[float, float] | None,
    budget: float | None,
    margin: float,
    progress: Tick | None = None,
) -> list[Sample]:
    """Certify samples x (n, ...) with labels y (n,), in the child process that has the model's file open.

    ``budget``: as of `certified_accuracy`.
    """
    graph = _network(model, x.shape[1:])
    shape = graph.by_name[graph.inputs[0]].shape

    def tick(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total, f"{done} samples")

    method = replace(Multipliers(), progress=progress)
    answer = certified_accuracy(
        graph, x, y, radii, local=True, budget=budget, margin=margin, method=method, input_range=input_range,
        progress=tick,
    )  # fmt: skip
    samples = []
    for position, sample in enumerate(x.reshape(len(x), *(shape or ())[1:]).astype(np.float64)):
        label = int(y[position])
        predicted, logit_margin = _prediction(graph, sample, label)
        attacked = None
        if position in answer.changed:
            changed = answer.changed[position].reshape(sample.shape)
            attacked = moved_up({"x": sample}, {"x": changed})
        status = tuple(answer.status[:, position].tolist())
        samples.append(Sample(label, predicted, logit_margin, float(answer.radius[position]), attacked, status))
    return samples


def _network(model: ModelArrays, sample_shape: tuple[int, ...]) -> Graph:
    """Return the graph for one sample of this shape."""
    graph = model.graph(None)
    if len(graph.inputs) != 1:
        raise MethodError(f"the network has {len(graph.inputs)} inputs; labels are certified for networks with one.")
    name = graph.inputs[0]
    input_shape = graph.by_name[name].shape
    if not input_shape:
        return model.graph({name: (1, *sample_shape)})
    if input_shape[0] != 1:
        message = f"the network takes {input_shape[0]} samples at a time: export it for one, or for any number."
        raise GeometryError(message)
    stated_shape = input_shape[1:]
    # Flat samples, and samples with further axes of length 1, have their entries in the same order.
    is_flat = sample_shape == (math.prod(stated_shape),)
    long_axes = [n for n in sample_shape if n > 1]
    if not is_flat and long_axes != [n for n in stated_shape if n > 1]:
        raise GeometryError(f"x has samples of shape {sample_shape}; the network takes {stated_shape}.")
    return model.graph({name: (1, *stated_shape)})


def _prediction(graph: Graph, x: AnyArray, label: int) -> tuple[int | None, float | None]:
    """Return the predicted label and the label's logit less the largest other one; None if they are not computed."""
    logits = graph.run({graph.inputs[0]: x[None]}).get(graph.outputs[0])
    if logits is None or logits.size < 2:
        return None, None
    logits = logits.reshape(-1)
    return int(logits.argmax()), float(logits[label] - np.delete(logits, label).max())


# -- as text -----------------------------------------------------------------------------------------------------------
def render(answer: Accuracy, output_format: str) -> str:
    """Return the answer as text: one row for each sample, and the shares at each radius; CSV has the samples alone."""
    if output_format == "json":
        return json.dumps(_to_dict(answer), indent=2, allow_nan=False) + "\n"
    if output_format == "csv":
        columns = [f"at {radius!r}" for radius in answer.radii]
        return to_csv([row | dict(zip(columns, row.pop("status"), strict=True)) for row in _plain(answer)])
    of_samples, of_radii = (
        tables.aligned(texts, range(len(texts[0]))) for texts in (_rows_of_samples(answer), _rows_of_radii(answer))
    )
    return "\n".join([*_verdict(answer), "", *of_samples, "", *of_radii, ""])


def _rows_of_samples(answer: Accuracy) -> list[list[str]]:
    """Return the table of the samples, its head first."""
    columns = [f"at {radius:g}" for radius in answer.radii]
    rows = [["sample", "label", "predicted", "margin", "radius", "attacked", *columns]]
    for sample_index, sample in enumerate(answer.samples):
        predicted = "-" if sample.predicted is None else str(sample.predicted)
        numbers = [number(sample.margin), number(sample.radius, "lower"), number(sample.attacked, "upper")]
        rows.append([str(sample_index), str(sample.label), predicted, *numbers, *sample.status])
    return rows


def _rows_of_radii(answer: Accuracy) -> list[list[str]]:
    """Return the table of the radii, its head first; shares are rounded down."""
    rows = [["radius", *_STATES, "certified"]]
    for radius, counts in answer.counts():
        safe = counts[0]
        hundredths = 10_000 * safe // len(answer.samples)
        rows.append([f"{radius:g}", *map(str, counts), f"{hundredths / 100:.2f} %"])
    return rows


def _plain(answer: Accuracy) -> list[dict[str, Any]]:
    """Return a row a sample, in plain data; numbers that are not finite become None."""
    return [
        {"sample": n, **{name: finite(x) if isinstance(x, float) else x for name, x in vars(sample).items()}}
        for n, sample in enumerate(answer.samples)
    ]


def _to_dict(answer: Accuracy) -> dict[str, Any]:
    """Return the answer in plain data."""
    radii = []
    for radius, counts in answer.counts():
        row: dict[str, Any] = {"radius": radius, **dict(zip(_STATES, counts, strict=True))}
        radii.append(row | {"certified": row["safe"] / len(answer.samples)})
    return {
        "version": specnorm.__version__,
        "model": visible(answer.model),
        "data": visible(answer.data),
        "input_range": answer.input_range,
        "budget": finite(answer.budget),
        "margin": answer.required_margin,
        "radii": radii,
        "samples": _plain(answer),
    }


def _verdict(answer: Accuracy) -> list[str]:
    """Return the lines above the table, one a radius."""
    conditions = ""
    if answer.input_range is not None:
        low, high = answer.input_range
        conditions += f", of inputs between {low:g} and {high:g}"
    if answer.required_margin:
        conditions += f", with a margin of {answer.required_margin!r}"
    lines = []
    for radius, (safe, unsafe, undecided) in answer.counts():
        lines.append(
            f"Within {radius!r} (2-norm{conditions}), {safe} of {counted(len(answer.samples), 'label')} {_are(safe)} "
            f"proven to stay; {unsafe} {_are(unsafe)} wrong or changed by an input that was found; {undecided} "
            f"{_are(undecided)} open."
        )
    return lines


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def failures_below_share(answer: Accuracy, share: float | None) -> list[str]:
    """Return a line for each radius at which a smaller share of labels is certified; None: no share was asked for."""
    if share is None:
        return []
    count = len(answer.samples)
    lines = []
    for radius, (safe, _, undecided) in answer.counts():
        if not safe / count >= share:
            lines.append(
                f"--fail-below {share:g}: {safe} of {counted(count, 'label')} {_are(safe)} certified at {radius!r}; "
                f"{undecided} {_are(undecided)} open."
            )
    return lines
