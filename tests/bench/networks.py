"""What whole networks' bounds are worth: product, scaled, multipliers, and what inputs reach, each in its own process.

    python -m bench.networks run [--only resnet20 ...] [--limit 600]     # docs/benchmarks/networks.jsonl
    python -m bench.networks dense                                       # beside PyPI's eclipse-nn, and LipSDP
    python -m bench.networks page                                        # docs/benchmarks/networks.md and its picture

Lines that are there are kept but for those measured anew. Processor time is of the call; the graph is made before.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import facts

Row = dict[str, Any]
FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"
LINES = "networks.jsonl"
METHODS = ("product", "scaled", "multipliers", "below")
NAMES = ("three", "constrained", "resnet20", "dncnn25", "x - dncnn25", "rfb320")
DENSE = ((10, 20, 20, 5), (20, 40, 40, 40, 10), (20, 40, 40, 40, 40, 40, 10), (30, 60, 60, 60, 60, 60, 60, 60, 60, 10))
"""Widths of the fully connected networks, with LipSDP's optimum where that takes no minutes."""
RADII = (0.01, 0.1, 1.0)
"""Of the balls around one input on which they are bounded, too."""
SLOW = 150
"""Neurons and inputs beyond which eclipse-nn's programs take minutes by Clarabel."""
OPTIMUM = 60
"""Neurons and inputs up to which LipSDP is solved."""


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def kept(path: Path, row: Row) -> None:
    """Write a line in place of the one that measured the same."""
    same = ("network", "method")
    rows = [old for old in read(path) if any(old[key] != row[key] for key in same)]
    text = "".join(json.dumps(each) + "\n" for each in [*rows, row])
    path.write_text(text, encoding="utf-8")


def said() -> Row:
    return {
        "machine": facts.processor(),
        "versions": facts.versions("numpy", "torch", "eclipse-nn", "clarabel"),
        "commit": facts.commit(),
        "dirty": bool(facts.git("status", "--porcelain", "--", "specnorm", "plugins")),
        "date": facts.date(),
    }


def run(names: list[str], methods: list[str], limit: int, out: Path) -> None:
    for name in names:
        for method in methods:
            row = {"network": name, "method": method, **apart(["one", name, method], limit), "limit": limit, **said()}
            kept(out, row)
            print(name, method, {key: row.get(key) for key in ("value", "processor", "peak", "ended")}, flush=True)


def dense(limit: int, out: Path) -> None:
    for widths in DENSE:
        name = "-".join(map(str, widths))
        row = {"network": name, "method": "dense", **apart(["net", name], limit), "limit": limit, **said()}
        kept(out, row)
        print(name, row, flush=True)


def near(out: Path) -> None:
    """Constants near one input alone, into the lines of the same networks."""
    from bench.networks_dense import dense_network, near_noise

    for row in read(out):
        if row["method"] == "dense":
            widths = tuple(map(int, row["network"].split("-")))
            kept(out, {**row, "near": near_noise(dense_network(widths), widths[0])})


def apart(words: list[str], limit: int) -> Row:
    """What a process of its own prints last; else why it did not end."""
    command = [sys.executable, "-m", "bench.networks", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    limits = (resource.RLIMIT_CPU, (limit, limit + 5))
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment,
        preexec_fn=lambda: resource.setrlimit(*limits),
    )  # fmt: skip
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        slow = done.returncode in (-24, 152)
        return {"ended": f"not within {limit} s of processor time" if slow else last[0]}
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def peak() -> int:
    """Bytes of memory that this process had at most, so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# -- in a process of its own -----------------------------------------------------------------------------------------
def one(name: str, method: str) -> Row:
    from bench.networks_models import NETWORKS
    from specnorm.networks import Method, Product, Scaled, bound

    network = NETWORKS[name]
    function, graph = network.made()
    before, used = peak(), time.process_time()
    found: Row
    if method == "below":
        from bench.networks_below import reached

        found = reached(function, network.shape, network.steps)
    else:
        methods: dict[str, Method] = {"product": Product(), "scaled": Scaled(), "multipliers": network.best}
        value = methods[method]
        answer = bound(graph, method=value)
        found = {"value": answer.upper, "by": repr(value), "runs": [list(map(list, run.layers)) for run in answer.runs]}
    return {**found, "processor": time.process_time() - used, "before": before, "peak": peak()}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.networks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    every = commands.add_parser("run", help="every network")
    every.add_argument("--only", nargs="+", default=list(NAMES), choices=NAMES)
    every.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    beside = commands.add_parser("dense", help="fully connected networks, beside eclipse-nn")
    for each in (every, beside):
        each.add_argument("--limit", type=int, default=600, help="seconds of processor time a process")
        each.add_argument("--out", type=Path, default=FOLDER / LINES)
    single = commands.add_parser("one", help="one method, here")
    single.add_argument("name", choices=NAMES)
    single.add_argument("method", choices=METHODS)
    balls = commands.add_parser("near", help="fully connected networks near one input")
    balls.add_argument("--out", type=Path, default=FOLDER / LINES)
    net = commands.add_parser("net", help="one fully connected network, here")
    net.add_argument("widths")
    commands.add_parser("page", help="write the page and its picture")
    given = parser.parse_args(words)
    if given.command == "run":
        run(given.only, given.methods, given.limit, given.out)
    elif given.command == "dense":
        dense(given.limit, given.out)
    elif given.command == "one":
        print(json.dumps(one(given.name, given.method)))
    elif given.command == "near":
        near(given.out)
    elif given.command == "net":
        from bench.networks_dense import beside_others

        print(json.dumps(beside_others(tuple(map(int, given.widths.split("-"))))))
    else:
        from bench.networks_page import write

        write(FOLDER)


if __name__ == "__main__":
    main()
