"""Bound the Lipschitz constant of an ONNX network: one operator at a time, and Lemma 4.

The lemma, the rules for operators and their proofs are in docs/check-proofs.md. The
graph is read from the file, and the shapes of its values are those that onnx infers. A
claim lists *parts*: layers that lie one behind the other or in a sum, which one kernel
H proves together. An operator, or a form of it, that is not named here is refused.

The values of a part are z_0, ..., z_n. The first axis of a value is the batch, the
second the channels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from specnorm_check.layers import (
    Axis,
    Layer,
    Numbers,
    Refused,
    proven_norm,
    require,
    root_up,
    split_axis,
)
from specnorm_check.statements import (
    BELOW,
    Statement,
    number,
    plain,
    printed,
    read_exponent,
    require_at_least,
    whole_numbers,
)

KEYS_OF_A_NETWORK = {"input_shape", "name", "parts", "sha256", "upper"}
KEYS_OF_A_PART = {"completion", "exponent", "sizes", "values", "weights"}
ONNX_FLOATING = {1, 10, 11, 16}  # float32, float16, float64 and bfloat16 in ONNX
LONGEST_OPERATOR = 80  # letters of its name
FIRST_SET, LAST_SET = 13, 28  # of operators, whose definitions were read
ENTRY_ERROR = 2.0**-48  # relative, of 32 roundings of an entry of a kernel
MOST_NORMALISATIONS = 4  # behind a layer of a part: 5 roundings each, 8 of the rest
ONE = Fraction(1)
HALF = Fraction(1, 2)
ROUNDED = 1 + Fraction(1, 2**50)  # more than the effect of 7 roundings in float64
LARGEST_VALUE = 2**32  # entries
LARGEST_KERNEL = 2**31  # entries

# -- operators -------------------------------------------------------------------------
WINDOW = {"auto_pad", "dilations", "kernel_shape", "pads", "strides"}
REDUCTION = {"axes", "keepdims", "noop_with_empty_axes"}
ATTRIBUTES: dict[str, set[str]] = {
    "Abs": set(),
    "Add": set(),
    "AveragePool": WINDOW | {"ceil_mode", "count_include_pad"},
    "BatchNormalization": {"epsilon", "momentum", "training_mode"},
    "Clip": set(),
    "Concat": {"axis"},
    "Conv": WINDOW | {"group"},
    "Div": set(),
    "Flatten": {"axis"},
    "Gemm": {"alpha", "beta", "transA", "transB"},
    "LeakyRelu": {"alpha"},
    "MaxPool": WINDOW | {"ceil_mode", "storage_order"},
    "Pad": {"mode"},
    "ReduceMean": REDUCTION,
    "ReduceSum": REDUCTION,
    "Relu": set(),
    "Reshape": {"allowzero"},
    "Slice": set(),
    "Softmax": {"axis"},
    "Sub": set(),
    "Tanh": set(),
    "Transpose": {"perm"},
}
"""The attributes that are read, or that change nothing that a rule says."""
REQUIRED = {
    "auto_pad": b"NOTSET",
    "ceil_mode": 0,
    "mode": b"constant",
    "training_mode": 0,
    "transA": 0,
}
"""The values for which the rules are, of attributes of these names in any operator."""

SLOPES = {
    "Abs": (-1.0, 1.0),
    "Clip": (0.0, 1.0),
    "Relu": (0.0, 1.0),
    "Tanh": (0.0, 1.0),
}
"""The least and the largest slope of functions of each entry; LeakyRelu's vary."""
SAME_ENTRIES = {"Flatten", "Reshape"}
NOT_LONGER = {"Pad", "Slice", "Softmax", "Transpose"}  # their constant is 1, too
POOLS = {"AveragePool", "MaxPool"}
LAYER_OPERATORS = {"Conv", "Gemm"}
SUMS = {"Add", "Sub"}


class Node(NamedTuple):
    """The operator that computes a value."""

    op: str
    inputs: list[str]
    attributes: dict[str, Any]


class KnownBound(NamedTuple):
    """What is proven of the difference z - z' of a value, for inputs that differ by 1.

    ``plain`` bounds |z - z'|; None: nothing does. For each pair (q, c) of ``weighted``,
    c bounds |q (z - z')|, q a number for each channel.
    """

    plain: Fraction | None
    weighted: list[tuple[Numbers, Fraction]]


