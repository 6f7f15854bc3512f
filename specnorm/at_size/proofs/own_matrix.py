"""Bounds of a layer's singular values at one input size, from the layer as one matrix A.

Lower bounds of the norm (and upper ones of the smallest singular value) are quotients ``||A x|| / ||x||``. The opposite
bounds come from factorizations of the Gram matrix A*A or AA*.

Rounding errors are counted as in `Convolution`: an entry of A x as computed differs from A x by at most
``gamma(forward) |A| |x|``, an entry of A* y by at most ``gamma(backward) |A*| |y|``, with
``forward, backward = layer.roundings``. |A| is the matrix with the magnitudes of the entries of A, and
``layer.absolute()`` is the layer with that matrix.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.at_size.proofs.block_tridiagonal import gram_blocks, largest_eigenvalue_up
from specnorm.at_size.proofs.uncut import SMALLEST
from specnorm.backends import arrays
from specnorm.power.proofs.ritz import gram_error
from specnorm.proofs import host, norms, rounding
from specnorm.proofs.bound import HypothesisError, Lower, Upper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from specnorm.at_size.proofs.block_tridiagonal import BlockPlan, BlockTridiagonal
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.layer_map import Convolution
    from specnorm.geometry.spec import ConvSpec


def has_fewer_rows(spec: ConvSpec) -> bool:
    """Whether, at its size, the convolution of a layer of one group has fewer rows (outputs) than columns (inputs).

    For a transposed layer, that is the convolution whose adjoint the layer is.
    """
    input_sizes, output_sizes = spec.sides
    output_channels, input_channels = spec.group_channels
    return output_channels * math.prod(output_sizes) < input_channels * math.prod(input_sizes)


def has_fewer_outputs(spec: ConvSpec) -> bool:
    """Whether, at its size, a layer of one group has fewer outputs than inputs.

    A transposed layer is the adjoint of its convolution, so its outputs are the columns of that.
    """
    return has_fewer_rows(spec) != spec.transposed


def smallest_quotients(layer: Convolution, vectors: Array, *, ops: ArrayOps) -> tuple[list[Upper], Array]:
    """Upper bounds of the smallest singular values of b layers, by one vector x for each: ``||A x|| / ||x||``.

    If the layer has fewer outputs than inputs, some inputs have the image 0, whatever the singular values. So x is then
    an output, and A is replaced by its adjoint, which has the same singular values.

    ``vectors`` (b, 1, size): x: outputs of the layer if `has_fewer_outputs`, else inputs. Returns ``bounds``: one for
    each layer; ``images`` (b, 1, size of the other side): the images of the vectors, as unit vectors.
    """
    xp = ops.xp
    spec = layer.spec
    absolute_layer = layer.absolute()
    forward_roundings, backward_roundings = layer.roundings
    if has_fewer_outputs(spec):
        images = layer.adjoint(vectors)
        absolute_images = absolute_layer.adjoint(xp.abs(vectors))
        roundings = backward_roundings
    else:
        images = layer.apply(vectors)
        absolute_images = absolute_layer.apply(xp.abs(vectors))
        roundings = forward_roundings
    unit_roundoff = rounding.unit(images, xp=xp)
    error = rounding.SLACK * rounding.gamma(roundings + 4, unit_roundoff)
    # The computed images |A| |x| may themselves be too small, by a relative error of gamma.
    relative_error = error / (1 - rounding.gamma(roundings, unit_roundoff))

    def lengths(x: Array) -> list[float]:
        # Without underflow: the vector may lie on channels that are far weaker than others.
        return [float(length) for length in host.norm_up(ops.to_numpy(x[:, 0, :]).astype(np.float64))]

    # Each of the products in an entry may underflow, and the kernel's entry in it may have, when it was scaled; but no
    # entry of a kernel of zeros.
    tiny = float(xp.finfo(images.dtype).smallest_normal)
    entries = xp.reshape(layer.kernels, (layer.kernels.shape[0], -1))
    largest = ops.to_numpy(xp.max(xp.abs(entries), axis=1)).tolist()
    lengths_of_layers = zip(lengths(images), lengths(absolute_images), lengths(vectors), largest, strict=True)
    bounds = []
    for image_length, absolute_length, length, entry in lengths_of_layers:
        if not length > 0:
            raise HypothesisError("a vector of zeros has no quotient")
        lost = 4 * tiny * roundings * math.sqrt(images.shape[2]) * (1 + length) if entry else 0.0
        quotient = (image_length + relative_error * absolute_length + lost) / length
        # The roundings: those of two lengths, and some for the quotient.
        bound = host.inflate(quotient, 2 * max(layer.shape) + 8)
        bounds.append(Upper._by_rule(bound, (SMALLEST, spec), "quotient of a vector"))
    unit_images, _ = arrays.normalise(images, xp=xp)
    return bounds, unit_images


def smallest_of_groups(
    spec: ConvSpec,
    bounds_of_groups: Sequence[tuple[Lower, Upper]],
) -> tuple[Lower, Upper]:
    """Bounds of the smallest singular value of a grouped layer: the smallest of the bounds of all its groups."""
    lowers = [lower for lower, _ in bounds_of_groups]
    uppers = [upper for _, upper in bounds_of_groups]
    subject = (SMALLEST, spec.of_group)
    are_bounds_of_groups = all(bound.what == subject for bound in (*lowers, *uppers))
    if len(bounds_of_groups) != spec.groups or not are_bounds_of_groups:
        raise HypothesisError(f"{len(bounds_of_groups)} pairs of bounds of {spec.groups} groups")
    if spec.groups == 1:
        return bounds_of_groups[0]
    lower = min(lowers, key=float)
    upper = min(uppers, key=float)
    rule = f"the smallest of {spec.groups} groups"
    what = (SMALLEST, spec)
    return Lower._by_rule(lower.value, what, rule, lower), Upper._by_rule(upper.value, what, rule, upper)


class LayerGram:
    """The Gram matrices H = A*A or AA* of b layers of one group, as computed, and bounds of singular values from them.

    Parameters
    ----------
    layer : Convolution
        The layers A, of one group, with kernels scaled to about 1 whose values can be read (no tracer).
    plan : BlockPlan
        Which of the two matrices is formed, and in which blocks.

    Attributes
    ----------
    matrix : BlockTridiagonal
        H as computed.
    error : array, shape (b,)
        Bound of the norm of H's error.
    """

    def __init__(self, layer: Convolution, plan: BlockPlan, *, ops: ArrayOps) -> None:
        if layer.spec.groups > 1:
            raise HypothesisError("the matrix of one group is not that of all groups")
        self._spec = layer.spec
        self._plan = plan
        self._ops = ops
        self.matrix, roundings = gram_blocks(layer.kernels[:, 0, ...], layer.spec, plan, ops=ops)
        self.error, is_zero = gram_error(layer, roundings, plan.lines * plan.entries, ops=ops)
        self._is_zero: list[bool] = ops.to_numpy(is_zero).tolist()

    def norms_near(self, targets: np.ndarray) -> list[Upper | None]:
        """Upper bounds of the layers' norms, each just above its target (b,); None where the proof fails."""
        xp = self._ops.xp
        bounds = norm_up_near(self.matrix, self.error, self._ops.from_numpy(targets, self.error), ops=self._ops)
        # `norm_up_near` marks a failed proof by the dtype's largest number.
        no_proof = float(xp.finfo(bounds.dtype).max)
        rule = f"factorization of its Gram matrix, {self._plan.blocks} times {self._plan.size} rows"
        return [
            Upper._by_rule(bound, self._spec, rule) if bound < no_proof else None
            for bound in self._ops.to_numpy(bounds).tolist()
        ]

    def smallest_near(self, eigenvalues: np.ndarray, top: float) -> list[Lower]:
        """Lower bounds of the layers' smallest singular values, each just below the root of an approximate eigenvalue.

        A factorization proves that all eigenvalues of ``top I - H`` are at most a limit, so those of H are at least
        top less the limit. The limit is just above ``top - eigenvalue``. Any eigenvalues and any top are valid; with
        poor ones the proof fails and the bound is 0.

        ``eigenvalues`` (b,): approximate smallest eigenvalues of H. ``top``: about the largest eigenvalue of H.
        """
        xp = self._ops.xp
        # The first block, which is all of H: plans with several blocks are refused below.
        gram = self.matrix.diagonal[:, 0, :, :]
        size = gram.shape[-1]
        if self._plan.blocks > 1 or self._plan.rows_are_outputs is not has_fewer_rows(self._spec):
            gram_matrix = "AA*" if self._plan.rows_are_outputs else "A*A"
            raise HypothesisError(
                f"got {gram_matrix} in {self._plan.blocks} blocks, which has other eigenvalues than the smaller one of "
                "A*A and AA* as a single block"
            )
        eye = self._ops.from_numpy(np.eye(size), gram)
        shifted = top * eye - gram
        shift_error = host.inflate(float(xp.max(xp.abs(shifted))) * rounding.unit(gram, xp=xp), 4)
        allowance = 1 + 2 * size * norms.cholesky_loss(size, gram, xp=xp)
        # The allowance is explained in `norms.matrix_norm_up`. If all eigenvalues are about top, ``top - eigenvalue``
        # may be rounding error only. A limit of at least 2**-40 top lets the proof succeed; it lowers the square of the
        # bound by a factor of 1 - 1e-12, so the bound by 5e-13 of itself.
        limits = np.maximum((top - eigenvalues) * allowance, top * 2.0**-40)
        proven = self._ops.to_numpy(norms.gram_below(shifted, self._ops.from_numpy(limits, gram), ops=self._ops))
        errors = self._ops.to_numpy(self.error)
        rule = f"factorization of its Gram matrix, {size} rows"
        bounds = []
        for limit, is_proven, error in zip(limits.tolist(), proven.tolist(), errors.tolist(), strict=True):
            square = 0.0
            if is_proven:
                square = host.sub_down(top, host.add_up(limit, error, shift_error))
            bounds.append(Lower._by_rule(host.sqrt_down(square), (SMALLEST, self._spec), rule))
        return bounds

    def with_zero_layers(self, bounds: list[Upper | None]) -> list[Upper | None]:
        """Replace the bounds for layers that are zero by 0: a factorization cannot prove a limit of 0."""
        zero = Upper._by_rule(0.0, self._spec, "no tap reads a pixel")
        return [zero if is_zero else bound for bound, is_zero in zip(bounds, self._is_zero, strict=True)]


