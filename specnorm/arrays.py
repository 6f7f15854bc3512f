"""Helpers on the array API standard alone: scaling, real and complex dtypes, start vectors, small products."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.types import ArrayOps


_NEXT_TO_NOTHING = 1e-30
"""Changes no norm above 1e-14, and has an inverse in single precision."""


def scale(blocks: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """Scale each block by a power of two to about 1 in its largest entry (exact).

    Parameters
    ----------
    blocks : array, shape (b, ...)
        Finite reals.

    Returns
    -------
    scaled : array, shape (b, ...)
    exponent : array, shape (b,)
        Integral floats: ``blocks = scaled * 2**exponent``. 0 for a zero block.
    """
    axes = tuple(range(1, blocks.ndim))
    largest = xp.maximum(xp.max(blocks, axis=axes), -xp.min(blocks, axis=axes))
    # Any nearby power of two will do, so floor(log2) being off by one at exact powers (JAX) is harmless.
    exponent = xp.floor(xp.log2(xp.where(largest > 0, largest, xp.ones_like(largest))))
    # Where a library takes subnormal numbers for zero, their logarithm is infinite.
    info = xp.finfo(blocks.dtype)
    least = xp.full_like(exponent, math.log2(float(info.smallest_normal)) + math.log2(float(info.eps)))
    exponent = xp.maximum(exponent, least)
    of_each_entry = xp.reshape(-exponent, (-1,) + (1,) * (blocks.ndim - 1))
    return unscale(blocks, of_each_entry, xp=xp), exponent


def unscale(value: Array, exponent: Array, *, xp: Namespace) -> Array:
    """Multiply by ``2**exponent``, in two halves so that neither overflows on its own, and in one new array."""
    half = xp.floor(exponent / 2)
    factor = power_of_two(half, xp=xp)
    halved = value * factor
    # The other half is as large, or 1 more: a factor of 1 or 2.
    halved *= factor * (exponent - 2 * half + 1)
    return halved


def power_of_two(exponent: Array, *, xp: Namespace) -> Array:
    """Return ``2**exponent`` for integral exponents of normal results: ``pow`` is exact there, JAX's ``exp2`` not."""
    return xp.pow(xp.full_like(exponent, 2.0), exponent)


def complex_dtype(real: Any, *, xp: Namespace) -> Any:
    """Complex dtype of the same precision as a real one."""
    return xp.complex128 if real == xp.float64 else xp.complex64


def real_dtype(x: Array, *, xp: Namespace) -> Any:
    """Real dtype of the same precision as an array's."""
    return xp.float64 if x.dtype in (xp.float64, xp.complex128) else xp.float32


def precision(*dtypes: Any, xp: Namespace) -> tuple[float, float]:
    """Machine epsilon and smallest normal number of the coarsest of some dtypes."""
    precisions = []
    for dtype in dtypes:
        # NumPy knows no bfloat16: that of ml_dtypes has a name, but no limits. It is float32 with fewer digits.
        is_bfloat16 = str(dtype) == "bfloat16"
        info = xp.finfo(xp.float32 if is_bfloat16 else dtype)
        eps = 2.0**-7 if is_bfloat16 else float(info.eps)
        precisions.append((eps, float(info.smallest_normal)))
    return max(precisions)


def is_complex(x: Array, *, xp: Namespace) -> bool:
    """Whether an array is complex."""
    return x.dtype in (xp.complex128, xp.complex64)


def in_wide_dtype(x: Array, *, ops: ArrayOps) -> Array:
    """Real numbers in the widest dtype of their device."""
    xp = ops.xp
    return xp.astype(x, getattr(xp, ops.wide_dtype), copy=False)


def rows(x: Array, index: np.ndarray, *, ops: ArrayOps) -> Array:
    """Some rows of an array, by their numbers on the host."""
    xp = ops.xp
    return xp.take(x, ops.from_numpy(index.astype(np.int64), x), axis=0)


def adjoint(a: Array, *, xp: Namespace) -> Array:
    """Conjugate transpose of a stack of matrices; conjugation is left out for reals, where it would copy."""
    transposed = xp.matrix_transpose(a)
    return xp.conj(transposed) if is_complex(a, xp=xp) else transposed


def normalise(x: Array, *, xp: Namespace, axis: int = -1) -> tuple[Array, Array]:
    """Divide vectors by their 2-norm; a zero vector stays zero.

    Returns
    -------
    unit, norm : arrays
        ``norm`` keeps the axis with length 1.
    """
    norm = xp.linalg.vector_norm(x, axis=axis, keepdims=True)
    safe = xp.where(norm > 0, norm, xp.ones_like(norm))
    return x / xp.astype(safe, x.dtype), norm


