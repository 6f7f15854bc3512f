"""A penalty on the distance of a model's layers from isometries."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from specnorm_torch.layers import Select, geometry_of, layers_of, weight_of
from torch import Tensor, nn

from specnorm import measure
from specnorm._internal import check_word, counted
from specnorm.errors import MethodError
from specnorm.methods import Isometry, Kind

Form = Literal["lags", "bound"]
_CONVOLUTION_KEYWORDS = ("stride", "dilation", "groups", "transposed")
"""Geometry keywords that affect a layer's convolution. Padding is left out: with padding no layer is an isometry."""


class OrthogonalityPenalty(nn.Module):
    """Sum over a model's layers of the distance of each layer's circular convolution from an isometry.

    If a layer has fewer outputs than inputs, the distance is that of its adjoint. There is no state.

    Parameters
    ----------
    model : Module
        It does not become a submodule of the penalty.
    select : callable, optional
        ``select(name, layer)`` returns whether to include a layer; None: all convolutions and linear layers.
    form : {"lags", "bound"}, default "lags"
        "lags": the sum of the squares of the lags of ``K*K - s**2 I``, which is L_orth of Wang et al., CVPR 2020.
        "bound": the proven eps of `specnorm.isometry_bound`.
    scale : float, "best" or None, default None
        s; None: 1. "best": for each layer, the s whose square is the mean of its squared singular values.

    Raises
    ------
    MethodError
        If no layer is selected, or ``form`` or ``scale`` is not one of these.

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
        check_word("form", form, get_args(Form))
        layers = dict(layers_of(model, select))
        if not layers:
            raise MethodError("the model has no convolution or linear layer, or none is selected.")
        self.method = Isometry(scale=scale, form=form)
        # Modules in a dictionary do not become submodules, so the penalty has no parameters.
        self._layers = layers
        self._geometries: dict[str, dict[str, Any]] = {}
        for name, layer in layers.items():
            geometry = geometry_of(layer)
            self._geometries[name] = {keyword: x for keyword, x in geometry.items() if keyword in _CONVOLUTION_KEYWORDS}

    @property
    def kind(self) -> Kind:
        """The kind of each layer's value: "upper" for the form "bound", else "estimate"."""
        return "upper" if self.method.form == "bound" else "estimate"

    def forward(self) -> Tensor:
        """Return the sum over the layers, a 0-d tensor."""
        values = list(self.values().values())
        return torch.stack([x.to(values[0]) for x in values]).sum()

    def values(self) -> dict[str, Tensor]:
        """Return the distances of the layers by name, differentiable."""
        return {
            name: measure(weight_of(layer), self.method, **self._geometries[name]).value
            for name, layer in self._layers.items()
        }

    def extra_repr(self) -> str:
        """Return the number of layers and the parameters, for ``repr``."""
        return f"{counted(len(self._layers), 'layer')}, form={self.method.form!r}, scale={self.method.scale!r}"
