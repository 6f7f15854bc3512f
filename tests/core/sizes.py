"""Calls of the whole door with sizes up to 1e6 and counts up to 1e9, each in a process whose memory is limited.

``python -m core.sizes FIRST COUNT SECONDS`` in the folder ``tests`` makes some calls of a seeded list and prints those
that end in anything but an answer or one of specnorm's errors, within SECONDS of processor time and `MEMORY`.
"""

from __future__ import annotations

import inspect
import itertools
import os
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import specnorm
from specnorm.backends.types import ArrayOps
from specnorm.errors import SpecnormError
from specnorm.methods import METHODS, PowerTopK

MEMORY = 3 * ArrayOps.memory
"""Bytes beyond what a process takes that has imported everything: one chunk, its result, and what NumPy keeps."""
BILLION = 10**9
MODES = ("circular", "zeros", "reflect", "symmetric", "replicate")
DOOR = {name: value for name in specnorm.__all__ if inspect.isfunction(value := getattr(specnorm, name))}
MATRICES = ("matrix_norm", "logit_bound")
PLANS = [*METHODS.values(), PowerTopK]
METHOD_FIRST = ("measure", "value_and_grad", "init_tracking")
SQUARE: Any = np.ones((2, 2, 3, 3))
Call = Callable[[], object]


def track(kernel: Any, method: Any, **keywords: Any) -> object:
    sweeps = keywords.pop("sweeps", 1)
    return specnorm.track(kernel, method, specnorm.init_tracking(kernel, method, **keywords), sweeps=sweeps, **keywords)


def track_many(kernel: Any, method: Any, **keywords: Any) -> object:
    sweeps = keywords.pop("sweeps", 1)
    states = [specnorm.init_tracking(kernel, method, **keywords)] * 2
    return specnorm.track_many([kernel] * 2, method, states, geometries=[keywords] * 2, sweeps=sweeps)


def audit(kernel: Any, **keywords: Any) -> object:
    size = keywords.pop("input_shape", None)
    layout: Any = {3: "OIW", 4: "OIHW"}[kernel.ndim]
    return specnorm.audit({"layer.weight": kernel}, input_shape=size, layout=layout, **keywords)


OTHERS: dict[str, Callable[..., object]] = {
    "certify": lambda kernel, **keywords: specnorm.certify(kernel, 5.0, **keywords),
    "is_isometry": lambda kernel, **keywords: specnorm.is_isometry(kernel, 0.5, **keywords),
    "logit_bound": lambda matrix, heads=1, **counts: specnorm.logit_bound(matrix, matrix, heads=heads, **counts),
    "track": track,
    "track_many": track_many,
    "audit": audit,
}
"""Functions of more than a kernel and keywords."""


def counts(function: Callable[..., object]) -> list[str]:
    words = inspect.signature(function).parameters.values()
    return [word.name for word in words if str(word.annotation) in ("int", "int | None")]


def named(name: str, method: type[Any] | None, keywords: dict[str, Any], *arrays: Any) -> tuple[str, Call]:
    """A call with what it is, and a budget of a second where the function, or the method, has one."""
    function: Any = OTHERS.get(name, DOOR[name])
    of_method = {word: keywords[word] for word in counts(method) if word in keywords} if method else {}
    options = {word: value for word, value in keywords.items() if word not in of_method}
    if "budget" in inspect.signature(method or DOOR[name]).parameters:
        (of_method if method else options)["budget"] = 1.0
    shapes = ", ".join(str(getattr(x, "shape", x)) for x in arrays)
    label = f"{name}({shapes}, {method.__name__ if method else ''} {keywords})"
    return label, lambda: function(*arrays, *([method(**of_method)] if method else []), **options)


def of_counts() -> Iterator[tuple[str, Call]]:
    """Each whole number of each function and method, as 1e9 and as 1e5."""
    for count in (BILLION, 10**5):
        for name, function in DOOR.items():
            for word in counts(function):
                if name in MATRICES:
                    yield named(name, None, {word: count}, SQUARE[:, :, 0, 0])
                elif name in ("track", "track_many"):
                    yield named(name, METHODS["symbol"], {word: count}, SQUARE)
                elif "input_shape" in inspect.signature(function).parameters:
                    yield named(name, None, {"input_shape": 8, word: count}, SQUARE)
                else:
                    yield named(name, None, {word: count}, SQUARE)
        for method in PLANS:
            for word in counts(method):
                size = {"input_shape": 8} if method in (METHODS["power"], PowerTopK) else {}
                yield named("measure", method, {word: count, **size}, SQUARE)
    yield named("measure", PowerTopK, {"k": 10**5, "input_shape": 1000}, SQUARE)
    for entries in (BILLION, 10**7, 10**6):
        yield named("operator_norm", None, {}, lambda x: x, lambda x: x, (entries, entries))


def drawn(rng: np.random.Generator) -> tuple[str, Call]:
    name = str(rng.choice(list(DOOR)))
    if name == "operator_norm":
        rows, columns = (int(10 ** rng.uniform(0, 6)) for _ in range(2))
        return named(name, None, {}, lambda _: np.zeros(rows), lambda _: np.zeros(columns), (rows, columns))
    if name in MATRICES:
        rows, columns = (int(10 ** rng.uniform(0, 6)) for _ in range(2))
        columns = max(1, min(columns, 10**7 // rows))
        return named(name, None, {}, rng.standard_normal((rows, columns)))
    takes_method = name in (*METHOD_FIRST, "track", "track_many")
    method = PLANS[int(rng.integers(len(PLANS)))] if takes_method else None
    ndim = int(rng.integers(1, 3))
    keywords: dict[str, Any] = {} if name == "audit" else {"padding_mode": str(rng.choice(MODES))}
    needs_size = "input_shape" in inspect.signature(DOOR[name]).parameters
    kind = int(rng.integers(3))
    if kind == 0:  # a large input
        kernel = rng.standard_normal((2, 2, *(3,) * ndim))
        keywords["input_shape"] = tuple(int(10 ** rng.uniform(0.5, 6)) for _ in range(ndim))
    elif kind == 1:  # a large kernel
        sizes = (int(10 ** rng.uniform(1, 5.5)),) if ndim == 1 else tuple(int(x) for x in rng.integers(1, 300, 2))
        channels = int(rng.integers(1, 3))
        kernel = rng.standard_normal((channels, channels, *sizes))
        if needs_size and rng.integers(2):
            keywords["input_shape"] = tuple(2 * size for size in sizes)
    else:  # a large number in the geometry
        kernel = rng.standard_normal((2, 2, *(3,) * ndim))
        word = str(rng.choice(["stride", "dilation", "padding", "groups"]))
        if name == "audit":
            keywords["geometry"] = {"layer.weight": {word: int(10 ** rng.uniform(3, 9))}}
        else:
            keywords[word] = int(10 ** rng.uniform(3, 9))
        if rng.integers(2):
            keywords["input_shape"] = int(10 ** rng.uniform(0.5, 6))
    return named(name, method, keywords, kernel)


def calls() -> Iterator[tuple[str, Call]]:
    """Never ends: the counts first, then one for each seed."""
    yield from of_counts()
    yield from map(drawn, map(np.random.default_rng, itertools.count()))


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


def address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


def main() -> None:
    first, count, seconds = (int(x) for x in sys.argv[1:4])
    warnings.simplefilter("ignore")
    specnorm.audit({"layer.weight": SQUARE})  # imports
    listed = calls()
    for number in range(first + count):
        label, call = next(listed)
        if number < first:
            continue
        sys.stdout.flush()
        if os.fork() == 0:
            limit = address_space() + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
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
