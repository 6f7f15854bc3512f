"""What public programs store beside a kernel: the row is about the weight that the layer uses, or says why it is not.

Each truth is computed here by the program's own formula, written out once more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from specnorm_audit import audit
from specnorm_audit.accounts.conventions.recipe import AS_STORED
from specnorm_audit.report import gate_layers

from audit import files
from audit.test_effective import assert_of
from audit.unknown_layouts import norm

RANDOM = np.random.RandomState(0)


def _drawn(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
    return (scale * RANDOM.standard_normal(shape)).astype(np.float32)


def _ones(*shape: int) -> NDArray[np.float32]:
    return np.ones(shape, np.float32)


def _unit(x: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(x / np.sqrt(np.sum(x**2)))


def _trained(matrix: NDArray[Any], steps: int = 3) -> NDArray[Any]:
    """The left vector of a power iteration after some steps of a training."""
    u: NDArray[Any] = np.asarray(RANDOM.standard_normal(matrix.shape[0]))
    for _ in range(steps):
        u = _unit(np.asarray(matrix @ _unit(np.asarray(matrix.T @ u))))
    return u.astype(np.float32)


def _one_step(matrix: NDArray[Any], u: NDArray[Any]) -> float:
    v = _unit(np.asarray(matrix.T.astype(np.float64) @ u))
    return float(_unit(np.asarray(matrix @ v)) @ matrix @ v)


W = _drawn(8, 4, 3, 3, scale=0.02)
ROWS = W.reshape(8, -1)
U = _trained(ROWS)
HWIO = np.ascontiguousarray(W.transpose(2, 3, 1, 0))
SQUARE = _drawn(5, 5)
MASK = (RANDOM.uniform(size=W.shape) < 0.5).astype(np.float32)


SQUARE_U = _trained(SQUARE.T)
SQUARE_V = _unit(SQUARE @ SQUARE_U)
DETERMINED: dict[str, tuple[dict[str, Any], NDArray[Any]]] = {
    "BigGAN-PyTorch, two singular values": (
        {"c.weight": W, "c.u0": U[None], "c.sv0": _ones(1), "c.u1": _drawn(1, 8), "c.sv1": _ones(1)},
        W / _one_step(ROWS, U)),
    "BigGAN-PyTorch, an embedding": (
        {"embed.weight": ROWS, "embed.u0": U[None], "embed.sv0": _ones(1)}, ROWS / _one_step(ROWS, U)),
    "torch-mimicry": (
        {"c.weight": W, "c.bias": _ones(8), "c.sn_u": U[None], "c.sn_sigma": _ones(1)}, W / _one_step(ROWS, U)),
    "Paddle, a linear layer with inputs as rows": (
        {"fc.weight_orig": SQUARE, "fc.weight_u": _unit(SQUARE.T @ SQUARE_V), "fc.weight_v": SQUARE_V},
        SQUARE / (_unit(SQUARE.T @ SQUARE_V) @ SQUARE.T @ SQUARE_V)),
    "a masked convolution": ({"c.weight": W, "c.mask": MASK, "c.bias": _ones(8)}, W * MASK),
    "RealSN, whose state is an image": (
        {"c.weight": W, "c.weight_orig": 7 * W, "c.weight_u": _drawn(1, 8, 20, 20)}, W),
    "torch 0.4": ({"c.weight": W, "c.weight_orig": 7 * W, "c.weight_u": U}, W),
}  # fmt: skip


@pytest.mark.parametrize("program", DETERMINED)
def test_the_row_is_about_the_weight_that_the_layer_uses(program: str, tmp_path: Path) -> None:
    """The states are no layers, and leave no gate undecided."""
    arrays, used = DETERMINED[program]
    true = norm(used)
    for report in (audit(arrays), audit(files.save_npz(tmp_path / "m.npz", arrays))):
        assert_of(report, [true])
        assert report.unmeasured == ()
        stored = audit(arrays, assume_stored="fc*") if "Paddle" in program else report  # a subclass may have a bound
        assert gate_layers(stored, 1.1 * true).outcome == "passed"


UNDETERMINED: dict[str, tuple[dict[str, Any], str]] = {
    "timm's ScaledStdConv2d": ({"c.weight": W, "c.bias": _ones(8), "c.gain": _ones(8, 1, 1, 1)}, "gain stands beside"),
    "NFNet in Haiku": ({"net/conv": {"w": HWIO, "b": _ones(8), "gain": _ones(8)}}, "gain stands beside"),
    "Chainer with gamma": ({"c/W": W, "c/u": U, "c/gamma": np.float32(2)}, "u stands beside"),
    "Glow's last convolution": ({"c.weight": W, "c.bias": _ones(8), "c.logs": _ones(8, 1, 1)}, "logs stands beside"),
    "a cosine classifier": ({"fc.weight": ROWS, "fc.sigma": _ones(1)}, "sigma stands beside"),
    "vectors, and no word of which step": ({"c.weight": W, "c.u": U, "c.v": _drawn(36)}, "u stands beside"),
    "torch's names without _orig": ({"c.weight": W, "c.weight_u": U, "c.weight_v": _drawn(36)}, "weight_u stands"),
    "a vector of another length": ({"c.weight": W, "c.sn_u": _drawn(1, 5), "c.sn_sigma": _ones(1)}, "sn_u stands"),
    "Chainer": ({"conv/W": W, "conv/b": _ones(8), "conv/u": U}, "u stands beside"),
    "a program of underscores": ({"conv0_weight": W, "conv0_bias": _ones(8), "conv0_u": U}, "u stands beside"),
    "TensorFlow 1": (
        {"d/conv/kernel:0": HWIO, "d/conv/bias:0": _ones(8), "d/conv/u:0": U[None]}, "u:0 stands beside"),
    "compare_gan": ({"d/conv/kernel": HWIO, "d/conv/kernel/u_var": _drawn(36, 1)}, "u_var stands beside"),
    "Keras layers with their own sn": (
        {"c/c/kernel:0": HWIO, "c/c/bias:0": _ones(8), "c/c/sn:0": U[None]}, "sn:0 stands beside"),
    "Haiku, in a module": (
        {"params/net/conv/w": HWIO, "params/net/conv/b": _ones(8), "state/net/conv/spectral_norm/u0": U[None],
         "state/net/conv/spectral_norm/sigma": np.float32(1)}, "stands beside"),
    "Haiku, of a tree": (
        {"params/mlp/~/linear_0/w": ROWS.T, "params/mlp/~/linear_0/b": _ones(8),
         "state/sn_params_tree/mlp___tilde__linear_0__w/u0": U[None],
         "state/sn_params_tree/mlp___tilde__linear_0__w/sigma": np.float32(1)}, "stands beside"),
    "torchdeq, a length for each output": (
        {"c.weight_orig": W, "c.weight_g": np.arange(1, 9, dtype=np.float32).reshape(8, 1, 1, 1), "c.weight_u": U,
         "c.weight_v": _unit(ROWS.T @ U)}, "weight_g stands beside"),
    "StyleGAN2": (
        {"conv.weight": _drawn(1, 8, 4, 3, 3), "conv.modulation.weight": _drawn(4, 16),
         "conv.modulation.bias": _ones(4), "style.1.weight": _drawn(16, 16)},  # multiplied, and nothing beside it
        "modulation.weight stands beside"),
    "StyleGAN2-ADA's discriminator": (
        {"b8.conv0.weight": W, "b8.conv0.resample_filter": _drawn(4, 4)}, "resample_filter stands beside"),
    "fp8 that was cast": ({"fc.weight": ROWS, "fc.weight_scale_inv": _drawn(1, 1)}, "weight_scale_inv stands"),
    "training for quantized weights": (
        {"c.weight": W, "c.weight_fake_quant.scale": _ones(8), "c.weight_fake_quant.eps": _ones(1)},
        "weight_fake_quant.scale stands beside"),
    "LoRA of PEFT": (
        {"q.base_layer.weight": ROWS, "q.lora_A.default.weight": _drawn(2, 36),
         "q.lora_B.default.weight": _drawn(8, 2)},
        "lora_A"),
    "LoRA of loralib": (
        {"q.weight": ROWS, "q.lora_A": _drawn(2, 36), "q.lora_B": _drawn(8, 2)}, "lora_A"),
    "a deformable convolution": (
        {"c.weight": W, "c.conv_offset.weight": _drawn(18, 4, 3, 3)}, "conv_offset.weight stands beside"),
    "a noisy layer": (
        {"fc.weight_mu": ROWS, "fc.weight_sigma": ROWS, "fc.weight_epsilon": ROWS}, "computes its weight from it"),
    "a quaternion layer": ({f"c.{word}_weight": W for word in "rijk"}, "not known what it is for"),
    "a complex layer": ({"c.weight_real": W, "c.weight_imag": W}, "computes its weight from it"),
}  # fmt: skip


OF_TORCH: list[tuple[dict[str, Any], str]] = [
    ({"c.weight_orig": _drawn(4, 3, 3)}, "computes its weight from it"),
    ({"c.weight_orig": _drawn(4, 3, 3), "c.weight_u": _drawn(4)}, "computes its weight from it"),
    ({"c.weight_orig": _drawn(4, 3, 3), "c.weight_u": _drawn(1, 4, 8, 8), "c.weight_v": _drawn(9)},
     "computes its weight from it"),
    ({"c.weight_orig": _drawn(4, 3, 3), "c.weight_u": _drawn(4), "c.weight_v": _drawn(9), "c.weight_sigma": _drawn(1)},
     "weight_sigma stands beside it"),
    ({"c.weight_orig": _drawn(4, 3, 3), "c.weight_mask": _drawn(3)}, "computes its weight from it"),
    ({"c.weight_bar": _drawn(4, 3, 3), "c.weight_u": _drawn(4), "c.weight_v": _drawn(9)},
     "computes its weight from it"),
    ({"c.weight_v": _drawn(4, 3, 3), "c.weight_g": _drawn(4, 3, 1)}, "computes its weight from it"),
    ({"c.parametrizations.weight.original": _drawn(4, 3, 3)}, "computes its weight from it"),
    ({"c.parametrizations.weight.original": _drawn(4, 4), "c.parametrizations.weight.0.base": _drawn(4, 4)},
     "computes its weight from it"),
    ({"c.parametrizations.weight.original": _drawn(4, 3), "c.parametrizations.weight.1._u": _drawn(4),
      "c.parametrizations.weight.1._v": _drawn(3)}, "computes its weight from it"),
    ({"c.parametrizations.weight.original0": _drawn(4, 1), "c.parametrizations.weight.original1": _drawn(4, 3),
      "c.parametrizations.weight.1._u": _drawn(4), "c.parametrizations.weight.1._v": _drawn(3)}, "weight.1._u stands"),
    ({"c.weight_orig": np.eye(4, dtype=np.float32), "c.weight_u": np.zeros(4, np.float32),
      "c.weight_v": _drawn(4)}, "not finite"),
    ({"c.weight_orig": _drawn(16, 16, 3), "c.weight_u": _drawn(16), "c.weight_v": _drawn(48)}, "fit both"),
]  # fmt: skip
"""Names of torch's functions, with arrays that these do not write."""
UNDETERMINED |= {f"names of torch, {at}": row for at, row in enumerate(OF_TORCH)}


