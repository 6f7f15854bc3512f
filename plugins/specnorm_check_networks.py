"""Prove what a certificate of specnorm claims of ONNX networks: beside specnorm_check.py, which reads the file.

A claim says that |f(x) - f(y)| <= c |x - y| in 2-norms, for all x and y of a shape, in real arithmetic. The graph is
read from the model's file, value by value: a layer's norm is what an H proves of it, functions of each entry have their
slopes, pooling and averages their factors, sums the sum of the constants. Several layers in a row may be one part. What
is not known here has no constant, and a claim about what follows it is refused by name.

LEMMA 5 (LipSDP of a chain). z_i = f_i(W_i z_{i-1} + b_i), i = 1, ..., n, with zeros beyond the border. The slopes of
f_i are in [a_i, b_i], a_i <= 0 <= b_i; q_i > 0 is one number a channel; V_i = q_i W_i / q_{i-1}. T is the kernel from
even to odd places: a place i for each z_i, and one more, i', where a_i < 0 and i < n. Between i - 1 and i it is V_i
(a_i + b_i)/2, for i = n V_n max(-a_n, b_n); between i - 1 and i' V_i sqrt(-a_i b_i); the adjoint where i - 1 is odd.
If |T| <= s, any two inputs have |q_n (z_n - z_n')| <= s^n |q_0 (z_0 - z_0')|. Proof, for s = 1: let d_i be the
difference of z_i, and v_i that of W_i z_{i-1}. Then (d_i - a_i v_i)(d_i - b_i v_i) <= 0 in each entry, beyond the
border too, where d_i = 0. So |q_0 d_0|^2 - |q_n d_n|^2 is at least the sum of |q_0 d_0|^2, of |q_i d_i|^2 -
(a_i + b_i) <q_i d_i, q_i v_i> + a_i b_i |q_i v_i|^2 for i < n, and of -max(-a_n, b_n)^2 |q_n v_n|^2. That is the least
value over u_{i'} and u_n of |u|^2 - 2 <u_odd, T u_even>, u_i = q_i d_i: not negative. For other s put q_i / s^i for
q_i. Taps may be moved, each layer's together: a change of basis, since no places make a loop. A first layer of stride s
reads the phases of its input as channels. For one layer s = |V_1| max(-a_1, b_1), at any border.

POOLING. Of k pixels, s apart, with dilation r, a pixel is in ceil(k / (s / gcd(s, r))) windows an axis at most. So the
largest lift norms by the root of the product of these, and averages by that over the root of their number of pixels.

ARITHMETIC. Entries of T have fewer than 32 roundings of 2**-53, which are added as 2**-48 of them. The rest are
fractions.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from specnorm_check import (
    Numbers,
    Refused,
    at_least,
    bound,
    constants_of,
    number,
    phases_of,
    plain,
    require,
    root_up,
    wholes,
)

REAL = {1, 10, 11, 16}  # float32, float16, float64 and bfloat16, as ONNX numbers them
PART = {"values", "weights", "sizes", "exponent", "completion"}
SLOPES = {
    **dict.fromkeys(("Relu", "Tanh", "Softplus", "Softsign", "Clip", "Atan"), (0.0, 1.0)), "Sigmoid": (0.0, 0.25),
    **dict.fromkeys(("Abs", "Sin", "Cos"), (-1.0, 1.0)), "Neg": (-1.0, -1.0), "Gelu": (-0.12902, 1.12902),
    "HardSwish": (-0.5, 1.5), "Mish": (-0.12, 1.08851),
}  # fmt: skip
ALIKE = {"Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze"}  # the same entries in the same order
NEAR = {"Slice", "Split", "Pad", "Transpose", "TopK", "Softmax", "ReduceMax", "GlobalMaxPool"}  # moves none apart
POOLS, MEANS = {"MaxPool", "AveragePool"}, {"GlobalAveragePool", "ReduceMean"}
SUMS, LAYERS = {"Add", "Sub", "Sum"}, {"Conv", "ConvTranspose", "Gemm", "MatMul"}
HELD = (
    ALIKE | SUMS | {"Constant", "Shape", "Gather", "Cast", "Concat", "Slice", "Mul", "Div", "ConstantOfShape", "Range"}
)
"""Of constants they are constants."""


class Node(NamedTuple):
    """An operator: its name, inputs and attributes."""

    op: str
    inputs: list[str]
    given: dict[str, Any]


END = Node("the input of the graph", [], {})


class Link(NamedTuple):
    """A layer's kernel and geometry, factors of its outputs, slopes of what follows, and by how much pooling lifts."""

    reads: str
    kernel: Numbers
    geometry: dict[str, Any]
    rows: Any
    slopes: tuple[float, float]
    pools: list[Fraction]


