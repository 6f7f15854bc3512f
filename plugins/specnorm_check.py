"""Check a certificate of specnorm without any of its code: python -m specnorm_check FILE.npz MODEL.

A certificate claims that norms of convolution layers are at most some numbers. This file needs Python and NumPy (and
safetensors or onnx to read a model in these formats); copy it and read it. Exit code 0: every claim is proven; 1: one
is not, and which; 2: a file cannot be read. Claims about networks are proven by specnorm_check_networks.py beside it.

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
gives e outputs more than there are pixels (over the stride) repeats an output at most 1 + e times.

LEMMA 4. At one input size a layer is a matrix: output i reads at tap t the pixel s i + r t - p of each axis, or what
the padding puts there. So it is a kernel without taps, for Lemma 1. Where at most m outputs read one pixel by the same
tap, the layer of that tap alone has at most sqrt(m) times the tap's norm.

ARITHMETIC. H is whole numbers of at most 20 bits over 2^e. K is rounded to such numbers, and the sum of the Frobenius
norms of what that leaves is added to the bound. Sums of products of whole numbers are exact in float64 as long as they
stay below 2^53, in any order; longer sums are added as 64-bit integers. The rest are sums of non-negative floats, each
inflated by more than its roundings, and Python's fractions.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import itertools
import json
import math
import re
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

VERSION = 4
"""Of the format."""
BITS = 20
"""Of a number of H, its sign included."""
LONGEST = 2**32
"""Bytes of a certificate's arrays together."""
MODES = ("zeros", "circular", "reflect", "replicate")
KEYS = {
    "name", "tensor", "dtype", "shape", "layout", "sha256", "stride", "dilation", "groups", "transposed",
    "padding_mode", "padding", "sizes", "upper", "completion", "exponent",
}  # fmt: skip
FLOATING = ("float16", "float32", "float64")

Numbers = NDArray[Any]


class Refused(Exception):
    """Why a claim is not proven, or a file is not read."""


class Claim(NamedTuple):
    """What a certificate says of a layer, with the entries `KEYS`, and H times 2**exponent, which proves it."""

    statement: dict[str, Any]
    completion: Any


@dataclass(frozen=True)
class Verdict:
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
            if "parts" in statement:  # a network, by the file beside this one
                said = importlib.import_module("specnorm_check_networks").proven(statement, completion, content)
            else:
                said = _proven(statement, completion, arrays)
        except Refused as error:
            reason = str(error)
        except Exception as error:  # what is damaged proves nothing
            reason = f"it is damaged ({type(error).__name__}: {error})"[:300]
        yield Verdict(plain(statement.get("name")), said, reason, time.perf_counter() - begin)


def plain(text: object) -> str:
    """Text of a file without what a terminal would obey."""
    return "".join(x if x.isprintable() else "?" for x in str(text)[:1000])


def _proven(statement: Mapping[str, Any], completion: Numbers, arrays: Mapping[str, Numbers]) -> str:
    """Prove one claim and say what was read and proven."""
    require(set(statement) == KEYS, "it has other entries than a claim about a layer")
    claimed = number(statement["upper"])
    try:
        stored = np.asarray(arrays[statement["tensor"]])
    except LookupError:
        raise Refused(f"the model has no array {plain(statement['tensor'])}") from None
    same = (statement["dtype"], statement["shape"]) == (stored.dtype.name, list(stored.shape))
    require(same and stored.dtype.name in FLOATING, f"the model's array is {stored.dtype.name} {stored.shape}")
    require(statement["sha256"] == digest(stored), "the model's array has other numbers: its digest differs")
    proven = bound(stored, statement, completion)
    if proven > Fraction(claimed):
        raise Refused(f"it claims {claimed!r}, and its H proves no less than {at_least(proven)!r}")
    return _in_words(statement, stored.shape, completion)


