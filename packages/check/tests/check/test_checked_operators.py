"""What specnorm_check reads of one operator is what onnx's reference evaluator computes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import specnorm_check
from specnorm_check import Refused, Together, curves
from specnorm_check.matrices import step_of, values_between
from specnorm_check.maxima import MADE
from specnorm_check.moves import MOVES, copies_of, moved
from specnorm_check.parts import TermReader
from specnorm_check.rules import SLOPES, factor_of_operator, slopes_of

pytest.importorskip("onnx", reason="ONNX files: pip install onnx")

import onnx
from check.test_checked_networks import file_of, node
from helpers.onnx_models import jacobian
from onnx.reference import ReferenceEvaluator

IMAGE, ROWS = (1, 4, 4, 6), (3, 4)
Case = tuple[Any, tuple[int, ...], dict[str, Any]]


def pads(*numbers: int) -> dict[str, Any]:
    return {"p": np.array(numbers)}


MOVED: dict[str, Case] = {
    "constants": (node("Pad", "x p"), IMAGE, pads(0, 1, 0, 2, 0, 0, 3, 0)),
    "named axes": (node("Pad", "x p q a", mode="edge"), IMAGE, {**pads(1, 2), "a": np.array([-1]), "q": np.array(0.0)}),
    "the edge": (node("Pad", "x p", mode="edge"), IMAGE, pads(0, 1, 5, 2, 0, 0, 3, 0)),
    "mirrored": (node("Pad", "x p", mode="reflect"), IMAGE, pads(0, 3, 2, 5, 0, 0, 3, 1)),
    "the other end": (node("Pad", "x p", mode="wrap"), IMAGE, pads(0, 4, 2, 1, 0, 0, 3, 6)),
    "tiles": (node("Tile", "x r"), ROWS, {"r": np.array([2, 3])}),
    "rows and columns": (node("GatherND", "x i"), ROWS, {"i": np.array([[[0, 1]], [[2, -1]], [[0, 1]]])}),
    "rows": (node("GatherND", "x i"), ROWS, {"i": np.array([[1], [1], [0], [-1]])}),
    "an upper triangle": (node("Trilu", "x k"), ROWS, {"k": np.array(1)}),
    "a lower triangle": (node("Trilu", "x", upper=0), ROWS, {}),
    "depth, columns last": (node("DepthToSpace", "x", blocksize=2), IMAGE, {}),
    "depth, columns first": (node("DepthToSpace", "x", blocksize=2, mode="CRD"), IMAGE, {}),
    "space": (node("SpaceToDepth", "x", blocksize=2), IMAGE, {}),
    "a mask": (node("Where", "m x c"), ROWS, {"m": np.eye(3, 4, dtype=bool), "c": np.zeros((2, 1, 1))}),
    "a mask of the value": (node("Where", "m c x"), ROWS, {"m": np.eye(3, 4, dtype=bool), "c": np.zeros(1)}),
    "every other, backwards": (
        node("Slice", "x b e a t"), ROWS,
        {"b": np.array([-1]), "e": np.array([-9]), "a": np.array([1]), "t": np.array([-2])},
    ),
    "all axes": (node("Slice", "x b e"), ROWS, {"b": np.array([1, 0]), "e": np.array([3, 2])}),
    "twice": (node("Concat", "x x", axis=-1), ROWS, {}),
    "itself": (node("Identity", "x"), ROWS, {}),
}  # fmt: skip
SQUARE = np.cos(np.arange(16.0)).reshape(4, 4)
KERNEL = np.cos(np.arange(72.0)).reshape(4, 2, 3, 3)
GEOMETRY: dict[str, Any] = {
    "strides": [2, 3], "pads": [1, 0, 0, 2], "dilations": [2, 1], "output_padding": [1, 2], "group": 2,
}  # fmt: skip
LINEAR: dict[str, Case] = {
    "less a mean": (node("Sub", "x m"), ROWS, {}),
    "less its first row": (node("Sub", "x f"), ROWS, {}),
    "a product that spreads": (node("Mul", "x c"), ROWS, {"c": np.cos(np.arange(6.0)).reshape(2, 3, 1)}),
    "minus": (node("Neg", "x"), ROWS, {}),
    "three": (node("Sum", "x c x"), ROWS, {"c": np.ones(ROWS)}),
    "from the right": (node("MatMul", "x w"), ROWS, {"w": SQUARE[:, :2]}),
    "from the left": (node("MatMul", "w x"), ROWS, {"w": SQUARE[:, :3]}),
    "a stack from the right": (node("MatMul", "x w"), ROWS, {"w": np.stack([SQUARE, SQUARE.T])}),
    "a stack from the left": (node("MatMul", "w x"), (2, 3, 4), {"w": SQUARE[:2, :3]}),
    "over rows": (node("Einsum", "x w", equation="ij,ik->kj"), ROWS, {"w": SQUARE[:3, :2]}),
    "over all": (node("Einsum", "w x", equation="ki, ij -> k"), ROWS, {"w": SQUARE[:, :3]}),
    "a diagonal": (node("Einsum", "x w", equation="iij,k->jki"), (3, 3, 2), {"w": SQUARE[0]}),
    "sums": (node("CumSum", "x a"), ROWS, {"a": np.array(-1)}),
    "sums before": (node("CumSum", "x a", exclusive=1), ROWS, {"a": np.array(0)}),
    "sums of the rest": (node("CumSum", "x a", reverse=1), ROWS, {"a": np.array(1)}),
    "sums before, by a truth value of 2": (node("CumSum", "x a", exclusive=2), ROWS, {"a": np.array(0)}),
    "sums behind": (node("CumSum", "x a", reverse=1, exclusive=1), ROWS, {"a": np.array(1)}),
    "a transposed layer": (node("ConvTranspose", "x k"), IMAGE, {"k": KERNEL}),
    "with all it may have": (node("ConvTranspose", "x k b", **GEOMETRY), IMAGE, {"k": KERNEL, "b": np.ones(4)}),
    "rows that are added": (
        node("ScatterND", "c i x", reduction="add"), ROWS, {"c": np.zeros((2, 4)), "i": np.array([[1], [0], [1]])}),
    "rows that are put": (
        node("ScatterND", "c i x"), ROWS, {"c": np.ones((4, 4)), "i": np.array([[3], [0], [1]])}),
    "entries that are put": (
        node("ScatterND", "x i u"), ROWS, {"u": np.ones(2), "i": np.array([[0, 1], [2, -1]])}),
    "entries that are added": (
        node("ScatterElements", "c i x", axis=1, reduction="add"), ROWS,
        {"c": np.zeros((3, 2)), "i": np.array([[0, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, -1]])}),
    "added to itself": (
        node("ScatterElements", "x i x", reduction="add"), ROWS, {"i": np.arange(12).reshape(ROWS) % 3}),
}  # fmt: skip
EXTREMES: dict[str, Case] = {
    "the larger of two": (node("Max", "a b"), (2, 6), {}),
    "the least of three": (node("Min", "b c a"), (2, 6), {"c": np.zeros((2, 3))}),
    "at least a number": (node("Max", "x c"), (2, 6), {"c": np.array(0.25)}),
    "the largest of an axis": (node("ReduceMax", "x i"), (2, 3, 4), {"i": np.array([-1])}),
    "the least of an axis": (node("ReduceMin", "x i", keepdims=0), (2, 3, 4), {"i": np.array([1])}),
    "windows": (node("MaxPool", "x", kernel_shape=[2, 3], strides=[2, 1], dilations=[1, 2]), (1, 2, 5, 7), {}),
    "sorted": (node("TopK", "x k", "y i", axis=0, largest=0), (5, 3), {"k": np.array([5])}),
    "the largest three": (node("TopK", "x k", "y i"), (3, 5), {"k": np.array([3])}),
    "of minus": (node("Relu", "n"), (2, 6), {}),
}  # fmt: skip
BEFORE = {
    "x m": [node("ReduceMean", "x i", "m")], "x f": [node("Slice", "x i e", "f")], "n": [node("Neg", "x", "n")],
    **{key: [node("Split", "x", "a b", axis=1, num_outputs=2)] for key in ("a b", "b c a")},
}  # fmt: skip
AXES = {"x m": {"i": np.array([1])}, "x f": {"i": np.array([0]), "e": np.array([1])}}


def read(case: Case) -> tuple[Any, Any, tuple[int, ...]]:
    """The network that the checker reads, ONNX's model, and the input's shape."""
    one, shape, arrays = case
    inputs = " ".join(one.input)
    nodes = [*BEFORE.get(inputs, []), one]
    content = file_of(nodes, shape, {**arrays, **AXES.get(inputs, {})}, opset=19)
    return specnorm_check.Network(content, list(shape)), onnx.ModelProto.FromString(content), shape


def run(model: Any, x: Any) -> Any:
    return ReferenceEvaluator(model).run(["y"], {"x": x})[0]  # type: ignore[index]


def wrongly_moved() -> Iterator[str]:
    for name, case in MOVED.items():
        network, model, shape = read(case)
        numbers = np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
        truth = run(model, numbers)
        after = moved(network, "y", {"x": numbers})
        _, counts = np.unique(truth[truth != 0], return_counts=True)
        if after.shape != truth.shape or (after != truth).any() or copies_of(network, "y") != {"x": counts.max()}:
            yield name


def test_entries_are_moved_as_onnx_moves_them() -> None:
    assert [*wrongly_moved()] == []
    assert {one.op_type for one, _, _ in MOVED.values()} <= MOVES


def drawn_moves(seed: int) -> tuple[list[Any], dict[str, Any]]:
    """Operators that move the entries of an image, one after the other, often whole channels."""
    draw, nodes, arrays = np.random.RandomState(seed), list[Any](), dict[str, Any]()
    for at in range(1 + seed % 3):
        x, y = f"y{at - 1}" if at else "x", f"y{at}"
        first, last, step = draw.randint(0, 2), draw.randint(3, 7), draw.randint(1, 3)
        some = {"i": draw.permutation(4)[: draw.randint(2, 5)], "s": [first, 0], "e": [last, 9], "t": [step, 1]}
        some |= {"p": [0, draw.randint(2), 0, 0, 0, draw.randint(2), 0, 0], "c": np.ones((1, 1, 4, 6)), "z": [0, 0]}
        some |= {"a": [draw.choice([1, 2, 3]), 0]}
        arrays |= {f"{name}{at}": np.array(array) for name, array in some.items()}
        nodes.append([
            node("Gather", f"{x} i{at}", y, axis=1), node("Pad", f"{x} p{at}", y), node("Flatten", x, y),
            node("Slice", f"{x} s{at} e{at} a{at} t{at}", y), node("Slice", f"{x} z{at} e{at} a{at} t{at}", y),
            node("Concat", f"{x} {x}", y, axis=1), node("Transpose", x, y, perm=[0, 1, 3, 2]),
        ][draw.randint(7)])  # fmt: skip
    return nodes, arrays


def test_channels_that_a_part_reads_are_those_of_onnx() -> None:
    """Of a value of a part, by whatever moves its entries: the rows are its channels, all else is constant."""
    read_ones = 0
    for seed in range(120):
        nodes, arrays = drawn_moves(seed)
        end = nodes[-1].output[0]
        try:
            content = file_of([*nodes, node("Identity", end)], IMAGE, arrays)
            network = specnorm_check.Network(content, list(IMAGE))
            reader = TermReader(network, Together(("x", "y"), (np.ones(4), np.ones(1))))
            readings = [*reader.readings(1, end)]
        except (Refused, LookupError, ValueError, onnx.shape_inference.InferenceError):
            continue
        numbers = np.arange(1.0, 1 + np.prod(IMAGE)).reshape(IMAGE)
        truth = run(onnx.ModelProto.FromString(content), numbers)
        made = np.zeros(truth.shape)
        for found in readings:
            every = [slice(None, None, step) for step in found.steps]
            channels = numbers.reshape(found.shape)[:, found.channels][:, :, *every]
            made[:, found.rows] = channels[:, :, *(slice(size) for size in truth.shape[2:])]
        assert np.array_equal(made, truth), [one.op_type for one in nodes]
        read_ones += 1
    assert read_ones > 40


def transposed(x: Any) -> Any:
    """What a transposed layer with `GEOMETRY` makes of an image; onnx's evaluator computes no such groups."""
    y = np.zeros((1, 4, 11, 18))
    for n, i, j, o, t, u in np.ndindex(4, 4, 6, 2, 3, 3):
        row, column = 2 * i + 2 * t - 1, 3 * j + u
        if 0 <= row < 11 and column < 18:
            y[0, n // 2 * 2 + o, row, column] += KERNEL[n, o, t, u] * x[0, n, i, j]
    return y


def wrong_matrices() -> Iterator[str]:
    for name, case in LINEAR.items():
        network, model, shape = read(case)
        size = int(np.prod(shape))
        matrices: dict[str, Any] = {"x": np.eye(size).reshape(*shape, size)}
        for value in values_between(network, "x", "y"):
            step = step_of(network, value)
            matrices[value] = step.apply(step.weights, [matrices[source] for source in step.sources])
        matrix = matrices["y"].reshape(-1, size)
        for x in np.random.default_rng(0).standard_normal((3, *shape)):
            is_grouped = name == "with all it may have"
            truth = transposed(x) if is_grouped else run(model, x) - run(model, np.zeros(shape))
            has_shape = matrices["y"].shape[:-1] == truth.shape
            if not has_shape or not np.allclose(matrix @ x.reshape(-1), truth.reshape(-1), rtol=1e-12, atol=1e-12):
                yield name
                break


def test_matrices_are_those_of_onnx() -> None:
    assert [*wrong_matrices()] == []


def computed(network: Any, x: Any) -> Any:
    """What the operators that write a value out make of an input."""
    values = {"x": x, **network.arrays}
    for name in network.nodes:
        one = network.nodes[name]
        given = [values[each] for each in one.inputs if each in values]
        if one.op == "Split":
            cut = one.attributes
            slices = [slice(None)] * x.ndim
            slices[cut["axis"]] = slice(cut["first"], cut["last"], cut.get("step"))
            values[name] = given[0][tuple(slices)]
        elif name.startswith(MADE) or one.op == "Neg":
            operators: dict[str, Any] = {
                "Add": np.add, "Sub": np.subtract, "Relu": lambda a: np.maximum(a, 0), "Neg": np.negative,
                "Reshape": lambda a, name=name: a.reshape(network.shapes[name]),
                "Concat": lambda *parts, one=one: np.concatenate(parts, one.attributes["axis"]),
            }  # fmt: skip
            values[name] = operators[one.op](*given)
            assert np.shape(values[name]) == network.shapes[name]
    return values[network.written_out["y"]]


def wrong_extremes() -> Iterator[str]:
    for name, case in EXTREMES.items():
        network, model, shape = read(case)
        for seed in range(4):
            x = np.random.default_rng(seed).standard_normal(shape)
            if not np.allclose(computed(network, x), run(model, x), rtol=1e-12, atol=1e-12):
                yield name


def test_maxima_that_are_written_out_are_those_of_onnx() -> None:
    assert [*wrong_extremes()] == []


# -- functions of each entry ---------------------------------------------------------------------------------------
FUNCTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    **{name: (node(name, "x"), {}) for name in SLOPES if name not in ("Clip", "Swish")},
    "Clip": (node("Clip", "x l h"), {"l": np.array(-1.0), "h": np.array(0.5)}),
    "LeakyRelu": (node("LeakyRelu", "x", alpha=-0.5), {}),
    "PRelu": (node("PRelu", "x s"), {"s": np.array([0.25, -0.75])}),
    "Elu": (node("Elu", "x", alpha=1.5), {}),
    "Celu": (node("Celu", "x", alpha=0.3), {}),
    "Selu": (node("Selu", "x"), {}),
    "Selu of two": (node("Selu", "x", alpha=0.5, gamma=2.0), {}),
    "HardSigmoid": (node("HardSigmoid", "x", alpha=0.7), {}),
    "HardSigmoid by default": (node("HardSigmoid", "x"), {}),
    "LeakyRelu by default": (node("LeakyRelu", "x"), {}),
}
SEVERAL = {
    "a logistic function": "Neg x a; Exp a b; Add b 1 c; Reciprocal c y",
    "one of twice": "Mul x -2 a; Exp a b; Add b 1 c; Div 2 c d; Sub d 1 y",
    "mish": "Exp x a; Add a 1 b; Log b c; Tanh c d; Mul x d y",
    "mish by softplus": "Softplus x a; Tanh a b; Mul b x y",
    "a gate": "Sigmoid x a; Mul x a y",
    "a gate of less": "Mul x -0.3 a; Add a 1 b; Sigmoid b c; Mul x c y",
    "gelu by tanh": "Mul x x a; Mul x a b; Mul b 0.044715 c; Add x c d; Mul d 0.7979 e; Tanh e f; Add f 1 g; Mul x g y",
    "a soft sign": "Abs x a; Add a 1 b; Div x b y",
    "a soft threshold": "Sign x a; Abs x b; Sub b 0.3 c; Relu c d; Mul a d y",
    "a step, clamped": "Mul x 2 a; Abs x b; Clip b 0.3 c; Div a c y",
    "a bell": "Pow x 2 a; Neg a b; Exp b y",
    "of a root": "Pow x 2 a; Add a 1 b; Sqrt b c; Div x c y",
    "shifted softplus": "Exp x a; Mul a 0.5 b; Add b 0.5 c; Log c y",
    "a soft clip": "Softplus x a; Sub x 1 b; Softplus b c; Sub a c y",
    "hats": "Abs x a; Sub 1 a b; Relu b c; Sub x 1 d; Abs d e; Sub 1 e f; Relu f g; Sum c g g y",
    "a square, cut": "Clip x -1 0.7 a; Pow a 2 y",
    "far away": "Sub x 20 a; Relu a b; Clip b 0 1e38 c; Sigmoid c d; Mul c d y",
    "cut where it is steepest": "Mul x x a; Sub 1 a b; Max 0.1 b y",
    "the larger": "Tanh x a; Mul x 0.3 b; Max a b y",
    "the smaller": "Tanh x a; Mul x 0.3 b; Min a b y",
    "of known slopes": "Gelu x a; Add a x y",
}
WITHOUT_BOUND = {
    "Exp x y", "Log x y", "Sqrt x y", "Sign x y", "Reciprocal x y", "Mul x x y", "Pow x 3 y", "Abs x a; Exp a y",
    "Mul x x a; Sqrt a y", "Pow x x y", "Clip x 0 2 a; Pow a -1 y", "Sub x 0.3 a; Sign a b; Mul b x y",
    "Tanh x a; Reciprocal a y", "Tanh x a; Log a y", "Clip x 0 1 a; Log a y", "Clip x 0 1 a; Sqrt a y",
    "Mul x x a; Exp a b; Abs x c; Mul c -1000 d; Exp d e; Mul b e y",
    "Sigmoid x a; Mul x a b; Mul b x y", "Clip x 0 2 a; Pow a 1.5 y", "Neg x a; Exp a b; Mul x b y",
}  # fmt: skip


