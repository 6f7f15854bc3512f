"""The linear minimisation oracle of a layer's norm: the kernel that a gradient points to, among those within a bound.

A matrix's polar factor has the largest inner product with it among all matrices of norm at most 1. There are three
candidates for each group of a layer, and the one with the largest inner product with the gradient is taken:

1. The polar factor of the gradient reshaped to a matrix, output channels by everything else. A layer's norm is at most
   ``f`` times that of its reshaped kernel, ``f**2`` the number of taps of its blocks
   (`unfoldings.proof.supremum_up_from_unfolding`). For a gradient that is smooth over the taps this is nearly attained.
2. The polar factor of the largest tap, alone.
3. If each axis has one tap or three: polar factors of the symbol at the frequencies 0 and pi of each axis, joined by
   Fejér's window (`proofs.directions.Window`). For random gradients of 3x3 taps, <gradient, D> is 1.28 times
   that of the better of the others, for gradients whose channels decay 1.4 times.

Training moves a kernel to a mean value of candidates. With the first kind alone, reshaped norms would be at most
``1 / f``, so that no kernel came near the identity: accuracy on digits falls from 0.98 to 0.97 with 3 convolutions, and
from 0.98 to 0.88 with 10 (seed 0, rate 0.2; measured before the third kind).

The norm of a candidate can be below the bound. For gradients that are equal at all taps, it is 0.994 to 0.997 of the
bound; for random gradients 0.39 (3x3x3 taps), 0.75 (16x8x3x3), 0.64 (64x64x3x3) and 0.77 (transposed, stride 2), also
before the third kind.

References
----------
.. [1] Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024 (the polar factor of a reshaped
   gradient as a step).
.. [2] Pethick et al., "Training Deep Learning Models with Norm-Constrained LMOs", ICML 2025, arXiv:2502.07529
   (matrices; for a convolution they divide the polar factor by the number of taps, not by its root).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack, cast

from specnorm.backends import arrays, backend_for
from specnorm.backends.types import ArrayOps, ArrayT
from specnorm.ball.proofs import directions as proof
from specnorm.geometry import polyphase
from specnorm.geometry.layers import KernelOrLayer, takes_layers
from specnorm.geometry.spec import ConvSpec, Geometry
from specnorm.proofs import arithmetic
from specnorm.running import checks
from specnorm.running.base import Evaluation, Needs, Plan
from specnorm.running.program import Program, program_for

if TYPE_CHECKING:
    from specnorm.backends import Backend
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import AnyArray

_POLYNOMIALS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
)
"""Coefficients a, b, c of odd polynomials ``a x + b x**3 + c x**5``. One after the other, they send singular values
from 1e-3 to 1 near to 1: Amsel, Persson, Musco, Gower, "The Polar Express", arXiv:2505.16932, 2025, algorithm 1."""
_SAFETY = 1.01
"""Singular values are divided by this before each polynomial, against rounding (there, section 3.4)."""
_NO_DERIVATIVE = (
    "a derivative through lmo was asked for, which has none here: it gives a direction for an optimizer. Call it on a "
    "detached gradient."
)


@takes_layers
def lmo(gradient: KernelOrLayer[ArrayT], *, bound: float = 1.0, **geometry: Unpack[Geometry]) -> ArrayT:
    """Return a kernel D with a large ``<gradient, D>``, whose spectral norm is proven to be at most ``bound``.

    It approximates the linear minimization oracle of Frank and Wolfe for the ball of all kernels with norm at most
    ``bound``: if K is in the ball and ``0 <= a <= 1``, then ``(1 - a) K - a D`` is in the ball. It is also Muon's step
    for a convolution, measured by the convolution's own norm. For matrices, ``<gradient, D>`` was within 6 % of the
    maximum. For 3x3 taps and 64 channels, it is 0.75 times an upper bound on the maximum if one tap dominates, and 0.49
    times this bound for random entries.

    Parameters
    ----------
    gradient : array, shape (cout, cin // groups, *kernel_shape)
        A gradient, or a mean of gradients (momentum). Only its direction matters.
    bound : float, default 1
        Positive.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`. With circular padding and a stride, the bound holds at every size that the
        stride divides.

    Returns
    -------
    array of the gradient's library, shape, dtype and layout
        D, rounded to its dtype; for float16 and bfloat16, it is computed in float32. The proof needs only matrix
        products, so it also holds under jit, compile and vmap. D is zero for a zero gradient. Under a tracer, D is NaN
        if the gradient contains NaN or infinity.

    Raises
    ------
    KernelError
        If the gradient contains NaN or infinity, or ``bound`` cannot be represented in its dtype.
    GeometryError, BackendError

    Examples
    --------
    >>> import numpy, specnorm
    >>> gradient = numpy.random.default_rng(0).normal(size=(16, 8, 3, 3))
    >>> direction = specnorm.lmo(gradient, bound=2.0)
    >>> specnorm.certify(direction, 2.0)
    True
    """
    given: Any = gradient
    backend = backend_for(given)
    program = program_of(given, bound, geometry)
    if not backend.is_traced(given):
        checks.finite(given, tuple(given.shape), what="gradient", backend=backend)
    direction = backend.apply(program, backend.detach(given)).value
    result: ArrayT = backend.without_derivative(direction, given, _NO_DERIVATIVE)
    return result


def program_of(gradient: AnyArray, bound: float, geometry: Mapping[str, Any]) -> Program:
    """Return the program that computes directions (*batch, *shape) for gradients like this one."""
    method = Direction(bound)
    return program_for(method, tuple(gradient.shape), str(gradient.dtype), tuple(geometry.items()), DirectionProgram)


@dataclass(frozen=True)
class Direction(Plan):
    """The method behind `lmo`, which `DirectionProgram` runs; its value is no norm, but a kernel.

    Parameters
    ----------
    bound : float
    """

    bound: float = 1.0

    name: ClassVar = "lmo"
    asks: ClassVar = Needs(blocks=False)

    def __post_init__(self) -> None:
        checks.number("bound", self.bound)

    def check(self, spec: ConvSpec) -> None:
        """Refuse no geometry: padding is counted in the limit."""


class DirectionProgram(Program):
    """`Direction` for gradients of one shape, dtype and geometry.

    Raises
    ------
    KernelError
        If the bound is no positive number that the dtype can hold.
    """

    differentiable: ClassVar = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.limit

    @property
    def limit(self) -> proof.Limit:
        """The limit for the norm of the symbols of a direction."""
        return proof.Limit.of(float(cast(Direction, self.plan).bound), self.spec, self.dtype)

    def forward(self, kernels: AnyArray, *, backend: Backend, differentiated: bool = True) -> Evaluation:
        """Directions for gradients (*batch, *shape), in their dtype."""
        ops = self.execution(kernels, backend=backend)
        if not ops.traced and (ops.in_numpy or not backend.arithmetic_known):
            host = backend.host()
            gradients: Any = backend.to_numpy(kernels).astype(self.result_dtype)
            with arithmetic.exact(gradients, backend=host):
                wide: Any = self._directions(gradients, ops=ArrayOps.of(host, gradients))
            value = backend.from_numpy(wide, kernels)
        else:
            with arithmetic.exact(kernels, backend=backend):
                value = self._directions(ops.xp.astype(kernels, getattr(ops.xp, ops.dtype), copy=False), ops=ops)
        return Evaluation(ops.xp.astype(value, kernels.dtype, copy=False), (), ())

    def _directions(self, gradients: Array, *, ops: ArrayOps) -> Array:
        """Directions for gradients (*batch, *shape), in the dtype of the computation."""
        xp = ops.xp
        spec = self.spec
        in_order = polyphase.torch_order(xp.reshape(gradients, (-1, *self.shape)), spec, xp=xp)
        shape = (in_order.shape[0] * spec.groups, *spec.group_channels, *spec.kernel_shape)
        rounded = _rounded(xp.reshape(in_order, (*shape[:2], -1)), xp=xp)
        if math.prod(spec.block_kernel_shape) == 1:
            (factor,) = _polar_factors([rounded], ops=ops)
            (within,) = proof.scaled_within(xp.reshape(factor, shape), None, self.limit, spec, ops=ops)
        else:
            within = self._best_candidates(rounded, shape, ops=ops)
        ordered = polyphase.caller_order(xp.reshape(within, in_order.shape), spec, xp=xp)
        return xp.reshape(ordered, gradients.shape)

    def _best_candidates(self, matrices: Array, shape: tuple[int, ...], *, ops: ArrayOps) -> Array:
        """For each gradient the candidate that has the largest inner product with it; candidate 1 if there is NaN.

        Parameters
        ----------
        matrices : array, shape (b, m, p * taps)
            Gradients of the groups, reshaped.
        shape : tuple of int
            ``(b, m, p, *kernel_shape)``.

        Returns
        -------
        array, shape (b, m, p, taps)
        """
        xp = ops.xp
        b, m, p, *kernel_shape = shape
        by_tap = xp.reshape(matrices, (b, m, p, math.prod(kernel_shape)))
        largest = xp.argmax(xp.sum(by_tap * by_tap, axis=(1, 2)), axis=1)
        is_largest = arrays.one_hot(xp.ones_like(matrices[:, 0, 0]), largest, by_tap.shape[3], xp=xp)
        tap = xp.reshape(xp.matmul(xp.reshape(by_tap, (b, m * p, -1)), is_largest[:, :, None]), (b, m, p))
        window = proof.Window.of(tuple(kernel_shape))
        symbols = [] if window is None else [window.symbols(by_tap, ops=ops)]
        kernels, taps, *factors = _polar_factors([matrices, tap, *symbols], ops=ops)
        within, other, *joined = proof.scaled_within(
            xp.reshape(kernels, shape), taps, self.limit, self.spec, factors=factors, window=window, ops=ops
        )
        best = xp.reshape(within, by_tap.shape)
        value = _inner_products(by_tap, best, xp=xp)
        for candidate in (other[..., None] * is_largest[:, None, None, :], *joined):
            value_of_candidate = _inner_products(by_tap, candidate, xp=xp)
            best = xp.where((value_of_candidate > value)[..., None], candidate, best)
            value = xp.where(value_of_candidate > value, value_of_candidate, value)
        return best


def _inner_products(x: Array, y: Array, *, xp: Namespace) -> Array:
    """Inner products of the members of two stacks (b, ...), shape (b, 1, 1)."""
    return xp.matmul(xp.reshape(x, (x.shape[0], 1, -1)), xp.reshape(y, (x.shape[0], -1, 1)))


def _rounded(matrices: Array, *, xp: Namespace) -> Array:
    """Matrices (b, m, n), scaled by powers of two to a largest entry of about 1, without entries below its rounding.

    Without the scale, products of small gradients would be subnormal numbers, with which processors take ten times as
    long; and so they would be with entries of very different sizes.
    """
    scaled, _ = arrays.scale(matrices, xp=xp)
    # Written so that NaN stays.
    is_negligible = xp.abs(scaled) < float(xp.finfo(scaled.dtype).eps)
    return xp.where(is_negligible, xp.zeros_like(scaled), scaled)


def _polar_factors(parts: Sequence[Array], *, ops: ArrayOps) -> list[Array]:
    """Approximate polar factors of stacks of matrices (b, m, n) with entries of about 1; zero for a zero matrix.

    Any result is safe, since `proofs.directions.scaled_within` bounds its norm; singular values far above 1 (from 1.18
    in float32) would overflow there. The stacks may differ in b and n. The iteration is of Gram matrices: with
    ``A = X X^T`` the next X is ``(a I + b A + c A^2) X``, so only two products have the length of X.
    """
    xp = ops.xp
    _, m, n = parts[0].shape
    if m > n:
        return [xp.matrix_transpose(_polar_factors([xp.matrix_transpose(x)], ops=ops)[0]) for x in parts]
    gram = xp.concat([xp.matmul(x, xp.matrix_transpose(x)) for x in parts], axis=0)
    # Both are upper bounds of the squared norm.
    row_sums = xp.max(xp.sum(xp.abs(gram), axis=-1), axis=-1)
    size_sq = xp.minimum(xp.linalg.trace(gram), row_sums)[:, None, None]
    size_sq = xp.where(size_sq == 0, xp.ones_like(size_sq), size_sq)
    product = _product(gram / size_sq, ops=ops) / xp.sqrt(size_sq)
    ends = list(itertools.accumulate(x.shape[0] for x in parts))
    return [xp.matmul(product[end - x.shape[0] : end, ...], x) for x, end in zip(parts, ends, strict=True)]


def _product(gram: Array, *, ops: ArrayOps) -> Array:
    """The matrices P, polynomials of A = X X^T, for which ``P X`` is X after all odd polynomials."""
    xp = ops.xp
    eye = xp.eye(gram.shape[-1], dtype=gram.dtype, device=ops.device(gram))
    product = eye
    for number, (a, b, c) in enumerate(_POLYNOMIALS):
        factor = (a / _SAFETY) * eye + (b / _SAFETY**3) * gram + (c / _SAFETY**5) * xp.matmul(gram, gram)
        product = xp.matmul(factor, product) if number else factor
        if number + 1 < len(_POLYNOMIALS):
            gram = xp.matmul(xp.matmul(factor, gram), factor)
    return product
