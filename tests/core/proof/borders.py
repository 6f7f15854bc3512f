"""Predicates of layers at one size, held against dense matrices of layers that lie at the border of what they ask.

Each layer has one or two axes, whose taps, strides, dilations, paddings and sizes are those at which a hypothesis
begins to hold, and one less or more. What holds too early makes a claim that one of these matrices contradicts.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from helpers.assumptions import assumed, assumed_lower
from helpers.libraries import NUMPY as np
from helpers.oracle import dense_matrix
from numpy.random import RandomState as Draw

from specnorm.at_size.proofs.circulant import is_long_enough, shortest
from specnorm.at_size.proofs.components import (
    PolyphaseComponent,
    norm_of_restriction,
    norms_of_patch,
    polyphase_components,
)
from specnorm.at_size.proofs.uncut import keeps_smallest
from specnorm.errors import SpecnormError
from specnorm.geometry.spec import ConvSpec
from specnorm.proofs.bound import HypothesisError
from specnorm.proofs.cells import Circulant
from specnorm.proofs.norms import norm_of_stack
from specnorm.running.proofs.padding import is_split_by_parity, other_parts_up, padded_norm

CLOSE = 1e-9


class Axis(NamedTuple):
    """A layer along one axis; ``size`` is the input's."""

    taps: int
    stride: int
    dilation: int
    padding: tuple[int, int]
    size: int


class Layer(NamedTuple):
    """Axes, channels, and how pixels outside are read."""

    axes: tuple[Axis, ...]
    rows: int
    columns: int
    mode: str = "zeros"
    transposed: bool = False

    def geometry(self) -> dict[str, Any]:
        return {
            "stride": tuple(x.stride for x in self.axes), "dilation": tuple(x.dilation for x in self.axes),
            "padding_mode": self.mode, "padding": tuple(x.padding for x in self.axes), "transposed": self.transposed,
        }  # fmt: skip

    def spec(self, *, sized: bool = True) -> ConvSpec:
        size = {"input_shape": tuple(x.size for x in self.axes)} if sized else {}
        return ConvSpec.of((self.rows, self.columns, *(x.taps for x in self.axes)), **self.geometry(), **size)

    def matrix(self, kernel: Any, **other: Any) -> Any:
        return np.asarray(dense_matrix(kernel, tuple(x.size for x in self.axes), **{**self.geometry(), **other}))


def norm_of(matrix: Any) -> float:
    return float(np.linalg.norm(matrix, 2)) if matrix.size else 0.0


@functools.cache
def axes_at_borders() -> tuple[Axis, ...]:
    """Paddings that reach, or all but reach, as far as the taps; sizes from one pixel."""
    found = []
    for k, s, r in itertools.product((1, 2, 3), (1, 2, 3), (1, 2)):
        reach = r * (k - 1)
        amounts = sorted({max(0, reach + more) for more in (-s, 1 - s, -1, 0, 1)} | {0})
        for before, after, n in itertools.product(amounts, amounts, range(1, 6)):
            if n + before + after > reach:
                found.append(Axis(k, s, r, (before, after), n))
    return tuple(found)


def layers(count: int, seed: int, *modes: str) -> Iterator[tuple[Layer, Draw]]:
    axes, draw = axes_at_borders(), Draw(seed)
    for _ in range(count):
        first = axes[draw.randint(len(axes))]
        others: tuple[tuple[Axis, ...], ...] = ((), (Axis(1, 1, 1, (0, 0), 2),), (axes[draw.randint(len(axes))],))
        chosen = (first, *others[draw.randint(3)])
        chosen = chosen[:: 1 if draw.randint(2) else -1]
        period = math.prod(x.stride for x in chosen)
        rows = max(1, period + int(draw.randint(-1, 2))) if draw.randint(2) else int(draw.randint(1, 4))
        mode = modes[draw.randint(len(modes))]
        # Of transposed layers, the oracle has those that are padded with zeros.
        yield Layer(chosen, rows, int(draw.randint(1, 3)), mode, mode == "zeros" and bool(draw.randint(2))), draw


def built(layer: Layer, **more: Any) -> ConvSpec | None:
    try:
        return layer.spec(**more) if layer.spec().axes else None
    except SpecnormError:
        return None