def written(program: str) -> tuple[list[Any], dict[str, Any]]:
    """Operators, and the numbers that they read."""
    steps = [step.split() for step in program.split("; ")]
    words = {word for _, *names in steps for word in names if not word.isalpha()}
    return [node(op, " ".join(read), out) for op, *read, out in steps], {word: np.array(float(word)) for word in words}


DRAWN = {name: ([one], arrays) for name, (one, arrays) in FUNCTIONS.items()}
DRAWN |= {name: written(program) for name, program in SEVERAL.items()}


def steeper() -> Iterator[str]:
    """Which functions have a difference quotient beyond the slopes, or slopes that no quotient comes close to."""
    x = np.linspace(-60, 60, 24001).reshape(-1, 1) * np.ones(2)
    for name, (nodes, arrays) in DRAWN.items():
        content = file_of(nodes, x.shape, arrays, opset=20)
        with patch.object(curves, "CLOSE", Decimal("0.01")):
            network = specnorm_check.Network(content, list(x.shape))
            slopes = slopes_of(network.nodes["y"])
            if len(nodes) > 1:
                slopes = curves.slopes_of_program(network.curves.program("y", "x"))
        y = run(onnx.ModelProto.FromString(content), x)
        quotients = np.diff(y, axis=0) / np.diff(x, axis=0)
        gaps = (-1.0, 1.0) if slopes is None else (quotients.min() - slopes[0], slopes[1] - quotients.max())
        if min(gaps) < -1e-10 or max(gaps) > 0.02 * max(1, quotients.max()):
            yield name


