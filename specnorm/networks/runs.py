"""A graph cut into runs: linear maps and entry-wise functions one after the other, with nothing else reading between.

A *link* is a convolution or matrix with what follows it up to the next one. Along a run each value may be measured in a
norm of its own, with one weight a channel; `segments` bounds runs, `recursion` looks for weights.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import SpecnormError
from specnorm.networks import pointwise
from specnorm.networks.graph import Graph, Layer, Node, Shape, concrete
from specnorm.networks.rules import FACTORS, UnknownRuleError
from specnorm.proof import host
from specnorm.spec import ConvSpec

KEEPING = frozenset({"max_pool", "average_pool", "resize", "pad"})
"""Rules of nodes that treat each channel by itself and alike."""


@dataclass(frozen=True, eq=False)
class Link:
    """A linear map, the function of each entry after it, and what may follow.

    Parameters
    ----------
    layer : Layer
    geometry : dict
        Of the layer, with the padding before it.
    spec : ConvSpec
        The same with the kernel's shape.
    sizes : pair of tuple of int, or None
        Spatial sizes before and after.
    scale : array, shape (cout,), or None
        Batch normalisation after the layer; correct to a few roundings.
    alpha : float
        A number that the layer is multiplied by.
    slopes : tuple of float
        Smallest and largest slope of the function after it; (1, 1) where there is none.
    factor : float
        Of what follows the function, rounded up: pooling, resizing. It keeps the channels.
    repeat : int
        Features that each channel becomes before the next layer (flattening).
    open : bool
        Whether nothing but the function lies between this layer and the next.
    end : str
        Name of the last node.
    """

    layer: Layer
    geometry: dict[str, Any]
    spec: ConvSpec
    sizes: tuple[tuple[int, ...], tuple[int, ...]] | None
    scale: NDArray[np.float64] | None
    alpha: float
    slopes: tuple[float, float]
    factor: float
    repeat: int
    open: bool
    end: str

    @property
    def steepest(self) -> float:
        """Largest absolute slope."""
        return max(abs(self.slopes[0]), abs(self.slopes[1]))


@dataclass(frozen=True, eq=False)
class Run:
    """Links one after the other.

    Parameters
    ----------
    start : str
        Name of the node before the first layer (and its padding).
    links : tuple of Link
    """

    start: str
    links: tuple[Link, ...]

    @property
    def end(self) -> str:
        """Name of the last node."""
        return self.links[-1].end


def runs(graph: Graph) -> list[Run]:
    """All runs of at least two layers, in the order of the graph.

    Parameters
    ----------
    graph : Graph

    Returns
    -------
    list of Run
    """
    found: list[Run] = []
    for chain in _chains(graph):
        found += _Reader(chain).runs()
    return found


def _chains(graph: Graph) -> Iterator[list[Node]]:
    """Longest sequences of nodes of which each reads the one before, which nothing else reads; the first is read only.

    An output of the network ends a sequence, since its own norm is what counts.
    """
    nodes = {node.name: node for node in graph.nodes}
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    inner = {
        node.name
        for node in graph.nodes
        if len(node.inputs) == 1 and readers[node.inputs[0]] == 1 and node.inputs[0] not in graph.outputs
    }
    after = {nodes[name].inputs[0]: name for name in inner}
    for node in graph.nodes:
        if node.name in inner:
            continue
        chain = [node]
        while chain[-1].name in after:
            chain.append(nodes[after[chain[-1].name]])
        if node.rule != "input" and len(node.inputs) == 1:
            chain.insert(0, nodes[node.inputs[0]])  # it has other readers too, which does not matter
        yield chain


class _Reader:
    """Reads a sequence of nodes into links."""

    def __init__(self, chain: list[Node]) -> None:
        self.chain = chain
        self.found: list[Run] = []
        self.start = chain[0].name
        self.links: list[Link] = []
        self.straight = False
        """Whether the last layer's outputs have only been shifted."""
        self.axis = 0
        """Where the run's channels are."""

    def runs(self) -> list[Run]:
        """Runs of at least two layers."""
        at = 1
        while at < len(self.chain):
            at = self._node(at)
        self._close()
        return self.found

    def _node(self, at: int) -> int:
        """Take up one node, or padding and its layer; the index of the next."""
        node, source = self.chain[at], self.chain[at - 1]
        if node.rule == "pad" and at + 1 < len(self.chain) and _is_padded_layer(self.chain[at + 1], node, source):
            self._layer(self.chain[at + 1], source, node)
            return at + 2
        if node.rule == "layer":
            self._layer(node, source, None)
        elif self.links and not self._follows(node, source):
            self._close()
        return at + 1

    def _close(self) -> None:
        if len(self.links) > 1:
            self.found.append(Run(self.start, tuple(self.links)))
        self.links = []

    def _layer(self, node: Node, source: Node, pad: Node | None) -> None:
        layer = node.layer
        if layer is None or not node.params.get("foldable", True):
            self._close()
            return
        geometry = dict(layer.geometry)
        if pad is not None:
            geometry |= {"padding_mode": pad.params["mode"], "padding": pad.params["pads"]}
        try:
            shape = tuple(layer.load().shape)
            spec = ConvSpec.of(shape[::-1] if layer.turned else shape, **geometry)
        except (SpecnormError, OSError):
            self._close()
            return
        if source.shape is None or node.shape is None or (layer.spatial and len(node.shape) != layer.spatial + 2):
            self._close()
            return
        sizes = _spatial(source.shape, node.shape, layer.spatial)
        link = Link(layer, geometry, spec, sizes, None, float(node.params.get("alpha", 1.0)), (1.0, 1.0), 1.0, 1,
                    True, node.name)  # fmt: skip
        if self.links and not self._meets(link, source.shape):
            self._close()
        if not self.links:
            self.start = source.name
        self.links.append(link)
        self.straight = True
        self.axis = len(node.shape) - 1 - layer.spatial

    def _meets(self, link: Link, shape: Shape) -> bool:
        """Whether a layer's channels are those of the run, on the same axis."""
        last = self.links[-1]
        if last.spec.cout * last.repeat != link.spec.cin:
            return False
        return len(shape) - 1 - link.layer.spatial == self.axis

    def _follows(self, node: Node, source: Node) -> bool:
        """Whether a node continues the run, taken up if so."""
        link = self.links[-1]
        changed: dict[str, Any] | None = None
        if node.params.get("shift") and node.shape == source.shape and node.shape is not None:
            changed = {}
        elif node.rule == "scale" and self.straight:
            changed = self._scaled(node, source, link)
        elif node.rule == "pointwise":
            changed = _steeper(node, link)
            self.straight = False
        elif node.rule == "pad" and node.params["mode"] == "zeros" and _spatial_only(node, link):
            changed = {"open": False}
            self.straight = False
        elif node.rule == "select" and node.params.get("reshaped"):
            changed = _flattened(node, source, link)
            self.straight = False
        elif self._keeps_channels(node, source, link):
            self.straight = False
            try:
                factor = FACTORS[node.rule](node, source)
            except UnknownRuleError:
                return False
            changed = {"factor": host.mul_up(link.factor, factor), "open": False}
        if changed is None:
            return False
        self.links[-1] = replace(link, end=node.name, **changed)
        return True

    def _scaled(self, node: Node, source: Node, link: Link) -> dict[str, Any] | None:
        """A product with one number a channel, or one number, directly after the layer."""
        values = np.asarray(node.params["values"], dtype=np.float64)
        if values.size == 1 and bool(np.all(np.isfinite(values))) and node.shape == source.shape:
            return {"alpha": link.alpha * abs(float(values.reshape(-1)[0]))}
        if node.params.get("channel") != self.axis or link.scale is not None or values.shape != (link.spec.cout,):
            return None
        return {"scale": values} if bool(np.all(np.isfinite(values))) else None

    def _keeps_channels(self, node: Node, source: Node, link: Link) -> bool:
        if not link.layer.spatial or link.repeat > 1 or source.shape is None or node.shape is None:
            return False
        if node.rule == "mean":
            # Only over the axes behind the channels; the rest keep their places.
            return min((axis % len(source.shape) for axis in node.params["axes"]), default=0) > 1
        return node.rule in KEEPING and len(node.shape) == len(source.shape) and node.shape[:2] == source.shape[:2]


