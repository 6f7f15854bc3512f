"""The audit itself: rows are true, name what they assume, and one bad layer loses no other."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.oracle import sigma_star
from specnorm_audit import audit
from specnorm_audit.report import Report
from specnorm_audit.rows import Row, least_upper

import specnorm
from audit import files
from specnorm.errors import BackendError, GeometryError, MethodError, ModelFileError
from specnorm.methods import METHODS

KEYS = "name kind shape stride dilation groups transposed padding_mode padding input_shape assumed lower upper "
KEYS += "status reason note"


def _rows(report: Report) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in report.to_dict()["layers"]}


# -- the numbers ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("size", [None, 6])
def test_every_method_has_a_column(mode: Any, size: int | None) -> None:
    """The audit's names are those of `METHODS`, and its columns those of `compare`, wherever both ask for one norm."""
    arrays = files.kernels()
    norms = [name for name, cls in METHODS.items() if cls.quantity == "norm"]
    methods = [name for name in norms if size is not None or name != "power"]
    rows = _rows(audit(arrays, input_shape=size, padding_mode=mode, methods=methods))
    for name, row in rows.items():
        assert row["status"] == "ok", row["reason"]
        sizes: Any = None if size is None else (size,) * (arrays[name].ndim - 2)
        spatial: Any = {"padding_mode": mode} if arrays[name].ndim > 2 else {}
        everything = specnorm.compare(arrays[name], **spatial, input_shape=sizes)
        for method in methods:
            assert row[method] is not None, (name, method)
            if method in everything:
                assert np.ravel(row[method]).tolist() == np.ravel(everything[method].value).tolist(), (name, method)


