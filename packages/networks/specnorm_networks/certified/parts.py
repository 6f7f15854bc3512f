"""Proof: the constant of some links together is one spectral norm, of a convolution kernel made of all of them.

Link i = 1..l computes the value z_i = phi_i(v_i) from a sum v_i = sum_j W_ij z_j of earlier values and a constant. Let
x = z_0. Below, values and sums are differences between two inputs of the links, so that the constants drop out. The
slopes of phi_i lie in [a_i, b_i] with a_i <= 0 <= b_i, and each channel of a value has a weight q_i > 0. LipSDP's
quadratic form [1]_ with multipliers that are constant on each channel is

    |q_0 x|^2 + sum_{i < l} q_i^2 (z_i - a_i v_i) (z_i - b_i v_i) - |q_l s_l v_l|^2,

where s_l is the largest absolute slope of phi_l: the last function has no multiplier. If the form is nonnegative, then
|q_l z_l| <= |q_0 x|, since each product in it is at most 0.

A negative term -|e v|^2 is the minimum over u of |u|^2 - 2 Re u*(e v). For each term -|q_i e_i v_i|^2, where ``e_i^2 =
-a_i b_i``, and for the last term, a variable u is added, a *leaf*. The form is nonnegative if and only if the enlarged
form is. In the variables q_i z_i (i < l) and u, it is I - K, where K is Hermitian and zero on its diagonal. K is a
graph: the vertices are the variables. An edge from the value h has the entry ``q_i (a_i + b_i)/2 W_ih q_h^-1`` of K to
the value i, ``q_i e_i W_ih q_h^-1`` to the leaf of link i, and ``q_l s_l W_lh q_h^-1`` to the leaf of the last term.
The last value z_l has no variable of its own, so this leaf is the vertex l. The form is nonnegative if and only if the
largest eigenvalue of K is at most 1 at each frequency. If it is at most some s, other weights bring it to 1, and the
constant follows from s:

*A chain*: each link reads the value before alone. Then the graph is a tree, so that its vertices have two colors, and
K is a block T and its adjoint. Its largest eigenvalue is ||T||. On a tree, shifts of taps are changes of basis. If
||T|| <= s, the weights q_i s^-i have ||T|| <= 1. So the constant is s^l, in the weights q_0 and q_l.

*Otherwise* (sums, concatenation) K itself is a kernel, with its taps at their positions. Its largest eigenvalue is at
most s = ||K + c I|| - c for any c; if the vertices nevertheless have two colors, it is ||T||, which is faster to bound.
If s < 1, s = 1 is taken. The depth d of a value is the number of links on the longest way to it; a leaf of link i has
the depth of z_i. Let ``t = 1/(2s - 1)``. The weights q_i t^d multiply the entries of K between vertices of depths d and
d' by ``r_dd' = t^|d - d'|``. The matrix r - (1 - 1/s) I is semidefinite, since the smallest eigenvalue of r is at least
``(1 - t)/(1 + t) = 1 - 1/s`` [2]_; so is its entrywise product with s I - K (Schur), which is I less the new K. So the
constant is (2s - 1)^d for the depth d of z_l.

Sequences on the whole grid satisfy the form. Sequences that are 0 outside a window see the cropped, zero-padded layers
there, and add a_i b_i q_i^2 |v_i|^2 <= 0 outside. So the constant holds at every input size.

.. [1] Fazlyab, Robey, Hassani, Morari, Pappas, "Efficient and Accurate Estimation of Lipschitz Constants for Deep
   Neural Networks", NeurIPS 2019.
.. [2] Kac, Murdock, Szego, "On the eigenvalues of certain Hermitian forms", J. Rational Mech. Anal. 2, 1953.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from specnorm_check import Part, Together

from specnorm import ConvSpec
from specnorm.errors import MethodError
from specnorm.proof import HypothesisError, Upper, arithmetic, counted, host, make_upper
from specnorm.proof import number as format_number
from specnorm_networks.certified.kernels import Norms, bounds_norm_of, checked_norm, scaling_error
from specnorm_networks.certified.links import Link, Run, Term
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.placed_kernels import PlacedKernel, window_of
from specnorm_networks.certified.runs import joinable
from specnorm_networks.certified.subjects import Map

MOST_CHANNELS = 768
"""Default of the largest number of channels on the smaller side of a kernel."""
MATRIX_RTOL = 1e-6
"""Largest relative width of enclosures of ||T|| or ||K|| if layers are matrices: there is one frequency, so that a
closer enclosure takes hardly longer."""
LEAST_RTOL = 1e-10
"""Smallest relative width of enclosures."""
SHIFT = 0.5
"""The number c of the matrix K + c I.

