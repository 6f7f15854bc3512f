"""What a certificate states: records of its parts; layers, which Lemmas 1 to 3 prove.

Nothing that is stated is believed: the kernel is the model's array, known by its digest,
and the number has to be at least what H proves.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from specnorm_check.arithmetic import Array, Refused, require
from specnorm_check.layers import PADDING, Axis, Layer, proven_norm

FLOATING = ("float16", "float32", "float64")
KEYS_OF_A_LAYER = {
    "completion",
    "dilation",
    "dtype",
    "exponent",
    "groups",
    "layout",
    "name",
    "padding",
    "padding_mode",
    "sha256",
    "shape",
    "sizes",
    "stride",
    "tensor",
    "transposed",
    "upper",
}
# The multipliers q_0, ..., q_n are the entry "weights" of a certificate.
KEYS_OF_A_PART = {"completion", "exponent", "sizes", "values", "weights"}
# In its own words, or by `Verdict`: these entries are printed elsewhere in the line.
PRINTED_ELSEWHERE = {"name", "sizes", "tensor", "upper"}
NOT_PRINTED = {"completion", "exponent"}
LONGEST_TENSOR_NAME = 400  # characters
NUMBER_LIMIT = 2**24  # the whole numbers of a geometry are below
EXPONENT_LIMIT = 1100  # 2^-1100 and 2^1100 are beyond every float64

Statement = Mapping[str, Any]
SIZES = ("every", "own", "units")


# -- parts of a network ----------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Part:
    """What is between two values: |q_n d_n| <= c |q_0 d_0| for differences d_i.

    ``values`` are the names of z_0, ..., z_n. ``multipliers`` are q_0, ..., q_n, each an
    array with one number for each channel; a layer by itself may have none.
    """

    values: tuple[str, ...]
    multipliers: tuple[Array, ...] = ()

    @classmethod
    def read(cls, statement: Statement) -> Part:
        """Return the part that a claim lists."""
        has_keys = set(statement) == KEYS_OF_A_PART
        require(has_keys, "a part has other entries than those of a part")
        values = statement["values"]
        is_list = type(values) is list and len(values) > 1
        require(is_list, "the values of a part are no list of two or more")
        are_names = all(type(value) is str for value in values)
        require(are_names, "the values of a part are no names")
        multipliers = []
        for texts in statement["weights"]:
            q = np.array([read_hexadecimal(text) for text in texts])
            is_moderate = ((q > 2.0**-99) & (q < 2.0**99)).all()
            require(is_moderate, "a multiplier is 0, or close to it or beyond")
            multipliers.append(q)
        sizes = statement["sizes"]
        has_none = len(values) == 2 and not multipliers and sizes != "units"
        has_all = len(multipliers) == len(values)
        require(has_none or has_all, "a part has not multipliers for each value")
        require(sizes in SIZES, f"the sizes of a part are none of {', '.join(SIZES)}")
        exponent = read_exponent(statement["exponent"])
        if sizes == "units":
            return Units(tuple(values), tuple(multipliers))
        return Together(tuple(values), tuple(multipliers), sizes, exponent)

    @property
    def multipliers_of_ends(self) -> tuple[Array, Array]:
        """q_0 and q_n; one number for all channels, if there are none."""
        none = np.ones(1)
        return (self.multipliers or (none,))[0], (self.multipliers or (none,))[-1]

    def stated(self) -> dict[str, Any]:
        """Return what a claim lists, without the name of its array."""
        texts = [[float(x).hex() for x in q] for q in self.multipliers]
        return {
            "values": [*self.values],
            "weights": texts,
            "sizes": "units",
            "exponent": 0,
            "completion": "",
        }


@dataclass(frozen=True, eq=False)
class Units(Part):
    """All that is between the first and the last value, bounded by Lemma 7, without an H.

    ``values`` between are functions, whose units have the multipliers.
    """


@dataclass(frozen=True, eq=False)
class Together(Part):
    """Layers that one kernel H proves together, by Lemma 4.

    With the ``sizes`` "own", a part of one layer is proven at the size of its input in
    the graph, else at every size. The claim's array holds 2^``exponent`` H.
    """

    sizes: str = "every"
    exponent: int = 0

    def stated(self) -> dict[str, Any]:
        """Return what a claim lists, without the name of its array."""
        return {**super().stated(), "sizes": self.sizes, "exponent": self.exponent}


# -- a claim about a layer -------------------------------------------------------------
def prove_layer(
    statement: Statement, completion: Array, arrays: Mapping[str, Array]
) -> str:
    """Prove the claim that a layer's norm is at most a number.

    Returns a line that says what was read and proven. Raises `Refused` if the claim is
    not proven.
    """
    has_keys = set(statement) == KEYS_OF_A_LAYER
    require(has_keys, "it has other entries than a claim about a layer")
    stored = model_array(statement, arrays)
    kernel, layer = read_layer(stored, statement)
    exponent = read_exponent(statement["exponent"])
    norm = proven_norm(kernel, layer, completion, exponent)
    require_claim_covers(statement["upper"], norm, "its H proves")
    return sentence(statement, rows=completion.shape[1])


def model_array(statement: Statement, arrays: Mapping[str, Array]) -> Array:
    """Return the model's array that the claim names; refuse one of other numbers."""
    name = statement["tensor"]
    is_short = len(name) < LONGEST_TENSOR_NAME
    require(is_short, "the name of its array is too long to be printed")
    try:
        stored = np.asarray(arrays[name])
    except LookupError:
        raise Refused(f"the model has no array {plain(name)}") from None
    dtype = stored.dtype.name
    message = f"the model's array is {dtype} {stored.shape}"
    require(dtype == statement["dtype"], message)
    require(list(stored.shape) == statement["shape"], message)
    require(dtype in FLOATING, message)
    has_digest = statement["sha256"] == digest(stored)
    require(has_digest, "the model's array has other numbers: its digest differs")
    return stored


