"""No bound of a stored set of small networks grows, and none is lost: whoever takes a rule out sees what it bought."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
from networks.stored.measure import stored
from networks.stored.networks import CASES, OF_JAX, bound

GROWTH = 1e-3
STORED = stored()


def test_every_network_of_the_set_is_stored() -> None:
    assert {name: set(case.methods) for name, case in CASES.items()} == {name: set(row) for name, row in STORED.items()}
    assert sum(None not in row.values() for row in STORED.values()) >= 150


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", STORED)
@pytest.mark.sampled(
    "four blocks", "revnet, damped", "recurrent, every step", "unit length, sum", "strided, of vectors"
)
def test_no_bound_grows(name: str) -> None:
    if name in OF_JAX:
        pytest.importorskip("jax2onnx")
        pytest.importorskip(name.split(",")[0])
    for method, before in STORED[name].items():
        found = bound(name, method)
        if before is None:
            assert found.upper is not None or found.unknown
            continue
        assert found.upper is not None, found.unknown
        assert found.checked.reached <= found.upper <= before * (1 + GROWTH)
