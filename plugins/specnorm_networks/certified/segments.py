"""Proof: the constant of some links together is one spectral norm, of a convolution kernel made of all of them.

For z_i = phi_i(sum_j W_ij z_j + b_i), i = 1..l, weights q_i > 0 (one a channel) and slopes of phi_i in [a_i, b_i] with
a_i <= 0, LipSDP's quadratic form [1]_ with multipliers that are constant on each channel is, with v_i = sum_j W_ij z_j,

    |q_0 x|^2 + sum_i q_i^2 (z_i - a_i v_i) (z_i - b_i v_i) - |q_l y|^2 / L^2.

-a_i b_i |v_i|^2 and the last term are norms of vertices of their own (*leaves*), so that the form, scaled by its
diagonal, is I - K with K Hermitian, zero on its diagonal, and ``K = q_b (a + b)/2 W q_a^-1`` from value to value. It is
nonnegative if the largest eigenvalue of K is at most 1 at each frequency.

*A chain*: the vertices are a tree with two colours, and K is a block T and its adjoint; the condition is ||T|| <= 1.
Shifts of taps are changes of basis on a tree. If ||T|| <= s, the weights q_i s^-i have ||T|| <= 1 with L s^l.

*Otherwise* (sums, concatenation) K is a kernel itself, its taps at their places, and its largest eigenvalue is at most
s = ||K + c I|| - c for any c; with two colours all the same, it is ||T||. With weights q_v t^g, g the number of links
on the longest way to v, and r_gh = t^|g - h|, the entries of K are multiplied by r. r - (1 - 1/s) I is semidefinite for
t = 1/(2s - 1), since the smallest eigenvalue of r is above (1 - t)/(1 + t) [2]_; so is its entrywise product with
s I - K (Schur), which is I less the new K. So the constant is L (2s - 1)^g for the last value's g.

Sequences on the whole grid satisfy the form; those that are 0 outside a window see the cropped, zero-padded layers
there and add a_i b_i q_i^2 |v_i|^2 <= 0 outside. So the constant holds at every input size.

.. [1] Fazlyab, Robey, Hassani, Morari, Pappas, "Efficient and Accurate Estimation of Lipschitz Constants for Deep
   Neural Networks", NeurIPS 2019.
.. [2] Kac, Murdock, Szego, "On the eigenvalues of certain Hermitian forms", J. Rational Mech. Anal. 2, 1953.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from specnorm import ConvSpec
from specnorm.errors import MethodError
from specnorm.proof import HypothesisError, Upper, arithmetic, host, make_upper, number
from specnorm_networks.certified.kernels import Norms, fold_error, norm_by, proves
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.reading import Segment, Subnetwork, joinable
from specnorm_networks.certified.scope import Map

WIDEST = 768
"""Channels on the smaller side of the kernel above which a run is cut, unless told otherwise."""
SHARP, SHARPEST = 1e-6, 1e-10
"""Relative width to which T and K of matrices, which have one frequency, are enclosed at most: it takes hardly longer
than more. Those of kernels are enclosed to a share of `Norms.rtol`, so that the constant is within it; none to less
than the second."""
CENTRE = 0.5
"""c of the sums: K's smallest eigenvalue may be that much further from 0, twice, than its largest."""


def segments(run: Subnetwork, *, widest: int = WIDEST) -> list[tuple[int, int]]:
    """Cut a run into parts that are bounded each by one norm.

    Parameters
    ----------
    widest : int
        Channels on the smaller side of the kernel above which it is cut; 0: wherever it can be.

    Returns
    -------
    list of (int, int)
        Links ``first:last`` of each part, in order.
    """
    starts = [0]
    for before, end in itertools.pairwise(run.blocks):
        # Where slopes are as far below 0 as above, links tell each other nothing but the weights between them.
        apart = before > 0 and not middle(*run.links[before - 1].slopes)[0].any()
        if before > starts[-1] and (not widest or apart or not joinable(run.part(starts[-1], end), widest)):
            starts.append(before)
    return list(zip(starts, [*starts[1:], len(run.links)], strict=True))


