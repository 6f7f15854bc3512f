"""JAX for specnorm: compilation, tracing and the pullback, and nothing of the mathematics.

Both ``jax`` and ``jaxlib`` are registered: concrete arrays have a class of jaxlib's, tracers one of jax's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from specnorm import Enclosure, Result
from specnorm.errors import MethodError, SecondDerivativeError
from specnorm.plugin import AnyArray as Array
from specnorm.plugin import Backend, Comparison, LayerKernel, Ran, check_values
from specnorm_jax.linear import linear_operator

if TYPE_CHECKING:
    from specnorm.plugin import Program, SteppedProgram

__all__ = ["BACKEND", "JaxBackend", "linear_operator"]

_Tracer = jax.core.Tracer


class JaxBackend(Backend):
    """jax.Array, concrete or traced."""

    name: ClassVar[str] = "jax"
    framework: ClassVar[str] = "jax"
    has_factors: ClassVar[bool] = True
    api_version: ClassVar[int] = 2
    static_shapes: ClassVar[bool] = True
    proofs: ClassVar[Literal["device", "host"]] = "host"

    def is_array(self, x: object) -> bool:
        """Arrays and tracers; not ShapeDtypeStruct."""
        return isinstance(x, jax.Array)

    def layer(self, x: Any, input_shape: int | Sequence[int] | None = None) -> LayerKernel | None:
        """Layers of Flax NNX and Equinox."""
        from specnorm_jax.layers import layer_kernel  # for few

        return layer_kernel(x, input_shape)

    def array_in(self, x: Any) -> Array | None:
        """Arrays in variables of Flax NNX and in the boxes of Linen's metadata."""
        from specnorm_jax.layers import array_in  # for few

        return array_in(x)

    def with_state(self, model: Any, state: Any) -> Any:
        """A model of Equinox and its State, or the two halves of a split model of Flax NNX, as one model."""
        from specnorm_jax.layers import with_state  # for few

        return with_state(model, state)

    def namespace(self, x: Array) -> Any:
        return jnp

    def device(self, x: Array) -> Any:
        """Device of a concrete array; None ("where the computation runs") for a tracer or a sharded array."""
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

    def wide_dtype(self, x: Array) -> Literal["float32", "float64"]:
        """float64 only where the user has enabled it: no configuration is changed, nothing is downcast silently."""
        return "float64" if jax.config.jax_enable_x64 else "float32"  # type: ignore[attr-defined]

    @contextlib.contextmanager
    def precise(self, x: Array) -> Iterator[None]:
        """Full matrix-product precision (GPUs and TPUs default to less), and dtypes and ranks promoted as usual."""
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
        """JAX marks a failure by NaN in that matrix alone, and lets infinities pass."""
        return _cholesky_ok(a)

    def cholesky_factors(self, a: Array) -> Array:
        """JAX marks a failure by NaN; infinities reach the factor."""
        factor: Array = jax.lax.linalg.cholesky(a, symmetrize_input=False)
        return jnp.tril(factor)

    def check_cholesky(self, like: Array) -> None:
        """With values, also while a function is traced."""
        with jax.ensure_compile_time_eval():
            super().check_cholesky(like)

    def complex(self, real: Array, imag: Array) -> Array:
        return jax.lax.complex(real, imag)

    def asarray(self, x: np.ndarray, device: str | None = None) -> Array:
        """Copy to a device; without 64-bit values enabled, JAX makes float64 float32."""
        devices = {str(one): one for one in jax.devices()}
        return jnp.asarray(x, device=devices.get(str(device)))

    def to_numpy(self, x: Array) -> np.ndarray:
        return np.asarray(x)

    def from_numpy(self, x: np.ndarray, like: Array) -> Array:
        return jnp.asarray(x, device=self.device(like))

    def detach(self, x: Array) -> Array:
        return jax.lax.stop_gradient(x)

    def apply(self, program: Program, kernels: Array) -> Ran:
        """Run compiled (or, for a proof, on the host), with the pullback registered."""
        record = _Record()
        value, stats = _apply(program, record, kernels)
        return Ran(value, stats, (), record.claims, record.has_values)

    def value_and_grad(self, program: Program, kernel: Array) -> tuple[Array, Array]:
        """Run compiled: operation by operation, JAX would take many times longer."""
        if _by_value(program, kernel):
            return super().value_and_grad(program, kernel)
        _check(program, kernel)
        value_and_gradient: tuple[Array, Array] = _compiled_gradient(program, kernel)
        return value_and_gradient

    def init(self, program: SteppedProgram, kernels: Array) -> tuple[Array, ...]:
        """Run in NumPy where values are known: compiling takes longer than computing once."""
        if self.is_traced(kernels) or not kernels.is_fully_addressable:
            _check(program, kernels)
            traced: tuple[Array, ...] = _compiled_init(program, self.detach(kernels))
            return traced
        state = program.init(self.to_numpy(kernels), backend=self.host())
        device = self.device(kernels)
        # ``jnp.asarray`` would compile a conversion for each shape.
        return tuple(jax.device_put(x, device) for x in state)

    def step(
        self,
        program: SteppedProgram,
        kernels: Array,
        state: tuple[Array, ...],
        sweeps: int,
    ) -> tuple[Array, tuple[Array, ...]]:
        """Run compiled."""
        detached = tuple(self.detach(x) for x in state)
        value, gradient, after = _compiled_step(program, sweeps, self.detach(kernels), detached)
        attached = _attached(self.first_order(kernels), self.detach(value), self.detach(gradient))
        return attached, tuple(self.detach(x) for x in after)

    def without_derivative(self, value: Array, x: Array, reason: str) -> Array:
        return _underivable(reason, value, x)

    def first_order(self, x: Array) -> Array:
        return _first_order(x)


