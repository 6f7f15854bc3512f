"""All singular values of a layer at one input size with its borders, by an SVD of the layer's own matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from specnorm.errors import GeometryError, MethodError
from specnorm.methods.base import Evaluation, Method, Needs, check_number_of_values, weighted_sum
from specnorm.problem.layer_map import Convolution
from specnorm.problem.taps import shapes_of

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import ArrayOps


MOST_ROWS = 4096
"""Largest shorter side of the matrix: an SVD of that size takes a minute."""


@dataclass(frozen=True)
class OwnSingularValues(Method):
    """All singular values of a layer at one input size, descending; or the k largest or smallest.

    The layer is applied to each unit vector of inputs. That gives its matrix, for an SVD; so the layer must be small.
    `SingularValues` needs only one SVD for each frequency, for layers that symbols describe.

    Parameters
    ----------
    k : int or None
        Number of values; None: all ``min(inputs, outputs)``.
    smallest : bool
        Whether the k smallest are meant, not the k largest.
    max_bytes : int, default 4 GiB
        Refuse computations that take more memory.
    """

    k: int | None = None
    max_bytes: int = 2**32
    smallest: bool = False

    name: ClassVar[str] = "own_singular_values"
    promise: ClassVar[Kind] = "exact"

    def needs(self, spec: ConvSpec) -> Needs:
        return Needs(precision="wide", blocks=False, value_shape=(self.k or self._total(spec),))

    def check(self, spec: ConvSpec) -> None:
        """Refuse layers without a size, or whose matrix is too large, and a k beyond their values."""
        if spec.input_shape is None:
            raise GeometryError("singular_values needs input_shape, the layer's spatial input sizes.")
        total = self._total(spec)
        check_number_of_values(self.k, total)
        outputs, inputs = self._sides(spec)
        advice = (
            "give a smaller input_shape; or use singular_values(kernel, input_shape, k=...), which computes the k "
            "largest ones by Lanczos, or enclose_smallest(kernel, input_shape), which encloses the smallest one."
        )
        problem = f"a layer whose borders cut taps off has the singular values of its own matrix, {outputs} x {inputs}"
        if total > MOST_ROWS:
            raise MethodError(f"{problem}, of which more than {MOST_ROWS} take too long: {advice}")
        memory = self.memory(spec)
        if memory > self.max_bytes:
            raise MethodError(
                f"{problem}, some {memory / 2**30:.3g} GiB of memory: {advice} max_bytes={memory} computes them all "
                "the same."
            )

    def memory(self, spec: ConvSpec) -> int:
        """Bytes of the matrix, its factors, and the gradient of each value that is asked for."""
        outputs, inputs = self._sides(spec)
        least = min(outputs, inputs)
        kernel_entries = math.prod(spec.kernel_shape) * math.prod(spec.stored_channels)
        return 8 * (2 * outputs * inputs + least * (outputs + inputs) + (self.k or least) * kernel_entries)

    @staticmethod
    def _sides(spec: ConvSpec) -> tuple[int, int]:
        """Numbers of outputs and of inputs."""
        inputs, outputs = shapes_of(spec)
        return math.prod(outputs), math.prod(inputs)

    def _total(self, spec: ConvSpec) -> int:
        return min(self._sides(spec))

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        xp = ops.xp
        layer = Convolution(blocks, spec, ops=ops)
        _, inputs = layer.shape
        unit_vectors = xp.eye(inputs, dtype=blocks.dtype, device=ops.device(blocks))
        # Row j is the image of input j: the transposed matrix.
        images = layer.apply(xp.broadcast_to(unit_vectors, (blocks.shape[0], inputs, inputs)))
        v, values, u = xp.linalg.svd(images, full_matrices=False)
        count = self.k or values.shape[-1]
        wanted = slice(values.shape[-1] - count, values.shape[-1]) if self.smallest else slice(0, count)
        right = xp.matrix_transpose(v)[:, wanted, :]
        gradients = layer.kernel_gradient(u[:, wanted, :], right)
        return Evaluation(values[:, wanted], (), (gradients,))

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """Gradients of <u_j, A v_j>, weighted."""
        return weighted_sum(residuals, cotangent, xp=xp)
