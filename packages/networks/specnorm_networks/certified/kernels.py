"""Norms of a network's kernels, also with scaled channels.

A caller proves the norms (`Norms`). Here its claims are checked to be about the right kernel, and the rounding errors
of scaled kernels are bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from specnorm import ConvSpec
from specnorm.proof import (
    ArrayOps,
    Clock,
    HypothesisError,
    Upper,
    at_every_size,
    backends,
    counted,
    digest_of,
    host,
    make_upper,
    matrix_norm_up,
)

if TYPE_CHECKING:
    from specnorm.proof import AnyArray
    from specnorm_networks.certified.operators.layers import Layer

ROUNDINGS = 64
"""Roundings that are counted for each entry of a scaled kernel: at least twice as many as there can be."""
MOST_ENTRIES_AT_ONCE = 2**22
"""Largest number of entries of matrices that are factorized together."""
_GRAM_MATRICES = 3
"""Gram matrices that take about as long as the proof of a matrix's norm."""
SizesOfLayer = tuple[tuple[int, ...], tuple[int, ...]]
"""Spatial sizes before and after a layer."""
Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PlacedLayer:
    """A layer's kernel together with what its place in the network determines: padding and sizes."""

    layer: Layer
    geometry: Mapping[str, Any]
    """Geometry of the layer, merged with the padding before it."""
    sizes: SizesOfLayer | None = None
    """Spatial sizes before and after the layer; None: unknown."""

    @cached_property
    def spec(self) -> ConvSpec:
        """Geometry together with the shape of the kernel."""
        return spec_of(tuple(self.layer.stored().shape), self.geometry)

    @property
    def extents(self) -> tuple[int, ...]:
        """Number of positions from the first tap to the last, dilation counted, one an axis."""
        return tuple(r * (k - 1) + 1 for k, r in zip(self.spec.kernel_shape, self.spec.dilation, strict=True))


def spec_of(shape: tuple[int, ...], geometry: Mapping[str, Any], size: tuple[int, ...] | None = None) -> ConvSpec:
    """Return the geometry of a kernel; a network of many layers has few geometries, and each is validated once."""
    try:
        return _spec_of(shape, tuple(geometry.items()), size)
    except TypeError:  # a list in it, or a wrong keyword, as the next line says
        return ConvSpec.of(shape, **geometry, input_shape=size)


@lru_cache(maxsize=256)
def _spec_of(shape: tuple[int, ...], geometry: tuple[tuple[str, Any], ...], size: tuple[int, ...] | None) -> ConvSpec:
    return ConvSpec.of(shape, **dict(geometry), input_shape=size)


class Norms(Protocol):
    """An object that proves norms of kernels for the rules of networks, such as `specnorm_networks.tools.Measure`."""

    @property
    def rtol(self) -> float:
        """Relative width of the enclosures."""

    def __call__(
        self,
        placed_layer: PlacedLayer,
        scale: Numbers | None,
        divisors: Numbers | None = None,
        /,
    ) -> Upper:
        """Return the norm of a layer, proven by `norm_of_layer`."""
        ...

    def matrices(self, layer: Layer, /) -> Upper:
        """Return the largest norm of a stack of matrices, proven by `norm_of_matrices`."""
        ...

    def of_kernel(self, kernel: Numbers, rtol: float, /) -> Upper:
        """Return the norm of a plain kernel (cout, cin, *kernel_shape) at every size."""
        ...


Prover = Callable[["AnyArray", ConvSpec], Sequence[Upper]]
"""Proves upper bounds of the norm of a kernel in some geometry."""


