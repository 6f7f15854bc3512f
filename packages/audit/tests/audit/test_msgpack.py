"""Flax's msgpack is read; damaged files give a message, and nothing in them takes memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from specnorm_audit import audit

from audit import files
from specnorm import SpecnormError

RANDOM = np.random.RandomState(0)


def _packed(tree: Any) -> bytes:
    serialization: Any = pytest.importorskip("flax.serialization")
    content: bytes = serialization.to_bytes(tree)
    return content


def _tree() -> dict[str, Any]:
    kernel = RANDOM.standard_normal((3, 3, 4, 8)).astype(np.float32)
    dense = {"kernel": RANDOM.standard_normal((4, 5)), "bias": np.zeros(5)}
    many = {f"layer_{i}": {"kernel": np.ones((2, 2), np.float16)} for i in range(20)}
    return {
        "params": {"conv": {"kernel": kernel, "bias": np.zeros(8, np.float32)}, "dense": dense, **many},
        "step": 300_000, "rate": 1.5, "name": "x" * 300, "none": None, "list": {"0": np.float32(3)}, "flag": True,
    }  # fmt: skip


def test_every_array_is_what_flax_wrote(tmp_path: Path) -> None:
    jnp: Any = pytest.importorskip("jax.numpy")
    tree = _tree()
    half = jnp.asarray(RANDOM.standard_normal((3, 4)), jnp.bfloat16)
    tree["params"]["half"] = {"kernel": half}
    (tmp_path / "m.msgpack").write_bytes(_packed(tree))
    found = files.read(tmp_path / "m.msgpack")
    assert_array_equal(found["params/conv/kernel"], tree["params"]["conv"]["kernel"])
    assert_array_equal(found["params/dense/kernel"], tree["params"]["dense"]["kernel"])
    assert_array_equal(found["params/half/kernel"], np.asarray(half, np.float32))
    assert len(found) == 25
    report = audit(tmp_path / "m.msgpack")
    rows = {row.name: row.upper for row in report.layers}
    expected = {row.name.replace(".", "/"): row.upper for row in audit({"params": tree["params"]}).layers}
    assert rows == expected
    assert rows["params/dense/kernel"] == pytest.approx(np.linalg.norm(tree["params"]["dense"]["kernel"], 2), rel=1e-3)


def test_damaged_files_give_a_message(tmp_path: Path) -> None:
    """Each cut and each changed byte gives a report or an error of this library."""
    content = _packed({"params": {"conv": {"kernel": np.ones((2, 2, 3), np.float32), "bias": np.ones(2)}}})
    path = tmp_path / "m.msgpack"
    cuts = [content[:n] for n in range(2, len(content), 7)]
    changed = [bytes([*content[:at], RANDOM.randint(256), *content[at + 1 :]]) for at in range(1, len(content), 3)]
    claims = [b"\x81\xa1a\xdf\xff\xff\xff\xff\xa1b\xc0", b"\x81\xa1a" * 500, b"\x81\xa1a\xc9\xff\xff\xff\xff\x01"]
    for bad in (*cuts, *changed, *claims):
        path.write_bytes(bad)
        try:
            report = audit(path)
        except SpecnormError:
            continue
        assert [row for row in report.layers if row.status not in ("ok", "error")] == []
