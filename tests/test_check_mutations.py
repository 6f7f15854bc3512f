"""Certificates of the reference cases and networks: they are proven, and nothing false is after one thing is changed.

`mutations` are for other programs that read them, too. What is false is told by inputs: a published pair of them, and
pairs at random, run by ONNX's evaluator.
"""

from __future__ import annotations

import importlib
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_check import CASES, CHECK, DOCS, SCHEMA, run
from test_check_operators import proven

onnx: Any = pytest.importorskip("onnx", reason="ONNX files: pip install onnx")
FOLDER = DOCS / "reference-certificates"
PUBLISHED: dict[str, dict[str, Any]] = {
    one["name"]: one for one in json.loads((DOCS / "reference-networks.json").read_text(encoding="utf-8"))["networks"]
}
LOOSEST = {"dense-relu": 1.02, "dense-abs": 1.2, "residual": 1.06, "convolutions": 1.001, "pooling": 1.7}
"""How many times the published upper bound is what the stored certificates claim, at most."""


def stored(name: str) -> tuple[dict[str, Any], Any]:
    """The claim about a reference network, and its model."""
    (claim,) = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["claims"]
    return claim, onnx.load(DOCS / PUBLISHED[name]["file"])


def accepted(claim: Any, model: Any) -> bool:
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    try:
        CHECK.check(claim, arrays, model)
    except Exception:
        return False
    return True


def below(name: str, model: Any, of: str = "f") -> float:
    """What some pairs of inputs attain; 0 if the model cannot be run."""
    evaluator: Any = importlib.import_module("onnx.reference").ReferenceEvaluator
    shape, draw = tuple(PUBLISHED[name]["input_shape"]), np.random.RandomState(0)
    points = [np.reshape(end, (1, *shape)) for end in PUBLISHED[name]["pair"]]
    pairs = [(points[0], points[1])]
    for _ in range(20):
        x, step = 3 * draw.standard_normal((2, 1, *shape))
        pairs.append((x, x + 1e-3 * step))
    try:
        f = evaluator(model).run
        values = [[f(None, {"x": end})[0].ravel() for end in pair] for pair in pairs]
        if of != "f":
            values = [
                [end.ravel() - y for end, y in zip(pair, ys, strict=True)]
                for pair, ys in zip(pairs, values, strict=True)
            ]
    except Exception:  # of a graph that is none
        return 0.0
    return max(
        float(np.linalg.norm(ys[0] - ys[1]) / np.linalg.norm(pair[0] - pair[1]))
        for pair, ys in zip(pairs, values, strict=True)
    ) * (1 - 1e-9)


def mutations(claim: dict[str, Any], model: Any, draw: random.Random) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """What was changed, the claim and the model, one of which has one thing changed."""
    for words, other in _claims(claim, draw):
        yield words, other, model
    for words, changed in _models(model):
        yield words, claim, changed
        arrays = {one.name: onnx.numpy_helper.to_array(one) for one in changed.graph.initializer}
        tensors = {name: CHECK.digest(array) for name, array in arrays.items()}
        yield f"{words}, with its digests", {**claim, "tensors": tensors}, changed


def _claims(claim: dict[str, Any], draw: random.Random) -> Iterator[tuple[str, dict[str, Any]]]:
    damage: Any
    for key in claim:
        yield f"no {key}", {name: value for name, value in claim.items() if name != key}
        for damage in (None, [], {}, "", "nan", -1, True, 10**15):
            yield f"{key}: {damage!r}", {**claim, key: damage}
    for n in range(12):
        yield f"upper's letter {n}", {**claim, "upper": _letter(claim["upper"], draw)}
    for times in (1 - 1e-9, 1 - 1e-6, 0.9, 0.5, 1e-3, 0.0):
        yield f"upper times {times}", {**claim, "upper": (times * float.fromhex(claim["upper"])).hex()}
    yield "of x - f(x)", {**claim, "of": "x - f(x)"}
    for shape in ([2, *claim["input_shape"][1:]], claim["input_shape"][1:], ["n"] * len(claim["input_shape"])):
        yield f"input shape {shape}", {**claim, "input_shape": shape}
    for name in claim["tensors"]:
        yield f"no digest of {name}", {**claim, "tensors": {k: v for k, v in claim["tensors"].items() if k != name}}
        yield f"another digest of {name}", {**claim, "tensors": {**claim["tensors"], name: "0" * 64}}
    parts = claim["parts"]
    yield "parts reversed", {**claim, "parts": parts[::-1]}
    yield "parts twice", {**claim, "parts": parts + parts}
    for at, part in enumerate(parts):
        yield f"part {at} dropped", {**claim, "parts": parts[:at] + parts[at + 1 :]}
        for words, other in _parts(part, draw):
            yield f"part {at}: {words}", {**claim, "parts": [*parts[:at], other, *parts[at + 1 :]]}


