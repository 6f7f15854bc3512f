"""Norms in a training log: right, harmless to the model, and in each trainer's own log."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import specnorm
from specnorm.errors import MethodError

torch = pytest.importorskip("torch")
import specnorm_torch  # noqa: E402 (after the skip)


def engine(name: str) -> Any:
    """A package that is large, and that no session brings: what is run where somebody has it."""
    if find_spec(name) is None:
        pytest.skip(f"{name} is not here: a trainer that no session brings")
    return import_module(name)


def small() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3, stride=2, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(27, 4)
    )


def enclosed(layer: Any) -> Any:
    geometry = specnorm_torch.geometry_of(layer)
    return specnorm.enclose(layer.weight.detach(), **geometry)


def right(found: dict[str, float], model: Any, names: tuple[str, str] = ("0", "3")) -> None:
    """Against bounds by another method."""
    product = 1.0
    for name in names:
        truth = enclosed(model.get_submodule(name))
        assert truth.lower <= found[f"upper/{name}"] <= 1.2 * truth.upper
        assert 0.9 * truth.lower <= found[f"norm/{name}"]
        product *= found[f"upper/{name}"]
    assert found["upper/product"] == pytest.approx(product)


def test_norms_bounds_and_product_follow_the_model() -> None:
    model = small()
    monitor = specnorm_torch.NormMonitor(model, every=5)
    assert monitor(3) == {}
    for step in (0, 5, 10):
        right(monitor(step), model)
        with torch.no_grad():
            for x in model.parameters():
                x.mul_(1.3).add_(0.1 * torch.randn_like(x))
    assert set(specnorm_torch.NormMonitor(model, select=lambda name, _: name == "0", upper=False)(0)) == {
        "norm/0", "norm/product"
    }  # fmt: skip


def test_the_model_is_as_before() -> None:
    model = small().train()
    specnorm_torch.spectral_norm(model[0])
    torch.nn.utils.parametrizations.spectral_norm(model[3])
    before = {name: x.clone() for name, x in model.state_dict().items()}
    found = specnorm_torch.NormMonitor(model)(0)
    assert found["norm/0"] == pytest.approx(1, rel=1e-3)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_refusals() -> None:
    with pytest.raises(MethodError, match="no convolution or linear layer"):
        specnorm_torch.NormMonitor(torch.nn.ReLU())
    with pytest.raises(MethodError, match="positive number of steps"):
        specnorm_torch.NormMonitor(small(), 0)


def test_in_lightning(tmp_path: Path) -> None:
    lightning = engine("pytorch_lightning")

    class Model(lightning.LightningModule):  # type: ignore[misc, name-defined]  # not installed where types are checked
        def __init__(self) -> None:
            super().__init__()
            self.inner = small()

        def training_step(self, batch: Any, _: int) -> Any:
            return self.inner(batch).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    model = Model()
    trainer = lightning.Trainer(
        max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
        callbacks=[specnorm_torch.NormMonitor(model, every=2).lightning()],
    )  # fmt: skip
    trainer.fit(model, torch.utils.data.DataLoader(torch.ones(8, 2, 6, 6), batch_size=2))
    found = {name: float(x) for name, x in trainer.callback_metrics.items()}
    right(found, model, ("inner.0", "inner.3"))


def test_in_transformers(tmp_path: Path) -> None:
    transformers = engine("transformers")
    engine("accelerate")

    class Model(torch.nn.Module):  # type: ignore[misc, name-defined]  # torch may be missing
        def __init__(self) -> None:
            super().__init__()
            self.inner = small()

        def forward(self, x: Any) -> Any:
            return {"loss": self.inner(x).square().mean()}

    model = Model()
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=4, report_to=[], use_cpu=True, logging_steps=100, disable_tqdm=True, save_strategy="no"
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=[{"x": torch.ones(2, 6, 6)}] * 8)
    trainer.add_callback(specnorm_torch.NormMonitor(model, every=2).transformers(trainer.log))
    trainer.train()
    logged = [row for row in trainer.state.log_history if "upper/product" in row]
    assert [row["step"] for row in logged] == [2, 4]
    right(logged[-1], model, ("inner.0", "inner.3"))


@pytest.mark.skipif(os.environ.get("KERAS_BACKEND") != "torch", reason="Keras on torch: set KERAS_BACKEND=torch")
def test_in_keras() -> None:
    keras = pytest.importorskip("keras", exc_type=ImportError)
    layers = [keras.layers.Conv2D(3, 3, strides=2), keras.layers.Flatten(), keras.layers.Dense(4)]
    model = keras.Sequential([keras.Input((7, 7, 2)), *layers])
    model.compile("sgd", "mse")
    monitor = specnorm_torch.NormMonitor(model, every=2)
    run = model.fit(torch.ones(8, 7, 7, 2), torch.ones(8, 4), batch_size=2, verbose=0, callbacks=[monitor.keras()])
    kernel = layers[0].kernel.value.detach()
    truth = specnorm.enclose(kernel, layout="HWIO", stride=2, padding_mode="zeros")
    (upper,) = run.history[f"upper/{layers[0].name}"]
    assert truth.lower <= upper <= 1.2 * truth.upper
    assert run.history["norm/product"][0] > 0
