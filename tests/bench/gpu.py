"""What is measured on a GPU, part by part; `bench.gpu_run` starts each part in a process of its own.

    python -m bench.gpu suite torch --device cuda        # one part, a line of JSON for each row

``--device cpu`` runs the same code on torch's CPU and JAX's host platform, so that it can be tried where no GPU is.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]
TESTS = Path(__file__).parents[1]
CHECKED = ("test_conformance.py", "test_arithmetic.py", "methods", "test_precision.py", "test_traps.py", "soundness")
"""Tests that take a library's arrays: files and folders, in this order."""
RTOL = 1e-3


def here(library: str, device: str) -> Any:
    """The library on the device, as the suite has it; `missing` says why it cannot be used."""
    from bench import libraries

    opened = {"torch": libraries._torch, "jax": libraries._jax}
    if library in opened:
        return opened[library](device)
    return libraries._cupy()


def error(it: BaseException) -> str:
    """Class, words and place, on one line."""
    places = traceback.extract_tb(it.__traceback__)
    place = f" ({Path(places[-1].filename).name}:{places[-1].lineno})" if places else ""
    return f"{type(it).__name__}: {' '.join(str(it).split())[:300]}{place}"


def timed(run: Callable[[], Any], repeats: int, most: float = 2.0) -> Row:
    """Seconds of a first call, and the median of further ones, fewer where that takes more than `most`."""
    begin = time.perf_counter()
    value = run()
    row: Row = {"value": float(value), "first_call_seconds": time.perf_counter() - begin}
    times: list[float] = []
    while len(times) < repeats and (not times or sum(times) < most):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return row | {"seconds": statistics.median(times), "repeats": len(times)}


# -- parts -----------------------------------------------------------------------------------------------------------
def machine(library: str, device: str, size: str) -> Iterator[Row]:
    """What it runs on."""
    import torch

    from bench import facts

    del library, size
    name = torch.cuda.get_device_name() if device != "cpu" else facts.processor()
    memory = torch.cuda.get_device_properties(0).total_memory if device != "cpu" else None
    versions = facts.versions("numpy", "torch", "jax", "cupy-cuda13x", "cupy-cuda12x", "cupy", "array-api-compat")
    about = {"name": name, "memory_bytes": memory, "cores": os.cpu_count(), "host": facts.processor()}
    yield about | {"versions": versions}


def conformance(library: str, device: str, size: str) -> Iterator[Row]:
    """Each check of `specnorm.testing`, as `check_backend` runs them."""
    from specnorm import backends, testing

    del size
    backend = backends.load(library)
    named = [name for name in backend.devices() if device == "cpu" or not name.lower().startswith(("cpu", "tfrt"))]
    trial = testing.Trial(backend, named[0])
    for title, check in testing.CHECKS.items():
        begin = time.perf_counter()
        row: Row = {"what": title, "on": named[0]}
        try:
            check(trial)
        except Exception as it:
            row["error"] = error(it)
        yield row | {"seconds": time.perf_counter() - begin}


def shapes(library: str, device: str, size: str) -> Iterator[Row]:
    """ResNet-50's convolutions, each enclosed: all once, then all again, timed."""
    import specnorm
    from bench import kernels

    lib = here(library, device)
    arrays = {
        name: [lib.asarray(kernel) for kernel in found] for name, found in kernels.resnet50(size == "smoke").items()
    }
    first = again = 0.0
    layers, widest = 0, 1.0
    for name, found in arrays.items():
        begin = time.perf_counter()
        specnorm.enclose(found[0], rtol=RTOL)
        first += (started := time.perf_counter() - begin)
        times = []
        for kernel in found:
            begin = time.perf_counter()
            enclosed = specnorm.enclose(kernel, rtol=RTOL)
            gap = float(enclosed.upper) / float(enclosed.lower)
            times.append(time.perf_counter() - begin)
            widest = max(widest, gap)
        again += sum(times)
        layers += len(times)
        yield {
            "what": name, "shape": list(found[0].shape), "count": len(times), "seconds": statistics.median(times),
            "first_call_seconds": started, "gap": gap - 1,
        }  # fmt: skip
    yield {"what": "all", "count": layers, "seconds": again, "first_call_seconds": first, "gap": widest - 1}


