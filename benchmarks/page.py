"""docs/benchmarks/index.md, whose tables are made from its lines alone; and what got slower."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.facts import FOLDER, Row, read
from benchmarks.marks import put

DASH = "\N{EN DASH}"
PAGE, COMMITTED = FOLDER / "index.md", "suite"
KEY = ("section", "name", "family", "shape", "n", "library", "contestant", "threads")
PUBLISHED = {
    "hopm_einsum": "Grishina et al.",
    "rfft_svd": "Sedghi et al.",
    "rfft_svd_in_numpy": "Sedghi et al., NumPy",
    "propack": "PROPACK",
    "gram_conv": "Delattre et al.",
    "unfolding_power": "Singla, Feizi",
    "aol": "Prach, Lampert",
}
"""Published methods as the tables call them, by the name of their function in `yardsticks`."""
NAMES = {
    "torch": "torch's spectral_norm",
    "default": "SymbolNorm()",
}
"""Contestants of the lines that the page calls otherwise."""
SHOWN = (
    ("tensor norm", "enclose 1e-3"), ("tensor norm", "tn_bound, proven"), ("tensor norm", "tn_bound, estimate"),
    ("circular", "conv_norm"), ("singular values", "singular_values"),
    ("singular values", "singular_values, k=10"), ("zero padding", "enclose 1e-3"),
    ("gram", "gram_bound, 3 steps"), ("power", "power_norm"), ("unfoldings", "f4_bound"),
    ("rescaling", "gram_rescaling"),
)  # fmt: skip
"""Problems, and the contestant of each that the page shows beside the published method."""
FAMILIES = ("real", "trained-like", "trained-like, level", "decaying", "flat")
ROOM = 1.1
"""Beyond the quarters of both runs."""
PAST = "commit", "processor", "seconds", "faster", "faster_range"
"""Fields that a row keeps of the same measurement in an earlier file."""


def write(source: Path) -> None:
    """The page with the tables of the suite's lines, or tables of other lines beside them."""
    rows = read(source)
    parts = {"measured": measured(rows), "kernels": beside_published(rows)}
    if source.stem != COMMITTED:
        text = "\n\n".join([*parts.values(), whole(rows), by_library(rows)])
        source.with_suffix(".md").write_text(text, encoding="utf-8")
        return
    text = PAGE.read_text(encoding="utf-8")
    for name, part in parts.items():
        text = put(text, f"<!-- {name} -->\n", f"\n<!-- end of {name} -->", part.strip())
    source.with_name(PAGE.name).write_text(text, encoding="utf-8")


def measured(rows: list[Row]) -> str:
    """Where and when: the latest versions, all of the rest."""
    date, commit = (", ".join(sorted({row[key] for row in rows})) for key in ("date", "commit"))
    machine = ", ".join(dict.fromkeys(row["machine"].rpartition(", ")[0] for row in rows))
    versions = ", ".join(f"{name} {version}" for name, version in rows[-1]["versions"].items())
    threads = rows[-1]["threads"]
    return (
        f"Measured {date} at commit {commit} on {machine}, {' and '.join(sets(rows))}, threads: {threads}; {versions}."
    )


def instructions(row: Row) -> str:
    """The vector instructions that the libraries used."""
    name: str = row["machine"].rpartition(", ")[2]
    return name


def sets(rows: list[Row]) -> list[str]:
    """The instruction sets of these rows, in the order of the rows."""
    return list(dict.fromkeys(map(instructions, rows)))


