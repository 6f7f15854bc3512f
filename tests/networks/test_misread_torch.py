"""Claims about torch's networks that were false, since an operator, a constant or a name was read wrongly.

Truth is the module itself: its dense Jacobian, or a pair of inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from specnorm_torch import audit_module, network_bound, nonexpansive  # noqa: E402 - after the skip
from torch import nn  # noqa: E402

from specnorm.errors import MethodError  # noqa: E402


class Function(nn.Module):
    """A module of one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


def slope(function: Callable[..., Any], shape: tuple[int, ...], seed: int = 0) -> float:
    """Largest norm of the Jacobian at some inputs."""
    numbers = torch.Generator().manual_seed(seed)
    inputs = (torch.randn(1, *shape, generator=numbers, dtype=torch.float64) for _ in range(20))
    return max(
        float(torch.linalg.matrix_norm(torch.autograd.functional.jacobian(function, x).reshape(-1, x.numel()), 2))
        for x in inputs
    )


def is_bound(function: Callable[..., Any], shape: tuple[int, ...]) -> bool:
    """Whether what is claimed, if anything, is not exceeded."""
    found = network_bound(Function(function), shape).upper
    return found is None or slope(function, shape) <= found * (1 + 1e-9)


# -- constants -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("c", [[[1.0, 1.0], [1.0, 100.0]], [1.0, 100.0], [[1.0], [100.0]], [[-1.0, 30.0]]])
def test_a_choice_reads_every_factor(c: list[Any]) -> None:
    """``where(x > 0, x, c x)``: the first of many factors was taken for all."""
    factors = torch.tensor(c)
    assert is_bound(lambda x: torch.where(x > 0, x, factors.to(x) * x), (2, 2))
    assert is_bound(lambda x: torch.where(x <= 0, factors.to(x) * x, x), (2, 2))
    assert is_bound(lambda x: (x > 0) * x + (x <= 0) * (factors.to(x) * x), (2, 2))
    assert is_bound(lambda x: torch.where(factors.to(x) * x > 0, x, 0.5 * x), (2, 2))


def test_a_choice_of_one_factor_is_known() -> None:
    found = network_bound(Function(lambda x: torch.where(x > 0, x, 3 * x)), (2, 2)).upper
    assert found is not None
    assert 3 <= found < 3.01


# -- names -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def library() -> Iterator[Any]:
    """A library of custom operators whose names are torch's."""
    made = torch.library.Library("misread", "FRAGMENT")
    yield made
    made._destroy()


def defined(library: Any, schema: str, function: Callable[..., Any]) -> Any:
    name = schema.partition("(")[0]
    library.define(schema)
    library.impl(name, function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"misread::{name}", function, lib=library)
    return getattr(torch.ops.misread, name)


@pytest.mark.parametrize(
    ("schema", "function"),
    [
        ("relu(Tensor self) -> Tensor", lambda x: 100 * x),
        ("sigmoid(Tensor self) -> Tensor", lambda x: 100 * x),
        ("clone(Tensor self, *, MemoryFormat? memory_format=None) -> Tensor", lambda x, **_: 100 * x),
        ("dropout(Tensor input, float p=0.5, bool train=False) -> Tensor", lambda x, *_: 100 * x),
        ("zeros_like(Tensor self) -> Tensor", lambda x: 100 * x),
        ("split(Tensor self, int split_size, int dim=0) -> Tensor[]", lambda x, *_: [100 * x, 100 * x]),
    ],
)  # fmt: skip
def test_an_operator_of_another_namespace_is_not_torch_s(library: Any, schema: str, function: Any) -> None:
    operator = defined(library, schema, function)
    told = (4, -1) if "split" in schema else ()

    def forward(x: Any) -> Any:
        y = operator(x, *told)
        return y[0] if isinstance(y, list | tuple) else y

    found = network_bound(Function(forward), (4,))
    assert found.upper is None
    assert found.unknown[0].operator == f"misread::{schema.partition('(')[0]}"


def test_a_product_of_another_namespace_is_not_torch_s(library: Any) -> None:
    """It was measured as the weight that it is given."""
    operator = defined(library, "linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor",
                       lambda x, weight, *_: 7 * x @ weight.T)  # fmt: skip
    weight = torch.eye(4)
    found = network_bound(Function(lambda x: operator(x, weight)), (4,))
    assert found.upper is None
    assert found.unknown[0].operator == "misread::linear"


def test_a_gate_of_another_namespace_is_not_torch_s(library: Any) -> None:
    """``x * sigmoid(x)`` is SiLU with torch's own sigmoid alone, a comparison torch's own as well."""
    gate = defined(library, "hardsigmoid(Tensor self) -> Tensor", lambda x: x.clone())
    assert network_bound(Function(lambda x: x * gate(x)), (4,)).upper is None
    below = defined(library, "gt(Tensor self, Scalar other) -> Tensor", lambda x, c: torch.frac(10 * x) > c)
    assert network_bound(Function(lambda x: torch.where(below(x, 0), x, 0.1 * x)), (4,)).upper is None


def test_a_layer_that_calls_an_operator_of_another_namespace_is_not_shown(library: Any) -> None:
    """An audit of a live model followed the input through ``clone`` by its name; 1.005 of it is as long to 1 %."""
    operator = defined(library, "clone(Tensor self) -> Tensor", lambda x: 1.005 * x)

    class Own(nn.Linear):
        def forward(self, x: Any) -> Any:
            return nn.functional.linear(operator(x), self.weight)

    (row,) = audit_module(nn.Sequential(Own(4, 4, bias=False)), (4,)).layers
    assert row.upper is None
    assert row.reason is not None
    assert "misread::clone" in row.reason