def _in_words(statement: Mapping[str, Any], shape: Sequence[int], completion: Numbers) -> str:
    """What was read and is proven."""
    upper, digits = statement["upper"], int(np.abs(completion.astype(np.int64)).max(initial=0)).bit_length()
    sizes = "every input size" + (" that the stride divides" if statement["sizes"] == "divided" else "")
    if type(statement["sizes"]) is list:
        sizes = f"the input size {'x'.join(map(str, statement['sizes']))}"
    kernel = f"{statement['dtype']} {'x'.join(map(str, shape))} {statement['layout']}"
    said = [f"norm <= {float.fromhex(upper)!r} ({upper}) at {sizes}", f"kernel {kernel} {statement['sha256'][:16]}"]
    said += ["transposed"] if statement["transposed"] else []
    said += [f"{key} {statement[key]}" for key in ("stride", "dilation", "groups") if _unlike_one(statement[key])]
    said += [f"padding {statement['padding_mode']} {statement['padding']}"] if statement["padding"] else []
    return ", ".join([*said, f"by {completion.shape[1]} rows of {digits + 1} bits"])


def _unlike_one(value: Any) -> bool:
    return bool(np.any(np.asarray(value) != 1))


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


def phases_of(kernel: Numbers, statement: Mapping[str, Any]) -> Numbers:
    """Kernels (groups, rows, channels, *taps) of stride 1: Lemma 2."""
    require(2 <= kernel.ndim <= 5 and kernel.size, "a kernel has two axes and up to three of taps, none empty")
    require(statement["layout"] in ("OI", "IO"), "its layout is neither OI nor IO")
    if statement["layout"] == "IO":  # the axes are taps, second, first
        kernel = np.moveaxis(kernel, (-1, -2), (0, 1))
    (first, second, *taps), d = kernel.shape, kernel.ndim - 2
    (groups,) = wholes([statement["groups"]], 1, 1)
    strides, dilations = (wholes(statement[key], d, 1) for key in ("stride", "dilation"))
    require(first % groups == 0, "its groups do not divide the channels")
    phases = [min(s // math.gcd(r, s), k) for s, r, k in zip(strides, dilations, taps, strict=True)]
    fewer = [-(-k // b) for k, b in zip(taps, phases, strict=True)]
    require(first * second * math.prod(fewer) * math.prod(phases) < 2**31, "its stride makes so many channels")
    missing = [(0, a * b - k) for a, b, k in zip(fewer, phases, taps, strict=True)]
    # Tap b + phases * a, an axis, becomes axes a and b; then those of b join the channels.
    split = itertools.chain(*zip(fewer, phases, strict=True))
    wide = np.pad(kernel, [(0, 0), (0, 0), *missing]).reshape(groups, first // groups, second, *split)
    wide = wide.transpose(0, 1, 2, *range(4, 3 + 2 * d, 2), *range(3, 3 + 2 * d, 2))
    return wide.reshape(groups, first // groups, second * math.prod(phases), *fewer)


def blocks_of(kernel: Numbers, statement: Mapping[str, Any]) -> Numbers:
    """The same, or their adjoints: as many channels as rows at most."""
    return _narrow(phases_of(kernel, statement))


def _narrow(blocks: Numbers) -> Numbers:
    return blocks.swapaxes(1, 2) if blocks.shape[2] > blocks.shape[1] else blocks


def matrices_of(kernel: Numbers, statement: Mapping[str, Any]) -> tuple[Numbers, int]:
    """Lemma 4: matrices (groups, rows, columns) at the claim's size, no more columns than rows; m of the lemma."""
    if statement["layout"] == "IO":
        kernel = np.moveaxis(kernel, (-1, -2), (0, 1))
    (first, second, *taps), d = kernel.shape, kernel.ndim - 2
    groups, mode, transposed = statement["groups"], statement["padding_mode"], statement["transposed"]
    require(mode in MODES and type(transposed) is bool, "its padding mode or direction is not known")
    require(type(statement["padding"]) is list and len(statement["padding"]) == d, "it has no padding for each axis")
    pads = [wholes(pair, 2, 0) for pair in statement["padding"]]
    strides, dilations = (wholes(statement[key], d, 1) for key in ("stride", "dilation"))
    sizes, reach = wholes(statement["sizes"], d, 1), [r * (k - 1) for r, k in zip(dilations, taps, strict=True)]
    if transposed:  # the adjoint of a layer whose input is as large as its output
        same = mode == "circular" and [sum(pair) for pair in pads] == reach
        require(same or mode == "zeros", "a transposed layer is zero-padded, or circular and 'same'")
        sizes = [
            n * s if mode == "circular" else (n - 1) * s - sum(pair) + e + 1
            for n, s, pair, e in zip(sizes, strides, pads, reach, strict=True)
        ]
    outputs = [(n + sum(pair) - e - 1) // s + 1 for n, pair, e, s in zip(sizes, pads, reach, strides, strict=True)]
    require(min([*sizes, *outputs], default=1) > 0, "at its size it has no input or no output")
    require(first * second * math.prod(outputs) * math.prod(sizes) < 2**26, "at its size it is too large a matrix")
    matrix, most = np.zeros((math.prod(outputs), math.prod(sizes), groups, first // groups, second)), 1
    for tap in itertools.product(*map(range, taps)):
        pixel, seen = np.zeros(1, np.int64), np.ones(1, bool)
        for t, n, many, s, r, (before, _) in zip(tap, sizes, outputs, strides, dilations, pads, strict=True):
            read = _pixels(s * np.arange(many) + r * t - before, n, mode)
            pixel, seen = (pixel[:, None] * n + read).ravel(), (seen[:, None] & (read >= 0)).ravel()
        at: Any = (slice(None), slice(None), *tap)
        matrix[np.flatnonzero(seen), pixel[seen]] += kernel[at].reshape(groups, first // groups, second)
        most = max(most, int(np.bincount(pixel[seen], minlength=1).max()))
    blocks = matrix.transpose(2, 3, 0, 4, 1).reshape(groups, first // groups * len(matrix), -1)
    return _narrow(blocks), most


def _pixels(position: Numbers, n: int, mode: str) -> Numbers:
    """Which of n pixels is read at positions of the padded input; -1: a zero."""
    if mode == "circular":
        return position % n
    if mode == "replicate":
        return np.clip(position, 0, n - 1)
    inside = (position >= 0) & (position < n)
    if mode == "zeros":
        return np.where(inside, position, -1)
    mirrored = np.where(inside, position, np.where(position < 0, -position, 2 * (n - 1) - position))
    require(np.all((mirrored >= 0) & (mirrored < n)), "its padding reflects more pixels than there are")
    return mirrored


def copies_of(taps: Sequence[int], statement: Mapping[str, Any]) -> int:
    """The square of what padding lifts the norm by: Lemma 3; refused where the claim's sizes are too many."""
    mode, transposed, d = statement["padding_mode"], statement["transposed"], len(taps)
    require(mode in MODES and type(transposed) is bool, "its padding mode or direction is not known")
    require(type(statement["padding"]) is list and len(statement["padding"]) == d, "it has no padding for each axis")
    pads = [wholes(pair, 2, 0) for pair in statement["padding"]]
    strides, dilations = (wholes(statement[key], d, 1) for key in ("stride", "dilation"))
    more = [sum(pair) - r * (k - 1) for pair, r, k in zip(pads, dilations, taps, strict=True)]
    divided = (
        mode == "circular"
        and not transposed
        and any(s > 1 and sum(pair) > 0 for s, pair in zip(strides, pads, strict=True))
    )
    require(
        statement["sizes"] == "divided" or (statement["sizes"] == "every" and not divided),
        "it is not about every size, or every one that the stride divides; circular with a stride the latter is needed",
    )
    if mode == "zeros":
        return 1
    if transposed:
        require(mode == "circular" and not any(more), "a transposed layer is zero-padded, or circular and 'same'")
        return 1
    if mode == "circular":
        return math.prod(1 + max(-(-e // s), 0) for e, s in zip(more, strides, strict=True))
    return math.prod(1 + sum(min(n, 1) if mode == "reflect" else n for n in pair) for pair in pads)


# -- the proof ---------------------------------------------------------------------------------------------------------
def bound(stored: Numbers, statement: Mapping[str, Any], completion: Numbers, off: float = 0.0) -> Fraction:
    """What H proves of a layer: a number that its norm is not above, at the sizes that the statement names.

    Entries of the kernel may be ``off`` by that share of them.
    """
    smallest = np.array([1], np.uint32).view(np.float32).astype(np.float64)[0]
    require(smallest == 2.0**-149, "subnormal numbers are taken for zero in this thread, so nothing is proven here")
    kernel = stored.astype(np.float64)
    require(np.isfinite(kernel).all(), "the kernel holds nan or infinity")
    blocks = blocks_of(kernel, statement)
    exponent, at_size = statement["exponent"], type(statement["sizes"]) is list
    require(type(exponent) is int and abs(exponent) < 1100, "its exponent is no whole number below 1100")
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.ldexp(blocks, exponent)
        layer = np.rint(scaled)
        if at_size:
            layer, copies = matrices_of(np.rint(np.ldexp(kernel, exponent)), statement)
        else:
            copies = copies_of(stored.shape[:-2] if statement["layout"] == "IO" else stored.shape[2:], statement)
    groups, _, channels, *taps = layer.shape
    h_shape = completion.shape
    require(completion.dtype.name in ("int16", "int32"), f"H is {completion.dtype}, not int16 or int32")
    fits = len(h_shape) == layer.ndim and (h_shape[0], *h_shape[2:]) == (groups, channels, *taps)
    require(fits, f"H is {h_shape}; expected ({groups}, rows, {', '.join(map(str, (channels, *taps)))})")
    if not blocks.any():
        return Fraction(0)
    whole, h = np.rint(scaled), completion.astype(np.float64)
    most = max(np.abs(whole).max(), np.abs(h).max(initial=0))
    require(most <= 2 ** (BITS - 1), f"K or H has more than {BITS} bits")
    lift = Fraction(1) if copies == 1 else root_up(Fraction(copies))
    left = [lift * rest for rest in _left_over(np.abs(scaled - whole) + off * np.abs(scaled))]
    squares = _squared(np.concatenate([layer, h], axis=1), int(max(most, np.abs(layer).max())))
    roots = [root_up(square) * (1 if at_size else lift) for square in squares]
    largest = max(root + rest for root, rest in zip(roots, left, strict=True))
    return largest / (Fraction(2**exponent) if exponent >= 0 else Fraction(1, 2**-exponent))


def root_up(x: Fraction) -> Fraction:
    """A number just above the root."""
    return Fraction(math.isqrt(math.ceil(x * 4**60)) + 1, 2**60)


def _left_over(rest: Numbers) -> list[Fraction]:
    """Of each group the sum of the norms of taps, at least; below 2**-60 are what underflows, and squares of it."""
    groups, rows, channels, *taps = rest.shape
    flat = rest.reshape(groups, rows * channels, math.prod(taps))
    sums = np.sqrt((flat**2).sum(axis=1)).sum(axis=1)
    return [Fraction(float(x)) * _inflation(flat.size) + Fraction(math.prod(taps), 2**60) for x in sums]


def _inflation(roundings: int) -> Fraction:
    """More than 1/(1 - 2**-53)**roundings, of a sum of non-negative terms each rounded so often."""
    require(roundings < 2**48, "the kernel is too large")
    return 1 + Fraction(roundings + 8, 2**52)


def _squared(a: Numbers, most: int) -> list[Fraction]:
    """The bound of Lemma 1 for each group, from whole numbers (groups, rows, channels, *taps) of at most ``most``."""
    groups, rows, channels, *taps = a.shape
    require(rows * math.prod(taps) * most**2 < 2**62, "so many rows of so many bits")
    a = np.moveaxis(a, 2, -1)
    zero = (0,) * len(taps)
    shifts: list[int] = []
    rest = np.zeros(groups)
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
    if c == 1:
        return int(matrix[0, 0])
    return round(float(mean - np.linalg.norm(values - mean * np.eye(c)) / math.sqrt(c * (c - 1))))


# -- files -------------------------------------------------------------------------------------------------------------
def read_certificate(path: str | Path) -> list[Claim]:
    """Claims of a file, or `Refused`: nothing in it is believed, and none of it is executed."""
    arrays = read_npz(path, {"|u1": "uint8", "<i2": "int16", "<i4": "int32"}, LONGEST)
    said = arrays.pop("claims", np.empty(0))
    require(said.dtype == np.uint8 and said.size < 2**26, "the file has no claims: it is no certificate")
    try:
        told = json.loads(said.tobytes().decode("utf-8"), object_pairs_hook=_entries, **_WHOLE)
    except (ValueError, RecursionError) as error:
        raise Refused(f"its claims cannot be read ({error})"[:200]) from None
    fits = type(told) is dict and set(told) == {"specnorm_certificate", "claims"}
    require(fits and told["specnorm_certificate"] == VERSION, f"it is of another format than {VERSION}: make it anew")
    claims = told["claims"]
    require(type(claims) is list and claims and all(type(x) is dict for x in claims), "it is no list of claims")
    names = [one.get("completion") for claim in claims for one in _proved(claim)]
    require(all(type(x) is str for x in names), "a claim names no H")
    require(len(set(names)) == len(names) and set(names) == set(arrays), "its arrays are not one H for each claim")
    found = [[arrays[one["completion"]] for one in _proved(claim)] for claim in claims]
    return [Claim(claim, h if "parts" in claim else h[0]) for claim, h in zip(claims, found, strict=True)]


def _proved(claim: dict[str, Any]) -> list[dict[str, Any]]:
    """What of a claim an H belongs to."""
    parts: list[dict[str, Any]] = claim.get("parts", [claim])
    require(type(parts) is list and all(type(part) is dict for part in parts), "it is no list of parts")
    return parts


def _entries(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    require(len(dict(pairs)) == len(pairs), "an entry of its claims is repeated")
    return dict(pairs)


def _whole(text: str) -> int:
    require(re.fullmatch(r"-?[0-9]{1,16}", text), f"{plain(text)[:20]} is no whole number; others are hexadecimal")
    return int(text)


_WHOLE: dict[str, Any] = dict.fromkeys(("parse_float", "parse_constant", "parse_int"), _whole)


def dumps(claims: Sequence[Claim]) -> bytes:
    """The file of a certificate."""
    said, arrays, file = deepcopy([statement for statement, _ in claims]), dict[str, Any](), io.BytesIO()
    for statement, (_, completion) in zip(said, claims, strict=True):
        for one, h in zip(_proved(statement), completion if "parts" in statement else [completion], strict=True):
            one["completion"] = f"H{len(arrays)}"
            arrays[one["completion"]] = h
    text = json.dumps({"specnorm_certificate": VERSION, "claims": said}, allow_nan=False).encode()
    np.savez(file, claims=np.frombuffer(text, np.uint8), **arrays)
    return file.getvalue()


def read_npz(path: str | Path, dtypes: Mapping[str, str], longest: int, others: bool = False) -> dict[str, Numbers]:
    """Arrays of a NumPy archive; objects are never unpickled, and no more is unpacked than the archive promises.

    Parameters
    ----------
    dtypes : mapping
        Those that are read, as NumPy writes them.
    longest : int
        Bytes of all arrays together.
    others : bool
        Leave out arrays of other dtypes, where they are refused else.
    """
    found: dict[str, Numbers] = {}
    require(Path(path).is_file(), f"{Path(path).name}: there is no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [one.filename for one in members]
            require(len(set(names)) == len(names), "a name in the archive is repeated")
            require(sum(one.file_size for one in members) <= longest, f"its arrays unpack to more than {longest} bytes")
            for one in members:
                require(one.filename.endswith(".npy"), f"{plain(one.filename)} in it is no array")
                array = _array_of(archive.read(one), dtypes, plain(one.filename), others)
                if array is not None:
                    found[one.filename.removesuffix(".npy")] = array
    except Refused:
        raise
    except Exception as error:  # BadZipFile, zlib.error, MemoryError, OSError: whatever damage meets
        raise Refused(f"{Path(path).name} cannot be read ({type(error).__name__}: {error})"[:300]) from None
    return found


def _array_of(content: bytes, dtypes: Mapping[str, str], name: str, others: bool) -> Numbers | None:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    require(version == (1, 0), f"{name} is of another version of NumPy's format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=10000)
    if dtype.str not in dtypes:
        require(others, f"{name} holds {dtype}; expected one of {', '.join(dtypes.values())}")
        return None
    size = math.prod(shape) * dtype.itemsize
    fits = all(0 <= n < 2**40 for n in shape) and size == len(content) - file.tell()
    require(fits, f"{name} has not as many numbers as it says")
    array = np.frombuffer(content, dtype=dtype, offset=file.tell())
    return array.reshape(shape, order="F" if fortran else "C")


def read_model(path: str | Path) -> dict[str, Numbers]:
    """The arrays of a model's file by their names: .npz, .safetensors or .onnx."""
    readers: dict[str, Callable[[Path], dict[str, Numbers]]] = {
        ".npz": lambda one: read_npz(one, {"<f2": "", "<f4": "", "<f8": ""}, 2**36, others=True),
        ".safetensors": _safetensors,
        ".onnx": _onnx,
    }
    path = Path(path)
    require(path.suffix in readers, f"{path.name}: expected a model in .npz, .safetensors or .onnx")
    try:
        return readers[path.suffix](path)
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"{path.name} cannot be read ({type(error).__name__}: {error})"[:300]) from None


def _safetensors(path: Path) -> dict[str, Numbers]:
    import safetensors

    dtypes, found = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2"}, {}
    deserialize: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = safetensors.deserialize
    for name, told in deserialize(path.read_bytes()):
        if told["dtype"] in dtypes:
            array = np.frombuffer(told["data"], dtypes[told["dtype"]]).reshape(told["shape"])
            found[name] = _in_float32(array) if told["dtype"] == "BF16" else array
    return found


def _in_float32(bits: Numbers) -> Numbers:
    """The same numbers, exactly: a bfloat16 is the first half of a float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _onnx(path: Path) -> dict[str, Numbers]:
    import onnx

    return constants_of(onnx.load(path).graph)


def constants_of(graph: Any) -> dict[str, Numbers]:
    """Of an ONNX graph, by their names."""
    from onnx import helper, numpy_helper

    found = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and not node.domain:
            value = helper.get_attribute_value(node.attribute[0])
            found[node.output[0]] = numpy_helper.to_array(value) if hasattr(value, "raw_data") else np.asarray(value)
    return {name: a.astype(np.float32) if a.dtype.name == "bfloat16" else a for name, a in found.items()}


def main(words: Sequence[str] | None = None) -> int:
    """The command: 0 if every claim is proven, 1 if one is not, 2 if a file cannot be read."""
    parser = argparse.ArgumentParser(prog="specnorm_check", description="Prove the claims of a certificate.")
    parser.add_argument("certificate", help="FILE.npz")
    parser.add_argument("model", help=".npz, .safetensors or .onnx")
    given = parser.parse_args(words)
    try:
        claims, arrays = read_certificate(given.certificate), read_model(given.model)
    except Refused as error:
        print(f"specnorm_check: {error}", file=sys.stderr)
        return 2
    failed = 0
    content = Path(given.model).read_bytes() if given.model.endswith(".onnx") else b""
    for verdict in check(claims, arrays, content):
        failed += bool(verdict.reason)
        print(verdict, flush=True)
    print(f"{len(claims) - failed} of {len(claims)} claims are proven.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.modules["specnorm_check"] = sys.modules["__main__"]  # for the file beside this one
    sys.exit(main())
