"""The layer's largest singular values at one input size, any padding: block Lanczos, and quotients rounded down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from specnorm import arrays, rounding
from specnorm.convolution import BUDGET, Convolution, shapes_of
from specnorm.errors import GeometryError
from specnorm.methods.base import Evaluation, Method, check_count, check_rtol

if TYPE_CHECKING:
    from specnorm.backends import Array, Backend
    from specnorm.conv import ConvSpec
    from specnorm.result import Kind
    from specnorm.rounding import Rounds

BASIS = 24
"""Vectors of the Krylov basis before a restart; fewer where they would not fit the memory budget."""


@dataclass(frozen=True)
class _Lanczos(Method):
    """What `Power` and `PowerTopK` share."""

    n_iter: int = 100
    seed: int = 0
    rtol: float = 1e-6

    rounds: ClassVar[Rounds] = "down"
    stats: ClassVar[Mapping[str, Rounds | None]] = {"products": None}
    wide: ClassVar[bool] = True
    outer_products: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("n_iter", self.n_iter, least=1)
        check_count("seed", self.seed)
        check_rtol(self.rtol)

    def folds(self, spec: ConvSpec) -> bool:
        """The kernel as it is."""
        del spec
        return False

    def kind(self, spec: ConvSpec) -> Kind:
        """Lower."""
        del spec
        return "lower"

    def check(self, spec: ConvSpec) -> None:
        """Every geometry, at a size."""
        if spec.input_shape is None:
            raise GeometryError(
                "power_norm needs input_shape, the layer's spatial input sizes: it applies the layer itself. For the "
                "supremum over every size: conv_norm(kernel)."
            )
        shapes_of(spec)

    def triples(
        self, kernels: Array, spec: ConvSpec, k: int, *, xp: Any, backend: Backend
    ) -> tuple[Array, Array, Array]:
        """Lower bounds of the k largest singular values (b, k), their gradients (b, k, *shape), products (b,)."""
        layer = Convolution(kernels, spec, vectors=k, xp=xp, backend=backend)
        outputs, inputs = layer.shape
        wide = inputs > outputs
        magnitude = layer.absolute()

        def gram(x: Array) -> Array:
            return layer.apply(layer.adjoint(x)) if wide else layer.adjoint(layer.apply(x))

        vectors, products = top_vectors(gram, kernels, min(layer.shape), k, self, xp=xp, backend=backend)
        images = layer.adjoint(vectors) if wide else layer.apply(vectors)
        terms = magnitude.adjoint(xp.abs(vectors)) if wide else magnitude.apply(xp.abs(vectors))
        values = rounding.ritz_down(images, terms, vectors, layer.roundings[wide], xp=xp, backend=backend)
        images, _ = arrays.normalise(images, xp=xp)
        u, v = (vectors, images) if wide else (images, vectors)
        return values, layer.kernel_gradient(u, v), products + k


@dataclass(frozen=True)
class Power(_Lanczos):
    """Norm of the layer itself at ``input_shape``, from below: Lanczos on A*A, with real convolutions.

    Parameters
    ----------
    n_iter : int
        Products with A and with A* at most, one pair a step.
    seed : int
        Of the start vector.
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

    def forward(self, blocks: Array, spec: ConvSpec, *, xp: Any, backend: Backend) -> Evaluation:
        """Quotient ||A v|| / ||v|| at the best vector found, rounded down."""
        values, gradients, products = self.triples(blocks, spec, 1, xp=xp, backend=backend)
        return Evaluation(values[:, 0], (products,), (gradients[:, 0, ...],))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
        """Gradient of Re<u, A v> with the vectors held fixed."""
        del spec
        (gradient,) = residuals
        return gradient * xp.reshape(cotangent, (-1,) + (1,) * (gradient.ndim - 1))

    # -- in training -----------------------------------------------------------------------------------------------
    def state_shapes(self, spec: ConvSpec) -> Mapping[str, tuple[int, ...]]:
        """An input of the layer."""
        return {"v": (int(np.prod(shapes_of(spec)[0])),)}

    def start(self, blocks: Array, spec: ConvSpec, *, xp: Any, backend: Backend) -> tuple[Array, ...]:
        """The input that Lanczos ends at; a constant one for a zero kernel."""
        layer = Convolution(blocks, spec, xp=xp, backend=backend)
        size = layer.shape[1]

        def gram(x: Array) -> Array:
            return layer.adjoint(layer.apply(x))

        v = top_vectors(gram, blocks, size, 1, self, xp=xp, backend=backend)[0][:, 0, :]
        return (arrays.normalise_or_keep(v, xp.ones_like(v) / size**0.5, xp=xp)[0],)

    def advance(
        self, blocks: Array, state: tuple[Array, ...], spec: ConvSpec, *, sweeps: int, xp: Any, backend: Backend
    ) -> tuple[Evaluation, tuple[Array, ...]]:
        """Power steps with the layer and its adjoint."""
        layer = Convolution(blocks, spec, xp=xp, backend=backend)
        v = state[0][:, None, :]
        u, norm = arrays.normalise(layer.apply(v), xp=xp)
        for j in range(sweeps):
            if j:
                u, _ = arrays.normalise(layer.apply(v), xp=xp)
            v, norm = arrays.normalise_or_keep(layer.adjoint(u), v, xp=xp)
        return Evaluation(norm[:, 0, 0], (), (layer.kernel_gradient(u, v)[:, 0, ...],)), (v[:, 0, :],)


