"""A file larger than memory is audited, layer by layer."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.processes import python

from audit import files

# -- larger than memory --------------------------------------------------------------------------------------------
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits of memory")
ROWS = 2**19
"""A layer of 2**19 by 4 float32 numbers: 8 MiB."""
LAYERS = 44
LIMIT = 320 * 2**20
"""Of memory; the layers together have 352 MiB."""

_AUDIT = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
import specnorm
from specnorm_audit import measuring
measuring.IN_FLIGHT = 16 * 2**20
try:
    bytearray(LIMIT)
except MemoryError:
    pass
else:
    sys.exit("the limit does not hold")
with ThreadPoolExecutor(1) as pool:
    report = specnorm.audit(sys.argv[1], methods=[], executor=pool if sys.argv[2:] else None)
bad = [row.reason for row in report.layers if row.reason]
assert not bad, bad
print(len(report.layers), max(row.lower for row in report.layers))
"""


def _sparse_safetensors(path: Path) -> None:
    """Layers of zeros, 4 GiB that are no layer, and a layer that is not zero; zeros take no room on the disk."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in [
        *((f"{i}.weight", [ROWS, 4]) for i in range(LAYERS)),
        ("table", [2**30]),
        ("last.weight", [2, 2]),
    ]:
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.seek(end - 16, 1)
        file.write(np.diag([3.0, 1.0]).astype("<f4").tobytes())


def _npz(path: Path) -> None:
    layer = np.zeros((ROWS, 4), dtype=np.float32)
    arrays = {f"{i}.weight": layer for i in range(LAYERS)}
    files.save_npz(path, {**arrays, "last.weight": np.diag([3.0, 1.0]).astype(np.float32)})


def _state_dict(path: Path) -> None:
    torch = pytest.importorskip("torch")
    arrays = {f"{i}.weight": torch.zeros(ROWS, 4) for i in range(LAYERS)}
    torch.save({**arrays, "last.weight": torch.diag(torch.tensor([3.0, 1.0]))}, path)


@LINUX
@pytest.mark.parametrize(("write", "executor"), [(_sparse_safetensors, ["executor"]), (_npz, []), (_state_dict, [])])
@pytest.mark.nightly
def test_a_file_larger_than_memory(write: Callable[[Path], None], executor: list[str], tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    path = tmp_path / "model"
    write(path)
    count, largest = python(f"LIMIT = {LIMIT}\n{_AUDIT}", path, *executor).split()
    assert int(count) == LAYERS + 1
    assert float(largest) == pytest.approx(3, rel=1e-3)
