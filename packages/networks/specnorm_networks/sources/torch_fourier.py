"""Linear layers that compute by Fourier transforms (Cayley, LOT, Sandwich), written as circular convolutions.

As a function from one real value to the next one, such a layer is linear, by the operators between them, and commutes
with shifts of the pixels. So it is a convolution: the answers to an impulse in each channel are its kernel, which is as
large as the input. The convolution is compared with the function on random inputs: a bound is about the file with the
convolution, and the file is compared with the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_leaves

from specnorm_networks.model import equal_but_for_rounding
from specnorm_networks.sources.torch_values import computed, first_of

SAMPLES = 3
"""Number of random inputs on which a convolution is compared with the function in its place."""
LARGEST = 2**24
"""Largest number of entries of a kernel."""
_TO_REAL = ("aten.fft_irfft", "aten.fft_hfft")
"""Beginnings of the names of transforms with real outputs, which may have real inputs, too."""
_CONVOLUTIONS: dict[int, Any] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
"""Classes of convolutions by the number of axes of their input."""


_SUMS = frozenset(("add", "sub", "cat", "stack", "complex"))
"""Operators that are linear in all of their inputs together."""
_PRODUCTS = frozenset(("mul", "div", "matmul", "mm", "bmm", "einsum", "linear"))
"""Operators that are linear in one of their inputs if the others are fixed."""
_MOVES = frozenset((
    "_conj", "_conj_physical", "_to_copy", "alias", "clone", "conj", "constant_pad_nd", "contiguous", "detach",
    "expand", "flatten", "flip", "imag", "index", "narrow", "neg", "pad", "permute", "real", "reshape", "resolve_conj",
    "roll", "select", "slice", "squeeze", "sum", "t", "to", "transpose", "unflatten", "unsqueeze", "view",
    "view_as_complex", "view_as_real",
))  # fmt: skip
"""Operators that are linear in the only input that they have, besides the transforms."""
_TRANSFORMS = ("fft_", "_fft_")


class NoConvolution(Exception):
    """A value is not seen to be a circular convolution of a real value."""


def is_complex(node: Node) -> bool:
    """Whether an fx node's value is complex."""
    value = first_of(node)
    return isinstance(value, Tensor) and value.is_complex()


def has_complex(node: Node) -> bool:
    """Whether an fx node's value is complex, or a transform between real values, which has complex ones inside."""
    return is_complex(node) or str(node.target).startswith(_TO_REAL)


def with_real_layers(program: GraphModule) -> GraphModule:
    """Return a program with circular convolutions in place of linear functions with complex values.

    Parameters
    ----------
    whole : GraphModule
        The program; values that depend on no input are attributes. It is changed.
    """
    for node in list(program.graph.nodes):
        reads_complex = has_complex(node) or any(map(is_complex, node.all_input_nodes))
        if is_complex(node) or not reads_complex:
            continue
        if not isinstance(first_of(node), Tensor):
            if node.op == "call_function" and not node.users:
                program.graph.erase_node(node)  # an assertion about a value's type, as casts leave one
            continue
        # The real part of a complex value is a slice of both parts.
        has_both_parts = node.target is torch.ops.aten.view_as_real.default
        users = list(node.users)
        ends = [node]
        if has_both_parts and len(users) == 1 and users[0].op != "output":
            ends = [users[0], node]
        for end in ends:
            with suppress(NoConvolution):
                layer, start = _real_layer(program, end)
                program.add_submodule(f"fourier_{end.name}", layer)
                with program.graph.inserting_before(end):
                    call = program.graph.call_module(f"fourier_{end.name}", (start,))
                call.meta = dict(end.meta)
                end.replace_all_uses_with(call)
                program.graph.eliminate_dead_code()
                break
    return GraphModule(program, program.graph)  # without complex constants that nothing reads any more


def _real_layer(
    program: GraphModule,
    end: Node,
) -> tuple[nn.Module, Node]:
    """Return the layer that computes a real value, and the real value that the layer reads.

    `NoConvolution` if no convolution agrees with the program on random inputs.
    """
    function_of_start, start = _between(program, end)
    _require_linear(function_of_start)
    input_tensor = first_of(start)
    output_tensor = first_of(end)

    def function(x: Tensor) -> Tensor:
        """Compute the end from the start for any number of samples, also if the program is traced for one number."""
        count = input_tensor.shape[0]
        if not isinstance(count, int):
            return torch.as_tensor(function_of_start(x))
        return torch.cat([function_of_start(sample.expand(count, *sample.shape))[:1] for sample in x])

    input_shape = list(input_tensor.shape[1:])
    output_shape = list(output_tensor.shape[1:])
    has_fixed_sizes = all(isinstance(n, int) for n in (*input_shape, *output_shape))
    if not input_shape or not output_shape or not has_fixed_sizes:
        raise NoConvolution
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, *input_shape, generator=generator).to(input_tensor.dtype).to(input_tensor.device)
    layer = _convolution(function, input_tensor, input_shape, output_shape)
    if not equal_but_for_rounding(computed(layer(x)), computed(function(x))):
        raise NoConvolution
    return layer, start


