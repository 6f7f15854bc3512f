"""A bound near one input holds in its ball, is never above the one everywhere, and is tight in small balls."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import specnorm_networks
from helpers.checks import present
from networks.dense_networks import CHAINS, Network, dense
from specnorm_networks import Multipliers, margins
from specnorm_networks.local.accuracy import certified_accuracy
from specnorm_networks.tools import Measure, bound

METHOD = Multipliers(steps=6)
MEASURE = Measure(1e-4)


def centre(chain: Network, seed: int) -> Any:
    return np.random.default_rng(seed).normal(size=chain.shape)


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.sampled("geometry", "residual")
def test_bound_holds_in_the_ball(name: str) -> None:
    """Pairs at random and Jacobians along steps uphill within the ball stay below."""
    chain = CHAINS[name]
    x = centre(chain, 0)
    everywhere: Any = bound(chain.graph, MEASURE, method=METHOD)
    for radius in (0.05, 0.6):
        found: Any = bound(chain.graph, MEASURE, method=METHOD, radius=radius, centre=x)
        assert found.upper <= everywhere.upper
        assert chain.stretch(x, radius, 1, steps=8) * (1 - 1e-9) <= found.upper
        assert (found.radius == radius) == (found.upper < everywhere.upper)


@pytest.mark.sampled("relu", "tanh")
@pytest.mark.parametrize(
    ("name", "factor"), [("relu", 1.0001), ("leaky", 1.0001), ("tanh", 1.01), ("silu", 1.01), ("maxmin", 1.0001)]
)
def test_small_balls_have_the_jacobian_s_norm(name: str, factor: float) -> None:
    chain = CHAINS[name]
    x = centre(chain, 3)
    # Where slopes are narrow the search begins far from its end.
    found = present(
        bound(
            chain.graph, MEASURE, method=Multipliers() if name in ("tanh", "silu") else METHOD, radius=1e-6, centre=x
        ).upper
    )
    assert found <= factor * float(np.linalg.norm(chain.jacobian(x), 2))


def test_radii_by_constants_of_each_ball() -> None:
    """Larger than by constants everywhere, and no step towards another class changes the label within them."""
    chain = dense(4, (5, 12, 12, 3))
    x = np.random.default_rng(4).normal(size=(4, 5))
    logits = np.array([chain.values(each)[-1] for each in x])
    labels = logits.argmax(axis=1)
    labels[0] = (labels[0] + 1) % 3
    known = margins(chain.graph, method=METHOD)
    before = known.radii(logits, labels)
    asked = np.unique(np.outer(before, np.geomspace(1, 32, 6)))
    found = certified_accuracy(chain.graph, x, labels, asked, local=True, margins_everywhere=known).radius
    assert found[0] == before[0] == 0
    assert (found[1:] >= 2 * before[1:]).all()
    numbers = np.random.default_rng(0)
    for sample, label, radius in zip(x[1:], labels[1:], found[1:], strict=True):
        for _ in range(20):
            d = numbers.normal(size=5)
            for _ in range(20):
                d *= 0.999 * radius / np.linalg.norm(d)
                values = chain.values(sample + d)[-1]
                jacobian = chain.jacobian(sample + d)
                assert values.argmax() == label
                nearest = np.argsort(values)[-2]
                d = d + 0.3 * radius * (jacobian[nearest] - jacobian[label])


def test_the_extension_sees_public_names_and_nothing_sees_it() -> None:
    package = Path(specnorm_networks.__file__).parent
    for path in package.rglob("*.py"):
        modules = re.findall(r"^\s*(?:from|import) (specnorm_networks[\w.]*)", path.read_text("utf-8"), re.MULTILINE)
        of_extension = {module for module in modules if ".local" in module}
        if (package / "local") in path.parents:
            assert {*modules} - of_extension <= {"specnorm_networks", "specnorm_networks.tools"}, path
        else:
            assert not of_extension, path
