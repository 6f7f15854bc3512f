"""PyTorch for specnorm: what torch does differently, and nothing of the mathematics.

A program runs inside one opaque custom operator, so that ``torch.compile(fullgraph=True)``, ``vmap`` and fake tensors
see a single node; its pullback is attached by an ``autograd.Function`` made of ordinary operations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import array_api_compat.torch
import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.autograd import Function

from specnorm.backends import Backend
from specnorm.errors import KernelError, SecondDerivativeError
from specnorm.runtime.table import keep, program
from specnorm.types import Array
from specnorm_torch.auditing import audit
from specnorm_torch.baking import bake_, baked
from specnorm_torch.certifying import certify_
from specnorm_torch.constraint import SpectralNorm, SpectralRescaling, spectral_norm, spectral_rescaling
from specnorm_torch.modules import geometry_of
from specnorm_torch.networks import network_bound, network_graph
from specnorm_torch.penalty import SpectralPenalty

if TYPE_CHECKING:
    from specnorm.runtime.program import Program


__all__ = [
    "BACKEND",
    "SpectralNorm",
    "SpectralPenalty",
    "SpectralRescaling",
    "TorchBackend",
    "audit",
    "bake_",
    "baked",
    "certify_",
    "geometry_of",
    "network_bound",
    "network_graph",
    "spectral_norm",
    "spectral_rescaling",
]


class TorchBackend(Backend):
    """torch.Tensor and its subclasses."""

    name: ClassVar[str] = "torch"
    framework: ClassVar[str] = "torch"
    api_version: ClassVar[int] = 2
    model_formats: ClassVar[Mapping[str, str]] = {"pytorch": "read_checkpoint"}

    def is_array(self, x: object) -> bool:
        """Tensors, parameters included."""
        return isinstance(x, Tensor)

    def refusal(self, x: Array) -> str | None:
        """Sparse, quantised and distributed tensors."""
        if x.layout != torch.strided:
            return f"tensor has layout {x.layout}; expected a dense one: call .to_dense() first."
        if x.is_quantized:
            return "tensor is quantised; call .dequantize() first."
        if _is_distributed(type(x)):
            return "tensor is a DTensor; gather it first (full_tensor())."
        return None

    def namespace(self, x: Array) -> Any:
        """array-api-compat's torch."""
        del x
        return array_api_compat.torch

    def devices(self) -> Sequence[str]:
        """CPU and CUDA devices."""
        return ("cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())))

    def version(self) -> str:
        """Torch's version."""
        return str(torch.__version__)

    def is_traced(self, x: Array) -> bool:
        """Under compile, vmap or fake tensors; torch.func.grad alone leaves values known."""
        if torch.compiler.is_compiling() or x.is_meta or isinstance(x, torch._subclasses.FakeTensor):
            return True
        while _transformed(x):
            if torch._C._functorch.is_batchedtensor(x):
                return True
            x = torch._C._functorch.get_unwrapped(x)
        return False

    def wide_dtype(self, x: Array) -> Literal["float32", "float64"]:
        """float64, but on Apple's devices, which have none."""
        return "float32" if x.device.type == "mps" else "float64"

    def working_dtype(self, x: Array, dtype: Literal["float32", "float64"]) -> Literal["float32", "float64"]:
        """float64 where TF32 or bf16 products are on for float32: refusing to be imprecise, without touching a flag."""
        return self.wide_dtype(x) if dtype == "float32" and _lowered(x.device.type) else dtype

    def precise(self, x: Array) -> contextlib.AbstractContextManager[object]:
        """Autocast off."""
        if x.device.type == "meta":
            return contextlib.nullcontext()
        return torch.autocast(x.device.type, enabled=False)

    def cholesky_ok(self, a: Array) -> Array:
        """By LAPACK's info; infinities pass it, so entries are checked as well."""
        factor, info = torch.linalg.cholesky_ex(a)
        # A sum is finite only if every entry is; one reduction is several times faster than a mask of complex entries.
        sums = a.flatten(-2).sum(-1) + factor.diagonal(dim1=-2, dim2=-1).sum(-1)
        return (info == 0) & torch.isfinite(sums)

    def complex(self, real: Array, imag: Array) -> Array:
        """Return ``torch.complex``."""
        return torch.complex(real, imag)

    def asarray(self, x: np.ndarray, device: str | None = None) -> Array:
        """Copy to a device; first on the host, since torch reads no negative strides."""
        return torch.tensor(np.array(x), device=device)

    def to_numpy(self, x: Array) -> np.ndarray:
        """Detach and copy to the host; bfloat16, which NumPy lacks, becomes float32 (exact)."""
        x = x.detach().cpu()
        return np.asarray(x.float() if x.dtype == torch.bfloat16 else x)

    def from_numpy(self, x: np.ndarray, like: Array) -> Array:
        """Copy to the device of ``like``."""
        return torch.tensor(np.asarray(x, order="C"), device=like.device)  # torch refuses negative strides

    def asynchronous(self, x: Array) -> bool:
        """Anywhere but on the CPU."""
        return bool(x.device.type != "cpu")

    def share_numpy(self, x: np.ndarray, like: Array) -> Array:
        """Share its memory on the CPU."""
        return torch.from_numpy(x) if self.numpy_view(like) and x.ndim and x.flags.carray else self.from_numpy(x, like)

    def numpy_view(self, x: Array) -> bool:
        """On the CPU. NumPy takes half of torch's time for a search: many small complex matrices."""
        return bool(x.device.type == "cpu")

    def apply(self, program: Program, kernels: Array) -> tuple[Array, tuple[Array, ...], bool]:
        """Run the operator on the detached kernels and attach the gradient.

        Dynamo mistranslates an ``autograd.Function`` of several tensors under ``compile(vmap(grad(...)))``, some with
        wrong numbers and no error, and does not know there that the kernels need a gradient (torch 2.13). So the
        gradient of a scalar comes from the operator as an array and meets the kernels in an ordinary product, guarded
        by a function of one tensor; only eager calls with several values a kernel, where that array could be huge,
        use a function of several.
        """
        count, several = len(program.method.stats), bool(program.value_shape)
        if program.needs.searches and self.is_traced(kernels):
            if kernels.is_meta and program.method.name != "tn":
                raise KernelError("the tensor has no values: it is on the device 'meta'. Load its values first.")
            program.method.refuse_tracer(program.spec)
        need = "value"
        if torch.compiler.is_compiling():
            need = "jacobian"
            if _derivative_levels() > 1:
                raise SecondDerivativeError(_FIRST_ORDER)
        elif (kernels.requires_grad or _transformed(kernels)) and torch.is_grad_enabled():
            need = "residuals" if several else "jacobian"
        first_order = kernels
        if need != "value" or not self._is_constant(kernels):
            # So that forward-mode differentiation, which it refuses, never sees a constant.
            first_order = _FirstOrder.apply(kernels)  # type: ignore[no-untyped-call]
        with self.precise(kernels):
            value, *rest = _evaluate(kernels.detach(), program.key, need)
            stats = tuple(rest[:count])
            if need == "residuals":
                value = _Attach.apply(kernels, value, program.key, *rest[count:])  # type: ignore[no-untyped-call]
            elif need == "jacobian":
                change = first_order - kernels.detach()
                lead = kernels.shape[: kernels.ndim - len(program.shape)]
                change = change.reshape(*lead, *[1 for _ in program.value_shape], -1)
                value = value + (rest[count].reshape(*value.shape, -1) * change).sum(-1)
        return value, stats, not self.is_traced(kernels)

    def _is_constant(self, kernels: Tensor) -> bool:
        """Whether nothing can differentiate through a tensor, in either mode."""
        forward_mode = torch.autograd.forward_ad._current_level >= 0
        return not (forward_mode or self.is_traced(kernels) or _transformed(kernels))

    def step(
        self, program: Program, kernels: Array, state: tuple[Array, ...], sweeps: int
    ) -> tuple[Array, tuple[Array, ...]]:
        """One operator too; the gradient meets the kernels in a product.

        Outside of compilers and transformations without either, whose price is that of the arithmetic.
        """
        still = tuple(x.detach() for x in state)
        if not (self.is_traced(kernels) or any(_transformed(x) for x in (kernels, *state))):
            value, gradient, after = program.step(kernels.detach(), still, sweeps=sweeps, backend=self)
            return _Attached.apply(kernels, value, gradient), after  # type: ignore[no-untyped-call]
        if torch.compiler.is_compiling() and _derivative_levels() > 1:
            raise SecondDerivativeError(_FIRST_ORDER)
        value, gradient, *moved = _step(kernels.detach(), list(still), program.key, sweeps)
        return program.attached(self.first_order(kernels), value, gradient, backend=self), tuple(moved)

    def first_order(self, x: Array) -> Array:
        """Guarded by a function of one tensor."""
        return _FirstOrder.apply(x)  # type: ignore[no-untyped-call]

    def detach(self, x: Array) -> Array:
        """Return ``x.detach()``."""
        return x.detach()

    def read_checkpoint(self, path: str, max_bytes: int) -> Mapping[str, Any]:
        """Read a state dict without executing code in it."""
        from specnorm_torch.checkpoints import read_checkpoint

        return read_checkpoint(path, max_bytes)


BACKEND = TorchBackend()


def _is_distributed(cls: type) -> bool:
    return any(base.__name__ == "DTensor" for base in cls.__mro__)


# Dynamo runs it while tracing: it cannot walk the bases of nn.Parameter (torch 2.13).
_is_distributed._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _transformed(x: Tensor) -> bool:
    """Whether a torch.func transformation wraps the tensor: its requires_grad then tells nothing (grad of vmap)."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(x))


def _derivative_levels() -> int:
    """How many torch.func differentiations are active."""
    stack = retrieve_all_functorch_interpreters()
    return sum(level.key() in (TransformType.Grad, TransformType.Jvp) for level in stack)


# Dynamo runs it while tracing: it inlines the guard below inside torch.func transformations and would drop it.
_derivative_levels._dynamo_marked_constant = True  # type: ignore[attr-defined]

_FIRST_ORDER = (
    "a second derivative through a specnorm value was asked for; specnorm's pullbacks are first order. "
    "Detach the value, or take the penalty's gradient without create_graph=True."
)


def _lowered(device: str) -> bool:
    """Whether float32 products run at reduced precision. Read only: no flag is changed."""
    try:
        precision = (
            torch.backends.cuda.matmul.fp32_precision if device == "cuda" else torch.get_float32_matmul_precision()
        )
    except (AttributeError, RuntimeError):
        # Before torch 2.9 there is no fp32_precision; after setting one, the older name refuses to be read.
        try:
            precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
        except RuntimeError:
            precision = "unknown"
    return precision not in ("ieee", "highest", "none")


def _run(kernels: Tensor, key: str, need: str, backend: TorchBackend) -> list[Tensor]:
    plan = program(key)
    value, stats, residuals = plan.forward(kernels, backend=backend)
    if need == "residuals":
        return [value, *stats, *residuals]
    if need == "jacobian":
        return [value, *stats, plan.jacobian(value, residuals, backend=backend)]
    return [value, *stats]


@torch.library.custom_op("specnorm::evaluate", mutates_args=())
def _evaluate(kernels: Tensor, key: str, need: str) -> list[Tensor]:
    """Value and stats of a program for kernels (*batch, *shape), and what ``need`` asks for."""
    # An operator may not return its input, a view of it, or one tensor twice.
    return [x.clone() for x in _run(kernels, key, need, BACKEND)]


@_evaluate.register_fake
def _evaluate_fake(kernels: Tensor, key: str, need: str) -> list[Tensor]:
    """Shapes and dtypes, by running the program once with its loops cut to a single round."""
    keep(key)  # the graph that is traced here carries the key alone
    return [torch.empty_like(x) for x in _run(kernels, key, need, _SHAPES)]


@_evaluate.register_vmap
def _evaluate_vmap(
    info: Any, in_dims: tuple[int | None, ...], kernels: Tensor, key: str, need: str
) -> tuple[list[Tensor], list[int]]:
    """Batch through the operator's own leading axes; residuals have them flattened into one."""
    del info
    assert in_dims[0] is not None
    kernels = kernels.movedim(in_dims[0], 0)
    found = _evaluate(kernels, key, need)
    if need == "residuals":
        plain = 1 + len(program(key).method.stats)
        found[plain:] = [x.reshape(kernels.shape[0], -1, *x.shape[1:]) for x in found[plain:]]
    return found, [0] * len(found)


@torch.library.custom_op("specnorm::step", mutates_args=())
def _step(kernels: Tensor, state: list[Tensor], key: str, sweeps: int) -> list[Tensor]:
    """Value, gradient and next state of a program for kernels (*batch, *shape)."""
    value, gradient, after = program(key).step(kernels, tuple(state), sweeps=sweeps, backend=BACKEND)
    # An operator may not return an input or a view of one: without sweeps the state stays as it is.
    return [value.clone(), gradient.clone(), *(x.clone() for x in after)]


@_step.register_fake
def _step_fake(kernels: Tensor, state: list[Tensor], key: str, sweeps: int) -> list[Tensor]:
    del sweeps
    plan = keep(key)
    dtype = getattr(torch, plan.result_dtype)
    value = kernels.new_empty(kernels.shape[: kernels.ndim - len(plan.shape)], dtype=dtype)
    return [value, kernels.new_empty(kernels.shape, dtype=dtype), *(torch.empty_like(x) for x in state)]


@_step.register_vmap
def _step_vmap(
    info: Any, in_dims: tuple[Any, ...], kernels: Tensor, state: list[Tensor], key: str, sweeps: int
) -> tuple[list[Tensor], list[int]]:
    """Batch through the operator's own leading axes; a state that all kernels share is repeated."""

    def batched(x: Tensor, axis: int | None) -> Tensor:
        return x.expand(info.batch_size, *x.shape) if axis is None else x.movedim(axis, 0)

    moved = [batched(x, axis) for x, axis in zip(state, in_dims[1], strict=True)]
    found = _step(batched(kernels, in_dims[0]), moved, key, sweeps)
    return found, [0] * len(found)


class _ShapesOnly(TorchBackend):
    """Stands in while shapes are inferred: values are unknown, loops run once."""

    def is_traced(self, x: Array) -> bool:
        del x
        return True

    def check_cholesky(self, like: Array) -> None:
        del like

    def loop(
        self, cond: Callable[[Any], Array], body: Callable[[Any], Any], state: tuple[Array, ...]
    ) -> tuple[Array, ...]:
        del cond
        return tuple(body(state))


_SHAPES = _ShapesOnly()


class _Attach(Function):
    """Identity on the value, whose backward is the program's pullback."""

    generate_vmap_rule = True

    @staticmethod
    def forward(kernels: Tensor, value: Tensor, key: str, *residuals: Tensor) -> Tensor:
        del kernels, key, residuals
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        kernels, _, key, *residuals = inputs
        ctx.program = program(key)  # kept alive by the graph
        ctx.save_for_backward(kernels, *residuals)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        kernels, *residuals = ctx.saved_tensors
        gradient = ctx.program.pullback(tuple(residuals), cotangent, backend=BACKEND)
        guarded = _Guard.apply(gradient, kernels)  # type: ignore[no-untyped-call]
        return (guarded, None, None, *(None for _ in residuals))


class _Attached(Function):
    """Identity on values (n,), whose gradients with respect to the kernels are given."""

    @staticmethod
    def forward(ctx: Any, kernels: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(kernels, gradient)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        kernels, gradient = ctx.saved_tensors
        slope = gradient * cotangent.reshape(*cotangent.shape, *(1 for _ in gradient.shape[cotangent.ndim :]))
        slope = slope.to(kernels.dtype)
        # Only where a graph of the backward is asked for can it be differentiated.
        guarded = _Guard.apply(slope, kernels) if torch.is_grad_enabled() else slope  # type: ignore[no-untyped-call]
        return guarded, None, None


class _FirstOrder(Function):
    """Identity on the kernels, differentiable once."""

    generate_vmap_rule = True

    @staticmethod
    def forward(kernels: Tensor) -> Tensor:
        return kernels.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # The kernels stay in the graph of the gradient, so that a second derivative passes through the guard.
        guard: Any = _guard if torch.compiler.is_compiling() else _Guard.apply
        guarded: Tensor = guard(gradient, ctx.saved_tensors[0])
        return guarded


class _Guard(Function):
    """Identity on a gradient; differentiating it again raises instead of dropping a term."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, kernels: Tensor) -> Tensor:
        del kernels
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del ctx, inputs, output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        del ctx, grads
        raise SecondDerivativeError(_FIRST_ORDER)


@torch.library.custom_op("specnorm::first_order_only", mutates_args=())
def _guard(gradient: Tensor, kernels: Tensor) -> Tensor:
    """`_Guard` for compiled backwards, where a Function would be traced through and lost."""
    del kernels
    return gradient.clone()


@_guard.register_fake
def _guard_fake(gradient: Tensor, kernels: Tensor) -> Tensor:
    del kernels
    return torch.empty_like(gradient)


@_guard.register_vmap
def _guard_vmap(
    info: Any, in_dims: tuple[int | None, ...], gradient: Tensor, kernels: Tensor
) -> tuple[Tensor, int | None]:
    del info
    return _guard(gradient, kernels), in_dims[0]


_guard.register_autograd(_Guard.backward)
