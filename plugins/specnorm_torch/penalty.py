"""A penalty on the norms of a model's layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from specnorm.errors import MethodError
from specnorm.methods import Kind, Method, SymbolNorm
from specnorm.plugin import fold_stack, init_stack, step_stack
from specnorm_torch.modules import Select, geometry_of, layers_of, normalised_layers, weight_of

Form = Literal["sum", "log", "hinge"]
_SYMBOL_NORM = SymbolNorm()
_WORTH = 2**14
"""Zeros that take about as long to compute with as another batch takes for itself."""


@dataclass(frozen=True)
class _Batch:
    """Layers that are stepped together, their kernels filled up with zero channels to one shape: no norm changes."""

    members: tuple[int, ...]
    shape: tuple[int, ...]

    def joined(self, other: _Batch) -> _Batch:
        """Both in one."""
        return _Batch(self.members + other.members, tuple(map(max, self.shape, other.shape)))

    @property
    def entries(self) -> int:
        """Of all kernels, filled up."""
        return len(self.members) * math.prod(self.shape)


def _batches(shapes: Mapping[int, tuple[int, ...]]) -> list[_Batch]:
    """Layers by shape, and where that adds few zeros, with others of another number of channels."""
    found: list[_Batch] = []
    for shape in sorted(set(shapes.values()), key=math.prod, reverse=True):
        batch = _Batch(tuple(j for j, given in shapes.items() if given == shape), shape)
        more = [other.joined(batch).entries - other.entries - batch.entries for other in found]
        if more and min(more) < _WORTH:
            nearest = more.index(min(more))
            found[nearest] = found[nearest].joined(batch)
        else:
            found.append(batch)
    return found


def _filled(x: Tensor, shape: tuple[int, ...], value: float = 0.0) -> Tensor:
    """``x`` filled up at the ends of its axes."""
    if tuple(x.shape) == shape:
        return x
    ends = [(0, more - n) for n, more in zip(x.shape, shape, strict=True)]
    filled: Tensor = nn.functional.pad(x, [n for pair in reversed(ends) for n in pair], value=value)
    return filled


class SpectralPenalty(nn.Module):
    """Sum over a model's layers of a function of their norms, at a sweep or two a call.

    Layers of one geometry and about one size are stepped as one batch. Make it part of the model
    (``model.penalty = SpectralPenalty(model)``) and its state is saved, moved and broadcast with it.

    Parameters
    ----------
    model : Module
        Not a submodule of the penalty: referred to.
    method : Method, default SymbolNorm()
        Or `Completion` or `Gram`, which are upper bounds, `TensorNorm` or `FantasticFour`.
    select : callable, optional
        ``select(name, layer)``: whether a layer counts; None: every convolution and linear layer.
    form : {"sum", "log", "hinge"}, default "sum"
        Of a norm s: s, log s (of the product of the norms; layers of zeros count nothing), or max(s - target, 0).
    target : float, default 1
        Of the hinge.
    batch_norms : "sequential", None or mapping of str to str, default "sequential"
        Normalisations to merge into the layer before them, so that the norm is that of both together: every one that
        follows a layer in a ``Sequential``; none; or names of layers to names of normalisations. With the running
        variance, as at inference; gradients reach the kernel and the normalisation's weight.
    n_power_iterations : int, default 1
        Sweeps a call in ``train()``, at least; in ``eval()`` the state stands still.

    Raises
    ------
    MethodError
        If no layer is selected, or a name is no layer's.
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
        self.method = method
        self.form, self.target, self.n_power_iterations = form, target, n_power_iterations
        layers = dict(layers_of(model, select))
        if not layers:
            raise MethodError("the model has no convolution or linear layer that is selected.")
        pairs = dict(normalised_layers(model)) if batch_norms == "sequential" else dict(batch_norms or {})
        strangers = sorted(set(pairs) - set(layers)) if batch_norms != "sequential" else []
        if strangers:
            raise MethodError(f"batch_norms names {', '.join(strangers)}: no selected layer of the model.")
        self.names = tuple(layers)
        # Lists and dictionaries of modules are not registered: the model's parameters stay the model's.
        self._layers = list(layers.values())
        self._norms: list[Any] = [model.get_submodule(pairs[n]) if n in pairs else None for n in layers]
        # Layers of one geometry and about one size are one batch, and their states one buffer.
        alike: dict[str, dict[int, tuple[int, ...]]] = {}
        self._geometries = [geometry_of(layer) for layer in self._layers]
        for j, (layer, norm) in enumerate(zip(self._layers, self._norms, strict=True)):
            weight = weight_of(layer)
            shape, geometry = tuple(weight.shape), self._geometries[j]
            merged = None if norm is None else (norm.eps, norm.weight is None)
            fixed = shape if geometry.get("groups", 1) > 1 else shape[2:]
            alike.setdefault(repr((fixed, weight.dtype, weight.device, geometry, merged)), {})[j] = shape
        self._batches = [batch for shapes in alike.values() for batch in _batches(shapes)]
        self._states: list[tuple[str, ...]] = []
        with torch.no_grad():
            for j, batch in enumerate(self._batches):
                state = init_stack(self._kernels(batch), self.method, **self._geometries[batch.members[0]])
                self._states.append(tuple(state))
                for key, x in state.items():
                    self.register_buffer(f"batch{j}_{key}", x)

    @property
    def kind(self) -> Kind:
        """What the norms promise: "estimate", or "upper" for a method that keeps no state."""
        return "estimate" if any(self._states) else "upper"

    def forward(self) -> Tensor:
        """Return the penalty, a 0-d tensor; in ``train()`` the state moves."""
        values = torch.cat(self._values(self.n_power_iterations if self.training else 0))
        if self.form == "log":
            return torch.where(values > 0, torch.where(values > 0, values, torch.ones_like(values)).log(), 0.0).sum()
        if self.form == "hinge":
            return (values - self.target).clamp(min=0).sum()
        return values.sum()

    @torch.no_grad()
    def norms(self) -> dict[str, float]:
        """Norms of the layers (with their normalisations) where the state stands."""
        found = {
            j: float(x)
            for batch, values in zip(self._batches, self._values(0), strict=True)
            for j, x in zip(batch.members, values, strict=True)
        }
        return {name: found[j] for j, name in enumerate(self.names)}

    def extra_repr(self) -> str:
        """What is summed."""
        return f"{len(self.names)} layers, method={self.method}, form={self.form!r}"

    def _kernels(self, batch: _Batch) -> Tensor:
        """Kernels of one batch (n, *shape), normalisations merged."""
        kernels = torch.stack([_filled(weight_of(self._layers[j]), batch.shape) for j in batch.members])
        norms = [self._norms[j] for j in batch.members]
        if norms[0] is None:
            return kernels
        outputs = (max(norm.num_features for norm in norms),)
        gamma = None if norms[0].weight is None else torch.stack([_filled(norm.weight, outputs) for norm in norms])
        variances = torch.stack([_filled(norm.running_var, outputs, 1.0) for norm in norms])
        if torch.compiler.is_compiling():
            # Behind an opaque identity: inductor (torch 2.13) computes anew in the backward what it can, here from
            # variances that the model's forward pass, compiled together with this, has moved in the meantime.
            variances = torch.ops.specnorm.first_order_only(variances, variances)
        geometry = self._geometries[batch.members[0]]
        which = {k: geometry[k] for k in ("groups", "transposed") if k in geometry}
        merged: Tensor = fold_stack(kernels, gamma, variances, norms[0].eps, **which)
        return merged

    def _values(self, sweeps: int) -> list[Tensor]:
        """Norms batch by batch, (n,) each."""
        values = []
        for j, (batch, keys) in enumerate(zip(self._batches, self._states, strict=True)):
            state = {key: getattr(self, f"batch{j}_{key}") for key in keys}
            geometry = self._geometries[batch.members[0]]
            value, after = step_stack(self._kernels(batch), self.method, state, sweeps=sweeps, **geometry)
            values.append(value)
            if sweeps:
                with torch.no_grad():
                    for key, x in after.items():
                        state[key].copy_(x)
        # One dtype to add them up in, where a model mixes several.
        return [x.to(values[0]) for x in values] if len({x.dtype for x in values}) > 1 else values
