"""Functions of proofs about layers at one size, and of bounds at a fixed cost, each held against its formula.

Numbers that a function gives away to another one are caught on the way, where a result of that one would hide them.
"""

# Functions of modules are replaced, and what a function returns may be of a subclass.
# mypy: disable-error-code="arg-type,assignment,attr-defined"
from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from core.proof.formulas import SINGLE, Violations, between, down, gamma, normal, up
from core.proof.formulas_of_ends import DOUBLE, stack
from helpers.assumptions import assumed, assumed_lower
from helpers.checks import present
from helpers.libraries import NUMPY as np
from helpers.libraries import OPS
from helpers.oracle import dense_matrix

from specnorm.at_size.proofs import block_tridiagonal, components, own_matrix
from specnorm.at_size.proofs.circulant import shortest
from specnorm.at_size.proofs.uncut import unread_pixels_make_smallest_zero
from specnorm.at_size.proofs.waves import Waves, quotient_of_waves_down
from specnorm.ball.proofs import directions, multiples
from specnorm.completion.proof import norms_up as completion_norms_up
from specnorm.geometry import taps as axes
from specnorm.geometry.layer_map import Convolution
from specnorm.geometry.spec import ConvSpec
from specnorm.grid.proof import _rectangles, axis_factor
from specnorm.power.proofs import ritz
from specnorm.proofs.bound import digest_of
from specnorm.proofs.norms import norm_of_stack
from specnorm.running.proofs.scaling import found_in_words
from specnorm.symbols.proofs.lags import Lags
from specnorm.tensor_norm.proof import proven_factor
from specnorm.training.proof import attained_down

XP = OPS.xp
ROOT2 = math.sqrt(2)


@contextmanager
def caught(module: Any, name: str, result: Any) -> Iterator[list[Any]]:
    """The arguments with which a function of a module is called, which returns a number instead."""
    calls: list[Any] = []

    def function(*arguments: Any, **_: Any) -> Any:
        calls.append(arguments)
        return result

    with patch.object(module, name, function):
        yield calls


# -- the matrix of a layer ---------------------------------------------------------------------------------------------
def gram_matrices() -> Violations:
    """Gram matrices in blocks have the eigenvalues of the layer's, and entries of as many terms as are counted."""
    for mode, taps, size in (("zeros", (3, 2), (5, 4)), ("circular", (3,), (7,)), ("zeros", (2,), (9,))):
        kernel: Any = normal(3, 2, *taps, seed=1)
        spec = ConvSpec.of(kernel.shape, input_shape=size, padding_mode=mode)
        squares = np.linalg.svd(dense_matrix(kernel, size, padding_mode=mode), compute_uv=False) ** 2
        for plan in block_tridiagonal.plans(spec):
            band, _ = block_tridiagonal.gram_blocks(kernel[None], spec, plan, ops=OPS)
            n = plan.size
            whole = np.zeros((plan.blocks * n, plan.blocks * n))
            for j in range(plan.blocks):
                whole[j * n : j * n + n, j * n : j * n + n] = band.diagonal[0, j]
                if j + 1 < plan.blocks:
                    whole[j * n + n : j * n + 2 * n, j * n : j * n + n] = band.below[0, j]
            found = np.linalg.eigvalsh(whole)[::-1][: len(squares)]  # the lower triangle
            yield from between(f"eigenvalues in {plan.blocks} blocks", float(np.abs(found - squares).max()), 0.0, 1e-12)
    ones: Any = np.ones((9, 1, 9))
    spec = ConvSpec.of(ones.shape, input_shape=20)
    matrix = dense_matrix(ones, 20)
    for plan in block_tridiagonal.plans(spec):
        _, roundings = block_tridiagonal.gram_blocks(ones[None], spec, plan, ops=OPS)
        terms = (matrix @ matrix.T if plan.rows_are_outputs else matrix.T @ matrix).max()
        if roundings < terms:
            yield f"{roundings} roundings of {terms} terms"


