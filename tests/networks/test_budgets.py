"""More seconds or steps never answer worse, the better way is taken, and constants near 1 are proven closely."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from checks import present
from networks.dense_networks import NETWORKS as SUMS
from networks.dense_networks import dense, draw, network_of
from networks.test_heads import Drawn
from networks.written_networks import matrices
from specnorm_networks import Graph, Multipliers, Product, forward_step, network_bound
from specnorm_networks.certified import operators
from specnorm_networks.tools import bound

from specnorm.errors import MethodError

MATRIX = np.random.default_rng(1).normal(size=(6, 4))
NETWORKS: dict[str, Callable[[], Graph]] = {
    "matrices": lambda: dense(0, (5, 8, 8, 8, 3)).graph,
    "residual": lambda: SUMS["residual"](1).graph,
    "convolutions": lambda: network_of(draw(2, layers=4, plain=True), (6,)).graph,
    "two axes": lambda: network_of(draw(1, axes=2, layers=3, plain=True), (4, 4)).graph,
    "sums": lambda: SUMS["denoiser"](3).graph,
    "near 1": lambda: forward_step(matrices(MATRIX, MATRIX.T / 11, function=operators.ReLU()), 1.9),
    "flattened": lambda: Drawn(2, "zeros").graph,
}


def upper(graph: Graph, method: Any = None) -> float:
    return present(bound(graph, method=method, check=False).upper)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.nightly
def test_more_steps_never_answer_worse(name: str) -> None:
    graph = NETWORKS[name]()
    found = [upper(graph, Product())] + [upper(graph, Multipliers(steps=n)) for n in (0, 1, 7, 20, 50, 100, 250)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.9 * found[0]


def test_a_clock_cuts_and_says_so() -> None:
    """The best proven by then is an upper bound, no less than without a clock; whoever has time says nothing."""
    graph = dense(0, (10, 20, 20, 5)).graph
    asked: list[dict[str, Any]] = [{"budget": None}, {"budget": 1e-3}, {"method": Product()}]
    whole, cut, product = (bound(graph, check=False, **each) for each in asked)
    assert whole.status == product.status == "complete"
    assert "status" not in whole.to_dict()
    assert cut.status.startswith("budget: 0.001 s")
    assert cut.status in str(cut)
    assert cut.to_dict()["status"] == cut.status
    assert present(whole.upper) < present(cut.upper) <= 1.01 * present(product.upper)
    with pytest.raises(MethodError, match="budget=0"):
        bound(graph, budget=0)


# -- progress ----------------------------------------------------------------------------------------------------------
def test_each_stage_and_step_is_told() -> None:
    told: list[tuple[int, int, str]] = []
    graph = NETWORKS["convolutions"]()
    found = network_bound(graph, progress=lambda *step: told.append(step))
    stages = [what for done, _, what in told if done == 0]
    assert stages == ["export", "comparison with the model", "search and proof", "attack on the bound"]
    assert [what for done, of, what in told if done == of == 1] == stages
    (run,) = found.runs
    steps = [(done, of) for done, of, what in told if what == f"{run.start} to {run.end}"]
    assert steps[:3] == [(1, 100), (2, 100), (3, 100)]
    assert told[-1] == (1, 1, "attack on the bound")


def test_a_methods_own_progress_is_called_as_before() -> None:
    own: list[object] = []
    method = Multipliers(progress=lambda *step: own.append(step))
    told: list[object] = []
    assert method.telling(lambda *step: told.append(step)) is method
    assert Product().telling(lambda *step: told.append(step)) == Product()
