"""What specnorm claims of a network in a file, docs/check.py and `specnorm verify` prove; and nothing false."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks.dense_networks import draw, graph_of

onnx: Any = pytest.importorskip("onnx", reason="ONNX files: pip install onnx")
from test_check import CHECK  # noqa: E402
from test_check_networks import DOCS, PUBLISHED, drawn  # noqa: E402

from specnorm import audit  # noqa: E402
from specnorm.auditing import verifying  # noqa: E402
from specnorm.auditing.model_arrays import ModelArrays  # noqa: E402
from specnorm.auditing.readers.onnx import read  # noqa: E402
from specnorm.cli import run  # noqa: E402
from specnorm.errors import CertificateError  # noqa: E402
from specnorm.networks import Multipliers, Product, bound, certificate, forward_step  # noqa: E402


def model_of(path: Path) -> ModelArrays:
    """In this process."""
    return read(path.open("rb"), str(path), 2**30)


def claim_of(path: Path, residual: bool = False, **given: Any) -> dict[str, Any]:
    graph = model_of(path).graph(None)
    found = bound(forward_step(graph) if residual else graph, check=False, **given)
    (claim,) = found.certificate.claims
    assert found.upper is not None
    assert found.upper <= float.fromhex(claim["upper"])
    return json.loads(json.dumps(claim))  # type: ignore[no-any-return]


def accepted(claim: Any, path: Path) -> list[str]:
    """Which programs prove a claim."""
    programs: dict[str, Callable[[], object]] = {
        "check.py": lambda: CHECK.check(claim, *CHECK.read_model(path)),
        "verify": lambda: verifying._proven(model_of(path), claim),
    }
    found = []
    for name, prove in programs.items():
        try:
            prove()
        except Exception:
            continue
        found.append(name)
    return found


BOTH = ["check.py", "verify"]
FILES = sorted((DOCS / "reference-networks").glob("*.onnx"))


@pytest.mark.parametrize("method", [Product(), Multipliers(steps=20)], ids=["product", "together"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_reference_networks(path: Path, method: Any, tmp_path: Path) -> None:
    """Both programs prove the claim, and neither less than a published pair of inputs attains, nor of other bits."""
    (published,) = (
        one for one in PUBLISHED["networks"] if path.stem == one["name"] or one.get("file", "").endswith(path.name)
    )
    claim = claim_of(path, method=method)
    assert accepted(claim, path) == BOTH
    assert float.fromhex(claim["upper"]) < 1.05 * (
        bound(model_of(path).graph(None), check=False, method=method).upper or 0
    )
    assert accepted({**claim, "upper": (published["lower"] * (1 - 1e-9)).hex()}, path) == []
    model = onnx.load(path)
    tensor = max(model.graph.initializer, key=lambda one: len(one.dims))
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.flat[0] = np.nextafter(array.flat[0], np.inf)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(model, tmp_path / "other.onnx")
    assert accepted(claim, tmp_path / "other.onnx") == []


@pytest.mark.parametrize("seed", range(6))
def test_drawn_networks(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains and residual ones, strided, normalised, by entries and by channels: f, and x - f(x) if it is any."""
    monkeypatch.setattr(certificate, "UNITS", 2**10 * (seed % 2))
    path, _, steepest = drawn(seed, tmp_path)
    claim = claim_of(path, method=Multipliers(steps=10))
    assert accepted(claim, path) == BOTH
    assert all(part["units"] == bool(seed % 2) for part in claim["parts"])
    assert accepted({**claim, "upper": (steepest() * (1 - 1e-9)).hex()}, path) == []
    graph = model_of(path).graph(None)
    if graph.by_name["x"].shape == graph.by_name["d"].shape:
        rest = claim_of(path, residual=True, method=Multipliers(steps=10))
        assert rest["of"] == "x - f(x)"
        assert accepted(rest, path) == BOTH
        assert accepted({**rest, "of": "f", "upper": (steepest() * (1 - 1e-9)).hex()}, path) == []


