"""Proof: convolutions and the matrix after them together, by one sum over the frequencies of a ring.

The matrix layer reads all pixels of the last convolution, flattened, or averages of them. These are a matrix, too.

Let y be the values of the convolutions' links 1..l with their weights, and the leaves, so that y contains q_l z_l
(`parts`; here the last function has a multiplier, too). They lie on a ring of N positions on each of d axes. The
ring is so long that no layer reads beyond the border of its window what is at the opposite border. Differences of two
inputs satisfy ``y*(I - K)y <= |q_0 x|^2``, with x in y, and K as in `parts`. The matrix layer has the value
``u = W z_l = N^-d sum_theta E(theta) y(theta)``, where E is zero outside the columns of q_l z_l, and is there the
discrete Fourier transform of ``W q_l^-1``. Suppose that I - K is positive definite at all frequencies of the ring. The
least ``y*(I - K)y`` for a given u is ``u* G^-1 u`` with

    G = N^-d sum_theta E (I - K)^-1 E*.

So ``u* G^-1 u <= |q_0 x|^2``. For any R with R R* >= G it follows that u = R x' for some x' with |x'| <= |q_0 x|. The
rest of the run is bounded as if it began with the matrix R at x'. No computed inverse is trusted: for any Y and
``S = E* - (I - K) Y``

    E (I - K)^-1 E* = E Y + Y* S + S* (I - K)^-1 S,

and the last two terms are as small as S.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from specnorm_check import Part

from specnorm import ConvSpec
from specnorm.proof import (
    ArrayOps,
    HypothesisError,
    Polynomial,
    Upper,
    arithmetic,
    backends,
    frequency_grids,
    host,
    make_upper,
    matrix_norms,
    rounding,
)
from specnorm_networks.certified.graph import Layer
from specnorm_networks.certified.kernels import MOST_ENTRIES_AT_ONCE, ROUNDINGS, Norms, scaling_error
from specnorm_networks.certified.links import Link, Run, Term
from specnorm_networks.certified.operators.base import FloatArray, NoBoundError
from specnorm_networks.certified.parts import (
    constant_of_run,
    constants,
    edges,
    joint_kernel,
    map_of,
    middle_and_leaf_slopes,
    usable,
)
from specnorm_networks.certified.placed_kernels import symbols_of
from specnorm_networks.certified.runs import MOST_KERNEL_ENTRIES, by_phases, grids_of, taps_of

EIGENVALUE_GAP = 1e-9
"""The largest eigenvalue of K has to be below 1 by this much."""
LARGEST_RING = 2**14
"""Largest number of positions of a ring, over all axes."""
UNIT_ROUNDOFF = 2.0**-53
UNDERFLOW = 2.0**-900
"""Upper bound of what underflow can take from a sum; each of its products loses at most 2^-1074."""


class NotProvenError(HypothesisError):
    """Weights that a search proposed prove no bound."""


PixelCounts = tuple[int, ...]
"""Number of pixels of a value along each spatial axis."""


@dataclass(frozen=True, eq=False)
class Head:
    """A run with a matrix layer that reads all pixels of the convolutions before it, or averages of them.

    Parameters
    ----------
    run : Run
        The whole run: links before the body, the body, the matrix layer, and the links after it.
    body : Run
        The convolutions that are bounded together with the matrix layer, on one grid.
    window : tuple of int
        Number of pixels of the value that the matrix layer reads, along each axis.
    ring : tuple of int
        N, one number an axis.
    before : tuple of Part
        Statements of the parts of the run before the body.
    """

    run: Run
    body: Run
    window: PixelCounts
    ring: tuple[int, ...]
    before: tuple[Part, ...] = ()

    def __str__(self) -> str:
        return f"{self.run.end} by {self.run.start}, up to a head"  # the links before the body alone

    @property
    def first(self) -> int:
        """Number of links before the body."""
        return sum(len(statement.values) - 1 for statement in self.before)

    @property
    def matrix_number(self) -> int:
        """Number of the matrix layer's link in the run."""
        return self.first + len(self.body.links)

    @property
    def link(self) -> Link:
        """The link of the matrix layer and its function."""
        return self.run.links[self.matrix_number]

    @property
    def weights_at_start(self) -> FloatArray:
        """Weights q_0 of the value that the body reads."""
        return np.asarray(self.before[-1].multipliers[-1] if self.before else np.ones(self.body.width))

    @property
    def matrix(self) -> FloatArray:
        """W, shape (outputs, channels, *window)."""
        (term,) = self.link.terms
        return self._of_pixels(term.dense(0).kernel)

    @property
    def magnitudes(self) -> FloatArray:
        """The magnitudes to which the rounding errors of W are relative.

        Each magnitude stands for an error of `ROUNDINGS` roundings (`scaling_error`).
        """
        (term,) = self.link.terms
        magnitudes = self._of_pixels(term.magnitudes(0).kernel)
        average = self.body.links[-1].average
        # A sum of averages has as many more roundings as it has terms.
        return magnitudes if average is None else magnitudes * (1 + len(average) / ROUNDINGS)

    def _of_pixels(self, matrix: FloatArray) -> FloatArray:
        """Return the matrix layer as a map of the body's pixels, of which it may read averages."""
        last = self.body.links[-1]
        if last.average is not None:
            averages = last.average.reshape(len(last.average), -1)
            matrix = matrix.reshape(-1, len(averages)) @ averages
        return matrix.reshape(-1, last.width, *self.window)

    @property
    def frequencies(self) -> tuple[frequency_grids.Frequencies, FloatArray]:
        """Frequencies of half of the ring, and how often each counts in sums over the whole ring.

        A frequency counts twice if its mirror image is in the other half; else once.
        """
        half = frequency_grids.Frequencies.half_grid(self.ring)
        mirror_images = (-half.numerators) % np.asarray(self.ring)
        halved_axis = int(np.argmax(self.ring))
        is_in_other_half = mirror_images[:, halved_axis] > self.ring[halved_axis] // 2
        return half, np.where(is_in_other_half, 2.0, 1.0)

    def following(self, root: FloatArray) -> Run:
        """Return the run from the matrix layer on, with R in place of its matrix and of everything before it.

        ``root``: R, one column for each entry of x'.
        """
        names = [name for link in self.run.links[self.first : self.matrix_number + 1] for name in link.kernel_names]
        root_layer = Layer(" + ".join(names), load=lambda: root, geometry={}, spatial=0)
        root_link = replace(self.link, terms=(Term.of_matrix(0, root_layer),))
        run = self.run.part(self.matrix_number, len(self.run.links))
        start = f"{self.before[-1].values[-1]}, weighted" if self.before else self.run.start
        following = replace(run, start=start, width=len(root), links=(root_link, *run.links[1:]))
        return following._with_domain(self.run.domain)


