"""The backend of torch: programs run inside of custom operators, and their gradients are added outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from specnorm.errors import KernelError
from specnorm.plugin import AnyArray as Array
from specnorm.plugin import Evaluation, LayerKernel
from specnorm_torch import derivatives, layers, operators
from specnorm_torch.arrays import TorchArrays, transformed

if TYPE_CHECKING:
    from specnorm.plugin import Program, SteppedProgram


class TorchBackend(TorchArrays):
    """The backend of `torch.Tensor` and its subclasses, with layers and differentiation."""

    def layer(self, x: Any, input_shape: int | Sequence[int] | None = None) -> LayerKernel | None:
        if not isinstance(x, nn.Module):
            return None
        if layers.is_matrix(x):
            layers.check_matrix(x)
            weight = layers.weight_of(x)
            is_stored_so = weight.ndim == 2
            return LayerKernel(weight.flatten(1), {}, stored_shape=None if is_stored_so else tuple(weight.shape))
        if not layers.is_layer(x):
            return None
        # The geometry depends on whether there is a size (output_padding), but not on which.
        any_size = None if input_shape is None else 1
        geometry = layers.geometry_of(x, any_size)
        geometry.pop("input_shape", None)
        if layers.has_hooks(x):
            with layers.at_inference(x):
                layers.check_used(x)
        return LayerKernel(layers.weight_of(x), geometry)

    def parts(self, x: Any) -> Mapping[str, Any] | None:
        if not isinstance(x, nn.Module):
            return None
        parameters = dict(x.named_parameters(recurse=False))
        buffers = dict(x.named_buffers(recurse=False))
        return parameters | buffers | dict(x.named_children())

    def without_derivative(self, value: Array, x: Array, reason: str) -> Array:
        return derivatives.without_derivative(value, x, reason)

    def apply(self, program: Program, kernels: Array) -> Evaluation:
        """Run a program in an operator on the detached kernels, and add the derivative.

        Dynamo (torch 2.13) mistranslates an ``autograd.Function`` of several tensors under
        ``compile(vmap(grad(...)))``, in some cases to wrong numbers without an error, and does not know there that the
        kernels require a gradient. So the operator returns the gradient of a scalar value as an array, which is
        multiplied by the change of the kernels; an ``autograd.Function`` of one tensor guards against second
        derivatives. For several values of a kernel that array could be huge: eager calls then use an
        ``autograd.Function`` of several tensors.
        """
        is_compiled_or_transformed = self.is_compiled_or_transformed(kernels)
        if is_compiled_or_transformed and program.needs.searches and self.is_traced(kernels):
            # Without values, the tensor norm is an estimate: it refuses tracers only if it is to be proven.
            if kernels.is_meta and program.plan.name != "tn":
                raise KernelError("the tensor has no values: it is on the device 'meta'. Load its values first.")
            program.plan.refuse_tracer(program.spec)
        need = self._need(program, kernels)
        kernels_once = kernels
        if need != "value" or is_compiled_or_transformed or _has_tangent(kernels):
            # `first_order` also refuses forward-mode differentiation, which would take the value for a constant.
            kernels_once = derivatives.first_order(kernels)
        with self.precise(kernels):
            ran: Evaluation | None = None
            if is_compiled_or_transformed:
                value, *rest = operators.evaluate_operator(kernels.detach(), program.key, need)
            else:
                (value, *rest), ran = operators.run(kernels.detach(), program.key, need)
            count = len(program.plan.stats)
            stats = tuple(rest[:count])
            if need == "residuals":
                value = derivatives.with_pullback(kernels, value, program.key, *rest[count:])
            elif need == "jacobian":
                # The difference is zero, but its derivative with respect to the kernels is the identity.
                change = kernels_once - kernels.detach()
                difference = _products(rest[count], change, program, value)
                # Zero, but for a gradient that overflows: 0 times infinity is NaN.
                value = value + torch.where(torch.isfinite(difference), difference, torch.zeros_like(difference))
        computed_in = ran.computed_in if ran else None
        if ran is None and not self.is_traced(kernels):  # under torch.func.grad
            computed_in = program.execution(kernels, backend=self).computed_in
        return Evaluation(
            value=value,
            stats=stats,
            residuals=(),
            claims=ran.claims if ran else None,
            computed_in=computed_in,
        )

    def _need(self, program: Program, kernels: Tensor) -> str:
        """Return what a program has to compute besides its value: the argument ``need`` of `operators.run`."""
        if not program.differentiable:
            return "value"
        if torch.compiler.is_compiling():
            derivatives.refuse_second_derivatives()
            return "jacobian"
        is_differentiated = kernels.requires_grad or transformed(kernels)
        if not is_differentiated or not torch.is_grad_enabled():
            return "value"
        has_several_values = bool(program.value_shape)
        return "residuals" if has_several_values else "jacobian"

    def step(
        self,
        program: SteppedProgram,
        kernels: Array,
        state: tuple[Array, ...],
        sweeps: int | None,
    ) -> tuple[Array, tuple[Array, ...]]:
        """Take a training step of a program, and add the derivative.

        Under compilers and transformations the step is an operator, and the gradient is multiplied by the kernels. In
        plain eager calls both would cost as much as the arithmetic, so the program is run directly.
        """
        constant_state = tuple(x.detach() for x in state)
        if not self.is_compiled_or_transformed(kernels, *state):
            value, gradient, new_state = program.step(kernels.detach(), constant_state, sweeps=sweeps, backend=self)
            return derivatives.with_gradient(kernels, value, gradient), new_state
        if torch.compiler.is_compiling():
            derivatives.refuse_second_derivatives()
        value, gradient, *new_arrays = operators.step(kernels.detach(), list(constant_state), program.key, sweeps)
        return program.attached(self.first_order(kernels), value, gradient, backend=self), tuple(new_arrays)

    def is_compiled_or_transformed(self, kernels: Array, *others: Array) -> bool:
        """Return whether a compiler or a ``torch.func`` transformation is active for one of the tensors."""
        return self.is_traced(kernels) or any(map(transformed, (kernels, *others)))

    def first_order(self, x: Array) -> Array:
        return derivatives.first_order(x)


def _has_tangent(kernels: Tensor) -> bool:
    """Whether a tensor takes part in forward-mode differentiation."""
    tangent = torch.autograd.forward_ad.unpack_dual(kernels).tangent  # type: ignore[no-untyped-call]
    return tangent is not None


def _products(jacobian: Tensor, change: Tensor, program: Program, value: Tensor) -> Tensor:
    """Return the change of each value: its row of the Jacobian times the change of its kernel.

    Parameters
    ----------
    jacobian : Tensor, shape (*batch, *value_shape, *shape)
    change : Tensor, shape (*batch, *shape)
    value : Tensor, shape (*batch, *value_shape)
        Only its shape is used.
    """
    batch = change.shape[: change.ndim - len(program.shape)]
    for_each_value = [1 for _ in program.value_shape]
    columns = change.reshape(*batch, *for_each_value, -1)
    rows = jacobian.reshape(*value.shape, -1)
    return (rows * columns).sum(-1)


BACKEND = TorchBackend()
