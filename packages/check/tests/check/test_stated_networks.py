"""What the writer states of a network is proven by the checker, and close to what network_bound proves."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import specnorm_check
from helpers import DOCS
from helpers.checks import present
from helpers.processes import ran
from specnorm_check.__main__ import main

from specnorm.errors import CertificateError

pytest.importorskip("onnx", reason="ONNX files: pip install onnx")

from specnorm_audit import cli, network_certificates
from specnorm_networks import Multipliers, Product, network_bound, network_graph
from specnorm_networks.bounding import bounded
from specnorm_networks.tools import Measure, bound

CASES: list[dict[str, Any]] = json.loads((DOCS / "reference-networks.json").read_text(encoding="utf-8"))["networks"]


def stated(certificate: Any) -> tuple[float, list[int]]:
    """Its number, and how many layers each part has."""
    (claim,) = certificate.claims
    return float.fromhex(claim.statement["upper"]), [len(part["values"]) - 1 for part in claim.statement["parts"]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_certificates_of_reference_networks_are_proven_and_close(case: dict[str, Any]) -> None:
    found: Any = network_bound(DOCS / case["file"])
    certificate = found.certificate("whole")
    (verdict,) = specnorm_check.check(certificate.claims, {}, (DOCS / case["file"]).read_bytes())
    number, _ = stated(certificate)
    assert (verdict.name, verdict.reason) == ("whole", "")
    assert case["lower"] <= number <= min(found.upper, found.product) * 1.002


def test_a_chain_of_torch_has_one_part_and_its_file_beside_it(torch: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="networks of torch: pip install onnxscript")
    from networks.small_networks import chain as build_chain

    chain = build_chain()
    few_steps = Multipliers(steps=40)
    found: Any = network_bound(chain, (1, 12, 12), method=few_steps)
    found.certificate().save(tmp_path / "proof.npz")
    number, parts = stated(found.certificate())
    by_channels = present(bounded(network_graph(chain, (1, 12, 12)), Measure(), few_steps).upper)
    assert found.upper <= number <= by_channels * 1.02 < found.product
    assert max(parts) >= 2
    found.save(tmp_path / "saved.onnx")
    assert (tmp_path / "saved.onnx").read_bytes() == (tmp_path / "proof.onnx").read_bytes()
    assert found.certificate().claims[0].statement["sha256"] == found.digest
    shutil.copytree(Path(specnorm_check.__file__).parent, tmp_path / "specnorm_check")
    said = ran("-m", "specnorm_check", "proof.npz", "proof.onnx", cwd=tmp_path)
    assert "proven: Lipschitz constant <=" in said
    assert cli.run(["verify", str(tmp_path / "proof.npz"), str(tmp_path / "proof.onnx")]) == 0
    x, y = (torch.randn(1, 1, 12, 12, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert float((chain(x) - chain(y)).detach().norm()) <= number * float((x - y).norm())


def test_a_file_that_computes_shapes_from_its_batch_is_the_certified_one(torch: Any) -> None:
    """Flattening reads the number of samples, which is free in the file."""
    pytest.importorskip("onnxscript", reason="networks of torch: pip install onnxscript")
    torch.manual_seed(0)
    nn = torch.nn
    found: Any = network_bound(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)), (2, 6, 6))
    assert found.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    (verdict,) = specnorm_check.check(found.certificate().claims, {}, found.file)
    assert verdict.reason == ""


def test_an_output_needs_no_stated_shape() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(DOCS / CASES[0]["file"])
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    found: Any = network_bound(model)
    (verdict,) = specnorm_check.check(found.certificate().claims, {}, model.SerializeToString())
    assert verdict.reason == ""


ON_THE_PAGE = {"dense-relu": "reference-networks/dense-relu.onnx", "pooling": "reference-networks/pooling.onnx"}


@pytest.mark.parametrize("name", ON_THE_PAGE)
def test_proven_constants_of_the_page_are_rounded_up(name: str) -> None:
    page = (DOCS / "check-it-yourself.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith((f"| {name} |", f"| {name},"))]
    shown = [Fraction(cell.strip()) for cell in line.split("|")[2:5]]
    found: Any = network_bound(DOCS / ON_THE_PAGE[name])
    proven = [stated(found.certificate())[0], present(found.upper), found.product]
    for number, value in zip(shown, proven, strict=True):
        assert value <= number <= value * 1.001


def test_a_residual_block_is_one_part() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript", reason="networks of torch: pip install onnxscript")
    from networks.small_networks import residual_block

    block = residual_block()
    found: Any = network_bound(block, (2, 8, 8))
    number, parts = stated(found.certificate())
    assert found.upper <= number <= found.upper * 1.002 < found.product
    assert parts == [3]


@pytest.mark.nightly
def test_a_certificate_of_a_jax_function_is_proven() -> None:
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    pytest.importorskip("jax2onnx", reason="networks of JAX: pip install jax2onnx")
    from networks.small_networks import function_of_jax

    found: Any = network_bound(function_of_jax, (2, 6, 6))
    certificate = found.certificate()
    (verdict,) = specnorm_check.check(certificate.claims, {}, certificate.model)
    assert verdict.reason == ""
    # Its channels stand last, so that each layer is a part by itself; the product is of norms at the layers' own size.
    assert stated(certificate)[0] <= found.product * 1.3


def test_an_audit_says_what_the_checker_does_not_prove(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.onnx").write_bytes(behind_a_layer("MaxPool", kernel_shape=[3], pads=[1, 1]).SerializeToString())
    assert cli.run(["audit", str(tmp_path / "model.onnx"), "--certificate", str(tmp_path / "proof.npz")]) == 0
    said = capsys.readouterr().err
    assert "network: the certified bound is 7.37" in said
    assert network_certificates.MAXIMA in said


def test_an_audit_states_layers_and_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, proof = DOCS / "reference-networks" / "pooling.onnx", tmp_path / "proof.npz"
    assert cli.run(["audit", str(model), "--certificate", str(proof)]) == 0
    assert "certified bound" not in capsys.readouterr().err
    assert [one.statement["name"] for one in specnorm_check.read_certificate(proof)] == ["k", "head", "network"]
    assert cli.run(["verify", str(proof), str(model)]) == 0
    assert "proven: Lipschitz constant <= 4.5" in capsys.readouterr().out
    assert main([str(proof), str(model)]) == 0
    other = DOCS / "reference-networks" / "dense-relu.onnx"
    assert cli.run(["verify", str(proof), str(other)]) == 1
    said = capsys.readouterr().out
    assert "FAILED: the model's file is another one" in said
    assert "[called 'network' by the certificate]" in said


@pytest.mark.parametrize("keepdims", [0, 1])
def test_functions_of_a_list_and_of_a_single_number_are_stated(keepdims: int) -> None:
    """Of a value without an axis of channels."""
    onnx = pytest.importorskip("onnx")
    from helpers.onnx_models import model

    total = onnx.helper.make_node("ReduceSum", ["x", "i"], ["s"], keepdims=keepdims)
    steps = ("Squeeze", ["s"], ["t"]), ("Tanh", ["t"], ["u"]), ("Sub", ["t", "u"], ["y"])
    nodes = [total, *(onnx.helper.make_node(*step) for step in steps)]
    for axes in ([1], [0, 1]):
        network = model(nodes, (3, 4), {"i": np.array(axes)})
        found: Any = network_bound(network)
        (verdict,) = specnorm_check.check(found.certificate().claims, {}, network.SerializeToString())
        assert verdict.reason == ""


def test_a_certificate_above_the_product_is_refused() -> None:
    """The checker adds the slopes of relu(1 - |x|) and relu(1 - |x - 1|), which cancel where both are positive."""
    onnx = pytest.importorskip("onnx")
    from helpers.onnx_models import model

    def hat(argument: str, value: str) -> list[Any]:
        steps = ("Abs", [argument], "a"), ("Sub", ["c", f"a{value}"], "b"), ("Relu", [f"b{value}"], "")
        return [onnx.helper.make_node(operator, inputs, [end + value]) for operator, inputs, end in steps]

    moved, total = (onnx.helper.make_node(*step) for step in (("Sub", ["x", "c"], ["z"]), ("Add", ["u", "v"], ["y"])))
    nodes = [moved, *hat("x", "u"), *hat("z", "v"), total]
    found: Any = network_bound(model(nodes, (1, 2), {"c": np.ones((1, 2))}), method=Product())
    assert found.product == pytest.approx(1)
    with pytest.raises(CertificateError, match="it would state 2, above the product of the constants of its operators"):
        found.certificate()


def behind_a_layer(operator: str, *inputs: str, **how: Any) -> Any:
    """A convolution, a function, and an operator, with whatever arrays it names."""
    onnx = pytest.importorskip("onnx")
    from helpers.onnx_models import model

    kernel = np.cos(np.arange(144.0) ** 2)[:48].reshape(4, 4, 3)
    arrays: dict[str, Any] = {
        "w": kernel,
        "one": np.ones((4, 1)),
        "ones": np.ones(4),
        "first": np.zeros((1, 4, 6), np.int64),
    }
    nodes = [onnx.helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1]), onnx.helper.make_node("Relu", ["c"], ["u"])]
    if "share" in inputs:  # u / (1 + |u|), with a number for each channel
        steps = ("Abs", ["u"], "a"), ("Add", ["a", "one"], "share")
        nodes += [onnx.helper.make_node(name, given, [out]) for name, given, out in steps]
    nodes.append(onnx.helper.make_node(operator, ["u", *inputs], ["y"], **how))
    return model(nodes, (1, 4, 6), {name: arrays[name] for one in nodes for name in one.input if name in arrays})


def without_multipliers(monkeypatch: pytest.MonkeyPatch) -> Any:
    for module in (specnorm_check.inequality, network_certificates):
        monkeypatch.setattr(module, "MOST_UNITS", 8)
    return DOCS / CASES[0]["file"]


LACKING: dict[str, Any] = {
    network_certificates.MAXIMA: lambda _: behind_a_layer("MaxPool", kernel_shape=[3], pads=[1, 1]),
    network_certificates.OTHER_FUNCTIONS: lambda _: behind_a_layer("Div", "share"),
    network_certificates.OTHER_MAPS: lambda _: behind_a_layer("GatherElements", "first", axis=2),
    network_certificates.OF_SEVERAL_VALUES: lambda _: behind_a_layer(
        "InstanceNormalization", "ones", "ones", epsilon=0.1
    ),
    network_certificates.TOO_LARGE: without_multipliers,
}


@pytest.mark.parametrize("rule", LACKING)
def test_the_rule_that_the_checker_lacks_is_named(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: Any = network_bound(LACKING[rule](monkeypatch))
    try:
        said = found.certificate().note
    except CertificateError as error:
        said = str(error)
    named = [each for each in network_certificates.LACKING if each in said]
    assert named == [rule], said


def test_the_page_lists_the_rules_that_the_checker_lacks() -> None:
    page = (DOCS / "check-it-yourself.md").read_text(encoding="utf-8")
    listed = [line.removeprefix("* **").split("**")[0] for line in page.splitlines() if line.startswith("* **")]
    assert sorted(listed) == sorted(network_certificates.LACKING)
    assert len(listed) <= 5
    assert {*LACKING} == {*network_certificates.LACKING}


def test_a_bound_without_a_certificate_says_why() -> None:
    model = DOCS / "reference-networks" / "dense-relu.onnx"
    with pytest.raises(CertificateError, match="no bound, because of Sign: it has a step"):
        network_bound(behind_a_layer("Sign")).certificate()
    near = network_bound(model, radius=0.001, centre=np.ones((1, 4)))
    assert near.radius is not None
    with pytest.raises(CertificateError, match="on all inputs"):
        near.certificate()
    with pytest.raises(CertificateError, match="does not come from network_bound"):
        bound(network_graph(model)).certificate()
