"""Check a certificate of specnorm without any of its code: python check.py CERTIFICATE MODEL [--balls].

Imports the standard library, NumPy, and onnx or safetensors to read the model. Exit code 0: every claim is proven; 1: one
is not; 2: something is not covered here, or cannot be read. `docs/check-it-yourself.md` proves the lemmas, and
`docs/certificate.schema.json` is the format. Numbers outside of arrays are `Fraction`, which is exact. G is the symbol of
a kernel with k_j taps an axis: the sum of its taps times exp(i t.theta).

LEMMA 1 (cells). Boxes with centres c and half-widths d_j cover the frequencies; at each centre |G(c)| <= U cos(phi) with
phi = sum_j (k_j - 1)/2 d_j < pi/2. Then |G| <= U everywhere (Bernstein, Szego; Duffin, Schaeffer).
LEMMA 2 (every size). A zero-padded layer, and a circular one whose stride divides its size, has at most the norm sup |G|.
LEMMA 3 (one size). A layer of n pixels an axis and zeros beyond is a part of every circulant, plain or skew, of
N >= max(n, n + p, s (m - 1) + r (k - 1) - p + 1, s m) pixels; p zeros before, m outputs, stride s, dilation r.
LEMMA 4 (Cholesky; Rump 2006). If the factorisation of a Hermitian M of order n ends in floating point, M + g/(1 - g) tr(M)
is positive semidefinite; g = sqrt(2) gamma(2n + 2), gamma(j) = j u/(1 - j u), u = 2**-53.
LEMMA 5 (LipSDP). Values z_i = phi_i(sum_j W_ij z_j), slopes in [a, b], a <= 0 <= b, weights q_i > 0: see `together`.
"""

import argparse
import hashlib
import itertools
import json
import math
import re
import sys
import time
from fractions import Fraction

import numpy as np

VERSION, LONGEST, POINTS, ENTRIES = 3, 2**28, 2**24, 2**22
PI, ROOT2 = Fraction(3141592653589793239, 10**18), Fraction(141422, 100000)  # from above
TINY = Fraction(1, 2**600)  # more than all that underflows, of sums of magnitudes below 2**200
DAMAGED = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, ZeroDivisionError)


class Refuted(Exception):
    """A claim that is not proven."""


class NotCovered(Exception):
    """What would have to be checked is not known here."""


def require(condition, words, kind=Refuted):
    if not condition:
        raise kind(words)


def gamma(n):
    """What n roundings can make of a term, relatively: in any order, a sum of n products has no more."""
    return Fraction(n, 2**53 - n)


def down(x):
    found = float(x)
    return found if Fraction(found) <= x else math.nextafter(found, -math.inf)


def root_up(x):
    return Fraction(math.isqrt(math.ceil(x * 2**400)) + 1, 2**200)


def cos_down(phi):
    """At most cos(phi): Taylor's sum, alternating, ended by a negative term."""
    require(2 * phi < PI - Fraction(1, 10**17), "a cell is too wide")
    phi = Fraction(math.ceil(phi * 2**80), 2**80)
    total = term = Fraction(1)
    for k in range(1, 20):
        term *= -phi * phi / ((2 * k - 1) * (2 * k))
        total += term
    return total


