"""The interface of what is run: `Plan` and `Method`, what they ask for (`Needs`) and return (`Evaluation`).

A plan is a frozen dataclass of plain numbers with two pure functions, `Plan.forward` and `Plan.pullback`.

A *block* is the kernel (m, p, *kernel_shape) of one group of a layer, rearranged to have stride and dilation 1
(`geometry.polyphase`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TypeAlias, get_args

from specnorm.backends import arrays
from specnorm.errors import MethodError, TracerError, Undecided

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import AnyArray, ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.bound import Lower, Upper, Uppers
    from specnorm.proofs.found import Found
    from specnorm.proofs.rounding import Rounds

    Claims: TypeAlias = Callable[[], Sequence[tuple[Lower, Upper]]]


Kind = Literal["exact", "upper", "lower", "estimate"]
"""What a value promises.

``exact``: the norm of the stated problem, up to the method's tolerance and usual rounding. ``upper``: never below the
true norm, rounding included. ``lower``: never above the true norm, rounding included. ``estimate``: no promise.
"""

FigureRule: TypeAlias = Literal["up", "down", "nearest", "distance", "all", "any", "sum", "max"] | None
"""How a figure of a method is given for a layer: see `Plan.stats`."""


def check_word(name: str, value: object, words: Sequence[str]) -> None:
    """Refuse what is not one of some words."""
    if not isinstance(value, str) or value not in words:
        raise MethodError(f"{name}={value!r} is none of {', '.join(map(repr, words))}.")


class Evaluation(NamedTuple):
    """The result of `Plan.forward`, whose arrays have leading axis b; or of `Program.forward`.

    b is the number of blocks, or the number of layers if the method returns one answer for each layer
    (``Needs.by_layer``). For `Program.forward`, read the batch of kernels in place of b.

    Attributes
    ----------
    value : array, shape (b, *value_shape)
    stats : tuple of arrays
        Figures beside the value, in the order of `Plan.stats`.
    residuals : tuple of arrays
        What the pullback needs, at least one; without ``ops.differentiated`` there may be none. Of a program, with the
        axes of the batch flattened into one. They are never differentiated.
    proven : Uppers, or sequence of Upper or (Lower, Upper), optional
        The bounds from which the value and its figures are read: upper bounds of the blocks, or both bounds of each
        layer. None for methods that make no claims.
    claims : callable, optional
        Of a program: returns both bounds of each layer, with the digest of its kernel.
    computed_in : str, optional
        Of a program: the dtype of the computation, with "on the host" appended if it did not run on the kernel's
        device. None under a tracer: array values were not known, so that nothing could be searched or proven.
    """

    value: AnyArray
    stats: tuple[AnyArray, ...]
    residuals: tuple[AnyArray, ...]
    proven: Uppers | Sequence[Upper] | Sequence[tuple[Lower, Upper]] | None = None
    claims: Claims | None = None
    computed_in: str | None = None


class Unreached(Undecided):
    """A search ended before its tolerance. `Program` adds to the text what was proven, in the caller's scale.

    ``found``: the bounds of each layer, in the scale of what the plan got; empty if there are none.
    """

    def __init__(self, text: str, found: Sequence[Found] = ()) -> None:
        super().__init__(text)
        self.found = found


class Followed(NamedTuple):
    """Norms that a training step followed, for blocks, or for layers with ``Needs.by_layer``, with leading axis b.

    Parameters
    ----------
    value : array, shape (b,)
    left : array, shape (b, rows, r)
    right : array, shape (b, r, n)
        The gradient of a value is ``left @ right``, in the order of the kernel's entries: of rank 1 over the complex
        numbers, r at most 2.
    state : tuple of arrays
        The state after the step.
    """

    value: Array
    left: Array
    right: Array
    state: tuple[Array, ...] = ()


@dataclass(frozen=True)
class Needs:
    """What a plan asks of the code that runs it (`running.program`): the `Plan.asks` of a class.

    The defaults suit a formula that is computed in the kernel's own precision.

    Parameters
    ----------
    rounds : {"nearest", "up", "down"}
        Direction in which the value is rounded to the result's dtype: "up" for upper bounds, "down" for lower bounds.
    precision : {"own", "wide", "mixed"}
        Dtype of the blocks that `Plan.forward` gets. "own": the kernel's. "wide": the widest of the device, for
        proofs. "mixed": the kernel's; the method itself converts to the widest dtype where it proves.
    narrow_gradient : bool
        Whether residuals may be rounded to the kernel's dtype, to save memory; enough for gradients that are a few
        outer products.
    small_products : bool
        Whether the method consists of many small matrix products. These are faster in NumPy, if NumPy can read the
        library's arrays without a copy.
    scaled : bool
        Whether the caller scales the blocks to about 1 by a power of two, and scales values back.
    blocks : bool
        Whether `Plan.forward` is called, with blocks (`geometry.polyphase`), and not `Plan.forward_kernels`.
    by_layer : bool
        Whether `Plan.forward` returns one answer for each layer. If false, it returns one for each group, and the
        largest of a layer is taken (`Plan.over_groups`). If ``blocks`` is false, this is set to true.
    searches : bool
        Whether the method has to look at array values while it runs, as searches and proofs do.
    pads : bool
        Whether the value is already that of the padded layer. If false, an upper bound of blocks is multiplied by the
        root of `ConvSpec.padding_gain_sq`.
    value_shape : tuple of int
        Shape of the value of one layer.
    """

    rounds: Rounds = "nearest"
    precision: Literal["own", "wide", "mixed"] = "own"
    narrow_gradient: bool = False
    small_products: bool = False
    scaled: bool = True
    blocks: bool = True
    by_layer: bool = False
    searches: bool = False
    pads: bool = False
    value_shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_word("rounds", self.rounds, ("nearest", "up", "down"))
        check_word("precision", self.precision, ("own", "wide", "mixed"))
        if not self.blocks:
            object.__setattr__(self, "by_layer", True)


@dataclass(frozen=True)
class Plan:
    """What any array library can run on a stack of layers, and differentiate: a frozen dataclass of plain numbers.

    `running.program.Program` runs it. A plan that measures something is a `Method`; others belong to one function.

    A subclass defines `name`, `asks` (or `needs`, if these depend on the geometry), `forward`, `pullback` if the
    residuals are not simply the gradient, and `stats` if it returns figures beside the value.
    """

    name: ClassVar[str]
    """What errors call it; for a method, also its key in ``METHODS``, in JSON, and on the command line."""
    asks: ClassVar[Needs] = Needs()
    """The default of `needs`, for plans whose needs do not depend on the geometry."""
    stats: ClassVar[Mapping[str, FigureRule]] = {}
    """Names of the figures in ``Evaluation.stats``, in order, each with its rule. A figure that scales with the kernel,
    such as a bound, has the direction in which it is rounded. An upper bound of the value's distance from a number has
    "distance": the rounding of the value is added. Another one has the reduction over the groups of a layer, or None:
    then the figure is that of the group from which the value is taken."""

    def needs(self, spec: ConvSpec) -> Needs:
        """What the method asks of the code that runs it on this geometry."""
        return self.asks

    def kind(self, spec: ConvSpec) -> Kind:
        """What the value promises for this geometry; of a plan that is no method, the way in which it is rounded."""
        kinds: dict[Rounds, Kind] = {"up": "upper", "down": "lower", "nearest": "exact"}
        return kinds[self.needs(spec).rounds]

    def check(self, spec: ConvSpec) -> None:
        """Raise an error that names another method, if this one does not support the geometry.

        By default, upper bounds support every geometry: they bound the supremum of the blocks' symbols, and are
        multiplied by the root of `ConvSpec.padding_gain_sq`, the factor by which padding may lift the norm. Other
        values need a layer whose norm is that of its symbols.
        """
        is_upper_bound = self.needs(spec).rounds == "up"
        if not is_upper_bound:
            spec.require_exact(self.name)

    def with_each_twice(self) -> Plan:
        """The plan for the real form of a complex kernel, which has each singular value twice.

        A plan with one number for each singular value asks for twice as many; others are returned as they are.
        """
        return self

    def refuse_tracer(self, spec: ConvSpec) -> None:
        """Check whether a method with ``Needs.searches`` may run on a tracer: raise if not, return if it may.

        Raises
        ------
        TracerError
            With the names of functions that work under a tracer.
        """
        raise TracerError(type(self).__name__)

    def over_groups(self, values: Array, *, xp: Namespace) -> tuple[Array, Array]:
        """Reduce the values of a layer's groups, shape (layers, groups, *block_value_shape), to the layer's.

        A grouped layer is block diagonal: its norm is the largest norm of its groups. By default, a block's value has
        the shape of a layer's; a subclass may take values of another shape from its blocks.

        Returns
        -------
        value : array, shape (layers, *value_shape)
        chosen : integer array
            The group from which each value was taken; passed to `to_groups`.
        """
        return xp.max(values, axis=1), xp.argmax(values, axis=1)

    def to_groups(self, cotangent: Array, chosen: Array, groups: int, *, xp: Namespace) -> Array:
        """Adjoint of `over_groups`: from (layers, *value_shape) to (layers, groups, *block_value_shape)."""
        return arrays.one_hot(cotangent, chosen, groups, xp=xp)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Evaluate on what `needs` asks for.

        Parameters
        ----------
        blocks : array, shape (b, m, p, *kernel_shape)
            Blocks, which are finite, and zero or scaled to about 1. Without ``Needs.scaled`` they have the caller's
            scale.
        """
        raise NotImplementedError

    def forward_kernels(self, kernels: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """`forward` for layers without ``Needs.blocks``: on kernels (b, *shape) in torch's order."""
        raise NotImplementedError

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """Gradient of the value with respect to the blocks, for a cotangent (b, *value_shape).

        By default, the only residual is the gradient of each number of the value, of shape (b, *value_shape, *shape),
        or, of a plan with one answer for each layer, that of the layer's number with respect to each of its blocks.
        """
        if len(residuals) != 1:
            raise MethodError(
                f"{type(self).__name__} returned {len(residuals)} residuals: return the gradient alone, or define "
                "pullback."
            )
        (gradients,) = residuals
        groups = gradients.shape[0] // cotangent.shape[0]
        if groups > 1:
            cotangent = xp.reshape(xp.broadcast_to(cotangent[:, None], (cotangent.shape[0], groups)), (-1,))
        numbers = cotangent.shape
        weights = xp.reshape(xp.astype(cotangent, gradients.dtype), (*numbers, *(1,) * (gradients.ndim - len(numbers))))
        axes_of_value = tuple(range(1, len(numbers)))
        products = gradients * weights
        return xp.sum(products, axis=axes_of_value) if axes_of_value else products


class Method(Plan):
    """Base of the methods: a plan whose value is the norm, or another quantity, with a kind.

    A subclass also defines `promise` (or `kind`, if that depends on the geometry). A method with a training state
    derives from `Stepped` instead.
    """

    promise: ClassVar[Kind]
    """The default of `kind`: "exact", "upper", "lower" or "estimate", as `Kind` describes them."""
    quantity: ClassVar[str] = "norm"
    """The quantity that the value measures; "norm" is the spectral norm."""

    def kind(self, spec: ConvSpec) -> Kind:
        """What the value promises for this geometry: "exact", "upper", "lower" or "estimate"."""
        return self.promise

    @classmethod
    @functools.cache
    def check_class(cls) -> None:
        """Raise `MethodError` if the class breaks a rule of methods that can be seen without running it."""
        name = getattr(cls, "name", None)
        if not isinstance(name, str) or not name:
            raise MethodError(f"method {cls.__name__} has no `name`: give it one as a class attribute.")
        # Without fields of its own, two methods of different parameters would be equal, and one program run for both.
        parameters = cls.__dict__.get("__dataclass_params__")
        if parameters is None or not parameters.frozen:
            raise MethodError(
                f"method {cls.__name__} is not a frozen dataclass: write @dataclass(frozen=True) above it."
            )
        if cls.forward is Plan.forward and cls.forward_kernels is Plan.forward_kernels:
            raise MethodError(f"method {cls.__name__} has no `forward`, which returns an Evaluation.")
        if cls.kind is Method.kind:
            check_word(f"{cls.__name__}.promise", getattr(cls, "promise", None), get_args(Kind))
        owners = [each for each in _subclasses(Method) if getattr(each, "name", None) == name and each is not cls]
        owner = next((each for each in owners if each.__module__.startswith("specnorm.")), None)
        if owner is not None and not cls.__module__.startswith("specnorm."):
            raise MethodError(
                f"method {cls.__name__} has the name {name!r} of specnorm's {owner.__name__}: choose another."
            )

    def check_promise(self, spec: ConvSpec) -> None:
        """Raise `MethodError` if the value's kind is not one, or a bound is not rounded in its direction."""
        kind = self.kind(spec)
        check_word(f"the kind of {type(self).__name__}", kind, get_args(Kind))
        direction = {"upper": "up", "lower": "down"}.get(kind)
        rounds = self.needs(spec).rounds
        if direction not in (None, rounds):
            raise MethodError(
                f"{type(self).__name__} promises {kind!r} and rounds {rounds!r}: a bound needs "
                f'Needs(rounds={direction!r}, precision="wide").'
            )


def _subclasses(cls: type[Method]) -> Iterator[type[Method]]:
    for each in cls.__subclasses__():
        yield each
        yield from _subclasses(each)


class Stepped(Method):
    """Base of the methods with a training state, which is moved by a few iterations in each training step.

    A subclass defines `state_shapes` and `start`, and `advance` or `follow`. With the default `state_shapes` there is
    no state, and each step is a `forward`.
    """

    steps_at_a_size: ClassVar[bool] = False
    """Whether the method is stepped at an input size alone."""
    follows: ClassVar[bool] = False
    """Whether steps are those of `follow`, and not of `advance`."""
    pads_channels: ClassVar[bool] = False
    """Whether a layer may be stepped with channels of zeros at the end of its blocks, and of axis 1 of its state."""

    def state_shapes(self, spec: ConvSpec) -> Mapping[str, tuple[int, ...]]:
        """Names and shapes of the arrays of the training state, for one block; empty if there is no state.

        Raises
        ------
        MethodError
            If the method cannot be stepped on this geometry.
        """
        return {}

    def start(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> tuple[Array, ...]:
        """The state to begin a training with, for these blocks: the arrays of `state_shapes`, with leading axis b."""
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
        """Move the state by a few sweeps, and evaluate the method at the new state.

        Vectors of the state that a zero or non-finite kernel would make zero or non-finite are left unchanged.

        Parameters
        ----------
        state : tuple of arrays
            As from `start`.
        sweeps : int
            0: evaluate at the given state.

        Returns
        -------
        evaluation : Evaluation
            Its residuals are as those of `forward`.
        state : tuple of arrays
        """
        raise NotImplementedError

    def follow(
        self, rows: Array, state: tuple[Array, ...], spec: ConvSpec, *, sweeps: int | None = None, ops: ArrayOps
    ) -> Followed:
        """Follow the norm by what the state knows. No operation branches on values that a compiler does not know.

        Parameters
        ----------
        rows : array, shape (b, m, n)
            The blocks' entries in the order of the kernel, in the caller's scale.
        sweeps : int or None
            As of `SteppedProgram.follow`.
        """
        raise NotImplementedError
