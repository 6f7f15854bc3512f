"""ONNX operators at random, with the arguments that each is tried with alone, at values of a draft."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from networks.compositions.onnx_draft import Draft, SkippedError
from networks.drawing import Shapes, Slot
from networks.onnx_arguments import DRAWS as ARGUMENTS
from networks.onnx_calls import given
from networks.onnx_schemas import versions

Draw = Callable[[Draft], Any]


class Fitting(Shapes):
    def __init__(self, draft: Draft) -> None:
        super().__init__(draft.dice)
        self.draft = draft

    def sizes(self, low: int = 1, high: int = 3, most: int = 4) -> tuple[int, ...]:
        """Of a value with as many axes, or with more."""
        del most
        return self.draft.shape_of(self.draft.value(range(low, max(high, 4) + 1 if high > 2 else high + 1)))

    def image(self, ndim: int, low: int = 2, high: int = 8, channels: int = 1) -> tuple[int, ...]:
        del low, high, channels
        return self.draft.shape_of(self.draft.value(ndim + 2))

    def part(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of another value, if it fits."""
        fitting = [v.shape for v in self.draft.values.values() if broadcasts(v.shape, shape)]
        return self.choice(fitting) if fitting and self.random() < 0.6 else super().part(shape)


def broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    pairs = zip(shape[::-1], to[::-1], strict=False)
    return len(shape) <= len(to) and all(one in (1, n) for one, n in pairs)


def one_node(operator: str, d: Draft, *, several: bool = True) -> None:
    """A node of an operator, whose arguments are values of the draft where these have the shape, or else constants."""
    if d.opset < min(versions(operator)):
        raise SkippedError
    arguments = ARGUMENTS[operator](Fitting(d))
    values, attributes = given(operator, d.opset, arguments)
    inputs: list[str] = []
    moves = False
    for value in values:
        if isinstance(value, Slot):
            fitting = [name for name, v in d.values.items() if v.shape == value.shape]
            if fitting and (not moves or (several and d.dice.random() < 0.7)):
                inputs.append(d.dice.choice(fitting))
                moves = True
            else:
                inputs.append(d.const(d.numbers(value.shape, d.dice.choice([0.3, 1.0, 1.0, 5.0]))))
        elif value is None:
            inputs.append("")
        else:
            inputs.append(constant(d, value))
    if not moves:
        raise SkippedError
    while not inputs[-1]:
        inputs.pop()
    d.several(operator, inputs, arguments.get("outputs", 1), **attributes)


def constant(d: Draft, value: Any) -> str:
    array = np.asarray(value)
    if array.dtype.kind in "iub":
        return d.initializer(array, "i")
    return d.const(array, folded=False)


# -- constants on ranges alone ---------------------------------------------------------------------------------------
def positive(d: Draft) -> str:
    """A value that stays away from 0, more or less."""
    x = d.value()
    how = d.dice.choice(["Abs", "Sigmoid", "Exp", "Softplus", "", "Relu", "Elu"])
    far = d.dice.choice([0.1, 1.0, 2.0])
    inner = d.add(how, [x]) if how else x
    return d.add("Add", [inner, d.const(np.full(d.part(d.shape_of(x)), far + (1.0 if how in ("Elu", "") else 0)))])


def steep(d: Draft) -> None:
    name = d.dice.choice(["Exp", "Log", "Sqrt", "Reciprocal", "Exp", "Sqrt"])
    d.add(name, [positive(d) if d.dice.random() < 0.8 else d.value()])


def power(d: Draft) -> None:
    exponent = d.dice.choice([1.0, 2.0, 2.0, 3.0, 4.0, 0.5, -0.5, -1.0])
    x = d.value() if exponent >= 1 else positive(d)
    d.add("Pow", [x, d.const(np.full(d.dice.choice([(), (1,)]), exponent), folded=False)])


def quotient(d: Draft) -> None:
    below = positive(d)
    d.add("Div", [d.operand(d.shape_of(below)), below])


# -- what no operator draws for itself ------------------------------------------------------------
def computed_shape(d: Draft) -> None:
    x = d.value((2, 3, 4))
    first = d.sliced(d.add("Shape", [x]), [(0, 0, 1, 1)])
    d.add("Reshape", [x, d.add("Concat", [first, d.whole(-1)], axis=0)])


def custom(d: Draft) -> None:
    """Of another domain, with the name of one of onnx's."""
    d.add(d.dice.choice(["Relu", "Sigmoid", "Identity", "Abs", "Neg", "Erf"]), [d.value()], domain="mylib")


PRODUCTS = ("Mul", "Div", "MatMul", "Gemm", "Einsum")
"""Of values that move these have constants on ranges alone."""
LEFT_OUT = {
    "Cast", "Dropout", "DequantizeLinear", "Constant", "ConstantOfShape", "Shape", "Size", "Range", "Not", "And", "Or",
    "Xor", "Equal", "Mod", "ReduceProd", "Floor", "Ceil", "Sign", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
    "Pow", "Exp", "Log", "Sqrt", "Reciprocal", "Div", "LayerNormalization", "RMSNormalization", "InstanceNormalization",
    "GroupNormalization", "LpNormalization",
}  # fmt: skip
"""Steps, constants and casts; what has a draw above; and what normalises, which has a test of its own."""
OFTEN = {
    "Gemm": 5, "MatMul": 4, "Conv": 8, "ConvTranspose": 4, "BatchNormalization": 2, "Relu": 2, "Elu": 2,
    "Mul": 4, "Add": 2, "Sub": 2, "Max": 3, "Min": 3, "Transpose": 3, "Reshape": 3, "Slice": 3, "Concat": 3, "Split": 2,
    "Pad": 3, "MaxPool": 4, "AveragePool": 4, "Resize": 4, "Softmax": 1, "LogSoftmax": 1,
}  # fmt: skip
DRAWS: dict[Draw, float] = {
    computed_shape: 0.5, custom: 0.3,
    **{partial(one_node, name, several=name not in PRODUCTS): OFTEN.get(name, 0.6)
       for name in ARGUMENTS if name not in LEFT_OUT},
}  # fmt: skip
ON_RANGES: dict[Draw, float] = {
    steep: 4, power: 3, quotient: 2.5, **{partial(one_node, name): 1.3 for name in PRODUCTS}
}  # fmt: skip
FUNCTIONS = [partial(one_node, name) for name in ("Relu", "Tanh", "LeakyRelu", "Elu", "Softplus", "PRelu", "Clip")]
