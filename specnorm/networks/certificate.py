"""The claim of a network's constant that somebody else checks: its parts, and what each is proven on.

Nothing here is trusted. The parts are those whose weights a search found, and every other layer by itself; the number
that is claimed is what ``docs/check.py`` makes of them, by the rules and slopes that it has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specnorm.backends import backend_for
from specnorm.certified.network.affine_maps import Segment, Subnetwork
from specnorm.certified.network.boxes import stated as boxes
from specnorm.certified.network.graph import Graph
from specnorm.certified.network.operators.base import FloatArray
from specnorm.certified.network.segments import CENTRE, SHARP, stated_kernel
from specnorm.certified.network.shapes import concrete
from specnorm.certified.network.stated import REST, F, digests_of, segment_of
from specnorm.errors import CertificateError, SpecnormError
from specnorm.networks.measuring import Measure
from specnorm.result import Certificate
from specnorm.runtime.execution import Execution
from specnorm.search.certificate import MOST, WIDER
from specnorm.search.tree import tree_below

TOLERANCES = 5e-4, 5e-5, 5e-6
"""Relative width of a part's number, or that of the norms where it is wider; the others where 1 is proven otherwise."""
SLACK = 1e-9
"""By how much more is claimed than the parts make up as computed here."""
FEWEST, WORK = 2**9, 2**33
"""Boxes of a part's tree, by what each takes."""
CHANNELS, UNITS = 2**12, 2**10
"""Of a value in a part: fewer; entries of all values of a part in which each has a weight, at most."""
SLOPES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("Relu", "Tanh", "Softplus", "Softsign", "Clip", "Atan", "LeakyRelu"), (0.0, 1.0)),
    **dict.fromkeys(("Abs", "Sin", "Cos"), (-1.0, 1.0)),
    "Sigmoid": (0.0, 0.25), "Neg": (-1.0, -1.0), "HardSwish": (-0.5, 1.5), "Gelu": (-0.12902, 1.12902),
    "Mish": (-0.12, 1.08851),
}  # fmt: skip
"""Smallest and largest slope of the functions that are spoken about, as the reader has them."""
LINEAR = ("Conv", "Gemm", "MatMul", "BatchNormalization")
ALIKE = ("Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze")
WHOLE = ("Slice", "Split", "Softmax", "Transpose", "GlobalAveragePool", "GlobalMaxPool")
"""What keeps all entries or fewer, and moves no two values apart."""


@dataclass(frozen=True, eq=False)
class Weighted:
    """A run whose weights are known.

    Parameters
    ----------
    starts : tuple of int
        First link of each part that is bounded together.
    weights : tuple of array
        One number a channel of each link's value.
    """

    run: Subnetwork
    starts: tuple[int, ...]
    weights: tuple[FloatArray, ...]


