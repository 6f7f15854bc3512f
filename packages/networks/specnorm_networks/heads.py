"""Search multipliers of convolutions and of the dense layers behind them, through the flattened head between.

A *head* is the first matrix after a flatten: it reads all pixels of the last convolution, or averages of them. The
*body* is the convolutions before it that are bounded with it. The *ring* is the circular grid of pixels on which these
are Fourier-transformed (`certified.heads`).

The search makes gradient steps with the value and gradient of `descent.gradient`. The frequencies are all those of the
ring, since the head reads the values at all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from specnorm_check import Part

from specnorm import SpecnormError
from specnorm.errors import InternalError
from specnorm.proof import OutOfTime, Upper, arithmetic, backends
from specnorm_networks.certified.heads import Head, NotProvenError, constant_before, constant_through_head
from specnorm_networks.certified.links import Run
from specnorm_networks.certified.operators.base import FloatArray, NoBoundError
from specnorm_networks.certified.parts import middle_and_leaf_slopes, statements_of
from specnorm_networks.descent.costs import RATE, cost, frequencies
from specnorm_networks.descent.gradient import gradient_steps, value_alone
from specnorm_networks.descent.search import MEMORY, ROUNDS
from specnorm_networks.descent.stages import Stage, Vectors, stages_of_part, stages_of_run, symbols_at
from specnorm_networks.measuring import Measure
from specnorm_networks.methods import Multipliers

RUNGS = (0, 10, 25, 100, 400, 1600)
"""Numbers of steps after which a proof is tried. They are the same for every budget, so that a larger one proves no
less."""
SEARCH_SHARE = 1 / 4
"""Share of the method's seconds that the search may take."""
PATIENCE = 10
"""Steps without a gain of a thousandth after which the search ends."""


def bound_through_head(
    head: Head,
    measure: Measure,
    method: Multipliers,
    share: float,
) -> Upper:
    """Return the least constant of a run that is proven within a share of the method's seconds.

    `NoBoundError` if none is proven.
    """
    claims: list[Upper] = []
    like: Any = head.body.links[0].slopes[0]

    def following(rest: Run) -> list[Sequence[Part]]:
        """Return proposals for the layers after the head."""
        if len(rest.links) == 1:
            return [statements_of(rest, [(0, 1)], [np.ones(rest.links[0].width)])]
        parts = method.parts(rest)
        return [statements_of(rest, parts, weights) for weights in method.search(rest, parts, share, measure.clock)]

    try:
        with np.errstate(all="ignore"), arithmetic.exact(like, backend=backends.backend_for(like)):
            tick = measure.clock.check
            tick()
            constant_ahead = constant_before(head, measure) if head.before else None
            multiplications = SEARCH_SHARE * share * method.seconds * RATE
            for weights in weights_of(head, method, multiplications, tick):
                tick()
                claims.append(constant_through_head(head, weights, following, measure, constant_ahead, tick))
    except OutOfTime:
        measure.clock.has_cut = True
    except InternalError:
        raise
    except (np.linalg.LinAlgError, ArithmeticError, NotProvenError, SpecnormError):
        pass  # the claims so far are proven
    if not claims:
        raise NoBoundError("no weights were proven")
    return min(claims, key=float)


def weights_of(
    head: Head,
    method: Multipliers,
    multiplications: float,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[list[FloatArray]]:
    """Yield weights of the body's values but the first, after more and more steps of the search.

    ``multiplications`` is the largest number that the search may make. ``tick`` is called before each step and each
    other evaluation of the run.
    """
    products, memory = _cost(head)
    if memory > MEMORY or multiplications < products:
        return
    tick()
    double_grid = _stages(head, method)
    grid = [
        replace(stage, symbols=stage.symbols.astype(np.complex64)) if np.iscomplexobj(stage.symbols) else stage
        for stage in double_grid
    ]
    links = [*head.body.links, *head.run.links[head.matrix_number : -1]]
    # Logarithms of D of the channels of each link but the last, then the logits of their shares (`descent.gradient`).
    point = np.zeros(sum(link.width for link in links) + len(links))
    steps_done = 0
    for rung, next_rung in itertools.pairwise(RUNGS):
        tick()
        _, multipliers = value_alone(double_grid, point)
        unit = _unit(head)  # a weight is the root of a multiplier, times the unit
        yield [np.sqrt(numbers) * unit for numbers in multipliers[: len(head.body.links)]]
        if next_rung > min(method.steps, multiplications / products):
            return
        values = []  # logarithms of the constant's square, the least so far
        for number, least, best in gradient_steps(grid, links, point, next_rung - rung, PATIENCE):
            tick()
            values.append(least)
            point = best
            if number > 0 and method.progress is not None:
                steps_done += 1
                method.progress(steps_done, method.steps, f"{head.run.start} to {head.run.end}")
        if not values[-1] < values[0] - 1e-3:
            return


def _stages(head: Head, method: Multipliers) -> list[Stage]:
    """Return the stages of the body at the ring's frequencies, then the head and the layers after it at frequency 0."""
    whole = (0, len(head.body.links))  # the body is one part
    points, counts = head.frequencies
    body = stages_of_part(head.body, [whole], whole, points.angles, np.complex128, head.weights_at_start / _unit(head))
    # The body ends without a cut. So its last function has the slopes c and e (`Stage.leaf`) of one inside a part.
    centre, leaf = middle_and_leaf_slopes(*head.body.links[-1].slopes)
    body[-1] = replace(body[-1], cut=False, centre=centre, leaf=leaf)
    rest = head.following(np.eye(head.link.width))
    first, *later = stages_of_run(rest, method.parts(rest), ROUNDS[0][0])
    # A stage whose frequencies are summed has to end a part, unless its e is 0. The proof makes no such cut.
    if first.leaf.any() and not first.cut:
        first = replace(first, cut=True, centre=np.zeros(head.link.width), leaf=head.link.largest_slopes)
        later[0].starts = True
    symbols: Vectors = symbols_at(head.matrix, (0,) * len(head.window), points.angles)
    # So the sum over these frequencies is the mean over the ring: G of `certified.heads`.
    symbols *= np.sqrt(counts / np.prod(head.ring))[:, None, None]
    if not np.iscomplexobj(body[0].symbols):
        symbols = symbols.real
    first = replace(first, symbols=symbols, starts=False, alive=np.arange(symbols.shape[2]), summed=True)
    return [*body, first, *later]


def _unit(head: Head) -> float:
    """Return the geometric mean of the entry weights. Weights are divided by it to keep powers in single precision."""
    return float(np.exp(np.mean(np.log(head.weights_at_start))))


def _cost(head: Head) -> tuple[float, float]:
    """Return the multiplications of a step, as `RATE` counts them, and its memory in bytes.

    A step computes value and gradient at all frequencies. The estimate is that of `descent.costs` for the body, and for
    the head's solution and Gram matrix of p inputs and m outputs. The factors 0.3, 1.2, 3 and 48 are rough.
    """
    count = len(head.frequencies[0])
    m = head.link.width
    p = head.body.links[-1].width
    of_body = cost(head.body, [(0, len(head.body.links))], 2)
    grids = count / frequencies(head.body, 2)  # `of_body` is the cost on a grid of two frequencies an axis
    solution_and_gram = p**3 / 1.5 + 2.0 * p * p * m + 2.0 * m * m * p
    products = 0.3 * grids * of_body.products + 1.2 * count * solution_and_gram
    memory = 3 * grids * of_body.memory + 48.0 * count * (2 * m * p + p * p)
    return products, memory
