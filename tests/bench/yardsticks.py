"""Textbook methods written plainly from their papers, to be measured beside specnorm's. They share no code with it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def random_starts(shape: tuple[int, ...], seed: int) -> list[Tensor]:
    """One complex Gaussian unit vector an axis."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(n, dtype=torch.complex64, generator=generator) for n in shape]
    return [x / torch.linalg.vector_norm(x) for x in drawn]


def hopm_einsum(kernel: Tensor, sweeps: int = 100, seed: int = 0) -> Tensor:
    """Random-start complex alternating maximisation of a 4-way tensor (Grishina et al. 2024, algorithm 1).

    Each vector in turn is the conjugate contraction of the kernel with the other three, normalised: by einsum, as its
    authors write it, with two passes over the kernel a sweep. Two factors at a time, so that no order is searched for.
    """
    k = kernel.to(torch.complex64).contiguous()
    u, v, a, b = random_starts(tuple(kernel.shape), seed)
    norm = torch.zeros(())

    def unit(x: Tensor) -> Tensor:
        found: Tensor = x.conj() / torch.linalg.vector_norm(x)
        return found

    for _ in range(sweeps):
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


def gram_rfft(kernel: Tensor, n: int, steps: int = 5) -> Tensor:
    """Gram iteration on the circular symbol at one size (Delattre et al. 2023): rescaled by the Frobenius norm.

    At half the frequencies and in the kernel's own precision, as published. No rounding is counted.
    """
    g = torch.fft.rfft2(kernel, s=(n, n)).permute(2, 3, 0, 1).reshape(-1, *kernel.shape[:2])
    if g.shape[1] < g.shape[2]:
        g = g.mH
    logarithm = torch.zeros(len(g), dtype=kernel.dtype)
    for _ in range(steps):
        norm = torch.linalg.matrix_norm(g)
        g = g / norm[:, None, None]
        g = g.mH @ g
        logarithm = 2 * (logarithm + norm.log())
    value: Tensor = ((torch.linalg.matrix_norm(g).log() + logarithm) / 2**steps).exp().max()
    return value


def gram_kernels(kernel: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The kernel of the Gram operator's power, rescaled, and the logarithm of its scale (Delattre et al. 2024).

    A kernel correlated with itself over the outputs, whose inputs and taps are left: `torch` convolves it with itself.
    """
    g = kernel.transpose(0, 1) if kernel.shape[0] >= kernel.shape[1] else kernel
    logarithm = torch.zeros((), dtype=kernel.dtype)
    for _ in range(steps):
        norm = torch.linalg.vector_norm(g).detach()
        g = g / norm
        logarithm = 2 * (logarithm + norm.log())
        g = torch.nn.functional.conv2d(g, g, padding=(g.shape[2] - 1, g.shape[3] - 1))
    return g, logarithm


def gram_conv(kernel: Tensor, steps: int = 3) -> Tensor:
    """Gram iteration for zero padding, every size (Delattre et al. 2024): its largest row sum, unproven."""
    g, logarithm = gram_kernels(kernel, steps)
    value: Tensor = ((g.abs().sum(dim=(1, 2, 3)).max().log() + logarithm) / 2**steps).exp()
    return value


def aol(kernel: Tensor) -> Tensor:
    """Frobenius norm of an almost-orthogonal layer (Prach and Lampert 2022): a factor for each channel.

    Of the smaller side, inputs where both are as many: the absolute entries of the Gram kernel's rows, summed.
    """
    g, logarithm = gram_kernels(kernel, 1)
    factors = (g.abs().sum(dim=(1, 2, 3)).log() + logarithm).exp().rsqrt()
    shape = (1, -1, 1, 1) if kernel.shape[0] >= kernel.shape[1] else (-1, 1, 1, 1)
    value: Tensor = torch.linalg.vector_norm(kernel * factors.reshape(shape))
    return value


def aol_backward(kernel: Tensor) -> Tensor:
    """That with its gradient, whose norm is returned."""
    k = kernel.detach().requires_grad_()
    value: Tensor = torch.linalg.vector_norm(torch.autograd.grad(aol(k), k)[0])
    return value


def square_layer(
    kernel: Tensor, mode: str = "circular"
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """A layer that keeps the size with torch's convolution, and its adjoint; "constant" pads zeros."""
    pads = tuple(p for k in reversed(kernel.shape[2:]) for p in ((k - 1) // 2, k // 2))
    back = tuple(p for k in reversed(kernel.shape[2:]) for p in (k // 2, (k - 1) // 2))
    flipped = kernel.transpose(0, 1).flip(2, 3)

    def product(x: Tensor, weight: Tensor, around: tuple[int, ...]) -> Tensor:
        return torch.nn.functional.conv2d(torch.nn.functional.pad(x, around, mode=mode), weight)

    return lambda x: product(x, kernel, pads), lambda y: product(y, flipped, back)


def power_at_size(kernel: Tensor, n: int, steps: int = 100, seed: int = 0) -> Tensor:
    """Power method with the circular layer itself at one size (Ryu et al. 2019; Farnia et al. 2019)."""
    layer, adjoint = square_layer(kernel)
    x = torch.randn(1, kernel.shape[1], n, n, dtype=kernel.dtype, generator=torch.Generator().manual_seed(seed))
    norm = torch.zeros(())
    for _ in range(steps):
        x = x / torch.linalg.vector_norm(x)
        y = layer(x)
        norm = torch.linalg.vector_norm(y)
        x = adjoint(y)
    return norm


def propack(kernel: Tensor, n: int, rtol: float = 1e-4, mode: str = "circular") -> Tensor:
    """SciPy's PROPACK (Lanczos bidiagonalisation with partial reorthogonalisation, Larsen 1998) on the same layer.

    To 1e-4 by its own reckoning, which is to 1e-6 in truth, as far as `power_norm` goes.
    """
    from scipy.sparse.linalg import LinearOperator, svds

    layer, adjoint = square_layer(kernel, mode)
    cout, cin = kernel.shape[:2]
    dtype = str(kernel.dtype).rpartition(".")[2]

    def product(run: Callable[[Tensor], Tensor], x: np.ndarray, channels: int) -> np.ndarray:
        return run(torch.from_numpy(x.astype(dtype)).reshape(1, channels, n, n)).numpy().reshape(-1)

    operator = LinearOperator(
        (cout * n * n, cin * n * n), dtype=dtype,
        matvec=lambda x: product(layer, x, cin), rmatvec=lambda y: product(adjoint, y, cout),
    )  # fmt: skip
    start = np.random.RandomState(0).standard_normal(cout * n * n).astype(dtype)
    # SciPy squares the tolerance.
    found = svds(
        operator, k=1, tol=math.sqrt(rtol), v0=start, maxiter=400, solver="propack", return_singular_vectors=False
    )
    return torch.as_tensor(found.max())


def uniform_grid(kernel: Tensor, points: int = 10) -> Tensor:
    """Singular values on a uniform grid of frequencies, lifted to all of them (Araujo et al. 2021, LipGrid)."""
    sizes = [points * max(1, k - 1) for k in kernel.shape[2:]]
    factor = math.prod(1 / (1 - (k - 1) / n) for k, n in zip(kernel.shape[2:], sizes, strict=True))
    symbol = torch.fft.fft2(kernel, s=sizes).permute(2, 3, 0, 1).reshape(math.prod(sizes), *kernel.shape[:2])
    value: Tensor = torch.linalg.svdvals(symbol).max() * factor
    return value
