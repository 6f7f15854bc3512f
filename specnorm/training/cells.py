"""Prototype: singular vectors at points that move within cells of the frequency domain."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from specnorm.backends import arrays
from specnorm.symbols import ascent
from specnorm.training import bundle, grid_vectors
from specnorm.training.grid_vectors import placed

LONGEST = 0.3
HALF = 0.6
FRESH = 1e-3
ZERO = True
SHIFT = 0.42
MOM = True
CUT = 0.97
DAMP = 1.0
NEWTON_OLD = False
SWEEPS = {0.007: 1, 0.028: 2, 0.056: 6, 10.0: 12}


def shapes(grid, spec, count):
    m = spec.block_shape[0]
    axes = sum(k > 1 for k in spec.block_kernel_shape)
    return {"left": (m, len(grid), count, 2), "before": (m, len(grid), count, 2), "angles": (axes, len(grid)), "sketch": (m, bundle.SKETCHES)}


def start(blocks, rows, spec, grid, count, *, ops):
    xp, (b, m) = ops.xp, rows.shape[:2]

    def table(dtype):
        q = np.linalg.qr(np.random.RandomState(0).randn(m, min(m, 2 * count)))[0]
        out = np.zeros((1, m, len(grid), count, 2))
        for j in range(count):
            out[0, :, :, j, 0] = q[:, j % q.shape[1]][:, None]
            out[0, :, :, j, 1] = q[:, (j + count) % q.shape[1]][:, None]
        return (out.astype(dtype) / math.sqrt(2),)

    (left,) = placed(("cells", m, grid.key, count), table, rows, ops=ops)
    left = xp.broadcast_to(left, (b, *left.shape[1:]))
    (angles,) = placed(("cells angles", grid.key), functools.partial(_angles, grid, spec), rows, ops=ops)
    angles = xp.broadcast_to(angles, (b, *angles.shape[1:]))
    sketch = xp.zeros((b, m, bundle.SKETCHES), dtype=rows.dtype)
    return follow(rows, (left, 0 * left, angles, sketch), spec, grid, count, steps=10, ops=ops)[-1]


def _angles(grid, spec, dtype):
    axes = [i for i, k in enumerate(spec.block_kernel_shape) if k > 1]
    return (grid.angles[:, axes].T[None].astype(dtype),)


def follow(rows, state, spec, grid, count, *, steps=None, ops):
    xp, (b, m) = ops.xp, rows.shape[:2]
    left, before, angles, last = state
    sketch = bundle.sketch(rows, last, spec, ops=ops)
    if steps is None:
        way = bundle.distance(sketch, last, ops=ops) * max(2.0 if sum(k > 1 for k in spec.block_kernel_shape) == 1 else 1.0, math.sqrt(math.prod(spec.block_kernel_shape)) / 3)
        w = float(np.max(way))
        steps = next((n for x, n in SWEEPS.items() if w <= x), 12)
    points = len(grid)
    left = xp.reshape(xp.permute_dims(left, (0, 2, 3, 4, 1)), (b, points * count * 2, m))
    before = xp.reshape(xp.permute_dims(before, (0, 2, 3, 4, 1)), (b, points * count * 2, m))
    if ZERO:
        zero = _zero(rows, spec, ops=ops)  # (b, 1, m)
        zero = xp.concat([zero, xp.zeros_like(zero)], axis=1)
        at0 = int(np.argmin(np.abs(grid.angles).sum(axis=1)))
        if count > 1:
            second = left[:, at0 * 2 * count : at0 * 2 * count + 2 * count - 2, :]
            zero = xp.concat([zero, second], axis=1)
        left = xp.concat([left, zero], axis=1)
        before = xp.concat([before, 0 * zero], axis=1)
        angles = xp.concat([angles, 0 * angles[:, :, :1]], axis=2)
    for _ in range(steps):
        left, before, angles, norms, size, columns = _step(rows, left, before, angles, spec, grid, count, ops=ops)
    total = norms.shape[1]
    best = xp.argmax(norms, axis=1)
    value = xp.max(norms, axis=1) * size
    by = xp.reshape(left, (b, total, count, 2, m))
    i = np.arange(b)
    u = by[i, best, 0]
    v = columns[i, best]
    keep = xp.reshape(by[:, :points], (b, points, count, 2, m))
    keepb = xp.reshape(xp.reshape(before, by.shape)[:, :points], (b, points, count, 2, m))
    state = (xp.permute_dims(keep, (0, 4, 1, 2, 3)), xp.permute_dims(keepb, (0, 4, 1, 2, 3)), angles[:, :, :points], sketch)
    return value, xp.matrix_transpose(u), v, state


def _zero(rows, spec, *, ops):
    xp = ops.xp
    x = bundle._of_taps(rows[:, :, None, :], spec, ops=ops)  # (b, m, 1, taps, p)
    total = xp.sum(x[:, :, 0], axis=2)
    is_wide = total.shape[1] <= total.shape[2]
    wide = total if is_wide else xp.matrix_transpose(total)
    power = bundle.squared(xp.matmul(wide, xp.matrix_transpose(wide)), 5, ops=ops)
    n = power.shape[1]
    (signs,) = placed(("zero", n), lambda dtype: (bundle.random_signs(n)[None, :, :1].astype(dtype),), power, ops=ops)
    vector = xp.matmul(power, xp.matmul(power, signs))
    vector = vector if is_wide else xp.matmul(total, vector)
    vector = vector / (arrays.lengths(vector, axis=-2, ops=ops) + arrays.TINY)
    return xp.matrix_transpose(vector)


def _step(rows, left, before, angles, spec, grid, count, *, ops):
    xp, (b, m) = ops.xp, rows.shape[:2]
    total = angles.shape[2]
    found = left @ rows
    size = arrays.largest(found, axis=(1, 2), ops=ops) + arrays.TINY
    tables = placed(("bundle", spec.block_kernel_shape), functools.partial(bundle._tap_tables, spec), left, ops=ops)
    _, _, powers, forms, signs = tables
    products = bundle._of_taps(xp.reshape(found / size, (b, total * count, 2, -1)), spec, ops=ops)
    products = xp.reshape(products, (b, total, count, -1, products.shape[4]))
    th = xp.matrix_transpose(angles)
    axes = th.shape[2]
    derivatives = bundle._sums(products[:, :, 0], bundle._turns(th, tables, ops=ops)[:, :, None, ...] * powers, ops=ops)
    inner = xp.matmul(derivatives[:, :, : 2 + 2 * axes, :], xp.matrix_transpose(derivatives))
    f = xp.matmul(xp.reshape(inner, (b, total, -1)), forms)
    th = th + ascent.uphill_by_forms(f, signs, axes, longest=LONGEST, xp=xp)
    (base,) = placed(("cells angles", grid.key), functools.partial(_angles, grid, spec), left, ops=ops)
    base = xp.matrix_transpose(base)
    if base.shape[1] < total:
        base = xp.concat([base, 0 * base[:, :1]], axis=1)
    half = HALF * grid.spacing
    off = th - base
    th = base + off / xp.maximum(1.0, arrays.lengths(off, axis=-1, ops=ops) / half)
    turns = bundle._turns(th, tables, ops=ops)  # b, total, 2, 2, taps
    p = products.shape[-1]
    power = xp.matmul(xp.reshape(turns, (b, total, 1, 2, -1)), products)  # b,total,count,2,p
    power = ops.complex(power[..., 0, :], power[..., 1, :])  # conj of G*u
    old = xp.reshape(left, (b, total, count, 2, m))
    old = ops.complex(old[..., 0, :], old[..., 1, :])
    if True:
        sq = xp.real(xp.vecdot(power, power, axis=-1))
        least = SHIFT * xp.min(sq, axis=2, keepdims=True)  # in units of size^2
        if MOM:
            bef = xp.reshape(before, (b, total, count, 2, m))
            bef = ops.complex(bef[..., 0, :], bef[..., 1, :])
            least = (CUT / 4) * xp.maximum(xp.min(sq, axis=2, keepdims=True), 0.01 * xp.max(sq, axis=2, keepdims=True))
            power = xp.concat([power, least[..., None] * xp.conj(2 * old + DAMP * bef), least[..., None] * xp.conj(old)], axis=3)
        else:
            power = xp.concat([power, least[..., None] * xp.conj(old), 0 * old], axis=3)
    v = [power[:, :, j] for j in range(count)]
    if FRESH:
        (fresh,) = placed(("cells fresh", p), lambda d: ((FRESH * np.random.RandomState(0).uniform(0.5, 1, (1, 1, p))).astype(d),), left, ops=ops)
        scale = xp.sqrt(sq[:, :, -1])[..., None]
        v[-1] = v[-1] + (xp.concat([fresh * scale, xp.zeros_like(old[:, :, 0].real), xp.zeros_like(old[:, :, 0].real)], axis=2))
    done = []
    for x in v:
        for y in done:
            x = x - y * xp.vecdot(y[..., :p], x[..., :p], axis=-1)[..., None]
        done.append(x / (xp.sqrt(xp.real(xp.vecdot(x[..., :p], x[..., :p], axis=-1)))[..., None] + arrays.TINY))
    vs = xp.stack(done, axis=2)  # b,total,count,p
    olds = xp.conj(vs[..., p:p + m])
    befs = xp.conj(vs[..., p + m:])
    vs = vs[..., :p]
    pair = xp.stack([xp.real(vs), xp.imag(vs)], axis=3)
    right = xp.reshape(pair, (b, total * count, 1, 2, p))
    tt = xp.reshape(xp.broadcast_to(turns[:, :, None], (b, total, count, *turns.shape[2:])), (b, total * count, *turns.shape[2:]))
    columns = xp.reshape(bundle._to_taps(right, tt, spec, ops=ops), (b, 2 * total * count, -1))
    images = bundle._images(rows, columns, ops=ops) / size
    columns = xp.reshape(columns, (b, total, count, 2, -1))
    im = xp.reshape(images, (b, total, count, 2, m))
    if count == 1:
        z = ops.complex(im[..., 0, :], im[..., 1, :])[:, :, 0]
        norms = xp.sqrt(xp.real(xp.vecdot(z, z, axis=-1)))
        u = z - olds[:, :, 0]
        n = xp.sqrt(xp.real(xp.vecdot(u, u, axis=-1)))[..., None] + arrays.TINY
        u, bb = u / n, befs[:, :, 0] / n
        left = xp.reshape(xp.stack([xp.real(u), xp.imag(u)], axis=2), (b, -1, m))
        before = xp.reshape(xp.stack([xp.real(bb), xp.imag(bb)], axis=2), (b, -1, m))
        return left, before, xp.matrix_transpose(th), norms, size[:, 0, 0], columns[:, :, 0]
    z = ops.complex(im[..., 0, :], im[..., 1, :])
    x, y = z[:, :, 0], z[:, :, 1]
    a, d = xp.real(xp.vecdot(x, x, axis=-1)), xp.real(xp.vecdot(y, y, axis=-1))
    c = xp.vecdot(x, y, axis=-1)  # x* y
    sizec = xp.abs(c)
    length = xp.hypot(2 * sizec, a - d)
    half_ratio = 0.5 * ((a - d + arrays.TINY) / (length + arrays.TINY))
    cos, sin = xp.sqrt(xp.abs(0.5 + half_ratio)), xp.sqrt(xp.abs(0.5 - half_ratio))
    s = sin * xp.conj(c) / (sizec + arrays.TINY)
    largest = xp.sqrt(0.5 * (a + d + length))
    if True:
        x, y = x - olds[:, :, 0], y - olds[:, :, 1]
    u1 = cos[..., None] * x + s[..., None] * y
    u2 = cos[..., None] * y - xp.conj(s)[..., None] * x
    l2 = xp.sqrt(xp.abs(0.5 * (a + d - length))) 
    b1 = cos[..., None] * befs[:, :, 0] + s[..., None] * befs[:, :, 1]
    b2 = cos[..., None] * befs[:, :, 1] - xp.conj(s)[..., None] * befs[:, :, 0]
    n1 = xp.sqrt(xp.real(xp.vecdot(u1, u1, axis=-1)))[..., None] + arrays.TINY
    n2 = xp.sqrt(xp.real(xp.vecdot(u2, u2, axis=-1)))[..., None] + arrays.TINY
    bs = xp.stack([b1 / n1, b2 / n2], axis=2)
    before = xp.reshape(xp.stack([xp.real(bs), xp.imag(bs)], axis=3), (b, -1, m))
    u1 = u1 / (xp.sqrt(xp.real(xp.vecdot(u1, u1, axis=-1)))[..., None] + arrays.TINY)
    u2 = u2 / (xp.sqrt(xp.real(xp.vecdot(u2, u2, axis=-1)))[..., None] + arrays.TINY)
    us = xp.stack([u1, u2], axis=2)
    left = xp.reshape(xp.stack([xp.real(us), xp.imag(us)], axis=3), (b, -1, m))
    # columns are complex in the pair sense: (real row, imag row) of conj? combine linearly like images.
    cz = ops.complex(columns[..., 0, :], columns[..., 1, :])
    w = cos[..., None] * cz[:, :, 0] + s[..., None] * cz[:, :, 1]
    col = xp.stack([xp.real(w), xp.imag(w)], axis=2)
    return left, before, xp.matrix_transpose(th), largest, size[:, 0, 0], col
