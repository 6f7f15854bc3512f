"""The examples that are programs: each runs, small and on made-up data, and keeps its own promises."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


def example(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_four_ways_to_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    program = example("train_lipschitz", monkeypatch)
    try:
        runs = program.main(["--quick", "--output", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    assert [run.arm for run in runs] == ["baseline", "Miyato", "TN penalty", "TN constraint"]
    for run in runs:
        # The attack and the certificate look at the same images here.
        for radius in program.RADII:
            assert run.certified[radius] <= run.certified_together[radius] <= run.attacked[radius] <= run.accuracy
        assert run.losses[-1] < run.losses[0]
        assert run.together < run.lipschitz
    free, reshaped, _, constrained = runs
    assert free.together < 0.6 * free.lipschitz
    assert max(constrained.norms.values()) <= 1
    assert constrained.lipschitz <= 1.000001
    assert max(reshaped.norms.values()) > 1.2
    assert free.lipschitz > constrained.lipschitz
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert all(f"| {run.arm} | {100 * run.accuracy:.1f} |" in page for run in runs)
    if importlib.util.find_spec("matplotlib"):
        assert {path.name for path in tmp_path.glob("*.svg")} == {"accuracy.svg", "norms.svg", "loss.svg"}


def test_its_lipschitz_constant_is_close_and_never_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive weights and pixels: no unit is off, so that the network is linear and its norm is nearly attained."""
    torch = pytest.importorskip("torch")
    program = example("train_lipschitz", monkeypatch)
    torch.manual_seed(0)
    net = program.Net(4)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.abs_()
    constant = program.lipschitz(program.proven_norms(net))
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x)[0], torch.rand(1, 1, 28, 28))
    norm = float(torch.linalg.matrix_norm(jacobian.reshape(10, -1), 2))
    assert 0.3 * constant < norm <= constant


def test_curvature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    example("train_lipschitz", monkeypatch)
    program = example("certify_curvature", monkeypatch)
    try:
        rows = program.main(["--quick", "--output", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    assert [row["activation"] for row in rows] == ["sigmoid"] * 2 + ["tanh"] * 2 + ["softplus"] * 2
    for row in rows:
        # Wrong labels are certified by neither; of right ones both say something.
        assert [x > 0 for x in row["curved"]] == [x > 0 for x in row["slope"]]
        assert any(x > 0 for x in row["curved"])
    assert "| tanh | 0.01 |" in (tmp_path / "curvature.md").read_text(encoding="utf-8")


def test_curvature_certifies_no_label_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of nearly the certified length down the margin leave it positive."""
    torch = pytest.importorskip("torch")
    program = example("train_lipschitz", monkeypatch)
    data = program.made_up(20, seed=2)
    shallow = example("certify_curvature", monkeypatch)
    torch.manual_seed(0)
    net = shallow.Shallow(2, "tanh")
    labels = net(data.images).argmax(1)
    data = program.Data(data.images, labels)
    norm = shallow.specnorm.enclose(net.conv.weight.detach(), stride=2).upper
    for found in shallow.radii(net, norm, data):
        assert min(found) > 0
        images = data.images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(program.margins(net(images), labels).sum(), images)
        step = torch.tensor(found)[:, None, None, None] * 0.999 * gradient / program.lengths(gradient)
        assert (program.margins(net(images - step), labels) > 0).all()
