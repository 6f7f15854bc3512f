"""Squares, exp, roots, products and quotients have a constant where their inputs lie in a box, and none elsewhere."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest

from specnorm.errors import CertificateError, MethodError
from specnorm.networks import Graph, Layer, Node, bound, verify, within
from specnorm.networks.steep import JOINS, STEEP, factors, image

ONE = Decimal(1)
EXACT: dict[str, Callable[[Decimal], Decimal]] = {
    "exp": lambda x: x.exp(),
    "log": lambda x: x.ln(),
    "sqrt": lambda x: x.sqrt(),
    "rsqrt": lambda x: ONE / x.sqrt(),
    "reciprocal": lambda x: Decimal("-0.3") / x,
    "cube": lambda x: x**3,
    "square": lambda x: x * x,
}
PARAMS: dict[str, dict[str, Any]] = {
    "cube": {"function": "power", "exponent": 3},
    "square": {"function": "power", "exponent": 2},
    "reciprocal": {"function": "reciprocal", "scale": -0.3},
}


@pytest.mark.parametrize("name", EXACT)
def test_slopes_and_values_of_functions(name: str) -> None:
    """In decimals of 60 digits: no value outside, no difference quotient above, and both nearly reached."""
    dice, params = np.random.default_rng(0), PARAMS.get(name, {"function": name})
    f, whole = EXACT[name], name in ("exp", "cube", "square")
    with localcontext() as context:
        context.prec = 60
        for _ in range(40):
            low = float(dice.normal() * dice.choice([1e-3, 1.0, 30.0]))
            low = low if whole else abs(low)
            high = low + float(abs(dice.normal()) * dice.choice([1e-9, 1.0, 50.0]))
            ends = [(np.array([low]), np.array([high]))]
            (steep,), (down, up) = factors("pointwise", params, ends), image("pointwise", params, ends)
            points = [Decimal(low), Decimal(high), *(Decimal(float(x)) for x in dice.uniform(low, high, size=6))]
            points = [min(max(p, Decimal(low)), Decimal(high)) for p in points]
            values = [f(p) for p in points]
            assert Decimal(float(down[0])) <= min(values)
            assert max(values) <= Decimal(float(up[0])) or name == "log"
            step = (Decimal(high) - Decimal(low)) / 10**16
            quotients = [abs(f(p + h) - f(p)) / abs(h) for p, h in ((points[0], step), (points[1], -step))]
            quotients += [abs(a - b) / abs(p - q) for a, p in zip(values, points, strict=True) for b, q in
                          zip(values, points, strict=True) if p != q]  # fmt: skip
            assert max(quotients) <= Decimal(steep) <= max(quotients) * Decimal("1.0001") + Decimal("1e-290")


@pytest.mark.parametrize("rule", JOINS)
def test_products_and_quotients(rule: str) -> None:
    dice = np.random.default_rng(1)
    for _ in range(40):
        low = dice.normal(size=2) * dice.choice([1e-3, 1.0, 30.0], size=2)
        low[1] = abs(low[1]) if rule == "quotient" else low[1]
        high = low + abs(dice.normal(size=2))
        ends = [(low[at : at + 1], high[at : at + 1]) for at in range(2)]
        steep, (down, up) = factors(rule, {}, ends), image(rule, {}, ends)
        with localcontext() as context:
            context.prec = 60
            points = [[Decimal(float(v)) for v in dice.choice([low, high, dice.uniform(low, high)])] for _ in range(8)]
            f: Callable[[Decimal, Decimal], Decimal] = operator.mul if rule == "product" else operator.truediv
            for x, y in points:
                assert Decimal(float(down[0])) <= f(x, y) <= Decimal(float(up[0]))
                for u, v in points:
                    assert abs(f(x, y) - f(u, v)) <= Decimal(steep[0]) * abs(x - u) + Decimal(steep[1]) * abs(y - v)


def test_no_slope_where_there_is_none() -> None:
    nowhere = [(np.array([-1.0]), np.array([2.0]))]
    for name in ("log", "sqrt", "rsqrt", "reciprocal"):
        assert factors("pointwise", {"function": name}, nowhere) == [np.inf], name
    assert factors("quotient", {}, nowhere * 2) == [np.inf, np.inf]
    everywhere = [(np.array([-np.inf]), np.array([np.inf]))]
    for name in STEEP:
        given = {"function": name} | ({"exponent": 2} if name == "power" else {})
        assert factors("pointwise", given, everywhere) == [np.inf], name
    assert factors("product", {}, everywhere * 2) == [np.inf, np.inf]
    assert factors("pointwise", {"function": "exp"}, [(np.array([0.0]), np.array([1000.0]))]) == [np.inf]


# -- networks ------------------------------------------------------------------------------------------------------
def gate() -> Graph:
    """``x * sigmoid(W x)``, as squeeze and excitation has it."""
    weight = np.sin(np.arange(16.0) ** 2).reshape(4, 4)
    nodes = [
        Node("x", "input", "input", (), (1, 4)),
        Node("v", "layer", "linear", ("x",), (1, 4), layer=Layer("w", lambda: weight, {}, 0)),
        Node("g", "pointwise", "sigmoid", ("v",), (1, 4), {"function": "sigmoid"}),
        Node("y", "product", "mul", ("x", "g"), (1, 4), {"reason": "it is a product"}),
    ]
    return Graph(tuple(nodes), ("y",))


def run_gate(x: np.ndarray) -> np.ndarray:
    weight = np.sin(np.arange(16.0) ** 2).reshape(4, 4)
    return np.asarray(x / (1 + np.exp(-(x @ weight.T))))


def test_a_gate_has_a_constant_on_a_box() -> None:
    found = bound(gate())
    assert found.upper is None
    assert "it is a product; on a box" in found.unknown[0].reason
    assert "within(graph, low, high)" in found.unknown[0].reason
    previous, dice = 0.0, np.random.default_rng(0)
    for size in (0.5, 2.0):
        upper = bound(within(gate(), -size, size)).upper
        assert upper is not None
        points = np.clip(dice.normal(size=(400, 4)) * size, -size, size)
        steps = np.clip(points + 1e-4 * dice.normal(size=(400, 4)), -size, size)
        apart = np.linalg.norm(run_gate(points) - run_gate(steps), axis=1) / np.linalg.norm(points - steps, axis=1)
        assert max(previous, float(apart.max())) < upper < 3 * float(apart.max())
        previous = upper


def test_a_ball_does_too() -> None:
    """Near an input; what is steep by itself and by a product."""
    steep = Node("e", "pointwise", "exp", ("y",), (1, 4), {"function": "exp"})
    graph = Graph((*gate().nodes, steep), ("e",))
    centre, dice = np.array([[0.3, -0.2, 0.5, 0.1]]), np.random.default_rng(2)
    wide, narrow = (bound(graph, radius=radius, centre=centre).upper for radius in (1.0, 0.1))
    assert wide is not None
    assert narrow is not None
    steps = dice.normal(size=(400, 4))
    points = centre + 0.1 * steps / np.linalg.norm(steps, axis=1)[:, None]
    values = np.exp(run_gate(points))
    apart = np.linalg.norm(values[1:] - values[:-1], axis=1) / np.linalg.norm(points[1:] - points[:-1], axis=1)
    assert float(apart.max()) < narrow < wide
    assert narrow < 4 * float(apart.max())


def test_values_that_are_bounded_need_no_box() -> None:
    """The square of a sigmoid, as detectors have it: (2 s)^2 has slopes of at most 2 * 2 * 2 * 1/4."""
    nodes = (
        Node("x", "input", "input", (), (1, 3)),
        Node("s", "pointwise", "sigmoid", ("x",), (1, 3), {"function": "sigmoid"}),
        Node("d", "scale", "mul", ("s",), (1, 3), {"values": 2.0, "exact": True}),
        Node("y", "pointwise", "pow", ("d",), (1, 3), {"function": "power", "exponent": 2}),
    )
    assert bound(Graph(nodes, ("y",))).upper == pytest.approx(2.0, rel=1e-12)


def test_a_certificate_is_of_one_box() -> None:
    certificate = bound(within(gate(), -1, 1)).certificate
    assert certificate is not None
    assert verify(certificate, within(gate(), -1, 1)).upper == certificate.upper
    for other in (gate(), within(gate(), -1, 1.5), within(gate(), -0.5, 0.5)):
        with pytest.raises(CertificateError, match="another network"):
            verify(certificate, other)


def test_a_layer_by_itself_does_not_depend_on_the_box() -> None:
    graph = replace(gate(), outputs=("g",))
    assert bound(within(graph, -1, 1)).upper == bound(graph).upper


def test_boxes_that_make_no_sense() -> None:
    for low, high, said in ((1, -1, "above"), (float("nan"), 1, "no number"), ({"z": 0}, {"z": 1}, "input x")):
        with pytest.raises(MethodError, match=said):
            within(gate(), low, high)
    with pytest.raises(MethodError, match="shape"):
        within(gate(), np.zeros(7), np.ones(7))


def test_a_product_broadcast_to_a_larger_shape() -> None:
    """One number times four entries: a change of it counts twice."""
    nodes = (
        Node("x", "input", "input", (), (1, 4)),
        Node("z", "input", "input", (), (1, 1)),
        Node("y", "product", "mul", ("x", "z"), (1, 4)),
    )
    graph = within(Graph(nodes, ("y",)), {"x": 0, "z": 0}, {"x": 3, "z": 5})
    assert bound(graph).upper == pytest.approx(np.hypot(5, 3 * 2), rel=1e-12)


def test_a_torch_module_with_gates() -> None:
    torch = pytest.importorskip("torch", exc_type=ImportError)
    from specnorm_torch import network_graph

    class Excite(torch.nn.Module):  # type: ignore[name-defined,misc]
        def forward(self, x):  # type: ignore[no-untyped-def]
            return x * torch.sigmoid(x.mean((2, 3), keepdim=True)) / (1 + x.square().sum(1, keepdim=True)).sqrt()

    graph = network_graph(Excite(), (3, 4, 4))
    assert bound(graph).upper is None
    upper = bound(within(graph, -1, 1)).upper
    assert upper is not None
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(2, 50, 3, 4, 4, dtype=torch.float64, generator=generator) * 2 - 1).unbind()
    y = x + 1e-3 * (y - x)
    apart = (Excite()(x) - Excite()(y)).flatten(1).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
    assert float(apart.max()) < upper < 20
