"""What every search is given: its problem, its deadline, and what its steps cost.

Costs of LAPACK calls, which cannot be interrupted, are in multiplications. They were measured on one thread at 256 to
1024 rows, on a busy machine. One unit is a multiplication of a large matrix product; an eigenvalue routine runs several
times slower per multiplication.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.bound import Upper

_MULTIPLICATIONS_PER_SECOND = 1e10
"""About what one thread of a processor of 2020 makes under load.

The duration of work that cannot be interrupted is estimated with it before the work begins.
"""

_COMPLEX_EIGH = 3.0
"""Cost of a complex eigenvalue routine, divided by that of a real one of the same size."""
_EIGH = 5.0
"""Cost of eigenvalues with eigenvectors of a real n x n matrix, divided by n^3."""
_EIGVALSH = 2.0
"""Cost of eigenvalues alone of a real n x n matrix, divided by n^3."""


class OutOfTime(Exception):
    """The deadline of a search has passed. The bounds that it has proven so far are valid."""


_counts_work: ContextVar[bool] = ContextVar("_counts_work", default=False)
"""Whether clocks that are made now count seconds of work (`Clock.counting_work`)."""


class Clock:
    """A deadline.

    Parameters
    ----------
    deadline : float
        Time of the deadline, as `time.monotonic` counts. If the clock counts work: seconds of work from its start.
    seconds : float
        Duration from the start of the search to the deadline.
    work_start : pair of float, optional
        If the clock counts work: what `time.monotonic` and `time.process_time` were at its start.
    """

    BUDGET: ClassVar = 60.0
    """Default time limit, in seconds, of functions that search."""

    def __init__(
        self,
        deadline: float = math.inf,
        seconds: float = math.inf,
        work_start: tuple[float, float] | None = None,
    ) -> None:
        self.deadline = deadline
        self.seconds = seconds
        self.work_start = work_start
        self.has_cut = False
        """Whether something was left out that would have been tried with more time."""

    @classmethod
    def of(cls, seconds: float | None) -> Clock:
        """A clock that expires in so many seconds; None: never."""
        if seconds is None:
            return cls()
        if _counts_work.get():
            return cls(float(seconds), float(seconds), (time.monotonic(), time.process_time()))
        return cls(time.monotonic() + seconds, float(seconds))

    @staticmethod
    @contextmanager
    def counting_work() -> Iterator[None]:
        """Let clocks made inside of the context count this process's seconds on the processors, where they are fewer.

        Then a machine that is busy with other work gives the answer of an idle one, later. The context is for work of
        the host only: the time in which a device computes is not counted.
        """
        token = _counts_work.set(True)
        try:
            yield
        finally:
            _counts_work.reset(token)

    def before(self, seconds: float) -> Clock:
        """A clock that expires so many seconds earlier, but not before a quarter of the remaining time has passed."""
        if math.isinf(self.deadline):
            return self
        return Clock(self.deadline - min(seconds, 0.75 * max(self.left, 0.0)), self.seconds, self.work_start)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - self._now()

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        if self.work_start is None:
            return time.monotonic() > self.deadline  # asked often: one call
        return self._now() > self.deadline

    def _now(self) -> float:
        """The present time, on the scale of the deadline."""
        if self.work_start is None:
            return time.monotonic()
        monotonic_start, process_start = self.work_start
        return min(time.monotonic() - monotonic_start, time.process_time() - process_start)

    def affords(self, work: float, late: float = 0.0) -> bool:
        """Whether work that cannot be interrupted will end before the deadline, or not much later.

        Parameters
        ----------
        work : float
            Number of multiplications.
        late : float
            Tolerated delay after the deadline, as a fraction of ``seconds``.
        """
        seconds = max(self.left, 0.0) + late * self.seconds
        return math.isinf(self.deadline) or self.seconds_of(work) <= seconds

    @staticmethod
    def seconds_of(work: float) -> float:
        """Seconds, about, that so many multiplications take."""
        return work / _MULTIPLICATIONS_PER_SECOND

    @staticmethod
    def eigh_cost(side: int, *, is_complex: bool = False, vectors: bool = True) -> float:
        """Cost of the eigenvalues of one Hermitian matrix, with or without its eigenvectors."""
        factor = _EIGH if vectors else _EIGVALSH
        if is_complex:
            factor *= _COMPLEX_EIGH
        return factor * float(side) ** 3

    def require(self, work: float) -> None:
        """Raise `OutOfTime` if work of so many multiplications would not end before the deadline."""
        if not self.affords(work):
            raise OutOfTime

    def check(self) -> None:
        """Raise `OutOfTime` if the deadline has passed."""
        if self.expired:
            raise OutOfTime


class Fallback(Protocol):
    """A bound at a fixed cost, for searches that end before they have proven one."""

    def seconds(self, blocks: Array, clock: Clock) -> float:
        """Seconds, about, that the bound takes: a search leaves them."""

    def bound(self, blocks: Array, clock: Clock, *, ops: ArrayOps) -> Upper:
        """The bound of the norm of blocks (g, m, p, *kernel_shape) at every frequency."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What is searched of a layer, and how closely: its norm, or another number.

    The arrays that searches take beside a problem are of the widest dtype of the library, scaled to about 1, not
    traced: blocks (g, m, p, *kernel_shape) or, for the layer itself at a size, its kernel (1, *shape) in torch's order.

    Parameters
    ----------
    spec : ConvSpec
        Geometry of the layer. For its blocks, the norm is over the DFT frequencies of the circular layer if there is an
        ``input_shape``, otherwise over all frequencies.
    rtol : float
        Relative width asked for.
    max_cells : int
        Budget of one search.
    clock : Clock
        Deadline: nothing is begun once the time is up.
    fallback : Fallback, optional
        Without it, a search that does not finish may have no upper bound.
    """

    spec: ConvSpec
    rtol: float
    max_cells: int
    clock: Clock = field(default_factory=Clock)
    fallback: Fallback | None = None
