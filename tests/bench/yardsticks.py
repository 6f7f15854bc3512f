"""Textbook methods written plainly from their papers, to be measured beside specnorm's. They share no code with it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def random_starts(shape: tuple[int, ...], seed: int) -> list[Tensor]:
    """One complex Gaussian unit vector an axis."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(n, dtype=torch.complex64, generator=generator) for n in shape]
    return [x / torch.linalg.vector_norm(x) for x in drawn]


def hopm(kernel: Tensor, sweeps: int = 100, seed: int = 0) -> Tensor:
    """Random-start complex alternating maximisation of a 4-way tensor (Grishina et al. 2024, algorithm 1).

    Each vector in turn is the conjugate contraction of the kernel with the other three, normalised: the kernel,
    unfolded along that axis, times the outer product of the others.
    """
    k = kernel.to(torch.complex64)
    vectors = random_starts(tuple(kernel.shape), seed)
    unfolded = [torch.movedim(k, axis, 0).reshape(k.shape[axis], -1) for axis in range(4)]
    norm = torch.zeros(())
    for _ in range(sweeps):
        for axis in range(4):
            x, y, z = (vectors[j] for j in range(4) if j != axis)
            outer = x[:, None, None] * y[:, None] * z
            new = (unfolded[axis] @ outer.reshape(-1)).conj()
            norm = torch.linalg.vector_norm(new)
            vectors[axis] = new / norm
    value: Tensor = norm * math.sqrt(math.prod(kernel.shape[2:]))
    return value


def hopm_lean(kernel: Tensor, sweeps: int = 100, seed: int = 0) -> Tensor:
    """The same sweeps, reorganised by hand into two passes over the kernel: the fastest form we know."""
    o, i, h, w = kernel.shape
    k = kernel.to(torch.complex64)
    u, v, a, b = random_starts(tuple(kernel.shape), seed)
    rows, columns = k.reshape(o, -1), k.permute(2, 3, 0, 1).reshape(h * w, o * i)
    norm = torch.zeros(())
    for _ in range(sweeps):
        mixed = (torch.outer(a, b).reshape(1, -1) @ columns).reshape(o, i)
        u = (mixed @ v).conj().resolve_conj()
        u = u / torch.linalg.vector_norm(u)
        v = (u @ mixed).conj().resolve_conj()
        v = v / torch.linalg.vector_norm(v)
        taps = (v @ (u @ rows).reshape(i, h * w)).reshape(h, w)
        a = (taps @ b).conj().resolve_conj()
        a = a / torch.linalg.vector_norm(a)
        b = (a @ taps).conj().resolve_conj()
        norm = torch.linalg.vector_norm(b)
        b = b / norm
    value: Tensor = norm * math.sqrt(h * w)
    return value


def fft_svd(kernel: Tensor, n: int) -> Tensor:
    """Exact circular norm: FFT of the padded kernel, then singular values at every frequency (Sedghi et al. 2019)."""
    symbol = torch.fft.fft2(kernel, s=(n, n)).permute(2, 3, 0, 1).reshape(n * n, *kernel.shape[:2])
    value: Tensor = torch.linalg.svdvals(symbol).max()
    return value