# -- the other end -----------------------------------------------------------------------------------------------------
def isometric_kernel(layer: Layer, draw: Draw) -> Any | None:
    """A kernel whose symbols have singular values 1 alone: each residue of pixels is read by one tap."""
    by_residue: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for tap in np.ndindex(*(x.taps for x in layer.axes)):
        residue = tuple(x.dilation * t % x.stride for x, t in zip(layer.axes, tap, strict=True))
        by_residue.setdefault(residue, []).append(tap)
    wide = layer.columns * len(by_residue)
    if layer.rows > wide and len(by_residue) < math.prod(x.stride for x in layer.axes):
        return None
    square, _ = np.linalg.qr(draw.standard_normal((max(layer.rows, wide),) * 2))
    parts = square[: layer.rows, :wide].reshape(layer.rows, len(by_residue), layer.columns)
    kernel: Any = np.zeros((layer.rows, layer.columns, *(x.taps for x in layer.axes)))
    for at, taps in enumerate(by_residue.values()):
        kernel[(..., *taps[draw.randint(len(taps))])] = parts[:, at]
    return kernel


def kept_values() -> Iterator[str]:
    """What keeps the symbols' smallest value, 1, at a size or at every size."""
    for layer, draw in layers(3000, 0, "zeros", "zeros", "zeros", "circular", "reflect"):
        if (spec := built(layer)) is None or (everywhere := built(layer, sized=False)) is None:
            continue
        sizes_fit = layer.mode != "circular" or all(x.size % x.stride == 0 for x in layer.axes)
        if not (keeps_smallest(spec) or (keeps_smallest(everywhere) and sizes_fit)):
            continue
        if (kernel := isometric_kernel(layer, draw)) is not None:
            matrix = layer.matrix(kernel)
            value = np.linalg.svd(matrix, compute_uv=False).min(initial=1.0)
            if value < 1 - CLOSE:
                yield f"the smallest value of {layer}: {value}"


# -- circulants --------------------------------------------------------------------------------------------------------
def circulant_matrix(kernel: Any, layer: Layer, sizes: tuple[int, ...], skew: tuple[bool, ...]) -> Any:
    """Outputs at every stride of a periodic input of some sizes; what is read across a skew end has the other sign."""
    outputs = [range(0, n, x.stride) for n, x in zip(sizes, layer.axes, strict=True)]
    matrix: Any = np.zeros((*map(len, outputs), layer.rows, *sizes, layer.columns))
    for where in np.ndindex(*map(len, outputs)):
        for tap in np.ndindex(*kernel.shape[2:]):
            reads = [of[at] + x.dilation * t for of, at, x, t in zip(outputs, where, layer.axes, tap, strict=True)]
            sign = math.prod(
                -1 if turn and read // n % 2 else 1 for read, n, turn in zip(reads, sizes, skew, strict=True)
            )
            pixel = tuple(read % n for read, n in zip(reads, sizes, strict=True))
            matrix[(*where, slice(None), *pixel)] += sign * kernel[(..., *tap)]
    return matrix.reshape(math.prod(map(len, outputs)) * layer.rows, -1)


def kernels(layer: Layer, draw: Draw) -> Iterator[Any]:
    shape = (layer.rows, layer.columns, *(x.taps for x in layer.axes))
    yield np.ones(shape)
    yield draw.standard_normal(shape)
    yield np.broadcast_to((-1.0) ** np.indices(shape[2:]).sum(axis=0), shape)


def circulants() -> Iterator[str]:
    for layer, draw in layers(500, 2, "zeros", "zeros", "zeros", "reflect"):
        if (spec := built(layer._replace(rows=1, columns=1))) is None:
            continue
        small = layer._replace(rows=1, columns=1)
        periods = [math.lcm(x.stride, x.dilation) for x in layer.axes]
        least = shortest(spec)
        for off in itertools.product((-1, 0), repeat=len(least)):
            points = tuple(max(1, n + by) for n, by in zip(least, off, strict=True))
            skew = tuple(bool(draw.randint(2)) for _ in points)
            if not is_long_enough(spec, Circulant(points, skew)):
                continue
            sizes = tuple(n * period for n, period in zip(points, periods, strict=True))
            for kernel in kernels(small, draw):
                norm = norm_of(circulant_matrix(kernel, small, sizes, skew))
                if norm_of(small.matrix(kernel)) > norm * (1 + CLOSE):
                    yield f"a circulant of {points} points, {skew}, for {small}"


