"""Check a certificate of specnorm without any of its code: python -m specnorm_check FILE.npz MODEL.

A certificate claims that norms of convolution layers, or Lipschitz constants of ONNX networks, in real arithmetic, are
at most some numbers. This file needs Python, NumPy and, to read a model, safetensors or onnx; copy it and read it. Exit
code 0: every claim is proven; 1: one is not, and which; 2: a file cannot be read.

LEMMA 1. K and H are kernels of stride 1 with the same number c of input channels; M_t = sum_x K_x^T K_{x+t} + sum_x
H_x^T H_{x+t} for every lag t; v is any number. Then at every input size, circular or zero-padded,
|K|^2 <= v + |M_0 - v I| + sum_{t != 0} |M_t|, where |.| of a matrix is its Frobenius norm.
Proof. The norm of K is at most the largest norm of its symbol G(a) = sum_x K_x exp(i a.x); F is that of H. For a unit
vector z, |G z|^2 <= |G z|^2 + |F z|^2 = sum_t exp(i a.t) z* M_t z <= v + |M_0 - v I| + sum_{t != 0} |M_t|.
So whatever H is, what it proves is true; a bad H proves a larger number. G and its transpose have the same norm.

LEMMA 2. A layer of stride s and dilation r is one of stride 1 whose input's pixels of every phase are channels of their
own. Proof, on an axis: c = gcd(r, s), s' = s/c, r' = r/c. With t = s' a + b output i reads at tap t the pixel s i + r t
- p = s (i + r' a) + (r b - p), and the residues of r b modulo s differ for b = 0, ..., s' - 1. So it is entry i + r' a
of the phase b; the dilation r' that is left replaces a by r' a in the symbol, whose supremum stays. Groups are apart. A
transposed layer is the adjoint of a layer: the same norm. Circular padding with a stride: at sizes that it divides.

LEMMA 3. Padding other than with zeros is a map of its own before the layer, whose norm is the root of how often one
pixel is copied: reflected once at most on each side, replicated as often as the padding says. Circular padding that
gives e outputs more than there are pixels (over the stride) repeats an output at most 1 + e times. At one input size a
layer is a matrix, with any padding: a kernel without taps, for Lemma 1.

LEMMA 4 (LipSDP). z_i = f_i(sum_j W_ij z_j + b_i), j < i = 1, ..., n, zeros beyond the border; the slopes of f_i are in
[a_i, b_i], a_i <= 0 <= b_i; q_i > 0 is one number a channel. The kernel N from all places to all, one for each z_i and
one more, i', where a_i < 0 and i < n, has V_ij (a_i + b_i)/2 from j to i, for i = n V_nj max(-a_n, b_n), from j to i'
V_ij sqrt(-a_i b_i), their adjoints, and zeros else; V_ij = q_i W_ij / q_j. If |N + I/2| <= 3/2, any two inputs have
|q_n (z_n - z_n')| <= |q_0 (z_0 - z_0')|. Proof: d_i is the difference of z_i, v_i that of sum_j W_ij z_j. Then (d_i -
a_i v_i)(d_i - b_i v_i) <= 0 in each entry, beyond the border too, where d_i = 0. So |q_0 d_0|^2 - |q_n d_n|^2 is at
least the sum of |q_0 d_0|^2, of |q_i d_i|^2 - (a_i + b_i) <q_i d_i, q_i v_i> + a_i b_i |q_i v_i|^2 for i < n, and of
-max(-a_n, b_n)^2 |q_n v_n|^2. That is the least value of |u|^2 - <u, N u>, u_i = q_i d_i, over u_{i'} and u_n: not
negative, as N <= |N + I/2| - 1/2 <= 1. If N <= s only, s >= 1, |q_n d_n| <= (2 s - 1)^g |q_0 d_0|, g the links on the
longest way: with q_i t^{g_i}, g_i those to i, t = 1/(2 s - 1), N becomes its entrywise product with r = t^|g_i - g_j|.
The least eigenvalue of r is at least (1 - t)/(1 + t) = 1 - 1/s (Kac, Murdock, Szego), and r is 1 and N is 0 on the
diagonal, so that the product of r - (1 - 1/s) I and s I - N, not negative by Schur, is I less the new N. In a chain,
where only i - 1 and i are linked, N is a T from even to odd places and its adjoint: |T| <= s is enough, with s^n, for
q_i / s^i; and taps may be moved, each layer's together, a change of basis. A first layer of stride s reads the phases
of its input as channels. For one layer s = |V_1| max(-a_1, b_1), at any border.

POOLING. Of k pixels, s apart, with dilation r, a pixel is in ceil(k / (s / gcd(s, r))) windows an axis at most. So the
largest lift norms by the root of the product of these, and averages by that over the root of their number of pixels.

ARITHMETIC. H is whole numbers of at most 20 bits over 2^e. K is rounded to such numbers, and the norm of what that
leaves, the root of its largest sums of a row and of a column, is added to the bound; of N and T, whose entries have
fewer than 32 roundings of 2^-53, 2^-48 of the entries too. Sums of products of whole numbers are exact in float64 as
long as they stay below 2^53, in any order; longer sums are added as 64-bit integers. The rest are sums of non-negative
floats, each inflated by more than its roundings, and Python's fractions.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import re
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

VERSION = 5  # of the format
BITS = 20  # of a number of H, its sign included
LONGEST = 2**32  # bytes of a certificate's arrays together
MODELS = (".npz", ".safetensors", ".onnx")
MODES = ("zeros", "circular", "reflect", "replicate")
KEYS = {
    "name", "tensor", "dtype", "shape", "layout", "sha256", "stride", "dilation", "groups", "transposed",
    "padding_mode", "padding", "sizes", "upper", "completion", "exponent",
}  # fmt: skip
PART = {"values", "weights", "sizes", "exponent", "completion"}
FLOATING = ("float16", "float32", "float64")
REAL = {1, 10, 11, 16}  # float32, float16, float64 and bfloat16, as ONNX numbers them
SLOPES = {
    **dict.fromkeys(("Relu", "Tanh", "Softplus", "Softsign", "Clip", "Atan"), (0.0, 1.0)), "Sigmoid": (0.0, 0.25),
    **dict.fromkeys(("Abs", "Sin", "Cos"), (-1.0, 1.0)), "Neg": (-1.0, -1.0), "Gelu": (-0.12902, 1.12902),
    "HardSwish": (-0.5, 1.5), "Mish": (-0.12, 1.08851),
}  # fmt: skip
ALIKE = {"Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze"}  # the same entries in the same order
NEAR = {"Slice", "Split", "Pad", "Transpose", "TopK", "Softmax", "ReduceMax", "GlobalMaxPool"}  # moves none apart
POOLS, MEANS = {"MaxPool", "AveragePool"}, {"GlobalAveragePool", "ReduceMean"}
SUMS, LAYERS = {"Add", "Sub", "Sum"}, {"Conv", "ConvTranspose", "Gemm", "MatMul"}
HELD = ALIKE | SUMS | {"Shape", "Gather", "Cast", "Concat", "Slice", "Mul", "Div", "ConstantOfShape", "Range"}
READ = """allowzero alpha axes axis beta count_include_pad dilations end epsilon group keepdims kernel_shape largest
momentum noop_with_empty_axes num_outputs output_padding pads perm saturate seed start storage_order strides to transB
value value_float value_floats value_int value_ints"""  # attributes that a rule reads, or that change nothing it says
ONLY = [  # the values of others that rules are for
    ("auto_pad", b"NOTSET"), ("auto_pad", b"VALID"), ("mode", b"constant"), ("approximate", b"none"),
    ("approximate", b"tanh"), ("ceil_mode", 0), ("training_mode", 0), ("transA", 0), ("sorted", 1),
]  # fmt: skip
CENTRE = Fraction(1, 2)  # of N

Numbers = NDArray[Any]


class Refused(Exception):
    """Why a claim is not proven, or a file is not read."""


class Claim(NamedTuple):
    """What a certificate says, and H times 2**exponent, which proves it: of a network a list, one H for each part."""

    statement: dict[str, Any]
    completion: Any


class Verdict(NamedTuple):
    """What became of one claim: it is proven if there is no reason against it."""

    name: str
    statement: str
    reason: str
    seconds: float

    def __str__(self) -> str:
        """One line."""
        said = f"FAILED {self.name}: {self.reason}" if self.reason else f"proven {self.name}: {self.statement}"
        return f"{plain(said)}; {self.seconds:.2f} s"


def require(condition: object, words: str) -> None:
    """Refuse unless the condition holds."""
    if not condition:
        raise Refused(words)


# -- claims ------------------------------------------------------------------------------------------------------------
def check(certificate: Sequence[Claim], arrays: Mapping[str, Numbers], content: bytes = b"") -> Iterator[Verdict]:
    """Prove the claims of a certificate, one after the other.

    ``arrays`` are the model's by their names, as its file stores them (bfloat16 as float32, which is exact); claims
    about networks are about the ``content`` of an ONNX file.
    """
    for statement, completion in certificate:
        begin, said, reason = time.perf_counter(), "", ""
        try:
            if "parts" in statement:
                said = _prove_network(statement, completion, content)
            else:
                said = _prove_layer(statement, completion, arrays)
        except Refused as error:
            reason = str(error)
        except Exception as error:  # what is damaged proves nothing
            reason = f"it is damaged ({type(error).__name__}: {error})"[:300]
        yield Verdict(plain(statement.get("name")).replace("<", "?"), said, reason, time.perf_counter() - begin)


def plain(text: object) -> str:
    """Text of a file without what a terminal would obey."""
    return "".join(x if x.isprintable() else "?" for x in str(text)[:1000])


def _prove_layer(statement: Mapping[str, Any], completion: Numbers, arrays: Mapping[str, Numbers]) -> str:
    """Prove a claim about a layer and say what was read and proven."""
    require(set(statement) == KEYS, "it has other entries than a claim about a layer")
    upper, sizes, mode = (statement[key] for key in ("upper", "sizes", "padding_mode"))
    try:
        stored = np.asarray(arrays[statement["tensor"]])
    except LookupError:
        raise Refused(f"the model has no array {plain(statement['tensor'])}") from None
    same = (statement["dtype"], statement["shape"]) == (stored.dtype.name, list(stored.shape))
    require(same and stored.dtype.name in FLOATING, f"the model's array is {stored.dtype.name} {stored.shape}")
    require(statement["sha256"] == digest(stored), "the model's array has other numbers: its digest differs")
    _compare(upper, bound(stored, statement, completion), "its H proves")
    divided = " that the stride divides" if mode == "circular" and max(statement["stride"], default=1) > 1 else ""
    where = f"every input size{divided}" if sizes == "every" else f"the input size {sizes}"
    read = [f"{key} {statement[key]}" for key in sorted(KEYS - {"name", "sizes", "upper", "completion", "exponent"})]
    return f"norm <= {float.fromhex(upper)!r} ({upper}) at {where}, of {', '.join(read)}, by {completion.shape[1]} rows"


def _compare(upper: Any, proven: Fraction, words: str) -> None:
    """Refuse a claim of less than what is proven; it is hexadecimal text."""
    claimed = number(upper)
    if proven > Fraction(claimed):
        raise Refused(f"it claims {claimed!r}, and {words} no less than {at_least(proven)!r}")


def at_least(x: Fraction) -> float:
    """The least float that is not below."""
    near = float(x)
    return near if x <= Fraction(near) else math.nextafter(near, math.inf)


def number(text: Any) -> float:
    """A finite number that is not negative, from hexadecimal text."""
    fits = type(text) is str and re.fullmatch(r"0x[01]\.[0-9a-f]{1,13}p[+-][0-9]{1,4}", text)
    require(fits, "its number is no hexadecimal float that is 0 or more")
    try:
        return float.fromhex(text)
    except OverflowError:
        raise Refused("its number is no finite one") from None


def digest(array: Numbers) -> str:
    """SHA-256 of an array's bits: little-endian, the last axis first."""
    return hashlib.sha256(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()).hexdigest()


