"""The answer: what a method returns. No arithmetic here; bounds are made in `specnorm.certified.rounding` alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

from specnorm.errors import CertificateError

if TYPE_CHECKING:
    from specnorm.certified.bound import Lower, Upper
    from specnorm.problem.spec import ConvSpec

Kind = Literal["exact", "upper", "lower", "estimate"]
"""What a value promises.

``exact``: the norm of the stated problem, to the method's tolerance and ordinary rounding; ``upper`` and ``lower``:
never below, never above the true norm, rounding included; ``estimate``: close, no promise.
"""


class Outcome(Enum):
    """How an enclosure ended: the first word of `Enclosure.status`. Its bounds are proven in each case."""

    CONVERGED = "converged"
    BUDGET = "budget"
    SIZE = "size"
    PADDING = "padding"
    RANGE = "range"
    ZERO = "zero"

    @property
    def advice(self) -> str:
        """What to do for bounds that are closer."""
        return _ADVICE[self]


_ADVICE = {
    Outcome.CONVERGED: "give a smaller rtol",
    Outcome.BUDGET: "give a larger budget, or a larger rtol",
    Outcome.SIZE: "no proof that was affordable comes closer: give a larger budget, or a larger rtol",
    Outcome.PADDING: "give input_shape: a small layer is then enclosed with its padding",
    Outcome.ZERO: "no proof tells the value from 0; at an input_shape it may be larger",
    Outcome.RANGE: "scale the kernel by a power of two, or give it in float64: the norm scales with it",
}


class BoundSource(Enum):
    """What proves the upper bound of a layer at its size."""

    SUPREMUM = "the supremum over all sizes"
    CIRCULANT = "a circulant that the layer is a part of"
    MATRIX = "the layer's own matrix"


class TwoSided:
    """A lower and an upper bound of one number: it unpacks into both, and does not pass for a number itself."""

    lower: Any
    upper: Any

    def __iter__(self) -> Iterator[Any]:
        """The lower bound, then the upper bound."""
        yield self.lower
        yield self.upper

    def _refuse(self, what: str) -> NoReturn:
        name = type(self).__name__
        raise TypeError(f"{what} of {name}, which is two numbers: use its .upper or its .lower.")

    def __float__(self) -> float:
        self._refuse("float()")

    def __lt__(self, other: object) -> bool:
        self._refuse("comparison")

    __le__ = __gt__ = __ge__ = __lt__

    def __eq__(self, other: object) -> bool:
        """Whether both are the same object; a number is refused."""
        if hasattr(other, "__float__") and not isinstance(other, TwoSided):
            self._refuse("comparison")
        return self is other

    __hash__ = object.__hash__


@dataclass(frozen=True, eq=False)
class Enclosure(TwoSided):
    """Two proven bounds of a layer's norm, or of another number that belongs to it.

    ``lower, upper = enclose(kernel)`` unpacks it. ``float()`` of it and comparisons raise: it is two numbers.

    Parameters
    ----------
    lower, upper : 0-d arrays
        Of the caller's library and dtype, rounded outward: ``lower <= norm <= upper``.
    witness : tuple of arrays
        (frequency, u, v): radians per axis, and unit vectors with ``|u* G(frequency) v|`` attaining ``lower``; of a
        smallest singular value, ``upper``.
    cells, levels : int
        Size of the search.
    proof_dtype : str
        What the proof was computed in, and where; cells far below ``upper`` may have been pruned in float32, with
        that precision's allowances.
    status : str
        A word and what it means: "converged: ..." (the bounds are ``rtol`` apart), "budget: ..." (the search ended
        first), "size: ..." (a layer at a size that could not be enclosed more closely), "padding: ..." (``upper``
        includes what padding may add), "zero: ..." (a smallest singular value that no proof tells from 0) or
        "range: ..." (the norm is beyond the numbers of the dtype, or below). The bounds are proven in each case.
    quantity : str
        What is bounded: "norm", "smallest singular value", "condition number" or "isometry defect".
    """

    lower: Any
    upper: Any
    witness: tuple[Any, Any, Any]
    cells: int
    levels: int
    proof_dtype: str
    status: str
    quantity: str = "norm"
    _claims: ClassVar[tuple[Lower, Upper] | None] = None
    _explained: ClassVar[Any] = None
    _statement: ClassVar[Any] = None
    """Of an instance: the claims behind its bounds. No field: what is made of an enclosure has other bounds."""

    @property
    def claim(self) -> tuple[Lower, Upper] | None:
        """Both bounds as claims, which name the kernel by the digest of its bits, and what proves them.

        None of what is made from another enclosure, and where a compiler ran the search.
        """
        return self._claims

    def __repr__(self) -> str:
        """Both bounds and how the search ended, in one line."""
        return f"{self._shown_ends()} ({self.status})"

    def _shown_ends(self) -> str:
        return f"{shown(self.lower, 'lower')} <= {self.quantity} <= {shown(self.upper, 'upper')}"

    @property
    def outcome(self) -> Outcome:
        """How the search ended; ``outcome.advice`` says what to do for closer bounds."""
        return Outcome(self.status.partition(":")[0])

    def proven_by(self, lower: Lower, upper: Upper, explained: Callable[[Lower, Upper], str]) -> Enclosure:
        """The same, with `claim`, and what `explain` prints of them."""
        object.__setattr__(self, "_claims", (lower, upper))
        object.__setattr__(self, "_explained", explained)
        return self

    def stated_by(self, statement: Callable[[str], Any]) -> Enclosure:
        """The same, with what `certificate` gives for a kernel's name."""
        object.__setattr__(self, "_statement", statement)
        return self

    def certificate(self, name: str = "kernel") -> Any:
        """What somebody else can check without specnorm: ``python -m specnorm_check``, `docs/check-it-yourself.md`.

        A claim about every input size, some 1 % above the norm. Its proof is searched for, which may take longer than
        the enclosure did.

        Parameters
        ----------
        name : str, default "kernel"
            Of the kernel in the file of the model that is given to the checker.

        Returns
        -------
        specnorm_networks.tools.Certificate

        Raises
        ------
        CertificateError
            If the format has no claim about such a kernel, or the bounds were made from another enclosure's.
        """
        if self._statement is None:
            raise CertificateError("this enclosure was made from another one: take that one's certificate.")
        return self._statement(name)

    def explain(self) -> str:
        """The rules that prove both bounds, one a line, each with its number and above those that it rests on."""
        ends = self._shown_ends()
        if self._claims is None:
            return f"{ends}: made from another enclosure, whose proof it is not"
        return f"{ends}\n{self._explained(*self._claims)}"