# -- damage ----------------------------------------------------------------------------------------------------------
def _mutations(claim: dict[str, Any], draw: random.Random) -> Iterator[dict[str, Any]]:
    """Claims with one thing changed."""
    for key in claim:
        yield {name: value for name, value in claim.items() if name != key}
        damages: list[Any] = [None, [], {}, "nan", -1, True, 10**15]
        yield from ({**claim, key: damage} for damage in damages)
    for at, part in enumerate(claim["parts"]):
        for changed in _of_part(part, draw):
            yield {**claim, "parts": [*claim["parts"][:at], changed, *claim["parts"][at + 1 :]]}
        yield {**claim, "parts": [*claim["parts"][:at], *claim["parts"][at + 1 :]]}
        yield {**claim, "parts": [*claim["parts"], part]}


def _of_part(part: dict[str, Any], draw: random.Random) -> Iterator[dict[str, Any]]:
    for key in part:
        yield {name: value for name, value in part.items() if name != key}
        damages: list[Any] = [None, [], {}, "nan", [[]]]
        yield from ({**part, key: damage} for damage in damages)
    number = float.fromhex(part["upper"])
    yield from ({**part, "upper": (number * factor).hex()} for factor in (0.0, 0.5, 0.99, 1 - 1e-6, 1e-300))
    yield from ({**part, "values": part["values"][::-1], "units": units} for units in (False, True))
    yield from ({**part, "start": name} for name in (*part["values"], "no such value"))
    for _ in range(8):
        which = draw.randrange(len(part["weights"]))
        weights = deepcopy(part["weights"])
        place = draw.randrange(len(weights[which]))
        weights[which][place] = (float.fromhex(weights[which][place]) * draw.choice([0.0, 1e-3, 0.5, 2.0, 1e3])).hex()
        yield {**part, "weights": weights}
        yield {**part, "weights": [*weights[:which], weights[which][1:], *weights[which + 1 :]]}
    tree = part["proof"].get("tree", ".")
    axes = [at for at in range(3) if str(at) in tree]
    yield from ({**part, "proof": proof} for proof in ({"grid": [1] * len(axes)}, {"tree": "."}, {"tree": "0.."}))
    for _ in range(5):
        at = draw.randrange(len(tree))
        for new, gone in (("", 1), (".", 1), ("0", 0)):
            yield {**part, "proof": {"tree": tree[:at] + new + tree[at + gone :]}}


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_certificates_that_others_wrote(name: str) -> None:
    """Their weights are of single entries, from a search that knows docs/check.py alone."""
    claim = stored(name)
    assert all(part["units"] for part in claim["parts"])
    assert accepted(claim, DOCS / "reference-networks" / f"{name}.onnx") == BOTH


def stored(name: str) -> dict[str, Any]:
    (claim,) = json.loads((DOCS / "reference-certificates" / f"{name}.json").read_text(encoding="utf-8"))["claims"]
    return claim  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["dense-abs", "pooling", "residual", "convolutions"])
