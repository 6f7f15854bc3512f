"""Modules that are no functions of their inputs are refused by name, and those that only look like it are bounded."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from specnorm_networks import network_bound  # noqa: E402
from torch import nn  # noqa: E402
from torch.compiler import is_compiling  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from specnorm.errors import MethodError  # noqa: E402


class Applied(nn.Module):
    """A function of the module and its input; `value` and the buffer `count` are 0 at first."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.function, self.value, self.held = function, 0, torch.zeros(())
        self.register_buffer("count", torch.zeros(()))
        self.inner = nn.Linear(1, 1)
        self.entries, self.seen = {"calls": 0}, SimpleNamespace(calls=0)

    calls = 0

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


def steep(x: Any, *, away: bool) -> Any:
    """A slope of 100, where no samples are: or nowhere."""
    return torch.where(x.abs() > 1000, 100 * x, x) if away else x


def counting(self: Any, x: Any) -> Any:
    self.count += 1
    return x * torch.where(self.count > 100, 100.0, 1.0)


def renewing(self: Any, x: Any) -> Any:
    self.count = self.count + 1
    return x * torch.where(self.count > 100, 100.0, 1.0)


def counting_calls(self: Any, x: Any) -> Any:
    self.value += 1
    return 100 * x if self.value > 100 else x


def counting_in_a_tensor(self: Any, x: Any) -> Any:
    self.held += 1
    return x * torch.where(self.held > 100, 100.0, 1.0)


def by_gradients(_: Any, x: Any) -> Any:
    with torch.set_grad_enabled(True):
        return 100 * x if x.grad_fn is not None else x


BOX = [0]


def counting_in_a_list(_: Any, x: Any) -> Any:
    BOX[0] += 1
    return 100 * x if BOX[0] > 100 else x


def counting_in_a_dictionary(self: Any, x: Any) -> Any:
    self.entries["calls"] += 1
    return 100 * x if self.entries["calls"] > 100 else x


def counting_in_an_object(self: Any, x: Any) -> Any:
    self.seen.calls += 1
    return 100 * x if self.seen.calls > 100 else x


def counting_in_a_class(self: Any, x: Any) -> Any:
    type(self).calls += 1
    return 100 * x if type(self).calls > 100 else x


Function: Any = torch.autograd.Function


