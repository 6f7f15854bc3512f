"""No label that is certified changes under attack; what is called unsafe is shown; each sample is looked at alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers.nightly import NIGHTLY
from networks.dense_networks import Network, dense
from specnorm_networks import Multipliers, certified_accuracy, within
from specnorm_networks.local.accuracy import CertifiedAccuracy
from specnorm_networks.tools import bound

from specnorm.errors import MethodError

Array = Any
NETWORKS = int(os.environ.get("SPECNORM_ATTACKED", "10" if NIGHTLY else "5"))
"""Networks at random, each with some samples and radii; by hand thousands."""
METHOD = Multipliers(steps=3)
RADII = [0.1, 0.3, 0.8]


def classifiers() -> Iterator[Network]:
    """Of every function, residual and not; inner widths and depths at random."""
    kinds = ("relu", "maxmin", "tanh", "leaky", "abs", "silu", "sigmoid", "residual", "pooled", "joined")
    for seed in range(NETWORKS):
        rng = np.random.default_rng(seed)
        kind = kinds[seed % len(kinds)]
        inner = [int(2 * rng.integers(2, 6))] * int(rng.integers(1, 4))
        skips = kind == "residual"
        yield dense(seed, (inner[0] if skips else 4, *inner, 3), "relu" if skips else kind, skips=skips)


def flips(chain: Network, x: Array, label: int, radius: float, numbers: Any) -> bool:
    """Whether steps towards each other class, from the sample and from places at random, change the label."""
    for other in set(range(3)) - {label}:
        for start in range(3):
            d = numbers.normal(size=x.size) * (start > 0)
            for _ in range(10):
                d = d * min(1.0, radius * (1 - 1e-12) / max(float(np.linalg.norm(d)), 1e-300))
                values = chain.values(x + d)[-1]
                if values[other] >= values[label]:
                    return True
                way = chain.jacobian(x + d)
                way = way[other] - way[label]
                d = d + radius * way / max(float(np.linalg.norm(way)), 1e-300)
    return False


def test_no_certified_label_changes() -> None:
    count = {"safe": 0, "unsafe": 0, "open": 0}
    for seed, chain in enumerate(classifiers()):
        numbers = np.random.default_rng(seed)
        x = numbers.normal(size=(2 if NIGHTLY else 1, chain.shape[1]))
        y = np.array([int(chain.values(each)[-1].argmax()) for each in x])
        found = certified_accuracy(chain.graph, x, y, RADII, local=True, method=METHOD)
        for at, sample in enumerate(x):
            for radius, status in zip(RADII, found.status[:, at], strict=True):
                count[status] += 1
                if status == "safe":
                    assert not flips(chain, sample, int(y[at]), radius, numbers), (seed, at, radius)
            if at in found.changed:
                other = found.changed[at].reshape(-1)
                least = RADII[int((found.status[:, at] == "unsafe").argmax())]
                assert np.linalg.norm(other - sample) <= least
                assert chain.values(other)[-1].argmax() != y[at]
        known = certified_accuracy(chain.graph, x, y, RADII, method=METHOD)
        assert (found.radius >= known.radius).all()
    assert count["safe"] > 0.3 * sum(count.values())
    assert count["open"] < 0.2 * sum(count.values())


def test_the_answer_for_a_sample_does_not_depend_on_the_others() -> None:
    chain = dense(0, (4, 8, 8, 3))
    x = np.random.default_rng(0).normal(size=(4, 4))
    y = np.array([int(chain.values(each)[-1].argmax()) for each in x])

    def of(part: slice) -> CertifiedAccuracy:
        return certified_accuracy(chain.graph, x[part], y[part], RADII, local=True, method=METHOD)

    whole = of(slice(None))
    halves = [of(slice(0, 1)), of(slice(1, 4))]
    assert (whole.radius == np.concatenate([half.radius for half in halves])).all()
    assert (whole.status == np.concatenate([half.status for half in halves], axis=1)).all()


def test_a_box_around_the_inputs_certifies_larger_radii() -> None:
    """Inputs are entries between 0 and 1: what a ball allows outside of that does not count."""
    chain = dense(1, (4, 8, 3))
    x = np.random.default_rng(1).uniform(0, 0.1, size=(2, 4))
    y = np.array([int(chain.values(each)[-1].argmax()) for each in x])
    radii = np.geomspace(0.01, 10, 12)
    free, boxed = (
        certified_accuracy(graph, x, y, radii, local=True, method=METHOD).radius
        for graph in (chain.graph, within(chain.graph, 0.0, 1.0))
    )
    assert (boxed >= free * 0.99).all()
    assert (boxed > 1.05 * free).any()


def test_answers_are_shown_as_tables() -> None:
    """In a shell and in a notebook, short for networks of any depth."""
    chain = dense(0, (4, *(4,) * 30, 3), "relu")
    found = bound(chain.graph, method=Multipliers(steps=1), check=False)
    assert repr(found).count("\n") < 40
    assert "..." in repr(found)
    assert "Lipschitz constant at most" in repr(found)
    assert found._repr_html_().count("<tr>") == 21
    small = dense(0, (4, 4, 3), "relu")
    accuracy = certified_accuracy(small.graph, np.ones((2, 4)), np.zeros(2, int), RADII, method=METHOD)
    assert repr(accuracy) == str(accuracy)
    assert accuracy._repr_html_().count("<tr>") == 1 + len(RADII)


def test_what_it_takes_is_said() -> None:
    """A data loader was `float() argument must be a string or a real number`."""

    class DataLoader:
        pass

    with pytest.raises(MethodError, match=r"x is of type DataLoader.*torch\.cat\(parts\)"):
        certified_accuracy(lambda x: x, DataLoader(), None, [0.1])


X, Y = np.zeros((2, 9)), np.array([0, 1])
ARGUMENTS: dict[str, tuple[Any, Array, dict[str, Any], str]] = {
    "labels as floats": (X, Y / 1.0, {}, r"y has dtype float64; expected whole numbers"),
    "a label that is NaN": (X, np.array([0, np.nan]), {}, r"y has dtype float64"),
    "an input that is NaN": (np.where(np.eye(2, 9), X, [[0.0], [np.nan]]), Y, {}, "sample 1 of x has entries that"),
    "maximum norm": (X, Y, {"norm": np.inf}, r"norm=inf: the radii are in the 2-norm.*radii=\[r \* 9\*\*0\.5\]"),
    "two norms": (X, Y, {"norm": np.array([1.0, 2.0])}, r"norm=array\(\[1., 2.\]\): the radii are in the 2-norm"),
    "a margin in words": (X, Y, {"margin": "0"}, "margin must be a number, got str '0'"),
    "one end of a range": (X, Y, {"input_range": 1}, "input_range=1; expected two numbers"),
    "a range in words": (X, Y, {"input_range": ("a", "b")}, r"input_range=\('a', 'b'\); expected numbers"),
    "lists of different lengths": ([[1], [1, 2]], Y, {}, "lists of different lengths; expected arrays"),
    "a radius in a word": (X, Y, {"radii": ["a"]}, r"radii=\['a'\]; expected numbers"),
    "local in a word": (X, Y, {"local": "no"}, "local='no' is not True or False"),
    "progress in a word": (X, Y, {"progress": "yes"}, "progress='yes' is no function: give one such as lambda done"),
    "1-norm": (X, Y, {"norm": 1}, "in the one of the same radius in the 2-norm"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_are_refused_before_the_network_is_bounded(case: str) -> None:
    x, y, options, said = ARGUMENTS[case]
    with pytest.raises(MethodError, match=said):
        certified_accuracy(lambda x: x, x, y, **{"radii": [0.1], **options})
