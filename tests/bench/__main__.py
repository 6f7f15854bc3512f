"""The benchmark suite: run it, compare it with the committed figures, put them on the page.

python -m bench run --size full --out FILE       # some ten minutes on one thread; "smoke" takes seconds
python -m bench compare FILE [COMMITTED]         # what got slower than noise allows; exit code 1 if anything
python -m bench worse ONE OTHER --out FILE       # of two processors: each row with the smaller ratio
python -m bench page [FILE]                      # every page of docs/benchmarks, or that of a file, beside it
python -m bench networks                         # whole networks, beside others' programs
python -m bench gpu --out FILE                   # all that is measured on a GPU, within eight minutes
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench import networks_page, peers, pictures
from bench import page as suite_page
from bench.facts import FOLDER, Row, read, write
from bench.gpu import missing as gpu_missing
from bench.gpu import run as run_on_gpu
from bench.regressions import slower, worse

COMMITTED = FOLDER / "suite.jsonl"


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure")
    run.add_argument("--sections", nargs="+", default=(), help="some tables only")
    run.add_argument("--names", nargs="+", default=(), help='some kernels only, such as "64 channels"')
    run.add_argument("--libraries", nargs="+", default=(), help='in place of those of a table, such as "torch cuda"')
    run.add_argument("--threads", type=int, default=1, help="of torch; 0: as they come")
    compare = commands.add_parser("compare", help="with committed figures")
    compare.add_argument("new", type=Path)
    compare.add_argument("old", type=Path, nargs="?", default=COMMITTED)
    both = commands.add_parser("worse", help="of two processors")
    both.add_argument("one", type=Path)
    both.add_argument("other", type=Path)
    both.add_argument("--out", type=Path, required=True)
    page = commands.add_parser("page", help="write the pages")
    page.add_argument("file", type=Path, nargs="?")
    networks = commands.add_parser("networks", help="whole networks")
    networks.add_argument("--only", nargs="+", default=(), help="some networks only, by name or widths")
    networks.add_argument("--limit", type=int, default=600, help="seconds a process")
    gpu = commands.add_parser("gpu", help="measure on a GPU")
    gpu.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a trial of the same code")
    gpu.add_argument("--minutes", type=float, default=7.75)
    gpu.add_argument("--parts", nargs="+", help="some parts only, such as libraries")
    for each, size in ((run, "smoke"), (gpu, "full")):
        each.add_argument("--size", choices=("smoke", "full"), default=size)
        each.add_argument("--out", type=Path, required=each is gpu)
    networks.add_argument("--out", type=Path, default=FOLDER / "networks.jsonl")
    given = parser.parse_args(words)
    if given.command == "run":
        measure(given)
    elif given.command == "compare":
        found = slower(read(given.new), read(given.old))
        print("\n".join(found) or "nothing got slower than noise allows")
        return int(bool(found))
    elif given.command == "worse":
        write(given.out, worse(read(given.one), read(given.other)))
    elif given.command == "page":
        pages([given.file] if given.file else sorted(FOLDER.glob("*.jsonl")))
    elif given.command == "networks":
        from bench import networks as whole

        whole.run(given.only, given.limit, given.out)
    elif given.device == "cuda" and (reasons := gpu_missing()):
        parser.error(f"there is no GPU to measure on ({reasons}); --device cpu is a trial of the same code")
    else:
        run_on_gpu(given.out, given.device, given.size, given.minutes, given.parts)
    return 0


def pages(files: list[Path]) -> None:
    """The pages of files, beside them; of all committed ones, pictures and the comparison with others too."""
    for file in files:
        if file.stem == "networks":
            networks_page.write(file.parent)
        elif file.stem in ("suite", "gpu") or len(files) == 1:
            suite_page.write(file)
    if len(files) > 1:
        peers.PAGE.write_text(peers.page(), encoding="utf-8")
        pictures.write(FOLDER)


def measure(given: argparse.Namespace) -> None:
    """Print lines of JSON, and write them where a file is named."""
    import torch

    from bench import suite

    if given.threads:
        torch.set_num_threads(given.threads)
    rows: list[Row] = []
    for row in suite.run(given.size == "smoke", given.sections, given.names, given.libraries):
        rows.append(row)
        print(json.dumps(row), flush=True)
        if given.out:
            write(given.out, rows)


if __name__ == "__main__":
    sys.exit(main())
