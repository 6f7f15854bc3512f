"""A monitor of the norms of a tree's kernels during training, as numbers for any logger."""

from __future__ import annotations

from typing import Any

from specnorm.plugin import LayerKernel
from specnorm_train.jax.trees import Rule, flax_layout, is_kernel, kernels, matrices_of
from specnorm_train.monitoring import Monitor


class NormMonitor(Monitor):
    """Report the spectral norms of a tree's kernels every few steps, with proven upper bounds in some of the reports.

    ``monitor(step, params)`` returns a dictionary for any logger, which `specnorm_train.monitoring.Monitor` describes.
    The names are paths in the tree. Call it outside ``jit``. Leaves with two axes or more that are not kernels by the
    rule, and not embeddings, count as layers that cannot be measured.

    Parameters
    ----------
    every : int, default 100
        Number of steps between two reports.
    rule, layers
        See `kernels`.
    upper, budget
        See `specnorm_train.monitoring.Monitor`.
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
        """Return a report if ``every`` divides the step, else an empty dictionary."""
        return self.norms(params) if self.is_due(step) else {}

    def norms(self, params: Any) -> dict[str, float]:
        """Return a report of a tree.

        Parameters
        ----------
        params : pytree
            Concrete arrays; see `kernels`.

        Raises
        ------
        KernelError, GeometryError
            See `kernels`.
        """
        kernel_of_path = kernels(params, self.rule, layers=self.layers)
        layers = {path: LayerKernel(kernel.array, kernel.geometry) for path, kernel in kernel_of_path.items()}
        reason = "it is not a kernel by the rule"
        left_out = {path: reason for path in matrices_of(params, self.rule, self.layers) if not is_kernel(path, layers)}
        return self.measured({**layers, **left_out})
