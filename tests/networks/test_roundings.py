"""No executed network is further from the exact one than is proven, in any order of sums; each term is needed."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from networks.executing import FOOLED, STORE, dense, execute, mixed, shape_of
from specnorm_networks import Measure
from specnorm_networks.accuracy import certified_accuracy
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified import roundings
from specnorm_networks.certified.graph import Graph, Layer, Node
from specnorm_networks.certified.operators import Input, NoBoundError, Operator
from specnorm_networks.certified.operators.base import LinearMap
from specnorm_networks.certified.operators.executed import Format, Statistics
from specnorm_networks.certified.operators.linear import normalisation
from specnorm_networks.certified.roundings import EXECUTIONS, AtCentre
from specnorm_networks.radii import Radii, executed

Array = Any


def around(graph: Graph, x: Array, execution: str) -> AtCentre:
    return executed(graph, execution, Measure()).at(np.asarray(x, dtype=np.float64))


def bound(graph: Graph, x: Array, execution: str, radius: float) -> float:
    found = around(graph, x, execution).error(radius)
    return math.inf if found is None else found.value


def exact(graph: Graph, x: Array) -> Array:
    """In double precision: what it rounds is beyond what these tests look at."""
    return graph.run({"x": np.asarray(x, dtype=np.float64).reshape(shape_of(graph.by_name["x"]))})[graph.outputs[0]]


def seen(graph: Graph, x: Array, execution: str, orders: int) -> float:
    """The largest error of some orders at one input, whose entries are stored exactly."""
    rng, truth = np.random.default_rng(0), exact(graph, x)
    assert np.array_equal(STORE[execution](x), np.asarray(x, dtype=np.float64))
    return max(float(np.linalg.norm(execute(graph, x, execution, rng) - truth)) for _ in range(orders))


def drawn(rng: np.random.Generator, *sizes: int) -> Graph:
    matrices = [rng.standard_normal((o, i)) / np.sqrt(i) for i, o in itertools.pairwise(sizes)]
    return dense(*matrices, biases=[rng.standard_normal(o) for o in sizes[1:]])


TIMES = {
    "dense": {"float32": 200, "float16": 50, "bfloat16": 50},
    "mixed": {"float32": 1000, "float16": 200, "bfloat16": 200},
}
"""How many times what is seen is proven at most."""


# -- valid, and tight --------------------------------------------------------------------------------------------------
@pytest.mark.sampled(2)
@pytest.mark.parametrize("execution", list(STORE))
@pytest.mark.parametrize("kind", ["dense", "mixed"])
def test_no_order_of_sums_is_further_off(kind: str, execution: str) -> None:
    """A thousand orders of dense networks, forty of one with every operator; in the ball, not at its centre."""
    rng = np.random.default_rng(1)
    largest = 0.0
    for _ in range(2):
        graph = drawn(rng, 12, 16, 10, 4) if kind == "dense" else mixed(rng)
        centre: Array = rng.standard_normal(shape_of(graph.by_name["x"]))
        at, radius = around(graph, centre, execution), 0.5
        x = centre.copy()
        found = at.error(radius)
        assert found is not None
        for _ in range(5):
            away = rng.standard_normal(centre.shape)
            x = STORE[execution](centre + 0.45 * away / np.linalg.norm(away)).astype(np.float64)
            assert np.linalg.norm(x - centre) <= radius
            largest = max(largest, seen(graph, x, execution, 100 if kind == "dense" else 4) / found.value)
    assert largest <= 1
    assert largest > 1 / TIMES[kind][execution]


# -- networks that are built to be fooled ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "graph",
    [
        dense([[400.0], [1.0]], [[400.0, 0.0], [0.0, 1.0]]),
        dense([[300.0], [0.0]], [[-1.0, 0.0], [0.0, 1.0]], biases=[[60000.0, 0.0], [70.0, 0.0]]),
    ],
)
def test_what_may_overflow_is_open(graph: Graph) -> None:
    """At x = 200 the logits are 80000 and 200, or within the ball only."""
    x = np.array([18.0])
    assert math.isfinite(bound(graph, x, "bfloat16", 1.0))
    assert around(graph, x, "float16").error(1000.0) is None
    assert not np.isfinite(execute(graph, 500.0 * np.ones(1), "float16", np.random.default_rng(0))).all()
    found = certified_accuracy(graph, np.array([[200.0]]), np.array([0]), [0.0], execution="float16")
    assert found.accuracy[0] == 0


# -- each term is needed -----------------------------------------------------------------------------------------------
def steps_with(**changes: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """Forget something of every node."""

    def change(patch: pytest.MonkeyPatch) -> None:
        plain = roundings.Roundings._step

        def step(self: Any, *arguments: Any) -> Any:
            found = plain(self, *arguments)
            if found.factor is None:
                return found
            inner = {key: value for key, value in changes.items() if hasattr(found.executed, key)}
            outer = {key: value for key, value in changes.items() if key not in inner}
            return dataclasses.replace(found, executed=dataclasses.replace(found.executed, **inner), **outer)

        patch.setattr(roundings.Roundings, "_step", step)

    return change


def without_gamma(patch: pytest.MonkeyPatch) -> None:
    plain = roundings._gamma
    patch.setattr(roundings, "_gamma", lambda n, format: plain(n, format) if n == 1 else 0.0)


def without_absolute_values(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LinearMap, "magnitude", lambda linear, sizes: abs(linear.apply([size[None] for size in sizes])[0]))


def without_underflow(patch: pytest.MonkeyPatch) -> None:
    def rounded(format: Format) -> Format:
        return dataclasses.replace(format, smallest=0.0)

    formats = {
        name: dataclasses.replace(
            execution, stored=rounded(execution.stored), summed=rounded(execution.summed), flushed=0.0
        )
        for name, execution in roundings.EXECUTIONS.items()
    }
    patch.setattr("specnorm_networks.radii.EXECUTIONS", formats)


FORGOTTEN: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "gamma": ("sums", without_gamma),
    "absolute values": ("sums", without_absolute_values),
    "the ball, in sums": ("sums far from the centre", steps_with(before=0.0)),
    "the norm of absolute values": ("sums far from the centre", steps_with(absolute=0.0)),
    "the ball, in what is stored": ("storage far from the centre", steps_with(reach=0.0)),
    "storage": ("storage", steps_with(stores=0)),
    "weights": ("weights", steps_with(change=None)),
    "weights, away from the centre": ("weights far from the centre", steps_with(shift=0.0)),
    "underflow": ("underflow", without_underflow),
    "what comes before": ("what comes before", steps_with(factor=0.0)),
}


@pytest.mark.parametrize("name", list(FOOLED))
def test_fooled_networks_are_not_further_off(name: str) -> None:
    graph, centre, x, execution = FOOLED[name]
    radius = float(np.linalg.norm(np.subtract(x, centre))) * (1 + 1e-12)
    assert 0 < seen(graph, x, execution, 50) <= bound(graph, centre, execution, radius)


@pytest.mark.parametrize("name", list(FORGOTTEN))
def test_what_is_forgotten_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, forget = FORGOTTEN[name]
    graph, centre, x, execution = FOOLED[case]
    forget(monkeypatch)
    radius = float(np.linalg.norm(np.subtract(x, centre)))
    assert seen(graph, x, execution, 50) > bound(graph, centre, execution, radius)


# -- batch normalisation -----------------------------------------------------------------------------------------------
def normalised(x: Array, constants: Sequence[Array], eps: float, store: Any, inner: Any) -> Iterator[Array]:
    """By each formula that libraries have, every operation rounded by ``inner``."""
    m, v, w, b = (store(each) for each in constants)
    root = inner(np.sqrt(inner(v + inner(eps))))
    inverse = inner(1 / root)
    for slope in (inner(w * inverse), inner(w / root)):
        yield store(inner(inner(x * slope) + inner(b - inner(m * slope))))
    moved = inner(x - m)
    for product in (
        inner(inner(moved * inverse) * w),
        inner(inner(moved * w) * inverse),
        inner(inner(moved / root) * w),
    ):
        yield store(inner(product + b))


def rounded_to(execution: str) -> Callable[[Array], Array]:
    return lambda x: np.asarray(STORE[execution](np.asarray(x, dtype=np.float64)), dtype=np.float64)


def ratios(mean: float, execution: str) -> Iterator[float]:
    """What is seen over what is proven, far from the centre of a ball; the constants are stored exactly or not."""
    rng, store, n = np.random.default_rng(3), rounded_to(execution), 24
    for _ in range(8):
        m, b = (mean * rng.normal(size=n) for _ in "mb")
        drawn = (m, rng.uniform(0.1, 4, n), rng.normal(size=n) + 3.0, b)
        m, v, w, b = constants = [each.astype(np.float32).astype(float) for each in drawn]
        operator = normalisation(m, v, w, b, 1e-5, 2)
        graph = Graph((Node("x", Input(), (), (1, n)), Node("y", operator, ("x",), (1, n))), ("y",))
        x = store(rng.normal(size=n))
        found, truth = bound(graph, 0 * x, execution, float(np.linalg.norm(x)) * 1.001), exact(graph, x).reshape(-1)
        for inner in (store, rounded_to("float32")):
            for y in normalised(x, constants, 1e-5, store, inner):
                yield float(np.linalg.norm(y - truth)) / found


@pytest.mark.parametrize("execution", list(STORE))
@pytest.mark.parametrize("mean", [0.0, 1.0, 100.0])
def test_no_formula_of_normalisation_is_further_off(mean: float, execution: str) -> None:
    largest = max(ratios(mean, execution))
    assert 1 / 60 < largest < 1


def test_what_cancels_in_normalisation_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the sizes of the mean's product and the bias."""
    plain = Statistics.executed

    def forgotten(self: Statistics, format: Format) -> Any:
        count, around, growth = plain(self, format)  # type: ignore[misc]
        return count, 0 * around, growth

    monkeypatch.setattr(Statistics, "executed", forgotten)
    assert max(ratios(100.0, "float32")) > 1


