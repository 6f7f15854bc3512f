"""Torch modules executed in single, half and bfloat16 precision: no further from double precision than is proven."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from specnorm_networks import Measure, certified_accuracy, network_graph  # noqa: E402
from specnorm_networks.radii import executed  # noqa: E402
from specnorm_torch import baked  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations  # noqa: E402

from specnorm.errors import MethodError  # noqa: E402

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Residual(nn.Module):
    """What every execution has a rule for, and in float32 what torch sums in 16 bits where values have so many."""

    def __init__(self, narrow: bool = True) -> None:
        super().__init__()
        self.narrow = narrow
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect", groups=2)
        self.down = nn.Conv2d(6, 8, 4, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.slope, self.head, self.norm = nn.PReLU(), nn.Linear(4 * 4 + 8, 4), nn.BatchNorm2d(6)
        for each in (self.norm.running_mean, self.norm.weight, self.norm.bias):
            nn.init.normal_(each)  # type: ignore[arg-type]

    def forward(self, x: Any) -> Any:
        y = nn.functional.relu6(self.first(x / 0.3))
        y = y + nn.functional.leaky_relu(self.second(y), 0.2)
        y = self.norm(y)
        pooled, y = self.down(y), nn.functional.avg_pool2d(self.down(y), 2, ceil_mode=True)
        if self.narrow:
            y = nn.functional.pad(y[:, :4], (1, 1, 1, 1))
        else:
            pooled, y = nn.functional.adaptive_avg_pool2d(pooled, 3), self.up(y)
        y = self.slope(nn.functional.max_pool2d(y, 2))
        return self.head(torch.cat([y.flatten(1), pooled.mean((2, 3))], 1))


def drawn(seed: int, *, narrow: bool) -> nn.Module:
    torch.manual_seed(seed)
    return Residual(narrow).eval()


@pytest.mark.parametrize("name", list(DTYPES))
@pytest.mark.sampled("bfloat16")
def test_what_torch_computes_is_not_further_off(name: str) -> None:
    model, largest = drawn(0, narrow=name != "float32"), 0.0
    at = executed(network_graph(model, torch.zeros(1, 2, 8, 8)), name, Measure())
    narrow, wide = copy.deepcopy(model).to(DTYPES[name]), copy.deepcopy(model).double()
    for _ in range(3):
        centre = torch.randn(1, 2, 8, 8)
        away = torch.randn(20, 2, 8, 8)
        x = (centre + 0.3 * away / away.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)).to(DTYPES[name])
        assert (x.double() - centre).flatten(1).norm(dim=1).max() < 0.4
        found = at.at(centre.double().numpy()).error(0.4)
        assert found is not None
        with torch.no_grad():
            apart = torch.cat([narrow(each[None]).double() - wide(each[None].double()) for each in x]).norm(dim=1)
        largest = max(largest, float(apart.max()) / found.value)
    assert 1e-4 < largest < 1


def test_certified_accuracy_as_executed() -> None:
    torch.manual_seed(1)
    layers = nn.Conv2d(1, 3, 3, stride=2), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(12, 3)
    model, x = nn.Sequential(*layers).eval(), torch.randn(2, 1, 6, 6)
    y = model(x).argmax(1)
    found = {
        name: certified_accuracy(model, x, y, [0.0, 1e-3], execution=name) for name in (None, "float32", "bfloat16")
    }
    radii = [found[name].radius for name in found]
    assert all((better >= worse).all() for better, worse in itertools.pairwise(radii))
    assert found["float32"].radius.min() > 0


def test_what_is_not_stored_as_the_model_has_it_is_refused() -> None:
    """A kernel that is computed before each call is computed in half precision there; a scale of 0 bounds nothing. Both
    can be folded."""
    computed = nn.Sequential(nn.Flatten(), parametrizations.weight_norm(nn.Linear(4, 3)))
    x, y = torch.randn(2, 4), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(MethodError, match="bake_"):
        certified_accuracy(computed, x, y, [0.1], execution="float16")
    assert certified_accuracy(baked(computed), x, y, [0.1], execution="float16").radius.shape == (2,)
    normal = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
    assert certified_accuracy(normal, x, y, [0.1], execution="float32").radius.shape == (2,)
    nn.init.zeros_(normal[1].weight)  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="fold batch normalisation"):
        certified_accuracy(normal, x, y, [0.1], execution="float32")


def test_rounding_of_logits_is_counted() -> None:
    """Without an execution: what is added cancels in single precision, and the label of the sample is another one."""
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0**25, -(2.0**25), 1.0], [0.0, 0.0, 0.5]]))
        model.bias.zero_()
    x, y = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([0])
    found = certified_accuracy(model, x, y, [0.0])
    assert found.accuracy[0] == 1.0
    model.weight.data *= 2.0**30
    model.weight.data[0, 2], model.weight.data[1, 2] = 1.0, 0.5
    assert certified_accuracy(model, x, y, [0.0]).accuracy[0] == 0.0