||K + c I|| - c is the largest eigenvalue M of K if the smallest one is at least -M - 2 c; else it is larger than M.
"""


def cut_into_parts(run: Run, *, widest: int = MOST_CHANNELS) -> list[tuple[int, int]]:
    """Cut a run into parts, each of which has a joint bound.

    Parameters
    ----------
    widest : int
        Largest number of channels on the smaller side of a part's kernel. 0 cuts the run wherever it can be cut.

    Returns
    -------
    list of (int, int)
        Links ``first:last`` of each part, in order.
    """
    starts = [0]
    for first, last in itertools.pairwise(run.cut_points):
        if first == starts[-1]:
            continue  # the present part has no link before this cut point, so that there is nothing to join
        # If the middle slope of each channel is 0, no edge of K joins the links up to here to the later links. They
        # share only the weights of the value between them, so that one joint bound of both is no better than two.
        middle_slopes, _ = middle_and_leaf_slopes(*run.links[first - 1].slopes)
        gains_by_joining = widest > 0 and bool(middle_slopes.any())
        if not (gains_by_joining and joinable(run.part(starts[-1], last), widest)):
            starts.append(first)
    return list(zip(starts, [*starts[1:], len(run.links)], strict=True))


def statements_of(run: Run, parts: Sequence[tuple[int, int]], weights: Sequence[FloatArray]) -> tuple[Together, ...]:
    """Return parts of a run as what is stated of them, with weights of the links' values; the first value has ones."""
    names, numbers = run.values, (np.ones(run.width), *weights)
    return tuple(Together(names[first : last + 1], numbers[first : last + 1]) for first, last in parts)


# -- T and K -----------------------------------------------------------------------------------------------------------
class Edge(NamedTuple):
    """An edge of the graph: the vertices that it joins, and its entry of K as a kernel."""

    start: int
    end: int
    kernel: FloatArray
    first_tap: tuple[int, ...]
    """Position of the kernel's first tap relative to the output, one number an axis."""


MiddleAndLeaf = tuple[FloatArray, FloatArray]
"""Middle slopes c and leaf slopes e of a function, as `middle_and_leaf_slopes` returns them."""


def edges(
    part: Run,
    kernels: Sequence[Mapping[int, PlacedKernel]],
    weights: Sequence[FloatArray],
    slopes: Sequence[MiddleAndLeaf],
) -> list[Edge]:
    """Return the edges of the graph.

    Vertices 0 to l - 1 are the values z_0 to z_(l-1). Vertex l is the leaf of the form's last term if the last function
    has no multiplier, else the value z_l. Vertices from l + 1 on are the other leaves, one for each link that
    has a leaf slope.

    Parameters
    ----------
    part : Run
        l links.
    kernels : sequence of mapping
        `Run.kernels`, or `Run.magnitudes`, to which rounding errors are relative.
    weights : sequence of array
        One positive number a channel of each of the l + 1 values.
    slopes : sequence of pair of array
        Middle and leaf slopes of each link.
    """
    # The phases of a stride are channels of the first value (`Run.kernels`). Each has the weight of its own channel.
    phases_of_stride = part.widths[0] // part.width
    scales = [np.repeat(weights[0], phases_of_stride), *weights[1:]]

    def by_row(numbers: FloatArray) -> FloatArray:
        return numbers.reshape(-1, 1, *(1,) * part.axes)

    all_edges: list[Edge] = []
    last_leaf = len(part.links)
    for vertex, ((slope, leaf_slope), kernel_of_source) in enumerate(zip(slopes, kernels, strict=True), start=1):
        has_leaf = bool(leaf_slope.any())
        if has_leaf:
            last_leaf += 1
        for source, (kernel, first_tap) in kernel_of_source.items():
            scaled = kernel / by_row(scales[source]).swapaxes(0, 1) * by_row(scales[vertex])
            all_edges.append(Edge(source, vertex, by_row(slope) * scaled, first_tap))
            if has_leaf:
                all_edges.append(Edge(source, last_leaf, by_row(leaf_slope) * scaled, first_tap))
    return all_edges