def suite(library: str, device: str, size: str) -> Iterator[Row]:
    """The suite's methods on this library, and the textbook method that runs there."""
    from bench import kernels, yardsticks
    from bench.suite import libraries

    lib = here(library, device)
    for channels in (8,) if size == "smoke" else (64, 256):
        (problem,) = libraries(channels, size == "smoke")
        contestants = dict(problem.contestants)
        if library == "torch":
            n = 8 if size == "smoke" else 32
            contestants[f"FFT and svdvals, n={n}"] = functools.partial(yardsticks.rfft_svd, n=n)
        for dtype in problem.dtypes:
            kernel = kernels.like_trained((channels, channels, 3, 3)).astype(dtype)
            for name, call in contestants.items():
                row: Row = {"what": name, "channels": channels, "dtype": dtype}
                try:
                    row |= timed(lib.prepare(call, kernel), 3 if size == "smoke" else 15)
                except Exception as it:
                    row["error"] = error(it)
                yield row


def training(library: str, device: str, size: str) -> Iterator[Row]:
    """What following every layer's norm adds to a training step of a ResNet-20."""
    import specnorm
    from bench.training import cost

    del library
    smoke = size == "smoke"
    given = argparse.Namespace(device=device, batch=4 if smoke else 128, repeats=1 if smoke else 31)
    for method in (specnorm.TensorNorm(), specnorm.FantasticFour()):
        row: Row = {"what": method.name}
        try:
            row = cost(method, None, given) | row
        except Exception as it:
            row["error"] = error(it)
        yield row


def tests(library: str, device: str, size: str) -> Iterator[Row]:
    """The library's own tests with its arrays on the device; a row for each that fails, and the count so far."""
    import pytest

    os.environ["SPECNORM_TEST_BACKENDS"] = library
    if library == "torch" and device != "cpu":
        os.environ["SPECNORM_TEST_DEVICE"] = device
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    last = time.perf_counter()

    class Recorder:
        """Prints as it goes, since the run may be stopped."""

        def pytest_runtest_logreport(self, report: Any) -> None:
            nonlocal last
            if report.when != "call" and report.outcome == "passed":
                return
            counts[report.outcome] += 1
            if report.outcome == "failed":
                told = " ".join(str(getattr(report.longrepr, "reprcrash", report.longrepr)).split())
                say("tests", library, {"what": report.nodeid, "error": told[-300:]})
            if time.perf_counter() - last > 5:
                last = time.perf_counter()
                say("tests", library, {"what": "all", **counts, "ended": False})

    files = CHECKED[:1] if size == "smoke" else CHECKED
    words = ["-q", "-p", "no:cacheprovider", "-m", library, *(str(TESTS / name) for name in files)]
    with contextlib.suppress(ImportError):
        __import__("xdist")
        words += ["-n", str(max(1, (os.cpu_count() or 1) // 3))] if size != "smoke" else []
    with contextlib.redirect_stdout(sys.stderr):
        code = pytest.main(words, plugins=[Recorder()])
    yield {"what": "all", **counts, "ended": int(code) in (0, 1)}


PARTS = {
    "machine": machine, "conformance": conformance, "shapes": shapes, "suite": suite, "training": training,
    "tests": tests,
}  # fmt: skip
OUT = sys.stdout


def say(part: str, library: str, row: Row) -> None:
    """One row, on one line."""
    print(json.dumps({"part": part, "library": library, **row}), file=OUT, flush=True)


def rows(part: str, library: str, device: str, size: str) -> Iterator[Row]:
    """Of one part; what ends it is a row too."""
    try:
        if part != "machine" and (missing := here(library, device).missing):
            yield {"what": "all", "missing": missing}
        else:
            yield from PARTS[part](library, device, size)
    except Exception as it:
        yield {"what": "all", "error": error(it)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("library", choices=("torch", "jax", "cupy"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=("smoke", "full"), default="full")
    given = parser.parse_args()
    for row in rows(given.part, given.library, given.device, given.size):
        say(given.part, given.library, row)


if __name__ == "__main__":
    main()
