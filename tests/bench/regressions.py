"""What got slower than noise allows: two files of figures, row by row."""

from __future__ import annotations

from bench.facts import Row

KEY = ("section", "name", "family", "shape", "dtype", "n", "library", "contestant", "threads")
ROOM = 1.1  # beyond the quarters of both runs


def slower(new: list[Row], old: list[Row]) -> list[str]:
    """One line for each row whose paired ratio to the textbook method fell by more than noise, or that is gone.

    Ratios and not seconds: both sides of a ratio were timed in turn in one process, so machine and load drop out.
    """
    before = {key_of(row): row for row in old if "faster" in row}
    measured = {key_of(row) for row in new}
    found = []
    for row in new:
        past = before.get(key_of(row))
        if past is None or row["contestant"] == row["yardstick"]:
            continue
        if "skipped" in row:
            found.append(f"{words(row)}: was {past['faster']:.2f} times as fast, now skipped: {row['skipped']}")
        elif "faster" in row and row["faster_range"][1] * ROOM < past["faster_range"][0]:
            found.append(
                f"{words(row)}: {past['faster']:.2f} times as fast as {row['yardstick']} at {past['commit']}, "
                f"now {row['faster']:.2f}"
            )
    # A smaller run leaves whole problems out; a contestant that is missing from a problem was lost.
    here = {problem_of(row) for row in new}
    gone = [row for key, row in before.items() if key not in measured and problem_of(row) in here]
    return found + [f"{words(row)}: not measured any more" for row in gone]


def worse(one: list[Row], other: list[Row]) -> list[Row]:
    """Of two processors, or one that is held to fewer instructions: each row with the smaller ratio."""
    beside = {key_of(row): row for row in other}
    return [min(row, beside.get(key_of(row), row), key=lambda each: each.get("faster", 1.0)) for row in one]


def key_of(row: Row) -> str:
    return repr([row[name] for name in KEY])


def problem_of(row: Row) -> str:
    return repr([row[name] for name in KEY if name not in ("library", "contestant")])


def words(row: Row) -> str:
    size = f", n={row['n']}" if row["n"] else ""
    return f"{row['contestant']} ({row['library']}, {row['dtype']}) on {row['name']}, {row['family']}{size}"