def periodic_layers() -> Iterator[str]:
    for layer, draw in layers(400, 3, "circular", "circular", "zeros"):
        small = layer._replace(rows=1, columns=1, axes=tuple(x._replace(dilation=1) for x in layer.axes))
        if (spec := built(small)) is None or spec.transposed:
            continue
        for off in itertools.product((-1, 0), repeat=len(small.axes)):
            points = tuple(max(1, n + by) for n, by in zip(spec.block_positions, off, strict=True))
            circulant = Circulant(points, tuple(bool(draw.randint(4) == 0) for _ in points))
            sizes = tuple(n * x.stride for n, x in zip(points, small.axes, strict=True))
            for kernel in kernels(small, draw):
                norm = norm_of(circulant_matrix(kernel, small, sizes, circulant.skew))
                try:
                    bound = padded_norm(assumed(norm, circulant), spec)
                except HypothesisError:
                    break
                if norm_of(small.matrix(kernel)) > bound.value * (1 + CLOSE):
                    yield f"{circulant} for {small}"


def symmetric_layers() -> Iterator[str]:
    for layer, draw in layers(500, 6, "symmetric", "symmetric", "replicate", "zeros"):
        axes = []
        for x in layer.axes:
            r = (x.dilation, 3)[draw.randint(2)]
            before = int(draw.randint(r * (x.taps - 1) + 1))
            after = max(0, r * (x.taps - 1) - before + int(draw.randint(-1, 2)))
            axes.append(Axis(x.taps, x.stride, r, (before, after), x.size + 6))
        small = layer._replace(rows=1, columns=1, axes=tuple(axes))
        if (spec := built(small)) is None or not is_split_by_parity(spec):
            continue
        sizes = tuple(11 * x.stride for x in axes)
        for kernel in kernels(small, draw):
            symbols = float(np.abs(np.fft.fftn(kernel[0, 0], (64,) * spec.ndim, axes=range(spec.ndim))).max())
            if max(spec.stride) > 1:
                symbols = norm_of(circulant_matrix(kernel, small, sizes, (False,) * spec.ndim))
            if norm_of(small.matrix(kernel)) > padded_norm(assumed((1 + 1e-3) * symbols), spec, kernel[None]).value:
                yield f"parts of {small}"


def other_parts() -> Iterator[str]:
    """The norms of all parts by parity but the largest, from parts that are written out tap by tap."""
    draw = Draw(7)
    for before in itertools.product((0, 1, 2), repeat=2):
        padding = [(n, 2 - n) for n in before]
        spec = ConvSpec.of((4, 3, 3, 3), groups=2, padding_mode="symmetric", padding=padding)
        kernels = draw.standard_normal((2, 2, 3, 3, 3))
        kernels[draw.randint(2)] *= 0.1
        sums = []
        for group in kernels:
            parts = []
            for signs in itertools.product((1, -1), repeat=2):
                part: dict[tuple[int, ...], Any] = {}
                for tap, turns in itertools.product(np.ndindex(3, 3), itertools.product((1, -1), repeat=2)):
                    at = tuple(turn * (t - n) for t, n, turn in zip(tap, before, turns, strict=True))
                    sign = math.prod(s for s, turn in zip(signs, turns, strict=True) if turn < 0)
                    part[at] = part.get(at, 0.0) + sign * group[(..., *tap)] / 4
                total = sum(map(abs, part.values()))
                parts.append(float(np.sqrt(total.sum(axis=0).max() * total.sum(axis=1).max())))
            sums.append(sum(sorted(parts)[:-1]))
        found = other_parts_up(kernels, spec)
        if not max(sums) * (1 - 1e-12) <= found <= max(sums) * (1 + CLOSE):
            yield f"parts of {spec}: {found}, not {max(sums)}"


# -- parts -------------------------------------------------------------------------------------------------------------
def norm_of_spec(kernel: Any, spec: ConvSpec) -> float:
    geometry = {name: getattr(spec, name) for name in ("stride", "dilation", "padding_mode", "padding", "transposed")}
    return norm_of(np.asarray(dense_matrix(kernel, spec.input_shape or (), **geometry)))