def _is_padded_layer(node: Node, pad: Node, source: Node) -> bool:
    """Whether padding and the convolution after it are one layer, as `bounding` has it."""
    if node.layer is None or node.rule != "layer" or len(pad.params["pads"]) != node.layer.spatial:
        return False
    padding = node.layer.geometry.get("padding", ())
    if isinstance(padding, str) or any(sum(pair) for pair in padding) or node.layer.geometry.get("transposed"):
        return False
    if pad.params["mode"] == "reflect":
        sizes = concrete(None if source.shape is None else source.shape[len(source.shape) - node.layer.spatial :])
        return sizes is not None and all(max(p) < n for p, n in zip(pad.params["pads"], sizes, strict=True))
    return pad.params["mode"] in ("zeros", "circular", "replicate")


def _spatial(before: Shape | None, after: Shape | None, count: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    ends = [concrete(None if shape is None else shape[len(shape) - count :]) for shape in (before, after)]
    return None if ends[0] is None or ends[1] is None else (ends[0], ends[1])


def _spatial_only(node: Node, link: Link) -> bool:
    return len(node.params["pads"]) <= link.layer.spatial and link.repeat == 1


def _steeper(node: Node, link: Link) -> dict[str, Any] | None:
    """A function of each entry after those before."""
    given = {name: value for name, value in node.params.items() if name != "function"}
    found = pointwise.interval(str(node.params["function"]), **given)
    if found is None:
        return None
    if not link.open or link.repeat > 1:
        return {"factor": host.mul_up(link.factor, max(abs(found[0]), abs(found[1])))}
    if link.slopes == (1.0, 1.0):
        return {"slopes": found}
    ends = [a * b for a in link.slopes for b in found]
    return {"slopes": (host.below(min(ends)) if min(ends) else 0.0, host.above(max(ends)))}


def _flattened(node: Node, source: Node, link: Link) -> dict[str, Any] | None:
    """Channels of several positions become features, those of one channel next to each other."""
    before, after = concrete(source.shape), concrete(node.shape)
    if before is None or after is None or not link.layer.spatial or link.repeat > 1 or len(before) < 2:
        return None
    if len(after) != 2 or before[0] != after[0] or before[1] != link.spec.cout:
        return None
    repeat = math.prod(before[2:])
    return {"repeat": repeat, "open": False}