def parts_from(run: Subnetwork, starts: Sequence[int]) -> list[tuple[int, int]]:
    """Parts that somebody else claims to be such.

    Raises
    ------
    ValueError
        If one statement cannot speak of one of them.
    """
    count = len(run.links)
    if list(starts[:1]) != [0] or any(a >= b for a, b in itertools.pairwise([*starts, count])):
        raise ValueError("the parts do not cover the run")
    parts = list(zip(starts, [*starts[1:], count], strict=True))
    for first, last in parts:
        if first not in run.blocks or not joinable(run.part(first, last), np.inf):
            raise ValueError(f"layers {first} to {last - 1} of the run cannot be bounded together")
    return parts


Edge = tuple[int, int, FloatArray, tuple[int, ...]]
"""From a vertex to another: the kernel, scaled, and its first tap's place."""


def edges(part: Segment, weights: Sequence[FloatArray], *, magnitudes: bool = False, ends: bool = True) -> list[Edge]:
    """Edges between the vertices: 0..l are the values, l+1.. the leaves of curved functions.

    Parameters
    ----------
    part : Segment
        Of l links.
    weights : sequence of array
        l + 1: one number a channel of each value, all positive.
    magnitudes : bool
        With the terms' absolute values.
    ends : bool
        Whether the last value is the end, whose function has no multipliers.
    """
    found: list[Edge] = []
    leaves, copies = len(part.links), part.widths[0] // part.width
    scales = [np.repeat(weights[0], copies), *weights[1:]]
    kernels = part.kernels(absolute=magnitudes)
    ones = (1,) * part.axes
    for i, (link, from_sources) in enumerate(zip(part.links, kernels, strict=True), start=1):
        last = ends and i == len(part.links)
        centre, leaf = middle(*link.slopes)
        leaves += not last and bool(leaf.any())
        for source, (kernel, place) in from_sources.items():
            a = source - part.first
            kernel = kernel / scales[a].reshape(1, -1, *ones) * scales[i].reshape(-1, 1, *ones)
            found.append((a, i, (link.steepest if last else centre).reshape(-1, 1, *ones) * kernel, place))
            if not last and bool(leaf.any()):
                found.append((a, leaves, leaf.reshape(-1, 1, *ones) * kernel, place))
    return found


