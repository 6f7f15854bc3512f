"""The benchmark suite: each problem a textbook method and specnorm's, timed in turn on the same kernel."""

from __future__ import annotations

import bisect
import functools
import importlib.util
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from real_weights import real_kernel, real_layers

import specnorm
from bench import facts, kernels, yardsticks
from bench.facts import Row
from bench.libraries import LIBRARIES

SLOWEST = 3.0
"""Seconds that a textbook method may take for one call; beyond, it is left out, and the row says so."""
LARGEST = 2**29
"""Bytes of all symbols of a textbook method; it needs several times as much."""
CLOCK = time.perf_counter if any(not x.missing and x.device != "cpu" for x in LIBRARIES.values()) else time.process_time
"""Processor time of all threads, which other work on the machine does not lengthen; not where a GPU is waited for."""
Run = Callable[[], Any]
Kernel = tuple[str, str, Callable[[], np.ndarray]]
"""Name, family, and the array when it is its turn."""


# -- what is measured ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Section:
    """A table of the page: a function of `yardsticks`, and contestants, on every kernel at every circular size.

    A contestant is a function of an array of the library and the size, or None; its name says method and parameters.
    """

    yardstick: str
    contestants: dict[str, Callable[..., Any]]
    kernels: Sequence[Kernel]
    sizes: Sequence[int | None] = (None,)
    libraries: Sequence[str] = ("torch",)
    dtypes: Sequence[str] = ("float32",)


def squares(*channels: int, family: str = "trained-like") -> list[Kernel]:
    """Square 3x3 kernels."""
    made = {"flat": kernels.flat, "decaying": kernels.decaying}
    make = made.get(family, lambda c: kernels.like_trained((c, c, 3, 3)))
    return [(f"{c} channels", family, functools.partial(make, c)) for c in channels]


_STEPS: dict[Any, int] = {}


def as_near(kernel: Any, n: int) -> Any:
    """`power_norm` with as many steps as bring it as near as 100 steps of the power method: found at the first call."""

    def value(steps: int) -> Any:
        return specnorm.measure(kernel, specnorm.Power(n_iter=steps), input_shape=n, padding_mode="circular").value

    key = (tuple(kernel.shape), n)
    if key not in _STEPS:
        aim = float(yardsticks.power_at_size(kernel, n))
        _STEPS[key] = 1 + bisect.bisect_left(range(1, 100), aim, key=lambda steps: float(value(steps)))
    return value(_STEPS[key])


def rescaled(kernel: Any, n: Any = None) -> Any:
    del n
    return torch.linalg.vector_norm(specnorm.gram_rescaling(kernel))


def rescaled_backward(kernel: Any, n: Any = None) -> Any:
    del n
    k = kernel.detach().requires_grad_()
    return torch.linalg.vector_norm(torch.autograd.grad(rescaled(k), k)[0])


def enclosed(rtol: float) -> Callable[[Any, Any], Any]:
    return lambda k, n: specnorm.enclose(k, n, rtol=rtol).upper


def of(function: Callable[..., Any], **options: Any) -> Callable[[Any, Any], Any]:
    """Without a size, or circular at one."""
    return lambda k, n: function(k, **({} if n is None else {"input_shape": n}), **options)


