"""One run for each instruction set of the machine, each in a process of its own.

Libraries choose their compiled kernels when they are imported, so a switch in the environment has to be set before.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from benchmarks import facts

SWITCHES: dict[str, dict[str, str]] = {
    "AVX-512": {},
    "AVX2": {
        "OPENBLAS_CORETYPE": "Haswell",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    },
}
"""Environment variables that restrict the instructions of NumPy and SciPy, torch's convolutions, torch's other
functions, and JAX."""


def sets() -> list[str]:
    """Return the instruction sets that can be measured here, the machine's own first."""
    of_machine = facts.instructions()
    return list(SWITCHES) if of_machine == next(iter(SWITCHES)) else [of_machine]


def run(arguments: Sequence[str], instructions: str, threads: int) -> None:
    """Run ``python -m benchmarks`` with these arguments under one of the sets; 0 threads: as many as libraries take."""
    environment = os.environ | SWITCHES.get(instructions, {})
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, "-m", "benchmarks", *arguments], check=True, env=environment, cwd=facts.ROOT)