def middle(low: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Numbers c and e with ``z^2 - 2 c z v - e^2 v^2 <= 0`` for all z = p v, p between the slopes.

    (p - a)(p - b) <= 0 with a = min(low, 0) and b = max(high, 0), so that e^2 = -a b is not negative.
    """
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    return (low + high) / 2, np.sqrt(-low * high)


def chain_kernel(of: Sequence[Edge]) -> FloatArray:
    """T of a chain: from the vertices at even distance from the input to those at odd distance.

    An edge from an even to an odd vertex is its kernel; from an odd to an even one its adjoint: channels swapped, taps
    in reverse.
    """
    depth = {0: 0}
    size = {0: of[0][2].shape[1]}
    for a, b, kernel, _ in of:
        depth[b], size[b] = depth[a] + 1, kernel.shape[0]
    offset, end = {}, [0, 0]
    for vertex in size:
        side = depth[vertex] % 2
        offset[vertex] = end[side]
        end[side] += size[vertex]
    taps = tuple(max(axis) for axis in zip(*(kernel.shape[2:] for _, _, kernel, _ in of), strict=True))
    whole = np.zeros((end[1], end[0], *taps))
    for a, b, kernel, _ in of:
        odd, even = (b, a) if depth[b] % 2 else (a, b)
        if odd == a:
            kernel = _reversed(kernel)
        rows, columns = slice(offset[odd], offset[odd] + size[odd]), slice(offset[even], offset[even] + size[even])
        whole[(rows, columns, *map(slice, kernel.shape[2:]))] = kernel
    return whole


def hermitian_kernel(of: Sequence[Edge]) -> FloatArray:
    """K of any links: from all vertices to all, an edge's taps at their places, its adjoint's at the mirrored ones.

    Returns
    -------
    array, shape (n, n, 2 r_1 + 1, ...)
        Place 0 is the middle tap.
    """
    size = {a: kernel.shape[1] for a, _, kernel, _ in of} | {b: kernel.shape[0] for _, b, kernel, _ in of}
    offset = dict(zip(sorted(size), np.cumsum([0, *(size[v] for v in sorted(size))]).tolist(), strict=False))
    reach = _reach(of)
    total = sum(size.values())
    whole = np.zeros((total, total, *(2 * r + 1 for r in reach)))
    for a, b, kernel, place in of:
        there, here = (slice(offset[v], offset[v] + size[v]) for v in (b, a))
        n = kernel.shape[2:]
        taps = [slice(r + p, r + p + k) for r, p, k in zip(reach, place, n, strict=True)]
        mirrored = [slice(r - p - k + 1, r - p + 1) for r, p, k in zip(reach, place, n, strict=True)]
        whole[(there, here, *taps)] += kernel
        whole[(here, there, *mirrored)] += _reversed(kernel)
    return whole


def _reach(of: Sequence[Edge]) -> list[int]:
    """How far from place 0 the taps of edges are, at most, an axis."""
    ends = [[(p, p + n - 1) for p, n in zip(place, kernel.shape[2:], strict=True)] for _, _, kernel, place in of]
    return [max(max(abs(first), abs(last)) for first, last in axis) for axis in zip(*ends, strict=True)]


def _reversed(kernel: FloatArray) -> FloatArray:
    return np.flip(kernel.swapaxes(0, 1), axis=tuple(range(2, kernel.ndim)))


@arithmetic.on_host()
def constant_of_run(run: Subnetwork, starts: Sequence[int], weights: Sequence[FloatArray], norms: Norms) -> Upper:
    """Lipschitz constant of a run: of its parts, in the weights of the values between, and what follows the functions.

    Parameters
    ----------
    starts : sequence of int
        First link of each part.
    weights : sequence of array
        One number a channel of each link's value. Those of the last are no part of the claim: they are divided by.

    Raises
    ------
    HypothesisError
        If the weights are none.
    ValueError, MethodError
        If no statement can speak of a part, or of these weights.
    """
    after = [link.factor for link in run.links]
    parts = constants(run, parts_from(run, starts), weights, norms)
    last = host.div_up(1.0, float(np.min(weights[-1])))
    total = host.mul_up(*(claim.value for claim in (*after, *parts)), last)
    rule = f"{len(run.links)} layers together, in {len(parts)} part{'s' * (len(parts) > 1)}"
    known = [claim for claim in after if claim.value != 1]
    return make_upper(total, map_of(run), rule, *parts, *known)


def map_of(run: Subnetwork) -> Map:
    """Between the values that a run begins and ends with."""
    if run.about is None:
        raise HypothesisError(f"a run from {run.start} to {run.end} that was not read off a graph")
    return Map(run.start, run.end, run.about)


@arithmetic.on_host()
def constants(
    run: Subnetwork, parts: Sequence[tuple[int, int]], weights: Sequence[FloatArray], norms: Norms
) -> list[Upper]:
    """Constants of parts of a run, each in the weights of the values that it begins and ends with."""
    widths = [link.width for link in run.links[: parts[-1][1]]]
    if [len(each) for each in weights[: len(widths)]] != widths or not all(map(usable, weights[: len(widths)])):
        raise HypothesisError(f"no weights of {widths} channels")
    values, found = [np.ones(run.width), *weights], []
    for first, last in parts:
        before = values[first] if first == 0 else np.repeat(values[first], run.links[first - 1].repeat)
        found.append(constant_of_part(run.part(first, last), [before, *values[first + 1 : last + 1]], norms))
    return found


def usable(weights: FloatArray) -> bool:
    """Whether numbers can be weights: positive, and far from where arithmetic ends."""
    return bool(np.all(np.isfinite(weights)) and np.all(weights > 1e-100) and np.all(weights < 1e100))


def constant_of_part(part: Segment, weights: Sequence[FloatArray], norms: Norms) -> Upper:
    """L with ``|q_l (z - z')| <= L |q_0 (x - x')|``; without the factors of what follows the functions.

    Parameters
    ----------
    part : Segment
        Of `segments`.
    weights : sequence of array
        One more than there are links.
    """
    if not all(link.fits(weight) for link, weight in zip(part.links, weights[1:], strict=True)):
        raise MethodError("weights that differ between channels which are sorted together prove nothing.")
    alone = part.links[0].alone if len(part.links) == 1 else None
    if alone is None or alone.filter is None:
        return _of_kernel(part, weights, norms)
    before, after = weights
    what, steep = f"{' + '.join(part.links[0].names)}, weighted", part.links[0].steepest
    scale, shrink = alone.scale, None if np.all(before == 1) else before
    steepest = float(steep.max())
    if steepest == 0:
        return make_upper(0.0, what, "its function is constant")
    after = after if np.all(steep == steepest) else after * (steep / steepest)
    if not np.all(after == 1):
        scale = after if scale is None else after * scale
    norm = norm_by(norms, alone.filter.layer, alone.filter.geometry, alone.filter.sizes, scale, shrink)
    found = host.mul_up(norm.value, host.inflate(abs(alone.alpha), 16), steepest)
    return make_upper(found, what, f"its norm times the largest slope, {number(steepest, 'upper')}", norm)


def _of_kernel(part: Segment, weights: Sequence[FloatArray], norms: Norms) -> Upper:
    """The constant of links together, from the norm of T or K."""
    chain = part.chain
    kernel_of = chain_kernel if chain else hermitian_kernel
    whole = kernel_of(edges(part, weights))
    spec = ConvSpec.of(whole.shape)
    sides = None if chain else two_sides(whole)
    centre = 0.0 if chain or sides is not None else CENTRE
    # s is lost once for each link, (2 s - 1) with s + c enclosed.
    rtol = norms.rtol / (len(part.links) if chain else 2 * (1 + centre) * part.depth)
    rtol = max(min(rtol, SHARP) if math.prod(whole.shape[2:]) == 1 else rtol, SHARPEST)
    sums = any(len(link.terms) > len(link.sources) for link in part.links) or part.computed
    lost = fold_error(kernel_of(edges(part, weights, magnitudes=True)) if sums else whole, spec)
    if sides is not None:
        whole = whole[np.ix_(*sides)]
        spec = ConvSpec.of(whole.shape)
    elif centre:
        every = np.arange(whole.shape[0])
        whole[(every, every, *(n // 2 for n in whole.shape[2:]))] += centre
    norm = norms.of_kernel(whole, rtol)
    if not proves(norm, spec, whole):
        raise HypothesisError(f"{norm.what} is not {spec}")
    return _concluded(part, host.add_up(norm.value, lost, -centre), norm)


def two_sides(k: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """Rows of K in two sets such that all its other entries are 0 within either; None: there are none such.

    Then K is a block and its adjoint, ``[[0, T], [T*, 0]]``, whose largest eigenvalue is ||T||.
    """
    joined = (k != 0).any(axis=tuple(range(2, k.ndim)))
    joined |= joined.T
    side = np.full(len(k), -1)
    while (side < 0).any():
        reached = np.zeros(len(k), dtype=bool)
        reached[np.argmax(side < 0)] = True
        now = 0
        while reached.any():
            side[reached] = now
            beside = joined[reached].any(axis=0)
            if (side[beside] == now).any():
                return None
            now, reached = 1 - now, beside & (side < 0)
    return np.flatnonzero(side == 0), np.flatnonzero(side == 1)


def _concluded(part: Segment, s: float, norm: Upper) -> Upper:
    """The constant of links together, from ||T|| <= s or K <= s."""
    names, count = " + ".join(name for link in part.links for name in link.names), len(part.links)
    if part.chain:
        rule = f"LipSDP of a chain: |T| <= {number(s, 'upper')}, to the power of {count}"
        return make_upper(host.mul_up(*[s] * count), f"{names}, weighted", rule, norm)
    s = max(s, 1.0)
    rule = f"LipSDP: K <= {number(s, 'upper')}, and (2 s - 1)^{part.depth}"
    return make_upper(host.mul_up(*[host.add_up(s, s, -1.0)] * part.depth), f"{names}, weighted", rule, norm)
