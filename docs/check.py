"""Check a certificate of specnorm without any of its code: python check.py CERTIFICATE MODEL.

Exit code 0: every claim is proven; 1: one is not; 2: something is not covered here, or cannot be read. The proofs are
in `check-it-yourself.md`, the format in `certificate.schema.json`. Numbers outside of arrays are `Fraction`: exact. G
is the symbol of a kernel with k_j taps an axis: the sum of its taps times exp(i t.theta).

LEMMA 1 (cells). Boxes of centres c and half-widths d_j cover the frequencies; at each centre |G(c)| <= U cos(phi) with
phi = sum_j (k_j - 1)/2 d_j < pi/2. Then |G| <= U everywhere (Bernstein, Szego; Duffin, Schaeffer).
LEMMA 2 (every size). A zero-padded layer, and a circular one whose stride divides its size, has a norm <= sup |G|.
LEMMA 3 (one size). A layer of n pixels an axis and zeros beyond is a part of every circulant, plain or skew, of
N >= max(n, n + p, s (m - 1) + r (k - 1) - p + 1, s m) pixels; p zeros before, m outputs, stride s, dilation r.
LEMMA 4 (Cholesky; Rump 2006). If the factorisation of a Hermitian M of order n ends in floating point, M + g/(1 - g)
tr(M) is positive semidefinite; g = sqrt(2) gamma(2n + 2), gamma(j) = j u/(1 - j u), u = 2**-53.
LEMMA 5 (LipSDP). Values z_i = phi_i(v_i), v_i = sum_j W_ij z_j, slopes in [a, b], weights q_i > 0: see `joint`.
"""

import functools
import hashlib
import itertools
import json
import math
import re
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np

VERSION, LONGEST, POINTS, ENTRIES, WORK = 3, 2**28, 2**23, 2**22, 2**43
PI, ROOT2 = Fraction(3141592653589793239, 10**18), Fraction(141422, 100000)  # from above
TINY = Fraction(1, 2**600)  # more than all that underflows, of sums of magnitudes below 2**200
pairs = functools.partial(zip, strict=True)
Refuted, NotCovered = (type(name, (Exception,), {}) for name in ("Refuted", "NotCovered"))


def require(condition, words, kind=Refuted):
    if not condition:
        raise kind(words)


def gamma(n):
    return Fraction(n, 2**53 - n)  # of n roundings of a term; a sum of n products has no more, in any order


def root_up(x):
    return Fraction(math.isqrt(math.ceil(x * 2**400)) + 1, 2**200)


def cos_down(phi):
    """At most cos(phi): Taylor's sum, alternating, ended by a negative term."""
    require(2 * phi < PI - Fraction(1, 10**17), "a cell is too wide")
    phi = Fraction(math.ceil(phi * 2**80), 2**80)
    return sum(itertools.accumulate(range(1, 20), lambda t, k: -t * phi**2 / (4 * k * k - 2 * k), initial=Fraction(1)))


