"""Proves the norms in ``docs/reference-cases.json``: small layers, in the file itself. Imports nothing of specnorm.

    python -m helpers.reference.make

Of each row all but the two bounds is given; a new one has null there. At one input size: the layer's matrix is written
out by the tests' oracle. Entries are small dyadic numbers, so it is exact, and ``t I - A*A`` is eliminated in ball
arithmetic. Over all sizes: `reference.suprema`. Both bounds are rounded outward to float64. A closed form, where there
is one, must lie between the bounds, and replaces them.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from core.soundness import balls
from core.soundness.balls import BITS, Bounds
from flint import arb, ctx

from helpers.oracle import dense_matrix
from helpers.reference.suprema import plain_blocks, supremum

FILE = Path(__file__).parents[3] / "docs" / "reference-cases.json"
RTOL = 1e-9
"""Bounds are at most this far apart, relatively."""
WORDS = ("stride", "dilation", "groups", "transposed", "padding_mode", "padding")


def norm_of(row: dict[str, Any]) -> Bounds:
    kernel = np.asarray(row["kernel"], dtype=np.float64)
    if row["input_shape"] is not None:
        geometry = {word: row[word] for word in WORDS}
        if row["transposed"] and row["padding_mode"] == "circular":
            geometry["padding"] = "same"  # there is no other
        matrix = dense_matrix(kernel, row["input_shape"], **geometry)
        if not matrix.any():
            return Bounds(arb(0), arb(0))
        return balls.norm(balls.matrix(matrix), balls.exponent_of(matrix))
    bounds = [supremum(block) for block in plain_blocks(kernel, row["stride"], row["dilation"], row["groups"])]
    with ctx.workprec(BITS):
        ends = zip(*((each.low, each.high) for each in bounds), strict=True)
        return Bounds(*(functools.reduce(arb.max, values) for values in ends))


def evaluated(text: str) -> arb:
    """A closed form made of arithmetic on dyadic numbers, exact in floats, and ``sqrt``, a ball."""
    with ctx.workprec(BITS):
        return arb(eval(text, {"sqrt": lambda n: arb(n).sqrt()}))


def outward(bounds: Bounds) -> tuple[float, float]:
    """Nearest floats that are certainly not above the low end, and not below the high one."""
    return _step(bounds.low, 0.0, lambda f: not arb(f) > bounds.low), _step(
        bounds.high, math.inf, lambda f: arb(f) >= bounds.high
    )


def _step(end: arb, towards: float, right: Callable[[float], bool]) -> float:
    with ctx.workprec(BITS):
        value = float(end.mid())
        while not right(value):
            value = math.nextafter(value, towards)
        return value


def proven(row: dict[str, Any]) -> tuple[float, float]:
    bounds = norm_of(row)
    if row["closed_form"] is not None:
        exact = evaluated(row["closed_form"])
        if exact < bounds.low or exact > bounds.high:
            raise ValueError(f"{row['name']}: {row['closed_form']} = {exact} is not in [{bounds.low}, {bounds.high}]")
        bounds = Bounds(exact, exact)
    lower, upper = outward(bounds)
    if upper - lower > RTOL * lower:
        raise ValueError(f"{row['name']}: [{lower}, {upper}] is too wide")
    return lower, upper


def main() -> None:
    cases = json.loads(FILE.read_text(encoding="utf-8"))["cases"]
    rows = ",\n".join(json.dumps({**row, **dict(zip(("lower", "upper"), proven(row), strict=True))}) for row in cases)
    FILE.write_text(f'{{"version": 1, "rtol": {RTOL}, "cases": [\n{rows}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
