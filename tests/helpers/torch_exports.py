"""Tables that `torch.onnx.export` makes anew in each call, half of its time for a small module: tests keep them."""

from __future__ import annotations

import copy
import sys
from functools import cache
from typing import Any


def keep_tables() -> None:
    """Let exports of this process share what depends on no module, once torch has loaded its exporter.

    Torch has no public name for these functions: where one is missing, each export makes its own table as before.
    """
    registration = sys.modules.get("torch.onnx._internal.exporter._registration")
    registry = getattr(registration, "ONNXRegistry", None)
    if registry is not None and not hasattr(registry.from_torchlib, "cache_info"):
        _keep_translations(registry)
    utilities: Any = sys.modules.get("torch._export.utils")
    loading = getattr(utilities, "_materialize_cpp_cia_ops", None)
    if loading is not None and not hasattr(loading, "known"):
        _keep_operators(utilities, loading)
    operators = sys.modules.get("torch._ops")
    if hasattr(operators, "Callable"):
        operators.Callable = _Unparameterized  # type: ignore[union-attr]


class _Unparameterized:
    """In place of ``Callable`` in an annotation that torch evaluates 23,000 times an export (0.38 -> 0.22 s)."""

    def __class_getitem__(cls, _: Any) -> type[_Unparameterized]:
        return cls


def _keep_translations(registry: Any) -> None:
    """Read the sources of some 500 translations once; each export adds its own to a copy."""
    made = cache(registry.from_torchlib)

    def from_torchlib(*arguments: Any, **keywords: Any) -> Any:
        kept = made(*arguments, **keywords)
        copied = copy.copy(kept)
        copied.functions = {target: list(found) for target, found in kept.functions.items()}
        return copied

    from_torchlib.cache_info = made.cache_info  # type: ignore[attr-defined]
    registry.from_torchlib = staticmethod(from_torchlib)


def _keep_operators(utilities: Any, loading: Any) -> None:
    """Load operators of the C++ side when there are new ones, not for each of 84 namespaces, thrice an export."""
    import torch

    known: set[tuple[int, int]] = set()

    def load() -> None:
        if (len(torch.ops.loaded_libraries), len(torch.ops._dir)) not in known:
            loading()
            known.add((len(torch.ops.loaded_libraries), len(torch.ops._dir)))

    load.known = known  # type: ignore[attr-defined]
    utilities._materialize_cpp_cia_ops = load
