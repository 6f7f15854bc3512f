"""docs/benchmarks/index.md and gpu.md: the tables are made from their lines alone."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.facts import FOLDER, Row, read
from bench.markdown import every, filled, measured, span, table

MIB, DASH = 2**20, "\N{EN DASH}"
PAGE = FOLDER / "index.md"
"""Words around the tables are written there."""
SECTIONS = (
    "tensor norm", "circular", "unfoldings", "uniform grid", "gram", "gram, zeros", "power", "PROPACK", "rescaling",
    "rescaling, backward", "tolerance", "network",
)  # fmt: skip


def write(source: Path) -> None:
    """The page of some lines, beside them."""
    rows = read(source)
    if source.stem == "gpu":
        source.with_name("gpu.md").write_text(gpu(rows, source.name), encoding="utf-8")
        return
    made = {name: section(rows, name) for name in SECTIONS} | {"libraries": libraries(rows), "left out": left_out(rows)}
    made |= {"aims": aims(rows), "price": price(), "measured": f"Measured {measured(rows, 'threads', 'clock')}."}
    source.with_name(PAGE.name).write_text(filled(PAGE, made), encoding="utf-8")


def pick(rows: list[Row], section: str, **fixed: Any) -> list[Row]:
    return [
        row for row in rows
        if row["section"] == section and not row.keys() & {"skipped", "error"}
        and all(row[key] == value for key, value in fixed.items())
    ]  # fmt: skip


# -- tables ----------------------------------------------------------------------------------------------------------
def section(rows: list[Row], title: str) -> str:
    """A row a method and family of kernels; each case is a line of the file."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in pick(rows, title):
        if row["yardstick"] == "matrix product":  # for `compare` alone
            row = {name: value for name, value in row.items() if name != "faster"}
            if row["contestant"] == row["yardstick"]:
                continue
        kind = row["name"] if row["family"] == "network" else row["family"]
        groups.setdefault((kind, row["library"], row["contestant"]), []).append(row)
    several = [len({key[at] for key in groups}) > 1 for at in range(2)]
    lines = []
    for key, found in groups.items():
        label = ", ".join([f"`{key[-1]}`", *(word for word, shown in zip(key, several, strict=False) if shown)])
        own = found[0]["contestant"] == found[0]["yardstick"]
        faster = sorted(row["faster"] for row in found if "faster" in row and not own)
        told = [f"{float(format(x, '.2g')):g}" for x in faster]
        around = f" ({told[0]}{DASH}{told[-1]})" if len(told) > 1 else ""
        ratio = f"{statistics.median(faster):.2g}x{around}" if told else "-"
        lines.append([
            label, str(len(found)), ends([row["seconds"] for row in found], span), ratio,
            ends([row["value_over_norm"] for row in found if "value_over_norm" in row], "{:.4f}".format),
            ends([row["peak_bytes"] / MIB for row in found if "peak_bytes" in row], "{:.0f}".format),
        ])  # fmt: skip
    header = ["method", "cases", "time", "times as fast", "value over norm", "MiB"]
    kept = [at for at in range(len(header)) if at < 3 or any(line[at] != "-" for line in lines)]
    return table(*([header[at] for at in kept], [[line[at] for at in kept] for line in lines])) if lines else ""


def ends(figures: list[float], tell: Callable[[float], str]) -> str:
    """The least and the largest, or the only one."""
    told = list(dict.fromkeys(tell(x) for x in sorted(figures)))
    if len(told) > 1 and told[0].endswith(" ms") and told[-1].endswith(" ms"):
        told[0] = told[0].removesuffix(" ms")
    return DASH.join(told[:1] + told[1:][-1:]) if told else "-"


def libraries(rows: list[Row]) -> str:
    found = [row for row in pick(rows, "libraries") if row["contestant"] != row["yardstick"]]
    if not found:
        return ""
    columns = list(dict.fromkeys((row["library"], row["dtype"]) for row in found))
    cells = {(row["contestant"], row["library"], row["dtype"]): f"{1e3 * row['seconds']:.1f}" for row in found}
    names = dict.fromkeys(row["contestant"] for row in found)
    lines = [[f"`{name}`", *(cells.get((name, *column), "-") for column in columns)] for name in names]
    first = [row["first_call_seconds"] for row in found if row["library"].startswith("jax")]
    said = (
        f"A first call of a shape in JAX, compilation included: {min(first):.1g} to {max(first):.2g} s.\n\n"
        if first
        else ""
    )
    return said + table(["ms", *(f"{lib}, {dtype}" for lib, dtype in columns)], lines)


