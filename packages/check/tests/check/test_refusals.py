"""Every condition of the checker's lemmas, where it just does not hold: refused, with the words of that condition."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="ONNX files: pip install onnx")

from check.test_attention_certificates import CAUSAL, SHAPE, clipped, network
from helpers.onnx_models import model, node
from specnorm_check import Network, Refused, attention
from specnorm_check.attention import Read, Tokens

ONE = Fraction(1)


def graph(nodes: list[Any], arrays: dict[str, Any], shape: tuple[int, ...] = SHAPE) -> Network:
    """Of operators after tokens called z, which are clipped."""
    before, more = clipped()
    made = model([*before, *nodes], shape, more | arrays, opset=23)
    return Network(made.SerializeToString(), list(shape))


def last(operator: str, *inputs: str, arrays: dict[str, Any] | None = None, **attributes: Any) -> Tokens:
    """What one operator makes of tokens."""
    return attention.tokens_of(graph([node(operator, *inputs, **attributes)], arrays or {}), "y")


HEADS = Network(network().SerializeToString(), list(SHAPE))
Q, K, V = (attention.tokens_of(HEADS, each) for each in "qkv")
PLAIN = attention.tokens_of(HEADS, "z")


def normalised(gain: Any, shift: Any, **attributes: Any) -> Tokens:
    nodes = [node("LayerNormalization", "x", "gain", "shift", **attributes)]
    return attention.tokens_of(graph(nodes, {"gain": np.asarray(gain), "shift": np.asarray(shift)}), "y")


def changed(array: Any, value: int, *place: int) -> Any:
    """An array with another entry."""
    other = array.copy()
    other[place] = value
    return other


def times_matrix(**other: Any) -> Tokens:
    """Tokens times a matrix, with other numbers of tokens or rows."""
    return attention.multiplied(HEADS, HEADS.nodes["q0"], replace(PLAIN, **other))


def head(**other: Any) -> Any:
    return attention.head_of(replace(Q, **other), (0, 0))


def read(q: Tokens = Q, k: Tokens = K, v: Tokens = V) -> Any:
    return attention.factors(Read(q, k, v, ONE, np.ones((5, 5), bool)))


def cut(value: Tokens, *where: Any) -> Tokens:
    """A part of the entries."""
    return replace(value, **{name: getattr(value, name)[where] for name in ("tokens", "rows", "offset")})


def of_axes(*axes: int) -> Any:
    """Attention of values with so many axes."""
    values = iter([cut(value, *[0] * (4 - count)) for value, count in zip((Q, K, V), axes, strict=True)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "tokens_of", lambda *_: next(values))
        return attention.attention_of(HEADS, "a")


def moved_to(shape: tuple[int, ...]) -> Tokens:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(HEADS.shapes, "q", shape)
        return attention.tokens_of(HEADS, "q")


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


def masked(*inputs: str, **arrays: Any) -> Any:
    nodes = [node("Reshape", "z", "split", out="h0"), node("Transpose", "h0", out="h", perm=[0, 2, 1, 3])]
    nodes.append(node("Attention", "h", "h", "h", *inputs))
    return attention.attention_of(graph(nodes, {"split": np.array([1, 5, 2, 2]), **arrays}), "y")


WORDS = "tokens of an unknown length"
FACTOR = np.eye(4)
OTHER = replace(K, start="other")
LEMMA_8: dict[str, tuple[Callable[[], Any], str]] = {
    "a matrix that is not finite": (lambda: attention.norm_up(np.array([[math.inf, 1.0]])), "not finite"),
    "the input itself": (lambda: attention.tokens_of(HEADS, "nothing"), WORDS),
    "as many tokens as the limit": (lambda: limited(20, lambda: attention.tokens_of(HEADS, "z")), "too many tokens"),
    "tokens with as many entries as the limit": (
        lambda: limited(16, lambda: attention.of_value(HEADS, "z", "x", ONE, ONE)), "too many entries"),
    "a sum of two values": (lambda: last("Add", "z", "x"), f"{WORDS}, before Add"),
    "a normalization that broadcasts": (lambda: attention.of_value(HEADS, "z", "length", ONE, ONE), "broadcasts"),
    "a norm over another axis": (
        lambda: normalised(np.ones(4), np.zeros(4), axis=1, epsilon=0.1), "a norm over other axes"),
    "a gain of another shape": (
        lambda: normalised(np.ones((1, 4)), np.zeros(4), epsilon=0.1), "a norm over other axes"),
    "a bias of another shape": (lambda: normalised(np.ones(4), np.zeros((1, 4)), epsilon=0.1), "a bias of another"),
    "a norm without epsilon": (lambda: normalised(np.ones(4), np.zeros(4), epsilon=0.0), "without epsilon"),
    "an epsilon that is too small": (lambda: attention.root_down(Fraction(1, 2 * 4**100)), "too small"),
    "a function of tokens": (lambda: last("Relu", "z"), f"{WORDS}, before Relu"),
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
    "queries with three axes": (lambda: of_axes(3, 4, 4), "other axes than four"),
    "keys with three axes": (lambda: of_axes(4, 3, 4), "other axes than four"),
    "values with three axes": (lambda: of_axes(4, 4, 3), "other axes than four"),
    "values alone with four axes": (lambda: of_axes(3, 3, 4), "other axes than four"),
    "all with three axes": (lambda: of_axes(3, 3, 3), "other axes than four"),
    "entries moved to another shape": (lambda: moved_to((1, 2, 5, 3)), "onnx infers another shape"),
    "scores that broadcast": (
        lambda: written_out(node("Mul", "s", "c", out="t"), arrays={"c": np.ones((2, 1, 1))}), "broadcast"),
    "scores through a function": (lambda: written_out(node("Abs", "s", out="t")), "scores with a Abs"),
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
REFUSED = LEMMA_8


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
