"""What specnorm_check proves of all units together is never below what inputs reach; resized images are ONNX's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import specnorm_check
from specnorm_check import Part, Refused

pytest.importorskip("onnx", reason="ONNX files: pip install onnx")

from check.test_checked_networks import ONE, drawn_branches, file_of, gemm, node, reached
from specnorm_audit import network_certificates as certificates
from specnorm_check.inequality import Form, new_units

from specnorm.proof import Clock

RESIZE = node("Resize", "x q scales", "h", mode="nearest")
RESIZE.input[1] = ""
TWICE = {"scales": np.array([1.0, 1.0, 2.0], np.float32)}
CASES: dict[str, tuple[list[Any], tuple[int, ...], dict[str, Any]]] = {
    "a shortcut": ([gemm("x", "w", "h"), node("Relu", "h", "r"), node("Add", "r x")], (1, 1), {"w": ONE}),
    "a negative slope": ([node("LeakyRelu", "x", "r", alpha=-2.0), gemm("r", "w", "y")], (1, 1), {"w": ONE}),
    "a negative slope and a shortcut": ([node("LeakyRelu", "x", "r", alpha=-1.0), node("Add", "r x")], (1, 1), {}),
    "a small range of slopes": (
        [node("LeakyRelu", "x", "r", alpha=0.5), gemm("x", "w", "h"), node("Sub", "r h")], (1, 1), {"w": 0.75 * ONE},
    ),
    "two functions of one entry": (
        [node("Relu", "x", "r"), node("LeakyRelu", "x", "s", alpha=-1.0), node("Add", "r s")], (1, 1), {},
    ),
    "two functions of several operators": (
        [node("Sign", "x", "a"), node("Abs", "x", "b"), node("Sub", "b l", "c"), node("Relu", "c", "d"),
         node("Mul", "a d", "r"), node("Sub", "b m", "e"), node("Relu", "e", "f"), node("Mul", "a f", "s"),
         node("Sub", "r s")], (1, 1), {"l": ONE / 8, "m": 2 * ONE},
    ),
    "one function of two entries": (
        [node("Split", "x", "a b", axis=1, num_outputs=2), node("Relu", "a", "r"), node("Relu", "b", "s"),
         node("Sub", "r s")], (1, 2), {},
    ),
    "two functions in a row": (
        [node("Abs", "x", "r"), gemm("r", "w", "h"), node("Relu", "h", "s"), node("Sub", "s x")], (1, 1), {"w": ONE},
    ),
    "two slopes of one PRelu for one entry": (
        [node("PRelu", "x s", "p"), node("Gather", "x i", "f", axis=1), node("PRelu", "f s", "q"),
         node("Gather", "q i", "r", axis=1), node("Sub", "p r")], (1, 2),
        {"s": np.array([0.25, -0.75]), "i": np.array([1, 0])},
    ),
    "copies": ([node("Gather", "x i", "h", axis=1), node("Relu", "h", "y")], (1, 2), {"i": np.array([1, 0, -1])}),
    "a part without entries": (
        [node("Slice", "x o o i", "h"), node("Relu", "x", "r"), node("Concat", "h r", axis=1)], (1, 2),
        {"o": np.array([0]), "i": np.array([1])},
    ),
    "a last axis": (
        [node("MatMul", "x w", "h"), node("Gather", "h i", "g", axis=2), node("Relu", "g")], (1, 2, 2),
        {"w": np.array([[1.0, 0], [3, 0]]), "i": np.array([0])},
    ),
    "a finer image": ([RESIZE, node("Relu", "h")], (1, 1, 2), TWICE),
    "curved functions": (
        [
            node("Sigmoid", "x", "r"), node("Softplus", "x", "s"), node("Softsign", "x", "t"),
            node("Elu", "x", "e", alpha=2.0), node("Concat", "r s t e", axis=1),
        ], (1, 1), {},
    ),
    "what roundings leave": (
        [gemm("x", "a", "h"), gemm("h", "a", "g"), gemm("x", "b", "f"), node("Sub", "g f")], (1, 1),
        {"a": ONE * (1 + 2.0**-30), "b": ONE * (1 + 2.0**-29)},
    ),
    "what roundings leave of an argument": (
        [gemm("x", "a", "h"), gemm("h", "a", "g"), gemm("x", "b", "f"), node("Sub", "g f", "d"), gemm("d", "w", "e"),
         node("Relu", "e")], (1, 1),
        {"a": ONE * (1 + 2.0**-30), "b": ONE * (1 + 2.0**-29), "w": ONE * 2.0**60},
    ),
}  # fmt: skip
REACHED = {"what roundings leave": 2.0**-60, "what roundings leave of an argument": 1.0}


def part_of(values: Sequence[str], *weights: Any) -> dict[str, Any]:
    texts = [[float(x).hex() for x in np.ravel(q)] for q in weights]
    return {"values": [*values], "weights": texts, "sizes": "units", "exponent": 0, "completion": ""}


def is_proven(network: specnorm_check.Network, part: dict[str, Any]) -> bool:
    try:
        network.constant([Part.read(part)], [np.zeros((0, 0), np.int8)])
    except Refused:
        return False
    return True


def attempts(network: Any, names: Sequence[str], g: float) -> Iterator[dict[str, Any]]:
    """Parts of a constant, with multipliers from a grid: one for each function."""
    for exponents in itertools.product(np.arange(-3, 4) / 2, repeat=min(len(names), 2)):
        exponents += (0.0,) * (len(names) - 2)
        q = [np.full(network.shape_of(name)[1], g * 2.0**each) for name, each in zip(names, exponents, strict=True)]
        yield part_of(["x", *names, "y"], g, *q, 1)


def false_of() -> list[str]:
    found = []
    for name, (nodes, shape, constants) in CASES.items():
        content = file_of(nodes, shape, constants, opset=18)
        truth = REACHED.get(name) or reached(content, shape)
        network = specnorm_check.Network(content, list(shape))
        names = list(new_units(network, "x", "y"))
        if any(is_proven(network, part) for part in attempts(network, names, 0.99 * truth)):
            found.append(name)
    return found


def test_no_multipliers_prove_less_than_inputs_reach() -> None:
    assert false_of() == []


def test_some_multipliers_prove_little_more() -> None:
    loose = {
        "two functions of one entry", "two functions of several operators", "curved functions",
        "two slopes of one PRelu for one entry",
    }  # fmt: skip
    for name in CASES.keys() - REACHED.keys() - loose:
        nodes, shape, constants = CASES[name]
        content = file_of(nodes, shape, constants, opset=18)
        network = specnorm_check.Network(content, list(shape))
        names = list(new_units(network, "x", "y"))
        g = 1.42 * reached(content, shape)
        assert any(is_proven(network, part) for part in attempts(network, names, g)), name


@pytest.mark.sampled(3)
@pytest.mark.parametrize("seed", range(30))
def test_drawn_branches_prove_at_least_what_inputs_reach(seed: int) -> None:
    """Multipliers that a search finds prove a bound; nothing below what inputs reach is proven with others."""
    content, shape, _ = drawn_branches(seed)
    network = specnorm_check.Network(content, list(shape))
    truth = reached(content, shape, 12)
    found = certificates._proven_units(network, "x", "y", *certificates._proposed(network, "x", "y", Clock()))
    values, weights = found.part.values, found.part.multipliers
    assert weights[0] >= truth * (1 - 1e-6)
    draw = np.random.default_rng(seed)
    for spread in (0.0, 0.1, 1.0):
        others = [numbers * np.exp(spread * draw.normal(size=numbers.shape)) for numbers in weights[1:-1]]
        assert not is_proven(network, part_of(values, 0.999 * truth, *others, 1))


def test_a_factor_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, shape, constants = CASES["a shortcut"]
    network = specnorm_check.Network(file_of(nodes, shape, constants), list(shape))
    part = part_of(["x", "r", "y"], 2.1, 1.5, 1)
    assert network.constant_of_part(Part.read(part), np.zeros(0)) == 1
    monkeypatch.setattr(np.linalg, "cholesky", lambda matrix: np.eye(len(matrix)))
    with pytest.raises(Refused, match="do not prove"):
        network.constant_of_part(Part.read(part), np.zeros(0))


def test_the_error_of_a_matrix_covers_its_roundings() -> None:
    """Two layers in a row, less their input: against the same product of fractions."""
    a, b = np.random.default_rng(0).standard_normal((2, 8, 8)).astype(np.float32)
    nodes = [gemm("x", "a", "h"), gemm("h", "b", "g"), node("Sub", "g x")]
    network = specnorm_check.Network(file_of(nodes, (1, 8), {"a": a, "b": b}), [1, 8])
    form = Form(network, Part.read(part_of(["x", "y"], 1, 1)))
    fractions = np.vectorize(Fraction, otypes=[object])
    exact = fractions(b.astype(np.float64)) @ fractions(a.astype(np.float64)) - fractions(np.eye(8))
    differences = abs(fractions(form.ends) - exact)
    assert differences.any()
    assert (differences <= Fraction(form.error) * fractions(form.end_sizes)).all()


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (part_of(["x", "y"], 3, 1), "other functions than those"),
        (part_of(["r", "y"], 3, 1), "the input of the graph"),
        (part_of(["x", "r", "y"], 0.5, 1, 1), "do not prove"),
        (part_of(["x", "r", "y"], 3, 0, 1), "a multiplier is 0"),
        ({**part_of(["x", "r", "y"], 3, 1, 1), "weights": []}, "not multipliers for each value"),
    ],
)  # fmt: skip
def test_what_is_no_part_of_units_is_refused_by_name(part: dict[str, Any], words: str) -> None:
    nodes, shape, constants = CASES["a shortcut"]
    network = specnorm_check.Network(file_of(nodes, shape, constants), list(shape))
    with pytest.raises(Refused, match=words):
        network.constant([Part.read(part)], [np.zeros((0, 0), np.int8)])


MODES: list[dict[str, Any]] = [
    {"mode": "linear"}, {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
    {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
    *({"nearest_mode": kind} for kind in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")),
]  # fmt: skip


@pytest.mark.parametrize("scales", [(2, 3), (1.5, 0.5), (0.4, 1)], ids=str)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(mode.values()))
def test_resized_images_are_those_of_onnx(mode: dict[str, Any], scales: tuple[float, float]) -> None:
    from onnx.reference import ReferenceEvaluator

    shape = (1, 1, 5, 4)
    resize = node("Resize", "x q scales", **mode)
    resize.input[1] = ""
    arrays = {"scales": np.array([1, 1, *scales], np.float32)}
    content = file_of([resize], shape, arrays, opset=18)
    network = specnorm_check.Network(content, list(shape))
    if mode.get("coordinate_transformation_mode") == "align_corners" and scales[0] != 2:
        with pytest.raises(Refused, match="no rule"):
            specnorm_check.resizing.matrix_of_resize(network, network.nodes["y"], shape, network.shape_of("y"))
        return
    matrix = specnorm_check.resizing.matrix_of_resize(network, network.nodes["y"], shape, network.shape_of("y"))
    import onnx

    evaluator = ReferenceEvaluator(onnx.ModelProto.FromString(content))
    x = np.random.default_rng(0).standard_normal(shape)
    values: Any = evaluator.run(None, {"x": x})
    (y,) = values
    np.testing.assert_allclose(matrix @ x.reshape(-1), y.reshape(-1), rtol=1e-6, atol=1e-7)
