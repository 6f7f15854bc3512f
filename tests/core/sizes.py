"""Calls with sizes up to 1e6 and counts up to 1e9, each in a process whose memory is limited.

``python -m core.sizes FIRST COUNT SECONDS`` in the folder ``tests`` makes some calls of a seeded list and prints those
that end in anything but an answer or one of specnorm's errors, within SECONDS of processor time.
"""

from __future__ import annotations

import os
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import specnorm
from specnorm.errors import SpecnormError
from specnorm.methods import Gram, Grid, PowerTopK, SymbolNorm

MEMORY = 5 << 30
"""Bytes of the address space: what functions may take besides their chunks is 4 GiB, where they say so."""
BILLION = 10**9
MODES = ("circular", "zeros", "reflect", "symmetric", "replicate")
AT_A_SIZE = (
    "enclose", "conv_norm", "power_norm", "singular_values", "gram_bound", "f4_bound", "rescale", "certify", "slogdet",
    "enclose_smallest", "compare", "grid_bound", "tn_bound",
)  # fmt: skip
AT_EVERY_SIZE = (
    "tn_bound", "f4_bound", "unfolding_bounds", "gram_bound", "grid_bound", "completion_bound", "complete",
    "symbol_norm", "enclose", "reshaped_norm", "conv_norm", "rescale", "lmo", "isometry_bound", "gram_rescaling",
    "enclose_smallest", "condition_number", "compare",
)  # fmt: skip
NAMED: dict[str, tuple[Any, ...]] = {"certify": (5.0,)}
Call = Callable[[], object]


def counts(kernel: Any) -> dict[str, Call]:
    """Counts of 1e9, each of one keyword."""
    measure = specnorm.measure
    return {
        "grid_bound n": lambda: specnorm.grid_bound(kernel, n=BILLION),
        "gram_bound n_iter": lambda: specnorm.gram_bound(kernel, n_iter=BILLION),
        "gram_rescaling n_iter": lambda: specnorm.gram_rescaling(kernel, n_iter=BILLION),
        "completion_bound n_iter": lambda: specnorm.completion_bound(kernel, n_iter=BILLION),
        "power_norm n_iter": lambda: specnorm.power_norm(kernel, 8, n_iter=BILLION),
        "power_iteration n_iter": lambda: specnorm.power_iteration(kernel[:, :, 0, 0], n_iter=BILLION),
        "gram_iteration n_iter": lambda: specnorm.gram_iteration(kernel[:, :, 0, 0], n_iter=BILLION),
        "symbol_norm points": lambda: specnorm.symbol_norm(kernel, points=BILLION),
        "symbol_norm vectors": lambda: specnorm.symbol_norm(kernel, vectors=BILLION),
        "singular_values k": lambda: specnorm.singular_values(kernel, 8, k=BILLION),
        "PowerTopK k": lambda: measure(kernel, PowerTopK(k=BILLION), input_shape=8),
        "PowerTopK k, a large layer": lambda: measure(kernel, PowerTopK(k=10**5), input_shape=1000),
        "clip n_iter": lambda: specnorm.clip(kernel, n_iter=BILLION),
        "track sweeps": lambda: specnorm.track(
            kernel, SymbolNorm(), specnorm.init_tracking(kernel, SymbolNorm()), sweeps=BILLION
        ),
        "compare": lambda: [measure(kernel, method, input_shape=BILLION) for method in (Gram(), Grid())],
        "operator_norm": lambda: specnorm.operator_norm(lambda x: x, lambda x: x, (BILLION, BILLION)),
    }


def named(name: str, kernel: Any, keywords: dict[str, Any]) -> tuple[str, Call]:
    described = {word: value for word, value in keywords.items() if word != "budget"}
    label = f"{name} {kernel.shape} {described}"
    return label, lambda: getattr(specnorm, name)(kernel, *NAMED.get(name, ()), **keywords)


def calls() -> Iterator[tuple[str, Call]]:
    """Never ends: the counts first, then what the seed says."""
    yield from counts(np.ones((2, 2, 3, 3))).items()
    rng = np.random.default_rng(0)
    while True:
        ndim = int(rng.integers(1, 3))
        mode = str(rng.choice(MODES))
        kind = int(rng.integers(3))
        if kind == 0:  # a large input
            kernel = rng.standard_normal((2, 2, *(3,) * ndim))
            size = tuple(int(10 ** rng.uniform(0.5, 6)) for _ in range(ndim))
            yield named(str(rng.choice(AT_A_SIZE)), kernel, {"input_shape": size, "padding_mode": mode})
        elif kind == 1:  # a large kernel
            sizes = (int(10 ** rng.uniform(1, 5.5)),) if ndim == 1 else tuple(int(x) for x in rng.integers(1, 300, 2))
            yield named(str(rng.choice(AT_EVERY_SIZE)), rng.standard_normal((1, 1, *sizes)), {})
        else:  # a large number in the geometry
            word = str(rng.choice(["stride", "dilation", "padding", "groups"]))
            keywords: dict[str, Any] = {word: int(10 ** rng.uniform(3, 9)), "padding_mode": mode}
            if rng.integers(2):
                keywords["input_shape"] = int(10 ** rng.uniform(0.5, 6))
            yield named(str(rng.choice(AT_A_SIZE)), rng.standard_normal((2, 2, *(3,) * ndim)), keywords)


def outcome(call: Call) -> str:
    try:
        call()
    except SpecnormError:
        return ""
    except TypeError as error:
        return "" if "input_shape" in str(error) else repr(error)  # a function that needs a size got none
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> None:
    first, count, seconds = (int(x) for x in sys.argv[1:4])
    warnings.simplefilter("ignore")
    listed = calls()
    for number in range(first + count):
        label, call = next(listed)
        if number < first:
            continue
        if os.fork() == 0:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            wrong = outcome(call)
            if wrong:
                print(f"{number}: {label}: {wrong[:200]}", flush=True)  # noqa: T201 - what the program is for
            os._exit(0)
        _, status = os.wait()
        if status:
            print(f"{number}: {label}: ended by a signal, after {seconds} s", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
