"""Values with many entries are refused before they are made, and networks of many nodes are compared on few inputs."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", exc_type=ImportError)
from helpers.onnx_models import graph_of, model, node
from specnorm_networks.comparison.probes import probes
from specnorm_networks.tools import bound

from specnorm.errors import MethodError

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
