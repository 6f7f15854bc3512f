"""Products with stacks of matrices have the largest norm in the stack; complex values are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)
import numpy as np  # noqa: E402
from specnorm_networks import (  # noqa: E402
    Layer,
    Measure,
    network_bound,
)
from torch import Tensor, nn  # noqa: E402

from specnorm.errors import KernelError  # noqa: E402

fft = torch.fft
EIGHT = torch.arange(8.0).double().reshape(2, 2, 2)
EXACT: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...], float]] = {
    "an equation": (lambda x: torch.einsum("hio,bhi->bho", EIGHT, x), (2, 2), 11.22356),
    "a stack of two": (lambda x: x @ torch.stack([torch.eye(2), 3 * torch.eye(2)]).double(), (2, 2, 2), 3.0),
    "a stack": (lambda x: torch.bmm(x, 2 * torch.eye(2).double()[None]), (2, 2), 2.0),
}
REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a transform": (lambda x: fft.irfft(fft.rfft(x), 4), "its values are complex"),
    "real parts": (lambda x: torch.complex(x, x).real, "its values are complex"),
    "an equation of two values": (lambda x: torch.einsum("bhc,bhc->bh", x, x), "product of two values"),
    "repeated by matrices": (lambda x: x @ torch.ones(5, 1, 4, 2, dtype=x.dtype), "(5, 1, 4, 2)"),
    "a diagonal": (lambda x: torch.einsum("bii->bi", x[:, :, :3]), "equation bii->bi"),
    "a sum by an equation": (lambda x: torch.einsum("bhc,oh->bo", x, torch.ones(2, 3)), "equation bhc,oh->bo"),
    "an equation with dots": (lambda x: torch.einsum("...c,co->...o", x, torch.ones(4, 2)), "equation ...c,co->...o"),
    "one constant for several": (lambda x: torch.einsum("bhc,oc->bho", x, torch.ones(2, 1)), "equation bhc,oc->bho"),
}


class Of(nn.Module):
    """One output for each function."""

    def __init__(self, *functions: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(f(x) for f in self.functions)


@pytest.mark.parametrize("name", EXACT)
def test_constants_are_attained(name: str) -> None:
    f, shape, wanted = EXACT[name]
    found = network_bound(Of(f), torch.zeros(1, *shape, dtype=torch.float64)).upper
    basis = torch.eye(int(np.prod(shape)), dtype=torch.float64).reshape(-1, *shape)
    matrix = torch.stack([f(each[None]).flatten() for each in basis]).numpy()
    assert found == pytest.approx(wanted, rel=1e-5)
    assert found is not None
    assert found >= np.linalg.norm(matrix, 2) * (1 - 1e-14)


def test_what_no_constant_was_derived_for_is_refused_by_name() -> None:
    found = network_bound(Of(*(f for f, _ in REFUSED.values())), (3, 4))
    assert all(known is None for known in found.outputs.values())
    reasons = " | ".join(node.reason for node in found.unknown)
    for name, (_, word) in REFUSED.items():
        assert word in reasons, name


def test_complex_inputs_are_not_held() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor, z: Tensor) -> Tensor:
            return x + z.real

    found = network_bound(Sum(), (torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.complex64)))
    assert found.upper is None
    assert "its values are complex" in found.unknown[0].reason


def norms_of(stack: Any) -> float:
    return Measure().matrices(Layer("w", lambda: stack, {}, 0)).value


def test_norms_of_stacks_of_matrices() -> None:
    """Proven: never below, at any scale; and close."""
    rng = np.random.default_rng(0)
    for shape in ((5, 3, 4), (7, 1, 1)):
        a = rng.normal(size=shape)
        real = float(np.linalg.norm(a, 2, axis=(-2, -1)).max())
        for scale in (1.0, 2.0**-900, 2.0**900):
            found = norms_of(a * scale) / scale
            assert real * (1 - 1e-14) <= found <= real * (1 + 1e-12)
    assert norms_of(np.zeros((3, 2, 2))) == 0.0
    assert norms_of(np.zeros((0, 2, 2))) == 0.0
    with pytest.raises(KernelError, match="non-finite"):
        norms_of(np.full((1, 2, 2), np.nan))
