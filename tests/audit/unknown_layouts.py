"""Draw files of arrays whose layers use other weights than they store, and what the layers use; NumPy alone.

A file is a small network in one of several programs' styles. Then one of its kernels gets arrays beside it, by names of
random letters or of common words, in one of several places, and an effective weight that these and the kernel give. The
truth of a layer is the largest singular value of its symbol on a grid, which is a little below the norm.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
WORDS = (
    "mask", "scores", "popup_scores", "alpha", "gate", "lam", "theta", "imp", "thresh", "mult", "delta", "basis", "rho",
    "weight_mask_real", "weight_scale", "kernel_aux", "hyper", "code", "noise", "state", "sn_vec", "prune", "A", "z0",
)  # fmt: skip
"""Words that programs use; most names are random letters."""


@dataclass(frozen=True)
class File:
    """A drawn file: its arrays, the truth of each layer, and whether everything in it is known."""

    arrays: dict[str, Array]
    norms: dict[str, float]
    """Norms of the weights that the layers use, by the names of their kernels."""
    is_plain: bool
    what: str


def norm_of(kernel: Array, order: str = "OIHW") -> float:
    """The largest singular value of a symbol on a grid, of a kernel with 2 to 4 axes in torch's order or Flax's."""
    x = np.asarray(kernel, np.float64)
    if order == "HWIO" and x.ndim > 2:
        x = np.moveaxis(np.moveaxis(x, -1, 0), -1, 1)
    if x.ndim == 2:
        return float(np.linalg.norm(x, 2))
    spatial = tuple(range(2, x.ndim))
    symbols = np.fft.fftn(x, (48,) * len(spatial), axes=spatial)
    return float(np.linalg.svd(np.moveaxis(symbols, (0, 1), (-2, -1)), compute_uv=False).max())


class _Drawing:
    """One drawing: the arrays so far, and the random numbers."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.arrays: dict[str, Array] = {}
        self.norms: dict[str, float] = {}
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
            self.norms[name] = norm_of(kernel, self.order)
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


def _rows_and_columns(drawing: _Drawing, kernel: Array) -> tuple[int, int]:
    rows = kernel.shape[-1] if drawing.flax else kernel.shape[0]
    return rows, kernel.size // rows


def _matrix(drawing: _Drawing, kernel: Array) -> Array:
    rows = kernel.shape[-1] if drawing.flax else kernel.shape[0]
    return kernel.reshape(-1, rows).T if drawing.flax else kernel.reshape(rows, -1)


def _along_outputs(drawing: _Drawing, vector: Array, kernel: Array) -> Array:
    return vector if drawing.flax else vector.reshape(-1, *[1] * (kernel.ndim - 1))


def _places(drawing: _Drawing, scope: list[str], *, far: bool) -> list[str]:
    """The scope of an array beside a kernel; ``far``: also one scope away, or in a tree beside."""
    near = [scope, [*scope, drawing.word()]]
    away = [scope[:-1], [*scope[:-1], drawing.word()]] if far else []
    places = [place for place in (*near, *away) if place]
    return places[drawing.rng.integers(len(places))]


def _own_shape(drawing: _Drawing, scope: list[str], kernel: Array) -> Array:
    x = drawing.normal(*kernel.shape)
    kind = drawing.rng.integers(4)
    if kind == 0:
        x = (x > 0).astype(np.float32)
    dtype = [np.float32, np.float16, bool][drawing.rng.integers(3)] if kind == 0 else np.float32
    drawing.put([*_places(drawing, scope, far=True), drawing.word()], x.astype(dtype))
    return 4 * kernel * x if kind < 2 else kernel + 2 * x


def _parallel(drawing: _Drawing, scope: list[str], kernel: Array) -> Array:
    """A tree of masks, scores or scales beside the network, of some kernels or of all, with their names."""
    kernels = {name: x for name, x in drawing.arrays.items() if name in drawing.norms}
    word = drawing.word()
    is_scale = drawing.rng.random() < 0.25
    only = drawing.join.join([*scope, drawing.leaf]) if drawing.rng.random() < 0.4 else None
    replaces = drawing.root and drawing.rng.random() < 0.5
    used = kernel
    for name, x in kernels.items():
        if only not in (None, name):
            continue
        words = name.split(drawing.join)
        rows, _ = _rows_and_columns(drawing, x)
        factor = drawing.normal(rows) if is_scale else drawing.normal(*x.shape)
        drawing.put([word, *(words[1:] if replaces else words)], factor)
        effective = 4 * x * (_along_outputs(drawing, factor, x) if is_scale else factor)
        drawing.norms[name] = norm_of(effective, drawing.order)
        used = effective if words[:-1] == scope else used
    return used


