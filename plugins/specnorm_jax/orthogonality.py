"""A penalty on how far the kernels of a tree of parameters are from isometries; pure, jittable, without a state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp

from specnorm import measure
from specnorm.methods import Isometry
from specnorm_jax.kernels import Rule, flax_layout, kernels

_OF_THE_KERNEL = ("stride", "dilation", "groups", "transposed", "layout")
"""Words of the geometry that change a layer's convolution; padding is left out, since the penalty is of any."""


@dataclass(frozen=True)
class OrthogonalityPenalty:
    """Sum over a tree's kernels of how far each is from an isometry: of its convolution, whatever the padding.

    A layer with fewer outputs than inputs is held to have an isometry for its adjoint.

    ::

        penalty = OrthogonalityPenalty(rule=equinox_layout)

        def loss(params, batch):
            return cross_entropy(params, batch) + 0.1 * penalty(params)

    Parameters
    ----------
    form : {"lags", "bound"}, default "lags"
        The sum of the squares of the lags of ``K*K - s**2 I``, L_orth as published (Wang et al., CVPR 2020); or the
        proven eps of `specnorm.isometry_bound`, at any step an upper bound of what remains.
    scale : float, "best" or None, default None
        s; None: 1. "best": of each kernel its own, whose square is the mean of its squared singular values.
    rule, layers
        See `kernels`.

    Raises
    ------
    MethodError
        If ``form`` or ``scale`` is none of these.
    """

    form: Literal["lags", "bound"] = "lags"
    scale: float | Literal["best"] | None = None
    rule: Rule = flax_layout
    layers: str = "*"

    def __post_init__(self) -> None:
        Isometry(scale=self.scale, form=self.form)

    def __call__(self, tree: Any) -> Any:
        """Take the penalty, a 0-d array.

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
        """Take the values of the kernels by path."""
        method = Isometry(scale=self.scale, form=self.form)
        values = {}
        for name, kernel in kernels(tree, self.rule, layers=self.layers).items():
            geometry = {word: x for word, x in kernel.geometry.items() if word in _OF_THE_KERNEL}
            values[name] = measure(kernel.array, method, **geometry).value
        return values
