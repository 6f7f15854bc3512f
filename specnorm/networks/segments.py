"""Proof: the constant of some links in a row is one spectral norm, of a convolution kernel made of all of them.

For z_i = phi_i(W_i z_{i-1} + b_i), i = 1..l, weights q_i > 0 (one a channel) and slopes of phi_i in [a_i, b_i],
a_i <= 0, the graph of the quadratic form

    |q_0 x|^2 + sum_i q_i^2 (z_i - a_i W_i z_{i-1}) (z_i - b_i W_i z_{i-1}) - |q_l y|^2 / L^2

is a tree: each z_i meets z_{i-1}, and what is left of a_i b_i |W_i z_{i-1}|^2 is a leaf of its own. A tree has two
colours, so that the form, scaled by its diagonal, is the identity less a matrix with a block T and its adjoint, and it
is nonnegative if ||T|| <= 1 (LipSDP [1]_ with multipliers that are constant on each channel). Shifts of taps are
changes of basis on a tree, so T is a convolution kernel. If ||T|| <= s, the weights q_i s^-i have ||T|| <= 1 with
L s^l.

Sequences on the whole grid satisfy the form; those that are 0 outside a window see the cropped, zero-padded layers
there and add a_i b_i q_i^2 |W_i z_{i-1}|^2 <= 0 outside. So the constant holds at every input size.

.. [1] Fazlyab, Robey, Hassani, Morari, Pappas, "Efficient and Accurate Estimation of Lipschitz Constants for Deep
   Neural Networks", NeurIPS 2019.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from specnorm.folding import fold_batch_norm
from specnorm.networks.measuring import Measure, fold_error, in_float64
from specnorm.networks.runs import Link, Run
from specnorm.proof import host
from specnorm.proving import enclose
from specnorm.spec import ConvSpec

WIDEST = 768
"""Channels on the smaller side of T above which a segment is cut, unless told otherwise."""
ENTRIES = 2**25
"""Most entries of T."""
TOLERANCE = 2e-3
"""Relative width to which T is enclosed, or `Measure.rtol` where that is wider: weights that are nearly the best make
its norm nearly the same at many frequencies, which takes long to prove closely."""
Weights = NDArray[np.float64]


def segments(run: Run, *, widest: int = WIDEST) -> list[tuple[int, int]]:
    """Cut a run into parts that are bounded each by one norm.

    Parameters
    ----------
    run : Run
    widest : int
        Channels on the smaller side of T above which it is cut; 0: each link by itself.

    Returns
    -------
    list of (int, int)
        Links ``first:last`` of each part, in order.
    """
    starts = [0]
    for at in range(1, len(run.links)):
        part = run.links[starts[-1] : at + 1]
        if not _joinable(part, widest):
            starts.append(at)
    return list(zip(starts, [*starts[1:], len(run.links)], strict=True))


def parts_from(run: Run, starts: Sequence[int]) -> list[tuple[int, int]]:
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
        if not all(_joinable(run.links[first:end], ENTRIES) for end in range(first + 2, last + 1)):
            raise ValueError(f"layers {first} to {last - 1} of the run cannot be bounded together")
    return parts


def _joinable(links: Sequence[Link], widest: int) -> bool:
    """Whether the last link can be bounded together with those before."""
    *before, last = links
    if not before[-1].open or before[-1].repeat != 1 or any(s > 1 for s in last.spec.stride):
        return False
    if len({link.layer.spatial for link in links}) > 1 or len({_family(link) for link in links} - {"any"}) > 1:
        return False
    if "alone" in {_family(link) for link in links} or not _evenly_dilated(links):
        return False
    rows, columns, taps = _size(links)
    return min(rows, columns) <= widest and rows * columns * taps <= ENTRIES


def _family(link: Link) -> str:
    """Which borders the statement is about: "zeros", "circular", "any" for both; "alone": neither."""
    spec = link.spec
    if not spec.ndim or (max(spec.kernel_shape) == 1 and not any(map(sum, spec.padding)) and max(spec.stride) == 1):
        return "any"
    if spec.padding_mode == "zeros" and not (spec.transposed and max(spec.stride) > 1):
        return "zeros"
    periodic = spec.padding_mode == "circular" and not any(spec.extra_outputs) and max(spec.stride) == 1
    return "circular" if periodic and not spec.transposed else "alone"


def _evenly_dilated(links: Sequence[Link]) -> bool:
    """Whether all kernels are dilated alike, so that T need not be: its symbol is then the plain one's at r theta."""
    if max(links[0].spec.stride, default=1) > 1 and max(links[0].spec.dilation) > 1:
        return False
    axes = range(links[0].layer.spatial)
    return all(len({link.spec.dilation[j] for link in links if link.spec.kernel_shape[j] > 1}) <= 1 for j in axes)


