"""The answers of public functions: `Result` of one method, and `Enclosure`, two proven bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, SupportsFloat, TypeVar

from specnorm.backends import text
from specnorm.backends.text import rounded_format
from specnorm.errors import CertificateError
from specnorm.proofs.found import Outcome
from specnorm.proofs.rounding import conversion_loss
from specnorm.running.explaining import explained

if TYPE_CHECKING:
    import typing_extensions

    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.bound import Lower, Upper
    from specnorm.running.base import Claims, Kind

NumberT = TypeVar("NumberT", bound=SupportsFloat)
if TYPE_CHECKING:
    # The default lets users write `Result` alone.
    ValueT = typing_extensions.TypeVar("ValueT", default=Any)
else:
    ValueT = TypeVar("ValueT")


class NoNumber:
    """Base of answers that hold numbers: where one is used as a number, the error says which of these to take."""

    use_instead: ClassVar[str]

    def _refuse(self, operation: str) -> NoReturn:
        raise TypeError(f"{operation} of {type(self).__name__}, {self.use_instead}.")

    def __float__(self) -> float:
        self._refuse("float()")

    def _refuse_arithmetic(self, *_: object) -> NoReturn:
        self._refuse("arithmetic")

    # One by one: in a chain, pyright counts only the first name as typed.
    __add__ = _refuse_arithmetic
    __radd__ = _refuse_arithmetic
    __sub__ = _refuse_arithmetic
    __rsub__ = _refuse_arithmetic
    __mul__ = _refuse_arithmetic
    __rmul__ = _refuse_arithmetic
    __truediv__ = _refuse_arithmetic
    __rtruediv__ = _refuse_arithmetic
    __pow__ = _refuse_arithmetic
    __rpow__ = _refuse_arithmetic
    __neg__ = _refuse_arithmetic
    __abs__ = _refuse_arithmetic

    def __lt__(self, other: object) -> bool:
        self._refuse("comparison")

    def __le__(self, other: object) -> bool:
        return self < other

    def __gt__(self, other: object) -> bool:
        return self < other

    def __ge__(self, other: object) -> bool:
        return self < other


@dataclass(frozen=True, eq=False)
class TwoSided(NoNumber, Generic[NumberT]):
    """Base of answers with a lower and an upper bound, which unpack into both, but cannot be used as a number."""

    lower: NumberT
    upper: NumberT

    quantity = "norm"
    use_instead = "which is two numbers: use its .upper or its .lower"

    def __iter__(self) -> Iterator[NumberT]:
        """The lower bound, then the upper bound."""
        yield self.lower
        yield self.upper

    def _shown_ends(self) -> str:
        return f"{text.shown(self.lower, 'lower')} <= {self.quantity} <= {text.shown(self.upper, 'upper')}"

    def __bool__(self) -> bool:
        self._refuse("bool()")

    def __round__(self, digits: int = 0) -> NoReturn:
        name = type(self).__name__
        raise TypeError(
            f"round() of {name}, which is two numbers: format(enclosure, '.{digits}f') rounds each to its side; "
            "round(enclosure.upper) may lower the bound."
        )

    def __format__(self, spec: str) -> str:
        """Both bounds in a format of floats, such as ".3f": the upper one rounded up, the lower one down."""
        if not spec:
            return str(self)
        lower = rounded_format(float(self.lower), spec, "lower")
        upper = rounded_format(float(self.upper), spec, "upper")
        return f"{lower} <= {self.quantity} <= {upper}"

    def __eq__(self, other: object) -> bool:
        """Whether both are the same object. A comparison with a number raises an error."""
        if hasattr(other, "__float__") and not isinstance(other, TwoSided):
            self._refuse("comparison")
        return self is other

    def __hash__(self) -> int:
        return object.__hash__(self)


@dataclass(frozen=True, eq=False)
class Enclosure(TwoSided[Any]):
    """Proven lower and upper bounds on a layer's spectral norm, or on another of its quantities.

    ``lower, upper = enclose(kernel)`` unpacks it. ``float()``, ``bool()`` and comparisons raise an error, since it
    holds two numbers.

    Parameters
    ----------
    lower, upper : 0-d arrays
        ``lower <= norm <= upper``, in the caller's library and dtype, rounded outward.
    witness : tuple of arrays
        (frequency, u, v): a frequency in radians for each axis, and unit vectors such that ``|u* G(frequency) v|``
        attains ``lower``; for a smallest singular value it attains ``upper``. For a layer at a size with other padding
        than circular ``"same"``, u and v are an output and an input, and empty if these have more than 262,144 entries
        together; there is no frequency.
    cells, levels : int
        Numbers of cells and of rounds of bisection in the search.
    proof_dtype : str
        Dtype of the proof, with "on the host" if it did not run on the kernel's device. Cells far below ``upper`` may
        have been decided in float32, with the allowances of that precision.
    status : str
        The outcome of the search, and an explanation: "converged: ..." (the bounds are within ``rtol``), "budget: ..."
        (the search ended before that), "size: ..." (a layer at a size that could not be enclosed more closely), "cells:
        ..." (more cells are needed than a search may visit, so that no budget helps), "padding: ..." (``upper``
        includes what padding may add), "zero: ..." (a smallest singular value that could not be proven to be positive)
        or "range: ..." (the norm is outside the dtype's range). The bounds are proven in every case.
    quantity : str
        The number that is bounded: "norm", "smallest singular value", "condition number" or "isometry defect".
    """

    witness: tuple[Any, Any, Any]
    cells: int
    levels: int
    proof_dtype: str
    status: str
    quantity: str = "norm"
    # The next two are set on instances by `proven_by` and `stated_by`. They are not fields, so that an enclosure that
    # is made from another one by `dataclasses.replace`, with other bounds, does not have them.
    _claims: ClassVar[tuple[Lower, Upper] | None] = None
    _statement: ClassVar[Any] = None

    @property
    def claim(self) -> tuple[Lower, Upper] | Any:  # with Any for None, callers of `enclose` need not ask
        """Both bounds as claims, with the digest of the kernel and the rules that prove them.

        None for an enclosure that was made from another one, and if a compiler ran the search.
        """
        return self._claims

    def __repr__(self) -> str:
        """Both bounds and how the search ended, in one line."""
        return f"{self._shown_ends()} ({self.status})"

    @property
    def outcome(self) -> Outcome:
        """How the search ended; ``outcome.advice`` says how to get tighter bounds."""
        return Outcome(self.status.partition(":")[0])

    def proven_by(self, claims: Sequence[tuple[Lower, Upper]]) -> Enclosure:
        """Set the claims behind the bounds, if there are any; return self."""
        for ends in claims:
            object.__setattr__(self, "_claims", ends)
        return self

    def stated_by(self, statement: Callable[[str], Any]) -> Enclosure:
        """Set the function that `certificate` calls with the kernel's name; return self."""
        object.__setattr__(self, "_statement", statement)
        return self

    def certificate(self, name: str = "kernel") -> Any:
        """Make a certificate of an upper bound, which others can check without specnorm.

        The checker is ``python -m specnorm_check`` (`docs/check-it-yourself.md`). The certificate claims a bound about
        1 % above the norm, at every input size. If the layer was enclosed at a size with at most 1,024 input entries
        per group, the claim holds at that size only, and is closer. The search for its proof runs in this call and may
        take longer than the enclosure.

        Parameters
        ----------
        name : str, default "kernel"
            Name of the kernel in the model file that is given to the checker.

        Returns
        -------
        specnorm_audit.layer_certificates.Certificate

        Raises
        ------
        CertificateError
            If certificates do not support such a kernel, or this enclosure was made from another one.
        """
        if self.quantity != "norm":
            raise CertificateError(
                f"there is no certificate for a {self.quantity}, only for the norm: use that of enclose(kernel)."
            )
        if self._statement is None:
            raise CertificateError("this enclosure was made from another one: take that one's certificate.")
        return self._statement(name)

    def explain(self) -> str:
        """Return the rules that prove both bounds, one per line, with numbers; premises follow their conclusion."""
        ends = self._shown_ends()
        if self._claims is None:
            return f"{ends}: made from another enclosure, whose proof it is not"
        return f"{ends}\n{explained(*self._claims)}"


def dtype_of(x: Any) -> str:
    """The name of an array's dtype, such as "float32", in each library."""
    return str(x.dtype).rpartition(".")[2]


def converged(lower: float, upper: float, rtol: float, dtype: str) -> tuple[Outcome, str]:
    """How a search that converged to ``rtol`` ended, by its bounds as they are returned, in ``dtype``; and in words."""
    if upper <= lower * (1 + rtol) and upper < math.inf:
        return Outcome.CONVERGED, f"rtol={rtol:g}"
    if upper - lower <= (rtol + 2 * conversion_loss(dtype)) * lower < math.inf:
        of_tolerance = f"rtol={rtol:g} up to the last rounding to {dtype}"
        return Outcome.CONVERGED, of_tolerance if rtol > conversion_loss(dtype) else f"to the resolution of {dtype}"
    return Outcome.RANGE, f"the kernel or the result is outside of the normal numbers of {dtype}"


@dataclass(frozen=True, eq=False)
class Result(NoNumber, Generic[ValueT]):
    """The value of one method on one layer.

    Parameters
    ----------
    value : array
        0-d array (1-d for methods with several values) of the caller's library, dtype and device.
    kind : {"exact", "upper", "lower", "estimate"}
        What ``value`` promises about the layer's spectral norm.
    method : Method
        The method with its parameters.
    spec : ConvSpec
        The geometry of the layer.
    stats : mapping
        Backend, device, dtype of the computation, and the method's figures.
    claims : callable
        Makes the bounds as claims, pairs (lower, upper); an empty sequence if the method makes none, or if a compiler
        ran it.
    """

    value: ValueT
    kind: Kind
    method: Any
    spec: ConvSpec
    stats: Mapping[str, Any] = field(default_factory=dict)
    claims: Claims = tuple
    use_instead = "whose number is its .value"

    def every_second(self, method: Any) -> Result[Any]:
        """The result of a method for a complex kernel, from that of `Plan.with_each_twice` for its real form."""
        value: Any = self.value
        of_values = {name: x[::2] for name, x in self.stats.items() if getattr(x, "shape", ()) == value.shape}
        return replace(self, value=value[::2], method=method, stats={**self.stats, **of_values})

    def __repr__(self) -> str:
        """What the value promises, its number and the method, in one line."""
        sizes = self.spec.sizes_in_words if self.spec.input_shape is None else f"input size {self.spec.input_shape}"
        sizes = self.spec.matrix_in_words or sizes
        sizes += f"; {self.spec.same_in_words}" if self.spec.same_in_words else ""
        return f"{self.kind} {text.shown(self.value, self.kind)} ({self.method.name}, {sizes})"