@dataclass(frozen=True)
class Part:
    """What a claim lists: values, multipliers q for each, and 2^exponent H's exponent.

    A layer by itself may have no multipliers; it may be proven at its own size.
    """

    values: list[str]
    multipliers: list[Numbers]
    at_own_size: bool
    exponent: int

    @classmethod
    def read(cls, statement: Statement) -> Part:
        """Return the part that a claim lists."""
        has_keys = set(statement) == KEYS_OF_A_PART
        require(has_keys, "a part has other entries than those of a part")
        values = statement["values"]
        is_list = type(values) is list and len(values) > 1
        require(is_list, "the values of a part are no list of two or more")
        multipliers = []
        for texts in statement["weights"]:
            q = np.array([number(text) for text in texts])
            is_moderate = (q > 2.0**-99) & (q < 2.0**99)
            words = "a multiplier is 0, or close to it or beyond"
            require(is_moderate.all(), words)
            multipliers.append(q)
        is_alone = len(values) == 2 and not multipliers
        is_complete = is_alone or len(multipliers) == len(values)
        require(is_complete, "a part has not multipliers for each value")
        at_own_size = statement["sizes"] == "own"
        exponent = read_exponent(statement["exponent"])
        return cls(values, multipliers, at_own_size, exponent)


class Term(NamedTuple):
    """V_ij of Lemma 4: the layer that leads from z_j to z_i."""

    start: int  # j
    end: int  # i
    kernel: Numbers
    layer: Layer


class Function(NamedTuple):
    """A value as a function, entry by entry, of another value; pooled afterwards."""

    argument: str
    slopes: tuple[float, float]
    pooling: Fraction | None


class Joint(NamedTuple):
    """The kernel whose norm proves a part (Lemma 4).

    The kernel is N + I/2 if ``centred``, else T, or V of a layer by itself. ``depth`` is
    the number of layers on the longest way, ``factor`` what follows the norm.
    """

    kernel: Numbers
    layer: Layer
    centred: bool
    depth: int
    factor: Fraction


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
    ops = [node.op for node in network.nodes.values()]
    counts = []
    for op in dict.fromkeys(ops[1:]):
        counts.append(f"{ops.count(op)} {op}")
    layers = [len(part.values) - 1 for part in parts]
    most = max(layers, default=0)
    return (
        f"Lipschitz constant <= {constant} of the input {shape}, by {len(parts)} parts "
        f"of {most} layers at most, of {', '.join(counts)}, {statement['sha256'][:16]}"
    )


