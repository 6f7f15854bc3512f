"""What must hold on published networks: every dense convolution of ``tests/data`` (CI: a sample), and the audit of the
ResNet-20.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checks import assert_encloses
from nightly import sample
from numpy.typing import NDArray
from oracle import sigma_star, tensor_norm_best
from real_weights import MODELS, real_layers
from unknown_geometry import table

import specnorm

CLI = Path(__file__).parent.parent / "docs" / "cli.md"
RESNET20 = Path(__file__).parent.parent / "docs" / "examples" / "resnet20" / "resnet20.safetensors"
FLOAT32 = 1 - 2e-7
"""A float32 value may lie this far below a truth known in float64, by its own rounding."""


def dense(model: str) -> list[tuple[str, NDArray[np.float32]]]:
    """Full convolutions, grouped and pointwise ones left out, as one dense kernel each."""
    return [(name, kernel) for name, kernel, geometry in real_layers(model) if geometry["groups"] == 1]


@pytest.mark.parametrize("model", MODELS)
def test_the_estimate_is_never_below_the_norm(model: str) -> None:
    """TN from Fourier starts, before any proof: at or above a fine frequency search on every layer."""
    for name, kernel in sample(dense(model), 3):
        truth = sigma_star(kernel)
        value = float(specnorm.tn_bound(kernel, certified=False))
        assert value >= truth.lo * FLOAT32, (name, value / truth.lo)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.nightly
def test_the_estimate_against_twenty_random_starts(model: str) -> None:
    """At most 0.5 % below the best of them, where single random starts are below the norm itself."""
    for name, kernel in sample(dense(model), 4):
        if kernel.size <= 40_000:
            best = float(np.max(tensor_norm_best(kernel, starts=20, sweeps=60)))
            assert float(specnorm.tn_bound(kernel, certified=False)) >= 0.995 * best, name


@pytest.mark.parametrize("model", ["resnet20", "espnet", "mini_xception"])
def test_layers_as_they_are_used(model: str) -> None:
    """Every strided, dilated, grouped or transposed layer with its own geometry and zero padding."""
    for name, kernel, geometry in sample(real_layers(model), 2):
        folded = {key: geometry[key] for key in ("stride", "dilation", "groups", "transposed")}
        if folded["groups"] == 1 and not folded["transposed"] and set(folded["stride"] + folded["dilation"]) <= {1}:
            continue
        truth = sigma_star(kernel, **folded, rtol=1e-4)
        for bound in (specnorm.f4_bound, specnorm.grid_bound, specnorm.tn_bound):
            assert truth.lo <= float(bound(kernel, **geometry)), name
        found = specnorm.enclose(kernel, **geometry)
        assert_encloses(found.lower, found.upper, truth)
        assert float(found.upper) <= 1.0011 * truth.hi, name


def test_random_starts_fall_below_the_norm() -> None:
    """The trap this library exists for, on the layers that show it: one random start, and the "bound" is none."""
    below, worst, layers = 0, 1.0, dense("resnet20") + dense("espnet")
    for _, kernel in layers:
        truth = sigma_star(kernel)
        least = float(np.min(tensor_norm_best(kernel, starts=4, sweeps=100)))
        below += least < truth.lo * (1 - 1e-6)
        worst = min(worst, least / truth.lo)
    assert below >= len(layers) // 10
    assert worst < 0.95


@pytest.mark.parametrize("size", [8, 32, 128])
def test_the_audit_of_the_resnet(size: int) -> None:
    """Every row: circular norm <= TN <= F4, and the proven interval of the circular layer holds it."""
    pytest.importorskip("safetensors")
    report = specnorm.audit(
        str(RESNET20), input_shape=size, padding_mode="circular", methods=("tn", "f4", "reshaped", "circular")
    ).to_dict()
    rows = report["layers"]
    assert len(rows) == 20
    for row in rows:
        assert row["status"] == "ok", row
        assert row["tn"] >= row["circular"] * FLOAT32, row["name"]
        assert row["f4"] >= row["tn"] * (1 - 1e-3), row["name"]
        assert row["circular"] <= row["upper"], row["name"]
        assert row["reshaped"] <= row["upper"], row["name"]


@pytest.mark.parametrize("model", ["resnet20", "dncnn25"])
def test_gram_iteration_comes_down_to_the_norm(model: str) -> None:
    """Decreasing in the count, and at each above the circular norm at its size and that at any size below sigma*."""
    for name, kernel, _ in list(real_layers(model))[::6]:
        norm = float(specnorm.conv_norm(kernel, 16))
        bounds = [float(specnorm.gram_bound(kernel, 16, n_iter=t)) for t in range(1, 7)]
        assert bounds == sorted(bounds, reverse=True), name
        assert norm * FLOAT32 <= bounds[-1] <= norm * min(kernel.shape[:2]) ** (1 / 2**7) * 1.001, name
        everywhere = [float(specnorm.gram_bound(kernel, n_iter=t)) for t in (1, 2, 3)]
        assert everywhere == sorted(everywhere, reverse=True), name
        assert everywhere[-1] >= float(specnorm.enclose(kernel).lower) * FLOAT32, name


@pytest.mark.nightly
def test_the_table_of_unknown_geometry_is_what_comes_out() -> None:
    expected = table()
    assert expected in CLI.read_text(encoding="utf-8"), f"docs/cli.md should hold this table:\n{expected}"