def _parts(part: dict[str, Any], draw: random.Random) -> Iterator[tuple[str, dict[str, Any]]]:
    names, weights = [part["start"], *part["values"]], part["weights"]
    for key in part:
        yield f"no {key}", {name: value for name, value in part.items() if name != key}
        yield f"{key} is a list", {**part, key: []}
    yield "units", {**part, "units": not part["units"]}
    yield "values reversed", {**part, "values": part["values"][::-1]}
    yield "values and weights reversed", {**part, "values": part["values"][::-1], "weights": weights[::-1]}
    yield "first value dropped", {**part, "values": part["values"][1:], "weights": weights[:1] + weights[2:]}
    yield "starts later", {**part, "start": names[1], "values": names[2:], "weights": weights[1:]}
    for name in ("x", "h", "s", "r", "y", "f", "p", "nothing"):
        yield f"starts at {name}", {**part, "start": name}
        yield f"ends at {name}", {**part, "values": [*part["values"][:-1], name]}
    for times in (1 - 1e-6, 0.9, 0.5, 1e-3, 1e-300, 0.0):
        yield f"upper times {times}", {**part, "upper": (times * float.fromhex(part["upper"])).hex()}
    for n in range(8):
        yield f"upper's letter {n}", {**part, "upper": _letter(part["upper"], draw)}
    for at, values in enumerate(weights):
        for times in (0.5, 2.0, 1e-3, 1e3, 2.0**-1074, 0.0, math.inf):
            scaled = [(times * float.fromhex(x)).hex() for x in values]
            yield f"weights {at} times {times}", {**part, "weights": [*weights[:at], scaled, *weights[at + 1 :]]}
        for new in (values[:-1], values + values[-1:], values[::-1], [], [_letter(values[0], draw), *values[1:]]):
            yield f"weights {at} changed", {**part, "weights": [*weights[:at], new, *weights[at + 1 :]]}
    yield "weights reversed", {**part, "weights": weights[::-1]}
    proof: dict[str, Any]
    for proof in ({}, {"grid": [1]}, {"tree": "."}, {"tree": "0.."}, {"matrix": True}, {"circulant": [], "skew": []}):
        yield f"proof {proof}", {**part, "proof": proof}


def _models(model: Any) -> Iterator[tuple[str, Any]]:
    """Other functions, attributes, weights."""
    for at, node in enumerate(model.graph.node):
        others = [("Abs", {}), ("Neg", {}), ("LeakyRelu", {"alpha": -3.0}), ("LeakyRelu", {"alpha": 2.0}), ("Exp", {})]
        if node.op_type in ("Relu", "Abs", "LeakyRelu"):
            for op, given in others:
                changed = deepcopy(model)
                changed.graph.node[at].CopyFrom(onnx.helper.make_node(op, node.input, node.output, **given))
                yield f"{node.op_type} is {op} {given}", changed
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        values: list[tuple[str, Any]] = [
            ("transB", 0),
            ("alpha", 2.0),
            ("pads", [0, 0, 1, 1]),
            ("strides", [2, 2]),
            ("group", 2),
        ]
        values += [("strides", [1, 1]), ("kernel_shape", [3, 3]), ("dilations", [2, 2])]
        for key, value in values if node.op_type in ("Gemm", "Conv", "MaxPool") else []:
            changed = deepcopy(model)
            made = onnx.helper.make_node(node.op_type, node.input, node.output, **{**given, key: value})
            changed.graph.node[at].CopyFrom(made)
            yield f"{node.op_type}'s {key} is {value}", changed
        if node.op_type == "Add":
            changed = deepcopy(model)
            changed.graph.node[at].op_type = "Mul"
            yield "Add is Mul", changed
    for at, one in enumerate(model.graph.initializer):
        array = onnx.numpy_helper.to_array(one)
        largest = np.unravel_index(np.argmax(np.abs(array)), array.shape)
        for words, value in (("a bit", np.nextafter(array[largest], np.inf)), ("twice", 2 * array[largest])):
            changed, other = deepcopy(model), array.copy()
            other[largest] = value
            changed.graph.initializer[at].CopyFrom(onnx.numpy_helper.from_array(other, one.name))
            yield f"{one.name}: {words}", changed
        changed = deepcopy(model)
        changed.graph.initializer[at].CopyFrom(onnx.numpy_helper.from_array(1.5 * array, one.name))
        yield f"{one.name}: 1.5 times", changed


def _letter(text: str, draw: random.Random) -> str:
    at = draw.randrange(len(text))
    return text[:at] + draw.choice("0123456789abcdefpx.+-") + text[at + 1 :]


