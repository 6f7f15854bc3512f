"""Values with many entries are refused before they are made, and networks of many nodes are compared on few inputs."""

from __future__ import annotations

import collections
import itertools
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", exc_type=ImportError)
from helpers.onnx_models import graph_of, model, node
from specnorm_networks.comparison.attack import Pairs
from specnorm_networks.comparison.probes import probes
from specnorm_networks.tools import bound

from specnorm.errors import MethodError
from specnorm.proof import Clock

HUGE = 2**31
LARGE: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "Expand": ([node("Expand", "x", "s")], {"s": np.array([1, HUGE, 3])}),
    "Tile": ([node("Tile", "x", "s")], {"s": np.array([1, 1, HUGE])}),
    "Resize": ([node("Resize", "x", "", "s")], {"s": np.array([1.0, 1.0, 1e9], np.float32)}),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_value_that_is_too_large_is_named_and_never_made(name: str) -> None:
    """A file of 160 bytes took 48 GiB."""
    nodes, arrays = LARGE[name]
    tracemalloc.start()
    found = bound(graph_of(model(nodes, (1, 1, 3), arrays)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.upper is None
    assert [unknown for unknown in found.unknown if "entries, more than" in unknown.reason], found.unknown
    assert peak < 2**28
    with pytest.raises(MethodError, match="input x: its value has 2147483648 entries, more than 536870912"):
        graph_of(model(nodes, (1, 1, HUGE), arrays))


def test_many_nodes_are_compared_on_few_inputs() -> None:
    """The comparison of 20,000 nodes in a row took minutes, whatever the budget."""
    counts = []
    for length in (30, 1_000):
        names = ["x", *(f"v{j}" for j in range(length - 1)), "y"]
        graph = graph_of(model([node("Relu", one, out=two) for one, two in itertools.pairwise(names)], (1, 4)))
        counts.append(len(list(probes(graph, {"x": (1, 4)}))))
    assert counts == [16, 9]


def test_an_attack_on_many_nodes_ends_with_its_clock() -> None:
    names = ["x", *(f"v{j}" for j in range(100)), "y"]
    graph = graph_of(model([node("Relu", one, out=two) for one, two in itertools.pairwise(names)], (1, 4)))
    for clock, count in ((Clock(), 1), (Clock(-1.0, 1.0), 0)):
        pairs = Pairs(graph, upper=1.0)
        pairs.clock = clock
        pairs.ascend({"x": np.ones((1, 4))}, 1, [0.1])
        assert pairs.count == count


# -- growth ------------------------------------------------------------------------------------------------------------
def _nodes(kind: str, number: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Operators of one step of a chain, each with the names of what it reads besides the value before it."""
    match kind:
        case "functions":
            yield "Relu", ()
        case "layers":
            yield from (("MatMul", (f"w{number}",)), ("Tanh", ()))
        case "branches":
            yield from (("MatMul", (f"w{number}",)), ("Relu", ()), ("Add", (f"v{number}",)))
        case "shapes":
            yield "Reshape", ("s0" if number % 2 else "s1",)


def _chain(kind: str, steps: int) -> Any:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {"s0": np.array([1, 4]), "s1": np.array([4, 1])} if kind == "shapes" else {}
    nodes = []
    last = "x"
    for number in range(steps):
        before = last
        for place, (operator, others) in enumerate(_nodes(kind, number)):
            reads = [before if name.startswith("v") else name for name in others]
            arrays |= {name: rng.standard_normal((4, 4)).astype("f4") for name in reads if name.startswith("w")}
            last, source = f"h{number}.{place}", last
            nodes.append(node(operator, source, *reads, out=last))
    nodes[-1].output[0] = "y"
    return model(nodes, (1, 4), arrays)


def _lines(work: Callable[[], object]) -> collections.Counter[CodeType]:
    """Lines of the packages that a call executes, by function."""
    counts: collections.Counter[CodeType] = collections.Counter()

    def count(frame: FrameType, event: str, _: object) -> Any:
        counts[frame.f_code] += event == "line"
        return count if "specnorm" in frame.f_code.co_filename else None

    earlier = sys.gettrace()
    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(earlier)
    return counts


def _bound_of_chain(kind: str, steps: int) -> None:
    bound(graph_of(_chain(kind, steps)), budget=1e-9)


@pytest.mark.parametrize("kind", ["functions", "layers", "branches", "shapes"])
def test_what_no_clock_ends_takes_time_linear_in_the_nodes(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """20,000 nodes in a row took 21 s for a budget of 3: sums over all nodes stood in loops over all nodes."""
    for limit in ("units.MOST_UNITS", "patterns.splines.MOST_NODES", "patterns.curves.finding.MOST_BASES"):
        monkeypatch.setattr(f"specnorm_networks.certified.{limit}", 4)
    ticks = itertools.count(step=1e-6)  # what is left out half a second after the budget depends on no other load
    clock = SimpleNamespace(monotonic=lambda: next(ticks), process_time=lambda: next(ticks))
    monkeypatch.setattr("specnorm.running.search.time", clock)
    few, many = (_lines(partial(_bound_of_chain, kind, steps)) for steps in (16, 32))
    assert sum(many.values()) > 32 * 1000
    grown = {code.co_qualname: (few[code], lines) for code, lines in many.items() if lines > 3 * few[code] + 32}
    assert not grown
