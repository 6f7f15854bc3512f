"""Bounds of published networks, and what their proofs take: larger or slower ones would be seen by no drawn network."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
from helpers.checks import present  # noqa: E402
from helpers.processes import FINDS_TESTS  # noqa: E402
from networks.published import Denoiser  # noqa: E402
from specnorm_networks import Multipliers, Product, network_bound  # noqa: E402
from specnorm_networks.tools import Measure  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks.networks import three_convolutions  # noqa: E402
from specnorm.methods import Enclose  # noqa: E402
from specnorm.running.measuring import proven  # noqa: E402


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "most"), [("resnet20", 6.655e6), ("dncnn25", 4.36e6)])
def test_every_processor_has_the_bound_of_before(name: str, most: float) -> None:
    """Of docs/benchmarks/index.md, with OpenBLAS's kernels for Haswell and, where there are such, for AVX-512.

    A search that stopped after steps without a gain ended at 4.50e6 by one and at 4.90e6 by the other. Fewer states
    that are looked at made ResNet-20's bound 4.5 % larger, unseen. A search that saw no frequency between the points of
    its last grid ended at bounds 1.4 % apart for DnCNN, 4.341e6 and 4.400e6: the norms of their kernels were 1.0012 and
    1.0016 between these points, for each of 17 layers.
    """
    found = {kernels: upper_in_new_process(name, kernels) for kernels in ("Haswell", "SkylakeX")}
    assert max(found.values()) <= most
    assert max(found.values()) < 1.01 * min(found.values())


def upper_in_new_process(name: str, kernels: str) -> float:
    """Bound of a network by kernels of OpenBLAS; a processor that lacks them takes its own."""
    source = (
        "from networks.published import NETWORKS, Denoiser\n"
        "from specnorm_networks import network_bound\n"
        f"name = {name!r}\n"
        "model, shape = (Denoiser().noise, (1, 40, 40)) if name == 'dncnn25' else (NETWORKS[name][0](), (3, 32, 32))\n"
        "print(network_bound(model.double().eval(), shape, budget=None).upper)\n"
    )
    environment = os.environ | FINDS_TESTS | {"OPENBLAS_CORETYPE": kernels}
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, env=environment)
    return float(ran.stdout.split()[-1])


def test_the_search_of_a_small_network_comes_to_the_last_grid() -> None:
    """Of docs/networks.md. Its bound was 62.23 when rounds on coarser grids took all 100 steps."""
    assert present(network_bound(three_convolutions()[:3], (1, 16, 16)).upper) <= 62.14


@pytest.mark.nightly  # the figure alone: `test_the_search_of_a_small_network_comes_to_the_last_grid` proves in CI
def test_a_joint_kernel_is_proven_in_few_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five layers of DnCNN, in 790 or 1,270, by the processor; by proofs of reduced matrices alone in 2,700."""
    cells: list[Any] = []

    def prove(self: Measure, kernel: Any, rtol: float) -> Any:
        del self
        found, ((_, upper),) = proven(kernel, Enclose(rtol=rtol, max_cells=2000))
        cells.append(found.stats["cells"])
        return upper

    monkeypatch.setattr(Measure, "of_kernel", prove)
    network_bound(Denoiser().noise[2:11].double().eval(), (64, 8, 8), method=Multipliers(steps=20), budget=None)
    assert cells
    assert max(cells) < 1800


@pytest.mark.parametrize(("size", "kind"), [(1, "Avg"), ((4, 1), "Avg"), (1, "Max")])
@pytest.mark.sampled("size1")
def test_adaptive_pooling_of_equal_windows_is_pooling(size: Any, kind: str) -> None:
    """As products with matrices, a head behind means was not bounded together with the layers before (2.9 times)."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()]
    high, wide = size if isinstance(size, tuple) else (size, size)
    adaptive = getattr(nn, f"Adaptive{kind}Pool2d")
    plain = getattr(nn, f"{kind}Pool2d")
    head = nn.Sequential(nn.Flatten(), nn.Linear(8 * high * wide, 10))
    networks = [nn.Sequential(*layers, pool, head).eval() for pool in (adaptive(size), plain((4 // high, 4 // wide)))]
    bounds = [network_bound(network, (3, 8, 8), method=Multipliers(steps=1)).upper for network in networks]
    assert bounds[0] is not None
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-6)


def test_a_layer_in_no_run_does_not_end_the_search() -> None:
    """Channels that are made of units: by channels its layers are in no run, by units in one (0.57 for 1.17)."""
    torch.manual_seed(0)
    layers = nn.Linear(8, 64), nn.ReLU(), nn.Unflatten(1, (4, 4, 4)), nn.Conv2d(4, 4, 3, padding=1), nn.Sigmoid()
    found = network_bound(nn.Sequential(*layers).eval(), (8,), method=Multipliers(steps=5))
    assert found.upper is not None
    assert found.product is not None
    assert found.upper < 0.7 * found.product


def test_units_are_tried_where_channels_have_a_bound_too() -> None:
    """Channels speak of every size, and end at pooling: 1.65 for 0.76. The answer shows the nodes as they were read."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 3, 3, padding=1), nn.AvgPool2d(3)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(3, 2)).eval()
    product = network_bound(network, (2, 6, 6), method=Product())
    found = network_bound(network, (2, 6, 6))
    assert present(found.upper) < 0.6 * present(product.upper)
    assert found.product == product.upper
    assert [step.name for step in found.nodes] == [step.name for step in product.nodes]
    assert found.nodes[-1].upper == found.upper