def _vector(drawing: _Drawing, scope: list[str], kernel: Array) -> Array:
    rows, _ = _rows_and_columns(drawing, kernel)
    vector = 3 * np.abs(drawing.normal(rows)) + 1
    shaped = _along_outputs(drawing, vector, kernel)
    stored = shaped if drawing.rng.random() < 0.5 else vector
    drawing.put([*_places(drawing, scope, far=False), drawing.word()], stored)
    return kernel * shaped


def _pair(drawing: _Drawing, scope: list[str], kernel: Array) -> Array:
    """A spectral normalisation's vectors: the stored kernel is small, the layer's has norm 1 or more."""
    matrix = _matrix(drawing, kernel)
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    sigma = 0.05
    drawing.arrays[drawing.join.join([*scope, drawing.leaf])] *= sigma / np.linalg.norm(matrix, 2)
    u, v = left[:, 0].astype(np.float32), right[0].astype(np.float32)
    index = [(slice(None),), (None,), (slice(None), None)][drawing.rng.integers(3)]
    place = _places(drawing, scope, far=True)
    first, second = drawing.word(), drawing.word() + "2"
    drawing.put([*place, first], u[index])
    drawing.put([*place, second], v[index])
    return np.asarray(kernel / np.linalg.norm(matrix, 2))


def _factors(drawing: _Drawing, scope: list[str], kernel: Array) -> Array:
    rows, columns = _rows_and_columns(drawing, kernel)
    a, b = drawing.normal(2, columns), drawing.normal(rows, 2)
    place = _places(drawing, scope, far=False)
    drawing.put([*place, drawing.word()], a)
    drawing.put([*place, drawing.word() + "2"], b)
    added = b @ a
    return np.asarray(kernel + (added.T if drawing.flax else added).reshape(kernel.shape))


def _number(drawing: _Drawing, scope: list[str], kernel: Array) -> Array:
    shape = [(), (1,)][drawing.rng.integers(2)]
    drawing.put([*_places(drawing, scope, far=False), drawing.word()], np.full(shape, 5, np.float32))
    return 5 * kernel


def _image(drawing: _Drawing, scope: list[str], kernel: Array) -> Array:
    drawing.put([*scope, drawing.word()], drawing.normal(1, kernel.shape[0], 12, 12))
    return 3 * kernel


def _mixing(drawing: _Drawing, scope: list[str], kernel: Array) -> Array:
    """A matrix that multiplies the outputs: whitening, orthogonal factors."""
    rows, _ = _rows_and_columns(drawing, kernel)
    mixer = 3 * drawing.normal(rows, rows)
    drawing.put([*_places(drawing, scope, far=False), drawing.word()], mixer)
    mixed = mixer @ _matrix(drawing, kernel)
    return (mixed.T if drawing.flax else mixed).reshape(kernel.shape)


def _broadcast(drawing: _Drawing, scope: list[str], kernel: Array) -> Array:
    shape = list(kernel.shape)
    shape[int(drawing.rng.integers(kernel.ndim))] = 1
    x = 3 * drawing.normal(*shape)
    drawing.put([*_places(drawing, scope, far=False), drawing.word()], x)
    return np.asarray(kernel * x)


def _quantised(drawing: _Drawing, scope: list[str], kernel: Array) -> Array:
    name = drawing.join.join([*scope, drawing.leaf])
    rows, _ = _rows_and_columns(drawing, kernel)
    drawing.arrays[name] = np.clip(np.round(kernel * 100), -127, 127).astype(np.int8)
    scale = np.abs(drawing.normal(rows)) + 1
    stored = _along_outputs(drawing, scale, kernel) if drawing.rng.random() < 0.5 else scale[:, None]
    drawing.put([*scope, drawing.word()], np.asarray(stored))
    return np.asarray(drawing.arrays[name] * _along_outputs(drawing, scale, kernel))


BESIDE: tuple[Callable[[_Drawing, list[str], Array], Array], ...] = (
    _own_shape, _own_shape, _parallel, _parallel, _vector, _pair, _pair, _factors, _number, _image, _mixing, _broadcast,
    _quantised,
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
    drawing.norms[name] = float(max(np.linalg.norm(x.astype(float), 2) for x in stack))
    return f"a stack with a bias {bias}"


def draw(seed: int) -> File:
    """Draw a file: one in six is plain, one in ten has a stack."""
    drawing = _Drawing(seed)
    layers = drawing.network()
    kind = drawing.rng.random()
    if kind < 1 / 6:
        return File(drawing.arrays, drawing.norms, True, "plain")
    if kind < 0.26:
        what = _stack(drawing)
        return File(drawing.arrays, drawing.norms, False, what)
    scope, kernel, _ = layers[drawing.rng.integers(len(layers))]
    beside = BESIDE[drawing.rng.integers(len(BESIDE))]
    name = drawing.join.join([*scope, drawing.leaf])
    drawing.norms[name] = norm_of(beside(drawing, scope, kernel), drawing.order)
    return File(drawing.arrays, drawing.norms, False, beside.__name__)
