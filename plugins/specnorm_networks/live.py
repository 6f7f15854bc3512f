"""A network of any framework, file or graph: its bound, and its certified accuracy."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import CertificateError, MethodError
from specnorm_networks.accuracy import CertifiedAccuracy
from specnorm_networks.accuracy import certified_accuracy as of_graph
from specnorm_networks.answer import NetworkBound
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.ranges import within
from specnorm_networks.measuring import Measure
from specnorm_networks.methods import Method
from specnorm_networks.near import bound
from specnorm_networks.progress import Progress, stage

if TYPE_CHECKING:
    from specnorm_networks.layer_certificates import Certificate

MAX_BYTES = 2**33
"""Of a file, as `specnorm.audit` has it."""
Source: TypeAlias = Any
"""Torch module, JAX function, Flax NNX, Equinox or Keras 3 model, path, `onnx.ModelProto`, or `Graph`."""


def network_bound(
    source: Source,
    input_shape: Any = None,
    *,
    rtol: float = 1e-3,
    method: Method | None = None,
    radius: float | None = None,
    centre: Any = None,
    budget: float | None = 60.0,
    progress: Progress | None = None,
) -> NetworkBound:
    """Bound the Lipschitz constant of a whole network: certified norms of layers, and of layers together.

    Parameters
    ----------
    source : torch module, JAX function, Flax NNX, Equinox or Keras 3 model, path, ModelProto, or Graph
        A live model is exported to ONNX as it is at inference, and the bound is of that file: ``found.model`` has it,
        and ``found.save("model.onnx")`` writes it. The model's state and mode are as before. An Equinox module is
        given as such, for one example, and mapped over the batch.
    input_shape : sequence of int, array, or tuple of arrays, optional
        One input without the batch axis, such as ``(3, 32, 32)``; or an input, with it; or several. The bound holds
        for inputs of these shapes: of a shape without batch axis in any number, as two and three samples are seen to
        give what each of them gives, or for one alone where the model does not run on several; of inputs for as many
        samples as they have. For a file: as for `specnorm.audit`, where it leaves sizes open.
    rtol : float, default 1e-3
        Of the enclosure of each layer.
    method : Product, Scaled or Multipliers, optional
        Of `specnorm_networks`. Default: ``Multipliers()``, which is never above ``Product()``.
    radius : float, optional
        Bound the network near ``centre``: for all inputs within that 2-norm distance of it, all entries together.
        Never more than without.
    centre : array, tuple of arrays, or mapping of str to array, optional
        With its batch axis; it stands for ``input_shape``, too.
    budget : float, default 60
        Time limit in seconds for search and proof; export and comparison are not counted. When it is reached, the best
        bound proven so far is returned and ``status`` says so. None means no limit.
    progress : callable, optional
        ``progress(done, in all, what)``, called as each stage begins and ends ("export", "comparison with the model",
        "search and proof", "attack on the bound") and after each step of a search.

    Returns
    -------
    NetworkBound
        ``upper`` is proven, in real arithmetic, with respect to all floating inputs together; integer inputs are held.
        It is None where an operator has no rule, and ``unknown`` names it. ``str()`` shows each node.

    Raises
    ------
    MethodError
        If the model cannot be exported, has no floating input, draws random numbers, or reads a state that it writes.
    TranslationError
        If the exported file computes something else than the model.
    """
    example = centre if input_shape is None and not isinstance(centre, Mapping) else input_shape
    with stage(progress, "export"):
        graph = network_graph(source, None if is_file(source) and input_shape is None else example)
    given = None if radius is None and centre is None else _centre(graph, input_shape if centre is None else centre)
    found = bound(graph, Measure(rtol), method=method, radius=radius, centre=given, budget=budget, progress=progress)
    return found.stated_by(partial(_stated, source))


def _stated(source: Source, found: NetworkBound, name: str) -> Certificate:
    """What somebody else can check of a bound that holds everywhere."""
    from specnorm_networks.certificates import certificate_of_network  # for few

    if isinstance(source, Graph) or found.radius is not None or any(found.input_ranges.values()):
        raise CertificateError("there are claims about ONNX files alone, on all inputs.")
    if isinstance(source, str | os.PathLike):
        return certificate_of_network(found, Path(source).read_bytes(), name)
    content = source.SerializeToString() if found.file is None else found.file
    return certificate_of_network(found, content, name, exported=True)


def network_graph(source: Source, input_shape: Any = None) -> Graph:
    """Graph of a network, as `specnorm_networks` reads it.

    Parameters
    ----------
    source, input_shape
        As for `network_bound`.

    Returns
    -------
    Graph
        With its original, so that both are compared before anything is claimed.

    Raises
    ------
    MethodError
    """
    if isinstance(source, Graph):
        return source
    sizes = tuple(input_shape) if isinstance(input_shape, list) else input_shape
    if is_file(source):
        from specnorm_networks.onnx import graph_of_file, read

        if isinstance(source, str | os.PathLike):
            return graph_of_file(os.fspath(source), MAX_BYTES, sizes)
        return read(io.BytesIO(source.SerializeToString()), "model", MAX_BYTES).graph(sizes)
    from specnorm_networks.sources import export
    from specnorm_networks.sources.reading import graph_of

    graph = graph_of(export(source, sizes))
    if not graph.inputs:
        raise MethodError("the model has no floating input: a Lipschitz constant is about such.")
    return graph


def is_file(source: Source) -> bool:
    """Whether a source is an ONNX model, in a file or in memory, or a graph."""
    root = type(source).__module__.partition(".")[0]
    return isinstance(source, str | os.PathLike | Graph) or (root == "onnx" and hasattr(source, "opset_import"))


def certified_accuracy(
    source: Source,
    x: Any,
    y: Any,
    radii: Sequence[float] | NDArray[np.floating],
    *,
    rtol: float = 1e-3,
    method: Method | None = None,
    local: bool = False,
    budget: float | None = None,
    margin: float = 0.0,
    input_range: tuple[float, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CertifiedAccuracy:
    """Share of samples whose label no change within a radius can move.

    A sample is certified at r if ``f_y(x) - f_j(x) > r L_yj`` for all j, with L_yj the proven constant of the
    difference of these two logits (`specnorm_networks.margins`).

    Parameters
    ----------
    source : torch module, JAX function, Flax NNX, Equinox or Keras 3 model, path, ModelProto, or Graph
        Of a classifier that ends with a linear layer.
    x : array, shape (samples, ...)
        Inputs, as the model takes them: radii are distances between such.
    y : array, shape (samples,)
        Labels, whole numbers.
    radii : sequence of float
        In the 2-norm.
    rtol, method
        As for `network_bound`.
    local : bool, default False
        Attack and bound each sample on its own ball where the constants everywhere leave it open: a second or two a
        sample and radius for small convolutional networks.
    budget : float, optional
        Seconds that a sample may take at each radius, with ``local``; None: a fixed number of steps.
    margin : float, default 0.0
        The label's logit has to exceed every other one by more than this number in the whole ball: what a runtime's
        logits may differ from those of real arithmetic, twice; or any other safety margin.
    input_range : (float, float), optional
        Between which all entries of inputs lie: nothing is said of others.
    progress : callable, optional
        ``progress(samples that are done, all)``.

    Returns
    -------
    CertifiedAccuracy
        Proven in real arithmetic. The rounding of the logits that are computed here is counted.

    Raises
    ------
    MethodError
        If the model does not end with a linear layer, has no bound, mixes the samples of a batch, or samples and
        labels do not fit.
    """
    inputs = numbers(x).astype(np.float64)
    labels = numbers(y)
    if inputs.ndim < 2 or labels.shape != inputs.shape[:1] or not len(inputs):
        raise MethodError(
            f"x of shape {inputs.shape} and y of shape {labels.shape}; expected samples along the first axis of both, "
            "at least one."
        )
    graph = network_graph(source, None if isinstance(source, Graph) else _sizes(source, inputs))
    graph = graph if input_range is None else within(graph, *input_range)
    return of_graph(
        graph, inputs, labels, radii, local=local, budget=budget, margin=margin, method=method,
        measure=Measure(rtol), progress=progress,
    )  # fmt: skip


def _sizes(source: Source, x: NDArray[np.float64]) -> Any:
    """Shape of one sample; of a file its spatial sizes."""
    return (x.shape[3:] and x.shape[2:]) or None if is_file(source) else x.shape[1:]


def numbers(x: Any) -> NDArray[Any]:
    """An array of any framework in the host's memory."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = x.double() if x.is_floating_point() else x
    return np.asarray(x)


def _centre(graph: Graph, given: Any) -> Any:
    """Arrays by the names of the inputs that move."""
    if isinstance(given, Mapping):
        return {name: numbers(x) for name, x in given.items()}
    each = list(given) if isinstance(given, tuple) else [given]
    if any(not hasattr(x, "shape") for x in each):
        raise MethodError(f"the input shape {given}: a bound near an input needs the input. Give centre=, an array.")
    arrays = [x for x in map(numbers, each) if x.dtype.kind == "f"]
    return dict(zip(graph.inputs, arrays, strict=True))
