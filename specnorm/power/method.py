"""A layer's largest singular values at one input size, any padding: block Lanczos, and quotients rounded down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from specnorm.backends import arrays
from specnorm.backends.types import ArrayOps
from specnorm.errors import GeometryError, MethodError
from specnorm.geometry.layer_map import Convolution
from specnorm.power.plane_wave import starting_wave
from specnorm.power.proofs.ritz import residuals_up, ritz_values_down
from specnorm.running import checks
from specnorm.running.base import Evaluation, Method, Needs, Plan, Stepped
from specnorm.running.search import Clock
from specnorm.symbols import lanczos, power

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.geometry.spec import ConvSpec


_LEAST_BASIS = 3
"""Vectors of the basis on the smaller side, at least, for each one that is asked for."""
_VECTORS_OF_A_PRODUCT = 4
"""Vectors on the larger side that exist at once, for each one that is asked for."""
_GUARDS = 2
"""Number of vectors that are iterated beside those of several values."""
_WAVE_START_SIZE = 2**21
"""Squared pixels times channels from which a start near a plane wave saves more steps than it costs."""
_WAVE_START_BASIS = 10
"""Size of the basis with such a start, which is near enough after fewer steps. A run can end whenever the basis is
full."""


@dataclass(frozen=True)
class LanczosRun(Plan):
    """Parameters and Lanczos run of `Power` and `PowerTopK`."""

    n_iter: int = 100
    seed: int = 0
    least_gain: float = 1e-6
    budget: float | None = field(default=Clock.BUDGET, kw_only=True)
    max_bytes: int = field(default=ArrayOps.memory, kw_only=True)

    asks: ClassVar = Needs(rounds="down", precision="wide", narrow_gradient=True, blocks=False)
    stats: ClassVar = {"products": None}

    def __post_init__(self) -> None:
        checks.count("n_iter", self.n_iter, least=1, most=checks.MOST_ROUNDS)
        checks.seed(self.seed)
        checks.rtol(self.least_gain, "least_gain")
        checks.budget(self.budget)
        checks.count("max_bytes", self.max_bytes)

    def check(self, spec: ConvSpec) -> None:
        if spec.input_shape is None:
            raise GeometryError(
                f"{self.name} needs input_shape, the layer's spatial input sizes: it applies the layer itself. For the "
                "supremum over every size: conv_norm(kernel)."
            )
        inputs, outputs = (math.prod(shape) for shape in spec.shapes)
        k = min(getattr(self, "k", 1), inputs, outputs)
        vectors = _LEAST_BASIS * min(inputs, outputs) + _VECTORS_OF_A_PRODUCT * max(inputs, outputs)
        memory = 8 * k * vectors
        if memory > self.max_bytes:
            raise MethodError(
                f"{self.name} of a layer with {inputs} inputs and {outputs} outputs takes some {memory / 2**30:.3g} "
                f"GiB for its vectors, and max_bytes={self.max_bytes}. Use enclose, whose lower bound takes part of "
                f"the layer; or fewer values. max_bytes={memory} computes them all the same."
            )

    def lower_bounds(self, kernels: Array, spec: ConvSpec, k: int, *, ops: ArrayOps) -> Evaluation:
        """Lower bounds (b, k) on the k largest singular values.

        Vectors are computed in the kernels' precision, quotients in the widest. The figures are the number of products
        with A and with A*, and, if the plan has them, distances of the values from the nearest singular values, and
        whether the iteration converged. The residual is the gradient of each <u, A v> with the vectors held fixed.
        """
        xp = ops.xp
        guards = 0 if k == 1 else _GUARDS
        layer = Convolution(kernels, spec, vector_count=k + guards, ops=ops)
        outputs, inputs = layer.shape
        # The iteration runs on the smaller side: on outputs if there are fewer of them.
        on_outputs = inputs > outputs
        wide_kernels = arrays.in_wide_dtype(kernels, ops=ops)
        size = min(layer.shape)
        clock = Clock.of(self.budget)
        is_over = (lambda: clock.expired) if ops.concrete else None
        basis_size = None
        start = None
        start_products = 0
        is_one_kernel = k == 1 and kernels.shape[0] == spec.groups == 1
        is_large = size * math.prod(spec.input_shape or ()) >= _WAVE_START_SIZE
        if is_one_kernel and is_large and ops.concrete and ops.on_host:
            start = starting_wave(kernels, spec, self.seed, ops=ops)
            basis_size = _WAVE_START_BASIS
            # The wave lies on the large side of the convolution: on the outputs of a transposed layer, else on the
            # inputs. If the iteration runs on the other side, it starts from the wave's image there.
            if spec.transposed != on_outputs:
                start = layer.adjoint(start) if spec.transposed else layer.apply(start)
                start_products = 1
        vectors, products, converged = lanczos.top_vectors(
            layer.gram(on_outputs),
            kernels,
            size,
            k,
            n_iter=self.n_iter,
            least_gain=self.least_gain,
            seed=self.seed,
            basis_size=basis_size,
            guards=guards,
            start=start,
            is_over=is_over,
            ops=ops,
        )
        wide_layer = Convolution(wide_kernels, spec, vector_count=k, ops=ops)
        wide_vectors = arrays.in_wide_dtype(vectors, ops=ops)
        values, images = ritz_values_down(wide_layer, wide_vectors, on_outputs, ops=ops)
        images = xp.astype(images, kernels.dtype, copy=False)
        u, v = (vectors, images) if on_outputs else (images, vectors)
        figures: tuple[Array, ...] = (products + k + start_products,)
        if "residuals" in self.stats:
            wide_u, wide_v = (arrays.in_wide_dtype(x, ops=ops) for x in (u, v))
            figures += (residuals_up(wide_layer, wide_u, wide_v, values, ops=ops), converged)
        return Evaluation(values, figures, (layer.kernel_gradient(u, v),) if ops.differentiated else ())


@dataclass(frozen=True)
class Power(Stepped, LanczosRun):
    """Norm of the layer itself at ``input_shape``, from below: Lanczos on A*A, with real convolutions.

    Parameters
    ----------
    n_iter : int
        Largest number of steps, each a product with A and one with A*.
    seed : int
        Seed of the start vector. For a large layer of one group, the start is a windowed plane wave plus a random
        vector a tenth as long.
    least_gain : float
        Stop after a restart that increased the value by less than this, relatively. The norm may be farther above the
        value: if several singular values are nearly the largest, a restart may gain little and a later one more.
    budget : float or None
        Time limit in seconds, at which no further restart begins; None, and under a tracer: no limit.
    max_bytes : int
        Layers whose vectors take more memory are refused.

    Notes
    -----
    Entry of ``stats``: ``products`` of the layer or its adjoint.

    References
    ----------
    .. [1] Ryu, Liu, Wang, Chen, Wang, Yin, "Plug-and-Play Methods Provably Converge with Properly Trained Denoisers",
       ICML 2019 (power iteration with real convolutions).
    .. [2] Farnia, Zhang, Tse, "Generalizable Adversarial Training via Spectral Normalization", ICLR 2019.
    .. [3] Golub, Kahan, "Calculating the Singular Values and Pseudo-Inverse of a Matrix", 1965; Wu, Simon,
       "Thick-Restart Lanczos Method for Large Symmetric Eigenvalue Problems", 2000. Ours: every padding, full
       orthogonalisation, the final quotient rounded down with the rounding of the products counted.
    """

    name: ClassVar = "power"
    promise: ClassVar = "lower"
    steps_at_a_size: ClassVar = True
    asks: ClassVar = replace(LanczosRun.asks, precision="mixed", small_products=True)

    def forward_kernels(self, kernels: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        found = self.lower_bounds(kernels, spec, 1, ops=ops)
        return Evaluation(found.value[:, 0], found.stats, tuple(x[:, 0, ...] for x in found.residuals))

    # -- in training -----------------------------------------------------------------------------------------------
    def state_shapes(self, spec: ConvSpec) -> Mapping[str, tuple[int, ...]]:
        """v: a right singular vector, an input of the layer."""
        return {"v": (int(np.prod(spec.shapes[0])),)}

    def start(self, kernels: Array, spec: ConvSpec, *, ops: ArrayOps) -> tuple[Array, ...]:
        xp = ops.xp
        layer = Convolution(kernels, spec, ops=ops)
        size = layer.shape[1]
        found = lanczos.top_vectors(
            layer.gram(False),
            kernels,
            size,
            1,
            n_iter=self.n_iter,
            least_gain=self.least_gain,
            seed=self.seed,
            ops=ops,
        )
        v = found.vectors[:, 0, :]
        return (arrays.normalise_or_keep(v, xp.ones_like(v) / size**0.5, xp=xp)[0],)

    def advance(
        self,
        kernels: Array,
        state: tuple[Array, ...],
        spec: ConvSpec,
        *,
        sweeps: int,
        ops: ArrayOps,
    ) -> tuple[Evaluation, tuple[Array, ...]]:
        xp = ops.xp
        layer = Convolution(kernels, spec, ops=ops)
        v = state[0][:, None, :]
        u, v, norm = power.power_steps(layer.apply, layer.adjoint, v, sweeps, xp=xp)
        return Evaluation(norm[:, 0, 0], (), (layer.kernel_gradient(u, v)[:, 0, ...],)), (v[:, 0, :],)


@dataclass(frozen=True)
class PowerTopK(Method, LanczosRun):
    """The k largest singular values of the layer itself, each from below: block Lanczos with QR.

    Parameters
    ----------
    n_iter, seed, least_gain, budget, max_bytes
        As in `Power`.
    k : int
        Number of singular values; at most as many as the layer has.

    Notes
    -----
    Entries of ``stats``: ``products`` of the layer or its adjoint; ``residuals``, where each value is at most that far
    from a singular value.

    References
    ----------
    .. [1] Boroojeny, Telgarsky, Sundaram, "Spectrum Extraction and Clipping for Implicitly Linear Layers", 2024
       (PowerQR: subspace iteration with automatic differentiation). Ours: a block Krylov basis, the layer's own
       adjoint, and each Ritz value a proven lower bound on the singular value of its rank.
    """

    k: int = 4

    name: ClassVar = "power_top_k"
    promise: ClassVar = "lower"
    stats: ClassVar = {"products": None, "residuals": "distance", "converged": "all"}

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.count("k", self.k, least=1)

    def with_each_twice(self) -> Plan:
        return replace(self, k=2 * self.k)

    def needs(self, spec: ConvSpec) -> Needs:
        return replace(super().needs(spec), value_shape=self._value_shape(spec))

    def _value_shape(self, spec: ConvSpec) -> tuple[int, ...]:
        inputs, outputs = spec.shapes
        return (min(self.k, int(np.prod(inputs)), int(np.prod(outputs))),)

    def forward_kernels(self, kernels: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        (k,) = self._value_shape(spec)
        return self.lower_bounds(kernels, spec, k, ops=ops)
