"""Mistranslations planted in builders of torch's operators; see `test_planted`."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx", exc_type=ImportError)
from networks.compositions import torch_programs  # noqa: E402
from networks.compositions.planted_torch import PLANTED  # noqa: E402
from networks.compositions.planting import Planted, torch_graph  # noqa: E402
from networks.torch_modules import Function  # noqa: E402
from specnorm_networks.certified import operators as ops  # noqa: E402
from specnorm_networks.certified import patterns  # noqa: E402
from specnorm_torch.networks import network_graph  # noqa: E402

assert torch_programs.Interpreted is not None  # the module defines mylib::relu


@pytest.mark.parametrize("each", PLANTED, ids=lambda each: each.name)
@pytest.mark.nightly
def test_torch(each: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    each.stands()
    each.plant(monkeypatch)
    assert each.outcome() in ("refused", "execution")


# -- mendings taken back -------------------------------------------------------------------------------------------
def first_factor(patch: pytest.MonkeyPatch) -> None:
    """The first of many factors is taken for all."""
    real = patterns.factor_of

    def factor_of(node: Any, nodes: Any) -> Any:
        found = real(node, nodes)
        return None if found is None else type(found)(found.values.reshape(-1)[0], found.roundings)

    patch.setattr(patterns, "factor_of", factor_of)


def any_namespace(patch: pytest.MonkeyPatch) -> None:
    """An operator is known by its name alone."""
    from specnorm_torch import networks

    def name(node: Any) -> str:
        schema = getattr(node.target, "_schema", None)
        return str(node.target.__name__) if schema is None else schema.name.partition("::")[2]

    patch.setattr(networks, "_operator", name)


def in_double_precision(patch: pytest.MonkeyPatch) -> None:
    """Copies are counted as if coordinates were exact."""
    patch.setattr(ops.Resize, "single", False)
    real = ops.Resize.__init__

    def made(self: Any, *given: Any, **named: Any) -> None:
        real(self, *given, **named)
        object.__setattr__(self, "single", False)

    patch.setattr(ops.Resize, "__init__", made)


def no_samples(patch: pytest.MonkeyPatch) -> None:
    """Several samples are not executed together."""
    patch.setattr("specnorm_networks.checking._several", lambda *_: ())


FACTORS = torch.tensor([[1.0, 1.0], [1.0, 100.0]], dtype=torch.float64)
BY_SAMPLES = Function(lambda x: 100 * x if x.shape[0] > 1 else x)
UPSAMPLE = torch.nn.Upsample(size=82)
TAKEN_BACK = {
    "3 factors of a choice": (
        Planted("", torch_graph(lambda x: torch.where(x > 0, x, FACTORS * x), 2, 2), first_factor),
        "claimed", "execution"),
    "4 a custom operator of torch's name": (
        Planted("", torch_graph(lambda x: torch.ops.mylib.relu(x), 1, 4), any_namespace), "refused", "execution"),
    "12 coordinates in single precision": (
        Planted("", lambda: network_graph(UPSAMPLE, torch.zeros(1, 1, 2)), in_double_precision),
        "claimed", "execution"),
    "14 control flow on the number of samples": (
        Planted("", lambda: network_graph(BY_SAMPLES, (4,)), no_samples), "execution", "claimed"),
}  # fmt: skip
"""By the number of the claim: what becomes of the network as it is, and of the error. In the last, the fence itself is
what is taken back: no other sees two samples."""


@pytest.mark.parametrize("claim", TAKEN_BACK)
def test_mendings_taken_back(claim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    each, before, after = TAKEN_BACK[claim]
    assert each.outcome() == before
    each.plant(monkeypatch)
    assert each.outcome() == after
