"""Which function serves which geometry: the rule the tests hold refusals to.

The rule is written on the plain definition of the layers (`oracle`), not on what `specnorm` knows about them.
"""

from __future__ import annotations

from helpers.cases import Layer
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
    return mode in ("reflect", "symmetric", "replicate") and any(map(any, pads_of(layer)))


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