def norm_of_layer(
    placed_layer: PlacedLayer,
    size: tuple[int, ...] | None,
    scale: Numbers | None,
    divisors: Numbers | None,
    prove: Prover,
) -> Upper:
    """Return the norm of a layer whose output channels are multiplied by ``scale``, its inputs divided by ``divisors``.

    Parameters
    ----------
    size : tuple of int or None
        Spatial size of the input; None: every size.
    scale : array, shape (cout,), or None
        Factors, correct to a few roundings.
    divisors : array, shape (cin,), or None
        Divisors, positive and exact.
    prove : callable
        Proves the norm of the scaled kernel.
    """
    spec, kernel, error = _scaled(placed_layer, size, scale, divisors)
    # Where nothing was scaled, the norm of the stored array is proven: the claim has the digest of its bits.
    claims = prove(kernel if error else placed_layer.layer.stored(), spec)
    best = min((claim for claim in claims if bounds_norm_of(claim, spec, kernel)), key=float, default=None)
    if best is None:
        raise HypothesisError(f"{[claim.what for claim in claims]}: none is the norm of {spec}")
    rule = "each channel scaled, rounding counted" if error else "no larger than at every size"
    norm = make_upper(host.add_up(best.value, error), spec, rule, best, digest=_digest(kernel, error))
    return best if (best.what, best.digest) == (norm.what, norm.digest) else norm


def checked_norm(
    norms: Norms,
    placed_layer: PlacedLayer,
    scale: Numbers | None,
    divisors: Numbers | None = None,
) -> Upper:
    """Return the norm of a layer as ``norms`` proves it; `HypothesisError` if its claim is about another layer."""
    norm = norms(placed_layer, scale, divisors)
    size = getattr(norm.what, "input_shape", None)
    spec, kernel, error = _scaled(placed_layer, size, scale, divisors)
    if not _is_claim_about(norm, spec, _digest(kernel, error)):
        raise HypothesisError(f"{norm.what} is not {spec}, or of another kernel")
    holds_at_every_size = size in (None, ())
    input_size = None if placed_layer.sizes is None else placed_layer.sizes[0]
    if not holds_at_every_size and size != input_size:
        raise HypothesisError(f"{norm.what} is of another size than {placed_layer.sizes}")
    return norm


def _is_claim_about(claim: object, what: object, digest: str) -> bool:
    return isinstance(claim, Upper) and (claim.what, claim.digest) == (what, digest)


def _digest(kernel: Numbers, error: float) -> str:
    """Return the digest of a kernel. With a rounding error it differs from that of a stored kernel of the same bits."""
    return f"scaled {digest_of(kernel)}" if error else digest_of(kernel)


def _scaled(
    placed_layer: PlacedLayer,
    size: tuple[int, ...] | None,
    scale: Numbers | None,
    divisors: Numbers | None,
) -> tuple[ConvSpec, Numbers, float]:
    """Return a layer's geometry, its kernel with scaled channels, and a bound of the norm of the kernel's error.

    If ``size`` is None and the layer is defined only for sizes that its stride divides, the returned geometry is one
    that holds at every size (`at_every_size`).
    """
    kernel = placed_layer.layer.kernel()
    spec = spec_of(kernel.shape, placed_layer.geometry, size)
    if size is None and spec.needs_divisible_sizes:
        spec = ConvSpec.of(kernel.shape, **at_every_size(dict(placed_layer.geometry)))
    if scale is None and divisors is None:
        return spec, kernel, 0.0
    if scale is not None:
        kernel = kernel * by_channel(scale, spec, outputs=True)
    if divisors is not None:
        kernel = kernel / by_channel(divisors, spec, outputs=False)
    return spec, kernel, scaling_error(kernel, spec)


def bounds_norm_of(claim: object, spec: ConvSpec, kernel: Numbers) -> bool:
    """Whether a claim is an upper bound of the norm of a layer with this geometry and a kernel of these bits."""
    if not isinstance(claim, Upper) or not spec.is_described_by(claim.what):
        return False
    return claim.digest == digest_of(kernel) or (not spec.ndim and claim.digest == digest_of(kernel.T))