# -- the symbols of a kernel at some frequencies ---------------------------------------------------------------------------
def bounded(blocks, points, upper, magnitude=None, roundings=0, balls=False, hermitian=""):
    """Prove |G| <= upper * cos at all points, for each of some kernels (g, m, p, *taps); the number of factorisations.

    An entry of ``blocks`` may be off by ``gamma(roundings)`` times that of ``magnitude``. ``points``: (numerators (f, d),
    denominators (d,), cos) of frequencies 2 pi numerator / denominator.

    Rounding. G: T products and sums, cosines and sines off by 16 u (an angle up to pi has three roundings, 9.5 u, and the
    functions 4 units in the last place): at most gamma(T + 16 + roundings) Q, Q the sum of the taps' magnitudes; |Q|**2 is
    at most q = its largest row sum times its largest column sum. G*G: real and imaginary parts of its entries are sums of
    2m products: sqrt(2) gamma(2m) (|G|, entry-wise)**2. Cholesky: m_ij = sum_k l_ik conj(l_jk) has 2(p - 1) products in
    each part and a quotient, or a product with a reciprocal; roots have two more: sqrt(2) gamma(2p + 2) |l_i| |l_j|.
    Lemma 4 follows, since |l_i|**2 <= m_ii/(1 - g). Here m_ii = x - (G*G)_ii has one rounding, and the trace is <= p x.

    ``hermitian``: G itself, zero on its diagonal, is to have no eigenvalue above: Lemma 1 holds of v*Gv, between -m and U,
    with (U - m)/2 + (U + m)/2 cos(phi) in place of U cos(phi). m = U for a "chain", whose G and -G are similar; else m**2 = q.
    """
    magnitude = np.abs(blocks if magnitude is None else magnitude)
    if blocks.shape[1] < blocks.shape[2]:  # the transposed symbol has the same norm
        blocks, magnitude = blocks.swapaxes(1, 2), magnitude.swapaxes(1, 2)
    (g, m, p, *taps), seen = blocks.shape, 0
    require(np.isfinite(blocks).all() and np.isfinite(magnitude).all(), "the kernel holds what is no number")
    if not np.any(magnitude):
        return 0
    require(upper > 0, "the bound is 0 and the kernel is not")
    exponent = math.frexp(float(upper))[1]
    upper, count = upper / Fraction(2) ** exponent, math.prod(taps)
    flat, most = (np.ldexp(a.reshape(g, m, p, count), -exponent) for a in (blocks, magnitude))
    mass = most.sum(axis=3)
    q = Fraction(float(mass.sum(axis=1).max())) * Fraction(float(mass.sum(axis=2).max()))
    q = q * (1 + gamma(count + m)) * (1 + gamma(count + p)) + TINY
    require(q < 2**200, "the bound is far below the kernel's entries")
    off = gamma(count + 16 + roundings)
    off_symbol, off_gram = off * root_up(q) + TINY, ROOT2 * gamma(2 * m) * (1 + off) ** 2 * q + TINY
    cholesky = ROOT2 * gamma(2 * p + 2) / (1 - ROOT2 * gamma(2 * p + 2))
    real = np.ascontiguousarray(flat.reshape(g, m * p, count).swapaxes(1, 2))
    where = np.array(list(np.ndindex(*taps)), dtype=np.int64).reshape(count, len(taps))
    where -= np.array([n // 2 if hermitian else 0 for n in taps], dtype=np.int64)
    for numerators, denominators, cos in points:
        room = upper * cos - off_symbol - (Fraction(0) if hermitian != "sums" else (root_up(q) - upper) * (1 - cos) / 2)
        x = down((room if hermitian else room**2 - off_gram) / (1 + cholesky * p * (1 + gamma(2)) + gamma(2))) if room > 0 else -1.0
        require(x > 0, "rounding is larger than what is left")
        step = max(1, ENTRIES // (g * m * p))
        for at in range(0, len(numerators), step):
            turns = in_turns(numerators[at : at + step], denominators, where)
            seen += g * len(turns[0])
            if balls:
                by_balls(flat, most, turns, room + off_symbol, gamma(roundings), bool(hermitian))
                continue
            angle = 2 * math.pi * (turns[0] / turns[1])
            symbol = np.matmul(np.cos(angle), real) + 1j * np.matmul(np.sin(angle), real)
            symbol = symbol.reshape(g, len(angle), m, p)
            matrix = -(symbol if hermitian else np.matmul(symbol.conj().swapaxes(-1, -2), symbol))
            matrix[..., range(p), range(p)] = x + matrix[..., range(p), range(p)].real
            try:
                ended = np.isfinite(np.linalg.cholesky(matrix)).all()
            except np.linalg.LinAlgError:
                ended = False
            require(ended, "at a frequency the norm is larger, or too close to tell")
    return seen


def in_turns(numerators, denominators, where):
    """t.theta / 2 pi less whole turns, for each frequency and tap t: whole numbers, and what divides them."""
    common = math.lcm(1, *denominators)
    require(common * (1 + where.max(initial=1)) * (1 + where.shape[1]) < 2**52, "so fine a grid", NotCovered)
    rest = numerators % np.array(denominators, dtype=np.int64) * [common // n for n in denominators] @ where.T % common
    return np.where(2 * rest > common, rest - common, rest), common


def by_balls(blocks, magnitude, turns, tau, off, hermitian):
    """|G| < tau, or G < tau, by Gaussian elimination in ball arithmetic, where each operation counts its own rounding."""
    from flint import acb, arb, ctx, fmpq

    ctx.prec, (tau, off) = 128, (arb(fmpq(x.numerator, x.denominator)) for x in (tau, off))
    for phases in [[acb(fmpq(2 * t, turns[1])).exp_pi_i() for t in row] for row in turns[0].tolist()]:
        for block, size in zip(blocks.tolist(), magnitude.tolist(), strict=True):
            wide = [[arb(0, (off * sum(map(arb, s))).upper()) if off > 0 else arb(0) for s in row] for row in size]
            pairs = [zip(*rows, strict=True) for rows in zip(block, wide, strict=True)]
            g = [[sum((w * k for w, k in zip(phases, t, strict=True)), acb(e, e)) for t, e in row] for row in pairs]
            n = len(g[0])
            gram = g if hermitian else [[sum(r[i].conjugate() * r[j] for r in g) for j in range(n)] for i in range(n)]
            a = [[(tau if hermitian else tau**2) * (i == j) - gram[i][j] for j in range(n)] for i in range(n)]
            for k in range(n):
                require(a[k][k].real > 0, "at a frequency the norm is larger, or too close to tell")
                for i, j in itertools.product(range(k + 1, n), repeat=2):
                    a[i][j] -= a[i][k] * a[k][j] / a[k][k].real


def half(sizes, skew):
    """Points 2 pi (a + skew/2) / N, but those whose negatives are there: at these a real kernel has the same norm."""
    first = next((j for j, n in enumerate(sizes) if n > 1), len(sizes))
    few = [n // 2 + 1 if j == first else n for j, n in enumerate(sizes)]
    grid = np.indices(few).reshape(len(few), math.prod(few)).T
    return 2 * grid.astype(np.int64) + np.array(skew, dtype=np.int64), [2 * n for n in sizes]


def everywhere(proof, taps):
    """Points of Lemma 1: of a grid, or of the leaves of a tree of boxes.

    In a tree a digit halves the box along that axis, the lower half first, and a dot leaves it: whatever is written, the
    leaves cover the root, which is [0, pi] on the first axis that has taps and [0, 2 pi] on the others.
    """
    require(len(proof) == 1 and set(proof) <= {"grid", "tree"}, "its proof is not one of every frequency")
    first = next((j for j, k in enumerate(taps) if k > 1), len(taps))
    if "grid" in proof:
        sizes = wholes(proof["grid"], len(taps), 1)
        require(math.prod(sizes) <= 2 * POINTS, "so fine a grid", NotCovered)
        yield *half(sizes, [0] * len(taps)), cos_down(sum(PI * (k - 1) / (2 * n) for k, n in zip(taps, sizes, strict=True)))
        return
    require(re.fullmatch(r"[.012]+", proof["tree"]) and len(proof["tree"]) <= 2 * POINTS, "its tree is none")
    waiting, leaves = [((0, 0),) * len(taps)], {}  # [a, a + 1] / 2**b of each axis
    for letter in proof["tree"]:
        require(waiting, "its tree goes on after its end")
        box = waiting.pop()
        if letter == ".":
            leaves.setdefault(tuple(b for _, b in box), []).append([2 * a + 1 for a, _ in box])
            continue
        j = int(letter)
        require(j < len(taps) and taps[j] > 1 and box[j][1] < 40, "its tree halves what has no taps, or too often")
        (a, b) = box[j]
        waiting += [(*box[:j], (2 * a + side, b + 1), *box[j + 1 :]) for side in (1, 0)]
    require(not waiting, "its tree does not cover the frequencies")
    for depths, centres in leaves.items():
        turns = [2 ** (b + 1 + (j == first)) for j, b in enumerate(depths)]  # half-widths are 2 pi over that
        phi = sum((PI * (k - 1) / n for k, n in zip(taps, turns, strict=True)), Fraction(0))
        yield np.array(centres, dtype=np.int64).reshape(len(centres), len(taps)) * [k > 1 for k in taps], turns, cos_down(phi)


# -- layers ----------------------------------------------------------------------------------------------------------------
def wholes(value, count, least):
    plain = isinstance(value, list) and len(value) == count
    require(plain and all(type(n) is int and least <= n < 2**24 for n in value), f"expected {count} whole numbers")
    return value


def geometry(claim, d):
    """What a claim says of its layer: stride, dilation, padding and sizes of d axes."""
    found = {name: wholes(claim[name], d, 1) for name in ("stride", "dilation")}
    found |= {"groups": wholes([claim["groups"]], 1, 1)[0], "transposed": claim["transposed"]}
    found |= {"mode": claim["padding_mode"], "padding": [wholes(pair, 2, -(2**24)) for pair in claim["padding"]]}
    sizes = claim["sizes"]
    found["sizes"] = None if sizes in ("every", "divided") else wholes(sizes, d, 1)
    require(len(found["padding"]) == d and type(found["transposed"]) is bool, "its geometry is none")
    require(found["mode"] in ("zeros", "circular") or not found["transposed"], "no transposed layer is padded so")
    require(found["mode"] in ("zeros", "circular", "reflect", "replicate"), "its padding is none")
    # What wraps around meets the border at another phase where the stride does not divide the size.
    if found["mode"] == "circular" and not found["transposed"] and any(
        s > 1 and sum(pads) > 0 for s, pads in zip(found["stride"], found["padding"], strict=True)
    ):
        divided = sizes == "divided" or (found["sizes"] and not any(np.mod(found["sizes"], found["stride"])))
        require(divided, "its stride does not divide every size")
    return found


def canonical(kernel, of):
    """Kernels (g, m, p, *taps) of stride 1 and dilation 1 whose symbols have the layer's norms: Lemma 2.

    Groups are apart. With c = gcd(r, s), s' = s/c, r' = r/c, output i reads at tap t = s' a + b the pixel c (s' i + r' t):
    of phase r' b mod s', another for each b < s', the pixel i + r' a and a shift. Frequencies are multiplied by r'.
    """
    g, d = of["groups"], kernel.ndim - 2
    steps = [s // math.gcd(r, s) for r, s in zip(of["dilation"], of["stride"], strict=True)]
    steps = [min(s, k) for s, k in zip(steps, kernel.shape[2:], strict=True)]
    taps = [-(-k // s) for s, k in zip(steps, kernel.shape[2:], strict=True)]
    wide = np.zeros((*kernel.shape[:2], *(s * n for s, n in zip(steps, taps, strict=True))))
    wide[(slice(None), slice(None), *map(slice, kernel.shape[2:]))] = kernel
    wide = wide.reshape(g, kernel.shape[0] // g, kernel.shape[1], *itertools.chain(*zip(taps, steps, strict=True)))
    order = (0, 1, 2, *range(4, 3 + 2 * d, 2), *range(3, 3 + 2 * d, 2))
    return wide.transpose(order).reshape(g, kernel.shape[0] // g, -1, *taps)


def pixels(of, taps):
    """(n, m) an axis: the pixels that a convolution reads and those that it makes; a transposed layer is its adjoint."""
    for n, k, s, r, pads in zip(of["sizes"], taps, of["stride"], of["dilation"], of["padding"], strict=True):
        if of["transposed"]:
            yield (n * s if of["mode"] == "circular" else (n - 1) * s - sum(pads) + r * (k - 1) + 1), n
        else:
            yield n, (n + sum(pads) - r * (k - 1) - 1) // s + 1


def gain(of, taps):
    """Square of the norm of the padding: how often it repeats a pixel, or of circular outputs one, on all axes."""
    total, sizes = 1, of["sizes"] or [None] * len(taps)
    for n, k, s, r, pads in zip(sizes, taps, of["stride"], of["dilation"], of["padding"], strict=True):
        extra = -(-(sum(pads) - r * (k - 1)) // s)
        if of["mode"] == "circular":
            require(extra == 0 or not of["transposed"], "no transposed layer is padded so")
            total *= 1 + -(-max(extra, 0) // (n // s if n else 1))
        elif of["mode"] != "zeros" and max(pads) > 0:
            wide, kind = [max(a, 0) for a in pads], "edge" if of["mode"] == "replicate" else "reflect"
            require(max(wide) <= 64, "padding that is so wide", NotCovered)  # beyond 2 p + 3 pixels nothing changes
            usable = [n] if n else [n for n in range(1, 2 * sum(wide) + 4) if kind == "edge" or n > max(wide)]
            total *= max(int(np.bincount(np.pad(np.arange(size), wide, kind)).max()) for size in usable)
    return total


def circulant(proof, of, taps):
    """The frequencies of a circulant that a layer at its size is, or is a part of: Lemma 3."""
    require(set(proof) == {"circulant", "skew"} and of["sizes"] is not None, "its proof is not one of this size")
    points, skew = wholes(proof["circulant"], len(taps), 1), wholes(proof["skew"], len(taps), 0)
    require(math.prod(points) <= 2 * POINTS and max(skew, default=0) <= 1, "so fine a grid", NotCovered)
    for j, (n, m) in enumerate(pixels(of, taps)):
        s, r, k, pads = of["stride"][j], of["dilation"][j], taps[j], of["padding"][j]
        if of["mode"] == "circular":
            period = m if of["transposed"] else n // s
            own = period // math.gcd(r // math.gcd(r, s), period)
            require(n % s == 0 and points[j] == own and not skew[j], "its circulant is not this layer")
        else:
            least = max(n, n + pads[0], s * (m - 1) + r * (k - 1) - pads[0] + 1, s * m)
            require(points[j] * math.lcm(s, r) >= least, "its circulant is too short")
            require(of["mode"] == "zeros" or max(pads) <= 0, "the layer reads other than zeros")
    yield *half(points, skew), Fraction(1)


def own_matrix(kernel, of):
    """Matrices (g, outputs, inputs) of a layer at its size; each entry is a sum of at most as many taps as there are."""
    (first, p, *taps), g, ends = kernel.shape, of["groups"], list(pixels(of, kernel.shape[2:]))
    n, m = (math.prod(side) for side in ([a for a, _ in ends], [b for _, b in ends]))
    few = all(min(pair) > 0 for pair in ends) and first * p * n * m <= 2**27
    wide = [[max(a, 0) for a in pads] for pads in of["padding"]]
    require(few and math.prod(a + sum(pads) for (a, _), pads in zip(ends, wide, strict=True)) < 2**24, "so large a matrix")
    kind = {"zeros": "constant", "circular": "wrap", "reflect": "reflect", "replicate": "edge"}[of["mode"]]
    fits = kind != "reflect" or all(a > max(pads) for (a, _), pads in zip(ends, wide, strict=True))
    require(fits and not (of["transposed"] and kind == "wrap"), "such padding of so few pixels", NotCovered)
    place = np.pad(np.arange(n).reshape([a for a, _ in ends]), wide, kind, **({"constant_values": -1} if kind[0] == "c" else {}))
    matrix = np.zeros((g, first // g, m, p, n))
    for tap in np.ndindex(*taps):
        start = [w[0] - a[0] + r * t for w, a, r, t in zip(wide, of["padding"], of["dilation"], tap, strict=True)]
        stop = [a + s * (b - 1) + 1 for a, s, (_, b) in zip(start, of["stride"], ends, strict=True)]
        reads = place[tuple(map(slice, start, stop, of["stride"]))].ravel()
        inside = np.flatnonzero(reads >= 0)
        matrix[:, :, inside, :, reads[inside]] += kernel[(..., *tap)].reshape(g, first // g, p)
    return matrix.reshape(g, first // g * m, p * n)


def layer(kernel, of, upper, proof, magnitude=None, roundings=0, balls=False):
    """Prove that a layer's norm is at most ``upper``; the number of factorisations."""
    first, taps = kernel.shape[0], kernel.shape[2:]
    require(first % of["groups"] == 0 and isinstance(proof, dict), "its groups do not divide its channels")
    magnitude = np.abs(kernel) if magnitude is None else magnitude
    if set(proof) == {"matrix"} and of["sizes"]:
        alone, size = (np.zeros((1, 0), dtype=np.int64), [], Fraction(1)), math.prod(taps)
        sums = own_matrix(magnitude, of) * (1 + 2**-40)
        return bounded(own_matrix(kernel, of), [alone], upper, sums, roundings + size, balls)
    blocks, lifted = canonical(kernel, of), gain(of, taps)
    points = circulant(proof, of, taps) if "circulant" in proof else everywhere(proof, blocks.shape[3:])
    upper = upper if lifted == 1 else upper / root_up(Fraction(lifted))
    return bounded(blocks, points, upper, canonical(magnitude, of), roundings, balls)


# -- networks --------------------------------------------------------------------------------------------------------------
ALIKE = {"Identity", "Dropout", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze"}  # the same entries
PARTS = {"Slice", "Split", "Softmax"}
SLOPES = {"Relu": (0, 1), "Tanh": (0, 1), "Softplus": (0, 1), "Softsign": (0, 1), "Clip": (0, 1), "Atan": (0, 1)}
SLOPES |= {"Sigmoid": (0, 0.25), "Abs": (-1, 1), "Neg": (-1, -1), "Sin": (-1, 1), "Cos": (-1, 1), "LeakyRelu": (1, 1)}
SLOPES |= {"HardSwish": (-0.5, 1.5), "Gelu": (-0.12902, 1.12902), "Mish": (-0.12, 1.08851), "PRelu": (1, 1)}


class Network:
    """The claim about an ONNX graph with one input, whose axis 1 holds channels."""

    def __init__(self, model, arrays, claim):
        import onnx

        require(claim["tensors"] == {name: digest(array) for name, array in arrays.items()}, "a tensor has other bits")
        onnx.checker.check_model(model)
        self.claim, self.arrays, self.made = claim, dict(arrays), {}
        (start,) = (one for one in model.graph.input if one.name not in arrays)
        for size, n in zip(start.type.tensor_type.shape.dim, claim["input_shape"], strict=True):
            require(type(n) is str or size.dim_value in (0, *wholes([n], 1, 1)), "the model's input has another shape")
            if type(n) is int:
                size.dim_value = n
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
        sizes = {v.name: v.type.tensor_type.shape.dim for v in (*graph.value_info, *graph.input, *graph.output)}
        self.shapes = {name: tuple(d.dim_value or d.dim_param or None for d in one) for name, one in sizes.items()}
        self.outputs = [one.name for one in graph.output]
        for node in graph.node:
            given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            plain = not node.domain and given.get("auto_pad", b"NOTSET") == b"NOTSET" and not given.get("ceil_mode")
            require(plain, f"such a {node.op_type}", NotCovered)
            if node.op_type == "Constant":
                self.arrays[node.output[0]] = onnx.numpy_helper.to_array(given["value"])
            self.made |= dict.fromkeys(node.output, (node.op_type, [x for x in node.input if x], given))
        if claim["of"] == "x - f(x)":
            self.made[claim["of"]] = ("Sub", [start.name, *self.outputs], {})
            self.outputs, self.shapes[claim["of"]] = [claim["of"]], self.shapes[start.name]
        self.known = {start.name: Fraction(1)}

    def check(self, upper, balls):
        """Prove the claim from constants of the map from the input to each value: by rules, and by the claim's parts."""
        known, weighted, seen, missing = self.known, {}, 0, ""
        for name, (op, inputs, _) in self.made.items():
            before = [known.get(one) for one in inputs if one not in self.arrays]
            if None not in before and op not in ("Conv", "Gemm", "MatMul", "BatchNormalization"):
                try:
                    known[name] = self.rule(name, before)
                except NotCovered as error:
                    missing = f": {error}"
            for part in (one for one in self.claim["parts"] if one["values"][-1] == name):
                start, weights = part["start"], [[number(x) for x in w] for w in part["weights"]]
                require(start in known and all(map(min, weights)), "its parts are in no order, or a weight is 0")
                given = [c for w, c in weighted.get(start, []) if len(w) == len(weights[0]) and all(map(Fraction.__le__, weights[0], w))]
                constant, repeat, count = self.together(part, weights, balls)
                constant, seen = constant * min([known[start] * max(weights[0]), *given]), seen + count
                weighted.setdefault(name, []).append((np.repeat(weights[-1], repeat).tolist(), constant))
                known[name] = min(constant / min(weights[-1]), known.get(name, math.inf))
        require(all(name in known for name in self.outputs), f"an output has no bound{missing}", NotCovered)
        ends = [known[name] for name in self.outputs]
        require((root_up(sum(c * c for c in ends)) if ends[1:] else ends[0]) <= upper, "its parts make up a larger constant")
        return seen

    def rule(self, name, before):
        """A constant of the map to the value of an operator, from those of what moves among its inputs."""
        op, inputs, _ = self.made[name]
        if op in ("Add", "Sub", "Sum", "Max", "Min", "Concat") and before:
            same = all(self.shapes[one] == self.shapes[name] for one in inputs if one not in self.arrays)
            require(op == "Concat" or (same and None not in self.shapes[name]), f"{op} of other shapes", NotCovered)
            several = op in ("Max", "Min", "Concat") and before[1:]
            return root_up(sum(c * c for c in before)) if several else sum(before)
        require(len(before) < 2 and (op != "Dropout" or len(inputs) < 3), op, NotCovered)
        low, high, factor, _ = (0, 1, 1, 1) if op in PARTS or not before else self.effect(name, 1)
        return sum(before) * Fraction(float(np.max(np.abs([low, high])))) * factor

    def effect(self, name, width):
        """A function's slopes, or the norm of a pooling, of channels; and how often each is repeated, 0: otherwise."""
        op, inputs, given = self.made[name]
        shape, low, high = self.shapes[inputs[0]], *np.ones((2, width))
        if op in SLOPES:
            low, high = low * SLOPES[op][0], high * SLOPES[op][1]
            if op in ("LeakyRelu", "PRelu"):
                slope = self.arrays[inputs[1]].astype(float).ravel() if op == "PRelu" else given.get("alpha", 0.01)
                low, high = np.minimum(low, slope), np.maximum(high, slope)
                require(width in (1, len(low)), "slopes that are not one a channel", NotCovered)
            return low, high, Fraction(1), 1
        if op in ("MaxPool", "AveragePool"):
            taps, pads = given["kernel_shape"], given.get("count_include_pad") or not any(given.get("pads", []))
            axes = list(zip(taps, given.get("strides", [1] * len(taps)), given.get("dilations", [1] * len(taps)), strict=True))
            over = math.prod(-(-k // (s // math.gcd(s, r))) for k, s, r in axes)  # how many windows hold a pixel
            if op == "AveragePool":
                require(pads and all(r == 1 for _, _, r in axes), op, NotCovered)
                over = math.prod(Fraction(sum(len(range(b, k, s)) ** 2 for b in range(min(s, k))), k * k) for k, s, _ in axes)
            return low, high, root_up(Fraction(over)), 1
        if op in ("GlobalAveragePool", "GlobalMaxPool"):
            return low, high, root_up(1 / Fraction(math.prod(shape[2:]) if op == "GlobalAveragePool" else 1)), 1
        require(op in ALIKE and (op != "Transpose" or width == 1), op, NotCovered)
        flat = shape != self.shapes[name] and self.shapes[name] == (shape[0], math.prod(shape[1:]))
        return low, high, Fraction(1), math.prod(shape[2:]) if flat else int(shape == self.shapes[name])

    def link(self, name, stops, part):
        """A value of a part: the terms of a sum, slopes of the function of it, and what follows: factor, repeat."""
        op, inputs, _ = self.made[name]
        if op not in SLOPES and op not in ALIKE and "Pool" not in op:
            terms = self.terms(name, stops, part)
            return terms, *np.ones((2, len(terms[0][1]))), Fraction(1), 1
        if inputs[0] in stops:
            terms = self.terms(inputs[0], stops, part)
            before = (terms, *np.ones((2, len(terms[0][1]))), Fraction(1), 1)
        else:
            before = self.link(inputs[0], stops, part)
        terms, low, high, factor, repeat = before
        a, b, more, times = self.effect(name, len(low))
        require((times or part["units"]) and not (part["units"] and "Pool" in op), f"{op} within a part", NotCovered)
        if part["units"] or factor == repeat == more == times == 1:
            require(np.all(low == high) or np.all(a == b), "functions of functions", NotCovered)
            ends = [low * a, low * b, high * a, high * b]
            return terms, np.min(ends, axis=0), np.max(ends, axis=0), factor, repeat
        return terms, low, high, factor * more * Fraction(float(np.max(np.abs([a, b])))), repeat * times

    def terms(self, name, stops, part):
        """A value as a sum of (source, kernel, place of its first tap, stride); of single units, with ``units``."""
        units, d = part["units"], 0 if part["units"] else len(self.shapes[part["start"]]) - 2
        if name in stops:
            n = math.prod(self.shapes[name][1:]) if units else self.shapes[name][1]
            return [(name, np.eye(n).reshape(n, n, *[1] * d), [0] * d, [1] * d)]
        op, inputs, given = self.made[name]
        moving = [one for one in inputs if one not in self.arrays]
        if op in ("Conv", "Gemm", "MatMul"):
            require(moving == inputs[:1] and moving[0] in stops and not given.get("transA"), f"{op} in a part", NotCovered)
            kernel, e = self.arrays[inputs[1]].astype(float), len(self.shapes[moving[0]]) - 2
            if op != "Conv":
                require(d == e == 0 and kernel.ndim == 2, f"{op} in a part", NotCovered)
                return [(moving[0], (kernel if given.get("transB") else kernel.T) * given.get("alpha", 1.0), [], [])]
            pads, ones, g = given.get("pads", [0] * 2 * e), [1] * e, given.get("group", 1)
            of = {"stride": given.get("strides", ones), "dilation": given.get("dilations", ones), "groups": g, "mode": "zeros"}
            of |= {"transposed": False, "sizes": self.shapes[moving[0]][2:], "padding": list(zip(pads[:e], pads[e:], strict=True))}
            blocks = own_matrix(kernel, of) if units else kernel.reshape(g, -1, *kernel.shape[1:])
            far = [r * (k - 1) + 1 for r, k in zip(of["dilation"], blocks.shape[3:], strict=False)]
            whole = np.zeros((g, blocks.shape[1], g, blocks.shape[2], *far))
            for i in range(g):
                whole[(i, slice(None), i, slice(None), *(slice(None, None, r) for r in of["dilation"][:d]))] = blocks[i]
            whole = whole.reshape(g * blocks.shape[1], g * blocks.shape[2], *far)
            return [(moving[0], whole, [-a for a in pads[:d]], list(of["stride"][:d]))]
        if op == "BatchNormalization":
            scale, _, _, variance = (self.arrays[one].astype(float) for one in inputs[1:])
            require(not given.get("training_mode") and variance.min() >= 0, "a batch's own statistics", NotCovered)
            scale = scale / np.sqrt(variance + given.get("epsilon", 1e-5))
            found = self.terms(inputs[0], stops, part)
            return [(a, k * np.repeat(scale, len(k) // len(scale)).reshape(-1, 1, *[1] * d), p, s) for a, k, p, s in found]
        require(op in ("Add", "Sub", "Sum") and all(self.shapes[x] == self.shapes[name] for x in moving), op, NotCovered)
        signs = [(one, -1.0 if op == "Sub" and at else 1.0) for at, one in enumerate(inputs) if one in moving]
        return [(a, sign * k, p, s) for one, sign in signs for a, k, p, s in self.terms(one, stops, part)]

    def together(self, part, weights, balls):
        """Lemma 5: |q_l (y - y')| <= L |q_0 (x - x')| for the values of a part; L, how often y repeats, factorisations.

        With v_i = sum_j W_ij z_j, |q_0 x|^2 + sum_i q_i^2 (z_i - a v_i)(z_i - b v_i) - |q_l y|^2/L^2 >= 0 if K <= 1 at every
        frequency: K Hermitian, of blocks q_i (a + b)/2 W_ij / q_j, and q_i sqrt(-a b) W_ij / q_j to vertices of their own.
        K <= s gives, by q_i times powers of a number, L = s^l where each value reads the one before and else
        (2s - 1)^(links on the longest way): `docs/check-it-yourself.md`.
        """
        names, upper, edges, depth = [part["start"], *part["values"]], number(part["upper"]), [], [0]
        links = [self.link(name, names[: i + 1], part) for i, name in enumerate(part["values"])]
        require(all(more == times == 1 for *_, more, times in links[:-1]) and len(weights) == len(names), "it is no part")
        q = [np.array([float(x) for x in w]) for w in weights]
        for i, (terms, low, high, _, _) in enumerate(links, 1):
            low, high, last = np.minimum(low, 0), np.maximum(high, 0), i == len(links)
            tops = [(i, np.maximum(-low, high) if last else (low + high) / 2), (-i, np.sqrt(-low * high) * (not last))]
            depth.append(1 + max(depth[names.index(source)] for source, *_ in terms))
            for (source, kernel, place, stride), (top, slope) in itertools.product(terms, tops):
                j, d = names.index(source), len(place)
                require(j == 0 or max(stride, default=1) == 1, "a stride within a part", NotCovered)
                ahead = [a % s for a, s in zip(place, stride, strict=True)]  # phases of what is read are channels
                pads = [(b, max(0, s - b - k)) for b, s, k in zip(ahead, stride, kernel.shape[2:], strict=True)]
                kernel = np.pad(kernel, [(0, 0), (0, 0), *pads])
                kernel = canonical(kernel, {"groups": 1, "dilation": [1] * d, "stride": stride})[0]
                kernel = kernel * (q[i] * slope).reshape(-1, 1, *[1] * d)
                kernel = kernel / np.repeat(q[j], kernel.shape[1] // len(q[j])).reshape(1, -1, *[1] * d)
                if np.any(slope):
                    edges.append((j, top, kernel, [a // s for a, s in zip(place, stride, strict=True)]))
        require(len({tuple(s) for terms, *_ in links for a, _, _, s in terms if a == names[0]}) == 1, "strides", NotCovered)
        size = {v: n for j, i, kernel, _ in edges for v, n in ((i, len(kernel)), (j, kernel.shape[1]))}
        ends = dict(zip(size, itertools.accumulate(size.values()), strict=True))
        at = {v: slice(ends[v] - n, ends[v]) for v, n in size.items()}
        d = len(edges[0][3])
        reach = [max(max(abs(p[x]), abs(p[x] + k.shape[2 + x] - 1)) for *_, k, p in edges) for x in range(d)]
        whole = np.zeros((2, sum(size.values()), sum(size.values()), *(2 * r + 1 for r in reach)))
        for j, i, kernel, place in edges:
            taps = tuple(slice(r + p, r + p + n) for r, p, n in zip(reach, place, kernel.shape[2:], strict=True))
            for a, sums in zip((kernel, np.abs(kernel)), whole, strict=True):
                sums[(at[i], at[j], *taps)] += a
                back = np.flip(sums, axis=tuple(range(2, 2 + d)))
                back[(at[j], at[i], *taps)] += a.swapaxes(0, 1)
        chain = all({names.index(source) for source, *_ in terms} == {i} for i, (terms, *_) in enumerate(links))
        roundings = 24 + max(len(terms) for terms, *_ in links)
        points = list(everywhere(part["proof"], whole.shape[3:]))
        seen = bounded(whole[:1], points, upper, whole[1:], roundings, balls, "chain" if chain else "sums")
        each = upper if chain else max(Fraction(1), 2 * upper - 1)
        return each ** (len(links) if chain else depth[-1]) * links[-1][3], links[-1][4], seen


# -- files -----------------------------------------------------------------------------------------------------------------
def read_certificate(path):
    """Claims of a file of JSON without numbers but whole ones, and without two entries of one name."""

    def entries(pairs):
        require(len({name for name, _ in pairs}) == len(pairs), "an entry is given twice")
        return dict(pairs)

    def no_number(text):
        raise Refuted(f"{text[:20]} is no whole number of few digits; other numbers are hexadecimal text")

    def whole(text):
        return int(text) if len(text) < 17 else no_number(text)

    with open(path, "rb") as file:
        text = file.read(LONGEST + 1)
    require(len(text) <= LONGEST, f"it has more than {LONGEST} bytes")
    found = json.loads(text, object_pairs_hook=entries, parse_float=no_number, parse_constant=no_number, parse_int=whole)
    require(type(found) is dict and found["specnorm_certificate"] == VERSION, f"it is none of format {VERSION}", NotCovered)
    require(isinstance(found["claims"], list) and found["claims"], "it claims nothing")
    return found["claims"]


def number(text):
    """A float, written in hexadecimal, that is not negative."""
    require(re.fullmatch(r"0x[01]\.[0-9a-f]{1,13}p[+-][0-9]{1,4}", text), "a number is not hexadecimal")
    return Fraction(float.fromhex(text))


def read_model(path):
    """Arrays by name, and the ONNX model or None."""
    with open(path, "rb") as file:
        begin = file.read(9)
    if begin[:2] == b"PK":
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays), None
    if begin[8:] == b"{":
        from safetensors.numpy import load_file

        return load_file(path), None
    import onnx

    model = onnx.load(path)
    return {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}, model


def digest(array):
    """SHA-256 of an array's bits: little-endian, the last axis first."""
    return hashlib.sha256(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()).hexdigest()


def kernel_of(claim, arrays):
    """A kernel in torch's order, exact in double precision, that is bit for bit the one of which a claim speaks."""
    said, layout = claim["kernel"], claim["kernel"]["layout"]
    require(said["tensor"] in arrays, "the model has no such tensor")
    array = arrays[said["tensor"]]
    require(array.dtype.name in ("float16", "float32", "float64"), f"{array.dtype.name} numbers", NotCovered)
    require(said["dtype"] == array.dtype.name and said["shape"] == list(array.shape), "the kernel has another shape")
    require(said["sha256"] == digest(array), "the kernel is another one, bit for bit")
    require(2 <= array.ndim <= 5 and array.size and layout in ("OI", "IO"), "no kernel of a layer")
    order = range(array.ndim) if layout == "OI" else (array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))
    return array.transpose(order).astype(np.float64)


def check(claim, arrays, model, balls):
    """Prove one claim; what is proven in words, and the number of factorisations."""
    upper = number(claim["upper"])
    if claim["claim"] == "layer":
        kernel = kernel_of(claim, arrays)
        of = geometry(claim, kernel.ndim - 2)
        where = claim["sizes"] if of["sizes"] is None else "x".join(map(str, of["sizes"]))
        return f"layer, {where} size", layer(kernel, of, upper, claim["proof"], balls=balls)
    require(claim["claim"] == "network", "a claim of another kind", NotCovered)
    require(model is not None, "a network without its ONNX file", NotCovered)
    return "network", Network(model, arrays, claim).check(upper, balls)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("certificate")
    parser.add_argument("model")
    parser.add_argument("--balls", action="store_true", help="in ball arithmetic, with python-flint: slow")
    arguments, worst = parser.parse_args(), 0
    try:
        claims, (arrays, model) = read_certificate(arguments.certificate), read_model(arguments.model)
    except (Refuted, NotCovered, OSError, MemoryError, RecursionError, ImportError, *DAMAGED) as error:
        return print(f"not read: {type(error).__name__}: {ascii(str(error))[:200]}") or 2
    except Exception as error:  # of the libraries that read models
        return print(f"not read: the model: {type(error).__name__}: {ascii(str(error))[:200]}") or 2
    for at, claim in enumerate(claims):
        begin, code = time.perf_counter(), 1
        name = ascii(claim.get("name", at))[:80] if isinstance(claim, dict) else f"claim {at}"
        try:
            what, count = check(claim, arrays, model, arguments.balls)
            words, code = f"{what}: at most {float(number(claim['upper'])):.6g}; {count} factorisations", 0
        except NotCovered as error:
            words, code = f"not covered: {error}", 2
        except Refuted as error:
            words = f"not proven: {error}"
        except (MemoryError, RecursionError, *DAMAGED) as error:
            words = f"not proven: the claim is damaged ({type(error).__name__}: {ascii(str(error))[:80]})"
        print(f"{'proven' if not code else 'FAILED'} {name} {words}, {time.perf_counter() - begin:.2f} s", flush=True)
        worst = code if worst != 1 and code else worst
    return worst


if __name__ == "__main__":
    sys.exit(main())