# -- the layer ---------------------------------------------------------------------------------------------------------
def wholes(value: Any, count: int, least: int) -> list[int]:
    """So many whole numbers of at least so much."""
    fits = type(value) is list and len(value) == count
    require(fits and all(type(n) is int and least <= n < 2**24 for n in value), f"expected {count} whole numbers")
    return list(value)


class Layer(NamedTuple):
    """A kernel, its first axes those of the claim's outputs and inputs (of a transposed layer the other way round)."""

    kernel: Numbers
    groups: int
    axes: list[tuple[int, int, int, int, int]]  # taps, stride, dilation, padding before and after
    mode: str
    transposed: bool
    sizes: list[int] | None

    @classmethod
    def read(cls, kernel: Numbers, statement: Mapping[str, Any]) -> Layer:
        """The layer that a statement describes."""
        require(2 <= kernel.ndim <= 5 and kernel.size, "a kernel has two axes and up to three of taps, none empty")
        require(statement["layout"] in ("OI", "IO"), "its layout is neither OI nor IO")
        if statement["layout"] == "IO":  # the axes are taps, second, first
            kernel = np.moveaxis(kernel, (-1, -2), (0, 1))
        d = kernel.ndim - 2
        mode, transposed, padding = (statement[key] for key in ("padding_mode", "transposed", "padding"))
        require(mode in MODES and type(transposed) is bool, "its padding mode or direction is not known")
        require(type(padding) is list and len(padding) == d, "it has no padding for each axis")
        pads = [wholes(pair, 2, 0) for pair in padding]
        strides, dilations = (wholes(statement[key], d, 1) for key in ("stride", "dilation"))
        axes = [(k, s, r, p, q) for k, s, r, (p, q) in zip(kernel.shape[2:], strides, dilations, pads, strict=True)]
        (groups,) = wholes([statement["groups"]], 1, 1)
        require(len(kernel) % groups == 0, "its groups do not divide the channels")
        same = mode == "circular" and all(before + after == r * (k - 1) for k, _, r, before, after in axes)
        require(not transposed or mode == "zeros" or same, "a transposed layer is zero-padded, or circular and 'same'")
        sizes = None if statement["sizes"] == "every" else wholes(statement["sizes"], d, 1)
        return cls(kernel, groups, axes, mode, transposed, sizes)

    def by_phases(self) -> Numbers:
        """Kernels (groups, rows, channels, *taps) of stride 1: Lemma 2."""
        counts = [min(s // math.gcd(r, s), k) for k, s, r, *_ in self.axes]
        blocks = _split(self.kernel, counts)
        return blocks.reshape(self.groups, -1, *blocks.shape[1:])

    def copies(self) -> int:
        """The square of what padding lifts the norm by: Lemma 3."""
        if self.mode == "zeros" or self.transposed:
            return 1
        if self.mode == "circular":
            return math.prod(1 + max(-(-(p + q - r * (k - 1)) // s), 0) for k, s, r, p, q in self.axes)
        return math.prod(1 + (min(p, 1) + min(q, 1) if self.mode == "reflect" else p + q) for *_, p, q in self.axes)

    def at_size(self) -> Numbers:
        """Matrices (groups, rows, columns) at the claim's size."""
        (first, second), sizes, reads = self.kernel.shape[:2], list(self.sizes or ()), list[Numbers]()
        for at, (k, s, r, p, q) in enumerate(self.axes):
            if self.transposed:  # the adjoint of a layer whose input is as large as its output
                sizes[at] = sizes[at] * s if self.mode == "circular" else (sizes[at] - 1) * s - p - q + r * (k - 1) + 1
            outputs = (sizes[at] + p + q - r * (k - 1) - 1) // s + 1
            require(sizes[at] > 0 and outputs > 0, "at its size it has no input or no output")
            require(self.mode != "reflect" or max(p, q) < sizes[at], "its padding reflects more pixels than there are")
            require(sizes[at] * outputs < 2**26, "at its size it is too large a matrix")
            position = s * np.arange(outputs)[:, None] + r * np.arange(k) - p
            reads.append(_pixels(position, sizes[at], self.mode))
        count, pixels = math.prod(map(len, reads)), math.prod(sizes)
        require(first * second * count * pixels < 2**26, "at its size it is too large a matrix")
        matrix = np.zeros((count, pixels, first, second))
        for tap in itertools.product(*(range(k) for k, *_ in self.axes)):
            pixel, seen = np.zeros(1, np.int64), np.ones(1, bool)
            for t, n, read in zip(tap, sizes, reads, strict=True):
                pixel = (pixel[:, None] * n + read[:, t]).ravel()
                seen = (seen[:, None] & (read[:, t] >= 0)).ravel()
            at_tap: Any = (slice(None), slice(None), *tap)
            matrix[np.flatnonzero(seen), pixel[seen]] += self.kernel[at_tap]
        blocks = matrix.reshape(count, pixels, self.groups, -1, second).transpose(2, 3, 0, 4, 1)
        return blocks.reshape(self.groups, first // self.groups * count, -1)


def _pixels(position: Numbers, n: int, mode: str) -> Numbers:
    """Which of n pixels is read at positions of the padded input; -1: a zero."""
    if mode == "circular":
        return position % n
    if mode == "reflect":
        return np.asarray(n - 1 - np.abs(n - 1 - np.abs(position)))
    if mode == "replicate":
        return np.clip(position, 0, n - 1)
    return np.where((position >= 0) & (position < n), position, -1)


def _split(kernel: Numbers, counts: Sequence[int]) -> Numbers:
    """A kernel whose taps of so many phases an axis are columns of their own."""
    (first, second, *taps), d = kernel.shape, kernel.ndim - 2
    fewer = [-(-k // b) for k, b in zip(taps, counts, strict=True)]
    require(first * second * math.prod(fewer) * math.prod(counts) < 2**31, "its stride makes so many channels")
    missing = [(0, a * b - k) for a, b, k in zip(fewer, counts, taps, strict=True)]
    # Tap b + counts * a, an axis, becomes axes a and b; then those of b join the channels.
    wide = np.pad(kernel, [(0, 0), (0, 0), *missing])
    wide = wide.reshape(first, second, *itertools.chain(*zip(fewer, counts, strict=True)))
    wide = wide.transpose(0, 1, *range(3, 2 + 2 * d, 2), *range(2, 2 + 2 * d, 2))
    return wide.reshape(first, second * math.prod(counts), *fewer)


def blocks_of(kernel: Numbers, statement: Mapping[str, Any]) -> tuple[Numbers, Fraction]:
    """Kernels (groups, rows, channels, *taps) of stride 1 or their adjoints, no more channels than rows.

    And by how much padding lifts their norm at most.
    """
    layer = Layer.read(kernel, statement)
    blocks = layer.by_phases() if layer.sizes is None else layer.at_size()
    copies = layer.copies() if layer.sizes is None else 1
    narrow = blocks.swapaxes(1, 2) if blocks.shape[2] > blocks.shape[1] else blocks
    return narrow, Fraction(1) if copies == 1 else root_up(Fraction(copies))


# -- the proof ---------------------------------------------------------------------------------------------------------
def bound(stored: Numbers, statement: Mapping[str, Any], completion: Numbers, off: float = 0.0) -> Fraction:
    """What H proves of a layer: a number that its norm is not above, at the sizes that the statement names.

    Entries of the kernel may be ``off`` by that share of them.
    """
    smallest = np.array([1], np.uint32).view(np.float32).astype(np.float64)[0]
    require(smallest == 2.0**-149, "subnormal numbers are taken for zero in this thread, so nothing is proven here")
    kernel, exponent = stored.astype(np.float64), statement["exponent"]
    require(np.isfinite(kernel).all(), "the kernel holds nan or infinity")
    require(type(exponent) is int and abs(exponent) < 1100, "its exponent is no whole number below 1100")
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.ldexp(kernel, exponent)
    whole, h = np.rint(scaled), completion.astype(np.float64)
    require(completion.dtype.str in ("<i2", "<i4"), f"H is {completion.dtype}, not int16 or int32")
    most = max(np.abs(whole).max(initial=0), np.abs(h).max(initial=0))
    require(most <= 2 ** (BITS - 1), f"K or H has more than {BITS} bits")
    layer, lift = blocks_of(whole, statement)
    fits = h.ndim == layer.ndim and (len(h), *h.shape[2:]) == (len(layer), *layer.shape[2:])
    require(fits, f"H is {h.shape}; expected ({len(layer)}, rows, {', '.join(map(str, layer.shape[2:]))})")
    if not kernel.any():
        return Fraction(0)
    left = _left_over(blocks_of(np.abs(scaled - whole) + off * np.abs(scaled), statement)[0], kernel.size)
    squares = _squared(np.concatenate([layer, h], axis=1), int(max(most, np.abs(layer).max())))
    largest = max(root_up(square) + rest for square, rest in zip(squares, left, strict=True))
    return lift * largest / Fraction(2 ** max(exponent, 0), 2 ** max(-exponent, 0))


def root_up(x: Fraction) -> Fraction:
    """A number just above the root."""
    return Fraction(math.isqrt(math.ceil(x * 4**60)) + 1, 2**60)


def _left_over(rest: Numbers, more: int) -> list[Fraction]:
    """Norms of groups of non-negative kernels, at least; each entry is a sum of so many at most.

    Schur's test: the root of the largest sum of a row times that of a column. Below 2**-60 is what underflows.
    """
    flat = rest.reshape(*rest.shape[:3], -1).sum(axis=3)
    rows, columns = flat.sum(axis=2).max(axis=1).tolist(), flat.sum(axis=1).max(axis=1).tolist()
    products = [Fraction(row) * Fraction(column) for row, column in zip(rows, columns, strict=True)]
    return [root_up(product) * _inflation(rest.size + more) + Fraction(1, 2**60) for product in products]


def _inflation(roundings: int) -> Fraction:
    """More than 1/(1 - 2**-53)**roundings, of a sum of non-negative terms each rounded so often."""
    require(roundings < 2**48, "the kernel is too large")
    return 1 + Fraction(roundings + 8, 2**52)


def _squared(a: Numbers, most: int) -> list[Fraction]:
    """The bound of Lemma 1 for each group, from whole numbers (groups, rows, channels, *taps) of at most ``most``."""
    groups, rows, channels, *taps = a.shape
    require(rows * math.prod(taps) * most**2 < 2**62, "so many rows of so many bits")
    a, zero = np.moveaxis(a, 2, -1), (0,) * len(taps)
    shifts, rest = list[int](), np.zeros(groups)
    for lag in itertools.product(*(range(1 - k, k) for k in taps)):
        if lag < zero:  # its matrix is the transposed one of -lag
            continue
        matrix = _lag(a, lag, most)
        if lag == zero:
            shifts = [_shift(one) for one in matrix]
            matrix[:, range(channels), range(channels)] -= np.array(shifts, dtype=np.int64)[:, None]
        norms = np.sqrt((matrix.astype(np.float64) ** 2).sum(axis=(1, 2)))
        rest += norms if lag == zero else 2 * norms
    inflation = _inflation(channels**2 + math.prod(2 * k for k in taps))
    return [v + Fraction(float(x)) * inflation for v, x in zip(shifts, rest, strict=True)]


def _lag(a: Numbers, lag: Sequence[int], most: int) -> Numbers:
    """``sum_x a_x^T a_{x+t}`` for whole numbers (groups, rows, *taps, channels), exactly: (groups, c, c) of int64."""
    groups, channels = a.shape[0], a.shape[-1]
    here = tuple(slice(max(0, -t), k - max(0, t)) for t, k in zip(lag, a.shape[2:-1], strict=True))
    there = tuple(slice(max(0, t), k - max(0, -t)) for t, k in zip(lag, a.shape[2:-1], strict=True))
    first, second = (a[(slice(None), slice(None), *part)].reshape(groups, -1, channels) for part in (here, there))
    total = np.zeros((groups, channels, channels), dtype=np.int64)
    step = (2**53 - 1) // max(most, 1) ** 2  # products at most whose sum is exact
    for at in range(0, first.shape[1], step):
        total += np.matmul(first[:, at : at + step].swapaxes(1, 2), second[:, at : at + step]).astype(np.int64)
    return total


def _shift(matrix: Numbers) -> int:
    """About the best v; the lemma is true of any."""
    c, values = len(matrix), matrix.astype(np.float64)
    mean = values.trace() / c
    spread = np.linalg.norm(values - mean * np.eye(c)) / math.sqrt(max(c * (c - 1), 1))
    return round(float(mean - spread))


# -- the network -------------------------------------------------------------------------------------------------------
class Node(NamedTuple):
    """An operator: its name, inputs and attributes."""

    op: str
    inputs: list[str]
    given: dict[str, Any]


class Link(NamedTuple):
    """V of Lemma 4 between two values of a part, by their numbers; its geometry; whether its padding is not read."""

    start: int
    end: int
    kernel: Numbers
    geometry: dict[str, Any]
    free: bool


class Together(NamedTuple):
    """What proves a part: a kernel, its geometry, whether it is N + I/2, the longest way, and the factor at its end."""

    kernel: Numbers
    geometry: dict[str, Any]
    centred: bool
    depth: int
    lift: Fraction


class Network:
    """An ONNX graph with one input of a given shape; other shapes are inferred, not believed."""

    def __init__(self, content: bytes, input_shape: Any) -> None:
        import onnx

        model = onnx.ModelProto.FromString(content)
        graph = model.graph
        tensors = (*graph.initializer, *(one.t for node in graph.node for one in node.attribute))
        require(not any(one.external_data for one in tensors), "the model has numbers outside of its file")
        self.arrays = constants_of(graph)
        inputs = [one for one in graph.input if one.name not in self.arrays]
        require(len(inputs) == 1, "the model has not one input")
        kind = inputs[0].type.tensor_type.elem_type  # of whole numbers quotients are rounded
        require(kind in REAL, f"the model's input has numbers of kind {kind} of ONNX, not floating ones")
        sizes = inputs[0].type.tensor_type.shape.dim
        for size, n in zip(sizes, wholes(input_shape, len(sizes), 1), strict=True):
            require(size.dim_value in (0, n), "the model's input has another shape")
            size.dim_value = n
        sets = [one.version for one in model.opset_import if one.domain in ("", "ai.onnx")]
        read = len(sets) == 1 and 12 < sets[0] < 29 and not model.functions  # what others mean has not been read
        require(read, "the model has operators of other sets than one from 13 to 28, or functions of its own")
        graph = _inferred(model)
        types = {one.name: one.type.tensor_type for one in (*graph.input, *graph.value_info, *graph.output)}
        shapes = {x: tuple(n.dim_value for n in one.shape.dim) for x, one in types.items() if one.HasField("shape")}
        self.shapes = {name: shape for name, shape in shapes.items() if all(shape)}
        self.start, self.ends = inputs[0].name, [one.name for one in graph.output]
        self.made = {self.start: Node("the input of the graph", [], {})}
        kinds = {name: one.elem_type for name, one in types.items()}
        for node in graph.node:
            op, given = node.op_type, {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
            kind, rank = kinds.get(node.output[0], 9), len(shapes.get(node.output[0], "??"))
            long = kind in REAL | {9} or (kind == 7 and rank < 2)  # 7: of 64 bits, 9: bool or unknown
            long = long and (op != "Cast" or given["to"] in REAL or kinds.get(node.input[0], 7) == 7)
            require(long, f"shapes of onnx are not those of a {op} to or from whole numbers of few bits or many axes")
            others = {key for key, x in given.items() if key not in READ.split() and (key, x) not in ONLY}
            more = (op, len(node.input)) == ("Dropout", 3) or (op == "BatchNormalization" and len(node.output) > 1)
            unread = more or others - ({"auto_pad"} if op == "Conv" else set())  # more: they may say it is trained
            op = (f"{node.domain}." if node.domain else "") + op + (" as it is given" if unread else "")
            for at, name in enumerate(node.output):
                self.made[name] = Node(f"output {at} of {op}" if at and op != "Split" else op, list(node.input), given)

    def constant(self, parts: Sequence[Mapping[str, Any]], completions: Sequence[Numbers]) -> Fraction:
        """A Lipschitz constant of all outputs together.

        Known of a value z: c with |z - z'| <= c |x - x'|, or None; and pairs (q, c) with |q (z - z')| <= c |x - x'|.
        """
        self.known: dict[str, tuple[Fraction | None, list[tuple[Numbers, Fraction]]]]
        self.known = dict.fromkeys(("", *self.arrays), (Fraction(0), [])) | {self.start: (Fraction(1), [])}
        for name, node in self.made.items():
            self.known.setdefault(name, (self._by_rule(name, node), []))
            for part, h in zip(parts, completions, strict=True):
                if part["values"][-1] == name:
                    self._join(part, h)
        unknown = {node.op for name, node in self.made.items() if self.known[name][0] is None}
        known = [end for end in (self.known[name][0] for name in self.ends) if end is not None]
        require(len(known) == len(self.ends), f"nothing is proven beyond one of {', '.join(sorted(unknown))}")
        return known[0] if len(known) == 1 else _root_of_squares(known)

    def _by_rule(self, name: str, node: Node) -> Fraction | None:
        """A value's constant, from those of what it is computed from."""
        moving = [one for one in node.inputs if self.known[one][0] != 0]
        known = [end for end in (self.known[one][0] for one in moving) if end is not None]
        if not moving or (node.op == "Shape" and moving[0] in self.shapes):  # else inputs choose it
            return Fraction(0) if node.op in HELD else None
        alike = name in self.shapes and all(self.shapes.get(one) == self.shapes[name] for one in moving)
        if len(known) < len(moving):
            return None
        if node.op in SUMS and alike:
            return sum(known, Fraction(0))
        if node.op == "Concat" or (node.op in ("Max", "Min") and alike):
            return _root_of_squares(known)
        factor = self._factor(name, node) if moving == node.inputs[:1] else None
        return None if factor is None else known[0] * factor

    def _factor(self, name: str, node: Node) -> Fraction | None:
        """The constant of an operator of one value; None: it has none here."""
        (op, inputs, given), slopes = node, self._slopes_of(node)
        before, after = self.shapes.get(inputs[0], ()), self.shapes.get(name, ())
        if slopes is not None:
            return Fraction(max(map(abs, slopes)))
        if op == "BatchNormalization":
            return Fraction(float(np.abs(self._scales(node)).max())) * (1 + Fraction(1, 2**48))
        if op in ALIKE | NEAR:
            return Fraction(1)
        if op in {*MEANS, "ReduceSum"} and before and after:
            count = Fraction(math.prod(before), math.prod(after))
            return root_up(count if op == "ReduceSum" else 1 / count)
        if op in {"Mul", "Div"} and before == after and before and inputs[1] in self.arrays:
            numbers = np.abs(self.arrays[inputs[1]].astype(np.float64))
            return Fraction(float(numbers.max())) if op == "Mul" else 1 / Fraction(float(numbers.min()))
        fewer = op == "AveragePool" and any(given.get("pads", [])) and not given.get("count_include_pad")
        if op not in POOLS or fewer:
            return None
        taps, ones = given["kernel_shape"], [1] * len(given["kernel_shape"])  # a pixel is in so many windows an axis
        axes = zip(taps, given.get("strides", ones), given.get("dilations", ones), strict=True)
        windows = math.prod(-(-k // (s // math.gcd(s, r))) for k, s, r in axes)
        return root_up(Fraction(windows, math.prod(taps) if op == "AveragePool" else 1))

    def _slopes_of(self, node: Node) -> tuple[float, float] | None:
        """Least and largest slope of a function of each entry."""
        alpha = node.given.get("alpha", 1.0)
        return (min(alpha, 0.0), max(alpha, 1.0)) if node.op in ("LeakyRelu", "Elu") else SLOPES.get(node.op)

    def _scales(self, node: Node) -> Numbers:
        """What batch normalisation multiplies each channel by."""
        weights, _, _, variances = (self.arrays[one].astype(np.float64) for one in node.inputs[1:])
        roots = np.sqrt(variances + node.given.get("epsilon", float(np.float32(1e-5))))
        require(np.isfinite(weights / roots).all() and variances.min() >= 0, "a batch normalisation divides by nothing")
        return _product(weights, 1 / roots)

    def _function(self, name: str) -> tuple[str, tuple[float, float], Fraction]:
        """What a part's value is a function of, entry by entry; its slopes; by how much pooling after it lifts."""
        lift = Fraction(1)
        require(name in self.made, f"a part ends at {plain(name)}, which the graph does not compute")
        while (node := self.made[name]).op in POOLS | MEANS:
            axes = self.arrays[node.inputs[1]] if len(node.inputs) > 1 else node.given.get("axes", [0])
            factor = self._factor(name, node)
            require(factor and (node.op != "ReduceMean" or min(axes) > 1), f"{node.op} stands in a part")
            name, lift = node.inputs[0], lift * Fraction(factor or 1)
        slopes = self._slopes_of(node)
        require(slopes is None or set(node.inputs[1:]) <= {"", *self.arrays}, f"a {node.op} of several values")
        return (name, (1.0, 1.0), lift) if slopes is None else (node.inputs[0], slopes, lift)

    def _links(self, name: str, values: Sequence[str], weights: Sequence[Numbers], rows: Numbers) -> Iterator[Link]:
        """Of a sum of layers, and of values before, times ``rows``: a constant changes no difference."""
        node = self.made.get(name, Node("a constant", [], {}))
        (op, inputs, _), (x, *others) = node, node.inputs or [""]
        if name in values or op in {"Slice", "Pad"}:
            start, channels, steps = self._shortcut(name, values)
            kernel = channels.reshape(*channels.shape, *[1] * len(steps))
            yield self._link(start, values, start, Node("Conv", [], {"strides": steps}), kernel, weights, rows)
        elif op == "BatchNormalization":
            yield from self._links(x, values, weights, _product(rows, self._scales(node)))
        elif op in SUMS | {"Identity", "Dropout"}:
            for at, one in enumerate(inputs):
                if one not in self.arrays:
                    require(self.shapes[one] == self.shapes[name], f"{op} spreads a value of a part")
                    yield from self._links(one, values, weights, -rows if at and op == "Sub" else rows)
        else:
            require(op in LAYERS, f"{op} stands in a part")
            require(set(others) <= {"", *self.arrays}, f"a {op} of several values")
            start = x
            while start not in values:
                before = self.made.get(start, node)
                require(before.op in ALIKE, f"{before.op} stands before a layer of a part")
                start = before.inputs[0]
            yield self._link(start, values, x, node, self.arrays[others[0]], weights, rows)

    def _shortcut(self, name: str, values: Sequence[str]) -> tuple[str, Numbers, list[int]]:
        """Of pixels of a value before, some apart, and channels of constants around: which, channels, steps."""
        if name in values:
            shape = self.shapes[name]
            return name, np.eye(shape[1]), [1] * (len(shape) - 2)
        node = self.made[name]
        start, channels, steps = self._shortcut(node.inputs[0], values)
        require(set(node.inputs[1:]) <= {"", *self.arrays}, f"a {node.op} of several values stands in a part")
        before, after = self.shapes[node.inputs[0]], self.shapes[name]
        constants: list[Any] = [self.arrays.get(one) for one in node.inputs[1:]]
        if node.op == "Pad" and len(constants) < 3:  # all axes
            pads = np.reshape(constants[0], (2, len(before)))
            require(pads.min() >= 0 and pads.sum() == pads[:, 1].sum(), "padding of pixels stands in a part")
            return start, np.pad(channels, (pads[:, 1].tolist(), (0, 0))), steps
        require(node.op == "Slice" and len(constants) == 4, f"such a {node.op} stands in a part")
        for first, axis, step in zip(constants[0], *constants[2:], strict=True):
            fits = first == 0 and step > 0 and (axis > 1 or before[axis] == after[axis])
            require(fits, "such a Slice stands in a part")
            steps = [n * int(step) if at == axis - 2 else n for at, n in enumerate(steps)]
        return start, channels, steps

    def _link(
        self, start: str, values: Sequence[str], reads: str, node: Node, kernel: Numbers, weights: Sequence[Numbers],
        rows: Numbers,
    ) -> Link:  # fmt: skip
        """A layer that reads a value of a part: outputs times rows and multipliers, inputs divided by multipliers."""
        (op, _, given), d, taps, kernel = node, kernel.ndim - 2, [*kernel.shape[2:]], kernel.astype(np.float64)
        require((d == 0 or op[:4] == "Conv") and given.get("kernel_shape", taps) == taps, f"such a {op}")
        if op[:4] != "Conv":
            kernel = _product(kernel if given.get("transB") else kernel.T, np.array(given.get("alpha", 1.0)))
        transposed, g = op == "ConvTranspose", given.get("group", 1)
        read, shape = self.shapes[reads], self.shapes[start]
        require(rows.ndim == 0 or len(read) == kernel.ndim, f"a BatchNormalization of other axes than those of {op}")
        inner, outer = (len(kernel), kernel.shape[1] * g) if transposed else (kernel.shape[1] * g, len(kernel))
        writes, divided = rows * np.ones(outer), np.ones(inner)
        if weights:
            q, after = weights[values.index(start)], weights[len(values)]
            flat = start == values[0] and read == (shape[0], math.prod(shape[1:]))
            fits = (flat or read == shape) and len(read) == kernel.ndim and (len(q), len(after)) == (shape[1], outer)
            require(fits, "multipliers are not one a channel")
            writes, divided = _product(writes, after), 1 / np.repeat(q, inner // len(q))
        found = kernel.reshape(g, len(kernel) // g, kernel.shape[1], -1)
        one, other = (divided, writes) if transposed else (writes, divided)
        found = _product(_product(found, one.reshape(g, -1, 1, 1)), other.reshape(g, 1, -1, 1))
        geometry = {
            "layout": "OI", "stride": given.get("strides", [1] * d), "dilation": given.get("dilations", [1] * d),
            "groups": g, "transposed": transposed, "padding_mode": "zeros", "sizes": list(read[2:]),
            "padding": np.reshape(given.get("pads", [0] * 2 * d), (2, d)).T.tolist(),
        }  # fmt: skip
        free = transposed or given.get("auto_pad", b"NOTSET") != b"NOTSET"  # outputs may be more: output_padding
        return Link(values.index(start), len(values), found.reshape(kernel.shape), geometry, free)

    def together(self, part: Mapping[str, Any]) -> Together:
        """The kernel whose norm proves a part."""
        values, weights = part["values"], _multipliers(part)
        links, slopes, lift = list[Link](), [(1.0, 1.0)], Fraction(1)
        for at in range(1, len(values)):
            require(lift == 1, f"pooling at {plain(values[at - 1])} stands in a part")
            name, slope, lift = self._function(values[at])
            links += self._links(name, values[:at], weights, np.array(1.0))
            slopes.append((min(slope[0], 0.0), max(slope[1], 0.0)))
        require(links, "a part has no layer")
        first = links[0]
        if len(links) == 1:
            own = part["sizes"] == "own"
            require(not (own and first.free), "a part at its size pads by itself, or is transposed")
            require(len(values) == 2, "layers of a part do not fit together")
            geometry = first.geometry if own else {**first.geometry, "sizes": "every"}
            return Together(first.kernel, geometry, False, 1, lift * Fraction(max(map(abs, slopes[1]))))
        steps = {(one.start == 0, *one.geometry["stride"]) for one in links}
        fits = len(steps) == len({s[0] for s in steps}) and all(s[0] or max(s[1:], default=1) == 1 for s in steps)
        fits = fits and len({one[:2] for one in links}) == len(links) and not any(one.free for one in links)
        require(fits, "layers of a part do not fit together")
        chain, depth = all(one.end == one.start + 1 for one in links), [0] * len(values)
        for one in links:
            depth[one.end] = max(depth[one.end], depth[one.start] + 1)
        whole = _hermitian(links, slopes, chain)
        ones = [1] * (whole.ndim - 2)
        geometry = {**first.geometry, "groups": 1, "stride": ones, "dilation": ones, "sizes": "every"}
        return Together(whole, geometry, not chain, depth[-1], lift)

    def _join(self, part: Mapping[str, Any], h: Numbers) -> None:
        """Put what a part proves to what is known of its last value."""
        (start, *_, end), weights, whole = part["values"], _multipliers(part), self.together(part)
        s = bound(whole.kernel, {**whole.geometry, "exponent": part["exponent"]}, h, 2.0**-48)
        s = max(2 * (s - CENTRE) - 1, Fraction(1)) if whole.centred else s
        (least, pairs), (alone, others) = self.known[start], self.known[end]
        first, last = (weights[0], weights[-1]) if weights else (np.ones(1), np.ones(1))
        known = [] if least is None else [least * Fraction(float(first.max()))]
        fit, more = [(q, c) for q, c in pairs if len(q) == len(first)], 1 + Fraction(1, 2**50)
        known += [c * Fraction(float((first / q).max())) * more for q, c in fit]
        require(known, f"a part begins at {plain(start)}, of which nothing is known")
        found = min(known) * s**whole.depth * whole.lift
        total = min(x for x in (found / Fraction(float(last.min())), alone) if x is not None)
        self.known[end] = (total, [*others, *([(last, found)] if weights else [])])


def _hermitian(links: Sequence[Link], slopes: Sequence[tuple[float, float]], chain: bool) -> Numbers:
    """N + I/2 of Lemma 4, its places i, and -i for i'; of a chain T, its taps in the middle."""
    edges, sizes = list[tuple[int, int, Numbers, list[int]]](), dict[int, int]()
    for one in links:
        kernel, place = _on_grid(one)
        place = [-(k // 2) for k in kernel.shape[2:]] if chain else place
        (low, high), last = slopes[one.end], one.end == len(slopes) - 1
        sizes.setdefault(one.start, kernel.shape[1])
        slope, curved = max(-low, high) if last else (low + high) / 2, math.sqrt(-low * high)
        edges.append((one.start, one.end, slope * kernel, place))
        sizes[one.end] = len(kernel)
        if curved and not last:
            edges.append((one.start, -one.end, curved * kernel, place))
            sizes[-one.end] = len(kernel)
    require(len({len(place) for *_, place in edges}) == 1, "layers of a part do not fit together")
    stops = dict(zip(sizes, itertools.accumulate(sizes.values()), strict=True))
    at = {vertex: slice(stop - sizes[vertex], stop) for vertex, stop in stops.items()}
    reach = [0] * len(edges[0][3])
    for *_, kernel, place in edges:
        reach = [max(r, -p, p + k - 1) for r, p, k in zip(reach, place, kernel.shape[2:], strict=True)]
    whole = np.zeros((sum(sizes.values()),) * 2 + tuple(2 * r + 1 for r in reach))
    for a, b, kernel, place in edges:
        require(kernel.shape[:2] == (sizes[b], sizes[a]), "layers of a part do not fit together")
        taps = [slice(r + p, r + p + k) for r, p, k in zip(reach, place, kernel.shape[2:], strict=True)]
        whole[(at[b], at[a], *taps)] = kernel
        flipped = np.flip(whole, tuple(range(2, whole.ndim)))  # place t is place -t of this view
        flipped[(at[a], at[b], *taps)] = kernel.swapaxes(0, 1)
    if chain:
        odd = np.concatenate([np.full(size, vertex % 2, bool) for vertex, size in sizes.items()])
        return np.asarray(whole[odd][:, ~odd])
    every: Any = (np.arange(len(whole)), np.arange(len(whole)), *reach)
    whole[every] += float(CENTRE)
    return whole


def _on_grid(link: Link) -> tuple[Numbers, list[int]]:
    """A link's kernel of stride 1 without groups, zeros between them and its taps, and its first tap's place."""
    (first, second, *taps), g = link.kernel.shape, link.geometry["groups"]
    strides, dilations, pads = (link.geometry[key] for key in ("stride", "dilation", "padding"))
    fronts = [-p % s for (p, _), s in zip(pads, strides, strict=True)]
    at = [slice(f, f + r * (k - 1) + 1, r) for f, r, k in zip(fronts, dilations, taps, strict=True)]
    whole = np.zeros((g, first // g, g, second, *(one.stop for one in at)))
    inside: Any = (np.arange(g), slice(None), np.arange(g), slice(None), *at)
    whole[inside] = link.kernel.reshape(g, first // g, second, *taps)
    places = [-(p + f) // s for (p, _), f, s in zip(pads, fronts, strides, strict=True)]
    return _split(whole.reshape(first, g * second, *whole.shape[4:]), strides), places


def _multipliers(part: Mapping[str, Any]) -> list[Numbers]:
    """Of each value of a part; none for a layer by itself, as it is."""
    count, weights = len(part["values"]), [np.array([number(text) for text in texts]) for texts in part["weights"]]
    fits = type(part["values"]) is list and count > 1 and (len(weights) == count or (count == 2 and not weights))
    require(fits, "a part has not multipliers for each value")
    require(all(((q > 2.0**-99) & (q < 2.0**99)).all() for q in weights), "a multiplier is 0, or close to it or beyond")
    return weights


def _product(a: Numbers, b: Numbers) -> Numbers:
    found = a * b
    require(((np.abs(found) > 2.0**-800) | (a == 0) | (b == 0)).all(), "numbers so small that products are inexact")
    return np.asarray(found)


def _root_of_squares(numbers: Sequence[Fraction]) -> Fraction:
    return root_up(sum((x**2 for x in numbers), Fraction(0)))


def _inferred(model: Any) -> Any:
    """A model's graph with shapes."""
    import onnx

    del model.graph.value_info[:]
    try:
        onnx.checker.check_model(model)
        for one in model.graph.output:
            one.type.tensor_type.ClearField("shape")
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except Exception as error:  # of many kinds
        raise Refused(f"onnx finds fault with the model: {error}"[:300]) from None


def _prove_network(statement: Mapping[str, Any], completions: Sequence[Numbers], content: bytes) -> str:
    """Prove a claim about a network and say what was read and proven."""
    fits = set(statement) == {"name", "sha256", "input_shape", "upper", "parts"}
    require(fits, "it has other entries than a claim about a network")
    require(content, "a claim about a network needs the .onnx file that it is about")
    require(statement["sha256"] == hashlib.sha256(content).hexdigest(), "the model's file is another one")
    parts, upper, shape = (statement[key] for key in ("parts", "upper", "input_shape"))
    require(all(set(part) == PART for part in parts), "a part has other entries than those of a part")
    network = Network(content, shape)
    _compare(upper, network.constant(parts, completions), "its parts prove")
    ops = [node.op for node in network.made.values()][1:]
    read = ", ".join(f"{ops.count(op)} {op}" for op in dict.fromkeys(ops))
    said = f"Lipschitz constant <= {float.fromhex(upper)!r} ({upper}) of the input {'x'.join(map(str, shape))}"
    most = max((len(part["values"]) - 1 for part in parts), default=0)
    return f"{said}, by {len(parts)} parts of {most} layers at most, of {read}, {statement['sha256'][:16]}"


# -- files -------------------------------------------------------------------------------------------------------------
def read_certificate(path: str | Path) -> list[Claim]:
    """Claims of a file, or `Refused`: nothing in it is believed, and none of it is executed."""
    arrays = _archive(Path(path))
    said = arrays.pop("claims", np.empty(0))
    require(said.dtype == np.uint8 and said.size < 2**26, "the file has no claims: it is no certificate")
    try:
        told = json.loads(said.tobytes().decode(), object_pairs_hook=_entries, parse_float=_no, parse_constant=_no)
    except (ValueError, RecursionError) as error:
        raise Refused(f"its claims cannot be read ({error})"[:200]) from None
    fits = type(told) is dict and set(told) == {"specnorm_certificate", "claims"}
    require(fits and told["specnorm_certificate"] == VERSION, f"it is of another format than {VERSION}: make it anew")
    claims, found = told["claims"], list[Claim]()
    require(type(claims) is list and claims and all(type(x) is dict for x in claims), "it is no list of claims")
    for claim in claims:
        parts = claim.get("parts", [claim])
        require(type(parts) is list and all(type(part) is dict for part in parts), "it is no list of parts")
        names = [part.get("completion") for part in parts]
        require(all(type(x) is str and x in arrays for x in names), "its arrays are not one H for each claim")
        completions = [arrays.pop(name) for name in names]
        found.append(Claim(claim, completions if "parts" in claim else completions[0]))
    require(not arrays, "its arrays are not one H for each claim")
    return found


def _entries(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    require(len(dict(pairs)) == len(pairs), "an entry of its claims is repeated")
    return dict(pairs)


def _no(text: str) -> None:
    raise Refused(f"{plain(text)[:20]} is no whole number; others are hexadecimal")


def _archive(path: Path) -> dict[str, Numbers]:
    """Arrays of a NumPy archive; objects are never unpickled, and no more is unpacked than the archive promises."""
    require(path.is_file(), f"{path.name}: there is no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        names = [one.filename for one in members]
        require(len(set(names)) == len(names), "a name in the archive is repeated")
        require(sum(one.file_size for one in members) <= LONGEST, f"its arrays unpack to more than {LONGEST} bytes")
        with np.load(path, allow_pickle=False) as found:
            arrays = dict(found)
    except Refused:
        raise
    except Exception as error:  # BadZipFile, zlib.error, MemoryError, OSError: whatever damage meets
        raise Refused(f"{path.name} cannot be read ({type(error).__name__}: {error})"[:300]) from None
    strangers = [name for name in names if not name.endswith(".npy")]
    require(not strangers, f"{plain(strangers[:1])} in it is no array")
    return arrays


def read_model(path: str | Path) -> Mapping[str, Numbers]:
    """The arrays of a model's file by their names: .npz, .safetensors or .onnx."""
    path = Path(path)
    require(path.suffix in MODELS, f"{path.name}: expected a model in {', '.join(MODELS)}")
    require(path.is_file(), f"{path.name}: there is no such file")
    try:
        if path.suffix == ".npz":
            return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]  # each array when it is asked for
        if path.suffix == ".safetensors":
            return _safetensors(path)
        import onnx

        return constants_of(onnx.load(path).graph)
    except Exception as error:
        raise Refused(f"{path.name} cannot be read ({type(error).__name__}: {error})"[:300]) from None


def _safetensors(path: Path) -> Mapping[str, Numbers]:
    import safetensors

    dtypes, found = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2"}, dict[str, Numbers]()
    for name, told in safetensors.deserialize(path.read_bytes()):  # type: ignore[no-untyped-call]
        if told["dtype"] in dtypes:
            array = np.frombuffer(told["data"], dtypes[told["dtype"]]).reshape(told["shape"])
            half = told["dtype"] == "BF16"  # the first half of a float32
            found[name] = (array.astype(np.uint32) << np.uint32(16)).view(np.float32) if half else array
    return found


def constants_of(graph: Any) -> dict[str, Numbers]:
    """Of an ONNX graph, by their names."""
    from onnx import helper, numpy_helper

    found = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and not node.domain and len(node.attribute) == 1:
            value = helper.get_attribute_value(node.attribute[0])
            found[node.output[0]] = numpy_helper.to_array(value) if hasattr(value, "raw_data") else np.asarray(value)
    return {name: a.astype(np.float32) if a.dtype.name == "bfloat16" else a for name, a in found.items()}


def main(words: Sequence[str] | None = None) -> int:
    """The command: 0 if every claim is proven, 1 if one is not, 2 if a file cannot be read."""
    parser = argparse.ArgumentParser(prog="specnorm_check", description="Prove the claims of a certificate.")
    parser.add_argument("certificate", help="FILE.npz")
    parser.add_argument("model", type=Path, help=".npz, .safetensors or .onnx")
    given = parser.parse_args(words)
    try:
        claims, arrays = read_certificate(given.certificate), read_model(given.model)
    except Refused as error:
        print(f"specnorm_check: {error}", file=sys.stderr)
        return 2
    failed, content = 0, given.model.read_bytes() if given.model.suffix == ".onnx" else b""
    for verdict in check(claims, arrays, content):
        failed += bool(verdict.reason)
        print(verdict, flush=True)
    print(f"{len(claims) - failed} of {len(claims)} claims are proven.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
