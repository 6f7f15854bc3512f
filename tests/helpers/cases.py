"""The cases of every package's tests: kernels and layers, drawn by hypothesis, and the functions of kernels.

What is drawn is a *recipe*: shape, family, dtype, scale and a seed for the contents. It prints in one line, and shrinks
in no time because no array is ever drawn. Add the shape or family that broke something here, not only as one more case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

import specnorm
from helpers.oracle import PaddingMode, output_shape, padding_pairs, per_axis
from specnorm.methods import FantasticFour, Grid

Shape = tuple[int, ...]
Random = np.random.RandomState

FEW_LAYERS: tuple[tuple[Shape, Shape], ...] = (
    ((3, 2), ()), ((1, 2, 4), (3,)), ((4, 4, 3, 3), (4, 5)), ((2, 1, 2, 1, 2), (2, 3, 2)),
)  # fmt: skip
"""Kernel and input shapes for libraries that compile anew for every shape: 0 to 3 axes, one channel, rectangular, even,
a kernel larger than its input."""

SCALES = {"float32": (0, 30, -30), "float64": (0, 200, -200)}
"""Decimal exponents of the kernel's scale, per dtype."""


def _one_entry(random: Random, shape: Shape) -> NDArray[Any]:
    kernel = np.zeros(shape)
    kernel[tuple(random.randint(n) for n in shape)] = random.choice([-1.0, 0.3, 1.0, 2.5])
    return kernel


def _rank_one(random: Random, shape: Shape) -> NDArray[Any]:
    kernel = np.ones(())
    for n in shape:
        kernel = np.multiply.outer(kernel, random.standard_normal(n))
    return kernel


def _zero_mean(random: Random, shape: Shape) -> NDArray[Any]:
    """Stencils whose symbol vanishes at frequency 0: small integers, the last tap making up for the others."""
    kernel = random.randint(-3, 4, size=(*shape[:2], math.prod(shape[2:]))).astype(float)
    kernel[..., -1] -= kernel.sum(axis=-1)
    return kernel.reshape(shape)


def _orthogonal(random: Random, shape: Shape) -> NDArray[Any]:
    """One tap an orthogonal matrix (cut to shape), the rest almost nothing: every singular value near 1."""
    size = max(shape[:2])
    q = np.linalg.qr(random.standard_normal((size, size)))[0][: shape[0], : shape[1]]
    kernel = 1e-3 * random.randint(0, 2) * random.standard_normal((*shape[:2], math.prod(shape[2:])))
    kernel[..., random.randint(kernel.shape[2])] += q
    return kernel.reshape(shape)


def _corners(random: Random, shape: Shape) -> NDArray[Any]:
    """Two opposite corner taps: |G| is a single cosine, the worst case of every lemma about cells and grids."""
    kernel = np.zeros(shape)
    sign = random.choice([-1.0, 1.0])
    signs = random.choice([-1, 1], size=len(shape) - 2)
    flip = tuple(slice(None, None, int(step)) for step in signs)
    kernel[(0, 0, *(0 for _ in signs))] = 1.0
    kernel[(0, 0, *(-1 for _ in signs))] += sign
    return kernel[:, :, *flip]


FAMILIES: dict[str, Callable[[Random, Shape], NDArray[Any]]] = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "integer": lambda random, shape: random.randint(-2, 3, size=shape).astype(float), "one_entry": _one_entry,
    "zero": lambda _, shape: np.zeros(shape), "rank_one": _rank_one, "corners": _corners, "zero_mean": _zero_mean,
    "orthogonal": _orthogonal, "ones": lambda _, shape: np.ones(shape),
    "spread": lambda random, shape: random.standard_normal(shape) * 10.0 ** random.uniform(-6, 0, size=shape),
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """A kernel in one line: the same recipe is the same array on every machine."""

    shape: Shape
    family: str = "normal"
    dtype: str = "float64"
    scale: int = 0
    seed: int = 0

    @property
    def kernel(self) -> NDArray[Any]:
        random = np.random.RandomState(self.seed)
        contents = FAMILIES[self.family](random, self.shape)
        return (contents * 10.0**self.scale).astype(self.dtype)

    @property
    def eps(self) -> float:
        return float(np.finfo(self.dtype).eps)


