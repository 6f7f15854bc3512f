"""Modules that are no functions of their inputs are refused by name, and those that only look like it are bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    "samples together": lambda _, x: x if x.shape[0] < 4 else 100 * x,
    "3 samples together": lambda _, x: x if x.shape[0] != 3 else 100 * x,
}


@pytest.mark.parametrize("words", list(REFUSED))
def test_what_is_no_function_of_its_input_is_refused(words: str) -> None:
    """1 was claimed for 100."""
    model = Applied(REFUSED[words])
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(MethodError, match=words):
        network_bound(model, (1,))
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
