"""Reductions along axes that are not linear: largest and smallest entry, 2-norm, softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from specnorm.networks.operators.base import Operator


@dataclass(frozen=True, eq=False)
class Largest(Operator):
    """The largest entry along axes: |max x - max y| <= max |x - y| <= |x - y|."""

    rule: ClassVar[str] = "length"
    axes: tuple[int, ...]
    keep: bool = False


@dataclass(frozen=True, eq=False)
class Smallest(Operator):
    """The smallest entry along axes."""

    rule: ClassVar[str] = "length"
    axes: tuple[int, ...]
    keep: bool = False


@dataclass(frozen=True, eq=False)
class Norm(Operator):
    """The 2-norm along axes: | |x| - |y| | <= |x - y|."""

    rule: ClassVar[str] = "length"
    axes: tuple[int, ...]
    keep: bool = False


@dataclass(frozen=True, eq=False)
class Softmax(Operator):
    """Softmax over axes together (one axis; several in ONNX before operator set 13)."""

    rule: ClassVar[str] = "softmax"
    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class LogSoftmax(Operator):
    """Its logarithm."""

    rule: ClassVar[str] = "log_softmax"
    axes: tuple[int, ...]