@pytest.mark.parametrize("program", UNDETERMINED)
def test_the_row_says_why_the_weight_is_not_known(program: str) -> None:
    """Never the stored weight as if nothing stood beside it; and what stands beside it is no layer."""
    arrays, words = UNDETERMINED[program]
    report = audit({"ok.weight": np.eye(3, dtype=np.float32), "a": arrays} if "net/conv" in arrays else
                   {"ok.weight": np.eye(3, dtype=np.float32), **arrays})  # fmt: skip
    assert gate_layers(report, 1e6).outcome == "undecided"
    rows = [row for row in report.layers if row.name != "ok.weight"]
    assert words in str((rows or report.unmeasured)[0].reason)
    assert {row.status for row in rows} <= {"error"}


def test_what_plain_models_have_beside_their_kernels_changes_no_row() -> None:
    arrays = {
        "a.weight": W, "a.bias": _ones(8), "attn.in_proj_weight": _drawn(12, 4), "attn.in_proj_bias": _ones(12),
        "attn.bias_k": _drawn(1, 1, 4), "lstm.weight_ih_l0": _drawn(8, 4), "lstm.bias_ih_l0": _ones(8),
        "block.gamma": _ones(8), "block.conv.weight": W, "text_projection": _drawn(4, 4), "logit_scale": _ones(1),
        "w_1.weight": SQUARE, "affine.weight": SQUARE, "quantizer.weight_proj.weight": SQUARE, "u.weight": SQUARE,
    }  # fmt: skip
    report = audit(arrays)
    assert {row.status for row in report.layers} == {"ok"}
    assert [row for row in report.layers if AS_STORED not in row.assumed] == []