@jax.jit
def _cholesky_ok(a: Array) -> Array:
    """Compiled also on its own, so that it is tried as it is used: what a flag breaks may depend on that."""
    factor = jax.lax.linalg.cholesky(a, symmetrize_input=False)
    diagonal = jnp.diagonal(factor, axis1=-2, axis2=-1)
    return jnp.isfinite(a).all((-2, -1)) & jnp.isfinite(diagonal).all(-1)


BACKEND = JaxBackend()


@partial(jax.jit, static_argnums=0)
def _compiled(
    program: Program,
    kernels: Array,
) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
    ran = program.forward(kernels, backend=BACKEND)
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
    sweeps: int,
    kernels: Array,
    state: tuple[Array, ...],
) -> tuple[Array, Array, tuple[Array, ...]]:
    return program.step(kernels, state, sweeps=sweeps, backend=BACKEND)


def _check(program: Program, kernels: Array) -> None:
    """Refuse values that are not finite, before the compiled functions, which see no values."""
    if not BACKEND.is_traced(kernels):
        check_values(kernels, program.shape, backend=BACKEND)


class _Record:
    """What `_apply` learns besides its answer: whether the kernels had values, and the claims.

    Under ``grad`` outside of ``jit`` the caller has tracers, and only the inside of `_apply` has values.
    """

    has_values = False
    claims: Any = None


def _by_value(program: Program, kernels: Array) -> bool:
    """Return whether a program runs in NumPy, as proofs do."""
    return program.execution(kernels, backend=BACKEND).in_numpy


def _run(
    program: Program,
    record: _Record,
    kernels: Array,
) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
    """Return a program's value, its statistics, and what its pullback needs."""
    record.has_values = not BACKEND.is_traced(kernels)
    if _by_value(program, kernels):
        ran = program.forward(kernels, backend=BACKEND)
        record.claims = ran.claims
        return ran.value, ran.stats, ran.residuals
    _check(program, kernels)
    compiled: tuple[Array, tuple[Array, ...], tuple[Array, ...]] = _compiled(program, kernels)
    return compiled


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _apply(program: Program, record: _Record, kernels: Array) -> tuple[Array, tuple[Array, ...]]:
    value, stats, _ = _run(program, record, kernels)
    return value, stats


def _apply_fwd(program: Program, record: _Record, kernels: Array) -> tuple[Any, Any]:
    value, stats, residuals = _run(program, record, kernels)
    return (value, stats), residuals


def _apply_bwd(
    program: Program,
    _record: _Record,
    residuals: tuple[Array, ...],
    cotangents: tuple[Array, Any],
) -> tuple[Array]:
    of_the_value, _ = cotangents
    return (_pullback(program, residuals, of_the_value),)


_apply.defvjp(_apply_fwd, _apply_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pullback(program: Program, residuals: tuple[Array, ...], cotangent: Array) -> Array:
    return program.pullback(residuals, cotangent, backend=BACKEND)


def _second_order(*_: Any) -> Any:
    raise SecondDerivativeError(
        "a second derivative through a specnorm value was asked for; specnorm's pullbacks are first order. "
        "Wrap the value in jax.lax.stop_gradient, or take first derivatives only."
    )


_pullback.defvjp(_second_order, _second_order)


@jax.custom_vjp
def _guarded(gradient: Array, _kernels: Array) -> Array:
    """Identity on a gradient that must not be differentiated; the kernels are what it depends on."""
    return gradient


_guarded.defvjp(_second_order, _second_order)


@jax.custom_vjp
def _first_order(kernels: Array) -> Array:
    """Identity whose gradient must not be differentiated."""
    return kernels


_first_order.defvjp(lambda x: (x, x), lambda x, cotangent: (_guarded(cotangent, x),))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _underivable(_reason: str, value: Array, _x: Array) -> Array:
    """Return a value that depends on x, and refuse its derivative with a reason."""
    return value


def _underivable_fwd(reason: str, _value: Array, _x: Array) -> tuple[Array, None]:
    raise MethodError(reason)


_underivable.defvjp(_underivable_fwd, lambda *_: (None, None))


@jax.custom_vjp
def _attached(_kernels: Array, value: Array, _gradient: Array) -> Array:
    """Return a value whose gradient with respect to the kernels is known."""
    return value


def _attached_bwd(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, None, None]:
    kernels, gradient = residuals
    axes_of_a_kernel = (1,) * (gradient.ndim - cotangent.ndim)
    factor = jnp.reshape(cotangent, (*cotangent.shape, *axes_of_a_kernel))
    return (factor * gradient).astype(kernels.dtype), None, None


_attached.defvjp(lambda kernels, value, gradient: (value, (kernels, gradient)), _attached_bwd)


def _flatten(result: Result) -> tuple[tuple[Any, ...], Any]:
    """Return the arrays of a result, and what is static in it."""
    # Told apart by name, never by type: JAX puts all sorts of placeholders where the arrays go.
    arrays = {name: x for name, x in result.stats.items() if name in result.method.stats}
    others = tuple((name, x) for name, x in result.stats.items() if name not in arrays)
    children = (result.value, tuple(arrays.values()))
    static = (result.kind, result.method, result.spec, tuple(arrays), others)
    return children, static


def _unflatten(static: Any, children: tuple[Any, ...]) -> Result:
    kind, method, spec, names, others = static
    value, arrays = children
    stats = dict(zip(names, arrays, strict=True)) | dict(others)
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
