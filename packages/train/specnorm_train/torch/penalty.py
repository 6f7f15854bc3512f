"""A penalty on the norms of a model's layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from specnorm_torch import derivatives
from specnorm_torch.layers import Select, geometry_of, layers_of, normalised_layers, weight_of
from torch import Tensor, nn

from specnorm import init_tracking, track_many
from specnorm._internal import check_count, check_number, check_word, counted
from specnorm.errors import MethodError
from specnorm.methods import Kind, Method, SymbolNorm
from specnorm_train.torch.private import foreach

Form = Literal["sum", "log", "hinge"]
_SYMBOL_NORM = SymbolNorm()


class SpectralPenalty(nn.Module):
    """Sum over a model's layers of a function of their spectral norms, tracked from call to call.

    Layers of equal geometry and similar size are computed together. If the penalty is a submodule of the model
    (``model.penalty = SpectralPenalty(model)``), its state is saved, moved and broadcast with the model.

    Parameters
    ----------
    model : Module
        It does not become a submodule of the penalty.
    method : Method, default SymbolNorm()
        Alternatives are `Gram`, whose values are upper bounds, and `TensorNorm`.
    select : callable, optional
        ``select(name, layer)`` returns whether to include a layer; None: all convolutions and linear layers.
    form : {"sum", "log", "hinge"}, default "sum"
        The function of a norm s: s, log s (0 for a layer of zeros; the sum is the logarithm of the product of the
        norms), or max(s - target, 0).
    target : float, default 1
        For the form "hinge".
    batch_norms : "sequential", None or mapping of str to str, default "sequential"
        Batch normalizations to merge into the layer before them, so that the norm is that of both together.
        "sequential": all that follow a layer in a ``Sequential``. None: none. A mapping: from names of layers to names
        of normalizations. The running variance is used, as at inference. Gradients are with respect to the kernel and
        the normalization's weight.
    n_power_iterations : int, default 1
        Minimum number of iterations per call in ``train()``. In ``eval()`` the state does not change.

    Raises
    ------
    MethodError
        If no layer is selected, or ``batch_norms`` contains a name that is not a selected layer's.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method = _SYMBOL_NORM,
        select: Select | None = None,
        *,
        form: Form = "sum",
        target: float = 1.0,
        batch_norms: Literal["sequential"] | Mapping[str, str] | None = "sequential",
        n_power_iterations: int = 1,
    ) -> None:
        super().__init__()
        check_word("form", form, get_args(Form))
        if not math.isfinite(check_number("target", target)):
            raise MethodError(f"target={target!r} is not a finite number.")
        check_count("n_power_iterations", n_power_iterations, least=1)
        self.method = method
        self.form = form
        self.target = target
        self.n_power_iterations = n_power_iterations
        layers = dict(layers_of(model, select))
        if not layers:
            raise MethodError("the model has no convolution or linear layer, or none is selected.")
        if isinstance(batch_norms, str) and batch_norms == "sequential":
            batch_norm_names = dict(normalised_layers(model))
        elif batch_norms is not None and not isinstance(batch_norms, Mapping):
            raise MethodError(f"batch_norms={batch_norms!r} is not 'sequential', None, or a dict of names.")
        else:
            batch_norm_names = dict(batch_norms or {})
            unknown = sorted(set(batch_norm_names) - set(layers))
            if unknown:
                raise MethodError(f"batch_norms names {', '.join(unknown)}: no selected layer of the model.")
        self.names = tuple(layers)
        # Modules in lists do not become submodules, so the penalty has no parameters.
        self._layers = list(layers.values())
        self._batch_norms: list[Any] = [
            model.get_submodule(batch_norm_names[name]) if name in batch_norm_names else None for name in layers
        ]
        self._geometries = [geometry_of(layer) for layer in self._layers]
        self._shapes = [tuple(weight_of(layer).shape) for layer in self._layers]
        # The names of the arrays of each layer's state; the arrays are buffers.
        self._states: list[tuple[str, ...]] = []
        with torch.no_grad():
            for j, kernel in enumerate(self._kernels()):
                state = init_tracking(kernel, self.method, **self._geometries[j])
                self._states.append(tuple(state))
                for key, x in state.items():
                    self.register_buffer(f"layer{j}_{key}", x)

    @property
    def kind(self) -> Kind:
        """The kind of the norms: "upper" for a method without a state, "estimate" for every method with one."""
        return "estimate" if any(self._states) else "upper"

    def forward(self) -> Tensor:
        """Return the penalty, a 0-d tensor, and, in ``train()``, move the state."""
        sweeps = self.n_power_iterations if self.training else 0
        values = self._values(sweeps)
        if self.form == "log":
            # So that the gradient does not contain the derivative of log 0.
            positive = torch.where(values > 0, values, torch.ones_like(values))
            return torch.where(values > 0, positive.log(), 0.0).sum()
        if self.form == "hinge":
            return (values - self.target).clamp(min=0).sum()
        return values.sum()

    @torch.no_grad()
    def norms(self) -> dict[str, float]:
        """Return the norms of the layers, with their normalizations, by name, without moving the state."""
        return dict(zip(self.names, self._values(0).tolist(), strict=True))

    def extra_repr(self) -> str:
        """Return the number of layers and the parameters, for ``repr``."""
        return f"{counted(len(self.names), 'layer')}, method={self.method}, form={self.form!r}"

    def _kernels(self) -> Iterator[Tensor]:
        """Yield the kernels, with their normalizations merged."""
        for layer, shape, geometry, norm in zip(
            self._layers, self._shapes, self._geometries, self._batch_norms, strict=True
        ):
            kernel = weight_of(layer)
            if tuple(kernel.shape) != shape:
                raise MethodError(
                    f"a layer has a tensor of shape {tuple(kernel.shape)} now, and had {shape} when the penalty was "
                    "made: make a new penalty."
                )
            yield kernel if norm is None else _merged(kernel, norm, geometry)

    def _values(self, sweeps: int) -> Tensor:
        """Return the norms, all in one dtype; with sweeps, move the state."""
        states = [{key: getattr(self, f"layer{j}_{key}") for key in keys} for j, keys in enumerate(self._states)]
        kernels = list(self._kernels())
        values, new_states = track_many(kernels, self.method, states, geometries=self._geometries, sweeps=sweeps)
        if sweeps:
            moves = [(x, new[key]) for old, new in zip(states, new_states, strict=True) for key, x in old.items()]
            with torch.no_grad():
                foreach("copy_", [old for old, _ in moves], [new for _, new in moves])
        return torch.stack([x.to(values[0]) for x in values])


def _merged(kernel: Tensor, norm: Any, geometry: Mapping[str, Any]) -> Tensor:
    """A layer's kernel with the batch normalization after it, which multiplies each output channel by a number."""
    variances = norm.running_var
    if torch.compiler.is_compiling():
        # Inductor (torch 2.13) may compute the merged kernel again in the backward, from a variance that the model's
        # forward pass, compiled together with this, has changed meanwhile. A custom operator, here an identity, keeps
        # the old one.
        variances = derivatives.identity_operator(variances)
    dtype = torch.promote_types(kernel.dtype, torch.float32)
    scale = 1 / torch.sqrt(variances.to(dtype) + norm.eps)
    if norm.weight is not None:
        scale = norm.weight.to(dtype) * scale
    if geometry.get("transposed", False):
        # Entry (i, j) of a kernel belongs to output j of the group that input i belongs to.
        by_group = scale.reshape(geometry["groups"], 1, -1)
        scale = by_group.expand(-1, len(kernel) // len(by_group), -1).reshape(kernel.shape[:2])
    scale = scale.reshape(*scale.shape, *(1,) * (kernel.ndim - scale.ndim))
    return (kernel.to(dtype) * scale).to(kernel.dtype)
