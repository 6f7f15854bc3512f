"""Fourier transforms, complex values and products with many constant matrices, in the words of `specnorm.networks`.

A complex value z is measured by the root of the sum of w |z|**2 over its entries. The weights w are 1, but for
one-sided spectra: there an entry counts twice where it stands for its mirror image, too. In that norm a transform is an
isometry times a number, and it is never below the 2-norm. Whatever moves entries moves their weights; what mixes
entries of different weights has the smallest of them.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specnorm.proof import host
from specnorm_torch.calls import Call, Rule, Translation
from specnorm_torch.products import PRODUCT


def _weights(call: Call, name: str = "self") -> Tensor | None:
    """Weights of an argument's entries; None where all are 1."""
    return call.weights.get(str(call[name].name))


def _moved(call: Call) -> Translation:
    """Entries in other places, each at most once."""
    weights = _weights(call)
    if weights is not None:
        named = {name: value for name, value in call.arguments.items() if name not in ("overload", "self")}
        weights = call.node.target(weights, **named)
    return _same(call, weights)


def _reshaped(call: Call) -> Translation:
    weights = _weights(call)
    return _same(call, None if weights is None else weights.reshape(call.shape()))


def _kept(call: Call) -> Translation:
    """The same entries, conjugated or not, in the same places."""
    return _same(call, _weights(call))


def _parts(call: Call) -> Translation:
    """Real and imaginary parts for complex numbers, or the inverse: in 2-norms."""
    return _same(call, None)


def _same(call: Call, weights: Tensor | None, name: str = "self") -> Translation:
    """A map of norm 1."""
    return _fourier(call, Fraction(1), weights, name)


def _fourier(call: Call, squared: Fraction, weights: Tensor | None, name: str = "self") -> Translation:
    return Translation("fourier", {"squared": squared}, (str(call[name].name),), weights=weights)


