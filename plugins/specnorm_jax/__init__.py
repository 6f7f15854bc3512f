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
        promoted = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
        with jax.default_matmul_precision("highest"), promoted[0], promoted[1]:
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
        return jnp.asarray(x, device=next((d for d in jax.devices() if str(d) == device), None))

    def to_numpy(self, x: Array) -> np.ndarray:
        return np.asarray(x)

    def from_numpy(self, x: np.ndarray, like: Array) -> Array:
        return jnp.asarray(x, device=self.device(like))

    def detach(self, x: Array) -> Array:
        return jax.lax.stop_gradient(x)

    def apply(self, program: Program, kernels: Array) -> Ran:
        """Run compiled (or, for a proof, on the host), with the pullback registered."""
        seen = _Seen()
        value, stats = _apply(program, seen, kernels)
        return Ran(value, stats, (), seen.claims, seen.values)

    def value_and_grad(self, program: Program, kernel: Array) -> tuple[Array, Array]:
        """Run compiled: operation by operation, JAX would take many times longer."""
        if _by_value(program, kernel):
            return super().value_and_grad(program, kernel)
        _check(program, kernel)
        found: tuple[Array, Array] = _compiled_gradient(program, kernel)
        return found

    def init(self, program: SteppedProgram, kernels: Array) -> tuple[Array, ...]:
        """Run in NumPy where values are known: once a run, so that compiling would take longer than computing."""
        if self.is_traced(kernels) or not kernels.is_fully_addressable:
            _check(program, kernels)
            traced: tuple[Array, ...] = _compiled_init(program, self.detach(kernels))
            return traced
        found = program.init(self.to_numpy(kernels), backend=self.host())
        # ``jnp.asarray`` would compile a conversion for each shape.
        return tuple(jax.device_put(x, self.device(kernels)) for x in found)

    def step(
        self,
        program: SteppedProgram,
        kernels: Array,
        state: tuple[Array, ...],
        sweeps: int,
    ) -> tuple[Array, tuple[Array, ...]]:
        """Run compiled."""
        still = tuple(self.detach(x) for x in state)
        value, gradient, after = _compiled_step(program, sweeps, self.detach(kernels), still)
        after = tuple(self.detach(x) for x in after)
        return _attached(self.first_order(kernels), self.detach(value), self.detach(gradient)), after

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
    """Refuse non-finite values; they are not known any more inside the compiled functions."""
    if not BACKEND.is_traced(kernels):
        check_values(kernels, program.shape, backend=BACKEND)


class _Seen:
    """Filled in by `_apply`: if values were known, and claims. Under ``grad`` outside jit only its inside knows."""

    values = False
    claims: Any = None


def _by_value(program: Program, kernels: Array) -> bool:
    return program.execution(kernels, backend=BACKEND).in_numpy


def _run(
    program: Program,
    seen: _Seen,
    kernels: Array,
) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
    seen.values = not BACKEND.is_traced(kernels)
    if _by_value(program, kernels):
        ran = program.forward(kernels, backend=BACKEND)
        seen.claims = ran.claims
        return ran.value, ran.stats, ran.residuals
    _check(program, kernels)
    found: tuple[Array, tuple[Array, ...], tuple[Array, ...]] = _compiled(program, kernels)
    return found


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _apply(program: Program, seen: _Seen, kernels: Array) -> tuple[Array, tuple[Array, ...]]:
    value, stats, _ = _run(program, seen, kernels)
    return value, stats


def _apply_fwd(program: Program, seen: _Seen, kernels: Array) -> tuple[Any, Any]:
    value, stats, residuals = _run(program, seen, kernels)
    return (value, stats), residuals


def _apply_bwd(
    program: Program,
    _seen: _Seen,
    residuals: tuple[Array, ...],
    cotangents: tuple[Array, Any],
) -> tuple[Array]:
    return (_pullback(program, residuals, cotangents[0]),)


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
    return kernels


_first_order.defvjp(lambda x: (x, x), lambda x, cotangent: (_guarded(cotangent, x),))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _underivable(_reason: str, value: Array, _x: Array) -> Array:
    return value


def _underivable_fwd(reason: str, _value: Array, _x: Array) -> tuple[Array, None]:
    raise MethodError(reason)


_underivable.defvjp(_underivable_fwd, lambda *_: (None, None))


@jax.custom_vjp
def _attached(_kernels: Array, value: Array, _gradient: Array) -> Array:
    return value


def _attached_bwd(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, None, None]:
    kernels, gradient = residuals
    cotangent = jnp.reshape(cotangent, (*cotangent.shape, *(1,) * (gradient.ndim - cotangent.ndim)))
    return (cotangent * gradient).astype(kernels.dtype), None, None


_attached.defvjp(lambda kernels, value, gradient: (value, (kernels, gradient)), _attached_bwd)


def _flatten(result: Result) -> tuple[tuple[Any, ...], Any]:
    # Told apart by name, never by type: JAX puts all sorts of placeholders where the arrays go.
    arrays = {k: v for k, v in result.stats.items() if k in result.method.stats}
    rest = tuple((k, v) for k, v in result.stats.items() if k not in arrays)
    return (result.value, tuple(arrays.values())), (result.kind, result.method, result.spec, tuple(arrays), rest)


def _unflatten(aux: Any, children: tuple[Any, ...]) -> Result:
    kind, method, spec, names, rest = aux
    value, arrays = children
    return Result(value, kind, method, spec, {**dict(zip(names, arrays, strict=True)), **dict(rest)})


jax.tree_util.register_pytree_node(Result, _flatten, _unflatten)


def _flatten_comparison(found: Comparison) -> tuple[tuple[Any, ...], Any]:
    return tuple(found.values()), tuple(found)


def _unflatten_comparison(names: Any, found: tuple[Any, ...]) -> Comparison:
    return Comparison(zip(names, found, strict=True))


jax.tree_util.register_pytree_node(Comparison, _flatten_comparison, _unflatten_comparison)
jax.tree_util.register_dataclass(
    Enclosure, ["lower", "upper", "witness"], ["cells", "levels", "proof_dtype", "status", "quantity"]
)
