"""Checks that fail where a function counts none of its roundings.

Errors of real products are far below their worst case: they are planted, or sums are so long and of one sign that they
add up.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from helpers.libraries import NUMPY as np
from helpers.libraries import OPS
from helpers.mutants import Check
from test_house import CORE, room

from specnorm.at_size.proofs import own_matrix
from specnorm.at_size.proofs.block_tridiagonal import BlockTridiagonal, largest_eigenvalue_up, plans
from specnorm.at_size.proofs.waves import Waves, quotient_of_waves_down
from specnorm.geometry.layer_map import Convolution
from specnorm.geometry.spec import ConvSpec
from specnorm.gram.proof import lag_norms
from specnorm.grid.proof import gram_iteration_of_parts_up
from specnorm.power.proofs.ritz import residuals_up, ritz_down
from specnorm.proofs import norms, rounding
from specnorm.proofs.frequencies import Frequencies
from specnorm.running.proofs import padding
from specnorm.spectrum.proof import singular_values_down
from specnorm.symbols.proofs.polynomial import Polynomial

ROOMS = (
    "at_size", "gram", "grid", "power", "running", "spectrum", "supremum", "symbols", "tensor_norm", "training",
    "unfoldings",
)  # fmt: skip
UNIT = 2.0**-24
_gamma = rounding.gamma
LONG = 20_000
A_LITTLE_LESS = 1 - LONG * 2.0**-24 / 3
ZERO = Frequencies(np.zeros((1, 1), dtype=np.int64), (1,))
ONES: Any = np.ones((1, LONG, 1), dtype=np.float32)


class Instead:
    def __init__(self, whole: Any, **others: Any) -> None:
        self._whole = whole
        self.__dict__.update(others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)


def off(sign: int) -> Any:
    """Products that are as small, or as large, as single precision may make them."""

    def matmul(a: Any, b: Any) -> Any:
        return np.matmul(a, b) * np.asarray(1 + sign * 0.99 * _gamma(a.shape[-1], UNIT), dtype=np.result_type(a, b))

    ops = OPS
    return Instead(ops, xp=Instead(ops.xp, matmul=matmul))


# -- checks: whether no bound is wrong ---------------------------------------------------------------------------------
def above(value: Any) -> bool:
    return float(np.asarray(value).reshape(-1)[0]) >= math.sqrt(LONG)


def frobenius_with_its_trace() -> bool:
    return above(norms.GramProof(ONES, ops=off(-1)).norm_up_near(ONES[:, 0, :]))


def matrix() -> bool:
    """With columns of zeros: a proof needs more room than one column leaves."""
    columns: Any = np.concatenate([ONES, 0 * ONES, 0 * ONES], axis=2)
    return above(norms.matrix_norm_up(columns, ops=off(-1)))


def gram_norm() -> bool:
    return float(norms.gram_norm_up(ONES, xp=off(-1).xp)[0]) >= LONG


def first_gram_product() -> bool:
    return above(gram_iteration_of_parts_up(ONES, 0 * ONES, 1, 0.0, xp=off(-1).xp))


def ritz() -> bool:
    """The image of a vector whose length comes out too small, by a map that is 1."""
    vector: Any = np.full((1, 1, LONG), 1 / math.sqrt(LONG), dtype=np.float32) * np.float32(1)
    found = ritz_down(np.float32(1 + 3e-4) * vector, vector, vector, 5_000, ops=OPS)
    return float(found[0, 0]) <= float(np.linalg.norm(vector.astype(np.float64)))


def blocks() -> bool:
    """A factor of another matrix than it is said to be of, whose products hide that: within their roundings."""
    size, less = 200, 4e-6
    below: Any = np.zeros((1, 0, size, size), dtype=np.float32)
    limits: Any = np.asarray([size * (1 - less / 2)], dtype=np.float32)

    def cholesky(matrix: Any) -> Any:
        return np.linalg.cholesky(matrix.astype(np.float64) + less).astype(np.float32)

    def matmul(a: Any, b: Any) -> Any:
        return np.matmul(a, b) - np.float32(less)

    ops = OPS
    xp = Instead(ops.xp, matmul=matmul, linalg=Instead(ops.xp.linalg, cholesky=cholesky))
    planted: Any = Instead(ops, xp=xp, has_factors=False, cholesky_ok=lambda a: a[:, 0, 0] > 0)
    ones: Any = np.ones((1, 1, size, size), dtype=np.float32)
    return float(largest_eigenvalue_up(BlockTridiagonal(ones, below), limits, ops=planted)[0]) >= size


def own() -> bool:
    """The layer whose matrix is a row of ones, a third of an allowance below its norm."""
    spec = ConvSpec.of((1, LONG, 1), input_shape=(1,), padding_mode="zeros", padding=0)
    plan = next(p for p in plans(spec) if p.rows_are_outputs and p.blocks == 1)
    layer = Convolution(np.swapaxes(ONES, 1, 2)[..., None], spec, ops=off(-1))
    (found,) = own_matrix.LayerGram(layer, plan, ops=off(-1)).norms_near(np.asarray([A_LITTLE_LESS * math.sqrt(LONG)]))
    return found is None


def scalar() -> bool:
    """A kernel of ones at the frequency 0, whose products come out too small."""
    found = Polynomial(ONES.reshape(1, 1, 1, LONG), xp=OPS.xp).gram(by_axis=True, ops=off(-1))
    values, _ = found.planes_at(ZERO, np.zeros(1, dtype=np.int64))
    return float(values[0, 0, 0]) + found.error >= LONG**2


def sum_of_squares() -> bool:
    """A column of ones, the sum of whose squares comes out too small."""

    def total(x: Any, axis: Any = None) -> Any:
        return np.sum(x, axis=axis) * np.float32(1 - 0.99 * _gamma(x.size, UNIT))

    short_sums: Any = Instead(OPS, xp=Instead(OPS.xp, sum=total))
    found = Polynomial(ONES.reshape(1, LONG, 1, 1), xp=short_sums.xp).gram(by_axis=True, ops=short_sums)
    values, _ = found.planes_at(ZERO, np.zeros(1, dtype=np.int64))
    return float(values[0, 0, 0]) + found.error >= LONG


class Coarse:
    """Twice the identity, as a layer whose products are as small as very many roundings may make them."""

    roundings = (10**6, 10**6)
    shape = (4, 4)
    kernels = np.full((1, 1, 1, 1), 2.0)
    spec = ConvSpec.of((1, 1, 1), input_shape=4, padding_mode="zeros")

    def absolute(self) -> Convolution:
        return Convolution(np.full((1, 1, 1, 1), 2.0), self.spec, ops=OPS)

    def apply(self, x: Any) -> Any:
        return 2.0 * x * (1 - self.roundings[0] * 2.0**-53)

    adjoint = apply


def smallest_quotient() -> bool:
    coarse: Any = Coarse()
    bounds, _ = own_matrix.smallest_quotients(coarse, np.ones((1, 1, 4)), ops=OPS)
    return bounds[0].value >= 2.0


def singular_value() -> bool:
    """A column that is shorter than 1, whose product with itself comes out as 1."""
    shorter = 1 - 0.99 * _gamma(LONG, UNIT) / 2
    u: Any = np.full((1, LONG, 1), shorter / math.sqrt(LONG), dtype=np.float32)
    s: Any = np.asarray([[1 / shorter]], dtype=np.float32)
    one: Any = np.ones((1, 1, 1), dtype=np.float32)
    no_error: Any = np.zeros(1, dtype=np.float32)
    found = singular_values_down(u * s, (u, s, one), no_error, ops=off(1))
    return float(found[0, 0]) <= float(np.linalg.norm((u * s).astype(np.float64)))


def lag_norms_of_ones() -> bool:
    ops: Any = Instead(off(-1), wide_dtype="float32")
    return above(lag_norms(ONES, ops=ops)[0])


def lags_of_ones() -> bool:
    found: Any = Polynomial(ONES, xp=OPS.xp).lags(ops=off(-1))
    return float(found.values[0, 0, 0, 0] + found.error[0]) >= LONG


def residuals() -> bool:
    """A number that is not nearer to the only singular value than it is, for products that come out small."""
    kernel: Any = np.ones((1, 1, 300, 1), dtype=np.float32)
    spec = ConvSpec.of(kernel.shape[1:], input_shape=(1,), padding_mode="zeros", padding=0)
    layer = Convolution(kernel, spec, ops=OPS)
    apply: Any = layer.apply
    adjoint: Any = layer.adjoint
    # One entry of A v, and one of A* u, is a sum of as many terms as there are roundings; the other is exact.
    small = [1 - 0.99 * _gamma(n, UNIT) for n in layer.roundings]
    layer.apply = lambda x: np.float32(small[0]) * apply(x)  # type: ignore[method-assign]
    layer.adjoint = lambda y: np.float32(small[0]) * adjoint(y)  # type: ignore[method-assign]
    u: Any = np.ones((1, 1, 1), dtype=np.float32)
    v: Any = np.full((1, 1, 300), 1 / math.sqrt(300), dtype=np.float32)
    s: Any = np.full((1, 1), math.sqrt(300) * small[0], dtype=np.float32)
    return float(residuals_up(layer, u, v, s, ops=OPS)[0, 0]) >= math.sqrt(300) - float(s[0, 0])


def cancelling(seed: int) -> tuple[Waves, Any, Fraction]:
    """Channels that cancel but for 2**-40, on constant waves; and the square of the quotient, exactly."""
    random = np.random.RandomState(seed)
    n, k = 4 + seed % 3, 3
    taps = random.standard_normal(k)
    kernel: Any = np.stack([taps, taps])[None]
    spec = ConvSpec.of(kernel.shape, input_shape=(n,), padding_mode="zeros", padding=((1, 1),))
    a = random.standard_normal()
    channels = np.asarray([[[a, -a * (1 + 2.0**-40)]]], dtype=np.complex128)
    left, right = (Fraction(float(x)) for x in channels[0, 0].real)
    fractions = [Fraction(float(x)) for x in taps]
    outputs = [sum((t for j, t in enumerate(fractions) if 0 <= m + j - 1 < n), Fraction(0)) for m in range(n)]
    square = sum((x * x for x in outputs), Fraction(0)) * (left + right) ** 2 / (n * (left**2 + right**2))
    return Waves(kernel[None], spec, [np.ones((1, n), dtype=np.complex128)], ops=OPS), channels, square


def quotients_of_waves() -> bool:
    found = (
        (quotient_of_waves_down(x, channels, ops=OPS), square) for x, channels, square in map(cancelling, range(40))
    )
    return all(Fraction(value) ** 2 <= square for value, square in found)


def lost_terms() -> bool:
    """1 + e**2 + e**2 + ... with e**2 half a unit: a sum that meets the 1 stays as it is, beyond other roundings."""
    column = np.full((1, 2**16, 1), np.float32(2.0**-12.5))
    column[0, 0, 0] = 1
    truth = math.sqrt(1 + (2**16 - 1) * float(column[0, 1, 0]) ** 2)
    iterates = norms.GramIterates(column, xp=OPS.xp)
    iterates.square()
    return bool(truth <= float(iterates.norms_up()[0]))


def parts_by_parity() -> bool:
    """Corners of a kernel, two of whose sums are equal as rounded, so that one part of four is computed as zero."""
    kernel: Any = np.zeros((1, 1, 1, 3, 3))
    eps = 2.0**-52
    kernel[0, 0, 0, ::2, ::2] = [[1.0, 1.0], [1.0 + eps, 1.0]]
    found = padding.other_parts_up(kernel, ConvSpec.of((1, 1, 3, 3), padding_mode="symmetric"))
    return found >= 3 * eps  # three parts, each with four entries of eps / 4


_HOLDS: dict[str, Callable[[], bool]] = {
    "other_parts_up": parts_by_parity, "GramProof.norm_up_near": frobenius_with_its_trace, "matrix_norm_up": matrix,
    "gram_norm_up": gram_norm, "gram_iteration_of_parts_up": first_gram_product, "ritz_down": ritz,
    "GramIterates.square": lost_terms, "_rest_norm_up": blocks, "lag_norms": lag_norms_of_ones,
    "Polynomial.lags": lags_of_ones, "gram_error": own, "residuals_up": residuals,
    "quotient_of_waves_down": quotients_of_waves, "column_error": scalar, "scalar_error": sum_of_squares,
    "smallest_quotients": smallest_quotient, "singular_values_down": singular_value,
}  # fmt: skip
"""Function -> what holds only as it counts."""


def _found(name: str) -> Iterator[str]:
    if not _HOLDS[name]():
        yield f"a bound of {name} is below the truth"


CHECKS: dict[str, Check] = {name: functools.partial(_found, name) for name in _HOLDS}
BY_HAND = {
    "backward_error", "product_allowance", "evaluation_error", "reduced_error", "rotation_loss", "quotient_down"
}  # fmt: skip
"""Functions whose mistakes ``planted.toml`` has: roundings of norms cover usual errors of the products in some."""


def are_counted(path: Path) -> bool:
    return path.is_relative_to(CORE) and (room(path) in ROOMS or path == CORE / "proofs" / "norms.py")