def factors_of_blocks() -> Violations:
    """What the rounding of a factorization in blocks leaves, where nothing is left of the numbers as computed."""
    n = 300
    eye: Any = np.eye(n)
    band = block_tridiagonal.BlockTridiagonal(np.stack([0 * eye, -eye])[None], -2 * eye[None, None])
    found = block_tridiagonal.largest_eigenvalue_up(band, np.full(1, 4.0), ops=OPS)
    length = math.sqrt(n)
    rounded = gamma(n + 4, DOUBLE)
    on_diagonal = rounded * (5 * length + 4 * n + n)
    below = rounded * (length * 2 * length + 2 * length)
    yield from up("a factorization in blocks", found, 4 + on_diagonal + 2 * below)
    apart = block_tridiagonal.BlockTridiagonal(np.full((1, 2, 1, 1), 4.0), np.zeros((1, 1, 1, 1)))
    found = own_matrix.norm_up_near(apart, np.ones(1), np.full(1, math.sqrt(5.5)), ops=OPS)
    yield from up("a norm in blocks", found, math.sqrt(5.5))


def predicates() -> Violations:
    """What strides skip, and which side of a layer is smaller, by counting."""
    for stride, dilation, taps in itertools.product(
        ((2, 3), (2, 2), (1, 3)), ((1, 1), (2, 3), (3, 1)), ((1, 1), (2, 2))
    ):
        read = [len({r * t % s for t in range(k)}) for s, r, k in zip(stride, dilation, taps, strict=True)]
        for rows in (1, 2, 3, 4, 6, 7):
            spec = ConvSpec.of((rows, 1, *taps), stride=stride, dilation=dilation)
            expected = read[0] * read[1] < math.prod(stride) and rows > read[0] * read[1]
            if unread_pixels_make_smallest_zero(spec) is not expected:
                yield f"unread pixels of {spec}"
    for rows, columns in ((2, 1), (3, 1), (1, 2), (3, 5)):
        spec = ConvSpec.of((rows, columns, 1, 2), input_shape=(3, 4), padding_mode="zeros", padding=0)
        if own_matrix.has_fewer_rows(spec) is not (rows * 9 < columns * 12):
            yield f"fewer rows of {spec}"


def parts() -> Violations:
    """The norm of a layer is the largest of its parts', and a circulant of the fewest points contains it."""
    for taps, size, stride, dilation, padding in (
        (2, 4, 2, 1, 1), (2, 9, 2, 3, 2), (3, 7, 1, 2, 2), (1, 5, 3, 1, 0), (2, 6, 3, 1, 1), (2, 8, 1, 3, 1),
    ):  # fmt: skip
        kernel: Any = normal(2, 2, taps, seed=2)
        geometry: dict[str, Any] = {"stride": stride, "dilation": dilation, "padding": padding}
        geometry["padding_mode"] = "zeros"
        spec = ConvSpec.of(kernel.shape, input_shape=size, **geometry)
        norm = float(np.linalg.norm(dense_matrix(kernel, size, **geometry), 2))
        found = [
            dense_matrix(kernel, x.spec.input_shape, stride=x.spec.stride, padding_mode="zeros", padding=x.spec.padding)
            for x in components.polyphase_components(spec)
        ]
        yield from between("the largest part", max(np.linalg.norm(x, 2) for x in found) / norm, 1 - 1e-12, 1.0)
        (axis,) = spec.axes
        points = shortest(spec)[0] * math.lcm(stride, dilation)
        reads = [stride * m + dilation * t - axis.before for m in range(axis.outputs) for t in range(taps)]
        around = [x % points for x in reads if not 0 <= x < axis.pixels]
        if points < axis.pixels or stride * (axis.outputs - 1) >= points or any(x < axis.pixels for x in around):
            yield f"a circulant of {points} points for {spec}"
    spec = ConvSpec.of((3, 2, 2, 3), input_shape=(2, 3), padding_mode="zeros", padding=0)
    (patch_of,) = components.polyphase_components(spec)
    subject = norm_of_stack((1, 3, 12))
    lower, upper = components.norms_of_patch(patch_of, assumed_lower(1.0, subject), assumed(1.0, subject))
    yield from between("a patch", lower.value - upper.value, 0.0, 0.0)
    pairs = np.asarray([0, 1, 2, 5, 6, 12])
    seen = [
        (b, x)
        for blocks, of in _rectangles(pairs, 5)
        for b, row in zip(blocks, np.broadcast_to(of, (len(blocks), of.shape[-1])), strict=True)
        for x in row
    ]
    if {(int(b), int(x)) for b, x in seen} != {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 2)}:
        yield f"pairs {seen}"
    yield from up("a factor by interpolation", axis_factor(10, 10), math.sqrt(10))