def _size(links: Sequence[Link]) -> tuple[int, int, int]:
    """Rows, columns and taps of T."""
    widths = [links[0].spec.cin * math.prod(links[0].spec.stride), *(link.spec.cout for link in links)]
    leaves = [link.spec.cout if link.slopes[0] < 0 < link.slopes[1] else 0 for link in links]
    even, odd = sum(widths[::2]) + sum(leaves[1::2]), sum(widths[1::2]) + sum(leaves[::2])
    taps = math.prod(max(axis) for axis in zip(*(_extent(link) for link in links), strict=True))
    return odd, even, taps


def _extent(link: Link) -> tuple[int, ...]:
    """Spatial size of the dense kernel."""
    return tuple(r * (k - 1) + 1 for r, k in zip(_spread(link), link.spec.kernel_shape, strict=True))


def _spread(link: Link) -> tuple[int, ...]:
    """Dilation of the dense kernel: the layer's own where it has a stride, else none."""
    return link.spec.dilation if max(link.spec.stride, default=1) > 1 else (1,) * link.layer.spatial


def dense(link: Link) -> Weights:
    """Kernel of a link as a plain stride-1 correlation: no groups, not transposed, scaled.

    Without a stride it is not dilated either, since links of one part are dilated alike (`segments`).

    Returns
    -------
    array, shape (cout, cin, *taps)
    """
    spec, layer = link.spec, link.layer
    kernel = in_float64(layer.load().T if layer.turned else layer.load())
    if link.scale is not None:
        plain = {"groups": spec.groups, "transposed": spec.transposed}
        kernel = fold_batch_norm(kernel, link.scale, np.ones_like(link.scale), 0.0, **plain)  # type: ignore[arg-type]
    kernel = kernel * link.alpha
    first, g = kernel.shape[0] // spec.groups, spec.groups
    whole = np.zeros((kernel.shape[0], kernel.shape[1] * g, *_extent(link)))
    taps = tuple(slice(None, None, r) for r in _spread(link))
    for at in range(g):
        rows, columns = slice(at * first, (at + 1) * first), slice(at * kernel.shape[1], (at + 1) * kernel.shape[1])
        whole[(rows, columns, *taps)] = kernel[rows]
    if spec.transposed:
        # y[m + k] += K[i, o, k] x[m]: a correlation with the taps in reverse.
        whole = np.flip(whole.swapaxes(0, 1), axis=tuple(range(2, whole.ndim)))
    return whole


