"""Every number that the search for a layer at one size is tuned by: what an answer costs, never what it claims.

A *matrix proof* is a factorization of the layer's Gram matrix; its work is counted in multiplications.
"""

IMMEDIATE_WORK = 3e6
"""Work of a matrix proof up to which nothing else is tried, since a search takes longer; and cubed rows of the Gram
matrices up to which their eigenvectors take less time than Lanczos."""
LATE_WORK = 3e10
"""Work of a matrix proof up to which it is tried where nothing else came close enough: some seconds."""
WAVE_TIME = 0.2
"""Part of the time limit that the lower bound near the supremum's wave may take; the search of the supremum ends
early by as much. A layer that would take longer is restricted to fewer pixels."""
WAVE_PASSES = 4.0
"""Products with the layer that this bound takes without Lanczos: a wave's image, its quotient, and the kernel's
gradient, with the copies."""
WAVE_STEPS = 4
"""Lanczos steps from a plane wave at the best frequency. The wave alone is within 1e-4 to 4e-3 of the norm on
trained layers at 32 pixels per axis, after four steps within 1e-6 to 4e-4, after eight within 1e-7 to 1e-4."""
WAVE_SUM_PIXELS = 24
"""Pixels per axis from which a sum of waves takes the place of those four steps: it is as close."""
MOST_STEPS = 48
"""Lanczos steps where the tolerance is tight."""
LANCZOS_ENTRIES = 2.0**21
"""Most pixels times channels times steps. A larger layer is restricted to fewer pixels; the norm of the restriction
is lower than the supremum by a part that falls with ``1 / size**2``."""
WITNESS_ENTRIES = 2**18
"""Inputs and outputs up to which the singular vectors are returned."""
WEAK_GROUP = 0.97
"""Part of the layer's norm below which an estimate of a group's norm makes it a weak group."""
MATRIX_STEPS = 400
"""Lanczos steps on a layer's own matrix: its proof is tried near the lower bound, and fails unless that has
converged. After a proof that failed, as many follow."""
WIDER_MULTIPLES: tuple[float, ...] = (1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0)
"""Tolerances, as multiples of the one asked for, that are tried after a proof that failed."""
LOOSE_RTOL = 1e-3
"""Tolerance from which float32 and few Lanczos steps are enough: the default tolerance of enclosures."""
