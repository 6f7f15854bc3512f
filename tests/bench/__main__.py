"""The benchmark suite, in ``tests``: ``python -m bench ...``.

run --size full --out FILE       # some ten minutes on one thread; "smoke" takes seconds
compare FILE [COMMITTED]         # what got slower than noise allows; exit code 1 if anything
page [FILE]                      # docs/benchmarks/index.md, or the table of a file beside it
gpu --out FILE                   # all that is measured on a GPU, within eight minutes
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from bench import gpu, page, suite
from bench.facts import FOLDER, read

COMMITTED = FOLDER / "suite.jsonl"


def main(words: list[str] | None = None) -> int:
    form = argparse.RawDescriptionHelpFormatter
    commands = argparse.ArgumentParser("python -m bench", description=__doc__, formatter_class=form)
    parsers = commands.add_subparsers(dest="command", required=True)
    run, compare, shown, on_gpu = (parsers.add_parser(name) for name in ("run", "compare", "page", "gpu"))
    for option in ("--sections", "--libraries"):
        run.add_argument(option, nargs="+", default=(), help="these alone")
    run.add_argument("--threads", type=int, default=1, help="of torch; 0: as they come")
    compare.add_argument("new", type=Path)
    for each in (compare, shown):
        each.add_argument("file", type=Path, nargs="?", default=COMMITTED)
    on_gpu.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a trial of the same code")
    on_gpu.add_argument("--minutes", type=float, default=7.75)
    for each, size in ((run, "smoke"), (on_gpu, "full")):
        each.add_argument("--size", choices=("smoke", "full"), default=size)
        each.add_argument("--out", type=Path, required=each is on_gpu)
    given = commands.parse_args(words)
    if given.command == "run":
        torch.set_num_threads(given.threads or torch.get_num_threads())
        suite.write(given.size == "smoke", given.sections, given.libraries, given.out)
    elif given.command == "compare":
        found = page.slower(read(given.new), read(given.file))
        print("\n".join(found) or "nothing got slower than noise allows")
        return int(bool(found))
    elif given.command == "page":
        page.write(given.file)
    elif given.device == "cuda" and suite.CLOCK is time.process_time:
        commands.error("there is no GPU to measure on; --device cpu is a trial of the same code")
    else:
        gpu.run(given.out, given.device, given.size, given.minutes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
