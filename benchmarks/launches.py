"""Operations of a constraint: what a GPU launches in one forward and backward pass of all constrained weights."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from specnorm_torch import arrays, spectral_norm
from specnorm_train.torch import steps
from specnorm_train.torch.constraint import SpectralNorm
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as torchs_spectral_norm
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.trained import MODELS

VIEWS = (
    "_conj", "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "expand", "imag", "permute",
    "real", "reshape", "select", "slice", "split", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view",
    "view_as_complex", "view_as_real",
)  # fmt: skip
"""Names of the operations that launch nothing."""
WARM = 20
"""Passes before the one that is counted: the first ones owe sweeps."""


class Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that are no views, by name; those of a list of tensors count once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.names[name] += 1
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def as_on_a_device() -> Iterator[None]:
    """Context manager in which tensors of the CPU are computed by torch's operations, as those of a GPU are."""

    def is_queued(_backend: Any, _x: Any) -> bool:
        return True

    def is_no_view(_backend: Any, _x: Any) -> bool:
        return False

    with (
        mock.patch.object(arrays.TorchArrays, "numpy_view", is_no_view),
        mock.patch.object(arrays.TorchArrays, "asynchronous", is_queued),
    ):
        yield


def of_a_pass(model: nn.Module, layers: Sequence[Any]) -> Counter[str]:
    """Count the operations of one pass of all constrained weights, forward and backward, without the layers' own."""
    gradients = [torch.ones_like(layer.weight) for layer in layers]

    def run() -> None:
        weights: list[Tensor] = [layer.weight for layer in layers]
        torch.autograd.backward(weights, gradients)

    begin: Any = next(iter(model._forward_pre_hooks.values()), None)
    end: Any = next(iter(model._forward_hooks.values()), None)
    count = Launches()
    for j in range(WARM + 1):
        model.zero_grad()
        with count if j == WARM else contextlib.nullcontext():
            if begin is not None:
                begin(model, ())
            run()
            if end is not None:
                end(model, (), None)
    return count.names


def constrained(make: Callable[[], nn.Module], constrain: Callable[[Any], Any] | None) -> Counter[str]:
    """Count the operations for a model whose layers are constrained one by one, or by our call for a model."""
    torch.manual_seed(0)
    model = make()
    layers = [x for x in model.modules() if isinstance(x, nn.Conv2d | nn.Linear)]
    with as_on_a_device():
        if constrain is None:
            spectral_norm(model)
        else:
            for layer in layers:
                constrain(layer)
        return of_a_pass(model, layers)


def of_steps(make: Callable[[], nn.Module], sweeps: int) -> tuple[int, int]:
    """Count the operations of the steps of a model, passes or sweeps, and its stacks, which need some each."""
    torch.manual_seed(0)
    model = make()
    count = Launches()
    with as_on_a_device(), torch.no_grad():
        spectral_norm(model)
        constraints = [x for x in model.modules() if isinstance(x, SpectralNorm)]
        inputs = [x.next_input(x.original) for x in constraints if x.original is not None]
        # Tables are copied to the device once.
        steps.take_sweeps(inputs, sweeps)
        with count:
            steps.take_sweeps(inputs, sweeps)
        stacks = len(list(steps._stacks(inputs)))
    return sum(count.names.values()), stacks


def show() -> None:
    """Print the numbers of operations for each model."""
    for name, model in MODELS.items():
        ours, theirs = (sum(constrained(model.make, way).values()) for way in (None, torchs_spectral_norm))
        print(f"{name}: {ours} operations, torch's own {theirs}", flush=True)
        for kind, sweeps in (("a pass", 0), ("a sweep", 1)):
            operations, stacks = of_steps(model.make, sweeps)
            print(f"    {kind}: {operations} of them, for {stacks} stacks", flush=True)