def middle_and_leaf_slopes(low: FloatArray, high: FloatArray) -> MiddleAndLeaf:
    """Return the middle slopes c and the leaf slopes e of a function with slopes between ``low`` and ``high``.

    They satisfy ``z^2 - 2 c z v - e^2 v^2 <= 0`` for all z = p v with p between the slopes: the left side is
    (p - a)(p - b) v^2 with a = min(low, 0) and b = max(high, 0), c = (a + b)/2 and e^2 = -a b >= 0.
    """
    a = np.minimum(low, 0.0)
    b = np.maximum(high, 0.0)
    return (a + b) / 2, np.sqrt(-a * b)


def odd_vertices(edges_of_part: Sequence[Edge]) -> set[int]:
    """Return vertices such that each edge that is not 0 joins one of them to one of the others; none if none do."""
    odd: set[int] = set()
    joining = [edge for edge in edges_of_part if edge.kernel.any()]
    for edge in joining:  # those that end at a vertex stand before those that start there
        if edge.start not in odd:
            odd.add(edge.end)
    return odd if all((edge.start in odd) != (edge.end in odd) for edge in joining) else set()


def joint_kernel(edges_of_part: Sequence[Edge], odd: Collection[int] = (), *, is_chain: bool = False) -> FloatArray:
    """Return K, a map from all vertices to all; or T, from the others to those that are ``odd``, if there are any.

    The taps of an edge stand at their positions, and those of its adjoint at the mirrored positions. On a tree, shifts
    of taps do not change the norm: all kernels of a chain begin at the first tap of T.

    Returns
    -------
    array, shape (n, m, *taps)
        Place 0 is the middle tap of K.
    """
    size = {0: edges_of_part[0].kernel.shape[1]} | {edge.end: edge.kernel.shape[0] for edge in edges_of_part}
    rows = columns = consecutive(dict(sorted(size.items())))
    blocks = [*edges_of_part, *map(_adjoint, edges_of_part)]
    if odd:
        rows = consecutive({vertex: n for vertex, n in size.items() if vertex in odd})
        columns = consecutive({vertex: n for vertex, n in size.items() if vertex not in odd})
        blocks = [edge for edge in blocks if edge.end in odd and edge.start not in odd]
    if is_chain:
        blocks = [edge._replace(first_tap=(0,) * len(edge.first_tap)) for edge in blocks]
    window = window_of([PlacedKernel(edge.kernel, edge.first_tap) for edge in blocks])
    count = [sum(size[vertex] for vertex in side) for side in (rows, columns)]
    k = np.zeros((*count, *window.shape))
    for edge, taps in zip(blocks, window.taps, strict=True):
        k[(rows[edge.end], columns[edge.start], *taps)] += edge.kernel
    return k


def _adjoint(edge: Edge) -> Edge:
    """Return an edge in the other direction: channels swapped, taps in reverse, the last tap of the edge the first."""
    taps = edge.kernel.shape[2:]
    kernel = np.flip(edge.kernel.swapaxes(0, 1), axis=tuple(range(2, edge.kernel.ndim)))
    return Edge(
        edge.end, edge.start, kernel, tuple(1 - first - n for first, n in zip(edge.first_tap, taps, strict=True))
    )


def consecutive(size: dict[int, int]) -> dict[int, slice]:
    """Return for each vertex the slice of its entries, if those of all vertices follow one another.

    ``size``: number of entries of each vertex.
    """
    entries: dict[int, slice] = {}
    first = 0
    for vertex, n in size.items():
        entries[vertex] = slice(first, first + n)
        first += n
    return entries


