"""Every number that branch and bound is tuned by: what an answer costs, never what it claims.

The values are the fastest of those tried on the kernels of `benchmarks` (NumPy, one core). Those of the local ascent
are in `symbols.ascent`.
"""

WORK_OF_VISITS = 6e5
"""Work of proofs at every point of a grid, in multiplications a channel, up to which a search takes longer."""
CALLS_OF_A_VISIT = 1e3
"""Work of a visit besides the Gram products of its matrix, in multiplications."""

CACHE_BYTES = 24 * 2**20
"""Bytes of the matrices that the host forms at once: they stay in its cache. Up to so many bytes, a round's matrices
are kept until its ascent. If a round has more, each cell is tried against the incumbent before the ascent, and its
matrix is formed again for the incumbent after it."""
FIRST_DEGREE = 6
"""Chebyshev degree of the first round's estimates, which begin with random vectors."""
DEGREE = 3
"""Chebyshev degree of later rounds, whose estimates begin with the vectors of the parents' cells."""
CROWDED_DEGREE = 24
"""Degree where eigenvalues are crowded: most of the first cells have eigenvalues near their limits, as of spectra
without a gap at the top. Filters of a higher degree tell such eigenvalues apart. One of a low degree would estimate
them too low: proofs would fail, and cells would be cut too coarsely."""
NEAR_PART = 0.95
"""Part of a number from which another is near it: of a cell's limit, an eigenvalue, and filters damp those below; of
the squared threshold, a limit; of the highest square, a centre, which gets an ascent in a flat round; of a bound that
is to be proven, an incumbent. With 1, filters would not tell an eigenvalue just above a limit from it, and what a bound
just below the norm refutes would stay undecided."""
SMALLEST_LARGE = 96
"""Size of matrices from which eigenvalues may count as crowded, and parts of a round are worth a thread each."""
PIECES = 5
"""Most pieces along an axis that a cell is cut into at once. With more, many children are far below
their limits."""
CUTTING_MARGIN = 1.2
"""Safety factor on the cut: a child's radius is this many times smaller than would suffice if its centre had its
parent's norm. It was the fastest of those tried. Values below 1 give 2 % fewer cells, since the norm at a child's
centre is often lower, but a quarter more rounds."""
PART_OF_BUDGET = 0.8
"""Part of a search's remaining cells and time that the next round may take. If the tolerance needs more, it is
widened."""
WIDENING_FACTOR = 1.25
"""Factor by which a tolerance that is not affordable is widened, again and again until it is."""
TORUS_SHARE = 0.97
"""Part of the tolerance that the supremum gets before a search of a grid: then few points are left to visit."""
PROOF_SHARE = 0.999
"""Part of the tolerance that is asked of the proof, so that the answer is within it after rounding."""
SCALAR_TAPS = 20
"""Taps of symbols with one column from which they are evaluated as they are, without a Gram polynomial. For fewer taps,
its coefficients give closer bounds: without them, thirty thousand cells were too few for nearly flat symbols."""
SMALLEST_REDUCED = 40
"""Channels below which the choice of a basis takes longer than smaller matrices save, and rows below which float32
saves no time."""
TRUNCATION = 0.5
"""Largest part of the squared threshold that the truncation bound may be. The norm itself of what is left out is a
third of this bound or less."""
LEAST_LIMIT_OVER_TRUNCATION = 1.1
"""Least ratio of a limit to the truncation bound for which a matrix is reduced; above 1."""
TRIALS = 4
"""Coarse frequencies with the largest norms: the first ascent starts from them, and their vectors are kept in the
basis beside those around the incumbent. Also the number of local ascents of a round with a flat norm; others have
one."""
AROUND_RADIANS = 0.06
"""Distance in radians, along each axis, of the frequencies around the incumbent whose vectors are kept."""
FLAT_CELLS = 24
"""Number of centres of a block, with a norm near the highest, above which the norm counts as flat. Fewer than the
first cells of two axes: an incumbent that the first round leaves 0.4 % too low costs half as much time again."""
INCUMBENT_RTOL = 1e-3
"""Tolerance to which an incumbent is raised, however wide the interval may be: later searches start from it."""
