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
def bounded(blocks, points, upper, magnitude=None, roundings=0, balls=False):
    """Prove |G| <= upper * cos at all points, for each of some kernels (g, m, p, *taps); the number of factorisations.

    An entry of ``blocks`` may be off by ``gamma(roundings)`` times that of ``magnitude``. ``points``: (numerators (f, d),
    denominators (d,), cos) of frequencies 2 pi numerator / denominator.

    Rounding. G: T products and sums, cosines and sines off by 16 u (an angle up to pi has three roundings, 9.5 u, and the
    functions 4 units in the last place): at most gamma(T + 16 + roundings) Q, Q the sum of the taps' magnitudes; |Q|**2 is
    at most q = its largest row sum times its largest column sum. G*G: real and imaginary parts of its entries are sums of
    2m products: sqrt(2) gamma(2m) (|G|, entry-wise)**2. Cholesky: m_ij = sum_k l_ik conj(l_jk) has 2(p - 1) products in
    each part and a quotient, or a product with a reciprocal; roots have two more: sqrt(2) gamma(2p + 2) |l_i| |l_j|.
    Lemma 4 follows, since |l_i|**2 <= m_ii/(1 - g). Here m_ii = x - (G*G)_ii has one rounding, and the trace is <= p x.
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
    for numerators, denominators, cos in points:
        room = upper * cos - off_symbol
        x = down((room**2 - off_gram) / (1 + cholesky * p * (1 + gamma(2)) + gamma(2))) if room > 0 else -1.0
        require(x > 0, "rounding is larger than what is left")
        step = max(1, ENTRIES // (g * m * p))
        for at in range(0, len(numerators), step):
            turns = in_turns(numerators[at : at + step], denominators, where)
            seen += g * len(turns[0])
            if balls:
                by_balls(flat, most, turns, upper * cos, gamma(roundings))
                continue
            angle = 2 * math.pi * (turns[0] / turns[1])
            symbol = np.matmul(np.cos(angle), real) + 1j * np.matmul(np.sin(angle), real)
            symbol = symbol.reshape(g, len(angle), m, p)
            matrix = -np.matmul(symbol.conj().swapaxes(-1, -2), symbol)
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


def by_balls(blocks, magnitude, turns, tau, off):
    """|G| < tau by Gaussian elimination in ball arithmetic, where each operation counts its own rounding."""
    from flint import acb, arb, ctx, fmpq

    ctx.prec, (tau, off) = 128, (arb(fmpq(x.numerator, x.denominator)) for x in (tau, off))
    for phases in [[acb(fmpq(2 * t, turns[1])).exp_pi_i() for t in row] for row in turns[0].tolist()]:
        for block, size in zip(blocks.tolist(), magnitude.tolist(), strict=True):
            wide = [[arb(0, (off * sum(map(arb, s))).upper()) if off > 0 else arb(0) for s in row] for row in size]
            pairs = [zip(*rows, strict=True) for rows in zip(block, wide, strict=True)]
            g = [[sum((w * k for w, k in zip(phases, t, strict=True)), acb(e, e)) for t, e in row] for row in pairs]
            n = len(g[0])
            a = [[tau**2 * (i == j) - sum(r[i].conjugate() * r[j] for r in g) for j in range(n)] for i in range(n)]
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
    return "network", Network(model, arrays, claim, balls).check(upper)


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
