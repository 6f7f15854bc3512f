"""Bound one operator by itself: the rules of the README of this folder, Networks.

A rule is for an operator whose first input is computed; the others are arrays of the
file. It gives a factor f: a difference d of the first input makes one of at most f |d|.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from specnorm_check.arithmetic import Array, require, root_up
from specnorm_check.graphs import Graph, Node
from specnorm_check.layers import Axis

SLOPES = {
    "Abs": (-1.0, 1.0),
    "Asinh": (0.0, 1.0),
    "Atan": (0.0, 1.0),
    "Clip": (0.0, 1.0),
    "Cos": (-1.0, 1.0),
    "Erf": (0.0, 1.12838),
    "Gelu": (-0.12895, 1.12895),
    "HardSwish": (-0.5, 1.5),
    "Mish": (-0.1126, 1.0886),
    "Relu": (0.0, 1.0),
    "Sigmoid": (0.0, 0.25),
    "Sin": (-1.0, 1.0),
    "Softplus": (0.0, 1.0),
    "Softsign": (0.0, 1.0),
    "Swish": (-0.0999, 1.0999),
    "Tanh": (0.0, 1.0),
}
"""The least and the largest slope of functions of each entry without parameters."""
DEFAULT_ALPHA = {"LeakyRelu": 0.01, "HardSigmoid": 0.2, "Selu": 1.67326319217681885}
FACTOR_ONE = {"Neg", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMin", "TopK"}
SUMS = {"Add", "Sub", "Sum"}
POOLS = {"AveragePool", "MaxPool"}
REDUCTIONS = {"ReduceMean", "ReduceSum"}
SEVERAL = "several operators"  # which Lemma 9 has read; no operator has this name

ONE = Fraction(1)
ROUNDING = 1 + Fraction(1, 2**50)  # 8 times 2^-53: covers 7 roundings; at most 4 occur
LEAST_PRODUCT = 2.0**-800  # far above the subnormal numbers, whose roundings are larger


def factor_of_operator(graph: Graph, name: str) -> Fraction | None:
    """Return the factor of the operator that computes a value, or None without a rule."""
    node = graph.nodes[name]
    slopes = slopes_of(node)
    if slopes is not None:
        return largest_slope(slopes)
    if node.op in FACTOR_ONE:
        return ONE
    if node.op == "Softmax":
        return ONE / 2
    if node.op == "LogSoftmax":
        axis = node.attributes.get("axis", -1)
        return root_up(Fraction(graph.shape_of(name)[axis]))
    if node.op == "BatchNormalization":
        largest = np.abs(normalising_factors(graph, node)).max()
        return Fraction(float(largest)) * ROUNDING
    if node.op in ("Mul", "Div"):
        return factor_of_numbers(graph, name)
    if node.op in POOLS:
        return factor_of_pool(graph, name)
    if node.op in REDUCTIONS:
        return factor_of_reduction(graph, name)
    return None


# -- functions of each entry -----------------------------------------------------------
def slopes_of(node: Node) -> tuple[float, float] | None:
    """Return the least and the largest slope of a function of each entry.

    None: the operator is no such function.
    """
    given = node.attributes
    # ONNX's defaults are float32.
    default = float(np.float32(DEFAULT_ALPHA.get(node.op, 1.0)))
    alpha = given.get("alpha", default)
    ends: tuple[float, ...]
    if node.op == SEVERAL:
        ends = given["slopes"]
    elif node.op in ("LeakyRelu", "PRelu"):
        ends = 1.0, *given.get("alphas", [alpha])
    elif node.op == "Elu":
        ends = 0.0, 1.0, alpha
    elif node.op == "Selu":
        gamma = given.get("gamma", float(np.float32(1.05070102)))
        ends = 0.0, gamma, gamma * alpha * float(ROUNDING)
    elif node.op == "HardSigmoid":
        ends = 0.0, alpha
    elif node.op == "Celu" and alpha > 0:
        ends = 0.0, 1.0
    else:
        return SLOPES.get(node.op)
    require(np.isfinite(ends).all(), f"a {node.op} with NaN or infinity")
    return min(ends), max(ends)


def largest_slope(slopes: tuple[float, float]) -> Fraction:
    """Return the largest absolute slope."""
    return Fraction(max(-slopes[0], slopes[1]))


# -- products and quotients ------------------------------------------------------------
def normalising_factors(graph: Graph, node: Node) -> Array:
    """Return the number by which a batch normalization multiplies each channel."""
    _, scale, _, _, variance = node.inputs
    gamma = graph.arrays[scale].astype(np.float64)
    sigma_square = graph.arrays[variance].astype(np.float64)
    default = float(np.float32(1e-5))
    epsilon = node.attributes.get("epsilon", default)
    message = "a batch normalization divides by 0, or has numbers that are not finite"
    require(sigma_square.min() >= 0, message)
    with np.errstate(invalid="ignore", divide="ignore"):
        roots = np.sqrt(sigma_square + epsilon)
        require(np.isfinite(gamma / roots).all(), message)
    return product_rounded_once(gamma, 1 / roots)


def factor_of_numbers(graph: Graph, name: str) -> Fraction | None:
    """Return the factor of a Mul or Div by constants; None if it broadcasts the value."""
    value, constant = graph.nodes[name].inputs
    if not graph.have_shape([value], name):
        return None
    numbers = np.abs(graph.arrays[constant].astype(np.float64))
    require(np.isfinite(numbers).all(), "a product with NaN or infinity")
    if graph.nodes[name].op == "Mul":
        return Fraction(float(numbers.max()))
    least = float(numbers.min())
    require(least > 0, "a Div by 0")
    return ONE / Fraction(least)


def product_rounded_once(a: Array, b: Array) -> Array:
    """Return a product of floats, each entry with a relative error of one rounding.

    A product that is so small that float64 may round it more coarsely is refused.
    """
    rounded = np.asarray(a * b)
    is_normal = np.abs(rounded) > LEAST_PRODUCT
    is_zero = (a == 0) | (b == 0)
    is_rounded_once = is_normal | is_zero
    require(is_rounded_once.all(), "numbers so small that products are inexact")
    return rounded


# -- sums ------------------------------------------------------------------------------
def factor_of_reduction(graph: Graph, name: str) -> Fraction | None:
    """Return the factor of sums or means of the same number of entries."""
    node = graph.nodes[name]
    before = graph.shapes.get(node.inputs[0])
    after = graph.shapes.get(name)
    if before is None or after is None:
        return None
    entries = Fraction(math.prod(before), math.prod(after))
    return root_up(1 / entries if node.op == "ReduceMean" else entries)


def root_of_squares(numbers: Sequence[Fraction]) -> Fraction:
    """Return the root of the sum of the squares of numbers, rounded up."""
    return root_up(sum((x**2 for x in numbers), Fraction(0)))


# -- windows ---------------------------------------------------------------------------
def factor_of_pool(graph: Graph, name: str) -> Fraction | None:
    """Return the factor of pooling, or None without a rule."""
    node = graph.nodes[name]
    axes = axes_of_windows(node, node.attributes["kernel_shape"])
    sizes = graph.shapes.get(node.inputs[0], ())[2:]
    outputs = [axis.outputs(n) for axis, n in zip(axes, sizes, strict=False)]
    if len(sizes) != len(axes) or min(outputs) < 1:
        return None  # windows larger than the input are averages of fewer pixels
    steps = [axis.stride // math.gcd(axis.stride, axis.dilation) for axis in axes]
    square = ONE
    if node.op == "MaxPool":
        for axis, step in zip(axes, steps, strict=True):
            square *= -(-axis.taps // step)  # windows of a pixel: rounded up
        return root_up(square)
    is_padded = any(axis.padding_before or axis.padding_after for axis in axes)
    if is_padded and not node.attributes.get("count_include_pad"):
        return None  # windows beyond the border are averages of fewer pixels
    for axis, step in zip(axes, steps, strict=True):
        common = [axis.taps - distance for distance in range(0, axis.taps, step)]
        square *= Fraction(2 * sum(common) - axis.taps, axis.taps**2)
    return root_up(square)


def axes_of_windows(node: Node, taps: Sequence[int]) -> tuple[Axis, ...]:
    """Return the geometry of a Conv or a pool, with ``taps`` taps on each axis."""
    count = len(taps)
    strides = node.attributes.get("strides", [1] * count)
    dilations = node.attributes.get("dilations", [1] * count)
    pads = node.attributes.get("pads", [0] * 2 * count)
    message = f"no rule is for such a {node.op}"
    lengths = [len(strides), len(dilations), len(pads)]
    require(lengths == [count, count, 2 * count], message)
    require(min([1, *taps, *strides, *dilations]) > 0 and min([0, *pads]) >= 0, message)
    geometry = zip(taps, strides, dilations, pads[:count], pads[count:], strict=True)
    return tuple(Axis(*numbers) for numbers in geometry)
