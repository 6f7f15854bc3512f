"""What a file does not explain is not proven: unknown layouts pass no gate, and plain files lose nothing.

The layouts are drawn, with what the layers use, by `unknown_layouts`, which shares no code with the library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from specnorm_audit import audit
from specnorm_audit.layers import select
from specnorm_audit.report import gate_layers
from specnorm_networks.model_arrays import Tensor

from audit import files
from audit.layouts_by_hand import NETWORKS, beside
from audit.unknown_layouts import draw
from specnorm.errors import ModelFileError

STATE_DICTS = Path(__file__).parents[1] / "data" / "state_dicts" / "names.txt"
SAMPLE = 24
"""Number of drawn files in CI; at night all of `MANY`."""
MANY = 2000


def _assert_holds(seed: int) -> None:
    """No row is proven for a weight that is not used, no gate passes on one, and a plain file has all its rows."""
    drawn = draw(seed)
    report = audit(drawn.arrays, rtol=0.05)
    largest = max(drawn.norms.values())
    assert gate_layers(report, 0.95 * largest).outcome != "passed", (seed, drawn.what)
    for row in report.layers:
        if row.status != "ok":
            assert not drawn.is_plain, (seed, row.name, row.reason)
            continue
        assert row.name in drawn.norms, (seed, drawn.what, f"{row.name} is no layer")
        assert row.lower is not None
        assert row.upper is not None
        true = drawn.norms[row.name]
        assert row.lower * 0.997 <= true <= row.upper * 1.001, (seed, drawn.what, row.name)
    if drawn.is_plain:
        assert gate_layers(report, 1.1 * largest).outcome == "passed", seed


@pytest.mark.parametrize("seed", range(SAMPLE))
def test_unknown_layouts_are_not_proven(seed: int) -> None:
    _assert_holds(seed)


@pytest.mark.nightly
@pytest.mark.parametrize("first", range(SAMPLE, MANY, 100))
def test_many_unknown_layouts_are_not_proven(first: int) -> None:
    for seed in range(first, min(first + 100, MANY)):
        _assert_holds(seed)


# -- public architectures ----------------------------------------------------------------------------------------------
Shapes = dict[str, tuple[int, ...]]


def _read() -> dict[str, Shapes]:
    models: dict[str, Shapes] = {}
    for line in STATE_DICTS.read_text(encoding="utf-8").splitlines():
        name, _, shape = line.rpartition(" ")
        if line.startswith("# "):
            models[line[2:]] = {}
        else:
            models[list(models)[-1]][name] = tuple(map(int, shape.split("x"))) if shape != "-" else ()
    return models


MODELS = _read()
KERNELS = ("weight", "kernel", "kernel:0", "text_projection", "gate_up_proj", "down_proj", "in_proj_weight")
NO_FORMULA = {"timm/dm_nfnet_f0"}
"""Models whose layers multiply their weights by a factor in the code."""


def _tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    def load() -> None:
        raise AssertionError("selecting must not load")

    return Tensor(name, shape, "int64" if "num_batches" in name else "float32", load)


def _is_kernel(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and (name.endswith(KERNELS) or "weight_ih" in name or "weight_hh" in name)


@pytest.mark.parametrize("model", MODELS)
def test_public_architectures_keep_every_row_and_every_gate(model: str) -> None:
    """Position embeddings, tokens, layer scales and tables of attention leave no gate undecided."""
    found = select([_tensor(name, shape) for name, shape in MODELS[model].items()])
    kernels = {name for name, shape in MODELS[model].items() if _is_kernel(name, shape)}
    assert kernels <= {layer.tensor.name for layer in found.layers}
    others = {layer.tensor.name for layer in found.layers} - kernels
    assert others <= {
        name for name in others if name.endswith(("_proj_weight", "height_rel", "width_rel", "cls", ".conv.weight"))
    }
    refused = {layer.tensor.name: layer.refusal for layer in found.layers if layer.refusal}
    if model in NO_FORMULA:
        assert [reason for reason in refused.values() if "gain stands beside" not in str(reason)] == []
        assert len(refused) > 5
        return
    assert refused == {}
    assert found.unmeasured == []


@pytest.mark.parametrize("model", MODELS)
def test_a_public_architecture_with_masks_in_a_tree_beside_has_no_proven_kernel(model: str) -> None:
    shapes = MODELS[model]
    masks = {f"popup.{name}": shape for name, shape in shapes.items() if _is_kernel(name, shape)}
    found = select([_tensor(name, shape) for name, shape in (shapes | masks).items()])
    proven = {layer.tensor.name for layer in found.layers if layer.refusal is None}
    assert not proven & masks.keys()
    assert not proven & {name.removeprefix("popup.") for name in masks}


@pytest.mark.parametrize("program", NETWORKS)
def test_nothing_beside_a_kernel_is_overlooked(program: str) -> None:
    network = NETWORKS[program]
    alone = select([_tensor(name, shape) for name, shape in network.arrays.items()])
    assert network.kernel in {layer.tensor.name for layer in alone.layers}
    assert not [layer.refusal for layer in (*alone.layers, *alone.unmeasured) if layer.refusal]
    for place, extra in beside(network):
        found = select([_tensor(name, shape) for name, shape in {**network.arrays, **extra}.items()])
        refusals = {layer.tensor.name: layer.refusal for layer in found.layers}
        assert refusals.get(network.kernel), (place, extra)
        assert [name for name in extra if not refusals.get(name, "no layer")] == [], (place, extra)


# -- the user's word ---------------------------------------------------------------------------------------------------
W = np.cos(np.arange(8.0 * 4 * 3 * 3) ** 2).reshape(8, 4, 3, 3).astype(np.float32)


def _norm(kernel: NDArray[Any]) -> float:
    symbols = np.fft.fft2(kernel.astype(float), (64, 64)).transpose(2, 3, 0, 1)
    return float(np.linalg.svd(symbols, compute_uv=False).max())


def test_the_user_may_say_that_a_kernel_is_used_as_it_is_stored(tmp_path: Path) -> None:
    """The report repeats it; what stands beside the kernel does not become a layer."""
    path = files.save_npz(tmp_path / "m.npz", {"conv.weight": W, "conv.popup_scores": W, "head.weight": W[:, :, 0, 0]})
    assert [row.status for row in audit(path).layers] == ["error", "ok"]
    report = audit(path, assume_stored="conv*")
    rows = {row.name: row for row in report.layers}
    assert rows.keys() == {"conv.weight", "head.weight"}
    row = rows["conv.weight"]
    assert row.lower is not None
    assert row.upper is not None
    assert row.lower * 0.999 <= _norm(W) <= row.upper
    assert "weight=as stored, by --assume-stored conv*" in row.assumed
    assert gate_layers(report, 1.1 * _norm(W)).outcome == "passed"
    assert "--assume-stored conv*" in str(report)
    assert report.summary["assume_stored"] == ["conv*"]
    with pytest.raises(ModelFileError, match="no array whose name matches 'convv"):
        audit(path, assume_stored=["convv*"])


def test_an_array_that_is_not_understood_is_a_layer_if_the_user_says_so() -> None:
    arrays = {"theta": np.eye(5), "conv.weight": W}
    report = audit(arrays)
    assert [row.name for row in report.layers] == ["conv.weight"]
    assert [row.name for row in report.unmeasured] == ["theta"]
    assert gate_layers(report, 1e6).outcome == "undecided"
    assert {row.name for row in audit(arrays, assume_stored=["theta"]).layers} == {"theta", "conv.weight"}


# -- stacks ------------------------------------------------------------------------------------------------------------
STACK = np.cos(np.arange(3.0 * 5 * 7) ** 2).reshape(3, 5, 7).astype(np.float32)
LARGEST = max(float(np.linalg.norm(x.astype(float), 2)) for x in STACK)


@pytest.mark.parametrize("bias", [(3, 7), (3, 1, 7), (3, 5, 1)])
@pytest.mark.parametrize("size", [None, 3, (4, 4)])
def test_a_bias_of_each_member_tells_a_stack(bias: tuple[int, ...], size: Any) -> None:
    arrays = {"nn1.weight": STACK, "nn1.bias": np.zeros(bias, np.float32), "c.weight": W, "c.bias": W[:, 0, 0, 0]}
    row = audit(arrays, input_shape=size).layers[0]
    assert (row.kind, row.status) == ("linear", "ok")
    assert row.lower is not None
    assert row.upper is not None
    assert row.lower * 0.999 <= LARGEST <= row.upper <= 1.01 * LARGEST
    assert "kind=stack of matrices" in row.assumed


def test_layers_beside_it_tell_a_stack() -> None:
    (row, _) = audit({"nn.0.weight": STACK, "nn.1.weight": STACK, "nn.1.bias": np.zeros((3, 7))}).layers
    assert row.kind == "linear"


def test_where_nothing_tells_both_readings_count() -> None:
    """A stack's norm is at most that of the convolution, whose upper end counts; the lower end holds for both."""
    (row,) = audit({"experts.w": STACK}).layers
    assert row.lower is not None
    assert row.upper is not None
    assert row.lower * 0.999 <= LARGEST <= row.upper
    assert any("stack of matrices or convolution" in text for text in row.assumed)
    (stated,) = audit({"experts.w": STACK}, geometry={"*": {"stack": True}}).layers
    assert stated.upper is not None
    assert stated.upper <= 1.01 * LARGEST
    (conv,) = audit({"experts.w": STACK}, geometry={"*": {"stack": False}}).layers
    assert conv.lower is not None
    assert conv.upper == row.upper
    assert conv.lower > 1.01 * LARGEST
