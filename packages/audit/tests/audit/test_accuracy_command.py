"""`specnorm accuracy`: no row says more than the Python function does, or than the file's execution bears out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", exc_type=ImportError)
pytest.importorskip("click")
import specnorm_networks as networks  # noqa: E402
from helpers.onnx_models import drawing, node, saved, single, values_of  # noqa: E402
from specnorm_audit import cli  # noqa: E402
from specnorm_audit.commands import TROUBLE  # noqa: E402

from audit.files import read_here  # noqa: E402

Array = Any
Run = Callable[..., dict[str, Any]]
SIZES = (2, 2, 4)
"""Channels, height and width of a sample: all needed, to notice axes that are exchanged."""
WRONG = 3
"""The sample whose label is wrong."""
RADII = (0.5, 0.05, 0.2)


def classifier(shape: Any, path: Path) -> Path:
    draw = drawing(np.random.RandomState(0))
    nodes = [
        node("Conv", "x", "k", out="a", kernel_shape=[2, 2], strides=[2, 2]), node("Relu", "a", out="b"),
        node("Flatten", "b", out="c"), node("Gemm", "c", "w", "bias", transB=1),
    ]  # fmt: skip
    return saved(single(nodes, shape, {"k": draw(4, 2, 2, 2), "w": draw(3, 8), "bias": draw(3)}), path)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return classifier(("N", *SIZES), tmp_path / "net.onnx")


@pytest.fixture
def arrays(net: Path) -> dict[str, Array]:
    x = np.random.default_rng(1).uniform(0, 1, (4, *SIZES)).astype(np.float32)
    y = logits_of(net, x).argmax(axis=1)
    y[WRONG] = (y[WRONG] + 1) % 3
    return {"x": x, "y": y}


@pytest.fixture
def data(arrays: dict[str, Array], tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a process for the file, whose start takes half a second."""
    read_here(monkeypatch)


@pytest.fixture
def run(net: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def called(*more: str, code: int = 0) -> dict[str, Any]:
        radii = [word for radius in RADII for word in ("--radius", str(radius))]
        assert cli.run(["accuracy", str(net), str(data), *radii, "--format", "json", *more]) == code
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return called


def logits_of(net: Path, x: Array) -> Array:
    return values_of(onnx.load(str(net)), x.astype(np.float32))[0]


def said(capsys: pytest.CaptureFixture[str], *arguments: Any, code: int = TROUBLE) -> str:
    """The message of a call that fails, in one line; nothing but it is printed."""
    assert cli.run(["accuracy", *map(str, arguments)]) == code
    out, err = capsys.readouterr()
    assert not out
    assert "Traceback" not in err
    return " ".join(err.split())


@pytest.mark.sampled("0.1")
@pytest.mark.parametrize(("between", "margin"), [(None, 0.0), ((0.0, 1.0), 0.0), (None, 0.1)])
def test_rows_are_the_python_functions(
    run: Run, net: Path, arrays: dict[str, Array], between: tuple[float, float] | None, margin: float
) -> None:
    """In the process that reads the file; `networks/test_accuracy` attacks what the function certifies."""
    options = [] if between is None else ["--input-range", *map(str, between)]
    found = run(*options, *(["--margin", str(margin)] if margin else []))
    graph = networks.network_graph(net, {"x": (1, *SIZES)})
    graph = graph if between is None else networks.within(graph, *between)
    same = networks.certified_accuracy(graph, arrays["x"], arrays["y"], sorted(RADII), local=True, margin=margin)
    assert [row["radius"] for row in found["samples"]] == same.radius.tolist()
    assert [row["status"] for row in found["samples"]] == same.status.T.tolist()
    assert [each["certified"] for each in found["radii"]] == same.accuracy.tolist()
    assert found["margin"] == margin
    assert [each["radius"] for each in found["radii"]] == sorted(RADII)
    assert found["samples"][WRONG]["status"] == ["unsafe"] * 3
    for y, logits, row in zip(arrays["y"], logits_of(net, arrays["x"]), found["samples"], strict=True):
        assert (row["label"], row["predicted"]) == (y, logits.argmax())
        assert row["margin"] == pytest.approx(logits[y] - np.delete(logits, y).max(), rel=1e-4, abs=1e-5)
    for at, row in enumerate(found["samples"]):
        assert (row["attacked"] is None) == (at not in same.changed)
        if at in same.changed:
            apart = np.linalg.norm(same.changed[at].reshape(SIZES) - arrays["x"][at])
            assert apart <= row["attacked"] <= apart * (1 + 1e-6)


# -- what is refused ---------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": None}, "holds x; expected the arrays x (samples) and y (labels)"),
        ({"x": None, "images": np.zeros(3)}, "expected the arrays x"),
        ({"y": np.zeros(4)}, "y has dtype float64; expected whole numbers"),
        ({"y": np.zeros((4, 1), int)}, "expected one whole number for each sample"),
        ({"y": np.zeros(5, int)}, "expected samples along the first axis of both"),
        ({"y": np.full(4, 3)}, "labels of dtype int64 from 3 to 3; expected integers from 0 to 2"),
        ({"y": np.full(4, -1)}, "from -1 to -1"),
        ({"x": np.zeros((4, 9))}, "samples of shape (9,); the network takes (2, 2, 4)"),
        ({"x": np.zeros((0, *SIZES)), "y": np.zeros(0, int)}, "at least one"),
        ({"x": np.full((4, *SIZES), np.nan)}, "sample 0 of x has entries that are not finite"),
        ({"x": np.full((4, *SIZES), 2**60)}, "less than 2**53"),
        ({"x": np.zeros((4, *SIZES), np.complex64)}, "x has dtype complex64"),
        ({"x": np.full((4, *SIZES), None)}, "cannot be read"),
        ({"x": np.full((4, *SIZES), 255, np.uint8)}, "sample 0 of x lies outside of --input-range"),
    ],
)
def test_wrong_samples_are_refused(
    net: Path, data: Path, arrays: dict[str, Array], change: dict[str, Any], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    np.savez(data, **{name: each for name, each in (arrays | change).items() if each is not None})
    told = said(capsys, net, data, "--radius", 0.1, "--input-range", 0, 1)
    assert message in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Missing option '--radius'"),
        (["--radius", "nan"], "'nan' is not a radius"),
        (["--radius", "1e300"], "'1e300' is not a radius"),
        (["--radius", "-1"], "'-1' is not a radius: give a number from 0 to 1e+100"),
        (["--radius", "1", "--fail-below", "nan"], "'nan' is not a share from 0 to 1"),
        (["--radius", "1", "--fail-below", "60"], "'60' is not a share from 0 to 1"),
        (["--radius", "1", "--input-range", "1", "0"], "the smaller one first"),
        (["--radius", "1", "--budget", "0"], "give seconds above 0"),
        (["--radius", "1", "--format", "html"], "'html' is not one of"),
        (["--radius", "1", "--output", "DATA"], "this command reads it"),
        (["--radius", "1", "--max-bytes", "100"], "more than the limit of 100"),
    ],
)
def test_wrong_usage_is_refused(
    net: Path, data: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "the model comes first" in said(capsys, data, net, "--radius", 1)
    before = data.read_bytes()
    assert message in said(capsys, net, data, *(str(data) if word == "DATA" else word for word in options))
    assert data.read_bytes() == before
