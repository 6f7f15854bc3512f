"""The rules: by how much one node can stretch. Each says why; `docs/networks.md` shows them as a table.

Two kinds. A *factor* is the Lipschitz constant of a node with one input, and multiplies its input's bound. A
*combination* takes the bounds of several inputs. Constants are about real arithmetic, 2-norms, and one sample (a batch
of samples: each, and all together).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from specnorm.networks import axes
from specnorm.networks.axes import Window
from specnorm.networks.graph import Node, Shape, concrete
from specnorm.networks.pointwise import slope
from specnorm.padding import padding_copies
from specnorm.proof import host


class UnknownRuleError(Exception):
    """A node without a constant; the message says why."""


def select(node: Node, source: Node) -> float:
    """1: nothing is stretched.

    Each output is one input, each input at most once, or a constant: reshape, transpose, slice, crop, split,
    flatten, flip, pixel shuffle, dropout at inference.
    """
    del node, source
    return 1.0


def copies(node: Node, source: Node) -> float:
    """sqrt(r), r the largest number of copies of one entry.

    Tile, repeat, gather, nearest resizing: the columns of the matrix are orthogonal, with at most r ones each.
    """
    del source
    return host.root_up(int(node.params["copies"]))


def pad(node: Node, source: Node) -> float:
    """1 for constants; sqrt(r) for repeated pixels.

    For reflect, replicate and circular padding r is a product over the axes of the largest number of copies of one
    pixel. With the convolution after it, padding is one layer.
    """
    mode, pads = node.params["mode"], node.params["pads"]
    if mode == "zeros":
        return 1.0
    if mode not in ("reflect", "replicate", "circular"):
        raise UnknownRuleError(f"padding by {mode} has no rule")
    pairs = zip(pads, _tail(source.shape, len(pads)), strict=True)
    # Across an axis of an unknown size, all that reflections repeat may be one pixel.
    counts = [
        1 + before + after if n is None and mode == "reflect" else padding_copies(before, after, n, mode)
        for (before, after), n in pairs
    ]
    return host.root_up(math.prod(counts))


def broadcast(node: Node, source: Node) -> float:
    """sqrt(r), r counted from the shapes before and after.

    As for copies.
    """
    return host.root_up(repeats(source.shape, node.shape))


def scale(node: Node, source: Node) -> float:
    """The largest |c|, for a product with constants.

    A diagonal matrix; batch normalisation at inference has |gamma| / sqrt(var + eps). Times sqrt(r) where it also
    repeats the input r times. Directly after a layer it is folded into the kernel instead.
    """
    values = np.asarray(node.params["values"], dtype=np.float64)
    if not values.size or not bool(np.all(np.isfinite(values))):
        raise UnknownRuleError("it multiplies by values that are not finite")
    # Unless they are exact, the values were computed with a handful of roundings.
    largest = float(np.max(np.abs(values)))
    if not node.params.get("exact"):
        # A quotient by a root of a sum: a few roundings.
        largest = host.raised(largest, 14)
    return largest if values.size == 1 else host.mul_up(largest, broadcast(node, source))


def pointwise(node: Node, source: Node) -> float:
    """The largest slope of the function, rounded up.

    See the list of functions; near one input, that on the range of each entry there.
    """
    del source
    if node.params.get("slopes") is not None:  # near one input
        return float(max(np.max(np.abs(end), initial=0.0) for end in node.params["slopes"]))
    given = {name: value for name, value in node.params.items() if name != "function"}
    found = slope(str(node.params["function"]), **given)
    if found is None:
        shown = ", ".join(f"{name}={value:.6g}" for name, value in given.items())
        raise UnknownRuleError(f"{node.params['function']}({shown}) has no largest slope that is known here")
    return found


def max_pool(node: Node, source: Node) -> float:
    """The root of the largest number of windows that one pixel is in.

    A product over the axes of ceil(k / s'), s' = s / gcd(s, dilation). A maximum moves by at most the norm of its
    window's change, and each pixel is counted that often. Attained by a pixel that is the maximum of all its
    windows.
    """
    if node.params.get("adaptive"):
        pairs = zip(*_sizes(node, source), strict=True)
        return host.root_up(math.prod(axes.adaptive_overlap(n, m) for n, m in pairs))
    return host.root_up(math.prod(axes.overlap(window) for window in _windows(node, source)))


def l2_pool(node: Node, source: Node) -> float:
    """The root of ``times`` an average of squares: sqrt(times o / k), o as for max-pooling.

    A window's value is sqrt(times / k) times the norm of its k entries, which moves by at most the norm of their
    change; each pixel is counted o times. 1 for windows that do not overlap, and times = k. Attained by constants.
    """
    windows = _windows(node, source)
    counted = math.prod(axes.overlap(window) for window in windows)
    return host.root_up(Fraction(node.params["times"]) * counted / math.prod(window.kernel for window in windows))


def average_pool(node: Node, source: Node) -> float:
    """The norm of one matrix of weights an axis, multiplied.

    A Kronecker product; 1/sqrt(k) an axis for windows that do not overlap. At unknown sizes sqrt(sum c_r^2) / k,
    c_r the number of taps in residue class r modulo the stride.
    """
    if node.params.get("adaptive"):
        pairs = zip(*_sizes(node, source), strict=True)
        return host.mul_up(*(axes.adaptive_norm_up(n, m) for n, m in pairs))
    windows = _windows(node, source)
    norms = [axes.average_norm_up(window) for window in windows]
    known = [norm for norm in norms if norm is not None]
    if len(known) < len(norms):
        raise UnknownRuleError("its windows at the border depend on the input's size: give the input shape")
    divisor = node.params.get("divisor")
    if divisor:
        # Sums instead of averages, if padding counts: windows without ceil all have the same weight.
        if any(window.ceil for window in windows):
            raise UnknownRuleError("divisor_override with ceil_mode")
        known.append(host.div_up(math.prod(window.kernel for window in windows), abs(divisor)))
    return host.mul_up(*known)


def global_average(node: Node, source: Node) -> float:
    """1/sqrt(N) for the mean of N numbers.

    Disjoint rows of norm 1/sqrt(N). 1 where N is not known.
    """
    counted = _reduced(node, source)
    return 1.0 if counted is None else host.root_up(Fraction(1, max(counted, 1)))


def total(node: Node, source: Node) -> float:
    """sqrt(N) for the sum of N numbers.

    Disjoint rows of norm sqrt(N).
    """
    counted = _reduced(node, source)
    if counted is None:
        raise UnknownRuleError("it sums numbers whose count depends on the input's size: give the input shape")
    return host.root_up(counted)


def resize(node: Node, source: Node) -> float:
    """The norm of one matrix of weights an axis, multiplied.

    Nearest xf: sqrt(f); linear: at most that, but for align_corners=True.
    """
    before, after = _sizes(node, source, every=True)
    factors = []
    for n, m, f in zip(before, after, node.params["scales"], strict=True):
        p = node.params
        norm = 1.0 if n == m and f == 1 else axes.resize_norm_up(p["mode"], n, m, f, p["coordinates"], p["nearest"])
        if norm is None:
            raise UnknownRuleError(f"resizing by {p['mode']} with {p['coordinates']} coordinates has no rule")
        factors.append(norm)
    return host.mul_up(*factors)


def softmax(node: Node, source: Node) -> float:
    """1/2.

    The Jacobian diag(p) - p p^T is symmetric, and the absolute sum of its row i is 2 p_i (1 - p_i) (Gershgorin).
    """
    del node, source
    return 0.5


def log_softmax(node: Node, source: Node) -> float:
    """sqrt(n) for n classes.

    The norm of the Jacobian I - 1 p^T is convex in p, so largest at a corner: (I - 1 e_1^T)(I - 1 e_1^T)^T is 0 on
    the first axis and I + 1 1^T on the n - 1 others, of norm n.
    """
    n = node.params.get("classes")
    if n is None and source.shape is not None:
        n = source.shape[int(node.params["axis"])] if source.shape else 1
    if not isinstance(n, int):
        raise UnknownRuleError("the number of classes is not known: give the input shape")
    return host.root_up(max(n, 1))


def length(node: Node, source: Node) -> float:
    """1, for the 2-norm along axes and for the largest or smallest entry.

    | |x| - |y| | <= |x - y|, and |max x - max y| <= max |x - y| <= |x - y|.
    """
    del node, source
    return 1.0


def fourier(node: Node, source: Node) -> float:
    """The root of ``squared``: the number by which a Fourier transform is not unitary.

    Complex values are measured by the root of the sum of w |z|^2, w = 2 for entries of a one-sided spectrum that stand
    for their mirror images, too, and else 1: no less than the 2-norm. The front-end says by how much weights differ.
    """
    del source
    return host.root_up(node.params["squared"])


def reflect(node: Node, source: Node) -> float:
    """The larger norm of two linear maps of pairs, between which the sign of a third chooses.

    Both agree where that is 0, so that the choice is continuous; a segment crosses the border once.
    """
    del source
    return float(node.params["norm"])


FACTORS: dict[str, Callable[[Node, Node], float]] = {
    "select": select,
    "reflect": reflect,
    "fourier": fourier,
    "copies": copies,
    "pad": pad,
    "broadcast": broadcast,
    "scale": scale,
    "pointwise": pointwise,
    "max_pool": max_pool,
    "average_pool": average_pool,
    "l2_pool": l2_pool,
    "mean": global_average,
    "sum": total,
    "length": length,
    "resize": resize,
    "softmax": softmax,
    "log_softmax": log_softmax,
}
"""Rules of nodes with one input: (node, its input) -> factor, rounded up."""


def add(node: Node, sources: Sequence[Node], bounds: Sequence[float]) -> float:
    """The sum of the inputs' bounds.

    Triangle inequality; each times sqrt(r) where it is repeated r times. Constants have the bound 0.
    """
    return host.add_up(*_spread(node, sources, bounds))


def average(node: Node, sources: Sequence[Node], bounds: Sequence[float]) -> float:
    """The sum of the inputs' bounds over their number.

    As for a sum.
    """
    return host.mul_up(add(node, sources, bounds), host.div_up(1, len(bounds)))


def stack(node: Node, sources: Sequence[Node], bounds: Sequence[float]) -> float:
    """The root of the sum of squares of the inputs' bounds.

    Concatenation: squared changes add up.
    """
    del node, sources
    return host.hypot_up(*bounds)


def extreme(node: Node, sources: Sequence[Node], bounds: Sequence[float]) -> float:
    """The root of the sum of squares of the inputs' bounds.

    Entrywise maximum, minimum or choice: |max(a, b) - max(c, d)| is at most the larger of |a - c| and |b - d|. Each
    times sqrt(r) where it is repeated r times; constants have the bound 0.
    """
    return host.hypot_up(*_spread(node, sources, bounds))


COMBINATIONS: dict[str, Callable[[Node, Sequence[Node], Sequence[float]], float]] = {
    "add": add,
    "average": average,
    "stack": stack,
    "extreme": extreme,
}
"""Rules of nodes with several inputs: (node, inputs, their bounds) -> bound, rounded up."""


def repeats(before: Shape | None, after: Shape | None) -> int:
    """How often broadcasting repeats each entry.

    Raises
    ------
    UnknownRuleError
        If the shapes do not tell.
    """
    if before is None or after is None or len(before) > len(after):
        raise UnknownRuleError("the shapes that are broadcast are not known: give the input shape")
    aligned = (1,) * (len(after) - len(before)) + before
    found = 1
    for n, m in zip(aligned, after, strict=True):
        if n == m:
            continue
        if n != 1 or not isinstance(m, int):
            raise UnknownRuleError(f"shape {before} cannot be compared with {after}: give the input shape")
        found *= m
    return found


def _spread(node: Node, sources: Sequence[Node], bounds: Sequence[float]) -> list[float]:
    pairs = zip(sources, bounds, strict=True)
    return [host.mul_up(bound, host.root_up(repeats(source.shape, node.shape))) for source, bound in pairs]


def _sizes(node: Node, source: Node, *, every: bool = False) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Spatial sizes before and after (``every``: all axes)."""
    before, after = concrete(source.shape), concrete(node.shape)
    if before is None or after is None or len(before) != len(after):
        raise UnknownRuleError("its sizes are not known: give the input shape")
    if every:
        return before, after
    spatial = int(node.params["spatial"])
    return before[len(before) - spatial :], after[len(after) - spatial :]


def _windows(node: Node, source: Node) -> list[Window]:
    p: Any = node.params
    ndim = len(p["kernel"])
    tails = [_tail(source.shape, ndim), _tail(node.shape, ndim)]
    return [
        Window(k, s, r, before, after, n, m, bool(p.get("ceil", False)), bool(p.get("count_padding", True)))
        for k, s, r, (before, after), n, m in zip(
            p["kernel"], p["stride"], p["dilation"], p["padding"], *tails, strict=True
        )
    ]


def _tail(shape: Shape | None, ndim: int) -> list[int | None]:
    if shape is None:
        return [None] * ndim
    return [n if isinstance(n, int) else None for n in shape[len(shape) - ndim :]]


def _reduced(node: Node, source: Node) -> int | None:
    """Count of the numbers that become one, None if it is not known."""
    if source.shape is None:
        return None
    sizes = [source.shape[axis] for axis in node.params["axes"]]
    return math.prod(sizes) if all(isinstance(n, int) for n in sizes) else None
