"""Prove the constant of a value from those of the blocks of which the branches between two values consist.

Let x be the value at which the branches begin, v the value in which they meet, and write d for the difference that a
change of x makes. The entries of x are divided into disjoint *atoms*, and a_j = |dx_j| is the change of atom j.

*A block* is the value of a node that mixes entries: of a layer, of any operator with a known constant, of a sum. Its
change is at most N(a), where N is made of the rules below. Every such N is a norm on vectors a >= 0, monotone in each
a_j. Only a matrix Q with entries >= 0 is kept, such that ``N(a)^2 <= a^T Q a`` for all a >= 0. So entries of Q may
always be rounded up.

*Entries.* All other nodes move entries, or apply functions to each of them. Each entry of their values is a function of
one entry of x, or of one entry of a block, and has a constant. For such a value z,

    |dz|^2 <= sum_j m_j a_j^2 + sum_b m_b N_b(a)^2,

where m is the largest sum of squared constants of the functions of one entry of the atom j, or of the block b.

*A map with the constant L* of such a value: N(a) = L |dz|, and Q is multiplied by L^2. *The largest or smallest* of
several values: their Q are added.

*A sum* with the weights t_i: ``N(a) = sum_i t_i N_i(a)``. By Cauchy and Schwarz, Q = sum_i (t_i^2 / p_i) Q_i for any
p_i > 0 with the sum 1. Since N_i is a norm, N_i(a) <= sum_j a_j N_i(e_j), with N_i(e_j)^2 <= (Q_i)_jj: so Q = r r^T for
``r_j = sum_i t_i (Q_i)_jj^(1/2)``, too. Of both, the Q with the smaller norm is taken.

For v, ``|dv|^2 <= a^T Q a <= M |a|^2 = M |dx|^2`` for the largest eigenvalue M of the symmetric matrix Q with entries
>= 0. It is at most the largest (Q p)_j / p_j, for any vector p > 0 (Collatz [1]_).

.. [1] Collatz, "Einschliessungssatz fuer die charakteristischen Zahlen von Matrizen", Math. Z. 48, 1942.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import HypothesisError, Upper, host, make_upper
from specnorm_networks.certified.graph import Node
from specnorm_networks.certified.operators.base import UNDERFLOW, FloatArray, LinearMap
from specnorm_networks.certified.rules import Scope, map_of_claim
from specnorm_networks.certified.subjects import Map

MOST_NODES = 512
"""Largest number of nodes between both values."""
MOST_ENTRIES = 2**23
"""Largest number of entries of all values between, together."""
MOST_ATOMS = 64
"""Largest number of atoms; if the branches read more sets of entries, all entries are one."""
MOST_STARTS = 3
"""Largest number of values with respect to which a constant is proven."""


def claims_of_blocks(
    scope: Scope,
    end: Node,
    is_fixed: Callable[[str], bool],
    constants: Mapping[str, Sequence[Upper]],
) -> Iterator[Upper]:
    """Prove constants of a value with respect to values from which all of its branches come.

    ``is_fixed``: whether a value, by its name, stays the same for all inputs. ``constants``: constants of maps to a
    value from an earlier one, by its name. A sum with such a constant is one block by it, or a sum: both are tried.
    """
    for sums_by_constant in (True, False):
        walk = _Walk(scope, is_fixed, constants, sums_by_constant)
        yield from walk.claims(end)
        if not walk.met_sum_with_constant:
            return


@dataclass(frozen=True, eq=False)
class _Step:
    """A node between both values: how its entries, or its change as a block, follow from what it reads."""

    node: Node
    sources: tuple[str, ...]
    """Names of the values that it reads and that may change."""
    constant: Upper | None = None
    """Constant of the map from the only source; None: by its entries, or as a sum or a selection."""

    of_entries: Upper | None = None
    """Constant of a function that is applied to each entry of the only source."""

    @property
    def is_block(self) -> bool:
        return self.constant is not None or _joins_values(self.node)


def _joins_values(node: Node) -> bool:
    """Whether the changes of several values join in each entry: in a sum, or a selection that depends on them."""
    return node.operator.joins is not None and not node.only_moves_entries


def _by_constant(node: Node, constant: Upper) -> _Step:
    return _Step(node, (map_of_claim(constant).start,), constant)


@dataclass(eq=False)
class _Walk:
    """A walk from a value back to those from which all of its branches come."""

    scope: Scope
    is_fixed: Callable[[str], bool]
    constants: Mapping[str, Sequence[Upper]]
    sums_by_constant: bool
    met_sum_with_constant: bool = False

    def claims(self, end: Node) -> Iterator[Upper]:
        """Prove a constant with respect to each value that is left alone, up to `MOST_STARTS`."""
        steps: list[_Step] = []
        waiting = {end.name}
        starts = 0
        entries = 0
        while starts < MOST_STARTS and len(steps) < MOST_NODES:
            last = self.scope.graph.by_name[max(waiting, key=self.scope.graph.positions.__getitem__)]
            step = self._step(last)
            entries += math.prod(last.shape or ())
            if step is None or last.shape is None or entries > MOST_ENTRIES:
                return
            steps.append(step)
            waiting = waiting - {last.name} | {*step.sources}
            if len(waiting) > 1:
                continue
            (start,) = waiting
            moves_entries = any(not each.is_block and each.node.function is None for each in steps)
            if moves_entries and self.scope.graph.by_name[start].shape is not None:
                claim = _Blocks(self.scope, start, steps[::-1]).claim()
                if claim is not None:
                    yield claim
                starts += 1
            if step.is_block:
                return

    def _step(self, node: Node) -> _Step | None:
        """Return how a node's change follows from what it reads; None if that is unknown."""
        sources = tuple(dict.fromkeys(name for name in node.inputs if not self.is_fixed(name)))
        if not sources:
            return None
        known = self.constants.get(node.name, ())
        for claim in known:
            if not isinstance(claim.what, Map) or claim.what != self.scope.map(claim.what.start, node.name):
                raise HypothesisError(f"{claim.what} is no map to {node.name}")
        of_several = len([name for name in node.inputs if not self.is_fixed(name)]) > 1
        if _joins_values(node) and of_several:
            self.met_sum_with_constant |= bool(known)
            if known and self.sums_by_constant:
                return _by_constant(node, min(known, key=float))
            return _Step(node, sources)
        direct = [claim for claim in known if map_of_claim(claim).start in sources]
        if node.function is not None:
            return _Step(node, sources, of_entries=direct[0]) if direct else None
        is_move = node.only_moves_entries
        is_folded = bool(known) and not direct and not of_several  # into the layer before
        if not is_folded and (is_move or node.is_diagonal):
            return _Step(node, sources)
        return _by_constant(node, known[0]) if known and not of_several else None


