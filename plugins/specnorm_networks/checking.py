"""Whether a graph computes what its model computes: both are executed, value by value, before anything is claimed.

Each node is executed on the model's own values of its inputs, so that rounding errors do not add up from node to node:
what an operator makes of them may differ from the model's value by `Operator.rounding`, and by no more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from specnorm.errors import MethodError
from specnorm.proof import TranslationError, host, visible
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators.base import FloatArray, Linear, NotRunError, Operator, Place
from specnorm_networks.certified.operators.formats import smallest
from specnorm_networks.certified.operators.sources import Constant, Input, Random, Unknown
from specnorm_networks.certified.regions import Ball, Box
from specnorm_networks.model import Computed, Model, NotExecutedError, equal_but_for_rounding

Inputs: TypeAlias = dict[str, FloatArray]
_Make: TypeAlias = Callable[[tuple[int, ...]], FloatArray]
"""Gives numbers for an input of a shape."""
UNIT = 2.0**-53
WORK = 2**27
"""Multiplications of the probes together, beyond the first."""
HELD = 2**24
"""Most entries of values that are held at once; there is an error beside each."""
MOST = 7
"""Probes at most."""
FAR = 1e3
"""In place of infinity, where a box has no end."""
LARGE = 1e30
"""Constants beyond are infinite."""
SIZES = "give the input shape (input_shape=, --input-shape; also by name, as NAME=1x3x32x32)"
SCALES = 4
MIXED = 16
"""Inputs of one operator: of sizes, and of constants, at most."""
SLACK = 2**24
"""Roundings that lengths are taken to have."""


@dataclass(frozen=True, eq=False)
class Value:
    """A value, and by how much each entry may differ from the exact one of the same graph (to first order)."""

    value: FloatArray
    error: FloatArray | float = 0.0


def executed(node: Node, inputs: Sequence[Value], unit: float = UNIT) -> Value:
    """One node's value, and its error: what the operator rounds, and what it makes of its inputs' errors.

    Raises
    ------
    NotRunError
        If the operator cannot be executed here.
    """
    values = [each.value for each in inputs]
    with np.errstate(all="ignore"):
        try:
            found = node.operator.run(*values)
        except (ValueError, IndexError, TypeError, MemoryError) as error:
            raise NotRunError(f"{type(error).__name__}: {error}") from error
        lost = node.operator.rounding(values, found, unit)
        if any(np.any(each.error) for each in inputs):
            lost = lost + _moved(node.operator, inputs, found)
    return Value(found, lost)


def _moved(operator: Operator, inputs: Sequence[Value], found: FloatArray) -> FloatArray | float:
    """By how much a value moves while its inputs move by their errors."""
    wide = [np.broadcast_to(np.asarray(each.error, dtype=np.float64), each.value.shape) for each in inputs]
    linear = operator.linear_map(Place(tuple(each.value.shape for each in inputs), found.shape))
    if linear is not None:
        moved: FloatArray = linear.absolute([each[None] for each in wide])[0]
        return moved
    total: FloatArray | float = 0.0
    for sign in (1, -1):
        there = operator.run(*(each.value + sign * error for each, error in zip(inputs, wide, strict=True)))
        total = total + 2 * abs(there - found)
    return total


def run_with_errors(graph: Graph, inputs: Mapping[str, FloatArray]) -> Iterator[tuple[str, Value | None]]:
    """Every value in turn; None if it cannot be computed here, or more than `HELD` entries would be held.

    `MethodError` for a shape that is not the one that the graph states.
    """
    last = last_readers(graph)
    found: dict[str, Value] = {}
    held = 0
    for at, node in enumerate(graph.nodes):
        value = None
        if isinstance(node.operator, Input):
            if node.name in inputs:
                value = Value(np.asarray(inputs[node.name], dtype=np.float64))
        elif all(name in found for name in node.inputs) and held + math.prod(node.shape or ()) <= HELD:
            with suppress(NotRunError):
                value = executed(node, [found[name] for name in node.inputs])
        if value is not None:
            if node.shape not in (None, value.value.shape):
                said = f"Node {visible(node.name)} is said to have shape {node.shape}; it has {value.value.shape}."
                raise MethodError(f"{said} Constants depend on it: no bound is given.")
            found[node.name] = value
            held += value.value.size
        for name in last.get(at, ()):
            held -= found.pop(name).value.size if name in found else 0
        yield node.name, value


def last_readers(graph: Graph) -> dict[int, list[str]]:
    """Values that no node after one of a number reads, by the numbers."""
    last = {name: at for at, node in enumerate(graph.nodes) for name in (node.name, *node.inputs)}
    found: dict[int, list[str]] = {}
    for name, at in last.items():
        found.setdefault(at, []).append(name)
    return found


# -- how far values are apart ------------------------------------------------------------------------------------------
def moved_up(one: Inputs, other: Inputs) -> float:
    """Distance of all inputs together, at most."""
    return host.inflate(math.sqrt(sum(float(np.square(one[name] - other[name]).sum()) for name in one)), SLACK)


def apart_down(one: Value, other: Value) -> float:
    """Distance of two values at least, whatever rounding made; 0 where they are no numbers."""
    with np.errstate(all="ignore"):
        apart: FloatArray = abs(one.value - other.value) - host.inflate(np.asarray(one.error + other.error), SLACK)
        length = host.lowered(float(np.linalg.norm(np.where(np.isfinite(apart), np.maximum(apart, 0.0), 0.0))), SLACK)
    return length if math.isfinite(length) else 0.0


def inside(radius: float) -> float:
    """A distance of the centre that stays in a ball, however it is computed."""
    return host.lowered(radius, SLACK)


# -- inputs to execute a network on ------------------------------------------------------------------------------------
def sizes(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs that move, but for those of which a size is open."""
    found = {name: graph.by_name[name].shape for name in graph.inputs}
    return {name: shape for name, shape in found.items() if shape is not None}


