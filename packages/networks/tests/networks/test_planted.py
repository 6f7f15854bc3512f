"""Mistranslations planted in builders and operators: each is refused, or caught before a number is given.

Three fences: no bound ("refused"), values that differ from the model's ("execution"), and pairs of inputs that a proven
constant does not allow ("attack"). Where the graph cannot be executed any more, the answer says that it was not
compared, and decides no claim.

`taken_back` has the mendings of claims that were false, by their numbers. Of the others 3, 4 and 14 were torch's own
graphs; 11 and 13 are errors that cannot be written any more; 12 is one of sizes beyond those here.
15 and 16 are seen by no execution of one network: a radius or a refutation is arithmetic on numbers that are right.
`test_misread` says what is true of them.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx", exc_type=ImportError)
from networks.compositions import planted_onnx, taken_back
from networks.compositions.planting import Planted
from specnorm_networks import Graph, Layer, Node, forward_step
from specnorm_networks.certified import operators

from specnorm.errors import MethodError, TranslationError


def named(each: Planted) -> str:
    return each.name


@pytest.mark.parametrize("each", planted_onnx.PLANTED, ids=named)
def test_planted_mistranslations_are_seen_before_a_bound(each: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    each.stands()
    each.plant(monkeypatch)
    assert each.outcome() in ("refused", "not compared", "execution")


# -- what was mended --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("claim", taken_back.ONNX)
def test_a_bug_that_was_mended_is_caught_by_a_test_or_fence_if_planted_again(
    claim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    each, fence = taken_back.ONNX[claim]
    each.stands()
    each.plant(monkeypatch)
    assert each.outcome() == fence


def test_a_name_that_a_step_gives_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim 11: two nodes of one name are no graph."""
    layer = Layer("w", lambda: 3 * np.eye(2), {}, 0)
    nodes = (Node("x", operators.Input(), (), (1, 2)), Node("y", operators.Matrix(layer), ("x",), (1, 2)))
    monkeypatch.setattr(Graph, "fresh", lambda _, name: name)
    with pytest.raises(MethodError, match="Several nodes are called"):
        forward_step(forward_step(Graph(nodes, ("y",)), 0.5), 0.5)


def test_execution_names_the_first_value_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    each = next(each for each in planted_onnx.PLANTED if each.name == "Elu as LeakyReLU")
    each.plant(monkeypatch)
    with pytest.raises(TranslationError, match=r"value y \(Elu, read as LeakyReLU\)"):
        each.ask()