def test_slopes_are_those_of_onnx() -> None:
    assert [*steeper()] == []


def test_functions_without_bounded_slopes_have_none() -> None:
    for program in sorted(WITHOUT_BOUND):
        nodes, arrays = written(program)
        network = specnorm_check.Network(file_of(nodes, ROWS, arrays), list(ROWS))
        assert slopes_of(network.nodes["y"]) is None, program
        assert network.curves.nearest("y")[0] == "", program


def test_ranges_contain_what_balls_compute() -> None:
    flint = pytest.importorskip("flint", reason="ball arithmetic: pip install python-flint")
    functions: dict[Any, str] = {curves.exponential: "exp", curves.inverse: "", curves.log: "log", curves.root: "sqrt"}
    draw = np.random.default_rng(0)
    flint.ctx.prec = 300
    for function, name in functions.items():
        for x in draw.uniform(0.1, 9.0, 20).tolist():
            value = curves.constant(Fraction(x))
            found = function(value.range) if name in ("", "exp") else function(value).range
            truth = 1 / flint.arb(x) if not name else getattr(flint.arb(x), name)()
            low, high = (flint.arb(str(end)) for end in found[:2])
            assert low <= truth <= high, (name, x)
            assert found.high - found.low < Decimal("1e-24")


def test_ranges_of_sums_contain_the_sums_of_all_large_numbers() -> None:
    one, zero = Decimal(1), Fraction(0)
    kinds: list[tuple[int, Fraction]] = [(-1, zero), (0, Fraction(3)), (2, zero), (0, Fraction(-1))]
    ranges = [curves.Range(k * one, (k + 1) * one, *kind) for k, kind in enumerate(kinds, -2)]

    def ends(u: curves.Range, y: float) -> Any:
        return np.array([float(u.low), float(u.high)]) * y**u.power * np.exp(float(u.rate) * y)

    for u, v in itertools.product(ranges[::-1], ranges):
        for y in (1.0, 1.5, 9.0):
            sums, found = ends(u, y) + ends(v, y), ends(curves.plus(u, v), y)
            assert (found * (1, -1) <= sums * (1, -1) + 1e-12 * abs(found)).all()


