"""A network's bound: each node's step, where layers were bounded together, and what proves it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from specnorm.certified.bound import Upper
from specnorm.certified.network.checking import Checked
from specnorm.certified.network.propagation import Step, UnknownNode
from specnorm.certified.network.rules import must_be_claims
from specnorm.networks.certificate import Certificate
from specnorm.networks.table import lines


@dataclass(frozen=True)
class RunBound:
    """Layers and functions in a row, bounded together.

    Parameters
    ----------
    start, end : str
        The values between which they lie.
    layers : tuple of tuple of str
        Names of the kernels, those of one proof together.
    product : float
        What the rules give for them.
    claim : Upper
        Less than ``product``.
    """

    start: str
    end: str
    layers: tuple[tuple[str, ...], ...]
    product: float
    claim: Upper

    def __post_init__(self) -> None:
        must_be_claims(self.claim)

    @property
    def upper(self) -> float:
        """Proven Lipschitz constant."""
        return self.claim.value


@dataclass(frozen=True)
class NetworkBound:
    """Lipschitz constant of a network in 2-norms, from its layers' certified norms.

    Parameters
    ----------
    claim : Upper or None
        ``|f(x) - f(y)| <= claim |x - y|`` for all x and y, all inputs and all outputs together, in real arithmetic.
        None if an output is unknown.
    heuristic : float or None
        What the same rules say with Miyato's heuristic (`reshaped_norm`) for each layer: *not* a bound, shown for
        comparison. A product of lower bounds bounds a network from neither side.
    ends : mapping of str to Upper or None
        The same of each output.
    nodes : tuple of Step
        In the order of computation.
    unknown : tuple of UnknownNode
        Nodes without a rule; what follows them is unknown, too.
    input_shapes : mapping of str to tuple, or None
        Shapes for which the bound holds; sizes that are symbols may be anything.
    product_claim : Upper or None
        What the rules give without `runs`.
    runs : tuple of RunBound
        Where layers together have a smaller constant than the product of their norms.
    certificate : Certificate or None
        What proves ``upper`` anew without a search, see `verify`; None if an output is unknown.
    radius : float or None
        Of the ball around the given centre in which all constants hold; None: everywhere.
    input_ranges : mapping of str to (float, float), or None
        Of inputs whose entries all lie between two numbers: all constants hold there. None: in a box of arrays. Other
        inputs may be anything.
    checked : Checked
        How the graph was compared with the model that it was read from, and the answer attacked.
    """

    claim: Upper | None
    heuristic: float | None
    ends: Mapping[str, Upper | None]
    nodes: tuple[Step, ...]
    unknown: tuple[UnknownNode, ...]
    input_shapes: Mapping[str, tuple[int | str, ...] | None]
    product_claim: Upper | None = None
    runs: tuple[RunBound, ...] = ()
    certificate: Certificate | None = None
    radius: float | None = None
    input_ranges: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    checked: Checked = field(default_factory=Checked)

    def __post_init__(self) -> None:
        must_be_claims(self.claim, *self.ends.values(), self.product_claim)

    @property
    def upper(self) -> float | None:
        """Proven Lipschitz constant of all outputs together; None if one is unknown."""
        return None if self.claim is None else self.claim.value

    @property
    def outputs(self) -> dict[str, float | None]:
        """``upper`` of each output."""
        return {name: None if claim is None else claim.value for name, claim in self.ends.items()}

    @property
    def product(self) -> float | None:
        """What the rules give without `runs`; proven, too."""
        return None if self.product_claim is None else self.product_claim.value

    def explain(self) -> str:
        """The rules that prove ``upper``, one line a value, from the outputs back, and the norms in them."""
        if self.claim is None:
            return str(self)
        from specnorm.networks.chain import explained_constant  # for few

        return explained_constant(self.claim)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the field ``network`` of an audit's JSON. What is not finite becomes None."""
        ranges = {name: _ends(between) for name, between in self.input_ranges.items()}
        return {
            "upper": _finite(self.upper),
            "heuristic": _finite(self.heuristic),
            "product": _finite(self.product),
            **({} if self.radius is None else {"radius": self.radius}),
            **({"input_ranges": ranges} if ranges else {}),
            "runs": [
                {
                    "start": r.start, "end": r.end, "layers": [list(names) for names in r.layers],
                    "product": _finite(r.product), "upper": _finite(r.upper),
                }
                for r in self.runs
            ],
            "checked": self.checked.to_dict(),
            "input_shapes": {name: None if s is None else list(s) for name, s in self.input_shapes.items()},
            "outputs": {name: _finite(value) for name, value in self.outputs.items()},
            "unknown": [
                {"name": u.name, "operator": u.operator, "reason": u.reason, "before": _finite(u.before)}
                for u in self.unknown
            ],
            "nodes": [
                {
                    "name": s.name, "operator": s.operator, "rule": s.rule, "layer": s.layer,
                    "factor": _finite(s.factor), "upper": _finite(s.upper), "heuristic": _finite(s.heuristic),
                }
                for s in self.nodes
            ],
        }  # fmt: skip

    def __str__(self) -> str:
        """Table of the nodes, and what follows from them."""
        return "\n".join(lines(self, nodes=True))


def _ends(between: tuple[float, float] | None) -> list[float | None] | None:
    return None if between is None else [_finite(end) for end in between]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