def read_layer(stored: Array, statement: Statement) -> tuple[Array, Layer]:
    """Return the kernel, its taps last, and the geometry that a statement describes.

    A transposed layer's kernel has the axes (inputs, outputs of a group, *taps) in the
    layout OI, and (*taps, outputs of a group, inputs) in the layout IO. After the taps
    are moved last, both have the axes of a convolution that leads from the layer's
    outputs to its inputs. This convolution is the layer's adjoint, and the returned
    geometry describes it. Groups divide the first axis.
    """
    has_axes = 2 <= stored.ndim <= 5 and stored.size > 0
    require(has_axes, "a kernel has two axes and up to three of taps, none empty")
    layout = statement["layout"]
    require(layout in ("OI", "IO"), "its layout is neither OI nor IO")
    kernel = stored
    if layout == "IO":  # the two axes of channels are the last, in reverse order
        kernel = np.moveaxis(stored, (-1, -2), (0, 1))

    groups = whole_number(statement["groups"], least=1)
    require(len(kernel) % groups == 0, "its groups do not divide the channels")
    axes = read_axes(kernel.shape[2:], statement)
    mode = statement["padding_mode"]
    require(mode in PADDING, "its padding mode is not known")
    sizes = None
    if statement["sizes"] != "every":
        sizes = tuple(whole_numbers(statement["sizes"], len(axes), least=1))
    transposed = statement["transposed"]
    require(type(transposed) is bool, "its entry transposed is neither true nor false")
    if transposed:
        sizes = sizes_of_the_adjoint(axes, mode, sizes)
    return kernel, Layer(axes, groups, mode, sizes)


def read_axes(taps: tuple[int, ...], statement: Statement) -> tuple[Axis, ...]:
    """Return the geometry of each axis."""
    count = len(taps)
    strides = whole_numbers(statement["stride"], count, least=1)
    dilations = whole_numbers(statement["dilation"], count, least=1)
    padding = statement["padding"]
    has_pairs = type(padding) is list and len(padding) == count
    require(has_pairs, "it has no padding for each axis")
    pads = [whole_numbers(pair, 2, least=0) for pair in padding]
    geometry = zip(taps, strides, dilations, pads, strict=True)
    return tuple(Axis(*numbers, *pair) for *numbers, pair in geometry)


def sizes_of_the_adjoint(
    axes: tuple[Axis, ...], mode: str, input_sizes: tuple[int, ...] | None
) -> tuple[int, ...] | None:
    """Return the output sizes of a transposed layer (Lemma 3, step 5).

    They are the input sizes of the adjoint that describes the layer.
    """
    is_same = all(axis.padding_before + axis.padding_after == axis.reach for axis in axes)
    has_rule = mode == "zeros" or (mode == "circular" and is_same)
    require(has_rule, "a transposed layer is zero-padded, or circular and 'same'")
    if input_sizes is None:
        return None
    pairs = [*zip(axes, input_sizes, strict=True)]
    if mode == "circular":
        return tuple(size * axis.stride for axis, size in pairs)
    padded = [((n - 1) * x.stride + x.reach + 1, x) for x, n in pairs]
    return tuple(n - x.padding_before - x.padding_after for n, x in padded)


