"""A penalty on the distance of a tree's kernels from isometries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp

from specnorm import measure
from specnorm.methods import Isometry
from specnorm_train.jax.trees import Rule, flax_layout, kernels

_CONVOLUTION_KEYWORDS = ("stride", "dilation", "groups", "transposed", "layout")
"""Geometry keywords that affect a layer's convolution. Padding is left out: with padding no layer is an isometry."""


@dataclass(frozen=True)
class OrthogonalityPenalty:
    """Sum over a tree's kernels of the distance of each kernel's circular convolution from an isometry.

    If a layer has fewer outputs than inputs, the distance is that of its adjoint. The penalty is a pure function
    without state, which can be jitted.

    ::

        penalty = OrthogonalityPenalty(rule=equinox_layout)

        def loss(params, batch):
            return cross_entropy(params, batch) + 0.1 * penalty(params)

    Parameters
    ----------
    form : {"lags", "bound"}, default "lags"
        "lags": the sum of the squares of the lags of ``K*K - s**2 I``, which is L_orth of Wang et al., CVPR 2020.
        "bound": the proven eps of `specnorm.isometry_bound`.
    scale : float, "best" or None, default None
        s; None: 1. "best": for each kernel, the s whose square is the mean of its squared singular values.
    rule, layers
        See `kernels`.

    Raises
    ------
    MethodError
        If ``form`` or ``scale`` is not one of these.
    """

    form: Literal["lags", "bound"] = "lags"
    scale: float | Literal["best"] | None = None
    rule: Rule = flax_layout
    layers: str = "*"

    def __post_init__(self) -> None:
        Isometry(scale=self.scale, form=self.form)

    def __call__(self, tree: Any) -> Any:
        """Compute the penalty, a 0-d array.

        Parameters
        ----------
        tree : pytree
            Parameters; see `kernels`.

        Raises
        ------
        KernelError
            If no leaf is a kernel.
        """
        return jnp.sum(jnp.stack(list(self.values(tree).values())))

    def values(self, tree: Any) -> dict[str, Any]:
        """Compute the distance of each kernel, by path."""
        method = Isometry(scale=self.scale, form=self.form)
        values = {}
        for name, kernel in kernels(tree, self.rule, layers=self.layers).items():
            geometry = {word: x for word, x in kernel.geometry.items() if word in _CONVOLUTION_KEYWORDS}
            values[name] = measure(kernel.array, method, **geometry).value
        return values