def smallest_of_layers() -> Violations:
    """What is taken off, or added to, smallest singular values of layers."""
    spec = ConvSpec.of((3, 2, 3), input_shape=(6,), padding_mode="zeros")
    plan = next(x for x in block_tridiagonal.plans(spec) if not x.rows_are_outputs and x.blocks == 1)
    gram = own_matrix.LayerGram(Convolution(normal(1, 3, 2, 3), spec, ops=OPS), plan, ops=OPS)
    # So large an entry that the rounding of the shift shows; it is not asked whether this is proven.
    diagonal: Any = np.diag([2.0**50, 1.0])[None, None]
    gram.matrix = block_tridiagonal.BlockTridiagonal(diagonal, diagonal[:, :0])
    gram.error = np.full(1, 0.25)
    with caught(own_matrix.norms, "gram_below", np.ones(1, dtype=bool)):
        (found,) = gram.smallest_near(np.asarray([1.0]), 4.0)
    yield from down("a smallest value", found.value, math.sqrt(1 - 0.25 - (2.0**50 - 4) * DOUBLE))
    strided = ConvSpec.of((1, 1, 1), input_shape=(4000,), stride=4, padding_mode="zeros")
    unit: Any = np.zeros((1, 1, 1000))
    unit[0, 0, 0] = 1.0
    one = Convolution(np.ones((1, 1, 1, 1)), strided, ops=OPS)
    (bound,), _ = own_matrix.smallest_quotients(one, unit, ops=OPS)
    yield from up("a quotient of many entries", bound.value, 1 + 8000 * 2.0**-52, 1e-10)
    spec = ConvSpec.of((2, 1, 2), input_shape=(8,), padding_mode="zeros", padding=0)
    cancelling = Convolution(np.asarray([[[[1.0, -1.0]], [[1.0, -1.0]]]]), spec, ops=OPS)
    (bound,), _ = own_matrix.smallest_quotients(cancelling, np.ones((1, 1, 8)), ops=OPS)
    formula = gamma(cancelling.roundings[0] + 4, DOUBLE) * 2 * math.sqrt(14 / 8)
    yield from up("a quotient of 0", bound.value, formula)
    zeros: Any = np.zeros((1, 1, 1, 2))
    zeros[..., 1] = 1.0
    spec = ConvSpec.of((1, 1, 2), input_shape=(8,), padding_mode="zeros", padding=1)
    tiny = np.zeros((1, 1, 8))
    tiny[0, 0, 3] = 2.0**-1000
    (bound,), _ = own_matrix.smallest_quotients(Convolution(zeros, spec, ops=OPS), tiny, ops=OPS)
    yield from between("an underflow", bound.value, 1 + 12 * 2.0**-1022 / 2.0**-1000, 1 + 1e-4)