# -- arithmetic that decides -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize(
    ("before", "told"),
    [((2,), {"size": 82}), ((2, 3), {"size": (82, 7)}), ((3, 2), {"size": (5, 86)}), ((10,), {"scale_factor": 5.9}),
     ((2, 2, 3), {"size": (82, 4, 3)}), ((7,), {"scale_factor": 3.3, "recompute_scale_factor": True})],
)  # fmt: skip
@pytest.mark.nightly
def test_copies_are_counted_in_the_precision_in_which_they_are_made(
    before: tuple[int, ...], told: dict[str, Any], mode: str, dtype: str
) -> None:
    """2 pixels become 82: 41 and 41 in double precision, 42 and 40 in single."""
    kind = getattr(torch, dtype)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones((), dtype=kind))

        def forward(self, x: Any) -> Any:
            return nn.functional.interpolate(self.one * x, mode=mode, **told)

    model, shape = Model(), (2, *before)
    pixels = torch.eye(math.prod(before), dtype=kind).reshape(-1, 1, *before).expand(-1, *shape)
    with torch.no_grad():
        images = model(pixels.contiguous())[:, 0].double()
    truth = float(images.reshape(len(images), -1).norm(dim=1).max())
    found = network_bound(model, shape).upper
    assert found is not None
    assert truth <= found * (1 + 1e-12)
    assert found <= truth * 1.1


# -- samples ---------------------------------------------------------------------------------------------------------
MIXING: dict[str, Callable[..., Any]] = {
    "another map of several": lambda x: 100 * x if x.shape[0] > 1 else x,
    "another map of three": lambda x: 100 * x if x.shape[0] > 2 else x,
    "less their mean": lambda x: x - x.mean(0),
    "their sum": lambda x: x.sum(),
    "the first one's mean added": lambda x: x + x[:1].mean(),
    "in another order": lambda x: x.flip(0),
}
SINGLE: dict[str, Callable[..., Any]] = {
    "each by itself": lambda x: torch.relu(x).flip(1),
    "another axis first": lambda x: x.movedim(0, -1),
    "several outputs": lambda x: (x, 2 * x),
    "one sample only": lambda x: x.reshape(1, 4),
    "whole numbers beside": lambda x: (x, x.argmax(1)),
}


@pytest.mark.parametrize("name", MIXING)
def test_samples_that_are_mixed_are_refused(name: str) -> None:
    """A network was traced with one sample, and its bound promised in any number: 1, reached 100."""
    model = Function(MIXING[name])
    with pytest.raises(MethodError, match=r"gives another output for [23] samples together"):
        network_bound(model, (4,))
    x = torch.ones(3, 4)
    found = network_bound(model, x).upper
    jacobian: Any = torch.autograd.functional.jacobian(model, x)
    assert found is None or float(torch.linalg.matrix_norm(jacobian.reshape(-1, 12), 2)) <= found * (1 + 1e-6)


@pytest.mark.parametrize("name", SINGLE)
def test_samples_apart_are_bounded(name: str) -> None:
    found = network_bound(Function(SINGLE[name]), (4,))
    assert found.upper is not None or "argmax" in found.unknown[0].operator


# -- rounding --------------------------------------------------------------------------------------------------------
def wavy(x: Any) -> Any:
    """Nonexpansive, though no rule says so.

    Entries that meet have the columns 0.45 (cos a, -sin a) and 0.45 (-sin b, cos b): 0.45 times the root of 2 at most.
    The windows repeat each entry at most three times: 0.1 times the root of 3. That is less than 0.82.
    """
    pooled = nn.functional.max_pool1d(x[:, None], 3, 1, 1)[:, 0]
    return 0.45 * torch.sin(x) + 0.45 * torch.cos(x.flip(1)) + 0.1 * pooled


OFFSETS: dict[str, Callable[..., Any]] = {
    "at the end": lambda x: wavy(x) + 1e15,
    "taken off again": lambda x: (wavy(x) + 1e15) - 1e15,
    "inside": lambda x: 1e9 * ((1e-9 * wavy(x) + 1e7) - 1e7),
    "in place": lambda x: wavy(x).add_(1e15).sub_(1e15),
    "in an input of a sum": lambda x: (
        torch.cat([wavy(x), torch.full_like(x, 1e15)], 1) @ torch.cat([torch.eye(8).to(x)] * 2)
    ),
    "in a sum that cancels": lambda x: (
        torch.cat([wavy(x), 0 * x + 1e15, 0 * x + 1e15], 1)
        @ torch.cat([torch.eye(8), torch.eye(8), -torch.eye(8)]).to(x)
    ),
}


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", OFFSETS)
def test_rounding_refutes_nothing(name: str, residual: bool) -> None:
    """With an offset of 1e15 outputs are whole eighths: a nonexpansive function was refuted."""
    function = OFFSETS[name]
    asked = (lambda x: x - function(x)) if residual else function  # of which what is left is the function again
    found = nonexpansive(Function(asked), (8,), residual=residual)
    assert found.proven is not False, str(found)
    assert found.reached <= 0.82


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
@pytest.mark.parametrize("factor", [1.002, 1.1, 50.0])
def test_what_is_larger_than_rounding_refutes(factor: float, offset: float) -> None:
    found = nonexpansive(Function(lambda x: torch.abs(factor * x + offset)), (300,))
    assert found.proven is False
    assert factor * (1 - 1e-4) <= found.reached <= factor
