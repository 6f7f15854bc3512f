"""What the first call of each public function compiles in JAX: seconds and modules, beside an SVD of the same symbol.

``python -m benchmarks jax-first-calls --out FILE`` keeps the seconds of the file's earlier lines as "before", and
``jax-first-calls-page`` prints a table.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import specnorm
from benchmarks import facts
from benchmarks.facts import FOLDER, Row
from benchmarks.page import span, table

COMMITTED = FOLDER / "jax.jsonl"
COMPILED = "/jax/core/compile/backend_compile_duration"
"""JAX's event that tells the seconds of each compiled module."""
SIZE = 32
Function = Callable[[Any], Any]
FUNCTIONS: dict[str, Function] = {
    "SVD of the symbol by lax": lambda k: jnp.max(jnp.linalg.svd(jnp.fft.fft2(k, (SIZE, SIZE), axes=(2, 3)).T)[1]),
    "enclose": lambda k: specnorm.enclose(k),
    "enclose, 32 pixels": lambda k: specnorm.enclose(k, SIZE),
    "tn_bound": specnorm.tn_bound,
    "conv_norm": lambda k: specnorm.conv_norm(k, SIZE),
    "symbol_norm": specnorm.symbol_norm,
    "power_norm": lambda k: specnorm.power_norm(k, SIZE),
    "reshaped_norm": specnorm.reshaped_norm,
    "singular_values": lambda k: specnorm.singular_values(k, SIZE),
    "grid_bound": specnorm.grid_bound,
    "gram_bound": specnorm.gram_bound,
    "f4_bound": specnorm.f4_bound,
    "unfolding_bounds": specnorm.unfolding_bounds,
    "completion_bound": specnorm.completion_bound,
    "enclose_smallest": lambda k: specnorm.enclose_smallest(k, SIZE),
    "isometry_bound": specnorm.isometry_bound,
    "rescale": specnorm.rescale,
    "clip": lambda k: specnorm.clip(k, 1.0, input_shape=SIZE),
    "gram_rescaling": specnorm.gram_rescaling,
    "lmo": specnorm.lmo,
    "slogdet": lambda k: specnorm.slogdet(k, SIZE),
}
"""Functions of a kernel."""


def rows(names: Sequence[str] = ()) -> Iterator[Row]:
    """Yield what first calls compile, as they are, jitted, and with a gradient."""
    seconds: list[float] = []

    def count(event: str, duration_secs: float, **kwargs: str | int) -> None:  # noqa: ARG001 as JAX calls it
        if event == COMPILED:
            seconds.append(duration_secs)

    assert all(getattr(specnorm.methods, name) for name in dir(specnorm.methods))  # imported before what is timed
    jax.monitoring.register_event_duration_secs_listener(count)
    array = np.random.default_rng(0).standard_normal((16, 16, 3, 3)) / 12
    for name, function in FUNCTIONS.items():
        if names and name not in names:
            continue
        for way, run in (("called", function), ("jitted", jax.jit(function)), ("gradient", _gradient(function))):
            kernel = jax.device_put(array.astype(np.float32))
            jax.clear_caches()  # type: ignore[no-untyped-call]
            seconds.clear()
            begin = time.process_time()
            try:
                jax.block_until_ready(run(kernel))  # type: ignore[no-untyped-call]
            except specnorm.SpecnormError:  # it looks at values, or has no derivative
                continue
            spent = time.process_time() - begin
            yield {
                "case": name, "contestant": way,
                "seconds": spent, "modules": len(seconds), "compile_seconds": sum(seconds),
            }  # fmt: skip


def _gradient(function: Function) -> Function:
    def total(kernel: Any) -> Any:
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(function(kernel)))

    return jax.jit(jax.grad(total))


def write(names: Sequence[str], out: Path | None) -> None:
    """Measure functions, or all, and write the lines to a file, each with what an earlier line of the file says."""
    known = {(row["case"], row["contestant"]): row for row in (facts.read(out) if out else [])}
    for row in rows(names):
        before = known.get((row["case"], row["contestant"]))
        earlier = {key: before[key] for key in ("seconds", "modules", "commit")} if before else None
        known[row["case"], row["contestant"]] = facts.about("jax", "numpy") | row | {"before": earlier}
        print(f"{row['case']}, {row['contestant']}: {row['seconds']:.2f} s, {row['modules']} modules", flush=True)
    if out:
        facts.write(out, list(known.values()))


def show(source: Path = COMMITTED) -> None:
    """Print the table of the lines."""
    known = {(row["case"], row["contestant"]): row for row in facts.read(source)}
    lines = []
    for name in FUNCTIONS:
        cells = []
        for way in ("called", "jitted", "gradient"):
            row = known.get((name, way))
            cells.append(_cell(row) if row else "-")
        lines.append([name if " " in name else f"`{name}`", *cells])
    print(table(["function", "called", "in `jax.jit`", "gradient in `jax.jit`"], lines))


def _cell(row: Row) -> str:
    """Return seconds and modules, and the seconds before if they differ by more than a quarter."""
    cell = f"{span(row['seconds'])}, {row['modules']}"
    before = row["before"]
    differs = before and abs(math.log(before["seconds"] / row["seconds"])) > math.log(1.25)
    return f"{cell} ({span(before['seconds'])}, {before['modules']})" if differs and before["seconds"] > 0.1 else cell
