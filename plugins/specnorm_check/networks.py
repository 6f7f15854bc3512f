"""Bound the Lipschitz constant of an ONNX network: one value after the other.

The rules and their proofs are in docs/check-proofs.md. A claim lists *parts*: layers that
lie one behind the other or in a sum, which one kernel H proves together. An operator, or
a form of it, that has no rule is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from specnorm_check.graphs import Graph
from specnorm_check.layers import Numbers, Refused, proven_norm, require
from specnorm_check.parts import ENTRY_ERROR, SUMS, Joint, Part, growth, joint_of_part
from specnorm_check.rules import ONE, ROUNDED, factor_of_operator, root_of_squares
from specnorm_check.statements import (
    Statement,
    number,
    plain,
    printed,
    require_at_least,
)

KEYS_OF_A_NETWORK = {"input_shape", "name", "parts", "sha256", "upper"}


# -- the claim -------------------------------------------------------------------------
def prove_network(
    statement: Statement,
    completions: Sequence[Numbers],
    content: bytes,
) -> str:
    """Prove the claim that a network's Lipschitz constant is at most a number.

    Returns what was read and proven, in a line; `Refused` if the claim is not proven.
    """
    has_keys = set(statement) == KEYS_OF_A_NETWORK
    require(has_keys, "it has other entries than a claim about a network")
    require(content, "a claim about a network needs the .onnx file that it is about")
    digest = hashlib.sha256(content).hexdigest()
    require(statement["sha256"] == digest, "the model's file is another one")
    parts = [Part.read(part) for part in statement["parts"]]
    network = Network(content, statement["input_shape"])
    constant = network.constant(parts, completions)
    require_at_least(statement["upper"], constant, "its parts prove")
    return sentence(statement, network, parts)


def sentence(statement: Statement, network: Network, parts: Sequence[Part]) -> str:
    """Say what is proven, and which operators were read."""
    shape = "x".join(map(str, statement["input_shape"]))
    constant = printed(number(statement["upper"]))
    counts: dict[str, int] = {}
    for name, node in network.nodes.items():
        if name != network.start:
            counts[node.op] = counts.get(node.op, 0) + 1
    operators = ", ".join(f"{count} {op}" for op, count in counts.items())
    layers = [len(part.values) - 1 for part in parts]
    most = max(layers, default=0)
    return (
        f"Lipschitz constant <= {constant} of the input {shape}, by {len(parts)} parts "
        f"of {most} layers at most, of {operators}, {statement['sha256'][:16]}"
    )


# -- values ----------------------------------------------------------------------------
class KnownBound(NamedTuple):
    """What is proven of the difference z - z' of a value, for inputs that differ by 1.

    ``unweighted`` bounds |z - z'|; None: nothing does. For each pair (q, c) of
    ``weighted``, c bounds |q (z - z')|, q a number for each channel.
    """

    unweighted: Fraction | None
    weighted: list[tuple[Numbers, Fraction]]


class Network(Graph):
    """A graph, and what is proven of its values."""

    def joint(self, part: Part) -> Joint:
        """Return the kernel whose norm proves a part."""
        return joint_of_part(self, part)

    def constant(
        self,
        parts: Sequence[Part],
        completions: Sequence[Numbers],
    ) -> Fraction:
        """Return a Lipschitz constant of all outputs together (Networks, step 1)."""
        self.require_ends(parts)
        known: dict[str, KnownBound] = {}
        left_out = ""  # the name of an input that an operator does without
        for name in (left_out, *self.arrays):
            known[name] = KnownBound(Fraction(0), [])
        known[self.start] = KnownBound(ONE, [])
        for name in self.nodes:
            if name not in known:
                by_rule = self.bound_by_rule(name, known)
                known[name] = KnownBound(by_rule, [])
            for part, completion in zip(parts, completions, strict=True):
                if part.values[-1] == name:
                    by_part = self.bound_by_part(part, completion, known)
                    known[name] = both(known[name], by_part)

        bounds = []
        for name in self.ends:
            bound = known[name].unweighted
            if bound is None:
                raise Refused(self.nothing_proven(known))
            bounds.append(bound)
        if len(bounds) == 1:
            return bounds[0]
        return root_of_squares(bounds)

    def require_ends(self, parts: Sequence[Part]) -> None:
        """Refuse a part that ends at no value: it would not be looked at."""
        for part in parts:
            last = part.values[-1]
            is_computed = last in self.nodes
            require(is_computed, f"a part ends at {plain(last)}, no computed value")

    def nothing_proven(self, known: Mapping[str, KnownBound]) -> str:
        """Name the operators of which nothing is known."""
        unknown = set()
        for name, node in self.nodes.items():
            if known[name].unweighted is None:
                unknown.add(node.op)
        return f"nothing is proven beyond one of {', '.join(sorted(unknown))}"

    def bound_by_rule(
        self,
        name: str,
        known: Mapping[str, KnownBound],
    ) -> Fraction | None:
        """Return a bound of |z - z'| from those of z's inputs (Networks, step 2).

        An input with the bound 0 is a constant. What is computed from constants alone
        has no bound, since it may be drawn at random.
        """
        node = self.nodes[name]
        moving = []
        bounds = []
        for one in node.inputs:
            bound = known[one].unweighted
            if bound is None:
                return None
            if bound > 0:
                moving.append(one)
                bounds.append(bound)
        if not moving:
            return None
        if node.op in SUMS and self.have_shape(moving, name):
            return sum(bounds, Fraction(0))
        if node.op == "Concat":
            return root_of_squares(bounds)
        is_first_alone = moving == node.inputs[:1] and self.has_constants(node)
        factor = factor_of_operator(self, name) if is_first_alone else None
        return None if factor is None else factor * bounds[0]

    def bound_by_part(
        self,
        part: Part,
        completion: Numbers,
        known: Mapping[str, KnownBound],
    ) -> KnownBound:
        """Return what a part proves of its last value from what its first has."""
        joint = self.joint(part)
        norm = proven_norm(
            joint.kernel,
            joint.layer,
            completion,
            part.exponent,
            ENTRY_ERROR,
        )
        constant = growth(joint, norm) ** joint.depth * joint.factor

        start = part.values[0]
        op = self.nodes[start].op
        words = f"a part begins at {plain(start)}, a {op} of which nothing is known"
        if not part.multipliers:
            one_for_all_channels = np.ones(1)
            first = weighted_bound(known[start], one_for_all_channels, words)
            return KnownBound(first * constant, [])
        q_0 = part.multipliers[0]
        q_n = part.multipliers[-1]
        last = weighted_bound(known[start], q_0, words) * constant
        least = Fraction(float(q_n.min()))
        return KnownBound(last / least, [(q_n, last)])


def weighted_bound(known: KnownBound, q: Numbers, words: str) -> Fraction:
    """Return a bound of |q (z - z')|, q a number for each channel (Networks, step 3)."""
    bounds = []
    if known.unweighted is not None:
        largest = Fraction(float(q.max()))
        bounds.append(known.unweighted * largest)
    for other, c in known.weighted:
        if len(other) == len(q):
            ratio = float((q / other).max())
            bounds.append(c * Fraction(ratio) * ROUNDED)
    require(bounds, words)
    return min(bounds)


def both(one: KnownBound, other: KnownBound) -> KnownBound:
    """Return what is known of a value by two bounds."""
    bounds = [x for x in (one.unweighted, other.unweighted) if x is not None]
    least = min(bounds) if bounds else None
    return KnownBound(least, one.weighted + other.weighted)
