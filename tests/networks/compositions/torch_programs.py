"""Torch programs: lines of Python that a module's forward runs, each one operator or a few."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from networks.compositions.claims import Function, Vector
from specnorm_networks import Graph
from specnorm_torch.networks import network_graph
from torch import Tensor, nn
from torch.nn import functional

NAMESPACE = {"torch": torch, "F": functional}
_TORCH: Any = torch
_LIBRARY = _TORCH.library.Library("mylib", "DEF")
for _schema in ("relu(Tensor self) -> Tensor", "linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor"):
    _LIBRARY.define(_schema)


def _hundredfold(x: Tensor, *_: Any) -> Tensor:
    return 100 * x


for _name in ("relu", "linear"):
    _LIBRARY.impl(_name, _hundredfold, "CompositeExplicitAutograd")
    torch.library.register_fake(f"mylib::{_name}", _hundredfold, lib=_LIBRARY)


class Interpreted(nn.Module):
    """Runs lines; constants are parameters, buffers and plain tensors, in turn."""

    def __init__(self, source: str, constants: Mapping[str, Tensor]) -> None:
        super().__init__()
        for at, (name, x) in enumerate(constants.items()):
            if at % 3 == 0 and x.is_floating_point():
                setattr(self, name, nn.Parameter(x, requires_grad=False))
            elif at % 3 == 1:
                self.register_buffer(name, x)
            else:
                setattr(self, name, x)
        made: dict[str, Any] = {}
        exec(source, {**NAMESPACE}, made)
        self.lines = made["forward"]

    def forward(self, x: Tensor) -> Any:
        return self.lines(self, x)


@dataclass(frozen=True, eq=False)
class TorchProgram:
    """Lines, constants and what comes out.

    Parameters
    ----------
    shape : tuple of int
        Of the input, its axis of samples included.
    lines : tuple of (str, str)
        Name of a value, and what it is.
    constants : mapping of str to Tensor
    outputs : tuple of str
    dtype : dtype
    free : bool
        Whether the network is asked about for a shape without samples.
    """

    shape: tuple[int, ...]
    lines: tuple[tuple[str, str], ...]
    constants: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    dtype: torch.dtype = torch.float64
    free: bool = False

    @cached_property
    def source(self) -> str:
        lines = [f"    {name} = {_placed(line)}" for name, line in self.lines]
        return "\n".join(["def forward(self, x):", *lines, f"    return {', '.join(self.outputs)}"])

    @cached_property
    def module(self) -> Interpreted:
        return Interpreted(self.source, self.constants)

    def graph(self) -> Graph:
        given: Any = self.shape[1:] if self.free else torch.zeros(self.shape, dtype=self.dtype)
        return network_graph(self.module, given)

    def double(self) -> TorchProgram:
        if self.dtype == torch.float64:
            return self
        wide = {n: x.double() if x.is_floating_point() else x for n, x in self.constants.items()}
        return replace(self, constants=wide, dtype=torch.float64)

    def function(self) -> Function:
        module = self.module

        def f(x: Vector) -> Vector:
            with torch.no_grad():
                found = module(torch.from_numpy(np.array(x)))
            some = found if isinstance(found, tuple) else (found,)
            return np.concatenate([each.reshape(-1).double().numpy() for each in some])

        return f

    def largest(self, x: Vector) -> float:
        """The largest number among all values and constants."""
        every = replace(self, outputs=tuple(name for name, _ in self.lines))
        found = abs(every.function()(x))
        return float(
            max(
                [
                    np.max(found, initial=0.0),
                    *(float(c.double().abs().max()) for c in self.constants.values() if c.numel()),
                ]
            )
        )

    def runs(self) -> bool:
        try:
            self.double().function()(np.full(self.shape, 0.3))
        except Exception:  # whatever torch raises
            return False
        return True

    def operators(self) -> list[str]:
        return [each for _, line in self.lines for each in re.findall(r"(?:torch|F|aten|mylib|v\d+|x)\.(\w+)\(", line)]

    def shorter(self) -> Iterator[TorchProgram]:
        if len(self.outputs) > 1:
            yield from (replace(self, outputs=(name,)) for name in self.outputs)
        for at in range(len(self.lines) - 1, -1, -1):
            name, line = self.lines[at]
            rest = (*self.lines[:at], *self.lines[at + 1 :])
            if name not in self.outputs and not any(re.search(rf"\b{name}\b", each) for _, each in rest):
                yield replace(self, lines=rest)
            for value in dict.fromkeys([*re.findall(r"\b(?:v\d+|x)\b", line), "x"]):
                renamed = tuple((n, re.sub(rf"\b{name}\b", value, each)) for n, each in rest)
                yield replace(self, lines=renamed, outputs=tuple(value if n == name else n for n in self.outputs))
        for name, x in self.constants.items():
            for y in (torch.zeros_like(x), torch.ones_like(x), x.round(), x.round(decimals=1)):
                if x.is_floating_point() and len(repr(y.tolist())) < len(repr(x.tolist())):
                    yield replace(self, constants={**self.constants, name: y})

    def pruned(self) -> TorchProgram:
        used = {name for _, line in self.lines for name in re.findall(r"\bc\d+\b", line)}
        return replace(self, constants={n: x for n, x in self.constants.items() if n in used})

    def code(self) -> str:
        given = {n: f"torch.tensor({x.tolist()!r}, dtype={x.dtype}).reshape({tuple(x.shape)!r})" for n, x in
                 self.constants.items()}  # fmt: skip
        told = ", ".join(f"{n!r}: {x}" for n, x in given.items())
        rest = f"{self.outputs!r}, dtype={self.dtype}, free={self.free}"
        return f"lines = {self.lines!r}\nprogram = TorchProgram({self.shape!r}, lines, {{{told}}}, {rest})"


def _placed(line: str) -> str:
    return re.sub(r"\b(c\d+)\b", r"self.\1", line)


class SkippedError(Exception):
    """What was drawn does not fit; another draw may."""


class Draft:
    """A program that grows line by line, each run at once."""

    MOST = 48

    def __init__(self, dice: random.Random, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.dice = dice
        self.shape, self.dtype = shape, dtype
        self.generator = torch.Generator().manual_seed(dice.randrange(2**32))
        self.values: dict[str, Tensor] = {"x": self._normal(shape)}
        self.others: dict[str, Tensor] = {}
        """Comparisons, for those who made them."""
        self.constants: dict[str, Tensor] = {}
        self.lines: list[tuple[str, str]] = []
        self.count = 0

    def _normal(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=self.generator, dtype=torch.float64).to(self.dtype)

    def value(self, ndim: int | Sequence[int] | None = None, least: int = 1) -> str:
        wanted = (ndim,) if isinstance(ndim, int) else ndim
        names = [n for n, v in self.values.items() if (wanted is None or v.ndim in wanted) and v.numel() >= least]
        if not names:
            raise SkippedError
        return names[-1] if self.dice.random() < 0.5 else self.dice.choice(names)

    def shape_of(self, name: str) -> tuple[int, ...]:
        return tuple(self.values[name].shape)

    def part(self, shape: Sequence[int]) -> tuple[int, ...]:
        found = tuple(1 if self.dice.random() < 0.3 else n for n in shape)
        return found[self.dice.choice([0, 0, self.dice.randint(0, len(found))]) :]

    def const(self, shape: Sequence[int], scale: float = 1.0, *, positive: bool = False) -> str:
        x = torch.round(self._normal(shape).double(), decimals=2) * scale
        if self.dice.random() < 0.15:
            x = torch.full(tuple(shape), self.dice.choice([1.0, 0.5, 2.0, -1.0, 3.0]) * scale, dtype=torch.float64)
        return self.kept((abs(x) + 0.3 if positive else x).to(self.dtype))

    def kept(self, x: Tensor) -> str:
        self.count += 1
        self.constants[f"c{self.count}"] = x
        return f"c{self.count}"

    def number(self) -> float:
        return self.dice.choice([0.0, 1.0, -1.0, 0.5, 2.0, 0.3, -2.5])

    def operand(self, shape: Sequence[int], moving: float = 0.6) -> str:
        fitting = []
        for name, value in self.values.items():
            try:
                wide = _TORCH.broadcast_shapes(value.shape, tuple(shape))
            except RuntimeError:
                continue
            if wide.numel() <= self.MOST:
                fitting.append(name)
        if fitting and self.dice.random() < moving:
            return fitting[-1] if self.dice.random() < 0.4 else self.dice.choice(fitting)
        if self.dice.random() < 0.3:
            return repr(self.number())
        return self.const(self.part(shape), self.dice.choice([0.3, 1.0, 1.0, 5.0]))

    def add(self, line: str) -> str:
        """Run a line; its value is a tensor of numbers."""
        try:
            found = eval(line, {**NAMESPACE, **self.values, **self.others, **self.constants})
        except Exception as error:  # whatever torch raises
            raise SkippedError from error
        if not isinstance(found, Tensor) or found.numel() > self.MOST or found.ndim > 5:
            raise SkippedError
        if found.is_floating_point() and not bool(found.isfinite().all()):
            raise SkippedError
        self.count += 1
        name = f"v{self.count}"
        self.lines.append((name, line))
        self.values[name] = found
        return name

    def hidden(self, line: str) -> str:
        """A value that nothing else shall use: a comparison."""
        name = self.add(line)
        self.others[name] = self.values.pop(name)
        return name
