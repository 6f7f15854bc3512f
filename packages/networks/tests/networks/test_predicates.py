"""Predicates on which claims about networks rest: each where one condition just does not hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from core.proof.network_rules import CONV, LAYER, SCOPE, U, x
from helpers.assumptions import assumed, assumed_lower
from specnorm_networks.certified import blocks, heads, inequality, kernels, parts, runs
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.links import Link, Run, Term
from specnorm_networks.certified.operators.base import Place, keeps_samples_and_channels
from specnorm_networks.certified.operators.moves import Entries
from specnorm_networks.certified.operators.windows import Windows
from specnorm_networks.certified.patterns import normalisation, sorting
from specnorm_networks.certified.patterns.curves.programs import Curve
from specnorm_networks.certified.patterns.structure import PartOfValue as Part
from specnorm_networks.certified.patterns.structure import (
    Structure,
    are_alike,
    are_halves,
    is_difference,
    is_sum_of_two,
)
from specnorm_networks.certified.propagation import _Pass
from specnorm_networks.certified.reading import Reader
from specnorm_networks.local.certified.ranges import constants_to_values

from specnorm.geometry.spec import ConvSpec
from specnorm.proofs.bound import digest_of

IMAGE = (2, 3, 4, 4)
WINDOW = Windows((2, 2), (1, 1), (1, 1), ((0, 0), (0, 0)))
LINE = ConvSpec.of((2, 2, 3))
SQUARE = ConvSpec.of((2, 2))
MATRIX = np.array([[1.0, 2.0], [3.0, 4.0]])
PADDED = (Node("x", ops.Input(), (), (1, 2, 4)), Node("p", ops.Pad("zeros", ((1, 1),)), ("x",), (1, 2, 6)))


def of(what: Any, name: str, **fields: Any) -> Any:
    """A property of a class, of an object that has some fields alone."""
    found = what.__dict__[name]
    return (getattr(found, "fget", None) or found.func)(SimpleNamespace(**fields))


def node(operator: ops.Operator, *inputs: str, shape: Any = (1, 1), name: str = "y") -> Node:
    return Node(name, operator, inputs or ("x",), shape)


def link(**fields: Any) -> Any:
    return SimpleNamespace(**{"width": 1, "has_negative_slope": False, "single_layer": None, "terms": (), **fields})


def part(*, grid: bool = True, borders: Any = ("zeros",), links: Any = ()) -> Any:
    return SimpleNamespace(on_one_grid=grid, borders={*borders}, links=links or (link(), link()), widths=(1, 1))


def jointly(**fields: Any) -> bool:
    """Whether one matrix describes links, and whether they are joined, where its size does not matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "taps_of", lambda _: 1)
        patch.setattr(runs, "size_of_joint_kernel", lambda _: (1, 1, 1))
        found = heads._has_joint_bound(part(**fields)), runs.joinable(part(**fields), 1)
    assert found[0] is found[1]
    return found[0]


def term(source: int = 0, stride: tuple[int, ...] = ()) -> Term:
    return Term(source, range(1), range(1), stride)


def grid(*terms: Term, dimensions: Any = (1,), ends: bool = True) -> bool:
    links = (link(ends_with_function=ends), link(ends_with_function=False))
    return bool(of(Run, "on_one_grid", _dimensions={*dimensions}, links=links, axes=1, _terms=terms))


def structure(*nodes: Node) -> Structure:
    found = Structure(lambda name: name)
    found.update({each.name: each for each in (Node("x", ops.Input(), (), (1, 4)), *nodes)})
    return found


def cut(name: str, of_value: str = "x", step: int = 1, stop: int | None = None, shape: Any = (1, 4)) -> Node:
    return Node(name, ops.Slice(((1, 0, stop, step),)), (of_value,), shape)


CUTS = structure(
    cut("a", stop=2, shape=(1, 2)), cut("c", stop=3, shape=(1, 3)),
    node(ops.Tanh(), "a", shape=(1, 2), name="f"), node(ops.Tanh(), "a", shape=(1, 2), name="g"),
    cut("d", "e", stop=2, shape=(1, 2)), node(ops.Tanh(), name="e", shape=(1, 4)),
    node(ops.Concat(1), "a", "c", name="h"), node(ops.Concat(1), "a", "c", name="i"),
    node(ops.Concat(1), "a", name="j"),
)  # fmt: skip


