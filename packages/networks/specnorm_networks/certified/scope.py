"""Subjects of claims about networks (`claim.what`): a map between two values, the network's bits, and its region.

All three are part of the subject, since claims that name the same values may be about different networks, about one
network with other weights, or hold on different balls.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from specnorm.proof import HypothesisError, Upper
from specnorm_networks.certified.digests import digest_of_bits, digest_of_operator
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.regions import Region


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
        if not isinstance(what, Map):
            return False
        return (what.start, what.end) == (start, end) and self.domain.includes(what.domain)

    def check(self, *nodes: Node) -> None:
        """Refuse nodes of other graphs, even if they have the names of nodes of this one."""
        for node in nodes:
            if self.graph.by_name.get(node.name) is not node:
                raise HypothesisError(f"{node.name} is no node of this graph")


def digest_of(graph: Graph) -> str:
    """Return the SHA-256 digest of the original network, before any rewriting; computed anew at each call."""
    nodes = []
    for node in graph.origin.nodes:
        nodes.append((node.name, digest_of_operator(node.operator), node.inputs, node.shape))
    return digest_of_bits((nodes, graph.origin.outputs))
