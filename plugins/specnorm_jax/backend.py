"""What JAX does otherwise than the array API standard: compilation, tracing, devices, and pytrees of answers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from specnorm import Enclosure, Result
from specnorm._internal import Comparison, check_values
from specnorm.errors import MethodError, SecondDerivativeError
from specnorm.plugin import AnyArray as Array
from specnorm.plugin import Backend, Evaluation, LayerKernel
from specnorm_jax import layers

if TYPE_CHECKING:
    from specnorm.plugin import Program, SteppedProgram

_Tracer = jax.core.Tracer


class _Namespace:
    """``jax.numpy``, with a product of complex vectors that XLA compiles to fewer loops."""

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    def vecdot(self, x1: Array, x2: Array, /, *, axis: int = -1) -> Array:
        """As sums of real numbers; XLA would transpose both factors, and sum in two loops."""
        products = jnp.conj(x1) * x2
        real = jnp.sum(products.real, axis=axis)
        return jax.lax.complex(real, jnp.sum(products.imag, axis=axis)) if jnp.iscomplexobj(products) else real

    def take(self, x: Array, indices: Array, /, *, axis: int | None = None) -> Array:
        """Without NaN in place of entries that are not there, which would be a choice for each entry."""
        return jnp.take(x, indices, axis=axis, mode="clip")

    def take_along_axis(self, x: Array, indices: Array, /, *, axis: int = -1) -> Array:
        """As `take`."""
        return jnp.take_along_axis(x, indices, axis=axis, mode="promise_in_bounds")


_NAMESPACE = _Namespace()


class JaxBackend(Backend):
    """The backend of `jax.Array`, concrete or traced."""

    name: ClassVar[str] = "jax"
    framework: ClassVar[str] = "jax"
    api_version: ClassVar[int] = 2
    # What these mean is said beside them in `Backend`.
    has_factors: ClassVar[bool] = True
    static_shapes: ClassVar[bool] = True
    proofs: ClassVar[Literal["device", "host"]] = "host"

    def is_array(self, x: object) -> bool:
        """Whether ``x`` is an array or a tracer; a ShapeDtypeStruct is not."""
        return isinstance(x, jax.Array)

    def layer(self, x: Any, input_shape: int | Sequence[int] | None = None) -> LayerKernel | None:
        """Kernel and geometry of a layer of Flax NNX or Equinox; None for other objects."""
        return layers.layer_kernel(x, input_shape)

    def array_in(self, x: Any) -> Array | None:
        """The array in a variable of Flax NNX or in a metadata box of Flax Linen; None for other objects."""
        return layers.array_in(x)

    def with_state(self, model: Any, state: Any) -> Any:
        """A model of Equinox and its State, or the two halves of a split model of Flax NNX, as one model."""
        return layers.with_state(model, state)

    def namespace(self, x: Array) -> Any:
        return _NAMESPACE

    def device(self, x: Array) -> Any:
        """Device of a concrete array; None for a tracer or a sharded array, which JAX takes as its default."""
        if isinstance(x, _Tracer):
            return None
        devices = x.devices()
        return next(iter(devices)) if len(devices) == 1 else None

    def devices(self) -> Sequence[str]:
        return tuple(str(d) for d in jax.devices())

    def version(self) -> str:
        return str(jax.__version__)

    def is_traced(self, x: Array) -> bool:
        return isinstance(x, _Tracer)

    def numpy_view(self, x: Array) -> bool:
        """True for a concrete array on one CPU device: it is computed in NumPy, which has nothing to compile."""
        device = self.device(x)
        return device is not None and device.platform == "cpu"

    def wide_dtype(self, x: Array) -> Literal["float32", "float64"]:
        """float64 if the user has enabled it in JAX's configuration, else float32."""
        return "float64" if jax.config.jax_enable_x64 else "float32"  # type: ignore[attr-defined]

    @contextlib.contextmanager
    def precise(self, x: Array) -> Iterator[None]:
        """Context manager with full precision of products, and with the default rules of promotion of dtypes and ranks.

        By default, GPUs and TPUs compute products with less precision. Users can make the promotion rules stricter.
        """
        dtypes = jax.numpy_dtype_promotion("standard")
        ranks = jax.numpy_rank_promotion("allow")
        with jax.default_matmul_precision("highest"), dtypes, ranks:
            yield

    def loop(
        self,
        cond: Callable[[Any], Array],
        body: Callable[[Any], Any],
        state: tuple[Array, ...],
    ) -> tuple[Array, ...]:
        result: tuple[Array, ...] = jax.lax.while_loop(cond, body, state)
        return result

    def cholesky_ok(self, a: Array) -> Array:
        """Whether each matrix has a Cholesky factor: JAX returns NaN for a matrix without one."""
        return _cholesky_ok(a)

    def cholesky_factors(self, a: Array) -> Array:
        """The lower Cholesky factors, NaN for a matrix without one; infinities in a matrix reach its factor."""
        factor: Array = jax.lax.linalg.cholesky(a, symmetrize_input=False)
        return jnp.tril(factor)

    def inverse_factors(self, a: Array) -> Array:
        """By substitution, which XLA compiles faster than a factorization with pivots."""
        eye = jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)
        inverses: Array = jax.lax.linalg.triangular_solve(self.cholesky_factors(a), eye, left_side=True, lower=True)
        return inverses

    def factorized(self, matrices: np.ndarray, like: Array) -> tuple[np.ndarray, np.ndarray]:
        """Both in one module, even while a function is traced: compiler flags break NaN in compiled code alone."""
        function = jax.jit(lambda x: (self.cholesky_ok(x), self.cholesky_factors(x)))
        with jax.default_device(self.device(like)):
            compiled = function.lower(matrices).compile()
            succeeds, factors = compiled(matrices)
        return self.to_numpy(succeeds), self.to_numpy(factors)

    def complex(self, real: Array, imag: Array) -> Array:
        return jax.lax.complex(real, imag)

    def real_columns(self, z: Array) -> Array:
        """As one loop; XLA compiles three for a concatenation."""
        return jnp.reshape(jnp.stack([z.real, z.imag], axis=-2), (*z.shape[:-1], -1))

    def places_of_largest(self, x: Array, count: int) -> Array:
        """As one call of a library; a sort has three loops around it."""
        places: Array = jax.lax.top_k(x, count)[1]
        return places

    def asarray(self, x: np.ndarray, device: str | None = None) -> Array:
        """Copy a NumPy array to a device. Unless 64-bit values are enabled, JAX converts float64 to float32."""
        device_by_name = {str(jax_device): jax_device for jax_device in jax.devices()}
        return jnp.asarray(x, device=device_by_name.get(str(device)))

    def to_numpy(self, x: Array) -> np.ndarray:
        return np.asarray(x)

    def from_numpy(self, x: np.ndarray, like: Array) -> Array:
        if self.is_traced(like):
            return jnp.asarray(x)
        # Not `jnp.asarray`, which would compile a conversion for each shape.
        if like.committed:
            return jax.device_put(x, self.device(like))
        # A committed state would commit all that a jitted step returns, and the next step would be compiled again.
        with jax.default_device(self.device(like)):
            return jax.device_put(x)

    def detach(self, x: Array) -> Array:
        return jax.lax.stop_gradient(x)

    def apply(self, program: Program, kernels: Array) -> Evaluation:
        """Run a program with its pullback as derivative: values on the CPU and searches in NumPy, the rest compiled."""
        record = _Record()
        value, stats = _apply(program, record, kernels)
        return Evaluation(value, stats, (), None, record.claims, record.computed_in)

    def value_and_grad(self, program: Program, kernel: Array) -> tuple[Array, Array]:
        """Value and gradient of a program, compiled: one operation after another, JAX would take many times longer."""
        if _runs_in_numpy(program, kernel):
            ran = program.forward(kernel, backend=self)
            return ran.value, _pullback(program, ran.residuals, jnp.ones_like(ran.value))
        _check(program, kernel)
        value_and_gradient: tuple[Array, Array] = _compiled_gradient(program, kernel)
        return value_and_gradient

    def init(self, program: SteppedProgram, kernels: Array) -> tuple[Array, ...]:
        """The first state of a program; in NumPy where values are known, since compiling takes longer than one run."""
        if self.is_traced(kernels) or not kernels.is_fully_addressable:
            _check(program, kernels)
            state: tuple[Array, ...] = _compiled_init(program, self.detach(kernels))
            return state
        host_state = program.init(self.to_numpy(kernels), backend=self.host())
        return tuple(self.from_numpy(x, kernels) for x in host_state)

    def step(
        self,
        program: SteppedProgram,
        kernels: Array,
        state: tuple[Array, ...],
        sweeps: int | None,
    ) -> tuple[Array, tuple[Array, ...]]:
        """Take a training step of a program: values on the CPU in NumPy, others compiled."""
        constant = self.detach(kernels)
        constant_state = tuple(self.detach(x) for x in state)
        if self.numpy_view(constant) and all(map(self.numpy_view, constant_state)):
            value, gradient, new_state = program.step(constant, constant_state, sweeps=sweeps, backend=self)
        else:
            value, gradient, new_state = _compiled_step(program, sweeps, constant, constant_state)
        value = _with_gradient(self.first_order(kernels), self.detach(value), self.detach(gradient))
        return value, tuple(self.detach(x) for x in new_state)

    def with_factors(
        self, program: SteppedProgram, kernels: Sequence[Array], values: Array, left: Array, right: Array
    ) -> Sequence[Array]:
        """The norms of kernels, whose derivatives are products of two factors; those are stacks as of `Followed`."""
        constants = (self.detach(x) for x in (values, left, right))
        norms: Sequence[Array] = _with_factors(program, tuple(map(self.first_order, kernels)), *constants)
        return norms

    def without_derivative(self, value: Array, x: Array, reason: str) -> Array:
        return _without_derivative(reason, value, x)

    def first_order(self, x: Array) -> Array:
        return _first_order(x)


