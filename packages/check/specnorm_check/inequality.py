"""Bound a value by an earlier one, through all units between them together, by Lemma 7.

The steps A to D are those of the README of this folder, section Lemma 7. Both values are
called the start and the end. A *unit* is what a function of an entry has besides a
multiple of the entry. All values between are linear in the start and in the units, so
that each has a matrix with one column for each entry of the start and for each unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from specnorm_check.arithmetic import UNDERFLOW, Array, frobenius_up, require
from specnorm_check.graphs import Graph
from specnorm_check.layers import LARGEST_MATRIX
from specnorm_check.matrices import (
    Size,
    Step,
    error_of_roundings,
    step_of,
    values_between,
)
from specnorm_check.moves import MOVES, moved, numbered
from specnorm_check.rules import slopes_of
from specnorm_check.statements import Part, plain

MOST_NUMBERS = 2**26  # of the matrices of all values between together
MOST_UNITS = 2**13  # units and entries of the start
ENTRY_ROUNDINGS = 16  # of a number of the form, besides those of a sum: 8 at most
UNIT = 2.0**-52  # twice 2^-53, for the products of roundings


class Function(NamedTuple):
    """A function of each entry: its slopes, and the numbers of its units.

    ``is_new`` says which entries have units that no earlier function has.
    """

    low: float
    high: float
    units: Array
    is_new: Array


def new_units(graph: Graph, start: str, end: str) -> dict[str, Array]:
    """Return the functions that a part lists: for each, which entries have new units."""
    between = values_between(graph, start, end)
    functions = functions_of(graph, start, between, math.prod(graph.shape_of(start)))
    return {name: f.is_new for name, f in functions.items() if f.is_new.any()}


class Form:
    """The quadratic form of Lemma 7 for a part, and bounds of the errors of its numbers.

    ``ends`` are the rows [D C] of the end, ``arguments`` the rows [B A] of the units.
    Their entries are correct up to ``error`` times the magnitudes.
    """

    @np.errstate(over="ignore", invalid="ignore")  # no such number proves anything
    def __init__(self, graph: Graph, part: Part) -> None:
        start = part.values[0]
        end = part.values[-1]
        between = values_between(graph, start, end)
        self.inputs = math.prod(graph.shape_of(start))
        functions = functions_of(graph, start, between, self.inputs)
        listed = [name for name, function in functions.items() if function.is_new.any()]
        is_same = [*part.values[1:-1]] == listed
        require(is_same, "a part lists other functions than those between its values")
        squares = self._squares(graph, part, functions)
        self.squares = np.concatenate([np.zeros(0), *squares])
        self.units = len(self.squares)
        columns = self.inputs + self.units
        entries = sum(math.prod(graph.shapes.get(x, ())) for x in (start, *between))
        require(columns <= MOST_UNITS, "a part has too many units")
        require(entries * columns < MOST_NUMBERS, "a part has too large a matrix")
        self.q_0, q_n = part.multipliers[0], part.multipliers[-1]
        require(self.q_0.shape == (1,), "a part of units begins with one multiplier")
        require(q_n.tolist() == [1.0], "a part of units ends with the multiplier 1")
        steps = {name: step_of(graph, name) for name in between}
        weights = sum(step.weights.size for step in steps.values())
        require(weights < LARGEST_MATRIX, "a part has too large layers")
        self.error = error_of_roundings(steps, start, end)

        identity = np.eye(self.inputs, columns).reshape(*graph.shape_of(start), columns)
        of_numbers, of_sizes = (
            matrices_of(steps, functions, start, identity, size)
            for size in (np.asarray, np.abs)
        )
        self.ends, self.arguments = of_numbers
        self.end_sizes, self.argument_sizes = of_sizes

    def _squares(
        self, graph: Graph, part: Part, functions: Mapping[str, Function]
    ) -> list[Array]:
        """Return the squares of the multipliers of the units of each function."""
        squares = []
        for name, q in zip(part.values[1:-1], part.multipliers[1:-1], strict=True):
            shape = graph.shape_of(name)
            channels = shape[1] if len(shape) > 1 else 1
            if len(q) == channels:
                q = np.broadcast_to(q.reshape(shape[1:2] + (1,) * len(shape[2:])), shape)
            message = f"{plain(name)} has neither a multiplier a channel nor an entry"
            require(q.size == math.prod(shape), message)
            squares.append(np.square(q.reshape(-1)[functions[name].is_new]))
        return squares

    # -- steps C and D ------------------------------------------------------------------
    @np.errstate(over="ignore", invalid="ignore")
    def is_nonnegative(self) -> bool:
        """Return whether the form is proven to be at least 0."""
        g = float(self.q_0[0])
        g_square = g * g * (1 - 2.0**-50)  # below g^2
        of_units = 2 * self.squares
        diagonal = np.concatenate([np.full(self.inputs, g_square), of_units])
        diagonal -= np.square(self.ends).sum(0)
        if not diagonal.min() > 0:
            return False
        s = 1 / np.sqrt(diagonal)
        is_moderate = s.min() > 2.0**-200 and s.max() < 2.0**200
        require(is_moderate, "a part has multipliers of very different sizes")
        rows = self.squares * s[self.inputs :]
        z = self.ends * s
        f = self.arguments * s * rows[:, np.newaxis]
        matrix = -(z.T @ z)
        matrix[self.inputs :] -= f
        matrix[:, self.inputs :] -= f.T
        squares = s * s
        of_start = g_square * squares[: self.inputs]
        on_diagonal = np.concatenate([of_start, of_units * squares[self.inputs :]])
        matrix[np.diag_indices(len(matrix))] += on_diagonal
        require(np.isfinite(matrix).all(), "a part has numbers that are not finite")

        # Step D: each summand is a norm of a matrix of errors.
        z_size = frobenius_up(z)
        f_size = frobenius_up(f)
        of_entry = Fraction(self.error + ENTRY_ROUNDINGS * UNIT)
        z_error = of_entry * frobenius_up(self.end_sizes * s)
        f_error = of_entry * frobenius_up(self.argument_sizes * s * rows[:, np.newaxis])
        products = (len(z) + ENTRY_ROUNDINGS) * Fraction(UNIT) * z_size**2
        largest = Fraction(float(on_diagonal.max()))
        sums = ENTRY_ROUNDINGS * Fraction(UNIT) * (z_size**2 + 2 * f_size + largest)
        of_rows = z_error * (2 * z_size + z_error) + 2 * f_error
        return self._has_factor(matrix, products + sums + of_rows + UNDERFLOW)

    def _has_factor(self, matrix: Array, error: Fraction) -> bool:
        """Return whether a factor L proves that a matrix is at least ``error``.

        With M - t I = L L^T + R, <x, M x> is at least (t - |R|) |x|^2, however L was
        computed.
        """
        n = len(matrix)
        t = 4 * float(error) + 8 * n * n * 2.0**-53
        shifted = matrix - t * np.eye(n)
        try:
            factor = np.linalg.cholesky(shifted)
        except np.linalg.LinAlgError:
            return False
        residual = shifted - factor @ factor.T
        roundings = (n + ENTRY_ROUNDINGS) * Fraction(UNIT) * frobenius_up(factor) ** 2
        of_shift = Fraction(UNIT) * (Fraction(float(np.abs(matrix).max())) + Fraction(t))
        return frobenius_up(residual) + roundings + 2 * of_shift + error <= Fraction(t)


# -- step A: units ---------------------------------------------------------------------
def functions_of(
    graph: Graph, start: str, between: Sequence[str], used: int
) -> dict[str, Function]:
    """Return the functions of entries between, with the numbers of their units.

    The entries of all values have numbers, which they keep where they are moved. Equal
    functions of entries of one number have one unit. ``used``: entries of the start,
    whose columns come first.
    """
    entries = 1 + used
    numbers = {start: numbered(graph.shape_of(start), 1)}
    functions: dict[str, Function] = {}
    known: dict[tuple[str, int, float], int] = {}
    for name in between:
        node = graph.nodes[name]
        if name in graph.written_out:
            numbers[name] = numbers[graph.written_out[name]]
            continue
        if node.op in MOVES:
            numbers[name] = moved(graph, name, numbers)
        else:
            numbers[name] = numbered(graph.shape_of(name), entries)
            entries += numbers[name].size
        slopes = slopes_of(node)
        if slopes is None:
            continue
        graph.require_fixed_inputs(node)
        kind = f"{node.op} {sorted(node.attributes.items())} {node.inputs[1:]}"
        units = []
        is_new = []
        read = numbers[node.inputs[0]]
        # Entries of one number may have different slopes of one PRelu.
        of_prelu = graph.arrays[node.inputs[1]] if node.op == "PRelu" else np.zeros(())
        of_entries = np.broadcast_to(of_prelu, read.shape).reshape(-1).tolist()
        for number, slope in zip(read.reshape(-1).tolist(), of_entries, strict=True):
            key = (kind, number, slope)
            # An entry of the number 0 is a constant, and may be a different one.
            is_new.append(number == 0 or key not in known)
            if is_new[-1]:
                known[key] = used
                used += 1
            units.append(known[key])
        functions[name] = Function(*slopes, np.array(units), np.array(is_new))
    return functions


def matrices_of(
    steps: Mapping[str, Step],
    functions: Mapping[str, Function],
    start: str,
    identity: Array,
    size: Size,
) -> tuple[Array, Array]:
    """Return the rows of the end, and those of the arguments of the units in order.

    ``size`` is applied to all numbers by which an operator multiplies.
    """
    columns = identity.shape[-1]
    matrices = {start: identity}
    rows = [np.zeros((0, columns))]
    for name, step in steps.items():
        sources = [matrices[source] for source in step.sources]
        if name not in functions:
            matrices[name] = step.apply(size(step.weights), sources)
            continue
        function = functions[name]
        argument = sources[0].reshape(-1, columns)
        low, wide = size(np.array([function.low, function.high - function.low]))
        rows.append(wide * argument[function.is_new])
        value = low * argument
        value[np.arange(len(argument)), function.units] += 1.0
        matrices[name] = value.reshape(sources[0].shape)
    return matrices[name].reshape(-1, columns), np.concatenate(rows)
