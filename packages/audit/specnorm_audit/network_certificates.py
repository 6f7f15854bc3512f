"""Write a network's certificate: the claim about its constant, in parts, each with the kernel H that proves it.

A part is one layer, or several layers in a row for which a search has found multipliers. ``specnorm_check``, which
shares no code with this package, proves each part and combines them. Nothing in this file is trusted.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from specnorm_check import LAYER_OPERATORS, Claim, Network, Part, Refused, Together, float_up, plain
from specnorm_check import Units as AllUnits
from specnorm_check.branches import starts_of
from specnorm_check.inequality import MOST_NUMBERS, MOST_UNITS, Form, new_units
from specnorm_check.matrices import step_of
from specnorm_check.moves import MOVES
from specnorm_check.networks import ValueBounds
from specnorm_check.rules import slopes_of
from specnorm_networks.tools import RATE, Inequality, NetworkBound, Proposal, RunBound, Units, proposals

from specnorm.errors import CertificateError
from specnorm.proof import Clock
from specnorm_audit.layer_certificates import (
    AIM,
    COLUMNS,
    MATRIX_AIM,
    WORTH,
    Certificate,
    FloatArray,
    search_completion,
)

ABOVE_PRODUCT = 0.01
"""Relative distance by which a certified constant may be above the product of the norms; a larger one is refused."""
LEAST_AIM = 1e-3
"""Smallest relative distance from the norm with which H is searched for a convolution."""
WIDEST = 640
"""Largest number of channels on the smaller side of a kernel of several layers. A search for H with that many takes
minutes and 1.5 GB."""
MARGINS = (1e-5, 1e-4, 1e-3, 8e-3)
"""Relative distances from the bound of a whole network that are tried, in order."""
CLOSE = 5e-3
"""Relative distance from the network's bound below which no further parts are tried."""
LOOSE = 0.01
"""Relative distance from the network's bound above which a certificate names the rules that the checker lacks."""
OTHER_FUNCTIONS = "other functions, or functions of several operators"
OF_SEVERAL_VALUES = "products, quotients and normalizations of several values"
TOO_LARGE = "multipliers of layers that are too large for one matrix inequality"
MAXIMA = "maxima and sorting of many entries, or of padded images"
OTHER_MAPS = "other linear maps"
LACKING = (MAXIMA, OTHER_FUNCTIONS, OTHER_MAPS, OF_SEVERAL_VALUES, TOO_LARGE)
"""Rules that the checker lacks."""
OPERATORS = {
    MAXIMA: {"GlobalMaxPool", "Max", "MaxPool", "Min", "ReduceMax", "ReduceMin", "TopK"},
    OTHER_MAPS: {
        "AveragePool", "Col2Im", "CumSum", "DFT", "Einsum", "GatherElements", "GatherND", "GlobalAveragePool",
        "GridSample", "MatMul", "Mean", "Pad", "Resize", "ReverseSequence", "ScatterElements", "ScatterND", "Tile",
        "Upsample",
    },
    OF_SEVERAL_VALUES: {
        "Attention", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LogSoftmax",
        "LpNormalization", "RMSNormalization", "ReduceL2", "ReduceLogSumExp", "Softmax",
    },
}  # fmt: skip
"""Operators that may need rules that the checker lacks."""
SECONDS = 8.0
"""Time limit of a search for multipliers of units."""
STEPS = 100
"""Largest number of its steps."""
LEAST = 2.0**-90
"""Least constant of a part of units: multipliers of certificates are moderate numbers."""
ByFunction: TypeAlias = Mapping[str, FloatArray]
"""Multipliers of the new units of functions, by the functions' names."""
Proposed: TypeAlias = tuple[float, ByFunction]
"""A constant, and the multipliers of the new units of each function by which it may be proven."""
NO_COMPLETION = np.zeros((0, 0), dtype=np.int8)
"""Array of a part that needs no H."""


