"""Linear nodes as maps of NumPy arrays, with what rounding can change: for what needs values, not only norms.

An array of values has an axis of copies in front of the node's own shape, so that a map takes many at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.backends import backend_for
from specnorm.linalg.layer_map import Convolution
from specnorm.networks.axes import Window, adaptive_windows, average_rows
from specnorm.networks.graph import Node, concrete
from specnorm.networks.measuring import in_float64
from specnorm.proof import host
from specnorm.runtime.execution import Execution
from specnorm.spec import ConvSpec

Values = NDArray[np.float64]
Apply = Callable[[Sequence[Values]], Values]
AT_ONCE = 2**23
"""Entries of a convolution's patches."""
SCALED = 20
"""Roundings of a scale that is not exact, and of the product with it."""


@dataclass(frozen=True, eq=False)
class LinearMap:
    """The linear part of a node; what is added to it is `Node.offset`.

    Parameters
    ----------
    apply : callable
        Arrays of shape (copies, *shape), one for each input -> array of shape (copies, *shape of the node).
    absolute : callable
        The same with absolute values of the coefficients.
    roundings : int
        ``|computed A x - A x| <= gamma(roundings) |A| |x|``.
    rows : array or None
        Upper bounds of the 2-norms of the rows, broadcasting against the node's shape; None: not known.
    """

    apply: Apply
    absolute: Apply
    roundings: int
    rows: Values | None = None


def linear_map(node: Node, sources: Sequence[Node]) -> LinearMap | None:
    """The map of a node, None where it is not linear or not known.

    Parameters
    ----------
    node : Node
    sources : sequence of Node
        Its inputs.
    """
    shape, befores = concrete(node.shape), [concrete(source.shape) for source in sources]
    if shape is None or not befores or any(before is None for before in befores) or node.rule not in _MAPS:
        return None
    return _MAPS[node.rule](node, shape, [before for before in befores if before is not None])


Sizes = tuple[int, ...]


def _layer(node: Node, shape: Sizes, befores: Sequence[Sizes]) -> LinearMap | None:
    layer, (before,) = node.layer, befores
    if layer is None or not node.params.get("foldable", True):
        return None
    alpha = float(node.params.get("alpha", 1.0))
    kernel = in_float64(layer.load().T if layer.turned else layer.load())
    if not np.all(np.isfinite(kernel)):
        return None
    if not layer.spatial:
        if (*before[:-1], kernel.shape[0]) != shape or before[-1] != kernel.shape[1]:
            return None
        matrix = kernel.T
        rows = abs(alpha) * host.norm_up(kernel)
        return _both(lambda k: lambda x: alpha * (x[0] @ k), matrix, before[-1] + 4, alpha, rows)
    return _convolution(node, kernel, alpha, shape, before)


