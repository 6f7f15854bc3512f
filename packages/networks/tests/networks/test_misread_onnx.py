"""What ONNX networks say is what is bounded: names, constants, attributes, axes and outputs that were misread once.

The truth is the Jacobian of onnx's reference evaluator, by differences: its norm is a lower bound of the constant.
"""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.checks import present

onnx = pytest.importorskip("onnx", exc_type=ImportError)
from helpers.onnx_models import (  # noqa: E402
    everywhere,
    graph_of,
    holds,
    jacobian,
    model,
    saved,
    single,
    steepest,
    values_of,
)
from onnx import TensorProto, helper  # noqa: E402
from specnorm_networks import Graph, Product, network_bound, register_operator, within  # noqa: E402
from specnorm_networks.certified.operators import Known, Matrix, registry  # noqa: E402
from specnorm_networks.certified.operators.base import Place  # noqa: E402
from specnorm_networks.certified.patterns import recognise_patterns  # noqa: E402
from specnorm_networks.model import UNITS, Computed  # noqa: E402
from specnorm_networks.sources import reading  # noqa: E402
from specnorm_networks.sources.base import Exported  # noqa: E402
from specnorm_networks.tools import bound  # noqa: E402

import specnorm  # noqa: E402
from specnorm.errors import MethodError, ModelFileError, TranslationError  # noqa: E402

N = helper.make_node
DOWN, OTHER = np.random.default_rng(1).standard_normal((2, 6, 4))
NULL = np.linalg.svd(DOWN.T)[2][4:]
"""``NULL @ DOWN`` is 0: a network that is linear between these two is constant."""


# -- constants -----------------------------------------------------------------------------------------------------


def test_a_bias_that_is_no_number_is_refused() -> None:
    """It cancels in differences: 1 was proven of x + NaN, and "1 value agrees" with x + infinity, which has none."""
    with pytest.raises(TranslationError, match=r"Value t \(Add\) of the model contains NaN"):
        network_bound(model([N("Add", ["x", "b"], ["t"]), N("Relu", ["t"], ["y"])], (1, 4), {"b": np.array(np.nan)}))
    found = network_bound(model([N("Add", ["x", "b"], ["y"])], (1, 4), {"b": np.array(np.inf)}))
    assert found.checked.missed == ("y",)
    never = {"c": np.array(False), "b": np.array(np.nan)}  # as NumPy's variance has it for too few samples
    assert network_bound(model([N("Where", ["c", "b", "x"], ["y"])], (1, 4), never)).upper == 1


@pytest.mark.parametrize(
    ("asks", "constants"),
    [
        ([N("Equal", ["x", "x"], ["e"]), N("Not", ["e"], ["q"])], {}),
        ([N("Equal", ["c", "x"], ["q"])], {"c": np.array([np.inf, -np.inf, np.nan, np.inf])}),
        ([N("IsNaN", ["x"], ["q"])], {}),
        ([N("IsInf", ["x"], ["q"], detect_negative=0)], {}),
    ],
    ids=["x != x", "x == inf", "isnan", "isinf"],
)
def test_whether_an_entry_is_a_number_is_no_step(asks: Any, constants: Any) -> None:
    """JAX's softplus asks it. What is asked of a finite number, or of another value, is a step."""
    rest = [N("Add", ["x", "x"], ["other"]), N("Where", ["q", "other", "x"], ["y"])]
    found = network_bound(model([*asks, *rest], (1, 4), constants))
    assert found.upper == 1
    assert "y" not in found.checked.missed
    for one, more in (("c", {"c": np.array([np.inf, 0.0, 1.0, 2.0])}), ("other", {})):
        asked = N("Equal", ["x", one], ["q"])
        refused = network_bound(model([rest[0], asked, rest[1]], (1, 4), more))
        assert refused.upper is None
        assert [node.reason for node in refused.unknown] == ["it is discontinuous where two entries are equal"]


