"""Bounds that somebody states with the frequencies that prove them: one factorisation at each, and no search.

A tree of boxes is one line of text, depth first: a digit halves a box along that axis, the lower half first, and a dot
leaves it. The root is ``[0, pi]`` on the first axis that has taps and ``[0, 2 pi]`` on the others, so the leaves of
every such text cover the frequencies of a real kernel.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm import arrays
from specnorm.certified import arithmetic, host, rounding
from specnorm.certified.bound import EVERYWHERE, HypothesisError, Upper, _upper
from specnorm.certified.layer.circulant import norm_by_circulant
from specnorm.certified.layer.every_size import padded_norm
from specnorm.certified.layer.own_matrix import magnitude_sq
from specnorm.certified.matrices import norms
from specnorm.certified.symbol import trigonometric
from specnorm.certified.symbol.cells import Boxes, Circulant, _covering, dft
from specnorm.certified.symbol.cover import cell_lemma
from specnorm.certified.symbol.symbols import Symbol
from specnorm.errors import CertificateError, GeometryError
from specnorm.problem import polyphase
from specnorm.problem.layer_map import Convolution, shapes_of
from specnorm.problem.spec import ConvSpec
from specnorm.types import ArrayOps

FloatArray: TypeAlias = NDArray[np.float64]
MOST, DEEPEST = 2**20, 40
"""Boxes of a proof, and halvings of an axis."""
WORK = 2**43
"""Products of numbers that a proof may take, about."""
ENTRIES = 2**22
"""Of a layer's own matrix."""


def digest(array: NDArray[Any]) -> str:
    """SHA-256 of an array's bits: little-endian, the last axis first."""
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return hashlib.sha256(plain.tobytes()).hexdigest()


def boxes_of(proof: Mapping[str, Any], taps: Sequence[int]) -> Boxes:
    """Boxes that cover all frequencies of a real kernel with so many taps an axis: ``grid`` or ``tree``.

    Raises
    ------
    CertificateError
        If it is neither.
    """
    half = np.array([(k - 1) / 2 for k in taps])
    frame, origin = np.eye(len(taps), dtype=np.int64), np.zeros(len(taps), dtype=np.int64)
    if set(proof) == {"grid"}:
        points = wholes(proof["grid"], len(taps))
        at = _half_of(points)
        turns = tuple(2 * n for n in points)
        return _covering(Boxes(2 * at - 1, 2 * at + 1, turns, half, False, frame, origin), EVERYWHERE)
    if set(proof) != {"tree"} or not isinstance(proof["tree"], str) or not re.fullmatch(r"[.012]+", proof["tree"]):
        raise CertificateError("a proof of every frequency is a grid or a tree")
    if len(proof["tree"]) > 2 * MOST:
        raise CertificateError(f"its tree has more than {MOST} boxes")
    found = list(_leaves(proof["tree"], taps))
    leaves = np.array(found, dtype=np.int64).reshape(len(found), 2, len(taps))
    first = next((j for j, k in enumerate(taps) if k > 1), 0)
    width = np.int64(1) << (DEEPEST + 1 - leaves[:, 1])
    low = leaves[:, 0] * width
    varies = np.array([k > 1 for k in taps])
    denominators = tuple(2 ** (DEEPEST + 1 + (j == first)) if k > 1 else 1 for j, k in enumerate(taps))
    boxes = Boxes(low * varies, (low + width) * varies, denominators, half, False, frame, origin)
    return _covering(boxes, EVERYWHERE)


