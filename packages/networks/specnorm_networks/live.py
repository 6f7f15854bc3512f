"""A network of any framework, file or graph, and its bound."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import CertificateError, GeometryError, MethodError, TranslationError
from specnorm.proof import counted, install, visible
from specnorm_networks import extensions
from specnorm_networks.answer import NetworkBound
from specnorm_networks.answering import bound
from specnorm_networks.certified.graph import Graph
from specnorm_networks.measuring import Measure
from specnorm_networks.methods import Method
from specnorm_networks.progress import Progress, check_progress, stage

MAX_BYTES = 2**33
"""Largest number of bytes of a model's file; the default of `specnorm.audit`."""
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
    """Prove an upper bound on the Lipschitz constant of a whole network.

    Parameters
    ----------
    source : torch module, JAX function, Flax NNX, Equinox or Keras 3 model, path, ModelProto, or Graph
        A live model is exported to ONNX in inference mode, and the bound holds for that file: the result's ``model``
        contains it, and ``save("model.onnx")`` writes it. The model's state and mode are not changed. An Equinox module
        is a function of one sample; it is mapped over the batch. If Equinox or Flax keeps a state beside the model,
        pass ``(model, state)``; the bound holds for the model in that state.
    input_shape : sequence of int, array, or tuple of arrays, optional
        Shape of one sample, without the batch axis, such as ``(3, 32, 32)``; or an input, with its batch axis; or a
        tuple of inputs. If a shape is given, the bound holds for any number of samples: the model is run on two and
        three samples, and the outputs have to be independent. If the model does not run on several samples, the bound
        holds for one. If inputs are given, the bound holds for their number of samples. For a file, also an int, the
        spatial sizes, or a mapping of whole shapes by the inputs' names; sizes that the file states are not changed.
    rtol : float, default 1e-3
        Relative width of the proven interval of each layer's norm.
    method : Product or Multipliers, optional
        Method of `specnorm_networks`. Default: ``Multipliers()``, whose bound is never above the product of
        the layers' bounds.
    radius : float, optional
        Bound the network only near ``centre``: for all inputs at most this far from it, in the 2-norm of all entries
        together. This bound is never larger than the bound for all inputs.
    centre : array, tuple of arrays, or mapping of str to array, optional
        Center of the ball, with its batch axis; ``input_shape`` is then not needed.
    budget : float, default 60
        Time limit in seconds for search and proof; export and comparison are not counted. When it is reached, the best
        bound proven so far is returned and ``status`` says so. A step that has begun is finished. Layers that were not
        measured by then take a tenth of this time, or half a second; the attack half of it. None means no limit.
    progress : callable, optional
        ``progress(done, total, text)``, called when each stage begins and ends ("export", "comparison with the model",
        "search and proof", "attack on the bound") and after each step of a search.

    Returns
    -------
    NetworkBound
        ``upper`` is proven in real arithmetic, with respect to all floating-point inputs together; integer inputs are
        held fixed. It is None if an operator has no rule; ``unknown`` names it. ``str()`` shows each node.

    Raises
    ------
    MethodError
        If the model cannot be exported, has no floating input, draws random numbers, or reads a state that it writes.
    TranslationError
        If the exported file does not compute the same as the model.
    """
    check_progress(progress)
    # A model is exported for an input, and a file may leave sizes open; without `input_shape` the centre is one.
    shape_or_input = input_shape
    if input_shape is None and not isinstance(source, Graph) and (is_file(source) or not isinstance(centre, Mapping)):
        shape_or_input = centre
    with stage(progress, "export"):
        graph = network_graph(source, shape_or_input)
    # Without `centre`, `input_shape` may be an input, and is the centre.
    centre_by_name = None
    if radius is not None or centre is not None:
        centre_by_name = _centre(graph, input_shape if centre is None else centre)

    def answer_about(graph: Graph) -> NetworkBound:
        return bound(
            graph,
            Measure(rtol),
            method=method,
            radius=radius,
            centre=centre_by_name,
            budget=budget,
            progress=progress,
        )

    try:
        answer = answer_about(graph)
    except TranslationError:
        if not getattr(getattr(graph.model, "exported", None), "is_kept", False):
            raise
        from specnorm_networks.sources import torch_kept

        torch_kept.forget()
        with stage(progress, "export"):
            graph = network_graph(source, shape_or_input)
        answer = answer_about(graph)
    return replace(answer, _statement=partial(_certificate, source))


def _certificate(source: Source, answer: NetworkBound, name: str) -> Any:
    """Return the certificate of a bound that holds on all inputs of an ONNX file."""
    if isinstance(source, Graph) or answer.radius is not None or any(answer.input_ranges.values()):
        raise CertificateError("certificates exist only for ONNX files and bounds on all inputs.")
    if isinstance(source, str | os.PathLike):
        return extensions.certificate_of_network(answer, Path(source).read_bytes(), name)
    content = source.SerializeToString() if answer.file is None else answer.file
    return extensions.certificate_of_network(answer, content, name, exported=True)


