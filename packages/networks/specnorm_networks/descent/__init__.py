"""Search weights that make a run's constant small. It proposes, and claims nothing; `certified.parts` proves.

Gradient steps (Adam, `gradient`), and Newton steps for matrices (`newton`), in single precision where that is enough,
on coarse grids of frequencies first (`search`). At the end the last states are made feasible on a fine grid, and their
constants are evaluated between its points.
"""
