"""Mistranslations planted in builders and operators: each is refused, or caught before a number is given.

Three fences: no bound ("refused"), values that differ from the model's ("execution"), and pairs of inputs that a proven
constant does not allow ("attack"). Where the graph cannot be executed any more, the answer says that it was not
compared, and decides no claim.
"""

from __future__ import annotations

import pytest

pytest.importorskip("onnx", exc_type=ImportError)
from networks.compositions import planted_onnx
from networks.compositions.planting import Planted


def caught(each: Planted, patch: pytest.MonkeyPatch) -> None:
    answer = each.ask()
    assert answer.upper is not None
    assert answer.checked.complete
    each.plant(patch)
    assert each.outcome() != "claimed"


@pytest.mark.parametrize("each", planted_onnx.PLANTED, ids=lambda each: each.name)
def test_onnx(each: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    caught(each, monkeypatch)
