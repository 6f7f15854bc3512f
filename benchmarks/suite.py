"""The benchmark suite: each problem a textbook method and specnorm's, timed in turn on the same kernel."""

from __future__ import annotations

import functools
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers.real_weights import real_kernel, real_layers

import specnorm
from benchmarks import facts, kernels, yardsticks
from benchmarks.facts import Row
from benchmarks.libraries import LIBRARIES
from benchmarks.page import is_hard
from specnorm.running.search import Clock

CLOCK = time.perf_counter if any(not x.missing and x.device != "cpu" for x in LIBRARIES.values()) else time.process_time
"""Processor time of all threads, which other work on the machine does not lengthen; not where a GPU is waited for."""
Run = Callable[[], Any]
Kernel = tuple[str, str, Callable[[], np.ndarray]]
"""Name, family, and a function that makes the array."""


# -- what is measured ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Section:
    """A problem: a function of `yardsticks`, and contestants, on every kernel at every size.

    A contestant is a function of an array of the library and the size, or None. ``geometry``: of the
    layer whose norms the values are; None where they are none. ``base``: the yardstick, if `yardsticks` lacks it.
    ``depthwise``: each kernel of the first axis is a group.
    """

    yardstick: str
    contestants: dict[str, Callable[..., Any]]
    kernels: Sequence[Kernel]
    sizes: Sequence[int | None] = (None,)
    libraries: Sequence[str] = ("torch",)
    geometry: Row | None = field(default_factory=dict)
    base: Callable[[Any, Any], Any] | None = None
    depthwise: bool = False


FAMILIES: dict[str, Callable[[int], np.ndarray]] = {
    "trained-like": lambda c: kernels.like_trained((c, c, 3, 3)),
    "trained-like, level": lambda c: kernels.like_trained((c, c, 3, 3), level=True),
    "flat": kernels.flat,
    "decaying": kernels.decaying,
}


def squares(*channels: int, family: str = "trained-like") -> list[Kernel]:
    return [(f"{c} channels", family, functools.partial(FAMILIES[family], c)) for c in channels]


def of(function: Callable[..., Any], **options: Any) -> Callable[[Any, Any], Any]:
    """Return a function of a kernel and a size, which calls ``function``; without ``input_shape`` for None."""
    return lambda k, n: function(k, **({} if n is None else {"input_shape": n}), **options)


def grouped(function: Callable[..., Any], **options: Any) -> Callable[[Any, Any], Any]:
    """Return such a function for a depthwise layer: each kernel of the first axis is a group."""
    return lambda k, n: of(function, groups=k.shape[0], **options)(k, n)


RESNET18: list[Kernel] = [
    (name, "trained-like", functools.partial(kernels.like_trained, shape))
    for name, shape in kernels.RESNET18.items()
    if shape[0] != shape[1]
]
"""Layers with different numbers of channels in and out: conv1, the first of each stage, and its shortcut."""
REAL: list[Kernel] = [
    (f"{model} {layer}", "real", functools.partial(real_kernel, model, layer))
    for model, layer in (
        ("resnet20", "layer1.0.conv1"), ("resnet20", "layer2.1.conv1"), ("resnet20", "layer3.1.conv1"),
        ("dncnn25", "model.12"),
    )
]  # fmt: skip


def enclosed(kernel: Any, **size: Any) -> Any:
    return specnorm.enclose(kernel, **size).upper


TN = {
    "tn_bound, estimate": of(specnorm.tn_bound, proven=False), "tn_bound, proven": of(specnorm.tn_bound),
    "enclose 1e-3": of(enclosed),
}  # fmt: skip
PRODUCTS = {"hopm_products": of(yardsticks.hopm_products)}
CIRCLE: dict[str, Any] = {"padding_mode": "circular"}
ZEROS: dict[str, Any] = {"padding_mode": "zeros", "padding": 1}
CIRCULAR = {"conv_norm": of(specnorm.conv_norm), "enclose 1e-3": TN["enclose 1e-3"]}
AT_32 = {"input_shape": 32, **CIRCLE}
EVERY = tuple(dict.fromkeys(library.name for library in LIBRARIES.values()))
DEPTHWISE: list[Kernel] = [
    (f"{channels} channels, {taps}x{taps}", "Gaussian", functools.partial(kernels.depthwise, channels, taps))
    for taps in (7, 31)
    for channels in (96, 1024)
]


