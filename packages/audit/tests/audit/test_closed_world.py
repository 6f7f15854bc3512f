"""What a file does not explain is not proven: unknown layouts pass no gate, and plain files lose nothing.

The layouts are drawn, with what the layers use, by `unknown_layouts`, which shares no code with the library.
"""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from helpers import DATA
from numpy.typing import NDArray
from specnorm_audit import audit
from specnorm_audit.layers import select
from specnorm_audit.report import gate_layers
from specnorm_networks.model_arrays import Tensor

from audit import files
from audit.unknown_layouts import File, draw, norm
from specnorm.errors import ModelFileError

USUAL = (
    "bias", "gamma", "ls1", "layer_scale_1", "pos_embed", "position_embeddings", "cls_token", "tokens", "time_mix_key",
    "relative_position_bias_table", "rel_pos_h", "scale_shift_table", "running_mean", "num_batches_tracked", "A_log",
    "embed", "level_embed", "anchors", "bias_u", "exp_avg_x", "logit_scale", "step", "mask_token", "latents",
)  # fmt: skip
SAMPLE = 24
"""Number of drawn files in CI; at night all of `MANY`."""
MANY = 5000


def _assert_holds(seed: int) -> None:
    """No row is proven for a weight that is not used, no gate passes on one, and a plain file has all its rows."""
    drawn = draw(seed)
    found = select([Tensor(name, x.shape, x.dtype.name, partial(_of, x)) for name, x in drawn.arrays.items()])
    is_decided = not found.unmeasured and not any(x.refusal or x.unsettled for x in found.layers)
    is_explained = drawn.is_plain or drawn.what.startswith("a stack")
    if is_decided:
        assert is_explained or any("=W·mask" in text for x in found.layers for text in x.assumed), (seed, drawn.what)
        _assert_true(seed, drawn)
        return
    assert not drawn.is_plain, (seed, found)  # and no gate passes
    for layer in found.layers:
        name = layer.name
        if layer.refusal is None and layer.unsettled is None:
            assert np.array_equal(drawn.arrays[name], drawn.used[name]), (seed, drawn.what, name)


def _assert_true(seed: int, drawn: File) -> None:
    """All rows of a file are true, and its gates pass above its largest norm, not below."""
    report: Any = audit(drawn.arrays, rtol=0.05)
    largest = max(drawn.norms.values())
    assert gate_layers(report, 0.95 * largest).outcome != "passed", (seed, drawn.what)
    assert not drawn.is_plain or gate_layers(report, 1.1 * largest).outcome == "passed", seed
    for row in report.layers:
        if row.reason is not None and "values other than 0 and 1" in row.reason:
            continue  # a mask that is none, as its numbers show
        assert row.lower * 0.997 <= drawn.norms[row.name] <= row.upper * 1.001, (seed, drawn.what, row.name)


def _of(x: NDArray[Any]) -> NDArray[Any]:
    return x


@pytest.mark.parametrize("seed", [*range(SAMPLE), 4123])  # the last one: a vector of channels that is called mask
def test_unknown_layouts_are_not_proven(seed: int) -> None:
    _assert_holds(seed)


@pytest.mark.nightly
@pytest.mark.parametrize("first", range(SAMPLE, MANY, 100))
def test_many_unknown_layouts_are_not_proven(first: int) -> None:
    for seed in range(first, min(first + 100, MANY)):
        _assert_holds(seed)


# -- public architectures ----------------------------------------------------------------------------------------------
ARCHITECTURES = DATA / "architectures"
Shapes = dict[str, tuple[int, ...]]
Arrays = dict[str, tuple[tuple[int, ...], str]]


@cache
def _read() -> dict[str, Arrays]:
    models: dict[str, Arrays] = {}
    for line in lzma.decompress((ARCHITECTURES / "names.txt.xz").read_bytes()).decode().splitlines():
        if line.startswith("# "):
            of_model = models[line[2:]] = {}
            continue
        name, shape, dtype = f"{line} float32".split(" ")[:3]
        of_model[name] = (tuple(map(int, shape.split("x"))) if shape != "-" else (), dtype)
    return models


def _unaccounted(model: str) -> str | None:
    """The first array of an architecture that is not accounted for, or a kernel that is refused."""
    tensors = [files.unread(name, *rest) for name, rest in _read()[model].items()]
    found = select(tensors, written_in=None if model.startswith(("flax", "keras")) else "OIHW")
    kernels = {t.name for t in tensors if t.name.endswith(("weight", "kernel")) and len(t.shape) > 1}
    assert model.startswith(WITH_VECTORS) or kernels <= {layer.name for layer in (*found.layers, *found.unmeasured)}
    names = [layer.name for layer in (*found.unmeasured, *found.layers) if layer.refusal]
    return names[0] if names else None


WITH_VECTORS = ("transformers/convnextv2",)
"""Architectures with normalizations whose weights have axes of length 1."""


