"""Recurrent layers: a state that each step computes from the one before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specnorm.certified.interval import Interval, anything
from specnorm.certified.network.operators.base import (
    FloatArray,
    NoBoundError,
    NotRunError,
    Offset,
    Operator,
    Place,
    Pointwise,
)
from specnorm.certified.network.operators.executed import smallest
from specnorm.certified.network.operators.layers import Layer

GATED = (
    "its gates multiply values that depend on the input, of which no rule is known here that holds for every length, "
    "on a box either; written out step by step (sigmoid, tanh, products) it has a bound, which grows with each step"
)
"""Why LSTM and GRU are unknown."""


class Recurrent(Operator):
    """All states of ``h_t = phi(W h_{t-1} + U x_t + b)``, from a state that is held.

    Its constant is the gain of `certified.network.loops`, for sequences of every length; samples move by themselves.
    """

    rule = "recurrent"
    recurrent: Layer
    """W, of shape (n, n)."""
    entry: Layer
    """U, of shape (n, m)."""
    function: Pointwise
    """phi."""
    biases: tuple[Offset, ...] = ()
    """Their sum is b; they may cancel, and what a library rounds is of their sizes."""
    start: FloatArray | None = None
    """h_{-1}, broadcasting against (samples, n); None: zeros."""
    time: int = 0
    """Axis of the steps: 0 or 1; channels are the last one."""

    def ends(self) -> tuple[float, float]:
        """Between which the slopes of phi lie; `NoBoundError` if that is not known."""
        found = self.function.extent()
        if found is None:
            raise NoBoundError(f"{self.function!r} has no largest slope that is known here")
        return found

    def lipschitz(self, place: Place) -> float:
        raise NoBoundError("its gain is proven for the whole loop, by `Norms`")

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        (x,) = ranges
        if self.time >= len(x.shape) - 1:
            return None
        size = (*x.shape[:-1], self.recurrent.kernel().shape[0])
        return self.function.image([anything(size)], place) if place.fits(size) else None

    def run(self, *values: FloatArray) -> FloatArray:
        return self._states(values[0])[0]

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        return self._states(values[0], unit)[1]

    def _states(self, x: FloatArray, unit: float = 0.0) -> tuple[FloatArray, FloatArray]:
        """All states, and by how much another library's may differ: a step's own rounding, and what W makes of it.

        That is of sums of so many terms, twice, for theirs and ours, and of functions whose slopes are at most 1 or the
        largest that is known.
        """
        w, u = self.recurrent.kernel(), self.entry.kernel()
        if not 0 <= self.time < x.ndim - 1 or x.shape[-1] != u.shape[1]:
            raise NotRunError(f"steps along axis {self.time} of a value of shape {x.shape}, and {u.shape[1]} channels")
        steep = max(1.0, *map(abs, self.function.extent() or (1.0, 1.0)))
        parts = [load() for load in self.biases]
        added, sizes, off = (
            sum(each, np.zeros(()))
            for each in ([b for b, _ in parts], [abs(b) for b, _ in parts], [error for _, error in parts])
        )
        steps = np.moveaxis(x, self.time, 0)
        state = np.zeros((*steps.shape[1:-1], len(w))) if self.start is None else np.asarray(self.start)
        state = np.broadcast_to(state, (*steps.shape[1:-1], len(w)))
        lost, states, errors = np.zeros(state.shape), [], []
        for each in steps:
            size = abs(each) @ abs(u).T + abs(state) @ abs(w).T + sizes
            lost = 2 * (sum(u.shape) + len(w) + 8) * unit * size + off + lost @ abs(w).T
            before = each @ u.T + state @ w.T + added
            state = self.function.run(before)
            lost = steep * lost + self.function.rounding([before], state, unit) + smallest(unit or 1.0)
            states.append(state)
            errors.append(lost)
        if not states:
            return np.zeros((*x.shape[:-1], len(w))), np.zeros(())
        return np.moveaxis(np.stack(states), 0, self.time), np.moveaxis(np.stack(errors), 0, self.time)
