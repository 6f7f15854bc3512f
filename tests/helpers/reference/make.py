"""Makes ``docs/reference-cases.json``: small layers and their norms, proven. Imports nothing of specnorm.

    python -m helpers.reference.make

At one input size: the layer's matrix is written out by the tests' oracle. Entries are small dyadic numbers, so it is
exact, and ``t I - A*A`` is eliminated in ball arithmetic. Over all sizes: `reference.suprema`. Both bounds are rounded
outward to float64. A closed form, where there is one, must lie between the bounds, and replaces them.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from core.soundness import balls
from core.soundness.balls import BITS, Bounds
from flint import arb, ctx
from numpy.typing import NDArray

from helpers.oracle import dense_matrix, padding_pairs, per_axis
from helpers.reference.suprema import plain_blocks, supremum

Float = NDArray[np.float64]
FILE = Path(__file__).parents[3] / "docs" / "reference-cases.json"
RTOL = 1e-9
"""Bounds are at most this far apart, relatively."""


@dataclass(frozen=True, eq=False)
class Case:
    """One layer, before its norm is known."""

    name: str
    kernel: Any
    input_shape: int | Sequence[int] | None = None
    geometry: dict[str, Any] = field(default_factory=dict)
    closed_form: str | None = None

    @property
    def values(self) -> Float:
        return np.asarray(self.kernel, dtype=np.float64)


def case(
    name: str,
    kernel: Any,
    input_shape: int | Sequence[int] | None = None,
    closed_form: str | None = None,
    **geometry: Any,
) -> Case:
    """A case; the geometry is what specnorm's functions take."""
    return Case(name, kernel, input_shape, geometry, closed_form)


def whole(seed: int, *shape: int, halves: bool = False) -> Float:
    """Whole numbers from -3 to 3, or their halves. NumPy froze the stream."""
    values = np.random.RandomState(seed).randint(-3, 4, size=shape).astype(float)
    return values / 2 if halves else values


def placed(shape: Sequence[int], **entries: float) -> Float:
    """Zeros but for entries named by their index, as in ``_0_0_2_2``."""
    values = np.zeros(shape)
    for index, value in entries.items():
        values[tuple(int(i) for i in index.split("_")[1:])] = value
    return values


SUM, DIFFERENCE, BINOMIAL = [[[1, 1]]], [[[1, -1]]], [[[1, 2, 1]]]
ONES = np.ones((1, 1, 3, 3))
LAPLACIAN = [[[[0, 1, 0], [1, -4, 1], [0, 1, 0]]]]
SOBEL = [[[[1, 0, -1], [2, 0, -2], [1, 0, -1]]]]
CORNERS = placed((1, 1, 3, 3), _0_0_0_0=1, _0_0_2_2=1)
# Identity at tap 0, a quarter turn at tap 1: the top singular vectors are (1, i) and (1, -i).
QUARTER_TURN = np.moveaxis(np.array([[[1, 0], [0, 1]], [[0, -1], [1, 0]]], dtype=float), 0, -1)
HADAMARD = np.array([[1, 1], [1, -1]], dtype=float)[:, :, None, None] * placed((1, 1, 2, 3), _0_0_1_2=1)
SIGNED_PERMUTATION = placed((3, 3, 2, 2), _0_1_0_0=1, _1_2_1_0=-1, _2_0_0_1=1)

