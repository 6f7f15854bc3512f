"""Small files that take all time or memory of a reader that believes them: ``python -m audit.bombs FOLDER``.

Of ONNX and of torch, written without torch. Run by `test_fuzz.py` as a process of its own.
"""

from __future__ import annotations

import itertools
import resource
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from specnorm_audit.readers import isolated

from audit import files
from audit.fuzz import outcome, write_tally


def _onnx(nodes: list[Any], shape: tuple[int, ...], **arrays: Any) -> bytes:
    from helpers.onnx_models import single

    arrays = {"w": np.eye(shape[-1], dtype=np.float32), **arrays}
    whole: bytes = single(nodes, shape, arrays, opset=13).SerializeToString()
    return whole


def _row(
    count: int, operator: str, shape: tuple[int, ...] = (1, 4), times: int = 1, more: Any = (), **given: Any
) -> bytes:
    """So many nodes in a row behind a layer, each of which reads the value before it so many times."""
    from helpers.onnx_models import node

    names = ["v", *(f"v{at}" for at in range(count - 1)), "y"]
    pairs = itertools.pairwise(names)
    nodes = [node(operator, *[a] * times, *more, out=b, **given) for a, b in pairs]
    return _onnx([node("MatMul", "x", "w", out="v"), *nodes], shape, zero=np.array([0]))


def _fan(count: int, joined: str, **given: Any) -> bytes:
    """One value, a function of it for each input of one operator."""
    from helpers.onnx_models import node

    functions = [node("Relu", "v", out=f"r{at}") for at in range(count)]
    last = node(joined, *(f"r{at}" for at in range(count)), **given)
    return _onnx([node("MatMul", "x", "w", out="v"), *functions, last], (1, 4))


WINDOW: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
ONNX: dict[str, Callable[[], bytes]] = {
    "mean of 20 axes": partial(_row, 1, "ReduceMean", (2,) * 20, keepdims=0),
    "mean of 20 axes of 1000": partial(_row, 1, "ReduceMean", (1000,) * 19 + (4,)),
    "mean over some of 20 axes": partial(_row, 1, "ReduceMean", (2,) * 20, axes=list(range(0, 20, 2))),
    "gap of 20 axes of 50": partial(_row, 1, "GlobalAveragePool", (1,) * 2 + (50,) * 17 + (4,)),
    "pool of 20 axes": partial(_row, 1, "AveragePool", (1, 2) + (3,) * 18, kernel_shape=[2] * 18),
    "600 Unsqueeze": partial(_row, 600, "Unsqueeze", more=("zero",)),
    "600 inputs of one Concat": partial(_row, 1, "Concat", times=600, axis=1),
    "600 functions of a value, Sum": partial(_fan, 600, "Sum"),
    "600 functions of a value, Concat": partial(_fan, 600, "Concat", axis=1),
    "600 functions of a value, Max": partial(_fan, 600, "Max"),
    "600 doubled, Add": partial(_row, 600, "Add", times=2),
    "60 doubled, Mul": partial(_row, 60, "Mul", times=2),
    "600 doubled, Concat": partial(_row, 600, "Concat", times=2, axis=1),
    "400 AveragePool": partial(_row, 400, "AveragePool", (1, 2, 8, 8), **WINDOW),
    "400 MaxPool": partial(_row, 400, "MaxPool", (1, 2, 8, 8), **WINDOW),
}
"""By name; each below 200 KB."""


# -- torch's pickles -----------------------------------------------------------------------------------------------
PUT, GET = b"q", b"h"
"""Into the memo, and out of it; a byte says where."""


def _checkpoint(items: dict[str, bytes]) -> bytes:
    return files.checkpoint(files.state_dict(items | {"w": _tensor()}), {"0": bytes(64)})


def _tensor() -> bytes:
    return files.tensor(files.storage(16), (4, 4), (4, 1))


def _shaped(axes: int, size: int) -> bytes:
    return _checkpoint({"v": files.tensor(files.storage(16), (size,) * axes, (1,) * axes)})


def _made(count: int, shared: bytes, made: bytes) -> bytes:
    """One container, and so many others that are made of it."""
    return _checkpoint({"p": shared, "o": b"](" + made * count + b"e"})


def _pairs(count: int) -> bytes:
    return b"]" + PUT + b"\1(" + b"".join(files.text(f"{at}") + b"N\x86" for at in range(count)) + b"e"


def _table(count: int) -> bytes:
    return b"}" + PUT + b"\1(" + b"".join(files.text(f"{at}") + b"K\1" for at in range(count)) + b"u"


def _parts(depth: int, length: int) -> bytes:
    """Dictionaries in dictionaries under one long name, a tensor in each."""
    first = b"}" + files.text("w") + _tensor() + PUT + b"\2s" + files.text("k" * length) + PUT + b"\1"
    body = first + (b"}" + files.text("w") + GET + b"\2s" + GET + b"\1") * depth + b"}" + b"s" * (depth + 1)
    return files.checkpoint(b"\x80\2" + body + b".", {"0": bytes(64)})


_ORDERED, _COUNTER = files.name("collections", "OrderedDict"), files.name("collections", "Counter")
_OF_ONE = GET + b"\1"
TORCH: dict[str, Callable[[], bytes]] = {
    "100,000 axes": partial(_shaped, 100_000, 2**62), "100,000 axes of 0": partial(_shaped, 100_000, 0),
    "20,000 axes of 250 bytes": partial(_shaped, 20_000, 2**1990),
    "10,000 ordered dictionaries": lambda: _made(10_000, _pairs(10_000), _ORDERED + _OF_ONE + b"\x85R"),
    "10,000 counters": lambda: _made(10_000, _table(10_000), _COUNTER + _OF_ONE + b"\x85R"),
    "10,000 states": lambda: _made(10_000, _table(10_000), _ORDERED + b")R" + _OF_ONE + b"b"),
    "name of 1,500 parts": partial(_parts, 1500, 5000), "name of 20,000 parts": partial(_parts, 20_000, 1),
}  # fmt: skip
"""By name; each below 6 MB, and most of it in the zip archive without compression."""


# -- the run -------------------------------------------------------------------------------------------------------
SECONDS = 20
"""Processor time for the network of each."""


def main(folder: Path) -> None:
    """Audit each, and write what became of it, in how much processor time."""
    isolated.GRAPH_SECONDS, path = SECONDS, folder / "model"
    known = {"onnx": ONNX if find_spec("onnx") else {}, "torch": TORCH if find_spec("torch") else {}}
    told: dict[str, tuple[str, float]] = {}
    before = 0.0
    for name, write in (item for bombs in known.values() for item in bombs.items()):
        path.write_bytes(write())
        said = outcome(path, max_bytes=2**28, budget=2.0)
        isolated._end()  # each in a process of its own, whose time counts when it is over
        spent = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        told[name] = (said, round(spent - before, 1))
        before = spent
    write_tally(folder, told)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
