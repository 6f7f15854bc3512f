"""Looks for two inputs that a model moves as far apart as it can, by the framework that the model is written in.

What is reached is a difference quotient in float64, less what rounding may make of it. So kinks and jumps count, and
a derivative that is declared, as in straight-through estimators, only says where to look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]
MANY = 36
"""Samples of a large batch."""
SCALES = (1e-3, 0.1, 1.0, 1.0, 1.0, 4.0, 30.0)


@dataclass(frozen=True, eq=False)
class Machine:
    """A model as a function of vectors: all floating inputs of a sample one after the other, and all outputs.

    Parameters
    ----------
    size : int
        Number of entries of a sample's inputs.
    values : callable
        ``values(x)`` of shape (n, size): the outputs of a batch, of shape (n, m).
    pull : callable
        ``pull(x, u)``: the gradient of the sum of ``u * values(x)``, of the shape of ``x``.
    relative : float
        Share of the outputs' size that rounding may change.
    """

    size: int
    values: Callable[[Vectors], Vectors]
    pull: Callable[[Vectors, Vectors], Vectors]
    relative: float = 1e-12

    def one_by_one(self) -> Machine:
        """Run samples by themselves, for models that do not treat those of a batch independently."""

        def values(x: Vectors) -> Vectors:
            return np.concatenate([self.values(each[None]).reshape(1, -1) for each in x])

        def pull(x: Vectors, u: Vectors) -> Vectors:
            return np.concatenate([self.pull(a[None], b[None]) for a, b in zip(x, u, strict=True)])

        return Machine(self.size, values, pull, self.relative)

    @property
    def near(self) -> float:
        """Distance of a close pair, as a part of the size of its point."""
        return max(1e-5, float(np.sqrt(self.relative)))

    def depends_on_batch(self, rng: np.random.Generator) -> bool:
        """Whether a few samples together, or many, have other outputs than each by itself, or cannot be run."""
        x = rng.standard_normal((3, self.size))
        alone = self.one_by_one().values(x)
        room = max(1e-6, 10 * self.relative) * (1 + np.abs(np.nan_to_num(alone)).max(initial=0.0))
        for times in (1, MANY // 3):
            try:
                together = self.values(np.tile(x, (times, 1)))
            except Exception:  # whatever a framework raises for shapes that do not fit
                return True
            each = np.tile(alone, (times, 1))
            if together.shape != each.shape or not np.allclose(together, each, rtol=0, atol=room, equal_nan=True):
                return True
        return False


@dataclass(eq=False)
class Attack:
    """Finds pairs of a machine's inputs; ``ratio`` is the largest quotient, ``pair`` has it."""

    machine: Machine
    rng: np.random.Generator
    ratio: float = 0.0
    pair: tuple[Vectors, Vectors] | None = None

    def run(self, points: int = 42, steps: int = 30) -> float:
        """Power iterations at points of every size, ascent from the best, and a search of segments for jumps."""
        with np.errstate(all="ignore"):
            x, size = self._points(points)
            d = _unit(self.rng.standard_normal(x.shape))
            for distance in (0.1, self.machine.near):
                for _ in range(5):
                    d = self._steeper(x, d, distance * size)
                found = self._tried(x, x + distance * size * d)
            best = np.argsort(-found)[: max(points // 4, 4)]
            for distance, rate in ((self.machine.near, 0.3), (0.3, 0.3)):
                self._ascend(x[best], d[best], size[best], distance, rate, steps)
            self._split(x)
        return self.ratio

    def _points(self, count: int) -> tuple[Vectors, Vectors]:
        """Normal, constant but for little, sparse, and zero but for little; and the size of each."""
        n = self.machine.size
        x = self.rng.standard_normal((count, n))
        scale = np.asarray([SCALES[at % len(SCALES)] for at in range(count)])[:, None]
        kind = self.rng.choice(4, (count, 1), p=[0.55, 0.2, 0.15, 0.1])
        flat = self.rng.standard_normal((count, 1))
        little = 10.0 ** self.rng.uniform(-4, -1, (count, 1))
        x = np.where(kind == 1, flat + little * x, x)
        x = np.where(kind == 2, x * (self.rng.random((count, n)) < 0.3), x)
        x = scale * np.where(kind == 3, little * x, x)
        return x, scale * np.where((kind == 1) | (kind == 3), little, 1.0)

    def _steeper(self, x: Vectors, d: Vectors, distance: Vectors) -> Vectors:
        """Take a step of the power iteration for the largest singular value of the difference quotients."""
        y = x + distance * d
        moved = self.machine.values(y) - self.machine.values(x)
        pulled = self.machine.pull(y, np.nan_to_num(_unit(moved)))
        good = np.isfinite(pulled).all(1, keepdims=True) & (np.abs(pulled).max(1, keepdims=True) > 0)
        return np.where(good, _unit(np.where(good, pulled, 1.0)), d)

    def _ascend(self, x: Vectors, d: Vectors, size: Vectors, distance: float, rate: float, steps: int) -> None:
        """Move points and directions up the slope of the quotient, or at random where it has none."""
        best = self._tried(x, x + distance * size * d)
        for at in range(steps):
            y = x + distance * size * d
            u = np.nan_to_num(_unit(self.machine.values(y) - self.machine.values(x)))
            to_y = np.nan_to_num(self.machine.pull(y, u))
            slope = to_y - np.nan_to_num(self.machine.pull(x, u))
            noise = 0.3 * _unit(self.rng.standard_normal(x.shape)) * np.linalg.norm(slope, axis=1, keepdims=True)
            stuck = np.abs(slope).max(1, keepdims=True) <= 1e-9 * np.abs(to_y).max(1, keepdims=True)
            move = _unit(np.where(stuck, self.rng.standard_normal(x.shape), slope + noise))
            new_x = x + rate * 10.0 ** -self.rng.uniform(0, 2) * np.sqrt(x.shape[1]) * size * move
            new_d = _unit(np.nan_to_num(to_y) + 1e-12 * d)
            found = self._tried(new_x, new_x + distance * size * new_d)
            better = found > best if at % 5 else found > 0.9 * best
            x, d, best = _chosen(better, new_x, x), _chosen(better, new_d, d), np.where(better, found, best)

    def _split(self, x: Vectors, parts: int = 24, halvings: int = 26) -> None:
        """Halve the steepest part of segments: one of two halves is at least as steep as the whole."""
        ends = self.rng.permutation(len(x))[:12]
        a, b = x[ends], x[self.rng.permutation(ends)]
        b[:4] = -a[:4]  # through zero, where many activations jump or bend
        keys = np.linspace(0.0, 1.0, parts + 1)
        grid = a[:, None] + keys[:, None] * (b - a)[:, None]
        values = self.machine.values(grid.reshape(-1, x.shape[1])).reshape(len(ends), parts + 1, -1)
        steep = np.linalg.norm(np.diff(values, axis=1), axis=2)
        at = np.argmax(np.nan_to_num(steep), axis=1)
        rows = np.arange(len(ends))
        low, high = (grid[rows, at], values[rows, at]), (grid[rows, at + 1], values[rows, at + 1])
        for _ in range(halvings):
            middle = (low[0] + high[0]) / 2
            mid = (middle, self.machine.values(middle))
            self._tried(low[0], middle, low[1], mid[1])
            self._tried(middle, high[0], mid[1], high[1])
            first = np.linalg.norm(mid[1] - low[1], axis=1) > np.linalg.norm(high[1] - mid[1], axis=1)
            low = (_chosen(first, low[0], mid[0]), _chosen(first, low[1], mid[1]))
            high = (_chosen(first, mid[0], high[0]), _chosen(first, mid[1], high[1]))

    def _tried(
        self, x: Vectors, y: Vectors, at_x: Vectors | None = None, at_y: Vectors | None = None
    ) -> NDArray[np.float64]:
        """Return the quotients of pairs, 0 where they are not numbers, and keep the largest."""
        a = self.machine.values(x) if at_x is None else at_x
        b = self.machine.values(y) if at_y is None else at_y
        ratios = quotients(x, y, a, b, self.machine.relative)
        at = int(np.argmax(ratios))
        if ratios[at] > self.ratio:
            self.ratio, self.pair = float(ratios[at]), (x[at].copy(), y[at].copy())
        return ratios


def quotients(x: Vectors, y: Vectors, a: Vectors, b: Vectors, relative: float) -> NDArray[np.float64]:
    """Return the distances of ``a`` and ``b``, less what rounding may make of them, by those of ``x`` and ``y``."""
    apart = np.linalg.norm(x - y, axis=1) * (1 + 1e-14)
    noise = relative * (1 + np.linalg.norm(a, axis=1) + np.linalg.norm(b, axis=1))
    ratios = (np.linalg.norm(a - b, axis=1) - noise) / np.where(apart > 0, apart, np.inf)
    return np.where(np.isfinite(ratios), np.maximum(ratios, 0.0), 0.0)


def _unit(x: Any) -> Any:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm > 0, norm, 1.0)


def _chosen(where: Any, first: Vectors, second: Vectors) -> Vectors:
    return np.where(where[:, None], first, second)
