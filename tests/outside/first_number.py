"""Seconds from ``pip install`` to the first useful number, by the words of the landing page alone.

``python tests/outside/first_number.py [--borrow FOLDER] [NAME...]``: for each card of docs/index.md a fresh
environment, the card's first command and its first example. ``--borrow`` makes the packages of another environment
visible: of somebody who has the framework already.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
CARD = re.compile(r"^### (.+?)\n+`(pip install .+?)`(.*?)^</div>$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDED = {"Keras": ("keras", "jax")}
"""What a card says is there already."""


def cards() -> Iterator[tuple[str, str, str, str]]:
    """Name, command of installation, language and first example of each card."""
    for name, command, rest in CARD.findall((ROOT / "docs" / "index.md").read_text(encoding="utf-8")):
        example = CODE.search(rest)
        assert example is not None, f"the card {name} has no example"
        yield name, command, example[1], example[2]


def program(language: str, example: str) -> list[str]:
    """What a reader types of an example, as a command."""
    if language == "console":
        return ["bash", "-c", "\n".join(re.findall(r"^\$ (.*)$", example, re.MULTILINE))]
    *lines, last = re.findall(r"^(?:>>>|\.\.\.) (.*)$", example, re.MULTILINE)
    return ["python", "-c", "\n".join([*lines, f"print({last.partition('  #')[0]})"])]


def timed(words: list[str], folder: Path, environment: dict[str, str]) -> tuple[str, float, float]:
    """What a command prints; its seconds, and those of processors."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    seconds, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout, seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(name: str, command: str, example: list[str], borrowed: str | None) -> None:
    """Install and run, and print the seconds of both."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        subprocess.run([sys.executable, "-m", "venv", "venv"], cwd=folder, check=True)
        programs = folder / "venv" / "bin"
        if borrowed:
            (packages,) = folder.glob("venv/lib/python*/site-packages")
            (packages / "borrowed.pth").write_text(f"{borrowed}\n")
        environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "KERAS_BACKEND": "jax"}
        environment.pop("PYTHONPATH", None)
        if name in NEEDED and not borrowed:
            subprocess.run([programs / "pip", "install", "-q", *NEEDED[name]], check=True, capture_output=True)
        _, installing, processor = timed(["bash", "-c", f"{command} -q"], ROOT, environment)
        shutil.copy(ROOT / "docs" / "examples" / "resnet20" / "resnet20.safetensors", folder)
        printed, running, processor_too = timed(example, folder, environment)
        print(f"{name}: {command}: {installing:.0f} s ({processor:.0f} s of processors); ", end="")
        print(f"the number: {running:.1f} s ({processor_too:.1f} s): {printed.strip().splitlines()[-1]}", flush=True)


def main() -> None:
    """Measure each card, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--borrow")
    arguments = parser.parse_args()
    for name, command, language, example in cards():
        if not arguments.names or name in arguments.names:
            measure(name, command, program(language, example), arguments.borrow)


if __name__ == "__main__":
    main()
