"""Draw files of arrays whose layers use other weights than they store, and what the layers use; NumPy alone.

A file is a small network in one of several programs' styles. Then one of its kernels gets arrays beside it, by names of
random letters or of common words, in one of several places, and an effective weight that these and the kernel give; or
an adapter around it, or parts, a codebook, or a quantized form in its place. The truth of a layer is the largest
singular value of its symbol on a grid, which is a little below the norm.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from helpers.oracle import values_on_grid
from numpy.typing import NDArray

Array = NDArray[Any]
WORDS = (
    "mask", "scores", "popup_scores", "alpha", "gate", "lam", "theta", "imp", "thresh", "mult", "delta", "basis", "rho",
    "weight_mask_real", "weight_scale", "kernel_aux", "hyper", "code", "noise", "state", "sn_vec", "prune", "A", "z0",
    "u", "v", "g", "magnitude", "factor", "scales", "codebook", "time_delta", "tokens_u", "adapter", "D", "up",
)  # fmt: skip
"""Words that programs use; most names are random letters."""


@dataclass(frozen=True)
class File:
    """A drawn file: its arrays, the truth of each layer, and whether everything in it is known."""

    arrays: dict[str, Array]
    used: dict[str, Array]
    """Weights that the layers use, by the names of their kernels; three axes are those of a stack of matrices."""
    order: str
    is_plain: bool
    what: str

    @cached_property
    def norms(self) -> dict[str, float]:
        return {name: norm_of(x, self.order) for name, x in self.used.items()}


def norm(kernel: Any, axes: str = "") -> float:
    """The largest singular value of a symbol on a grid: at most the norm at every size, and just below it.

    ``axes``: their order, such as HWIO; otherwise outputs and inputs stand first.
    """
    x = np.asarray(kernel, np.float64)
    if axes:
        x = x.transpose([axes.index(axis) for axis in "OI" + axes.replace("O", "").replace("I", "")])
    return float(values_on_grid(x, (1, 1024, 96, 24)[x.ndim - 2]).max())


def norm_of(kernel: Array, order: str = "OIHW") -> float:
    """The norm of a kernel in either order, or the largest of a stack of matrices."""
    return norm(kernel, order) if kernel.ndim == 4 else max(map(norm, kernel.reshape(-1, *kernel.shape[-2:])))


class _Drawing:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.arrays: dict[str, Array] = {}
        self.used: dict[str, Array] = {}
        self.flax = bool(self.rng.integers(4) == 0)
        self.order = "HWIO" if self.flax else "OIHW"
        self.join = "/" if self.flax else "."
        self.leaf = "kernel" if self.flax else str(self.rng.choice(["weight", "weight", "weight", "w", "W"]))
        self.root = ["params"] if self.flax else [[], ["module"], ["net"]][self.rng.integers(3)]

    def normal(self, *shape: int, scale: float = 1.0) -> Array:
        return (scale * self.rng.standard_normal(shape)).astype(np.float32)

    def word(self) -> str:
        if self.rng.random() < 0.4:
            return str(self.rng.choice(WORDS))
        letters = self.rng.choice(list("bcdfghjklmpqrstvxz"), 5)
        return "".join(f"{x}{y}" for x, y in zip(letters, self.rng.choice(list("aeiou"), 5), strict=True))

    def put(self, words: list[str], x: Array) -> str:
        name = self.join.join(words)
        self.arrays[name] = x
        return name

    def network(self) -> list[tuple[list[str], Array, bool]]:
        """Put two to four layers with biases and normalisations; return scopes and kernels."""
        layers = []
        channels = [int(n) for n in self.rng.permutation([4, 5, 6, 7, 8])]
        count = int(self.rng.integers(2, 5))
        has_bias = self.flax or bool(self.rng.random() < 0.7)  # without, the order of Flax's axes may be open
        for at, (cin, cout) in enumerate(itertools.pairwise(channels[: count + 1])):
            is_matrix = at == count - 1 and bool(self.rng.random() < 0.4)
            shape: tuple[int, ...] = (cout, cin) if is_matrix else (cout, cin, 3, 3)
            if self.flax:
                shape = (*shape[2:], cin, cout)
            kernel = self.normal(*shape, scale=0.3)
            block = [*self.root, "blocks", str(at)] if self.rng.random() < 0.5 else [*self.root, f"layer{at}"]
            scope = [*block, "dense" if is_matrix else "conv"]
            name = self.put([*scope, self.leaf], kernel)
            self.used[name] = kernel
            if has_bias:
                self.put([*scope, "bias" if self.leaf != "W" else "b"], self.normal(cout))
            if self.rng.random() < 0.5:
                norm = [*block, "bn"]
                self.put([*norm, "scale" if self.flax else "weight"], self.normal(cout))
                self.put([*norm, "bias"], self.normal(cout))
                if not self.flax:
                    self.put([*norm, "running_mean"], self.normal(cout))
                    self.put([*norm, "running_var"], np.ones(cout, np.float32))
                    self.put([*norm, "num_batches_tracked"], np.array(3))
            if self.rng.random() < 0.3:
                self.put([*block, "gamma"], self.normal(cout))
            layers.append((scope, kernel, has_bias))
        if self.rng.random() < 0.3:
            self.put([*self.root, "pos_embed"], self.normal(1, 9, 11))
            self.put([*self.root, "cls_token"], self.normal(1, 1, 11))
        return layers


def _matrix(drawing: _Drawing, kernel: Array) -> Array:
    rows = kernel.shape[-1] if drawing.flax else kernel.shape[0]
    return kernel.reshape(-1, rows).T if drawing.flax else kernel.reshape(rows, -1)


def _along_outputs(drawing: _Drawing, vector: Array, kernel: Array) -> Array:
    return vector if drawing.flax else vector.reshape(-1, *[1] * (kernel.ndim - 1))


def _unmatrix(drawing: _Drawing, matrix: Array, kernel: Array) -> Array:
    """The matrix of outputs and of all else as a kernel: the inverse of `_matrix`."""
    return np.asarray((matrix.T if drawing.flax else matrix).reshape(kernel.shape))


def _places(drawing: _Drawing, scope: list[str], *, far: bool) -> list[str]:
    """The scope of an array beside a kernel; ``far``: also one scope away, or in a tree beside."""
    near = [scope, [*scope, drawing.word()]]
    away = [scope[:-1], [*scope[:-1], drawing.word()]] if far else []
    places = [place for place in (*near, *away) if place]
    return places[drawing.rng.integers(len(places))]


def _near(drawing: _Drawing, scope: list[str], kernel: Array) -> Array:
    """One or two arrays by a layer: lengths, factors, a number, a matrix that mixes outputs, what is repeated."""
    w, normal = _matrix(drawing, kernel), drawing.normal
    rows, columns = w.shape
    a, b, mixer = normal(2, columns), normal(rows, 2), 3 * normal(rows, rows)
    vector = 3 * np.abs(normal(rows)) + 1
    shape = list(kernel.shape)
    shape[int(drawing.rng.integers(kernel.ndim))] = 1
    repeated = 3 * normal(*shape)
    kinds: list[tuple[list[Array], Array]] = [
        ([vector], vector[:, None] * w), ([_along_outputs(drawing, vector, kernel)], vector[:, None] * w),
        ([a, b], w + b @ a), ([np.array(5, np.float32)], 5 * w), ([np.array([5], np.float32)], 5 * w),
        ([normal(1, kernel.shape[0], 12, 12)], 3 * w), ([mixer], mixer @ w),
        ([repeated], _matrix(drawing, kernel * repeated)),
    ]  # fmt: skip
    arrays, used = kinds[drawing.rng.integers(len(kinds))]
    place = _places(drawing, scope, far=False)
    for end, x in zip(("", "2"), arrays, strict=False):
        drawing.put([*place, drawing.word() + end], x)
    return _unmatrix(drawing, used, kernel)


def _own_shape(drawing: _Drawing, scope: list[str], kernel: Array) -> Array:
    x = drawing.normal(*kernel.shape)
    kind = drawing.rng.integers(4)
    if kind == 0:
        x = (x > 0).astype(np.float32)
    dtype = [np.float32, np.float16, bool][drawing.rng.integers(3)] if kind == 0 else np.float32
    word = drawing.word()
    drawing.put([*_places(drawing, scope, far=True), word], x.astype(dtype))
    factor = 1 if word == "mask" and kind == 0 else 4  # a mask of zeros and ones has one meaning
    return factor * kernel * x if kind < 2 else kernel + 2 * x


def _parallel(drawing: _Drawing, scope: list[str], kernel: Array) -> Array:
    """A tree of masks, scores or scales beside the network, of some kernels or of all, with their names."""
    kernels = {name: x for name, x in drawing.arrays.items() if name in drawing.used}
    word = drawing.word()
    is_scale = drawing.rng.random() < 0.25
    only = drawing.join.join([*scope, drawing.leaf]) if drawing.rng.random() < 0.4 else None
    replaces = drawing.root and drawing.rng.random() < 0.5
    used = kernel
    for name, x in kernels.items():
        if only not in (None, name):
            continue
        words = name.split(drawing.join)
        factor = drawing.normal(len(_matrix(drawing, x))) if is_scale else drawing.normal(*x.shape)
        drawing.put([word, *(words[1:] if replaces else words)], factor)
        effective = 4 * x * (_along_outputs(drawing, factor, x) if is_scale else factor)
        drawing.used[name] = effective
        used = effective if words[:-1] == scope else used
    return used


def _vectors(drawing: _Drawing, scope: list[str], kernel: Array) -> Array:
    """Vectors of a spectral normalization, by a layer or one scope above it, alone or with lengths.

    In half of the files the kernel is small, and the layer's has norm 1 or more.
    """
    w = _matrix(drawing, kernel)
    left, values, right = np.linalg.svd(w, full_matrices=False)
    u, v = left[:, 0].astype(np.float32), right[0].astype(np.float32)
    word, index = drawing.word(), [(slice(None),), (None,), (slice(None), None)][drawing.rng.integers(3)]
    others = [{}, {f"{word}_v": v, f"{word}_g": np.ones(len(w), np.float32)}, {drawing.word() + "2": v[index]}]
    which = drawing.rng.integers(4)
    place = scope[:-1] if which < 2 else _places(drawing, scope, far=True)
    for name, x in {word: u[index], **others[min(int(which), 2)]}.items():
        drawing.put([*place, name], x)
    if which < 2:
        return np.asarray(9 * kernel / values[0])
    drawing.arrays[drawing.join.join([*scope, drawing.leaf])] *= 0.05 / values[0]
    return np.asarray(kernel / values[0])


# -- adapters, parts and quantised kernels: the layer's kernel is moved, or gone ---------------------------------------
def _removed(drawing: _Drawing, scope: list[str]) -> None:
    name = drawing.join.join([*scope, drawing.leaf])
    del drawing.arrays[name], drawing.used[name]


def _adapter(drawing: _Drawing, scope: list[str], kernel: Array) -> Array:
    """One of PEFT's adapters around the layer, or one of nobody's: its arrays, and the sum or product that is used."""
    w = _matrix(drawing, kernel)
    rows, columns = w.shape
    normal = drawing.normal
    down, up, vector = normal(2, columns), normal(rows, 2), normal(rows)
    whole, hidden = normal(rows, columns), 3 * normal(rows, columns)  # hidden: what only the code gives
    merged = w + up @ down
    kinds: list[tuple[dict[str, Array], Array]] = [
        ({"lora_A.default.weight": down, "lora_B.default.weight": up}, merged),
        ({"lora_A.default": down, "lora_B.default": up, "lora_E.default": normal(2, 1)}, w + hidden),
        ({"lora_A.default.weight": down, "lora_B.default.weight": up, "lora_magnitude_vector.default.weight": vector},
         vector[:, None] * merged / np.linalg.norm(merged, axis=1, keepdims=True)),
        ({"hada_w1_a.default": up, "hada_w1_b.default": down, "hada_w2_a.default": up, "hada_w2_b.default": down},
         w + (up @ down) ** 2),
        ({"lokr_w1.default": normal(1, 1), "lokr_w2.default": whole}, w + 4 * whole),
        ({"vera_lambda_b.default": vector, "vera_lambda_d.default": normal(2)}, w + vector[:, None] * hidden),
        ({"ia3_l.default": 3 + vector[:, None]}, (3 + vector[:, None]) * w),
        ({"boft_R.default": normal(1, 1, rows, rows), "boft_s.default": 3 + vector[:, None]}, 3 * w),
        ({"oft_R.default.weight": normal(1, columns * (columns - 1) // 2)}, w[:, ::-1]),
        ({"hra_u.default": down.T}, w - 2 * np.outer(w @ down[0], down[0])),
        ({"fourierft_spectrum.default": normal(9)}, w + hidden),
        ({"randlora_lambda.default": normal(2, 2), "randlora_gamma.default": normal(2, 2)}, w + hidden),
        ({"road_theta.default": vector, "road_alpha.default": 3 + vector}, (3 + vector[:, None]) * w),
        ({"c3a_kernel.default": normal(1, 1, rows)}, w + hidden),
        ({"bone_block.default": normal(2, 2, rows)}, w + hidden),
        ({"shira_weight.default": normal(5)}, w + hidden),
        ({"modules_to_save.default.weight": hidden}, hidden),
        ({f"{drawing.word()}.default": down, f"{drawing.word()}_b.default": up}, merged),
        ({f"{drawing.word()}.default.weight": hidden}, w + hidden),
        ({drawing.word(): vector, f"{drawing.word()}_b": normal(columns)}, w + hidden),
    ]  # fmt: skip
    arrays, used = kinds[drawing.rng.integers(len(kinds))]
    for name, x in arrays.items():
        drawing.put([*scope, *name.split(".")], x)
    is_saved = any(name.startswith("modules") for name in arrays)
    if is_saved or drawing.rng.random() < 0.7:
        inner = "original_module" if is_saved else "base_layer"
        _removed(drawing, scope)
        bias = drawing.join.join([*scope, "b" if drawing.leaf == "W" else "bias"])
        if bias in drawing.arrays:
            drawing.put([*scope, inner, "bias"], drawing.arrays.pop(bias))
        drawing.used[drawing.put([*scope, inner, drawing.leaf], kernel)] = 0 * kernel  # not what the layer uses
    return _unmatrix(drawing, used, kernel)


def _parts(drawing: _Drawing, scope: list[str], kernel: Array) -> Array:
    """Other arrays in place of a kernel: factors, a direction and a length, a codebook, integers and scales."""
    w, normal = _matrix(drawing, kernel), drawing.normal
    rows, columns = w.shape
    _removed(drawing, scope)
    word, leaf = drawing.word(), drawing.leaf
    below = f"{leaf}{drawing.join}"
    a, s, b = normal(rows, 2), 3 + normal(2), normal(2, columns)
    length, direction = 5 + normal(rows, 1), normal(rows, columns)
    of_length = length * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    book, which = normal(7, 1), drawing.rng.integers(0, 7, w.size)
    chosen = 3 * book[which, 0].reshape(w.shape)
    scale = np.abs(normal(rows, 1)) + 0.1
    data = drawing.rng.integers(-100, 100, w.shape).astype(np.int8)
    kinds: list[tuple[dict[str, Array], Array]] = [
        ({"U": a, "S": s, "V": b}, a @ np.diag(s) @ b), ({"factor_0": a, "factor_1": b}, 3 * a @ b),
        ({"V": direction, "g": length}, of_length), ({word: a, f"{word}2": b}, 3 * a @ b),
        ({"centroids": book, "assignments": which}, chosen), ({"codebooks": book, "codes": which}, chosen),
        ({word: book, f"{word}_idx": which}, chosen), ({f"{below}_data": data, f"{below}_scale": scale}, scale * data),
        ({"W_q": data, "scale": scale}, scale * data), ({"qweight": data, "scales": scale}, scale * data),
        ({f"{leaf}_q": data, f"{leaf}_scale": scale}, scale * data), ({leaf: data, word: scale}, scale * data),
    ]  # fmt: skip
    at = drawing.rng.integers(len(kinds))
    place = [[], [leaf, "factors"], [drawing.word()]][drawing.rng.integers(3) if at < 4 else 0]
    arrays, used = kinds[at]
    for name, x in arrays.items():
        drawing.put([*scope, *place, name], x)
    return _unmatrix(drawing, used, kernel)


def _own_bound(drawing: _Drawing, scope: list[str], kernel: Array) -> Array:
    """torch's names of a spectral normalisation, by a subclass that only shrinks, to a bound of its own."""
    if drawing.flax:
        return _vectors(drawing, scope, kernel)
    w = _matrix(drawing, kernel)
    left, values, right = np.linalg.svd(w, full_matrices=False)
    _removed(drawing, scope)
    state = (left[:, 0].astype(np.float32), right[0].astype(np.float32))
    if drawing.rng.random() < 0.5:
        words: list[list[str]] = [[drawing.leaf + end] for end in ("_orig", "_u", "_v")]
    else:
        base = ["parametrizations", drawing.leaf]
        words = [[*base, "original"], [*base, "0", "_u"], [*base, "0", "_v"]]
    for word, x in zip(words, (kernel, *state), strict=True):
        drawing.put([*scope, *word], x)
    return np.asarray(kernel / max(1, values[0] / 7))


