"""The audit of a live model: what it leaves alone, what it counts, and what it says of inputs that do not fit."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest

import specnorm

torch: Any = pytest.importorskip("torch")
import specnorm_torch  # noqa: E402 - after the skip where torch is missing
from torch_training import LAYERS, network  # noqa: E402

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
    report = specnorm_torch.audit(model, (3, 8, 8))
    assert report.summary["errors"] == 0
    after = model.state_dict()
    assert state.keys() == after.keys()
    assert all(torch.equal(state[name], after[name]) for name in state)
    assert all(module.training for module in model.modules())
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
    specnorm_torch.audit(model, (3,))
    assert float(model.calls) == 0


def test_a_layer_that_is_called_by_keyword() -> None:
    class Net(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3, stride=2)

        def forward(self, x: Any) -> Any:
            return self.conv(input=x)

    row: Any = specnorm_torch.audit(Net(), (3, 9, 7)).layers[0]
    assert row.reason is None
    assert row.spec.input_shape == (9, 7)


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
    report = specnorm_torch.audit(model, (5, 8))
    rows = {row.name: row for row in report.layers}
    assert list(rows) == ["attention.out_proj.weight", "head.weight"]
    assert "did not call" in str(rows["attention.out_proj.weight"].reason)
    assert set(report.skipped_names) == {"attention.in_proj_weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0"}
    assert report.skipped == len(model.state_dict()) - 2
    assert report.to_dict()["summary"]["skipped_names"] == list(report.skipped_names)
    assert "lstm.weight_hh_l0" in str(report)
    plain = specnorm_torch.audit(convolutions(), (3, 8, 8))
    assert (plain.skipped, plain.skipped_names) == (2, ())


def test_layers_of_other_classes_are_rows_too() -> None:
    quantised = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(quantised, {"1"}, dtype=torch.qint8)
    rows = {row.name: row for row in specnorm_torch.audit(quantised, (4,)).layers}
    assert rows["0.weight"].status == "ok"
    assert "quantised" in str(rows["1.weight"].reason)


def test_an_int_is_the_spatial_size() -> None:
    model = convolutions()
    assert specnorm_torch.audit(model, 9).layers == specnorm_torch.audit(model, (3, 9, 9)).layers
    with pytest.raises(specnorm.MethodError, match="first layer is no convolution"):
        specnorm_torch.audit(nn.Linear(3, 2), 32)


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(specnorm.MethodError, match=r"does not run on an input of shape \(1, 4, 8, 8\)"):
        specnorm_torch.audit(convolutions(), (4, 8, 8))
    wrongs: tuple[Any, ...] = ("32", (3, 8.5, 8), None, True)
    for wrong in wrongs:
        with pytest.raises(specnorm.MethodError, match="input_shape="):
            specnorm_torch.audit(convolutions(), wrong)
    with pytest.raises(specnorm.MethodError, match="no convolution or linear layer"):
        specnorm_torch.audit(nn.ReLU(), (3,))


def test_layers_without_values() -> None:
    meta = nn.Sequential(nn.Conv2d(3, 2, 3, device="meta"))
    for call in (
        lambda: specnorm_torch.audit(meta, (3, 8, 8)),
        lambda: specnorm_torch.certify_(meta, 1.0),
        lambda: specnorm_torch.spectral_norm(meta[0]),
        lambda: specnorm_torch.network_bound(meta, (3, 8, 8)),
        lambda: specnorm.enclose(meta[0].weight),
    ):
        with pytest.raises(specnorm.SpecnormError, match="device 'meta'"):
            call()
    lazy = nn.Sequential(nn.LazyConv2d(2, 3))
    with pytest.raises(specnorm.GeometryError, match=r"0\.weight has no shape yet"):
        specnorm_torch.audit(lazy, (3, 8, 8))
    assert lazy[0].has_uninitialized_params(), "nothing was initialised"


def test_a_layer_is_no_array() -> None:
    with pytest.raises(specnorm.NoBackend, match=r"Conv2d is not an array. Its `.weight` is one"):
        specnorm.enclose(nn.Conv2d(3, 2, 3))
    with pytest.raises(specnorm.NoBackend, match=r"ReLU is not an array. Pass"):
        specnorm.enclose(nn.ReLU())


def test_geometry_of_a_subclass_is_not_believed() -> None:
    class Doubled(torch.nn.Conv2d):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return 2 * super().forward(x)

    layer = Doubled(3, 2, 3)
    for call in (
        lambda: specnorm_torch.geometry_of(layer),
        lambda: specnorm_torch.spectral_norm(layer),
        lambda: specnorm_torch.spectral_rescaling(layer),
        lambda: specnorm_torch.SpectralPenalty(nn.Sequential(layer)),
        lambda: specnorm_torch.certify_(layer, 1.0),
    ):
        with pytest.raises(specnorm.GeometryError, match="Doubled has a forward of its own"):
            call()


def test_layers_inside_parametrisations_are_not_rows() -> None:
    class Low(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(4, 4)

        def forward(self, weight: Any) -> Any:
            return self.mix(weight)

    model = nn.Sequential(nn.Linear(4, 3))
    torch.nn.utils.parametrize.register_parametrization(model[0], "weight", Low())
    row: Any = specnorm_torch.audit(model, (4,)).layers[0]
    assert row.name == "0.weight"
    assert row.lower <= float(torch.linalg.matrix_norm(model[0].weight.detach(), 2)) <= row.upper


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: torch.add(self.bias, nn.functional.linear(x, self.weight), alpha=10),
        lambda self, x: nn.functional.linear(x.view(torch.float64), self.weight.double()[:, :3]).float(),
        lambda self, x: nn.functional.linear(x, self.weight).view(torch.int32).view(torch.float32),
    ],
    ids=["scaled by alpha", "bits of another type", "bits after the product"],
)
def test_what_scales_or_reads_bits_is_refused(forward: Any) -> None:
    """``torch.add(c, x, alpha)`` scales x, and ``x.view(dtype)`` is no other order of the same numbers."""
    kind = type("Strange", (nn.Linear,), {"forward": forward})
    (row,) = specnorm_torch.audit(kind(6, 4), (6,)).layers
    assert row.status == "error"
    assert row.upper is None


# -- models of every kind of layer ------------------------------------------------------------------------------------
def test_audit_knows_sizes_and_geometry() -> None:
    model = network().train()
    report = specnorm_torch.audit(model, (3, 8, 8))
    assert model.training
    assert all(m.training for m in model.modules())
    rows: dict[str, Any] = {row.name: row for row in report.layers}
    assert list(rows) == [f"{j}.weight" for j in LAYERS]
    assert rows["5.weight"].spec.transposed
    assert rows["5.weight"].spec.input_shape == (4, 4)
    assert rows["3.weight"].spec.stride == (2, 2)
    assert not any(row.assumed or row.reason for row in report.layers)
    for j in LAYERS:
        row = rows[f"{j}.weight"]
        assert row.lower <= row.upper <= 1.002 * row.values["tn"]
    assert "5.weight" in str(report)
    assert report.to_dict()["summary"]["errors"] == 0


def test_audit_keeps_what_it_cannot_serve_as_a_row() -> None:
    class Net(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.used = torch.nn.Conv2d(2, 2, 3, padding=1)
            self.unused = torch.nn.Conv2d(2, 2, 3)

        def forward(self, x: Any) -> Any:
            return self.used(x)

    net = Net()
    report = specnorm_torch.audit(net, (2, 5, 5), methods=("tn", "power", "fft"))
    used, unused = report.layers
    assert "did not call" in str(unused.reason)
    assert unused.upper is not None, "what holds at every size is told"
    assert used.reason is None
    symbol = torch.fft.fft2(net.used.weight.detach().double(), (5, 5)).permute(2, 3, 0, 1)
    circular = float(torch.linalg.matrix_norm(symbol, 2).max())
    assert used.values["fft"] == pytest.approx(circular, rel=1e-6), "of the circular layer, as specnorm.audit answers"
    assert used.values["power"] == pytest.approx(used.lower, rel=2e-3)
    with pytest.raises(specnorm.MethodError, match="unknown"):
        specnorm_torch.audit(Net(), (2, 5, 5), methods=("nothing",))
