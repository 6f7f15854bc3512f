"""What `audit` takes besides files: arrays of any library, live models of any framework, each layer by its path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from specnorm_audit import audit, cli

from audit import files
from specnorm.errors import GeometryError, ModelFileError


def test_arrays_that_the_default_backend_serves() -> None:
    strict: Any = pytest.importorskip("array_api_strict")
    arrays = files.kernels()
    report = audit({name: strict.asarray(x) for name, x in arrays.items()})
    plain = audit(arrays)
    assert [row.name for row in report.layers] == [row.name for row in plain.layers]
    for row, other in zip(report.layers, plain.layers, strict=True):
        assert row.status == "ok", row.reason
        assert row.upper == pytest.approx(other.upper, rel=2e-3)
    assert [name for name in report.environment if "array_api_strict" in name], report.environment


def test_a_library_without_plugin_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``array-api`` itself is no library: what is listed and the refusal say so."""
    path = files.save_npz(tmp_path / "m.npz", {"a.weight": np.eye(3)})
    assert cli.run(["audit", str(path), "--backend", "array-api"]) == 2
    assert "Name a library with a plugin" in capsys.readouterr().err
    assert cli.run(["audit", str(path), "--backend", "json"]) == 2
    assert "No backend is registered as 'json'" in capsys.readouterr().err
    assert cli.run(["backends"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("array-api")]
    assert "arrays of any other library" in line


# -- live models -----------------------------------------------------------------------------------------------------
def _largest(matrix: Any) -> float:
    return float(np.linalg.norm(np.asarray(matrix, dtype=np.float64).reshape(len(matrix), -1), 2))


def map_of(call: Any, shape: tuple[int, ...]) -> float:
    """The norm of a layer without bias at one input size, by the images of all basis vectors in its framework."""
    return _largest(call(np.eye(int(np.prod(shape)), dtype=np.float32).reshape(-1, *shape)))


def assert_rows(report: Any, true: dict[str, float]) -> None:
    assert [row.name for row in report.layers] == list(true)
    for row in report.layers:
        assert row.status == "ok", row.reason
        assert row.assumed == ()
        assert row.lower <= true[row.name] * (1 + 1e-5)
        assert true[row.name] * (1 - 1e-5) <= row.upper <= 1.002 * true[row.name]


def test_a_live_model_of_torch(torch: Any) -> None:
    """Layers by path, as eval() uses them, which the report says; the model, its modes and buffers are as before."""
    own: Any = pytest.importorskip("specnorm_torch")
    torch.manual_seed(0)
    nn, wrap = torch.nn, torch.nn.utils.parametrizations.spectral_norm
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False), nn.ReLU(),
        nn.ModuleDict({"a": wrap(nn.ConvTranspose2d(3, 2, 3, bias=False))}), nn.Embedding(4, 5), nn.Linear(4, 3),
        own.spectral_norm(nn.Conv2d(2, 3, 3, bias=False), bound=2.0), nn.Dropout(0.5),
    )  # fmt: skip
    before = {name: x.clone() for name, x in model.state_dict().items()}
    report = audit(model, input_shape=6)
    assert model.training
    assert [(name, x) for name, x in model.state_dict().items() if not torch.equal(x, before[name])] == []
    model.eval()
    with torch.no_grad():
        true = {
            "0.weight": map_of(lambda x: model[0](torch.tensor(x)), (2, 6, 6)),
            "2.a.weight": map_of(lambda x: model[2]["a"](torch.tensor(x)), (3, 6, 6)),
            "3.weight": _largest(model[3].weight),
            "4.weight": _largest(model[4].weight),
            "5.weight": map_of(lambda x: model[5:](torch.tensor(x)), (2, 6, 6)),
        }
    assert_rows(report, true)
    assert report.unmeasured == ()
    assert report.model == "Sequential"
    assert "Weights are those that the model uses at inference (in eval())" in str(report)
    assert report.summary["weights"] == "as at inference"
    assert "eval()" not in str(audit({"a.weight": np.ones((2, 2, 3, 3))}))