def _leaves(tree: str, taps: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Of each leaf its place among those of its width, and how often it was halved, an axis."""
    waiting = [([0] * len(taps), [0] * len(taps))]
    for letter in tree:
        if not waiting:
            raise CertificateError("its tree goes on after its end")
        place, depth = waiting.pop()
        if letter == ".":
            yield place, depth
            continue
        axis = int(letter)
        if axis >= len(taps) or taps[axis] == 1 or depth[axis] >= DEEPEST:
            raise CertificateError("its tree halves what has no taps, or too often")
        depth[axis] += 1
        upper, place[axis] = [*place], 2 * place[axis]
        upper[axis] = place[axis] + 1
        waiting += [(upper, [*depth]), (place, depth)]
    if waiting:
        raise CertificateError("its tree does not cover the frequencies")


def wholes(value: Any, count: int, least: int = 1) -> tuple[int, ...]:
    """Whole numbers of a file, one an axis.

    Raises
    ------
    CertificateError
        If they are none, too small, or together more than `MOST`.
    """
    if not isinstance(value, list) or len(value) != count or any(type(n) is not int or n < least for n in value):
        raise CertificateError(f"expected {count} whole numbers of at least {least}")
    if math.prod(max(n, 1) for n in value) > MOST:
        raise CertificateError(f"expected at most {MOST} points")
    return tuple(value)


def circulant_of(proof: Mapping[str, Any], taps: Sequence[int]) -> Boxes:
    """The frequencies of a circulant for a real kernel, up to mirror images: ``circulant`` and ``skew``."""
    points, skew = wholes(proof["circulant"], len(taps)), wholes(proof["skew"], len(taps), 0)
    if set(proof) != {"circulant", "skew"} or max(skew, default=0) > 1:
        raise CertificateError("a proof at one size is a circulant with its skew")
    at, origin = _half_of(points), np.array(skew, dtype=np.int64)
    half = np.array([(k - 1) / 2 for k in taps])
    whole = Circulant.of(points, tuple(map(bool, skew)), taps)
    frame = 2 * np.eye(len(taps), dtype=np.int64)
    return _covering(Boxes(at, at, tuple(2 * n for n in points), half, True, frame, origin), whole)


def _half_of(points: Sequence[int]) -> NDArray[np.int64]:
    """Places on a grid, without those that are others' mirror images, in half steps, too."""
    few = [n // 2 + 1 if j == 0 else n for j, n in enumerate(points)]
    return np.indices(few, dtype=np.int64).reshape(len(few), math.prod(few)).T


def norm_at(blocks: FloatArray, boxes: Boxes, upper: float, *, lost: float = 0.0, ops: ArrayOps) -> Upper:
    """A norm of at most ``upper``, wherever the boxes are: by the cell lemma, or at single points of a circulant.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
        Real.
    boxes : Boxes
        From `boxes_of` or `circulant_of`, of that many taps or more.
    lost : float
        What the symbols of the kernel that is meant are off at most.

    Raises
    ------
    CertificateError
        If a factorisation fails: the norm is larger at some frequency, or too close to tell.
    """
    if boxes.covers is None:
        raise HypothesisError("some boxes bound nothing: all frequencies of something are covered, or none")
    limits = np.full(len(boxes), upper) if boxes.on_grid else cell_lemma(upper, boxes.radius)
    _below(blocks, boxes, limits, lost, ops)
    rule = f"{len(boxes)} factorisations, at the points" if boxes.on_grid else f"cell lemma, {len(boxes)} cells"
    return _upper(upper, boxes.covers, rule)


def eigenvalue_at(kernel: FloatArray, boxes: Boxes, upper: float, *, lost: float = 0.0, ops: ArrayOps) -> Upper:
    """No eigenvalue of a Hermitian kernel K above ``upper``.

    Let v be a unit vector of the largest eigenvalue U' wherever it is, and all eigenvalues at least -m. Then the real
    v*Kv is (U' - m)/2 + (U' + m)/2 f with |f| <= 1, which f attains: by the cell lemma f >= cos phi at the centre of
    that cell. If U' > U, then v*Kv is more there than (U - m)/2 + (U + m)/2 cos phi.

    Parameters
    ----------
    kernel : array, shape (n, n, *taps)
        An odd number of taps an axis, place 0 in the middle, K[-t] the transpose of K[t], and 0 on its diagonal there.
    """
    n, axes = kernel.shape[0], tuple(range(2, kernel.ndim))
    middle = tuple(k // 2 for k in kernel.shape[2:])
    every = np.arange(n)
    if not np.array_equal(kernel, np.flip(kernel.swapaxes(0, 1), axis=axes)) or kernel[(every, every, *middle)].any():
        raise CertificateError("K is not Hermitian, or not 0 on its diagonal")
    sums = np.abs(kernel).sum(axis=(1, *axes))
    most = max(upper, host.add_up(host.inflate(float(sums.max(initial=0.0)), math.prod(kernel.shape[1:])), lost))
    shifted = kernel.copy()
    shifted[(every, every, *middle)] = most
    # ||K + m I|| = m + the largest eigenvalue.
    slack = host.next_up(most - upper)
    cosines = cell_lemma(1.0, boxes.radius)
    drop = host.inflate((1 - cosines) * slack / 2, 4)
    limits = np.where(cosines > 0, host.sub_down(cell_lemma(upper, boxes.radius), drop), -1.0)
    if not (limits > 0).all():
        raise CertificateError("a cell is too wide")
    _below(shifted[None], boxes, host.sub_down(limits, -most), lost, ops)
    return _upper(upper, "the largest eigenvalue of K", f"cell lemma, {len(boxes)} cells")


def _below(blocks: FloatArray, boxes: Boxes, limits: FloatArray, lost: float, ops: ArrayOps) -> None:
    """Prove the norm at the centre of each box to be at most a number, by a factorisation of ``x I - G* G``."""
    xp: Any = ops.xp
    if blocks.shape[1] < blocks.shape[2]:  # of the same norm
        blocks = blocks.swapaxes(1, 2)
    g, m, p, *taps = blocks.shape
    if not bool((boxes.half_degree >= [(k - 1) / 2 for k in taps]).all()):
        raise HypothesisError("the boxes are of a symbol of another degree")
    if len(boxes) * g * m * p * (p + math.prod(taps)) >= WORK:
        raise CertificateError("so many matrices, so large, take too long")
    if arithmetic.flushes():
        raise CertificateError("subnormal numbers are taken for zero in this thread, so nothing is proven here")
    if not np.isfinite(blocks).all():
        raise CertificateError("the kernel holds what is no number")
    if not blocks.any() and not lost:
        return
    exponent = math.frexp(float(limits.max(initial=0.0)))[1]
    if not (limits > 0).all() or abs(exponent) > 900:
        raise CertificateError("a cell is too wide, or the bound is no positive number")
    scaled: Any = np.ascontiguousarray(np.ldexp(blocks, -exponent))
    if not np.isfinite(scaled).all():
        raise CertificateError("the bound is far below the kernel's entries")
    # Entries that underflow are off by less than the smallest normal number each.
    errors: Any = trigonometric.symbol_error(scaled, xp=xp)
    off = float(errors.max()) + blocks.size * 2.0**-1000
    off = host.add_up(off, math.ldexp(lost, -exponent))
    levels = np.ldexp(limits, -exponent)
    step = max(1, ops.memory // (8 * 16 * g * m * p + 24 * 8 * math.prod(taps)))
    for at in range(0, len(boxes), step):
        some = slice(at, at + step)
        symbols: Any = Symbol(scaled, boxes[some].centres, ops=ops).matrices()
        gram = arrays.gram_smaller(symbols, xp=xp)
        mass: Any = rounding.up(norms.frobenius_up(symbols, xp=xp) ** 2, 4, xp=xp)
        error = rounding.SLACK * rounding.product_error(m, symbols, xp=xp)
        level = host.sub_down(levels[some], off)
        squares: Any = rounding.down(np.maximum(level, 0.0) ** 2, 2, xp=xp)
        squared = host.sub_down(squares[None], rounding.up(mass * error, 2, xp=xp))
        if not (level > 0).all() or not np.asarray(norms.gram_below(gram, squared, ops=ops)).all():
            raise CertificateError("at a frequency the norm is larger, or too close to tell")


@arithmetic.on_host()
def norm_of_layer(
    kernel: FloatArray, spec: ConvSpec, proof: Mapping[str, Any], upper: float, *, ops: ArrayOps
) -> Upper:
    """The norm of a layer is at most ``upper``: at its size or at every one, or at every one that its stride divides.

    Parameters
    ----------
    kernel : array
        In torch's order, float64.
    proof : mapping
        ``grid``, ``tree``, ``circulant`` with ``skew``, or ``matrix``.

    Raises
    ------
    CertificateError
        If that is not proven by it.
    """
    if set(proof) == {"matrix"}:
        return _by_matrix(kernel, spec, upper, ops)
    if spec.padding_gain_sq > 1:
        raise CertificateError("padding that repeats pixels has no such proof")
    xp: Any = ops.xp
    given: Any = kernel[None]
    blocks = np.asarray(polyphase.to_blocks(given, spec, xp=xp))
    if "circulant" not in proof:
        return padded_norm(norm_at(blocks, boxes_of(proof, blocks.shape[3:]), upper, ops=ops), spec)
    if spec.input_shape is None:
        raise CertificateError("a circulant proves the norm at one size")
    claim = norm_at(blocks, circulant_of(proof, blocks.shape[3:]), upper, ops=ops)
    try:
        return padded_norm(claim, spec) if spec.padding_mode == "circular" else norm_by_circulant(spec, claim)
    except HypothesisError as error:
        raise CertificateError(str(error)) from error


def _by_matrix(kernel: FloatArray, spec: ConvSpec, upper: float, ops: ArrayOps) -> Upper:
    """By the layer's own matrix, group by group."""
    if spec.input_shape is None:
        raise CertificateError("a layer has a matrix at one size")
    first = kernel.shape[0] // spec.groups
    one = replace(spec, groups=1, cin=spec.cin // spec.groups, cout=spec.cout // spec.groups)
    try:
        sides = [math.prod(shape) for shape in shapes_of(one)]
    except GeometryError as error:
        raise CertificateError(str(error)) from error
    if math.prod(sides) * spec.groups > ENTRIES or sum(map(max, one.padding)) > ENTRIES:
        raise CertificateError("so large a matrix takes too long")
    exponent = math.frexp(float(np.abs(kernel).max(initial=0.0)))[1]
    matrices, lost = [], 0.0
    for part in range(spec.groups):
        own: Any = np.ldexp(kernel[None, part * first : (part + 1) * first], -exponent)
        layer = Convolution(own, one, ops=ops)
        wide = sides[0] > sides[1]
        eye: Any = np.eye(min(sides))[None]
        matrices.append(np.asarray(layer.adjoint(eye) if wide else layer.apply(eye))[0])
        # An entry is a sum of products of taps with ones and zeros.
        most = host.sqrt_up(float(magnitude_sq(layer, ops=ops)[0]))
        lost = max(lost, host.inflate(most * rounding.gamma(max(layer.roundings), 2.0**-53), 4))
    whole, one_point = np.stack(matrices)[..., None], dft((1,), (1,))
    try:
        claim = norm_at(whole, one_point, math.ldexp(upper, -exponent), lost=lost, ops=ops)
    except OverflowError as error:
        raise CertificateError("the bound is far above the kernel's entries") from error
    return _upper(upper, spec, "its own matrix", claim)