def certificate_of_network(
    answer: NetworkBound,
    content: bytes,
    name: str,
    *,
    exported: bool = False,
) -> Certificate:
    """Return the certificate of a network's Lipschitz constant on all inputs.

    Parameters
    ----------
    answer : NetworkBound
        Bound whose multipliers the certificate uses.
    content : bytes
        Content of the ONNX file.
    name : str
        Name of the claim.
    exported : bool
        Whether the file was exported from a live model, so that it has to be saved beside the certificate.

    Raises
    ------
    CertificateError
        If the network has no bound, or the format no claim about it, or only one above the product of the constants.
    """
    if answer.upper is None:
        node = answer.unknown[0]
        raise CertificateError(f"the network has no bound, because of {plain(node.operator)}: {node.reason}.")
    shapes = list(answer.input_shapes.values())
    if len(shapes) != 1:
        raise CertificateError("it cannot be certified: it has several inputs.")
    shape = list(shapes[0])
    network: Network | None = None
    try:
        network = Network(content, shape)
        proven_parts = _least_parts(network, answer)
        parts = [proven.part.stated() for proven in proven_parts]
        completions = [proven.completion for proven in proven_parts]
        upper = float_up(network.constant_of_outputs(_bounds(network, proven_parts)))
    except (Refused, OverflowError) as error:
        lacking = f" {_lacking(network, content)}" if isinstance(error, Refused) else ""
        raise CertificateError(f"no claim about it can be made: {error}.{lacking}") from error
    if answer.product is not None and upper > answer.product * (1 + ABOVE_PRODUCT):
        raise CertificateError(
            f"it would state {upper:.6g}, above the product of the constants of its operators, {answer.product:.6g}. "
            f"{_lacking(network, content)} Certify the layers alone."
        )
    is_loose = upper > answer.upper * (1 + LOOSE)
    statement = {
        "name": name, "sha256": hashlib.sha256(content).hexdigest(), "input_shape": shape, "upper": upper.hex(),
        "parts": parts,
    }  # fmt: skip
    note = _lacking(network, content) if is_loose else ""
    return Certificate((Claim(statement, completions),), content if exported else b"", note)


def _lacking(network: Network | None, content: bytes) -> str:
    """Return in words the rules that the checker lacks for a network, with the operators that need them."""
    operators: dict[str, set[str]] = {}
    nodes = _nodes_without_step(network) if network is not None else _nodes_of_file(content)
    for op, is_of_several in nodes:
        rule = OF_SEVERAL_VALUES if is_of_several else OTHER_FUNCTIONS
        rule = next((rule for rule, ops in OPERATORS.items() if op in ops), rule)
        operators.setdefault(rule, set()).add(op)
    if not operators and network is not None:
        sizes = {name: math.prod(network.shapes.get(name, ())) for name in network.nodes}
        functions = [name for name in network.nodes if slopes_of(network.nodes[name]) is not None]
        units = sum(sizes[name] for name in (network.start, *functions))
        is_too_large = units > MOST_UNITS or units * sum(sizes.values()) >= MOST_NUMBERS
        operators[TOO_LARGE if is_too_large else OTHER_FUNCTIONS] = set()
    rules = [f"{rule} ({', '.join(sorted(ops))})" if ops else rule for rule, ops in sorted(operators.items())]
    return f"The checker has no rule for {' and '.join(rules)}."


def _nodes_of_file(content: bytes) -> Iterator[tuple[str, bool]]:
    """Yield the operators of a file that is not read, which need a rule that the checker lacks."""
    import onnx

    known = set().union(*OPERATORS.values())
    for node in onnx.ModelProto.FromString(content).graph.node:
        if node.op_type in known:
            yield node.op_type, False


def _nodes_without_step(network: Network) -> Iterator[tuple[str, bool]]:
    """Yield the operators that Lemma 6 does not read, and whether each is of several values, or of one by itself."""
    ends = set().union(*(set(_values_between(network, network.start, end)) for end in network.ends))
    roots: dict[str, str] = {}
    for name in network.stated:
        node = network.nodes[name]
        sources = network.changing_inputs(name)
        of_sources = {roots[source] for source in sources}
        is_of_entries = network.have_shape(sources, name) and node.op not in {*MOVES, *LAYER_OPERATORS, "MatMul"}
        roots[name] = of_sources.pop() if is_of_entries and len(of_sources) == 1 else name
        if name in ends and sources:
            with contextlib.suppress(Exception):
                step_of(network, name)
                continue
            yield node.op.removesuffix(" as it is given"), roots[name] == name and len(set(sources)) > 1


