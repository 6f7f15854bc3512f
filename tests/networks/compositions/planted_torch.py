"""Errors in builders of torch's operators, each with a network for which it matters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from networks.compositions.planting import (
    Planted,
    argument,
    changed,
    fields,
    inputs,
    operator,
    remade,
    torch_graph,
    torch_rule,
)
from specnorm_networks.certified import operators as ops
from torch.nn import functional

T = torch_rule
torch.manual_seed(3)
C = torch.randn(4, dtype=torch.float64)
W = torch.randn(4, 4, dtype=torch.float64)
K = torch.randn(2, 2, 3, dtype=torch.float64)
G = torch_graph


def reflected(x: Any) -> Any:
    return functional.pad(x, (1, 1), mode="reflect")


NORMALISED = G(
    lambda x: functional.batch_norm(x, C[:2], C[:2].abs() + 0.1, C[2:], C[:2] + 1, False, 0.1, 0.5), 1, 2, 3
)  # fmt: skip
PLANTED = [
    Planted("alpha of add lost", G(lambda x: torch.add(x, C, alpha=3), 1, 4), argument(T, "add.Tensor", alpha=1)),
    Planted("weights of add lost", G(lambda x: torch.add(x, x.flip(1), alpha=3), 1, 4),
            fields(T, "add.Tensor", weights=(1.0, 1.0))),
    Planted("rsub the other way round", G(lambda x: torch.rsub(x, C, alpha=2), 1, 4),
            fields(T, "rsub.Tensor", weights=(1.0, -2.0))),
    Planted("alpha of elu ignored", G(lambda x: functional.elu(x, 2.0), 1, 4), operator(T, "elu", lambda _: ops.ELU())),
    Planted("elu as leaky_relu", G(lambda x: functional.elu(x, 0.5), 1, 4),
            operator(T, "elu", lambda _: ops.LeakyReLU(0.5))),
    Planted("slope of leaky_relu ignored", G(lambda x: functional.leaky_relu(x, 2.0), 1, 4),
            fields(T, "leaky_relu", alpha=0.01)),
    Planted("beta of softplus ignored", G(lambda x: functional.softplus(x, 3.0), 1, 4),
            operator(T, "softplus", lambda _: ops.Softplus())),
    Planted("an end of hardtanh", G(lambda x: functional.hardtanh(x, -2.0, 0.5), 1, 4),
            fields(T, "hardtanh", high=2.0)),
    Planted("gelu by tanh", G(functional.gelu, 1, 4), operator(T, "gelu", lambda _: ops.GELU("tanh"))),
    Planted("slopes of prelu along the next axis", G(lambda x: functional.prelu(x, C[:2]), 1, 2, 2),
            fields(T, "prelu", slopes_below=lambda s: s.reshape(1, -1))),
    Planted("larger limit of clamp lost", G(lambda x: torch.clamp(x, C - 1, C), 1, 4),
            T("clamp.Tensor", lambda build: changed(build, max=None))),
    Planted("maximum as minimum", G(lambda x: torch.maximum(x, C), 1, 4),
            operator(T, "maximum", lambda _: ops.Minimum())),
    Planted("where the other way round", G(lambda x: torch.where(C > 0, x, C), 1, 4),
            inputs(T, "where.self", lambda pair: pair[::-1])),
    Planted("first factor for all", G(lambda x: x * C, 1, 4), fields(T, "mul.Tensor", values=lambda v: v[:1])),
    Planted("epsilon of batch_norm dropped", NORMALISED,
            argument(T, "_native_batch_norm_legit_no_training", eps=0.0)),
    Planted("bias of linear lost", G(lambda x: functional.linear(x, W, C), 1, 4), fields(T, "linear", bias=None)),
    Planted("a matrix transposed", G(lambda x: x @ W, 1, 4),
            fields(T, "matmul", layer=lambda layer: type(layer)(layer.name, layer.load, {}, 0, not layer.turned))),
    Planted("beta of addmm lost", G(lambda x: torch.addmm(C, x, W, beta=0.5), 1, 4), argument(T, "addmm", beta=1)),
    Planted("alpha of addmm lost", G(lambda x: torch.addmm(C, x, W, alpha=2.0), 1, 4), argument(T, "addmm", alpha=1)),
    Planted("stride of conv ignored", G(lambda x: functional.conv1d(x, K, stride=2), 1, 2, 5),
            argument(T, "conv1d", stride=[1])),
    Planted("padding of conv ignored", G(lambda x: functional.conv1d(x, K, padding=1), 1, 2, 5),
            argument(T, "conv1d", padding=[0])),
    Planted("dilation of conv ignored", G(lambda x: functional.conv1d(x, K, padding="same", dilation=2), 1, 2, 5),
            argument(T, "conv1d.padding", dilation=[1])),
    Planted("output_padding ignored", G(lambda x: functional.conv_transpose1d(x, K, C[:2], 2, 1, 1), 1, 2, 3),
            argument(T, "conv_transpose1d", output_padding=[0])),
    Planted("a kernel transposed", G(lambda x: functional.conv1d(x, K), 1, 2, 5),
            fields(T, "conv1d", layer=lambda layer: type(layer)(
                layer.name, lambda: layer.load().transpose(0, 1), layer.geometry, layer.spatial))),
    Planted("count_include_pad ignored", G(lambda x: functional.avg_pool1d(x, 2, 2, 1, False, False), 1, 2, 4),
            argument(T, "avg_pool1d", count_include_pad=True)),
    Planted("divisor_override ignored", G(lambda x: functional.avg_pool2d(x, 2, divisor_override=3), 1, 1, 4, 4),
            argument(T, "avg_pool2d", divisor_override=None)),
    Planted("ceil_mode ignored", G(lambda x: functional.max_pool1d(x, 2, 2, ceil_mode=True), 1, 1, 5),
            argument(T, "max_pool1d", ceil_mode=False)),
    Planted("zeros for reflections", G(reflected, 1, 1, 4), argument(T, "pad", mode="constant")),
    Planted("circular for reflections", G(reflected, 1, 1, 4), argument(T, "pad", mode="circular")),
    Planted("the padding's value lost", G(lambda x: functional.pad(x, (1, 0), value=2.0), 1, 4),
            argument(T, "pad", value=0.0)),
    Planted("align_corners ignored",
            G(lambda x: functional.interpolate(x, size=5, mode="linear", align_corners=True), 1, 1, 3),
            argument(T, "upsample_linear1d.vec", align_corners=False)),
    Planted("a permutation inverted", G(lambda x: x.permute(1, 2, 0), 2, 2, 2), fields(T, "permute", axes=(2, 0, 1))),
    Planted("a roll turned", G(lambda x: x.roll(1, 1), 1, 4), argument(T, "roll", shifts=[-1])),
    Planted("a slice starts late", G(lambda x: torch.ops.aten.slice(x, 1, 0, 2), 1, 4),
            argument(T, "slice.Tensor", start=1, end=3)),
    Planted("another entry selected", G(lambda x: x.select(1, -1), 1, 4), argument(T, "select.int", index=0)),
    Planted("an axis of flip lost", G(lambda x: x.flip([1, 2]), 1, 2, 2), argument(T, "flip", dims=[1])),
    Planted("pieces late", G(lambda x: x.split(2, 1)[0], 1, 4),
            T("split.Tensor", lambda build: remade(build, lambda made: type(made)(made.value, made.cuts[::-1])))),
    Planted("cat along the next axis", G(lambda x: torch.cat([x, x], 1), 1, 2, 2), fields(T, "cat", axis=2)),
    Planted("a constant of cat lost", G(lambda x: torch.cat([x, C[None]], 1), 1, 4),
            inputs(T, "cat", lambda some: some[:1])),
    Planted("descending ignored", G(lambda x: x.sort(1, descending=True)[0], 1, 4),
            argument(T, "sort", descending=False)),
    Planted("smallest for largest", G(lambda x: x.topk(2, 1)[0], 1, 4), argument(T, "topk", largest=False)),
    Planted("sum as mean", G(lambda x: x.sum(1), 1, 4),
            operator(T, "sum.dim_IntList", lambda old: ops.Mean(old.axes, old.keep))),
    Planted("softmax along the next axis", G(lambda x: x.softmax(1), 1, 2, 2), fields(T, "softmax.int", axes=(2,))),
    Planted("a comparison turned", G(lambda x: torch.where(x > 0, x, 3 * x), 1, 4), fields(T, "gt.Scalar", kind="lt")),
    Planted("an index late", G(lambda x: x.index_select(1, torch.tensor([0, 2])), 1, 4),
            argument(T, "index_select", index=torch.tensor([1, 3]))),
    Planted("factor of a division as it is", G(lambda x: x / C, 1, 4), fields(T, "div.Tensor", values=lambda v: 1 / v)),
    Planted("the number of a quotient lost", G(lambda x: 3 / x.exp(), 1, 4),
            T("mul.Tensor", lambda build: remade(build, lambda made: type(made)(ops.Identity(), made.inputs[:1]))),
            box=(-1.0, 1.0)),
    Planted("an exponent", G(lambda x: x**3, 1, 4),
            operator(T, "pow.Tensor_Scalar", lambda _: ops.Power(2)), box=(-1.0, 1.0)),
    Planted("a stack of matrices in another order", G(lambda x: torch.bmm(x, torch.stack([W, 2 * W])), 2, 1, 4),
            fields(T, "bmm", constant=lambda load: lambda: np.asarray(load())[::-1])),
]  # fmt: skip
