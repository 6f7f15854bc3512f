"""Sums, scales, reductions, joins and padding against dense matrices."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from networks.operators.dense import check_linear, matrix_of, norm, refused
from specnorm_networks.certified.operators import (
    Add,
    Broadcast,
    Concat,
    Mean,
    Merge,
    NoBoundError,
    NotRunError,
    Pad,
    Place,
    Scale,
    Sum,
)
from specnorm_networks.certified.operators.broadcasting import broadcasted, repeats

Array = Any


def test_repeats_needs_shapes_that_tell() -> None:
    assert repeats((1, 4, 1), (2, 4, 3)) == 6
    assert repeats((4,), (2, 4)) == 2
    assert repeats((1, 4, "h"), (1, 4, "h")) == 1
    for before, after in (((1, "h"), (1, "w")), ((1, 1), (1, "w")), (None, (1,)), ((2,), (3,)), ((1, "h"), (1, 3))):
        with pytest.raises(NoBoundError):
            repeats(before, after)


def test_shapes_that_are_broadcast() -> None:
    assert broadcasted((2, 1), (3,)) == (2, 3)
    assert broadcasted(("n", 1), (1, 4)) == ("n", 4)
    assert broadcasted(("n",), (3,)) == (3,)
    assert broadcasted(("n", 0), (1, 1), ()) == ("n", 0)
    for shapes in (((2,), (3,)), (("n",), ("m",)), (None, (1,)), ((2,), (0,))):
        assert broadcasted(*shapes) is None


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("values", "shape"), [((), (2, 3)), ((3, 1), (2, 3, 4)), ((2, 3), (3,)), ((1, 3), (2, 1)), ((1, 1, 1), (2,))]
)
def test_scales(exact: bool, values: tuple[int, ...], shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    c, added = rng.normal(size=values), rng.normal(size=values)
    # Sharp where nothing is repeated.
    tight = 1e-8 if np.broadcast_shapes(values, shape) == shape else 2.0
    check_linear(Scale(c, exact=exact), lambda x: x * c, shape, tight=tight)
    check_linear(Scale(c, lambda: (added, np.zeros(()))), lambda x: x * c + added, shape, tight=tight)


def test_what_scales_say_of_themselves() -> None:
    assert "finite" in refused(Scale(np.array([1.0, math.nan])), Place(((2,),)))
    with pytest.raises(NotRunError):
        Scale(np.array([1.0, math.inf])).run(np.zeros(2))
    # A size that is not known may be 1, and is repeated then.
    assert Scale(np.ones((3, 1, 1))).lipschitz(Place((("n", 3, "h", "w"),))) == pytest.approx(1)
    assert "give the input shape" in refused(Scale(np.ones((3, 1))), Place((("n", 2),)))
    assert Scale(np.array(0.5), exact=True).lipschitz(Place((None,))) == 0.5


def test_sums_at_random() -> None:
    d, rng = random.Random(0), np.random.default_rng(0)
    for _ in range(40):
        whole = tuple(d.randint(1, 3) for _ in range(d.randint(1, 3)))
        shapes = [tuple(d.choice([n, n, 1]) for n in whole[d.choice([0, 0, 1]) :]) for _ in range(d.randint(1, 3))]
        weights, over = tuple(d.choice([1.0, -1.0, 0.3, 0.0]) for _ in shapes), d.choice([1, 1, 3])

        def define(*x: Array, weights: Any = weights, over: int = over) -> Array:
            return np.asarray(sum(w * one for w, one in zip(weights, x, strict=True)) / over)

        operator = Add(weights, over)
        check_linear(operator, define, *shapes, tight=None)
        # Of linear maps of one input, with constants among them.
        maps = [rng.normal(size=(math.prod(shape), 4)) * d.choice([1.0, 0.0]) for shape in shapes]
        dense, after = matrix_of(define, *shapes)
        bounds = [norm(each) * (1 + 1e-12) for each in maps]
        assert norm(dense @ np.concatenate(maps)) <= operator.combine(bounds, Place(tuple(shapes), after.shape))


def test_constants_of_sums_and_joins() -> None:
    """By hand, with what the triangle inequality and Pythagoras give."""
    same, wide = Place(((5,), (5,)), (5,)), Place(((5,), (1,)), (5,))
    assert Add((1.0, -1.0)).combine([3.0, 4.0], same) == pytest.approx(7)
    assert Add((1.0, 2.0), over=2).combine([3.0, 4.0], same) == pytest.approx(5.5)
    assert Add((1.0, 1.0)).combine([1.0, 1.0], wide) == pytest.approx(1 + math.sqrt(5))
    assert Add((1.0, 1.0)).combine([1.0, 0.0], Place(((5,), None), (5,))) == 1
    for join in (Concat(0), Merge(np.arange(5))):
        assert join.combine([3.0, 4.0], same) == pytest.approx(5)
    with pytest.raises(NoBoundError, match="input shape"):
        Add((1.0, 1.0)).combine([1.0, 1.0], Place(((5,), None), (5,)))
    with pytest.raises(NoBoundError, match="finite"):
        Add((1.0, math.inf)).combine([1.0, 1.0], same)


def test_joins() -> None:
    check_linear(Concat(1), lambda x, y: np.concatenate([x, y], axis=1), (2, 3), (2, 1))
    check_linear(Concat(0), lambda x, y, z: np.concatenate([x, y, z]), (1,), (0,), (2,))
    check_linear(Concat(1, new=True), lambda x, y: np.stack([x, y], axis=1), (2, 3), (2, 3))
    at = np.array([4, 0, 3])

    def merged(x: Array, y: Array) -> Array:
        found = x.copy().reshape(-1)
        for place, value in zip(at, y.reshape(-1), strict=True):
            found[place] = value
        return found.reshape(x.shape)

    check_linear(Merge(at), merged, (2, 3), (3, 1))
    assert Merge(at).run(np.zeros((2, 3)), np.full(3, 1j)).dtype.kind == "c"
    for bad in (Merge(np.array([0, 0, 1])), Merge(np.array([0, 1, 6])), Merge(np.array([0, 1])), Concat(2), Concat(1)):
        with pytest.raises(NotRunError):
            bad.run(np.zeros((2, 3)), np.zeros((3, 1)))


@pytest.mark.parametrize(
    ("shape", "target"), [((3, 1), (2, 3, 4)), ((1,), (5,)), ((2, 3), (3,)), ((2, 3), (2, 1)), ((), (2, 2))]
)
def test_broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> None:
    check_linear(Broadcast(target), lambda x: x + np.zeros(target), shape)


def test_broadcasts_of_sizes_that_are_not_known() -> None:
    assert Broadcast((1, 4, 5)).lipschitz(Place((("n", 4, 1),))) == math.sqrt(5)
    assert "input shape" in refused(Broadcast((7, 4)), Place((("n", 4),)))
    assert "input shape" in refused(Broadcast((7, 4)), Place((None,)))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("axes", [(0,), (1, 2), (2, 0), (0, 1, 2), ()])
def test_reductions(axes: tuple[int, ...], keep: bool) -> None:
    check_linear(Sum(axes, keep), lambda x: np.sum(x, axis=axes, keepdims=keep), (2, 3, 2))
    check_linear(Mean(axes, keep), lambda x: np.mean(x, axis=axes, keepdims=keep), (2, 3, 2))


def test_reductions_of_sizes_that_are_not_known() -> None:
    place = Place((("n", 3),))
    assert Mean((0,)).lipschitz(place) == 1
    assert Mean((1,)).lipschitz(place) == pytest.approx(1 / math.sqrt(3))
    assert "count" in refused(Sum((0,)), place)
    assert "count" in refused(Sum((0,)), Place((None,)))
    for bad in (Sum((0, 0)), Sum((2,)), Mean((0,))):
        with pytest.raises(NotRunError):
            bad.run(np.zeros((0, 3)))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding(mode: Any) -> None:
    names = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    numpy: Any = np
    for pads in (((1, 2), (0, 1)), ((2, 2),), ((0, 0), (3, 2))):

        def define(x: Array, pads: Any = pads) -> Array:
            return numpy.pad(x, [(0, 0)] * (x.ndim - len(pads)) + list(pads), mode=names[mode])

        # The product of both axes' largest numbers of copies.
        check_linear(Pad(mode, pads), define, (2, 3, 4))
        known, open_ = (Pad(mode, pads).lipschitz(Place(((2, *sizes),))) for sizes in ((3, 4), ("h", "w")))
        assert known <= open_
    check_linear(Pad("zeros", ((1, 0),), -2.5), lambda x: np.pad(x, ((0, 0), (1, 0)), constant_values=-2.5), (2, 2))
    for bad in (Pad(mode, ((-1, 0),)), Pad("reflect", ((2, 0),)), Pad("circular", ((3, 0),)), Pad(mode, ((0, 0),) * 3)):
        with pytest.raises(NotRunError):
            bad.run(np.zeros((2, 2)))


def test_padding_by_an_unknown_value() -> None:
    unknown = Pad("zeros", ((1, 1),), math.nan)
    assert unknown.lipschitz(Place((("n", 3),))) == 1
    assert unknown.linear_map(Place(((2, 3),))) is None
    assert "no rule" in refused(Pad("cubic", ((1, 1),)), Place(((2, 3),)))  # type: ignore[arg-type]
