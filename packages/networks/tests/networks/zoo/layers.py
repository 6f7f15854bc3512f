"""Layers as other libraries design them: subclasses, hooks and parametrisations that change what a kernel does."""

from __future__ import annotations

from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional


class SymmetricConv(torch.nn.Conv2d):  # type: ignore[misc]
    """Mirrors with the border repeated, which torch's padding has no mode for."""

    def forward(self, x: Any) -> Any:
        p = self.kernel_size[0] // 2
        x = torch.cat([x[..., :p].flip(-1), x, x[..., -p:].flip(-1)], -1)
        x = torch.cat([x[..., :p, :].flip(-2), x, x[..., -p:, :].flip(-2)], -2)
        return F.conv2d(x, self.weight, self.bias)


class LoraLinear(torch.nn.Linear):  # type: ignore[misc]
    """Hu et al. 2021, "LoRA": a second path of low rank beside the weight."""

    def __init__(self, inputs: int, outputs: int, rank: int = 2) -> None:
        super().__init__(inputs, outputs)
        self.lora_a = nn.Parameter(torch.randn(rank, inputs))
        self.lora_b = nn.Parameter(torch.randn(outputs, rank))

    def forward(self, x: Any) -> Any:
        return super().forward(x) + x @ self.lora_a.T @ self.lora_b.T


class QatConvBn(torch.nn.Conv2d):  # type: ignore[misc]
    """Quantisation-aware training of a convolution folded with its normalisation (Jacob et al. 2018)."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, bias=False, **options)
        self.bn = nn.BatchNorm2d(self.out_channels)
        self.bn.running_var.fill_(4.0)

    def forward(self, x: Any) -> Any:
        scale = (self.bn.weight / torch.sqrt(self.bn.running_var + self.bn.eps)).reshape(-1, 1, 1, 1)
        w = torch.fake_quantize_per_tensor_affine((self.weight * scale).float(), 0.02, 0, -128, 127).to(x.dtype)
        return self.bn(F.conv2d(x, w, None, self.stride, self.padding) / scale.reshape(1, -1, 1, 1))


class Sll(torch.nn.Module):  # type: ignore[misc]
    """Araujo et al. 2023, the SDP-based Lipschitz layer: raw parameters, and a step of descent."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(width, width))
        self.q = nn.Parameter(torch.zeros(width))

    def forward(self, x: Any) -> Any:
        gram = (self.kernel @ self.kernel.T * torch.exp(self.q) / torch.exp(self.q[:, None])).abs().sum(1)
        return x - 2 * (F.relu(x @ self.kernel.T) / gram) @ self.kernel


class BjorckLinear(torch.nn.Module):  # type: ignore[misc]
    """Anil et al. 2019: a matrix made orthogonal in each forward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.eye(width) + 0.3 * torch.randn(width, width))

    def forward(self, x: Any) -> Any:
        w = self.raw / torch.linalg.matrix_norm(self.raw)
        for _ in range(20):
            w = 1.5 * w - 0.5 * w @ w.T @ w
        return torch.matmul(x, w)


class OrthogonalByProperty(torch.nn.Linear):  # type: ignore[misc]
    """A class whose ``weight`` is a property: what is stored is something else."""

    @property
    def weight(self) -> Any:
        return torch.matrix_exp(self.raw - self.raw.T) * 3.0


def by_property(width: int) -> Any:
    """A layer of that class, as libraries make it: a plain one is given the class."""
    layer = nn.Linear(width, width)
    del layer.weight
    layer.raw = nn.Parameter(torch.randn(width, width))
    layer.__class__ = OrthogonalByProperty
    return layer


class AddmmLinear(torch.nn.Module):  # type: ignore[misc]
    """The Conv1D of GPT-2: a matrix product, its weight transposed."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x: Any) -> Any:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.weight.shape[1])


class ChannelsFirst(torch.nn.Linear):  # type: ignore[misc]
    """A matrix over the channels of an image, as 1 x 1 convolutions are written by hand."""

    def forward(self, x: Any) -> Any:
        return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


