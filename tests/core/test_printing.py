"""What one sees first: an answer prints on one line, a comparison as a table."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.libraries import Lib

import specnorm
from specnorm.methods import FantasticFour, Unfoldings

KERNEL = np.cos(np.arange(54.0)).reshape(3, 2, 3, 3).astype(np.float32)


def test_answers_print_on_one_line(xp: Lib) -> None:
    found = specnorm.enclose(xp.asarray(KERNEL))
    assert re.fullmatch(r"[\d.]+ <= norm <= [\d.]+ \(converged: rtol=0.001\)", str(found)), str(found)
    assert repr(found) == str(found)
    assert f"{specnorm.enclose(np.asarray([[0.3]])):.1f}" == "0.2 <= norm <= 0.3"
    assert str(specnorm.complete(np.ones((2, 2, 3)))).startswith("Completed(6.00")
    lower, upper = (float(x) for x in re.findall(r"[\d.]+", str(found))[:2])
    assert lower <= xp.number(found.lower)
    assert upper >= xp.number(found.upper)
    result = specnorm.measure(xp.asarray(KERNEL), FantasticFour())
    assert re.fullmatch(r"upper [\d.]+ \(f4, every input size\)", str(result)), str(result)
    several = specnorm.measure(xp.asarray(KERNEL), Unfoldings(), input_shape=8)
    assert re.fullmatch(r"upper [\d.]+ ... [\d.]+ \(7 values\) \(unfoldings, input size \(8, 8\)\)", str(several))


def test_an_enclosure_unpacks(xp: Lib) -> None:
    found = specnorm.enclose(xp.asarray(KERNEL))
    lower, upper = found
    assert lower is found.lower
    assert upper is found.upper
    assert float(lower) <= float(upper)


@pytest.mark.parametrize("convert", [float, math.sqrt])
def test_an_enclosure_is_no_number(convert: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"float\(\) of Enclosure, .*\.upper .*\.lower"):
        convert(specnorm.enclose(KERNEL))


@pytest.mark.parametrize("compare", [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne])
@pytest.mark.parametrize("number", [1.0, 1, np.float32(1), np.ones(()), True], ids=lambda x: type(x).__name__)
def test_an_enclosure_compares_with_no_number(compare: Callable[[Any, Any], Any], number: Any) -> None:
    """On both sides; each message says which of the two numbers to take."""
    found = specnorm.enclose(KERNEL)
    for sides in ((found, number), (number, found)):
        with pytest.raises(TypeError, match=r"\.upper .*\.lower"):
            compare(*sides)


def test_enclosures_are_told_apart_and_hashed() -> None:
    """Lists, sets and caches hold them."""
    one, other = specnorm.enclose(KERNEL), specnorm.enclose(KERNEL)
    assert one in [other, one]
    assert one != other
    assert one != "a word"
    assert len({one, other, one}) == 2
    with pytest.raises(TypeError, match=r"\.upper .*\.lower"):
        _ = one < other


def test_a_comparison_is_a_table() -> None:
    found = specnorm.compare(KERNEL[:, :, 0, 0])
    lines = str(found).splitlines()
    assert lines[0].split() == ["method", "promise", "value"]
    assert [line.split()[:2] for line in lines[1:]] == [[name, x.kind] for name, x in found.items()]
    assert (
        len(
            {line.index(word) for line, word in zip(lines, ["promise"] + [x.kind for x in found.values()], strict=True)}
        )
        == 1
    )
    assert found._repr_html_().count("<tr>") == len(lines)
    assert dict(found) == found


@pytest.mark.nightly
def test_answers_under_a_tracer_print(jax: Any) -> None:
    seen = []

    def traced(kernel: Any) -> Any:
        seen.append(str(specnorm.measure(kernel, FantasticFour())))
        return specnorm.compare(kernel)

    found = jax.jit(traced)(jax.numpy.asarray(KERNEL[:, :, 0, 0]))
    assert seen == ["upper unknown under a tracer (f4, a 3 x 2 matrix)"]
    assert "f4" in str(found)


def test_a_gradient_is_no_trouble(torch: Any) -> None:
    value = str(specnorm.measure(torch.tensor(KERNEL, requires_grad=True), FantasticFour()))
    assert value == str(specnorm.measure(KERNEL, FantasticFour()))
