"""Read the graph of an ONNX file: its constants, its operators, the shapes of its values.

Shapes are those that onnx infers from the input's shape and from constants of the file;
shapes that the file states are not believed. An operator with attributes that its rule
does not cover is renamed to a phrase with spaces, such as "Pad as it is given", which is
the name of no operator, so that no rule matches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from specnorm_check.arithmetic import Array, Refused, entries_at, require
from specnorm_check.statements import NUMBER_LIMIT, digest, plain, whole_numbers

FLOATING_ELEM_TYPES = {1, 10, 11, 16}  # float32, float16, float64, bfloat16 in ONNX
FIRST_OPSET = 13  # the authors read the definitions of operators from this set on
LAST_OPSET = 28  # up to this one
LONGEST_OPERATOR = 80  # characters of its name
MOST_ENTRIES = 2**32  # of one tensor

OPERATORS = """
    Abs Add Asinh Atan Clip Cos Div Erf Exp Expand HardSwish Identity Log MatMul Max Min \
    Mish Mul Neg Pow PRelu Reciprocal Relu Sigmoid Sign Sin Slice Softplus Softsign Sqrt \
    Squeeze Sub Sum Tanh Tile Unsqueeze Where:
    Attention: is_causal qk_matmul_output_mode scale softcap
    AveragePool Conv ConvTranspose MaxPool: auto_pad dilations kernel_shape pads strides
    AveragePool MaxPool: ceil_mode
    AveragePool: count_include_pad
    BatchNormalization: epsilon momentum training_mode
    Celu Elu HardSigmoid LeakyRelu Selu Swish: alpha
    Concat Flatten Gather LogSoftmax ScatterElements Softmax Split TopK: axis
    Conv ConvTranspose: group
    ConvTranspose: output_padding
    CumSum: exclusive reverse
    DepthToSpace SpaceToDepth: blocksize
    DepthToSpace Pad: mode
    Einsum: equation
    GatherND: batch_dims
    Gelu: approximate
    Gemm: alpha beta transA transB
    HardSigmoid: beta
    LayerNormalization RMSNormalization: axis epsilon stash_type
    MaxPool: storage_order
    ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceSum: axes keepdims \
        noop_with_empty_axes
    Reshape: allowzero
    Resize: antialias coordinate_transformation_mode cubic_coeff_a exclude_outside \
        extrapolation_value keep_aspect_ratio_policy mode nearest_mode
    ScatterElements ScatterND: reduction
    Selu: gamma
    Split: num_outputs
    TopK: largest sorted
    Transpose: perm
    Trilu: upper
