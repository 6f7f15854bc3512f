"""Torch's private names may be missing: layers are measured without them, and training takes another way."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]


def weights_after_two_steps(constrained: bool) -> list[float]:
    from specnorm_torch import SpectralBall, spectral_norm

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Conv2d(3, 2, 3))
    model = spectral_norm(model) if constrained else model
    optimizer = torch.optim.SGD(model.parameters(), 0.1) if constrained else SpectralBall(model, 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(1, 2, 8, 8)).square().sum().backward()
        optimizer.step()
    return [x.double().sum().item() for x in model.parameters()]


@pytest.mark.parametrize("constrained", [True, False], ids=["constraint", "ball"])
def test_training_without_torchs_private_names_gives_the_same_weights(
    monkeypatch: pytest.MonkeyPatch, constrained: bool
) -> None:
    from specnorm_train.torch import private

    expected = weights_after_two_steps(constrained)
    public = SimpleNamespace(func=torch.func, zeros=torch.zeros, _C=SimpleNamespace())
    monkeypatch.setattr(private, "torch", public)
    assert weights_after_two_steps(constrained) == expected


def test_private_names_of_torch_are_in_one_file() -> None:
    uses = ("torch._f", "torch._C", "_functorch")
    folders = (ROOT / "plugins", ROOT / "packages" / "train", ROOT / "packages" / "networks")
    files = [path for folder in folders for path in folder.glob("specnorm_*/**/*.py")]
    code = {path: [line.partition("#")[0] for line in path.read_text("utf-8").splitlines()] for path in files}
    found = {path.name for path, lines in code.items() if any(use in line for line in lines for use in uses)}
    assert found == {"private.py"}
