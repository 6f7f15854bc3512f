"""A bound near one input holds in its ball, is never above the one everywhere, and is tight in small balls."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import specnorm_networks
from helpers.checks import present
from networks.dense_networks import CHAINS, Network
from specnorm_networks import Multipliers
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


def test_the_extension_sees_public_names_and_nothing_sees_it() -> None:
    package = Path(specnorm_networks.__file__).parent
    for path in package.rglob("*.py"):
        modules = re.findall(r"^\s*(?:from|import) (specnorm_networks[\w.]*)", path.read_text("utf-8"), re.MULTILINE)
        of_extension = {module for module in modules if ".local" in module}
        if (package / "local") in path.parents:
            assert {*modules} - of_extension <= {"specnorm_networks", "specnorm_networks.tools"}, path
        else:
            assert not of_extension, path