def near(part: PolyphaseComponent, draw: Draw) -> PolyphaseComponent:
    """A part that has a pixel or an output more or less along some axis, begins elsewhere, or has another stride."""
    axes = list(part.axes)
    at = draw.randint(len(axes))
    axis = axes[at]
    pixels, outputs = (max(1, n + int(draw.randint(-1, 2))) for n in (axis.pixels, axis.outputs))
    before = axis.before + int(draw.randint(-1, 2))
    stride = max(1, axis.stride + (int(draw.randint(-1, 2)) if draw.randint(3) == 0 else 0))
    axes[at] = axis._replace(pixels=pixels, outputs=outputs, before=before, stride=stride)
    return PolyphaseComponent.of(part.spec, tuple(axes))


def restrictions() -> Iterator[str]:
    for layer, draw in layers(800, 4, "zeros", "zeros", "circular", "circular", "reflect", "replicate"):
        small = layer._replace(rows=1, columns=1, transposed=False)
        if (spec := built(small)) is None:
            continue
        for part in polyphase_components(spec)[:2]:
            for other in others(part, draw):
                for kernel in kernels(small, draw):
                    lower = assumed_lower(norm_of_spec(kernel, other.spec), other.spec)
                    try:
                        claim = norm_of_restriction(part, other, lower)
                    except HypothesisError:
                        break
                    if claim.value > norm_of_spec(kernel, part.spec) * (1 + CLOSE):
                        yield f"{other.spec} as a part of {part.spec}"


def others(part: PolyphaseComponent, draw: Draw) -> Iterator[PolyphaseComponent]:
    """Parts that may lie in a part; of a layer that reads copies, layers with another border, stride or dilation."""
    spec = part.spec
    for _ in range(4):
        if spec.reads_zeros:
            yield near(part, draw)
            continue
        pads = [
            [(before, after), (before, 0), (before, 0), (before + 1, 0), (max(0, before - 1), 0), (0, 0)][
                draw.randint(6)
            ]
            for before, after in spec.padding
        ]
        steps: dict[str, Any] = {
            name: tuple(max(1, x - int(draw.randint(4) == 0)) for x in getattr(spec, name)) for name in STEPS
        }
        mode = ("zeros", "replicate", spec.padding_mode, spec.padding_mode)[draw.randint(4)]
        sizes = tuple(max(1, n - int(draw.randint(3))) for n in spec.input_shape or ())
        try:
            changed = replace(spec, padding_mode=mode, padding=tuple(pads), input_shape=sizes, **steps)
            yield PolyphaseComponent(changed, tuple(changed.axes))
        except SpecnormError:
            continue
    yield part.restricted(draw.randint(1, 5))


STEPS = ("stride", "dilation")


def patches() -> Iterator[str]:
    for layer, draw in layers(600, 5, "zeros", "zeros", "reflect", "replicate"):
        small = layer._replace(transposed=False, rows=1, columns=1)
        if (spec := built(small)) is None:
            continue
        for part in polyphase_components(spec):
            if math.prod(axis.outputs for axis in part.axes) > 3:
                continue
            subject = norm_of_stack((1, 1, math.prod(axis.pixels for axis in part.axes)))
            for kernel in kernels(small, draw):
                plain = replace(part.spec, padding_mode="zeros")
                geometry = {name: getattr(plain, name) for name in ("stride", "dilation", "padding_mode", "padding")}
                rows = np.asarray(dense_matrix(kernel, plain.input_shape or (), **geometry))
                value = float(np.linalg.norm(rows, axis=1).max())
                try:
                    norms_of_patch(part, assumed_lower(value, subject), assumed(value, subject))
                except HypothesisError:
                    break
                if abs(norm_of_spec(kernel, part.spec) - value) > CLOSE * value:
                    yield f"a patch of {part.spec}"


CHECKS: dict[str, Callable[[], Iterator[str]]] = {
    x.__name__: x
    for x in (
        kept_values, circulants, periodic_layers, symmetric_layers, other_parts, restrictions, patches,
    )
}  # fmt: skip