def origin(one: Node) -> str:
    return structure(one).origin(one.name).name


def padded(*nodes: Node, outputs: tuple[str, ...] = ("y",)) -> bool:
    whole = Graph((*PADDED, *nodes), outputs)
    reader = SimpleNamespace(nodes=whole.by_name, graph=whole)
    return Reader._belongs_to_layers(reader, PADDED[1])  # type: ignore[arg-type]


def layer(name: str = "y", source: str = "p") -> Node:
    return node(ops.Convolution(replace(LAYER, geometry={})), source, shape=(1, 2, 6), name=name)


def fixed(claim: Any) -> bool:
    return _Pass._is_fixed(SimpleNamespace(steps={"u": SimpleNamespace(claim=claim)}), "u")  # type: ignore[arg-type]


def unchanged(one: Node) -> bool:
    return _Pass._is_deterministic(None, one)  # type: ignore[arg-type]


def is_norm(claim: Any, spec: ConvSpec = LINE, kernel: Any = CONV) -> bool:
    return kernels.bounds_norm_of(claim, spec, kernel)


def half(**fields: Any) -> bool:
    return sorting._halves(node(ops.Scale(**{"values": np.array(0.5), "exact": True, **fields})))


def centred(one: str, other: str) -> bool:
    """Whether two values less their means are the same."""
    return normalisation._are_same(CENTRED[one], CENTRED[other], CENTRED)


def less(name: str, value: str, mean: str) -> Node:
    return node(ops.Add((1.0, -1.0)), value, mean, shape=(1, 4), name=name)


CENTRED = structure(
    *(node(ops.Mean((1,), keep=True), of, shape=(1, 1), name=f"mean of {of}") for of in ("x", "w")),
    node(ops.Mean((0,), keep=True), shape=(1, 4), name="mean of rows"), node(ops.Tanh(), shape=(1, 4), name="w"),
    less("a", "x", "mean of x"), less("b", "x", "mean of x"), less("c", "w", "mean of x"), less("d", "x", "mean of w"),
    less("e", "x", "mean of rows"), less("f", "x", "mean of w"),
)  # fmt: skip


def positive(c: float, multiplier: float, b: float = 0.0) -> bool:
    """Whether 1 is a constant of y = c v for one unit v = phi(b x)."""
    found = (np.zeros((1, 1)), np.full((1, 1), b), np.full((1, 1), c), np.zeros((1, 1)))
    return inequality._is_positive(found, (np.zeros((1, 1)),) * 4, np.array([multiplier]), 1.0)


def passes_through(start: str, end: str) -> bool:
    return end in constants_to_values(SCOPE.graph, [assumed(1.0, SCOPE.map(start, end))])


MIDDLE = (1e-60, 1e60)
LIMITS = (1e-100, 1e100)


def resized(*scales: int) -> ops.Resize:
    return ops.Resize("nearest", None, tuple(map(Fraction, scales)), "asymmetric")