def left_out(rows: list[Row]) -> str:
    """What has no figure, and why."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if why := row.get("skipped") or row.get("error"):
            words = (row.get(key) for key in ("section", "name", "family", "n", "library", "contestant"))
            why = re.sub("about \\d+ s", "more than three seconds", why).replace("|", "\\|")
            reasons.setdefault(why, []).append(", ".join(str(word) for word in words if word))
    lines = [[why, f"{len(what)}: {what[0]}" + ("; ..." if len(what) > 1 else "")] for why, what in reasons.items()]
    return table(["why", "what"], lines) if lines else ""


# -- the suite -------------------------------------------------------------------------------------------------------
LIKE, C64 = {"family": "trained-like"}, {"name": "64 channels", "family": "trained-like", "contestant": "conv_norm"}
WHOLE = {"contestant": "enclose 1e-3"}
AIMS: tuple[tuple[str, str, str, Row, str], ...] = (
    ("HOPM, trained-like", "≥ 5x, never slower", "tensor norm", {**LIKE, "contestant": "tn_bound, estimate"}, "faster"),
    ("HOPM, trained-like", "≥ 1x", "tensor norm", {**LIKE, "contestant": "tn_bound, proven"}, "faster"),
    ("`rfft2` + `svdvals`, 64 channels, n = 32", "≥ 10x", "circular", {**C64, "n": 32}, "faster"),
    ("memory, 64 channels, n = 1024", "≤ 3 kernels + 256 MiB", "circular", {**C64, "n": 1024}, "peak_bytes"),
    ("every layer of ResNet-20", "1 s on 2 cores", "network", {**WHOLE, "name": "ResNet-20, trained"}, "seconds"),
    ("ResNet-18's shapes", "20 s on 2 cores", "network", {**WHOLE, "name": "ResNet-18, trained-like"}, "seconds"),
    ("50 power steps, trained-like", "≥ 1x up to 128 channels, ≥ 0.5x above", "unfoldings",
     {**LIKE, "contestant": "f4_bound"}, "faster"),
    ("50 power steps, flat", "≥ 1x up to 128 channels, ≥ 0.5x above", "unfoldings",
     {"family": "flat", "contestant": "f4_bound"}, "faster"),
)  # fmt: skip


def aims(rows: list[Row]) -> str:
    """From the least to the largest figure of each, with the mean of ratios."""
    lines = []
    for what, aim, title, fixed, key in AIMS:
        found = sorted(row[key] for row in pick(rows, title, **fixed) if key in row)
        if found:
            ends = [found[0], found[-1]] if len(found) > 1 else found
            told = " to ".join(
                {"faster": "{:.2g}x", "seconds": "{:.2g} s"}.get(key, "{:.3g} bytes").format(x) for x in ends
            )
            mean = f", {statistics.geometric_mean(found):.2g}x in the mean of {len(found)}" if len(found) > 1 else ""
            lines.append([f"`{fixed['contestant']}`: {what}", aim, told + mean])
    return table(["what", "aim", "reached"], lines)


PRICES = ((64, "trained", 0.7), (256, "trained", 1.0), (512, "trained", 1.5), (256, "flat", 6.0), (512, "flat", 8.0))
"""Channels, kernels, and the aim of `enclose`."""


def price() -> str:
    """What a proof takes over the textbook estimate, with one thread and with two, from the lines of both."""
    files = [read(FOLDER / f"price-{threads}.jsonl") for threads in (1, 2)]
    lines = []
    for channels, family, aim in PRICES:
        mine = [[it for it in rows if (it["shape"][0], it["family"]) == (channels, family)] for rows in files]
        cells = [
            most([it["ratio"][name] for it in found])
            for found, name in ((mine[0], "enclose"), (mine[1], "enclose"), (mine[0], "tn_certified"))
        ]
        lines.append([f"{channels}, {family}", f"{aim:g}", *cells])
    return table(["channels, kernels", "aim, at most", "one thread", "two threads", "`tn_bound`, proven"], lines)


def most(ratios: list[float]) -> str:
    """Their median, and the largest of several."""
    told = f"{statistics.median(ratios):.2f}"
    return told if len(ratios) == 1 else f"{told} ({max(ratios):.2f})"


# -- a GPU -----------------------------------------------------------------------------------------------------------
def gpu(rows: list[Row], name: str) -> str:
    """Its page; a trial without a GPU makes none."""
    if faked := [row for row in rows if row["device"] == "cpu" or row["size"] != "full"]:
        raise ValueError(f"{name}: {len(faked)} lines are of a trial without a GPU: the page is of a GPU alone")
    told = every([row for row in rows if "gpu" in row], "gpu")
    text = (
        f"# On a GPU\n\n{told}. Measured {measured(rows)}. Wall time, the device waited for. JAX searches on the host, "
        f"so `enclose` of its arrays is none of the GPU's work. Lines: [{name}]({name}). `python -m bench gpu --out "
        "FILE` in `tests` measures again, within eight minutes; `python -m bench page FILE` makes this page.\n"
    )
    checks = [
        [row["section"], row["library"], str(row["passed"]), str(row["failed"]), str(row["skipped tests"])]
        for row in rows if "passed" in row
    ]  # fmt: skip
    header = ["", "library", "passed", "failed", "skipped"]
    parts = {name: section(rows, name) for name in (*SECTIONS, "training step")} | {"libraries": libraries(rows)}
    parts |= {"tests, as many as there was time for": table(header, checks) if checks else ""}
    parts |= {"not measured": left_out(rows)}
    return "\n".join([text, *(f"## {name.capitalize()}\n\n{part}" for name, part in parts.items() if part)])
