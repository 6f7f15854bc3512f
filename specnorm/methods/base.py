"""What every method is: a frozen value with one pure function forwards and one back."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from specnorm import arrays
from specnorm.errors import GeometryError, MethodError
from specnorm.problem.spec import TRACED
from specnorm.result import TwoSided

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.certified.bound import Lower, Upper
    from specnorm.certified.rounding import Rounds
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import ArrayOps


def check_count(name: str, value: object, least: int = 0) -> None:
    """Refuse a method's parameter that is no integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise MethodError(f"{name}={value!r} is not a count: give an integer of at least {least}.")


def as_number(name: str, value: object) -> float:
    """A parameter that is one number, as float: of Python, or an array of this one number."""
    if isinstance(value, TwoSided):
        raise MethodError(f"{name} is {type(value).__name__}, which is two numbers: give its .upper or its .lower.")
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        said = type(value).__name__ if getattr(value, "ndim", None) is not None else f"{type(value).__name__} {value!r}"
        raise MethodError(f"{name} must be a number, got {said}.")
    if getattr(value, "ndim", 0):
        shape = tuple(getattr(value, "shape", ()))
        raise MethodError(f"{name} is an array of shape {shape}; expected one number: call once for each.")
    try:
        return float(value)
    except Exception:
        raise MethodError(f"{name} is a {type(value).__name__}, whose value is not known.{TRACED}") from None


def check_rtol(rtol: object) -> None:
    """Refuse a relative tolerance outside (0, 1)."""
    if not isinstance(rtol, (int, float)):
        raise MethodError(f"rtol={rtol!r} is a {type(rtol).__name__}, no number: give a relative width such as 1e-3.")
    if not 0 < rtol < 1:
        raise MethodError(f"rtol={rtol!r} is not between 0 and 1: give a relative width such as 1e-3.")


def check_budget(budget: object) -> None:
    """Refuse a budget that is no number of seconds."""
    if budget is not None and (not isinstance(budget, (int, float)) or isinstance(budget, bool) or not budget > 0):
        raise MethodError(f"budget={budget!r} is no time: give seconds, such as 10, or None for as long as it takes.")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a method computed for a stack of blocks; every array has the leading axis b of the blocks.

    Parameters
    ----------
    value : array, shape (b, *value_shape)
    stats : tuple of arrays
        In the order of the method's ``stats``.
    residuals : tuple of arrays
        At least one; what ``pullback`` needs.
    claims : sequence of (Lower, Upper)
        Of each layer, if the method has them: how the value was proven.
    """

    value: Array
    stats: tuple[Array, ...]
    residuals: tuple[Array, ...]
    claims: Sequence[tuple[Lower, Upper]] = ()


@dataclass(frozen=True)
class Needs:
    """What a method asks of the room that runs it; the defaults suit a formula in the kernel's own precision.

    Parameters
    ----------
    rounds : {"nearest", "up", "down"}
        Direction of the last rounding: "up" for upper bounds, "down" for lower ones.
    precision : {"own", "wide", "mixed"}
        Dtype of the blocks: the kernel's own, or the widest of the device, for proofs. "mixed": the kernel's own, and
        the method itself computes what it proves in the widest precision.
    narrow_gradient : bool
        Whether a gradient made of a few outer products is wanted: its residuals then have the kernel's own precision.
    small_products : bool
        Whether the method is many small products, which NumPy does faster where it reads arrays in place.
    scaled : bool
        Whether blocks come scaled by a power of two, and values go back through it.
    blocks : bool
        Whether the geometry is reduced to blocks; else `Method.forward` gets the kernels, (b, *shape) in torch's
        order.
    by_layer : bool
        Whether ``forward`` answers once a layer, as it does without blocks; else once a group, and the largest answer
        is taken.
    searches : bool
        Whether the method looks at values as it runs (a search, a proof), where they are known.
    value_shape : tuple of int
        Shape of one layer's value.
    """

    rounds: Rounds = "nearest"
    precision: Literal["own", "wide", "mixed"] = "own"
    narrow_gradient: bool = False
    small_products: bool = False
    scaled: bool = True
    blocks: bool = True
    by_layer: bool = False
    searches: bool = False
    value_shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.blocks:
            object.__setattr__(self, "by_layer", True)


@dataclass(frozen=True)
class Method:
    """Base of the methods. A subclass is a frozen dataclass of plain numbers.

    It owes `name`, `promise` and `asks` (or `kind` and `needs`, where they depend on the geometry), `forward` and
    `pullback`, and `stats` if it tells more than a value. The rest has defaults. A method that is stepped in training
    derives from `Stepped` too.
    """

    name: ClassVar[str]
    """Key in ``METHODS``, JSON field and ``--methods`` word."""
    promise: ClassVar[Kind]
    """What `kind` says of every geometry."""
    quantity: ClassVar[str] = "norm"
    """What the value is of: the spectral norm, unless a method says otherwise."""
    asks: ClassVar[Needs] = Needs()
    """What `needs` says of every geometry."""
    stats: ClassVar[Mapping[str, Rounds | None]] = {}
    """Figures in ``Evaluation.stats``, in order: how each is rounded if it is a norm (it scales with the kernel), or
    None if it is a plain number."""

    def kind(self, spec: ConvSpec) -> Kind:
        """What the value promises for this geometry."""
        return self.promise

    def needs(self, spec: ConvSpec) -> Needs:
        """What the method asks of the room that runs it on this geometry."""
        return self.asks

    def kind_after(self, spec: ConvSpec, stats: Mapping[str, Any]) -> Kind:
        """What the value promises after the run: upper, if the method proved an estimate and says so in ``stats``."""
        if "proven" in self.stats and not stats["traced"] and bool(stats["proven"]):
            return "upper"
        return self.kind(spec)

    def check(self, spec: ConvSpec) -> None:
        """Refuse a geometry that the method cannot serve, naming one that can.

        By default upper bounds serve every one: they bound the supremum of the blocks' symbols, and are multiplied by
        what padding adds. Others serve the layers whose norm the symbols have.
        """
        if self.needs(spec).rounds != "up":
            require_exact(spec, self.name)

    def refuse_tracer(self, spec: ConvSpec) -> None:
        """Called instead of a search where values are not known: raise, or return if the method can do without.

        Raises
        ------
        MethodError
            Naming what works under a tracer.
        """
        raise MethodError(
            f"{self.name} looks at values while it runs, which jit, compile and vmap do not have. completion_bound, "
            "grid_bound, f4_bound and gram_bound are proven bounds that work there; or call it outside of them."
        )

    def over_groups(self, values: Array, *, xp: Namespace) -> tuple[Array, Array]:
        """Reduce the values of a layer's groups, shape (layers, groups, *block_value_shape), to the layer's.

        A grouped layer is block diagonal: its norm is the largest of its blocks'.

        Returns
        -------
        value : array, shape (layers, *value_shape)
        chosen : integer array
            Where each value came from; for `to_groups` alone.
        """
        return xp.max(values, axis=1), xp.argmax(values, axis=1)

    def to_groups(self, cotangent: Array, chosen: Array, groups: int, *, xp: Namespace) -> Array:
        """Adjoint of `over_groups`: (layers, *value_shape) to (layers, groups, *block_value_shape)."""
        return arrays.one_hot(cotangent, chosen, groups, xp=xp)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Evaluate on blocks (b, cout, cin, *kernel_shape), finite and scaled to about 1 (or zero)."""
        raise NotImplementedError

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """Gradient with respect to the blocks, for a cotangent (b, *value_shape)."""
        raise NotImplementedError


