"""The notebooks of the docs run: the code of their cells, in order, in one namespace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.sampled("numpy")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_run(path: Path) -> None:
    if path.stem == "cupy":
        cupy = pytest.importorskip("cupy", reason="CuPy needs an NVIDIA GPU", exc_type=ImportError)
        if not cupy.cuda.is_available():
            pytest.skip("no NVIDIA GPU here")
    pytest.importorskip(path.stem, exc_type=ImportError)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, source in enumerate(code):
        exec(compile(source, f"{path.name}[{number}]", "exec"), namespace)


def test_there_is_one_for_each_backend() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["cupy", "jax", "numpy", "torch"]
