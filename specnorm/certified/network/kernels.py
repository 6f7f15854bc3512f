"""Kernels of a network: what scaling loses, and norms of stacks of matrices."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specnorm.backends import backend_for
from specnorm.certified import arithmetic, host
from specnorm.certified.matrices.stacks import matrix_norm_up
from specnorm.runtime.execution import Execution
from specnorm.runtime.values import check_values

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec

ROUNDINGS = 64
"""Roundings that are counted for each entry of a kernel that is scaled: twice as many as there can be."""
AT_ONCE = 2**22
"""Entries of matrices that are factorised together."""


def norm_of_matrices_up(stack: Any) -> float:
    """Proven upper bound of the largest spectral norm of a stack of matrices, rounding counted.

    Parameters
    ----------
    stack : array, shape (b, m, n) or (b, m, n, 2)
        Of real numbers; the second holds real and imaginary parts.

    Raises
    ------
    KernelError, BackendError
        As `check_values`.
    """
    step = max(1, AT_ONCE // max(math.prod(stack.shape[1:]), 1))
    parts = (in_float64(stack[at : at + step]) for at in range(0, len(stack), step))
    return max((_largest_up(part) for part in parts if part.size), default=0.0)


def _largest_up(part: NDArray[np.float64]) -> float:
    numbers: Any = part[None]
    backend = backend_for(numbers)
    check_values(numbers, part.shape, backend=backend)
    largest = float(np.max(np.abs(part)))
    if not largest:
        return 0.0
    exponent = math.frexp(largest)[1]
    scaled = np.ldexp(part, -exponent)
    a: Any = np.ascontiguousarray(scaled).view(np.complex128)[..., 0] if part.ndim == 4 else scaled
    # Entries that underflow are off by less than the smallest normal number each.
    with arithmetic.exact(numbers, backend=backend):
        upper: Any = matrix_norm_up(a, part.size * 2.0**-1000, ops=Execution.of(backend, numbers))
    return host.next_up(math.ldexp(float(np.max(upper)), exponent))


def fold_error(kernel: NDArray[np.float64], spec: ConvSpec) -> float:
    """Norm of what rounding changed in a folded kernel, rounded up.

    Each entry has a relative error of at most `ROUNDINGS` roundings (of the scale, of the weights and of the products),
    so their Frobenius norm is at most that share of the kernel's; a layer's norm is at most the Frobenius norm times
    the root of the number of taps (an unfolding bound), times the padding's factor. Entries that underflow are off by
    less than the smallest normal number each.
    """
    frobenius = float(host.norm_up(kernel.reshape(-1)))
    taps = host.root_up(math.prod(spec.kernel_shape) * spec.padding_gain_sq)
    return host.mul_up(taps, host.add_up(host.mul_up(frobenius, ROUNDINGS * 2.0**-53), kernel.size * 2.0**-1000))


def in_float64(kernel: Any) -> NDArray[np.float64]:
    """A kernel of any library as a NumPy array of doubles, exactly."""
    return np.asarray(backend_for(kernel).to_numpy(kernel), dtype=np.float64)
