"""The problems of the benchmark suite: each a textbook method and specnorm's, timed in turn on the same kernel."""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from real_weights import real_layers

import specnorm
from bench import facts, kernels, yardsticks
from bench.libraries import LIBRARIES, Library

TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
SLOWEST = {"smoke": 2.0, "full": 3.0}
"""Seconds that a textbook method may take for one call; beyond, it is left out, and the row says so."""
CLOCK = time.perf_counter if any(not x.missing and x.device != "cpu" for x in LIBRARIES.values()) else time.process_time
"""Processor time of all threads, which other work on the machine does not lengthen; not where a GPU is waited for."""
LARGEST = 2**29
"""Bytes of all symbols of a textbook method; it needs several times as much."""


FACTS: dict[str, Any] = {
    "date": facts.date(),
    "commit": facts.commit() + ("+" if facts.git("status", "--porcelain", "--", "specnorm", "plugins") else ""),
    "machine": f"{facts.processor()}, {os.cpu_count()} cores",
    "clock": "processor" if CLOCK is time.process_time else "wall",
    "versions": facts.versions("numpy", "torch", "jax", "cupy"),
}
Contestant = Callable[[Any], Any]
"""From a kernel to a number."""


@dataclass(frozen=True)
class Problem:
    """One kernel, one textbook method, and what is measured beside it.

    Parameters
    ----------
    section : str
        Table of the page.
    name, family : str
        Of the kernel.
    kernel : array
    yardstick : str
        A function of `yardsticks`, with n if there is one.
    contestants : dict
        Name -> function of (specnorm, an array of the library). Names say method and parameters.
    n : int, optional
        Input size, circular.
    libraries : sequence of str
    dtypes : sequence of str
    """

    section: str
    name: str
    family: str
    kernel: np.ndarray
    yardstick: str
    contestants: dict[str, Contestant]
    n: int | None = None
    libraries: Sequence[str] = ("torch",)
    dtypes: Sequence[str] = ("float32",)

    def too_much(self, size: str) -> str:
        """Why the textbook method is left out; empty if it is not."""
        cout, cin = self.kernel.shape[:2]
        work = min(cout, cin) ** 2 * max(cout, cin)
        points = math.prod(10 * max(1, k - 1) for k in self.kernel.shape[2:]) if self.n is None else self.n**2
        seconds = {
            "hopm_einsum": 3e-7 * self.kernel.size, "unfolding_power": 3e-8 * self.kernel.size,
            "power_at_size": 8e-9 * points * self.kernel.size, "propack": 8e-9 * points * self.kernel.size,
            "gram_conv": 1.2e-6 * work, "aol": 0.0, "aol_backward": 0.0,
        }.get(self.yardstick, 1.2e-9 * points * work)  # fmt: skip
        if self.yardstick == "propack" and importlib.util.find_spec("scipy") is None:
            return "SciPy is not installed"
        if seconds > SLOWEST[size]:
            return f"one call would take about {seconds:.0f} s"
        bytes_of_symbols = 8 * points * cout * cin
        if self.yardstick in ("rfft_svd", "gram_rfft", "uniform_grid") and bytes_of_symbols > LARGEST:
            return f"its symbols alone would take {bytes_of_symbols / 2**30:.1f} GiB"
        return ""


def problems(size: str) -> Iterator[Problem]:
    """All of a size, one after the other: "smoke" takes seconds, "full" some ten minutes."""
    smoke = size == "smoke"
    shapes = {"stem": (8, 3, 3, 3)} if smoke else kernels.RESNET18
    for name, shape in shapes.items():
        yield from everywhere(name, "trained-like", kernels.like_trained(shape))
    for model, layer in (("resnet20", "layer1.0.conv1"),) if smoke else REAL:
        yield from everywhere(f"{model} {layer}", "real", kernels.real_kernel(model, layer))
    for channels in (16,) if smoke else (16, 32, 64, 128, 256, 512):
        square = (channels, channels, 3, 3)
        yield from unfoldings(channels, "trained-like", kernels.like_trained(square))
        yield from unfoldings(channels, "flat", kernels.flat(channels))
        if channels <= 64:
            yield from every_size(channels, kernels.like_trained(square))
    for channels in (8,) if smoke else (16, 32, 64, 128, 256, 512):
        for n in (8,) if smoke else (32, 64, 112, 224, 1024):
            square = (channels, channels, 3, 3)
            yield from at_a_size(channels, n, "trained-like", kernels.like_trained(square))
            if channels <= 64:
                yield from at_a_size(channels, n, "flat", kernels.flat(channels))
    channels = 8 if smoke else 64
    square = (channels, channels, 3, 3)
    yield from tolerances(
        channels, "trained-like", kernels.like_trained(square), TOLERANCES[::5] if smoke else TOLERANCES
    )
    yield from tolerances(channels, "flat", kernels.flat(channels), TOLERANCES[::5] if smoke else TOLERANCES[:4])
    yield from libraries(8 if smoke else 64, smoke)


