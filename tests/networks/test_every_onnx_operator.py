"""Every rule of every ONNX operator, with all inputs and attributes that it knows, against onnx's reference.

``SPECNORM_ONNX_DRAWS`` is the number of nodes; CI takes a sample.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import time
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", exc_type=ImportError)
from networks.drawing import Slot  # noqa: E402
from networks.onnx_arguments import DRAWS, places  # noqa: E402
from networks.onnx_calls import HISTORY, Drawn, draw, opset_of  # noqa: E402
from networks.stretch import largest_stretch, somewhere  # noqa: E402

from specnorm.auditing.readers.onnx.operators import OPERATORS  # noqa: E402
from specnorm.auditing.readers.onnx.signatures import NEWEST, SIGNATURES, refusal  # noqa: E402

COUNT = int(os.environ.get("SPECNORM_ONNX_DRAWS", "200"))
PAGE = Path(__file__).parents[2] / "docs" / "networks.md"


def claim(drawn: Drawn, rng: np.random.Generator) -> tuple[float, float] | None:
    """Bound, and what is reached; None if there is no bound."""
    found = somewhere(drawn.graph, drawn.f)
    if found is None:
        return None
    upper, f, kinks = found
    numbers = [0.0, *kinks, *(float(v) for v in drawn.arguments.values() if isinstance(v, int | float))]
    # What a cast to float32, float16 or bfloat16 may add.
    unit = 16 * {1: 2.0**-23, 10: 2.0**-10, 16: 2.0**-7}.get(drawn.arguments.get("to", 11), 0.0)
    if drawn.operator == "DequantizeLinear":
        unit = 2.0**-18  # onnx's reference multiplies in single precision
    # onnx's reference has an error function of single precision.
    lost = 2.0**-22 if drawn.operator in ("Erf", "Gelu") else 0.0
    with np.errstate(all="ignore"):
        size = sum(map(math.prod, drawn.shapes))
        reached = largest_stretch(f, size, rng, numbers, relative=unit, absolute=lost)
    return upper, reached


def test_no_operator_stretches_more_than_its_bound() -> None:
    dice, rng, began = random.Random(14), np.random.default_rng(14), time.monotonic()
    closest: dict[str, float] = {}
    checked = refused = 0
    names = itertools.cycle(DRAWS)
    while checked < COUNT:
        drawn = draw(next(names), dice)
        found = None if drawn is None else claim(drawn, rng)
        if drawn is None or found is None:
            refused += drawn is not None
            continue
        upper, reached = found
        assert reached <= upper * (1 + 1e-9), (
            drawn.operator,
            drawn.opset,
            drawn.arguments,
            drawn.shapes,
            upper,
            reached,
        )
        checked += 1
        closest[drawn.operator] = max(closest.get(drawn.operator, 0.0), reached / upper if upper else 1.0)
    print(f"{checked} nodes bounded, {refused} refused; {time.monotonic() - began:.0f} s")  # noqa: T201 - shown by `pytest -rP`
    if 20 * len(DRAWS) <= COUNT:
        assert sorted(set(DRAWS) - set(closest)) == []
        assert {name: ratio for name, ratio in closest.items() if ratio < 0.7} == {}


def test_every_input_attribute_and_version_is_varied() -> None:
    assert set(DRAWS) == set(SIGNATURES) == set(OPERATORS)
    dice, arguments, versions = random.Random(0), 0, 0
    for operator, (since, _, attributes) in SIGNATURES.items():
        known = {*places(operator), *attributes.split()}
        seen: dict[str, set[str]] = {name: set() for name in known}
        opsets: set[int] = set()
        for at in range(150):
            opsets.add(opset_of(operator, dice))
            for name, value in DRAWS[operator](dice).items():
                array = isinstance(value, Slot | list | np.ndarray)
                seen.setdefault(name, set()).add(f"numbers {at}" if array else repr(value))
        assert {name for name in known if len(seen[name]) < 2} == set(), operator
        defined = {onnx.defs.get_schema(operator, max(s.since_version, since)).since_version for s in HISTORY[operator]}
        drawn = {onnx.defs.get_schema(operator, opset).since_version for opset in opsets}
        assert drawn == defined, operator
        arguments, versions = arguments + len(known), versions + len(defined)
    told = f"{len(SIGNATURES)} operators, {versions} versions, {arguments} inputs and attributes"
    print(f"{told}, all varied")  # noqa: T201 - shown by `pytest -rP`
    assert told in PAGE.read_text(encoding="utf-8").replace("\n", " ")


def test_the_newest_operator_set_is_the_one_of_the_package() -> None:
    """A newer package may define more: then this says what to look at."""
    assert onnx.defs.onnx_opset_version() <= NEWEST


def test_what_the_standard_defines_beyond_is_refused_by_name() -> None:
    strange = 0
    for operator, (since, words, attributes) in SIGNATURES.items():
        for schema in HISTORY[operator]:
            if schema.since_version < since:
                assert "operator set" in (refusal(operator, schema.since_version, [], ()) or ""), operator
                strange += 1
                continue
            for name in set(schema.attributes) - set(attributes.split()):
                # An older version's attribute is meant by an older operator set alone.
                assert name in (refusal(operator, schema.since_version, [], [name]) or ""), operator
                strange += 1
            if "..." not in words:
                assert len(schema.inputs) <= len(words.split()), operator
        assert "steepness" in (refusal(operator, NEWEST, [], ["steepness"]) or "")
        assert "operator set" in (refusal(operator, NEWEST + 1, [], ()) or "")
    print(f"{strange} attributes and versions refused")  # noqa: T201 - shown by `pytest -rP`


@pytest.mark.parametrize("operator", sorted(SIGNATURES))
def test_inputs_that_may_not_depend_on_the_networks_input(operator: str) -> None:
    from specnorm.auditing.readers.onnx.calls import Data

    words = SIGNATURES[operator][1].split()
    for at, word in enumerate(words):
        if not word.startswith(("*", "...")):
            given = [None] * at + [Data("x", (1,))]
            assert word in (refusal(operator, NEWEST, given, ()) or "")
    if "..." not in words:
        assert "inputs" in (refusal(operator, NEWEST, [None] * (len(words) + 1), ()) or "")
