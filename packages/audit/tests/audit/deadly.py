"""Kernels that kill the process that measures them, and readers that their file makes loop: importable by workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from specnorm_networks.model_arrays import ModelArrays, Tensor


class Deadly(np.ndarray[Any, np.dtype[np.float64]]):
    """A kernel whose first use in arithmetic outside the process that made it is the end of that one."""

    __module__ = "numpy"  # subclasses of others are refused
    home: int

    def __reduce__(self) -> Any:
        return deadly, (np.array(self), self.home)

    def __array_finalize__(self, other: Any) -> None:
        self.home = getattr(other, "home", os.getpid())

    def __array_ufunc__(self, ufunc: Any, method: Any, *inputs: Any, **kwargs: Any) -> Any:
        if os.getpid() != self.home:
            os.kill(os.getpid(), signal.SIGKILL)
        plain = [np.asarray(x) if isinstance(x, Deadly) else x for x in inputs]
        return getattr(ufunc, method)(*plain, **kwargs)


def deadly(array: NDArray[Any], home: int | None = None) -> Deadly:
    """A kernel that a process may measure, or this one."""
    kernel = array.view(Deadly)
    kernel.home = os.getpid() if home is None else home
    return kernel


def runs(pid: int) -> bool:
    """Whether a process runs: where nobody collects the dead, an orphan stays in the table as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def outlived(pids: list[int], seconds: float) -> list[int]:
    """Those that run after so many seconds."""
    until = time.monotonic() + seconds
    while (left := [pid for pid in pids if runs(pid)]) and time.monotonic() < until:
        time.sleep(0.02)
    return left


# -- readers -------------------------------------------------------------------------------------------------------
def takes(*_: Any) -> ModelArrays:
    """A reader that needs half a gigabyte."""
    return ModelArrays(() if np.ones(2**26).all() else (Tensor("x", (), "", list),))


def loops(*_: Any) -> ModelArrays:
    while True:
        pass


def eats(*_: Any) -> ModelArrays:
    """A reader that wants 8 GiB."""
    np.zeros(2**30)
    return ModelArrays(())


def dies(*_: Any) -> ModelArrays:
    os.kill(os.getpid(), signal.SIGSEGV)
    return ModelArrays(())


def stumbles(*_: Any) -> ModelArrays:
    raise AttributeError("a fault")


def one_loops(*_: Any) -> ModelArrays:
    """A reader of three arrays, the second of which cannot be read to its end."""
    loads = {"a": _eye, "b": _never, "c": _eye}
    return ModelArrays([Tensor(f"{name}.weight", (2, 2), "float64", load) for name, load in loads.items()])


def _eye() -> NDArray[Any]:
    return np.eye(2)


def _never() -> NDArray[Any]:
    while True:
        pass


def tells(model: ModelArrays, count: int, progress: Callable[[int, int], object]) -> list[str]:
    """An answer about a file, after some words."""
    for at in range(count):
        progress(at, count)
    return [tensor.name for tensor in model.arrays]


def asks_for_more(model: ModelArrays) -> None:
    """An answer that wants 4 GiB."""
    del model
    np.zeros(2**29)


def never_answers(model: ModelArrays) -> None:
    loops(model)