def bounded(blocks, points, upper, magnitude, roundings=0, hermitian=""):
    """Prove |G| <= upper cos at points, for each of some kernels (g, m, p, *taps); the number of factorisations.

    Entries may be off by gamma(roundings) magnitude. Points: (numerators (f, d), denominators (d,), cos) of frequencies
    2 pi numerator / denominator. Rounding. G: T products and sums; cosines and sines are off by 16 u (an angle up to pi
    has three roundings, 9.5 u, functions 4 units in the last place): gamma(T + 16 + roundings) Q, Q the sum of
    magnitudes, |Q|**2 <= q = its largest row sum times its largest column sum. G*G: parts of entries are sums of 2m
    products: sqrt(2) gamma(2m) q. Cholesky: m_ij = sum_k l_ik conj(l_jk) has 2(p - 1) products in each part and a
    quotient or a product with a reciprocal, roots 2 more: sqrt(2) gamma(2p + 2) |l_i| |l_j|, |l_i|**2 <= m_ii/(1 - g).
    The diagonal x - (G*G)_ii has one rounding, and a trace of at most p x. ``hermitian``: no eigenvalue of G, zero on
    its diagonal, is to be above. v*Gv lies between -m and U: Lemma 1 with (U - m)/2 + (U + m)/2 cos. In a "chain" G and
    -G are similar, m = U; else m**2 = q.
    """
    if blocks.shape[1] < blocks.shape[2]:  # the transposed symbol has the same norm
        blocks, magnitude = blocks.swapaxes(1, 2), magnitude.swapaxes(1, 2)
    (g, m, p, *taps), seen, exponent = blocks.shape, 0, math.frexp(float(upper))[1]
    require(np.isfinite(blocks).all() and np.isfinite(magnitude).all(), "the kernel holds what is no number")
    if not np.any(magnitude):
        return 0
    upper, count = upper / Fraction(2) ** exponent, math.prod(taps)
    flat, most = (np.ldexp(a.reshape(g, m, p, count), -exponent) for a in (blocks, magnitude))
    mass = most.sum(axis=3)
    q = Fraction(float(mass.sum(axis=1).max())) * Fraction(float(mass.sum(axis=2).max()))
    q = q * (1 + gamma(count + m)) * (1 + gamma(count + p)) + TINY
    require(q < 2**200, "the bound is far below the kernel's entries")
    off, cholesky = gamma(count + 16 + roundings), ROOT2 * gamma(2 * p + 2) / (1 - ROOT2 * gamma(2 * p + 2))
    off_symbol, off_gram = off * root_up(q) + TINY, ROOT2 * gamma(2 * m) * (1 + off) ** 2 * q + TINY
    real = np.ascontiguousarray(flat.reshape(g, m * p, count).swapaxes(1, 2))
    where = np.array(list(np.ndindex(*taps)), dtype=np.int64).reshape(count, len(taps))
    where -= np.array([n // 2 if hermitian else 0 for n in taps], dtype=np.int64)
    for numerators, denominators, cos in points:
        least = upper if hermitian != "sums" else root_up(q)
        room = upper * cos - (least - upper) * (1 - cos) / 2 - off_symbol
        x = (room if hermitian else room**2 - off_gram) / (1 + cholesky * p * (1 + gamma(2)) + gamma(2))
        require(room > 0 and x > 2**-400, "rounding is larger than what is left")
        x = math.nextafter(float(x), 0.0)
        common, step = math.lcm(1, *denominators), max(1, ENTRIES // (g * m * p))
        require(len(numerators) * g * m * p * (p + count) < WORK, "so many matrices, so large", NotCovered)
        require(common * (1 + abs(where).max(initial=1)) * (1 + len(taps)) < 2**52, "so fine a grid", NotCovered)
        moduli, parts = np.array(denominators, dtype=np.int64), [common // n for n in denominators]
        for at in range(0, len(numerators), step):
            turns = numerators[at : at + step] % moduli * parts @ where.T % common  # t.theta less whole turns
            angle = 2 * math.pi * (np.where(2 * turns > common, turns - common, turns) / common)
            seen += g * len(angle)
            symbol = np.matmul(np.cos(angle), real) + 1j * np.matmul(np.sin(angle), real)
            symbol = symbol.reshape(g, len(angle), m, p)
            matrix = -(symbol if hermitian else np.matmul(symbol.conj().swapaxes(-1, -2), symbol))
            matrix[..., range(p), range(p)] = x + matrix[..., range(p), range(p)].real
            try:
                require(np.isfinite(np.linalg.cholesky(matrix)).all(), "a factorisation holds what is no number")
            except np.linalg.LinAlgError:
                raise Refuted("at a frequency the norm is larger, or too close to tell") from None
    return seen


def half(sizes, skew):
    """Points 2 pi (a + skew/2) / N, but those whose negatives are there: a real kernel has the same norm at these."""
    few = [n // 2 + 1 if j == 0 else n for j, n in enumerate(sizes)]
    grid = np.indices(few, dtype=np.int64).reshape(len(few), math.prod(few)).T
    return 2 * grid + np.array(skew, dtype=np.int64), [2 * n for n in sizes]


def everywhere(proof, taps):
    """Points of Lemma 1: of a grid, or of the leaves of a tree of boxes.

    In a tree a digit halves the box along that axis, the lower half first, and a dot leaves it: whatever is written,
    the leaves cover the root, which is [0, pi] on the first axis that has taps and [0, 2 pi] on the others.
    """
    require(len(proof) == 1 and set(proof) <= {"grid", "tree"}, "its proof is not one of every frequency")
    first = next((j for j, k in enumerate(taps) if k > 1), len(taps))
    if "grid" in proof:
        sizes = wholes(proof["grid"], len(taps), 1)
        require(math.prod(sizes) <= POINTS, "so fine a grid", NotCovered)
        yield *half(sizes, [0] * len(taps)), cos_down(sum(PI * (k - 1) / (2 * n) for k, n in pairs(taps, sizes)))
        return
    require(re.fullmatch(r"[.012]+", proof["tree"]) and len(proof["tree"]) <= POINTS, "its tree is none")
    waiting, leaves = [((0, 0),) * len(taps)], {}  # [a, a + 1] / 2**b of each axis
    for letter in proof["tree"]:
        require(waiting, "its tree goes on after its end")
        box = waiting.pop()
        if letter == ".":
            leaves.setdefault(tuple(b for _, b in box), []).append([2 * a + 1 for a, _ in box])
            continue
        j = int(letter)
        require(j < len(taps) and taps[j] > 1 and box[j][1] < 40, "its tree halves what has no taps, or too often")
        waiting += [(*box[:j], (2 * box[j][0] + side, box[j][1] + 1), *box[j + 1 :]) for side in (1, 0)]
    require(not waiting, "its tree does not cover the frequencies")
    for depths, centres in leaves.items():
        turns = [2 ** (b + 1 + (j == first)) for j, b in enumerate(depths)]  # half-widths are 2 pi over that
        cos = cos_down(sum((PI * (k - 1) / n for k, n in pairs(taps, turns)), Fraction(0)))
        yield np.array(centres, dtype=np.int64).reshape(len(centres), len(taps)) * [k > 1 for k in taps], turns, cos


# -- layers ------------------------------------------------------------------------------------------------------------
def wholes(value, count, least):
    plain = isinstance(value, list) and len(value) == count
    require(plain and all(type(n) is int and least <= n < 2**24 for n in value), f"expected {count} whole numbers")
    return value


def geometry(claim, d):
    found = {"stride": wholes(claim["stride"], d, 1), "dilation": wholes(claim["dilation"], d, 1)}
    found |= {"groups": wholes([claim["groups"]], 1, 1)[0], "transposed": claim["transposed"]}
    found |= {"mode": claim["padding_mode"], "padding": [wholes(pair, 2, -(2**24)) for pair in claim["padding"]]}
    found["sizes"] = None if claim["sizes"] in ("every", "divided") else wholes(claim["sizes"], d, 1)
    require(len(found["padding"]) == d and type(found["transposed"]) is bool, "its geometry is none")
    if found["mode"] == "circular" and not found["transposed"] and max(found["stride"], default=1) > 1:
        divided = claim["sizes"] == "divided" or (found["sizes"] and not any(np.mod(found["sizes"], found["stride"])))
        require(divided, "its stride does not divide the size: the border is met at another phase")
    return found


def canonical(kernel, of):
    """Kernels (g, m, p, *taps) of stride 1 and dilation 1 whose symbols have the layer's norms: Lemma 2.

    Groups are apart. With c = gcd(r, s), s' = s/c, r' = r/c, output i reads at tap t = s' a + b pixel c (s' i + r' t):
    of phase r' b mod s', another for each b < s', the pixel i + r' a and a shift. Frequencies are multiplied by r'.
    """
    g, d = of["groups"], kernel.ndim - 2
    steps = [min(s // math.gcd(r, s), k) for r, s, k in pairs(of["dilation"], of["stride"], kernel.shape[2:])]
    taps = [-(-k // s) for s, k in pairs(steps, kernel.shape[2:])]
    wide = np.pad(kernel, [(0, 0), (0, 0), *((0, s * n - k) for s, n, k in pairs(steps, taps, kernel.shape[2:]))])
    wide = wide.reshape(g, kernel.shape[0] // g, kernel.shape[1], *itertools.chain(*pairs(taps, steps)))
    order = (0, 1, 2, *range(4, 3 + 2 * d, 2), *range(3, 3 + 2 * d, 2))
    return wide.transpose(order).reshape(g, kernel.shape[0] // g, kernel.shape[1] * math.prod(steps), *taps)


def pixels(of, taps):
    """(n, m) an axis: the pixels that a convolution reads and makes; a transposed layer is the adjoint of one."""
    for n, k, s, r, pads in pairs(of["sizes"], taps, of["stride"], of["dilation"], of["padding"]):
        wide = n * s if of["mode"] == "circular" else (n - 1) * s - sum(pads) + r * (k - 1) + 1
        yield (wide, n) if of["transposed"] else (n, (n + sum(pads) - r * (k - 1) - 1) // s + 1)


def circulant(proof, of, taps):
    """The frequencies of a circulant that a layer at its size is, or is a part of: Lemma 3."""
    require(set(proof) == {"circulant", "skew"} and of["sizes"] is not None, "its proof is not one of this size")
    points, skew = wholes(proof["circulant"], len(taps), 1), wholes(proof["skew"], len(taps), 0)
    require(math.prod(points) <= POINTS and max(skew, default=0) <= 1, "so fine a grid", NotCovered)
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
    """Matrices (g, outputs, inputs) of a layer at its size; an entry is a sum of at most as many taps as there are."""
    (first, p, *taps), g, ends = kernel.shape, of["groups"], list(pixels(of, kernel.shape[2:]))
    n, m, wide = *(math.prod(side) for side in zip(*ends, strict=True)), [[max(a, 0) for a in x] for x in of["padding"]]
    kind = {"zeros": "constant", "circular": "wrap", "reflect": "reflect", "replicate": "edge"}[of["mode"]]
    fits = all(min(pair) > 0 and (kind != "reflect" or pair[0] > max(x)) for pair, x in pairs(ends, wide))
    fits = fits and first * p * n * m <= 2**25 and math.prod(a + sum(x) for (a, _), x in pairs(ends, wide)) < 2**24
    require(fits and not (of["transposed"] and kind != "constant"), "a matrix of so many or so few pixels", NotCovered)
    place = np.arange(n).reshape([a for a, _ in ends])
    place = np.pad(place, wide, kind, **({"constant_values": -1} if kind == "constant" else {}))
    matrix = np.zeros((g, first // g, m, p, n))
    for tap in np.ndindex(*taps):
        start = [w[0] - a[0] + r * t for w, a, r, t in pairs(wide, of["padding"], of["dilation"], tap)]
        stop = [a + s * (b - 1) + 1 for a, s, (_, b) in pairs(start, of["stride"], ends)]
        reads = place[tuple(map(slice, start, stop, of["stride"]))].ravel()
        inside = np.flatnonzero(reads >= 0)
        matrix[:, :, inside, :, reads[inside]] += kernel[(..., *tap)].reshape(g, first // g, p)
    return matrix.reshape(g, first // g * m, p * n)


def layer(kernel, of, upper, proof):
    """Prove that a layer's norm is at most ``upper``; the number of factorisations."""
    taps, sizes = kernel.shape[2:], np.abs(kernel)
    require(kernel.shape[0] % of["groups"] == 0, "its groups do not divide its channels")
    if set(proof) == {"matrix"} and of["sizes"]:
        alone, sums = (np.zeros((1, 0), dtype=np.int64), [], Fraction(1)), own_matrix(sizes, of) * (1 + 2**-40)
        return bounded(own_matrix(kernel, of), [alone], upper, sums, math.prod(taps))
    more = [sum(pads) > r * (k - 1) for pads, r, k in pairs(of["padding"], of["dilation"], taps)]
    single = (
        of["mode"] == "zeros" or not np.max(of["padding"], initial=0) or (of["mode"] == "circular" and not any(more))
    )
    require(single, "padding that repeats pixels", NotCovered)
    blocks = canonical(kernel, of)
    points = circulant(proof, of, taps) if "circulant" in proof else everywhere(proof, blocks.shape[3:])
    return bounded(blocks, points, upper, canonical(sizes, of))


# -- networks ----------------------------------------------------------------------------------------------------------
SLOPES = {"Relu": (0, 1), "Tanh": (0, 1), "Softplus": (0, 1), "Softsign": (0, 1), "Clip": (0, 1), "Atan": (0, 1)}
SLOPES |= {"Sigmoid": (0, 0.25), "Abs": (-1, 1), "Neg": (-1, -1), "Sin": (-1, 1), "Cos": (-1, 1), "LeakyRelu": (0, 1)}
SLOPES |= {"HardSwish": (-0.5, 1.5), "Gelu": (-0.12902, 1.12902), "Mish": (-0.12, 1.08851)}
ALIKE = {"Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze"}  # the same entries in the same order


class Network:
    """The claim about an ONNX graph with one input, whose axis 1 holds channels."""

    def __init__(self, model, arrays, claim):
        import onnx

        require(claim["tensors"] == {name: digest(array) for name, array in arrays.items()}, "a tensor has other bits")
        self.parts, self.arrays, self.made = claim["parts"], dict(arrays), {}
        (start,) = (one for one in model.graph.input if one.name not in arrays)
        for size, n in pairs(start.type.tensor_type.shape.dim, claim["input_shape"]):
            require(type(n) is str or size.dim_value in (0, *wholes([n], 1, 1)), "the model's input has another shape")
            size.dim_value = n if type(n) is int else size.dim_value
        onnx.checker.check_model(model)
        require(all(one.version >= 9 for one in model.opset_import if not one.domain), "so old operators", NotCovered)
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
        sizes = {v.name: v.type.tensor_type.shape.dim for v in (*graph.value_info, *graph.input, *graph.output)}
        self.shapes = {name: tuple(d.dim_value or d.dim_param or None for d in one) for name, one in sizes.items()}
        for node in graph.node:
            given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            plain = not node.domain and given.get("auto_pad", b"NOTSET") == b"NOTSET" and not given.get("ceil_mode")
            plain = plain and (0 <= given.get("alpha", 0) <= 1 or node.op_type != "LeakyRelu")
            require(plain and (node.op_type != "Dropout" or len(node.input) < 3), f"such a {node.op_type}", NotCovered)
            self.made |= dict.fromkeys(node.output, (node.op_type, [x for x in node.input if x], given))
            if node.op_type == "Constant":
                self.arrays[node.output[0]] = onnx.numpy_helper.to_array(given["value"])
        self.start, self.outputs = start.name, [one.name for one in graph.output]
        if claim["of"] != "f":
            require(claim["of"] == "x - f(x)" and len(self.outputs) == 1, "a statement of another kind", NotCovered)
            self.made[claim["of"]] = ("Sub", [start.name, *self.outputs], {})
            self.outputs, self.shapes[claim["of"]] = [claim["of"]], self.shapes[start.name]

    def same(self, one, other):
        return None not in self.shapes[one] and self.shapes[one] == self.shapes[other]

    def check(self, upper):
        """Prove the claim. Known of a value z: pairs (q, c) with |q (z - z')| <= c |x - x'|, q one weight a channel."""
        known, seen, missing = {self.start: [(1.0, Fraction(1))]}, 0, ""
        for name, (op, inputs, given) in self.made.items():
            before = [known.get(one) for one in inputs if one not in self.arrays]
            try:
                known[name] = self.rule(name, op, given, before) if None not in before else None
            except NotCovered as error:
                known[name], missing = None, f": {error}"
            for part in (one for one in self.parts if one["values"][-1] == name):
                q = [np.array([float(number(x)) for x in w]) for w in part["weights"]]
                require(known[part["start"]] and all(w.min() > 0 for w in q), "a part begins where nothing is known")
                constant, count = self.joint(part, q)
                first = min(c * Fraction(float(np.max(q[0] / w))) * (1 + gamma(2)) for w, c in known[part["start"]])
                found = [(q[-1], first * constant), (1.0, first * constant / Fraction(float(q[-1].min())))]
                known[name], seen = [*(known[name] or []), *found], seen + count
        require(all(known[name] for name in self.outputs), f"an output has no bound{missing}", NotCovered)
        ends = [min(c for w, c in known[name] if np.ndim(w) == 0) for name in self.outputs]
        total = root_up(sum(c * c for c in ends)) if ends[1:] else ends[0]
        require(total <= upper, "its parts make up a larger constant")
        return seen

    def rule(self, name, op, given, before):
        """What is known of an operator's value, from what is known of its inputs that move; of layers nothing."""
        moving = [one for one in self.made[name][1] if one not in self.arrays]
        if op in ("Conv", "Gemm", "MatMul", "BatchNormalization") or not before:
            return None if before else [(1.0, Fraction(0))]
        ends = [min(c for w, c in one if np.ndim(w) == 0) for one in before]
        if op in ("Add", "Sub", "Sum", "Max", "Min", "Concat"):
            require(op == "Concat" or all(self.same(one, name) for one in moving), f"{op} of other shapes", NotCovered)
            several = op in ("Max", "Min", "Concat") and ends[1:]
            return [(1.0, root_up(sum(c * c for c in ends)) if several else sum(ends))]
        if op in ("Slice", "Split", "Softmax", "Transpose", "GlobalAveragePool", "GlobalMaxPool") and len(ends) == 1:
            return [(1.0, ends[0])]
        require(len(before) == 1 and op in {*SLOPES, *ALIKE, "MaxPool", "AveragePool"}, op, NotCovered)
        if op in SLOPES or (op in ALIKE and self.same(*moving, name)):
            return [(w, c * Fraction(max(map(abs, SLOPES.get(op, (1, 1)))))) for w, c in before[0]]
        over, repeat, taps, shape = 1, 1, given.get("kernel_shape", []), self.shapes[moving[0]]
        if op in ALIKE:  # channels that are flattened keep their weights
            repeat = math.prod(shape[2:]) if self.shapes[name] == (shape[0], math.prod(shape[1:])) else 0
        else:  # a pixel is in so many windows; rows of averages add up to 1
            axes = pairs(taps, given.get("strides", [1] * len(taps)), given.get("dilations", [1] * len(taps)))
            over = math.prod(-(-k // (s // math.gcd(s, r))) for k, s, r in axes)
            require(op == "MaxPool" or given.get("count_include_pad") or not any(given.get("pads", [])), op, NotCovered)
            over = Fraction(over, math.prod(taps) if op == "AveragePool" else 1)
        weighted = [(np.repeat(w, repeat), c) for w, c in before[0] if repeat and np.shape(w) == shape[1:2]]
        return [(w, c * root_up(over)) for w, c in [(1.0, ends[0]), *weighted]]

    def terms(self, name, stops, part):
        """A value as a sum of (source, kernel, place of its first tap, stride); of single units, with ``units``."""
        units, d = part["units"], 0 if part["units"] else len(self.shapes[part["start"]]) - 2
        if name in stops:
            n = math.prod(self.shapes[name][1:]) if units else self.shapes[name][1]
            require(n < 2**12, "a part of so many channels", NotCovered)
            return [(name, np.eye(n).reshape(n, n, *[1] * d), [0] * d, [1] * d)]
        op, inputs, given = self.made[name]
        moving = [one for one in inputs if one not in self.arrays]
        if op in ("Conv", "Gemm", "MatMul"):
            kernel, e = self.arrays[inputs[1]].astype(float), len(self.shapes[inputs[0]]) - 2
            fits = moving == inputs[:1] and moving[0] in stops and not given.get("transA") and kernel.ndim == e + 2
            require(fits and (op == "Conv" or e == 0), f"such a {op} in a part", NotCovered)
            if op != "Conv":
                return [(moving[0], (kernel if given.get("transB") else kernel.T) * given.get("alpha", 1.0), [], [])]
            pads, ones, g = given.get("pads", [0] * 2 * e), [1] * e, given.get("group", 1)
            of = {"stride": given.get("strides", ones), "dilation": given.get("dilations", ones), "groups": g}
            of |= {"mode": "zeros", "transposed": False, "padding": list(pairs(pads[:e], pads[e:]))}
            of["sizes"] = self.shapes[moving[0]][2:]
            blocks = own_matrix(kernel, of) if units else kernel.reshape(g, -1, *kernel.shape[1:])
            (_, m, p, *taps), apart = blocks.shape, of["dilation"][:d]
            whole = np.zeros((g, m, g, p, *(r * (k - 1) + 1 for r, k in pairs(apart, taps))))
            for i in range(g):
                whole[(i, slice(None), i, slice(None), *(slice(None, None, r) for r in apart))] = blocks[i]
            whole = whole.reshape(g * m, g * p, *whole.shape[4:])
            return [(moving[0], whole, [-a for a in pads[:d]], of["stride"][:d])]
        if op == "BatchNormalization":
            scale, _, _, variance = (self.arrays[one].astype(float) for one in inputs[1:])
            require(not given.get("training_mode") and variance.min() >= 0, "a batch's own statistics", NotCovered)
            scale = (scale / np.sqrt(variance + given.get("epsilon", float(np.float32(1e-5))))).reshape(-1, 1, *[1] * d)
            found = self.terms(inputs[0], stops, part)
            return [(a, k * np.repeat(scale, len(k) // len(scale), axis=0), p, s) for a, k, p, s in found]
        if op in ALIKE and (units or self.same(name, inputs[0])):
            return self.terms(inputs[0], stops, part)
        alike = all(self.same(one, name) for one in moving)
        require(op in ("Add", "Sub", "Sum") and alike, f"{op} in a part", NotCovered)
        signs = [(one, -1.0 if op == "Sub" and at else 1.0) for at, one in enumerate(inputs) if one in moving]
        return [(a, sign * k, p, s) for one, sign in signs for a, k, p, s in self.terms(one, stops, part)]

    def joint(self, part, q):
        """Lemma 5: L with |q_l (y - y')| <= L |q_0 (x - x')| for values of a part, and the number of factorisations.

        |q_0 x|^2 + sum_i q_i^2 (z_i - a v_i)(z_i - b v_i) - |q_l y|^2/L^2 >= 0, a <= 0 <= b, if K <= 1 everywhere:
        K Hermitian, of blocks q_i (a + b)/2 W_ij / q_j, and q_i sqrt(-a b) W_ij / q_j to vertices of their own. K <= s
        gives, by q_i times powers of a number, L = s^l where each value reads the one before; else (2s - 1)^(links on
        the longest way).
        """
        names, edges, depth, strides = [part["start"], *part["values"]], [], [0], {}
        chain, count, upper = len(q) == len(names), 24, number(part["upper"])
        require(chain and all(map(len, q)), "a part has one list of weights for each of its values")
        for i, name in enumerate(names[1:], 1):
            op, inputs, _ = self.made[name]
            low, high, last = *SLOPES.get(op, (1, 1)), i == len(q) - 1
            terms = self.terms(inputs[0] if op in SLOPES else name, names[:i], part)
            low, high = min(low, 0), max(high, 0)
            tops = [(i, max(-low, high) if last else (low + high) / 2), (-i, 0 if last else math.sqrt(-low * high))]
            depth.append(1 + max(depth[names.index(source)] for source, *_ in terms))
            count, chain = max(count, 24 + len(terms)), chain and all(source == names[i - 1] for source, *_ in terms)
            for (source, kernel, place, stride), (top, slope) in itertools.product(terms, tops):
                j, d = names.index(source), len(place)
                alike = strides.setdefault(j, stride) == stride and (j == 0 or max(stride, default=1) == 1)
                require(alike and kernel.shape[:2] == (len(q[i]), len(q[j])), "strides, or weights, do not fit")
                pads = [(a % s, max(0, s - a % s - k)) for a, s, k in pairs(place, stride, kernel.shape[2:])]
                kernel = np.pad(kernel, [(0, 0), (0, 0), *pads])  # phases of what is read are channels
                kernel = canonical(kernel, {"groups": 1, "dilation": [1] * d, "stride": stride})[0]
                before = np.repeat(q[j], kernel.shape[1] // len(q[j])).reshape(1, -1, *[1] * d)
                kernel = kernel * (q[i] * slope).reshape(-1, 1, *[1] * d) / before
                edges += [(j, top, kernel, [a // s for a, s in pairs(place, stride)])] if slope else []
        size = {v: n for j, i, kernel, _ in edges for v, n in ((i, len(kernel)), (j, kernel.shape[1]))}
        ends, d = dict(pairs(size, itertools.accumulate(size.values()))), len(edges[0][3])
        reach = [max(max(abs(p[x]), abs(p[x] + k.shape[2 + x] - 1)) for *_, k, p in edges) for x in range(d)]
        whole = np.zeros((2, sum(size.values()), sum(size.values()), *(2 * r + 1 for r in reach)))
        for (j, i, kernel, place), magnitude in itertools.product(edges, (0, 1)):
            rows, columns = (slice(ends[v] - size[v], ends[v]) for v in (i, j))
            taps = tuple(slice(r + p, r + p + n) for r, p, n in pairs(reach, place, kernel.shape[2:]))
            kernel, sums = np.abs(kernel) if magnitude else kernel, whole[magnitude]
            sums[(rows, columns, *taps)] += kernel
            np.flip(sums, axis=tuple(range(2, 2 + d)))[(columns, rows, *taps)] += kernel.swapaxes(0, 1)
        points = everywhere(part["proof"], whole.shape[3:])
        seen = bounded(whole[:1], points, upper, whole[1:], count, "chain" if chain else "sums")
        return upper ** (len(names) - 1) if chain else max(Fraction(1), 2 * upper - 1) ** depth[-1], seen


# -- files -------------------------------------------------------------------------------------------------------------
def read_certificate(path):
    """Claims of a file of JSON without numbers but whole ones, and without two entries of one name."""

    def entries(found):
        require(len(dict(found)) == len(found), "an entry is given twice")
        return dict(found)

    def whole(text):
        require(re.fullmatch(r"-?[0-9]{1,16}", text), f"{text[:20]} is no whole number; others are hexadecimal text")
        return int(text)

    require(path.stat().st_size <= LONGEST, f"it has more than {LONGEST} bytes")
    hooks = dict.fromkeys(("parse_float", "parse_constant", "parse_int"), whole)
    found = json.loads(path.read_bytes(), object_pairs_hook=entries, **hooks)
    require(found["specnorm_certificate"] == VERSION and found["claims"], "it is of another format")
    return found["claims"]


def number(text):
    require(re.fullmatch(r"0x[01]\.[0-9a-f]{1,13}p[+-][0-9]{1,4}", text), "a number is not hexadecimal, or negative")
    return Fraction(float.fromhex(text))


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()).hexdigest()


def read_model(path):
    """Arrays by name, and the ONNX model or None."""
    with path.open("rb") as file:
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


def check(claim, arrays, model):
    """Prove one claim; what it is, its number, and how many factorisations."""
    upper = number(claim["upper"])
    if claim["claim"] == "network":
        require(model is not None, "a network without its ONNX file", NotCovered)
        return "network", float(upper), Network(model, arrays, claim).check(upper)
    require(claim["claim"] == "layer", "a claim of another kind", NotCovered)
    said, array = claim["kernel"], arrays[claim["kernel"]["tensor"]]
    dtype, d = array.dtype.name, array.ndim - 2
    require(dtype in ("float16", "float32", "float64") and 0 <= d <= 3, f"{dtype} of {d + 2} axes", NotCovered)
    same = (said["dtype"], said["shape"], said["sha256"]) == (dtype, list(array.shape), digest(array))
    require(same and said["layout"] in ("OI", "IO") and array.size, "the kernel is another one, bit for bit")
    order = range(d + 2) if said["layout"] == "OI" else (d + 1, d, *range(d))
    of = geometry(claim, d)
    return "layer", float(upper), layer(array.transpose(order).astype(float), of, upper, claim["proof"])


def main(certificate, model):
    worst = 0
    try:
        claims, found = read_certificate(Path(certificate)), read_model(Path(model))
    except Exception as error:  # the libraries that read models have their own
        return print(f"not read: {type(error).__name__}: {ascii(str(error))[:200]}") or 2
    for at, claim in enumerate(claims):
        begin, code = time.perf_counter(), 0
        try:
            words = "{}: at most {:.6g}; {} factorisations".format(*check(claim, *found))
        except Exception as error:  # what is damaged proves nothing
            code = 1 + isinstance(error, NotCovered)
            words = f"{type(error).__name__}: {ascii(str(error))[:200]}"
        name = ascii(claim.get("name", at) if isinstance(claim, dict) else at)[:80]
        print(f"{('proven', 'FAILED', '-')[code]} {name} {words}; {time.perf_counter() - begin:.2f} s", flush=True)
        worst = code if worst != 1 and code else worst
    return worst


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) == 3 else __doc__.splitlines()[0])
