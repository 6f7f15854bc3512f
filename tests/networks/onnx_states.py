"""Inputs and attributes at random of ONNX operators that normalise by their own entries, and of recurrent ones."""

from __future__ import annotations

import numpy as np
from networks.drawing import Arguments, Dice, Slot, axis, numbers, sizes

EPSILON = (None, 1e-5, 0.1, 2.0)


def over_the_last(d: Dice) -> Arguments:
    """Of layer and RMS norm: an axis and all behind it."""
    shape = sizes(d)
    at = d.choice([None, axis(d, shape)])
    rest = shape[-1:] if at is None else shape[at % len(shape) :]
    scale, bias = numbers(d, rest), d.choice([None, numbers(d, rest)])
    found: Arguments = {"X": Slot(shape), "Scale": scale, "scale": scale, "B": bias, "axis": at}
    return found | {"epsilon": d.choice(EPSILON), "stash_type": d.choice([None, 1])}


def over_channels(d: Dice) -> Arguments:
    """Of instance norm."""
    shape = (1, d.randint(1, 3), *(d.randint(1, 4) for _ in range(d.randint(1, 2))))
    of_channels = {name: numbers(d, shape[1:2]) for name in ("scale", "B")}
    return {"input": Slot(shape), "epsilon": d.choice(EPSILON)} | of_channels


def over_groups(d: Dice) -> Arguments:
    """Of group norm; older operator sets have a scale for each group, newer ones for each channel."""
    groups, each = d.randint(1, 2), d.randint(1, 2)
    shape = (1, groups * each, *(d.randint(1, 3) for _ in range(d.randint(1, 2))))
    count = d.choice([groups, groups * each])
    of_channels = {name: numbers(d, (count,)) for name in ("scale", "bias")}
    found: Arguments = {"X": Slot(shape), "num_groups": groups, "epsilon": d.choice(EPSILON)}
    return found | of_channels | {"stash_type": d.choice([None, 1])}


def lengths(d: Dice) -> Arguments:
    """Of LpNormalization."""
    shape = sizes(d)
    return {"input": Slot(shape), "axis": d.choice([None, axis(d, shape)]), "p": d.choice([None, 2, 2, 1])}


def recurrent(d: Dice) -> Arguments:
    """Of RNN: small weights of the state, so that short sequences reach nearly all that long ones can."""
    steps, samples, inputs, units = 2, 1, d.randint(1, 2), d.randint(1, 2)
    ways, turned = d.choice([1, 1, 1, 1, 2]), d.choice([None, None, 0, 1])
    w, r = numbers(d, (ways, units, inputs)), 0.1 * np.tanh(numbers(d, (ways, units, units)))
    state = numbers(d, (samples, ways, units) if turned else (ways, samples, units))
    names = d.choice([None, ["Tanh"], ["Relu"], ["Sigmoid"]])
    found: Arguments = {"X": Slot((samples, steps, inputs) if turned else (steps, samples, inputs)), "W": w, "R": r}
    return found | {
        "B": d.choice([None, 0.1 * numbers(d, (ways, 2 * units))]), "initial_h": d.choice([None, None, 0.1 * state]),
        "sequence_lens": d.choice([None, None, None, np.full(samples, steps, np.int32)]), "hidden_size": units,
        "activations": names if names is None else names * ways,
        "activation_alpha": d.choice([None, None, None, [0.5]]),
        "activation_beta": d.choice([None, None, None, [0.5]]), "clip": d.choice([None, None, None, 0.5]),
        "direction": "bidirectional" if ways == 2 else d.choice([None, "forward", "forward", "reverse"]),
        "layout": turned, "outputs": d.choice([1, 2]),
    }  # fmt: skip


STATES = {
    "LayerNormalization": over_the_last,
    "RMSNormalization": over_the_last,
    "InstanceNormalization": over_channels,
    "GroupNormalization": over_groups,
    "LpNormalization": lengths,
    "RNN": recurrent,
}
