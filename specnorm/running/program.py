"""Programs: a plan bound to one geometry, kernel shape and dtype, as a backend runs, compiles and differentiates it.

A program is independent of the array library. `Program.forward` turns a stack of kernels into blocks, scales them by
powers of two, calls the plan, and scales the results back; `Program.pullback` does the same for gradients. A backend
decides how to run these two functions (`Backend.apply`).
"""

from __future__ import annotations

import math
import threading
import weakref
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from specnorm.backends import arrays
from specnorm.backends.registry import called_while_tracing
from specnorm.backends.types import ArrayOps
from specnorm.errors import BackendError, MethodError, Undecided
from specnorm.geometry import polyphase
from specnorm.geometry.spec import ConvSpec, dtype_to_compute_in
from specnorm.proofs import arithmetic
from specnorm.proofs.bound import Upper, Uppers, of_kernel
from specnorm.running import checks
from specnorm.running.base import Evaluation, Method, Needs, Unreached
from specnorm.running.proofs import padding, scaling

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import AnyArray, Backend
    from specnorm.proofs.bound import Lower
    from specnorm.running.base import FigureRule, Plan


@dataclass(frozen=True, eq=False)
class _Batch:
    """A batch of layers, and the scale in which a plan answers for them.

    Parameters
    ----------
    shape : tuple of int
        Leading axes of the caller's kernels.
    answers_per_layer : int
        The plan gives so many times as many answers as there are layers.
    exponent : array, shape (layers,)
        The plan gets the kernels times ``2**-exponent``.
    nan_or_zero : array, shape (layers,), or None
        Under a tracer a non-finite kernel cannot be refused, so its value shall be NaN: this is added to results.
    eager : bool
        Whether operations run on the host as they are written, not by a compiler.
    """

    shape: tuple[int, ...]
    answers_per_layer: int
    exponent: Array
    nan_or_zero: Array | None
    eager: bool
    xp: Namespace

    def by_layer(self, answers: Array) -> Array:
        """The plan's answers, with axes (layers, answers_per_layer, ...)."""
        return self.xp.reshape(answers, (self.exponent.shape[0], self.answers_per_layer, *answers.shape[1:]))

    def in_shape(self, results: Array) -> Array:
        """Results of the layers in the shape of the batch."""
        return self.xp.reshape(results, (*self.shape, *results.shape[1:]))

    def for_caller(self, values: Array, rounds: scaling.Rounds, dtype: str, *, gain_sq: int = 1) -> Array:
        """Values of layers (layers, ...) for the caller's kernels, in the shape of the batch."""
        xp = self.xp
        results = scaling.for_caller(
            values, self.exponent, rounds, getattr(xp, dtype), gain_sq=gain_sq, eager=self.eager, xp=xp
        )
        return self.in_shape(self._with_nan(results))

    def distance_for_caller(self, distances: Array, values: Array, dtype: str) -> Array:
        """Distances (layers,) from values of layers for the caller's kernels, in the shape of the batch."""
        results = scaling.distance_for_caller(distances, values, self.exponent, dtype, eager=self.eager, xp=self.xp)
        return self.in_shape(self._with_nan(results))

    def _with_nan(self, results: Array) -> Array:
        if self.nan_or_zero is None:
            return results
        # NaN is added last, since rounding down compares with zero, which would turn NaN into a number.
        nan_or_zero = self.xp.astype(self.nan_or_zero, results.dtype)
        return results + self.xp.reshape(nan_or_zero, (-1,) + (1,) * (results.ndim - 1))