def probes(graph: Graph, shapes: Mapping[str, tuple[int, ...]], region: Ball | Box | None = None) -> Iterator[Inputs]:
    """Inputs at random and with structure, in a region if one is given; fewer for large networks. Always the same."""
    count = 1 + min(MOST - 1, WORK // max(_work(graph, shapes), 1))
    return itertools.islice(samples(shapes, region), count)


def samples(shapes: Mapping[str, tuple[int, ...]], region: Ball | Box | None = None) -> Iterator[Inputs]:
    """The same without end."""
    rng = np.random.default_rng(0)
    found: Iterator[Inputs]
    if region is None:
        found = ({name: make(shape) for name, shape in shapes.items()} for make in _anywhere(rng))
    elif isinstance(region, Ball):
        found = _in_ball(region, rng)
    else:
        found = _in_box(region, shapes, rng)
    for inputs in found:
        yield {name: np.asarray(inputs[name]).reshape(shape) for name, shape in shapes.items()}


def _work(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiplications of one execution, roughly: entries of values times those that each is computed from."""
    total = 0
    most = max((math.prod(shape) for shape in shapes.values()), default=1)
    for node in graph.nodes:
        kernel = getattr(getattr(node.operator, "layer", None), "load", None)
        entries = math.prod(node.shape or (most,))
        fan = 1 if kernel is None else math.prod(kernel().shape[1:])
        total += 0 if isinstance(node.operator, Constant) else entries * fan
    return total


def _anywhere(rng: np.random.Generator) -> Iterator[_Make]:
    yield rng.standard_normal
    yield _one_pixel
    yield lambda shape: -abs(rng.standard_normal(shape))
    yield lambda shape: np.round(2 * rng.standard_normal(shape)) / 2  # ties
    yield lambda shape: np.full(shape, 0.75)
    yield lambda shape: 30 * rng.standard_normal(shape)
    yield np.zeros
    while True:
        yield _scaled(rng)


def _scaled(rng: np.random.Generator) -> _Make:
    scale = 4.0 ** rng.uniform(-3, 1)
    return lambda shape: scale * rng.standard_normal(shape)


def beside(
    shapes: Mapping[str, tuple[int, ...]], numbers: Sequence[float], rng: np.random.Generator, *, linear: bool
) -> Iterator[Inputs]:
    """Inputs of one operator: at random, of sizes that its constants have, and at and beside each of these."""
    yield {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    if linear:
        return
    finite = sorted({abs(c) for c in numbers if 0 < abs(c) < LARGE})
    # Squares are compared with what is added to them.
    for scale in [30.0, *(math.sqrt(c) for c in finite if c < 0.5)][:SCALES]:
        yield {name: scale * rng.standard_normal(shape) for name, shape in shapes.items()}
    near = [b for c in finite for b in (c, c - np.spacing(c), c + np.spacing(c), c / 2, 1.5 * c)]
    points = rng.permutation([0.0, *near, *(-b for b in near)])
    most = max(map(math.prod, shapes.values()), default=0)
    for at in range(0, min(len(points), MIXED * most), max(most, 1)):
        yield {name: np.resize(np.roll(points, -at), shape) for name, shape in shapes.items()}


def _one_pixel(shape: tuple[int, ...]) -> FloatArray:
    found = np.zeros(shape)
    if found.size:
        found.reshape(-1)[found.size // 2] = 1.0
    return found


def _in_ball(region: Ball, rng: np.random.Generator) -> Iterator[Inputs]:
    """The centre, then points at random: all inputs together lie in the ball."""
    yield dict(region.centre)
    while True:
        away = {name: rng.standard_normal(centre.shape) for name, centre in region.centre.items()}
        length = math.sqrt(sum(float(np.square(each).sum()) for each in away.values())) or 1.0
        share = inside(region.radius) * rng.uniform(0, 1) / length
        yield {name: centre + share * away[name] for name, centre in region.centre.items()}


def _in_box(region: Box, shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator) -> Iterator[Inputs]:
    """Both corners, then points at random; what is infinite counts as `FAR`."""
    low, high = (
        {name: np.broadcast_to(np.clip(ends[name], -FAR, FAR), shape) for name, shape in shapes.items()}
        for ends in (region.low, region.high)
    )
    yield low
    yield high
    while True:
        yield {name: rng.uniform(low[name], high[name]) for name in low}


SMALLEST = 2.0**-126
"""Single precision's smallest normal number: what is smaller may be flushed to zero."""
PRECISE = 2.0**-40
"""Unit roundoff that is allowed to functions in double precision."""
SMALL = 16
"""Entries of constants beside which operators are compared."""
SAMPLES = (2, 3, 16)
"""Numbers of samples that are executed together."""
DIFFERENT = 3
"""Of them are different."""


@dataclass(frozen=True)
class Checked:
    """What was compared.

    Parameters
    ----------
    inputs : int
        Inputs on which graph and model were executed; 0: nothing was compared.
    values : int
        Values of the graph that were compared.
    missed : tuple of str
        Values that were not: the model does not name them, or they cannot be computed here.
    difference : float
        Largest difference, as a part of what rounding may make.
    samples : tuple of int
        Numbers of samples together for which the outputs are those of each sample by itself.
    reason : str
        Why nothing was compared; empty for graphs made by hand.
    pairs : int
        Pairs of inputs by which the answer was attacked; see `attack`.
    reached : float
        Largest ratio of the outputs' distance to the inputs' that they reached, in float64.
    alone : int
        Values of the graph that were compared one by one in double precision besides.
    """

    inputs: int = 0
    values: int = 0
    missed: tuple[str, ...] = ()
    difference: float = 0.0
    samples: tuple[int, ...] = ()
    reason: str = ""
    pairs: int = 0
    reached: float = 0.0
    alone: int = 0

    @property
    def complete(self) -> bool:
        """Whether every value that the outputs are computed from was compared."""
        return self.inputs > 0 and not self.missed

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    def __str__(self) -> str:
        """One sentence."""
        if not self.inputs:
            return f"Not compared with the model: {self.reason or 'the graph was made by hand'}."
        missed = f", {len(self.missed)} could not be compared" if self.missed else ""
        several = " and ".join(filter(None, (", ".join(map(str, self.samples[:-1])), *map(str, self.samples[-1:]))))
        together = f"; {several} samples together give what each gives by itself" if self.samples else ""
        return f"Compared with the model on {self.inputs} inputs: {self.values} values agree{missed}{together}."


def check(graph: Graph, read: Graph, region: Ball | Box | None = None) -> Checked:
    """Execute a graph beside its model.

    Parameters
    ----------
    graph : Graph
        As it was translated.
    read : Graph
        The same with patterns recognised, of which the bound will speak.
    region : Ball or Box, optional
        Where the inputs stay.

    Raises
    ------
    TranslationError
        If a value differs by more than rounding. The message names the first such node, both numbers and the operator.
    MethodError
        If a size of an input is open.
    """
    if graph.model is None:
        return Checked()
    shapes = sizes(graph)
    if missing := [visible(name) for name in graph.inputs if name not in shapes]:
        raise MethodError(f"not all sizes of {', '.join(missing)} are stated: {SIZES}.")
    try:
        return _compared(graph, read, graph.model, shapes, region)
    except NotExecutedError as error:
        return Checked(reason=str(error))


def _compared(
    graph: Graph, read: Graph, model: Model, shapes: Mapping[str, tuple[int, ...]], region: Ball | Box | None
) -> Checked:
    compared: set[str] = set()
    ran: set[str] = set()
    largest, count = 0.0, 0
    for inputs in probes(graph, shapes, region):
        theirs = model.values(inputs)
        for each, done in ((graph, None), (read, graph)):
            found = _Walk(each, inputs, theirs, done)
            compared |= found.compared
            ran |= found.ran
            largest = max(largest, found.largest)
        count += 1
    alone = _Alone(graph)
    with suppress(NotExecutedError):
        model.alone(next(samples(shapes, region)), alone)
    several = _several(graph, model, shapes, region)
    return Checked(count, len(compared), _missed(read, compared, ran), largest, several, alone=len(alone.compared))


def _missed(graph: Graph, compared: set[str], ran: set[str]) -> tuple[str, ...]:
    """Values that the outputs need, and that were compared neither themselves nor through all that is made of them."""
    covered = set(compared)
    readers: dict[str, list[str]] = {}
    found = []
    for node in reversed(graph.pruned().nodes):
        made = readers.get(node.name, [])
        inner = bool(made) and node.name not in graph.outputs
        through = node.name in ran and covered.issuperset(made) and (inner or node.derived)
        if node.name in covered or through or isinstance(node.operator, Input | Constant):
            covered.add(node.name)
        else:
            found.append(node.name)
        for name in node.inputs:
            readers.setdefault(name, []).append(node.name)
    return tuple(reversed(found))


class _Walk:
    """Compares every value of a graph, for one input, but for those that are computed in the same way in another one.

    ``done``: that graph, all of whose values were compared.
    """

    def __init__(self, graph: Graph, inputs: Inputs, theirs: Mapping[str, Computed], done: Graph | None = None) -> None:
        known_before = {} if done is None else done.by_name
        self.compared: set[str] = set()
        self.ran: set[str] = set()
        self.largest = 0.0
        known: dict[str, Value] = {}
        units: dict[str, float] = {}
        last = last_readers(graph)
        for at, node in enumerate(graph.nodes):
            given = theirs.get(node.name)
            if isinstance(node.operator, Input):
                if given is not None or node.name in inputs:
                    known[node.name] = Value(inputs[node.name] if given is None else given.value)
                    units[node.name] = 2.0**-53 if given is None else given.unit
            elif given is not None and _alike_in(node, known_before.get(node.name)) and theirs.keys() >= {*node.inputs}:
                known[node.name], units[node.name] = Value(given.value), given.unit
            else:
                self._node(node, given, known, units)
            for name in last.get(at, ()):
                known.pop(name, None)

    def _node(self, node: Node, given: Computed | None, known: dict[str, Value], units: dict[str, float]) -> None:
        """Compute one value from the model's, and compare it with the model's own."""
        if all(name in known for name in node.inputs):
            units[node.name] = max([*(units[name] for name in node.inputs), given.unit if given else 2.0**-53])
            try:
                ours = executed(node, [known[name] for name in node.inputs], units[node.name])
            except NotRunError:
                pass
            else:
                known[node.name] = ours
                self.ran.add(node.name)
                if given is not None:
                    # Of infinities a map with zeros makes what is no number.
                    overflown = any(not np.isfinite(known[name].value).all() for name in node.inputs)
                    if node.shape not in (None, given.value.shape):
                        raise _refusal(node, f"has shape {node.shape} in the graph, {given.value.shape} in the model")
                    self.largest = max(self.largest, _agree(node, ours, [given], units[node.name], overflown))
                    self.compared.add(node.name)
        if given is not None:
            known[node.name], units[node.name] = Value(given.value), given.unit


def _alike_in(node: Node, other: Node | None) -> bool:
    return other is not None and node.operator is other.operator and node.inputs == other.inputs


def _agree(node: Node, ours: Value, theirs: Sequence[Computed], unit: float, overflown: bool) -> float:
    """By how much a value differs from the nearest of the model's, as a part of what rounding may make.

    Raises
    ------
    TranslationError
        If it is more.
    """
    if any(ours.value.shape != each.value.shape for each in theirs):
        raise _refusal(node, f"has shape {ours.value.shape} in the graph, {theirs[0].value.shape} in the model")
    with np.errstate(all="ignore"):
        # Functions of subnormal numbers have no relative errors.
        allowed = 2 * np.asarray(ours.error) + max(SMALLEST, 16 * smallest(unit))
        share = np.min([_share(ours.value, each.value, allowed, overflown) for each in theirs], axis=0)
    worst = float(np.max(share, initial=0.0))
    if worst > 1:
        at = np.unravel_index(int(np.argmax(share)), share.shape)
        place = ", ".join(str(int(n)) for n in at)
        mine, other = float(ours.value[at]), float(theirs[0].value[at])
        raise _refusal(
            node, f"is {mine!r} at [{place}] in the graph and {other!r} in the model, {worst:.3g} times what rounding "
            "can make",
        )  # fmt: skip
    return worst


def _share(ours: FloatArray, theirs: FloatArray, allowed: FloatArray, overflown: bool) -> FloatArray:
    share = np.asarray(abs(ours - theirs) / allowed)
    # What overflows in the model's precision is no value; what is none in both is the same.
    counts = np.isfinite(theirs) & (np.isfinite(ours) | (np.isnan(ours) & (not overflown)))
    share[~counts] = 0.0
    share[np.isnan(share)] = math.inf
    return share


class _Alone:
    """Compares operators one by one, on inputs that are made for each: see `model.Trial`."""

    def __init__(self, graph: Graph) -> None:
        self.nodes = graph.by_name
        self.order = {node.name: at for at, node in enumerate(graph.nodes)}
        self.rng = np.random.default_rng(0)
        self.compared: set[str] = set()

    def __call__(
        self,
        name: str,
        values: Mapping[str, FloatArray],
        free: set[str],
        numbers: Sequence[float],
        run: Callable[[Mapping[str, FloatArray]], Sequence[Computed]],
    ) -> None:
        """Compare one operator with the nodes that it was translated to."""
        nodes = self._nodes(name, values)
        linear = all(isinstance(node.operator, Linear | Constant) for node in nodes)
        made = itertools.chain.from_iterable(map(_numbers, nodes))
        # What the graph does not name is a constant there.
        shapes = {each: values[each].shape for each in free if each in self.nodes}
        for found in beside(shapes, [*numbers, *made], self.rng, linear=linear) if nodes and shapes else ():
            inputs = {**values, **found}
            try:
                theirs = run(inputs)
            except Exception:  # no input of this operator
                continue
            self._compare(nodes, inputs, theirs)

    def _nodes(self, name: str, values: Mapping[str, FloatArray]) -> list[Node]:
        """What is between some values and another one, in order; nothing if other values of the model are."""
        found: dict[str, Node] = {}
        waiting = [name]
        while waiting:
            node = self.nodes.get(waiting.pop())
            inner = node is not None and (isinstance(node.operator, Constant) or node.name.startswith(name))
            if node is None or not inner or isinstance(node.operator, Input | Unknown | Random):
                return []
            found[node.name] = node
            waiting += [each for each in node.inputs if each not in values and each not in found]
        return sorted(found.values(), key=lambda node: self.order[node.name])

    def _compare(self, nodes: list[Node], inputs: Mapping[str, FloatArray], theirs: Sequence[Computed]) -> None:
        known = {name: Value(np.asarray(value)) for name, value in inputs.items()}
        unit = max(PRECISE, *(each.unit for each in theirs))
        try:
            for node in nodes:
                known[node.name] = executed(node, [known[name] for name in node.inputs], unit)
        except NotRunError:
            return
        _agree(nodes[-1], known[nodes[-1].name], theirs, unit, overflown=False)
        self.compared.add(nodes[-1].name)


def _numbers(node: Node) -> Iterator[float]:
    for _, value in node.operator.named():
        with suppress(TypeError, ValueError):  # no number
            found = np.asarray(value, dtype=np.float64)
            yield from found.reshape(-1).tolist() if found.size <= SMALL else ()


def _refusal(node: Node, what: str) -> TranslationError:
    label = node.label or type(node.operator).__name__
    return TranslationError(
        f"The network is not read as it computes: value {visible(node.name)} ({visible(label)}, read as "
        f"{type(node.operator).__name__}) {what}. No bound is given. Please report the operator and its arguments."
    )


def _several(
    graph: Graph, model: Model, shapes: Mapping[str, tuple[int, ...]], region: Ball | Box | None
) -> tuple[int, ...]:
    """Numbers of samples together for which outputs are those of each sample by itself.

    Outputs of deep networks for several samples are summed in other orders: the root of the unit roundoff is allowed.
    """
    if any(not shape or shape[0] != 1 for shape in shapes.values()):
        return ()
    agreed = []
    nodes, unknown = graph.by_name, _unknown(graph)
    given = list(itertools.islice(samples(shapes, region), DIFFERENT))
    alone: list[dict[str, Computed]] = []
    for count in SAMPLES:
        places = [at % DIFFERENT for at in range(count)]
        found = model.several({name: np.concatenate([given[at][name] for at in places]) for name in shapes})
        if found is None:
            continue
        if not alone:
            values = (model.values(inputs) for inputs in given)
            alone = [{name: each[name] for name in graph.outputs if name in each} for each in values]
        outputs = [name for name in graph.outputs if name in found and name not in unknown]
        same = [_alike(nodes[n], found[n], [alone[at][n] for at in places], count) for n in outputs]
        if same and all(same):
            agreed.append(count)
    return tuple(agreed)


def _unknown(graph: Graph) -> set[str]:
    """Values that have no bound whatever the inputs are, of one sample or of several."""
    found: set[str] = set()
    for node in graph.nodes:
        if isinstance(node.operator, Unknown | Random) or not found.isdisjoint(node.inputs):
            found.add(node.name)
    return found


def _alike(node: Node, together: Computed, alone: list[Computed], count: int) -> bool:
    """Whether an output is, for several samples, what it is for each, along any axis.

    Raises
    ------
    TranslationError
        If it is not.
    """
    for axis in range(alone[0].value.ndim):
        apart = Computed(np.concatenate([each.value for each in alone], axis), together.unit)
        if equal_but_for_rounding(together, apart):
            return True
    raise TranslationError(
        f"The model gives another output for {count} samples together than for each by itself ({visible(node.name)}): "
        "a bound for one sample says nothing of several. Give an input with the number of samples that is meant."
    )
