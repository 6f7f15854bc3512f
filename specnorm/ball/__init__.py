"""Steps inside the ball of all kernels with a norm of at most a bound, by matrix products alone.

The ball is convex: ``(1 - a) K + a D`` is in it if K and D are, for every ``a`` from 0 to 1. So an optimiser that moves
towards kernels D whose norm is proven to be at most the bound never leaves the ball, and never computes a norm. `lmo`
chooses D for a gradient (`specnorm.ball.oracle`); `specnorm.ball.proof` bounds its norm.

References
----------
.. [1] Frank, Wolfe, "An algorithm for quadratic programming", Naval Research Logistics Quarterly 3, 1956.
.. [2] Pokutta, Spiegel, Zimmer, "Deep Neural Network Training with Frank-Wolfe", arXiv:2010.07243, 2020.
.. [3] Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024 (the polar factor of a reshaped
   gradient as a step).
.. [4] Pethick et al., "Training Deep Learning Models with Norm-Constrained LMOs", ICML 2025, arXiv:2502.07529
   (matrices; for a convolution they divide the polar factor by the number of taps, not by its root).
"""

from specnorm.ball.oracle import lmo
from specnorm.ball.steps import lmo_many, updates_in_ball

__all__ = ["lmo", "lmo_many", "updates_in_ball"]
