"""Prove the norms of the layers of a network, each once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Unpack

from specnorm import ConvSpec
from specnorm.methods import Enclose, FantasticFour
from specnorm.proof import Clock, arithmetic, backends, check_values, counted, proven
from specnorm_networks.certified.kernels import (
    PlacedLayer,
    SizesOfLayer,
    norm_by_entries,
    norm_of_layer,
    norm_of_matrices,
    spec_of,
)
from specnorm_networks.certified.subjects import digest_of_bits

if TYPE_CHECKING:
    from specnorm import Geometry, Result
    from specnorm.methods import Method
    from specnorm.proof import AnyArray, Upper
    from specnorm_networks.certified.operators.base import FloatArray
    from specnorm_networks.certified.operators.layers import Layer

WORK = 2**25
"""Largest work, groups times the cube of a group's smaller side, for which a layer is enclosed at its own size. It
takes about a second. Larger layers get the bound for every size."""
CHEAP = 1000
"""If a search needed at most this number of cells, it is repeated with a hundredth of the tolerance."""
MOST_CELLS = 500_000
"""Largest number of cells of a search for the norm of many layers together. Good multipliers make the norm nearly the
same at many frequencies, so that many cells are needed."""
CELLS = 2**34
"""Largest product of that number of cells and the cube of the kernel's smaller side."""
LEAST = 0.05
"""Time limit in seconds of a layer's proof that begins when the clock has expired, or shortly before."""
NAMED = 3
"""Number of layers that are named of those whose norms were cut short."""
LATE = 0.1
"""Share of the time by which such proofs may be late together, if it is more than `LATEST`."""
LATEST = 0.5
"""Seconds by which they may be late together. Later layers are bounded by their entries."""
LARGEST = 2**20
"""Largest number of entries on either side of a layer that is enclosed at its own size, however small the other is."""


@dataclass
class Cut:
    """What a clock ended early, or left out."""

    layers: dict[str, None] = field(default_factory=dict)
    """Names of layers whose norms were cut short."""
    searches: dict[str, None] = field(default_factory=dict)
    """Searches, in words."""

    def __str__(self) -> str:
        parts = [*self.searches]
        if self.layers:
            names = ", ".join([*self.layers][:NAMED]) + (", ..." if len(self.layers) > NAMED else "")
            parts.insert(0, f"the norms of {counted(len(self.layers), 'layer')} ({names})")
        return "; ".join(parts)


