"""What the search for a layer's norm at its size is tuned by. It changes what an answer costs, none what it claims."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class LayerTuning:
    """Effort for a layer at its size. It decides on time and on how wide the interval is.

    Parameters
    ----------
    at_once : float
        Multiplications of a proof by the layer's own matrix up to which nothing else is tried: a search takes longer.
    soon : float
        Those up to which it is tried after one ring: less than a second.
    work : float
        Those up to which it is tried where nothing else came close enough: some seconds.
    split : float
        Those from which a ring is split first.
    splits : int
        Groups up to which a ring is split for each.
    splits_down_to : float
        Tolerance: for a smaller one too many waves would have to be taken out.
    steps : int
        Lanczos steps from a plane wave at the best frequency. The wave alone is within 1e-4 to 4e-3 of the norm on
        trained layers at 32 pixels an axis, after four steps within 1e-6 to 4e-4, after eight within 1e-7 to 1e-4.
    waves : int
        Pixels an axis from which a sum of waves takes the place of these steps: it is as close.
    ritz, several : int
        Lanczos steps for a subspace, and vectors of theirs in it.
    vectors : int
        A subspace is tried where so many vectors are worth their while.
    closer : int
        Steps where few waves taken out of a ring are not enough.
    more : int
        Steps where the bounds are still apart, or closer ones are asked for.
    applied : float
        Pixels times channels times steps at most; of a larger layer a window is taken, which loses the less the larger
        it is: by the square of its inverse size.
    again : float
        Times as much where the bounds are still apart.
    witness : int
        Inputs and outputs up to which the vectors are given.
    tiny : int
        Pixels an axis up to which no ring is close enough, and a subspace is tried at once.
    """

    at_once: float = 3e6
    soon: float = 2e9
    work: float = 3e10
    steps: int = 4
    waves: int = 24
    ritz: int = 8
    several: int = 4
    vectors: int = 48
    closer: int = 10
    more: int = 48
    applied: float = 2.0**21
    again: float = 2.0
    witness: int = 2**23
    split: float = 2e8
    splits: int = 12
    splits_down_to: float = 1e-4
    tiny: int = 12


TUNING = LayerTuning()
