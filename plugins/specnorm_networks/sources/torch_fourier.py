"""Linear layers that compute by Fourier transforms (Cayley, LOT, Sandwich), written as circular convolutions.

Between a real value and the next one, such a layer is linear and moves with its input along the pixels. Its kernel is
then what it answers to an impulse in each channel, of the input's full size. Both properties are seen on random inputs,
not proven: the file with the convolution is what a bound is of.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from specnorm_networks.model import equal_but_for_rounding
from specnorm_networks.sources.torch_alone import computed, first_of

SAMPLES = 3
"""Random inputs on which a convolution is compared with what it stands for."""
LARGEST = 2**24
"""Entries of a kernel, at most."""
_CONVOLUTIONS: dict[int, Any] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
"""By the number of axes of a value."""


def is_complex(node: torch.fx.Node) -> bool:
    """Whether an fx node's value is complex."""
    value = first_of(node)
    return isinstance(value, Tensor) and value.is_complex()


def with_convolutions(whole: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """The program with circular convolutions in place of what is seen to be one, by complex values in between.

    Parameters
    ----------
    whole : GraphModule
        What no input reaches stands in attributes. It is changed.
    """
    for node in list(whole.graph.nodes):
        if is_complex(node) or not any(map(is_complex, node.all_input_nodes)):
            continue
        if not isinstance(first_of(node), Tensor):
            if node.op == "call_function" and not node.users:
                whole.graph.erase_node(node)  # an assertion about a value's type, as casts leave one
            continue
        # The real part of a complex value is a slice of both parts.
        end = next(iter(node.users)) if node.target is torch.ops.aten.view_as_real.default else node
        if end.op == "output":
            continue  # frequencies that the model returns
        layer, start = _convolution(whole, end)
        if layer is not None:
            whole.add_submodule(f"fourier_{end.name}", layer)
            with whole.graph.inserting_before(end):
                made = whole.graph.call_module(f"fourier_{end.name}", (start,))
            made.meta = dict(end.meta)
            end.replace_all_uses_with(made)
            whole.graph.eliminate_dead_code()
    return torch.fx.GraphModule(whole, whole.graph)  # without complex constants that nothing reads any more


def _convolution(
    whole: torch.fx.GraphModule,
    end: torch.fx.Node,
) -> tuple[nn.Module | None, torch.fx.Node | None]:
    """The circular convolution that gives a real value, and the real value that it is of; None: it is not seen."""
    found = _between(whole, end)
    if found is None:
        return None, None
    function, start = found
    like = first_of(start)

    def answered(x: Tensor) -> Tensor:
        """The function of any number of samples, also where the program is for one number of them."""
        count = like.shape[0]
        if not isinstance(count, int):
            return torch.as_tensor(function(x))
        return torch.cat([function(each.expand(count, *each.shape))[:1] for each in x])

    channels, *sizes = like.shape[1:]
    if like.ndim not in _CONVOLUTIONS or not all(isinstance(n, int) for n in (channels, *sizes)):
        return None, None
    # One sample for each channel, 1 at the channel's first pixel.
    impulses = torch.zeros(channels, channels, math.prod(sizes), dtype=like.dtype, device=like.device)
    impulses[..., 0].fill_diagonal_(1.0)
    impulses = impulses.reshape(channels, channels, *sizes)
    offset = answered(torch.zeros_like(impulses[:1]))
    if list(offset.shape[2:]) != sizes or offset.shape[1] * channels * math.prod(sizes) > LARGEST:
        return None, None
    # An impulse at pixel 0 is answered by tap p at pixel -p; tap 0 is in the middle of a layer's kernel.
    answers = (answered(impulses) - offset).transpose(0, 1)
    axes = tuple(range(2, like.ndim))
    kernel = answers.flip(axes).roll([1 + (n - 1) // 2 for n in sizes], axes)
    layer = _CONVOLUTIONS[like.ndim](
        channels, offset.shape[1], tuple(sizes), padding="same", padding_mode="circular", dtype=like.dtype,
        device=like.device,
    )  # fmt: skip
    layer.weight = nn.Parameter(kernel.contiguous(), requires_grad=False)
    layer.bias = nn.Parameter(offset[0].reshape(offset.shape[1], -1)[:, 0].contiguous(), requires_grad=False)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, channels, *sizes, generator=generator).to(like.dtype).to(like.device)
    same = equal_but_for_rounding(computed(layer(x)), computed(answered(x)))
    return (layer, start) if same else (None, None)


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
