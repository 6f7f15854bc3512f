"""Claims that were false from outside: arguments and broadcasting that a rule did not look at."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)
onnx = pytest.importorskip("onnx", exc_type=ImportError)
import numpy as np  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from helpers.onnx_models import graph_of, model, saved  # noqa: E402
from networks.torch_modules import Function, upper_of  # noqa: E402
from specnorm_networks import (  # noqa: E402
    Multipliers,
    forward_step,
    margins,
    network_bound,
    nonexpansive,
    within,
)
from specnorm_networks.tools import bound  # noqa: E402
from torch import Tensor  # noqa: E402

import specnorm  # noqa: E402
from specnorm.errors import MethodError, ModelFileError  # noqa: E402

FIVE = torch.arange(5.0)
N = onnx.helper.make_node


KNOWN: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...], float]] = {
    "addmm alpha": (lambda x: torch.addmm(torch.ones(2), x, torch.eye(2), beta=3, alpha=10), (2,), 10),
    "rsub alpha": (lambda x: torch.rsub(x, FIVE, alpha=2), (1,), 2 * math.sqrt(5)),
    "clamp": (lambda x: torch.clamp(x, -FIVE, FIVE + 9), (1,), math.sqrt(5)),
    "masked_fill": (lambda x: x.masked_fill(FIVE < 0, 0.0), (1,), math.sqrt(5)),
    "reflect": (lambda x: F.pad(x, (2, 1), mode="reflect"), (1, 3), math.sqrt(3)),
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.sampled("addmm alpha", "clamp")
def test_the_constant_depends_on_the_arguments_of_an_operator(name: str) -> None:
    """Operators of ONNX broadcast in `test_every_onnx_operator`; torch's own arguments are its exporter's."""
    f, shape, expected = KNOWN[name]
    assert upper_of(Function(f), shape) == pytest.approx(expected, rel=1e-3)


# -- ONNX ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("first", ["Gemm", "MatMul"])
def test_one_onnx_matrix_from_both_sides(first: str, tmp_path: Path) -> None:
    """Scaled by channel, the rows of one are the columns of the other."""
    a, b = ("x", "2") if first == "Gemm" else ("2", "x")
    gemm = [N("Gemm", [a, "w"], ["1"], transB=1), N("Mul", ["1", "c"], ["2" if a == "x" else "y"])]
    mul = [N("MatMul", [b, "w"], ["3"]), N("Mul", ["3", "c"], ["2" if b == "x" else "y"])]
    constants = {"w": np.array([[0.0, 1], [10, 0]]), "c": np.array([1.0, 10])}
    proto = model(gemm + mul if first == "Gemm" else mul + gemm, [1, 2], constants)
    for found in (bound(graph_of(proto)), specnorm.audit(saved(proto, tmp_path / "m.onnx")).network):
        assert found is not None
        assert found.upper == pytest.approx(1000, rel=3e-3)


def test_onnx_reflection_across_an_axis() -> None:
    """Three pixels before three: the middle one is there three times."""
    pad = model([N("Pad", ["x", "p"], ["y"], mode="reflect")], [1, 1, 3], {"p": np.array([0, 0, 3, 0, 0, 0])})
    assert bound(graph_of(pad)).upper == pytest.approx(math.sqrt(3))


def test_quotients_of_integers_are_rounded_towards_zero() -> None:
    """1 + (-1) / 2 is 1, as in every runtime; with -1 it would be 0. What nobody defines is not computed."""
    nodes = [
        N("Div", ["a", "b"], ["1"]), N("Add", ["1", "c"], ["2"]), N("Cast", ["2"], ["3"], to=11),
        N("Mul", ["x", "3"], ["y"]),
    ]  # fmt: skip
    for a, b, c, expected in ((-1, 2, 1, 1), (7, -2, 5, 2), (-7, -2, 0, 3), (7, 0, 1, None)):
        constants = {"a": np.array([a]), "b": np.array([b]), "c": np.array([c])}
        assert bound(graph_of(model(nodes, [1, 3], constants))).upper == expected
    nodes[0] = N("Cast", ["a"], ["1"], to=7)
    infinite = model(nodes, [1, 3], {"a": np.array([np.inf], np.float32), "c": np.array([1])})
    assert bound(graph_of(infinite)).upper is None


def test_a_file_of_two_operator_sets_is_refused() -> None:
    """Of 17 and 11 a runtime may take either, and a log-softmax means two things."""
    for domain in ("", "ai.onnx"):
        twice = model([N("LogSoftmax", ["x"], ["y"], axis=1)], [1, 2, 30], opset=17)
        twice.opset_import.append(onnx.helper.make_opsetid(domain, 11))
        with pytest.raises(ModelFileError, match="operator sets 11, 17"):
            graph_of(twice)


MATRIX: Any = model([N("MatMul", ["x", "w"], ["y"])], [1, 4], {"w": np.eye(4)})
DIVERGED = torch.nn.Conv2d(3, 8, 3, padding=1)
DIVERGED.weight.data[0, 0, 0, 0] = float("nan")


@pytest.mark.parametrize(
    ("source", "given", "said"),
    [
        (torch.nn.Linear(4, 4), {"input_shape": "4"}, "input_shape='4' is not a shape"),
        (torch.nn.Linear(4, 4), {}, "give input_shape, one input's shape without the batch axis, such as (3, 32, 32)"),
        (torch.nn.Linear(4, 4).state_dict(), {}, "OrderedDict of 2 entries, which says nothing of their use"),
        (torch.nn.Linear(4, 4), {"input_shape": (-4,)}, "such as (3, 32, 32)"),
        (torch.nn.Linear(4, 4), {"input_shape": (4,), "method": "product"}, "method='product' is not Product()"),
        (torch.nn.Linear(4, 4), {"input_shape": (4,), "rtol": -1}, "rtol=-1 is not between 0 and 1"),
        (DIVERGED, {"input_shape": (3, 8, 8)}, "contains NaN or infinity at a random input"),
        (torch.nn.Conv2d(3, 3, 3), {"input_shape": (1, 3, 8, 8)}, "give one input's shape without the batch axis"),
        (torch.nn.Linear(4, 4), {"input_shape": (4,), "progress": 1}, "progress=1 is no function: give one such as"),
        (graph_of(MATRIX), {"centre": ()}, "centre has 0 floating arrays; expected one for each of the network's"),
        (graph_of(MATRIX), {"input_shape": 1.5}, "input_shape=1.5 is no shape: give whole numbers, such as 32"),
        (MATRIX, {"input_shape": "4"}, "input_shape='4' is no shape"),
        (MATRIX, {"input_shape": {"x": 4}}, "input_shape={'x': 4} is no shape"),
        ("none.onnx", {}, "none.onnx cannot be read: No such file"),
        ("cut.onnx", {}, "cut.onnx: it is damaged"),
    ],
)
def test_mistakes_are_answered_in_the_users_words(
    source: Any, given: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cut.onnx").write_bytes(b"\x08\x09\x3a\xff")
    with pytest.raises(specnorm.SpecnormError) as raised:
        network_bound(source, **given)
    assert said in str(raised.value)
    assert "tensor(" not in str(raised.value)


NO: Any = "no"  # what types refuse
ONE: Any = 1
CALLS: dict[str, tuple[Callable[[], Any], str]] = {
    "a shape of a fraction": (lambda: nonexpansive(MATRIX, 1.5), "input_shape=1.5 is no shape"),
    "a residual in words": (lambda: nonexpansive(MATRIX, residual=NO), "residual='no' is not True or False"),
    "a step of no graph": (lambda: forward_step(MATRIX), "forward_step takes a Graph, not a ModelProto"),
    "a step in words": (lambda: forward_step(graph_of(MATRIX), NO), "size must be a number, got str 'no'"),
    "a box in words": (lambda: within(graph_of(MATRIX), NO, 1), "The box of input x ends at 'no', no numbers"),
    "steps in words": (lambda: Multipliers(steps=NO), "steps='no' is not a count"),
    "seconds in words": (lambda: Multipliers(seconds=NO), "seconds must be a number, got str 'no'"),
    "a width in words": (lambda: Multipliers(widest=NO), "widest='no' is not a count"),
    "progress of a method": (lambda: Multipliers(progress=ONE), "progress=1 is no function"),
    "margins of no measure": (lambda: margins(graph_of(MATRIX), ONE), "measure=1; expected a Measure"),
}


@pytest.mark.parametrize("case", CALLS)
def test_mistakes_in_other_calls_are_answered_in_the_users_words(case: str) -> None:
    call, said = CALLS[case]
    with pytest.raises(MethodError, match=re.escape(said)):
        call()


def test_a_networks_bound_is_no_number() -> None:
    """It was 'not supported between instances of NetworkBound and int'."""
    found: Any = network_bound(MATRIX)
    for call, said in (
        (lambda: found <= 1, "comparison"),
        (lambda: float(found), "float()"),
        (lambda: 2 * found, "ari"),
    ):
        with pytest.raises(TypeError, match=re.escape(said) + r".*of NetworkBound, whose number is its \.upper"):
            call()


def test_a_model_without_onnx_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was a ModuleNotFoundError."""
    monkeypatch.setitem(sys.modules, "onnx", None)
    for name in ("sources.reading", "onnx.reference"):
        monkeypatch.delitem(sys.modules, f"specnorm_networks.{name}", raising=False)
    with pytest.raises(MethodError, match=r"the package onnx: pip install '\.\[networks\]'"):
        network_bound(torch.nn.Linear(4, 4), (4,))