# -- attributes ----------------------------------------------------------------------------------------------------
SAME: dict[str, Any] = {"kernel_shape": [2], "auto_pad": "SAME_UPPER"}
ODD_POOLS: dict[str, tuple[str, dict[str, Any]]] = {
    "dilations": ("AveragePool", {"dilations": [2]}), "ceil_mode": ("AveragePool", {"ceil_mode": 1}),
    "count_include_pad": ("AveragePool", {"count_include_pad": 1}), "beyond": ("AveragePool", {"strides": [3]}),
    "dilations, or": ("MaxPool", {"dilations": [2]}),
    "shorter than its stride": ("ConvTranspose", {"strides": [3]}),
}  # fmt: skip


@pytest.mark.parametrize("words", ODD_POOLS)
def test_windows_that_runtimes_place_differently(words: str) -> None:
    """An average with SAME padding: 0.919 for 1.30 in ONNX Runtime."""
    operator, given = ODD_POOLS[words]
    arrays = {"k": np.ones((1, 1, 2))} if operator == "ConvTranspose" else {}
    for more, refused in ((given, True), ({}, False)):
        found = bound(
            graph_of(model([N(operator, ["x", *arrays], ["y"], **SAME, **more)], (1, 1, 6), arrays, opset=19))
        )
        assert (found.upper is None) == refused
        assert not refused or re.search(words, found.unknown[0].reason)


def steep_gate() -> Any:
    gate = N("Sigmoid", ["x"], ["s"])
    gate.attribute.append(helper.make_attribute("steepness", 100.0))
    return gate


