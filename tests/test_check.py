"""docs/check.py and `specnorm verify` prove what is certified about layers and nothing false; they share no code."""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import specnorm
from specnorm.auditing import verifying
from specnorm.auditing.model_arrays import ModelArrays, Tensor
from specnorm.result import Certificate

DOCS = Path(__file__).parent.parent / "docs"
SCRIPT = DOCS / "check.py"
CASES: list[dict[str, Any]] = json.loads((DOCS / "reference-cases.json").read_text(encoding="utf-8"))["cases"]
SCHEMA = json.loads((DOCS / "certificate.schema.json").read_text(encoding="utf-8"))


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_certificates", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHECK: Any = _module()


def enclosure_of(case: dict[str, Any]) -> tuple[np.ndarray, specnorm.Enclosure]:
    words = ("stride", "dilation", "groups", "transposed", "padding_mode", "padding")
    kernel, sizes = np.asarray(case["kernel"], dtype=np.float64), case["input_shape"]
    return kernel, specnorm.enclose(kernel, sizes and tuple(sizes), **{word: case[word] for word in words})


@pytest.fixture(scope="module")
def cases() -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    """Kernels of the reference cases, and a claim about each, whose number is hardly more than the enclosure's."""
    kernels, claims = {}, {}
    for case in CASES:
        kernels[case["name"]], found = enclosure_of(case)
        (claim,) = found.certificate(case["name"]).claims
        assert float(found.upper) <= float.fromhex(claim["upper"]) <= float(found.upper) * (1 + 1e-6) + 1e-8
        claims[case["name"]] = claim
    return kernels, claims


PROGRAMS: dict[str, list[str]] = {"check.py": [str(SCRIPT)], "verify": ["-m", "specnorm", "verify"]}


