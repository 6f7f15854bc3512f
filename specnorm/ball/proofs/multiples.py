"""Bound the norm of a kernel close to another one, or to its multiple, from that one's bound, without a search."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm.geometry import polyphase
from specnorm.geometry.spec import ConvSpec
from specnorm.proofs import arithmetic, host, norms
from specnorm.proofs.bound import HypothesisError, Upper, digest_of
from specnorm.unfoldings.proof import supremum_up_from_unfolding

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    return Upper._by_rule(value, spec, f"{factor:.6g} times another kernel, rounded", norm, digest=digest_of(multiple))


_PRODUCTS = 3
"""Gram products for the norm of a difference: another one changes the bound of the neighbour by little."""


@arithmetic.on_host()
def norm_of_neighbour(norm: Upper, kernel: NDArray[np.float64], neighbour: NDArray[np.float64]) -> Upper:
    """Bound the norm of the layer with kernel M by ``||K|| + ||M - K||``, from a bound of that of K.

    The norm of the symbols of M - K is bounded by that of its reshaped blocks (`supremum_up_from_unfolding`), and that
    by Gram iteration. Padding multiplies it by at most ``sqrt(padding_gain_sq)``. An entry of M - K is rounded once, by
    at most u relatively: the norm of that error is below u times the root of the taps times the Frobenius norm.

    Parameters
    ----------
    norm : Upper
        Bound of the norm of the layer with kernel K; its digest is checked.
    kernel, neighbour : float64 array of one shape
        K and M, on the host.

    Raises
    ------
    HypothesisError
        If the bound is for another kernel, or not for a layer.
    """
    if not isinstance(norm.what, ConvSpec) or norm.digest != digest_of(kernel):
        raise HypothesisError(f"a norm of {norm.what}, which is not this kernel's layer")
    if kernel.shape != neighbour.shape:
        raise HypothesisError(f"no neighbours: {kernel.shape} and {neighbour.shape}")
    spec, difference = norm.what, neighbour - kernel
    # Scaled to entries of at most 1, whose squares do not underflow.
    _, exponent = math.frexp(float(np.abs(difference).max(initial=0.0)))
    scaled: Any = np.ldexp(difference, -exponent)[None]
    xp: Any = np
    blocks = polyphase.to_blocks(scaled, spec, xp=xp)
    unfolded = norms.gram_iteration_up(xp.reshape(blocks, (*blocks.shape[:2], -1)), _PRODUCTS, xp=xp)
    supremum = supremum_up_from_unfolding(xp.max(unfolded), spec.block_kernel_shape, xp=xp)
    rounded = host.mul_up(
        float(host.norm_up(difference.reshape(-1))), 2.0**-53, host.root_up(math.prod(spec.kernel_shape))
    )
    distance = host.mul_up(
        host.add_up(host.scaled_up(float(supremum), exponent), rounded), host.root_up(spec.padding_gain_sq)
    )
    value = host.add_up(norm.value, distance)
    return Upper._by_rule(value, spec, "a kernel nearby and the distance from it", norm, digest=digest_of(neighbour))