HALF_PIXEL: dict[str, Any] = {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}
BRAIN = helper.make_tensor("a", TensorProto.BFLOAT16, (2, 2), [1.0078125] * 4)
LABEL = helper.make_tensor_value_info("y", TensorProto.INT64, None)
NO_BOUND: dict[str, tuple[list[Any], tuple[int, ...], dict[str, Any], str]] = {
    # Read as -1 from the end it took two entries, where NumPy takes none and ONNX Runtime one.
    "a slice from before its axis, backwards": ([N("Slice", ["x", "from", "to", "axis", "step"], ["y"])], (1, 4), {
        "from": np.array([-9]), "to": np.array([1]), "axis": np.array([1]), "step": np.array([-1])},
        "steps backwards from -9"),
    # ONNX Runtime takes the first pixel for it, onnx's reference the middle.
    "one pixel of a size and a half": ([N("Resize", ["x", "", "s"], ["y"], **HALF_PIXEL)], (1, 1, 3), {
        "s": np.array([1, 1, 0.5], np.float32)}, "pytorch_half_pixel where size times scale is not an integer"),
    # ``num_outputs`` was not looked at: pieces began elsewhere.
    "a split that does not fit its outputs": (
        [N("Split", ["x"], ["a", "y"], axis=1, num_outputs=4)], (1, 8), {}, "num_outputs"),
    "a label": ([N("ArgMax", ["x"], ["y"], axis=1)], (1, 4), {}, "export the network without it"),
    "a gate with an attribute of nobody": ([steep_gate(), N("Mul", ["x", "s"], ["y"])], (1, 4), {}, "steepness"),
    # NumPy takes none away, other runtimes all of length 1.
    "no axes to squeeze": ([N("Squeeze", ["x", "none"], ["y"])], (1, 4), {"none": np.zeros(0, np.int64)}, "axes"),
    # It was read as one for all keys; ONNX fills its rows with -infinity, so that the first key has the weight 1.
    "a mask of the first key": ([N("Attention", ["x", "x", "x", "m"], ["y"])], (1, 1, 3, 2), {
        "m": np.zeros((3, 1))}, r"a mask of shape \(3, 1\) for scores of shape \(1, 1, 3, 3\)"),
    # onnx's implementation cuts it as the first row of a causal mask: all queries read the first key.
    "a causal mask of one row": ([N("Attention", ["x", "x", "x", "m"], ["y"], is_causal=1)], (1, 1, 3, 2), {
        "m": np.zeros((1, 3))}, r"a mask of shape \(1, 3\) for causal scores of shape \(1, 1, 3, 3\)"),
    # They were rounded as float32 is: a factor of up to 1 + 2^-8.
    "a product of bfloat16 constants": ([N("Mul", ["a", "a"], ["k"]), N("Cast", ["k"], ["d"], to=11), N("MatMul",
        ["x", "d"], ["y"])], (1, 2), {"a": BRAIN}, "bfloat16|not known"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_BOUND)
def test_what_runtimes_or_types_decide_has_no_bound(name: str) -> None:
    nodes, shape, arrays, words = NO_BOUND[name]
    outputs = [LABEL] if name == "a label" else ["y"]
    found = bound(graph_of(model(nodes, shape, arrays, outputs=outputs, opset=23)))
    assert found.upper is None
    assert re.search(words, found.unknown[0].reason), found.unknown[0].reason


@pytest.mark.parametrize("end", [1, -1])
def test_hard_swish_bends_where_single_precision_says(end: int) -> None:
    """1/6 as the file has it is more by 3e-8: behind the bend 1.4e-7 for 1/2."""
    nodes = [
        N("HardSigmoid", ["x"], ["s"], alpha=1 / 6), N("Mul", ["x", "s"], ["h"]), N("Mul", ["x", "c"], ["u"]),
        N("Sub", ["h", "u"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, (1, 1), {"c": np.array(0.5 + end)})
    centre = np.full((1, 1), 2.99999995 * end)
    reached = float(np.linalg.norm(jacobian(proto, centre, 2.0**-30), 2))
    assert holds(bound(graph_of(proto), centre=centre, radius=1e-8).upper, reached, 0.49)


WINDOWS_OF_ALL_AXES = {
    "maxima": N("MaxPool", ["u"], ["y"], kernel_shape=[1, 2, 2, 1]),
    "sums": N("Conv", ["u", "ones"], ["y"], strides=[1, 2, 1, 1], pads=[0, 0, 1, 0, 0, 0, 1, 0]),
}


@pytest.mark.parametrize("name", WINDOWS_OF_ALL_AXES)
def test_windows_along_all_axes_are_pooling(name: str) -> None:
    """As JAX's ``reduce_window`` is exported, behind two axes of size 1: it was refused."""
    nodes = [N("Unsqueeze", ["x", "axes"], ["u"]), WINDOWS_OF_ALL_AXES[name]]
    given = {"axes": np.array([0, 1]), "ones": np.ones((1, 1, 1, 2, 3, 1))}
    shape = (1, 4, 3, 1)
    proto = model(nodes, shape, given)
    upper = present(bound(graph_of(proto), method=Product()).upper)
    assert holds(upper, steepest(proto, everywhere(shape, 2)), 1)
    assert upper == pytest.approx({"maxima": 2, "sums": math.sqrt(6 + 4 * math.sqrt(2))}[name], rel=1e-12)
    if name == "sums":
        others = graph_of(model(nodes, shape, given | {"ones": 2 * given["ones"]}))
        assert "convolves along 4 axes" in bound(others, method=Product()).unknown[0].reason


@pytest.mark.parametrize("clamped_after", [True, False])
def test_a_table_of_which_no_other_entry_is_read_has_a_bound(clamped_after: bool) -> None:
    """-0.3 / 0.1 in single precision is below -3, so that the entry before the first one of seven is read."""
    if clamped_after:
        clamp = [N("Div", ["x", "step"], ["d"]), N("Clip", ["d", "low", "high"], ["c"])]
        ends = {"low": -3.0, "high": 2.0}
    else:
        clamp = [N("Clip", ["x", "low", "high"], ["d"]), N("Div", ["d", "step"], ["c"])]
        ends = {"low": -0.3, "high": 0.2}
    nodes = [
        *clamp, N("Floor", ["c"], ["f"]), N("Sub", ["c", "f"], ["s"]), N("Sub", ["one", "s"], ["r"]),
        N("Cast", ["f"], ["whole"], to=TensorProto.INT64), N("Add", ["whole", "three"], ["i"]),
        N("Add", ["whole", "four"], ["j"]), N("Gather", ["table", "i"], ["u"]), N("Gather", ["table", "j"], ["v"]),
        N("Mul", ["u", "r"], ["p"]), N("Mul", ["v", "s"], ["q"]), N("Add", ["p", "q"], ["y"]),
    ]  # fmt: skip
    numbers = {**ends, "step": 0.1, "one": 1.0, "table": [0.0, 0.5, -1.0, -1.25, 2.0, 0.0, 1.0]}
    given = {name: np.array(x, np.float32) for name, x in numbers.items()}
    proto = single(nodes, (1, 2), given | {"three": np.array(3), "four": np.array(4)})
    found = bound(graph_of(proto), method=Product())
    if clamped_after:
        assert found.upper == pytest.approx(32.5, rel=1e-6)
        return
    advice = "clamp to whole numbers after the division by the step"
    assert "here from -4 to 2" in found.unknown[0].reason
    assert advice in found.unknown[0].reason
    # A model that computes in double precision reads the first entry, which its export does not.
    values = [Computed(np.full((1, 2), x), UNITS["float64"]) for x in (0.0, 1.0)]
    exported = Exported(proto, lambda *_: values[:1], inner=lambda *_: {"y": values[1]})
    with pytest.raises(TranslationError, match=f"exported otherwise than it computes.*{advice}"):
        bound(reading.graph_of(exported))


# -- constants among operands --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "given"),
    [
        ([N("Div", ["c", "x"], ["y"])], {"c": np.full((1, 1, 1), 2.0)}),
        ([N("Pow", ["x", "c"], ["y"])], {"c": np.full((1, 1, 1), 2.0)}),
        ([N("Clip", ["x", "c"], ["y"])], {"c": np.full((1, 1, 1), 1.5)}),
        ([N("Sigmoid", ["x"], ["s"]), N("Mul", ["x", "c"], ["d"]), N("Mul", ["d", "s"], ["y"])],
         {"c": np.full((1, 1, 1), 2.0)}),
    ],
    ids=["Div", "Pow", "Clip", "gate"],
)  # fmt: skip
def test_a_number_with_more_axes_than_the_value_adds_axes(nodes: list[Any], given: dict[str, Any]) -> None:
    """The result has those axes, too; its shape was the input's, so that axis 0 was another one afterwards."""
    proto = model([*nodes, N("ReduceSum", ["y", "first"], ["z"], keepdims=0)], (2, 2), {**given, "first": [0]},
                  outputs=["z"])  # fmt: skip
    graph = within(graph_of(proto), 1.0, 2.0)
    (ran,) = values_of(proto, np.ones((2, 2)))
    end = graph.nodes[-1].shape
    assert end in (None, ran.shape)
    assert holds(bound(graph).upper, steepest(proto, [np.full((2, 2), x) for x in (1.01, 1.6, 1.99)]), 0.2)


# -- names ---------------------------------------------------------------------------------------------------------
def two_kernels(first: str, second: str, used: str) -> Any:
    one = np.eye(4)
    hundred = 100 * np.eye(4)
    nodes = [
        N("Mul", ["w1", "one"], ["k1"], name=first), N("Mul", ["w2", "one"], ["k2"], name=second),
        N("MatMul", ["x", used], ["u"]), N("Relu", ["u"], ["v"]), N("MatMul", ["v", "k2"], ["y"]),
    ]  # fmt: skip
    return model(nodes, (1, 4), {"w1": one, "w2": hundred, "one": np.float64(1)})


@pytest.mark.parametrize(
    ("first", "second", "used"), [("n", "n", "k1"), ("m", "w1", "w1"), ("n", "n'", "k1"), ("Mul_1", "", "k1")]
)
def test_kernels_that_are_computed_have_names_of_their_own(first: str, second: str, used: str, tmp_path: Path) -> None:
    """Two nodes of one name, or one that is named as an initialiser, made one kernel of two: 1 for 100."""
    proto = two_kernels(first, second, used)
    reached = steepest(proto, everywhere((1, 4), 8))
    report: Any = specnorm.audit(saved(proto, tmp_path / "m.onnx"))
    for upper in (report.network.upper, bound(graph_of(proto)).upper):
        assert upper is not None
        assert holds(upper, reached, 99)
    assert sorted(round(row.upper or math.nan) for row in report.layers) == [1, 100]
    assert len({row.name for row in report.layers}) == 2


def test_a_row_that_is_named_after_its_node_is_no_initialiser() -> None:
    """The second geometry of w is named "w (n)", as another kernel may be."""
    tap = np.array([[[0.0, 1.0, 0.0]]])
    kernels = {"w": 0.5 * tap, "w (n)": 100 * tap}
    nodes = [
        N("Conv", ["x", "w"], ["u"]), N("Conv", ["u", "w"], ["v"], name="n", pads=[1, 1]),
        N("Conv", ["v", "w (n)"], ["y"], pads=[1, 1]),
    ]  # fmt: skip
    proto = model(nodes, (1, 1, 6), kernels)
    assert holds(bound(graph_of(proto)).upper, steepest(proto, everywhere((1, 1, 6), 3)), 24)


def test_an_operator_of_another_namespace_is_another_operator() -> None:
    """Patterns took an unknown operator for ONNX's of the same name: SiLU's 1.1 for any slope at all."""
    square = [N("Mul", ["a", "a"], ["b"])]
    shape = (1, 1, 4)
    body = helper.make_function("mylib", "Sigmoid", ["a"], ["b"], square, [helper.make_opsetid("", 18)])
    nodes = [N("Sigmoid", ["x"], ["s"], domain="mylib"), N("Mul", ["x", "s"], ["y"])]
    own = model(nodes, shape, functions=[body], domains=["mylib"])
    assert steepest(own, [np.full(shape, 9.0)]) > 10
    assert bound(graph_of(own)).upper is None
    nodes[0] = N("Sigmoid", ["x"], ["s"])
    assert present(bound(graph_of(model(nodes, shape))).upper) < 1.2


def test_outputs_are_counted_as_often_as_they_are_named() -> None:
    """A module that returns (y, y): 1 for the root of 2."""
    graph = graph_of(model([N("Relu", ["x"], ["y"])], (1, 4), outputs=["y", "y"]))
    assert graph.outputs == ("y", "y")
    assert holds(bound(graph).upper, math.sqrt(2), 0.9)


def test_constant_outputs_and_unread_constants_are_answered_in_words() -> None:
    """Labels of nothing, constants that nobody computes, outputs that are constants."""
    for nodes in ([N("Identity", [], ["y"])], [N("ArgMax", [], ["y"])]):
        assert bound(graph_of(model(nodes, (1, 4)))).upper == 0
    with pytest.raises(MethodError, match="no output of the network"):
        bound(graph_of(model([], (1, 4), {"y": np.ones(3)})))
    odd = N("AveragePool", ["k"], ["a"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    for join in ([N("Add", ["a", "x"], ["y"])], [N("Conv", ["x", "a"], ["y"])]):
        graph = graph_of(model([odd, *join], (1, 1, 4, 4), {"k": np.ones((1, 1, 7, 7))}, opset=19))
        with pytest.raises(ModelFileError, match="AveragePool of constants is not evaluated"):
            bound(graph)
    scaled = N("DequantizeLinear", ["q", "s"], ["w"], output_dtype=TensorProto.FLOAT16)
    given = {"q": np.ones((4, 4), np.int8), "s": np.float32(0.1)}
    half = [scaled, N("Cast", ["w"], ["v"], to=TensorProto.DOUBLE), N("MatMul", ["x", "v"], ["y"])]
    assert bound(graph_of(model(half, (1, 4), given, opset=23))).upper == pytest.approx(4 * float(np.float16(0.1)))
    unknown = [N("Add", ["x", "c"], ["y"])]
    graph = graph_of(model(unknown, (1,), {"c": np.array(np.nan)}))
    assert bound(graph, centre=np.ones(1), radius=1.0, check=False).upper == 1


@pytest.mark.parametrize(("dtype", "known"), [(np.float32, False), (np.int64, True)])
def test_a_range_is_known_if_its_numbers_are_whole(dtype: Any, known: bool) -> None:
    """Runtimes that add the step again and again round each time."""
    constants = {"a": dtype(0), "b": dtype(4), "c": dtype(1)}
    nodes = [
        N("Range", ["a", "b", "c"], ["r"]), N("Cast", ["r"], ["s"], to=TensorProto.DOUBLE), N("Mul", ["x", "s"], ["y"]),
    ]  # fmt: skip
    found = bound(graph_of(model(nodes, (1, 4), constants)))
    assert found.upper == (3 if known else None)
    assert known or "runtimes compute different results" in found.unknown[0].reason


# -- sizes ---------------------------------------------------------------------------------------------------------
def sum_of(one: Any, two: Any) -> Graph:
    other = helper.make_tensor_value_info("z", TensorProto.DOUBLE, two)
    return graph_of(model([N("Add", ["x", "z"], ["y"])], one, inputs=["x", other]))


def test_sizes_that_are_open_are_no_equal_ones() -> None:
    """By names that were cut at 40 letters two sizes were one: 1.414 was claimed where 9 and 1 give 3.16."""
    for one, two in (("n", "m"), ("n", "n"), (None, None), (9, "n")):
        with pytest.raises(MethodError, match="give the input shape"):
            bound(sum_of([1, one], [1, two]))
    assert bound(sum_of([1, 9], [1, 9])).upper == pytest.approx(math.sqrt(2))


def test_padding_that_depends_on_the_size_needs_it() -> None:
    """ONNX's "same" of stride 2 pads (0, 1) at even sizes, (1, 1) at odd ones: aligned so, taps cancelled."""
    same = N("Conv", ["x", "k"], ["y"], auto_pad="SAME_UPPER", strides=[2])
    kernel = {"k": np.array([[[0.0, -1.0, 0.5]]])}
    with pytest.raises(MethodError, match="give the input shape"):
        bound(graph_of(model([same], [1, 1, "n"], kernel)))
    assert bound(graph_of(model([same], [1, 1, 4], kernel))).upper is not None


def test_an_open_length_is_no_batch_of_one() -> None:
    """Of a vector axis 0 is its entries: the sum of one entry has the constant 1, of nine 3."""
    total = N("ReduceSum", ["x"], ["y"])
    for length in (None, "n"):
        with pytest.raises(MethodError, match="give the input shape"):
            bound(graph_of(model([total], [length])))
    assert bound(graph_of(model([total], [9]))).upper == pytest.approx(3)
    each = N("ReduceSum", ["x", "one"], ["y"])
    assert bound(graph_of(model([each], ["n", 9], {"one": np.array([1])}))).upper == pytest.approx(3)  # a sample


@pytest.mark.parametrize("operator", ["Equal", "Greater", "LessOrEqual"])
def test_a_comparison_of_computed_constants_is_read_where_no_rounding_decides_it(operator: str) -> None:
    nodes = [
        N("Exp", ["c"], ["e"]), N(operator, ["e", "limit"], ["b"]), N("Where", ["b", "one", "two"], ["k"]),
        N("MatMul", ["x", "k"], ["y"]),
    ]  # fmt: skip
    kernels = {"c": np.zeros((1, 1)), "one": np.full((1, 1), 3.0), "two": np.full((1, 1), 5.0)}
    for limit, is_true in ((0.5, operator == "Greater"), (1 + 1e-9, None), (2.0, operator == "LessOrEqual")):
        found = bound(graph_of(model(nodes, (1, 1), kernels | {"limit": np.array(limit)}))).upper
        assert found is None if is_true is None else found == pytest.approx(3 if is_true else 5)


def test_the_shape_of_a_registered_operator_is_that_of_what_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what needs one has a constant behind it."""
    monkeypatch.setattr(registry, "_KNOWN", {})

    @register_operator
    class Halves(Known):
        names = ("mylib::halves",)

        def run(self, *values: Any) -> Any:
            return values[0][:, :2]

        def lipschitz(self, place: Place) -> float:
            return 1.0

    nodes = [N("halves", ["x"], ["h"], domain="mylib"), N("MatMul", ["h", "w"], ["g"]), N("Softmax", ["g"], ["y"])]
    graph = graph_of(model(nodes, [1, 4], {"w": 2 * np.eye(2)}, domains=["mylib"]))
    assert graph.by_name["h"].shape == (1, 2)
    assert 0 < present(bound(graph).upper) <= 2


# -- pieces --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("axis", "new"), [(0, False), (1, False), (2, False), (0, True), (1, True), (2, True), (3, True)]
)
def test_halves_are_sorted_and_signs_put_anywhere(axis: int, new: bool) -> None:
    """Joined on another axis, or stacked: the norm of both signs stays 1, and so do the values."""
    halves = [
        N("Split", ["x"], ["a", "b"], axis=1, num_outputs=2), N("Min", ["a", "b"], ["p"]), N("Max", ["b", "a"], ["q"]),
    ]  # fmt: skip
    signs = [N("Neg", ["x"], ["n"]), N("Relu", ["n"], ["p"]), N("Relu", ["x"], ["q"])]
    stacked = [N("Unsqueeze", ["p", "at"], ["v"]), N("Unsqueeze", ["q", "at"], ["w"])] if new else []
    join = N("Concat", ["v", "w"] if new else ["p", "q"], ["y"], axis=axis)
    x = np.random.default_rng(0).normal(size=(3, 4, 5))
    for ahead in (halves, signs) if (axis, new) == (1, False) else (signs,):
        proto = model([*ahead, *stacked, join], (3, 4, 5), {"at": np.array([axis])} if new else {})
        graph = graph_of(proto)
        assert bound(graph).upper == 1
        np.testing.assert_array_equal(recognise_patterns(graph).run({"x": x})["y"], values_of(proto, x)[0])


def test_values_without_entries_have_a_bound_or_a_reason() -> None:
    """A stack of matrices without rows, and padding of an axis without pixels, ended in an error of NumPy's."""
    split = N("Split", ["x", "s"], ["a", "b"], axis=2)
    given = {"s": np.array([0, 2]), "w": np.zeros((3, 0, 2)), "p": np.zeros(6, np.int64)}
    for node in (N("MatMul", ["a", "w"], ["y"]), N("Pad", ["a", "p"], ["y"], mode="reflect")):
        upper = bound(graph_of(model([split, node], (3, 2, 2), given))).upper
        assert upper is None or 0 <= upper <= 1


def test_outputs_that_are_left_out_keep_their_places() -> None:
    """With an empty name before it, the second piece was read as the first."""
    nodes = [N("Split", ["x", "s"], ["", "b"], axis=1), N("Mul", ["b", "b"], ["y"])]
    proto = model(nodes, (1, 4), {"s": np.array([3, 1])})
    graph = within(graph_of(proto), {"x": 0.0}, {"x": np.array([[1.0, 1.0, 1.0, 50.0]])})
    assert {node.name: node.shape for node in graph.nodes}["b"] == (1, 1)
    assert holds(bound(graph).upper, steepest(proto, [np.full((1, 4), 49.0)]), 97)


# -- constants that are computed -----------------------------------------------------------------------------------
def half(value: float) -> Any:
    return np.full((2, 2), value, np.float16)


@pytest.mark.parametrize(
    ("nodes", "given"),
    [
        # 1e-4 squared is 0 in float16.
        ([N("Cast", ["a"], ["b"], to=1), N("Mul", ["b", "b"], ["k"])], {"a": half(1e-4)}),
        ([N("Cast", ["a"], ["b"], to=11), N("Mul", ["b", "b"], ["k"])], {"a": np.full((2, 2), 1e-30, np.float32)}),
        ([N("Slice", ["a", "from", "to", "axis"], ["b"]), N("Concat", ["b", "a"], ["k"], axis=0)],
         {"a": np.ones((2, 2)), "from": np.array([0]), "to": np.array([-(2**40)]), "axis": np.array([0])}),
    ],
    ids=["float16", "float32", "slice"],
)  # fmt: skip
def test_constants_are_computed_as_runtimes_do(nodes: list[Any], given: dict[str, Any]) -> None:
    """In the type that they were cast to; with ends of slices that are far below."""
    nodes = [*nodes, N("Cast", ["k"], ["d"], to=11), N("Mul", ["d", "big"], ["w"]), N("MatMul", ["x", "w"], ["y"])]
    alone = model(nodes[:-1], (1, 2), {**given, "big": np.array(1e9)}, outputs=["w"])
    (value,) = values_of(alone, np.zeros((1, 2)))
    graph = graph_of(model(nodes, (1, 2), {**given, "big": np.array(1e9)}))
    upper = bound(graph).upper
    assert upper is None or upper >= float(np.linalg.norm(value, 2)) * (1 - 1e-12)
    for node in graph.nodes:
        assert not isinstance(node.operator, Matrix) or node.operator.layer.load().shape == value.shape


def test_factors_of_normalisation_that_underflow_are_refused() -> None:
    """1e-180 / sqrt(1e300) is no number of double precision: 0 for 1e-30, and 0.7 of what it rounds to above that."""
    given = {"z": np.zeros(1), "v": np.full(1, 1e300), "big": np.array(1e300)}
    nodes = [N("BatchNormalization", ["x", "s", "z", "z", "v"], ["h"]), N("Mul", ["h", "big"], ["y"])]
    for scale, refused in ((1e-180, True), (1e-174, True), (0.0, False), (1e-140, False)):
        upper = bound(graph_of(model(nodes, (1, 1, 2), {**given, "s": np.full(1, scale)}))).upper
        assert (upper is None) == refused, scale


# -- files -------------------------------------------------------------------------------------------------------------
def test_nodes_may_be_in_any_order() -> None:
    """Constants after their use are what some exporters write; nodes that read each other are damage."""
    constant = N("Constant", [], ["w"], value=onnx.numpy_helper.from_array(DOWN.T[:4]))
    nodes = [N("MatMul", ["h", "v"], ["y"]), N("Relu", ["x"], ["h"]), N("Neg", ["w"], ["v"]), constant]
    assert present(bound(graph_of(model(nodes, (1, 4)))).upper) == pytest.approx(np.linalg.norm(DOWN, 2), rel=1e-5)
    circle = [N("Relu", ["b"], ["a"]), N("Relu", ["a"], ["b"]), N("Add", ["x", "b"], ["y"])]
    with pytest.raises(ModelFileError, match="nothing before it makes"):
        graph_of(model(circle, (1, 4)))


def test_a_file_that_is_no_onnx_model_says_what_to_give(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("a/data.pkl", "")
    path = tmp_path / "model.onnx"
    contents = (
        len(header).to_bytes(8, "little") + header + bytes(4), b"\x89HDF\r\n\x1a\n" + bytes(9),
        (tmp_path / "zip").read_bytes(), pickle.dumps({"w": [0.0]}),
    )  # fmt: skip
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=r"no ONNX model; .*give the model that has them"):
            network_bound(path)
    path.write_bytes(b"hello")
    with pytest.raises(ModelFileError, match="damaged, or no ONNX model"):
        network_bound(path)


def test_execution_names_the_first_value_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specnorm_networks.certified.operators.Sigmoid.value", lambda _, x: np.tanh(x))
    with pytest.raises(TranslationError, match=r"[Vv]alue y \(Sigmoid"):
        bound(graph_of(model([N("Sigmoid", ["x"], ["y"])], (1, 4))))
