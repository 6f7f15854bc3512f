"""Everything that is measured on a GPU, in one command that ends within its time.

Each part is a process of its own with a limit, so that one that fails, hangs or takes the GPU down with it hides no
other; and the file is written anew with every row. ``--device cpu`` runs the same code where no GPU is.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from bench import facts
from bench.facts import Row

PARTS = (
    ("network", "torch", 80), ("libraries", "torch", 60), ("network", "cupy", 60), ("libraries", "cupy", 60),
    ("libraries", "jax", 80),
)  # fmt: skip
"""Sections of the suite with their libraries and limits in seconds, the most important first."""


def run(out: Path, device: str, size: str, minutes: float) -> list[Row]:
    """Every part in turn, until the time is up; the file has each row as soon as it is measured."""
    end = time.monotonic() + 60 * minutes
    about = facts.about("numpy", "torch", "jax", "cupy-cuda13x", "cupy-cuda12x", "cupy")
    # JAX takes the memory that it needs, since CuPy and torch are there too.
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_ENABLE_X64": "1"}
    rows: list[Row] = []
    for part, library, most in PARTS:
        place = library if library == "cupy" else f"{library} {device}"
        words = [*f"-m bench run --threads 0 --size {size} --sections".split(), part, "--libraries", place]
        for line in facts.apart(words, min(most, end - time.monotonic()), environment):
            if line.startswith("{"):
                row = json.loads(line)
            elif line.startswith("error: "):
                row = {"section": part, "library": library, "contestant": "every one", "error": line.split(": ", 1)[1]}
            else:
                continue
            rows.append({**about, **row, "device": device, "size": size})
            facts.write(out, rows)
            print(*(row.get(key, "") for key in ("section", "library", "contestant", "seconds", "error")), flush=True)
    return rows
