"""The benchmark suite: ``python -m benchmarks COMMAND --out FILE``; ``--quick`` takes a sample.

run              # functions beside published methods; six minutes on one thread
compare FILE     # what got slower than noise allows; exit code 1 if anything
constraint       # does spectral_norm hold in training? 25 minutes on one thread
constraint-long  # does it hold for 2,000 steps, and at ten times the rate? 20 minutes on one thread
constraint-cost  # what it costs: a training step, and models in JAX
constraint-gpu   # what a training step costs on a CUDA device; a minute
launches         # operations of the constraint in one pass, which a GPU launches
ball             # does training inside the ball work? 25 minutes on one thread
widths           # processor time of calls by the number of channels; six minutes on one thread
long-axes        # time and memory of layers with many pixels; a minute on one thread
networks         # bounds of published networks by each method; 12 minutes on one thread
page             # the tables of docs/benchmarks/index.md from the committed lines

The page is made anew if the file is one of its own.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from benchmarks import page
from benchmarks.facts import FOLDER, read

SOME: dict[str, Any] = {"nargs": "+", "default": (), "help": "these alone"}
FLAG: dict[str, Any] = {"action": "store_true"}
OPTIONS: dict[str, dict[str, Any]] = {
    "--out": {"type": Path},
    "--quick": FLAG,
    "--sections": SOME,
    "--loops": SOME | {"dest": "chosen"},
    "--methods": SOME,
    "--networks": SOME | {"dest": "names"},
    "--calls": SOME | {"dest": "names"},
    "--widths": SOME | {"type": int},
    "--seeds": SOME | {"type": int},
    "--steps": {"type": int, "help": "of each loop; its own number if not given"},
    "--each-step": FLAG | {"help": "record the largest norm of each step too"},
}
COMMANDS = {
    "run": ("suite", "--sections --quick"),
    "constraint": ("constraint", "--loops --methods --seeds --steps --each-step --quick"),
    "constraint-long": ("long_loops", ""),
    "constraint-cost": ("constraint_cost", "--quick"),
    "constraint-gpu": ("constraint_gpu", ""),
    "ball": ("ball", "--quick"),
    "widths": ("widths", "--widths --calls"),
    "long-axes": ("long_axes", ""),
    "networks": ("networks", "--networks --methods"),
}
"""The module whose ``write`` is called with the options."""
TABLES = "page", "widths", "long_axes", "constraint_page", "ball_page", "networks"
"""Modules with the page's tables, in their ``tables``."""


def main(words: list[str] | None = None) -> int:
    form = argparse.RawDescriptionHelpFormatter
    commands = argparse.ArgumentParser("python -m benchmarks", description=__doc__, formatter_class=form)
    parsers = commands.add_subparsers(dest="command", required=True)
    for name, (_, taken) in COMMANDS.items():
        parser = parsers.add_parser(name)
        for option in ("--out", *taken.split()):
            parser.add_argument(option, **OPTIONS[option])
    parsers.add_parser("compare").add_argument("file", type=Path)
    parsers.add_parser("launches")
    parsers.add_parser("page")
    options = vars(commands.parse_args(words))
    command = options.pop("command")
    if command == "compare":
        losses = page.slower(read(options["file"]), read(page.COMMITTED))
        print("\n".join(losses) or "nothing got slower than noise allows")
        return int(bool(losses))
    if command == "launches":
        importlib.import_module("benchmarks.launches").show()
    elif command == "page":
        write_page()
    else:
        importlib.import_module(f"benchmarks.{COMMANDS[command][0]}").write(**options)
        if options["out"] and options["out"].resolve().parent == FOLDER:
            write_page()
    return 0


def write_page(file: Path = page.PAGE) -> None:
    """Put the tables, made from the committed lines, into the page."""
    for name in TABLES:
        page.put(importlib.import_module(f"benchmarks.{name}").tables(), file)


if __name__ == "__main__":
    sys.exit(main())