def test_no_change_makes_a_false_number_proven(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is below the attained: whatever else the file says; the last is by entries, several values together."""
    monkeypatch.setattr(verifying, "check", lambda *_: None)  # the graph is the model's in each
    path, draw = DOCS / "reference-networks" / f"{name}.onnx", random.Random(name)
    (published,) = (one for one in PUBLISHED["networks"] if name == one["name"])
    claim = stored(name) if name == "convolutions" else claim_of(path, method=Multipliers(steps=5))
    tried = right = 0
    for other in _mutations(claim, draw):
        tried += 1
        if "upper" in other and other["upper"] == claim["upper"]:
            right += bool(accepted(other, path)) if tried % 5 == 0 else 0
            other = {**other, "upper": (published["lower"] * (1 - 1e-9)).hex()}
        assert accepted(other, path) == [], other
    assert tried > 100
    assert right > 2  # weights that were changed prove it, too


OTHERS: dict[str, Callable[[Any], None]] = {
    "a function": lambda graph: setattr(graph.node[1], "op_type", "Abs"),
    "a stride": lambda graph: graph.node[2].attribute.append(onnx.helper.make_attribute("strides", [2])),
    "padding": lambda graph: graph.node[2].attribute[0].CopyFrom(onnx.helper.make_attribute("pads", [3, 3])),
    "a shortcut": lambda graph: graph.node[3].CopyFrom(onnx.helper.make_node("Add", ["c", "b"], ["d"])),
    "a size": lambda graph: setattr(graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 11),
}


def saved(folder: Path, change: Callable[[Any], None] | None = None, opened: bool = False) -> Path:
    """Three layers with functions between, in one dimension."""
    make, tensor = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    dice = np.random.default_rng(0)
    kernels = [dice.normal(size=shape).astype(np.float32) for shape in ((4, 2, 3), (4, 4, 3), (2, 4, 1))]
    constants = [onnx.numpy_helper.from_array(k, f"w{at}") for at, k in enumerate(kernels)]
    nodes = [
        make("Conv", ["x", "w0"], ["a"], pads=[1, 1]), make("Relu", ["a"], ["b"]),
        make("Conv", ["b", "w1"], ["c"], pads=[1, 1]), make("Tanh", ["c"], ["d"]), make("Conv", ["d", "w2"], ["y"]),
    ]  # fmt: skip
    size: Any = "n" if opened else 9
    graph = onnx.helper.make_graph(
        nodes, "g", [tensor("x", 1, [1, 2, size])], [tensor("y", 1, [1, None, None])], constants
    )
    if change is not None:
        change(graph)
    path = folder / ("other.onnx" if change else "m.onnx")
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_another_network_of_the_same_arrays(change: Callable[[Any], None], tmp_path: Path) -> None:
    """Its own claim proves nothing below what pairs of inputs attain there."""
    claim, other = claim_of(saved(tmp_path), method=Multipliers(steps=20)), saved(tmp_path, change)
    graph = model_of(other).graph(None)
    x = np.random.default_rng(1).normal(size=(1, 2, 9 if graph.by_name["x"].shape == (1, 2, 9) else 11))
    values = [graph.run({"x": x + 1e-6 * d})["y"] for d in np.random.default_rng(2).normal(size=(40, *x.shape))]
    rows = [1e-6 * d for d in np.random.default_rng(2).normal(size=(40, *x.shape))]
    reached = max(
        float(np.linalg.norm(values[i] - values[0]) / np.linalg.norm(rows[i] - rows[0])) for i in range(1, 40)
    )
    for number in (claim["upper"], (reached * (1 - 1e-6)).hex()):
        if accepted({**claim, "upper": number}, other):
            assert float.fromhex(number) >= reached
    if "size" not in str(change):
        assert accepted({**claim, "upper": (reached * (1 - 1e-6)).hex()}, other) == []


# -- the command -----------------------------------------------------------------------------------------------------
def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One file of all layers and the network, at every size and at one; other models and files are refused."""
    model, proof = saved(tmp_path), str(tmp_path / "c.json")
    for more in ([], ["--input-shape", "9"]):
        assert run(["audit", str(model), *more, "--certificate", proof]) == 0
        assert "together" in capsys.readouterr().out
        assert run(["verify", proof, str(model)]) == 0
        said = capsys.readouterr().out
        assert [line.split()[:3] for line in said.splitlines()] == [
            ["proven", f"{name}:", f"{kind},"]
            for name, kind in (("w0", "layer"), ("w1", "layer"), ("w2", "layer"), ("network", "network"))
        ]
        assert CHECK.main(proof, str(model)) == 0
        assert capsys.readouterr().out.count("proven") == 4
    other = saved(tmp_path, OTHERS["a size"])
    assert run(["verify", proof, str(other)]) == 1
    assert "FAILED network: The network's input 'x' is given the shape 1x2x9" in capsys.readouterr().out
    np.savez(tmp_path / "w.npz", w0=np.ones((4, 2, 3), np.float32))
    assert run(["verify", proof, str(tmp_path / "w.npz")]) == 1
    assert "holds weights and no graph" in capsys.readouterr().out
    assert run(["verify", str(tmp_path / "none.json"), str(model)]) == 2
    assert run(["audit", str(tmp_path / "w.npz"), "--certificate", proof]) == 0
    assert run(["verify", proof, str(tmp_path / "w.npz")]) == 0
    assert run(["audit", str(model), str(model), "--certificate", str(tmp_path / "d.json")]) == 2
    assert not (tmp_path / "d.json").exists()


def test_a_proof_that_it_is_nonexpansive(tmp_path: Path) -> None:
    """Where little is left to 1 the claim is searched for more closely; both programs prove 1 itself."""
    path = saved(tmp_path, opened=True)
    least = bound(model_of(path).graph(None), check=False).upper
    assert least is not None
    model = onnx.load(path)
    scaled = onnx.numpy_helper.to_array(model.graph.initializer[2]) * np.float32((1 - 1e-5) / least)
    model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(scaled, "w2"))
    onnx.save(model, path)
    assert run(["audit", str(path), "--claim", "nonexpansive", "--certificate", str(tmp_path / "c.json")]) == 0
    claim = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))["claims"][-1]
    assert claim["claim"] == "network"
    assert 0.999 < float.fromhex(claim["upper"]) <= 1
    assert accepted({**claim, "upper": "0x1.0000000000000p+0"}, path) == BOTH


