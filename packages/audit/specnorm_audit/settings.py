"""How an audit measures layers: its arguments, checked before a file is read."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from specnorm_networks.model_arrays import Stated

from specnorm import ConvSpec
from specnorm._internal import check_number
from specnorm.errors import BackendError, GeometryError, MethodError
from specnorm.methods import METHODS, Enclose, ExactFFT, Method, Smallest, TensorNorm
from specnorm.proof import Layout, backends, padding_rules
from specnorm_audit.rows import CIRCULAR

# A column has the name of its method, but for two: `CIRCULAR` is measured by the method "fft", `CONDITION` by none.
NEEDS_A_SIZE = frozenset({"power", CIRCULAR})
"""Columns that have numbers at one input size only."""
BUDGET = 60.0
"""Default time limit of a layer in seconds."""
ARRAY_API = "array-api"
"""Name of the backend for libraries without a plugin."""


@dataclass(frozen=True)
class Settings:
    """Arguments of `audit` that say how layers are measured; plain values, which can be sent to other processes.

    If a layer's interval contains ``gate``, the bound of a gate, then it is decided whether the norm is at most that.
    """

    methods: tuple[str, ...] = ()
    input_shape: int | tuple[int, ...] | Literal["file"] | None = None
    layout: str | None = None
    padding_mode: padding_rules.PaddingMode | None = None
    backend: str | None = None
    device: str | None = None
    geometry: Mapping[str, Stated] = field(default_factory=dict)
    rtol: float = 1e-3
    budget: float | None = None
    gate: float | None = None

    def check(self) -> None:
        """Refuse invalid settings before a file is read."""
        self.method("enclose")  # raises for an invalid tolerance or budget
        methods_at_size = [name for name in self.methods if name in NEEDS_A_SIZE]
        if methods_at_size and self.input_shape is None:
            names = ", ".join(methods_at_size)
            raise MethodError(f"{names} needs input_shape, the layer's size: give it, or leave the method out.")
        if self.layout is not None and self.layout not in get_args(Layout):
            raise GeometryError(f"layout={self.layout!r} is not one of {', '.join(get_args(Layout))}, or None.")
        if self.padding_mode is not None:
            ConvSpec.of((1, 1, 1), padding_mode=self.padding_mode)  # raises for an unknown one
        sizes = self.input_shape if isinstance(self.input_shape, tuple) else (self.input_shape,)
        is_none = self.input_shape is None or (isinstance(self.input_shape, str) and self.input_shape == "file")
        if not is_none and any(type(n) is not int or n < 1 for n in sizes):
            raise GeometryError(f"input_shape={self.input_shape!r} is not a positive integer, or one per spatial axis.")
        if self.gate is not None and not 0 <= check_number("gate", self.gate) < math.inf:
            raise MethodError(f"gate={self.gate!r} is not a finite number of at least 0.")
        check_target(self.backend, self.device)

    def method(self, name: str) -> Method:
        """Return the method of a name, with the tolerance and budget of these settings."""
        method = METHODS[name]()
        if isinstance(method, Enclose | Smallest):
            return replace(method, rtol=self.rtol, budget=self.budget)
        if isinstance(method, TensorNorm | ExactFFT):
            return replace(method, budget=self.budget)
        return method


def checked_names(methods: Sequence[str], allowed: Collection[str], more: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the columns to measure, each once: ``methods``, refused if one is not ``allowed``, and ``more``."""
    if isinstance(methods, str):
        raise MethodError(f"methods={methods!r} is one name; expected a sequence of them: methods=[{methods!r}].")
    if not isinstance(methods, Iterable):
        raise MethodError(f"methods={methods!r} is no sequence of names: give some of {', '.join(allowed)}.")
    unknown = [name for name in methods if name not in allowed]
    if unknown:
        raise MethodError(f"methods={unknown[0]!r} is no column: give some of {', '.join(allowed)}.")
    return tuple(dict.fromkeys((*methods, *more)))


def checked_range(input_range: Sequence[float] | None) -> tuple[float, float] | None:
    """Return the ends of an input range as two floats; refuse them unless the first is smaller."""
    if input_range is None:
        return None
    with suppress(TypeError, ValueError):
        low, high = map(float, input_range)
        if low < high:
            return low, high
    raise MethodError(f"input_range={input_range!r}; expected two numbers, the smaller one first.")


def check_target(name: str | None, device: str | None) -> None:
    """Refuse a plugin or a device that is not available, before any file is read."""
    if name is None:
        if device is not None:
            raise BackendError(f"device={device!r} needs a backend to go with it: say which array library to use.")
        return
    devices = library(name).devices()
    if device is not None and device not in devices:
        raise BackendError(f"device={device!r} is not one of {name}'s devices here: {', '.join(devices) or 'none'}.")


def library(name: str) -> backends.Backend:
    """Return the backend of a library, by the name of its plugin."""
    if not isinstance(name, str):
        raise BackendError(f"backend={name!r} is no name of a library with a plugin.")
    if name == ARRAY_API:
        raise BackendError(
            f"backend={name!r} is for arrays that are given: it makes none. Name a library with a plugin."
        )
    plugin: backends.Backend = backends.load(name)
    return plugin
