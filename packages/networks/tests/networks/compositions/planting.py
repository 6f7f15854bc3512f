"""Mistranslations that are planted, and what becomes of a network then."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytest
from specnorm_networks import Graph, Product, within
from specnorm_networks.certified.operators import Operator
from specnorm_networks.onnx.nodes import Call
from specnorm_networks.tools import NetworkBound, bound

from specnorm.errors import InternalError, TranslationError
from specnorm.proofs.bound import HypothesisError

Plant = Callable[[pytest.MonkeyPatch], None]
Outcome = Literal["refused", "not compared", "execution", "claims", "attack", "claimed"]


@dataclass(frozen=True, eq=False)
class Planted:
    """One error, and a network for which it matters.

    Parameters
    ----------
    name : str
    graph : callable
        Reads the network.
    plant : callable
    ball, box : tuple or None
        Centre and radius, or ends: where the bound is asked for; neither: everywhere.
    """

    name: str
    graph: Callable[[], Graph]
    plant: Plant
    ball: tuple[Any, float] | None = None
    box: tuple[Any, Any] | None = None

    def ask(self) -> NetworkBound:
        graph = self.graph()
        if self.ball is not None:
            return bound(graph, centre=np.asarray(self.ball[0]), radius=self.ball[1], method=Product())
        return bound(graph if self.box is None else within(graph, *self.box), method=Product())

    def stands(self) -> None:
        """As it is, the network is bounded, compared in full, and not contradicted."""
        answer = self.ask()
        assert answer.upper is not None
        assert answer.checked.complete
        assert answer.checked.pairs > 0

    def outcome(self) -> Outcome:
        """Which fence stops it; "claimed": none."""
        try:
            answer = self.ask()
        except TranslationError:
            return "execution"
        except HypothesisError:
            return "claims"
        except InternalError:
            return "attack"
        if answer.upper is None:
            return "refused"
        return "claimed" if answer.checked.complete else "not compared"


# -- plants --------------------------------------------------------------------------------------------------------
def changed(build: Callable[..., Any], **arguments: Any) -> Callable[..., Any]:
    """A builder that gets other arguments: functions are applied to what was given."""

    @functools.wraps(build)
    def planted(*rest: Any, **given: Any) -> Any:
        for name, value in arguments.items():
            given[name] = value(given.get(name)) if callable(value) else value
        return build(*rest, **given)

    return planted


def remade(build: Callable[..., Any], change: Callable[[Any], Any]) -> Callable[..., Any]:
    """A builder of whose results something is made."""

    @functools.wraps(build)
    def planted(*rest: Any, **given: Any) -> Any:
        return change(build(*rest, **given))

    return planted


def onnx_rule(operator: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        from specnorm_networks.onnx.operators import OPERATORS

        known = OPERATORS[operator]
        patch.setitem(OPERATORS, operator, replace(known, build=wrap(known.build)))

    return plant


def argument(rule: Callable[..., Plant], key: str, **arguments: Any) -> Plant:
    """An argument that is dropped, or another one."""
    return rule(key, lambda build: changed(build, **arguments))


def operator(rule: Callable[..., Plant], key: str, change: Callable[[Any], Operator]) -> Plant:
    """Another operator in the place of the one that is built."""

    def one(made: Any) -> Any:
        if isinstance(made, tuple):
            return tuple(map(one, made))
        return change(made) if isinstance(made, Operator) else replace(made, operator=change(made.operator))

    return rule(key, lambda build: remade(build, one))


def fields(rule: Callable[..., Plant], key: str, **values: Any) -> Plant:
    def change(old: Any) -> Operator:
        new = {name: value(getattr(old, name)) if callable(value) else value for name, value in values.items()}
        found: Operator = replace(old, **new)
        return found

    return operator(rule, key, change)


def inputs(rule: Callable[..., Plant], key: str, change: Callable[[Any], Any]) -> Plant:
    return rule(key, lambda build: remade(build, lambda made: replace(made, inputs=change(made.inputs))))


def rearranged(rule: Callable[..., Plant], key: str, *order: int) -> Plant:
    def wrap(build: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(build)
        def planted(*given: Any, **named: Any) -> Any:
            first = int(isinstance(given[0], Call))
            return build(*given[:first], *(given[first + at] for at in order), **named)

        return planted

    return rule(key, wrap)


# -- networks --------------------------------------------------------------------------------------------------------
def onnx_graph(
    nodes: list[Any],
    shape: tuple[int, ...],
    constants: Mapping[str, Any] | None = None,
    opset: int = 18,
) -> Callable[[], Graph]:
    from helpers.onnx_models import graph_of, model

    return lambda: graph_of(model(nodes, shape, constants, opset=opset))
