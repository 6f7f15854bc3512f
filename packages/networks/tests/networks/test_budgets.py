"""More seconds or steps never answer worse, the better way is taken, and constants near 1 are proven closely."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from helpers.checks import present
from networks.dense_networks import NETWORKS as SUMS
from networks.dense_networks import dense, draw, network_of
from networks.test_heads import Drawn
from networks.written_networks import matrices
from specnorm_networks import Graph, Multipliers, Product, forward_step, network_bound
from specnorm_networks.certified import operators
from specnorm_networks.tools import Measure, bound, by_channels_and_units

from specnorm.errors import MethodError
from specnorm.proof import Clock

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
    return float(bound(graph, method=method, check=False).upper)


def test_every_budget_of_a_search_without_frequencies_is_served() -> None:
    """Points without an axis were climbed from: a budget that ended in the third round raised a ValueError."""
    matrix = np.cos(np.arange(256.0) ** 2).reshape(16, 16)
    graph = matrices(matrix, matrix.T, function=operators.ReLU())
    product = upper(graph, Product())
    assert [
        seconds
        for seconds in np.geomspace(2e-4, 2e-2, 9)
        if not (upper(graph, Multipliers(seconds=seconds)) <= product)
    ] == []


@cache
def upper_of_product(name: str) -> float:
    return upper(NETWORKS[name](), Product())


class Ticks:
    """A clock on which each reading takes a second of the processor; of the wall, so many times as long."""

    def __init__(self, slower: float = 1.0) -> None:
        self.readings = 0
        self.slower = slower

    def process_time(self) -> float:
        self.readings += 1
        return float(self.readings)

    def monotonic(self) -> float:
        return self.slower * self.readings


def clocked(monkeypatch: pytest.MonkeyPatch, budget: float, slower: float = 1.0) -> tuple[float, str, int]:
    """Bound of four convolutions by a clock of ticks, what it says of its time, and the ticks."""
    ticks = Ticks(slower)
    monkeypatch.setattr("specnorm.running.search.time", ticks)
    found = bound(NETWORKS["convolutions"](), method=Multipliers(seconds=1e9), check=False, budget=budget)
    return present(found.upper), found.status, ticks.readings


def test_a_busy_machine_gives_the_answer_of_an_idle_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that was busy cut DnCNN at 8.28e7 where an idle one proved 4.50e6."""
    idle = clocked(monkeypatch, 1e6)
    busy = clocked(monkeypatch, 1e6, slower=1e7)
    assert idle[:2] == busy[:2]
    assert idle[1] == "complete"


def test_what_is_best_is_proven_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ended the search left nothing for the proof: at 0.7 of the time the answer was the product, 4.8."""
    whole, _, ticks = clocked(monkeypatch, 1e6)
    assert whole < present(bound(NETWORKS["convolutions"](), method=Product(), check=False).upper) / 4
    # At a fifth of the time the norms of single layers left nothing for the search: the answer was the product.
    for part, factor in ((0.9, 1.1), (0.75, 1.1), (0.6, 1.1), (0.4, 1.4), (0.3, 2.0), (0.2, 3.0)):
        cut, status, _ = clocked(monkeypatch, part * ticks)
        assert status.startswith("budget"), part
        assert cut <= factor * whole, part


class Work(Ticks):
    """A clock that shows how many multiplications were made in factorizations and solutions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.multiplications = 0.0
        for name in ("svd", "eigh", "eigvalsh", "solve", "qr", "cholesky"):
            monkeypatch.setattr(np.linalg, name, self._counted(getattr(np.linalg, name)))

    def _counted(self, function: Any) -> Any:
        def counted(matrices: Any, *others: Any, **options: Any) -> Any:
            small, large = sorted(matrices.shape[-2:])
            self.multiplications += math.prod(matrices.shape[:-2]) * float(small) ** 2 * large
            return function(matrices, *others, **options)

        return counted

    def process_time(self) -> float:
        return self.multiplications

    def monotonic(self) -> float:
        return self.multiplications


def worked(name: str, budget: float) -> tuple[float, float]:
    """The multiplications that a bound took on a machine that makes one a second, and the bound."""
    with pytest.MonkeyPatch.context() as patched:
        clock = Work(patched)
        patched.setattr("specnorm.running.search.time", clock)
        patched.setattr("specnorm.running.search._MULTIPLICATIONS_PER_SECOND", 1.0)
        patched.setattr("specnorm_networks.methods.RATE", 1.0)
        patched.setattr("specnorm_networks.measuring.LEAST", 1e3)
        found = bound(NETWORKS[name](), method=Multipliers(seconds=1e9), check=False, budget=budget)
        return clock.multiplications, present(found.upper)


