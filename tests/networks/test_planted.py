"""Mistranslations planted in builders and operators: each is refused, or caught before a number is given.

Three fences: no bound ("refused"), values that differ from the model's ("execution"), and pairs of inputs that a proven
constant does not allow ("attack"). Where the graph cannot be executed any more, the answer says that it was not
compared, and decides no claim.

Which of them stops the false claims of the last attack, once its mending is taken back (class: the error cannot be
written any more; generated: how many programs `test_compositions` draws until a claim is exceeded, the other fences
being off):

========================================  ==========  ======================
claim                                     stopped by  generated
========================================  ==========  ======================
1 Elu is no leaky ReLU                    execution   71
2 names of constants that are folded      execution   183
3 factors of a choice                     execution   26 (torch's)
4 a custom operator of torch's name       execution   522 (torch's)
5 one measure for two networks            attack      no: one network
6 constants of sums                       execution   103
7 constants of extremes                   execution   134
8 alpha of Swish on ranges                attack      14
9 halves of a transposed value            execution   1272
10 pieces that overlap                    execution   181
11 names of nodes that meet               class       no: one network
12 coordinates in single precision        execution   no: sizes up to 5
13 names of open sizes                    class       no: sizes are known
14 control flow on the number of samples  execution   no: one number
15 squares that underflow in radii        none        no: no radii
16 rounding that refutes                  none        no: nothing is refuted
17 an input's own range on a ball         attack      11
========================================  ==========  ======================

15 and 16 are seen by no execution of one network: a radius or a refutation is arithmetic on numbers that are right.
`test_misread` says what is true of them.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx", exc_type=ImportError)
from networks.compositions import planted_onnx, planted_rules, taken_back
from networks.compositions.planting import Planted
from specnorm_networks import Graph, Layer, Node, forward_step
from specnorm_networks.certified import operators

from specnorm.errors import MethodError, TranslationError


def named(each: Planted) -> str:
    return each.name


@pytest.mark.parametrize("each", planted_onnx.PLANTED, ids=named)
def test_onnx(each: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    each.stands()
    each.plant(monkeypatch)
    assert each.outcome() in ("refused", "not compared", "execution")


@pytest.mark.parametrize("each", planted_rules.PLANTED, ids=named)
def test_rules(each: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    each.stands()
    each.plant(monkeypatch)
    assert each.outcome() == "attack"


# -- what was mended --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("claim", taken_back.ONNX)
def test_mendings_taken_back(claim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    each, fence = taken_back.ONNX[claim]
    each.stands()
    each.plant(monkeypatch)
    assert each.outcome() == fence


def test_names_of_nodes_meet_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
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
