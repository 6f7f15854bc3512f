"""The benchmark suite: run it, compare it with the committed figures, put them on the page.

python -m bench run --size full --out FILE       # some ten minutes on one thread; "smoke" takes seconds
python -m bench compare FILE [COMMITTED]         # what got slower than noise allows; exit code 1 if anything
python -m bench page [COMMITTED]                 # docs/benchmarks/index.md and its plots
python -m bench scaling --out FILE               # on 1, 2, 4, 8 and 16 cores, some three minutes
python -m bench gpu --out FILE                   # all that is measured on a GPU, within eight minutes
python -m bench gpu-page FILE                    # gpu.md beside it
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

COMMITTED = Path(__file__).parents[2] / "docs" / "benchmarks" / "suite.jsonl"


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure")
    run.add_argument("--size", choices=("smoke", "full"), default="smoke")
    run.add_argument("--sections", nargs="+", help="some tables only")
    run.add_argument("--names", nargs="+", help='some kernels only, such as "64 channels"')
    run.add_argument("--threads", type=int, default=1)
    run.add_argument("--out", type=Path, required=True)
    compare = commands.add_parser("compare", help="with committed figures")
    compare.add_argument("new", type=Path)
    compare.add_argument("old", type=Path, nargs="?", default=COMMITTED)
    page = commands.add_parser("page", help="write the page and the plots")
    page.add_argument("file", type=Path, nargs="?", default=COMMITTED)
    gpu = commands.add_parser("gpu", help="measure on a GPU")
    gpu.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a trial of the same code")
    gpu.add_argument("--size", choices=("smoke", "full"), default="full")
    gpu.add_argument("--minutes", type=float, default=7.75)
    gpu.add_argument("--parts", nargs="+", help="some parts only, such as shapes")
    gpu.add_argument("--out", type=Path, required=True)
    scaling = commands.add_parser("scaling", help="measure on few and many cores")
    scaling.add_argument("--size", choices=("smoke", "full"), default="full")
    scaling.add_argument("--out", type=Path, required=True)
    commands.add_parser("gpu-page", help="write gpu.md").add_argument("file", type=Path)
    given = parser.parse_args(words)
    if given.command == "run":
        return measure(given)
    if given.command == "gpu":
        from bench.gpu_run import run as run_on_gpu

        run_on_gpu(given.out, given.device, given.size, given.minutes, given.parts)
        return 0
    if given.command == "scaling":
        from bench.scaling import run as run_on_cores

        run_on_cores(given.out, given.size == "smoke")
        return 0
    if given.command == "gpu-page":
        from bench import gpu_page

        gpu_page.write(read(given.file), given.file)
        return 0
    if given.command == "compare":
        from bench.regressions import slower

        found = slower(read(given.new), read(given.old))
        print("\n".join(found) or "nothing got slower than noise allows")
        return int(bool(found))
    from bench.page import write

    write(read(given.file), given.file)
    return 0


def measure(given: argparse.Namespace) -> int:
    import torch

    from bench import suite

    torch.set_num_threads(given.threads)
    sigma, begin = suite.Sigma(), time.perf_counter()
    rows: list[dict[str, Any]] = []
    for problem in suite.problems(given.size):
        if given.sections and problem.section not in given.sections:
            continue
        if given.names and problem.name not in given.names:
            continue
        for row in suite.measure(problem, given.size, sigma):
            rows.append(row)
            print(said(row), flush=True)
        # What is measured is not lost where a long run is stopped.
        given.out.write_text("".join(json.dumps(x) + "\n" for x in rows))
    if not given.names and (not given.sections or "network" in given.sections):
        for row in suite.networks(given.size):
            rows.append(row)
            print(said(row), flush=True)
            given.out.write_text("".join(json.dumps(x) + "\n" for x in rows))
    print(f"{len(rows)} lines in {time.perf_counter() - begin:.0f} s: {given.out}")
    return 0


def said(row: dict[str, Any]) -> str:
    size = f" n={row['n']}" if row["n"] else ""
    where = f"{row['section']:12s} {row['name']} {row['family']} {row['dtype']}{size}"
    who = f"{where:64s} {row['library']:10s} {row['contestant']:20s}"
    if "skipped" in row:
        return f"{who} skipped: {row['skipped']}"
    faster = f"x{row['faster']:.2f}" if "faster" in row else ""
    return f"{who} {1e3 * row['seconds']:9.2f} ms {faster:>8s} {row.get('value_over_norm', 0):.6f}"


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