LARGE, MIDDLE, SMALL = (squares(*(16, 32, 64, 128, 256, 512)[:count]) for count in (6, 4, 3))
RESNET18: list[Kernel] = [
    (name, "trained-like", functools.partial(kernels.like_trained, shape)) for name, shape in kernels.RESNET18.items()
]
REAL: list[Kernel] = [
    (f"{model} {layer}", "real", functools.partial(real_kernel, model, layer))
    for model, layer in (
        ("resnet20", "layer1.0.conv1"), ("resnet20", "layer2.1.conv1"), ("resnet20", "layer3.1.conv1"),
        ("dncnn25", "model.12"),
    )
]  # fmt: skip
TN = {
    "tn_bound, estimate": of(specnorm.tn_bound, certified=False), "tn_bound, proven": of(specnorm.tn_bound),
    "enclose 1e-3": enclosed(1e-3),
}  # fmt: skip
POWER = of(specnorm.power_norm, padding_mode="circular")
CIRCULAR = {"padding_mode": "circular"}
EVERY = tuple(dict.fromkeys(library.name for library in LIBRARIES.values()))
SECTIONS = {
    "tensor norm": Section(
        "hopm_einsum", TN,
        [*RESNET18, *REAL, *squares(64, 256, family="flat"), *squares(64, 256, 512, family="decaying")],
    ),
    "uniform grid": Section(
        "uniform_grid", {"grid_bound": of(specnorm.grid_bound)}, [*RESNET18[:5], *REAL]
    ),
    "unfoldings": Section(
        "unfolding_power", {"f4_bound": of(specnorm.f4_bound)},
        [*LARGE, *squares(16, 32, 64, 128, 256, 512, family="flat")],
    ),
    "circular": Section(
        "rfft_svd", {"conv_norm": of(specnorm.conv_norm), "enclose 1e-3": enclosed(1e-3)},
        [*LARGE, *squares(16, 32, 64, family="flat")], (32, 64, 112, 224, 1024),
    ),
    "gram": Section(
        "gram_rfft", {"gram_bound, 5 steps": of(specnorm.gram_bound, n_iter=5, **CIRCULAR)},
        MIDDLE, (32, 64, 112),
    ),
    "gram, zeros": Section(
        "gram_conv", {"gram_bound, 3 steps": of(specnorm.gram_bound, n_iter=3)}, SMALL
    ),
    "power": Section(
        "power_at_size", {"power_norm": POWER, "power_norm, as near": as_near},
        MIDDLE, (32, 64, 112),
    ),
    "PROPACK": Section("propack", {"power_norm": POWER}, MIDDLE, (32, 64)),
    "rescaling": Section("aol", {"gram_rescaling": rescaled}, SMALL),
    "rescaling, backward": Section(
        "aol_backward", {"gram_rescaling": rescaled_backward}, SMALL
    ),
    "tolerance": Section(
        "hopm_einsum", {f"enclose {rtol:.0e}": enclosed(rtol) for rtol in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)},
        [*squares(64), *squares(64, family="flat")], dtypes=("float32", "float64"),
    ),
    "libraries": Section(
        "hopm_einsum",
        {
            "f4_bound": of(specnorm.f4_bound),
            **TN,
            "completion_bound 1e-2": of(specnorm.completion_bound),
            "completion_bound 1e-3": of(specnorm.completion_bound, rtol=1e-3),
            "conv_norm, n=32": of(specnorm.conv_norm, input_shape=32),
            "gram_bound, n=32": of(specnorm.gram_bound, input_shape=32, **CIRCULAR),
            "power_norm, n=32": of(specnorm.power_norm, input_shape=32, **CIRCULAR),
        },
        squares(64), libraries=EVERY, dtypes=("float32", "float64"),
    ),
}  # fmt: skip


# -- measuring -------------------------------------------------------------------------------------------------------
def run(
    quick: bool, sections: Sequence[str] = (), names: Sequence[str] = (), libraries: Sequence[str] = ()
) -> Iterator[Row]:
    """Rows of all, or of some sections, kernels and libraries; ``quick``: of one small kernel for each."""
    about = facts.about("numpy", "torch", "jax", "cupy") | {
        "clock": "processor" if CLOCK is time.process_time else "wall", "threads": torch.get_num_threads(),
    }  # fmt: skip
    if torch.cuda.is_available():
        about["gpu"] = torch.cuda.get_device_name()
    norms: dict[Any, float] = {}
    for title, section in SECTIONS.items():
        if sections and title not in sections:
            continue
        for (name, family, make), n, dtype in problems(section, quick):
            if not names or name in names:
                kernel = make()[:8, :8] if quick else make()
                said = {**about, "section": title, "name": name, "family": family, "dtype": dtype, "n": n}
                yield from measure(section, kernel.astype(dtype), said, quick, libraries or section.libraries, norms)
    for title, others in {"network": networks, "network bound": bounds, "training step": training}.items():
        if not names and (not sections or title in sections):
            said = {**about, "section": title, "family": "network", "dtype": "float32", "n": None}
            yield from others(said, quick, libraries or ("torch",))


def problems(section: Section, quick: bool) -> Iterator[tuple[Kernel, int | None, str]]:
    """What a section goes through."""
    if quick:
        first = {kernel[1]: kernel for kernel in reversed(section.kernels)}
        yield from itertools.product(first.values(), (section.sizes[0] and 8,), section.dtypes[:1])
        return
    yield from itertools.product(section.kernels, section.sizes, section.dtypes)