def run(
    folder: Path, claims: list[Any] | str, kernels: dict[str, np.ndarray], program: str = "check.py", **limits: Any
) -> tuple[int, str]:
    """Exit code and output of a program, in a process of its own."""
    text = claims if isinstance(claims, str) else json.dumps({"specnorm_certificate": 3, "claims": claims})
    (folder / "certificate.json").write_text(text, encoding="utf-8")
    with (folder / "model.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **kernels)
    command = [sys.executable, *PROGRAMS[program], str(folder / "certificate.json"), str(folder / "model.npz")]
    known = "" if program == "check.py" else os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": known, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, cwd=folder, **limits)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def accepted(claim: Any, kernels: dict[str, np.ndarray]) -> int:
    """How many of both programs accept a claim; whatever else they raise, they show as an error of the claim."""
    tensors = [Tensor(name, k.shape, k.dtype.name, partial(np.asarray, k)) for name, k in kernels.items()]
    count = 0
    for proven in (lambda: CHECK.check(claim, kernels, None), lambda: verifying._proven(ModelArrays(tensors), claim)):
        try:
            proven()
        except Exception:
            continue
        count += 1
    return count


# -- what the program is ---------------------------------------------------------------------------------------------
def test_it_shares_no_code_with_what_it_checks() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 520
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {one.name.split(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).split(".")[0])
    assert imported <= {"numpy", "onnx", "safetensors"} | sys.stdlib_module_names
    ours = {
        line.strip()
        for path in (DOCS.parent / "specnorm").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
    }
    copied = [line for line in text.splitlines() if len(line.strip()) > 60 and line.strip() in ours]
    assert not copied


# -- what it accepts, and refuses ------------------------------------------------------------------------------------
def test_every_reference_case_is_proven(tmp_path: Path, cases: Any) -> None:
    kernels, claims = cases
    plain = {f"k{at}": kernels[name] for at, name in enumerate(kernels)}
    named = []
    for at, claim in enumerate(claims.values()):
        named.append({**claim, "kernel": {**claim["kernel"], "tensor": f"k{at}"}})
    for program in PROGRAMS:
        code, said = run(tmp_path, named, plain, program)
        assert (code, said.count("proven")) == (0, len(CASES)), said
    for case in CASES:
        assert case["lower"] <= float.fromhex(claims[case["name"]]["upper"]), case["name"]


def test_no_number_below_the_truth_is_proven(cases: Any) -> None:
    """Whatever the proof: the case's own, and finer ones."""
    kernels, claims = cases
    for case in CASES:
        claim = deepcopy(claims[case["name"]])
        if case["lower"] == 0:
            continue
        claim["upper"] = (case["lower"] * (1 - 1e-9)).hex()
        d = len(claim["stride"])
        others: list[dict[str, Any]] = [
            {"grid": [n if k > 1 else 1 for k in claim["kernel"]["shape"][2:]]} for n in (3, 8, 64)
        ]
        others += [{"tree": "0" * n + "." * (n + 1)} for n in range(9) if d]
        for proof in [claim["proof"], *others]:
            assert not accepted({**claim, "proof": proof}, kernels), (case["name"], proof)


def test_random_layers_at_a_size_against_their_matrix() -> None:
    """Circulants that are long enough, or too short by one: nothing below the layer's dense norm is proven."""
    from oracle import dense_norm

    draw = random.Random(0)
    shorter = 0
    for seed in range(60):
        numbers = np.random.RandomState(seed)
        k, n = draw.choice([(2,), (3,), (2, 3)]), draw.choice([2, 3, 5])
        stride, dilation = draw.choice([1, 2, 3]), draw.choice([1, 2])
        pads = tuple((draw.randrange(3), draw.randrange(3)) for _ in k)
        geometry: dict[str, Any] = {"stride": stride, "dilation": dilation, "padding": pads, "padding_mode": "zeros"}
        kernel = numbers.standard_normal((2, 2, *k))
        shape = (n + 2 * max(k),) * len(k)
        try:
            truth = dense_norm(kernel, shape, **geometry)
            found = specnorm.enclose(kernel, shape, **geometry)
        except specnorm.GeometryError:
            continue
        (claim,) = found.certificate("k").claims
        assert accepted(claim, {"k": kernel}) == 2
        for less in range(4):
            points = [max(1, 2 + less + j) for j in range(len(k))]
            wrong = {**claim, "proof": {"circulant": points, "skew": [0] * len(k)}}
            wrong["upper"] = (truth.lo * (1 - 1e-9)).hex()
            shorter += 1
            assert not accepted(wrong, {"k": kernel}), (seed, points)
    assert shorter > 100


def test_a_kernel_that_differs_by_a_bit_is_refused(cases: Any) -> None:
    kernels, claims = cases
    for name in list(kernels)[::7]:
        other = kernels[name].copy()
        other.flat[-1] = np.nextafter(other.flat[-1], math.inf)
        assert accepted(claims[name], kernels) == 2
        assert not accepted(claims[name], {**kernels, name: other})
        assert not accepted(claims[name], {**kernels, name: kernels[name].astype(np.float32)})


# -- damaged claims --------------------------------------------------------------------------------------------------
def _mutations(claim: dict[str, Any], draw: random.Random) -> Iterator[dict[str, Any]]:
    """Claims with one thing changed."""
    d = len(claim["stride"])
    for key in claim:
        yield {name: value for name, value in claim.items() if name != key}
        damage: Any
        for damage in (None, [], {}, "", "nan", -1, True, [[]], 10**15):
            yield {**claim, key: damage}
    others: dict[str, list[Any]] = {
        "stride": [[n] * d for n in (1, 2, 3)],
        "dilation": [[n] * d for n in (1, 2, 3)],
        "groups": [1, 2, 3],
        "transposed": [not claim["transposed"]],
        "padding_mode": ["zeros", "circular", "reflect", "replicate"],
        "sizes": ["every", "divided", *([n] * d for n in (1, 2, 3, 6, 12))],
        "padding": [[pair] * d for pair in ([0, 0], [2, 2], [0, 3], [-1, 0])],
        "upper": [_with_another_letter(claim["upper"], "0123456789abcdefpx.+-", draw) for _ in range(12)],
        "proof": list(_proofs(claim, draw)),
    }
    for key, values in others.items():
        yield from ({**claim, key: value} for value in values)
    kernel = claim["kernel"]
    for key, value in (("shape", kernel["shape"][::-1]), ("layout", "IO"), ("sha256", "0" * 64), ("dtype", "float32")):
        yield {**claim, "kernel": {**kernel, key: value}}


def _proofs(claim: dict[str, Any], draw: random.Random) -> Iterator[dict[str, Any]]:
    """Damaged, coarser, of other frequencies."""
    d, proof = len(claim["stride"]), claim["proof"]
    yield from ({"grid": [1] * d}, {"matrix": True}, {}, {"tree": "0" * 50 + "." * 51}, {"tree": "."})
    for tree in [proof["tree"]] * 12 if "tree" in proof else []:
        at = draw.randrange(len(tree))
        yield from ({"tree": tree[:at] + new + tree[at + gone :]} for new, gone in (("", 1), (".", 1), ("0", 0)))
    if "circulant" in proof:
        yield from ({**proof, "circulant": [max(1, n - less) for n in proof["circulant"]]} for less in (1, 2))
        yield {**proof, "skew": [1 - n for n in proof["skew"]]}


def _with_another_letter(text: str, letters: str, draw: random.Random) -> str:
    at = draw.randrange(len(text))
    return text[:at] + draw.choice(letters) + text[at + 1 :]


def truth_below(claim: dict[str, Any], kernel: np.ndarray) -> float:
    """A number that the norm of a claim's layer is not below; 0 if it has none."""
    sizes = claim["sizes"]
    kernel = kernel if claim["kernel"]["layout"] == "OI" else np.transpose(kernel, (*range(kernel.ndim)[:1:-1], 1, 0))
    words = ("stride", "dilation", "groups", "transposed", "padding_mode", "padding")
    geometry = {word: claim[word] for word in words}
    if sizes in ("every", "divided"):
        if sizes == "every" and claim["padding_mode"] == "circular":
            geometry["padding_mode"] = "zeros"  # whose norms rise to the supremum
        if claim["padding_mode"] in ("reflect", "replicate"):
            geometry["padding_mode"] = "zeros"
        sizes = None
    try:
        return float(specnorm.enclose(kernel, sizes and tuple(sizes), rtol=1e-6, **geometry).lower)
    except (specnorm.SpecnormError, TypeError):
        return 0.0


def test_nothing_false_is_accepted_after_a_change(cases: Any) -> None:
    """Claims that are damaged, or speak of another layer: accepted only if they are true of that one."""
    kernels, claims = cases
    draw, tried, right = random.Random(1), 0, 0
    truths: dict[str, float] = {}
    for name in draw.sample(sorted(claims), 12):
        for other in _mutations(claims[name], draw):
            tried += 1
            if accepted(other, kernels):
                right += 1
                said = json.dumps({**other, "upper": "", "proof": ""})
                if said not in truths:
                    truths[said] = truth_below(other, kernels[name])
                assert float.fromhex(other["upper"]) >= truths[said], (name, other)
    assert tried > 1000
    assert 50 < right < tried / 2


HOSTILE = {
    "no number": '{"specnorm_certificate": 3, "claims": [{"claim": "layer", "upper": NaN}]}',
    "infinity": '{"specnorm_certificate": 3, "claims": [{"claim": "layer", "upper": -Infinity}]}',
    "1e400": '{"specnorm_certificate": 3, "claims": [{"claim": "layer", "upper": 1e400}]}',
    "digits": '{"specnorm_certificate": 3, "claims": [' + "9" * 10**6 + "]}",
    "twice": '{"specnorm_certificate": 3, "specnorm_certificate": 3, "claims": [1]}',
    "deep": '{"specnorm_certificate": 3, "claims": ' + "[" * 10**6 + "]" * 10**6 + "}",
    "another version": '{"specnorm_certificate": 2, "claims": [1]}',
    "nothing": '{"specnorm_certificate": 3, "claims": []}',
    "no text": "\x00\x01",
    "a list": "[]",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_files_that_are_no_certificates(tmp_path: Path, text: str) -> None:
    for program in PROGRAMS:
        code, said = run(tmp_path, text, {"k": np.ones((1, 1, 1))}, program)
        assert code == 2, said
        assert len(said) < 1000


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")
def test_what_is_declared_is_not_allocated(tmp_path: Path) -> None:
    """Sizes, grids and trees of gigabytes, in a process that may have two."""
    import resource

    (claim,) = specnorm.enclose(np.ones((2, 2, 3, 3))).certificate("k").claims
    huge = [2**23, 2**23]
    claims = [
        {**claim, "sizes": huge, "proof": {"matrix": True}},
        {**claim, "sizes": huge, "padding_mode": "zeros", "proof": {"circulant": huge, "skew": [0, 0]}},
        {**claim, "proof": {"grid": huge}},
        {**claim, "padding": [[2**23, 2**23]] * 2, "sizes": [3, 3], "proof": {"matrix": True}},
        {**claim, "stride": [2**23, 2**23], "sizes": "divided"},
        {**claim, "proof": {"tree": "0" * 2**22}},
    ]

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))

    for program in PROGRAMS:
        code, said = run(tmp_path, claims, {"k": np.ones((2, 2, 3, 3))}, program, preexec_fn=limited)
        assert code == 1, said
        assert said.count("MemoryError") == 0, said
        assert said.count("proven") == 0, said


