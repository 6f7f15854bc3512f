"""A layer's largest singular values at one input size, any padding: block Lanczos, and quotients rounded down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from specnorm import arrays
from specnorm.certified.layer.own_matrix import residuals_up, ritz_values_down
from specnorm.errors import GeometryError
from specnorm.methods.base import Evaluation, Method, Needs, Stepped, check_count, check_rtol, weighted, weighted_sum
from specnorm.numerics.lanczos import Plan, top_vectors
from specnorm.numerics.power import follow
from specnorm.problem.layer_map import Convolution
from specnorm.problem.taps import shapes_of

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.certified.rounding import Rounds
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import ArrayOps


POLISHED = 4
"""Ritz vectors found in float32 that are told apart in float64: products in float32 blur values closer than 1e-5."""
_LARGE = 2**12
"""Pixels times channels from which a start near a plane wave saves more steps than it costs."""
_BASIS = 10
"""Vectors of the basis from such a start, which is near enough after fewer steps: a run can end whenever it is full."""


@dataclass(frozen=True, eq=False)
class Ritz:
    """Quotients of a layer, and where they were found.

    Parameters
    ----------
    values : array, shape (b, k)
        Lower bounds of the k largest singular values.
    u, v : arrays, shapes (b, k, outputs) and (b, k, inputs)
        In the kernels' precision.
    layer, exact : Convolution
        In that precision, and in the widest.
    products : integer array, shape (b,)
    """

    values: Array
    u: Array
    v: Array
    layer: Convolution
    exact: Convolution
    products: Array


@dataclass(frozen=True)
class LayerRitz(Method):
    """What `Power` and `PowerTopK` share."""

    n_iter: int = 100
    seed: int = 0
    rtol: float = 1e-6

    promise: ClassVar[Kind] = "lower"
    asks: ClassVar[Needs] = Needs(rounds="down", precision="wide", narrow_gradient=True, blocks=False)
    stats: ClassVar[Mapping[str, Rounds | None]] = {"products": None}

    def __post_init__(self) -> None:
        check_count("n_iter", self.n_iter, least=1)
        check_count("seed", self.seed)
        check_rtol(self.rtol)

    def check(self, spec: ConvSpec) -> None:
        if spec.input_shape is None:
            raise GeometryError(
                "power_norm needs input_shape, the layer's spatial input sizes: it applies the layer itself. For the "
                "supremum over every size: conv_norm(kernel)."
            )
        shapes_of(spec)

    def triples(self, kernels: Array, spec: ConvSpec, k: int, *, ops: ArrayOps) -> Ritz:
        """Lower bounds of the k largest singular values, and where they were found.

        Vectors are found in the kernels' precision, the quotients taken in the widest.
        """
        xp = ops.xp
        layer = Convolution(kernels, spec, vectors=k, ops=ops)
        outputs, inputs = layer.shape
        wide = inputs > outputs

        def gram(x: Array) -> Array:
            return layer.apply(layer.adjoint(x)) if wide else layer.adjoint(layer.apply(x))

        broad = arrays.in_wide_dtype(kernels, ops=ops)
        several = k if broad.dtype == kernels.dtype else max(k, POLISHED)
        size = min(layer.shape)
        plan = Plan(self.n_iter, self.seed, self.rtol)
        start, begun = None, 0
        if k == 1 and kernels.shape[0] == spec.groups == 1 and size >= _LARGE and ops.concrete and ops.on_host:
            from specnorm.search.plane_wave import starting_wave

            start, plan = starting_wave(kernels, spec, self.seed, ops=ops), replace(plan, basis=_BASIS)
            if wide != spec.transposed:
                start, begun = (layer.adjoint if spec.transposed else layer.apply)(start), 1
        vectors, products = top_vectors(gram, kernels, size, k, plan, several=several, start=start, ops=ops)
        exact = Convolution(broad, spec, vectors=several, ops=ops)
        v = arrays.in_wide_dtype(vectors, ops=ops)
        if v.shape[1] > k:
            v = xp.matrix_transpose(xp.linalg.qr(xp.matrix_transpose(v))[0])
            images = exact.adjoint(v) if wide else exact.apply(v)
            products = products + v.shape[1]
            _, turn = xp.linalg.eigh(xp.matmul(images, xp.matrix_transpose(images)))
            v = xp.matmul(xp.matrix_transpose(xp.flip(turn, axis=-1)[:, :, :k]), v)
            vectors = xp.astype(v, kernels.dtype)
        values, images = ritz_values_down(exact, v, wide, ops=ops)
        images = xp.astype(images, kernels.dtype, copy=False)
        u, v = (vectors, images) if wide else (images, vectors)
        return Ritz(values, u, v, layer, exact, products + k + begun)


@dataclass(frozen=True)
class Power(Stepped, LayerRitz):
    """Norm of the layer itself at ``input_shape``, from below: Lanczos on A*A, with real convolutions.

    Parameters
    ----------
    n_iter : int
        Products with A and with A* at most, one pair a step.
    seed : int
        Of the start vector; of a tenth of it where a large layer of one group starts near plane waves.
    rtol : float
        Stop where a whole restart gained relatively less than this.

    References
    ----------
    .. [1] Ryu, Liu, Wang, Chen, Wang, Yin, "Plug-and-Play Methods Provably Converge with Properly Trained Denoisers",
       ICML 2019 (power iteration with real convolutions).
    .. [2] Farnia, Zhang, Tse, "Generalizable Adversarial Training via Spectral Normalization", ICLR 2019.
    .. [3] Golub, Kahan, "Calculating the Singular Values and Pseudo-Inverse of a Matrix", 1965; Wu, Simon,
       "Thick-Restart Lanczos Method for Large Symmetric Eigenvalue Problems", 2000. Ours: every padding, full
       orthogonalisation, the final quotient rounded down with the rounding of the products counted.
    """

    name: ClassVar[str] = "power"
    asks: ClassVar[Needs] = replace(LayerRitz.asks, precision="mixed", small_products=True)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        found = self.triples(blocks, spec, 1, ops=ops)
        gradients = found.layer.kernel_gradient(found.u, found.v)
        return Evaluation(found.values[:, 0], (found.products,), (gradients[:, 0, ...],))

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """Gradient of Re<u, A v> with the vectors held fixed."""
        return weighted(residuals, cotangent, xp=xp)

    # -- in training -----------------------------------------------------------------------------------------------
    def state_shapes(self, spec: ConvSpec) -> Mapping[str, tuple[int, ...]]:
        """An input of the layer."""
        return {"v": (int(np.prod(shapes_of(spec)[0])),)}

    def start(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> tuple[Array, ...]:
        xp = ops.xp
        layer = Convolution(blocks, spec, ops=ops)
        size = layer.shape[1]

        def gram(x: Array) -> Array:
            return layer.adjoint(layer.apply(x))

        plan = Plan(self.n_iter, self.seed, self.rtol)
        v = top_vectors(gram, blocks, size, 1, plan, ops=ops)[0][:, 0, :]
        return (arrays.normalise_or_keep(v, xp.ones_like(v) / size**0.5, xp=xp)[0],)

    def advance(
        self,
        blocks: Array,
        state: tuple[Array, ...],
        spec: ConvSpec,
        *,
        sweeps: int,
        ops: ArrayOps,
    ) -> tuple[Evaluation, tuple[Array, ...]]:
        xp = ops.xp
        layer = Convolution(blocks, spec, ops=ops)
        v = state[0][:, None, :]
        u, v, norm = follow(layer.apply, layer.adjoint, v, sweeps, normalise=arrays.normalise, xp=xp)
        return Evaluation(norm[:, 0, 0], (), (layer.kernel_gradient(u, v)[:, 0, ...],)), (v[:, 0, :],)


@dataclass(frozen=True)
class PowerTopK(LayerRitz):
    """The k largest singular values of the layer itself, each from below: block Lanczos with QR.

    Parameters
    ----------
    n_iter, seed, rtol
        As in `Power`.
    k : int
        How many; at most as many as the layer has.

    References
    ----------
    .. [1] Boroojeny, Telgarsky, Sundaram, "Spectrum Extraction and Clipping for Implicitly Linear Layers", 2024
       (PowerQR: subspace iteration with automatic differentiation). Ours: a block Krylov basis, the layer's own
       adjoint, and each Ritz value a proven lower bound of the singular value of its rank.
    """

    k: int = 4

    name: ClassVar[str] = "power_top_k"
    stats: ClassVar[Mapping[str, Rounds | None]] = {"products": None, "residuals": "up"}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("k", self.k, least=1)

    def needs(self, spec: ConvSpec) -> Needs:
        return replace(super().needs(spec), value_shape=self._value_shape(spec))

    def _value_shape(self, spec: ConvSpec) -> tuple[int, ...]:
        inputs, outputs = shapes_of(spec)
        return (min(self.k, int(np.prod(inputs)), int(np.prod(outputs))),)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        (k,) = self._value_shape(spec)
        found = self.triples(blocks, spec, k, ops=ops)
        u, v = (arrays.in_wide_dtype(x, ops=ops) for x in (found.u, found.v))
        residuals = residuals_up(found.exact, u, v, found.values, ops=ops)
        gradients = found.layer.kernel_gradient(found.u, found.v)
        return Evaluation(found.values, (found.products, residuals), (gradients,))

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """Gradients of Re<u_j, A v_j>, weighted."""
        return weighted_sum(residuals, cotangent, xp=xp)
