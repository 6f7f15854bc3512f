"""Every ONNX operator that is known, with all inputs and attributes, against onnx's reference.

``SPECNORM_ONNX_DRAWS`` is the number of nodes; CI takes a sample.
"""

from __future__ import annotations

import math
import os
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", exc_type=ImportError)
from networks.compositions.claims import Region, Search  # noqa: E402
from networks.drawing import Shapes, Slot, asked, by_operator, examples  # noqa: E402
from networks.onnx_arguments import DRAWS  # noqa: E402
from networks.onnx_calls import Drawn, draw, opset_of  # noqa: E402
from networks.onnx_schemas import HISTORY, attributes, places, versions  # noqa: E402
from onnx import helper  # noqa: E402
from specnorm_networks import within  # noqa: E402
from specnorm_networks.certified import operators  # noqa: E402
from specnorm_networks.certified.operators import NoBoundError, NotRunError, Operator, Place  # noqa: E402
from specnorm_networks.comparison.checking import check  # noqa: E402
from specnorm_networks.onnx import binding  # noqa: E402
from specnorm_networks.onnx.binding import NEWEST, bind, parameters  # noqa: E402
from specnorm_networks.onnx.nodes import Call, Value  # noqa: E402
from specnorm_networks.onnx.operators import OPERATORS  # noqa: E402
from specnorm_networks.onnx.tensors import Constant  # noqa: E402
from specnorm_networks.tools import bound  # noqa: E402

COUNT = int(os.environ.get("SPECNORM_ONNX_DRAWS", "130"))


def regions(drawn: Drawn) -> Iterator[Region]:
    """Everywhere, and boxes for operators that have a constant where their inputs lie in one."""
    size = sum(map(math.prod, drawn.shapes))
    kinks = (0.0, *(float(v) for v in drawn.arguments.values() if isinstance(v, int | float)))
    yield Region("everywhere", (size,), np.zeros(size), np.ones(size), kinks)
    for low, high in ((-1.5, 2.0), (0.5, 2.0)):
        yield Region("box", (size,), np.full(size, low), np.full(size, high))


REPR = re.compile(r"[A-Za-z_]+\([a-z_]+=|<[\w.]+ .*at 0x|\bFraction\(|\bnp\.|\barray\(|<class")
"""What a message has that shows an object of ours, or of NumPy, as Python prints it."""


def claim(drawn: Drawn, rng: np.random.Generator) -> tuple[float, float] | None:
    """Bound, and what is reached; None if there is no bound."""
    for region in regions(drawn):
        boxed = region.kind == "box"
        found = bound(within(drawn.graph, region.first[0], region.second[0]) if boxed else drawn.graph)
        assert not [node.reason for node in found.unknown if REPR.search(node.reason)]
        if found.upper is not None:
            break
        if not any("within(" in node.reason for node in found.unknown):
            return None
    else:
        return None
    # What a cast to float32, float16 or bfloat16 may add.
    unit = 16 * {1: 2.0**-23, 10: 2.0**-10, 16: 2.0**-7}.get(drawn.arguments.get("to", 11), 2.0**-44)
    if drawn.operator in ("DequantizeLinear", "GridSample", "GroupNormalization"):
        unit = 2.0**-18  # onnx's reference computes in single precision
    # onnx's reference has an error function of single precision.
    lost = 2.0**-22 if drawn.operator in ("Erf", "Gelu") else 0.0
    search = Search(drawn.f, region, rng, unit, lost)
    return found.upper, search.run(2).ratio


