"""Layers at their own size: `enclose` on every convolution of the published models, with its size and without.

    python -m bench.sizes run --out FILE [--models resnet20 ...] [--limit 60]
    python -m bench.sizes curves --out FILE     # the norm against n, for three layers: `bench.sizes_curves`
    python -m bench.sizes page                  # docs/benchmarks/sizes.md and its picture: `bench.sizes_page`

Every layer runs in a process of its own with limits on time and memory, so that a run ends. The size is the one that
`layers.json` tells, else 32 pixels an axis, or twice the kernel where no output would be left.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from oracle import padding_pairs
from real_weights import MODELS, real_file, real_kernel, real_layers

import specnorm
from bench import facts

Row = dict[str, Any]
FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"
RTOL = 1e-3
UNKNOWN = 32
MEMORY = 6 * 2**30
"""Bytes of addresses that a layer's process may have."""


def own_sizes(model: str) -> dict[str, tuple[int, ...]]:
    """Input sizes that are known, by name."""
    layers = json.loads(real_file(model).with_name("layers.json").read_text(encoding="utf-8"))["layers"]
    return {layer["name"]: tuple(layer["input"]) for layer in layers if "input" in layer}


def every_layer(models: list[str]) -> Iterator[tuple[str, str, np.ndarray, Row]]:
    """(model, name, kernel, geometry with ``input_shape``) of every convolution."""
    for model in models:
        known = own_sizes(model)
        for name, kernel, geometry in real_layers(model):
            pads = padding_pairs(geometry["padding"], kernel.shape[2:], geometry["dilation"])
            axes = zip(kernel.shape[2:], geometry["dilation"], pads, strict=True)
            fallback = tuple(UNKNOWN if r * (k - 1) < UNKNOWN + sum(p) else 2 * (r * (k - 1) + 1) for k, r, p in axes)
            yield model, name, kernel, {**geometry, "input_shape": known.get(name, fallback)}


# -- measuring -----------------------------------------------------------------------------------------------------
def run(models: list[str], out: Path, limit: int) -> None:
    specnorm.enclose(np.ones((1, 1, 3, 3)), 8, padding_mode="zeros")  # imports, before the clocks start
    said = {
        "rtol": RTOL,
        "limit": limit,
        "machine": facts.processor(),
        "versions": facts.versions("numpy"),
        "commit": facts.commit(),
        "dirty": bool(facts.git("status", "--porcelain", "--", "specnorm", "plugins")),
        "date": facts.date(),
    }
    with out.open("w", encoding="utf-8") as file:
        two = [("aims", name, kernel, {**geometry, "padding_mode": "zeros"}) for name, kernel, geometry in aims()]
        for model, name, kernel, geometry in [*two, *every_layer(models)]:
            row: Row = {"model": model, "name": name, "shape": list(kernel.shape), **geometry}
            row |= {"kernel_bytes": kernel.nbytes}
            row["at_size"] = apart(functools.partial(measured, kernel, geometry), limit)
            anywhere = {key: value for key, value in geometry.items() if key != "input_shape"}
            row["every_size"] = apart(functools.partial(measured, kernel, anywhere), limit)
            file.write(json.dumps(row | said) + "\n")
            file.flush()
            print(model, name, row["shape"], row["input_shape"], summary(row["at_size"]), flush=True)


def apart(act: Callable[[], Row], limit: int) -> Row:
    """What a call returns, in a forked process with limits; else why it did not end."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(act, limit, sender))
    process.start()
    sender.close()
    try:
        found: Row = receiver.recv()
    except EOFError:
        process.join()
        slow = process.exitcode == -signal.SIGXCPU
        found = {"ended": f"not within {limit} s of processor time" if slow else f"exit code {process.exitcode}"}
    process.join()
    return found


def _child(act: Callable[[], Row], limit: int, sender: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    try:
        sender.send(act())
    except MemoryError:
        sender.send({"ended": f"more than {MEMORY / 2**30:g} GiB"})
    except specnorm.SpecnormError as error:
        sender.send({"ended": str(error)})


def measured(kernel: np.ndarray, geometry: Row) -> Row:
    """One enclosure; the fastest of up to three where it is quick, since other programs run too."""
    found: list[Any] = []
    begin, used = time.perf_counter(), time.process_time()
    peak = facts.peak_bytes(lambda: found.append(specnorm.enclose(kernel, rtol=RTOL, **geometry)))
    seconds, processor = time.perf_counter() - begin, time.process_time() - used
    for _ in range(2 if seconds < 1 else 0):
        begin, used = time.perf_counter(), time.process_time()
        specnorm.enclose(kernel, rtol=RTOL, **geometry)
        seconds = min(seconds, time.perf_counter() - begin)
        processor = min(processor, time.process_time() - used)
    lower, upper = float(found[0].lower), float(found[0].upper)
    return {
        "lower": lower,
        "upper": upper,
        "gap": upper / lower - 1 if lower > 0 else 0.0,
        "status": found[0].status,
        "seconds": seconds,
        "processor": processor,
        "peak_bytes": peak,
    }


def summary(found: Row) -> str:
    if "ended" in found:
        return str(found["ended"])
    peak = f"{(found['peak_bytes'] or 0) / 2**20:.0f} MiB"
    return f"gap {found['gap']:.1e} {found['processor']:.3f} s {peak} {found['status']}"


# -- two layers that were slow -----------------------------------------------------------------------------------
def aims() -> Iterator[tuple[str, np.ndarray, Row]]:
    """A full layer at 32 pixels, and a depthwise one at 40."""
    yield "64x64x3x3 at 32", real_kernel("dncnn25", "model.10"), {"input_shape": 32, "padding": 1}
    taps = np.random.RandomState(0).standard_normal((48, 1, 5, 5)).astype(np.float32)
    yield "48x1x5x5, depthwise, at 40", taps, {"input_shape": 40, "padding": 2, "groups": 48}


# -- reading ---------------------------------------------------------------------------------------------------------
def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sizes", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    layers = commands.add_parser("run", help="every layer")
    layers.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    layers.add_argument("--limit", type=int, default=60, help="seconds of processor time a layer")
    layers.add_argument("--out", type=Path, required=True)
    curves = commands.add_parser("curves", help="the norm against n, for three layers")
    curves.add_argument("--out", type=Path, required=True)
    commands.add_parser("page", help="write the page and its picture")
    given = parser.parse_args(words)
    if given.command == "run":
        run(given.models, given.out, given.limit)
    elif given.command == "curves":
        from bench.sizes_curves import measure

        measure(given.out)
    else:
        from bench.sizes_page import write

        write(FOLDER)


if __name__ == "__main__":
    main()
