"""The audit of a live model: what it leaves alone, what it counts, and what it says of inputs that do not fit."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
from helpers.torch_layers import module_matrix

import specnorm
from specnorm.errors import GeometryError, MethodError

torch: Any = pytest.importorskip("torch")
import specnorm_torch  # noqa: E402 - after the skip where torch is missing

nn = torch.nn


pytestmark = pytest.mark.usefixtures("seeded_torch")


def convolutions() -> Any:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3))


def test_state_is_as_before_in_train() -> None:
    """Parametrisations and normalisations have state that moves in training; old-style hooks, an attribute."""
    model = nn.Sequential(
        specnorm_torch.spectral_norm(nn.Conv2d(3, 4, 3)),
        nn.BatchNorm2d(4),
        torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)),
        torch.nn.utils.spectral_norm(nn.Conv2d(4, 4, 1)),
    ).train()
    for x in [*model.parameters(), model[3].weight]:
        x.requires_grad_(False)
    state, weight = copy.deepcopy(model.state_dict()), model[3].weight
    report = specnorm_torch.audit_module(model, (3, 8, 8))
    assert report.summary["errors"] == 0
    after = model.state_dict()
    assert state.keys() == after.keys()
    assert [name for name in state if not torch.equal(state[name], after[name])] == []
    assert [module for module in model.modules() if not module.training] == []
    assert model[3].weight is weight


def test_state_that_moves_in_eval_is_put_back() -> None:
    class Counts(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Any) -> Any:
            self.calls += 1
            return self.layer(x)

    model = Counts()
    specnorm_torch.audit_module(model, (3,))
    assert float(model.calls) == 0


def test_what_is_skipped_is_counted_and_named() -> None:
    class Net(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.lstm = nn.LSTM(8, 4, batch_first=True)
            self.norm = nn.BatchNorm1d(4)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Any) -> Any:
            x = self.lstm(self.attention(x, x, x)[0])[0]
            return self.head(self.norm(x.transpose(1, 2)).transpose(1, 2))

    model = Net()
    report = specnorm_torch.audit_module(model, (5, 8))
    rows = {row.name: row for row in report.layers}
    assert list(rows) == ["attention.out_proj.weight", "head.weight"]
    assert "did not call" in str(rows["attention.out_proj.weight"].reason)
    unmeasured = [row.name for row in report.unmeasured]
    assert set(unmeasured) == {"attention.in_proj_weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0"}
    assert len(report.skipped) == len(model.state_dict()) - 2
    assert [row["name"] for row in report.to_dict()["summary"]["unmeasured"]] == unmeasured
    assert "lstm.weight_hh_l0" in str(report)
    plain = specnorm_torch.audit_module(convolutions(), (3, 8, 8))
    assert (len(plain.skipped), plain.unmeasured) == (2, ())


def test_layers_of_other_classes_are_rows_too() -> None:
    quantised = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(quantised, {"1"}, dtype=torch.qint8)
    rows = {row.name: row for row in specnorm_torch.audit_module(quantised, (4,)).layers}
    assert list(rows) == ["0.weight", "1.weight"]
    assert rows["0.weight"].status == "ok"
    assert "quantized" in str(rows["1.weight"].reason)
    with pytest.raises(MethodError, match="1 is quantized"):
        specnorm_torch.rescale_(quantised, 1.0)


def test_geometry_of_a_subclass_is_not_believed() -> None:
    class Doubled(torch.nn.Conv2d):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return 2 * super().forward(x)

    layer = Doubled(3, 2, 3)
    for call in (
        lambda: specnorm.enclose(layer),
        lambda: specnorm_torch.geometry_of(layer),
        lambda: specnorm_torch.spectral_norm(layer),
        lambda: specnorm_torch.gram_rescaling(layer),
        lambda: specnorm_torch.SpectralPenalty(nn.Sequential(layer)),
        lambda: specnorm_torch.rescale_(layer, 1.0),
    ):
        with pytest.raises(GeometryError, match="Doubled has a forward of its own"):
            call()


def test_a_hook_that_pads_runs_once() -> None:
    """The row is about the size that the layer is called with."""
    layer = nn.Conv2d(1, 1, 3).double()
    layer.register_forward_pre_hook(lambda _, args: nn.functional.pad(args[0], (1, 1, 1, 1)))
    row: Any = specnorm_torch.audit_module(nn.Sequential(layer), (1, 3, 3)).layers[0]
    norm = float(np.linalg.norm(module_matrix(layer, (1, 3, 3)), 2))
    assert row.spec.input_shape == (3, 3)
    assert row.lower * (1 - 1e-12) <= norm <= row.upper * (1 + 1e-12)


@pytest.mark.parametrize("around", [False, True], ids=["in the layer", "in the model"])
def test_autocast_rounds_the_kernel(around: bool) -> None:
    """What is bounded is the kernel in use: 257/256 is 1 in bfloat16."""

    class Cast(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Any) -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.inner(x)

    class CastLinear(torch.nn.Linear):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x)

    layer = nn.Linear(2, 2) if around else CastLinear(2, 2)
    layer.weight.data.fill_(257 / 256)
    layer.bias.data.zero_()
    model = Cast(nn.Sequential(layer)) if around else layer
    row: Any = specnorm_torch.audit_module(model, (2,)).layers[0]
    assert float(model(torch.ones(1, 2)).detach().norm() / 2**0.5) == 2.0
    assert row.reason is None
    assert row.lower <= 2.0 <= row.upper


def test_autocast_around_certify_does_not_use_the_weight() -> None:
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(MethodError, match="Linear does not use its weight as it is stored"),
    ):
        specnorm_torch.rescale_(nn.Linear(2, 2), 0.5)


@pytest.mark.nightly
def test_a_model_compiled_by_torch_is_the_one_that_it_was_made_of() -> None:
    model = convolutions()
    rows = specnorm_torch.audit_module(torch.compile(model), (3, 8, 8)).layers
    assert [(row.lower, row.upper) for row in rows] == [
        (row.lower, row.upper) for row in specnorm_torch.audit_module(model, (3, 8, 8)).layers
    ]