CASES: tuple[Case, ...] = (
    # -- closed forms ---------------------------------------------------------------------------------------------
    case("sum of neighbours", SUM, 6, "2"),
    case("sum of neighbours, zero padding", SUM, 1, "1", padding_mode="zeros"),
    case("binomial", BINOMIAL, 5, "4"),
    case("binomial, zero padding", BINOMIAL, 3, "2 + sqrt(2)", padding_mode="zeros"),
    case("difference: largest at the highest frequency", DIFFERENCE, 4, "2"),
    case("difference on an odd circle, which has no highest frequency", DIFFERENCE, 3, "sqrt(3)"),
    case("difference on one pixel: wraps to zero", DIFFERENCE, 1, "0"),
    case("ones", ONES, 4, "9"),
    case("ones, zero padding", ONES, 4, "((1 + sqrt(5)) / 2)**4", padding_mode="zeros"),
    case("ones, replicate padding, one pixel", [[[1, 1, 1]]], 1, "3", padding_mode="replicate"),
    case("ones, reflect padding, borders overlap", [[[1, 1, 1, 1, 1]]], 3, padding_mode="reflect"),
    case("Laplacian", LAPLACIAN, 4, "8"),
    case("Laplacian, zero padding", LAPLACIAN, 3, "4 + 2 * sqrt(2)", padding_mode="zeros"),
    case("Sobel", SOBEL, 8, "8"),
    case("Sobel, zero padding", SOBEL, (4, 5), padding_mode="zeros"),
    case("Sobel, reflect padding", SOBEL, (4, 5), padding_mode="reflect"),
    case("quarter turn: complex singular vectors", QUARTER_TURN, 4, "2"),
    case("quarter turn, zero padding", QUARTER_TURN, 5, padding_mode="zeros"),
    case("signed permutation over taps: all singular values equal", SIGNED_PERMUTATION, (4, 3), "1"),
    case("Hadamard at one tap: all singular values equal", HADAMARD, (4, 5), "sqrt(2)"),
    # -- degenerate -----------------------------------------------------------------------------------------------
    case("zero kernel", np.zeros((2, 3, 3, 3)), (4, 4), "0"),
    case("zero kernel, zero padding, stride", np.zeros((2, 1, 3)), 5, "0", padding_mode="zeros", stride=2),
    case("one entry", placed((2, 2, 3, 3), _0_1_0_0=-2.5), (3, 4), "5 / 2"),
    case("one entry, zero padding", placed((2, 2, 3, 3), _0_1_0_0=-2.5), (3, 4), "5 / 2", padding_mode="zeros"),
    case("one entry that never meets the input", placed((1, 1, 3, 3), _0_0_0_0=1), 1, "0", padding_mode="zeros"),
    case("matrix", whole(1, 3, 4, halves=True), ()),
    case("1x1 kernel", whole(2, 4, 3, 1, 1, halves=True), (3, 2), padding_mode="zeros"),
    case("one channel in, four out", whole(3, 4, 1, 3), 6),
    # -- every padding mode, size and amount ----------------------------------------------------------------------
    *(
        case(f"1-D, {mode}", whole(10, 3, 2, 3, halves=True), 5, padding_mode=mode)
        for mode in ("circular", "zeros", "reflect", "replicate")
    ),
    *(
        case(f"1-D, even kernel, {mode}", whole(11, 2, 3, 4), 5, padding_mode=mode)
        for mode in ("circular", "zeros", "reflect", "replicate")
    ),
    *(
        case(f"2-D, 2x3 kernel, {mode}", whole(12, 2, 2, 2, 3), (4, 5), padding_mode=mode)
        for mode in ("circular", "zeros", "reflect", "replicate")
    ),
    *(
        case(f"3-D, 2x1x2 kernel, {mode}", whole(13, 2, 2, 2, 1, 2), (3, 2, 3), padding_mode=mode)
        for mode in ("circular", "zeros", "reflect", "replicate")
    ),
    case("no padding", whole(14, 2, 2, 3, 2), (4, 4), padding_mode="zeros", padding=0),
    case("more padding than same", whole(15, 2, 2, 3), 4, padding_mode="zeros", padding=3),
    case("uneven pads", whole(16, 2, 2, 3, 2), (4, 3), padding_mode="zeros", padding=((0, 2), (1, 0))),
    case("uneven pads, reflect", whole(16, 2, 2, 3, 2), (4, 3), padding_mode="reflect", padding=((0, 2), (1, 0))),
    case("uneven pads, replicate", whole(16, 2, 2, 3, 2), (4, 3), padding_mode="replicate", padding=((0, 2), (1, 0))),
    case("uneven pads, circular: output and input sizes differ", whole(17, 2, 1, 3), 4, padding=((3, 1),)),
    case("kernel larger than the input, circular", whole(18, 2, 2, 5, 5), (3, 3)),
    case("kernel larger than the input, circular, 1-D", whole(19, 1, 2, 7), 2),
    case("kernel larger than the input, zeros", whole(18, 2, 2, 5, 5), (3, 2), padding_mode="zeros"),
    # -- stride and dilation --------------------------------------------------------------------------------------
    case("stride 2, sum of neighbours", SUM, 4, "sqrt(2)", stride=2, padding_mode="zeros", padding=0),
    case("stride 2, 3x4 kernel", whole(20, 2, 2, 3, 4), (6, 4), stride=2),
    *(
        case(f"stride 2 and 1, {mode}", whole(21, 2, 2, 3, 3), (5, 4), stride=(2, 1), padding_mode=mode)
        for mode in ("zeros", "reflect", "replicate")
    ),
    case("stride 3, kernel of 2: inputs that are never read", whole(22, 2, 2, 2), 7, stride=3, padding_mode="zeros"),
    case("stride 2 in 3-D", whole(23, 1, 2, 2, 2, 2), (4, 3, 2), stride=2, padding_mode="zeros"),
    case("dilation 2, circular", whole(82, 2, 2, 3), 6, dilation=2),
    case("dilation 2, circular, odd size", whole(82, 2, 2, 3), 5, dilation=2),
    case("dilation 2 and 1, zeros", whole(25, 2, 1, 3, 2), (5, 4), dilation=(2, 1), padding_mode="zeros"),
    case("dilation 2, reflect", whole(26, 2, 2, 3), 6, dilation=2, padding_mode="reflect"),
    case("dilation 2, stride 2, zeros", whole(27, 2, 2, 3), 8, dilation=2, stride=2, padding_mode="zeros"),
    case("dilation 2, stride 3, zeros", whole(28, 2, 2, 3), 8, dilation=2, stride=3, padding_mode="zeros"),
    # -- groups ---------------------------------------------------------------------------------------------------
    case("two groups", whole(30, 4, 2, 3), 5, groups=2),
    case("depthwise, zeros", whole(31, 3, 1, 3, 3), (4, 4), groups=3, padding_mode="zeros"),
    case("depthwise with multiplier 2, circular", whole(32, 4, 1, 3, 2), (4, 3), groups=2),
    case("depthwise, stride 2, zeros", whole(33, 3, 1, 3, 3), (5, 4), groups=3, stride=2, padding_mode="zeros"),
    case("depthwise, replicate", whole(33, 3, 1, 3, 3), (4, 4), groups=3, padding_mode="replicate"),
    case("groups, dilation and stride", whole(34, 4, 2, 3), 9, groups=2, dilation=2, stride=2, padding_mode="zeros"),
    # -- transposed: the kernel is (in, out / groups, ...) ---------------------------------------------------------
    case("transposed", whole(40, 2, 3, 3), 4, transposed=True, padding_mode="zeros", padding=1),
    case("transposed, stride 2", whole(41, 2, 2, 3, 3), (3, 2), transposed=True, stride=2,
         padding_mode="zeros", padding=1),
    case("transposed, stride 2, nothing cropped", whole(42, 2, 1, 2, 2), (3, 2), transposed=True, stride=2,
         padding_mode="zeros", padding=0),
    case("transposed, uneven crop", whole(43, 2, 2, 4), 4, transposed=True, padding_mode="zeros", padding=((0, 2),)),
    case("transposed, two groups, dilation", whole(44, 4, 1, 3), 4, transposed=True, groups=2, dilation=2,
         padding_mode="zeros", padding=2),
    case("transposed, stride 2, circular", whole(45, 2, 3, 3), 3, transposed=True, stride=2),
    case("transposed in 3-D, stride 2", whole(46, 2, 1, 2, 2, 2), (2, 2, 1), transposed=True, stride=2,
         padding_mode="zeros", padding=0),
    # -- the supremum over all input sizes: circular or zero padding of any amount ---------------------------------
    case("supremum: sum of neighbours", SUM, None, "2"),
    case("supremum: binomial", BINOMIAL, None, "4"),
    case("supremum: difference", DIFFERENCE, None, "2"),
    case("supremum: sum of neighbours, stride 2", SUM, None, "sqrt(2)", stride=2),
    case("supremum: ones", ONES, None, "9"),
    case("supremum: Laplacian", LAPLACIAN, None, "8"),
    case("supremum: Sobel", SOBEL, None, "8"),
    case("supremum: opposite corners, a ridge of maxima", CORNERS, None, "2"),
    case("supremum: quarter turn", QUARTER_TURN, None, "2"),
    case("supremum: signed permutation over taps, flat", SIGNED_PERMUTATION, None, "1"),
    case("supremum: zero kernel", np.zeros((2, 3, 3, 3)), None, "0"),
    case("supremum: one entry", placed((2, 2, 3, 3), _0_1_0_0=-2.5), None, "5 / 2"),
    case("supremum: one channel, 1-D", whole(50, 1, 1, 5)),
    case("supremum: four channels in, one out, 1-D", whole(51, 1, 4, 4, halves=True)),
    case("supremum: one channel, 1-D, stride 2", whole(50, 1, 1, 5), stride=2),
    case("supremum: one channel, 1-D, dilation 2, stride 3", whole(50, 1, 1, 5), dilation=2, stride=3),
    case("supremum: 1-D", whole(52, 3, 2, 3)),
    case("supremum: 2-D", whole(53, 2, 2, 3, 2)),
    case("supremum: 2-D, stride 2, 3x4 kernel", whole(54, 2, 1, 3, 4), stride=2),
    case("supremum: 2-D, stride 2 and 1, dilation 2", whole(55, 1, 2, 2, 3), stride=(2, 1), dilation=2),
    case("supremum: two groups", whole(56, 4, 2, 3), groups=2),
    case("supremum: depthwise, 2-D", whole(57, 3, 1, 3, 3), groups=3),
    case("supremum: transposed, stride 2", whole(58, 2, 3, 3), transposed=True, stride=2),
    case("supremum: 3-D", whole(59, 2, 1, 2, 2, 2)),
)  # fmt: skip