# -- what goes wrong -----------------------------------------------------------------------------------------------
def test_a_bad_layer_is_a_row_and_the_others_are_kept(tmp_path: Path) -> None:
    arrays: dict[str, Any] = files.kernels()
    arrays["nan.weight"] = np.full((2, 2, 3, 3), np.nan, dtype=np.float32)
    arrays["inf.weight"] = np.array([[1.0, np.inf]])
    arrays["empty.weight"] = np.zeros((0, 3))
    arrays["objects.weight"] = np.array([[None, 1]], dtype=object)
    for source in (arrays, files.save_npz(tmp_path / "model.npz", arrays)):
        rows = _rows(audit(source))
        bad = {name for name, row in rows.items() if row["status"] == "error"}
        assert bad == {"nan.weight", "inf.weight", "empty.weight", "objects.weight"}
        assert [name for name in bad if not (rows[name]["reason"] and rows[name]["lower"] is None)] == []
        assert "non-finite" in rows["nan.weight"]["reason"]
        assert [name for name in ("conv1.weight", "conv2.weight", "fc.weight") if not (rows[name]["upper"] > 0)] == []


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        ({"methods": ["tn", "nonsense"]}, MethodError, "reshaped"),
        ({"methods": ["power"]}, MethodError, "input_shape"), ({"layout": "OHWI"}, GeometryError, "HWIO"),
        ({"padding_mode": "mirror"}, GeometryError, "zeros"), ({"input_shape": 0}, GeometryError, "positive"),
        ({"input_shape": (4, -1)}, GeometryError, "positive"), ({"input_shape": 2.5}, GeometryError, "positive"),
        ({"backend": "nonsense"}, BackendError, "numpy"), ({"device": "cpu"}, BackendError, "backend"),
        ({"backend": "numpy", "device": "cuda:0"}, BackendError, "cpu"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_before_the_file_is_read(
    arguments: dict[str, Any], error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        audit("no/such/file", **arguments)


# -- the least of what was proven ----------------------------------------------------------------------------------
def test_the_upper_end_is_the_least_that_was_proven() -> None:
    """Where a bound is attained its column is exact, and the interval's tolerance only widens it."""
    rng = np.random.default_rng(4)
    left, right = (np.linalg.qr(rng.standard_normal((6, 6)))[0] for _ in range(2))
    kernel = (left @ np.diag([1.0, 1, 1, 0.9, 0.9, 0.9]) @ right)[:, :, None, None]
    kernels = {"a.weight": specnorm.rescale(kernel, 1.0)}
    report: Any = audit(kernels, methods=["tn", "f4", "grid", "power"], input_shape=4)
    (row,) = report.layers
    columns = [row.values[name] for name in ("tn", "f4", "grid")]
    assert row.upper == min(row.upper, *columns)
    assert row.upper <= 1 + 1e-12
    assert row.lower <= sigma_star(kernel).hi
    for word in ("estimate", "lower", "exact"):
        other = replace(row, values={"tn": 0.5}, promises={"tn": word}, upper=1.0)
        assert least_upper(other).upper == 1.0
    told = least_upper(replace(row, values={"f4": 0.5}, promises={"f4": "upper"}, upper=1.0))
    assert told.upper == 0.5


def test_a_layer_of_a_network_counts_by_the_least_that_was_proven(torch: Any) -> None:
    """A layer that is proven to be at 1 multiplies by 1, not by 1 and a tolerance."""
    plugin = pytest.importorskip("specnorm_torch")
    networks = pytest.importorskip("specnorm_networks")
    torch.manual_seed(0)
    model = torch.nn.Sequential(*[torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(3)]).double()
    plugin.rescale_(model, 1.0)
    assert networks.network_bound(model, (3, 8, 8), method=networks.Product()).upper <= 1 + 4e-5
    plain, with_f4 = (plugin.audit_module(model, (3, 6, 6), methods=names).layers for names in ((), ["f4"]))
    for bare, row in zip(plain, with_f4, strict=True):
        assert bare.upper == row.upper == min(row.upper, row.values["f4"]), "f4 counts, whether it is shown or not"
        assert (bare.values, bare.promises) == ({}, {})


# -- trees and tables ----------------------------------------------------------------------------------------------
def test_nested_trees_have_names_joined_by_dots() -> None:
    kernel = np.ones((3, 3, 2, 4), np.float32)
    tree: dict[str, Any] = {
        "params": {"conv": {"kernel": kernel, "bias": np.zeros(4)}},
        "heads": [{"w": np.eye(2)}, {"w": np.eye(3)}],
    }
    tree["state"] = {"w": SimpleNamespace(get_value=lambda: np.eye(4))}  # as variables of Flax have theirs
    report = audit(tree)
    assert [row.name for row in report.layers] == ["params.conv.kernel", "heads.0.w", "heads.1.w", "state.w"]
    assert report.layers[0].upper == audit({"a": kernel}, layout="HWIO").layers[0].upper
    with pytest.raises(ModelFileError, match="two of the mapping's arrays have the same name"):
        audit({"a.b": np.eye(2), "a": {"b": np.eye(2)}})


def test_a_kernel_that_is_a_list_is_named() -> None:
    """It was left out without a word."""
    report = audit({"a": np.eye(2), "b": np.ones((2, 2, 3)).tolist(), "betas": (0.9, 0.99)})
    assert [(row.name, row.shape, row.status) for row in report.layers[1:]] == [("b", (2, 2, 3), "error")]
    assert "it is a list of lists of numbers" in str(report.layers[1].reason)


def test_what_a_notebook_and_pandas_show(monkeypatch: pytest.MonkeyPatch) -> None:
    report = specnorm.audit({"<b>&.weight": np.eye(2), "a.weight": np.full((2, 2), np.nan)}, methods=["tn"])
    assert isinstance(report, specnorm.Report)
    assert isinstance(report.layers[0], Row)
    page = report._repr_html_()
    assert "<td>&lt;b&gt;&amp;.weight</td><td>2x2</td>" in page
    assert "<b>" not in page
    assert page.count("<tr>") == 3
    assert "a.weight: error: kernel of shape (2, 2)" in page
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    assert report.to_pandas() == [row.to_dict() for row in report.layers]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        report.to_pandas()