def own(kind: Any, forward: Any) -> Any:
    return type("Own", (kind,), {"forward": forward})


def through_numpy(self: Any, x: Any) -> Any:
    """Its result is written to where nobody sees it."""
    out = F.linear(x, self.weight)
    out.detach().numpy()[...] *= 3
    return out


def unseen(factor: float) -> Any:
    """Changes the result where nothing watches, as compiled code of one's own may."""

    def forward(self: Any, x: Any) -> Any:
        out = F.linear(x, self.weight, self.bias)
        with torch._C.DisableTorchFunction():
            out.mul_(factor)
        return out

    return forward


def remembering(self: Any, x: Any) -> Any:
    """Adds what it computed before."""
    out = F.linear(x, self.weight)
    shown = out + vars(self).get("before", 0)
    self.before = out.clone()
    return shown


def in_place(self: Any, x: Any) -> Any:
    """Changes the result through a view."""
    out = F.linear(x, self.weight)
    out.data[...] = 5 * out.data
    return out


def as_one_of_a_list(self: Any, x: Any) -> Any:
    """By less than what float32 leaves open when lengths are compared."""
    out = F.linear(x, self.weight, self.bias)
    torch._foreach_mul_([out], 1.008)
    return out


FORWARDS: dict[str, tuple[Any, Any]] = {
    "circular by hand": (nn.Conv2d, lambda self, x: F.conv2d(
        F.pad(x, (1, 1, 1, 1), mode="circular"), self.weight, self.bias)),
    "drop connect": (nn.Linear, lambda self, x: F.linear(x, F.dropout(self.weight, 0.5, training=True), self.bias)),
    "dynamic": (nn.Conv2d, lambda self, x: F.conv2d(x, self.weight * x.mean().sigmoid(), padding=self.padding)),
    "branching": (nn.Linear, lambda self, x: F.linear(x, self.weight * (100.0 if x.abs().max() < 1e-3 else 1.0))),
    "through NumPy": (nn.Linear, through_numpy), "unseen": (nn.Linear, unseen(3)),
    "remembers": (nn.Linear, remembering), "in place": (nn.Linear, in_place),
    "changes its input": (nn.Linear, lambda self, x: F.linear(x.mul_(4), self.weight)),
    "a little, unseen": (nn.Linear, unseen(1.008)), "a little, in a list": (nn.Linear, as_one_of_a_list),
    # torch.add(c, x, alpha) scales x, and x.view(dtype) is no other order of the same numbers.
    "scaled by alpha": (nn.Linear, lambda self, x: torch.add(self.bias, F.linear(x, self.weight), alpha=10)),
    "bits after the product": (nn.Linear, lambda self, x: F.linear(x, self.weight).view(torch.int64).view(x.dtype)),
    "steep beyond what is drawn": (nn.Linear, lambda self, x: (lambda y: torch.where(y.abs() > 1000, 100 * y, y))(
        F.linear(x, self.weight))),
}  # fmt: skip
"""What subclasses of torch's layers do."""


class Moving(torch.nn.Module):  # type: ignore[misc]
    """A parametrisation that follows its tensor in ``eval()`` too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, weight: Any) -> Any:
        self.calls += 1
        return weight * (1 + 1 / self.calls)


def scaled_by_hook() -> Any:
    layer = nn.Linear(5, 5)
    layer.register_forward_hook(lambda _module, _args, out: 7 * out)
    return layer


def scaled_before() -> Any:
    layer = nn.Conv2d(2, 2, 3, padding=1)
    layer.register_forward_pre_hook(lambda _module, args: (3 * args[0],))
    return layer


def watched() -> Any:
    layer = nn.Conv2d(2, 3, 3, padding=1)
    kept: list[Any] = []
    layer.register_forward_hook(lambda _module, _args, out: kept.append(out.detach().mean()))
    return layer


def overridden() -> Any:
    layer = nn.Linear(5, 4)
    plain = layer.forward
    layer.forward = lambda x: 2 * plain(x)
    return layer
