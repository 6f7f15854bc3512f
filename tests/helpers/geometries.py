"""Which function serves which geometry: the rule the tests hold refusals to, and the table the documentation shows.

The rule is written on the plain definition of the layers (`oracle`), not on what `specnorm` knows about them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import specnorm
from helpers.cases import Layer, Recipe
from helpers.oracle import output_shape, padding_pairs
from specnorm.errors import GeometryError, MethodError

REFUSALS = (GeometryError, MethodError)


def pads_of(layer: Layer) -> list[tuple[int, int]]:
    return padding_pairs(layer.geometry.get("padding", "same"), layer.recipe.shape[2:], dilations(layer))


def strides(layer: Layer) -> tuple[int, ...]:
    return tuple(layer.geometry.get("stride", (1,) * len(layer.input_shape)))


def dilations(layer: Layer) -> tuple[int, ...]:
    return tuple(layer.geometry.get("dilation", (1,) * len(layer.input_shape)))


def outputs(layer: Layer, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Output sizes of the convolution at an input size."""
    return output_shape(layer.recipe.shape[2:], sizes, strides(layer), dilations(layer), pads_of(layer))


def one_output_a_stride(layer: Layer) -> bool:
    """Whether a circular layer is the one whose singular values the symbols have."""
    if layer.geometry.get("padding_mode", "circular") != "circular":
        return not layer.input_shape
    if layer.geometry.get("transposed"):
        return True  # the adjoint of a layer with padding "same"
    sizes = layer.input_shape
    return outputs(layer, sizes) == tuple(n // s for n, s in zip(sizes, strides(layer), strict=True))


def repeats_at_some_size(layer: Layer) -> bool:
    """Whether padding copies a pixel, or circular padding gives an output twice, at some input size."""
    mode = layer.geometry.get("padding_mode", "circular")
    if mode == "circular" and not layer.geometry.get("transposed"):
        large = tuple(1000 * s for s in strides(layer))
        return any(m > 1000 for m in outputs(layer, large))
    return mode in ("reflect", "replicate") and any(map(any, pads_of(layer)))


def reads_a_patch(layer: Layer) -> bool:
    """Whether some output reads every tap from an input pixel of its own (of the convolution a layer is adjoint to)."""
    circular = layer.geometry.get("padding_mode", "circular") == "circular"
    axes = zip(layer.recipe.shape[2:], layer.input_shape, strides(layer), dilations(layer), pads_of(layer), strict=True)
    for k, n, s, r, (before, after) in axes:
        if layer.geometry.get("transposed"):
            n = n * s if circular else (n - 1) * s - before - after + r * (k - 1) + 1
        (count,) = output_shape((k,), (n,), (s,), (r,), [(before, after)])
        rows = [[s * m + r * t - before for t in range(k)] for m in range(count)]
        if circular:
            whole = [len({position % n for position in row}) == k for row in rows]
        else:
            whole = [row[0] >= 0 and row[-1] < n for row in rows]
        if not any(whole):
            return False
    return True


def refused(name: str, layer: Layer, *, at_size: bool) -> bool:
    """Whether a method must refuse a layer; every other combination must be served."""
    if name == "power":
        return not at_size and bool(layer.input_shape)
    if name == "reshaped":
        return at_size and not reads_a_patch(layer)
    if name == "fft" and at_size:
        return not one_output_a_stride(layer)
    return name == "fft" and repeats_at_some_size(layer)


# -- the table of docs/guarantees.md -------------------------------------------------------------------------------
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "`tn_bound`, `f4_bound`, `unfolding_bounds`, `grid_bound`": lambda k, **g: [
        f(k, **g) for f in (specnorm.grid_bound, specnorm.tn_bound, specnorm.f4_bound, specnorm.unfolding_bounds)
    ],
    "`gram_bound`": lambda k, input_shape=None, **g: specnorm.gram_bound(k, input_shape, **g),
    "`enclose`, `certify`, `rescale`, `clip`": lambda k, input_shape=None, **g: [
        specnorm.enclose(k, input_shape, **g),
        specnorm.certify(k, 1e9, input_shape=input_shape, **g),
        specnorm.rescale(k, 1e9, input_shape=input_shape, **g),
        specnorm.clip(k, 1e9, input_shape=input_shape, **g),
    ],
    "`conv_norm`": lambda k, input_shape=None, **g: specnorm.conv_norm(k, input_shape, **g),
    "`singular_values`, all": lambda k, input_shape=None, **g: specnorm.singular_values(k, input_shape, **g),
    "`singular_values(k=...)`": lambda k, input_shape=None, **g: specnorm.singular_values(k, input_shape, k=2, **g),
    "`reshaped_norm`": specnorm.reshaped_norm,
    "`power_norm`": lambda k, input_shape=None, **g: specnorm.power_norm(k, input_shape, **g) and 1.0,
}
"""Functions with the same answer in every column, by what the table calls them; the first value is compared."""

