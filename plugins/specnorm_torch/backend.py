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
        geometry = modules.geometry_of(x, None if input_shape is None else ())
        if modules.has_hooks(x):
            with modules.at_inference(x):
                modules.check_used(x)
        return LayerKernel(modules.weight_of(x), {word: v for word, v in geometry.items() if word != "input_shape"})

    def parts(self, x: Any) -> Mapping[str, Any] | None:
        if not isinstance(x, nn.Module):
            return None
        own = {**dict(x.named_parameters(recurse=False)), **dict(x.named_buffers(recurse=False))}
        return {**own, **dict(x.named_children())}

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
        count, several = len(program.method.stats), bool(program.value_shape)
        if program.needs.searches and self.is_traced(kernels):
            if kernels.is_meta and program.method.name != "tn":
                raise KernelError("the tensor has no values: it is on the device 'meta'. Load its values first.")
            program.method.refuse_tracer(program.spec)
        need = "value"
        if torch.compiler.is_compiling():
            need = "jacobian"
            derivatives.refuse_second_derivatives()
        elif (kernels.requires_grad or transformed(kernels)) and torch.is_grad_enabled():
            need = "residuals" if several else "jacobian"
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
            stats = tuple(rest[:count])
            if need == "residuals":
                value = derivatives.with_pullback(kernels, value, program.key, *rest[count:])
            elif need == "jacobian":
                change = first_order - kernels.detach()
                lead = kernels.shape[: kernels.ndim - len(program.shape)]
                change = change.reshape(*lead, *[1 for _ in program.value_shape], -1)
                value = value + (rest[count].reshape(*value.shape, -1) * change).sum(-1)
        return Ran(value, stats, (), ran.claims if ran else None, not self.is_traced(kernels))

    def _is_constant(self, kernels: Tensor) -> bool:
        """Whether nothing can differentiate through a tensor, in either mode."""
        if self.is_traced(kernels) or transformed(kernels):
            return False
        return torch.autograd.forward_ad.unpack_dual(kernels).tangent is None

    def step(
        self,
        program: SteppedProgram,
        kernels: Array,
        state: tuple[Array, ...],
        sweeps: int,
    ) -> tuple[Array, tuple[Array, ...]]:
        """One operator too; the gradient meets the kernels in a product.

        Outside of compilers and transformations without either, whose cost is that of the arithmetic.
        """
        still = tuple(x.detach() for x in state)
        if not self.changes(kernels, *state):
            value, gradient, after = program.step(kernels.detach(), still, sweeps=sweeps, backend=self)
            return derivatives.with_gradient(kernels, value, gradient), after
        if torch.compiler.is_compiling():
            derivatives.refuse_second_derivatives()
        value, gradient, *moved = operators.step(kernels.detach(), list(still), program.key, sweeps)
        return program.attached(self.first_order(kernels), value, gradient, backend=self), tuple(moved)

    def changes(self, kernels: Array, *others: Array) -> bool:
        """Whether a compiler or a transformation is at work on some tensors."""
        return self.is_traced(kernels) or any(transformed(x) for x in (kernels, *others))

    def first_order(self, x: Array) -> Array:
        return derivatives.first_order(x)


BACKEND = TorchBackend()