def norm_of(it: Case) -> Bounds:
    kernel, geometry = it.values, dict(it.geometry)
    if it.input_shape is not None:
        return matrix_norm(dense_matrix(kernel, it.input_shape, **geometry))
    ndim = kernel.ndim - 2
    stride, dilation = (per_axis(geometry.get(word, 1), ndim) for word in ("stride", "dilation"))
    bounds = [supremum(block) for block in plain_blocks(kernel, stride, dilation, geometry.get("groups", 1))]
    with ctx.workprec(BITS):
        return Bounds(
            *(functools.reduce(arb.max, values) for values in zip(*((e.low, e.high) for e in bounds), strict=True))
        )


def matrix_norm(matrix: Float) -> Bounds:
    """Proven bounds of the norm of an exact matrix."""
    if not matrix.any():
        return Bounds(arb(0), arb(0))
    return balls.norm(balls.matrix(matrix), balls.exponent_of(matrix))


def evaluated(text: str) -> arb:
    """A closed form made of arithmetic on dyadic numbers, exact in floats, and ``sqrt``, a ball."""
    with ctx.workprec(BITS):
        return arb(eval(text, {"sqrt": lambda n: arb(n).sqrt()}))


def outward(bounds: Bounds) -> tuple[float, float]:
    """Nearest floats that are certainly not above the low end, and not below the high one."""
    return _step(bounds.low, 0.0, lambda f: not arb(f) > bounds.low), _step(
        bounds.high, math.inf, lambda f: arb(f) >= bounds.high
    )