def whole(rows: list[Row]) -> str:
    """One table: a row a problem, method and family of kernels; each case is a line of the file."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in shown(rows):
        kind = row["name"] if row["family"] == "network" else row["family"]
        if row["section"] != "libraries":
            groups.setdefault((row["section"], row["contestant"], kind, row["library"]), []).append(row)
    every = sets(rows)
    lines = []
    for (title, contestant, kind, _), members in groups.items():
        by_set = {name: [row for row in members if instructions(row) == name] for name in every}
        is_base = contestant == members[0]["yardstick"] or title == "network"
        decimals = "{:.2f}" if any(is_hard(row["family"], row["shape"][0]) for row in members) else "{:.4f}"
        lines.append([
            title, f"`{NAMES.get(contestant, contestant)}`", kind, str(max(map(len, by_set.values()))),
            " / ".join(ends([row["seconds"] for row in here], span) for here in by_set.values()),
            "-" if is_base else " / ".join(map(around, by_set.values())),
            ends([row["value_over_norm"] for row in members if "value_over_norm" in row], decimals.format),
        ])  # fmt: skip
    both = " / ".join(every)
    header = ["problem", "method", "kernels", "cases", f"time: {both}", f"times as fast: {both}", "result / norm"]
    return table(header, lines)


def beside_published(rows: list[Row]) -> str:
    """One table: how many times as fast as the published method each function is, by family of kernels."""
    lines = []
    for title, contestant in SHOWN:
        members = [row for row in shown(rows) if (row["section"], row["contestant"]) == (title, contestant)]
        by_family = [[row for row in members if row["family"] == family and "faster" in row] for family in FAMILIES]
        if any(by_family):
            values = ends([row["value_over_norm"] for row in members if "value_over_norm" in row], "{:.3f}".format)
            yardstick = members[0]["yardstick"]
            published = PUBLISHED.get(yardstick, f"`{yardstick}`")
            lines.append([f"`{contestant}`", published, *map(slowest_to_fastest, by_family), values])
    return table(["function", "published method", *FAMILIES, "result / norm"], lines)


def slowest_to_fastest(rows: list[Row]) -> str:
    """The lowest and the highest ratio to the yardstick."""
    faster = sorted(row["faster"] for row in rows)
    return ends(faster, two_digits).replace(DASH, " to ") if faster else "-"


def around(rows: list[Row]) -> str:
    """The median of the ratios to the yardstick, and the lowest and the highest where there are several."""
    faster = sorted(row["faster"] for row in rows if "faster" in row)
    if not faster:
        return "-"
    return two_digits(statistics.median(faster)) + (
        f" ({two_digits(faster[0])}{DASH}{two_digits(faster[-1])})" if len(faster) > 1 else ""
    )


def by_library(rows: list[Row]) -> str:
    """One table: the time of each method in each library, for the kernel of the section on libraries."""
    every = sets(rows)
    library_rows = [row for row in shown(rows) if row["section"] == "libraries"]
    libraries = list(dict.fromkeys(row["library"] for row in library_rows))
    times = {}
    for row in library_rows:
        if is_what_it_says(row):
            times[row["contestant"], row["library"], instructions(row)] = span(row["seconds"])
    methods = dict.fromkeys(row["contestant"] for row in library_rows)

    def cell(method: str, library: str) -> str:
        cells = [times.get((method, library, name), "-") for name in every]
        return " / ".join(cells) if set(cells) != {"-"} else "-"

    lines = [[f"`{method}`", *(cell(method, library) for library in libraries)] for method in methods]
    return table([f"method: {' / '.join(every)}", *libraries], lines)


def is_what_it_says(row: Row) -> bool:
    """False for JAX's `tn_bound`: the suite compiles JAX's functions, and the compiled bound is an estimate."""
    return not (row["contestant"] == "tn_bound, proven" and row["library"].startswith("jax"))


def is_hard(family: str, channels: int) -> bool:
    """Kernels whose norm is known to 1e-2 alone, since a closer enclosure takes long."""
    return family in ("flat", "decaying") and channels >= 128


def two_digits(x: float) -> str:
    return f"{float(format(x, '.2g')):g}"


def shown(rows: list[Row]) -> list[Row]:
    """Rows that the page has; the matrix product is for `compare` alone."""
    return [row for row in rows if not row.keys() & {"skipped", "error"} and row["contestant"] != "matrix product"]


def table(header: list[str], lines: list[list[str]]) -> str:
    first, *others = (f"| {' | '.join(line)} |" for line in (header, *lines))
    return "\n".join([first, "|---" * len(header) + "|", *others])


def span(seconds: float) -> str:
    if seconds >= 100:
        return f"{seconds:.0f} s"
    return f"{seconds:.2g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def ends(figures: list[float], tell: Callable[[float], str]) -> str:
    """The least and the largest, or the only one."""
    texts = list(dict.fromkeys(tell(x) for x in sorted(figures)))
    return DASH.join(texts[:1] + texts[1:][-1:]) if texts else "-"


# -- what got slower -------------------------------------------------------------------------------------------------
def with_past(new: list[Row], old: list[Row]) -> list[Row]:
    """Rows that tell, where the old ones have the same measurement, its ratio and commit, as ``before``."""
    before = {key_of(row): row for row in old if "faster" in row}
    rows = []
    for row in new:
        past = before.get(key_of(row))
        kept = {key: value for key, value in row.items() if key != "before"}
        rows.append(kept | {"before": {key: past.get(key) for key in PAST}} if past else kept)
    return rows


def loss(row: Row) -> str | None:
    """A line if the paired ratio to the textbook method fell, and the time rose, both by more than noise.

    Both sides of a ratio were timed in turn in one process, so that machine and load drop out. The yardstick's own time
    does not: `hopm_einsum` of 256 channels takes 77 to 190 ms, from run to run. Times are of the same processor alone.
    """
    past = row.get("before")
    if past is None or row["contestant"] in (row["yardstick"], "matrix product"):
        return None
    was = f"{words(row)}: {past['faster']:.2f} times as fast as {row['yardstick']} at {past['commit']}, now "
    if "skipped" in row:
        return was + f"skipped: {row['skipped']}"
    if "faster" not in row:
        return None
    is_ratio_smaller = row["faster_range"][1] * ROOM < past["faster_range"][0]
    if is_ratio_smaller and not _took_as_long_before(row, past):
        return was + f"{row['faster']:.2f}"
    return None


def _took_as_long_before(row: Row, past: Row) -> bool:
    """Whether the same processor took as long, within noise, or longer when the row was measured before."""
    is_comparable = past["processor"] == row["processor"] and past.get("seconds") is not None
    return bool(is_comparable and row["seconds"] < ROOM * past["seconds"])


def slower(new: list[Row], old: list[Row]) -> list[str]:
    """One line for each row of the old ones whose ratio fell by more than noise, or that is gone."""
    losses = [line for row in with_past(new, old) if (line := loss(row))]
    # A smaller run leaves whole problems out; a contestant that is missing from a problem was lost.
    contestants_now = {key_of(row, ("library", "contestant")) for row in new}
    measured_now = {key_of(row) for row in new}
    past = [row for row in old if "faster" in row and key_of(row) not in measured_now]
    gone = [row for row in past if key_of(row, ("library", "contestant")) in contestants_now]
    return losses + [f"{words(row)}: not measured any more" for row in gone]


def key_of(row: Row, less: Sequence[str] = ()) -> str:
    return repr([instructions(row), *(row[name] for name in KEY if name not in less)])


def words(row: Row) -> str:
    size = f", n={row['n']}" if row["n"] else ""
    return f"{row['contestant']} ({row['library']}, {instructions(row)}) on {row['name']}, {row['family']}{size}"
