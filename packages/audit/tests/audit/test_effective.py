"""A file that stores what weights are computed from is audited as the model uses it in eval(): torch is the oracle."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from specnorm_audit import audit
from specnorm_audit.accounts.conventions.recipe import AS_STORED

from audit import files
from audit.unknown_layouts import norm
from specnorm.methods import TensorNorm

RANDOM = np.random.RandomState(0)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, of its older functions
        yield


def assert_of(report: Any, true: list[float]) -> None:
    """Each row is close to the truth, above it with its upper end."""
    assert len(report.layers) == len(true)
    for row, exact in zip(report.layers, true, strict=True):
        assert row.status == "ok", row.reason
        assert row.lower <= 1.003 * exact
        assert 0.9999 * exact <= row.upper <= 1.015 * exact, (row.name, row.upper, exact)


def _layers(torch: Any) -> list[Callable[[], Any]]:
    nn = torch.nn
    return [
        lambda: nn.Linear(5, 3), lambda: nn.Linear(4, 4), lambda: nn.Conv1d(3, 4, 5), lambda: nn.Conv2d(3, 5, 3),
        lambda: nn.Conv2d(4, 4, 3), lambda: nn.ConvTranspose1d(3, 4, 4), lambda: nn.ConvTranspose2d(4, 4, 2),
        lambda: nn.Conv3d(2, 3, 2),
    ]  # fmt: skip


def _ways(torch: Any) -> dict[str, Callable[[Any], Any]]:
    utils, prune = torch.nn.utils, pytest.importorskip("torch.nn.utils.prune")
    return {
        "old spectral": utils.spectral_norm, "new spectral": utils.parametrizations.spectral_norm,
        "old weight": utils.weight_norm, "new weight": utils.parametrizations.weight_norm,
        "old weight, one length": lambda layer: utils.weight_norm(layer, dim=None),
        "new weight, axis 1": lambda layer: utils.parametrizations.weight_norm(layer, dim=1),
        "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    }  # fmt: skip


def _input(torch: Any, layer: Any) -> Any:
    channels = getattr(layer, "in_channels", None)
    return torch.randn(2, layer.in_features) if channels is None else torch.randn(2, channels, *[7] * len(layer.stride))


WAYS = (
    "old spectral", "new spectral", "old weight", "new weight", "old weight, one length", "new weight, axis 1", "pruned"
)  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(
    kind=st.integers(0, 7),
    way=st.sampled_from(WAYS),
    scale=st.sampled_from([1.0, 0.5, 2.0]),
    spread=st.sampled_from([1.0, 1e-6, 1e6]),
    seed=st.integers(0, 99),
)
def test_the_weight_is_that_of_eval(torch: Any, kind: int, way: str, scale: float, spread: float, seed: int) -> None:
    """Whatever vectors and lengths are stored: u and v times a half (averaged buffers) are a factor of 4."""
    torch.manual_seed(seed)
    build = _layers(torch)[kind]
    layer = build()
    layer.weight.data *= spread
    layer = _ways(torch)[way](layer)
    for _ in range(5):
        layer(_input(torch, layer))
    state = {k: v * scale if k.endswith(("_u", "_v", "_g")) and "weight_v" not in k else v
             for k, v in layer.state_dict().items()}  # fmt: skip
    twin = _ways(torch)[way](build())
    twin.load_state_dict(state)
    twin.eval()(_input(torch, twin))
    exact = norm(twin.weight.detach())
    report = audit({f"net.{name}": x for name, x in state.items()}, rtol=1e-2)
    assert [row.name for row in report.layers] == ["net.weight"]
    assert_of(report, [exact])
    assert [word for word in report.layers[0].assumed if word.startswith("weight=") and word != AS_STORED], (
        report.layers[0].assumed
    )


# -- what the file does not determine --------------------------------------------------------------------------------
def _drawn(*shape: int) -> NDArray[np.float32]:
    return RANDOM.standard_normal(shape).astype(np.float32)


def test_matrices_of_both_directions_are_told_apart(torch: Any) -> None:
    """weight_ih_l0_reverse stands beside weight_ih_l0_orig, and is another weight."""
    cell = torch.nn.LSTM(3, 4, bidirectional=True)
    for name in ("weight_ih_l0", "weight_ih_l0_reverse", "weight_hh_l0"):
        cell = torch.nn.utils.spectral_norm(cell, name)
    rows = {row.name: row for row in audit(cell.state_dict()).layers}
    assert set(rows) == {f"weight_{kind}_l0{end}" for kind in ("ih", "hh") for end in ("", "_reverse")}
    assert {row.status for row in rows.values()} == {"ok"}


# -- Flax ------------------------------------------------------------------------------------------------------------
def test_weights_of_flax_wrappers_are_those_that_the_model_uses(jax: Any) -> None:
    """The truth is the model's own answer: each layer is linear up to its bias, and is asked for its matrix."""
    linen: Any = pytest.importorskip("flax.linen")

    class Block(linen.Module):  # type: ignore[misc] # Flax, which may be missing, has no types here
        @linen.compact  # type: ignore[untyped-decorator]
        def __call__(self, x: Any, which: str, train: bool = False) -> Any:
            y = linen.SpectralNorm(linen.Dense(4, use_bias=False))(x, update_stats=train)
            z = linen.WeightNorm(linen.Dense(5, use_bias=False))(x)
            return {"y": y, "z": z}[which]

    class Model(linen.Module):  # type: ignore[misc]
        @linen.compact  # type: ignore[untyped-decorator]
        def __call__(self, x: Any, which: str, train: bool = False) -> Any:
            return Block(name="block")(x, which, train)

    model, x = Model(), np.eye(3, dtype=np.float32)
    variables = model.init(jax.random.key(0), x, "y")
    for _ in range(3):
        _, moved = model.apply(variables, x, "y", True, mutable=["batch_stats"])
        variables = {**variables, **moved}
    scale = variables["params"]["block"]["WeightNorm_0"]["Dense_1/kernel/scale"]
    variables["params"]["block"]["WeightNorm_0"]["Dense_1/kernel/scale"] = scale * np.arange(1.0, 6.0, dtype=np.float32)
    true = [float(np.linalg.norm(np.asarray(model.apply(variables, x, which)), 2)) for which in "yz"]
    report = audit(jax.tree.map(np.asarray, variables))
    assert [row.name for row in report.layers] == ["params.block.Dense_0.kernel", "params.block.Dense_1.kernel"]
    assert_of(report, true)
    assert [row.assumed[-1] for row in report.layers] == ["kernel=W/(u·Wv) of n_steps=1", "kernel=W/|W|·scale"]


