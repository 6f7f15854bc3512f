"""MaxMin and GroupSort in halves have norm 1; what only looks like them keeps its factor."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)
onnx = pytest.importorskip("onnx", exc_type=ImportError)
from networks.torch_modules import Function  # noqa: E402
from specnorm_networks import Multipliers, Product, network_bound  # noqa: E402  # noqa: E402
from torch import Tensor, nn  # noqa: E402

SORTS: dict[str, Callable[[Tensor], Tensor]] = {
    "split": lambda x: pair_of_two_splits(x),
    "chunk": lambda x: pair(*x.chunk(2, 1)),
    "cut": lambda x: pair(x[:, :2], x[:, 2:]),
    "along the pixels": lambda x: torch.cat([torch.minimum(*x.chunk(2, 3)), torch.maximum(*x.chunk(2, 3))], 3),
    "put along another axis": lambda x: pair(*x.chunk(2, 3)),
    "transposed before": lambda x: pair(*x.transpose(1, 3).chunk(2, 2)),
    "stacked": lambda x: stacked(*x.chunk(2, 1)),
    "whole axis": lambda x: torch.sort(x, 1)[0],
    "whole axis, falling": lambda x: x.sort(dim=2, descending=True, stable=True).values,
    "groups": lambda x: in_groups(x, 4),
    "neighbours": lambda x: neighbours(x),
    "both signs": lambda x: torch.cat([torch.relu(-x), torch.relu(x)], 1),
    "both signs, stacked": lambda x: torch.stack([torch.relu(x), torch.relu(-x)], 1),
    "the largest": lambda x: x.topk(3, 1).values,
    "reflected": lambda x: householder(x, torch.tensor([0.3, -2.0])),
    "reflected, chosen": lambda x: householder(x, torch.tensor([1.7, 8.0]), choose=True),
    "leaky": lambda x: torch.where(x > 0, x, 0.3 * x),
    "leaky, by products": lambda x: x * (x >= 0) + (-0.7 * x) * (x < 0),
}
LOOSE: dict[str, Callable[[Tensor], Tensor]] = {
    "the larger twice": lambda x: torch.cat([torch.maximum(*x.chunk(2, 1)), torch.maximum(*x.chunk(2, 1))], 1),
    "one half alone": lambda x: pair(x.chunk(2, 1)[0], x.chunk(2, 1)[0]),
    "overlapping": lambda x: pair(x[:, :3], x[:, 1:]),
    "of two values": lambda x: pair(x, torch.sin(x)),
    "with a third": lambda x: torch.cat([pair(*x.chunk(2, 1)), x], 1),
    "broadcast": lambda x: pair(*torch.split(x, [1, 3], 1)),
    "both signs of two": lambda x: torch.cat([torch.relu(-x), torch.relu(torch.sin(x))], 1),
    "neighbours apart": lambda x: torch.cat([x.view(-1, 2, 2, 8).amax(2), x.view(-1, 2, 2, 8).amin(1)], 1),
}
UNKNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "a jump": lambda x: torch.where(x > 0, x, 0.3 * x + 1),
    "a jump elsewhere": lambda x: torch.where(x > 1, x, 0.3 * x),
    "by another value": lambda x: torch.where(torch.sin(x) > 0, x, 0.3 * x),
    "unordered": lambda x: x.topk(3, 1, sorted=False).values,
    "positions": lambda x: x.sort(1).indices.to(x.dtype),
    "a reflection at another line": lambda x: householder(x, torch.tensor([0.3, -2.0]), half=0.4),
    "two signs": lambda x: x * (x > 0) + (0.3 * x) * (x > 0),
    "pieces of two values": lambda x: householder(torch.cat([x, x.flip(1)], 1)[:, 1:5], torch.ones(2), other=x.flip(1)),
}


def pair(a: Tensor, b: Tensor) -> Tensor:
    y: Tensor = torch.cat([torch.maximum(a, b), torch.minimum(a, b)], 1)
    return y


def pair_of_two_splits(x: Tensor) -> Tensor:
    y: Tensor = torch.cat([torch.max(*torch.split(x, 2, 1)), torch.min(*torch.split(x, 2, 1))], 1)
    return y


def stacked(a: Tensor, b: Tensor) -> Tensor:
    y: Tensor = torch.stack([torch.minimum(a, b), torch.maximum(a, b)], 2)
    return y


def in_groups(x: Tensor, count: int, axis: int = 1) -> Tensor:
    """GroupSort as deel-torchlip has it."""
    shape = (*x.shape[:axis], x.shape[axis] // count, count, *x.shape[axis + 1 :])
    y: Tensor = torch.sort(x.reshape(shape), dim=axis + 1)[0].reshape(x.shape)
    return y


def neighbours(x: Tensor) -> Tensor:
    """GroupSort of two, as deel-torchlip has it."""
    pairs = x.view(x.shape[0], -1, 2, *x.shape[2:])
    ends = [torch.min(pairs, 2, keepdim=True)[0], torch.max(pairs, 2, keepdim=True)[0]]
    y: Tensor = torch.cat(ends, dim=2).view(x.shape)
    return y


def householder(
    z: Tensor, theta: Tensor, *, choose: bool = False, half: float = 0.5, other: Tensor | None = None
) -> Tensor:
    """Householder activations as deel-torchlip, orthogonium and the authors' code have them."""
    theta = theta.view(1, -1, *(1,) * (z.ndim - 2)).to(z.dtype)
    x, y = z.chunk(2, 1)
    y = y if other is None else other.chunk(2, 1)[1]
    sign = x * torch.sin(half * theta) - y * torch.cos(half * theta)
    a, b = x * torch.cos(theta) + y * torch.sin(theta), x * torch.sin(theta) - y * torch.cos(theta)
    both = (torch.where(sign <= 0, x, a), torch.where(sign <= 0, y, b))
    if not choose:
        both = (x * (sign <= 0) + a * (sign > 0), y * (sign <= 0) + b * (sign > 0))
    turned: Tensor = torch.cat(both, 1)
    return turned


