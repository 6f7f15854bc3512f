"""Check a certificate of specnorm without any of its code: python check.py [--balls] CERTIFICATE MODEL.

Exit code 0: every claim is proven; 1: one is not; 2: something is not covered here, or cannot be read. The proofs are
in `check-it-yourself.md`, the format in `certificate.schema.json`. Numbers outside of arrays are `Fraction`: exact;
--balls: those in arrays are balls of python-flint. G is the symbol of a kernel with k_j taps an axis: the sum of its
taps times exp(i t.theta).

LEMMA 1 (cells). Boxes of centres c and half-widths d_j cover the frequencies; at each centre |G(c)| <= U cos(phi) with
phi = sum_j (k_j - 1)/2 d_j < pi/2. Then |G| <= U everywhere (Bernstein, Szego; Duffin, Schaeffer).
LEMMA 2 (every size). A zero-padded layer, and a circular one whose stride divides its size, has a norm <= sup |G|.
LEMMA 3 (one size). A layer of n pixels an axis and zeros beyond is a part of every circulant, plain or skew, of
N >= max(n, n + p, s (m - 1) + r (k - 1) - p + 1, s m) pixels; p zeros before, m outputs, stride s, dilation r.
LEMMA 4 (Cholesky; Rump 2006). If the factorisation of a Hermitian M of order n ends in floating point, M + g/(1 - g)
tr(M) is positive semidefinite; g = sqrt(2) gamma(2n + 2), gamma(j) = j u/(1 - j u), u = 2**-53.
LEMMA 5 (LipSDP). Let z_i = phi_i(v_i), v_i = sum_j W_ij z_j with slopes in [a, b], a <= 0 <= b, and weights q_i > 0. Then
|q_0 x|^2 + sum_i q_i^2 (z_i - a v_i)(z_i - b v_i) - |q_l y|^2/L^2 >= 0 for L = 1 if K <= 1 everywhere, K Hermitian with
blocks q_i (a + b)/2 W_ij / q_j, and q_i sqrt(-a b) W_ij / q_j to vertices of their own. K <= s gives, by q_i times powers
of a number, L = s^l where each value reads the one before; else (2s - 1)^(links on the longest way).
LEMMA 6. Sorting, and positive and negative part together, move no two vectors apart; nor do disjoint pieces of one.
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


def bounded(blocks, points, upper, magnitude, balls, roundings=0, hermitian=""):
    """Prove |G| <= upper cos at points, for each of some kernels (g, m, p, *taps); the number of factorisations.

    Entries may be off by gamma(roundings) magnitude. Points: (numerators (f, d), denominators (d,), cos) of frequencies
    2 pi numerator / denominator. Rounding: G: T products, cosines and sines off by 16 u (three roundings of an angle up
    to pi, functions 4 units in the last place): gamma(T + 16 + roundings) |Q|, |Q|**2 <= q = largest row times largest
    column sum of magnitudes; G*G: sqrt(2) gamma(2m) q; x - (G*G)_ii: one, and a trace <= p x. ``hermitian``: of G, zero
    on its diagonal, no eigenvalue is above: Lemma 1 of v*Gv, between -m and U, with (U - m)/2 + (U + m)/2 cos. In a
    "chain" G and -G are similar, m = U; else m**2 = q.
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
            seen += g * len(turns)
            if balls:
                in_balls(flat, 2 * float(gamma(roundings)) * mass, turns, common, room + off_symbol, hermitian)
                continue
            angle = 2 * math.pi * (np.where(2 * turns > common, turns - common, turns) / common)
            symbol = np.matmul(np.cos(angle), real) + 1j * np.matmul(np.sin(angle), real)
            symbol = symbol.reshape(g, len(angle), m, p)
            matrix = -(symbol if hermitian else np.matmul(symbol.conj().swapaxes(-1, -2), symbol))
            matrix[..., range(p), range(p)] = x + matrix[..., range(p), range(p)].real
            require(np.isfinite(np.linalg.cholesky(matrix)).all(), "a factorisation holds what is no number")
    return seen


