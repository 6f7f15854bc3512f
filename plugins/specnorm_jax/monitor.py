"""Norms of a tree's kernels while it is trained, as numbers for any logger."""

from __future__ import annotations

from typing import Any

from specnorm.plugin import LayerKernel, Monitor, Reading
from specnorm_jax.kernels import Rule, flax_layout, kernels, matrices_of


class NormMonitor(Monitor):
    """Norms of a tree's kernels, every so many steps, and now and then proven upper bounds.

    ``monitor(step, params)`` returns a dictionary for any logger; it is called outside of ``jit``. ``norm/PATH`` is a
    layer's norm at every input size, from below: it is attained, and followed from the time before (`SymbolNorm`).
    ``upper/PATH`` is a proven upper bound of it, some 5 % larger where the budget allows (`specnorm.enclose`). A proof
    speaks of the weights of its own report; reports between two proofs have no ``upper``. ``norm/product`` and
    ``upper/product`` are the products over all layers, up to their rounding. Leaves with two axes or more that are no
    kernels, but embeddings, are named by a warning, and then there is no product.

    Parameters
    ----------
    every : int, default 100
        Steps between measurements.
    rule, layers
        See `kernels`.
    upper : int or bool, default 10
        Measurements from one proof to the next; True: one at every measurement, 0 or False: none.
    budget : float, default 5
        Seconds for the proof of one layer. A bound that the budget cuts is wider, and as true.

    Attributes
    ----------
    left_out : dict of str to str
        Leaves that are not measured, by path, and why.
    """

    def __init__(
        self,
        every: int = 100,
        *,
        rule: Rule = flax_layout,
        layers: str = "*",
        upper: int = 10,
        budget: float = 5.0,
    ) -> None:
        super().__init__(every, upper=upper, budget=budget)
        self.rule, self.layers = rule, layers

    def __call__(self, step: int, params: Any) -> dict[str, float]:
        """Return the norms at steps that ``every`` divides, else an empty dictionary."""
        return {} if step % self.every else self.norms(params)

    def norms(self, params: Any) -> dict[str, float]:
        """Return the norms of a tree.

        Parameters
        ----------
        params : pytree
            Concrete arrays; see `kernels`.

        Raises
        ------
        KernelError, GeometryError
            See `kernels`.
        """
        found = kernels(params, self.rule, layers=self.layers)
        read = {name: LayerKernel(x.array, x.geometry) for name, x in found.items()}
        reason = "it is no kernel by the rule"
        left_out = {name: reason for name in matrices_of(params, self.layers) if name not in found}
        return self.measured(Reading(read, left_out))