# -- waves -------------------------------------------------------------------------------------------------------------
def waves() -> Violations:
    spec = ConvSpec.of((2, 3, 2, 3), input_shape=(5, 6), padding_mode="zeros")
    factors: Any = [np.ones((2, 5), dtype=complex), np.ones((3, 6), dtype=complex)]
    sums = Waves(normal(1, 2, 3, 2, 3), spec, factors, ops=OPS)
    tables = (5 + 5 + 2 * 3) + (6 + 6 + 3 * 4)
    least = 2 * 3 + tables + (2 + 3) * 6 * 6
    yield from between("roundings of waves", sums.roundings, least, least + 8)
    small = 2.0**-20
    line = ConvSpec.of((1, 1, 2), input_shape=(9,), padding_mode="zeros", padding=0)
    one = Waves(np.asarray([[[1.0, small - 1]]])[None][0][None], line, [np.ones((1, 9), dtype=complex)], ops=OPS)
    found = quotient_of_waves_down(one, np.ones((1, 1, 1), dtype=complex), ops=OPS)
    relative = ROOT2 * gamma(2 * one.roundings, DOUBLE)
    image_sq = 8 * (small**2 - (2 - small) ** 2 * relative)
    yield from down("a quotient of waves", found, math.sqrt(image_sq / (9 * (1 + relative))))
    yield from _waves_of_padded_lines()


def _waves_of_padded_lines() -> Violations:
    """Squared lengths of the images of waves are those of the dense matrix, where a long axis is read in parts."""
    factor = np.exp(1j * np.outer([0.3, 1.1], np.arange(11)))
    kernel = normal(1, 2, 1, 3)
    for pads in ((0, 0), (1, 0), (0, 2), (2, 1)):
        spec = ConvSpec.of((2, 1, 3), input_shape=(11,), padding_mode="zeros", padding=(pads,))
        with patch.object(axes, "PART", 4):
            sums = Waves(kernel, spec, [factor], ops=OPS)
            found = sums.image_inner(np.asarray([[[1.0], [0.5]]], dtype=complex))[0, 0].real
        matrix = dense_matrix(kernel[0], 11, padding_mode="zeros", padding=(pads,))
        image = matrix @ (np.asarray([1.0, 0.5]) @ factor)
        square = np.vdot(image, image).real
        yield from between(f"waves with padding {pads}", found, square * (1 - 1e-12), square * (1 + 1e-12))