@pytest.mark.parametrize("name", ["matrices", "convolutions"])
def test_no_deadline_is_overrun(name: str) -> None:
    """The search asked no clock before its first step: deadlines were overrun by up to a fifth."""
    for budget in 10 ** np.random.default_rng(3).uniform(4.3, 4.9, 3):
        took, upper = worked(name, budget)
        assert took <= 1.02 * budget
        assert upper <= 1.01 * upper_of_product(name)


def test_a_clock_cuts_and_says_so() -> None:
    """The best proven by then is an upper bound, no less than without a clock; whoever has time says nothing."""
    graph = dense(0, (10, 20, 20, 5)).graph
    asked: list[dict[str, Any]] = [{"budget": None}, {"budget": 1e-3}, {"method": Product()}]
    whole, cut, product = (bound(graph, check=False, **each) for each in asked)
    assert whole.status == product.status == "complete"
    assert "status" not in whole.to_dict()
    assert cut.status.startswith("budget: 0.001 s")
    assert re.fullmatch(r"budget: 0.001 s ended in .*(norms|search|inequality).*; the best proven by then", cut.status)
    assert cut.status in str(cut)
    assert cut.to_dict()["status"] == cut.status
    assert present(whole.upper) < present(cut.upper) <= 1.01 * present(product.upper)
    with pytest.raises(MethodError, match="budget=0"):
        bound(graph, budget=0)


def test_a_norm_that_was_cut_short_does_not_grow() -> None:
    """A detector's layers were measured again when the time was up, by their entries: nine times its product."""
    graph = NETWORKS["two axes"]()
    node = next(node for node in graph.nodes if node.layer is not None)
    _, layer = graph.placed_layer(node, present(node.layer))
    late, too_late, without_end = Clock(0.0, 1e12), Clock(0.0, 0.0), Clock()
    cut = Measure(clock=late)
    first = cut(layer, None)
    assert Measure(clock=too_late)(layer, None).value > 1.01 * first.value
    assert replace(cut, clock=too_late)(layer, None) is first
    whole = replace(cut, clock=without_end)(layer, None)
    assert whole.value <= first.value
    assert replace(cut, clock=too_late)(layer, None) is whole


def test_a_network_with_a_large_input_is_not_written_out() -> None:
    """The units of a detector at 640 pixels were counted first, which took 9 of 30 seconds."""
    graph = matrices(np.ones((1, 4097)))
    by_channels_and_units(graph, lambda: pytest.fail("it is written out"), Measure(), Multipliers(steps=0))


@pytest.mark.parametrize(("part", "words"), [(0.02, "the norms of 4 layers"), (0.6, "the search for")])
def test_what_the_clock_cut_is_named(part: float, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, ticks = clocked(monkeypatch, 1e6)
    _, status, _ = clocked(monkeypatch, part * ticks)
    assert words in status


# -- progress ----------------------------------------------------------------------------------------------------------
def test_each_stage_and_step_is_told() -> None:
    told: list[tuple[int, int, str]] = []
    graph = NETWORKS["convolutions"]()
    found = network_bound(graph, progress=lambda *step: told.append(step))
    stages = [what for done, _, what in told if done == 0]
    assert stages == ["export", "comparison with the model", "search and proof", "attack on the bound"]
    assert [what for done, of, what in told if done == of == 1] == stages
    run = found.runs[0]
    steps = [(done, of) for done, of, what in told if what == f"{run.start} to {run.end}"]
    assert steps[:3] == [(1, 200), (2, 200), (3, 200)]
    assert told[-1] == (1, 1, "attack on the bound")


@pytest.mark.parametrize("name", NETWORKS)
def test_no_more_steps_are_told_than_may_be_made(name: str) -> None:
    told: list[tuple[int, int, str]] = []
    bound(NETWORKS[name](), method=Multipliers(steps=2), check=False, progress=lambda *step: told.append(step))
    assert [step for step in told if not 0 <= step[0] <= step[1]] == []
    assert any(total > 1 for _, total, _ in told)
