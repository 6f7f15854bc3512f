"""Compositions of operators at random, ONNX's and torch's: nothing that is claimed of one is exceeded.

``SPECNORM_COMPOSITIONS`` is how many are drawn, of which a tenth are torch's (each takes a second to trace), and
``SPECNORM_COMPOSITIONS_SEED`` the number of the first. A third each are asked about everywhere, on a ball and on a box.
A failure is minimised and printed as code, to be run after ``from networks.compositions.onnx_programs import *``.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from assumptions import assumed

onnx = pytest.importorskip("onnx", exc_type=ImportError)
from networks.compositions.claims import Region, Search, Vector  # noqa: E402
from networks.compositions.hunting import Counts, Trial, hunt, minimised, trial  # noqa: E402
from networks.compositions.onnx_patterns import program as onnx_program  # noqa: E402
from networks.compositions.onnx_programs import OnnxProgram  # noqa: E402
from onnx import helper  # noqa: E402
from specnorm_networks import Product  # noqa: E402

PROGRAMS = int(os.environ.get("SPECNORM_COMPOSITIONS", "100"))
FIRST = int(os.environ.get("SPECNORM_COMPOSITIONS_SEED", "0"))


def told(counts: Counts) -> None:
    """Shown by ``pytest -rP``."""
    sys.stdout.write(counts.table() + "\n")
    assert not counts.failures, "\n\n".join(counts.failures[:5])
    assert counts.bounded > 0.7 * counts.programs
    assert len(counts.kinds) == 3
    assert counts.tight > 0.3 * counts.bounded


def test_onnx_programs() -> None:
    told(hunt(range(FIRST, FIRST + max(PROGRAMS * 9 // 10, 12)), onnx_program))


def test_all_operators_are_drawn() -> None:
    """But those that are for constants or sizes alone, and few besides."""
    from specnorm_networks.onnx.operators import OPERATORS

    drawn: Counter[str] = Counter()
    for seed in range(600):
        drawn.update(trial(seed, onnx_program).program.operators())
    rest = {name for name, known in OPERATORS.items() if known.build is not None} - set(drawn)
    assert rest <= {
        "Dropout",
        "DequantizeLinear",
        "Size",
        "ConstantOfShape",
        "Upsample",
        "GlobalLpPool",
        "DepthToSpace",
        "GroupNormalization",  # these have a test of their own: test_normalisation.py
        "InstanceNormalization",
        "LayerNormalization",
        "LpNormalization",
        "RMSNormalization",
        "Einsum",  # and these: test_every_onnx_operator.py
        "GatherElements",
        "GatherND",
        "ScatterElements",
        "ScatterND",
        "TopK",
        "Trilu",
    }


# -- the test itself -------------------------------------------------------------------------------------------------
N = helper.make_node


def test_a_false_claim_is_found_and_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim of a tenth: in eight nodes of which two count."""
    nodes = [
        N("Relu", ["x"], ["a"]), N("Mul", ["a", "c"], ["b"]), N("Transpose", ["b"], ["d"], perm=[1, 0]),
        N("Add", ["d", "e"], ["f"]), N("Transpose", ["f"], ["g"], perm=[1, 0]), N("Neg", ["g"], ["h"]),
        N("Identity", ["h"], ["i"]), N("Tanh", ["i"], ["y"]),
    ]  # fmt: skip
    program = OnnxProgram((1, 4), tuple(nodes), {"c": np.full((1, 4), 3.0), "e": np.zeros(1)}, 18, ("y",))
    region = Region("everywhere", (1, 4), np.zeros((1, 4)), np.ones((1, 4)))
    found = Trial(program, region, Product(), 0)
    assert found.run() is None
    real = Region.claim

    def claim(self: Region, graph: object, method: object, *, check: bool) -> object:
        answer = real(self, graph, method, check=check)  # type: ignore[arg-type]
        if answer.claim is None:
            return answer
        return replace(answer, claim=assumed(0.1 * answer.claim.value, answer.claim.what))

    monkeypatch.setattr(Region, "claim", claim)
    told = found.run()
    assert told is not None
    assert told.startswith("claimed")
    small = minimised(found, 20)
    assert isinstance(small.program, OnnxProgram)
    assert len(small.program.nodes) <= 2
    assert "OnnxProgram(" in small.code()


@pytest.mark.parametrize("kind", ["everywhere", "ball", "box"])
def test_pairs_lie_in_the_region(kind: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        region = Region.drawn(kind, (1, 3), rng)

        def f(x: Vector) -> Vector:
            return np.array([np.sum(np.abs(x)), np.sum(x)])

        search = Search(f, region, rng)
        reached = search.run(6)
        assert reached.pair is not None
        for x in reached.pair:
            assert np.allclose(region.inside(x), x, rtol=0, atol=1e-12)
        assert not search.exceeds(np.sqrt(6.0))


def test_rounding_is_no_false_alarm() -> None:
    """Values of 1e12 that cancel: noise of a tenth of the distances."""
    region = Region("ball", (1, 3), np.zeros((1, 3)), np.asarray(1e-3))
    search = Search(lambda x: (np.ravel(x) + 1e12) - 1e12, region, np.random.default_rng(0))
    search.run(6)
    assert search.best.ratio > 1
    assert search.exceeds(1.0)
    assert not search.exceeds(1.0, lambda _: 1e12)