def unit(x: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """Vectors on the last axis divided by their 2-norm, and the norms without that axis; a zero vector stays zero.

    In half the operations of `normalise`, for entries whose squares neither overflow nor vanish.
    """
    norm = xp.sqrt(xp.real(xp.vecdot(x, x)))
    return x * xp.astype(inverse(norm), x.dtype)[..., None], norm


def inverse(norm: Array) -> Array:
    """One over the norms of vectors; of a zero vector, finite."""
    return 1 / (norm + _NEXT_TO_NOTHING)


def normalise_or_keep(x: Array, old: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """`normalise` the last axis, but leave the old unit vector where there is no direction: zero, infinite or NaN."""
    unit, norm = normalise(x, xp=xp)
    return xp.where((norm > 0) & xp.isfinite(norm), unit, old), norm


def real_pair(z: Array, *, xp: Namespace) -> Array:
    """Complex numbers as a last axis (real, imaginary): what files, casts and collectives carry without loss."""
    return xp.stack([xp.real(z), xp.imag(z)], axis=-1)


def real_times(a: Array, z: Array, *, ops: ArrayOps) -> Array:
    """Real matrices times complex ones, as one real product (half the work of promoting the real factor)."""
    xp = ops.xp
    count = z.shape[-1]
    product = xp.matmul(a, xp.concat([xp.real(z), xp.imag(z)], axis=-1))
    return ops.complex(product[..., :count], product[..., count:])


def pick(x: Array, index: Array, *, xp: Namespace) -> Array:
    """Entry ``x[i, index[i], ...]`` for each i: (n, g, ...) and (n,) to (n, ...)."""
    if x.shape[1] == 1:
        return x[:, 0, ...]
    where = xp.reshape(index, (-1,) + (1,) * (x.ndim - 1))
    return xp.take_along_axis(x, xp.broadcast_to(where, (x.shape[0], 1, *x.shape[2:])), axis=1)[:, 0, ...]


def one_hot(x: Array, index: Array, count: int, *, xp: Namespace) -> Array:
    """Adjoint of `pick`, and of a maximum: x at the index, zero elsewhere.

    Parameters
    ----------
    x : array, shape (n, ...)
    index : integer array, shape (n,) or that of x

    Returns
    -------
    array, shape (n, count, ...)
    """
    if count == 1:
        return x[:, None, ...]
    index = xp.reshape(index, (*index.shape, *(1,) * (x.ndim - index.ndim)))
    # 0, 1, ... on the device of the index, which may be a tracer.
    ones = xp.ones_like(xp.broadcast_to(index[:1, ...], (count, *index.shape[1:])))
    numbers = xp.astype(xp.cumulative_sum(ones, axis=0) - 1, index.dtype)
    is_chosen = index[:, None, ...] == numbers[None, ...]
    return xp.where(is_chosen, x[:, None, ...], xp.zeros_like(x[:, None, ...]))


def inverse_permutation(order: Sequence[int]) -> tuple[int, ...]:
    """Positions at which 0, 1, ... stand. Plain Python, which compilers trace."""
    return tuple(sorted(range(len(order)), key=list(order).__getitem__))


def random_vectors(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Complex Gaussian start vectors on the host: the same on every backend, version and machine.

    NumPy froze the stream of ``RandomState``; those of newer generators may change between releases.
    """
    state = np.random.RandomState(seed)
    return state.standard_normal(shape) + 1j * state.standard_normal(shape)


@functools.lru_cache(maxsize=64)
def start_vector(seed: int, size: int) -> np.ndarray:
    """One of `random_vectors`, shape (1, size), drawn once and read only."""
    vector = random_vectors(seed, (1, size))
    vector.flags.writeable = False
    return vector


def counter(like: Array, *, ops: ArrayOps) -> Any:
    """Return the 0 that a loop counts from: a Python number where the loop is Python's, so that no count waits.

    Reading a number from a GPU waits for everything before it; a loop that compiles needs an array.
    """
    xp = ops.xp
    if not ops.concrete:
        return xp.zeros((), dtype=xp.int32, device=ops.device(like))
    return 0


def top_eigenpair(gram: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """Largest eigenvalue and its eigenvector of each Hermitian matrix of a stack.

    Parameters
    ----------
    gram : array, shape (..., p, p)

    Returns
    -------
    value : array, shape (...,)
    vector : array, shape (..., p)
    """
    values, vectors = xp.linalg.eigh((gram + adjoint(gram, xp=xp)) / 2)
    return values[..., -1], vectors[..., :, -1]


def gram_smaller(a: Array, *, xp: Namespace) -> Array:
    """A*A or AA* of a stack of matrices, whichever is smaller: the same norm."""
    h = adjoint(a, xp=xp)
    return xp.matmul(h, a) if a.shape[-1] <= a.shape[-2] else xp.matmul(a, h)


def applied(
    body: Callable[[tuple[Array, ...]], tuple[Array, ...]],
    wanted: Any,
    state: tuple[Array, ...],
    *,
    ops: ArrayOps,
) -> tuple[Array, ...]:
    """Apply ``body`` to a state where a condition holds, a Python bool or a 0-d array where a loop compiles."""

    def once(loop_state: tuple[Array, ...]) -> tuple[Array, ...]:
        wanted, *state = loop_state
        return (wanted & False, *body(tuple(state)))

    _, *after = ops.loop(lambda loop_state: loop_state[0], once, (wanted, *state))
    return tuple(after)


def repeated(
    body: Callable[[tuple[Array, ...]], tuple[Array, ...]],
    count: Any,
    state: tuple[Array, ...],
    *,
    ops: ArrayOps,
) -> tuple[Array, ...]:
    """Apply ``body`` to a state so many times. Where a loop compiles, the body is compiled once.

    Parameters
    ----------
    body : callable
        Keeps the state's shapes and dtypes.
    """

    def once_more(loop_state: tuple[Array, ...]) -> tuple[Array, ...]:
        done, *state = loop_state
        return (done + 1, *body(tuple(state)))

    begin = (counter(state[0], ops=ops), *state)
    _, *after = ops.loop(lambda loop_state: loop_state[0] < count, once_more, begin)
    return tuple(after)


def tall(blocks: Array, *, xp: Namespace) -> Array:
    """Swap the channels where there are fewer outputs: conj(G G*) instead of G* G, the same norm."""
    return swapped(blocks, xp=xp) if blocks.shape[1] < blocks.shape[2] else blocks


def swapped(blocks: Array, *, xp: Namespace) -> Array:
    """Blocks with output and input channels exchanged."""
    return xp.permute_dims(blocks, (0, 2, 1, *range(3, blocks.ndim)))
