"""Subjects of claims about networks (`claim.what`): a map between two values, the network's bits, and its region.

All three are part of the subject, since claims that name the same values may be about different networks, about one
network with other weights, or hold on different balls.
"""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Number
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from specnorm.errors import SpecnormError
from specnorm.proof import HypothesisError, Upper
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators.base import Operator
from specnorm_networks.certified.operators.layers import Layer
from specnorm_networks.certified.operators.sources import Input
from specnorm_networks.certified.regions import Region

_random_digests: WeakKeyDictionary[Operator, str] = WeakKeyDictionary()
"""Digests of operators with fields whose bits cannot be read: random ones, each different from all others."""


@dataclass(frozen=True)
class Domain:
    """The network and the region of its inputs for which a claim holds."""

    digest: str
    """Digest of the original network: of its nodes, in order, and of all numbers in them."""
    regions: frozenset[Region] = frozenset()
    """The inputs lie in all of these regions; if there are none, they may be anything."""

    def includes(self, other: Domain) -> bool:
        """Whether a claim on the domain ``other`` holds here, too: for the same network, on these regions or larger."""
        return self.digest == other.digest and other.regions <= self.regions

    def __str__(self) -> str:
        return "".join(f", in {region}" for region in sorted(self.regions, key=str))


@dataclass(frozen=True)
class Map:
    """The map from values of a network to others, while values that do not depend on the first ones stay the same."""

    start: str
    """Names of the values at the start, joined by ", "."""
    end: str
    """Names of the values at the end, joined by ", "."""
    domain: Domain

    def __str__(self) -> str:
        return f"{self.end} by {self.start}{self.domain}"


@dataclass(frozen=True, eq=False)
class Scope:
    """A graph to which rules are applied, and the subject of the claims that they make."""

    graph: Graph
    regions: frozenset[Region] = frozenset()
    """Regions of the ranges that rules may use, besides those of the graph."""
    domain: Domain = field(init=False)

    def __post_init__(self) -> None:
        domain = Domain(digest_of(self.graph), self.graph.regions | self.regions)
        object.__setattr__(self, "domain", domain)

    def map(self, start: str, end: str) -> Map:
        """Return the map between two values; several values are named together, joined by ", "."""
        return Map(start, end, self.domain)

    def holds(self, claim: Upper, start: str, end: str) -> bool:
        """Whether a claim is about the map between two values of this network, on these regions or larger ones."""
        what = claim.what
        return isinstance(what, Map) and (what.start, what.end) == (start, end) and self.domain.includes(what.domain)

    def check(self, *nodes: Node) -> None:
        """Refuse nodes of other graphs, even if they have the names of nodes of this one."""
        for node in nodes:
            if self.graph.by_name.get(node.name) is not node:
                raise HypothesisError(f"{node.name} is no node of this graph")


def digest_of(graph: Graph) -> str:
    """Return the SHA-256 digest of the original network, before any rewriting; computed anew at each call.

    A box that is stated for an input is a region, and no part of the network.
    """
    whole = hashlib.sha256()
    for node in graph.origin.nodes:
        whole.update(repr((node.name, type(node.operator), node.inputs, node.shape)).encode())
        try:
            for name in (each.name for each in dataclasses.fields(node.operator)):
                value = getattr(node.operator, name)
                is_box = isinstance(node.operator, Input) and name in ("low", "high")
                if name != "slopes_on_range" and not is_box:
                    whole.update(name.encode())
                    _add(value, whole)
        except (SpecnormError, OSError, TypeError):
            # Kernels that cannot be loaded, arrays without bits: the rules refuse them, with the reason.
            whole.update(_random_digests.setdefault(node.operator, uuid.uuid4().hex).encode())
    whole.update(repr(graph.origin.outputs).encode())
    return whole.hexdigest()


def _add(value: Any, whole: Any) -> None:
    """Add the bits of one field of an operator to a digest."""
    if isinstance(value, Layer):
        _add(value.to_host(value.stored()), whole)
        _add((value.geometry, value.spatial, value.error), whole)
    elif hasattr(value, "dtype"):
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise TypeError(f"an array of {array.dtype}")
        whole.update(f"{array.dtype.str} {array.shape}".encode())
        whole.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    elif value is None or isinstance(value, (Number, str, bytes, type)):
        whole.update(repr(value).encode())
    elif isinstance(value, Mapping):
        _add([*value.items()], whole)
    elif isinstance(value, Sequence):
        whole.update(f"{len(value)}:".encode())
        for part in value:
            _add(part, whole)
    elif dataclasses.is_dataclass(value):
        whole.update(repr(type(value)).encode())
        _add(
            [getattr(value, field.name) for field in dataclasses.fields(value) if field.name != "slopes_on_range"],
            whole,
        )
    elif callable(value):
        _add(value(), whole)
    else:
        raise TypeError(f"a {type(value).__name__}")