BESIDE: tuple[Callable[[_Drawing, list[str], Array], Array], ...] = (
    _own_shape, _own_shape, _parallel, _parallel, _near, _near, _near, _near, _near, _near, _vectors, _vectors,
    _vectors, _adapter, _adapter, _adapter, _adapter, _parts, _parts, _parts, _parts, _parts, _own_bound,
)  # fmt: skip


def _stack(drawing: _Drawing) -> str:
    """Put a stack of matrices: an ensemble, or a scanned block."""
    members, rows, columns = 3, 4, int(drawing.rng.integers(5, 12))
    stack = drawing.normal(members, rows, columns)
    scope = [*drawing.root, drawing.word()]
    name = drawing.put([*scope, drawing.leaf], stack)
    kind = drawing.rng.integers(4)
    bias = [(members, columns), (members, 1, columns), (members, rows, 1), None][kind]
    if bias is not None:
        drawing.put([*scope, "b" if drawing.leaf == "W" else "bias"], drawing.normal(*bias))
    drawing.used[name] = stack
    return f"a stack with a bias {bias}"


def draw(seed: int) -> File:
    """Draw a file: one in six is plain, one in ten has a stack."""
    drawing = _Drawing(seed)
    layers = drawing.network()
    kind = drawing.rng.random()
    if kind < 1 / 6:
        return File(drawing.arrays, drawing.used, drawing.order, True, "plain")
    if kind < 0.26:
        what = _stack(drawing)
        return File(drawing.arrays, drawing.used, drawing.order, False, what)
    scope, kernel, _ = layers[drawing.rng.integers(len(layers))]
    beside = BESIDE[drawing.rng.integers(len(BESIDE))]
    used = beside(drawing, scope, kernel)
    drawing.used[drawing.join.join([*scope, drawing.leaf])] = used
    return File(drawing.arrays, drawing.used, drawing.order, False, beside.__name__)
