"""A network's certificate proves its bound anew, from a file and without a search, and nothing else does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks.dense_networks import draw, graph_of

from specnorm.cli import run
from specnorm.errors import CertificateError
from specnorm.networks import Certificate, Graph, Measure, Multipliers, NetworkBound, Product, bound, recursion, verify

CHAIN = draw(3, layers=4, plain=True)
SIZE = (6,)


@pytest.fixture(scope="module")
def found() -> NetworkBound:
    return bound(graph_of(CHAIN, SIZE), method=Multipliers(steps=20))


def certificate_of(found: NetworkBound) -> Certificate:
    assert found.certificate is not None
    return found.certificate


def test_a_file_proves_the_bound_without_a_search(
    found: NetworkBound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found.upper is not None
    assert found.product is not None
    assert found.upper < 0.9 * found.product
    certificate_of(found).save(tmp_path / "c.json")
    monkeypatch.delattr(recursion, "search")
    again = verify(Certificate.load(tmp_path / "c.json"), graph_of(CHAIN, SIZE))
    assert again.upper is not None
    assert again.upper <= found.upper
    assert again.to_dict()["runs"] == found.to_dict()["runs"]


def test_numbers_are_read_back_as_they_were(found: NetworkBound, tmp_path: Path) -> None:
    before = certificate_of(found)
    before.save(tmp_path / "c.json")
    after = Certificate.load(tmp_path / "c.json")
    assert (after.upper, after.digest, after.rtol) == (before.upper, before.digest, before.rtol)
    for one, other in zip(before.runs, after.runs, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one.weights, other.weights, strict=True))


def test_the_product_has_a_certificate_too() -> None:
    graph = graph_of(CHAIN, SIZE)
    assert verify(certificate_of(bound(graph, method=Product())), graph).runs == ()


@pytest.mark.parametrize("link", [0, 1, 2])
def test_a_multiplier_that_matters_is_refused(found: NetworkBound, link: int) -> None:
    certificate = certificate_of(found)
    (of,) = certificate.runs
    changed = [each.copy() for each in of.weights]
    changed[link][0] *= 3
    wrong = replace(certificate, runs=(replace(of, weights=tuple(changed)),))
    with pytest.raises(CertificateError, match="no less than"):
        verify(wrong, graph_of(CHAIN, SIZE))


def test_a_claim_that_is_too_small_is_refused(found: NetworkBound) -> None:
    certificate = certificate_of(found)
    with pytest.raises(CertificateError, match="no less than"):
        verify(replace(certificate, upper=certificate.upper * 0.99), graph_of(CHAIN, SIZE))


def one_weight(chain: list[Any]) -> list[Any]:
    kernel = chain[1].kernel.copy()
    kernel.flat[0] = np.nextafter(kernel.flat[0], 9.0)
    return [chain[0], replace(chain[1], kernel=kernel), *chain[2:]]


OTHERS: dict[str, Callable[[list[Any]], Graph]] = {
    "one weight": lambda chain: graph_of(one_weight(chain), SIZE),
    "a function": lambda chain: graph_of([replace(chain[0], function="gelu"), *chain[1:]], SIZE),
    "an input size": lambda chain: graph_of(chain, (7,)),
    "padding": lambda chain: graph_of([replace(chain[0], pads=((9, 9),)), *chain[1:]], SIZE),
    "a layer less": lambda chain: graph_of(chain[:-1], SIZE),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_network_is_refused(found: NetworkBound, name: str) -> None:
    with pytest.raises(CertificateError, match="another network"):
        verify(certificate_of(found), OTHERS[name](CHAIN))


def test_weights_for_another_run_prove_nothing(found: NetworkBound) -> None:
    """Even under the right digest."""
    certificate = certificate_of(found)
    (of,) = certificate.runs
    elsewhere = replace(certificate, runs=(replace(of, start=of.end, end=of.start),))
    with pytest.raises(CertificateError, match="no less than"):
        verify(elsewhere, graph_of(CHAIN, SIZE))
    short = replace(certificate, runs=(replace(of, weights=of.weights[:-1]),))
    with pytest.raises(CertificateError, match="do not fit"):
        verify(short, graph_of(CHAIN, SIZE))


@pytest.mark.parametrize("parts", [(), (1,), (0, 0), (0, 2, 1), (0, 9)])
def test_parts_that_do_not_cover_the_run_are_refused(found: NetworkBound, parts: tuple[int, ...]) -> None:
    certificate = certificate_of(found)
    wrong = replace(certificate, runs=(replace(certificate.runs[0], parts=parts),))
    with pytest.raises(CertificateError, match="do not cover"):
        verify(wrong, graph_of(CHAIN, SIZE))


def test_parts_that_no_proof_speaks_of_are_refused() -> None:
    """A strided layer cannot be behind another one in a part, whoever claims it."""
    chain = [CHAIN[0], replace(CHAIN[1], stride=2), *CHAIN[2:]]
    certificate = certificate_of(bound(graph_of(chain, SIZE), method=Multipliers(steps=10)))
    (of,) = certificate.runs
    assert of.parts == (0, 1)
    with pytest.raises(CertificateError, match="cannot be bounded together"):
        verify(replace(certificate, runs=(replace(of, parts=(0,)),)), graph_of(chain, SIZE))


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no field": lambda data: data.pop("upper"),
    "an older format": lambda data: data.update(specnorm_certificate=1),
    "another format": lambda data: data.update(specnorm_certificate=3),
    "a word": lambda data: data.update(upper="small"),
    "not a number": lambda data: data["runs"][0]["weights"][0].__setitem__(0, float("nan")),
    "below zero": lambda data: data["runs"][0]["weights"][0].__setitem__(0, -1.0),
    "nested": lambda data: data["runs"][0].update(weights=[{}]),
    "infinite claim": lambda data: data.update(upper=float("inf")),
    "no rtol": lambda data: data.update(rtol=0),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_are_refused(found: NetworkBound, tmp_path: Path, name: str) -> None:
    data = certificate_of(found).to_dict()
    DAMAGE[name](data)
    (tmp_path / "c.json").write_text(json.dumps(data))
    with pytest.raises(CertificateError):
        verify(Certificate.load(tmp_path / "c.json"), graph_of(CHAIN, SIZE))


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    for text in ("", "[]", "3", '{"a": 1}', "[" * 100_000, "\0\xff"):
        (tmp_path / "c.json").write_text(text, encoding="latin-1")
        with pytest.raises(CertificateError, match=r"c\.json is no certificate"):
            Certificate.load(tmp_path / "c.json")


def test_another_tolerance_is_kept() -> None:
    graph = graph_of(CHAIN, SIZE)
    certificate = certificate_of(bound(graph, Measure(1e-5), method=Multipliers(steps=2)))
    assert certificate.rtol == 1e-5
    verify(certificate, graph)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx = pytest.importorskip("onnx", exc_type=ImportError)
    make, tensor = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    dice = np.random.default_rng(0)

    def save(name: str, last: float) -> str:
        kernels = [dice.normal(size=shape).astype(np.float32) for shape in ((4, 2, 3), (4, 4, 3), (2, 4, 1))]
        kernels[2].flat[0] = last
        constants = [onnx.numpy_helper.from_array(k, f"w{at}") for at, k in enumerate(kernels)]
        nodes = [
            make("Conv", ["x", "w0"], ["a"], pads=[1, 1]), make("Relu", ["a"], ["b"]),
            make("Conv", ["b", "w1"], ["c"], pads=[1, 1]), make("Tanh", ["c"], ["d"]), make("Conv", ["d", "w2"], ["y"]),
        ]  # fmt: skip
        graph = onnx.helper.make_graph(nodes, "g", [tensor("x", 1, [1, 2, 9])], [tensor("y", 1, [1, 2, 9])], constants)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
        (tmp_path / name).write_bytes(model.SerializeToString())
        return str(tmp_path / name)

    model, other = save("m.onnx", 1.0), save("other.onnx", 1.5)
    proof = str(tmp_path / "c.json")
    assert run(["audit", model, "--certificate", proof]) == 0
    assert "together" in capsys.readouterr().out
    assert run(["verify", proof, model]) == 0
    assert "proven" in capsys.readouterr().out
    assert run(["verify", proof, other]) == 1
    assert "another network" in capsys.readouterr().err
    np.savez(tmp_path / "w.npz", w=np.ones((2, 2, 3)))
    assert run(["verify", proof, str(tmp_path / "w.npz")]) == 1
    assert "holds weights and no graph" in capsys.readouterr().err
    assert run(["verify", str(tmp_path / "none.json"), model]) == 2
    assert run(["audit", str(tmp_path / "w.npz"), "--certificate", str(tmp_path / "d.json")]) == 2
    assert not (tmp_path / "d.json").exists()