def in_balls(blocks, errors, turns, common, bound, hermitian):
    """Prove |G| < bound, or G < bound: M > 0 if R M R* = I + E and |E| < 1. NumPy proposes R; balls count roundings."""
    from flint import acb, acb_mat, arb, ctx, fmpq

    ctx.prec, bound, n = 128, arb(fmpq(bound.numerator, bound.denominator)), blocks.shape[2]
    for row, (block, error) in itertools.product(turns.tolist(), pairs(blocks, errors + float(TINY))):
        g = acb_mat([[acb(arb(0, x), arb(0, x)) for x in line] for line in error.tolist()])
        for tap, turn in enumerate(row):
            g += acb_mat(block[..., tap].tolist()) * acb(fmpq(2 * turn, common)).exp_pi_i()
        m = acb_mat(n, n, bound if hermitian else bound**2) - (g if hermitian else g.conjugate().transpose() * g)
        r = np.linalg.inv(np.linalg.cholesky([[complex(x) for x in line] for line in m.mid().tolist()]))
        e = acb_mat(r.tolist()) * m * acb_mat(r.conj().T.tolist()) - acb_mat(n, n, 1)
        require(all(sum(map(abs, line)) < 1 for line in e.tolist()), "too close to tell in balls")


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


def layer(kernel, of, upper, proof, balls):
    """Prove that a layer's norm is at most ``upper``; the number of factorisations."""
    taps, sizes = kernel.shape[2:], np.abs(kernel)
    require(kernel.shape[0] % of["groups"] == 0, "its groups do not divide its channels")
    if set(proof) == {"matrix"} and of["sizes"]:
        alone, sums = (np.zeros((1, 0), dtype=np.int64), [], Fraction(1)), own_matrix(sizes, of) * (1 + 2**-40)
        return bounded(own_matrix(kernel, of), [alone], upper, sums, balls, math.prod(taps))
    most, ends = 1, [[max(a, 0) for a in pads] for pads in of["padding"]]
    if of["mode"] == "circular":
        fits = all(sum(pads) <= r * (k - 1) for pads, r, k in pairs(of["padding"], of["dilation"], taps))
        require(fits or not np.any(ends), "outputs that are repeated", NotCovered)
    elif of["mode"] != "zeros":  # the padded input is this much longer: a pixel is there so often
        most = math.prod(1 + sum(a if of["mode"] == "replicate" else min(a, 1) for a in pads) for pads in ends)
        require(not (of["transposed"] and np.any(ends)), "such padding", NotCovered)
    blocks = canonical(kernel, of)
    points = circulant(proof, of, taps) if "circulant" in proof else everywhere(proof, blocks.shape[3:])
    return bounded(blocks, points, upper / root_up(most) if most > 1 else upper, canonical(sizes, of), balls)


# -- networks ----------------------------------------------------------------------------------------------------------
SLOPES = {"Relu": (0, 1), "Tanh": (0, 1), "Softplus": (0, 1), "Softsign": (0, 1), "Clip": (0, 1), "Atan": (0, 1)}
SLOPES |= {"Sigmoid": (0, 0.25), "Abs": (-1, 1), "Neg": (-1, -1), "Sin": (-1, 1), "Cos": (-1, 1), "LeakyRelu": None}
SLOPES |= {"HardSwish": (-0.5, 1.5), "Gelu": (-0.12902, 1.12902), "Mish": (-0.12, 1.08851)}
ALIKE = {"Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze"}  # the same entries in the same order
NEARER = {"Slice", "Split", "Transpose", "Pad", "GlobalAveragePool", "ReduceMax", "ReduceMin", "GlobalMaxPool"}
NEARER |= {"TopK", "Softmax"}  # entries that are moved, left out, sorted, the largest of disjoint groups


