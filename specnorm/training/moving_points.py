"""The norm of a symbol that changes: vectors at points that move within the cells of a grid of frequencies.

The norm of a layer is the largest ``||G(theta)||`` over all frequencies theta. A layer that is divided by its norm in
training grows at its other local maxima, until many of them are equally high. So each point of a coarse grid has a cell,
and in it a frequency with two left vectors, which climb to the cell's maximum. In a step, the frequency takes a Newton
step, and the vectors one step of the recurrence of Chebyshev polynomials, which runs across the steps of a training
(as in `matrix_vectors`): ``U_new = (4 / cut) G G* U - 2 U - U_before``. A rotation keeps ``G* U`` orthogonal. All points
together take one product with the transposed kernel, and one with the kernel. Each attains a lower bound.

References
----------
.. [1] De Sa, He, Mitliagkas, Re, Xu, "Accelerated Stochastic Power Iteration", AISTATS 2018 (momentum in the power
   method). The symbol that moves, the frequencies and the rotation are ours.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specnorm.backends import arrays
from specnorm.symbols import ascent
from specnorm.training import bundle
from specnorm.training.grid_vectors import placed

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.training.grid_vectors import Grid

LONGEST = 0.3
RADIUS = 0.6
CUT = 0.99
LEAST_CUT = 0.01
FRESH = 1e-3
ZERO = True
WAY = 0.015
MOST = 12
START = 10


class Points(NamedTuple):
    """vectors: (b, r, f, 2, 2 * m): and before.  angles (b, f, d)."""

    vectors: Array
    before: Array
    angles: Array


def shapes(m: int, count: int, grid: Grid) -> dict[str, tuple[int, ...]]:
    axes = grid.used.shape[1]
    return {"vectors": (m, 2, len(grid), count, 2), "angles": (axes, len(grid)), "sketch": (m, bundle.SKETCHES)}


def start(rows: Array, spec: ConvSpec, grid: Grid, count: int, *, ops: ArrayOps) -> tuple[Array, ...]:
    xp, (b, m) = ops.xp, rows.shape[:2]
    first, base = _constants(rows, m, grid, count, ops=ops)
    vectors = xp.zeros((b, *first.shape[1:]), dtype=rows.dtype) + first
    points = Points(vectors, xp.zeros_like(vectors), xp.zeros((b, *base.shape[1:]), dtype=rows.dtype) + base)
    sketch = xp.zeros((b, m, bundle.SKETCHES), dtype=rows.dtype)
    return follow(rows, _state(points, sketch, xp=xp), spec, grid, count, sweeps=START, ops=ops)[-1]


def _state(points: Points, sketch: Array, *, xp: Any) -> tuple[Array, ...]:
    both = xp.stack([points.vectors, points.before], axis=1)
    return xp.permute_dims(both, (0, 5, 1, 2, 3, 4)), xp.matrix_transpose(points.angles), sketch


def _constants(like: Array, m: int, grid: Grid, count: int, *, ops: ArrayOps) -> tuple[Array, ...]:
    def tables(dtype: type[np.floating]) -> tuple[np.ndarray, ...]:
        random = arrays.random_vectors(0, (m, count))
        pairs = np.stack([random.real, random.imag]) / np.linalg.norm(random, axis=0)
        first = np.broadcast_to(pairs.transpose(2, 0, 1)[None, None], (1, len(grid), count, 2, m))
        return np.ascontiguousarray(first).astype(dtype), grid.used[None].astype(dtype)

    return placed(("moving", m, grid.key, count), tables, like, ops=ops)


def follow(rows, state, spec, grid, count, *, sweeps, ops):
    xp, (b, m) = ops.xp, rows.shape[:2]
    given, angles, last = state
    sketch = bundle.sketch(rows, last, spec, ops=ops)
    both = xp.permute_dims(given, (0, 2, 3, 4, 5, 1))
    angles = xp.matrix_transpose(angles)
    size = arrays.largest(rows, axis=(1, 2), ops=ops) + arrays.TINY
    kernel = bundle._of_taps((rows / size)[:, :, None, :], spec, ops=ops)
    p = kernel.shape[-1]
    kernel = xp.reshape(kernel, (b, m, -1))
    first, base = _constants(rows, m, grid, count, ops=ops)
    vectors, before = both[:, 0], both[:, 1]
    if ZERO:
        zero = _zero(xp.reshape(kernel, (b, m, -1, p)), ops=ops)[:, None, None]
        tops = xp.concat([zero, vectors[:, :1, 1:]], axis=2)
        vectors = xp.concat([vectors, tops], axis=1)
        before = xp.concat([before, xp.concat([0.0 * zero, before[:, :1, 1:]], axis=2)], axis=1)
        angles = xp.concat([angles, xp.zeros_like(angles[:, :1])], axis=1)
        base = xp.concat([base, xp.zeros_like(base[:, :1])], axis=1)
        first = xp.concat([first, first[:, :1]], axis=1)
    if sweeps is None:
        way = bundle.distance(sketch, last, ops=ops)
        factor = max(2.0 if sum(k > 1 for k in spec.block_kernel_shape) == 1 else 1.0, math.sqrt(math.prod(spec.block_kernel_shape)) / 3)
        steps = min(MOST, 1 + int(np.max(way) * factor / WAY))
    else:
        steps = max(sweeps, 1)
    tables = placed(("bundle", spec.block_kernel_shape), functools.partial(bundle._tap_tables, spec), rows, ops=ops)
    found = Points(vectors, before, angles)
    for _ in range(steps):
        found, norms, images, right = _step(kernel, found, base, first, RADIUS * grid.spacing, tables, ops=ops)
    best = xp.argmax(norms, axis=1)
    left = arrays.pick(images, best, xp=xp)  # b, 2, m
    v = arrays.pick(right, best, xp=xp)  # b, 2, p
    th = arrays.pick(found.angles, best, xp=xp)
    columns = bundle._to_taps(v[:, None, None], bundle._turns(th[:, None], tables, ops=ops), spec, ops=ops)
    value = xp.max(norms, axis=1)
    left = xp.matrix_transpose(left) / (value + arrays.TINY)[:, None, None]
    if ZERO:
        n = len(grid)
        found = Points(found.vectors[:, :n], found.before[:, :n], found.angles[:, :n])
    sketch = xp.where(xp.isfinite(sketch), sketch, 0.0)
    return value * size[:, 0, 0], left, xp.reshape(columns, (b, 2, -1)), _state(found, sketch, xp=xp)


def _zero(blocks, *, ops):
    xp = ops.xp
    total = xp.sum(blocks, axis=2)
    is_wide = total.shape[1] <= total.shape[2]
    wide = total if is_wide else xp.matrix_transpose(total)
    power = bundle.squared(xp.matmul(wide, xp.matrix_transpose(wide)), 5, ops=ops)
    n = power.shape[1]
    (signs,) = placed(("zero", n), lambda dtype: (bundle.random_signs(n)[None, :, :1].astype(dtype),), power, ops=ops)
    vector = xp.matmul(power, xp.matmul(power, signs))
    vector = vector if is_wide else xp.matmul(total, vector)
    vector = xp.matrix_transpose(vector / (arrays.lengths(vector, axis=-2, ops=ops) + arrays.TINY))
    return xp.concat([vector, xp.zeros_like(vector)], axis=1)


def _step(kernel, points, base, first, radius, tables, *, ops):
    xp, (vectors, before, angles) = ops.xp, points
    b, f, r, _, m = vectors.shape
    d = angles.shape[2]
    _, _, powers, forms, signs = tables
    products = xp.reshape(xp.matmul(xp.reshape(vectors, (b, -1, m)), kernel), (b, f, r, 2 * powers.shape[-1], -1))
    p = products.shape[-1]
    derivatives = bundle._sums(products[:, :, 0], bundle._turns(angles, tables, ops=ops)[:, :, None, ...] * powers, ops=ops)
    inner = xp.matmul(derivatives[:, :, : 2 + 2 * d, :], xp.matrix_transpose(derivatives))
    step = ascent.uphill_by_forms(xp.matmul(xp.reshape(inner, (b, f, -1)), forms), signs, d, longest=LONGEST, xp=xp)
    off = angles + step - base
    angles = base + off / xp.maximum(arrays.lengths(off, axis=-1, ops=ops) * (1 / radius), signs[0, 0])
    turns = xp.reshape(bundle._turns(angles, tables, ops=ops), (b, f, 1, 2, -1))
    fresh, of_gram, of_coefs = _mixing(products, r, p, ops=ops)
    power = xp.matmul(turns, products) + fresh
    both = xp.concat([vectors, before], axis=4)
    if r == 2:
        power, both = _mixed(power, both, of_gram, of_coefs, ops=ops)
    length = arrays.lengths(xp.reshape(power, (b, f, r, 1, -1)), axis=-1, ops=ops) + arrays.TINY
    right = power / length
    columns = xp.matmul(xp.matrix_transpose(turns), right)
    images = xp.reshape(bundle._images(kernel, xp.reshape(columns, (b, -1, kernel.shape[2])), ops=ops), (b, f, r, 2, m))
    norms = arrays.lengths(xp.reshape(images, (b, f, r, 1, -1)), axis=-1, ops=ops)
    square = norms * norms
    cut = CUT * square
    if r > 1:
        cut = xp.maximum(xp.min(cut, axis=2, keepdims=True), LEAST_CUT * xp.max(square, axis=2, keepdims=True))
    vectors, before = both[..., :m], both[..., m:]
    moved = images * (4.0 * length / (cut + arrays.TINY)) - 2.0 * vectors - before
    size = arrays.lengths(xp.reshape(moved, (b, f, r, 1, -1)), axis=-1, ops=ops)
    ok = size < math.inf
    scale = 1.0 / (size + arrays.TINY)
    new = xp.where(ok, moved * scale, first)
    old = xp.where(ok, vectors * scale, 0.0)
    angles = xp.where(ok[:, :, 0, :, 0], angles, base)
    return Points(new, old, angles), norms[:, :, 0, 0, 0], images[:, :, 0], right[:, :, 0]


def _mixing(like, r, p, *, ops):
    def tables(dtype):
        random = arrays.random_vectors(1, (p, r))
        pairs = np.stack([random.real, random.imag]) / np.linalg.norm(random, axis=0)
        fresh = FRESH * pairs.transpose(2, 0, 1)[None, None]
        # rows xr xi yr yi: x*x, y*y, re x*y, im x*y
        of_gram = np.zeros((4, 4, 4))
        of_gram[0, 0, 0] = of_gram[1, 1, 0] = of_gram[2, 2, 1] = of_gram[3, 3, 1] = 1
        of_gram[0, 2, 2] = of_gram[1, 3, 2] = 1
        of_gram[0, 3, 3], of_gram[1, 2, 3] = 1, -1
        re, im = np.eye(2), np.array([[0, -1], [1, 0]])
        of_coefs = np.zeros((7, 2, 4, 4))
        for k, (sign) in enumerate((1, -1)):
            of_coefs[0, k, :2, :2], of_coefs[1, k, :2, :2] = re, sign * im
            of_coefs[2, k, :2, 2:], of_coefs[3, k, :2, 2:] = re, sign * im
            of_coefs[4, k, 2:, :2], of_coefs[5, k, 2:, :2] = re, sign * im
            of_coefs[6, k, 2:, 2:] = re
        return tuple(x.astype(dtype) for x in (fresh, of_gram.reshape(16, 4), of_coefs.reshape(7, 32)))

    return placed(("mixing", r, p), tables, like, ops=ops)


def _mixed(power, both, of_gram, of_coefs, *, ops):
    xp = ops.xp
    b, f, _, _, p = power.shape
    m = both.shape[4] // 2
    ps, us = xp.reshape(power, (b, f, 4, p)), xp.reshape(both, (b, f, 4, 2 * m))
    u = us[..., :m]
    of_u = xp.matmul(xp.reshape(xp.matmul(u, xp.matrix_transpose(u)), (b, f, 16)), of_gram)
    of_p = xp.matmul(xp.reshape(xp.matmul(ps, xp.matrix_transpose(ps)), (b, f, 16)), of_gram)
    c = ops.complex(of_u[..., 2], of_u[..., 3])
    # powers are conjugated
    g, a, e = ops.complex(of_p[..., 2], -of_p[..., 3]), of_p[..., 0], of_p[..., 1]
    cc = xp.real(c) ** 2 + xp.imag(c) ** 2
    rn = 1.0 / xp.sqrt(xp.maximum(1.0 - cc, of_gram[0, 0] * 1e-4))
    e = (e - 2.0 * xp.real(xp.conj(c) * g) + cc * a) * rn * rn
    g = (g - c * a) * rn
    size = xp.abs(g)
    difference = a - e
    length = xp.hypot(2.0 * size, difference)
    half = 0.5 * ((difference + arrays.TINY) / (length + arrays.TINY))
    cos, sin = xp.sqrt(xp.abs(0.5 + half)), xp.sqrt(xp.abs(0.5 - half))
    s = xp.conj(g) * (sin / (size + arrays.TINY))
    beta, delta = s * rn, cos * rn
    alpha, gamma = cos - beta * c, -delta * c - xp.conj(s)
    coefs = xp.stack([xp.real(alpha), xp.imag(alpha), xp.real(beta), xp.imag(beta), xp.real(gamma), xp.imag(gamma), delta], axis=-1)
    maps = xp.reshape(xp.matmul(coefs, of_coefs), (b, f, 2, 4, 4))
    us = xp.matmul(maps[:, :, 0], us)
    ps = xp.matmul(maps[:, :, 1], ps)
    return xp.reshape(ps, power.shape), xp.reshape(us, both.shape)