@dataclass
class Measure:
    """Measures layers, each kernel once for each geometry, size and scale: the `Norms` of the rules.

    Kernels are identified by their numbers, not by the names of their layers. So one instance may serve several
    networks, or a network whose kernels change.

    Parameters
    ----------
    rtol : float
        Relative width of the enclosures.
    known : callable, optional
        ``known(layer, spec)`` returns a claim that was proven of a layer before, or None.
    clock : Clock, optional
        Time limit of the proofs. A norm that was cut short is proven; another clock, if it has time, measures it again.
    """

    rtol: float = 1e-3
    known: Callable[[Layer, ConvSpec], Upper | None] | None = None
    clock: Clock = field(default_factory=Clock)
    _norms: dict[Any, Upper] = field(default_factory=dict)
    """Norms of layers, by kernel, geometry, size and scale; of stacks of matrices, by the digest of their bits."""
    _cut_norms: dict[Any, tuple[Upper, Clock]] = field(default_factory=dict)
    """Norms that were cut short, and the clock that did so."""
    cut: Cut = field(default_factory=Cut, repr=False)
    """What the clock cut so far."""
    seconds: float = field(init=False, default=0.0)
    """What the norms of layers took so far; not a number if the clock has no limit."""

    def __post_init__(self) -> None:
        Enclose(rtol=self.rtol)  # raises if rtol is no tolerance

    def __call__(
        self,
        placed_layer: PlacedLayer,
        scale: FloatArray | None,
        shrink: FloatArray | None = None,
    ) -> Upper:
        """Return the norm of a layer; see `kernels.norm_of_layer`.

        Parameters
        ----------
        scale, shrink : array, optional
            As for `kernels.norm_of_layer`.

        Raises
        ------
        SpecnormError
            If the kernel cannot be measured.
        """
        layer = placed_layer.layer
        key = (
            _digest(layer.load()),
            layer.outputs_last,
            repr(sorted(placed_layer.geometry.items())),
            placed_layer.sizes,
            None if scale is None else scale.tobytes(),
            None if shrink is None else shrink.tobytes(),
        )
        known_norm = self._norm_by_key(key)
        if known_norm is not None:
            return known_norm
        begun = self.clock.left
        size = _own_size(placed_layer.spec, placed_layer.sizes)
        spec = spec_of(tuple(layer.stored().shape), placed_layer.geometry, size)
        is_plain = scale is None and shrink is None
        earlier_claim = self.known(layer, spec) if self.known and is_plain else None
        prove = self._prove if earlier_claim is None else (lambda *_: (earlier_claim,))
        if earlier_claim is None and self.clock.left < -max(LATEST, LATE * self.clock.seconds):
            prove = norm_by_entries
        norm = norm_of_layer(placed_layer, size, scale, shrink, prove)
        self.seconds += begun - self.clock.left
        if key in self._cut_norms:
            norm = min(norm, self._cut_norms[key][0], key=float)
        if self.clock.expired:
            self._cut_norms[key] = norm, self.clock
            self.cut.layers[layer.name] = None
        else:
            self._norms[key] = norm
            self.cut.layers.pop(layer.name, None)
        return norm

    def matrices(self, layer: Layer) -> Upper:
        """Return the largest norm of a stack of matrices; see `kernels.norm_of_matrices`."""
        stack = layer.load()
        key = _digest(stack)
        known_norm = self._norm_by_key(key)
        if known_norm is not None:
            return known_norm
        numbers: Any = layer.kernel()
        backend = backends.backend_for(numbers)
        check_values(numbers, numbers.shape, backend=backend)
        clock = Clock.of(self._seconds)
        with arithmetic.exact(numbers, backend=backend):
            norm = norm_of_matrices(numbers, clock)
        self.clock.has_cut |= clock.has_cut
        if clock.has_cut:
            self._cut_norms[key] = norm, self.clock
        else:
            self._norms[key] = norm
        return norm

    def of_kernel(self, kernel: FloatArray, rtol: float) -> Upper:
        """Return the norm of a plain kernel at every size."""
        cells = max(Enclose.max_cells, min(MOST_CELLS, CELLS // min(kernel.shape[:2]) ** 3))
        return claimed(kernel, Enclose(rtol=rtol, max_cells=cells, budget=self._seconds))[1]

    def _norm_by_key(self, key: Any) -> Upper | None:
        """Return a norm that was measured before; None if there is none, or if this clock may improve it."""
        norm, clock = self._cut_norms.get(key, (None, self.clock))
        return self._norms.get(key, norm if clock is self.clock or self.clock.expired else None)

    @property
    def _seconds(self) -> float | None:
        """Time limit of a proof; None: no limit."""
        return None if math.isinf(self.clock.deadline) else max(self.clock.left, LEAST)

    def _prove(self, kernel: AnyArray, spec: ConvSpec) -> list[Upper]:
        geometry = spec.geometry
        size = spec.input_shape
        enclosure, upper = claimed(kernel, Enclose(rtol=self.rtol, budget=self._seconds), **geometry, input_shape=size)
        claims = [upper]
        if self.clock.expired:
            return claims
        claims.append(claimed(kernel, FantasticFour(), **geometry)[1])
        least = min(map(float, claims))
        is_cheap = int(enclosure.stats["cells"]) <= CHEAP and self.clock.left > LEAST
        is_wide = least > float(enclosure.stats["lower"]) * (1 + self.rtol / 100)
        if is_cheap and is_wide:
            # If layers are trained to have norm 1, say, the tolerances of all would multiply in the product.
            close = Enclose(rtol=self.rtol / 100, budget=self._seconds)
            claims.append(claimed(kernel, close, **geometry, input_shape=size)[1])
        return claims


def claimed(kernel: AnyArray, method: Method, **geometry: Unpack[Geometry]) -> tuple[Result, Upper]:
    """Measure a layer by a method that proves a bound; return the method's result and its claim.

    A method that a compiler runs returns no claims; it runs once more in NumPy then. A matrix is stated to be one, so
    that no warning says that it looks like one filter.
    """
    if kernel.ndim == 2:
        geometry["layout"] = "OI"
    result, claims = proven(kernel, method, **geometry)
    if not claims:
        _, claims = proven(backends.backend_for(kernel).to_numpy(kernel), method, **geometry)
    ((_, upper),) = claims
    return result, upper


def _own_size(spec: ConvSpec, sizes: SizesOfLayer | None) -> tuple[int, ...] | None:
    """Return the input size at which to enclose a layer; None if the bound for every size is as sharp, or much faster.

    ``sizes`` are the spatial sizes of input and output; None: they are unknown.
    """
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
        if replace(spec, input_shape=before).is_circulant:
            return before
    columns = spec.cin // spec.groups * math.prod(before)
    rows = spec.cout // spec.groups * math.prod(after)
    is_affordable = spec.groups * min(rows, columns) ** 3 <= WORK and max(rows, columns) <= LARGEST
    return before if is_affordable else None


def _digest(kernel: Any) -> str:
    """Return the digest of a kernel's numbers, precision and shape: a twentieth of a second for 100 MB.

    The digest is computed at each call, since the array may have been written to since the last one.
    """
    return digest_of_bits((str(kernel.dtype), backends.backend_for(kernel).to_numpy(kernel)))