class Network:
    """The claim about an ONNX graph with one input, whose axis 1 holds channels."""

    def __init__(self, model, arrays, claim, balls):
        import onnx

        require(claim["tensors"] == {name: digest(array) for name, array in arrays.items()}, "a tensor has other bits")
        self.parts, self.arrays, self.made, self.balls = claim["parts"], dict(arrays), {}, balls
        model = onnx.ModelProto.FromString(model.SerializeToString())
        (start,) = (one for one in model.graph.input if one.name not in arrays)
        for size, n in pairs(start.type.tensor_type.shape.dim, claim["input_shape"]):
            require(type(n) is str or size.dim_value in (0, *wholes([n], 1, 1)), "the model's input has another shape")
            size.dim_value = n if type(n) is int else size.dim_value
        onnx.checker.check_model(model)
        known = not model.functions and all(one.version >= 9 for one in model.opset_import if not one.domain)
        require(known, "functions of its own, or so old operators", NotCovered)
        self.start, self.outputs = start.name, [one.name for one in model.graph.output]
        del model.graph.value_info[:]  # shapes are inferred, not believed
        for one in model.graph.output:
            one.type.tensor_type.ClearField("shape")
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
        sizes = {v.name: v.type.tensor_type.shape.dim for v in (*graph.value_info, *graph.input, *graph.output)}
        self.shapes = {name: tuple(d.dim_value or d.dim_param or None for d in one) for name, one in sizes.items()}
        for node in graph.node:
            given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            plain = not node.domain and given.get("auto_pad", b"NOTSET") == b"NOTSET" and not given.get("ceil_mode")
            plain = plain and not re.match("If|Loop|Scan|Sequence|Random|Bernoulli|Multinomial", node.op_type)
            require(plain and (node.op_type != "Dropout" or len(node.input) < 3), f"such a {node.op_type}", NotCovered)
            outputs = node.output if node.op_type == "Split" else node.output[:1]  # not the indices of a maximum
            self.made |= dict.fromkeys(outputs, (node.op_type, list(node.input), {**given, "all": list(outputs)}))
            if node.op_type == "Constant":
                self.arrays[node.output[0]] = onnx.numpy_helper.to_array(given["value"])
        if claim["of"] != "f":
            require(claim["of"] == "x - f(x)" and len(self.outputs) == 1, "a statement of another kind", NotCovered)
            self.made[claim["of"]] = ("Sub", [start.name, *self.outputs], {})
            self.outputs, self.shapes[claim["of"]] = [claim["of"]], self.shapes[start.name]

    def same(self, one, other):
        return None not in self.shapes[one] and self.shapes[one] == self.shapes[other]

    def node(self, name):
        """What makes a value: operator, inputs, those that are no constants, attributes."""
        op, inputs, given = self.made.get(name, ("", [], {}))
        return op, inputs, [one for one in inputs if one and one not in self.arrays], given

    def slopes(self, name):
        op, _, _, given = self.node(name)
        alpha = given.get("alpha", 0.01)
        return (min(alpha, 1), max(alpha, 1)) if op == "LeakyRelu" else SLOPES.get(op, (1, 1))

    def check(self, upper):
        """Prove the claim. Known of a value z: c, |z - z'| <= c |x - x'|; and (q, c) for q (z - z'), q of its channels."""
        known, seen, missing = {self.start: (Fraction(1), [])}, 0, ""
        for name in self.made:
            try:
                before = [known.get(one) for one in self.node(name)[2]]
                known[name] = self.rule(name, known) if None not in before else None
            except NotCovered as error:
                known[name], missing = None, f": {error}"
            for part in (one for one in self.parts if one["values"][-1] == name):
                q = [np.array([float(number(x)) for x in w]) for w in part["weights"]]
                require(known[part["start"]] and all(w.min() > 0 for w in q), "a part begins where nothing is known")
                (whole, weighted), (constant, count) = known[part["start"]], self.joint(part, q)
                fitting = [(1.0, whole), *((w, c) for w, c in weighted if len(w) == len(q[0]))]
                constant *= min(c * Fraction(float(np.max(q[0] / w))) for w, c in fitting) * (1 + gamma(2))
                least, others = known[name] or (math.inf, [])
                known[name] = min(least, constant / Fraction(float(q[-1].min()))), [*others, (q[-1], constant)]
                seen += count
        require(all(known.get(name) for name in self.outputs), f"an output has no bound{missing}", NotCovered)
        require(beside([known[name][0] for name in self.outputs]) <= upper, "its parts make up a larger constant")
        return seen

    def rule(self, name, known):
        """What is known of an operator's value, from what is known of its inputs that move; of layers nothing."""
        op, inputs, moving, given = self.node(name)
        if op in ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization") or not moving:
            return None if moving else (Fraction(0), [])
        if op in ("Add", "Sub", "Sum", "Max", "Min", "Concat"):
            require(op == "Concat" or all(self.same(one, name) for one in moving), f"{op} of other shapes", NotCovered)
            ends = [known[one][0] for one in (self.origins(moving) if op == "Concat" else moving)]
            return (sum(ends) if op in ("Add", "Sub", "Sum") else beside(ends)), []
        require(moving == inputs[:1] and op in {*SLOPES, *ALIKE, *NEARER, "MaxPool", "AveragePool"}, op, NotCovered)
        (constant, weighted), shape, taps = known[inputs[0]], self.shapes[inputs[0]], given.get("kernel_shape", [])
        if op in SLOPES or (op in ALIKE and self.same(inputs[0], name)):
            steepest = Fraction(max(map(abs, self.slopes(name))))
            return constant * steepest, [(w, c * steepest) for w, c in weighted]
        over, repeat = Fraction(1), 0
        if op in ALIKE:  # channels that are flattened keep their weights
            sized = all(type(n) is int for n in shape[1:]) and self.shapes[name] == (shape[0], math.prod(shape[1:]))
            repeat = math.prod(shape[2:]) if sized else 0
        elif op in NEARER:
            require(
                given.get("mode", b"constant") == b"constant" and given.get("sorted", 1), f"such a {op}", NotCovered
            )
        else:  # a pixel is in so many windows; rows of averages add up to 1
            axes = pairs(taps, given.get("strides", [1] * len(taps)), given.get("dilations", [1] * len(taps)))
            over = math.prod(-(-k // (s // math.gcd(s, r))) for k, s, r in axes)
            require(op == "MaxPool" or given.get("count_include_pad") or not any(given.get("pads", [])), op, NotCovered)
            over, repeat = root_up(Fraction(over, math.prod(taps) if op == "AveragePool" else 1)), 1
        return constant * over, [(np.repeat(w, repeat), c * over) for w, c in weighted if repeat and len(w) == shape[1]]

    def origins(self, names):
        """Values that move no less: what these are pieces of, or were sorted from, or positive and negative part of."""
        (one, x, *_), (other, y, *_) = self.node(names[0]), self.node(names[-1])
        if len(names) == 2 and {one, other} == {"Max", "Min"} and sorted(x) == sorted(y) and len(x) > 1:
            names = [name for name in x if name not in self.arrays]  # sorting moves no two vectors apart
        elif (
            len(names) == 2 and one == other == "Relu"
        ):  # of one sign, one of both parts moves; else |x - y| = |x| + |y|
            names = x if self.node(y[0])[:2] == ("Neg", x) else y if self.node(x[0])[:2] == ("Neg", y) else names
        whole = self.node(names[0])
        pieces = whole[0] == "Split" and len(set(names)) == len(names) and set(names) <= set(whole[3]["all"])
        return whole[1][:1] if pieces else names

    def convolution(self, name, stops):
        """What a convolution reads, zeros of a Pad among its own, its kernel, and its geometry."""
        op, (source, weight, *_), _, given = self.node(name)
        kernel, (before, reads, moving, how) = self.arrays[weight].astype(float), self.node(source)
        d = kernel.ndim - 2
        pads, ones = np.reshape(given.get("pads", [0] * 2 * d), (2, d)), [1] * d
        if (op, before) == ("Conv", "Pad") and source not in stops:
            wide = self.arrays[reads[1]].reshape(2, d + 2)
            zeros = how.get("mode", b"constant") == b"constant" and len(reads) < 4 and moving == reads[:1]
            require(zeros and wide.min() >= 0 and not wide[:, :2].any(), "such a Pad", NotCovered)
            source, pads = reads[0], pads + wide[:, 2:]
        require("output_shape" not in given, f"such a {op}", NotCovered)
        pads[1] -= given.get("output_padding", 0)
        of = {"stride": given.get("strides", ones), "dilation": given.get("dilations", ones), "mode": "zeros"}
        of |= {"groups": given.get("group", 1), "transposed": op != "Conv", "padding": pads.T.tolist()}
        return source, kernel, {**of, "sizes": self.shapes[source][2:]}

    def terms(self, name, stops, part):
        """A value as a sum of (source, shift, matrix, phases of the source, and of the value): Lemma 5."""
        units, d = part["units"], 0 if part["units"] else len(self.shapes[part["start"]]) - 2
        (op, inputs, moving, given), ones = self.node(name), [1] * d
        if name in stops:
            n = math.prod(self.shapes[name][1:]) if units else self.shapes[name][1]
            require(n < 2**12, "a part of so many channels", NotCovered)
            return [(name, [0] * d, np.eye(n), ones, ones)]
        if op in ("Gemm", "MatMul"):
            fits = moving == inputs[:1] and inputs[0] in stops and len(self.shapes[inputs[0]]) == 2 and d == 0
            require(fits and not given.get("transA"), f"such a {op} in a part", NotCovered)
            kernel = each_row(self.arrays[inputs[1]].astype(float), [given.get("alpha", 1.0)])
            return [(inputs[0], [], kernel if given.get("transB") else kernel.T, [], [])]
        if op in ("Conv", "ConvTranspose"):
            source, kernel, of = self.convolution(name, stops)
            require(moving == inputs[:1] and source in stops, f"such a {op} in a part", NotCovered)
            found = [([], diagonal(own_matrix(kernel, of)))] if units else taps_of(kernel, of)
            reads = [] if units else of["stride"]
            if of["transposed"]:
                return [(source, [-n for n in shift], m.T, ones, reads) for shift, m in found]
            return [(source, shift, m, reads, ones) for shift, m in found]
        if op == "BatchNormalization":
            scale, _, _, variance = (self.arrays[one].astype(float) for one in inputs[1:])
            require(not given.get("training_mode") and variance.min() >= 0, "a batch's own statistics", NotCovered)
            by = 1 / np.sqrt(variance + given.get("epsilon", float(np.float32(1e-5))))
            found = self.terms(inputs[0], stops, part)
            return [(a, shift, each_row(each_row(m, scale), by), *rest) for a, shift, m, *rest in found]
        if op in ALIKE and (units or self.same(name, inputs[0])):
            return self.terms(inputs[0], stops, part)
        require(
            op in ("Add", "Sub", "Sum") and all(self.same(one, name) for one in moving), f"{op} in a part", NotCovered
        )
        signs = [(one, -1.0 if op == "Sub" and at else 1.0) for at, one in enumerate(inputs) if one in moving]
        found = [(a, t, sign * m, *rest) for one, sign in signs for a, t, m, *rest in self.terms(one, stops, part)]
        require(len(found) < 2**10, "a sum of so many", NotCovered)
        return found

    def joint(self, part, q):
        """Lemma 5: L with |q_l (y - y')| <= L |q_0 (x - x')| for values of a part, and the number of factorisations."""
        names, edges, depth, phases = [part["start"], *part["values"]], [], [0], {}
        chain, count, upper = len(q) == len(names), 24, number(part["upper"])
        require(chain and all(map(len, q)), "a part has one list of weights for each of its values")
        for i, name in enumerate(names[1:], 1):
            (op, inputs, moving, _), (low, high), last = self.node(name), self.slopes(name), i == len(q) - 1
            require(op not in SLOPES or moving == inputs[:1], "a function of several", NotCovered)
            terms, low, high = (
                self.terms(inputs[0] if op in SLOPES else name, names[:i], part),
                min(low, 0),
                max(high, 0),
            )
            tops = [(i, max(-low, high) if last else (low + high) / 2), (-i, 0 if last else math.sqrt(-low * high))]
            depth.append(1 + max(depth[names.index(source)] for source, *_ in terms))
            count, chain = max(count, 24 + len(terms)), chain and all(source == names[i - 1] for source, *_ in terms)
            for source, shift, m, reads, makes in terms:
                j = names.index(source)
                fits = phases.setdefault(j, reads) == reads and phases.setdefault(i, makes) == makes
                fits = fits and m.shape == (len(q[i]) * math.prod(makes), len(q[j]) * math.prod(reads))
                require(fits, "strides, or weights, do not fit")
                m = each_row(each_row(m, q[i]).T, 1 / q[j]).T
                edges += [(j, top, shift, each_row(m, [slope])) for top, slope in tops if slope]
        whole = hermitian(edges)
        points = everywhere(part["proof"], whole.shape[3:])
        seen = bounded(whole[:1], points, upper, whole[1:], self.balls, count, "chain" if chain else "sums")
        return upper ** (len(names) - 1) if chain else max(Fraction(1), 2 * upper - 1) ** depth[-1], seen


def beside(constants):
    return root_up(sum(c * c for c in constants)) if constants[1:] else constants[0]


def each_row(matrix, factors):
    """Rows times factors, each of which is one for as many of them: products that do not underflow."""
    factors = np.repeat(factors, len(matrix) // len(factors))[:, None]
    found = matrix * factors
    require(np.all((np.abs(found) > 2.0**-900) | (matrix * np.sign(factors) == 0)), "so small a product", NotCovered)
    return found


def zeros(*shape):
    require(math.prod(shape) < 2**26, "so large a matrix", NotCovered)
    return np.zeros(shape)


def diagonal(blocks):
    g, m, p = blocks.shape
    whole = zeros(g, m, g, p)
    whole[range(g), :, range(g)] = blocks
    return whole.reshape(g * m, g * p)


def taps_of(kernel, of):
    """(shift, matrix) of each tap. Channels of what is read are split into phases: s a + b is channel b at a, b < s."""
    for tap in np.ndindex(*kernel.shape[2:]):
        place = [r * t - pads[0] for r, t, pads in pairs(of["dilation"], tap, of["padding"])]
        m = diagonal(kernel[(..., *tap)].reshape(of["groups"], -1, kernel.shape[1]))
        whole = zeros(*m.shape, *of["stride"])
        whole[(..., *np.mod(place, of["stride"]))] = m
        yield [a // s for a, s in pairs(place, of["stride"])], whole.reshape(len(m), -1)


def hermitian(edges):
    """K of blocks (j, i, shift, matrix) and their adjoints, and the same of magnitudes."""
    size = {v: n for j, i, _, m in edges for v, n in ((i, len(m)), (j, len(m.T)))}
    ends, total = dict(pairs(size, itertools.accumulate(size.values()))), sum(size.values())
    reach = np.max(np.abs([shift for *_, shift, _ in edges]), axis=0).astype(int).tolist()
    whole = zeros(2, total, total, *(2 * r + 1 for r in reach))
    for j, i, shift, m in edges:
        rows, columns = (slice(ends[v] - size[v], ends[v]) for v in (i, j))
        for sums, block in pairs(whole, (m, np.abs(m))):
            sums[(rows, columns, *(r + n for r, n in pairs(reach, shift)))] += block
            sums[(columns, rows, *(r - n for r, n in pairs(reach, shift)))] += block.T
    return whole


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
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays), None
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path), None
    import onnx

    model = onnx.load(path)
    return {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}, model


def check(claim, arrays, model, balls=False):
    """Prove one claim; what it is, its number, and how many factorisations."""
    upper = number(claim["upper"])
    if claim["claim"] == "network":
        require(model is not None, "a network without its ONNX file", NotCovered)
        return "network", float(upper), Network(model, arrays, claim, balls).check(upper)
    require(claim["claim"] == "layer", "a claim of another kind", NotCovered)
    said, array = claim["kernel"], arrays[claim["kernel"]["tensor"]]
    dtype, d = array.dtype.name, array.ndim - 2
    require(
        dtype in ("float16", "bfloat16", "float32", "float64") and 0 <= d <= 3, f"{dtype} of {d + 2} axes", NotCovered
    )
    same = (said["dtype"], said["shape"], said["sha256"]) == (dtype, list(array.shape), digest(array))
    require(same and said["layout"] in ("OI", "IO") and array.size, "the kernel is another one, bit for bit")
    order = range(d + 2) if said["layout"] == "OI" else (d + 1, d, *range(d))
    of = geometry(claim, d)
    return "layer", float(upper), layer(array.transpose(order).astype(float), of, upper, claim["proof"], balls)


def main(certificate, model, balls=False):
    worst = 0
    try:
        claims, found = read_certificate(Path(certificate)), read_model(Path(model))
    except Exception as error:  # the libraries that read models have their own
        return print(f"not read: {type(error).__name__}: {ascii(str(error))[:200]}") or 2
    for at, claim in enumerate(claims):
        begin, code = time.perf_counter(), 0
        try:
            words = "{}: at most {:.6g}; {} factorisations".format(*check(claim, *found, balls))
        except Exception as error:  # what is damaged proves nothing
            code = 1 + isinstance(error, NotCovered)
            words = f"{type(error).__name__}: {ascii(str(error))[:200]}"
        name = ascii(claim.get("name", at) if isinstance(claim, dict) else at)[:80]
        print(f"{('proven', 'FAILED', '-')[code]} {name} {words}; {time.perf_counter() - begin:.2f} s", flush=True)
        worst = code if worst != 1 and code else worst
    return worst


if __name__ == "__main__":
    files = [word for word in sys.argv[1:] if word != "--balls"]
    sys.exit(main(*files, "--balls" in sys.argv) if len(files) == 2 else __doc__.splitlines()[0])