"""
"""The operators that a rule is for, and attributes that these may have: the rule reads
them, or holds for any value of them."""
ALLOWED_ATTRIBUTES: dict[str, set[str]] = {}
for line in OPERATORS.strip().splitlines():
    operators, names = line.split(":")
    for operator in operators.split():
        ALLOWED_ATTRIBUTES.setdefault(operator, set()).update(names.split())
ELEM_TYPES_OF_CASTS = {1: np.float32, 7: np.int64, 11: np.float64}  # by ONNX's numbers
WHOLE_ARITHMETIC = {
    "Add": np.add,
    "Div": np.floor_divide,
    "Mod": np.mod,
    "Mul": np.multiply,
    "Sub": np.subtract,
}
ONLY_VALUES = {
    "antialias": 0,
    "approximate": b"none",
    "auto_pad": b"NOTSET",
    "ceil_mode": 0,
    "exclude_outside": 0,
    "keep_aspect_ratio_policy": b"stretch",
    "softcap": 0.0,
    "sorted": 1,
    "training_mode": 0,
    "transA": 0,
}
"""Attributes that must have this value if an operator states them: the rules need it."""


class Node(NamedTuple):
    """The operator that computes a value."""

    op: str
    inputs: list[str]
    attributes: dict[str, Any]


class Graph:
    """An ONNX graph with one input, whose shape the claim states.

    ``start`` is the name of the input, ``ends`` are the names of the outputs.
    ``arrays`` has the arrays that the file states, by their names. ``nodes`` has the
    operator of each other value by its name, in the order of the graph, the input
    first. ``shapes`` has the shape of each value for which onnx infers one. Of values
    that equal operators compute from equal values, operators read the first; ``first``
    has its name. ``fixed`` has the names of values that are computed from arrays alone.
    ``written_out`` has for some values the name of an equal one, which other operators
    compute.
    """

    def __init__(self, content: bytes, input_shape: object) -> None:
        import onnx

        model = onnx.ModelProto.FromString(content)
        graph = model.graph
        require_known_definitions(model)
        require_numbers_in_file(graph)
        self.arrays = fixed_arrays_of(graph)
        require_small_numbers(graph, self.arrays)
        self.start = set_input_shape(graph, self.arrays, input_shape)
        self.ends = [output.name for output in graph.output]
        require(self.ends, "the model has no output")
        self.shapes = inferred_shapes(model)  # from the input's, which is set
        while put_arrays(graph, self.arrays, self.shapes):
            self.shapes = inferred_shapes(model)
        name_without_rule = "the input of the graph"
        self.nodes = {self.start: Node(name_without_rule, [], {})}
        self.first = names_of_equal_arrays(self.arrays)
        left_out = ""  # the name that ONNX gives to an optional input
        self.fixed = {left_out, *self.arrays}
        self.written_out: dict[str, str] = {}
        computed: dict[str, str] = {}
        for stated in graph.node:
            inputs = [self.first.get(name, name) for name in stated.input]
            for name, node in self._nodes_of(stated, inputs):
                self.nodes[name] = node
                # Operators that a rule is for are functions of their inputs.
                if node.op in ALLOWED_ATTRIBUTES and name:
                    if not self.changing_inputs(name):
                        self.fixed.add(name)
                    key = f"{node.op} {sorted(node.attributes.items())} {inputs}"
                    self.first[name] = computed.setdefault(key, name)
        self.ends = [self.first.get(name, name) for name in self.ends]

    def _nodes_of(self, node: Any, inputs: list[str]) -> Iterator[tuple[str, Node]]:
        """Yield the name and the operator of each output.

        Rules are for first outputs; another gets a name that no rule is for. Each output
        of a Split is one operator, which takes its entries "first" up to "last".
        """
        op = known_operator(node)
        attributes = attributes_of(node)
        if op == "Mul" and inputs[0] in self.arrays:
            inputs = inputs[::-1]
        if op == "PRelu":
            slopes = self.arrays.get(inputs[1], np.full((), np.nan))
            shape = self.shapes.get(inputs[0], ())
            if shape != np.broadcast_shapes(shape, slopes.shape):
                op = "PRelu that repeats its entries"
            attributes["alphas"] = [float(slopes.min()), float(slopes.max())]
        if op == "Clip" and any(np.shape(self.arrays.get(x, 0)) for x in inputs[1:]):
            op = "Clip whose limit is not a single number"  # and may repeat what it clips
        if op == "Split" and all(x in self.shapes for x in (inputs[0], *node.output)):
            axis = attributes.get("axis", 0)
            ends = np.cumsum([0, *(self.shapes[name][axis] for name in node.output)])
            require(ends[-1] == self.shapes[inputs[0]][axis], "a Split of another size")
            for index, name in enumerate(node.output):
                first, last = ends[index : index + 2].tolist()
                how = {"axis": axis, "first": first, "last": last}
                yield name, Node(op, inputs[:1], how)
            return
        if op == "Split":
            op = "Split as it is given"
        for index, name in enumerate(node.output):
            op_of_output = op if index == 0 else f"output {index} of {op}"
            yield name, Node(op_of_output, inputs, attributes)

    def sources(self, name: str) -> list[str]:
        """Return the values from which Lemma 7 reads a value, one for each use."""
        if name in self.written_out:
            return [self.written_out[name]]
        return self.changing_inputs(name)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape of a value or an array, which has to be known."""
        if name in self.arrays:
            return self.arrays[name].shape
        require(name in self.shapes, f"onnx infers no shape of {plain(name)}")
        return self.shapes[name]

    def axes_of(self, node: Node) -> list[int]:
        """Return the axes that a reduction states; none may stand for all of them."""
        stated = [self.arrays[name].tolist() for name in node.inputs[1:] if name]
        return list(stated[0] if stated else node.attributes.get("axes", []))

    def have_shape(self, names: Sequence[str], name: str) -> bool:
        """Return whether the values ``names`` have the shape of the value ``name``.

        False if onnx infers no shape of it.
        """
        shape = self.shapes.get(name)
        return shape is not None and all(self.shapes.get(x) == shape for x in names)

    def changing_inputs(self, name: str) -> list[str]:
        """Return the inputs of an operator that are not fixed, one for each use."""
        return [x for x in self.nodes[name].inputs if x not in self.fixed]

    def has_fixed_inputs(self, node: Node) -> bool:
        """Return whether all inputs but the first are arrays of the file."""
        return {*node.inputs[1:]} <= {"", *self.arrays}  # "": an input that is left out

    def require_fixed_inputs(self, node: Node) -> None:
        """Refuse an operator with an input, other than the first, that is computed."""
        is_fixed = self.has_fixed_inputs(node)
        require(is_fixed, f"a {node.op} with a further input that is computed")


