"""Bound the Lipschitz constant of an ONNX network: one value after the other.

The rules and their proofs are on the README of this folder, section Networks. For
each value z of the graph a number c is computed with |z - z'| <= c |x - x'| for any two
inputs x, x': 1 for the input, 0 for arrays of the file, and a number by a rule for every
other value. A claim also lists *parts*: layers that lie one behind the other or in a sum,
which one kernel H proves together. An operator, or a form of it, that has no rule is
refused.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np

from specnorm_check.arithmetic import Array, Refused, require, root_up
from specnorm_check.attention import Factor, factors_of_value
from specnorm_check.branches import Link, links_by_branches
from specnorm_check.curves import Curves
from specnorm_check.graphs import Graph
from specnorm_check.inequality import Form
from specnorm_check.layers import proven_norm
from specnorm_check.maxima import write_out_maxima
from specnorm_check.moves import MOVES, copies_of
from specnorm_check.parts import Joint, growth, joint_of_part
from specnorm_check.rules import (
    ONE,
    SUMS,
    factor_of_operator,
    largest_slope,
    root_of_squares,
)
from specnorm_check.statements import (
    Part,
    Statement,
    Together,
    plain,
    printed,
    read_hexadecimal,
    require_claim_covers,
)

AnyPart = TypeVar("AnyPart", bound=Part)
KEYS_OF_A_NETWORK = {"input_shape", "name", "parts", "sha256", "upper"}


# -- the claim -------------------------------------------------------------------------
def prove_network(
    statement: Statement, completions: Sequence[Array], content: bytes
) -> str:
    """Prove the claim that a network's Lipschitz constant is at most a number.

    Returns a line that says what was read and proven. Raises `Refused` if the claim is
    not proven.
    """
    has_keys = set(statement) == KEYS_OF_A_NETWORK
    require(has_keys, "it has other entries than a claim about a network")
    require(content, "a claim about a network needs the .onnx file that it is about")
    digest = hashlib.sha256(content).hexdigest()
    require(statement["sha256"] == digest, "the model's file is another one")
    parts = [Part.read(part) for part in statement["parts"]]
    network = Network(content, statement["input_shape"])
    constant = network.constant(parts, completions)
    require_claim_covers(statement["upper"], constant, "its parts prove")
    return sentence(statement, network, parts)


def sentence(statement: Statement, network: Network, parts: Sequence[Part]) -> str:
    """Return what is proven, and which operators were read, in words."""
    shape = "x".join(map(str, statement["input_shape"]))
    constant = printed(read_hexadecimal(statement["upper"]))
    counts = Counter(network.nodes[name].op for name in network.stated[1:])  # no input
    operators = ", ".join(f"{count} {op}" for op, count in counts.items())
    # Each value after the first is one step of a part: a sum of layers, and a function.
    most_steps = max((len(part.values) - 1 for part in parts), default=0)
    part_count = f"{len(parts)} part" if len(parts) == 1 else f"{len(parts)} parts"
    layers = "1 layer" if most_steps == 1 else f"{most_steps} layers"
    return (
        f"Lipschitz constant <= {constant} of the input {shape}, by {part_count} "
        f"of {layers} at most, of {operators}, {statement['sha256'][:16]}"
    )


# -- values ----------------------------------------------------------------------------
ONE_FOR_ALL = np.ones(1)


class ValueBounds(NamedTuple):
    """Bounds of the difference z - z' of a value, for inputs at the distance 1.

    For each pair (q, c) of ``pairs``, c bounds |q (z - z')|, where the multipliers q are
    one number for each channel, or one for all. Without a pair, nothing is proven.
    """

    pairs: list[tuple[Array, Fraction]]

    def least(self, q: Array) -> Fraction | None:
        """Return a bound of |q (z - z')|, or None (Networks, step 3)."""
        return min((c * ratio(q, other) for other, c in self.pairs), default=None)

    @property
    def without_multipliers(self) -> Fraction | None:
        """A bound of |z - z'|, or None."""
        return self.least(ONE_FOR_ALL)


def ratio(q: Array, other: Array) -> Fraction:
    """Return the largest quotient of multipliers of one value."""
    if len(q) != len(other):
        return Fraction(float(q.max())) / Fraction(float(other.min()))
    pairs = zip(q.tolist(), other.tolist(), strict=True)
    return max(Fraction(x) / Fraction(y) for x, y in pairs)


class Network(Graph):
    """A graph, and what is proven of its values.

    ``stated`` has the names of the input and of the values that the file's operators
    compute.
    """

    def __init__(self, content: bytes, input_shape: object) -> None:
        super().__init__(content, input_shape)
        self.stated = list(self.nodes)
        self.curves = Curves(self)
        write_out_maxima(self)

    def constant(self, parts: Sequence[Part], completions: Sequence[Array]) -> Fraction:
        """Return a Lipschitz constant of all outputs together (Networks, step 1).

        ``completions`` has the array 2^exponent H of each part.
        """
        parts = [self.with_first_names(part) for part in parts]
        self.require_ends(parts)
        pairs = zip(parts, completions, strict=True)
        constants = [self.constant_of_part(part, h) for part, h in pairs]
        return self.constant_of_outputs(self.bounds_of_values(parts, constants))

    def bounds_of_values(
        self, parts: Sequence[Part], constants: Sequence[Fraction]
    ) -> dict[str, ValueBounds]:
        """Return the bounds of each value, by the constants of some parts."""
        zero = Fraction(0)
        bounds_of = {x: ValueBounds([(ONE_FOR_ALL, zero)]) for x in self.fixed}
        bounds_of[self.start] = ValueBounds([(ONE_FOR_ALL, ONE)])
        links: dict[str, Link] = {}
        for name in self.stated:
            if name not in bounds_of:  # neither the input nor an array of the file
                by_rule = self.bound_by_rule(name, bounds_of)
                pairs = [] if by_rule is None else [(ONE_FOR_ALL, by_rule)]
                bounds_of[name] = ValueBounds(pairs)
            pairs = bounds_of[name].pairs
            for part, constant in zip(parts, constants, strict=True):
                if part.values[-1] == name:
                    q_0, q_n = part.multipliers_of_ends
                    factor = constant * ratio(q_0, ONE_FOR_ALL) * ratio(ONE_FOR_ALL, q_n)
                    links[name] = Link(part.values[0], factor)
                    before = bounds_of[part.values[0]].least(q_0)
                    if before is not None:
                        pairs.append((q_n, before * constant))
            if self.nodes[name].op in (*SUMS, "Concat"):
                for link in links_by_branches(self, name, links):
                    before = bounds_of[link.start].without_multipliers
                    if before is not None:
                        pairs.append((ONE_FOR_ALL, link.factor * before))
        return bounds_of

    def constant_of_outputs(self, bounds_of: Mapping[str, ValueBounds]) -> Fraction:
        """Return a constant of all outputs together; refused if one has no bound."""
        bounds = [bounds_of[name].without_multipliers for name in self.ends]
        known = [bound for bound in bounds if bound is not None]
        if len(known) < len(bounds):
            raise Refused(self.nothing_proven(bounds_of))
        return known[0] if len(known) == 1 else root_of_squares(known)

    def with_first_names(self, part: AnyPart) -> AnyPart:
        """Return a part of the first ones of equal values, which operators read."""
        values = tuple(self.first.get(name, name) for name in part.values)
        return replace(part, values=values)

    def require_ends(self, parts: Sequence[Part]) -> None:
        """Refuse a part whose last value no operator computes: it would be ignored."""
        for part in parts:
            end = part.values[-1]
            require(end in self.stated, f"a part ends at {plain(end)}, no computed value")

    def nothing_proven(self, bounds_of: Mapping[str, ValueBounds]) -> str:
        """Return the message that some operators have no bound."""
        unknown = {
            self.nodes[name].op for name in self.stated if not bounds_of[name].pairs
        }
        return f"nothing is proven beyond one of {', '.join(sorted(unknown))}"

    def bound_by_rule(
        self, name: str, bounds_of: Mapping[str, ValueBounds]
    ) -> Fraction | None:
        """Return a bound of |z - z'| from those of z's inputs (Networks, step 2).

        An operator's input changes unless its bound is 0. A value that is computed from
        fixed inputs alone has no bound, since it may be drawn at random. None: no bound.
        """
        node = self.nodes[name]
        of_tokens = self.bound_by_tokens(name, bounds_of)
        if of_tokens is not None:
            return of_tokens
        changing = []
        bounds = []
        for operand in node.inputs:
            bound = bounds_of[operand].without_multipliers
            if bound is None:
                return None
            if bound > 0:
                changing.append(operand)
                bounds.append(bound)
        if not changing:
            return None
        if node.op in SUMS and self.have_shape(changing, name):
            return min([sum(bounds, Fraction(0)), *self.bounds_of_curve(name, bounds_of)])
        if node.op in MOVES:
            return self.bound_of_moved(name, bounds_of)
        if node.op in ("Max", "Min") and self.have_shape(changing, name):
            return min([root_of_squares(bounds), *self.bounds_of_curve(name, bounds_of)])
        if changing != node.inputs[:1] or not self.has_fixed_inputs(node):
            return None
        factor = factor_of_operator(self, name)
        return None if factor is None else factor * bounds[0]

    def bound_of_moved(
        self, name: str, bounds_of: Mapping[str, ValueBounds]
    ) -> Fraction | None:
        """Return a bound of a value whose entries are those of others, or copies."""
        bounds = []
        with suppress(Refused):
            for source, copies in copies_of(self, name).items():
                root = ONE if copies < 2 else root_up(Fraction(copies))
                bounds.append(root * (bounds_of[source].without_multipliers or 0))
        return root_of_squares(bounds) if len(bounds) > 1 else next(iter(bounds), None)

    @cached_property
    def factors_of_tokens(self) -> dict[str, list[Factor]]:
        """Return the factors of normalizations, of matrices and of attention (Lemma 8).

        Values whose tokens have no known length are left out.
        """
        factors: dict[str, list[Factor]] = {}
        for name in self.stated:
            # Operators in other places than expected leave a value without a factor.
            with suppress(Refused, LookupError, StopIteration, ValueError):
                of_value = factors_of_value(self, name)
                if of_value:
                    factors[name] = of_value
        return factors

    def bound_by_tokens(
        self, name: str, bounds_of: Mapping[str, ValueBounds]
    ) -> Fraction | None:
        """Return a bound of a value by its factors of tokens; None without any."""
        factors = self.factors_of_tokens.get(name, [])
        bounds = [bounds_of[start].without_multipliers for start, _ in factors]
        terms = [
            f * x for (_, f), x in zip(factors, bounds, strict=True) if x is not None
        ]
        return None if len(terms) < len(bounds) else sum(terms, Fraction(0)) or None

    def bounds_of_curve(
        self, name: str, bounds_of: Mapping[str, ValueBounds]
    ) -> list[Fraction]:
        """Return a bound of a value whose entries are functions of those of another one.

        None is listed if there is no other value.
        """
        base, slopes = self.curves.nearest(name)
        bound = bounds_of[base].without_multipliers
        return [bound * largest_slope(slopes)] if base and bound is not None else []

    def constant_of_part(self, part: Part, completion: Array) -> Fraction:
        """Return c with |q_n d_n| <= c |q_0 d_0| for a part's first and last value."""
        if not isinstance(part, Together):
            is_proven = Form(self, self.with_first_names(part)).is_nonnegative()
            require(is_proven, "its multipliers do not prove the part")
            return ONE
        joint = self.joint(part)
        kernel, exponent = joint.kernel, part.exponent
        norm = proven_norm(kernel, joint.layer, completion, exponent, joint.errors)
        return growth(joint, norm) ** joint.depth * joint.factor

    def joint(self, part: Together) -> Joint:
        """Return the kernel whose norm proves a part."""
        return joint_of_part(self, self.with_first_names(part))