def _convolution(node: Node, kernel: Values, alpha: float, shape: Sizes, before: Sizes) -> LinearMap | None:
    assert node.layer is not None  # for the type checker: the caller looked
    spatial = node.layer.spatial
    if len(before) != spatial + 2:
        return None
    spec = ConvSpec.of(kernel.shape, **{**node.layer.geometry, "input_shape": before[2:]})
    one: Any = kernel[None]
    layer = Convolution(one, spec, ops=Execution.of(backend_for(kernel), one))
    if (spec.cin, spec.cout) != (before[1], shape[1]) or layer.shapes[1] != shape[1:]:
        return None

    patches = kernel[0].size * spec.groups * max(map(math.prod, (before[2:], shape[2:])))
    step = max(1, AT_ONCE // max(patches, 1))

    def applied(layer: Convolution) -> Apply:
        def apply(x: Sequence[Values]) -> Values:
            wide: Any = x[0].reshape(1, -1, layer.shape[1])
            parts = [np.asarray(layer.apply(wide[:, at : at + step])) for at in range(0, wide.shape[1], step)]
            found: Values = np.concatenate(parts, axis=1).reshape(len(x[0]), *shape) if parts else x[0][:, :0]
            return alpha * found

        return apply

    def absolute(x: Sequence[Values]) -> Values:
        return abs(applied(layer.absolute())(x))

    by_output = np.moveaxis(kernel, 0, 1) if spec.transposed else kernel
    if spec.transposed:
        # (cin, cout / groups, ...): output g c + o reads the inputs of its group.
        split = kernel.reshape(spec.groups, spec.cin // spec.groups, *kernel.shape[1:])
        by_output = np.moveaxis(split, 1, 2).reshape(spec.cout, -1)
    flat = by_output.reshape(spec.cout, -1)
    # Padding by pixels may add taps up at one of them.
    length = host.norm_up(flat) if spec.padding_mode == "zeros" else abs(flat).sum(axis=1)
    rows = (abs(alpha) * length).reshape(-1, *(1,) * spatial)
    return LinearMap(applied(layer), absolute, max(layer.roundings) + flat.shape[1] + 4, rows)


def _both(
    made: Callable[[Values], Apply],
    coefficients: Values,
    roundings: int,
    alpha: float = 1.0,
    rows: Values | None = None,
) -> LinearMap:
    """A map made of coefficients (and a number), and the same of their absolute values."""
    positive = made(abs(coefficients))
    return LinearMap(made(coefficients), lambda x: abs(positive(x)) if alpha < 0 else positive(x), roundings, rows)


def _scale(node: Node, shape: Sizes, befores: Sequence[Sizes]) -> LinearMap | None:
    values = np.asarray(node.params["values"], dtype=np.float64)
    channel = node.params.get("channel")
    if not np.all(np.isfinite(values)):
        return None
    if channel is not None:
        values = values.reshape(-1, *(1,) * (len(shape) - 1 - int(channel)))
    try:
        if np.broadcast_shapes(values.shape, befores[0]) != shape:
            return None
    except ValueError:
        return None
    return _both(lambda k: lambda x: _wide(x[0], len(shape)) * k, values, 1 if node.params.get("exact") else SCALED)


def _wide(x: Values, ndim: int) -> Values:
    """Axes of size 1 between the copies and the value, so that it broadcasts against one of so many axes."""
    return x.reshape(x.shape[0], *(1,) * (ndim + 1 - x.ndim), *x.shape[1:])


def _add(node: Node, shape: Sizes, befores: Sequence[Sizes]) -> LinearMap | None:
    signs = node.params.get("signs")
    if signs is None:
        if len(befores) > 1 or not node.params.get("shift") or node.offset is None:
            return None
        signs = (1,)
    if len(signs) != len(befores):
        return None

    def made(k: Values) -> Apply:
        def apply(x: Sequence[Values]) -> Values:
            total = np.zeros((len(x[0]), *shape))
            for sign, each in zip(k, x, strict=True):
                total = total + sign * _wide(each, len(shape))
            return total

        return apply

    return _both(made, np.asarray(signs, dtype=np.float64), len(befores))


def _stack(node: Node, shape: Sizes, befores: Sequence[Sizes]) -> LinearMap | None:
    axis = node.params.get("axis")
    if axis is None or any(len(before) != len(shape) for before in befores):
        return None
    whole = (*shape[:axis], sum(before[axis] for before in befores), *shape[axis + 1 :])
    if whole != shape or any((*b[:axis], *b[axis + 1 :]) != (*shape[:axis], *shape[axis + 1 :]) for b in befores):
        return None  # constants are among what is joined
    return _exact(lambda x: np.concatenate(x, axis=int(axis) + 1))


def _exact(apply: Apply) -> LinearMap:
    """Of coefficients 0 and 1, each output one input."""
    return LinearMap(apply, apply, 0)


def _select(node: Node, shape: Sizes, befores: Sequence[Sizes]) -> LinearMap | None:
    (before,) = befores
    if node.params.get("shift") and before == shape:
        return _exact(lambda x: x[0])
    if node.params.get("reshaped") and math.prod(before) == math.prod(shape):
        return _exact(lambda x: x[0].reshape(len(x[0]), *shape))
    pieces = node.params.get("slice")
    if pieces is None or len(before) != len(shape):
        return None
    places = [slice(None)] * (len(shape) + 1)
    for axis, start, step in pieces:
        places[axis + 1] = slice(start, start + step * shape[axis], step)
    taken = tuple(places)
    fits = all(
        n == m or axis in {a for a, _, _ in pieces} for axis, (n, m) in enumerate(zip(before, shape, strict=True))
    )
    fits = fits and all(start + step * (shape[axis] - 1) < before[axis] for axis, start, step in pieces)
    return _exact(lambda x: x[0][taken]) if fits else None


def _broadcast(node: Node, shape: Sizes, befores: Sequence[Sizes]) -> LinearMap | None:
    del node, befores
    return _exact(lambda x: np.broadcast_to(_wide(x[0], len(shape)), (len(x[0]), *shape)))


def _pad(node: Node, shape: Sizes, befores: Sequence[Sizes]) -> LinearMap | None:
    mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}.get(node.params["mode"])
    pads = node.params["pads"]
    (before,) = befores
    wide = [(0, 0)] * (1 + len(before) - len(pads)) + [tuple(map(int, pair)) for pair in pads]
    fits = tuple(n + sum(pair) for n, pair in zip(before, wide[1:], strict=True)) == shape
    # What a reflection, or one turn, can give.
    short = {"reflect": 1, "circular": 0}.get(node.params["mode"], -math.inf)
    fits = fits and all(max(pair) <= n - short for n, pair in zip(before, wide[1:], strict=True))
    if mode is None or not fits or node.params.get("constant", 0.0) != 0:
        return None
    numpy: Any = np
    return _exact(lambda x: numpy.pad(x[0], wide, mode=mode))


def _reduce(node: Node, shape: Sizes, befores: Sequence[Sizes]) -> LinearMap | None:
    (before,) = befores
    axes = tuple(sorted({int(axis) % len(before) for axis in node.params["axes"]}))
    count = math.prod(before[axis] for axis in axes)
    if math.prod(shape) * count != math.prod(before) or not count:
        return None
    over = tuple(axis + 1 for axis in axes)
    share = float(count) if node.rule == "mean" else 1.0
    apply: Apply = lambda x: x[0].sum(axis=over).reshape(len(x[0]), *shape) / share  # noqa: E731
    return LinearMap(apply, apply, count + 1)


def _average_pool(node: Node, shape: Sizes, befores: Sequence[Sizes]) -> LinearMap | None:
    (before,), p = befores, node.params
    spatial = int(p["spatial"]) if p.get("adaptive") else len(p["kernel"])
    sizes = list(zip(before[len(before) - spatial :], shape[len(shape) - spatial :], strict=True))
    if p.get("divisor") or len(before) != len(shape):
        return None
    matrices = []
    for axis, (n, m) in enumerate(sizes):
        matrix = np.zeros((m, n))
        if p.get("adaptive"):
            for at, window in enumerate(adaptive_windows(n, m)):
                matrix[at, list(window)] = 1 / len(window)
        else:
            before_axis, after_axis = p["padding"][axis]
            window_of = Window(
                p["kernel"][axis], p["stride"][axis], p["dilation"][axis], before_axis, after_axis, n, m,
                bool(p.get("ceil", False)), bool(p.get("count_padding", True)),
            )  # fmt: skip
            for at, row in enumerate(average_rows(window_of)):
                for position, weight in row:
                    matrix[at, position] += float(weight)
        matrices.append(matrix)

    def apply(x: Sequence[Values]) -> Values:
        found = x[0]
        for axis, matrix in enumerate(matrices):
            place = found.ndim - spatial + axis
            found = np.moveaxis(np.tensordot(found, matrix, axes=(place, 1)), -1, place)
        return found

    return LinearMap(apply, apply, sum(n + 4 for n, _ in sizes))


def windows_max(node: Node, x: Values, shape: tuple[int, ...]) -> Values | None:
    """Largest entry of each window, axis by axis; what pads is smaller than anything."""
    p = node.params
    spatial = len(p["kernel"])
    for j in range(spatial):
        axis = x.ndim - spatial + j
        places = np.arange(shape[axis])[:, None] * p["stride"][j] + np.arange(p["kernel"][j]) * p["dilation"][j]
        at = places - p["padding"][j][0]
        inside = (at >= 0) & (at < x.shape[axis])
        if not inside.any(axis=1).all():
            return None
        lowest = np.full((*x.shape[:axis], 1, *x.shape[axis + 1 :]), -math.inf)
        taken = np.take(np.concatenate([x, lowest], axis=axis), np.where(inside, at, x.shape[axis]), axis=axis)
        x = taken.max(axis=axis + 1)
    return x if x.shape == shape else None


_MAPS: dict[str, Callable[[Node, Sizes, Sequence[Sizes]], LinearMap | None]] = {
    "layer": _layer,
    "scale": _scale,
    "add": _add,
    "stack": _stack,
    "select": _select,
    "broadcast": _broadcast,
    "pad": _pad,
    "mean": _reduce,
    "sum": _reduce,
    "average_pool": _average_pool,
}