@dataclass(frozen=True, eq=False)
class Result:
    """The value of one method on one layer.

    Parameters
    ----------
    value : array
        0-d array (1-d for methods with several values) of the caller's library, dtype and device.
    kind : {"exact", "upper", "lower", "estimate"}
        What ``value`` promises about the layer's spectral norm.
    method : Method
        The method, as a value: it prints, compares and pickles.
    spec : ConvSpec
        The geometry that was measured.
    stats : mapping
        How the number was obtained: backend, device, the dtype computed in, and the method's own figures.
    """

    value: Any
    kind: Kind
    method: Any
    spec: ConvSpec
    stats: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """What the value promises, its number and the method, in one line."""
        sizes = self.spec.sizes if self.spec.input_shape is None else f"input size {self.spec.input_shape}"
        return f"{self.kind} {shown(self.value, self.kind)} ({self.method.name}, {sizes})"


def shown(x: Any, promise: str) -> str:
    """A value for people: of an array with several, the first and the last; of none that is known, a word."""
    from specnorm.text import number  # takes a while to import

    still = x.detach() if hasattr(x, "detach") else x
    try:
        if getattr(still, "ndim", 0) == 0:
            return number(float(still), promise)
        first, last = (number(float(still[i]), promise) for i in (0, -1))
        return f"{first} ... {last} ({still.shape[0]} values)"
    except Exception:  # a tracer, and whatever else compilers put in an array's place
        return "unknown under a tracer"
