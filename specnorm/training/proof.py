"""The norm that a vector attains at a frequency, rounded down, for arrays with values and for tracers.

It is a lower bound of the largest norm over all frequencies (sigma*). No cosine is trusted. A computed phase
``z = c + i s`` of an axis has the argument of *some* frequency, exactly. Once z is divided by its modulus, its powers
are the phases of that frequency up to the roundings of the products.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm.backends import arrays
from specnorm.proofs import norms, rounding

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps


def attained_down(
    blocks: Array,
    vectors: Array,
    angles: Array,
    *,
    ops: ArrayOps,
) -> tuple[Array, Array, Array]:
    """Bound ``max_theta ||G(theta)||`` of each block from below by ``||G(theta) v|| / ||v||`` near the angles.

    With ``x = e^{i k.theta} v``, one entry a tap and a channel, ``G(theta) v`` is the kernel times x. Let x' be the
    computed x, each phase of which is off by at most e, and n its length. Then
    ``||G v|| >= ||fl(K x')|| - (gamma(n) + e) ||K||_F ||v|| sqrt(taps)``.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)
        Real, scaled to about 1, in the precision to compute in.
    vectors : complex array, shape (b, p)
        v, in that precision; zero gives zero.
    angles : array, shape (b, d)
        In radians, along the axes with more than one tap.

    Returns
    -------
    value : array, shape (b,)
    image : complex array, shape (b, m)
        ``G(theta) v``, as computed.
    phases : complex array, shape (b, taps)
    """
    xp = ops.xp
    b, m, p, *sizes = blocks.shape
    kernel_shape = tuple(sizes)
    phases = _phases(angles, kernel_shape, ops=ops)
    waves = xp.reshape(vectors[:, :, None] * phases[:, None, :], (b, -1))
    rows = xp.reshape(blocks, (b, m, -1))
    image_parts = xp.matmul(rows, arrays.real_pair(waves, xp=xp))
    image = ops.complex(image_parts[..., 0], image_parts[..., 1])
    error = product_allowance(rows.shape[2], kernel_shape, rounding.unit(blocks, xp=xp))
    taps = math.prod(kernel_shape)
    length = rounding.up(_norm(vectors, ops=ops), p + 4, xp=xp)
    lost = rounding.up(norms.frobenius_up(rows, xp=xp) * length * (math.sqrt(taps) * error), 6, xp=xp)
    attained = rounding.down(_norm(image, ops=ops), m + 4, xp=xp) - lost
    safe = xp.where(length > 0, length, xp.ones_like(length))
    value = rounding.down(attained / safe, 3, xp=xp)
    return xp.where(value > 0, value, xp.zeros_like(value)), image, phases


def product_allowance(length: int, sizes: tuple[int, ...], unit: float) -> float:
    """Return ``gamma(n) + e`` of `attained_down`, in a precision with this unit roundoff."""
    # The numbers that are multiplied into an entry of x: powers of the number of each axis, its quotient by the
    # modulus, and the entry of v. A complex product or a quotient by a modulus takes fewer than 8 roundings.
    factors = sum(sizes) + len(sizes) + 2
    return rounding.SLACK * (rounding.gamma(length + 2, unit) + rounding.gamma(8 * factors, unit))


def _norm(x: Array, *, ops: ArrayOps) -> Array:
    """Lengths of complex vectors on the last axis."""
    xp = ops.xp
    real, imag = xp.real(x), xp.imag(x)
    return xp.sqrt(xp.sum(real * real + imag * imag, axis=-1))


def _phases(angles: Array, sizes: tuple[int, ...], *, ops: ArrayOps) -> Array:
    """Powers of the complex number of modulus 1 of each axis, multiplied; shape (b, taps), taps in row-major order."""
    xp = ops.xp
    b = angles.shape[0]
    ones = xp.ones((b, 1), dtype=angles.dtype, device=ops.device(angles))
    phases = ops.complex(ones, xp.zeros_like(ones))
    for axis, size in enumerate(k for k in sizes if k > 1):
        real, imag = xp.cos(angles[:, axis]), xp.sin(angles[:, axis])
        modulus = xp.sqrt(real * real + imag * imag)
        turn = ops.complex(real / modulus, imag / modulus)
        powers = [phases]
        for _ in range(size - 1):
            powers.append(powers[-1] * turn[:, None])
        phases = xp.reshape(xp.stack(powers, axis=-1), (b, -1))
    return phases