class ProvenPart(NamedTuple):
    """A part, the array 2^exponent H that proves it, called ``completion``, and its constant by this proof."""

    part: Part
    completion: Any
    constant: Fraction

    @property
    def end(self) -> str:
        """Name of the part's last value."""
        return self.part.values[-1]


def _least_parts(network: Network, answer: NetworkBound) -> list[ProvenPart]:
    """Return the parts that prove the least constant: one of all units if that suffices, else others are tried, too."""
    candidates: list[list[ProvenPart]] = []
    refusal: Refused | None = None

    def is_close() -> bool:
        least = min((_constant(network, parts) for parts in candidates), default=math.inf)
        return answer.upper is not None and least <= answer.upper * (1 + CLOSE)

    runs = [*answer.runs, *answer.others]
    for run in runs:
        with contextlib.suppress(Refused, KeyError, ValueError, IndexError):  # the format has no such part
            end = network.first.get(run.end, run.end)
            units = _proven_units(network, run.start, end, run.upper, _multipliers_of(network, run))
            candidates.append([units])
    if not is_close() and len(network.ends) == 1:
        with contextlib.suppress(Refused):
            (end,) = network.ends
            found = _proposed(network, network.start, end, Clock.of(SECONDS), answer.upper * (1 + CLOSE))
            candidates.append([_proven_units(network, network.start, end, *found)])
    if not is_close():
        try:
            candidates.append(_best_parts(network, runs))
        except Refused as error:
            refusal = error
    if not candidates:
        raise refusal or Refused("no parts prove a constant")
    return min(candidates, key=lambda parts: _constant(network, parts))


def _proven_units(
    network: Network,
    start: str,
    end: str,
    constant: float,
    multipliers: ByFunction,
) -> ProvenPart:
    """Return a part of all units between two values; `Refused` if the multipliers do not prove the constant."""
    for margin in MARGINS:
        # If multipliers grow half as much as the square of the constant, the form grows by parts of both ends.
        larger = {name: numbers * (1 + margin) for name, numbers in multipliers.items()}
        part = _part_of_units(network, start, end, constant * (1 + margin), larger)
        with contextlib.suppress(Refused):
            return ProvenPart(part, NO_COMPLETION, network.constant_of_part(part, NO_COMPLETION))
    raise Refused("its multipliers prove nothing near the bound")


def _proposed(network: Network, start: str, end: str, clock: Clock, aim: float = 0.0) -> Proposed:
    """Return a constant of all that is between two values, and multipliers of its functions, until ``aim``."""
    functions = new_units(network, start, end)
    ones = {name: np.ones(int(is_new.sum())) for name, is_new in functions.items()}
    form = Form(network, _part_of_units(network, start, end, 1.0, ones))
    if not functions:
        if not np.isfinite(form.ends).all():
            raise Refused("a part has numbers that are not finite")
        return max(float(np.linalg.norm(form.ends, 2)), LEAST), {}
    units = tuple(Units(name, np.flatnonzero(is_new)) for name, is_new in functions.items())
    matrix = np.concatenate([form.arguments, form.ends])
    inequality = Inequality(form.inputs, units, matrix, np.zeros_like(matrix))
    best: Proposal | None = None
    with np.errstate(all="ignore"):
        for best in proposals(inequality, STEPS, clock, clock.left * RATE):
            if best.constant <= aim:
                break
    if best is None:
        raise Refused("no multipliers were found")
    multipliers = best.constant**2 / best.multipliers if best.is_transposed else best.multipliers
    return best.constant, {name: multipliers[part] for name, part in zip(functions, inequality.values, strict=True)}


