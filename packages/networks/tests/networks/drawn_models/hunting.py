"""Asks for the bound of a drawn model, attacks it, and says what became of it."""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from networks.drawn_models.attacks import Attack, Machine
from specnorm_networks import Multipliers, Product, network_bound

from specnorm import SpecnormError
from specnorm.errors import InternalError, TranslationError

METHODS: tuple[Any, ...] = (Product(), Multipliers(steps=2, seconds=1))
GOOD = ("bounded", "no bound", "refused")
"""What may become of a model; everything else is a defect."""


@dataclass(frozen=True)
class Outcome:
    """What became of one model.

    Parameters
    ----------
    kind : str
        Of ``GOOD``, or what is wrong.
    words : str
        The reason that specnorm gave, or what was raised.
    upper, reached : float
        The bound, and the largest quotient of the attack.
    operator : str
        The operator that has no bound.
    seconds : float
        For the bound alone.
    """

    kind: str
    words: str = ""
    upper: float = math.nan
    reached: float = math.nan
    operator: str = ""
    seconds: float = 0.0


def outcome(model: Any, given: Any, machine: Callable[[], Machine], seed: int, *, room: float = 1e-5) -> Outcome:
    """Bound a model and attack what is claimed; ``room`` is what rounding of its weights may change, relatively."""
    rng = np.random.default_rng(seed)
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = network_bound(model, given, method=METHODS[seed // 2 % len(METHODS)], budget=2)
    except InternalError as error:
        return Outcome("refuted by its own attack", str(error))
    except SpecnormError as error:
        is_misread = isinstance(error, TranslationError) and "not read as it computes" in str(error)
        return Outcome("misread" if is_misread else "refused", str(error), seconds=time.perf_counter() - start)
    except Exception as error:  # what a user must not see
        return Outcome(f"raw {type(error).__name__}", str(error))
    seconds = time.perf_counter() - start
    if found.upper is None:
        node = found.unknown[0] if found.unknown else None
        return Outcome(
            "no bound" if node else "no words", str(node and node.reason), operator=str(node and node.operator)
        )
    upper = float(found.upper)
    if not (math.isfinite(upper) and upper >= 0 and upper <= float(found.product) * (1 + 1e-12)):
        return Outcome("no number", f"product {found.product}", upper)
    f = machine()
    dependent = f.depends_on_batch(rng)
    attack = Attack(f.one_by_one() if dependent else f, rng)
    reached = attack.run(*((10, 5) if dependent else (35, 20)))
    kind = "bounded"
    if reached > upper * (1 + room) + 1e-9:
        kind = "false"
    elif dependent and found.checked.samples:
        kind = "false for batches"
    return Outcome(kind, str(found.checked), upper, reached, seconds=seconds)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return how many became what, and the operators and words of those without a bound."""
    kinds = Counter(each.kind for each in outcomes)
    halves = sum(each.kind == "bounded" and each.reached > 0.5 * each.upper for each in outcomes)
    reasons = Counter(each.operator or each.words.partition(".")[0][:90] for each in outcomes if each.kind in GOOD[1:])
    lines = [f"{len(outcomes)} models: {dict(kinds.most_common())}; half of the bound was reached in {halves}"]
    return "\n".join(lines + [f"{count:5d} {reason}" for reason, count in reasons.most_common()])
