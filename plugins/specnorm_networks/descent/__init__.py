"""Search weights that make a run's constant small. It proposes, and claims nothing; `certified.parts` proves.

Gradient steps (Adam, `gradient`), and Newton steps for matrices (`newton`), in single precision where that is enough,
on coarse grids of frequencies first (`search`). At the end the last states are made feasible on a fine grid, and their
constants are evaluated between its points.
"""

from specnorm_networks.descent.adam import Adam
from specnorm_networks.descent.costs import RATE, Cost, cost, frequencies, proof_products
from specnorm_networks.descent.gradient import gradient_steps, parameters, value_alone
from specnorm_networks.descent.search import MEMORY, ROUNDS, search_weights
from specnorm_networks.descent.stages import Parts, Stage, Vectors, stages_of_part, stages_of_run, symbols_at

__all__ = [
    "MEMORY",
    "RATE",
    "ROUNDS",
    "Adam",
    "Cost",
    "Parts",
    "Stage",
    "Vectors",
    "cost",
    "frequencies",
    "gradient_steps",
    "parameters",
    "proof_products",
    "search_weights",
    "stages_of_part",
    "stages_of_run",
    "symbols_at",
    "value_alone",
]
