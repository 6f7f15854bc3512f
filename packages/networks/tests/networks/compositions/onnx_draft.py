"""An ONNX program that grows node by node: each is run at once, so that shapes are known, and nonsense is not kept."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from networks.compositions.onnx_programs import TYPES, OnnxProgram, ran
from numpy.typing import NDArray
from onnx import defs, helper, numpy_helper

Array = NDArray[Any]
MOST = 48
"""Entries of a value at most."""


class SkippedError(Exception):
    """What was drawn does not fit; another draw may."""


class Draft:
    """See the module.

    Parameters
    ----------
    dice : Random
    shape : tuple of int
    opset : int
    dtype : str
    """

    def __init__(self, dice: random.Random, shape: tuple[int, ...], opset: int, dtype: str = "float64") -> None:
        self.dice = dice
        self.rng = np.random.default_rng(dice.randrange(2**32))
        self.shape = shape
        self.opset = opset
        self.dtype = dtype
        self.values: dict[str, Array] = {"x": 0.7 * self.rng.standard_normal(shape)}
        """Of data that move, at one input."""
        self.known: dict[str, Array] = {}
        """Of constants that nodes compute."""
        self.constants: dict[str, Array] = {}
        self.brain: set[str] = set()
        self.nodes: list[Any] = []
        self.count = 0

    # -- names ---------------------------------------------------------------------------------------------------------
    def fresh(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def _node_name(self, operator: str) -> str:
        """Often none, or one that something else has."""
        some = ["", "", "n", "n", *list(self.constants)[-2:], self.fresh("node"), f"{operator}_{len(self.nodes)}"]
        return self.dice.choice(some)

    # -- values --------------------------------------------------------------------------------------------------------
    def value(self, ndim: int | Sequence[int] | None = None, least: int = 0) -> str:
        """One that moves: late ones more often."""
        wanted = (ndim,) if isinstance(ndim, int) else ndim
        names = [n for n, v in self.values.items() if (wanted is None or v.ndim in wanted) and v.size >= least]
        if not names:
            raise SkippedError
        return names[-1] if self.dice.random() < 0.5 else self.dice.choice(names)

    def shape_of(self, name: str) -> tuple[int, ...]:
        return tuple((self.values if name in self.values else self.known)[name].shape)

    def part(self, shape: Sequence[int]) -> tuple[int, ...]:
        found = tuple(1 if self.dice.random() < 0.3 else n for n in shape)
        return found[self.dice.choice([0, 0, self.dice.randint(0, len(found))]) :]

    def numbers(self, shape: Sequence[int], scale: float = 1.0) -> Array:
        kind = self.dice.random()
        found = np.round(self.rng.standard_normal(tuple(shape)), 2) * scale
        if kind < 0.15:
            found = np.full(tuple(shape), self.dice.choice([1.0, 0.5, 2.0, -1.0, 3.0]) * scale)
        return found.astype(np.float64)

    def operand(self, shape: Sequence[int], moving: float = 0.6) -> str:
        fitting = []
        for name, value in self.values.items():
            try:
                wide = np.broadcast_shapes(value.shape, tuple(shape))
            except ValueError:
                continue
            if int(np.prod(wide)) <= MOST:
                fitting.append(name)
        if fitting and self.dice.random() < moving:
            return fitting[-1] if self.dice.random() < 0.4 else self.dice.choice(fitting)
        return self.const(self.numbers(self.part(shape), self.dice.choice([0.3, 1.0, 1.0, 5.0])))

    # -- constants -----------------------------------------------------------------------------------------------------
    def whole(self, *numbers: int) -> str:
        return self.initializer(np.array(numbers, np.int64), "i")

    def initializer(self, array: Array, stem: str = "w") -> str:
        name = self.fresh(stem)
        self.constants[name] = array
        self.known[name] = array
        return name

    def typed(self, array: Array) -> tuple[Array, bool]:
        if self.dtype == "bfloat16":
            return (array.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32), True
        return array.astype(self.dtype), False

    def const(self, array: Array, *, folded: bool = True) -> str:
        array, brain = self.typed(np.asarray(array, np.float64))
        how = self.dice.random() if folded and self.dtype == "float64" else 1.0
        if how < 0.08:
            factor = self.initializer(self.typed(np.asarray(self.dice.choice([2.0, 0.5, 4.0])))[0])
            half = self.initializer(array / self.known[factor])
            return self.add("Mul", [half, factor])
        if how < 0.14 and array.ndim > 1:
            axes = list(range(array.ndim))
            self.dice.shuffle(axes)
            turned = self.initializer(np.ascontiguousarray(np.transpose(array, axes)))
            return self.add("Transpose", [turned], perm=[int(n) for n in np.argsort(axes)])
        if how < 0.19:
            return self.add("Constant", [], value=numpy_helper.from_array(array))
        if how < 0.22:
            return self.add("Identity", [self.initializer(array)])
        if how < 0.25 and array.ndim and array.shape[0] > 1:
            first = self.initializer(array[:1])
            second = self.initializer(array[1:])
            return self.add("Concat", [first, second], axis=0)
        if how < 0.28:
            single = self.initializer(array.astype(np.float32))
            return self.add("Cast", [single], to=TYPES["float64"])
        if how < 0.31 and array.size:
            flat = self.initializer(np.append(array.reshape(-1), [7.0]))
            cut = self.sliced(flat, [(0, 0, array.size, 1)])
            return self.add("Reshape", [cut, self.whole(*array.shape)]) if array.ndim != 1 else cut
        name = self.initializer(array)
        if brain:
            self.brain.add(name)
        return name

    # -- nodes ---------------------------------------------------------------------------------------------------------
    def add(self, operator: str, inputs: Sequence[str], outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        return self.several(operator, inputs, outputs, domain, **attributes)[0]

    def several(
        self, operator: str, inputs: Sequence[str], outputs: int = 1, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node; attributes that this operator set does not have are left out."""
        attributes = {name: value for name, value in attributes.items() if value is not None}
        if not domain:
            try:
                schema = defs.get_schema(operator, self.opset)
            except defs.SchemaError as error:
                raise SkippedError from error
            if schema.deprecated or len(inputs) > schema.max_input or schema.since_version > self.opset:
                raise SkippedError
            if any(name not in schema.attributes for name in attributes):
                raise SkippedError
        names = [self.fresh("v") for _ in range(outputs)]
        node = helper.make_node(operator, list(inputs), names, name=self._node_name(operator), domain=domain,
                                **attributes)  # fmt: skip
        moves = any(name in self.values for name in inputs)
        for name, array in zip(names, self._ran(node), strict=True):
            if moves and (array.size > MOST or array.ndim > 5 or not np.isfinite(array).all() or not array.ndim + 1):
                raise SkippedError
            # Sizes and comparisons are for those who made them.
            (self.values if moves and array.dtype.kind not in "iub" else self.known)[name] = array
        self.nodes.append(node)
        return names

    def _ran(self, node: Any) -> list[Array]:
        if node.domain:
            return [100 * self.values[node.input[0]]]
        given = [(self.values | self.known)[name] if name else None for name in node.input]
        try:
            with np.errstate(all="ignore"):
                return ran(node, self.opset, given)
        except Exception as error:  # whatever the evaluator raises
            raise SkippedError from error

    # -- operators whose form depends on the operator set ----------------------------------------------------------
    def sliced(self, x: str, parts: Sequence[tuple[int, int, int, int]]) -> str:
        """(axis, start, stop, step) each."""
        axes, starts, ends, steps = ([part[at] for part in parts] for at in range(4))
        if self.opset < 10:
            if any(step != 1 for step in steps):
                raise SkippedError
            return self.add("Slice", [x], axes=axes, starts=starts, ends=ends)
        inputs = [x, self.whole(*starts), self.whole(*ends), self.whole(*axes)]
        return self.add("Slice", inputs if all(n == 1 for n in steps) else [*inputs, self.whole(*steps)])

    def split(self, x: str, parts: Sequence[int], axis: int) -> list[str]:
        if self.opset < 13:
            return self.several("Split", [x], len(parts), axis=axis, split=list(parts))
        if len(set(parts)) == 1 and self.dice.random() < 0.5:
            count = len(parts) if self.opset >= 18 else None
            return self.several("Split", [x], len(parts), axis=axis, num_outputs=count)
        return self.several("Split", [x, self.whole(*parts)], len(parts), axis=axis)

    def with_axes(self, operator: str, x: str, axes: Sequence[int] | None, since: int, **more: Any) -> str:
        """Axes as an attribute, or from an operator set on as an input."""
        if axes is None:
            return self.add(operator, [x], **more)
        if self.opset < since:
            return self.add(operator, [x], axes=list(axes), **more)
        return self.add(operator, [x, self.whole(*axes)], **more)

    def program(self, outputs: Sequence[str]) -> OnnxProgram:
        return OnnxProgram(
            self.shape, tuple(self.nodes), dict(self.constants), self.opset, tuple(outputs), self.dtype,
            frozenset(self.brain),
        )  # fmt: skip
