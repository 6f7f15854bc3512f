"""Check a certificate of specnorm without any of its code: python check.py [--balls] CERTIFICATE MODEL.

Exit code 0: every claim is proven; 1: one is not; 2: something is not covered here, or cannot be read. The proofs are
in `check-it-yourself.md`, the format in `certificate.schema.json`. Numbers outside of arrays are `Fraction`: exact. G
is the symbol of a kernel with k_j taps an axis: the sum of its taps times exp(i t.theta). --balls: with python-flint.

LEMMA 1 (cells). Boxes of centres c and half-widths d_j cover the frequencies; at each centre |G(c)| <= U cos(phi) with
phi = sum_j (k_j - 1)/2 d_j < pi/2. Then |G| <= U everywhere (Bernstein, Szego; Duffin, Schaeffer).
LEMMA 2 (every size). A zero-padded layer, and a circular one whose stride divides its size, has a norm <= sup |G|.
LEMMA 3 (one size). A layer of n pixels an axis and zeros beyond is a part of every circulant, plain or skew, of
N >= max(n, n + p, s (m - 1) + r (k - 1) - p + 1, s m) pixels; p zeros before, m outputs, stride s, dilation r.
LEMMA 4 (Cholesky; Rump 2006). If the factorisation of a Hermitian M of order n ends in floating point, M + g/(1 - g)
tr(M) is positive semidefinite; g = sqrt(2) gamma(2n + 2), gamma(j) = j u/(1 - j u), u = 2**-53.
LEMMA 5 (LipSDP). z_i = phi_i(v_i), v_i = sum_j W_ij z_j, slopes in [a, b], a <= 0 <= b, weights q_i > 0. If K <= 1,
|q_l (z_l - z_l')| <= |q_0 (z_0 - z_0')|. K is Hermitian: blocks q_i (a + b)/2 W_ij / q_j; q_i sqrt(-a b) W_ij / q_j to
vertices of their own. If K <= s: s^l times as much where each value reads the one before; else (2s - 1)^depth.
LEMMA 6. Sorting, positive and negative part together, and disjoint pieces of a value move no two vectors apart.
"""

import functools
import hashlib
import itertools
import json
import math
import re
import sys
import time
from collections import namedtuple
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
    require(2 * phi < PI - Fraction(1, 10**17), "a cell is too wide")
    phi = Fraction(math.ceil(phi * 2**80), 2**80)  # Taylor's sum, alternating, ended by a negative term
    return sum(itertools.accumulate(range(1, 20), lambda t, k: -t * phi**2 / (4 * k * k - 2 * k), initial=Fraction(1)))


