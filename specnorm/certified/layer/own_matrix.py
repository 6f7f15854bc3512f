"""Bounds of a layer's singular values at one input size, from the layer as one matrix A.

Lower bounds of the norm (and upper ones of the smallest singular value) are quotients ``||A x|| / ||x||``. The opposite
bounds come from factorisations of the Gram matrix A*A or AA*.

Rounding errors are counted as in `Convolution`: an entry of A x as computed differs from A x by at most
``gamma(forward) |A| |x|``, an entry of A* y by at most ``gamma(backward) |A*| |y|``, with
``forward, backward = layer.roundings``. |A| is the matrix with the magnitudes of the entries of A, and
``layer.absolute()`` is the layer with that matrix.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified import host, rounding
from specnorm.certified.bound import HypothesisError, Lower, Upper, _lower, _upper
from specnorm.certified.layer.uncut import SMALLEST
from specnorm.certified.matrices import norms
from specnorm.certified.matrices.norms import frobenius_up
from specnorm.certified.symbol import symbols
from specnorm.problem.spec import spec_of_group
from specnorm.problem.taps import sizes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from specnorm.array_types import Array
    from specnorm.certified.matrices.block_tridiagonal import BlockPlan, BlockTridiagonal
    from specnorm.problem.layer_map import Convolution
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import ArrayOps


def quotients(
    layer: Convolution,
    vectors: Array,
    vectors_are_outputs: bool,
    *,
    ops: ArrayOps,
) -> tuple[list[Lower], Array]:
    """Lower bounds of the norms of b layers by one vector for each layer: `ritz_values_down` with k = 1, as claims.

    Returns
    -------
    bounds : list of Lower
        One for each layer.
    images : array, shape (b, 1, size)
        The images of the vectors, as unit vectors.
    """
    values, images = ritz_values_down(layer, vectors, vectors_are_outputs, ops=ops)
    return [_lower(value, layer.spec, "quotient of a vector") for value in ops.to_numpy(values[:, 0]).tolist()], images


def ritz_values_down(
    layer: Convolution,
    vectors: Array,
    vectors_are_outputs: bool,
    *,
    ops: ArrayOps,
) -> tuple[Array, Array]:
    """Lower bounds of the k largest singular values of each of b layers, from k vectors for each layer.

    Parameters
    ----------
    vectors : array, shape (b, k, size)
        Any vectors, near unit length.
    vectors_are_outputs : bool
        Whether the vectors are outputs of the layer, to which the adjoint is applied; else they are inputs.

    Returns
    -------
    values : array, shape (b, k)
        Descending.
    images : array, shape (b, k, size of the other side)
        The images of the vectors, as unit vectors.
    """
    xp = ops.xp
    b, groups, *shape = layer.kernels.shape
    forward_roundings, backward_roundings = layer.roundings
    if vectors_are_outputs:
        images = layer.adjoint(vectors)
        roundings = backward_roundings
    else:
        images = layer.apply(vectors)
        roundings = forward_roundings
    # || |A| |x| || <= || |A| || ||x||, and |A| is the layer with the magnitudes of the kernel.
    by_group = symbols.absolute_norm_up(xp.reshape(layer.kernels, (b * groups, *shape)), xp=xp)
    absolute_symbol_norm = xp.max(xp.reshape(by_group, (b, groups)), axis=1)
    # The root of `padding_gain_sq` bounds the ratio of the layer's norm to that of its symbols.
    absolute_norm = absolute_symbol_norm * host.root_up(layer.spec.padding_gain_sq)
    lengths = xp.linalg.vector_norm(vectors, axis=-1)
    # The roundings: those of the length, one for the gain, one for the product, two to spare.
    absolute_image_lengths = rounding.up(absolute_norm[:, None] * lengths, vectors.shape[2] + 4, xp=xp)
    values = ritz_down(images, absolute_image_lengths[:, :, None], vectors, roundings, ops=ops)
    unit_images, _ = arrays.normalise(images, xp=xp)
    return values, unit_images


def ritz_down(
    images: Array,
    magnitudes: Array,
    vectors: Array,
    image_roundings: int,
    *,
    ops: ArrayOps,
) -> Array:
    """Proven lower bounds of the k largest singular values of a linear map A, from its action on k vectors.

    With the vectors as the columns of X, ``sigma_j(A) >= sigma_j(A X) / ||X||``. The computed image Y differs from A X
    by at most ``gamma(image_roundings) |A| |X|``, entry by entry. The eigenvalues of Y*Y differ from its sorted
    diagonal entries by at most the norm of its off-diagonal part (Weyl). Sharp if the vectors are orthogonal and their
    images too, as they are for singular vectors.

    Parameters
    ----------
    images : array, shape (b, k, m)
        Y: the images A x as computed.
    magnitudes : array, shape (b, k, any)
        ``|A| |x|``, computed by the same operations. Only its 2-norm is used, so a vector of one entry, an upper bound
        of that norm, will do.
    vectors : array, shape (b, k, n)
        x: any vectors, near unit length.
    image_roundings : int
        Number of roundings of an entry of an image.

    Returns
    -------
    array, shape (b, k)
        Descending; the first is a lower bound of the norm.
    """
    xp = ops.xp
    k = images.shape[1]
    unit_roundoff = rounding.unit(images, xp=xp)
    # Squares of small entries underflow, each by less than the smallest normal number.
    tiny = float(xp.finfo(images.dtype).smallest_normal)
    eye = xp.eye(k, dtype=vectors.dtype, device=ops.device(vectors))
    # ||X||**2 <= 1 + ||X* X - I||
    gram, roundings = _inner_products(vectors, ops=ops)
    relative_error = rounding.SLACK * rounding.gamma(roundings + 2, unit_roundoff)
    gram_error = rounding.up(xp.linalg.trace(gram), k + roundings, xp=xp) * relative_error
    # The roundings: the difference, the two sums, and the product in the error.
    norm_sq = rounding.up(frobenius_up(gram - eye, xp=xp) + 1 + gram_error, 4, xp=xp)
    # The j-th eigenvalue of Y* Y is at least its j-th largest diagonal entry less the norm of the off-diagonal part.
    gram, roundings = _inner_products(images, ops=ops)
    diagonal = xp.linalg.diagonal(gram)
    relative_error = rounding.SLACK * rounding.gamma(roundings + 2, unit_roundoff)
    gram_error = rounding.up(xp.sum(diagonal, axis=-1), k + roundings, xp=xp) * relative_error
    off_diagonal = rounding.up(frobenius_up(gram * (1 - eye), xp=xp) + gram_error, 4, xp=xp)
    # Lowered before the two subtractions: each rounds by at most u of its result, which is no larger than the entry.
    descending = rounding.down(xp.sort(diagonal, axis=-1, descending=True), 2, xp=xp)
    squares = descending - off_diagonal[:, None] - k * images.shape[2] * tiny
    image_values = rounding.down(xp.sqrt(xp.maximum(squares, xp.zeros_like(squares))), 2, xp=xp)
    # ||Y - A X||
    gram, roundings = _inner_products(magnitudes, ops=ops)
    total = xp.linalg.trace(gram) + k * magnitudes.shape[2] * tiny
    magnitudes_norm = rounding.up(xp.sqrt(rounding.up(total, k + roundings, xp=xp)), 2, xp=xp)
    # The computed magnitudes may themselves be too small, by a relative error of gamma.
    gamma = rounding.gamma(image_roundings, unit_roundoff)
    image_error = magnitudes_norm * (rounding.SLACK * (gamma / (1 - gamma)))
    norm = rounding.up(xp.sqrt(norm_sq), 2, xp=xp)
    # The roundings: the product in the error, the difference and the quotient.
    values = rounding.down((image_values - image_error[:, None]) / norm[:, None], 4, xp=xp)
    return xp.maximum(values, xp.zeros_like(values))


def _inner_products(vectors: Array, *, ops: ArrayOps) -> tuple[Array, int]:
    """Gram matrices (b, k, k) of vectors (b, k, n), and the number of roundings of each entry.

    Each inner product is a sum of about sqrt(n) partial sums, so that it has about 2 sqrt(n) roundings instead of n.
    """
    xp = ops.xp
    b, k, n = vectors.shape
    part_size = max(1, math.isqrt(n))
    parts = -(-n // part_size)
    missing = parts * part_size - n
    if missing:
        zeros = xp.zeros((b, k, missing), dtype=vectors.dtype, device=ops.device(vectors))
        vectors = xp.concat([vectors, zeros], axis=2)
    by_part = xp.permute_dims(xp.reshape(vectors, (b, k, parts, part_size)), (0, 2, 1, 3))
    return xp.sum(xp.matmul(by_part, xp.matrix_transpose(by_part)), axis=1), part_size + parts


def residuals_up(
    layer: Convolution,
    u: Array,
    v: Array,
    values: Array,
    *,
    ops: ArrayOps,
) -> Array:
    """Upper bounds (b, k) of the distance of numbers s from the nearest singular value of a layer A.

    They hold for the numbers as the caller gets them, rounded by `rounding.to_dtype` to the answer's dtype.

    The eigenvalues of ``[[0, A], [A*, 0]]`` are the singular values of A and their negatives (and zeros). One of them
    lies within ``||(A v - s u, A* u - s v)|| / ||(u, v)||`` of s.

    Parameters
    ----------
    u, v : arrays, shapes (b, k, outputs) and (b, k, inputs)
        Approximate left and right singular vectors; any are valid. For vectors of zeros the bound is infinite; if the
        layer is zero, too, it is s.
    values : array, shape (b, k)
        s, not negative.
    """
    xp = ops.xp
    unit_roundoff = rounding.unit(values, xp=xp)
    absolute_layer = layer.absolute()
    forward_roundings, backward_roundings = layer.roundings

    def length_up(x: Array) -> Array:
        return rounding.up(xp.linalg.vector_norm(x, axis=-1), x.shape[-1], xp=xp)

    def residual_up(image: Array, other: Array, absolute_image: Array, roundings: int) -> Array:
        """Upper bound of ``||A v - s u||`` (image A v, other u), or of ``||A* u - s v||`` (image A* u, other v)."""
        # Four roundings more than the image has: two for the product with s and for the difference, two to spare.
        relative_error = rounding.SLACK * rounding.gamma(roundings + 4, unit_roundoff)
        error = relative_error * (length_up(absolute_image) + values * length_up(other))
        # The roundings: two products and two sums.
        return rounding.up(length_up(image - values[:, :, None] * other) + error, 4, xp=xp)

    def length_down(x: Array) -> Array:
        return rounding.down(xp.linalg.vector_norm(x, axis=-1), x.shape[-1], xp=xp)

    residual_sq = (
        residual_up(layer.apply(v), u, absolute_layer.apply(xp.abs(v)), forward_roundings) ** 2
        + residual_up(layer.adjoint(u), v, absolute_layer.adjoint(xp.abs(u)), backward_roundings) ** 2
    )
    length_sq = length_down(u) ** 2 + length_down(v) ** 2
    is_nonzero = length_sq > 0
    safe_length_sq = xp.where(is_nonzero, length_sq, xp.ones_like(length_sq))
    # The roundings of each sum of two squares are two; those of the root of the quotient, too.
    ratio = rounding.up(residual_sq, 4, xp=xp) / rounding.down(safe_length_sq, 4, xp=xp)
    is_zero_layer = xp.all(xp.reshape(layer.kernels == 0, (layer.kernels.shape[0], -1)), axis=1)
    without_vectors = xp.where(is_zero_layer[:, None], values, xp.full_like(values, math.inf))
    distance = xp.where(is_nonzero, rounding.up(xp.sqrt(ratio), 4, xp=xp), without_vectors)
    return rounding.up(distance + values * rounding.conversion_loss(ops.result_dtype), 2, xp=xp)


def has_fewer_rows(spec: ConvSpec) -> bool:
    """Whether, at its size, the convolution of a layer of one group has fewer rows (outputs) than columns (inputs).

    For a transposed layer, that is the convolution whose adjoint the layer is.
    """
    input_sizes, output_sizes = sizes_of(spec)
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

    Parameters
    ----------
    vectors : array, shape (b, 1, size)
        x: outputs of the layer if `has_fewer_outputs`, else inputs.

    Returns
    -------
    bounds : list of Upper
        One for each layer.
    images : array, shape (b, 1, size of the other side)
        The images of the vectors, as unit vectors.
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
        bounds.append(_upper(bound, (SMALLEST, spec), "quotient of a vector"))
    unit_images, _ = arrays.normalise(images, xp=xp)
    return bounds, unit_images


def smallest_of_groups(
    spec: ConvSpec,
    bounds_of_groups: Sequence[tuple[Lower, Upper]],
) -> tuple[Lower, Upper]:
    """Bounds of the smallest singular value of a grouped layer: the smallest of the bounds of all its groups."""
    lowers = [lower for lower, _ in bounds_of_groups]
    uppers = [upper for _, upper in bounds_of_groups]
    subject = (SMALLEST, spec_of_group(spec))
    are_bounds_of_groups = all(bound.what == subject for bound in (*lowers, *uppers))
    if len(bounds_of_groups) != spec.groups or not are_bounds_of_groups:
        raise HypothesisError(f"{len(bounds_of_groups)} pairs of bounds of {spec.groups} groups")
    if spec.groups == 1:
        return bounds_of_groups[0]
    lower = min(lowers, key=float)
    upper = min(uppers, key=float)
    rule = f"the smallest of {spec.groups} groups"
    return _lower(lower.value, (SMALLEST, spec), rule, lower), _upper(upper.value, (SMALLEST, spec), rule, upper)


def gram_error(
    layer: Convolution,
    roundings: int,
    size: int,
    *,
    ops: ArrayOps,
) -> tuple[Array, Array]:
    """Bound the norm of the rounding error of the Gram matrix ``A*A`` (or ``AA*``) of each of b layers.

    Entry (i, j) has an error of at most gamma(n) times entry (i, j) of ``|A|* |A|``. So the error's norm is at most
    gamma(n) times ``|| |A|* |A| ||``, which `absolute_norm_sq_up` bounds. (For AA*, ``|A| |A|*`` has the same norm.)

    Parameters
    ----------
    roundings : int
        n: the number of roundings of an entry, each of which may also underflow.
    size : int
        Number of rows of the Gram matrix.

    Returns
    -------
    error : array, shape (b,)
    is_zero : array of bool, shape (b,)
        Whether A is zero, that is, no nonzero tap reads a pixel.
    """
    xp = ops.xp
    kernels = layer.kernels
    absolute_norm_sq = absolute_norm_sq_up(layer, ops=ops)
    relative_error = rounding.SLACK * rounding.gamma(roundings, rounding.unit(kernels, xp=xp))
    underflow = size * roundings * float(xp.finfo(kernels.dtype).smallest_normal)
    return absolute_norm_sq * relative_error + underflow, absolute_norm_sq == 0


def absolute_norm_sq_up(layer: Convolution, *, ops: ArrayOps) -> Array:
    """Upper bound (b,) of ``|| |A| ||**2``: the largest row sum times the largest column sum of ``|A|``."""
    xp = ops.xp
    kernels = layer.kernels
    absolute_layer = layer.absolute()
    forward_roundings, backward_roundings = layer.roundings
    output_size, input_size = layer.shape

    def ones(size: int) -> Array:
        return xp.ones((kernels.shape[0], 1, size), dtype=kernels.dtype, device=ops.device(kernels))

    row = rounding.up(xp.max(absolute_layer.apply(ones(input_size)), axis=(1, 2)), forward_roundings, xp=xp)
    column = rounding.up(xp.max(absolute_layer.adjoint(ones(output_size)), axis=(1, 2)), backward_roundings, xp=xp)
    return rounding.up(row * column, 2, xp=xp)


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
        # Imported here: `import specnorm` does not need this module.
        from specnorm.certified.matrices.block_tridiagonal import gram_blocks

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
        rule = f"factorisation of its Gram matrix, {self._plan.blocks} times {self._plan.size} rows"
        return [
            _upper(bound, self._spec, rule) if bound < no_proof else None
            for bound in self._ops.to_numpy(bounds).tolist()
        ]

    def smallest_near(self, eigenvalues: np.ndarray, top: float) -> list[Lower]:
        """Lower bounds of the layers' smallest singular values, each just below the root of an approximate eigenvalue.

        A factorisation proves that all eigenvalues of ``top I - H`` are at most a limit, so those of H are at least
        top less the limit. The limit is just above ``top - eigenvalue``. Any eigenvalues and any top are valid; with
        poor ones the proof fails and the bound is 0.

        Parameters
        ----------
        eigenvalues : array, shape (b,)
            Approximate smallest eigenvalues of H.
        top : float
            About the largest eigenvalue of H.
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
        rule = f"factorisation of its Gram matrix, {size} rows"
        bounds = []
        for limit, is_proven, error in zip(limits.tolist(), proven.tolist(), errors.tolist(), strict=True):
            square = 0.0
            if is_proven:
                square = host.sub_down(top, host.add_up(limit, error, shift_error))
            bounds.append(_lower(host.sqrt_down(square), (SMALLEST, self._spec), rule))
        return bounds

    def with_zero_layers(self, bounds: list[Upper | None]) -> list[Upper | None]:
        """Replace the bounds for layers that are zero by 0: a factorisation cannot prove a limit of 0."""
        zero = _upper(0.0, self._spec, "no tap reads a pixel")
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

    Parameters
    ----------
    band : BlockTridiagonal
        A*A or AA* as computed.
    error : array, shape (b,)
        Bound of the norm of its error, from `gram_error`.
    target : array, shape (b,)
        Numbers just above the norms, such as estimates that were raised. Any numbers are valid.
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
        from specnorm.certified.matrices.block_tridiagonal import largest_eigenvalue_up  # as in `LayerGram`

        proven_sq = largest_eigenvalue_up(band, limit, ops=ops)
        is_proven = is_usable & (proven_sq < no_proof)
        bound = xp.sqrt(xp.where(is_proven, proven_sq + error, xp.ones_like(error)))
    return xp.where(is_proven, rounding.up(bound, 4, xp=xp), xp.full_like(target, no_proof))