@dataclass(frozen=True, eq=False)
class _Reading:
    """The entries of a value as functions of entries of the start and of blocks, those that change alone."""

    numbers: NDArray[np.intp]
    squares: FloatArray
    """Squared constants of the functions, rounded up."""

    @classmethod
    def of(cls, value: FloatArray) -> _Reading:
        """``value``: numbers and constants, shape (2, *shape); the number of an entry that does not change is 0."""
        numbers, constants = value.reshape(2, -1)
        changes = numbers > 0
        squares = host.inflate(np.square(constants[changes]), 1) + UNDERFLOW
        return cls(numbers[changes].astype(np.intp), squares)


@dataclass(frozen=True, eq=False)
class _Block:
    """What a block reads, each with a weight."""

    readings: list[_Reading]
    weights: list[float]
    is_sum: bool
    """Whether norms are added; else their squares are."""
    entries: range
    """Numbers of its own entries."""


@dataclass(eq=False)
class _Blocks:
    """The steps between two values, in the order of computation."""

    scope: Scope
    start: str
    steps: list[_Step]
    blocks: list[_Block] = field(default_factory=list)

    def claim(self) -> Upper | None:
        """Return the constant as a claim; None if a shape or a map is not known, or if numbers are too large."""
        count = math.prod(self.scope.graph.by_name[self.start].shape or ())
        last = self._read_entries(count) if count else None
        if last is None:
            return None
        atoms = self._atoms(count, last)
        with np.errstate(over="ignore", invalid="ignore"):
            forms: list[FloatArray] = []
            for block in self.blocks:
                forms.append(self._form_of_block(block, atoms, forms))
            form = self._form(last, atoms, forms)
            largest = _eigenvalue_up(form) if np.isfinite(form).all() else math.inf
        if not math.isfinite(largest):
            return None
        constants = [constant for step in self.steps for constant in (step.constant, step.of_entries)]
        premises = [constant for constant in constants if constant is not None]
        what = self.scope.map(self.start, self.steps[-1].node.name)
        return make_upper(host.sqrt_up(largest), what, "blocks", *dict.fromkeys(premises))

    # -- entries -----------------------------------------------------------------------------------------------------
    def _read_entries(self, count: int) -> _Reading | None:
        """Return what the last value reads, and append the `blocks`; None if a shape or a map is not known.

        ``count``: number of entries of the start.
        """
        shape = self.scope.graph.by_name[self.start].shape or ()
        numbers = np.arange(1.0, count + 1).reshape(shape)  # 0 is the number of no entry
        values = {self.start: np.stack([numbers, np.ones(shape)])}
        last = count
        for step in self.steps:
            value: FloatArray | None
            if step.is_block:
                size = math.prod(step.node.shape or ())
                block = self._block(step, values, range(last + 1, last + 1 + size))
                if block is None:
                    return None
                self.blocks.append(block)
                own_numbers = np.arange(last + 1.0, last + 1 + size).reshape(step.node.shape or ())
                value = np.stack([own_numbers, np.ones(own_numbers.shape)])
                last += size
            else:
                value = self._moved(step, values)
            if value is None:
                return None
            values[step.node.name] = value
        return _Reading.of(values[self.steps[-1].node.name])

    def _block(self, step: _Step, values: Mapping[str, FloatArray], entries: range) -> _Block | None:
        """Return what a block reads, with weights, and the numbers ``entries`` of its own; None if a shape is unknown.

        ``values``: numbers and constants of the entries of earlier values, (2, *shape).
        """
        if step.constant is not None:
            return _Block([_Reading.of(values[step.sources[0]])], [step.constant.value], True, entries)
        place = self.scope.graph.place(step.node)
        if place.known_shapes() is None:
            return None
        weights = step.node.operator.shares([float(name in values) for name in step.node.inputs], place)
        read = [
            (values[name], weight) for name, weight in zip(step.node.inputs, weights, strict=True) if name in values
        ]
        readings = [_Reading.of(value) for value, _ in read]
        return _Block(readings, [weight for _, weight in read], step.node.operator.joins == "sum", entries)

    def _moved(self, step: _Step, values: Mapping[str, FloatArray]) -> FloatArray | None:
        """Return numbers of entries and constants after a node that moves entries or applies a function to each."""
        node = step.node
        if step.of_entries is not None:
            numbers, constants = values[step.sources[0]]
            constant = step.of_entries.value
            return np.stack([numbers, constants if constant == 1 else host.next_up(constants * constant)])
        place = self.scope.graph.place(node)
        shapes = place.known_shapes()
        linear = self.scope.graph.linear_map(node)
        if shapes is None or linear is None:
            return None
        inputs = []
        for name, shape in zip(node.inputs, shapes, strict=True):
            inputs.append(values[name] if name in values else np.zeros((2, *shape)))
        return _scaled(linear, inputs[0]) if node.is_diagonal else linear.apply(inputs)

    # -- atoms and forms ---------------------------------------------------------------------------------------------
    def _atoms(self, count: int, last: _Reading) -> NDArray[np.intp]:
        """Return for each entry of the start the number of its atom: entries that are read together have one."""
        atoms = np.zeros(count, np.intp)
        for reading in [*(reading for block in self.blocks for reading in block.readings), last]:
            is_read = np.bincount(reading.numbers[reading.numbers <= count], minlength=count + 1)[1:] > 0
            _, atoms = np.unique(2 * atoms + is_read, return_inverse=True)
            if atoms.max() >= MOST_ATOMS:
                return np.zeros(count, np.intp)
        return atoms

    def _form(self, reading: _Reading, atoms: NDArray[np.intp], forms: Sequence[FloatArray]) -> FloatArray:
        """Return Q of what is read, from those of the blocks."""
        last = self.blocks[-1].entries.stop if self.blocks else len(atoms) + 1
        # For each entry the sum of squared constants of its functions.
        most = int(np.bincount(reading.numbers).max(initial=1))
        sums = np.asarray(host.inflate(np.bincount(reading.numbers, reading.squares, last), most + 1))
        largest = np.zeros(int(atoms.max()) + 1)
        np.maximum.at(largest, atoms, sums[1 : len(atoms) + 1])
        form = np.diag(largest)
        for block, of_block in zip(self.blocks, forms, strict=False):
            m = sums[block.entries.start : block.entries.stop].max(initial=0.0)
            if m:
                form = host.inflate(form + m * of_block, 2) + UNDERFLOW
        return np.asarray(form)

    def _form_of_block(self, block: _Block, atoms: NDArray[np.intp], forms: Sequence[FloatArray]) -> FloatArray:
        parts = [self._form(reading, atoms, forms) for reading in block.readings]
        squares = [float(host.inflate(weight * weight, 1)) + UNDERFLOW for weight in block.weights]
        if not block.is_sum or len(parts) == 1:
            return _sum_up([square * part for square, part in zip(squares, parts, strict=True)])
        roots = [host.next_up(np.sqrt(np.diagonal(part))) for part in parts]
        r = _sum_up([weight * root for weight, root in zip(block.weights, roots, strict=True)])
        as_one_row = host.inflate(np.outer(r, r), 1) + UNDERFLOW
        sizes = [weight * math.sqrt(_norm(part)) for weight, part in zip(block.weights, parts, strict=True)]
        total = sum(sizes)
        if not 0 < min(sizes) <= total < math.inf:
            return np.asarray(as_one_row)
        # Each share p is a size by the total: its inverse, rounded up, is at least that of a share of the sum 1.
        inverses = [float(host.inflate(total / size, len(sizes) + 2)) for size in sizes]
        terms = [inverse * square * part for inverse, square, part in zip(inverses, squares, parts, strict=True)]
        by_shares = _sum_up([host.inflate(term, 1) for term in terms])
        return min(np.asarray(as_one_row), by_shares, key=_norm)


