"""Stands for torchvision, of which timm wants names; its wheels need one build of torch."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any

import torch


class _AnyName(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


def _any_class(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _AnyName(name, (torch.nn.Module,), {})


class _NoTorchvision:
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        del path, target
        mine = name.partition(".")[0] == "torchvision"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if mine else None  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__path__ = []
        module.__getattr__ = _any_class  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing is in it."""


def without_torchvision() -> Iterator[None]:
    """Let timm be imported where torchvision is missing; to be made a fixture of."""
    stand_in: Any = _NoTorchvision()
    missing = importlib.util.find_spec("torchvision") is None
    if missing:
        sys.meta_path.append(stand_in)
    yield
    if missing:
        sys.meta_path.remove(stand_in)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