@dataclass(frozen=True, eq=False)
class _Part:
    """Values that are bounded together, before anything is proven of them."""

    start: str
    values: tuple[str, ...]
    weights: tuple[FloatArray, ...]
    segment: Segment
    units: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from others."""
        return self.start, self.values, self.units, tuple(each.tobytes() for each in self.weights)

    def ending_alike(self) -> _Part:
        """With one weight for all channels of its last value, which loses nothing where no part goes on there."""
        last = self.weights[-1]
        return replace(self, weights=(*self.weights[:-1], np.full_like(last, last.min())))


def network_claim(graph: Graph, runs: Sequence[Weighted], upper: float, measure: Measure) -> Certificate:
    """The claim that a network's constant is at most a number, or more where the parts make up more.

    Parameters
    ----------
    graph : Graph
        Read from an ONNX file, or `statements.step` of such a one.
    runs : sequence of Weighted
    upper : float
        Never less is claimed.

    Raises
    ------
    CertificateError
        If the format has no proof for such a network; the message names what it has none for.
    """
    if boxes(graph):
        raise CertificateError("a bound for inputs in a range has no place in the file: bounds for all have.")
    tensors = digests_of(graph)
    whole = _Network(graph)
    first, *closer = TOLERANCES
    for rtol in (max(first, measure.rtol), *closer):
        total, said = whole.least(runs, measure, rtol)
        total *= 1 + SLACK
        if not upper <= 1 < total:
            break
    claim = {
        "claim": "network",
        "name": "network",
        "of": whole.of,
        "input_shape": [n if type(n) is int else str(n) for n in whole.shapes[whole.start] or ()],
        "tensors": tensors,
        "parts": said,
        "upper": max(total, upper).hex(),
    }
    return Certificate((claim,))


def stated_layers(graph: Graph, measure: Measure) -> list[dict[str, Any]]:
    """Each linear layer by itself, as the file has it; errors as of `network_claim`."""
    return [_stated(part, measure, max(TOLERANCES[0], measure.rtol))[1] for part in _Network(graph).parts(())]


class _Network:
    """An ONNX file's operators, as the reader of the claim has them."""

    def __init__(self, graph: Graph) -> None:
        calls = getattr(graph.model, "calls", None)
        if calls is None or len(graph.inputs) != 1:
            raise CertificateError(f"a network with {len(graph.inputs)} inputs has no place in the file: one has.")
        ((self.start,), self.graph) = (graph.inputs, graph)
        self.made: dict[str, tuple[str, tuple[str, ...], Mapping[str, Any]]] = {}
        self.arrays: set[str] = set()
        if graph.model.opset < 9:  # type: ignore[union-attr]
            raise CertificateError("operators of ONNX before version 9 have no place in the file.")
        for op, inputs, outputs, attributes in calls():
            plain = attributes.get("auto_pad", "NOTSET") == "NOTSET" and not attributes.get("ceil_mode")
            plain = plain and (op != "LeakyRelu" or 0 <= attributes.get("alpha", 0.01) <= 1)
            plain = plain and (op != "Constant" or "value" in attributes) and (op != "Dropout" or len(inputs) < 3)
            if not plain or "::" in op or (op == "BatchNormalization" and attributes.get("training_mode")):
                raise CertificateError(f"such a {op} has no place in the file: {outputs[0] if outputs else ''}.")
            self.made |= dict.fromkeys(outputs, (op, inputs, attributes))
            self.arrays |= set(outputs) if op == "Constant" else set()
        self.arrays |= digests_of(graph).keys()
        self.outputs, self.of = graph.outputs, F
        if any(name not in self.made and name != self.start for name in graph.outputs):
            last = graph.by_name[graph.outputs[0]]
            if last.label != "statement" or getattr(last.operator, "weights", ()) != (1.0, -1.0):
                raise CertificateError("of statements about f and x, only x - f(x) has a place in the file.")
            self.graph = _named_rest(graph)
            self.made[REST] = ("Sub", last.inputs, {})
            self.outputs, self.of = (REST,), REST
        self.shapes = {name: node.shape for name, node in self.graph.by_name.items()}
        needed = set[str]().union(*(self._between("", name) for name in self.outputs))
        self.made = {name: call for name, call in self.made.items() if name in needed}

    def moving(self, name: str) -> list[str]:
        """Inputs of an operator that are no arrays of the file."""
        return [each for each in self.made[name][1] if each not in self.arrays]

    # -- parts -------------------------------------------------------------------------------------------------------
    def least(self, runs: Sequence[Weighted], measure: Measure, rtol: float) -> tuple[float, list[dict[str, Any]]]:
        """The least constant that parts make up, and these: runs by channels, by entries, and each layer by itself."""
        small = (self.parts(runs, units=True), self.parts(()))
        ways = [self.parts(runs), *(way for way in small if any(part.units for part in way))]
        said: dict[tuple[object, ...], tuple[float, dict[str, Any]]] = {}
        found = []
        for way in ways:
            for part in way:
                said[part.key] = said.get(part.key) or _stated(part, measure, rtol)
            known = [said[part.key] for part in way]
            found.append((self.constant(way, [number for number, _ in known]), [part for _, part in known]))
        return min(found, key=lambda each: each[0])

    def parts(self, runs: Sequence[Weighted], units: bool = False) -> list[_Part]:
        """Those of the runs, by entries where there are few and ``units`` says so, and each layer that is in none."""
        found = [part for weighted in runs for part in self._of_run(weighted, units)]
        inside = set[str]().union(*(self._between(part.start, part.values[-1]) for part in found))
        readers: dict[str, list[str]] = {}
        for name in self.made:
            for each in self.moving(name):
                readers.setdefault(each, []).append(name)
        for name, (op, _, _) in self.made.items():
            if op not in LINEAR or name in inside or not self.moving(name):
                continue
            after = readers.get(name, [])
            followed = [self.made[each][0] for each in after] == ["BatchNormalization"]
            if op != "BatchNormalization" and followed and name not in self.outputs:
                continue  # the two are bounded together
            first = name
            if op == "BatchNormalization" and self.made.get(self.moving(name)[0], ("",))[0] in LINEAR[:3]:
                before = self.moving(name)[0]
                first = before if readers[before] == [name] and before not in self.outputs else name
            found.append(self._part(self.moving(first)[0], (name,), None, units=True))
        return found

    def _of_run(self, weighted: Weighted, units: bool) -> list[_Part]:
        """Parts of a run; where one has no place in the file, its neighbours' weights are alike there."""
        links, start = weighted.run.links, weighted.run.start
        values, found, gap = [np.ones(weighted.run.width), *weighted.weights], list[_Part](), False
        for first, last in zip(weighted.starts, [*weighted.starts[1:], len(links)], strict=True):
            before = values[first] if first == 0 else np.repeat(values[first], links[first - 1].repeat)
            names = tuple(self._name(link.node) for link in links[first:last])
            try:
                if any(link.end != link.node for link in links[first : last - 1]):
                    raise CertificateError("something lies between the functions and the layers after them")
                before = np.full_like(before, before.max()) if gap else before
                found.append(self._part(start, names, (before, *values[first + 1 : last + 1]), units))
                gap = False
            except CertificateError:
                found[-1:] = [part if gap else part.ending_alike() for part in found[-1:]]
                gap = True
            start = links[last - 1].end
        return found

    def _name(self, name: str) -> str:
        return REST if self.of == REST and name not in self.made else name

    def _part(
        self, start: str, values: tuple[str, ...], weights: tuple[FloatArray, ...] | None, units: bool = False
    ) -> _Part:
        """One that the reader has the same rules for."""
        for name in values:
            op = self.made.get(name, ("",))[0]
            top = self.moving(name)[0] if op in SLOPES else name
            self._linear(top, {start, *values})
        segment = segment_of(self.graph, start, values)
        for name, link in zip(values, segment.links, strict=True):
            low, high = SLOPES.get(self.made[name][0], (1.0, 1.0))
            mine = np.minimum(link.slopes[0], 0.0), np.maximum(link.slopes[1], 0.0)
            if not (np.all(mine[0] == min(low, 0.0)) and np.all(mine[1] == max(high, 0.0))):
                raise CertificateError(f"the slopes of {self.made[name][0]} are stated otherwise")
        widths = [segment.width, *(link.width for link in segment.links)]
        if max(widths) >= CHANNELS:
            raise CertificateError(f"a layer of {max(widths)} channels has no place in the file: fewer than 4096 have.")
        part = _Part(start, values, weights or tuple(np.ones(n) for n in widths), segment)
        return self._by_units(part) if units and segment.axes else part

    def _by_units(self, part: _Part) -> _Part:
        """The same by entries, if these are few; else as it is."""
        shapes = [concrete(self.shapes[name]) for name in (part.start, *part.values)]
        sizes = [0 if shape is None or shape[0] != 1 else math.prod(shape[1:]) for shape in shapes]
        if min(sizes) < 1 or sum(sizes) > UNITS:
            return part
        try:
            segment = segment_of(self.graph, part.start, part.values, units=True)
        except CertificateError:
            return part
        weights = tuple(np.repeat(w, n // len(w)) for w, n in zip(part.weights, sizes, strict=True))
        return replace(part, weights=weights, segment=segment, units=True)

    def _linear(self, name: str, stops: set[str]) -> None:
        """Whether the reader takes a value for a sum of layers of others."""
        op, _, given = self.made.get(name, ("the input", (), {}))
        moving = self.moving(name) if name in self.made else []
        if op in LINEAR[:3]:
            (before, *more) = moving
            spatial = len(self.shapes.get(before) or ()) - 2
            if more or before not in stops or given.get("transA") or (spatial and op != "Conv"):
                raise CertificateError(f"such a {op} ({name}) has no place in the file.")
            return
        if op == "BatchNormalization" or op in ALIKE:
            following = moving[:1]
        elif op in ("Add", "Sub", "Sum"):
            following = moving
        else:
            raise CertificateError(f"{op} ({name}) has no place between layers that are bounded together.")
        for each in following:
            if each not in stops:
                self._linear(each, stops)

    def _between(self, start: str, end: str) -> set[str]:
        """What is computed on the way from one value to another."""
        found, waiting = set[str](), [self._name(end)]
        while waiting:
            name = waiting.pop()
            if name in found or name == start or name not in self.made:
                continue
            found.add(name)
            waiting += self.moving(name)
        return found

    # -- the constant ------------------------------------------------------------------------------------------------
    def constant(self, parts: Sequence[_Part], numbers: Sequence[float]) -> float:
        """What the reader makes of parts with such numbers, but for roundings."""
        known: dict[str, list[tuple[FloatArray | None, float]]] = {self.start: [(None, 1.0)]}
        missing = ""
        for name, (op, _, _) in self.made.items():
            if name in self.arrays:
                continue
            before = [known.get(each, []) for each in self.moving(name)]
            known[name] = []
            if op not in LINEAR or not before:
                try:
                    known[name] = self._rule(name, before) if all(before) else []
                except CertificateError as error:
                    missing = missing or str(error)
            for part, number in zip(parts, numbers, strict=True):
                if part.values[-1] != name:
                    continue
                first, last = part.weights[0], part.weights[-1]
                begin = [c * float(np.max(first if w is None else first / w)) for w, c in known[part.start]]
                if begin:
                    c = min(begin) * _power(part.segment, number)
                    known[name] += [(last, c), (None, c / float(last.min()))]
        unknown = next((name for name in self.outputs if not known.get(name)), None)
        if unknown is not None:
            raise CertificateError(missing or f"{unknown} has no bound that the file could state.")
        return math.hypot(*(_least(known[name]) for name in self.outputs))

    def _rule(
        self, name: str, before: Sequence[list[tuple[FloatArray | None, float]]]
    ) -> list[tuple[FloatArray | None, float]]:
        op, _, given = self.made[name]
        moving, ends = self.moving(name), [_least(each) for each in before]
        if not before:
            return [(None, 0.0)]
        shape, old = self.shapes.get(name), self.shapes.get(moving[0])
        odd = False
        if op in ("Add", "Sub", "Sum", "Max", "Min", "Concat"):
            odd = op != "Concat" and any(self.shapes.get(each) != shape for each in moving)
            if not odd:
                return [(None, math.hypot(*ends) if op in ("Max", "Min", "Concat") else sum(ends))]
        elif op in WHOLE and len(ends) == 1:
            return [(None, ends[0])]
        elif len(ends) == 1 and (op in SLOPES or (op in ALIKE and shape == old)):
            return [(w, c * max(map(abs, SLOPES.get(op, (1.0, 1.0))))) for w, c in before[0]]
        elif len(ends) == 1 and op in (*ALIKE, "MaxPool", "AveragePool") and shape and old:
            over, repeat, taps = 1.0, 1, given.get("kernel_shape", [])
            if op in ALIKE:
                sizes = [n if isinstance(n, int) else 0 for n in old[1:]]
                repeat = math.prod(sizes[1:]) if shape == (old[0], math.prod(sizes)) else 0
            else:
                ones = [1] * len(taps)
                axes = zip(taps, given.get("strides", ones), given.get("dilations", ones), strict=True)
                over = float(math.prod(-(-k * math.gcd(s, r) // s) for k, s, r in axes))
                over /= math.prod(taps) if op == "AveragePool" else 1
                odd = op != "MaxPool" and not given.get("count_include_pad") and any(given.get("pads", []))
            if not odd:
                same = [(np.repeat(w, repeat), c) for w, c in before[0] if w is not None and (len(w),) == old[1:2]]
                return [(w, c * math.sqrt(over)) for w, c in [(None, ends[0]), *(same if repeat else [])]]
        raise CertificateError(f"{op} ({name}) has no place in the file{', as it is here' if odd else ''}.")


def _named_rest(graph: Graph) -> Graph:
    last = replace(graph.by_name[graph.outputs[0]], name=REST)
    kept = (node for node in graph.nodes if node.name != graph.outputs[0])
    return replace(graph, nodes=(*kept, last), outputs=(REST,))


def _least(known: Sequence[tuple[FloatArray | None, float]]) -> float:
    return min(c for w, c in known if w is None)


def _power(segment: Segment, number: float) -> float:
    """The constant of links together."""
    return number ** len(segment.links) if segment.chain else max(1.0, 2 * number - 1) ** segment.depth


def _stated(part: _Part, measure: Measure, rtol: float) -> tuple[float, dict[str, Any]]:
    """The number that a part is given, and the part as the file has it."""
    whole, lost, taps = stated_kernel(part.segment, part.weights)
    chain, alone = part.segment.chain, math.prod(taps) == 1
    shifted = whole if chain else whole.copy()
    if not chain:
        every = np.arange(len(whole))
        middle: Any = (every, every, *(n // 2 for n in taps))
        shifted[middle] = CENTRE
    try:
        least = measure.of_kernel(shifted, SHARP if alone else rtol).value
    except SpecnormError as error:
        raise CertificateError(f"the layers from {part.start} to {part.values[-1]}: {error}") from error
    least = max(least - (0.0 if chain else CENTRE) + lost, float(np.abs(whole).max()) * SLACK, 1e-270)
    exponent = math.frexp(least)[1]
    ops = Execution.of(backend_for(whole), whole)
    scaled = np.ldexp(whole, -exponent)[None]
    most = min(MOST, max(FEWEST, WORK // scaled[0].shape[0] ** 3))
    for more in (SLACK, *WIDER[1:], 0.3, 1.0):
        bound = least * (1 + more)
        tree = tree_below(scaled, math.ldexp(bound, -exponent), most, taps=taps, hermitian=not chain, ops=ops)
        if tree is not None:
            weights = [[float(x).hex() for x in each] for each in part.weights]
            said = {"start": part.start, "values": list(part.values), "units": part.units, "weights": weights}
            return bound, {**said, "upper": bound.hex(), "proof": {"tree": tree}}
    raise CertificateError(f"the layers from {part.start} to {part.values[-1]} take more than {most} cells.")
