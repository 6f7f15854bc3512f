"""Does the constraint hold? The norms of the weights that training loops use, and docs/benchmarks/index.md."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks import facts
from benchmarks.facts import Row
from benchmarks.jax_loops import CONSTRAINTS, JAX_LOOPS
from benchmarks.jax_loops import run as run_in_jax
from benchmarks.loops import LONG, LONG_LOOPS, LOOPS, run
from benchmarks.recorder import Used, figures
from benchmarks.ways import WAYS

SEEDS = {"default": (0, 1)}
"""Seeds of each method; other methods are run once, with seed 0."""
EVERY = {name: loop.says for name, loop in (LOOPS | JAX_LOOPS).items()}
"""Description of each loop, by its name."""


def write(loops: Sequence[str], methods: Sequence[str], out: Path | None, *, each_step: bool) -> None:
    """Measure loops, and put each row in place of its like in a file."""
    facts.record(rows(loops or tuple(EVERY), methods or tuple(WAYS), each_step), out, ("loop", "method", "seed"))


def about() -> Row:
    torch.set_num_threads(1)
    return facts.about("torch", "jax", "numpy") | {"threads": 1}


def rows(chosen: Sequence[str], methods: Sequence[str], each_step: bool) -> Iterator[Row]:
    common = about()
    for method, name in itertools.product(methods, chosen):
        if name in JAX_LOOPS and method not in CONSTRAINTS:
            continue
        for seed in SEEDS.get(method, (0,)):
            row = {**common, "loop": name, "trains": EVERY[name], "method": method, "seed": seed}
            yield row | figures(training(name, method, seed), each_step=each_step)


def training(name: str, method: str, seed: int) -> Iterator[list[Used]]:
    """Yield the weights of each step of a loop."""
    if name in LOOPS:
        loop = LOOPS[name]
        return itertools.islice(run(loop.make, WAYS[method], seed), loop.steps)
    return run_in_jax(JAX_LOOPS[name], CONSTRAINTS[method], seed)


# -- long loops --------------------------------------------------------------------------------------------------------
FACTORS = 1, 10
"""Multiples of the usual rate."""
EVERY_STEP_UNTIL, EVERY_FIFTH = 100, 5
"""Steps whose weights are all enclosed, and of how many later ones one is."""


def write_long(out: Path | None) -> None:
    """Does it hold for 2,000 steps, at a usual rate and at ten times that rate, which decay to zero?"""
    facts.record(itertools.starmap(long_row, itertools.product(FACTORS, LONG_LOOPS)), out)


def long_row(factor: int, name: str) -> Row:
    loop = LONG_LOOPS[name](factor)
    steps = enumerate(itertools.islice(run(loop.make, WAYS["default"], 0), LONG))
    found = figures(used for step, used in steps if step < EVERY_STEP_UNTIL or step % EVERY_FIFTH == 0)
    row = {**about(), "loop": name, "trains": loop.says, "method": "default", "factor": factor}
    return row | found | {"steps": LONG, "enclosed_steps": found["steps"]}
