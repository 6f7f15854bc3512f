"""Inputs and attributes at random of ONNX operators that normalise by their own entries."""

from __future__ import annotations

from networks.drawing import Arguments, Shapes, Slot, axis, numbers

EPSILON = (None, 1e-5, 0.1, 2.0)


def over_the_last(d: Shapes) -> Arguments:
    """Of layer and RMS norm: an axis and all behind it."""
    shape = d.sizes()
    at = d.choice([None, axis(d, shape)])
    rest = shape[-1:] if at is None else shape[at % len(shape) :]
    scale = numbers(d, rest)
    bias = d.choice([None, numbers(d, rest)])
    found: Arguments = {"X": Slot(shape), "Scale": scale, "scale": scale, "B": bias, "axis": at}
    return found | {"epsilon": d.choice(EPSILON), "stash_type": d.choice([None, 1])}


def over_channels(d: Shapes) -> Arguments:
    shape = (1, d.randint(1, 3), *(d.randint(1, 4) for _ in range(d.randint(1, 2))))
    of_channels = {name: numbers(d, shape[1:2]) for name in ("scale", "B")}
    return {"input": Slot(shape), "epsilon": d.choice(EPSILON)} | of_channels


def over_groups(d: Shapes) -> Arguments:
    groups = d.randint(1, 2)
    each = d.randint(1, 2)
    shape = (1, groups * each, *(d.randint(1, 3) for _ in range(d.randint(1, 2))))
    of_channels = {name: numbers(d, (groups * each,)) for name in ("scale", "bias")}
    found: Arguments = {"X": Slot(shape), "num_groups": groups, "epsilon": d.choice(EPSILON)}
    return found | of_channels | {"stash_type": d.choice([None, 1])}


def lengths(d: Shapes) -> Arguments:
    shape = d.sizes()
    return {"input": Slot(shape), "axis": d.choice([None, axis(d, shape)]), "p": d.choice([None, 2, 2, 1])}


STATES = {
    "LayerNormalization": over_the_last, "RMSNormalization": over_the_last, "InstanceNormalization": over_channels,
    "GroupNormalization": over_groups, "LpNormalization": lengths,
}  # fmt: skip