# -- radii -------------------------------------------------------------------------------------------------------------
def test_shares_fall_with_the_precision_and_no_label_flips() -> None:
    """Executed inputs in the ball, pushed to the next class at the certified radius, keep the label."""
    rng = np.random.default_rng(3)
    graph = drawn(rng, 8, 16, 16, 3)
    x = rng.standard_normal((6, 8))
    y = np.array([exact(graph, each)[0].argmax() for each in x])
    found = {each: certified_accuracy(graph, x, y, [0.0, 0.05, 0.1], execution=each) for each in (None, *STORE)}
    for better, worse in itertools.pairwise(found):
        assert (found[better].radius >= found[worse].radius).all()
    assert found["bfloat16"].radius.max() > 0.02
    of = Radii(graph, found[None].margins, execution="bfloat16")
    flips = 0
    for sample, label in zip(x, y, strict=True):
        safe = of.by_constants(sample, int(label))
        wider = of.proven(sample, int(label), 1.5 * safe.value) if safe.value else None
        radius = safe.value if wider is None else wider.value
        for _ in range(20 if radius else 0):
            away = rng.standard_normal(8)
            at = STORE["bfloat16"](sample + 0.9 * radius * away / np.linalg.norm(away)).astype(np.float64)
            if np.linalg.norm(at - sample) <= radius:
                flips += execute(graph, at, "bfloat16", rng)[0].argmax() != label
    assert flips == 0