class Stepped(Method):
    """Base of the methods that are stepped in training, with vectors kept from step to step: three members more.

    Three others have defaults. The base keeps nothing: each step is then a measurement by itself.
    """

    bounds_at_every_step: ClassVar[bool] = False
    """Whether the value of `advance` is an upper bound, rounding included, whatever the state."""

    def state_shapes(self, spec: ConvSpec) -> Mapping[str, tuple[int, ...]]:
        """Shape of each array of the training state, for one block; {}: a step keeps nothing and is `forward`.

        Raises
        ------
        MethodError
            If the method cannot be stepped on this geometry.
        """
        return {}

    def start(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> tuple[Array, ...]:
        """Arrays of `state_shapes` in its order, leading axis b: vectors near the maximum for these blocks."""
        raise NotImplementedError

    def advance(
        self,
        blocks: Array,
        state: tuple[Array, ...],
        spec: ConvSpec,
        *,
        sweeps: int,
        ops: ArrayOps,
    ) -> tuple[Evaluation, tuple[Array, ...]]:
        """Move the state by a few sweeps, and evaluate at the vectors reached; residuals are those of `forward`.

        A vector that a zero or non-finite kernel would destroy is kept. No sweep: evaluate where the state stands.
        """
        raise NotImplementedError

    def state_class(self, spec: ConvSpec) -> Hashable:
        """What zero channels leave of a state's layout: states of one class can be taken to each other's channels.

        None: this method's states cannot be taken so.
        """
        return None

    def with_channels(
        self,
        state: tuple[Array, ...],
        here: ConvSpec,
        there: ConvSpec,
        *,
        xp: Namespace,
    ) -> tuple[Array, ...]:
        """State (..., *shape) of blocks with other channels: more, by zeros, or fewer, by cutting zeros off."""
        raise NotImplementedError


def weighted(residuals: tuple[Array, ...], cotangent: Array, *, xp: Namespace) -> Array:
    """The `pullback` of a method whose residual is the gradient itself, (b, ...), for a cotangent (b,)."""
    (gradient,) = residuals
    return gradient * xp.reshape(xp.astype(cotangent, gradient.dtype), (-1,) + (1,) * (gradient.ndim - 1))


def require_exact(spec: ConvSpec, function: str) -> None:
    """Refuse layers whose norm is not that of the symbols: padding that repeats pixels or drops outputs.

    Raises
    ------
    GeometryError
        Naming what to use instead.
    """
    here = f"padding_mode={spec.padding_mode!r} with padding={spec.padding}"
    if spec.input_shape is None and spec.padding_gain_sq > 1:
        raise GeometryError(
            f"{function} is not known for {here}, which may lift the norm by as much as "
            f"{math.sqrt(spec.padding_gain_sq):.4g}. Use enclose(kernel) or grid_bound(kernel), whose upper bounds "
            "include that factor; power_norm(kernel, input_shape) is a lower bound at one size."
        )
    if spec.input_shape is not None and not spec.periodic:
        raise GeometryError(
            f"{function} at input_shape is not known for {here}, only for circular padding that gives one output a "
            "stride, such as padding='same'. Use grid_bound(kernel) for an upper bound, power_norm(kernel, "
            "input_shape) for a lower one, or enclose for both."
        )
