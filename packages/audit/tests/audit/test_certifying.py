"""Certificates of layers: what the writer states is proven by the checker, close to the norm, for every geometry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import specnorm_check
from helpers import DOCS
from helpers.cases import Layer, layers
from helpers.oracle import dense_norm, sigma_star
from hypothesis import given
from specnorm_audit import audit, cli
from specnorm_audit import layer_certificates as writing
from specnorm_audit.certifying import verify_file
from specnorm_audit.layer_certificates import Certificate, certificate_of
from specnorm_check.__main__ import main

from audit import files
from specnorm import ConvSpec

RESNET = DOCS / "examples" / "resnet20" / "resnet20.safetensors"
Random = np.random.RandomState


def claimed(stated: Certificate) -> float:
    (claim,) = stated.claims
    return float.fromhex(claim.statement["upper"])


def reasons(stated: Certificate, **arrays: np.ndarray) -> list[str]:
    return [verdict.reason for verdict in specnorm_check.check(stated.claims, arrays)]


@given(layer=layers(around=True))
def test_what_is_stated_is_proven_above_the_norm_and_close(layer: Layer) -> None:
    kernel = layer.kernel
    stated = certificate_of(kernel, ConvSpec.of(kernel.shape, **layer.geometry), "k")
    assert reasons(stated, k=kernel) == [""]
    assert claimed(stated) >= dense_norm(kernel, layer.input_shape, **layer.geometry).lo
    if layer.geometry.get("padding_mode") == "zeros":
        words = {key: layer.geometry[key] for key in ("stride", "dilation", "groups", "transposed")}
        assert claimed(stated) <= sigma_star(kernel, **words).hi * 1.02


@given(layer=layers(around=True))
def test_a_small_layer_is_stated_at_its_size(layer: Layer) -> None:
    kernel, truth = layer.kernel, dense_norm(layer.kernel, layer.input_shape, **layer.geometry)
    stated = certificate_of(kernel, ConvSpec.of(kernel.shape, input_shape=layer.input_shape, **layer.geometry), "k")
    assert stated.claims[0].statement["sizes"] == (list(layer.input_shape) or "every")
    assert reasons(stated, k=kernel) == [""]
    left = 2.0**-19 * float(
        np.abs(kernel.astype(np.float64)).sum()
    )  # what rounding left, of taps that meet no input too
    assert truth.lo <= claimed(stated) <= truth.hi * (1.001 if layer.input_shape else 1.02) + left


def test_a_large_layer_is_stated_at_every_size() -> None:
    kernel = Random(0).standard_normal((1, 2, 3))
    stated = certificate_of(kernel, ConvSpec.of(kernel.shape, input_shape=513), "k")
    assert stated.claims[0].statement["sizes"] == "every"
    (verdict,) = specnorm_check.check(stated.claims, {"k": kernel})
    assert "at every input size" in str(verdict)


def test_a_layer_that_is_too_large_has_a_looser_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Random(0).standard_normal((4, 4, 3)).astype(np.float32)
    close = claimed(certificate_of(kernel, ConvSpec.of(kernel.shape), "k"))
    monkeypatch.setattr(writing, "WORK", 0.0)
    stated = certificate_of(kernel, ConvSpec.of(kernel.shape), "k")
    assert reasons(stated, k=kernel) == [""]
    assert close * 1.05 < claimed(stated) < close * 5


# -- files ---------------------------------------------------------------------------------------------------------
def test_an_audit_writes_what_both_programs_prove(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every layer of ResNet-20, 1 % above its norm at most."""
    proof = tmp_path / "proof.npz"
    assert cli.run(["audit", str(RESNET), "--certificate", str(proof), "--format", "json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["layers"]}
    claims = specnorm_check.read_certificate(proof)
    assert [claim.statement["name"] for claim in claims] == list(rows)
    for claim in claims:
        lower = rows[claim.statement["name"]]["lower"]
        assert lower <= float.fromhex(claim.statement["upper"]) <= lower * 1.0105
        assert np.asarray(claim.completion).dtype == np.int16
    assert proof.stat().st_size < 2.1 * RESNET.stat().st_size
    assert cli.run(["verify", str(proof), str(RESNET)]) == 0
    by_verify = capsys.readouterr().out.splitlines()
    assert main([str(proof), str(RESNET)]) == 0
    by_check = capsys.readouterr().out.splitlines()
    timeless = [
        [line.rpartition(";")[0] for line in lines if line.startswith("proven")] for lines in (by_verify, by_check)
    ]
    assert timeless[0] == timeless[1]
    assert len(timeless[0]) == len(rows) == 20


@pytest.mark.parametrize(
    ("array", "words"),
    [(lambda k: k, "FAILED: the model's array has other numbers"), (lambda _: np.array([None]), "called 'other' by")],
    ids=["other numbers", "no numbers"],
)
def test_an_array_of_another_model_fails_its_claim_alone(
    array: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    k, other = Random(0).standard_normal((2, 2, 2, 3))
    np.savez(tmp_path / "model.npz", k=k[..., None], other=other[..., None])
    np.savez(tmp_path / "wrong.npz", k=k[..., None], other=array(k[..., None]))
    proof, model, wrong = (str(tmp_path / name) for name in ("proof.npz", "model.npz", "wrong.npz"))
    assert cli.run(["audit", model, "--certificate", proof]) == 0
    for command, words_of_it in ((cli.run, ["verify", proof, wrong]), (main, [proof, wrong])):
        capsys.readouterr()
        assert command(words_of_it) == 1
        said = capsys.readouterr().out
        assert "of 'k', dilation" in said
        assert words in said


def test_onnx_layers(tmp_path: Path) -> None:
    """The names and axes of the file: a convolution, a transposed one, and a matrix either way round."""
    pytest.importorskip("onnx", reason="ONNX files: pip install onnx")
    from helpers.onnx_models import drawing, node, saved, single

    draw = drawing(Random(0))
    arrays = {"w": draw(3, 2, 3, 3), "t": draw(3, 2, 2, 2), "m": draw(50, 4), "n": draw(5, 4)}
    nodes = [
        node("Conv", "x", "w", out="a", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("ConvTranspose", "a", "t", out="b", strides=[2, 2], pads=[1, 1, 2, 2]), node("Flatten", "b", out="c"),
        node("MatMul", "c", "m", out="d"), node("Gemm", "d", "n", transB=1),
    ]  # fmt: skip
    model, proof = saved(single(nodes, (1, 2, 6, 6), arrays), tmp_path / "m.onnx"), tmp_path / "proof.npz"
    report = audit(model, certificate=True)
    assert report.certificate is not None
    report.certificate.save(proof)
    assert [claim.statement["tensor"] for claim in report.certificate.claims] == ["w", "t", "m", "n"]
    for claim, row in zip(report.certificate.claims, report.layers, strict=True):
        assert row.upper is not None
        assert row.upper * 0.999 <= float.fromhex(claim.statement["upper"]) <= row.upper * 1.01
    *verdicts, rest = verify_file(proof, model)
    assert [verdict.reason for verdict in verdicts if not isinstance(verdict, str)] == [""] * 4
    assert str(rest) == "Not checked, since no claim is about it: the network's constant."
    assert main([str(proof), str(model)]) == 0


def test_numbers_beside_an_onnx_file_are_part_of_what_is_claimed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As torch.onnx.export writes them unless it is told otherwise: the network has its claim, and it is checked."""
    onnx: Any = pytest.importorskip("onnx", reason="ONNX files: pip install onnx")
    from helpers.onnx_models import drawing, node, single

    draw = drawing(Random(0))
    nodes = [node("Conv", "x", "w", out="a", pads=[1, 1, 1, 1]), node("Relu", "a", out="b"), node("Conv", "b", "k")]
    proto = single(nodes, (1, 2, 6, 6), {"w": draw(3, 2, 3, 3), "k": draw(2, 3, 3, 3)})
    for _ in range(4):
        proto.graph.output[0].type.tensor_type.shape.dim.add()  # the checker needs the number of axes
    model, data, proof = tmp_path / "m.onnx", tmp_path / "m.onnx.data", tmp_path / "c.npz"
    onnx.save(proto, model, save_as_external_data=True, location=data.name, size_threshold=0)
    assert data.exists()
    for _ in range(2):  # a certificate may be written anew
        assert cli.run(["audit", str(model), "--certificate", str(proof), "-q"]) == 0
    capsys.readouterr()
    assert cli.run(["verify", str(proof), str(model)]) == 0
    assert main([str(proof), str(model)]) == 0
    said = capsys.readouterr().out
    assert said.count("called 'network' by") == 2
    assert "Not checked" not in said
    # A bit of the numbers beside it is of another network.
    content = bytearray(data.read_bytes())
    content[3] ^= 1
    data.write_bytes(content)
    assert cli.run(["verify", str(proof), str(model)]) == 1
    assert main([str(proof), str(model)]) == 1


def test_what_has_no_claim_is_said_and_is_trouble(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A weight that the file holds in parts has no claim; a layer that was not asked for is named by verify."""
    kernel = Random(0).standard_normal((4, 3)).astype(np.float32)
    parts = {"a.weight": kernel, "b.weight_v": kernel, "b.weight_g": np.ones((4, 1), np.float32)}
    model, proof = files.save_npz(tmp_path / "m.npz", parts), tmp_path / "c.npz"
    assert cli.run(["audit", str(model), "--certificate", str(proof), "-q"]) == 2
    assert "not in " in capsys.readouterr().err
    assert cli.run(["verify", str(proof), str(model)]) == 0
    assert main([str(proof), str(model)]) == 0
    assert capsys.readouterr().out.count("Not checked, since no claim is about it: b.weight") == 2
    assert cli.run(["verify", str(proof), str(model), "--max-bytes", "100"]) == 2
    assert "more than the limit of 100. Raise the limit (--max-bytes)" in capsys.readouterr().err
    assert cli.run(["audit", str(model), "--layers", "a.*", "--certificate", str(proof), "-q"]) == 0
