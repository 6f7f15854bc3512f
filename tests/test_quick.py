"""Each package's quick run notices its mistakes, which `quick.toml` lists."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
QUICK: dict[str, Any] = tomllib.loads((ROOT / "tests" / "quick.toml").read_text(encoding="utf-8"))
LIBRARIES = {"train": "torch", "train-jax": "jax", "torch": "torch", "jax": "jax"}


@pytest.mark.sampled(18)
@pytest.mark.parametrize(("package", "number"), [(x, n) for x in QUICK for n in range(len(QUICK[x]["mistakes"]))])
def test_a_mistake_in_a_package_is_noticed_by_its_quick_run(package: str, number: int) -> None:
    pytest.importorskip(LIBRARIES.get(package, "numpy"), exc_type=ImportError)
    loop = QUICK[package]
    path, right, wrong, noticed = loop["mistakes"][number]
    assert noticed.partition("::")[0].startswith(tuple(loop["tests"]))
    environment = os.environ | {
        "SPECNORM_MISTAKE": json.dumps([path, right, wrong]), "SPECNORM_TEST_BACKENDS": loop["backends"],
    }  # fmt: skip
    for name in ("SPECNORM_PROGRESS", "SPECNORM_NIGHTLY"):
        environment.pop(name, None)
    command = (sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", noticed)
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, f"{wrong!r} in {path} was not noticed: {run.stdout}"


def test_every_package_has_five_mistakes_or_more() -> None:
    assert min(len(loop["mistakes"]) for loop in QUICK.values()) == 5