# -- what no rounding is known of ------------------------------------------------------------------------------------
def matrix(number: Any, *, bias: Any = None, error: Any = None, **more: Any) -> ops.Matrix:
    return ops.Matrix(Layer("w", lambda: np.full((2, 2), number), {}, 0, error=error), bias, **more)


UNCOUNTED: dict[str, tuple[Operator, str, str]] = {
    "a kernel that is computed": (matrix(1.0, error=lambda: np.full((2, 2), 1e-9)), "float32", "computed besides"),
    "a bias that is computed": (matrix(1.0, bias=lambda: (np.ones(2), np.ones(2))), "float32", "computed besides"),
    "a kernel in double precision": (matrix(1 + 2.0**-40), "float16", "stored in more than float32"),
    "a subnormal kernel": (matrix(2.0**-127), "bfloat16", "processors may take for 0"),
    "a kernel beyond all numbers": (matrix(1e6), "float16", "beyond the numbers of float16"),
    "a matrix times a number": (matrix(1.0, alpha=2.0), "float32", "a product times a number"),
    "small scales": (ops.Scale(np.full(2, 1e-6)), "float16", "beyond the normal numbers of float16"),
    "a small slope": (ops.LeakyReLU(1e-7), "float16", "beyond the normal numbers of float16"),
    "a sum with weights": (ops.Add((0.5, 1.0)), "float32", "a weighted sum"),
    "a sum of three": (ops.Add((1.0, 1.0, 1.0)), "float32", "one of several values"),
    "limits of another precision": (ops.HardTanh(-0.1, 0.1), "float16", "no numbers of float16"),
    "padding of another precision": (ops.Pad("zeros", ((1, 1),), 0.1), "float16", "no number of float16"),
    "a length": (ops.Norm((1,), True), "float32", "not known here"),
}


@pytest.mark.parametrize("name", UNCOUNTED)
def test_what_is_not_counted_is_refused(name: str) -> None:
    operator, execution, words = UNCOUNTED[name]
    shapes = ((1, 2),) * (len(operator.weights) if isinstance(operator, ops.Add) else 1)
    after = (1, 4) if isinstance(operator, ops.Pad) else (1, 2)
    with pytest.raises(NoBoundError, match=words):
        operator.executed(ops.Place(shapes, after), EXECUTIONS[execution].stored)