def sentence(statement: Statement, rows: int) -> str:
    """Return what is proven, by an H of so many rows, and everything that was read."""
    keys = sorted(KEYS_OF_A_LAYER - PRINTED_ELSEWHERE - NOT_PRINTED)
    layer = ", ".join(f"{key} {statement[key]}" for key in keys)
    norm = f"norm <= {printed(read_hexadecimal(statement['upper']))}"
    tensor = repr(plain(statement["tensor"]))
    return (
        f"{norm} at {sizes_of_the_claim(statement)}, of {tensor}, {layer}, by {rows} rows"
    )


def sizes_of_the_claim(statement: Statement) -> str:
    """Return at which input sizes a norm is proven, in words."""
    if statement["sizes"] != "every":
        return f"the input size {statement['sizes']}"
    is_circular = statement["padding_mode"] == "circular"
    has_strides = max(statement["stride"], default=1) > 1
    # A transposed layer has stride times as many outputs as inputs, so that the stride
    # divides its outputs at every input size.
    if is_circular and has_strides and not statement["transposed"]:
        return "every input size that the stride divides"
    return "every input size"


# -- values of statements --------------------------------------------------------------
def require_claim_covers(claimed_text: object, proven: Fraction, proof: str) -> None:
    """Refuse a claim of a smaller number than the proven one.

    ``claimed_text`` is the claimed number, as hexadecimal text. ``proof`` is the subject
    of the message, such as "its parts prove".
    """
    claimed = read_hexadecimal(claimed_text)
    if Fraction(claimed) < proven:
        least = printed(float_up(proven))
        raise Refused(f"it claims {printed(claimed)}, and {proof} no less than {least}")


def read_hexadecimal(text: object) -> float:
    """Return the float, finite and not negative, that hexadecimal text states exactly.

    The text is that of float.hex: 0x1.8p+3 is 1.5 times 2^3.
    """
    pattern = r"0x([01])\.([0-9a-f]{1,13})p([+-][0-9]{1,4})"
    match = re.fullmatch(pattern, text) if type(text) is str else None
    if type(text) is not str or match is None:
        raise Refused("its number is no hexadecimal float that is 0 or more")
    try:
        nearest = float.fromhex(text)
    except OverflowError:
        raise Refused("its number is not a finite one") from None
    first_digit, digits, exponent = match.groups()
    mantissa = Fraction(int(first_digit + digits, 16), 16 ** len(digits))
    exact = mantissa * Fraction(2) ** int(exponent)
    require(nearest == exact, "its number is between two floats")
    return nearest


def printed(x: float) -> str:
    """Return x in decimals, rounded up, and in hexadecimal digits, exactly."""
    upwards = Context(prec=17, rounding=ROUND_CEILING)
    decimal = upwards.create_decimal(Decimal(x))
    return f"{decimal} ({x.hex()})"


def whole_numbers(values: Any, count: int, least: int) -> list[int]:
    """Return a list of so many whole numbers."""
    is_list = type(values) is list and len(values) == count
    require(is_list, f"expected {count} whole numbers")
    return [whole_number(value, least) for value in values]


def whole_number(value: Any, least: int) -> int:
    """Return a whole number, refused if it is below ``least`` or not below 2^24."""
    is_whole = type(value) is int and least <= value < NUMBER_LIMIT
    require(is_whole, f"expected whole numbers from {least} to {NUMBER_LIMIT - 1}")
    return int(value)


def read_exponent(value: Any) -> int:
    """Return the exponent e of 2^e H."""
    is_whole = type(value) is int and abs(value) < EXPONENT_LIMIT
    require(is_whole, f"its exponent is not a whole number below {EXPONENT_LIMIT}")
    return int(value)


def float_up(x: Fraction) -> float:
    """Return the least float that is not below a number."""
    near = float(x)
    return near if Fraction(near) >= x else math.nextafter(near, math.inf)


def digest(array: Array) -> str:
    """Return the SHA-256 of an array's bits: little-endian, the last axis fastest."""
    little_endian = array.dtype.newbyteorder("<")
    bits = np.ascontiguousarray(array, dtype=little_endian).tobytes()
    return hashlib.sha256(bits).hexdigest()


def plain(text: object) -> str:
    """Return text with a ? in place of each character that is not printable ASCII."""
    return "".join(x if x.isascii() and x.isprintable() else "?" for x in str(text))