def test_a_residual_layer_with_the_joint_rule_is_nonexpansive() -> None:
    """SLL: x - 2 W T relu(W' x) has the constant 1 if T is one over the row sums of |W' W|; T is no factor of W."""
    weight = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    shares = (1 / abs(weight.T @ weight).sum(axis=1)).astype(np.float32)
    nodes = [
        N("MatMul", ["x", "w"], ["1"]), N("Relu", ["1"], ["2"]), N("Mul", ["2", "t"], ["3"]),
        N("MatMul", ["3", "wt"], ["4"]), N("Sub", ["x", "4"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, [1, 5], {"w": weight, "t": shares, "wt": 2 * np.ascontiguousarray(weight.T)})
    assert bound(graph_of(proto)).upper == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("intercepts", [None, [0.5, 1.0]])
def test_scalers_and_linear_models_of_scikit_learn(intercepts: list[float] | None) -> None:
    """Their numbers are attributes of ai.onnx.ml: a product of two matrices, compared with onnx's reference."""
    rng = np.random.default_rng(0)
    a, scale = rng.standard_normal((2, 5)).astype(np.float32), np.array([1, 10, 0.5, 2, 1], np.float32)
    learned = {"domain": "ai.onnx.ml"}
    scaler = N("Scaler", ["x"], ["s"], offset=[0.5] * 5, scale=scale.tolist(), **learned)
    stated = {} if intercepts is None else {"intercepts": intercepts}
    linear = N("LinearRegressor", ["s"], ["y"], coefficients=a.ravel().tolist(), targets=2, **stated, **learned)
    found = network_bound(model([scaler, linear], [1, 5], dtype=onnx.TensorProto.FLOAT, domains=["ai.onnx.ml"]))
    assert found.upper == pytest.approx(np.linalg.norm(a.astype(float) * scale, 2), rel=1e-9)
    linear.attribute.append(onnx.helper.make_attribute("post_transform", "LOGISTIC"))
    refused = network_bound(model([scaler, linear], [1, 5], dtype=onnx.TensorProto.FLOAT, domains=["ai.onnx.ml"]))
    assert [step.reason for step in refused.unknown] == [
        "post_transform='LOGISTIC' of LinearRegressor is not supported"
    ]


def test_softmax_before_operator_set_13_is_over_several_axes() -> None:
    """Its values are compared with ONNX Runtime's elsewhere; axes of size 1 leave the softmax over channels."""
    for opset, bound_of_logarithm in ((11, math.sqrt(12)), (13, 2)):
        for shape in ([1, 4, 1, 1], [1, 4, 3, 1]):
            norms = {"Softmax": 0.5, "LogSoftmax": 2 if shape[2] == 1 else bound_of_logarithm}
            for operator, norm in norms.items():
                proto = model([N(operator, ["x"], ["y"], axis=1)], shape, opset=opset)
                assert bound(graph_of(proto)).upper == pytest.approx(norm)


@pytest.mark.parametrize(("label", "samples"), [(True, 1), (True, 3), (False, 1)])
def test_rows_that_an_integer_input_chooses_are_at_most_the_longest(label: bool, samples: int) -> None:
    """A class-conditional critic, l(h) + <embedding of the label, h>: attained by the longest row, along it.

    Rows that the floating input chooses jump.
    """
    table = np.random.default_rng(0).standard_normal((4, 6)) * np.array([[1], [5], [2], [3]])
    rows = [
        N("Gather", ["e", "i"], ["r"]), N("Mul", ["r", "x"], ["p"]), N("ReduceSum", ["p", "one"], ["d"], keepdims=1),
        N("ReduceSum", ["x", "one"], ["s"], keepdims=1), N("Add", ["d", "s"], ["y"]),
    ]  # fmt: skip
    chosen = [N("ReduceMax", ["x", "one"], ["m"], keepdims=0), N("Cast", ["m"], ["i"], to=7)]
    labels = onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, [samples])
    proto = model(
        rows if label else [*chosen, *rows], [samples, 6], {"e": table, "one": np.array([1])},
        inputs=["x", labels] if label else ["x"],
    )  # fmt: skip
    found = network_bound(proto)
    if not label:
        assert found.upper is None
        assert [step.reason for step in found.unknown] == ["it has a step where an entry crosses a threshold"]
        return
    assert found.upper is not None
    lengths = np.linalg.norm(table, axis=1)
    assert found.upper == pytest.approx(lengths.max() + math.sqrt(6), rel=1e-12)
    graph = graph_of(proto)
    x = np.random.default_rng(1).standard_normal((samples, 6))
    for number in range(4):
        given = {"x": x, "i": np.full(samples, number)}
        moved = {**given, "x": x + table[number] / lengths[number]}
        change = np.linalg.norm(graph.run(moved)["y"] - graph.run(given)["y"]) / math.sqrt(samples)
        assert change <= found.upper
        assert change == pytest.approx(abs(lengths[number] + table[number].sum() / lengths[number]))


def test_functions_and_branches_on_constants_are_inlined() -> None:
    """A function that calls another one twice, with an attribute, in a branch of a branch."""
    sets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("my", 1)]
    leak = N("LeakyRelu", ["a"], ["t"])
    slope = onnx.helper.make_attribute("alpha", 0.0)
    slope.ClearField("f")
    slope.ref_attr_name = "slope"
    leak.attribute.append(slope)
    inner = onnx.helper.make_function("my", "Leak", ["a"], ["b"], [leak, N("Neg", ["t"], ["b"])], sets[:1], ["slope"])
    calls = [N("Leak", ["a"], ["t"], domain="my", slope=-3.0), N("Leak", ["t"], ["b"], domain="my", slope=0.5)]
    outer = onnx.helper.make_function("my", "Twice", ["a"], ["b"], calls, sets)
    end = onnx.helper.make_tensor_value_info("t", onnx.TensorProto.DOUBLE, None)
    scale = onnx.numpy_helper.from_array(np.array(5.0), "c")
    body = [N("Twice", ["x"], ["u"], domain="my"), N("Mul", ["u", "c"], ["t"])]
    then = onnx.helper.make_graph(body, "then", [], [end], [scale])
    inner_end = onnx.helper.make_tensor_value_info("v", onnx.TensorProto.DOUBLE, None)
    kept = onnx.helper.make_graph([N("Identity", ["x"], ["v"])], "kept", [], [inner_end])
    never = onnx.helper.make_graph([N("Exp", ["x"], ["v"])], "never", [], [inner_end])
    nested = [N("Constant", [], ["no"], value=onnx.numpy_helper.from_array(np.array(False)))]
    nested += [N("If", ["no"], ["w"], then_branch=never, else_branch=kept), N("Identity", ["w"], ["t"])]
    other = onnx.helper.make_graph(nested, "else", [], [end])
    nodes = [N("If", ["yes"], ["t"], then_branch=then, else_branch=other), N("Neg", ["t"], ["y"])]
    for yes in (True, False):
        arrays = {"yes": np.array(yes)}
        proto = model(nodes, [1, 3], arrays, functions=[inner, outer], domains=["my"])
        found = network_bound(proto)
        assert found.upper == pytest.approx(15 if yes else 1)
        x = np.array([[-1.0, 0.5, 2.0]])
        truth = -5 * np.array([[1.5, 0.25, 1.0]]) if yes else -x
        np.testing.assert_allclose(graph_of(proto).run({"x": x})["y"], truth)


def test_functions_that_call_themselves_end() -> None:
    sets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("my", 1)]
    calls = [N("F", ["a"], ["t"], domain="my"), N("F", ["t"], ["b"], domain="my")]
    function = onnx.helper.make_function("my", "F", ["a"], ["b"], calls, sets)
    found = network_bound(model([N("F", ["x"], ["y"], domain="my")], [1, 3], functions=[function], domains=["my"]))
    assert found.upper is None
