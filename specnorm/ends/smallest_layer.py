"""Both ends of the smallest singular value of a layer at one size whose borders cut taps off: by its own matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specnorm.at_size.proofs.block_tridiagonal import plans, to_layer
from specnorm.at_size.proofs.own_matrix import (
    LayerGram,
    has_fewer_outputs,
    has_fewer_rows,
    smallest_of_groups,
    smallest_quotients,
)
from specnorm.backends import arrays
from specnorm.ends.smallest_singular_value import RESOLVED_PART
from specnorm.errors import GeometryError
from specnorm.geometry.layer_map import Convolution
from specnorm.proofs.found import Found, Outcome, Witness

if TYPE_CHECKING:
    from specnorm.at_size.proofs.block_tridiagonal import BlockPlan
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.bound import Lower, Upper
    from specnorm.running.search import Problem

ROWS = 2048
"""Most rows of a Gram matrix whose eigenvalues are computed: they take some seconds."""


def plan_of_own_matrix(spec: ConvSpec) -> BlockPlan:
    """How the smaller Gram matrix of one group of a layer at one size is formed, as one block.

    Raises `GeometryError` if it has too many rows.
    """
    group_spec = spec.of_group
    rows_are_outputs = has_fewer_rows(group_spec)
    candidates = [x for x in plans(group_spec) if x.blocks == 1 and x.rows_are_outputs == rows_are_outputs]
    plan = min(candidates, key=lambda plan: plan.work)
    if plan.size <= ROWS:
        return plan
    raise GeometryError(
        f"the layer at input_shape={spec.input_shape} is not circular (padding_mode={spec.padding_mode!r}, "
        f"padding={spec.padding}): only its own matrix tells its smallest singular "
        f"value, and that has {plan.size} rows; at most {ROWS} are affordable. Give a smaller input_shape, or "
        'padding_mode="circular", whose values are known at every size; where no tap is cut off, leave input_shape out.'
    )


def smallest_of_layer(kernel: Array, problem: Problem, *, ops: ArrayOps) -> Found:
    """Enclose the smallest singular value of a layer at its size by the Gram matrix of each of its groups.

    ``kernel`` (1, *shape): in torch's order. The witness has unit vectors u and v, an output and an input, with
    ``<u, A v>`` the singular value.
    """
    xp = ops.xp
    groups = problem.spec.groups
    group_spec = problem.spec.of_group
    plan = plan_of_own_matrix(problem.spec)
    # Each group is scaled to about 1 by itself: some may be far weaker than others.
    parts, exponents = arrays.scale(xp.reshape(kernel, (groups, kernel.shape[1] // groups, *kernel.shape[2:])), xp=xp)
    layers = [Convolution(parts[group : group + 1, ...], group_spec, ops=ops) for group in range(groups)]
    ends_and_vectors = [_of_group(layer, plan, ops=ops) for layer in layers]
    claims = []
    for (ends, _), exponent in zip(ends_and_vectors, ops.to_numpy(exponents).tolist(), strict=True):
        lower, upper = ends
        claims.append((lower.times_power_of_two(int(exponent)), upper.times_power_of_two(int(exponent))))
    lower, upper = smallest_of_groups(problem.spec, claims)
    group = int(np.argmin([of_group.value for _, of_group in claims]))
    (_, scaled_upper), vectors = ends_and_vectors[group]
    index = ops.from_numpy(np.asarray([group], dtype=np.int64), kernel)

    def among_groups(x: Array) -> Array:
        """One group's part (1, ...) as one of (1, groups, ...), the others zero."""
        return arrays.one_hot(x, index, groups, xp=xp)

    def gradient() -> Array:
        return xp.reshape(among_groups(layers[group].kernel_gradient(*vectors)[:, 0, ...]), kernel.shape)

    u, v = (xp.reshape(among_groups(x[:, 0, :]), (1, -1)) for x in vectors)
    largest_entry = float(xp.max(xp.abs(parts[group, ...])))
    is_zero = lower.value == 0 and not scaled_upper.value**2 > RESOLVED_PART * largest_entry**2
    witness = Witness(u=u, v=v, gradient=gradient)
    return Found(lower, upper, witness, ended=Outcome.ZERO if is_zero else None)


def _of_group(layer: Convolution, plan: BlockPlan, *, ops: ArrayOps) -> tuple[tuple[Lower, Upper], tuple[Array, Array]]:
    """Bounds of one group's smallest singular value, and its vectors, an output and an input, shapes (1, 1, n)."""
    gram = LayerGram(layer, plan, ops=ops)
    spec = layer.spec
    values, vectors = ops.xp.linalg.eigh(gram.matrix.diagonal[0, 0, ...])
    vector = to_layer(vectors[None, None, :, 0], spec, plan, xp=ops.xp)
    (upper,), image = smallest_quotients(layer, vector, ops=ops)
    (lower,) = gram.smallest_near(ops.to_numpy(values[:1]), float(values[-1]))
    return (lower, upper), (vector, image) if has_fewer_outputs(spec) else (image, vector)
