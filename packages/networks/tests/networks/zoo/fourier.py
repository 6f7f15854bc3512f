"""Layers that compute by Fourier transforms, written from their papers: orthogonal convolutions at one size."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fft import fft2, ifft2, irfft2, rfft2
from torch.nn import functional as F


def cayley(w: Any) -> Any:
    """Matrices (..., m, n), m >= n, with orthonormal columns (Trockman and Kolter 2021)."""
    n = w.shape[-1]
    u = w[..., :n, :]
    v = w[..., n:, :]
    eye = torch.eye(n, dtype=w.dtype)
    a = u - u.mH + v.mH @ v
    inverse = torch.linalg.inv(eye + a)
    return torch.cat([inverse @ (eye - a), -2 * v @ inverse], -2)


class _Frequencies(nn.Conv2d):
    """A matrix at each frequency, computed of a kernel, applied between two transforms."""

    def matrices(self, w: Any) -> Any:
        raise NotImplementedError

    def forward(self, x: Any) -> Any:
        n = x.shape[-1]
        w = self.matrices(rfft2(self.weight, (n, n)).conj().permute(2, 3, 0, 1))
        # (h, w, channels, samples), as the published code has them.
        frequencies = rfft2(x).permute(2, 3, 1, 0)
        y = irfft2((w @ frequencies).permute(3, 2, 0, 1), (n, n))
        return y if self.bias is None else y + self.bias[:, None, None]


class Cayley(_Frequencies):
    """Trockman and Kolter, "Orthogonalizing Convolutional Layers with the Cayley Transform", ICLR 2021."""

    def matrices(self, w: Any) -> Any:
        return cayley(w.mH).mH if w.shape[-1] > w.shape[-2] else cayley(w)


class Lot(_Frequencies):
    """Xu, Li and Li, "LOT: Layer-wise Orthogonal Training", NeurIPS 2022: (V V*)^(-1/2) V, by Newton's iterations."""

    def matrices(self, w: Any) -> Any:
        square = w @ w.mH
        size = square.abs().sum((-2, -1), keepdim=True)
        y = square / size
        eye = torch.eye(w.shape[-2], dtype=w.dtype)
        z = eye.expand_as(y)
        for _ in range(30):
            t = 1.5 * eye - 0.5 * z @ y
            y = y @ t
            z = t @ z
        return z @ w / size.sqrt()


class Eco(nn.Conv2d):
    """Yu et al., "Constructing Orthogonal Convolutions in an Explicit Manner", ICLR 2022.

    Exponentials of skew-Hermitian matrices at the frequencies of a small kernel, which is dilated to the input's size.
    """

    def forward(self, x: Any) -> Any:
        k = self.kernel_size[0]
        w = fft2(self.weight).permute(2, 3, 0, 1)
        kernel = ifft2(torch.matrix_exp(w - w.mH).permute(2, 3, 0, 1)).real
        dilation = x.shape[-1] // k
        padded = F.pad(x, ((k - 1) * dilation, 0) * 2, mode="circular")
        return F.conv2d(padded, kernel, self.bias, dilation=dilation)


class Real(nn.Conv2d):
    """The real part of a full transform, with its frequencies cast, and divided one by one."""

    def forward(self, x: Any) -> Any:
        w = fft2(self.weight[:, 0], x.shape[-2:])
        return ifft2(fft2(x).to(w.dtype) * w / w.abs()).real


class Sandwich(nn.Module):
    """Wang and Manchester, "Direct Parameterization of Lipschitz-Bounded Deep Networks", ICML 2023."""

    def __init__(self, cin: int, cout: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(cin + cout, cout, size, size) / size)
        self.scale = nn.Parameter(torch.ones(()))
        self.psi = nn.Parameter(torch.zeros(cout))
        self.bias = nn.Parameter(torch.zeros(cout))
        self.cout = cout

    def forward(self, x: Any) -> Any:
        n = x.shape[-1]
        w = rfft2(self.weight, (n, n)).conj().permute(2, 3, 0, 1)
        q = cayley(self.scale * w / w.norm()).mH
        a = q[..., : self.cout]
        b = q[..., self.cout :]
        frequencies = rfft2(x).permute(2, 3, 1, 0)
        inner = torch.exp(-self.psi).diag().type(a.dtype) @ b @ frequencies * 2**0.5
        h = F.relu(irfft2(inner.permute(3, 2, 0, 1), (n, n)) + self.bias[:, None, None])
        outer = a.mH @ (torch.exp(self.psi).diag().type(a.dtype) @ rfft2(h).permute(2, 3, 1, 0)) * 2**0.5
        return irfft2(outer.permute(3, 2, 0, 1), (n, n))