@dataclass(frozen=True)
class Layer:
    """A recipe with the rest of the problem; ``geometry`` holds keywords that the library and the oracle both take."""

    recipe: Recipe
    input_shape: Shape
    geometry: dict[str, Any] = field(default_factory=dict)

    @property
    def kernel(self) -> NDArray[Any]:
        return self.recipe.kernel


@st.composite
def shapes(draw: st.DrawFn, *, ndims: Sequence[int] = (0, 1, 2, 3), max_channels: int = 5) -> Shape:
    """(cout, cin, *kernel_shape): rectangular, even and odd, 1x1 and one channel included."""
    ndim = draw(st.sampled_from(ndims))
    largest = {0: 1, 1: 8, 2: 5, 3: 3}[ndim]
    channels = [draw(st.integers(1, max_channels)) for _ in range(2)]
    return (*channels, *(draw(st.integers(1, largest)) for _ in range(ndim)))


@st.composite
def recipes(
    draw: st.DrawFn,
    *,
    shape: st.SearchStrategy[Shape] | None = None,
    dtypes: Sequence[str] = ("float32", "float64"),
    families: Sequence[str] = tuple(FAMILIES),
    scaled: bool = True,
) -> Recipe:
    """Any kernel: families, dtypes and (unless ``scaled`` is false) huge and tiny scales."""
    drawn = draw(shapes() if shape is None else shape)
    dtype = draw(st.sampled_from(dtypes))
    family = draw(st.sampled_from(families))
    scale = draw(st.sampled_from(SCALES[dtype])) if scaled else 0
    return Recipe(drawn, family, dtype, scale, draw(st.integers(0, 999)))