def test_a_live_model_of_flax(jax: Any, nnx: Any) -> None:
    wide: Any = {"use_bias": False, "rngs": nnx.Rngs(0)}

    class Model(nnx.Module):  # type: ignore[misc] # Flax, which may be missing, has no types here
        def __init__(self) -> None:
            self.first = nnx.Conv(2, 3, (3, 3), strides=2, **wide)
            self.inner = nnx.Sequential(nnx.Linear(4, 5, **wide), nnx.relu)
            self.normed = nnx.WeightNorm(nnx.Linear(3, 4, **wide), rngs=nnx.Rngs(0))
            self.power = nnx.SpectralNorm(nnx.Linear(3, 4, **wide), rngs=nnx.Rngs(0))
            self.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))

    model = Model()
    model.normed.scales[("kernel",)] = np.arange(1.0, 5.0, dtype=np.float32)
    report = audit(model, input_shape=5, backend="numpy")
    once = np.asarray(nnx.clone(model.power)(np.eye(3, dtype=np.float32), update_stats=False))
    again = np.asarray(nnx.clone(model.normed)(np.eye(3, dtype=np.float32)))
    assert_rows(report, {
        "first.kernel": map_of(model.first, (5, 5, 2)),
        "inner.layers.0.kernel": _largest(model.inner.layers[0].kernel[...]),
        "normed": _largest(again), "power": _largest(once),
    })  # fmt: skip
    stored = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))
    rows = {row.name: row for row in audit(stored).layers}
    for name, matrix in (("normed", again), ("power", once)):
        row = rows[f"{name}.layer_instance.kernel"]
        assert row.upper == pytest.approx(_largest(matrix), rel=1e-4)
        assert not set(row.assumed) & {"weight=as stored"}


def test_a_live_model_of_equinox(jax: Any) -> None:
    eqx: Any = pytest.importorskip("equinox")
    key = jax.random.key(0)
    plain: Any = {"use_bias": False, "key": key, "dtype": "float32"}
    conv = eqx.nn.Conv2d(2, 3, 3, stride=2, padding=1, **plain)
    normed = eqx.nn.WeightNorm(eqx.nn.Linear(3, 4, **plain))
    normed = eqx.tree_at(lambda x: x.g, normed, 2 * normed.g)
    model = eqx.nn.Sequential([conv, eqx.nn.Lambda(jax.nn.relu), normed])
    assert_rows(audit(model, input_shape=5, backend="numpy"), {
        "layers.0.weight": map_of(jax.vmap(conv), (2, 5, 5)),
        "layers.2": map_of(jax.vmap(normed), (3,)),
    })  # fmt: skip


def test_vectors_of_equinox_are_in_the_model_or_in_its_state(jax: Any) -> None:
    """`make_with_state` moves them beside it; the state counts as it is given, not as it was then."""
    eqx: Any = pytest.importorskip("equinox")

    def build() -> Any:
        conv = eqx.nn.Conv2d(2, 3, 3, padding=1, use_bias=False, key=jax.random.key(0), dtype="float32")
        return eqx.nn.SpectralNorm(conv, "weight", key=jax.random.key(1))

    model, state = eqx.nn.make_with_state(build)()
    called = eqx.nn.inference_mode(model)
    for given in (build(), None, None):
        report = audit((called, state) if given is None else given, input_shape=5, backend="numpy")
        true = map_of(jax.vmap(lambda x, used=state: called(x, used)[0]), (2, 5, 5))
        assert report.model == "SpectralNorm"
        assert_rows(report, {"SpectralNorm": true})
        if given is None:
            _, state = model(jax.numpy.ones((2, 5, 5), "float32"), state)
    (row,) = audit(called, input_shape=(2, 5, 5)).layers
    assert row.upper is None
    assert "Give both to audit, as (model, state)" in str(row.reason)


def test_a_split_model_of_flax(nnx: Any) -> None:
    linear = nnx.Linear(3, 4, use_bias=False, rngs=nnx.Rngs(0))
    matrix = np.asarray(linear.kernel[...])
    assert_rows(audit(nnx.split(linear), backend="numpy"), {"kernel": _largest(matrix)})


