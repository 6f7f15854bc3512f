"""Shapes of a file's inputs: what the file states, and what a caller gives for the sizes that it leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from specnorm.errors import GeometryError, MethodError
from specnorm.proof import visible
from specnorm_networks.certified.graph import SIZES
from specnorm_networks.certified.operators.base import Shape
from specnorm_networks.model_arrays import Sizes


def input_shapes(graph: Any, sizes: Sizes) -> dict[str, Shape]:
    """Return the shapes of inputs for which a caller gave sizes, by name.

    Sizes that are given have to fit: a file's own sizes are not replaced, and none is dropped.

    Parameters
    ----------
    graph : onnx.GraphProto
    sizes : Sizes

    Raises
    ------
    GeometryError
        If the sizes are of no input, or the file states others.
    MethodError
        If they leave sizes of such an input open.
    """
    if sizes is None:
        return {}
    constants = {tensor.name for tensor in graph.initializer}
    inputs = {x.name: x.type.tensor_type for x in graph.input if x.name not in constants}
    whole = _whole_shapes(list(inputs), sizes)
    for name in whole or ():
        if name not in inputs:
            names = ", ".join(repr(other) for other in list(inputs)[:8])
            raise GeometryError(f"The network has no input {name!r}; it has {names}.")
    shapes = {}
    for name, tensor in inputs.items():
        if whole is not None and name not in whole:
            continue
        if not tensor.HasField("shape"):
            if whole is not None:
                shapes[name] = whole[name]
            continue
        dims = tensor.shape.dim
        given = _of_sample(sizes, len(dims)) if whole is None else dict(enumerate(whole[name]))
        if not given:
            continue
        stated = [stated_size(dim) for dim in dims]
        is_other = any(axis < len(dims) and stated[axis] not in (None, n) for axis, n in given.items())
        if is_other or (whole is not None and len(whole[name]) != len(dims)):
            advice = "Give the whole shape, with its batch axis"
            if whole is None:
                advice = "Leave it out"
            raise GeometryError(
                f"The network's input {name!r} is given the shape {_shown(sizes if whole is None else whole[name])}; "
                f"the file states {_words(dims)}. {advice}."
            )
        shape = [given.get(axis, size) for axis, size in enumerate(stated)]
        if shape and shape[0] is None and len(shape) > 1:
            shape[0] = 1
        if None in shape:
            raise MethodError(
                f"not all sizes of {visible(name)}, {_words(dims)} in the file, are stated: {SIZES}. {_shown(sizes)} "
                "leaves some of them open."
            )
        shapes[name] = tuple(n for n in shape if n is not None)
    if not shapes:
        described = ", ".join(f"{visible(name)} is {_words(x.shape.dim)}" for name, x in list(inputs.items())[:8])
        raise GeometryError(
            f"The network has no input of {_shown(sizes)}: {described}. Give spatial sizes, the shape of one sample, "
            "or whole shapes by the inputs' names; or leave it out."
        )
    return shapes


def stated_size(dim: Any) -> int | None:
    """Return the size of an axis that a file states; None if it leaves it open, by a name or by a number below 1."""
    return int(dim.dim_value) if dim.dim_value > 0 else None


def _whole_shapes(names: list[str], sizes: Sizes) -> dict[str, Shape] | None:
    """Return whole shapes by the inputs' names, if the sizes are such; shapes without names are those of all inputs."""
    if isinstance(sizes, Mapping):
        return {name: tuple(shape) for name, shape in sizes.items()}
    if not isinstance(sizes, tuple) or not sizes or not isinstance(sizes[0], tuple):
        return None
    if len(sizes) != len(names):
        raise GeometryError(f"{len(sizes)} inputs are given; the network has {len(names)}: {', '.join(names[:8])}.")
    return {name: tuple(shape) for name, shape in zip(names, sizes, strict=True)}


def _of_sample(sizes: Sizes, ndim: int) -> dict[int, int]:
    """Return sizes by axis: of all spatial axes, or of a sample, whose batch axis comes before; empty: not so many."""
    if isinstance(sizes, int):
        return dict.fromkeys(range(2, ndim), sizes)
    sample = cast("tuple[int, ...]", sizes)
    first = ndim - len(sample)
    is_vector = ndim == 1 and first == 0
    return {first + j: int(n) for j, n in enumerate(sample)} if first in (1, 2) or is_vector else {}


def _words(dims: Any) -> str:
    return "x".join(str(stated_size(dim) or dim.dim_param or "?") for dim in dims) or "a number"


def _shown(sizes: Any) -> str:
    return "x".join(map(str, sizes)) if isinstance(sizes, tuple) else f"{sizes}"
