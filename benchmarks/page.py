"""The tables of docs/benchmarks/index.md: how they are put into the page, and that of the suite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.facts import FOLDER, Row, read

PAGE, COMMITTED = FOLDER / "index.md", FOLDER / "suite.jsonl"
PUBLISHED = {
    "hopm_einsum": "Grishina et al.",
    "rfft_svd": "Sedghi et al.",
    "propack": "PROPACK",
    "gram_conv": "Delattre et al.",
    "unfolding_power": "Singla, Feizi",
    "aol": "Prach, Lampert",
}
"""Published methods as the tables call them, by the name of their function in `yardsticks`."""
SHOWN = (
    ("tensor norm", "enclose 1e-3"), ("tensor norm", "tn_bound, proven"), ("tensor norm", "tn_bound, estimate"),
    ("circular", "conv_norm"), ("singular values", "singular_values"),
    ("singular values", "singular_values, k=10"), ("zero padding", "enclose 1e-3"),
    ("gram", "gram_bound, 3 steps"), ("power", "power_norm"), ("unfoldings", "f4_bound"),
    ("rescaling", "gram_rescaling"),
)  # fmt: skip
"""Problems, and the contestant of each that the page shows beside the published method."""
FAMILIES = ("real", "trained-like", "trained-like, level", "decaying", "flat")


# -- pages -------------------------------------------------------------------------------------------------------------
def put(parts: Mapping[str, str], page: Path) -> None:
    """Put each text between the two marks of its name in the page."""
    text = page.read_text(encoding="utf-8")
    for name, part in parts.items():
        begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        head, found, rest = text.partition(begin)
        _, mark, tail = rest.partition(end)
        if not (found and mark):
            raise ValueError(f"the page has no place for the table: it lacks {begin!r} or {end!r}")
        text = f"{head}{begin}\n{part}\n{end}{tail}"
    page.write_text(text, encoding="utf-8")


def measured(rows: list[Row]) -> str:
    """Where and when: the latest versions, all of the rest."""
    date, commit = (", ".join(sorted({row[key] for row in rows})) for key in ("date", "commit"))
    machine = " and ".join(sorted({row["machine"] for row in rows}))
    threads = " and ".join(sorted({str(row["threads"]) for row in rows}))
    versions = ", ".join(f"{name} {version}" for name, version in rows[-1]["versions"].items())
    return f"Measured {date} at commit {commit} on {machine}, threads: {threads}; {versions}."


def table(header: list[str], lines: list[list[str]]) -> str:
    first, *others = (f"| {' | '.join(line)} |" for line in (header, *lines))
    return "\n".join([first, "|---" * len(header) + "|", *others])


def span(seconds: float) -> str:
    if seconds >= 100:
        return f"{seconds:.0f} s"
    return f"{seconds:.2g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


# -- the suite ---------------------------------------------------------------------------------------------------------
def tables() -> dict[str, str]:
    """Return the table of the suite's lines."""
    rows = read(COMMITTED)
    return {"measured": measured(rows), "kernels": beside_published(rows)}


def beside_published(rows: list[Row]) -> str:
    """One table: how many times as fast as the published method each function is, by family of kernels."""
    lines = []
    for title, contestant in SHOWN:
        members = [row for row in rows if (row["section"], row["contestant"]) == (title, contestant)]
        by_family = [[row["faster"] for row in members if row["family"] == family] for family in FAMILIES]
        if members:
            values = ends([row["value_over_norm"] for row in members if "value_over_norm" in row], "{:.3f}".format)
            ratios = (ends(faster, two_digits) for faster in by_family)
            lines.append([f"`{contestant}`", PUBLISHED[members[0]["yardstick"]], *ratios, values])
    return table(["function", "published method", *FAMILIES, "result / norm"], lines)


def two_digits(x: float) -> str:
    return f"{float(format(x, '.2g')):g}"


def ends(figures: list[float], tell: Callable[[float], str]) -> str:
    """The least and the largest, or the only one."""
    texts = list(dict.fromkeys(tell(x) for x in sorted(figures)))
    return " to ".join(texts[:1] + texts[1:][-1:]) if texts else "-"
