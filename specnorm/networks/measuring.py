"""The norm of one layer of a network, proven, and what Miyato's heuristic says of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specnorm.api import f4_bound
from specnorm.backends import backend_for
from specnorm.certified import host
from specnorm.certified.network.kernels import fold_error, in_float64, norm_of_matrices_up
from specnorm.folding import fold_batch_norm
from specnorm.norms import reshaped_norm
from specnorm.problem.spec import ConvSpec, at_every_size
from specnorm.proving import enclose

if TYPE_CHECKING:
    from specnorm.certified.network.operators.layers import Layer

WORK = 2**25
"""Groups times the cube of a group's smaller side up to which a layer is enclosed at its own size: a second at most.
Others get the bound for every size."""
CHEAP = 1000
"""Cells of a search up to which one to a hundredth of the tolerance costs little more."""
LARGEST = 2**20
"""Most entries on either side of a layer that is looked at as it is, however small the other side."""


@dataclass(frozen=True)
class Norm:
    """Of one layer.

    Parameters
    ----------
    upper : float
        Proven.
    heuristic : float
        Norm of the reshaped kernel: too small.
    """

    upper: float
    heuristic: float


@dataclass
class Measure:
    """Measures layers, each kernel once for each geometry, size and scale.

    Kernels are known by their numbers, whatever their layers are called, so that one may serve several networks, or one
    whose kernels change.

    Parameters
    ----------
    rtol : float
        Of the enclosures.
    known : callable, optional
        ``known(layer, spec)``: the norm of a layer that was measured before, or None.
    """

    rtol: float = 1e-3
    known: Callable[[Layer, ConvSpec], Norm | None] | None = None
    _found: dict[Any, Norm] = field(default_factory=dict)
    _stacks: dict[str, float] = field(default_factory=dict)
    """By the digest of their bits."""

    def __call__(
        self,
        layer: Layer,
        geometry: dict[str, Any],
        sizes: tuple[tuple[int, ...], tuple[int, ...]] | None,
        scale: NDArray[np.float64] | None,
        shrink: NDArray[np.float64] | None = None,
    ) -> Norm:
        """Norm of a layer, with each output channel multiplied by ``scale``, each input channel divided by ``shrink``.

        Parameters
        ----------
        geometry : dict
            Instead of the layer's own, if padding was merged.
        sizes : pair of tuple of int, optional
            Spatial sizes before and after; None: every size.
        scale : array, shape (cout,), optional
            float64, correct to a few roundings.
        shrink : array, shape (cin,), optional
            float64, positive, exact.

        Raises
        ------
        SpecnormError
            If the kernel cannot be measured.
        """
        kernel = layer.load()
        key = (
            _digest(kernel),
            layer.transposed,
            repr(sorted(geometry.items())),
            sizes,
            None if scale is None else scale.tobytes(),
            None if shrink is None else shrink.tobytes(),
        )
        if key not in self._found:
            self._found[key] = self._measure(layer, kernel, geometry, sizes, scale, shrink)
        return self._found[key]

    def matrices(self, layer: Layer) -> float:
        """Proven upper bound of the largest norm of a stack of matrices; see `norm_of_matrices_up`."""
        stack = layer.load()
        key = _digest(stack)
        if key not in self._stacks:
            self._stacks[key] = norm_of_matrices_up(stack)
        return self._stacks[key]

    def _measure(
        self,
        layer: Layer,
        kernel: Any,
        geometry: dict[str, Any],
        sizes: tuple[tuple[int, ...], tuple[int, ...]] | None,
        scale: NDArray[np.float64] | None,
        shrink: NDArray[np.float64] | None,
    ) -> Norm:
        kernel = kernel.T if layer.transposed else kernel
        spec = ConvSpec.of(tuple(kernel.shape), **geometry)
        size = _own_size(spec, sizes)
        if scale is None and shrink is None and self.known is not None:
            found = self.known(layer, ConvSpec.of(tuple(kernel.shape), **geometry, input_shape=size))
            if found is not None:
                return found
        lost = 0.0
        if scale is not None or shrink is not None:
            kernel = in_float64(kernel)
            if scale is not None:
                plain: Any = {name: geometry[name] for name in ("groups", "transposed") if name in geometry}
                # gamma / sqrt(var + eps) is `scale` already: as gamma, over a variance of 1.
                kernel = fold_batch_norm(kernel, scale, np.ones_like(scale), 0.0, **plain)
            if shrink is not None:
                kernel = kernel / _by_input(shrink, spec)
            lost = fold_error(kernel, spec)
        if size is None and spec.divided:
            geometry = at_every_size(geometry)
        enclosure = enclose(kernel, size, rtol=self.rtol, **geometry)
        upper = min(float(enclosure.upper), float(f4_bound(kernel, **geometry)))
        if enclosure.cells <= CHEAP and upper > float(enclosure.lower) * (1 + self.rtol / 100):
            # Layers at a bound are proven to be there; a tolerance on each would be a factor on their product.
            upper = min(upper, float(enclose(kernel, size, rtol=self.rtol / 100, **geometry).upper))
        plain = {name: value for name, value in geometry.items() if not name.startswith("padding")}
        return Norm(host.add_up(upper, lost), float(reshaped_norm(kernel, **plain)))


def _own_size(spec: ConvSpec, sizes: tuple[tuple[int, ...], tuple[int, ...]] | None) -> tuple[int, ...] | None:
    """Size to enclose the layer at; None where that would not be sharper, or take long."""
    if not spec.ndim:
        return ()
    if sizes is None:
        return None
    before, after = sizes
    if max(map(math.prod, sizes)) > LARGEST:
        return None
    if spec.padding_mode == "circular":
        if not spec.transposed and any(n % s for n, s in zip(before, spec.stride, strict=True)):
            return None
        if replace(spec, input_shape=before).periodic:
            return before
    sides = (spec.cin // spec.groups * math.prod(before), spec.cout // spec.groups * math.prod(after))
    return before if spec.groups * min(sides) ** 3 <= WORK and max(sides) <= LARGEST else None


def _digest(kernel: Any) -> str:
    """Of a kernel's numbers, precision and shape: a twentieth of a second for 100 MB.

    It is taken at each call: an array may be written to between two.
    """
    numbers = np.ascontiguousarray(backend_for(kernel).to_numpy(kernel))
    whole = hashlib.sha256(f"{kernel.dtype} {numbers.shape}:".encode())
    whole.update(numbers.reshape(-1).view(np.uint8).data)
    return whole.hexdigest()


def _by_input(shrink: NDArray[np.float64], spec: ConvSpec) -> NDArray[np.float64]:
    """One number an input channel, in a shape that meets the kernel as it is stored."""
    ones = (1,) * spec.ndim
    if spec.transposed:
        return shrink.reshape(-1, 1, *ones)
    each = shrink.reshape(spec.groups, 1, spec.cin // spec.groups)
    wide = np.broadcast_to(each, (spec.groups, spec.cout // spec.groups, spec.cin // spec.groups))
    return wide.reshape(spec.cout, spec.cin // spec.groups, *ones)