# -- constants ---------------------------------------------------------------------------------------------------------
@arithmetic.on_host()
def constant_of_run(run: Run, statements: Sequence[Part], norms: Norms) -> Upper:
    """Prove the Lipschitz constant of a run: the constants of its parts, and of what follows the functions.

    The last value's weights are no part of the claim: the constant is divided by the smallest of them.

    Raises
    ------
    HypothesisError
        If the statements are not of the parts of this run, in order, or their numbers cannot be weights.
    ValueError, MethodError
        If a part has no joint bound, or none with these weights.
    """
    parts = constants(run, statements, norms)
    if sum(len(statement.values) - 1 for statement in statements) != len(run.links):
        raise HypothesisError(f"the parts do not reach {run.end}")
    unweighted = host.div_up(1.0, float(np.min(statements[-1].multipliers[-1])))
    premises = [*parts, *run.factors]
    product = host.mul_up(*(claim.value for claim in premises), unweighted)
    rule = f"{counted(len(run.links), 'layer')} together, in {counted(len(parts), 'part')}"
    return make_upper(product, map_of(run), rule, *premises)


def map_of(run: Run) -> Map:
    """Return the map between the values that a run begins and ends with."""
    if run.domain is None:
        raise HypothesisError(f"a run from {run.start} to {run.end} that was not read off a graph")
    return Map(run.start, run.end, run.domain)


@arithmetic.on_host()
def constants(run: Run, statements: Sequence[Part], norms: Norms) -> list[Upper]:
    """Prove the constants of the first parts of a run, each in the weights of the values that it begins and ends with.

    Errors are those of `constant_of_run`.
    """
    widths = [run.width, *(link.width for link in run.links)]
    claims: list[Upper] = []
    first, before = 0, np.ones(run.width)
    for statement in statements:
        last = first + len(statement.values) - 1
        entry, *weights = statement.multipliers
        are_weights = [len(q) for q in (entry, *weights)] == widths[first : last + 1] and all(map(usable, weights))
        if statement.values != run.values[first : last + 1] or not are_weights or not np.array_equal(entry, before):
            raise HypothesisError(f"{statement.values} with such weights are no part of the run from {run.start}")
        if not {first, last} <= {*run.cut_points} or not joinable(run.part(first, last), math.inf):
            raise ValueError(f"layers {first} to {last - 1} of the run cannot be bounded together")
        entry = np.repeat(entry, run.links[first - 1].repeat if first else 1)
        claims.append(constant_of_part(run.part(first, last), [entry, *weights], norms))
        first, before = last, weights[-1]
    return claims


def usable(weights: FloatArray) -> bool:
    """Whether numbers can be weights: positive, and far from underflow and overflow."""
    return bool(np.all(np.isfinite(weights)) and np.all(weights > 1e-100) and np.all(weights < 1e100))


def constant_of_part(part: Run, weights: Sequence[FloatArray], norms: Norms) -> Upper:
    """Prove L with ``|q_l (z - z')| <= L |q_0 (x - x')|`` for the values x and z at both ends of a part.

    Factors of what follows the functions, such as pooling (`Link.factors`), are not included.

    Parameters
    ----------
    part : Run
        A part that has a joint bound, such as one of `cut_into_parts`.
    weights : sequence of array
        One more than there are links.
    """
    if not all(link.fits_groups(numbers) for link, numbers in zip(part.links, weights[1:], strict=True)):
        raise MethodError("weights that differ between channels which are sorted together prove nothing.")
    if len(part.links) == 1:
        (link,) = part.links
        layer = link.single_layer
        if layer is not None:
            weights_before, weights_after = weights
            return _constant_of_layer(link, layer, weights_before, weights_after, norms)
    return _constant_of_kernel(part, weights, norms)