def stacked(folder: Path) -> Path:
    """Two layers, two whose channels are stacked, and two: cut by strides."""
    make, dice = onnx.helper.make_node, np.random.default_rng(0)
    nodes, before = [], "x"
    for name, stride in (("a", 1), ("b", 1), ("c", 2), ("de", 1), ("f", 2), ("y", 1)):
        for each in name:
            given = {"pads": [1, 1], "strides": [stride]}
            nodes.append(make("Conv", [before, f"w{each}"], [f"v{each}"], **given))
        if name == "de":
            nodes.append(make("Concat", ["vd", "ve"], ["vde"], axis=1))
        nodes.append(make("Relu", [f"v{name}"], [before := name]))
    arrays = [
        onnx.numpy_helper.from_array(dice.normal(size=(2 if one in "de" else 4, 4, 3)), f"w{one}") for one in "abcdefy"
    ]
    ends = [
        onnx.helper.make_tensor_value_info(one, onnx.TensorProto.DOUBLE, [1, 4, size])
        for one, size in (("x", "n"), ("y", None))
    ]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], arrays)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), folder / "s.onnx"
    )
    return folder / "s.onnx"


def test_layers_that_are_stacked_leave_the_parts_beside_them(tmp_path: Path) -> None:
    """A part that holds them has no place in the file; those before and behind it have."""
    path = stacked(tmp_path)
    claim = claim_of(path, method=Multipliers(steps=20))
    assert accepted(claim, path) == BOTH
    values = [part["values"] for part in claim["parts"]]
    assert max(map(len, values)) > 1
    alone = claim_of(path, method=Product())
    assert float.fromhex(claim["upper"]) < 0.7 * float.fromhex(alone["upper"])


def test_every_size_is_one_claim(tmp_path: Path) -> None:
    path = saved(tmp_path, opened=True)
    claim = claim_of(path, method=Multipliers(steps=20))
    assert claim["input_shape"] == [1, 2, "n"]
    assert accepted(claim, path) == BOTH
    assert accepted({**claim, "input_shape": [1, 2, 7]}, path) == BOTH


def test_what_has_no_place_in_the_file_is_named(tmp_path: Path) -> None:
    """By the operator; the layers are written all the same. And graphs of no file."""
    change = lambda graph: graph.node[3].CopyFrom(onnx.helper.make_node("Elu", ["c"], ["d"]))  # noqa: E731
    report = audit(saved(tmp_path, change), certificate=True)
    assert report.certificate is not None
    assert [claim["name"] for claim in report.certificate.claims] == ["w0", "w1", "w2"]
    (line,) = report.unstated
    assert line == "the network: Elu (d) has no place in the file."
    with pytest.raises(CertificateError, match="not read from an ONNX file"):
        bound(graph_of(draw(3, layers=2, plain=True), (6,)), method=Product()).certificate  # noqa: B018 - it is made
    assert report.network is not None
    with pytest.raises(CertificateError, match="Elu"):
        report.network.certificate  # noqa: B018 - it is asked for
    plain = audit(saved(tmp_path)).network
    assert plain is not None
    with pytest.raises(CertificateError, match="certificate=True"):
        plain.certificate  # noqa: B018 - it is asked for
