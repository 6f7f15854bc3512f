"""Frequencies spread over a JAX mesh: eight devices that the host pretends to have, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax", exc_type=ImportError)

import jax
import specnorm_jax

from specnorm.errors import BackendError

pytestmark = pytest.mark.nightly
FREQUENCIES = {"grid": 45, "gram": 91, "fft": 91}
TAPS = 9


@pytest.fixture(scope="module")
def found() -> Any:
    # Compiled here and now: what a program does is read off it, which a cached one need not tell.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    flags = kept.get("XLA_FLAGS", "")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("sharding_worker.py"))],
        env={**kept, "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["devices"] == 8
    return told


@pytest.mark.parametrize("name", FREQUENCIES)
def test_values_and_gradients_are_those_of_one_device(found: Any, name: str) -> None:
    ways = found[name]
    for way in ways.values():
        assert way["value"] == pytest.approx(ways["one"]["value"], rel=1e-13)
        np.testing.assert_allclose(way["gradient"], ways["one"]["gradient"], rtol=0, atol=1e-12)
    assert max(ways["one"]["gradient"]) > 0.1


@pytest.mark.parametrize("name", FREQUENCIES)
def test_every_device_has_its_own_frequencies(found: Any, name: str) -> None:
    """No device forms more matrices than its share, and no matrix moves: at most the table of phases does."""
    one, eight = found[name]["one"], found[name]["eight"]
    share = -(-FREQUENCIES[name] // 8)
    assert one["moved"] == 0
    assert 0 < eight["moved"] <= 8 * share * TAPS
    assert eight["temporary"] < one["temporary"] / 3
    if name != "gram":  # which factorises nothing
        assert (one["factorised"], eight["factorised"]) == (FREQUENCIES[name], share)


def test_nothing_else_changes(found: Any) -> None:
    assert found["searched"] == found["searched alone"]
    assert found["after"] == 1


def test_an_axis_that_the_mesh_has_not() -> None:
    mesh = jax.make_mesh((1,), ("f",))
    with (
        pytest.raises(BackendError, match=r"'rows' is not an axis of the mesh, which has \('f',\)"),
        specnorm_jax.spread(mesh, "rows"),
    ):
        pass
