"""Steps along a gradient."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from specnorm_networks.certified.operators.base import FloatArray


@dataclass
class Adam:
    """Steps along a gradient, each entry in units of its size so far (Kingma, Ba, "Adam", ICLR 2015).

    Parameters
    ----------
    rate : float
        Typical length of a step of an entry.
    decay : float, default 0.999
        Decay of the means of squares.
    """

    rate: float
    decay: float = 0.999
    count: int = 0
    mean: FloatArray = field(default_factory=lambda: np.zeros(()))
    square: FloatArray = field(default_factory=lambda: np.zeros(()))

    def step(self, gradient: FloatArray, share: float = 1.0) -> FloatArray:
        """Return the next step uphill, or a share of it."""
        self.count += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = self.decay * self.square + (1 - self.decay) * gradient * gradient
        mean = self.mean / (1 - 0.9**self.count)
        square = self.square / (1 - self.decay**self.count)
        return np.asarray(share * self.rate * mean / (np.sqrt(square) + 1e-12))
