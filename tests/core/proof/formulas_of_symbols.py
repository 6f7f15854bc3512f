"""Functions of proofs about symbols, each alone, held against the formulas of their docstrings as in `formulas`."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
from core.proof.formulas import Violations, between, gamma, normal, up
from core.proof.formulas_of_ends import DOUBLE, lengths, stack
from helpers.libraries import OPS
from numpy.typing import NDArray

from specnorm.gram.proofs import powers
from specnorm.proofs.frequencies import Frequencies, half_grid_shape, tap_grid
from specnorm.symbols.proofs import symbols

XP = OPS.xp


def on_grid(kernels: Any, sizes: tuple[int, ...]) -> NDArray[Any]:
    """Symbols (b, points, m, p) on a whole grid."""
    b, m, p = kernels.shape[:3]
    values = np.fft.fftn(kernels.astype(np.float64), sizes, axes=range(3, 3 + len(sizes)))
    return np.moveaxis(values.reshape(b, m, p, -1), 3, 1).conj()


def powers_on_grid(kernels: Any, t: int) -> tuple[tuple[int, ...], list[NDArray[Any]]]:
    """The grid of H_t, and there G, H_1, ..., H_t."""
    grid = tap_grid(tuple(kernels.shape[3:]), t)
    values = [on_grid(kernels, grid)]
    for j in range(t):
        left = values[-1] if j else np.conj(np.swapaxes(values[0], 2, 3))
        values.append(left @ values[-1])
    return grid, values


def sums_in_rows(grid: tuple[int, ...], values: NDArray[Any]) -> NDArray[Any]:
    """Sums (b, p) of the magnitudes of the taps of matrices on a grid, in each row."""
    b, _, p, _ = values.shape
    taps = np.fft.fftn(values.reshape(b, *grid, p, p), axes=range(1, 1 + len(grid))).real / math.prod(grid)
    return np.asarray(np.abs(taps).reshape(b, -1, p, p).sum(axis=(1, 3)))


KERNELS: tuple[Any, ...] = tuple(stack(*shape, seed=1) / 8 for shape in ((4, 3, 2, 3), (2, 3, 3), (2, 2, 2, 3, 2)))
SMALL = replace(OPS, memory=4000)
"""Of memory for a few frequencies, or columns, at a time."""


def taps_of_powers() -> Violations:
    """Taps of powers, the sums of their magnitudes, and their errors, which Parseval's sums bound."""
    for kernels, t, ops in itertools.product(KERNELS, (1, 2), (OPS, SMALL)):
        norms: Any = symbols.absolute_norm_up(kernels, xp=XP)
        symbol = powers.KernelSymbol(kernels, norms, ops=ops)
        found = powers.GramTaps(symbol, t, ops=ops).taps()
        grid, values = powers_on_grid(kernels, t)
        yield from up(f"sums of {kernels.shape}, {t}", found.sums, sums_in_rows(grid, values[-1]).max(axis=1))
        m, p = kernels.shape[1:3]
        squares = [3 * lengths(values[0]) ** 2, *(lengths(x) ** 2 for x in values[1:])]
        rounded = [gamma(2 * m, DOUBLE) / 2, *[math.sqrt(2) * gamma(p + 3, DOUBLE)] * (t - 1)]
        error = np.asarray(norms)[:, None] * 4 * symbols.relative_symbol_error(kernels, xp=XP)
        for before, after, relative in zip(squares, squares[1:], rounded, strict=False):
            norm = np.sqrt(np.sqrt(after) + before * relative)
            error = (2 * norm + 3 * error) * error + before * relative
        of_axes = [math.sqrt(2) * (gamma(2 * n + 8, DOUBLE) / 1.001 + 2.5 * phase()) for n in half_grid_shape(grid)]
        of_transform = 1.001 * (sum(of_axes) + 4 * DOUBLE) * math.sqrt(math.prod(grid))
        lost = np.sqrt((error**2).sum(axis=1)) + np.sqrt(squares[-1].sum(axis=1)) * of_transform
        yield from up(f"errors of {kernels.shape}, {t}", found.lost, lost)
        again = powers.GramSymbol(found, ops=ops)
        n = math.prod(grid)
        formula = found.lost + found.sums * 1.001 * (gamma(n - n // 2 + 4, DOUBLE) / 1.001 + 2.5 * phase())
        yield from up(f"errors of the symbol of {kernels.shape}, {t}", again.error, formula)
        point = Frequencies(np.asarray([[1, 2, 3][: len(grid)]]), (7, 8, 9)[: len(grid)])
        angles = 2 * math.pi * point.numerators[0] / np.asarray(point.denominators)
        waves = np.exp(1j * tuple_sums(kernels.shape[3:], angles))
        g = (kernels.reshape(2, m, p, -1) * waves).sum(axis=3)
        h = np.linalg.matrix_power(np.conj(np.swapaxes(g, 1, 2)) @ g, 2 ** (t - 1))
        yield from up("a power", again.at(point)[:, 0] + 1.0, h.real + h.imag + 1.0 - 1e-12, 1e-9)


def contractions() -> Violations:
    """Products with tables along three axes."""
    tables: Any = [normal(3, 2), normal(2, 3, seed=1), normal(4, 2, seed=2)]
    x: Any = normal(1, 12, 2, 1, seed=3)
    exact = np.einsum("ai,bj,ck,xijkpr->xabcpr", *tables, x.reshape(1, 2, 3, 2, 2, 1)).reshape(1, 24, 2, 1)
    if not np.allclose(powers.contract(x, tables, xp=XP), exact, rtol=1e-12):
        yield "products with tables"


def tuple_sums(sizes: tuple[int, ...], angles: Any) -> NDArray[Any]:
    """``k.theta`` of all taps k."""
    return np.asarray(np.indices(sizes).reshape(len(sizes), -1).T @ angles)


def phase() -> float:
    return symbols.phase_error(DOUBLE)


def norms_of_channels() -> Violations:
    """Norms of channels by powers: roots of sums over their taps, which are hardly larger."""
    for kernels, t, ops in [*itertools.product(KERNELS, (1, 2), (OPS, SMALL)), (KERNELS[1], 3, OPS)]:
        tall = np.swapaxes(kernels, 1, 2) if kernels.shape[1] < kernels.shape[2] else kernels
        grid, values = powers_on_grid(tall, t)
        norms, *_ = powers.Powers(kernels, t, ops=ops).channel_norms()
        yield from up(f"channels of {kernels.shape}, {t}", norms, sums_in_rows(grid, values[-1]) ** 0.5**t, 1e-9)
        if t == 1:
            norms, *_ = powers.lag_norms(kernels, ops=ops)
            yield from up(f"lags of {kernels.shape}", norms, sums_in_rows(grid, values[-1]) ** 0.5, 1e-9)
    first = powers.Taps(np.ones((1, 9, 1)), (3, 3), np.asarray([2.0]), np.asarray([0.5]))  # type: ignore[arg-type]
    some = powers.Powers(KERNELS[0], 2, ops=OPS)
    some._symbol_of(first, 1)
    yield from up("an error of a square", some._last_error, 2 * 2.0 * 0.5 + 0.25)
    for n_iter, m, p, grid, counts in ((1, 2, 3, (5, 3), (3, 3)), (2, 1, 9, (5, 9), (5, 5))):
        *_, roundings = powers._error_factors(n_iter, m, p, grid, DOUBLE, True)
        formula = (2**n_iter - 1) * (max(4 * m, p) * p + 16) + math.prod(counts) + 8
        yield from between("roundings of errors", roundings, formula, formula)
    many: Any = np.ones((1, 1, 1, 100, 101))
    formula = many.size * 2.0**-14 * 4 * symbols.relative_symbol_error(many, xp=XP) * (1 + many.size * DOUBLE)
    yield from up("the error of many taps", powers.Powers(many, 1, ops=OPS)._taps.symbol.error, formula)
    tall: Any = np.ones((1, 10**5, 1, 1))
    norm, *_ = powers.lag_norms(tall, ops=OPS)
    yield from up("lags of many rows", norm, math.sqrt(1e5 * (1 + gamma(10**5 + 1, DOUBLE))))
    with_zeros: Any = np.asarray([[[1.0, 0.0], [0.0, 2.0]]])[..., None]
    yield from up("lags with zeros", powers.lag_norms(with_zeros, ops=OPS)[0], [[1.0, 2.0]])
    one: Any = np.ones(1)
    eps, tiny = 2.0**-20, 2.0**-40
    for shape in ((2, 5, 3, 4), (5, 2, 4, 3)):
        formula = 1 + 2 * eps * (math.sqrt(12 * 2) + 2) + tiny * 12 * math.sqrt(10)
        yield from up("divisors", powers.divisors(one, shape, (eps, tiny), xp=XP), formula, 1e-14)


CHECKS = {x.__name__: x for x in (taps_of_powers, norms_of_channels, contractions)}