def _undecided() -> dict[str, str]:
    lines = (ARCHITECTURES / "undecided.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ") for line in lines)


def _assert_decided(models: Sequence[str]) -> None:
    known = _undecided()
    assert {model: _unaccounted(model) for model in models} == {model: known.get(model) for model in models}


def test_public_architectures_are_decided() -> None:
    """Position embeddings, tokens, layer scales and tables of attention leave no gate undecided."""
    models = list(_read())
    assert len(models) - len(_undecided()) > 920
    _assert_decided([x for x in models if not x.startswith(("timm", "transformers", "diffusers"))])
    _assert_decided(models[::30])


@pytest.mark.nightly
def test_all_public_architectures_are_decided() -> None:
    _assert_decided(list(_read()))


@pytest.mark.parametrize("place", ["", "conv.", "block.", "conv.sn."])
@pytest.mark.parametrize("leaf", USUAL)
def test_a_usual_name_is_accounted_for_in_its_usual_shape_alone(leaf: str, place: str) -> None:
    """A matrix, or an array of a kernel's shape, is none under the name of a token, a scale or a statistic."""
    arrays = {"block.conv.weight": (8, 4, 3, 3), "block.fc.weight": (8, 4), "block.conv.bias": (8,)}
    for shape in ((8, 4, 3, 3), (8, 4)):
        name = f"{place.replace('conv', 'block.conv')}{leaf}"
        found = select([files.unread(*row) for row in (arrays | {name: shape}).items()])
        assert name in {layer.name for layer in found.unmeasured} or any(x.refusal for x in found.layers)


OIHW, HWIO = (8, 6, 3, 3), (3, 3, 6, 8)
NEAR: dict[str, tuple[Shapes, Shapes]] = {
    "a vector in a tree beside a list": ({"0.weight": OIHW, "0.bias": (8,), "2.weight": (5, 8)}, {"zq.0.weight": (8,)}),
    "a tree in place of a list's name": (
        {"layers.0.weight": OIHW, "layers.0.bias": (8,), "layers.2.weight": (5, 8)}, {"zq.0.weight": OIHW}),
    "a tree of one kernel": (
        {"l.0.conv1.weight": OIHW, "l.0.bn1.weight": (8,), "l.0.bn1.bias": (8,), "l.0.conv2.weight": (8, 8, 3, 3)},
        {"zq.l.0.conv1.weight": OIHW}),
    "a vector below a kernel": ({"conv1_weight": OIHW, "conv1_bias": (8,)}, {"conv1_weight.alpha": (8,)}),
    "a number beside the only kernel": ({"weight": OIHW, "bias": (8,)}, {"alpha": ()}),
    "a shape beside a layer of Flax": (
        {"params/Conv_0/kernel": HWIO, "params/Conv_0/bias": (8,), "params/Dense_0/kernel": (8, 5)},
        {"params/zq/x": HWIO}),
    "factors in a layer of Keras": (
        {"conv/conv/kernel:0": HWIO, "conv/conv/bias:0": (8,)}, {"conv/conv/zqA": (2, 54), "conv/conv/zqB": (8, 2)}),
}  # fmt: skip
"""Networks whose first array is a kernel, and what stands near it."""


@pytest.mark.parametrize("place", NEAR)
def test_nothing_near_a_kernel_is_overlooked(place: str) -> None:
    network, extra = NEAR[place]
    alone = select([files.unread(name, shape) for name, shape in network.items()])
    kernel = next(iter(network))
    assert kernel in {layer.name for layer in alone.layers}
    assert not [layer.refusal for layer in (*alone.layers, *alone.unmeasured) if layer.refusal]
    found = select([files.unread(name, shape) for name, shape in {**network, **extra}.items()])
    refusals = {layer.name: layer.refusal for layer in found.layers}
    assert refusals.get(kernel)
    assert [name for name in extra if not refusals.get(name, "no layer")] == []


# -- the user's word ---------------------------------------------------------------------------------------------------
W = np.cos(np.arange(8.0 * 4 * 3 * 3) ** 2).reshape(8, 4, 3, 3).astype(np.float32)


def test_the_user_may_say_that_a_kernel_is_used_as_it_is_stored(tmp_path: Path) -> None:
    """The report repeats it; what stands beside the kernel does not become a layer."""
    path = files.save_npz(tmp_path / "m.npz", {"conv.weight": W, "conv.popup_scores": W, "head.weight": W[:, :, 0, 0]})
    assert [row.status for row in audit(path).layers] == ["error", "ok"]
    report = audit(path, assume_stored="conv*")
    rows = {row.name: row for row in report.layers}
    assert rows.keys() == {"conv.weight", "head.weight"}
    row: Any = rows["conv.weight"]
    assert row.lower * 0.999 <= norm(W) <= row.upper
    assert "weight=as stored, as the user says of conv*" in row.assumed
    assert gate_layers(report, 1.1 * norm(W)).outcome == "passed"
    assert "beside them: conv*" in str(report)
    assert report.summary["assume_stored"] == ["conv*"]
    with pytest.raises(ModelFileError, match="no array whose name matches assume_stored='convv"):
        audit(path, assume_stored=["convv*"])