def network_graph(source: Source, input_shape: Any = None) -> Graph:
    """Return the graph of a network, as `specnorm_networks` reads it.

    Parameters
    ----------
    source, input_shape
        As for `network_bound`.

    Returns
    -------
    Graph
        The graph refers to its model, so that both are compared before anything is claimed.

    Raises
    ------
    MethodError
        If the model cannot be exported, or has no floating input.
    """
    sizes = tuple(input_shape) if isinstance(input_shape, list) else input_shape
    if isinstance(source, Graph):
        _check_shapes(source, _shapes_of_arrays(sizes))
        return source
    if is_file(source):
        sizes = _shapes_of_arrays(sizes)
        from specnorm_networks.onnx import graph_of_file, read

        if isinstance(source, str | os.PathLike):
            return graph_of_file(os.fspath(source), MAX_BYTES, sizes)
        return read(io.BytesIO(source.SerializeToString()), "model", MAX_BYTES).graph(sizes)
    from specnorm_networks.sources import export

    try:
        from specnorm_networks.sources.reading import graph_of
    except ModuleNotFoundError as error:
        jax = install("networks-jax")
        raise MethodError(f"Models are read through the package onnx: {install('networks')}; for JAX {jax}.") from error
    graph = graph_of(export(source, sizes))
    if not graph.inputs:
        raise MethodError("the model has no floating input, with respect to which it could have a Lipschitz constant.")
    return graph


def _shapes_of_arrays(sizes: Any) -> Any:
    """Return the shapes of inputs in place of arrays; whatever else gives sizes is returned as it is."""
    if hasattr(sizes, "dtype"):
        return (tuple(sizes.shape),)
    if isinstance(sizes, tuple) and sizes and all(hasattr(x, "dtype") for x in sizes):
        return tuple(tuple(x.shape) for x in sizes)
    if isinstance(sizes, Mapping):
        shapes: dict[Any, Any] = {name: getattr(x, "shape", x) for name, x in sizes.items()}
        if all(isinstance(shape, Sequence) and _are_sizes(*shape) for shape in shapes.values()):
            return {name: tuple(shape) for name, shape in shapes.items()}
    elif sizes is None or _are_sizes(sizes):
        return sizes
    elif isinstance(sizes, tuple):
        shapes_of_inputs = [shape if isinstance(shape, Sequence) else [shape] for shape in sizes]
        if all(_are_sizes(*shape) for shape in shapes_of_inputs):
            return sizes
    raise MethodError(
        f"input_shape={sizes!r:.80} is no shape: give whole numbers, such as 32 or (3, 32, 32), whole shapes by the "
        "inputs' names, or an input; or leave it out."
    )


def _are_sizes(*sizes: object) -> bool:
    return all(isinstance(n, Integral) for n in sizes)


def _check_shapes(graph: Graph, sizes: Any) -> None:
    """Refuse sizes that a graph does not have, whose shapes are known."""
    if sizes is None:
        return
    shapes = {name: graph.by_name[name].shape for name in graph.inputs}
    if isinstance(sizes, Mapping):
        is_same = all(shapes.get(name) == shape for name, shape in sizes.items())
    elif isinstance(sizes, tuple) and sizes and isinstance(sizes[0], tuple):
        is_same = list(shapes.values()) == list(sizes)
    else:
        given: Any = (sizes,) if isinstance(sizes, int) else sizes
        is_same = all(
            shape is not None and shape[len(shape) - len(given) :] == tuple(given) for shape in shapes.values()
        )
    if not is_same:
        raise GeometryError(f"input_shape={sizes!r:.80}; the graph's inputs have the shapes {shapes}. Leave it out.")


def is_file(source: Source) -> bool:
    """Whether a source is read without an export: an ONNX model, in a file or in memory, or a graph."""
    root = type(source).__module__.partition(".")[0]
    return isinstance(source, str | os.PathLike | Graph) or (root == "onnx" and hasattr(source, "opset_import"))


def numbers(x: Any) -> NDArray[Any]:
    """Return an array of any framework as a NumPy array; floating torch tensors in float64."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = x.double() if x.is_floating_point() else x
    return np.asarray(x)


def _centre(graph: Graph, centre: Any) -> Any:
    """Return the arrays of a centre by the names of the graph's inputs; integer arrays are left out."""
    if isinstance(centre, Mapping):
        return {name: numbers(x) for name, x in centre.items()}
    inputs = list(centre) if isinstance(centre, tuple) else [centre]
    if any(not hasattr(x, "shape") for x in inputs):
        raise MethodError(f"the input shape {centre}: a bound near an input needs the input. Give centre=, an array.")
    arrays = [array for array in map(numbers, inputs) if array.dtype.kind == "f"]
    if len(arrays) != len(graph.inputs):
        raise MethodError(
            f"centre has {counted(len(arrays), 'floating array')}; expected one for each of the network's inputs: "
            f"{', '.join(map(visible, graph.inputs))}."
        )
    return dict(zip(graph.inputs, arrays, strict=True))