def _multipliers_of(network: Network, run: RunBound) -> ByFunction:
    """Return the multipliers of a run by function; none if it was bounded in several parts."""
    match run.statements:
        case [AllUnits() as units]:
            return {name: np.square(q) for name, q in zip(units.values[1:-1], units.multipliers[1:-1], strict=True)}
        case [part]:
            # The form of `parts` has q^2 z (z - v) of functions with slopes in [0, 1]; these are -2 L z (v - z).
            named = zip(part.values[1:], part.multipliers[1:], strict=True)
            return {_before_flattening(network, name): np.square(run.upper * q) / 2 for name, q in named}
    return {}


def _part_of_units(
    network: Network,
    start: str,
    end: str,
    constant: float,
    multipliers: ByFunction,
) -> AllUnits:
    """Return a part of all units; `ValueError` if functions of the file have other units."""
    by_name = {network.first.get(name, name): numbers for name, numbers in multipliers.items()}
    # Functions that write out maxima have other names in the two programs, and the same order.
    of_maxima = [numbers for name, numbers in multipliers.items() if name not in network.nodes]
    values = [start]
    weights = [np.array([constant])]
    for name, is_new in new_units(network, start, end).items():
        q = np.sqrt(by_name[name] if name in by_name else of_maxima.pop(0))
        shape = network.shape_of(name)
        if len(q) != (shape[1] if len(shape) > 1 else 1):
            of_units, q = q, np.ones(is_new.shape)
            q[is_new] = of_units
        values.append(name)
        weights.append(q)
    return AllUnits((*values, end), (*weights, np.ones(1)))


def _best_parts(network: Network, runs: Sequence[RunBound]) -> list[ProvenPart]:
    """Return parts in the order of the graph: one for each layer, or those of runs and matrices if they prove less."""
    best = [_prove(network, part) for part in _parts_of_layers(network)]
    for run in runs:
        try:
            parts_of_run = [_prove(network, part) for part in _parts_of_run(network, run)]
        except (Refused, KeyError, ValueError):
            continue  # the format has no such part: the layers stay parts by themselves
        if parts_of_run:
            best = _better(network, best, run.start, run.end, parts_of_run)
    clock = Clock.of(SECONDS)
    bounds = _bounds(network, best)
    for end in network.stated:
        for start in _starts_of(network, end):
            if start == network.start and [end] == network.ends:
                break  # all units of the network: tried before
            try:
                constant, multipliers = _proposed(network, start, end, clock)
                before = bounds[start].without_multipliers
                now = bounds[end].without_multipliers
                if before is not None and (now is None or float(before) * constant < float(now) * (1 - WORTH)):
                    part = _proven_units(network, start, end, constant, multipliers)
                    best = _better(network, best, start, end, [part])
                    bounds = _bounds(network, best)
            except Refused:
                break
    return best


def _better(
    network: Network,
    best: list[ProvenPart],
    start: str,
    end: str,
    between: Sequence[ProvenPart],
) -> list[ProvenPart]:
    """Return the parts with others between two values, if they prove less; in addition, or else instead."""
    order = list(network.nodes)
    values = set(_values_between(network, start, end))
    other_parts = [proven for proven in best if proven.end not in values]
    for kept in (other_parts, best):
        candidate = sorted([*kept, *between], key=lambda proven: order.index(proven.end))
        if _constant(network, candidate) < _constant(network, best):
            return candidate
    return best


def _bounds(network: Network, proven_parts: Sequence[ProvenPart]) -> dict[str, ValueBounds]:
    """Return the bounds of all values by some parts."""
    parts = [proven.part for proven in proven_parts]
    return network.bounds_of_values(parts, [proven.constant for proven in proven_parts])


def _constant(network: Network, proven_parts: Sequence[ProvenPart]) -> float:
    """Return the network's constant by some parts; infinite if they do not suffice."""
    try:
        return float(network.constant_of_outputs(_bounds(network, proven_parts)))
    except Refused:
        return math.inf