def test_an_array_that_is_not_understood_is_a_layer_if_the_user_says_so() -> None:
    arrays = {"theta": np.eye(5), "conv.weight": W}
    report = audit(arrays)
    assert [row.name for row in report.layers] == ["conv.weight"]
    assert [row.name for row in report.unmeasured] == ["theta"]
    assert gate_layers(report, 1e6).outcome == "undecided"
    assert {row.name for row in audit(arrays, assume_stored=["theta"]).layers} == {"theta", "conv.weight"}


BESIDE = {
    "conv.popup_scores": W, "theta": np.eye(5), "conv.scales": np.ones(7), "lora_A.weight": np.ones((2, 4)),
    "book.codes": np.ones((9, 3), np.int64),
}  # fmt: skip
"""Arrays that leave a gate undecided, beside `W`."""


@pytest.mark.parametrize("name", BESIDE)
def test_an_array_that_is_ignored_settles_the_gate_and_is_no_layer(name: str) -> None:
    arrays = {"conv.weight": W, name: BESIDE[name]}
    assert gate_layers(audit(arrays), 1e6).outcome == "undecided"
    report = audit(arrays, ignore=name)
    assert [(row.name, row.status) for row in (*report.layers, *report.unmeasured)] == [("conv.weight", "ok")]
    assert gate_layers(report, 1.1 * norm(W)).outcome == "passed"
    assert gate_layers(report, 0.9 * norm(W)).outcome == "failed"
    assert report.summary["ignore"] == [name]
    assert f"as the user states: {name}" in str(report)


def test_an_ignored_kernel_is_never_a_layer_and_names_are_whole() -> None:
    arrays = {"conv.weight": W, "old.weight": 9 * W}
    report = audit(arrays, ignore=["old*"])
    assert [row.name for row in report.layers] == ["conv.weight"]
    with pytest.raises(ModelFileError, match="holds no layer"):
        audit(arrays, ignore="*")
    for patterns in (["old"], ["old.*", "theta*"]):
        with pytest.raises(ModelFileError, match=f"no array whose name matches ignore='{patterns[-1][:3]}"):
            audit(arrays, ignore=patterns)


@pytest.mark.parametrize(("given", "code"), [("conv.popup*", 0), ("popup*", 2)])
def test_the_command_ignores_what_it_is_told(given: str, code: int, tmp_path: Path) -> None:
    cli = pytest.importorskip("specnorm_audit.cli")
    path = files.save_npz(tmp_path / "m.npz", {"conv.weight": W, "conv.popup_scores": W})
    assert cli.run(["audit", str(path), "--fail-above", "1e6", "--ignore", given]) == code


# -- stacks ------------------------------------------------------------------------------------------------------------
STACK = np.cos(np.arange(3.0 * 5 * 7) ** 2).reshape(3, 5, 7).astype(np.float32)
LARGEST = max(float(np.linalg.norm(x.astype(float), 2)) for x in STACK)


@pytest.mark.parametrize("bias", [(3, 7), (3, 1, 7), (3, 5, 1)])
@pytest.mark.parametrize("size", [None, 3, (4, 4)])
def test_a_bias_of_each_member_tells_a_stack(bias: tuple[int, ...], size: Any) -> None:
    arrays = {"nn1.weight": STACK, "nn1.bias": np.zeros(bias, np.float32), "c.weight": W, "c.bias": W[:, 0, 0, 0]}
    row: Any = audit(arrays, input_shape=size).layers[0]
    assert (row.kind, row.status) == ("linear", "ok")
    assert row.lower * 0.999 <= LARGEST <= row.upper <= 1.01 * LARGEST
    assert "kind=stack of matrices" in row.assumed


def test_layers_beside_it_tell_a_stack() -> None:
    (row, _) = audit({"nn.0.weight": STACK, "nn.1.weight": STACK, "nn.1.bias": np.zeros((3, 7))}).layers
    assert row.kind == "linear"


def test_where_nothing_tells_both_readings_count() -> None:
    """A stack's norm is at most that of the convolution, whose upper end counts; the lower end holds for both."""
    row, stated, conv = (
        cast("Any", audit({"experts.w": STACK}, geometry=given).layers[0])
        for given in (None, {"*": {"stack": True}}, {"*": {"stack": False}})
    )
    assert row.lower * 0.999 <= LARGEST <= row.upper
    assert [text for text in row.assumed if "stack of matrices or convolution" in text], row.assumed
    assert stated.upper <= 1.01 * LARGEST
    assert conv.upper == row.upper
    assert conv.lower > 1.01 * LARGEST