def too_much(section: Section, shape: tuple[int, ...], n: int | None) -> str:
    """Why the textbook method is left out; empty if it is not."""
    cout, cin, *window = shape
    work, entries = min(cout, cin) ** 2 * max(cout, cin), math.prod(shape)
    points = math.prod(10 * max(1, k - 1) for k in window) if n is None else n**2
    seconds = {
        "hopm_einsum": 3e-7 * entries, "unfolding_power": 3e-8 * entries, "power_at_size": 8e-9 * points * entries,
        "propack": 8e-9 * points * entries, "gram_conv": 1.2e-6 * work, "aol": 0.0, "aol_backward": 0.0,
    }.get(section.yardstick, 1.2e-9 * points * work)  # fmt: skip
    if section.yardstick == "propack" and importlib.util.find_spec("scipy") is None:
        return "SciPy is not installed"
    if seconds > SLOWEST:
        return f"one call would take about {seconds:.0f} s"
    bytes_of_symbols = 8 * points * cout * cin
    if section.yardstick in ("rfft_svd", "gram_rfft", "uniform_grid") and bytes_of_symbols > LARGEST:
        return f"its symbols alone would take {bytes_of_symbols / 2**30:.1f} GiB"
    return ""


def measure(
    section: Section, kernel: np.ndarray, said: Row, quick: bool, libraries: Sequence[str], norms: dict[Any, float]
) -> Iterator[Row]:
    """Of one kernel: a row for each library and contestant, and one for the textbook method."""
    n, base = said["n"], ("torch cpu", section.yardstick)
    said |= {"shape": list(kernel.shape), "yardstick": section.yardstick}
    runs: dict[tuple[str, str], Run] = {}
    if reason := too_much(section, kernel.shape, n):
        yield {**said, "library": base[0], "contestant": base[1], "skipped": reason}
    else:
        x, yardstick = torch.from_numpy(kernel.copy()), getattr(yardsticks, section.yardstick)
        runs[base] = functools.partial(yardstick, x) if n is None else functools.partial(yardstick, x, n)
    for library in (LIBRARIES[name] for name in libraries):
        if library.missing:
            yield {**said, "library": library.name, "contestant": "every one", "skipped": library.missing}
            continue
        every = list(section.contestants.items())
        for name, call in every[:: len(every) - 1] if quick and len(every) > 3 else every:
            runs[library.name, name] = library.prepare(functools.partial(call, n=n), kernel)
    key = (said["name"], said["family"], n)
    if key not in norms:
        flat = said["family"] in ("flat", "decaying") and kernel.shape[0] >= 128
        norms[key] = float(specnorm.enclose(kernel.astype(np.float64), n, rtol=1e-2 if flat else 1e-4).lower)
    for row in timed(runs, base, said, quick):
        if "value" in row and not said["section"].startswith("rescaling"):
            row["value_over_norm"] = row["value"] / norms[key]
        if "value" in row and said["section"] in ("circular", "unfoldings") and not quick:
            found = facts.peak_bytes(runs[row["library"], row["contestant"]])
            row |= {} if found is None else {"peak_bytes": found, "peak_over_kernel": found / kernel.nbytes}
        yield row


def timed(runs: dict[tuple[str, str], Run], base: tuple[str, str], said: Row, quick: bool) -> Iterator[Row]:
    """A row for each (library, contestant), in turn with the yardstick; what is refused is a row too."""
    values: dict[tuple[str, str], Row] = {}
    for key, call in list(runs.items()):
        begin = time.perf_counter()
        try:
            found = call()
        except (specnorm.SpecnormError, MemoryError) as error:
            del runs[key]
            yield {**said, "library": key[0], "contestant": key[1], "skipped": str(error)[:200]}
            continue
        values[key] = {} if found is None else {"value": float(found)}
        if key[0] != "numpy" and key[0] != "torch cpu":
            values[key]["first_call_seconds"] = time.perf_counter() - begin
    seconds = facts.interleaved(runs, quick, CLOCK)
    for key, times in seconds.items():
        told = facts.timing(times, seconds.get(base))
        yield {**said, "library": key[0], "contestant": key[1], **told, **values[key]}


