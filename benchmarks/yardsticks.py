"""Textbook methods written plainly from their papers, to be measured beside specnorm's. They share no code with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor


def hopm_einsum(kernel: Tensor) -> Tensor:
    """Random-start complex alternating maximisation of a 4-way tensor (Grishina et al. 2024, algorithm 1).

    By einsum, as its authors write it, with two passes over the kernel a sweep; two factors at a time.
    """
    k = kernel.to(torch.complex64).contiguous()
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(n, dtype=torch.complex64, generator=generator) for n in kernel.shape]
    u, v, a, b = (x / torch.linalg.vector_norm(x) for x in drawn)
    norm = torch.zeros(())

    def unit(x: Tensor) -> Tensor:
        found: Tensor = x.conj() / torch.linalg.vector_norm(x)
        return found

    for _ in range(100):
        inner = torch.einsum("oihw,o->ihw", k, u)
        taps = torch.einsum("ihw,i->hw", inner, v)
        b = unit(torch.einsum("hw,h->w", taps, a))
        a = unit(torch.einsum("hw,w->h", taps, b))
        v = unit(torch.einsum("ihw,hw->i", inner, torch.outer(a, b)))
        outer = torch.einsum("oihw,i->ohw", k, v)
        u = torch.einsum("ohw,hw->o", outer, torch.outer(a, b))
        norm = torch.linalg.vector_norm(u)
        u = unit(u)
    value: Tensor = norm * math.sqrt(math.prod(kernel.shape[2:]))
    return value


def rfft_svd(kernel: Tensor, n: int) -> Tensor:
    """Exact circular norm: FFT of the padded kernel, then singular values (Sedghi et al. 2019)."""
    symbol = torch.fft.rfft2(kernel, s=(n, n)).permute(2, 3, 0, 1).reshape(-1, *kernel.shape[:2])
    largest: Tensor = torch.linalg.svdvals(symbol).max()
    return largest


def rfft_svd_in_numpy(kernel: np.ndarray, n: int) -> float:
    """The same in NumPy, in two lines."""
    symbol = np.moveaxis(np.fft.rfft2(kernel, s=(n, n)), (0, 1), (-2, -1))
    return float(np.linalg.svd(symbol, compute_uv=False).max())


def unfolding_power(kernel: Tensor) -> Tensor:
    """Fantastic Four (Singla and Feizi 2021): four unfoldings by 50 power steps, not converged."""
    o, _, h, w = kernel.shape
    orders = {(0, 1, 2, 3): o, (0, 2, 1, 3): o * h, (0, 3, 1, 2): o * w, (0, 2, 3, 1): o * h * w}
    matrices = [kernel.permute(order).reshape(rows, -1) for order, rows in orders.items()]
    generator = torch.Generator().manual_seed(0)
    norms = []
    for matrix in matrices:
        v = torch.randn(matrix.shape[1], dtype=kernel.dtype, generator=generator)
        v = v / torch.linalg.vector_norm(v)
        norm = torch.zeros(())
        for _ in range(50):
            u = matrix @ v
            u = u / torch.linalg.vector_norm(u)
            v = matrix.T @ u
            norm = torch.linalg.vector_norm(v)
            v = v / norm
        norms.append(norm)
    return torch.stack(norms).min() * math.sqrt(h * w)


def gram_conv(kernel: Tensor, steps: int = 3) -> Tensor:
    """Gram iteration for zero padding, every size (Delattre et al. 2024): its largest row sum, unproven."""
    g = kernel.transpose(0, 1) if kernel.shape[0] >= kernel.shape[1] else kernel
    logarithm = torch.zeros((), dtype=kernel.dtype)
    for _ in range(steps):
        norm = torch.linalg.vector_norm(g)
        g, logarithm = g / norm, 2 * (logarithm + norm.log())
        g = torch.nn.functional.conv2d(g, g, padding=(g.shape[2] - 1, g.shape[3] - 1))
    value: Tensor = ((g.abs().sum(dim=(1, 2, 3)).max().log() + logarithm) / 2**steps).exp()
    return value


def propack(kernel: Tensor, n: int) -> float:
    """SciPy's PROPACK on the layer itself with zero padding, by torch's convolution (Larsen 1998)."""
    cout, cin, *taps = kernel.shape
    pads = [(k - 1) // 2 for k in taps]

    def through(function: Callable[..., Tensor], channels: int) -> Callable[[Any], Any]:
        return lambda x: function(torch.from_numpy(x.reshape(1, channels, n, n)), kernel, padding=pads).numpy().ravel()

    forward, back = through(torch.nn.functional.conv2d, cin), through(torch.nn.functional.conv_transpose2d, cout)
    operator = LinearOperator((cout * n * n, cin * n * n), forward, back, dtype="float32")
    return float(svds(operator, 1, solver="propack", tol=1e-3, maxiter=200, return_singular_vectors=False, rng=0)[0])


def aol(kernel: Tensor) -> Tensor:
    """Almost-orthogonal rescaling (Prach and Lampert 2022), as published; the sum of the kernel that is left."""
    turned = kernel.transpose(0, 1)
    gram = torch.nn.functional.conv2d(turned, turned, padding=[k - 1 for k in kernel.shape[2:]])
    return (kernel * gram.abs().sum(dim=(1, 2, 3)).rsqrt()[None, :, None, None]).sum()
