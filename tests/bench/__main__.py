"""The benchmark suite, in ``tests``: ``python -m bench ...``.

run --size full --out FILE       # some ten minutes on one thread; "smoke" takes seconds
gpu --out FILE                   # what is measured on a GPU, of every library that has one
compare FILE [COMMITTED]         # what got slower than noise allows; exit code 1 if anything
page [FILE]                      # docs/benchmarks/index.md, or the table of a file beside it
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from bench import page, suite
from bench.facts import FOLDER, read

COMMITTED = FOLDER / "suite.jsonl"
ON_GPU = ("torch cuda", "cupy", "jax cuda")


def main(words: list[str] | None = None) -> int:
    form = argparse.RawDescriptionHelpFormatter
    commands = argparse.ArgumentParser("python -m bench", description=__doc__, formatter_class=form)
    parsers = commands.add_subparsers(dest="command", required=True)
    run, gpu, compare, shown = (parsers.add_parser(name) for name in ("run", "gpu", "compare", "page"))
    for option in ("--sections", "--libraries"):
        run.add_argument(option, nargs="+", default=(), help="these alone")
    run.add_argument("--threads", type=int, default=1, help="of torch; 0: as they come")
    gpu.set_defaults(threads=0, sections=("network", "libraries"), libraries=ON_GPU)
    for each in (run, gpu):
        each.add_argument("--size", choices=("smoke", "full"), default="smoke" if each is run else "full")
        each.add_argument("--out", type=Path)
    compare.add_argument("new", type=Path)
    for each in (compare, shown):
        each.add_argument("file", type=Path, nargs="?", default=COMMITTED)
    given = commands.parse_args(words)
    if given.command in ("run", "gpu"):
        torch.set_num_threads(given.threads or torch.get_num_threads())
        suite.write(given.size == "smoke", given.sections, given.libraries, given.out)
    elif given.command == "page":
        page.write(given.file)
    else:
        found = page.slower(read(given.new), read(given.file))
        print("\n".join(found) or "nothing got slower than noise allows")
        return int(bool(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
