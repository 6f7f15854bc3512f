"""Linear layers that compute by Fourier transforms (Cayley, LOT, Sandwich), written as circular convolutions.

Between a real value and the next one, such a layer is linear and moves with its input along the pixels. Its kernel is
then what it answers to an impulse in each channel, of the input's full size. What is linear alone, such as a transform
that ends in frequencies, is a matrix of its answers to all impulses. Both properties are seen on random inputs, not
proven: the file with the convolution, or the matrix, is what a bound is of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from specnorm_networks.model import equal_but_for_rounding
from specnorm_networks.sources.torch_alone import computed, first_of

SAMPLES = 3
"""Random inputs on which a layer is compared with what it stands for."""
LARGEST = 2**24
"""Entries of a kernel or matrix, at most."""
MOST_IMPULSES = 2**12
"""Entries of one sample whose answers make a matrix."""
_TO_REAL = ("aten.fft_irfft", "aten.fft_hfft")
"""Names of transforms whose values are real, also of real values; their variants for several axes begin so."""
_CONVOLUTIONS: dict[int, Any] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
"""By the number of axes of a value."""


def is_complex(node: torch.fx.Node) -> bool:
    """Whether an fx node's value is complex."""
    value = first_of(node)
    return isinstance(value, Tensor) and value.is_complex()


def has_complex(node: torch.fx.Node) -> bool:
    """Whether an fx node's value is complex, or a transform between real values, which has complex ones inside."""
    return is_complex(node) or str(node.target).startswith(_TO_REAL)