@dataclass(frozen=True)
class Program:
    """A plan bound to a geometry, a kernel's shape and a dtype. Hashable; contains no arrays.

    Parameters
    ----------
    key : str
        The text under which `program` finds this program.
    plan : Plan
    spec : ConvSpec
    shape : tuple of int
        Shape of one kernel as the caller stores it.
    dtype : str
        Short name of the kernel's dtype, such as "float32".
    needs : Needs
        What the plan asks for on this geometry.
    """

    key: str
    plan: Plan
    spec: ConvSpec
    shape: tuple[int, ...]
    dtype: str
    needs: Needs = field(init=False, compare=False, repr=False)
    differentiable: ClassVar[bool] = True
    """Whether the program has a pullback."""

    def __post_init__(self) -> None:
        if isinstance(self.plan, Method):
            self.plan.check_promise(self.spec)
        object.__setattr__(self, "needs", self.plan.needs(self.spec))

    @cached_property
    def result_dtype(self) -> Literal["float32", "float64"]:
        """Dtype of the results: float64 for float64 kernels, else float32."""
        return dtype_to_compute_in(self.dtype, self.shape)

    def forward(self, kernels: AnyArray, *, backend: Backend, differentiated: bool = True) -> Evaluation:
        """Evaluate the plan on a batch of kernels.

        Parameters
        ----------
        kernels : array, shape (*batch, *shape)
            With any number of leading axes, also without any.
        differentiated : bool
            Whether the residuals are needed.
        """
        ops = self.execution(kernels, backend=backend, differentiated=differentiated)
        if self.needs.searches and ops.traced:
            self.plan.refuse_tracer(self.spec)
        if ops.in_numpy:
            return self._on_host(kernels, ops)
        with arithmetic.exact(kernels, backend=backend):
            blocks, batch = self._prepared(kernels, ops)
            forward = self.plan.forward if self.needs.blocks else self.plan.forward_kernels
            try:
                evaluation = forward(blocks, self.spec, ops=ops)
            except Unreached as unreached:
                raise _with_proven(unreached, ops.to_numpy(batch.exponent)) from None
            return self._for_caller(evaluation, kernels, batch, ops)

    def _prepared(self, kernels: Array, ops: ArrayOps) -> tuple[Array, _Batch]:
        """What the plan gets for a batch of kernels, and the scale in which it answers."""
        xp = ops.xp
        needs = self.needs
        batch = kernels.shape[: kernels.ndim - len(self.shape)]
        if not ops.traced:
            checks.values(kernels, self.shape, backend=ops.backend)
        count = math.prod(batch)
        blocks = self._blocks(xp.reshape(kernels, (count, *self.shape)), ops.dtype, ops)
        blocks_of_layer = self.spec.groups if needs.blocks else 1
        layers = xp.reshape(blocks, (count, blocks_of_layer * math.prod(blocks.shape[1:])))
        exponent = xp.zeros(count, dtype=blocks.dtype, device=ops.device(blocks))
        # 0 times infinity or NaN is NaN. For finite kernels the sum is 0.
        nan_or_zero = xp.sum(layers * 0.0, axis=1) if ops.traced else None
        if needs.scaled:
            layers, exponent = arrays.scale(layers, xp=xp)
            blocks = xp.reshape(layers, blocks.shape)
        eager = ops.concrete and ops.on_host
        return blocks, _Batch(batch, self.answers_per_layer, exponent, nan_or_zero, eager, xp)

    def _for_caller(self, evaluation: object, kernels: Array, batch: _Batch, ops: ArrayOps) -> Evaluation:
        """The plan's answers for blocks, as those for the caller's kernels."""
        xp = ops.xp
        needs = self.needs
        answers = batch.exponent.shape[0] * self.answers_per_layer
        if not isinstance(evaluation, Evaluation) or tuple(evaluation.value.shape[:1]) != (answers,):
            raise MethodError(
                f"{type(self.plan).__name__}.forward is to return an Evaluation whose value is an array of {answers} "
                "numbers, one for each block."
            )
        value, chosen = self.plan.over_groups(batch.by_layer(evaluation.value), xp=xp)
        value = batch.for_caller(value, needs.rounds, self.result_dtype, gain_sq=self.gain_sq)
        kept: tuple[Array, ...] = ()
        if ops.differentiated:
            dtype = ops.own_dtype if needs.narrow_gradient else "float64"
            kept = (*self._at_most(evaluation.residuals, dtype, xp=xp), chosen)
        claims = None
        if evaluation.proven is not None and not ops.traced:
            claims = partial(self._claims, evaluation.proven, kernels, batch.exponent, ops)
        return Evaluation(value, self._figures(evaluation, batch), kept, None, claims, ops.computed_in)

    def _figures(self, evaluation: Evaluation, batch: _Batch) -> tuple[Array, ...]:
        """The figures beside the value, one of each for each layer.

        `Plan.stats` says how the figures of a layer's groups are combined. Bounds are the largest ones. Those that
        are not combined belong to one answer: the one with the largest lower bound, or, if the plan has no figure
        "lower", the largest value.
        A value with several numbers counts by the largest of them.
        """
        if not self.plan.stats:
            return ()
        xp = batch.xp
        figures = dict(zip(self.plan.stats, evaluation.stats, strict=True))
        decides: Any = figures.get("lower", evaluation.value)
        values = batch.by_layer(decides)
        numbers = math.prod(values.shape[2:])
        largest_numbers = xp.max(xp.reshape(values, (*values.shape[:2], numbers)), axis=2)
        index = xp.argmax(largest_numbers, axis=1)
        results = []
        for name, rule in self.plan.stats.items():
            figure = figures[name]
            if rule in ("up", "down", "nearest"):
                largest = xp.max(batch.by_layer(figure), axis=1)
                results.append(batch.for_caller(largest, rule, self.result_dtype))
            elif rule == "distance":
                distance = xp.max(batch.by_layer(figure), axis=1)
                value = xp.max(batch.by_layer(evaluation.value), axis=1)
                results.append(batch.distance_for_caller(distance, value, self.result_dtype))
            elif rule is not None:
                results.append(batch.in_shape(getattr(xp, rule)(batch.by_layer(figure), axis=1)))
            else:
                results.append(batch.in_shape(arrays.pick(batch.by_layer(figure), index, xp=xp)))
        return tuple(results)

    def _claims(self, proven: Any, kernels: Array, exponent: Array, ops: ArrayOps) -> list[tuple[Lower, Upper]]:
        """Both bounds of each of the caller's kernels (*batch, *shape), with its digest.

        ``proven``: `Evaluation.proven` of the kernels times ``2**-exponent``. ``exponent`` (layers,).
        """
        bounds = proven.claims(ops=ops) if isinstance(proven, Uppers) else proven
        if isinstance(bounds[0], Upper):
            bounds = padding.bounds_by_blocks(bounds, self.spec)
        host_kernels = ops.to_numpy(kernels).reshape(-1, *self.shape)
        exponents = ops.to_numpy(exponent).tolist()
        layers = zip(bounds, host_kernels, exponents, strict=True)
        return [of_kernel(lower, upper, kernel, int(power)) for (lower, upper), kernel, power in layers]

    def pullback(
        self, residuals: tuple[AnyArray, ...], cotangent: AnyArray, *, dtype: str | None = None, backend: Backend
    ) -> AnyArray:
        """Gradient with respect to the kernels, for a cotangent of the value.

        Parameters
        ----------
        residuals : tuple of arrays
            From `forward`.
        cotangent : array, shape (*batch, *value_shape)
        dtype : str, optional
            Dtype of the gradient; default that of the kernels.

        Returns
        -------
        array, shape (*batch, *shape)
        """
        with arithmetic.exact(cotangent, backend=backend):
            return self._pullback(residuals, cotangent, dtype or self.dtype, xp=backend.namespace(cotangent))

    def _pullback(self, residuals: tuple[Array, ...], cotangent: Array, dtype: str, *, xp: Namespace) -> Array:
        """`pullback` where the context of `arithmetic.exact` is entered already."""
        batch = cotangent.shape[: cotangent.ndim - len(self.value_shape)]
        working_dtype = arrays.real_dtype(residuals[0], xp=xp)
        cotangent = xp.astype(cotangent, working_dtype) * self.factor
        cotangent = xp.reshape(cotangent, (math.prod(batch), *self.value_shape))
        *plan_residuals, chosen = residuals
        group_cotangents = self.plan.to_groups(cotangent, chosen, self.answers_per_layer, xp=xp)
        shape = (math.prod(batch) * self.answers_per_layer, *group_cotangents.shape[2:])
        group_cotangents = xp.reshape(group_cotangents, shape)
        gradient = self.plan.pullback(tuple(plan_residuals), group_cotangents, self.spec, xp=xp)
        restore = polyphase.from_blocks if self.needs.blocks else polyphase.caller_order
        gradient = xp.reshape(restore(gradient, self.spec, xp=xp), (*batch, *self.shape))
        return xp.astype(gradient, getattr(xp, dtype), copy=False)

    @staticmethod
    def _at_most(residuals: tuple[Array, ...], dtype: str, *, xp: Namespace) -> tuple[Array, ...]:
        """Convert double-precision residuals to single precision, unless ``dtype`` is float64, to save memory."""

        def narrowed(x: Array) -> Array:
            if x.dtype == xp.float64:
                return xp.astype(x, xp.float32)
            if x.dtype == xp.complex128:
                return xp.astype(x, xp.complex64)
            return x

        return residuals if dtype == "float64" else tuple(narrowed(x) for x in residuals)

    @property
    def answers_per_layer(self) -> int:
        """Number of answers of the plan for one layer: 1, or one for each group, of which the largest is taken."""
        return 1 if self.needs.by_layer else self.spec.groups

    @cached_property
    def gain_sq(self) -> int:
        """`ConvSpec.padding_gain_sq` for upper bounds of the blocks; 1 for other values."""
        is_bound_of_blocks = self.needs.rounds == "up" and self.needs.blocks and not self.needs.pads
        return self.spec.padding_gain_sq if is_bound_of_blocks else 1

    @property
    def factor(self) -> float:
        """Factor of the padding in the gradient: the root of `gain_sq`, rounded to nearest."""
        return math.sqrt(self.gain_sq)

    def _blocks(self, kernels: Array, dtype: str, ops: ArrayOps) -> Array:
        """What the plan gets: blocks, or kernels in torch's order with the taps that read no pixel set to 0."""
        xp = ops.xp
        kernels = xp.astype(kernels, getattr(xp, dtype), copy=False)
        if self.needs.blocks:
            return polyphase.to_blocks(kernels, self.spec, xp=xp)
        kernels = polyphase.torch_order(kernels, self.spec, xp=xp)
        visible = self.spec.visible_taps
        if visible is None:
            return kernels
        # Multiplied, not masked, so that NaN stays NaN.
        return kernels * ops.from_numpy(visible.astype(dtype)[None, None, None], kernels)

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Shape of the value of one kernel: () for a norm, (r,) for plans with several values."""
        return self.needs.value_shape

    def execution(
        self, kernels: AnyArray, *, backend: Backend, training: bool = False, differentiated: bool = True
    ) -> ArrayOps:
        """The array operations for a run on these kernels: library, device and dtype of the computation.

        Raises
        ------
        BackendError
            For a float64 kernel under a tracer of a library that computes in float32: rounding it would change the
            kernel.
        """
        ops = ArrayOps.of(
            backend, kernels, self.needs, self.result_dtype, training=training, differentiated=differentiated
        )
        if ops.traced and ops.too_wide:
            raise BackendError(
                f"kernel of shape {self.shape} is float64, and {backend.name} computes in float32 here: rounded to "
                "that it would be another kernel. Enable 64-bit values, or convert it to float32 yourself."
            )
        return ops

    def _on_host(self, kernels: AnyArray, ops: ArrayOps) -> Evaluation:
        """`forward` in NumPy, with the results copied to the device of the kernels."""
        backend = ops.backend
        host_kernels = backend.to_numpy(kernels)
        value, stats, residuals, _, claims, _ = self.forward(
            host_kernels, backend=backend.host(), differentiated=ops.differentiated
        )

        # If the device has no float64, results are converted to narrower dtypes: bounds by rounding outward once more,
        # other numbers to nearest.
        narrow_dtypes = {"float64": "float32", "complex128": "complex64"}
        wide_dtypes = {"float32": "float64", "complex64": "complex128"}
        result_dtypes = {} if ops.wide_dtype == "float64" else narrow_dtypes
        # `pullback` runs on the device, in the dtype of the residuals: a wide one if float32 products lose digits
        # there.
        products_lose_digits = ops.own_dtype != self.result_dtype
        residual_dtypes = wide_dtypes if products_lose_digits else result_dtypes

        def converted(x: AnyArray, dtypes: dict[str, str], rounds: FigureRule = None) -> AnyArray:
            new_dtype = dtypes.get(x.dtype.name) if dtypes else None
            if new_dtype and rounds in ("up", "down", "nearest", "distance"):
                return scaling.narrowed(x, new_dtype, rounds, value, xp=backend.host().namespace(x))
            return x.astype(new_dtype) if new_dtype else x

        rules = self.plan.stats.values()
        return Evaluation(
            backend.share_numpy(converted(value, result_dtypes, self.needs.rounds), kernels),
            tuple(
                backend.share_numpy(converted(x, result_dtypes, rule), kernels)
                for x, rule in zip(stats, rules, strict=True)
            ),
            # Copies: residuals may be views of the caller's kernels.
            tuple(backend.from_numpy(converted(x, residual_dtypes), kernels) for x in residuals)
            if ops.differentiated
            else (),
            None,
            claims,
            ops.computed_in,
        )


def _with_proven(unreached: Unreached, exponents: np.ndarray) -> Undecided:
    """The error with the bounds that were proven for a layer, the one of a batch whose norm is known least closely.

    ``exponents`` (layers,): of the powers of two by which the layers were divided.
    """
    if not unreached.found:
        return unreached
    widest, exponent = max(zip(unreached.found, exponents.tolist(), strict=True), key=lambda layer: layer[0].width)
    return Undecided(f"{unreached} Proven: {scaling.found_in_words(widest, int(exponent))}.")


LIMIT = 1024
"""Number of programs in the cache, which then takes about 1 MB."""

# A problem as the caller wrote it -> (`_keys`) key -> (`_programs`, the cache, or `_alive`, whatever is referred to)
# program. Keys in `_compiled` stay in the cache.
_programs: dict[str, Program] = {}
"""The cache of programs by their keys, in the order of their last use; at most `LIMIT`, besides compiled ones."""
_alive: weakref.WeakValueDictionary[str, Program] = weakref.WeakValueDictionary()
"""All programs to which anything refers, such as the cache or an autograd graph."""
_compiled: set[str] = set()
"""Keys of programs in compiled graphs, which are never dropped from the cache."""
_keys: dict[str, str] = {}
"""The key of each problem that was validated, by a text of the problem as the caller wrote it."""
_lock = threading.Lock()


def program_for(
    plan: Plan,
    shape: tuple[int, ...],
    dtype: str,
    geometry: tuple[tuple[str, Any], ...],
    kind: type[Program] = Program,
) -> Program:
    """Validate a problem and return its program; equal problems, however written, have the same program.

    ``shape``: shape of one kernel, as the caller stores it. ``dtype``: the kernel's dtype as its library prints it,
    such as "torch.float32". ``geometry``: keywords and values of `Geometry`. ``kind``: `Program`, or
    `stepping.SteppedProgram`. Raises `KernelError, GeometryError, MethodError` if the kernel, the geometry or the plan
    does not fit.
    """
    # Compilers run functions that are marked (`called_while_tracing`) while they trace. They pass
    # plain values to them faithfully, but not objects: torch 2.13 replaces a dataclass by its defaults. So the plan
    # is passed as its class and its values.
    cls = type(plan)
    values = tuple([getattr(plan, name) for name in _field_names(cls)])
    return _programs[_cache_program(kind, cls, values, shape, dtype, geometry)]


def program(key: str) -> Program:
    """Return the program with a `Program.key`, if it is in the cache or something refers to it."""
    # In this order: torch's compiler does not trace a look-up of what is weakly referred to.
    return _programs[key] if key in _programs else _alive[key]


def keep(key: str) -> Program:
    """As `program`, and never drop it from the cache: a compiled graph contains nothing of the program but its key."""
    with _lock:
        kept_program = _alive[key]
        _programs[key] = kept_program
        _compiled.add(key)
    return kept_program


@called_while_tracing
def _field_names(cls: Any) -> tuple[str, ...]:
    return _field_names_of(cls)


@lru_cache(maxsize=LIMIT)
def _field_names_of(cls: Any) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cls))


@called_while_tracing
def _cache_program(
    kind: type[Program],
    cls: type[Plan],
    values: tuple[Any, ...],
    shape: tuple[int, ...],
    dtype: str,
    geometry: tuple[tuple[str, Any], ...],
) -> str:
    """Validate a problem, put its program into the cache unless it is there, and return the program's key."""
    # With the identity of the class: a class that was defined again under the same name is another plan.
    plan_key = (kind.__name__, cls.__module__, cls.__qualname__, id(cls), values)
    problem_as_written = repr((plan_key, shape, dtype, geometry))
    with _lock:
        key = _keys.get(problem_as_written)
        if key is not None and key in _programs:
            # Move it to the end: it was used last.
            _programs[key] = _programs.pop(key)
            return key
    short = dtype.rpartition(".")[2]
    dtype_to_compute_in(short, shape)
    spec = ConvSpec.of(shape, **dict(geometry))
    # What is said of the padding is a result of its own.
    key = repr((plan_key, spec, spec.same_in_words, shape, short))
    plan = cls(**dict(zip(_field_names(cls), values, strict=True)))
    plan.check(spec)
    with _lock:
        new_program = _alive.setdefault(key, kind(key, plan, spec, shape, short))
        _programs.pop(key, None)
        _programs[key] = new_program
        _keys[problem_as_written] = key
        _drop_oldest()
    return key


def _drop_oldest() -> None:
    """Drop the programs that were used longest ago, so that `LIMIT` remain besides those in compiled graphs."""
    droppable = [key for key in _programs if key not in _compiled]
    for key in droppable[: max(0, len(droppable) - LIMIT)]:
        del _programs[key]
    for problem_as_written in list(_keys)[: max(0, len(_keys) - LIMIT)]:
        del _keys[problem_as_written]