@jax.jit
def _cholesky_ok(a: Array) -> Array:
    """`JaxBackend.cholesky_ok`, compiled."""
    factor = jax.lax.linalg.cholesky(a, symmetrize_input=False)
    diagonal = jnp.diagonal(factor, axis1=-2, axis2=-1)
    return jnp.isfinite(a).all((-2, -1)) & jnp.isfinite(diagonal).all(-1)


BACKEND = JaxBackend()


@partial(jax.jit, static_argnums=(0, 2))
def _compiled(
    program: Program,
    kernels: Array,
    differentiated: bool,
) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
    ran = program.forward(kernels, backend=BACKEND, differentiated=differentiated)
    return ran.value, ran.stats, ran.residuals


@partial(jax.jit, static_argnums=0)
def _compiled_gradient(program: Program, kernel: Array) -> tuple[Array, Array]:
    return Backend.value_and_grad(BACKEND, program, kernel)


@partial(jax.jit, static_argnums=0)
def _compiled_init(program: SteppedProgram, kernels: Array) -> tuple[Array, ...]:
    return program.init(kernels, backend=BACKEND)


@partial(jax.jit, static_argnums=(0, 1))
def _compiled_step(
    program: SteppedProgram,
    sweeps: int | None,
    kernels: Array,
    state: tuple[Array, ...],
) -> tuple[Array, Array, tuple[Array, ...]]:
    return program.step(kernels, state, sweeps=sweeps, backend=BACKEND)


