"""Every rule of every torch operator, with all arguments that it knows, against the largest stretch that is found.

``SPECNORM_NETWORK_DRAWS`` is the number of calls; CI takes a sample.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)
from networks.drawing import Slot  # noqa: E402
from networks.stretch import largest_stretch, somewhere  # noqa: E402
from networks.torch_arguments import DRAWS, target  # noqa: E402
from networks.torch_calls import Drawn, draw  # noqa: E402
from specnorm_networks.certified.operators import Random, Unknown  # noqa: E402
from specnorm_networks.checking import check  # noqa: E402
from specnorm_torch.networks import _without_rule  # noqa: E402
from specnorm_torch.writing import RULES  # noqa: E402

COUNT = int(os.environ.get("SPECNORM_NETWORK_DRAWS", "800"))
STEPS = {"sign", *(f"{kind}.{end}" for kind in ("gt", "ge", "lt", "le") for end in ("Scalar", "Tensor"))}
"""Operators that are executed, and have no constant but in patterns."""
PAGE = Path(__file__).parents[2] / "docs" / "networks.md"


def slack(drawn: Drawn, upper: float) -> dict[str, Any]:
    """What rounding to a dtype that the call asks for may add; and softplus' jump."""
    dtype = drawn.arguments.get("dtype")
    if isinstance(dtype, torch.dtype) and dtype != torch.float64:
        return {"relative": 16 * torch.finfo(dtype).eps * (1 + upper)}
    if drawn.key == "softplus":
        return {"absolute": 2.1e-9 / abs(drawn.arguments["beta"]) * math.sqrt(sum(map(math.prod, drawn.shapes)))}
    return {}


def places(drawn: Drawn) -> list[float]:
    """Numbers among the arguments, where kinks may be."""
    values = drawn.arguments.values()
    return [0.0, *(float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 100)]


def claim(drawn: Drawn, rng: np.random.Generator) -> tuple[float, float] | None:
    """Bound, and what is reached; None if there is no bound."""
    found = somewhere(drawn.graph, drawn.f)
    if found is None:
        return None
    upper, f, kinks = found
    with np.errstate(all="ignore"):
        size = sum(map(math.prod, drawn.shapes))
        return upper, largest_stretch(f, size, rng, places(drawn) + kinks, **slack(drawn, upper))


@pytest.mark.nightly
def test_no_operator_stretches_more_than_its_bound() -> None:
    """Operators in turn, arguments at random; every operator is bounded, and nearly reached, in some call."""
    dice, rng, began = random.Random(14), np.random.default_rng(14), time.monotonic()
    closest: dict[str, float] = {}
    checked = refused = broad = 0
    names = itertools.cycle(DRAWS)
    while checked < COUNT:
        drawn = draw(next(names), dice)
        found = None if drawn is None else claim(drawn, rng)
        if drawn is None or found is None:
            refused += drawn is not None
            continue
        upper, reached = found
        assert reached <= upper * (1 + 1e-9), (drawn.key, drawn.arguments, drawn.shapes, upper, reached)
        checked, broad = checked + 1, broad + drawn.broad
        closest[drawn.key] = max(closest.get(drawn.key, 0.0), reached / upper if upper else 1.0)
    took = time.monotonic() - began
    print(f"{checked} calls bounded, {broad} of them larger than an input, {refused} refused; {took:.0f} s")  # noqa: T201 - shown by `pytest -rP`
    if 20 * len(DRAWS) <= COUNT:
        assert set(DRAWS) - set(closest) == STEPS
        assert {name: ratio for name, ratio in closest.items() if ratio < 0.8} == {}


def known(name: str) -> tuple[set[str], set[str]]:
    """Arguments of an operator that its rule knows, and those that may depend on the network's inputs."""
    return RULES[name].arguments(target(name)._schema)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.nightly
def test_no_translation_computes_anything_else(dtype: Any) -> None:
    """Each call, executed by torch and as it was translated, on many inputs: the same to a computed rounding."""
    dice, values, missed = random.Random(5), 0, set()
    setattr(dice, "dtype", dtype)  # noqa: B010 - dice have none
    for name in DRAWS:
        for _ in range(max(COUNT // 800, 1)):
            drawn = draw(name, dice)
            if drawn is not None:
                found = check(drawn.graph, drawn.graph)
                values += found.values
                if not (found.complete or any(isinstance(n.operator, Random | Unknown) for n in drawn.graph.nodes)):
                    missed.add(name)
    assert values > len(DRAWS) / 2
    assert missed == set()


def test_every_argument_that_is_known_is_varied() -> None:
    """Each argument of each overload takes several values, and all that torch defines beyond is refused by name."""
    assert set(DRAWS) == set(RULES)
    dice, arguments = random.Random(0), 0
    for name in RULES:
        schema, (names, _) = target(name)._schema, known(name)
        seen: dict[str, set[str]] = {a.name: set() for a in schema.arguments}
        for at in range(60):
            for argument, value in DRAWS[name](dice).items():
                # The numbers of a slot are drawn later, each time others.
                seen[argument].add(f"numbers {at}" if isinstance(value, Slot) else repr(value))
        assert {argument for argument in names if len(seen[argument]) < 2} == set(), name
        arguments += len(names)
    operators = {name.partition(".")[0] for name in RULES}
    told = f"{len(operators)} operators, {len(RULES)} overloads, {arguments} arguments"
    print(f"{told}, all varied")  # noqa: T201 - shown by `pytest -rP`
    assert told in PAGE.read_text(encoding="utf-8").replace("\n", " ")


def test_every_other_overload_and_argument_is_refused_by_name() -> None:
    strange = 0
    for operator in sorted({name.partition(".")[0] for name in RULES}):
        packet = getattr(torch.ops.aten, operator)
        for overload in packet.overloads():
            schema = getattr(packet, overload)._schema
            defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
            name = f"{operator}.{schema.overload_name}".removesuffix(".")
            if name not in RULES:
                assert name in _without_rule(name).reason, name
                strange += 1
                continue
            node: Any = torch.fx.Graph().placeholder("x")
            rule = RULES[name]
            names, moving = rule.arguments(schema)
            for argument in schema.arguments:
                if argument.name not in names:
                    refused = rule.refusal(schema, defaults | {argument.name: 7.25})
                    assert argument.name in (refused or ""), name
                    strange += 1
                if argument.name not in moving:
                    for given in (node, [node]):
                        refused = rule.refusal(schema, defaults | {argument.name: given})
                        assert argument.name in (refused or ""), name
    print(f"{strange} overloads and arguments refused")  # noqa: T201 - shown by `pytest -rP`


def test_the_search_can_find_a_violation() -> None:
    """Half of each bound is exceeded by what is reached, for most operators."""
    dice, rng, exceeded = random.Random(1), np.random.default_rng(1), 0
    for name in list(DRAWS)[::5]:
        drawn = draw(name, dice)
        found = None if drawn is None else claim(drawn, rng)
        exceeded += found is not None and found[1] > found[0] / 2 > 0
    assert exceeded > len(DRAWS) / 5 * 0.6
