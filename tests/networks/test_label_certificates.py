"""Labels that a certificate says to stay are proven by `specnorm verify`, without a search; nothing false is.

What is damaged is refused, or still true: an attack by differences of ONNX's own evaluator says so.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", exc_type=ImportError)
from auditing.onnx_models import drawing, model, node, saved  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from test_check import SCHEMA  # noqa: E402

from specnorm import cli  # noqa: E402
from specnorm.auditing import verifying  # noqa: E402
from specnorm.auditing.readers.onnx import read  # noqa: E402
from specnorm.certified.network.labels import digest_of  # noqa: E402
from specnorm.errors import CertificateError  # noqa: E402
from specnorm.networks import certified_accuracy, within  # noqa: E402

Array = Any
Claim = dict[str, Any]
DAMAGED = int(os.environ.get("SPECNORM_DAMAGED", "24"))
"""Claims about each network; by hand all of them."""
RADII = (0.1, 0.22, 0.3, 0.4, 0.52)


def _network(name: str, path: Path) -> Path:
    draw = drawing(np.random.RandomState(len(name)))
    if name == "convolutions":
        nodes = [
            node("Conv", "x", "k", out="a", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Relu", "a", out="b"),
            node("Add", "b", "x", out="c"),
            node("MaxPool", "c", out="d", kernel_shape=[2, 2], strides=[2, 2]),
            node("Flatten", "d", out="e"),
            node("Gemm", "e", "w", "bias", transB=1),
        ]
        weights = {"k": draw(2, 2, 3, 3), "w": draw(3, 8), "bias": draw(3)}
        return saved(model(nodes, weights, ("N", 2, 4, 4)), path)
    nodes = [
        node("Gemm", "x", "u", "c", out="a", transB=1),
        node(name, "a", out="b"),
        node("Gemm", "b", "v", "d", out="e", transB=1),
        node(name, "e", out="f"),
        node("Gemm", "f", "w", "bias", transB=1),
    ]
    weights = {"u": draw(10, 6), "c": draw(10), "v": draw(10, 10), "d": draw(10), "w": draw(3, 10), "bias": draw(3)}
    return saved(model(nodes, weights, ("N", 6)), path)


class Case:
    """A network, samples, and the claim about them."""

    def __init__(self, name: str, folder: Path) -> None:
        self.path = _network(name, folder / f"{name}.onnx")
        self.run = ReferenceEvaluator(str(self.path))
        shape = (2, 4, 4) if name == "convolutions" else (6,)
        self.x = np.random.default_rng(0).uniform(-1, 1, (6, *shape)).astype(np.float32)
        self.y = self.logits(self.x).argmax(axis=1)
        graph = self.model().graph({"x": (1, *shape)})
        graph = within(graph, -1.0, 1.0) if name == "Relu" else graph
        found = certified_accuracy(graph, self.x, self.y, RADII if len(shape) == 1 else RADII[::3], local=True)
        self.safe = int((found.status == "safe").any(axis=0).sum())
        (claim,) = json.loads(found.certificate.dumps())["claims"]
        self.claim: Claim = claim

    def model(self) -> Any:
        return read(self.path.open("rb"), str(self.path), 2**30)

    def logits(self, x: Array) -> Array:
        (found,) = self.run.run(None, {"x": np.asarray(x, dtype=np.float32)})
        return np.asarray(found, dtype=float)

    def accepts(self, claim: Any) -> bool:
        try:
            verifying._proven(self.model(), claim, (self.x, self.y))
        except Exception:
            return False
        return True

    def false(self, claim: Claim) -> list[Any]:
        """Samples whose label is seen to change, or is not the one that is claimed."""
        named = {digest_of(x): x for x in self.x}
        between = [-np.inf, np.inf]
        if claim["input_range"] is not None:
            between = [float.fromhex(end) for end in claim["input_range"]]
        return [
            each
            for each in claim["samples"]
            if self._flips(named[each["sha256"]].astype(float), each["label"], float.fromhex(each["radius"]), between)
        ]

    def _flips(self, x: Array, label: int, radius: float, between: Any) -> bool:
        basis = 1e-3 * np.eye(x.size).reshape(x.size, *x.shape)
        for other in set(range(3)) - {label}:
            at = x
            for step in range(7):
                ends = self.logits(np.concatenate([at[None], at + basis, at - basis]))
                margins = ends[:, label] - ends[:, other]
                if margins[0] < -1e-5:
                    return True
                way = -(margins[1 : x.size + 1] - margins[x.size + 1 :]).reshape(x.shape)
                away = at - x + radius * (2.0 if step == 0 else 0.5) * way / max(float(np.linalg.norm(way)), 1e-12)
                away = away * min(1.0, 0.9999 * radius / max(float(np.linalg.norm(away)), 1e-12))
                at = np.clip(x + away, *between)
        return False


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    return cache(lambda name: Case(name, tmp_path_factory.mktemp("labels")))


@pytest.mark.parametrize("name", ["Relu", "Tanh", "convolutions"])
def test_what_is_stated_is_proven(name: str, case: Callable[[str], Case]) -> None:
    of = case(name)
    assert of.accepts(of.claim)
    assert len(of.claim["samples"]) == of.safe >= 3
    assert not of.false(of.claim)
    assert of.false({**of.claim, "samples": [{**each, "radius": (4.0).hex()} for each in of.claim["samples"]]})
    proofs = [each["proof"] for each in of.claim["samples"]]
    assert any(step["lines"] for proof in proofs for step in proof)
    assert name != "Relu" or any(step["cuts"] for proof in proofs for step in proof)
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate({"specnorm_certificate": 3, "claims": [of.claim]}, SCHEMA)


def _damaged(claim: Claim, draw: random.Random) -> Iterator[Claim]:
    """Claims with one thing changed."""
    for key in claim:
        yield {name: value for name, value in claim.items() if name != key}
        damages: list[Any] = [None, [], {}, "nan", -1, True]
        yield from ({**claim, key: damage} for damage in damages)
    for part in range(len(claim["parts"])):
        changed = deepcopy(claim)
        changed["parts"][part]["upper"] = (0.9 * float.fromhex(changed["parts"][part]["upper"])).hex()
        yield changed
        yield {**claim, "parts": [*claim["parts"][:part], *claim["parts"][part + 1 :]]}
    yield {**claim, "input_range": [(0.0).hex(), (0.5).hex()]}
    yield {**claim, "samples": [*claim["samples"], claim["samples"][0]]}
    for at, sample in enumerate(claim["samples"]):
        for new in _of_sample(sample, claim["samples"][at - 1], draw):
            yield {**claim, "samples": [*claim["samples"][:at], new, *claim["samples"][at + 1 :]]}


def _of_sample(sample: Claim, other: Claim, draw: random.Random) -> Iterator[Claim]:
    for key in draw.sample(sorted(sample), 2):
        yield {name: value for name, value in sample.items() if name != key}
        yield {**sample, key: draw.choice([None, [], "nan", -1])}
    yield {**sample, "label": (sample["label"] + 1) % 3}
    yield {**sample, "sha256": other["sha256"]}
    yield {**sample, "sha256": other["sha256"], "label": other["label"], "radius": other["radius"]}
    yield {**sample, "proof": other["proof"]}
    yield {**sample, "anew": not sample["anew"]}
    yield from (
        {**sample, "radius": (draw.choice([1.1, 2.0, 9.0]) * float.fromhex(sample["radius"])).hex()} for _ in "ab"
    )
    for step, stated in enumerate(sample["proof"]):
        for new in _of_proof(stated, draw):
            yield {**sample, "proof": [*sample["proof"][:step], new, *sample["proof"][step + 1 :]]}
        yield {**sample, "proof": [*sample["proof"][:step], *sample["proof"][step + 1 :]]}


def _of_proof(stated: Claim, draw: random.Random) -> Iterator[Claim]:
    yield {**stated, "others": [draw.randrange(4) for _ in stated["others"]]}
    yield {**stated, "cuts": stated["cuts"][:-1]}
    yield {**stated, "cuts": [*stated["cuts"], ["e", draw.randrange(12), 1]]}
    if stated["cuts"]:
        *before, (name, at, above) = stated["cuts"]
        yield {**stated, "cuts": [*before, [name, at, 1 - above]]}
        yield {**stated, "cuts": [*before, [name, at + 1, above]]}
    for number, lines in enumerate(stated["lines"]):
        positions, shares, multipliers = lines["at"], lines["shares"], lines["multipliers"]
        changed = {**lines, "shares": "".join(draw.choice("Az/+") for _ in shares)}
        for new in (
            changed,
            {**lines, "multipliers": [f"-{each}" for each in multipliers]},
            {**lines, "multipliers": ["nan" for _ in multipliers]},
            {**lines, "multipliers": [(0.0).hex() for _ in multipliers]},
            {**lines, "multipliers": [(1e300).hex() for _ in multipliers]},
            {**lines, "multipliers": multipliers[1:]},
            {**lines, "shares": shares[:-4]},
            {**lines, "shares": shares[:-1]},
            {**lines, "at": [each + 1 for each in positions]},
            {**lines, "at": positions[::-1]},
            {**lines, "value": "f"},
        ):
            yield {**stated, "lines": [*stated["lines"][:number], new, *stated["lines"][number + 1 :]]}


@pytest.mark.parametrize("name", ["Relu", "Tanh", "convolutions"])
def test_what_is_damaged_is_refused_or_true(name: str, case: Callable[[str], Case]) -> None:
    of, refused = case(name), 0
    every = list(_damaged(of.claim, random.Random(name)))
    for claim in random.Random(0).sample(every, min(len(every), DAMAGED)):
        if of.accepts(claim):
            assert not of.false(claim)
        else:
            refused += 1
    assert refused > 0.4 * DAMAGED


def test_lies_are_refused(case: Callable[[str], Case]) -> None:
    """One by one, what no proof may let through."""
    of = case("Relu")
    (cut,) = [each for each in of.claim["samples"] if any(step["cuts"] for step in each["proof"])][:1]
    (bent,) = [each for each in of.claim["samples"] if any(step["lines"] for step in each["proof"])][:1]

    def refused(sample: Claim) -> bool:
        return not of.accepts({**of.claim, "samples": [sample]})

    def lines(**new: Any) -> Claim:
        first, *rest = bent["proof"]
        return {**bent, "proof": [{**first, "lines": [{**each, **new} for each in first["lines"]]}, *rest]}

    assert not refused(cut)
    assert not refused(bent)
    rows = len(bent["proof"][0]["others"])
    assert refused(lines(multipliers=["-0x1.0p+0"] * rows))
    assert refused(lines(multipliers=["nan"] * rows))
    assert refused(lines(multipliers=["0x1.0p+0"] * (rows + 1)))
    assert refused({**cut, "label": (cut["label"] + 1) % 3})
    assert refused({**cut, "radius": (8.0).hex()})
    last = max(cut["proof"], key=lambda step: len(step["cuts"]))
    assert refused({**cut, "proof": [step for step in cut["proof"] if step is not last]})
    assert refused({**cut, "sha256": "0" * 64})
    assert not of.accepts({**of.claim, "tensors": dict.fromkeys(of.claim["tensors"], "0" * 64)})


def test_the_command(case: Callable[[str], Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of, data, file = case("Tanh"), tmp_path / "data.npz", tmp_path / "labels.json"
    np.savez(data, x=of.x, y=of.y)
    words = [word for radius in RADII for word in ("--radius", str(radius))]
    assert cli.run(["certify", str(of.path), str(data), *words, "--certificate", str(file)]) == 0
    (claim,) = json.loads(file.read_text("utf-8"))["claims"]
    assert len(claim["samples"]) == of.safe
    capsys.readouterr()
    assert cli.run(["verify", str(file), str(of.path), "--data", str(data)]) == 0
    told = capsys.readouterr().out
    least = min(float.fromhex(each["radius"]) for each in claim["samples"])
    assert told.startswith(f"proven labels: of 6 labels {of.safe} stay within {least:g}")
    assert cli.run(["verify", str(file), str(of.path)]) == 1
    assert "--data" in capsys.readouterr().out
    np.savez(data, x=of.x + 1e-3, y=of.y)
    assert cli.run(["verify", str(file), str(of.path), "--data", str(data)]) == 1


def test_what_has_no_place_is_said(case: Callable[[str], Case]) -> None:
    of = case("Tanh")
    graph = of.model().graph({"x": (1, 6)})
    relu = case("Relu").model().graph({"x": (1, 6)})
    executed = certified_accuracy(relu, of.x[:1], of.y[:1], [0.1], execution="float32")
    with pytest.raises(CertificateError, match="as executed"):
        _ = executed.certificate
    wrong = certified_accuracy(graph, of.x[:1], (of.y[:1] + 1) % 3, [0.1])
    with pytest.raises(CertificateError, match="no label"):
        _ = wrong.certificate
    boxed = certified_accuracy(within(graph, np.full((1, 6), -2.0) - np.arange(6), 9.0), of.x[:1], of.y[:1], [0.1])
    with pytest.raises(CertificateError, match="every entry"):
        _ = boxed.certificate
