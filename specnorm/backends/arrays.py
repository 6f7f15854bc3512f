"""Helpers written on the array API standard: scaling, dtypes, unit vectors, random vectors, small products, loops."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps, Backend

Integers = TypeVar("Integers", int, np.ndarray)
TINY = 1e-30
"""Added to norms and to other divisors before they are inverted, so that 0 / 0 is 0. It changes none above 1e-14, and
has an inverse in float32."""
_CACHED_NUMBERS = 2**15
"""Largest number of entries of vectors that `real_vectors` caches."""


def ceil_div(numerator: Integers, denominator: Integers) -> Integers:
    """The quotient of integers, rounded up."""
    quotient: Integers = -(-numerator // denominator)
    return quotient


def scale(blocks: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """Scale each block by a power of two, exactly, so that its largest entry is about 1.

    ``blocks`` (b, ...): finite reals. Returns ``scaled`` (b, ...); ``exponent`` (b,): integers as floats, with ``blocks
    = scaled * 2**exponent``; 0 for a zero block.
    """
    exponent = exponents(blocks, xp=xp)
    return unscale_blocks(blocks, -exponent, xp=xp), exponent


def exponents(blocks: Array, *, xp: Namespace) -> Array:
    """Exponent of about the largest entry of each block (b, ...), as floats, shape (b,); 0 for a zero block."""
    axes = tuple(range(1, blocks.ndim))
    largest = xp.maximum(xp.max(blocks, axis=axes), -xp.min(blocks, axis=axes))
    # At exact powers of two, JAX's floor(log2) can be off by one. That does no harm: any nearby exponent will do.
    exponent = xp.floor(xp.log2(xp.where(largest > 0, largest, 1.0)))
    # If a library replaces subnormal numbers by zero, their logarithm is infinite.
    info = xp.finfo(blocks.dtype)
    smallest_exponent = math.log2(float(info.smallest_normal)) + math.log2(float(info.eps))
    # `maximum` would copy the number to a device, for which nothing can be recorded as a CUDA graph.
    return xp.where(exponent > smallest_exponent, exponent, smallest_exponent)


def unscale_blocks(blocks: Array, exponents: Array, *, xp: Namespace) -> Array:
    """`unscale` of blocks (b, ...), each by its own exponent, shape (b,)."""
    return unscale(blocks, xp.reshape(exponents, (-1,) + (1,) * (blocks.ndim - 1)), xp=xp)


def unscale(value: Array, exponent: Array, *, xp: Namespace) -> Array:
    """Multiply by ``2**exponent``, with one new array; by two factors, so that neither overflows alone."""
    half = xp.floor(exponent / 2)
    factor = power_of_two(half, xp=xp)
    product = value * factor
    # For an odd exponent the second factor is twice the first one.
    product *= factor * (exponent - 2 * half + 1)
    return product


def power_of_two(exponent: Array, *, xp: Namespace) -> Array:
    """``2**exponent``, exactly for integers (as floats) whose power is a normal number; JAX's ``exp2`` is not exact."""
    return xp.pow(xp.full_like(exponent, 2.0), exponent)


def complex_dtype(real: Any, *, xp: Namespace) -> Any:
    """The complex dtype with the precision of a real one."""
    return xp.complex128 if real == xp.float64 else xp.complex64


def real_dtype(x: Array, *, xp: Namespace) -> Any:
    """The real dtype with the precision of an array, real or complex."""
    return xp.float64 if x.dtype in (xp.float64, xp.complex128) else xp.float32


def precision(*dtypes: Any, xp: Namespace) -> tuple[float, float]:
    """Machine epsilon and smallest normal number of the least precise of several dtypes."""
    precisions = []
    for dtype in dtypes:
        # NumPy's `finfo` does not support the bfloat16 of ml_dtypes, which has float32's exponents with fewer digits.
        is_bfloat16 = str(dtype) == "bfloat16"
        info = xp.finfo(xp.float32 if is_bfloat16 else dtype)
        eps = 2.0**-7 if is_bfloat16 else float(info.eps)
        precisions.append((eps, float(info.smallest_normal)))
    return max(precisions)


def is_complex(x: Array, *, xp: Namespace) -> bool:
    """Whether an array has a complex dtype."""
    return x.dtype in (xp.complex128, xp.complex64)


def in_wide_dtype(x: Array, *, ops: ArrayOps) -> Array:
    """Convert a real array to the widest dtype of its device."""
    xp = ops.xp
    return xp.astype(x, getattr(xp, ops.wide_dtype), copy=False)