def with_real_layers(whole: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """The program with circular convolutions and matrices in place of what is seen to be one, by complex values.

    Parameters
    ----------
    whole : GraphModule
        What no input reaches stands in attributes. It is changed.
    """
    _write_sizes(whole)
    for node in list(whole.graph.nodes):
        if is_complex(node) or not (has_complex(node) or any(map(is_complex, node.all_input_nodes))):
            continue
        if not isinstance(first_of(node), Tensor):
            if node.op == "call_function" and not node.users:
                whole.graph.erase_node(node)  # an assertion about a value's type, as casts leave one
            continue
        # The real part of a complex value is a slice of both parts.
        has_both_parts = node.target is torch.ops.aten.view_as_real.default
        users = list(node.users)
        ends = [users[0], node] if has_both_parts and len(users) == 1 and users[0].op != "output" else [node]
        for end in ends:
            layer, start = _real_layer(whole, end)
            if layer is not None:
                break
        if layer is not None:
            whole.add_submodule(f"fourier_{end.name}", layer)
            with whole.graph.inserting_before(end):
                made = whole.graph.call_module(f"fourier_{end.name}", (start,))
            made.meta = dict(end.meta)
            end.replace_all_uses_with(made)
            whole.graph.eliminate_dead_code()
    return torch.fx.GraphModule(whole, whole.graph)  # without complex constants that nothing reads any more


def _write_sizes(whole: torch.fx.GraphModule) -> None:
    """Write sizes of complex numbers as lengths of their two parts."""
    aten = torch.ops.aten
    for node in whole.graph.find_nodes(op="call_function", target=aten.abs.default):
        (source,) = node.all_input_nodes
        if is_complex(source):
            with whole.graph.inserting_before(node):
                parts = whole.graph.call_function(aten.view_as_real.default, (source,))
                parts.meta = {"val": torch.view_as_real(first_of(source))}
                size = whole.graph.call_function(aten.linalg_vector_norm.default, (parts, 2, [-1]))
            size.meta = dict(node.meta)
            node.replace_all_uses_with(size)
            whole.graph.erase_node(node)


def _real_layer(
    whole: torch.fx.GraphModule,
    end: torch.fx.Node,
) -> tuple[nn.Module | None, torch.fx.Node | None]:
    """The layer that gives a real value, and the real value that it is of; None: no layer is seen to."""
    found = _between(whole, end)
    if found is None:
        return None, None
    function, start = found
    like, after = first_of(start), first_of(end)

    def answered(x: Tensor) -> Tensor:
        """The function of any number of samples, also where the program is for one number of them."""
        count = like.shape[0]
        if not isinstance(count, int):
            return torch.as_tensor(function(x))
        return torch.cat([function(each.expand(count, *each.shape))[:1] for each in x])

    before, behind = list(like.shape[1:]), list(after.shape[1:])
    if not before or not behind or not all(isinstance(n, int) for n in (*before, *behind)):
        return None, None
    x = torch.randn(SAMPLES, *before, generator=torch.Generator().manual_seed(0)).to(like.dtype).to(like.device)
    wanted = computed(answered(x))
    for make in (_convolution, _matrix):
        layer = make(answered, like, before, behind)
        if layer is not None and equal_but_for_rounding(computed(layer(x)), wanted):
            return layer, start
    return None, None


Answers = Callable[[Tensor], Tensor]
"""A function of samples."""


def _convolution(answered: Answers, like: Tensor, before: list[int], behind: list[int]) -> nn.Module | None:
    """The circular convolution that answers an impulse in each channel as a function does; None: sizes are no such."""
    channels, *sizes = before
    if like.ndim not in _CONVOLUTIONS or behind[1:] != sizes or behind[0] * math.prod(before) > LARGEST:
        return None
    # One sample for each channel, 1 at the channel's first pixel.
    # `like` is a fake tensor, and what it made would be one.
    impulses = torch.zeros(channels, channels, math.prod(sizes), dtype=like.dtype, device=like.device)
    impulses[..., 0].fill_diagonal_(1.0)
    impulses = impulses.reshape(channels, channels, *sizes)
    offset = answered(torch.zeros_like(impulses[:1]))
    # An impulse at pixel 0 is answered by tap p at pixel -p; tap 0 is in the middle of a layer's kernel.
    answers = (answered(impulses) - offset).transpose(0, 1)
    axes = tuple(range(2, like.ndim))
    kernel = answers.flip(axes).roll([1 + (n - 1) // 2 for n in sizes], axes)
    layer: nn.Module = _CONVOLUTIONS[like.ndim](
        channels, offset.shape[1], tuple(sizes), padding="same", padding_mode="circular", dtype=like.dtype,
        device=like.device,
    )  # fmt: skip
    layer.weight = nn.Parameter(kernel.contiguous(), requires_grad=False)
    layer.bias = nn.Parameter(offset[0].reshape(offset.shape[1], -1)[:, 0].contiguous(), requires_grad=False)
    return layer


def _matrix(answered: Answers, like: Tensor, before: list[int], behind: list[int]) -> nn.Module | None:
    """The matrix, with an offset, that answers each impulse as a function does; None: it would be too large."""
    inputs, outputs = math.prod(before), math.prod(behind)
    if inputs > MOST_IMPULSES or inputs * outputs > LARGEST:
        return None
    impulses = torch.eye(inputs, dtype=like.dtype, device=like.device).reshape(inputs, *before)
    offset = answered(torch.zeros_like(impulses[:1])).reshape(outputs)
    answers = answered(impulses).reshape(inputs, outputs)
    layer = nn.Linear(inputs, outputs, dtype=like.dtype, device=like.device)
    layer.weight = nn.Parameter((answers - offset).T.contiguous(), requires_grad=False)
    layer.bias = nn.Parameter(offset, requires_grad=False)
    return nn.Sequential(nn.Flatten(), layer, nn.Unflatten(1, behind))


def _between(
    whole: torch.fx.GraphModule,
    end: torch.fx.Node,
) -> tuple[torch.fx.GraphModule, torch.fx.Node] | None:
    """The function from the one real value that a value depends on by complex ones, and that value."""
    inside = {end}
    waiting = [end]
    starts = dict[torch.fx.Node, None]()
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if is_complex(source) or source.target is torch.ops.aten.view_as_real.default:
                if source not in inside and source.op == "call_function":
                    inside.add(source)
                    waiting.append(source)
            elif isinstance(first_of(source), Tensor) and source.op != "get_attr":
                starts[source] = None
    if len(starts) != 1:
        return None
    (start,) = starts
    graph = torch.fx.Graph()
    copies = {start: graph.placeholder("x")}
    count = graph.call_function(torch.ops.aten.sym_size.int, (copies[start], 0))

    def copied(source: torch.fx.Node) -> Any:
        if source in copies:
            return copies[source]
        if source.op == "get_attr":
            return graph.get_attr(str(source.target))
        if str(first_of(source)) == str(first_of(start).shape[0]):
            return count  # the number of samples
        raise LookupError(source.name)

    try:
        for node in whole.graph.nodes:
            if node in inside:
                copies[node] = graph.node_copy(node, copied)
    except LookupError:
        return None
    graph.output(copies[end])
    return torch.fx.GraphModule(whole, graph), start
