"""Does the constraint hold? The norms of the weights that training loops use, and docs/benchmarks/index.md."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks import facts, jax_loops, loops
from benchmarks.facts import Row
from benchmarks.recorder import Run, figures
from benchmarks.ways import WAYS, NotServed

KEY = ("loop", "method", "seed")
SEEDS = {"default": (0, 1)}
"""Seeds of each method; other methods are run once, with seed 0."""
QUICK_LOOPS = "one convolution", "three convolutions, Adam", "depthwise", "critic, SGD", "JAX, Adam"
QUICK_METHODS = "default", "torch"
QUICK_STEPS = 40
EVERY = {name: loop.says for name, loop in loops.LOOPS.items()}
EVERY |= {name: loop.says for name, loop in jax_loops.JAX_LOOPS.items()}
"""Description of each loop, by its name."""


# -- measuring -------------------------------------------------------------------------------------------------------
def write(
    chosen: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    steps: int | None,
    out: Path | None,
    *,
    each_step: bool = False,
    quick: bool = False,
) -> None:
    """Print a line of JSON for each run, and put it in place of its like in a file; ``quick``: a sample."""
    torch.set_num_threads(1)
    if quick:
        chosen, methods, seeds, steps = QUICK_LOOPS, QUICK_METHODS, (0,), QUICK_STEPS
    for row in rows(chosen, methods, seeds, steps, each_step=each_step):
        print(json.dumps(row), flush=True)
        if out:
            others = [other for other in facts.read(out) if any(other[name] != row[name] for name in KEY)]
            facts.write(out, sorted([*others, row], key=place))


def rows(
    chosen: Sequence[str], methods: Sequence[str], seeds: Sequence[int], steps: int | None, *, each_step: bool = False
) -> Iterator[Row]:
    about = facts.about("torch", "jax", "numpy", "orthogonium", "deel-torchlip")
    about["threads"] = torch.get_num_threads()
    for method in methods or WAYS:
        for name in chosen or EVERY:
            for seed in seeds or SEEDS.get(method, (0,)):
                common = {**about, "loop": name, "trains": EVERY[name], "method": method, "seed": seed}
                yield common | measured(name, method, seed, steps, each_step=each_step)


def measured(name: str, method: str, seed: int, steps: int | None, *, each_step: bool = False) -> Row:
    """Train with the constraint, and tell how large the weights in use were."""
    begin = time.process_time()
    try:
        run = train(name, method, seed, steps)
    except NotServed as reason:
        return {"skipped": str(reason)[:200]}
    trained = time.process_time()
    row = figures(run, each_step=each_step)
    return row | {"training_seconds": trained - begin, "enclosing_seconds": time.process_time() - trained}


def train(name: str, method: str, seed: int, steps: int | None) -> Run:
    if name in loops.LOOPS:
        return loops.run(name, WAYS[method], seed, steps)
    if method not in jax_loops.CONSTRAINTS:
        raise NotServed("not for JAX")
    return jax_loops.run(name, jax_loops.CONSTRAINTS[method], seed, steps)[0]


def place(row: Row) -> tuple[int, int, int]:
    """Order of the lines: by loop, method and seed as they are listed."""
    return list(EVERY).index(row["loop"]), list(WAYS).index(row["method"]), row["seed"]
