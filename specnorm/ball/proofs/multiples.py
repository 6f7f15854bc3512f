"""Bound the norm of a rounded multiple of a kernel, from a bound of the kernel's norm, without another search."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.geometry.spec import ConvSpec
from specnorm.proofs import arithmetic, host
from specnorm.proofs.bound import HypothesisError, _upper, digest_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from specnorm.proofs.bound import Upper


@arithmetic.on_host()
def norm_of_multiple(
    norm: Upper,
    kernel: NDArray[np.float64],
    factor: float,
    multiple: NDArray[np.float64],
) -> Upper:
    """Bound the norm of the layer with kernel M, close to f K, by ``f ||K|| + ||M - f K||``.

    All norms are those of layers with the same geometry.
    The layer with kernel M - f K pads its input, which multiplies norms by at most ``sqrt(padding_gain_sq)``, and adds
    up one matrix product for each tap. So its norm is at most that factor times ``sqrt(taps)`` times the Frobenius norm
    of M - f K.

    Parameters
    ----------
    norm : Upper
        Bound of the norm of the layer with kernel K; its digest is checked.
    kernel, multiple : float64 array of one shape
        K and M, on the host.
    factor : float
        f, not negative. M may be any rounding of f K: their distance is computed.

    Raises
    ------
    HypothesisError
        If the bound is for another kernel, or not for a layer.
    """
    if not isinstance(norm.what, ConvSpec) or norm.digest != digest_of(kernel):
        raise HypothesisError(f"a norm of {norm.what}, which is not this kernel's layer")
    if not factor >= 0 or kernel.shape != multiple.shape:
        raise HypothesisError(f"no multiple: {factor!r} times {kernel.shape} and {multiple.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        product = factor * kernel.reshape(-1)
        difference = multiple.reshape(-1) - product
    # The product and the difference are rounded once each; the product may also underflow.
    product_error = host.mul_up(float(host.norm_up(product)), 2.0**-52)
    underflow = host.mul_up(host.root_up(product.size), math.ulp(0.0))
    distance = host.add_up(host.inflate(float(host.norm_up(difference)), 1), product_error, underflow)
    spec = norm.what
    norm_over_frobenius = host.mul_up(host.root_up(math.prod(spec.kernel_shape)), host.root_up(spec.padding_gain_sq))
    value = host.add_up(host.mul_up(norm.value, factor), host.mul_up(distance, norm_over_frobenius))
    return _upper(value, spec, f"{factor:.6g} times another kernel, rounded", norm, digest=digest_of(multiple))
