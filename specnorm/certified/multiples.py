"""The norm of a rounded multiple of a kernel, from the kernel's own: no search is repeated for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.certified import arithmetic, host
from specnorm.certified.bound import HypothesisError, _upper, digest_of
from specnorm.problem.spec import ConvSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from specnorm.certified.bound import Upper


@arithmetic.on_host()
def norm_of_multiple(
    norm: Upper,
    kernel: NDArray[np.float64],
    factor: float,
    multiple: NDArray[np.float64],
) -> Upper:
    """Bound a layer whose kernel M is close to a multiple f K of another one: ``f ||K|| + ||M - f K||``.

    A layer adds one product with a matrix for each tap, between a padding and maps of norm at most 1. So the second
    term is at most ``sqrt(taps)`` times the Frobenius norm of M - f K, times the padding's factor.

    Parameters
    ----------
    norm : Upper
        Of a layer with the kernel K, by its digest.
    kernel, multiple : float64 array of one shape
        K and M, on the host.
    factor : float
        f, not negative. M may be rounded anyhow: it is compared with f K.

    Raises
    ------
    HypothesisError
        If the norm is of another kernel, or of no layer.
    """
    if not isinstance(norm.what, ConvSpec) or norm.digest != digest_of(kernel):
        raise HypothesisError(f"a norm of {norm.what}, which is not this kernel's layer")
    if not factor >= 0 or kernel.shape != multiple.shape:
        raise HypothesisError(f"no multiple: {factor!r} times {kernel.shape} and {multiple.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        product = factor * kernel.reshape(-1)
        apart = multiple.reshape(-1) - product
    # Both operations round once, the product to a multiple of the smallest subnormal number.
    rounded = host.mul_up(float(host.norm_up(product)), 2.0**-52)
    underflow = host.mul_up(host.root_up(product.size), math.ulp(0.0))
    distance = host.add_up(host.inflate(float(host.norm_up(apart)), 1), rounded, underflow)
    spec = norm.what
    scale = host.mul_up(host.root_up(math.prod(spec.kernel_shape)), host.root_up(spec.padding_gain_sq))
    value = host.add_up(host.mul_up(norm.value, factor), host.mul_up(distance, scale))
    return _upper(value, spec, f"{factor:.6g} times another kernel, rounded", norm, digest=digest_of(multiple))
