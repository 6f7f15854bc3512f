"""False claims that were mended: each mending taken back, with the network for which it matters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from networks.compositions.planted_onnx import one
from networks.compositions.planted_rules import BOX, ELU, SQUARE
from networks.compositions.planting import Planted, onnx_graph, onnx_rule, operator, rearranged
from onnx import helper
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.patterns import sorting
from specnorm_networks.certified.patterns.structure import Structure
from specnorm_networks.tools import Measure

N = helper.make_node
RNG = np.random.default_rng(7)
DOWN, OTHER = RNG.standard_normal((2, 6, 4))


# -- what the mendings prevent -----------------------------------------------------------------------------------------
def by_name(patch: pytest.MonkeyPatch) -> None:
    """Kernels of one node name are one kernel."""
    from specnorm_networks.onnx.nodes import Call

    real: Any = Call.layer
    loads: dict[str, Any] = {}

    def layer(self: Any, kernel: Any, *given: Any, **named: Any) -> Any:
        found = real(self, kernel, *given, **named)
        return type(found)(
            found.name,
            loads.setdefault(kernel.name.rstrip("'"), found.load),
            found.geometry,
            found.spatial,
            found.outputs_last,
        )

    patch.setattr(Call, "layer", layer)


def measured_by_name(patch: pytest.MonkeyPatch) -> None:
    """One measure for all networks, by the names of their layers."""
    real = Measure.__call__
    found = {}

    def call(self: Measure, placed_layer: Any, *given: Any) -> Any:
        name = placed_layer.layer.name
        if name not in found:
            found[name] = real(self, placed_layer, *given)
        return found[name]

    patch.setattr(Measure, "__call__", call)
    layer = planted_layer(np.eye(4))
    assert Planted("small", layer, lambda _: None).ask().upper is not None


def planted_layer(matrix: Any) -> Any:
    return one("MatMul", more={"w": matrix})


def through_permutations(patch: pytest.MonkeyPatch) -> None:
    """A transposed value has the pieces of the value."""

    real = Structure.origin

    def origin(structure: Structure, name: str) -> Any:
        node = real(structure, name)
        while isinstance(node.operator, ops.Permute):
            node = real(structure, node.inputs[0])
        return node

    patch.setattr(Structure, "origin", origin)


def any_pieces(patch: pytest.MonkeyPatch) -> None:
    """Two pieces of one value are its halves."""

    patch.setattr(sorting, "are_halves", lambda first, second: first.source == second.source and first.size > 0)


def one_radius(patch: pytest.MonkeyPatch) -> None:
    """An input's own range on a ball is that of radius 1."""
    from specnorm.proof import around

    place = "specnorm_networks.local.certified.ranges.around"
    patch.setattr(place, lambda centre, half: around(centre, np.ones_like(half)))


# -- networks ----------------------------------------------------------------------------------------------------------
TWO_KERNELS = onnx_graph(
    [N("Mul", ["w1", "one"], ["k1"], name="n"), N("Mul", ["w2", "one"], ["k2"], name="n"),
     N("MatMul", ["x", "k1"], ["u"]), N("Relu", ["u"], ["v"]), N("MatMul", ["v", "k2"], ["y"])],
    (1, 4), {"w1": np.eye(4), "w2": 100 * np.eye(4), "one": np.float64(1)},
)  # fmt: skip
SUM = onnx_graph(
    [N("Sum", ["x", "x", "c"], ["v"]), N("Mul", ["v", "v"], ["y"])], (1, 4), {"c": np.full((1, 4), 50.0)}
)  # fmt: skip
EXTREME = onnx_graph(
    [N("Gemm", ["x", "a"], ["u"], transB=1), N("Gemm", ["x", "b"], ["w"], transB=1), N("Max", ["u", "w", "c"], ["v"]),
     N("Sub", ["v", "u"], ["y"])],
    (1, 4), {"a": DOWN, "b": DOWN + 1e-9 * OTHER, "c": np.full((1, 6), 10.0)},
)  # fmt: skip
TRANSPOSED = onnx_graph(
    [N("Transpose", ["x"], ["t"], perm=[0, 2, 1]), N("Split", ["t"], ["a", "b"], axis=2, num_outputs=2),
     N("Max", ["a", "b"], ["p"]), N("Min", ["a", "b"], ["q"]), N("Concat", ["p", "q"], ["y"], axis=2)], (1, 2, 2),
)  # fmt: skip
OVERLAP = onnx_graph(
    [N("Split", ["x", "s"], ["a", "b"], axis=1), N("Split", ["x", "t"], ["c", "d", "e"], axis=1),
     N("Max", ["a", "d"], ["p"]), N("Min", ["a", "d"], ["q"]), N("Concat", ["p", "q"], ["y"], axis=1)],
    (1, 4), {"s": np.array([2, 2]), "t": np.array([1, 2, 1])},
)  # fmt: skip
ONNX = {
    "1 Elu is no leaky ReLU": (
        Planted("", ELU, operator(onnx_rule, "Elu", lambda _: ops.LeakyReLU(1.0)), box=(-1.5, -1.1)), "execution"),
    "2 names of constants that are folded": (Planted("", TWO_KERNELS, by_name), "execution"),
    "5 one measure for two networks": (Planted("", planted_layer(100 * np.eye(4)), measured_by_name), "claims"),
    "6 constants of sums": (Planted("", SUM, rearranged(onnx_rule, "Sum", 0, 1), box=BOX), "execution"),
    "7 constants of extremes": (
        Planted("", EXTREME, rearranged(onnx_rule, "Max", 0, 1), ball=(np.zeros((1, 4)), 0.1)), "execution"),
    "9 halves of a transposed value": (Planted("", TRANSPOSED, through_permutations), "execution"),
    "10 pieces that overlap": (Planted("", OVERLAP, any_pieces), "execution"),
    "17 an input's own range on a ball": (
        Planted("", SQUARE, one_radius, ball=(np.zeros((1, 4)), 5.0)), "attack"),
}  # fmt: skip
"""By the number of the claim: what is planted, and which fence stops it."""
