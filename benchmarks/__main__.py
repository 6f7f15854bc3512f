"""The benchmark suite: ``python -m benchmarks COMMAND --out FILE``.

run              # functions beside published methods; six minutes on one thread
constraint       # does spectral_norm hold in training? 25 minutes on one thread
constraint-long  # does it hold for 2,000 steps, and at ten times the rate? 20 minutes on one thread
constraint-cost  # what it costs: a training step, and models in JAX
constraint-gpu   # what a training step costs on a CUDA device; a minute
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
from benchmarks.facts import FOLDER

SOME: dict[str, Any] = {"nargs": "+", "default": (), "help": "these alone"}
FLAG: dict[str, Any] = {"action": "store_true"}
COMMANDS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "run": ("suite.write", {"--sections": SOME, "--quick": FLAG}),
    "constraint": ("constraint.write", {"--loops": SOME, "--methods": SOME, "--each-step": FLAG}),
    "constraint-long": ("constraint.write_long", {}),
    "constraint-cost": ("step_cost.write", {}),
    "constraint-gpu": ("step_cost.write_gpu", {}),
    "ball": ("ball.write", {}),
    "widths": ("widths.write", {"--calls": SOME}),
    "long-axes": ("widths.write_long", {}),
    "networks": ("networks.write", {"--networks": SOME, "--methods": SOME}),
    "page": ("", {}),
}
"""The function that is called with the options."""
TABLES = "page", "widths", "constraint_page", "ball_page", "networks"
"""Modules with the page's tables, in their ``tables``."""


def main(words: list[str] | None = None) -> int:
    form = argparse.RawDescriptionHelpFormatter
    commands = argparse.ArgumentParser("python -m benchmarks", description=__doc__, formatter_class=form)
    parsers = commands.add_subparsers(dest="command", required=True)
    for name, (_, taken) in COMMANDS.items():
        parser = parsers.add_parser(name)
        parser.add_argument("--out", type=Path)
        for option, form_of_option in taken.items():
            parser.add_argument(option, **form_of_option)
    options = vars(commands.parse_args(words))
    function = COMMANDS[options.pop("command")][0]
    if function:
        module, _, name = function.partition(".")
        getattr(importlib.import_module(f"benchmarks.{module}"), name)(**options)
    if not function or (options["out"] and options["out"].resolve().parent == FOLDER):
        write_page()
    return 0


def write_page(file: Path = page.PAGE) -> None:
    """Put the tables, made from the committed lines, into the page."""
    for name in TABLES:
        page.put(importlib.import_module(f"benchmarks.{name}").tables(), file)


if __name__ == "__main__":
    sys.exit(main())