def by_channel(numbers: Numbers, spec: ConvSpec, *, outputs: bool) -> Numbers:
    """Return one number an output channel, or an input channel, in a shape that broadcasts against the kernel."""
    ones = (1,) * spec.ndim
    if outputs != spec.transposed:
        return numbers.reshape(-1, 1, *ones)
    # The kernel's other axis is that of one group: entry (i, j) is of the j-th of these channels in the group of i.
    channels_on_first_axis = spec.cin if outputs else spec.cout
    by_entry = np.repeat(numbers.reshape(spec.groups, -1), channels_on_first_axis // spec.groups, axis=0)
    return by_entry.reshape(*by_entry.shape, *ones)


def norm_of_matrices(stack: Numbers, clock: Clock) -> Upper:
    """Prove the largest spectral norm of a stack of matrices.

    Parameters
    ----------
    stack : array, shape (b, m, n)
        Finite numbers.
    clock : Clock
        Matrices whose factorization would end after its deadline are bounded by their Frobenius norms.
    """
    step = max(1, MOST_ENTRIES_AT_ONCE // max(math.prod(stack.shape[1:]), 1))
    norms = []
    for first in range(0, len(stack), step):
        matrices = stack[first : first + step]
        if not matrices.size:
            continue
        if clock.affords(_GRAM_MATRICES * matrices.size * min(matrices.shape[1:])):
            norms.append(_largest_norm_up(matrices))
        else:
            clock.has_cut = True
            norms.append(float(np.max(host.norm_up(matrices.reshape(len(matrices), -1)))))
    # Unlike `max`, `np.max` keeps a NaN, which bounds nothing.
    largest = float(np.max(norms, initial=0.0))
    return make_upper(largest, _subject_of_stack(stack), "factorisation", digest=digest_of(stack))


def _subject_of_stack(stack: Numbers) -> str:
    return f"largest of {counted(len(stack), 'matrix', 'matrices')}"


def checked_norm_of_stack(norms: Norms, layer: Layer) -> Upper:
    """Return the largest norm of a stack as ``norms`` proves it; `HypothesisError` if its claim is about another."""
    norm = norms.matrices(layer)
    stack = layer.kernel()
    if not _is_claim_about(norm, _subject_of_stack(stack), digest_of(stack)):
        raise HypothesisError(f"{norm.what} is not the {_subject_of_stack(stack)}")
    return norm


def _largest_norm_up(matrices: Numbers) -> float:
    largest_entry = float(np.max(np.abs(matrices)))
    if not largest_entry:
        return 0.0
    _, exponent = math.frexp(largest_entry)
    scaled: Any = np.ldexp(matrices, -exponent)
    # An entry that underflows changes by less than the smallest normal number, 2^-1022 < 2^-1000.
    ops = ArrayOps.of(backends.backend_for(scaled), scaled)
    uppers: Any = matrix_norm_up(scaled, matrices.size * 2.0**-1000, ops=ops)
    return host.next_up(math.ldexp(float(np.max(uppers)), exponent))


def scaling_error(kernel: Numbers, spec: ConvSpec) -> float:
    """Bound the norm of the layer whose kernel is the rounding error of a kernel with scaled channels.

    Each entry has a relative error of at most `ROUNDINGS` roundings (of the scale, of the weights and of the products),
    so that the Frobenius norm of the errors is at most that share of the kernel's. An entry that underflows changes by
    less than the smallest normal number, 2^-1022 < 2^-1000.
    """
    frobenius = float(host.norm_up(kernel.reshape(-1)))
    rounding = host.mul_up(frobenius, ROUNDINGS * 2.0**-53)
    underflow = kernel.size * 2.0**-1000
    return host.mul_up(_norm_per_frobenius(spec), host.add_up(rounding, underflow))


def _norm_per_frobenius(spec: ConvSpec) -> float:
    """Return the largest quotient of a layer's norm and its kernel's Frobenius norm.

    It is the root of the number of taps (an unfolding bound), times the factor of the padding.
    """
    return host.root_up(math.prod(spec.kernel_shape) * spec.padding_gain_sq)


def norm_by_entries(kernel: AnyArray, spec: ConvSpec) -> tuple[Upper]:
    """Bound the norm of a layer at once, by the sum of the squares of its kernel's entries."""
    numbers: Numbers = np.asarray(backends.backend_for(kernel).to_numpy(kernel), dtype=np.float64)
    norm = host.mul_up(float(host.norm_up(numbers.reshape(-1))), _norm_per_frobenius(spec))
    return (make_upper(norm, spec, "root of the sum of squares", digest=digest_of(numbers)),)
