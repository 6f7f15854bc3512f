"""Kernels of a network, scaled: their norms, from proofs of somebody else's, and what scaling loses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from specnorm import ConvSpec
from specnorm.proof import HypothesisError, Upper, at_every_size, digest_of, host, make_upper, matrix_norm_up

if TYPE_CHECKING:
    from specnorm.proof import AnyArray, ArrayOps
    from specnorm_networks.certified.operators.layers import Layer

ROUNDINGS = 64
"""Roundings that are counted for each entry of a kernel that is scaled: twice as many as there can be."""
AT_ONCE = 2**22
"""Entries of matrices that are factorised together."""
Sizes = tuple[tuple[int, ...], tuple[int, ...]]
"""Spatial sizes before and after a layer."""
Numbers = NDArray[np.float64]


class Norms(Protocol):
    """Who proves norms of kernels for the rules of networks; `specnorm_networks.tools.Measure` does."""

    @property
    def rtol(self) -> float:
        """Relative width that is asked for."""

    def __call__(
        self,
        layer: Layer,
        geometry: dict[str, Any],
        sizes: Sizes | None,
        scale: Numbers | None,
        shrink: Numbers | None = None,
        /,
    ) -> Upper:
        """Of a layer with some geometry, as `norm_of_layer` says it."""
        ...

    def matrices(self, layer: Layer, /) -> Upper:
        """Of a stack of matrices, by `norm_of_matrices`."""
        ...

    def of_kernel(self, kernel: Numbers, rtol: float, /) -> Upper:
        """Of a plain kernel (cout, cin, *kernel_shape) at every size."""
        ...


Prover = Callable[["AnyArray", ConvSpec], Sequence[Upper]]
"""Gives bounds of the norm of a kernel in some geometry."""


def norm_of_layer(
    layer: Layer,
    geometry: Mapping[str, Any],
    size: tuple[int, ...] | None,
    scale: Numbers | None,
    shrink: Numbers | None,
    prove: Prover,
) -> Upper:
    """Norm of a layer, with each output channel multiplied by ``scale``, each input channel divided by ``shrink``.

    Parameters
    ----------
    size : tuple of int or None
        Of the input; None: every size.
    scale : array, shape (cout,), or None
        Correct to a few roundings.
    shrink : array, shape (cin,), or None
        Positive, exact.
    """
    spec, kernel, lost = _folded(layer, geometry, size, scale, shrink)
    claims = prove(kernel if lost else layer.stored(), spec)
    best = min((claim for claim in claims if proves(claim, spec, kernel)), key=float, default=None)
    if best is None:
        raise HypothesisError(f"{[claim.what for claim in claims]}: none is the norm of {spec}")
    rule = "each channel scaled, rounding counted" if lost else "no larger than at every size"
    said = make_upper(host.add_up(best.value, lost), spec, rule, best, digest=_named(kernel, lost))
    return best if (best.what, best.digest) == (said.what, said.digest) else said


def norm_by(
    norms: Norms,
    layer: Layer,
    geometry: dict[str, Any],
    sizes: Sizes | None,
    scale: Numbers | None,
    shrink: Numbers | None = None,
) -> Upper:
    """What somebody proves of a layer by `norm_of_layer`; `HypothesisError` if that is the norm of another one."""
    found = norms(layer, geometry, sizes, scale, shrink)
    size = getattr(found.what, "input_shape", None)
    spec, kernel, lost = _folded(layer, geometry, size, scale, shrink)
    if not _is_of(found, spec, _named(kernel, lost)):
        raise HypothesisError(f"{found.what} is not {spec}, or of another kernel")
    if size not in (None, (), sizes and sizes[0]):
        raise HypothesisError(f"{found.what} is of another size than {sizes}")
    return found


def _is_of(claim: object, what: object, digest: str) -> bool:
    return isinstance(claim, Upper) and (claim.what, claim.digest) == (what, digest)


def _named(kernel: Numbers, lost: float) -> str:
    return f"scaled {digest_of(kernel)}" if lost else digest_of(kernel)


def _folded(
    layer: Layer,
    geometry: Mapping[str, Any],
    size: tuple[int, ...] | None,
    scale: Numbers | None,
    shrink: Numbers | None,
) -> tuple[ConvSpec, Numbers, float]:
    """A layer, its kernel with each channel scaled, and the norm of what rounding changes in that."""
    kernel = layer.kernel()
    spec = ConvSpec.of(kernel.shape, **geometry, input_shape=size)
    if size is None and spec.divided:
        spec = ConvSpec.of(kernel.shape, **at_every_size(dict(geometry)))
    if scale is None and shrink is None:
        return spec, kernel, 0.0
    if scale is not None:
        kernel = kernel * by_output(scale, spec)
    if shrink is not None:
        kernel = kernel / _by_input(shrink, spec)
    return spec, kernel, fold_error(kernel, spec)


def proves(claim: object, spec: ConvSpec, kernel: Numbers) -> bool:
    """Whether a claim is an upper bound of a layer of this kernel, by its bits."""
    if not isinstance(claim, Upper) or not speaks_of(claim, spec):
        return False
    return claim.digest == digest_of(kernel) or (not spec.ndim and claim.digest == digest_of(kernel.T))


def speaks_of(claim: Upper, spec: ConvSpec) -> bool:
    """Whether a claim bounds a layer: at its size or at every size, of a matrix or of its transpose."""
    if not isinstance(claim.what, ConvSpec):
        return False
    about, own = replace(claim.what, layout=None), replace(spec, layout=None)
    if not spec.ndim:
        return not about.ndim and sorted((about.cout, about.cin)) == sorted((own.cout, own.cin))
    return about in (own, replace(own, input_shape=None))


def by_output(scale: Numbers, spec: ConvSpec) -> Numbers:
    """One number an output channel, in a shape that meets the kernel as it is stored."""
    ones = (1,) * spec.ndim
    if not spec.transposed:
        return scale.reshape(-1, 1, *ones)
    # Entry (i, j) feeds output j of the group of input i.
    each = np.repeat(scale.reshape(spec.groups, -1), spec.cin // spec.groups, axis=0)
    return each.reshape(*each.shape, *ones)


def _by_input(shrink: Numbers, spec: ConvSpec) -> Numbers:
    """One number an input channel, in a shape that meets the kernel as it is stored."""
    ones = (1,) * spec.ndim
    if spec.transposed:
        return shrink.reshape(-1, 1, *ones)
    each = np.repeat(shrink.reshape(spec.groups, -1), spec.cout // spec.groups, axis=0)
    return each.reshape(*each.shape, *ones)


def norm_of_matrices(stack: Numbers, *, ops: ArrayOps) -> Upper:
    """Largest spectral norm of a stack of matrices, rounding counted.

    Parameters
    ----------
    stack : array, shape (b, m, n)
        Finite.
    """
    step = max(1, AT_ONCE // max(math.prod(stack.shape[1:]), 1))
    parts = (stack[at : at + step] for at in range(0, len(stack), step))
    norms = [_largest_up(part, ops) for part in parts if part.size]
    return make_upper(max(norms, default=0.0), _of_stack(stack), "factorisation", digest=digest_of(stack))


def _of_stack(stack: Numbers) -> str:
    return f"largest of {len(stack)} matrices"


def norm_of_stack_by(norms: Norms, layer: Layer) -> Upper:
    """What somebody proves of a stack by `norm_of_matrices`; `HypothesisError` if that is the norm of another one."""
    found, stack = norms.matrices(layer), layer.kernel()
    if not _is_of(found, _of_stack(stack), digest_of(stack)):
        raise HypothesisError(f"{found.what} is not the {_of_stack(stack)}")
    return found


def _largest_up(part: Numbers, ops: ArrayOps) -> float:
    largest = float(np.max(np.abs(part)))
    if not largest:
        return 0.0
    exponent = math.frexp(largest)[1]
    a: Any = np.ldexp(part, -exponent)
    # Entries that underflow are off by less than the smallest normal number each.
    upper: Any = matrix_norm_up(a, part.size * 2.0**-1000, ops=ops)
    return host.next_up(math.ldexp(float(np.max(upper)), exponent))


def fold_error(kernel: Numbers, spec: ConvSpec) -> float:
    """Norm of what rounding changed in a folded kernel, rounded up.

    Each entry has a relative error of at most `ROUNDINGS` roundings (of the scale, of the weights and of the products),
    so their Frobenius norm is at most that share of the kernel's; a layer's norm is at most the Frobenius norm times
    the root of the number of taps (an unfolding bound), times the padding's factor. Entries that underflow are off by
    less than the smallest normal number each.
    """
    frobenius = float(host.norm_up(kernel.reshape(-1)))
    taps = host.root_up(math.prod(spec.kernel_shape) * spec.padding_gain_sq)
    return host.mul_up(taps, host.add_up(host.mul_up(frobenius, ROUNDINGS * 2.0**-53), kernel.size * 2.0**-1000))