# -- values from vectors -----------------------------------------------------------------------------------------------
def ritz_bounds() -> Violations:
    """Ritz values less the errors of images, of Gram matrices and of the vectors' lengths."""
    images: Any = np.asarray([[[3.0, 0.0], [0.5, 2.0]]])
    vectors: Any = np.asarray([[[1.0, 0.1], [0.0, 1.0]]])
    magnitudes: Any = np.asarray([[[3e9], [4e9]]])

    def many(x: Any, **_: Any) -> tuple[Any, int]:
        return x @ np.swapaxes(x, 1, 2), 10**9

    with patch.object(ritz, "_inner_products", many):
        found = ritz.ritz_down(images, magnitudes, vectors, 1000, ops=OPS)
    e = gamma(10**9 + 2, DOUBLE)
    gram, gram_of_images = vectors[0] @ vectors[0].T, images[0] @ images[0].T
    norm_sq = float(np.linalg.norm(gram - np.eye(2))) + 1 + np.trace(gram) * e
    diagonal = np.sort(np.diag(gram_of_images))[::-1]
    squares = diagonal - ROOT2 * abs(gram_of_images[0, 1]) - diagonal.sum() * e
    g = gamma(1000, DOUBLE) / 1.001
    values = (np.sqrt(squares) - 5e9 * 1.001 * g / (1 - g)) / math.sqrt(norm_sq)
    yield from down("Ritz values", found[0], values, 1e-6)
    weak: Any = np.full((1, 1, 1), 2.0**-500)
    tiny = 2.0**-1022
    found = ritz.ritz_down(weak, weak, np.ones((1, 1, 1)), 2 * 10**15, ops=OPS)
    g = gamma(2 * 10**15, DOUBLE) / 1.001
    image, wrong = math.sqrt(2.0**-1000 - tiny), math.sqrt(2.0**-1000 + tiny) * 1.001 * g / (1 - g)
    yield from down("Ritz values that underflow", found * 2.0**500, (image - wrong) * 2.0**500, 1e-9)
    one_tap = ConvSpec.of((1, 1, 1), input_shape=(6,), padding_mode="zeros")
    identity = Convolution(np.ones((1, 1, 1, 1)), one_tap, ops=OPS)
    for length, formula in (
        (1.0, 2 * gamma(identity.roundings[0] + 4, DOUBLE)),
        (2.0**-500, math.sqrt(6 * tiny) * 2.0**500),
    ):
        unit: Any = np.full((1, 1, 6), length / math.sqrt(6))
        yield from up(
            "residuals of 0", ritz.residuals_up(identity, unit, unit, np.ones((1, 1)), ops=OPS), formula, 1e-5
        )
    faint = Convolution(np.full((1, 1, 1, 1), 1e-170), one_tap, ops=OPS)
    error, is_zero = ritz.gram_error(faint, 100, 50, ops=OPS)
    yield from up("an underflow of a Gram matrix", error, 5000 * tiny, 1e-3)
    if np.asarray(is_zero).any():
        yield "a faint layer is called zero"
    kernels: Any = stack(4, 3, 3, seed=5)
    spec = ConvSpec.of((8, 3, 3), input_shape=(7,), groups=2, padding_mode="replicate")
    layer = Convolution(kernels.reshape(1, 8, 3, 3), spec, ops=OPS)
    inputs: Any = normal(1, 1, 42, seed=6)
    with caught(ritz, "ritz_down", 0 * images) as calls:
        ritz.ritz_values_down(layer, inputs, vectors_are_outputs=False, ops=OPS)
    sums = np.abs(kernels).sum(axis=3)
    norms = np.sqrt(sums.sum(axis=2).max(axis=1) * sums.sum(axis=1).max(axis=1))
    formula = norms.max() * math.sqrt(spec.padding_gain_sq) * np.linalg.norm(inputs)
    yield from up("magnitudes of images", calls[0][1], formula)
    small = 2.0**-40
    blocks: Any = np.asarray([[1.0, 1.0, -1.0], [-1.0, 1.0, small - 1]]).reshape(1, 1, 1, 2, 3)
    one: Any = np.ones((1, 1), dtype=complex)
    value, *_ = attained_down(blocks, one, np.zeros((1, 2)), ops=OPS)
    error = gamma(6 + 2, DOUBLE) + gamma(8 * (2 + 3 + 2 + 2), DOUBLE)
    yield from down("attained", value, small - np.linalg.norm(blocks) * math.sqrt(6) * error, 1e-9)