REAL = (
    ("resnet20", "layer1.0.conv1"),
    ("resnet20", "layer2.1.conv1"),
    ("resnet20", "layer3.1.conv1"),
    ("dncnn25", "model.12"),
)


def everywhere(name: str, family: str, kernel: np.ndarray) -> Iterator[Problem]:
    """Every input size at once."""
    yield Problem(
        "tensor norm", name, family, kernel, "hopm_einsum",
        {
            "tn_bound, estimate": lambda k: specnorm.tn_bound(k, certified=False),
            "tn_bound, proven": specnorm.tn_bound,
            "enclose 1e-3": lambda k: specnorm.enclose(k).upper,
        },
    )  # fmt: skip
    if kernel.shape[0] <= 128:
        yield Problem("uniform grid", name, family, kernel, "uniform_grid", {"grid_bound": specnorm.grid_bound})


def unfoldings(channels: int, family: str, kernel: np.ndarray) -> Iterator[Problem]:
    """Fantastic Four."""
    yield Problem(
        "unfoldings", f"{channels} channels", family, kernel, "unfolding_power", {"f4_bound": specnorm.f4_bound}
    )


def at_a_size(channels: int, n: int, family: str, kernel: np.ndarray) -> Iterator[Problem]:
    """One circular input size."""
    name = f"{channels} channels"
    exact = {"conv_norm": lambda k: specnorm.conv_norm(k, n), "enclose 1e-3": lambda k: specnorm.enclose(k, n).upper}
    yield Problem("circular", name, family, kernel, "rfft_svd", exact, n)
    if family == "flat" or n > 112 or channels > 128:
        return
    five: Contestant = lambda k: specnorm.gram_bound(k, n, n_iter=5, padding_mode="circular")  # noqa: E731
    yield Problem("gram", name, family, kernel, "gram_rfft", {"gram_bound, 5 steps": five}, n)
    full: Contestant = lambda k: specnorm.power_norm(k, n, padding_mode="circular")  # noqa: E731
    power: dict[str, Contestant] = {"power_norm": full, "power_norm, as near": AsNear(n)}
    yield Problem("power", name, family, kernel, "power_at_size", power, n)
    if n <= 64:
        yield Problem("PROPACK", name, family, kernel, "propack", {"power_norm": full}, n)