def gaussian(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.RandomState(0).standard_normal(shape)


SMALL: list[Kernel] = [
    (name, "flat", functools.partial(gaussian, shape))
    for name, shape in {
        "first layer": (8, 3, 3, 3), "wide first layer": (16, 3, 3, 3), "8 channels": (8, 8, 3, 3),
        "8 channels, 5x5": (8, 8, 5, 5), "16 channels": (16, 16, 3, 3), "16 channels, 1x1": (16, 16, 1, 1),
    }.items()
]  # fmt: skip
AT_ONE: list[Kernel] = [*REAL[2:], *squares(64), *squares(64, family="flat")]
SECTIONS = {
    "tensor norm": Section("hopm_einsum", {**PRODUCTS, **TN}, [
        *(kernel for family in FAMILIES for kernel in squares(64, 128, 256, 512, family=family)), *REAL, *RESNET18
    ]),
    "unfoldings": Section("unfolding_power", {"f4_bound": of(specnorm.f4_bound)}, [
        *squares(64, 256, 512), *squares(64, 256, 512, family="flat")
    ]),
    "circular": Section("rfft_svd", CIRCULAR, [*AT_ONE, *squares(16, 32, 128)], (8, 32)),
    "small layers": Section("rfft_svd_in_numpy", {
        **CIRCULAR, "enclose_smallest 1e-3": of(lambda k, **size: specnorm.enclose_smallest(k, **size).lower)
    }, SMALL, (32,), libraries=("numpy",), geometry=None, base=lambda k, n: yardsticks.rfft_svd_in_numpy(k.numpy(), n)),
    "circular, large": Section("rfft_svd", CIRCULAR, squares(16, 32), (224,)),
    "singular values": Section("rfft_svd", {
        "rfft_double": lambda k, n: yardsticks.rfft_double(k, n),
        "singular_values": lambda k, n: specnorm.singular_values(k, n)[0],
        "singular_values, k=10": lambda k, n: specnorm.singular_values(k, n, k=10)[0],
    }, [*squares(8, 16, 64), *squares(64, family="flat"), *squares(64, family="decaying")], (32,)),
    "gram": Section("gram_conv", {"gram_bound, 3 steps": of(specnorm.gram_bound, n_iter=3)}, squares(16, 32, 64, 128)),
    "power": Section("propack", {"power_norm": of(specnorm.power_norm, **ZEROS)},
        [("3 channels", "Gaussian", functools.partial(kernels.flat, 3)), *AT_ONE], (32,), geometry=ZEROS),
    "zero padding": Section("propack", {"enclose 1e-3": of(enclosed, **ZEROS)}, squares(16, 64), (64,),
        geometry=ZEROS),
    "zero padding, large": Section("enclose, every size", {"enclose 1e-3": of(enclosed, **ZEROS)}, squares(16, 64),
        (128, 256, 512), geometry=ZEROS, base=lambda k, _: enclosed(k)),
    "zero padding, tolerances": Section("enclose 1e-3", {
        f"enclose {rtol:g}": of(enclosed, rtol=rtol, **ZEROS) for rtol in (1e-1, 1e-2, 3e-3)
    }, REAL, (8, 16), geometry=ZEROS, base=lambda k, n: enclosed(k, input_shape=n, **ZEROS)),
    "rescaling": Section("aol", {"gram_rescaling": of(lambda k: specnorm.gram_rescaling(k).sum())}, squares(64, 256),
        geometry=None),
    "multiple": Section("enclose 1e-3", {"rescale": of(lambda k: specnorm.rescale(k).sum())},
        [*REAL, *squares(64, 128, 256)], geometry=None, base=of(enclosed)),
    "clipping": Section("enclose 1e-3", {"clip": of(lambda k, **size: specnorm.clip(k, **size).sum())}, AT_ONE, (32,),
        geometry=None, base=of(enclosed)),
    "depthwise": Section("rfft_largest", {
        "tn_bound, estimate": grouped(specnorm.tn_bound, proven=False), "tn_bound, proven": grouped(specnorm.tn_bound),
        "enclose 1e-3": grouped(enclosed), "symbol_norm": grouped(specnorm.symbol_norm),
    }, DEPTHWISE, depthwise=True),
    "depthwise, at a size": Section("rfft_largest", {
        "conv_norm": grouped(specnorm.conv_norm), "enclose 1e-3": grouped(enclosed)
    }, DEPTHWISE, (64,), depthwise=True),
    "libraries": Section("hopm_einsum", {
        "f4_bound": of(specnorm.f4_bound), **TN, "conv_norm, n=32": of(specnorm.conv_norm, input_shape=32),
        "completion_bound 1e-2": of(specnorm.completion_bound),
        "completion_bound 1e-3": of(specnorm.completion_bound, rtol=1e-3),
        "gram_bound, n=32": of(specnorm.gram_bound, **AT_32), "power_norm, n=32": of(specnorm.power_norm, **AT_32),
    }, squares(64), libraries=EVERY),
}  # fmt: skip


# -- measuring -------------------------------------------------------------------------------------------------------
def write(quick: bool, sections: Sequence[str], libraries: Sequence[str], out: Path | None, add: bool = False) -> None:
    """Measure, print each row as JSON, and write the rows to ``out`` if it is not None; ``add``: keep its old rows."""
    rows = facts.read(out) if out and add else []
    # A busy machine is to measure what an idle one would: budgets count work.
    with Clock.counting_work():
        for row in run(quick, sections, libraries, rows):
            rows.append(row)
            print(json.dumps(row), flush=True)
            if out:
                facts.write(out, rows)


def run(quick: bool, sections: Sequence[str], libraries: Sequence[str], earlier: Iterable[Row] = ()) -> Iterator[Row]:
    """Yield rows of all sections and libraries, or of some; ``quick``: of one small kernel for each family."""
    clock = "processor" if CLOCK is time.process_time else "wall"
    about = facts.about("numpy", "scipy", "torch", "jax", "cupy") | {"clock": clock, "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        about["gpu"] = torch.cuda.get_device_name()
    norms = Norms(earlier)
    for title, section in SECTIONS.items():
        if sections and title not in sections:
            continue
        first = {kernel[1]: kernel for kernel in reversed(section.kernels)}
        for (name, family, make), n in itertools.product(first.values() if quick else section.kernels, section.sizes):
            kernel = (make()[:8, :8] if quick else make()).astype("float32")
            common = {**about, "section": title, "name": name, "family": family, "n": n and 8 if quick else n}
            yield from measure(section, kernel, common, quick, libraries or section.libraries, norms)
    for title, (rows, usual) in OTHERS.items():
        if not sections or title in sections:
            yield from rows({**about, "section": title, "n": None}, quick, libraries or usual)


class Norms:
    """Proven lower bounds of the kernels' norms, each computed once.

    Parameters
    ----------
    rows : iterable of Row
        Rows of an earlier part of the run. Their norms are not computed again.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.known_norms: dict[str, float] = {self.key(row): row["norm"] for row in rows if "norm" in row}

    def of(self, kernel: np.ndarray, common: Row) -> float | None:
        """Return the proven lower end, 1e-4 below the norm at most; 1e-2 where that takes long. None if no norm."""
        section = SECTIONS[common["section"]]
        if section.geometry is None:
            return None
        geometry = section.geometry | ({"groups": kernel.shape[0]} if section.depthwise else {})
        key = self.key(common)
        if key not in self.known_norms:
            takes_long = is_hard(common["family"], kernel.shape[0])
            wide = kernel if takes_long else kernel.astype(np.float64)
            enclosure = specnorm.enclose(wide, common["n"], rtol=1e-2 if takes_long else 1e-4, **geometry)
            self.known_norms[key] = float(enclosure.lower)
        return self.known_norms[key]

    @staticmethod
    def key(row: Row) -> str:
        return repr([row["name"], row["family"], row["shape"], row["n"], SECTIONS[row["section"]].geometry])


def measure(
    section: Section, kernel: np.ndarray, common: Row, quick: bool, libraries: Sequence[str], norms: Norms
) -> Iterator[Row]:
    """Yield the rows of one kernel: one for the yardstick, and one for each library and contestant."""
    n, base = common["n"], ("torch cpu", section.yardstick)
    common |= {"shape": list(kernel.shape), "yardstick": section.yardstick}
    runs: dict[tuple[str, str], Run] = {}
    tensor = torch.from_numpy(kernel.copy())
    if section.base:
        runs[base] = functools.partial(section.base, tensor, n)
    else:
        runs[base] = functools.partial(getattr(yardsticks, section.yardstick), tensor, *([] if n is None else [n]))
    for library in (LIBRARIES[name] for name in libraries):
        if library.missing:
            yield {**common, "library": library.name, "contestant": "every one", "skipped": library.missing}
            continue
        every = list(section.contestants.items())
        for name, call in every[:: len(every) - 1] if quick and len(every) > 3 else every:
            runs[library.name, name] = library.prepare(functools.partial(call, n=n), kernel)
    norm = norms.of(kernel, common)
    for row in timed(runs, base, common, quick):
        if "value" in row and norm is not None:
            row |= {"norm": norm, "value_over_norm": row["value"] / norm}
        yield row


def timed(runs: dict[tuple[str, str], Run], base: tuple[str, str], common: Row, quick: bool) -> Iterator[Row]:
    """A row for each (library, contestant), in turn with the yardstick; what is refused is a row too."""
    values: dict[tuple[str, str], Row] = {}
    for key, call in list(runs.items()):
        begin = CLOCK()
        try:
            values[key] = {"value": float(call())}
        except (specnorm.SpecnormError, MemoryError, ImportError) as error:
            del runs[key]
            yield {**common, "library": key[0], "contestant": key[1], "skipped": str(error)[:200]}
            continue
        if key[0] not in ("numpy", "torch cpu"):
            values[key]["first_call_seconds"] = CLOCK() - begin
    seconds = facts.interleaved(runs, quick, CLOCK)
    for key, times in seconds.items():
        ratios = facts.timing(times, seconds.get(base))
        yield {**common, "library": key[0], "contestant": key[1], **ratios, **values[key]}


# -- whole networks --------------------------------------------------------------------------------------------------
def widest(layers: Sequence[tuple[Any, Row]]) -> float:
    """Largest gap of the layers, each enclosed to 1e-3."""
    enclosures = [specnorm.enclose(kernel, **geometry) for kernel, geometry in layers]
    return max(float(enclosure.upper) / float(enclosure.lower) - 1 for enclosure in enclosures)


def completed(layers: Sequence[tuple[Any, Row]]) -> float:
    return max(float(specnorm.completion_bound(kernel, **geometry)) for kernel, geometry in layers)


def networks(common: Row, quick: bool, libraries: Sequence[str]) -> Iterator[Row]:
    """Every layer of a network, beside a matrix product, as dear as anything gets on this machine."""
    real = [(kernel, geometry) for _, kernel, geometry in real_layers("resnet20")]
    every: dict[str, Any] = {"ResNet-20, trained": real[:3] if quick else real}
    if not quick:
        every["ResNet-18's shapes"] = [(kernels.like_trained(shape), {}) for shape in kernels.RESNET18.values()]
    product = ("numpy", "matrix product")
    a = np.random.RandomState(0).standard_normal((768, 768))
    for name, layers in every.items():
        of_network = {
            **common,
            "family": "network",
            "name": name,
            "shape": [sum(k.size for k, _ in layers)],
            "yardstick": product[1],
        }
        runs: dict[tuple[str, str], Run] = {product: lambda: (a @ a)[0, 0]}
        for library in (LIBRARIES[key] for key in libraries):
            if library.missing:
                yield {**of_network, "library": library.name, "contestant": "every one", "skipped": library.missing}
                continue
            arrays = [(library.asarray(np.array(kernel)), geometry) for kernel, geometry in layers]
            at = library.name
            runs[at, "enclose 1e-3"] = functools.partial(widest, arrays)
            if name.startswith("ResNet-20"):
                runs[at, "completion_bound 1e-2"] = functools.partial(completed, arrays)
        yield from timed(runs, product, of_network, quick)


# -- JAX without jit -------------------------------------------------------------------------------------------------
def concrete_in_jax(common: Row, quick: bool, _libraries: Sequence[str]) -> Iterator[Row]:
    """Calls outside of jit on a JAX array, each also for the first time, beside the same on a NumPy array."""
    import jax  # imported here: other sections do without it

    kernel = kernels.like_trained((8, 8, 3, 3) if quick else (64, 64, 3, 3)).astype("float32")
    array = jax.device_put(kernel)
    calls = {
        "conv_norm": of(specnorm.conv_norm),
        "grid_bound": of(specnorm.grid_bound),
        "power_norm": of(specnorm.power_norm, **ZEROS),
    }
    about = {**common, "family": "trained-like", "name": "64 channels", "shape": list(kernel.shape)}
    for name, call in calls.items():
        n = None if name == "grid_bound" else 32
        base, in_jax = ("numpy", f"{name}, NumPy array"), ("jax cpu", f"{name}, JAX array")
        runs: dict[tuple[str, str], Run] = {
            base: functools.partial(call, kernel, n),
            in_jax: functools.partial(call, array, n),
        }
        rows = list(timed(runs, base, {**about, "n": n, "yardstick": base[1]}, quick))
        yield from rows
        seconds = rows[1]["first_call_seconds"]
        first = {"seconds": seconds, "repeats": 1, "faster": rows[0]["seconds"] / seconds}
        yield {**rows[1], "contestant": f"{in_jax[1]}, first call", **first, "faster_range": [first["faster"]] * 2}


# -- a step of a constraint ------------------------------------------------------------------------------------------
def constraints(common: Row, quick: bool, libraries: Sequence[str]) -> Iterator[Row]:
    """A weight in training, forward and backward: torch's own constraint, in JAX one power step by hand, and ours."""
    from benchmarks import constraint_cost  # which needs JAX

    measurements = {
        "torch": (constraint_cost.of_a_weight, "torch"),
        "jax": (constraint_cost.in_jax, "power step by hand"),
    }
    chosen = [(library, *measurements[library]) for library in libraries if library in measurements]
    channels = constraint_cost.CHANNELS[:1] if quick else constraint_cost.CHANNELS
    for (library, rows, yardstick), c in itertools.product(chosen, channels):
        about = {
            "family": "Gaussian",
            "name": f"{c} channels",
            "shape": [c, c, 3, 3],
            "library": LIBRARIES[library].name,
        }
        for row in rows(c, 2 if quick else constraint_cost.REPEATS[c]):
            yield {**common, **about, "yardstick": yardstick, **row, "section": common["section"]}


OTHERS: dict[str, tuple[Callable[[Row, bool, Sequence[str]], Iterator[Row]], Sequence[str]]] = {
    "JAX without jit": (concrete_in_jax, ("jax",)),
    "step of a constraint": (constraints, ("torch", "jax")),
    "network": (networks, ("torch",)),
}
"""Sections that are no list of kernels, and the libraries that they are measured in."""