def _check(program: Program, kernels: Array) -> None:
    """Refuse kernels that are not finite, since compiled functions cannot; tracers pass."""
    if not BACKEND.is_traced(kernels):
        check_values(kernels, program.shape, backend=BACKEND)


class _Record:
    """What `_apply` stores beside its results: `Evaluation.computed_in`, and the claims.

    Under ``grad`` outside of ``jit``, the caller has tracers, but `_apply` is run with concrete arrays.
    """

    computed_in: str | None = None
    claims: Any = None


def _runs_in_numpy(program: Program, kernels: Array) -> bool:
    """Return whether a program runs in NumPy, as searches do."""
    return program.execution(kernels, backend=BACKEND).in_numpy


def _run(
    program: Program,
    record: _Record,
    kernels: Array,
    *,
    differentiated: bool,
) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
    """Return a program's value, statistics and, if it is differentiated, residuals."""
    ops = program.execution(kernels, backend=BACKEND)
    record.computed_in = ops.computed_in
    if ops.in_numpy:
        ran = program.forward(kernels, backend=BACKEND, differentiated=differentiated)
        record.claims = ran.claims
        return ran.value, ran.stats, ran.residuals
    _check(program, kernels)
    compiled: tuple[Array, tuple[Array, ...], tuple[Array, ...]] = _compiled(program, kernels, differentiated)
    return compiled


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _apply(program: Program, record: _Record, kernels: Array) -> tuple[Array, tuple[Array, ...]]:
    value, stats, _ = _run(program, record, kernels, differentiated=False)
    return value, stats


def _apply_fwd(program: Program, record: _Record, kernels: Array) -> tuple[Any, Any]:
    value, stats, residuals = _run(program, record, kernels, differentiated=True)
    return (value, stats), residuals


def _apply_bwd(
    program: Program,
    _record: _Record,
    residuals: tuple[Array, ...],
    cotangents: tuple[Array, Any],
) -> tuple[Array]:
    cotangent_of_value, _ = cotangents
    return (_pullback(program, residuals, cotangent_of_value),)


