"""Certificates of attention state `network_bound`'s constant, which inputs do not exceed; what the lemma does not cover
is refused."""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.checks import present
from specnorm_check import Network, arithmetic, attention, check

pytest.importorskip("onnx", reason="ONNX files: pip install onnx")

from helpers.onnx_models import model, node, steepest
from specnorm_networks import Product, network_bound

SHAPE = (1, 5, 4)
CAUSAL = np.where(np.tril(np.ones((5, 5))) > 0, 0.0, -math.inf)
OTHER_SHAPES = {"windows": (2, 5, 4), "one token": (1, 1, 4)}
FORMS = ("heads", "causal", "masked", "written out", "layer norm", "shared", *OTHER_SHAPES)


def clipped(axis: int = -1, eps: float = 1e-6) -> tuple[list[Any], dict[str, Any]]:
    nodes = [
        node("ReduceL2", "x", "axis", out="length", keepdims=1), node("Add", "length", "eps", out="more"),
        node("Reciprocal", "more", out="inverse"), node("Min", "inverse", "one", out="least"),
        node("Mul", "x", "least", out="z"),
    ]  # fmt: skip
    return nodes, {"axis": np.array([axis]), "eps": np.array(eps), "one": np.array(1.0)}


def network(form: str = "heads", *, norm: Any = None, mask: Any = CAUSAL, rho: float = 1.0) -> Any:
    """A network of two heads, of one head that is written out, or of two windows, of which one has longer queries."""
    random = np.random.default_rng(0)
    shape = OTHER_SHAPES.get(form, SHAPE)
    nodes, arrays = norm or clipped()
    if form == "layer norm":
        nodes = [node("LayerNormalization", "x", "gain", "shift", out="z", axis=-1, epsilon=0.1)]
        arrays = {"gain": random.standard_normal(4), "shift": random.standard_normal(4)}
    factors = {"q": rho, "k": 1.0, "v": 1.0}
    for part, factor in factors.items():
        source = "q" if (form, part) == ("shared", "k") else part
        arrays |= {f"w{part}": factor * random.standard_normal((4, 4)) / 2, f"b{part}": random.standard_normal(4)}
        nodes.append(node("MatMul", "z", f"w{source}", out=f"{part}0"))
        nodes.append(node("Add", f"{part}0", f"b{part}", out=f"{part}1"))
    if form == "windows":
        arrays["bq"] = arrays["bq"] + np.array([[[0.0]], [[30.0]]])
    arrays |= {"mask": mask, "split": np.array([*shape[:2], 2, 2]), "joined": np.array(shape), "half": np.array(0.5)}
    if form == "written out":
        nodes += [
            node("Transpose", "k1", out="kt", perm=[0, 2, 1]), node("MatMul", "q1", "kt", out="s0"),
            node("Mul", "s0", "half", out="s1"), node("Add", "s1", "mask", out="s"),
            node("Softmax", "s", out="p", axis=-1), node("MatMul", "p", "v1"),
        ]  # fmt: skip
        return model(nodes, SHAPE, arrays, opset=23)
    for part in "qkv":
        nodes += [
            node("Reshape", f"{part}1", "split", out=f"{part}2"),
            node("Transpose", f"{part}2", out=part, perm=[0, 2, 1, 3]),
        ]
    inputs = ["q", "k", "v", *(["mask"] if form == "masked" else [])]
    nodes += [
        node("Attention", *inputs, out="a", is_causal=int(form == "causal")),
        node("Transpose", "a", out="t", perm=[0, 2, 1, 3]), node("Reshape", "t", "joined"),
    ]  # fmt: skip
    return model(nodes, shape, arrays, opset=23)


def proven(form: str) -> float:
    shape = OTHER_SHAPES.get(form, SHAPE)
    return float(Network(network(form).SerializeToString(), list(shape)).constant([], []))


@pytest.mark.parametrize("rho", [0.01, 3.0])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.sampled(2)
def test_a_certificate_states_the_networks_constant(form: str, rho: float, tmp_path: Path) -> None:
    made, shape = network(form, rho=rho), OTHER_SHAPES.get(form, SHAPE)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    found = network_bound(tmp_path / "m.onnx", method=Product())
    certificate = found.certificate()
    (verdict,) = check(certificate.claims, {}, made.SerializeToString())
    assert not verdict.reason, verdict
    upper = float.fromhex(certificate.claims[0].statement["upper"])
    assert upper <= 1.01 * float(present(found.upper))
    assert upper >= (1 - 1e-6) * float(present(found.upper))
    points = [size * np.random.RandomState(seed).standard_normal(shape) for seed, size in ((0, 0.4), (1, 1.0))]
    assert steepest(made, points) <= upper


@functools.cache
def upper_of(form: str) -> float:
    return float(present(network_bound(network(form), method=Product()).upper))


@pytest.mark.parametrize("form", ["heads", "causal", "layer norm", "windows"])
def test_no_constant_is_below_the_bound(form: str) -> None:
    """Which shares no code with the checker."""
    assert proven(form) >= (1 - 1e-6) * upper_of(form)


def test_norms_of_tiny_matrices_are_not_lost() -> None:
    """Squares of 2^-600 are 0: what underflow takes is added."""
    tiny = np.full((2, 2), 2.0**-600)
    assert min(arithmetic.frobenius_up(tiny), attention.norm_up(tiny)) >= Fraction(1, 2**599)
