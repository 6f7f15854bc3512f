"""docs/adding-a-method.md, followed to the letter: its method joins a copy of specnorm and keeps its promise there."""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [source for word, source in FENCE.findall(PAGE) if word == language]


def put_after(path: Path, anchor: str, text: str) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count(anchor) == 1, f"{path.name} has no single {anchor!r} any more"
    path.write_text(source.replace(anchor, anchor + text), encoding="utf-8")


@pytest.mark.nightly
def test_the_second_method_of_the_page_keeps_its_promises(tmp_path: Path) -> None:
    for name in ("specnorm", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "data", "outside"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    example = doctest.DocTestParser().get_examples(blocks("python")[0])
    (tmp_path / "specnorm" / "methods" / "frobenius.py").write_text("".join(e.source for e in example))
    imported, promise = blocks("py")
    registry = tmp_path / "specnorm" / "methods" / "__init__.py"
    put_after(registry, "from specnorm.methods.fft import ExactFFT\n", imported)
    put_after(registry, "Reshaped, Enclose", ", Frobenius")
    with (tmp_path / "tests" / "promises.py").open("a", encoding="utf-8") as file:
        file.write(promise)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
         "tests/core/methods/test_every_method.py", "-k", "frobenius or promise or orders"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "SPECNORM_TEST_BACKENDS": "numpy"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None, run.stdout
    assert int(passed[1]) > 12, run.stdout