# -- where a run has a matrix layer ------------------------------------------------------------------------------------
def head_of(run: Run, before: Sequence[Part] = ()) -> Head:
    """Return a run's `Head`, whose body begins after the parts ``before``.

    `NoBoundError` if the run has no matrix layer that can be bounded together with the links before it.
    """
    matrix_number = _matrix_of_pixels(run)
    first = sum(len(statement.values) - 1 for statement in before)
    # The run has to be cut before the body, and on both sides of the matrix.
    if first >= matrix_number or not {first, matrix_number, matrix_number + 1} <= set(run.cut_points):
        raise NoBoundError("the run cannot be cut around the matrix")
    body = run.part(first, matrix_number)
    sizes = _sizes(body)
    if not _reads_all_pixels(run.links[matrix_number - 1], sizes[-1]):
        raise NoBoundError("the matrix does not read all pixels")
    grids = grids_of(body)
    if max(grids[len(body.links)], default=1) > 1:
        raise NoBoundError("the pixels that the matrix reads are finer than those of another value")
    coarse_body = _on_coarsest_grid(body, grids)
    if not _has_joint_bound(coarse_body):
        raise NoBoundError("the body has no joint bound")
    sizes_on_coarsest_grid = []
    for value, size in enumerate(sizes):
        sizes_on_coarsest_grid.append([-(-n // pixels) for n, pixels in zip(size, grids[value], strict=True)])
    ring = _ring(coarse_body, sizes_on_coarsest_grid)
    if math.prod(ring) > LARGEST_RING:
        raise NoBoundError("the ring is too large")
    return Head(run, coarse_body, sizes[-1], ring, tuple(before))


def _on_coarsest_grid(body: Run, grids: Mapping[int, tuple[int, ...]]) -> Run:
    """Return a body on its coarsest grid, where each pixel of a finer grid is a channel.

    ``grids``: see `grids_of`.
    """
    widths = [body.width, *(link.width for link in body.links)]
    rows_of_k = sum(width * math.prod(grids[value]) for value, width in enumerate(widths))
    if rows_of_k**2 * taps_of(body) > MOST_KERNEL_ENTRIES:
        raise NoBoundError("the body is too large")
    has_finer_grid = any(max(grid) > 1 for value, grid in grids.items() if value > 0)
    return by_phases(body) if has_finer_grid else body


def _matrix_of_pixels(run: Run) -> int:
    """Return the number of the first link that is a matrix of all pixels of the value before, or of their averages."""
    for number, (last, link) in enumerate(itertools.pairwise(run.links), 1):
        if len(link.terms) != 1:
            continue
        (term,) = link.terms
        if term.source != number or term.placed_layer is None or term.placed_layer.layer.spatial:
            continue
        # Between the function and the matrix there may be averages and flattening, and nothing else.
        if last.ends_with_function or (last.factors and last.average is None):
            continue
        features = range(last.width * last.repeat)
        if term.rows == range(link.width) and term.reads == features and term.columns == features:
            return number
    raise NoBoundError("no matrix reads the pixels of a convolution")


def _reads_all_pixels(last: Link, window: PixelCounts) -> bool:
    """Whether the matrix layer reads, of each channel, all pixels in a window, or all averages of these.

    ``last``: the link before the matrix layer.
    """
    if last.average is None:
        return last.repeat == math.prod(window)
    return last.average.shape == (last.repeat, *window)


def _has_joint_bound(part: Run) -> bool:
    """Whether one matrix K describes all links of a body, and is not too large."""
    if not part.on_one_grid or len(part.borders) > 1 or "none" in part.borders:
        return False
    leaves = sum(link.width for link in part.links if link.has_negative_slope)
    return (sum(part.widths) + leaves) ** 2 * taps_of(part) <= MOST_KERNEL_ENTRIES


def _sizes(body: Run) -> list[PixelCounts]:
    """Return the spatial sizes of all values, which the layers have to state alike."""
    sizes_of_value: list[set[PixelCounts]] = [set() for _ in range(len(body.links) + 1)]
    for number, link in enumerate(body.links, 1):
        for term in link.terms:
            if term.placed_layer is None:
                continue
            if term.placed_layer.sizes is None:
                raise NoBoundError("a layer of unknown sizes")
            before, after = term.placed_layer.sizes
            sizes_of_value[term.source].add(before)
            sizes_of_value[number].add(after)
    if any(len(sizes) != 1 for sizes in sizes_of_value):
        raise NoBoundError("layers that state different sizes, or none")
    return [sizes.pop() for sizes in sizes_of_value]


def _ring(part: Run, sizes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return N, one number an axis.

    The output of a layer at m in [0, n') reads the position m + p of the input's window [0, n), for each position p of
    a tap. On the ring it must not read another position of the window, which differs from m + p by a multiple of N. It
    does not if ``n' - 1 + p < N`` and ``n <= N + p`` for the first and the last p.
    """
    if part.borders == {"circular"}:
        if any(size != sizes[0] for size in sizes):
            raise NoBoundError("circular layers with windows of several sizes")
        return tuple(sizes[0])
    largest = [max(axis) for axis in zip(*sizes, strict=True)]
    excess = [0] * len(largest)
    for kernel_of_source in part.kernels:
        for kernel, first_tap in kernel_of_source.values():
            for axis, (p, taps) in enumerate(zip(first_tap, kernel.shape[2:], strict=True)):
                excess[axis] = max(excess[axis], p + taps - 1, -p)
    return tuple(n + more for n, more in zip(largest, excess, strict=True))


# -- constants ---------------------------------------------------------------------------------------------------------
@arithmetic.on_host()
def constant_before(head: Head, norms: Norms) -> Upper:
    """Prove the constant L of the links before the body, in the weights q_0 of the value x that the body reads.

    ``|q_0 x| <= L |v|`` for differences v of the run's input.

    Raises
    ------
    HypothesisError, ValueError, MethodError
        As `parts.constant_of_run`.
    """
    links_before = head.run.part(0, head.first)
    premises = [*constants(links_before, head.before, norms), *links_before.factors]
    product = host.mul_up(*(claim.value for claim in premises))
    return make_upper(product, head, f"{head.first} layers before a head, weighted", *premises)


@arithmetic.on_host()
def constant_through_head(
    head: Head,
    weights: Sequence[FloatArray],
    following: Callable[[Run], Sequence[Sequence[Part]]],
    norms: Norms,
    ahead: Upper | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Upper:
    """Prove the Lipschitz constant of a run with a matrix layer, described by a `Head`.

    Parameters
    ----------
    weights : sequence of array
        One number a channel of each value of the body but the first.
    following : callable
        Returns for the run that begins with R (`Head.following`) statements of its parts, several times; the least
        constant counts.
    ahead : Upper, optional
        `constant_before` of the same `Head`. Needed if there are links before the body, and refused otherwise.
    tick : callable, optional
        Called before each part of the work; it may raise to end it.

    Raises
    ------
    NotProvenError
        If ``weights`` cannot be weights, or I - K is not proven to be positive definite.
    HypothesisError
        If ``ahead`` is another head's.
    ValueError, MethodError
        If the run that begins with R has no joint bound.
    numpy.linalg.LinAlgError
        If numbers are too large.
    """
    links = head.body.links
    widths = [link.width for link in links]
    fits = all(link.fits_groups(numbers) for link, numbers in zip(links, weights, strict=True))
    if [len(numbers) for numbers in weights] != widths or not fits or not all(map(usable, weights)):
        raise NotProvenError(f"no weights of {widths} channels")
    subject_ahead = None if ahead is None else ahead.what
    needed_subject = head if head.before else None
    # The claim has to be about this very head. Without links before the body, there must be none.
    if subject_ahead is not needed_subject:
        raise HypothesisError("what is before this head is not counted")
    gram, error = _approximate_gram(head, weights, tick)
    rest = head.following(_root(gram, error))
    claims = [constant_of_run(rest, statements, norms) for statements in following(rest)]
    least_claim = min(claims, key=float)
    if ahead is None:
        return least_claim
    product = host.mul_up(least_claim.value, ahead.value)
    return make_upper(product, map_of(head.run), "what is before a head, and all from there", least_claim, ahead)


def _approximate_gram(
    head: Head,
    weights: Sequence[FloatArray],
    tick: Callable[[], None],
) -> tuple[FloatArray, float]:
    """Return an approximation of G, and a bound of the norm of its error.

    At each frequency Y is the computed (I - K)^-1 E*, and S = E* - (I - K) Y is its residual (see the module). The
    approximation of G is the sum of E Y over the frequencies, and the error at one of them is
    ``|E (I - K)^-1 E* - E Y| <= |Y| |S| + |S|^2 / least``, with a number ``least`` below all eigenvalues of I - K.
    """
    body = head.body
    slopes = [middle_and_leaf_slopes(*link.slopes) for link in body.links]  # the last function has a multiplier, too
    all_weights = [head.weights_at_start, *weights]
    k = joint_kernel(edges(body, body.kernels, all_weights, slopes))
    numbers: Any = k
    ops = ArrayOps.of(backends.backend_for(numbers), numbers)
    magnitudes = joint_kernel(edges(body, body.magnitudes, all_weights, slopes))
    last_weights = all_weights[-1].reshape(1, -1, *(1,) * body.axes)
    w = head.matrix / last_weights
    k_error = _symbol_error(k, magnitudes)
    w_error = _symbol_error(w, head.magnitudes / last_weights)
    # The computed symbols are proven to have eigenvalues of I - K of at least the gap. The symbols differ from the
    # exact ones by `k_error`; four times as much is subtracted.
    least = host.lowered(EIGENVALUE_GAP, 4) - 4 * k_error
    if not least > 0:
        raise NotProvenError("rounding is larger than the margin")

    n = len(k)
    outputs, channels = w.shape[:2]
    columns = slice(sum(body.widths[:-1]), sum(body.widths[:-1]) + channels)
    k_positions = frequency_grids.product([np.arange(taps) - taps // 2 for taps in k.shape[2:]])
    w_positions = frequency_grids.tap_points(head.window)
    frequencies, counts = head.frequencies
    shares = counts / math.prod(head.ring)
    # Relative error of products, residuals and sums of up to n complex terms. A product of complex numbers has two
    # roundings more; four times as many as needed are counted.
    relative = rounding.gamma(4 * (n + 8), UNIT_ROUNDOFF)
    gram = np.zeros((outputs, outputs))
    error = 0.0
    magnitude = 0.0
    at_once = max(1, MOST_ENTRIES_AT_ONCE // n**2)
    for first in range(0, len(frequencies), at_once):
        tick()
        chunk = slice(first, first + at_once)
        symbols = symbols_of(k, *frequencies[chunk].cos_sin(k_positions))
        symbols = (symbols + symbols.conj().swapaxes(-1, -2)) / 2  # Hermitian although they are rounded
        matrices: Any = symbols
        limits: Any = np.full(len(symbols), 1 - EIGENVALUE_GAP)
        if not np.all(np.asarray(matrix_norms.gram_below(matrices, limits, ops=ops))):
            raise NotProvenError("I - K is not proven to be positive definite")
        e = symbols_of(w, *frequencies[chunk].cos_sin(w_positions))
        form = np.eye(n) - symbols
        e_adjoint = np.zeros((len(symbols), n, outputs), dtype=np.complex128)
        e_adjoint[:, columns] = e.conj().swapaxes(-1, -2)
        y = np.linalg.solve(form, e_adjoint)
        gram += np.einsum("k,kij->ij", shares[chunk], (e @ y[:, columns]).real)

        e_norm = _frobenius_up(e)
        y_norm = _frobenius_up(y)
        residual = _frobenius_up(e_adjoint - form @ y)
        residual_rounding = relative * (_frobenius_up(form) * y_norm + e_norm)
        # E* has rank at most `outputs`, so that the Frobenius norm of its error is at most the root of that times its
        # norm. The error of K is counted four times, as in `least`.
        s_norm = residual + residual_rounding + math.sqrt(outputs) * w_error + 4 * k_error * y_norm
        product_error = (relative * e_norm + w_error) * y_norm
        error_of_frequency = product_error + y_norm * s_norm + s_norm * s_norm / least
        error += float(shares[chunk] @ host.inflate(error_of_frequency, 32))  # fewer than 32 roundings above
        magnitude += float(shares[chunk] @ (e_norm * y_norm))
    gram = (gram + gram.T) / 2
    sum_error = 2 * magnitude * rounding.gamma(len(frequencies) + 8, UNIT_ROUNDOFF)
    return gram, host.next_up(host.inflate(error + sum_error, 2 * len(frequencies) + 16) + UNDERFLOW)


def _symbol_error(kernel: FloatArray, magnitudes: FloatArray) -> float:
    """Bound the norm of a symbol's error: that of the kernel's entries, and that of the sum over the taps."""
    of_sum = float(Polynomial(cast(Any, kernel[None]), xp=cast(Any, np)).error[0])
    return host.add_up(of_sum, scaling_error(magnitudes, ConvSpec.of(magnitudes.shape)))


def _frobenius_up(matrices: NDArray[Any]) -> FloatArray:
    """Return the Frobenius norm of each matrix, rounded up."""
    entries = np.ascontiguousarray(matrices, dtype=np.complex128).reshape(len(matrices), -1)
    return np.asarray(host.norm_up(entries.view(np.float64)))


def _root(gram: FloatArray, error: float) -> FloatArray:
    """Return R with ``R R* >= G``, for a matrix ``gram`` that differs from G by at most ``error`` in norm.

    R is the computed Cholesky factor of ``gram + t I``. Its product is at least that matrix less kappa times its trace
    (`cholesky_loss`). The trace is larger than that of ``gram`` by m t, and the diagonal was rounded once. So t has to
    be at least ``(error + kappa trace) / (1 - m kappa)``.
    """
    m = len(gram)
    loss = matrix_norms.cholesky_loss(m, cast(Any, gram), xp=cast(Any, np))
    kappa = host.add_up(loss, 2.0**-52)
    trace = host.inflate(float(np.sum(np.abs(np.diagonal(gram)))), m + 2)
    enlarged_error = host.add_up(error, host.mul_up(kappa, trace))
    shift = host.div_up(enlarged_error, host.lowered(1 - m * kappa, 4))
    return np.asarray(np.linalg.cholesky(gram + host.inflate(shift, 4) * np.eye(m)))
