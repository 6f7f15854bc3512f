"""Proof: convolutions and a matrix of all their pixels together, by one sum over the frequencies of a ring.

The matrix reads pixels, flattened, or averages of them, which are a matrix themselves.

Let y be the values of some links with their weights (`segments`), on a ring of N positions an axis that is so long that
no layer reads around it what it does not read on its window. Differences satisfy ``y*(I - K)y <= |q_0 x|^2``, K as in
`segments`, and the head's ``u = W z_l`` is ``N^-d sum_theta E(theta) y(theta)`` with E the discrete transform of
``W q_l^-1``. So, if I - K is positive definite at all frequencies of the ring,

    u = R x',    |x'| <= |q_0 x|,    R R* >= G = N^-d sum_theta E (I - K)^-1 E*,

and whatever follows is bounded as if it began with the matrix R at x'. No inverse is trusted: for any Y and
``S = E* - (I - K) Y``

    E (I - K)^-1 E* = E Y + Y* S + S* (I - K)^-1 S,

and the last two terms are as small as S.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from specnorm import ConvSpec
from specnorm.proof import (
    ArrayOps,
    HypothesisError,
    Upper,
    arithmetic,
    frequency_grids,
    host,
    make_upper,
    matrix_norms,
    rounding,
    symbol_error,
)
from specnorm_networks.certified.graph import Layer
from specnorm_networks.certified.kernels import AT_ONCE, ROUNDINGS, Norms, fold_error
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.reading import (
    ENTRIES,
    AffineMap,
    Filter,
    Segment,
    Subnetwork,
    Term,
    by_phases,
    grids_of,
    taps_of,
)
from specnorm_networks.certified.rules import NOTHING
from specnorm_networks.certified.segments import (
    constant_of_run,
    constants,
    edges,
    hermitian_kernel,
    map_of,
    parts_from,
    usable,
)

MARGIN = 1e-9
"""By how much K has to be below 1."""
RING = 2**14
"""Most positions of a ring."""


@dataclass(frozen=True, eq=False)
class Head:
    """A run with convolutions whose pixels, or averages of them, a matrix reads.

    Parameters
    ----------
    run : Subnetwork
    body : Subnetwork
        The convolutions on one grid.
    window : tuple of int
        Pixels of the value that is read, an axis.
    ring : tuple of int
        N, an axis.
    starts : tuple of int
        Of the parts before the body.
    before : tuple of array
        One number a channel of each value before the body's links but the run's first.
    """

    run: Subnetwork
    body: Subnetwork
    window: tuple[int, ...]
    ring: tuple[int, ...]
    starts: tuple[int, ...] = ()
    before: tuple[FloatArray, ...] = ()

    def __str__(self) -> str:
        return f"{self.run.end} by {self.run.start}, up to a head"

    @property
    def at(self) -> int:
        """Number of the matrix's link."""
        return len(self.before) + len(self.body.links)

    @property
    def link(self) -> AffineMap:
        """The matrix, with its function."""
        return self.run.links[self.at]

    @property
    def part(self) -> Segment:
        """The body as one part, taps at their places."""
        return replace(self.body.part(0, len(self.body.links)), placed=True)

    @property
    def entry(self) -> FloatArray:
        """q_0."""
        return np.asarray(self.before[-1] if self.before else np.ones(self.body.width))

    def matrix(self, *, absolute: bool = False) -> FloatArray:
        """W, shape (m, channels, *window); ``absolute``: what its rounding refers to."""
        (term,) = self.link.terms
        last = self.body.links[-1]
        whole, _ = term.dense(0, dilated=True)
        whole = abs(whole) + term.lost if absolute else whole
        if last.average is not None:
            averages = last.average.matrix
            whole = whole.reshape(-1, len(averages)) @ averages
            # A sum of as many terms, each of them rounded.
            whole = whole * (1 + len(averages) / ROUNDINGS) if absolute else whole
        return whole.reshape(-1, last.width, *self.window)

    @property
    def frequencies(self) -> tuple[frequency_grids.Frequencies, FloatArray]:
        """Those of the ring, without mirror images, and how often each counts."""
        found = frequency_grids.half_grid(self.ring)
        mirrored = (-found.numerators) % np.asarray(self.ring)
        axis = int(np.argmax(self.ring))
        return found, np.where(mirrored[:, axis] > self.ring[axis] // 2, 2.0, 1.0)

    def following(self, root: FloatArray) -> Subnetwork:
        """The run from the head on, with R in place of its matrix and all before that."""
        every = range(len(root))
        names = [name for link in self.run.links[len(self.before) : self.at + 1] for name in link.names]
        alone = Filter(Layer(" + ".join(names), lambda: root, {}, 0), {}, ConvSpec.of(root.shape), None)
        links = [replace(self.link, terms=(Term(0, every, range(self.link.width), (), alone, every),))]
        for link in self.run.links[self.at + 1 :]:
            links.append(replace(link, terms=tuple(replace(each, source=each.source - self.at) for each in link.terms)))
        blocks = (0, *(block - self.at for block in self.run.blocks if block > self.at))
        start = f"{self.run.links[len(self.before) - 1].end}, weighted" if self.before else self.run.start
        return Subnetwork(start, len(root), tuple(links), blocks)._of(self.run.about)


def head_of(
    run: Subnetwork,
    starts: Sequence[int] = (),
    before: Sequence[FloatArray] = (),
) -> Head | None:
    """A run's head; None: it has none, or it cannot be bounded together with what is before it.

    Parameters
    ----------
    starts, before
        As of `Head`.
    """
    at = _read_at(run)
    first = len(before)
    if at is None or first >= at or not {first, at, at + 1} <= set(run.blocks):
        return None
    blocks = tuple(block - first for block in run.blocks if first <= block <= at)
    links = [
        replace(link, terms=tuple(replace(term, source=term.source - first) for term in link.terms))
        for link in run.links[first:at]
    ]
    body = replace(run, width=run.part(first, at).width, links=tuple(links), blocks=blocks)
    sizes = _sizes(body)
    grids = None if sizes is None else grids_of(body)
    last = run.links[at - 1]
    if sizes is None or grids is None or not _whole(last, sizes[-1]):
        return None
    widths = [body.width, *(link.width for link in links)]
    if sum(w * math.prod(grids[v]) for v, w in enumerate(widths)) ** 2 * taps_of(body.part(0, len(links))) > ENTRIES:
        return None
    if any(max(grid) > 1 for value, grid in grids.items() if value):
        phased = by_phases(body)
        if phased is None:
            return None
        body = phased
    part = replace(body.part(0, len(links)), placed=True)
    total = sum(part.widths) + sum(link.width for link in part.links if bool((link.slopes[0] < 0).any()))
    if not part.agrees or len(part.families) > 1 or "alone" in part.families or total**2 * taps_of(part) > ENTRIES:
        return None
    ring = _ring(part, [[-(-n // g) for n, g in zip(size, grids[v], strict=True)] for v, size in enumerate(sizes)])
    if ring is None or math.prod(ring) > RING:
        return None
    return Head(run, body, sizes[-1], ring, tuple(starts), tuple(before))


def _read_at(run: Subnetwork) -> int | None:
    """Number of the first link that is a matrix of all pixels of a value, or of their averages."""
    for at, (last, link) in enumerate(itertools.pairwise(run.links), 1):
        (term, *others) = link.terms
        whole = term.rows == range(link.width) and term.reads == term.columns == range(last.width * last.repeat)
        averaged = last.average is not None and last.factor is last.average.factor
        if term.filter is None or term.filter.layer.spatial or last.open or not (averaged or last.factor is NOTHING):
            continue
        if whole and not others and term.source == at:
            return at
    return None


def _whole(last: AffineMap, window: tuple[int, ...]) -> bool:
    """Whether a value has a number of each pixel, or of each average, of a window."""
    if last.average is None:
        return last.repeat == math.prod(window)
    return last.average.before == window and last.repeat == len(last.average.matrix)


def _sizes(body: Subnetwork) -> list[tuple[int, ...]] | None:
    """Pixels of each value, an axis; None where a value's are not known from the layers that make or read it."""
    found: dict[int, set[tuple[int, ...]]] = {}
    for at, link in enumerate(body.links, 1):
        for term in link.terms:
            sizes = None if term.filter is None else term.filter.sizes
            if sizes is not None:
                found.setdefault(term.source, set()).add(sizes[0])
                found.setdefault(at, set()).add(sizes[1])
            elif term.filter is not None:
                return None
    if any(len(found.get(at, ())) != 1 for at in range(len(body.links) + 1)):
        return None
    return [next(iter(found[at])) for at in range(len(body.links) + 1)]


def _ring(part: Segment, sizes: Sequence[Sequence[int]]) -> tuple[int, ...] | None:
    """N an axis; None where circular layers have windows of several sizes.

    An output at m in [0, n') reads m + p, p from the first tap's place to the last one's, of a window [0, n). No other
    position of it is there modulo N if ``n' - 1 + p < N`` and ``n <= N + p``.
    """
    if part.families == {"circular"}:
        return tuple(sizes[0]) if all(list(each) == list(sizes[0]) for each in sizes) else None
    largest = [max(axis) for axis in zip(*sizes, strict=True)]
    beyond = [0] * len(largest)
    for of_link in part.kernels():
        for kernel, place in of_link.values():
            ends = [max(p + k - 1, -p) for p, k in zip(place, kernel.shape[2:], strict=True)]
            beyond = [max(a, b) for a, b in zip(beyond, ends, strict=True)]
    return tuple(n + more for n, more in zip(largest, beyond, strict=True))


@arithmetic.on_host()
def constant_before(head: Head, norms: Norms) -> Upper:
    """L with ``|q_0 x| <= L |the run's input|``, of what is before a head's body.

    Raises
    ------
    HypothesisError, ValueError, MethodError
        As of `segments.constant_of_run`.
    """
    first = len(head.before)
    ahead = replace(head.run, links=head.run.links[:first], blocks=tuple(at for at in head.run.blocks if at <= first))
    factors = [link.factor for link in ahead.links if link.factor.value != 1]
    known = [*constants(ahead, parts_from(ahead, head.starts), head.before, norms), *factors]
    total = host.mul_up(*(claim.value for claim in known))
    return make_upper(total, head, f"{first} layers before a head, weighted", *known)


@arithmetic.on_host()
def constant_through_head(
    head: Head,
    weights: Sequence[FloatArray],
    following: Callable[[Subnetwork], Sequence[tuple[Sequence[int], Sequence[FloatArray]]]],
    norms: Norms,
    ahead: Upper | None = None,
    *,
    ops: ArrayOps,
) -> Upper:
    """Lipschitz constant of a run with a head.

    Parameters
    ----------
    weights : sequence of array
        One number a channel of each value of the body but the first.
    following : callable
        Gives of the run that begins with R first links of parts, and weights, as `segments.constant_of_run` takes them;
        the least constant is given.
    ahead : Upper, optional
        `constant_before` of this head, where there is something before it.

    Raises
    ------
    HypothesisError
        If the weights are none, I - K is not proven to be positive definite, or ``ahead`` is another head's.
    ValueError, MethodError
        If no statement can speak of what follows.
    numpy.linalg.LinAlgError
        If numbers are too large.
    """
    widths = [link.width for link in head.body.links]
    fits = all(link.fits(each) for link, each in zip(head.body.links, weights, strict=True))
    if [len(each) for each in weights] != widths or not fits or not all(map(usable, weights)):
        raise HypothesisError(f"no weights of {widths} channels")
    if (None if ahead is None else ahead.what) is not (head if head.before else None):
        raise HypothesisError("what is before this head is not counted")
    rest = head.following(_root(*_gram_up(head, weights, ops)))
    claims = [constant_of_run(rest, starts, each, norms) for starts, each in following(rest)]
    least = min(claims, key=float)
    if ahead is None:
        return least
    total = host.mul_up(least.value, ahead.value)
    return make_upper(total, map_of(head.run), "what is before a head, and all from there", least, ahead)


def _gram_up(head: Head, weights: Sequence[FloatArray], ops: ArrayOps) -> tuple[FloatArray, float]:
    """G but for an error, and a bound of the error's norm."""
    part = head.part
    points = frequency_grids.tap_points(head.window)
    scaled = [head.entry, *weights]
    k = hermitian_kernel(edges(part, scaled, ends=False))
    sums = any(len(link.terms) > len(link.sources) for link in part.links) or part.computed
    magnitudes = hermitian_kernel(edges(part, scaled, ends=False, magnitudes=True)) if sums else k
    off = _off(k, magnitudes)
    shrink = scaled[-1].reshape(1, -1, *(1,) * part.axes)
    w = head.matrix() / shrink
    off_w = _off(w, head.matrix(absolute=True) / shrink)
    frequencies, counts = head.frequencies
    shares = counts / math.prod(head.ring)
    n = len(k)
    m, c = w.shape[:2]
    first = sum(part.widths[:-1])
    offsets = frequency_grids.product([np.arange(size) - size // 2 for size in k.shape[2:]])
    gram = np.zeros((m, m))
    lost = 0.0
    sizes = 0.0
    # Of products, residuals and sums; complex numbers have two roundings more.
    u = rounding.gamma(4 * (n + 8), 2.0**-53)
    step = max(1, AT_ONCE // n**2)
    for at in range(0, len(frequencies), step):
        some = frequencies[slice(at, at + step)]
        share = shares[at : at + step]
        symbols: Any = _symbols(k, some, offsets)
        symbols = (symbols + symbols.conj().swapaxes(-1, -2)) / 2
        limits: Any = np.full(len(symbols), 1 - MARGIN)
        if not bool(np.min(np.asarray(matrix_norms.gram_below(symbols, limits, ops=ops)))):
            raise HypothesisError("I - K is not proven to be positive definite")
        least = host.lowered(MARGIN, 4) - 4 * off
        if not least > 0:
            raise HypothesisError("rounding is larger than the margin")
        rows = _symbols(w, some, points)
        form = np.eye(n) - symbols
        right = np.zeros((len(symbols), n, m), dtype=np.complex128)
        right[:, first : first + c] = rows.conj().swapaxes(-1, -2)
        y = np.linalg.solve(form, right)
        gram += np.einsum("k,kij->ij", share, (rows @ y[:, first : first + c]).real)
        e, h, big, residual = (_frobenius(each) for each in (rows, form, y, right - form @ y))
        s = residual + u * (h * big + e) + math.sqrt(m) * off_w + 4 * off * big
        error = (u * e + off_w) * big + big * s + s * s / least
        lost += float(share @ host.inflate(error, 32))
        sizes += float(share @ (e * big))
    gram = (gram + gram.T) / 2
    lost = host.inflate(lost + 2 * sizes * rounding.gamma(len(frequencies) + 8, 2.0**-53), 2 * len(frequencies) + 16)
    return gram, host.next_up(lost + 2.0**-900)


def _off(kernel: FloatArray, magnitudes: FloatArray) -> float:
    """Norm of what rounding changes of a symbol: of its kernel's entries, and of the sum over taps."""
    of_sum = float(symbol_error(kernel[None], xp=np)[0])  # type: ignore[arg-type]
    return host.add_up(of_sum, fold_error(magnitudes, ConvSpec.of(magnitudes.shape)))


def _symbols(
    kernel: FloatArray,
    frequencies: frequency_grids.Frequencies,
    places: NDArray[np.int64],
) -> NDArray[np.complex128]:
    """As `symbols.Symbol`, for taps at any places."""
    cos, sin = frequency_grids.phases_at(frequencies, places)
    taps = kernel.reshape(math.prod(kernel.shape[:2]), -1).T
    found = np.empty((len(frequencies), *kernel.shape[:2]), dtype=np.complex128)
    found.real = (cos @ taps).reshape(found.shape)
    found.imag = (sin @ taps).reshape(found.shape)
    return found


def _frobenius(stack: NDArray[Any]) -> FloatArray:
    """Of each matrix, never below it."""
    numbers = np.ascontiguousarray(stack, dtype=np.complex128).reshape(len(stack), -1)
    return np.asarray(host.norm_up(numbers.view(np.float64)))


def _root(gram: FloatArray, lost: float) -> FloatArray:
    """R with ``R R* >= G``, where G is at most ``lost`` from a matrix.

    A factor's product is at least the matrix less kappa times its trace (`cholesky_loss`); that of ``gram + t I`` has m
    t more, and was rounded on its diagonal.
    """
    m = len(gram)
    like = cast(Any, gram)
    numpy = cast(Any, np)
    kappa = host.add_up(matrix_norms.cholesky_loss(m, like, xp=numpy), 2.0**-52)
    trace = host.inflate(float(np.sum(np.abs(np.diagonal(gram)))), m + 2)
    shift = host.div_up(host.add_up(lost, host.mul_up(kappa, trace)), host.lowered(1 - m * kappa, 4))
    return np.asarray(np.linalg.cholesky(gram + host.inflate(shift, 4) * np.eye(m)))