def _step(end: arb, towards: float, right: Callable[[float], bool]) -> float:
    with ctx.workprec(BITS):
        value = float(end.mid())
        while not right(value):
            value = math.nextafter(value, towards)
        return value


def row(it: Case) -> dict[str, Any]:
    """What the file says about a case."""
    kernel, geometry = it.values, dict(it.geometry)
    ndim = kernel.ndim - 2
    dilation = per_axis(geometry.get("dilation", 1), ndim)
    pads = padding_pairs(geometry.get("padding", "same"), kernel.shape[2:], dilation)
    bounds = norm_of(it)
    if it.closed_form is not None:
        exact = evaluated(it.closed_form)
        if exact < bounds.low or exact > bounds.high:
            raise ValueError(f"{it.name}: {it.closed_form} = {exact} is not in [{bounds.low}, {bounds.high}]")
        bounds = Bounds(exact, exact)
    lower, upper = outward(bounds)
    if upper - lower > RTOL * lower:
        raise ValueError(f"{it.name}: [{lower}, {upper}] is too wide")
    return {
        "name": it.name,
        "kernel": _plain(kernel.tolist()),
        "stride": list(per_axis(geometry.get("stride", 1), ndim)),
        "dilation": list(dilation),
        "groups": geometry.get("groups", 1),
        "transposed": geometry.get("transposed", False),
        "padding_mode": geometry.get("padding_mode", "circular"),
        "padding": [list(pair) for pair in pads],
        "input_shape": None if it.input_shape is None else list(per_axis(it.input_shape, ndim)),
        "lower": lower,
        "upper": upper,
        "closed_form": it.closed_form,
    }


def _plain(x: Any) -> Any:
    """Whole numbers without a point."""
    if isinstance(x, list):
        return [_plain(y) for y in x]
    return int(x) if x == int(x) else x


def main() -> None:
    rows = ",\n".join(json.dumps(row(it)) for it in CASES)
    FILE.write_text(f'{{"version": 1, "rtol": {RTOL}, "cases": [\n{rows}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