# -- the graph -------------------------------------------------------------------------
class Network:
    """An ONNX graph with one input, whose shape is given.

    ``arrays`` are its constants, ``nodes`` what computes each other value, in order,
    ``shapes`` those that onnx infers, ``ends`` the names of its outputs.
    """

    def __init__(self, content: bytes, input_shape: object) -> None:
        import onnx

        model = onnx.ModelProto.FromString(content)
        graph = model.graph
        require_known_definitions(model)
        require_own_numbers(graph)
        self.arrays = constants_of(graph)
        require_small_numbers(graph, self.arrays)
        self.start = set_input_shape(graph, self.arrays, input_shape)
        self.ends = [output.name for output in graph.output]
        self.shapes = inferred_shapes(model)
        self.nodes = {self.start: Node("the input of the graph", [], {})}
        for node in graph.node:
            op = known_operator(node)
            attributes = attributes_of(node)
            for at, name in enumerate(node.output):
                # No rule is for another output than the first.
                named = f"output {at} of {op}" if at else op
                self.nodes[name] = Node(named, list(node.input), attributes)

    def constant(
        self,
        parts: Sequence[Part],
        completions: Sequence[Numbers],
    ) -> Fraction:
        """Return a Lipschitz constant of all outputs together (Networks, step 1)."""
        for part in parts:
            last = part.values[-1]
            is_computed = last in self.nodes
            require(is_computed, f"a part ends at {plain(last)}, no computed value")
        known: dict[str, KnownBound] = {}
        for name in ("", *self.arrays):  # "" is an input that is left out
            known[name] = KnownBound(Fraction(0), [])
        known[self.start] = KnownBound(ONE, [])
        for name, node in self.nodes.items():
            if name not in known:
                plain_bound = self.bound_by_rule(name, node, known)
                known[name] = KnownBound(plain_bound, [])
            for part, completion in zip(parts, completions, strict=True):
                if part.values[-1] == name:
                    bound = self.bound_by_part(part, completion, known)
                    known[name] = both(known[name], bound)

        bounds = []
        for name in self.ends:
            end = known[name].plain
            if end is None:
                raise Refused(self.nothing_proven(known))
            bounds.append(end)
        if len(bounds) == 1:
            return bounds[0]
        return root_of_squares(bounds)

    def nothing_proven(self, known: Mapping[str, KnownBound]) -> str:
        """Name the operators of which nothing is known."""
        unknown = set()
        for name, node in self.nodes.items():
            if known[name].plain is None:
                unknown.add(node.op)
        return f"nothing is proven beyond one of {', '.join(sorted(unknown))}"

    # -- rules for one operator --------------------------------------------------------
    def bound_by_rule(
        self,
        name: str,
        node: Node,
        known: Mapping[str, KnownBound],
    ) -> Fraction | None:
        """Return a bound of |z - z'| from those of z's inputs (Networks, step 2).

        An input with the bound 0 is a constant. What is computed from constants alone
        has no bound, since it may be drawn at random.
        """
        bounds = []
        moving = []
        for one in node.inputs:
            bound = known[one].plain
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
        only_first = moving == node.inputs[:1]
        if only_first and self.has_constants(node):
            factor = self.factor(name, node)
            return None if factor is None else factor * bounds[0]
        return None

    def have_shape(self, names: Sequence[str], name: str) -> bool:
        """Return whether some values have the shape of another one, which is known."""
        shape = self.shapes.get(name)
        if shape is None:
            return False
        return all(self.shapes.get(one) == shape for one in names)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return a value's shape, which has to be known."""
        require(name in self.shapes, f"onnx infers no shape of {plain(name)}")
        return self.shapes[name]

    def factor(self, name: str, node: Node) -> Fraction | None:
        """Return the constant of an operator whose first input alone moves, or None."""
        slopes = slopes_of(node)
        if slopes is not None:
            return largest_slope(slopes)
        if node.op in SAME_ENTRIES | NOT_LONGER:
            return ONE
        if node.op == "BatchNormalization":
            largest = np.abs(self.scales(node)).max()
            return Fraction(float(largest)) * ROUNDED
        if node.op == "Div":
            return self.factor_of_divisor(name, node)
        if node.op in POOLS:
            return factor_of_pool(node)
        if node.op in {"ReduceMean", "ReduceSum"}:
            return self.factor_of_reduction(name, node)
        return None

    def factor_of_divisor(self, name: str, node: Node) -> Fraction | None:
        """Return the constant of a quotient by constant numbers, one or some."""
        numerator, divisor = node.inputs
        if not self.have_shape([numerator], name):
            return None
        numbers = np.abs(self.arrays[divisor].astype(np.float64))
        least = float(numbers.min())
        require(least > 0, "a Div by 0")
        return ONE / Fraction(least)

    def factor_of_reduction(self, name: str, node: Node) -> Fraction | None:
        """Return the constant of a sum or a mean of so many entries: Cauchy-Schwarz."""
        before = self.shapes.get(node.inputs[0])
        after = self.shapes.get(name)
        if before is None or after is None:
            return None
        entries = Fraction(math.prod(before), math.prod(after))
        if node.op == "ReduceMean":
            return root_up(1 / entries)
        return root_up(entries)

    def scales(self, node: Node) -> Numbers:
        """Return what batch normalisation multiplies each channel by."""
        weights, _, _, variances = node.inputs[1:]
        gamma = self.arrays[weights].astype(np.float64)
        variance = self.arrays[variances].astype(np.float64)
        epsilon = node.attributes.get("epsilon", float(np.float32(1e-5)))
        roots = np.sqrt(variance + epsilon)
        words = "a batch normalisation divides by nothing"
        require(variance.min() >= 0, words)
        require(np.isfinite(gamma / roots).all(), words)
        return product(gamma, 1 / roots)

    # -- parts: Lemma 4 ----------------------------------------------------------------
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
        growth = norm  # of one layer
        if joint.centred:  # step E
            sigma = norm - HALF
            growth = max(2 * sigma - 1, ONE)
        constant = growth**joint.depth * joint.factor

        start = part.values[0]
        op = self.nodes[start].op
        words = f"a part begins at {plain(start)}, a {op} of which nothing is known"
        if not part.multipliers:
            q = np.ones(1)  # one number for all channels
            first = weighted_bound(known[start], q, words)
            return KnownBound(first * constant, [])
        first = weighted_bound(known[start], part.multipliers[0], words)
        last = part.multipliers[-1]
        weighted = first * constant
        least = Fraction(float(last.min()))
        return KnownBound(weighted / least, [(last, weighted)])

    def joint(self, part: Part) -> Joint:
        """Return the kernel whose norm proves a part (Lemma 4, steps A to H)."""
        one = np.array(1.0)
        terms: list[Term] = []
        slopes = [(0.0, 1.0)]  # one for z_0, which no step reads
        pooling = None
        for end in range(1, len(part.values)):
            before = plain(part.values[end - 1])
            require(pooling is None, f"pooling at {before} stands in a part")
            function = self.function_at(part.values[end])
            pooling = function.pooling
            low, high = function.slopes
            slopes.append((min(low, 0.0), max(high, 0.0)))  # Lemma 4: a <= 0 <= b
            terms += self.terms(part, end, function.argument, one, 0)
        require(terms, "a part has no layer")
        pooling = pooling or ONE
        if len(terms) == 1:  # step G
            require(len(part.values) == 2, "layers of a part do not fit together")
            factor = pooling * largest_slope(slopes[1])
            (term,) = terms
            layer = term.layer
            if not part.at_own_size:
                layer = replace(layer, sizes=None)
            return Joint(term.kernel, layer, False, 1, factor)
        return joint_of(terms, slopes, pooling)

    def function_at(self, name: str) -> Function:
        """Return what a value of a part is a function of, entry by entry (step H)."""
        pooling = None
        require(name in self.nodes, f"a part ends at {plain(name)}, no computed value")
        node = self.nodes[name]
        while node.op in POOLS or node.op == "ReduceMean":
            factor = self.factor(name, node)
            if factor is None or not self.keeps_channels(node):
                raise Refused(f"{node.op} stands in a part")
            pooling = factor * (pooling or ONE)
            name = node.inputs[0]
            node = self.nodes[name]
        slopes = slopes_of(node)
        if slopes is None:
            return Function(name, (1.0, 1.0), pooling)
        self.require_constants(node)
        return Function(node.inputs[0], slopes, pooling)

    def keeps_channels(self, node: Node) -> bool:
        """Return whether pooling, or a mean, leaves the axes of batch and channels."""
        if node.op in POOLS:
            return True
        all_axes = [0]  # or the batch alone: both are refused
        axes = node.attributes.get("axes", all_axes)
        if len(node.inputs) > 1:
            axes = self.arrays[node.inputs[1]]
        return bool(min(axes) > 1)

    def has_constants(self, node: Node) -> bool:
        """Return whether all inputs of an operator but the first are constants."""
        others = set(node.inputs[1:])
        return others <= {"", *self.arrays}

    def require_constants(self, node: Node) -> None:
        """Refuse an operator of which another input than the first may move."""
        require(self.has_constants(node), f"a {node.op} of several values")

    def terms(
        self,
        part: Part,
        end: int,
        name: str,
        scale: Numbers,
        normalisations: int,
    ) -> Iterator[Term]:
        """Yield the terms of ``scale`` times a value, as a sum of layers of z_0, z_1, ...

        ``scale`` is one number, or one for each channel (step A), the product of those
        of so many normalisations.
        """
        if name in self.arrays:  # it changes no difference
            return
        node = self.nodes[name]
        if name in part.values[:end] or node.op in {"Pad", "Slice"}:
            yield self.shortcut(part, end, name, scale)
        elif node.op == "BatchNormalization":
            self.require_constants(node)
            more = normalisations + 1
            words = f"more than {MOST_NORMALISATIONS} normalisations behind a layer"
            require(more <= MOST_NORMALISATIONS, words)
            scales = product(scale, self.scales(node))
            yield from self.terms(part, end, node.inputs[0], scales, more)
        elif node.op in SUMS:
            for at, summand in enumerate(node.inputs):
                is_same = summand in self.arrays or self.have_shape([summand], name)
                require(is_same, f"{node.op} spreads a value of a part")
                sign = -1 if node.op == "Sub" and at == 1 else 1
                signed = sign * scale
                yield from self.terms(part, end, summand, signed, normalisations)
        else:
            require(node.op in LAYER_OPERATORS, f"{node.op} stands in a part")
            yield self.layer_term(part, end, node, scale)

    def layer_term(
        self,
        part: Part,
        end: int,
        node: Node,
        scale: Numbers,
    ) -> Term:
        """Return the term of a Conv or Gemm.

        It reads ``read``: the value ``start`` of the part, or this one flattened.
        """
        self.require_constants(node)
        read = node.inputs[0]
        start = read
        while start not in part.values[:end]:
            before = self.nodes[start]
            words = f"{before.op} stands before a layer of a part"
            require(before.op in SAME_ENTRIES, words)
            start = before.inputs[0]
        stored = self.arrays[node.inputs[1]].astype(np.float64)
        kernel, layer = read_kernel(node, stored, self.shape_of(read))
        return self.term(part, end, start, read, kernel, layer, scale)

    def shortcut(
        self,
        part: Part,
        end: int,
        name: str,
        scale: Numbers,
    ) -> Term:
        """Return the term of a value before, of some of its pixels, with more channels.

        It is a layer of one tap: the kernel is a matrix of zeros and ones.
        """
        start = name
        way = []
        while start not in part.values[:end]:
            node = self.nodes[start]
            words = f"{node.op} stands in a part"
            require(node.op in {"Pad", "Slice"}, words)
            self.require_constants(node)
            way.append(start)
            start = node.inputs[0]
        shape = self.shape_of(start)
        channels = np.eye(shape[1])
        strides = [1] * len(shape[2:])
        for value in reversed(way):
            if self.nodes[value].op == "Pad":
                of_rows = self.channels_padded(value)
                channels = np.pad(channels, (of_rows, (0, 0)))
            else:
                for at, step in enumerate(self.steps_of_slice(value)):
                    strides[at] *= step
        axes = []
        for stride in strides:
            axes.append(Axis(1, stride, 1, 0, 0))
        one_tap = [1] * len(axes)
        kernel = channels.reshape(*channels.shape, *one_tap)
        layer = Layer(tuple(axes), 1, "zeros", shape[2:])
        return self.term(part, end, start, start, kernel, layer, scale)

    def channels_padded(self, name: str) -> tuple[int, int]:
        """Return the numbers of constant channels that a Pad adds before and behind."""
        node = self.nodes[name]
        require(len(node.inputs) < 4, "such a Pad stands in a part")  # of some axes
        rank = len(self.shape_of(name))
        pads = self.arrays[node.inputs[1]].reshape(2, rank)
        front, back = pads[:, 1].tolist()
        is_of_channels = pads.min() >= 0 and pads.sum() == front + back
        require(is_of_channels, "padding of pixels stands in a part")
        return front, back

    def steps_of_slice(self, name: str) -> list[int]:
        """Return the steps, one an axis of pixels, of a Slice from the first pixel on.

        It leaves the axes of batch and channels as they are.
        """
        words = "such a Slice stands in a part"
        node = self.nodes[name]
        require(len(node.inputs) == 5, words)
        constants = [self.arrays[one].tolist() for one in node.inputs[1:]]
        starts, _, axes, steps = constants
        require(len(set(axes)) == len(axes), words)
        before = self.shape_of(node.inputs[0])
        after = self.shape_of(name)
        steps_of_pixels = [1] * len(before[2:])
        for start, axis, step in zip(starts, axes, steps, strict=True):
            require(start == 0 and step > 0 and axis >= 0, words)
            if axis > 1:
                steps_of_pixels[axis - 2] = step
            else:
                require(before[axis] == after[axis], words)
        return steps_of_pixels

    def term(
        self,
        part: Part,
        end: int,
        start: str,
        read: str,
        kernel: Numbers,
        layer: Layer,
        scale: Numbers,
    ) -> Term:
        """Return V_ij = q_i W_ij / q_j, W_ij being ``scale`` times a layer (step B).

        The layer reads the value ``read``, which has the entries of z_j = ``start``.
        """
        j = part.values.index(start)
        outputs, inputs, *_ = kernel.shape
        inputs *= layer.groups
        multiplied = scale * np.ones(outputs)
        divided = np.ones(inputs)
        if part.multipliers:
            q_i = part.multipliers[end]
            q_j = part.multipliers[j]
            shape = self.shape_of(start)
            shape_read = self.shape_of(read)
            flat = (shape[0], math.prod(shape[1:]))
            is_readable = shape_read == shape or (j == 0 and shape_read == flat)
            fits = len(q_j) == shape[1] and len(q_i) == outputs
            require(is_readable and fits, "multipliers are not one a channel")
            multiplied = product(multiplied, q_i)
            # Flattened, the pixels of a channel stand one behind the other.
            divided = 1 / np.repeat(q_j, inputs // len(q_j))
        weighted = scaled(kernel, layer.groups, multiplied, divided)
        return Term(j, end, weighted, layer)


# -- a part's kernel: Lemma 4 ----------------------------------------------------------
class Edge(NamedTuple):
    """A block of N, from one place to another: a kernel and where its first tap is."""

    start: int
    end: int
    kernel: Numbers
    first_tap: list[int]


def joint_of(
    terms: Sequence[Term],
    slopes: Sequence[tuple[float, float]],
    pooling: Fraction,
) -> Joint:
    """Return the kernel N + I/2 of several layers, or T if they are a chain."""
    require_fitting(terms)
    is_chain = all(term.end == term.start + 1 for term in terms)
    depths = [0] * len(slopes)
    for term in terms:
        depth = depths[term.start] + 1
        depths[term.end] = max(depths[term.end], depth)

    edges = edges_of(terms, slopes, is_chain)
    places = channels_of(edges)
    kernel = hermitian_kernel(edges, places)
    if is_chain:  # step F: rows of odd places, columns of even ones
        is_odd = []
        for place, channels in places.items():
            is_odd += [place % 2 == 1] * channels
        odd = np.array(is_odd)
        kernel = kernel[odd][:, ~odd]
    else:
        add_half_of_identity(kernel)
    axes = []
    for taps in kernel.shape[2:]:
        axes.append(Axis(taps, 1, 1, 0, 0))
    layer = Layer(tuple(axes), 1, "zeros", None)
    return Joint(kernel, layer, not is_chain, depths[-1], pooling)


def require_fitting(terms: Sequence[Term]) -> None:
    """Refuse terms that are not all on one grid (step D)."""
    words = "layers of a part do not fit together"
    pairs = {(term.start, term.end) for term in terms}
    require(len(pairs) == len(terms), words)
    strides_of_z_0 = set()
    for term in terms:
        strides = tuple(axis.stride for axis in term.layer.axes)
        if term.start == 0:
            strides_of_z_0.add(strides)
        else:
            require(max(strides, default=1) == 1, words)
    require(len(strides_of_z_0) < 2, words)


def edges_of(
    terms: Sequence[Term],
    slopes: Sequence[tuple[float, float]],
    is_chain: bool,
) -> list[Edge]:
    """Return the blocks of N below its diagonal (step C). The place i' is called -i."""
    last = len(slopes) - 1
    edges = []
    for term in terms:
        j, i = term.start, term.end
        v, first_tap = at_stride_one(term)
        if is_chain:  # step F: the taps may be moved
            first_tap = [-(taps // 2) for taps in v.shape[2:]]
        a, b = slopes[i]
        if i == last:
            steepest = product(v, np.array(max(-a, b)))
            edges.append(Edge(j, i, steepest, first_tap))
            continue
        mean = product(v, np.array((a + b) / 2))
        edges.append(Edge(j, i, mean, first_tap))
        if a * b < 0:
            curved = product(v, np.array(math.sqrt(-a * b)))
            edges.append(Edge(j, -i, curved, first_tap))
    return edges


def channels_of(edges: Sequence[Edge]) -> dict[int, int]:
    """Return the number of channels at each place, in the order of the kernel."""
    places: dict[int, int] = {}
    for edge in edges:
        outputs, inputs = edge.kernel.shape[:2]
        places.setdefault(edge.start, inputs)
        places.setdefault(edge.end, outputs)
        fits = places[edge.start] == inputs and places[edge.end] == outputs
        require(fits, "layers of a part do not fit together")
    return places


def hermitian_kernel(edges: Sequence[Edge], places: Mapping[int, int]) -> Numbers:
    """Return N: its blocks and their adjoints (step C)."""
    ranks = {edge.kernel.ndim for edge in edges}
    require(len(ranks) == 1, "layers of a part do not fit together")
    channels = {}
    count = 0
    for place, more in places.items():
        channels[place] = slice(count, count + more)
        count += more
    reach = [0] * (ranks.pop() - 2)
    for edge in edges:
        for at, first in enumerate(edge.first_tap):
            last = first + edge.kernel.shape[2 + at] - 1
            reach[at] = max(reach[at], -first, last)

    taps = [2 * r + 1 for r in reach]
    n = np.zeros((count, count, *taps))
    for edge in edges:
        taps_of_block = []
        taps_of_adjoint = []
        for at, first in enumerate(edge.first_tap):
            last = first + edge.kernel.shape[2 + at] - 1
            centre = reach[at]
            taps_of_block.append(slice(centre + first, centre + last + 1))
            taps_of_adjoint.append(slice(centre - last, centre - first + 1))
        start = channels[edge.start]
        end = channels[edge.end]
        n[end, start, *taps_of_block] = edge.kernel
        n[start, end, *taps_of_adjoint] = adjoint_of(edge.kernel)
    return n


def adjoint_of(kernel: Numbers) -> Numbers:
    """Return the kernel of the adjoint: channels exchanged, taps in reverse order."""
    exchanged = kernel.swapaxes(0, 1)
    taps = tuple(range(2, kernel.ndim))
    return np.flip(exchanged, taps)


def add_half_of_identity(n: Numbers) -> None:
    """Add I/2 to a kernel with an odd number of taps on each axis."""
    centre = [taps // 2 for taps in n.shape[2:]]
    diagonal = np.arange(len(n))
    n[diagonal, diagonal, *centre] += float(HALF)


def at_stride_one(term: Term) -> tuple[Numbers, list[int]]:
    """Return a term's kernel on the grid of its outputs, and where its first tap is.

    It has no groups and no dilation, but zeros between; phases of the input are channels
    (step D).
    """
    groups = term.layer.groups
    axes = term.layer.axes
    outputs, inputs, *_ = term.kernel.shape
    lengths = []
    first_taps = []
    taps: list[slice] = []
    for axis in axes:
        # So many zeros before the first tap make its place a multiple of the stride.
        front = -axis.before % axis.stride
        lengths.append(front + axis.reach + 1)
        taps.append(slice(front, None, axis.dilation))
        first_taps.append(-(axis.before + front) // axis.stride)
    phases = math.prod(axis.stride for axis in axes)
    size = outputs * groups * inputs * math.prod(lengths) * phases
    require(size < LARGEST_KERNEL, "its stride makes so many channels")

    whole = np.zeros((outputs, groups * inputs, *lengths))
    for group in range(groups):
        rows = block(group, outputs // groups)
        columns = block(group, inputs)
        whole[rows, columns, *taps] = term.kernel[rows]
    for at, axis in enumerate(axes):
        whole = split_axis(whole, 2 + at, axis.stride)
    return whole, first_taps


def block(number: int, length: int) -> slice:
    """Return the indices of one of several blocks of a length."""
    first = number * length
    return slice(first, first + length)


def scaled(
    kernel: Numbers,
    groups: int,
    of_outputs: Numbers,
    of_inputs: Numbers,
) -> Numbers:
    """Return a kernel with its outputs and its inputs multiplied by numbers."""
    _, inputs, *taps = kernel.shape
    by_group = kernel.reshape(groups, -1, inputs, math.prod(taps))
    rows = of_outputs.reshape(groups, -1, 1, 1)
    columns = of_inputs.reshape(groups, 1, -1, 1)
    whole = product(product(by_group, rows), columns)
    return whole.reshape(kernel.shape)


# -- rules -----------------------------------------------------------------------------
def slopes_of(node: Node) -> tuple[float, float] | None:
    """Return the least and the largest slope of a function of each entry, and 0."""
    if node.op == "LeakyRelu":
        alpha = node.attributes.get("alpha", 0.01)
        return min(alpha, 0.0), max(alpha, 1.0)
    return SLOPES.get(node.op)


def largest_slope(slopes: tuple[float, float]) -> Fraction:
    """Return the largest absolute slope."""
    low, high = slopes
    return Fraction(max(-low, high))


def factor_of_pool(node: Node) -> Fraction | None:
    """Return the constant of pooling: a pixel is in so many windows at most."""
    taps = node.attributes["kernel_shape"]
    ones = [1] * len(taps)
    strides = node.attributes.get("strides", ones)
    dilations = node.attributes.get("dilations", ones)
    windows = 1
    for k, s, r in zip(taps, strides, dilations, strict=True):
        step = s // math.gcd(s, r)
        windows *= -(-k // step)  # rounded up
    if node.op == "MaxPool":
        return root_up(Fraction(windows))
    is_padded = any(node.attributes.get("pads", []))
    if is_padded and not node.attributes.get("count_include_pad"):
        return None  # windows beyond the border are averages of fewer pixels
    return root_up(Fraction(windows, math.prod(taps)))


def read_kernel(
    node: Node,
    stored: Numbers,
    shape_read: tuple[int, ...],
) -> tuple[Numbers, Layer]:
    """Return the kernel and the geometry of a Conv or Gemm."""
    rank = len(shape_read)
    require(stored.ndim == rank, f"such a {node.op} stands in a part")
    if node.op == "Gemm":
        kernel = stored if node.attributes.get("transB") else stored.T
        alpha = np.array(node.attributes.get("alpha", 1.0))
        return product(kernel, alpha), Layer((), 1, "zeros", ())
    taps = list(stored.shape[2:])
    is_own = node.attributes.get("kernel_shape", taps) == taps
    require(is_own, f"such a {node.op} stands in a part")
    count = len(taps)
    strides = node.attributes.get("strides", [1] * count)
    dilations = node.attributes.get("dilations", [1] * count)
    pads = node.attributes.get("pads", [0] * 2 * count)
    axes = []
    for at in range(count):
        before, after = pads[at], pads[count + at]
        words = f"such a {node.op} stands in a part"
        require(min(strides[at], dilations[at]) > 0, words)
        require(min(before, after) >= 0, words)
        axis = Axis(taps[at], strides[at], dilations[at], before, after)
        axes.append(axis)
    groups = node.attributes.get("group", 1)
    layer = Layer(tuple(axes), groups, "zeros", shape_read[2:])
    return stored, layer


# -- numbers ---------------------------------------------------------------------------
def product(a: Numbers, b: Numbers) -> Numbers:
    """Return a product of floats, exact but for one relative rounding an entry."""
    found = np.asarray(a * b)
    is_normal = np.abs(found) > 2.0**-800
    is_zero = (a == 0) | (b == 0)
    words = "numbers so small that products are inexact"
    require((is_normal | is_zero).all(), words)
    return found


def root_of_squares(numbers: Sequence[Fraction]) -> Fraction:
    """Return the root of the sum of squares, rounded up."""
    squares = [x**2 for x in numbers]
    return root_up(sum(squares, Fraction(0)))


def weighted_bound(known: KnownBound, q: Numbers, words: str) -> Fraction:
    """Return a bound of |q (z - z')|, q a number for each channel (Networks, step 3)."""
    bounds = []
    if known.plain is not None:
        bounds.append(known.plain * Fraction(float(q.max())))
    for other, c in known.weighted:
        if len(other) == len(q):
            ratio = float((q / other).max())
            bounds.append(c * Fraction(ratio) * ROUNDED)
    require(bounds, words)
    return min(bounds)


def both(one: KnownBound, other: KnownBound) -> KnownBound:
    """Return what is known of a value by two bounds."""
    plain_bounds = [x for x in (one.plain, other.plain) if x is not None]
    least = min(plain_bounds) if plain_bounds else None
    return KnownBound(least, one.weighted + other.weighted)


# -- the file --------------------------------------------------------------------------
def require_known_definitions(model: Any) -> None:
    """Refuse operators whose definitions were not read."""
    sets = []
    for one in model.opset_import:
        if one.domain in ("", "ai.onnx"):
            sets.append(one.version)
    is_known = len(sets) == 1 and FIRST_SET <= sets[0] <= LAST_SET
    words = f"other sets than one from {FIRST_SET} to {LAST_SET}, or functions of its own"
    require(is_known, f"the model has operators of {words}")
    require(not model.functions, f"the model has operators of {words}")


def require_own_numbers(graph: Any) -> None:
    """Refuse numbers that are outside of the file."""
    tensors = list(graph.initializer)
    for node in graph.node:
        tensors += [attribute.t for attribute in node.attribute]
    for tensor in tensors:
        is_inside = not tensor.external_data
        require(is_inside, "the model has numbers outside of its file")


def constants_of(graph: Any) -> dict[str, Numbers]:
    """Return the constants of an ONNX graph by their names; bfloat16 as float32."""
    from onnx import numpy_helper

    arrays = {}
    for tensor in graph.initializer:
        arrays[tensor.name] = numpy_helper.to_array(tensor)
    for node in graph.node:
        if node.op_type != "Constant" or node.domain or len(node.attribute) != 1:
            continue
        (attribute,) = node.attribute
        if attribute.name == "value":
            arrays[node.output[0]] = numpy_helper.to_array(attribute.t)
        if attribute.name == "value_ints":
            arrays[node.output[0]] = np.array(attribute.ints, np.int64)
    for name, array in arrays.items():
        if array.dtype.name == "bfloat16":
            arrays[name] = array.astype(np.float32)
    return arrays


def set_input_shape(
    graph: Any,
    arrays: Mapping[str, Numbers],
    shape: object,
) -> str:
    """Write the input's shape into a graph, and return the input's name."""
    inputs = list(graph.input)
    is_constant = any(one.name in arrays for one in inputs)
    require(not is_constant, "a constant of the model is an input of it, too")
    require(len(inputs) == 1, "the model has not one input")
    kind = inputs[0].type.tensor_type
    is_floating = kind.elem_type in ONNX_FLOATING
    words = f"numbers of kind {kind.elem_type} of ONNX, not floating ones"
    require(is_floating, f"the model's input has {words}")
    sizes = kind.shape.dim
    numbers = whole_numbers(shape, len(sizes), least=1)
    require_moderate(numbers)
    for size, n in zip(sizes, numbers, strict=True):
        is_same = size.dim_value in (0, n)
        require(is_same, "the model's input has another shape")
        size.dim_value = n
    return str(inputs[0].name)


def require_small_numbers(graph: Any, arrays: Mapping[str, Numbers]) -> None:
    """Refuse numbers with which the integers of onnx wrap when it infers shapes."""
    for node in graph.node:
        if node.op_type not in ATTRIBUTES:
            continue
        whole_attributes = [0]
        for attribute in node.attribute:
            whole_attributes += [attribute.i, *attribute.ints]
        if node.op_type == "Pad" and len(node.input) > 1:
            pads = arrays.get(node.input[1], np.zeros(0))
            whole_attributes += pads.reshape(-1).tolist()
        least, largest = min(whole_attributes), max(whole_attributes)
        is_small = least > -BELOW and largest < BELOW
        require(is_small, f"{node.op_type} has a number of {BELOW} or more")


def require_moderate(shape: Sequence[int]) -> None:
    """Refuse a shape of so many entries that onnx or a sum of such may wrap."""
    is_moderate = math.prod(map(abs, shape)) < LARGEST_VALUE
    require(is_moderate, f"a value has {LARGEST_VALUE} entries or more")


def inferred_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes that onnx infers from the input's; those stated are left out."""
    import onnx

    graph = model.graph
    del graph.value_info[:]
    try:
        onnx.checker.check_model(model)
        for output in graph.output:
            output.type.tensor_type.ClearField("shape")
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    except Exception as error:  # of many kinds
        words = f"onnx finds fault with the model: {error}"
        raise Refused(words[:300]) from None
    shapes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        shape = tuple(size.dim_value for size in kind.shape.dim)
        if kind.HasField("shape") and all(shape):
            require(min(shape, default=1) > 0, "onnx infers a negative size")
            require_moderate(shape)
            shapes[value.name] = shape
    return shapes


def attributes_of(node: Any) -> dict[str, Any]:
    """Return an operator's attributes by their names."""
    from onnx import helper

    attributes = {}
    for one in node.attribute:
        attributes[one.name] = helper.get_attribute_value(one)
    return attributes


def known_operator(node: Any) -> str:
    """Return an operator's name; if no rule is for it as it is, a name without rules."""
    if node.domain:
        return plain(f"{node.domain}.{node.op_type}")[:LONGEST_OPERATOR]
    op = plain(node.op_type)[:LONGEST_OPERATOR]
    if op not in ATTRIBUTES:
        return op
    attributes = attributes_of(node)
    unknown = f"{op} as it is given"
    if set(attributes) - ATTRIBUTES[op]:
        return unknown
    for name, value in REQUIRED.items():
        if attributes.get(name, value) != value:
            return unknown
    if op == "BatchNormalization" and len(node.output) > 1:  # it is one in training
        return unknown
    return op