EXACT = [FUNCTIONS[name] for name in ("`conv_norm`", "`singular_values`, all", "`singular_values(k=...)`")]
"""About the layer itself, whatever its padding adds."""

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {}, "stride": {"stride": 2}, "dilation": {"dilation": 2}, "groups": {"groups": 2},
    "transposed": {"transposed": True}, "all of them": {"stride": 2, "dilation": 3, "groups": 2, "transposed": True},
}  # fmt: skip

PADDINGS: dict[str, dict[str, Any]] = {
    'circular, `"same"`': {},
    "circular, fewer outputs": {"padding": 0},
    "circular, more outputs": {"padding": 8},
    "zeros": {"padding_mode": "zeros", "padding": 1},
    "reflect": {"padding_mode": "reflect", "padding": 2},
    "replicate": {"padding_mode": "replicate", "padding": 2},
}
"""By what the table calls them, for a 3x3 kernel; transposed layers know the first and the fourth alone."""

SIZES: dict[str, dict[str, Any]] = {"every size": {}, "at `input_shape`": {"input_shape": 8}}


def answer(function: Callable[..., Any], geometry: dict[str, Any]) -> str:
    """One cell: "yes", "factor" if the value is larger than without the padding, or "no"."""
    kernel = Recipe((4, 4, 3, 3), seed=1).kernel
    try:
        value = function(kernel, **geometry)
    except REFUSALS:
        return "no"
    if isinstance(value, list) and isinstance(value[0], specnorm.Enclosure):
        return "factor" if float(value[0].upper) > 1.3 * float(value[0].lower) else "yes"
    padding = ("padding", "padding_mode")
    if function in EXACT:
        return "yes"
    plain = function(kernel, **{k: v for k, v in geometry.items() if k not in padding})
    one, other = (float(np.max(x[0] if isinstance(x, list) else x)) for x in (value, plain))
    return "factor" if one > 1.3 * other else "yes"


def table() -> str:
    """Markdown, generated from what the functions do; one row for paddings with the same answers."""
    found: dict[tuple[str, ...], list[str]] = {}
    for padding, keywords in PADDINGS.items():
        for size, at in SIZES.items():
            cells = [size]
            for function in FUNCTIONS.values():
                known = ('circular, `"same"`', "zeros")
                shapes = [x for x in SHAPES.values() if padding in known or not x.get("transposed")]
                answers = {answer(function, {**shape, **keywords, **at}) for shape in shapes}
                assert len(answers) == 1, f"{padding}, {size}: depends on stride, dilation, groups or transposed"
                cells += answers
            found.setdefault(tuple(cells), []).append(padding)
    rows = ["| padding | size | " + " | ".join(FUNCTIONS) + " |", "|---" * (2 + len(FUNCTIONS)) + "|"]
    rows += [f"| {'; '.join(paddings)} | {' | '.join(cells)} |" for cells, paddings in found.items()]
    return "\n".join(rows) + "\n"
