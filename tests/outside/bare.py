"""Install distributions in environments of their own, and run what a user does first.

``python tests/outside/bare.py PYTHON... DISTRIBUTION...``: every interpreter with every wheel and source distribution.
Needs nothing but the standard library.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

SMOKE = Path(__file__).with_name("smoke.py")
AUDIT = """
import numpy, subprocess, sys
from pathlib import Path
numpy.savez("model.npz", weight=numpy.ones((2, 2, 2, 2)))
program = Path(sys.executable).with_name("specnorm")
done = subprocess.run([program, "audit", "model.npz", "--fail-above", "8.1", "-q"], capture_output=True, text=True)
assert done.returncode == 0 and "1 of 1 layer proven" in done.stdout, done.stdout + done.stderr
"""


def run(*words: str | Path, folder: Path) -> None:
    """Run a program in a folder; its environment names no other packages."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, words)], cwd=folder, env=kept, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def check(interpreter: str, distribution: Path) -> None:
    """A fresh environment: NumPy alone, then with the command."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        run(interpreter, "-m", "venv", folder / "venv", folder=folder)
        python = folder / "venv" / "bin" / "python"
        pip = (python, "-m", "pip", "install", "-q", "--disable-pip-version-check")
        run(*pip, distribution, folder=folder)
        run(python, "-W", "error", SMOKE, "numpy", folder=folder)
        run(*pip, f"{distribution}[cli]", folder=folder)
        run(python, "-c", AUDIT, folder=folder)


def main(words: list[str]) -> None:
    """Check every pair, and say so."""
    distributions = [Path(word).resolve() for word in words if word.endswith((".whl", ".tar.gz"))]
    interpreters = [word for word in words if not word.endswith((".whl", ".tar.gz"))]
    if not distributions or not interpreters:
        sys.exit(__doc__)
    for interpreter in interpreters:
        version = subprocess.run([interpreter, "-V"], capture_output=True, text=True, check=True).stdout.strip()
        for distribution in distributions:
            begun = time.monotonic()
            check(interpreter, distribution)
            print(f"{version}: {distribution.name} installs and runs ({time.monotonic() - begun:.0f} s)")


if __name__ == "__main__":
    main(sys.argv[1:])
