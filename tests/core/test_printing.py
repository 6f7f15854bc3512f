"""What one sees first: an answer prints on one line, a comparison as a table."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from libraries import Lib

import specnorm
from specnorm.methods import FantasticFour, Unfoldings

KERNEL = np.cos(np.arange(54.0)).reshape(3, 2, 3, 3).astype(np.float32)


def test_answers_print_on_one_line(xp: Lib) -> None:
    found = specnorm.enclose(xp.asarray(KERNEL))
    assert re.fullmatch(r"[\d.]+ <= norm <= [\d.]+ \(converged: rtol=0.001\)", str(found)), str(found)
    assert repr(found) == str(found)
    lower, upper = (float(x) for x in re.findall(r"[\d.]+", str(found))[:2])
    assert lower <= xp.number(found.lower)
    assert upper >= xp.number(found.upper)
    result = specnorm.measure(xp.asarray(KERNEL), FantasticFour())
    assert re.fullmatch(r"upper [\d.]+ \(f4, every input size\)", str(result)), str(result)
    several = specnorm.measure(xp.asarray(KERNEL), Unfoldings(), input_shape=8)
    assert re.fullmatch(r"upper [\d.]+ ... [\d.]+ \(7 values\) \(unfoldings, input size \(8, 8\)\)", str(several))


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
def test_answers_under_a_tracer_print() -> None:
    jax: Any = pytest.importorskip("jax")
    seen = []

    def traced(kernel: Any) -> Any:
        seen.append(str(specnorm.measure(kernel, FantasticFour())))
        return specnorm.compare(kernel)

    found = jax.jit(traced)(jax.numpy.asarray(KERNEL[:, :, 0, 0]))
    assert seen == ["upper unknown under a tracer (f4, every input size)"]
    assert "f4" in str(found)


def test_a_gradient_is_no_trouble() -> None:
    torch: Any = pytest.importorskip("torch")
    value = str(specnorm.measure(torch.tensor(KERNEL, requires_grad=True), FantasticFour()))
    assert value == str(specnorm.measure(KERNEL, FantasticFour()))