def _values_between(network: Network, start: str, end: str) -> Iterator[str]:
    """Yield the end, and the values from which it is computed, back to the start, which is left out."""
    waiting = [end]
    seen = {start}
    while waiting:
        name = waiting.pop()
        if name not in seen and name in network.nodes:
            seen.add(name)
            waiting += network.nodes[name].inputs
            yield name


def _parts_of_layers(network: Network) -> Iterator[Together]:
    """Yield a part for each layer; a normalization that is a layer's only reader belongs to its part."""
    readers: dict[str, list[str]] = {}
    for name, node in network.nodes.items():
        for operand in node.inputs:
            readers.setdefault(operand, []).append(name)
    for name, node in network.nodes.items():
        if node.op not in LAYER_OPERATORS or network.first[name] != name or name in network.fixed:
            continue
        end = name
        layer_readers = readers.get(name, [])
        if len(layer_readers) == 1 and name not in network.ends:
            reader = layer_readers[0]
            if network.nodes[reader].op == "BatchNormalization":
                end = reader
        yield Together((node.inputs[0], end))


def _parts_of_run(network: Network, run: RunBound) -> Iterator[Together]:
    """Yield the parts of a run, cut once more if a kernel is too large for a search for H."""
    for statement in run.statements:
        if not isinstance(statement, Together):
            continue
        first, *others = statement.values
        start = first if first == run.start else _before_flattening(network, first)
        values = (start, *(_before_flattening(network, value) for value in others))
        begin = 0
        while begin < len(values) - 1:
            part = Together(values[begin:], statement.multipliers[begin:])
            while not _can_be_completed(network, part):
                part = Together(part.values[:-1], part.multipliers[:-1])
            yield part
            begin += len(part.values) - 1


def _can_be_completed(network: Network, part: Together) -> bool:
    """Whether a part has one layer, or its kernel is a matrix, or small enough for a search for H."""
    if len(part.values) == 2:
        return True
    kernel = network.joint(part).kernel
    is_matrix = math.prod(kernel.shape[2:]) == 1
    return is_matrix or min(kernel.shape[:2]) <= WIDEST


def _before_flattening(network: Network, value: str) -> str:
    """Return the value that was flattened into a value, whose channels have the multipliers; else the value itself."""
    value = network.first.get(value, value)
    while network.nodes[value].op in {"Flatten", "Reshape"}:
        value = network.nodes[value].inputs[0]
    return value


def _starts_of(network: Network, end: str) -> Iterator[str]:
    """Yield earlier values, through which all paths to a value lead, the nearest first, if several operators do."""
    node = network.nodes[end]
    is_moved = node.op in MOVES - {"Concat"} or slopes_of(node) is not None
    if is_moved or end == network.start or network.first.get(end, end) != end:
        return
    for start, between in starts_of(network, end, network.changing_inputs):
        has_several = len(between) > 1 or node.op not in LAYER_OPERATORS
        if has_several and math.prod(network.shapes.get(start, (math.inf,))) <= COLUMNS:
            yield start


def _prove(network: Network, part: Together) -> ProvenPart:
    """Compute H for a part; return the part with its exponent and sizes, and H."""
    joint = network.joint(part)
    layers = sum(node.op in LAYER_OPERATORS for node in network.nodes.values())
    # If the norm of N + I/2 is 3/2 (1 + d), the part's constant has a factor 1 + 3 d for each layer of its depth.
    amplification = 3 * joint.depth if joint.adds_half_identity else 1
    if math.prod(joint.kernel.shape[2:]) == 1:
        aim = MATRIX_AIM / amplification
    else:
        aim = max(AIM / max(layers, amplification), LEAST_AIM)  # the layers share the distance of the product
    own_size: Any = ()
    if part.sizes == "every":
        with contextlib.suppress(Refused):
            own_size = network.joint(replace(part, sizes="own")).layer.sizes or ()
    proof = search_completion(joint.kernel, joint.layer, own_size, aim, joint.errors)
    proven = replace(part, sizes="own" if proof.at_size else part.sizes, exponent=proof.exponent)
    constant = network.constant_of_part(proven, proof.completion)
    return ProvenPart(proven, proof.completion, constant)
