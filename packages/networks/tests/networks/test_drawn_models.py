"""Models as people write them, drawn at random: no claim about one is exceeded, and what is refused is so in words.

CI takes four; at night there are 500 modules of torch and 200 functions of JAX, by which Keras's models are read, too.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", exc_type=ImportError)
from helpers.assumptions import assumed
from networks.drawn_models import hunting
from networks.drawn_models.attacks import Attack, Machine, Vectors

COUNTS = {"torch": 500, "jax": 200}
NEEDS = {"torch": ("torch", "onnxscript"), "jax": ("flax", "equinox", "jax2onnx")}
SAMPLE = {"torch": (0, 1, 7), "jax": (2,)}
AT_ONCE = 50
BOUNDED = {"torch": 0.4, "jax": 0.2}
"""Least share of models that have a bound."""


def ask(framework: str, seeds: Any) -> list[hunting.Outcome]:
    for package in NEEDS[framework]:
        pytest.importorskip(package)
    models = pytest.importorskip(f"networks.drawn_models.{framework}_models")
    found = {seed: models.asked(seed) for seed in seeds}
    sys.stdout.write(hunting.table([*found.values()]) + "\n")  # shown by `pytest -rP`
    wrong = {seed: each for seed, each in found.items() if each.kind not in hunting.GOOD or not each.words}
    assert not wrong
    return [*found.values()]


@pytest.mark.parametrize("framework", COUNTS)
def test_some_drawn_models_are_bounded_rightly(framework: str) -> None:
    outcomes = ask(framework, SAMPLE[framework])
    assert {each.kind for each in outcomes} == {"bounded"}
    assert sum(each.reached > 0.5 * each.upper for each in outcomes) >= len(outcomes) / 2


@pytest.mark.nightly
@pytest.mark.parametrize(("framework", "start"), [(f, at) for f in COUNTS for at in range(0, COUNTS[f], AT_ONCE)])
def test_drawn_models_are_bounded_rightly_or_refused_in_words(framework: str, start: int) -> None:
    outcomes = ask(framework, range(start, start + AT_ONCE))
    assert sum(each.kind == "bounded" for each in outcomes) > BOUNDED[framework] * len(outcomes)


# -- the attack itself -----------------------------------------------------------------------------------------------
RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((6, 5))


def pulled(_: Vectors, u: Vectors) -> Vectors:
    return u @ WEIGHT.T


def nothing(x: Vectors, _: Vectors) -> Vectors:
    return np.zeros_like(x)


def centred(x: Any) -> Any:
    return x - x.mean(1, keepdims=True)


MACHINES: dict[str, tuple[Machine, float]] = {
    "linear": (Machine(6, lambda x: x @ WEIGHT, pulled), float(np.linalg.norm(WEIGHT, 2))),
    "its derivative is declared as nothing": (Machine(6, np.sin, nothing), 0.5),
    "jump": (Machine(6, lambda x: np.sign(x - 0.3), nothing), 1e6),
    "steep near zero": (Machine(6, lambda x: np.tanh(1e3 * x) / 1e3, lambda x, u: u / np.cosh(1e3 * x) ** 2), 1.0),
    "steep where all entries agree": (
        Machine(6, lambda x: np.tanh(100 * centred(x)) / 100, lambda _, u: centred(u)),
        1.0,
    ),
    "steep far away": (
        Machine(6, lambda x: np.maximum(x[:, :1] - 3, 0), lambda x, u: u * (x > 3) * (np.arange(6) == 0)),
        1.0,
    ),
}


@pytest.mark.parametrize("name", MACHINES)
def test_the_attack_comes_near_to_the_constant(name: str) -> None:
    machine, constant = MACHINES[name]
    attack = Attack(machine, np.random.default_rng(1))
    reached = attack.run()
    assert attack.pair is not None
    x, y = attack.pair
    moved = np.linalg.norm(machine.values(x[None]) - machine.values(y[None]))
    assert 0.98 * constant <= reached <= moved / np.linalg.norm(x - y) * (1 + 1e-12)


def test_a_mixture_of_samples_is_seen() -> None:
    rng = np.random.default_rng(0)
    assert Machine(4, lambda x: x - x.mean(0), pulled).depends_on_batch(rng)
    assert Machine(4, lambda x: x if len(x) < 30 else 3 * x, pulled).depends_on_batch(rng)
    assert not Machine(4, lambda x: x - x.mean(1, keepdims=True), pulled).depends_on_batch(rng)


def test_a_false_claim_is_found(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine tenths of what is reached, of a module whose bound is attained."""
    pytest.importorskip("onnxscript")
    from networks.drawn_models import torch_models

    real = vars(hunting)["network_bound"]

    def claimed(*given: Any, **options: Any) -> Any:
        answer = real(*given, **options)
        assert answer.claim is not None
        return replace(answer, claim=assumed(0.9 * answer.upper, answer.claim.what))

    monkeypatch.setattr(hunting, "network_bound", claimed)
    model = torch.nn.Linear(4, 3)
    wide = torch.nn.Linear(4, 3).double()
    wide.load_state_dict(model.state_dict())
    found = hunting.outcome(model, (4,), lambda: torch_models.machine_of(wide, ((4,),)), 0)
    assert found.kind == "false"
