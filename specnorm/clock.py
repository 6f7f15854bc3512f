"""When a search has to end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

BUDGET = 60.0
"""Seconds that functions which search have unless they are told."""


RATE = 1e10
"""Multiplications in a second, about what one thread of a processor of 2020 does under load.

What no clock can interrupt is counted in them before it begins.
"""


class OutOfTime(Exception):
    """A search's time is up. What it has proven by then stands."""


_counts_work: ContextVar[bool] = ContextVar("_counts_work", default=False)


class Clock:
    """A deadline.

    Parameters
    ----------
    deadline : float
        On the clock of `time.monotonic`; of work, in seconds from the beginning.
    seconds : float
        What there was until then at first.
    begun : pair of float, optional
        Where work counts: the clocks of `time.monotonic` and `time.process_time` at the beginning.
    """

    def __init__(
        self,
        deadline: float = math.inf,
        seconds: float = math.inf,
        begun: tuple[float, float] | None = None,
    ) -> None:
        self.deadline = deadline
        self.seconds = seconds
        self.begun = begun
        self.has_cut = False
        """Whether something was left out that would have been tried with more time."""

    @classmethod
    def of(cls, seconds: float | None) -> Clock:
        """One that expires so many seconds from now; None: never."""
        if seconds is None:
            return cls()
        if _counts_work.get():
            return cls(float(seconds), float(seconds), (time.monotonic(), time.process_time()))
        return cls(time.monotonic() + seconds, float(seconds))

    @staticmethod
    @contextmanager
    def counting_work() -> Iterator[None]:
        """Let clocks that begin within count the processors' seconds where these are fewer than those that pass.

        So a machine that is busy with other work gives the answer of an idle one, later. For work of the host alone: no
        processor counts what a device computes.
        """
        token = _counts_work.set(True)
        try:
            yield
        finally:
            _counts_work.reset(token)

    def before(self, seconds: float) -> Clock:
        """One that expires so many seconds earlier, but not before a quarter of what there is."""
        if math.isinf(self.deadline):
            return self
        return Clock(self.deadline - min(seconds, 0.75 * max(self.left, 0.0)), self.seconds, self.begun)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - self._now()

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self._now() > self.deadline

    def _now(self) -> float:
        if self.begun is None:
            return time.monotonic()
        passed, worked = self.begun
        return min(time.monotonic() - passed, time.process_time() - worked)

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
