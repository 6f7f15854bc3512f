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
"""Zeros with which it takes as long to compute as one batch more takes."""


@dataclass(frozen=True)
class _Batch:
    """Layers that are stepped together. Their kernels are filled up with zero channels to one shape: no norm changes.

    ``members`` are numbers of layers in the order of the model.
    """

    members: tuple[int, ...]
    shape: tuple[int, ...]

    def joined(self, other: _Batch) -> _Batch:
        """Return both in one."""
        shape = tuple(map(max, self.shape, other.shape))
        return _Batch(self.members + other.members, shape)

    @property
    def entries(self) -> int:
        """Numbers in all kernels, filled up."""
        return len(self.members) * math.prod(self.shape)


def _batches(shapes: Mapping[int, tuple[int, ...]]) -> list[_Batch]:
    """Return batches of layers of one shape, joined where that adds few zeros; the largest shape comes first."""
    batches: list[_Batch] = []
    for shape in sorted(set(shapes.values()), key=math.prod, reverse=True):
        members = tuple(j for j, one in shapes.items() if one == shape)
        batch = _Batch(members, shape)
        zeros = [other.joined(batch).entries - other.entries - batch.entries for other in batches]
        if zeros and min(zeros) < _WORTH:
            nearest = zeros.index(min(zeros))
            batches[nearest] = batches[nearest].joined(batch)
        else:
            batches.append(batch)
    return batches


def _filled(x: Tensor, shape: tuple[int, ...], value: float = 0.0) -> Tensor:
    """Return a tensor filled up at the ends of its axes."""
    if tuple(x.shape) == shape:
        return x
    widths: list[int] = []
    for n, more in zip(reversed(x.shape), reversed(shape), strict=True):  # torch's order: the last axis first
        widths += [0, more - n]
    filled: Tensor = nn.functional.pad(x, widths, value=value)
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
        self.form = form
        self.target = target
        self.n_power_iterations = n_power_iterations
        layers = dict(layers_of(model, select))
        if not layers:
            raise MethodError("the model has no convolution or linear layer that is selected.")
        if batch_norms == "sequential":
            norm_names = dict(normalised_layers(model))
        else:
            norm_names = dict(batch_norms or {})
            unknown = sorted(set(norm_names) - set(layers))
            if unknown:
                raise MethodError(f"batch_norms names {', '.join(unknown)}: no selected layer of the model.")
        self.names = tuple(layers)
        # Lists and dictionaries of modules are not registered: the model's parameters stay the model's.
        self._layers = list(layers.values())
        self._norms: list[Any] = [model.get_submodule(norm_names[n]) if n in norm_names else None for n in layers]
        self._geometries = [geometry_of(layer) for layer in self._layers]
        # Layers that can be stepped together, by number, with their shapes. Each batch has one state.
        alike: dict[str, dict[int, tuple[int, ...]]] = {}
        for j in range(len(self._layers)):
            shape = tuple(weight_of(self._layers[j]).shape)
            alike.setdefault(self._kind_of_batch(j), {})[j] = shape
        self._batches: list[_Batch] = []
        for shapes in alike.values():
            self._batches += _batches(shapes)
        self._states: list[tuple[str, ...]] = []
        with torch.no_grad():
            for j, batch in enumerate(self._batches):
                state = init_stack(self._kernels(batch), self.method, **self._geometries[batch.members[0]])
                self._states.append(tuple(state))
                for key, x in state.items():
                    self.register_buffer(f"batch{j}_{key}", x)

    def _kind_of_batch(self, j: int) -> str:
        """Return what layers of one batch have in common: geometry, taps, dtype, device, normalisation."""
        weight = weight_of(self._layers[j])
        geometry = self._geometries[j]
        norm = self._norms[j]
        merged = None if norm is None else (norm.eps, norm.weight is None)
        has_groups = geometry.get("groups", 1) > 1
        fixed = tuple(weight.shape) if has_groups else tuple(weight.shape[2:])
        return repr((fixed, weight.dtype, weight.device, geometry, merged))

    @property
    def kind(self) -> Kind:
        """What the norms promise: "estimate", or "upper" for a method that keeps no state."""
        return "estimate" if any(self._states) else "upper"

    def forward(self) -> Tensor:
        """Return the penalty, a 0-d tensor; in ``train()`` the state moves."""
        sweeps = self.n_power_iterations if self.training else 0
        values = torch.cat(self._values(sweeps))
        if self.form == "log":
            positive = torch.where(values > 0, values, torch.ones_like(values))  # keeps log 0 out of the gradient
            return torch.where(values > 0, positive.log(), 0.0).sum()
        if self.form == "hinge":
            return (values - self.target).clamp(min=0).sum()
        return values.sum()

    @torch.no_grad()
    def norms(self) -> dict[str, float]:
        """Return the norms of the layers, with their normalisations, where the state stands."""
        norms: dict[int, float] = {}
        for batch, values in zip(self._batches, self._values(0), strict=True):
            norms |= dict(zip(batch.members, values.tolist(), strict=True))
        return {name: norms[j] for j, name in enumerate(self.names)}

    def extra_repr(self) -> str:
        """What is summed."""
        return f"{len(self.names)} layers, method={self.method}, form={self.form!r}"

    def _kernels(self, batch: _Batch) -> Tensor:
        """Return the kernels of one batch (n, *shape), normalisations merged."""
        kernels = torch.stack([_filled(weight_of(self._layers[j]), batch.shape) for j in batch.members])
        norms = [self._norms[j] for j in batch.members]
        if norms[0] is None:
            return kernels
        outputs = (max(norm.num_features for norm in norms),)
        gamma = None
        if norms[0].weight is not None:
            gamma = torch.stack([_filled(norm.weight, outputs) for norm in norms])
        variances = torch.stack([_filled(norm.running_var, outputs, 1.0) for norm in norms])
        if torch.compiler.is_compiling():
            # Behind an opaque identity: inductor (torch 2.13) computes anew in the backward what it can, here from
            # variances that the model's forward pass, compiled together with this, has moved in the meantime.
            variances = torch.ops.specnorm.first_order_only(variances, variances)
        geometry = self._geometries[batch.members[0]]
        outputs_axis = {word: x for word, x in geometry.items() if word in ("groups", "transposed")}
        merged: Tensor = fold_stack(kernels, gamma, variances, norms[0].eps, **outputs_axis)
        return merged

    def _values(self, sweeps: int) -> list[Tensor]:
        """Return the norms batch by batch, (n,) each; with sweeps the state moves."""
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
        if len({x.dtype for x in values}) == 1:
            return values
        return [x.to(values[0]) for x in values]  # one dtype, to add them up in