def norm_up_near(
    band: BlockTridiagonal,
    error: Array,
    target: Array,
    *,
    ops: ArrayOps,
) -> Array:
    """Proven upper bounds (b,) of the norms of layers A, from their Gram matrices.

    If the Gram matrix is one block, and the proof succeeds, the bound is the target, raised by a few roundings. With
    several blocks, it is the root of the bound that `largest_eigenvalue_up` proves, plus the error. If the proof fails,
    it is the dtype's largest number.

    ``band``: A*A or AA* as computed. ``error`` (b,): bound of the norm of its error, from `gram_error`. ``target``
    (b,): numbers just above the norms, such as estimates that were raised. Any numbers are valid.
    """
    xp = ops.xp
    no_proof = float(xp.finfo(target.dtype).max)
    # The roundings: the square and the difference, and two to spare.
    limit = rounding.down(target**2 - error, 4, xp=xp)
    is_usable = limit > 0
    limit = xp.where(is_usable, limit, xp.ones_like(limit))
    if band.diagonal.shape[1] == 1:
        is_proven = norms.gram_below(band.diagonal[:, 0, :, :], limit, ops=ops) & is_usable
        bound = target
    else:
        proven_sq = largest_eigenvalue_up(band, limit, ops=ops)
        is_proven = is_usable & (proven_sq < no_proof)
        bound = xp.sqrt(xp.where(is_proven, proven_sq + error, xp.ones_like(error)))
    return xp.where(is_proven, rounding.up(bound, 4, xp=xp), xp.full_like(target, no_proof))
