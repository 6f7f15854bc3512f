"""The examples that are programs: each runs, small and on made-up data, and keeps its own promises."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from audit.files import read_here
from specnorm_audit import cli

pytestmark = pytest.mark.nightly
EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


def example(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_four_ways_to_train(torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert [run for run in runs if f"| {run.arm} | {100 * run.accuracy:.1f} |" not in page] == []
    assert (tmp_path / "norms.csv").read_text(encoding="utf-8").startswith("layer,baseline,Miyato,")
    if importlib.util.find_spec("matplotlib"):
        assert {path.name for path in tmp_path.glob("*.svg")} == {"accuracy.svg", "norms.svg"}


def test_curvature(torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        assert max(row["curved"]) > 0
    assert "| tanh | 0.01 |" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_what_is_certified_of_the_stored_networks(torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images are the program's, the command gives the stored rows, and no safe label falls to another attack."""
    onnx = pytest.importorskip("onnx", exc_type=ImportError)
    pytest.importorskip("click")
    program = example("train_certified", monkeypatch)
    sets = {file: dict(np.load(program.FOLDER / file)) for file in program.COUNTS}
    for file, count in program.COUNTS.items():
        for found, made in zip(sets[file].values(), program.images(count, program.SEEDS["test"]), strict=True):
            np.testing.assert_array_equal(found, made)
    page = (program.FOLDER / "README.md").read_text("utf-8")
    for name in ("dense", "conv"):
        told = json.loads((program.FOLDER / f"{name}.json").read_text("utf-8"))
        x, y = sets[told["data"]].values()
        inputs, labels, n = torch.from_numpy(x).float(), torch.from_numpy(y), len(y)
        model = program.network(name)
        weights = onnx.load(program.FOLDER / f"{name}.onnx").graph.initializer
        model.load_state_dict({w.name: torch.from_numpy(onnx.numpy_helper.to_array(w).copy()) for w in weights})
        predicted = [row["predicted"] for row in told["samples"]]
        assert model(inputs).argmax(1).tolist() == predicted
        states = np.array([row["status"][-1] for row in told["samples"]])
        moved = program.attacked(model, inputs, labels, told["radii"][-1]["radius"], 8)
        right = (model(moved).argmax(1) == labels).numpy()
        assert right[states == "safe"].all()
        assert right[states == "unsafe"].mean() < 0.5  # the attack is one
        for each in told["radii"]:
            left = 100 - 100 * each["unsafe"] / n
            cells = f"| {name} | {n} | {each['radius']:g} | {100 * sum(predicted == y) / n:g} % | {left:g} % | "
            (line,) = (line for line in page.splitlines() if line.startswith(cells))
            assert f"→ {100 * each['safe'] / n:g} |" in line
    rows = [0, 1, 2]
    read_here(monkeypatch)
    np.savez(tmp_path / "few.npz", **{key: of[rows] for key, of in sets["images-200.npz"].items()})
    words = [str(program.FOLDER / "dense.onnx"), str(tmp_path / "few.npz"), "--radius", "0.5", "--radius", "1"]
    output = tmp_path / "few.json"
    assert cli.run(["accuracy", *words, "--input-range", "0", "1", "--format", "json", "--output", str(output)]) == 0
    told = json.loads((program.FOLDER / "dense.json").read_text("utf-8"))
    for found, row in zip(json.loads(output.read_text("utf-8"))["samples"], rows, strict=True):
        expected = told["samples"][row]
        assert found["status"] == expected["status"]
        assert found["margin"] == pytest.approx(expected["margin"], rel=1e-9)
        assert found["radius"] == pytest.approx(expected["radius"], rel=1e-3)