# -- the file --------------------------------------------------------------------------
def require_known_definitions(model: Any) -> None:
    """Refuse operators whose definitions the authors of the rules have not read."""
    opsets = [x.version for x in model.opset_import if x.domain in ("", "ai.onnx")]
    is_known = len(opsets) == 1 and FIRST_OPSET <= opsets[0] <= LAST_OPSET
    sets = f"one operator set of ONNX from {FIRST_OPSET} to {LAST_OPSET}"
    message = f"the model does not import just {sets}, or has functions of its own"
    require(is_known and not model.functions, message)


def require_numbers_in_file(graph: Any) -> None:
    """Refuse numbers that are outside of the file."""
    is_outside = any(tensor.external_data for tensor in tensors_of(graph))
    require(not is_outside, "the model has numbers outside of its file")


def tensors_of(graph: Any) -> list[Any]:
    """Return the tensors of a graph: its initializers and those of its operators."""
    of_nodes = [attribute.t for node in graph.node for attribute in node.attribute]
    return [*graph.initializer, *of_nodes]


def fixed_arrays_of(graph: Any) -> dict[str, Array]:
    """Return the arrays that an ONNX graph states, by their names.

    They are its initializers and the Constant operators that hold a tensor or numbers.
    Arrays of bfloat16 are returned as float32, which is exact.
    """
    from onnx import numpy_helper

    arrays = {x.name: numpy_helper.to_array(x) for x in graph.initializer}
    for node in graph.node:
        if node.op_type != "Constant" or node.domain or len(node.attribute) != 1:
            continue
        (attribute,) = node.attribute
        kinds = {"value_ints": ("ints", np.int64), "value_floats": ("floats", np.float32)}
        if attribute.name == "value":
            arrays[node.output[0]] = numpy_helper.to_array(attribute.t)
        elif attribute.name in kinds:
            field, dtype = kinds[attribute.name]
            arrays[node.output[0]] = np.array(getattr(attribute, field), dtype)
    for name, array in arrays.items():
        if array.dtype.name == "bfloat16":
            arrays[name] = array.astype(np.float32)
    return arrays


