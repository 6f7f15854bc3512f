"""What the comparison of a graph with its model lets pass, and what it must: honest networks, in every precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from networks.published import NETWORKS  # noqa: E402
from networks.torch_modules import Function  # noqa: E402
from specnorm_networks import network_bound, network_graph  # noqa: E402
from specnorm_networks.comparison.checking import check  # noqa: E402
from specnorm_networks.model import Checked  # noqa: E402
from torch import nn  # noqa: E402

from specnorm.errors import MethodError  # noqa: E402

DRAWN = 300
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def compared(model: Any, shape: tuple[int, ...]) -> Checked:
    """The comparison alone; raises where it refuses."""
    graph = network_graph(model, shape)
    return check(graph, graph)


# -- batch normalisation, in every state -----------------------------------------------------------------------------
def fresh(norm: Any, rng: np.random.Generator) -> None:
    del norm, rng


def as_trained(norm: Any, rng: np.random.Generator) -> None:
    """Statistics and scales over some orders of magnitude, as trained networks have them."""
    n = norm.num_features
    fill(norm, 10 ** rng.uniform(-2.5, 0.5, n), 0.5 * rng.normal(size=n), 10 ** rng.uniform(-3.5, 0, n),
         0.3 * rng.normal(size=n))  # fmt: skip


def cancelling(norm: Any, rng: np.random.Generator) -> None:
    """The bias is the mean times the scale, nearly."""
    n = norm.num_features
    v = 10 ** rng.uniform(-2, 1, n)
    m = 10 ** rng.uniform(0, 2, n) * rng.choice([-1, 1], n)
    w = rng.normal(size=n)
    fill(norm, v, m, w, m * w / np.sqrt(v + norm.eps) * (1 + 1e-3 * rng.normal(size=n)))


def without_spread(norm: Any, rng: np.random.Generator) -> None:
    """Channels that never vary, and scales that pruning left at 0."""
    n = norm.num_features
    fill(norm, np.where(rng.uniform(size=n) < 0.5, 0.0, 1e-12), rng.normal(size=n),
         1e-3 * rng.normal(size=n) * rng.integers(0, 2, n), rng.normal(size=n))  # fmt: skip


STATES = (fresh, as_trained, cancelling, without_spread)


def fill(
    norm: Any,
    variance: Any,
    mean: Any,
    scale: Any,
    bias: Any,
) -> None:
    for at, value in (
        (norm.running_var, variance), (norm.running_mean, mean), (norm.weight, scale), (norm.bias, bias)
    ):  # fmt: skip
        at.data.copy_(torch.tensor(value))


def drawn(number: int) -> Any:
    """A chain of convolutions, batch norms and activations, in a stored precision and a state."""
    rng = np.random.default_rng(number)
    torch.manual_seed(number)
    width = int(rng.choice([3, 8, 16]))
    depth = int(rng.integers(2, 18))
    activation: Any = [nn.ReLU, nn.GELU, nn.SiLU, lambda: nn.LeakyReLU(0.1)][rng.integers(4)]
    layers: list[Any] = []
    for at in range(depth):
        norm = nn.BatchNorm2d(width, eps=float(rng.choice([1e-5, 1e-3])))
        STATES[(number + at // 4) % len(STATES)](norm, rng)
        conv = nn.Conv2d(width if at else 1, width, 3, padding=1, bias=bool(rng.integers(2)))
        nn.init.kaiming_normal_(conv.weight)
        layers += [conv, norm, activation()]
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1)).to(DTYPES[number % 3])


@pytest.mark.parametrize("number", range(DRAWN))
@pytest.mark.sampled(100)
def test_no_honest_network_is_refused(number: int) -> None:
    assert compared(drawn(number), (1, 8, 8)).complete


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.nightly
def test_networks_of_the_pages_are_compared_as_users_load_them(name: str) -> None:
    """In float32; ResNet-20 was refused: 1.49 times what rounding was thought to make."""
    build, shape = NETWORKS[name]
    model = build()
    assert {x.dtype for x in model.parameters()} == {torch.float32}
    assert compared(model, shape).complete


# -- constants ---------------------------------------------------------------------------------------------------------
def test_what_could_not_be_compared_is_said_so() -> None:
    assert "0 values agree, 1 could not be compared." in str(Checked(inputs=3, missed=("y",)))


def test_thresholds_are_those_of_the_model() -> None:
    """1e-50 is 0 in single precision, and was read through it: 3 was claimed of a function that jumps by 2e-50."""
    small = Function(lambda x: torch.where(x > 1e-50, x, 3 * x))
    example = torch.zeros(1, 4, dtype=torch.float64)
    x = torch.tensor([[1e-50], [1e-50 * (1 + 4e-16)]], dtype=torch.float64)
    assert (small(x)[0] - small(x)[1]).item() > 1e15 * (x[1] - x[0]).item()
    with pytest.raises(MethodError, match="hold as 0"):
        network_bound(small, example)