class Every(nn.Module):
    """All of them side by side, traced once."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [f(x) for f in ALL.values()]


ALL = {**SORTS, **LOOSE, **UNKNOWN}


@pytest.fixture(scope="module")
def uppers() -> dict[str, float | None]:
    outputs = list(network_bound(Every(), (4, 2, 4), method=Product()).outputs.values())
    return dict(zip(ALL, outputs, strict=True))


@pytest.mark.parametrize("name", SORTS)
def test_sorting_has_norm_one(name: str, uppers: dict[str, float | None]) -> None:
    """Reflections, too, up to what their sines are rounded by."""
    upper = uppers[name]
    assert upper is not None
    assert 1 <= upper <= (1 + 1e-7 if "reflected" in name else 1)
    assert 0.5 <= reached(SORTS[name]) <= 1 + 1e-6


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_choice_that_jumps_has_no_constant(name: str, uppers: dict[str, float | None]) -> None:
    assert uppers[name] is None


@pytest.mark.parametrize("name", LOOSE)
def test_what_only_looks_like_it_keeps_a_factor(name: str, uppers: dict[str, float | None]) -> None:
    upper = uppers[name]
    assert upper is not None
    assert 1.0 < upper <= 3
    assert reached(LOOSE[name]) <= upper * (1 + 1e-9)


def reached(f: Callable[[Tensor], Tensor]) -> float:
    """Largest stretch of some small steps."""
    generator = torch.Generator().manual_seed(0)
    x, step = torch.randn(2, 40, 4, 2, 4, dtype=torch.float64, generator=generator)
    ends = zip(x, x + 1e-3 * step, strict=True)
    return max(float((f(a[None]) - f(b[None])).norm() / (a - b).norm()) for a, b in ends)


def largest_jacobian(model: nn.Module, size: int) -> float:
    """Of a piecewise linear network, at points at random."""
    points = torch.randn(200, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    jacobians = [torch.autograd.functional.jacobian(lambda x: model(x[None])[0], point) for point in points]
    return max(float(torch.linalg.matrix_norm(jacobian, 2)) for jacobian in jacobians)


BETWEEN: dict[str, tuple[Callable[[Tensor], Tensor], list[float]]] = {
    "halves": (SORTS["chunk"], [10.0, 1.0, 0.1] * 2),
    "neighbours": (neighbours, [10.0, 10.0, 1.0, 1.0, 0.1, 0.1]),
    "groups of three": (lambda x: in_groups(x, 3), [10.0] * 3 + [0.1] * 3),
    "reflected": (lambda x: householder(x, torch.tensor([0.3, 1.0, -2.0])), [10.0, 1.0, 0.1] * 2),
}


@pytest.mark.parametrize(("seed", "kind"), list(enumerate(BETWEEN)))
def test_weights_go_through_sorted_channels(seed: int, kind: str) -> None:
    """Channels of different sizes between the layers: less than the product, and never below what is reached."""
    generator = torch.Generator().manual_seed(seed)
    function, sizes = BETWEEN[kind]
    model = nn.Sequential(
        nn.Linear(4, 6, bias=False), Function(function), nn.Linear(6, 6, bias=False), Function(function),
        nn.Linear(6, 3, bias=False),
    ).double()  # fmt: skip
    scales = torch.tensor(sizes, dtype=torch.float64)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64))
        for at in (0, 2):
            model.get_parameter(f"{at}.weight").mul_(scales[:, None])
            model.get_parameter(f"{at + 2}.weight").div_(scales)
    found, rules = (network_bound(model, (4,), method=method) for method in (Multipliers(), Product()))
    assert found.upper is not None
    assert rules.upper is not None
    assert largest_jacobian(model, 4) * (1 - 1e-9) <= found.upper < 0.2 * rules.upper