def names_of_equal_arrays(arrays: Mapping[str, Array]) -> dict[str, str]:
    """Return for each array the name of the first that has the same bits."""
    names: dict[str, str] = {}
    keys = {x: f"{y.dtype.name} {y.shape} {digest(y)}" for x, y in arrays.items()}
    return {name: names.setdefault(key, name) for name, key in keys.items()}


def require_small_numbers(graph: Any, arrays: Mapping[str, Array]) -> None:
    """Refuse numbers so large that onnx's integers overflow when it infers shapes.

    Operators without a rule are skipped: a value that is computed from one has no bound,
    so that its shape is never used. Of the operators with a rule, only Pad adds numbers
    of an array to sizes. A Reshape states sizes, which `require_moderate` limits, and a
    Slice clips its numbers to the size.
    """
    for node in graph.node:
        if node.op_type not in ALLOWED_ATTRIBUTES:
            continue
        numbers = [0, *(n for x in node.attribute for n in (x.i, *x.ints))]
        if node.op_type == "Pad" and len(node.input) > 1:
            pads = arrays.get(node.input[1], np.zeros(0))
            numbers += pads.reshape(-1).tolist()
        is_small = min(numbers) > -NUMBER_LIMIT and max(numbers) < NUMBER_LIMIT
        require(is_small, f"{node.op_type} has a number of {NUMBER_LIMIT} or more")


def set_input_shape(graph: Any, arrays: Mapping[str, Array], shape: object) -> str:
    """Write the input's shape into a graph, and return the input's name."""
    inputs = list(graph.input)
    is_constant = any(graph_input.name in arrays for graph_input in inputs)
    require(not is_constant, "a constant of the model is an input of it, too")
    require(len(inputs) == 1, "the model has not one input")
    tensor_type = inputs[0].type.tensor_type
    is_floating = tensor_type.elem_type in FLOATING_ELEM_TYPES
    message = f"numbers of kind {tensor_type.elem_type} of ONNX, not floating ones"
    require(is_floating, f"the model's input has {message}")
    sizes = tensor_type.shape.dim
    numbers = whole_numbers(shape, len(sizes), least=1)
    require_moderate(numbers)
    for size, n in zip(sizes, numbers, strict=True):
        is_same = size.dim_value <= 0 or size.dim_value == n  # 0: it is not stated
        require(is_same, "the model's input has another shape")
        size.dim_value = n
    return str(inputs[0].name)


def inferred_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes that onnx infers from the input's, without those of the file."""
    import onnx

    graph = model.graph
    del graph.value_info[:]
    for output in graph.output:  # onnx finds fault with an output without a shape
        output.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
        for output in graph.output:
            output.type.tensor_type.ClearField("shape")
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    except Exception as error:  # onnx raises many kinds
        unknown = {known_operator(node) for node in graph.node} - {*ALLOWED_ATTRIBUTES}
        message = f"onnx finds fault with the model: {error}"
        if unknown and isinstance(error, onnx.shape_inference.InferenceError):
            message = f"onnx infers nothing beyond one of {', '.join(sorted(unknown))}"
        raise Refused(message[:300]) from None
    shapes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor_type = value.type.tensor_type
        shape = tuple(size.dim_value for size in tensor_type.shape.dim)
        has_all_sizes = tensor_type.HasField("shape") and all(shape)  # unknown ones are 0
        if has_all_sizes:
            require(min(shape, default=1) > 0, "onnx infers a negative size")
            require_moderate(shape)
            shapes[value.name] = shape
    return shapes


def put_arrays(
    graph: Any, arrays: dict[str, Array], shapes: Mapping[str, tuple[int, ...]]
) -> int:
    """Put arrays in place of operators that compute sizes; return how many there are.

    Sizes are the Shape of a value, and what `array_of` computes of sizes and arrays.
    """
    from onnx import numpy_helper

    put = 0
    for node in list(graph.node):
        array = array_of(node, arrays, shapes)
        if array is not None:
            (name,) = node.output
            arrays[name] = array
            graph.initializer.append(numpy_helper.from_array(array, name))
            graph.node.remove(node)
            put += 1
    return put


