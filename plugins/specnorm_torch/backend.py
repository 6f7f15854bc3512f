"""Torch's backend: programs run inside operators, and their gradients are attached outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from specnorm.errors import KernelError
from specnorm.plugin import AnyArray as Array
from specnorm.plugin import LayerKernel, Ran
from specnorm_torch import derivatives, operators
from specnorm_torch.arrays import TorchArrays, transformed

if TYPE_CHECKING:
    from specnorm.plugin import Program, SteppedProgram


class TorchBackend(TorchArrays):
    """torch.Tensor and its subclasses."""

    def layer(self, x: Any, input_shape: int | Sequence[int] | None = None) -> LayerKernel | None:
        from specnorm_torch import modules  # for few

        if not isinstance(x, nn.Module) or not modules.is_layer(x):
            return None
        some_size = None if input_shape is None else ()  # it counts alone that there is one
        geometry = modules.geometry_of(x, some_size)
        geometry.pop("input_shape", None)
        if modules.has_hooks(x):
            with modules.at_inference(x):
                modules.check_used(x)
        return LayerKernel(modules.weight_of(x), geometry)

    def parts(self, x: Any) -> Mapping[str, Any] | None:
        if not isinstance(x, nn.Module):
            return None
        parameters = dict(x.named_parameters(recurse=False))
        buffers = dict(x.named_buffers(recurse=False))
        return parameters | buffers | dict(x.named_children())

    def without_derivative(self, value: Array, x: Array, reason: str) -> Array:
        return derivatives.without_derivative(value, x, reason)

    def apply(self, program: Program, kernels: Array) -> Ran:
        """Run the operator on the detached kernels and attach the gradient.

        Dynamo mistranslates an ``autograd.Function`` of several tensors under ``compile(vmap(grad(...)))``, some with
        wrong numbers and no error, and does not know there that the kernels need a gradient (torch 2.13). So the
        gradient of a scalar comes from the operator as an array and meets the kernels in an ordinary product, guarded
        by a function of one tensor; only eager calls with several values a kernel, where that array could be huge,
        use a function of several.
        """
        if program.needs.searches and self.is_traced(kernels):
            if kernels.is_meta and program.method.name != "tn":
                raise KernelError("the tensor has no values: it is on the device 'meta'. Load its values first.")
            program.method.refuse_tracer(program.spec)
        need = self._need(program, kernels)
        first_order = kernels
        if need != "value" or not self._is_constant(kernels):
            # So that forward-mode differentiation, which it refuses, never sees a constant.
            first_order = derivatives.first_order(kernels)
        with self.precise(kernels):
            ran: Ran | None = None
            if self.changes(kernels):
                value, *rest = operators.evaluate(kernels.detach(), program.key, need)
            else:
                (value, *rest), ran = operators.run(kernels.detach(), program.key, need)
            count = len(program.method.stats)
            stats = tuple(rest[:count])
            if need == "residuals":
                value = derivatives.with_pullback(kernels, value, program.key, *rest[count:])
            elif need == "jacobian":
                change = first_order - kernels.detach()  # zeros, whose derivative is the identity
                value = value + _products(rest[count], change, program, value)
        return Ran(value, stats, (), ran.claims if ran else None, not self.is_traced(kernels))

    def _need(self, program: Program, kernels: Tensor) -> str:
        """Return what a program is to compute besides its value, for a gradient: see `operators.run`."""
        if torch.compiler.is_compiling():
            derivatives.refuse_second_derivatives()
            return "jacobian"
        is_differentiated = kernels.requires_grad or transformed(kernels)
        if not is_differentiated or not torch.is_grad_enabled():
            return "value"
        has_several_values = bool(program.value_shape)
        return "residuals" if has_several_values else "jacobian"

    def _is_constant(self, kernels: Tensor) -> bool:
        """Return whether nothing can differentiate through a tensor, in either mode."""
        if self.is_traced(kernels) or transformed(kernels):
            return False
        tangent = torch.autograd.forward_ad.unpack_dual(kernels).tangent  # type: ignore[no-untyped-call]
        return tangent is None

    def step(
        self,
        program: SteppedProgram,
        kernels: Array,
        state: tuple[Array, ...],
        sweeps: int | Array,
    ) -> tuple[Array, tuple[Array, ...]]:
        """One operator too; the gradient meets the kernels in a product. A compiled graph may compute the sweeps.

        Outside of compilers and transformations without either, whose cost is that of the arithmetic.
        """
        detached = tuple(x.detach() for x in state)
        if not self.changes(kernels, *state):
            value, gradient, after = program.step(kernels.detach(), detached, sweeps=int(sweeps), backend=self)
            return derivatives.with_gradient(kernels, value, gradient), after
        if torch.compiler.is_compiling():
            derivatives.refuse_second_derivatives()
        in_tensor = torch.as_tensor(sweeps, device="cpu")
        value, gradient, *after = operators.step(kernels.detach(), list(detached), program.key, in_tensor)
        return program.attached(self.first_order(kernels), value, gradient, backend=self), tuple(after)

    def changes(self, kernels: Array, *others: Array) -> bool:
        """Return whether a compiler or a transformation is at work on some tensors."""
        return self.is_traced(kernels) or any(transformed(x) for x in (kernels, *others))

    def first_order(self, x: Array) -> Array:
        return derivatives.first_order(x)


def _products(jacobian: Tensor, change: Tensor, program: Program, value: Tensor) -> Tensor:
    """Return the change of each value: its row of the Jacobian times the change of its kernel."""
    batch = change.shape[: change.ndim - len(program.shape)]
    for_each_value = [1 for _ in program.value_shape]
    columns = change.reshape(*batch, *for_each_value, -1)
    rows = jacobian.reshape(*value.shape, -1)
    return (rows * columns).sum(-1)


BACKEND = TorchBackend()
