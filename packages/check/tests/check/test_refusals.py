"""Every condition of the checker's lemmas, where it just does not hold: refused, with the words of that condition."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="ONNX files: pip install onnx")

from check.test_attention_certificates import CAUSAL, SHAPE, clipped, network
from helpers.onnx_models import model, node
from onnx import helper
from specnorm_check import (
    Network,
    Refused,
    arithmetic,
    attention,
    branches,
    claims,
    curves,
    files,
    graphs,
    inequality,
    layers,
    matrices,
    maxima,
    moves,
    networks,
    parts,
    resizing,
    rules,
    statements,
)
from specnorm_check.attention import Read, Tokens
from specnorm_check.graphs import Node
from specnorm_check.moves import moved
from specnorm_check.statements import Part, Together, Units

ONE, ZERO = Fraction(1), Fraction(0)


def graph(nodes: list[Any], arrays: dict[str, Any], shape: tuple[int, ...] = SHAPE) -> Network:
    """Of operators after tokens called z, which are clipped."""
    before, more = clipped()
    made = model([*before, *nodes], shape, more | arrays, opset=23)
    return Network(made.SerializeToString(), list(shape))


def last(operator: str, *inputs: str, arrays: dict[str, Any] | None = None, **attributes: Any) -> Tokens:
    return attention.tokens_of(graph([node(operator, *inputs, **attributes)], arrays or {}), "y")


HEADS = Network(network().SerializeToString(), list(SHAPE))
Q, K, V = (attention.tokens_of(HEADS, each) for each in "qkv")
PLAIN = attention.tokens_of(HEADS, "z")


def normalised(gain: Any, shift: Any, **attributes: Any) -> Tokens:
    nodes = [node("LayerNormalization", "x", "gain", "shift", **attributes)]
    return attention.tokens_of(graph(nodes, {"gain": np.asarray(gain), "shift": np.asarray(shift)}), "y")


def changed(array: Any, value: int, *place: int) -> Any:
    other = array.copy()
    other[place] = value
    return other


def times_matrix(**other: Any) -> Tokens:
    return attention.multiplied(HEADS, HEADS.nodes["q0"], replace(PLAIN, **other))


def head(**other: Any) -> Any:
    return attention.head_of(replace(Q, **other), (0, 0))


def read(q: Tokens = Q, k: Tokens = K, v: Tokens = V) -> Any:
    return attention.factors(Read(q, k, v, ONE, np.ones((5, 5), bool)))


def cut(value: Tokens, *where: Any) -> Tokens:
    return replace(value, **{name: getattr(value, name)[where] for name in ("tokens", "rows", "offset")})


def of_axes(*axes: int) -> Any:
    values = iter([cut(value, *[0] * (4 - count)) for value, count in zip((Q, K, V), axes, strict=True)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "tokens_of", lambda *_: next(values))
        return attention.attention_of(HEADS, "a")


def limited(numbers: int, call: Callable[[], Any]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "MOST_NUMBERS", numbers)
        return call()


def written_out(*steps: Any, arrays: dict[str, Any] | None = None, k: str = "kt") -> Any:
    """Attention of z and z, whose scores s go through some steps to t."""
    nodes = [
        node("Transpose", "z", out="kt", perm=[0, 2, 1]), node("MatMul", "z", k, out="s"), *steps,
        node("Softmax", "t", out="p", axis=-1), node("MatMul", "p", "z"),
    ]  # fmt: skip
    return attention.attention_of(graph(nodes, arrays or {}), "y")


def masked(*inputs: str, causal: int = 0, **arrays: Any) -> Any:
    nodes = [node("Reshape", "z", "split", out="h0"), node("Transpose", "h0", out="h", perm=[0, 2, 1, 3])]
    nodes.append(node("Attention", "h", "h", "h", *inputs, is_causal=causal))
    return attention.attention_of(graph(nodes, {"split": np.array([1, 5, 2, 2]), **arrays}), "y")


def shortened(operator: str, *inputs: str) -> Any:
    nodes, arrays = clipped()
    nodes[3] = node(operator, *inputs, out="least")
    made = model([*nodes, node("Abs", "z")], SHAPE, arrays, opset=23)
    return attention.tokens_of(Network(made.SerializeToString(), list(SHAPE)), "z")


WORDS = "tokens of an unknown length"
FACTOR = np.eye(4)
LEMMA_8: dict[str, tuple[Callable[[], Any], str]] = {
    "a matrix that is not finite": (lambda: attention.norm_up(np.array([[math.inf, 1.0]])), "not finite"),
    "the input itself": (lambda: attention.tokens_of(HEADS, "nothing"), WORDS),
    "as many tokens as the limit": (lambda: limited(20, lambda: attention.tokens_of(HEADS, "z")), "too many tokens"),
    "tokens with as many entries as the limit": (
        lambda: limited(16, lambda: attention.of_value(HEADS, "z", "x", ONE, ONE)), "too many entries"),
    "a normalization that broadcasts": (lambda: attention.of_value(HEADS, "z", "length", ONE, ONE), "broadcasts"),
    "a norm over another axis": (
        lambda: normalised(np.ones(4), np.zeros(4), axis=1, epsilon=0.1), "a norm over other axes"),
    "a gain of another shape": (
        lambda: normalised(np.ones((1, 4)), np.zeros(4), epsilon=0.1), "a norm over other axes"),
    "a bias of another shape": (lambda: normalised(np.ones(4), np.zeros((1, 4)), epsilon=0.1), "a bias of another"),
    "a norm without epsilon": (lambda: normalised(np.ones(4), np.zeros(4), epsilon=0.0), "without epsilon"),
    "an epsilon that is too small": (lambda: attention.root_down(Fraction(1, 2 * 4**100)), "too small"),
    "a sum that broadcasts": (lambda: last("Add", "z", "b", arrays={"b": np.ones((3, 5, 4))}), "broadcasts tokens"),
    "tokens times 0": (lambda: last("Mul", "z", "0", arrays={"0": np.array(0.0)}), "a product with 0"),
    "a number by tokens": (lambda: last("Div", "2", "z", arrays={"2": np.array(2.0)}), "a product with 0"),
    "a computed bias": (lambda: attention.numbers_of(HEADS, "x"), f"{WORDS}, before an operator"),
    "a bias that is not finite": (
        lambda: last("Add", "z", "b", arrays={"b": np.array([0, 0, math.inf, 0])}), "not finite"),
    "a matrix of two tokens": (lambda: times_matrix(tokens=changed(PLAIN.tokens, 1, 0, 0, 1)), "mixes tokens"),
    "a matrix of other rows": (lambda: times_matrix(rows=changed(PLAIN.rows, 1, 0, 1, 0)), "mixes tokens"),
    "a matrix of constants": (lambda: times_matrix(tokens=PLAIN.tokens - 1), "mixes tokens"),
    "a product with a computed matrix": (lambda: attention.kernel_of(HEADS, HEADS.nodes["q0"]._replace(
        inputs=["z", "x"])), "no product with a matrix"),
    "a product with a stack of matrices": (
        lambda: last("MatMul", "z", "w", arrays={"w": np.ones((1, 4, 4))}), "no product with a matrix"),
    "a product that is doubled": (lambda: attention.kernel_of(HEADS, HEADS.nodes["q0"]._replace(
        attributes={"alpha": 2.0})), "no product with a matrix"),
    "attention with a computed mask": (lambda: masked("h"), "a computed mask"),
    "attention with a mask of the first key": (lambda: masked("m", m=np.zeros((5, 1))), "another number of keys"),
    "causal attention with a mask of one row": (
        lambda: masked("m", causal=1, m=np.zeros((1, 5))), "another number of rows"),
    "queries with three axes": (lambda: of_axes(3, 4, 4), "other axes than four"),
    "values alone with four axes": (lambda: of_axes(3, 3, 4), "other axes than four"),
    "all with three axes": (lambda: of_axes(3, 3, 3), "other axes than four"),
    "scores that broadcast": (
        lambda: written_out(node("Mul", "s", "c", out="t"), arrays={"c": np.ones((2, 1, 1))}), "broadcast"),
    "a limit of tokens that changes with them": (lambda: shortened("Min", "inverse", "one", "more"), WORDS),
    "scores less a mask": (
        lambda: written_out(node("Sub", "s", "c", out="t"), arrays={"c": CAUSAL}), "scores with a Sub"),
    "scores of a constant": (
        lambda: written_out(node("Mul", "s", "2", out="t"), arrays={
            "c": np.ones((1, 4, 5)), "2": np.array(2.0)}, k="c"), "scores of constants"),
    "a mask of one axis": (lambda: attention.kept_by(np.zeros(5)), "a mask without rows"),
    "two masks": (lambda: attention.kept_by(np.stack([CAUSAL, np.zeros((5, 5))])), "heads with other masks"),
    "a bias in a mask": (lambda: attention.kept_by(changed(np.zeros((5, 5)), 1, 0, 0)), "biases other than 0"),
    "values of another normalization": (lambda: read(v=replace(V, start="other")), "keys and values of other tokens"),
    "queries of fewer heads": (lambda: read(q=cut(Q, slice(None), slice(1))), "heads differ"),
    "values of fewer heads": (lambda: read(v=cut(V, slice(None), slice(1))), "heads differ"),
    "queries of other sizes": (lambda: read(q=cut(Q, ..., slice(1))), "queries and keys of other sizes"),
    "values in another order": (lambda: read(v=replace(V, tokens=V.tokens[:, :, ::-1])), "other tokens"),
    "a head with an entry of another token": (lambda: head(tokens=changed(Q.tokens, 1, 0, 0, 0, 1)), "whole tokens"),
    "a head with other rows": (lambda: head(rows=changed(Q.rows, 1, 0, 0, 1, 0)), "whole tokens"),
    "a head that reads a token twice": (lambda: head(tokens=0 * Q.tokens), "whole tokens"),
    "a head with a constant": (lambda: head(tokens=Q.tokens - 1), "whole tokens"),
}  # fmt: skip
"""Calls, and words of the condition that does not hold."""


# -- one operator ------------------------------------------------------------------------------------------------------
FOUR = (1, 2, 2)


def fake(one: Node, arrays: dict[str, Any] | None = None, **shapes: tuple[int, ...]) -> Any:
    """A graph in which one operator computes y, and another one z, of values of some shapes."""
    found = Network.__new__(Network)
    found.nodes = {"x": Node("the input", [], {}), "z": Node("Relu", ["x"], {}), "y": one}
    found.shapes = {"x": FOUR, "y": FOUR, "z": FOUR} | shapes
    found.arrays = arrays or {}
    found.fixed = {"", *found.arrays}
    found.written_out = {}
    found.curves = curves.Curves(found)
    found.nodes["y"] = one
    return found


def step(operator: str, *inputs: Any, arrays: dict[str, Any] | None = None, **more: Any) -> Any:
    shapes = {name: more.pop(name) for name in "xy" if name in more}
    return matrices.step_of(fake(Node(operator, list(inputs or "x"), more), arrays, **shapes), "y")


def move(operator: str, *inputs: Any, arrays: dict[str, Any] | None = None, **more: Any) -> Any:
    shapes = {name: more.pop(name) for name in "xy" if name in more}
    return moved(fake(Node(operator, list(inputs or "x"), more), arrays, **shapes), "y", {"x": np.ones(FOUR)})


def pool(pads: list[int]) -> Any:
    one = Node("AveragePool", ["x"], {"kernel_shape": [2], "pads": pads})
    return parts.read_kernel(fake(one), one, FOUR, FOUR)


def branch(one: Node, **shapes: Any) -> Any:
    return branches.Branches(fake(one, **shapes), "x", ["y"], {})


def with_limit(module: Any, name: str, limit: int, call: Callable[[], Any]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, limit)
        return call()


def rounded(weights: Any, roundings: int = 1) -> Any:
    one = matrices.Step(["x"], np.asarray(weights), roundings, matrices.scaled)
    return matrices.error_of_roundings({"y": one}, "x", "y")


def product(entry: int, length: int) -> Any:
    row = np.broadcast_to(np.array(float(entry)), (1, 1, length))
    return arithmetic.exact_products(row, row)


def chain(count: int) -> list[str]:
    """So many functions, one after the other, as what lies between two values."""
    found = fake(Node("Relu", ["z"], {}))
    for at in range(count - 2):
        found.nodes[f"y{at}"] = Node("Relu", [f"y{at - 1}" if at else "y"], {})
    return matrices.values_between(found, "x", f"y{count - 3}")


def einsum(equation: bytes, *inputs: str) -> Any:
    return step("Einsum", *inputs, arrays={"c": np.ones((2, 2))}, equation=equation)


def written(operator: str, *inputs: str, **more: Any) -> Any:
    one = Node(operator, ["x", *inputs], {"axes": [2], "axis": 2, **more})
    return maxima.Writer(fake(one, z=(1, 1, 2))).written_out("y", one)


def added_value() -> None:
    found = fake(RELU)
    found.nodes[f"{maxima.MADE}Relu 3"] = RELU
    maxima.write_out_maxima(found)


def kernel(one: Node, taps: int, before: tuple[int, ...], after: tuple[int, ...]) -> Any:
    return parts.read_kernel(fake(RELU, {"k": np.ones((1, 1, taps)), "b": np.ones((1, 2))}), one, before, after)


def transposed(before: int, after: int) -> Any:
    return kernel(Node("ConvTranspose", ["x", "k"], {}), 2, (1, before, 3), (1, 1, after))


def by_fixed() -> Any:
    found = fake(Node("Mul", ["x", "z"], {}))
    found.fixed.add("z")
    return found


def large(low: int, high: int, power: int = 0, rate: Fraction = ZERO) -> curves.Range:
    return curves.Range(Decimal(low), Decimal(high), power, rate)


def of(values: curves.Range) -> curves.Value:
    return curves.Value(values, curves.exactly(1))


RELU, TWICE = Node("Relu", ["x"], {}), Node("Add", ["x", "x"], {})
OPERATORS: dict[str, tuple[Callable[[], Any], str]] = {
    "an entry of 2^26.5": (lambda: product(2**26 + 2**25, 1), "2\\^26.5 or more"),
    "an entry that is just too large": (lambda: with_limit(arithmetic, "EXACT", 9, lambda: product(3, 1)), "2\\^26.5"),
    "sums of 2^62": (lambda: product(2**20, 2**22), "may reach 2\\^62"),
    "2^48 roundings": (lambda: arithmetic.inflation(2**48), "too large"),
    "a function of two values in a branch": (lambda: branch(Node("Mul", ["x", "z"], {})), "Mul stands in a branch"),
    "a sum in a branch that broadcasts": (lambda: branch(TWICE, y=(2, 2, 2)), "broadcasts a value"),
    "as many entries of branches as the limit": (lambda: with_limit(
        branches, "MOST_NUMBERS", 9, lambda: branch(TWICE)), "too many entries"),
    "a part that begins at no value": (lambda: matrices.values_between(fake(RELU), "w", "y"), "begins at no computed"),
    "a part from a value to itself": (lambda: matrices.values_between(fake(RELU), "y", "y"), "has no operator"),
    "a sum of constants in a matrix": (
        lambda: step("Add", "c", "c", arrays={"c": np.ones(FOUR)}), "Add stands in a matrix"),
    "a product with what is computed of constants": (
        lambda: matrices.step_of(by_fixed(), "y"), "Mul stands in a matrix"),
    "a part that ends at no value": (lambda: matrices.values_between(fake(RELU), "x", "w"), "ends at no computed"),
    "a part of too many values": (lambda: with_limit(matrices, "MOST_VALUES", 3, lambda: chain(4)), "too many values"),
    "a matrix that is computed": (lambda: step("MatMul", "x", "z"), "MatMul stands in a matrix"),
    "a sum of one factor": (lambda: einsum(b"ij->i", "x"), "such a Einsum"),
    "a product of two that names one": (lambda: einsum(b"ij->i", "x", "c"), "such a Einsum"),
    "maxima in a matrix": (lambda: step("MaxPool", kernel_shape=[2], pads=[0, 1]), "MaxPool stands in a matrix"),
    "a product without a result": (lambda: einsum(b"aij,jk", "x", "c"), "such a Einsum"),
    "a product of some axes": (lambda: einsum(b"...j,jk->...k", "x", "c"), "such a Einsum"),
    "a product of a vector": (lambda: step("MatMul", "x", "c", arrays={"c": np.ones(2)}), "such a MatMul"),
    "places that are computed": (
        lambda: step("ScatterND", "x", "z", "c", arrays={"c": np.ones(FOUR)}), "such a ScatterND"),
    "two entries in one place": (lambda: step("ScatterND", "x", "i", "c", arrays={
        "i": np.array([[0, 0], [0, 0]]), "c": np.ones((2, 2))}), "such a ScatterND"),
    "products in places": (lambda: step("ScatterND", "x", "i", "c", reduction=b"mul", arrays={
        "i": np.array([[0, 0]]), "c": np.ones((1, 2))}), "such a ScatterND"),
    "entries of each sample": (lambda: move(
        "GatherND", "x", "i", batch_dims=1, arrays={"i": np.zeros((1, 2, 1), int)}), "such a GatherND"),
    "a value called as one that is added": (added_value, "a value of the model is called"),
    "maxima that broadcast": (lambda: written("Max", "z"), "Max broadcasts"),
    "maxima of padded pixels": (lambda: written("MaxPool", kernel_shape=[2], pads=[1, 0]), "padded maxima"),
    "maxima of two axes": (lambda: written("ReduceMax", axes=[1, 2]), "several axes"),
    "maxima of too many entries": (lambda: with_limit(maxima, "MOST_ENTRIES", 3, lambda: written("ReduceMax")), "many"),
    "sorted entries that are too many": (lambda: with_limit(maxima, "MOST_SORTED", 1, lambda: written("TopK")), "many"),
    "more entries than may be moved": (lambda: with_limit(moves, "MOST_MOVED", 9, lambda: moves.copies_of(
        fake(Node("Transpose", ["x"], {})), "y")), "too many entries are moved"),
    "a mask that is computed": (
        lambda: move("Where", "z", "x", "c", arrays={"c": np.ones(FOUR)}), "a Where whose condition"),
    "a mirror behind the last pixel": (lambda: move(
        "Pad", "x", "p", arrays={"p": np.array([0, 0, 2, 0, 0, 0])}, mode=b"reflect", y=(1, 2, 4)), "entries twice"),
    "padding that copies and cuts": (lambda: move(
        "Pad", "x", "p", arrays={"p": np.array([0, 0, 1, 0, 0, -1])}, mode=b"edge"), "padding that cuts"),
    "a quotient by 0 in a matrix": (lambda: step("Div", "x", "c", arrays={"c": np.eye(2)}), "a Div by 0"),
    "a sum without axes": (lambda: step("ReduceSum", "x", y=()), "ReduceSum without axes"),
    "averages padded before": (lambda: pool([1, 0]), "fewer pixels"),
    "averages padded behind": (lambda: pool([0, 1]), "fewer pixels"),
    "a power that falls slowly": (lambda: curves.raised(large(1, 1, 1), 0, ZERO), "grows too slowly"),
    "a rate that falls slowly": (lambda: curves.raised(large(1, 1, -3, ONE), 0, ZERO), "grows too slowly"),
    "exp of what rises": (lambda: curves.exp(of(large(-1, 2, 2))), "exponential of a large"),
    "exp of what may rise": (lambda: curves.exp(of(large(-1, 1, 2))), "exponential of a large"),
    "exp of what comes to 0": (lambda: curves.exp(of(large(-2, -1, -2))), "exponential of a large"),
    "exp of what may fall slowly": (lambda: curves.exp(of(large(-2, -1, 0, ONE / 9))), "exponential of a large"),
    "exp of what comes fast to 0": (lambda: curves.exp(of(large(-2, -1, 1, -ONE))), "exponential of a large"),
    "the logarithm of a power": (lambda: curves.log(of(large(1, 2, 2))), "logarithm of such"),
    "the root of an odd power": (lambda: curves.root(of(large(1, 2, 1))), "root of such"),
    "the root of 0": (lambda: curves.root(of(large(0, 1))), "divides by 0"),
    "the logarithm of 0": (lambda: curves.log(of(large(0, 1))), "divides by 0"),
    "a power that changes": (lambda: curves.power(curves.ONE, of(large(1, 2))), "such a power"),
    "a power that rises": (
        lambda: curves.power(curves.ONE, curves.ONE._replace(line=(ONE, 2 * ONE))), "such a power"),
    "a function of a computed number": (lambda: by_fixed().curves.program("y", "x"), "a number that is computed"),
    "a function of as many operators as the limit": (lambda: with_limit(
        curves, "MOST_STEPS", 1, lambda: fake(RELU).curves.program("y", "x")), "many operators"),
    "a function of another value": (lambda: fake(RELU).curves.program("y", "z"), "no function of one entry"),
    "a place beyond the last": (
        lambda: move("Gather", "x", "i", axis=2, arrays={"i": np.array([2])}), "entries are read that are not there"),
    "a place before the first": (
        lambda: move("GatherND", "x", "i", arrays={"i": np.array([[-2]])}), "entries are read that are not there"),
    "a bias of two numbers a channel": (lambda: kernel(
        Node("Conv", ["x", "k", "b"], {}), 1, (1, 1, 2), (1, 1, 2)), "not one number a channel"),
    "averages padded along one axis": (lambda: parts.read_kernel(fake(RELU), Node("AveragePool", ["x"], {
        "kernel_shape": [2, 2], "pads": [0, 1, 0, 0]}), (1, 2, 2, 2), (1, 2, 1, 2)), "fewer pixels"),
    "a weight that is not finite": (lambda: rounded([1.0, math.inf]), "NaN or infinity"),
    "a weight that is too small": (lambda: rounded([rules.LEAST_PRODUCT]), "so small that products"),
    "2^32 roundings of a matrix": (lambda: rounded([1.0], 2**32 - 1), "too many roundings"),
    "a value that is not moved": (lambda: move("Transpose", "z"), "Transpose stands in a branch"),
    "a slice by a computed number": (lambda: move("Slice", "x", "z", "z"), "Slice stands in a branch"),
    "entries of an unknown shape": (lambda: without("y"), "no shape of y"),
    "entries that are moved to an unknown shape": (lambda: without("y", "Transpose"), "another shape of y"),
    "a slice from far before the first entry, backwards": (lambda: move("Slice", *"xbeat", arrays={
        name: np.array([n]) for name, n in zip("beat", (-9, -19, 2, -1), strict=True)}, y=(1, 2, 1)),
        "another shape of y"),
    "slopes that repeat entries": (
        lambda: last("PRelu", "z", "s", arrays={"s": np.ones((3, 5, 4))}), "before PRelu that repeats"),
    "a slice without an end": (lambda: move("Slice", "x", "c", arrays={"c": np.array([0])}), "such a Slice"),
}  # fmt: skip


def without(name: str, operator: str = "Reshape") -> Any:
    found = fake(Node(operator, ["x", "c"], {}), {"c": np.array([2, 2])})
    del found.shapes[name]
    return moved(found, "y", {"x": np.ones(FOUR)})


# -- graphs, parts, geometries -----------------------------------------------------------------------------------------
PART = {"values": ["x", "y"], "weights": [], "sizes": "every", "exponent": 0, "completion": "h"}
LARGEST = statements.NUMBER_LIMIT


def proto(**fields: Any) -> Any:
    return SimpleNamespace(**fields)


def numbers(*perm: int) -> Any:
    return graphs.require_small_numbers(proto(node=[node("Transpose", "x", perm=list(perm))]), {})


def read_part(**other: Any) -> Part:
    return Part.read(PART | other)


def joint(one: Node, *values: str, arrays: Any = None, **other: Any) -> Any:
    part = Together(("x", *values, "y"))
    found = fake(one, arrays)
    for name, more in other.items():
        found.nodes[name] = more
        found.shapes[name] = FOUR
    return parts.joint_of_part(found, part)


def twice(*values: str) -> Any:
    """A part of values of which y is the same as z."""
    found = fake(RELU)
    found.first = {"y": "z"}
    return found.joint(Together(values))


def term_of(one: Node, *weights: int, before: Node = RELU, values: tuple[str, ...] = ("x", "y"), **shapes: Any) -> Any:
    """The term of a matrix of an input of some shape, with so many multipliers for each value."""
    arrays = {
        "w": np.eye(4),
        "2": np.eye(2),
        "3": np.ones(3),
        "pixels": np.ones((2, 2, 1)),
        "turned": np.arange(4)[::-1],
    }
    found = fake(one, arrays | {f"c{n}": np.array([n]) for n in range(3)}, **shapes)
    found.nodes |= {"z": before, "r": RELU}
    found.shapes["r"] = (1, 2)
    part = Together(values, tuple(np.ones(n) for n in weights))
    reader = parts.TermReader(found, part)
    terms = [*reader.terms(len(values) - 1, "y")]
    return [reader.weighted(term) for term in terms] if weights else terms


def reading(own: Callable[[Any], Any]) -> Any:
    """How some numbers are those of z_0, which has two samples, three channels and four pixels."""
    whole = moves.numbered((2, 3, 4), 1)
    return parts.reading_of(0, own(whole), np.arange(3), whole)


def edges(*shapes: tuple[int, int, int, int]) -> Any:
    return parts.channels_of([parts.Edge(a, b, np.ones((m, n)), []) for a, b, m, n in shapes])


def units(q_0: Any = (1.0,), q_n: Any = (1.0,), q: Any = (1.0, 1.0), values: Any = ("x", "y", "y")) -> Any:
    part = Units(values, (np.array(q_0), np.array(q), np.array(q_n)))
    return inequality.Form(fake(RELU), part)


def resized(before: Any = (1, 1, 2), after: Any = (1, 1, 4), scales: Any = None, **attributes: Any) -> Any:
    one = Node("Resize", ["x", "", "s"] if scales else ["x", "", "", "n"], attributes)
    arrays = {"s": np.array(scales)} if scales else {"n": np.array(after)}
    return resizing.matrix_of_resize(fake(one, arrays), one, before, after)


def repeated(after: int, **attributes: Any) -> Any:
    one = Node("Resize", ["x", "", "", "n"], attributes)
    return resizing.repeats_of(fake(one, {"n": np.array((1, 1, after))}, x=(1, 1, 2), y=(1, 1, after)), "y")


def completed(h: Any) -> Any:
    return layers.proven_norm(np.eye(2), layers.Layer((), 1, "zeros", ()), h, 0)


def at_size(size: int, mode: str = "zeros", before: int = 1) -> Any:
    layer = layers.Layer((layers.Axis(2, 1, 1, before, 0),), 1, mode, (size,))
    return layers.matrix_at_size(np.ones((1, 1, 2)), layer, (size,))


def grid(*terms: tuple[int, int, int], axes: int = 1) -> Any:
    """The pixels of values linked by layers of some strides, below 0 if they are transposed; the last has more axes."""
    found: list[parts.Term] = []
    for start, end, stride in terms:
        count = axes if len(found) == len(terms) - 1 else 1
        axis = layers.Axis(1, abs(stride), 1, 0, 0)
        found.append(parts.Term(start, end, np.ones(1), layers.Layer((axis,) * count, 1, "zeros", None, stride < 0)))
    return parts.pixels_of_values(found)


def by_phases(limit: int) -> Any:
    layer = layers.Layer((layers.Axis(2, 1, 1, 0, 0),), 1, "zeros", None)
    term = parts.Term(0, 1, np.ones((1, 1, 2)), layer)
    return with_limit(parts, "LARGEST_KERNEL", limit, lambda: parts.by_phases(term, [1], [1]))


def pooled(*weights: int) -> Any:
    """Two convolutions of stride 1 and 2, and pooling, with so many multipliers for each value."""
    found = fake(Node("MaxPool", ["b"], {"kernel_shape": [1]}), {"k": np.ones((1, 1, 1))}, a=(1, 1, 4), b=(1, 1, 2))
    found.nodes |= {"a": Node("ConvTranspose", ["x", "k"], {}), "b": Node("Conv", ["a", "k"], {"strides": [2]})}
    found.shapes |= {"x": (1, 1, 4), "y": (1, 1, 2)}
    return parts.joint_of_part(found, Together(("x", "a", "y"), tuple(np.ones(n) for n in weights)))


def normalised_by(variance: list[float], epsilon: float = 0.0) -> Any:
    one = Node("BatchNormalization", ["x", "g", "g", "g", "v"], {"epsilon": epsilon})
    return rules.normalising_factors(fake(one, {"g": np.ones(2), "v": np.array(variance)}), one)


def times_numbers(operator: str, *values: float) -> Any:
    return rules.factor_of_numbers(fake(Node(operator, ["x", "c"], {}), {"c": np.array(values)}), "y")


def windows(**attributes: Any) -> Any:
    return rules.axes_of_windows(Node("MaxPool", ["x"], attributes), [2])


def thread_without_subnormal_numbers() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "np", proto(float32=float, float64=lambda _: 0.0))
        claims.require_subnormal_numbers()


EACH_SECOND = parts.Reading(0, np.arange(2), np.arange(2), (1, 2, 4), [2])
CUT: Any = SimpleNamespace(graph=SimpleNamespace(shape_of=lambda _: (1, 2, 4)), readings=lambda *_: [EACH_SECOND])
GEOMETRY = {"stride": [1], "dilation": [1], "padding": [[0, 0]], "padding_mode": "zeros", "groups": 1, "layout": "OI",
            "sizes": "every", "transposed": False}  # fmt: skip


def layer_of(shape: tuple[int, ...] = (2, 1, 3), **other: Any) -> Any:
    return statements.read_layer(np.ones(shape), GEOMETRY | other)


GEOMETRIES: dict[str, tuple[Callable[[], Any], str]] = {
    "a thread without subnormal numbers": (thread_without_subnormal_numbers, "subnormal numbers are taken"),
    "two inputs of which one is a constant": (lambda: graphs.set_input_shape(
        proto(input=[proto(name="a"), proto(name="b")]), {"a": FACTOR}, []), "a constant of the model"),
    "a matrix of units as large as the limit": (
        lambda: with_limit(inequality, "MOST_NUMBERS", 64, units), "too large a matrix"),
    "a start of units with a huge multiplier": (lambda: units(q_0=(2.0**300,)).is_nonnegative(), "very different"),
    "a start of units with a tiny multiplier": (lambda: units(q_0=(2.0**-300,)).is_nonnegative(), "very different"),
    "a part of a text": (lambda: read_part(values="xy"), "no list of two"),
    "pooling inside a part": (lambda: joint(
        Node("Relu", ["z"], {}), "z", z=Node("MaxPool", ["x"], {"kernel_shape": [1]})), "MaxPool stands in a part"),
    "a normalization too many": (lambda: with_limit(parts, "MOST_NORMALISATIONS", 0, lambda: term_of(
        Node("BatchNormalization", ["x", "3", "3", "3", "3"], {}))), "more than 0 normalizations"),
    "fewer entries before a layer": (lambda: term_of(
        Node("Gemm", ["z", "2"], {}), before=Node("Reshape", ["x", "3"], {}), z=(1, 2)), "Reshape of another size"),
    "a kernel that states other taps": (lambda: kernel(
        Node("Conv", ["x", "k"], {"kernel_shape": [2]}), 3, (1, 1, 5), (1, 1, 4)), "such a Conv$"),
    "two layers between two values": (lambda: grid((0, 1, 1), (0, 1, 1)), parts.DO_NOT_FIT[:20]),
    "two strides to a value": (lambda: grid((0, 1, 1), (0, 2, 2), (1, 2, 1)), parts.DO_NOT_FIT[:20]),
    "a stride in place of a transposed one": (lambda: grid((0, 1, 2), (0, 2, 1), (1, 2, 2)), parts.DO_NOT_FIT[:20]),
    "two layers without multipliers": (lambda: joint(Node("Add", ["x", "z"], {}), z=Node("Sub", ["x", "x"], {})),
        parts.DO_NOT_FIT[:20]),
    "a layer of a value that no layer makes": (lambda: grid((1, 2, 1), (0, 2, 1)), parts.DO_NOT_FIT[:20]),
    "layers of one axis and of two": (lambda: grid((0, 1, 1), (1, 2, 1), axes=2), parts.DO_NOT_FIT[:20]),
    "a kernel as large as the limit": (lambda: by_phases(2), "entries or more"),
    "pooling of phases that have multipliers of their own": (lambda: pooled(1, 2, 2), "of their own are pooled"),
    "edges of two ranks": (lambda: parts.hermitian_kernel([
        parts.Edge(0, 1, np.ones((1, 1)), []), parts.Edge(1, 2, np.ones((1, 1, 1)), [0])], {0: 1, 1: 1, 2: 1}),
        parts.DO_NOT_FIT[:20]),
    "a variance below 0": (lambda: normalised_by([1.0, -0.5], 1.0), "divides by 0"),
    "a variance of 0": (lambda: normalised_by([1.0, 0.0]), "divides by 0"),
    "numbers that are not finite": (lambda: times_numbers("Mul", 1.0, math.inf), "NaN or infinity"),
    "a quotient by 0": (lambda: times_numbers("Div", 1.0, 0.0), "a Div by 0"),
    "a product that is tiny": (
        lambda: rules.product_rounded_once(np.array([1.0, 2.0**-500]), np.array([1.0, 2.0**-500])), "are inexact"),
    "dilations of two axes": (lambda: windows(dilations=[1, 1]), "no rule is for such a MaxPool"),
    "a pad of -1": (lambda: windows(pads=[0, -1]), "no rule is for such a MaxPool"),
    "a stride of no pixel": (lambda: windows(strides=[0]), "no rule is for such a MaxPool"),
    "a split of another size": (lambda: [*Network._nodes_of(
        fake(RELU, a=(1, 1, 2), b=(1, 2, 2)), helper.make_node("Split", ["x"], ["a", "b"], axis=1), ["x"])],
        "Split of another"),
    "a further input that is computed": (
        lambda: fake(RELU).require_fixed_inputs(Node("Pad", ["x", "z"], {})), "input that is computed"),
    "a model with functions": (lambda: graphs.require_known_definitions(proto(
        opset_import=[proto(domain="", version=18)], functions=[1])), "functions of its own"),
    "an axis of 2^24": (lambda: numbers(LARGEST), "or more"),
    "an axis of -2^24": (lambda: numbers(-LARGEST), "or more"),
    "two inputs": (
        lambda: graphs.set_input_shape(proto(input=[proto(name="a"), proto(name="b")]), {}, []), "not one input"),
    "another number of samples": (lambda: Network(network().SerializeToString(), [2, 5, 4]), "another shape"),
    "2^32 entries": (lambda: graphs.require_moderate((2**16, 2**16)), "entries or more"),
    "a part of units without multipliers": (lambda: read_part(sizes="units"), "not multipliers for each value"),
    "a part of a vector": (lambda: parts.joint_of_part(fake(RELU, x=(4,)), Together(("x", "y"))),
        "x of a part has 1 axes, not samples and channels"),
    "a part that lists a value twice": (lambda: twice("x", "z", "z"), "lists a value twice"),
    "a part that lists two equal values": (lambda: twice("x", "z", "y"), "lists a value twice"),
    "a part of one value": (lambda: read_part(values=["x"]), "no list of two"),
    "a part of a number": (lambda: read_part(values=["x", 1]), "no names"),
    "a part of other sizes": (lambda: read_part(sizes="some"), "sizes of a part are none"),
    "a part with another entry": (lambda: read_part(more=1), "other entries than those of a part"),
    "a multiplier of 2^-99": (lambda: read_part(weights=[["0x1.0p-99"], ["0x1.0p+0"]]), "close to it or beyond"),
    "multipliers of one value": (lambda: read_part(weights=[["0x1.0p+0"]]), "not multipliers for each"),
    "three values without multipliers": (lambda: read_part(values=["x", "z", "y"]), "not multipliers for each"),
    "a part of a constant": (lambda: joint(Node("Relu", ["c"], {}), arrays={"c": np.ones(FOUR)}), "has no layer"),
    "a part whose only layer is inside": (
        lambda: joint(Node("Relu", ["c"], {}), "z", arrays={"c": np.ones(FOUR)}), parts.DO_NOT_FIT[:20]),
    "a part that no operator ends": (lambda: parts.function_at(fake(RELU), "w"), "no computed value"),
    "a sum of a part that broadcasts": (
        lambda: term_of(Node("Add", ["x", "x"], {}), y=(2, 2, 2)), "broadcasts a value"),
    "a function inside a layer's sum": (lambda: term_of(Node("Tanh", ["x"], {})), "Tanh stands in a part"),
    "a function before a layer": (
        lambda: term_of(Node("Gemm", ["z", "w"], {}), z=(1, 4)), "Relu stands before a layer"),
    "multipliers of other channels before": (
        lambda: term_of(Node("Gemm", ["x", "w"], {}), 3, 4, x=(1, 4)), "one a channel"),
    "multipliers of other channels behind": (
        lambda: term_of(Node("Gemm", ["x", "w"], {}), 4, 3, x=(1, 4)), "one a channel"),
    "multipliers of the start's phases": (lambda: term_of(
        Node("Gemm", ["z", "w"], {}), 4, 4, before=Node("Flatten", ["x"], {}), z=(1, 4)), "one a channel"),
    "multipliers of more channels than the layer has": (
        lambda: term_of(Node("Gemm", ["x", "w"], {}), 4, 3, x=(1, 4), y=(1, 3)), parts.DO_NOT_FIT[:20]),
    "a matrix of other columns": (lambda: term_of(Node("Gemm", ["x", "w"], {}), x=(1, 3)), "it reads 3 channels"),
    "a kernel of other axes": (lambda: term_of(Node("Gemm", ["x", "w"], {})), "no rule is for such a Gemm$"),
    "a channel that a layer reads twice": (lambda: term_of(Node("Gemm", ["z", "w"], {}), 2, 4, before=Node(
        "Concat", ["x", "x"], {"axis": 1}), x=(1, 2), y=(1, 4), z=(1, 4)), "a channel is read twice"),
    "an entry that a layer reads twice": (lambda: term_of(Node("Gemm", ["z", "w"], {}), before=Node(
        "Concat", ["x", "x"], {"axis": 1}), x=(1, 2), y=(1, 4), z=(1, 4)), "an entry is read twice"),
    "groups of channels in another order": (lambda: term_of(Node("Conv", ["z", "2"], {"group": 2}), 4, 2, before=Node(
        "Gather", ["x", "turned"], {"axis": 1}), x=(1, 4), y=(1, 2), z=(1, 4)), parts.DO_NOT_FIT[:20]),
    "a transposed layer that reads several values": (lambda: term_of(
        Node("ConvTranspose", ["z", "w"], {}), 2, 4, before=Node("Concat", ["x", "x"], {"axis": 1}), x=(1, 2),
        y=(1, 4), z=(1, 4)), parts.DO_NOT_FIT[:20]),
    "pixels that are cut before a layer": (lambda: term_of(Node("Conv", ["z", "pixels"], {}), 2, 2, before=Node(
        "Slice", ["x", "c0", "c2", "c2"], {}), x=(1, 2, 3), y=(1, 2, 2), z=(1, 2, 2)), parts.DO_NOT_FIT[:20]),
    "more entries before a layer than may be moved": (lambda: with_limit(parts, "MOST_MOVED", 5, lambda: term_of(
        Node("Gemm", ["z", "w"], {}), before=Node("Flatten", ["x"], {}), z=(1, 4))), "too many entries"),
    "channels of another sample": (lambda: reading(lambda x: x[::-1]), parts.DO_NOT_FIT[:20]),
    "channels of one sample": (lambda: reading(lambda x: x[:1]), parts.DO_NOT_FIT[:20]),
    "pixels from the second on": (lambda: reading(lambda x: x[:, :, 1:]), parts.DO_NOT_FIT[:20]),
    "pixels that go back": (lambda: reading(lambda x: x[:, :, ::-1]), parts.DO_NOT_FIT[:20]),
    "a pixel twice": (lambda: reading(lambda x: x[:, :, [0, 0, 1]]), parts.DO_NOT_FIT[:20]),
    "pixels that are cut and repeated": (
        lambda: list(parts.TermReader.skip_terms(CUT, 1, "y", 1.0, [2])), parts.DO_NOT_FIT[:20]),
    "pixels of two channels": (
        lambda: reading(lambda x: np.where(np.arange(4) < 2, x, x[:, ::-1])), parts.DO_NOT_FIT[:20]),
    "pixels with a constant": (lambda: reading(lambda x: np.where(np.arange(4) < 3, x, 0)), parts.DO_NOT_FIT[:20]),
    "constants before pixels": (lambda: reading(lambda x: np.where(np.arange(4) < 1, 0, x)), parts.DO_NOT_FIT[:20]),
    "a transposed kernel of other channels": (lambda: transposed(2, 4), "such a ConvTranspose$"),
    "a transposed layer of another size": (lambda: transposed(1, 5), "such a ConvTranspose$"),
    "a slope that is not finite": (
        lambda: rules.slopes_of(Node("LeakyRelu", ["x"], {"alpha": math.inf})), "NaN or infinity"),
    "a slice of one axis twice": (lambda: move("Slice", *"xbea", arrays={
        "b": np.array([0, 0]), "e": np.array([2, 2]), "a": np.array([1, -2])}), "cuts an axis twice"),
    "edges of other inputs": (lambda: edges((0, 1, 2, 2), (0, 2, 2, 3)), parts.DO_NOT_FIT[:20]),
    "edges of other outputs": (lambda: edges((0, 2, 2, 2), (1, 2, 3, 2)), parts.DO_NOT_FIT[:20]),
    "units with weights as many as the limit": (
        lambda: with_limit(inequality, "LARGEST_MATRIX", 4, units), "too large layers"),
    "units that are not listed": (lambda: units(values=("x", "z", "y")), "other functions"),
    "more units than the limit": (lambda: with_limit(inequality, "MOST_UNITS", 7, units), "too many units"),
    "a start of units with two multipliers": (lambda: units(q_0=(1.0, 1.0)), "a part of units begins"),
    "an end of units with another multiplier": (lambda: units(q_n=(2.0,)), "a part of units ends"),
    "three multipliers of two channels": (lambda: units(q=(1.0, 1.0, 1.0)), "neither a multiplier"),
    "a kernel that is not finite": (lambda: layers.proven_norm(
        np.array([[math.nan, 1.0]]), layers.Layer((), 1, "zeros", ()), np.zeros((1, 0, 2), np.int16), 0),
        "NaN or infinity"),
    "an H of 64 bits": (lambda: layers.whole_numbers_of(np.zeros((1, 1, 1), np.int64)), "not int16 or int32"),
    "an entry above 2^19": (lambda: layers.require_small_entries(np.array([0.0, 2.0**19 + 1])), "above 2\\^19"),
    "an H of other groups": (lambda: completed(np.zeros((2, 1, 2), np.int16)), "with any number"),
    "a size without outputs": (lambda: at_size(1, before=0), "no input or no output"),
    "a size as large as the limit": (
        lambda: with_limit(layers, "LARGEST_MATRIX", 16, lambda: at_size(4)), "too large a matrix"),
    "a reflection of all pixels": (lambda: at_size(2, "reflect", 2), "reflects too many"),
    "an image of another rank": (lambda: resized(after=(1, 1, 4, 1)), resizing.NO_RULE[:20]),
    "a resized vector": (lambda: resized((1, 1), (1, 1)), resizing.NO_RULE[:20]),
    "channels of another scale": (lambda: resized(scales=[1.0, 1.5, 2.0]), resizing.NO_RULE[:20]),
    "a scale of 0": (lambda: resized(scales=[1.0, 1.0, 0.0]), resizing.NO_RULE[:20]),
    "no scale and no size": (lambda: resizing.matrix_of_resize(
        fake(RELU), Node("Resize", ["x"], {}), (1, 1, 2), (1, 1, 4)), resizing.NO_RULE[:20]),
    "corners of a scale that is rounded": (lambda: resized(
        scales=[1.0, 1.0, 2.3], coordinate_transformation_mode=b"align_corners"), resizing.NO_RULE[:20]),
    "pixels that are interpolated, in a part": (lambda: repeated(4, mode=b"linear"), resizing.NO_RULE[:20]),
    "pixels that are repeated unequally": (lambda: repeated(3), resizing.NO_RULE[:20]),
    "pixels that are left out": (lambda: repeated(1), resizing.NO_RULE[:20]),
    "pixels that are repeated from another one on": (
        lambda: repeated(4, nearest_mode=b"ceil", coordinate_transformation_mode=b"asymmetric"), resizing.NO_RULE[:20]),
    "cubic images": (lambda: resized(mode=b"cubic"), resizing.NO_RULE[:20]),
    "other coordinates": (lambda: resized(coordinate_transformation_mode=b"half"), resizing.NO_RULE[:20]),
    "a pixel that roundings decide": (lambda: resized(scales=[
        1.0, 1.0, 2.0000002], mode=b"nearest", coordinate_transformation_mode=b"asymmetric"), "roundings decide"),
    "another nearest pixel": (lambda: resized(mode=b"nearest", nearest_mode=b"first"), resizing.NO_RULE[:20]),
    "a network's claim without a file": (lambda: networks.prove_network(
        dict.fromkeys(networks.KEYS_OF_A_NETWORK, 0), [], b""), "needs the .onnx file"),
    "a network's claim with another entry": (lambda: networks.prove_network(
        dict.fromkeys(["more", *networks.KEYS_OF_A_NETWORK], 0), [], b"1"),
        "other entries than a claim about a network"),
    "a network's claim about another file": (lambda: networks.prove_network(
        dict.fromkeys(networks.KEYS_OF_A_NETWORK, 0), [], b"1"), "model's file is"),
    "a network's part that no operator ends": (
        lambda: HEADS.require_ends([Together(("x", "w"))]), "a part ends at w"),
    "a layer's claim with another entry": (lambda: statements.prove_layer(
        dict.fromkeys(["more", *statements.KEYS_OF_A_LAYER], 0), FACTOR, {}),
        "other entries than a claim about a layer"),
    "a name of 400 characters": (lambda: statements.model_array({"tensor": 400 * "x"}, {}), "too long to be printed"),
    "a kernel without entries": (lambda: layer_of((2, 0, 3)), "none empty"),
    "a kernel of one axis": (lambda: layer_of((2,)), "none empty"),
    "a kernel of six axes": (lambda: layer_of((1,) * 6), "none empty"),
    "another layout": (lambda: layer_of(layout="IH"), "neither OI nor IO"),
    "groups that do not divide": (lambda: layer_of(groups=3), "do not divide"),
    "another padding mode": (lambda: layer_of(padding_mode="valid"), "mode is not known"),
    "transposed by a number": (lambda: layer_of(transposed=1), "neither true nor false"),
    "padding of two axes": (lambda: layer_of(padding=[[0, 0], [0, 0]]), "no padding for each"),
    "padding by a number": (lambda: layer_of(padding=1), "no padding for each"),
    "transposed with reflections": (
        lambda: layer_of(transposed=True, padding_mode="reflect"), "zero-padded, or circular"),
    "transposed, circular, along one axis not the same": (lambda: layer_of(
        (1, 1, 3, 3), stride=[1, 1], dilation=[1, 1], padding=[[1, 1], [0, 0]], transposed=True,
        padding_mode="circular"),
        "zero-padded, or circular"),
    "a stride that is no whole number": (lambda: layer_of(stride=[1.0]), "whole numbers from 1"),
    "an exponent that is no whole number": (lambda: statements.read_exponent(1.0), "not a whole number below"),
    "strides that are no list": (lambda: layer_of(stride=(1,)), "expected 1 whole numbers"),
    "two strides of one axis": (lambda: layer_of(stride=[1, 1]), "expected 1 whole numbers"),
    "a stride of 0": (lambda: layer_of(stride=[0]), "whole numbers from 1"),
    "a stride of 2^24": (lambda: layer_of(stride=[LARGEST]), "whole numbers from 1"),
    "an exponent of 1100": (lambda: statements.read_exponent(1100), "not a whole number below"),
    "a number between two floats": (lambda: statements.read_hexadecimal("0x1.0p-1075"), "between two floats"),
}  # fmt: skip


# -- files -------------------------------------------------------------------------------------------------------------
def certificate(certificate: Any = None, limit: int = 0, **arrays: Any) -> Any:
    """What is read of a file with some claims and arrays, which are ``limit`` bytes larger than they may be."""
    if certificate is not None:
        arrays["claims"] = np.frombuffer(json.dumps(certificate).encode(), np.uint8)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "c.npz"
        np.savez(path, **arrays)
        size = sum(each.file_size for each in zipfile.ZipFile(path).infolist())
        with pytest.MonkeyPatch.context() as patch:
            if limit:
                patch.setattr(files, "LARGEST_ARRAYS", size - limit)
            return files.read_certificate(path)


def claiming(*claims: Any, **arrays: Any) -> Any:
    return certificate({"specnorm_certificate": files.VERSION, "claims": [*claims]}, **arrays)


H, NAMED = np.zeros(1), {"completion": "H"}
FILES: dict[str, tuple[Callable[[], Any], str]] = {
    "an archive without claims": (lambda: certificate(H=H), "has no claims"),
    "claims that are no text": (lambda: certificate(claims=H), "has no claims"),
    "claims as long as the limit": (
        lambda: with_limit(files, "LARGEST_TEXT", 2, lambda: certificate({})), "has no claims"),
    "an array that no claim names": (lambda: claiming(NAMED, H=H, G=H), "that no claim names"),
    "a certificate that is a list": (lambda: certificate([]), "not version"),
    "a certificate without claims": (lambda: certificate({"specnorm_certificate": files.VERSION}), "not version"),
    "a certificate of another version": (
        lambda: certificate({"specnorm_certificate": 4, "claims": [NAMED]}), "not version"),
    "claims that are a number": (
        lambda: certificate({"specnorm_certificate": files.VERSION, "claims": 1}), "list of claims"),
    "no claim": (claiming, "list of claims"),
    "a claim that is a number": (lambda: claiming(NAMED, 1), "list of claims"),
    "parts that are a number": (lambda: claiming({"parts": 1}), "list of parts"),
    "a part that is a number": (lambda: claiming({"parts": [NAMED, 1]}), "list of parts"),
    "an array without a name": (lambda: claiming({"completion": []}), "names the array"),
    "an array that is not there": (lambda: claiming(NAMED), "names the array H"),
    "arrays a byte too large": (lambda: claiming(NAMED, H=H, limit=1), "unpack to more"),
    "a certificate that is not there": (lambda: files.read_certificate("nowhere.npz"), "no such file"),
    "a model of another kind": (lambda: files.read_model("model.txt"), "expected a model"),
    "a model that is not there": (lambda: files.read_model("nowhere.onnx"), "no such file"),
    "a graph that is not there": (lambda: files.read_content("nowhere.onnx"), "no such file"),
}  # fmt: skip
REFUSED = LEMMA_8 | OPERATORS | GEOMETRIES | FILES
FALSE: dict[str, Callable[[], bool]] = {
    "two unknown shapes are the same": lambda: fake(RELU).have_shape(["v"], "w"),
    "two shapes of which one is another": lambda: fake(RELU, z=(2, 2, 2)).have_shape(["x", "z"], "y"),
    "no numbers are small": lambda: graphs.small_numbers(np.zeros(0, np.int64)),
    "negative numbers are small": lambda: graphs.small_numbers(np.array([0, -1])),
    "2^24 is small": lambda: graphs.small_numbers(np.array([0, LARGEST])),
    "a mean of all axes keeps channels": lambda: parts.keeps_channels(fake(RELU), Node(
        "ReduceMean", ["x"], {"axes": []})),
    "a mean of channels keeps them": lambda: parts.keeps_channels(fake(RELU), Node(
        "ReduceMean", ["x"], {"axes": [2, 1]})),
    "a factor that is a tenth off": lambda: factored(0.9),
}  # fmt: skip


def factored(size: float) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.linalg, "cholesky", lambda matrix: size * np.eye(len(matrix)))
        return bool(units()._has_factor(np.eye(2), Fraction(1, 2**40)))


@pytest.mark.parametrize("name", FALSE)
def test_what_a_lemma_needs_is_not_said_of_others(name: str) -> None:
    assert not FALSE[name]()


def test_what_a_lemma_needs_is_said() -> None:
    found = reading(lambda x: x[:, [2, 0, 2], ::2][:, :, :1])
    assert (found.channels.tolist(), found.steps) == ([2, 0, 2], [1])
    assert reading(lambda x: x[:, :, ::2]).steps == [2]
    assert grid((0, 1, 2), (1, 2, 2), (2, 3, -4), (0, 3, 1)) == {0: [4], 1: [2], 2: [1], 3: [4]}
    assert grid((0, 1, -2), (1, 2, 3)) == {0: [3], 1: [6], 2: [2]}
    assert repeated(6) == [3]
    assert pooled(1, 2, 1).depth == 2
    assert parts.keeps_channels(fake(RELU), Node("MaxPool", ["x"], {}))
    assert graphs.small_numbers(np.array([0, LARGEST - 1]))


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_lemma_does_not_cover_is_refused(name: str) -> None:
    call, words = REFUSED[name]
    with pytest.raises(Refused, match=words):
        call()


@pytest.mark.parametrize("other", ["start", "factor", "length"])
def test_tokens_of_two_normalizations_are_not_the_same(other: str) -> None:
    assert attention.is_same(Q, K)
    changes: dict[str, Any] = {other: Fraction(7)}
    assert not attention.is_same(Q, replace(K, **changes))
