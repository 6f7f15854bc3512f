"""A layer on a subspace of its outputs, and off it: an upper bound of its norm from a few vectors.

Let the layer's matrix A be a compression of a circulant (`circulant`) with the symbol ``G = E + X Y*`` at each
frequency, ``||E|| <= t`` (`deflation`). Outputs z orthogonal to the waves of X, restricted to the layer's outputs, meet
E alone: ``||A* z|| <= t ||z||``. So let the span of Q's columns hold these waves, and ``F = A A* Q - Q D`` for any D.
If

    lam Q*Q - (A*Q)* (A*Q) - F*F / (lam - t**2) >= 0,    lam > t**2,

then ``||A||**2 <= lam``: for ``y = Q c + z`` with ``Q* z = 0``,

    ||A* y||**2 = ||A* Q c||**2 + 2 Re <F c, z> + ||A* z||**2
               <= ||A* Q c||**2 + ||F c||**2 / (lam - t**2) + lam ||z||**2  <=  lam ||Q c||**2 + lam ||z||**2.

The idea is that of Lehmann and Maehly; what they ask about the other eigenvalues is known from the circulant. Where Q
holds the top singular vector the bound is the norm itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm.certified import host, rounding
from specnorm.certified.bound import HypothesisError, Upper, _upper
from specnorm.certified.layer.deflation import limit_of_rest, rest_below
from specnorm.certified.layer.own_matrix import magnitude_sq
from specnorm.certified.matrices import norms
from specnorm.certified.symbol import trigonometric
from specnorm.problem.frequencies import cos_sin
from specnorm.problem.layer_map import sizes_of

if TYPE_CHECKING:
    from specnorm.certified.layer.circulant import Embedding
    from specnorm.certified.layer.deflation import DeflatedModes
    from specnorm.certified.symbol.cover import Cover
    from specnorm.problem.layer_map import Convolution
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import Array, ArrayOps

_TOGETHER = 8
"""Vectors that a layer is applied to at once."""


def waves_on_outputs(
    spec: ConvSpec, circulant: Embedding, highest: DeflatedModes, *, ops: ArrayOps
) -> tuple[Array, float]:
    """Real and imaginary parts of the waves of X on the small side, one of each mirrored pair.

    Returns
    -------
    waves : array, shape (1, 2 w, size of the small side)
    error : float
        Bound of the Frobenius norm of what they are off.
    """
    xp, (_, small) = ops.xp, sizes_of(spec)
    total = np.asarray(ops.to_numpy(highest.x))
    at, denominators = highest.points.numerators[highest.at], highest.points.denominators
    for axis, (n, points) in enumerate(zip(small, circulant.points, strict=True)):
        cos, sin = cos_sin(at[:, [axis]] % denominators[axis] * np.arange(n), denominators[axis])
        factor = (cos + 1j * sin) / math.sqrt(points)
        total = total[..., None] * factor.reshape(len(at), *(1,) * (total.ndim - 1), n)
    parts = np.concatenate([total.real, total.imag]).reshape(1, 2 * len(at), math.prod(total.shape[1:]))
    real = xp.real(highest.x)
    waves = xp.astype(ops.from_numpy(np.ascontiguousarray(parts, dtype=np.float64), real), real.dtype)
    u = rounding.unit(real, xp=xp)
    # An axis: phases that are off by theirs, a root, a quotient and a product; and the conversion.
    share = math.sqrt(2) * spec.ndim * (trigonometric.phase_error(u) + rounding.gamma(8, u))
    error = float(norms.frobenius_up(highest.x, xp=xp)) * rounding.SLACK * share
    return waves, host.inflate(error, 8)


@dataclass(frozen=True, eq=False)
class OffSubspace:
    """A layer off the span of some vectors: off others, even as many, it is something else."""

    spec: ConvSpec
    basis: Array

    def __str__(self) -> str:
        return f"the layer off {self.basis.shape[1]} vectors"


def norm_off_subspace(
    blocks: Array,
    spec: ConvSpec,
    circulant: Embedding,
    cover: Cover,
    highest: DeflatedModes,
    basis: Array,
    *,
    ops: ArrayOps,
) -> Upper | None:
    """A bound of the layer off a subspace of its outputs, as `complement_bound`; None where there is no proof."""
    value = complement_bound(blocks, spec, circulant, cover, highest, basis, ops=ops)
    rule = f"a circulant without {len(highest.at)} waves that lie in the subspace, or nearly"
    return _upper(value, OffSubspace(spec, basis), rule, cover.beside_open()) if value < math.inf else None


def complement_bound(
    blocks: Array,
    spec: ConvSpec,
    circulant: Embedding,
    cover: Cover,
    highest: DeflatedModes,
    basis: Array,
    *,
    ops: ArrayOps,
) -> float:
    """Bound of ``||A* z|| / ||z||`` for outputs z orthogonal to a basis; infinite where there is no proof.

    With ``L = Q C + R`` for the waves L of X on the outputs, ``||L* z|| <= ||R|| ||z||``. Whole waves of different
    frequencies are orthonormal, so those of Y have a norm of at most ``max ||Y||``.

    Parameters
    ----------
    blocks : array, shape (1, first, channels, *block_kernel_shape)
        Of one group of the layer, scaled to about 1.
    spec : ConvSpec
        Of that group, with ``input_shape``, zero padding, and no dilation.
    circulant, cover, highest
        As in `deflation.norm_by_deflation`, for the blocks.
    basis : array, shape (1, k, size of the small side)
        Q.
    """
    xp = ops.xp
    limit = limit_of_rest(spec, circulant, cover, highest)
    if not rest_below(blocks, highest, limit, ops=ops):
        return math.inf
    waves, error = waves_on_outputs(spec, circulant, highest, ops=ops)
    inner = xp.matmul(basis, xp.matrix_transpose(waves))
    rest = waves - xp.matmul(xp.matrix_transpose(inner), basis)
    away, met, q, length = (float(norms.frobenius_up(x, xp=xp)[0]) for x in (rest, inner, basis, waves))
    lost = (met * q + length) * rounding.SLACK * rounding.gamma(basis.shape[1] + 2, rounding.unit(basis, xp=xp))
    away = host.inflate(away + lost + error, 8)
    squares = np.asarray(ops.to_numpy(xp.linalg.vector_norm(highest.y, axis=-1)), dtype=np.float64) ** 2
    most = float(np.bincount(highest.at, squares, 1).max())
    # Roundings of the norms in their precision, and of the sum; a wave and its mirror image have the same products.
    slack = 1 + 2 * rounding.gamma(highest.y.shape[1] + len(squares) + 8, rounding.unit(basis, xp=xp))
    return host.add_up(limit, host.mul_up(host.sqrt_up(2 * most * slack), away))


class Compression:
    """What a layer does on a subspace of its small side.

    ``Z = A* Q`` is off by at most ``e = gamma || |A| || ||Q||_F``, with || |A| ||**2 of `magnitude_sq`, and F by
    ``f = gamma || |A| || ||Z||_F + || |A| || e + gamma ||D||_F ||Q||_F``. So a limit is lowered by
    ``gamma ||Z||_F**2 + 2 ||Z||_F e + e**2``, ``(gamma ||F||_F**2 + 2 ||F||_F f + f**2) / (lam - t**2)`` and
    ``lam gamma (||Q||_F**2 + 1)``.

    Parameters
    ----------
    layer : Convolution
        Of one kernel.
    basis : array, shape (1, k, size)
        Q, about orthonormal.
    known : Compression, optional
        Of the same layer on a subspace that the basis adds to.

    Attributes
    ----------
    basis, rest : arrays, shape (k, size)
        Q, and F for ``D = gram``.
    gram : array, shape (k, k)
        ``(A*Q)* (A*Q)``.
    """

    def __init__(self, layer: Convolution, basis: Array, known: Compression | None = None, *, ops: ArrayOps) -> None:
        if layer.kernels.shape[0] > 1:
            raise HypothesisError("a subspace is of one layer's outputs")
        xp, transposed = ops.xp, layer.spec.transposed
        there, back = (layer.apply, layer.adjoint) if transposed else (layer.adjoint, layer.apply)
        first, second = layer.roundings if transposed else layer.roundings[::-1]
        # A few vectors at a time: their patches stay in the cache.
        few = [basis[:, i : i + _TOGETHER, :] for i in range(0, basis.shape[1], _TOGETHER)]
        images = [there(x) for x in few]
        z, again = (xp.concat(x, axis=1)[0, ...] for x in (images, [back(y) for y in images]))
        q = basis[0, ...]
        if known is not None:
            q, z, again = (xp.concat([x, y]) for x, y in ((known.basis, q), (known._images, z), (known._again, again)))
        self.basis: Array = q
        self._images: Array = z
        self._again: Array = again
        self._ops, self._spec = ops, layer.spec
        self._first: Array = basis if known is None else known._first
        self.gram = xp.matmul(z, xp.matrix_transpose(z))
        self.rest = again - xp.matmul(self.gram, q)
        self._lengths, self._far = (xp.matmul(x, xp.matrix_transpose(x)) for x in (q, self.rest))
        size = host.sqrt_up(float(magnitude_sq(layer, ops=ops)[0]))
        held, met, far, d = (float(norms.frobenius_up(x, xp=xp)) for x in (q, z, self.rest, self.gram))
        u = rounding.unit(q, xp=xp)
        of_z, of_again, of_product = (rounding.SLACK * rounding.gamma(n + 4, u) for n in (first, second, q.shape[0]))
        # What the images, and F, are off at most.
        off = of_z * size * held
        off_rest = of_again * size * met + size * off + of_product * d * held
        self._of_gram = self._share(z) * met**2 + 2 * met * off + off**2
        self._of_lengths = self._share(q) * (held**2 + 1)
        self._of_rest = self._share(q) * far**2 + 2 * far * off_rest + off_rest**2

    def _share(self, x: Array) -> float:
        """Of the products of some vectors, with the roundings of the sum that they are in."""
        return rounding.SLACK * rounding.gamma(x.shape[1] + 16, rounding.unit(x, xp=self._ops.xp))

    def pencil(self, gap: float, lam: float) -> Array:
        """``gram + F*F / gap + lam (1 - Q*Q)``, which is to have no eigenvalue above lam, shape (k, k)."""
        xp = self._ops.xp
        eye = xp.eye(self.gram.shape[0], dtype=self.gram.dtype, device=self._ops.device(self.gram))
        return self.gram + self._far / gap + lam * (eye - self._lengths)

    def norm(self, off: Upper, bound: float) -> Upper | None:
        """A bound of the layer's norm, if it is proven (`norm_below`); else None.

        Parameters
        ----------
        off : Upper
            Of the layer off this basis, or off the part of it that was known first.
        """
        what = off.what
        if not isinstance(what, OffSubspace) or what.basis is not self._first or what.spec != self._spec:
            raise HypothesisError(f"{off.what} is not off this subspace")
        if not self.norm_below(off.value, bound):
            return None
        return _upper(bound, self._spec, f"Lehmann-Maehly with {self.basis.shape[0]} vectors", off)

    def norm_below(self, off: float, bound: float) -> bool:
        """Whether a bound of the layer's norm is proven, with `complement_bound` of the basis or of a part of it."""
        lam = host.mul_down(bound, bound)
        gap = host.sub_down(lam, host.mul_up(off, off)) if off < bound else 0.0
        if not gap > 0:
            return False
        lost = host.inflate(self._of_gram + self._of_rest / gap + lam * self._of_lengths, 64)
        limit = host.sub_down(lam, lost)
        like = self._ops.xp.full_like(self.gram[0, 0], limit)
        limits = rounding.down(like, 2, xp=self._ops.xp)
        return limit > 0 and bool(norms.gram_below(self.pencil(gap, lam), limits, ops=self._ops))