def bounded(blocks, points, upper, magnitude, balls, roundings=0, hermitian=""):
    """Prove |G| <= upper cos at points, for each of some kernels (g, m, p, *taps).
    Entries may be off by gamma(roundings) magnitude. Points: (numerators (f, d), denominators (d,), cos) of frequencies
    2 pi numerator / denominator. Rounding. G: T products, cosines and sines off by 16 u: gamma(T + 16 + roundings) |Q|,
    |Q|**2 <= q = largest row sum times largest column sum of magnitudes. G*G: sqrt(2) gamma(2m) q. x - (G*G)_ii: one.
    ``hermitian``: of G, zero on its diagonal, no eigenvalue is above: Lemma 1 of v*Gv, between -m and U, with
    (U - m)/2 + (U + m)/2 cos. In a "chain" G and -G are similar, m = U; else m**2 = q."""
    if blocks.shape[1] < blocks.shape[2]:  # the transposed symbol has the same norm
        blocks, magnitude = blocks.swapaxes(1, 2), magnitude.swapaxes(1, 2)
    (g, m, p, *taps), exponent = blocks.shape, math.frexp(float(upper))[1]
    if not np.any(magnitude):
        return
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
        room = upper * cos - off_symbol - (root_up(q) - upper if hermitian == "sums" else 0) * (1 - cos) / 2
        x = (room if hermitian else room**2 - off_gram) / (1 + cholesky * p * (1 + gamma(2)) + gamma(2))
        require(room > 0 and x > 2**-400, "rounding is larger than what is left")
        x = math.nextafter(float(x), 0.0)
        common, step = math.lcm(1, *denominators), max(1, ENTRIES // (g * m * p))
        require(len(numerators) * g * m * p * (p + count) < WORK, "so many matrices, so large", NotCovered)
        require(common * (1 + abs(where).max(initial=1)) * (1 + len(taps)) < 2**52, "so fine a grid", NotCovered)
        moduli, parts = np.array(denominators, dtype=np.int64), [common // n for n in denominators]
        for at in range(0, len(numerators), step):
            turns = numerators[at : at + step] % moduli * parts @ where.T % common  # t.theta less whole turns
            if balls:
                balls(flat, 2 * float(gamma(roundings)) * mass, turns, common, room + off_symbol, hermitian)
                continue
            angle = 2 * math.pi * (np.where(2 * turns > common, turns - common, turns) / common)
            symbol = np.matmul(np.cos(angle), real) + 1j * np.matmul(np.sin(angle), real)
            symbol = symbol.reshape(g, len(angle), m, p)
            matrix = -(symbol if hermitian else np.matmul(symbol.conj().swapaxes(-1, -2), symbol))
            matrix[..., range(p), range(p)] = x + matrix[..., range(p), range(p)].real
            require(np.isfinite(np.linalg.cholesky(matrix)).all(), "a factorisation holds what is no number")


def half(sizes, skew):
    """Points 2 pi (a + skew/2) / N, but those whose negatives are there: a real kernel has the same norm at these."""
    few = [n // 2 + 1 if j == 0 else n for j, n in enumerate(sizes)]
    return 2 * np.indices(few).reshape(len(few), math.prod(few)).T + np.array(skew, int), [2 * n for n in sizes]


def everywhere(proof, taps):
    """Points of Lemma 1: of a grid, or of leaves of a tree of boxes: a digit halves along that axis, the lower half
    first, a dot leaves. Whatever is written, they cover [0, pi] on the first axis of taps, [0, 2 pi] on others."""
    first = next((j for j, k in enumerate(taps) if k > 1), len(taps))
    if "grid" in proof:
        sizes = wholes(proof["grid"], len(taps), 1)
        require(math.prod(sizes) <= POINTS, "so fine a grid", NotCovered)
        yield *half(sizes, [0] * len(taps)), cos_down(sum(PI * (k - 1) / (2 * n) for k, n in pairs(taps, sizes)))
        return
    require(re.fullmatch(r"[.012]+", proof["tree"]) and len(proof["tree"]) <= POINTS, "its tree is none")
    waiting, leaves = [((0, 0),) * len(taps)], {}  # [a, a + 1] / 2**b of each axis
    for letter in proof["tree"]:
        box = waiting.pop()  # fails where the tree goes on after its end
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


def wholes(value, count, least):
    plain = isinstance(value, list) and len(value) == count
    require(plain and all(type(n) is int and least <= n < 2**24 for n in value), f"expected {count} whole numbers")
    return value


# -- layers ------------------------------------------------------------------------------------------------------------
class Layer(namedtuple("Layer", "taps stride dilation padding groups sizes transposed mode")):
    """A convolution, or the adjoint of one, whose kernel is (out, in / groups, *taps) of the former."""

    def canonical(self, kernel):
        """Kernels (g, m, p, *taps) of stride 1 and dilation 1 whose symbols have the layer's norms: Lemma 2.
        Groups are apart. With c = gcd(r, s), s' = s/c, r' = r/c, output i reads at tap t = s' a + b pixel c (s' i +
        r' t): of phase r' b mod s', another for each b < s', the pixel i + r' a and a shift. Frequencies: r' times."""
        (m, p, *_), g, d = kernel.shape, self.groups, len(self.taps)
        steps = [min(s // math.gcd(r, s), k) for k, s, r, _ in pairs(*self[:4])]
        taps = [-(-k // s) for s, k in pairs(steps, self.taps)]
        wide = np.pad(kernel, [(0, 0), (0, 0), *((0, s * n - k) for s, n, k in pairs(steps, taps, self.taps))])
        wide = wide.reshape(g, m // g, p, *itertools.chain(*pairs(taps, steps)))
        order = (0, 1, 2, *range(4, 3 + 2 * d, 2), *range(3, 3 + 2 * d, 2))
        return wide.transpose(order).reshape(g, m // g, p * math.prod(steps), *taps)

    def phases(self, kernel):
        """(shift, matrix) of each tap. What is read is split into phases: pixel s a + b is channel b at a, b < s."""
        g = self.groups
        for tap in np.ndindex(*self.taps):
            place = [r * t - pads[0] for t, (_, _, r, pads) in pairs(tap, pairs(*self[:4]))]
            whole = np.zeros((g, len(kernel) // g, kernel.shape[1], *self.stride))
            whole[(..., *np.mod(place, self.stride))] = kernel[(..., *tap)].reshape(whole.shape[:3])
            yield [a // s for a, s in pairs(place, self.stride)], self.diagonal(whole.reshape(*whole.shape[:2], -1))

    def diagonal(self, blocks):
        require(len(blocks) * blocks.size < 2**26, "so large a matrix", NotCovered)
        return np.einsum("gmp,gh->gmhp", blocks, np.eye(len(blocks))).reshape(-1, len(blocks) * blocks.shape[2])

    def pixels(self):
        """(n, m) an axis: the pixels that a convolution reads and makes; a transposed layer is the adjoint of one."""
        for n, (k, s, r, pads) in pairs(self.sizes, pairs(*self[:4])):
            wide = n * s if self.mode == "circular" else (n - 1) * s - sum(pads) + r * (k - 1) + 1
            yield (wide, n) if self.transposed else (n, (n + sum(pads) - r * (k - 1) - 1) // s + 1)

    def circulant(self, proof):
        """The frequencies of a circulant that a layer at its size is, or is a part of: Lemma 3."""
        points, skew = (wholes(proof[key], len(self.taps), key == "circulant") for key in ("circulant", "skew"))
        require(math.prod(points) <= POINTS and max(skew, default=0) <= 1, "so fine a grid", NotCovered)
        for (n, m), (k, s, r, pads), count, odd in pairs(self.pixels(), pairs(*self[:4]), points, skew):
            if self.mode == "circular":
                period = m if self.transposed else n // s
                own = period // math.gcd(r // math.gcd(r, s), period)
                require(n % s == 0 and count == own and not odd, "its circulant is not this layer")
            else:
                least = max(n, n + pads[0], s * (m - 1) + r * (k - 1) - pads[0] + 1, s * m)
                require(count * math.lcm(s, r) >= least, "its circulant is too short")
                require(self.mode == "zeros" or max(pads) <= 0, "the layer reads other than zeros")
        yield *half(points, skew), Fraction(1)

    def matrix(self, kernel):
        """Matrices (g, outputs, inputs) at a size; an entry is a sum of at most as many taps as there are."""
        kind = {"zeros": "constant", "circular": "wrap", "reflect": "reflect", "replicate": "edge"}[self.mode]
        (first, p, *_), g, ends = kernel.shape, self.groups, list(self.pixels())
        wide = [[max(a, 0) for a in pads] for pads in self.padding]
        n, m, full = map(math.prod, pairs((1, 1, 1), *((a, b, a + sum(w)) for (a, b), w in pairs(ends, wide))))
        fits = all(min(x) > 0 and (kind != "reflect" or x[0] > max(w)) for x, w in pairs(ends, wide))
        fits = fits and first * p * n * m <= 2**25 and n * full < 2**26 and not (self.transposed and kind != "constant")
        require(fits, "a matrix of so many or so few pixels", NotCovered)
        reads = np.pad(np.eye(n).reshape(n, *(a for a, _ in ends)), [(0, 0), *wide], kind)
        whole = np.zeros((g, first // g, m, p, n))
        for tap in np.ndindex(*self.taps):
            begin = [w[0] - pads[0] + r * t for w, t, (_, _, r, pads) in pairs(wide, tap, pairs(*self[:4]))]
            lines = [slice(a, a + s * (x - 1) + 1, s) for a, s, (_, x) in pairs(begin, self.stride, ends)]
            whole += kernel[(..., *tap)].reshape(g, -1, 1, p, 1) * reads[(slice(None), *lines)].reshape(n, m).T[:, None]
        return whole.reshape(g, first // g * m, p * n)

    def prove(self, kernel, upper, proof, balls):
        """Prove that the norm is at most ``upper``."""
        sizes, ends, copies = np.abs(kernel), [[max(a, 0) for a in pads] for pads in self.padding], 1
        if set(proof) == {"matrix"} and self.sizes:
            alone, sums = (np.zeros((1, 0), dtype=np.int64), [], Fraction(1)), self.matrix(sizes) * (1 + 2**-40)
            return bounded(self.matrix(kernel), [alone], upper, sums, balls, math.prod(self.taps))
        if self.mode != "zeros" and np.any(ends):
            single = all(sum(pads) <= r * (k - 1) for k, _, r, pads in pairs(*self[:4]))
            require(single if self.mode == "circular" else not self.transposed, "such padding", NotCovered)
        if self.mode in ("reflect", "replicate"):  # as often as one pixel stands in the padded input
            copies = root_up(math.prod(1 + sum(min(a, 1 if self.mode == "reflect" else a) for a in x) for x in ends))
        blocks = self.canonical(kernel)
        points = self.circulant(proof) if "circulant" in proof else everywhere(proof, blocks.shape[3:])
        return bounded(blocks, points, upper / copies, self.canonical(sizes), balls)


def layer_of(claim, taps):
    d, sizes, mode, stride = len(taps), claim["sizes"], claim["padding_mode"], wholes(claim["stride"], len(taps), 1)
    require(mode in ("zeros", "circular", "reflect", "replicate") and type(claim["transposed"]) is bool, "its geometry")
    every = wholes(sizes, d, 1) if sizes not in ("every", "divided") else None
    if mode == "circular" and not claim["transposed"] and max(stride, default=1) > 1:
        divided = sizes == "divided" or (every and not any(np.mod(every, stride)))
        require(divided, "its stride does not divide the size: the border is met at another phase")
    padding, (groups,) = [wholes(pair, 2, -(2**24)) for pair in claim["padding"]], wholes([claim["groups"]], 1, 1)
    return Layer(taps, stride, wholes(claim["dilation"], d, 1), padding, groups, every, claim["transposed"], mode)


# -- networks ----------------------------------------------------------------------------------------------------------
SLOPES = {"Relu": (0, 1), "Tanh": (0, 1), "Softplus": (0, 1), "Softsign": (0, 1), "Clip": (0, 1), "Atan": (0, 1)}
SLOPES |= {"Sigmoid": (0, 0.25), "Abs": (-1, 1), "Neg": (-1, -1), "Sin": (-1, 1), "Cos": (-1, 1), "LeakyRelu": ()}
SLOPES |= {"HardSwish": (-0.5, 1.5), "Gelu": (-0.12902, 1.12902), "Mish": (-0.12, 1.08851)}
ALIKE = {"Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze"}  # the same entries in the same order
NEAR = {"Slice", "Split", "Pad", "Transpose", "Softmax", "ReduceMax", "GlobalMaxPool", "GlobalAveragePool"}
SUMS, KERNELS = {"Add", "Sub", "Sum"}, {"Conv", "ConvTranspose", "Gemm", "MatMul"}
Node = namedtuple("Node", "op inputs moving given alike slopes", defaults=("", [], [], {}, False, (1, 1)))


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
        new = all(one.version > 8 or one.domain for one in model.opset_import) and not model.functions
        require(new, "so old operators, or functions of its own", NotCovered)
        del model.graph.value_info[:]  # shapes are inferred, not believed
        for one in model.graph.output:
            one.type.tensor_type.ClearField("shape")
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
        sizes = {v.name: v.type.tensor_type.shape.dim for v in (*graph.value_info, *graph.input, *graph.output)}
        self.shapes = {name: tuple(d.dim_value or d.dim_param or None for d in one) for name, one in sizes.items()}
        self.start, self.outputs, nodes = start.name, [one.name for one in graph.output], list(graph.node)
        if claim["of"] != "f":
            require(claim["of"] == "x - f(x)" and claim["of"] not in self.shapes, "another statement", NotCovered)
            nodes.append(onnx.helper.make_node("Sub", [self.start, *self.outputs], [claim["of"]]))
            self.outputs, self.shapes[claim["of"]] = [claim["of"]], self.shapes[self.start]
        for node in nodes:
            op, given = node.op_type, {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            plain = not node.domain and given.get("auto_pad", b"NOTSET") == b"NOTSET" and not given.get("ceil_mode")
            plain = plain and not given.get("training_mode") and (op != "Dropout" or len(node.input) < 3)
            plain = plain and (len(node.output) == 1 or op in ("Split", "MaxPool", "Dropout"))  # no batch's statistics
            plain = plain and given.get("approximate", b"none") in (b"none", b"tanh")
            plain = plain and len({*given.get("axes", ())}) == len(given.get("axes", ()))
            odd = re.match("If|Loop|Scan|Sequence|Random|Bernoulli|Multinomial", op)  # read unseen, or by chance
            require(plain and not odd, f"such a {op}", NotCovered)
            moving, alpha = [one for one in node.input if one and one not in self.arrays], given.get("alpha", 0)
            slopes = (min(alpha, 1), max(alpha, 1)) if op == "LeakyRelu" else SLOPES.get(op, (1, 1))
            for name in node.output if op == "Split" else node.output[:1]:  # not the places of a maximum
                shape = self.shapes.get(name) or (None,)
                alike = None not in shape and all(self.shapes.get(one) == shape for one in moving)
                self.made[name] = Node(op, list(node.input), moving, given, alike, slopes)
            if op == "Constant":
                self.arrays[node.output[0]] = onnx.numpy_helper.to_array(given["value"])

    def check(self, upper):
        """Prove it. Known of a value z: c, |z - z'| <= c |x - x'|; and (q, c) for q (z - z'), q one a channel."""
        known = {self.start: (Fraction(1), [])}
        for name, node in self.made.items():
            known[name] = self.rule(node, name, known) if all(known.get(one) for one in node.moving) else None
            for part in (one for one in self.parts if one["values"][-1] == name):
                q = [np.array([float(number(x)) for x in w]) for w in part["weights"]]
                require(all(w.min() > 0 for w in q), "a weight is 0")
                (whole, weighted), constant = known[part["start"]], self.joint(part, q)
                fitting = [(1.0, whole), *((w, c) for w, c in weighted if len(w) == len(q[0]))]
                constant *= min(c * Fraction(float(np.max(q[0] / w))) for w, c in fitting) * (1 + gamma(2))
                least, others = known[name] or (math.inf, [])
                known[name] = min(least, constant / Fraction(float(q[-1].min()))), [*others, (q[-1], constant)]
        missing = {node.op for name, node in self.made.items() if not known[name]}
        require(all(known.get(name) for name in self.outputs), f"no bound after one of {sorted(missing)}", NotCovered)
        require(self.beside([known[name][0] for name in self.outputs]) <= upper, "its parts make up a larger constant")

    def rule(self, node, name, known):
        """What is known of an operator's value, from what is known of its inputs that move; of layers nothing."""
        op, inputs, moving, given, alike, slopes = node
        if op in {*SUMS, "Max", "Min", "Concat"} and (alike or op == "Concat") and moving:
            ends = [known[one][0] for one in (self.origins(moving) if op == "Concat" else moving)]
            return (sum(ends) if op in SUMS else self.beside(ends)), []
        fits = given.get("mode", b"constant") == b"constant" and moving == inputs[:1]
        fits = fits and (op != "AveragePool" or given.get("count_include_pad") or not any(given.get("pads", [])))
        if not moving or not fits or op not in {*SLOPES, *ALIKE, *NEAR, "MaxPool", "AveragePool"}:
            return None if moving else (Fraction(0), [])
        (constant, weighted), shape, over, repeat = known[inputs[0]], self.shapes[inputs[0]], Fraction(1), 0
        if op in SLOPES or (op in ALIKE and alike):
            over, repeat = Fraction(max(map(abs, slopes))), 1
        elif op in ALIKE:  # channels that are flattened keep their weights
            sizes = [n for n in shape[1:] if type(n) is int]  # if all of them
            repeat = math.prod(sizes[1:]) if self.shapes[name] == (shape[0], math.prod(sizes)) else 0
        elif op not in NEAR:  # a pixel is in so many windows; rows of averages add up to 1
            taps, ones = given["kernel_shape"], [1] * len(given["kernel_shape"])
            axes = pairs(taps, given.get("strides", ones), given.get("dilations", ones))
            over, repeat = math.prod(-(-k // (s // math.gcd(s, r))) for k, s, r in axes), 1
            over = root_up(Fraction(over, math.prod(taps) if op == "AveragePool" else 1))
        return constant * over, [(np.repeat(w, repeat), c * over) for w, c in weighted if repeat and len(w) == shape[1]]

    def origins(self, names):
        """Lemma 6: values that move no less than these together."""
        one, other = (self.made.get(name, Node()) for name in (names[0], names[-1]))
        if len(names) == 2 and {one.op, other.op} == {"Max", "Min"} and sorted(one.inputs) == sorted(other.inputs):
            names = one.moving if len(one.inputs) > 1 else names
        for (a,), b in ((one.inputs, other.inputs), (other.inputs, one.inputs)) if one.op == other.op == "Relu" else ():
            names = b if len(names) == 2 and self.made.get(a, Node())[:2] == ("Neg", b) else names
        split = self.made.get(names[0], Node())
        alone = len(set(names)) == len(names) and all(self.made.get(one, Node()).given is split.given for one in names)
        return split.inputs[:1] if split.op == "Split" and alone else names

    def terms(self, name, stops, part):
        """A value as a sum of (source, shift, matrix, phases of the source, and of the value): W of Lemma 5."""
        d = 0 if part["units"] else len(self.shapes[part["start"]]) - 2
        (op, inputs, moving, given, alike, _), ones = self.made.get(name, Node()), [1] * d
        if name in stops:
            n = math.prod(self.shapes[name][1:]) if part["units"] else self.shapes[name][1]
            require(n < 2**12, "a part of so many channels", NotCovered)
            return [(name, [0] * d, np.eye(n), ones, ones)]
        if op in KERNELS:
            kernel, e = self.arrays[inputs[1]].astype(float), len(self.shapes[inputs[0]]) - 2
            fits = moving == inputs[:1] and inputs[0] in stops and kernel.ndim - 2 == e and d in (0, e)
            fits = fits and not given.get("transA") and "output_shape" not in given and (e == 0 or op[:4] == "Conv")
            require(fits, f"such a {op} in a part", NotCovered)
            if e == 0:
                kernel = self.each_row(kernel if given.get("transB") else kernel.T, [given.get("alpha", 1.0)])
            pads, each = np.reshape(given.get("pads", [0] * 2 * e), (2, e)), [1] * e
            pads[1] -= given.get("output_padding", 0)
            of = (given.get("strides", each), given.get("dilations", each), pads.T.tolist(), given.get("group", 1))
            of = Layer(kernel.shape[2:], *of, self.shapes[inputs[0]][2:], op == "ConvTranspose", "zeros")
            reads = of.stride if d else []
            found = of.phases(kernel) if d or e == 0 else [([], of.diagonal(of.matrix(kernel)))]
            if op != "ConvTranspose":
                return [(inputs[0], shift, matrix, reads, ones) for shift, matrix in found]
            return [(inputs[0], [-n for n in shift], matrix.T, ones, reads) for shift, matrix in found]
        if op == "BatchNormalization":
            scale, _, _, by = (self.arrays[one].astype(float) for one in inputs[1:])
            by = 1 / np.sqrt(by + given.get("epsilon", float(np.float32(1e-5))))
            found = self.terms(inputs[0], stops, part)
            return [(a, shift, self.each_row(self.each_row(m, scale), by), *rest) for a, shift, m, *rest in found]
        if op in ALIKE and (part["units"] or alike):
            return self.terms(inputs[0], stops, part)
        require(op in SUMS and alike, f"{op} in a part", NotCovered)
        signs = [(one, -1.0 if op == "Sub" and at else 1.0) for at, one in enumerate(inputs) if one in moving]
        found = [(a, t, sign * m, *rest) for one, sign in signs for a, t, m, *rest in self.terms(one, stops, part)]
        require(len(found) < 2**10, "a sum of so many", NotCovered)
        return found

    def joint(self, part, q):
        """L of Lemma 5, with |q_l (y - y')| <= L |q_0 (x - x')| for the first and last value of a part."""
        names, edges, depth, phases = [part["start"], *part["values"]], [], [0], {}
        chain, count, upper = len(q) == len(names), 24, number(part["upper"])
        require(chain and all(map(len, q)), "a part has one list of weights for each of its values")
        for i, name in enumerate(names[1:], 1):
            node, last = self.made[name], i == len(q) - 1
            require(node.op not in SLOPES or node.moving == node.inputs[:1], "a function of several", NotCovered)
            terms = self.terms(node.inputs[0] if node.op in SLOPES else name, names[:i], part)
            low, high = min(node.slopes[0], 0), max(node.slopes[1], 0)
            tops = [(i, max(-low, high) if last else (low + high) / 2), (-i, 0 if last else math.sqrt(-low * high))]
            depth.append(1 + max(depth[names.index(source)] for source, *_ in terms))
            count, chain = max(count, 24 + len(terms)), chain and all(source == names[i - 1] for source, *_ in terms)
            for source, shift, matrix, reads, makes in terms:
                j = names.index(source)
                fits = matrix.shape == (len(q[i]) * math.prod(makes), len(q[j]) * math.prod(reads))
                fits = fits and phases.setdefault(j, reads) == reads and phases.setdefault(i, makes) == makes
                require(fits, "strides, or weights, do not fit")
                matrix = self.each_row(self.each_row(matrix, q[i]).T, 1 / q[j]).T
                edges += [(j, top, shift, self.each_row(matrix, [slope])) for top, slope in tops if slope]
        whole = self.hermitian(edges)
        points = everywhere(part["proof"], whole.shape[3:])
        bounded(whole[:1], points, upper, whole[1:], self.balls, count, "chain" if chain else "sums")
        return upper ** (len(names) - 1) if chain else max(Fraction(1), 2 * upper - 1) ** depth[-1]

    def beside(self, constants):
        return root_up(sum(c * c for c in constants)) if constants[1:] else constants[0]

    def each_row(self, matrix, factors):
        """Rows times factors, each of which is one for as many of them: products that do not underflow."""
        factors = np.repeat(factors, len(matrix) // len(factors))[:, None]
        found = matrix * factors
        require(np.all((np.abs(found) > 2.0**-900) | (matrix * np.sign(factors) == 0)), "so small numbers", NotCovered)
        return found

    def hermitian(self, edges):
        """K of blocks (j, i, shift, matrix) and their adjoints, and the same of magnitudes."""
        size = {v: n for j, i, _, matrix in edges for v, n in pairs((i, j), matrix.shape)}
        ends, total = dict(pairs(size, itertools.accumulate(size.values()))), sum(size.values())
        reach = np.max(np.abs([shift for *_, shift, _ in edges]), axis=0).astype(int)
        require(total**2 * math.prod((2 * reach + 1).tolist()) < 2**25, "a part so large", NotCovered)
        whole = np.zeros((2, total, total, *(2 * reach + 1)))
        for j, i, shift, matrix in edges:
            rows, columns = (slice(ends[v] - size[v], ends[v]) for v in (i, j))
            for sums, block in pairs(whole, (matrix, np.abs(matrix))):
                sums[(rows, columns, *(reach + shift))] += block
                sums[(columns, rows, *(reach - shift))] += block.T
        return whole


# -- files -------------------------------------------------------------------------------------------------------------
def read_certificate(path):
    """Claims of a file of JSON without numbers but whole ones, and without two entries of one name."""
    require(path.stat().st_size <= LONGEST, f"it has more than {LONGEST} bytes")
    hooks = {key: lambda text: require(False, f"{text}: no whole number") for key in ("parse_float", "parse_constant")}
    hooks["object_pairs_hook"] = lambda found: require(len(dict(found)) == len(found), "a name twice") or dict(found)
    found = json.loads(path.read_bytes(), **hooks)
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
        return dict(np.load(path, allow_pickle=False)), None
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path), None
    import onnx

    model = onnx.load(path)
    return {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}, model


def check(claim, arrays, model, balls=None):
    """Prove one claim; what it is, and its number."""
    kind = claim["claim"]
    require(kind == "layer" or (kind == "network" and model is not None), "such a claim about such a file", NotCovered)
    upper = number(claim["upper"])
    if kind == "network":
        return Network(model, arrays, claim, balls).check(upper) or (kind, float(upper))
    said, array = claim["kernel"], arrays[claim["kernel"]["tensor"]]
    dtype, d = array.dtype.name, array.ndim - 2
    require(dtype in ("float16", "bfloat16", "float32", "float64") and 0 <= d <= 3, f"{dtype}, {d} axes", NotCovered)
    same = (said["dtype"], said["shape"], said["sha256"]) == (dtype, list(array.shape), digest(array))
    require(same and said["layout"] in ("OI", "IO") and array.size, "the kernel is another one, bit for bit")
    kernel = array.transpose(range(d + 2) if said["layout"] == "OI" else (d + 1, d, *range(d))).astype(float)
    layer_of(claim, kernel.shape[2:]).prove(kernel, upper, claim["proof"], balls)
    return kind, float(upper)


def main(certificate, model, balls=False):
    worst = 0
    try:
        claims, found = read_certificate(Path(certificate)), read_model(Path(model))
        balls = __import__("check_balls").prove if balls else None  # the file beside this one, for python-flint
    except Exception as error:  # the libraries that read models have their own
        return print(f"not read: {type(error).__name__}: {ascii(str(error))[:200]}") or 2
    for at, claim in enumerate(claims):
        begin, code = time.perf_counter(), 0
        try:
            words = "{}: at most {:.6g}".format(*check(claim, *found, balls))
        except Exception as error:  # what is damaged proves nothing
            code = 1 + isinstance(error, NotCovered)
            words = f"{type(error).__name__}: {ascii(str(error))[:200]}"
        name = ascii(claim.get("name", at) if isinstance(claim, dict) else at)[:80]
        print(f"{('proven', 'FAILED', '-')[code]} {name} {words}; {time.perf_counter() - begin:.2f} s", flush=True)
        worst = code if worst != 1 and code else worst
    return worst


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--balls"]
    sys.exit(main(*words, "--balls" in sys.argv) if len(words) == 2 else __doc__.splitlines()[0])
