"""Deadlines of searches."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

BUDGET = 60.0
"""Default time limit, in seconds, of functions that search."""


RATE = 1e10
"""Multiplications in a second, about those of one thread of a processor of 2020 under load.

The duration of work that cannot be interrupted is estimated with it before the work begins.
"""


class OutOfTime(Exception):
    """The deadline of a search has passed. The bounds that it has proven so far are valid."""


@dataclass
class Clock:
    """A deadline.

    Parameters
    ----------
    deadline : float
        Time of the deadline, as `time.monotonic` counts.
    seconds : float
        Duration from the start of the search to the deadline.
    """

    deadline: float = math.inf
    seconds: float = math.inf

    @classmethod
    def of(cls, seconds: float | None) -> Clock:
        """A clock that expires in so many seconds; None: never."""
        return cls() if seconds is None else cls(time.monotonic() + seconds, float(seconds))

    def before(self, seconds: float) -> Clock:
        """A clock that expires so many seconds earlier, but not before a quarter of the remaining time has passed."""
        if math.isinf(self.deadline):
            return self
        return Clock(self.deadline - min(seconds, 0.75 * max(self.left, 0.0)), self.seconds)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() > self.deadline

    def affords(self, work: float, late: float = 0.0) -> bool:
        """Whether work that cannot be interrupted will end before the deadline, or not much later.

        Parameters
        ----------
        work : float
            Number of multiplications, of which `RATE` take a second.
        late : float
            Tolerated delay after the deadline, as a fraction of ``seconds``.
        """
        return math.isinf(self.deadline) or work <= RATE * (max(self.left, 0.0) + late * self.seconds)

    def require(self, work: float) -> None:
        """Raise `OutOfTime` if work of so many multiplications would not end before the deadline."""
        if not self.affords(work):
            raise OutOfTime

    def check(self) -> None:
        """Raise `OutOfTime` if the deadline has passed."""
        if self.expired:
            raise OutOfTime
