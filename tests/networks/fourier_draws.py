"""Maps at random that go to the frequencies of their input and back: transforms, moves, products with constants."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NORMS = (None, "backward", "ortho", "forward")


def numbers(d: random.Random, *shape: int) -> Tensor:
    """Complex numbers."""
    found = [complex(d.gauss(0, 1), d.gauss(0, 1)) for _ in range(math.prod(shape))]
    return torch.tensor(found, dtype=torch.complex128).reshape(shape)


def drawn(seed: int) -> Callable[[Tensor], Tensor]:
    """A linear map; the same seed is the same map of inputs of one shape."""

    def f(x: Tensor) -> Tensor:
        d = random.Random(seed)
        for _ in range(d.randint(2, 8)):
            some = COMPLEX if x.is_complex() else REAL
            x = d.choice(some)(x, d)
        return x

    return f


def _transform(kind: str) -> Callable[[Tensor, random.Random], Tensor]:
    def step(x: Tensor, d: random.Random) -> Tensor:
        form = d.choice(("", "2", "n", "n"))
        if x.ndim < 2 and form == "2":
            form = ""
        given: dict[str, Any] = {"norm": d.choice(NORMS)}
        resized = d.random() < 0.4
        if not form:
            axis = d.randrange(-x.ndim, x.ndim)
            axes, given["dim"] = [axis], axis
        else:
            axes = d.sample(range(x.ndim), 2 if form == "2" else d.randint(1, min(x.ndim, 3)))
            given["dim"] = axes
        own = 2 * (x.shape[axes[-1]] - 1) if kind == "irfft" else x.shape[axes[-1]]
        if resized or own < 1:
            sizes = [d.randint(1, 6) for _ in axes]
            given["s" if form else "n"] = sizes if form else sizes[0]
        found: Tensor = getattr(torch.fft, kind + form)(x, **given)
        return found if found.numel() <= 200 else found.flatten()[:200]

    return step


def _permuted(x: Tensor, d: random.Random) -> Tensor:
    return x.permute(d.sample(range(x.ndim), x.ndim))


def _reshaped(x: Tensor, d: random.Random) -> Tensor:
    n = x.numel()
    divisors = [k for k in range(1, n + 1) if n % k == 0]
    first = d.choice(divisors)
    return x.reshape(first, n // first) if d.random() < 0.7 else x.flatten()


def _rolled(x: Tensor, d: random.Random) -> Tensor:
    axis = d.randrange(x.ndim)
    return d.choice((torch.roll(x, d.randint(1, 3), axis), x.flip(axis), torch.fft.fftshift(x, axis)))


def _cut(x: Tensor, d: random.Random) -> Tensor:
    axis = d.randrange(x.ndim)
    n = x.shape[axis]
    return x.narrow(axis, start := d.randrange(n), d.randint(1, n - start))


def _times_matrices(x: Tensor, d: random.Random) -> Tensor:
    if x.ndim < 2:
        x = x[None]
    m = d.randint(1, 3)
    batch = [1 if d.random() < 0.3 else n for n in x.shape[d.randint(0, x.ndim - 2) : -2]]
    left = d.random() < 0.5
    q = numbers(d, *batch, *((m, x.shape[-2]) if left else (x.shape[-1], m)))
    return q @ x if left else x @ q


def _by_equation(x: Tensor, d: random.Random) -> Tensor:
    ours = "abcde"[: x.ndim]
    summed = {c for c in ours if d.random() < 0.4}
    theirs = [c for c in ours if c in summed or d.random() < 0.5] + (["z"] if d.random() < 0.5 else [])
    out = [c for c in ours if c not in summed] + [c for c in theirs if c == "z"]
    d.shuffle(theirs)
    d.shuffle(out)
    sizes = dict(zip(ours, x.shape, strict=True)) | {"z": 2}
    terms = ["".join(theirs), ours]
    values = [numbers(d, *(sizes[c] for c in theirs)), x]
    if d.random() < 0.5:
        terms, values = terms[::-1], values[::-1]
    found: Tensor = torch.einsum(",".join(terms) + "->" + "".join(out), *values)
    return found if found.ndim else found[None]


def _times_numbers(x: Tensor, d: random.Random) -> Tensor:
    return x * numbers(d, *(1 if d.random() < 0.3 else n for n in x.shape[d.randrange(x.ndim + 1) :]))


def _shifted(x: Tensor, d: random.Random) -> Tensor:
    c = numbers(d, *x.shape)
    return d.choice((x + c, x - c, c - x, x.conj(), -x))


def _written(x: Tensor, d: random.Random) -> Tensor:
    """Pieces of a value in places of zeros, of constants, or of its own entries: once or twice, which may overlap."""
    axis = d.randrange(x.ndim)
    n = x.shape[axis]
    shape = [m + d.randint(0, 3) * (at == axis) for at, m in enumerate(x.shape)]
    zeros = torch.zeros(shape, dtype=x.dtype)
    kinds = (lambda: zeros, lambda: x.clone(), lambda: (-x).flip(axis).clone(), lambda: numbers(d, *shape).to(x.dtype))
    whole = d.choice(kinds)()
    for _ in range(d.randint(1, 2)):
        count = d.randint(1, n)
        start, to = d.randint(0, n - count), d.randint(0, whole.shape[axis] - count)
        if d.random() < 0.3:
            whole.select(axis, to).copy_(x.select(axis, start))
        else:
            whole.narrow(axis, to, count).copy_(x.narrow(axis, start, count))
    return whole


def _as_real(x: Tensor, d: random.Random) -> Tensor:
    del d
    return torch.view_as_real(x.resolve_conj())


def _real_part(x: Tensor, d: random.Random) -> Tensor:
    x = x.resolve_conj()
    return d.choice((x.real, x.imag))


def _as_complex(x: Tensor, d: random.Random) -> Tensor:
    if x.shape[-1] == 2 and x.is_contiguous():
        return torch.view_as_complex(x)
    return _transform("rfft")(x, d)


REAL = (*[_transform("rfft")] * 6, _transform("fft"), _transform("ifft"), _transform("irfft"), _as_complex, _permuted)
COMPLEX = (
    *[_transform("irfft")] * 3, _transform("fft"), _transform("ifft"), _permuted, _reshaped, _rolled, _cut,
    _times_matrices, _times_matrices, _by_equation, _by_equation, _times_numbers, _shifted, _as_real, _real_part,
    _written, _written,
)  # fmt: skip
