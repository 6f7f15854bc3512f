"""Norms of the kernel reshaped into matrices (Singla and Feizi 2019, 2021; Miyato et al. 2018).

For every split of the axes (cout, cin, *spatial) into rows and columns, ``sqrt(prod k_j) ||unfolding|| >= sigma*``.
Each norm is proven, not iterated: an unconverged power iteration would be below the truth.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from specnorm import arrays
from specnorm.certified.bound import as_array, largest_of_blocks, trivial_lower
from specnorm.certified.layer.circulant import padded_norm
from specnorm.certified.matrices import norms
from specnorm.certified.matrices.norms import supremum_up_from_unfolding
from specnorm.certified.symbol import symbols
from specnorm.errors import GeometryError
from specnorm.methods.base import Evaluation, Method, Needs, Stepped
from specnorm.numerics.lanczos import Lanczos, vector_tolerance
from specnorm.numerics.power import matrix_maps, power_steps
from specnorm.problem import polyphase, unfoldings
from specnorm.search.constant import no_vectors, smallest_unfoldings

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import ArrayOps


@dataclass(frozen=True)
class Unfoldings(Method):
    """The bounds by all ``2**(d+1) - 1`` unfoldings, as a 1-d value; each of them is an upper bound of sigma*.

    The first ``2**d`` have output channels in the rows and input channels in the columns (in 2-D the matrices R, S, T,
    U of the papers, in some order).

    References
    ----------
    .. [1] Singla, Feizi, "Bounding Singular Values of Convolution Layers", arXiv:1911.10258v1, 2019 (two of them).
    .. [2] Singla, Feizi, "Fantastic Four", ICLR 2021, theorem 1 (four of them).
    """

    name: ClassVar[str] = "unfoldings"
    promise: ClassVar[Kind] = "upper"

    def needs(self, spec: ConvSpec) -> Needs:
        return Needs(rounds="up", precision="wide", narrow_gradient=True, value_shape=self._value_shape(spec))

    def _value_shape(self, spec: ConvSpec) -> tuple[int, ...]:
        return (2 ** (spec.ndim + 1) - 1,)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        xp = ops.xp
        bounds, residuals = [], []
        for rows in unfoldings.unfolding_splits(spec.ndim):
            matrix = unfoldings.unfold(blocks, rows, xp=xp)
            bounds.append(norms.matrix_norm_up(matrix, ops=ops))
            residuals += list(symbols.top_triple(matrix, xp=xp)[:2])
        value = supremum_up_from_unfolding(xp.stack(bounds, axis=1), spec.block_kernel_shape, xp=xp)
        return Evaluation(value, (), tuple(residuals))

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """sqrt(taps) u v^T of each unfolding, as a block and weighted by its cotangent."""
        root = math.sqrt(math.prod(spec.block_kernel_shape))
        splits = unfoldings.unfolding_splits(spec.ndim)
        triples = zip(residuals[::2], residuals[1::2], splits, strict=True)
        parts = (
            unfoldings.outer_blocks(u * (root * cotangent[:, j])[:, None], v, rows, spec.block_shape, xp=xp)
            for j, (u, v, rows) in enumerate(triples)
            if u.shape[1]  # empty for unfoldings that `FantasticFour` leaves out, which are smallest for no block
        )
        total: Array = functools.reduce(operator.iadd, parts)
        return total


@dataclass(frozen=True)
class FantasticFour(Stepped):
    """The smallest of the unfolding bounds; its gradient is that of the smallest one.

    The papers take the four unfoldings (in 2-D) with both channels on different sides. The minimum here is over all
    ``2**(d+1) - 1``: the others are smaller for few channels and large kernels.
    """

    name: ClassVar[str] = "f4"
    promise: ClassVar[Kind] = "upper"
    asks: ClassVar[Needs] = Needs(rounds="up", precision="mixed", narrow_gradient=True, small_products=True)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        xp = ops.xp
        if ops.concrete:
            bounds, residuals = smallest_unfoldings(blocks, spec, ops=ops)
            claims = []
            for j, layer in enumerate(polyphase.by_layers(blocks, spec.groups)):
                bounds_of_layer = bounds[j * spec.groups : (j + 1) * spec.groups]
                supremum = largest_of_blocks(bounds_of_layer, layer)
                claims.append((trivial_lower(), padded_norm(supremum, spec)))
            return Evaluation(as_array(bounds, blocks, ops=ops), (), residuals, claims)
        blocks = arrays.in_wide_dtype(blocks, ops=ops)
        unfoldings_of_blocks = Unfoldings().forward(blocks, spec, ops=ops)
        values = unfoldings_of_blocks.value
        smallest_unfolding = xp.argmin(values, axis=1)
        return Evaluation(xp.min(values, axis=1), (), (*unfoldings_of_blocks.residuals, smallest_unfolding))

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        *vectors, smallest_unfolding = residuals
        columns = arrays.one_hot(cotangent, smallest_unfolding, len(vectors) // 2, xp=xp)
        return Unfoldings().pullback(tuple(vectors), columns, spec, xp=xp)

    # -- in training -----------------------------------------------------------------------------------------------
    def state_shapes(self, spec: ConvSpec) -> Mapping[str, tuple[int, ...]]:
        shape = spec.block_shape
        splits = unfoldings.unfolding_splits(spec.ndim)
        return {
            f"v{j}": (math.prod(shape) // math.prod(shape[axis] for axis in rows),) for j, rows in enumerate(splits)
        }

    def start(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> tuple[Array, ...]:
        """Top right singular vectors; constant ones for a zero block."""
        xp = ops.xp
        vectors = []
        for rows in unfoldings.unfolding_splits(spec.ndim):
            matrix = unfoldings.unfold(blocks, rows, xp=xp)
            v = _start_vectors(matrix, ops=ops) if ops.concrete else symbols.top_triple(matrix, xp=xp)[1]
            del matrix
            constant = xp.ones_like(v) / math.sqrt(v.shape[-1])
            unit_v, _ = arrays.normalise_or_keep(v, constant, xp=xp)
            vectors.append(unit_v)
        return tuple(vectors)

    def advance(
        self,
        blocks: Array,
        state: tuple[Array, ...],
        spec: ConvSpec,
        *,
        sweeps: int,
        ops: ArrayOps,
    ) -> tuple[Evaluation, tuple[Array, ...]]:
        """Power steps on each unfolding: an estimate, as each is below its norm."""
        xp = ops.xp
        splits = unfoldings.unfolding_splits(spec.ndim)
        # Where values can be read, only the vectors of smallest unfoldings are kept; empty arrays stand for the others.
        reads_values = ops.concrete
        no_vector = no_vectors(blocks, ops=ops)
        values, residuals, new_state = [], [], []
        for v, rows in zip(state, splits, strict=True):
            maps = matrix_maps(unfoldings.unfold(blocks, rows, xp=xp), xp=xp)
            u, v, value = power_steps(*maps, v, sweeps, xp=xp)
            # A u that is larger than an eighth of the kernel is not kept. It is computed again below if its unfolding
            # turns out to be the smallest.
            is_large = 8 * u.shape[1] > math.prod(spec.block_shape)
            residuals += [no_vector if reads_values and is_large else u, v]
            new_state.append(v)
            values.append(value)
            del u, maps
        bounds = xp.stack(values, axis=1) * math.sqrt(math.prod(spec.block_kernel_shape))
        smallest_unfolding = xp.argmin(bounds, axis=1)
        if reads_values:
            smallest_of_some_block = set(ops.to_numpy(smallest_unfolding).tolist())
            for j, rows in enumerate(splits):
                is_u_missing = not residuals[2 * j].shape[1]
                if j not in smallest_of_some_block:
                    residuals[2 * j : 2 * j + 2] = [no_vector, no_vector]
                elif is_u_missing:
                    maps = matrix_maps(unfoldings.unfold(blocks, rows, xp=xp), xp=xp)
                    residuals[2 * j], _, _ = power_steps(*maps, state[j], sweeps, xp=xp)
        return Evaluation(xp.min(bounds, axis=1), (), (*residuals, smallest_unfolding)), tuple(new_state)


_CHECKS = 4
"""Largest number of convergence checks in `_start_vectors`: 28 Lanczos steps, with a basis smaller than the kernel."""


def _start_vectors(matrix: Array, *, ops: ArrayOps) -> Array:
    """Approximate top right singular vectors, to start a training state from; the training steps improve them."""
    xp = ops.xp
    run = Lanczos(matrix, tolerance=vector_tolerance(matrix.dtype, xp=xp), ops=ops)
    for _ in range(_CHECKS):
        run.advance()
        if run.done.all():
            break
    return run.vectors()[1]


@dataclass(frozen=True)
class Reshaped(Method):
    """The norm of the kernel reshaped to (cout, cin * taps), which "spectral normalisation" takes for the layer's norm.

    With T the reshaped kernel, ``||T||**2 = ||mean over theta of G G*|| <= (sigma*)**2``. So it is a lower bound of
    sigma*. It is also one for the layer at a size at which some output reads a different pixel by each tap.

    References
    ----------
    .. [1] Miyato, Kataoka, Koyama, Yoshida, "Spectral Normalization for Generative Adversarial Networks", ICLR 2018,
       section 2.1 (the reshape), as in ``torch.nn.utils.spectral_norm``.
    """

    name: ClassVar[str] = "reshaped"
    promise: ClassVar[Kind] = "lower"
    asks: ClassVar[Needs] = Needs(rounds="down", precision="wide", narrow_gradient=True)

    def check(self, spec: ConvSpec) -> None:
        """Refuse input sizes at which no output reads a whole patch: there the value is not a bound."""
        if not spec.uses_every_tap_at_once:
            raise GeometryError(
                f"input_shape={spec.input_shape} is smaller than the kernel {spec.kernel_shape} with its dilation, or "
                f"its padding_mode={spec.padding_mode!r} hides it: no output reads a whole patch, and the reshaped "
                "kernel bounds nothing. Use conv_norm(kernel, input_shape) for the circular norm; power_norm(kernel, "
                "input_shape) is a lower bound for any padding."
            )

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        xp = ops.xp
        matrix = unfoldings.unfold(blocks, (0,), xp=xp)
        u, v, _ = symbols.top_triple(matrix, xp=xp)
        return Evaluation(norms.quotient_down(matrix, v, xp=xp), (), (u, v))

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """Return u v^T, reshaped back."""
        u, v = residuals
        return unfoldings.outer_blocks(u * cotangent[:, None], v, (0,), spec.block_shape, xp=xp)
