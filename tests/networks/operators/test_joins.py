"""Maximum, minimum, choices, products and quotients against their definitions and random maps."""

from __future__ import annotations

import operator as arithmetic
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from assumptions import interval
from numpy.typing import NDArray
from specnorm_networks.certified.operators import (
    Choose,
    Compare,
    Maximum,
    Minimum,
    NoBoundError,
    Operator,
    Place,
    Product,
    Quotient,
    Where,
)
from specnorm_networks.certified.operators.base import Ends

from specnorm.certified.interval import Interval

Array = NDArray[np.float64]
MASK = np.array([True, False, False, True, False])
EXTREMES: list[tuple[Operator, Callable[..., Array]]] = [
    (Maximum(), lambda *x: np.max(np.broadcast_arrays(*x), axis=0)),
    (Minimum(), lambda *x: -np.max([-each for each in np.broadcast_arrays(*x)], axis=0)),
]


def ranges(*ends: Ends) -> Callable[[], tuple[Interval | None, ...]]:
    return lambda: tuple(interval(*pair) for pair in ends)


@pytest.mark.parametrize(("operator", "definition"), EXTREMES)
@pytest.mark.parametrize("shapes", [((5,), (5,)), ((5,), (1,), (3, 1)), ((3, 5),), ((), (5,), (1, 5), (3, 1))])
def test_extremes_of_any_number_of_values(
    operator: Operator, definition: Callable[..., Array], shapes: tuple[tuple[int, ...], ...]
) -> None:
    dice = np.random.default_rng(0)
    after = np.broadcast_shapes(*shapes)
    for _ in range(200):
        low = [dice.normal(size=shape) for shape in shapes]
        high = [each + dice.random(each.shape) * dice.choice([0, 1]) for each in low]
        x, y = ([a + dice.random(a.shape) * (b - a) for a, b in zip(low, high, strict=True)] for _ in range(2))
        found = operator.run(*x)
        assert (found == definition(*x)).all()
        assert operator.rounding(x, found, 2.0**-24) == 0
        place = Place(tuple(shapes), after)
        image = operator.image([interval(*pair) for pair in zip(low, high, strict=True)], place)
        assert image is not None
        assert ((image.low <= found) & (found <= image.high)).all()
        moved = [float(np.linalg.norm(a - b)) for a, b in zip(x, y, strict=True)]
        assert np.linalg.norm(found - operator.run(*y)) <= operator.combine(moved, place) + 1e-12
        if len(shapes) > 1:  # a constant does not move
            assert (
                np.linalg.norm(found - operator.run(*y[:-1], x[-1]))
                <= operator.combine([*moved[:-1], 0], place) + 1e-12
            )


def test_combinations_of_bounds() -> None:
    dice = np.random.default_rng(1)
    a, b = dice.normal(size=(2, 5, 4))
    bounds = [float(np.linalg.norm(each, 2)) for each in (a, b)]
    place = Place(((5,), (5,)), (5,))
    for operator in (Maximum(), Minimum(), Where(lambda: MASK)):
        for _ in range(200):
            x, y = dice.normal(size=(2, 4))
            rise = np.linalg.norm(operator.run(a @ x, b @ x) - operator.run(a @ y, b @ y))
            assert rise <= operator.combine(bounds, place) * np.linalg.norm(x - y)
        assert operator.combine([3.0, 4.0], place) == pytest.approx(5)
        assert operator.combine([3.0, 0.0], place) == 3
        assert operator.combine([3.0, 4.0], Place(((5,), (1,)), (5,))) == pytest.approx(np.sqrt(9 + 16 * 5))
        assert operator.combine([3.0, 0.0], Place(((5,), None), (5,))) == 3
        with pytest.raises(NoBoundError, match="shape"):
            operator.combine([3.0, 1.0], Place(((5,), None), (5,)))


def test_a_choice_by_a_mask() -> None:
    choice, place = Where(lambda: MASK), Place(((5,), (1,)), (5,))
    one, other = np.arange(5.0), np.array([7.0])
    assert choice.run(one, other).tolist() == [0, 7, 7, 3, 7]
    image = choice.image([interval(one, one + 1), interval(other - 1, other)], place)
    assert image is not None
    assert image.low.tolist() == [0, 6, 6, 3, 6]
    assert image.high.tolist() == [1, 7, 7, 4, 7]


