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
    """Exact circular norm: FFT of the padded kernel, then singular values (Sedghi et al. 2019), as a user writes it.

    At half the frequencies, since a real kernel's symbol at the others is conjugate, and in the kernel's own precision.
    """
    symbol = torch.fft.rfft2(kernel, s=(n, n)).permute(2, 3, 0, 1).reshape(-1, *kernel.shape[:2])
    value: Tensor = torch.linalg.svdvals(symbol).max()
    return value


def unfolding_power(kernel: Tensor, steps: int = 50, seed: int = 0) -> Tensor:
    """Fantastic Four as published: the smallest of four unfoldings' norms by a fixed number of power steps.

    Singla and Feizi, ICLR 2021. Not converged, so below what it estimates.
    """
    o, _, h, w = kernel.shape
    matrices = [
        kernel.reshape(o, -1),
        kernel.permute(0, 2, 1, 3).reshape(o * h, -1),
        kernel.permute(0, 3, 1, 2).reshape(o * w, -1),
        kernel.permute(0, 2, 3, 1).reshape(o * h * w, -1),
    ]
    generator = torch.Generator().manual_seed(seed)
    norms = []
    for matrix in matrices:
        v = torch.randn(matrix.shape[1], dtype=kernel.dtype, generator=generator)
        v = v / torch.linalg.vector_norm(v)
        norm = torch.zeros(())
        for _ in range(steps):
            u = matrix @ v
            u = u / torch.linalg.vector_norm(u)
            v = matrix.T @ u
            norm = torch.linalg.vector_norm(v)
            v = v / norm
        norms.append(norm)
    return torch.stack(norms).min() * math.sqrt(h * w)


def gram_fft(kernel: Tensor, n: int, steps: int = 6) -> Tensor:
    """Gram iteration on the circular symbol at one size (Delattre et al. 2023): rescaled by the Frobenius norm."""
    g = torch.fft.fft2(kernel, s=(n, n)).permute(2, 3, 0, 1).reshape(n * n, *kernel.shape[:2])
    if g.shape[1] < g.shape[2]:
        g = g.mH
    logarithm = torch.zeros(n * n, dtype=kernel.dtype)
    for _ in range(steps):
        norm = torch.linalg.matrix_norm(g)
        g = g / norm[:, None, None]
        g = g.mH @ g
        logarithm = 2 * (logarithm + norm.log())
    value: Tensor = ((torch.linalg.matrix_norm(g).log() + logarithm) / 2**steps).exp().max()
    return value


def power_at_size(kernel: Tensor, n: int, steps: int = 100, seed: int = 0) -> Tensor:
    """Power method with the circular layer itself at one size (Ryu et al. 2019; Farnia et al. 2019)."""
    pads = tuple(p for k in reversed(kernel.shape[2:]) for p in ((k - 1) // 2, k // 2))
    back = tuple(p for k in reversed(kernel.shape[2:]) for p in (k // 2, (k - 1) // 2))
    flipped = kernel.transpose(0, 1).flip(2, 3)
    x = torch.randn(1, kernel.shape[1], n, n, dtype=kernel.dtype, generator=torch.Generator().manual_seed(seed))
    norm = torch.zeros(())
    for _ in range(steps):
        x = x / torch.linalg.vector_norm(x)
        y = torch.nn.functional.conv2d(torch.nn.functional.pad(x, pads, mode="circular"), kernel)
        norm = torch.linalg.vector_norm(y)
        x = torch.nn.functional.conv2d(torch.nn.functional.pad(y, back, mode="circular"), flipped)
    return norm


def uniform_grid(kernel: Tensor, points: int = 10) -> Tensor:
    """Singular values on a uniform grid of frequencies, lifted to all of them (Araujo et al. 2021, LipGrid)."""
    sizes = [points * max(1, k - 1) for k in kernel.shape[2:]]
    factor = math.prod(1 / (1 - (k - 1) / n) for k, n in zip(kernel.shape[2:], sizes, strict=True))
    symbol = torch.fft.fft2(kernel, s=sizes).permute(2, 3, 0, 1).reshape(math.prod(sizes), *kernel.shape[:2])
    value: Tensor = torch.linalg.svdvals(symbol).max() * factor
    return value
