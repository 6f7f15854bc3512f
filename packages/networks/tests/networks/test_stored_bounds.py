"""No bound of a stored set of small networks grows, and none is lost: whoever takes a rule out sees what it bought.

A certificate is at most 1 % above the product of its layers' constants. None is lost, either.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
from helpers.checks import present
from networks.stored.measure import stored
from networks.stored.networks import CASES, bound
from specnorm_networks import network_bound

from benchmarks.networks import three_convolutions
from specnorm.errors import CertificateError

GROWTH = 1e-3
CERTIFIED = 1.01
STORED = stored()
UNCERTIFIED = frozenset({
    "clipped by an inverse", "cnn, fold of patches", "gated, squashed", "group norm", "householder activation",
    "householder activation, by gates", "instance norm", "layer norm, as Flax has it",
    "layer norm, written out", "log-sum-exp, written out", "mlp, softshrink", "mlp, threshold",
    "root mean square", "root of a sum of squares", "snake", "softmax, written out", "spline",
    "spline, between layers", "spline, clamped at knots", "spline, extrapolating", "spline, seven knots",
    "sum of products", "sum of squares", "unit length", "unit length, clamped", "unit length, normalize",
    "unrolled thresholding",
})  # fmt: skip
"""Networks without a certificate: the checker has no rule for one of their operators, or for several together."""


def test_every_network_of_the_set_is_stored() -> None:
    assert {name: set(case.methods) for name, case in CASES.items()} == {name: set(row) for name, row in STORED.items()}
    assert sum(None not in row.values() for row in STORED.values()) >= 150


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", STORED)
@pytest.mark.sampled("four blocks", "revnet, damped", "three parts")
def test_no_bound_grows(name: str) -> None:
    for method, before in STORED[name].items():
        found = bound(name, method)
        if before is None:
            assert found.upper is not None or found.unknown
            continue
        assert found.upper is not None, found.unknown
        assert found.checked.reached <= found.upper <= before * (1 + GROWTH)
        with pytest.raises(CertificateError) if name in UNCERTIFIED else nullcontext():
            certificate = found.certificate()
            certified = float.fromhex(certificate.claims[0].statement["upper"])
            assert certified <= found.product * CERTIFIED
            assert certified <= found.upper * CERTIFIED or "has no rule for" in certificate.note


@pytest.mark.nightly
def test_the_search_of_a_small_network_comes_to_the_last_grid() -> None:
    """Of docs/networks.md. Its bound was 62.23 when rounds on coarser grids took all 100 steps."""
    assert present(network_bound(three_convolutions()[:3], (1, 16, 16)).upper) <= 62.14