FAILS: dict[str, Callable[[], bool]] = {
    "a function is diagonal": lambda: node(ops.ReLU()).is_diagonal,
    "a scale is a layer": lambda: node(ops.Scale(np.ones(1))).is_layer,
    "a function is random": lambda: node(ops.ReLU()).is_random,
    "a function is unknown": lambda: node(ops.ReLU()).is_unknown,
    "a matrix that reads some pixels": lambda: heads._reads_all_pixels(link(average=None, repeat=4), (2, 3)),
    "a matrix that reads other averages": lambda: heads._reads_all_pixels(
        link(average=np.ones((5, 3, 2)), repeat=5), (2, 3)),
    "links on two grids": lambda: jointly(grid=False),
    "links of two borders": lambda: jointly(borders=("zeros", "circular")),
    "a link of no border": lambda: jointly(borders=("none",)),
    "numbers of which one is small": lambda: inequality._is_moderate(np.array([1.0, MIDDLE[0]])),
    "numbers of which one is large": lambda: inequality._is_moderate(np.array([1.0, MIDDLE[1]])),
    "a lower bound of the norm": lambda: is_norm(assumed_lower(1.0, LINE, digest_of(CONV))),
    "the norm of a transposed kernel": lambda: is_norm(assumed(1.0, LINE, digest_of(CONV.T))),
    "the norm of another matrix": lambda: is_norm(assumed(1.0, SQUARE, digest_of(2 * MATRIX)), SQUARE, MATRIX),
    "the identity with factors of its rows": lambda: Term(0, range(1), range(1), scale=np.ones(1)).is_identity,
    "the identity on every other pixel": lambda: term(stride=(2,)).is_identity,
    "twice the identity": lambda: Term(0, range(1), range(1), alpha=Fraction(2)).is_identity,
    "a link that ends with pooling": lambda: of(Link, "ends_with_function", factors=(U,), pixels=0),
    "a link that is flattened": lambda: of(Link, "ends_with_function", factors=(), pixels=3),
    "no negative slope": lambda: of(Link, "has_negative_slope", slopes=(np.array([0.0, 1.0]), None)),
    "layers of two numbers of axes": lambda: grid(term(), term(1), dimensions=(1, 2)),
    "a branch": lambda: of(Run, "is_chain", links=(link(sources=(0,)), link(sources=(0, 1)))),
    "pooling inside": lambda: grid(term(), term(1), ends=False),
    "two strides of the first value": lambda: grid(term(stride=(2,)), term(stride=(1,))),
    "a stride inside": lambda: grid(term(stride=(2,)), term(1, (2,))),
    "an axis more": lambda: keeps_samples_and_channels(IMAGE, (*IMAGE, 1)),
    "a place of another shape": lambda: Place((IMAGE,), IMAGE).fits((2, 3)),
    "exact factors of which one is infinite": lambda: ops.Scale(np.array([1.0, math.inf]), exact=True).is_accurate,
    "factors of which one is subnormal": lambda: ops.Scale(np.array([1.0, 2.0**-1023])).is_accurate,
    "one factor with two signs": lambda: ops.Scale(np.array([1.0, -1.0])).stretches_unevenly,
    "a mean of channels": lambda: ops.Mean((1,)).keeps_channels(IMAGE, (2, 4, 4)),
    "a mean of nothing": lambda: ops.Mean(()).keeps_channels(IMAGE, IMAGE),
    "more channels": lambda: resized(1, 2, 1, 1).keeps_channels((2, 0, 4, 4), (2, 0, 4, 4)),
    "larger images of other samples": lambda: resized(1, 1, 2, 2).keeps_channels(IMAGE, (1, 3, 8, 8)),
    "windows of channels": lambda: ops.MaxPool(WINDOW).keeps_channels((2, 3, 4), (2, 3, 3)),
    "windows of other samples": lambda: ops.MaxPool(WINDOW).keeps_channels(IMAGE, (1, 3, 3, 3)),
    "averages of channels": lambda: ops.AveragePool(WINDOW).keeps_channels((2, 3, 4), (2, 3, 3)),
    "averages of other samples": lambda: ops.AveragePool(WINDOW).keeps_channels(IMAGE, (1, 3, 3, 3)),
    "entries that are there": lambda: Entries(np.array([-1, 0, 3]), 4)._has_invalid_positions,
    "an input that stays": lambda: ops.Input(may_change=False).digested,
    "weights of which one is infinite": lambda: parts.usable(np.array([1.0, math.inf])),
    "weights of which one is NaN": lambda: parts.usable(np.array([1.0, math.nan])),
    "weights of which one is too small": lambda: parts.usable(np.array([1.0, LIMITS[0]])),
    "weights of which one is too large": lambda: parts.usable(np.array([1.0, LIMITS[1]])),
    "less the mean of another value, twice": lambda: centred("d", "f"),
    "not less their mean, and less it": lambda: centred("c", "a"),
    "less means along two axes": lambda: centred("a", "e"),
    "a program without jumps": lambda: of(Curve, "jumps", program=((ops.ReLU(), ()),)),
    "a form that is not positive": lambda: positive(2.0, 8.0, 2.0),
    "a form with tiny multipliers": lambda: positive(0.0, 1e-61),
    "a map to a value that another one changes": lambda: passes_through("u", "s"),
    "a map to its own start": lambda: passes_through("u", "u"),
    "parts that move entries are joined": lambda: blocks._joins_values(node(ops.Concat(1), "a", "b")),
    "a function is a layer": lambda: node(ops.ReLU()).is_layer,
    "entries of two unknown shapes": lambda: structure(
        node(ops.Tanh(), shape=None, name="w"), node(ops.Reshape((4,)), "w", shape=None)).origin("y").name == "w",
    "half with roundings": lambda: half(exact=False),
    "half and an offset": lambda: half(offset=lambda: (np.ones(1), np.zeros(1))),
    "a third": lambda: half(values=np.array(1 / 3)),
    "halves of some entries": lambda: half(values=np.array([0.5, 0.5])),
    "a part of a value": lambda: Part("x", 1, 0, 2, 4).is_whole,
    "thirds of three": lambda: are_halves(Part("x", 1, 0, 1, 3), Part("x", 1, 1, 3, 3)),
    "halves of nothing": lambda: are_halves(Part("x", 1, 0, 0, 0), Part("x", 1, 0, 0, 0)),
    "a first part that is no half": lambda: are_halves(Part("x", 1, 0, 3, 4), Part("x", 1, 2, 4, 4)),
    "a second part that is no half": lambda: are_halves(Part("x", 1, 0, 2, 4), Part("y", 1, 2, 4, 4)),
    "rows alone in the reverse order": lambda: origin(
        Node("y", ops.Slice(((0, 0, 1, 1), (1, None, None, -1))), ("x",), (1, 4))) == "x",
    "two slices": lambda: CUTS.is_same("a", "c"),
    "two functions": lambda: CUTS.is_same("f", "g"),
    "what is joined twice": lambda: CUTS.is_same("h", "i"),
    "what is joined, and one value": lambda: CUTS.is_same("h", "j") or CUTS.is_same("j", "h"),
    "three and a pair": lambda: CUTS.are_same_pair(("a", "c", "c"), ("a", "c")),
    "three and three": lambda: CUTS.are_same_pair(("a", "c", "c"), ("a", "c", "c")),
    "a pair with another second value": lambda: CUTS.are_same_pair(("a", "c"), ("a", "f")),
    "a pair with another first value": lambda: CUTS.are_same_pair(("f", "c"), ("a", "c")),
    "equal functions of two values": lambda: are_alike(node(ops.Tanh(), "a"), node(ops.Tanh(), "c")),
    "two functions of one value": lambda: are_alike(node(ops.Tanh()), node(ops.ReLU())),
    "a sum is a difference": lambda: is_difference(ops.Add((1.0, 1.0))),
    "a difference is a sum": lambda: is_sum_of_two(ops.Add((1.0, -1.0))),
    "random numbers are unchanged": lambda: unchanged(Node("r", ops.Random(), ("x",), (1, 1))),
    "what comes from nowhere is unchanged": lambda: unchanged(Node("r", ops.ReLU(), (), (1, 1))),
    "a value without a constant": lambda: fixed(None),
    "a value that changes": lambda: fixed(assumed(5e-324)),
    "padding that is an output": lambda: padded(layer(), outputs=("y", "p")),
    "padding of a layer and a function": lambda: padded(
        layer(), node(ops.Tanh(), "p", shape=(1, 2, 6), name="z"), outputs=("y", "z")),
    "padding of a layer and a scale": lambda: padded(
        layer(), node(ops.Scale(np.ones(1)), "p", shape=(1, 2, 6), name="z"), outputs=("y", "z")),
    "an unknown shape is kept": lambda: Reader._keeps_shape(
        SimpleNamespace(nodes={"a": node(ops.ReLU(), shape=None)}), node(ops.ReLU(), shape=None), "a"),  # type: ignore[arg-type]
    "another shape is kept": lambda: Reader._keeps_shape(
        SimpleNamespace(nodes={"a": x()}), node(ops.ReLU(), shape=(1, 2)), "a"),  # type: ignore[arg-type]
    "a claim about a norm": lambda: SCOPE.holds(assumed(1.0, "words"), "x", "u"),
    "two links of which the first is a layer": lambda: runs.joinable(
        part(grid=False, links=(link(single_layer=term()), link())), 0),
    "a link that is no layer": lambda: runs.joinable(part(grid=False, links=(link(),)), 0),
}  # fmt: skip


def test_a_predicate_holds() -> None:
    """No planted mistake makes another one of them too strict."""
    assert heads._reads_all_pixels(link(average=None, repeat=6), (2, 3))
    assert centred("a", "b")


@pytest.mark.parametrize("name", FAILS)
def test_a_predicate_fails(name: str) -> None:
    assert FAILS[name]() is False


def test_entries_elsewhere_are_invalid() -> None:
    assert Entries(np.array([0, 4]), 4)._has_invalid_positions
    assert Entries(np.array([0, -2]), 4)._has_invalid_positions