def device_table(table: np.ndarray, like: Array, *, ops: ArrayOps) -> Array:
    """A real table in the precision and on the device of an array."""
    dtype = np.float64 if like.dtype == ops.xp.float64 else np.float32
    return ops.from_numpy(np.ascontiguousarray(table, dtype=dtype), like)


def rows(x: Array, index: np.ndarray, *, ops: ArrayOps) -> Array:
    """The rows of an array (first axis) with the given indices, a NumPy array."""
    xp = ops.xp
    return xp.take(x, ops.from_numpy(index.astype(np.int64), x), axis=0)


def adjoint(a: Array, *, xp: Namespace) -> Array:
    """Conjugate transposes of a stack of matrices; real ones are not conjugated, which would copy them."""
    transposed = xp.matrix_transpose(a)
    return xp.conj(transposed) if is_complex(a, xp=xp) else transposed


def normalise(x: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """Divide vectors on the last axis by their 2-norm; a zero vector stays zero.

    Returns ``unit_vectors``; ``norm``: with the last axis kept, of length 1.
    """
    norm = xp.linalg.vector_norm(x, axis=-1, keepdims=True)
    divisor = xp.where(norm > 0, norm, 1.0)
    return x / xp.astype(divisor, x.dtype), norm


def unit(x: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """Divide vectors on the last axis by their 2-norm; also return the norms, without that axis.

    A zero vector stays zero. Faster than `normalise`, but squares of entries must neither overflow nor underflow.
    """
    norm = xp.sqrt(xp.real(xp.vecdot(x, x)))
    return x * xp.astype(inverse(norm, xp=xp), x.dtype)[..., None], norm


def lengths(x: Array, *, axis: int | tuple[int, int] = -1, ops: ArrayOps) -> Array:
    """2-norms of real vectors (axis -1 or -2) or matrices, with their axes kept.

    Squares of entries must neither overflow nor underflow.
    """
    xp = ops.xp
    if ops.asynchronous:
        return xp.linalg.vector_norm(x, axis=axis, keepdims=True)
    # A fifth of the time of `vector_norm` in NumPy.
    if isinstance(axis, tuple):
        return xp.sqrt(xp.sum(x * x, axis=axis, keepdims=True))
    norms = xp.sqrt(xp.vecdot(x, x, axis=axis))
    return norms[..., None] if axis == -1 else norms[..., None, :]


def largest(x: Array, *, axis: int | tuple[int, int], ops: ArrayOps) -> Array:
    """Largest absolute entries, with the axes kept."""
    xp = ops.xp
    if ops.asynchronous:
        return xp.linalg.vector_norm(x, axis=axis, keepdims=True, ord=math.inf)
    return xp.max(xp.abs(x), axis=axis, keepdims=True)


def inverse(norm: Array, *, xp: Namespace) -> Array:
    """The inverse of norms; finite for 0. For devices, a quotient by them is two operations."""
    return xp.reciprocal(norm + TINY)


def normalise_or_keep(x: Array, old: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """`normalise` the last axis, but return the old unit vector where x is zero, infinite or NaN."""
    unit_vectors, norm = normalise(x, xp=xp)
    return xp.where((norm > 0) & xp.isfinite(norm), unit_vectors, old), norm


def real_pair(z: Array, *, xp: Namespace) -> Array:
    """Complex numbers as real ones with a last axis (real, imaginary): files, casts and collectives keep these."""
    return xp.stack([xp.real(z), xp.imag(z)], axis=-1)


def real_times(a: Array, z: Array, *, ops: ArrayOps) -> Array:
    """Real matrices times complex ones, as one real product: half the work of a complex product."""
    return ops.complex_columns(ops.xp.matmul(a, ops.real_columns(z)))


def pick(x: Array, index: Array, *, xp: Namespace) -> Array:
    """``x[i, index[i], ...]`` for each i, shape (n, ...), from x (n, g, ...) and integers (n,)."""
    if x.shape[1] == 1:
        return x[:, 0, ...]
    if x.shape[0] == 1:
        return xp.take(x, index, axis=1)[:, 0, ...]
    index = xp.reshape(index, (-1,) + (1,) * (x.ndim - 1))
    return xp.take_along_axis(x, xp.broadcast_to(index, (x.shape[0], 1, *x.shape[2:])), axis=1)[:, 0, ...]


def by_layers(blocks: Array, groups: int) -> list[Array]:
    """Split blocks (layers * groups, ...) into one array (groups, ...) for each layer."""
    return [blocks[first : first + groups, ...] for first in range(0, blocks.shape[0], groups)]


def one_hot(x: Array, index: Array, count: int, *, xp: Namespace) -> Array:
    """Adjoint of `pick`, and of a maximum: an array that is x at the index along a new axis, and zero elsewhere.

    Shapes: ``x`` (n, ...), ``index`` (n,) or that of x. ``count``: length of the new axis. Returns (n, count, ...).
    """
    if count == 1:
        return x[:, None, ...]
    index = xp.reshape(index, (*index.shape, *(1,) * (x.ndim - index.ndim)))
    # The numbers 0, 1, ..., made from the index, which has the right device and may be a tracer.
    ones = xp.ones_like(xp.broadcast_to(index[:1, ...], (count, *index.shape[1:])))
    numbers = xp.astype(xp.cumulative_sum(ones, axis=0) - 1, index.dtype)
    is_chosen = index[:, None, ...] == numbers[None, ...]
    return xp.where(is_chosen, x[:, None, ...], xp.zeros_like(x[:, None, ...]))


def fourier_sums(parts: Array, tables: Sequence[tuple[Array, Array]], *, xp: Namespace) -> Array:
    """``sum_k x_k e^{i k.theta}`` on the product of frequencies along each axis, one product of matrices an axis.

    With C and S the table of an axis, k entries at n frequencies, real and imaginary parts stand above one another, and
    are multiplied by ``[[C, -S], [S, C]]``. The last axis is summed first.

    ``parts`` (r, 1 or 2, *sizes): real parts of x, or real and imaginary parts. ``tables``: for each axis two arrays
    (n, k). Returns (r, 2, points).
    """
    r, count, *sizes = parts.shape
    for axis in reversed(range(len(sizes))):
        cos, sin = tables[axis]
        if count == 1:
            table = xp.concat([cos, sin], axis=0)
        else:
            table = xp.concat([xp.concat([cos, -sin], axis=1), xp.concat([sin, cos], axis=1)], axis=0)
        before = math.prod(sizes[:axis])
        columns = count * sizes[axis]
        rows = xp.permute_dims(xp.reshape(parts, (r, count, before, sizes[axis], -1)), (0, 2, 1, 3, 4))
        if rows.shape[4] == 1:
            products = xp.matmul(xp.reshape(rows, (r * before, columns)), xp.matrix_transpose(table))
        else:
            products = xp.matmul(table, xp.reshape(rows, (r * before, columns, rows.shape[4])))
        count = 2
        products = xp.reshape(products, (r, before, count, -1))
        parts = xp.permute_dims(products, (0, 2, 1, 3))
    return xp.reshape(parts, (r, count, -1))


def joined(parts: list[Array], *, axis: int, xp: Namespace) -> Array:
    """Arrays one after another; of a single one, itself."""
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=axis)


def inverse_permutation(order: Sequence[int]) -> tuple[int, ...]:
    """The positions of 0, 1, ... in a permutation; in plain Python, which compilers can trace."""
    return tuple(sorted(range(len(order)), key=list(order).__getitem__))


def random_vectors(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Complex Gaussian vectors on the host, the same for every backend, version and machine.

    NumPy guarantees the stream of ``RandomState``; those of newer generators may change between releases.
    """
    state = np.random.RandomState(seed)
    return state.standard_normal(shape) + 1j * state.standard_normal(shape)


@functools.lru_cache(maxsize=64)
def start_vector(seed: int, size: int) -> np.ndarray:
    """One vector (1, size) from `random_vectors`, cached and read-only."""
    vector = random_vectors(seed, (1, size))
    vector.flags.writeable = False
    return vector


def real_vectors(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """The real parts of `random_vectors`, read-only; those of a small shape are cached."""
    return _small_real_vectors(seed, shape) if math.prod(shape) <= _CACHED_NUMBERS else _real_vectors(seed, shape)


def _real_vectors(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    vectors = np.ascontiguousarray(random_vectors(seed, shape).real)
    vectors.flags.writeable = False
    return vectors


@functools.lru_cache(maxsize=16)
def _small_real_vectors(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return _real_vectors(seed, shape)


def counter(like: Array, *, ops: ArrayOps) -> Any:
    """The 0 from which a loop counts: a Python number, or an array if the loop is compiled.

    In a Python loop on a GPU, reading an array's value would wait for all queued operations.
    """
    xp = ops.xp
    if not ops.concrete:
        return xp.zeros((), dtype=xp.int32, device=ops.device(like))
    return 0


def top_eigenpair(gram: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """Largest eigenvalue, and its eigenvector, of each Hermitian matrix of a stack.

    ``gram`` is (..., p, p). Returns ``value`` (...,); ``vector`` (..., p).
    """
    values, vectors = xp.linalg.eigh((gram + adjoint(gram, xp=xp)) / 2)
    return values[..., -1], vectors[..., :, -1]


def gram_smaller(a: Array, *, xp: Namespace) -> Array:
    """A*A or AA* for each matrix A of a stack, whichever is smaller; both have the same norm."""
    h = adjoint(a, xp=xp)
    return xp.matmul(h, a) if a.shape[-1] <= a.shape[-2] else xp.matmul(a, h)


def top_triple(g: Array, *, xp: Namespace) -> tuple[Array, Array, Array]:
    """Top singular triple (u, v, sigma) of each matrix of a stack, from the smaller Gram matrix.

    A zero matrix gets zero vectors, hence a zero gradient rather than an arbitrary one.
    """
    wide = g.shape[-1] > g.shape[-2]
    a = adjoint(g, xp=xp) if wide else g
    _, v = top_eigenpair(gram_smaller(a, xp=xp), xp=xp)
    u, norm = normalise(xp.matmul(a, v[..., None])[..., 0], xp=xp)
    v = xp.where(norm > 0, v, xp.zeros_like(v))
    return (v, u, norm[..., 0]) if wide else (u, v, norm[..., 0])


def repeated(
    body: Callable[[tuple[Array, ...]], tuple[Array, ...]],
    count: Any,
    state: tuple[Array, ...],
    *,
    ops: ArrayOps,
) -> tuple[Array, ...]:
    """Apply ``body`` to a state ``count`` times. Compilers compile the body only once.

    ``body``: must not change the state's shapes and dtypes.
    """
    if ops.concrete:
        for _ in range(count):
            state = body(state)
        return state

    def run_again(loop_state: tuple[Array, ...]) -> tuple[Array, ...]:
        runs, *state = loop_state
        return (runs + 1, *body(tuple(state)))

    first_loop_state = (counter(state[0], ops=ops), *state)
    _, *new_state = ops.loop(lambda loop_state: loop_state[0] < count, run_again, first_loop_state)
    return tuple(new_state)


def tall(blocks: Array, *, xp: Namespace) -> Array:
    """Blocks (b, m, p, ...) with output and input channels exchanged if m < p.

    The exchange transposes the symbol, which keeps its norm.
    """
    return swapped(blocks, xp=xp) if blocks.shape[1] < blocks.shape[2] else blocks


def from_tall(x: Array, blocks: Array, *, xp: Namespace) -> Array:
    """The inverse of `tall`: an array in the shape of the tall blocks, such as a gradient, in that of the blocks."""
    return swapped(x, xp=xp) if blocks.shape[1] < blocks.shape[2] else x


def swapped(blocks: Array, *, xp: Namespace) -> Array:
    """Blocks with output and input channels exchanged: (b, m, p, ...) to (b, p, m, ...)."""
    return xp.permute_dims(blocks, (0, 2, 1, *range(3, blocks.ndim)))


def without_zero_borders(block: Array, *, ops: ArrayOps) -> Array:
    """Remove slices of taps that are zero from the borders of kernels (b, m, p, *kernel_shape) with known values.

    A slice is removed if it is zero in all b kernels. That shifts the kernels, which multiplies their symbols by a
    phase and changes no norm. Longer kernels would make the search's bounds on cells of frequencies worse.
    """
    is_used = (ops.to_numpy(block) != 0).any(axis=(0, 1, 2))
    index: list[slice] = []
    for axis in range(is_used.ndim):
        other_axes = tuple(j for j in range(is_used.ndim) if j != axis)
        used = np.flatnonzero(is_used.any(axis=other_axes))
        index.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1))
    return block[(slice(None), slice(None), slice(None), *index)]


def minus_identity(matrices: Array, shift: Array, *, ops: ArrayOps) -> Array:
    """``M - v I`` for matrices M (b, c, c) and shifts v (b,)."""
    dtype = np.float64 if matrices.dtype == ops.xp.float64 else np.float32
    eye = ops.from_numpy(np.eye(matrices.shape[-1], dtype=dtype), matrices)
    return matrices - shift[:, None, None] * eye


def diagonal_and_rest(matrices: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """Diagonals (..., p) of square matrices, and all other entries (..., p - 1, p), in rows."""
    *batch, size, _ = matrices.shape
    flat = xp.reshape(matrices, (*batch, size**2))
    # After each number of the diagonal but the last, p others follow.
    rows = xp.reshape(flat[..., : size**2 - 1], (*batch, size - 1, size + 1))
    return xp.concat([rows[..., 0], flat[..., size**2 - 1 :]], axis=-1), rows[..., 1:]


def gram_gradient(a: Array, value: Array, n_iter: int, *, xp: Namespace) -> Array:
    """Gradient by A of the bound of Gram iteration after n_iter products (`norms.largest_eigenvalue_up`).

    With ``P = (A*A)**N`` and ``N = 2**(n_iter - 1)``, the bound is ``b(P)**(1 / 2N)`` and ``b(P) = m + c s``. Here m is
    the mean of the eigenvalues, ``s = ||P - m I||_F`` and ``c = sqrt((p - 1) / p)``. The derivative of b is
    ``S = I / p + c (P - m I) / s``, which commutes with P. So the gradient is a multiple of ``A (A*A)**(N - 1) S``,
    scaled such that its product with A is the value, as the bound is homogeneous. Where all eigenvalues are equal,
    b has no gradient, and ``S = I / p`` is one of its subgradients. Before the first product the bound is ``||A||_F``.

    A is divided by the value first, so that all powers stay below 1. The product is accumulated, so that the memory is
    that of three matrices for any ``n_iter``.

    ``a`` is (..., m, n). ``value`` (...): the bound, or a little more.
    """
    positive_value = xp.where(value > 0, value, 1.0)
    product = a / xp.astype(positive_value, a.dtype)[..., None, None]
    is_wide = a.shape[-1] > a.shape[-2]
    if is_wide:
        product = adjoint(product, xp=xp)
    if n_iter:
        power = xp.matmul(adjoint(product, xp=xp), product)
        for _ in range(n_iter - 1):
            product = xp.matmul(product, power)
            power = xp.matmul(power, power)
        of_power, of_identity = _slope_of_trace_bound(power, product.dtype, xp=xp)
        images = xp.matmul(product, power)
        del power
        images *= of_power
        product *= of_identity
        product += images
    product = adjoint(product, xp=xp) if is_wide else product
    attained = xp.sum(xp.vecdot(a, product), axis=-1)
    attained = xp.real(attained) if is_complex(a, xp=xp) else attained
    product *= xp.astype(value / xp.where(attained > 0, attained, 1.0), product.dtype)[..., None, None]
    return product


def _slope_of_trace_bound(power: Array, dtype: Any, *, xp: Namespace) -> tuple[Array, Array]:
    """Factors (..., 1, 1) of P and of I in the S of `gram_gradient`, from P (..., p, p), positive semidefinite."""
    size = power.shape[-1]
    diagonal, rest = diagonal_and_rest(power, xp=xp)
    others_sq = xp.sum(xp.vecdot(rest, rest), axis=-1)
    if is_complex(power, xp=xp):
        diagonal, others_sq = xp.real(diagonal), xp.real(others_sq)
    mean = xp.sum(diagonal, axis=-1) / size
    deviation = xp.sqrt(others_sq + xp.sum((diagonal - mean[..., None]) ** 2, axis=-1))
    is_deviation = deviation > 8 * size * float(xp.finfo(mean.dtype).eps) * mean
    slope = xp.where(is_deviation, math.sqrt((size - 1) / size) / xp.where(is_deviation, deviation, 1.0), 0.0)
    of_identity = 1 / size - slope * mean
    return xp.astype(slope, dtype)[..., None, None], xp.astype(of_identity, dtype)[..., None, None]


def extended(x: Array, sizes: Sequence[int], *, backend: Backend) -> Array:
    """An array (b, n_1, n_2, ...) with zeros appended, up to sizes of the axes after the first one."""
    xp: Any = backend.namespace(x)
    for axis, size in enumerate(sizes, start=1):
        missing = size - x.shape[axis]
        if missing:
            shape = (*x.shape[:axis], missing, *x.shape[axis + 1 :])
            x = xp.concat([x, xp.zeros(shape, dtype=x.dtype, device=backend.device(x))], axis=axis)
    return x
