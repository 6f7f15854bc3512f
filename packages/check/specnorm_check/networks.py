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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np

from specnorm_check.arithmetic import Array, Refused, require, root_up
from specnorm_check.attention import Factor, factors_of_value
from specnorm_check.branches import Link, links_by_branches
from specnorm_check.graphs import Graph, Node
from specnorm_check.inequality import constant_of_units
from specnorm_check.layers import proven_norm
from specnorm_check.maxima import write_out_maxima
from specnorm_check.moves import MOVES, copies_of
from specnorm_check.parts import (
    Joint,
    Slopes,
    growth,
    joint_of_part,
)
from specnorm_check.rules import (
    ONE,
    ROUNDING,
    SUMS,
    factor_of_operator,
    root_of_squares,
    slopes_of,
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
    statement: Statement,
    completions: Sequence[Array],
    content: bytes,
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
    counts: dict[str, int] = {}
    for name in network.stated[1:]:  # the input is the first
        op = network.nodes[name].op
        counts[op] = counts.get(op, 0) + 1
    operators = ", ".join(f"{count} {op}" for op, count in counts.items())
    # Each value after the first is one step of a part: a sum of layers, and a function.
    steps_of_parts = [len(part.values) - 1 for part in parts]
    most_steps = max(steps_of_parts, default=0)
    part_count = f"{len(parts)} part" if len(parts) == 1 else f"{len(parts)} parts"
    layers = "1 layer" if most_steps == 1 else f"{most_steps} layers"
    return (
        f"Lipschitz constant <= {constant} of the input {shape}, by {part_count} "
        f"of {layers} at most, of {operators}, {statement['sha256'][:16]}"
    )


# -- values ----------------------------------------------------------------------------
class ValueBounds(NamedTuple):
    """Bounds of the difference z - z' of a value, for inputs at the distance 1.

    ``without_multipliers`` bounds |z - z'|, or is None if nothing is proven. For each
    pair (q, c) of ``with_multipliers``, c bounds |q (z - z')|, where the multipliers q
    are one number for each channel.
    """

    without_multipliers: Fraction | None
    with_multipliers: list[tuple[Array, Fraction]]


class Network(Graph):
    """A graph, and what is proven of its values.

    ``stated`` has the names of the input and of the values that the file's operators
    compute.
    """

    def __init__(self, content: bytes, input_shape: object) -> None:
        super().__init__(content, input_shape)
        self.stated = list(self.nodes)
        write_out_maxima(self)

    def constant(
        self,
        parts: Sequence[Part],
        completions: Sequence[Array],
    ) -> Fraction:
        """Return a Lipschitz constant of all outputs together (Networks, step 1).

        ``completions`` has the array 2^exponent H of each part.
        """
        parts = [self.with_first_names(part) for part in parts]
        self.require_ends(parts)
        constants = []
        for part, completion in zip(parts, completions, strict=True):
            constants.append(self.constant_of_part(part, completion))
        return self.constant_of_outputs(self.bounds_of_values(parts, constants))

    def bounds_of_values(
        self,
        parts: Sequence[Part],
        constants: Sequence[Fraction],
    ) -> dict[str, ValueBounds]:
        """Return the bounds of each value, by the constants of some parts."""
        bounds_of: dict[str, ValueBounds] = {}
        for name in self.fixed:
            bounds_of[name] = ValueBounds(Fraction(0), [])
        bounds_of[self.start] = ValueBounds(ONE, [])
        links: dict[str, Link] = {}
        for name in self.stated:
            if name not in bounds_of:  # neither the input nor an array of the file
                by_rule = self.bound_by_rule(name, bounds_of)
                bounds_of[name] = ValueBounds(by_rule, [])
            for part, constant in zip(parts, constants, strict=True):
                if part.values[-1] == name:
                    links[name] = link_of_part(part, constant)
                    by_part = self.bound_by_part(part, constant, bounds_of)
                    bounds_of[name] = combine(bounds_of[name], by_part)
            if self.nodes[name].op in (*SUMS, "Concat"):
                for link in links_by_branches(self, name, links):
                    by_branches = bound_by_link(link, bounds_of)
                    bounds_of[name] = combine(bounds_of[name], by_branches)
        return bounds_of

    def constant_of_outputs(self, bounds_of: Mapping[str, ValueBounds]) -> Fraction:
        """Return a constant of all outputs together; refused if one has no bound."""
        bounds = []
        for name in self.ends:
            bound = bounds_of[name].without_multipliers
            if bound is None:
                raise Refused(self.nothing_proven(bounds_of))
            bounds.append(bound)
        if len(bounds) == 1:
            return bounds[0]
        return root_of_squares(bounds)

    def with_first_names(self, part: AnyPart) -> AnyPart:
        """Return a part of the first ones of equal values, which operators read."""
        values = tuple(self.first.get(name, name) for name in part.values)
        return replace(part, values=values)

    def require_ends(self, parts: Sequence[Part]) -> None:
        """Refuse a part whose last value no operator computes: it would be ignored."""
        for part in parts:
            last = part.values[-1]
            is_computed = last in self.stated
            require(is_computed, f"a part ends at {plain(last)}, no computed value")

    def nothing_proven(self, bounds_of: Mapping[str, ValueBounds]) -> str:
        """Return the message that some operators have no bound."""
        unknown = set()
        for name in self.stated:
            if bounds_of[name].without_multipliers is None:
                unknown.add(self.nodes[name].op)
        return f"nothing is proven beyond one of {', '.join(sorted(unknown))}"

    def bound_by_rule(
        self,
        name: str,
        bounds_of: Mapping[str, ValueBounds],
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
            of_one_value = self.bounds_of_functions(node, changing, bounds_of)
            return min([sum(bounds, Fraction(0)), *of_one_value])
        if node.op in MOVES:
            return self.bound_of_moved(name, bounds_of)
        if node.op in ("Max", "Min") and self.have_shape(changing, name):
            return root_of_squares(bounds)
        changes_first_alone = changing == node.inputs[:1] and self.has_fixed_inputs(node)
        if not changes_first_alone:
            return None
        factor = factor_of_operator(self, name)
        if factor is None:
            return None
        return factor * bounds[0]

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
        self,
        name: str,
        bounds_of: Mapping[str, ValueBounds],
    ) -> Fraction | None:
        """Return a bound of a value by its factors of tokens; None without any."""
        total = Fraction(0)
        for start, factor in self.factors_of_tokens.get(name, []):
            bound = bounds_of[start].without_multipliers
            if bound is None:
                return None
            total += factor * bound
        return total or None

    def bounds_of_functions(
        self,
        node: Node,
        summands: Sequence[str],
        bounds_of: Mapping[str, ValueBounds],
    ) -> Iterator[Fraction]:
        """Yield bounds of a sum of functions of one value's entries (Networks, step 2).

        A summand may be the value itself, whose slope is 1.
        """
        arguments: list[dict[str, Slopes]] = []
        for summand in summands:
            arguments.append({summand: (1.0, 1.0)})
            before = self.nodes[summand]
            slopes = slopes_of(before)
            if slopes is not None and self.has_fixed_inputs(before):
                arguments[-1][before.inputs[0]] = slopes
        signs = (
            [1, -1] if node.op == "Sub" and len(summands) == 2 else [1] * len(summands)
        )
        for value in set.intersection(*map(set, arguments)):
            low = Fraction(0)
            high = Fraction(0)
            for sign, slopes_by_value in zip(signs, arguments, strict=True):
                ends = [sign * Fraction(end) for end in slopes_by_value[value]]
                low += min(ends)
                high += max(ends)
            bound = bounds_of[value].without_multipliers
            if bound is not None:
                yield bound * max(-low, high)

    def constant_of_part(self, part: Part, completion: Array) -> Fraction:
        """Return c with |q_n d_n| <= c |q_0 d_0| for a part's first and last value."""
        if not isinstance(part, Together):
            return constant_of_units(self, self.with_first_names(part))
        joint = self.joint(part)
        norm = proven_norm(
            joint.kernel,
            joint.layer,
            completion,
            part.exponent,
            joint.errors,
        )
        return growth(joint, norm) ** joint.depth * joint.factor

    def joint(self, part: Together) -> Joint:
        """Return the kernel whose norm proves a part."""
        return joint_of_part(self, self.with_first_names(part))

    def bound_by_part(
        self,
        part: Part,
        constant: Fraction,
        bounds_of: Mapping[str, ValueBounds],
    ) -> ValueBounds:
        """Return the bounds that a part proves of its last value from its first's."""
        start = part.values[0]
        op = self.nodes[start].op
        message = f"no bound is known of {plain(start)} (a {op}), where a part begins"
        if not part.multipliers:
            one_for_all = np.ones(1)
            first = bound_with_multipliers(bounds_of[start], one_for_all, message)
            return ValueBounds(first * constant, [])
        q_0 = part.multipliers[0]
        q_n = part.multipliers[-1]
        last = bound_with_multipliers(bounds_of[start], q_0, message) * constant
        least = Fraction(float(q_n.min()))
        return ValueBounds(last / least, [(q_n, last)])


def bound_with_multipliers(z_bounds: ValueBounds, q: Array, message: str) -> Fraction:
    """Return a bound of |q (z - z')| (Networks, step 3).

    ``q`` has one number for each channel, or one for all. Without any bound of z - z',
    the claim is refused with ``message``.
    """
    bounds = []
    if z_bounds.without_multipliers is not None:
        largest = Fraction(float(q.max()))
        bounds.append(z_bounds.without_multipliers * largest)
    for other, c in z_bounds.with_multipliers:
        if len(other) == len(q):
            ratio = float((q / other).max())
            bounds.append(c * Fraction(ratio) * ROUNDING)
    require(bounds, message)
    return min(bounds)


def link_of_part(part: Part, constant: Fraction) -> Link:
    """Return a bound of a part's last value by its first, without multipliers."""
    if not part.multipliers:
        return Link(part.values[0], constant)
    largest = Fraction(float(part.multipliers[0].max()))
    least = Fraction(float(part.multipliers[-1].min()))
    return Link(part.values[0], constant * largest / least)


def bound_by_link(link: Link, bounds_of: Mapping[str, ValueBounds]) -> ValueBounds:
    """Return the bound of a value that follows from that of an earlier one."""
    before = bounds_of[link.start].without_multipliers
    if before is None:
        return ValueBounds(None, [])
    return ValueBounds(link.factor * before, [])


def combine(first: ValueBounds, second: ValueBounds) -> ValueBounds:
    """Return the bounds of a value of which two lists of bounds are proven."""
    bounds = []
    for bound in (first.without_multipliers, second.without_multipliers):
        if bound is not None:
            bounds.append(bound)
    least = min(bounds, default=None)
    return ValueBounds(least, first.with_multipliers + second.with_multipliers)
