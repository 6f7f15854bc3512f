"""A penalty on how far a model's layers are from isometries."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from specnorm import measure
from specnorm.errors import MethodError
from specnorm.methods import Isometry, Kind
from specnorm_torch.modules import Select, geometry_of, layers_of, weight_of

Form = Literal["lags", "bound"]
_OF_THE_KERNEL = ("stride", "dilation", "groups", "transposed")
"""Geometry that says which convolution a layer makes; padding, which no isometry has, is left out."""


class OrthogonalityPenalty(nn.Module):
    """Sum over a model's layers of how far each is from an isometry: of its convolution, whatever the padding.

    A layer with fewer outputs than inputs is held to have an isometry for its adjoint. There is no state.

    Parameters
    ----------
    model : Module
        Not a submodule of the penalty: referred to.
    select : callable, optional
        ``select(name, layer)``: whether a layer counts; None: every convolution and linear layer.
    form : {"lags", "bound"}, default "lags"
        The sum of the squares of the lags of ``K*K - s**2 I``, L_orth as published (Wang et al., CVPR 2020); or the
        proven eps of `specnorm.isometry_bound`, at any step an upper bound of what remains.
    scale : float, "best" or None, default None
        s; None: 1. "best": of each layer its own, whose square is the mean of its squared singular values.

    Raises
    ------
    MethodError
        If no layer is selected, or ``form`` or ``scale`` is none of these.

    Examples
    --------
    >>> from torch import nn
    >>> penalty = OrthogonalityPenalty(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 2)), form="bound")
    >>> sorted(penalty.values())
    ['0', '1']
    """

    def __init__(
        self,
        model: nn.Module,
        select: Select | None = None,
        *,
        form: Form = "lags",
        scale: float | Literal["best"] | None = None,
    ) -> None:
        super().__init__()
        if form not in get_args(Form):
            raise MethodError(f"form={form!r} is not one of {', '.join(map(repr, get_args(Form)))}.")
        layers = dict(layers_of(model, select))
        if not layers:
            raise MethodError("the model has no convolution or linear layer that is selected.")
        self.method = Isometry(scale=scale, form=form)
        # A dictionary of modules is not registered: the model's parameters stay the model's.
        self._layers = layers
        self._geometries: dict[str, dict[str, Any]] = {
            name: {key: x for key, x in geometry_of(layer).items() if key in _OF_THE_KERNEL}
            for name, layer in layers.items()
        }

    @property
    def kind(self) -> Kind:
        """What each layer's value promises: "upper" for the bound, of the isometry defect; "estimate" for the lags."""
        return "upper" if self.method.form == "bound" else "estimate"

    def forward(self) -> Tensor:
        """Return the sum over the layers, a 0-d tensor."""
        values = list(self.values().values())
        return torch.stack([x.to(values[0]) for x in values]).sum()

    def values(self) -> dict[str, Tensor]:
        """Values of the layers by name, differentiable."""
        return {
            name: measure(weight_of(layer), self.method, **self._geometries[name]).value
            for name, layer in self._layers.items()
        }

    def extra_repr(self) -> str:
        """What is summed."""
        return f"{len(self._layers)} layers, form={self.method.form!r}, scale={self.method.scale!r}"
