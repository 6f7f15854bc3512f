"""A penalty on the norms of a model's layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from specnorm_torch import derivatives
from specnorm_torch.layers import Select, geometry_of, layers_of, normalised_layers, weight_of
from torch import Tensor, nn

from specnorm.errors import MethodError
from specnorm.methods import Kind, Method, SymbolNorm
from specnorm.plugin import check_count, counted, fold_stack, init_stack, step_stack

Form = Literal["sum", "log", "hinge"]
_SYMBOL_NORM = SymbolNorm()
_ZEROS_WORTH_A_BATCH = 2**14
"""Number of zeros whose computation takes as long as one batch more."""


@dataclass(frozen=True)
class _Batch:
    """Layers that are stepped together, with kernels filled up by zero channels to one shape, which keeps the norms.

    Parameters
    ----------
    members : tuple of int
        Indices of the layers, in the order of the model.
    shape : tuple of int
        Common shape of the kernels.
    """

    members: tuple[int, ...]
    shape: tuple[int, ...]

    def joined(self, other: _Batch) -> _Batch:
        """Return a batch with the layers of both."""
        shape = tuple(map(max, self.shape, other.shape))
        return _Batch(self.members + other.members, shape)

    @property
    def entries(self) -> int:
        """Number of entries of all kernels, zeros included."""
        return len(self.members) * math.prod(self.shape)


def _batches(shapes: Mapping[int, tuple[int, ...]]) -> list[_Batch]:
    """Group layers, given their kernels' shapes, into batches: equal shapes, and different ones if few zeros are added.

    The largest shape comes first.
    """
    batches: list[_Batch] = []
    for shape in sorted(set(shapes.values()), key=math.prod, reverse=True):
        members = tuple(j for j, shape_of_layer in shapes.items() if shape_of_layer == shape)
        batch = _Batch(members, shape)
        zeros = [other.joined(batch).entries - other.entries - batch.entries for other in batches]
        if zeros and min(zeros) < _ZEROS_WORTH_A_BATCH:
            best = zeros.index(min(zeros))
            batches[best] = batches[best].joined(batch)
        else:
            batches.append(batch)
    return batches


def _filled(x: Tensor, shape: tuple[int, ...], value: float = 0.0) -> Tensor:
    """Extend a tensor at the ends of its axes to a shape, by a constant value."""
    if tuple(x.shape) == shape:
        return x
    if any(size > most for size, most in zip(x.shape, shape, strict=True)):
        raise MethodError(
            f"a layer has a tensor of shape {tuple(x.shape)} now, larger than when the penalty was made: make a new "
            "penalty."
        )
    # `pad` takes two amounts for each axis, beginning with the last axis.
    amounts: list[int] = []
    for size, new_size in zip(reversed(x.shape), reversed(shape), strict=True):
        amounts += [0, new_size - size]
    filled: Tensor = nn.functional.pad(x, amounts, value=value)
    return filled


class SpectralPenalty(nn.Module):
    """Sum over a model's layers of a function of their spectral norms, tracked from call to call.

    Layers of equal geometry and similar size are computed as one batch. If the penalty is a submodule of the model
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
        if form not in get_args(Form):
            raise MethodError(f"form={form!r} is not one of {', '.join(map(repr, get_args(Form)))}.")
        if not math.isfinite(target):
            raise MethodError(f"target={target!r} is not a finite number.")
        check_count("n_power_iterations", n_power_iterations, least=1)
        self.method = method
        self.form = form
        self.target = target
        self.n_power_iterations = n_power_iterations
        layers = dict(layers_of(model, select))
        if not layers:
            raise MethodError("the model has no convolution or linear layer, or none is selected.")
        if batch_norms == "sequential":
            batch_norm_names = dict(normalised_layers(model))
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
        # The shapes of layers that can be stepped together, by the layer's index, for each key of batches.
        shapes_of_key: dict[str, dict[int, tuple[int, ...]]] = {}
        for j, layer in enumerate(self._layers):
            shape = tuple(weight_of(layer).shape)
            shapes_of_key.setdefault(self._batch_key(j), {})[j] = shape
        self._batches: list[_Batch] = []
        for shapes in shapes_of_key.values():
            self._batches += _batches(shapes)
        # The names of the state's arrays of each batch; the arrays are buffers.
        self._states: list[tuple[str, ...]] = []
        with torch.no_grad():
            for j, batch in enumerate(self._batches):
                state = init_stack(self._kernels(batch), self.method, **self._geometries[batch.members[0]])
                self._states.append(tuple(state))
                for key, x in state.items():
                    self.register_buffer(f"batch{j}_{key}", x)

    def _batch_key(self, j: int) -> str:
        """Return a text that is equal for layers that can be in one batch.

        It contains their geometry, taps (with groups, their whole shape), dtype, device, and kind of normalization.
        """
        weight = weight_of(self._layers[j])
        geometry = self._geometries[j]
        batch_norm = self._batch_norms[j]
        kind_of_batch_norm = None if batch_norm is None else (batch_norm.eps, batch_norm.weight is None)
        has_groups = geometry.get("groups", 1) > 1
        common_shape = tuple(weight.shape) if has_groups else tuple(weight.shape[2:])
        return repr((common_shape, weight.dtype, weight.device, geometry, kind_of_batch_norm))

    @property
    def kind(self) -> Kind:
        """The kind of the norms: "upper" for a method without a state, "estimate" for every method with one."""
        return "estimate" if any(self._states) else "upper"

    def forward(self) -> Tensor:
        """Return the penalty, a 0-d tensor, and, in ``train()``, move the state."""
        sweeps = self.n_power_iterations if self.training else 0
        values = torch.cat(self._values(sweeps))
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
        norms: dict[int, float] = {}
        for batch, values in zip(self._batches, self._values(0), strict=True):
            norms |= dict(zip(batch.members, values.tolist(), strict=True))
        return {name: norms[j] for j, name in enumerate(self.names)}

    def extra_repr(self) -> str:
        """Return the number of layers and the parameters, for ``repr``."""
        return f"{counted(len(self.names), 'layer')}, method={self.method}, form={self.form!r}"

    def _kernels(self, batch: _Batch) -> Tensor:
        """Return the kernels of a batch (n, *shape), with their normalizations merged."""
        kernels = torch.stack([_filled(weight_of(self._layers[j]), batch.shape) for j in batch.members])
        batch_norms = [self._batch_norms[j] for j in batch.members]
        if batch_norms[0] is None:
            return kernels
        outputs = (max(x.num_features for x in batch_norms),)
        gamma = None
        if batch_norms[0].weight is not None:
            gamma = torch.stack([_filled(x.weight, outputs) for x in batch_norms])
        variances = torch.stack([_filled(x.running_var, outputs, 1.0) for x in batch_norms])
        if torch.compiler.is_compiling():
            # Inductor (torch 2.13) may compute the merged kernels again in the backward, from variances that the
            # model's forward pass, compiled together with this, has changed meanwhile. A custom operator, here an
            # identity, keeps the old ones.
            variances = derivatives.identity_operator(variances)
        geometry = self._geometries[batch.members[0]]
        channel_keywords = {keyword: x for keyword, x in geometry.items() if keyword in ("groups", "transposed")}
        merged: Tensor = fold_stack(kernels, gamma, variances, batch_norms[0].eps, **channel_keywords)
        return merged

    def _values(self, sweeps: int) -> list[Tensor]:
        """Return the norms (n,) of each batch, all in one dtype; with sweeps, move the state."""
        values = []
        for j, (batch, keys) in enumerate(zip(self._batches, self._states, strict=True)):
            state = {key: getattr(self, f"batch{j}_{key}") for key in keys}
            geometry = self._geometries[batch.members[0]]
            value, new_state = step_stack(self._kernels(batch), self.method, state, sweeps=sweeps, **geometry)
            values.append(value)
            if sweeps:
                with torch.no_grad():
                    for key, x in new_state.items():
                        state[key].copy_(x)
        if len({x.dtype for x in values}) == 1:
            return values
        return [x.to(values[0]) for x in values]