# -- what is stored --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("balls", [False, True])
def test_certificates_of_the_reference_cases(balls: bool) -> None:
    """By the program, as a reader runs it, on kernels that are those of the cases."""
    if balls:
        pytest.importorskip("flint", reason="ball arithmetic: pip install python-flint")
    kernels = np.load(FOLDER / "layers.npz")
    claims = json.loads((FOLDER / "layers.json").read_text(encoding="utf-8"))["claims"]
    for case, claim in zip(CASES, claims, strict=True):
        assert np.array_equal(kernels[claim["kernel"]["tensor"]], np.asarray(case["kernel"], dtype=np.float64))
        assert (claim["name"], claim["padding_mode"]) == (case["name"], case["padding_mode"])
        geometry = {key: claim[key] for key in ("stride", "dilation", "groups", "transposed", "padding")}
        assert geometry == {key: case[key] for key in geometry}
        assert case["input_shape"] is None or claim["sizes"] == case["input_shape"]
        assert case["lower"] <= float.fromhex(claim["upper"])
        if "wraps to zero" not in case["name"]:  # of which specnorm knows no more than the supremum
            assert float.fromhex(claim["upper"]) <= case["upper"] * (1 + 1e-3) + 1e-8
    command: list[str | Path] = [
        sys.executable,
        DOCS / "check.py",
        *["--balls"] * balls,
        FOLDER / "layers.json",
        FOLDER / "layers.npz",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.count("proven"), done.stderr) == (0, len(CASES), "")


@pytest.mark.parametrize("name", PUBLISHED)
def test_certificates_of_the_reference_networks(name: str) -> None:
    claim, model = stored(name)
    upper = float.fromhex(claim["upper"])
    assert accepted(claim, model)
    assert PUBLISHED[name]["lower"] <= upper <= LOOSEST[name] * PUBLISHED[name]["upper"]
    assert not accepted({**claim, "upper": (PUBLISHED[name]["lower"] * (1 - 1e-9)).hex()}, model)


def test_the_schema_knows_what_is_stored() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for path in FOLDER.glob("*.json"):
        validator.validate(json.loads(path.read_text(encoding="utf-8")))


# -- balls -----------------------------------------------------------------------------------------------------------
def test_balls_refuse_what_is_false(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published lower bounds, less a little; and they say nothing else than floating point on the networks."""
    pytest.importorskip("flint", reason="ball arithmetic: pip install python-flint")
    monkeypatch.syspath_prepend(DOCS)
    balls = importlib.import_module("check_balls").prove
    kernels = np.load(FOLDER / "layers.npz")
    claims = json.loads((FOLDER / "layers.json").read_text(encoding="utf-8"))["claims"]
    for case, claim in list(zip(CASES, claims, strict=True))[::4]:
        wrong = {**claim, "upper": (case["lower"] * (1 - 1e-9)).hex()}
        if case["lower"] > 0:
            assert not proven(wrong, kernels)
            with pytest.raises((CHECK.Refuted, ArithmeticError, np.linalg.LinAlgError)):
                CHECK.check(wrong, kernels, None, balls)
    for name in PUBLISHED:
        claim, model = stored(name)
        arrays = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
        CHECK.check(claim, arrays, model, balls)
        part = claim["parts"][-1]
        part["upper"] = (float.fromhex(part["upper"]) * (1 - 1e-8)).hex()
        with pytest.raises((CHECK.Refuted, ArithmeticError, np.linalg.LinAlgError)):
            CHECK.check({**claim, "upper": (1e9).hex()}, arrays, model, balls)


# -- what is damaged -------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", PUBLISHED)
def test_nothing_false_is_accepted(name: str) -> None:
    claim, model = stored(name)
    tried = right = 0
    for words, other, changed in mutations(claim, model, random.Random(0)):
        tried += 1
        if accepted(other, changed):
            right += 1
            assert float.fromhex(other["upper"]) >= below(name, changed, other["of"]), words
    assert tried > 200
    assert 5 < right < tried / 2


@pytest.mark.parametrize("name", ["dense-relu", "convolutions"])
def test_the_changes_are_seen_by_inputs(name: str) -> None:
    """Many a changed model is steeper than the claim: what accepts everything would fail."""
    claim, model = stored(name)
    steeper = {words for words, changed in _models(model) if below(name, changed) > float.fromhex(claim["upper"])}
    assert len(steeper) >= 4, steeper


def test_what_is_huge_ends_soon(tmp_path: Path) -> None:
    """Lists of millions, in a file that says the right things otherwise."""
    claim, model = stored("convolutions")
    onnx.save(model, tmp_path / "model.onnx")
    (part,) = claim["parts"]
    huge = [
        {**part, "weights": [[(1.0).hex()] * 10**5] * 3},
        {**part, "values": ["s"] * 10**4 + ["y"]},
        {**part, "proof": {"tree": "0" * 2**20}},
        {**part, "proof": {"grid": [2**23] * 3}},
        {**part, "start": "x" * 10**6},
    ]
    begin = time.process_time()
    for other in huge:
        assert not accepted({**claim, "parts": [other]}, model)
    assert not accepted({**claim, "input_shape": [1, 1, 2**20, 2**20]}, model)
    assert time.process_time() - begin < 20
    code, said = run(tmp_path, [{**claim, "parts": [other]} for other in huge], {"k": np.ones((1, 1))})
    assert code == 2
    assert len(said) < 2000
