"""The aims: how many times as fast as the yardstick some rows of the suite are to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.facts import Row


@dataclass(frozen=True)
class Aim:
    """How many times as fast as its section's yardstick a contestant is to be.

    Parameters
    ----------
    section, contestant : str
        Values of these fields of the suite's rows.
    times : float
        The yardstick's seconds divided by the contestant's, at least.
    family : str
        Family of the kernels.
    names : sequence of str
        Names of the kernels; empty: all kernels of the family.
    library : str, default "torch cpu"
    """

    section: str
    contestant: str
    times: float
    family: str
    names: Sequence[str] = ()
    library: str = "torch cpu"

    def is_about(self, row: Row) -> bool:
        """Return whether a row of the suite has this contestant, on one of these kernels."""
        wanted = self.section, self.contestant, self.family, self.library
        row_is = tuple(row.get(key) for key in ("section", "contestant", "family", "library"))
        return wanted == row_is and (not self.names or row["name"] in self.names)


C64, C128, C256, C512 = (f"{channels} channels" for channels in (64, 128, 256, 512))
AIMS = (
    Aim("tensor norm", "enclose 1e-3", 1.8, "trained-like", [C64]),
    Aim("tensor norm", "enclose 1e-3", 1, "trained-like", [C128, C256]),
    Aim("tensor norm", "enclose 1e-3", 2, "trained-like", [C512]),
    Aim("tensor norm", "enclose 1e-3", 1, "trained-like, level", [C64, C128, C256, C512]),
    Aim("tensor norm", "enclose 1e-3", 1, "decaying", [C128, C256]),
    Aim("tensor norm", "enclose 1e-3", 0.2, "flat", [C256]),
    Aim("unfoldings", "f4_bound", 1, "trained-like", [C512]),
    Aim("unfoldings", "f4_bound", 1, "flat", [C512]),
    Aim("circular", "conv_norm", 10, "real"),
    Aim("circular", "conv_norm", 5, "flat"),
    Aim("gram", "gram_bound, 3 steps", 1, "trained-like", [C64]),
    Aim("power", "power_norm", 1, "real"),
    Aim("rescaling", "gram_rescaling", 1, "trained-like", [C64]),
    Aim("multiple", "rescale", 0.5, "real"),
    Aim("multiple", "rescale", 0.5, "trained-like"),
    Aim("step of a constraint", "default", 1, "Gaussian"),
    Aim("step of a constraint", "default", 0.5, "Gaussian", library="jax cpu"),
)  # fmt: skip