# -- whole networks --------------------------------------------------------------------------------------------------
PRODUCT = ("numpy", "matrix product")


def product(size: int = 768) -> Run:
    """A square matrix product, as dear as anything gets on this machine."""
    a = np.random.RandomState(0).standard_normal((size, size))
    return lambda: float((a @ a)[0, 0])


def widest(layers: Sequence[tuple[Any, Row]]) -> float:
    """Largest gap of the layers, each enclosed to 1e-3."""
    found = [specnorm.enclose(kernel, **geometry) for kernel, geometry in layers]
    return max(float(it.upper) / float(it.lower) - 1 for it in found)


def networks(said: Row, quick: bool, libraries: Sequence[str]) -> Iterator[Row]:
    """Every layer of a network."""
    real: list[tuple[np.ndarray, Row]] = [(kernel, geometry) for _, kernel, geometry in real_layers("resnet20")]
    every = {"ResNet-20, trained": real[:3] if quick else real}
    if not quick:
        shapes = [(shape, kernels.RESNET18_COUNTS.get(name, 1)) for name, shape in kernels.RESNET18.items()]
        every["ResNet-18, trained-like"] = [
            (kernels.like_trained(shape, seed), {}) for shape, count in shapes for seed in range(count)
        ]
        every["ResNet-50, trained-like"] = [(kernel, {}) for kernel in kernels.resnet50()]
    for name, layers in every.items():
        here = {**said, "name": name, "shape": [sum(k.size for k, _ in layers)], "yardstick": PRODUCT[1]}
        runs: dict[tuple[str, str], Run] = {PRODUCT: product()}
        for library in (LIBRARIES[key] for key in libraries):
            if library.missing:
                yield {**here, "library": library.name, "contestant": "every one", "skipped": library.missing}
            else:
                arrays = [(library.asarray(np.array(kernel)), geometry) for kernel, geometry in layers]
                runs[library.name, "enclose 1e-3"] = functools.partial(widest, arrays)
        yield from timed(runs, PRODUCT, here, quick)


def bounds(said: Row, quick: bool, libraries: Sequence[str]) -> Iterator[Row]:
    """The constant of a network."""
    from specnorm_networks import Method, Multipliers, Product, bound

    from bench.networks_models import NETWORKS

    del libraries
    every: dict[str, dict[str, Method]] = {"three": {"product": Product(), "multipliers": Multipliers(steps=20)}}
    if quick:
        del every["three"]["multipliers"]
    else:
        every["resnet20"] = {"product": Product()}
    for name, methods in every.items():
        graph = NETWORKS[name].made()[1]
        runs: dict[tuple[str, str], Run] = {PRODUCT: product()}
        for title, method in methods.items():
            runs["numpy", title] = functools.partial(lambda g, m: bound(g, method=m).upper, graph, method)
        here = {**said, "name": name, "shape": list(NETWORKS[name].shape), "yardstick": PRODUCT[1]}
        yield from timed(runs, PRODUCT, here, quick)


def training(said: Row, quick: bool, libraries: Sequence[str]) -> Iterator[Row]:
    """A training step of a ResNet-20 without, and with, a penalty that follows every layer's norm."""
    from specnorm_torch import SpectralPenalty

    from bench.networks_models import ResNet20

    batch = 4 if quick else 128
    said |= {"name": "ResNet-20", "shape": [batch, 3, 32, 32], "yardstick": "plain step"}
    for library in (LIBRARIES[name] for name in libraries if name.startswith("torch") and not LIBRARIES[name].missing):
        torch.manual_seed(0)
        model = ResNet20().to(library.device)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        x = torch.randn(batch, 3, 32, 32, device=library.device)
        y = torch.randint(10, (batch,), device=library.device)

        def step(penalty: Any = None, run: Any = model, optimizer: Any = optimizer, x: Any = x, y: Any = y) -> float:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(run(x), y)
            loss = loss if penalty is None else loss + 1e-3 * penalty()
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        plain = (library.name, "plain step")
        runs: dict[tuple[str, str], Run] = {plain: step}
        for method in (specnorm.TensorNorm(), specnorm.FantasticFour(), specnorm.Completion()):
            penalty = SpectralPenalty(model, method).to(library.device)
            runs[library.name, f"with the penalty, {method.name}"] = functools.partial(step, penalty)
        yield from timed(runs, plain, said, quick)
