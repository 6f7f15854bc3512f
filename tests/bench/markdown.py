"""How figures are written: tables, numbers, pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.facts import Row


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    every = [header, *lines]
    told = [f"| {' | '.join(line)} |" for line in every]
    return "\n".join([told[0], "|" + "---|" * len(header), *told[1:]]) + "\n"


def span(seconds: float) -> str:
    if seconds >= 100:
        return f"{seconds:.0f} s"
    return f"{seconds:.2g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if value < 1e3 else f"{value:.2e}".replace("e+0", "e").replace("e+", "e")


def times(row: Row | None) -> str:
    """How many times as fast as the textbook method."""
    return f"{float(format(row['faster'], '.2g')):g}x" if row and "faster" in row else "-"


def every(rows: list[Row], key: str) -> str:
    return ", ".join(sorted({str(row[key]) for row in rows}))


def measured(rows: list[Row], *keys: str) -> str:
    """Where and when: the latest versions, all of the rest."""
    versions = ", ".join(f"{k} {v}" for k, v in {k: v for row in rows for k, v in row["versions"].items()}.items())
    more = "".join(f", {key}: {every(rows, key)}" for key in keys)
    return f"{every(rows, 'date')} at commit {every(rows, 'commit')} on {every(rows, 'machine')}{more}; {versions}"


@contextlib.contextmanager
def picture(path: Path, *args: Any, **options: Any) -> Iterator[Any]:
    """Axes of a plot, which is saved at the end: the same figures give the same file."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "specnorm"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(*args, **options)
    yield axes
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