def _scaled(linear: LinearMap, value: FloatArray) -> FloatArray:
    """Return numbers of entries and constants, shape (2, *shape of the value), after a multiplication of each entry."""
    numbers, constants = value
    (products,) = linear.absolute([constants[None]])
    scaled = host.inflate(products, linear.roundings + 4) + UNDERFLOW
    (copies,) = np.broadcast_arrays(numbers, scaled)[:1]
    return np.stack([copies, scaled])


def _sum_up(terms: Sequence[FloatArray]) -> FloatArray:
    """Return the sum of arrays >= 0 that have one rounding each, rounded up."""
    return np.asarray(host.inflate(np.sum(terms, axis=0), len(terms) + 1) + UNDERFLOW)


def _norm(form: FloatArray) -> float:
    """Return roughly the largest eigenvalue of Q."""
    return float(np.linalg.norm(form, 2)) if np.isfinite(form).all() else math.inf


def _eigenvalue_up(form: FloatArray) -> float:
    """Bound the largest eigenvalue of Q from above, by (Q p)_j / p_j."""
    _, vectors = np.linalg.eigh(form)
    p = np.abs(vectors[:, -1])
    best = math.inf
    for _ in range(8):
        p = np.maximum(p / p.max(), 2.0**-40)
        products = host.inflate(form @ p, len(p) + 1) + UNDERFLOW
        best = min(best, float(np.max(host.next_up(products / p))))
        p = products
    return best