def array_of(
    node: Any, arrays: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]
) -> Array | None:
    """Return the array that an operator computes of the file's arrays, or None.

    It is exact: arrays are joined or taken apart, and whole numbers below 2^24 added,
    multiplied or divided.
    """
    attributes = attributes_of(node)
    if node.domain or len(node.output) != 1:
        return None
    if node.op_type == "Shape" and node.input[0] in (*shapes, *arrays):
        (source,) = node.input
        whole = arrays[source].shape if source in arrays else shapes[source]
        shape = whole[attributes.get("start", 0) : attributes.get("end")]
        return np.array(shape, np.int64)
    if not node.input or not all(name in arrays for name in node.input):
        return None
    given = [arrays[name] for name in node.input]
    if node.op_type == "Cast" and attributes.get("to") in ELEM_TYPES_OF_CASTS:
        after = given[0].astype(ELEM_TYPES_OF_CASTS[attributes["to"]])
        is_floating = after.dtype.kind == "f"
        return after if is_floating or bool((after == given[0]).all()) else None
    if node.op_type == "Expand" and math.prod(given[1].tolist()) < NUMBER_LIMIT:
        sizes = np.broadcast_shapes(given[0].shape, tuple(given[1].tolist()))
        return np.broadcast_to(given[0], sizes)
    if any(array.ndim > 1 or array.dtype != given[0].dtype for array in given):
        return None
    if node.op_type == "Concat" and all(array.ndim == 1 for array in given):
        return np.concatenate(given)
    if node.op_type == "Reshape" and given[0].size == 1 and given[1].size == 1:
        return given[0].reshape(1)
    if any(array.dtype != np.int64 or not small_numbers(array) for array in given):
        return None
    if node.op_type in ("Squeeze", "Unsqueeze") and all(x.size == 1 for x in given):
        more = -1 if node.op_type == "Squeeze" else 1
        return given[0].reshape((1,) * max(given[0].ndim + more, 0))
    if node.op_type == "Gather" and given[0].ndim == 1:
        return entries_at(*given)
    if node.op_type in WHOLE_ARITHMETIC:
        if node.op_type in ("Div", "Mod") and not given[1].min() > 0:
            return None
        return np.asarray(WHOLE_ARITHMETIC[node.op_type](*given))
    return None


def small_numbers(array: Array) -> bool:
    """Return whether whole numbers are from 0 to below 2^24."""
    return array.size > 0 and bool(array.min() >= 0 and array.max() < NUMBER_LIMIT)


def require_moderate(shape: Iterable[int]) -> None:
    """Refuse a shape of so many entries that products or sums of sizes may overflow."""
    is_moderate = math.prod(map(abs, shape)) < MOST_ENTRIES
    require(is_moderate, f"a value has {MOST_ENTRIES} entries or more")


# -- operators -------------------------------------------------------------------------
def attributes_of(node: Any) -> dict[str, Any]:
    """Return an operator's attributes by their names."""
    from onnx import helper

    return {x.name: helper.get_attribute_value(x) for x in node.attribute}


def known_operator(node: Any) -> str:
    """Return an operator's name, or, if its attributes have no rule, another name."""
    if node.domain:
        return plain(f"{node.domain}.{node.op_type}")[:LONGEST_OPERATOR]
    op = plain(node.op_type)[:LONGEST_OPERATOR]
    if op not in ALLOWED_ATTRIBUTES:
        return op
    attributes = attributes_of(node)
    has_rule = set(attributes) <= ALLOWED_ATTRIBUTES[op]
    for name, value in attributes.items():
        has_rule &= ONLY_VALUES.get(name, value) == value
    has_rule &= op != "BatchNormalization" or len(node.output) == 1  # not as in training
    return op if has_rule else f"{op} as it is given"