class ByGradient(Function):  # type: ignore[misc]  # of any type where torch is missing
    """Computes something else where a gradient is asked for, which it sees in its context."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return 100 * x if ctx.needs_input_grad[0] else x

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        del ctx
        return gradients[0]


REFUSED: dict[str, Callable[[Any, Any], Any]] = {
    "changes count at each call": counting,
    "another output|changes count": renewing,
    "changes value at each call": counting_calls,
    "(held|count)": counting_in_a_tensor,
    "is_exporting": lambda _, x: steep(x, away=not torch.compiler.is_exporting()),
    "is_compiling": lambda _, x: steep(x, away=not is_compiling()),
    "is_dynamo_compiling": lambda _, x: steep(x, away=not torch.compiler.is_dynamo_compiling()),
    "is_tracing": lambda _, x: steep(x, away=not torch.jit.is_tracing()),
    "requires_grad": lambda _, x: 100 * x if x.requires_grad else x,
    "is_grad_enabled": lambda _, x: 100 * x if torch.is_grad_enabled() else x,
    "grad_fn": by_gradients,
    "asks is_inference_mode_enabled": lambda _, x: 100 * x if torch.is_inference_mode_enabled() else x,
    "asks is_inference:": lambda _, x: 100 * x if x.is_inference() else x,
    # As a user calls it who forgot no_grad; then, as one calls it who wants the input's gradient.
    "asks is_grad_enabled": lambda _, x: 100 * x if torch.is_grad_enabled() and not x.requires_grad else x,
    "is_leaf and requires_grad": lambda _, x: 100 * x if x.is_leaf and x.requires_grad else x,
    "samples together": lambda _, x: x if len(x) < 4 else 100 * x,
    "3 samples together": lambda _, x: x if len(x) != 3 else 100 * x,
    "looks at the number of samples.*7": lambda _, x: x if x.shape[0] != 7 else 100 * x,
    "changes function.BOX.0 at": counting_in_a_list,
    "changes entries.calls at": counting_in_a_dictionary,
    "changes seen.calls at": counting_in_an_object,
    "changes calls at": counting_in_a_class,
    "draws random numbers": lambda _, x: 100 * x if random.random() < 1e-9 else x,
    "where gradients are computed": lambda _, x: ByGradient.apply(x),
    "lies otherwise in memory": lambda _, x: x if x.is_contiguous() else 100 * x,
}


@pytest.mark.parametrize("words", list(REFUSED))
def test_what_is_no_function_of_its_input_is_refused(words: str) -> None:
    """1 was claimed for 100."""
    model = Applied(REFUSED[words])
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(MethodError, match=words):
        network_bound(model, (2,))
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def remembering(self: Any, x: Any) -> Any:
    self.held = x.detach()  # for whoever looks at it
    self.value = x.shape[1]
    return 2 * x


KEPT: dict[str, Callable[[Any, Any], Any]] = {
    "what it saw is kept and not read": remembering,
    "torch itself asks": lambda self, x: 2 * F.dropout(torch.utils.checkpoint.checkpoint(
        lambda y: y, x, use_reentrant=False), 0.5, training=self.training),
}  # fmt: skip


@pytest.mark.parametrize("words", list(KEPT))
def test_what_is_a_function_all_the_same(words: str) -> None:
    found: Any = network_bound(Applied(KEPT[words]), (1,))
    assert found.upper == pytest.approx(2.0)
    assert found.checked.samples == (2, 3, 16)


def test_a_table_that_a_first_call_fills_holds_numbers_afterwards() -> None:
    """Tensors of a trace stayed in it, and the model did not run any more."""
    tables: dict[int, Any] = {}

    def tabled(_: Any, x: Any) -> Any:
        if x.shape[1] not in tables:
            tables[x.shape[1]] = torch.arange(1.0, 1 + x.shape[1])
        return x * tables[x.shape[1]]

    model = Applied(tabled)
    assert network_bound(model, (3,)).upper == pytest.approx(3.0)
    assert model(torch.ones(1, 3)).tolist() == [[1, 2, 3]]


class Merged(nn.Linear):
    """Adds a matrix to its kernel in eval(), and takes it off in train(), as layers with adapters do."""

    weight: Any
    merged = False

    def train(self, mode: bool = True) -> Any:
        if mode == self.merged:
            self.weight.data += -1 if mode else 1
            self.merged = not mode
        return super().train(mode)


def test_kernels_that_eval_changes_are_put_back() -> None:
    """They were changed anew at each execution."""
    model: Any = nn.Sequential(Merged(2, 2, bias=False))
    before = model[0].weight.detach().clone()
    found: Any = network_bound(model, (2,))
    assert found.upper == pytest.approx(float(torch.linalg.matrix_norm((before + 1).double(), 2)), rel=1e-6)
    assert torch.equal(model[0].weight, before)
    assert model.training
    assert not model[0].merged


def test_what_writes_its_input_and_returns_it() -> None:
    assert network_bound(nn.Sequential(nn.ReLU(inplace=True), nn.ReLU(inplace=True)), (2,)).upper == 1


@pytest.mark.parametrize("given", [((4,), (4,)), (4.0,), (-1,), "4", {"x": (4,)}, (torch.zeros(1, 4), 3)])
def test_what_is_no_shape_is_refused(given: Any) -> None:
    with pytest.raises(MethodError, match=r"one input.s shape without the batch axis"):
        network_bound(nn.Linear(4, 4), given)


def test_inputs_may_be_one_array_and_of_another_library() -> None:
    x = np.ones((1, 4), np.float32)
    for given in ((x, x), (torch.ones(1, 4),) * 2):
        assert network_bound(Sum(), given).upper == pytest.approx(10**0.5)


class Sum(nn.Module):
    """Of two inputs."""

    def forward(self, x: Any, y: Any) -> Any:
        return x + 3 * y


def test_a_constant_is_refused() -> None:
    with pytest.raises(MethodError, match="no output of the network is computed from its inputs"):
        network_bound(Applied(lambda *_: torch.ones(3)), (1,))