@dataclass(frozen=True)
class PowerTopK(_Lanczos):
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

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("k", self.k, least=1)

    def value_shape(self, spec: ConvSpec) -> tuple[int, ...]:
        """(k,), or all there are."""
        inputs, outputs = shapes_of(spec)
        return (min(self.k, int(np.prod(inputs)), int(np.prod(outputs))),)

    def forward(self, blocks: Array, spec: ConvSpec, *, xp: Any, backend: Backend) -> Evaluation:
        """Ritz values of the block, rounded down."""
        (k,) = self.value_shape(spec)
        values, gradients, products = self.triples(blocks, spec, k, xp=xp, backend=backend)
        return Evaluation(values, (products,), (gradients,))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
        """Gradients of Re<u_j, A v_j>, weighted."""
        del spec
        (gradients,) = residuals
        weights = xp.reshape(cotangent, (*cotangent.shape, *(1,) * (gradients.ndim - 2)))
        return xp.sum(gradients * weights, axis=1)


def top_vectors(
    gram: Callable[[Array], Array], like: Array, size: int, k: int, plan: _Lanczos, *, xp: Any, backend: Backend
) -> tuple[Array, Array]:
    """Vectors near the k top eigenvectors of symmetric positive semidefinite maps: thick-restart block Lanczos.

    Every vector is orthogonalised against the whole basis, so the projected matrix H is made of true inner products
    and a restart keeps the leading Ritz vectors without special treatment. Nothing here has to be right for the
    quotients taken afterwards to be bounds.

    Parameters
    ----------
    gram : callable
        (b, k, size) -> (b, k, size).
    like : array, shape (b, ...)
        For batch, dtype and device.

    Returns
    -------
    vectors : array, shape (b, k, size)
        Orthonormal up to rounding, by descending Ritz value.
    products : integer array, shape (b,)
        Applications of the map and of its adjoint to one vector each.
    """
    b, dtype, device = like.shape[0], like.dtype, backend.device(like)
    m, width, cycles = _plan(size, k, plan.n_iter, BUDGET // np.dtype("float64").itemsize)
    kept = max(1, m // 2)
    rows = m * width
    host = np.float64 if dtype == xp.float64 else np.float32
    random = np.real(arrays.random_vectors(plan.seed, (2, width, size)))
    start = backend.from_numpy(np.ascontiguousarray(random[0].astype(host)), like)
    angles = backend.from_numpy(np.ascontiguousarray(random[1].astype(host)), like)
    u = rounding.unit(like, xp=xp)
    places = xp.reshape(xp.arange(m + 1, dtype=xp.int32, device=device), (1, -1, 1, 1))
    blocks = xp.reshape(places[0, :m, 0, 0], (m, 1))
    number = xp.reshape(xp.broadcast_to(blocks, (m, width)), (-1,))

    def orthonormal(w: Array) -> Array:
        if width == 1:
            return arrays.normalise(w, xp=xp)[0]
        return xp.matrix_transpose(xp.linalg.qr(xp.matrix_transpose(w))[0])

    def without(w: Array, basis: Array) -> tuple[Array, Array]:
        inner = xp.matmul(basis, xp.matrix_transpose(w))
        return w - xp.matmul(xp.matrix_transpose(inner), basis), inner

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        j, basis, projected = state
        flat = xp.reshape(basis, (b, -1, size))
        w = gram(xp.sum(xp.where(places == j, basis, xp.zeros_like(basis)), axis=1))
        norm = xp.linalg.vector_norm(w, axis=-1, keepdims=True)
        w, first = without(w, flat)
        w, second = without(w, flat)
        # An invariant subspace is exhausted: go on with a direction that changes from step to step.
        turned = xp.cos(angles * (j + 1))
        w = w + (norm + 1) * (64 * u) * turned / size**0.5
        w, _ = without(orthonormal(w), flat)
        w = orthonormal(w)
        inner = (first + second)[:, :rows, :]
        here = xp.astype(number == j, dtype)
        columns = xp.reshape(xp.broadcast_to(inner[:, :, None, :], (b, rows, m, width)), (b, rows, rows))
        projected = xp.where(here > 0, columns, projected)
        basis = xp.where(places == j + 1, w[:, None, :, :], basis)
        return j + 1, basis, projected

    def restart(state: tuple[Array, ...]) -> tuple[Array, ...]:
        cycle, j, basis, projected, best, vectors, active, products = state
        begun = j
        j, basis, projected = backend.loop(lambda s: s[0] < m, step, (j, basis, projected))
        products = products + xp.astype(active, products.dtype) * (2 * width * (j - begun))
        upper = xp.triu(projected)
        values, small = xp.linalg.eigh(upper + xp.matrix_transpose(xp.triu(projected, k=1)))
        values, small = xp.flip(values, axis=-1), xp.flip(small, axis=-1)
        flat = xp.reshape(basis, (b, -1, size))
        keep = kept * width
        ritz = xp.matmul(xp.matrix_transpose(small[:, :, :keep]), flat[:, :rows, :])
        vectors = xp.where(active[:, None, None], ritz[:, :k, :], vectors)
        found = values[:, :k]
        gained = xp.any(found - best > plan.rtol * found[:, :1], axis=-1)
        basis = xp.concat(
            [
                xp.reshape(ritz, (b, kept, width, size)),
                basis[:, m:, :, :],
                xp.zeros((b, m - kept, width, size), dtype=dtype, device=device),
            ],
            axis=1,
        )
        eye = xp.eye(rows, dtype=dtype, device=device)
        leading = xp.where(number < kept, values, xp.zeros_like(values))
        return (
            cycle + 1,
            j * 0 + kept,
            basis,
            eye * leading[:, None, :],
            found,
            vectors,
            active & gained,
            products,
        )

    first = orthonormal(xp.broadcast_to(start[None, ...], (b, width, size)))
    basis = xp.where(places == 0, first[:, None, :, :], xp.zeros((b, m + 1, width, size), dtype=dtype, device=device))
    counter = arrays.counter(like, xp=xp, backend=backend)
    state = (
        counter,
        counter,
        basis,
        xp.zeros((b, rows, rows), dtype=dtype, device=device),
        xp.zeros((b, k), dtype=dtype, device=device),
        xp.zeros((b, k, size), dtype=dtype, device=device),
        xp.ones((b,), dtype=xp.bool, device=device),
        xp.zeros((b,), dtype=xp.int32, device=device),
    )
    state = backend.loop(lambda s: (s[0] < cycles) & xp.any(s[6]), restart, state)
    return arrays.normalise(state[5], xp=xp)[0], state[7]


def _plan(size: int, k: int, n_iter: int, budget: int) -> tuple[int, int, int]:
    """Blocks of the basis, vectors a block, restarts: static, and the same for every batch."""
    if size < 3 * k:
        return 1, size, 1  # the whole space is the basis
    m = min(max(3, BASIS // k), max(3, budget // (k * size)), size // k - 1, n_iter)
    m = max(1, m)
    later = m - max(1, m // 2)
    cycles = 1 + (-(-(n_iter - m) // later) if later else n_iter - m)
    return m, k, cycles
