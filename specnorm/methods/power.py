"""The layer's largest singular values at one input size, any padding: block Lanczos, and quotients rounded down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from specnorm.errors import GeometryError
from specnorm.linalg import arrays
from specnorm.linalg.layer_map import BUDGET, Convolution, shapes_of
from specnorm.methods.base import Evaluation, Method, check_count, check_rtol
from specnorm.proof import matrices, rounding

if TYPE_CHECKING:
    from specnorm.proof.rounding import Rounds
    from specnorm.result import Kind
    from specnorm.spec import ConvSpec
    from specnorm.types import Array, ArrayOps

BASIS = 24
"""Vectors of the Krylov basis before a restart; fewer where they would not fit the memory budget."""
POLISHED = 4
"""Ritz vectors found in float32 that are told apart in float64: products in float32 blur values closer than 1e-5."""


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

    def triples(self, kernels: Array, spec: ConvSpec, k: int, *, ops: ArrayOps) -> tuple[Array, Array, Array]:
        """Lower bounds of the k largest singular values (b, k), their gradients (b, k, *shape), products (b,).

        Vectors are found in the kernels' precision, the quotients taken in the widest.
        """
        xp = ops.xp
        layer = Convolution(kernels, spec, vectors=k, ops=ops)
        outputs, inputs = layer.shape
        wide = inputs > outputs

        def gram(x: Array) -> Array:
            return layer.apply(layer.adjoint(x)) if wide else layer.adjoint(layer.apply(x))

        broad = arrays.widened(kernels, ops=ops)
        several = k if broad.dtype == kernels.dtype else max(k, POLISHED)
        size = min(layer.shape)
        vectors, products = top_vectors(gram, kernels, size, k, self, several=several, ops=ops)
        exact = Convolution(broad, spec, vectors=several, ops=ops)
        magnitude, v = exact.absolute(), arrays.widened(vectors, ops=ops)
        if v.shape[1] > k:
            v = xp.matrix_transpose(xp.linalg.qr(xp.matrix_transpose(v))[0])
            images = exact.adjoint(v) if wide else exact.apply(v)
            products = products + v.shape[1]
            _, turn = xp.linalg.eigh(xp.matmul(images, xp.matrix_transpose(images)))
            v = xp.matmul(xp.matrix_transpose(xp.flip(turn, axis=-1)[:, :, :k]), v)
            vectors = xp.astype(v, kernels.dtype)
        images = exact.adjoint(v) if wide else exact.apply(v)
        terms = magnitude.adjoint(xp.abs(v)) if wide else magnitude.apply(xp.abs(v))
        values = matrices.ritz_down(images, terms, v, exact.roundings[wide], ops=ops)
        images = xp.astype(arrays.normalise(images, xp=xp)[0], kernels.dtype, copy=False)
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
    widens: ClassVar[bool] = True
    small_steps: ClassVar[bool] = True

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Quotient ||A v|| / ||v|| at the best vector found, rounded down."""
        values, gradients, products = self.triples(blocks, spec, 1, ops=ops)
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

    def start(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> tuple[Array, ...]:
        """The input that Lanczos ends at; a constant one for a zero kernel."""
        xp = ops.xp
        layer = Convolution(blocks, spec, ops=ops)
        size = layer.shape[1]

        def gram(x: Array) -> Array:
            return layer.adjoint(layer.apply(x))

        v = top_vectors(gram, blocks, size, 1, self, ops=ops)[0][:, 0, :]
        return (arrays.normalise_or_keep(v, xp.ones_like(v) / size**0.5, xp=xp)[0],)

    def advance(
        self, blocks: Array, state: tuple[Array, ...], spec: ConvSpec, *, sweeps: int, ops: ArrayOps
    ) -> tuple[Evaluation, tuple[Array, ...]]:
        """Power steps with the layer and its adjoint."""
        xp = ops.xp
        layer = Convolution(blocks, spec, ops=ops)
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

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Ritz values of the block, rounded down."""
        (k,) = self.value_shape(spec)
        values, gradients, products = self.triples(blocks, spec, k, ops=ops)
        return Evaluation(values, (products,), (gradients,))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
        """Gradients of Re<u_j, A v_j>, weighted."""
        del spec
        (gradients,) = residuals
        weights = xp.reshape(cotangent, (*cotangent.shape, *(1,) * (gradients.ndim - 2)))
        return xp.sum(gradients * weights, axis=1)


def top_vectors(
    gram: Callable[[Array], Array],
    like: Array,
    size: int,
    k: int,
    plan: _Lanczos,
    *,
    several: int = 1,
    ops: ArrayOps,
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
    several : int
        How many vectors to return, if there are that many and it is more than k.

    Returns
    -------
    vectors : array, shape (b, k or more, size)
        Orthonormal up to rounding, by descending Ritz value.
    products : integer array, shape (b,)
        Applications of the map and of its adjoint to one vector each.
    """
    xp = ops.xp
    b, dtype, device = like.shape[0], like.dtype, ops.device(like)
    m, width, cycles = _plan(size, k, plan.n_iter, BUDGET // np.dtype("float64").itemsize)
    kept = max(1, m // 2)
    rows = m * width
    several = min(max(k, several), kept * width)
    host = np.float64 if dtype == xp.float64 else np.float32
    random = np.real(arrays.random_vectors(plan.seed, (2, width, size)))
    start = ops.from_numpy(np.ascontiguousarray(random[0].astype(host)), like)
    angles = ops.from_numpy(np.ascontiguousarray(random[1].astype(host)), like)
    u = rounding.unit(like, xp=xp)
    number = xp.reshape(xp.arange(m + 1, dtype=xp.int32, device=device), (-1, 1))
    number = xp.reshape(xp.broadcast_to(number, (m + 1, width)), (-1,))

    def orthonormal(w: Array) -> Array:
        if width == 1:
            return arrays.normalise(w, xp=xp)[0]
        return xp.matrix_transpose(xp.linalg.qr(xp.matrix_transpose(w))[0])

    def without(w: Array, basis: Array) -> tuple[Array, Array]:
        inner = xp.matmul(basis, xp.matrix_transpose(w))
        return w - xp.matmul(xp.matrix_transpose(inner), basis), inner

    def following(v: Array, basis: Array, j: Array) -> tuple[Array, Array]:
        """The next vectors of the basis, and inner products of A*A v with those before."""
        w = gram(v)
        norm = xp.linalg.vector_norm(w, axis=-1, keepdims=True)
        norm = xp.where(norm > 0, norm, xp.ones_like(norm))
        w, first = without(w, basis)
        w, second = without(w, basis)
        # An invariant subspace is exhausted: go on with a direction that changes from step to step.
        w = w + norm * (64 * u / size**0.5) * xp.cos(angles * (j + 1))
        w, _ = without(orthonormal(w), basis)
        return orthonormal(w), first + second

    def step_compiled(state: tuple[Array, ...]) -> tuple[Array, ...]:
        """Shapes may not depend on the count: everything is masked."""
        j, basis, projected = state
        split = xp.reshape(basis, (b, m + 1, width, size))
        places = xp.reshape(xp.arange(m + 1, dtype=xp.int32, device=device), (1, -1, 1, 1))
        v = xp.sum(xp.where(places == j, split, xp.zeros_like(split)), axis=1)
        w, inner = following(v, basis, j)
        columns = xp.broadcast_to(inner[:, :rows, None, :], (b, rows, m, width))
        projected = xp.where(number[:rows] == j, xp.reshape(columns, (b, rows, rows)), projected)
        split = xp.where(places == j + 1, w[:, None, :, :], split)
        return j + 1, xp.reshape(split, basis.shape), projected

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        """In place, and nothing is met with vectors that are not there yet."""
        j, basis, projected = state
        here, there = j * width, (j + 1) * width
        w, inner = following(basis[:, here:there, :], basis[:, :there, :], j)
        projected[:, :there, here:there] = inner
        basis[:, there : there + width, :] = w
        return j + 1, basis, projected

    def restart(state: tuple[Array, ...]) -> tuple[Array, ...]:
        cycle, j, basis, projected, best, vectors, active, products = state
        begun = j
        one = step if isinstance(j, int) else step_compiled
        j, basis, projected = ops.loop(lambda s: s[0] < m, one, (j, basis, projected))
        products = products + xp.astype(active, products.dtype) * (2 * width * (j - begun))
        upper = xp.triu(projected)
        values, small = xp.linalg.eigh(upper + xp.matrix_transpose(xp.triu(projected, k=1)))
        values, small = xp.flip(values, axis=-1), xp.flip(small, axis=-1)
        keep = kept * width
        ritz = xp.matmul(xp.matrix_transpose(small[:, :, :keep]), basis[:, :rows, :])
        vectors = xp.where(active[:, None, None], ritz[:, :several, :], vectors)
        found = values[:, :k]
        gained = xp.any(found - best > plan.rtol * found[:, :1], axis=-1)
        basis = xp.concat(
            [
                ritz,
                basis[:, rows:, :],
                xp.zeros((b, rows - keep, size), dtype=dtype, device=device),
            ],
            axis=1,
        )
        eye = xp.eye(rows, dtype=dtype, device=device)
        leading = xp.where(number[:rows] < kept, values, xp.zeros_like(values))
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
    basis = xp.concat([first, xp.zeros((b, rows, size), dtype=dtype, device=device)], axis=1)
    counter = arrays.counter(like, ops=ops)
    state = (
        counter,
        counter,
        basis,
        xp.zeros((b, rows, rows), dtype=dtype, device=device),
        xp.zeros((b, k), dtype=dtype, device=device),
        xp.zeros((b, several, size), dtype=dtype, device=device),
        xp.ones((b,), dtype=xp.bool, device=device),
        xp.zeros((b,), dtype=xp.int32, device=device),
    )
    state = ops.loop(lambda s: (s[0] < cycles) & xp.any(s[6]), restart, state)
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
