"""Everything that is measured on a GPU, in one command that ends within its time: ``python -m bench gpu --out FILE``.

Each part is a process of its own with a limit, so that one that fails, hangs or takes the GPU down with it hides no
other; and the file is written anew with every row, so that it holds what was measured whenever it ends. ``--device
cpu`` runs the same code on torch's CPU and JAX's host platform, so that it can be tried where no GPU is.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import facts
from bench.facts import Row

CHECKED = ("test_conformance.py", "test_arithmetic.py", "methods", "test_precision.py", "test_traps.py", "soundness")
"""Tests that take a library's arrays: files and folders, in this order."""
SUITE = ("network", "training step", "libraries")
ROUNDS: tuple[tuple[tuple[str, str, float], ...], ...] = (
    (("conformance", "torch", 60), ("conformance", "cupy", 60)),
    (("network", "torch", 80),), (("training step", "torch", 60),), (("libraries", "torch", 60),),
    (("network", "cupy", 60),), (("libraries", "cupy", 60),), (("libraries", "jax", 80),),
    # JAX compiles for each shape: a minute or two of checks, beside the tests.
    (("conformance", "jax", 240), *(("tests", library, 240) for library in ("torch", "cupy", "jax"))),
)  # fmt: skip
"""Parts with their libraries and limits in seconds, the most important first; those of a round run at the same time."""


def missing() -> str:
    """Why no library sees a GPU; empty if one does. In a process of its own, which holds none of the GPU's memory."""
    words = "from bench.libraries import LIBRARIES\nfor name, x in LIBRARIES.items():\n"
    words += "    if x.device != 'cpu' and name == x.name: print(f'{name}: {x.missing}')"
    found = [line.strip() for line in facts.apart(["-c", words], 120, dict(os.environ))]
    return "" if any(line.endswith(":") for line in found) else "; ".join(found)


def command(part: str, library: str, device: str, size: str) -> list[str]:
    """Of Python: a section of the suite, or tests."""
    if part in SUITE:
        place = library if library == "cupy" else f"{library} {device}"
        return [*f"-m bench run --threads 0 --size {size} --sections".split(), part, "--libraries", place]
    files = CHECKED[:1] if part == "conformance" or size == "smoke" else CHECKED[1:]
    words = ["-v", "--tb=line", "-p", "no:cacheprovider", "-k", library, *files]
    if size != "smoke" and importlib.util.find_spec("xdist"):
        words += ["-n", str(max(1, (os.cpu_count() or 1) // 3))]
    return ["-m", "pytest", *words]


def run(out: Path, device: str, size: str, minutes: float, parts: Sequence[str] | None = None) -> list[Row]:
    """Every round in turn, until the time is up; the file has each row as soon as it is measured."""
    end = time.monotonic() + 60 * minutes
    about = facts.about("numpy", "torch", "jax", "cupy-cuda13x", "cupy-cuda12x", "cupy")
    rows: list[Row] = []
    lock = threading.Lock()

    def keep(row: Row) -> None:
        with lock:
            rows.append({**about, **row, "device": device, "size": size})
            facts.write(out, rows)
            print(
                *(row.get(key, "") for key in ("section", "library", "name", "contestant", "seconds", "error")),
                flush=True,
            )

    def collect(part: str, library: str, most: float) -> None:
        blank = {"section": part, "library": library, "contestant": "every one"}
        # JAX takes the memory that it needs, since CuPy and torch are there too.
        environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_ENABLE_X64": "1"}
        environment |= {"SPECNORM_TEST_BACKENDS": library} if part not in SUITE else {}
        if library == "torch" and device != "cpu":
            environment["SPECNORM_TEST_DEVICE"] = device
        counts: dict[str, Any] = {"PASSED": 0, "FAILED": 0, "ERROR": 0, "SKIPPED": 0}
        for line in facts.apart(command(part, library, device, size), min(most, end - time.monotonic()), environment):
            if line.startswith("{"):
                keep(json.loads(line))
            elif line.startswith("error: ") and not (part not in SUITE and "ended with code 1:" in line):
                keep({**blank, "error": line.removeprefix("error: ")})
            elif verdict := re.search(rf"\b({'|'.join(counts)})\b", line) if "::" in line else None:
                counts[verdict[1]] += 1
                if verdict[1] in ("FAILED", "ERROR") and "[" in line:
                    keep({**blank, "contestant": line.split()[-1 if line.startswith("[gw") else 0], "error": "failed"})
        if part not in SUITE and any(counts.values()):
            told = {"passed": counts["PASSED"], "failed": counts["FAILED"] + counts["ERROR"]}
            keep({**blank, **told, "skipped tests": counts["SKIPPED"]})

    for parallel in ROUNDS:
        threads = [threading.Thread(target=collect, args=it) for it in parallel if parts is None or it[0] in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return rows