class AsNear:
    """`power_norm` with as many steps as bring it as near as 100 steps of the power method: found at the first call."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._steps = 0

    def __call__(self, kernel: Any) -> Any:
        if not self._steps:
            aim, low, high = float(yardsticks.power_at_size(kernel, self._n)), 0, 1
            while high < 100 and self._value(kernel, high) < aim:
                low, high = high, 2 * high
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if self._value(kernel, middle) >= aim else (middle, high)
            self._steps = high
        return self._value(kernel, self._steps)

    def _value(self, kernel: Any, steps: int) -> Any:
        method = specnorm.Power(n_iter=steps)
        return specnorm.measure(kernel, method, input_shape=self._n, padding_mode="circular").value


def every_size(channels: int, kernel: np.ndarray) -> Iterator[Problem]:
    """Gram iteration for zero padding, and the layers that divide by it."""
    name, family = f"{channels} channels", "trained-like"
    three: Contestant = lambda k: specnorm.gram_bound(k, n_iter=3)  # noqa: E731
    yield Problem("gram, zeros", name, family, kernel, "gram_conv", {"gram_bound, 3 steps": three})

    def backward(kernel: Any) -> Any:
        k = kernel.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(torch.linalg.vector_norm(specnorm.spectral_rescaling(k)), k)
        return torch.linalg.vector_norm(gradient)

    forward: Contestant = lambda k: torch.linalg.vector_norm(specnorm.spectral_rescaling(k))  # noqa: E731
    yield Problem("rescaling", name, family, kernel, "aol", {"spectral_rescaling": forward})
    yield Problem("rescaling, backward", name, family, kernel, "aol_backward", {"spectral_rescaling": backward})


def tolerances(channels: int, family: str, kernel: np.ndarray, every: Sequence[float]) -> Iterator[Problem]:
    """The price of digits."""

    def enclosed(rtol: float) -> Contestant:
        return lambda k: specnorm.enclose(k, rtol=rtol).upper

    contestants = {f"enclose {rtol:.0e}": enclosed(rtol) for rtol in every}
    dtypes = ("float32", "float64")
    yield Problem("tolerance", f"{channels} channels", family, kernel, "hopm_einsum", contestants, dtypes=dtypes)


def libraries(channels: int, smoke: bool) -> Iterator[Problem]:
    """The same on every library that is here."""
    kernel, n = kernels.like_trained((channels, channels, 3, 3)), 8 if smoke else 32
    contestants: dict[str, Contestant] = {
        "f4_bound": specnorm.f4_bound,
        "grid_bound": specnorm.grid_bound,
        "tn_bound, estimate": lambda k: specnorm.tn_bound(k, certified=False),
        f"conv_norm, n={n}": lambda k: specnorm.conv_norm(k, n),
        f"gram_bound, n={n}": lambda k: specnorm.gram_bound(k, n, padding_mode="circular"),
        f"power_norm, n={n}": lambda k: specnorm.power_norm(k, n, padding_mode="circular"),
        "enclose 1e-3": lambda k: specnorm.enclose(k).upper,
    }
    if smoke:
        contestants = {key: contestants[key] for key in ("f4_bound", "tn_bound, estimate")}
    # Some have two names.
    every = tuple(dict.fromkeys(library.name for library in LIBRARIES.values()))
    dtypes = ("float32",) if smoke else ("float32", "float64")
    name = f"{channels} channels"
    yield Problem("libraries", name, "trained-like", kernel, "hopm_einsum", contestants, None, every, dtypes)


class Sigma:
    """The norms that values are compared with: proven to 1e-4, once for each kernel and size."""

    def __init__(self) -> None:
        self._found: dict[tuple[bytes, int | None], float] = {}

    def of(self, kernel: np.ndarray, n: int | None) -> float:
        """Lower bound; a large flat kernel to 1e-2 only."""
        key = (kernel.tobytes()[:4096] + repr(kernel.shape).encode(), n)
        if key not in self._found:
            flat = kernel.shape[0] >= 128 and float(np.abs(kernel).max()) > 4
            self._found[key] = float(specnorm.enclose(kernel, n, rtol=1e-2 if flat else 1e-4).lower)
        return self._found[key]


def measure(problem: Problem, size: str, sigma: Sigma) -> Iterator[dict[str, Any]]:
    """Rows of one problem: a line for each library, dtype and contestant, and one for the textbook method."""
    for dtype in problem.dtypes:
        kernel = problem.kernel.astype(dtype)
        sizes = () if problem.n is None else (problem.n,)
        plain = functools.partial(getattr(yardsticks, problem.yardstick), torch.from_numpy(kernel.copy()), *sizes)
        reason = problem.too_much(size)
        runs: dict[tuple[str, str], Callable[[], Any]] = {("torch cpu", problem.yardstick): plain} if not reason else {}
        values: dict[tuple[str, str], float] = {}
        about = {
            **FACTS, "threads": torch.get_num_threads(), "section": problem.section, "name": problem.name,
            "family": problem.family, "shape": list(kernel.shape), "dtype": dtype, "n": problem.n,
            "yardstick": problem.yardstick,
        }  # fmt: skip
        first: dict[tuple[str, str], float] = {}
        for library in (LIBRARIES[name] for name in problem.libraries):
            if library.missing:
                yield {**about, "library": library.name, "contestant": "every one", "skipped": library.missing}
                continue
            for name, call in problem.contestants.items():
                key = (library.name, name)
                runs[key] = library.prepare(call, kernel)
                begin = time.perf_counter()
                try:
                    values[key] = float(runs[key]())
                except (specnorm.SpecnormError, MemoryError) as error:
                    del runs[key]
                    yield {**about, "library": library.name, "contestant": name, "skipped": str(error)[:200]}
                    continue
                first[key] = time.perf_counter() - begin
        if reason:
            yield {**about, "library": "torch cpu", "contestant": problem.yardstick, "skipped": reason}
        else:
            values["torch cpu", problem.yardstick] = float(plain())
        seconds = interleaved(runs, size)
        norm = sigma.of(problem.kernel, problem.n)
        base = seconds.get(("torch cpu", problem.yardstick))
        for key, times in seconds.items():
            row = {**about, "library": key[0], "contestant": key[1], **timing(times, base)}
            row["value"] = values[key]
            if not problem.section.startswith("rescaling"):
                row["value_over_norm"] = values[key] / norm
            if key in first and LIBRARIES[key[0]].compiles:
                row["first_call_seconds"] = first[key]
            if problem.section in ("circular", "unfoldings") and size == "full":
                row |= memory(runs[key], kernel.nbytes)
            yield row


def networks(size: str) -> Iterator[dict[str, Any]]:
    """Whole networks, every layer enclosed to 1e-3: no textbook method takes part."""
    real = [(kernel, geometry) for _, kernel, geometry in real_layers("resnet20")]
    chosen: dict[str, list[tuple[np.ndarray, dict[str, Any]]]] = {"ResNet-20, trained": real}
    if size == "smoke":
        chosen = {"ResNet-20, trained": real[:3]}
    if size == "full":
        chosen["ResNet-18, trained-like"] = [
            (kernels.like_trained(shape, seed), {})
            for name, shape in kernels.RESNET18.items()
            for seed in range(kernels.RESNET18_COUNTS.get(name, 1))
        ]
    for name, layers in chosen.items():
        arrays = [(torch.from_numpy(np.array(kernel)), geometry) for kernel, geometry in layers]

        def run(arrays: list[tuple[torch.Tensor, dict[str, Any]]] = arrays) -> None:
            for kernel, geometry in arrays:
                specnorm.enclose(kernel, **geometry)

        run()
        times = next(iter(interleaved({"enclose": run}, size).values()))
        yield {
            **FACTS, "threads": torch.get_num_threads(), "section": "network", "name": name, "family": "network",
            "shape": [sum(kernel.numel() for kernel, _ in arrays)], "dtype": "float32", "n": None, "yardstick": "",
            "library": "torch cpu", "contestant": "enclose 1e-3", **timing(times, None),
        }  # fmt: skip


def interleaved(runs: dict[Any, Callable[[], Any]], size: str) -> dict[Any, list[float]]:
    """Seconds of each in turn, so that whatever else the machine does falls on all of them."""
    seconds: dict[Any, list[float]] = {key: [] for key in runs}
    least, most, budget = (2, 3, 0.3) if size == "smoke" else (3, 15, 1.0)
    spent = 0.0
    for j in range(most):
        # One or two are enough of something slow.
        if spent > (budget if j >= least else 3 * budget):
            break
        for key, run in runs.items():
            start = CLOCK()
            run()
            seconds[key].append(CLOCK() - start)
        spent = sum(map(sum, seconds.values()))
    return seconds


def timing(times: list[float], base: list[float] | None) -> dict[str, Any]:
    """Median; paired ratio to the textbook method, above 1 if that is slower, with its lowest and highest quarter."""
    row: dict[str, Any] = {"seconds": statistics.median(times), "repeats": len(times)}
    if base is not None:
        ratios = sorted(b / t for b, t in zip(base, times, strict=True))
        quarter = len(ratios) // 4
        row |= {"faster": statistics.median(ratios), "faster_range": [ratios[quarter], ratios[-1 - quarter]]}
    return row


def memory(run: Callable[[], Any], kernel: int) -> dict[str, Any]:
    """Peak of one call over what was there before."""
    found = facts.peak_bytes(run)
    return {} if found is None else {"peak_bytes": found, "peak_over_kernel": found / kernel}


__all__ = ["FACTS", "LIBRARIES", "Library", "Problem", "Sigma", "measure", "networks", "problems"]