@by_operator(DRAWS)
def test_no_operator_stretches_more_than_its_bound(request: pytest.FixtureRequest) -> None:
    closest: dict[str, float] = {}
    found = Counter[str]()

    def attack(operator: str, d: Shapes) -> None:
        drawn = draw(operator, d)
        if drawn is None:
            return
        found["compared"] += check(drawn.graph, drawn.graph).complete
        claimed = claim(drawn, np.random.default_rng(d.getrandbits(16)))
        if claimed is None:
            found["refused"] += 1
            return
        upper, reached = claimed
        assert reached <= upper * (1 + 1e-9), (operator, drawn.opset, drawn.arguments, drawn.shapes, upper, reached)
        found["bounded"] += 1
        closest[operator] = max(closest.get(operator, 0.0), reached / upper if upper else 1.0)

    chosen = asked(DRAWS, request)
    for operator in chosen:
        examples(partial(attack, operator), COUNT // len(chosen), operator)
    print(dict(found))  # noqa: T201 - shown by `pytest -rP`
    if len(chosen) < len(DRAWS):
        return
    assert found["compared"] > 0.9 * COUNT
    if 20 * len(DRAWS) <= COUNT:
        assert sorted(set(DRAWS) - set(closest)) == ["Sign"]  # a step, which is known in patterns alone
        assert {name: ratio for name, ratio in closest.items() if ratio < 0.7} == {}


def check_map(operator: Operator, shapes: list[tuple[int, ...]], rng: np.random.Generator) -> bool:
    """Whether an operator has a linear map: its own values on unit vectors are what that map is, both ways."""
    if not isinstance(operator, operators.Affine):
        return False
    zeros = [np.zeros(shape) for shape in shapes]
    try:
        added = np.asarray(operator.run(*zeros))
    except NotRunError:
        return False
    linear = operator.linear_map(Place(tuple(shapes), added.shape))
    if linear is None:
        return False
    units = np.eye(sum(zero.size for zero in zeros))
    ends = np.cumsum([0, *(zero.size for zero in zeros)])

    def split(flat: Any) -> list[Any]:
        return [flat[:, a:b].reshape(-1, *shape) for a, b, shape in zip(ends, ends[1:], shapes, strict=False)]

    columns = [operator.run(*each) - added for each in zip(*split(units), strict=True)]
    matrix = np.stack([np.ravel(column) for column in columns], axis=1)
    x = rng.normal(size=(3, len(units)))
    y = rng.normal(size=(3, added.size))
    linear = linear.with_adjoint(shapes)
    back = linear.back(y.reshape(3, *added.shape))
    assert [part.shape for part in back] == [(3, *shape) for shape in shapes]
    # Twice what rounding makes of a product, and what it makes of differences to what is added.
    lost = 2.0**-50 * abs(added).max(initial=0.0) * sum(matrix.shape)

    def near(found: Any, wanted: Any, size: Any, roundings: int) -> bool:
        room = (roundings + sum(matrix.shape)) * 2.0**-52 * size + lost
        return bool((abs(found.reshape(3, -1) - wanted) <= room).all())

    size = abs(x) @ abs(matrix).T
    assert near(linear.apply(split(x)), x @ matrix.T, size, linear.roundings)
    together = np.concatenate([part.reshape(3, math.prod(part.shape[1:])) for part in back], axis=1)
    assert near(together, y @ matrix, abs(y) @ abs(matrix), added.size + linear.roundings + 32)
    assert (linear.absolute(split(abs(x))).reshape(3, -1) >= size * (1 - 1e-12) - lost).all()
    lengths = np.linalg.norm(matrix, axis=1).reshape(added.shape)
    assert (np.broadcast_to(operator.row_norms(shapes[0]), added.shape) >= lengths * (1 - 1e-12) - lost).all()
    if linear.offset is not None:
        assert np.array_equal(np.broadcast_to(linear.offset()[0], added.shape), added)
    assert operator.linear_map(Place(tuple(None for _ in shapes))) is None
    return True


@by_operator(DRAWS)
def test_linear_maps_are_what_operators_compute(request: pytest.FixtureRequest) -> None:
    """Forwards, backwards and in absolute values: ranges and linear bounds are made of them."""
    seen = set[type[Operator]]()

    def look(operator: str, d: Shapes) -> None:
        drawn = draw(operator, d)
        nodes = {} if drawn is None else drawn.graph.by_name
        for node in nodes.values():
            shapes = [nodes[name].shape for name in node.inputs]
            known = [shape for shape in shapes if shape is not None]
            if shapes == known and known and check_map(node.operator, known, np.random.default_rng(d.getrandbits(16))):
                seen.add(type(node.operator))

    chosen = asked(DRAWS, request)
    for operator in chosen:
        many = operator in ("Resize", "Upsample", "Pad", "ScatterElements")  # some modes of those have no map
        examples(partial(look, operator), 33 if many else 3, operator)
    if len(chosen) < len(DRAWS):
        return
    every = [getattr(operators, name) for name in operators.__all__]
    linear = {each for each in every if issubclass(each, operators.Affine)}
    assert linear - seen == {operators.Affine, operators.SameOrder}  # of which others are made


def test_every_input_attribute_and_version_is_varied() -> None:
    assert set(DRAWS) > set(OPERATORS)
    dice = Shapes(random.Random(0))
    arguments = 0
    count = 0
    for operator in DRAWS:
        known = {*places(operator), *attributes(operator)}
        seen: dict[str, set[str]] = {name: set() for name in known}
        opsets: set[int] = set()
        for at in range(150):
            opsets.add(opset_of(operator, dice))
            for name, value in DRAWS[operator](dice).items():
                array = isinstance(value, Slot | list | np.ndarray)
                seen.setdefault(name, set()).add(f"numbers {at}" if array else repr(value))
        assert {name for name in known if len(seen[name]) < 2} == set(), operator
        defined = {schema.since_version for schema in versions(operator).values()}
        drawn = {onnx.defs.get_schema(operator, opset).since_version for opset in opsets}
        assert drawn == defined, operator
        arguments = arguments + len(known)
        count = count + len(defined)
    print(f"{len(DRAWS)} operators, {count} versions, {arguments} inputs and attributes")  # noqa: T201 - `-rP`


def test_the_newest_operator_set_is_the_one_of_the_package() -> None:
    """A newer package may define more: then this says what to look at."""
    assert onnx.defs.onnx_opset_version() <= NEWEST


TENSOR = helper.make_tensor("t", 1, (1,), [7.0])
SPARSE = helper.make_sparse_tensor(TENSOR, helper.make_tensor("i", 7, (1,), [0]), [1])
STRANGE: dict[int, Any] = {1: 3.25, 2: 17, 3: "strange", 4: TENSOR, 6: [3.25], 7: [17], 8: ["strange"], 11: SPARSE}
"""A value of each type of attribute that is no default."""


def call(operator: str, opset: int, inputs: Sequence[Value | None] = (), **given: Any) -> Call:
    made = {name: helper.make_attribute(name, value) for name, value in given.items()}
    tensor = Constant("t", (1,), "float32", lambda: np.full(1, 7.0))
    return Call(operator, opset, inputs, made, 1, lambda _: tensor, lambda _: tensor, lambda *_: "t")


def refusal(operator: str, opset: int, inputs: Sequence[Value | None] = (), **given: Any) -> str:
    """Empty where the operator takes it."""
    known = OPERATORS[operator]
    made = call(operator, opset, inputs, **given)
    try:
        bind(made, known, known.build)
    except NoBoundError as error:
        return "" if "is missing" in str(error) else str(error)
    return ""


def test_what_no_builder_names_is_refused_by_name() -> None:
    """Every attribute and input of every operator in every operator set."""
    refused = 0
    for operator, known in OPERATORS.items():
        named = attributes(operator)
        for schema in HISTORY[operator]:
            if schema.since_version < known.since:
                assert "operator set" in refusal(operator, schema.since_version), operator
                refused += 1
        for opset, schema in versions(operator).items():
            for name, each in schema.attributes.items():
                said = refusal(operator, opset, **{name: STRANGE[each.type.value]})
                assert (said == "") == (name in {*named, *known.ignored}), (operator, opset, name, said)
                assert said == "" or f"attribute {name} of {operator}" in said
                refused += said != ""
            assert "steepness" in refusal(operator, opset, steepness=3.0)
            kind = next(iter(schema.attributes.items()), None)
            if kind is not None:
                other = STRANGE[1 if kind[1].type.value != 1 else 2]
                assert f"attribute {kind[0]} of {operator} has another type" in refusal(
                    operator, opset, **{kind[0]: other}
                )
            if not schema.inputs or schema.inputs[-1].option.name != "Variadic":
                more = [None] * (len(schema.inputs) + 1)
                assert f"{operator} has {len(more)} input" in refusal(operator, opset, more)
        assert "operator set" in refusal(operator, NEWEST + 1)
    print(f"{refused} attributes and versions refused")  # noqa: T201 - shown by `pytest -rP`


def test_an_attribute_that_a_builder_does_not_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each keyword of each builder, at an operator set that has it, as if it had never been written."""
    forgotten = 0
    for operator, known in OPERATORS.items():
        make = known.build
        for name, each in parameters(make).items():
            for opset, schema in versions(operator).items():
                if each.kind is not each.KEYWORD_ONLY or name not in schema.attributes:
                    continue
                without = {key: value for key, value in parameters(make).items() if key != name}
                given = call(operator, opset, **{name: STRANGE[schema.attributes[name].type.value]})
                monkeypatch.setattr(binding, "parameters", lambda _, without=without: without)
                with pytest.raises(NoBoundError, match=f"attribute {name} of {operator} is not supported"):
                    bind(given, replace(known, ignored=()), make)
                monkeypatch.undo()
                forgotten += 1
    assert forgotten > 150