_apply.defvjp(_apply_fwd, _apply_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pullback(program: Program, residuals: tuple[Array, ...], cotangent: Array) -> Array:
    if not all(map(BACKEND.numpy_view, (*residuals, cotangent))):
        return program.pullback(residuals, cotangent, backend=BACKEND)
    host_residuals = tuple(map(BACKEND.to_numpy, residuals))
    host_cotangent = BACKEND.to_numpy(cotangent)
    gradient = program.pullback(host_residuals, host_cotangent, dtype=program.result_dtype, backend=BACKEND.host())
    return BACKEND.from_numpy(gradient, cotangent).astype(program.dtype)


def _second_order(*_: Any) -> Any:
    raise SecondDerivativeError(
        "a second derivative through a specnorm value was asked for; specnorm's pullbacks are first order. "
        "Wrap the value in jax.lax.stop_gradient, or take first derivatives only."
    )


_pullback.defvjp(_second_order, _second_order)


@jax.custom_vjp
def _guarded(gradient: Array, _kernels: Array) -> Array:
    """Identity on a gradient; differentiating it with respect to the kernels raises a `SecondDerivativeError`."""
    return gradient


_guarded.defvjp(_second_order, _second_order)


@jax.custom_vjp
def _first_order(kernels: Array) -> Array:
    """Identity on kernels; differentiating twice raises a `SecondDerivativeError`."""
    return kernels


_first_order.defvjp(lambda x: (x, x), lambda x, cotangent: (_guarded(cotangent, x),))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _without_derivative(_reason: str, value: Array, _x: Array) -> Array:
    """Return a value that was computed from x; differentiating it raises a `MethodError` with the reason."""
    return value


def _without_derivative_fwd(reason: str, _value: Array, _x: Array) -> tuple[Array, None]:
    raise MethodError(reason)


_without_derivative.defvjp(_without_derivative_fwd, lambda *_: (None, None))


@jax.custom_vjp
def _with_gradient(_kernels: Array, value: Array, _gradient: Array) -> Array:
    """Return a value whose derivative with respect to the kernels is the given gradient."""
    return value


def _with_gradient_bwd(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, None, None]:
    kernels, gradient = residuals
    axes_of_a_kernel = (1,) * (gradient.ndim - cotangent.ndim)
    factor = jnp.reshape(cotangent, (*cotangent.shape, *axes_of_a_kernel))
    return (factor * gradient).astype(kernels.dtype), None, None


_with_gradient.defvjp(lambda kernels, value, gradient: (value, (kernels, gradient)), _with_gradient_bwd)


def _places(norms: Array) -> tuple[Array, ...]:
    """0, 1, ..., as numbers that XLA does not know: it compiles what is done with each member of a stack once.

    They leave a loop that never turns, since no norm is negative.
    """
    numbers = tuple(map(jnp.int32, range(len(norms))))
    return jax.lax.while_loop(lambda last: (norms[0] < 0) & (last[0] == 0), lambda last: (*last[1:], last[0]), numbers)


def _members(stack: Array, places: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(jax.lax.dynamic_index_in_dim(stack, j, keepdims=False, allow_negative_indices=False) for j in places)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _with_factors(_program: SteppedProgram, _kernels: Any, values: Array, _left: Array, _right: Array) -> Any:
    """`_with_gradient` of several kernels, where the gradients are ``left @ right``."""
    return _members(values, _places(values))


def _with_factors_fwd(_program: SteppedProgram, kernels: Any, values: Array, left: Array, right: Array) -> Any:
    places = _places(values)
    return _members(values, places), (kernels, places, left, right)


def _with_factors_bwd(program: SteppedProgram, residuals: Any, cotangents: tuple[Array, ...]) -> Any:
    kernels, places, left, right = residuals
    with BACKEND.precise(left):
        gradients = program.gradients(jnp.stack(cotangents)[:, None, None] * left, right, xp=jnp)
    found = zip(_members(gradients, places), kernels, strict=True)
    return tuple(gradient.astype(kernel.dtype) for gradient, kernel in found), None, None, None


_with_factors.defvjp(_with_factors_fwd, _with_factors_bwd)


def _flatten(result: Result) -> tuple[tuple[Any, ...], Any]:
    """Return the arrays of a result as children of a pytree node, and its other members as static data."""
    # Arrays are recognized by their names in `method.stats`, not by type: JAX puts placeholders of many types in their
    # place.
    arrays = {name: x for name, x in result.stats.items() if name in result.method.stats}
    other_stats = tuple((name, x) for name, x in result.stats.items() if name not in arrays)
    children = (result.value, tuple(arrays.values()))
    static = (result.kind, result.method, result.spec, tuple(arrays), other_stats)
    return children, static


def _unflatten(static: Any, children: tuple[Any, ...]) -> Result:
    kind, method, spec, names, other_stats = static
    value, arrays = children
    stats = dict(zip(names, arrays, strict=True)) | dict(other_stats)
    return Result(value, kind, method, spec, stats)


jax.tree_util.register_pytree_node(Result, _flatten, _unflatten)


def _flatten_comparison(comparison: Comparison) -> tuple[tuple[Any, ...], Any]:
    names = tuple(comparison)
    return tuple(comparison.values()), names


def _unflatten_comparison(names: Any, results: tuple[Any, ...]) -> Comparison:
    return Comparison(zip(names, results, strict=True))


jax.tree_util.register_pytree_node(Comparison, _flatten_comparison, _unflatten_comparison)
jax.tree_util.register_dataclass(
    Enclosure, ["lower", "upper", "witness"], ["cells", "levels", "proof_dtype", "status", "quantity"]
)