# -- this library's own ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", [{}, {"bound": 3.0}, {"bound": 50.0, "only_shrink": True}, {"method": TensorNorm()}])
def test_the_weight_of_our_constraint_is_that_of_eval(torch: Any, how: dict[str, Any], tmp_path: Path) -> None:
    """State, bound and geometry stand in the file: the weight is the module's own in eval(), of strided layers too."""
    safetensors: Any = pytest.importorskip("safetensors.torch")
    own: Any = pytest.importorskip("specnorm_torch")
    torch.manual_seed(0)
    nn, true = torch.nn, []
    model = nn.Sequential(
        own.spectral_norm(nn.Conv2d(2, 4, 3), **how), own.spectral_norm(nn.Conv2d(4, 6, 3, stride=2, groups=2), **how),
        nn.Flatten(), own.spectral_norm(nn.Linear(54, 3), **how),
    )  # fmt: skip
    for _ in range(3):
        model(torch.randn(2, 2, 9, 9))
    model.eval()
    torch.save(model.state_dict(), tmp_path / "m.pt")
    weights = [model[at].weight.detach() for at in (0, 1, 3)]
    plain = {f"{at}.weight": weight for at, weight in zip((0, 1, 3), weights, strict=True)}
    geometry: dict[str, dict[str, Any]] = {
        "0.weight": {"padding": "valid"},
        "1.weight": {"padding": "valid", "stride": 2, "groups": 2},
    }
    true = [row.upper for row in audit(plain, geometry=geometry).layers]
    report = audit(tmp_path / "m.pt")
    safetensors.save_file(model.state_dict(), tmp_path / "m.safetensors")
    assert audit(tmp_path / "m.safetensors").layers == report.layers
    assert [row.name for row in report.layers] == list(plain)
    assert [row.upper for row in report.layers] == pytest.approx(true, rel=2e-3)
    assert [row for row in report.layers if row.assumed != ("weight=W·bound/norm as in eval()",)] == []
    mean = {name: x / 3 + x / 3 + x / 3 for name, x in model.state_dict().items()}
    safetensors.save_file(mean, tmp_path / "mean.safetensors")
    assert [row.upper for row in audit(tmp_path / "mean.safetensors").layers] == pytest.approx(true, rel=2e-3)
    model.load_state_dict(torch.load(tmp_path / "m.pt"))
    older = {name: x for name, x in model.state_dict().items() if not name.endswith("_extra_state")}
    model.load_state_dict(older)


def test_a_constraint_that_does_not_say_its_bound_is_not_determined(tmp_path: Path) -> None:
    base = "c.parametrizations.weight"
    old = {f"{base}.original": _drawn(4, 3), f"{base}.0.vectors": _drawn(1, 7), f"{base}.0._extra_state": np.array(3)}
    (row,) = audit(files.save_npz(tmp_path / "m.npz", old)).layers
    assert "save it again" in str(row.reason)
    method = {"name": "tn", "starts": 10**9}
    rest: dict[str, Any] = {"bound": 1.0, "eps": 0.0, "only_shrink": False, "dim": None, "geometry": {}, "sweeps": 1}
    for content in (b'{"bound": 1, "geometry": [', json.dumps({**rest, "method": method}).encode()):
        told = np.frombuffer(content, np.uint8)
        (row,) = audit(files.save_npz(tmp_path / "m.npz", {**old, f"{base}.0._extra_state": told})).layers
        assert "damaged" in str(row.reason)


def test_a_file_of_torchs_is_in_torchs_order(torch: Any, tmp_path: Path) -> None:
    """Whatever its kernels are called (ISTA-Net's checkpoint): zip and legacy, and not read both ways."""
    torch.manual_seed(0)
    state = {f"phase.{i}.conv{j}_forward": torch.randn(8, 8, 3, 3) for i in range(2) for j in range(2)}
    for new in (True, False):
        torch.save(state, tmp_path / "net.pkl", _use_new_zipfile_serialization=new)
        report = audit(tmp_path / "net.pkl")
        assert_of(report, [norm(x) for x in state.values()])
        assert [row for row in report.layers if "layout=OIHW" not in row.assumed] == []


def test_an_open_layout_names_the_option(tmp_path: Path) -> None:
    path = files.save_npz(tmp_path / "m.npz", {"k": _drawn(3, 3, 3, 3)})
    assert "until you state the layout" in str(audit(path))
    assert "until you state the layout" not in str(audit(path, layout="HWIO"))