def phased(kernel: Weights, stride: tuple[int, ...]) -> Weights:
    """A strided kernel on the phases of its input, which are channels then (polyphase)."""
    if all(s == 1 for s in stride):
        return kernel
    whole = [-(-k // s) for k, s in zip(kernel.shape[2:], stride, strict=True)]
    wide = np.zeros((*kernel.shape[:2], *(q * s for q, s in zip(whole, stride, strict=True))))
    wide[tuple(map(slice, kernel.shape))] = kernel
    split = wide.reshape(*kernel.shape[:2], *(n for pair in zip(whole, stride, strict=True) for n in pair))
    d = len(stride)
    order = (0, 1, *range(3, 2 + 2 * d, 2), *range(2, 2 + 2 * d, 2))
    return split.transpose(order).reshape(kernel.shape[0], -1, *whole)


def blocks(links: Sequence[Link], weights: Sequence[Weights]) -> list[tuple[int, int, Weights]]:
    """Edges of the tree: (from, to, kernel scaled), vertices numbered 0..l along the chain and l+1.. for the leaves.

    Parameters
    ----------
    links : sequence of Link
        l of them.
    weights : sequence of array
        l + 1: one number a channel of each value, all positive.
    """
    edges, leaves = [], len(links)
    for i, link in enumerate(links, start=1):
        shrink = weights[i - 1].reshape(1, -1, *(1,) * link.layer.spatial)
        grow = weights[i].reshape(-1, 1, *(1,) * link.layer.spatial)
        kernel = phased(dense(link) / shrink * grow, link.spec.stride)
        if i == len(links):
            edges.append((i - 1, i, link.steepest * kernel))
            continue
        centre, leaf = middle(link.slopes)
        edges.append((i - 1, i, centre * kernel))
        if leaf:
            leaves += 1
            edges.append((i - 1, leaves, leaf * kernel))
    return edges


def middle(slopes: tuple[float, float]) -> tuple[float, float]:
    """Numbers c and e with ``z^2 - 2 c z v - e^2 v^2 <= 0`` for all z = p v, p between the slopes.

    (p - a)(p - b) <= 0 with a = min(low, 0) and b = max(high, 0), so that e^2 = -a b is not negative.
    """
    low, high = min(slopes[0], 0.0), max(slopes[1], 0.0)
    return (low + high) / 2, math.sqrt(-low * high)


def joint_kernel(links: Sequence[Link], weights: Sequence[Weights]) -> Weights:
    """T: from the vertices at even distance from the input to those at odd distance.

    An edge from an even to an odd vertex is its kernel; from an odd to an even one its adjoint: channels swapped, taps
    in reverse.
    """
    edges = blocks(links, weights)
    depth = {0: 0}
    size = {0: edges[0][2].shape[1]}
    for a, b, kernel in edges:
        depth[b], size[b] = depth[a] + 1, kernel.shape[0]
    offset, end = {}, [0, 0]
    for vertex in size:
        side = depth[vertex] % 2
        offset[vertex] = end[side]
        end[side] += size[vertex]
    taps = tuple(max(axis) for axis in zip(*(kernel.shape[2:] for _, _, kernel in edges), strict=True))
    whole = np.zeros((end[1], end[0], *taps))
    for a, b, kernel in edges:
        odd, even = (b, a) if depth[b] % 2 else (a, b)
        if odd == a:
            kernel = np.flip(kernel.swapaxes(0, 1), axis=tuple(range(2, kernel.ndim)))
        rows, columns = slice(offset[odd], offset[odd] + size[odd]), slice(offset[even], offset[even] + size[even])
        whole[(rows, columns, *map(slice, kernel.shape[2:]))] = kernel
    return whole


def constant_up(links: Sequence[Link], weights: Sequence[Weights], measure: Measure) -> float:
    """L with ``|q_l (z - z')| <= L |q_0 (x - x')|``, proven; without the factors of what follows the functions.

    Parameters
    ----------
    links : sequence of Link
        A part of `segments`.
    weights : sequence of array
        One more than there are links.
    measure : Measure

    Returns
    -------
    float
    """
    if len(links) == 1:
        (link,), (before, after) = links, weights
        scale, shrink = link.scale, None if np.all(before == 1) else before
        if not np.all(after == 1):
            scale = after if scale is None else after * scale
        norm = measure(link.layer, link.geometry, link.sizes, scale, shrink).upper
        return host.mul_up(norm, host.raised(link.alpha, 16), link.steepest)
    whole = joint_kernel(links, weights)
    norm = float(enclose(whole, rtol=max(measure.rtol, TOLERANCE)).upper)
    spec = ConvSpec.of(whole.shape)
    s = host.add_up(norm, fold_error(whole, spec))
    return host.mul_up(*[s] * len(links))