def _require_linear(function: GraphModule) -> None:
    """Refuse a function of a value (`NoConvolution`) in which some operator is not linear in what depends on it."""
    moving: set[Node] = set()
    for node in function.graph.nodes:
        if node.op == "placeholder":
            moving.add(node)
        arguments = [leaf for leaf in tree_leaves((node.args, node.kwargs)) if leaf in moving]
        is_size = node.target is torch.ops.aten.sym_size.int
        if node.op != "call_function" or not arguments or is_size:
            continue
        name = getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
        is_of_one = len(arguments) == 1 and (name in _MOVES or name.startswith(_TRANSFORMS))
        is_product = len(arguments) == 1 and name in _PRODUCTS and (name != "div" or node.args[0] in moving)
        if not (is_of_one or is_product or name in _SUMS):
            raise NoConvolution
        moving.add(node)


Function = Callable[[Tensor], Tensor]
"""Function of a batch of samples."""


def _convolution(
    function: Function,
    like: Tensor,
    input_shape: list[int],
    output_shape: list[int],
) -> nn.Module:
    """Return the circular convolution whose answer to an impulse in each channel is the function's.

    Shapes are without the batch axis; ``like`` has the input's dtype and device. `NoConvolution` if no convolution has
    such shapes, or the kernel is too large.
    """
    channels, *sizes = input_shape
    has_such_shapes = like.ndim in _CONVOLUTIONS and output_shape[1:] == sizes
    if not has_such_shapes or output_shape[0] * math.prod(input_shape) > LARGEST:
        raise NoConvolution
    # One sample for each channel, 1 at the channel's first pixel. `like` is a fake tensor: a tensor that torch made
    # like it would be fake, too.
    impulses = torch.zeros(channels, channels, math.prod(sizes), dtype=like.dtype, device=like.device)
    impulses[..., 0].fill_diagonal_(1.0)
    impulses = impulses.reshape(channels, channels, *sizes)
    offset = function(torch.zeros_like(impulses[:1]))
    # The answer to an impulse at pixel 0 has tap p at pixel -p. In a layer's kernel tap 0 is in the middle.
    answers = (function(impulses) - offset).transpose(0, 1)
    axes = tuple(range(2, like.ndim))
    kernel = answers.flip(axes).roll([1 + (n - 1) // 2 for n in sizes], axes)
    layer: nn.Module = _CONVOLUTIONS[like.ndim](
        channels,
        offset.shape[1],
        tuple(sizes),
        padding="same",
        padding_mode="circular",
        dtype=like.dtype,
        device=like.device,
    )
    layer.weight = nn.Parameter(kernel.contiguous(), requires_grad=False)
    bias = offset[0].reshape(offset.shape[1], -1)[:, 0]
    layer.bias = nn.Parameter(bias.contiguous(), requires_grad=False)
    return layer


def _computed_by_complex_values(end: Node) -> tuple[set[Node], set[Node]]:
    """Return the nodes that compute a value by complex values, and the real values that they read."""
    inside = {end}
    waiting = [end]
    starts = set()
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if is_complex(source) or source.target is torch.ops.aten.view_as_real.default:
                if source not in inside and source.op == "call_function":
                    inside.add(source)
                    waiting.append(source)
            elif isinstance(first_of(source), Tensor) and source.op != "get_attr":
                starts.add(source)
    return inside, starts


def _between(
    program: GraphModule,
    end: Node,
) -> tuple[GraphModule, Node]:
    """Return the part of a program that computes a value from a real one by complex values, and the real value.

    `NoConvolution` if the value depends on several real values, or on a node that cannot be copied.
    """
    inside, starts = _computed_by_complex_values(end)
    if len(starts) != 1:
        raise NoConvolution
    (start,) = starts
    graph = Graph()
    copies = {start: graph.placeholder("x")}
    count = graph.call_function(torch.ops.aten.sym_size.int, (copies[start], 0))

    def copy_of(source: Node) -> Any:
        if source in copies:
            return copies[source]
        if source.op == "get_attr":
            return graph.get_attr(str(source.target))
        if str(first_of(source)) == str(first_of(start).shape[0]):
            return count  # the number of samples
        raise NoConvolution

    for node in program.graph.nodes:
        if node in inside:
            copies[node] = graph.node_copy(node, copy_of)
    graph.output(copies[end])
    return GraphModule(program, graph), start
