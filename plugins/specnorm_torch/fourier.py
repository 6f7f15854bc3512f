"""Fourier transforms and complex values.

A complex value z is measured by the root of the sum of w |z|**2 over its entries. The weights w are 1, but for
one-sided spectra: there an entry counts twice where it stands for its mirror image, too. In that norm a transform is an
isometry times a number, and it is never below the 2-norm. Whatever moves entries moves their weights; what mixes
entries of different weights has the smallest of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from specnorm.certified.network import operators as ops
from specnorm.certified.network.operators import Operator, Unknown
from specnorm.certified.network.operators.fourier import one_over_up
from specnorm_torch.aten import OPERATORS, function, sum_weights
from specnorm_torch.calls import Call, Made, Moving, Rule, is_value, numbers, rules, shape_of
from specnorm_torch.products import PRODUCT, matrices, stacked
from specnorm_torch.writing import REPEATED, WRITING


def transform(
    call: Call, *, self: Moving, n: int | None = None, s: list[int] | None = None, dim: Any = None,
    norm: Literal["backward", "ortho", "forward"] | None = None,
) -> Made:  # fmt: skip
    """Discrete Fourier transforms over some axes: unitary, times a number.

    One-sided ones: the spectrum of real numbers has each entry but 0 and n/2 twice, of which the first is kept, so that
    it has the weight 2. The inverse leaves out the imaginary parts of entries 0 and n/2 of the last axis, after a
    complex transform over the others.
    """
    kind = cast(Literal["fft", "ifft", "rfft", "irfft"], call.label.removeprefix("fft_").rstrip("2n"))
    shape = shape_of(self)
    one = isinstance(dim, int)
    dims, sizes = _axes(shape, [dim] if one else dim, ([n] if n is not None else None) if one else s, kind == "irfft")
    weights = call.weights(self)
    count, last = math.prod(sizes), dims[-1]
    scaled = {"backward": 1, "ortho": 0, "forward": -1}[norm or "backward"]
    squared = Fraction(count) ** (-scaled if kind.startswith("i") else scaled)
    if kind == "rfft":
        wide = [1] * len(shape)
        wide[last] = -1
        weights = _one_sided(sizes[-1]).reshape(wide).expand(call.shape)
    else:
        # Entries are left out, or zeros added, up to the sizes of the transform.
        half = kind == "irfft"
        read = {axis: m // 2 + 1 if half and axis == last else m for axis, m in zip(dims, sizes, strict=True)}
        if weights is not None:
            weights = weights[tuple(slice(0, read.get(axis)) for axis in range(len(shape)))]
            mixed = dims[:-1] if half else dims
            weights = weights.amin(mixed, keepdim=True) if mixed else weights
        if half:
            # The inverse is a contraction in its own weights.
            wanted = _one_sided(sizes[-1])[: shape[last]]
            if weights is None:
                squared *= int(wanted.max())
            elif bool((wanted > weights.movedim(last, -1)).any()):
                squared *= 2
            weights = None
        elif weights is not None:
            weights = weights.expand(call.shape)
    return Made(ops.Fourier(kind, tuple(dims), tuple(sizes), norm or "backward", squared), (self,), weights)


def _axes(shape: tuple[int, ...], dims: Any, sizes: Any, inverse: bool) -> tuple[list[int], list[int]]:
    """Axes of a transform, and its sizes along them; those of the output for the inverse of a one-sided one."""
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


def added(call: Call, *, self: Moving, other: Moving, alpha: float = 1) -> Made | Operator:
    """Constants added to a complex value, or subtracted from it; a real one becomes complex by it."""
    if is_value(self) and is_value(other):
        return Unknown("sums of complex values have no rule")
    value, weighted = (self if is_value(self) else other), (self if call.label == "rsub" else other)
    if shape_of(value) != call.shape or (value is weighted and alpha != 1):
        return Unknown("a complex value that is repeated, or scaled by alpha, has no rule")
    return Made(ops.Add(sum_weights(call, alpha)), (self, other), call.weights(value))


def multiplied(call: Call, *, self: Moving, other: Moving) -> Made | Operator:
    """A complex value times one constant for each entry: matrices of one entry."""
    if is_value(self) and is_value(other):
        return Unknown(PRODUCT)
    value, constant = (self, other) if is_value(self) else (other, self)
    if shape_of(value) != call.shape:
        return Unknown(REPEATED)
    factors = torch.from_numpy(numbers(constant))
    return matrices(call, value, factors.reshape(-1, 1, 1), "...,...->...", factors, call.weights(value))


def divided(call: Call, *, self: Moving, other: Moving) -> Made | Operator:
    """A complex value over one constant for each entry: at most one over its absolute value, rounded up."""
    if is_value(other):
        return Unknown("it divides by a value that depends on the input")
    if shape_of(self) != call.shape:
        return Unknown(REPEATED)
    divisors = numbers(other)
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = torch.from_numpy(np.asarray(1 / divisors))
        rounded = torch.from_numpy(one_over_up(divisors)).reshape(-1, 1, 1)
    return matrices(call, self, rounded, "...,...->...", factors, call.weights(self))


_KEPT = (
    "clone", "contiguous", "detach", "alias", "positive", "neg", "_conj", "resolve_conj", "resolve_neg", "_to_copy",
    "to", "lift_fresh_copy",
)  # fmt: skip
_MOVED = (
    "permute", "transpose", "t", "numpy_T", "movedim", "flip", "roll", "slice", "select", "narrow", "fft_fftshift",
    "fft_ifftshift",
)  # fmt: skip
_RESHAPED = ("view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze")


def with_weights(call: Call, made: Made, arguments: Mapping[str, Any]) -> Made:
    """What a call that moves entries makes, with their weights moved as well."""
    value = arguments.get("self")
    weights = call.weights(value) if call.label in (*_KEPT, *_MOVED, *_RESHAPED) and is_value(value) else None
    if weights is None or isinstance(made.operator, Unknown):
        return made
    if call.label in _MOVED:
        weights = call.node.target(weights, **{name: x for name, x in arguments.items() if name != "self"})
    return replace(made, weights=weights.reshape(call.shape) if call.label in _RESHAPED else weights)


_TRANSFORMS = rules(
    transform, " ".join(f"fft_{kind}{n}" for kind in ("fft", "ifft", "rfft", "irfft") for n in ("", "2", "n"))
)
REAL: dict[str, Rule] = OPERATORS | WRITING | _TRANSFORMS
"""Rules of calls without complex values."""
COMPLEX: dict[str, Rule] = {
    **{key: rule for key, rule in OPERATORS.items() if key.partition(".")[0] in (*_KEPT, *_MOVED, *_RESHAPED)},
    **WRITING,
    **_TRANSFORMS,
    "_conj": function(ops.Conjugate),
    "neg": function(lambda: ops.Scale(np.array(-1.0), exact=True)),
    "view_as_real": function(lambda: ops.ComplexPart(real=True)),
    "view_as_complex": function(lambda: ops.ComplexPart(real=False)),
    **rules(added, "add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Tensor rsub.Scalar"),
    **rules(multiplied, "mul.Tensor mul.Scalar"),
    **rules(divided, "div.Tensor div.Scalar"),
    **rules(stacked, "matmul mm bmm"),
    "einsum": OPERATORS["einsum"],
}
"""Rules of calls with complex values."""