# -- balls, and other bounds at a fixed cost ---------------------------------------------------------------------------
def directions_of_balls() -> Violations:
    """Sums of squares in parts, magnitudes, and kernels scaled to a limit less their underflow."""
    _, error = directions._square_up(np.full((1, 3, 2), 1e-170), xp=XP)
    yield from up("an underflow of a square", error, 2 * 3 * 2 * 2.0**-1022)
    long: Any = np.full((1, 1, 2**18), 2.0**-9)
    (found,) = directions.matrix_norms_up([long], xp=XP)
    yield from up("a norm by squares", found, 1 + gamma(256 + 2**10, DOUBLE) / 2)
    weak: Any = np.full((1, 2, 2), 10 ** (-160 / 512) / 2)
    (found,) = directions.matrix_norms_up([weak], xp=XP)
    yield from between("a norm whose powers underflow", float(found[0]), 10 ** (-160 / 512), 1.0)
    matrices: Any = normal(2, 3, 4, seed=8)
    sums = np.abs(matrices)
    yield from up("absolute", directions.absolute_up(matrices, xp=XP), np.sqrt(sums.sum(2).max(1) * sums.sum(1).max(1)))
    kernels: Any = normal(2, 3, 4, 2, 5, seed=9)
    limit = directions.Limit(2.0, 0.25, 1e-4)
    lost = 1.01 * 1e-4 * 10 * math.sqrt(12)
    norms: Any = np.asarray([3.0, 5.0])
    found = directions._scaled(kernels, norms, 2 * norms, limit, xp=XP)
    divisor = norms * (1 + 2 * 1.001 * (0.25 + DOUBLE))
    yield from down("a scale", (found / kernels)[:, 0, 0, 0, 0], (2.0 - lost) / divisor)
    window = present(directions.Window.of((3, 3, 3)))
    factors: Any = np.ones((8, 2, 2), dtype=np.float32) * np.arange(1, 9, dtype=np.float32)[:, None, None]
    plain = (window.signs * (window.weights / 8)).T @ factors[:, 0, 0]
    norms = 2 * factors[:, 0, 0]
    joined = directions._joined(factors, norms, window, directions.Limit(2.0, 0.0, 0.0), ops=OPS)[0, 0, 0]
    taps = np.abs(plain) > 0.1
    ratios = (joined[taps] / plain[taps]).astype(np.float64) * (1 - 4 * SINGLE)
    yield from down("a join", ratios, 2 / (16 + 16 * 8 * gamma(8, SINGLE)), 1e-5)


def words_of_bounds() -> Violations:
    found: Any = SimpleNamespace(lower=SimpleNamespace(value=1.0), highest=3.0)
    if found_in_words(found, -2) != "0.250000 <= norm <= 0.750000":
        yield found_in_words(found, -2)


def neighbours() -> Violations:
    """What the rounding of a difference adds to the norm of a neighbor, where the difference is said to be 0."""
    spec = ConvSpec.of((2, 3, 2, 3), input_shape=(5, 6), padding_mode="replicate")
    kernel = normal(2, 3, 2, 3)
    known = assumed(0.0, spec, digest_of(kernel))
    with caught(multiples.norms, "gram_iteration_up", np.zeros(1)):
        found = multiples.norm_of_neighbour(known, kernel, 3 * kernel).value
    formula = 2 * float(np.linalg.norm(kernel)) * 2.0**-53 * math.sqrt(6 * spec.padding_gain_sq)
    yield from up("the rounding of a difference", found, formula)
    eye: Any = np.eye(2)
    flat: Any = np.ones((2, 2))
    of_kernel = Lags(np.stack([eye, flat])[None], np.full(1, 0.25))
    of_completion = Lags(np.stack([eye / 4, -flat])[None], np.full(1, 0.5))
    norm, _ = completion_norms_up(of_kernel, of_completion, ops=OPS)
    yield from up("by a completion", norm, math.sqrt(1.25 + 0.75))
    large: Any = np.stack([eye, 2.0**27 * flat])[None]
    exact = Lags(large, np.zeros(1)), Lags(large * np.asarray([0.25, -1.0]).reshape(1, 2, 1, 1), np.zeros(1))
    norm, _ = completion_norms_up(*exact, ops=OPS)
    sums = 1.25 * ROOT2 + 2 * 2 * 2.0**28
    yield from up("by a completion that is rounded", norm, math.sqrt(1.25 + 2 * DOUBLE * sums), 1e-10)
    blocks: Any = np.ones((2, 1, 1, 5, 1)) * np.asarray([1.0, 2.0]).reshape(2, 1, 1, 1, 1)
    value: Any = np.asarray([9.0], dtype=np.float32)
    factor, _ = proven_factor(value, np.ones((2, 5), dtype=complex), blocks, ops=OPS)
    yield from up("a factor", factor, 10 / 9, 1e-5)


CHECKS = {
    x.__name__: x
    for x in (
        gram_matrices, factors_of_blocks, predicates, parts, smallest_of_layers, waves, ritz_bounds,
        directions_of_balls, words_of_bounds, neighbours,
    )
}  # fmt: skip