def test_slopes_of_gates_are_proven() -> None:
    """By balls, on intervals that are halved until they suffice; beyond, slopes are within exp(-9000) of 0 or 1."""
    flint = pytest.importorskip("flint", reason="ball arithmetic: pip install python-flint")

    def sigmoid(x: Any) -> Any:
        return 1 / (1 + (-x).exp())

    def mish(x: Any) -> Any:
        t = (1 + x.exp()).log().tanh()
        return t + x * (1 - t * t) * sigmoid(x)

    root = flint.arb(2).sqrt()
    derivatives = {
        "Swish": lambda x: sigmoid(x) + x * sigmoid(x) * sigmoid(-x),
        "Gelu": lambda x: (1 + (x / root).erf()) / 2 + x * (-x * x / 2).exp() / (2 * flint.arb.pi()).sqrt(),
        "Mish": mish,
    }
    for name, derivative in derivatives.items():
        low, high = SLOPES[name]
        waiting = [(a, b) for a, b in ((-1e4, -30.0), (-30.0, 30.0), (30.0, 1e4))]
        while waiting:
            a, b = waiting.pop()
            found = derivative(flint.arb((a + b) / 2, (b - a) / 2))
            if not (found > low and found < high):
                assert b - a > 1e-7, (name, a, b)
                waiting += [(a, (a + b) / 2), ((a + b) / 2, b)]


NONEXPANSIVE: dict[str, Case] = {
    "a length": (node("ReduceL2", "x i"), ROWS, {"i": np.array([1])}),
    "a sum of exponentials": (node("ReduceLogSumExp", "x i"), ROWS, {"i": np.array([1])}),
    "a maximum": (node("ReduceMax", "x i"), ROWS, {"i": np.array([0])}),
    "two largest": (node("TopK", "x k", "y i"), ROWS, {"k": np.array([2])}),
    "logarithms of shares": (node("LogSoftmax", "x", axis=0), ROWS, {}),
}


def too_sharp() -> Iterator[str]:
    for name, case in NONEXPANSIVE.items():
        network, model, shape = read(case)
        factor = factor_of_operator(network, "y")
        largest = 0.0
        for seed in range(5):
            x = 9 * np.random.default_rng(seed).standard_normal(shape)
            largest = max(largest, float(np.linalg.norm(jacobian(model, x), 2)))
        if factor is None or not 0.98 * float(factor) < largest < float(factor) * (1 + 1e-6):
            yield name


def test_factors_of_several_entries_are_attained() -> None:
    assert [*too_sharp()] == []
