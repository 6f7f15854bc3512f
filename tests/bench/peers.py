"""Published methods in docs/methods/index.md, from the committed lines of the benchmarks.

``python -m bench page`` in ``tests`` writes the tables.
"""

from __future__ import annotations

import statistics
from typing import NamedTuple

from bench.facts import FOLDER, Row, read
from bench.markdown import filled, table

PAGE = FOLDER.parent / "methods" / "index.md"


class Peer(NamedTuple):
    """A published method, and what answers the same question here."""

    section: str
    contestant: str
    title: str
    source: str
    promise: str
    here: str


PEERS = (
    Peer("tensor norm", "hopm_einsum", "TN by HOPM", "[Grishina et al. 2024](https://arxiv.org/abs/2409.11859)",
         "upper, if the maximum was found; nothing tells", "tn_bound, proven"),
    Peer("uniform grid", "uniform_grid", "LipGrid", "[Araujo et al. 2021](https://arxiv.org/abs/2006.08391)",
         "upper, rounding left out", "grid_bound"),
    Peer("unfoldings", "unfolding_power", "Fantastic Four", "[Singla & Feizi 2021](https://arxiv.org/abs/1911.10258)",
         "upper, if the power steps have converged", "f4_bound"),
    Peer("circular", "rfft_svd", "FFT and SVD", "[Sedghi et al. 2019](https://arxiv.org/abs/1805.10408)",
         "exact, circular at one size", "conv_norm"),
    Peer("gram", "gram_rfft", "Gram iteration", "[Delattre et al. 2023](https://arxiv.org/abs/2305.16173)",
         "upper, circular at one size", "gram_bound, 5 steps"),
    Peer("power", "power_at_size", "Power method on the layer", "[Ryu et al. 2019](https://arxiv.org/abs/1905.05406)",
         "lower", "power_norm, as near"),
)  # fmt: skip
"""What `bench.yardsticks` has written from the papers, and their promises as published."""


def _values(rows: list[Row], section: str, contestant: str) -> list[Row]:
    mine = (section, "torch cpu", contestant)
    return [row for row in rows if (row["section"], row["library"], row["contestant"]) == mine and "skipped" not in row]


def _span(rows: list[Row]) -> str:
    values = [row["value_over_norm"] for row in rows if row.get("value_over_norm")]
    return f"{min(values):.4f} to {max(values):.4f}" if values else "-"


def layers(rows: list[Row]) -> str:
    """A line a published method."""
    lines = []
    for peer in PEERS:
        theirs, ours = (_values(rows, peer.section, name) for name in (peer.contestant, peer.here))
        times = [row["faster"] for row in ours if row.get("faster")]
        faster = f"{statistics.median(times):.3g}x" if times else "-"
        lines.append(
            [f"{peer.title} ({peer.source})", peer.promise, _span(theirs), f"`{peer.here}`", _span(ours), faster]
        )
    lines.append(["-", "-", "-", "`enclose`, upper", _span(_values(rows, "circular", "enclose 1e-3")), "-"])
    return table(["published", "promises", "value", "here", "value", "faster"], lines)


def page() -> str:
    """The page's text, with its tables put anew."""
    suite = read(FOLDER / "suite.jsonl")
    days = sorted({row["date"] for row in suite})
    told = f"Measured {' to '.join(sorted({days[0], days[-1]}))} on {suite[0]['machine']}."
    return filled(PAGE, {"layers": layers(suite), "measured": told})