# -- arithmetic ------------------------------------------------------------------------------------------------------
def test_cosines_are_rounded_down(monkeypatch: pytest.MonkeyPatch) -> None:
    flint = pytest.importorskip("flint", reason="ball arithmetic: pip install python-flint")
    monkeypatch.setattr(flint.ctx, "prec", 300)
    for at in range(1, 1000):
        phi = Fraction(at, 637)
        if phi >= Fraction(157, 100):
            break
        truth = flint.arb(flint.fmpq(phi.numerator, phi.denominator)).cos()
        found = CHECK.cos_down(phi)
        assert flint.arb(flint.fmpq(found.numerator, found.denominator)) <= truth
        assert float(found) == pytest.approx(math.cos(phi), rel=1e-12)


# -- the format ------------------------------------------------------------------------------------------------------
def test_the_schema_knows_what_is_written(cases: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.check_schema(SCHEMA)
    whole = json.loads(Certificate(tuple(cases[1].values())).dumps())
    validator.validate(whole)
    draw = random.Random(2)
    refused = sum(
        not validator.is_valid({**whole, "claims": [other]})
        for other in _mutations(whole["claims"][0], draw)
    )  # fmt: skip
    assert refused > 80


def test_statements_that_have_no_proof_say_so() -> None:
    kernel = np.ones((2, 2, 3, 3))
    with pytest.raises(specnorm.CertificateError, match="repeats pixels"):
        specnorm.enclose(kernel, padding_mode="reflect").certificate()
    from dataclasses import replace

    with pytest.raises(specnorm.CertificateError, match="another one"):
        replace(specnorm.enclose(kernel), lower=0.0).certificate()