def transform(call: Call) -> Translation:
    """Discrete Fourier transforms over some axes: unitary, times a number.

    One-sided ones: the spectrum of real numbers has each entry but 0 and n/2 twice, of which the first is kept, so that
    it has the weight 2. The inverse leaves out the imaginary parts of entries 0 and n/2 of the last axis, after a
    complex transform over the others.
    """
    kind = call.name.removeprefix("fft_").rstrip("2n")
    shape, (dims, sizes) = call.shape("self"), _axes(call, inverse=kind == "irfft")
    weights = _weights(call)
    count, last = math.prod(sizes), dims[-1]
    scaled = {"backward": 1, "ortho": 0, "forward": -1}[call.arguments.get("norm") or "backward"]
    squared = Fraction(count) ** (-scaled if kind.startswith("i") else scaled)
    if kind == "rfft":
        wide = [1] * len(shape)
        wide[last] = -1
        return _fourier(call, squared, _one_sided(sizes[-1]).reshape(wide).expand(call.shape()))
    # Entries are left out, or zeros added, up to the sizes of the transform.
    half = kind == "irfft"
    read = {axis: n // 2 + 1 if half and axis == last else n for axis, n in zip(dims, sizes, strict=True)}
    if weights is not None:
        weights = weights[tuple(slice(0, read.get(axis)) for axis in range(len(shape)))]
        mixed = dims[:-1] if half else dims
        weights = weights.amin(mixed, keepdim=True) if mixed else weights
    if not half:
        return _fourier(call, squared, None if weights is None else weights.expand(call.shape()))
    # The inverse is a contraction in its own weights.
    wanted = _one_sided(sizes[-1])[: shape[last]]
    if weights is None:
        return _fourier(call, squared * int(wanted.max()), None)
    ratio = 2 if bool((wanted > weights.movedim(last, -1)).any()) else 1
    return _fourier(call, squared * ratio, None)


def _axes(call: Call, *, inverse: bool) -> tuple[list[int], list[int]]:
    """Axes of a transform, and its sizes along them; those of the output for the inverse of a one-sided one."""
    shape = call.shape("self")
    one = "n" in call.arguments
    dims, sizes = ([x] if isinstance(x, int) else x for x in (call["dim"], call["n"] if one else call["s"]))
    if dims is None:
        dims = range(len(shape)) if sizes is None else range(len(shape) - len(sizes), len(shape))
    dims = [int(axis) % len(shape) for axis in dims]
    known = [shape[axis] for axis in dims]
    if inverse:
        known[-1] = 2 * (known[-1] - 1)
    given = [-1] * len(dims) if sizes is None else [int(n) for n in sizes]
    return dims, [n if n != -1 else own for n, own in zip(given, known, strict=True)]


def _one_sided(n: int) -> Tensor:
    """Weights of the spectrum of n real numbers."""
    weights = torch.full((n // 2 + 1,), 2, dtype=torch.uint8)
    weights[0] = 1
    if n % 2 == 0:
        weights[-1] = 1
    return weights


def added(call: Call) -> Translation:
    """Constants added to a complex value, or subtracted from it; a real one becomes complex by it."""
    if call.is_data("self") and call.is_data("other"):
        return Translation("unknown", {"reason": "sums of complex values have no rule"})
    name = "self" if call.is_data("self") else "other"
    weighted = "self" if call.name == "rsub" else "other"
    alpha = call["alpha"]
    if call.shape(name) != call.shape() or (name == weighted and alpha != 1):
        return Translation("unknown", {"reason": "a complex value that is repeated, or scaled by alpha, has no rule"})
    return _same(call, _weights(call, name), name)


def multiplied(call: Call) -> Translation:
    """A complex value times one constant for each entry: matrices of one entry."""
    if call.is_data("self") and call.is_data("other"):
        return Translation("unknown", PRODUCT)
    name, other = ("self", "other") if call.is_data("self") else ("other", "self")
    if call.shape(name) != call.shape():
        return Translation("unknown", {"reason": "a complex value that is repeated has no rule"})
    constant = call[other]
    if not isinstance(constant, Tensor):
        constant = torch.tensor(constant, dtype=torch.complex128 if isinstance(constant, complex) else torch.float64)
    return _matrices(call[name], constant.reshape(-1, 1, 1), _weights(call, name))


def divided(call: Call) -> Translation:
    """A complex value over one constant for each entry: at most one over its absolute value, rounded up."""
    if call.is_data("other"):
        return Translation("unknown", {"reason": "it divides by a value that depends on the input"})
    if call.shape("self") != call.shape():
        return Translation("unknown", {"reason": "a complex value that is repeated has no rule"})
    constant = torch.as_tensor(call["other"], dtype=torch.complex128).resolve_conj().reshape(-1)
    with np.errstate(divide="ignore"):
        inverse = 1 / np.abs(constant.detach().cpu().numpy())
    # The absolute value and the quotient: a few roundings, and the next number where they are subnormal.
    rounded = torch.from_numpy(host.above(host.raised(inverse, 4)).reshape(-1, 1, 1))
    return _matrices(call["self"], rounded, _weights(call))


def product(first: str, second: str) -> Rule:
    """Product with a stack of constant matrices, from either side."""

    def translate(call: Call) -> Translation:
        if call.is_data(first) and call.is_data(second):
            return Translation("unknown", PRODUCT)
        name, other, axis = (first, second, -1) if call.is_data(first) else (second, first, -2)
        shape, constant = call.shape(name), call[other]
        if min(len(shape), constant.ndim) < 2 or call.shape()[:-2] != shape[:-2]:
            told = f"it multiplies a value of shape {shape} by constants of shape {tuple(constant.shape)}"
            return Translation("unknown", {"reason": told})
        matrices = constant.mT if axis == -1 else constant
        weights = _weights(call, name)
        if weights is not None:
            weights = weights.amin(axis, keepdim=True).expand(call.shape())
        return _matrices(call[name], matrices.reshape(-1, *matrices.shape[-2:]), weights)

    return translate


def einsum(call: Call) -> Translation:
    """A value and constants: one matrix for each choice of the indices that both have and keep."""
    operands = list(call["tensors"])
    values = [x for x in operands if isinstance(x, torch.fx.Node)]
    if len(values) > 1:
        return Translation("unknown", PRODUCT)
    equation = str(call["equation"]).replace(" ", "")
    terms, arrow, out = equation.partition("->")
    names, told = terms.split(","), {"reason": f"its equation {equation} has no rule"}
    plain = all(x.isalpha() and len(set(x)) == len(x) for x in (*names, out) if x)
    if not arrow or len(operands) != 2 or not plain:
        return Translation("unknown", told)
    at = operands.index(values[0])
    constant: Tensor = operands[1 - at]
    ours, theirs = names[at], names[1 - at]
    summed, new = ([x for x in theirs if x in ours and x not in out], [x for x in theirs if x not in ours])
    sizes, known = (dict(zip(n, call.shape_at(x), strict=True)) for n, x in ((ours, values[0]), (theirs, constant)))
    # Nothing else is summed, and nothing repeated.
    if set(ours + theirs) - set(out) != set(summed) or any(sizes[x] != known[x] for x in ours if x in known):
        return Translation("unknown", told)
    shared = [x for x in theirs if x in ours and x in out]
    rows, columns = (math.prod(known[x] for x in group) for group in (new, summed))
    matrices = constant.permute([theirs.index(x) for x in (*shared, *new, *summed)]).reshape(-1, rows, columns)
    weights = call.weights.get(str(values[0].name))
    if weights is not None:
        left = [x for x in ours if x not in summed]
        weights = weights.amin([ours.index(x) for x in summed]) if summed else weights
        weights = weights.permute([left.index(x) for x in out if x in left])
        weights = weights.reshape([1 if x in new else sizes[x] for x in out]).expand(call.shape())
    return _matrices(values[0], matrices, weights)


def _matrices(value: Any, matrices: Tensor, weights: Tensor | None) -> Translation:
    """A block-diagonal map: at most the largest norm of its blocks, which read entries of their own."""
    plain = matrices.detach().resolve_conj()

    def load() -> Tensor:
        return torch.view_as_real(plain) if plain.is_complex() else plain

    return Translation("matrices", {}, (str(value.name),), kernel=load, weight=plain, weights=weights)


_KEPT = (
    "clone", "contiguous", "detach", "alias", "positive", "neg", "_conj", "resolve_conj", "resolve_neg", "_to_copy",
    "to", "lift_fresh_copy",
)  # fmt: skip
_MOVED = (
    "permute", "transpose", "t", "numpy_T", "movedim", "flip", "roll", "slice", "select", "narrow", "fft_fftshift",
    "fft_ifftshift",
)  # fmt: skip
_RESHAPED = ("view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze")

TRANSFORMS: dict[str, Rule] = {
    f"fft_{kind}{n}": transform for kind in ("fft", "ifft", "rfft", "irfft") for n in ("", "2", "n")
}
COMPLEX: dict[str, Rule] = {
    **TRANSFORMS,
    **dict.fromkeys(_KEPT, _kept),
    **dict.fromkeys(_MOVED, _moved),
    **dict.fromkeys(_RESHAPED, _reshaped),
    **dict.fromkeys(("view_as_real", "view_as_complex"), _parts),
    **dict.fromkeys(("add", "sub", "rsub"), added),
    "mul": multiplied,
    "div": divided,
    "matmul": product("self", "other"),
    "mm": product("self", "mat2"),
    "bmm": product("self", "mat2"),
    "einsum": einsum,
}
"""Operator -> translation, for calls with complex values."""
