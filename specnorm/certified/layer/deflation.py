"""A circulant without its highest waves, and those by themselves: an upper bound of a zero-padded layer.

Let the symbol be ``G(theta) = E(theta) + X(theta) Y(theta)*`` at every frequency of a circulant that the layer is a
compression of (`circulant`), with ``||E(theta)|| <= t``. Restricted to the layer's pixels and outputs, the circulant of
E has a norm of at most t, and the rest is ``L R*``, where the columns of L and R are the waves of X and Y on the
outputs and on the pixels. So

    ||A||  <=  t + ||L R*||  <=  t + lambda_max(L*L + R*R) / 2,

since ``2 |<L* u, R* v>| <= ||L* u||**2 + ||R* v||**2``: a matrix of as many rows as there are waves above t. Inner
products of restricted waves are those of their channels, times a sum over the outputs, or the pixels, of each axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified import host, rounding
from specnorm.certified.bound import HypothesisError, Upper, _upper
from specnorm.certified.layer.circulant import is_long_enough
from specnorm.certified.matrices import norms
from specnorm.certified.symbol import symbols
from specnorm.certified.symbol.cells import Circulant
from specnorm.certified.symbol.symbols import Symbol
from specnorm.problem.frequencies import Frequencies, cos_sin
from specnorm.problem.taps import sizes_of

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.certified.layer.circulant import Embedding
    from specnorm.certified.symbol.cover import Cover
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import ArrayOps

_MORE = 2.0**-16
"""Part of t by which E may be larger where waves are taken out: an eigenvalue routine in float32 finds them."""


@dataclass(frozen=True, eq=False)
class DeflatedModes:
    """What is taken out of a circulant's symbols.

    Parameters
    ----------
    points : Frequencies
        Frequencies of the circulant, none the mirror image of another: those belong to them.
    at : integer array, shape (w,)
        Which point each wave is at.
    x, y : complex arrays, shapes (w, first) and (w, second)
        Columns of X and Y.
    """

    points: Frequencies
    at: np.ndarray
    x: Array
    y: Array

    def __post_init__(self) -> None:
        if len(first_of_mirrored(self.points)) < len(self.points):
            raise HypothesisError("a frequency and its mirror image are one point: what is taken out counts twice")


def first_of_mirrored(points: Frequencies) -> Frequencies:
    """One of each frequency and its mirror image."""
    denominators = np.asarray(points.denominators)
    at = points.numerators % denominators
    weights = np.asarray([math.prod(points.denominators[j + 1 :]) for j in range(at.shape[1])], dtype=np.int64)
    key = np.minimum(at @ weights, ((-at) % denominators) @ weights)
    return points[np.sort(np.unique(key, return_index=True)[1])]


def norm_by_deflation(
    kernel: Array,
    spec: ConvSpec,
    circulant: Embedding,
    cover: Cover,
    highest: DeflatedModes,
    bound: float,
    *,
    ops: ArrayOps,
) -> Upper | None:
    """A bound of the layer's norm, if it is proven; else None.

    Parameters
    ----------
    kernel : array, shape (1, first, second, *kernel_shape)
        Of one group, in torch's order, scaled to about 1.
    spec : ConvSpec
        Of that group, with ``input_shape``, zero padding, and neither stride nor dilation.
    circulant : Embedding
        No shorter than `circulant.shortest`.
    cover : Cover
        Of the symbol's frequencies on that circulant; what is still open are single points.
    highest : DeflatedModes
        At those.
    """
    if max((*spec.stride, *spec.dilation), default=1) > 1:
        raise HypothesisError("overlaps of waves are known of layers without stride and dilation")
    limit = limit_of_rest(spec, circulant, cover, highest)
    waves = WaveGram(spec, circulant, highest, ops=ops)
    rest = host.sub_down(bound, limit)
    if not (rest > 0 and waves.norm_below(rest, ops=ops) and rest_below(kernel, highest, limit, ops=ops)):
        return None
    return _upper(bound, spec, f"a circulant without {len(highest.at)} waves, and those", cover.beside_open())


def limit_of_rest(spec: ConvSpec, circulant: Embedding, cover: Cover, highest: DeflatedModes) -> float:
    """t: what the circulant's symbols are below where nothing is taken out, and are to be proven below where it is.

    Raises
    ------
    HypothesisError
        If the circulant is too short for the layer, or other frequencies are open than those where waves are taken out.
    """
    # The waves have as many points along an axis with one tap as along others.
    whole = Circulant.of(circulant.points, circulant.skew, spec.block_kernel_shape)
    one = spec.groups == 1
    if not (one and is_long_enough(spec, Circulant(circulant.points, circulant.skew)) and cover.what == whole):
        raise HypothesisError(f"the layer is no compression of the {whole}, of the {cover.what} as it is")
    if cover.open.boxes.divisible.any() or not first_of_mirrored(cover.open.boxes.centres).same_as(highest.points):
        raise HypothesisError("what is taken out is not at the frequencies that the cover leaves open")
    return host.inflate(cover.beside_open().value * (1 + _MORE), 2)


def rest_below(kernel: Array, highest: DeflatedModes, limit: float, *, ops: ArrayOps) -> bool:
    """Whether ``||G - X Y*|| <= limit`` is proven at every point, and so at its mirror image.

    Taken off the limit: the symbol's error, and `product_error` of the product and the difference times
    ``||X||_F ||Y||_F + ||G||_F``; off its square: that of the Gram matrix.

    Parameters
    ----------
    kernel : array, shape (1, first, second, *kernel_shape)
        Scaled to about 1.
    """
    xp = ops.xp
    g = Symbol(kernel, highest.points, ops=ops).matrices()[0, ...]
    error = float(symbols.symbol_error(kernel, xp=xp)[0])
    count = len(highest.points)
    most = int(np.bincount(highest.at, minlength=count).max(initial=0))
    if most:
        # One slot a wave, point by point; empty ones hold zeros.
        slots = np.full((count, most), len(highest.at))
        rank = _ranks(highest.at)
        slots[highest.at, rank] = np.arange(len(highest.at))
        x, y = (_with_zero(z, slots, ops=ops) for z in (highest.x, highest.y))
        rest = g - xp.matmul(xp.matrix_transpose(x), xp.conj(y))
        mass = norms.frobenius_up(x, xp=xp) * norms.frobenius_up(y, xp=xp) + norms.frobenius_up(g, xp=xp)
    else:
        rest, mass = g, norms.frobenius_up(g, xp=xp)
    # The product, the difference, and the mass' own roundings.
    lost = rounding.up(mass, 4, xp=xp) * (rounding.SLACK * rounding.product_error(most + 2, g, xp=xp)) + error
    length = max(rest.shape[-2:])
    gram = arrays.gram_smaller(rest, xp=xp)
    squares = rounding.up(norms.frobenius_up(rest, xp=xp) ** 2, 4, xp=xp)
    of_gram = squares * (rounding.SLACK * rounding.product_error(length, rest, xp=xp))
    inner = rounding.down(xp.full_like(lost, limit), 2, xp=xp) - rounding.up(lost, 2, xp=xp)
    square = rounding.down(xp.maximum(inner, xp.zeros_like(inner)) ** 2, 2, xp=xp) - rounding.up(of_gram, 2, xp=xp)
    square = rounding.down(xp.maximum(square, xp.zeros_like(square)), 2, xp=xp)
    return bool(xp.all(norms.gram_below(gram, square, ops=ops)))


def _ranks(at: np.ndarray) -> np.ndarray:
    """How many entries before it equal each one."""
    order = np.argsort(at, kind="stable")
    counts = np.bincount(at)
    ranks = np.empty(len(at), dtype=np.int64)
    ranks[order] = np.arange(len(at)) - (np.cumsum(counts) - counts)[at[order]]
    return ranks


def _with_zero(z: Array, slots: np.ndarray, *, ops: ArrayOps) -> Array:
    """Rows of z by slots (f, r), those beyond its last row zero."""
    xp = ops.xp
    filled = xp.concat([z, xp.zeros_like(z[:1, :])], axis=0)
    return xp.reshape(arrays.rows(filled, slots.reshape(-1), ops=ops), (*slots.shape, z.shape[1]))


class WaveGram:
    """``(L*L + R*R) / 2`` of the waves that are taken out, those at mirror images included.

    An entry of L*L is an inner product of channels times a sum over the outputs of each axis: the matrix is off by at
    most ``||X||_F**2 / 2``, and ``||Y||_F**2 / 2`` for R*R, times the sum of `product_error` of the inner product and
    ``sqrt(2) (phase error + gamma(n + 8))`` an axis.

    Parameters
    ----------
    spec : ConvSpec
        Of one group, with ``input_shape``, zero padding, and neither stride nor dilation.
    circulant : Embedding
        That the layer is a compression of.

    Attributes
    ----------
    numerators : integer array, shape (w, d)
        Frequencies of the waves.
    y : array, shape (w, second)
    matrix : array, shape (w, w)
        As computed.
    error : float
        Bound of the norm of what it is off.
    """

    def __init__(self, spec: ConvSpec, circulant: Embedding, highest: DeflatedModes, *, ops: ArrayOps) -> None:
        xp = ops.xp
        large, small = sizes_of(spec)
        denominators = np.asarray(highest.points.denominators)
        at = highest.points.numerators[highest.at] % denominators
        mirrored = (-at) % denominators
        other = np.flatnonzero((mirrored != at).any(axis=1))
        x, y = (xp.concat([z, xp.conj(arrays.rows(z, other, ops=ops))], axis=0) for z in (highest.x, highest.y))
        self.numerators, self.y = np.concatenate([at, mirrored[other]]), y
        total = xp.zeros((len(self.numerators),) * 2, dtype=x.dtype, device=ops.device(x))
        error, u = 0.0, rounding.unit(x, xp=xp)
        befores = [before for before, _ in spec.padding]
        for z, sizes, shifts in ((x, small, befores), (y, large, [0] * spec.ndim)):
            held = xp.matmul(xp.conj(z), xp.matrix_transpose(z))
            for axis, (n, shift) in enumerate(zip(sizes, shifts, strict=True)):
                held = held * _overlaps(self.numerators[:, axis], circulant, axis, n, shift, held, ops=ops)
            total = total + held / 2
            mass = float(rounding.up(norms.frobenius_up(z, xp=xp) ** 2, 2, xp=xp))
            # Each overlap: phases that are off by theirs, a sum of n terms and a quotient; then their products.
            each = sum(math.sqrt(2) * (symbols.phase_error(u) + rounding.gamma(n + 8, u)) for n in sizes)
            share = rounding.product_error(z.shape[1] + 4, z, xp=xp) + each
            error += mass * rounding.SLACK**2 * share
        self.matrix, self.error = total, error

    def norm_below(self, limit: float, *, ops: ArrayOps) -> bool:
        """Whether ``||L R*|| <= limit`` is proven."""
        xp = ops.xp
        if not len(self.numerators):
            return limit >= 0
        real = xp.real(self.matrix[0, 0])
        inner = rounding.down(xp.full_like(real, limit), 2, xp=xp) - host.inflate(self.error, 16)
        return bool(inner > 0) and bool(norms.gram_below(self.matrix, rounding.down(inner, 2, xp=xp), ops=ops))


def _overlaps(
    numerators: np.ndarray, circulant: Embedding, axis: int, n: int, shift: int, like: Array, *, ops: ArrayOps
) -> Array:
    """``sum_x e^{i delta (x - shift)} / N`` over n positions, delta of each pair of frequencies, shape (w, w)."""
    points, step = circulant.points[axis], 1 + circulant.skew[axis]
    cos, sin = cos_sin(np.outer(np.arange(points), np.arange(n) - shift), points)
    real, imag = cos.sum(axis=1) / points, sin.sum(axis=1) / points
    # Numerators of a skew axis are odd, of turns of 2 N: differences are whole steps.
    apart = ((numerators[None, :] - numerators[:, None]) // step) % points
    return ops.complex(*(ops.from_numpy(x[apart].astype(np.float64), like) for x in (real, imag)))
