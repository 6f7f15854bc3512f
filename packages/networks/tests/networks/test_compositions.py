"""Compositions of operators at random: nothing that is claimed of one is exceeded.

``SPECNORM_COMPOSITIONS`` is how many are drawn, and ``SPECNORM_COMPOSITIONS_SEED`` the number of the first.
A third each are asked about everywhere, on a ball and on a box.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from helpers.assumptions import assumed

onnx = pytest.importorskip("onnx", exc_type=ImportError)
from networks.compositions.claims import Region  # noqa: E402
from networks.compositions.hunting import KINDS, Trial, hunt, table, trial  # noqa: E402
from networks.compositions.onnx_draws import LEFT_OUT  # noqa: E402
from networks.compositions.onnx_programs import OnnxProgram  # noqa: E402
from networks.drawing import Shapes  # noqa: E402
from networks.onnx_arguments import DRAWS as ARGUMENTS  # noqa: E402
from onnx import helper  # noqa: E402
from specnorm_networks import Product  # noqa: E402

PROGRAMS = int(os.environ.get("SPECNORM_COMPOSITIONS", "16"))
FIRST = int(os.environ.get("SPECNORM_COMPOSITIONS_SEED", "0"))


def test_no_claim_about_random_onnx_programs_is_false() -> None:
    counts = hunt(range(FIRST, FIRST + PROGRAMS))
    sys.stdout.write(table(counts) + "\n")  # shown by `pytest -rP`
    assert counts["bounded"] > 0.7 * counts["programs"]
    assert min(counts[kind] for kind in KINDS)
    assert counts["tight"] > 0.3 * counts["bounded"]


@pytest.mark.nightly
@pytest.mark.parametrize("start", range(0, 1000, 100))
def test_no_claim_about_a_thousand_graphs_is_false(start: int) -> None:
    """Each is compared and attacked by specnorm, by onnx's evaluator and by ONNX Runtime."""
    pytest.importorskip("onnxruntime")
    counts = hunt(range(start, start + 100), check=True, by_runtime=True)
    sys.stdout.write(table(counts) + "\n")
    assert counts["bounded"] > 0.6 * counts["programs"]
    assert counts["attacked by ONNX Runtime"] > 0.7 * counts["bounded"]


@pytest.mark.nightly
def test_all_operators_are_drawn() -> None:
    drawn: Counter[str] = Counter()
    for seed in range(1200):
        drawn.update(trial(Shapes(random.Random(seed))).program.operators())
    assert set(ARGUMENTS) - LEFT_OUT - set(drawn) <= {"Upsample"}


# -- the test itself -------------------------------------------------------------------------------------------------
N = helper.make_node


def test_a_false_claim_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
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