@st.composite
def circular_layers(
    draw: st.DrawFn,
    *,
    few: bool = False,
    dtypes: Sequence[str] = ("float32", "float64"),
    families: Sequence[str] = tuple(FAMILIES),
    scaled: bool = True,
    max_matrix: int = 150,
) -> Layer:
    """Stride 1 on a torus, inputs smaller than the kernel included; the dense matrix stays below ``max_matrix``.

    With ``few``, shapes and dtypes come from `FEW_LAYERS`: each dtype on every other shape.
    """
    if few:
        index = draw(st.integers(0, len(FEW_LAYERS) - 1))
        shape, input_shape = FEW_LAYERS[index]
        dtype = dtypes[index % len(dtypes)]
        recipe = draw(recipes(shape=st.just(shape), dtypes=(dtype,), families=families, scaled=scaled))
        return Layer(recipe, input_shape)
    recipe = draw(recipes(dtypes=dtypes, families=families, scaled=scaled))
    return Layer(recipe, _input_shape(draw, recipe.shape, max_matrix // max(recipe.shape[:2])))


def _input_shape(draw: st.DrawFn, shape: Shape, positions: int) -> Shape:
    sizes: list[int] = []
    for k in shape[2:]:
        room = max(1, positions // math.prod(sizes))
        sizes.append(draw(st.integers(1, max(1, min(room, 2 * k + 2)))))
    return tuple(sizes)


@st.composite
def layers(
    draw: st.DrawFn,
    *,
    ndims: Sequence[int] = (0, 1, 2, 3),
    modes: Sequence[PaddingMode] = ("circular", "zeros", "reflect", "symmetric", "replicate"),
    plain: bool = False,
    around: bool = False,
    dtypes: Sequence[str] = ("float32", "float64"),
    max_matrix: int = 150,
) -> Layer:
    """Any layer: stride (dividing or not), dilation, groups, transposed, every padding mode and amount.

    With ``plain`` only the padding varies; with ``around`` circular padding may be of any amount, not only "same".
    """
    cout, cin, *kernel_shape = draw(shapes(ndims=ndims, max_channels=3))
    ndim = len(kernel_shape)
    groups = 1 if plain else draw(st.sampled_from((1, 1, 2, 3)))
    transposed = not plain and draw(st.booleans())
    mode = draw(st.sampled_from([m for m in modes if not transposed or m in ("circular", "zeros")]))
    stride = tuple(1 if plain else draw(st.integers(1, 3)) for _ in range(ndim))
    dilation = tuple(1 if plain else draw(st.integers(1, 3)) for _ in range(ndim))
    amount: Any = "same"
    if mode != "circular" or (around and not transposed):
        amount = draw(st.sampled_from(("same", 0, 1, 2, "uneven")))
    if amount == "uneven":
        amount = [(draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(ndim)]
    recipe = draw(recipes(shape=st.just((cout * groups, cin, *kernel_shape)), dtypes=dtypes))
    positions = max_matrix // (groups * max(cout, cin))
    sizes = list(_input_shape(draw, recipe.shape, positions))
    pads = padding_pairs(amount, kernel_shape, dilation)
    for j, (before, after) in enumerate(pads):
        reach = dilation[j] * (kernel_shape[j] - 1) + 1
        if transposed:
            while (sizes[j] - 1) * stride[j] + reach - before - after < 1:
                sizes[j] += 1
        else:
            least = max(before, after) + 1 if mode == "reflect" else max(1, before, after) if mode == "symmetric" else 1
            sizes[j] = max(sizes[j], least, reach - before - after)
            if mode == "circular":
                sizes[j] = -(-sizes[j] // stride[j]) * stride[j]
    geometry: dict[str, Any] = {"padding_mode": mode, "padding": amount} if ndim else {}
    if not plain:
        geometry |= {"stride": stride, "dilation": dilation, "groups": groups, "transposed": transposed}
    if not transposed:
        assert min(output_shape(kernel_shape, sizes, per_axis(stride, ndim), dilation, pads), default=1) >= 1
    return Layer(recipe, tuple(sizes), geometry)


def functions(size: int = 7, k: int = 3) -> dict[str, Callable[[Any], Any]]:
    """Every differentiable function of a kernel; for the last one it is a stack of matrices."""
    return {
        "tn_bound": lambda x: specnorm.tn_bound(x, proven=False), "f4_bound": specnorm.f4_bound,
        "unfolding_bounds": specnorm.unfolding_bounds, "gram_bound": lambda x: specnorm.gram_bound(x, size),
        "grid_bound": specnorm.grid_bound, "conv_norm": lambda x: specnorm.conv_norm(x, size),
        "singular_values": lambda x: specnorm.singular_values(x, 5, k=k), "gram_bound, every size": specnorm.gram_bound,
        "power_norm": lambda x: specnorm.power_norm(x, size, padding_mode="zeros"),
        "reshaped_norm": specnorm.reshaped_norm, "symbol_norm": specnorm.symbol_norm,
        "matrix_norm": specnorm.matrix_norm,
    }  # fmt: skip


def _at_a_size(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, **geometry: function(x, **{"input_shape": 6, **geometry})


PUBLIC: dict[str, Callable[..., Any]] = {
    "tn_bound": specnorm.tn_bound, "f4_bound": specnorm.f4_bound, "unfolding_bounds": specnorm.unfolding_bounds,
    "gram_bound": _at_a_size(specnorm.gram_bound), "grid_bound": specnorm.grid_bound,
    "completion_bound": specnorm.completion_bound,
    "complete": lambda x, **geometry: specnorm.complete(x, **geometry).bound,
    "conv_norm": _at_a_size(specnorm.conv_norm), "singular_values": _at_a_size(specnorm.singular_values),
    "reshaped_norm": specnorm.reshaped_norm, "symbol_norm": specnorm.symbol_norm,
    "power_norm": _at_a_size(specnorm.power_norm), "gram_rescaling": specnorm.gram_rescaling,
    "enclose": lambda x, **geometry: specnorm.enclose(x, **geometry).upper,
    "enclose_smallest": lambda x, **geometry: specnorm.enclose_smallest(x, **geometry).upper,
    "condition_number": lambda x, **geometry: specnorm.condition_number(x, **geometry).upper,
    "isometry_bound": specnorm.isometry_bound,
    "enclose_isometry": lambda x, **geometry: specnorm.enclose_isometry(x, **geometry).upper,
    "is_isometry": lambda x, **geometry: specnorm.is_isometry(x, 0.5, **geometry),
    "certify": lambda x, **geometry: specnorm.certify(x, 1.0, **geometry),
    "measure": lambda x, **geometry: specnorm.measure(x, Grid(), **geometry).value,
    "compare": lambda x, **geometry: specnorm.compare(x, **geometry)["f4"].value, "lmo": specnorm.lmo,
    "rescale": specnorm.rescale, "clip": specnorm.clip,
    "value_and_grad": lambda x, **geometry: specnorm.value_and_grad(x, FantasticFour(), **geometry)[1],
}  # fmt: skip
"""Numbers of every public function of a kernel, to be called with geometry by keyword."""
