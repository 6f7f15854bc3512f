"""Names and shapes under which a kernel of norm 900 was not seen by a gate. None of them passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("click")
pytest.importorskip("jinja2")

from specnorm_audit import cli
from specnorm_audit.report import Report, gate_layers, verdict
from specnorm_audit.rows import Row

from audit import files

_SMALL = np.eye(5, dtype=np.float32) / 2


def _large(*shape: int) -> Any:
    """One entry of 900: the norm of the layer, however the axes are read."""
    kernel = np.zeros(shape, dtype=np.float32)
    kernel.reshape(-1)[0] = 900
    return kernel


def _ones(*shape: int) -> Any:
    return np.ones(shape, dtype=np.float32) / 100


_STRUCTURE = np.zeros((), dtype=[("w", "<f4", (4, 4, 3, 3))])
HIDDEN: list[tuple[str, Any, dict[str, Any]]] = [
    *((name, _large(4, 4, 3, 3), {}) for name in (
        "conv.weight_u", "conv.weight_v", "conv.weight_g", "conv._u", "conv._v", "conv.bias", "conv.bias_weight",
        "conv.weight_bias", "conv.weight_mask", "a.original0", "a.parametrizations.weight.0.base", "optimizer.weight",
        "optim.conv.weight", "optimizer_states.0.weight", "lr_scheduler.weight", "state.0.exp_avg", "exp_avg_sq.weight",
        "state.0.max_exp_avg_sq", "state.0.momentum_buffer", "state.0.square_avg", "state.0.exp_inf", "bn.running_mean",
    )),
    *((name, _large(4, 4), {}) for name in (
        "conv.sn_u", "sn/vector_u:0", "attention/query/bias:0", "bn.running_var", "bn/moving_mean:0", "moving_variance",
        "num_batches_tracked",
    )),
    ("theta", _large(4, 4), {}),
    ("text_projection", _large(4, 4), {}),
    ("ok.pos_embed", _large(4, 4), {}),
    ("conv.bias", _large(1, 4, 1, 1), {}),
    ("conv.weight_u", _large(1, 4), {"conv.weight": _ones(4, 2, 3)}),
    ("conv.weight_u", _large(4, 2, 3), {"conv.weight": _ones(4, 2, 3)}),
    ("c.weight_orig", _large(4, 4, 3), {"c.weight": _ones(4)}),
    ("c.weight_orig", _large(4, 4, 3), {"c.weight": _ones(4, 4)}),
    ("c.weight_orig", _large(4, 4, 3), {"c.weight": np.ones((4, 4, 3), dtype=np.int64)}),
    ("a.original0", _large(4, 4, 3), {"a.original1": _ones(4)}),
    ("a.original0", _large(4, 4, 3), {"a.original1": _ones(4, 4, 3)}),
    ("a.weight_g", _large(4, 4, 3), {"a.weight_v": _ones(4)}),
    ("six", _large(2, 2, 1, 1, 3, 3), {}),
    ("seven.weight", _large(2, 2, 1, 1, 1, 3, 3), {}),
    ("complex.weight", _large(4, 4).astype(np.complex64), {}),
    ("object.weight", np.array({"w": _large(4, 4)}, dtype=object), {}),
    ("structure.weight", _STRUCTURE, {}),
    ("overflow.weight", np.full((4, 4), 1e308), {}),
]  # fmt: skip


@pytest.fixture(params=range(len(HIDDEN)), ids=[f"{at}-{name}" for at, (name, _, _) in enumerate(HIDDEN)])
def hidden(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A file with a harmless layer, and the name of what it hides."""
    name, kernel, beside = HIDDEN[request.param]
    return files.save_npz(tmp_path / "model.npz", {"ok.weight": _SMALL, **beside, name: kernel}), name


def test_a_hidden_kernel_passes_no_gate_and_is_named(
    hidden: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It fails, or is not decided; the gate names the array, unless ``--layers`` left it out."""
    path, name = hidden
    assert cli.run(["audit", str(path), "--fail-above", "1"]) in (1, 2)
    err = capsys.readouterr().err
    assert "gate failed" in err or "gate not decided" in err
    assert name.partition(":")[0] in err
    if not name.startswith("ok"):
        assert cli.run(["audit", str(path), "--fail-above", "1", "--layers", "ok*"]) == 0


@pytest.mark.parametrize("ends", [(np.nan, 0.5), (0.5, np.nan), (np.nan, np.nan), (0.5, np.inf), (-np.inf, 0.5)])
def test_what_is_no_number_passes_no_gate(ends: tuple[float, float]) -> None:
    row = Row("a", "linear", (2, 2), None, lower=ends[0], upper=ends[1])
    report = Report("0", None, (row,), ())
    gate = gate_layers(report, 1.0)
    assert gate.outcome == "undecided"
    assert "its bounds are no numbers" in gate.places[0]
    assert verdict(report) == "None of 1 layer was measured."


@pytest.mark.parametrize(("dtype", "entry", "largest"), [("float64", 1e308, "1.8e+308"), ("float32", 1e38, "3.4e+38")])
def test_a_bound_that_overflows_says_so_and_fails(
    dtype: str, entry: float, largest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel = np.full((4, 4, 3, 3), entry, dtype)
    path = files.save_npz(tmp_path / "m.npz", {"a.weight": kernel, "b.weight": np.eye(4, dtype=dtype)})
    assert cli.run(["audit", str(path), "--fail-above", str(entry)]) == 1
    out, err = capsys.readouterr()
    assert "at most -" not in out
    assert "1 of 2 layers proven: the largest norm of these is at most 1" in out  # not of all, as it had said
    assert "the largest |" not in out
    assert f"a.weight: error: no bound of its norm is below {largest}, the largest number of {dtype}" in out
    assert "a.weight: lower = " in err