def test_a_live_model_of_keras(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")  # where it is not loaded yet
    pytest.importorskip("jax")
    keras: Any = pytest.importorskip("keras")
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((6, 6, 2)), layers.Conv2D(3, 3, 2, padding="same", use_bias=False, name="a"),
        layers.SpectralNormalization(layers.Conv2D(2, 2, use_bias=False, name="b"), name="sn"),
        layers.DepthwiseConv2D(2, padding="same", use_bias=False, name="c"),
        layers.SeparableConv2D(3, 2, padding="same", use_bias=False, name="d"), layers.Flatten(),
        layers.Dense(2, name="e"),
    ])  # fmt: skip
    model.compile("adam", "mse")
    report = audit(model, input_shape=4, backend="numpy")
    assert [row.status for row in report.layers] == ["ok"] * 5
    assert report.unmeasured == ()
    names = ["a.kernel", "sn.b.kernel", "c.kernel", "d", "e.kernel"]
    true = [
        map_of(model.get_layer("a"), (4, 4, 2)), map_of(model.get_layer("sn").layer, (4, 4, 3)),
        map_of(model.get_layer("c"), (4, 4, 2)), map_of(model.get_layer("d"), (4, 4, 2)),
        _largest(np.asarray(model.get_layer("e").kernel)),
    ]  # fmt: skip
    assert_rows(report, dict(zip(names, true, strict=True)))
    # Its files have the same names and shapes.
    live = {row.name: row.shape for row in report.layers}
    for suffix in ("keras", "h5"):
        model.save(tmp_path / f"m.{suffix}")
        assert {row.name: row.shape for row in audit(tmp_path / f"m.{suffix}").layers} == live


# -- one size for all ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("sizes", "code", "words"),
    [
        ("3x8x8", 0, "for the input shape 8x8."), ("8x8x3", 0, "for the input shape 8x8."),
        ("1x3x8x8", 2, "such as 8x8."), ("7x8x9", 2, "such as 8x9."),
    ],
)  # fmt: skip
def test_sizes_with_channels_are_understood_or_refused_once(
    sizes: str, code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files.save_npz(tmp_path / "m.npz", {"a.weight": np.ones((4, 3, 3, 3)), "b.weight": np.ones((2, 4, 3, 3))})
    assert cli.run(["audit", str(path), "--input-shape", sizes]) == code
    out, err = capsys.readouterr()
    assert words in (err if code else out)
    assert not (code and "error" in out)
    assert err.count("spatial sizes alone") == bool(code)


@pytest.mark.parametrize("name", ["psf", "kernel", "arr_0"])
def test_a_blur_saved_as_a_matrix_is_refused_with_advice(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its norm on images of 64 x 64 is 1; 0.14 is that of the 15 x 15 matrix, whatever the size."""
    profile = np.exp(-(np.arange(-7, 8) ** 2) / 8.0)
    psf = np.outer(profile, profile) / np.outer(profile, profile).sum()
    path = files.save_npz(tmp_path / "m.npz", {name: psf})
    assert cli.run(["audit", str(path), "--input-shape", "64", "--fail-above", "0.5"]) == 2
    assert "psf[None, None]" in capsys.readouterr().err
    with pytest.raises(GeometryError, match=r"psf\[None, None\]"):
        audit({name: psf}, input_shape=(64, 64))
    with pytest.raises(GeometryError, match=r"kernel\[:, None\]"):
        audit({name: np.stack([psf, psf])}, input_shape=(64, 64))
    found = audit({name: psf[None, None]}, input_shape=64).layers[0].upper
    assert found is not None
    assert found == pytest.approx(abs(np.fft.fft2(psf, (64, 64))).max(), rel=2e-2)
    assert audit({"fc.weight": psf}, input_shape=64).layers[0].status == "ok"


def test_tensors_without_values_are_named(torch: Any) -> None:
    with torch.device("meta"):
        plain = torch.nn.Conv2d(2, 3, 3)
        normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 3))
    for state in (plain.state_dict(), normed.state_dict()):
        (row,) = audit(state).layers
        assert "'meta'" in str(row.reason)


def test_a_torch_module_with_a_forward_of_its_own_is_sent_to_the_call_that_runs_it(torch: Any) -> None:

    class Scaled(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3, 2))

    with pytest.raises(ModelFileError, match=r"specnorm_torch\.audit_module"):
        audit(Scaled())
    report = audit(torch.nn.Sequential(torch.nn.Linear(2, 2), Scaled()))
    assert "audit_module" in str(report.unmeasured[0].reason)