def _constant_of_layer(
    link: Link,
    layer: Term,
    weights_before: FloatArray,
    weights_after: FloatArray,
    norms: Norms,
) -> Upper:
    """Prove the constant of one layer and its function, by the norm of the layer with weights as scales."""
    assert layer.placed_layer is not None  # for the type checker: a single layer has one
    subject = f"{' + '.join(link.kernel_names)}, weighted"
    slopes = link.largest_slopes
    largest_slope = float(slopes.max())
    if largest_slope == 0:
        return make_upper(0.0, subject, "its function is constant")
    # The largest slope is a factor of the norm. Where slopes differ, their ratios to it are put into the weights.
    scale_after = weights_after
    if not np.all(slopes == largest_slope):
        scale_after = weights_after * (slopes / largest_slope)
    scale = layer.scale
    if not np.all(scale_after == 1):
        scale = scale_after if scale is None else scale_after * scale
    # `checked_norm` divides the input channels by ``divisors`` and multiplies the output channels by ``scale``.
    weights_read = weights_before[layer.reads.start : layer.reads.stop]
    divisors = None if np.all(weights_read == 1) else weights_read
    norm = checked_norm(norms, layer.placed_layer, scale, divisors)
    constant = host.mul_up(norm.value, host.inflate(abs(layer.factor), 1), largest_slope)
    rule = f"its norm times the largest slope, {format_number(largest_slope, 'upper')}"
    return make_upper(constant, subject, rule, norm)


def _constant_of_kernel(part: Run, weights: Sequence[FloatArray], norms: Norms) -> Upper:
    """Prove the constant of links together, from the norm of T, or of K + c I."""
    *inner, last = part.links
    # The last function has no multiplier. So its slopes are its largest ones.
    slopes = [*(middle_and_leaf_slopes(*link.slopes) for link in inner), (last.largest_slopes, np.zeros(last.width))]
    # Rounding of the entries is relative to the sum of the absolute values of the terms of each.
    magnitudes = edges(part, part.magnitudes, weights, slopes)
    odd = odd_vertices(magnitudes)
    kernel = joint_kernel(edges(part, part.kernels, weights, slopes), odd, is_chain=part.is_chain)
    spec = ConvSpec.of(kernel.shape)
    shift = 0.0 if odd else SHIFT
    rtol = _rtol_of_norm(part, kernel, shift, norms.rtol)
    rounding_error = scaling_error(joint_kernel(magnitudes, odd, is_chain=part.is_chain), spec)

    if shift:
        diagonal = np.arange(kernel.shape[0])
        middle_tap = [n // 2 for n in kernel.shape[2:]]
        kernel[(diagonal, diagonal, *middle_tap)] += shift
    norm = norms.of_kernel(kernel, rtol)
    if not bounds_norm_of(norm, spec, kernel):
        raise HypothesisError(f"the proven norm is of {norm.what}; expected {spec}")
    s = host.add_up(norm.value, rounding_error, -shift)
    names = " + ".join(name for link in part.links for name in link.kernel_names)
    if part.is_chain:
        count = len(part.links)
        rule = f"LipSDP of a chain: |T| <= {format_number(s, 'upper')}, to the power of {count}"
        return make_upper(_power_up(s, count), f"{names}, weighted", rule, norm)
    s = max(s, 1.0)
    rule = f"LipSDP: K <= {format_number(s, 'upper')}, and (2 s - 1)^{part.depth}"
    return make_upper(_power_up(host.add_up(s, s, -1.0), part.depth), f"{names}, weighted", rule, norm)


def _rtol_of_norm(part: Run, kernel: FloatArray, shift: float, rtol: float) -> float:
    """Return the relative width to which a norm is enclosed, so that the constant is enclosed to ``rtol``.

    A relative change of s changes the constant s^l of a chain by l times as much. Any other constant is (2 s - 1)^d,
    and s + c is enclosed: a relative change of it changes the constant by ``2 d (s + c) / (2 s - 1)`` times as much,
    which is at most 2 d (1 + c), since s >= 1.
    """
    sensitivity = len(part.links) if part.is_chain else 2 * (1 + shift) * part.depth
    norm_rtol = rtol / sensitivity
    has_one_frequency = math.prod(kernel.shape[2:]) == 1
    if has_one_frequency:
        norm_rtol = min(norm_rtol, MATRIX_RTOL)
    return max(norm_rtol, LEAST_RTOL)


def _power_up(base: float, exponent: int) -> float:
    """Return a power, rounded up."""
    return host.mul_up(*[base] * exponent)
