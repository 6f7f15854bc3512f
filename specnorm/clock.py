"""When a search has to end."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

BUDGET = 60.0
"""Seconds that functions which search have unless they are told."""


RATE = 1e10
"""Multiplications in a second, about what one thread of a processor of 2020 does under load.

What no clock can interrupt is counted in them before it begins.
"""


class OutOfTime(Exception):
    """A search's time is up. What it has proven by then stands."""


@dataclass
class Clock:
    """A deadline.

    Parameters
    ----------
    deadline : float
        On the clock of `time.monotonic`.
    seconds : float
        What there was until then at first.
    """

    deadline: float = math.inf
    seconds: float = math.inf

    @classmethod
    def of(cls, seconds: float | None) -> Clock:
        """One that expires so many seconds from now; None: never."""
        return cls() if seconds is None else cls(time.monotonic() + seconds, float(seconds))

    def before(self, seconds: float) -> Clock:
        """One that expires so many seconds earlier, but not before a quarter of what there is."""
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
        """Whether work that cannot be interrupted ends before the deadline, or so much later.

        Parameters
        ----------
        work : float
            In multiplications, of which `RATE` are a second.
        late : float
            Part of all the time by which it may end later.
        """
        return math.isinf(self.deadline) or work <= RATE * (max(self.left, 0.0) + late * self.seconds)

    def require(self, work: float) -> None:
        """End what is under way, if such work would not end in time."""
        if not self.affords(work):
            raise OutOfTime

    def check(self) -> None:
        """End what is under way, if the deadline has passed."""
        if self.expired:
            raise OutOfTime