def test_steps_run_and_have_no_constant() -> None:
    x = np.array([-1.0, 0.1, 2.0])
    for kind, wanted in (("gt", [0, 0, 1]), ("ge", [0, 1, 1]), ("lt", [1, 0, 0]), ("le", [1, 1, 0])):
        step: Any = Compare(kind, 0.1)  # type: ignore[arg-type]  # of a loop
        assert step.run(x).tolist() == wanted
        # In single precision 0.1 is another number.
        assert step.rounding([x], step.run(x), 2.0**-24).tolist() == [0, 1, 0]
    assert Choose().run(np.array([0.0, 1.0, -2.0]), x, -x).tolist() == [1, 0.1, 2]
    for operator, count in ((Compare("gt"), 1), (Choose(), 3)):
        with pytest.raises(NoBoundError):
            operator.combine([1.0] * count, Place(((3,),) * count, (3,)))


# -- products and quotients ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("operator", [Product(), Quotient()])
def test_products_and_quotients(operator: Product | Quotient) -> None:
    """In decimals of 60 digits: no value outside, no difference above."""
    dice = np.random.default_rng(1)
    f: Callable[[Decimal, Decimal], Decimal] = arithmetic.mul if isinstance(operator, Product) else arithmetic.truediv
    place = Place(((1,), (1,)), (1,))
    for _ in range(60):
        low = dice.normal(size=2) * dice.choice([1e-3, 1.0, 30.0], size=2)
        low[1] = low[1] if isinstance(operator, Product) else abs(low[1])
        high = low + abs(dice.normal(size=2)) * dice.choice([0.0, 1.0])
        ends = [(low[at : at + 1], high[at : at + 1]) for at in range(2)]
        steep = [operator.combine(bounds, Place(place.before, (1,), ranges(*ends))) for bounds in ([1.0, 0], [0, 1.0])]
        image = operator.image([interval(*pair) for pair in ends], place)
        assert image is not None
        with localcontext() as context:
            context.prec = 60
            points = [[Decimal(float(v)) for v in dice.choice([low, high, dice.uniform(low, high)])] for _ in range(8)]
            for x, y in points:
                assert Decimal(float(image.low[0])) <= f(x, y) <= Decimal(float(image.high[0]))
                for u, v in points:
                    assert abs(f(x, y) - f(u, v)) <= Decimal(steep[0]) * abs(x - u) + Decimal(steep[1]) * abs(y - v)


def test_values_and_roundings_of_products() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    for operator, there in ((Product(), x * y), (Quotient(), x / y)):
        values = [x.astype(np.float64), y.astype(np.float64)]
        found = operator.run(*values)
        assert (abs(found - there) <= operator.rounding(values, found, 2.0**-24)).all()
        assert (operator.rounding(values, found, 2.0**-24) < 1e-6 * (abs(found) + 1)).all()


def test_a_product_that_is_repeated() -> None:
    """One number times four entries: a change of it counts twice."""
    known = ranges((np.zeros((1, 4)), np.full((1, 4), 3.0)), (np.zeros((1, 1)), np.full((1, 1), 5.0)))
    place = Place(((1, 4), (1, 1)), (1, 4), known)
    assert Product().combine([1.0, 0.0], place) == pytest.approx(5, rel=1e-12)
    assert Product().combine([1.0, 1.0], place) == pytest.approx(5 + 2 * 3, rel=1e-12)


def test_no_constant_where_there_is_none() -> None:
    nowhere = (np.array([-1.0]), np.array([2.0]))
    everywhere = (np.array([-np.inf]), np.array([np.inf]))
    both = ((1,), (1,))
    for operator, said in ((Product(), "product of two values"), (Quotient(), "divides by a value")):
        for known in (lambda: (), ranges(everywhere, everywhere), lambda: (None, None)):
            with pytest.raises(NoBoundError, match=said + r".*within\(graph, low, high\)"):
                operator.combine([1.0, 1.0], Place(both, (1,), known))
    with pytest.raises(NoBoundError, match="box"):
        Quotient().combine([1.0, 1.0], Place(both, (1,), ranges(nowhere, nowhere)))
    # What does not move needs no range of the other.
    assert Product().combine([2.0, 0.0], Place(both, (1,), lambda: (None, interval(*nowhere)))) == pytest.approx(4)
    assert Product().combine([0.0, 0.0], Place(both, (1,))) == 0
