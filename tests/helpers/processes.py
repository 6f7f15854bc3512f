"""Programs in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

FINDS_TESTS: dict[str, Any] = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])}
"""With this in its environment a program imports what tests do."""


def ran(*words: object, cwd: Path | None = None, timeout: float = 300, **environment: str) -> str:
    """What a fresh interpreter prints, which has to end well."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | environment
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd, env=kept, capture_output=True, text=True, check=False, timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.strip()


def python(code: str, *arguments: object, **environment: Any) -> str:
    return ran("-c", code, *arguments, **environment)