class Network:
    """An ONNX graph with one input of a given shape; other shapes are inferred, not believed."""

    def __init__(self, content: bytes, input_shape: Any) -> None:
        import onnx

        model = onnx.ModelProto.FromString(content)
        graph = model.graph
        require(not any(one.external_data for one in graph.initializer), "the model has numbers outside of its file")
        self.arrays = constants_of(graph)
        inputs = [one for one in graph.input if one.name not in self.arrays]
        require(len(inputs) == 1, "the model has not one input")
        kind = inputs[0].type.tensor_type.elem_type  # of whole numbers quotients are rounded
        require(kind in REAL, f"the model's input has numbers of kind {kind} of ONNX, not floating ones")
        sizes = inputs[0].type.tensor_type.shape.dim
        for size, n in zip(sizes, wholes(input_shape, len(sizes), 1), strict=True):
            require(size.dim_value in (0, n), "the model's input has another shape")
            size.dim_value = n
        new = (
            all(one.domain not in ("", "ai.onnx") or one.version > 12 for one in model.opset_import)
            and not model.functions
        )
        require(new, "the model has operators from before set 13, or functions of its own")
        graph = _inferred(model)
        types = {one.name: one.type.tensor_type for one in (*graph.input, *graph.value_info, *graph.output)}
        shapes = {
            name: tuple(n.dim_value for n in one.shape.dim) for name, one in types.items() if one.HasField("shape")
        }
        self.shapes = {name: shape for name, shape in shapes.items() if all(shape)}
        self.start, self.ends, self.made = inputs[0].name, [one.name for one in graph.output], dict[str, Node]()
        for node in graph.node:
            given = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
            op, training = (
                f"{node.domain}.{node.op_type}".lstrip("."),
                node.op_type == "Dropout" and len(node.input) > 2,
            )
            unread = training or given.get("training_mode") or given.get("ceil_mode")
            unread = unread or (op[:4] != "Conv" and given.get("auto_pad", b"NOTSET") != b"NOTSET")
            op += " as it is given" if unread else ""
            for at, name in enumerate(node.output):
                self.made[name] = Node(f"output {at} of {op}" if at and op != "Split" else op, list(node.input), given)

    def constant(self, parts: Sequence[Mapping[str, Any]], completions: Sequence[Numbers]) -> Fraction:
        """A Lipschitz constant of all outputs together.

        Known of a value z: c with |z - z'| <= c |x - x'|, or None; and pairs (q, c) with |q (z - z')| <= c |x - x'|.
        """
        self.known: dict[str, tuple[Fraction | None, list[tuple[Numbers, Fraction]]]]
        self.known = dict.fromkeys(("", *self.arrays), (Fraction(0), [])) | {self.start: (Fraction(1), [])}
        for name, node in self.made.items():
            self.known.setdefault(name, (self._by_rule(name, node), []))
            for part, h in zip(parts, completions, strict=True):
                if part["values"][-1] == name:
                    self._join(part, h)
        unknown = {node.op for name, node in self.made.items() if self.known[name][0] is None}
        known = [end for end in (self.known[name][0] for name in self.ends) if end is not None]
        require(len(known) == len(self.ends), f"nothing is proven beyond one of {', '.join(sorted(unknown))}")
        return known[0] if len(known) == 1 else _root_of_squares(known)

    def _by_rule(self, name: str, node: Node) -> Fraction | None:
        """A value's constant, from those of what it is computed from."""
        moving = [one for one in node.inputs if self.known[one][0] != 0]
        known = [end for end in (self.known[one][0] for one in moving) if end is not None]
        if not moving or node.op == "Shape":
            return Fraction(0) if node.op in HELD else None
        alike = name in self.shapes and all(self.shapes.get(one) == self.shapes[name] for one in moving)
        if len(known) < len(moving):
            return None
        if node.op in SUMS and alike:
            return sum(known, Fraction(0))
        if node.op == "Concat" or (node.op in ("Max", "Min") and alike):
            return _root_of_squares(known)
        factor = self._factor(name, node) if moving == node.inputs[:1] else None
        return None if factor is None else known[0] * factor

    def _factor(self, name: str, node: Node) -> Fraction | None:
        """The constant of an operator of one value; None: it has none here."""
        (op, inputs, given), slopes = node, self._slopes_of(node)
        before, after = self.shapes.get(inputs[0], ()), self.shapes.get(name, ())
        if slopes is not None:
            return Fraction(max(map(abs, slopes)))
        if op == "BatchNormalization":
            return Fraction(float(np.abs(self._scales(node)).max())) * (1 + Fraction(1, 2**48))
        if op in ALIKE or (op in NEAR and given.get("mode", b"constant") == b"constant" and given.get("sorted", 1)):
            return Fraction(1)
        if op in {*MEANS, "ReduceSum"} and before and after:
            count = Fraction(math.prod(before), math.prod(after))
            return root_up(count if op == "ReduceSum" else 1 / count)
        if op in {"Mul", "Div"} and before == after and before and inputs[1] in self.arrays:
            numbers = np.abs(self.arrays[inputs[1]].astype(np.float64))
            return Fraction(float(numbers.max())) if op == "Mul" else 1 / Fraction(float(numbers.min()))
        if op not in POOLS or (
            op == "AveragePool" and any(given.get("pads", [])) and not given.get("count_include_pad")
        ):
            return None
        taps, ones = given["kernel_shape"], [1] * len(given["kernel_shape"])  # a pixel is in so many windows an axis
        axes = zip(taps, given.get("strides", ones), given.get("dilations", ones), strict=True)
        windows = math.prod(-(-k // (s // math.gcd(s, r))) for k, s, r in axes)
        return root_up(Fraction(windows, math.prod(taps) if op == "AveragePool" else 1))

    def _slopes_of(self, node: Node) -> tuple[float, float] | None:
        """Least and largest slope of a function of each entry."""
        alpha = node.given.get("alpha", 1.0)
        if node.op in ("LeakyRelu", "Elu"):
            return min(alpha, 0.0), max(alpha, 1.0)
        return SLOPES.get(node.op)

    def _scales(self, node: Node) -> Numbers:
        """What batch normalisation multiplies each channel by."""
        weights, _, _, variances = (self.arrays[one].astype(np.float64) for one in node.inputs[1:])
        found = weights / np.sqrt(variances + node.given.get("epsilon", float(np.float32(1e-5))))
        require(np.isfinite(found).all() and (variances >= 0).all(), "a batch normalisation divides by nothing")
        return np.asarray(found)

    def link(self, start: str, end: str) -> Link:
        """The one layer between two values, what normalises it, the function after that, and pooling after that."""
        name, stage, rows, slopes, pools = end, 0, np.ones(1), (1.0, 1.0), list[Fraction]()
        require(end in self.made, f"a part ends at {plain(end)}, which the graph does not compute")
        while (node := self.made.get(name, END)).op not in LAYERS:
            moving = [one for one in node.inputs if one and one not in self.arrays]
            require(len(moving) == 1, f"{node.op} of several values stands in a part")
            x = moving[0]
            of, factor = self._slopes_of(node), self._factor(name, node)
            adds = node.op in {"Add", "Identity", "Dropout"} or (node.op == "Sub" and x == node.inputs[0])
            if adds and self.shapes[x] == self.shapes[name]:  # a constant changes no difference
                pass
            elif of is not None and stage < 2:
                stage, slopes = 2, of
            elif node.op == "BatchNormalization":
                stage, rows = 3, rows * self._scales(node)
            else:
                require(factor is not None and not stage and self._by_channel(node), f"{node.op} stands in a part")
                pools.append(Fraction(factor or 1))
            name = x
        op, (x, *constants), given = node
        require(set(constants) <= {"", *self.arrays}, f"a {op} of several values")
        kernel = self.arrays[constants[0]].astype(np.float64)
        d = kernel.ndim - 2
        require(
            (d == 0 or op[:4] == "Conv") and not given.get("transA") and "output_shape" not in given, f"such a {op}"
        )
        if op[:4] != "Conv":
            kernel = (kernel if given.get("transB") else kernel.T) * given.get("alpha", 1.0)
        channels = stage < 3 or len(self.shapes[x]) == kernel.ndim  # what normalises them is one number a channel
        require(channels, f"a BatchNormalization of other axes than those of {op}")
        ones, pads = [1] * d, np.reshape(given.get("pads", [0] * 2 * d), (2, d)).T.tolist()
        geometry = {
            "layout": "OI", "stride": given.get("strides", ones), "dilation": given.get("dilations", ones),
            "groups": given.get("group", 1), "transposed": op == "ConvTranspose", "padding_mode": "zeros",
            "padding": pads, "sizes": "every", "auto_pad": given.get("auto_pad", b"NOTSET") != b"NOTSET",
        }  # fmt: skip
        name = x
        while name != start:
            node = self.made.get(name, END)
            require(node.op in ALIKE, f"{node.op} stands before a layer of a part")
            name = node.inputs[0]
        return Link(x, kernel, geometry, rows, slopes, pools)

    def _by_channel(self, node: Node) -> bool:
        """Whether it pools pixels, each channel by itself."""
        axes = self.arrays[node.inputs[1]] if len(node.inputs) > 1 else node.given.get("axes", [0])
        return node.op in {"GlobalAveragePool", *POOLS} or (node.op == "ReduceMean" and min(axes) > 1)

    def together(self, part: Mapping[str, Any]) -> tuple[Numbers, dict[str, Any], Fraction]:
        """What proves a part, a kernel and its geometry; and by how much slopes and pooling at its end lift."""
        names, weights = part["values"], _multipliers(part)
        links = [self.link(*pair) for pair in itertools.pairwise(names)]
        kernels = [self._scaled(at, link, names, weights) for at, link in enumerate(links)]
        steepest = 1.0 if links[1:] else max(map(abs, links[-1].slopes))
        lift = math.prod(links[-1].pools, start=Fraction(steepest))
        if len(links) == 1:
            free = (
                links[0].geometry["auto_pad"] or links[0].geometry["transposed"]
            )  # outputs may be more: output_padding
            require(part["sizes"] != "own" or not free, "a part at its size pads by itself, or is transposed")
            own = {"sizes": list(self.shapes[links[0].reads][2:])} if part["sizes"] == "own" else {}
            return kernels[0], {**links[0].geometry, **own}, lift
        wide = [one.geometry for one, kernel in zip(links, kernels, strict=True) if math.prod(kernel.shape[2:]) > 1]
        steps, first = [step for one in wide for step in one["dilation"]], max(links[0].geometry["stride"], default=1)
        fits = min(steps, default=1) == max(steps, default=1) and (first == 1 or max(steps, default=1) == 1)
        fits = (
            fits and not any(one.pools for one in links[:-1]) and not any(one.geometry["transposed"] for one in links)
        )
        fits = fits and all(max(one.geometry["stride"], default=1) == 1 for one in links[1:])
        require(fits, "layers of a part do not fit together")
        whole = _chain([_apart(kernel, one.geometry) for kernel, one in zip(kernels, links, strict=True)], links)
        ones = [1] * (whole.ndim - 2)
        return whole, {**links[0].geometry, "stride": ones, "dilation": ones, "groups": 1}, lift

    def _scaled(self, at: int, link: Link, names: Sequence[str], weights: Sequence[Numbers]) -> Numbers:
        """A layer's kernel, its outputs multiplied by what normalises them and multipliers, its inputs divided."""
        kernel, g, transposed = link.kernel, link.geometry["groups"], link.geometry["transposed"]
        sides = [len(kernel), kernel.shape[1] * g]
        inner, outer = sides if transposed else sides[::-1]
        reads, writes = np.ones(inner), link.rows * np.ones(outer)
        if weights:
            start, read, end = (self.shapes[one] for one in (names[at], link.reads, names[at + 1]))
            flat = len(start) > 2 and read == (start[0], math.prod(start[1:])) and at == 0
            fits = (read == start or flat) and len(read) == kernel.ndim and end[1] == outer
            require(
                fits and [len(q) for q in weights[at : at + 2]] == [start[1], outer],
                "multipliers are not one a channel",
            )
            reads, writes = 1 / np.repeat(weights[at], inner // start[1]), writes * weights[at + 1]
        found = kernel.reshape(g, len(kernel) // g, kernel.shape[1], -1)
        one, other = (reads, writes) if transposed else (writes, reads)
        for factor in (one.reshape(g, -1, 1, 1), other.reshape(g, 1, -1, 1)):
            before, found = found, found * factor
            large = (np.abs(found) > 2.0**-800) | (before == 0) | (factor == 0)
            require(large.all(), "numbers so small that products of them are inexact")
        return found.reshape(kernel.shape)

    def _join(self, part: Mapping[str, Any], h: Numbers) -> None:
        """Put what a part proves to what is known of its last value."""
        (start, *_, end), weights = part["values"], _multipliers(part)
        kernel, geometry, lift = self.together(part)
        s = bound(kernel, {**geometry, "exponent": part["exponent"]}, h, 2.0**-48)
        (least, pairs), (alone, others) = self.known[start], self.known[end]
        first, last = (weights[0], weights[-1]) if weights else (np.ones(1), np.ones(1))
        known = [] if least is None else [least * Fraction(float(first.max()))]
        known += [
            c * Fraction(float((first / q).max())) * (1 + Fraction(1, 2**50)) for q, c in pairs if len(q) == len(first)
        ]
        require(known, f"a part begins at {plain(start)}, of which nothing is known")
        found = min(known) * s ** (len(part["values"]) - 1) * lift
        total = found / Fraction(float(last.min()))
        self.known[end] = (
            (total if alone is None else min(alone, total)),
            [*others, *([(last, found)] if weights else [])],
        )


def _inferred(model: Any) -> Any:
    """A model's graph with shapes."""
    import onnx

    del model.graph.value_info[:]
    try:
        onnx.checker.check_model(model)
        for one in model.graph.output:
            one.type.tensor_type.ClearField("shape")
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except Exception as error:  # of many kinds
        raise Refused(f"onnx finds fault with the model: {error}"[:300]) from None


def _multipliers(part: Mapping[str, Any]) -> list[Numbers]:
    """Of each value of a part; none for a layer by itself, as it is."""
    count, weights = len(part["values"]), [np.array([number(text) for text in texts]) for texts in part["weights"]]
    require(
        count > 1 and (len(weights) == count or (count == 2 and not weights)),
        "a part has not multipliers for each value",
    )
    require(all(((q > 2.0**-99) & (q < 2.0**99)).all() for q in weights), "a multiplier is 0, or close to it or beyond")
    return weights


def _apart(kernel: Numbers, geometry: Mapping[str, Any]) -> Numbers:
    """A kernel of stride 1 without groups: zeros between them."""
    blocks = phases_of(kernel, geometry)
    (g, rows, columns, *taps), each = blocks.shape, range(len(blocks))
    whole = np.zeros((g, rows, g, columns, *taps))
    whole[each, :, each] = blocks
    return whole.reshape(g * rows, g * columns, *taps)


def _chain(kernels: Sequence[Numbers], links: Sequence[Link]) -> Numbers:
    """T of Lemma 5: its places are i, and -i for i'."""
    require(len({kernel.ndim for kernel in kernels}) == 1, "layers of a part do not fit together")
    sizes, edges = {0: kernels[0].shape[1]}, list[tuple[int, int, Numbers]]()
    for i, (kernel, link) in enumerate(zip(kernels, links, strict=True), 1):
        low, high, last = min(link.slopes[0], 0.0), max(link.slopes[1], 0.0), i == len(links)
        for place, slope in ((i, max(-low, high) if last else (low + high) / 2), (-i, math.sqrt(-low * high))):
            if place == i or (slope and not last):
                edges.append((i - 1, place, slope * kernel))
                sizes[place] = len(kernel)
    ends, places = [0, 0], {}
    for place, size in sizes.items():
        ends[place % 2] += size
        places[place] = slice(ends[place % 2] - size, ends[place % 2])
    taps = [max(axis) for axis in zip(*(kernel.shape[2:] for kernel in kernels), strict=True)]
    whole = np.zeros((ends[1], ends[0], *taps))
    for a, b, kernel in edges:
        if a % 2:
            a, b, kernel = b, a, np.flip(kernel.swapaxes(0, 1), tuple(range(2, kernel.ndim)))
        whole[(places[b], places[a], *map(slice, kernel.shape[2:]))] = kernel
    return whole


def _root_of_squares(numbers: Sequence[Fraction]) -> Fraction:
    return root_up(sum((x**2 for x in numbers), Fraction(0)))


def proven(statement: Mapping[str, Any], completions: Sequence[Numbers], content: bytes) -> str:
    """Prove one claim and say what was read and proven."""
    require(
        set(statement) == {"name", "sha256", "input_shape", "upper", "parts"},
        "it has other entries than a claim about a network",
    )
    require(content, "a claim about a network needs the .onnx file that it is about")
    require(statement["sha256"] == hashlib.sha256(content).hexdigest(), "the model's file is another one")
    parts, upper, shape = (statement[key] for key in ("parts", "upper", "input_shape"))
    require(all(set(part) == PART for part in parts), "a part has other entries than those of a part")
    claimed, network = number(upper), Network(content, shape)
    proven = network.constant(parts, completions)
    if proven > Fraction(claimed):
        raise Refused(f"it claims {claimed!r}, and its parts prove no less than {at_least(proven)!r}")
    ops, most = [node.op for node in network.made.values()], max((len(part["values"]) - 1 for part in parts), default=0)
    read = ", ".join(f"{ops.count(op)} {op}" for op in dict.fromkeys(ops))
    said = (
        f"Lipschitz constant <= {claimed!r} ({upper}) of the input {'x'.join(map(str, shape))}, by {len(parts)} parts"
    )
    return f"{said} of {most} layers at most, of {read}, {statement['sha256'][:16]}"
